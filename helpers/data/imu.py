"""Simulated wearers: what an accelerometer and a gyroscope on a wrist say while somebody walks, runs, sits.

    a_k(t) = G·A_c·g_k·[sin(2πft + φ + 0.7k) + h_c·sin(4πft + 2φ + k)] + gravity_c,k        acceleration, in g
    w_k(t) = G·R_c·r_k·sin(2πft + φ + 1.1k)                                                  turning
    both turned by the strap, then noise;     f = pace·f_c, φ drawn for each window, G the wearer's gain

for activity c and axis k. A window is 64 samples at 32 Hz of six channels. Cut into T frames, a frame's samples are the
inputs of one timestep. Real recordings come in the same type: helpers/data/imu_files.py.

Source: this course's simulation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers.data.checks import whole

ACTIVITIES = ("walk", "run", "stairs", "sit", "stand", "lie")
RATE, SAMPLES = 32, 64
TONES = torch.tensor([1.6, 2.6, 1.9, 0.0, 0.0, 0.0])
SWINGS = torch.tensor([0.6, 1.2, 0.8, 0.05, 0.05, 0.05])
HARMONICS = torch.tensor([0.2, 0.5, 0.6, 0.0, 0.0, 0.0])
AXES = torch.tensor([1.0, 0.6, 0.9])
GRAVITY = torch.tensor([[0, 0, 1], [0, 0, 1], [0, 0.3, 0.95], [0, 0.7, 0.7], [0, 0, 1], [1, 0, 0]])
TURNS = torch.tensor([0.3, 0.8, 0.5, 0.05, 0.02, 0.02])
TURN_AXES = torch.tensor([0.5, 1.0, 0.7])
NOISE = 0.15


@dataclass(frozen=True)
class Motion:
    """Windows of motion.

    Args:
        samples: [N, S, C], float32; accelerations in g come first.
        labels: [N], int64, into `activities`.
        people: [N], int64: who wore the sensor.
        activities: their names.
        rate: samples a second.
        trials: [N], int64: which recording a window was cut from; None where each window is its own.
        names: of the people, where they have any.

    Raises:
        ValueError: lengths that differ, or samples that are not [N, S, C].
    """

    samples: Tensor
    labels: Tensor
    people: Tensor
    activities: tuple[str, ...] = ACTIVITIES
    rate: float = RATE
    trials: Tensor | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.samples.dim() != 3 or not len(self.samples) == len(self.labels) == len(self.people):
            raise ValueError(
                f"samples have shape {tuple(self.samples.shape)}, labels {tuple(self.labels.shape)} and people "
                f"{tuple(self.people.shape)}, but windows [N, samples, channels] with a label and a person each are needed."
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, chosen: Tensor | slice) -> "Motion":
        """Some of the windows: an index, a mask or a slice."""
        return replace(
            self,
            samples=self.samples[chosen],
            labels=self.labels[chosen],
            people=self.people[chosen],
            trials=None if self.trials is None else self.trials[chosen],
        )

    def worn_by(self, *names: str) -> Tensor:
        """Which windows these people wore, [N], bool.

        Raises:
            ValueError: somebody who is not among `names`.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(
                f"{', '.join(unknown)} wore none of these: they are {', '.join(self.names) or 'nameless'}."
            )
        return torch.isin(self.people, torch.tensor([self.names.index(name) for name in names]))

    def turned(self, wearer: "Wearer") -> "Motion":
        """The same movements with the strap turned as this wearer's is; every three channels are a vector."""
        vectors = self.samples.unflatten(-1, (-1, 3)) @ wearer.rotation.T
        return replace(self, samples=vectors.flatten(-2))

    def frames(self, timesteps: int = 16) -> Tensor:
        """The windows cut into frames, time first: [T, N, S/T·C]; a frame holds its samples one after the other.

        Raises:
            ValueError: a number of frames that does not divide the window, or no windows.
        """
        whole("timesteps", timesteps)
        count, length, channels = self.samples.shape
        if not count:
            raise ValueError("there are no windows, but at least one is needed to be cut into frames.")
        if length % timesteps:
            raise ValueError(
                f"timesteps is {timesteps}, but a window of {length} samples can only be cut into frames of equal length: "
                f"choose a divisor of {length}."
            )
        return self.samples.reshape(count, timesteps, -1).transpose(0, 1).contiguous()


@dataclass(frozen=True)
class Wearer:
    """How one person wears the band and moves.

    Args:
        axis, angle: the strap is turned by `angle` rad about `axis`.
        pace: factor on all frequencies, above 0.
        gain: factor on all movements, above 0.

    Raises:
        ValueError: an axis of length 0, or a number that is not finite or not above 0.
    """

    axis: tuple[float, float, float] = (1.0, 0.0, 0.0)
    angle: float = 0.0
    pace: float = 1.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        numbers = (*self.axis, self.angle, self.pace, self.gain)
        if not (all(map(math.isfinite, numbers)) and any(self.axis) and self.pace > 0 and self.gain > 0):
            raise ValueError(
                f"axis is {self.axis}, angle {self.angle}, pace {self.pace} and gain {self.gain}, but all must be finite, "
                "the axis must have a direction, and pace and gain must be above 0."
            )

    @property
    def rotation(self) -> Tensor:
        """[3, 3], by Rodrigues' formula."""
        x, y, z = (value / math.hypot(*self.axis) for value in self.axis)
        cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return torch.eye(3) + math.sin(self.angle) * cross + (1 - math.cos(self.angle)) * cross @ cross


def turned(angle: float = 0.9) -> Wearer:
    """The one who comes later: the strap has slipped round the wrist by `angle` rad, and the movements are smaller."""
    return Wearer((1.0, 0.5, 0.3), angle, 1.0, 0.8)


def wearers(count: int, seed: int) -> list[Wearer]:
    """People, each with a strap turned a little about a random axis, a pace and a gain of their own.

    Raises:
        ValueError: a count that is not a whole number of at least 1.
    """
    whole("count", count)
    draws = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).tolist()
    return [Wearer(tuple(d[:3]), 0.15 * d[3], 1 + 0.1 * d[4], 1 + 0.1 * d[5]) for d in draws]


def synthetic_imu(count: int, people: Sequence[Wearer], seed: int, noise: float = NOISE) -> Motion:
    """Windows of people who do one of the six activities, person and activity drawn for each window.

    Args:
        count: N, windows.
        people: at least one.
        seed: same seed, same draws, whoever the people are.
        noise: standard deviation of the sensor's noise, in each channel.

    Raises:
        ValueError: a count below 1, nobody, or a negative noise.
    """
    whole("count", count)
    if not people or not 0 <= noise < math.inf:
        raise ValueError(f"{len(people)} people and a noise of {noise} were given, but at least one and 0 are needed.")
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(ACTIVITIES), (count,), generator=draw)
    who = torch.randint(len(people), (count,), generator=draw)
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=draw)
    pace, gain = (torch.tensor([getattr(p, name) for p in people])[who] for name in ("pace", "gain"))
    rotation = torch.stack([p.rotation for p in people])[who]

    axis = torch.arange(3)
    turn = 2 * math.pi * (pace * TONES[labels])[:, None, None] * torch.arange(SAMPLES)[:, None] / RATE
    tone = torch.sin(turn + phase + 0.7 * axis)
    harmonic = HARMONICS[labels][:, None, None] * torch.sin(2 * (turn + phase) + axis)
    swing = (gain * SWINGS[labels])[:, None, None] * AXES
    acceleration = swing * (tone + harmonic) + GRAVITY[labels][:, None, :]
    turning = (gain * TURNS[labels])[:, None, None] * TURN_AXES * torch.sin(turn + phase + 1.1 * axis)
    samples = torch.cat([acceleration @ rotation.mT, turning @ rotation.mT], dim=-1)
    samples += noise * torch.randn(samples.shape, generator=draw)
    return Motion(samples, labels, who)
