"""The gallery: what tagged cells become, and the two sizes they run at."""

import json

import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import CHAPTER, CLAIMS

from press import BookError, gallery

GALLERY = """
```{code-cell} ipython3
:tags: [fig7]

from lib.figures import figure_size
size = figure_size()
```

```{code-cell} ipython3
:tags: [fig7]

explore(draw, alt="A line whose height is the learning rate, as before", eta=linear("eta", 0.1, 0.5, 3, start=0.1))
```
"""


def test_the_gallery_shows_tagged_figures_with_verdict_cost_and_the_way_to_their_cell(small_book):
    small_book.write(
        "book/claims/small.yml", CLAIMS.replace("half:", "fig7:").replace("Half of two", "Figure 7, halves")
    )
    small_book.write(
        "book/small.md", (CHAPTER + GALLERY).replace('"half"', '"fig7"').replace("#claim-half", "#claim-fig7")
    )
    small_book.write("book/open.md", "# Gallery\n\n<!-- gallery -->\n")
    built = small_book.press("build", BOOK_SIZE="paper")
    assert built.returncode == 0, built.stderr + built.stdout
    assert json.loads(small_book.read("book/figures.json")).keys() == {"fig7"}
    assert [p.name.split(".")[0] for p in (small_book.root / "_build" / "executed").glob("small*")] == ["small-paper"]
    built = small_book.press("build")
    assert built.returncode == 0, built.stderr + built.stdout
    page = BeautifulSoup(small_book.read("_build/html/book/open.html"), "html.parser")
    assert "Figure 7: halves" in page.get_text()
    assert page.select_one("figure.explore .explore-stage svg") and page.select_one(".verdict")
    assert "at the paper's size" in page.get_text().replace("’", "'")
    name, anchor = next(a["href"] for a in page.select("article a") if "#x" in a["href"]).split("#")
    assert f'id="{anchor}"' in small_book.read(f"_build/html/book/{name}")
    stores = {p.name.split(".")[0] for p in (small_book.root / "_build" / "executed").glob("small*")}
    assert stores == {"small", "small-paper"}, "one size must not throw the other's work away"


def test_a_size_that_does_not_exist_is_one_clear_line(small_book):
    refused = small_book.press("build", BOOK_SIZE="huge")
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == ["error: BOOK_SIZE must be 'fast' or 'paper', got 'huge'"]
    refused = small_book.press("notebooks", BOOK_SIZE="paper")
    assert refused.returncode == 1 and "BOOK_SIZE must be 'fast' or unset" in refused.stderr


def test_only_figures_with_two_sizes_have_a_time_at_the_papers_size(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "TIMES", tmp_path / "figures.json")
    two_sizes = gallery.Exhibit("fig1", "book/c", "x1", "", "", seconds=70.0, has_sizes=True)
    one_size = gallery.Exhibit("fig2", "book/c", "x2", "", "", seconds=3.0)
    gallery.write_times([two_sizes, one_size])
    assert json.loads(gallery.TIMES.read_text()) == {"fig1": "1.5 min"}


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [([("x = 1", ["fig7"])], "book/c: no cell tagged fig7 shows a figure"), ([("x = 1", ["figure"])], None)],
)
def test_a_tag_without_a_figure_is_refused(cells, complaint):
    made = [{"cell_type": "code", "source": s, "metadata": {"tags": t}, "outputs": []} for s, t in cells]
    notebooks = {"book/c": nbformat.from_dict({"cells": made, "metadata": {"cell_seconds": {"0": 1.0}}})}
    if complaint is None:
        assert gallery.exhibits(notebooks) == []
    else:
        with pytest.raises(BookError, match=complaint):
            gallery.exhibits(notebooks)
