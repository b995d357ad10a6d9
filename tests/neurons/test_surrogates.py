"""What stands in for the derivative of a step: its area, its height, its tails, and its peers."""

import math

import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.neurons.surrogates import atan, derivative, rectangle, sigmoid, triangle

MAKERS = {"atan": atan, "sigmoid": sigmoid, "rectangle": rectangle, "triangle": triangle}
WIDTHS = [0.5, 1.0, 2.0, 4.0]
quick = settings(max_examples=50, deadline=None, derandomize=True)


def area(surrogate, half_width, cells=200_001):
    """Midpoint rule over [-half_width, half_width]; an odd number of cells puts one on the threshold."""
    edges = torch.linspace(-half_width, half_width, cells + 1, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    return float(derivative(surrogate, middles).sum()) * 2 * half_width / cells


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["sigmoid", "rectangle", "triangle"])
def test_area_is_one_so_it_is_the_derivative_of_a_smoothed_step(name, width):
    assert area(MAKERS[name](width), 100.0) == pytest.approx(1, abs=1e-2 if name == "rectangle" else 1e-6)


@pytest.mark.parametrize("alpha", WIDTHS)
def test_area_of_atan_is_one_only_with_its_heavy_tails(alpha):
    # 2/pi * arctan(pi/2 * alpha * d) of it lies within d of the threshold: a share of about 4 / (pi^2 alpha d) beyond.
    for reach in (1.0, 100.0):
        expected = 2 / math.pi * math.atan(math.pi / 2 * alpha * reach)
        assert area(atan(alpha), reach) == pytest.approx(expected, abs=1e-6)
    assert 0.99 < expected < 1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "name, height",
    [
        ("atan", lambda a: a / 2),
        ("sigmoid", lambda a: a / 4),
        ("rectangle", lambda w: 1 / w),
        ("triangle", lambda g: 1 / g),
    ],
)
def test_height_at_the_threshold(name, height, width):
    assert float(derivative(MAKERS[name](width), torch.zeros(1))) == pytest.approx(height(width), rel=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_both_sides_of_the_threshold_count_the_same_and_less_with_distance(name):
    distance = torch.linspace(0, 5, 501, dtype=torch.float64)
    right, left = derivative(MAKERS[name](), distance), derivative(MAKERS[name](), -distance)
    torch.testing.assert_close(left, right, rtol=0, atol=1e-14)
    assert (right.diff() <= 0).all() and (right >= 0).all()


def test_rectangle_ends_before_its_edge():
    edge = torch.tensor([-0.5, math.nextafter(0.5, 0), 0.5], dtype=torch.float64)
    assert derivative(rectangle(1.0), edge).tolist() == [0, 1, 0]


def test_triangle_is_zero_from_gamma_on():
    assert derivative(triangle(2.0), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0.25, 0.5, 0.25, 0]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "ours, theirs", [(atan, snntorch.surrogate.atan), (sigmoid, snntorch.surrogate.sigmoid)], ids=["atan", "sigmoid"]
)
def test_equals_snntorchs(ours, theirs, width):
    distance = torch.linspace(-5, 5, 1001, dtype=torch.float64, requires_grad=True)
    theirs(width)(distance).sum().backward()
    torch.testing.assert_close(derivative(ours(width), distance.detach()), distance.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@quick
@given(distance=st.floats(-(2.0**100), 2.0**100, width=32), width=st.floats(0.01, 100))
def test_finite_and_at_most_its_height_however_far(name, dtype, distance, width):
    surrogate = MAKERS[name](width)
    slope = derivative(surrogate, torch.tensor([distance], dtype=dtype))
    assert slope.isfinite().all()
    assert 0 <= slope <= derivative(surrogate, torch.zeros(1, dtype=dtype)) * (1 + 1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_multiplies_upstream_and_leaves_it_as_it_was(name):
    # A backward pass may not write into the gradient it was given.
    distance = torch.linspace(-1, 1, 11, dtype=torch.float64)
    upstream = torch.arange(11.0, dtype=torch.float64)
    kept = upstream.clone()
    got = MAKERS[name]()(distance.clone(), upstream)
    torch.testing.assert_close(got, upstream * derivative(MAKERS[name](), distance), rtol=1e-12, atol=0)
    assert torch.equal(upstream, kept)
    assert got.data_ptr() != upstream.data_ptr()


@pytest.mark.parametrize("name", MAKERS)
def test_derivative_leaves_its_distance_as_it_was(name):
    distance = torch.linspace(-1, 1, 11)
    kept = distance.clone()
    derivative(MAKERS[name](), distance)
    assert torch.equal(distance, kept)


@pytest.mark.parametrize("width", [0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    "maker, argument", [(atan, "alpha"), (sigmoid, "alpha"), (rectangle, "width"), (triangle, "gamma")]
)
def test_a_width_that_is_none_is_refused(maker, argument, width):
    with pytest.raises(ValueError, match=rf"^{argument} is {width}, but .* finite number above 0"):
        maker(width)
