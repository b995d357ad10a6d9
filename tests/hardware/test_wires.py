"""Wires with resistance: three ways to one answer, Kirchhoff's laws by hand, the page's losses, and what is refused."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware import wires
from helpers.hardware.wires import effective_conductance, ir_drop_currents, node_voltages

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)
SIDES = st.integers(1, 6)
OHMS = st.sampled_from([1e-3, 0.5, 5.0, 100.0, 3e3, 1e5])
ON, OFF, VOLTS = 1 / 20e3, 1 / 200e3, 0.1


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def array(*shape, seed=0, open_cells=0.2):
    """Conductances between off and on, some cells not there at all."""
    g = OFF + (ON - OFF) * torch.rand(*shape, generator=source(seed), dtype=torch.float64)
    return g * (torch.rand(*shape, generator=source(seed + 1)) >= open_cells)


def half_on(n, seed=0):
    """Half of the cells at 20 kΩ, half at 200 kΩ."""
    order = torch.randperm(n * n, generator=source(seed)).view(n, n)
    return torch.where(order < n * n // 2, ON, OFF).double()


def driven(*shape, seed=0):
    return VOLTS * (2 * torch.rand(*shape, generator=source(seed + 2), dtype=torch.float64) - 1)


def close(found, expected, tolerance=1e-8):
    scale = expected.abs().max().item() or 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


# ----------------------------------------------------------------------------------------------------- three ways


@quick
@given(SIDES, SIDES, OHMS, st.sampled_from([0.0, 0.3, 1.0]), SEEDS)
def test_fixed_point_nodal_solution_and_matrix_agree(n, m, ohms, open_cells, seed):
    g, v = array(n, m, seed=seed, open_cells=open_cells), driven(n, seed=seed)
    nodal = ir_drop_currents(g, v, ohms, "nodal")
    assert nodal.shape == (m,) and nodal.dtype == torch.float64
    close(ir_drop_currents(g, v, ohms), nodal)
    close(v @ effective_conductance(g, ohms), nodal)
    for found, expected in zip(node_voltages(g, v, ohms), node_voltages(g, v, ohms, "nodal"), strict=True):
        assert found.shape == (n, m)
        close(found, expected)


@pytest.mark.parametrize("n, m", [(64, 64), (48, 7), (5, 40)])
@pytest.mark.parametrize("ohms", [1.0, 5.0])
def test_arrays_of_the_usual_size_agree_too(n, m, ohms):
    g, v = array(n, m), driven(n)
    nodal = ir_drop_currents(g, v, ohms, "nodal")
    close(ir_drop_currents(g, v, ohms), nodal)
    close(v @ effective_conductance(g, ohms), nodal)


@pytest.mark.parametrize("method", ["fixed", "nodal"])
def test_leading_dimensions_are_solved_one_by_one(method):
    g, v = array(2, 3, 4, 5), driven(2, 3, 4)
    found = ir_drop_currents(g, v, 20.0, method)
    assert found.shape == (2, 3, 5)
    for i in range(2):
        for j in range(3):
            close(found[i, j], ir_drop_currents(g[i, j], v[i, j], 20.0, method))
            close(effective_conductance(g, 20.0)[i, j], effective_conductance(g[i, j], 20.0))


@pytest.mark.parametrize("method", ["fixed", "nodal"])
def test_one_array_answers_many_inputs_and_one_input_asks_many_arrays(method):
    g, v = array(4, 5), driven(6, 4)
    found = ir_drop_currents(g, v, 20.0, method)
    assert found.shape == (6, 5)
    close(found, v @ effective_conductance(g, 20.0))
    many = array(3, 4, 5)
    close(ir_drop_currents(many, v[0], 20.0, method), v[0] @ effective_conductance(many, 20.0))


@pytest.mark.parametrize("n, ohms", [(1, 1e4), (16, 1.0), (16, 100.0), (64, 1.0), (64, 10.0)])
def test_a_fixed_point_of_usual_wires_comes_to_rest_by_itself(n, ohms, monkeypatch):
    monkeypatch.setattr(wires, "_nodal", None)
    for g in (half_on(n), torch.full((n, n), ON, dtype=torch.float64), half_on(n)[: n // 4 + 1], half_on(n)[:, -1:]):
        v = driven(len(g))
        close(ir_drop_currents(g, v, ohms), v @ effective_conductance(g, ohms))


@pytest.mark.parametrize("ohms", [1e5, 1e6])
def test_a_fixed_point_that_does_not_come_to_rest_is_left_to_the_nodal_solver(ohms, monkeypatch):
    calls, real = [], wires._nodal
    monkeypatch.setattr(wires, "_nodal", lambda *arguments: calls.append(1) or real(*arguments))
    g, v = half_on(16), torch.full((16,), VOLTS, dtype=torch.float64)
    found = ir_drop_currents(g, v, ohms)
    assert calls and found.isfinite().all()
    close(found, v @ effective_conductance(g, ohms))
    calls.clear()
    ir_drop_currents(g, v, 1.0)
    assert not calls


# ------------------------------------------------------------------------------------------------ Kirchhoff by hand


@pytest.mark.parametrize("method", ["fixed", "nodal"])
def test_one_cell_and_two_pieces_of_wire_are_resistors_in_a_row(method):
    g, v = torch.tensor([[ON]], dtype=torch.float64), torch.tensor([VOLTS], dtype=torch.float64)
    current = VOLTS / (1 / ON + 2 * 50)
    assert ir_drop_currents(g, v, 50.0, method).item() == pytest.approx(current, rel=1e-10)
    row, column = node_voltages(g, v, 50.0, method)
    assert row.item() == pytest.approx(VOLTS - 50 * current) and column.item() == pytest.approx(50 * current)
    assert effective_conductance(g, 50.0).item() == pytest.approx(1 / (1 / ON + 100))


def test_four_cells_against_eight_equations_written_down():
    g, v, r = np.array([[4e-5, 1e-5], [2e-5, 5e-5]]), np.array([0.1, 0.07]), 1e3
    # Unknown: a b on the first row, c d on the second; A B, C D on the columns under them.
    a, b, c, d, A, B, C, D = range(8)
    balance, right = np.zeros((8, 8)), np.zeros(8)
    for one, other, siemens in [
        (a, b, 1 / r), (c, d, 1 / r), (A, C, 1 / r), (B, D, 1 / r),
        (a, A, g[0, 0]), (b, B, g[0, 1]), (c, C, g[1, 0]), (d, D, g[1, 1]),
    ]:  # fmt: skip
        for node, neighbour in ((one, other), (other, one)):
            balance[node, node] += siemens
            balance[node, neighbour] -= siemens
    for node, volts in ((a, v[0]), (c, v[1]), (C, 0.0), (D, 0.0)):
        balance[node, node] += 1 / r
        right[node] += volts / r
    found = np.linalg.solve(balance, right)
    for method in ("fixed", "nodal"):
        row, column = node_voltages(torch.from_numpy(g), torch.from_numpy(v), r, method)
        np.testing.assert_allclose(row.flatten(), found[:4], rtol=1e-9)
        np.testing.assert_allclose(column.flatten(), found[4:], rtol=1e-9)
        currents = ir_drop_currents(torch.from_numpy(g), torch.from_numpy(v), r, method)
        np.testing.assert_allclose(currents, found[[C, D]] / r, rtol=1e-9)


@quick
@given(SIDES, SIDES, OHMS, st.sampled_from(["fixed", "nodal"]), SEEDS)
def test_what_flows_into_a_node_flows_out(n, m, ohms, method, seed):
    g, v = array(n, m, seed=seed), driven(n, seed=seed)
    row, column = node_voltages(g, v, ohms, method)
    current = (g * (row - column)).tolist()
    row, column, v = row.tolist(), column.tolist(), v.tolist()
    accuracy = 1e-8 * VOLTS / ohms
    for i in range(n):
        for j in range(m):
            left = v[i] if j == 0 else row[i][j - 1]
            onward = (row[i][j] - row[i][j + 1]) / ohms if j + 1 < m else 0
            assert (left - row[i][j]) / ohms == pytest.approx(current[i][j] + onward, abs=accuracy)
            above = (column[i - 1][j] - column[i][j]) / ohms if i else 0
            below = column[i + 1][j] if i + 1 < n else 0
            assert (column[i][j] - below) / ohms == pytest.approx(current[i][j] + above, abs=accuracy)


def test_circuit_is_linear_in_its_voltages():
    g, one, other = array(5, 4), driven(5), driven(5, seed=9)
    both = ir_drop_currents(g, 2 * one - other, 100.0)
    close(both, 2 * ir_drop_currents(g, one, 100.0) - ir_drop_currents(g, other, 100.0))
    assert not ir_drop_currents(g, torch.zeros(5), 100.0).any()


# ------------------------------------------------------------------------------------------------------------- losses


@quick
@given(SIDES, SIDES, SEEDS)
def test_currents_are_at_most_ideal_fall_with_resistance_and_reach_it_without(n, m, seed):
    g, v = array(n, m, seed=seed), driven(n, seed=seed).abs()
    ideal = v @ g
    before = ideal
    for ohms in (1e-6, 0.1, 1.0, 10.0, 300.0, 1e4):
        now = ir_drop_currents(g, v, ohms)
        assert (now <= before + 1e-15).all() and (now >= 0).all()
        before = now
    close(ir_drop_currents(g, v, 1e-6), ideal, 1e-8)
    assert torch.equal(ir_drop_currents(g, v, 0.0), (g * v[:, None]).sum(0))
    assert torch.equal(effective_conductance(g, 0.0), g)


@pytest.mark.parametrize(
    "ohms, losses",
    [(1.0, {16: 0.005, 32: 0.019, 64: 0.068, 128: 0.22}), (5.0, {16: 0.027, 32: 0.094, 64: 0.28, 128: 0.59})],
)
def test_published_losses(ohms, losses):
    for n, loss in losses.items():
        g, v = half_on(n), torch.full((n,), VOLTS, dtype=torch.float64)
        ideal = v @ g
        found = 1 - (ir_drop_currents(g, v, ohms) / ideal).mean().item()
        assert found == pytest.approx(loss, rel=0.1, abs=0.002)
    assert list(losses.values()) == sorted(losses.values())


def test_far_corner_loses_most():
    g = torch.full((32, 32), ON, dtype=torch.float64)
    kept = effective_conductance(g, 1.0) / g
    assert (kept.diff(dim=0) > 0).all() and (kept.diff(dim=1) < 0).all()  # near the ground, near the driver
    assert kept.argmax() == 31 * 32 and kept.argmin() == 31  # bottom left, top right
    row, column = node_voltages(g, torch.full((32,), VOLTS), 1.0)
    assert (row.diff(dim=1) < 0).all() and (column.diff(dim=0) < 0).all()
    assert (row <= VOLTS * (1 + 1e-6)).all() and (column >= 0).all() and (row > column).all()


def test_without_wires_rows_stand_at_their_drivers_and_columns_at_ground():
    g, v = array(3, 4), driven(3)
    for method in wires.METHODS:
        row, column = node_voltages(g, v, 0.0, method)
        assert torch.equal(row, v[:, None].expand(3, 4)) and not column.any()


def test_answers_are_float64_and_nothing_given_is_changed():
    g, v = array(3, 4).float(), driven(3).float()
    before = g.clone(), v.clone()
    assert ir_drop_currents(g, v, 1.0).dtype == effective_conductance(g, 1.0).dtype == torch.float64
    assert effective_conductance(g, 0.0).dtype == node_voltages(g, v, 0.0)[0].dtype == torch.float64
    assert torch.equal(g, before[0]) and torch.equal(v, before[1])


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [-1e-6, math.nan, math.inf])
def test_conductances_that_cannot_be_are_refused(value):
    g = array(2, 3)
    g[1, 2] = value
    for ask in (lambda: ir_drop_currents(g, driven(2), 1.0), lambda: effective_conductance(g, 1.0)):
        with pytest.raises(ValueError, match=r"conductances are \(2, 3\), but must be .* finite and at least 0"):
            ask()
    with pytest.raises(ValueError, match=r"conductances are \(3,\), but must be \[..., rows, columns\]"):
        effective_conductance(torch.ones(3), 1.0)


@pytest.mark.parametrize("ohms", [-1.0, math.nan, math.inf])
def test_resistances_that_cannot_be_are_refused(ohms):
    for ask in (
        lambda: ir_drop_currents(array(2, 3), driven(2), ohms),
        lambda: effective_conductance(array(2, 3), ohms),
    ):
        with pytest.raises(ValueError, match=f"wire_ohm is {ohms}, but a resistance must be finite and at least 0"):
            ask()


def test_unknown_methods_are_refused(refused):
    with refused("method is 'spice' and .* the method must be one of fixed, nodal"):
        ir_drop_currents(array(2, 3), driven(2), 1.0, "spice")


@pytest.mark.parametrize("method", ["fixed", "nodal"])
@pytest.mark.parametrize("ohms", [0.0, 1.0])
@pytest.mark.parametrize(
    "cells, volts",
    [
        ((2, 3), ()),
        ((2, 3), (3,)),
        ((2, 3), (2, 1)),
        ((4, 2, 3), (3, 2)),
        ((4, 5, 2, 3), (4, 2)),
        ((4, 5, 2, 3), (5, 4, 2)),
    ],
    ids=str,
)
def test_voltages_that_do_not_fit_are_refused(cells, volts, ohms, method, refused):
    with refused(re.escape(f"there are {volts} voltages for {cells} cells, but ") + ".* every row needs a finite volt"):
        ir_drop_currents(array(*cells), torch.full(volts, 0.1), ohms, method)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_voltages_that_cannot_be_are_refused(value, refused):
    v = driven(4, 2)
    v[3, 1] = value
    for method in wires.METHODS:
        for ask in (ir_drop_currents, node_voltages):
            for ohms in (0.0, 1.0):
                with refused("every row needs a finite voltage"):
                    ask(array(2, 3), v, ohms, method)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3), (0, 2, 3)])
def test_arrays_without_cells_are_refused(shape, refused):
    for ask in (lambda g: effective_conductance(g, 1.0), lambda g: ir_drop_currents(g, torch.zeros(shape[:-1]), 1.0)):
        with refused(re.escape(f"conductances are {shape}, but must be [..., rows, columns]")):
            ask(torch.ones(shape))


@pytest.mark.parametrize(
    "cells, volts, currents",
    [((2, 3), (5, 2), (5, 3)), ((4, 1, 2, 3), (5, 2), (4, 5, 3)), ((4, 2, 3), (6, 1, 2), (6, 4, 3))],
    ids=str,
)
def test_leading_dimensions_that_broadcast_are_allowed(cells, volts, currents):
    for method in wires.METHODS:
        for ohms in (0.0, 20.0):
            g, v = array(*cells), driven(*volts)
            found = ir_drop_currents(g, v, ohms, method)
            assert found.shape == currents
            close(found, (v.unsqueeze(-2) @ effective_conductance(g, ohms)).squeeze(-2))
