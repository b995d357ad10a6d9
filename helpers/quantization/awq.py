"""AWQ: before rounding, make the columns that matter larger and cut the tails of each group.

    W X = (W diag(t)) (diag(t)⁻¹ X),   t = x^r / √(max · min),   x_j = mean |X_j|,   r on a grid of 20

The norm or the layer in front takes 1/t, so the network in full precision is the same as before.

Source: J. Lin et al., "AWQ", MLSys 2024, as the released TesseraQ code calls it (its variant without weight statistics).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from helpers.quantization.grids import columns_of_a_group, fit_grid
from helpers.quantization.sequential import Forward, all_layers, call, listening, run

RATIOS, CLIPS, TOKENS = 20, 10, 512
LEAST = 1e-4
# (layers with one input, what takes the inverse of their scale, whose output is compared).
PAIRS = (
    (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm", "self_attn"),
    (("self_attn.o_proj",), "self_attn.v_proj", "self_attn.o_proj"),
    (("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm", "mlp"),
    (("mlp.down_proj",), "mlp.up_proj", "mlp.down_proj"),
)
UNCLIPPED = ("self_attn.q_proj", "self_attn.k_proj")


@torch.no_grad()
def awq_search_scale(
    layers: Sequence[nn.Linear],
    inputs: Tensor,
    inspect: Callable[[], Tensor],
    bits: int,
    group_size: int | None = None,
    n_grid: int = RATIOS,
) -> Tensor:
    """The scale of each input column with which rounding hurts the inspected output least.

    Args:
        layers: with one common input; left as they were.
        inputs: that input, [..., n].
        inspect: runs what is compared on its own inputs, with the layers' weights as they are at that moment.
        bits, group_size: of the rounding that is tried.
        n_grid: ratios r = 0, 1/n, 2/n … tried.

    Returns:
        t [n], above 0; all 1 if no ratio is better than none.

    Raises:
        ValueError: inputs that hold nan or infinity, or none.
    """
    if not inputs.numel() or not torch.isfinite(inputs).all():
        raise ValueError(
            f"the inputs are {tuple(inputs.shape)}, but must be finite numbers [..., n], at least one token."
        )
    kept = [layer.weight.clone() for layer in layers]
    target, size = inspect(), inputs.flatten(0, -2).abs().mean(0)
    least, best = float("inf"), torch.ones_like(size)
    for step in range(n_grid):
        scale = size.pow(step / n_grid).clamp(min=LEAST)
        scale = scale / (scale.max() * scale.min()).sqrt()
        for layer, weight in zip(layers, kept, strict=True):
            grid = fit_grid(weight * scale, bits, group_size=group_size, include_zero=False)
            layer.weight.copy_(grid.fake_quantize(weight * scale) / scale)  # instead of dividing the input
        error = float((inspect() - target).square().mean())
        if error < least:
            least, best = error, scale
    for layer, weight in zip(layers, kept, strict=True):
        layer.weight.copy_(weight)
    return best


@torch.no_grad()
def awq_search_clip(
    weight: Tensor,
    inputs: Tensor,
    bits: int,
    group_size: int | None = None,
    n_grid: int = RATIOS,
    max_shrink: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """How far to cut each group's range, so that the group's part of the output suffers least.

    Args:
        weight: [m, n].
        inputs: of the layer, [..., n]; at most 512 tokens of them are used, evenly spaced.
        bits, group_size: of the rounding that is tried.
        n_grid, max_shrink: ranges of 1, 1 - 1/n … down to more than 1 - max_shrink are tried.

    Returns:
        Largest and smallest value, each [m, groups].

    Raises:
        ValueError: no inputs, or inputs that the weights do not fit.
    """
    x = inputs.reshape(-1, inputs.shape[-1])
    if not len(x) or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"the inputs are {tuple(inputs.shape)}, but weights {tuple(weight.shape)} need tokens [..., n]."
        )
    size = columns_of_a_group(group_size, weight.shape[1])
    x = x[:: -(-len(x) // TOKENS)].unflatten(1, (-1, size))  # [tokens, groups, g]
    grouped = weight.unflatten(1, (-1, size))
    top, bottom = grouped.amax(-1), grouped.amin(-1)
    least, cut = torch.full_like(top, float("inf")), torch.ones_like(top)
    for step in range(int(max_shrink * n_grid)):
        share = 1 - step / n_grid
        clamped = torch.minimum(torch.maximum(grouped, share * bottom[..., None]), share * top[..., None]).flatten(1)
        rounded = fit_grid(clamped, bits, group_size=size, include_zero=False).fake_quantize(clamped)
        change = (rounded - weight).unflatten(1, (-1, size))
        error = torch.einsum("tkg,mkg->mkt", x, change).square().mean(-1)
        better = error < least
        least, cut = torch.where(better, error, least), torch.where(better, share, cut)
    return cut * top, cut * bottom


def clip_weights(weight: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """Weights [m, n] cut to the bounds [m, groups] of their groups."""
    size = weight.shape[1] // top.shape[1]
    return torch.minimum(torch.maximum(weight.unflatten(1, (-1, size)), bottom[..., None]), top[..., None]).flatten(1)


@torch.no_grad()
def scale_block(
    block: nn.Module, hidden: Tensor, bits: int, group_size: int | None = None, forward: Forward = call
) -> None:
    """Scale the columns of all layers of a LLaMA-like block, in place; its output in full precision stays.

    Args:
        block: with the parts that PAIRS names. A pair whose layers do not fit (grouped-query attention) is left.
        hidden: its input, [B, N, d].
        bits, group_size: of the rounding to come.
        forward: how the block is run.
    """
    for names, before, inspected in PAIRS:
        layers, front = [block.get_submodule(name) for name in names], block.get_submodule(before)
        if front.weight.shape[0] != layers[0].in_features:
            continue
        module, calls = block.get_submodule(inspected), []
        keep = module.register_forward_pre_hook(
            lambda _module, args, kwargs, calls=calls: calls.append((args, kwargs)), with_kwargs=True
        )
        with listening(block, names[:1]) as heard:
            forward(block, hidden)
        keep.remove()

        def inspect(module=module, calls=calls) -> Tensor:
            args, kwargs = calls[0]
            out = module(*args, **kwargs)
            return out[0] if isinstance(out, tuple) else out

        scale = awq_search_scale(layers, heard[names[0]][0], inspect, bits, group_size)
        for layer in layers:
            layer.weight.mul_(scale)
        front.weight.div_(scale if front.weight.dim() == 1 else scale[:, None])
        if getattr(front, "bias", None) is not None:
            front.bias.div_(scale)


@torch.no_grad()
def clip_block(
    block: nn.Module,
    names: Sequence[str],
    hidden: Tensor,
    bits: int,
    group_size: int | None = None,
    forward: Forward = call,
) -> None:
    """Cut the tails of a block's layers, in place, all but queries and keys."""
    clipped = [name for name in names if name not in UNCLIPPED]
    with listening(block, clipped) as heard:
        forward(block, hidden)
    for name in clipped:
        layer = block.get_submodule(name)
        bounds = awq_search_clip(layer.weight, heard[name][0], bits, group_size)
        layer.weight.copy_(clip_weights(layer.weight, *bounds))


def awq(
    blocks: Sequence[nn.Module],
    subsets: Sequence[Sequence[str]],
    hidden: Tensor,
    bits: int,
    group_size: int | None = None,
    forward: Forward = call,
) -> None:
    """Scale and clip all blocks, in place, on the full-precision stream; rounding is left to whoever comes next.

    Args:
        blocks, subsets, hidden, forward: as in `quantize_sequential`.
        bits, group_size: of the rounding to come.

    Raises:
        ValueError: a layer that is not there, or blocks of another kind.
    """
    names = all_layers(blocks, subsets)
    for index, block in enumerate(blocks):
        parts = dict(block.named_modules())
        missing = [name for pair in PAIRS for name in (*pair[0], *pair[1:]) if name not in parts]
        if missing:
            raise ValueError(f"block {index} has no {missing[0]!r}: AWQ needs a block of LLaMA's kind (see PAIRS).")
    for block in blocks:
        out = run(block, hidden, forward)
        scale_block(block, hidden, bits, group_size, forward)
        clip_block(block, names, hidden, bits, group_size, forward)
        hidden = out
