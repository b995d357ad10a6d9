"""The wave against the paper's own field, and against what any wave in a box obeys."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import waves
from helpers.data.waves import COURANT_SQUARED, coarse_cell, every_source, wave_field

GOLDEN = Path(__file__).parents[1] / "golden" / "ttfs_skip.npz"

quick = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in ("wave_0", "wave_0_src", "wave_0_bin9", "wave_0_bin36")}


def test_golden_field(golden):
    field = wave_field(64, golden["wave_0_src"], 100)
    assert field.dtype == np.float64
    # The reference's first axis is x, ours is y as in every other image.
    # The file is float32; the page says that a rewrite of its making agreed to 4e-9.
    np.testing.assert_allclose(field.T, golden["wave_0"], rtol=0, atol=1e-6)


def test_golden_tells_steps_and_axes_apart(golden):
    # Otherwise its agreement above would prove neither.
    source = golden["wave_0_src"]
    for other in (wave_field(64, source, 99), wave_field(64, source, 101), wave_field(64, source[::-1], 100)):
        assert np.abs(other.T - golden["wave_0"]).max() > 1e-2


def test_golden_cells(golden):
    assert coarse_cell(golden["wave_0_src"], 64, 3) == golden["wave_0_bin9"]
    assert coarse_cell(golden["wave_0_src"], 64, 6) == golden["wave_0_bin36"]


def test_the_first_field_is_the_bump():
    field = wave_field(9, (3, 5), 1)
    bump = np.exp(-np.array([2, 1, 2, 1, 0, 1, 2, 1, 2]) / 2).reshape(3, 3)
    np.testing.assert_array_equal(field[4:7, 2:5], bump)  # [y, x]
    assert field.sum() == pytest.approx(bump.sum())


@pytest.mark.parametrize("steps", [2, 30, 120])
def test_a_source_in_the_middle_has_a_symmetric_field(steps):
    field = wave_field(21, (10, 10), steps)
    for turned in (field[::-1], field[:, ::-1], field.T):
        np.testing.assert_allclose(field, turned, rtol=0, atol=1e-13)


@quick
@given(st.integers(2, 17), st.integers(2, 17), st.integers(1, 60))
def test_mirrored_source_mirrored_field(x, y, steps):
    field = wave_field(20, (x, y), steps)
    np.testing.assert_allclose(wave_field(20, (19 - x, y), steps), field[:, ::-1], rtol=0, atol=1e-13)
    np.testing.assert_allclose(wave_field(20, (y, x), steps), field.T, rtol=0, atol=1e-13)


@quick
@given(st.integers(2, 28), st.integers(2, 28), st.integers(1, 40))
def test_nothing_is_felt_outside_the_light_cone_nor_on_the_boundary(x, y, steps):
    field = wave_field(31, (x, y), steps)
    down, right = np.abs(np.arange(31) - y)[:, None], np.abs(np.arange(31) - x)[None, :]
    # Each update reaches one of the four neighbours; the bump itself is 3×3.
    away = np.maximum(down - 1, 0) + np.maximum(right - 1, 0)
    assert not field[away > steps - 1].any()
    assert not (field[[0, -1]].any() or field[:, [0, -1]].any())
    if 2 <= steps <= min(x, y, 30 - x, 30 - y) - 1:
        # Until it meets the wall the front is there, so the cone is not merely wide.
        assert field[away == steps - 1].all()


def test_energy_is_conserved():
    # ‖u⁺ - u‖² + c²⟨∇u⁺, ∇u⟩ is the same between any two steps of this scheme, walls and all.
    def energy(steps):
        now, after = wave_field(24, (7, 15), steps), wave_field(24, (7, 15), steps + 1)
        slopes = sum((np.diff(now, axis=axis) * np.diff(after, axis=axis)).sum() for axis in (0, 1))
        return ((after - now) ** 2).sum() + COURANT_SQUARED * slopes

    first = energy(1)
    assert first > 0.1
    assert [energy(steps) for steps in (2, 10, 100, 500)] == pytest.approx([first] * 4, rel=1e-10)


def test_a_batch_gives_what_each_source_gives():
    sources = every_source(5, 8)
    fields = wave_field(16, sources, 25)
    assert fields.shape == (16, 16, 16)
    for source, field in zip(sources, fields, strict=True):
        np.testing.assert_array_equal(wave_field(16, source, 25), field)


@pytest.mark.parametrize("chunk", [1, 3 * 256, 5 * 256 + 1])
def test_how_many_are_stepped_at_once_changes_nothing(monkeypatch, chunk):
    sources = every_source(4, 7)
    expected = wave_field(16, sources, 20)
    monkeypatch.setattr(waves, "_CHUNK", chunk)
    np.testing.assert_array_equal(wave_field(16, sources, 20), expected)


def test_whole_numbers_may_come_as_floats():
    np.testing.assert_array_equal(wave_field(12, [[4.0, 5.0]], 9)[0], wave_field(12, (4, 5), 9))


@pytest.mark.parametrize("grid, steps", [(4, 1), (0, 1), (16, 0), (16, -3)])
def test_too_small_a_grid_or_too_few_steps_are_refused(grid, steps):
    with pytest.raises(ValueError, match=f"grid is {grid}, steps {steps}, but at least"):
        wave_field(grid, (2, 2), steps)


@pytest.mark.parametrize(
    "sources", [3, [1, 2, 3], [[[5, 5]]], np.zeros((0, 2)), [5.5, 5], [math.nan, 5], [[5, 5], [5, 5.01]]]
)
def test_sources_that_are_no_pairs_of_whole_numbers_are_refused(sources):
    with pytest.raises(ValueError, match=r"whole numbers \(x, y\)"):
        wave_field(16, sources, 3)


@pytest.mark.parametrize("source", [(1, 5), (5, 1), (14, 5), (5, 14), (-3, 5)])
def test_sources_whose_bump_meets_the_boundary_are_refused(source):
    wave_field(16, [(2, 13), (13, 2)], 1)
    with pytest.raises(ValueError, match=r"must lie in \[2, 13\]"):
        wave_field(16, source, 3)


# ---------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("cells", [1, 3, 6, 64])
def test_cells_are_squares_in_column_order(cells):
    places = every_source(0, 63)
    labels = coarse_cell(places, 64, cells)
    by_hand = [int(x * cells / 64) * cells + int(y * cells / 64) for x, y in places.tolist()]
    assert labels.dtype == np.int64 and labels.tolist() == by_hand
    assert set(by_hand) == set(range(cells**2))


@pytest.mark.parametrize("source, cells", [((5, 5), 0), ((-1, 5), 3), ((5, 64), 3)])
def test_cells_off_the_grid_are_refused(source, cells):
    with pytest.raises(ValueError, match=f"cells is {cells}, .* grid of 64"):
        coarse_cell(source, 64, cells)


@pytest.mark.parametrize("low, high, count", [(10, 53, 1936), (5, 26, 484), (7, 7, 1)])
def test_every_source_comes_once(low, high, count):
    sources = every_source(low, high)
    assert sources.shape == (count, 2) and len({tuple(pair) for pair in sources.tolist()}) == count
    assert (sources.min(), sources.max()) == (low, high)
