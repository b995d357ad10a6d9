"""A number that must be whole is one, or one sentence says why not."""

import numpy as np
import pytest

from helpers.data.checks import whole


@pytest.mark.parametrize("value", [1, 3, np.int64(3), 10])
def test_whole_numbers_in_range_pass(value):
    assert whole("rank", value, 1, 10) == value and type(whole("rank", value)) is int


@pytest.mark.parametrize("value", [0, -1, 11, 2.0, 2.5, "3", None, True, float("nan")])
def test_anything_else_is_named(value):
    with pytest.raises(ValueError, match=r"rank is .*, but it must be a whole number in \[1, 10\]"):
        whole("rank", value, 1, 10)


def test_without_an_upper_end():
    with pytest.raises(ValueError, match="rank is 0, but it must be a whole number of at least 1"):
        whole("rank", 0)
