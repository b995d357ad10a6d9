"""One neuron under a constant current, and three ways to say a number with spikes.

The encoders are snntorch's; only what a reader needs to see in equations is written out here.

Source: J. K. Eshraghian et al., "Training Spiking Neural Networks Using Lessons From Deep Learning", Proceedings of the
IEEE 111(9), 2023: section II.B (the neuron), II.C (codings).
"""

import math

import torch
from torch import Tensor

CODES = ("direct", "rate", "latency")


def rheobase(beta: float, threshold: float = 1.0) -> float:
    """The constant current that just fails to make the neuron fire.

    Under a constant current i the membrane climbs towards i / (1 - beta), so below threshold * (1 - beta) it never fires.

    Args:
        beta: membrane decay per step, in [0, 1].
        threshold: firing threshold.

    Raises:
        ValueError: beta lies outside [0, 1].
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}, but the decay per step must lie in [0, 1].")
    return threshold * (1 - beta)


def first_spike_time(current: float, beta: float, threshold: float = 1.0) -> float:
    """Step (counted from 1) at which a neuron at rest first fires under a constant current; infinity if never.

    u[t] = i * (1 - beta^t) / (1 - beta), so t is the least whole number with beta^t < 1 - threshold*(1 - beta)/i.

    Args:
        current: constant input current i, the same in every step.
        beta: membrane decay per step, in [0, 1].
        threshold: firing threshold.
    """
    if current <= rheobase(beta, threshold) or current <= 0:
        return math.inf
    if beta == 1:
        return math.floor(threshold / current) + 1
    if beta == 0:
        return 1
    return math.floor(math.log1p(-threshold * (1 - beta) / current) / math.log(beta)) + 1


def encode(images: Tensor, code: str, timesteps: int, generator: torch.Generator | None = None) -> Tensor:
    """Intensities as a sequence over time.

    Args:
        images: intensities in [0, 1], shape [B, N].
        code: "direct": the same current in every step, no spikes yet. "rate": a spike in a step with the probability
            of the intensity (snntorch.spikegen.rate). "latency": one spike, the earlier the brighter
            (snntorch.spikegen.latency, linear, zero intensity stays silent).
        timesteps: T, at least 1.
        generator: for "rate" alone: the same generator state gives the same spikes.

    Returns:
        Currents ("direct") or spikes in {0, 1}, shape [T, B, N].

    Raises:
        ValueError: the code is unknown, timesteps is below 1, or an intensity lies outside [0, 1].
    """
    if code not in CODES:
        raise ValueError(f"code is {code!r}, but it must be one of {', '.join(CODES)}.")
    if timesteps < 1:
        raise ValueError(f"timesteps is {timesteps}, but at least 1 is needed.")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        low, high = float(images.min()), float(images.max())
        raise ValueError(f"intensities lie in [{low:g}, {high:g}], but [0, 1] is needed: scale them first.")
    if code == "direct":
        return images.expand(timesteps, *images.shape)
    from snntorch import spikegen

    if code == "rate":
        # spikegen draws from torch's global generator: lend it ours for the call, and put it back as it was.
        before = torch.get_rng_state()
        if generator is not None:
            torch.set_rng_state(generator.get_state())
        try:
            return spikegen.rate(images, num_steps=timesteps)
        finally:
            if generator is not None:
                generator.set_state(torch.get_rng_state())
                torch.set_rng_state(before)
    # spikegen.latency has no meaning for one step: everything fires at once.
    if timesteps == 1:
        return (images > 0).to(images.dtype).unsqueeze(0)
    # A zero intensity is sent to the last step by spikegen; clip=True drops it, with an epsilon that keeps real zeros apart.
    return spikegen.latency(images, num_steps=timesteps, threshold=1e-6, linear=True, normalize=True, clip=True)
