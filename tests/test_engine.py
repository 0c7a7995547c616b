"""Three routes to one path, samplers and noises against their laws, runs that do not disturb one another, refusals."""

import itertools
import math
from collections import Counter

import joblib
import numba
import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from threadpoolctl import threadpool_limits
from torch import nn
from tqdm import tqdm

from lib import compiled, engine, routes
from lib.engine import grid, log_steps, of_each, train
from lib.models import DeepLinear, Diagonal, DiagonalReLU, Product, ReLU, outputs, stack, with_parameters
from lib.optimizers import Diverged
from lib.sharpness import sharpness

N, STEPS = 12, 12
ROUTES = ("compiled", "torch")
both_routes = pytest.mark.parametrize("route", ROUTES)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(model, *runs, seed=0):
    """Every parameter Gaussian, biases too."""
    g = seeded(seed)
    drawn = {name: torch.randn(*runs, *shape, generator=g, dtype=torch.float64) for name, shape in model.shapes.items()}
    return with_parameters(model, {name: 0.6 * weights for name, weights in drawn.items()})


def data(d, *runs, n=N, seed=1):
    g = seeded(seed)
    X = torch.randn(*runs, n, d, generator=g, dtype=torch.float64) / max(1.0, math.sqrt(d / 4))
    return X, torch.randn(*runs, n, generator=g, dtype=torch.float64)


def inputs(model):
    return model.first_layer().shape[-1]


def flat(model):
    """All parameters of each run in a row."""
    return torch.cat([p.flatten(1) for p in model.parameters()], dim=1)


def single(model, run):
    return with_parameters(model, {name: p.detach()[run] for name, p in model.named_parameters()})


def call(net, X, y, **changes):
    """`train` with the settings of these tests; records all parameters after every step."""
    asked = {
        "eta": 0.05,
        "batch_size": 4,
        "num_steps": STEPS,
        "sampling": "without_replacement",
        "weight_decay": 0.0,
        "seed": 0,
        "measure": {"theta": flat},
    } | changes
    if "record" not in asked:
        asked["record"] = range(asked["num_steps"] + 1)
    return train(net, X, y, **asked)


def identical(a, b):
    """Bit by bit, NaN equal to NaN."""
    return np.array_equal(a.detach(), b.detach(), equal_nan=True)


def with_replacement(n, *, batch_size, num_steps, generator):
    return torch.randint(n, (num_steps, batch_size), generator=generator)


def fresh(d):
    def draw(count, generator):
        X = torch.randn(count, d, generator=generator, dtype=torch.float64)  # another process has another default
        return X, X[:, 0] + torch.randn(count, generator=generator, dtype=torch.float64)

    return draw


# ------------------------------------------------------------- both routes, after each of the first steps
MODELS = [  # sizes below, at and above the multiples of 4 and 16 to which the compiled route pads
    DeepLinear((4, 1)),
    DeepLinear((4, 5, 1)),
    DeepLinear((3, 16, 4, 1)),
    DeepLinear((17, 5, 3, 2, 1)),
    DeepLinear((16, 17, 1)),
    DeepLinear((1, 1)),
    DeepLinear((1, 3, 1)),
    Diagonal(4, 1),
    Diagonal(4, 3),
    Diagonal(17, 2),
    Diagonal(16, 5),
    Diagonal(1, 4),
    Product(),
    ReLU((1, 1), biases=True),
    ReLU((1, 1), biases=False),
    ReLU((1, 7, 1), biases=True),
    ReLU((1, 17, 1), biases=False),
    ReLU((1, 6, 5, 1), biases=True),
    ReLU((1, 3, 16, 4, 1), biases=False),
    ReLU((17, 5, 16, 1), biases=True),
    ReLU((4, 6, 1), biases=False),
]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{type(m).__name__}{list(m.shapes.values())}")
SAMPLERS = {
    "full": {"sampling": "full", "batch_size": N},
    "reshuffled": {"sampling": "without_replacement", "batch_size": 4},
    "one by one": {"sampling": "without_replacement", "batch_size": 1},
    "all at once": {"sampling": "without_replacement", "batch_size": N},
    "short": {"sampling": "without_replacement", "batch_size": 5, "last_batch": "short"},
    "dropped": {"sampling": "without_replacement", "batch_size": 5, "last_batch": "dropped"},
    "cyclic": {"sampling": "cyclic", "batch_size": 3},
    "cyclic, short": {"sampling": "cyclic", "batch_size": 5, "last_batch": "short"},
    "cyclic, dropped": {"sampling": "cyclic", "batch_size": 7, "last_batch": "dropped"},
    "subsets": {"sampling": "subsets", "batch_size": 7},
    "iid": {"sampling": "iid", "batch_size": 6},
    "online": {"sampling": "online", "batch_size": 5},
    "custom": {"sampling": with_replacement, "batch_size": 5},
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
OPTIONS = {
    "none": {},
    "decay": {"weight_decay": torch.tensor([0.0, 0.1, 1.0])},
    "label noise": {"label_noise": torch.tensor([0.0, 0.3, 2.0])},
    "parameter noise": {"parameter_noise": torch.tensor([0.0, 0.01, 0.1])},
    "clipping": {"clip_norm": torch.tensor([math.inf, 0.5, 0.0])},
    "schedule": {"schedule": lambda t: 1 / t},
}
OPTIONS["all"] = {
    "weight_decay": 0.3,
    "label_noise": 0.5,
    "parameter_noise": 0.02,
    "clip_norm": torch.tensor([0.3, 1.0, math.inf]),
    "schedule": lambda t: 1 / t,
}
THREE = {"eta": torch.tensor([0.01, 0.03, 0.06]), "seed": torch.arange(3)}


def given(model, sampler):
    return (fresh(inputs(model)), None) if sampler["sampling"] == "online" else data(inputs(model))


def assert_routes_agree(net, X, y, **changes):
    fast, oracle = (call(net, X, y, route=route, **changes) for route in ROUTES)
    assert (fast.route, oracle.route) == ROUTES
    scale = 1 + oracle["theta"].abs().amax(dim=(0, -1))
    assert ((fast["theta"] - oracle["theta"]).abs().amax(dim=(0, -1)) < 1e-13 * scale).all()  # round-off
    assert torch.equal(fast.clipped, oracle.clipped)
    assert torch.equal(fast.steps, oracle.steps)
    assert fast.diverged == oracle.diverged == ()
    return fast


@each_model
def test_both_routes_take_the_same_steps_with_every_sampler(model):
    net = filled(model, 3)
    for sampler in SAMPLERS.values():
        runs = assert_routes_agree(net, *given(model, sampler), **THREE, **sampler, **OPTIONS["all"])
        assert (runs["theta"][1:] - runs["theta"][:-1]).abs().amax(dim=-1).min() > 1e-9  # every step moves


@each_model
def test_both_routes_take_the_same_steps_with_every_option(model):
    net = filled(model, 3)
    for name, options in OPTIONS.items():
        runs = assert_routes_agree(net, *data(inputs(model)), **THREE, **SAMPLERS["iid"], **options)
        assert name != "clipping" or runs.clipped[-1].tolist()[::2] == [0, STEPS]  # at infinity never, at 0 always


@pytest.mark.parametrize("model", [DeepLinear((4, 5, 1)), Diagonal(4, 3), ReLU((1, 7, 1), biases=True)], ids=str)
@each_sampler
def test_both_routes_take_the_same_steps_with_every_sampler_and_option(model, sampler):
    net = filled(model, 3)
    for options in OPTIONS.values():
        assert_routes_agree(net, *given(model, sampler), **THREE, **sampler, **options)


@each_model
def test_both_routes_take_the_same_steps_with_frozen_parameters(model):
    names = list(model.shapes)
    for frozen in ([names[0]], [names[-1]], names[1:], names):
        net = filled(model, 3)
        for name in frozen:
            net.get_parameter(name).requires_grad_(False)
        runs = assert_routes_agree(net, *data(inputs(model)), **THREE, **SAMPLERS["iid"], **OPTIONS["all"])
        for name in names:
            still = torch.equal(runs.model.get_parameter(name), net.get_parameter(name))
            assert still == (name in frozen)
            assert runs.model.get_parameter(name).requires_grad == (name not in frozen)


@pytest.mark.parametrize("model", [DeepLinear((4, 5, 1)), Diagonal(4, 3), ReLU((1, 7, 1), biases=True)], ids=str)
@pytest.mark.parametrize("sampling", ["full", "without_replacement", with_replacement])
def test_both_routes_take_the_same_steps_on_data_of_each_run(model, sampling):
    net, size = filled(model, 3), N if sampling == "full" else 4
    shared, own = data(inputs(model)), data(inputs(model), 3)
    for X, y in itertools.product((shared[0], own[0]), (shared[1], own[1])):
        for options in ({}, OPTIONS["all"]):
            runs = assert_routes_agree(net, X, y, **THREE, sampling=sampling, batch_size=size, **options)
            for k in range(3):
                one = {name: value[k] for name, value in THREE.items()}
                rest = options | ({"clip_norm": options["clip_norm"][k]} if options else {})
                mine = (v[k] if v.ndim > s.ndim else v for v, s in zip((X, y), shared, strict=True))
                alone = call(single(net, k), *mine, **one, sampling=sampling, batch_size=size, **rest)
                assert torch.equal(alone["theta"].reshape(STEPS + 1, -1), runs["theta"][:, k])


def test_both_routes_take_the_same_steps_on_a_grid_of_everything():
    axes = grid(eta=[0.01, 0.05], batch_size=[3, 4, 12], seed=[5, 6, 7, 8])
    net = filled(DeepLinear((4, 5, 1)), 4)
    runs = assert_routes_agree(net, *data(4, 2, 1, 1), **axes, weight_decay=torch.tensor([0.1, 0.2, 0.3])[:, None])
    assert runs["theta"].shape == (STEPS + 1, 2, 3, 4, 25)
    assert runs.clipped.shape == (STEPS + 1, 2, 3, 4)
    assert runs.model.W1.shape == (2, 3, 4, 5, 4)
    assert runs.model.run_shape == (2, 3, 4)


def test_both_routes_take_the_same_steps_when_fresh_data_run_out():
    net = filled(Diagonal(17, 2), 3)
    for size in (400, 1000):  # two steps of 400 x 17 numbers are drawn at once; 1000 x 17 are more than a pool
        assert_routes_agree(net, fresh(17), None, **THREE, sampling="online", batch_size=size)


def test_both_routes_take_the_same_steps_in_many_short_blocks():
    """With 30,000 runs the compiled route takes 4 steps at once, torch 2, from records and from its own limit."""
    net = filled(DeepLinear((2, 1)))
    assert_routes_agree(net, *data(2, n=4), seed=torch.arange(30_000), batch_size=2, num_steps=7, record=[0, 3, 7])


# --------------------------------------------------------------------------------------- a third route
def known_sampler(sizes):
    """Batches that the test knows: fixed once, whatever the seed."""
    batches = torch.randint(N, (STEPS, sizes), generator=seeded(9))
    return batches, lambda n, *, batch_size, num_steps, generator: batches


def by_hand(net, X, y, batches, *, eta, weight_decay, clip_norm, schedule, loss):
    """torch's own SGD and clipping, one network, step by step: its path and the number of clipped steps."""
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=eta, weight_decay=weight_decay)
    path, clipped = [torch.cat([p.detach().flatten() for p in net.parameters()])], [0]
    for step, batch in enumerate(batches, start=1):
        optimizer.param_groups[0]["lr"] = eta * schedule(step)
        optimizer.zero_grad()
        loss(net(X[batch]), y[batch]).backward()
        norm = float(nn.utils.clip_grad_norm_(trained, math.inf))
        if norm > clip_norm:  # torch divides by norm + 1e-6
            nn.utils.clip_grad_norm_(trained, clip_norm * (norm + 1e-6) / norm)
        optimizer.step()
        path.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
        clipped.append(clipped[-1] + (norm > clip_norm))
    return torch.stack(path), torch.tensor(clipped)


def half_square(outputs, y):
    return ((outputs - y) ** 2).sum() / (2 * len(y))


def tanh_net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0))


BY_HAND = {
    "deep": filled(DeepLinear((4, 5, 3, 1))),
    "shallow": filled(DeepLinear((4, 1))),
    "diagonal": filled(Diagonal(4, 3)),
    "product": filled(Product()),
    "relu": filled(ReLU((1, 7, 1), biases=True)),
    "deep relu": filled(ReLU((1, 6, 5, 1), biases=False)),
    "wide relu": filled(ReLU((4, 7, 1), biases=True)),
    "diagonal relu": filled(DiagonalReLU(4, 3), seed=2),
    "two outputs": filled(DeepLinear((4, 5, 2))),
    "module": None,
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.4},
        {"clip_norm": 0.03},
        {"schedule": lambda t: 1 / t**2},
        {"weight_decay": 0.4, "clip_norm": 0.03, "schedule": lambda t: 1 / t},
    ],
    ids=lambda options: " and ".join(options) or "plain",
)
def test_every_route_is_torchs_sgd_with_torchs_clipping(name, options):
    net = BY_HAND[name] or tanh_net(0)
    X, y = data(inputs(net) if hasattr(net, "first_layer") else 4)
    if name == "two outputs":
        y = torch.stack([y, 2 * y + 1], dim=1)
    batches, sampler = known_sampler(5)
    plain = {"weight_decay": 0.0, "clip_norm": math.inf, "schedule": lambda t: 1.0}
    runs = {
        route: call(net, X, y, eta=0.1, sampling=sampler, batch_size=5, route=route, **options)
        for route in ({"auto", "torch"} if compiled.layout_of(net) else {"torch"})
    }
    path, clipped = by_hand(net, X, y, batches, eta=0.1, loss=half_square, **plain | options)
    for record in runs.values():
        assert (record["theta"].reshape(path.shape) - path).abs().max() < 1e-13
        assert torch.equal(record.clipped, clipped)
    assert bool(clipped[-1] > 0) == ("clip_norm" in options)


@pytest.mark.parametrize("freeze", ["W1", "b1", "W2"])
def test_every_route_leaves_out_frozen_parameters_as_torch_does(freeze):
    """They count neither in the clipped norm, nor in the decay."""
    net = filled(ReLU((1, 7, 1), biases=True))
    net.get_parameter(freeze).requires_grad_(False)
    options = {"weight_decay": 0.4, "clip_norm": 0.5}
    X, y = data(1)
    batches, sampler = known_sampler(5)
    runs = [call(net, X, y, eta=0.1, sampling=sampler, batch_size=5, route=route, **options) for route in ROUTES]
    path, clipped = by_hand(net, X, y, batches, eta=0.1, schedule=lambda t: 1.0, loss=half_square, **options)
    for record in runs:
        assert (record["theta"].reshape(path.shape) - path).abs().max() < 1e-13
        assert torch.equal(record.clipped, clipped)


@pytest.mark.parametrize(
    ("model", "loss", "targets"),
    [
        (DeepLinear((4, 3, 1)), lambda out, y: (out - y).abs().mean(), lambda y: y),
        (DeepLinear((4, 5, 2)), nn.functional.cross_entropy, lambda y: (y > 0).long()),
        (DeepLinear((4, 5, 2)), lambda out, y: (out - y).abs().pow(1.5).mean(), lambda y: torch.stack([y, -y], dim=1)),
    ],
    ids=["absolute", "classes", "two targets"],
)
def test_another_loss_is_minimised_as_by_hand(model, loss, targets):
    net, (X, y) = filled(model, 2), data(4)
    batches, sampler = known_sampler(5)
    runs = call(net, X, targets(y), loss=loss, sampling=sampler, batch_size=5, weight_decay=0.1)
    assert runs.route == "torch"
    plain = {"eta": 0.05, "weight_decay": 0.1, "clip_norm": math.inf, "schedule": lambda t: 1.0}
    for k in range(2):
        path, _ = by_hand(single(net, k), X, targets(y), batches, loss=loss, **plain)
        assert (runs["theta"][:, k] - path).abs().max() < 1e-13


def test_several_modules_of_any_kind_run_side_by_side():
    nets = [tanh_net(seed) for seed in range(3)]
    nets[0][0].bias.requires_grad_(False)  # `stack` takes the first one's word
    X, y = data(4)
    batches, sampler = known_sampler(5)
    runs = call(stack(nets), X, y, eta=0.1, sampling=sampler, batch_size=5, weight_decay=0.2)
    assert runs.route == "torch"
    plain = {"eta": 0.1, "weight_decay": 0.2, "clip_norm": math.inf, "schedule": lambda t: 1.0}
    for k, net in enumerate(nets):
        net[0].bias.requires_grad_(False)
        path, _ = by_hand(net, X, y, batches, loss=half_square, **plain)
        assert (runs["theta"][:, k] - path).abs().max() < 1e-13
        assert torch.equal(runs.model.get_parameter("0.bias")[k], net[0].bias)


@both_routes
def test_one_step_is_the_gradient_written_out(route):
    """With eta = 1 a step subtracts the gradient."""
    X, y = data(3, n=4)
    everything = {"eta": 1.0, "num_steps": 1, "sampling": "full", "batch_size": 4, "route": route}

    net = filled(DeepLinear((3, 2, 1)))
    W1, W2 = net.W1.detach(), net.W2.detach()
    mean = sum((float(W2 @ W1 @ x) - t) * x for x, t in zip(X, y.tolist(), strict=True)) / 4
    after = call(net, X, y, **everything).model
    assert (W1 - after.W1 - W2.T * mean).abs().max() < 1e-14
    assert (W2 - after.W2 - (W1 @ mean)).abs().max() < 1e-14

    net = filled(Diagonal(3, 3))
    theta = net.theta.detach()
    mean = sum((float(theta.prod(dim=0) @ x) - t) * x for x, t in zip(X, y.tolist(), strict=True)) / 4
    others = torch.stack([theta[1] * theta[2], theta[0] * theta[2], theta[0] * theta[1]])
    assert (theta - call(net, X, y, **everything).model.theta - others * mean).abs().max() < 1e-14

    net, x = filled(ReLU((1, 2, 1), biases=True), seed=3), X[:, :1]
    W1, b1, W2, b2 = (p.detach() for p in net.parameters())
    gradients = [torch.zeros_like(p) for p in (W1, b1, W2, b2)]
    for value, t in zip(x[:, 0].tolist(), y.tolist(), strict=True):
        hidden = (W1[:, 0] * value + b1).relu()
        residual = (float(W2[0] @ hidden) + float(b2) - t) / 4
        active = (hidden > 0) * W2[0] * residual
        for g, part in zip(
            gradients, (active[:, None] * value, active, residual * hidden[None], residual), strict=True
        ):
            g += part
    after = call(net, x, y, **everything).model
    for before, now, g in zip((W1, b1, W2, b2), after.parameters(), gradients, strict=True):
        assert (before - now - g).abs().max() < 1e-14


@both_routes
def test_clipping_is_at_the_norm_that_was_asked_for_and_nowhere_else(route):
    """One weight whose gradient is -target, and a step of eta = 1: it goes to the target, or as far as it may."""
    clip, target = grid(clip=[0.5, 2.0, 8.0, 1e6], target=[0.25, 1.5, 5.0, 100.0, 1e5]).values()
    asked = {"sampling": "full", "batch_size": 2, "num_steps": 1, "eta": 1.0, "route": route}
    y = target[..., None].expand(1, 5, 2)
    runs = call(DeepLinear((1, 1)), torch.ones(2, 1), y, clip_norm=clip, **asked)
    expected = torch.minimum(clip, target)
    assert ((runs["theta"][1, ..., 0] - expected).abs() <= 1e-15 * expected).all()
    assert torch.equal(runs.clipped[1], (target > clip).long())


# ------------------------------------------------------------------------------------ what a step sees
def shares(sampling, *, n, batch_size, num_steps, runs, **options):
    """How often each step saw each example, over the batch's size: (num_steps, runs, n).

    With X the identity, y = 1 and one layer, an example moves its own weight w by eta (1 - w) a share.
    """
    asked = {"batch_size": batch_size, "num_steps": num_steps, "sampling": sampling, "seed": torch.arange(runs)}
    w = call(DeepLinear((n, 1)), torch.eye(n), torch.ones(n), eta=0.25, **asked | options)["theta"]
    return (w[1:] - w[:-1]) / (1 - w[:-1]) / 0.25


def seen(sampling, *, batch_size, **options):
    """The same as tuples of counts: [step][run] -> how often each example was seen."""
    counts = (shares(sampling, batch_size=batch_size, **options) * batch_size).round().long()
    return [[tuple(row) for row in step] for step in counts.tolist()]


def equally_likely(outcomes, number):
    counts = Counter(outcomes)
    return len(counts) == number and chisquare(list(counts.values())).pvalue > 1e-3


@both_routes
@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
def test_an_epoch_sees_every_example_once_and_the_next_one_in_another_order(route, batch_size):
    per_epoch = 6 // batch_size
    share = shares("without_replacement", n=6, batch_size=batch_size, num_steps=3 * per_epoch, runs=40, route=route)
    epochs = share.view(3, per_epoch, 40, 6)
    assert (epochs.sum(dim=1) * batch_size - 1).abs().max() < 1e-12
    if batch_size < 6:
        another = (epochs[1:] - epochs[:-1]).abs().amax(dim=(1, 3)) > 0.1
        assert another.double().mean() > 0.8  # two epochs agree with probability 1/20 at most


@both_routes
def test_a_short_last_batch_counts_what_it_has_and_a_dropped_one_is_not_seen(route):
    asked = {"n": 5, "batch_size": 2, "num_steps": 6, "runs": 40, "route": route}
    short = shares("without_replacement", **asked, last_batch="short").view(2, 3, 40, 5)
    for step, share in enumerate((0.5, 0.5, 1.0)):  # the mean is over the examples that are there
        assert ((short[:, step] - share).abs() < 1e-12).sum(dim=-1).eq(round(1 / share)).all()
    assert ((short > 0.25).sum(dim=1) == 1).all()
    dropped = shares("without_replacement", **asked, last_batch="dropped").view(3, 2, 40, 5) > 0.25
    assert (dropped.sum(dim=-1) == 2).all()
    assert (dropped.sum(dim=1) <= 1).all()
    left = ~dropped.any(dim=1)  # the one that an epoch leaves out is another one in the next
    assert (left[0] != left[1]).any()


@both_routes
@pytest.mark.parametrize(("last_batch", "per_epoch"), [("short", 3), ("dropped", 2)])
def test_cyclic_epochs_repeat_the_shuffle_of_their_run(route, last_batch, per_epoch):
    asked = {"n": 5, "batch_size": 2, "num_steps": 3 * per_epoch, "runs": 40, "route": route}
    epochs = (shares("cyclic", **asked, last_batch=last_batch) > 0.25).view(3, per_epoch, 40, 5)
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])
    assert (epochs[0].sum(dim=0) <= 1).all()
    assert len({tuple(run.flatten().tolist()) for run in epochs[0].unbind(1)}) > 10  # of 30 or more


def test_all_shuffles_are_equally_likely():
    for sampling in ("without_replacement", "cyclic"):
        steps = seen(sampling, n=4, batch_size=1, num_steps=4, runs=12_000)
        assert equally_likely(zip(*steps, strict=True), 24)


def test_the_next_epoch_does_not_depend_on_the_one_before():
    first, _, third, _ = seen("without_replacement", n=4, batch_size=2, num_steps=4, runs=12_000)
    assert equally_likely(zip(first, third, strict=True), 36)


def test_all_subsets_are_equally_likely_and_independent():
    (step,) = seen("subsets", n=6, batch_size=3, num_steps=1, runs=12_000)
    assert set(itertools.chain(*step)) == {0, 1}
    assert equally_likely(step, math.comb(6, 3))
    first, second = seen("subsets", n=4, batch_size=2, num_steps=2, runs=12_000)
    assert equally_likely(zip(first, second, strict=True), 36)


def test_independent_indices_are_uniform_and_independent():
    first, second = seen("iid", n=4, batch_size=1, num_steps=2, runs=12_000)
    assert equally_likely(zip(first, second, strict=True), 16)
    (pairs,) = seen("iid", n=3, batch_size=2, num_steps=1, runs=12_000)
    counts = Counter(pairs)
    expected = {row: 12_000 / 9 * (1 if max(row) == 2 else 2) for row in counts}  # a pair has two orders
    assert len(counts) == 6
    assert chisquare([counts[row] for row in counts], [expected[row] for row in counts]).pvalue > 1e-3


@pytest.mark.parametrize("n", [3, 4, 5])
def test_independent_indices_are_all_distinct_as_often_as_they_should_be(n):
    (step,) = seen("iid", n=n, batch_size=n, num_steps=1, runs=20_000)
    p = math.factorial(n) / n**n
    assert abs(step.count((1,) * n) - 20_000 * p) < 4 * math.sqrt(20_000 * p * (1 - p))


def batch_means(sampling, y, *, batch_size, num_steps, runs, **options):
    """Means of the targets of each step's batch, (num_steps, runs): with x = 1 and eta = 1 a step goes there."""
    asked = {"batch_size": batch_size, "num_steps": num_steps, "sampling": sampling, "seed": torch.arange(runs)}
    return call(DeepLinear((1, 1)), torch.ones(len(y), 1), y, eta=1.0, **asked | options)["theta"][1:, :, 0]


@pytest.mark.parametrize("sampling", ["subsets", "without_replacement", "iid"])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_batch_mean_has_the_variance_of_its_sampler(sampling, batch_size):
    """s^2 / B times (n - B) / (n - 1) without repeats, within a step; times 1 with them."""
    y = torch.tensor([0.3, -1.0, 2.0, 0.7, -0.4, 1.1, 0.0, 3.0])
    means = batch_means(sampling, y, batch_size=batch_size, num_steps=2, runs=20_000)
    phi = 1.0 if sampling == "iid" else (8 - batch_size) / 7
    expected = float(y.var(correction=0)) / batch_size * phi
    for step in means:
        assert abs(float(step.mean() - y.mean())) < 4 * math.sqrt(expected / 20_000)
        assert abs(float(((step - y.mean()) ** 2).mean()) / expected - 1) < 0.05  # 4 standard errors, kurtosis <= 4
    correlation = float(((means[0] - y.mean()) * (means[1] - y.mean())).mean()) / expected
    within = -batch_size / (8 - batch_size) if sampling == "without_replacement" else 0.0  # two batches of an epoch
    assert abs(correlation - within) < 0.05


@each_sampler
def test_runs_of_equal_seeds_see_equal_batches_and_noise(sampler):
    X, y = (fresh(4), None) if sampler["sampling"] == "online" else data(4)
    seeds, noises = torch.tensor([7, 7, 8]), {"label_noise": 0.1, "parameter_noise": 0.1}
    for route in ROUTES:
        theta = call(filled(DeepLinear((4, 1))), X, y, seed=seeds, route=route, **sampler, **noises)["theta"]
        assert (theta[:, 0] - theta[:, 1]).abs().max() < 1e-14
        assert (theta[1:, 0] - theta[1:, 2]).abs().amax(dim=-1).min() > 1e-3


@both_routes
@pytest.mark.parametrize("sampling", ["without_replacement", "cyclic", "subsets", "iid", with_replacement])
def test_noise_does_not_change_the_batches(route, sampling):
    asked = {"n": 6, "batch_size": 2, "num_steps": 6, "runs": 20, "route": route}
    plain = shares(sampling, **asked) > 0.25
    labels = shares(sampling, **asked, label_noise=0.01) > 0.25
    moved = shares(sampling, **asked, parameter_noise=1e-4) > 0.25
    assert torch.equal(plain, labels)
    assert torch.equal(plain, moved)


@both_routes
def test_a_noise_does_not_change_the_other_noise(route):
    """One weight and no gradient: what moves is the parameters' noise alone, what moves with eta the labels'."""
    asked = {"sampling": "full", "batch_size": 3, "route": route}
    X, y, net = torch.ones(3, 1), torch.zeros(3), DeepLinear((1, 1))
    still = call(net, X, y, eta=0.0, parameter_noise=1.0, **asked)["theta"]
    loud = call(net, X, y, eta=0.0, parameter_noise=1.0, label_noise=1.0, **asked)["theta"]
    assert torch.equal(still, loud)
    both = call(net, X, y, eta=1.0, parameter_noise=1e-9, label_noise=1.0, **asked)["theta"]
    only = call(net, X, y, eta=1.0, label_noise=1.0, **asked)["theta"]
    assert (both - only).abs().max() < 1e-7 < only.abs().max()


@both_routes
def test_fresh_data_are_fresh_also_when_the_first_have_run_out(route):
    """Two steps of 8192 examples are drawn at once; with x = 1 and eta = 1 a step goes to the mean of its targets."""

    def ones(count, generator):
        return torch.ones(count, 1), torch.randn(count, generator=generator)

    asked = {"sampling": "online", "batch_size": 8192, "num_steps": 7, "eta": 1.0, "route": route}
    means = call(DeepLinear((1, 1)), ones, None, seed=torch.arange(3), **asked)["theta"][1:].flatten()
    assert means.sort().values.diff().min() > 1e-9  # 21 means, none twice
    assert means.abs().max() < 5 / math.sqrt(8192)


# ------------------------------------------------------------------------------------------- the noises
@pytest.mark.parametrize(("sampling", "batch_size"), [("full", 3), ("cyclic", 1), ("iid", 3), ("subsets", 2)])
def test_label_noise_is_fresh_at_every_step_and_for_every_example(sampling, batch_size):
    """With y = 0 a step goes to the mean of the batch's noise."""
    asked = {"batch_size": batch_size, "num_steps": 8, "runs": 4_000, "label_noise": 0.5}
    z = batch_means(sampling, torch.zeros(3), **asked) * math.sqrt(batch_size) / 0.5
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3  # mean 0, and variance sigma^2 / B: independent in a batch
    for lag in range(1, 8):
        product = z[lag:] * z[:-lag]
        assert abs(float(product.mean())) < 4 / math.sqrt(product.numel())


@pytest.mark.parametrize("eta", [0.0, 0.3])
@both_routes
def test_parameter_noise_is_added_as_it_is_to_every_trained_parameter(route, eta):
    """Neither eta, nor the schedule, nor clipping scales it: increments are N(0, sigma^2), independent."""
    net = filled(ReLU((1, 3, 1), biases=True))
    net.b1.requires_grad_(False)
    asked = {"parameter_noise": 0.2, "clip_norm": 0.0, "num_steps": 6, "schedule": lambda t: 0.5 / t}
    theta = call(net, *data(1), eta=eta, seed=torch.arange(500), route=route, **asked)["theta"]
    move = (theta[1:] - theta[:-1]) / 0.2  # (steps, runs, W1 3, b1 3, W2 3, b2 1)
    assert torch.equal(theta[-1, :, 3:6], theta[0, :, 3:6])
    free = torch.cat([move[..., :3], move[..., 6:]], dim=-1)
    assert kstest(free.flatten().numpy(), "norm").pvalue > 1e-3
    for a, b in ((free[1:], free[:-1]), (free[:, 1:], free[:, :-1]), (free[..., 1:], free[..., :-1])):
        assert abs(float((a * b).mean())) < 4 / math.sqrt(a.numel())


def test_noise_of_several_outputs_is_independent():
    y = torch.zeros(2, 3)
    asked = {"sampling": "full", "batch_size": 2, "eta": 1.0, "num_steps": 3, "label_noise": 0.5}
    runs = call(DeepLinear((1, 3)), torch.ones(2, 1), y, seed=torch.arange(1_500), **asked)
    z = runs["theta"][1:] * math.sqrt(2) / 0.5  # (steps, runs, outputs)
    assert runs.route == "torch"
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(float((z[..., 0] * z[..., 1]).mean())) < 4 / math.sqrt(4_500)


# --------------------------------------------------------------------- runs do not disturb one another
PERHAPS_EQUAL = {"compiled": 0.0, "torch": 1e-13}  # the compiled route is exact, torch depends on shapes


def ensemble(route, sampler, rows=slice(None), **changes):
    """The asked rows of six runs, each with its own start and settings, every option on."""
    model = DeepLinear((4, 5, 1))
    net = filled(model, 6)
    own = {
        "eta": torch.linspace(0.01, 0.06, 6)[rows],
        "seed": torch.arange(6)[rows],
        "clip_norm": torch.tensor([0.2, 0.5, 1.0, math.inf, 2.0, 0.1])[rows],
    }
    net = with_parameters(net, {name: p.detach()[rows] for name, p in net.named_parameters()})
    rest = {"weight_decay": 0.3, "label_noise": 0.5, "parameter_noise": 0.02, "route": route}
    return call(net, *given(model, sampler), **own, **rest, **sampler, **changes)


@both_routes
@each_sampler
def test_a_run_does_not_depend_on_the_others(route, sampler):
    whole = ensemble(route, sampler)
    for rows in (slice(0, 1), slice(3, 4), slice(5, 6), slice(0, 4), torch.arange(5, -1, -1)):
        part = ensemble(route, sampler, rows)
        assert (part["theta"] - whole["theta"][:, rows]).abs().max() <= PERHAPS_EQUAL[route]
        assert torch.equal(part.clipped, whole.clipped[:, rows])


@each_sampler
def test_a_run_depends_neither_on_jobs_nor_on_threads(sampler):
    whole, threads = ensemble("compiled", sampler), torch.get_num_threads()
    for jobs in (1, 2, 4):
        assert torch.equal(ensemble("compiled", sampler, jobs=jobs)["theta"], whole["theta"])
        assert torch.get_num_threads() == threads
    with joblib.parallel_config(backend="threading", n_jobs=3):
        assert torch.equal(ensemble("compiled", sampler)["theta"], whole["theta"])


@both_routes
def test_a_run_does_not_depend_on_the_threads_of_its_libraries(route):
    """Moments of 500 examples of 60 inputs are a product that BLAS cuts up for two threads."""
    X, y = data(60, n=500)
    before, paths = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            numba.set_num_threads(threads)
            with threadpool_limits(threads):
                paths.append(call(filled(DeepLinear((60, 5, 1))), X, y, sampling="full", batch_size=500, route=route))
                assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(paths[0]["theta"], paths[1]["theta"])


def test_processes_do_what_one_process_does_and_their_steps_are_counted(monkeypatch):
    bars = []
    monkeypatch.setattr(engine, "tqdm", lambda **asked: bars.append(tqdm(**asked)) or bars[-1])
    whole = ensemble("torch", SAMPLERS["iid"])
    parts = ensemble("torch", SAMPLERS["iid"], jobs=2, measure={"theta": lambda m: flat(m)}, progress=True)
    assert (parts["theta"] - whole["theta"]).abs().max() < 1e-13
    assert torch.equal(parts.clipped, whole.clipped)
    assert bars[1].n == bars[1].total == 6 * STEPS


@both_routes
def test_an_ensemble_worked_in_several_parts_is_in_order(route, monkeypatch):
    monkeypatch.setattr(engine.routes, "runs_at_once", lambda task, batch_size: 4)
    net, sizes = filled(DeepLinear((4, 5, 1)), 11), torch.tensor([3, 4, 12, 3, 6, 4, 12, 2, 3, 1, 4])
    runs = call(net, *data(4), batch_size=sizes, seed=torch.arange(11), route=route)
    for k in range(11):
        alone = call(single(net, k), *data(4), batch_size=int(sizes[k]), seed=k, route=route)
        assert (alone["theta"].flatten(1) - runs["theta"][:, k]).abs().max() <= PERHAPS_EQUAL[route]


@both_routes
@each_sampler
def test_a_path_does_not_depend_on_what_is_recorded(route, sampler):
    whole = ensemble(route, sampler)
    assert whole.steps.tolist() == list(range(STEPS + 1))
    for record in ([STEPS], [0, 5, 7], torch.tensor([11, 2, 2]), []):
        some = ensemble(route, sampler, record=record)
        steps = sorted(set(map(int, record)))
        assert some.steps.tolist() == steps
        assert not steps or torch.equal(some["theta"], whole["theta"][steps])
        assert not steps or torch.equal(some.clipped, whole.clipped[steps])
        assert torch.equal(flat(some.model), whole["theta"][-1])


@both_routes
def test_entry_0_is_the_start_and_the_last_one_the_final_model(route):
    net = filled(DeepLinear((4, 5, 1)), 3)
    before = flat(net).clone()
    runs = call(net, *data(4), route=route, **THREE)
    assert torch.equal(runs["theta"][0], before)
    assert torch.equal(runs["theta"][-1], flat(runs.model))
    assert torch.equal(flat(net), before)  # the model that was given is left alone
    none = call(net, *data(4), route=route, num_steps=0, **THREE)
    assert torch.equal(flat(none.model), before)
    assert none["theta"].shape == (1, *before.shape)


@both_routes
def test_more_steps_begin_with_the_same_steps(route):
    few, many = (call(filled(Diagonal(4, 3)), *data(4), num_steps=k, route=route)["theta"] for k in (5, 9))
    assert torch.equal(few, many[:6])


def test_measurements_see_the_model_of_their_step():
    X, y = data(4)
    losses = {"loss": lambda m: ((m(X) - y) ** 2).mean(dim=-1) / 2, "norms": lambda m: m.first_layer().norm(dim=-2)}
    net = filled(DeepLinear((4, 5, 1)), 2, 3)
    runs = call(net, X, y, measure=losses | {"theta": flat}, seed=torch.arange(3))
    assert runs["loss"].shape == (STEPS + 1, 2, 3)
    assert runs["norms"].shape == (STEPS + 1, 2, 3, 4)
    for step in (0, 1, STEPS):
        W1 = runs["theta"][step, 1, 2, :20].view(5, 4)
        W2 = runs["theta"][step, 1, 2, 20:].view(1, 5)
        assert abs(float((((X @ W1.T @ W2.T)[:, 0] - y) ** 2).mean() / 2 - runs["loss"][step, 1, 2])) < 1e-13
        assert (W1.norm(dim=0) - runs["norms"][step, 1, 2]).abs().max() < 1e-13


@both_routes
def test_the_full_batch_does_not_know_the_order_of_the_examples(route):
    X, y = data(4)
    order = torch.randperm(N, generator=seeded(5))
    asked = {"sampling": "full", "batch_size": N, "route": route}
    a, b = (call(filled(DeepLinear((4, 5, 1))), *args, **asked)["theta"] for args in ((X, y), (X[order], y[order])))
    assert (a - b).abs().max() < 1e-13


def test_random_numbers_come_from_the_seed_alone():
    state = torch.get_rng_state()
    for sampler in SAMPLERS.values():
        first = ensemble("compiled", sampler)["theta"]
        torch.manual_seed(123)
        np.random.default_rng(0)
        assert torch.equal(ensemble("compiled", sampler)["theta"], first)
        torch.set_rng_state(state)
        ensemble("torch", sampler)
        assert torch.equal(torch.get_rng_state(), state)


def test_numbers_keep_their_digits_whatever_torchs_default():
    net, (X, y) = filled(DeepLinear((4, 1)), 1), data(4)
    axes = {"eta": [0.1], "weight_decay": 0.3, "clip_norm": 0.03}
    expected = call(net, X, y, **axes)["theta"]
    torch.set_default_dtype(torch.float32)
    assert torch.equal(call(net, X, y, **axes)["theta"], expected)
    assert torch.equal(call(net, X, y, **axes | grid(eta=[0.1]))["theta"], expected)
    assert torch.equal(call(net, X, y, **axes | {"eta": np.float64(0.1)})["theta"], expected)


def test_data_of_any_memory_layout_use_the_same_machine_code():
    net, (X, y), ends = filled(DeepLinear((4, 1)), 2), data(4), {"record": [0, STEPS]}
    expected = call(net, X, y, schedule=lambda t: torch.full((len(t),), 0.5), **ends)["theta"]
    count = len(compiled.advance.signatures)
    columns, apart = X.T.contiguous().T, torch.stack([y, y], dim=1)[:, 0]
    assert not columns.is_contiguous()
    assert not apart.is_contiguous()

    def half(t):
        return torch.tensor(0.5).expand(len(t))

    assert torch.equal(call(net, columns, apart, schedule=half, **ends)["theta"], expected)
    assert torch.equal(call(net, columns.expand(2, N, 4), apart.expand(2, N), schedule=half, **ends)["theta"], expected)
    assert len(compiled.advance.signatures) == count


# ------------------------------------------------------------------------------------------ divergence
def growing(route, rates, **changes):
    """Linear regression on x = 1 in one weight: a step multiplies it by 1 - eta, so eta > 2 diverges."""
    net = with_parameters(DeepLinear((1, 1)), {"W1": torch.ones(1, 1)})
    asked = {"sampling": "full", "batch_size": 2, "num_steps": 400, "route": route}
    return call(net, torch.ones(2, 1), torch.zeros(2), eta=rates, **asked | changes)


@both_routes
def test_a_run_that_diverges_says_which_when_and_at_which_learning_rate(route):
    runs = growing(route, torch.tensor([[0.5, 21.0], [101.0, 1.9]]))
    # |1 - eta|^t first exceeds the largest float, 1.8e308
    steps = {(0, 1): math.ceil(math.log(1.797e308) / math.log(20)), (1, 0): math.ceil(math.log10(1.797e308) / 2)}
    assert [(d.run, d.step, d.eta) for d in runs.diverged] == [
        ((0, 1), steps[0, 1], 21.0),
        ((1, 0), steps[1, 0], 101.0),
    ]
    for (i, j), step in steps.items():
        assert torch.isfinite(runs["theta"][:step, i, j]).all()
        assert torch.isnan(runs["theta"][step:, i, j]).all()
        assert torch.isnan(runs.model.W1[i, j]).all()
    assert torch.isfinite(runs["theta"][:, 0, 0]).all()
    assert torch.isfinite(runs["theta"][:, 1, 1]).all()
    message = r"run \(0, 1\) .* after 237 steps at eta = 21; run \(1, 0\) .* after 155 steps at eta = 101$"
    with pytest.raises(Diverged, match=message):
        runs.require_finite()


@both_routes
def test_a_scheduled_run_diverges_at_the_learning_rate_of_its_step(route):
    runs = growing(route, 21.0, schedule=lambda t: torch.where(t == 101, 1e200, 1.0), record=[0, 100, 400])
    (divergence,) = runs.diverged  # 20^100 is 1e130; times 2e201 it overflows
    assert (divergence.run, divergence.step, divergence.eta) == ((), 101, 21e200)
    assert torch.isnan(runs["theta"]).flatten().tolist() == [False, False, True]


@both_routes
def test_a_finite_ensemble_is_returned_as_it_is(route):
    runs = growing(route, 1.9)
    assert runs.diverged == ()
    assert runs.require_finite() is runs


@both_routes
@each_sampler
def test_a_run_that_diverges_does_not_disturb_the_others(route, sampler):
    sane = ensemble(route, sampler)
    rates = torch.linspace(0.01, 0.06, 6)
    rates[2] = 1e200
    net = filled(DeepLinear((4, 5, 1)), 6)
    asked = {"clip_norm": torch.tensor([0.2, 0.5, 1.0, math.inf, 2.0, 0.1]), "seed": torch.arange(6), "route": route}
    rest = {"weight_decay": 0.3, "label_noise": 0.5, "parameter_noise": 0.02}
    wild = call(net, *given(DeepLinear((4, 5, 1)), sampler), eta=rates, **asked, **rest, **sampler)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(wild["theta"][:, others], sane["theta"][:, others])
    assert torch.equal(wild.clipped[:, others], sane.clipped[:, others])
    (divergence,) = wild.diverged
    assert divergence.run == (2,)
    assert divergence.step == 2  # the first step goes to 1e200, the second one's gradient overflows
    assert torch.isfinite(wild["theta"][:2, 2]).all()
    assert torch.isnan(wild["theta"][2:, 2]).all()
    assert (wild.clipped[2:, 2] == wild.clipped[2, 2]).all()  # no step is counted after the end


def test_both_routes_diverge_at_the_same_step():
    count = 0
    for model in (
        DeepLinear((4, 5, 1)),
        Diagonal(4, 3),
        ReLU((1, 7, 1), biases=True),
        ReLU((1, 6, 5, 1), biases=False),
    ):
        net, (X, y) = filled(model, 5), data(inputs(model))
        rates = torch.tensor([0.5, 1.0, 2.0, 5.0, 1e3])
        a, b = (call(net, X, y, eta=rates, seed=torch.arange(5), num_steps=60, route=route) for route in ROUTES)
        assert a.diverged == b.diverged
        count += len(a.diverged)
    assert count >= 8


def test_overflow_inside_a_network_is_a_divergence():
    """1e320 - 1e320 in a hidden unit is infinite or NaN, as the products are fused or not; never a quiet 0."""
    W = {"W1": [[1e160], [1e160]], "W2": [[1e160, -1e160], [1.0, 1.0]], "W3": [[1.0, 0.0]]}
    net = with_parameters(ReLU((1, 2, 2, 1), biases=False), {name: torch.tensor(value) for name, value in W.items()})
    for route in ROUTES:
        runs = call(net, torch.ones(2, 1), torch.zeros(2), sampling="full", batch_size=2, num_steps=3, route=route)
        assert [(d.run, d.step) for d in runs.diverged] == [((), 1)]


# ------------------------------------------------------------------------- models that only torch can run
class Shifted(DeepLinear):
    def forward(self, X):
        return super().forward(X) + 1.0


def test_a_subclass_with_its_own_forward_is_not_taken_for_its_parent():
    X, y = data(4)
    net = filled(Shifted((4, 1)))
    runs = call(net, X, y)
    assert runs.route == "torch"
    parent = call(filled(DeepLinear((4, 1))), X, y - 1.0)  # the same residuals
    assert (runs["theta"] - parent["theta"]).abs().max() < 1e-13
    with pytest.raises(ValueError, match="^route must be 'torch' or 'auto' here, got 'compiled'"):
        call(net, X, y, route="compiled")


def test_float32_stays_float32_on_the_torch_route():
    net = with_parameters(DeepLinear((4, 1)), {"W1": torch.ones(1, 4, dtype=torch.float32)})
    X, y = data(4)
    runs = call(net, X.float(), y.float(), label_noise=0.1)
    assert runs.route == "torch"
    assert runs["theta"].dtype == torch.float32
    exact = call(with_parameters(net, {"W1": torch.ones(1, 4)}), X, y, label_noise=0.1)
    assert (runs["theta"] - exact["theta"]).abs().max() < 1e-5


# ------------------------------------------------------------------------------ settings and their shapes
def test_grid_lays_settings_out_along_axes_of_their_own():
    axes = grid(eta=[0.1, 0.2], batch_size=[1, 2, 3], seed=range(4))
    assert [tuple(v.shape) for v in axes.values()] == [(2, 1, 1), (1, 3, 1), (1, 1, 4)]
    assert axes["eta"].flatten().tolist() == [0.1, 0.2]
    assert axes["seed"].flatten().tolist() == [0, 1, 2, 3]
    assert axes["seed"].dtype == torch.long


@pytest.mark.parametrize(("num_steps", "count"), [(1, 1), (7, 1), (7, 30), (1_000, 4), (123_457, 50), (10**7, 200)])
def test_log_steps_begin_at_zero_end_at_the_end_and_grow_evenly(num_steps, count):
    steps = log_steps(num_steps, count).tolist()
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert steps[-1] == num_steps
    assert len(steps) <= count + 1
    late = [b / a for a, b in itertools.pairwise(steps) if a > 1_000]
    assert not late or max(late) / min(late) < 1.01


@pytest.mark.parametrize(("num_steps", "count"), [(0, 3), (-1, 3), (3, 0)])
def test_log_steps_need_a_step(num_steps, count):
    with pytest.raises(ValueError, match=f"^num_steps and count must be at least 1, got {num_steps} and {count}"):
        log_steps(num_steps, count)


@pytest.mark.parametrize(
    "name", ["eta", "batch_size", "num_steps", "sampling", "weight_decay", "seed", "record", "measure"]
)
def test_nothing_scientific_has_a_default(name):
    net, (X, y) = DeepLinear((4, 1)), data(4)
    asked = {"eta": 0.1, "batch_size": 1, "num_steps": 1, "sampling": "iid", "weight_decay": 0.0, "seed": 0}
    asked |= {"record": [], "measure": {}}
    train(net, X, y, **asked)
    del asked[name]
    with pytest.raises(TypeError, match=f"missing 1 required keyword-only argument: '{name}'"):
        train(net, X, y, **asked)


# -------------------------------------------------------------------------------------------- refusals
X4, Y4 = data(4)
NAN_X, INF_Y = X4.clone(), Y4.clone()
NAN_X[2, 1], INF_Y[3] = math.nan, math.inf
NOTHING = torch.zeros(0, dtype=torch.float64)


def constant(*shape, value=0):
    return lambda n, *, batch_size, num_steps, generator: torch.full(shape, value)


@both_routes
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": -0.1}, r"^eta must be finite and at least 0, got -0\.1"),
        ({"eta": math.nan}, "^eta must be finite and at least 0, got nan"),
        ({"eta": torch.tensor([0.1, math.inf])}, "^eta must be finite and at least 0, got inf"),
        ({"eta": None}, "^eta must be a number or an array of numbers, got None"),
        ({"eta": "fast"}, "^eta must be a number or an array of numbers, got 'fast'"),
        ({"eta": [[0.1], [0.1, 0.2]]}, "^eta must be a number or an array of numbers, got"),
        ({"eta": 0.1j}, r"^eta must be real, got 0\.1j"),
        ({"eta": NOTHING}, r"^eta must hold at least one value, got the shape \(0,\)"),
        ({"weight_decay": -1.0}, "^weight_decay must be finite and at least 0, got -1"),
        ({"weight_decay": math.inf}, "^weight_decay must be finite and at least 0, got inf"),
        ({"label_noise": -1.0}, "^label_noise must be finite and at least 0, got -1"),
        ({"label_noise": math.nan}, "^label_noise must be finite and at least 0, got nan"),
        ({"parameter_noise": -1.0}, "^parameter_noise must be finite and at least 0, got -1"),
        ({"parameter_noise": math.inf}, "^parameter_noise must be finite and at least 0, got inf"),
        ({"clip_norm": -1.0}, "^clip_norm must be at least 0, got -1"),
        ({"clip_norm": math.nan}, "^clip_norm must be at least 0, got nan"),
        ({"seed": 0.0}, r"^seed must be an integer, got 0\.0"),
        ({"seed": True}, "^seed must be an integer, got True"),
        ({"seed": torch.tensor([3, -1])}, "^seed must be finite and at least 0, got -1"),
        ({"batch_size": 2.0}, r"^batch_size must be an integer, got 2\.0"),
        ({"batch_size": 0}, "^batch_size must be finite and at least 1, got 0"),
        ({"batch_size": torch.tensor([4, 13])}, r"^batch_size must lie in 1\.\.n = 12, got 13"),
        ({"batch_size": 13, "sampling": "iid"}, r"^batch_size must lie in 1\.\.n = 12, got 13"),
        ({"batch_size": torch.tensor([4, 5])}, r"^batch_size must divide n = 12 for sampling='without_repl.*, got 5"),
        ({"batch_size": 5, "sampling": "cyclic"}, "^batch_size must divide n = 12 for sampling='cyclic', got 5"),
        ({"batch_size": 4, "sampling": "full"}, "^batch_size must be n = 12 for sampling='full', got 4"),
        ({"num_steps": -1}, "^num_steps must be an integer and not negative, got -1"),
        ({"num_steps": 2.5, "record": [1]}, r"^num_steps must be an integer and not negative, got 2\.5"),
        ({"num_steps": True, "record": [1]}, "^num_steps must be an integer and not negative, got True"),
        ({"record": [0, 13]}, r"^record must lie in 0\.\.num_steps = 12, got 0\.\.13"),
        ({"record": [-1]}, r"^record must lie in 0\.\.num_steps = 12, got -1\.\.-1"),
        ({"record": [1.5]}, r"^record must be a sequence of integers, got \[1\.5\]"),
        ({"record": 3}, "^record must be a sequence of integers, got 3"),
        ({"record": torch.tensor([[1, 2]])}, "^record must be a sequence of integers"),
        ({"sampling": "shuffle"}, "^sampling must be one of .*'online'.* got 'shuffle'"),
        ({"sampling": None}, "^sampling must be one of .* got None"),
        ({"sampling": constant(12, 3)}, r"^sampling must return the shape \(12, 4\), got \(12, 3\)"),
        ({"sampling": constant(12, 4, value=12)}, r"^sampling must return indices in 0\.\.11, got 12\.\.12"),
        ({"sampling": constant(12, 4, value=-1)}, r"^sampling must return indices in 0\.\.11, got -1\.\.-1"),
        ({"sampling": constant(12, 4, value=1.5)}, "^sampling must return a tensor of integers, got torch.float64"),
        ({"sampling": constant(12, 4, value=True)}, "^sampling must return a tensor of integers, got torch.bool"),
        ({"sampling": lambda n, **rest: None}, "^sampling must return a tensor of integers, got NoneType"),
        ({"last_batch": "drop"}, r"^last_batch must be one of \('whole', 'short', 'dropped'\), got 'drop'"),
        ({"schedule": lambda t: -t}, "^schedule must return a finite factor, at least 0, for each of the 12 steps"),
        ({"schedule": lambda t: 1 / (t - 1)}, "^schedule must return a finite factor"),
        ({"schedule": lambda t: t[:-1]}, r"^schedule must return .* got shape \(11,\)"),
        ({"schedule": lambda t: 1.0}, r"^schedule must return .* got shape \(\)"),
        ({"schedule": lambda t: "half"}, "^schedule must be a number or an array of numbers, got 'half'"),
        ({"measure": {"a": lambda m: 3.0}}, r"^measure\['a'\] must return a tensor with the 1 runs first, got float"),
        ({"measure": {"a": lambda m: m.W1.sum()}}, r"^measure\['a'\] must return .* the 1 runs first, got \(\)"),
        ({"device": "moon"}, "^device must be one that torch can use here, got 'moon'"),
        ({"device": "meta"}, "^device must be one that torch can use here, got 'meta'"),
        ({"device": None}, "^device must be one that torch can use here, got None"),
        ({"eta": torch.ones(3), "seed": torch.arange(2)}, r"^run axes must broadcast .* eta \(3,\), seed \(2,\)"),
        ({"X": X4.expand(3, N, 4), "eta": torch.ones(2)}, r"^run axes must broadcast .* eta \(2,\), X \(3,\)"),
        ({"y": Y4.expand(3, N), "eta": torch.ones(2)}, r"^run axes must broadcast .* eta \(2,\), y \(3,\)"),
        ({"model": DeepLinear((4, 1)), "X": NAN_X}, "^X must be finite, got nan"),
        ({"y": INF_Y}, "^y must be finite, got inf"),
        ({"X": X4[:, :3]}, "^X must fit the model, got 3 inputs"),
        ({"X": X4[:, 0]}, r"^X must have the shape \(\*runs, n, d\) with n, d >= 1, got \(12,\)"),
        ({"X": NOTHING.view(0, 4), "y": NOTHING}, r"^X must have the shape .* got \(0, 4\)"),
        ({"X": X4.numpy()}, "^X must be a tensor, got ndarray"),
        ({"y": Y4.tolist()}, "^y must be a tensor, got list"),
        (
            {"X": X4.float()},
            "^X and y must be torch.float64 as the model's parameters, got torch.float32 and torch.float64",
        ),
        (
            {"y": Y4.long()},
            "^X and y must be torch.float64 as the model's parameters, got torch.float64 and torch.int64",
        ),
        ({"y": Y4[:-1]}, r"^y must have the shape \(\*runs, 12\) for n = 12 inputs and this model, got \(11,\)"),
        ({"y": Y4[:, None]}, r"^y must have the shape \(\*runs, 12\) for n = 12 inputs and this model, got \(12, 1\)"),
        ({"y": Y4[0]}, r"^y must have the shape \(\*runs, 12\) for n = 12 inputs and this model, got \(\)"),
        ({"y": None}, "^X must be a function and y None for sampling='online', and tensors for every other sampler"),
        ({"X": fresh(4), "y": None}, "^X must be a function and y None for sampling='online'"),
        ({"sampling": "online"}, "^X must be a function and y None for sampling='online'"),
        ({"X": fresh(4), "sampling": "online"}, "^X must be a function and y None for sampling='online'"),
    ],
)
def test_bad_arguments_are_refused_by_name_rule_and_value(route, change, message):
    asked = {"model": DeepLinear((4, 1)), "X": X4, "y": Y4, "route": route} | change
    with pytest.raises(ValueError, match=message):
        call(asked.pop("model"), asked.pop("X"), asked.pop("y"), **asked)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_refusal_inside_a_run_leaves_no_mess(jobs):
    with pytest.raises(ValueError, match=r"^measure\['a'\] must return a tensor with the \d runs first, got \(\)"):
        call(filled(DeepLinear((4, 1)), 6), X4, Y4, jobs=jobs, measure={"a": lambda m: m.W1.sum()})


@both_routes
def test_fresh_data_of_another_shape_or_kind_are_refused_not_read_past_their_end(route):
    def few(count, generator):
        return fresh(4)(min(count, 5), generator)

    def wide(count, generator):
        return fresh(4 if count == 2 else 3)(count, generator)

    def coarse(count, generator):
        return tuple(v if count == 2 else v.float() for v in fresh(4)(count, generator))

    with pytest.raises(ValueError, match=r"^X must return numbers of the kinds \(torch.float64, torch.float64\), got"):
        call(DeepLinear((4, 1)), coarse, None, sampling="online", route=route)
    for stream in (few, wide):
        with pytest.raises(ValueError, match=r"^X must return the shapes \(\(4096, 4\), \(4096,\)\), got"):
            call(DeepLinear((4, 1)), stream, None, sampling="online", route=route)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("net", "^model must be a torch module with parameters, got str"),
        (nn.Flatten(0), "^model must be a torch module with parameters, got Flatten"),
        (
            nn.Linear(4, 1).double(),
            r"^y must have the shape \(\*runs, 12, 1\) for n = 12 inputs and this model, got \(12,\)",
        ),
        (DeepLinear((4, 5, 2)), r"^y must have the shape \(\*runs, 12, 2\) .*, got \(12,\)"),
    ],
    ids=["text", "no parameters", "column", "two outputs"],
)
def test_models_that_do_not_fit_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        call(model, X4, Y4)


def test_outputs_never_broadcast_against_targets():
    """A bare squeeze takes the axis of a batch of one example along: (runs,) against (runs, 1) would be a square."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 1))

        def forward(self, X):
            return (X @ self.w).squeeze()

    with pytest.raises(ValueError, match=r"^model must map X to the shape of y \(3, 1\), got \(3,\)"):
        call(Bare(), X4, Y4, batch_size=1, eta=torch.ones(3))
    assert call(Bare(), X4, Y4, batch_size=2).diverged == ()


def test_a_loss_must_be_one_number_for_a_run():
    with pytest.raises(ValueError, match=r"^loss must return one number for a run, got the shape \(4,\)"):
        call(DeepLinear((4, 1)), X4, Y4, loss=lambda out, y: (out - y) ** 2)


@pytest.mark.parametrize(
    ("model", "X", "change"),
    [
        (DeepLinear((4, 1)), X4, {"loss": half_square}),
        (DeepLinear((4, 1)), X4, {"device": "cuda"})
        if torch.cuda.is_available()
        else (nn.Linear(4, 1).double(), X4, {}),
        (DiagonalReLU(4, 2), X4, {}),
        (Shifted((4, 1)), X4, {}),
    ],
    ids=["loss", "device or module", "diagonal relu", "subclass"],
)
def test_the_compiled_route_is_refused_where_it_does_not_fit(model, X, change):
    y = Y4[:, None] if isinstance(model, nn.Linear) else Y4
    with pytest.raises(ValueError, match="^route must be 'torch' or 'auto' here, got 'compiled'"):
        call(model, X, y, route="compiled", **change)
    assert call(model, X, y, **change).route == "torch"


def test_an_unknown_route_is_refused():
    with pytest.raises(ValueError, match=r"^route must be one of \('auto', 'compiled', 'torch'\), got 'fast'"):
        call(DeepLinear((4, 1)), X4, Y4, route="fast")


# --------------------------------------------------------------------- modules that are not the library's
class Around(nn.Module):
    """A skip path, and a count of its calls kept in a buffer."""

    def __init__(self, d):
        super().__init__()
        self.w, self.shapes = nn.Parameter(torch.ones(d, dtype=torch.float64)), [8, 1]
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, X):
        self.calls = self.calls + 1
        return X @ self.w


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_measurement_evaluates_a_module_of_ones_own(jobs):
    net = Around(4)
    measure = {"mean": lambda m: outputs(m, X4).mean(dim=1), "theta": flat}
    with joblib.parallel_config(backend="threading"):
        runs = call(net, X4, Y4, seed=torch.arange(3), jobs=jobs, measure=measure)
    assert (runs["mean"] - runs["theta"] @ X4.mean(dim=0)).abs().max() < 1e-14
    assert net.calls == 0  # the caller's module is not touched


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4, dtype=torch.float64), nn.Dropout()], ids=["batch norm", "dropout"])
def test_a_module_that_vmap_refuses_is_refused_by_name_and_left_as_it_was(layer):
    net = nn.Sequential(layer, nn.Linear(4, 1, dtype=torch.float64))
    before = [buffer.clone() for buffer in net.buffers()]
    with pytest.raises(ValueError, match=r"the model must be one that torch.func.vmap takes"):
        call(net, X4, Y4[:, None])
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))


def test_a_parameter_under_two_names_is_refused():
    net = nn.Sequential(*[nn.Linear(4, 4, dtype=torch.float64) for _ in range(2)])
    net[1].weight = net[0].weight
    with pytest.raises(ValueError, match="^model must not use a parameter under two names, got Sequential"):
        call(net, X4, torch.zeros(N, 4))


def test_a_model_with_a_hook_is_left_to_torch():
    net = filled(DeepLinear((4, 1)))
    net.register_forward_hook(lambda module, arguments, out: out * 0)
    still = call(net, X4, Y4)
    assert still.route == "torch"
    assert torch.equal(still["theta"][-1], still["theta"][0])


def test_class_numbers_cannot_carry_label_noise():
    loss = nn.functional.cross_entropy
    with pytest.raises(ValueError, match=r"^label_noise must be 0 for targets of torch.int64"):
        call(DeepLinear((4, 3)), X4, torch.zeros(N, dtype=torch.long), loss=loss, label_noise=0.1)


DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]  # a GPU is tested where there is one


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampler", ["full", "short", "online"])
def test_every_device_takes_the_steps_of_the_compiled_route(device, sampler):
    net = filled(ReLU((4, 5, 1), biases=True), 3)
    X, y = (fresh(4), None) if sampler == "online" else (X4, Y4)
    options = {"label_noise": 0.1, "parameter_noise": 0.01, "clip_norm": 0.3, "weight_decay": 0.1}
    there = call(net, X, y, route="torch", device=device, **SAMPLERS[sampler], **options)
    here = call(net, X, y, route="compiled", **SAMPLERS[sampler], **options)
    assert (there["theta"] - here["theta"]).abs().max() < 1e-12
    assert torch.equal(there.clipped, here.clipped)


# ------------------------------------------------------------------------------- blocks, memory, streams
@pytest.mark.parametrize("model", [filled(DeepLinear((4, 5, 1)), 3), filled(ReLU((4, 5, 1), biases=True), 3)], ids=str)
@both_routes
def test_the_size_of_a_block_of_steps_changes_no_bit(model, route, monkeypatch):
    options = {"route": route, "record": [STEPS], "label_noise": 0.1, "parameter_noise": 0.01}
    whole = call(model, X4, Y4, **options)
    ticks = []
    monkeypatch.setattr(routes, "WORK" if route == "compiled" else "BLOCK", 1)
    monkeypatch.setattr(engine._Tick, "__call__", lambda self, steps: ticks.append(steps))
    assert torch.equal(call(model, X4, Y4, **options)["theta"], whole["theta"])
    assert sum(ticks) == 3 * STEPS
    assert max(ticks) == (3 if route == "compiled" else 1)  # Ctrl-C is heard after each step


def test_wide_networks_and_their_noise_take_shorter_blocks():
    seen = []
    for width, noise in ((5, 0.0), (500, 0.0), (500, 0.1)):
        for route in ROUTES:
            net = filled(ReLU((4, width, 1), biases=False), 1)
            settings = {name: torch.zeros(1, dtype=torch.float64) for name in compiled.Options._fields}
            settings |= {"seed": torch.zeros(1, dtype=torch.long), "parameter_noise": torch.full((1,), noise).double()}
            task = routes.Task(
                net, X4[None], Y4[None], 4, 4, 9, "iid", False, settings, torch.ones(9), (), {}, None, "cpu"
            )
            kind = {"compiled": routes.CompiledRoute, "torch": routes.TorchRoute}[route]
            seen.append(kind(task, flat(net).detach()).steps_at_once)
    small, _, wide, plain, _, noisy = seen
    assert wide * 100 <= routes.WORK / (2500 * 4) * 100 < small * 100  # multiplications bound the compiled route
    assert noisy * 2500 <= routes.BLOCK < plain * 2500  # and drawn numbers the other


def test_one_data_set_with_run_axes_of_length_one_is_held_once():
    assert engine._flat(X4[None, None], (4, 16), 2).shape == (1, *X4.shape)
    many = {"seed": torch.arange(3)}
    assert torch.equal(call(filled(DeepLinear((4, 1))), X4[None], Y4[None], **many)["theta"],
                       call(filled(DeepLinear((4, 1))), X4, Y4, **many)["theta"])  # fmt: skip


def test_fresh_data_do_not_repeat_what_the_caller_drew_with_the_same_seed():
    drawn = []

    def stream(count, generator):
        drawn.append(torch.randn(count, 4, generator=generator, dtype=torch.float64))
        return drawn[-1], drawn[-1][:, 0]

    call(DeepLinear((4, 1)), stream, None, sampling="online", seed=7)
    same = torch.randn(
        drawn[-1].shape, generator=seeded(7), dtype=torch.float64
    )  # numbers depend on how many are asked
    assert not torch.equal(drawn[-1], same)


def test_a_schedule_is_asked_in_double_precision_whatever_the_default_is():
    asked = []
    call(DeepLinear((4, 1)), X4, Y4, schedule=lambda t: asked.append(t.dtype) or 1 / t)
    assert asked == [torch.float64]


def test_a_measurement_that_writes_does_not_reach_the_run():
    def vandal(model):
        model.W1.zero_()
        return flat(model)

    for route in ROUTES:
        runs = call(filled(DeepLinear((4, 1))), X4, Y4, measure={"zero": vandal}, route=route, record=[0, 1, STEPS])
        assert torch.equal(flat(runs.model), flat(call(filled(DeepLinear((4, 1))), X4, Y4, route=route).model))


@both_routes
def test_sharpness_is_recorded_during_a_run_and_is_nan_after_a_divergence(route):
    net = filled(DeepLinear((4, 3, 1)))
    measure = {"sharpness": of_each(lambda one: sharpness(one, X4, Y4)), "theta": flat}
    etas = torch.tensor([0.05, 50.0], dtype=torch.float64)
    runs = call(net, X4, Y4, eta=etas, num_steps=40, record=[0, 10, 40], measure=measure, route=route)
    assert [lost.run for lost in runs.diverged] == [(1,)]
    assert runs["sharpness"].isnan().tolist() == runs["theta"].isnan().any(dim=-1).tolist()
    assert runs["sharpness"][0].tolist() == [sharpness(net, X4, Y4)] * 2
    assert runs["sharpness"][-1, 0] == sharpness(single(runs.model, 0), X4, Y4) != runs["sharpness"][0, 0]


def test_a_backend_without_generators_will_do():
    class Plain(joblib._parallel_backends.ThreadingBackend):
        supports_return_generator = False

    joblib.register_parallel_backend("plain", Plain)
    with joblib.parallel_config(backend="plain", n_jobs=2):
        runs = call(filled(DeepLinear((4, 1)), 3), X4, Y4)
    assert torch.equal(runs["theta"], call(filled(DeepLinear((4, 1)), 3), X4, Y4)["theta"])


# ------------------------------------------------------------------------- other processes, and the bar
@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    )
    with cluster, distributed.Client(cluster):
        yield cluster


def test_a_cluster_does_what_one_process_does(cluster):
    for name in ("full", "short", "online", "custom"):
        sampler = SAMPLERS[name]
        whole = ensemble("compiled", sampler)
        with joblib.parallel_config(backend="dask"):
            sent = ensemble("compiled", sampler, measure={"theta": lambda m: flat(m)})
        assert torch.equal(sent["theta"], whole["theta"])
        assert torch.equal(sent.clipped, whole.clipped)
        assert torch.equal(flat(sent.model), flat(whole.model))


@both_routes
@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_is_counted_to_the_end(route, jobs, monkeypatch, capsys):
    bars = []
    monkeypatch.setattr(engine, "tqdm", lambda **asked: bars.append(tqdm(**asked | {"delay": 0})) or bars[-1])
    jobs = jobs if route == "compiled" else 1
    call(filled(DeepLinear((4, 1)), 6), X4, Y4, route=route, jobs=jobs, progress=True)
    assert bars[0].total == bars[0].n == 6 * STEPS
    written = capsys.readouterr()
    assert "100%" in written.err
    assert written.out == ""


def test_without_progress_nothing_is_written(monkeypatch, capsys):
    monkeypatch.setattr(engine, "tqdm", lambda **asked: tqdm(**asked | {"delay": 0}))
    call(filled(DeepLinear((4, 1)), 6), X4, Y4, progress=False)
    assert capsys.readouterr() == ("", "")
