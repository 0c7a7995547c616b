"""Sharpness against Hessians written by hand, dense Hessians and planted spectra."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib import sharpness as module
from lib.sharpness import batch_sharpness, mini_batch_sharpness, sharpness, stability_limit

steady = settings(deadline=None, derandomize=True, database=None, max_examples=20)
numbers = st.floats(-3, 3)
SIZES = [3, module.DENSE, module.DENSE + 1, 150]  # both routes, and both sides of the change between them
ROUND_OFF = 1e-11  # relative to the largest modulus of an eigenvalue; 1e-14 is usual


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


class Function(nn.Module):
    """f(X; theta) as a module."""

    def __init__(self, f, **parameters):
        super().__init__()
        self.f = f
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(value, dtype=torch.float64)))

    def forward(self, X):
        return self.f(X, *self.parameters())


def product(a, b):
    """The toy f(x) = a b x."""
    return Function(lambda x, a, b: a * b * x, a=a, b=b)


def linear(w):
    return Function(lambda X, w: X @ w, w=w)


def planted(spectrum):
    """A module and data whose Hessian is diagonal with the given entries, at gradient zero or not.

    f_j = theta_j^2 has loss (theta_j^2 - y_j)^2 / 2n, with second derivative (6 theta_j^2 - 2 y_j) / n.
    """
    spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
    theta = gaussian(len(spectrum), seed=9)
    y = 3 * theta**2 - len(spectrum) * spectrum / 2
    return Function(lambda X, theta: theta**2, theta=theta), torch.zeros(len(y), 1), y


def mlp(outputs, seed=0, biases=True):
    layers = nn.Sequential(nn.Linear(5, 9, bias=biases), nn.Tanh(), nn.Linear(9, outputs, bias=biases))
    for k, parameter in enumerate(layers.parameters()):
        parameter.data = gaussian(*parameter.shape, seed=seed + k)
    return nn.Sequential(layers, nn.Flatten(0)) if outputs == 1 else layers


def loss(model, parameters, X, y):
    """The definition, written again: mean over examples, sum over outputs, one half."""
    gaps = torch.func.functional_call(model, parameters, (X,)) - y
    return gaps.reshape(len(X), -1).square().sum(dim=1).mean() / 2


def dense(model, X, y):
    """Gradient and Hessian by another route: torch.func, and the whole matrix."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    names, sizes = list(parameters), [p.numel() for p in parameters.values()]

    def flat(theta):
        parts = {k: v.view_as(parameters[k]) for k, v in zip(names, theta.split(sizes), strict=True)}
        return loss(model, parts, X, y)

    theta = torch.cat([parameters[name].flatten() for name in names])
    return torch.func.grad(flat)(theta), torch.func.jacrev(torch.func.grad(flat))(theta)


def largest(H):
    return torch.linalg.eigvalsh(H)[-1].item()


# -------------------------------------------------------------------------------- closed forms
@steady
@given(numbers, numbers, numbers)
def test_sharpness_of_the_product_by_hand(a, b, slope):
    x = torch.tensor([1.0, 3.0, -2.0])
    m2, c = 14 / 3, slope * 14 / 3  # E[x^2], and E[yx] for y = slope * x
    h_aa, h_bb, h_ab = m2 * b * b, m2 * a * a, 2 * m2 * a * b - c
    by_hand = (h_aa + h_bb) / 2 + math.hypot((h_aa - h_bb) / 2, h_ab)
    assert sharpness(product(a, b), x, slope * x) == pytest.approx(by_hand, abs=1e-12)


def test_one_parameter_is_enough():
    x = torch.tensor([[1.0], [3.0]])
    assert sharpness(linear([0.3]), x, torch.ones(2)) == pytest.approx(5.0, rel=1e-15)
    assert sharpness(linear([0.3]), x * 0, torch.ones(2)) == 0.0


@pytest.mark.parametrize("d", SIZES)
def test_sharpness_of_a_linear_model_is_that_of_its_inputs(d):
    X = gaussian(2 * d, d)
    assert sharpness(linear(gaussian(d)), X, gaussian(2 * d)) == pytest.approx(largest(X.T @ X / (2 * d)), rel=1e-12)


@pytest.mark.parametrize("outputs", [2, 30])
def test_outputs_are_summed_and_not_averaged(outputs):
    X = gaussian(8, 4)
    model = Function(lambda X, W: X @ W, W=gaussian(4, outputs))
    assert sharpness(model, X, gaussian(8, outputs, seed=1)) == pytest.approx(largest(X.T @ X / 8), rel=1e-12)


# ------------------------------------------------------------------------------ dense Hessians
@pytest.mark.parametrize(("outputs", "size"), [(1, 64), (3, 84), (None, 6)])
def test_sharpness_of_a_network_is_that_of_its_dense_hessian(outputs, size):
    model = product(0.7, -1.2) if outputs is None else mlp(outputs)
    X, y = gaussian(12, 5), gaussian(12, seed=1) if outputs == 1 else gaussian(12, outputs or 5, seed=1)
    assert outputs is None or sum(p.numel() for p in model.parameters()) == size
    H = dense(model, X, y)[1]
    assert sharpness(model, X, y) == pytest.approx(largest(H), rel=ROUND_OFF)


def test_both_routes_agree(monkeypatch):
    model, X, y = mlp(3), gaussian(12, 5), gaussian(12, 3, seed=1)
    by_lanczos = sharpness(model, X, y)
    monkeypatch.setattr(module, "DENSE", 10_000)
    assert sharpness(model, X, y) == pytest.approx(by_lanczos, rel=ROUND_OFF)


SPECTRA = {
    "larger negative eigenvalue": lambda p: torch.linspace(-9, 2, p),
    "all negative": lambda p: torch.linspace(-9, -2, p),
    "zero": lambda p: torch.zeros(p),
    "a multiple of the identity": lambda p: torch.full((p,), 3.0),
    "minus the identity": lambda p: -torch.ones(p),
    "one positive": lambda p: torch.eye(p)[1] * 4,
    "one negative": lambda p: -torch.eye(p)[1] * 4,
    "largest is zero": lambda p: torch.linspace(-50, 0, p),
    "largest is zero, thrice": lambda p: -(torch.arange(p) > 2).double(),
    "largest is small": lambda p: torch.cat([torch.linspace(-50, -1, p - 1), torch.tensor([1e-6])]),
    "two close to the top": lambda p: torch.cat([torch.linspace(-1, 0, p - 2), torch.tensor([1.0, 1.0 - 1e-7])]),
    "huge": lambda p: torch.linspace(-1, 1, p) * 1e12,
    "tiny": lambda p: torch.linspace(-1, 1, p) * 1e-9,
}


@pytest.mark.parametrize("p", SIZES)
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_the_largest_eigenvalue_with_its_sign_of_a_planted_spectrum(spectrum, p):
    values = spectrum(p)
    # y is rounded relative to its size, of order 1 at least, and so is the planted spectrum
    atol = ROUND_OFF * max(values.abs().max().item(), 1e-2)
    assert sharpness(*planted(values)) == pytest.approx(values.max().item(), rel=0, abs=atol)


def test_an_eigenvector_orthogonal_to_the_vector_of_ones_is_found():
    """The parameters 3 and 70 play opposite parts: a start in which they are equal never sees them."""
    slopes = torch.linspace(0.1, 1.0, 100)
    slopes[70] = slopes[3]
    model = Function(lambda X, w: torch.cat([slopes * w, 2 * (w[3:4] - w[70:71])]), w=gaussian(100))
    # n = 101 examples; along (1, -1) / sqrt(2) in the pair the Hessian is (slope^2 + 2 * 2^2) / n
    expected = (slopes[3].item() ** 2 + 8) / 101
    assert sharpness(model, torch.zeros(101), torch.zeros(101)) == pytest.approx(expected, rel=ROUND_OFF)


@pytest.mark.parametrize("d", SIZES)
def test_minus_the_identity_to_the_last_digit(d):
    model = Function(lambda X, theta: theta**2, theta=torch.zeros(d))  # second derivatives -2 y / d
    assert sharpness(model, torch.zeros(d, 1), torch.full((d,), d / 2)) == pytest.approx(-1.0, rel=ROUND_OFF)


@pytest.mark.parametrize("d", SIZES)
def test_the_zero_hessian_has_sharpness_zero(d):
    assert sharpness(linear(gaussian(d)), torch.zeros(2, d), torch.ones(2)) == 0.0


# --------------------------------------------------------------------------- what it reads, and how
def test_the_hessian_is_of_the_parameters_that_are_trained():
    model, X, y = mlp(3), gaussian(12, 5), gaussian(12, 3, seed=1)
    everything = sharpness(model, X, y)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    H = dense(model, X, y)[1]
    assert H.shape == (30, 30)
    assert sharpness(model, X, y) == pytest.approx(largest(H), rel=ROUND_OFF)
    assert sharpness(model, X, y) < 0.99 * everything


def test_a_parameter_without_influence_adds_a_zero():
    x = torch.tensor([1.0, 3.0])
    model = Function(lambda x, w, idle: w * x, w=2.0, idle=1.0)
    assert sharpness(model, x, x) == pytest.approx(5.0, rel=1e-15)


def test_a_measurement_leaves_the_model_and_the_random_numbers_alone():
    model, X, y = mlp(3), gaussian(12, 5), gaussian(12, 3, seed=1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    with torch.no_grad():
        first = sharpness(model, X, y)
        along = batch_sharpness(model, X, y, batches=torch.tensor([[0, 1]]))
    assert sharpness(model, X, y) == first  # to the last digit
    again = batch_sharpness(model, X, y, batches=torch.tensor([[0, 1]]))
    assert torch.equal(again, along)
    assert not again.requires_grad
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_rotating_the_hidden_units_of_a_linear_network_changes_nothing():
    X, y, W1, W2 = gaussian(20, 12), gaussian(20, seed=1), gaussian(8, 12, seed=2), gaussian(8, seed=3)
    Q = torch.linalg.qr(gaussian(8, 8, seed=4)).Q
    before, after = (
        sharpness(Function(lambda X, W1, w2: X @ W1.T @ w2, W1=first, w2=last), X, y)
        for first, last in ((W1, W2), (Q @ W1, Q @ W2))
    )
    assert before == pytest.approx(after, rel=ROUND_OFF)


# ------------------------------------------------------------------------------ stability limit
@pytest.mark.parametrize("d", SIZES)
def test_gradient_descent_converges_below_the_stability_limit_and_diverges_above(d):
    X = gaussian(2 * d, d)
    w0 = gaussian(d, seed=1)
    limit = stability_limit(linear(w0), X, torch.zeros(2 * d))

    def after(eta):
        w = w0
        for _ in range(200):
            w = w - eta * X.T @ (X @ w) / (2 * d)
        return w.norm() / w0.norm()

    # along the top eigenvector a step multiplies by -.8 and -1.2; it holds a share of w0 well above .8^200
    assert after(0.9 * limit) < 1.0
    assert after(1.1 * limit) > 1e6


def test_without_positive_curvature_there_is_no_limit():
    assert stability_limit(*planted([-1.0, -2.0])) == math.inf
    blind = (linear([0.3]), torch.zeros(2, 1), torch.ones(2))
    assert sharpness(*blind) == 0.0
    assert stability_limit(*blind) == math.inf


# --------------------------------------------------------------------------------- mini-batches
BATCHES = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]])
MEASURES = [mini_batch_sharpness, batch_sharpness]


def test_each_batch_has_the_sharpness_of_its_own_loss():
    model, X, y = mlp(3), gaussian(12, 5), gaussian(12, 3, seed=1)
    measured = mini_batch_sharpness(model, X, y, batches=BATCHES)
    assert measured.dtype == torch.float64
    assert measured.tolist() == pytest.approx([largest(dense(model, X[b], y[b])[1]) for b in BATCHES], rel=ROUND_OFF)


@settings(steady, max_examples=10)
@given(st.integers(0, 2**31))
def test_minibs_of_a_partition_is_at_least_the_sharpness(seed):
    W, v = gaussian(3, 5, seed=seed), gaussian(3, seed=seed + 1)
    model = Function(lambda X, W, v: torch.tanh(X @ W.T) @ v, W=W, v=v)
    X, y = gaussian(12, 5, seed=seed + 2), gaussian(12, seed=seed + 3)
    batches = torch.randperm(12, generator=seeded(seed)).view(-1, 2)
    whole = sharpness(model, X, y)
    assert mini_batch_sharpness(model, X, y, batches=batches).mean().item() >= whole * (1 - ROUND_OFF)
    one = torch.randperm(12, generator=seeded(seed)).view(1, 12)
    assert mini_batch_sharpness(model, X, y, batches=one).item() == pytest.approx(whole, rel=ROUND_OFF)


def test_batch_sharpness_is_the_curvature_along_each_batch_gradient():
    model, X, y = mlp(3), gaussian(12, 5), gaussian(12, 3, seed=1)
    measured = batch_sharpness(model, X, y, batches=BATCHES)
    for b, value in zip(BATCHES, measured.tolist(), strict=True):
        g, H = dense(model, X[b], y[b])
        assert value == pytest.approx((g @ H @ g / (g @ g)).item(), rel=ROUND_OFF)
    assert (measured <= mini_batch_sharpness(model, X, y, batches=BATCHES)).all()
    assert measured.dtype == torch.float64


@pytest.mark.parametrize("gap", [1.0, 1e-100, 1e-200])
def test_batch_sharpness_does_not_depend_on_the_size_of_the_gradient(gap):
    x = torch.tensor([[1.0], [3.0], [2.0], [5.0]])
    measured = batch_sharpness(linear([gap]), x, torch.zeros(4), batches=torch.tensor([[0, 1], [2, 3], [1, 1]]))
    assert measured.tolist() == pytest.approx([5.0, 14.5, 9.0], rel=1e-14)  # E_B[x^2]


def test_batch_sharpness_is_undefined_where_a_batch_is_interpolated():
    x = torch.tensor([[1.0], [3.0], [2.0], [5.0]])
    y = torch.tensor([2.0, 6.0, 4.0, 0.0])
    measured = batch_sharpness(linear([2.0]), x, y, batches=torch.tensor([[0, 1], [2, 3]]))
    assert measured.isnan().tolist() == [True, False]


# ------------------------------------------------------------------------------------ bad input
class Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        self.W1 = nn.Parameter(torch.ones(2, 1, 3))

    def first_layer(self):
        return self.W1

    def forward(self, X):
        return X @ self.W1[0, 0]


X0, Y0 = torch.ones(4, 3, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
BAD = {
    "model must be a single run, got run axes": lambda: (Ensemble(), X0, Y0),
    "model must have parameters that require gradients": lambda: (nn.Flatten(), X0, X0),
    "model must have float64 parameters, got .*float32": lambda: (nn.Linear(3, 1, dtype=torch.float32), X0, Y0),
    "model must have a finite gradient": lambda: (linear([math.inf, 0.0, 0.0]), X0, Y0),
    r"y must have the outputs' shape \(4, 1\), got \(4,\)": lambda: (nn.Linear(3, 1), X0, Y0),
    r"y must have the outputs' shape \(4,\), got \(4, 1\)": lambda: (linear([0.0] * 3), X0, Y0.unsqueeze(1)),
    "equally many examples, at least one, got 4 and 3": lambda: (linear([0.0] * 3), X0, Y0[1:]),
    "equally many examples, at least one, got 0 and 0": lambda: (linear([0.0] * 3), X0[:0], Y0[:0]),
}


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_refused(message):
    arguments = BAD[message]()
    for measure in (sharpness, stability_limit):
        with pytest.raises(ValueError, match=message):
            measure(*arguments)
    if "examples" not in message:
        for measure in MEASURES:
            with pytest.raises(ValueError, match=message):
                measure(*arguments, batches=torch.tensor([[0, 1, 2, 3]]))


@pytest.mark.parametrize("measure", MEASURES)
def test_batches_are_indices_of_examples(measure):
    model = linear([0.0] * 3)
    for batches in (
        torch.tensor([0, 1]),
        torch.zeros(0, 2, dtype=torch.long),
        torch.zeros(2, 0, dtype=torch.long),
        torch.tensor([[0.0, 1.0]]),
        torch.ones(1, 4, dtype=torch.bool),
    ):
        with pytest.raises(ValueError, match=r"batches must be indices of shape \(num_batches, batch_size\), got"):
            measure(model, X0, Y0, batches=batches)
    for batches in ([[0, 4]], [[-1, 0]]):
        with pytest.raises(ValueError, match=r"batches must hold indices in 0\.\.3, got"):
            measure(model, X0, Y0, batches=torch.tensor(batches))
