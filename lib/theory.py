"""Closed forms that the chapters compare with: one function per formula."""

from __future__ import annotations


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
