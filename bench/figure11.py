r"""The whole of Figure 11 by the engine, against the ordinary loop on a sample of the same work.

Three learning rates with ten sampling orders at each of four batch sizes, 200,000 steps each, and gradient descent for
20,000: 24 million steps, clipped as in the published code. The engine takes them all (`share=1`); the
ordinary loop takes `sample` steps of each kind of run, and its time for the figure is its time per step, times the
steps. Both note the norm of the irrelevant weights: the loop after each step, as the published code does, and the
engine at 300 steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.cases import Problem, flat, loaded, twin
from lib.engine import grid, log_steps, train
from lib.figures import (
    BATCH_SIZES,
    GD_STEPS,
    NUM_STEPS,
    RELEVANT,
    figure_data,
    figure_network,
    mse_units,
    z_norm,
)

RATES, ORDERS, CLIP = (0.1, 0.2, 0.5), 10, 1.0
SAMPLE = {512: 200, 128: 400, 32: 800, 1: 800}  # steps of the ordinary loop at a batch size, about a second each
GD_SAMPLE = 8


@dataclass(frozen=True)
class Kind:
    """Runs of one batch size: how many steps the figure has of them, and how many the ordinary loop is timed on."""

    batch_size: int
    steps: int  # of one run
    runs: int
    sample: int


def kinds(n: int) -> list[Kind]:
    """What Figure 11 is made of."""
    stochastic = [Kind(size, NUM_STEPS, len(RATES) * ORDERS, SAMPLE[size]) for size in BATCH_SIZES]
    return [*stochastic, Kind(n, GD_STEPS, len(RATES), GD_SAMPLE)]


def clipped_loop(net: nn.Module, batches: Iterator, *, lr: float, num_steps: int) -> list[tuple[float, float]]:
    """The ordinary loop with the gradient's norm cut; the loss and the irrelevant weights' norm of each step."""
    optimizer, criterion, noted = torch.optim.SGD(net.parameters(), lr=lr), nn.MSELoss(), []
    for inputs, targets in itertools.islice(batches, num_steps):
        optimizer.zero_grad()
        loss = criterion(net(inputs), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        noted.append((loss.item(), net[0].weight[:, ~RELEVANT].norm().item()))
    return noted


def by_engine(kind: Kind, X: Tensor, y: Tensor, num_steps: int, **changes: object) -> object:
    """The runs of one kind."""
    axes = grid(lr=RATES, seed=range(kind.runs // len(RATES)))
    settings = mse_units(lr=axes["lr"], clip=CLIP) | {
        "batch_size": kind.batch_size,
        "num_steps": num_steps,
        "sampling": "full" if kind.batch_size == len(X) else "without_replacement",
        "last_batch": "short",
        "seed": axes["seed"],
        "record": log_steps(num_steps, 300),
        "measure": {"z_norm": z_norm},
    }
    return train(figure_network(0), X, y, **settings | changes).require_finite()


def check(kind: Kind, X: Tensor, y: Tensor, *, num_steps: int = 10, bound: float = 1e-4) -> float:
    """The largest gap between two parameters after a few equal steps of both; torch adds 1e-6 to the norm it cuts.

    Raises:
        ArithmeticError: if it is above `bound`.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(len(X), generator=generator)[: kind.batch_size] for _ in range(num_steps)])
    given = {} if kind.batch_size == len(X) else {"sampling": lambda n, **_: order}
    runs = by_engine(kind, X, y, num_steps, **given, **mse_units(lr=RATES[0], clip=CLIP), seed=0)
    net = twin(figure_network(0))
    clipped_loop(net, ((X[batch], y[batch, None]) for batch in order), lr=RATES[0], num_steps=num_steps)
    gap = (flat(net) - flat(runs.model)).abs().max().item()
    if not gap <= bound:
        raise ArithmeticError(f"the ordinary loop and the engine differ by {gap:.2e} after {num_steps} steps")
    return gap


def figure_11(*, share: float) -> list[str]:
    """Race, and report.

    Args:
        share: of the figure's steps that the engine takes; 1 is the figure.

    Returns:
        The line of the ratio, and one for each kind of run.
    """
    X, y = figure_data("linear")
    engine_total = loop_total = 0.0
    rows, whole = [], sum(kind.steps * kind.runs for kind in kinds(len(X)))
    for kind in kinds(len(X)):
        check(kind, X, y)
        by_engine(kind, X, y, 1)  # warm
        num_steps = max(1, round(share * kind.steps))
        start = time.process_time()
        by_engine(kind, X, y, num_steps)
        engine = (time.process_time() - start) * kind.steps / num_steps
        problem = Problem(figure_network(0), X, y, kind.batch_size, RATES, ORDERS, "compiled")
        net, batches = twin(problem.model), loaded(problem)
        clipped_loop(net, batches, lr=RATES[0], num_steps=2)
        start = time.process_time()
        clipped_loop(net, batches, lr=RATES[0], num_steps=kind.sample)
        loop = (time.process_time() - start) / kind.sample * kind.steps * kind.runs
        engine_total, loop_total = engine_total + engine, loop_total + loop
        name = "full" if kind.batch_size == len(X) else str(kind.batch_size)
        rows.append(
            f"  batch {name:>4}: {kind.runs} runs of {kind.steps:,} steps, engine {engine:.3g} s, "
            f"ordinary loop {loop / 3600:.3g} h (from {kind.sample} steps)"
        )
    part = "all" if share == 1 else f"{share:g}"
    line = (
        f"bench figure-11/engine/ordinary ratio {loop_total / engine_total:.0f}  ({whole / 1e6:.1f} million steps, "
        f"of which the engine took {part}: {engine_total:.3g} s against {loop_total / 3600:.3g} h, of processor time)"
    )
    return [line, *rows]
