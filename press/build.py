"""Builds the site, from a clean slate each time.

Jupyter Book exits with 0 on a second run over pages that warned in the first, so no build reuses
what Sphinx kept; only executed chapters are kept, keyed by all that can change them. The site
appears in `_build/html` when it is complete, and is gone while there is no good one.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lib.figures import figure_size
from press import ROOT, BookError, gallery, ledger, repository
from press.chapters import chapters
from press.execute import ANSI, executed

BUILD = ROOT / "_build"
SITE = BUILD / "html"
COMPLAINT = re.compile(r"WARNING: |ERROR: |CRITICAL: |[A-Z]\w+Error: ")


def _writable() -> None:
    try:
        BUILD.mkdir(exist_ok=True)
        probe = BUILD / ".probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise BookError(f"cannot write to {BUILD.name}/: {error.strerror}") from error


def build() -> None:
    """Execute stale chapters, build the HTML with warnings as errors, and say where it is.

    Raises:
        BookError: if a cell fails, a page warns, or the folder cannot be written.
    """
    _writable()
    work = BUILD / "work"
    for old in (SITE, work):
        shutil.rmtree(old, ignore_errors=True)
    from press.extension import read_for_page  # Sphinx takes seconds to import

    notebooks = executed(chapters(repository.url()), read_for_page)
    ledger.ledger(notebooks)
    if figure_size() == "paper":
        gallery.write_times(gallery.exhibits(notebooks))
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(ROOT),
        "--path-output",
        str(work),
        "--all",
        "-W",
        "-n",
        "--keep-going",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        lines = ANSI.sub("", done.stdout).splitlines()
        complaints = dict.fromkeys(line for line in lines if COMPLAINT.search(line))
        raise BookError("the pages do not build:\n" + ("\n".join(complaints) or done.stdout))
    if "Executed notebook" in done.stdout:
        raise BookError("a chapter was run a second time, by MyST-NB: its page may not be what was checked")
    shutil.move(work / "_build" / "html", SITE)
    shutil.rmtree(work)
    print(f"the book is at {SITE.relative_to(ROOT) / 'index.html'}\n  {(SITE / 'index.html').as_uri()}")
