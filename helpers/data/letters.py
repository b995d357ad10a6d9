"""Letters to meet one after the other: invented or real ones, the same call for both."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from helpers.data.checks import whole
from helpers.data.glyphs import alphabet, write
from helpers.data.omniglot import omniglot

Part = tuple[int, int, slice]
"""A part of every class: how many invented hands, the seed of these hands, which drawers of real characters."""


def letters(
    dataset: str, classes: int, parts: Sequence[Part], *, seed: int, invert: bool = True
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Pictures of some letters, in several parts by different hands.

    Args:
        dataset: "glyphs" (invented letters) or "omniglot" (real characters).
        classes: how many letters.
        parts: of each letter.
        seed: of the invented alphabet, or of which characters are taken.
        invert: dark on light instead of light on dark.

    Returns:
        A tensor [classes, n, 1, 8, 8] for each part, and the name of every class.

    Raises:
        ValueError: an unknown data set, or numbers that are not whole or ask for too many classes.
        DataError: Omniglot is not here.
    """
    whole("classes", classes)
    if dataset == "glyphs":
        shapes = alphabet(classes, seed)
        written = [write(shapes, n, seed=hands, invert=invert)[0].unflatten(0, (classes, n)) for n, hands, _ in parts]
        return written, tuple(f"letter {index + 1}" for index in range(classes))
    if dataset != "omniglot":
        raise ValueError(f"dataset is {dataset!r}, but it must be one of glyphs, omniglot.")
    real = omniglot()
    if classes > len(real.names):
        raise ValueError(f"{classes} classes were asked for, but Omniglot has {len(real.names)} here.")
    chosen = np.random.default_rng(seed).permutation(len(real.names))[:classes]
    pictures = 1 - real.pictures[chosen] if invert else real.pictures[chosen]
    return [pictures[:, drawers] for *_, drawers in parts], tuple(real.names[index] for index in chosen)


def shuffled(classes: int, seed: int) -> np.ndarray:
    """The order in which classes come: seed 0 leaves it as it is."""
    return np.random.default_rng(seed).permutation(classes) if seed else np.arange(classes)
