"""How many directions of a noisy matrix are more than noise: the analytic solution of variational Bayesian factorisation.

Source: S. Nakajima, M. Sugiyama, S. D. Babacan, R. Tomioka, "Global Analytic Solution of Fully-observed Variational
Bayesian Matrix Factorization", JMLR 14, 2013, theorem 2 and corollary 4.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from helpers.data.checks import whole


class VBMFResult(NamedTuple):
    """What `evbmf_rank` found in a matrix."""

    rank: int
    """Singular values above the noise."""
    sigma2: float
    """Variance of the noise, in squared units of the matrix."""
    shrunk: NDArray[np.float64]
    """The singular values that remain, each shortened by what noise added to it, [rank]."""


def evbmf_rank(matrix: Tensor) -> VBMFResult:
    """Rank of a matrix that is a low-rank one plus Gaussian noise of unknown strength.

    With s the singular values of the L×M matrix (L ≤ M; a tall one is transposed), α = L/M and x = s²/(Mσ²), the noise σ² is
    the one that makes the free energy least; a singular value counts where x exceeds (1 + τ)(1 + α/τ), τ = 2.5129·√α.

    Args:
        matrix: [L, M], any floating-point type; computed in float64.

    Raises:
        ValueError: not two axes, fewer than two rows or columns, nothing but zeros, or an entry that is not finite.

    Source: Nakajima et al. 2013 (module docstring).
    """
    if matrix.dim() != 2 or min(matrix.shape) < 2:
        raise ValueError(
            f"matrix has shape {tuple(matrix.shape)}, but two axes of at least 2 are needed: unfold the kernel first."
        )
    values = matrix.detach().cpu().double().numpy()
    if not np.isfinite(values).all() or not values.any():
        raise ValueError("matrix has entries that are not finite, or none but zeros: there is no noise to measure.")
    # Dead filters say nothing about the noise of the living ones.
    values = values[np.ix_(values.any(1), values.any(0))]
    rows, columns = sorted(values.shape)
    s = np.linalg.svd(values, compute_uv=False)
    living = s > s[0] * columns * np.finfo(np.float64).eps
    if not living.all() or rows == 1:
        # Singular values of exactly zero, or a single one: there is no noise that could be told from what is left.
        return VBMFResult(int(living.sum()), 0.0, s[living])
    alpha = rows / columns
    tau_bar = 2.5129 * math.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    sigma2 = _noise(s, rows, columns, alpha, x_bar)
    rank = int((s > math.sqrt(columns * sigma2 * x_bar)).sum())
    kept = s[:rank]
    noise = (rows + columns) * sigma2 / kept**2
    root = np.sqrt((1 - noise) ** 2 - 4 * rows * columns * sigma2**2 / kept**4)
    return VBMFResult(rank, sigma2, kept / 2 * (1 - noise + root))


def _noise(s: NDArray, rows: int, columns: int, alpha: float, x_bar: float) -> float:
    """The variance between the two bounds of corollary 4 that makes the free energy least."""
    from scipy.optimize import minimize_scalar

    first = min(math.ceil(rows / (1 + alpha)) - 1, rows - 1)
    low = max(s[first] ** 2 / (columns * x_bar), (s[first:] ** 2).mean() / columns)
    high = (s**2).sum() / (rows * columns)

    def free_energy(sigma2: float) -> float:
        x = s**2 / (columns * sigma2)
        noise, signal = x[x <= x_bar], x[x > x_bar]
        tau = (signal - (1 + alpha) + np.sqrt((signal - 1 - alpha) ** 2 - 4 * alpha)) / 2
        return float(
            (noise - np.log(noise)).sum()
            + (signal - tau + np.log((tau + 1) / signal) + alpha * np.log(tau / alpha + 1)).sum()
        )

    if high <= low * (1 + 1e-12):
        return float(high)
    # In units of the bounds, and as finely where a strong signal stands above little noise.
    options = {"xatol": 1e-6 * low / high}
    search = {"bounds": (low / high, 1.0), "method": "bounded", "options": options}
    return float(minimize_scalar(lambda share: free_energy(share * high), **search).x * high)


def choose_tt_rank(weight: Tensor, floor: int = 1) -> int:
    """Rank for the cores of a trained 3×3 kernel: that of its unfolding by outputs, or by inputs where that is 0.

    An untrained kernel is noise and gives `floor`, and so do a kernel of zeros and one with a single channel.

    Args:
        weight: [O, I, 3, 3].
        floor: the least rank to return, at least 1.

    Raises:
        ValueError: weight has not four axes, or floor is below 1.

    Source: official code of D. Lee et al., "TT-SNN", DATE 2024.
    """
    whole("floor", floor)
    if weight.dim() != 4:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, but a kernel [O, I, 3, 3] is needed.")
    if min(weight.shape[:2]) < 2 or not weight.any():
        return floor  # one channel, or nothing at all: no rank to choose
    by_outputs = evbmf_rank(weight.flatten(1)).rank
    return max(by_outputs or evbmf_rank(weight.transpose(0, 1).flatten(1)).rank, floor)
