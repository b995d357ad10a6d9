"""Small measures that several lessons use."""

from collections.abc import Sequence

import numpy as np


def mean_std(values: Sequence, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation (n - 1; 0 for a single value) along an axis, the seeds' by default.

    Raises:
        ValueError: no values.
    """
    array = np.asarray(values, dtype=float)
    if array.shape == () or array.shape[axis] == 0:
        raise ValueError("mean_std was given no values, but at least one is needed.")
    std = array.std(axis=axis, ddof=1) if array.shape[axis] > 1 else np.zeros(array.mean(axis=axis).shape)
    return array.mean(axis=axis), std


def percent(shares: Sequence[float]) -> str:
    """Shares in [0, 1] over seeds as text: "97.6 ± 0.3 %".

    Raises:
        ValueError: no values.
    """
    mean, std = mean_std(shares)
    return f"{100 * float(mean):.1f} ± {100 * float(std):.1f} %"


def overlap_coefficient(first: Sequence[float], second: Sequence[float], edges: Sequence[float]) -> float:
    """Share of two histograms that lies under both: 1 for the same distribution, 0 for two that never meet.

    Args:
        first, second: values; nan is left out.
        edges: of the bins, ascending; every value should lie inside.

    Returns:
        Σ over bins of min(p, q), p and q the shares of each histogram; 0 if one of them is empty.
    """
    shares = []
    for values in (first, second):
        array = np.asarray(values, dtype=float).ravel()
        counts, _ = np.histogram(array[np.isfinite(array)], edges)
        shares.append(counts / max(counts.sum(), 1))
    return float(np.minimum(*shares).sum())
