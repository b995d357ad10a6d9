"""`pipeline(**choices)`: a whole device, run from end to end over the same held-out scenes, and kept by hash.

    scenes → eye → frames or words → network, in its bits, on its substrate → "there, and a 7" → right or wrong, and the bill

Nothing is multiplied in from another lesson: every figure comes from running these choices together. Results of
`choices.grid` ship in data/pipelines.json, made by course/subjects/capstone_plane.py; others are run once and kept in
data/external/pipelines/.
"""

import functools
import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers import ROOT
from helpers.capstone import formats, substrates
from helpers.capstone.bill import SHORT, Part, total_pj
from helpers.capstone.choices import Choices
from helpers.capstone.networks import SUBJECT, input_of, shipped
from helpers.capstone.sensing import FOUND, Seen, watch
from helpers.data.digit_scenes import DigitScene, digit_scenes
from helpers.data.subjects import load_subject
from helpers.lab.meter import Meter

PLANE = ROOT / "data" / "pipelines.json"
KEPT = ROOT / "data" / "external" / "pipelines"
CALIBRATION = 128
"""Training scenes by which grids and converters are set."""


@dataclass(frozen=True)
class Result:
    """A device that was run.

    Args:
        choices: what it is made of.
        right: scenes in which the digit was found and named.
        found: scenes in which it was found.
        parts: what a prediction costs, by part: look, detect, believe and network.
        chip_pj: of a crossbar's network, in SpikeSim's technology, by part; empty elsewhere.
        seconds: what the run took: sensing, and the rest.
        meters: as they counted; None where the result was read, not run.
    """

    choices: Choices
    right: int
    found: int
    parts: dict[str, Part]
    chip_pj: dict[str, float]
    seconds: tuple[float, float]
    meters: dict[str, Meter] | None = field(default=None, compare=False, repr=False)

    @property
    def accuracy(self) -> float:
        """Share of scenes in which the digit was found and named."""
        return self.right / self.choices.scenes

    def pj(self, node: str = "45nm", numbers: str | None = None) -> float:
        """Energy of a prediction, in pJ; arguments as for `Part.pj`.

        Raises:
            ValueError: the network ran on crossbars, which have another technology's prices: see `chip_pj` and `parts`.
        """
        if self.chip_pj:
            raise ValueError(
                "the network of this device is priced in SpikeSim's technology, the eye in another, and the two are never "
                "added: take sum(result.chip_pj.values()) and the parts of the eye apart."
            )
        return total_pj(self.parts, node, numbers)

    @functools.cached_property
    def nj(self) -> float:
        """Energy of a prediction at 45 nm, in nJ; errors as `pj`."""
        return self.pj() / 1e3


def pipeline(*, again: bool = False, **choices) -> Result:
    """Run a device, or read what it did when it was run.

    Args:
        again: run it even if its result is known; the meters come with it.
        choices: see `Choices`.

    Returns:
        Its `Result`.

    Raises:
        ValueError: choices that do not go together, before any work.
        DataError: the networks' file is missing or broken.
    """
    made = Choices(**choices)
    if not again and (found := known(made)) is not None:
        return found
    result = run(made)
    _keep(result)
    return result


def run(made: Choices) -> Result:
    """Run a device over its scenes."""
    begun = time.perf_counter()
    which = (made.seed, made.scenes, made.dataset)
    labels, seen = torch.tensor([scene.label for scene in _scenes(*which)]), _seen(which, made.sensing, made.every)
    sensed = time.perf_counter()
    given = input_of(made.network, seen.crops, made.timesteps)
    meters, chip_pj = dict(seen.meters), {}
    if made.substrate == "crossbar":
        calibration = input_of(made.network, _calibration(made.every), made.timesteps)
        settings = {"bits": made.bits, "noise": made.noise, "adc_bits": made.adc_bits, "seed": made.seed}
        votes, chip_pj = substrates.crossbar(shipped(made.network), given, calibration, **settings)
    else:
        net = _network(made.network, made.timesteps, made.bits, made.method, made.every)
        compute = substrates.digital if made.substrate == "digital" else substrates.dual_sparse
        votes, meters["network"] = compute(net, given, made.scenes)
    there = seen.error < FOUND
    right = there & (votes.argmax(1) == labels)
    numbers = {**SHORT, "network": "float32" if made.bits == 32 else "int8"}
    parts = {name: Part.of(meter, numbers[name]) for name, meter in meters.items()}
    seconds = (sensed - begun, time.perf_counter() - sensed)
    return Result(made, int(right.sum()), int(there.sum()), parts, chip_pj, seconds, meters)


@functools.lru_cache(maxsize=4)
def _scenes(seed: int, count: int, dataset: str) -> list[DigitScene]:
    return digit_scenes(count, seed, dataset=dataset)


@functools.lru_cache(maxsize=16)
def _seen(which: tuple[int, int, str], sensing: str, every: int) -> Seen:
    return watch(_scenes(*which), sensing, every)


@functools.cache
def _calibration(every: int) -> Tensor:
    """What the eye saw of some training scenes, [CALIBRATION, 16, 2, 16, 16]."""
    return watch(digit_scenes(CALIBRATION, 1, "train"), "monitor", every).crops


@functools.lru_cache(maxsize=64)
def _network(name: str, timesteps: int, bits: int, method: str, every: int) -> nn.Module:
    if bits == 32:
        return shipped(name)
    given = input_of(name, _calibration(every), timesteps)
    return formats.quantized(shipped(name), given, bits, method)


def known(made: Choices) -> Result | None:
    """The result of a device that was run before, or None."""
    if made.key in _plane():
        return _plane()[made.key]
    path = KEPT / f"{made.key}-{_state()}.json"
    if not path.is_file():
        return None
    try:
        return unpacked(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError):  # half a file of a machine that went down: run it again
        return None


@functools.cache
def _state() -> str:
    """A hash of the networks and of this package: what was kept with others no longer counts."""
    import hashlib

    sources = sorted(Path(__file__).parent.glob("*.py"))
    said = load_subject(SUBJECT)[1]["sha256"].encode() + b"".join(path.read_bytes() for path in sources)
    return hashlib.sha256(said).hexdigest()[:12]


def _keep(result: Result) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{result.choices.key}-{_state()}.json"
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(packed(result)), encoding="utf-8")
    os.replace(scratch, path)


def packed(result: Result) -> dict:
    """A result as plain numbers, for JSON; what is 0 is left out."""
    numbers = [f.name for f in fields(Part) if f.name != "numbers"]
    parts = {
        name: [part.numbers, {key: round(getattr(part, key), 3) for key in numbers if getattr(part, key)}]
        for name, part in result.parts.items()
    }
    default = Choices()
    said = {key: value for key, value in asdict(result.choices).items() if value != getattr(default, key)}
    chip = {key: round(value, 3) for key, value in result.chip_pj.items()}
    seconds = [round(value, 2) for value in result.seconds]
    return {"choices": said, "right": result.right, "found": result.found, "parts": parts, "chip": chip, "s": seconds}


def unpacked(kept: dict) -> Result:
    """The result again."""
    parts = {name: Part(numbers, **counts) for name, (numbers, counts) in kept["parts"].items()}
    made = Choices(**kept["choices"])
    return Result(made, kept["right"], kept["found"], parts, kept["chip"], tuple(kept["s"]))


@functools.cache
def _plane() -> dict[str, Result]:
    if not PLANE.is_file():
        return {}
    content = json.loads(PLANE.read_text(encoding="utf-8"))
    if content["networks"] != load_subject(SUBJECT)[1]["sha256"]:
        return {}  # other networks: what ships is no longer about these
    return {result.choices.key: result for result in map(unpacked, content["results"])}


def plane() -> list[Result]:
    """Every device whose result ships, in the order of `choices.grid`."""
    return list(_plane().values())


def expected_seconds(made: Choices, results: Iterable[Result] | None = None) -> float:
    """How long a device will take to run, from what its like took when the shipped results were made.

    Args:
        made: the device.
        results: to judge by; None takes those that ship.
    """
    results = plane() if results is None else list(results)
    eyes = [r for r in results if r.choices.sensing == made.sensing and sum(r.seconds)]
    # The pace that is nearest: a look less often takes a little less.
    pace = min((r.choices.every for r in eyes), key=lambda every: abs(every - made.every), default=None)
    eye = max((r.seconds[0] for r in eyes if r.choices.every == pace), default=0.0)
    like = [
        r.seconds[1]
        for r in results
        if (r.choices.network, r.choices.timesteps, r.choices.substrate)
        == (made.network, made.timesteps, made.substrate)
    ]
    rest = statistics.median(like) if like else 0.0
    return (eye + rest) * made.scenes / Choices().scenes
