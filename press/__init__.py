"""The printing press: turns `book/` into notebooks and a website. Readers of the science never meet it.

* ``environment``  makes the virtual environment (standard library only; the Makefile calls it)
* ``repository``   the one place that knows where the book's repository is
* ``chapters``     the chapters, their code, and what of `lib/` each depends on
* ``plain``        MyST text as the markdown that Colab and GitHub show
* ``notebooks``    writes `book/*.ipynb` with reference outputs, and tells when they are stale
* ``execute``      runs chapters for the site, with progress and a store that sees `lib/`
* ``ledger``       computes every claim's verdict from the executed checks
* ``pages``        writes the ledger and the errata from it; ``graph`` draws what rests on what
* ``check``        runs the checks of one claim from the command line; ``slicing`` finds the cells they need
* ``extension``    the Sphinx extension that puts all this on the page
* ``docstrings``   turns the docstrings of `lib/` into the API page
* ``icons``        the theme's icon fonts, cut down to what the site shows
* ``build``        the site, from a clean slate each time
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class BookError(Exception):
    """Something about the book is wrong; the message is one the author can act on."""
