"""The API page: docstrings of `lib/`, which are written like the book, in the markup that Sphinx reads.

Sphinx's own autodoc and napoleon do the rest: they come with the pinned Sphinx and import `lib` as
readers do, so what the page says is what ``help`` says. They take reStructuredText, where ``$x$`` is
no formula, ``(*runs, d)`` opens an emphasis that nothing closes, and ``[key]`` is no citation.
"""

import re

PIECE = re.compile(
    r"(?P<keep>``.+?``|\*\w[^*\n]*\w\*(?!\w)|^[ ]*\*{1,2}(?=[ \w]))"  # code and emphasis; a bullet, or **settings
    r"|`(?P<code>[^`]+)`"
    r"|\$(?P<math>[^$]+)\$"
    r"|\[(?P<cite>[a-z]+\d{4}[a-z]*)\]"
    r"|(?P<special>[*|]|(?<=\w)_(?!\w))",
    re.M | re.S,
)
EXAMPLE = re.compile(r"(^[ ]*>>> .*?(?:\n[ ]*(?=\n)|\Z))", re.M | re.S)
BEFORE, AFTER = " \n'\"([{<-/:`$", " \n'\")]}>-/\\:.,;!?"  # what may touch marked words in reStructuredText


def _piece(match: re.Match) -> str:
    if match["keep"]:
        return match[0]
    if match["special"]:
        return "\\" + match[0]
    if match["code"]:
        marked = f"``{match['code']}``"
    elif match["math"]:
        marked = f":math:`{' '.join(match['math'].split())}`"
    else:
        marked = f":cite:t:`{match['cite']}`"
    text, start, end = match.string, match.start(), match.end()
    left = "" if start == 0 or text[start - 1] in BEFORE else "\\ "
    right = "" if end == len(text) or text[end] in AFTER else "\\ "
    return left + marked + right


def restructured(docstring: str) -> str:
    """A docstring of `lib/` as reStructuredText; examples stay as they are."""
    parts = EXAMPLE.split(docstring)
    return "".join(part if number % 2 else PIECE.sub(_piece, part) for number, part in enumerate(parts))


def _process(app, what, name, thing, options, lines):
    lines[:] = restructured("\n".join(lines)).split("\n")


def _repair_page(app, pagename, templatename, context, doctree):
    """Slips of the pinned tools, each a failure of the tests without its line here."""
    if body := context.get("body"):
        # MyST-Parser 3.0: each block of reStructuredText counts its citations from id1; no link uses these ids
        body = re.sub(r'(<span class="bibtex-citation") id="id\d+"', r"\1", body)
        # Sphinx 7.4: a signature with a line for each argument is a list of descriptions without terms
        context["body"] = body.replace("<dl>\n<dd><em", '<dl role="presentation">\n<dd><em')


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("autodoc-process-docstring", _process, priority=400)  # before napoleon cuts it into fields
    app.connect("html-page-context", _repair_page, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
