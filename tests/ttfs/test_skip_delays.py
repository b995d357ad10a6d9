"""Skips between neurons that fire once: official vectors, what each merge does to the times, nets, losses, statistics."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.ttfs.neuron import TTFSLinear, earliest_pool2d
from helpers.ttfs.skip_delays import (
    SKIPS,
    LearnableDelay,
    TTFSNet,
    channel_shuffle,
    gap_loss,
    spike_stats,
    time_loss,
    ttfs_loss,
    with_delay,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ttfs_skip.npz")
Z_MAX = float(torch.tensor(4.0).exp())
close = {"rtol": 1e-4, "atol": 0}


def golden(key):
    return torch.from_numpy(GOLDEN[key])


def images(count=5, side=8):
    return 2 * torch.rand(count, 1, side, side) - 1


def only_centre(weight, *pairs):
    """A 3×3 convolution [out, in·9] of which output o hears the centre of input i with weight w, and nothing else."""
    nn.init.zeros_(weight)
    for o, i, w in pairs:
        weight.data[o, 9 * i + 4] = w


def tiny(skip, delay=0.5):
    """A net of one channel on 4×4 whose spikes are known by heart: a lone weight of 2 doubles z, and 0 is silence.

    The encoder's weights are 0, so everything starts at t = 0.
    """
    net = TTFSNet(skip, channels=1, num_classes=3, side=4, init_delay=delay).eval()
    nn.init.zeros_(net.encoder[0].weight)
    only_centre(net.stages[0][0].weight, (0, 0, 2.0))
    only_centre(net.stages[0][1].weight, (0, 0, 2.0))
    only_centre(net.stages[1][0].weight, (0, 0, 2.0))  # its output 1 is silent
    only_centre(net.stages[1][1].weight, (0, 0, 2.0))
    nn.init.zeros_(net.readout.weight)
    return net


# ---------------------------------------------------------------------------------------------------- golden vectors


def test_golden_pool_and_delay():
    delay = LearnableDelay(4)
    delay.delay.data = golden("skip_delay").clone()
    assert (delay.delay < 0).any() and (delay.delay > 0).any()
    pooled = earliest_pool2d(golden("skip_z"))
    torch.testing.assert_close(pooled, golden("skip_pool"), **close)
    torch.testing.assert_close(delay(pooled), golden("skip_delayed"), **close)


def test_golden_concatenation_and_shuffle():
    merged = channel_shuffle(torch.cat([golden("skip_delayed"), golden("skip_conv")], 1))
    torch.testing.assert_close(merged, golden("skip_cat"), **close)


def test_golden_merges_are_those_of_the_net():
    def convolution(_z):
        return golden("skip_conv")

    joining, adding = TTFSNet("delay", channels=4), TTFSNet("add", channels=4)
    joining.delays[0].delay.data = golden("skip_delay").clone()
    z, branches = golden("skip_z"), []
    # The first half of the channels skips, the second goes through the convolutions.
    merged = joining._stage(0, convolution, torch.cat([z, 7 * z], 1), branches)
    torch.testing.assert_close(merged, golden("skip_cat"), **close)
    torch.testing.assert_close(adding._stage(0, convolution, z, None), golden("skip_add"), **close)
    for ours, key in zip(branches[0], ("skip_conv", "skip_pool", "skip_delayed"), strict=True):
        torch.testing.assert_close(ours, golden(key), **close)


# ---------------------------------------------------------------------------------------------------- delay and shuffle


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3))
def test_delay_is_added_to_the_time_and_never_negative(deltas):
    layer = LearnableDelay(3).double()
    layer.delay.data = torch.tensor(deltas, dtype=torch.float64).view(1, 3, 1, 1)
    z = (3 * torch.rand(2, 3, 4, 5, dtype=torch.float64)).exp()
    later = layer(z)
    expected = z.log() + torch.tensor([max(each, 0.0) for each in deltas], dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(later.log(), expected, rtol=0, atol=1e-12)
    upstream = torch.randn_like(z)
    (gradient,) = torch.autograd.grad(later, layer.delay, upstream)
    # dL/dΔ = [Δ > 0] Σ dL/dz' z'
    by_page = (upstream * later).sum((0, 2, 3)) * torch.tensor([each > 0 for each in deltas])
    torch.testing.assert_close(gradient.flatten(), by_page)


@pytest.mark.parametrize("delta", [0.0, -0.5, -100.0])
def test_delay_of_zero_or_below_is_the_identity_without_gradient(delta):
    layer, z = LearnableDelay(2, delta), torch.rand(3, 2, 4, 4) + 1
    later = layer(z)
    later.sum().backward()
    assert torch.equal(later, z) and not layer.delay.grad.any()


def test_delay_starts_at_half_a_time_constant_in_each_channel():
    assert LearnableDelay(5).delay.shape == (1, 5, 1, 1) and (LearnableDelay(5).delay == 0.5).all()


def test_shuffle_twice_is_the_identity_for_four_channels():
    x = torch.rand(2, 4, 3, 3)
    assert torch.equal(channel_shuffle(channel_shuffle(x)), x) and not torch.equal(channel_shuffle(x), x)


@pytest.mark.parametrize("channels, groups", [(8, 2), (6, 2), (6, 3), (12, 4), (2, 2)])
def test_shuffled_channel_comes_from_its_number_modulo_the_groups(channels, groups):
    x = torch.arange(channels).view(1, channels, 1, 1).expand(2, -1, 3, 3)
    shuffled = channel_shuffle(x, groups)[0, :, 0, 0].tolist()
    assert sorted(shuffled) == list(range(channels))
    assert [each // (channels // groups) for each in shuffled] == [c % groups for c in range(channels)]


@pytest.mark.parametrize("channels, groups", [(3, 2), (1, 2), (8, 3)])
def test_shuffle_refuses_channels_that_do_not_divide(channels, groups):
    with pytest.raises(ValueError, match=f"{channels} channels do not divide into {groups} groups"):
        channel_shuffle(torch.ones(1, channels, 2, 2), groups)


# ---------------------------------------------------------------------------------------------------- nets


@pytest.mark.parametrize("skip, published", [("none", 3138), ("add", 3138), ("concat", 3444), ("delay", 3456)])
def test_weights_are_as_many_as_published(skip, published):
    assert sum(weights.numel() for weights in TTFSNet(skip, channels=6).parameters()) == published


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("side, places", [(4, 1), (8, 4), (28, 16), (32, 16), (64, 64)])
def test_every_net_takes_its_side(skip, side, places):
    net = TTFSNet(skip, channels=2, num_classes=7, side=side)
    z = net(images(2, side))
    assert z.shape == (2, 7) and net.pools == (side > 8)
    assert net.readout.weight.shape == (7, (6 if skip in ("concat", "delay") else 4) * places)
    assert (z >= 1).all() and (z <= torch.tensor(net.readout.z_max)).all()


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_numbers_of_channels_work(skip, channels):
    assert TTFSNet(skip, channels=channels)(images()).shape == (5, 10)


def by_hand(net, x):
    """The class docstring's four nets written out: what each TTFS layer hears, and the output."""
    c, heard = net.channels, []
    z = net.encoder(x).clamp(0, net.t_max).exp()
    for index, (first, second) in enumerate(net.stages):
        joined = net.skip in ("concat", "delay")
        around, through = (z[:, :c], z[:, c:]) if joined else (z, z)
        middle = first(through)
        late = second(middle)
        heard += [through, middle]
        early = earliest_pool2d(around)
        if net.skip == "delay":
            early = early * net.delays[index].delay.clamp(min=0).exp()
        if joined:
            z = torch.cat([early, late], 1)
            if z.shape[1] % 2 == 0:
                half = z.shape[1] // 2
                z = torch.stack([z[:, :half], z[:, half:]], 2).flatten(1, 2)
        else:
            z = late if net.skip == "none" else late * torch.cat([early] * (late.shape[1] // early.shape[1]), 1)
    return [*heard, z.flatten(1)], net.readout(z.flatten(1))


@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("skip", SKIPS)
def test_net_is_what_its_docstring_says(skip, channels, side):
    net, x = TTFSNet(skip, channels=channels, side=side).eval(), images(side=side)
    torch.testing.assert_close(net(x), by_hand(net, x)[1])


@pytest.mark.parametrize("skip", SKIPS)
def test_windows_grow_only_where_times_are_added(skip):
    more = 2 if skip == "add" else 1
    windows = [layer.z_max / Z_MAX for layer in TTFSNet(skip).layers]
    assert windows == pytest.approx([1, 1, more, more, more**2])


@pytest.mark.parametrize("skip", SKIPS)
def test_branches_are_told(skip):
    net, branches = TTFSNet(skip, channels=6), []
    x = images(3)
    z = net.eval()(x, branches)
    assert torch.equal(net(x), z)
    if skip == "none":
        assert branches == []
        return
    assert [tuple(part.shape for part in stage) for stage in branches] == [
        ((3, 6, 4, 4),) * 3,
        ((3, 12, 2, 2), (3, 6, 2, 2), (3, 6, 2, 2)),
    ]
    for _, early, skipped in branches:
        later = early * math.exp(0.5) if skip == "delay" else early
        torch.testing.assert_close(skipped, later)
    around = net.encode(x)[:, :6]
    torch.testing.assert_close(branches[0][1], earliest_pool2d(around))


def test_added_spike_is_later_than_both():
    net, branches = TTFSNet("add", channels=6).eval(), []
    heard = []
    net.readout.register_forward_hook(lambda _m, given, _o: heard.append(given[0]))
    net(images(), branches)
    late, early, _ = branches[1]
    times = heard[0].view_as(late).log()
    torch.testing.assert_close(times, late.log() + early.log().repeat(1, 2, 1, 1), rtol=0, atol=1e-5)
    assert (times >= torch.maximum(late.log(), early.log().repeat(1, 2, 1, 1)) - 1e-6).all()


def test_net_whose_delays_are_negative_is_the_one_without():
    delayed, plain = TTFSNet("delay", init_delay=-0.3), TTFSNet("concat")
    plain.load_state_dict({key: value for key, value in delayed.state_dict().items() if "delays" not in key})
    x, y = images(), torch.arange(5)
    assert torch.equal(delayed(x), plain(x))
    ttfs_loss(delayed(x), y, delayed.layers).backward()
    assert all(not each.delay.grad.any() for each in delayed.delays)


@pytest.mark.parametrize("skip", SKIPS)
def test_loss_reaches_every_weight(skip):
    net = TTFSNet(skip)
    ttfs_loss(net(images(32)), torch.arange(32) % 10, net.layers).backward()
    for name, weights in net.named_parameters():
        assert weights.grad is not None and weights.grad.isfinite().all() and weights.grad.any(), name


def test_encoding_stays_in_the_window():
    z = TTFSNet("none").eval().encode(100 * images(50))
    assert z.min() == 1 and z.max() == Z_MAX


@pytest.mark.parametrize(
    "settings_, message",
    [
        ({"skip": "residual"}, "skip is 'residual'.* must be one of none, add, concat, delay"),
        ({"skip": None}, "skip is None"),
        ({"channels": 0}, "channels 0, .* channels at least 1"),
        ({"t_max": 0.0}, r"t_max 0\.0, .* t_max above 0"),
        ({"t_max": math.nan}, "t_max nan"),
        ({"side": 3}, "side 3, .* side at least 4"),
    ],
)
def test_bad_settings_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        TTFSNet(**settings_)


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 3, 8, 8), (1, 8, 8), (2, 64)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images have shape \(.*\), but \[B, 1, 8, 8\]"):
        TTFSNet("none")(torch.zeros(shape))


@pytest.mark.parametrize("skip", SKIPS)
def test_image_that_is_no_number_is_refused(skip):
    x = images()
    x[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="z goes down to nan"):
        TTFSNet(skip)(x)


# ---------------------------------------------------------------------------------------------------- losses


def test_loss_by_hand():
    layer = TTFSLinear(2, 1, Z_MAX)
    layer.weight.data = torch.tensor([[0.25, 0.25]])
    z, y = torch.tensor([[1.0, 3.0]]), torch.tensor([0])
    # Logits are -z: -log(e^-1 / (e^-1 + e^-3)); the layer lacks half a threshold.
    entropy = math.log(1 + math.exp(-2))
    assert ttfs_loss(z, y, [layer]).item() == pytest.approx(entropy + 0.5)
    assert ttfs_loss(z, y, [layer, layer], weight_cost=0.1).item() == pytest.approx(entropy + 0.1)
    assert ttfs_loss(z, y, []).item() == pytest.approx(entropy)


def test_loss_asks_the_right_class_to_fire_earlier_and_the_others_later():
    z = torch.tensor([[2.0, 2.0, 5.0]], requires_grad=True)
    ttfs_loss(z, torch.tensor([0]), []).backward()
    assert z.grad[0, 0] > 0 and (z.grad[0, 1:] < 0).all()


def test_time_loss_by_hand():
    layer = TTFSLinear(2, 1, Z_MAX)
    layer.weight.data = torch.tensor([[0.25, 0.25]])
    z = torch.tensor([[1.0, 3.0]]).exp()
    assert time_loss(z, torch.tensor([[1.5, 1.0]]), [layer]).item() == pytest.approx((0.25 + 4) / 2 + 0.5)


def test_gap_loss_by_hand():
    def branch(late, skipped):
        return torch.full((2, 3, 2, 2), late), None, torch.full((2, 1, 2, 2), skipped)

    assert gap_loss([branch(5.0, 2.0), branch(4.0, 3.0)], weight=0.1).item() == pytest.approx(0.1 * (9 + 1))
    # In z and by sample: two samples whose gaps cancel in the mean still cost.
    late = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    assert gap_loss([(late, None, torch.full((2, 1, 1, 1), 2.0))]).item() == pytest.approx(1e-6)


# ---------------------------------------------------------------------------------------------------- statistics


def test_statistics_of_a_net_known_by_heart():
    net = tiny("delay")
    # The read-out hears skip, conv 0, conv 1; the skip comes delayed by 0.5 twice.
    net.readout.weight.data[0, 0] = net.readout.weight.data[1, 1] = 2.0
    stats = spike_stats(net, images(3, 4), torch.tensor([0, 1, 0]))
    second = math.log(2)
    assert stats.latency == pytest.approx(1 + second, rel=1e-5)
    assert stats.first.shape == (3,) and stats.first.tolist() == pytest.approx([1 + second] * 3, rel=1e-5)
    assert stats.accuracy == pytest.approx(2 / 3) and stats.silent == 0
    # Stage 1: z 1 -> 2 -> 4, the skip at 0; stage 2: 4 -> 8 -> 16, the skip at 0.5; output 1 of its convolutions silent.
    torch.testing.assert_close(stats.conv[0], torch.full((3, 1, 2, 2), 2 * second))
    torch.testing.assert_close(stats.conv[1][:, :1], torch.full((3, 1, 1, 1), 4 * second))
    assert stats.conv[1][:, 1:].isnan().all()
    assert [float(each.unique()) for each in stats.skip] == pytest.approx([0, 0.5], abs=1e-6)
    assert [float(each.unique()) for each in stats.delayed] == pytest.approx([0.5, 1.0], rel=1e-6)
    # The gap is that of spikes: the silent neurons, at t = 4, would move it.
    assert stats.gap == pytest.approx([2 * second - 0.5, 4 * second - 1], rel=1e-5)
    # Before 1.69: the 4 + 4 of stage 1 at 0.69 and 1.39, nobody of the 2 + 2 of stage 2.
    assert stats.used == pytest.approx(8 / 12)


def test_statistics_of_silence():
    net = tiny("concat")
    nn.init.zeros_(net.stages[0][1].weight)
    stats = spike_stats(net, images(3, 4))
    assert stats.accuracy is None and stats.silent == 1 and stats.latency == pytest.approx(4)
    assert all(each.isnan().all() for each in stats.conv) and all(math.isnan(gap) for gap in stats.gap)
    # The skip of stage 1 passes on what the encoder says.
    assert [float(each.unique()) for each in stats.skip] == [0, 0]
    assert stats.used == pytest.approx(4 / 12)


def test_silent_encoder_leaves_a_silent_skip_delayed_or_not():
    net = tiny("delay")
    net.encoder[1].bias.data.fill_(9.0)  # all activations beyond the window
    stats = spike_stats(net, images(2, 4))
    assert all(each.isnan().all() for part in (stats.conv, stats.skip, stats.delayed) for each in part)
    assert stats.used == 0 and stats.silent == 1


def test_sum_of_times_inside_the_next_window_is_a_spike():
    net = tiny("add")
    nn.init.zeros_(net.stages[0][1].weight)
    stats = spike_stats(net, images(2, 4))
    # Stage 1's convolutions are silent, at t = 4, and its skip is at 0: the next window ends at 4 + ln 2.
    assert stats.conv[0].isnan().all() and math.isnan(stats.gap[0])
    assert float(stats.skip[1].unique()) == pytest.approx(4)
    net.stages[1][0].weight.data *= 3
    assert net.stages[1][0](torch.full((1, 1, 2, 2), Z_MAX)).min().item() == pytest.approx(6 / 5 * Z_MAX)


@pytest.mark.parametrize("skip", SKIPS)
def test_share_used_is_counted_neuron_by_neuron(skip):
    net, x, hidden = TTFSNet(skip, channels=2).eval(), images(20), []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: hidden.append(out)) for layer in net.layers[:-1]]
    first = net(x).detach().amin(1)
    for hook in hooks:
        hook.remove()
    used = total = 0
    for out, layer in zip(hidden, net.layers[:-1], strict=True):
        for sample, decided in zip(out, first, strict=True):
            times = sample.flatten().tolist()
            used += sum(z <= float(decided) and z < layer.z_max * (1 - 1e-7) for z in times)
            total += len(times)
    assert spike_stats(net, x).used == pytest.approx(used / total)
    assert 0 < used < total


@pytest.mark.parametrize("training", [True, False])
def test_statistics_leave_the_net_as_it_was(training):
    net = TTFSNet("delay").train(training)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    stats = spike_stats(net, images())
    assert net.training == training and all(module.training == training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not stats.first.requires_grad
    with pytest.raises(ValueError, match="images have shape"):
        spike_stats(net, images(side=9))
    assert net.training == training
    assert not any(layer._forward_hooks for layer in net.layers)


def test_net_without_a_skip_has_no_branches():
    stats = spike_stats(TTFSNet("none"), images())
    assert stats.conv == stats.skip == stats.delayed == stats.gap == []


# A shift of all delays


@pytest.mark.parametrize("skip", ["add", "concat", "delay"])
def test_no_shift_is_the_same_net_and_the_given_one_is_unchanged(skip):
    torch.manual_seed(0)
    net = TTFSNet(skip).eval()
    x = torch.rand(4, 1, 8, 8)
    before = net(x)
    assert torch.allclose(with_delay(net, 0.0)(x), before)
    with_delay(net, 1.0)(x)
    assert torch.equal(net(x), before) and (net.delays is None) == (skip != "delay")


def test_a_shift_moves_the_learned_delays_and_none_below_zero():
    net = TTFSNet("delay", channels=2)
    net.delays[0].delay.data[:] = torch.tensor([0.3, -1.0]).view(1, 2, 1, 1)
    shifted = with_delay(net, 0.5).delays[0].delay.flatten()
    assert torch.allclose(shifted, torch.tensor([0.8, 0.5]))
    z = torch.full((1, 2, 2, 2), 2.0)
    assert torch.equal(with_delay(net, -2.0).delays[0](z), z)


def test_a_net_without_a_skip_cannot_be_delayed():
    with pytest.raises(ValueError, match="pass a net with add, concat or delay"):
        with_delay(TTFSNet("none"), 1.0)
