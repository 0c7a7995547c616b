"""Figures: every position on the page, nothing lost in packing, and no position that deceives the eye."""

import base64
import importlib
import io
import itertools
import json
import math
import re
import sys
import types
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot
from PIL import Image

from lib.explore import COLOURS, INK, MAX_POSITIONS, Canvas, choices, explore, heat_maps, linear

ALT = "two curves that the sliders change"
SLIDERS = {"eta": linear("learning rate η", 0.0, 0.5, 3), "b": choices("batch size B", (1, 2), start=2)}
GRID = [{"eta": eta, "b": b} for eta in (0.0, 0.25, 0.5) for b in (1, 2)]


def sentence(eta, b):
    return f"At η = {eta:.2f} there are {b} curves."


def draw(left, right, eta, b):
    """The number of right-hand curves depends on b, so a frame can be no list of edits."""
    left.plot([0, 1], [0, eta], color=COLOURS["gd"], label="measured")
    left.legend()
    for height in sorted((0.5, 0.9), reverse=eta > 0.3):  # the same two, in the other order
        left.plot([0, 1], [height, height], color=COLOURS["muted"])
    for k in range(b):
        right.plot([1, 10], [1 + eta, 2 + k], color=COLOURS["theory"])
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="step", ylabel="loss", title=f"B = {b}")
    right.set(xlim=(1, 10), ylim=(0, 5), xscale="log", xlabel="flow time", ylabel="norm")
    return sentence(eta, b)


def panel(ax, eta):
    ax.plot([0.1, 1], [0.1, eta])
    ax.set(xlim=(0.1, 1), ylim=(0.1, 1), xlabel="x", ylabel="y", xticks=[0.2, 0.4], yticks=[0.2, 0.4])
    return f"The curve ends at {eta:.1f}, as it should."


ETA = {"eta": linear("η", 0.0, 1.0, 3, start=0.0)}


def recorded(monkeypatch):
    """The bundles that `explore` displays, in a live kernel."""
    bundles = []

    def display(bundle, *, raw, metadata):
        assert raw
        bundles.append(bundle)
        assert metadata["image/png"]["alt"]

    monkeypatch.delenv("BOOK_RENDER", raising=False)
    monkeypatch.setattr(importlib.import_module("IPython.display"), "display", display)
    return bundles


@pytest.fixture
def shown(monkeypatch):
    return recorded(monkeypatch)


@pytest.fixture
def static(shown, monkeypatch):
    """The same on the static page."""
    monkeypatch.setenv("BOOK_RENDER", "static")
    return shown


class Page(HTMLParser):
    """What a browser finds in a page: elements, their texts and attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(page)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append(types.SimpleNamespace(tag=tag, text="", attributes=dict(attributes)))
        if tag != "input":
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        for element in self.open:
            element.text += data

    def all(self, tag):
        return [element for element in self.elements if element.tag == tag]

    @property
    def data(self):
        (script,) = self.all("script")
        return json.loads(script.text)


def stage(page: str) -> str:
    return re.search(r'<div class="explore-stage"[^>]*>(.*?)</div>', page, re.S)[1]


def pictures(page: str) -> list[str]:
    """What the page's script shows: at each position the last group of each panel is filled anew."""
    data, layers = Page(page).data, []
    for position in data["positions"]:
        row = list(position.get("row", data["base"]))
        edits = position.get("edits", [])
        for place, tag in zip(edits[::2], edits[1::2], strict=True):
            row[place] = tag
        layers.append("".join(data["tags"][k] for k in row).split("\n"))
    at = data["captions"].index(Page(page).all("figcaption")[0].text)
    panels = re.findall(r"<svg .*?</svg>", stage(page), re.S)
    still = [panel.removesuffix(f"{layer}</g></svg>") for panel, layer in zip(panels, layers[at], strict=True)]
    assert not set(still) & set(panels), "what the page shows at first is one of its positions"
    return ["".join(f"{a}{b}</g></svg>" for a, b in zip(still, layer, strict=True)) for layer in layers]


def picture(canvas: Canvas, values: dict) -> str:
    return canvas.svg(canvas.layers(values)[0])


@pytest.fixture(scope="module")
def page():
    """The page of `draw`, made once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        bundles = recorded(monkeypatch)
        monkeypatch.setenv("BOOK_RENDER", "static")
        explore(draw, alt=ALT, panels=2, **SLIDERS)
    return bundles[0]["text/html"]


# -------------------------------------------------------------------------------- static page
def test_packing_loses_nothing(page):
    key = Page(page).all("figure")[0].attributes["id"]
    afresh = [picture(Canvas(draw, 2, key), values) for values in GRID]  # each on a canvas of its own
    assert pictures(page) == afresh
    # both ways to store a position are in use
    assert {kind for position in Page(page).data["positions"] for kind, tags in position.items() if tags} == {
        "edits",
        "row",
    }
    assert len(set(afresh)) == len(GRID)


def test_every_position_of_the_grid_is_there_the_last_slider_fastest(page):
    data = Page(page).data
    assert data["captions"] == [sentence(**values) for values in GRID]
    assert data["values"] == [["0", "0.25", "0.5"], ["1", "2"]]
    assert len(data["positions"]) == len(GRID)


def test_without_javascript_the_start_stands_there(page):
    start = GRID.index({"eta": 0.25, "b": 2})
    assert stage(page) == pictures(page)[start]
    parsed = Page(page)
    assert parsed.all("figcaption")[0].text == sentence(0.25, 2)
    assert [(i.attributes["value"], i.attributes["min"], i.attributes["max"]) for i in parsed.all("input")] == [
        ("1", "0", "2"),
        ("1", "0", "1"),
    ]
    assert [output.text for output in parsed.all("output")] == ["0.25", "2"]


def test_every_frame_is_well_formed_and_its_references_resolve(page):
    for frame in pictures(page):
        ElementTree.fromstring(f"<panels>{frame}</panels>")
        assert frame.count("<svg ") == 2
        ids = re.findall(r' id="([^"]+)"', frame)
        assert len(ids) == len(set(ids))
        assert {a or b for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', frame)} == set(ids)


def test_ids_are_unique_on_a_page_of_several_figures(static):
    explore(panel, alt=ALT, **ETA)
    explore(panel, alt=ALT + " once more", **ETA)
    explore(lambda left, right, eta: panel(left, eta) and panel(right, eta), alt=ALT, panels=2, **ETA)
    elements = Page("".join(bundle["text/html"] for bundle in static)).elements
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))


def test_the_page_is_the_same_every_time(static):
    for _ in range(2):
        explore(panel, alt=ALT, **ETA)
    assert static[0] == static[1]


def test_controls_are_labelled_and_the_picture_has_a_text(page):
    parsed = Page(page)
    names = {label.attributes["for"]: label.text for label in parsed.all("label")}
    assert [names[i.attributes["id"]] for i in parsed.all("input")] == ["learning rate η", "batch size B"]
    assert [b.attributes["aria-label"] for b in parsed.all("button")] == ["Play learning rate η", "Play batch size B"]
    (picture,) = [e for e in parsed.elements if e.attributes.get("role") == "img"]
    assert picture.attributes["aria-label"] == ALT
    assert all(svg.attributes["aria-hidden"] == "true" for svg in parsed.all("svg"))


def test_the_static_page_escapes_what_it_shows(static):
    nasty = '</script><!-- <b>1</b> & "2" -->'

    def draw(ax, choice):
        return nasty + choice

    explore(draw, alt=nasty + " " * 20, choice=choices(nasty, ("<i>", "</i>"), start="<i>"))
    page = static[0]["text/html"]
    parsed = Page(page)
    assert not parsed.all("b") + parsed.all("i")
    assert "<!--" not in page
    assert parsed.data["captions"] == [nasty + "<i>", nasty + "</i>"]
    assert parsed.data["values"] == [["<i>", "</i>"]]
    assert parsed.all("figcaption")[0].text == nasty + "<i>"
    assert parsed.all("label")[0].text == nasty
    assert parsed.all("output")[0].text == "<i>"


def test_a_static_figure_has_no_controls_and_no_data(static):
    explore(lambda ax: panel(ax, 0.5), alt=ALT)
    parsed = Page(static[0]["text/html"])
    assert len(parsed.all("svg")) == 1
    assert not parsed.all("script") + parsed.all("input")
    assert parsed.all("figcaption")[0].text == "The curve ends at 0.5, as it should."


def test_the_data_stand_where_the_axes_are():
    def diagonal(ax):
        ax.plot([0, 1], [0, 1], color=COLOURS["sgd"])
        ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="a label that takes room", title="a title")
        return "A diagonal."

    canvas = Canvas(diagonal, 1, "x")
    svg = picture(canvas, {})
    frame = [float(v) for v in re.search(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', svg).groups()]
    line = re.search(rf'<path d="M (\S+) (\S+) L (\S+) (\S+) "[^>]*stroke: {COLOURS["sgd"]}', svg).groups()
    width, height = 4.6 * 72, 3.4 * 72  # points, y downwards
    x, y, w, h = canvas.places[0]
    left, right, bottom, top = x * width, (x + w) * width, (1 - y) * height, (1 - y - h) * height
    assert np.allclose(frame, [left, top, right - left, bottom - top], atol=0.051)  # rounded to 0.1 pt
    assert np.allclose([float(v) for v in line], [left, bottom, right, top], atol=0.051)


def test_the_axes_are_drawn_once_under_the_data():
    svg = picture(Canvas(panel, 1, "x"), {"eta": 0.5})
    grid_lines = [place.start() for place in re.finditer("stroke-opacity: 0.15", svg)]
    assert len(grid_lines) == 4  # two ticks on each axis
    assert svg.count(COLOURS["gd"]) == 1
    assert max(grid_lines) < svg.index(COLOURS["gd"])


def test_the_text_colour_is_left_to_the_page(page):
    assert "currentColor" in page
    assert INK not in page
    assert COLOURS["gd"] in page


# ------------------------------------------------------------------------------------ refusals
CHANGES = {
    "x limits": lambda ax, eta: ax.set_xlim(0.1, 1 + eta),
    "y limits": lambda ax, eta: ax.set_ylim(0.1, 1 + eta),
    "x scale": lambda ax, eta: ax.set(xscale="log" if eta else "linear", xticks=[0.2, 0.4]),
    "y scale": lambda ax, eta: ax.set(yscale="log" if eta else "linear", yticks=[0.2, 0.4]),
    "x label": lambda ax, eta: ax.set_xlabel(f"step at {eta}"),
    "y label": lambda ax, eta: ax.set_ylabel(f"loss at {eta}"),
    "x ticks": lambda ax, eta: ax.set_xticks([0.2, 0.4 + eta]),
    "y ticks": lambda ax, eta: ax.set_yticks([0.2, 0.4], ["a", f"b{eta}"]),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("which", [0, 1])
def test_what_changes_between_positions_is_refused_by_name_and_place(static, name, which):
    def draw(left, right, eta):
        panel(left, eta)
        said = panel(right, eta)
        CHANGES[name]((left, right)[which], max(eta, 0.5) - 0.5)  # the first two positions agree
        return said

    with pytest.raises(ValueError, match=rf"^draw must keep {name} fixed over all positions, .* at {{'eta': 1\.0}}"):
        explore(draw, alt=ALT, panels=2, **ETA)
    assert static == []


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_draw_that_fails_at_an_end_of_a_range_fails(static, end):
    def draw(ax, eta):
        assert eta != end, "cannot draw here"
        return panel(ax, eta)

    with pytest.raises(AssertionError, match="cannot draw here"):
        explore(draw, alt=ALT, eta=linear("η", 0.0, 1.0, 3))
    assert static == []


@pytest.mark.parametrize("render", ["static", ""])
@pytest.mark.parametrize("number", ["nan", "nan.", "-inf.", "(inf)", "nan, so"])
def test_a_sentence_with_a_number_that_is_none_is_refused(shown, monkeypatch, render, number):
    monkeypatch.setenv("BOOK_RENDER", render)

    def draw(ax, eta):
        return panel(ax, eta) if eta else f"The loss is {number}"

    with pytest.raises(ValueError, match=r"sentence must hold finite numbers, .* at {'eta': 0\.0}: The loss is"):
        explore(draw, alt=ALT, **ETA)


def test_words_that_contain_nan_or_inf_are_no_numbers(shown):
    explore(lambda ax: "The information of finance, inferred by nanoseconds.", alt=ALT)
    assert "nanoseconds" in shown[0]["text/plain"]


@pytest.mark.parametrize("said", [None, "", "  ", 3.0])
def test_a_draw_without_a_sentence_is_refused(static, said):
    with pytest.raises(ValueError, match=rf"^draw must return one sentence \(the caption\), got {said!r} at {{'eta'"):
        explore(lambda ax, eta: said, alt=ALT, **ETA)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"alt": "too short"}, "^alt must say .* 20 characters or more, got 'too short'"),
        ({"alt": None}, "^alt must say .* got None"),
        ({"panels": 0}, "^panels must be 1, 2, 3 or 4, got 0"),
        ({"panels": 5}, "^panels must be 1, 2, 3 or 4, got 5"),
        ({"eta": 0.1}, r"^eta must be made by linear\(...\) or choices\(...\), got 0\.1"),
    ],
)
def test_a_bad_argument_of_explore_is_refused_by_name_and_value(shown, asked, message):
    with pytest.raises(ValueError, match=message):
        explore(panel, **{"alt": ALT, "eta": ETA["eta"]} | asked)
    assert shown == []


def test_more_positions_than_a_page_can_hold_are_refused_before_drawing(static):
    many = {"a": choices("a", range(3)), "b": choices("b", range(MAX_POSITIONS // 3 + 1))}
    with pytest.raises(ValueError, match=f"at most {MAX_POSITIONS} positions on the page, got 201"):
        explore(lambda ax, a, b: pytest.fail("drawn"), alt=ALT, **many)


# ------------------------------------------------------------------------------------- sliders
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear("η", 1.0, 1.0, 3), r"^low must be below high, both finite, got 1\.0 and 1\.0"),
        (lambda: linear("η", 0.0, math.inf, 3), r"^low must be below high, both finite, got 0\.0 and inf"),
        (lambda: linear("η", math.nan, 1.0, 3), r"^low must be below high, both finite, got nan and 1\.0"),
        (lambda: linear("η", 0.0, 1.0, 1), "^count must be at least 2, got 1"),
        (lambda: linear("η", 0.0, 1.0, 3, fine=0), "^fine must be at least 1, got 0"),
        (lambda: linear("η", 0.0, 1.0, 3, start=0.3), r"^start of the slider 'η' must be one of .*0\.5.* got 0\.3"),
        (lambda: linear("", 0.0, 1.0, 3), "^label must be a non-empty string, got ''"),
        (lambda: choices(None, (1, 2)), "^label must be a non-empty string, got None"),
        (lambda: choices("B", (1,)), r"^values of the slider 'B' must be at least two, got \(1,\)"),
        (lambda: choices("B", (1, 2), start=4), r"^start of the slider 'B' must be one of its values \(1, 2\), got 4"),
    ],
)
def test_a_bad_argument_of_a_slider_is_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@settings(deadline=None, derandomize=True, database=None)
@given(st.integers(-99, 99), st.integers(1, 99), st.integers(2, 30), st.integers(1, 8))
def test_a_live_slider_is_finer_and_reaches_both_ends(low, width, count, fine):
    slider = linear("η", low / 100, (low + width) / 100, count, fine=fine)
    assert (
        (slider.static[0], slider.static[-1]) == (slider.live[0], slider.live[-1]) == (low / 100, (low + width) / 100)
    )
    assert slider.static == slider.live[::fine]
    assert (len(slider.static), len(slider.live)) == (count, (count - 1) * fine + 1)
    assert np.allclose(np.diff(slider.live), width / 100 / (count - 1) / fine, atol=1e-11)


def test_a_slider_starts_in_the_middle_unless_told_otherwise():
    assert linear("η", 0.0, 1.0, 5).start == 0.5
    assert linear("η", 0.0, 1.0, 5, start=0.25).start == 0.25
    assert choices("B", (1, 2, 4)).start == 2
    assert choices("B", (1, 2, 4)).static == choices("B", (1, 2, 4)).live == (1, 2, 4)


def test_a_slider_shows_its_values_in_its_format():
    assert linear("η", 0.0, 1.0, 3).text(0.12345) == "0.123"
    assert linear("η", 0.0, 1.0, 3, format="{:.1f}").text(0.12345) == "0.1"
    assert choices("sampling", ("iid", "cyclic")).text("iid") == "iid"


# --------------------------------------------------------------------------------- live kernel
def live_parts(box):
    *sliders, picture, caption = box.children
    return sliders, picture, caption


def test_a_live_slider_redraws_at_its_finer_positions(shown):
    explore(draw, alt=ALT, panels=2, **SLIDERS)
    (eta, b), picture, caption = live_parts(explore.last)
    assert [value for _, value in eta.options] == list(SLIDERS["eta"].live)
    assert (eta.value, b.value) == (0.25, 2)
    pictures = set()
    for values in ({"eta": 0.0, "b": 2}, {"eta": 0.05, "b": 2}, {"eta": 0.5, "b": 2}, {"eta": 0.5, "b": 1}):
        eta.value, b.value = values["eta"], values["b"]
        assert sentence(**values) in caption.value
        pictures.add(re.sub('id="[^"]+"', "", picture.value))
    assert len(pictures) == 4


def test_a_move_draws_once_and_never_the_axes_again(shown, monkeypatch):
    drawn, decorated = [], []
    decorate = Canvas._draw_frames
    monkeypatch.setattr(Canvas, "_draw_frames", lambda canvas: decorated.append(1) or decorate(canvas))

    def counted(ax, eta):
        drawn.append(eta)
        return panel(ax, eta)

    explore(counted, alt=ALT, **ETA)
    (eta,), picture, _ = live_parts(explore.last)
    assert len(decorated) == 1
    drawn.clear()
    moves = [0.1, 0.5, 1.0, 0.0]
    for value in moves:
        eta.value = value
    assert drawn == moves
    assert len(decorated) == 1
    assert "clip-path" in picture.value


def test_the_live_picture_is_that_of_the_page(shown, monkeypatch):
    explore(draw, alt=ALT, panels=2, **SLIDERS)
    _, picture, _ = live_parts(explore.last)
    monkeypatch.setenv("BOOK_RENDER", "static")
    explore(draw, alt=ALT, panels=2, **SLIDERS)
    live, static = shown
    assert stage(static["text/html"]) in picture.value
    assert live["text/plain"] == static["text/plain"]  # what nbval compares
    assert live["image/png"] == static["image/png"]


def test_a_live_figure_escapes_what_it_shows(shown):
    explore(lambda ax, eta: "1 < 2 & <b>", alt=ALT + '"<b>', **ETA)
    _, picture, caption = live_parts(explore.last)
    assert "<b>" not in picture.value + caption.value
    assert Page(picture.value).all("div")[0].attributes["aria-label"] == ALT + '"<b>'
    assert Page(caption.value).all("div")[0].text == "1 < 2 & <b>"


def test_a_live_bundle_points_at_its_widget(shown):
    explore(panel, alt=ALT, **ETA)
    assert shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"] == explore.last.model_id
    assert "text/html" not in shown[0]


# ------------------------------------------------------------------------------ what all show
def test_the_plain_text_names_the_grid_and_says_the_sentence(shown):
    explore(draw, alt=ALT, panels=2, **SLIDERS)
    explore(lambda ax: panel(ax, 0.5), alt=ALT)
    assert [bundle["text/plain"] for bundle in shown] == [
        "[draw: eta = 0 .. 0.5 (3), start 0.25, b = 1 .. 2 (2), start 2]\nAt η = 0.25 there are 2 curves.",
        "[<lambda>]\nThe curve ends at 0.5, as it should.",
    ]


@pytest.mark.parametrize("panels", [1, 3])
def test_the_preview_is_a_png_of_all_panels_side_by_side(shown, panels):
    explore(lambda *axes: panel(axes[0], 0.5), alt=ALT, panels=panels)
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"], validate=True)))
    assert picture.format == "PNG"
    assert picture.size == (panels * 368, 272)  # 4.6 x 3.4 in at 80 dots an inch
    pixels = np.asarray(picture.convert("L"))
    assert pixels.max() == 255  # white paper
    assert all((part < 128).any() for part in np.split(pixels, panels, axis=1))  # and ink in every panel


@pytest.mark.parametrize(("sliders", "has_png"), [(ETA, False), ({}, True)])
def test_colab_shows_no_picture_twice(shown, monkeypatch, sliders, has_png):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    explore(lambda ax, eta=0.5: panel(ax, eta), alt=ALT, **sliders)
    assert ("image/png" in shown[0]) is has_png


@pytest.mark.parametrize("render", ["static", ""])
def test_figures_and_settings_do_not_leak(shown, monkeypatch, render):
    monkeypatch.setenv("BOOK_RENDER", render)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        before = dict(matplotlib.rcParams)
        explore(panel, alt=ALT, **ETA)
        assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


# ------------------------------------------------------------------------------------- colours
def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("background", ["#ffffff", "#14181e"])
@pytest.mark.parametrize("name", [name for name, colour in COLOURS.items() if colour != INK])
def test_a_colour_stands_out_on_both_themes(name, background):
    dark, light = sorted([luminance(COLOURS[name]), luminance(background)])
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_no_two_algorithms_share_a_colour():
    assert all(a != b for a, b in itertools.combinations(COLOURS.values(), 2))


def test_a_slider_with_the_same_value_twice_is_refused():
    with pytest.raises(ValueError, match=r"must differ, got \(1, 2, 1\)"):
        choices("batch size", (1, 2, 1))


def test_axes_that_draw_adds_are_refused():
    def twins(ax, k):
        ax.twinx().plot([0, k])
        return f"k is {k}."

    with pytest.raises(ValueError, match="draw must paint on the axes it is given, got 1 more"):
        Canvas(twins, 1, "x").layers({"k": 1})


# -------------------------------------------------------------------------------------------- heat maps
def five_maps(shape=(2, 2), **changed):
    figure, ax = pyplot.subplots()
    matrices = [np.full(shape, float(k)) for k in range(-2, 3)]
    heat_maps(ax, **{"matrices": matrices, "titles": list("abcde"), "columns": 3, "limit": 1.0} | changed)
    pyplot.close(figure)
    return ax


def test_heat_maps_are_filled_in_row_by_row_with_their_titles():
    ax = five_maps()
    boxes = [image.get_extent() for image in ax.images]
    assert [box[0] for box in boxes] == [0, 5, 10, 0, 5] and [box[2] for box in boxes] == [-5] * 3 + [-10] * 2
    assert all(box[1] - box[0] == box[3] - box[2] == 2 for box in boxes)
    assert [text.get_text() for text in ax.texts] == list("abcde")
    assert all(box[0] < text.get_position()[0] < box[1] for box, text in zip(boxes, ax.texts, strict=True))
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert all(left < box[0] and box[1] < right and low < box[2] and box[3] < high for box in boxes)


@pytest.mark.parametrize("shape", [(1, 4), (30, 2), (20, 60)])
def test_heat_maps_keep_their_shape_and_do_not_touch(shape):
    ax = five_maps(shape)
    boxes = [image.get_extent() for image in ax.images]
    assert all((box[3] - box[2], box[1] - box[0]) == shape for box in boxes)
    assert all(boxes[0][1] + 2 < box[0] for box in boxes[1:3]) and boxes[3][3] + 2 < boxes[0][2]
    assert all(ax.get_xlim()[0] < box[0] and box[1] < ax.get_xlim()[1] for box in boxes)
    assert all(boxes[k][3] < ax.texts[k].get_position()[1] < boxes[k][3] + 1 for k in range(5))


def test_colours_of_heat_maps_say_the_sign_and_end_at_the_limit():
    def colour(limit, k):
        image = five_maps(limit=limit).images[k]
        return tuple(image.cmap(image.norm(image.get_array()))[0, 0])

    assert colour(1.0, 0) == colour(1.0, 1) == matplotlib.colors.to_rgba(COLOURS["subsets"])
    assert colour(1.0, 4) == colour(1.0, 3) == matplotlib.colors.to_rgba(COLOURS["iid"])
    assert colour(1.0, 2)[3] < 0.01 < colour(4.0, 3)[3] < colour(2.0, 3)[3] < 1.0


@pytest.mark.parametrize(("levels", "mode"), [(65, "P"), (257, "RGBA")])
def test_images_of_few_colours_have_a_palette_on_the_page_and_no_other_pixel(levels, mode):
    colours = np.random.default_rng(0).integers(0, 256, (levels, 4), dtype=np.uint8)
    pixels = colours[np.arange(600).reshape(20, 30) % levels]

    def draw(ax):
        ax.imshow(pixels, interpolation="none")
        return "An image."

    (layer,), _ = Canvas(draw, 1, "x").layers({})
    image = Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]+)"', layer)[1])))
    assert image.mode == mode and np.array_equal(np.asarray(image.convert("RGBA")), pixels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"matrices": [np.zeros(3)] * 5}, r"^matrices must have one shape \(rows, columns\), got \[\(3,\)"),
        ({"matrices": [np.zeros((k, k)) for k in range(1, 6)]}, "^matrices must have one shape"),
        ({"matrices": [], "titles": []}, "^matrices must have one shape"),
        ({"titles": ["a"]}, "^titles must have one for each of the 5 matrices, got 1"),
        ({"columns": 0}, "^columns and limit must be positive, got 0 and 1.0"),
        ({"limit": -1.0}, "^columns and limit must be positive, got 3 and -1.0"),
        ({"limit": math.nan}, "^columns and limit must be positive, got 3 and nan"),
    ],
)
def test_heat_maps_that_cannot_be_drawn_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        five_maps(**changed)
