"""Prompts made for the picture: generator, stage tokens, LoRA and loss against loops and what must always hold."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from helpers.data.glyphs import alphabet, write
from helpers.models.vit import ViT, glyph_vit
from helpers.prompts.open_world_prompts import CosineSoftmax, LoRALinear, PromptGenerator, add_lora

GLYPHS = glyph_vit()
PICTURES, _ = write(alphabet(6, seed=9), 2, seed=10, invert=True)


def generator_of(stages=3, vit=GLYPHS, lively=True, **more):
    """With stage tokens, and a last layer that says more than the hardly anything it says at first."""
    made = PromptGenerator(vit, **more).eval()
    for _ in range(stages):
        made.new_stage()
    if lively:
        nn.init.normal_(made.h[2].weight, std=0.5)
        nn.init.normal_(made.h[2].bias, std=0.5)
        for token in made.stage_tokens:
            nn.init.normal_(token)
    return made


def flat(prompts):
    """All that the blocks are told, a row a picture."""
    return torch.cat([part.flatten(1) for pair in prompts.values() for part in pair], 1)


def prompted(vit, x, prompts):
    return vit(x, lambda layer, _: prompts.get(layer))


# ------------------------------------------------------------------------------------------- a naive reference


def normed(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


def through(linear, x):
    if not isinstance(linear, LoRALinear):
        return x @ linear.weight.T + linear.bias
    return x @ (linear.base.weight + linear.up @ linear.down).T + linear.base.bias


def passed(vit, tokens, prompts=None):
    """One picture's tokens [N, d] through all blocks, one head and one query after another: the feature [d]."""
    d, width = vit.dim, vit.dim // vit.blocks[0].attention.heads
    for index, block in enumerate(vit.blocks):
        q, k, v = through(block.attention.qkv, normed(tokens, block.norm1)).split(d, -1)
        if prompts and index in prompts:
            k, v = (torch.cat([told, own]) for told, own in zip(prompts[index], (k, v), strict=True))
        mixed = torch.zeros_like(q)
        for start in range(0, d, width):
            own = slice(start, start + width)
            for token in range(len(q)):
                score = (k[:, own] * q[token, own]).sum(1) / math.sqrt(width)
                weight = (score - score.max()).exp()
                mixed[token, own] = (weight[:, None] * v[:, own]).sum(0) / weight.sum()
        tokens = tokens + through(block.attention.proj, mixed)
        wide = through(block.mlp[0], normed(tokens, block.norm2))
        tokens = tokens + through(block.mlp[2], wide * (1 + torch.erf(wide / math.sqrt(2))) / 2)
    return normed(tokens[0], vit.norm)


def read(vit, picture, stage_tokens=()):
    """[CLS], the stage tokens without positions, the patches row by row: [N, d]."""
    mean, std = vit.mean_std
    rows = [vit.cls[0] + vit.positions[0, :1], *[token[0] for token in stage_tokens]]
    side = vit.image // vit.patch
    for place, (i, j) in enumerate(itertools.product(range(side), repeat=2)):
        cut = picture[0, i * vit.patch : (i + 1) * vit.patch, j * vit.patch : (j + 1) * vit.patch].reshape(1, -1)
        rows.append(through(vit.embed, (cut - mean) / std) + vit.positions[0, place + 1])
    return torch.cat(rows)


def told(generator, picture):
    u = passed(generator.vit, read(generator.vit, picture, generator.stage_tokens))
    first, _, last = generator.h
    wide = through(first, u)
    values = through(last, wide * (1 + torch.erf(wide / math.sqrt(2))) / 2)
    tokens = values.reshape(len(generator.layers), generator.prompt_length, -1)
    half = generator.prompt_length // 2
    return {layer: (tokens[i, :half], tokens[i, half:]) for i, layer in enumerate(generator.layers)}


@torch.no_grad()
@pytest.mark.parametrize(
    ("layers", "length", "stages", "rank"), [((0, 1, 2), 4, 2, 0), ((1,), 2, 0, 0), ((2, 0), 6, 1, 3), ((0,), 2, 5, 1)]
)
def test_generator_and_prompted_network_are_their_formulas(layers, length, stages, rank):
    vit = ViT(image=6, patch=2, dim=12, depth=3, heads=2)
    generator = generator_of(stages, vit, layers=layers, prompt_length=length, lora_rank=rank).double()
    body = copy.deepcopy(vit)
    add_lora(body, 2)
    body.double()
    for weights in [*generator.vit.parameters(), *body.parameters()]:
        weights += 0.2 * torch.randn_like(weights)  # LoRA's zeros too
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    found = generator(x)
    assert list(found) == list(layers)
    z = prompted(body, x, found)
    for b, picture in enumerate(x):
        expected = told(generator, picture)
        for layer, pair in expected.items():
            for mine, theirs in zip(found[layer], pair, strict=True):
                torch.testing.assert_close(mine[b], theirs, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(z[b], passed(body, read(body, picture), expected), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------- prompts


@torch.no_grad()
def test_shapes_and_defaults():
    generator = generator_of(1)
    prompts = generator(PICTURES)
    assert list(prompts) == [0, 1, 2]
    assert all(part.shape == (12, 2, 48) for pair in prompts.values() for part in pair)
    assert [tuple(layer.weight.shape) for layer in (generator.h[0], generator.h[2])] == [(32, 48), (3 * 4 * 48, 32)]
    assert isinstance(generator.h[1], nn.GELU)
    assert generator.summary(PICTURES).shape == (12, 48)


@torch.no_grad()
def test_prompts_are_near_zero_at_first():
    generator = generator_of(1, lively=False)
    assert (generator.h[2].bias == 0).all()
    assert generator.h[2].weight.std() == pytest.approx(0.02, rel=0.05)
    own = GLYPHS.blocks[0].attention.qkv(GLYPHS.blocks[0].norm1(GLYPHS.tokens(PICTURES)))
    assert 0 < flat(generator(PICTURES)).norm(dim=1).mean() / (3 * 4) ** 0.5 < 0.2 * own[..., 48:96].norm(dim=-1).mean()


@torch.no_grad()
def test_zero_prompts_are_not_no_prompt():
    generator = generator_of(2, lively=False)
    nn.init.zeros_(generator.h[2].weight)
    prompts = generator(PICTURES)
    assert (flat(prompts) == 0).all()
    # A key of zeros still has the score 0, and takes its share.
    attention = GLYPHS.blocks[0].attention
    tokens = GLYPHS.blocks[0].norm1(GLYPHS.tokens(PICTURES))
    query, key, _ = attention.parts(tokens)
    mass = (query @ key.mT / math.sqrt(12)).exp().sum(-1)
    shares = attention.shares(tokens, prompts[0])
    torch.testing.assert_close(shares[..., :2], (1 / (2 + mass))[..., None].expand(-1, -1, -1, 2))
    # Its value is zero, so what is heard is what was heard, times what is left.
    heard = attention(tokens, prompts[0]) - attention.proj.bias
    left = ((attention(tokens) - attention.proj.bias) @ torch.linalg.inv(attention.proj.weight.T)).unflatten(
        -1, (4, 12)
    )
    expected = (left * (mass / (2 + mass)).transpose(1, 2)[..., None]).flatten(2) @ attention.proj.weight.T
    torch.testing.assert_close(heard, expected, rtol=1e-3, atol=1e-4)
    assert (prompted(GLYPHS, PICTURES, prompts) - GLYPHS(PICTURES)).norm(dim=1).min() > 0.1


@torch.no_grad()
def test_only_a_length_of_zero_is_no_prompt():
    prompts = generator_of(2, prompt_length=0, lively=False)(PICTURES)
    assert all(part.shape == (12, 0, 48) for pair in prompts.values() for part in pair)
    torch.testing.assert_close(prompted(GLYPHS, PICTURES, prompts), GLYPHS(PICTURES), rtol=0, atol=1e-6)


@torch.no_grad()
def test_same_picture_same_prompts_whatever_its_neighbours():
    generator = generator_of()
    together = flat(generator(PICTURES))
    alone = torch.cat([flat(generator(picture[None])) for picture in PICTURES])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(flat(generator(PICTURES.flip(0))).flip(0), together, rtol=0, atol=1e-5)


@torch.no_grad()
def test_different_pictures_different_prompts():
    prompts = flat(generator_of()(PICTURES))
    distances = torch.cdist(prompts, prompts) + torch.eye(12) * 1e9
    assert distances.min() > 0.1


@torch.no_grad()
def test_stage_tokens_change_what_is_told():
    generator = generator_of(1)
    before = flat(generator(PICTURES))
    generator.new_stage()
    assert (flat(generator(PICTURES)) - before).norm(dim=1).min() > 1e-3


# ------------------------------------------------------------------------------------------- stage tokens


@torch.no_grad()
def test_stage_tokens_stand_behind_cls_without_positions(monkeypatch):
    generator, seen = generator_of(3), []
    monkeypatch.setattr(generator.vit, "encode", lambda tokens: seen.append(tokens) or tokens[:, 0])
    generator.summary(PICTURES)
    plain = GLYPHS.tokens(PICTURES)
    assert torch.equal(seen[0][:, :1], plain[:, :1])
    assert torch.equal(seen[0][:, 4:], plain[:, 1:])
    for place, token in enumerate(generator.stage_tokens):
        assert torch.equal(seen[0][:, 1 + place], token[0].expand(12, -1))


@torch.no_grad()
def test_order_of_frozen_stage_tokens_does_not_matter():
    generator = generator_of(5)
    before = generator.summary(PICTURES)
    *older, newest = generator.stage_tokens
    for order in list(itertools.permutations(range(4)))[1::5]:
        generator.stage_tokens = nn.ParameterList([*[older[i] for i in order], newest])
        torch.testing.assert_close(generator.summary(PICTURES), before, rtol=0, atol=1e-5)
    # Which ones are there does matter.
    generator.stage_tokens = nn.ParameterList([*older[1:], newest])
    assert (generator.summary(PICTURES) - before).abs().max() > 1e-2


@pytest.mark.parametrize("most", [1, 2, 5])
def test_first_in_first_out(most):
    generator, made = PromptGenerator(GLYPHS, max_stage_tokens=most), []
    for stage in range(most + 4):
        kept = [token.detach().clone() for token in generator.stage_tokens]
        generator.new_stage()
        made.append(generator.stage_tokens[-1])
        assert len(generator.stage_tokens) == min(stage + 1, most)
        assert all(a is b for a, b in zip(generator.stage_tokens, made[-most:], strict=True))
        older = list(generator.stage_tokens)[:-1]
        assert [token.requires_grad for token in generator.stage_tokens] == [False] * len(older) + [True]
        assert all(torch.equal(a, b) for a, b in zip(older, kept[len(kept) - len(older) :], strict=True))
    assert all(token.shape == (1, 1, 48) for token in made)


def test_at_most_five_by_default():
    assert len(generator_of(11).stage_tokens) == 5


def test_what_a_stage_trains():
    generator = generator_of(3)
    learning = {id(weights) for weights in generator.learning()}
    assert learning == {id(weights) for weights in [generator.stage_tokens[-1], *generator.h.parameters()]}
    assert {id(w) for w in generator.parameters() if w.requires_grad} == learning
    adapted = generator_of(2, lora_rank=2)
    assert len(adapted.learning()) == 1 + 4 + 2 * 6
    assert {id(w) for w in adapted.parameters() if w.requires_grad} == {id(w) for w in adapted.learning()}
    assert len(PromptGenerator(GLYPHS).learning()) == 4  # no stage yet: h alone


def test_gradient_reaches_the_newest_token_and_no_older_one():
    generator = generator_of(3)
    flat(generator(PICTURES)).square().sum().backward()
    assert [token.grad is None for token in generator.stage_tokens] == [True, True, False]
    assert all(weights.grad.abs().sum() > 0 for weights in generator.learning())
    assert all(weights.grad is None for weights in generator.vit.parameters())


@torch.no_grad()
def test_it_can_read_fewer_tokens():
    generator = generator_of(4)
    for tokens in (1, 2, 3):
        fewer = copy.deepcopy(generator)
        fewer.stage_tokens = nn.ParameterList(list(fewer.stage_tokens)[-tokens:])
        assert torch.equal(generator.summary(PICTURES, tokens), fewer.summary(PICTURES))
        assert torch.equal(flat(generator(PICTURES, tokens)), flat(fewer(PICTURES)))
    for tokens in (None, 4, 9):
        assert torch.equal(generator.summary(PICTURES, tokens), generator.summary(PICTURES))
    torch.testing.assert_close(generator.summary(PICTURES, 0), GLYPHS(PICTURES), rtol=0, atol=1e-6)
    torch.testing.assert_close(PromptGenerator(GLYPHS).summary(PICTURES), GLYPHS(PICTURES), rtol=0, atol=1e-6)


def test_the_network_given_stays_as_it_was():
    given = ViT(image=4, dim=8, depth=2, heads=2)
    before = copy.deepcopy(given.state_dict())
    generator = generator_of(2, given, layers=(0,), lora_rank=2)
    nn.init.ones_(generator.lora[1])
    assert given.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert all(weights.requires_grad for weights in given.parameters())
    ours = {weights.data_ptr() for weights in given.parameters()}
    assert not ours & {weights.data_ptr() for weights in generator.parameters()}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prompt_length": 3}, "3.*even"),
        ({"prompt_length": -2}, "prompt_length is -2"),
        ({"prompt_length": 2.0}, "prompt_length is 2.0"),
        ({"layers": ()}, r"blocks 0 to 5"),
        ({"layers": (0, 6)}, r"\(0, 6\).*blocks 0 to 5"),
        ({"layers": (-1,)}, r"blocks 0 to 5"),
        ({"max_stage_tokens": 0}, "max_stage_tokens is 0"),
        ({"max_stage_tokens": 1.5}, "max_stage_tokens is 1.5"),
        ({"lora_rank": -1}, "rank is -1"),
        ({"lora_rank": 49}, r"rank is 49.*\[1, 48\]"),
    ],
)
def test_generator_refuses(settings, says):
    with pytest.raises(ValueError, match=says):
        PromptGenerator(GLYPHS, **settings)


@pytest.mark.parametrize("settings", [{"layers": (0.5,)}, {"layers": (0, 0)}, {"width": 0}, {"width": 1.5}])
def test_generator_refuses_layers_and_widths_that_are_not_whole(settings):
    with pytest.raises(ValueError):
        PromptGenerator(GLYPHS, **settings)


def test_summary_refuses_a_negative_number_of_tokens():
    with pytest.raises(ValueError):
        generator_of(3).summary(PICTURES, -1)


# ------------------------------------------------------------------------------------------- LoRA


@torch.no_grad()
def test_lora_with_zeros_is_the_base():
    base = nn.Linear(7, 5)
    layer, x = LoRALinear(base, 3), torch.randn(4, 2, 7)
    torch.testing.assert_close(layer(x), base(x), rtol=0, atol=1e-6)
    assert (layer.up == 0).all()
    assert (layer.down != 0).all()
    adapted = copy.deepcopy(GLYPHS)
    add_lora(adapted, 4)
    torch.testing.assert_close(adapted(PICTURES), GLYPHS(PICTURES), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_lora_is_a_product_of_low_rank(rank):
    base = nn.Linear(7, 5).double()
    layer, x = LoRALinear(base, rank).double(), torch.randn(4, 7, dtype=torch.float64)
    nn.init.normal_(layer.up)
    change = layer(torch.eye(7, dtype=torch.float64)) - base.bias - base.weight.T
    assert torch.linalg.matrix_rank(change) == rank
    for out, picture in zip(layer(x), x, strict=True):
        expected = base.weight @ picture + base.bias + layer.up @ (layer.down @ picture)
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_lora_alone_learns():
    vit = copy.deepcopy(GLYPHS).requires_grad_(False)
    learning = add_lora(vit, 4)
    assert sum(weights.numel() for weights in learning) == 6 * 4 * (48 + 144)
    assert {id(w) for w in vit.parameters() if w.requires_grad} == {id(w) for w in learning}
    vit(PICTURES).square().sum().backward()
    down, up = learning[::2], learning[1::2]
    assert all(weights.grad.abs().sum() > 0 for weights in up)
    assert all((weights.grad == 0).all() for weights in down)  # as long as B is 0
    assert all(block.attention.qkv.base.weight.grad is None for block in vit.blocks)


def test_lora_freezes_its_base():
    layer = LoRALinear(nn.Linear(3, 4), 2)
    assert not layer.base.weight.requires_grad
    assert not layer.base.bias.requires_grad
    assert layer.down.shape == (2, 3)
    assert layer.up.shape == (4, 2)


def test_no_second_lora():
    vit = copy.deepcopy(GLYPHS)
    add_lora(vit)
    with pytest.raises(ValueError, match="has LoRA already"):
        add_lora(vit)


@pytest.mark.parametrize("rank", [0, -1, 1.0, True, 49])
def test_lora_refuses(rank):
    with pytest.raises(ValueError, match="rank"):
        add_lora(copy.deepcopy(GLYPHS), rank)


# ------------------------------------------------------------------------------------------- the loss


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_loss_is_its_formula(temperature):
    head, z, y = CosineSoftmax(6, 4, temperature).double(), torch.randn(5, 6, dtype=torch.float64), [0, 3, 1, 1, 2]
    total = 0.0
    for row, label in zip(z.tolist(), y, strict=True):
        cosines = [
            sum(a * b for a, b in zip(row, w, strict=True)) / math.hypot(*row) / math.hypot(*w)
            for w in head.weight.tolist()
        ]
        powers = [math.exp(cosine / temperature) for cosine in cosines]
        total -= math.log(powers[label] / sum(powers)) / len(y)
    assert float(head(z, torch.tensor(y))) == pytest.approx(total, rel=1e-9)


@torch.no_grad()
def test_only_directions_count():
    head, z, y = CosineSoftmax(6, 4).double(), torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    loss, cosines = head(z, y), head.cosines(z)
    assert cosines.abs().max() <= 1
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    head.weight.copy_(7 * head.weight @ turn)
    torch.testing.assert_close(head.cosines(0.3 * z @ turn), cosines, rtol=0, atol=1e-9)
    torch.testing.assert_close(head(torch.rand(5, 1, dtype=torch.float64) * (z @ turn), y), loss, rtol=0, atol=1e-9)
    head.weight.copy_(torch.eye(4, 6))
    assert head(torch.eye(4, 6, dtype=torch.float64), torch.arange(4)) == pytest.approx(math.log1p(3 * math.exp(-10)))


def test_one_class_has_nothing_to_learn():
    z = torch.randn(3, 6, requires_grad=True)
    loss = CosineSoftmax(6, 1)(z, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert (z.grad == 0).all()


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_loss_refuses_a_temperature(temperature):
    with pytest.raises(ValueError, match="temperature.*above 0"):
        CosineSoftmax(6, 4, temperature)


@pytest.mark.parametrize("classes", [0, 2.0, -1])
def test_loss_refuses_classes(classes):
    with pytest.raises(ValueError, match="classes"):
        CosineSoftmax(6, classes)
