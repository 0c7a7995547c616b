"""Docstrings become pages: formulas, code and citations are marked, and nothing else is taken for markup."""

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from hypothesis import given
from hypothesis import strategies as st

from press.docstrings import restructured


@pytest.mark.parametrize(
    "written, marked",
    [
        ("`x` and ``y``", "``x`` and ``y``"),
        ("$x_1$-dependent, of `sigma`$^2$.", r":math:`x_1`-dependent, of ``sigma``\ :math:`^2`."),
        ("$a\n    b$", ":math:`a b`"),
        ("shape (*runs, d)", r"shape (\*runs, d)"),
        ("shapes (*runs, n, d) and (*runs, n)", r"shapes (\*runs, n, d) and (\*runs, n)"),
        ("carry *run axes* in front", "carry *run axes* in front"),
        ("Args:\n    **settings: values", "Args:\n    **settings: values"),
        ("* one\n* two", "* one\n* two"),
        ("|a| of W_ and x_i", r"\|a\| of W\_ and x_i"),
        ("[key2024word], [0, 1) and [1]", ":cite:t:`key2024word`, [0, 1) and [1]"),
    ],
)
def test_what_is_written_for_the_book_is_marked_for_sphinx(written, marked):
    assert restructured(written) == marked


def test_examples_stay_as_they_are_and_what_follows_does_not():
    text = "A `word`.\n\n>>> f(*a) | b_  # `c` costs $5$\n['*']\n\nOf $x$.\n\n>>> *a, b = c"
    assert restructured(text) == text.replace("`word`", "``word``").replace("Of $x$", "Of :math:`x`")


words = st.lists(st.sampled_from(["(*runs, d)", "|a|", "W_", "x_i", "[0, 1)", "= ", "s", " ", "-"])).map("".join)
marks = st.tuples(words, st.sampled_from(["literal", "math"]), st.text(alphabet="abxy", min_size=1))


@given(st.lists(marks, max_size=4), words)
def test_whatever_stands_around_them_code_and_formulas_keep_their_content(sentence, end):
    around = {"literal": "`", "math": "$"}
    text = "".join(f"{before}{around[kind]}{inside}{around[kind]}" for before, kind, inside in sentence) + end
    tree = publish_doctree(restructured(f"Go: {text}"), settings_overrides={"report_level": 5})
    found = [(node.tagname, node.astext()) for node in tree.findall(lambda n: n.tagname in around)]
    assert found == [(kind, inside) for _, kind, inside in sentence]
    assert not list(tree.findall(nodes.problematic)) and not list(tree.findall(nodes.emphasis))
    assert " ".join(tree.astext().split()) == " ".join(f"Go: {text}".replace("`", "").replace("$", "").split())
