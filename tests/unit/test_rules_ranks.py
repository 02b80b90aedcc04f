"""Mann and Whitney's test: against published examples and tables, and its own laws."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.rules.ranks import mann_whitney

DISTINCT = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=30)
TIED = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=60)


def test_the_permeability_of_placentas_as_hollander_and_wolfe_have_it() -> None:
    """Nonparametric Statistical Methods (1973), p. 69; R's `wilcox.test` says W = 35, p = 0.1272 one-sided."""
    term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    earlier = [1.15, 0.88, 0.90, 0.74, 1.21]
    found = mann_whitney(term, earlier)
    assert found.u == 35
    assert found.p / 2 == pytest.approx(0.1272, abs=5e-5)


def test_the_ages_of_scipys_own_example() -> None:
    """https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.mannwhitneyu.html"""
    found = mann_whitney([19, 22, 16, 29, 24], [20, 11, 17, 12])
    assert found.u == 17
    assert found.p == pytest.approx(1 / 9)


def test_aesops_tortoises_and_hares() -> None:
    """https://en.wikipedia.org/wiki/Mann%E2%80%93Whitney_U_test: T H H H H H T T T T T H."""
    tortoises = [12.0, *map(float, range(2, 7))]
    hares = [1.0, *map(float, range(7, 12))]
    assert (mann_whitney(tortoises, hares).u, mann_whitney(hares, tortoises).u) == (11, 25)


@pytest.mark.parametrize(
    ("m", "n", "alpha", "critical"),
    [(5, 5, 0.05, 2), (8, 8, 0.05, 13), (10, 10, 0.05, 23), (12, 9, 0.05, 26), (20, 20, 0.05, 127), (10, 10, 0.01, 16)],
)
def test_the_printed_tables_of_critical_values(m: int, n: int, alpha: float, critical: int) -> None:
    """Two-sided, as in Milton (1964) and every textbook since: at the critical value it is significant, above not."""
    assert _p_of(critical, m, n) <= alpha < _p_of(critical + 1, m, n)


def _p_of(u: int, m: int, n: int) -> float:
    """The test of samples that have this U: as many of the first as possible above all of the second."""
    whole, rest = divmod(u, n)
    first = [*range(1000, 1000 + whole), *([rest + 0.5] if whole < m else []), *range(-m, -whole - 1)]
    found = mann_whitney(first, [float(value) for value in range(1, n + 1)])
    assert found.u == u
    return found.p


def test_small_samples_are_counted_one_by_one() -> None:
    first, second = [1.0, 4.0, 6.0], [2.0, 3.0, 5.0, 7.0]
    pooled = [*first, *second]

    def u_of(chosen: tuple[float, ...]) -> int:
        return sum(one > other for one in chosen for other in pooled if other not in chosen)

    all_u = [u_of(chosen) for chosen in combinations(pooled, 3)]
    seen = u_of(tuple(first))
    extreme = max(seen, 12 - seen)
    assert mann_whitney(first, second).p == min(1.0, 2 * sum(u >= extreme for u in all_u) / len(all_u))


@given(TIED, TIED)
def test_which_side_is_first_makes_no_difference(first: list[float], second: list[float]) -> None:
    one, other = mann_whitney(first, second), mann_whitney(second, first)
    assert one.u + other.u == len(first) * len(second)
    assert one.p == other.p
    assert 0 < one.p <= 1


@given(TIED, TIED, st.floats(0.5, 100), st.integers(-50, 50))
def test_only_the_order_counts(first: list[float], second: list[float], scale: float, shift: int) -> None:
    def moved(values: list[float]) -> list[float]:
        return [value * scale + shift for value in values]

    assert mann_whitney(moved(first), moved(second)) == mann_whitney(first, second)


def test_equal_samples_do_not_differ() -> None:
    assert mann_whitney([1.0] * 30, [1.0] * 40).p == 1
    assert mann_whitney([1.0], [1.0]).p == 1


def test_the_farther_apart_the_less_likely() -> None:
    base = [float(n) for n in range(40)]
    chances = [mann_whitney([value + shift + 0.5 for value in base], base).p for shift in range(0, 40, 4)]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] < 1e-10
