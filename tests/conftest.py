"""float64 everywhere, and a small book that tests of the press can break."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
CHAPTER = (
    HEADER
    + """
# A small chapter

By {eq}`half`, [half](#claim-half) of two is one.

```{math}
:label: half
\\tfrac12 \\cdot 2 = 1
```

```{code-cell} ipython3
import sys
sys.path.insert(0, "..")
from lib.checks import close, require, require_not
from lib.explore import explore, linear
```

```{code-cell} ipython3
print("two halves:", 0.5 + 0.5)
require("half", close("half of two", 0.5 * 2, 1.0, atol=1e-12))
require_not("half", close("half of three", 0.5 * 3, 1.0, atol=1e-12))
```

```{code-cell} ipython3
def draw(ax, eta):
    ax.plot([0, 1], [0, eta])
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="x", ylabel="y")
    return f"The slope is {eta:.1f}."

explore(draw, alt="a line whose slope is the slider", eta=linear("slope", 0.0, 1.0, 3))
```
"""
)
CLAIMS = """\
half:
  title: Half of two
  restated: "$\\\\tfrac12\\\\cdot 2 = 1$"
  reading: ours
"""
PAGES = ("small", "ledger", "errata", "open", "references")
TOC = "format: jb-book\nroot: book/intro\nchapters:\n" + "".join(f"- file: book/{page}\n" for page in PAGES)


class SharedPages(LoadScopeScheduling):
    """A file's tests and a notebook's cells stay with one worker; pages in the browser, the longest, are shared out."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.endswith("test_pages.py") else file


def pytest_xdist_make_scheduler(config, log):
    return SharedPages(config, log)


def site_pages() -> list[tuple[Path, str]]:
    """Every page of the built site with its text; redirects and the theme's own files left out."""
    if not (SITE / "index.html").is_file():
        raise FileNotFoundError("there is no built site to test: `make test` builds it first")
    found = [
        (page, page.read_text(encoding="utf-8")) for page in sorted(SITE.rglob("*.html")) if "_static" not in page.parts
    ]
    return [(page, text) for page, text in found if 'http-equiv="refresh"' not in text[:400].lower()]


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class SmallBook:
    """A book of one chapter with this repository's press and library."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("press", "lib"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("_config.yml", "requirements.txt", "constraints.txt"):
            shutil.copy(ROOT / name, root)
        (root / "book").mkdir()
        for name in ("ledger.md", "errata.md", "references.md", "references.bib"):
            shutil.copy(ROOT / "book" / name, root / "book")
        self.write("book/open.md", "# What we could not settle\n")
        self.write("book/intro.md", "# A small book\n\nIt has [one chapter](small.md).\n")
        self.write("book/small.md", CHAPTER)
        (root / "book" / "claims").mkdir()
        self.write("book/claims/small.yml", CLAIMS)
        self.write("_toc.yml", TOC)

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def read(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    def replace(self, name: str, was: str, now: str) -> None:
        assert self.read(name).count(was) == 1, f"{was!r} must stand once in {name}"
        self.write(name, self.read(name).replace(was, now))

    def press(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BOOK_") and k != "PYTHONPATH"}
        return subprocess.run(
            [sys.executable, "-m", "press", *arguments],
            cwd=self.root,
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture
def small_book(tmp_path) -> SmallBook:
    return SmallBook(tmp_path / "small")
