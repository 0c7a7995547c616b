r"""Closed forms that the chapters compare with: one function per formula.

One input at a time: $g = yx$, $p$ the product of its weights in a diagonal network and
$\epsilon_B = E_B[p x^2 - g]$; the moments of the data as in `Moments`. `phi` is
`finite_population(n, batch_size)` for epochs without replacement and for independent subsets,
1.0 for independent indices. A rate is the change of a logarithm per step: decay is negative.
Numbers may be floats or tensors that broadcast. Whatever lies outside a formula raises a
ValueError that names the argument, the rule and the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Number = float | Tensor


def _check(holds: bool | Tensor, name: str, rule: str, value: object) -> None:
    if not bool(torch.as_tensor(holds).all()):
        raise ValueError(f"{name} must {rule}, got {value}")


def _positive(**arguments: Number) -> None:
    for name, value in arguments.items():
        _check((value > 0) & (value < math.inf), name, "be positive and finite", value)


def _not_negative(**arguments: Number) -> None:
    for name, value in arguments.items():
        _check((value >= 0) & (value < math.inf), name, "not be negative, and finite", value)


def _batch(batch_size: Number, phi: Number = 1.0) -> None:
    _check((batch_size >= 1) & (batch_size % 1 == 0), "batch_size", "be a whole number, at least 1", batch_size)
    _check((phi >= 0) & (phi <= 1), "phi", "lie in [0, 1]", phi)


def _layers(theta: Tensor) -> None:
    _check(theta.ndim >= 2 and theta.shape[-2] >= 2, "theta", "have shape (..., depth >= 2, d)", tuple(theta.shape))


def finite_population(n: int, batch_size: int) -> float:
    r"""Finite-population correction $\phi = (n - B) / (n - 1)$.

    The mean of a uniform subset of size B has variance $\phi\,\mathrm{Var}(x) / B$; it is 1 at
    B = 1 and 0 for the full batch. Independent indices have no such factor.

    Args:
        n: number of examples, at least 2.
        batch_size: size of the subset, in 1..n.

    Raises:
        ValueError: if the sizes do not fit.

    >>> finite_population(6, 3)
    0.6
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must lie in 1..n = {n}, got {batch_size}")
    return (n - batch_size) / (n - 1)


# ------------------------------------------------------------------------------ moments of the data
class Moments(NamedTuple):
    """What the laws need to know of one input `x` and the target `y`; `g = y x`, all with 1/n."""

    c: Tensor  # E[g], 0 for an irrelevant input
    m2: Tensor  # E[x^2]
    m4: Tensor  # E[x^4]
    V4: Tensor  # Var(x^2) = m4 - m2^2
    C: Tensor  # Cov(x^2, g)
    R: Tensor  # Var(g), what drives the noise
    q: Tensor  # E[x^2 g^2]
    rho2: Tensor  # C^2 / (V4 R), in [0, 1]; NaN where x^2 or g is constant
    kappa: Tensor  # kurtosis m4 / m2^2, at least 1; NaN where x is zero


def moments(x: Tensor, y: Tensor) -> Moments:
    """Moments over the last axis of `x` and `y`, both of shape (..., n).

    >>> m = moments(torch.tensor([1.0, 2.0]), torch.tensor([-1.5, 0.75]))  # g = -1.5, 1.5
    >>> [round(v.item(), 4) for v in m]
    [0.0, 2.5, 8.5, 2.25, 2.25, 2.25, 5.625, 1.0, 1.36]
    """
    _check(x.shape == y.shape and x.numel() > 0, "y", f"have x's shape {tuple(x.shape)}, not empty", tuple(y.shape))

    def centred(v: Tensor) -> Tensor:  # relative to the first value, so that a constant has variance 0 exactly
        v = v - v[..., :1]
        return v - v.mean(dim=-1, keepdim=True)

    x2, g = x**2, y * x
    m2, m4, dx, dg = x2.mean(dim=-1), (x2**2).mean(dim=-1), centred(x2), centred(g)
    V4, C, R = (dx**2).mean(dim=-1), (dx * dg).mean(dim=-1), (dg**2).mean(dim=-1)
    q = (x2 * g**2).mean(dim=-1)
    return Moments(g.mean(dim=-1), m2, m4, V4, C, R, q, C**2 / (V4 * R), m4 / m2**2)


def _irrelevant(m: Moments) -> None:
    _check(m.c**2 <= 1e-18 * (m.R + m.c**2), "m.c", "be 0, to 1e-9 of the root mean square of yx", m.c)


def lemma1_variance(m: Moments, *, batch_size: Number, phi: Number) -> Tensor:
    r"""$\min_p \mathrm{Var}(\epsilon_B) = \frac{\phi}{B}\left(R - C^2/V_4\right)$, attained at $p = C/V_4$.

    From $\mathrm{Var}(\epsilon_B) = \frac{\phi}{B}(V_4p^2 - 2Cp + R)$. It is 0 where $g$ is affine in $x^2$.
    Lemma 1 of [beneventano2024support] with the cross term kept, derived here.

    >>> m = moments(torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([-2.0, 2.0, 0.5, -0.5]))
    >>> lemma1_variance(m, batch_size=2, phi=1.0).item()  # C = 0, R = 2.5
    1.25
    """
    _batch(batch_size, phi)
    explained = torch.where(m.V4 > 0, m.C**2 / m.V4, torch.zeros_like(m.V4))  # a constant x^2 explains nothing
    return phi / batch_size * (m.R - explained)


def lemma1_second_moment(m: Moments, *, batch_size: Number, phi: Number) -> Tensor:
    r"""$\min_p E[\epsilon_B^2]$; at $c = E[yx] = 0$, $\phi = 1$ it is $\frac1B(R - C^2/(V_4 + Bm_2^2))$.

    Minimum of the parabola $\mathrm{Var}(\epsilon_B) + (m_2p - c)^2$, any c. For an irrelevant input it is
    positive whenever $\phi R > 0$, as Proposition 8 of [beneventano2024support] asks. Derived here.

    >>> m = moments(torch.tensor([1.0, 2.0]), torch.tensor([-1.5, 0.75]))  # R = C = V4 = 2.25, m2 = 2.5
    >>> round(lemma1_second_moment(m, batch_size=1, phi=1.0).item(), 4)  # 2.25 - 2.25^2 / 8.5
    1.6544
    """
    _batch(batch_size, phi)
    share = phi / batch_size
    return share * m.R + m.c**2 - (share * m.C + m.c * m.m2) ** 2 / (share * m.V4 + m.m2**2)


# ------------------------------------------------------------------ one epoch against gradient descent
def theorem1_factor(
    *, eta: Number, a: Number, m2: Number, c2: Number, batch_size: Number, weight_decay: Number
) -> Number:
    r"""Factor of one irrelevant weight per step, $1 - \eta(a m_2 + \lambda) - \frac{\eta^2}{2B} a^2 c^2$.

    The mean over the orders of an epoch without replacement, per step, up to $O(\eta^3)$, with the later
    layers frozen: $a$ is an eigenvalue of $\tilde W^\top\tilde W$. In a diagonal network $c^2 = \phi V_4$; for
    gradient descent and for independent batches $c^2 = 0$, and the mean is exact. An input that is zero in
    the data, $m_2 = c^2 = 0$, has $1 - \eta\lambda$ in any network. Source: Theorem 1, Proposition 5 and
    Eq. (51) of [beneventano2024support]; $\phi$ and the average derived here.

    >>> theorem1_factor(eta=0.5, a=1.0, m2=1.0, c2=0.5, batch_size=2, weight_decay=0.0)  # 1 - 1/2 - 1/32
    0.46875
    """
    _positive(eta=eta)
    _not_negative(a=a, m2=m2, c2=c2, weight_decay=weight_decay)
    _batch(batch_size)
    return 1 - eta * (a * m2 + weight_decay) - eta**2 / (2 * batch_size) * a**2 * c2


def theorem1_drift(X: Tensor, y: Tensor, W1: Tensor, W_rest: Tensor, *, eta: Number, batch_size: int) -> Tensor:
    r"""What SGD adds to GD in a linear network, $-\frac{\eta^2\phi}{2B}P(PW_1M - \tilde W^\top N)$.

    The change of $W_1$ per step of an epoch without replacement, mean over orders, less that of GD, up to
    $O(\eta^3)$, later layers $\tilde W$ frozen; $P = \tilde W^\top\tilde W$, $\Sigma = E[xx^\top]$,
    $M = E[|x|^2xx^\top] - \Sigma^2$, $N = E[y|x|^2x^\top] - E[yx^\top]\Sigma$. On input j it has
    $c^2 = \phi\sum_i\mathrm{Var}(x_ix_j)$. Derived here: a batch's Hessian and gradient covary.

    Args: `X` (n, d), `y` (n, o), `W1` (..., width, d), `W_rest` (..., o, width). Returns W1's shape.

    >>> X, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)  # Var(x^2) = 16
    >>> theorem1_drift(X, y, torch.tensor([[1.0]]), torch.tensor([[1.0]]), eta=0.5, batch_size=1)
    tensor([[-2.]])
    """
    _positive(eta=eta)
    n = len(X)
    phi, P, Sigma, square = finite_population(n, batch_size), W_rest.mT @ W_rest, X.T @ X / n, (X**2).sum(dim=1)
    M = (X.T * square) @ X / n - Sigma @ Sigma
    N = (y.T * square) @ X / n - y.T @ X / n @ Sigma
    return -(eta**2) * phi / (2 * batch_size) * (P @ (P @ W1 @ M - W_rest.mT @ N))


def epoch_drift(gradients: Callable[[Tensor], Tensor], theta: Tensor, *, eta: Number, batch_size: int) -> Tensor:
    r"""$-\frac{\eta^2\phi}{4B}\nabla_\theta\,\mathrm{tr\,Cov}_x(\nabla\ell_x)$, for any model with all layers trained.

    The change per step of an epoch without replacement, mean over orders, less that of gradient descent,
    up to $O(\eta^3)$; independent batches have none. The sum over the batches is fixed, so of the second
    order only the covariance of a batch's Hessian and gradient is left. Derived here; compare
    [beneventano2023trajectories], [smith2021origin].

    Args: `gradients` maps `theta` (any shape) to the examples' gradients (n, *theta.shape), differentiably.

    >>> slope = lambda w: torch.tensor([1.0, 9.0]) * w  # of x^2 w^2 / 2 at x = 1, 3
    >>> epoch_drift(slope, torch.tensor(1.0), eta=0.5, batch_size=1)
    tensor(-2.)
    """
    _positive(eta=eta)
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        each = gradients(theta)
        (slope,) = torch.autograd.grad(each.var(dim=0, correction=0).sum(), theta)
    return -(eta**2) * finite_population(len(each), batch_size) / (4 * batch_size) * slope


def two_layer_drift(w1: Number, w2: Number, m: Moments, *, eta: Number, batch_size: Number, phi: Number) -> Tensor:
    r"""$-\frac{\eta^2\phi}{2B}[w_1w_2^2V_4(2w_1^2 + w_2^2) + Rw_1 - Cw_2(3w_1^2 + w_2^2)]$: `epoch_drift` of $w_1$.

    For $f = w_1w_2x$; swap the weights for $w_2$. Against `theorem1_factor` the first layer's own training
    adds $2w_1^2$ and the weight decay $\eta\phi R/2B$. Derived here.

    >>> m = moments(torch.tensor([1.0, 3.0]), torch.zeros(2))  # V4 = 16, R = C = 0
    >>> two_layer_drift(1.0, 1.0, m, eta=0.5, batch_size=1, phi=1.0)
    tensor(-6.)
    """
    _positive(eta=eta)
    _batch(batch_size, phi)
    pull = w1 * w2**2 * m.V4 * (2 * w1**2 + w2**2) + m.R * w1 - m.C * w2 * (3 * w1**2 + w2**2)
    return -(eta**2) * phi / (2 * batch_size) * pull


# -------------------------------------------------------------------------------------- balance, exact
def imbalance_factor(*, eta: Number, epsilon: Number, Q: Number) -> Number:
    r"""A step multiplies $\theta_i^2 - \theta_j^2$ by $1 - (\eta\epsilon_BQ)^2$, $Q = \prod_{k\ne i,j}\theta_k$; exact.

    Any batch, depth and pair of layers of a diagonal network; Q = 1 at depth 2. While
    $|\eta\epsilon_BQ| < 1$ the order of the layers is kept. Source: Appendix K.4 of [beneventano2024support].

    >>> imbalance_factor(eta=0.5, epsilon=1.0, Q=0.5)
    0.9375
    """
    _positive(eta=eta)
    return 1 - (eta * epsilon * Q) ** 2


def sum_difference_factors(*, eta: Number, epsilon: Number, weight_decay: Number) -> tuple[Number, Number]:
    r"""One step multiplies $u = w_1 + w_2$ and $v = w_1 - w_2$ by $1 - \eta\lambda \mp \eta\epsilon_B$; exact, depth 2.

    Two geometric walks with one driver, and $p = (u^2 - v^2)/4$. Derived here.

    >>> sum_difference_factors(eta=0.5, epsilon=0.5, weight_decay=0.0)
    (0.75, 1.25)
    """
    _positive(eta=eta)
    _not_negative(weight_decay=weight_decay)
    return 1 - eta * weight_decay - eta * epsilon, 1 - eta * weight_decay + eta * epsilon


def layer_imbalance_change(lower: Tensor, upper: Tensor, *, eta: Number) -> Tensor:
    r"""Change of $W_{l+1}^\top W_{l+1} - W_lW_l^\top$ in one step, $\eta^2(g_{l+1}^\top g_{l+1} - g_lg_l^\top)$; exact.

    Linear networks of any depth and any batch; gradients `lower` $g_l$ (..., h, d), `upper` $g_{l+1}$
    (..., o, h). First order cancels as $W_{l+1}^\top g_{l+1} = g_lW_l^\top$. Derived here.

    >>> layer_imbalance_change(torch.tensor([[1.0]]), torch.tensor([[3.0]]), eta=0.5)
    tensor([[2.]])
    """
    _positive(eta=eta)
    return eta**2 * (upper.mT @ upper - lower @ lower.mT)


# ---------------------------------------------------- depth 2, irrelevant input: rates, spread, weight decay
def imbalance_rate(*, eta: Number, R: Number, batch_size: Number, phi: Number, weight_decay: Number) -> Number:
    r"""Rate of $|w_1^2 - w_2^2|$ per step, $-2\eta\lambda - \eta^2\phi R/B$, to leading order.

    Depth 2 with $E[yx] = 0$, once $p$ hovers at 0; gradient descent has only the first term. Source:
    Proposition 2, Eq. (46), and Proposition 9 of [beneventano2024support]; constant and $\phi$ derived here.

    >>> imbalance_rate(eta=0.5, R=2.0, batch_size=4, phi=0.5, weight_decay=0.0)
    -0.0625
    """
    _not_negative(weight_decay=weight_decay)
    return -2 * eta * (weight_decay + effective_weight_decay(eta=eta, R=R, batch_size=batch_size, phi=phi))


def effective_weight_decay(*, eta: Number, R: Number, batch_size: Number, phi: Number) -> Number:
    r"""$\lambda_{\mathrm{eff}} = \eta\phi R/2B$: the noise shrinks both layers like this weight decay.

    $\log|w_1 \pm w_2|$ each change by $-\eta\lambda_{\mathrm{eff}}$ per step; same conditions as
    `imbalance_rate`. In a fitted two-layer linear network, an input of variance $s^2$ that tells nothing of the
    other inputs and of the residual $r$ has its column shrunk so, with $R = s^2E|r|^2$. Derived here.

    >>> effective_weight_decay(eta=0.5, R=2.0, batch_size=4, phi=0.5)
    0.0625
    """
    _positive(eta=eta)
    _not_negative(R=R)
    _batch(batch_size, phi)
    return eta * phi * R / (2 * batch_size)


def late_exponent(g: Tensor, *, eta: Number, weight_decay: Number) -> Tensor:
    r"""Exact late rate of $|w_1^2 - w_2^2|$ per step, $E\log|(1 - \eta\lambda)^2 - \eta^2g_B^2|$.

    `g` (..., k) holds $g_B = E_B[yx]$ of all k equally likely batches; $\epsilon_B \to -g_B$ as the weights
    vanish. Depth 2, any sampler, as only a batch's own distribution counts. Derived here.

    >>> round(late_exponent(torch.tensor([0.6, -0.6]), eta=1.0, weight_decay=0.0).item(), 4)  # log 0.64
    -0.4463
    """
    _positive(eta=eta)
    _not_negative(weight_decay=weight_decay)
    return ((1 - eta * weight_decay) ** 2 - (eta * g) ** 2).abs().log().mean(dim=-1)


def steps_to_shrink(delta: Number, *, eta: Number, R: Number, batch_size: Number, phi: Number) -> Tensor:
    r"""Steps until $|w_1^2 - w_2^2|$ has shrunk by `delta`, $t = \frac{B}{\eta^2\phi R}\log\frac1\delta$.

    The conditions of `imbalance_rate`, no weight decay; $\phi R > 0$. Source: Eq. (46) of
    [beneventano2024support], its constant derived here.

    >>> round(steps_to_shrink(0.01, eta=0.05, R=1.0, batch_size=1, phi=1.0).item())
    1842
    """
    _check((delta > 0) & (delta < 1), "delta", "lie in (0, 1)", delta)
    _positive(eta=eta, R=R, phi=phi)
    rate = imbalance_rate(eta=eta, R=R, batch_size=batch_size, phi=phi, weight_decay=0.0)
    return torch.as_tensor(delta, dtype=torch.float64).log() / rate


def stationary_spread(m: Moments, *, eta: Number, S: Number, batch_size: Number, phi: Number) -> tuple[Tensor, Tensor]:
    r"""$E[p^2], E[\epsilon_B^2] = (\eta S, 2m_2)\,\frac{\phi R}{B}/(2m_2 - \eta Ss_2)$, $s_2 = m_2^2 + \phi V_4/B$.

    Stationary and exact for $p' = p - \eta S\epsilon_B$ with independent batches, $s_2 = E[E_B[x^2]^2]$: depth 2,
    $S = w_1^2 + w_2^2$ held fixed, $E[yx] = 0$, $\eta Ss_2 < 2m_2$. Derived here; Section 4.1 of
    [beneventano2024support] has the order in $\eta$.

    >>> m = moments(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]))
    >>> stationary_spread(m, eta=0.5, S=2.0, batch_size=1, phi=1.0)
    (tensor(1.), tensor(2.))
    """
    _positive(eta=eta, S=S)
    _batch(batch_size, phi)
    _irrelevant(m)
    noise, s2 = phi * m.R / batch_size, m.m2**2 + phi * m.V4 / batch_size
    room = 2 * m.m2 - eta * S * s2
    _check(room > 0, "eta * S", f"be below 2 m2 / s2 = {2 * m.m2 / s2}", eta * S)
    return eta * S * noise / room, 2 * m.m2 * noise / room


def reshuffled_spread(m: Moments, *, eta: Number, S: Number) -> Tensor:
    r"""$E[\epsilon^2] = R + \eta S\left(E[x^2g^2] - C^2/m_2\right)$ for single examples without replacement.

    To first order in $\eta n$, at fixed $S$ and $E[yx] = 0$: what an epoch has seen is, on average, minus what
    it has not. Compare $R(1 + \eta Sm_4/2m_2)$ of `stationary_spread`: where $g^2$ and $x^2$ are uncorrelated
    and C = 0, reshuffling is the faster one if and only if the kurtosis of x is below 2. Derived here.

    >>> m = moments(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]))  # kurtosis 1: 1.5 < 2 of iid
    >>> reshuffled_spread(m, eta=0.25, S=2.0).item()
    1.5
    """
    _positive(eta=eta, S=S)
    _irrelevant(m)
    return m.R + eta * S * (m.q - m.C**2 / m.m2)


def late_spread(*, eta: Number, R: Number, batch_size: Number, phi: Number, num_steps: Number) -> Number:
    r"""Standard deviation of $\log|u/v|$ after $T$ steps, $2\eta\sqrt{\phi RT/B}$, to leading order.

    Depth 2, $E[yx] = 0$, late, independent batches; without replacement it stays bounded. Hence
    $\log\max|w|$ exceeds half of `late_exponent` times $T$ by half the modulus of this Gaussian. Derived here.

    >>> late_spread(eta=0.5, R=1.0, batch_size=4, phi=1.0, num_steps=16)
    2.0
    """
    _not_negative(num_steps=num_steps)
    return 2 * (2 * eta * effective_weight_decay(eta=eta, R=R, batch_size=batch_size, phi=phi) * num_steps) ** 0.5


def noise_floor(*, eta: Number, R: Number, m2: Number, batch_size: Number, phi: Number) -> Number:
    r"""Root mean square of the smallest weight in phase 2, $\sqrt{\eta\phi R/2Bm_2}$, to leading order.

    Diagonal network of any depth, $E[yx] = 0$, independent batches; it lasts until the second smallest
    weight is gone, whereas gradient descent has no floor. Derived here: stationary variance of
    $\theta' = (1 - \eta As_B)\theta + \eta\sqrt A\,g_B$, A the product of the other squares.

    >>> noise_floor(eta=0.5, R=1.0, m2=1.0, batch_size=1, phi=1.0)
    0.5
    """
    _positive(m2=m2)
    return (effective_weight_decay(eta=eta, R=R, batch_size=batch_size, phi=phi) / m2) ** 0.5


def clock(num_steps: Number, *, eta: Number, batch_size: Number, phi: Number) -> Number:
    r"""$\tau = \phi\eta^2T/B$: the time in which phase 2 of reshuffled SGD is one flow for small `eta`.

    $d\theta/d\tau = -\frac14\nabla\,\mathrm{tr\,Cov}_x(\nabla\ell_x)$ along the minima (`epoch_drift`). Independent
    batches have the same clock, and the same flow where $E[r^2xx^\top] \propto E[xx^\top]$. Derived here.

    >>> clock(16, eta=0.5, batch_size=4, phi=0.5)
    0.5
    """
    _not_negative(num_steps=num_steps)
    return 2 * effective_weight_decay(eta=eta, R=1.0, batch_size=batch_size, phi=phi) * eta * num_steps


def soft_threshold(c: Number, *, m2: Number, R: Number, eta: Number, batch_size: Number, phi: Number) -> Tensor:
    r"""Where SGD settles, $p_\infty = \mathrm{sign}(c)\,(|c| - \eta\phi R/2B)_+/m_2$, $c = E[yx]$, to leading order.

    Depth 2; `R` is the variance of $px^2 - yx$ over the data at $p = c/m_2$. Relevant inputs with $|c|$ below
    `effective_weight_decay` are deleted. Independent batches; in epochs without replacement only where $x^2$
    and $px^2 - yx$ are uncorrelated. Derived here: $E\log|1 - \eta\epsilon_B| = 0$ at a stationary $u$.

    >>> soft_threshold(-1.5, m2=2.0, R=2.0, eta=0.5, batch_size=1, phi=1.0).item()
    -0.5
    """
    _positive(m2=m2)
    c = torch.as_tensor(c, dtype=torch.float64)
    return c.sign() * (c.abs() - effective_weight_decay(eta=eta, R=R, batch_size=batch_size, phi=phi)).clamp(min=0) / m2


# ------------------------------------------------------------- which layer forgets an irrelevant input
def limit_squares(theta: Tensor, *, dying: int) -> Tensor:
    r"""$\theta_i^2(\infty) = \max(0, \theta_i^2 - \theta_{(k)}^2)(0)$, k = `dying`, $\theta_{(k)}$ the k-th smallest.

    Diagonal network, $E[yx] = 0$, distinct $|\theta_i|$, as $\eta \to 0$: one layer dies under gradient flow and
    gradient descent, two under SGD with R > 0, whatever the depth; differences of squares are kept.
    Derived here, in place of Theorem 2 of [beneventano2024support] from its third weight on.

    Args: `theta` (..., depth, d) at the start. Returns the squares at the end, same shape.

    >>> limit_squares(torch.tensor([[2.0], [0.5], [1.0]]), dying=2).squeeze().tolist()
    [3.0, 0.0, 0.0]
    """
    _layers(theta)
    _check(1 <= dying <= 2, "dying", "be 1 (gradient descent) or 2 (SGD)", dying)
    squares = theta**2
    return (squares - squares.sort(dim=-2).values[..., dying - 1, None, :]).clamp(min=0)


def second_weight_rate(theta: Tensor, *, mu: Number) -> Tensor:
    r"""Final rate of $|\theta_{(2)}|$ per step, $-\frac\mu2\prod_{k>2}(\theta_{(k)}^2 - \theta_{(2)}^2)(0)$.

    $\mu = \eta^2\phi R/B$; the conditions of `limit_squares`; at depth 2 the product is 1. Derived here from
    $d\theta_i^2/dt = -\mu\prod_{k\ge2}\theta_{(k)}^2$ for every $i \ge 2$.

    Args: `theta` (..., depth, d) at the start. Returns shape (..., d).

    >>> second_weight_rate(torch.tensor([[2.0], [0.5], [1.0]]), mu=0.5)
    tensor([-0.7500])
    """
    _layers(theta)
    _not_negative(mu=mu)
    squares = (theta**2).sort(dim=-2).values
    return -mu / 2 * (squares[..., 2:, :] - squares[..., 1:2, :]).prod(dim=-2)


def depth3_square(num_steps: Number, *, mu: Number, A0: Number, D: Number) -> Tensor:
    r"""$\theta_{(2)}^2$ at depth 3 after $T$ steps, $\frac{DA_0e^{-\mu DT}}{A_0 + D - A_0e^{-\mu DT}}$.

    $A_0 = (\theta_{(2)}^2 - \theta_{(1)}^2)(0)$, $D = (\theta_{(3)}^2 - \theta_{(2)}^2)(0) > 0$; solves
    $\dot A = -\mu A(A + D)$, $\mu = \eta^2\phi R/B$. The conditions of `limit_squares`. Derived here.

    >>> round(depth3_square(2.0, mu=0.5, A0=1.0, D=1.0).item(), 4)  # 1 / (2e - 1)
    0.2254
    """
    _positive(A0=A0, D=D)
    _not_negative(mu=mu, num_steps=num_steps)
    decayed = A0 * torch.as_tensor(-mu * D * num_steps, dtype=torch.float64).exp()
    return D * decayed / (A0 + D - decayed)


def first_layer_probability(*, depth: int, irrelevant: int, dying: int) -> float:
    r"""P(the first layer forgets all irrelevant inputs) $= \min(1, k/L)^{d-r}$, k = `dying` as in `limit_squares`.

    Diagonal linear network, independent and identically distributed start: every layer is equally likely to
    be among the k that die. Source: Proposition 1 of [beneventano2024support], with equality (k = 1, GD
    below $2/\lambda_{\max}$ at the start); k = 2, SGD with R > 0, derived here.

    >>> first_layer_probability(depth=4, irrelevant=2, dying=2)
    0.25
    """
    _check(depth >= 2, "depth", "be at least 2", depth)
    _check(irrelevant >= 0, "irrelevant", "not be negative", irrelevant)
    _check(1 <= dying <= 2, "dying", "be 1 (gradient descent) or 2 (SGD)", dying)
    return min(1.0, dying / depth) ** irrelevant


def relu_first_layer_probability(*, depth: int, irrelevant: int) -> float:
    r"""As above for gradient flow in a ReLU diagonal network, $(2^{-(L-2)}/L)^{d-r}$.

    Middle weights must all be positive, or the unit is dead and never moves. Needs a symmetric start, and
    $E[yx1_{x>0}] = E[yx1_{x<0}] = 0$. Source: Proposition 1 of [beneventano2024support]; value derived here.

    >>> relu_first_layer_probability(depth=4, irrelevant=1)
    0.0625
    """
    return first_layer_probability(depth=depth, irrelevant=irrelevant, dying=1) * 0.5 ** ((depth - 2) * irrelevant)


def scaled_layer_probability(s: Number) -> Tensor:
    r"""$P(|w_1| < |w_2|) = 1 - \frac2\pi\arctan s$ for a Gaussian start with first layer `s` times the second.

    So depth 2 with gradient descent forgets in the first layer this often; 1/2 needs equal scales. Derived here.

    >>> round(scaled_layer_probability(1.0).item(), 4)
    0.5
    """
    _positive(s=s)
    return 1 - 2 / math.pi * torch.as_tensor(s, dtype=torch.float64).atan()


# ------------------------------------------------------------------ where gradient descent ends; sharpness
def hyperbola_squares(G: Number, target: Number) -> tuple[Number, Number]:
    r"""The point $ab = \Phi$ of the hyperbola $a^2 - b^2 = G$: $a^2, b^2 = \frac12(\sqrt{G^2 + 4\Phi^2} \pm G)$.

    Gradient flow on $\frac12(ab - \Phi)^2$ conserves G, gradient descent multiplies it by `imbalance_factor`, so
    with the final G this is its limit, exactly; balanced at G = 0. Derived here.

    >>> hyperbola_squares(1.5, 1.0)
    (2.0, 0.5)
    """
    s = (G**2 + 4 * target**2) ** 0.5
    return (s + G) / 2, (s - G) / 2


def _imbalance2(a: Tensor, b: Tensor) -> Tensor:
    return (a.square().sum(dim=-1) + b.square().sum(dim=-1)) ** 2 - 4 * (a * b).sum(dim=-1) ** 2


def limit_sharpness(a: Tensor, b: Tensor, residuals: Tensor, *, target: Number, eta: Number) -> Tensor:
    r"""Sharpness where GD ends, $\lambda_\infty = \sqrt{4\Phi^2 + Q_0^2\prod_t(1 - \eta^2\epsilon_t^2)^2}$; exact.

    For $\frac12(a\cdot b - \Phi)^2$, start `a`, `b` (..., d), and a run that converges; `residuals` (..., T) are
    its $\epsilon_t = a_t\cdot b_t - \Phi$, none for gradient flow. $Q^2 = (|a|^2 + |b|^2)^2 - 4(a\cdot b)^2$ is
    quadratic in $aa^\top - bb^\top$, which a step multiplies by $1 - \eta^2\epsilon^2$. Derived here.

    >>> limit_sharpness(torch.tensor([2.0]), torch.tensor([1.0]), torch.empty(0), target=2.0, eta=0.5)
    tensor(5.)
    """
    _positive(eta=eta)
    return (4 * target**2 + _imbalance2(a, b) * (1 - (eta * residuals) ** 2).prod(dim=-1) ** 2) ** 0.5


def sharpness_gap(a: Tensor, b: Tensor, *, target: float, eta: Number) -> Tensor:
    r"""Flow's final sharpness less GD's, $\eta\frac{Q_0^2}{\lambda}\int_\Phi^{m_0}(m - \Phi)/\sqrt{4m^2 + Q_0^2}\,dm$.

    To leading order in `eta`, in the setting of `limit_sharpness`; $m_0 = a\cdot b$, $\lambda$ the flow's limit,
    $Q_0 > 0$. From $\sum_t\eta\epsilon_t^2 \to \int\epsilon^2dt$, $\dot m = -\epsilon\sqrt{4m^2 + Q^2}$. Derived here.

    >>> round(sharpness_gap(torch.tensor([2.0]), torch.tensor([1.0]), target=0.0, eta=0.5).item(), 4)  # 3/4
    0.75
    """
    _positive(eta=eta)
    Q = _imbalance2(a, b) ** 0.5
    _check(Q > 0, "a, b", "not be balanced", (a, b))
    m0, m1 = (a * b).sum(dim=-1), torch.as_tensor(target, dtype=Q.dtype)
    start, end = ((4 * m**2 + Q**2) ** 0.5 for m in (m0, m1))
    return eta * Q**2 / end * ((start - end) / 4 - m1 / 2 * ((2 * m0 / Q).asinh() - (2 * m1 / Q).asinh()))


def diagonal_sharpness(theta: Tensor, *, m2: Tensor, c: Tensor) -> Tensor:
    r"""Largest eigenvalue of a diagonal network's Hessian, $H_{ik} = m_2P_iP_k + [i \ne k](pm_2 - c)Q_{ik}$ per input.

    At any `theta` (..., depth, d), exact if $E[x_ix_j] = 0$ for all pairs; `m2`, `c` (d,) are $E[x_j^2]$ and
    $E[yx_j]$. 2 over it is the stability limit of `eta`. At a minimum an input has $m_2\sum_iP_i^2$. Derived here.

    >>> diagonal_sharpness(torch.tensor([[2.0], [1.0]]), m2=torch.tensor([1.0]), c=torch.tensor([2.0]))
    tensor(5.)
    """
    _layers(theta)
    _not_negative(m2=m2)
    one = torch.eye(theta.shape[-2], dtype=torch.bool)[..., None]  # layer i, layer k, input j
    left_out = one[:, None] | one[None]  # product over the layers other than i and k
    Q = theta[..., None, None, :, :].masked_fill(left_out, 1.0).prod(dim=-2)
    P = Q.masked_fill(~one, 0.0).sum(dim=-3)
    bend = (m2 * theta.prod(dim=-2) - c)[..., None, None, :] * Q
    H = m2 * P[..., :, None, :] * P[..., None, :, :] + bend.masked_fill(one, 0.0)
    return torch.linalg.eigvalsh(H.movedim(-1, -3)).amax(dim=(-2, -1))


# --------------------------------------------------------------------------------------------- label noise
def label_noise_factor(*, eta: Number, sigma: Number, batch_size: Number) -> Number:
    r"""Factor of $P_T\nabla\mathrm{reg}$ in the mean step along the minima of zero loss, $-\eta^2\sigma^2/4B$.

    As $\eta \to 0$; $\mathrm{reg} = \frac1n\sum_i|\nabla_\theta f(x_i)|^2$, fresh noise of variance $\sigma^2$ on every
    label, $P_T$ the projection on the minima's tangent. Source: Theorem 1 (informal) of [blanc2020implicit]; the
    factor derived here.

    >>> label_noise_factor(eta=0.5, sigma=2.0, batch_size=4)
    -0.0625
    """
    _not_negative(sigma=sigma)
    return -eta / 2 * effective_weight_decay(eta=eta, R=sigma**2, batch_size=batch_size, phi=1.0)


def label_noise_rate(*, eta: Number, sigma: Number, s: Number) -> Number:
    r"""Rate of $|a^2 - b^2|$ per step for $f = ab$, one datum, $-\eta^2\sigma^2/(1 - \eta s/2)$, $s = a^2 + b^2$.

    At the minima, $\eta s < 2$, small $\eta\sigma$: `imbalance_factor` with the stationary $E[\epsilon^2]$ of a
    linear residual. Derived here.

    >>> label_noise_rate(eta=0.5, sigma=1.0, s=2.0)
    -0.5
    """
    _positive(eta=eta, s=s)
    _not_negative(sigma=sigma)
    _check(eta * s < 2, "eta * s", "be below 2", eta * s)
    return -((eta * sigma) ** 2) / (1 - eta * s / 2)


def tanh_unit(p: Number) -> tuple[Tensor, Tensor, Tensor]:
    r"""Least $|\nabla(c\tanh z)|^2$ of a unit with $c\tanh z = p > 0$, $2p(\sqrt{1 + p^2} - p)$, with its z and c.

    At $\tanh^2z = p/\sqrt{1 + p^2}$. Concave in p, so under label noise one unit of the width carries a single
    datum's label. Derived here. Returns the least value, z, c.

    >>> [round(v.item(), 4) for v in tanh_unit(0.75)]  # 1.5 (1.25 - 0.75), tanh^2 z = 0.6
    [0.75, 1.0317, 0.9682]
    """
    _positive(p=p)
    p = torch.as_tensor(p, dtype=torch.float64)
    root = (1 + p**2) ** 0.5
    t = (p / root) ** 0.5
    return 2 * p * (root - p), t.atanh(), p / t
