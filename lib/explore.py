"""Figures with sliders: one cell, live in a kernel and precomputed on the static page.

``explore(draw, alt=..., panels=2, eta=linear(...), b=choices(...))`` shows

* in a live kernel (Jupyter, Binder, Colab): ipywidgets sliders at full resolution;
* on the static page (``BOOK_RENDER=static``, set by the book's build): every position of the
  grid, drawn while the book is built and swapped by a few lines of JavaScript;
* where neither runs (a preview, print, no JavaScript): the start position and its caption.

``draw(*axes, **values)`` paints on empty matplotlib axes, one per panel, and returns one
sentence of rounded numbers: caption, text for screen readers, and what nbval compares. It must
keep scales, limits and labels fixed over all positions, so that the eye can compare them.
Without sliders `explore` shows a static figure.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

# One colour per algorithm through the whole book; each has a contrast of 3:1 or more on both
# themes' backgrounds. INK stands for the text colour and becomes CSS's `currentColor`.
INK = "#010203"
COLOURS = {
    "gd": "#3b82d0",
    "sgd": "#d0601a",
    "subsets": "#2f9e62",
    "iid": "#c2459b",
    "theory": INK,
    "muted": "#808890",
}
STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "svg.hashsalt": "book",
    "svg.id": None,
    "axes.prop_cycle": cycler(color=[c for c in COLOURS.values() if c != INK]),
}
# 0 is clear; 65 shades look continuous and take fewer bytes on the page than 256
SIGNED = LinearSegmentedColormap.from_list("signed", [COLOURS["subsets"], "#80808000", COLOURS["iid"]], N=65)
PANEL = (4.6, 3.4)  # inches: two stand side by side on a desktop, one fills a phone's width
MAX_POSITIONS = 200  # of one slider figure on the static page: its size and build time


# ------------------------------------------------------------------------------------ sliders
@dataclass(frozen=True)
class Slider:
    """One slider: its label, the static page's grid, a live kernel's grid, start and format."""

    label: str
    static: tuple
    live: tuple
    start: object
    format: str

    def text(self, value) -> str:
        return value if isinstance(value, str) else self.format.format(value)


def _slider(label, static, live, start, text) -> Slider:
    if not isinstance(label, str) or not label:
        raise ValueError(f"label must be a non-empty string, got {label!r}")
    start = static[len(static) // 2] if start is None else start
    if start not in static:
        raise ValueError(f"start of the slider {label!r} must be one of its values {static}, got {start!r}")
    return Slider(label, static, live, start, text)


def linear(
    label: str,
    low: float,
    high: float,
    count: int,
    *,
    start: float | None = None,
    format: str = "{:.3g}",
    fine: int = 5,
) -> Slider:
    """A slider over `count` evenly spaced values; a live kernel has `fine` times as many.

    Args:
        label: what the reader sees, with the symbol and the unit.
        low, high: ends of the range, both reachable; `low < high`.
        count: positions on the static page, at least 2.
        start: first position, a value of the grid (default: the middle).
        format: how a value is shown.
        fine: live positions per static step, at least 1.

    Raises:
        ValueError: if the range is empty, or `start` is not on the grid.

    >>> linear("learning rate", 0.0, 1.0, 5).static
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low must be below high, both finite, got {low} and {high}")
    if count < 2:
        raise ValueError(f"count must be at least 2, got {count}")
    if fine < 1:
        raise ValueError(f"fine must be at least 1, got {fine}")

    def grid(steps: int) -> tuple:
        return tuple(round(low + (high - low) * k / steps, 12) for k in range(steps + 1))

    return _slider(label, grid(count - 1), grid((count - 1) * fine), start, format)


def choices(label: str, values, *, start=None, format: str = "{:.3g}") -> Slider:
    """A slider over the listed values (batch sizes, samplers), the same everywhere.

    Raises:
        ValueError: if fewer than two values are listed, one comes twice, or `start` is not one of them.

    >>> choices("batch size", (1, 2, 4), start=2).start
    2
    """
    values = tuple(values)
    if len(values) < 2:
        raise ValueError(f"values of the slider {label!r} must be at least two, got {values}")
    if len(set(values)) < len(values):
        raise ValueError(f"values of the slider {label!r} must differ, got {values}")
    return _slider(label, values, values, start, format)


# ------------------------------------------------------------------------------------ drawing
class Canvas:
    """The panels of one figure. Limits, labels and ticks are drawn once, the data on each move."""

    def __init__(self, draw: Callable, panels: int, prefix: str):
        self.draw, self.prefix = draw, prefix
        with matplotlib.rc_context(STYLE):
            self.figures = [Figure(figsize=PANEL) for _ in range(panels)]
        self.frames: list[str] = []
        self.signature: list[tuple] = []

    def paint(self, values: dict) -> str:
        """Run `draw` on cleared axes and return its sentence."""
        with matplotlib.rc_context(STYLE):
            axes = []
            for figure in self.figures:
                figure.clear()
                axes.append(figure.add_subplot())
            sentence = self.draw(*axes, **values)
        if not isinstance(sentence, str) or not sentence.strip():
            raise ValueError(f"draw must return one sentence (the caption), got {sentence!r} at {values}")
        if found := re.search(r"(?<![\w.])(?:nan|inf)(?!\.?\w)", sentence):
            raise ValueError(f"draw's sentence must hold finite numbers, got {found[0]!r} at {values}: {sentence}")
        return sentence

    def layers(self, values: dict) -> tuple[list[str], str]:
        """What moves, one SVG fragment per panel, and the sentence."""
        sentence = self.paint(values)
        with matplotlib.rc_context(STYLE):
            if not self.frames:
                self._draw_frames()
            self._keep_frames(values)
            moving = []
            for k, (figure, place) in enumerate(zip(self.figures, self.places, strict=True)):
                axes = figure.axes[0]
                axes.set_position(place)
                axes.set_axis_off()
                moving.append(_svg(figure, f"{self.prefix}d{k}-")[1])
        return moving, sentence

    def svg(self, layers: list[str]) -> str:
        """One `<svg>` per panel: its frame, and above it what moves."""
        return "".join(f"{frame}<g>{layer}</g></svg>" for frame, layer in zip(self.frames, layers, strict=True))

    def png(self, values: dict, dpi: int = 80) -> str:
        """The panels side by side as one PNG, base64: for previews and print."""
        import numpy as np
        from PIL import Image

        self.paint(values)
        with matplotlib.rc_context(STYLE):
            pictures = []
            for figure in self.figures:
                figure.set_layout_engine("constrained")
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
                pictures.append(np.asarray(Image.open(buffer).convert("RGB")))
                figure.set_layout_engine("none")
        out = io.BytesIO()
        Image.fromarray(np.concatenate(pictures, axis=1)).quantize(64).save(out, format="PNG", optimize=True)
        return base64.b64encode(out.getvalue()).decode()

    def _draw_frames(self) -> None:
        self.places, self.signature = [], [_signature(figure.axes[0]) for figure in self.figures]
        for k, figure in enumerate(self.figures):
            axes = figure.axes[0]
            figure.set_layout_engine("constrained")
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine("none")
            self.places.append(axes.get_position().bounds)
            still = {*axes.spines.values(), axes.xaxis, axes.yaxis}
            data = [artist for artist in axes.get_children() if artist not in still and artist.get_visible()]
            for artist in data:
                artist.set_visible(False)
            head, frame = _svg(figure, f"{self.prefix}a{k}-")
            self.frames.append(head + frame)
            for artist in data:
                artist.set_visible(True)

    def _keep_frames(self, values: dict) -> None:
        for figure, first in zip(self.figures, self.signature, strict=True):
            if len(figure.axes) > 1:
                raise ValueError(
                    f"draw must paint on the axes it is given, got {len(figure.axes) - 1} more at {values}"
                )
            for name, was, now in zip(SIGNATURE, first, _signature(figure.axes[0]), strict=True):
                if was != now:
                    raise ValueError(f"draw must keep {name} fixed over all positions, got {was} and {now} at {values}")


JOINS = "stroke-linejoin: round; stroke-linecap: butt"  # matplotlib's own style sheet, as an attribute
SIGNATURE = ("x limits", "y limits", "x scale", "y scale", "x label", "y label", "x ticks", "y ticks")


def _signature(axes) -> tuple:
    def ticks(axis):
        places = getattr(axis.get_major_locator(), "locs", None)
        if places is None:
            return None
        return [round(float(x), 12) for x in places], axis.get_major_formatter().format_ticks(places)

    return (
        axes.get_xlim(),
        axes.get_ylim(),
        axes.get_xscale(),
        axes.get_yscale(),
        axes.get_xlabel(),
        axes.get_ylabel(),
        ticks(axes.xaxis),
        ticks(axes.yaxis),
    )


def _short(number: re.Match) -> str:
    return f"{float(number[0]):.1f}".rstrip("0").rstrip(".")


def _few_colours(image: str) -> str:
    """The same PNG (base64) with a palette, if it has no more than 256 colours: a quarter of the bytes."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGBA"))
    colours, index = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
    if len(colours) > 256:
        return image
    small, out = Image.fromarray(index.reshape(pixels.shape[:2]).astype(np.uint8), "P"), io.BytesIO()
    small.putpalette(colours.tobytes(), "RGBA")
    small.save(out, format="PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def _svg(figure: Figure, prefix: str) -> tuple[str, str]:
    """Opening tag and content of a figure's SVG, made small: 0.1 pt is finer than a pixel."""
    buffer = io.StringIO()
    # not savefig, which draws everything twice
    FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # its style sheet would apply to the whole page and make the browser restyle all of it on each move
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|</svg>\s*$", "", text, flags=re.S)
    # scale(...) in a transform must keep its digits, so only these attributes are rounded
    text = re.sub(
        r' (?:d|x|y|width|height)="[^"]*"|translate\([^)]*\)',
        lambda part: re.sub(r"-?\d+\.\d{2,}", _short, part[0]),
        text,
    )
    text = re.sub(r"(?<=base64,)[^\"]*", lambda image: _few_colours(image[0]), text)
    text = re.sub(r"\s*\n\s*", " ", text).replace(INK, "currentColor")
    used = {a or b for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)}
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    text = text.replace("url(#", f"url(#{prefix}")
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}', text)
    text = re.sub(r' (?:xmlns:xlink|xmlns|version)="[^"]*"', "", text)
    head, body = re.match(r"(<svg [^>]*>)(.*)", text, re.S).groups()
    head = head.replace("<svg ", f'<svg aria-hidden="true" focusable="false" style="{JOINS}" ', 1)
    return head, body.strip()


# ------------------------------------------------------------------------------ static page
PANELS = "\n"  # between the panels of a position; no tag holds a line break


def _pack(positions: list[str]) -> dict:
    """Store each tag once; a position is a list of edits to the first one, or a row of its own."""
    table: dict[str, int] = {}
    rows = [[table.setdefault(tag, len(table)) for tag in re.split(r"(?=<)", text)] for text in positions]
    base = rows[0]

    def edits(row: list[int]) -> dict:
        if len(row) != len(base):
            return {"row": row}
        changed = [(place, new) for place, (old, new) in enumerate(zip(base, row, strict=True)) if old != new]
        return {"edits": list(itertools.chain.from_iterable(changed))}

    return {"tags": list(table), "base": base, "positions": [edits(row) for row in rows]}


def _control(key: str, name: str, slider: Slider) -> str:
    label, value = html.escape(slider.label), html.escape(slider.text(slider.start))
    return (
        f'<div class="explore-row"><label for="{key}-{name}">{label}</label>'
        f'<input type="range" id="{key}-{name}" min="0" max="{len(slider.static) - 1}" step="1" '
        f'value="{slider.static.index(slider.start)}" aria-valuetext="{value}" autocomplete="off">'
        f'<output for="{key}-{name}">{value}</output>'
        f'<button type="button" class="explore-play" aria-label="Play {label}" aria-pressed="false">'
        '<span aria-hidden="true">&#9654;</span></button></div>'
    )


def _positions(sliders: dict[str, Slider]) -> Iterator[dict]:
    for values in itertools.product(*(slider.static for slider in sliders.values())):
        yield dict(zip(sliders, values, strict=True))


def _static(canvas: Canvas, alt: str, sliders: dict[str, Slider]) -> tuple[dict, str]:
    positions = list(_positions(sliders))
    if len(positions) > MAX_POSITIONS:
        raise ValueError(
            f"a slider figure must have at most {MAX_POSITIONS} positions on the page, got {len(positions)}"
        )
    layers, sentences = zip(*(canvas.layers(values) for values in positions), strict=True)
    at = positions.index({name: slider.start for name, slider in sliders.items()})
    controls, data = "", ""
    if sliders:
        rows = "".join(_control(canvas.prefix, name, slider) for name, slider in sliders.items())
        controls = f'<div class="explore-controls" role="group" aria-label="Sliders of this figure">{rows}</div>'
        packed = _pack([PANELS.join(panels) for panels in layers]) | {
            "captions": sentences,
            "values": [[s.text(v) for v in s.static] for s in sliders.values()],
        }
        blob = json.dumps(packed, separators=(",", ":"), ensure_ascii=False)
        data = (
            '<script type="application/json">' + blob.replace("</", "<\\/").replace("<!--", "\\u003c!--") + "</script>"
        )
    live = ' aria-live="polite"' if sliders else ""
    page = (
        f'<figure class="explore" id="{canvas.prefix}">{controls}'
        f'<div class="explore-stage" role="img" aria-label="{html.escape(alt)}">{canvas.svg(layers[at])}</div>'
        f"<figcaption{live}>{html.escape(sentences[at])}</figcaption>{data}</figure>"
    )
    return {"text/html": page}, sentences[at]


# ------------------------------------------------------------------------------- live kernel
def _live(canvas: Canvas, alt: str, sliders: dict[str, Slider]) -> tuple[dict, str, object]:
    import ipywidgets

    widgets = {
        name: ipywidgets.SelectionSlider(
            options=[(slider.text(v), v) for v in slider.live],
            value=slider.start,
            description=slider.label,
            style={"description_width": "14em"},
            layout={"width": "36em", "max_width": "100%"},
        )
        for name, slider in sliders.items()
    }
    picture, caption = ipywidgets.HTML(), ipywidgets.HTML()

    def refresh(_=None):
        layers, sentence = canvas.layers({name: widget.value for name, widget in widgets.items()})
        picture.value = (
            f'<div role="img" aria-label="{html.escape(alt)}" style="display:flex;flex-wrap:wrap">'
            f"{canvas.svg(layers)}</div>"
        )
        caption.value = f'<div aria-live="polite">{html.escape(sentence)}</div>'
        return sentence

    sentence = refresh()
    for widget in widgets.values():
        widget.observe(refresh, "value")
    box = ipywidgets.VBox([*widgets.values(), picture, caption])
    # by hand, since ipywidgets 7 (Colab) has no _repr_mimebundle_
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}, sentence, box


def heat_maps(ax: Axes, matrices: Sequence, titles: Sequence[str], *, columns: int, limit: float) -> None:
    """Matrices side by side on one pair of axes: negative entries green, positive ones purple, zero clear.

    Args:
        ax: empty axes, which lose ticks and grid.
        matrices: arrays or tensors of one shape (rows, columns), filled in row by row.
        titles: a title above each.
        columns: matrices to a row.
        limit: size of an entry at which its colour is strongest.

    Raises:
        ValueError: if the matrices are not of one shape, have not one title each, or `columns` or
            `limit` is not positive.
    """
    shapes = {tuple(matrix.shape) for matrix in matrices}
    if len(shapes) != 1 or len(size := shapes.pop()) != 2:
        raise ValueError(f"matrices must have one shape (rows, columns), got {[tuple(m.shape) for m in matrices]}")
    if len(titles) != len(matrices):
        raise ValueError(f"titles must have one for each of the {len(matrices)} matrices, got {len(titles)}")
    if columns < 1 or not limit > 0:
        raise ValueError(f"columns and limit must be positive, got {columns} and {limit}")
    height, width = size
    down, right = (k + max(3, k / 5) for k in size)  # from one matrix to the next, with room for a title
    for place, (matrix, title) in enumerate(zip(matrices, titles, strict=True)):
        left, low = place % columns * right, -(place // columns + 1) * down
        box = left, left + width, low, low + height
        ax.imshow(matrix, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="none", extent=box)
        ax.text(left + width / 2, low + height + 0.4, title, ha="center", va="bottom", fontsize=8)
        corners = [(0, 2), (1, 2), (1, 3), (0, 3), (0, 2)]
        ax.plot([box[x] for x, _ in corners], [box[y] for _, y in corners], lw=0.5, color=COLOURS["theory"])
    rows = math.ceil(len(matrices) / columns)
    ax.set(xlim=(-1, (columns - 1) * right + width + 1), ylim=(-rows * down - 1, 1), aspect="auto")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def explore(draw: Callable[..., str], *, alt: str, panels: int = 1, **sliders: Slider) -> None:
    """Show `draw` with one slider per keyword, or as a static figure without any.

    Args:
        draw: ``draw(*axes, **values)``, see the module's docstring.
        alt: at least 20 characters saying what the figure shows, for those who cannot see it.
        panels: number of axes that `draw` takes, 1 to 4.
        **sliders: what `linear` and `choices` return, by `draw`'s argument names.

    Raises:
        ValueError: if an argument is malformed, or `draw` returns no sentence, a sentence with
            NaN, or changes its limits, labels or scales between positions.
    """
    from IPython.display import display

    if not isinstance(alt, str) or len(alt) < 20:
        raise ValueError(f"alt must say what the figure shows in 20 characters or more, got {alt!r}")
    if isinstance(panels, bool) or panels not in (1, 2, 3, 4):
        raise ValueError(f"panels must be 1, 2, 3 or 4, got {panels!r}")
    for name, slider in sliders.items():
        if not isinstance(slider, Slider):
            raise ValueError(f"{name} must be made by linear(...) or choices(...), got {slider!r}")
    title = getattr(draw, "__name__", "draw")
    key = "x" + hashlib.sha1(f"{title}{alt}{sorted(sliders)}".encode()).hexdigest()[:8]
    canvas = Canvas(draw, panels, key)
    start = {name: slider.start for name, slider in sliders.items()}
    if os.environ.get("BOOK_RENDER") == "static":
        bundle, sentence = _static(canvas, alt, sliders)
    elif sliders:
        bundle, sentence, explore.last = _live(canvas, alt, sliders)
    else:
        bundle, sentence = {}, canvas.paint(start)
    if "google.colab" not in sys.modules or not sliders:  # Colab would show the picture twice
        bundle["image/png"] = canvas.png(start)
    grid = ", ".join(
        f"{name} = {s.text(s.static[0])} .. {s.text(s.static[-1])} ({len(s.static)}), start {s.text(s.start)}"
        for name, s in sliders.items()
    )
    bundle["text/plain"] = f"[{title}{': ' if grid else ''}{grid}]\n{sentence}"
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})
