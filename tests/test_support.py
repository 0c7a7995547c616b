"""Measurements of weights against planted answers, invariances and exact arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.support import (
    alignment,
    column_norms,
    effective_rank,
    gram,
    imbalance,
    irrelevant_norm,
    layer_imbalance,
    recovered,
    recovery_range,
    support,
    support_share,
)

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)
ROUND_OFF = 1e-13  # some 400 rounding units: sums of at most 36 products of numbers of order 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def rotation(size, seed):
    return torch.linalg.qr(gaussian(size, size, seed=seed)).Q


def planted(width, d, r, *, irrelevant, seed):
    """Columns of norm 1 (relevant) and `irrelevant`, in random directions and random places."""
    columns = gaussian(width, d, seed=seed)
    mask = torch.zeros(d, dtype=torch.bool)
    mask[torch.randperm(d, generator=seeded(seed))[:r]] = True
    return columns / columns.norm(dim=0) * torch.where(mask, 1.0, irrelevant), mask


W = torch.tensor([[3.0, 0.0, -1.0], [4.0, 0.0, 2.0]], dtype=torch.float64)  # column norms 5, 0, sqrt(5)
FIRST, LAST = torch.tensor([True, False, False]), torch.tensor([False, False, True])


# --------------------------------------------------------------------------- columns and Gram
def test_a_column_norm_is_the_root_of_the_sum_of_squares():
    for j, norm in enumerate(column_norms(W).tolist()):
        assert norm == pytest.approx(math.hypot(*W[:, j].tolist()), rel=1e-15)


@steady
@given(sizes, sizes, seeds)
def test_rotating_the_hidden_units_changes_neither_norms_nor_gram(width, d, seed):
    W1 = gaussian(width, d, seed=seed)
    turned = rotation(width, seed + 1) @ W1
    torch.testing.assert_close(column_norms(turned), column_norms(W1), rtol=0, atol=ROUND_OFF)
    torch.testing.assert_close(gram(turned), gram(W1), rtol=0, atol=ROUND_OFF)


@steady
@given(sizes, sizes, seeds)
def test_gram_holds_the_inner_products_of_the_columns(width, d, seed):
    W1 = gaussian(width, d, seed=seed)
    for i in range(d):
        for j in range(d):
            assert gram(W1)[i, j].item() == pytest.approx(sum((W1[:, i] * W1[:, j]).tolist()), abs=ROUND_OFF)


def test_rotating_the_inputs_changes_the_norms():  # they are the columns', not the rows'
    W1 = gaussian(2, 3)
    assert (column_norms(W1 @ rotation(3, 1)) - column_norms(W1)).abs().max() > 0.1


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1.0, 1e170, 1e300])
def test_norms_survive_weights_whose_squares_do_not(size):
    assert column_norms(W * size).tolist() == pytest.approx([5 * size, 0.0, math.sqrt(5) * size], rel=1e-14, abs=0)
    assert irrelevant_norm(W * size, support_true=FIRST).item() == pytest.approx(math.sqrt(5) * size, rel=1e-14, abs=0)
    assert support_share(W * size, support_true=FIRST).item() == pytest.approx(25 / 30, rel=1e-14)


def test_the_irrelevant_norm_is_frobenius_over_the_other_columns():
    W1, mask = gaussian(4, 6), torch.tensor([True, False, True, True, False, False])
    by_hand = math.sqrt(sum(float(W1[i, j]) ** 2 for i in range(4) for j in (1, 4, 5)))
    assert irrelevant_norm(W1, support_true=mask).item() == pytest.approx(by_hand, rel=1e-14)
    assert irrelevant_norm(W1, support_true=torch.ones(6, dtype=torch.bool)).item() == 0.0


@steady
@given(sizes, sizes, seeds)
def test_the_shares_of_a_support_and_of_its_complement_add_up(width, d, seed):
    W1 = gaussian(width, d, seed=seed)
    mask = torch.rand(d, generator=seeded(seed)) < 0.5
    share = support_share(W1, support_true=mask)
    assert (share + support_share(W1, support_true=~mask)).item() == pytest.approx(1.0, abs=ROUND_OFF)
    assert share.item() == pytest.approx((gram(W1).diagonal()[mask].sum() / gram(W1).trace()).item(), abs=ROUND_OFF)


# ------------------------------------------------------------------------------------ support
@steady
@given(sizes, sizes, st.data(), seeds)
def test_a_planted_support_is_found_over_the_whole_range_of_thresholds(width, d, data, seed):
    r = data.draw(st.integers(1, d))
    W1, mask = planted(width, d, r, irrelevant=0.1, seed=seed)
    for tau in (0.1 + 1e-9, 0.3, 1 - 1e-9):  # 1e-9: well above the rounding of the norms
        assert torch.equal(support(W1, tau=tau), mask)
    assert support(W1, tau=0.1 - 1e-9).all()


def test_a_column_at_the_threshold_does_not_count():
    W1 = torch.tensor([[1.0, 0.5]])
    assert support(W1, tau=0.5).tolist() == [True, False]
    assert recovered(W1, support_true=torch.tensor([True, False]), taus=[0.5]).tolist() == [True]


@pytest.mark.parametrize("size", [-7.0, 1e-300, 1e300])
def test_rescaling_the_weights_changes_no_relative_measure(size):
    for tau in (0.1, 0.4, 0.5):
        assert torch.equal(support(W * size, tau=tau), support(W, tau=tau))
        assert torch.equal(effective_rank(W * size, tau=tau), effective_rank(W, tau=tau))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_weights_use_nothing_and_have_no_direction(dtype):
    zero = torch.zeros(2, 3, dtype=dtype)
    assert not support(zero, tau=0.5).any()
    assert effective_rank(zero, tau=0.5).item() == 0
    assert irrelevant_norm(zero, support_true=FIRST).item() == 0.0
    assert not recovered(zero, support_true=FIRST, taus=[0.5]).any()
    assert recovered(zero, support_true=torch.zeros(3, dtype=torch.bool), taus=[0.5]).all()
    assert support_share(zero, support_true=FIRST).isnan()
    assert alignment(zero, direction=torch.ones(3, dtype=dtype)).isnan()
    assert all(end.isnan() for end in recovery_range(zero, support_true=FIRST))


@steady
@given(sizes, st.integers(2, 6), st.data(), seeds)
def test_the_range_says_which_thresholds_recover(width, d, data, seed):
    r = data.draw(st.integers(1, d))
    W1, mask = gaussian(width, d, seed=seed), torch.arange(d) < r
    low, high = (end.item() for end in recovery_range(W1, support_true=mask))
    inside, gap = sorted((low, high)), 1e-9
    taus = [tau for end in inside for tau in (end - gap, end + gap) if 0 < tau < 1] + [sum(inside) / 2]
    expected = [low < tau < high for tau in taus]
    assert recovered(W1, support_true=mask, taus=taus).tolist() == expected


def test_the_range_of_a_planted_support_and_of_a_missed_one():
    low, high = recovery_range(W, support_true=FIRST)
    assert (low.item(), high.item()) == pytest.approx((math.sqrt(5) / 5, 1.0))
    low, high = recovery_range(W, support_true=LAST)
    assert (low.item(), high.item()) == pytest.approx((1.0, math.sqrt(5) / 5))
    low, high = recovery_range(W, support_true=torch.tensor([True, False, True]))
    assert (high / low).item() == math.inf
    low, high = recovery_range(W, support_true=torch.ones(3, dtype=torch.bool))
    assert (low.item(), high.item()) == (0.0, 0.0)  # one column is zero: no threshold finds it


def test_recovery_wants_no_column_more_and_none_less():
    W1 = torch.tensor([[1.0, 0.6, 0.2]])
    two = torch.tensor([True, True, False])
    assert recovered(W1, support_true=two, taus=[0.1, 0.3, 0.7]).tolist() == [False, True, False]
    assert recovered(W1, support_true=two, taus=torch.tensor([0.3])).tolist() == [True]


# --------------------------------------------------------------------- singular values, direction
@steady
@given(seeds)
def test_the_effective_rank_counts_planted_singular_values(seed):
    sigma = torch.tensor([2.0, 1.0, 0.5, 0.01], dtype=torch.float64)
    W1 = rotation(6, seed)[:, :4] @ torch.diag(sigma) @ rotation(5, seed + 1)[:4]
    for tau, rank in ((0.001, 4), (0.2, 3), (0.3, 2), (0.6, 1)):  # thresholds .002, .4, .6, 1.2
        assert effective_rank(W1, tau=tau).item() == rank


@steady
@given(st.integers(1, 6), st.integers(2, 6), seeds)
def test_the_cosine_with_a_planted_direction(width, d, seed):
    basis = rotation(d, seed)
    W1 = 3.0 * torch.outer(rotation(width, seed + 1)[0], basis[0])
    if width > 1:
        W1 += torch.outer(rotation(width, seed + 1)[1], basis[1])
    for angle in (0.0, 0.4, math.pi / 2, 2.5):
        a = 7.0 * (math.cos(angle) * basis[0] + math.sin(angle) * basis[1])
        assert alignment(W1, direction=a).item() == pytest.approx(abs(math.cos(angle)), abs=ROUND_OFF)


def test_the_cosine_is_undefined_where_the_leading_direction_is_not_unique():
    a = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert alignment(torch.eye(3, dtype=torch.float64), direction=a).isnan()
    for seed in range(20):  # whose singular values are 1 to rounding, and not exactly
        assert alignment(rotation(3, seed), direction=a).isnan()
    assert alignment(torch.diag(torch.tensor([1.0 + 1e-12, 1.0, 0.0], dtype=torch.float64)), direction=a).item() == 1.0
    assert alignment(a.unsqueeze(0), direction=a).item() == 1.0


# ---------------------------------------------------------------------------------- imbalance
def test_imbalance_is_the_second_layer_squared_minus_the_first_squared():
    theta = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.0, -7.0]])
    G = imbalance(theta)
    assert G.shape == (3, 3, 2)
    for i in range(3):
        for j in range(3):
            assert torch.equal(G[i, j], theta[j] ** 2 - theta[i] ** 2)


def test_imbalance_of_close_layers_keeps_all_its_digits():
    theta = torch.tensor([[1.0], [1.0 + 2.0**-40]], dtype=torch.float64)
    exact = (1 + Fraction(1, 2**40)) ** 2 - 1
    assert imbalance(theta)[0, 1].item() == pytest.approx(float(exact), rel=4e-16, abs=0)  # two rounding units


def test_a_step_changes_the_layer_imbalance_by_eta_squared_times_the_gradients():
    weights = [gaussian(4, 3, seed=1), gaussian(5, 4, seed=2), gaussian(2, 5, seed=3)]
    X, y, eta = gaussian(7, 3, seed=4), gaussian(7, 2, seed=5), 0.05
    W1, W2, W3 = (layer.requires_grad_() for layer in weights)
    slopes = torch.autograd.grad(((X @ W1.mT @ W2.mT @ W3.mT - y) ** 2).sum() / (2 * 7), weights)
    before = [layer.detach() for layer in weights]
    after = [layer - eta * slope for layer, slope in zip(before, slopes, strict=True)]
    for i in range(2):
        change = layer_imbalance(after[i], after[i + 1]) - layer_imbalance(before[i], before[i + 1])
        law = eta**2 * (slopes[i + 1].mT @ slopes[i + 1] - slopes[i] @ slopes[i].mT)
        assert law.abs().max() > 1e-2
        # rounding is relative to the squares that cancel, up to 1e2 here
        torch.testing.assert_close(change, law, rtol=0, atol=1e-12)


def test_diagonal_layers_have_the_imbalance_of_the_diagonal_network():
    theta = gaussian(5, 3, 4)
    layers = torch.diag_embed(theta)
    for i in range(2):
        matrices = layer_imbalance(layers[:, i], layers[:, i + 1])
        torch.testing.assert_close(matrices, torch.diag_embed(imbalance(theta)[:, i, i + 1]), rtol=0, atol=1e-14)


def test_a_step_of_the_diagonal_network_multiplies_the_imbalance():
    """The identity of Appendix K.4, for every pair of layers: by hand for one input, x and y numbers."""
    theta, x, y, eta = gaussian(4, 1), 1.3, 0.7, 0.1
    product = theta.prod(dim=0)
    eps = (product * x - y) * x
    after = theta - eta * eps * product / theta
    for i in range(4):
        for j in range(4):
            if i != j:
                factor = 1 - (eta * eps * product / (theta[i] * theta[j])) ** 2
                expected = (factor * imbalance(theta)[i, j]).item()
                assert imbalance(after)[i, j].item() == pytest.approx(expected, abs=1e-14)


# ----------------------------------------------------------------------------------- run axes
MEASURES = {
    "column_norms": column_norms,
    "gram": gram,
    "irrelevant_norm": lambda W1: irrelevant_norm(W1, support_true=FIRST),
    "support_share": lambda W1: support_share(W1, support_true=FIRST),
    "support": lambda W1: support(W1, tau=0.6),
    "recovered": lambda W1: recovered(W1, support_true=FIRST, taus=[0.2, 0.5, 0.6, 0.8]),
    "recovery_range": lambda W1: torch.stack(recovery_range(W1, support_true=FIRST), dim=-1),
    "effective_rank": lambda W1: effective_rank(W1, tau=0.5),
    "alignment": lambda W1: alignment(W1, direction=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
    "imbalance": imbalance,
    "layer_imbalance": lambda W1: layer_imbalance(W1[..., :3, :], W1),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_an_ensemble_is_measured_run_by_run(measure):
    runs = gaussian(2, 5, 4, 3)
    runs[0, 1] *= torch.tensor([1.0, 0.1, 0.1])  # this run has found the support, so yes and no both occur
    together = measure(runs)
    assert together.shape[:2] == (2, 5)
    for i in range(2):
        for k in range(5):
            alone = measure(runs[i, k])
            assert together[i, k].dtype == alone.dtype
            torch.testing.assert_close(together[i, k], alone, rtol=0, atol=ROUND_OFF)
    assert measure(runs[:, :0]).shape == (2, 0, *together.shape[2:])


# ---------------------------------------------------------------------------------- bad input
def test_a_diverged_run_stays_visible():
    bad = W.clone()
    bad[0, 2] = math.nan
    assert column_norms(bad).isnan().tolist() == [False, False, True]
    assert irrelevant_norm(bad, support_true=FIRST).isnan()
    assert not irrelevant_norm(bad, support_true=LAST).isnan()
    assert support_share(bad, support_true=FIRST).isnan()
    assert all(end.isnan() for end in recovery_range(bad, support_true=FIRST))
    for answer in (
        lambda: support(bad, tau=0.5),
        lambda: recovered(bad, support_true=FIRST, taus=[0.5]),
        lambda: effective_rank(bad, tau=0.5),
        lambda: alignment(bad, direction=torch.ones(3, dtype=torch.float64)),
    ):
        with pytest.raises(ValueError, match="W1 must be finite"):
            answer()


@pytest.mark.parametrize("tau", [0.0, 1.0, -0.1, 5, math.nan])
def test_tau_is_relative(tau):
    for measure in (support, effective_rank):
        with pytest.raises(ValueError, match=r"tau .*in \(0, 1\), got"):
            measure(W, tau=tau)
    with pytest.raises(ValueError, match=r"tau .*in \(0, 1\), got"):
        recovered(W, support_true=FIRST, taus=[0.5, tau])


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "layer_imbalance"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 3)])
def test_what_is_no_matrix_is_refused(name, shape):
    with pytest.raises(ValueError, match=("theta" if name == "imbalance" else "W1") + " must have shape"):
        MEASURES[name](torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)])
def test_support_true_is_a_mask_of_the_inputs(mask):
    for measure in (irrelevant_norm, support_share, recovery_range):
        with pytest.raises(ValueError, match=r"support_true must be a boolean mask of shape \(3,\)"):
            measure(W, support_true=mask)
    with pytest.raises(ValueError, match=r"support_true must be a boolean mask of shape \(3,\)"):
        recovered(W, support_true=mask, taus=[0.5])


def test_other_refusals():
    with pytest.raises(ValueError, match="taus must hold at least one"):
        recovered(W, support_true=FIRST, taus=[])
    with pytest.raises(ValueError, match="support_true must name at least one relevant input"):
        recovery_range(W, support_true=torch.zeros(3, dtype=torch.bool))
    for direction in (torch.zeros(3), torch.ones(2)):
        with pytest.raises(ValueError, match=r"direction must be a non-zero vector of shape \(3,\)"):
            alignment(W, direction=direction.double())
    with pytest.raises(ValueError, match="depth at least 2"):
        imbalance(torch.ones(1, 3))
    with pytest.raises(ValueError, match="W_upper must have as many columns as W_lower has rows, 2, got 3"):
        layer_imbalance(W, torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="W_lower must have shape"):
        layer_imbalance(torch.ones(2), W)
    with pytest.raises(ValueError, match="W_upper must have shape"):
        layer_imbalance(W, torch.ones(2, dtype=torch.float64))
