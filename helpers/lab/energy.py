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
6. A layer that makes its weight from packed storage says what it reads: `stored_bits` for its `weights`.

Memory traffic of one prediction at a time: a layer's weights are read once a call; its inputs are written once by
whoever made them and read once here (a spike is 1 bit, a signed one 2); a membrane is read and written in each step.

Source of the convention: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.lab.meter import Layer, Meter, compare

__all__ = ["Layer", "Meter", "compare", "is_neuron", "probe"]

aten = torch.ops.aten
# Where the two operands stand among the arguments of a product: (left, right).
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


@contextmanager
def probe(
    model: nn.Module, predictions: int = 1, weight_bits: int | None = None, activation_bits: int | None = None
) -> Iterator[Meter]:
    """Count every product that `model` computes inside the block, without gradients.

    Linear layers, convolutions of any dimension, matrix products of two activations (attention) and fused attention
    are seen by a dispatch mode, so a product outside any layer counts too. Results are unchanged. Make one call with the
    whole batch: each further call reads the weights again. Recurrent layers of torch (LSTM, GRU) run as one call that
    nobody can look into; they are listed as not counted.

    Args:
        model: any module. Its submodules' names become the layers' names.
        predictions: how many predictions the block makes (images, not timesteps); every figure is divided by it.
        weight_bits: bits a stored weight has; None takes them from its type.
        activation_bits: bits of a number between two layers that is no spike, if it lies on a grid of fewer than its type
            has; None takes its type's.

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
        with torch.no_grad(), _Counter(meter, where, weights, weight_bits, activation_bits):
            yield meter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()


class _Counter(TorchDispatchMode):
    def __init__(
        self, meter: Meter, where: list, weights: set[int], weight_bits: int | None, activation_bits: int | None
    ) -> None:
        super().__init__()
        self.meter, self.where, self.weights, self.weight_bits = meter, where, weights, weight_bits
        self.activation_bits = activation_bits

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
        if x.dim() == 2 and hasattr(module, "stored_bits"):
            return x.numel() == module.weights
        return (
            x.dim() == 2
            and module is not None
            and getattr(module, "weight", None) is not None
            and module.weight.numel() == x.numel()
        )

    def _look(self, x: Tensor) -> "_Seen":
        return _look(x, self.activation_bits or x.element_size() * 8)

    def _count_product(self, left: Tensor, right: Tensor, macs: int) -> None:
        seen, other = self._look(left), self._look(right)
        if other.spikes and not seen.spikes:
            seen, other = other, seen
        layer = self._count("product", seen, None, macs)
        layer.activation_bits += 2 * other.size * other.bits

    def _count(self, kind: str, x: "Tensor | _Seen", weight: Tensor | None, macs: int) -> Layer:
        here = self.where[-1]
        here[1] += 1
        here[3] = True
        name = here[0] if here[1] == 1 else f"{here[0]} #{here[1]}"
        layer = self.meter.layers.setdefault(name, Layer(name, kind))
        seen = self._look(x) if isinstance(x, Tensor) else x
        layer.spikes &= seen.spikes
        layer.calls += 1
        layer.macs += macs
        layer.additions += macs * seen.additions / max(seen.size, 1)
        layer.inputs += seen.size
        layer.nonzeros += seen.nonzeros
        layer.activation_bits += 2 * seen.size * seen.bits
        if weight is not None:
            packed = getattr(here[2], "stored_bits", None)  # what a layer reads to make its weight again
            layer.weight_bits += packed or weight.numel() * (self.weight_bits or weight.element_size() * 8)
        return layer


class _Seen(NamedTuple):
    """What one operand was: its size, how much of it was not zero, and, if all spikes, the additions they stand for."""

    size: int
    nonzeros: int
    spikes: bool
    additions: float
    bits: int


def _look(x: Tensor, width: int) -> _Seen:
    size, nonzeros = x.numel(), int(x.count_nonzero())
    if nonzeros == 0:
        return _Seen(size, 0, True, 0.0, 1)
    magnitude = x if x.dtype == torch.bool else x.abs()
    if torch.equal(magnitude * magnitude, magnitude):  # 0 and 1 alone are their own squares
        return _Seen(size, nonzeros, True, nonzeros, 1 if x.min() >= 0 else 2)
    if bool(((x == 0) | (x == 1) | (x == 2)).all()):
        return _Seen(size, nonzeros, True, float(x.sum(dtype=torch.float64)), 2)
    return _Seen(size, nonzeros, False, 0.0, width)


def _count_neuron(meter: Meter, name: str, spikes: Tensor) -> None:
    layer = meter.layers.setdefault(name, Layer(name, "neuron"))
    layer.calls += 1
    layer.inputs += spikes.numel()
    layer.nonzeros += int(spikes.count_nonzero())
    layer.state_bits += 2 * spikes.numel() * spikes.element_size() * 8
