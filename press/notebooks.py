"""Writes `book/*.ipynb`: plain markdown, live sliders, and the outputs that nbval compares.

`book/*.md` is the source. The notebooks are committed so that Colab can open them, previews show
pictures, and a wrong number turns nbval red. `check` runs nothing; it fails when a notebook is
not its chapter's, or was not run from top to bottom: nbval skips a cell without a count.
"""

import base64
import math
from pathlib import Path

import nbformat

from lib.figures import figure_size
from press import ROOT, BookError
from press.chapters import Chapter, chapters, pages
from press.execute import run
from press.ledger import label, registry
from press.plain import Plain
from press.repository import committed_url

WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURE = ROOT / "press" / "assets" / "readme.png"
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}


def _plain() -> Plain:
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in pages()]
    plain = Plain(texts)
    plain.labels |= {label(name): name for name in registry()}
    return plain


def notebook(chapter: Chapter, plain: Plain) -> nbformat.NotebookNode:
    """The chapter as a notebook without outputs, with fixed cell ids."""
    found = chapter.read()
    for number, cell in enumerate(found.cells):
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source)
        cell.id = f"cell-{number:03d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    found.cells = [cell for cell in found.cells if cell.source]
    found.metadata = nbformat.from_dict(METADATA)
    found.nbformat, found.nbformat_minor = 4, 5
    return found


def seconds(path: Path) -> int | None:
    """What running the stored notebook took, with live sliders; None if there is none, or it does not say."""
    return nbformat.read(path, as_version=4).metadata.get("seconds") if path.is_file() else None


def _about(measured: float, before: int | None) -> int:
    """Seconds in coarse steps, and as before while that is right within a half: a rerun changes no file."""
    if before and before / 1.5 <= measured <= before * 1.5:
        return before
    return 5 * max(1, math.ceil(measured / 5))


def _strip(executed: nbformat.NotebookNode, before: int | None) -> None:
    """Drop what differs between two runs: ids of widgets whose kernel is gone; the last digits of the time."""
    cost = {"seconds": _about(executed.metadata["seconds"], before)}
    executed.metadata = nbformat.from_dict(METADATA | cost)
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)


def _problems(chapter: Chapter, plain: Plain) -> list[str]:
    path = ROOT / chapter.notebook
    if not path.is_file():
        return [f"{chapter.notebook} is missing"]
    have, want = nbformat.read(path, as_version=4), notebook(chapter, plain)

    def face(cell):
        return cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ()))

    if [face(c) for c in have.cells] != [face(c) for c in want.cells]:
        return [f"{chapter.notebook} is not {chapter.path}'s: its cells differ"]
    code = [cell for cell in have.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    problems = []
    if counts != list(range(1, len(code) + 1)):
        problems.append(f"{chapter.notebook} was not run once from top to bottom (counts {counts})")
    outputs = [output for cell in code for output in cell.outputs]
    if any(o.output_type == "error" or (o.output_type == "stream" and o.name == "stderr") for o in outputs):
        problems.append(f"{chapter.notebook} stores an error or a warning")
    return problems


def _chosen(paths: list[Path]) -> list[Chapter]:
    every = chapters(committed_url())
    if not paths:
        return every
    by_name = {c.name: c for c in every}
    if unknown := [p for p in paths if p.stem not in by_name]:
        raise BookError(f"no chapter of that name: {unknown[0]} (there are {', '.join(by_name)})")
    return [by_name[p.stem] for p in paths]


def picture(executed: nbformat.NotebookNode) -> bytes | None:
    """The PNG of the cell tagged `picture`: the README shows it."""
    for cell in executed.cells:
        if "picture" in cell.metadata.get("tags", ()):
            return next(base64.b64decode(o.data["image/png"]) for o in cell.outputs if "image/png" in o.get("data", {}))
    return None


def write(paths: list[Path]) -> None:
    """Run chapters with live sliders and store their outputs as the new reference.

    Raises:
        BookError: if a cell fails, or the environment asks for figures at the paper's size.
    """
    if figure_size() != "fast":
        raise BookError("BOOK_SIZE must be 'fast' or unset for notebooks, whose stored outputs are the book's size")
    plain = _plain()
    jobs = [(c, notebook(c, plain)) for c in _chosen(paths)]
    run(jobs, static=False)
    for chapter, executed in jobs:
        _strip(executed, seconds(ROOT / chapter.notebook))
        nbformat.validate(executed)
        part = ROOT / chapter.notebook.with_suffix(".part")
        part.write_text(nbformat.writes(executed) + "\n", encoding="utf-8")
        part.replace(ROOT / chapter.notebook)
        if png := picture(executed):
            PICTURE.write_bytes(png)
    check(paths)


def check(paths: list[Path]) -> None:
    """Fail when a notebook is stale, incomplete, or belongs to no chapter.

    Raises:
        BookError: one line per notebook that is wrong, and the way out.
    """
    plain, chosen = _plain(), _chosen(paths)
    problems = [problem for chapter in chosen for problem in _problems(chapter, plain)]
    known = {c.notebook.name for c in chapters(committed_url())}
    problems += [
        f"book/{p.name} belongs to no chapter" for p in sorted((ROOT / "book").glob("*.ipynb")) if p.name not in known
    ]
    if problems:
        raise BookError("\n".join([*problems, "`make notebooks` writes them anew"]))
    print(f"{len(chosen)} notebooks are in step with their chapters")
