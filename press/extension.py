"""The Sphinx extension: executed chapters, the ledger, one repository URL, pages without a network."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from sphinx.errors import ExtensionError

from lib.checks import MIME
from press import ROOT, BookError, gallery, icons, ledger, repository
from press import pages as computed
from press.chapters import Chapter, chapters
from press.execute import executed
from press.notebooks import seconds

# what stands where a page holds such a line
COMPUTED = {
    "<!-- ledger -->": lambda app: computed.ledger(app.book_ledger),
    "<!-- errata -->": lambda app: computed.errata(app.book_ledger),
    "<!-- gallery -->": lambda app: app.book_gallery,
}
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")


def read_for_page(chapter: Chapter):
    """The chapter as MyST-NB reads it, so that its cache knows the executed notebook again."""
    return read_myst_markdown_notebook(chapter.source, MdParserConfig(enable_extensions={"colon_fence", "dollarmath"}))


def _cost(chapter: Chapter, notebook) -> str:
    """What it costs to run the page, and what that buys; the time is the stored notebook's."""
    if not (time := seconds(ROOT / chapter.notebook)):
        return ""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    checks = sum(MIME in output.get("data", {}) for output in outputs)
    sliders = sum("explore(" in code and ("linear(" in code or "choices(" in code) for code in chapter.code()[1:])
    holds = f"{checks} checks, {sliders} figures with sliders" if checks else ""
    return f"As a notebook, this page runs in about {time} s on two cores{': ' * bool(holds)}{holds}."


def _prepare(app, config):
    """Execute what is stale, hand it to MyST-NB through its cache, and compute the ledger."""
    url = repository.url()
    config.html_theme_options |= {"repository_url": url, "repository_branch": repository.branch()}
    try:
        found = chapters(url)
        notebooks = executed(found, read_for_page)
        app.book_ledger = ledger.ledger(notebooks)
        app.book_gallery = gallery.gallery(gallery.exhibits(notebooks), app.book_ledger)
    except BookError as error:
        raise ExtensionError(str(error)) from error
    pages = dict(zip(notebooks, found, strict=True))
    app.book_costs = {page: _cost(pages[page], notebook) for page, notebook in notebooks.items()}
    app.book_costs.pop(config.root_doc, None)  # the landing page shows instead of telling
    cache = Path(app.outdir).parent / ".executed"
    shutil.rmtree(cache, ignore_errors=True)  # its key does not see lib/; the store's does
    for page, notebook in notebooks.items():
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                output.get("data", {}).pop(MIME, None)  # for the ledger, not for the page
        bundle = CacheBundleIn(notebook, str(ROOT / f"{page}.md"), data={"execution_seconds": 0.0})
        get_cache(str(cache)).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    config.nb_execution_cache_path = str(cache)
    # Sphinx re-reads every page when one of these changes
    config.book_state = url + json.dumps([ledger.as_json(app.book_ledger), app.book_costs, app.book_gallery])


def _fill_in(app, page, source):
    text = source[0].replace(repository.TOKEN, repository.url())
    for mark, write in COMPUTED.items():
        if mark in text:
            text = text.replace(mark, write(app))
    if cost := app.book_costs.get(page):
        text = re.sub(r"^# .+$", rf"\g<0>\n\n:::{{container}} cost\n{cost}\n:::", text, count=1, flags=re.M)
    source[0] = text


def _repair_page(app, pagename, templatename, context, doctree):
    """Slips of the pinned theme and its parts, each a failure of the tests without its line here."""
    if 'id="ledger-filter"' in (context.get("body") or ""):
        app.add_js_file("ledger.js", loading_method="defer")
    # sphinx-thebe 0.3 and sphinx-togglebutton 0.4 register inline scripts twice; the second `const` throws
    once = {}
    for script in context.get("script_files", []):
        key = str(getattr(script, "filename", None) or script), getattr(script, "attributes", {}).get("body")
        once.setdefault(key if not key[1] else key[1], script)
    context["script_files"] = list(once.values())
    if body := context.get("body"):
        # Sphinx 7.4: roles that axe rejects; MyST-NB 1.4: a label that hides the visible words
        for was, now in (
            ('<div role="list" class="citation-list">', '<div class="citation-list">'),
            (' role="doc-biblioentry"', ""),
            ('<summary aria-label="Toggle hidden content">', "<summary>"),
        ):
            body = body.replace(was, now)
        context["body"] = body


def _mathjax(static: Path) -> None:
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(package.origin).parent / "static" / "mathjax"
    for part in MATHJAX:
        target = static / "mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target, dirs_exist_ok=True)
        else:
            shutil.copy(source / part, target)


def _finish(app, exception):
    if exception or app.builder.name != "html":
        return
    site = Path(app.outdir)
    _mathjax(site / "_static")
    data = json.dumps(ledger.as_json(app.book_ledger), indent=1, ensure_ascii=False)
    (site / "book" / "claims.json").write_text(data + "\n", encoding="utf-8")
    # 1.4 MB that draws as SVG the icons that the theme's web fonts already show
    (site / "_static" / "scripts" / "fontawesome.js").write_text("/* the web fonts show the icons */\n")
    icons.cut(site)
    for page in site.rglob("*.html"):  # pydata-sphinx-theme 0.17 logs an error on a first visit otherwise
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace('getItem("mode") || ""', 'getItem("mode") || "auto"'), encoding="utf-8")
    # the page's download is the notebook with live sliders, not the build's copy full of frames
    for chapter in chapters(repository.committed_url()):
        if (ROOT / chapter.notebook).is_file():
            text = (ROOT / chapter.notebook).read_text(encoding="utf-8")
            here, there = repository.committed_url(), repository.url()
            for was, now in ((here, there), (repository.pages_url(here), repository.pages_url(there))):
                text = text.replace(was, now)
            (site / "_sources" / chapter.notebook).write_text(text, encoding="utf-8")


def setup(app):
    app.add_config_value("book_state", "", "env")
    app.connect("config-inited", _prepare, priority=900)
    app.connect("source-read", _fill_in)
    app.connect("html-page-context", _repair_page, priority=999)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
