"""Judgements measure, requirements demand: a false claim raises, and what is undecided satisfies nobody."""

import html
import importlib
import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import checks
from lib.checks import (
    MIME,
    CheckFailed,
    Judgement,
    at_least,
    at_most,
    close,
    exactly,
    mean_at_most,
    mean_close,
    require,
    require_not,
)

steady = settings(deadline=None, derandomize=True, database=None, max_examples=100)
numbers = st.floats(-1e6, 1e6)
HOLDS, FAILS = at_most("a half", 0.5, bound=1.0), at_most("two", 2.0, bound=1.0)
UNDECIDED = {
    "close": lambda bad: close("q", [0.0, bad], [0.0, 0.0], atol=1.0),
    "close, expected": lambda bad: close("q", [0.0, 0.0], [0.0, bad], atol=1.0),
    "close, both": lambda bad: close("q", [0.0, bad], [0.0, bad], atol=1.0),
    "at_most": lambda bad: at_most("q", [0.0, bad], bound=1.0),
    "at_least": lambda bad: at_least("q", [0.0, bad], bound=1.0),
    "mean_at_most": lambda bad: mean_at_most("q", [0.0, bad], bound=1.0),
    "mean_close": lambda bad: mean_close("q", [0.0, bad], 0.0, tolerance=1.0),
}


@pytest.fixture
def notebook(monkeypatch):
    """A shell that stands in for a kernel, and the bundles displayed in it."""
    shown = []
    monkeypatch.delenv("BOOK_RENDER", raising=False)

    def display(bundle, *, raw):
        assert raw
        shown.append(bundle)

    monkeypatch.setattr("IPython.get_ipython", object)
    monkeypatch.setattr(importlib.import_module("IPython.display"), "display", display)
    return shown


# --------------------------------------------------------------------------------- judgements
@pytest.mark.parametrize(
    ("judgement", "verdict", "evidence", "identity"),
    [
        (close("q", 1.0, 1.0 + 1e-15, atol=1e-12), "holds", "gap <= 1e-12", True),
        (close("q", 1.0, 2.0, atol=1e-12), "fails", "gap 1.00e+00 > 1.00e-12", True),
        (close("q", 1.0, 1.25, atol=0.5), "holds", "gap 2.50e-01 <= 5.00e-01", False),
        (close("q", 1.0, 2.0, atol=0.5), "fails", "gap 1.00e+00 > 5.00e-01", False),
        (exactly("q", Fraction(1, 3) * 3, 1), "holds", "difference 0, exactly", True),
        (exactly("q", 1, 2), "fails", "difference -1, not 0", True),
        (at_most("q", [1.0, 12345.678], bound=2e4), "holds", "1.23e+04 <= 2e+04", False),
        (at_most("q", [-3.0, 2.0], bound=1.0), "fails", "2 > 1", False),
        (at_least("q", [1.0, 2.0], bound=0.5), "holds", "1 >= 0.5", False),
        (at_least("q", [-3.0, 2.0], bound=1.0), "fails", "-3 < 1", False),
        (mean_at_most("q", [0.0, 2.0] * 50, bound=2.0), "holds", "1 +- 0.1 (n = 100) <= 2", False),
        (mean_at_most("q", [0.0, 2.0] * 50, bound=0.0), "fails", "1 +- 0.1 (n = 100) > 0", False),
        (
            mean_close("q", [0.0, 2.0] * 50, 1.5, tolerance=1.0),
            "holds",
            "1 +- 0.1 (n = 100) against 1.5, gap <= 1",
            False,
        ),
        (mean_close("q", [0.0, 2.0] * 50, 3.0, tolerance=1.0), "fails", "1 +- 0.1 (n = 100) against 3, gap > 1", False),
    ],
)
def test_a_judgement_says_its_verdict_and_its_evidence(judgement, verdict, evidence, identity):
    assert judgement == Judgement("q", verdict, evidence, identity)


@pytest.mark.parametrize(
    "judgement",
    [
        close("q", 0.5, 1.0, atol=0.5),
        close("q", 0.0, 1e-9, atol=1e-9),
        at_most("q", 1.0, bound=1.0),
        at_most("q", -1.0, bound=-1.0),
        at_least("q", 1.0, bound=1.0),
        mean_at_most("q", [1.0, 1.0], bound=1.0),
        mean_close("q", [1.0, 1.0], 0.5, tolerance=0.5),
    ],
)
def test_a_bound_that_is_met_exactly_holds(judgement):
    assert judgement.verdict == "holds"
    assert "<=" in judgement.evidence or ">=" in judgement.evidence


@pytest.mark.parametrize(("atol", "identity"), [(1e-12, True), (1e-9, True), (1.1e-9, False), (1e-3, False)])
@pytest.mark.parametrize("measured", [0.0, 1.0])
def test_an_agreement_is_an_identity_only_when_demanded_to_round_off(atol, identity, measured):
    assert close("q", measured, 0.0, atol=atol).identity is identity


def test_no_bound_and_no_mean_is_an_identity():
    assert not any(judge(1.0).identity for judge in UNDECIDED.values())


@steady
@given(st.lists(numbers, min_size=1, max_size=5), numbers)
def test_bounds_ask_about_every_value(values, bound):
    assert at_most("q", values, bound=bound).verdict == ("holds" if all(x <= bound for x in values) else "fails")
    assert at_least("q", values, bound=bound).verdict == ("holds" if all(x >= bound for x in values) else "fails")


@steady
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), st.floats(1e-12, 10.0))
def test_closeness_asks_about_every_pair_and_either_side(pairs, atol):
    left, right = zip(*pairs, strict=True)
    verdict = "holds" if all(abs(a - b) <= atol for a, b in pairs) else "fails"
    assert close("q", left, right, atol=atol).verdict == verdict
    assert close("q", right, left, atol=atol).verdict == verdict


@steady
@given(st.fractions(), st.fractions())
def test_exact_numbers_are_equal_or_not_however_near(a, b):
    assert exactly("q", a, b).verdict == ("holds" if a == b else "fails")
    assert exactly("q", a, a + Fraction(1, 10**30)).verdict == "fails"


def test_numbers_arrays_and_tensors_are_judged_alike():
    values = [1.0, 2.0]
    tensor = torch.tensor(values, requires_grad=True)
    assert len({at_most("q", v, bound=1.5) for v in (values, np.array(values), tensor)}) == 1
    assert close("q", tensor, np.array(values), atol=1e-12).verdict == "holds"
    assert close("q", tensor, 1.5, atol=0.5).verdict == "holds"  # a number against an array
    assert close("q", torch.ones(2, 2), torch.eye(2), atol=0.5).verdict == "fails"


def test_exact_objects_may_be_expressions_and_matrices():
    x, y = sympy.symbols("x y", real=True)
    assert exactly("q", (x + y) ** 2, x**2 + 2 * x * y + y**2).verdict == "holds"
    assert exactly("q", (x + y) ** 2, x**2 + y**2).verdict == "fails"
    assert exactly("q", sympy.Matrix([[x + x, 0]]), sympy.Matrix([[2 * x, 0]])).verdict == "holds"
    assert exactly("q", sympy.Matrix([[x, 0]]), sympy.Matrix([[x, 1]])).verdict == "fails"


def test_a_difference_that_sympy_cannot_decide_is_inconclusive(monkeypatch):
    monkeypatch.setattr(sympy.Expr, "equals", lambda *_: None)
    assert exactly("q", sympy.Symbol("x"), sympy.Symbol("y")).verdict == "inconclusive"


@pytest.mark.parametrize("undefined", [sympy.nan, sympy.oo, sympy.Matrix([sympy.nan])])
def test_an_undefined_difference_is_inconclusive(undefined):
    assert exactly("q", undefined, undefined).verdict == "inconclusive"


# -------------------------------------------------------------------------------------- means
@pytest.mark.parametrize("samples", [[0.0, 1.0], [1.0, 2.0, 3.0, 10.0], list(range(50))])
def test_a_mean_decides_from_four_standard_errors_on(samples):
    mean, error = statistics.mean(samples), statistics.stdev(samples) / math.sqrt(len(samples))

    def one_sided(errors):
        return mean_at_most("q", samples, bound=mean + errors * error).verdict

    def two_sided(errors, expected):
        return mean_close("q", samples, expected, tolerance=abs(mean - expected) + errors * error).verdict

    assert [one_sided(e) for e in (-4.1, -3.9, 0.0, 3.9, 4.1)] == [
        "fails",
        "inconclusive",
        "inconclusive",
        "inconclusive",
        "holds",
    ]
    for expected in (mean - 9 * error, mean + 9 * error):
        assert [two_sided(e, expected) for e in (-4.1, -3.9, 0.0, 3.9, 4.1)] == [
            "fails",
            "inconclusive",
            "inconclusive",
            "inconclusive",
            "holds",
        ]


def test_a_mean_is_taken_over_all_entries():
    samples = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    assert mean_at_most("q", samples, bound=9.0).evidence.startswith("1 +- 0.6 (n = 4)")


# ------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: close("q", 1.0, 1.0, atol=0.0), r"^atol must be a positive finite number, got 0\.0"),
        (lambda: close("q", 1.0, 1.0, atol=-1e-3), r"^atol must .* got -0\.001"),
        (lambda: close("q", 1.0, 1.0, atol=math.nan), r"^atol must .* got nan"),
        (lambda: close("q", 1.0, 1.0, atol=math.inf), r"^atol must .* got inf"),
        (lambda: close("q", [1.0, 2.0], [1.0], atol=1.0), r"^q: measured and expected .* \(2,\) and \(1,\)"),
        (lambda: close("q", [], 1.0, atol=1.0), r"^q: .* at least one value .* got none"),
        (lambda: close("q", 1.0 + 1.0j, 1.0, atol=1.0), r"^q: .* real, got complex"),
        (lambda: close("q", 1.0, torch.tensor([1.0 + 1.0j]), atol=1.0), r"^q: .* real, got complex"),
        (lambda: exactly("q", 0.5, Fraction(1, 2)), r"^q: left must be exact .* got float"),
        (lambda: exactly("q", 1, np.float64(1.0)), r"^q: right must be exact .* got float64"),
        (lambda: exactly("q", sympy.Float(0.1), sympy.Rational(1, 10)), r"^q: left must be exact, got a Float"),
        (lambda: exactly("q", torch.ones(2), 1), r"^q: left must be exact .* got Tensor"),
        (lambda: exactly("q", np.ones(2), 1), r"^q: left must be exact .* got ndarray"),
        (lambda: at_most("q", 1.0, bound=math.nan), r"^bound must be finite, got nan"),
        (lambda: at_most("q", 1.0, bound=math.inf), r"^bound must be finite, got inf"),
        (lambda: at_most("q", torch.empty(0), bound=1.0), r"^q: .* at least one value"),
        (lambda: at_least("q", 1.0, bound=-math.inf), r"^bound must be finite, got -inf"),
        (lambda: mean_at_most("q", [0.0, 1.0], bound=math.nan), r"^bound must be finite, got nan"),
        (lambda: mean_at_most("q", [1.0], bound=1.0), r"^q: samples must hold at least 2 values, got 1"),
        (lambda: mean_close("q", [0.0, 1.0], math.inf, tolerance=1.0), r"^expected must be finite, got inf"),
        (
            lambda: mean_close("q", [0.0, 1.0], 0.0, tolerance=0.0),
            r"^tolerance must be a positive finite number, got 0\.0",
        ),
        (lambda: require("", HOLDS), r"^claim must be the id of a claim .* got ''"),
        (lambda: require_not(7, FAILS), r"^claim must .* got 7"),
        (lambda: require("eq1", True), r"^judgement must come from .* got True"),
        (lambda: require_not("eq1", 2.0 > 1.0), r"^judgement must come from .* got True"),
        (lambda: require("eq1", HOLDS, statement="corrected"), r"^statement must be one of .* got 'corrected'"),
    ],
)
def test_a_bad_argument_is_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -------------------------------------------------------------------------------- requirements
@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: require("eq1", HOLDS), "holds  eq1: a half: 0.5 <= 1\n"),
        (lambda: require_not("eq1", FAILS), "fails  eq1: two: 2 > 1  (as announced)\n"),
        (lambda: require("p7/power", HOLDS, statement="printed"), "holds  p7/power: as printed: a half: 0.5 <= 1\n"),
        (
            lambda: require_not("eq1", FAILS, statement="printed"),
            "fails  eq1: as printed: two: 2 > 1  (as announced)\n",
        ),
    ],
)
def test_a_requirement_that_is_met_prints_one_line(call, line, capsys):
    assert call() is None
    assert capsys.readouterr().out == line


@pytest.mark.parametrize("statement", ["restated", "printed"])
def test_a_false_claim_raises_and_so_does_a_control_that_holds(statement, capsys):
    with pytest.raises(CheckFailed, match="announced 'holds', but: fails  eq1: .*two: 2 > 1"):
        require("eq1", FAILS, statement=statement)
    with pytest.raises(CheckFailed, match="announced 'fails', but: holds  eq1: .*a half: 0.5 <= 1"):
        require_not("eq1", HOLDS, statement=statement)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("judge", UNDECIDED.values(), ids=UNDECIDED)
def test_what_is_not_finite_satisfies_neither_requirement(judge, bad):
    judgement = judge(bad)
    assert judgement.verdict == "inconclusive"
    for demand in (require, require_not):
        with pytest.raises(CheckFailed, match="but: inconclusive eq1"):
            demand("eq1", judgement)


def test_a_mean_near_its_bound_satisfies_neither_requirement():
    for demand in (require, require_not):
        with pytest.raises(CheckFailed, match="inconclusive"):
            demand("eq1", mean_at_most("q", [0.0, 1.0] * 10, bound=0.6))


# ---------------------------------------------------------------------------------- the record
def test_in_a_notebook_the_record_goes_with_the_line(notebook, capsys):
    require("eq1", close("one", 1.0, 1.0, atol=1e-12))
    require_not("p7/power", FAILS, statement="printed")
    assert notebook == [
        {
            "text/plain": "holds  eq1: one: gap <= 1e-12",
            MIME: {
                "claim": "eq1",
                "statement": "restated",
                "announced": "holds",
                "what": "one",
                "verdict": "holds",
                "evidence": "gap <= 1e-12",
                "identity": True,
            },
        },
        {
            "text/plain": "fails  p7/power: as printed: two: 2 > 1  (as announced)",
            MIME: {
                "claim": "p7/power",
                "statement": "printed",
                "announced": "fails",
                "what": "two",
                "verdict": "fails",
                "evidence": "2 > 1",
                "identity": False,
            },
        },
    ]
    assert capsys.readouterr().out == ""


def test_an_unmet_requirement_leaves_no_record(notebook):
    for demand, judgement in ((require, FAILS), (require_not, HOLDS)):
        with pytest.raises(CheckFailed):
            demand("eq1", judgement)
    assert notebook == []


@pytest.mark.parametrize(
    ("demand", "judgement", "statement", "role"),
    [
        (require, HOLDS, "restated", "check"),
        (require_not, FAILS, "restated", "control"),
        (require, HOLDS, "printed", "as printed"),
        (require_not, FAILS, "printed", "as printed"),
    ],
)
def test_the_static_page_shows_verdict_role_and_row(notebook, monkeypatch, demand, judgement, statement, role):
    monkeypatch.setenv("BOOK_RENDER", "static")
    demand("p7/power", judgement, statement=statement)
    page = notebook[0]["text/html"]
    assert f'<strong class="check-verdict">{judgement.verdict}</strong>' in page
    assert f'<span class="check-role">{role}</span>' in page
    assert f'class="check check-{judgement.verdict} role-{role.replace(" ", "-")}"' in page
    assert 'href="ledger.html#claim-p7-power"' in page


def test_the_static_page_escapes_what_it_shows(notebook, monkeypatch):
    monkeypatch.setenv("BOOK_RENDER", "static")
    require('a"b', Judgement("<i>x</i> & y", "holds", "1 < 2 & 3"))
    page = notebook[0]["text/html"]
    assert "<i>" not in page
    for text in ("<i>x</i> & y", "1 < 2 & 3", 'a"b'):
        assert html.escape(text) in page
    assert notebook[0][MIME]["what"] == "<i>x</i> & y"


def test_a_check_stands_at_one_place_and_another_check_elsewhere():
    def anchor(claim, what, verdict="holds"):
        return checks.Record(claim, "restated", verdict, what, verdict, "1 <= 2", False).anchor

    assert anchor("eq1", "gap") == anchor("eq1", "gap", "fails")
    assert len({anchor("eq1", "gap"), anchor("eq2", "gap"), anchor("eq1", "another gap")}) == 3
