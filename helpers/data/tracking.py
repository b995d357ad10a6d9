"""A small world to watch: something wanders, and a camera that sees change says where.

The target starts in the middle and moves at constant speed; its heading wanders, and it turns back near the border. It looks
like a Gaussian blob. A pixel has an event where two frames in a row differ by more than a threshold, or by chance.

Source: this course's simulation.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from helpers.data.checks import whole

BLOB, CHANGE, BORDER = 1.8, 0.12, 4
"""Width of the blob [px], change that makes an event, distance from the border at which the target turns [px]."""


@dataclass(frozen=True)
class TrackingWorld:
    """A target and the events that it makes.

    Args:
        seed: same seed, same world.
        size: pixels a side, at least 16.
        frames: T, at least 1.
        speed: pixels a frame, in (0, size/4).
        turn: standard deviation of the heading's change in a frame [rad], 0 or more.
        clutter: probability that a pixel has an event by chance, in [0, 1).

    Raises:
        ValueError: a number out of its range.
    """

    seed: int
    size: int = 48
    frames: int = 200
    speed: float = 1.2
    turn: float = 0.12
    clutter: float = 0.002
    positions: NDArray = field(init=False, repr=False, compare=False)
    """Where the target is, float64 [T, 2], as (y, x)."""
    events: NDArray = field(init=False, repr=False, compare=False)
    """bool [T, size, size]."""

    def __post_init__(self) -> None:
        whole("seed", self.seed, 0)
        whole("size", self.size, 16)
        whole("frames", self.frames)
        inside = 0 < self.speed < self.size / 4 and 0 <= self.turn < math.inf and 0 <= self.clutter < 1
        if not inside:
            raise ValueError(
                f"speed is {self.speed}, turn {self.turn} and clutter {self.clutter}, but speed must lie in "
                f"(0, {self.size / 4:g}), turn be 0 or more, and clutter lie in [0, 1)."
            )
        draw = np.random.default_rng(self.seed)
        path = wander(draw, self.size, self.frames, self.speed, self.turn)  # the first: before the first frame
        axis = np.arange(self.size)
        across, along = (np.exp(-((axis - path[:, k, None]) ** 2) / (2 * BLOB**2)) for k in (0, 1))
        frames = across[:, :, None] * along[:, None, :]
        changed = np.abs(np.diff(frames, axis=0)) > CHANGE
        chance = draw.random(changed.shape) < self.clutter
        object.__setattr__(self, "positions", path[1:])
        object.__setattr__(self, "events", changed | chance)


def wander(
    draw: np.random.Generator, size: int, frames: int, speed: float, turn: float, border: float = BORDER
) -> NDArray:
    """Places (y, x) of something that moves at constant speed with a wandering heading, [frames + 1, 2], from the middle on.

    Args:
        draw: of the heading.
        size: pixels a side.
        frames: steps.
        speed: pixels a step.
        turn: standard deviation of the heading's change in a step [rad].
        border: distance from the border at which it turns back [px].
    """
    low, high = border, size - 1 - border
    place = np.full(2, (size - 1) / 2)
    heading = draw.uniform(0, 2 * math.pi)
    path = [place]
    for change in draw.normal(0, turn, frames):
        heading += change
        step = speed * np.array([math.sin(heading), math.cos(heading)])
        out = (place + step < low) | (place + step > high)
        step = np.where(out, -step, step)
        heading = math.atan2(step[0], step[1])
        place = np.clip(place + step, low, high)
        path.append(place)
    return np.array(path)
