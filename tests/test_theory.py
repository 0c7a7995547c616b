"""Each closed form against a route that does not know it."""

import itertools
from fractions import Fraction

import pytest

from lib.theory import finite_population


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
