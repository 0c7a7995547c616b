"""The gallery: each figure of the paper that a chapter runs, with its verdict, its cost and the way to its cell.

Cells tagged `figN` make Figure N. The first slider figure among them is its picture, at the sliders' starting
positions; its cost is the processor time of the others, as they ran in this build. What they cost at the
paper's size is in `book/figures.json`, which a build at that size writes.
"""

import html
import json
import math
import re
from dataclasses import dataclass

import nbformat

from lib.figures import figure_size
from press import ROOT, BookError
from press.ledger import Claim, label
from press.pages import badges

TIMES = ROOT / "book" / "figures.json"
TAG = re.compile(r"fig\d+")
FIGURE = re.compile(
    r'<figure class="explore" id="(?P<prefix>[^"]+)">.*?(?P<stage><div class="explore-stage".*?</div>)'
    r"<figcaption[^>]*>(?P<caption>.*?)</figcaption>",
    re.S,
)


@dataclass(frozen=True)
class Exhibit:
    """A figure of the paper: the tag of its cells, where its picture stands, and what its cells cost."""

    tag: str
    page: str
    anchor: str
    stage: str
    caption: str
    seconds: float  # of the cells that compute, not of drawing the sliders' positions
    has_sizes: bool = False  # whether BOOK_SIZE changes what they compute


def _picture(tag: str, page: str, cells: list) -> re.Match:
    for cell in cells:
        for output in cell.get("outputs", []):
            if found := FIGURE.search("".join(output.get("data", {}).get("text/html", ""))):
                return found
    raise BookError(f"{page}: no cell tagged {tag} shows a figure by explore(...)")


def exhibits(notebooks: dict[str, nbformat.NotebookNode]) -> list[Exhibit]:
    """The figures that executed notebooks show, by page name, in the paper's order.

    Raises:
        BookError: if tagged cells show no figure, or two pages show the same.
    """
    found = {}
    for page, notebook in notebooks.items():
        sizes = any("figure_size()" in cell.source for cell in notebook.cells)
        tagged = {tag: [] for cell in notebook.cells for tag in cell.metadata.get("tags", ()) if TAG.fullmatch(tag)}
        for number, cell in enumerate(notebook.cells):
            for tag in tagged.keys() & set(cell.metadata.get("tags", ())):
                tagged[tag].append((number, cell))
        for tag, cells in tagged.items():
            if tag in found:
                raise BookError(f"{page} and {found[tag].page} both have cells tagged {tag}")
            picture = _picture(tag, page, [cell for _, cell in cells])
            times = notebook.metadata["cell_seconds"]
            seconds = sum(times[str(number)] for number, cell in cells if "explore(" not in cell.source)
            stage = picture["stage"].replace(picture["prefix"], f"{tag}-")  # ids are unique on a page
            found[tag] = Exhibit(tag, page, picture["prefix"], stage, picture["caption"], seconds, sizes)
    return sorted(found.values(), key=lambda exhibit: int(exhibit.tag.removeprefix("fig")))


def about(seconds: float) -> str:
    """Processor time in words, in coarse steps.

    >>> about(0.2), about(3.2), about(47.0), about(75.0)
    ('under a second', '4 s', '50 s', '1.5 min')
    """
    if seconds < 1:
        return "under a second"
    if seconds <= 60:
        return f"{math.ceil(seconds) if seconds < 10 else 5 * math.ceil(seconds / 5)} s"
    return f"{math.ceil(seconds / 30) / 2:g} min"


def write_times(shown: list[Exhibit]) -> None:
    """Store what the figures that have two sizes cost in this build, which ran them at the paper's."""
    times = {exhibit.tag: about(exhibit.seconds) for exhibit in shown if exhibit.has_sizes}
    TIMES.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


def _card(exhibit: Exhibit, claims: dict[str, Claim], large: str) -> list[str]:
    claim = claims.get(exhibit.tag)
    if claim is None:
        raise BookError(f"{exhibit.page} shows {exhibit.tag}, which is no claim of book/claims/")
    parts = [f"{badges(part)} {html.escape(part.entry['title'])}" for part in claim.parts]
    verdict = "<br>".join(parts) if parts else badges(claim)
    here = f"{exhibit.page.rpartition('/')[2]}.html#{exhibit.anchor}"
    name = f"Figure {exhibit.tag.removeprefix('fig')}"
    cost = f"It took {about(exhibit.seconds)}" + (f"; {large} at the paper's size." if large else ".")
    return [
        f"(gallery-{exhibit.tag})=",
        f"## {name}: {claim.entry['title'].removeprefix(name).lstrip(':, ')}",
        "",
        f'<figure class="explore">{exhibit.stage}<figcaption>{exhibit.caption}</figcaption></figure>',
        "",
        f'<p>{verdict}</p><p>{cost} <a href="{here}">{name} in its chapter, with its code and sliders</a></p>',
        "",
        f"[`{claim.id}` in the ledger](#{label(claim.id)})",
        "",
    ]


def gallery(shown: list[Exhibit], claims: list[Claim]) -> str:
    """The figures as MyST text, with titles and verdicts from the ledger."""
    small = figure_size() == "fast" and TIMES.is_file()
    large = json.loads(TIMES.read_text(encoding="utf-8")) if small else {}
    by_id = {claim.id: claim for claim in claims}
    return "\n".join(line for e in shown for line in _card(e, by_id, large.get(e.tag, "")))
