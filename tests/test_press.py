"""The press: what must stop a build does, on the first build and on the second."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import yaml
from conftest import HEADER

from press import BookError, chapters, ledger, notebooks, pages, repository
from press.plain import Plain


def refused(book, *words):
    """Two builds in a row must both fail, name the trouble in plain words, and leave no site."""
    for _ in range(2):
        done = book.press("build")
        assert done.returncode == 1, done.stdout + done.stderr
        for word in words:
            assert word in done.stderr
        assert "Traceback" not in done.stderr
        assert not (book.root / "_build" / "html").exists()


def test_a_sound_book_builds_and_a_second_build_runs_nothing(small_book):
    first = small_book.press("build")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "_build/html/index.html" in first.stdout and "running chapters" in first.stdout
    page = small_book.read("_build/html/book/small.html")
    assert "two halves: 1.0" in page and page.count('class="explore"') == 1
    (row,) = json.loads(small_book.read("_build/html/book/claims.json"))
    assert row["verdict"] == "exact" and {check["role"] for check in row["checks"]} == {"check", "control"}
    for check in row["checks"]:
        assert f'id="{check["anchor"]}"' in page
    second = small_book.press("build")
    assert second.returncode == 0 and "running chapters" not in second.stdout


def test_a_failing_cell_stops_the_build(small_book):
    small_book.replace("book/small.md", '"two halves:", 0.5 + 0.5', '"two halves:", 1 / 0')
    refused(small_book, "ZeroDivisionError", "book/small.md", "1 / 0")


def test_a_check_that_turns_out_otherwise_stops_the_build(small_book):
    small_book.replace("book/small.md", "0.5 * 2, 1.0", "0.5 * 2, 1.1")
    refused(small_book, "CheckFailed", "half of two", "1.00e-01")


def test_a_warning_in_a_cell_stops_the_build(small_book):
    small_book.replace("book/small.md", "import sys\n", "import sys, warnings\nwarnings.warn('beware of this')\n")
    refused(small_book, "beware of this")


def test_a_drawing_that_fails_at_an_end_of_its_range_stops_the_build(small_book):
    small_book.replace("book/small.md", "[0, eta]", "[0, eta + 0 * (1 // (1 - int(eta)))]")
    refused(small_book, "ZeroDivisionError")


def test_a_broken_reference_stops_the_build(small_book):
    small_book.replace("book/small.md", "{eq}`half`", "{eq}`third`")
    refused(small_book, "third", "book/small.md")


def test_a_check_of_an_unknown_claim_stops_the_build(small_book):
    small_book.replace("book/small.md", 'require("half"', 'require("third"')
    refused(small_book, "third", "book/claims/")


def test_a_change_of_the_library_runs_again_what_it_can_affect(small_book):
    assert small_book.press("build").returncode == 0
    small_book.write("lib/data.py", small_book.read("lib/data.py") + "\n# the chapter does not import this\n")
    assert "running chapters" not in small_book.press("build").stdout
    small_book.replace("lib/checks.py", 'evidence = f"gap <= {atol:.0e}"', 'evidence = f"GAP <= {atol:.0e}"')
    done = small_book.press("build")
    assert done.returncode == 0 and "running chapters" in done.stdout
    assert "GAP &lt;= 1e-12" in small_book.read("_build/html/book/small.html")


def test_an_interrupted_build_leaves_nothing_that_makes_the_next_one_lie(small_book):
    small_book.replace("book/small.md", 'print("two halves:"', 'import time; time.sleep(60)\nprint("two halves:"')
    process = subprocess.Popen(
        [sys.executable, "-m", "press", "build"],
        cwd=small_book.root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # a shell starts its background jobs deaf to Ctrl-C, and what they start is deaf too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log, deadline = small_book.root / "_build" / "kernels.log", time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in complaint, complaint
    assert not list((small_book.root / "_build" / "executed").glob("*.ipynb"))
    small_book.replace("book/small.md", "time.sleep(60)", "time.sleep(0)")
    done = small_book.press("build")
    assert done.returncode == 0, done.stderr
    assert "two halves: 1.0" in small_book.read("_build/html/book/small.html")


def test_a_folder_that_cannot_be_written_is_one_clear_line(small_book):
    small_book.write("_build", "a file where the folder must be")
    done = small_book.press("build")
    assert (
        done.returncode == 1
        and done.stderr.startswith("error: cannot write to _build/")
        and done.stderr.count("\n") == 1
    )


def test_a_missing_package_is_one_clear_line(small_book):
    small_book.write("yaml.py", "raise ModuleNotFoundError(\"No module named 'yaml'\", name='yaml')")
    done = small_book.press("build")
    assert (
        done.returncode == 1 and done.stderr.count("\n") == 1 and "'yaml'" in done.stderr and "make book" in done.stderr
    )


def test_a_fork_is_named_by_its_own_site(small_book):
    fork = "https://github.com/forker/their-book"
    done = small_book.press("build", BOOK_REPO_URL=f"{fork}.git", BOOK_REPO_BRANCH="trunk")
    assert done.returncode == 0, done.stderr
    page = small_book.read("_build/html/book/small.html")
    assert fork in page and "blob/trunk/book/small" in page and repository.committed_url() not in page


# ------------------------------------------------------------------------------------ chapters
def test_a_chapter_depends_on_what_its_code_imports_directly_or_not():
    made = chapters.Chapter(
        chapters.Path("book/x.md"), HEADER + "```{code-cell} ipython3\nfrom lib.optimizers import descend\n```\n"
    )
    names = {path.name for path in chapters.libraries(made)}
    assert names == {"__init__.py", "optimizers.py"}


def test_code_cells_without_the_jupytext_header_are_refused(small_book, monkeypatch):
    monkeypatch.setattr(chapters, "ROOT", small_book.root)
    small_book.write("book/bare.md", "# Bare\n\n```{code-cell} ipython3\n1 / 0\n```\n")
    with pytest.raises(BookError, match="bare.md has code cells"):
        chapters.chapter(chapters.Path("book/bare.md"), "")


# -------------------------------------------------------------------------------------- plain
@pytest.fixture
def plain(tmp_path):
    bibliography = tmp_path / "references.bib"
    bibliography.write_text(
        "@article{key, author={Ada A and Bob B}, title={T}, year={2024}, journal={J}, doi={10.1/x}}"
    )
    return Plain(
        ["```{math}\n:label: eq-a\nx\n```\n", ":::{prf:theorem} Name\n:label: thm-a\ntext\n:::\n"], bibliography
    )


@pytest.mark.parametrize(
    "myst, markdown",
    [
        ("```{math}\n:label: eq-a\nx = y\n```", "$$\nx = y \\tag{eq-a}\n$$"),
        (":::{prf:theorem} Name\n:label: thm-a\nTrue.\n:::", "> **Theorem (Name).**\n>\n> True."),
        (":::{admonition} Claim\nTrue.\n:::", "> **Claim.**\n>\n> True."),
        ("See {eq}`eq-a` and {prf:ref}`thm-a`.", "See (eq-a) and Theorem (Name)."),
        ("{cite:p}`key`", "([A and B, 2024](https://doi.org/10.1/x))"),
        (":::{solution-start} ex\n:class: dropdown\n:::\nBecause.", "**Solution.**\nBecause."),
        ("(label)=\n## Heading", "## Heading"),
        ("a [link](https://example.org/a.md)", "a [link](https://example.org/a.md)"),
    ],
)
def test_directives_have_a_plain_form(plain, myst, markdown):
    assert plain(myst) == markdown


@pytest.mark.parametrize("myst", ["{eq}`nowhere`", "{cite:p}`nobody`", "{unknown}`role`", ":::{mystery}\nbody\n:::"])
def test_what_has_no_plain_form_is_refused(plain, myst):
    with pytest.raises(BookError):
        plain(myst)


# ------------------------------------------------------------------------------------- ledger
ENTRY = {"title": "T", "restated": "r", "reading": "same"}
CORRECTED = ENTRY | {"reading": "corrected", "printed": "p", "where": "§3.1", "kind": "misprint", "why": "y"}
CORRECTED["counterexample"] = "c"


def record(claim="a", announced="holds", statement="restated", what=None, identity=True):
    fields = {
        "claim": claim,
        "statement": statement,
        "announced": announced,
        "verdict": announced,
        "what": what or f"{statement} {announced} {identity}",
        "evidence": "1 <= 2",
        "identity": identity,
    }
    return {"output_type": "display_data", "data": {ledger.MIME: fields}}


def judged(monkeypatch, tmp_path, entries, *outputs):
    (tmp_path / "two-steps.yml").write_text(yaml.safe_dump(entries), encoding="utf-8")
    monkeypatch.setattr(ledger, "REGISTRY", tmp_path)
    cell = {"cell_type": "code", "outputs": list(outputs)}
    return {c.id: c for c in ledger.ledger({"book/c": nbformat.from_dict({"cells": [cell]})})}


SUPPORT, CONTROL, REFUTED = record(), record(announced="fails"), record(announced="fails", statement="printed")


@pytest.mark.parametrize(
    "entry, outputs, verdict",
    [
        (ENTRY, [], "not checked"),
        (ENTRY, [SUPPORT, CONTROL], "exact"),
        (ENTRY, [record(identity=False), SUPPORT, CONTROL], "holds"),
        (CORRECTED, [SUPPORT, CONTROL, REFUTED], "false as stated"),
        (CORRECTED | {"reading": "conditions"}, [SUPPORT, CONTROL, REFUTED], "holds under added conditions"),
    ],
)
def test_the_verdict_follows_from_the_checks(monkeypatch, tmp_path, entry, outputs, verdict):
    claim = judged(monkeypatch, tmp_path, {"a": entry}, *outputs)["a"]
    assert claim.verdict == verdict
    assert verdict in pages.ledger([claim])


@pytest.mark.parametrize(
    "entry, outputs, complaint",
    [
        (ENTRY, [SUPPORT], "no negative control"),
        (ENTRY, [CONTROL], "no check supports"),
        (ENTRY, [SUPPORT, CONTROL, REFUTED], "no correction"),
        (CORRECTED, [SUPPORT, CONTROL], "no check refutes it"),
        (ENTRY, [SUPPORT, CONTROL, record("b")], "'b', which is not in"),
        (ENTRY, [SUPPORT, SUPPORT, CONTROL], "both called"),
        (ENTRY | {"reading": "perhaps"}, [], "a in .*: reading must be one of"),
        (ENTRY | {"restated": ""}, [], "a in .* lacks restated"),
        ({k: v for k, v in CORRECTED.items() if k != "why"}, [], "a in .* lacks why"),
        ({k: v for k, v in CORRECTED.items() if k != "counterexample"}, [], "a in .* lacks counterexample"),
        (CORRECTED | {"kind": "slip"}, [], "a in .*: kind must be one of"),
        (CORRECTED | {"where": "Theorem 1"}, [], "a in .*: where names no section of the paper, got 'Theorem 1'"),
        (ENTRY | {"uses": ["c"]}, [], "a in .* uses 'c', which is not in book/claims/"),
        (ENTRY | {"uses": ["a"]}, [], "a in .* rests on itself: a uses a"),
    ],
)
def test_a_registry_and_checks_that_do_not_fit_are_refused(monkeypatch, tmp_path, entry, outputs, complaint):
    with pytest.raises(BookError, match=complaint):
        judged(monkeypatch, tmp_path, {"a": entry}, *outputs)


def test_a_stored_time_is_coarse_and_changes_only_when_it_is_off_by_more_than_half():
    assert [notebooks._about(measured, None) for measured in (0.2, 5.0, 5.1, 31.0)] == [5, 5, 10, 35]
    assert [notebooks._about(measured, 30) for measured in (19.9, 20.1, 44.9, 45.1)] == [20, 30, 30, 50]


def test_every_file_of_claims_belongs_to_a_page_and_every_id_to_one_file(monkeypatch, tmp_path):
    judged(monkeypatch, tmp_path, {"a": ENTRY})
    (tmp_path / "every-order.yml").write_text(yaml.safe_dump({"b": ENTRY}), encoding="utf-8")
    assert {c.id: c.entry["chapter"] for c in ledger.registry().values()} == {"a": "two-steps", "b": "every-order"}
    (tmp_path / "every-order.yml").write_text(yaml.safe_dump({"a": ENTRY}), encoding="utf-8")
    with pytest.raises(BookError, match="every-order.yml: a in book/claims/two-steps.yml has that name too"):
        ledger.registry()
    (tmp_path / "every-order.yml").rename(tmp_path / "nowhere.yml")
    with pytest.raises(BookError, match="nowhere.yml belongs to no page"):
        ledger.registry()


def test_a_claim_in_parts_sums_them_up_and_takes_no_check_itself(monkeypatch, tmp_path):
    entries = {"a": {"title": "T"}, "a/one": ENTRY, "a/two": ENTRY}
    one = [record("a/one"), record("a/one", announced="fails")]
    claims = judged(monkeypatch, tmp_path, entries, *one)
    assert claims["a"].verdict in ("1 of 2 exact, 1 of 2 not checked", "1 of 2 not checked, 1 of 2 exact")
    with pytest.raises(BookError, match="has parts"):
        judged(monkeypatch, tmp_path, entries, *one, record("a"))
    with pytest.raises(BookError, match="a/one in .* is a part of a, which has no entry"):
        judged(monkeypatch, tmp_path, {"a/one": ENTRY})
