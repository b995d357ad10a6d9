"""Block after block: what each layer hears in the quantized network, what it would have heard, and its solver between them.

    fp_in, q_in ← the embedding's output
    for each block: run fp_in through it as it still is; then, subset by subset, run q_in through it as it has become,
                    calibrate on (x, x̃), solve, write back; run q_in through the finished block

Embedding, norms and head keep full precision.

Source: Y. Li et al., "GPTAQ", ICML 2025, and the order of its released drivers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from helpers.lab.measures import relative_squared_error
from helpers.quantization.gptaq import CalibrationStats
from helpers.quantization.grids import QuantizedWeight, quantize_activations

Forward = Callable[[nn.Module, Tensor], Tensor]
Solver = Callable[[Tensor, CalibrationStats], QuantizedWeight]


@dataclass
class QuantReport:
    """What a whole network became: weights by "block.layer" and, per block, the relative squared error of its output."""

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)


def call(block: nn.Module, hidden: Tensor) -> Tensor:
    """The plain way to run a block."""
    return block(hidden)


@contextmanager
def listening(block: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """While inside: the inputs of a block's layers, each [B, N, n], by name, a list entry a call."""
    heard: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str):
        return lambda _module, inputs: heard[name].append(inputs[0].detach())

    hooks = [block.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        yield heard
    finally:
        for one in hooks:
            one.remove()


def _quantize_input(bits: int, clip: float, _module: nn.Module, inputs: tuple) -> tuple:
    return quantize_activations(inputs[0], bits, clip), *inputs[1:]


def quantize_inputs(block: nn.Module, names: Sequence[str], bits: int, clip: float = 1.0) -> list:
    """From now on these layers hear quantized activations, token by token; returns the hooks, whose .remove() undoes it."""
    hook = partial(_quantize_input, bits, clip)
    return [block.get_submodule(name).register_forward_pre_hook(hook) for name in names]


@torch.no_grad()
def run(block: nn.Module, hidden: Tensor, forward: Forward = call, batch: int = 32) -> Tensor:
    """A block on all sequences [B, N, d], some at a time."""
    return torch.cat([forward(block, piece) for piece in hidden.split(batch)])


def all_layers(blocks: Sequence[nn.Module], subsets: Sequence[Sequence[str]]) -> list[str]:
    """The names of all subsets, in order.

    Raises:
        ValueError: a block has no such linear layer.
    """
    names = [name for subset in subsets for name in subset]
    for index, block in enumerate(blocks):
        layers = {name for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        if missing := sorted(set(names) - layers):
            raise ValueError(f"block {index} has no linear layer {missing[0]!r}; it has {', '.join(sorted(layers))}.")
    return names


@torch.no_grad()
def quantize_sequential(
    blocks: Sequence[nn.Module],
    subsets: Sequence[Sequence[str]],
    hidden: Tensor,
    solver: Solver,
    forward: Forward = call,
    *,
    activation_bits: int | None = None,
    activation_clip: float = 1.0,
    batch: int = 32,
) -> QuantReport:
    """Quantize the linear layers of all blocks, in place.

    Args:
        blocks: in order; changed in place.
        subsets: names of a block's layers, those with one common input together, in the order in which data passes them.
        hidden: calibration sequences as the first block takes them, [B, N, d].
        solver: `solver(weight, stats)` -> QuantizedWeight; stats has H and, for the layers that hear errors, D.
        forward: `forward(block, hidden)`.
        activation_bits: of the layers' inputs, from then on; None leaves them.
        activation_clip: share of a token's range that its grid covers.
        batch: sequences at a time.

    Raises:
        ValueError: no sequences, or a name that no block has.
    """
    if hidden.dim() != 3 or not len(hidden):
        raise ValueError(f"hidden is {tuple(hidden.shape)}, but calibration needs sequences [B, N, d], at least one.")
    names = all_layers(blocks, subsets)
    report, q_in, fp_in = QuantReport(), hidden, hidden
    for index, block in enumerate(blocks):
        firsts = [subset[0] for subset in subsets]
        with listening(block, firsts) as full:
            fp_in = run(block, fp_in, forward, batch)
        if activation_bits is not None:
            quantize_inputs(block, names, activation_bits, activation_clip)
        for subset in subsets:
            with listening(block, subset[:1]) as heard:
                run(block, q_in, forward, batch)
            stats = CalibrationStats()
            for x, x_fp in zip(heard[subset[0]], full[subset[0]], strict=True):
                stats.update(x, x_fp)
            for name in subset:
                layer = block.get_submodule(name)
                found = solver(layer.weight, stats)
                report.weights[f"{index}.{name}"] = found
                layer.weight.copy_(found.dequantize())
        q_in = run(block, q_in, forward, batch)
        report.errors.append(relative_squared_error(q_in.cpu(), fp_in.cpu()))
    return report


@torch.no_grad()
def errors_by_depth(model: nn.Module, full: nn.Module, tokens: Tensor) -> list[float]:
    """Relative squared error of every block's output in one model against another: which one said what when.

    Args:
        model, full: with `blocks`, `embed` and `run_block`; the second is the measure.
        tokens: int64 [B, N].
    """
    ours, theirs, errors = model.embed(tokens), full.embed(tokens), []
    for block, other in zip(model.blocks, full.blocks, strict=True):
        ours, theirs = run(block, ours, model.run_block), run(other, theirs, full.run_block)
        errors.append(relative_squared_error(ours.cpu(), theirs.cpu()))
    return errors


@torch.no_grad()
def layer_input(model: nn.Module, tokens: Tensor, index: int, name: str) -> Tensor:
    """What one layer of one block hears when the model reads tokens [B, N]: [B, N, n]."""
    hidden = model.embed(tokens)
    for block in model.blocks[:index]:
        hidden = run(block, hidden, model.run_block)
    with listening(model.blocks[index], [name]) as heard:
        run(model.blocks[index], hidden, model.run_block)
    return torch.cat(heard[name])
