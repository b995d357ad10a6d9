"""The device's networks: what each reads of the eye's pictures, the shapes of its votes, and its arithmetic in plain loops.

(Its name is not test_networks.py: pytest knows modules without a package by their name alone, and tests/neurons has one.)
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.capstone import networks
from helpers.capstone.networks import DigitNet, WordSum, frames_of, input_of, untrained, words_of
from helpers.data.events import EventBatch
from helpers.neurons.lif import LIF

quick = settings(max_examples=25, deadline=None, derandomize=True)
NAMES = ("cnn", "small-cnn", "snn", "tensor-train", "pruned", "ttfs", "hybrid", "words", "attention")


def lively(net, seed=0):
    """In eval mode, with batch norms by which neurons speak."""
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = 1 + torch.rand(len(module.weight), generator=draw)
            module.bias.data = torch.rand(len(module.bias), generator=draw)
    return net.eval().requires_grad_(False)


def test_names_are_the_pages():
    assert networks.NETWORKS == NAMES and networks.STEPPED == ("snn", "tensor-train", "pruned")
    assert networks.SPIKING == ("snn", "pruned") and networks.OF_WORDS == ("words", "attention")
    assert (networks.SIDE, networks.CLASSES, networks.GROUP) == (16, 10, 4)
    assert f"{networks.WORDS} of the events" in networks.__doc__
    for name in NAMES:
        assert f"\n    {name} " in networks.__doc__


# ------------------------------------------------------------------------------------------------------------------- inputs


@quick
@given(st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 3), st.integers(0, 9999))
def test_frames_are_counts_of_equal_shares(timesteps, scenes, seed):
    crops = torch.from_numpy(np.random.default_rng(seed).random((scenes, 16, 2, 16, 16)) < 0.2)
    found = frames_of(crops, timesteps)
    assert found.shape == (timesteps, scenes, 2, 16, 16) and found.dtype == torch.float32
    share = 16 // timesteps
    for t, b in itertools.product(range(timesteps), range(scenes)):
        expected = sum(crops[b, k].int() for k in range(t * share, (t + 1) * share))
        assert torch.equal(found[t, b], expected.float())
    assert found.sum() == crops.sum()


def test_words_are_the_events_by_hand():
    crops = torch.zeros(2, 16, 2, 16, 16, dtype=torch.bool)
    crops[1, 3, 1, 5, 7] = crops[1, 0, 0, 15, 2] = crops[1, 3, 0, 9, 9] = True
    found = words_of(crops)
    assert isinstance(found, EventBatch) and found.t.shape == (2, 3)
    assert found.mask.tolist() == [[True, False, False], [True] * 3]
    assert found.t[1].tolist() == [0, 30_000, 30_000]  # frames of 10 ms, in µs
    assert (found.p[1].tolist(), found.y[1].tolist(), found.x[1].tolist()) == ([0, 0, 1], [15, 9, 5], [2, 9, 7])
    # A scene without any has one, in a corner.
    assert [float(part[0, 0]) for part in (found.t, found.p, found.y, found.x)] == [0, 0, 0, 0]


def test_words_are_all_of_them_or_a_draw(crops):
    everything, some, again = words_of(crops), words_of(crops, 20), words_of(crops, 20)
    other = words_of(crops, 20, seed=1)
    counts = crops.flatten(1).sum(1)
    assert everything.mask.sum(1).tolist() == counts.tolist() and everything.mask.shape[1] == counts.max()
    assert some.mask.sum(1).tolist() == counts.clamp(max=20).tolist()
    assert all(torch.equal(a, b) for a, b in zip(some._parts(), again._parts(), strict=True))
    assert not torch.equal(some.x, other.x)
    for b, crop in enumerate(crops):
        rows = {tuple(row.tolist()) for row in crop.nonzero()}  # t, p, y, x
        for batch in (everything, some):
            kept = batch.mask[b]
            parts = ((batch.t[b] / 10_000).long(), batch.p[b], batch.y[b], batch.x[b])
            seen = list(zip(*(part[kept].tolist() for part in parts), strict=True))
            assert (
                len(set(seen)) == len(seen) and set(seen) <= rows and [s[0] for s in seen] == sorted(s[0] for s in seen)
            )
        assert len({tuple(s) for s in rows}) == int(everything.mask[b].sum())


def test_what_each_network_is_called_with(crops):
    counts = crops.int()
    for name in ("cnn", "small-cnn"):
        assert torch.equal(input_of(name, crops), counts.sum(1)[None].float())
    for name, steps in itertools.product(("snn", "tensor-train", "pruned"), (2, 4, 8)):
        expected = counts.unflatten(1, (steps, -1)).sum(2).transpose(0, 1).clamp(max=1).float()
        assert torch.equal(input_of(name, crops, steps), expected)
    assert torch.equal(input_of("snn", crops), input_of("snn", crops, 4))
    total = counts.sum(1)
    assert torch.equal(input_of("ttfs", crops), ((total[:, 1] - total[:, 0]).clamp(-4, 4) / 4)[:, None])
    hybrid = input_of("hybrid", crops)
    assert hybrid.shape == (6, 4, 2, 16, 16) and torch.equal(hybrid[2, 1], counts[2, 4:8].sum(0).float())
    words, most = input_of("words", crops), input_of("attention", crops)
    assert int(words.mask.sum()) == int(crops.sum()) and most.mask.shape[1] == min(networks.WORDS, words.mask.shape[1])
    # What has steps of its own does not ask for them.
    assert torch.equal(input_of("cnn", crops, 8), input_of("cnn", crops, 2))


def test_ttfs_reads_on_minus_off_and_no_more_than_four():
    crops = torch.zeros(1, 16, 2, 16, 16, dtype=torch.bool)
    crops[0, :, 1, 2, 3], crops[0, :, 0, 4, 5], crops[0, :3, 1, 6, 7], crops[0, :1, 0, 6, 7] = True, True, True, True
    picture = input_of("ttfs", crops)[0, 0]
    assert (picture[2, 3], picture[4, 5], picture[6, 7]) == (1, -1, 0.5) and picture.count_nonzero() == 3


@pytest.mark.parametrize("timesteps", [3, 5, 6, 7, 12])
def test_steps_that_do_not_divide_the_frames_are_refused(refused, crops, timesteps):
    for ask in (frames_of, lambda c, t: input_of("snn", c, t)):
        with refused(f"^timesteps is {timesteps}, but it must divide the 16 frames.$"):
            ask(crops, timesteps)


@pytest.mark.parametrize("timesteps", [0, 17, -2, 2.0, True, None])
def test_steps_that_are_no_whole_number_are_refused(refused, crops, timesteps):
    with refused(rf"^timesteps is {timesteps!r}, but it must be a whole number in \[1, 16\].$"):
        frames_of(crops, timesteps)


# ---------------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("name", NAMES)
def test_votes_are_ten_for_each_scene_and_no_scene_hears_another(crops, name):
    net = lively(untrained(name))
    votes = net(input_of(name, crops))
    assert votes.shape == (6, 10) and torch.isfinite(votes).all() and votes.std(0).max() > 0
    if name != "attention":  # whose events are drawn for all scenes with one generator
        alone = torch.cat([net(input_of(name, crops[k : k + 1])) for k in range(6)])
        torch.testing.assert_close(alone, votes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_training_begins_where_the_seed_says(name):
    before = torch.random.get_rng_state()
    one, same, other = (untrained(name, seed).state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_sizes_are_the_pages():
    cnn, small, snn, train = (untrained(name) for name in ("cnn", "small-cnn", "snn", "tensor-train"))
    assert [tuple(c.weight.shape) for c in cnn.convs] == [(16, 2, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3)]
    assert [tuple(c.weight.shape) for c in small.convs] == [(6, 2, 3, 3), (12, 6, 3, 3)]
    assert cnn.head.weight.shape == (10, 512) and small.head.weight.shape == (10, 192)
    assert [c.bias for c in cnn.convs] == [None] * 3 and cnn.head.bias is not None
    assert all(isinstance(n, nn.ReLU) for n in cnn.neurons) and all(isinstance(n, LIF) for n in snn.neurons)
    assert {(n.beta, n.threshold, n.reset) for n in snn.neurons} == {(0.5, 1.0, "zero")}
    assert [tuple(core.weight.shape) for core in train.convs[1].cores] == [
        (8, 16, 1, 1),
        (8, 8, 3, 1),
        (8, 8, 1, 3),
        (32, 8, 1, 1),
    ]
    assert isinstance(train.convs[0], nn.Conv2d)
    sizes = {name: sum(p.numel() for p in untrained(name).parameters()) for name in NAMES}
    assert sizes["snn"] == sizes["pruned"] == sizes["cnn"] == 2 * 144 + 16 * 288 + 32 * 288 + 2 * 80 + 5130
    assert sizes["words"] == 513 * 64 + 64 * 65 + 650 and sizes["tensor-train"] < sizes["cnn"]


def naive_lif(current):
    """β = 0.5, threshold 1, reset to zero, step by step."""
    u, out = torch.zeros_like(current[0]), []
    for i in current:
        u = 0.5 * u + i
        out.append((u > 1).float())
        u = u * (u <= 1)
    return torch.stack(out)


def naive_digit_net(net, x):
    """The votes, and every layer's pooled output, one timestep after the other but for the membranes."""
    heard = []
    for place, (conv, norm) in enumerate(zip(net.convs, net.norms, strict=True)):
        mean, spread = norm.running_mean[:, None, None], (norm.running_var + norm.eps).sqrt()[:, None, None]
        current = torch.stack(
            [
                (F.conv2d(step, conv.weight, padding=1) - mean) / spread * norm.weight[:, None, None]
                + norm.bias[:, None, None]
                for step in x
            ]
        )
        x = naive_lif(current) if net.spiking else current.clamp(min=0)
        x = torch.stack([F.max_pool2d(step, 2) for step in x]) if place < 2 else x
        heard.append(x)
    return sum(net.head(step.flatten(1)) for step in x) / len(x), heard


@pytest.mark.parametrize("name", ["cnn", "small-cnn", "snn", "pruned"])
def test_a_network_of_digits_step_by_step(crops, name):
    net, given_ = lively(untrained(name), 2), input_of(name, crops)
    for norm in net.norms:
        norm.running_mean, norm.running_var = 0.1 * torch.randn(len(norm.bias)), 0.5 + torch.rand(len(norm.bias))
    votes, heard = naive_digit_net(net, given_)
    torch.testing.assert_close(net(given_), votes, rtol=1e-4, atol=1e-4)
    assert heard[0].shape[-1] == 8 and heard[1].shape[-1] == heard[-1].shape[-1] == 4


@pytest.mark.parametrize("name", ["snn", "tensor-train", "pruned"])
@pytest.mark.parametrize("timesteps", [2, 8])
def test_spikes_stay_spikes_behind_the_pools(crops, name, timesteps):
    net, seen = lively(untrained(name)), []
    hooks = [m.register_forward_hook(lambda _m, _i, out: seen.append(out)) for m in (*net.neurons, net.pool)]
    net.head.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    net(input_of(name, crops, timesteps))
    assert len(seen) == len(hooks) + 2  # three layers, two pools, the head
    for out in seen:
        assert bool(((out == 0) | (out == 1)).all()) and 0 < out.mean() < 1


def test_a_network_of_numbers_hears_numbers(crops):
    net, seen = lively(untrained("cnn")), []
    net.head.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    net(input_of("cnn", crops))
    assert len(seen[0].unique()) > 100 and seen[0].min() >= 0


def test_time_matters_to_spikes(crops):
    net, given_ = lively(untrained("snn")), input_of("snn", crops)
    assert not torch.allclose(net(given_), net(given_.flip(0)))


def test_words_are_added_up_naively(crops):
    net, events = untrained("words").requires_grad_(False), words_of(crops)
    table = net.space.rows.weight
    expected = []
    for b in range(6):
        total = torch.zeros(64)
        for p, y, x in crops[b].any(0).nonzero().tolist():
            total += int(crops[b, :, p, y, x].sum()) * table[1 + (p * 16 + y) * 16 + x]
        first = (net.first.weight @ (total / 16).clamp(min=0) + net.first.bias).clamp(min=0)
        expected.append(net.head.weight @ first + net.head.bias)
    torch.testing.assert_close(net(events), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert isinstance(net, WordSum) and not table[0].any()


def test_the_order_of_words_is_lost_and_that_of_attention_is_not(crops):
    shuffled = crops.flip(1)
    words, attention = (lively(untrained(name)) for name in ("words", "attention"))
    torch.testing.assert_close(words(words_of(crops)), words(words_of(shuffled)), rtol=1e-4, atol=1e-5)
    late = crops.clone()
    late[:, 8:] = crops[:, 8:].flip(1)
    a, b = (attention(words_of(c)) for c in (crops, late))
    assert not torch.allclose(a, b)


def test_a_digit_net_has_any_channels_and_a_head_that_fits():
    for channels in ((4, 5), (3, 3, 3, 7)):
        net = DigitNet(channels).eval()
        assert net(torch.rand(2, 3, 2, 16, 16)).shape == (3, 10) and net.head.in_features == 16 * channels[-1]


@pytest.mark.parametrize("name", ["small cnn", "SNN", "", None, "vgg"])
def test_unknown_networks_are_refused(refused, name):
    with refused(f"^network is {name!r}, but it must be one of {', '.join(NAMES)}.$"):
        untrained(name)
    with refused(f"^network is {name!r}, but it must be one of"):
        networks.shipped(name)


def test_what_ships_is_frozen_and_a_new_copy(monkeypatch):
    stored = {f"small_cnn.{key}": value for key, value in untrained("small-cnn", 9).state_dict().items()}
    halved = {key: value.half() if value.is_floating_point() else value for key, value in stored.items()}
    monkeypatch.setattr(networks, "_tensors", lambda: halved)
    one, two = networks.shipped("small-cnn"), networks.shipped("small-cnn")
    assert one is not two and not one.training and not any(p.requires_grad for p in one.parameters())
    for key, value in one.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, halved[f"small_cnn.{key}"].to(value.dtype))
    one.head.weight.data.zero_()
    assert two.head.weight.any()
