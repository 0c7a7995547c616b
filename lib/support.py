r"""Measurements of weights: which inputs the first layer uses, and how the layers share the work.

Pure functions that broadcast over leading axes, so one call measures a network or an ensemble of runs.
Throughout, `W1` is the first layer, shape (*runs, width, d), and `support_true` a boolean mask of the
relevant inputs, shape (d,); what has another shape raises a ValueError. Numbers let NaN through, but
yes-or-no answers and singular values raise a ValueError when `W1` is not finite: a run has diverged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _matrix(name: str, W: Tensor) -> Tensor:
    if W.ndim < 2 or 0 in W.shape[-2:]:
        raise ValueError(f"{name} must have shape (*runs, rows, columns), rows and columns >= 1, got {tuple(W.shape)}")
    return W


def _finite(W1: Tensor) -> Tensor:
    if not _matrix("W1", W1).isfinite().all():
        raise ValueError("W1 must be finite, got NaN or infinity")
    return W1


def _mask(W1: Tensor, support_true: Tensor) -> Tensor:
    if support_true.dtype != torch.bool or support_true.shape != _matrix("W1", W1).shape[-1:]:
        got = (support_true.dtype, tuple(support_true.shape))
        raise ValueError(f"support_true must be a boolean mask of shape ({W1.shape[-1]},), got {got}")
    return support_true


def _norm(values: Tensor, *, dim: int) -> Tensor:
    largest = values.abs().amax(dim=dim, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)  # without it the squares of weights below 1e-162 are zero
    return torch.linalg.vector_norm(values / scale, dim=dim) * scale.squeeze(dim)


def _large(values: Tensor, tau: float) -> Tensor:
    if not 0.0 < tau < 1.0:
        raise ValueError(f"tau is relative and must be in (0, 1), got {tau}")
    return values > tau * values.amax(dim=-1, keepdim=True)


def column_norms(W1: Tensor) -> Tensor:
    r"""How strongly the first layer reads each input, $s_j = \lVert W_1 e_j\rVert$, shape (*runs, d).

    >>> column_norms(torch.tensor([[3.0, 0.0], [4.0, 0.0]])).tolist()
    [5.0, 0.0]
    """
    return _norm(_matrix("W1", W1), dim=-2)


def gram(W1: Tensor) -> Tensor:
    r"""Gram matrix $W_1^\top W_1$ of the columns, shape (*runs, d, d).

    What rotations of the hidden units leave of `W1`; source: Figures 1 and 10 of [beneventano2024support].

    >>> gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[1.0, 2.0], [2.0, 5.0]]
    """
    return _matrix("W1", W1).mT @ W1


def irrelevant_norm(W1: Tensor, *, support_true: Tensor) -> Tensor:
    r"""Frobenius norm $\lVert Z\rVert_F$ of the columns that read irrelevant inputs, shape (*runs,).

    Source: Figures 3 and 11 of [beneventano2024support].

    >>> irrelevant_norm(torch.tensor([[9.0, 3.0, 4.0]]), support_true=torch.tensor([True, False, False])).item()
    5.0
    """
    return _norm(torch.where(_mask(W1, support_true), 0.0, column_norms(W1)), dim=-1)


def support_share(W1: Tensor, *, support_true: Tensor) -> Tensor:
    r"""Share of $\lVert W_1\rVert_F^2$ inside the true support, in [0, 1], shape (*runs,); NaN where `W1` is zero.

    >>> support_share(torch.ones(1, 4), support_true=torch.tensor([True, False, False, False])).item()
    0.25
    """
    return (irrelevant_norm(W1, support_true=~_mask(W1, support_true)) / _norm(column_norms(W1), dim=-1)) ** 2


def support(W1: Tensor, *, tau: float) -> Tensor:
    r"""Boolean mask of the inputs that the first layer uses, $s_j > \tau \max_k s_k$, shape (*runs, d).

    `tau` is relative and in (0, 1): rescaling the weights changes nothing, and a claim must hold
    over a range of it. All False where `W1` is zero. Defined here: the paper gives no threshold.

    >>> support(torch.tensor([[3.0, -1.0, 0.0]]), tau=0.3).tolist()
    [True, True, False]
    """
    return _large(column_norms(_finite(W1)), tau)


def recovered(W1: Tensor, *, support_true: Tensor, taus: Sequence[float]) -> Tensor:
    """Whether `support` at each threshold is exactly the true one, boolean, shape (*runs, len(taus)).

    >>> recovered(torch.tensor([[1.0, 0.2]]), support_true=torch.tensor([True, False]), taus=[0.1, 0.3, 0.5]).tolist()
    [False, True, True]
    """
    if len(taus) == 0:
        raise ValueError("taus must hold at least one threshold, got none")
    _mask(W1, support_true)
    return torch.stack([(support(W1, tau=float(tau)) == support_true).all(dim=-1) for tau in taus], dim=-1)


def recovery_range(W1: Tensor, *, support_true: Tensor) -> tuple[Tensor, Tensor]:
    r"""Ends of the interval $[\tau_0, \tau_1)$: exactly its thresholds recover the true support.

    $\tau_0$ is the largest irrelevant and $\tau_1$ the smallest relevant column norm, over the largest
    of all. The margin $\tau_1/\tau_0$ must exceed 1; it is infinite where only irrelevant columns are zero.
    Each has shape (*runs,), and is NaN where `W1` is zero. ValueError if no input is relevant.

    >>> recovery_range(torch.tensor([[4.0, 2.0, 1.0]]), support_true=torch.tensor([True, True, False]))
    (tensor(0.2500), tensor(0.5000))
    """
    if not _mask(W1, support_true).any():
        raise ValueError("support_true must name at least one relevant input, got none")
    s = column_norms(W1) / column_norms(W1).amax(dim=-1, keepdim=True)
    return torch.where(support_true, 0.0, s).amax(dim=-1), s[..., support_true].amin(dim=-1)


def effective_rank(W1: Tensor, *, tau: float) -> Tensor:
    r"""Number of singular values above $\tau$ times the largest, shape (*runs,); 0 where `W1` is zero.

    >>> effective_rank(torch.diag(torch.tensor([10.0, 5.0, 1.0])), tau=0.2).item()
    2
    """
    return _large(torch.linalg.svdvals(_finite(W1)), tau).sum(dim=-1)


def alignment(W1: Tensor, *, direction: Tensor) -> Tensor:
    r"""Cosine $|v_1^\top a| / |a|$ of $a$, shape (d,), and the direction that `W1` amplifies most; shape (*runs,).

    $v_1$ is the leading right singular vector; NaN where the two largest singular values agree to rounding.

    >>> round(alignment(torch.diag(torch.tensor([2.0, 1.0])), direction=torch.tensor([3.0, 4.0])).item(), 6)
    0.6
    """
    _, sigma, Vh = torch.linalg.svd(_finite(W1), full_matrices=False)
    if direction.shape != W1.shape[-1:] or not direction.any():
        raise ValueError(f"direction must be a non-zero vector of shape ({W1.shape[-1]},), got {direction.tolist()}")
    cosine = (Vh[..., 0, :] @ direction).abs() / _norm(direction, dim=-1)
    second = sigma[..., 1] if sigma.shape[-1] > 1 else 0.0
    rounding = max(W1.shape[-2:]) * torch.finfo(W1.dtype).eps * sigma[..., 0]
    return torch.where(sigma[..., 0] - second > rounding, cosine, torch.nan)


def imbalance(theta: Tensor) -> Tensor:
    r"""Imbalance $G_{ij} = \theta_j^2 - \theta_i^2$ of all pairs of layers of a diagonal network, per input.

    Source: Appendix K.4 of [beneventano2024support], whose $G_i$ is our $G_{i,i+1}$.
    `theta` has shape (*runs, depth, d) with depth at least 2, the answer (*runs, depth, depth, d).

    >>> imbalance(torch.tensor([[1.0], [3.0]]))[0, 1].item()
    8.0
    """
    if theta.ndim < 2 or theta.shape[-2] < 2:
        raise ValueError(f"theta must have shape (*runs, depth, d) with depth at least 2, got {tuple(theta.shape)}")
    first, second = theta.unsqueeze(-2), theta.unsqueeze(-3)
    return (second - first) * (second + first)  # squares would cancel where two layers are close


def layer_imbalance(W_lower: Tensor, W_upper: Tensor) -> Tensor:
    r"""Imbalance $G_l = W_{l+1}^\top W_{l+1} - W_l W_l^\top$ of two neighbouring fully connected layers.

    In a linear network a step adds $\eta^2 (g_{l+1}^\top g_{l+1} - g_l g_l^\top)$, $g_l$ the layers' gradients
    (derived here). Shapes (*runs, width, inputs) and (*runs, outputs, width) give (*runs, width, width).

    >>> layer_imbalance(torch.tensor([[1.0]]), torch.tensor([[3.0]])).item()
    8.0
    """
    if _matrix("W_upper", W_upper).shape[-1] != (width := _matrix("W_lower", W_lower).shape[-2]):
        raise ValueError(f"W_upper must have as many columns as W_lower has rows, {width}, got {W_upper.shape[-1]}")
    return W_upper.mT @ W_upper - W_lower @ W_lower.mT
