"""Judgements measure and never raise; requirements print one line and raise unless all is as announced.

A *judgement* compares a measurement with a bound and says ``holds``, ``fails`` or ``inconclusive``.
A *requirement* ties a judgement to a claim of the book. ``require`` asks that it holds;
``require_not`` is the negative control: the same kind of check, where it must fail. An
inconclusive judgement satisfies neither, so a diverged run (NaN) can never pass as a control.

The claims ledger is computed from the records that requirements leave in a notebook's outputs
(the media type `MIME`). What they print is rounded to what every machine reproduces.
"""

from __future__ import annotations

import hashlib
import html
import math
import os
from dataclasses import asdict, dataclass

import numpy as np

MIME = "application/vnd.learning-the-support.check+json"
ROUND_OFF = 1e-9  # an agreement demanded to this or better is an identity, not a measurement
STANDARD_ERRORS = 4.0  # a mean this close to its bound decides nothing


class CheckFailed(AssertionError):
    """A requirement whose judgement is not the announced one."""


@dataclass(frozen=True)
class Judgement:
    """What was compared, the verdict, and the evidence with its bound as printed.

    `identity` is True for an equality demanded exactly or to round-off.
    """

    what: str
    verdict: str
    evidence: str
    identity: bool = False


def _values(what: str, numbers) -> np.ndarray:
    if hasattr(numbers, "detach"):
        numbers = numbers.detach().cpu().numpy()
    values = np.asarray(numbers)
    if np.iscomplexobj(values):
        raise ValueError(f"{what}: values must be real, got complex numbers")
    values = values.astype(np.float64)
    if values.size == 0:
        raise ValueError(f"{what}: there must be at least one value to judge, got none")
    return values


def _positive(name: str, bound: float) -> float:
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"{name} must be a positive finite number, got {bound!r}")
    return float(bound)


def _finite(name: str, bound: float) -> float:
    if not math.isfinite(bound):
        raise ValueError(f"{name} must be finite, got {bound!r}")
    return float(bound)


def _sign(x: float, bound: float) -> str:
    return "<=" if x <= bound else ">"


def _all_finite(*numbers: np.ndarray) -> bool:
    return all(np.isfinite(values).all() for values in numbers)


def _verdict(holds: bool, *numbers: np.ndarray) -> str:
    if not _all_finite(*numbers):
        return "inconclusive"
    return "holds" if holds else "fails"


def close(what: str, measured, expected, *, atol: float) -> Judgement:
    """Judge that two arrays agree: the largest gap is at most `atol`.

    Args:
        what: the quantity, in words.
        measured, expected: numbers, arrays or tensors of one shape (or one of them a number).
        atol: absolute tolerance, positive. Up to `ROUND_OFF` the claim is an identity, and a
            gap below it is printed as its order only.

    Raises:
        ValueError: if the shapes differ or `atol` is not positive.

    >>> close("two times two", 2.0 * 2.0, 4.0, atol=1e-12)
    Judgement(what='two times two', verdict='holds', evidence='gap <= 1e-12', identity=True)
    """
    atol = _positive("atol", atol)
    left, right = _values(what, measured), _values(what, expected)
    if left.shape != right.shape and left.ndim and right.ndim:
        raise ValueError(f"{what}: measured and expected must have one shape, got {left.shape} and {right.shape}")
    gap = float(np.max(np.abs(left - right))) if _all_finite(left, right) else math.nan
    identity = atol <= ROUND_OFF
    evidence = f"gap <= {atol:.0e}" if identity and gap <= atol else f"gap {gap:.2e} {_sign(gap, atol)} {atol:.2e}"
    return Judgement(what, _verdict(gap <= atol, left, right), evidence, identity)


def exactly(what: str, left, right) -> Judgement:
    """Judge an identity of exact objects: sympy expressions, matrices, Fractions or integers.

    Raises:
        ValueError: if a side is a float or an array of floats, for which `close` is the judgement.

    >>> from fractions import Fraction
    >>> exactly("a third of three", Fraction(1, 3) * 3, 1).verdict
    'holds'
    """
    import sympy

    for name, side in (("left", left), ("right", right)):
        if isinstance(side, float) or getattr(side, "dtype", None) is not None:
            raise ValueError(f"{what}: {name} must be exact (sympy, Fraction or int), got {type(side).__name__}")
        if sympy.sympify(side).has(sympy.Float):
            raise ValueError(f"{what}: {name} must be exact, got a Float in {side}")
    gap = sympy.simplify(sympy.sympify(left) - sympy.sympify(right))
    entries = list(gap) if isinstance(gap, sympy.MatrixBase) else [gap]
    zeros = [entry.equals(0) for entry in entries]
    undefined = gap.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)
    zero = None if undefined else False if False in zeros else None if None in zeros else True
    if zero is None:
        return Judgement(what, "inconclusive", "difference not decided", identity=True)
    evidence = "difference 0, exactly" if zero else f"difference {gap}, not 0"
    return Judgement(what, "holds" if zero else "fails", evidence, identity=True)


def at_most(what: str, measured, *, bound: float) -> Judgement:
    """Judge that the largest of the measured values is at most `bound`.

    >>> at_most("the worst of three", [1.0, 2.0, 3.0], bound=2.5).verdict
    'fails'
    """
    bound, values = _finite("bound", bound), _values(what, measured)
    worst = float(np.max(values))
    return Judgement(what, _verdict(worst <= bound, values), f"{worst:.3g} {_sign(worst, bound)} {bound:.3g}")


def at_least(what: str, measured, *, bound: float) -> Judgement:
    """Judge that the smallest of the measured values is at least `bound`.

    >>> at_least("the least of three", [1.0, 2.0, 3.0], bound=0.5).verdict
    'holds'
    """
    bound, values = _finite("bound", bound), _values(what, measured)
    least = float(np.min(values))
    sign = ">=" if least >= bound else "<"
    return Judgement(what, _verdict(least >= bound, values), f"{least:.3g} {sign} {bound:.3g}")


def _mean(what: str, samples) -> tuple[float, float, int]:
    values = _values(what, samples).ravel()
    if values.size < 2:
        raise ValueError(f"{what}: samples must hold at least 2 values, got {values.size}")
    if not _all_finite(values):
        return math.nan, math.nan, values.size
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)), values.size


def _mean_verdict(distance: float, error: float) -> str:
    """`distance` to the bound, positive inside it; undecided within four standard errors."""
    if not math.isfinite(distance) or not math.isfinite(error) or abs(distance) < STANDARD_ERRORS * error:
        return "inconclusive"
    return "holds" if distance >= 0 else "fails"


def mean_at_most(what: str, samples, *, bound: float) -> Judgement:
    """Judge that a mean is at most `bound`; inconclusive within four standard errors of it.

    >>> mean_at_most("coin flips", [0.0, 1.0, 1.0, 0.0], bound=0.6).verdict
    'inconclusive'
    """
    bound = _finite("bound", bound)
    mean, error, n = _mean(what, samples)
    evidence = f"{mean:.3g} +- {error:.1g} (n = {n}) {_sign(mean, bound)} {bound:.3g}"
    return Judgement(what, _mean_verdict(bound - mean, error), evidence)


def mean_close(what: str, samples, expected: float, *, tolerance: float) -> Judgement:
    """Judge that a mean lies within `tolerance` of `expected`; inconclusive near the edge.

    >>> mean_close("fair die", [1.0, 2, 3, 4, 5, 6] * 100, 3.5, tolerance=0.5).verdict
    'holds'
    """
    tolerance, expected = _positive("tolerance", tolerance), _finite("expected", expected)
    mean, error, n = _mean(what, samples)
    gap = abs(mean - expected)
    evidence = (
        f"{mean:.3g} +- {error:.1g} (n = {n}) against {expected:.3g}, gap {_sign(gap, tolerance)} {tolerance:.2g}"
    )
    return Judgement(what, _mean_verdict(tolerance - gap, error), evidence)


# ------------------------------------------------------------------------------ requirements
STATEMENTS = ("restated", "printed")


@dataclass(frozen=True)
class Record:
    """What a requirement leaves behind for the ledger."""

    claim: str
    statement: str
    announced: str
    what: str
    verdict: str
    evidence: str
    identity: bool

    @property
    def role(self) -> str:
        """``"check"`` of our statement, negative ``"control"``, or the statement ``"as printed"``."""
        if self.statement == "printed":
            return "as printed"
        return "control" if self.announced == "fails" else "check"

    @property
    def anchor(self) -> str:
        """Where the check stands on its page."""
        return "check-" + hashlib.sha1(f"{self.claim}|{self.what}".encode()).hexdigest()[:10]

    @property
    def row(self) -> str:
        """Where its claim stands in the ledger; in lower case, as Sphinx writes every anchor."""
        return "claim-" + self.claim.replace("/", "-").lower()

    def page(self, link: str) -> str:
        """What stands inside the element that shows the check on a page; `link` ends the line."""
        return (
            f'<strong class="check-verdict">{self.verdict}</strong> <span class="check-role">{self.role}</span> '
            f'{link} <span class="check-evidence">{html.escape(self.evidence)}</span>'
        )


def _line(record: Record) -> str:
    note = {"holds": "", "fails": "  (as announced)"}[record.announced]
    printed = "as printed: " if record.statement == "printed" else ""
    return f"{record.verdict:<6} {record.claim}: {printed}{record.what}: {record.evidence}{note}"


def _page(record: Record) -> str:
    """The line as the static page shows it, with a link to its row of the ledger."""
    link = (
        f'<span class="check-what">{html.escape(record.what)}</span> '
        f'<a class="check-claim" href="ledger.html#{record.row}">{html.escape(record.claim)}</a>'
    )
    kind = record.role.replace(" ", "-")
    return f'<p class="check check-{record.verdict} role-{kind}" id="{record.anchor}">{record.page(link)}</p>'


def _show(record: Record) -> None:
    from IPython import get_ipython

    if get_ipython() is None:
        print(_line(record))
        return
    from IPython.display import display

    bundle = {"text/plain": _line(record), MIME: asdict(record)}
    if os.environ.get("BOOK_RENDER") == "static":
        bundle["text/html"] = _page(record)
    display(bundle, raw=True)


def _demand(claim: str, judgement: Judgement, announced: str, statement: str) -> None:
    if not isinstance(claim, str) or not claim:
        raise ValueError(f"claim must be the id of a claim in book/claims/, got {claim!r}")
    if not isinstance(judgement, Judgement):
        raise ValueError(f"judgement must come from at_most, close, ..., got {judgement!r}")
    if statement not in STATEMENTS:
        raise ValueError(f"statement must be one of {STATEMENTS}, got {statement!r}")
    record = Record(
        claim, statement, announced, judgement.what, judgement.verdict, judgement.evidence, judgement.identity
    )
    if judgement.verdict != announced:
        raise CheckFailed(f"announced '{announced}', but: {_line(record)}")
    _show(record)


def require(claim: str, judgement: Judgement, *, statement: str = "restated") -> None:
    """Require that a judgement about a claim holds; print the line and keep the record.

    Args:
        claim: id in book/claims/, say ``"eq1"`` or ``"prop7/power"``.
        judgement: what `close`, `at_most`, ... returned.
        statement: ``"restated"`` for our statement, ``"printed"`` for the paper's own wording.

    Raises:
        CheckFailed: if the judgement fails or is inconclusive.
        ValueError: on a malformed argument.

    >>> require("demo", exactly("one is one", 1, 1))
    holds  demo: one is one: difference 0, exactly
    """
    _demand(claim, judgement, "holds", statement)


def require_not(claim: str, judgement: Judgement, *, statement: str = "restated") -> None:
    """Require that a judgement fails: a negative control, or the printed statement refuted.

    Arguments and errors as in `require`; an inconclusive judgement (NaN, say) raises too.

    >>> require_not("demo", exactly("one is two", 1, 2))
    fails  demo: one is two: difference -1, not 0  (as announced)
    """
    _demand(claim, judgement, "fails", statement)
