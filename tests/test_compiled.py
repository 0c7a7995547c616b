"""The random numbers of the compiled path against their laws, and which models it takes."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import nn

from lib import compiled
from lib.compiled import LABELS, ORDER, PARAMETERS
from lib.models import DeepLinear, Diagonal, DiagonalReLU, Product, ReLU, initialise, normal


def streams(seeds) -> np.ndarray:
    started = np.zeros((len(seeds), 3), dtype=np.uint64)
    compiled.seed_streams(np.asarray(seeds, dtype=np.uint64), started)
    return started


def normals(seeds, k: int, steps: int, count: int) -> np.ndarray:
    """Shape (steps, runs, count)."""
    out = np.zeros((steps, len(seeds), count))
    compiled.draw_normals(streams(seeds), k, out, np.full(steps, count))
    return out


# ------------------------------------------------------------------------------- random numbers
def test_the_generator_is_splitmix64():
    """The first outputs from state 0, by the arithmetic of unbounded integers."""
    own, mask, state = np.zeros(3, dtype=np.uint64), 2**64 - 1, 0
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        assert int(compiled.next64(own, ORDER)) == z ^ (z >> 31)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
def test_integers_below_n_are_uniform(n):
    own = streams([0])[0]
    counts = np.bincount([compiled.below(own, n) for _ in range(7_000)], minlength=n)
    assert len(counts) == n
    assert n == 1 or chisquare(counts).pvalue > 1e-3


def test_integers_below_a_large_n_are_uniform_too():
    """For n = 3 * 2^30, multiplying without rejection gives half of all draws the residue 0 modulo 3."""
    own = streams([0])[0]
    draws = np.array([compiled.below(own, 3 * 2**30) for _ in range(6_000)])
    assert draws.min() >= 0
    assert draws.max() < 3 * 2**30
    assert chisquare(np.bincount(draws % 3, minlength=3)).pvalue > 1e-3


@pytest.mark.parametrize("stream", [LABELS, PARAMETERS])
def test_normals_are_standard_normal(stream):
    z = normals(range(200), stream, 10, 25)  # 25 is odd: the last pair of a step is cut
    assert kstest(z.ravel(), "norm").pvalue > 1e-3
    for k, (moment, error) in enumerate([(0, 1), (1, math.sqrt(2)), (0, math.sqrt(15)), (3, math.sqrt(96))], start=1):
        assert abs((z**k).mean() - moment) < 4 * error / math.sqrt(z.size)
    assert kstest(z[..., 0].ravel(), "norm").pvalue > 1e-3
    assert kstest(z[..., -1].ravel(), "norm").pvalue > 1e-3


def test_normals_of_a_pair_of_a_step_and_of_a_run_are_independent():
    z = normals(range(100), LABELS, 20, 50)
    pairs = [(z[..., ::2], z[..., 1::2]), (z[:-1], z[1:]), (z[:, :-1], z[:, 1:])]  # runs of neighbouring seeds
    for a, b in pairs:
        for f in (lambda v: v, lambda v: v**2 - 1):  # sizes are independent too, not only uncorrelated
            product = f(a) * f(b)
            assert abs(product.mean()) < 4 * product.std() / math.sqrt(product.size)


def test_the_streams_of_a_run_are_independent():
    labels, moves = normals(range(100), LABELS, 20, 50), normals(range(100), PARAMETERS, 20, 50)
    product = labels * moves
    assert abs(product.mean()) < 4 / math.sqrt(product.size)
    assert len(set(streams(range(1_000)).ravel().tolist())) == 3_000


def test_normals_stay_within_their_row():
    out = np.full((2, 1, 4), 7.0)
    compiled.draw_normals(streams([0]), LABELS, out, np.array([3, 0]))
    assert (out[0, 0, :3] != 7.0).all()
    assert out[0, 0, 3] == 7.0
    assert (out[1] == 7.0).all()


# ---------------------------------------------------------------------------- which models it takes
class Shifted(DeepLinear):
    def forward(self, X):
        return super().forward(X) + 1.0


class Renamed(Diagonal):
    pass


TAKEN = [
    DeepLinear((4, 1)),
    DeepLinear((4, 5, 3, 1)),
    Diagonal(4, 1),
    Diagonal(17, 3),
    Product(),
    ReLU((1, 1), biases=True),
    ReLU((1, 7, 5, 1), biases=True),
    ReLU((1, 17, 1), biases=False),
    ReLU((5, 17, 4, 1), biases=True),
]
LEFT = [
    DeepLinear((4, 5, 2)),
    ReLU((1, 5, 2), biases=True),
    DiagonalReLU(4, 2),
    Shifted((4, 1)),
    Renamed(4, 2),
    nn.Linear(4, 1),
]


@pytest.mark.parametrize("model", TAKEN, ids=str)
def test_a_layout_has_a_place_of_its_own_for_each_parameter(model):
    layout = compiled.layout_of(initialise(model, normal(1.0), generator=torch.Generator().manual_seed(0)))
    count = sum(p.numel() for p in model.parameters())
    assert len(layout.entries) == len(set(layout.entries.tolist())) == count
    assert layout.mask.sum() == count
    assert (layout.mask[layout.entries] == 1.0).all()


@pytest.mark.parametrize("model", TAKEN, ids=str)
def test_a_layout_knows_which_parameters_are_trained(model):
    first = next(model.parameters()).requires_grad_(False)
    layout = compiled.layout_of(model)
    first.requires_grad_(True)
    trained = [p.requires_grad for p in model.parameters() for _ in range(p.numel())]
    assert layout.mask[layout.entries].tolist() == [0.0] * first.numel() + [1.0] * (len(trained) - first.numel())
    assert layout.frozen


@pytest.mark.parametrize("model", LEFT, ids=lambda v: type(v).__name__)
def test_other_models_are_left_to_torch(model):
    assert compiled.layout_of(model) is None
