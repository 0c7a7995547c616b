"""What the engine's steps must conserve, multiply or ignore, whatever the data, the batch and the depth."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.engine import train
from lib.models import DeepLinear, Diagonal, ReLU, balanced, with_parameters

steady = settings(deadline=None, derandomize=True, database=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
routes = st.sampled_from(["compiled", "torch"])
STEPS = 6


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(model, *runs, seed=0):
    g = seeded(seed)
    return with_parameters(
        model, {name: 0.7 * torch.randn(*runs, *shape, generator=g) for name, shape in model.shapes.items()}
    )


def problem(n, d, seed):
    g = seeded(seed)
    return torch.randn(n, d, generator=g), torch.randn(n, generator=g)


def path(net, X, y, *, batches=None, **changes):
    """The parameters after every step, name -> (num_steps + 1, ...); `batches` are those of every run."""
    asked = {"eta": 0.05, "num_steps": STEPS, "weight_decay": 0.0, "seed": 0, "route": "auto"}
    if batches is not None:
        asked |= {"sampling": lambda n, **rest: batches, "batch_size": batches.shape[1], "num_steps": len(batches)}
    asked |= changes
    measure = {name: lambda m, name=name: m.get_parameter(name) for name in net.shapes}
    return train(net, X, y, record=range(asked["num_steps"] + 1), measure=measure, **asked).require_finite().records


# ------------------------------------------------------------------------------- exact at every step
@steady
@given(st.integers(2, 5), st.integers(1, 4), st.integers(1, 5), seeds, routes)
def test_a_step_multiplies_the_imbalance_of_every_pair_of_layers(depth, d, batch_size, seed, route):
    """theta_i^2 - theta_j^2 becomes (1 - eta^2 eps_B^2 Q^2) times itself, Q the product of the other layers."""
    X, y = problem(8, d, seed)
    batches = torch.randint(8, (STEPS, batch_size), generator=seeded(seed + 1))
    theta = path(filled(Diagonal(d, depth), seed=seed), X, y, batches=batches, route=route)["theta"]
    theta = theta.view(STEPS + 1, depth, d)
    for step, batch in enumerate(batches):
        old, new = theta[step], theta[step + 1]
        residuals = X[batch] @ old.prod(dim=0) - y[batch]
        epsilon = (residuals[:, None] * X[batch]).mean(dim=0)
        for i, j in itertools.combinations(range(depth), 2):
            Q = torch.stack([old[k] for k in range(depth) if k not in (i, j)] + [torch.ones(d)]).prod(dim=0)
            factor = 1 - (0.05 * epsilon * Q) ** 2
            size = new[i] ** 2 + new[j] ** 2 + old[i] ** 2 + old[j] ** 2
            error = (new[i] ** 2 - new[j] ** 2) - factor * (old[i] ** 2 - old[j] ** 2)
            assert (error.abs() <= 1e-14 * (1 + size)).all()  # a few roundings of squares


def test_the_imbalance_factor_is_seen_by_that_test():
    """Its second-order term is far above the rounding that the test allows."""
    X, y = problem(8, 1, 0)
    batches = torch.randint(8, (STEPS, 2), generator=seeded(1))
    theta = path(filled(Diagonal(1, 2)), X, y, batches=batches)["theta"].view(STEPS + 1, 2)
    imbalance = theta[:, 0] ** 2 - theta[:, 1] ** 2
    assert (imbalance[1:] - imbalance[:-1]).abs().max() > 1e-6


@steady
@given(st.integers(2, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), seeds, routes)
def test_a_step_adds_squares_of_gradients_to_the_balance_of_neighbouring_layers(
    depth, d, width, batch_size, seed, route
):
    """G_l = W_{l+1}^T W_{l+1} - W_l W_l^T gains eta^2 (g_{l+1}^T g_{l+1} - g_l g_l^T)."""
    X, y = problem(8, d, seed)
    batches = torch.randint(8, (STEPS, batch_size), generator=seeded(seed + 1))
    net = filled(DeepLinear((d, *[width] * (depth - 1), 1)), seed=seed)
    net = with_parameters(net, {name: W / math.sqrt(width) for name, W in net.named_parameters()})
    records = path(net, X, y, batches=batches, route=route)
    layers = [records[name].view(STEPS + 1, *shape) for name, shape in net.shapes.items()]
    for step, batch in enumerate(batches):
        here = with_parameters(net, {name: W[step] for name, W in zip(net.shapes, layers, strict=True)})
        ((here(X[batch]) - y[batch]) ** 2).mean().div(2).backward()
        g = [W.grad for W in here.parameters()]
        for k in range(depth - 1):
            lower, upper = layers[k][step : step + 2], layers[k + 1][step : step + 2]
            G, new = upper.mT @ upper - lower @ lower.mT
            gain = 0.05**2 * (g[k + 1].T @ g[k + 1] - g[k] @ g[k].T)
            size = 1 + float((lower**2).sum() + (upper**2).sum())
            assert (new - G - gain).abs().max() < 1e-14 * size


@pytest.mark.parametrize("route", ["compiled", "torch"])
def test_balanced_layers_part_at_second_order_only(route):
    X, y = problem(8, 4, 0)
    net = balanced(DeepLinear((4, 5, 3, 1)), scale=0.8, generator=seeded(0))
    gaps = []
    for eta in (0.02, 0.01):
        W = path(net, X, y, eta=eta, num_steps=1, sampling="full", batch_size=8, route=route)
        W1, W2 = W["W1"].view(2, 5, 4)[1], W["W2"].view(2, 3, 5)[1]
        gaps.append(float((W2.T @ W2 - W1 @ W1.T).norm()))
    assert abs(gaps[0] / gaps[1] - 4) < 1e-6  # eta^2, exactly: the gradients are those of the start


# ------------------------------------------------------------------------- gradient flow conserves
@pytest.mark.parametrize("route", ["compiled", "torch"])
@pytest.mark.parametrize("depth", [2, 3])
def test_gradient_descent_breaks_conservation_by_an_error_proportional_to_eta(route, depth):
    """At flow time 1 the drift of theta_i^2 - theta_j^2 halves with eta, and Richardson's combination removes it."""
    X, y = problem(8, 3, 2)
    net, drifts = filled(Diagonal(3, depth), seed=3), []
    for num_steps in (100, 200, 400):
        eta = 1 / num_steps
        theta = path(net, X, y, eta=eta, num_steps=num_steps, sampling="full", batch_size=8, route=route)["theta"]
        squares = theta.view(num_steps + 1, depth, 3)[[0, -1]] ** 2
        drifts.append((squares[1, 0] - squares[1, 1]) - (squares[0, 0] - squares[0, 1]))
    coarse, middle, fine = drifts
    assert coarse.abs().max() > 1e-6  # rounding is 1e-13
    assert (middle - coarse / 2).abs().max() < 0.05 * coarse.abs().max()  # the O(eta^2) of the error
    assert (2 * fine - middle).abs().max() < 0.3 * (2 * middle - coarse).abs().max()  # itself falls as eta^2: 1/4


# ------------------------------------------------------------------------------ what nothing depends on
OPTIONS = {"weight_decay": 0.2, "label_noise": 0.3, "clip_norm": 0.4}


@steady
@given(st.integers(1, 5), st.integers(2, 6), st.sampled_from(["full", "subsets", "iid"]), seeds, routes)
def test_a_rotation_of_hidden_units_turns_the_path_and_nothing_else(d, width, sampling, seed, route):
    X, y = problem(8, d, seed)
    net = filled(DeepLinear((d, width, width, 1)), seed=seed)
    Q = torch.linalg.qr(torch.randn(width, width, generator=seeded(seed + 1))).Q
    R = torch.linalg.qr(torch.randn(width, width, generator=seeded(seed + 2))).Q
    turned = with_parameters(net, {"W1": Q @ net.W1, "W2": R @ net.W2 @ Q.T, "W3": net.W3 @ R.T})
    asked = {"sampling": sampling, "batch_size": 8 if sampling == "full" else 3, "seed": seed, "route": route}
    a, b = (path(start, X, y, eta=0.02, **asked, **OPTIONS) for start in (net, turned))
    A, B = ({name: W.view(STEPS + 1, *net.shapes[name]) for name, W in p.items()} for p in (a, b))
    assert (B["W1"] - Q @ A["W1"]).abs().max() < 1e-12
    assert (B["W2"] - R @ A["W2"] @ Q.T).abs().max() < 1e-12
    assert (B["W3"] - A["W3"] @ R.T).abs().max() < 1e-12


@steady
@given(st.integers(2, 9), seeds, routes)
def test_hidden_relu_units_have_no_order(width, seed, route):
    X, y = problem(8, 1, seed)
    net, order = filled(ReLU((1, width, 1), biases=True), seed=seed), torch.randperm(width, generator=seeded(seed))
    shuffled = with_parameters(net, {"W1": net.W1[order], "b1": net.b1[order], "W2": net.W2[:, order], "b2": net.b2})
    asked = {"sampling": "subsets", "batch_size": 3, "seed": seed, "route": route}
    a, b = (path(start, X, y, eta=0.02, **asked, **OPTIONS) for start in (net, shuffled))
    a, b = ({k: v.view(STEPS + 1, *net.shapes[k]) for k, v in records.items()} for records in (a, b))
    assert (a["W1"][:, order] - b["W1"]).abs().max() < 1e-12
    assert (a["b1"][:, order] - b["b1"]).abs().max() < 1e-12
    assert (a["W2"][..., order] - b["W2"]).abs().max() < 1e-12
    assert (a["b2"] - b["b2"]).abs().max() < 1e-12


@steady
@given(st.integers(1, 4), st.integers(1, 5), seeds, routes)
def test_a_batch_has_no_order(d, batch_size, seed, route):
    X, y = problem(8, d, seed)
    batches = torch.randint(8, (STEPS, batch_size), generator=seeded(seed + 1))
    net = filled(DeepLinear((d, 3, 1)), seed=seed)
    a, b = (path(net, X, y, batches=some, eta=0.02, route=route)["W1"] for some in (batches, batches.flip(1)))
    assert (a - b).abs().max() < 1e-12


@steady
@given(st.integers(1, 5), st.integers(1, 4), seeds, routes)
def test_inputs_in_another_order_are_weights_in_another_order(d, depth, seed, route):
    X, y = problem(8, d, seed)
    net, order = filled(Diagonal(d, depth), seed=seed), torch.randperm(d, generator=seeded(seed))
    moved = with_parameters(net, {"theta": net.theta[:, order]})
    asked = {"sampling": "iid", "batch_size": 3, "seed": seed, "route": route, "eta": 0.02}
    a, b = (path(start, data, y, **asked, **OPTIONS)["theta"] for start, data in ((net, X), (moved, X[:, order])))
    assert (a[..., order] - b).abs().max() < 1e-12


@pytest.mark.parametrize("route", ["compiled", "torch"])
def test_weight_decay_alone_shrinks_by_one_minus_eta_lambda(route):
    """Of the penalty lambda / 2 |theta|^2: on data that are all zero nothing else moves a weight."""
    net = filled(DeepLinear((3, 4, 1)))
    asked = {"eta": torch.tensor([0.1, 0.2]), "weight_decay": torch.tensor([0.5, 0.3]), "route": route}
    W = path(net, torch.zeros(4, 3), torch.zeros(4), sampling="full", batch_size=4, **asked)
    for k, factor in enumerate((1 - 0.05, 1 - 0.06)):
        for name in ("W1", "W2"):
            expected = net.get_parameter(name).detach() * factor**STEPS
            assert (W[name][-1, k] - expected).abs().max() < 1e-15


def test_the_largest_stable_rate_is_two_over_the_sharpness():
    """One weight on x of second moment m2: 0.99 times 2 / m2 converges, 1.01 times grows, on both routes."""
    X, y = problem(8, 1, 0)
    limit = 2 / float((X**2).mean())
    target = float((X[:, 0] * y).mean() / (X**2).mean())
    for route in ("compiled", "torch"):
        asked = {"sampling": "full", "batch_size": 8, "num_steps": 500, "route": route}
        W = path(DeepLinear((1, 1)), X, y, eta=limit * torch.tensor([0.99, 1.01]), **asked)["W1"].flatten(1)
        gap = (W - target).abs()
        assert abs(float(gap[-1, 0] / gap[0, 0]) / 0.98**500 - 1) < 1e-9
        assert abs(math.log(float(gap[-1, 1] / gap[0, 1])) / 500 - math.log(1.02)) < 1e-9
