"""A device as a set of choices: which go together, and what to say where they do not."""

import contextlib
import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace

from helpers.capstone.formats import BITS, METHODS
from helpers.capstone.networks import NETWORKS, OF_WORDS, SPIKING, STEPPED
from helpers.capstone.sensing import EXPOSURE, SENSING
from helpers.capstone.substrates import SUBSTRATES
from helpers.data.checks import whole
from helpers.data.digit_scenes import DATASETS

REPRESENTATIONS = ("frames", "words")
TIMESTEPS = (2, 4, 8)
SCENES = 500


@dataclass(frozen=True)
class Choices:
    """What a device is made of. What a choice has no say in is set to one value, so that equal devices are equal.

    Args:
        sensing: "full", "fovea" or "monitor".
        every: a look in one of so many frames, 1 to 16.
        representation: "frames" or "words".
        network: one of `networks.NETWORKS`; "words" and "attention" read words, all others frames.
        timesteps: 2, 4 or 8, for "snn", "tensor-train" and "pruned"; the others have their own.
        bits: 32, 8, 4 or 3 bits a weight.
        method: "RTN", "GPTQ" or "GPTAQ".
        substrate: "digital", "dual-sparse" or "crossbar"; the last two for "snn" and "pruned".
        noise, adc_bits: of a crossbar: σ of its cells, 0 to 1, and bits of its converters, 2 to 12.
        seed: of the scenes, and of the chip.
        scenes: how many.
        dataset: whose digits go by, "digits" or "mnist"; the networks have learned from the first.

    Raises:
        ValueError: a choice that is not offered, or two that do not go together.
    """

    sensing: str = "monitor"
    every: int = 1
    representation: str = "frames"
    network: str = "snn"
    timesteps: int = 4
    bits: int = 8
    method: str = "RTN"
    substrate: str = "digital"
    noise: float = 0.0
    adc_bits: int = 6
    seed: int = 0
    scenes: int = SCENES
    dataset: str = "digits"

    def __post_init__(self) -> None:
        offered = {
            "sensing": SENSING,
            "representation": REPRESENTATIONS,
            "network": NETWORKS,
            "bits": BITS,
            "method": METHODS,
            "substrate": SUBSTRATES,
            "dataset": DATASETS,
        }
        for name, options in offered.items():
            if getattr(self, name) not in options:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but it must be one of {', '.join(map(str, options))}."
                )
        for name, low, high in (("every", 1, EXPOSURE), ("seed", 0, None), ("scenes", 1, None), ("adc_bits", 2, 12)):
            self._set(name, whole(name, getattr(self, name), low, high))
        self._set("bits", int(self.bits))
        self._check_pairs()
        self._set("noise", float(self.noise))
        if self.network not in STEPPED:
            self._set("timesteps", 1)
        elif self.timesteps not in TIMESTEPS:
            raise ValueError(f"timesteps is {self.timesteps}, but it must be one of {', '.join(map(str, TIMESTEPS))}.")
        else:
            self._set("timesteps", int(self.timesteps))
        if self.bits in (8, 32):  # nothing to choose: at eight bits rounding is as good
            self._set("method", "RTN")
        if self.substrate != "crossbar":
            self._set("noise", 0.0)
            self._set("adc_bits", 6)

    def _check_pairs(self) -> None:
        of_words = self.network in OF_WORDS
        if of_words != (self.representation == "words"):
            fits = OF_WORDS if not of_words else [name for name in NETWORKS if name not in OF_WORDS]
            raise ValueError(
                f"{self.network} cannot read {self.representation}: choose "
                f"{'words' if of_words else 'frames'}, or another network ({', '.join(fits)})."
            )
        if self.substrate != "digital" and self.network not in SPIKING:
            raise ValueError(
                f"{self.network} cannot run on the {self.substrate} substrate, whose rows take spikes alone: choose "
                f"{' or '.join(SPIKING)}, or the digital one."
            )
        if self.substrate != "digital" and self.bits == 32:
            raise ValueError(f"{self.substrate} holds whole numbers of few bits: choose 8, 4 or 3 bits, not 32.")
        if self.network == "attention" and self.bits != 32:
            raise ValueError(
                f"bits is {self.bits}, but attention stays in 32: its softmax and norms need them, so choose 32, or words."
            )
        rounded = self.substrate == "crossbar" or self.network == "ttfs"
        if rounded and self.method != "RTN" and self.bits not in (8, 32):
            raise ValueError(
                f"{self.network} on the {self.substrate} substrate is rounded to nearest: choose RTN, not {self.method}."
            )
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}, but σ of the cells must lie in [0, 1].")

    def _set(self, name: str, value) -> None:
        object.__setattr__(self, name, value)

    @property
    def key(self) -> str:
        """A hash of all choices."""
        said = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def but(self, **changes) -> "Choices":
        """The same device with other choices; a network of T timesteps that comes in gets four, unless it is told."""
        if self.timesteps not in TIMESTEPS:
            changes = {"timesteps": 4, **changes}
        return replace(self, **changes)

    def __str__(self) -> str:
        looks = {1: "each frame", 2: "every 2nd frame", 3: "every 3rd frame"}.get(
            self.every, f"every {self.every}th frame"
        )
        steps = f" T = {self.timesteps}" if self.network in STEPPED else ""
        how = "" if self.bits in (8, 32) else f" {self.method}"
        where = (
            f"crossbar σ {self.noise:g}, {self.adc_bits}-bit ADC" if self.substrate == "crossbar" else self.substrate
        )
        return f"{self.sensing}, {looks} · {self.network}{steps} · {self.bits} bits{how} · {where}"


CHIPS = ((0.0, 6), (0.3, 6), (0.0, 4))
"""Noise and converter bits of the crossbars that ship, all with weights of 4 bits."""


def grid() -> list[Choices]:
    """Every device whose result ships: all choices that go together, but crossbars only as CHIPS."""
    tails: dict[Choices, None] = {}
    methods = ("RTN", "GPTAQ")
    for network, substrate, bits, method, timesteps, (noise, adc) in itertools.product(
        NETWORKS, SUBSTRATES, BITS, methods, TIMESTEPS, CHIPS
    ):
        if substrate == "crossbar" and bits != 4:
            continue
        words = "words" if network in OF_WORDS else "frames"
        with contextlib.suppress(ValueError):  # choices that do not go together
            made = Choices("monitor", 1, words, network, timesteps, bits, method, substrate, noise, adc)
            tails[made] = None
    return [made.but(sensing=s, every=k) for made in tails for s in SENSING for k in (1, 2, 4)]
