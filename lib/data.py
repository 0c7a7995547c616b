"""Planted problems: inputs, targets, and which inputs the target does not use."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def assumption1(n: int, d: int, r: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Gaussian inputs made to satisfy Assumption 1 to rounding, and the target $y = x_1 + \dots + x_r$.

    The columns are orthogonalised and scaled to $E[x_j^2] = 1$, so $E[x_i x_j] = 0$ for every
    pair and $E[y x_j] = 0$ for every irrelevant $j > r$; higher moments stay generic.
    Source: Assumption 1 of [beneventano2024support].

    Args:
        n, d, r: numbers of examples, inputs and relevant inputs; `d <= n` and `0 <= r <= d`.
        generator: source of randomness.

    Returns:
        `X` of shape (n, d) and `y` of shape (n,), float64.

    Raises:
        ValueError: if the sizes do not fit.

    >>> X, y = assumption1(50, 4, 2, generator=torch.Generator().manual_seed(0))
    >>> bool((X.T @ X / 50 - torch.eye(4)).abs().max() < 1e-14)
    True
    """
    if not 1 <= d <= n:
        raise ValueError(f"d must lie in 1..n = {n}, got {d}")
    if not 0 <= r <= d:
        raise ValueError(f"r must lie in 0..d = {d}, got {r}")
    gaussian = torch.randn(n, d, generator=generator, dtype=torch.float64)
    X = torch.linalg.qr(gaussian).Q * math.sqrt(n)
    return X, X[:, :r].sum(dim=1)
