"""What computes: a digital chip step by step, one that joins packed spikes with sparse weights, or crossbars.

    digital       what the meter saw: weights once, a membrane in every step
    dual-sparse   spikes as words of T bits, weights that are not zero, all steps of a neuron together (LoAS's dataflow): an
                  addition where a neuron that speaks meets a weight, one more for each step in which it is silent, and no
                  membrane is ever stored
    crossbar      64 × 64 cells of one bit, programmed with an error, 64-row sums read by converters; batch norm is
                  told what became of them; priced by SpikeSim

Votes of "dual-sparse" are those of "digital", because its sums are exact; the lesson on LoAS shows it. A crossbar's energy
is in SpikeSim's own technology, and is never added to another's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from helpers.capstone.formats import ACTIVATION_BITS, is_small, patches, word_bits
from helpers.capstone.networks import WordSum
from helpers.data.events import EventBatch
from helpers.hardware.crossbar_layers import calibrate_adc, map_network
from helpers.hardware.crossbars import ArrayConfig, DeviceConfig
from helpers.hardware.spikesim import SpikeSimCost, shapes_of
from helpers.lab import energy
from helpers.lab.meter import Layer, Meter
from helpers.models.batchnorm import recompute_batchnorm
from helpers.ttfs.costs import bill
from helpers.ttfs.skip_delays import TTFSNet

SUBSTRATES = ("digital", "dual-sparse", "crossbar")


def digital(net: nn.Module, given: Tensor | EventBatch, scenes: int) -> tuple[Tensor, Meter]:
    """Votes [B, 10] of a network, the largest wins, and what the meter saw.

    Args:
        net: as it was shipped, or quantized.
        given: what it is called with.
        scenes: B.
    """
    width = ACTIVATION_BITS if is_small(net) else None
    if isinstance(net, TTFSNet):
        meter = bill(net, given)
        for name, module in [("encoder", net.encoder[0]), *zip(list(meter.layers)[1:], net.layers, strict=True)]:
            layer = meter.layers[name]
            layer.weight_bits = getattr(module, "stored_bits", layer.weight_bits)
        if width:
            meter.layers["encoder"].activation_bits *= width / 32
        return -net(given), meter  # who fires first has the vote
    with energy.probe(net, predictions=scenes, activation_bits=width) as meter:
        votes = net(given)
    if isinstance(net, WordSum):
        meter.layers = {"table": _table(net, given), **meter.layers}
    return votes, meter


def _table(net: WordSum, events: EventBatch) -> Layer:
    """The rows that were read, and added up."""
    count, dim = int(events.mask.sum()), net.space.dim
    rows = count * dim * word_bits(net)
    additions = count * dim
    return Layer("table", "lookup", additions, additions, inputs=count, nonzeros=count, activation_bits=rows, calls=1)


def dual_sparse(net: nn.Module, given: Tensor, scenes: int) -> tuple[Tensor, Meter]:
    """Votes [B, 10], and the bill of a dataflow that packs spikes in words and skips silent neurons and zero weights.

    Args:
        net: a `DigitNet` all of whose products have spikes on one side, quantized.
        given: spikes [T, B, 2, 16, 16].
        scenes: B.
    """
    timesteps = len(given)
    layers = [(name, part) for name, part in net.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    with _inputs([part for _, part in layers]) as heard, torch.no_grad():
        votes = net(given)
    meter = Meter(scenes, not_counted=["MaxPool2d", "neuron updates"])
    for (name, part), x in zip(layers, heard, strict=True):
        meter.layers[name] = _joined(name, part, x.reshape(timesteps, scenes, *x.shape[1:]))
    return votes, meter


@contextmanager
def _inputs(layers: list[nn.Module]) -> Iterator[list[Tensor]]:
    heard: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _m, inputs: heard.append(inputs[0])) for layer in layers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _joined(name: str, layer: nn.Module, x: Tensor) -> Layer:
    """One layer's share: x are its spikes, [T, B, …]."""
    timesteps, scenes = x.shape[:2]
    if not bool(((x == 0) | (x == 1)).all()):
        raise ValueError(f"{name} hears numbers, but only spikes can be packed and joined.")
    weight = layer.weight.flatten(1)
    kept = (weight != 0).sum(0).float()  # of each input: the outputs that it reaches
    spikes = torch.stack([patches(layer, step).flatten(0, 1) for step in x])  # [T, M, K]
    spoken = spikes.any(0)
    # A match adds its weight once; then it is taken back in every step in which the neuron was silent.
    matches = float((spoken * kept).sum())
    corrections = float(((timesteps * spoken - spikes.sum(0)) * kept).sum())
    words = x.any(0)
    packed = words.numel() + timesteps * int(words.sum()) + 32 * scenes
    bits = layer.stored_bits / layer.weights if hasattr(layer, "stored_bits") else 32
    return Layer(
        name,
        "joined",
        macs=float(len(weight)) * spikes.numel(),
        additions=matches + corrections,
        inputs=spikes.numel(),
        nonzeros=int(spikes.sum()),
        weight_bits=weight.numel() + round(int((weight != 0).sum()) * bits),
        activation_bits=2 * packed,
        calls=1,
    )


def crossbar(
    net: nn.Module,
    given: Tensor,
    calibration: Tensor,
    *,
    bits: int,
    noise: float,
    adc_bits: int,
    seed: int,
) -> tuple[Tensor, dict[str, float]]:
    """Votes [B, 10] as they come out of converters, and SpikeSim's energy of a prediction, part by part, in pJ.

    Args:
        net: a spiking `DigitNet` in full precision: the chip rounds its weights itself.
        given: spikes [T, B, 2, 16, 16].
        calibration: spikes without labels, by which the converters' ranges and the batch norms are set.
        bits: of a weight.
        noise: σ of the logarithm of a cell's conductance.
        adc_bits: of a converter.
        seed: of the chip.
    """
    array = ArrayConfig(adc_bits=adc_bits, adc_range="calibrated")
    chip = map_network(net, DeviceConfig(sigma=noise), array, bits, seed)
    calibrate_adc(chip, calibration)
    recompute_batchnorm(chip, [calibration])  # what became of the layers' ranges, digitally made up for
    cost = SpikeSimCost(shapes_of(net, given[:, :1]), timesteps=len(given), membrane_layers=None)
    with torch.no_grad():
        return torch.cat([chip(part) for part in given.split(64, dim=1)]), cost.energy_parts()
