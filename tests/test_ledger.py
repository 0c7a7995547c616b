"""The ledger's sections and what rests on what; the graph and the errata that are computed from them."""

import re

import pytest
import yaml
from bs4 import BeautifulSoup
from test_press import CORRECTED, ENTRY, judged, record

from press import BookError, graph, ledger, pages

PRINTED = ENTRY | {"printed": "p"}
WRONG = CORRECTED | {"kind": "wrong statement", "printed": "the words", "counterexample": "the smallest"}


def checked(*names, refuted=()):
    """A check and a control for every name, and a refutation for some."""
    outputs = [record(name, announced) for name in names for announced in ("holds", "fails")]
    return [*outputs, *(record(name, "fails", "printed") for name in refuted)]


@pytest.mark.parametrize(
    "where, section",
    [
        ("§4.1, Theorem 2", "§4"),
        ("abstract; also §1 and §2", "§1"),
        ("App. K.4, Eq. (49)", "App. K"),
        ("Appendix B, Eq. (3)", "App. B"),
        ("Appendices F.2 and K.2", "App. F"),
        ("Figure 4 and Appendix B", "App. B"),
        ("K.1, Eq. (22); also Eq. (13)", "App. K"),
        ("Lemma 2, App. K.4; §4.1", "App. K"),
    ],
)
def test_the_section_is_the_first_that_where_names(where, section):
    assert ledger.Claim("a", PRINTED | {"chapter": "c", "where": where}).section == section


@pytest.mark.parametrize("where", ["Theorem 2", "Eq. (3)", "Figure B.", "§9", "", None])
def test_a_printed_statement_has_a_section(where):
    with pytest.raises(BookError, match="a in book/claims/c.yml: where names no section"):
        ledger.Claim("a", PRINTED | {"chapter": "c", "where": where}).section  # noqa: B018


def test_what_is_not_printed_is_not_in_the_paper_wherever_it_stands_beside():
    assert ledger.Claim("a", ENTRY | {"chapter": "c", "where": "beside §3.1"}).section == "not in the paper"


def test_the_order_is_the_papers():
    places = ["§2, Theorem 1", "§4.1", "§4.2", "App. B", "App. K.1", "App. K.4"]
    found = [ledger.Claim("a", PRINTED | {"chapter": "c", "where": place}).order for place in places]
    assert found == sorted(found) and len(set(found)) == len(places)


# -------------------------------------------------------------------------- what rests on what
TREE = {
    "root": WRONG,
    "whole": {"title": "W"},
    "whole/left": ENTRY | {"uses": ["root"]},
    "whole/right": ENTRY,
    "top": ENTRY | {"uses": ["whole"]},
    "aside": ENTRY | {"uses": ["whole/right"]},
    "alone": ENTRY,
}
LEAVES = [name for name in TREE if name != "whole"]


@pytest.fixture
def tree(monkeypatch, tmp_path):
    return judged(monkeypatch, tmp_path, TREE, *checked(*LEAVES, refuted=["root"]))


def test_what_is_used_carries_and_a_failed_statement_marks_what_rests_on_it(tree):
    assert [c.id for c in tree["root"].carries] == ["whole/left"] and [c.id for c in tree["top"].uses] == ["whole"]
    assert {name for name, claim in tree.items() if claim.carried} == {"whole/left", "whole", "top"}
    data = {row["id"]: row for row in ledger.as_json(list(tree.values()))}
    assert data["whole"]["carries"] == ["top"] and data["top"]["uses"] == ["whole"] and data["root"]["section"] == "§3"


def test_a_misprint_marks_nothing(monkeypatch, tmp_path):
    entries = TREE | {"root": WRONG | {"kind": "misprint"}}
    found = judged(monkeypatch, tmp_path, entries, *checked(*LEAVES, refuted=["root"]))
    assert not any(claim.carried for claim in found.values())


@pytest.mark.parametrize(
    "uses, circle",
    [
        ({"root": ["top"]}, "top uses whole uses whole/left uses root"),
        ({"whole/right": ["whole/left"], "whole/left": ["whole/right"]}, "whole/left uses whole/right"),
        ({"whole/right": ["whole"]}, "whole uses whole/right"),
    ],
)
def test_a_circle_is_refused_and_named(monkeypatch, tmp_path, uses, circle):
    entries = TREE | {name: TREE[name] | {"uses": found} for name, found in uses.items()}
    with pytest.raises(BookError, match="in book/claims/two-steps.yml rests on itself: ") as refused:
        judged(monkeypatch, tmp_path, entries)
    turns = str(refused.value).rpartition(": ")[2].split(" uses ")
    wanted = circle.split(" uses ")
    assert turns[0] == turns[-1] and turns[0] in str(refused.value)[: len(turns[0])]
    assert set(turns) == set(wanted) and len(turns) == len(wanted) + 1


def test_the_page_links_both_ways_with_verdicts(tree):
    text = pages.ledger(list(tree.values()))
    (section,) = re.findall(r"^\(claim-top\)=\n.*?(?=^\(|\Z)", text, re.M | re.S)
    assert re.search(r"\*\*Rests on\*\*: \[`whole`\]\(#claim-whole\) 2 × <span[^>]*>exact", section)
    assert "Carries" not in section
    assert re.search(r"\*\*Carries\*\*: \[`whole/left`\]\(#claim-whole-left\) <span[^>]*>exact", text)


# ----------------------------------------------------------------------------------- the graph
def drawn(claims):
    return BeautifulSoup("\n".join(graph.draw(list(claims.values()), pages.CLASSES)), "html.parser")


def test_the_graph_has_a_node_for_every_statement_with_an_edge_and_letters_for_its_parts(tree):
    soup = drawn(tree)
    nodes = {node["data-claim"]: node for node in soup.select("a.node")}
    assert set(nodes) == {"root", "whole", "top", "aside"}
    assert {name: node.select_one(".letters").string for name, node in nodes.items()} == {
        "root": "F",
        "whole": "E",
        "top": "E",
        "aside": "E",
    }
    assert nodes["root"]["class"] == ["node", "node-false"] and nodes["root"]["href"] == "#claim-root"
    assert {name for name, node in nodes.items() if "carried" in node["class"]} == {"whole", "top"}
    assert all(bool(node.select(".ring")) == ("carried" in node["class"]) for node in nodes.values())
    found = {(edge["data-from"], edge["data-to"]) for edge in soup.select(".edge")}
    assert found == {("root", "whole"), ("whole", "top"), ("whole", "aside")}


def test_a_node_is_as_good_as_its_worst_part(monkeypatch, tmp_path):
    entries = TREE | {"whole/right": CORRECTED | {"reading": "conditions"}}
    outputs = checked(*LEAVES, refuted=["root", "whole/right"])
    node = drawn(judged(monkeypatch, tmp_path, entries, *outputs)).select_one('[data-claim="whole"]')
    assert "node-conditions" in node["class"] and node.select_one(".letters").string == "CE"


def test_arrows_lead_to_the_right_and_nodes_do_not_overlap():
    pairs = {(f"n{a}", f"n{b}") for a in range(12) for b in range(a + 1, 12) if (a * b) % 3 == 1 or b == a + 1}
    column = graph._columns(pairs)
    assert all(column[a] < column[b] for a, b in pairs)
    wide = {("root", f"leaf{k}") for k in range(9)} | {(f"leaf{k}", "end") for k in range(9)}
    column = graph._columns(wide)
    y = graph._heights(list(column), column, graph._chains(wide, column))
    heights = sorted(y[f"leaf{k}"] for k in range(9))
    assert all(b - a >= graph.HEIGHT + 6 for a, b in zip(heights, heights[1:], strict=False))


def test_groups_that_share_nothing_are_drawn_apart():
    chains = [["a", "b"], ["c", "d"], ["d", "e"], ["e", "a"], ["x", "y"]]
    assert [sorted({n for chain in group for n in chain}) for group in graph._groups(chains)] == [
        ["a", "b", "c", "d", "e"],
        ["x", "y"],
    ]


# ---------------------------------------------------------------------------------- the errata
def test_the_errata_are_sorted_by_consequence_and_place_and_link_the_evidence(monkeypatch, tmp_path):
    entries = {
        "late": WRONG | {"where": "App. K.4", "title": "Late"},
        "early": WRONG | {"where": "§2", "title": "Early"},
        "slip": CORRECTED | {"where": "App. B", "title": "Slip"},
        "lacks": CORRECTED | {"reading": "conditions", "kind": "missing hypothesis", "where": "§4.2", "title": "Lacks"},
        "sound": PRINTED | {"where": "§1", "title": "Sound"},
    }
    outputs = checked(*entries, refuted=["late", "early", "slip", "lacks"])
    text = pages.errata(list(judged(monkeypatch, tmp_path, entries, *outputs).values()))
    assert re.findall(r"^##+ (.*)$", text, re.M) == [
        "Misprints",
        "App. B: Slip",
        "Missing hypotheses",
        "§4.2: Lacks",
        "Statements that fail",
        "§2: Early",
        "App. K.4: Late",
    ]
    assert "| §2 | [Early](#erratum-claim-early) | wrong statement |" in text and "Sound" not in text
    entry = text[text.index("(erratum-claim-early)=") :]
    for words in (
        "**Printed**: “the words”",
        "**Smallest counterexample**: the smallest",
        "**Why**: ",
        "**Correction**: r",
    ):
        assert words in entry
    refuting, supporting = ledger.Record(**record("early", "fails", "printed")["data"][ledger.MIME]), record("early")
    assert f'href="c.html#{refuting.anchor}"' in entry
    assert f'href="c.html#{ledger.Record(**supporting["data"][ledger.MIME]).anchor}"' in entry
    assert "**With the added condition**" in text and "control" not in text


def test_a_statement_that_its_checks_do_not_refute_is_no_erratum(monkeypatch, tmp_path):
    assert "###" not in pages.errata(list(judged(monkeypatch, tmp_path, {"a": ENTRY}, *checked("a")).values()))


def test_the_registry_of_this_book_has_sections_and_no_circle():
    claims = ledger.registry()
    assert {claim.section for claim in claims.values()} <= set(ledger.SECTIONS)
    assert sum(len(claim.uses) for claim in claims.values()) == sum(len(claim.carries) for claim in claims.values())


def test_every_numbered_statement_of_the_papers_theory_has_an_entry():
    named = {re.sub(r"[-/].*", "", name) for name in ledger.registry()}
    wanted = {"thm1", "thm2", *(f"prop{k}" for k in range(1, 12)), "lemma1", "lemma2", "remark1", "remark2"}
    assert wanted | {"eq1", "eq2", "eq3", "eq51", "appJ", "toy"} <= named
    assert "prop12" not in named  # the control


def test_yaml_of_a_use_that_is_no_list_names_what_it_lacks(monkeypatch, tmp_path):
    (tmp_path / "two-steps.yml").write_text(yaml.safe_dump({"a": ENTRY | {"uses": "bc"}}), encoding="utf-8")
    monkeypatch.setattr(ledger, "REGISTRY", tmp_path)
    with pytest.raises(BookError, match="a in .* uses 'b', which is not"):
        ledger.registry()
