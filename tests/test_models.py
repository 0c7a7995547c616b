"""Models against their formulas, ensembles against single networks, initial laws against their moments."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import nn

from lib.models import (
    DeepLinear,
    Diagonal,
    DiagonalReLU,
    Model,
    Product,
    ReLU,
    balanced,
    from_init,
    initialise,
    normal,
    outputs,
    run_shape,
    shapes_of,
    stack,
    uniform,
    unstack,
    with_parameters,
)

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
seeds = st.integers(0, 2**32 - 1)
MODELS = [
    DeepLinear((4, 1)),
    DeepLinear((4, 5, 3, 1)),
    DeepLinear((4, 5, 2)),
    Diagonal(4, 1),
    Diagonal(4, 3),
    Product(),
    ReLU((4, 1), biases=True),
    ReLU((4, 5, 3, 1), biases=True),
    ReLU((4, 5, 3, 1), biases=False),
    ReLU((4, 5, 2), biases=True),
    DiagonalReLU(4, 1),
    DiagonalReLU(4, 3),
]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{type(m).__name__}{list(m.shapes.values())}")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(model: Model, *runs: int, seed: int = 0) -> Model:
    """Every parameter Gaussian, biases too."""
    g = seeded(seed)
    return with_parameters(
        model, {name: torch.randn(*runs, *shape, generator=g) for name, shape in model.shapes.items()}
    )


def inputs(model: Model) -> int:
    return model.first_layer().shape[-1]


def single(model: Model, *run: int) -> Model:
    return with_parameters(model, {name: p.detach()[run] for name, p in model.named_parameters()})


def by_hand(model: Model, x: list[float]) -> list[float]:
    """The outputs of one network on one example, entry by entry."""
    P = {name: p.tolist() for name, p in model.named_parameters()}
    if isinstance(model, Diagonal):
        return [sum(x[j] * math.prod(layer[j] for layer in P["theta"]) for j in range(len(x)))]
    if isinstance(model, DiagonalReLU):
        for layer in P["theta"][:-1]:
            x = [max(a * w, 0.0) for a, w in zip(x, layer, strict=True)]
        return [sum(a * w for a, w in zip(x, P["theta"][-1], strict=True))]
    depth = len(model.widths) - 1
    for i in range(1, depth + 1):
        x = [sum(w * a for w, a in zip(row, x, strict=True)) for row in P[f"W{i}"]]
        if f"b{i}" in P:
            x = [a + b for a, b in zip(x, P[f"b{i}"], strict=True)]
        if isinstance(model, ReLU) and i < depth:
            x = [max(a, 0.0) for a in x]
    return x


# --------------------------------------------------------------------------------- the formulas
@each_model
def test_the_outputs_are_the_formula(model):
    net = filled(model)
    X = torch.randn(6, inputs(net), generator=seeded(1))
    expected = torch.tensor([by_hand(net, x) for x in X.tolist()])
    outputs = net(X)
    assert outputs.shape == ((6,) if expected.shape[1] == 1 else expected.shape)
    assert (outputs - expected.view_as(outputs)).abs().max() < 1e-13  # sums of up to 60 products of order 1
    assert outputs.abs().max() > 0.1


@each_model
@pytest.mark.parametrize("runs", [(3,), (2, 3), (1,)])
def test_an_ensemble_is_its_networks_side_by_side(model, runs):
    net = filled(model, *runs)
    shared = torch.randn(6, inputs(net), generator=seeded(1))
    own = torch.randn(*runs, 6, inputs(net), generator=seeded(2))
    assert net.run_shape == runs
    for run in itertools.product(*map(range, runs)):
        assert single(net, *run).run_shape == ()
        assert (net(shared)[run] - single(net, *run)(shared)).abs().max() < 1e-13
        assert (net(own)[run] - single(net, *run)(own[run])).abs().max() < 1e-13
        assert torch.equal(net.first_layer()[run], single(net, *run).first_layer())


def test_the_first_layer_is_what_meets_the_inputs():
    for net in (filled(DeepLinear((4, 5, 1)), 2), filled(ReLU((4, 5, 1), biases=True), 2)):
        assert torch.equal(net.first_layer(), net.W1)
        assert net.first_layer().shape == (2, 5, 4)
    for net in (filled(Diagonal(4, 3), 2), filled(DiagonalReLU(4, 3), 2)):
        assert torch.equal(net.first_layer(), torch.stack([torch.diag(theta[0]) for theta in net.theta]))


@pytest.mark.parametrize("model", [DeepLinear((4, 5, 3, 2)), DeepLinear((4, 1)), Diagonal(4, 3), Product()])
def test_the_effective_predictor_is_the_output_on_the_unit_vectors(model):
    net = filled(model, 2)
    columns = net(torch.eye(inputs(net)))  # (runs, d) or (runs, d, outputs)
    expected = net.effective().mT if isinstance(model, DeepLinear) else net.effective()
    assert (columns.view_as(expected) - expected).abs().max() < 1e-13


def test_the_derivative_of_relu_at_zero_is_zero():
    net = with_parameters(ReLU((1, 1, 1), biases=False), {"W1": torch.ones(1, 1), "W2": torch.ones(1, 1)})
    net(torch.zeros(1, 1)).sum().backward()
    assert net.W1.grad.item() == 0.0 == net.W2.grad.item()


def test_the_product_is_a_b_x():
    net = with_parameters(Product(), {"theta": torch.tensor([[3.0], [-2.0]])})
    assert net(torch.tensor([[1.0], [0.5]])).tolist() == [-6.0, -3.0]


def test_parameters_are_float64_whatever_torchs_default():
    torch.set_default_dtype(torch.float32)
    fresh = ReLU((3, 4, 1), biases=True)
    drawn = initialise(fresh, normal(1.0), generator=seeded(0), runs=(2,))
    even = balanced(DeepLinear((3, 4, 1)), scale=1.0, generator=seeded(0))
    signs = balanced(Diagonal(3, 2), scale=0.7, generator=seeded(0))
    assert {p.dtype for net in (fresh, drawn, even, signs) for p in net.parameters()} == {torch.float64}
    assert signs.theta.abs().max().item() == 0.7


@steady
@given(st.integers(1, 6), st.integers(2, 6), seeds)
def test_a_deep_linear_network_does_not_see_a_rotation_of_its_hidden_units(d, width, seed):
    net = filled(DeepLinear((d, width, width, 1)), seed=seed)
    Q = torch.linalg.qr(torch.randn(width, width, generator=seeded(seed))).Q
    turned = with_parameters(net, {"W1": Q @ net.W1, "W2": net.W2 @ Q.mT, "W3": net.W3})
    X = torch.randn(5, d, generator=seeded(seed + 1))
    scale = 1 + net(X).abs().max()
    assert (turned(X) - net(X)).abs().max() < 1e-13 * scale * width
    assert (turned.effective() - net.effective()).abs().max() < 1e-12


# ----------------------------------------------------------------------- parameters of many networks
def test_with_parameters_copies_and_keeps_what_is_frozen():
    net = filled(DeepLinear((4, 5, 1)))
    net.W1.requires_grad_(False)
    start = {name: torch.randn(3, *p.shape, generator=seeded(1)) for name, p in net.named_parameters()}
    fresh = with_parameters(net, start)
    assert [p.requires_grad for p in fresh.parameters()] == [False, True]
    fresh.W1.data += 1.0
    assert torch.equal(start["W1"] + 1.0, fresh.W1)
    assert net.W1.shape == (5, 4)


def test_stack_keeps_order_and_shapes_of_any_module():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in range(3)]
    several = stack(nets)
    assert run_shape(several) == (3,)
    assert list(shapes_of(several)) == [name for name, _ in nets[0].named_parameters()]
    for k, net in enumerate(nets):
        assert all(torch.equal(p[k], q) for p, q in zip(several.parameters(), net.parameters(), strict=True))
    assert nets[0][0].weight.shape == (4, 3)


def test_a_stack_of_stacks_has_two_run_axes():
    rows = [stack([filled(DeepLinear((2, 1)), seed=3 * i + j) for j in range(3)]) for i in range(2)]
    both = stack(rows)
    assert run_shape(both) == (2, 3)
    assert torch.equal(both.W1[1, 2], rows[1].W1[2])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"W1": torch.zeros(5, 4)}, r"^parameters must have the names \['W1', 'W2'\], got \['W1'\]"),
        ({"W1": torch.zeros(5, 4), "W2": torch.zeros(1, 5), "b1": torch.zeros(5)}, r"got \['W1', 'W2', 'b1'\]"),
        ({"W1": torch.zeros(4, 5), "W2": torch.zeros(1, 5)}, r"^parameters\['W1'\] must end in the shape \(5, 4\)"),
        ({"W1": torch.zeros(5, 4), "W2": torch.zeros(5)}, r"^parameters\['W2'\] must .* \(1, 5\), got \(5,\)"),
        ({"W1": torch.zeros(2, 5, 4), "W2": torch.zeros(1, 5)}, r"the same leading run axes, got \[\(\), \(2,\)\]"),
        ({"W1": torch.zeros(5, 4).long(), "W2": torch.zeros(1, 5)}, r"^parameters\['W1'\] must be a tensor of floats"),
        ({"W1": [[0.0] * 4] * 5, "W2": torch.zeros(1, 5)}, r"^parameters\['W1'\] must be a tensor of floats"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        with_parameters(DeepLinear((4, 5, 1)), parameters)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "^models must hold at least one module, got none"),
        ([DeepLinear((2, 1)), DeepLinear((3, 1))], "^models must have equal parameter shapes, got"),
        ([DeepLinear((2, 1)), ReLU((2, 1), biases=False)], r"^models must be of one class, got \['DeepLinear', 'ReLU'"),
    ],
)
def test_modules_that_do_not_fit_together_are_refused(models, message):
    with pytest.raises(ValueError, match=message):
        stack(models)


@pytest.mark.parametrize(
    "build",
    [
        lambda: DeepLinear((3, 0, 1)),
        lambda: ReLU((0, 1), biases=True),
        lambda: Diagonal(0, 2),
        lambda: Diagonal(2, 0),
        lambda: DiagonalReLU(2, 0),
        lambda: DiagonalReLU(-1, 2),
    ],
)
def test_a_layer_of_no_size_is_refused(build):
    with pytest.raises(ValueError, match=r"^every size of a layer must be at least 1, got \{"):
        build()


@pytest.mark.parametrize("build", [DeepLinear, lambda widths: ReLU(widths, biases=False)])
def test_a_network_needs_inputs_and_outputs(build):
    with pytest.raises(ValueError, match=r"^widths must list at least the inputs and the outputs, got \(3,\)"):
        build((3,))


@pytest.mark.parametrize("d", [1, 5])
def test_a_diagonal_relu_network_does_not_broadcast_its_inputs(d):
    with pytest.raises(ValueError, match=f"^X must have d = 4 inputs, got {d}"):
        DiagonalReLU(4, 2)(torch.zeros(3, d))


# ------------------------------------------------------------------------------- initialisations
LAWS = {
    "he": from_init(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier": from_init(nn.init.xavier_uniform_),
    "orthogonal": from_init(nn.init.orthogonal_),
    "normal": normal(0.3),
    "uniform": uniform(0.3, 1.3),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@each_model
def test_the_first_networks_do_not_depend_on_how_many_are_drawn(model, law):
    many = initialise(model, law, generator=seeded(4), runs=(7,))
    few = initialise(model, law, generator=seeded(4), runs=(3,))
    one = initialise(model, law, generator=seeded(4))
    table = initialise(model, law, generator=seeded(4), runs=(2, 3))
    for name, p in many.named_parameters():
        assert torch.equal(p[:3], few.get_parameter(name))
        assert torch.equal(p[0], one.get_parameter(name))
        assert torch.equal(p[:6].view(2, 3, *p.shape[1:]), table.get_parameter(name))
        assert name.startswith("b") or not torch.equal(p[0], p[1])
    assert table.run_shape == (2, 3)


def test_initial_weights_come_from_the_generator_alone():
    state = torch.get_rng_state()
    for law in LAWS.values():
        initialise(DeepLinear((4, 5, 1)), law, generator=seeded(0))
    balanced(DeepLinear((4, 5, 1)), scale=1.0, generator=seeded(0))
    balanced(Diagonal(4, 2), scale=1.0, generator=seeded(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_initialising_leaves_the_model_alone_and_biases_zero():
    model = ReLU((4, 5, 1), biases=True)
    net = initialise(model, LAWS["he"], generator=seeded(0), runs=(3,))
    assert model.W1.abs().max() == 0.0 == net.b1.abs().max() == net.b2.abs().max()
    assert net.b1.shape == (3, 5)
    assert net.W1.abs().min() > 0.0 < net.W2.abs().min()


@pytest.mark.parametrize(
    ("law", "variance", "fourth"),  # of a weight with these fans; the kurtosis is 3 (Gaussian) or 9/5 (uniform)
    [
        (LAWS["he"], lambda fan_in, fan_out: 2 / fan_in, 3.0),
        (LAWS["xavier"], lambda fan_in, fan_out: 2 / (fan_in + fan_out), 1.8),
        (LAWS["normal"], lambda fan_in, fan_out: 0.09, 3.0),
    ],
    ids=["he", "xavier", "normal"],
)
def test_each_layer_has_the_variance_of_its_law(law, variance, fourth):
    net = initialise(DeepLinear((20, 30, 10, 1)), law, generator=seeded(0), runs=(200,))
    for fan_in, fan_out, W in zip((20, 30, 10), (30, 10, 1), net.parameters(), strict=True):
        W, target, count = W.detach(), variance(fan_in, fan_out), W.numel()
        assert abs(float((W**2).mean()) - target) < 4 * target * math.sqrt((fourth - 1) / count)
        assert abs(float(W.mean())) < 4 * math.sqrt(target / count)
        assert abs(float((W**4).mean()) / target**2 - fourth) < 4 * math.sqrt(96 / count)  # of a Gaussian's x^4


def test_a_diagonal_layer_counts_as_matrices_of_one_entry():
    net = initialise(Diagonal(7, 3), LAWS["xavier"], generator=seeded(0), runs=(300,))
    bound = math.sqrt(3)  # U(-a, a) of variance 2 / (1 + 1)
    assert kstest(net.theta.detach().flatten().numpy(), "uniform", (-bound, 2 * bound)).pvalue > 1e-3


def test_the_uniform_law_has_random_signs_and_its_bounds():
    theta = initialise(Diagonal(5, 4), uniform(0.3, 1.3), generator=seeded(0), runs=(500,)).theta.detach()
    assert kstest(theta.abs().flatten().numpy(), "uniform", (0.3, 1.0)).pvalue > 1e-3
    positive = (theta > 0).double()
    assert abs(float(positive.mean()) - 0.5) < 4 * 0.5 / math.sqrt(theta.numel())
    # neighbouring signs, and sign and size, are independent: a correlation of 10,000 pairs has the error 1/100
    assert abs(float((theta.sign()[:, 0] * theta.sign()[:, 1]).mean())) < 4 / math.sqrt(2500)
    assert abs(float((theta.sign() * (theta.abs() - 0.8)).mean())) < 4 * math.sqrt(1 / 12 / theta.numel())


@pytest.mark.parametrize("widths", [(4, 1), (4, 5, 1), (3, 6, 4, 1), (4, 5, 3, 2), (1, 1), (5, 5, 5)])
def test_balanced_layers_have_equal_squares(widths):
    net = balanced(DeepLinear(widths), scale=0.7, generator=seeded(0), runs=(2, 3))
    layers = [W.detach() for W in net.parameters()]
    assert net.run_shape == (2, 3)
    for lower, upper in itertools.pairwise(layers):
        assert (upper.mT @ upper - lower @ lower.mT).abs().max() < 1e-14
    rank = min(widths)
    for W in layers:
        values = torch.linalg.svdvals(W)
        assert (values[..., :rank] - 0.7).abs().max() < 1e-14
        assert values[..., rank:].numel() == 0 or values[..., rank:].max() < 1e-14


def test_balanced_networks_point_nowhere_in_particular():
    """The predictor is uniform on a sphere: LAPACK's QR alone would make its first entry negative for sure."""
    w = balanced(DeepLinear((3, 4, 1)), scale=1.0, generator=seeded(0), runs=(2000,)).effective().detach()
    assert (w.mean(dim=0).abs() < 4 / math.sqrt(3 * 2000)).all()  # E[w_j^2] = 1/3
    assert kstest(w[:, 0, 0].numpy(), "uniform", (-1, 2)).pvalue > 1e-3  # Archimedes: uniform in three dimensions
    lone = balanced(DeepLinear((1, 1)), scale=1.0, generator=seeded(1), runs=(400,)).W1.detach()
    assert abs(float(lone.mean())) < 4 / math.sqrt(400)


def test_a_balanced_diagonal_network_has_random_signs_and_one_size():
    theta = balanced(Diagonal(5, 4), scale=0.7, generator=seeded(0), runs=(500,)).theta.detach()
    assert theta.shape == (500, 4, 5)
    assert set(theta.abs().flatten().tolist()) == {0.7}
    assert abs(float(theta.sign().mean())) < 4 / math.sqrt(theta.numel())
    assert theta.sign().std(dim=0).min() > 0.9  # each weight has both signs


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda: normal(0.0), r"^std must be positive and finite, got 0\.0"),
        (lambda: normal(-1.0), "^std must be positive"),
        (lambda: normal(math.nan), "^std must be positive and finite, got nan"),
        (lambda: normal(math.inf), "^std must be positive and finite, got inf"),
        (lambda: uniform(1.0, 1.0), r"^low and high must satisfy 0 <= low < high < inf, got 1\.0 and 1\.0"),
        (lambda: uniform(-1.0, 1.0), r"^low and high .* got -1\.0 and 1\.0"),
        (lambda: uniform(0.0, math.inf), r"^low and high .* got 0\.0 and inf"),
        (lambda: uniform(math.nan, 1.0), r"^low and high .* got nan and 1\.0"),
    ],
)
def test_laws_that_make_no_sense_are_refused(law, message):
    with pytest.raises(ValueError, match=message):
        law()


def test_a_uniform_law_may_begin_at_zero():
    theta = initialise(Diagonal(50, 1), uniform(0.0, 1.0), generator=seeded(0)).theta.detach()
    assert 0.0 < theta.abs().min() < 0.1


@pytest.mark.parametrize("runs", [3, (0,), (-1,), (2.0,), [3]])
def test_run_axes_must_be_a_tuple_of_sizes(runs):
    with pytest.raises(ValueError, match="^runs must be a tuple of sizes, each at least 1, got"):
        initialise(DeepLinear((2, 1)), normal(1.0), generator=seeded(0), runs=runs)
    with pytest.raises(ValueError, match="^runs must be a tuple of sizes"):
        balanced(DeepLinear((2, 1)), scale=1.0, generator=seeded(0), runs=runs)


def test_only_the_models_of_the_book_can_be_initialised():
    with pytest.raises(ValueError, match="^model must be one of this module's, got Linear"):
        initialise(nn.Linear(2, 1), normal(1.0), generator=seeded(0))


@pytest.mark.parametrize(
    ("model", "scale", "message"),
    [
        (ReLU((1, 2, 1), biases=False), 1.0, "^model must be DeepLinear or Diagonal, got ReLU"),
        (DiagonalReLU(2, 2), 1.0, "^model must be DeepLinear or Diagonal, got DiagonalReLU"),
        (DeepLinear((2, 1)), 0.0, r"^scale must be positive and finite, got 0\.0"),
        (DeepLinear((2, 1)), -1.0, "^scale must be positive"),
        (Diagonal(2, 1), math.nan, "^scale must be positive and finite, got nan"),
    ],
)
def test_what_cannot_be_balanced_is_refused(model, scale, message):
    with pytest.raises(ValueError, match=message):
        balanced(model, scale=scale, generator=seeded(0))


@pytest.mark.parametrize("runs", [(), (3,), (2, 3)])
def test_outputs_are_those_of_each_network_on_shared_and_on_own_inputs(runs):
    nets = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double() for _ in range(math.prod(runs))]
    flat = stack(nets)
    model = with_parameters(nets[0], {k: p.detach().reshape(*runs, *p.shape[1:]) for k, p in flat.named_parameters()})
    for X in (torch.randn(5, 4, dtype=torch.float64), torch.randn(*runs, 5, 4, dtype=torch.float64)):
        each = X.expand(*runs, 5, 4).reshape(-1, 5, 4)
        by_hand = torch.stack([net(x) for net, x in zip(nets, each, strict=True)]).reshape(*runs, 5, 2)
        assert (outputs(model, X) - by_hand).abs().max() < 1e-14


def test_outputs_of_the_librarys_models_are_their_own():
    net = initialise(ReLU((4, 3, 1), biases=True), normal(1.0), generator=torch.Generator().manual_seed(0), runs=(2,))
    X = torch.ones(5, 4, dtype=torch.float64)
    assert torch.equal(outputs(net, X), net(X))


def test_unstack_undoes_stack_and_wants_one_run_axis():
    nets = [filled(DeepLinear((4, 3, 1)), seed=seed) for seed in range(3)]
    apart = unstack(stack(nets))
    assert all(torch.equal(a.W1, b.W1) and torch.equal(a.W2, b.W2) for a, b in zip(apart, nets, strict=True))
    with pytest.raises(ValueError, match=r"^model must have one run axis, got \(\)"):
        unstack(nets[0])
