"""The step against two independent routes, the samplers against what defines them."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.optimizers import SAMPLINGS, Diverged, all_epochs, descend, draw_batches, update

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
seeds = st.integers(0, 2**32 - 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(n, batch_size, num_steps, sampling, seed=0):
    return draw_batches(n, batch_size=batch_size, num_steps=num_steps, sampling=sampling, generator=seeded(seed))


def frequencies_agree(counts: Counter, outcomes: int) -> bool:
    """Every outcome is there, each within four standard errors of the uniform frequency."""
    total, p = sum(counts.values()), 1 / outcomes
    error = math.sqrt(total * p * (1 - p))
    return len(counts) == outcomes and all(abs(c - total * p) < 4 * error for c in counts.values())


# ------------------------------------------------------------------------------------ samplers
@steady
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5), seeds)
def test_an_epoch_without_replacement_is_a_permutation(batch_size, per_epoch, epochs, seed):
    n = batch_size * per_epoch
    batches = drawn(n, batch_size, epochs * per_epoch, "without_replacement", seed)
    for epoch in batches.split(per_epoch):
        assert sorted(epoch.flatten().tolist()) == list(range(n)) or not epochs


@steady
@given(st.integers(1, 3), seeds)
def test_the_next_epoch_is_another_permutation(batch_size, seed):
    first, second, third = drawn(24, batch_size, 3 * 24 // batch_size, "without_replacement", seed).view(3, 24)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


@steady
@given(st.integers(1, 3), seeds)
def test_cyclic_epochs_repeat_one_shuffle(batch_size, seed):
    epochs = drawn(24, batch_size, 3 * 24 // batch_size, "cyclic", seed).view(3, 24)
    assert sorted(epochs[0].tolist()) == list(range(24)) != epochs[0].tolist()
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])


@steady
@given(st.integers(1, 12), seeds)
def test_a_subset_never_repeats_an_example(batch_size, seed):
    for batch in drawn(12, batch_size, 20, "subsets", seed):
        assert len(set(batch.tolist())) == batch_size


def test_the_full_batch_is_all_examples_at_every_step():
    assert drawn(4, 4, 3, "full").tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_a_step_gets_one_batch_also_when_an_epoch_is_cut_short(sampling, num_steps):
    n, batch_size = (2, 2) if sampling == "full" else (6, 2)
    batches = drawn(n, batch_size, num_steps, sampling)
    assert batches.shape == (num_steps, batch_size)
    assert batches.dtype == torch.long
    assert all(0 <= i < n for i in batches.flatten().tolist())
    assert torch.equal(batches, drawn(n, batch_size, num_steps + 3, sampling)[:num_steps])


@pytest.mark.parametrize("sampling", [s for s in SAMPLINGS if s != "full"])
def test_batches_come_from_the_generator_alone(sampling):
    state = torch.get_rng_state()
    first = drawn(12, 2, 12, sampling, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn(12, 2, 12, sampling, seed=1), first)
    assert not torch.equal(drawn(12, 2, 12, sampling, seed=2), first)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_independent_indices_are_all_distinct_as_often_as_they_should_be(n):
    total, p = 20_000, math.factorial(n) / n**n
    distinct = sum(len(set(batch)) == n for batch in drawn(n, n, total, "iid").tolist())
    assert abs(distinct - total * p) < 4 * math.sqrt(total * p * (1 - p))


def test_independent_indices_are_uniform():
    assert frequencies_agree(Counter(map(tuple, drawn(4, 2, 16_000, "iid").tolist())), 16)


def test_all_subsets_are_equally_frequent():
    subsets = Counter(frozenset(batch) for batch in drawn(5, 2, 20_000, "subsets").tolist())
    assert frequencies_agree(subsets, 10)


def test_a_subset_does_not_depend_on_the_one_before():
    subsets = [frozenset(batch) for batch in drawn(4, 2, 18_001, "subsets").tolist()]
    assert frequencies_agree(Counter(itertools.pairwise(subsets)), 36)


def test_all_epochs_are_equally_frequent():
    epochs = drawn(4, 2, 2 * 12_000, "without_replacement").sort(dim=1).values.view(-1, 4)
    assert frequencies_agree(Counter(map(tuple, epochs.tolist())), 6)


# ---------------------------------------------------------------------------------- all epochs
@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (2, 1), (3, 3), (4, 1), (4, 2), (6, 2), (6, 3), (8, 4)])
def test_all_epochs_lists_every_ordered_partition_exactly_once(n, batch_size):
    def ordered(permutation):
        return tuple(tuple(sorted(permutation[i : i + batch_size])) for i in range(0, n, batch_size))

    epochs = all_epochs(n, batch_size=batch_size)
    rows = [tuple(map(tuple, epoch)) for epoch in epochs.tolist()]
    assert len(rows) == math.factorial(n) / math.factorial(batch_size) ** (n / batch_size)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(map(ordered, itertools.permutations(range(n))))
    assert epochs.shape[1:] == (n // batch_size, batch_size)
    assert epochs.dtype == torch.long


# -------------------------------------------------------------------------------------- descend
X = torch.randn(6, 3, generator=seeded(1), dtype=torch.float64)
y = torch.randn(6, generator=seeded(2), dtype=torch.float64)


def gradient_by_hand(W, batch):
    """Of 1/(2B) sum (w.x - y)^2, w = the sum of W's rows: each row gets the same gradient."""
    residual = X[batch] @ W.sum(dim=0) - y[batch]
    return (residual @ X[batch] / len(batch)).expand_as(W)


START = torch.randn(2, 3, generator=seeded(3), dtype=torch.float64)
BATCHES = {sampling: drawn(6, 6 if sampling == "full" else 2, 40, sampling) for sampling in SAMPLINGS}


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
def test_descend_is_the_loop_written_out(batches):
    W, by_hand, eta = START.tolist(), [START.tolist()], 0.1
    for batch in batches.tolist():
        w = [W[0][j] + W[1][j] for j in range(3)]
        residual = [sum(w[j] * X[i, j].item() for j in range(3)) - y[i].item() for i in batch]
        g = [sum(r * X[i, j].item() for r, i in zip(residual, batch, strict=True)) / len(batch) for j in range(3)]
        W = [[W[k][j] - eta * g[j] for j in range(3)] for k in range(2)]
        by_hand.append(W)
    path = descend(gradient_by_hand, START, batches, eta=eta)
    assert path.shape == (41, 2, 3)
    assert (path - torch.tensor(by_hand, dtype=torch.float64)).abs().max() < 1e-14


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
def test_descend_is_what_autograd_and_torchs_sgd_do(batches):
    W = START.clone().requires_grad_()
    optimizer, by_torch = torch.optim.SGD([W], lr=0.1), [START]
    for batch in batches:
        optimizer.zero_grad()
        ((X[batch] @ W.sum(dim=0) - y[batch]) ** 2).mean().div(2).backward()
        optimizer.step()
        by_torch.append(W.detach().clone())
    path = descend(gradient_by_hand, START, batches, eta=0.1)
    assert (path - torch.stack(by_torch)).abs().max() < 1e-14


def test_the_path_begins_with_the_start_and_leaves_it_alone():
    start = START.clone()
    path = descend(gradient_by_hand, start, BATCHES["iid"], eta=0.1)
    assert torch.equal(path[0], START)
    path[0] += 1.0
    assert torch.equal(start, START)


def test_no_batches_make_a_path_of_the_start_alone():
    assert torch.equal(descend(gradient_by_hand, START, torch.empty(0, 2), eta=0.1), START[None])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_run_that_diverges_says_after_how_many_steps_and_at_which_learning_rate(bad):
    def gradient(theta, batch):
        return torch.where(batch == 2, torch.tensor([0.0, bad]), torch.zeros(2))

    with pytest.raises(Diverged, match=r"not finite after 3 steps at eta = 0\.25"):
        descend(gradient, torch.zeros(2), torch.arange(5)[:, None], eta=0.25)


def test_a_run_that_grows_without_overflow_has_not_diverged():
    path = descend(lambda theta, batch: -theta, torch.tensor([1e300]), torch.zeros(20, 1), eta=1.0)
    assert path[-1] == 1e300 * 2**20


# --------------------------------------------------------------------------------------- update
@steady
@given(st.integers(1, 4), st.integers(1, 5), seeds)
def test_an_update_is_the_formula_run_by_run(runs, size, seed):
    g = seeded(seed)
    theta, gradient = torch.randn(2, runs, size, generator=g)
    eta, decay, clip = torch.rand(3, runs, generator=g)
    new, clipped = update(theta, gradient, eta=eta, weight_decay=decay, clip_norm=2 * clip)
    for k in range(runs):
        norm = math.sqrt(sum(x * x for x in gradient[k].tolist()))
        scale = min(1.0, 2 * clip[k].item() / norm)
        for i in range(size):
            slope = scale * gradient[k, i].item() + decay[k].item() * theta[k, i].item()
            assert abs(new[k, i].item() - (theta[k, i].item() - eta[k].item() * slope)) < 1e-14
        assert clipped[k].item() == (norm > 2 * clip[k].item())


def test_an_update_clips_neither_at_the_bound_nor_a_gradient_of_zero():
    theta, gradient = torch.ones(2, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    new, clipped = update(
        theta, gradient, eta=torch.ones(2), weight_decay=torch.zeros(2), clip_norm=torch.tensor([5.0, 0.0])
    )
    assert new.tolist() == [[-2.0, -3.0], [1.0, 1.0]]
    assert clipped.tolist() == [False, False]


# ------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, r"^n must be at least 1, got 0"),
        ({"batch_size": 0}, r"^batch_size must lie in 1\.\.n = 6, got 0"),
        ({"batch_size": 7, "sampling": "iid"}, r"^batch_size must lie in 1\.\.n = 6, got 7"),
        ({"num_steps": -1}, r"^num_steps must not be negative, got -1"),
        ({"sampling": "shuffle"}, r"^sampling must be one of .*'cyclic'.* got 'shuffle'"),
        ({"sampling": "full"}, r"^batch_size must be n = 6 for sampling='full', got 2"),
        ({"batch_size": 4}, r"^batch_size must divide n = 6 for sampling='without_replacement', got 4"),
        ({"batch_size": 4, "sampling": "cyclic"}, r"^batch_size must divide n = 6 for sampling='cyclic', got 4"),
    ],
)
def test_batches_that_do_not_fit_are_refused_by_name_and_value(change, message):
    asked = {"n": 6, "batch_size": 2, "num_steps": 3, "sampling": "without_replacement"} | change
    with pytest.raises(ValueError, match=message):
        draw_batches(**asked, generator=seeded(0))


@pytest.mark.parametrize("sampling", ["subsets", "iid"])
def test_only_samplers_that_work_in_epochs_need_a_divisor(sampling):
    assert drawn(6, 4, 3, sampling).shape == (3, 4)


@pytest.mark.parametrize(
    ("n", "batch_size", "message"),
    [
        (0, 1, r"^n must be at least 1, got 0"),
        (4, 0, r"^batch_size must lie in 1\.\.n = 4, got 0"),
        (4, 5, r"^batch_size must lie in 1\.\.n = 4, got 5"),
        (4, 3, r"^batch_size must divide n = 4, got 3"),
        (9, 1, r"^n = 9 with batch_size = 1 has 362880 orders, more than 100,000"),
    ],
)
def test_epochs_that_cannot_be_listed_are_refused_by_name_and_value(n, batch_size, message):
    with pytest.raises(ValueError, match=message):
        all_epochs(n, batch_size=batch_size)


@pytest.mark.parametrize("eta", [0.0, -0.1, math.nan])
def test_a_learning_rate_that_is_not_positive_is_refused(eta):
    with pytest.raises(ValueError, match=f"^eta must be positive, got {eta}"):
        descend(gradient_by_hand, START, BATCHES["iid"], eta=eta)


def test_a_gradient_of_another_shape_is_refused_not_broadcast():
    with pytest.raises(ValueError, match=r"gradient must return theta's shape \(2,\), got \(\)"):
        descend(lambda theta, batch: theta.sum(), torch.ones(2), torch.zeros(1, 1), eta=0.1)
