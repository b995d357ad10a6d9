"""The ViT against stored features, torch's own transformer, plain loops and the meter; a prefix and what it may not do."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.data.glyphs import alphabet, write
from helpers.lab import energy
from helpers.models.vit import PRETRAINING, Attention, Block, ViT, cls_by_block, pretrain, vit_macs

FILE = np.load(Path(__file__).parents[1] / "golden" / "tiny_vit_glyph.npz")
NAMES = {".n1.": ".norm1.", ".n2.": ".norm2.", ".a.": ".attention.", ".m.": ".mlp."}

quick = settings(max_examples=20, deadline=None, derandomize=True)


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def tiny(**more):
    """Weights that matter, in float64."""
    net = ViT(**{"image": 4, "patch": 2, "dim": 8, "depth": 3, "heads": 2} | more)
    for weights in net.parameters():
        nn.init.normal_(weights, std=0.5)
    return net.double().eval().requires_grad_(False)


def pictures(batch=3, side=4):
    return torch.rand(batch, 1, side, side, dtype=torch.float64)


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def attention(dim=8, heads=2):
    return Attention(dim, heads).double().requires_grad_(False)


# -------------------------------------------------------------------------------------------------- stored vectors


def golden_vit(**more):
    def renamed(name):
        for short, long in NAMES.items():
            name = name.replace(short, long)
        return "positions" if name == "pos" else name

    vit = ViT(**more)
    vit.load_state_dict({renamed(key[2:]): torch.tensor(FILE[key]).float() for key in FILE if key.startswith("w/")})
    return vit.eval().requires_grad_(False)


def test_golden_features_and_cls_of_every_block():
    x, vit = torch.tensor(FILE["x"])[:, None], golden_vit()
    found = cls_by_block(vit, x)
    close(found[:-1], torch.tensor(FILE["cls_per_block"]), 1e-4)
    close(found[-1], torch.tensor(FILE["feature"]), 1e-4)
    close(vit(x), torch.tensor(FILE["feature"]), 1e-4)


def test_another_epsilon_of_the_norms_gives_other_features():
    off = (golden_vit(ln_eps=1e-5)(torch.tensor(FILE["x"])[:, None]) - torch.tensor(FILE["feature"])).abs().max()
    assert off.item() == pytest.approx(2.8e-3, rel=0.1)


def test_the_courses_network_has_as_many_weights_as_the_page_says():
    assert sum(weights.numel() for weights in ViT().parameters()) == 114_960


# ------------------------------------------------------------------------------------------------------- attention


def by_loops(net, x, prefix=None):
    """Attention, token by token and head by head."""
    batch, n, dim = x.shape
    width = dim // net.heads
    out = torch.zeros_like(x)
    for b in range(batch):
        query, key, value = (x[b] @ net.qkv.weight.T + net.qkv.bias).split(dim, -1)
        if prefix is not None:
            key, value = torch.cat([prefix[0][b], key]), torch.cat([prefix[1][b], value])
        for head in range(net.heads):
            part = slice(head * width, (head + 1) * width)
            for i in range(n):
                scores = [float(query[i, part] @ k[part]) / math.sqrt(width) for k in key]
                top = max(scores)
                total = sum(math.exp(s - top) for s in scores)
                for s, v in zip(scores, value, strict=True):
                    out[b, i, part] += math.exp(s - top) / total * v[part]
    return out @ net.proj.weight.T + net.proj.bias


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("told", [None, 0, 1, 3])
def test_attention_is_its_formula(heads, told):
    net, x = attention(8, heads), numbers(2, 4, 8)
    prefix = None if told is None else (numbers(2, told, 8), numbers(2, told, 8))
    close(net(x, prefix), by_loops(net, x, prefix))


def test_attention_is_torchs():
    net, x = attention(12, 3), numbers(2, 5, 12)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    weights = {"in_proj_weight": net.qkv.weight, "in_proj_bias": net.qkv.bias}
    theirs.load_state_dict(weights | {"out_proj.weight": net.proj.weight, "out_proj.bias": net.proj.bias})
    expected, shares = theirs(x, x, x, average_attn_weights=False)
    close(net(x), expected)
    close(net.shares(x), shares)


@quick
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 5), st.integers(1, 4), st.integers(0, 2**20))
def test_shares_sum_to_one_over_prefix_and_tokens(batch, n, told, heads, seed):
    torch.manual_seed(seed)
    net, x, prefix = attention(4 * heads, heads), numbers(batch, n, 4 * heads), numbers(2, batch, told, 4 * heads)
    shares = net.shares(x, tuple(prefix))
    assert shares.shape == (batch, heads, n, told + n) and (shares >= 0).all()
    close(shares.sum(-1), torch.ones(batch, heads, n, dtype=torch.float64))
    assert net(x, tuple(prefix)).shape == x.shape


def test_shares_and_values_make_the_output():
    net, x, prefix = attention(), numbers(2, 5, 8), (numbers(2, 3, 8), numbers(2, 3, 8))
    query, key, value = net.parts(x, prefix)
    assert query.shape == (2, 2, 5, 4) and key.shape == value.shape == (2, 2, 8, 4)
    close(net(x, prefix), net.proj((net.shares(x, prefix) @ value).transpose(1, 2).flatten(2)))


def test_prefix_comes_first_and_as_it_is():
    net, x, prefix = attention(), numbers(2, 5, 8), (numbers(2, 3, 8), numbers(2, 3, 8))
    _, key, value = net.parts(x, prefix)
    _, own_key, own_value = net.parts(x)
    for found, told, own in ((key, prefix[0], own_key), (value, prefix[1], own_value)):
        assert torch.equal(found[:, :, :3].transpose(1, 2).flatten(2), told)
        assert torch.equal(found[:, :, 3:], own)


def test_a_prefix_of_no_tokens_is_no_prefix():
    net, x = attention(), numbers(2, 5, 8)
    close(net(x, (numbers(2, 0, 8), numbers(2, 0, 8))), net(x), 1e-15)


def test_saying_a_tokens_own_keys_and_values_again_changes_nothing():
    net, x = attention(), numbers(2, 5, 8)
    _, key, value = (part.transpose(1, 2).flatten(2) for part in net.parts(x))
    close(net(x, (key, value)), net(x))


def test_order_of_what_is_told_does_not_matter_and_values_are_linear():
    net, x, key, value, other = attention(), numbers(2, 5, 8), *numbers(3, 2, 4, 8)
    close(net(x, (key.flip(1), value.flip(1))), net(x, (key, value)))
    close(net(x, (key, (value + other) / 2)), (net(x, (key, value)) + net(x, (key, other))) / 2)


def test_a_key_that_all_look_at_hands_on_its_value():
    net, x = attention(8, 1), numbers(2, 5, 8)
    query, _, _ = net.parts(x)
    net.qkv.bias[:8] += 100 * torch.ones(8, dtype=torch.float64)  # all queries point one way now
    value = numbers(2, 1, 8)
    heard = net(x, (torch.full((2, 1, 8), 10.0, dtype=torch.float64), value))
    close(heard, net.proj(value).expand(-1, 5, -1))
    assert query.shape == (2, 1, 5, 8)


@pytest.mark.parametrize("dim, heads", [(10, 4), (7, 2), (48, 5)])
def test_heads_that_do_not_divide_the_width_are_refused(dim, heads):
    for make in (lambda: Attention(dim, heads), lambda: ViT(dim=dim, heads=heads)):
        with pytest.raises(ValueError, match=f"dim is {dim} and heads is {heads}"):
            make()


# ------------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("act, name", [(nn.GELU, "gelu"), (nn.ReLU, "relu")])
def test_block_is_torchs_pre_norm_layer(act, name):
    block, x = Block(12, 3, 2, act, 1e-6).double().requires_grad_(False), numbers(2, 5, 12)
    for weights in block.parameters():
        nn.init.normal_(weights)
    more = {"norm_first": True, "batch_first": True, "layer_norm_eps": 1e-6, "dtype": torch.float64}
    theirs = nn.TransformerEncoderLayer(12, 3, 24, 0.0, name, **more).eval()
    linear = {"self_attn.out_proj": block.attention.proj, "linear1": block.mlp[0], "linear2": block.mlp[2]}
    parts = linear | {"norm1": block.norm1, "norm2": block.norm2}
    state = {f"{key}.{what}": getattr(part, what) for key, part in parts.items() for what in ("weight", "bias")}
    state |= {
        "self_attn.in_proj_weight": block.attention.qkv.weight,
        "self_attn.in_proj_bias": block.attention.qkv.bias,
    }
    theirs.load_state_dict(state)
    close(block(x), theirs(x).detach(), 1e-9)


def test_tokens_are_cls_and_patches_row_by_row_with_positions():
    vit, x = tiny(mean_std=(0.3, 0.35)), pictures()
    found = vit.tokens(x)
    assert found.shape == (3, 5, 8)
    close(found[:, 0], (vit.cls + vit.positions[:, :1])[0, 0].expand(3, -1))
    for b in range(3):
        for index, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
            pixels = [x[b, 0, row + i, column + j] for i in (0, 1) for j in (0, 1)]
            patch = (torch.stack(pixels) - 0.3) / 0.35
            close(found[b, 1 + index], vit.embed(patch) + vit.positions[0, 1 + index])


def test_without_mean_and_deviation_pixels_stay():
    vit, x = tiny(mean_std=(0.3, 0.35)), pictures()
    plain = tiny(mean_std=None)
    plain.load_state_dict(vit.state_dict())
    close(plain((x - 0.3) / 0.35), vit(x))
    assert (plain(x) - vit(x)).abs().max() > 1e-3


def test_forward_is_blocks_in_order_and_the_norm_of_cls():
    vit, x = tiny(), pictures()
    tokens = vit.tokens(x)
    for block in vit.blocks:
        tokens = block(tokens)
    close(vit(x), F.layer_norm(tokens[:, 0], (8,), vit.norm.weight, vit.norm.bias, 1e-6))
    assert vit.depth == 3 == len(vit.blocks)
    assert torch.equal(vit.encode(vit.tokens(x)), vit(x))


def test_pictures_do_not_see_each_other():
    vit, x = tiny(), pictures(5)
    close(torch.cat([vit(one[None]) for one in x]), vit(x))


@pytest.mark.parametrize("told", [lambda *_: None, lambda _, x: (x[:, :0], x[:, :0])], ids=["None", "no tokens"])
def test_a_network_that_is_told_nothing_is_the_plain_one(told):
    vit, x = tiny(), pictures()
    close(vit(x, told), vit(x), 1e-12)


def test_prompts_are_asked_once_a_block_with_its_input():
    vit, x, seen = tiny(), pictures(), []

    def prompts(index, tokens):
        seen.append((index, tokens))
        return (numbers(3, 2, 8), numbers(3, 2, 8)) if index == 1 else None

    vit(x, prompts)
    assert [index for index, _ in seen] == [0, 1, 2] and all(tokens.shape == (3, 5, 8) for _, tokens in seen)
    assert torch.equal(seen[0][1], vit.tokens(x)) and torch.equal(seen[1][1], vit.blocks[0](seen[0][1]))
    assert not torch.allclose(seen[2][1], vit.blocks[1](seen[1][1]))


@pytest.mark.parametrize("told", [1, 2, 7])
def test_a_prefix_changes_features_and_no_shape(told):
    vit, x, prefix = tiny(), pictures(), (numbers(3, told, 8), numbers(3, told, 8))
    assert vit(x, lambda *_: prefix).shape == vit(x).shape == (3, 8)
    assert (vit(x, lambda *_: prefix) - vit(x)).abs().max() > 1e-3


def test_cls_by_block_is_what_enters_and_ends_in_the_feature():
    vit, x, told = tiny().requires_grad_(True), pictures(), (numbers(3, 2, 8), numbers(3, 2, 8))
    for prompts in (None, lambda index, _: told if index == 1 else None):
        found, seen = cls_by_block(vit, x, prompts), []

        def watch(index, tokens, prompts=prompts, seen=seen):
            seen.append(tokens[:, 0])
            return prompts(index, tokens) if prompts else None

        feature = vit(x, watch)
        assert found.shape == (4, 3, 8) and not found.requires_grad
        assert torch.equal(found, torch.stack([*seen, feature]))
    # Nothing of the picture has reached [CLS] before the first block.
    assert torch.equal(found[0], found[0][:1].expand(3, -1)) and not torch.allclose(found[1][0], found[1][1])


@pytest.mark.parametrize("image, patch", [(8, 3), (7, 2), (4, 8)])
def test_a_patch_that_does_not_fit_is_refused(image, patch):
    with pytest.raises(ValueError, match=f"image is {image} and patch is {patch}"):
        ViT(image, patch)


@pytest.mark.parametrize("shape", [(2, 1, 8, 7), (2, 3, 8, 8), (2, 8, 8), (2, 64), (2, 1, 16, 16)])
def test_pictures_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"the pictures are \(2, .*\), but this network reads \[B, 1, 8, 8\]"):
        ViT(dim=8, depth=1, heads=2)(torch.zeros(shape))


# ----------------------------------------------------------------------------------------------------- multiply-adds


@pytest.mark.parametrize(
    "size",
    [
        {"image": 8, "patch": 2, "dim": 48, "depth": 6, "heads": 4, "mlp_ratio": 2},
        {"image": 4, "patch": 2, "dim": 8, "depth": 2, "heads": 1, "mlp_ratio": 4},
        {"image": 9, "patch": 3, "dim": 12, "depth": 3, "heads": 3, "mlp_ratio": 1.5},
        {"image": 6, "patch": 6, "dim": 8, "depth": 1, "heads": 2, "mlp_ratio": 1},
    ],
)
@pytest.mark.parametrize("prefix", [0, 1, 4])
def test_formula_is_what_the_meter_counts(size, prefix):
    vit, x = ViT(**size).eval(), torch.rand(3, 1, size["image"], size["image"])
    told, formula = torch.randn(2, 3, prefix, size["dim"]), {k: v for k, v in size.items() if k != "heads"}
    for prompted in range(size["depth"] + 1):
        with energy.probe(vit, predictions=3) as meter:
            vit(x, lambda index, _, prompted=prompted: tuple(told) if index < prompted else None)
        assert meter.acs == 0
        assert meter.macs == vit_macs(**formula, channels=1, prompted=prompted, prefix=prefix)


def test_formula_by_hand():
    # 4 patches of 4 pixels and [CLS]: 5 tokens, d = 8, hidden 16, one block that is told 3 tokens.
    plain = 4 * 4 * 8 + 3 * 5 * 64 + 2 * 5 * 5 * 8 + 5 * 64 + 2 * 5 * 8 * 16
    assert vit_macs(4, 2, 8, 1, channels=1, mlp_ratio=2) == plain
    assert vit_macs(4, 2, 8, 1, channels=1, mlp_ratio=2, prompted=1, prefix=3) == plain + 2 * 5 * 3 * 8


def test_figures_of_the_paper_for_the_large_network():
    plain, prompted = vit_macs(), vit_macs(prompted=5, prefix=4)
    assert round(plain / 1e9, 2) == 17.56 and round(prompted / 1e9, 2) == 17.57
    assert round((plain + prompted) / 1e9, 1) == 35.1 and round(prompted / (plain + prompted), 3) == 0.5


def test_figures_of_the_page_for_the_small_network():
    assert round(vit_macs(8, 2, 48, 6, channels=1, mlp_ratio=2) / 1e6, 2) == 2.05


@pytest.mark.parametrize("prompted", [-1, 13, 2.0])
def test_more_prompted_blocks_than_there_are_is_refused(prompted):
    with pytest.raises(ValueError, match=rf"prompted is {prompted}, .* in \[0, 12\]"):
        vit_macs(prompted=prompted, prefix=4)


# ------------------------------------------------------------------------------------------------------- pre-training


def pretrained(seed=0, **more):
    torch.manual_seed(0)
    vit = ViT(dim=16, depth=2, heads=2)
    head = pretrain(vit, **{"classes": 3, "per_class": 10, "epochs": 1, "lr": 3e-3, "seed": seed} | more)
    return vit, head


def test_pretraining_returns_a_head_and_moves_all_weights():
    torch.manual_seed(0)
    before, (vit, head) = ViT(dim=16, depth=2, heads=2), pretrained()
    assert isinstance(head, nn.Linear) and head.weight.shape == (3, 16) and not head.training
    for (name, old), new in zip(before.named_parameters(), vit.parameters(), strict=True):
        assert not torch.equal(old, new), name


def test_same_seed_same_network_another_seed_another():
    first, again, other = (pretrained(seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_pretraining_learns_letters():
    vit, head = pretrained(per_class=200, epochs=8, lr=1e-2)
    x, y = write(alphabet(3), 50, seed=99)
    with torch.no_grad():
        assert (head(vit.eval()(x)).argmax(1) == y).float().mean() > 0.6  # by chance 0.33


def test_pretraining_takes_pictures_of_the_networks_size():
    vit = ViT(image=4, dim=8, depth=1, heads=2)
    assert pretrain(vit, classes=2, per_class=4, epochs=1).weight.shape == (2, 8)
    assert set(PRETRAINING) == {"classes", "per_class", "epochs", "lr", "seed"}
    steps = PRETRAINING["classes"] * PRETRAINING["per_class"] / 128 * PRETRAINING["epochs"]
    assert steps == 1250
