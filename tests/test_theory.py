"""Each closed form against a route that does not know it: all orders, all batches, autograd, the run itself."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.optimizers import all_epochs
from lib.theory import (
    Moments,
    clock,
    depth3_square,
    diagonal_sharpness,
    effective_weight_decay,
    epoch_drift,
    finite_population,
    first_layer_probability,
    hyperbola_squares,
    imbalance_factor,
    imbalance_rate,
    label_noise_factor,
    label_noise_rate,
    late_exponent,
    late_spread,
    layer_imbalance_change,
    lemma1_second_moment,
    lemma1_variance,
    limit_sharpness,
    limit_squares,
    moments,
    noise_floor,
    relu_first_layer_probability,
    reshuffled_spread,
    scaled_layer_probability,
    second_weight_rate,
    sharpness_gap,
    soft_threshold,
    stationary_spread,
    steps_to_shrink,
    sum_difference_factors,
    tanh_unit,
    theorem1_drift,
    theorem1_factor,
    two_layer_drift,
)

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
numbers = st.floats(-2.0, 2.0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def paired(values: torch.Tensor, s: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Each value twice with targets +-s / x: E[yx] = Cov(x^2, yx) = 0 and Var(yx) = s^2 exactly."""
    x = values.repeat(2)
    return x, torch.cat([s / values, -s / values])


def drawn(n, b, num_steps, chains, sampling, seed):
    """A batch of every chain at every step, shape (chains, b)."""
    generator = seeded(seed)
    if sampling == "wo":
        for _ in range(num_steps * b // n):
            yield from torch.rand(chains, n, generator=generator).argsort(dim=1).split(b, dim=1)
    for _ in range(num_steps if sampling != "wo" else 0):
        if sampling == "iid":
            yield torch.randint(n, (chains, b), generator=generator)
        else:
            yield torch.rand(chains, n, generator=generator).argsort(dim=1)[:, :b]


def others(theta: torch.Tensor) -> torch.Tensor:
    """Product of all layers but each one; layers on the last axis."""
    depth = theta.shape[-1]
    return torch.stack([theta[..., [k for k in range(depth) if k != i]].prod(dim=-1) for i in range(depth)], dim=-1)


def epsilon(theta, x, y, batch):
    p = theta.prod(dim=-1, keepdim=True)
    return ((p * x[batch] - y[batch]) * x[batch]).mean(dim=-1, keepdim=True)


def network(theta, x, y, batches, eta, weight_decay=0.0):
    """Path of the weights (chains, depth) of one input of a diagonal network, step by step."""
    for batch in batches:
        theta = theta - eta * (epsilon(theta, x, y, batch) * others(theta) + weight_decay * theta)
        yield theta


def last(path):
    for state in path:  # noqa: B007
        pass
    return state


# ------------------------------------------------------------------------------ finite population
@pytest.mark.parametrize(("n", "batch_size"), [(n, b) for n in (2, 3, 5, 7) for b in range(1, n + 1)])
def test_the_finite_population_correction_is_that_of_all_subsets(n, batch_size):
    x = [Fraction(k**3 - 5 * k + 2) for k in range(n)]  # no two alike, no symmetry
    mean = sum(x) / n
    variance = sum((v - mean) ** 2 for v in x) / n
    means = [sum(subset) / batch_size for subset in itertools.combinations(x, batch_size)]
    of_means = sum((m - mean) ** 2 for m in means) / len(means)
    assert finite_population(n, batch_size) == pytest.approx(float(of_means * batch_size / variance), abs=1e-15)


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_a_single_example_needs_no_correction_and_the_full_batch_has_no_noise(n):
    assert finite_population(n, 1) == 1.0
    assert finite_population(n, n) == 0.0


@pytest.mark.parametrize(
    ("n", "batch_size", "message"),
    [
        (1, 1, r"^n must be at least 2, got 1"),
        (4, 0, r"^batch_size must lie in 1\.\.n = 4, got 0"),
        (4, 5, r"^batch_size must lie in 1\.\.n = 4, got 5"),
    ],
)
def test_sizes_outside_the_formula_are_refused_by_name_and_value(n, batch_size, message):
    with pytest.raises(ValueError, match=message):
        finite_population(n, batch_size)


# ---------------------------------------------------------------------------------------- moments
@steady
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=8))
def test_moments_are_those_of_exact_arithmetic(rows):
    def mean(values):
        return sum(values, Fraction(0)) / len(rows)

    x, y = ([Fraction(row[k]) for row in rows] for k in (0, 1))
    g = [a * b for a, b in zip(x, y, strict=True)]
    m2, c = mean([a**2 for a in x]), mean(g)
    exact = {
        "c": c,
        "m2": m2,
        "m4": mean([a**4 for a in x]),
        "V4": mean([(a**2 - m2) ** 2 for a in x]),
        "C": mean([(a**2 - m2) * (b - c) for a, b in zip(x, g, strict=True)]),
        "R": mean([(b - c) ** 2 for b in g]),
        "q": mean([a**2 * b**2 for a, b in zip(x, g, strict=True)]),
    }
    exact["rho2"] = exact["C"] ** 2 / (exact["V4"] * exact["R"]) if exact["V4"] * exact["R"] else math.nan
    exact["kappa"] = exact["m4"] / m2**2 if m2 else math.nan
    measured = moments(torch.tensor([x, x], dtype=torch.float64), torch.tensor([y, y], dtype=torch.float64))
    for name, value in exact.items():
        pair = getattr(measured, name).tolist()
        assert pair == pytest.approx([float(value)] * 2, rel=1e-12, abs=1e-12, nan_ok=True)


def test_a_constant_has_variance_zero_exactly():
    m = moments(torch.tensor([0.3, -0.3, 0.3]), torch.tensor([0.7, -0.7, 0.7]))
    assert m.V4 == m.C == m.R == 0.0


def batch_means(x, y, b, sampling):
    """E_B[x^2] and E_B[yx] of every equally likely batch, shape (2, batches)."""
    n = len(x)
    every = itertools.combinations(range(n), b) if sampling == "subsets" else itertools.product(range(n), repeat=b)
    batches = torch.tensor(list(every))
    return torch.stack([(x**2)[batches].mean(dim=1), (y * x)[batches].mean(dim=1)])


def lowest(parabola):
    """Minimum of a quadratic function from three of its values."""
    left, middle, right = (parabola(t) for t in (-1.0, 0.0, 1.0))
    slope, curvature = (right - left) / 2, right + left - 2 * middle
    return middle - (slope**2 / (2 * curvature) if curvature > 0 else 0.0)


@pytest.mark.parametrize(("sampling", "b"), [("subsets", 1), ("subsets", 3), ("subsets", 7), ("iid", 1), ("iid", 3)])
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_lemma1_is_the_minimum_over_every_batch_and_weight(sampling, b, shift):
    x = normal(7, seed=1)
    g = normal(7, seed=2)
    y = (g - g.mean() + shift) / x
    s_B, g_B = batch_means(x, y, b, sampling)
    phi = finite_population(7, b) if sampling == "subsets" else 1.0
    m = moments(x, y)
    variance = lowest(lambda p: (p * s_B - g_B).var(correction=0).item())
    assert lemma1_variance(m, batch_size=b, phi=phi).item() == pytest.approx(variance, abs=1e-12)
    second = lowest(lambda p: ((p * s_B - g_B) ** 2).mean().item())
    assert lemma1_second_moment(m, batch_size=b, phi=phi).item() == pytest.approx(second, abs=1e-12)


def test_lemma1_with_a_constant_input_has_nothing_to_subtract():
    x, y = paired(torch.tensor([0.3, -0.3]), 2.0)
    assert lemma1_variance(moments(x, y), batch_size=2, phi=0.5).item() == pytest.approx(1.0, abs=1e-15)


def test_batches_of_an_irrelevant_input_may_agree_in_variance_but_never_vanish():
    x = torch.tensor([1.0, 2.0])
    m = moments(x, x - 2.5 / x)  # g = x^2 - 2.5: an irrelevant input with rho^2 = 1, R = 2.25
    assert lemma1_variance(m, batch_size=1, phi=1.0).item() == pytest.approx(0.0, abs=1e-15)
    assert lemma1_second_moment(m, batch_size=1, phi=1.0).item() == pytest.approx(1.6544117647, abs=1e-9)


# ------------------------------------------------------------------------ one epoch, all its orders
def eta2(run):
    """Coefficient of eta^2 of a smooth `run(eta)`: second differences, their h^2 and h^4 errors extrapolated away."""
    coarse, middle, fine = ((run(h) + run(-h) - 2 * run(0.0)) / (2 * h**2) for h in (0.004, 0.002, 0.001))
    return (coarse - 20 * middle + 64 * fine) / 45  # round-off is 1e-16 / h^2 = 1e-10


def mean_epoch_less_gd(gradient, theta, n, b, eta):
    """Mean over all orders of one epoch, less as many steps of gradient descent, per step."""
    epochs = all_epochs(n, batch_size=b)
    sgd, gd = theta.expand(len(epochs), *theta.shape), theta[None]
    for k in range(n // b):
        sgd = sgd - eta * gradient(sgd, epochs[:, k])
        gd = gd - eta * gradient(gd, torch.arange(n)[None])
    return (sgd.mean(dim=0) - gd[0]) * b / n


@pytest.mark.parametrize("b", [1, 2, 3])
def test_theorem1_is_the_mean_over_all_orders_of_an_epoch(b):
    n, a, wd = 6, 1.3, 0.4
    s, w = normal(n, seed=3) ** 2, torch.ones(1)
    m = moments(normal(n, seed=3), torch.zeros(n))

    def gradient(w, batch):
        return (a * s[batch].mean(dim=1, keepdim=True) + wd) * w

    arguments = {"a": a, "m2": m.m2, "batch_size": b, "weight_decay": wd}
    c2 = finite_population(n, b) * m.V4
    truth = eta2(lambda eta: mean_epoch_less_gd(gradient, w, n, b, eta))
    for eta in (0.5, 2.0):
        excess = theorem1_factor(eta=eta, c2=c2, **arguments) - theorem1_factor(eta=eta, c2=0.0, **arguments)
        assert excess.item() / eta**2 == pytest.approx(truth.item(), abs=1e-9)
    step = 1 - 0.1 * gradient(w[None], torch.arange(n)[None])
    assert theorem1_factor(eta=0.1, c2=0.0, **arguments).item() == pytest.approx(step.item(), abs=1e-15)


def test_an_input_that_is_zero_in_the_data_knows_only_weight_decay():
    X, layer = normal(10, 3, seed=4), torch.nn.Linear(3, 2, bias=False)
    X[:, 2] = 0.0
    optimizer, start = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.5), layer.weight.detach().clone()
    for i in range(10):
        optimizer.zero_grad()
        layer(X[i]).relu().sub(1.0).square().sum().backward()
        optimizer.step()
    factor = theorem1_factor(eta=0.1, a=1.0, m2=0.0, c2=0.0, batch_size=1, weight_decay=0.5)
    assert (layer.weight[:, 2] - factor**10 * start[:, 2]).abs().max() < 1e-14
    assert (layer.weight[:, 0] - factor**10 * start[:, 0]).abs().max() > 1e-2


X6, Y6 = normal(6, 3, seed=5), normal(6, 2, seed=6)
W1, W2 = normal(3, 3, seed=7), normal(2, 3, seed=8)


@pytest.mark.parametrize("b", [1, 2, 3])
def test_theorem1_for_matrices_is_the_mean_over_all_orders_of_an_epoch(b):
    def gradient(W, batch):
        residual = X6[batch] @ W.mT @ W2.T - Y6[batch]
        return W2.T @ residual.mT @ X6[batch] / batch.shape[1]

    truth = eta2(lambda eta: mean_epoch_less_gd(gradient, W1, 6, b, eta))
    assert truth.abs().max() > 0.1
    drift = theorem1_drift(X6, Y6, torch.stack([W1, W1]), W2, eta=0.5, batch_size=b)
    assert (drift / 0.25 - truth).abs().max() < 1e-8


def test_the_constant_of_theorem1_sums_over_all_inputs():
    # x_j = +-1 in a full factorial of d = 4: Var(x_i x_j) = 1 for i != j and 0 for i = j, so c^2 = 3
    X = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    drift = theorem1_drift(X, torch.zeros(16, 1), torch.ones(1, 4), torch.ones(1, 1), eta=1.0, batch_size=1)
    assert drift.tolist() == [[-1.5] * 4]


def two_layer_gradient(theta, batch):
    A, B = theta[..., :9].unflatten(-1, (3, 3)), theta[..., 9:].unflatten(-1, (2, 3))
    hidden = X6[batch] @ A.mT
    residual = hidden @ B.mT - Y6[batch]
    slopes = (B.mT @ residual.mT @ X6[batch], residual.mT @ hidden)
    return torch.cat([slope.flatten(-2) for slope in slopes], dim=-1) / batch.shape[-1]


@pytest.mark.parametrize("b", [1, 2, 3])
def test_the_drift_of_an_epoch_is_the_mean_over_all_its_orders(b):
    def each(theta):
        f = X6 @ theta[:9].view(3, 3).T @ theta[9:].view(2, 3).T
        losses = (f - Y6).square().sum(dim=1) / 2
        return torch.stack([torch.autograd.grad(loss, theta, create_graph=True)[0] for loss in losses])

    theta = 0.5 * torch.cat([W1.flatten(), W2.flatten()])
    truth = eta2(lambda eta: mean_epoch_less_gd(two_layer_gradient, theta, 6, b, eta))
    assert truth.abs().max() > 0.05
    with torch.no_grad():
        drift = epoch_drift(each, theta, eta=0.5, batch_size=b)
    assert (drift / 0.25 - truth).abs().max() < 1e-8
    assert not drift.requires_grad


@pytest.mark.parametrize("b", [1, 2, 3])
def test_the_drift_of_two_weights_is_the_mean_over_all_orders(b):
    x, y, theta = normal(6, seed=9), normal(6, seed=10), torch.tensor([0.9, -0.6])

    def gradient(theta, batch):
        return epsilon(theta, x, y, batch) * others(theta)

    truth = eta2(lambda eta: mean_epoch_less_gd(gradient, theta, 6, b, eta))
    m, phi = moments(x, y), finite_population(6, b)
    for weight, other, exact in (0.9, -0.6, truth[0]), (-0.6, 0.9, truth[1]):
        drift = two_layer_drift(weight, other, m, eta=0.5, batch_size=b, phi=phi)
        assert drift.item() / 0.25 == pytest.approx(exact.item(), abs=1e-8)


def test_an_independent_input_is_shrunk_as_by_the_effective_weight_decay():
    # three relevant points times z = +-s, so that z is independent of them; the fit is least squares
    s, points, labels = 0.7, normal(3, 2, seed=11), normal(3, 2, seed=12)
    X = torch.cat([torch.cat([points, sign * s * torch.ones(3, 1)], dim=1) for sign in (1, -1)])
    Y = labels.repeat(2, 1)
    top = normal(2, 3, seed=13)
    kernel = torch.linalg.svd(top).Vh[2:].T  # W_2 kernel = 0: the input is not used
    W = torch.cat([torch.linalg.pinv(top) @ torch.linalg.lstsq(points, labels).solution.T, kernel], dim=1)
    residual2 = ((X @ W.T @ top.T - Y) ** 2).sum(dim=1).mean()
    assert residual2 > 0.05

    def gradients(theta):
        A, B = theta[:9].view(3, 3), theta[9:].view(2, 3)
        residual = X @ A.T @ B.T - Y
        into_A, into_B = torch.einsum("ni,nj->nij", residual @ B, X), torch.einsum("ni,nj->nij", residual, X @ A.T)
        return torch.cat([into_A.flatten(1), into_B.flatten(1)], dim=1)

    drift = epoch_drift(gradients, torch.cat([W.flatten(), top.flatten()]), eta=0.5, batch_size=2)
    shrinkage = effective_weight_decay(eta=0.5, R=s**2 * residual2, batch_size=2, phi=finite_population(6, 2))
    assert (drift[:9].view(3, 3)[:, 2] + 0.5 * shrinkage * W[:, 2]).abs().max() < 1e-14


# ------------------------------------------------------------------------------------ balance, exact
@steady
@given(st.lists(numbers, min_size=2, max_size=5), numbers, st.floats(0.01, 1.0))
def test_a_step_multiplies_the_imbalance_of_every_pair_of_layers(weights, error, eta):
    theta = torch.tensor(weights, dtype=torch.float64)
    after = theta - eta * error * others(theta)
    for i, k in itertools.combinations(range(len(weights)), 2):
        Q = math.prod(weights[j] for j in range(len(weights)) if j not in (i, k))
        factor = imbalance_factor(eta=eta, epsilon=error, Q=Q)
        change = after[i] ** 2 - after[k] ** 2 - factor * (theta[i] ** 2 - theta[k] ** 2)
        assert abs(change) < 1e-13 * (1 + (after**2).sum() + (theta**2).sum())  # round-off, intermediate squares


@steady
@given(numbers, numbers, numbers, st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_sum_and_difference_of_two_layers_are_multiplied(w1, w2, error, eta, weight_decay):
    after = w1 - eta * (error * w2 + weight_decay * w1), w2 - eta * (error * w1 + weight_decay * w2)
    of_sum, of_difference = sum_difference_factors(eta=eta, epsilon=error, weight_decay=weight_decay)
    assert after[0] + after[1] == pytest.approx(of_sum * (w1 + w2), abs=1e-14)
    assert after[0] - after[1] == pytest.approx(of_difference * (w1 - w2), abs=1e-14)


def test_a_step_changes_the_imbalance_of_matrices_by_the_gradients_alone():
    layers = [normal(*shape, seed=k).requires_grad_() for k, shape in enumerate([(2, 4, 3), (2, 5, 4), (2, 2, 5)])]
    prediction = X6[:5] @ layers[0].mT @ layers[1].mT @ layers[2].mT
    slopes = torch.autograd.grad((prediction - Y6[:5]).square().sum() / 10, layers)
    after = [W - 0.1 * g for W, g in zip(layers, slopes, strict=True)]
    for k in (0, 1):
        before = layers[k + 1].mT @ layers[k + 1] - layers[k] @ layers[k].mT
        change = after[k + 1].mT @ after[k + 1] - after[k] @ after[k].mT - before
        assert change.abs().max() > 0.01
        assert (change - layer_imbalance_change(slopes[k], slopes[k + 1], eta=0.1)).abs().max() < 1e-12


# --------------------------------------------------------------------------- depth 2: rates and spread
SIXTEEN = torch.linspace(0.5, 1.3, 16, dtype=torch.float64)


@pytest.mark.parametrize(
    ("sampling", "b", "weight_decay"), [("iid", 1, 0.0), ("iid", 2, 0.0), ("subsets", 4, 0.0), ("wo", 8, 0.02)]
)
def test_the_imbalance_decays_at_its_rate(sampling, b, weight_decay):
    x, y = paired(SIXTEEN, 1.5)
    eta, phi = 0.04, 1.0 if sampling == "iid" else finite_population(32, b)
    num_steps = 1000 * b
    batches = drawn(32, b, num_steps, 64, sampling, seed=20)
    path = network(torch.tensor([1.0, 0.5]).expand(64, 2), x, y, batches, eta, weight_decay)
    G = torch.stack([theta[:, 0] ** 2 - theta[:, 1] ** 2 for theta in path]).abs().log().mean(dim=1)
    slope = (G[-1] - G[num_steps // 3]) / (num_steps - 1 - num_steps // 3)
    rate = imbalance_rate(eta=eta, R=moments(x, y).R, batch_size=b, phi=phi, weight_decay=weight_decay)
    assert slope.item() == pytest.approx(rate.item(), rel=0.02)  # O(eta^2 R) is 0.4 %, the 64 chains' error 1 %


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_the_late_exponent_is_the_mean_over_batches_of_one_step_from_tiny_weights(weight_decay):
    x, y = normal(5, seed=21), normal(5, seed=22)
    theta = torch.tensor([[2e-9, 1e-9]]).expand(10, 2)  # p = 2e-18 is below round-off of g
    after = last(network(theta, x, y, [torch.tensor(list(itertools.combinations(range(5), 2)))], 0.9, weight_decay))
    change = ((after[:, 0] ** 2 - after[:, 1] ** 2) / 3e-18).abs().log().mean()
    g = batch_means(x, y, 2, "subsets")[1]
    assert late_exponent(g, eta=0.9, weight_decay=weight_decay).item() == pytest.approx(change.item(), abs=1e-12)


def test_the_steps_to_shrink_are_the_steps_it_takes():
    # |yx| = 2 always and p = 0 to round-off: a step multiplies by 1 - eta^2 4 exactly, so O(eta^2) is 2e-4
    x, y = paired(torch.tensor([1.0, -1.0]), 2.0)
    theta, taken = torch.tensor([2e-9, 1e-9]), 0
    for batch in drawn(4, 1, 8000, 1, "wo", seed=23):
        theta, taken = theta - 0.01 * epsilon(theta, x, y, batch)[0] * theta.flip(0), taken + 1
        if theta[0] ** 2 - theta[1] ** 2 < 0.3 * 3e-18:
            break
    law = steps_to_shrink(torch.tensor([0.3, 0.09]), eta=0.01, R=4.0, batch_size=1, phi=1.0)
    assert taken == pytest.approx(law[0].item(), rel=5e-4)
    assert law[1].item() == pytest.approx(2 * law[0].item(), rel=1e-12)
    slower = steps_to_shrink(0.3, eta=0.01, R=4.0, batch_size=4, phi=0.5)
    assert slower.item() == pytest.approx(8 * law[0].item(), rel=1e-12)


def fixed_point(alpha, beta):
    """Stationary E[p] and E[p^2] of p' = alpha p + beta, equally likely pairs."""
    first = beta.mean() / (1 - alpha.mean())
    return first, (2 * (alpha * beta).mean() * first + (beta**2).mean()) / (1 - (alpha**2).mean())


@pytest.mark.parametrize(("sampling", "b"), [("subsets", 1), ("subsets", 3), ("iid", 2)])
def test_the_stationary_spread_is_the_fixed_point_over_every_batch(sampling, b):
    x, g = normal(6, seed=24), normal(6, seed=25)
    y = (g - g.mean()) / x
    s_B, g_B = batch_means(x, y, b, sampling)
    eta, S = 0.2, 0.7
    first, second = fixed_point(1 - eta * S * s_B, eta * S * g_B)
    error = (s_B**2).mean() * second - 2 * (s_B * g_B).mean() * first + (g_B**2).mean()
    phi = finite_population(6, b) if sampling == "subsets" else 1.0
    law = stationary_spread(moments(x, y), eta=eta, S=S, batch_size=b, phi=phi)
    assert [v.item() for v in law] == pytest.approx([second.item(), error.item()], rel=1e-12)


def reshuffled_error(x, y, eta, S):
    """Exact mean of epsilon^2 for p' = p - eta S epsilon, stationary over reshuffled epochs: all orders."""
    orders = all_epochs(len(x), batch_size=1)[..., 0]
    alpha, beta = torch.ones(len(orders)), torch.zeros(len(orders))  # p = alpha p_0 + beta within the epoch
    lines = []
    for i in orders.T:
        lines.append((alpha * x[i] ** 2, beta * x[i] ** 2 - y[i] * x[i]))
        alpha, beta = (1 - eta * S * x[i] ** 2) * alpha, (1 - eta * S * x[i] ** 2) * beta + eta * S * y[i] * x[i]
    first, second = fixed_point(alpha, beta)
    return sum((a**2).mean() * second + 2 * (a * b).mean() * first + (b**2).mean() for a, b in lines) / len(lines)


def test_the_reshuffled_spread_is_that_of_all_orders():
    x, g = normal(5, seed=26), normal(5, seed=26) ** 2 + normal(5, seed=27)
    y = (g - g.mean()) / x
    m = moments(x, y)
    assert m.C**2 / m.m2 > 0.1 * m.q  # so that its term counts

    def slope(eta):
        return (reshuffled_error(x, y, eta, 0.7) - m.R) / eta

    law = (reshuffled_spread(m, eta=0.5, S=0.7) - m.R) / 0.5
    assert law.item() == pytest.approx((2 * slope(1e-4) - slope(2e-4)).item(), rel=1e-5)


@pytest.mark.parametrize("values", [[0.9, 1.1], [0.3, 2.0]])
def test_reshuffling_is_faster_if_and_only_if_the_kurtosis_is_below_2(values):
    x, y = paired(torch.tensor([values[0]] * 2 + values[1:], dtype=torch.float64), 1.0)
    m = moments(x, y)
    iid = stationary_spread(m, eta=1e-3, S=1.0, batch_size=1, phi=1.0)[1]
    assert (reshuffled_error(x, y, 1e-3, 1.0) > iid) == (m.kappa < 2)
    assert (reshuffled_spread(m, eta=1e-3, S=1.0) > iid) == (m.kappa < 2)


@pytest.mark.parametrize(("sampling", "b"), [("iid", 1), ("subsets", 2)])
def test_the_late_spread_is_that_of_many_chains(sampling, b):
    x, y = paired(torch.linspace(0.8, 1.2, 4, dtype=torch.float64), 1.5)
    phi = 1.0 if sampling == "iid" else finite_population(8, b)
    start = torch.tensor([2e-9, 1e-9]).expand(4000, 2)
    theta = last(network(start, x, y, drawn(8, b, 400, 4000, sampling, seed=28), 0.05))
    u, v = theta.sum(dim=1), theta[:, 0] - theta[:, 1]
    law = late_spread(eta=0.05, R=2.25, batch_size=b, phi=phi, num_steps=400)
    # a standard deviation from 4000 chains has error 1.1 %; O(eta^2 R) is 0.6 %
    assert (u / v).abs().log().std().item() == pytest.approx(law, rel=0.05)


@pytest.mark.parametrize(("sampling", "b"), [("iid", 1), ("subsets", 2)])
def test_the_noise_floor_is_that_of_many_chains(sampling, b):
    x, y = paired(torch.linspace(0.5, 1.3, 4, dtype=torch.float64), 1.5)
    m, phi = moments(x, y), 1.0 if sampling == "iid" else finite_population(8, b)
    batches = drawn(8, b, 800, 8000, sampling, seed=29)
    theta = last(network(torch.tensor([0.3, 1.2]).expand(8000, 2), x, y, batches, 0.01))
    law = noise_floor(eta=0.01, R=m.R, m2=m.m2, batch_size=b, phi=phi)
    # 8000 chains: 0.8 %; the next order, eta S m4 / 4 m2, is below 1 %
    assert (theta[:, 0] ** 2).mean().sqrt().item() == pytest.approx(law.item(), rel=0.04)


@pytest.mark.parametrize(("c", "sampling"), [(0.5, "iid"), (-0.5, "iid"), (0.1, "iid"), (0.5, "wo")])
def test_noise_moves_a_small_relevant_input_to_the_soft_threshold(c, sampling):
    values = torch.linspace(0.8, 1.2, 4, dtype=torch.float64)
    x, y = paired(values, 2.0)
    m2 = (x**2).mean()
    y = y + c * x / m2  # R = 4 at the fit, threshold eta R / 2 = 0.2
    batches = drawn(8, 1, 2000, 500, sampling, seed=30)
    states = list(network(torch.tensor([1.0, 0.5]).expand(500, 2), x, y, batches, 0.1))
    p = torch.stack([theta.prod(dim=1) for theta in states[1000:]]).mean()
    law = soft_threshold(c, m2=m2, R=4.0, eta=0.1, batch_size=1, phi=1.0)
    assert abs(law - c / m2) >= 0.09  # far from least squares
    assert p.item() == pytest.approx(law.item(), abs=0.03)


def test_the_threshold_is_the_effective_weight_decay():
    arguments = {"R": 3.0, "eta": 0.2, "batch_size": 2, "phi": 0.5}
    threshold = effective_weight_decay(**arguments)
    law = soft_threshold(torch.tensor([-0.5, 0.99 * threshold, 0.5]), m2=2.0, **arguments)
    assert law.tolist() == pytest.approx([-(0.5 - threshold) / 2, 0.0, (0.5 - threshold) / 2], abs=1e-15)


def test_on_the_clock_the_imbalance_decays_at_rate_R():
    for eta, b, phi in (0.1, 1, 1.0), (0.2, 4, 0.5):
        rate = imbalance_rate(eta=eta, R=3.0, batch_size=b, phi=phi, weight_decay=0.0)
        assert clock(100, eta=eta, batch_size=b, phi=phi) == pytest.approx(-rate * 100 / 3.0, rel=1e-14)


# -------------------------------------------------------------------------------- which layer forgets
def spread_start(nets, depth, seed):
    moduli = 0.3 + torch.rand(nets, depth, generator=seeded(seed), dtype=torch.float64)
    return moduli * (1 - 2 * torch.randint(2, (nets, depth), generator=seeded(seed + 1)))


def descended(theta, eta, num_steps):
    """Gradient descent with E[x^2] = 1, E[yx] = 0."""
    for _ in range(num_steps):
        theta = theta - eta * theta.prod(dim=-1, keepdim=True) * others(theta)
    return theta


FOUR = torch.linspace(0.8, 1.2, 4, dtype=torch.float64)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_gradient_descent_keeps_the_squares_less_the_smallest(depth):
    theta = spread_start(50, depth, seed=31)
    law = limit_squares(theta.T.unsqueeze(0), dying=1)[0].T
    gap = (theta**2).sort(dim=1).values.diff(dim=1)[:, 0]
    distinct = gap > 0.2  # a small gap is slow
    end = descended(theta, 0.01, 8000)[distinct] ** 2
    assert distinct.sum() >= 10
    assert (end - law[distinct]).abs().max() < 0.01  # O(eta)


@pytest.mark.parametrize("depth", [3, 4])
def test_sgd_keeps_the_squares_less_the_second_smallest(depth):
    theta = spread_start(60, depth, seed=33)
    ordered = (theta**2).sort(dim=1).values
    theta = theta[(ordered.diff(dim=1)[:, 1:] > 0.2).all(dim=1)]
    x, y = paired(FOUR, 1.0)
    law = limit_squares(theta.T, dying=2).T
    end = last(network(theta, x, y, drawn(8, 1, 8000, 1, "wo", seed=34), 0.1)) ** 2
    assert len(theta) >= 10
    assert (end - law).abs().median() < 0.01  # O(eta^2)
    assert (end - law).abs().max() < 0.15  # less than the gaps between squares
    assert (law == 0).sum() == 2 * len(theta)


def test_the_second_square_at_depth_3_solves_its_equation_and_is_where_sgd_goes():
    mu, A0, D = 0.3, 0.35, 0.45
    A, dt = torch.tensor(A0, dtype=torch.float64), 1e-3
    for _ in range(4000):  # midpoint rule, error dt^2
        middle = A - dt / 2 * mu * A * (A + D)
        A = A - dt * mu * middle * (middle + D)
    times = torch.tensor([0.0, 4.0])
    assert depth3_square(times, mu=mu, A0=A0, D=D).tolist() == pytest.approx([A0, A.item()], abs=1e-7)

    x, y = paired(FOUR, 1.0)
    theta = torch.tensor([0.05, 0.6, 0.9]).expand(200, 3)  # A0 = .36 - .0025
    path = list(network(theta, x, y, drawn(8, 1, 1600, 200, "wo", seed=35), 0.05))
    for num_steps in (400, 800, 1600):
        law = depth3_square(num_steps, mu=0.05**2, A0=0.3575, D=0.45).item()
        assert (path[num_steps - 1][:, 1] ** 2).mean().item() == pytest.approx(law, abs=0.01)  # O(eta^2)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_second_weight_dies_at_the_rate_of_the_phase_2_flow(depth):
    start = torch.tensor([[1.1, 0.2, 0.9, 1.3], [0.7, 1.2, 1.0, 0.5]], dtype=torch.float64)[:, :depth]
    mu, dt = 0.5, 0.01
    alive = (start**2).sort(dim=1).values[:, 1:]
    for _ in range(6000):
        alive, before = alive - dt * mu * alive.prod(dim=1, keepdim=True), alive
    final = (alive[:, 0] / before[:, 0]).log() / (2 * dt)
    law = second_weight_rate(start.T, mu=mu)
    assert law.shape == (2,)
    assert (final - law).abs().max() < 0.01 * law.abs().max()  # Euler: mu dt / 2 = 0.25 %


def agrees(hits: torch.Tensor, p: float) -> bool:
    """The frequency is within four standard errors of the probability."""
    return abs(hits.double().mean().item() - p) < 4 * math.sqrt(p * (1 - p) / len(hits)) + 1e-12


@pytest.mark.parametrize(("depth", "irrelevant"), [(2, 1), (2, 3), (3, 1), (3, 2)])
def test_gradient_descent_forgets_in_the_first_layer_as_often_as_it_should(depth, irrelevant):
    theta = normal(5000, irrelevant, depth, seed=36)
    one, zero = torch.ones(irrelevant), torch.zeros(irrelevant)
    eta = 0.9 * 2 / diagonal_sharpness(theta.mT, m2=one, c=zero)  # of each net
    end = descended(theta, eta[:, None, None], 1000).abs()
    first = (end.argmin(dim=2) == 0).all(dim=1)
    assert agrees(first, first_layer_probability(depth=depth, irrelevant=irrelevant, dying=1))


@pytest.mark.parametrize(("depth", "irrelevant"), [(2, 2), (3, 1), (3, 2), (4, 1)])
def test_sgd_forgets_in_the_first_layer_as_often_as_it_should(depth, irrelevant):
    theta = spread_start(2000 * irrelevant, depth, seed=37)
    x, y = paired(FOUR[[0, 3]], 1.0)
    end = last(network(theta, x, y, drawn(4, 1, 4000, 1, "wo", seed=38), 0.15)).abs()
    assert end.sort(dim=1).values[:, 1].median() < 0.01  # the second smallest is dying
    first = ((end < end[:, :1]).sum(dim=1) < 2).view(2000, irrelevant).all(dim=1)  # among the two smallest
    assert agrees(first, first_layer_probability(depth=depth, irrelevant=irrelevant, dying=2))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_relu_network_forgets_less_often_because_dead_units_never_move(depth):
    start = spread_start(4000, depth, seed=39)
    theta = start.clone().requires_grad_()
    for _ in range(200):
        out = theta[:, :1] * torch.tensor([-1.0, 1.0])
        for k in range(1, depth):
            out = theta[:, k : k + 1] * out.relu()
        (slope,) = torch.autograd.grad((out**2).sum() / 4, theta)
        theta = (theta - 0.05 * slope).detach().requires_grad_()
    alive = (theta != start).any(dim=1)
    first = alive & (theta.abs().argmin(dim=1) == 0)
    assert agrees(first, relu_first_layer_probability(depth=depth, irrelevant=1))
    square = relu_first_layer_probability(depth=depth, irrelevant=1) ** 2
    assert relu_first_layer_probability(depth=depth, irrelevant=2) == pytest.approx(square, rel=1e-14)


@pytest.mark.parametrize("s", [0.25, 1.0, 2.0])
def test_a_smaller_first_layer_is_the_smaller_one_as_often_as_two_gaussians_say(s):
    w = torch.linspace(0.0, 12.0, 20_001, dtype=torch.float64)
    density = (-(w**2) / 2).exp() * math.sqrt(2 / math.pi)  # of |w_2|; P(|w_1| < w) is an error function
    integral = torch.trapezoid(density * (w / (s * math.sqrt(2))).erf(), w)
    assert scaled_layer_probability(s).item() == pytest.approx(integral.item(), abs=1e-6)


# --------------------------------------------------------------------- where gradient descent ends
def scalar_run(a, b, target, eta, num_steps):
    """Gradient descent on (a.b - target)^2 / 2, with the residuals on the way."""
    residuals = []
    for _ in range(num_steps):
        residuals.append((a * b).sum(dim=-1) - target)
        a, b = a - eta * residuals[-1][..., None] * b, b - eta * residuals[-1][..., None] * a
    return a, b, torch.stack(residuals, dim=-1)


@pytest.mark.parametrize(("start", "target"), [((2.0, 1.0), 0.0), ((1.0, 2.0), 0.7), ((0.4, 0.9), -0.5)])
def test_gradient_descent_ends_on_the_hyperbola_that_its_steps_have_shrunk(start, target):
    a, b, residuals = scalar_run(*torch.tensor(start, dtype=torch.float64)[:, None], target, 0.1, 3000)
    G = (start[0] ** 2 - start[1] ** 2) * imbalance_factor(eta=0.1, epsilon=residuals, Q=1.0).prod()
    end = [v.item() for v in hyperbola_squares(G, target)]
    assert end == pytest.approx([a.item() ** 2, b.item() ** 2], abs=1e-12)
    assert hyperbola_squares(0.0, target) == (abs(target), abs(target))


def test_the_limit_sharpness_is_the_largest_eigenvalue_where_the_run_ends():
    a, b, target, eta = normal(4, 3, seed=40), normal(4, 3, seed=41), 0.8, 0.15
    end_a, end_b, residuals = scalar_run(a, b, target, eta, 2000)
    law = limit_sharpness(a, b, residuals, target=target, eta=eta)

    def loss(theta):
        return ((theta[:3] * theta[3:]).sum() - target) ** 2 / 2

    for k in range(4):
        hessian = torch.autograd.functional.hessian(loss, torch.cat([end_a[k], end_b[k]]))
        assert law[k].item() == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), abs=1e-9)


@pytest.mark.parametrize("target", [0.0, 0.8, -0.5])
def test_the_sharpness_gap_is_the_leading_order_of_the_exact_one(target):
    a, b = torch.tensor([2.0, 0.3]), torch.tensor([0.5, 1.0])

    def gap(eta):
        residuals = scalar_run(a, b, target, eta, round(6 / eta))[2]
        flow = limit_sharpness(a, b, torch.empty(0), target=target, eta=eta)
        return (flow - limit_sharpness(a, b, residuals, target=target, eta=eta)) / eta

    law = sharpness_gap(a, b, target=target, eta=0.5) / 0.5
    assert law > 0.1
    assert law.item() == pytest.approx((2 * gap(0.002) - gap(0.004)).item(), rel=1e-3)  # O(eta^2) is left


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_diagonal_sharpness_is_that_of_the_full_hessian(depth):
    X = torch.linalg.qr(normal(20, 3, seed=42)).Q * torch.tensor([4.0, 5.0, 3.0])  # E[x_i x_j] = 0, unequal E[x_j^2]
    y, theta = normal(20, seed=43), normal(2, depth, 3, seed=44)
    theta[1, 0, 0] = 0.0  # a dead layer divides nothing

    def loss(flat):
        return (X @ flat.view(depth, 3).prod(dim=0) - y).square().mean() / 2

    law = diagonal_sharpness(theta, m2=(X**2).mean(dim=0), c=y @ X / 20)
    for k in range(2):
        eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta[k].flatten()))
        assert law[k].item() == pytest.approx(eigenvalues[-1].item(), rel=1e-12)


# ------------------------------------------------------------------------------------- label noise
def noisy_product(a, b, eta, sigma, num_steps, chains, seed):
    generator = seeded(seed)
    a, b = (torch.full((chains,), v, dtype=torch.float64) for v in (a, b))
    for _ in range(num_steps):
        error = a * b - 1 - sigma * torch.randn(chains, generator=generator, dtype=torch.float64)
        a, b = a - eta * error * b, b - eta * error * a
    return (a**2 - b**2).abs().log().mean().item()


@pytest.mark.parametrize(("eta", "sigma"), [(0.1, 0.1), (0.2, 0.05)])
def test_label_noise_balances_a_product_at_its_rate(eta, sigma):
    # s moves by eta^2 sigma^2 T = 1 % of itself, the sample is good to 1 %; 50 steps reach the stationary residual
    begin, end = (noisy_product(2.0, 0.5, eta, sigma, T, 2000, seed=45) for T in (50, 150))
    law = label_noise_rate(eta=eta, sigma=sigma, s=4.25)
    assert (end - begin) / 100 == pytest.approx(law, rel=0.03)
    assert abs(law / (eta * sigma) ** 2) > 1.25  # leading order is far off


def test_label_noise_moves_along_the_minima_against_the_tangent_gradient():
    # batch of B: fresh noise of variance sigma^2 / B on the one datum; d log(a^2 - b^2) from the projected step
    theta = torch.tensor([2.0, 0.5], dtype=torch.float64, requires_grad=True)
    (normal_direction,) = torch.autograd.grad(theta.prod(), theta, create_graph=True)
    (slope,) = torch.autograd.grad(normal_direction.square().sum(), theta)
    n = normal_direction.detach() / normal_direction.detach().norm()
    step = label_noise_factor(eta=0.02, sigma=1.0, batch_size=4) * (slope - (slope @ n) * n)
    rate = (2 * theta[0] * step[0] - 2 * theta[1] * step[1]).item() / 3.75
    measured = (noisy_product(2.0, 0.5, 0.02, 0.5, 300, 2000, seed=46) - math.log(3.75)) / 300
    assert rate == pytest.approx(measured, rel=0.06)  # O(eta): eta s / 2 = 4 %


@pytest.mark.parametrize("p", [0.3, 1.0, 4.0])
def test_the_cheapest_tanh_unit_is_found_by_search(p):
    z = torch.linspace(0.01, 5.0, 200_001, dtype=torch.float64)
    c = p / z.tanh()
    cost = z.tanh() ** 2 + (c * (1 - z.tanh() ** 2)) ** 2
    best = cost.argmin()
    law = [v.item() for v in tanh_unit(p)]
    assert law[0] == pytest.approx(cost[best].item(), abs=1e-8)
    assert law[1:] == pytest.approx([z[best].item(), c[best].item()], abs=1e-4)  # step of the search
    assert tanh_unit(p)[0] < 2 * tanh_unit(p / 2)[0]  # one unit is cheaper than two


# ---------------------------------------------------------------------------------------- refusals
ONE = Moments(*torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 1.0, 0.0, 2.0]))
RELEVANT = ONE._replace(c=torch.tensor(0.5))
NET = torch.ones(3, 2)
RATE = {"eta": 0.1, "R": 1.0, "batch_size": 1, "phi": 1.0}


def test_irrelevant_means_to_round_off_in_whatever_units():
    large, small = (ONE._replace(c=torch.tensor(c), R=torch.tensor(R)) for c, R in ((1e-6, 1e8), (1e-12, 1e-20)))
    assert reshuffled_spread(large, eta=0.1, S=1.0) > 0
    with pytest.raises(ValueError, match=r"^m\.c must be 0"):
        reshuffled_spread(small, eta=0.1, S=1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(torch.ones(2), torch.ones(3)), r"^y must have x's shape \(2,\), not empty, got \(3,\)"),
        (lambda: moments(torch.ones(0), torch.ones(0)), r"^y must have x's shape \(0,\), not empty, got \(0,\)"),
        (lambda: lemma1_variance(ONE, batch_size=0, phi=1.0), r"^batch_size must be a whole number, at least 1, got 0"),
        (lambda: lemma1_second_moment(ONE, batch_size=1.5, phi=1.0), r"^batch_size .*, got 1\.5"),
        (lambda: lemma1_variance(ONE, batch_size=1, phi=1.1), r"^phi must lie in \[0, 1\], got 1\.1"),
        (lambda: lemma1_second_moment(ONE, batch_size=1, phi=-0.1), r"^phi must lie in \[0, 1\], got -0\.1"),
        (lambda: theorem1_drift(X6, Y6, W1, W2, eta=-1.0, batch_size=1), r"^eta must be positive and finite, got -1"),
        (lambda: theorem1_drift(X6, Y6, W1, W2, eta=1.0, batch_size=7), r"^batch_size must lie in 1\.\.n = 6, got 7"),
        (lambda: epoch_drift(lambda w: w, W1, eta=0.0, batch_size=1), r"^eta must be positive and finite, got 0"),
        (lambda: two_layer_drift(1.0, 1.0, ONE, eta=math.inf, batch_size=1, phi=1.0), r"^eta .*, got inf"),
        (lambda: two_layer_drift(1.0, 1.0, ONE, eta=0.1, batch_size=1, phi=2.0), r"^phi .*, got 2"),
        (lambda: imbalance_factor(eta=math.nan, epsilon=1.0, Q=1.0), r"^eta .*, got nan"),
        (lambda: sum_difference_factors(eta=0.0, epsilon=1.0, weight_decay=0.0), r"^eta .*, got 0"),
        (lambda: sum_difference_factors(eta=0.1, epsilon=1.0, weight_decay=-1.0), r"^weight_decay must not be neg.*-1"),
        (lambda: layer_imbalance_change(W1, W1, eta=0.0), r"^eta .*, got 0"),
        (lambda: imbalance_rate(**RATE | {"R": -1.0}, weight_decay=0.0), r"^R must not be negative, .*got -1"),
        (lambda: imbalance_rate(**RATE, weight_decay=-0.5), r"^weight_decay must not be negative.*got -0\.5"),
        (lambda: effective_weight_decay(**RATE | {"eta": torch.tensor([0.1, -0.1])}), r"^eta .*, got tensor"),
        (lambda: effective_weight_decay(**RATE | {"batch_size": 0}), r"^batch_size .*, got 0"),
        (lambda: late_exponent(W1, eta=0.0, weight_decay=0.0), r"^eta .*, got 0"),
        (lambda: late_exponent(W1, eta=0.1, weight_decay=-1.0), r"^weight_decay .*, got -1"),
        (lambda: steps_to_shrink(1.0, **RATE), r"^delta must lie in \(0, 1\), got 1"),
        (lambda: steps_to_shrink(0.0, **RATE), r"^delta must lie in \(0, 1\), got 0"),
        (lambda: steps_to_shrink(0.5, **RATE | {"R": 0.0}), r"^R must be positive and finite, got 0"),
        (lambda: steps_to_shrink(0.5, **RATE | {"phi": 0.0}), r"^phi must be positive and finite, got 0"),
        (lambda: stationary_spread(ONE, eta=1.0, S=1.0, batch_size=1, phi=1.0), r"^eta \* S must be below .*, got 1"),
        (lambda: stationary_spread(ONE, eta=0.1, S=0.0, batch_size=1, phi=1.0), r"^S must be positive .*, got 0"),
        (lambda: stationary_spread(RELEVANT, eta=0.1, S=1.0, batch_size=1, phi=1.0), r"^m\.c must be 0, .*0\.5"),
        (lambda: stationary_spread(ONE, eta=0.1, S=1.0, batch_size=0, phi=1.0), r"^batch_size .*, got 0"),
        (lambda: reshuffled_spread(RELEVANT, eta=0.1, S=1.0), r"^m\.c must be 0, .*0\.5"),
        (lambda: reshuffled_spread(ONE, eta=0.0, S=1.0), r"^eta .*, got 0"),
        (lambda: late_spread(**RATE, num_steps=-1), r"^num_steps must not be negative, .*got -1"),
        (lambda: noise_floor(**RATE, m2=0.0), r"^m2 must be positive and finite, got 0"),
        (lambda: clock(-1, eta=0.1, batch_size=1, phi=1.0), r"^num_steps must not be negative, .*got -1"),
        (lambda: soft_threshold(1.0, **RATE, m2=-1.0), r"^m2 must be positive and finite, got -1"),
        (lambda: limit_squares(NET, dying=0), r"^dying must be 1 \(gradient descent\) or 2 \(SGD\), got 0"),
        (lambda: limit_squares(NET, dying=3), r"^dying must be 1 \(gradient descent\) or 2 \(SGD\), got 3"),
        (lambda: limit_squares(NET[0], dying=1), r"^theta must have shape \(\.\.\., depth >= 2, d\), got \(2,\)"),
        (lambda: second_weight_rate(NET[:1], mu=0.1), r"^theta must have shape .*, got \(1, 2\)"),
        (lambda: second_weight_rate(NET, mu=-0.1), r"^mu must not be negative, .*got -0\.1"),
        (lambda: depth3_square(1.0, mu=0.1, A0=1.0, D=0.0), r"^D must be positive and finite, got 0"),
        (lambda: depth3_square(-1.0, mu=0.1, A0=1.0, D=1.0), r"^num_steps must not be negative, .*got -1"),
        (lambda: first_layer_probability(depth=1, irrelevant=1, dying=1), r"^depth must be at least 2, got 1"),
        (lambda: first_layer_probability(depth=2, irrelevant=-1, dying=1), r"^irrelevant must not be negative, got -1"),
        (lambda: first_layer_probability(depth=2, irrelevant=1, dying=3), r"^dying must be 1 .*, got 3"),
        (lambda: relu_first_layer_probability(depth=1, irrelevant=1), r"^depth must be at least 2, got 1"),
        (lambda: scaled_layer_probability(0.0), r"^s must be positive and finite, got 0"),
        (lambda: limit_sharpness(NET, NET, NET, target=1.0, eta=0.0), r"^eta .*, got 0"),
        (lambda: sharpness_gap(NET[0], NET[0], target=1.0, eta=0.1), r"^a, b must not be balanced, got"),
        (lambda: sharpness_gap(NET[0], 2 * NET[0], target=1.0, eta=0.0), r"^eta .*, got 0"),
        (lambda: diagonal_sharpness(NET[:1], m2=NET[0], c=NET[0]), r"^theta must have shape .*, got \(1, 2\)"),
        (lambda: diagonal_sharpness(NET, m2=-NET[0], c=NET[0]), r"^m2 must not be negative, .*got tensor"),
        (lambda: label_noise_factor(eta=0.1, sigma=-1.0, batch_size=1), r"^sigma must not be negative, .*got -1"),
        (lambda: label_noise_rate(eta=1.0, sigma=1.0, s=2.0), r"^eta \* s must be below 2, got 2"),
        (lambda: label_noise_rate(eta=0.1, sigma=-1.0, s=2.0), r"^sigma must not be negative, .*got -1"),
        (lambda: label_noise_rate(eta=0.1, sigma=1.0, s=0.0), r"^s must be positive and finite, got 0"),
        (lambda: tanh_unit(0.0), r"^p must be positive and finite, got 0"),
        (lambda: theorem1_factor(eta=0.1, a=-1.0, m2=1.0, c2=0.0, batch_size=1, weight_decay=0.0), r"^a must not .*-1"),
        (lambda: theorem1_factor(eta=0.0, a=1.0, m2=1.0, c2=0.0, batch_size=1, weight_decay=0.0), r"^eta .*, got 0"),
        (lambda: theorem1_factor(eta=0.1, a=1.0, m2=1.0, c2=0.0, batch_size=0, weight_decay=0.0), r"^batch_size .*0"),
    ],
)
def test_what_lies_outside_a_formula_is_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
