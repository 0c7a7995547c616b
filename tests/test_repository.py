"""The repository's URL stands in one place; whatever else carries it agrees."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SITE, site_pages

from press import BookError, repository
from press.chapters import chapters


def test_the_url_is_written_by_hand_only_in_the_configuration():
    url = repository.committed_url()
    where = ("*.*", ".github/**/*.yml", "book/*.md", "lib/*.py", "press/*.py", "Makefile", ".binder/*")
    for path in filter(Path.is_file, itertools.chain.from_iterable(map(ROOT.glob, where))):
        if path.name not in ("_config.yml", *repository.STAMPED):
            assert url not in path.read_text(encoding="utf-8"), f"{path.name} repeats the URL"


@pytest.mark.parametrize("name", repository.STAMPED)
def test_stamped_files_agree_with_the_configuration(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert repository.committed_url() in text
    assert text == repository.stamped(name, text), f"{name} is stale: make stamp"


def test_every_badge_has_the_target_it_promises():
    owner, name = repository.owner_and_name(repository.committed_url())
    badges = dict(
        re.findall(r"\[!\[([^\]]*)\]\([^)]*\)\]\(([^)]*)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    )
    assert badges["test"].endswith(f"{owner}/{name}/actions/workflows/test.yml")
    assert (ROOT / ".github" / "workflows" / "test.yml").is_file()
    assert badges["read the book"] == repository.pages_url(repository.committed_url())
    branch = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["branch"]
    for badge, start in (
        ("Open in Colab", f"{owner}/{name}/blob/{branch}/"),
        ("Launch Binder", f"{owner}/{name}/{branch}?urlpath=lab/tree/"),
    ):
        assert start in badges[badge]
        assert (ROOT / badges[badge].split(start)[1]).is_file()
    assert (ROOT / badges["code: MIT"]).is_file() and (ROOT / badges["text: CC BY 4.0"]).is_file()


def test_the_notebooks_clone_the_committed_repository():
    for chapter in chapters(repository.committed_url()):
        notebook = json.loads((ROOT / chapter.notebook).read_text(encoding="utf-8"))
        clones = [cell for cell in notebook["cells"] if '"git", "clone"' in "".join(cell["source"])]
        assert len(clones) == 1 and f'"{repository.committed_url()}"' in "".join(clones[0]["source"])


def test_every_executable_page_offers_colab_binder_and_its_notebook():
    owner, name = repository.owner_and_name(repository.url())
    branch = repository.branch()
    for chapter in chapters(repository.url()):
        page = (SITE / chapter.path.with_suffix(".html")).read_text(encoding="utf-8")
        path = chapter.notebook.as_posix()
        assert f"https://colab.research.google.com/github/{owner}/{name}/blob/{branch}/{path}" in page
        assert f"https://mybinder.org/v2/gh/{owner}/{name}/{branch}?urlpath=lab/tree/{path}" in page
        assert f"_sources/{path}" in page
        download = json.loads((SITE / "_sources" / path).read_text(encoding="utf-8"))
        assert "explore-stage" not in json.dumps(download), "the download must be the live notebook, not the frames"
    for page, text in site_pages():
        assert repository.TOKEN not in text, page


def test_the_environment_overrides_the_url(monkeypatch):
    monkeypatch.setenv("BOOK_REPO_URL", "https://github.com/forker/their-book.git")
    monkeypatch.setenv("BOOK_REPO_BRANCH", "trunk")
    assert repository.url() == "https://github.com/forker/their-book" and repository.branch() == "trunk"
    assert repository.committed_url() != repository.url()


@pytest.mark.parametrize(
    "url", ["github.com/a/b", "https://github.com/a", "git@github.com:a/b.git", "https://github.com/a/b/c"]
)
def test_a_malformed_url_is_refused_with_its_value(monkeypatch, url):
    monkeypatch.setenv("BOOK_REPO_URL", url)
    with pytest.raises(BookError, match=re.escape(url.removesuffix(".git"))):
        repository.url()
