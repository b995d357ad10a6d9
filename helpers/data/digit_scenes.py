"""A digit carried through the tracking world: a camera that sees change says where, and with which sign.

A handwritten digit wanders as the blob of `tracking` does, from somewhere inside, and is hidden once for a while. Two frames
are compared as the camera compares them: a pixel that grew brighter by more than a threshold has an ON event, one that grew
darker an OFF event, and a few have one by chance.

Source: this course's simulation; digits from scikit-learn (8×8, real handwriting).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.data.images import images
from helpers.data.tracking import wander

SIZE, FRAMES = 48, 64
"""Pixels a side; frames a scene."""
STROKE, CHANGE, BORDER = 10, 0.2, 8
"""Side of the digit [px]; change of ink that makes an event; distance from the border at which it turns [px]."""
SPEED, TURN, CLUTTER = 1.2, 0.12, 0.002
"""Pixels a frame; standard deviation of the heading's change [rad]; probability of an event by chance."""
LEAD = 30
"""Frames that the digit has wandered before the scene begins, so that nobody knows where it is."""
HIDDEN, EARLIEST = 14, 16
"""Pictures without it, and the earliest of them; there are eight. A frame of events is what two pictures in a row do not
share, so it vanishes in the frame before."""
SPLIT = {"train": 0, "held-out": 1}
DATASETS = ("digits", "mnist")


@dataclass(frozen=True)
class DigitScene:
    """One scene, T frames.

    Args:
        label: which digit.
        positions: where its middle is, float64 [T, 2], as (y, x).
        events: bool [T, 2, size, size]: OFF, ON.
        hidden: the frame in which it vanishes, and the one in which it is back.
    """

    label: int
    positions: NDArray
    events: NDArray
    hidden: tuple[int, int]

    @property
    def frames(self) -> int:
        """T."""
        return len(self.events)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.events.shape[-1]


def digit_scenes(
    count: int, seed: int, part: str = "held-out", frames: int = FRAMES, dataset: str = "digits"
) -> list[DigitScene]:
    """Scenes with digits of one part of the set: no digit of one part is ever seen in the other.

    Args:
        count: how many; digits are used again where they are fewer.
        seed: same seed, same scenes.
        part: "train" (1,297 digits) or "held-out" (500).
        frames: T, at least 40.
        dataset: "digits", or "mnist", whose digits are shrunk to 8×8 (see `shrunk`).

    Raises:
        ValueError: a part or a set that is none of these, or a number that is not allowed.
        DataError: files of the set that are missing or broken.
    """
    whole("count", count)
    whole("seed", seed, 0)
    whole("frames", frames, 40)
    if part not in SPLIT:
        raise ValueError(f"part is {part!r}, but it must be one of {', '.join(SPLIT)}.")
    if dataset not in DATASETS:
        raise ValueError(f"dataset is {dataset!r}, but it must be one of {', '.join(DATASETS)}.")
    data = images(dataset)
    ink, labels = (data.train_images, data.train_labels) if part == "train" else (data.test_images, data.test_labels)
    ink = ink if dataset == "digits" else shrunk(ink)
    draw = np.random.default_rng([seed, SPLIT[part]])
    order = np.concatenate([draw.permutation(len(ink)) for _ in range(-(-count // len(ink)))])[:count]
    return [_scene(ink[k, 0].numpy(), int(labels[k]), frames, draw) for k in order.tolist()]


def shrunk(ink: Tensor) -> Tensor:
    """MNIST's digits as large in 8×8 pixels as the other set's: the middle 20×20, which they were made to fill, as means of
    areas, and full ink somewhere. [N, 1, 28, 28] -> [N, 1, 8, 8]."""
    small = F.adaptive_avg_pool2d(ink[..., 4:24, 4:24], 8)
    return small / small.amax((-2, -1), keepdim=True).clamp(min=1e-6)


def _scene(ink: NDArray, label: int, frames: int, draw: np.random.Generator) -> DigitScene:
    path = wander(draw, SIZE, LEAD + frames, SPEED, TURN, BORDER)[LEAD:]
    seen = carried(ink, path)
    start = EARLIEST + int(draw.integers(8))
    seen[start : start + HIDDEN] = 0  # it vanishes and comes back: both are changes, and make events
    change = np.diff(seen, axis=0)
    events = np.stack([change < -CHANGE, change > CHANGE], 1)
    noisy = events | (draw.random(events.shape) < CLUTTER / 2)
    return DigitScene(label, path[1:], noisy, (start - 1, start + HIDDEN - 1))


def carried(ink: NDArray, path: NDArray) -> NDArray:
    """A digit, enlarged, with its middle at each place of a path, by bilinear interpolation: [n, size, size].

    Args:
        ink: in [0, 1], [8, 8].
        path: (y, x), [n, 2].
    """
    axis = np.arange(SIZE)
    # A pixel of the digit is a tent of its own width; where tents of a row overlap they add up to one.
    width = STROKE / len(ink)
    middles = (np.arange(len(ink)) - (len(ink) - 1) / 2) * width
    down, right = (np.maximum(0, 1 - np.abs(axis[:, None] - path[:, k, None, None] - middles) / width) for k in (0, 1))
    return np.clip(down @ ink @ right.transpose(0, 2, 1), 0, 1)
