r"""What is timed: problems, the ordinary loops, and who races against whom.

Before a race `check` sees that the engine and the ordinary loops take the same steps on equal batches.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lib.data import TARGETS, interpolation_points, planted
from lib.engine import log_steps, train
from lib.models import DeepLinear, Diagonal, Law, Model, ReLU, from_init, initialise, uniform
from lib.support import column_norms

Batches = Iterator[tuple[Tensor, Tensor]]
Loop = Callable[..., object]
KAIMING = from_init(nn.init.kaiming_normal_)


@dataclass(frozen=True)
class Problem:
    """One network, its data, and how it is trained."""

    model: Model  # one network
    X: Tensor  # (n, d)
    y: Tensor  # (n,)
    batch_size: int
    etas: tuple[float, ...]
    seeds: int
    route: str

    @property
    def runs(self) -> int:
        """Size of the ensemble: every learning rate with every seed."""
        return len(self.etas) * self.seeds


def engine(problem: Problem, num_steps: int, **changes: object) -> Model:
    """The trained networks, by one call as a user writes it: a measurement at about ten steps."""
    full = problem.batch_size == len(problem.X)
    settings = {
        "eta": torch.tensor(problem.etas, dtype=torch.float64)[:, None],
        "seed": torch.arange(problem.seeds),
        "batch_size": problem.batch_size,
        "num_steps": num_steps,
        "sampling": "full" if full else "without_replacement",
        "last_batch": "short",
        "weight_decay": 0.0,
        "record": log_steps(num_steps, 10),
        "measure": {"column_norms": lambda model: column_norms(model.first_layer())},
        "route": problem.route,
    }
    runs = train(problem.model, problem.X, problem.y, **settings | changes)
    return runs.require_finite().model  # a run that diverged takes no more steps: it would look fast


# -- the same network and the same steps, without the engine ----------------------------------


class Factors(nn.Module):
    r"""A diagonal network as one writes it by hand: a parameter of shape (d, 1) for each factor."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.factors = nn.ParameterList(factor[:, None].clone() for factor in theta.detach())

    def forward(self, X: Tensor) -> Tensor:
        return X @ math.prod(self.factors)


def twin(model: Model) -> nn.Module:
    """The network as an ordinary torch module, with the same parameters in the same order."""
    if isinstance(model, Diagonal):
        return Factors(model.theta)
    biases, layers = getattr(model, "biases", False), []
    for fan_in, fan_out in itertools.pairwise(model.widths):
        layers.append(nn.Linear(fan_in, fan_out, bias=biases, dtype=torch.float64))
        if isinstance(model, ReLU):
            layers.append(nn.ReLU())
    net = nn.Sequential(*(layers[:-1] if isinstance(model, ReLU) else layers))  # no ReLU after the last layer
    nn.utils.vector_to_parameters(flat(model), net.parameters())
    return net


def flat(net: nn.Module) -> Tensor:
    """All parameters in a row, shape (parameters,)."""
    return nn.utils.parameters_to_vector(net.parameters()).detach()


def ordinary(net: nn.Module, batches: Batches, *, eta: float, num_steps: int) -> list[float]:
    """The loop of a tutorial: an optimiser, a loss module, autograd, and the loss noted at each step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=eta / 2)  # the book's loss is half of MSELoss
    criterion, losses = nn.MSELoss(), []
    for inputs, targets in itertools.islice(batches, num_steps):
        optimizer.zero_grad()
        loss = criterion(net(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def plain(net: nn.Module, batches: Batches, *, eta: float, num_steps: int) -> None:
    """The leanest loop that autograd allows: no optimiser, nothing noted."""
    parameters = list(net.parameters())
    for inputs, targets in itertools.islice(batches, num_steps):
        loss = (net(inputs) - targets).square().mean() / 2
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=eta)


LOOPS: dict[str, Loop] = {"ordinary": ordinary, "plain": plain}


def loaded(problem: Problem) -> Batches:
    """Reshuffled epochs from a DataLoader, for ever."""
    dataset = TensorDataset(problem.X, problem.y[:, None])
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(dataset, batch_size=problem.batch_size, shuffle=True, generator=generator)
    while True:
        yield from loader


def sliced(problem: Problem) -> Batches:
    """Reshuffled epochs without a DataLoader, for ever; the full batch as it stands."""
    X, y, generator = problem.X, problem.y[:, None], torch.Generator().manual_seed(0)
    if problem.batch_size == len(X):
        yield from itertools.repeat((X, y))
    while True:
        order = torch.randperm(len(X), generator=generator)
        for start in range(0, len(X), problem.batch_size):
            batch = order[start : start + problem.batch_size]
            yield X.index_select(0, batch), y.index_select(0, batch)


BATCHES: dict[str, Callable[[Problem], Batches]] = {"ordinary": loaded, "plain": sliced}


def check(problem: Problem, *, num_steps: int = 10, bound: float = 1e-12, loops: Mapping[str, Loop] = LOOPS) -> float:
    """Take the same few steps by the engine and by each loop, on equal batches.

    Returns:
        The largest gap between two parameters; rounding alone leaves about 1e-15.

    Raises:
        ArithmeticError: naming the loop whose parameters are farther than `bound` from the engine's.
    """
    n, eta, generator = len(problem.X), problem.etas[0], torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(n, generator=generator)[: problem.batch_size] for _ in range(num_steps)])
    given = {} if problem.batch_size == n else {"sampling": lambda n, **_: order}
    one = replace(problem, etas=(eta,), seeds=1)
    expected, worst = flat(engine(one, num_steps, **given)), 0.0
    for name, loop in loops.items():
        net = twin(problem.model)
        loop(net, ((problem.X[batch], problem.y[batch, None]) for batch in order), eta=eta, num_steps=num_steps)
        gap = (flat(net) - expected).abs().max().item()
        if not gap <= bound:
            raise ArithmeticError(f"the {name} loop and the engine differ by {gap:.2e} after {num_steps} steps")
        worst = max(worst, gap)
    return worst


def flops(model: Model, batch_size: int, *, full: bool) -> int:
    r"""Floating-point operations of one step of one run: what the cheapest known algebra needs, without padding.

    A multiplication or an addition is one, so a matrix of p entries times a vector is 2p. With P parameters, h
    of them below the top layer, inputs d, depth L and batch size B:

    - a batch meets a model linear in x through $X_B w - y_B$ and $X_B^\top r$, $4Bd$; through its second
      moments, $2d^2$, when the batch is full;
    - deep linear: $w$ from the top down, $2h$; the gradient of each layer, an outer product, from the bottom up,
      $2h + h$; the update, $2P$;
    - diagonal: $w$, $Ld$; the gradient, $2Ld$; the update, $2Ld$;
    - ReLU: forward $2BP$; backward, in the weights $2BP$ and in what is below them, $2B$ for each weight above the
      first layer; the update, $2P$.

    >>> net = DeepLinear((15, 15, 15, 15, 1))
    >>> [flops(net, batch_size, full=False) for batch_size in (1, 512)]
    [4815, 35475]
    >>> flops(net, 10_000, full=True)
    5205
    >>> flops(Diagonal(15, 2), 1, full=False)
    210
    """
    P, d = len(flat(model)), model.first_layer().shape[-1]
    if isinstance(model, ReLU):
        return 2 * batch_size * (3 * P - model.first_layer().numel()) + 2 * P
    data = 2 * d * d if full else 4 * batch_size * d
    if isinstance(model, Diagonal):
        return data + 5 * P
    return data + 5 * (P - model.widths[-2]) + 2 * P


# -- who races against whom -------------------------------------------------------------------


class Contender(NamedTuple):
    """Something that takes `num_steps` steps of `runs` runs when `take(num_steps)` is called."""

    runs: int
    take: Callable[[int], object]


@dataclass(frozen=True)
class Case:
    """A race: each of `fast` is compared with each of `slow`.

    `targets` are ratios hoped for, by (fast, slow). The `clock` counts seconds of processor time, which other
    programs hardly touch; a race between numbers of threads needs the time of day.
    """

    problem: Problem
    fast: dict[str, Contender]
    slow: dict[str, Contender]
    targets: Mapping[tuple[str, str], float] = field(default_factory=dict)
    clock: Callable[[], float] = time.process_time

    @property
    def flops(self) -> int:
        """Of one step of one run."""
        size = self.problem.batch_size
        return flops(self.problem.model, size, full=size == len(self.problem.X))


def by_engine(problem: Problem, **changes: object) -> Contender:
    """The engine as a contender."""
    return Contender(problem.runs, lambda num_steps: engine(problem, num_steps, **changes))


def by_loops(problem: Problem) -> dict[str, Contender]:
    """The ordinary loops as contenders, at the ensemble's first learning rate."""
    net = twin(problem.model)

    def contender(name: str) -> Contender:
        def take(num_steps: int) -> object:
            batches = BATCHES[name](problem)
            return LOOPS[name](copy.deepcopy(net), batches, eta=problem.etas[0], num_steps=num_steps)

        return Contender(1, take)

    return {name: contender(name) for name in LOOPS}


def against_loops(problem: Problem, *, target: float | None = None) -> Case:
    """The engine, on the whole ensemble and on one run, against the ordinary loops."""
    runs = {f"runs-{p.runs}": by_engine(p) for p in (problem, replace(problem, etas=problem.etas[:1], seeds=1))}
    targets = {} if target is None else {(f"runs-{problem.runs}", "ordinary"): target}
    return Case(problem, runs, by_loops(problem), targets)


def ensembles(problem: Problem) -> Case:
    """What a run-step costs among many runs: 16 and 256 of them against one."""
    size = {k: by_engine(replace(problem, etas=problem.etas[:1], seeds=k)) for k in (16, 256, 1)}
    return Case(problem, {f"runs-{k}": size[k] for k in (16, 256)}, {"runs-1": size[1]})


def jobs(problem: Problem) -> Case:
    """Two jobs against one."""
    two, one = ({f"jobs-{k}": by_engine(problem, jobs=k)} for k in (2, 1))
    return Case(problem, two, one, clock=time.perf_counter)


# The network, the data's size and the 30 runs of Figure 11 of [beneventano2024support]. Its learning rates, 0.1 and
# more, diverge at batch size 1 unless gradients are clipped; the speed of a step does not depend on them.
WIDTHS, N, RATES, SEEDS = (15, 15, 15, 15, 1), 10_000, (0.0005, 0.001, 0.002), 10


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def wide(model: Model, law: Law, batch_size: int) -> Problem:
    """15 inputs, 5 of them relevant."""
    X, y = planted(N, 15, TARGETS["linear"], alpha=torch.ones(5, dtype=torch.float64), generator=_seeded())
    return Problem(initialise(model, law, generator=_seeded()), X, y, batch_size, RATES, SEEDS, "compiled")


def linear(batch_size: int) -> Problem:
    """The deep linear network of Figure 11."""
    return wide(DeepLinear(WIDTHS), KAIMING, batch_size)


def diagonal(depth: int) -> Problem:
    """A diagonal network at batch size 1."""
    return wide(Diagonal(15, depth), uniform(0.3, 1.3), 1)


def relu_1d() -> Problem:
    """One hidden layer of 30 on 12 points of a line, at batch size 1."""
    net = initialise(ReLU((1, 30, 1), biases=True), KAIMING, generator=_seeded())
    return Problem(net, *interpolation_points(12), 1, RATES, SEEDS, "compiled")


def relu_15d() -> Problem:
    """The ReLU network of Figure 11's sizes: 64 runs, batch size 32."""
    return replace(wide(ReLU(WIDTHS, biases=True), KAIMING, 32), etas=RATES[:1], seeds=64, route="compiled")


CASES: dict[str, Callable[[], Case]] = {
    "linear-b1": lambda: against_loops(linear(1), target=600),
    "linear-b32": lambda: against_loops(linear(32), target=500),
    "linear-b128": lambda: against_loops(linear(128), target=300),
    "linear-b512": lambda: against_loops(linear(512), target=230),
    "linear-full": lambda: against_loops(linear(N), target=1e5),
    "diagonal-2": lambda: against_loops(diagonal(2)),
    "diagonal-3": lambda: against_loops(diagonal(3)),
    "diagonal-4": lambda: against_loops(diagonal(4)),
    "relu-1d": lambda: against_loops(relu_1d()),
    "relu-15d": lambda: against_loops(relu_15d()),
    "ensembles-compiled": lambda: ensembles(linear(1)),
    "ensembles-torch": lambda: ensembles(replace(relu_15d(), route="torch")),
    "jobs": lambda: jobs(linear(32)),
}
