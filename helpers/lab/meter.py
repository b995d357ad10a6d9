"""What a meter has counted, by layer, and what it costs. The counting itself is in energy.py, with its rules."""

import math
from dataclasses import dataclass, field

from helpers.lab.technology import CELL_JOULES, Technology, technology


@dataclass
class Layer:
    """What one layer did, summed over everything that ran inside the probe."""

    name: str
    kind: str
    """linear, conv, product (of two activations) or neuron."""
    macs: float = 0
    additions: float = 0
    """Accumulates, if all inputs were spikes."""
    spikes: bool = True
    """Whether every input seen was a spike."""
    inputs: int = 0
    nonzeros: int = 0
    weight_bits: int = 0
    activation_bits: int = 0
    state_bits: int = 0
    calls: int = 0

    @property
    def rate(self) -> float:
        """Share of inputs that were not zero (of outputs, for a neuron), in [0, 1]."""
        return self.nonzeros / self.inputs if self.inputs else 0.0


@dataclass
class Meter:
    """Counts by layer; every figure it gives is for one prediction."""

    predictions: int
    layers: dict[str, Layer] = field(default_factory=dict)
    not_counted: list[str] = field(default_factory=list)
    """Kinds of modules that ran without a product: they cost energy too, but this convention leaves them out."""

    @property
    def macs(self) -> float:
        """Multiply-accumulates a prediction, of layers whose inputs were not all spikes."""
        return sum(layer.macs for layer in self.layers.values() if not layer.spikes) / self.predictions

    @property
    def acs(self) -> float:
        """Accumulates (synaptic operations) a prediction, of layers whose inputs were all spikes."""
        return sum(layer.additions for layer in self.layers.values() if layer.spikes) / self.predictions

    @property
    def memory_bits(self) -> float:
        """Bits read and written for a prediction: weights, activations, membranes."""
        return sum(_memory_bits(layer, self.predictions) for layer in self.layers.values())

    def compute_pj(self, name: str = "45nm float32") -> float:
        """Energy of the arithmetic of one prediction, in pJ."""
        tech = technology(name)
        return self.macs * tech.mac_pj + self.acs * tech.ac_pj

    def memory_pj(self, name: str = "45nm float32") -> float:
        """Energy of the memory traffic of one prediction, in pJ, if all of it fits the technology's small cache."""
        return self.memory_bits * technology(name).bit_pj

    def predictions_per_cell(self, name: str = "45nm float32") -> float:
        """Predictions that one CR2032 coin cell pays for, arithmetic alone."""
        joules = self.compute_pj(name) * 1e-12
        return CELL_JOULES / joules if joules else math.inf

    def table(self, name: str = "45nm float32"):
        """One row a layer and a total, as a styled pandas table: counts, rates, bits and nJ of one prediction.

        Raises:
            ValueError: nothing was counted, or an unknown technology.
        """
        import pandas as pd

        if not self.layers:
            raise ValueError("nothing was counted: run the model inside the probe's block.")
        tech = technology(name)
        rows = [_row(layer, self.predictions, tech) for layer in self.layers.values()]
        frame = pd.DataFrame(rows).set_index("layer").astype({"calls": object})
        sums = frame[["MACs", "ACs", "memory [bit]", "compute [nJ]", "memory [nJ]"]].sum()
        frame.loc["total"] = {"counted as": "", "input rate": "", "calls": "", **sums}
        whole = dict.fromkeys(["MACs", "ACs", "memory [bit]"], "{:,.0f}")
        # A fixed id: pandas would draw a new one each time, and a committed notebook would never be the same twice.
        return (
            frame.style.format(whole, precision=2)
            .set_uuid("meter")
            .set_caption(
                f"One prediction in {tech.name}. Not counted: {', '.join(self.not_counted) or 'nothing'}. "
                f"Source: {tech.source}."
            )
        )


def _memory_bits(layer: Layer, predictions: int) -> float:
    return layer.weight_bits + (layer.activation_bits + layer.state_bits) / predictions


def _row(layer: Layer, predictions: int, tech: Technology) -> dict:
    macs = 0 if layer.spikes else layer.macs / predictions
    acs = layer.additions / predictions if layer.spikes else 0
    bits = _memory_bits(layer, predictions)
    return {
        "layer": layer.name,
        "counted as": "state" if layer.kind == "neuron" else "AC" if layer.spikes else "MAC",
        "input rate": f"fires {layer.rate:.3f}" if layer.kind == "neuron" else f"{layer.rate:.3f}",
        "calls": layer.calls,
        "MACs": macs,
        "ACs": acs,
        "memory [bit]": bits,
        "compute [nJ]": (macs * tech.mac_pj + acs * tech.ac_pj) / 1e3,
        "memory [nJ]": bits * tech.bit_pj / 1e3,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def compare(meters: dict[str, Meter], name: str = "45nm float32"):
    """One row a model, as a styled pandas table: MACs, ACs, memory, nJ, ratio to the first, predictions from a cell."""
    import pandas as pd

    def both(meter: Meter) -> float:
        return meter.compute_pj(name) + meter.memory_pj(name)

    first = next(iter(meters.values()))
    rows = {
        label: {
            "MACs": meter.macs,
            "ACs": meter.acs,
            "compute [nJ]": meter.compute_pj(name) / 1e3,
            "of the first": _ratio(meter.compute_pj(name), first.compute_pj(name)),
            "memory [nJ]": meter.memory_pj(name) / 1e3,
            "both, of the first": _ratio(both(meter), both(first)),
            "predictions a cell [10⁹]": meter.predictions_per_cell(name) / 1e9,
        }
        for label, meter in meters.items()
    }
    return (
        pd.DataFrame(rows)
        .T.style.format(dict.fromkeys(["MACs", "ACs"], "{:,.0f}"), precision=2)
        .set_uuid("comparison")
        .set_caption(
            f"One prediction in {technology(name).name}; one CR2032 ({CELL_JOULES:,.0f} J) pays for arithmetic alone."
        )
    )
