"""TesseraQ: learn which way to round, a few weights settled at a time, so that a whole block says what it used to say.

    h(ν) = clip(1.2 σ(ν) - 0.1, 0, 1)
    Ŵ = (clip(⌊W/s⌋ + h(ν) + z, 0, 2^b - 1) - z) · s · 2h(v)
    L = mean over tokens of Σ over features (y - ŷ)²

One ν a weight, one v a group. Progressive adaptive rounding (PAR): harden the most decided ν, train the rest, again.

Sources: Y. Li, P. Panda, "TesseraQ", arXiv 2410.19103, 2024; soft rounding after M. Nagel et al., "AdaRound", ICML 2020.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from helpers.data.checks import whole
from helpers.lab.measures import relative_squared_error
from helpers.quantization.awq import awq
from helpers.quantization.grids import QuantizedWeight, UniformGrid, columns_of_a_group, fit_grid
from helpers.quantization.sequential import Forward, QuantReport, all_layers, call, quantize_inputs, run
from helpers.quantization.soft_rounding import SoftRounding, rectified_sigmoid, rectified_sigmoid_inverse

__all__ = [
    "PAR_THRESHOLDS",
    "SHORT_THRESHOLDS",
    "ReconstructionReport",
    "SoftRounding",
    "block_loss",
    "reconstruct_block",
    "rectified_sigmoid",
    "rectified_sigmoid_inverse",
    "tesseraq",
]

# fmt: off
PAR_THRESHOLDS: tuple[float, ...] = (.8, .65, .5, .43, .38, .34, .3, .27, .24, .21, .18, .15, .12, .1, .08, .06, .04, .02,
                                     .01, .005)
"""Share of the weights that is still soft after each hardening."""
SHORT_THRESHOLDS: tuple[float, ...] = (.75, .5, .375, .25, .125, .09, .06, .04, .02, .005)
"""The authors' for four and more bits."""
# fmt: on
SCALE_DECAY = 1e-4
DEFAULTS = {"thresholds": PAR_THRESHOLDS, "steps": 10, "batch_size": 4}


@dataclass
class ReconstructionReport:
    """Weights by layer; the loss of every step; and, on all sequences, that of nearest rounding and of what was learned."""

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    before: float = 0.0
    after: float = 0.0


class _Run(nn.Module):
    def __init__(self, block: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.block, self.run = block, forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.block, x)


def block_loss(y: Tensor, target: Tensor) -> Tensor:
    """Mean over tokens of the squared distance, summed over features: [B, N, d] twice -> scalar."""
    return (y - target).square().sum(-1).mean()


def reconstruct_block(
    block: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    bits: int,
    group_size: int | None = None,
    thresholds: Sequence[float] = PAR_THRESHOLDS,
    steps: int = DEFAULTS["steps"],
    lr: float = 2e-2,
    scale_lr: float | None = None,
    batch_size: int = DEFAULTS["batch_size"],
    tune_scale: bool = True,
    progressive: bool = True,
    decided_first: bool = True,
    names: Sequence[str] | None = None,
    grids: Mapping[str, UniformGrid] | None = None,
    forward: Forward = call,
    generator: torch.Generator | None = None,
    draws: Iterable[Tensor] | None = None,
    callback: Callable[[int, dict[str, SoftRounding]], None] | None = None,
    label: str = "block",
) -> ReconstructionReport:
    """Learn the rounding of a block's linear layers together; their weights become the rounded ones, in place.

    Args:
        block: any module.
        inputs: what it hears in the quantized network, [B, N, d].
        target: what it said in full precision, [B, N, d].
        bits, group_size: of the grid (zero not forced into the range).
        thresholds: soft share after each hardening, falling, in (0, 1).
        steps: of Adam after each hardening.
        lr, scale_lr: of ν and of v; None takes the same for both.
        batch_size: sequences a step.
        tune_scale: whether v is trained.
        progressive: False trains as many steps in as many stages, hardens nothing in between, and rounds at the end.
        decided_first: False hardens the least decided first.
        names: layers to round; None takes every linear layer.
        grids: of layers that have one already, by name.
        forward: how the block is run.
        generator: of the mini-batches; None seeds one with 0.
        draws: indices [batch_size] of every step instead, in order.
        callback: called with 0 before the first hardening, then with i after stage i, and with the layers' soft roundings.
        label: what an error calls the block.

    Raises:
        ValueError: thresholds, sizes or shapes that are not allowed.
        RuntimeError: the loss is no number; names block and stage.
    """
    _check(inputs, target, thresholds, steps, batch_size)
    linear = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    names = list(linear if names is None else names)
    if not names or not linear.keys() >= set(names):
        raise ValueError(f"the layers to round are {names}, but {label} has {', '.join(linear) or 'no linear layer'}.")
    layers = {name: linear[name] for name in names}
    inputs, target = inputs.detach(), target.detach()
    soft: dict[str, SoftRounding] = {}
    for name, layer in layers.items():
        grid = (grids or {}).get(name)
        if grid is None:
            grid = fit_grid(layer.weight.detach(), bits, group_size=group_size, include_zero=False)
        soft[name] = SoftRounding(layer.weight, grid, tune_scale)
    model, report = _Run(block, forward), ReconstructionReport()
    draw = iter(draws) if draws is not None else _draws(len(inputs), batch_size, generator)

    def loss_of(weights: dict[str, Tensor], which: Tensor | slice) -> Tensor:
        said = functional_call(
            model, {f"block.{name}.weight": weight for name, weight in weights.items()}, (inputs[which],)
        )
        return block_loss(said, target[which])

    with torch.no_grad():
        report.before = float(
            loss_of({name: part.to_integer().dequantize() for name, part in soft.items()}, slice(None))
        )
    if callback:
        callback(0, soft)
    groups = [
        {"params": [part.nu for part in soft.values()], "lr": lr},
        {
            "params": [part.stretch for part in soft.values()],
            "lr": lr if scale_lr is None else scale_lr,
            "weight_decay": SCALE_DECAY,
        },
    ]
    trained = [part for group in groups for part in group["params"] if part.requires_grad]
    for stage, share in enumerate(thresholds, start=1):
        if progressive:
            for part in soft.values():
                part.harden(share, decided_first)
        optimizer = torch.optim.Adam(groups)  # what has hardened would be pushed on by old moments
        for _ in range(steps):
            which = next(draw, None)
            if which is None:
                raise ValueError(
                    f"draws ended after {len(report.losses)} steps, but {len(thresholds) * steps} are asked for."
                )
            with torch.enable_grad():
                loss = loss_of({name: part() for name, part in soft.items()}, which)
                # Of these alone: the block's own biases and norms get no gradients.
                gradients = torch.autograd.grad(loss, trained)
            report.losses.append(float(loss.detach()))
            if not math.isfinite(report.losses[-1]):
                raise RuntimeError(
                    f"the loss of {label} is {report.losses[-1]} in stage {stage}: lower lr, or look at its inputs."
                )
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        if callback:
            callback(stage, soft)
    for name, part in soft.items():
        part.settle()
        report.weights[name] = part.to_integer()
        layers[name].weight.data.copy_(report.weights[name].dequantize())
    with torch.no_grad():
        report.after = float(block_loss(forward(block, inputs), target))
    return report


def _check(inputs: Tensor, target: Tensor, thresholds: Sequence[float], steps: int, batch_size: int) -> None:
    if inputs.dim() < 2 or not len(inputs) or inputs.shape[:-1] != target.shape[:-1]:
        raise ValueError(
            f"inputs are {tuple(inputs.shape)} and targets {tuple(target.shape)}: both need the same tokens, at least one."
        )
    falling = all(later < earlier for earlier, later in zip(thresholds, thresholds[1:], strict=False))
    if not thresholds or not falling or not all(0 < share < 1 for share in thresholds):
        raise ValueError(
            f"thresholds are {tuple(thresholds)}, but they must fall strictly and lie in (0, 1), at least one."
        )
    whole("steps", steps, 0)
    whole("batch_size", batch_size)
    if batch_size > len(inputs):
        raise ValueError(f"batch_size is {batch_size}, but there are {len(inputs)} sequences: take a smaller batch.")


def _draws(count: int, size: int, generator: torch.Generator | None):
    generator = generator or torch.Generator().manual_seed(0)
    while True:
        yield torch.randperm(count, generator=generator)[:size]


def tesseraq(
    blocks: Sequence[nn.Module],
    subsets: Sequence[Sequence[str]],
    hidden: Tensor,
    *,
    bits: int,
    group_size: int | None = None,
    init: str | None = "awq",
    forward: Forward = call,
    activation_bits: int | None = None,
    seed: int = 0,
    after_block: Callable[[int], None] | None = None,
    **options,
) -> QuantReport:
    """Reconstruct all blocks in order, in place: each hears the quantized blocks before it, aims at what it said in full.

    Args:
        blocks, subsets, hidden, forward: as in `quantize_sequential`.
        bits, group_size: of the weights.
        init: "awq" scales and clips first; None starts from the weights as they are.
        activation_bits: of the layers' inputs, from then on; None leaves them.
        seed: of the mini-batches.
        after_block: called with the index of each finished block.
        options: for `reconstruct_block`.

    Raises:
        ValueError: an unknown init, or what `reconstruct_block` refuses.
    """
    if init not in ("awq", None):
        raise ValueError(f"init is {init!r}, but it must be 'awq' or None (the weights as they are).")
    if hidden.dim() != 3 or not len(hidden):
        raise ValueError(f"hidden is {tuple(hidden.shape)}, but calibration needs sequences [B, N, d], at least one.")
    names, hidden = all_layers(blocks, subsets), hidden.detach()
    given = {name: options.get(name, default) for name, default in DEFAULTS.items()}
    _check(hidden, hidden, **given)  # before AWQ changes anything
    for block in blocks:
        for name in names:
            columns_of_a_group(group_size, block.get_submodule(name).in_features)
    targets, stream = [], hidden
    for block in blocks:
        stream = run(block, stream, forward)
        targets.append(stream)
    if init == "awq":
        awq(blocks, subsets, hidden, bits, group_size, forward)
    report, generator = QuantReport(), torch.Generator().manual_seed(seed)
    for index, (block, target) in enumerate(zip(blocks, targets, strict=True)):
        if activation_bits is not None:
            quantize_inputs(block, names, activation_bits)
        learned = reconstruct_block(
            block,
            hidden,
            target,
            bits=bits,
            group_size=group_size,
            names=names,
            forward=forward,
            generator=generator,
            label=f"block {index}",
            **options,
        )
        report.weights |= {f"{index}.{name}": weight for name, weight in learned.weights.items()}
        hidden = run(block, hidden, forward)
        report.errors.append(relative_squared_error(hidden.cpu(), target.cpu()))
        if after_block:
            after_block(index)
    return report
