"""How often neurons fire in T steps, from three shares; and layers drawn from that, to count on.

    p_0 = z,  p_1 = z₁ - z,  p_k ∝ e^{λk} for k = 2 … T,   λ such that the mean is T(1 - s)

s is the spike sparsity, z the share of silent neurons, z₁ that of neurons that fire at most once. The paper publishes these
three for its networks, not the networks' spikes.

Source: this course's model; shares from table II of R. Yin et al., "LoAS", MICRO 2024.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from helpers.data.checks import whole


def spike_count_pmf(spike_sparsity: float, silent: float, silent_strong: float, timesteps: int = 4) -> NDArray:
    """Probabilities [T + 1] of firing 0, 1, …, T times.

    Raises:
        ValueError: shares that no counts can have; names the field and what is allowed.
    """
    t = whole("timesteps", timesteps)
    s, z, z1 = spike_sparsity, silent, silent_strong
    if not 0 <= z <= z1 <= 1:
        raise ValueError(f"silent is {z} and silent_strong {z1}, but 0 ≤ silent ≤ silent_strong ≤ 1 must hold.")
    rest, spikes = 1 - z1, t * (1 - s) - (z1 - z)
    if t == 1 and rest > 1e-12:
        raise ValueError(f"silent_strong is {z1} with 1 timestep, but it must be 1: nobody can fire more than once.")
    fits = abs(spikes) < 1e-9 if rest < 1e-12 or t == 1 else 2 * rest - 1e-9 <= spikes <= t * rest + 1e-9
    if not fits:
        low, high = 1 - (t * rest + z1 - z) / t, 1 - (2 * rest + z1 - z) / t
        raise ValueError(
            f"spike_sparsity is {s}, but with {t} timesteps, silent {z} and silent_strong {z1} it must lie in "
            f"[{low:.4f}, {high:.4f}]: the others fire 2 to {t} times."
        )
    counts = np.arange(2, t + 1)
    many = np.zeros(len(counts))
    if rest >= 1e-12:
        mean = np.clip(spikes / rest, 2, t)
        many = rest * _tilted(counts, mean)
    return np.concatenate([[z, z1 - z], many])[: t + 1]


def _tilted(counts: NDArray, mean: float) -> NDArray:
    """∝ e^{λ·count}, with the mean asked for."""
    if mean <= counts[0] + 1e-9 or mean >= counts[-1] - 1e-9:
        return (counts == round(mean)).astype(float)

    def share(tilt: float) -> NDArray:
        exponent = tilt * (counts - counts.mean())
        weight = np.exp(exponent - exponent.max())
        return weight / weight.sum()

    return share(brentq(lambda tilt: share(tilt) @ counts - mean, -200, 200, xtol=1e-13))


def sample_workload(
    layer: tuple[int, int, int], pmf: NDArray, weight_sparsity: float, seed: int, largest: int = 127
) -> tuple[Tensor, Tensor]:
    """Spikes and weights of a layer, drawn: a count for each neuron, then that many of its steps at random.

    Args:
        layer: (M, K, N).
        pmf: of the counts, [T + 1].
        weight_sparsity: share of zeros among the weights.
        seed: same seed, same layer.
        largest: weights that are not zero are drawn from ±1 … ±largest.

    Returns:
        Spikes uint8 [T, M, K] and weights int16 [K, N].

    Raises:
        ValueError: sizes or a largest weight below 1, or a sparsity outside [0, 1].
    """
    m, k, n = (whole("a layer's M, K or N", size) for size in layer)
    whole("largest", largest)
    if not 0 <= weight_sparsity <= 1:
        raise ValueError(f"weight_sparsity is {weight_sparsity}, but a sparsity lies in [0, 1].")
    draw = torch.Generator().manual_seed(seed)
    t = len(pmf) - 1
    counts = torch.multinomial(torch.from_numpy(pmf), m * k, replacement=True, generator=draw).view(m, k)
    order = torch.rand(t, m, k, generator=draw).argsort(0).argsort(0)  # each step's rank: ranks below the count fire
    kept = torch.rand(k, n, generator=draw) >= weight_sparsity
    size = torch.randint(1, largest + 1, (k, n), generator=draw)
    sign = torch.randint(0, 2, (k, n), generator=draw) * 2 - 1
    return (order < counts).to(torch.uint8), (size * sign * kept).to(torch.int16)
