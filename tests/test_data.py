"""The planted problem satisfies Assumption 1 to rounding, and is generic otherwise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import assumption1


def planted(n, d, r, seed=0):
    return assumption1(n, d, r, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, derandomize=True, database=None, max_examples=50)
@given(st.data())
def test_irrelevant_inputs_are_irrelevant_to_rounding(data):
    n = data.draw(st.integers(1, 60))
    d = data.draw(st.integers(1, n))
    r = data.draw(st.integers(0, d))
    X, y = planted(n, d, r, data.draw(st.integers(0, 1000)))
    assert (X.T @ X / n - torch.eye(d)).abs().max() < 1e-13  # E[x_i x_j] = 0, E[x_j^2] = 1
    relevant = (torch.arange(d) < r).double()
    assert (y @ X / n - relevant).abs().max() < 1e-13  # E[y x_j]


@pytest.mark.parametrize("r", [0, 1, 3, 5])
def test_the_target_is_the_sum_of_the_first_inputs(r):
    X, y = planted(20, 5, r)
    assert X.shape == (20, 5)
    assert y.shape == (20,)
    assert (y - sum((X[:, j] for j in range(r)), torch.zeros(20))).abs().max() < 1e-14


def test_the_data_are_float64_whatever_the_default():
    torch.set_default_dtype(torch.float32)
    X, y = planted(10, 3, 1)
    assert X.dtype == y.dtype == torch.float64


def test_higher_moments_stay_generic():
    X, y = planted(50, 4, 2)
    third = torch.einsum("ni,nj,nk->ijk", X, X, X) / 50
    assert third.abs().min() > 1e-4
    assert X.mean(dim=0).abs().min() > 1e-4


def test_the_data_come_from_the_generator_alone():
    state = torch.get_rng_state()
    X, _ = planted(10, 3, 1, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(planted(10, 3, 1, seed=1)[0], X)
    assert not torch.equal(planted(10, 3, 1, seed=2)[0], X)


@pytest.mark.parametrize(
    ("n", "d", "r", "message"),
    [
        (4, 5, 1, r"^d must lie in 1\.\.n = 4, got 5"),
        (4, 0, 0, r"^d must lie in 1\.\.n = 4, got 0"),
        (4, 3, 4, r"^r must lie in 0\.\.d = 3, got 4"),
        (4, 3, -1, r"^r must lie in 0\.\.d = 3, got -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name_and_value(n, d, r, message):
    with pytest.raises(ValueError, match=message):
        planted(n, d, r)
