"""Letters of alphabets that nobody has written: a class is one or two smooth strokes, a sample is one hand's version of it.

Source: the procedural family of the course, made for pre-training a small network that has seen no digit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers.data.checks import whole

POINTS = 8
"""Points of the pen on each quadratic piece of a stroke."""


@dataclass(frozen=True)
class Hand:
    """How much one hand differs from another: standard deviations, and ranges where two numbers stand."""

    rotation: float = 0.15  # rad
    scale: tuple[float, float] = (0.8, 1.05)
    aspect: tuple[float, float] = (0.85, 1.15)
    shear: float = 0.12
    shift: float = 0.08  # half the picture's side is 1
    jitter: float = 0.03
    pen: tuple[float, float] = (0.16, 0.26)
    noise: float = 0.03


def alphabet(classes: int, seed: int = 0) -> list[list[NDArray]]:
    """New letters: for each class its strokes, each 3 to 5 control points [n, 2] (x, y) in [-0.8, 0.8]².

    Args:
        classes: how many letters.
        seed: same seed, same letters; of two alphabets with one seed the shorter is the beginning of the longer.

    Raises:
        ValueError: `classes` is no whole number of at least 1.
    """
    rng = np.random.default_rng(seed)
    return [
        [rng.uniform(-0.8, 0.8, (rng.integers(3, 6), 2)) for _ in range(rng.integers(1, 3))]
        for _ in range(whole("classes", classes))
    ]


def trace(control: NDArray) -> NDArray:
    """The pen's points along a stroke: quadratic pieces from midpoint to midpoint of its control points.

    The pen comes down at the first midpoint and lifts at the last one; the control points between them bend its way.

    Args:
        control: [..., n, 2] with n of at least 3.

    Returns:
        [..., 8·(n - 2), 2].
    """
    middles = (control[..., 1:, :] + control[..., :-1, :]) / 2
    starts, bends, ends = (
        part[..., None, :] for part in (middles[..., :-1, :], control[..., 1:-1, :], middles[..., 1:, :])
    )
    t = np.linspace(0, 1, POINTS)[:, None]
    pieces = (1 - t) ** 2 * starts + 2 * t * (1 - t) * bends + t**2 * ends
    return pieces.reshape(*control.shape[:-2], -1, 2)


def write(
    letters: Sequence[Sequence[NDArray]],
    per_class: int,
    *,
    seed: int = 0,
    side: int = 8,
    invert: bool = False,
    hand: Hand | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples of every letter, class after class.

    A pixel is clip(1.4 - 0.7·distance / pen, 0, 1) plus noise, distance to the nearest point of a stroke.

    Args:
        letters: from `alphabet`.
        per_class: samples of each.
        seed: of the hands.
        side: pixels a side.
        invert: dark letters on light, 1 - x.
        hand: how much hands differ.

    Returns:
        Pictures float32 [classes·per_class, 1, side, side] and classes int64 [classes·per_class].

    Raises:
        ValueError: no letters, or numbers that are not whole and at least 1 (2 for `side`).
    """
    whole("per_class", per_class)
    whole("side", side, 2)
    if not len(letters):
        raise ValueError("there are 0 letters, but at least one is needed: see `alphabet`.")
    rng, hand = np.random.default_rng(seed), hand or Hand()
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    pixels = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)  # row by row: (x, y), y grows downwards
    pictures = np.concatenate([_written(strokes, per_class, pixels, hand, rng) for strokes in letters])
    pictures = pictures.reshape(-1, 1, side, side).astype(np.float32)
    labels = torch.arange(len(letters)).repeat_interleave(per_class)
    return torch.from_numpy(1 - pictures if invert else pictures), labels


def _written(strokes: Sequence[NDArray], n: int, pixels: NDArray, hand: Hand, rng: np.random.Generator) -> NDArray:
    """One letter by n hands: [n, pixels]."""
    angle, shear = rng.normal(0, hand.rotation, n), rng.normal(0, hand.shear, n)
    scale, aspect = rng.uniform(*hand.scale, n), rng.uniform(*hand.aspect, n)
    shift = rng.normal(0, hand.shift, (n, 1, 2))
    pen = rng.uniform(*hand.pen, (n, 1))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(n, 2, 2)
    slant = np.stack([np.ones(n), shear, np.zeros(n), np.ones(n)], -1).reshape(n, 2, 2)
    stretch = np.stack([scale * aspect, np.zeros(n), np.zeros(n), scale / aspect], -1).reshape(n, 2, 2)
    points = [trace(stroke + rng.normal(0, hand.jitter, (n, *stroke.shape))) for stroke in strokes]
    ink = np.concatenate(points, 1) @ (turn @ slant @ stretch).swapaxes(1, 2) + shift
    distance = np.sqrt(((pixels[None, :, None] - ink[:, None]) ** 2).sum(-1).min(-1))
    return np.clip(1.4 - 0.7 * distance / pen, 0, 1) + rng.normal(0, hand.noise, (n, len(pixels)))
