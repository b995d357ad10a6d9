"""Several sensors, one belief: who looks when, and whom to trust.

    round robin   agent t mod n looks; the others rest
    all           everyone looks in every frame, measurements are taken in one after the other

Each agent has clutter of its own. It measures the centroid of the spikes within 4 px of the densest 5 × 5 spot, and sends it
for 5 units of energy. The monitor believes it if νᵀS⁻¹ν < 9.2. Three misses of one agent: quarantine, its turns go to a
healthy one; in every fifth round it is tried, and one good measurement frees it. The window widens, by 1.3, only when the
team misses three times in a row.

Source: this course's model, see helpers/hardware/sensing_loops.py.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from helpers.data.checks import whole
from helpers.data.tracking import TrackingWorld
from helpers.hardware.sensing_loops import (
    ConstantVelocityBelief,
    SpikingDetector,
    measure,
    odd_window,
    price,
    window_at,
)

SCHEDULES = ("round_robin", "all")
Schedule = Literal["round_robin", "all"]
MESSAGE, OWN_CLUTTER = 5.0, 0.01


@dataclass(frozen=True)
class TeamMonitor:
    """Trust, agent by agent; the numbers of the module's text.

    Args:
        gate: largest νᵀS⁻¹ν.
        patience: misses of an agent until quarantine, and of the team until the window widens.
        probe: rounds from one trial of a quarantined agent to the next.
        widening, widest: of the window.
        trust_each: False widens the window on every miss and quarantines nobody, an over-reacting monitor.

    Raises:
        ValueError: a gate that is not above 0, a widening below 1, or a number that is not whole and at least 1.
    """

    gate: float = 9.2
    patience: int = 3
    probe: int = 5
    widening: float = 1.3
    widest: int = 33
    trust_each: bool = True

    def __post_init__(self) -> None:
        whole("patience", self.patience)
        whole("probe", self.probe)
        odd_window(self.widest)
        if not (self.gate > 0 and 1 <= self.widening < math.inf):
            raise ValueError(
                f"gate is {self.gate} and widening {self.widening}, but the gate must be above 0 and the widening 1 or more."
            )


@dataclass(frozen=True)
class StuckCorner:
    """From frame `start` until before `stop` one agent is blind, but for the 3 × 3 corner of its window, which fires."""

    start: int = 60
    stop: int = 140
    agent: int = 0


@dataclass(frozen=True)
class TeamTrace:
    """A run, frame by frame.

    Args:
        error: distance of the shared belief and the target, [T], px.
        energy: of each agent, [T, n], in units of one sensed pixel.
        quarantined: [T, n], bool.
        estimate: believed place, [T, 2].
        window: side of it, [T].
    """

    error: NDArray
    energy: NDArray
    quarantined: NDArray
    estimate: NDArray
    window: NDArray


def densest_centroid(spikes: NDArray, place: tuple[slice, slice]) -> NDArray | None:
    """Centroid (y, x) of the spikes within 4 px of the densest 5 × 5 spot; None for fewer than two spikes there."""
    if spikes.sum() < 2:
        return None
    padded = np.pad(spikes.astype(np.int64), 2)
    rows = sum(padded[k : k + spikes.shape[0]] for k in range(5))
    around = sum(rows[:, k : k + spikes.shape[1]] for k in range(5))
    top, left = np.unravel_index(np.argmax(around), around.shape)
    y, x = np.nonzero(spikes)
    near = (abs(y - top) <= 4) & (abs(x - left) <= 4)
    if near.sum() < 2:
        return None
    return np.array([y[near].mean() + place[0].start, x[near].mean() + place[1].start])


def _who_looks(
    turn_number: int, agents: int, schedule: Schedule, monitor: TeamMonitor | None, misses: NDArray
) -> list[int]:
    if schedule == "all":
        return list(range(agents))
    turn = turn_number % agents
    trusted = monitor is None or not monitor.trust_each or misses[turn] < monitor.patience
    if trusted or (turn_number // agents) % monitor.probe == 0:
        return [turn]
    healthy = [(turn + k) % agents for k in range(1, agents) if misses[(turn + k) % agents] < monitor.patience]
    return healthy[:1] or [turn]


def run_team(
    world: TrackingWorld,
    agents: int,
    schedule: Schedule = "round_robin",
    monitor: TeamMonitor | None = None,
    fault: StuckCorner | None = None,
    *,
    fovea: int = 11,
    every: int = 1,
    message: float = MESSAGE,
    everything: bool = False,
    seed: int = 0,
) -> TeamTrace:
    """Follow the target with a team.

    Args:
        world: to watch.
        agents: n, 1 to 8.
        schedule: "round_robin" or "all".
        monitor: None believes every measurement.
        fault: of one agent.
        fovea: nominal side of the window, odd, at least 3.
        every: the team senses in every so many frames only, and predicts in the others.
        message: energy that each look's message to the others costs; a single agent sends none.
        everything: the measurement is the centroid of all spikes in the window, not of those around the densest spot.
        seed: of the agents' clutter.

    Raises:
        ValueError: agents outside 1 to 8, an unknown schedule, a bad window, or a fault outside the frames or the team.
    """
    whole("agents", agents, 1, 8)
    whole("every", every)
    odd_window(fovea)
    if schedule not in SCHEDULES or not 0 <= message < math.inf:
        raise ValueError(
            f"schedule is {schedule!r} and message {message}, but one of {', '.join(SCHEDULES)} and 0 or more are needed."
        )
    if fault is not None and not (0 <= fault.start < fault.stop <= world.frames and 0 <= fault.agent < agents):
        raise ValueError(
            f"agent {fault.agent} fails in frames {fault.start} to {fault.stop}, but there are agents 0 to {agents - 1} and "
            f"{world.frames} frames."
        )
    size = world.size
    draws = [np.random.default_rng([seed, world.seed, agent]) for agent in range(agents)]  # each has clutter of its own
    belief, detector = ConstantVelocityBelief(np.full(2, (size - 1) / 2)), SpikingDetector(size)
    misses, team, side, rows = np.zeros(agents, int), 0, fovea, []
    for t in range(world.frames):
        belief.predict()
        belief.stay_inside(size)
        energy, used = np.zeros(agents), side
        place = window_at(belief.place, side, size)
        for agent in _who_looks(t // every, agents, schedule, monitor, misses) if t % every == 0 else ():
            events = world.events[t][place]
            events = events | (draws[agent].random(events.shape) < OWN_CLUTTER)
            if fault is not None and agent == fault.agent and fault.start <= t < fault.stop:
                events[:] = False
                events[:3, :3] = True
            spikes, current = detector(events, place)
            energy[agent] += price(events, current) + (message if agents > 1 else 0)
            z = measure(spikes, place)[0] if everything else densest_centroid(spikes, place)
            if z is not None and (monitor is None or belief.innovation(z)[1] < monitor.gate):
                belief.update(z)
                misses[agent], team, side = 0, 0, max(fovea, side - 4)
            elif monitor is not None:
                misses[agent] += 1
                team += 1
                if team >= (monitor.patience if monitor.trust_each else 1):
                    side = max(side, min(monitor.widest, int(monitor.widening * side) | 1))
        out = misses >= monitor.patience if monitor is not None and monitor.trust_each else np.zeros(agents, bool)
        error = float(np.hypot(*(belief.place - world.positions[t])))
        rows.append((error, energy, out.copy() if monitor is not None else out, belief.place.copy(), used))
    return TeamTrace(*(np.array(column) for column in zip(*rows, strict=True)))
