"""The hybrid against the official modules' outputs, snntorch, plain loops, counts by hand and what must always hold."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.lab import energy
from helpers.neurons.lif import multistep_lif
from helpers.respike.branches import StepNorm
from helpers.respike.costs import energy_by_part
from helpers.respike.fusion import CrossAttentionFusion
from helpers.respike.hybrid_action_recognition import (
    ReSpikeNet,
    SpikingResBlock,
    check_stride,
    merge_key_residual,
    residual_statistics,
    respike_neuron,
    split_key_residual,
    ternary_events,
)

FILE = np.load(Path(__file__).parents[1] / "golden" / "respike.npz")
NETS = {
    "key": {"branches": "key"},
    "raw": {"branches": "raw"},
    "residual": {"branches": "residual"},
    "hybrid": {},
    "fusion": {"fusion": (1, 2)},
    "late": {"fusion": (2,)},
    "early": {"fusion": (1,)},
    "twin": {"fusion": (1, 2), "spiking": False},
}
GROUPED = [name for name in NETS if name != "raw"]

quick = settings(max_examples=30, deadline=None, derandomize=True)


def golden(key):
    return torch.from_numpy(FILE[key])


def lively(net):
    """Norms that have seen something, fusion blocks that change something, neurons that fire."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.uniform_(module.bias, -0.2, 0.9)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.02, 0.1)
        if isinstance(module, CrossAttentionFusion):
            nn.init.normal_(module.proj_out.weight, std=0.3)
            nn.init.normal_(module.proj_out.bias, std=0.3)
    return net.eval()


def net_of(name, classes=5, stride=4, width=8, **more):
    # In float64 no rounding moves a membrane across its threshold.
    return lively(ReSpikeNet(classes, stride, width=width, **NETS[name], **more)).double()


def clips(batch=3, frames=8, channels=1, side=8):
    return torch.rand(batch, frames, channels, side, side, dtype=torch.float64)


@torch.no_grad()
def votes(net, clip):
    return net(clip)


@torch.no_grad()
def group_votes(net, clip):
    return net.group_votes(clip)


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# ---------------------------------------------------------------------------------------- keys and residuals


def test_golden_split_and_merge():
    clip, stride = golden("split_in"), int(FILE["split_stride"])
    key, residual = split_key_residual(clip, stride)
    assert torch.equal(key, golden("split_key")) and torch.equal(residual, golden("split_res"))
    close(merge_key_residual(golden("split_key"), golden("split_res"), len(clip)), clip, 1e-6)


@quick
@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 5), st.integers(1, 3), st.integers(0, 2**20))
def test_split_is_its_formula_and_merge_undoes_it(batch, groups, stride, channels, seed):
    clip = torch.randn(batch, groups * stride, channels, 2, 3, generator=torch.Generator().manual_seed(seed))
    key, residual = split_key_residual(clip, stride)
    assert key.shape == (batch * groups, channels, 2, 3) and residual.shape == (len(key), stride - 1, channels, 2, 3)
    for sample in range(batch):
        for group in range(groups):
            row, first = sample * groups + group, clip[sample, group * stride]
            assert torch.equal(key[row], first)
            for j in range(1, stride):
                assert torch.equal(residual[row, j - 1], clip[sample, group * stride + j] - first)
    close(merge_key_residual(key, residual, batch), clip, 1e-6)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_merge_is_exact_for_pictures_in_sixteenths(stride):
    clip = torch.randint(0, 17, (3, 8, 2, 4, 4)) / 16
    assert torch.equal(merge_key_residual(*split_key_residual(clip, stride), 3), clip)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_still_clip_has_no_residuals(stride):
    key, residual = split_key_residual(torch.randn(2, 1, 3, 4, 4).expand(-1, 8, -1, -1, -1), stride)
    assert not residual.any() and key.any()


def test_constant_picture_on_all_frames_leaves_the_residuals():
    clip, picture = torch.rand(2, 8, 3, 4, 4), torch.rand(3, 4, 4)
    key, residual = split_key_residual(clip, 4)
    brighter, same = split_key_residual(clip + picture, 4)
    close(same, residual, 1e-6)
    close(brighter, key + picture, 1e-6)


def test_stride_of_all_frames_gives_one_key_a_clip():
    clip = torch.rand(3, 8, 1, 4, 4)
    key, residual = split_key_residual(clip, 8)
    assert torch.equal(key, clip[:, 0]) and residual.shape == (3, 7, 1, 4, 4)


def test_ternary_events_by_hand():
    residual = torch.tensor([-2.0, -0.5, -0.1, 0.0, 0.1, 0.5, 0.6])
    assert ternary_events(residual, 0.5).tolist() == [-1, 0, 0, 0, 0, 0, 1]
    assert ternary_events(residual, 0).tolist() == [-1, -1, -1, 0, 1, 1, 1]
    assert ternary_events(-residual, 0.5).tolist() == [1, 0, 0, 0, 0, 0, -1]


def test_statistics_are_means_over_all_residuals_of_a_step():
    clip = torch.randn(2, 6, 3, 4, 5)
    share, square = residual_statistics(clip, 3, 0.7)
    for j in (1, 2):
        found = torch.stack([clip[:, j] - clip[:, 0], clip[:, 3 + j] - clip[:, 3]])
        assert share[j - 1].item() == pytest.approx((found.abs() > 0.7).float().mean().item())
        assert square[j - 1].item() == pytest.approx(found.square().mean().item())
    assert share.shape == square.shape == (2,)


def test_statistics_of_a_still_clip_are_zero_and_bad_ones_are_refused():
    for found in residual_statistics(torch.ones(1, 4, 1, 4, 4), 4, 0.0):
        assert found.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="stride is 3 and there are 8 frames"):
        residual_statistics(torch.zeros(1, 8, 1, 4, 4), 3, 0.1)
    with pytest.raises(ValueError, match="threshold is -1"):
        residual_statistics(torch.zeros(1, 8, 1, 4, 4), 4, -1)


# ------------------------------------------------------------------------------------------------- the neuron


def spikes_and_gradient(neuron, x, cotangent):
    x = x.clone().requires_grad_()
    fired = neuron(x)
    fired.backward(cotangent)
    return fired.detach(), x.grad


def test_golden_neuron_and_its_gradient():
    found, gradient = spikes_and_gradient(respike_neuron(), golden("lif_in"), golden("lif_gout"))
    assert torch.equal(found, golden("lif_spk"))
    close(gradient, golden("lif_gin"), 1e-6)


def membrane(x):
    """After the reset."""
    n = respike_neuron()
    more = {name: getattr(n, name) for name in ("input_scale", "reset", "fire_at_threshold")}
    fired, u = multistep_lif(x, n.beta, n.threshold, **more)
    return u * (1 - fired)


def test_golden_membrane():
    close(membrane(golden("lif_in")), golden("lif_v"), 1e-6)


def theirs(x):
    """snntorch's neuron on three quarters of the input."""
    neuron, u, fired = snntorch.Leaky(beta=0.25, reset_mechanism="zero"), torch.zeros_like(x[0]), []
    for current in 0.75 * x:
        spike, u = neuron(current, u)
        fired.append(spike)
    return torch.stack(fired)


def test_neuron_is_snntorchs_off_the_threshold():
    x, cotangent = 2 * torch.randn(20, 1000), torch.randn(20, 1000)
    found, gradient = spikes_and_gradient(respike_neuron(), x, cotangent)
    expected, gradient_expected = spikes_and_gradient(theirs, x, cotangent)
    assert 0.1 < found.mean() < 0.9 and torch.equal(found, expected)
    close(gradient, gradient_expected, 1e-6)


def test_charge_just_at_the_threshold_fires_ours_and_not_snntorchs():
    # 0.75 · 4/3 = 1, as float32 rounds both; then from below: 0.5, and a quarter of it plus 0.875.
    assert respike_neuron()(torch.tensor([[4 / 3]])).item() == 1 and theirs(torch.tensor([[4 / 3]])).item() == 0
    x = torch.tensor([[0.5], [0.875]], dtype=torch.float64) / 0.75
    assert respike_neuron()(x).flatten().tolist() == [0, 1]


def test_no_input_no_spike_no_charge():
    zero = torch.zeros(9, 2, 3)
    assert not respike_neuron()(zero).any() and not membrane(zero).any()


@pytest.mark.parametrize("level", [0.999, 0.5, 1e-3, -3.0, float(torch.tensor(1.0).nextafter(torch.tensor(0.0)))])
def test_constant_input_below_one_never_fires(level):
    x = torch.full((200, 4), level)
    assert not respike_neuron()(x).any()
    u = membrane(x)
    assert (u.abs().diff(dim=0) >= 0).all()  # from below
    close(u[-1], x[-1], 1e-6)


@pytest.mark.parametrize("level", [4 / 3, 1.34, 2.0, 1e4])
def test_input_of_four_thirds_fires_in_every_step(level):
    x = torch.full((50, 4), level)
    assert respike_neuron()(x).all() and not membrane(x).any()


def test_constant_input_between_one_and_four_thirds_fires_now_and_then():
    found = respike_neuron()(torch.full((12, 1), 1.1)).flatten()
    # 0.825, 1.031: every second step, since nothing of the charge is left.
    assert found.tolist() == [0, 1] * 6


def test_neuron_forgets_between_calls():
    neuron, x = respike_neuron(), torch.rand(5, 100) + 0.3
    first = neuron(x)
    assert first.any() and torch.equal(neuron(x), first)


def test_gradient_by_hand():
    x = torch.tensor([[0.4], [1.0], [2.0], [0.9]], dtype=torch.float64)
    fired, gradient = spikes_and_gradient(respike_neuron(), x, torch.ones_like(x))
    # u = 0.3, 0.825, 1.70625, 0.675: the third fires, so nothing goes back from the fourth through it.
    slope = [1 / (1 + (math.pi * (u - 1)) ** 2) for u in (0.3, 0.825, 1.70625, 0.675)]
    assert fired.flatten().tolist() == [0, 0, 1, 0]
    by_hand = [
        0.75 * (slope[0] + 0.25 * (slope[1] + 0.25 * slope[2])),
        0.75 * (slope[1] + 0.25 * slope[2]),
        0.75 * slope[2],
        0.75 * slope[3],
    ]
    assert gradient.flatten().tolist() == pytest.approx(by_hand)


# ---------------------------------------------------------------------------------------------- norm and block


def norms(channels):
    """One of ours and torch's own, with the same weights."""
    ours, plain = StepNorm(channels), nn.BatchNorm2d(channels)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def test_norm_in_training_is_one_call_a_step():
    (ours, plain), x = norms(4), torch.randn(5, 3, 4, 6, 6) * torch.arange(1, 6).view(5, 1, 1, 1, 1)
    for _ in range(2):
        assert torch.equal(ours(x), torch.stack([plain(step) for step in x]))
    assert ours.num_batches_tracked == 10
    for name, kept in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], kept), name
    # All steps as one batch would give something else.
    merged = nn.BatchNorm2d(4)
    merged.load_state_dict(plain.state_dict())
    assert not torch.allclose(merged(x.flatten(0, 1)).unflatten(0, (5, 3)), ours(x), atol=0.1)


def test_norm_in_eval_mode_is_one_call_for_all_steps_and_keeps_nothing():
    (ours, plain), x = norms(4), torch.randn(5, 3, 4, 6, 6)
    ours(x), [plain(step) for step in x]
    before = copy.deepcopy(ours.state_dict())
    found = ours.eval()(x)
    assert torch.equal(found, plain.eval()(x.flatten(0, 1)).unflatten(0, (5, 3)))
    close(found, torch.stack([plain(step) for step in x]), 1e-6)
    assert all(torch.equal(kept, before[name]) for name, kept in ours.state_dict().items())


def test_every_norm_of_the_spiking_branch_is_called_step_by_step():
    net = ReSpikeNet(5)
    assert all(isinstance(m, StepNorm) for m in net.residual.modules() if isinstance(m, nn.BatchNorm2d))
    # The ordinary branch has no steps.
    assert not any(isinstance(m, StepNorm) for m in net.key.modules())
    net(clips().float())
    assert {int(m.num_batches_tracked) for m in net.residual.modules() if isinstance(m, StepNorm)} == {3}


def fires(x, spiking=True):
    """The neuron [T, …] as its equations, or its stand-in."""
    if not spiking:
        return x.clamp(min=0)
    v, fired = torch.zeros_like(x[0]), []
    for current in x:
        u = v + (current - v) / (4 / 3)
        fired.append((u >= 1).to(x.dtype))
        v = u * (1 - fired[-1])
    return torch.stack(fired)


def block_by_hand(block, x, stride, spiking=True):
    """One step after another, in the block's own mode, with torch's own norms."""

    def norm(each, y):
        mean, var = each.running_mean, each.running_var
        return F.batch_norm(y, mean.clone(), var.clone(), each.weight, each.bias, training=each.training)

    y = [F.conv2d(step, block.conv1.weight, stride=stride, padding=1) for step in fires(x, spiking)]
    y = torch.stack([norm(block.bn1, step) for step in y])
    y = [norm(block.bn2, F.conv2d(step, block.conv2.weight, padding=1)) for step in fires(y, spiking)]
    if stride == 2:
        _, narrow, last = block.shortcut
        x = [norm(last, F.conv2d(F.avg_pool2d(step, 2), narrow.weight)) for step in x]
    return torch.stack([one + other for one, other in zip(y, x, strict=True)])


@torch.no_grad()
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("spiking", [True, False])
@pytest.mark.parametrize("shape", [(4, 4, 1), (4, 6, 2), (6, 6, 2), (6, 4, 2)])
def test_block_is_its_formula(shape, spiking, train):
    block = lively(SpikingResBlock(*shape, spiking)).double().train(train)
    x = 1.5 * torch.randn(3, 2, shape[0], 8, 6, dtype=torch.float64)
    expected = block_by_hand(block, x, shape[2], spiking)
    found = block(x)
    assert found.shape == (3, 2, shape[1], 8 // shape[2], 6 // shape[2])
    close(found, expected)
    # What goes on is real, both above 0 and below.
    assert (found < 0).any() and len(found.unique()) > 100


@torch.no_grad()
def test_golden_block():
    block = SpikingResBlock(4, 6, int(FILE["blk_stride"]))
    weights = {key[4:]: golden(key) for key in FILE.files if key.startswith("blk.")}
    missing, unexpected = block.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    close(block.eval()(golden("blk_in")), golden("blk_out"), 1e-5)


@torch.no_grad()
def test_block_whose_last_norm_is_shut_hands_its_input_on():
    block, x = lively(SpikingResBlock(4, 4)), torch.randn(3, 2, 4, 6, 6)
    for weights in (block.bn2.weight, block.bn2.bias, block.bn2.running_mean):
        nn.init.zeros_(weights)
    assert torch.equal(block(x), x)


# ------------------------------------------------------------------------------------------------------ the net


def key_by_hand(branch, picture):
    def layer(y, conv, norm, stride=1):
        y = F.conv2d(y, conv.weight, stride=stride, padding=1)
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias).clamp(min=0)

    y = F.max_pool2d(layer(picture, *branch.stage1[:2]), 2)
    first = layer(y, *branch.stage1[4:6])
    return first, layer(layer(first, *branch.stage2[:2], 2), *branch.stage2[3:5])


def votes_by_hand(net, clip, spiking=True):
    """Group by group of one clip [T, C, H, W], and step by step: [n, classes]."""
    found = []
    size = len(clip) if net.branches == "raw" else net.stride
    for begin in range(0, len(clip), size):
        group, features = clip[begin : begin + size], []
        if net.key is not None:
            first, second = key_by_hand(net.key, group[:1])
            features.append(second)
        if net.residual is not None:
            branch = net.residual
            x = group if net.branches == "raw" else torch.stack([frame - group[0] for frame in group[1:]])
            norm, x = branch.norm, F.conv2d(x, branch.stem.weight, stride=2, padding=1)
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)[:, None]
            for stage, block in (1, branch.stage1), (2, branch.stage2):
                x = block_by_hand(block, x, stage, spiking)
                if str(stage) in branch.fusions:
                    context = first if stage == 1 else second
                    x = torch.stack([branch.fusions[str(stage)](step, context) for step in x])
            features.append(x.mean(0))
        found.append(torch.cat(features, 1).mean((2, 3)) @ net.head.weight.T + net.head.bias)
    return torch.cat(found)


@torch.no_grad()
@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("name", NETS)
def test_net_is_its_formula(name, stride):
    net, clip = net_of(name, stride=stride, in_channels=2), clips(channels=2, side=12)
    expected = torch.stack([votes_by_hand(net, each, name != "twin") for each in clip])
    found = net.group_votes(clip)
    assert found.shape == (3, 1 if name == "raw" else 8 // stride, 5)
    assert found.std(0).min() > 1e-4  # not the same for all clips
    close(found, expected)
    close(net(clip), expected.mean(1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["hybrid", "fusion", "late", "early"])
def test_stages_are_what_each_hands_to_its_fusion_block(name):
    net, clip = net_of(name), clips()
    seen, asked = {}, {}
    for stage in (1, 2):
        getattr(net.residual, f"stage{stage}").register_forward_hook(
            lambda _m, _x, y, stage=stage: seen.update({stage: y})
        )
        if str(stage) in net.residual.fusions:
            net.residual.fusions[str(stage)].register_forward_hook(
                lambda _m, given, y, stage=stage: asked.update({stage: (given[0], y)})
            )
    key, residual = split_key_residual(clip, 4)
    context, steps = net.key(key), residual.transpose(0, 1)
    found = net.residual.stages(steps, context)
    assert [tuple(each.shape) for each in found] == [(3, 6, 8, 4, 4), (3, 6, 16, 2, 2), (3, 6, 16, 2, 2)]
    assert torch.equal(found[0], seen[1]) and torch.equal(found[1], seen[2])
    assert set(asked) == set(NETS[name].get("fusion", ()))
    for stage, (x, _) in asked.items():
        assert torch.equal(x, found[stage - 1].flatten(0, 1))
    last = asked[2][1].view_as(found[1]) if 2 in asked else found[1]
    assert torch.equal(found[2], last) and torch.equal(net.residual(steps, context), last)


def test_new_fusion_net_votes_as_the_hybrid_of_its_weights():
    fusion, hybrid, clip = ReSpikeNet(5, fusion=(1, 2)).eval(), ReSpikeNet(5).eval(), clips().float()
    hybrid.load_state_dict({name: each for name, each in fusion.state_dict().items() if ".fusions." not in name})
    assert torch.equal(votes(fusion, clip), votes(hybrid, clip))
    assert not torch.allclose(votes(lively(fusion), clip), votes(hybrid, clip))


def test_heads_of_fusion_are_as_wide_as_the_net_and_norms_have_eight_groups():
    fusions = ReSpikeNet(5, width=24, fusion=(1, 2)).residual.fusions
    for stage in (1, 2):
        block = fusions[str(stage)]
        attention = block.transformer_blocks[0].attn2
        assert (block.channels, block.context_channels, attention.heads) == (24 * stage, 24 * stage, stage)
        assert block.norm.num_groups == 8 and block.pool == 1
        assert block.transformer_blocks[0].ff.net[2].in_features == 2 * 24 * stage


@pytest.mark.parametrize("name", NETS)
def test_votes_of_a_clip_are_those_that_it_gets_alone(name):
    net, clip = net_of(name), clips()
    alone = torch.cat([group_votes(net, each[None]) for each in clip])
    close(group_votes(net, clip), alone)
    close(votes(net, clip), alone.mean(1))


@pytest.mark.parametrize("name", GROUPED)
def test_other_frames_in_the_second_group_leave_the_first(name):
    net, clip = net_of(name), clips()
    other = clip.clone()
    other[:, 4:] = clips(frames=4)
    before, after = group_votes(net, clip), group_votes(net, other)
    assert torch.equal(after[:, 0], before[:, 0])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", GROUPED)
def test_second_group_votes_as_it_would_first(name):
    # No membrane comes over from the group before.
    net, clip = net_of(name), clips()
    close(group_votes(net, clip[:, 4:])[:, 0], group_votes(net, clip)[:, 1])


@pytest.mark.parametrize("name", NETS)
def test_no_membrane_leaks_between_calls(name):
    net, clip = net_of(name), clips()
    first = votes(net, clip)
    votes(net, 5 * clips())
    assert torch.equal(votes(net, clip), first)


@pytest.mark.parametrize("name", GROUPED)
def test_order_of_the_groups_does_not_matter(name):
    # Each group starts its membranes anew, so this holds for every net that has groups.
    net, clip = net_of(name), clips(frames=12)
    turned = clip.unflatten(1, (3, 4)).flip(1).flatten(1, 2)
    close(votes(net, turned), votes(net, clip))
    close(group_votes(net, turned), group_votes(net, clip).flip(1))


def test_order_of_the_frames_matters_to_whoever_sees_them_move():
    for name in NETS:
        net, clip = net_of(name), clips()
        turned = torch.cat([clip[:, :1], clip[:, 1:4].flip(1), clip[:, 4:5], clip[:, 5:].flip(1)], 1)
        changed = (votes(net, turned) - votes(net, clip)).abs().max().item()
        # The ordinary twin takes a mean over steps that know nothing of each other: it loses their order.
        assert changed < 1e-5 if name in ("key", "twin") else changed > 1e-4, name


@pytest.mark.parametrize("side", [8, 16])
def test_key_frames_alone_cannot_tell_right_from_left(side):
    # Whatever goes right from here shows the same two key frames as what goes left from four pixels on.
    net, picture = net_of("key"), torch.rand(3, 1, side, side, dtype=torch.float64)
    right = torch.stack([picture.roll(step, -1) for step in range(8)], 1)
    left = torch.stack([picture.roll(4 - step, -1) for step in range(8)], 1)
    close(votes(net, left), votes(net, right))
    other = net_of("residual")
    assert (votes(other, left) - votes(other, right)).abs().max() > 1e-4


def test_each_branch_sees_only_its_own_frames():
    clip, picture = clips(), clips()[0, 0]
    other = torch.rand_like(clip)
    other[:, ::4] = clip[:, ::4]
    assert torch.equal(votes(net := net_of("key"), other), votes(net, clip))
    assert not torch.allclose(votes(net, clip + picture), votes(net, clip))
    # Exactly: sums in sixteenths are not rounded.
    clip, picture = (16 * clip).round() / 16, (16 * picture).round() / 16
    assert torch.equal(votes(net := net_of("residual"), clip + picture), votes(net, clip))
    assert not torch.allclose(votes(net := net_of("hybrid"), clip + picture), votes(net, clip))


def test_raw_frames_need_no_stride():
    net = net_of("raw", stride=4)
    assert votes(net, clips(frames=7)).shape == (3, 5)
    first = copy.deepcopy(net)
    first.stride = 3
    assert torch.equal(votes(first, x := clips()), votes(net, x))


@pytest.mark.parametrize("name", NETS)
def test_only_the_twin_and_the_key_frames_have_no_neurons(name):
    spiking = [module for module in ReSpikeNet(5, **NETS[name]).modules() if energy.is_neuron(module)]
    assert len(spiking) == (0 if name in ("key", "twin") else 4)
    for neuron in spiking:
        assert (neuron.beta, neuron.threshold, neuron.input_scale, neuron.reset) == (0.25, 1.0, 0.75, "zero")


@pytest.mark.parametrize("side, frames, stride", [(4, 2, 2), (8, 6, 3), (12, 8, 8), (16, 16, 4)])
@pytest.mark.parametrize("name", NETS)
def test_net_takes_every_size_that_fits(name, side, frames, stride):
    with torch.device("meta"):
        net = ReSpikeNet(7, stride, width=8, in_channels=3, **NETS[name])
        assert net(torch.rand(2, frames, 3, side, side)).shape == (2, 7)


# ----------------------------------------------------------------------------------------------------- counts


def macs_by_hand(name, frames, stride, side, width, classes):
    """Multiply-adds of one clip: those that are always ones, and those of 3×3 convolutions behind neurons."""
    w, half, quarter = width, (side // 2) ** 2, (side // 4) ** 2
    groups, steps = (1, frames) if name == "raw" else (frames // stride, frames // stride * (stride - 1))
    kernels = 9 * (w * w * half * 2 + 2 * w * w * quarter + 4 * w * w * quarter) * steps
    sure = 0
    if name not in ("raw", "residual"):
        sure += groups * 9 * (w * side**2 + w * w * half + 2 * w * w * quarter + 4 * w * w * quarter)
    if name == "key":
        kernels = 0
    else:
        sure += steps * (9 * w * half + 2 * w * w * quarter)
    for stage in NETS[name].get("fusion", ()):
        d, tokens = stage * w, (half, quarter)[stage - 1]
        # In and out; two times queries, keys, values, back; to (a, g) of 2 d each, back. Then two attentions.
        sure += steps * (tokens * d * d * (2 + 8 + 4 + 2) + 4 * tokens**2 * d)
    sure += groups * 2 * w * (1 if name in ("key", "raw", "residual") else 2) * classes
    return (sure + kernels, 0) if name == "twin" else (sure, kernels)


def counted(net, clip):
    with energy.probe(net, predictions=len(clip)) as meter:
        net(clip)
    return meter


def products(meter):
    return [layer for layer in meter.layers.values() if layer.kind != "neuron"]


@pytest.mark.parametrize("size", [(8, 4, 16, 16, 16), (8, 2, 8, 8, 3), (12, 3, 12, 8, 5), (8, 8, 8, 16, 16)])
@pytest.mark.parametrize("name", NETS)
def test_multiply_adds_are_those_of_the_formula(name, size):
    frames, stride, side, width, classes = size
    meter = counted(net_of(name, classes, stride, width), clips(2, frames, side=side))
    sure, kernels = macs_by_hand(name, *size)
    assert meter.macs == sure
    assert sum(layer.macs for layer in products(meter) if layer.spikes) / 2 == kernels
    assert meter.acs <= kernels


@pytest.mark.parametrize(
    "name, millions",
    [("key", 0.81), ("raw", 0.14), ("residual", 0.11), ("hybrid", 0.92), ("fusion", 5.83), ("late", 2.69)],
)
def test_formula_gives_the_figures_of_the_page(name, millions):
    sure, kernels = macs_by_hand(name, 8, 4, 16, 16, 16)
    assert round(sure / 1e6, 2) == millions
    assert kernels == {"key": 0, "raw": 4_128_768}.get(name, 3_096_576)


def test_formula_gives_the_twin_what_neurons_no_longer_save():
    assert macs_by_hand("twin", 8, 4, 16, 16, 16) == (sum(macs_by_hand("fusion", 8, 4, 16, 16, 16)), 0)
    assert round(macs_by_hand("twin", 8, 4, 16, 16, 16)[0] / 1e6, 2) == 8.93


@pytest.mark.parametrize("name", ["raw", "residual", "hybrid", "fusion"])
def test_additions_are_the_multiply_adds_times_the_share_of_spikes(name):
    net, clip, spikes = net_of(name), clips(), {}
    kernels = [each for each in dict(net.named_modules()) if "stage" in each and each.endswith(("conv1", "conv2"))]
    assert len(kernels) == 4
    for each in kernels:
        net.get_submodule(each).register_forward_pre_hook(lambda _m, given, each=each: spikes.update({each: given[0]}))
    meter = counted(net, clip)
    assert {layer.name for layer in products(meter) if layer.spikes} == set(kernels)
    for each in kernels:
        layer, rate = meter.layers[each], spikes[each].double().mean().item()
        assert 0 < rate < 1 and spikes[each].unique().tolist() == [0, 1]
        assert layer.additions == pytest.approx(layer.macs * rate) and layer.rate == pytest.approx(rate)
        # Each convolution has a neuron of its own in front of it.
        assert meter.layers[each.replace("conv", "lif")].rate == pytest.approx(rate)
    by_hand = sum(meter.layers[each].macs * float(spikes[each].mean()) for each in kernels) / 3
    assert meter.acs == pytest.approx(by_hand)
    assert meter.compute_pj() == pytest.approx(4.6 * meter.macs + 0.9 * by_hand)


def test_still_clip_costs_a_new_hybrid_no_additions():
    # New: no norm has a bias yet that would make neurons fire by itself.
    still = torch.rand(3, 1, 1, 8, 8).expand(-1, 8, -1, -1, -1)
    for name in ("residual", "hybrid", "fusion"):
        meter = counted(ReSpikeNet(5, width=8, **NETS[name]).eval(), still)
        assert meter.acs == 0
        assert not any(layer.nonzeros for layer in meter.layers.values() if layer.kind == "neuron")


@pytest.mark.parametrize("name", GROUPED)
def test_twice_the_frames_cost_twice_as_much_and_nothing_else_changes(name):
    # The head too: it votes in every group.
    net, clip = net_of(name), clips()
    once, twice = counted(net, clip), counted(net, torch.cat([clip, clip], 1))
    assert once.layers.keys() == twice.layers.keys()
    for each, layer in once.layers.items():
        other = twice.layers[each]
        assert (other.macs, other.inputs, other.nonzeros) == (2 * layer.macs, 2 * layer.inputs, 2 * layer.nonzeros)
        assert other.additions == pytest.approx(2 * layer.additions)
        assert (other.calls, other.spikes, other.weight_bits) == (layer.calls, layer.spikes, layer.weight_bits)


def test_twice_the_raw_frames_cost_twice_as_much_but_for_the_head():
    net = net_of("raw")
    once, twice = (counted(net, clips(frames=frames)) for frames in (8, 16))
    for each, layer in once.layers.items():
        if layer.kind != "neuron":
            assert twice.layers[each].macs == (1 if each == "head" else 2) * layer.macs


def test_hybrid_costs_the_sum_of_its_parts():
    hybrid, clip = net_of("hybrid"), clips()
    whole = counted(hybrid, clip)
    parts = {}
    for name, branch in (("key", "key"), ("residual", "residual")):
        net = net_of(name)
        getattr(net, branch).load_state_dict(getattr(hybrid, branch).state_dict())
        parts[name] = counted(net, clip)
    assert whole.macs == parts["key"].macs + parts["residual"].macs
    assert whole.acs == parts["residual"].acs > 0 and parts["key"].acs == 0


@pytest.mark.parametrize("name", GROUPED)
def test_bill_by_part_is_the_formula_by_part_and_sums_to_the_whole(name):
    size = 8, 4, 8, 8, 5
    meter = counted(net_of(name), clips())
    bill = energy_by_part(meter)
    assert sum(bill.values()) == pytest.approx(meter.compute_pj() / 1e6)
    sure = {net: macs_by_hand(net, *size)[0] for net in (name, "hybrid", "key", "residual")}
    fused = name in ("fusion", "late", "early")
    expected = {
        "ordinary half": 0 if name == "residual" else sure["key"] - 2 * 16 * 5,
        "spiking half, MAC": 0 if name == "key" else sure["residual"] - 2 * 16 * 5,
        "fusion blocks": sure[name] - sure["hybrid"] if fused else 0,
        # The hybrid's head is as long as those of its two branches.
        "head": (1 if name in ("key", "residual") else 2) * 2 * 16 * 5,
    }
    if name != "twin":
        for part, macs in expected.items():
            assert bill.get(part, 0) == pytest.approx(4.6e-6 * macs)
    assert bill.get("spiking half, AC", 0) == pytest.approx(0.9e-6 * meter.acs)


def test_the_twin_costs_more_and_no_firing_rate_could_change_that():
    # By construction, so no claim: at rate 0 the additions are free, at rate 1 each multiply-add of a block is an addition.
    fusion, twin = (counted(net_of(name, 16, width=16), clips(side=16)) for name in ("fusion", "twin"))
    blocks = twin.macs - fusion.macs
    assert fusion.acs < blocks and 4.6 * twin.macs == pytest.approx(twin.compute_pj())
    assert 0.65 < fusion.macs / twin.macs and (4.6 * fusion.macs + 0.9 * blocks) / (4.6 * twin.macs) < 0.75


# ------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    "shape, stride, message",
    [
        ((1, 8, 1, 4, 4), 3, "stride is 3 and there are 8 frames"),
        ((1, 8, 1, 4, 4), 1, r"stride is 1, .* in \[2, 8\]"),
        ((1, 8, 1, 4, 4), 0, "stride is 0"),
        ((1, 8, 1, 4, 4), -4, "stride is -4"),
        ((1, 8, 1, 4, 4), 16, r"stride is 16, .* in \[2, 8\]"),
        ((1, 8, 1, 4, 4), 4.0, "stride is 4.0"),
        ((1, 8, 1, 4, 4), True, "stride is True"),
        ((1, 1, 1, 4, 4), 1, "stride is 1"),
        ((8, 1, 4, 4), 4, r"clip has shape \(8, 1, 4, 4\), but \[B, T, C, H, W\]"),
        ((1, 1, 8, 1, 4, 4), 4, r"clip has shape \(1, 1, 8, 1, 4, 4\)"),
    ],
)
def test_clip_or_stride_that_does_not_fit_is_refused(shape, stride, message):
    with pytest.raises(ValueError, match=message):
        split_key_residual(torch.zeros(shape), stride)


def test_all_divisors_above_one_and_no_other_numbers_are_strides():
    for stride in range(-1, 15):
        if stride > 1 and 12 % stride == 0:
            check_stride(12, stride)
        else:
            with pytest.raises(ValueError, match=f"stride is {stride}"):
                check_stride(12, stride)


@pytest.mark.parametrize(
    "key, residual, batch, message",
    [
        ((4, 3, 6, 6), (4, 3, 6, 6), 2, r"residual \(4, 3, 6, 6\)"),
        ((4, 3, 6, 6), (6, 3, 3, 6, 6), 2, r"key has shape \(4, 3, 6, 6\), residual \(6, 3, 3, 6, 6\)"),
        ((4, 1, 6, 6), (4, 3, 3, 6, 6), 2, r"key has shape \(4, 1, 6, 6\)"),
        ((4, 3, 6, 6), (4, 3, 3, 6, 6), 3, "batch is 3"),
        ((4, 3, 6, 6), (4, 3, 3, 6, 6), 0, "batch is 0"),
    ],
)
def test_keys_and_residuals_that_do_not_belong_together_are_refused(key, residual, batch, message):
    with pytest.raises(ValueError, match=message):
        merge_key_residual(torch.zeros(key), torch.zeros(residual), batch)


def test_keys_without_residuals_are_refused():
    with pytest.raises(ValueError, match=r"residual \(4, 0, 3, 6, 6\)"):
        merge_key_residual(torch.zeros(4, 3, 6, 6), torch.zeros(4, 0, 3, 6, 6), 2)


@pytest.mark.parametrize("threshold", [-0.1, math.nan])
def test_threshold_below_zero_is_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}, but"):
        ternary_events(torch.zeros(3), threshold)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((4, 4, 3), r"stride is 3, .* in \[1, 2\]"),
        ((4, 4, 0), "stride is 0"),
        ((4, 6, 1), "in_channels is 4 and out_channels 6"),
        ((0, 4, 2), "in_channels is 0"),
        ((4, 0.5, 2), "out_channels is 0.5"),
    ],
)
def test_block_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpikingResBlock(*arguments)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 2, 4, 7, 8), (3, 2, 4, 8, 7)])
def test_block_refuses_other_axes_and_odd_sides(shape):
    with pytest.raises(ValueError, match=r"x has shape \(.*\), but \[T, B, C, H, W\] with sides divisible by 2"):
        SpikingResBlock(4, 6, 2)(torch.zeros(shape))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"width": 0}, "width is 0"),
        ({"in_channels": 1.0}, "in_channels is 1.0"),
        ({"stride": 1}, "stride is 1"),
        ({"branches": "all"}, "branches is 'all', but .* both, key, residual, raw"),
        ({"fusion": (3,)}, r"fusion is \(3,\)"),
        ({"fusion": (1, 1)}, r"fusion is \(1, 1\)"),
        ({"fusion": (1,), "branches": "key"}, r"fusion is \(1,\) with branches 'key'"),
        ({"fusion": (2,), "branches": "raw"}, r"fusion is \(2,\) with branches 'raw'"),
        ({"fusion": (1,), "width": 12}, "channels is 12 and groups is 8"),
    ],
)
def test_net_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReSpikeNet(**{"num_classes": 5} | arguments)


def test_no_fusion_can_be_said_in_three_ways():
    for fusion in (None, (), []):
        assert not ReSpikeNet(5, fusion=fusion).residual.fusions


@pytest.mark.parametrize(
    "shape, message",
    [
        ((8, 1, 8, 8), r"clip has shape \(8, 1, 8, 8\)"),
        ((2, 8, 1, 10, 8), r"clip has shape \(2, 8, 1, 10, 8\), .* divisible by 4"),
        ((2, 8, 1, 8, 6), r"clip has shape \(2, 8, 1, 8, 6\), .* divisible by 4"),
    ],
)
@pytest.mark.parametrize("name", NETS)
def test_net_refuses_clips_of_another_shape(name, shape, message):
    with pytest.raises(ValueError, match=message):
        net_of(name)(torch.zeros(shape))


@pytest.mark.parametrize("name", GROUPED)
def test_net_refuses_frames_that_its_stride_does_not_divide(name):
    with pytest.raises(ValueError, match="stride is 4 and there are 10 frames"):
        net_of(name)(clips(frames=10))
