"""Sequences that ask a network to remember: a delayed match of two patterns, and pictures shown row by row."""

import torch
from torch import Tensor

from helpers.data.checks import whole

CHANNELS, TOKENS, PATTERNS = 12, 4, 6
DENSITY, FLIPS, NOISE = 0.4, 0.02, 0.05


def delayed_match(
    samples: int, timesteps: int = 8, delay: int = 6, *, seed: int = 0, part: str = "train"
) -> tuple[Tensor, Tensor]:
    """Delayed match-to-sample: a cue at step 0, noise for `delay` steps, a probe. Was it the same pattern?

    Six random patterns of 4 tokens × 12 channels (each bit on with probability 0.4) are drawn for the seed. A shown
    pattern has 2 % of its bits flipped; all other steps are noise, 5 % of the bits on.

    Args:
        samples: sequences; every second one is a match, in random order.
        timesteps: T, at least 2.
        delay: steps between cue and probe, from 0 to T - 2; the probe comes at step 1 + delay.
        seed: of the patterns and the sequences.
        part: "train" or "test": the same patterns, other sequences.

    Returns:
        Sequences [T, samples, 4, 12] in {0, 1}, float32, and labels [samples]: 1 for a match.

    Raises:
        ValueError: fewer than 2 samples, timesteps below 2, a delay that does not fit, an unknown part.

    Source: D. S. Blough, "Delayed matching in the pigeon", J. Exp. Anal. Behav. 2, 1959 (the task); sizes are ours.
    """
    whole("samples", samples, 2)
    whole("delay", delay, 0, whole("timesteps", timesteps, 2) - 2)
    if part not in ("train", "test"):
        raise ValueError(f"part is {part!r}, but it must be train or test.")
    patterns = match_patterns(seed)
    dice = torch.Generator().manual_seed(1_000_003 * seed + (1 if part == "train" else 2))
    match = (torch.arange(samples) % 2)[torch.randperm(samples, generator=dice)]
    cue = torch.randint(PATTERNS, (samples,), generator=dice)
    # Another pattern: 1 to 5 further on, round the circle.
    other = (cue + torch.randint(1, PATTERNS, (samples,), generator=dice)) % PATTERNS
    probe = torch.where(match == 1, cue, other)
    x = (torch.rand(timesteps, samples, TOKENS, CHANNELS, generator=dice) < NOISE).float()
    for step, shown in ((0, cue), (1 + delay, probe)):
        flips = torch.rand(samples, TOKENS, CHANNELS, generator=dice) < FLIPS
        x[step] = patterns[shown].logical_xor(flips).float()
    return x, match


def match_patterns(seed: int = 0) -> Tensor:
    """The six patterns of a seed, boolean [6, 4, 12]."""
    dice = torch.Generator().manual_seed(1_000_003 * seed)
    return torch.rand(PATTERNS, TOKENS, CHANNELS, generator=dice) < DENSITY


def row_by_row(images: Tensor, tokens: int = 2) -> Tensor:
    """Square pictures as sequences: one row a timestep, cut into tokens.

    Args:
        images: [B, 1, side, side].
        tokens: parts of a row; they divide the side.

    Returns:
        [side, B, tokens, side/tokens], the values of the pictures.

    Raises:
        ValueError: images of another shape, or tokens that do not divide the side.
    """
    square = images.dim() == 4 and images.shape[1] == 1 and images.shape[2] == images.shape[3]
    if not square or images.shape[3] % whole("tokens", tokens):
        raise ValueError(
            f"images have shape {tuple(images.shape)} and tokens is {tokens}, but [B, 1, side, side] and a number of tokens "
            "that divides the side are needed."
        )
    return images[:, 0].transpose(0, 1).unflatten(2, (tokens, -1))
