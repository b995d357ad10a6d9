"""Wires have resistance: the drivers' voltage falls along a row, and the columns' ground rises.

Cell (i, j) joins row i to column j. A row is driven from the left, a column ends at the bottom in a ground; between
neighbours lies a piece of wire of r ohm, and one more between the driver and the first cell and between the last cell and
the ground. In equilibrium

    I = G ⊙ (V_row - V_col)
    V_row = V - r·cumsum_j(revcumsum_j I)          a row's wire carries all current that leaves it further right
    V_col = r·revcumsum_i(cumsum_i I)              a column's wire carries all current that came in further up

`fixed` goes round these three lines until nothing moves; `nodal` solves them as one sparse system. A circuit of resistors is
linear in its voltages, so it is itself a matrix: `effective_conductance` finds it, column after column, without iterating.

Source: Kirchhoff's laws; the vectorised form is this course's.
"""

import math

import torch
from torch import Tensor

ROUNDS, TOLERANCE = 400, 1e-13
METHODS = ("fixed", "nodal")


def _check(g: Tensor, wire_ohm: float) -> None:
    if g.dim() < 2 or not g.numel() or not (torch.isfinite(g).all() and (g >= 0).all()):
        raise ValueError(f"conductances are {tuple(g.shape)}, but must be [..., rows, columns], finite and at least 0.")
    if not 0 <= wire_ohm < math.inf:
        raise ValueError(f"wire_ohm is {wire_ohm}, but a resistance must be finite and at least 0.")


def node_voltages(g: Tensor, v: Tensor, wire_ohm: float, method: str = "fixed") -> tuple[Tensor, Tensor]:
    """Voltages at every cell, of its row's and of its column's wire.

    Args:
        g: conductances in siemens, [..., n, m].
        v: the drivers' volts, [..., n].
        wire_ohm: r, 0 or more.
        method: "fixed" or "nodal"; a fixed point that does not come to rest is left to the nodal solver.

    Returns:
        V_row and V_col, [..., n, m], float64.

    Raises:
        ValueError: a negative or infinite number, shapes that do not fit, or an unknown method.
    """
    _check(g, wire_ohm)
    leading = v.dim() and _fits(v.shape[:-1], g.shape[:-2])
    if method not in METHODS or not leading or v.shape[-1] != g.shape[-2] or not torch.isfinite(v).all():
        raise ValueError(
            f"method is {method!r} and there are {tuple(v.shape)} voltages for {tuple(g.shape)} cells, but the method must "
            f"be one of {', '.join(METHODS)} and every row needs a finite voltage."
        )
    g, v = g.double(), v.double().unsqueeze(-1)
    drive = v.expand(*torch.broadcast_shapes(v.shape[:-2], g.shape[:-2]), *g.shape[-2:])
    if wire_ohm == 0:
        return drive.clone(), torch.zeros_like(drive)
    found = _fixed(g, drive, wire_ohm) if method == "fixed" else None
    return found if found is not None else _nodal(g, drive, wire_ohm)


def _fits(one: torch.Size, other: torch.Size) -> bool:
    pairs = zip(reversed(one), reversed(other), strict=False)  # torch lines shapes up from the right
    return all(a == b or 1 in (a, b) for a, b in pairs)


def _fixed(g: Tensor, drive: Tensor, r: float) -> tuple[Tensor, Tensor] | None:
    # Undamped it overshoots where the wires weigh as much as the cells: a step's eigenvalues lie between -reach and 0, and
    # this is the factor that makes the largest of their moduli smallest.
    n, m = g.shape[-2:]
    reach = r * float(g.max()) * (n * n + m * m) * 4 / math.pi**2
    damp = 2 / (2 + reach)
    row, column = drive, torch.zeros_like(drive)
    for _ in range(ROUNDS):
        current = g * (row - column)
        new_row = drive - r * _from(current, -1).cumsum(-1)
        new_column = r * _from(current.cumsum(-2), -2)
        moved = max(float((new_row - row).abs().max()), float((new_column - column).abs().max()))
        row, column = torch.lerp(row, new_row, damp), torch.lerp(column, new_column, damp)
        if not math.isfinite(moved):
            return None
        if moved <= TOLERANCE * float(drive.abs().max()):
            return row, column
    return None


def _from(x: Tensor, axis: int) -> Tensor:
    return x.flip(axis).cumsum(axis).flip(axis)


def _nodal(g: Tensor, drive: Tensor, r: float) -> tuple[Tensor, Tensor]:
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    shape = torch.broadcast_shapes(g.shape, drive.shape)
    n, m = shape[-2:]
    at = np.arange(n * m).reshape(n, m)
    rows, columns = at, at + n * m
    # A conductance between two nodes, and one between a node and a fixed voltage: driver or ground.
    links = [(rows[:, :-1], rows[:, 1:], 1 / r), (columns[:-1], columns[1:], 1 / r)]
    solved = []
    for cells, volts in zip(g.expand(shape).reshape(-1, n, m), drive.expand(shape).reshape(-1, n, m), strict=True):
        a, b, y = [], [], []
        for one, other, value in [*links, (rows, columns, cells.cpu().numpy())]:
            one, other, value = (part.ravel() for part in np.broadcast_arrays(one, other, value))
            a += [one, other, one, other]
            b += [one, other, other, one]
            y += [value, value, -value, -value]
        ends = np.concatenate([rows[:, 0], columns[-1]])
        a, b, y = np.concatenate([*a, ends]), np.concatenate([*b, ends]), np.concatenate([*y, np.full(n + m, 1 / r)])
        right = np.zeros(2 * n * m)
        right[rows[:, 0]] = volts[:, 0].cpu().numpy() / r
        found = spsolve(coo_matrix((y, (a, b)), shape=(2 * n * m,) * 2).tocsc(), right)
        solved.append(torch.from_numpy(found).view(2, n, m))
    both = torch.stack(solved).to(g.device)
    return both[:, 0].reshape(shape), both[:, 1].reshape(shape)


def ir_drop_currents(g: Tensor, v: Tensor, wire_ohm: float, method: str = "fixed") -> Tensor:
    """Amperes that arrive at the foot of every column: [..., n, m], [..., n] -> [..., m].

    Args and errors as for `node_voltages`.
    """
    row, column = node_voltages(g, v, wire_ohm, method)
    return (g.double() * (row - column)).sum(-2)


def effective_conductance(g: Tensor, wire_ohm: float) -> Tensor:
    """The matrix M that an array with wires is: column currents are V @ M, for any voltages V of its rows.

    From the right end to the left: what a cut through the rows sees of all columns beyond it is an admittance Y, n × n. One
    more column puts its own, (1/G + r·L)⁻¹, in parallel and a piece of wire of every row in series. Then back from the
    drivers.

    Args:
        g: conductances in siemens, [..., n, m].
        wire_ohm: r, 0 or more.

    Returns:
        M in siemens, float64 [..., n, m]; g itself where r is 0.

    Raises:
        ValueError: a negative or infinite number.
    """
    _check(g, wire_ohm)
    g = g.double()
    if wire_ohm == 0:
        return g
    n, m = g.shape[-2:]
    one = torch.eye(n, dtype=g.dtype, device=g.device)
    rows = torch.arange(n, device=g.device)
    ladder = (n - torch.maximum(rows[:, None], rows)).to(g.dtype)  # volts at i for a current at i', in units of r
    own, through, beyond = [], [], torch.zeros_like(one)
    for j in reversed(range(m)):
        column = g[..., j].unsqueeze(-1)
        # G·(1 + r·L·G)⁻¹ is (1/G + r·L)⁻¹ without dividing by a cell that is open.
        alone = column * torch.linalg.inv(one + wire_ohm * ladder * column.transpose(-1, -2))
        inverse = torch.linalg.inv(one + wire_ohm * (alone + beyond))
        own.append(alone.sum(-2))  # the column's current, from the voltages of the rows at this cell
        through.append(inverse)
        beyond = (alone + beyond) @ inverse
    volts, currents = one, []
    for alone, inverse in zip(reversed(own), reversed(through), strict=True):
        volts = inverse @ volts
        currents.append((alone.unsqueeze(-2) @ volts).squeeze(-2))
    return torch.stack(currents, -1)
