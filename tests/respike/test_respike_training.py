"""The nets of the chapter: what they hold, how they learn, and what they are asked."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.data.clips import ClipSet
from helpers.lab import energy
from helpers.lab.training import batches
from helpers.respike.fusion import CrossAttentionFusion
from helpers.respike.training import NETS, Score, learn, new_net, score

PARAMETERS = {
    "key frames": 16_992,
    "raw frames": 19_904,
    "residuals": 19_904,
    "hybrid": 36_880,
    "fusion": 58_176,
    "late fusion": 53_808,
    "twin": 58_176,
}


def moving_blobs(count=64, side=8):
    """Two blobs of different size that go right, left, down or up: 8 classes."""
    labels = torch.arange(count) % 8
    frames = torch.zeros(count, 4, 1, side, side)
    for clip, label, start in zip(frames, labels, torch.randint(0, side, (count, 2)), strict=True):
        step = [(0, 1), (0, -1), (1, 0), (-1, 0)][label % 4]
        for t, frame in enumerate(clip):
            frame[0, : 2 + label // 4, : 2 + label // 4] = 1
            frame.copy_(frame.roll(tuple(int(a) + t * b for a, b in zip(start, step, strict=True)), (1, 2)))
    return ClipSet(frames, labels, (0, 1))


def small_net(name, seed=0):
    return new_net(name, 8, 4, seed, width=8)


@pytest.mark.parametrize("name", NETS)
def test_nets_have_their_parameters(name):
    # w channels, 16 classes; 2 a channel in each norm.
    w = 16
    key = 9 * (w + w**2 + 2 * w**2 + 4 * w**2) + 2 * (w + w + 2 * w + 2 * w)
    spiking = 9 * w + 2 * w + 2 * (9 * w**2 + 2 * w) + 9 * (2 * w**2 + 4 * w**2) + 2 * w**2 + 3 * 4 * w

    def fusion(d):
        # Group norm, three layer norms, in and out; two attentions; to 4 d and from 2 d.
        return 4 * 2 * d + 2 * (d**2 + d) + 2 * (4 * d**2 + d) + (4 * d**2 + 4 * d) + (2 * d**2 + d)

    parts = {
        "key frames": key + (2 * w * 16 + 16),
        "raw frames": spiking + (2 * w * 16 + 16),
        "residuals": spiking + (2 * w * 16 + 16),
        "hybrid": (joined := key + spiking + (4 * w * 16 + 16)),
        "fusion": joined + fusion(w) + fusion(2 * w),
        "late fusion": joined + fusion(2 * w),
        "twin": joined + fusion(w) + fusion(2 * w),
    }
    found = sum(weights.numel() for weights in new_net(name, 16).parameters())
    assert found == PARAMETERS[name] == parts[name]


def test_nets_are_those_that_were_counted():
    assert set(NETS) == set(PARAMETERS)


def test_nets_differ_where_their_names_say_so():
    nets = {name: small_net(name) for name in NETS}
    assert {name for name, net in nets.items() if net.key is None} == {"raw frames", "residuals"}
    assert {name for name, net in nets.items() if net.residual is None} == {"key frames"}
    fused = {name: set(net.residual.fusions) for name, net in nets.items() if net.residual is not None}
    assert {name: found for name, found in fused.items() if found} == {
        "fusion": {"1", "2"},
        "late fusion": {"2"},
        "twin": {"1", "2"},
    }
    quiet = {name for name, net in nets.items() if not any(energy.is_neuron(module) for module in net.modules())}
    assert quiet == {"key frames", "twin"}
    assert nets["raw frames"].branches == "raw" and nets["residuals"].branches == "residual"


@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_every_parameter(name):
    net, clips = small_net(name), moving_blobs()
    for module in net.modules():
        if isinstance(module, CrossAttentionFusion):
            nn.init.normal_(module.proj_out.weight, std=0.3)
    F.cross_entropy(net(clips.frames), clips.labels).backward()
    for weights, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), weights


# ------------------------------------------------------------------------------------------------------ new nets


def weights_of(net):
    return torch.cat([each.detach().flatten() for each in net.parameters()])


@pytest.mark.parametrize("name", NETS)
def test_same_seed_same_weights_and_nobody_elses_dice_are_touched(name):
    state = torch.get_rng_state()
    first = weights_of(small_net(name))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(weights_of(small_net(name)), first)
    assert not torch.equal(weights_of(small_net(name, seed=1)), first)


def test_new_net_takes_what_a_net_takes():
    net = new_net("late fusion", 5, 2, width=8, in_channels=3, fusion=(1,))
    assert net.stride == 2 and net.head.weight.shape == (5, 32) and set(net.residual.fusions) == {"1"}
    assert net(torch.rand(2, 4, 3, 8, 8)).shape == (2, 5)
    assert NETS["late fusion"] == {"fusion": (2,)} and net.training
    assert new_net("hybrid", 5).stride == 4 and new_net("hybrid", 5).residual.stem.weight.shape == (16, 1, 3, 3)


def test_unknown_net_and_bad_settings_are_refused():
    with pytest.raises(ValueError, match="net 'transformer' is not known: it is one of key frames, raw frames"):
        new_net("transformer", 5)
    with pytest.raises(ValueError, match="num_classes is 0"):
        new_net("hybrid", 0)
    with pytest.raises(ValueError, match="stride is 1"):
        new_net("hybrid", 5, 1)
    with pytest.raises(ValueError, match="width is 0"):
        new_net("hybrid", 5, width=0)


# -------------------------------------------------------------------------------------------------------- learn


@pytest.mark.parametrize("name", NETS)
def test_net_is_left_in_eval_mode_and_repeats_itself_to_the_last_bit(name):
    clips, runs = moving_blobs(), []
    for start, seed in ((0, 0), (0, 0), (1, 0)):
        net = small_net(name, start)
        before = weights_of(net)
        assert learn(net, clips, epochs=1, seed=seed) is net
        assert not any(module.training for module in net.modules())
        assert not torch.equal(weights_of(net), before)
        runs.append(weights_of(net))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_net_is_trained_in_train_mode_however_it_comes():
    clips, net = moving_blobs(), small_net("hybrid")
    for call in (1, 2):
        learn(net, clips, epochs=1)
        assert net.key.stage1[1].num_batches_tracked == call


def test_seed_is_that_of_the_order():
    clips = moving_blobs(96)
    runs = [weights_of(learn(small_net("key frames"), clips, epochs=1, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_recipe_by_hand():
    clips, net = moving_blobs(96), small_net("key frames")
    other = copy.deepcopy(net)
    learn(net, clips, epochs=2, seed=3)
    # 96 clips are a batch of 64 and one of 32.
    rule = torch.optim.AdamW(other.parameters(), lr=3e-3, weight_decay=1e-2)
    cycle = torch.optim.lr_scheduler.OneCycleLR(rule, max_lr=3e-3, total_steps=4)
    data = batches(clips.frames, clips.labels, size=64, seed=3)
    for _ in range(2):
        for x, y in data:
            rule.zero_grad()
            F.cross_entropy(other(x), y).backward()
            rule.step()
            cycle.step()
    torch.testing.assert_close(weights_of(net), weights_of(other), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["residuals", "fusion"])
def test_net_learns(name):
    clips = moving_blobs(128)
    net = learn(small_net(name), clips, epochs=16)
    # An eighth is chance.
    assert score(net, clips).accuracy > 3 / 8


# -------------------------------------------------------------------------------------------------------- score


class Told(nn.Module):
    """Votes for the class that the first pixel names; keeps the mode in which it was asked and how many clips."""

    def __init__(self, classes):
        super().__init__()
        self.inner, self.classes, self.asked = nn.Linear(1, 1), classes, []

    def forward(self, clip):
        self.asked.append((self.training, self.inner.training, torch.is_grad_enabled(), len(clip)))
        return F.one_hot(clip[:, 0, 0, 0, 0].long(), self.classes).float() * self.inner.weight.square()


def told(answers):
    frames = torch.zeros(len(answers), 2, 1, 4, 4)
    frames[:, 0, 0, 0, 0] = torch.tensor(answers).float()
    return frames


def test_shares_on_votes_by_hand():
    labels = torch.tensor([0, 3, 5, 6, 10, 12, 15, 7])
    # Right; right; direction; digit; neither; digit; direction; neither.
    frames = told([0, 3, 1, 4, 13, 13, 3, 12])
    assert score(Told(16), ClipSet(frames, labels, (0, 1, 2, 3))) == Score(2 / 8, 4 / 8, 4 / 8)


def test_digit_is_the_label_over_four_and_direction_the_rest():
    for label in range(16):
        for answer in range(16):
            found = score(Told(16), ClipSet(told([answer]), torch.tensor([label]), (0, 1, 2, 3)))
            expected = answer == label, divmod(answer, 4)[0] == divmod(label, 4)[0], answer % 4 == label % 4
            assert (found.accuracy, found.digit, found.direction) == expected


def test_all_clips_count_alike_however_they_are_cut():
    answers, labels = torch.randint(0, 16, (23,)).tolist(), torch.randint(0, 16, (23,))
    clips = ClipSet(told(answers), labels, (0, 1, 2, 3))
    found, net = score(Told(16), clips), Told(16)
    assert all(score(Told(16), clips, size=size) == found for size in (1, 7, 22, 23, 50))
    score(net, clips, size=10)
    assert [count for *_, count in net.asked] == [10, 10, 3]


@pytest.mark.parametrize("training", [True, False])
def test_net_is_asked_in_eval_mode_without_gradients_and_goes_back(training):
    net = Told(16).train(training)
    score(net, ClipSet(told([1, 2]), torch.tensor([1, 2]), (0, 1, 2, 3)))
    assert net.asked == [(False, False, False, 2)]
    assert net.training == net.inner.training == training


def test_asking_changes_nothing():
    net, clips = small_net("fusion"), moving_blobs()
    before = copy.deepcopy(net.state_dict())
    assert score(net, clips) == score(net, clips, size=17)
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
