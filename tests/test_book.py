"""The chapters keep their shape, and the notebooks say what the chapters compute."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import textwrap

import nbformat
import pytest
import yaml
from conftest import ROOT, SmallBook

from press import notebooks, repository
from press.chapters import chapters
from press.ledger import registry

SECTIONS = ["Claim", "Setup", "Derivation", "Experiment", "Check", "Play", "When it breaks", "Takeaways", "Exercises"]
ALL = chapters(repository.committed_url())
PARTS = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
# A chapter has a number, makes claims and keeps the chapters' shape; the pages without a number are free in theirs.
NUMBERED = {entry["file"] for part in PARTS if part.get("numbered", True) for entry in part["chapters"]}
CHAPTERS = [c for c in ALL if c.path.with_suffix("").as_posix() in NUMBERED]
FREE = [c for c in ALL if c not in CHAPTERS]
names = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
texts = pytest.mark.parametrize("chapter", [c for c in ALL if c.name != "intro"], ids=lambda c: c.name)
pages = pytest.mark.parametrize("chapter", ALL, ids=lambda c: c.name)


def code(chapter):
    return [cell for cell in chapter.read().cells if cell.cell_type == "code"]


def test_claims_are_made_and_checked_in_chapters_only():
    assert {claim.entry["chapter"] for claim in registry().values()} == {c.name for c in CHAPTERS}
    assert {"intro", "researchers"} <= {c.name for c in FREE}
    for chapter in FREE:
        assert not any("require" in re.findall(r"\w+(?=\()", cell.source) for cell in code(chapter)), chapter.name


@names
def test_a_chapter_has_its_sections_in_order(chapter):
    text = re.sub(r"^(```|:::)\{code-cell\}.*?^\1$", "", chapter.source, flags=re.M | re.S)
    assert re.findall(r"^## (.+)$", text, re.M) == SECTIONS


@pages
def test_the_setup_cell_is_the_same_everywhere(chapter):
    assert code(chapter)[0].source == code(CHAPTERS[0])[0].source


@texts
def test_cells_are_short(chapter):
    lines = [len(cell.source.splitlines()) for cell in code(chapter)[1:]]
    assert max(lines) <= 25 and statistics.median(lines) <= 8
    for cell in code(chapter):
        assert all(len(line) <= 88 for line in cell.source.splitlines()), cell.source


@names
def test_a_chapter_checks_with_controls_plays_and_draws_nothing_in_a_check(chapter):
    cells = [cell.source for cell in code(chapter)]
    assert any("require(" in c for c in cells) and any("require_not(" in c for c in cells)
    sliders = [c for c in cells if "explore(" in c and ("linear(" in c or "choices(" in c)]
    assert len(sliders) >= 2
    assert not [c for c in cells if "explore(" in c and "require(" in c]


@names
def test_every_exercise_has_an_executed_asserted_solution(chapter):
    exercises = re.findall(r"^:::\{exercise\}.*?:label: (\S+)", chapter.source, re.M | re.S)
    assert len(exercises) >= 3
    for label in exercises:
        solution = re.search(
            rf"^:::\{{solution-start\}} {label}\n.*?^:::\{{solution-end\}}", chapter.source, re.M | re.S
        )
        assert solution, f"{label} has no solution"
        assert "{code-cell}" in solution[0] and "assert" in solution[0] or "require" in solution[0], label


def test_no_chapter_imports_another_or_everything():
    for chapter in ALL:
        for cell in code(chapter):
            assert "import *" not in cell.source and "from book" not in cell.source


def test_the_notebooks_are_in_step_with_the_chapters():
    notebooks.check([])


def test_the_cluster_on_the_page_for_researchers_gives_the_bits_it_promises():
    """That block is shown and not run: two processes come and go, and say so on the page."""
    chapter = next(c for c in ALL if c.name == "researchers")
    (block,) = re.findall(r"^```python\n(.*?)^```$", chapter.source, re.M | re.S)
    cells = [cell for cell in code(chapter)[1:] if "explore(" not in cell.source]
    wanted = ("import math", "class Skip", "d, r, width", "runs = train")
    lines = [cell.source for cell in cells if any(word in cell.source for word in wanted)]
    script = "\n".join([*lines, block])
    program = f"if __name__ == '__main__':\n{textwrap.indent(script, '    ')}    print('equal')\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("equal\n"), done.stderr[-3000:]


# ------------------------------------------------------------------------------------- canary
def nbval(path, **environment):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval",
        "--nbval-current-env",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(path.parent),
        str(path),
    ]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("BOOK_")} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=path.parent, env=clean | environment, timeout=300
    )


def test_one_changed_number_in_a_reference_output_turns_nbval_red(tmp_path):
    chapter = CHAPTERS[0]
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    canary = tmp_path / "book" / "canary.ipynb"
    canary.parent.mkdir()
    notebook = nbformat.read(ROOT / chapter.notebook, as_version=4)
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    line = next(o for o in outputs if re.search(r"\d\.\d", o.get("data", {}).get("text/plain", "")))
    true = line.data["text/plain"]
    digit = re.search(r"\d\.(\d)", true)
    false = true[: digit.start(1)] + str((int(digit[1]) + 1) % 10) + true[digit.end(1) :]
    line.data["text/plain"] = false
    nbformat.write(notebook, canary)
    done = nbval(canary)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "1 failed" in done.stdout and "Cell outputs differ" in done.stdout
    assert digit[0] in done.stdout  # the difference is shown
    print(done.stdout)


def test_the_readme_shows_what_the_landing_page_computes():
    intro = next(c for c in ALL if c.name == "intro")
    assert notebooks.PICTURE.read_bytes() == notebooks.picture(nbformat.read(ROOT / intro.notebook, as_version=4))
    assert notebooks.PICTURE.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_cleared_outputs_do_not_pass_for_checked_ones(tmp_path, monkeypatch):
    book = SmallBook(tmp_path / "small")
    assert book.press("notebooks").returncode == 0
    assert book.press("notebooks", "--check").returncode == 0
    path = book.root / "book" / "small.ipynb"
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["execution_count"], cell["outputs"] = None, []
    path.write_text(json.dumps(notebook))
    assert nbval(path).returncode == 0, "nbval skips such cells: this is why the next line matters"
    done = book.press("notebooks", "--check")
    assert done.returncode == 1 and "not run once from top to bottom" in done.stderr
    book.press("notebooks")
    book.replace("book/small.md", "two halves:", "two of the halves:")
    done = book.press("notebooks", "--check")
    assert done.returncode == 1 and "its cells differ" in done.stderr and "make notebooks" in done.stderr


# -------------------------------------------------------------------------------------- Colab
@pages
def test_a_notebook_alone_in_an_empty_folder_runs_as_on_colab(chapter, tmp_path):
    """No repository around it, nothing on the path: its first cell must fetch the book.

    What comes after the first use of `lib` runs there as it does here, under nbval; the landing page runs whole.
    """
    origin, here = tmp_path / "origin", tmp_path / "content"
    for name in ("lib", "book"):
        shutil.copytree(ROOT / name, origin / name, ignore=shutil.ignore_patterns("__pycache__"))
    here.mkdir()
    notebook = nbformat.read(ROOT / chapter.notebook, as_version=4)
    if chapter.name != "intro":
        imports = [k for k, cell in enumerate(notebook.cells) if "from lib" in cell.source and cell.cell_type == "code"]
        notebook.cells = notebook.cells[: imports[0] + 1]
    nbformat.write(notebook, here / chapter.notebook.name)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    redirect = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{origin}.insteadOf",
        "GIT_CONFIG_VALUE_0": repository.committed_url(),
        "PYTHONPATH": "",
    }
    done = nbval(here / chapter.notebook.name, **redirect)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (here / "learning-the-support" / "lib" / "explore.py").is_file()
