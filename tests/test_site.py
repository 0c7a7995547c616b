"""The built pages as files: links, anchors, alternative texts, leftovers, nothing fetched from elsewhere."""

import ast
import json
import re
from urllib.parse import unquote, urldefrag

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, SITE, site_pages

LEFTOVER = re.compile(
    r"\{(?:prf:ref|cite:?[pt]?|numref|ref|eq|doc)\}`|@REPO_URL@|<!-- (?:ledger|errata) -->|^:::", re.M
)
SHARED = (
    "exercise-content",
    "solution-content",
    "proof-content",
)  # sphinx-proof and sphinx-exercise; no link uses them
NOT_A_NUMBER = re.compile(r"(?<![\w.])-?(?:inf|nan)(?![\w.])")
LETTERS = "EHCF?"
LOADED = (("img", "src"), ("script", "src"), ("link", "href"), ("source", "src"), ("iframe", "src"))


@pytest.fixture(scope="module")
def soups():
    return {page: BeautifulSoup(text, "html.parser") for page, text in site_pages()}


def problems(soups, find):
    found = [f"{page.relative_to(SITE)}: {problem}" for page, soup in soups.items() for problem in find(page, soup)]
    assert not found, "\n".join(found)


def outside(url):
    return re.match(r"[a-z][a-z0-9+.-]*:|//", url, re.I)


def test_every_internal_link_and_anchor_has_a_target(soups):
    ids = {page: {tag["id"] for tag in soup.find_all(id=True)} for page, soup in soups.items()}

    def dead(page, soup):
        for name, attribute in (("a", "href"), *LOADED):
            for tag in soup.find_all(name, attrs={attribute: True}):
                path, anchor = urldefrag(tag[attribute])
                if outside(tag[attribute]):
                    continue
                target = (page.parent / unquote(path.split("?")[0])).resolve() if path else page
                if not target.exists():
                    yield f"dead link {tag[attribute]}"
                elif anchor and target in ids and unquote(anchor) not in ids[target]:
                    yield f"no such anchor {tag[attribute]}"

    problems(soups, dead)


def test_ids_are_unique_on_a_page(soups):
    def twice(page, soup):
        ids = [tag["id"] for tag in soup.select("article [id]") if tag["id"] not in SHARED]
        yield from (f"the id {name} stands {ids.count(name)} times" for name in set(ids) if ids.count(name) > 1)

    problems(soups, twice)


def test_nothing_is_loaded_from_elsewhere(soups):
    problems(
        soups,
        lambda page, soup: [
            f"<{name}> loads {tag[attribute]}"
            for name, attribute in LOADED
            for tag in soup.find_all(name, attrs={attribute: True})
            if outside(tag[attribute])
            and not tag[attribute].startswith("data:")
            and "canonical" not in tag.get("rel", [])
        ],
    )


def test_pictures_have_words(soups):
    def mute(page, soup):
        for tag in soup.find_all("img"):
            words = (tag.get("alt") or "").strip()  # Sphinx fills a missing one with the file's name
            if tag.get("alt") == "" and tag.parent.get_text(strip=True):
                continue  # a picture beside its own words
            if tag.get("aria-hidden") != "true" and (not words or re.search(r"\.(png|jpe?g|svg|webp)$", words)):
                yield f"picture without words: {tag.get('src', '')[:60]} (alt={words!r})"
        for tag in soup.select("article a[href]"):
            if tag.select_one(".math") and tag.get_text(strip=True) == tag.select_one(".math").get_text(strip=True):
                yield f"link whose only words are a formula: {tag['href']}"
        for tag in soup.select(".explore-stage"):
            if len(tag.get("aria-label", "")) < 20:
                yield "figure without a description"

    problems(soups, mute)


def test_pages_have_one_title_a_language_and_a_description(soups):
    def bare(page, soup):
        titles = [tag for tag in soup.find_all("h1") if not tag.find_parent(id="jb-print-docs-body")]
        if len(titles) != 1:
            yield f"{len(titles)} titles"
        if any(title.select_one(".math") for title in titles):
            yield "a formula in the title: it would stand in every page's menu, and in none of the browser's tabs"
        if not soup.html.get("lang"):
            yield "no language"
        if page.stem not in ("search", "genindex", "prf-prf") and not soup.find("meta", attrs={"name": "description"}):
            yield "no description"

    problems(soups, bare)


def test_no_source_text_error_or_broken_number_is_left_on_a_page(soups):
    def left(page, soup):
        for tag in soup.select("article p, article li, article h1, article h2, article h3, article figcaption"):
            if match := LEFTOVER.search(tag.get_text("\n")):
                yield f"unrendered {match[0]!r}"
        for tag in soup.select("article .cell_output, article figcaption, .check-evidence"):
            for script in tag.find_all("script"):
                script.extract()
            if match := NOT_A_NUMBER.search(tag.get_text("\n")):
                yield f"an output says {match[0]!r}"
            if "Traceback (most recent call last)" in tag.get_text():
                yield "a traceback"

    problems(soups, left)


def test_every_chapter_says_what_it_costs_to_run_as_its_notebook_does(soups):
    found = 0
    for page, soup in soups.items():
        place = ROOT / "book" / f"{page.stem}.ipynb"
        if place.is_file() and page.stem != "intro":
            time = json.loads(place.read_text())["metadata"]["seconds"]
            assert 0 < time <= 60
            (cost,) = soup.select(".cost")
            assert f"runs in about {time} s" in cost.get_text()
            assert cost.find_previous_sibling("h1"), "it stands under the title"
            if soup.select("p.check"):
                assert f"{len(soup.select('p.check'))} checks" in cost.get_text()
                assert f"{len(soup.select('figure.explore:has(input)'))} figures with sliders" in cost.get_text()
            found += 1
    assert found > 2


def test_the_api_page_has_every_public_name_with_its_words_and_formulas(soups):
    soup = soups[SITE / "book" / "api.html"]
    modules = "models optimizers engine data support sharpness theory checks downloads resnet"
    for module in modules.split():
        source = (ROOT / "lib" / f"{module}.py").read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and node.name != "check_choice":
                heading = soup.find(id=f"lib.{module}.{node.name}")
                words = heading.find_next_sibling("dd").get_text(" ", strip=True) if heading else ""
                assert len(words) > 20, f"lib.{module}.{node.name}"
    text = soup.article.get_text("\n")
    assert not re.search(r"\$|:math:|:cite:|``|\\\*", re.sub(r"\\\(.*?\\\)", "", text, flags=re.S))
    assert len(soup.select("article span.math")) > 100
    assert any("2024" in link.get_text() for link in soup.select('article a[href^="references.html#"]'))


def test_the_graph_has_the_colours_letters_and_edges_of_the_ledger(soups):
    rows = {row["id"]: row for row in json.loads((SITE / "book" / "claims.json").read_text(encoding="utf-8"))}
    kinds = dict(zip(LETTERS, ("exact", "holds", "conditions", "false", "unchecked"), strict=True))
    verdicts = ("exact", "holds", "holds under added conditions", "false as stated", "not checked")
    rank = dict(zip(verdicts, LETTERS, strict=True))
    graph = soups[SITE / "book" / "ledger.html"].select_one(".graph svg")
    nodes = graph.select("a.node")
    for node in nodes:
        row = rows[node["data-claim"]]
        parts = [rows[part] for part in row["parts"]] or [row]
        letters = sorted({rank[part["verdict"]] for part in parts}, key=LETTERS.index, reverse=True)
        assert node.select_one(".letters").get_text() == "".join(letters), row["id"]
        assert [c for c in node["class"] if c.startswith("node-")] == [f"node-{kinds[letters[0]]}"], row["id"]
    pairs = {(use.split("/")[0], row["id"].split("/")[0]) for row in rows.values() for use in row["uses"]}
    pairs = {(a, b) for a, b in pairs if a != b}
    assert {(edge["data-from"], edge["data-to"]) for edge in graph.select(".edge")} == pairs
    assert {node["data-claim"] for node in nodes} == {name for pair in pairs for name in pair} and len(pairs) > 20


def test_the_errata_have_every_correction_with_its_evidence(soups):
    rows = json.loads((SITE / "book" / "claims.json").read_text(encoding="utf-8"))
    wrong = [r for r in rows if not r["parts"] and r["verdict"] in ("false as stated", "holds under added conditions")]
    soup = soups[SITE / "book" / "errata.html"]
    for row in wrong:
        entry = soup.find(id="erratum-claim-" + row["id"].replace("/", "-").lower()).find_parent("section")
        links = {link["href"].rpartition("#")[2] for link in entry.select("ul.evidence a")}
        assert links == {k["anchor"] for k in row["checks"] if k["role"] == "check" or k["verdict"] == "fails"} - {
            k["anchor"] for k in row["checks"] if k["role"] == "control"
        }, row["id"]
        assert "Smallest counterexample" in entry.get_text()
    assert len(soup.select("table tbody tr")) == len(soup.select("ul.evidence")) == len(wrong) > 20


def test_no_path_of_a_machine_is_on_a_page():
    home = str(SITE.parent.parent)
    found = [page.name for page, text in site_pages() if home in text]
    assert not found
