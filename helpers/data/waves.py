"""A wave in a square box: where did it start? The scientific-ML task of chapter 2.

The 2-D acoustic wave equation on a grid, from a small bump at rest, with a fixed boundary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

COURANT_SQUARED = 0.25
"""(c Δt / Δx)²: the time step is chosen so; up to 0.5 the scheme is stable in two dimensions."""
_CHUNK = 2**16
"""Grid points that are stepped together."""


def wave_field(grid: int, sources: ArrayLike, steps: int) -> NDArray:
    """The field of waves that started at the sources, after some steps, all of them at once.

    u⁺ = 2u - u⁻ + ¼ ∇²u with the five-point ∇², u = 0 on the boundary. The wave starts as a bump e^(-r²/2) on the 3×3
    pixels around its source, at rest. `steps` counts fields, the first among them: steps - 1 updates.

    Args:
        grid: pixels a side, at least 5.
        sources: whole numbers (x, y), shape [N, 2] or [2]; each from 2 to grid - 3, so that the bump misses the boundary.
        steps: at least 1.

    Returns:
        Float64 fields [N, grid, grid], indexed [y, x] (one source: [grid, grid]).

    Raises:
        ValueError: a grid or a number of steps that is too small, or a source that is no pair of whole numbers inside.

    Source: Kim et al. 2024, official code (64×64, "100 steps", sources 10 to 53).
    """
    places = np.asarray(sources)
    if grid < 5 or steps < 1:
        raise ValueError(f"grid is {grid}, steps {steps}, but at least a grid of 5 and one step are needed.")
    if places.shape[-1:] != (2,) or places.ndim > 2 or places.size == 0 or not np.all(places == np.rint(places)):
        raise ValueError(f"sources have shape {places.shape}, but whole numbers (x, y), [N, 2] or [2], are needed.")
    if places.min() < 2 or places.max() > grid - 3:
        raise ValueError(
            f"sources run from {places.min()} to {places.max()}, but on a grid of {grid} they must lie in [2, {grid - 3}]."
        )
    pairs = places.reshape(-1, 2).astype(int)
    # As many at a time as fit a cache.
    size = max(1, _CHUNK // grid**2)
    fields = np.concatenate([_propagate(grid, pairs[at : at + size], steps) for at in range(0, len(pairs), size)])
    return fields if places.ndim == 2 else fields[0]


def _propagate(grid: int, places: NDArray, steps: int) -> NDArray:
    x, y = places.T
    now = np.zeros((len(x), grid, grid))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            now[np.arange(len(x)), y + dy, x + dx] = np.exp(-(dx**2 + dy**2) / 2)
    before = now.copy()  # at rest: the field was the same a step ago
    for _ in range(steps - 1):
        after = 2 * now - before
        around = now[:, :-2, 1:-1] + now[:, 2:, 1:-1] + now[:, 1:-1, :-2] + now[:, 1:-1, 2:]
        after[:, 1:-1, 1:-1] += COURANT_SQUARED * (around - 4 * now[:, 1:-1, 1:-1])
        after[:, [0, -1], :] = after[:, :, [0, -1]] = 0
        before, now = now, after
    return now


def coarse_cell(sources: ArrayLike, grid: int, cells: int) -> NDArray:
    """The class of a source: which of cells × cells squares of the grid it lies in, ⌊x·k/grid⌋·k + ⌊y·k/grid⌋.

    Args:
        sources: (x, y), shape [N, 2] or [2].
        grid: pixels a side.
        cells: k, squares a side.

    Returns:
        int64 in [0, k²), shape [N] or a scalar array.

    Raises:
        ValueError: cells is below 1, or a source lies off the grid.
    """
    places = np.asarray(sources, dtype=np.int64)
    if cells < 1 or places.min() < 0 or places.max() >= grid:
        raise ValueError(f"cells is {cells}, but it must be at least 1, with every source on the grid of {grid}.")
    return places[..., 0] * cells // grid * cells + places[..., 1] * cells // grid


def every_source(low: int, high: int) -> NDArray:
    """All (x, y) with both from low to high, both included: shape [(high - low + 1)², 2]."""
    side = np.arange(low, high + 1)
    return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class WaveTask:
    """Wave fields and where they started, split into training and held-out fields.

    inputs: 2u - 1, float32 [N, 1, grid, grid]; sources: (x, y) [N, 2]; cells: int64 [N], 3 × 3 coarse cells; times: float32
    [N, 2] in [1, 3], the target spike times of x and y; train, test: indices.
    """

    inputs: NDArray
    sources: NDArray
    cells: NDArray
    times: NDArray
    train: NDArray
    test: NDArray
    low: int
    high: int

    def places(self, times: NDArray) -> NDArray:
        """Positions in pixels that output times [N, 2] say."""
        return self.low + (np.asarray(times) - 1) / 2 * (self.high - self.low)


def wave_task(grid: int = 32, steps: int = 50, low: int = 5, high: int = 26, *, seed: int = 0) -> WaveTask:
    """Every source from low to high in both axes; 80 % of the fields to learn from, 20 % held out.

    Args:
        grid, steps: as `wave_field`.
        low, high: of the sources' coordinates.
        seed: of the split.

    Source: Kim et al. 2024, official code (64×64, 100 steps, sources 10 to 53); the target times are derived here.
    """
    sources = every_source(low, high)
    fields = wave_field(grid, sources, steps)
    order = np.random.default_rng(seed).permutation(len(sources))
    held_out = len(sources) // 5
    return WaveTask(
        # reshape, not [:, None]: an axis of one must not get a stride that a convolution reads as another memory order.
        inputs=(2 * fields - 1).astype(np.float32).reshape(-1, 1, grid, grid),
        sources=sources,
        cells=coarse_cell(sources, grid, 3),
        times=(1 + 2 * (sources - low) / (high - low)).astype(np.float32),
        train=np.sort(order[held_out:]),
        test=np.sort(order[:held_out]),
        low=low,
        high=high,
    )
