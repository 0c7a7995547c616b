"""The built pages in a real browser, with the network cut: as a reader on a train would use them."""

import functools
import gzip
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import SITE, site_pages
from fontTools.ttLib import TTFont
from playwright.sync_api import sync_playwright

from press import icons

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
THEME = {"region"}  # the theme's logo lies outside its landmarks: best practice, not WCAG
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
NAMES = [page.relative_to(SITE).as_posix() for page, _ in site_pages()]
WITH_SLIDERS = [page.relative_to(SITE).as_posix() for page, text in site_pages() if "explore-controls" in text]
PATIENCE = 180_000  # ms: a busy machine is slow, not wrong
MEGABYTE = 1_000_000  # a page with its sliders, compressed, on a first visit
every_page = pytest.mark.parametrize("name", NAMES)
every_slider_page = pytest.mark.parametrize("name", WITH_SLIDERS)


def find_browser(playwright) -> str:
    """$CHROMIUM, a browser on the PATH, or the one that Playwright installs; else one clear line."""
    if chosen := os.environ.get("CHROMIUM"):
        assert (found := shutil.which(chosen)), f"CHROMIUM={chosen} is no program"
        return found
    if found := next(filter(None, map(shutil.which, BROWSERS)), None):
        return found
    place = playwright.chromium.executable_path
    if not Path(place).exists():
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], capture_output=True, timeout=600)
    assert Path(place).exists(), (
        "no Chromium: the pages cannot be tested; install the system's package (chromium) or set CHROMIUM=/path/to/it"
    )
    return place


def test_without_a_browser_there_is_one_clear_line_and_no_skip(monkeypatch, tmp_path):
    playwright = SimpleNamespace(chromium=SimpleNamespace(executable_path=str(tmp_path / "nothing")))
    asked = []
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command))
    with pytest.raises(AssertionError, match="no Chromium: .* install the system's package .* or set CHROMIUM="):
        find_browser(playwright)
    assert asked[0][-2:] == ["install", "chromium"]
    monkeypatch.setenv("CHROMIUM", "/no/such/program")
    with pytest.raises(AssertionError, match="CHROMIUM=/no/such/program is no program"):
        find_browser(playwright)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def base():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_browser(playwright), args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A page opened with the network cut, and everything it complained about."""

    def __init__(self, browser, base, name, *, theme="light", viewport=DESKTOP, javascript=True):
        self.context = browser.new_context(viewport=viewport, java_script_enabled=javascript)
        self.page, self.complaints = self.context.new_page(), []
        self.page.set_default_timeout(PATIENCE)
        self.page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
        self.page.route("**/*", lambda route: self._route(route, base))
        self.page.on("console", lambda m: m.type == "error" and self.complaints.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("response", lambda r: r.status >= 400 and self.complaints.append(f"{r.status} for {r.url}"))
        self.page.goto(f"{base}/{name}")
        self.page.wait_for_load_state("networkidle")
        if javascript:  # every formula, seen or folded away
            self.page.wait_for_function("!document.querySelector('.math:not(:has(mjx-container))')")

    def _route(self, route, base):
        if route.request.url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            self.complaints.append(f"asks for {route.request.url}")
            route.abort()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


# axe looks at every token of code and every letter of a formula. On each page one token of a kind, in inputs and in
# outputs, and thirty formulas are enough, and four times faster.
SAMPLES = """() => {
  const seen = new Set();
  for (const token of document.querySelectorAll(".highlight span[class]")) {
    const kind = token.className + " in " + token.closest("div.highlight").parentElement.className;
    if (seen.has(kind)) token.replaceWith(...token.childNodes);
    seen.add(kind);
  }
  document.querySelectorAll(".highlight pre").forEach(code => code.normalize());
  [...document.querySelectorAll("mjx-container")].slice(30).forEach(formula => formula.replaceChildren());
}"""
CUT = """() => [...document.querySelectorAll("span.math")].filter(f => f.scrollWidth > f.clientWidth + 1)
  .filter(f => getComputedStyle(f).overflowX !== "auto" || f.tabIndex !== 0).map(f => f.textContent)"""
ICONS = """() => [...document.querySelectorAll("[class*=fa-], .admonition-title, a, button, summary")]
  .flatMap(element => ["::before", "::after"].map(part => getComputedStyle(element, part)))
  .filter(style => style.fontFamily.includes("Awesome")).map(style => style.content.replaceAll('"', ""))
  .filter(content => content.length === 1).map(content => content.codePointAt(0))"""
KEPT = {code for path in (SITE / icons.FONTS).glob("*.woff2") for code in TTFont(path).getBestCmap()}


def inaccessible(page) -> list[str]:
    """What axe finds, with every folded solution and hidden cell open, and none of them fading in."""
    page.add_style_tag(content="* { animation: none !important; transition: none !important }")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate(SAMPLES)
    pictures = {"exclude": [[".explore-stage svg"]]}  # hidden from screen readers; slow to walk through
    options = {"resultTypes": ["violations"], "runOnly": RULES}
    found = Axe().run(page, context=pictures, options=options).response["violations"]
    return [f"{v['id']}: {[n['target'] for n in v['nodes']][:3]}" for v in found if v["id"] not in THEME]


@every_page
@pytest.mark.parametrize("theme, viewport", [("light", DESKTOP), ("dark", PHONE)], ids=["light-desktop", "dark-phone"])
def test_a_page_is_whole_and_accessible(browser, base, name, theme, viewport):
    with Visit(browser, base, name, theme=theme, viewport=viewport) as visit:
        assert not visit.page.locator("mjx-merror, [data-mjx-error]").count(), "a formula that MathJax cannot read"
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        assert not visit.page.evaluate(CUT), "the page's edge hides the end of a formula"
        needed = set(visit.page.evaluate(ICONS))
        assert needed and needed <= KEPT, [hex(code) for code in needed - KEPT]
        assert not visit.complaints, "\n".join(visit.complaints)  # before axe, which fetches styles of its own
        assert not (wrong := inaccessible(visit.page)), "\n".join(wrong)


def test_a_keyword_of_too_little_contrast_is_found(browser, base):
    """The control of what axe finds in code of which most tokens are left out."""
    with Visit(browser, base, "book/two-weights.html", theme="dark") as visit:
        visit.page.add_style_tag(content=".highlight .k { color: #444 !important }")
        (wrong,) = inaccessible(visit.page)
        assert wrong.startswith("color-contrast: [['") and ".k" in wrong


def test_without_the_script_the_end_of_a_wide_formula_is_hidden(browser, base):
    """The control of what `CUT` finds."""
    with Visit(browser, base, "book/two-weights.html", viewport=PHONE) as visit:
        assert visit.page.locator("span.math.wide").count() and not visit.page.evaluate(CUT)
        visit.page.evaluate("document.querySelectorAll('.wide').forEach(f => f.classList.remove('wide'))")
        assert visit.page.evaluate(CUT)


def test_the_fonts_of_icons_are_cut_to_size():
    assert len(KEPT) > 5
    assert all(path.stat().st_size < 20_000 for path in (SITE / icons.FONTS).glob("*.woff2"))


@every_slider_page
def test_every_slider_moves_its_picture_by_keyboard(browser, base, name):
    with Visit(browser, base, name) as visit:
        figures = visit.page.locator("figure.explore:has(.explore-controls)")
        for figure in figures.all():
            stage, caption = figure.locator(".explore-stage"), figure.locator("figcaption")
            for slider in figure.locator("input").all():
                start = slider.input_value()
                slider.focus()
                visit.page.keyboard.press("Home")
                seen, said, words = set(), set(), set()
                for _ in range(int(slider.get_attribute("max")) + 1):
                    visit.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
                    seen.add(stage.inner_html())
                    said.add(caption.inner_text())
                    words.add(slider.get_attribute("aria-valuetext"))
                    visit.page.keyboard.press("ArrowRight")
                assert len(words) == int(slider.get_attribute("max")) + 1, "a position without a name of its own"
                assert len(seen) > 1 and len(said) > 1, f"{slider.get_attribute('id')} changes nothing"
                slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')) }", start)
        assert not visit.complaints


@every_slider_page
def test_play_runs_to_the_end_and_stops(browser, base, name):
    with Visit(browser, base, name) as visit:
        figure = visit.page.locator("figure.explore:has(.explore-controls)").first
        slider, button = figure.locator("input").first, figure.locator(".explore-play").first
        last = slider.get_attribute("max")
        slider.evaluate("(s, v) => { s.value = v; }", str(int(last) - 1))
        button.click()
        visit.page.wait_for_function("b => b.getAttribute('aria-pressed') === 'false'", arg=button.element_handle())
        assert slider.input_value() == last


MOVES = """
figure => {
  const input = figure.querySelector("input"), later = window.requestAnimationFrame;
  window.requestAnimationFrame = handler => { handler(); return 0; };  // what is put off counts too
  for (let round = 0; round < 5; round++)
    for (let v = 0; v <= Number(input.max); v++) {
      input.value = v;
      input.dispatchEvent(new Event("input"));
      figure.getBoundingClientRect();                                   // style and layout count too
    }
  window.requestAnimationFrame = later;
  return 5 * (Number(input.max) + 1);
}"""


@every_slider_page
def test_a_move_costs_no_more_on_a_long_page_than_on_an_empty_one(browser, base, name):
    """A style sheet inside a picture, say, makes the browser restyle the whole page: ten times the cost.

    The cost is processor time, which other work on the machine leaves alone; it is printed, and the ratio judged.
    """
    with Visit(browser, base, name) as visit:
        meter = visit.context.new_cdp_session(visit.page)
        meter.send("Performance.enable", {"timeDomain": "threadTicks"})

        def cost(figure):
            def spent():
                return {m["name"]: m["value"] for m in meter.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

            figure.evaluate(MOVES)  # what only the first moves cost
            start = spent()
            return figure.evaluate(MOVES), spent() - start

        figures = visit.page.locator("figure.explore:has(.explore-controls)").element_handles()
        on_page = [cost(figure) for figure in figures]
        for figure, (moves, there) in zip(figures, on_page, strict=True):
            visit.page.evaluate("figure => { document.body.replaceChildren(figure) }", figure)
            _, alone = cost(figure)
            ms = 1000 * there / moves
            print(f"bench move/alone {name} {figure.get_attribute('id')} ratio {there / alone:.2f}, {ms:.1f} ms")
            assert there < 4 * alone


@every_slider_page
def test_a_first_visit_stays_under_a_megabyte(browser, base, name):
    with Visit(browser, base, name) as visit:
        loaded = visit.page.evaluate("performance.getEntriesByType('resource').map(r => r.name)")
    paths = {urlsplit(url).path.lstrip("/") for url in [*loaded, f"{base}/{name}"] if url.startswith(base)}
    sizes = {}
    for path in paths:
        data = (SITE / path).read_bytes()
        packed = path.endswith((".woff", ".woff2", ".png", ".jpg", ".webp"))
        sizes[path] = len(data) if packed else len(gzip.compress(data))
    total = sum(sizes.values())
    print(f"{name}: {total / 1000:.0f} kB in {len(sizes)} files, of it the page {sizes[name] / 1000:.0f} kB")
    assert total < MEGABYTE, sorted(sizes.items(), key=lambda item: -item[1])[:8]


@every_slider_page
def test_panels_stand_side_by_side_on_a_desktop_and_stack_on_a_phone(browser, base, name):
    with Visit(browser, base, name) as visit:
        for viewport, stacked in ((DESKTOP, False), (PHONE, True)):
            visit.page.set_viewport_size(viewport)
            for stage in visit.page.locator(".explore-stage").all():
                boxes = [svg.bounding_box() for svg in stage.locator("svg").all()]
                assert all(box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"] + 1 for box in boxes)
                if len(boxes) == 2:
                    assert (boxes[1]["y"] > boxes[0]["y"] + 50) == stacked


@every_slider_page
def test_the_start_frame_is_there_without_javascript(browser, base, name):
    with Visit(browser, base, name, javascript=False) as visit:
        for figure in visit.page.locator("figure.explore").all():
            assert figure.locator(".explore-stage svg").first.is_visible()
            assert figure.locator("figcaption").is_visible()
            controls = figure.locator(".explore-controls")
            assert not controls.count() or not controls.is_visible(), "a slider that cannot move is shown"


@every_slider_page
def test_figures_follow_the_dark_theme(browser, base, name):
    colours = []
    for theme in ("light", "dark"):
        with Visit(browser, base, name, theme=theme) as visit:
            svg = visit.page.locator(".explore-stage svg").first
            colours.append(svg.evaluate("svg => getComputedStyle(svg).color"))
    light, dark = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert light < 300 < dark, colours


# ---------------------------------------------------------------------------------- the ledger
LEDGER = "book/ledger.html"


def shown(visit):
    """The ids of the rows and of the sections that can be seen, and what the live region says."""
    rows = visit.page.locator("article table tbody tr:visible td:first-child a").all_inner_texts()
    sections = visit.page.locator("#claim-by-claim section:visible > :is(h3, h4) code").all_inner_texts()
    return rows, sections, visit.page.locator("#ledger-count").inner_text()


def claims():
    return {row["id"]: row for row in json.loads((SITE / "book" / "claims.json").read_text(encoding="utf-8"))}


def expected(match):
    """Leaves that match, and the statements that they are parts of."""
    rows = claims()
    leaves = [name for name, row in rows.items() if not row["parts"] and match(row)]
    return [name for name in rows if name in leaves or any(leaf.startswith(name + "/") for leaf in leaves)], len(leaves)


def test_the_filter_shows_what_is_asked_for_by_keyboard_and_keeps_it_in_the_address(browser, base):
    total = sum(not row["parts"] for row in claims().values())
    with Visit(browser, base, LEDGER) as visit:
        assert shown(visit)[2] == f"{total} of {total} statements shown"
        visit.page.get_by_role("checkbox", name="false as stated").focus()
        visit.page.keyboard.press("Space")
        names, count = expected(lambda row: row["verdict"] == "false as stated")
        assert shown(visit) == (names, names, f"{count} of {total} statements shown") and 0 < count < total
        visit.page.get_by_role("combobox", name="Section").select_option("App. K")
        names, count = expected(lambda row: row["verdict"] == "false as stated" and row["section"] == "App. K")
        assert shown(visit) == (names, names, f"{count} of {total} statements shown") and count
        address = visit.page.url
        assert "verdict=false+as+stated&section=App.+K" in address
        visit.page.get_by_role("searchbox", name="Words").fill("no statement has these words")
        assert shown(visit) == ([], [], f"0 of {total} statements shown")
        visit.page.get_by_role("button", name="Show all").click()
        visit.page.wait_for_function("document.querySelector('article tbody tr').hidden === false")
        assert len(shown(visit)[0]) == len(claims())
        assert not visit.complaints
    with Visit(browser, base, address.removeprefix(f"{base}/")) as visit:
        assert shown(visit) == (names, names, f"{count} of {total} statements shown")
        assert visit.page.get_by_role("checkbox", name="false as stated").is_checked()
        hidden = next(name for name in claims() if name not in names)  # a link to it must lead to it
        visit.page.evaluate("anchor => { location.hash = anchor }", f"claim-{hidden.replace('/', '-').lower()}")
        visit.page.wait_for_function("document.querySelector('article tbody tr').hidden === false")
        assert hidden in shown(visit)[1]


def test_without_javascript_the_ledger_is_whole_and_has_no_dead_filter(browser, base):
    with Visit(browser, base, LEDGER, javascript=False) as visit:
        assert not visit.page.locator("#ledger-filter").is_visible()
        assert visit.page.locator("article table tbody tr:visible").count() == len(claims())


def test_a_node_in_focus_lights_what_it_carries(browser, base):
    rows = claims()
    carries = {
        name: {c.split("/")[0] for n in (name, *row["parts"]) for c in rows[n]["carries"]} for name, row in rows.items()
    }
    start = max((name for name in rows if "/" not in name), key=lambda name: len(carries[name]))
    reached, todo = {start}, [start]
    while todo:
        new = carries[todo.pop()] - reached
        reached |= new
        todo += new
    with Visit(browser, base, LEDGER, viewport=PHONE) as visit:
        visit.page.locator(f'.graph [data-claim="{start}"]').focus()
        lit = visit.page.locator(".graph .node.on").evaluate_all("nodes => nodes.map(n => n.dataset.claim)")
        assert set(lit) == reached and 1 < len(lit) < visit.page.locator(".graph .node").count()
        box = visit.page.locator(".graph").bounding_box()
        assert box["x"] + box["width"] <= PHONE["width"], "the graph scrolls in its own box"
