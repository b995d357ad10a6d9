"""A loop that looks only where it expects something, and a monitor that notices when it feeds on its own guesses.

    look     a window of side w around the predicted place; only its events are read
    detect   a neuron gets 0.45 for every event among 3 × 3 pixels, fires above 1.4 (four events); X = τU + I, reset to 0
    measure  z = centroid of the spikes, if two or more
    believe  constant velocity: x ← Fx, P ← FPFᵀ + Q;  K = P Hᵀ(HPHᵀ + R)⁻¹,  x ← x + K(z - Hx),  P ← (I - KH)P
    monitor  trusts z only if νᵀS⁻¹ν < 11.8, 3 to 60 spikes, and a mean spread of 0.8 to 4 px; two misses: alarm, w ← 1.5w;
             six: one look at everything, and a new start at the densest spot

Energy, in units of one sensed pixel: 1 for each of these, 0.45 an event (nine additions), 0.2 for each neuron with input.

Source: this course's model of ideas in A. R. Trivedi et al., "Intelligent Sensing-to-Action for Robust Autonomy at the Edge:
Opportunities and Challenges", DATE 2025, which has no single algorithm.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from helpers.data.checks import whole
from helpers.data.tracking import TrackingWorld

PER_EVENT, PER_NEURON = 0.45, 0.2
LOST = 8.0
"""Pixels of error from which on the target counts as lost."""
FAULTS = ("dead", "stuck", "noise")
FaultKind = Literal["dead", "stuck", "noise"]


def odd_window(side: int) -> int:
    """The side of a window, if it is odd and at least 3.

    Raises:
        ValueError: it is not.
    """
    whole("fovea", side, 3)
    if side % 2 == 0:
        raise ValueError(f"fovea is {side}, but the side of a window must be odd, so that it has a middle pixel.")
    return side


def neighbours(events: NDArray) -> NDArray:
    """How many of the 3 × 3 pixels around each have an event; outside there are none. [h, w] -> [h, w]."""
    padded = np.pad(events.astype(np.int64), 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


class SpikingDetector:
    """A sheet of leaky integrate-and-fire neurons, one a pixel, that look for events close together.

    Args:
        size: pixels a side.
        gain: input for each event in the 3 × 3 neighbourhood.
        threshold: a neuron fires above it.
        tau: share of the membrane kept from frame to frame, in [0, 1); 0 is pure coincidence.

    Raises:
        ValueError: gain or threshold not above 0, or tau outside [0, 1).
    """

    def __init__(self, size: int, gain: float = 0.45, threshold: float = 1.4, tau: float = 0.0) -> None:
        if not (gain > 0 and threshold > 0 and 0 <= tau < 1):
            raise ValueError(
                f"gain is {gain}, threshold {threshold} and tau {tau}, but gain and threshold must be above 0, "
                "tau in [0, 1)."
            )
        self.gain, self.threshold, self.tau = gain, threshold, tau
        self.membrane = np.zeros((size, size))

    def __call__(self, events: NDArray, place: tuple[slice, slice]) -> tuple[NDArray, NDArray]:
        """Spikes and inputs of the neurons in a window; the others forget a frame's worth.

        Args:
            events: of the window, [h, w].
            place: of the window among all pixels.
        """
        current = self.gain * neighbours(events)
        if self.tau == 0:
            return current > self.threshold, current
        self.membrane *= self.tau
        self.membrane[place] += current
        spikes = self.membrane[place] > self.threshold
        self.membrane[place] *= ~spikes
        return spikes, current


class ConstantVelocityBelief:
    """A Kalman filter over (y, x, ẏ, ẋ), in pixels and pixels a frame.

    Args:
        place: where the target is believed to be at first, (y, x).
        q: of a frame's change, for places and velocities.
        r: of a measurement.
        moving: False takes away the prediction: the place is believed to stay, and P grows by 0.5 in every frame.

    Raises:
        ValueError: variances that are not above 0.
    """

    def __init__(
        self, place: NDArray, q: tuple[float, float] = (0.02, 0.08), r: float = 0.8, moving: bool = True
    ) -> None:
        if not (min(q) > 0 and r > 0):
            raise ValueError(f"q is {q} and r {r}, but variances must be above 0.")
        self.state = np.array([*place, 0.0, 0.0])
        self.covariance = np.eye(4)
        self.transition = np.eye(4)
        self.growth = 0.5 * np.eye(4)
        if moving:
            self.transition[[0, 1], [2, 3]] = 1
            self.growth = np.diag([q[0], q[0], q[1], q[1]])
        self.r = r

    @property
    def place(self) -> NDArray:
        """(y, x)."""
        return self.state[:2]

    def predict(self) -> None:
        """One frame on."""
        self.state = self.transition @ self.state
        self.covariance = self.transition @ self.covariance @ self.transition.T + self.growth

    def stay_inside(self, size: int) -> None:
        """Nothing is ever outside the world: a place beyond its border is moved to the border."""
        self.state[:2] = np.clip(self.state[:2], 0, size - 1)

    def innovation(self, z: NDArray) -> tuple[NDArray, float]:
        """ν = z - Hx, and its squared Mahalanobis length νᵀS⁻¹ν, S = HPHᵀ + R."""
        nu = z - self.state[:2]
        s = self.covariance[:2, :2] + self.r * np.eye(2)
        return nu, float(nu @ np.linalg.solve(s, nu))

    def update(self, z: NDArray) -> None:
        """Take a measurement (y, x) in."""
        nu, _ = self.innovation(z)
        s = self.covariance[:2, :2] + self.r * np.eye(2)
        gain = np.linalg.solve(s, self.covariance[:2]).T
        self.state = self.state + gain @ nu
        covariance = self.covariance - gain @ self.covariance[:2]
        self.covariance = (covariance + covariance.T) / 2

    def restart(self, place: NDArray) -> None:
        """Begin again at a place, at rest, less sure."""
        self.state = np.array([*place, 0.0, 0.0])
        self.covariance = np.diag([2.0, 2.0, 1.0, 1.0])


@dataclass(frozen=True)
class LoopMonitor:
    """What a measurement must be like to be believed, and what happens if it is not.

    Args:
        gate: largest νᵀS⁻¹ν.
        spikes: fewest and most.
        spread: mean distance of spikes from their centroid, least and most [px].
        patience: misses in a row until the alarm, and the wider window.
        reacquire_after: misses in a row until one look at everything.
        widest: side of the widest window.

    Raises:
        ValueError: a range whose end lies before its start, or a number that is not above 0.
    """

    gate: float = 11.8
    spikes: tuple[int, int] = (3, 60)
    spread: tuple[float, float] = (0.8, 4.0)
    patience: int = 2
    reacquire_after: int = 6
    widest: int = 33

    def __post_init__(self) -> None:
        whole("patience", self.patience)
        whole("reacquire_after", self.reacquire_after)
        odd_window(self.widest)
        if not (self.gate > 0 and 0 <= self.spikes[0] <= self.spikes[1] and 0 <= self.spread[0] < self.spread[1]):
            raise ValueError(
                f"gate is {self.gate}, spikes {self.spikes} and spread {self.spread}, but the gate must be above 0 and both "
                "ranges must begin at 0 or more and end later."
            )

    def trusts(self, distance: float, count: int, spread: float) -> bool:
        """Whether a measurement passes all three."""
        return (
            distance < self.gate
            and self.spikes[0] <= count <= self.spikes[1]
            and self.spread[0] < spread < self.spread[1]
        )


@dataclass(frozen=True)
class SensorFault:
    """From frame `start` until before `stop` the sensor fails: "dead" says nothing, "stuck" has only the 2 × 2 corner of its
    window firing, "noise" has events at random, in 30 % of the pixels."""

    kind: FaultKind
    start: int
    stop: int

    def check(self, frames: int) -> None:
        """Refuse a fault that is not within a world's frames.

        Raises:
            ValueError: an unknown kind, or frames outside [0, T].
        """
        if self.kind not in FAULTS or not 0 <= self.start < self.stop <= frames:
            raise ValueError(
                f"the fault is {self.kind!r} in frames {self.start} to {self.stop}, but it must be one of "
                f"{', '.join(FAULTS)}, within the world's {frames} frames."
            )

    def spoil(self, events: NDArray, draw: np.random.Generator) -> NDArray:
        """What the sensor says instead, [h, w]."""
        if self.kind == "noise":
            return draw.random(events.shape) < 0.3
        spoiled = np.zeros_like(events)
        if self.kind == "stuck":
            spoiled[:2, :2] = True
        return spoiled


@dataclass(frozen=True)
class LoopTrace:
    """A run, frame by frame, all [T] unless said.

    Args:
        error: distance of belief and target [px].
        sensed: share of all pixels read.
        energy: in units of one sensed pixel.
        alarms: whether the monitor has raised its alarm, bool.
        estimate: believed place, [T, 2].
        spread: standard deviations and covariance of the place, P's upper left, [T, 2, 2].
        window: top, left, height, width, [T, 4]; zeros where nothing was sensed.
        looks: whether everything was looked at, bool.
    """

    error: NDArray
    sensed: NDArray
    energy: NDArray
    alarms: NDArray
    estimate: NDArray
    spread: NDArray
    window: NDArray
    looks: NDArray


def window_at(place: NDArray, side: int, size: int) -> tuple[slice, slice]:
    """Rows and columns of a window around a place, rounded, cut at the borders; at least a pixel remains."""
    middle = np.clip(np.rint(place).astype(int), 0, size - 1)
    half = side // 2
    return tuple(slice(max(0, c - half), min(size, c + half + 1)) for c in middle)


def measure(spikes: NDArray, place: tuple[slice, slice]) -> tuple[NDArray | None, int, float]:
    """Centroid (y, x) of the spikes, or None if fewer than two; how many there are; their mean distance from it."""
    y, x = np.nonzero(spikes)
    if len(y) < 2:
        return None, len(y), 0.0
    z = np.array([y.mean() + place[0].start, x.mean() + place[1].start])
    return z, len(y), float(np.hypot(y - y.mean(), x - x.mean()).mean())


def price(events: NDArray, current: NDArray) -> float:
    """Energy of one look: pixels read, events added up, neurons that got input."""
    return events.size + PER_EVENT * float(events.sum()) + PER_NEURON * float((current > 0).sum())


def densest_spot(events: NDArray, gain: float) -> NDArray | None:
    """Where a look at everything would start again, (y, x), or None: the mean of the spots within 2 px of the densest one
    that are as dense, if it has nine events at once and fewer than a tenth of all pixels have any."""
    current = gain * neighbours(events)
    peak = current.max()
    if peak < 4.0 or events.mean() >= 0.1:
        return None
    y, x = np.nonzero(current == peak)
    near = np.hypot(y - y[0], x - x[0]) <= 2
    return np.array([y[near].mean(), x[near].mean()])


def run_loop(
    world: TrackingWorld,
    fovea: int,
    monitor: LoopMonitor | None = None,
    predict_only: float = 0.0,
    fault: SensorFault | None = None,
    *,
    moving: bool = True,
    tau: float = 0.0,
    seed: int = 0,
) -> LoopTrace:
    """Follow the target through all frames of a world.

    Args:
        world: to watch.
        fovea: nominal side of the window, odd, at least 3; twice the world's size or more sees everything.
        monitor: None believes every measurement of two spikes or more.
        predict_only: nothing is sensed in a frame where the believed standard deviation of y is below this [px].
        fault: of the sensor.
        moving: False is the ablation without prediction.
        tau: of the detector.
        seed: of the fault's noise.

    Raises:
        ValueError: an even or too small window, a negative predict_only, or a fault outside the world's frames.
    """
    odd_window(fovea)
    if not 0 <= predict_only < math.inf:
        raise ValueError(f"predict_only is {predict_only}, but it must be 0 or more and finite.")
    if fault is not None:
        fault.check(world.frames)
    draw, size = np.random.default_rng(seed), world.size
    belief = ConstantVelocityBelief(np.full(2, (size - 1) / 2), moving=moving)
    detector = SpikingDetector(size, tau=tau)
    side, misses, rows = fovea, 0, []
    for t in range(world.frames):
        belief.predict()
        belief.stay_inside(size)
        window, energy, sensed, looked = (0, 0, 0, 0), 0.0, 0, False
        if not math.sqrt(belief.covariance[0, 0]) < predict_only:
            place = window_at(belief.place, side, size)
            broken = fault is not None and fault.start <= t < fault.stop
            events = world.events[t][place]
            events = fault.spoil(events, draw) if broken else events
            spikes, current = detector(events, place)
            z, count, spread = measure(spikes, place)
            energy, sensed = price(events, current), events.size
            window = (place[0].start, place[1].start, *events.shape)
            if monitor is None:
                if z is not None:
                    belief.update(z)
            elif z is not None and monitor.trusts(belief.innovation(z)[1], count, spread):
                belief.update(z)
                misses, side = 0, max(fovea, side - 4)
            else:
                misses += 1
                if misses >= monitor.patience:
                    side = max(side, min(monitor.widest, int(1.5 * side) | 1))
                if misses >= monitor.reacquire_after:
                    looked = True
                    everything = fault.spoil(world.events[t], draw) if broken else world.events[t]
                    energy += price(everything, neighbours(everything))
                    sensed = size * size
                    spot = densest_spot(everything, detector.gain)
                    if spot is not None:
                        belief.restart(spot)
                        misses, side = 0, max(fovea, 15)
        alarm = monitor is not None and misses >= monitor.patience
        error = float(np.hypot(*(belief.place - world.positions[t])))
        rows.append(
            (
                error,
                sensed / size**2,
                energy,
                alarm,
                belief.place.copy(),
                belief.covariance[:2, :2].copy(),
                window,
                looked,
            )
        )
    return LoopTrace(*(np.array(column) for column in zip(*rows, strict=True)))
