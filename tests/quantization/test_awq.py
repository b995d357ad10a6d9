"""AWQ's two searches against the official code and plain loops; a scaled block says what it said before."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import helpers.quantization.awq as module
from helpers.models.gpt import SUBSETS, Gpt
from helpers.quantization.awq import (
    PAIRS,
    UNCLIPPED,
    awq,
    awq_search_clip,
    awq_search_scale,
    clip_block,
    clip_weights,
    scale_block,
)
from helpers.quantization.grids import fit_grid
from helpers.quantization.sequential import listening, run

FILE = np.load(Path(__file__).parents[1] / "golden" / "tesseraq.npz")
NAMES = [name for subset in SUBSETS for name in subset]
SHARES = [1 - i / 20 for i in range(10)]


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whatever ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def close(found, expected, atol, rtol=0.0):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def uneven(*shape):
    """Tokens some of whose features are far larger than others."""
    return torch.randn(*shape) * torch.logspace(-1, 1, shape[-1])[torch.randperm(shape[-1])]


class Attention(nn.Module):
    """With biases and, if asked, fewer keys and values than queries; says a tuple and takes keywords."""

    def __init__(self, dim=16, heads=4, kv_heads=4):
        super().__init__()
        width = dim // heads
        self.heads, self.kv_heads = heads, kv_heads
        self.q_proj, self.o_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k_proj, self.v_proj = nn.Linear(dim, kv_heads * width), nn.Linear(dim, kv_heads * width)

    def forward(self, *, hidden):
        query, key, value = (
            part(hidden).unflatten(-1, (count, -1)).transpose(1, 2)
            for part, count in ((self.q_proj, self.heads), (self.k_proj, self.kv_heads), (self.v_proj, self.kv_heads))
        )
        key, value = (part.repeat_interleave(self.heads // self.kv_heads, 1) for part in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), None


class MLP(nn.Module):
    def __init__(self, dim=16, hidden=24):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.down_proj = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """LLaMA's names, but LayerNorms and biases everywhere."""

    def __init__(self, kv_heads=4):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.LayerNorm(16), nn.LayerNorm(16)
        self.self_attn, self.mlp = Attention(kv_heads=kv_heads), MLP()
        for norm in (self.input_layernorm, self.post_attention_layernorm):
            norm.weight.data = torch.logspace(-1, 1, 16)[torch.randperm(16)]
            norm.bias.data.normal_(std=0.3)

    def forward(self, x):
        x = x + self.self_attn(hidden=self.input_layernorm(x))[0]
        return x + self.mlp(self.post_attention_layernorm(x))


def gpt():
    """Two blocks whose norms have outliers, and what the first hears."""
    model = Gpt(dim=16, depth=2, heads=2, hidden=32)
    for block in model.blocks:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.data = torch.logspace(-1, 1, 16)[torch.randperm(16)]
    return model, torch.randn(4, 10, 16)


def state(block):
    return {name: value.clone() for name, value in block.state_dict().items()}


def rounded(weight, bits=2, group_size=None):
    return fit_grid(weight, bits, group_size=group_size, include_zero=False).fake_quantize(weight)


# ------------------------------------------------------------------------------------------------- scales


def scale_by_hand(weights, x, bits, group_size, n_grid):
    """Errors and scales of all ratios: the weights times t, the inputs divided by it, the layers' outputs compared."""
    size, errors, scales = x.flatten(0, -2).abs().mean(0), [], []
    for i in range(n_grid):
        t = torch.maximum(size ** (i / n_grid), torch.tensor(1e-4))
        t = t / (t.max() * t.min()) ** 0.5
        off = torch.cat([(x / t) @ rounded(w * t, bits, group_size).T - x @ w.T for w in weights], -1)
        errors.append(float(off.square().mean()))
        scales.append(t)
    return errors, scales


def searched(x, *layers, bits=2, group_size=None, **more):
    def inspect():
        return torch.cat([layer(x) for layer in layers], -1)

    return awq_search_scale(layers, x, inspect, bits, group_size, **more)


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("seed", range(3))
def test_scale_search_by_a_plain_loop(seed, group_size):
    torch.manual_seed(seed)
    layers, x = [nn.Linear(12, 7, bias=False), nn.Linear(12, 5, bias=False)], uneven(3, 8, 12)
    kept = [layer.weight.detach().clone() for layer in layers]
    found = searched(x, *layers, group_size=group_size)
    errors, scales = scale_by_hand(kept, x, 2, group_size, 20)
    chosen = min(range(20), key=lambda i: float((scales[i] - found).abs().max()))
    close(found, scales[chosen], 1e-6, 1e-5)
    assert errors[chosen] <= min(errors) * (1 + 1e-4)
    assert errors[chosen] <= errors[0]  # never worse than no scaling
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, kept, strict=True))


def test_scaling_pays_where_inputs_are_uneven():
    layer, x = nn.Linear(16, 12, bias=False), uneven(6, 8, 16)
    errors, scales = scale_by_hand([layer.weight.detach()], x, 2, None, 20)
    found = searched(x, layer)
    assert not torch.equal(found, torch.ones(16)) and min(errors) < 0.9 * errors[0]
    best = scales[errors.index(min(errors))]
    close(found, best, 1e-5, 1e-4)
    assert float((found.max() * found.min()).sqrt()) == pytest.approx(1, rel=1e-4)


def test_a_ratio_of_0_scales_nothing():
    assert torch.equal(searched(uneven(3, 8, 12), nn.Linear(12, 7), n_grid=1), torch.ones(12))


def test_the_first_of_equal_ratios_wins():
    assert torch.equal(searched(torch.ones(3, 8, 12), nn.Linear(12, 7)), torch.ones(12))


def test_an_input_that_is_always_0_gets_a_scale():
    x = uneven(3, 8, 12)
    x[..., 5] = 0
    found = searched(x, nn.Linear(12, 7))
    assert torch.isfinite(found).all() and (found > 0).all()


def test_inputs_that_are_no_numbers_are_named_and_nothing_is_left_changed():
    layer = nn.Linear(12, 7)
    kept = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=r"(inputs|activations|calibration)[^\]]*(nan|infin|finite)"):
        searched(torch.full((2, 12), float("nan")), layer)
    assert torch.equal(layer.weight, kept)


@pytest.mark.parametrize("kind", ["rms", "biases", "grouped"])
@pytest.mark.parametrize("group_size", [None, 4])
def test_a_scaled_block_says_what_it_said(kind, group_size):
    block = gpt()[0].blocks[0] if kind == "rms" else Block(2 if kind == "grouped" else 4)
    x, before = torch.randn(4, 10, 16), state(block)
    wanted = run(block, x)
    scale_block(block, x, 2, group_size)
    close(run(block, x), wanted, 1e-4, 1e-4)
    changed = {name for name, value in block.state_dict().items() if not torch.equal(value, before[name])}
    assert {"input_layernorm.weight", "self_attn.q_proj.weight", "mlp.gate_proj.weight"} <= changed
    hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in block.modules()]
    assert not any(hooks)


def test_grouped_queries_leave_the_pair_of_values_and_output():
    block, x = Block(kv_heads=2), torch.randn(4, 10, 16)
    before = state(block)
    scale_block(block, x, 2)
    after = block.state_dict()
    for name in ("self_attn.o_proj.weight", "self_attn.o_proj.bias", "self_attn.v_proj.bias"):
        assert torch.equal(after[name], before[name])
    ratio = after["self_attn.v_proj.weight"] / before["self_attn.v_proj.weight"]
    close(ratio, ratio[:1].expand_as(ratio), 1e-4, 1e-4)  # columns only: nothing of o came into its rows


def test_without_grouped_queries_the_pair_is_scaled():
    block, x = Block(), torch.randn(4, 10, 16)
    block.self_attn.v_proj.weight.data *= torch.logspace(-1, 1, 16)[torch.randperm(16), None]
    before = state(block)
    wanted = run(block, x)
    scale_block(block, x, 2)
    assert not torch.equal(block.self_attn.o_proj.weight, before["self_attn.o_proj.weight"])
    assert not torch.equal(block.self_attn.v_proj.bias, before["self_attn.v_proj.bias"])
    close(run(block, x), wanted, 1e-4, 1e-4)


def test_what_is_inspected(monkeypatch):
    """Whole attention for q, k, v; whole perceptron for gate, up; the layer itself for o and down."""
    model, x = gpt()
    block, asked = model.blocks[0], []

    def spy(layers, inputs, inspect, *sizes):
        asked.append((list(layers), inputs, inspect(), sizes))
        return torch.ones(layers[0].in_features)

    with torch.no_grad():
        normed = block.input_layernorm(x)
        between = x + block.self_attn(normed)
        again = block.post_attention_layernorm(between)
        with listening(block, ["self_attn.o_proj", "mlp.down_proj"]) as heard:
            block(x)
        mixed, gated = heard["self_attn.o_proj"][0], heard["mlp.down_proj"][0]
        wanted = [
            (normed, block.self_attn(normed)),
            (mixed, block.self_attn.o_proj(mixed)),
            (again, block.mlp(again)),
            (gated, block.mlp.down_proj(gated)),
        ]
    monkeypatch.setattr(module, "awq_search_scale", spy)
    scale_block(block, x, 3, 8)
    assert len(asked) == len(PAIRS) == 4
    for (names, _, _), (layers, inputs, output, sizes), (x_wanted, y_wanted) in zip(PAIRS, asked, wanted, strict=True):
        assert layers == [block.get_submodule(name) for name in names] and sizes[:2] == (3, 8)
        close(inputs, x_wanted, 1e-5)
        close(output, y_wanted, 1e-5)


# ------------------------------------------------------------------------------------------------- clips


def test_golden_clip_search():
    weight, x = torch.from_numpy(FILE["W1"]), torch.from_numpy(FILE["X"])
    top, bottom = awq_search_clip(weight, x, int(FILE["bits"]), int(FILE["groupsize"]))
    close(top, torch.from_numpy(FILE["clip_max"]), 1e-6)
    close(bottom, torch.from_numpy(FILE["clip_min"]), 1e-6)


def clip_errors(group, x, bits):
    """Mean squared change of one group's part of the output, for each share of its range."""
    errors = []
    for share in SHARES:
        cut = group.clamp(share * group.min(), share * group.max())
        errors.append(float((x @ (rounded(cut[None], bits)[0] - group)).square().mean()))
    return errors


@pytest.mark.parametrize(("bits", "group_size", "seed"), [(2, 4, 0), (2, None, 1), (3, 6, 2)])
def test_clip_search_by_a_plain_loop(bits, group_size, seed):
    torch.manual_seed(seed)
    weight, x = torch.randn(5, 12) ** 3, uneven(3, 7, 12)
    top, bottom = awq_search_clip(weight, x, bits, group_size)
    size = group_size or 12
    assert top.shape == bottom.shape == (5, 12 // size)
    clipped = 0
    for i in range(5):
        for k in range(12 // size):
            columns = slice(k * size, (k + 1) * size)
            group, tokens = weight[i, columns], x.reshape(-1, 12)[:, columns]
            errors = clip_errors(group, tokens, bits)
            share = float(top[i, k] / group.max())
            assert float(bottom[i, k] / group.min()) == pytest.approx(share, rel=1e-5)
            index = round((1 - share) * 20)
            assert 0 <= index < 10 and SHARES[index] == pytest.approx(share, rel=1e-5)
            assert errors[index] <= min(errors) * (1 + 1e-3) + 1e-9
            assert errors[index] <= errors[0]  # never worse than the whole range
            clipped += index > 0
    assert clipped > 0


def test_of_equal_clips_the_widest_is_kept():
    weight = torch.tensor([[-1.0, 0.0, 1.0, 2.0]]).repeat(3, 1)  # exactly on the grid of two bits
    top, bottom = awq_search_clip(weight, torch.randn(20, 4), 2)
    assert top.tolist() == [[2.0]] * 3 and bottom.tolist() == [[-1.0]] * 3


def test_an_input_that_is_always_0_clips_nothing():
    weight = torch.randn(3, 4)
    top, bottom = awq_search_clip(weight, torch.zeros(5, 4), 2)
    assert torch.equal(top[:, 0], weight.amax(1)) and torch.equal(bottom[:, 0], weight.amin(1))


def test_tokens_may_come_in_sequences():
    weight, x = torch.randn(5, 8), uneven(4, 6, 8)
    for one, other in zip(awq_search_clip(weight, x, 2), awq_search_clip(weight, x.flatten(0, 1), 2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1000, 1024, 5000])
def test_at_most_512_tokens_are_used(monkeypatch, count):
    used, einsum = [], torch.einsum

    def spy(equation, x, change):
        used.append(len(x))
        return einsum(equation, x, change)

    monkeypatch.setattr(torch, "einsum", spy)
    awq_search_clip(torch.randn(2, 4), torch.randn(count, 4), 2)
    assert used and max(used) <= 512 and min(used) >= min(count, 256)


def test_fewer_ranges_can_be_tried():
    weight, x = torch.randn(6, 8) ** 3, uneven(20, 8)
    top, _ = awq_search_clip(weight, x, 2, n_grid=10, max_shrink=0.3)
    shares = top[:, 0] / weight.amax(1)
    assert (
        ((shares - 1).abs() < 1e-5)
        .logical_or((shares - 0.9).abs() < 1e-5)
        .logical_or((shares - 0.8).abs() < 1e-5)
        .all()
    )
    top, bottom = awq_search_clip(weight, x, 2, n_grid=1, max_shrink=1)
    assert torch.equal(top[:, 0], weight.amax(1)) and torch.equal(bottom[:, 0], weight.amin(1))


def test_clip_search_refuses():
    weight = torch.randn(3, 8)
    with pytest.raises(ValueError, match=r"inputs are \(5, 7\).*\(3, 8\)"):
        awq_search_clip(weight, torch.randn(5, 7), 2)
    with pytest.raises(ValueError, match=r"inputs are \(0, 8\)"):
        awq_search_clip(weight, torch.randn(0, 8), 2)
    with pytest.raises(ValueError, match=r"group_size is 3\b.*divide the 8 columns"):
        awq_search_clip(weight, torch.randn(5, 8), 2, 3)
    with pytest.raises(ValueError, match=r"bits is 1\b.*\[2, 16\]"):
        awq_search_clip(weight, torch.randn(5, 8), 1)


def test_weights_are_cut_to_the_bounds_of_their_groups():
    weight = torch.randn(3, 8)
    top, bottom = torch.rand(3, 2), -torch.rand(3, 2)
    found = clip_weights(weight, top, bottom)
    for i in range(3):
        for j in range(8):
            low, high = float(bottom[i, j // 4]), float(top[i, j // 4])
            assert float(found[i, j]) == pytest.approx(min(max(float(weight[i, j]), low), high))


def test_queries_and_keys_are_not_clipped():
    model, x = gpt()
    block = model.blocks[0]
    for name in NAMES:
        block.get_submodule(name).weight.data.pow_(3)
    before = state(block)
    with torch.no_grad(), listening(block, NAMES) as heard:
        block(x)
    clip_block(block, NAMES, x, 2, 8)
    for name in NAMES:
        weight, old = block.get_submodule(name).weight, before[f"{name}.weight"]
        if name in UNCLIPPED:
            assert torch.equal(weight, old)
            continue
        assert not torch.equal(weight, old)
        close(weight.detach(), clip_weights(old, *awq_search_clip(old, heard[name][0], 2, 8)), 1e-6)


def test_only_named_layers_are_clipped():
    model, x = gpt()
    block = model.blocks[0]
    block.mlp.up_proj.weight.data.pow_(3)
    before = state(block)
    clip_block(block, ["mlp.up_proj"], x, 2)
    changed = {name for name, value in block.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"mlp.up_proj.weight"}


# ------------------------------------------------------------------------------------------------- all blocks


def test_all_blocks_are_searched_on_the_full_precision_stream():
    model, x = gpt()
    by_hand = copy.deepcopy(model)
    streams = [x, run(model.blocks[0], x)]
    awq(model.blocks, model.subsets, x, 2, 8)
    for block, hidden in zip(by_hand.blocks, streams, strict=True):
        scale_block(block, hidden, 2, 8)
        clip_block(block, NAMES, hidden, 2, 8)
    for name, value in model.state_dict().items():
        close(value, by_hand.state_dict()[name], 1e-6, 1e-5)


def test_rounding_hurts_less_after_it():
    model, x = gpt()
    wanted, plain = x, copy.deepcopy(model)
    for block in model.blocks:
        wanted = run(block, wanted)
    awq(model.blocks, model.subsets, x, 2, 8)
    errors = []
    for net in (plain, model):
        hidden = x
        for block in net.blocks:
            for name in NAMES:
                layer = block.get_submodule(name)
                layer.weight.data.copy_(rounded(layer.weight.data, 2, 8))
            hidden = run(block, hidden)
        errors.append(float((hidden - wanted).square().mean()))
    assert errors[1] < 0.9 * errors[0]
