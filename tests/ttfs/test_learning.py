"""Training by spike times: it learns, repeats itself exactly, and keeps a trail with one look before the first epoch."""

import math

import pytest
import torch
from torch import nn

from helpers.ttfs.skip_delays import SKIPS, TTFSNet, spike_stats, time_loss, ttfs_loss
from helpers.ttfs.training import answers, learn


def problem(count=48):
    """Which half of the image is bright."""
    random = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 2
    x = 0.4 * torch.rand(count, 1, 8, 8, generator=random) - 1
    x[y == 0, :, :4] += 1.5
    x[y == 1, :, 4:] += 1.5
    return x, y


def net_of(skip="delay", seed=0, channels=2, **more):
    torch.manual_seed(seed)
    return TTFSNet(skip, channels=channels, num_classes=2, **more)


@pytest.mark.parametrize("skip", SKIPS)
def test_net_learns(skip):
    x, y = problem()
    net = net_of(skip, channels=4)
    trail = learn(net, x, y, epochs=16, seed=0, size=16)
    assert trail.loss[-1] < 0.2 * trail.loss[0]
    assert spike_stats(net, x, y).accuracy == 1


def test_net_learns_times():
    x, y = problem()
    target = torch.stack([1.0 + y, 2.0 - y], 1)
    net = net_of(channels=6)
    trail = learn(net, x, target, epochs=20, seed=0, size=16, lr=2e-2, loss=time_loss)
    assert trail.loss[-1] < 0.2 * trail.loss[0]
    # The mean of the targets would have a squared error of 1/4.
    assert (answers(net, x) - target).square().mean() < 0.05


def test_same_seed_same_numbers_to_the_last_bit():
    x, y = problem()
    runs = []
    for start, seed in ((0, 0), (0, 0), (0, 1), (1, 0)):
        net = net_of(seed=start)
        runs.append((learn(net, x, y, epochs=2, seed=seed, size=16), answers(net, x)))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0].loss != runs[2][0].loss and runs[0][0].loss != runs[3][0].loss


@pytest.mark.parametrize("skip", SKIPS)
def test_trail_has_one_look_more_than_epochs_at_delays_and_gaps(skip):
    x, y = problem()
    trail = learn(net_of(skip), x, y, epochs=3, seed=0, size=16)
    assert (len(trail.loss), len(trail.latency), len(trail.delay), len(trail.gap)) == (3, 3, 4, 4)
    assert {len(each) for each in trail.gap} == {0 if skip == "none" else 2}
    assert {len(each) for each in trail.delay} == {2 if skip == "delay" else 0}
    if skip == "delay":
        assert trail.delay[0] == [0.5, 0.5] and trail.delay[-1] != [0.5, 0.5]


def test_trail_looks_at_the_first_200_images_or_those_given():
    x, y = problem(240)
    net = net_of()
    before = spike_stats(net, x[:200])
    trail = learn(net, x, y, epochs=1, seed=0, size=64)
    assert trail.gap[0] == before.gap
    assert trail.latency[-1] == spike_stats(net, x[:200]).latency
    net = net_of()
    trail = learn(net, x, y, epochs=1, seed=0, size=64, watch=x[-3:])
    assert trail.latency[-1] == spike_stats(net, x[-3:]).latency != spike_stats(net, x[:200]).latency


def test_trail_tells_delays_that_act():
    x, y = problem()
    net = net_of(init_delay=-1.0)
    # Pushed below 0 a delay does nothing, so it counts as 0, and without gradient only the decay moves it.
    assert learn(net, x, y, epochs=1, seed=0).delay == [[0.0, 0.0], [0.0, 0.0]]
    assert all((each.delay < 0).all() for each in net.delays)


def test_net_is_trained_in_train_mode_and_left_in_eval_mode_each_time():
    x, y = problem()
    net = net_of()
    for call in (1, 2):
        learn(net, x, y, epochs=1, seed=0, size=16)
        assert not any(module.training for module in net.modules())
        assert net.encoder[1].num_batches_tracked == 3 * call


def test_dead_net_learns_only_by_the_price_of_its_weights():
    x, y = problem()
    net = net_of()
    for layer in net.layers:
        nn.init.uniform_(layer.weight, 0, 0.5 / layer.weight.shape[1])
    before = [layer.weight.clone() for layer in net.layers]
    assert spike_stats(net, x).silent == 1
    z = net(x)
    assert (z == torch.tensor(net.readout.z_max)).all()
    ttfs_loss(z, y, net.layers, weight_cost=0.0).backward()
    assert not any(weights.grad.any() for weights in net.parameters() if weights.grad is not None)
    learn(net, x, y, epochs=20, seed=0, size=16, lr=3e-2)
    assert all((layer.weight.sum(1) > was.sum(1)).all() for layer, was in zip(net.layers, before, strict=True))
    assert spike_stats(net, x).silent < 1


def test_loss_that_is_no_number_stops_training():
    x, y = problem()
    with pytest.raises(FloatingPointError, match="epoch 1, step 1"):
        learn(net_of(), x, y, epochs=1, seed=0, loss=lambda z, *_: z.sum() * math.nan)


def test_answers_are_the_output_times_of_all_images():
    net = net_of().eval()
    x = 2 * torch.rand(300, 1, 8, 8) - 1
    times = answers(net, x)
    assert times.shape == (300, 2) and not times.requires_grad
    torch.testing.assert_close(times, net(x).detach().log())
