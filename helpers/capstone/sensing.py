"""The device's eye: which pixels it reads in a frame, where it believes the digit to be, and what it hands on.

    full      every pixel, in every look
    fovea     17 × 17 pixels around the predicted place
    monitor   the same, and a monitor that widens the window after two misses and looks at everything after six

Detector, belief and monitor are those of the lesson on sensing loops. A scene begins with one look at everything. Behind the
belief an inner window of 16 × 16 pixels moves with the digit; its events are what a network reads.

What is counted: a pixel that is read is two 8-bit values, now and before, and a subtraction; an event is nine additions, one
for each neuron that it reaches; a neuron with input is compared once; the Kalman filter's products, in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor

from helpers.data.checks import whole
from helpers.data.digit_scenes import DigitScene
from helpers.hardware.sensing_loops import (
    ConstantVelocityBelief,
    LoopMonitor,
    SpikingDetector,
    measure,
    window_at,
)
from helpers.lab.meter import Layer, Meter

SENSING = ("full", "fovea", "monitor")
FOVEA, CROP, EXPOSURE = 17, 16, 16
"""Side of the window, side of what a network reads, frames that it reads: the last ones of a scene."""
FOUND = 4.0
"""Pixels of error at a scene's end up to which the digit counts as found."""
MONITOR = LoopMonitor(spikes=(3, 150), spread=(0.8, 6.0))
BOX, LEAST = 11, 12
"""A look at everything starts again where a square of this side has most events, if it has so many."""
PIXEL_BITS, REACH, BOX_SUMS = 16, 9, 4
"""Read for a pixel; additions for an event; additions a pixel for running sums over a box."""
PREDICT, UPDATE, BELIEF = 16 + 64 + 64, 6 + 16 + 8 + 32, 20
"""Products of F x, F P, (F P) Fᵀ; of the 2 × 2 solution, K, K ν and K (H P); numbers of a belief: x and P."""


@dataclass(frozen=True)
class Seen:
    """What the eye did in some scenes.

    Args:
        crops: events that moved with the digit, bool [B, EXPOSURE, 2, CROP, CROP]; a frame without a look is empty.
        error: distance of belief and digit at the end [px], [B].
        meters: "look", "detect" and "believe", a prediction a scene.
        share: of all pixels in all frames that were read, [B].
        lost: share of frames in which the error was above 8 px, [B].
    """

    crops: Tensor
    error: Tensor
    meters: dict[str, Meter]
    share: Tensor
    lost: Tensor


@dataclass
class _Work:
    pixels: int = 0
    events: int = 0
    compared: int = 0
    swept: int = 0
    predictions: int = 0
    updates: int = 0


@dataclass(frozen=True)
class Followed:
    """One scene, frame by frame.

    Args:
        crops: bool [EXPOSURE, 2, CROP, CROP].
        places: believed, (y, x), [T, 2].
        windows: top, left, height and width of what was read, [T, 4]; all 0 where nothing was.
        pixels: how many were read, [T].
        work: what was done.
    """

    crops: NDArray
    places: NDArray
    windows: NDArray
    pixels: NDArray
    work: _Work


def busiest(events: NDArray) -> NDArray | None:
    """Where most events lie together, (y, x): their mean within a box around the fullest box, or None if that holds few.

    Args:
        events: bool [h, w].
    """
    counts = np.rint(uniform_filter(events.astype(np.float64), BOX, mode="constant") * BOX**2)  # a mean, made a count
    peak = np.unravel_index(counts.argmax(), counts.shape)
    if counts[peak] < LEAST:
        return None
    y, x = np.nonzero(events)
    near = np.maximum(abs(y - peak[0]), abs(x - peak[1])) <= BOX // 2
    return np.array([y[near].mean(), x[near].mean()])


def inner(events: NDArray, place: NDArray) -> NDArray:
    """The events [2, size, size] of the CROP × CROP pixels around a place, [2, CROP, CROP]; outside there are none."""
    half, size = CROP // 2, events.shape[-1]
    top, left = np.clip(np.rint(place).astype(int), 0, size - 1)
    return np.pad(events, ((0, 0), (half, half), (half, half)))[:, top : top + CROP, left : left + CROP]


def follow(scene: DigitScene, sensing: str = "monitor", every: int = 1) -> Followed:
    """Watch one scene.

    Args:
        scene: to watch.
        sensing: one of SENSING.
        every: a look in one of so many frames; between them the belief only predicts.

    Raises:
        ValueError: an unknown way of sensing, or an `every` that is not a whole number in [1, EXPOSURE].
    """
    if sensing not in SENSING:
        raise ValueError(f"sensing is {sensing!r}, but it must be one of {', '.join(SENSING)}.")
    whole("every", every, 1, EXPOSURE)
    size, work = scene.size, _Work()
    detector, belief = SpikingDetector(size), ConstantVelocityBelief(np.full(2, (size - 1) / 2))
    whole_view = (slice(0, size), slice(0, size))
    side, misses = FOVEA, 0
    crops, places, pixels = [], [], np.zeros(scene.frames, dtype=np.int64)
    windows = np.zeros((scene.frames, 4), dtype=np.int64)

    def look_everywhere(t: int) -> bool:
        pixels[t] += size * size
        work.swept += size * size
        spot = busiest(scene.events[t].any(0))
        if spot is not None:
            belief.restart(spot)
        return spot is not None

    look_everywhere(0)
    for t in range(scene.frames):
        belief.predict()
        belief.stay_inside(size)
        work.predictions += 1
        read = np.zeros_like(scene.events[t])
        if t % every == 0:
            view = whole_view if sensing == "full" else window_at(belief.place, side, size)
            events = scene.events[t][:, view[0], view[1]]
            read[:, view[0], view[1]] = events
            spikes, current = detector(events.any(0), view)
            z, count, spread = measure(spikes, view)
            pixels[t] += events[0].size
            windows[t] = (view[0].start, view[1].start, *events.shape[1:])
            work.events += int(events.any(0).sum())
            work.compared += int((current > 0).sum())
            work.updates += z is not None
            trusted = z is not None
            if sensing == "monitor":
                trusted = trusted and MONITOR.trusts(belief.innovation(z)[1], count, spread)
                misses = 0 if trusted else misses + 1
                if misses >= MONITOR.patience:
                    side = max(side, min(MONITOR.widest, int(1.5 * side) | 1))
                if misses >= MONITOR.reacquire_after:
                    read, windows[t] = scene.events[t], (0, 0, size, size)
                    misses = 0 if look_everywhere(t) else misses
            if trusted:
                belief.update(z)
                side = max(FOVEA, side - 4)
        places.append(belief.place.copy())
        if t >= scene.frames - EXPOSURE:
            crops.append(inner(read, belief.place))
    pixels = pixels.clip(max=size * size)  # what was read in a frame is there, and is not read twice
    work.pixels = int(pixels.sum())
    return Followed(np.stack(crops), np.array(places), windows, pixels, work)


def watch(scenes: Sequence[DigitScene], sensing: str = "monitor", every: int = 1) -> Seen:
    """Watch many scenes; arguments and errors as for `follow`."""
    crops, error, share, lost, total = [], [], [], [], _Work()
    for scene in scenes:
        seen = follow(scene, sensing, every)
        off = np.hypot(*(seen.places - scene.positions).T)
        crops.append(seen.crops)
        error.append(off[-1])
        lost.append((off > 8).mean())
        share.append(seen.pixels.mean() / scene.size**2)
        for name, value in vars(seen.work).items():
            setattr(total, name, getattr(total, name) + value)
    figures = (torch.tensor(np.array(part), dtype=torch.float32) for part in (error, share, lost))
    error, share, lost = figures
    return Seen(torch.from_numpy(np.stack(crops)), error, _meters(total, len(scenes)), share, lost)


def _meters(work: _Work, scenes: int) -> dict[str, Meter]:
    def meter(name: str, **counts) -> Meter:
        return Meter(scenes, {name: Layer(name, "sensing", calls=scenes, **counts)})

    adds = REACH * work.events + work.compared + BOX_SUMS * work.swept
    products = PREDICT * work.predictions + UPDATE * work.updates
    moved = 2 * 32 * BELIEF * (work.predictions + work.updates)
    return {
        "look": meter("look", additions=work.pixels, activation_bits=PIXEL_BITS * work.pixels),
        "detect": meter("detect", additions=adds),
        "believe": meter("believe", macs=products, spikes=False, state_bits=moved),
    }
