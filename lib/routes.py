"""The two routes of the engine: the same steps in machine code and in torch.

A `Task` is a list of runs of one batch size. `perform` carries it out in one process and returns plain
tensors, so that tasks can be sent to other processes and machines.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from lib import compiled
from lib.models import outputs
from lib.optimizers import update

SAMPLERS = {
    "full": compiled.FULL,
    "without_replacement": compiled.WITHOUT_REPLACEMENT,
    "cyclic": compiled.CYCLIC,
    "subsets": compiled.SUBSETS,
    "iid": compiled.IID,
}
BLOCK = 1 << 17  # numbers drawn ahead: 1 MB, about a cache
POOL = 1 << 14  # numbers of fresh data drawn ahead for one run; part of what a seed means
WORK = 1 << 27  # multiplications after which Ctrl-C is heard and progress shown, about a tenth of a second


@dataclass(frozen=True)
class Task:
    """Runs of one batch size. `k` is their number; `sets` is 1 where they share their data, else k."""

    model: nn.Module  # parameters (k, ...)
    X: Tensor | Callable  # (sets, n, d), or a stream of fresh data
    y: Tensor  # (sets, n, ...)
    inputs: int  # d
    batch_size: int
    num_steps: int
    sampling: str | Callable
    drop_last: bool
    settings: dict[str, Tensor]  # eta, seed, weight_decay, label_noise, parameter_noise, clip_norm: (k,) each
    factors: Tensor  # of eta, (num_steps,)
    record: tuple[int, ...]
    measure: Mapping[str, Callable[[nn.Module], Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor] | None
    device: str


@dataclass(frozen=True)
class Outcome:
    """What the runs of a task did; the fields of `engine.Runs`, with one run axis."""

    parameters: dict[str, Tensor]
    records: dict[str, list[Tensor]]
    clipped: list[Tensor]
    diverged: Tensor  # the step after which a parameter was not finite, 0 for none: (k,)


class Batches:
    """The batches and the noises of a task's runs, from their seeds; both routes draw them here."""

    def __init__(self, task: Task) -> None:
        self.task, self.k = task, len(task.settings["seed"])
        self.X, self.y, self.pool = task.X, task.y, -1
        n = 1 if callable(task.X) else task.X.shape[1]
        self.kind = SAMPLERS.get(task.sampling, compiled.GIVEN)
        own = self.kind in (compiled.WITHOUT_REPLACEMENT, compiled.CYCLIC, compiled.SUBSETS)
        self.order = np.tile(np.arange(n), (self.k if own else 1, 1))
        self.position = np.zeros(self.k, dtype=np.int64)
        self.streams = np.zeros((self.k, 3), dtype=np.uint64)
        seeds = task.settings["seed"]
        compiled.seed_streams(seeds.numpy().astype(np.uint64), self.streams)
        if self.kind == compiled.CYCLIC:
            compiled.shuffle_all(self.order, self.streams)
        if self.kind == compiled.GIVEN:
            # not the seed itself, with which the caller may have drawn the data or the start
            self.generators = [torch.Generator().manual_seed(int(s) >> 1) for s in self.streams[:, compiled.ORDER]]
        if callable(task.sampling):
            self.custom = np.stack([self._custom(n, generator) for generator in self.generators])

    def _custom(self, n: int, generator: torch.Generator) -> np.ndarray:
        size, steps = self.task.batch_size, self.task.num_steps
        batches = self.task.sampling(n, batch_size=size, num_steps=steps, generator=generator)
        if not isinstance(batches, Tensor) or batches.is_floating_point() or batches.dtype == torch.bool:
            kind = batches.dtype if isinstance(batches, Tensor) else type(batches).__name__
            raise ValueError(f"sampling must return a tensor of integers, got {kind}")
        if batches.shape != (steps, size):
            raise ValueError(f"sampling must return the shape {(steps, size)}, got {tuple(batches.shape)}")
        if batches.numel() and not 0 <= int(batches.min()) <= int(batches.max()) < n:
            raise ValueError(f"sampling must return indices in 0..{n - 1}, got {batches.min()}..{batches.max()}")
        return batches.numpy().astype(np.int32)

    def blocks(self, start: int, stop: int, steps: int) -> Iterator[tuple[int, int]]:
        """Cut the steps start..stop-1 into blocks of at most `steps`; fresh data also end a block."""
        pool = self.pool_steps if self.task.sampling == "online" else stop
        while start < stop:
            end = min(stop, start + steps, (start // pool + 1) * pool)
            yield start, end
            start = end

    @property
    def pool_steps(self) -> int:
        """Steps for which fresh data are drawn at once."""
        return max(1, POOL // (self.task.batch_size * self.task.inputs))

    def given(self, start: int, stop: int) -> np.ndarray:
        """Batches that are not drawn by a sampler of `compiled`: (k or 1, steps, batch_size); else no steps."""
        size = self.task.batch_size
        if callable(self.task.sampling):
            return np.ascontiguousarray(self.custom[:, start:stop], dtype=np.int64)
        if self.task.sampling != "online":
            return np.zeros((1, 0, size), dtype=np.int64)
        pool, first = divmod(start, self.pool_steps)
        if pool != self.pool:
            fresh = [self._fresh(self.pool_steps * size, generator) for generator in self.generators]
            self.X, self.y = (torch.stack(tensors) for tensors in zip(*fresh, strict=True))
            self.pool = pool
        return (first * size + np.arange((stop - start) * size)).reshape(1, stop - start, size)

    def _fresh(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        X, y = self.task.X(count, generator)
        shapes = (count, self.task.inputs), (count, *self.task.y.shape[2:])
        if (X.shape, y.shape) != shapes:
            raise ValueError(f"X must return the shapes {shapes}, got {tuple(X.shape)} and {tuple(y.shape)}")
        kinds = next(self.task.model.parameters()).dtype, self.task.y.dtype
        if (X.dtype, y.dtype) != kinds:  # another process may have another default
            raise ValueError(f"X must return numbers of the kinds {kinds}, got {X.dtype} and {y.dtype}")
        return X, y


class CompiledRoute:
    """The loop of `compiled`, for the models that `compiled.layout_of` knows."""

    def __init__(self, task: Task, theta: Tensor) -> None:
        self.task, self.batches = task, Batches(task)
        self.layout = compiled.layout_of(task.model)
        padded = np.zeros((len(theta), len(self.layout.mask)))
        padded[:, self.layout.entries] = theta.numpy()
        b, counts = self.batches, np.zeros((2, len(theta)), dtype=np.int64)
        self.state = compiled.State(padded, b.order, b.position, b.streams, *counts)
        self.options = compiled.Options(*(task.settings[name].numpy() for name in compiled.Options._fields))
        self.factors = task.factors.numpy()
        self.padded, self.entries = torch.from_numpy(padded), torch.from_numpy(self.layout.entries)
        self.clipped, self.diverged = torch.from_numpy(counts)
        work = theta.shape[1] + task.batch_size * task.inputs
        if self.layout.kind == compiled.RELU:
            work = theta.shape[1] * task.batch_size
        elif task.sampling == "full" and not self.options.label_noise.any():
            work = theta.shape[1]  # from moments
        self.steps_at_once = max(1, min(BLOCK, WORK // work) // len(theta))
        self.problem, self.seen = None, None

    def _problem(self) -> compiled.Problem:
        """The data in padded form; made anew when the batches come with fresh data."""
        if self.seen is not self.batches.X:
            self.seen, X, y = self.batches.X, self.batches.X.numpy(), self.batches.y.numpy()
            columns = compiled.padded(X.shape[2], 4 if self.layout.kind == compiled.RELU else compiled.PAD)
            wide = np.zeros((*X.shape[:2], columns))
            wide[:, :, : X.shape[2]] = X
            full = wide if self.batches.kind == compiled.FULL else wide[:, :1]
            gram, cross = (full.mT @ right / full.shape[1] for right in (full, y[:, : full.shape[1], None]))
            self.problem = compiled.Problem(wide, y, gram, np.ascontiguousarray(cross[:, :, 0]))
        return self.problem

    def advance(self, start: int, stop: int) -> None:
        """Take the steps start + 1, ..., stop."""
        given, task = self.batches.given(start, stop), self.task
        data, factors = self._problem(), self.factors[start:stop]
        compiled.advance(
            self.layout, data, self.state, self.options, self.batches.kind, given,
            task.batch_size, task.drop_last, factors, start,
        )  # fmt: skip

    def read(self, theta: Tensor) -> None:
        """Write the parameters into `theta`, shape (k, parameters)."""
        torch.index_select(self.padded, 1, self.entries, out=theta)


class TorchRoute:
    """The same steps by automatic differentiation, for any module, loss and device; the oracle of the other route."""

    def __init__(self, task: Task, theta: Tensor) -> None:
        self.task, self.batches = task, Batches(task)
        self.theta = theta.to(task.device, copy=True)
        self.model = copy.deepcopy(task.model).to(task.device)  # for its buffers
        named = task.model.parameters()
        self.trained = torch.cat([torch.full_like(p[0], p.requires_grad, dtype=torch.bool).flatten() for p in named])
        self.trained = self.trained.to(task.device)
        numbers = {name: value for name, value in task.settings.items() if name not in ("seed", "batch_size")}
        self.settings = {name: value.to(task.device, theta.dtype) for name, value in numbers.items()}
        self.clipped = torch.zeros(len(theta), dtype=torch.long, device=task.device)
        self.diverged = torch.zeros_like(self.clipped)
        drawn = max(task.batch_size, theta.shape[1] * bool(task.settings["parameter_noise"].any()))
        self.steps_at_once = max(1, BLOCK // (len(theta) * drawn))
        self.data, self.seen = None, None

    def gradient(self, X: Tensor, y: Tensor) -> Tensor:
        """Gradient of each run's loss in its trained parameters, 0 elsewhere: shape (k, parameters)."""
        theta, model = self.theta.requires_grad_(), self.model
        with torch.enable_grad():
            made = outputs(model, X, cut(model, theta))
            if self.task.loss is None:
                if made.shape != y.shape:  # they would broadcast
                    raise ValueError(f"model must map X to the shape of y {tuple(y.shape)}, got {tuple(made.shape)}")
                losses = ((made - y) ** 2).flatten(1).sum(dim=1) / (2 * y.shape[1])
            else:
                losses = vmap(self.task.loss)(made, y)
                if losses.shape != theta.shape[:1]:
                    raise ValueError(f"loss must return one number for a run, got the shape {tuple(losses.shape[1:])}")
            (gradient,) = torch.autograd.grad(losses.sum(), theta)
        self.theta = theta.detach()
        return gradient * self.trained

    def _normals(self, stream: int, counts: np.ndarray) -> Tensor:
        out = np.zeros((len(counts), len(self.theta), int(counts.max(initial=0))))
        compiled.draw_normals(self.batches.streams, stream, out, counts)
        return torch.from_numpy(out).to(self.theta)

    def _indices(self, start: int, stop: int) -> tuple[Tensor, np.ndarray]:
        """The batches of these steps, shape (steps, k, batch_size), and how many examples of them count."""
        b, size = self.batches, self.task.batch_size
        indices, sizes = np.zeros((stop - start, len(self.theta), size), dtype=np.int64), np.full(stop - start, size)
        given = b.given(start, stop)
        if b.kind == compiled.GIVEN:
            indices[:] = given.transpose(1, 0, 2)
        else:
            last = self.task.drop_last
            compiled.draw_steps(b.kind, b.order, b.position, b.streams, indices, sizes, size, last)
        return torch.from_numpy(indices).to(self.theta.device), sizes

    def advance(self, start: int, stop: int) -> None:
        """Take the steps start + 1, ..., stop."""
        indices, sizes = self._indices(start, stop)
        if self.seen is not self.batches.X:
            self.seen = self.batches.X
            self.data = self.batches.X.to(self.task.device), self.batches.y.to(self.task.device)
        each = self.data[1][0, 0].numel()
        sigma, jitter = self.settings["label_noise"], self.settings["parameter_noise"]
        labels = self._normals(compiled.LABELS, sizes * each) if sigma.any() else None
        moves = self._normals(compiled.PARAMETERS, np.full_like(sizes, self.theta.shape[1])) if jitter.any() else None
        for step, size in enumerate(sizes.tolist()):
            X, y = (self._take(data, indices[step, :, :size]) for data in self.data)
            if labels is not None:
                y = y + (sigma[:, None] * labels[step, :, : size * each]).reshape(y.shape)
            self.step(X, y, start + step, None if moves is None else jitter[:, None] * moves[step])

    def _take(self, data: Tensor, batch: Tensor) -> Tensor:
        if self.task.sampling == "full":
            return data.expand(len(batch), *data.shape[1:])
        if len(data) == 1:
            return data[0].index_select(0, batch.flatten()).reshape(*batch.shape, *data.shape[2:])
        return data[torch.arange(len(batch), device=data.device)[:, None], batch]

    def step(self, X: Tensor, y: Tensor, done: int, move: Tensor | None) -> None:
        """Step number done + 1, on a batch of each run."""
        fixed = {name: self.settings[name] for name in ("weight_decay", "clip_norm")}
        eta = self.settings["eta"] * self.task.factors[done]
        theta, clipped = update(self.theta, self.gradient(X, y), eta=eta, **fixed)
        theta = torch.where(self.trained, theta if move is None else theta + move, self.theta)
        lost, running = ~torch.isfinite(theta.sum(dim=1)), self.diverged == 0
        self.clipped += clipped & running
        self.diverged[lost & running] = done + 1
        self.theta = torch.where(lost[:, None], torch.nan, theta)

    def read(self, theta: Tensor) -> None:
        """Write the parameters into `theta`, shape (k, parameters)."""
        theta.copy_(self.theta)


def cut(model: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    """The parameters of `model`, one run a row, as views of `theta`, shape (k, parameters)."""
    shapes = {name: parameter.shape[1:] for name, parameter in model.named_parameters()}
    pieces = theta.split([shape.numel() for shape in shapes.values()], dim=1)
    return {name: piece.view(-1, *shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}


def perform(task: Task, route: str, tick: Callable[[int], object]) -> Outcome:
    """Carry a task out; `tick` hears how many steps were taken since its last call."""
    theta = torch.cat([parameter.detach().flatten(1) for parameter in task.model.parameters()], dim=1)
    runner = (CompiledRoute if route == "compiled" else TorchRoute)(task, theta)
    view = copy.deepcopy(task.model)
    for name, piece in cut(view, theta).items():
        view.get_parameter(name).data = piece  # what is read into `theta` shows in `view`
    records: dict[str, list[Tensor]] = {name: [] for name in task.measure}
    clipped, done = [], 0
    with one_thread(), torch.no_grad():
        for stop in sorted({*task.record, task.num_steps}):
            for lo, hi in runner.batches.blocks(done, stop, runner.steps_at_once):
                runner.advance(lo, hi)
                tick((hi - lo) * len(theta))
            done = stop
            runner.read(theta)
            if stop in task.record:
                clipped.append(runner.clipped.cpu().clone())
                for name, function in task.measure.items():
                    records[name].append(_measured(name, function(view), len(theta)))
    runner.read(theta)  # once more: a measurement may have written into what it was shown
    return Outcome(cut(view, theta), records, clipped, runner.diverged.cpu())


def runs_at_once(task: Task, batch_size: int) -> int:
    """Runs whose parameters, or whose batches, fill about a megabyte: more gain nothing on the torch route."""
    one = sum(parameter[0].numel() for parameter in task.model.parameters())
    return max(1, BLOCK // max(one, batch_size * task.inputs))


def _measured(name: str, value: Tensor, k: int) -> Tensor:
    if not isinstance(value, Tensor) or value.shape[:1] != (k,):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"measure[{name!r}] must return a tensor with the {k} runs first, got {shape}")
    return value.detach().clone().cpu()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch: two make small products on a busy machine up to twenty times slower."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)
