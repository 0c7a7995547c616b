"""Planted problems satisfy their conditions to rounding, their violations by the stated amount, and nothing else."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import (
    TARGETS,
    TOYS,
    assumption1,
    balanced,
    correlated,
    digits,
    figure9,
    gaussian_stream,
    interpolation_points,
    irrelevant_inputs,
    margin,
    noise_margin,
    orthogonal_inputs,
    paired,
    paper_recipe,
    planted,
    relabelled_stream,
    target,
    toy,
    with_label_noise,
    zero_margin,
)

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
seeds = st.integers(0, 2**32 - 1)
BY_HAND = {"linear": lambda s: s, "sine": math.sin, "absolute": abs, "polynomial": lambda s: s * (1 + s)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mean_product(a, b):
    """E[a b] over the examples, for every pair of columns."""
    return torch.tensordot(a, b, dims=([0], [0])) / len(a)


def variance(values) -> float:
    return float(values.var(correction=0))


# ----------------------------------------------------------------------------- Assumption 1, exactly
@steady
@given(st.data())
def test_irrelevant_inputs_are_irrelevant_to_rounding(data):
    n = data.draw(st.integers(1, 60))
    d = data.draw(st.integers(1, n))
    r = data.draw(st.integers(0, d))
    X, y = assumption1(n, d, r, generator=seeded(data.draw(seeds)))
    assert (mean_product(X, X) - torch.eye(d)).abs().max() < 1e-13  # E[x_i x_j] = 0, E[x_j^2] = 1
    relevant = (torch.arange(d) < r).double()
    assert (mean_product(y, X) - relevant).abs().max() < 1e-13


@pytest.mark.parametrize("r", [0, 1, 3, 5])
def test_the_target_is_the_sum_of_the_first_inputs(r):
    X, y = assumption1(20, 5, r, generator=seeded(0))
    assert X.shape == (20, 5)
    assert y.shape == (20,)
    assert (y - sum((X[:, j] for j in range(r)), torch.zeros(20))).abs().max() < 1e-14


def test_the_draws_are_one_gaussian_matrix_orthogonalised():
    gaussian = torch.randn(12, 4, generator=seeded(3))
    by_hand = []
    for column in gaussian.T:  # Gram and Schmidt, whose columns are those of QR up to sign
        for earlier in by_hand:
            column = column - (column @ earlier) * earlier
        by_hand.append(column / column.norm())
    X = orthogonal_inputs(12, 4, generator=seeded(3))
    assert torch.equal(X, assumption1(12, 4, 2, generator=seeded(3))[0])
    assert (X.abs() - torch.stack(by_hand, dim=1).abs() * math.sqrt(12)).abs().max() < 1e-13


def test_higher_moments_stay_generic():
    X, _ = assumption1(50, 4, 2, generator=seeded(0))
    third = torch.einsum("ni,nj,nk->ijk", X, X, X) / 50
    assert third.abs().min() > 1e-4
    assert X.mean(dim=0).abs().min() > 1e-4


@steady
@given(st.data())
def test_new_inputs_are_orthogonal_to_anything_given(data):
    k, count = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 6))
    n = k + count + data.draw(st.integers(0, 20))
    generator = seeded(data.draw(seeds))
    against = torch.randn(n, k, generator=generator) * 10.0 ** torch.arange(-3, k - 3)
    if k > 2:
        against[:, 1] = -2 * against[:, 0]  # dependent,
        against[:, 2] = 0.0  # and zero
    Z = irrelevant_inputs(against, count, generator=generator)
    assert Z.shape == (n, count)
    assert (mean_product(Z, Z) - torch.eye(count)).abs().max() < 1e-13
    sizes = against.norm(dim=0) / math.sqrt(n)
    assert (mean_product(against, Z).abs() <= 1e-13 * sizes[:, None]).all()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_its_formula(name):
    X, alpha = torch.randn(7, 4, generator=seeded(1)), torch.tensor([1.5, -0.5, 2.0])
    by_hand = [BY_HAND[name](1.5 * a - 0.5 * b + 2 * c) for a, b, c, _ in X.tolist()]
    assert (target(X, TARGETS[name], alpha=alpha) - torch.tensor(by_hand)).abs().max() < 1e-13


@steady
@given(st.data())
def test_a_planted_problem_satisfies_assumption_1_whatever_its_target(data):
    d = data.draw(st.integers(2, 8))
    r = data.draw(st.integers(1, d - 1))
    n = d + 2 + data.draw(st.integers(0, 40))
    name, seed, alpha = data.draw(st.sampled_from(sorted(TARGETS))), data.draw(seeds), torch.linspace(1, 2, r)
    X, y = planted(n, d, TARGETS[name], alpha=alpha, generator=seeded(seed))
    assert X.shape == (n, d)
    assert (mean_product(X, X) - torch.eye(d)).abs().max() < 1e-13
    size = float(y.norm()) / math.sqrt(n)
    assert mean_product(y, X[:, r:]).abs().max() < 1e-13 * max(1.0, size)
    assert X[:, r:].mean(dim=0).abs().max() < 1e-13
    assert (y - target(X, TARGETS[name], alpha=alpha)).abs().max() < 1e-12 * max(1.0, size)
    assert torch.equal(X[:, :r], orthogonal_inputs(n, r, generator=seeded(seed)))


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"linear"}))
def test_orthogonal_inputs_alone_do_not_satisfy_it_for_a_nonlinear_target(name):
    X = orthogonal_inputs(60, 6, generator=seeded(0))
    y = target(X, TARGETS[name], alpha=torch.ones(2))
    assert mean_product(y, X[:, 2:]).abs().max() > 0.05  # sampling error, of order 1 / sqrt(60)


@steady
@given(st.data())
def test_balanced_irrelevant_inputs_average_to_zero_given_the_relevant_ones(data):
    n, d = data.draw(st.integers(1, 10)), data.draw(st.integers(1, 5))
    r, generator = data.draw(st.integers(0, d)), seeded(data.draw(seeds))
    X, y = torch.randn(n, d, generator=generator), torch.randn(n, generator=generator)
    doubled, labels = balanced(X, y, r=r)
    assert doubled.shape == (2 * n, d)
    for x, label in zip(X, y, strict=True):
        same = (doubled[:, :r] == x[:r]).all(dim=1) & (labels == label)
        assert not same.any() or not doubled[same][:, r:].sum(dim=0).any()  # zero exactly: a sum of z and -z
        assert (doubled[same] == x).all(dim=1).any()


def test_balancing_keeps_assumption_1():
    X, y = balanced(*planted(30, 5, torch.abs, alpha=torch.ones(2), generator=seeded(4)), r=2)
    assert (mean_product(X, X) - torch.eye(5)).abs().max() < 1e-13
    assert not mean_product(y, X[:, 2:]).abs().max() > 1e-15


# ------------------------------------------------------------------------ Assumption 1, violated
SIZES = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64)


@steady
@given(st.floats(-1, 1), seeds)
def test_a_violation_has_the_stated_correlation_and_keeps_the_sizes(rho, seed):
    X, _ = assumption1(40, 5, 2, generator=seeded(seed))
    X = X * SIZES
    broken = correlated(X, X[:, 0] - X[:, 1], r=2, correlation=rho)
    source = (X[:, 0] - X[:, 1]) / math.sqrt(1 + 4)  # E[(x_1 - x_2)^2] = 1 + 2^2
    assert torch.equal(broken[:, :2], X[:, :2])
    assert (mean_product(source, broken[:, 2:]) - rho * SIZES[2:]).abs().max() < 1e-13
    assert (broken[:, 2:].square().mean(dim=0) - SIZES[2:] ** 2).abs().max() < 1e-12
    assert torch.equal(correlated(X, X[:, 0], r=2, correlation=0.0), X)


def test_each_half_of_the_assumption_can_be_broken_alone():
    X, y = assumption1(40, 5, 2, generator=seeded(0))
    inputs = correlated(X, X[:, 0] - X[:, 1], r=2, correlation=0.3)
    assert (mean_product(X[:, 0], inputs[:, 2:]) - 0.3 / math.sqrt(2)).abs().max() < 1e-14
    assert mean_product(y, inputs[:, 2:]).abs().max() < 1e-14

    X, y = planted(40, 5, torch.abs, alpha=torch.ones(2), generator=seeded(0))
    outside = y - X[:, :2] @ mean_product(X[:, :2], y)
    labels = correlated(X, outside, r=2, correlation=0.3)
    assert mean_product(X[:, :2], labels[:, 2:]).abs().max() < 1e-14
    size = float(outside.square().mean().sqrt())
    assert (mean_product(y, labels[:, 2:]) - 0.3 * size).abs().max() < 1e-14


# ------------------------------------------------------------------------------------- noisy labels
def test_label_noise_is_gaussian_of_the_stated_size():
    y = torch.linspace(-5, 5, 40_000).view(20_000, 2)
    noise = with_label_noise(y, sigma=0.3, generator=seeded(0)) - y
    assert noise.shape == y.shape
    # four standard errors: the mean's is 0.3 / sqrt(N), the variance's 0.09 sqrt(2 / N), the kurtosis' sqrt(96 / N)
    assert abs(noise.mean()) < 4 * 0.3 / 200
    assert abs(variance(noise) / 0.09 - 1) < 4 * math.sqrt(2) / 200
    assert abs(((noise / 0.3) ** 4).mean() - 3) < 4 * math.sqrt(96) / 200
    assert torch.equal(with_label_noise(y, sigma=0.0, generator=seeded(0)), y)


def test_noise_can_leave_every_correlation_with_an_input_alone():
    X, y = assumption1(30, 4, 2, generator=seeded(0))
    noise = 0.5 * irrelevant_inputs(X, 1, generator=seeded(1))[:, 0]
    assert abs(noise.square().mean() - 0.25) < 1e-14
    assert (mean_product(y + noise, X) - mean_product(y, X)).abs().max() < 1e-14


@steady
@given(st.floats(-3, 3), st.floats(-3, 3), seeds)
def test_paired_labels_have_the_stated_slope_and_residual_variance(c, s, seed):
    values = 0.5 + 0.8 * torch.rand(16, generator=seeded(seed))
    X, y = paired(values, c=c, s=s)
    x = X[:, 0]
    assert X.shape == (32, 1)
    assert torch.equal(x[:16], x[16:])
    assert torch.equal(x[:16], values)
    assert abs((y * x).mean() - c) < 1e-13
    residual = (y - c * x / x.square().mean()) * x
    assert abs(variance(residual) - s**2) < 1e-12
    assert abs((x**2 * residual).mean() - (x**2).mean() * residual.mean()) < 1e-13
    assert (residual[:16] + residual[16:]).abs().max() < 1e-12


# ----------------------------------------------------------------------------------- the paper's data
@pytest.mark.parametrize(("name", "by_hand"), [("linear", lambda s: s), ("sine", np.sin)])
def test_the_recipe_is_numpys_stream_in_the_papers_order(name, by_hand):
    np_state = np.random.get_state()
    legacy = np.random.RandomState(0)
    x = np.array([[legacy.normal() for _ in range(4)] for _ in range(50)])
    noise = [legacy.normal() for _ in range(50)]
    x[:, 2:] -= x[:, 2:].sum(axis=0) / 50
    clean = by_hand(x[:, 0] + x[:, 1])
    X, y = paper_recipe(50, 4, 2, TARGETS[name], sigma=0.1, numpy_seed=0)
    assert (X - torch.tensor(np.vstack([x, x]))).abs().max() < 1e-14
    assert (y - torch.tensor(np.r_[clean + 0.1 * np.array(noise), clean - 0.1 * np.array(noise)])).abs().max() < 1e-14
    assert all(np.array_equal(a, b) for a, b in zip(np_state, np.random.get_state(), strict=True))


def test_the_papers_own_set_is_irrelevant_to_least_squares_only():
    X, y = paper_recipe(5000, 15, 5, TARGETS["linear"], sigma=0.001, numpy_seed=0)
    assert X.shape == (10_000, 15)
    assert [round(v, 4) for v in X[0, :3].tolist()] == [1.7641, 0.4002, 0.9787]  # numpy's first draws at seed 0
    assert round(float(mean_product(X[:, :5], X[:, 5:]).abs().max()), 3) == 0.026
    assert round(float(mean_product(y, X[:, 5:]).abs().max()), 3) == 0.064
    assert X[:, 5:].mean(dim=0).abs().max() < 1e-14
    assert X[:, :5].mean(dim=0).abs().max() > 1e-3  # the relevant ones are not centred
    fit = torch.linalg.lstsq(X, y).solution
    assert (fit - (torch.arange(15) < 5).double()).abs().max() < 1e-14  # the noise cancels in each pair


def test_figure_9_has_one_constant_label_and_very_noisy_gradients():
    X, y = figure9(100, numpy_seed=0)
    x = X[:, 0]
    assert X.shape == (100, 1)
    assert y.unique().numel() == 1
    assert round(float(y[0]), 2) == 16.88
    assert abs(x.square().mean() - 1) < 1e-14
    assert abs((y * x).mean() - 1) < 1e-14
    assert round(variance((y - x) * x)) == 281


# --------------------------------------------------------------------------------------------- toys
def moments(name):
    X, y = toy(name)
    return X, y, mean_product(X, X), mean_product(y, X), (y[:, None] * X).var(dim=0, correction=0)


@pytest.mark.parametrize(
    ("name", "inputs", "labels"),
    [
        ("D1", [[1], [1]], [-1, 1]),
        ("D2", [[1], [3]], [0, 0]),
        ("D2_code", [[1 / 3], [3]], [0, 0]),
        ("prop2", [[1], [-1], [0], [0]], [0, 0, 1, -1]),
        ("appendix_J", [[10, 1], [-10, 1]], [10, 10]),
    ],
)
def test_the_printed_toys_are_the_printed_ones(name, inputs, labels):
    X, y = toy(name)
    assert X.tolist() == inputs
    assert y.tolist() == labels


@pytest.mark.parametrize(
    ("name", "slope", "R"),
    [("lemma1_A", 2.5, 2.25), ("lemma1_B", 0.0, 2.25), ("prop2", 0.0, 0.0), ("prop2_control", 0.0, 0.125)],
)
def test_toys_of_one_input_have_the_stated_slope_and_variance(name, slope, R):
    X, y, _, yx, variances = moments(name)
    assert yx.item() == slope
    assert variances.item() == R
    if name.startswith("lemma1"):
        assert X[:, 0].tolist() == [1, 2]
        assert variance((X[:, 0] - y) * X[:, 0]) == 0  # no variance is left at f(x) = x
    else:
        assert (y.square().mean() - yx[0] ** 2 / X.square().mean()) > 0  # misspecified all the same


def test_the_third_moments_of_proposition_7_survive_the_second():
    X, y, second, yx, _ = moments("prop7")
    x, z = X.T
    assert sorted(x.tolist()) == [-1.5, -1, -0.5, 0.5, 1, 1.5]
    assert torch.equal(y, x)
    assert torch.equal(z.abs(), torch.ones(6))
    assert abs(second[0, 1]) == abs(yx[1]) == 0
    assert (X.square().sum(dim=1) * x * z).mean() == -0.75  # E[|x|^2 x_1 x_2] = E[x_1^3 x_2] = (1 + 8 - 27) / (8 * 3)


def test_proposition_10_is_uncorrelated_but_dependent_until_balanced():
    X, y, second, yx, _ = moments("prop10")
    assert sorted(X[:, 0].tolist()) == [-3, -2, -1, 1, 2, 3]
    assert torch.equal(y, X[:, 0] ** 2)
    assert torch.equal(X[:, 1].abs(), torch.ones(6))
    assert second[0, 1] == yx[1] == X[:, 1].mean() == 0
    halves = X[X[:, 0] > 0], y[X[:, 0] > 0]
    assert mean_product(halves[1], halves[0])[1] != 0  # the side that a ReLU sees

    X, y, second, yx, _ = moments("prop10_balanced")
    assert torch.equal(y, X[:, 0].abs())
    assert len(X) == len(X.unique(dim=0)) == 12
    for x in X[:, 0].unique():
        assert X[X[:, 0] == x, 1].sum() == 0
    assert second[0, 1] == yx[1] == 0


def test_every_toy_is_in_the_table_and_comes_fresh():
    rows = [line.split("|")[1].strip() for line in toy.__doc__.splitlines() if line.strip().startswith("|")]
    assert rows[2:] == list(TOYS)
    toy("D1")[0].zero_()
    assert toy("D1")[0].tolist() == [[1], [1]]


def test_the_interpolation_points_lie_on_the_zigzag():
    X, y = interpolation_points(12)
    assert (X[:, 0].diff() - 2 / 11).abs().max() < 1e-15
    assert [X[0, 0].item(), X[-1, 0].item(), y[0].item(), y[-1].item()] == [-1, 1, 0, 0.65]
    x = X[3:8, 0]  # the middle leg falls from 1.1 at -0.36 to -0.65 at 0.36
    inner = (x >= -0.36) & (x <= 0.36)
    assert (y[3:8] - (1.1 - 1.75 * (x + 0.36) / 0.72))[inner].abs().max() < 1e-14
    assert abs(torch.cat([X, y[:, None]], dim=1).diff(dim=0).norm(dim=1).sum() - 4.125) < 1e-3


# --------------------------------------------------------------------------------------------- digits
def test_the_digits_are_pixels_between_0_and_1_with_one_label_each():
    X, Y = digits()
    assert X.shape == (1797, 64)
    assert Y.shape == (1797, 10)
    assert [X.min().item(), X.max().item()] == [0, 1]
    assert not (X * 16 % 1).any()
    assert (X == 0).all(dim=0).nonzero().flatten().tolist() == [0, 32, 39]  # unspanned without any margin
    assert Y[:10].argmax(dim=1).tolist() == list(range(10))  # as scikit-learn orders them
    assert set(Y.unique().tolist()) == {0, 1}
    assert (Y.sum(dim=1) == 1).all()


def test_a_margin_surrounds_the_image():
    assert margin(2, width=1).view(4, 4).tolist() == [
        [True, True, True, True],
        [True, False, False, True],
        [True, False, False, True],
        [True, True, True, True],
    ]
    X = torch.arange(1.0, 9.0).view(2, 4)
    wide = zero_margin(X, width=1)
    assert wide[0].view(4, 4)[1:3, 1:3].tolist() == [[1, 2], [3, 4]]
    assert torch.equal(wide[:, ~margin(2, width=1)], X)
    assert not wide[:, margin(2, width=1)].any()
    assert torch.equal(zero_margin(X, width=0), X)


def test_a_noisy_margin_is_irrelevant_to_rounding():
    X, Y = (part[:600] for part in digits())
    wide = noise_margin(X, Y, width=2, sigma=0.3, generator=seeded(0))
    mask = margin(8, width=2)
    Z = wide[:, mask]
    assert wide.shape == (600, 144)
    assert torch.equal(wide[:, ~mask], X)
    assert mean_product(X, Z).abs().max() < 1e-14
    assert mean_product(Y, Z).abs().max() < 1e-14
    assert Z.mean(dim=0).abs().max() < 1e-14
    assert (mean_product(Z, Z) - 0.09 * torch.eye(80)).abs().max() < 1e-14


# -------------------------------------------------------------------------------------------- streams
def test_a_gaussian_stream_gives_fresh_examples_of_the_target():
    stream, generator = gaussian_stream(3, torch.sin, alpha=torch.tensor([2.0, -1.0]), sigma=0.1), seeded(0)
    X, y = stream(40_000, generator)
    noise = y - (2 * X[:, 0] - X[:, 1]).sin()
    assert X.shape == (40_000, 3)
    # four standard errors of a second moment, 1 / sqrt(N) or sqrt(2 / N)
    assert (mean_product(X, X) - torch.eye(3)).abs().max() < 4 * math.sqrt(2) / 200
    assert abs(variance(noise) / 0.01 - 1) < 4 * math.sqrt(2) / 200
    assert mean_product(noise, X).abs().max() < 4 * 0.1 / 200
    assert not torch.equal(stream(5, generator)[0], X[:5])


def test_a_relabelled_stream_draws_uniformly_and_renews_the_noise():
    X, y = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    drawn, labels = relabelled_stream(X, y, sigma=0.1)(40_000, seeded(0))
    noise = labels - 10 * drawn[:, 0]
    counts = torch.bincount(drawn[:, 0].long(), minlength=5)[1:]
    assert (counts - 10_000).abs().max() < 4 * math.sqrt(40_000 * 3 / 16)  # four standard errors of a count
    assert noise.unique().numel() == 40_000
    assert abs(variance(noise) / 0.01 - 1) < 4 * math.sqrt(2) / 200


# ------------------------------------------------------------------------- one dtype, one generator
ONE = torch.ones(1, dtype=torch.float64)
X4, Y4 = torch.linspace(0.1, 1.0, 16, dtype=torch.float64).view(4, 4), torch.eye(4, dtype=torch.float64)
RANDOM = {
    "orthogonal_inputs": lambda g: orthogonal_inputs(10, 3, generator=g),
    "assumption1": lambda g: assumption1(10, 3, 1, generator=g)[0],
    "irrelevant_inputs": lambda g: irrelevant_inputs(torch.ones(9, 2), 3, generator=g),
    "planted": lambda g: planted(10, 3, torch.sin, alpha=ONE, generator=g)[0],
    "with_label_noise": lambda g: with_label_noise(torch.zeros(5), sigma=1.0, generator=g),
    "noise_margin": lambda g: noise_margin(X4.repeat(10, 1), Y4.repeat(10, 1), width=1, sigma=1.0, generator=g),
    "gaussian_stream, X": lambda g: gaussian_stream(3, torch.sin, alpha=ONE, sigma=1.0)(5, g)[0],
    "gaussian_stream, noise": lambda g: gaussian_stream(3, torch.sin, alpha=0 * ONE, sigma=1.0)(5, g)[1],
    "relabelled_stream, X": lambda g: relabelled_stream(X4, X4[:, 0], sigma=1.0)(5, g)[0],
    "relabelled_stream, noise": lambda g: relabelled_stream(X4, 0 * X4[:, 0], sigma=1.0)(5, g)[1],
}
FIXED = {
    "target": lambda: [target(torch.ones(2, 1), torch.sin, alpha=ONE)],
    "paired": lambda: paired(torch.ones(2), c=1.0, s=1.0),
    "paper_recipe": lambda: paper_recipe(5, 3, 1, torch.sin, sigma=0.1, numpy_seed=0),
    "figure9": lambda: figure9(5, numpy_seed=0),
    "toy": lambda: toy("D1"),
    "interpolation_points": lambda: interpolation_points(5),
    "digits": digits,
}


@pytest.mark.parametrize("draw", RANDOM.values(), ids=RANDOM)
def test_draws_come_from_the_generator_alone(draw):
    state = torch.get_rng_state()
    first = draw(seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draw(seeded(1)), first)
    assert not torch.equal(draw(seeded(2)), first)


@pytest.mark.parametrize("draw", RANDOM.values(), ids=RANDOM)
def test_draws_are_float64_whatever_the_default(draw):
    expected = draw(seeded(1))
    torch.set_default_dtype(torch.float32)
    values = draw(seeded(1))
    assert values.dtype == torch.float64
    assert torch.equal(values, expected)


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_the_data_are_float64_whatever_the_default(make):
    torch.set_default_dtype(torch.float32)
    assert all(part.dtype == torch.float64 for part in make())


# ------------------------------------------------------------------------------------------ refusals
NAN = torch.tensor([1.0, math.nan, 3.0], dtype=torch.float64)
ZERO = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
G = seeded(0)  # never drawn from: each call is refused before
X3, Y3 = torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
REFUSED = {
    "d above n": (lambda: orthogonal_inputs(4, 5, generator=G), r"^d must lie in 1\.\.n = 4, got 5"),
    "d zero": (lambda: orthogonal_inputs(4, 0, generator=G), r"^d must lie in 1\.\.n = 4, got 0"),
    "d for assumption 1": (lambda: assumption1(4, 5, 1, generator=G), r"^d must lie in 1\.\.n = 4, got 5"),
    "r above d": (lambda: assumption1(4, 3, 4, generator=G), r"^r must lie in 0\.\.d = 3, got 4"),
    "r negative": (lambda: assumption1(4, 3, -1, generator=G), r"^r must lie in 0\.\.d = 3, got -1"),
    "against a vector": (lambda: irrelevant_inputs(Y3, 1, generator=G), r"^against must .* got \(3,\)"),
    "no room": (lambda: irrelevant_inputs(X3[:, :2], 2, generator=G), r"^count must lie in 1\.\.n - k = 1, got 2"),
    "count zero": (lambda: irrelevant_inputs(X3[:, :2], 0, generator=G), r"^count must .* got 0"),
    "against nan": (lambda: irrelevant_inputs(NAN[:, None], 1, generator=G), r"^against must be finite, got nan"),
    "alpha long": (lambda: target(X3, torch.sin, alpha=torch.ones(4)), r"^alpha .* got \(4,\) for X \(3, 3\)"),
    "alpha a matrix": (lambda: target(X3, torch.sin, alpha=X3), r"^alpha must have shape .* got \(3, 3\)"),
    "X a vector": (lambda: target(Y3, torch.sin, alpha=ONE), r"^alpha must have shape .* for X \(3,\)"),
    "alpha nan": (lambda: target(X3, torch.sin, alpha=NAN), "^alpha must be finite, got nan"),
    "outer a number": (lambda: target(X3, torch.sum, alpha=ONE), r"^y must have shape \(n,\) = \(3,\), got \(\)"),
    "outer infinite": (lambda: target(X3, torch.log, alpha=ONE), "^y must be finite, got -inf"),
    "no relevant": (lambda: planted(9, 3, torch.sin, alpha=torch.ones(0), generator=G), r"^alpha must .* got 0"),
    "all relevant": (lambda: planted(9, 3, torch.sin, alpha=Y3, generator=G), r"^alpha .* 1\.\.d - 1 = 2 .* got 3"),
    "n small": (lambda: planted(4, 3, torch.sin, alpha=ONE, generator=G), r"^n must be at least d \+ 2 = 5, got 4"),
    "y long": (lambda: balanced(X3, torch.ones(4), r=1), r"^y must have shape \(n,\) = \(3,\), got \(4,\)"),
    "X no matrix": (lambda: balanced(Y3, Y3, r=1), r"^X must have shape \(n, d\), got \(3,\)"),
    "balanced r": (lambda: balanced(X3, Y3, r=4), r"^r must lie in 0\.\.d = 3, got 4"),
    "balanced nan": (lambda: balanced(X3, NAN, r=1), "^y must be finite, got nan"),
    "correlated r": (lambda: correlated(X3, X3[:, 0], r=-1, correlation=0.1), r"^r must lie in 0\.\.d = 3, got -1"),
    "correlation": (lambda: correlated(X3, X3[:, 0], r=1, correlation=1.1), r"^correlation must .*\[-1, 1\], got 1\.1"),
    "correlation nan": (lambda: correlated(X3, X3[:, 0], r=1, correlation=math.nan), "^correlation must .* got nan"),
    "source inside": (lambda: correlated(X3, X3[:, 1], r=1, correlation=0.1), r"^source must .* got cosines \[1"),
    "source zero": (lambda: correlated(X3, 0 * Y3, r=1, correlation=0.1), r"^source must .* got cosines \[nan"),
    "zero input": (lambda: correlated(X3 * ZERO, X3[:, 0], r=1, correlation=0.1), r"^source must .* \[nan, 0"),
    "sigma negative": (lambda: with_label_noise(Y3, sigma=-1.0, generator=G), r"^sigma must .* got -1\.0"),
    "sigma nan": (lambda: with_label_noise(Y3, sigma=math.nan, generator=G), "^sigma must .* got nan"),
    "sigma infinite": (lambda: with_label_noise(Y3, sigma=math.inf, generator=G), "^sigma must .* got inf"),
    "labels nan": (lambda: with_label_noise(NAN, sigma=1.0, generator=G), "^y must be finite, got nan"),
    "paired empty": (lambda: paired(torch.ones(0), c=0.0, s=1.0), r"^x must have shape .* got \(0,\)"),
    "paired matrix": (lambda: paired(X3, c=0.0, s=1.0), r"^x must have shape .* got \(3, 3\)"),
    "paired zero": (lambda: paired(X3[0], c=0.0, s=1.0), r"^x must have no zero, got \[1\.0, 0\.0"),
    "paired nan": (lambda: paired(NAN, c=0.0, s=1.0), "^x must be finite, got nan"),
    "paired slope": (lambda: paired(Y3, c=math.inf, s=1.0), "^c must be finite, got inf"),
    "paired size": (lambda: paired(Y3, c=0.0, s=math.nan), "^s must be finite, got nan"),
    "recipe r": (
        lambda: paper_recipe(5, 3, 4, torch.sin, sigma=0.1, numpy_seed=0),
        r"^r must lie in 0\.\.d = 3, got 4",
    ),
    "recipe sigma": (lambda: paper_recipe(5, 3, 1, torch.sin, sigma=-0.1, numpy_seed=0), r"^sigma must .* got -0\.1"),
    "recipe draws": (lambda: paper_recipe(0, 3, 1, torch.sin, sigma=0.1, numpy_seed=0), "^num_draws must .* got 0"),
    "figure 9": (lambda: figure9(0, numpy_seed=0), "^n must be at least 1, got 0"),
    "toy": (lambda: toy("D3"), r"^name must be one of \('D1', 'D2', .* got 'D3'"),
    "points": (lambda: interpolation_points(1), "^n must be at least 2, got 1"),
    "side": (lambda: margin(0, width=1), "^side must be positive .* got 0 and 1"),
    "width": (lambda: zero_margin(torch.ones(2, 4), width=-1), "width not negative, got 2 and -1"),
    "no square": (lambda: zero_margin(torch.ones(2, 5), width=1), r"^X must have shape \(n, side\^2\), got \(2, 5\)"),
    "one image": (lambda: zero_margin(torch.ones(4), width=1), r"^X must have shape \(n, side\^2\), got \(4,\)"),
    "labels": (
        lambda: noise_margin(X4, torch.ones(3, 1), width=1, sigma=1.0, generator=G),
        r"^Y must have shape \(n, outputs\) with n = 4, got \(3, 1\)",
    ),
    "margin sigma": (lambda: noise_margin(X4, Y4, width=1, sigma=-1.0, generator=G), r"^sigma must .* got -1\.0"),
    "margin n": (lambda: noise_margin(X4, Y4, width=1, sigma=1.0, generator=G), r"^count must .* got 12"),
    "stream alpha": (
        lambda: gaussian_stream(2, torch.sin, alpha=Y3, sigma=0.0),
        r"^alpha must have shape .* got \(3,\)",
    ),
    "stream sigma": (lambda: gaussian_stream(2, torch.sin, alpha=ONE, sigma=-1.0), r"^sigma must .* got -1\.0"),
    "relabelled y": (lambda: relabelled_stream(X3, torch.ones(4), sigma=1.0), r"^y must have shape .* got \(4,\)"),
    "relabelled sigma": (lambda: relabelled_stream(X3, Y3, sigma=-1.0), r"^sigma must .* got -1\.0"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_name_rule_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
