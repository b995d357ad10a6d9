"""The residual net: its neuron, its blocks against the official ones, its size and work, and its merged copy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.lab import energy
from helpers.statten.ms_resnet import (
    MSBasicBlock,
    MSResNet,
    OverTime,
    TimeNorm,
    accuracy,
    block_weights,
    merged,
    resnet_neuron,
)
from helpers.statten.tensor_train import MODES, MergedConv2d, TTConv2d

FILE = np.load(Path(__file__).parents[1] / "golden" / "tt_snn.npz")
KINDS = ("dense", *MODES)


def golden(key):
    return torch.from_numpy(FILE[key]).float()


def images(count=6, side=8, channels=1):
    return 2 * torch.randn(count, channels, side, side)


def settled(mode, **more):
    """A small net in eval mode, its norms used to what they get and its votes at odds, in float64."""
    net = MSResNet(1, (6, 10), (1, 1), (3, 4), 5, mode, **more).double()
    nn.init.normal_(net.head.weight, std=3)
    for _ in range(5):
        net(images(20).double())
    return net.eval().requires_grad_(False)


def fire(x):
    """The neuron's equations, a timestep at a time."""
    u = s = torch.zeros_like(x[0])
    found = []
    for now in x:
        u = 0.25 * (1 - s) * u + now
        s = (u > 0.5).to(u.dtype)
        found.append(s)
    return torch.stack(found)


# ---------------------------------------------------------------------------------------------------- neuron


def constant(current, steps, dtype=torch.float32):
    return resnet_neuron()(torch.full((steps, 1, 1), current, dtype=dtype)).flatten().tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("current, spikes", [(0.6, [1, 1, 1, 1, 1, 1]), (0.4, [0, 0, 1, 0, 0, 1]), (0.35, [0] * 6)])
def test_neuron_under_a_constant_current(current, spikes, dtype):
    assert constant(current, 6, dtype) == spikes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neuron_never_fires_where_the_limit_is_its_threshold(dtype):
    assert not any(constant(0.375, 100, dtype)) and not any(constant(0.5, 1, dtype))
    assert any(constant(0.376, 100, dtype))


def test_neuron_follows_its_equations():
    x = torch.randn(7, 3, 50, dtype=torch.float64)
    assert torch.equal(resnet_neuron()(x), fire(x)) and 0.1 < fire(x).mean() < 0.9


def test_neuron_learns_within_half_of_its_threshold():
    x = torch.tensor([-0.1, 0.1, 0.4, 0.9, 1.1]).view(1, 1, -1).requires_grad_()
    resnet_neuron()(x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 1, 0]


# ---------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("mode", MODES)
def test_golden_block(mode):
    block = MSBasicBlock(12, 20, (5, 6), mode, 2 if mode == "htt" else None).eval()
    found = {
        k.removeprefix("block/w/").replace("shortcut.0.", "shortcut.0.layer."): golden(k)
        for k in FILE.files
        if k.startswith("block/w/")
    }
    missing, unexpected = block.load_state_dict(found, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    with torch.no_grad():
        assert torch.allclose(block(golden("block/x")), golden(f"block/{mode}/y"), atol=1e-5)


def test_a_layer_over_time_is_the_layer_in_each_step():
    layer, x = nn.Conv2d(3, 4, 3, 2, 1), torch.randn(5, 2, 3, 6, 6)
    found = OverTime(layer)(x)
    assert found.shape == (5, 2, 4, 3, 3)
    assert torch.allclose(found, torch.stack([layer(now) for now in x]), atol=1e-6)


def test_norm_shares_its_statistics_over_time_and_batch():
    norm, x = TimeNorm(3, 0.1), torch.randn(4, 5, 3, 6, 6) * torch.arange(1.0, 5).view(4, 1, 1, 1, 1) + 2
    y, axes = norm(x), (0, 1, 3, 4)
    assert torch.allclose(y.mean(axes), torch.zeros(3), atol=1e-6)
    assert torch.allclose(y.std(axes, correction=0), torch.full((3,), 0.1), atol=1e-5)
    assert torch.allclose(norm.bn.running_mean, 0.1 * x.mean(axes), atol=1e-5)
    assert y[3].std() > 2 * y[0].std()


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize(
    "channels, halve, side", [((6, 6), None, 8), ((6, 10), None, 4), ((6, 6), True, 4), ((6, 10), False, 8)]
)
def test_block_halves_where_channels_differ_or_as_told(mode, channels, halve, side):
    block = MSBasicBlock(*channels, (3, 4), mode, halve=halve)
    assert block(torch.randn(3, 2, channels[0], 8, 8)).shape == (3, 2, channels[1], side, side)
    assert isinstance(block.shortcut, nn.Identity) == (channels == (6, 6) and not halve)


@torch.no_grad()
def test_block_adds_its_shortcut_to_its_residual():
    same, other = MSBasicBlock(6, 6).eval(), MSBasicBlock(6, 10).eval()
    for block in (same, other):
        nn.init.zeros_(block.residual_function[5].bn.weight)
    x = torch.randn(3, 2, 6, 8, 8)
    assert torch.equal(same(x), x)
    by_hand = F.conv2d(x.flatten(0, 1), other.shortcut[0].layer.weight, stride=2)
    assert torch.allclose(other(x).flatten(0, 1), other.shortcut[1].bn(by_hand), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_block_passes_its_settings_on(mode):
    block = MSBasicBlock(6, 10, (3, 4), mode, 1)
    first, second = block.residual_function[1], block.residual_function[4]
    assert (first.rank, first.mode, first.downsample, first.full_steps) == (3, mode, True, 1)
    assert (second.rank, second.mode, second.downsample, second.full_steps) == (4, mode, False, 1)


# ---------------------------------------------------------------------------------------------------- net


@torch.no_grad()
def test_dense_net_is_its_equations_one_timestep_at_a_time():
    net, x = settled("dense"), images().double()
    now = torch.stack([net.stem(x)] * 4)
    for block, stride in zip(net.blocks, (1, 2), strict=True):
        _, first, norm, _, second, last = block.residual_function
        inner = [norm.bn(F.conv2d(s, first.layer.weight, None, stride, 1)) for s in fire(now)]
        outer = torch.stack([last.bn(F.conv2d(s, second.layer.weight, None, 1, 1)) for s in fire(torch.stack(inner))])
        past = (
            now if stride == 1 else torch.stack([block.shortcut[1].bn(block.shortcut[0].layer(each)) for each in now])
        )
        now = outer + past
    votes = torch.stack([net.head(s.mean((2, 3))) for s in fire(now)]).mean(0)
    assert torch.allclose(net(x), votes, rtol=0, atol=1e-10)
    assert votes.std(0).min() > 1e-3


@pytest.mark.parametrize("mode", KINDS)
def test_shapes_inside_the_net(mode):
    net, shapes = MSResNet(2, (6, 10, 12), (2, 1, 1), (3, 3, 4), 7, mode), []
    for block in net.blocks:
        block.register_forward_hook(lambda _block, _inputs, y: shapes.append(tuple(y.shape)))
    assert net(images(3, 8, 2), timesteps=5).shape == (3, 7)
    assert shapes == [(5, 3, 6, 8, 8), (5, 3, 6, 8, 8), (5, 3, 10, 4, 4), (5, 3, 12, 2, 2)]


def test_stem_can_halve():
    shapes, net = [], MSResNet(stem_stride=2)
    net.blocks.register_forward_pre_hook(lambda _blocks, inputs: shapes.append(tuple(inputs[0].shape)))
    net(images(3), 2)
    assert shapes == [(2, 3, 32, 4, 4)]


@pytest.mark.parametrize("mode", KINDS)
def test_norms_start_at_the_threshold_and_the_second_of_a_block_at_a_fifth(mode):
    net = MSResNet(mode=mode, blocks=(2, 1))
    scales = {name: m.weight for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(scales) == 1 + 3 * 2 + 1
    for name, scale in scales.items():
        assert (scale == (0.1 if name.endswith("residual_function.5.bn") else 0.5)).all(), name
    assert all((m.bias == 0).all() for m in net.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("mode", KINDS)
def test_gradients_reach_every_weight(mode):
    net = MSResNet(1, (6, 10), (1, 1), (3, 4), 5, mode)
    F.cross_entropy(net(images(20)), torch.arange(20) % 5).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("mode", KINDS)
def test_same_seed_same_weights(mode):
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(nn.utils.parameters_to_vector(MSResNet(1, (6, 10), (1, 1), (3, 4), 5, mode).parameters()))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


# ---------------------------------------------------------------------------------------------------- size and work


@pytest.mark.parametrize("mode, weights", [("dense", 73_728), *((mode, 8_448) for mode in MODES)])
def test_weights_of_the_blocks(mode, weights):
    net = MSResNet(mode=mode)
    assert block_weights(net) == weights
    names = [name for name, _ in net.block_convolutions()]
    assert names == [f"blocks.{block}.residual_function.{index}" for block in (0, 1) for index in (1, 4)]


def deep(mode, blocks=(3, 4, 6, 3)):
    with torch.device("meta"):
        return MSResNet(3, (64, 128, 256, 512), blocks, lambda i, o: round(0.29 * i), 101, mode)


@pytest.mark.parametrize("mode, blocks, whole", [("dense", 21_086_208, 21_328_805), ("ptt", 2_462_378, 2_704_975)])
def test_weights_of_the_34_layers(mode, blocks, whole):
    net = deep(mode)
    assert block_weights(net) == blocks and sum(p.numel() for p in net.parameters()) == whole


def test_weights_of_the_34_layers_by_hand():
    pairs, before = [], 64
    for width, count in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        pairs += [(before, width)] + [(width, width)] * (2 * count - 1)
        before = width
    assert block_weights(deep("dense")) == sum(9 * i * o for i, o in pairs)
    assert block_weights(deep("htt")) == sum(r * (i + o) + 6 * r * r for i, o in pairs for r in [round(0.29 * i)])
    shortcuts = sum(i * o + 2 * o for i, o in ((64, 128), (128, 256), (256, 512)))
    rest = 9 * 3 * 64 + 2 * 64 + sum(2 * o for _, o in pairs) + shortcuts + 101 * 513
    assert sum(p.numel() for p in deep("dense").parameters()) == block_weights(deep("dense")) + rest


@pytest.mark.parametrize("blocks, convolutions", [((2, 2, 2, 2), 16), ((3, 4, 6, 3), 32)])
def test_layers_are_the_convolutions_of_the_blocks_the_stem_and_the_head(blocks, convolutions):
    assert len(deep("stt", blocks).block_convolutions()) == convolutions


def work(net, timesteps=4):
    """Multiply-adds of one picture: in the blocks' 3×3 convolutions a timestep, and of the stem in all."""
    with energy.probe(net) as meter:
        net(images(1), timesteps)
    names = tuple(f"{name}." for name, _ in net.block_convolutions())
    inside = sum(layer.macs for name, layer in meter.layers.items() if name.startswith(names))
    return inside / timesteps, meter.layers["stem.0"].macs


@pytest.mark.parametrize("mode, macs", [("dense", 2_064_384), ("stt", 368_640), ("ptt", 368_640), ("htt", 282_624)])
def test_multiply_adds_of_the_blocks_a_timestep(mode, macs):
    assert work(MSResNet(mode=mode))[0] == macs


def test_later_steps_of_the_third_pipeline_do_less():
    assert (
        work(MSResNet(mode="htt", full_steps=4))[0] == 368_640
        and work(MSResNet(mode="htt", full_steps=0))[0] == 196_608
    )


def test_a_still_picture_goes_through_the_stem_once():
    assert work(MSResNet(), 1)[1] == work(MSResNet(), 6)[1] == 9 * 32 * 64


# ---------------------------------------------------------------------------------------------------- merged


@pytest.mark.parametrize("mode", KINDS)
@torch.no_grad()
def test_merged_net_votes_the_same(mode):
    net, x = settled(mode), images(50).double()
    found, expected = merged(net)(x), net(x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    assert torch.equal(found.argmax(1), expected.argmax(1)) and len(set(expected.argmax(1).tolist())) > 1


def test_merged_net_keeps_the_split():
    net, x = settled("htt", full_steps=1), images(20).double()
    assert torch.allclose(merged(net)(x, 3), net(x, 3), rtol=0, atol=1e-10)
    assert not torch.allclose(net(x, 3), settled("htt", full_steps=3)(x, 3), atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_merging_leaves_the_original_alone(mode):
    net = settled(mode)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    other = merged(net)
    for p in other.parameters():
        nn.init.zeros_(p)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert sum(isinstance(m, TTConv2d) for m in net.modules()) == 4
    assert not any(isinstance(m, TTConv2d) for m in other.modules())
    assert sum(isinstance(m, MergedConv2d) for m in other.modules()) == 4


def test_merging_a_dense_net_copies_it():
    net = settled("dense")
    other = merged(net)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(net.parameters(), other.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------------- accuracy


class Lamp(nn.Module):
    """Votes for the class that the first pixel names, one too high in training."""

    def forward(self, x, timesteps):
        return F.one_hot((x[:, 0, 0, 0].long() + self.training) % 4, 4)


@pytest.mark.parametrize("size", [1, 3, 500])
@pytest.mark.parametrize("training", [True, False])
def test_accuracy_is_the_share_of_right_answers_in_eval_mode(size, training):
    net = Lamp().train(training)
    pixels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]).view(-1, 1, 1, 1)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 0, 0])
    assert accuracy(net, pixels, labels, size=size) == 0.75
    assert net.training == training


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("build", [lambda mode: MSBasicBlock(4, 4, (2, 2), mode), lambda mode: MSResNet(mode=mode)])
def test_unknown_mode(build):
    with pytest.raises(ValueError, match="mode is 'tucker', but it must be one of dense, stt, ptt, htt"):
        build("tucker")


@pytest.mark.parametrize("rank", [0, -1, 1.5, True])
def test_ranks_must_be_whole_numbers_of_at_least_one(rank):
    said = f"rank is {rank}, but it must be a whole number of at least 1"
    with pytest.raises(ValueError, match=said):
        MSBasicBlock(4, 4, (2, rank))
    with pytest.raises(ValueError, match=said):
        MSResNet(ranks=(rank, 2))
    with pytest.raises(ValueError, match=said):
        MSResNet(ranks=lambda i, o: rank)


@pytest.mark.parametrize("change", [{"widths": (8,)}, {"blocks": (1, 1, 1)}, {"ranks": (8,)}])
def test_stages_need_an_entry_each(change):
    with pytest.raises(ValueError, match="widths, blocks and ranks are .*, but each needs one entry a stage"):
        MSResNet(**change)


@pytest.mark.parametrize(
    "shape, timesteps, said",
    [
        ((1, 8, 8), 4, r"x has shape \(1, 8, 8\)"),
        ((4, 2, 1, 8, 8), 4, r"x has shape \(4, 2, 1, 8, 8\)"),
        ((2, 1, 8, 8), 0, "timesteps is 0"),
        ((2, 1, 8, 8), 2.0, "timesteps is 2.0"),
    ],
)
def test_pictures_have_four_axes_and_show_for_a_step_at_least(shape, timesteps, said):
    with pytest.raises(ValueError, match=said):
        MSResNet()(torch.zeros(shape), timesteps)


@pytest.mark.parametrize("mode", MODES)
def test_odd_pictures_cannot_be_halved(mode):
    with pytest.raises(ValueError, match="x is 7×8 pixels, but downsample needs even sides"):
        MSResNet(mode=mode)(torch.zeros(2, 1, 7, 8))


def test_no_more_full_steps_than_timesteps():
    net = MSResNet(mode="htt", full_steps=4)
    with pytest.raises(ValueError, match=r"full_steps is 4, but it must be a whole number in \[0, 3\]"):
        net(images(2), 3)
    with pytest.raises(ValueError, match="full_steps is -1"):
        MSResNet(mode="htt", full_steps=-1)


def test_merged_convolutions_are_counted_too():
    assert block_weights(merged(MSResNet())) == 73_728
