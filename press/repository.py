"""Where the book's repository is: written in `_config.yml`, and nowhere else by hand.

`BOOK_REPO_URL` and `BOOK_REPO_BRANCH` override it, so that a fork's site names the fork. What
must be in a committed file all the same (badges, the notebooks' Colab cell) is stamped there by
``make stamp`` and ``make notebooks``, and a test compares it.
"""

import os
import re
from urllib.parse import urlsplit

import yaml

from press import ROOT, BookError

TOKEN = "@REPO_URL@"  # chapters carry this instead of the URL
BADGES = re.compile(r"(<!-- badges[^>]*-->\n).*?(<!-- /badges -->)", re.S)
CITATION = re.compile(r"^(repository-code|url): .*$", re.M)


def _clean(url: str) -> str:
    url = url.strip().rstrip("/").removesuffix(".git")
    parts = urlsplit(url)
    if parts.scheme != "https" or len(parts.path.strip("/").split("/")) != 2:
        raise BookError(f"the repository's URL must look like https://host/OWNER/NAME, got {url!r}")
    return url


def _config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]


def committed_url() -> str:
    """The URL in `_config.yml`, which committed files carry."""
    return _clean(_config()["url"])


def url() -> str:
    """The URL for this build: `BOOK_REPO_URL`, or the committed one."""
    return _clean(os.environ.get("BOOK_REPO_URL") or committed_url())


def branch() -> str:
    return os.environ.get("BOOK_REPO_BRANCH") or _config()["branch"]


def owner_and_name(repository: str) -> tuple[str, str]:
    owner, name = urlsplit(repository).path.strip("/").split("/")
    return owner, name


def pages_url(repository: str) -> str:
    """Where GitHub Pages serves the repository's site."""
    owner, name = owner_and_name(repository)
    return f"https://{owner.lower()}.github.io/{name}/"


def colab_url(repository: str, notebook: str) -> str:
    owner, name = owner_and_name(repository)
    return f"https://colab.research.google.com/github/{owner}/{name}/blob/{_config()['branch']}/{notebook}"


def binder_url(repository: str, notebook: str) -> str:
    owner, name = owner_and_name(repository)
    return f"https://mybinder.org/v2/gh/{owner}/{name}/{_config()['branch']}?urlpath=lab/tree/{notebook}"


def badges(repository: str) -> str:
    """The README's badges, as markdown."""
    first, workflow = "book/two-steps.ipynb", f"{repository}/actions/workflows/test.yml"
    found = [
        ("test", f"{workflow}/badge.svg", workflow),
        ("read the book", "https://img.shields.io/badge/read-the%20book-3b82d0", pages_url(repository)),
        ("Open in Colab", "https://colab.research.google.com/assets/colab-badge.svg", colab_url(repository, first)),
        ("Launch Binder", "https://mybinder.org/badge_logo.svg", binder_url(repository, first)),
        ("code: MIT", "https://img.shields.io/badge/code-MIT-2f9e62", "LICENSE"),
        ("text: CC BY 4.0", "https://img.shields.io/badge/text-CC%20BY%204.0-2f9e62", "LICENSE-TEXT"),
    ]
    return "".join(f"[![{words}]({picture})]({target})\n" for words, picture, target in found)


def stamped(name: str, text: str) -> str:
    """The text of README.md or CITATION.cff with the committed URL filled in."""
    repository = committed_url()
    if name == "README.md":
        if not BADGES.search(text):
            raise BookError("README.md must hold the lines '<!-- badges ... -->' and '<!-- /badges -->'")
        return BADGES.sub(lambda m: m[1] + badges(repository) + m[2], text)
    fields = {"repository-code": repository, "url": pages_url(repository)}
    return CITATION.sub(lambda m: f'{m[1]}: "{fields[m[1]]}"', text)


STAMPED = ("README.md", "CITATION.cff")


def stamp() -> None:
    for name in STAMPED:
        path = ROOT / name
        path.write_text(stamped(name, path.read_text(encoding="utf-8")), encoding="utf-8")
