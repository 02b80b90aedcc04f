"""Mann and Whitney's test gives what a published implementation gives, whatever the samples."""

import pytest
from hypothesis import given
from scipy.stats import mannwhitneyu

from rollbackd.rules.ranks import mann_whitney
from tests.unit.test_rules_ranks import DISTINCT, TIED


@given(DISTINCT, DISTINCT)
def test_samples_without_ties_give_what_scipy_gives(first: list[float], second: list[float]) -> None:
    if len({*first, *second}) < len(first) + len(second):
        return
    ours = mann_whitney(first, second)
    exact = len(first) * len(second) <= 400
    theirs = mannwhitneyu(first, second, method="exact" if exact else "asymptotic")
    assert ours.u == theirs.statistic
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-300)


@given(TIED, TIED)
def test_samples_with_ties_give_what_scipy_gives(first: list[float], second: list[float]) -> None:
    different = {*first, *second}
    if len(different) == 1 or len(different) == len(first) + len(second):
        return
    ours, theirs = mann_whitney(first, second), mannwhitneyu(first, second, method="asymptotic")
    assert ours.u == theirs.statistic
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
