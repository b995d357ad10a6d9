"""The fusion block against the official module's output, loops and what must always hold."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.respike.fusion import GEGLU, Attention, CrossAttentionFusion

FILE = np.load(Path(__file__).parents[1] / "golden" / "respike.npz")

# channels, context channels, heads, head_dim, groups, ff_mult
SHAPES = [
    (16, 16, 2, None, 8, 2),
    (16, 16, 1, 16, 8, 2),
    (12, 5, 3, 2, 4, 1),
    (6, 7, 2, 5, 1, 4),
    (8, 3, 8, None, 2, 3),
]


def golden(key):
    return torch.from_numpy(FILE[key])


def lively(block):
    """Every weight random, the zero ones of the last layer too."""
    for weights in block.parameters():
        nn.init.normal_(weights, std=0.5)
    return block


def block_of(shape=SHAPES[0], **more):
    channels, context, heads, head_dim, groups, ff_mult = shape
    return lively(CrossAttentionFusion(channels, context, heads, head_dim, groups, ff_mult, **more).double())


def maps(shape=SHAPES[0], batch=2, places=(3, 4), context_places=(2, 3)):
    x = torch.randn(batch, shape[0], *places, dtype=torch.float64)
    return x, torch.randn(batch, shape[1], *context_places, dtype=torch.float64)


def shuffled(x, order):
    return x.flatten(2)[..., order].view_as(x)


# ------------------------------------------------------------------------------------------- a naive reference


def normed(x, norm, eps):
    """Over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight + norm.bias


def attended(attention, x, context, heads):
    """One sample, one head and one token after another: what it mixes [N, inner], and by which weights [heads, N, M]."""
    q, k, v = x @ attention.to_q.weight.T, context @ attention.to_k.weight.T, context @ attention.to_v.weight.T
    width = q.shape[1] // heads
    mixed, shares = torch.zeros_like(q), q.new_zeros(heads, len(x), len(context))
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for token in range(len(x)):
            score = [float((q[token, own] * other).sum()) / math.sqrt(width) for other in k[:, own]]
            weight = [math.exp(each - max(score)) for each in score]
            for place, each in enumerate(weight):
                shares[head, token, place] = each / sum(weight)
                mixed[token, own] += each / sum(weight) * v[place, own]
    return mixed, shares


def fused(block, x, context, heads, groups):
    """The block as its page writes it, and the weights of the cross-attention."""
    inner, outputs, shares = block.transformer_blocks[0], [], []
    for picture, other in zip(x, context, strict=True):
        channels, height, width = picture.shape
        # Statistics of a group run over its channels and all places.
        z = picture.reshape(groups, -1)
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
        z = z.view(channels, -1) * block.norm.weight[:, None] + block.norm.bias[:, None]
        z = torch.einsum("dc,cn->nd", block.proj_in.weight[:, :, 0, 0], z) + block.proj_in.bias
        own = normed(z, inner.norm1, 1e-5)
        mixed, _ = attended(inner.attn1, own, own, heads)
        z = z + mixed @ inner.attn1.to_out[0].weight.T + inner.attn1.to_out[0].bias
        mixed, share = attended(inner.attn2, normed(z, inner.norm2, 1e-5), other.flatten(1).T, heads)
        z = z + mixed @ inner.attn2.to_out[0].weight.T + inner.attn2.to_out[0].bias
        wide, _, back = inner.ff.net
        both = normed(z, inner.norm3, 1e-5) @ wide.proj.weight.T + wide.proj.bias
        value, gate = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
        z = z + (value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2) @ back.weight.T + back.bias
        change = torch.einsum("cd,nd->cn", block.proj_out.weight[:, :, 0, 0], z) + block.proj_out.bias[:, None]
        outputs.append(picture + change.view(channels, height, width))
        shares.append(share)
    return torch.stack(outputs), torch.stack(shares)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_block_is_its_formula(shape):
    block, (x, context) = block_of(shape), maps(shape)
    expected, shares = fused(block, x, context, shape[2], shape[4])
    torch.testing.assert_close(block(x, context), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(block.attention(x, context), shares, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_golden_fusion():
    block = CrossAttentionFusion(32, 24, int(FILE["fus_heads"]), groups=32)
    block.load_state_dict({key[4:]: golden(key) for key in FILE.files if key.startswith("fus.")})
    expected = golden("fus_out")
    # Otherwise it would prove nothing: the block does much here.
    assert (expected - golden("fus_in")).abs().mean() > 0.1
    torch.testing.assert_close(block(golden("fus_in"), golden("fus_ctx")), expected, rtol=0, atol=1e-5)


def mean_of_squares(x, side):
    batch, channels, height, width = x.shape
    return x.view(batch, channels, height // side, side, width // side, side).mean((3, 5))


def stretched(x, side):
    """Bilinear: a pixel lies at the middle of its square, and beyond the outer middles nothing changes any more."""

    def between(places):
        at = ((torch.arange(places * side, dtype=x.dtype) + 0.5) / side - 0.5).clamp(0, places - 1)
        return (1 - (at[:, None] - torch.arange(places)).abs()).clamp(min=0)

    return torch.einsum("yi,bcij,xj->bcyx", between(x.shape[2]), x, between(x.shape[3]))


@torch.no_grad()
@pytest.mark.parametrize("pool", [2, 4])
def test_pool_is_pool_both_then_fuse_then_stretch(pool):
    shape = SHAPES[0]
    plain, pooled = block_of(shape), block_of(shape, pool=pool)
    pooled.load_state_dict(plain.state_dict())
    x, context = maps(shape, places=(8, 4), context_places=(4, 8))
    expected, shares = fused(plain, mean_of_squares(x, pool), mean_of_squares(context, pool), shape[2], shape[4])
    found = pooled(x, context)
    assert found.shape == x.shape
    torch.testing.assert_close(found, stretched(expected, pool), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pooled.attention(x, context), shares, rtol=1e-9, atol=1e-12)


# -------------------------------------------------------------------------------------------------- invariants


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_new_block_changes_nothing_at_all(shape):
    channels, context_channels, heads, head_dim, groups, ff_mult = shape
    block = CrossAttentionFusion(channels, context_channels, heads, head_dim, groups, ff_mult)
    x, context = torch.randn(2, channels, 3, 4), torch.randn(2, context_channels, 2, 3)
    assert torch.equal(block(x, context), x)
    assert not block.proj_out.weight.any() and not block.proj_out.bias.any()


@torch.no_grad()
def test_new_block_with_a_pool_blurs_and_does_nothing_else():
    block = CrossAttentionFusion(16, 16, 2, pool=2).double()
    x, context = maps(places=(4, 4), context_places=(4, 4))
    found = block(x, context)
    assert not torch.allclose(found, x)
    torch.testing.assert_close(found, stretched(mean_of_squares(x, 2), 2))


def test_new_block_learns_first_in_its_last_layer():
    block, (x, context) = CrossAttentionFusion(16, 16, 2).double(), maps()
    block(x, context).square().sum().backward()
    moved = {name for name, weights in block.named_parameters() if weights.grad.any()}
    assert moved == {"proj_out.weight", "proj_out.bias"}


def test_gradients_reach_every_weight_and_both_maps():
    block, (x, context) = block_of(), maps()
    block(x.requires_grad_(), context.requires_grad_()).square().sum().backward()
    assert all(weights.grad.any() for weights in block.parameters())
    assert x.grad.any() and context.grad.any()


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_order_of_the_context_does_not_matter(shape):
    block, (x, context) = block_of(shape), maps(shape, context_places=(4, 3))
    order = torch.randperm(12)
    torch.testing.assert_close(block(x, shuffled(context, order)), block(x, context))
    torch.testing.assert_close(block.attention(x, shuffled(context, order)), block.attention(x, context)[..., order])
    # Another context does.
    assert not torch.allclose(block(x, context.flip(1)), block(x, context))


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_permuted_places_give_a_permuted_correction(shape):
    block, (x, context) = block_of(shape), maps(shape)
    order = torch.randperm(12)
    turned = shuffled(x, order)
    torch.testing.assert_close(block(turned, context) - turned, shuffled(block(x, context) - x, order))
    torch.testing.assert_close(block.attention(turned, context), block.attention(x, context)[:, :, order])


@torch.no_grad()
def test_same_token_everywhere_is_looked_at_alike_everywhere():
    block, (x, context) = block_of(), maps()
    token = context[:, :, :1, :1]
    found = block.attention(x, token.expand_as(context))
    torch.testing.assert_close(found, torch.full((2, 2, 12, 6), 1 / 6, dtype=torch.float64))
    # How often it stands there is nothing to the block.
    torch.testing.assert_close(block(x, token.expand_as(context)), block(x, token))


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_what_forward_mixes_the_values_by(shape):
    block, (x, context) = block_of(shape), maps(shape)
    cross, seen = block.transformer_blocks[0].attn2, []
    cross.to_out.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    block(x, context)
    shares = block.attention(x, context)
    assert shares.shape == (2, shape[2], 12, 6) and (shares > 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, shape[2], 12, dtype=torch.float64))
    values = cross.to_v(context.flatten(2).mT).unflatten(-1, (shape[2], -1))
    torch.testing.assert_close(seen[0], torch.einsum("bhnm,bmhd->bnhd", shares, values).flatten(2))


def test_attention_to_look_at_carries_no_gradient():
    block, (x, context) = block_of(), maps()
    assert not block.attention(x.requires_grad_(), context).requires_grad


@torch.no_grad()
def test_each_sample_is_fused_alone():
    block, (x, context) = block_of(), maps(batch=3)
    alone = torch.cat([block(x[i : i + 1], context[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(block(x, context), alone)


@torch.no_grad()
def test_context_is_not_normalised_and_the_map_is():
    block, (x, context) = block_of(), maps()
    correction = block(x, context) - x
    assert not torch.allclose(block(x, 3 * context) - x, correction, rtol=0, atol=1e-2)
    # Scaled and moved as a whole, the map asks the same; only the tiny 1e-6 beside its variance tells.
    torch.testing.assert_close(block(5 * x + 2, context) - 5 * x - 2, correction, rtol=1e-4, atol=1e-4)


def test_biases_are_those_of_the_reference():
    attention = Attention(6, 4, 2, 5)
    assert {name for name, _ in attention.named_parameters()} == {
        "to_q.weight",
        "to_k.weight",
        "to_v.weight",
        "to_out.0.weight",
        "to_out.0.bias",
    }
    assert [tuple(weights.shape) for weights in attention.parameters()] == [(10, 6), (10, 4), (10, 4), (6, 10), (6,)]


def test_feed_forward_layer_is_as_wide_as_it_is_told():
    for mult in (1, 2, 4):
        wide, _, back = CrossAttentionFusion(16, 16, 2, ff_mult=mult).transformer_blocks[0].ff.net
        assert wide.proj.weight.shape == (2 * mult * 16, 16) and back.weight.shape == (16, mult * 16)


def test_second_half_is_the_gate():
    layer = GEGLU(1, 1)
    layer.load_state_dict({"proj.weight": torch.tensor([[1.0], [0.0]]), "proj.bias": torch.tensor([0.0, -30.0])})
    # A gate of -30 is shut, whatever the value.
    assert layer(torch.tensor([[7.0]])).item() == pytest.approx(0)
    layer.load_state_dict({"proj.weight": torch.tensor([[1.0], [0.0]]), "proj.bias": torch.tensor([0.0, 2.0])})
    # x GELU(2) = x 2 Phi(2)
    assert layer(torch.tensor([[7.0]])).item() == pytest.approx(14 * 0.977249868)


# -------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"channels": 12}, "channels is 12 and groups is 8, but groups must divide"),
        ({"channels": 16, "groups": 3}, "channels is 16 and groups is 3, but groups must divide"),
        ({"heads": 3}, "channels is 16 and heads is 3, but heads must divide"),
        ({"channels": 0}, "channels is 0"),
        ({"context_channels": 2.5}, "context_channels is 2.5"),
        ({"heads": 0}, "heads is 0"),
        ({"heads": True}, "heads is True"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"groups": 0}, "groups is 0"),
        ({"ff_mult": 0}, "ff_mult is 0"),
        ({"pool": 0}, "pool is 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossAttentionFusion(**{"channels": 16, "context_channels": 16, "heads": 2} | arguments)


@pytest.mark.parametrize(
    "x, context, pool, message",
    [
        ((2, 16, 4, 4), (3, 8, 4, 4), 1, r"context has shape \(3, 8, 4, 4\), but \[2, 8, h, w\]"),
        # One context for all would otherwise be taken by each.
        ((2, 16, 4, 4), (1, 8, 4, 4), 1, r"context has shape \(1, 8, 4, 4\), but \[2, 8, h, w\]"),
        ((2, 16, 4, 4), (2, 9, 4, 4), 1, r"context has shape \(2, 9, 4, 4\), but \[2, 8, h, w\]"),
        ((2, 16, 4, 4), (2, 8, 16), 1, r"context has shape \(2, 8, 16\)"),
        ((2, 12, 4, 4), (2, 8, 4, 4), 1, r"x has shape \(2, 12, 4, 4\), but \[B, 16, h, w\]"),
        ((2, 16, 4), (2, 8, 4, 4), 1, r"x has shape \(2, 16, 4\)"),
        ((3, 2, 16, 4, 4), (2, 8, 4, 4), 1, r"x has shape \(3, 2, 16, 4, 4\)"),
        ((2, 16, 6, 4), (2, 8, 4, 4), 4, r"\(6, 4\) and \(4, 4\) places, but pool is 4"),
        ((2, 16, 4, 4), (2, 8, 4, 6), 4, r"\(4, 4\) and \(4, 6\) places, but pool is 4"),
    ],
)
@pytest.mark.parametrize("method", ["forward", "attention"])
def test_maps_that_do_not_fit_are_refused(x, context, pool, message, method):
    block = CrossAttentionFusion(16, 8, 2, pool=pool)
    with pytest.raises(ValueError, match=message):
        getattr(block, method)(torch.zeros(x), torch.zeros(context))
