"""Means and deviations over seeds."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.lab.measures import mean_std, overlap_coefficient, percent

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=2, max_size=20))
def test_mean_and_sample_deviation_agree_with_the_standard_library(values):
    mean, std = mean_std(values)
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert std == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_a_single_value_has_no_spread():
    assert mean_std([3.0]) == (3.0, 0.0)


def test_seeds_come_first():
    mean, std = mean_std([[1, 2, 3], [3, 2, 5]])
    np.testing.assert_allclose(mean, [2, 2, 4])
    np.testing.assert_allclose(std, [2**0.5, 0, 2**0.5])


def test_another_axis_can_be_named():
    mean, std = mean_std([[1, 3], [2, 2], [3, 5]], axis=1)
    np.testing.assert_allclose(mean, [2, 2, 4])
    assert std.shape == (3,)


def test_a_single_seed_of_lists_has_no_spread():
    mean, std = mean_std([[1.0, 2.0]])
    assert mean.tolist() == [1, 2] and std.tolist() == [0, 0]


@pytest.mark.parametrize("values", [[], np.empty((0, 3)), 3.0], ids=["empty", "no seeds", "a number"])
def test_no_values_are_refused(values):
    with pytest.raises(ValueError, match="no values"):
        mean_std(values)


def test_percent_reads_like_this():
    # Mean 0.95; deviation sqrt((0.01² + 0.01²) / 1) = 0.0141.
    assert percent([0.94, 0.96]) == "95.0 ± 1.4 %" and percent([1.0]) == "100.0 ± 0.0 %"
    with pytest.raises(ValueError, match="no values"):
        percent([])


def test_overlap_by_hand():
    edges = [0, 1, 2, 3]
    assert overlap_coefficient([0.5, 1.5], [1.5, 2.5], edges) == 0.5
    assert overlap_coefficient([0.5, float("nan")], [0.2, 0.9], edges) == 1.0
    assert overlap_coefficient([0.5], [2.5], edges) == 0.0
    assert overlap_coefficient([], [2.5], edges) == 0.0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=20), st.lists(st.floats(0, 5), min_size=1, max_size=20))
def test_overlap_is_a_share_and_does_not_know_which_came_first(first, second):
    edges = np.linspace(0, 5, 8)
    share = overlap_coefficient(first, second, edges)
    assert 0 <= share <= 1 + 1e-12 and share == pytest.approx(overlap_coefficient(second, first, edges))
    assert overlap_coefficient(first, first, edges) == pytest.approx(1)
