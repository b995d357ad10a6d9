"""The course's methods on their own tasks: energy over their own baseline's, and what became of the quality.

Qualities come from the recorded results of their lessons, a figure a seed. So do energies where a lesson recorded one;
elsewhere the meter counts again, on nets of the same shape. Each row compares within its own task, its own node and its own
table: rows are never added, and their energies are ratios.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from helpers.hardware.attention_cost import VitShape, factors
from helpers.hardware.training_cost import savings
from helpers.lab import energy, ledger
from helpers.lab.technology import technology
from helpers.models.gpt import pydoc_gpt
from helpers.models.vit import glyph_vit
from helpers.prompts.one_stage_prompts import PromptedViT
from helpers.prompts.open_world import LEARNERS, Embedder
from helpers.prompts.pools import PromptPool

PICTURES, SIDE = 20, 8
"""Pictures on which prompts are metered, and their side: what a pass costs does not depend on what it sees."""


@dataclass(frozen=True)
class Method:
    """A method on its own task.

    Args:
        name: of the method.
        lesson: where it was measured.
        measure: of its task.
        over: its baseline.
        energy: of the baseline's energy, a mean.
        quality: change of the measure relative to the baseline's, in percent, above 0 is better; a value a seed.
    """

    name: str
    lesson: str
    measure: str
    over: str
    energy: float
    quality: tuple[float, ...]


def _values(lesson: str) -> dict[str, list]:
    return ledger.recorded(lesson)["values"]


def _better(ours: list[float], theirs: list[float], low_is_good: bool = False) -> tuple[float, ...]:
    """By how many percent, seed by seed."""
    pairs = zip(ours, theirs, strict=True)
    return tuple(100 * ((b / a if low_is_good else a / b) - 1) for a, b in pairs)


def _metered(net: nn.Module, *given: torch.Tensor, **how) -> float:
    with energy.probe(net, **how) as meter:
        net(*given)
    return meter.compute_pj() + meter.memory_pj()


def spiking() -> Method:
    """01.1: eight steps of direct code over the ANN twin."""
    v, at = _values("01_neurons/01_spiking_neurons"), 3
    right = [each[at] for each in v["accuracy_direct"]]
    spent = statistics.fmean(each[at] for each in v["energy_direct"])
    return Method("SNN, 8 steps", "01.1", "accuracy", "its ANN twin", spent, _better(right, v["ann_accuracy"]))


def first_spikes() -> Method:
    """02.1: TTFS with learned delays over its ANN twin."""
    v = _values("02_ttfs/01_skip_delays")
    spent = statistics.fmean(v["energy_delay"])
    return Method(
        "TTFS, delays", "02.1", "accuracy", "its ANN twin", spent, _better(v["accuracy_delay"], v["ann_accuracy"])
    )


def statten() -> Method:
    """03.1: attention over all timesteps over attention in each, on the delayed match."""
    v = _values("03_statten/01_spatial_temporal_attention")
    spent = statistics.fmean(v["energy_ratio"])
    return Method("STAtten", "03.1", "accuracy", "attention in each step", spent, _better(v["sighted"], v["blind"]))


def tensor_train() -> Method:
    """03.2: four cores over the whole kernel, in spikes."""
    v = _values("03_statten/02_tensor_train")
    spent = statistics.fmean(v["cores_energy"])
    return Method(
        "TT-SNN, cores", "03.2", "accuracy", "whole kernels", spent, _better(v["accuracy_ptt"], v["accuracy_dense"])
    )


def respike() -> Method:
    """04.1: key frames and residuals over the ordinary twin."""
    v, tech = _values("04_respike/01_hybrid_action_recognition"), technology("45nm float32")

    def spent(name: str) -> float:
        return statistics.fmean(v[f"macs_{name}"]) * tech.mac_pj + statistics.fmean(v[f"acs_{name}"]) * tech.ac_pj

    quality = _better(v["accuracy_hybrid"], v["accuracy_twin"])
    return Method("ReSpike", "04.1", "accuracy", "its ordinary twin", spent("hybrid") / spent("twin"), quality)


def one_stage() -> Method:
    """05.1: OS-Prompt over CODA-Prompt, which passes twice."""
    v, vit = _values("05_prompts/01_one_stage_prompts"), glyph_vit()
    x = torch.rand(PICTURES, 1, SIDE, SIDE)
    once, twice = (
        _metered(PromptedViT(vit, PromptPool(vit.dim, kind=kind), 20).eval(), x, predictions=PICTURES)
        for kind in ("os", "coda")
    )
    quality = _better(v["accuracy_OS-Prompt"], v["accuracy_CODA-Prompt"])
    return Method("OS-Prompt", "05.1", "accuracy, 20 classes", "CODA-Prompt", once / twice, quality)


def open_world() -> Method:
    """05.2: a joint learner with a prompt generator over the static pool."""
    v, vit, spent = _values("05_prompts/02_open_world_prompts"), glyph_vit(), {}
    x = torch.rand(PICTURES, 1, SIDE, SIDE)
    for name in ("joint", "OS pool"):
        net = Embedder(vit, LEARNERS[name]).eval()
        net.start_stage(0)
        spent[name] = _metered(net, x, predictions=PICTURES)
    quality = _better([r[-1] for r in v["recall_joint"]], [r[-1] for r in v["recall_OS_pool"]])
    return Method("DPaRL-style", "05.2", "Recall@1", "a static pool", spent["joint"] / spent["OS pool"], quality)


def _few_bits(name: str, lesson: str, number: str, key: str, bits: int) -> Method:
    v, gpt = _values(lesson), pydoc_gpt()
    byte = torch.zeros(1, 1, dtype=torch.int64)
    few, full = (_metered(gpt, byte, weight_bits=width) for width in (bits, 32))
    quality = _better(v[key], v["full_ppl"], low_is_good=True)
    return Method(name, number, "perplexity", "32 bits", few / full, quality)


def gptaq() -> Method:
    """06.1: three bits, weights alone: what is moved shrinks, arithmetic stays float32."""
    return _few_bits("GPTAQ, 3 bits", "06_quantization/01_gptaq", "06.1", "ppl_gptaq_3", 3)


def tesseraq() -> Method:
    """06.2: two bits."""
    return _few_bits("TesseraQ, 2 bits", "06_quantization/02_tesseraq", "06.2", "ppl_2_bits_a_scale_a_row_TesseraQ", 2)


def attention_reuse() -> Method:
    """07.2: two of six encoders reuse, by block, in the crossbar model of that lesson."""
    v = _values("07_hardware/02_attention_reuse")
    right = [after for _, after in v["chosen_least_sensitive_2_block"]]
    spent = 1 / factors(VitShape(6, 24, 17, 4), 2)["energy"]
    return Method("TReX, 2 of 6 reuse", "07.2", "accuracy", "all look", spent, _better(right, v["rival"]))


def feedback() -> Method:
    """07.3: direct feedback over backpropagation, on reads with σ = 0.08; energy of a training step."""
    v, at = _values("07_hardware/03_feedback_alignment"), 2
    spent = 1 - savings((24, *[96] * 5, 6), 4)["energy"]
    quality = _better([r[at] for r in v["dfa_5"]], [r[at] for r in v["bp_5"]])
    return Method("direct feedback", "07.3", "accuracy after adapting", "backpropagation", spent, quality)


def fovea() -> Method:
    """07.5: a window of 13 × 13 over all pixels; tracking error."""
    v = _values("07_hardware/05_sensing_loops")
    window, whole = v["window_13"], v["window_all"]
    spent = statistics.fmean(r[0] for r in window) / statistics.fmean(r[0] for r in whole)
    quality = _better([r[1] for r in window], [r[1] for r in whole], low_is_good=True)
    return Method("fovea, 13 × 13", "07.5", "tracking error", "all pixels", spent, quality)


METHODS: tuple[Callable[[], Method], ...] = (
    *(spiking, first_spikes, statten, tensor_train, respike, one_stage, open_world),
    *(gptaq, tesseraq, attention_reuse, feedback, fovea),
)


def other_tasks() -> list[Method]:
    """Every method, in course order."""
    return [make() for make in METHODS]
