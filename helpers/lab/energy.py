"""The one meter: what a model did on the data it saw, and what that costs in a named technology.

    with energy.probe(model, predictions=len(images)) as meter:
        model(images)
    meter.table("45nm float32")

Rules, the same in every chapter:

1. A multiply-accumulate (MAC) becomes an accumulate (AC) only if *every* input that the layer saw was a spike: in {0, 1}
   or {-1, 0, 1}; a gate's {0, 1, 2} costs its value in additions. Pooled spikes are fractions, so they cost MACs.
2. What ran is counted: a first layer computed once counts once, one computed in every step counts T times.
3. A MAC is one multiply and one add, never two "FLOPs". ACs are MACs times the share of additions in the input.
   A convolution's padding counts like its inside.
4. Batch norm is folded into the weights; neuron updates, softmax and norms are listed as not counted.
5. A zero weight saves nothing: a design that skips it must say so itself.

Memory traffic of one prediction at a time: a layer's weights are read once a call; its inputs are written once by
whoever made them and read once here (a spike is 1 bit, a signed one 2); a membrane is read and written in each step.

Source of the convention: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.lab.technology import CELL_JOULES, Technology, technology

aten = torch.ops.aten
# Where an operand that is not a weight stands among the arguments of a product: (left, right).
PRODUCTS = {
    aten.mm: (0, 1),
    aten.addmm: (1, 2),
    aten.mv: (0, 1),
    aten.addmv: (1, 2),
    aten.bmm: (0, 1),
    aten.baddbmm: (1, 2),
}
CONVOLUTIONS = {aten.convolution, aten._convolution}


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a spiking layer, ours or snntorch's: it has a decay and a threshold."""
    return hasattr(module, "threshold") and hasattr(module, "beta") and not isinstance(module, nn.Softplus)


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
        """One row a layer and a total, as a pandas DataFrame: counts, rates, bits and nJ of one prediction."""
        import pandas as pd

        tech = technology(name)
        rows = [_row(layer, self.predictions, tech) for layer in self.layers.values()]
        frame = pd.DataFrame(rows).set_index("layer").astype({"calls": object})
        sums = frame[["MACs", "ACs", "memory [bit]", "compute [nJ]", "memory [nJ]"]].sum()
        frame.loc["total"] = {"counted as": "", "input rate": "", "calls": "", **sums}
        whole = dict.fromkeys(["MACs", "ACs", "memory [bit]"], "{:,.0f}")
        # A fixed id: pandas would draw a new one each time, and a committed notebook would never be the same twice.
        return frame.style.format(whole, precision=2).set_uuid("meter").set_caption(
            f"One prediction in {tech.name}. Not counted: {', '.join(self.not_counted) or 'nothing'}. Source: {tech.source}."
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


def compare(meters: dict[str, Meter], name: str = "45nm float32"):
    """One row a model, as a pandas DataFrame: MACs, ACs, memory, nJ, ratio to the first, predictions from one coin cell."""
    import pandas as pd

    first = next(iter(meters.values())).compute_pj(name)
    rows = {
        label: {
            "MACs": meter.macs,
            "ACs": meter.acs,
            "memory [bit]": meter.memory_bits,
            "compute [nJ]": meter.compute_pj(name) / 1e3,
            "of the first": meter.compute_pj(name) / first if first else math.nan,
            "predictions a cell [10⁹]": meter.predictions_per_cell(name) / 1e9,
        }
        for label, meter in meters.items()
    }
    return (
        pd.DataFrame(rows)
        .T.style.format(dict.fromkeys(["MACs", "ACs", "memory [bit]"], "{:,.0f}"), precision=2)
        .set_uuid("comparison")
        .set_caption(f"One prediction in {technology(name).name}; one CR2032 holds {CELL_JOULES:,.0f} J.")
    )


@contextmanager
def probe(model: nn.Module, predictions: int = 1, weight_bits: int | None = None) -> Iterator[Meter]:
    """Count every product that `model` computes inside the block, without gradients.

    Linear layers, convolutions of any dimension, matrix products of two activations (attention) and fused attention
    are seen by a dispatch mode, so a product outside any layer counts too. Results are unchanged.

    Args:
        model: any module. Its submodules' names become the layers' names.
        predictions: how many predictions the block makes (images, not timesteps); every figure is divided by it.
        weight_bits: bits a stored weight has; None takes them from its type.

    Raises:
        ValueError: predictions is below 1.
    """
    if predictions < 1:
        raise ValueError(f"predictions is {predictions}, but at least one must be made: pass the number of inputs.")
    meter = Meter(predictions)
    where: list[list] = [["(outside)", 0, None, False]]  # name, products so far, module, whether it counted any
    hooks = []

    def enter(name: str):
        return lambda module, _inputs: where.append([name or type(module).__name__, 0, module, False])

    def leave(module, _inputs, output) -> None:
        name, _, _, counted = where.pop()
        where[-1][3] |= counted
        if is_neuron(module):
            _count_neuron(meter, name, output[0] if isinstance(output, tuple) else output)
        elif (
            not counted and not any(module.children()) and not isinstance(module, nn.Flatten | nn.Identity | nn.Dropout)
        ):
            kind = type(module).__name__
            meter.not_counted += [kind] if kind not in meter.not_counted else []

    for name, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    if any(is_neuron(module) for module in model.modules()):
        meter.not_counted.append("neuron updates")
    # In eval mode nn.MultiheadAttention would run as one call, whose products nobody sees.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    try:
        with torch.no_grad(), _Counter(meter, where, weights, weight_bits):
            yield meter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()


class _Counter(TorchDispatchMode):
    def __init__(self, meter: Meter, where: list, weights: set[int], weight_bits: int | None) -> None:
        super().__init__()
        self.meter, self.where, self.weights, self.weight_bits = meter, where, weights, weight_bits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        if op in CONVOLUTIONS:
            x, weight, transposed = args[0], args[1], args[6]
            self._count("conv", x, weight, (x if transposed else out).numel() * weight[0].numel())
        elif op in PRODUCTS:
            left, right = (args[i] for i in PRODUCTS[op])
            macs = out.numel() * left.shape[-1]
            if self._is_stored(left) or (self._is_made(left) and not (self._is_stored(right) or self._is_made(right))):
                self._count("linear", right, left, macs)
            elif self._is_stored(right) or self._is_made(right):
                self._count("linear", left, right, macs)
            else:
                self._count_product(left, right, macs)
        elif "scaled_dot_product" in str(op):
            query, key, value = args[:3]
            scores = query.numel() * key.shape[-2]
            self._count_product(query, key, scores)
            # The softmax's weights are no spikes, so the second product can only be driven by the values.
            self._count("product", value, None, scores // query.shape[-1] * value.shape[-1])
        return out

    def _is_stored(self, x: Tensor) -> bool:
        return x.untyped_storage().data_ptr() in self.weights

    def _is_made(self, x: Tensor) -> bool:
        # A weight made on the fly (masked, dequantised): the right operand of a product in a module that owns weights.
        module = self.where[-1][2]
        return (
            x.dim() == 2
            and module is not None
            and getattr(module, "weight", None) is not None
            and module.weight.numel() == x.numel()
        )

    def _count_product(self, left: Tensor, right: Tensor, macs: int) -> None:
        driver = left if _additions(left) is not None or _additions(right) is None else right
        self._count("product", driver, None, macs)

    def _count(self, kind: str, x: Tensor, weight: Tensor | None, macs: int) -> None:
        here = self.where[-1]
        here[1] += 1
        here[3] = True
        name = here[0] if here[1] == 1 else f"{here[0]} #{here[1]}"
        layer = self.meter.layers.setdefault(name, Layer(name, kind))
        additions = _additions(x)
        layer.spikes &= additions is not None
        layer.calls += 1
        layer.macs += macs
        layer.additions += macs * (additions or 0) / max(x.numel(), 1)
        layer.inputs += x.numel()
        layer.nonzeros += int(x.count_nonzero())
        layer.activation_bits += 2 * x.numel() * _bits(x, additions is not None)
        if weight is not None:
            layer.weight_bits += weight.numel() * (self.weight_bits or weight.element_size() * 8)


def _additions(x: Tensor) -> float | None:
    """How many additions stand for these inputs if they are spikes; None if any of them is not."""
    size = x.abs()
    if bool(((size == 0) | (size == 1)).all()):
        return float(size.sum(dtype=torch.float64))
    if bool(((x == 0) | (x == 1) | (x == 2)).all()):
        return float(x.sum(dtype=torch.float64))
    return None


def _bits(x: Tensor, spikes: bool) -> int:
    if not spikes:
        return x.element_size() * 8
    return 1 if x.numel() == 0 or (x.min() >= 0 and x.max() <= 1) else 2


def _count_neuron(meter: Meter, name: str, spikes: Tensor) -> None:
    layer = meter.layers.setdefault(name, Layer(name, "neuron"))
    layer.calls += 1
    layer.inputs += spikes.numel()
    layer.nonzeros += int(spikes.count_nonzero())
    layer.state_bits += 2 * spikes.numel() * spikes.element_size() * 8
