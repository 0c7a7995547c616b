r"""Ensembles of independent runs of gradient descent and SGD, in one call.

`train` takes a model, data and the settings of the runs. Settings may be arrays: the model's run axes,
`eta`, `batch_size`, `seed`, the noises and the data broadcast against one another as in numpy, and
their common shape is the ensemble (`grid` lays settings out along axes of their own).

Two routes do the same arithmetic. `compiled` is one loop in machine code, for models linear in their
input and for ReLU networks; a run's result is then bit for bit the same whatever runs beside it.
`torch` takes modules, losses and devices of all kinds, and is the oracle that the first is tested against;
ensembles of another size may differ in the last digit of a step there. It is the faster one, twice at
most, for ReLU networks over a hundred units wide at batches of hundreds. Both see the same batches and
the same noise, which depend on the run's seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import joblib
import numpy as np
import torch
from joblib.parallel import get_active_backend
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib import compiled, routes
from lib.models import outputs, run_shape, unstack, with_parameters
from lib.optimizers import Diverged, check_choice


@dataclass(frozen=True)
class Divergence:
    """A run that left the finite numbers: its index in the ensemble, the step, the learning rate of that step."""

    run: tuple[int, ...]
    step: int
    eta: float

    def __str__(self) -> str:
        return f"run {self.run} has a parameter that is not finite after {self.step} steps at eta = {self.eta:g}"


@dataclass(frozen=True)
class Runs:
    """What an ensemble of shape (*runs) did.

    Attributes:
        model: the final parameters, with run axes (*runs); NaN where a run diverged.
        steps: the recorded steps, shape (records,); step 0 is the state before the first step.
        records: name -> measured values, shape (records, *runs, ...); NaN after a divergence.
        clipped: number of steps so far whose gradient was clipped, shape (records, *runs).
        diverged: the runs that diverged.
        route: "compiled" or "torch".
    """

    model: nn.Module
    steps: Tensor
    records: dict[str, Tensor]
    clipped: Tensor
    diverged: tuple[Divergence, ...]
    route: str

    def __getitem__(self, name: str) -> Tensor:
        """A record by its name."""
        return self.records[name]

    def require_finite(self) -> Runs:
        """These runs, if none diverged.

        Raises:
            Diverged: naming each run that did, its step and its learning rate.
        """
        if self.diverged:
            raise Diverged("; ".join(map(str, self.diverged)))
        return self


def grid(**settings: Sequence[float]) -> dict[str, Tensor]:
    """Settings along axes of their own, in the order given, ready to be passed to `train`.

    >>> {name: tuple(values.shape) for name, values in grid(eta=[0.1, 0.2], seed=range(10)).items()}
    {'eta': (2, 1), 'seed': (1, 10)}
    """
    count = len(settings)
    return {
        name: _numbers(name, list(values)).reshape([-1 if axis == own else 1 for axis in range(count)])
        for own, (name, values) in enumerate(settings.items())
    }


def of_each(function: Callable[[nn.Module], float]) -> Callable[[nn.Module], Tensor]:
    """A measurement made of a function that takes one network and returns a number, such as `sharpness`.

    A run that has diverged measures NaN; the function is not asked.

    >>> from lib.models import stack
    >>> size = of_each(lambda net: net.weight.numel())
    >>> size(stack([nn.Linear(2, 3), nn.Linear(2, 3)])).tolist()
    [6.0, 6.0]
    """

    def measurement(model: nn.Module) -> Tensor:
        finite = torch.stack([p.detach().flatten(1).isfinite().all(dim=1) for p in model.parameters()]).all(dim=0)
        pairs = zip(unstack(model), finite.tolist(), strict=True)
        return torch.tensor([float(function(net)) if alive else math.nan for net, alive in pairs], dtype=torch.float64)

    return measurement


def log_steps(num_steps: int, count: int) -> Tensor:
    """Step 0 and about `count` steps from 1 to `num_steps`, evenly spaced in their logarithm.

    >>> log_steps(1000, 4).tolist()
    [0, 1, 10, 100, 1000]
    """
    if num_steps < 1 or count < 1:
        raise ValueError(f"num_steps and count must be at least 1, got {num_steps} and {count}")
    powers = torch.logspace(0, math.log10(num_steps), count, dtype=torch.float64).round().long() if count > 1 else []
    return torch.unique(torch.cat([torch.tensor([0, num_steps]), torch.as_tensor(powers, dtype=torch.long)]))


def train(
    model: nn.Module,
    X: Tensor | Callable,
    y: Tensor | None,
    *,
    eta: float | Tensor,
    batch_size: int | Tensor,
    num_steps: int,
    sampling: str | Callable,
    weight_decay: float | Tensor,
    seed: int | Tensor,
    record: Sequence[int] | Tensor,
    measure: Mapping[str, Callable[[nn.Module], Tensor]],
    label_noise: float | Tensor = 0.0,
    parameter_noise: float | Tensor = 0.0,
    clip_norm: float | Tensor = math.inf,
    schedule: Callable[[Tensor], Tensor] | None = None,
    last_batch: str = "whole",
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    route: str = "auto",
    device: str = "cpu",
    jobs: int | None = None,
    progress: bool = False,
) -> Runs:
    r"""Run gradient descent or SGD from the model's parameters, for every setting of an ensemble.

    Step t draws a batch B and sets $\theta \leftarrow \theta - \eta_t(\nabla L_B(\theta) + \lambda\theta)$, with
    $L_B = \frac1{2|B|}\sum_{i\in B}\|f_\theta(x_i) - y_i\|^2$. Gradient descent is ``sampling="full"``.

    Args:
        model: start of the runs; its run axes take part in the ensemble. Parameters that do not require a
            gradient stay as they are. Not changed. A module from elsewhere must be one that `torch.func.vmap`
            takes: no dropout, batch norm, recurrent layer or shared parameter.
        X: inputs (n, d), or (*runs, n, d) with a data set for each run, which is then held once for each run;
            an image is flattened, and reshaped in `forward`. For ``sampling="online"`` a function
            ``X(num_examples, generator)`` that returns fresh inputs and targets, called for many steps at once.
        y: targets (n,), or (n, outputs), possibly after run axes; with a `loss` also class numbers (n,); None
            for ``sampling="online"``.
        eta: learning rate, at least 0.
        batch_size: examples of a step; n for ``sampling="full"``.
        num_steps: number of steps.
        sampling: ``"full"``, ``"without_replacement"`` (epochs, reshuffled), ``"cyclic"`` (one shuffle for each
            run, repeated), ``"subsets"`` (independent uniform subsets), ``"iid"`` (independent indices),
            ``"online"`` (fresh data), or a function ``(n, *, batch_size, num_steps, generator)`` that returns
            the batches of one run, shape (num_steps, batch_size), all held at once.
        weight_decay: $\lambda$, at least 0.
        seed: integer from 0; decides a run's batches and noise. Runs that differ in other settings than these see
            equal batches for equal seeds: n, `batch_size`, `sampling`, `last_batch`.
        record: steps, from 0 to `num_steps`, after which to measure.
        measure: name -> function of a model that holds some of the ensemble's runs on one run axis, whose result
            has these runs first; `models.outputs` evaluates any such model, `of_each` takes a function of one
            network. Called without gradients, on the CPU.
        label_noise: standard deviation of Gaussian noise on the targets, fresh at each step.
        parameter_noise: standard deviation of Gaussian noise added to each trained parameter after each step,
            not multiplied by `eta`.
        clip_norm: largest norm of the loss's gradient; infinity does not clip.
        schedule: factor of `eta` at steps 1, ..., num_steps, as a function of the tensor of steps, in float64.
        last_batch: what an epoch does when `batch_size` does not divide n: ``"whole"`` raises, ``"short"`` uses
            the remaining examples, ``"dropped"`` leaves them out.
        loss: function of one run's outputs and targets in place of the halved mean square; torch route only.
        route: ``"auto"``, ``"compiled"`` or ``"torch"``.
        device: where the torch route computes.
        jobs: parallel jobs, as in joblib; None leaves it to `joblib.parallel_config`, which also names other
            backends, such as a Dask cluster.
        progress: show a progress bar.

    The first call on a machine takes some ten seconds more, for the compiler.

    Returns:
        The runs; one that diverges keeps its records up to then, and does not disturb the others.

    Raises:
        ValueError: on an argument out of its range, or shapes that do not fit; names the argument.
    """
    check_choice("last_batch", last_batch, ("whole", "short", "dropped"))
    if not callable(sampling):
        check_choice("sampling", sampling, (*routes.SAMPLERS, "online"))
    settings = _settings(
        eta=eta,
        batch_size=batch_size,
        seed=seed,
        weight_decay=weight_decay,
        label_noise=label_noise,
        parameter_noise=parameter_noise,
        clip_norm=clip_norm,
    )
    steps = _recorded(record, num_steps)
    factors = _factors(schedule, num_steps)
    data = _data(model, X, y, settings, sampling, last_batch, loss)
    chosen = _route(route, model, data, loss, device)
    shape = _run_shape(model, data, settings)
    whole = routes.Task(
        model=_flat_model(model, shape),
        X=data.X if callable(data.X) else _flat(data.X, shape, 2),
        y=_flat(data.y, shape, 1 + data.tail),
        inputs=data.inputs,
        batch_size=0,
        num_steps=num_steps,
        sampling=sampling,
        drop_last=last_batch == "dropped",
        settings={name: value.expand(shape).flatten() for name, value in settings.items()},
        factors=factors,
        record=steps,
        measure=dict(measure),
        loss=loss,
        device=device,
    )
    parts = list(_split(whole, chosen, jobs))
    with routes.one_thread():  # around all tasks, since those in threads share the setting
        outcomes = _carry_out([part for _, part in parts], chosen, jobs, progress)
    return _collect(whole, shape, [rows for rows, _ in parts], outcomes, chosen)


# -- arguments --------------------------------------------------------------------------------


def _settings(**values: object) -> dict[str, Tensor]:
    """The settings of the runs as tensors of their run shapes, checked."""
    checked = {}
    for name, value in values.items():
        tensor, whole = _numbers(name, value), name in ("batch_size", "seed")
        if whole and (tensor.is_floating_point() or tensor.dtype == torch.bool):
            raise ValueError(f"{name} must be an integer, got {value!r}")
        tensor = tensor.to(torch.long if whole else torch.float64)
        if not tensor.numel():
            raise ValueError(f"{name} must hold at least one value, got the shape {tuple(tensor.shape)}")
        low = 1 if name == "batch_size" else 0
        outside = tensor.isnan() | (tensor < low) | (tensor.isinf() & (name != "clip_norm"))
        if outside.any():
            finite = "" if name == "clip_norm" else "finite and "
            raise ValueError(f"{name} must be {finite}at least {low}, got {tensor[outside][0].item():g}")
        checked[name] = tensor
    return checked


def _numbers(name: str, value: object) -> Tensor:
    """Real numbers as a tensor; floats keep their 53 bits whatever torch's default is."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number or an array of numbers, got {value!r}") from error
    if tensor.is_complex():
        raise ValueError(f"{name} must be real, got {value!r}")
    return tensor


def _recorded(record: Sequence[int] | Tensor, num_steps: int) -> tuple[int, ...]:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < 0:
        raise ValueError(f"num_steps must be an integer and not negative, got {num_steps}")
    given = _numbers("record", list(record) if isinstance(record, Iterable) else record)
    if given.ndim != 1 or given.numel() and (given.is_floating_point() or given.dtype == torch.bool):
        raise ValueError(f"record must be a sequence of integers, got {record!r}")
    steps = sorted(set(given.tolist()))
    if steps and not 0 <= steps[0] <= steps[-1] <= num_steps:
        raise ValueError(f"record must lie in 0..num_steps = {num_steps}, got {steps[0]}..{steps[-1]}")
    return tuple(steps)


def _factors(schedule: Callable[[Tensor], Tensor] | None, num_steps: int) -> Tensor:
    if schedule is None:
        return torch.ones(num_steps, dtype=torch.float64)
    steps = torch.arange(1, num_steps + 1, dtype=torch.float64)
    factors = _numbers("schedule", schedule(steps)).to(torch.float64).contiguous()
    if factors.shape != (num_steps,) or not torch.isfinite(factors).all() or (factors < 0).any():
        raise ValueError(
            f"schedule must return a finite factor, at least 0, for each of the {num_steps} steps, "
            f"got shape {tuple(factors.shape)}"
        )
    return factors


class _Data(NamedTuple):
    X: Tensor | Callable
    y: Tensor
    inputs: int
    tail: int  # axes of one example's target


def _data(
    model: nn.Module,
    X: Tensor | Callable,
    y: Tensor | None,
    settings: dict[str, Tensor],
    sampling: str | Callable,
    last_batch: str,
    loss: Callable | None,
) -> _Data:
    """The data, checked against the model and the sampler."""
    if not isinstance(model, nn.Module) or not list(model.parameters()):
        raise ValueError(f"model must be a torch module with parameters, got {type(model).__name__}")
    online = sampling == "online"
    if online != callable(X) or online != (y is None):
        raise ValueError("X must be a function and y None for sampling='online', and tensors for every other sampler")
    first, targets = X(2, torch.Generator().manual_seed(0)) if online else (X, y)
    for name, tensor in (("X", first), ("y", targets)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} must be finite, got {tensor[~torch.isfinite(tensor)][0].item()}")
    if first.ndim < 2 or first.numel() == 0:
        raise ValueError(f"X must have the shape (*runs, n, d) with n, d >= 1, got {tuple(first.shape)}")
    n, kind = first.shape[-2], next(model.parameters()).dtype
    if first.dtype != kind or (loss is None and targets.dtype != kind):
        raise ValueError(f"X and y must be {kind} as the model's parameters, got {first.dtype} and {targets.dtype}")
    tail = _outputs(model, first.reshape(-1, n, first.shape[-1])[0, :2]).shape[1:]
    if loss is not None and targets.shape[targets.ndim - 1 - len(tail) :] != (n, *tail):
        tail = ()  # classes, say: one number for each example, whatever the outputs are
    if targets.shape[targets.ndim - 1 - len(tail) :] != (n, *tail):
        raise ValueError(
            f"y must have the shape (*runs, {', '.join(map(str, (n, *tail)))}) for n = {n} inputs and this model, "
            f"got {tuple(targets.shape)}; axes of X before the last two, here {tuple(first.shape[:-2])}, are run axes"
        )
    if loss is not None and not targets.is_floating_point() and (settings["label_noise"] > 0).any():
        raise ValueError(f"label_noise must be 0 for targets of {targets.dtype}, which cannot carry it")
    if not online:
        _check_batches(settings["batch_size"], n, sampling, last_batch)
    return _Data(X, targets, first.shape[-1], len(tail))


def _outputs(model: nn.Module, X: Tensor) -> Tensor:
    """Outputs of the first network of `model` on X (n, d); a ValueError if the two do not fit."""
    first = {name: p.detach()[(0,) * len(run_shape(model))][None] for name, p in model.named_parameters()}
    try:
        return outputs(with_parameters(model, first), X[None])[0]
    except RuntimeError as error:
        raise ValueError(
            f"X must fit the model, got {X.shape[-1]} inputs, and the model must be one that torch.func.vmap takes "
            f"(no dropout, batch norm or recurrent layer): {error}"
        ) from error


def _check_batches(batch_size: Tensor, n: int, sampling: str | Callable, last_batch: str) -> None:
    if (batch_size > n).any():
        raise ValueError(f"batch_size must lie in 1..n = {n}, got {int(batch_size.max())}")
    if sampling == "full" and (batch_size != n).any():
        raise ValueError(f"batch_size must be n = {n} for sampling='full', got {int(batch_size.min())}")
    uneven = batch_size[n % batch_size != 0]
    if sampling in ("without_replacement", "cyclic") and last_batch == "whole" and len(uneven.flatten()):
        raise ValueError(
            f"batch_size must divide n = {n} for sampling={sampling!r}, got {int(uneven.flatten()[0])}; "
            "last_batch='short' or 'dropped' says what an epoch does with the remaining examples"
        )


def _route(route: str, model: nn.Module, data: _Data, loss: Callable | None, device: str) -> str:
    """The route that will run: compiled where it can, unless torch was asked for."""
    check_choice("route", route, ("auto", "compiled", "torch"))
    try:
        torch.zeros(1, device=torch.device(device)).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device must be one that torch can use here, got {device!r}: {error}") from error
    fits = (
        loss is None
        and torch.device(device).type == "cpu"
        and data.y.dtype == torch.float64
        and compiled.layout_of(model) is not None
    )
    if route == "compiled" and not fits:
        raise ValueError(
            "route must be 'torch' or 'auto' here, got 'compiled': that route runs DeepLinear and Diagonal networks, "
            "and ReLU networks, with one output, in float64, on the CPU, with the squared loss"
        )
    return "compiled" if fits and route != "torch" else "torch"


def _run_shape(model: nn.Module, data: _Data, settings: dict[str, Tensor]) -> tuple[int, ...]:
    shapes = {name: tuple(value.shape) for name, value in settings.items()}
    shapes["model"] = tuple(run_shape(model))
    shapes["X"] = () if callable(data.X) else tuple(data.X.shape[:-2])
    shapes["y"] = () if callable(data.X) else tuple(data.y.shape[: data.y.ndim - 1 - data.tail])
    try:
        return torch.broadcast_shapes(*shapes.values())
    except RuntimeError as error:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        raise ValueError(f"run axes must broadcast against one another, got {given}") from error


# -- tasks ------------------------------------------------------------------------------------


def _flat(tensor: Tensor, shape: tuple[int, ...], own: int) -> Tensor:
    """Run axes of a tensor flattened into one, of length 1 if it has none; its last `own` axes stay."""
    if tensor.shape[: tensor.ndim - own].numel() == 1:
        tensor = tensor.reshape(tensor.shape[tensor.ndim - own :])
    if tensor.ndim == own:
        return tensor[None].contiguous()  # machine code is compiled anew for another layout
    return tensor.expand(*shape, *tensor.shape[tensor.ndim - own :]).reshape(-1, *tensor.shape[tensor.ndim - own :])


def _flat_model(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    axes, flat = len(run_shape(model)), {}
    for name, parameter in model.named_parameters():
        own = parameter.shape[axes:]
        flat[name] = parameter.detach().expand(*shape, *own).reshape(-1, *own)
    return with_parameters(model, flat)


def _split(whole: routes.Task, route: str, jobs: int | None) -> Iterator[tuple[Tensor, routes.Task]]:
    """Cut an ensemble into tasks: by batch size, then by what is worked at once and by the number of jobs."""
    workers, sizes = joblib.effective_n_jobs(jobs), whole.settings["batch_size"]
    for size in sizes.unique().tolist():
        rows = torch.nonzero(sizes == size).flatten()
        most = len(rows) if route == "compiled" else routes.runs_at_once(whole, size)
        for part in rows.split(min(most, math.ceil(len(rows) / workers))):
            settings = {name: value[part] for name, value in whole.settings.items()}
            parameters = {name: p.detach()[part] for name, p in whole.model.named_parameters()}
            X = whole.X if callable(whole.X) or len(whole.X) == 1 else whole.X[part]
            y = whole.y if callable(whole.X) or len(whole.y) == 1 else whole.y[part]
            model = with_parameters(whole.model, parameters)
            yield part, replace(whole, model=model, X=X, y=y, batch_size=size, settings=settings)


class _Tick:
    """Tells a progress bar of steps taken; in another process, where there is no bar, it tells nobody."""

    def __init__(self, bar: tqdm | None) -> None:
        self.bar, self.told = bar, 0

    def __call__(self, steps: int) -> None:
        if self.bar is not None:
            self.bar.update(steps)
            self.told += steps

    def __reduce__(self) -> tuple:
        return _Tick, (None,)


def _carry_out(tasks: list[routes.Task], route: str, jobs: int | None, progress: bool) -> list[routes.Outcome]:
    """Perform tasks, in parallel as joblib is told to; threads for the compiled route, which needs no copies."""
    sizes, outcomes = [len(task.settings["seed"]) * task.num_steps for task in tasks], []
    with tqdm(total=sum(sizes), unit="step", unit_scale=True, disable=not progress, delay=1) as bar:
        ticks = [_Tick(bar) for _ in tasks]
        hint = "threads" if route == "compiled" else "processes"
        backend, _ = get_active_backend(prefer=hint)
        kind = "generator" if backend.supports_return_generator else "list"
        pool = joblib.Parallel(jobs, prefer=hint, return_as=kind)
        calls = (joblib.delayed(routes.perform)(*call) for call in zip(tasks, [route] * len(tasks), ticks, strict=True))
        for tick, size, outcome in zip(ticks, sizes, pool(calls), strict=True):
            outcomes.append(outcome)
            bar.update(size - tick.told)
    return outcomes


def _collect(
    whole: routes.Task, shape: tuple[int, ...], rows: list[Tensor], outcomes: list[routes.Outcome], route: str
) -> Runs:
    """Put the runs of all tasks back in the ensemble's order and shape."""
    order = torch.cat(rows).argsort()

    def together(parts: list[Tensor], axis: int) -> Tensor:
        joined = torch.cat(parts, dim=axis).index_select(axis, order)
        return joined.reshape([*joined.shape[:axis], *shape, *joined.shape[axis + 1 :]])

    names = outcomes[0].parameters
    final = {name: together([outcome.parameters[name] for outcome in outcomes], 0) for name in names}
    records = {
        name: together([torch.stack(outcome.records[name]) for outcome in outcomes], 1)
        if whole.record
        else torch.empty(0)
        for name in whole.measure
    }
    clipped = [torch.stack(outcome.clipped) for outcome in outcomes] if whole.record else []
    lost = together([outcome.diverged for outcome in outcomes], 0)
    rates = whole.settings["eta"].reshape(shape)
    diverged = tuple(
        Divergence(tuple(run), int(step := lost[tuple(run)]), float(rates[tuple(run)] * whole.factors[step - 1]))
        for run in torch.nonzero(lost).tolist()
    )
    return Runs(
        with_parameters(whole.model, final),
        torch.tensor(whole.record, dtype=torch.long),
        records,
        together(clipped, 1) if clipped else torch.empty(0, *shape, dtype=torch.long),
        diverged,
        route,
    )
