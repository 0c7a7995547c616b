"""Planted problems: inputs, targets, and which inputs the target does not use.

Unless its docstring says otherwise a function returns `X` of shape (n, d) and `y` of shape (n,),
float64, and the first r of the d inputs are the relevant ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Outer = Callable[[Tensor], Tensor]
Stream = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]

# The outer function of a target, by name; `target` takes these and any other.
TARGETS: dict[str, Outer] = {
    "linear": torch.positive,
    "sine": torch.sin,
    "absolute": torch.abs,
    "polynomial": lambda s: s + s**2,
}


def _finite(**values: Tensor | float) -> None:
    for name, value in values.items():
        flat = torch.as_tensor(value).flatten()
        if not torch.isfinite(flat).all():
            raise ValueError(f"{name} must be finite, got {flat[~torch.isfinite(flat)][0].item()}")


def _spread(sigma: float) -> None:
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and not negative, got {sigma}")


def _problem(X: Tensor, y: Tensor) -> None:
    if X.ndim != 2:
        raise ValueError(f"X must have shape (n, d), got {tuple(X.shape)}")
    if y.shape != X.shape[:1]:
        raise ValueError(f"y must have shape (n,) = ({len(X)},), got {tuple(y.shape)}")
    _finite(X=X, y=y)


def _support(r: int, d: int) -> None:
    if not 0 <= r <= d:
        raise ValueError(f"r must lie in 0..d = {d}, got {r}")


# ----------------------------------------------------------------------------- Assumption 1, exactly
def orthogonal_inputs(n: int, d: int, *, generator: torch.Generator) -> Tensor:
    r"""Gaussian inputs made orthogonal to rounding: $E[x_ix_j] = 0$ for $i \ne j$ and $E[x_j^2] = 1$.

    Means and third moments stay generic. `X * scales` has columns of other sizes, still orthogonal.

    Args:
        n, d: numbers of examples and inputs, `1 <= d <= n`.
        generator: source of randomness.

    Raises:
        ValueError: if the sizes do not fit.
    """
    if not 1 <= d <= n:
        raise ValueError(f"d must lie in 1..n = {n}, got {d}")
    gaussian = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian).Q * math.sqrt(n)


def assumption1(n: int, d: int, r: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""`orthogonal_inputs`, which satisfy Assumption 1 to rounding, and the target $y = x_1 + \dots + x_r$.

    $E[x_i x_j] = 0$ for every pair and $E[y x_j] = 0$ for every irrelevant $j > r$.
    Source: Assumption 1 of [beneventano2024support].

    Args:
        n, d, r: numbers of examples, inputs and relevant inputs; `d <= n` and `0 <= r <= d`.
        generator: source of randomness.

    Raises:
        ValueError: if the sizes do not fit.

    >>> X, y = assumption1(50, 4, 2, generator=torch.Generator().manual_seed(0))
    >>> bool((X.T @ X / 50 - torch.eye(4)).abs().max() < 1e-14)
    True
    """
    X = orthogonal_inputs(n, d, generator=generator)
    _support(r, d)
    return X, X[:, :r].sum(dim=1)


def irrelevant_inputs(against: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    r"""New inputs, orthogonal to rounding to every column of `against` and to one another, $E[x_j^2] = 1$.

    With the relevant inputs, the target and a column of ones in `against` they are irrelevant and
    centred, whatever the target. ``sigma * irrelevant_inputs(X, 1, ...)[:, 0]`` is label noise
    that leaves every $E[y x_j]$ as it was.

    Args:
        against: shape (n, k); its columns may be dependent or zero.
        count: number of new inputs, positive, with `k + count <= n`.
        generator: source of randomness.

    Returns:
        Shape (n, count).

    Raises:
        ValueError: if the sizes do not fit or `against` is not finite.

    >>> y = torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=torch.float64)
    >>> Z = irrelevant_inputs(y[:, None], 3, generator=torch.Generator().manual_seed(0))
    >>> bool((y @ Z).abs().max() < 1e-14)
    True
    """
    if against.ndim != 2:
        raise ValueError(f"against must have shape (n, k), got {tuple(against.shape)}")
    n, k = against.shape
    if not 1 <= count <= n - k:
        raise ValueError(f"count must lie in 1..n - k = {n - k}, got {count}")
    _finite(against=against)
    gaussian = torch.randn(n, count, generator=generator, dtype=torch.float64)
    # Householder's Q is orthonormal to rounding even where `against` has dependent columns: no rank to decide.
    return torch.linalg.qr(torch.cat([against.double(), gaussian], dim=1)).Q[:, k:] * math.sqrt(n)


def target(X: Tensor, outer: Outer, *, alpha: Tensor) -> Tensor:
    r"""Target with sparse support, $y = g(\alpha_1 x_1 + \dots + \alpha_r x_r)$.

    Source: the display of Appendix C.1 of [beneventano2024support], with $h_i(x) = x$; its two
    choices are ``TARGETS["linear"]`` and ``TARGETS["sine"]`` with all $\alpha_i = 1$.

    Args:
        X: inputs, shape (n, d).
        outer: the function g, applied entry by entry.
        alpha: weights of the relevant inputs, shape (r,) with `r <= d`.

    Returns:
        Shape (n,).

    Raises:
        ValueError: if `alpha` does not fit `X`, or the target is not finite or of another shape.

    >>> target(torch.tensor([[1.0, -3.0, 9.0]]), torch.abs, alpha=torch.tensor([1.0, 2.0]))
    tensor([5.], dtype=torch.float64)
    """
    if X.ndim != 2 or alpha.ndim != 1 or len(alpha) > X.shape[1]:
        raise ValueError(f"alpha must have shape (r,), r <= d, got {tuple(alpha.shape)} for X {tuple(X.shape)}")
    _finite(X=X, alpha=alpha)
    y = outer(X[:, : len(alpha)].double() @ alpha.double())
    _problem(X, y)
    return y


def planted(n: int, d: int, outer: Outer, *, alpha: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""A problem that satisfies Assumption 1 to rounding for any target, linear or not.

    Orthogonal columns do not make $E[y x_j] = 0$ when y is not linear in x; here the irrelevant
    inputs are made orthogonal to y too, and centred.
    Source: Assumption 1 of [beneventano2024support].

    Args:
        n, d: numbers of examples and inputs, `d + 2 <= n`.
        outer, alpha: the target, as in `target`; its length r lies in 1..d - 1.
        generator: source of randomness.

    Raises:
        ValueError: if the sizes do not fit or the target is not finite.

    >>> X, y = planted(50, 4, torch.sin, alpha=torch.ones(2), generator=torch.Generator().manual_seed(0))
    >>> bool((y @ X[:, 2:] / 50).abs().max() < 1e-14)
    True
    """
    r = len(alpha)
    if not 1 <= r < d:
        raise ValueError(f"alpha must have 1..d - 1 = {d - 1} entries, got {r}")
    if n < d + 2:
        raise ValueError(f"n must be at least d + 2 = {d + 2}, got {n}")
    relevant = orthogonal_inputs(n, r, generator=generator)
    y = target(relevant, outer, alpha=alpha)
    against = torch.cat([relevant, y[:, None], torch.ones(n, 1)], dim=1)
    return torch.cat([relevant, irrelevant_inputs(against, d - r, generator=generator)], dim=1), y


def balanced(X: Tensor, y: Tensor, *, r: int) -> tuple[Tensor, Tensor]:
    r"""Each example twice, the second time with the signs of its irrelevant inputs reversed; n doubles.

    Then $E[x_j \mid x_1..x_r] = 0$ and $E[y x_j \mid x_1..x_r] = 0$ exactly for $j > r$: the printed
    condition lacks the factor $x_j$. Source: Eq. (2) of [beneventano2024support].

    Args:
        X, y: a problem whose y depends on the first r inputs only.
        r: number of relevant inputs, in 0..d.

    Raises:
        ValueError: if the shapes or r do not fit, or a value is not finite.

    >>> balanced(torch.tensor([[2.0, 7.0]]), torch.tensor([4.0]), r=1)
    (tensor([[ 2.,  7.],
            [ 2., -7.]]), tensor([4., 4.]))
    """
    _problem(X, y)
    _support(r, X.shape[1])
    mirrored = torch.cat([X[:, :r], -X[:, r:]], dim=1)
    return torch.cat([X, mirrored]), torch.cat([y, y])


def correlated(X: Tensor, source: Tensor, *, r: int, correlation: float) -> Tensor:
    r"""Assumption 1 violated by a stated amount: $x_j \leftarrow \rho\,c_j s + \sqrt{1-\rho^2}\,x_j$ for $j > r$.

    With s the source over its root mean square and $c_j^2 = E[x_j^2]$, $E[x_j^2]$ stays and
    $E[x_j s] = \rho\,c_j$. A relevant input or y itself as source breaks $E[x_ix_j] = 0$ or
    $E[yx_j] = 0$, mostly both; $x_1 - x_2$ for $y = x_1 + x_2$ breaks the first alone, and the
    part of y outside the span of the relevant inputs the second alone.

    Args:
        X: inputs; those after the first r are orthogonal to `source`, as in `planted`.
        source: what to correlate with, shape (n,), not zero.
        r: number of relevant inputs, in 0..d.
        correlation: $\rho$, in [-1, 1].

    Returns:
        The inputs, shape (n, d).

    Raises:
        ValueError: if an argument does not fit, or an irrelevant input is zero or not orthogonal to `source`.
    """
    _problem(X, source)
    _support(r, X.shape[1])
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation must lie in [-1, 1], got {correlation}")
    Z, sizes, s = X[:, r:], X[:, r:].square().mean(dim=0).sqrt(), source / source.square().mean().sqrt()
    overlap = (s @ Z / len(X) / sizes).abs()
    if not (overlap < 1e-9).all():  # not >=: a zero column or source gives nan
        raise ValueError(f"source must be orthogonal to every irrelevant input, got cosines {overlap.tolist()}")
    Z = correlation * s[:, None] * sizes + math.sqrt(1 - correlation**2) * Z
    return torch.cat([X[:, :r], Z], dim=1)


# ------------------------------------------------------------------------------------- noisy labels
def with_label_noise(y: Tensor, *, sigma: float, generator: torch.Generator) -> Tensor:
    r"""Labels with Gaussian noise drawn once, $y + \sigma\xi$; any shape, `sigma` in the unit of y.

    Raises:
        ValueError: if `sigma` is negative or a value is not finite.
    """
    _spread(sigma)
    _finite(y=y)
    return y + sigma * torch.randn(y.shape, generator=generator, dtype=torch.float64)


def paired(x: Tensor, *, c: float, s: float) -> tuple[Tensor, Tensor]:
    r"""One input, each value twice, with labels $cx/m_2 \pm s/x$ where $m_2 = E[x^2]$.

    $E[yx] = c$. The residuals $e = y - cx/m_2$ of the least-squares fit have $ex = \pm s$: its
    variance is $R = s^2$ and its covariance with $x^2$ is 0. With c = 0 the input is irrelevant.
    Derived here.

    Args:
        x: the values, shape (n / 2,), none of them zero.
        c: slope, the target $E[yx]$.
        s: size of $ex$; the unit of yx.

    Raises:
        ValueError: if x has another shape or a zero, or a value is not finite.

    >>> X, y = paired(torch.tensor([0.5, 2.0]), c=0.0, s=1.0)
    >>> (y * X[:, 0]).tolist()
    [1.0, 1.0, -1.0, -1.0]
    """
    if x.ndim != 1 or not len(x):
        raise ValueError(f"x must have shape (n / 2,) with n > 0, got {tuple(x.shape)}")
    _finite(x=x, c=c, s=s)
    if (x == 0).any():
        raise ValueError(f"x must have no zero, got {x.tolist()}")
    x = x.double()
    fit = c * x / x.square().mean()
    return x.repeat(2)[:, None], torch.cat([fit + s / x, fit - s / x])


# ----------------------------------------------------------------------------------- the paper's data
def paper_recipe(
    num_draws: int, d: int, r: int, outer: Outer, *, sigma: float, numpy_seed: int
) -> tuple[Tensor, Tensor]:
    r"""The data of Figures 1, 3 and 10 to 16: $n = 2\,$`num_draws` examples, labels $g(x_1+\dots+x_r) \pm \sigma e$.

    The irrelevant inputs are centred, not orthogonalised: Assumption 1 holds up to sampling error
    only. The figures have (5000, 15, 5), the outer functions "linear" and "sine", and, in the
    published code, sigma = 0.001 and seed 0. Source: Appendix C.1 of [beneventano2024support].

    Args:
        num_draws, d, r: draws, inputs, relevant inputs; `0 <= r <= d` and `num_draws >= 1`.
        outer: the function g, one of `TARGETS` say.
        sigma: size of the label noise, in the unit of y.
        numpy_seed: seed of numpy's legacy generator, whose stream never changes.

    Raises:
        ValueError: if a size does not fit or `sigma` is negative.
    """
    _support(r, d)
    _spread(sigma)
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    legacy = np.random.RandomState(numpy_seed)
    x = legacy.randn(num_draws, d)
    noise = sigma * torch.from_numpy(legacy.randn(num_draws))  # drawn after x: the order matters
    x[:, r:] -= x[:, r:].mean(axis=0)
    X = torch.from_numpy(x)
    y = target(X, outer, alpha=torch.ones(r))
    return torch.cat([X, X]), torch.cat([y + noise, y - noise])


def figure9(n: int, *, numpy_seed: int) -> tuple[Tensor, Tensor]:
    r"""Figure 9: Gaussian x scaled to $E[x^2] = 1$ and one constant label $y = 1/E[x]$, so that $E[yx] = 1$.

    The labels are large where E[x] is small: very noisy for f(x) = abx. The published code has
    n = 100 and seed 0; the paper's text does not say how the data are made.
    Source: the code of Figure 9 of [beneventano2024support].

    Raises:
        ValueError: if n is less than 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    x = torch.from_numpy(np.random.RandomState(numpy_seed).randn(n))
    x = x / x.square().mean().sqrt()
    return x[:, None], (1 / x.mean()).expand(n).clone()


# x_2 = sign(x_1) (1, 1, -1): E[x_1 x_2] = E[x_2] = 0 although x_2 is a function of x_1.
_UNBALANCED = ((-3, 1), (-2, -1), (-1, -1), (1, 1), (2, 1), (3, -1))
# The examples of each toy: the inputs, then the label.
TOYS: dict[str, tuple[tuple[float, ...], ...]] = {
    "D1": ((1, -1), (1, 1)),
    "D2": ((1, 0), (3, 0)),
    "D2_code": ((1 / 3, 0), (3, 0)),
    "lemma1_A": ((1, 1), (2, 2)),
    "lemma1_B": ((1, -1.5), (2, 0.75)),
    "prop2": ((1, 0), (-1, 0), (0, 1), (0, -1)),
    "prop2_control": ((1, 0.5), (-1, 0.5), (0, 0), (0, 0)),
    "prop7": tuple((a / 2, b, a / 2) for a, b in _UNBALANCED),
    "prop10": tuple((a, b, a**2) for a, b in _UNBALANCED),
    "prop10_balanced": tuple((a, b, abs(a)) for a, _ in _UNBALANCED for b in (-1, 1)),
    "appendix_J": ((10, 1, 10), (-10, 1, 10)),
}


def toy(name: str) -> tuple[Tensor, Tensor]:
    r"""A data set small enough to print, from `TOYS`.

    Source: D1 and D2 are $\mathcal{D}_1$ and $\mathcal{D}_2$ of Appendix B of [beneventano2024support],
    D2_code what its published code has instead, appendix_J the "counterexample to the argument for
    linear networks" there. The others are derived here, for the statement that they are named after.

    | name | examples | what it shows |
    |---|---|---|
    | D1 | (1, -1), (1, 1) | noisy labels alone: E[yx] = 0, R = 1 |
    | D2 | (1, 0), (3, 0) | varying inputs alone: R = 0 |
    | D2_code | (1/3, 0), (3, 0) | the same, further apart |
    | lemma1_A | y = x, x in {1, 2} | R = 2.25, and (f - y)x has variance 0 at f = x |
    | lemma1_B | y = x - 2.5/x, x in {1, 2} | the same with E[yx] = 0: an irrelevant input |
    | prop2 | (+-1, 0), (0, +-1) | misspecified, E[y^2] > 0, but yx = 0 everywhere: nothing oscillates |
    | prop2_control | (+-1, 0.5), (0, 0) twice | the same inputs with R = 0.125 |
    | prop7 | x_1 = +-(1, 2, 3)/2, y = x_1 | E[x_1x_2] = E[yx_2] = 0 with a third moment: SGD can be slower |
    | prop10 | x_1 = +-(1, 2, 3), y = x_1^2 | E[x_1x_2] = E[yx_2] = E[x_2] = 0, but x_2 depends on x_1; also Prop. 6 |
    | prop10_balanced | the same x_1, each with x_2 = +-1, y = abs(x_1) | E[x_2 given x_1] = 0 |
    | appendix_J | (+-M, e), y = M, with M = 10, e = 1 | E[yx_2] = Me: x_2 is not irrelevant |

    In prop7 and prop10 $x_2 = \mathrm{sign}(x_1)\,(1, 1, -1)$.

    Raises:
        ValueError: if there is no toy of that name.

    >>> X, y = toy("D1")
    >>> X.tolist(), y.tolist()
    ([[1.0], [1.0]], [-1.0, 1.0])
    """
    if name not in TOYS:
        raise ValueError(f"name must be one of {tuple(TOYS)}, got {name!r}")
    rows = torch.tensor(TOYS[name], dtype=torch.float64)
    return rows[:, :-1], rows[:, -1]


def interpolation_points(n: int) -> tuple[Tensor, Tensor]:
    """Points on a zigzag through (-1, 0), (-0.36, 1.1), (0.36, -0.65), (1, 0.65), evenly spaced in x.

    A curve through all of them is short only if it is straight between the bends. The corners are
    ours; the task, with n = 12, is in the spirit of Figure 2 of [blanc2020implicit].

    Raises:
        ValueError: if n is less than 2.

    >>> interpolation_points(2)[1].tolist()
    [0.0, 0.65]
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    x = np.linspace(-1, 1, n)
    y = np.interp(x, (-1, -0.36, 0.36, 1), (0, 1.1, -0.65, 0.65))
    return torch.from_numpy(x)[:, None], torch.from_numpy(y)


# --------------------------------------------------------------------------------------------- digits
def digits() -> tuple[Tensor, Tensor]:
    """The 1797 handwritten digits that come with scikit-learn, 8 x 8 pixels: no download.

    Returns:
        Pixels in [0, 1], shape (1797, 64), and one-hot labels, shape (1797, 10).
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels) / 16, torch.eye(10, dtype=torch.float64)[torch.from_numpy(labels)]


def margin(side: int, *, width: int) -> Tensor:
    """Boolean mask of the margin around a square image, shape ((side + 2 width)^2,).

    Raises:
        ValueError: if `side` is not positive or `width` is negative.

    >>> int(margin(8, width=2).sum())
    80
    """
    if side < 1 or width < 0:
        raise ValueError(f"side must be positive and width not negative, got {side} and {width}")
    mask = torch.ones(side + 2 * width, side + 2 * width, dtype=torch.bool)
    mask[width : width + side, width : width + side] = False
    return mask.flatten()


def zero_margin(X: Tensor, *, width: int) -> Tensor:
    """Square images with `width` black pixels on every side: inputs not spanned by the data.

    Args:
        X: images, shape (n, side^2).
        width: pixels on each side.

    Returns:
        Shape (n, (side + 2 width)^2); `margin` says which pixels are new.

    Raises:
        ValueError: if the images are not square or `width` is negative.
    """
    side = math.isqrt(X.shape[-1])
    if X.ndim != 2 or side**2 != X.shape[1]:
        raise ValueError(f"X must have shape (n, side^2), got {tuple(X.shape)}")
    mask = margin(side, width=width)
    wide = X.new_zeros(len(X), len(mask))
    wide[:, ~mask] = X
    return wide


def noise_margin(X: Tensor, Y: Tensor, *, width: int, sigma: float, generator: torch.Generator) -> Tensor:
    r"""`zero_margin` filled with noise: irrelevant inputs of variance `sigma`$^2$ that the data do span.

    To rounding they have mean 0 and are uncorrelated in-sample with every pixel, every label and
    one another, so Assumption 1 holds for them.

    Args:
        X, Y: images, shape (n, side^2), and labels, shape (n, outputs).
        width: pixels on each side, at least 1.
        sigma: root mean square of a margin pixel, in the unit of X.
        generator: source of randomness.

    Returns:
        Shape (n, (side + 2 width)^2).

    Raises:
        ValueError: if a shape does not fit, n is too small, or `sigma` is negative.
    """
    _spread(sigma)
    if Y.ndim != 2 or len(Y) != len(X):
        raise ValueError(f"Y must have shape (n, outputs) with n = {len(X)}, got {tuple(Y.shape)}")
    wide = zero_margin(X, width=width)
    mask = margin(math.isqrt(X.shape[1]), width=width)
    against = torch.cat([X, Y, torch.ones(len(X), 1)], dim=1)
    wide[:, mask] = sigma * irrelevant_inputs(against, int(mask.sum()), generator=generator)
    return wide


# -------------------------------------------------------------------------------------------- streams
def gaussian_stream(d: int, outer: Outer, *, alpha: Tensor, sigma: float) -> Stream:
    r"""Endless fresh examples for online SGD: $x \sim N(0, I_d)$, $y = g(\langle\alpha, x\rangle) + \sigma\xi$.

    Args:
        d: number of inputs.
        outer, alpha: the target, as in `target`.
        sigma: size of the label noise, in the unit of y.

    Returns:
        A function of (num_examples, generator) that returns `X` and `y`.

    Raises:
        ValueError: if `alpha` has more than d entries or `sigma` is negative.
    """
    _spread(sigma)
    target(torch.zeros(1, d), torch.positive, alpha=alpha)  # refuse a bad alpha here, not at the first step

    def stream(num_examples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        X = torch.randn(num_examples, d, generator=generator, dtype=torch.float64)
        return X, with_label_noise(target(X, outer, alpha=alpha), sigma=sigma, generator=generator)

    return stream


def relabelled_stream(X: Tensor, y: Tensor, *, sigma: float) -> Stream:
    r"""Examples of a fixed set, drawn independently, each time with fresh label noise $\sigma\xi$.

    Noise drawn anew at every step as in [blanc2020implicit], Gaussian here; returns as `gaussian_stream`.

    Raises:
        ValueError: if the shapes do not fit, a value is not finite, or `sigma` is negative.
    """
    _problem(X, y)
    _spread(sigma)

    def stream(num_examples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(len(X), (num_examples,), generator=generator)
        return X[drawn], with_label_noise(y[drawn], sigma=sigma, generator=generator)

    return stream
