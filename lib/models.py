r"""Models as torch modules, and their initialisations.

A model is written for one network and serves an ensemble: its parameters may carry leading run
axes, one entry per independent run, and inputs of shape (*runs, n, d) meet them run by run. So
`W1` of a single network has shape (width, d), that of 64 networks (64, width, d), and the same
`forward` evaluates both. Each model answers for its first layer through `first_layer()`.

Any other `torch.nn.Module` works with the engine too: a single one as it is, several through `stack`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

Law = Callable[[Tensor, torch.Generator], object]


class Model(nn.Module):
    """What the models of the book share: parameters of known per-run shapes, and run axes before them."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        if min(size for shape in shapes.values() for size in shape) < 1:
            raise ValueError(f"every size of a layer must be at least 1, got {shapes}")
        self.shapes = shapes
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, dtype=torch.float64)))

    @property
    def run_shape(self) -> tuple[int, ...]:
        """Sizes of the leading run axes; () for a single network."""
        name, shape = next(iter(self.shapes.items()))
        parameter = getattr(self, name)
        return tuple(parameter.shape[: parameter.ndim - len(shape)])


def _check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    if len(widths) < 2:
        raise ValueError(f"widths must list at least the inputs and the outputs, got {tuple(widths)}")
    return tuple(widths)


def _scalar(outputs: Tensor) -> Tensor:
    return outputs.squeeze(-1) if outputs.shape[-1] == 1 else outputs


class DeepLinear(Model):
    r"""Fully connected linear network, $f(x) = W_L \cdots W_1 x$.

    Args:
        widths: (d, hidden..., outputs). `W1` has shape (widths[1], d), and so on.

    Calling it maps X of shape (*runs, n, d) to (*runs, n), or (*runs, n, outputs) for several outputs.

    >>> net = DeepLinear((15, 15, 15, 15, 1))
    >>> net.first_layer().shape, net(torch.ones(3, 15, dtype=torch.float64)).shape
    (torch.Size([15, 15]), torch.Size([3]))
    """

    def __init__(self, widths: Sequence[int]) -> None:
        self.widths = _check_widths(widths)
        super().__init__({f"W{i}": (m, k) for i, (k, m) in enumerate(zip(widths, widths[1:], strict=False), 1)})

    def forward(self, X: Tensor) -> Tensor:
        for name in self.shapes:
            X = X @ getattr(self, name).mT
        return _scalar(X)

    def first_layer(self) -> Tensor:
        """`W1`, shape (*runs, width, d)."""
        return self.W1

    def effective(self) -> Tensor:
        """The end-to-end matrix $W_L \\cdots W_1$, shape (*runs, outputs, d)."""
        product = self.W1
        for name in list(self.shapes)[1:]:
            product = getattr(self, name) @ product
        return product


class Diagonal(Model):
    r"""Diagonal linear network, $f(x) = \sum_j x_j \prod_l \theta_{lj}$.

    Args:
        d: number of inputs.
        depth: number of layers, at least 1. The parameter `theta` has shape (depth, d).
    """

    def __init__(self, d: int, depth: int) -> None:
        self.d, self.depth = d, depth
        super().__init__({"theta": (depth, d)})

    def forward(self, X: Tensor) -> Tensor:
        return (X @ self.effective().unsqueeze(-1)).squeeze(-1)

    def first_layer(self) -> Tensor:
        """The first factor as a diagonal matrix, shape (*runs, d, d)."""
        return torch.diag_embed(self.theta[..., 0, :])

    def effective(self) -> Tensor:
        r"""The predictor $\prod_l \theta_l$, shape (*runs, d)."""
        return self.theta.prod(dim=-2)


class Product(Diagonal):
    """The toy $f(x) = a b x$: one input, two layers; `theta` is ((a,), (b,))."""

    def __init__(self) -> None:
        super().__init__(1, 2)


class ReLU(Model):
    r"""ReLU network, $f(x) = W_L\,\sigma(\cdots\sigma(W_1 x + b_1)\cdots) + b_L$ with $\sigma(z) = \max(z, 0)$.

    The derivative of $\sigma$ at 0 is taken as 0, as torch does.

    Args:
        widths: (d, hidden..., outputs).
        biases: whether layers have biases `b1`, `b2`, ...
    """

    def __init__(self, widths: Sequence[int], *, biases: bool) -> None:
        self.widths, self.biases = _check_widths(widths), biases
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (k, m) in enumerate(zip(widths, widths[1:], strict=False), 1):
            shapes[f"W{i}"] = (m, k)
            if biases:
                shapes[f"b{i}"] = (m,)
        super().__init__(shapes)

    def forward(self, X: Tensor) -> Tensor:
        depth = len(self.widths) - 1
        for i in range(1, depth + 1):
            X = X @ getattr(self, f"W{i}").mT
            if self.biases:
                X = X + getattr(self, f"b{i}").unsqueeze(-2)
            if i < depth:
                X = X.relu()
        return _scalar(X)

    def first_layer(self) -> Tensor:
        """`W1`, shape (*runs, width, d)."""
        return self.W1


class DiagonalReLU(Model):
    r"""Diagonal ReLU network, $f(x) = \sum_j \theta_{Lj}\,\sigma(\theta_{L-1,j} \cdots \sigma(\theta_{1j} x_j))$.

    Args:
        d: number of inputs.
        depth: number of layers $L$, at least 1. The parameter `theta` has shape (depth, d).
    """

    def __init__(self, d: int, depth: int) -> None:
        self.d, self.depth = d, depth
        super().__init__({"theta": (depth, d)})

    def forward(self, X: Tensor) -> Tensor:
        if X.shape[-1] != self.d:  # a single column would broadcast
            raise ValueError(f"X must have d = {self.d} inputs, got {X.shape[-1]}")
        for layer in range(self.depth - 1):
            X = (X * self.theta[..., layer, :].unsqueeze(-2)).relu()
        return (X @ self.theta[..., -1, :].unsqueeze(-1)).squeeze(-1)

    def first_layer(self) -> Tensor:
        """The first factor as a diagonal matrix, shape (*runs, d, d)."""
        return torch.diag_embed(self.theta[..., 0, :])


# -- parameters of one network and of many ----------------------------------------------------


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of one network's parameters, by name."""
    if isinstance(model, Model):
        return model.shapes
    return getattr(model, "_lib_shapes", {name: tuple(p.shape) for name, p in model.named_parameters()})


def run_shape(model: nn.Module) -> tuple[int, ...]:
    """Sizes of a model's run axes; () for a single network."""
    return model.run_shape if isinstance(model, Model) else getattr(model, "_lib_run_shape", ())


def outputs(model: nn.Module, X: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
    """What each network of an ensemble makes of X: for a module of this file the same as ``model(X)``.

    A module from elsewhere does not know of run axes; `torch.func.vmap` takes it over them.

    Args:
        model: any module, with run axes or without.
        X: inputs (n, d) for all networks, or (*runs, n, d).
        parameters: name -> tensor, in place of the model's own.

    Returns:
        Shape (*runs, n), or (*runs, n, outputs) for several outputs.

    >>> three = stack([nn.Linear(2, 1) for _ in range(3)])
    >>> outputs(three, torch.ones(5, 2)).shape
    torch.Size([3, 5, 1])
    """
    own = dict(model.named_parameters()) if parameters is None else parameters

    def call(one: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(model, one, (inputs,))

    if not isinstance(model, Model):
        for _ in run_shape(model):
            call = vmap(call, in_dims=(0, None if X.ndim == 2 else 0))
    return call(own, X)


def with_parameters(model: nn.Module, parameters: dict[str, Tensor]) -> nn.Module:
    """A copy of `model` that holds `parameters`, which may carry leading run axes.

    Args:
        model: any module; not changed.
        parameters: name -> tensor, every name of `model.named_parameters()`; the last axes of each
            tensor are those of one network.

    Raises:
        ValueError: on a missing or unknown name, on a shape that does not fit, on a parameter with two names.
    """
    own = dict(model.named_parameters())
    if len(list(model.named_parameters(remove_duplicate=False))) > len(own):
        raise ValueError(f"model must not use a parameter under two names, got {type(model).__name__}")
    shapes = shapes_of(model)
    if set(parameters) != set(own):
        raise ValueError(f"parameters must have the names {sorted(own)}, got {sorted(parameters)}")
    leading = set()
    for name, tensor in parameters.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"parameters[{name!r}] must be a tensor of floats, got {tensor!r}")
        shape = shapes[name]
        if tuple(tensor.shape[tensor.ndim - len(shape) :]) != tuple(shape):
            raise ValueError(f"parameters[{name!r}] must end in the shape {shape}, got {tuple(tensor.shape)}")
        leading.add(tuple(tensor.shape[: tensor.ndim - len(shape)]))
    if len(leading) > 1:
        raise ValueError(f"all parameters must have the same leading run axes, got {sorted(leading)}")
    fresh = copy.deepcopy(model, {id(p): p for p in own.values()})  # all but the parameters, which come now
    for name, tensor in parameters.items():
        owner, _, attribute = name.rpartition(".")
        wrapped = nn.Parameter(tensor.detach().clone(), requires_grad=own[name].requires_grad)
        setattr(fresh.get_submodule(owner), attribute, wrapped)
    if not isinstance(model, Model):
        fresh._lib_shapes, fresh._lib_run_shape = shapes, leading.pop() if leading else ()
    return fresh


def stack(models: Sequence[nn.Module]) -> nn.Module:
    """One module whose parameters carry a run axis: the parameters of `models`, in their order.

    Args:
        models: modules of one class and with equal shapes.

    Raises:
        ValueError: if there is none, or their parameters do not fit together.
    """
    if not models:
        raise ValueError("models must hold at least one module, got none")
    if len({type(model) for model in models}) > 1:
        raise ValueError(f"models must be of one class, got {sorted({type(model).__name__ for model in models})}")
    tables = [dict(model.named_parameters()) for model in models]
    signatures = {tuple((name, tuple(p.shape)) for name, p in table.items()) for table in tables}
    if len(signatures) > 1:
        raise ValueError(f"models must have equal parameter shapes, got {sorted(signatures)}")
    return with_parameters(models[0], {name: torch.stack([t[name].detach() for t in tables]) for name in tables[0]})


def unstack(model: nn.Module) -> list[nn.Module]:
    """The single networks of a model with one run axis, in order.

    Raises:
        ValueError: unless `model` has exactly one run axis.
    """
    if len(run_shape(model)) != 1:
        raise ValueError(f"model must have one run axis, got {run_shape(model)}")
    table = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return [with_parameters(model, {name: p[k] for name, p in table.items()}) for k in range(*run_shape(model))]


# -- initialisations --------------------------------------------------------------------------


def initialise(model: Model, law: Law, *, generator: torch.Generator, runs: tuple[int, ...] = ()) -> Model:
    """A copy of `model` with weights drawn from `law` and biases zero.

    Networks are drawn one after the other, so the first k of an ensemble do not depend on its size.

    Args:
        model: one of the models above; not changed.
        law: fills a weight matrix in place, `law(matrix, generator)`; a diagonal layer of d inputs
            counts as d matrices of size 1 x 1. The functions of `torch.nn.init` fit through
            `from_init`; see also `normal` and `uniform`.
        generator: source of randomness.
        runs: sizes of the run axes to draw.

    Returns:
        The model, its parameters of shape (*runs, ...).
    """
    _check_runs(runs)
    if not isinstance(model, Model):
        raise ValueError(f"model must be one of this module's, got {type(model).__name__}")
    count = math.prod(runs)
    drawn = {name: torch.zeros(count, *shape, dtype=torch.float64) for name, shape in model.shapes.items()}
    for run in range(count):
        for name, tensor in drawn.items():
            if name == "theta":
                law(tensor[run].view(-1, 1, 1), generator)
            elif tensor.ndim == 3:
                law(tensor[run], generator)
    return with_parameters(model, {name: tensor.reshape(*runs, *tensor.shape[1:]) for name, tensor in drawn.items()})


def from_init(function: Callable[..., object], **options: object) -> Law:
    """Law of an in-place function of `torch.nn.init`, such as `kaiming_normal_` or `xavier_uniform_`.

    >>> he = from_init(nn.init.kaiming_normal_, nonlinearity="relu")   # N(0, 2 / fan_in)
    >>> net = initialise(DeepLinear((4, 8, 1)), he, generator=torch.Generator().manual_seed(0), runs=(5,))
    >>> net.first_layer().shape
    torch.Size([5, 8, 4])
    """

    def law(weights: Tensor, generator: torch.Generator) -> None:
        for matrix in weights if weights.ndim == 3 else [weights]:
            function(matrix, generator=generator, **options)

    return law


def normal(std: float) -> Law:
    r"""Law $N(0, s^2)$ of every weight, s = `std` > 0."""
    if not 0 < std < math.inf:
        raise ValueError(f"std must be positive and finite, got {std}")
    return lambda weights, generator: weights.normal_(0.0, std, generator=generator)


def uniform(low: float, high: float) -> Law:
    """Law of $\\pm$U(low, high), the sign random, for 0 <= low < high."""
    if not 0 <= low < high < math.inf:
        raise ValueError(f"low and high must satisfy 0 <= low < high < inf, got {low} and {high}")

    def law(weights: Tensor, generator: torch.Generator) -> None:
        weights.uniform_(low, high, generator=generator)
        weights.mul_(torch.randint(2, weights.shape, generator=generator) * 2 - 1)

    return law


def balanced(model: Model, *, scale: float, generator: torch.Generator, runs: tuple[int, ...] = ()) -> Model:
    r"""A copy of a linear model with balanced weights: $W_{l+1}^\top W_{l+1} = W_l W_l^\top$ for every l.

    Layer l is `scale` $\cdot\,Q_l Q_{l-1}^\top$ with random orthonormal columns $Q_l$, as many as the
    narrowest layer is wide; in a diagonal network every weight is $\pm$ `scale`.

    Raises:
        ValueError: for a model that is not linear, or a `scale` that is not positive.
    """
    if not isinstance(model, DeepLinear | Diagonal):
        raise ValueError(f"model must be DeepLinear or Diagonal, got {type(model).__name__}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    _check_runs(runs)
    if isinstance(model, Diagonal):
        signs = torch.randint(2, (*runs, model.depth, model.d), generator=generator) * 2 - 1
        return with_parameters(model, {"theta": scale * signs.to(torch.float64)})
    rank = min(model.widths)
    frames = [
        _frame(torch.randn(*runs, width, rank, generator=generator, dtype=torch.float64)) for width in model.widths
    ]
    pairs = zip(model.shapes, frames[1:], frames, strict=False)
    return with_parameters(model, {name: scale * after @ before.mT for name, after, before in pairs})


def _frame(gaussian: Tensor) -> Tensor:
    """Uniformly random orthonormal columns; LAPACK's own signs would make a first entry negative for sure."""
    Q, R = torch.linalg.qr(gaussian)
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _check_runs(runs: tuple[int, ...]) -> None:
    if not isinstance(runs, tuple) or not all(isinstance(size, int) and size >= 1 for size in runs):
        raise ValueError(f"runs must be a tuple of sizes, each at least 1, got {runs!r}")
