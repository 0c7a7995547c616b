r"""Gradient descent and SGD: one step, $\theta \leftarrow \theta - \eta\,\nabla L_B(\theta)$, and the samplers of $B$.

The samplers differ only in how the batches of successive steps depend on one another, and the
book is about what that changes. Introduced in "Two steps of SGD".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

SAMPLINGS = ("full", "without_replacement", "cyclic", "subsets", "iid")


class Diverged(ArithmeticError):
    """A run that left the finite numbers; says after which step and at which learning rate."""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def _check_sizes(n: int, batch_size: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must lie in 1..n = {n}, got {batch_size}")


def _epoch(n: int, batch_size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator).view(-1, batch_size)


def draw_batches(n: int, *, batch_size: int, num_steps: int, sampling: str, generator: torch.Generator) -> Tensor:
    """Indices of the examples that each step sees.

    Args:
        n: number of examples.
        batch_size: examples per step; a divisor of `n` for the samplers that work in epochs.
        num_steps: number of steps.
        sampling: ``"full"`` (all `n` examples each step), ``"without_replacement"`` (epochs,
            reshuffled), ``"cyclic"`` (one shuffle, repeated), ``"subsets"`` (independent uniform
            subsets) or ``"iid"`` (independent indices).
        generator: source of randomness.

    Returns:
        Integer tensor, shape (num_steps, batch_size).

    Raises:
        ValueError: on an unknown sampler, or a `batch_size` that does not fit it.

    >>> g = torch.Generator().manual_seed(0)
    >>> two_epochs = draw_batches(4, batch_size=2, num_steps=4, sampling="without_replacement", generator=g)
    >>> [sorted(epoch.flatten().tolist()) for epoch in two_epochs.split(2)]
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    _check_sizes(n, batch_size)
    if num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")
    check_choice("sampling", sampling, SAMPLINGS)
    if sampling == "full":
        if batch_size != n:
            raise ValueError(f"batch_size must be n = {n} for sampling='full', got {batch_size}")
        return torch.arange(n).repeat(num_steps, 1)
    if sampling == "iid":
        return torch.randint(n, (num_steps, batch_size), generator=generator)
    if sampling == "subsets":
        order = [torch.randperm(n, generator=generator)[:batch_size] for _ in range(num_steps)]
        return torch.stack(order) if order else torch.empty(0, batch_size, dtype=torch.long)
    if n % batch_size:
        raise ValueError(f"batch_size must divide n = {n} for sampling={sampling!r}, got {batch_size}")
    epochs = math.ceil(num_steps * batch_size / n)
    if sampling == "cyclic":
        return _epoch(n, batch_size, generator).repeat(epochs, 1)[:num_steps]
    shuffled = [_epoch(n, batch_size, generator) for _ in range(epochs)]
    return torch.cat(shuffled)[:num_steps] if shuffled else torch.empty(0, batch_size, dtype=torch.long)


def all_epochs(n: int, *, batch_size: int) -> Tensor:
    """Every order of one reshuffled epoch, once each: the ordered partitions into batches.

    There are $n! / (B!)^{n/B}$ of them; a mean over them is an exact expectation.

    Args:
        n: number of examples.
        batch_size: a divisor of `n`.

    Returns:
        Integer tensor, shape (number of orders, n // batch_size, batch_size).

    Raises:
        ValueError: if `batch_size` does not divide `n`, or there are more than 100,000 orders.

    >>> all_epochs(4, batch_size=2).shape
    torch.Size([6, 2, 2])
    """
    _check_sizes(n, batch_size)
    if n % batch_size:
        raise ValueError(f"batch_size must divide n = {n}, got {batch_size}")
    count = math.factorial(n) // math.factorial(batch_size) ** (n // batch_size)
    if count > 100_000:
        raise ValueError(f"n = {n} with batch_size = {batch_size} has {count} orders, more than 100,000")

    def ordered(left: tuple[int, ...]):
        if not left:
            yield ()
        for batch in itertools.combinations(left, batch_size):
            rest = tuple(i for i in left if i not in batch)
            for tail in ordered(rest):
                yield (batch, *tail)

    return torch.tensor(list(ordered(tuple(range(n)))))


def update(
    theta: Tensor, gradient: Tensor, *, eta: Tensor, weight_decay: Tensor, clip_norm: Tensor
) -> tuple[Tensor, Tensor]:
    r"""One step of each run, $\theta \leftarrow \theta - \eta\,(c\,g + \lambda\theta)$ with $c = \min(1, C/\|g\|)$.

    Clipping rescales the gradient of the loss; the penalty $\frac\lambda2\|\theta\|^2$ is added after it,
    as `torch.nn.utils.clip_grad_norm_` followed by `torch.optim.SGD` does (that function divides by
    $\|g\| + 10^{-6}$ instead).

    Args:
        theta, gradient: parameters and gradient of the loss, shape (runs, parameters).
        eta, weight_decay, clip_norm: one value for each run, shape (runs,); a `clip_norm` of infinity clips nothing.

    Returns:
        The new parameters, and which runs were clipped, shape (runs,).

    >>> one = torch.ones(1)
    >>> theta, gradient = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    >>> update(theta, gradient, eta=0.1 * one, weight_decay=0.0 * one, clip_norm=torch.inf * one)
    (tensor([[ 0.7000, -0.4000]]), tensor([False]))
    >>> update(theta, gradient, eta=0.1 * one, weight_decay=one, clip_norm=one)
    (tensor([[ 0.8400, -0.0800]]), tensor([True]))
    """
    norm = gradient.norm(dim=1)
    clipped = norm > clip_norm
    scale = torch.where(clipped, clip_norm / norm, 1.0)
    return theta - eta[:, None] * (scale[:, None] * gradient + weight_decay[:, None] * theta), clipped


def descend(gradient: Callable[[Tensor, Tensor], Tensor], theta: Tensor, batches: Tensor, *, eta: float) -> Tensor:
    r"""Take one step $\theta \leftarrow \theta - \eta\,g(\theta, B)$ per batch.

    Args:
        gradient: maps the parameters and a batch of indices to the gradient, in `theta`'s shape.
        theta: the start, any shape; not changed.
        batches: what `draw_batches` returns, or one of `all_epochs`.
        eta: learning rate, positive.

    Returns:
        The path, shape (num_steps + 1, *theta.shape); entry 0 is the start.

    Raises:
        ValueError: if `eta` is not positive, or the gradient has another shape.
        Diverged: as soon as a parameter is not finite.

    >>> halve = lambda theta, batch: theta
    >>> descend(halve, torch.tensor([8.0]), torch.zeros(3, 1), eta=0.5).squeeze().tolist()
    [8.0, 4.0, 2.0, 1.0]
    """
    if not eta > 0:
        raise ValueError(f"eta must be positive, got {eta}")
    path = [theta]
    for step, batch in enumerate(batches, start=1):
        slope = gradient(theta, batch)
        if slope.shape != theta.shape:
            raise ValueError(f"gradient must return theta's shape {tuple(theta.shape)}, got {tuple(slope.shape)}")
        theta = theta - eta * slope
        if not torch.isfinite(theta).all():
            raise Diverged(f"a parameter is not finite after {step} steps at eta = {eta}")
        path.append(theta)
    return torch.stack(path)
