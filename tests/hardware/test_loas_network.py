"""The network of lesson 07.4: what is pruned stays pruned, what is rare stays silent, what is watched was joined."""

import copy

import pytest
import torch
from torch.nn.utils import prune

from helpers.data.images import digits
from helpers.hardware import loas_network
from helpers.hardware.crossbar_network import accuracy, train_spiking_net
from helpers.hardware.dataflows import DESIGNS, simulate
from helpers.hardware.loas import drop_rare, ftp_matmul, pack_spikes, silent_stats
from helpers.hardware.loas_network import (
    Joined,
    RareLIF,
    dense_net,
    joined,
    prune_net,
    silence,
    tune,
    watch,
    workload_of,
)
from helpers.neurons.lif import LIF

HIDDEN, EPOCHS = 24, 25
WEIGHTS = HIDDEN * HIDDEN + HIDDEN * 10


@pytest.fixture(scope="module")
def pictures():
    """120 digits and their classes."""
    found = digits(120, 80)
    return found.train_images.flatten(1), found.train_labels


@pytest.fixture(scope="module")
def trained(pictures):
    return dense_net(*pictures, hidden=HIDDEN, epochs=EPOCHS)


@pytest.fixture(scope="module")
def pruned_net(trained, pictures):
    net = prune_net(copy.deepcopy(trained), *pictures, share=0.8, rounds=2, epochs=2)
    net(pictures[0], 4)  # only then are the weights those that were tuned
    return net


@pytest.fixture
def net(trained):
    return copy.deepcopy(trained)


@pytest.fixture
def pruned(pruned_net):
    return copy.deepcopy(pruned_net)


@pytest.fixture
def untuned(monkeypatch):
    """`prune_net` without its tuning; the calls that it would have made, and zeros among the joined weights at each."""
    calls = []

    def instead(net, *data, **settings):
        zeros = sum(int((layer.weight == 0).sum()) for layer in joined(net))
        calls.append((zeros, settings))
        return net

    monkeypatch.setattr(loas_network, "_tuned", instead)
    return calls


def weights_of(net):
    return torch.cat([layer.weight.detach().flatten() for layer in joined(net)])


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


# ---------------------------------------------------------------------------------------------------------------- training


def test_dense_network_is_the_crossbars_with_neurons_that_can_be_silenced(trained, pictures):
    plain = train_spiking_net(*pictures, hidden=HIDDEN, timesteps=4, epochs=EPOCHS, label="")
    assert same(state(plain), state(trained)) and torch.equal(plain(pictures[0], 4), trained(pictures[0], 4))
    assert [type(neuron) for neuron in trained.neurons] == [RareLIF, RareLIF]
    assert all(neuron.least == 0 for neuron in trained.neurons) and accuracy(trained, *pictures, 4) > 0.5
    assert [tuple(layer.weight.shape) for layer in joined(trained)] == [(HIDDEN, HIDDEN), (10, HIDDEN)]
    assert not trained.training and not any(parameter.requires_grad for parameter in trained.parameters())


def test_same_seed_makes_the_same_weights_and_another_seed_others(pictures):
    x, y = pictures

    def made(seed):
        net = dense_net(x[:60], y[:60], hidden=12, timesteps=2, epochs=1, seed=seed)
        return state(prune_net(net, x[:60], y[:60], share=0.5, rounds=2, timesteps=2, epochs=1, seed=seed))

    one = made(0)
    torch.manual_seed(77)
    before = torch.get_rng_state()
    assert same(one, made(0)) and torch.equal(torch.get_rng_state(), before) and not same(one, made(1))


def test_every_setting_reaches_the_training(pictures):
    x, y = pictures
    settings = {"hidden": 12, "timesteps": 2, "epochs": 1, "seed": 3}
    found = state(dense_net(x[:60], y[:60], **settings))
    assert same(found, state(train_spiking_net(x[:60], y[:60], **settings, label="")))
    for name, other in (("timesteps", 3), ("epochs", 2), ("seed", 0)):
        assert not same(found, state(dense_net(x[:60], y[:60], **{**settings, name: other})))


def test_tuning_learns_with_every_layer_and_comes_back_frozen(net, pictures):
    def loss():
        return torch.nn.functional.cross_entropy(net(pictures[0], 4).mean(0), pictures[1])

    before, first = state(net), float(loss())
    assert tune(net, *pictures, epochs=3) is net and float(loss()) < first
    assert not net.training and not any(parameter.requires_grad for parameter in net.parameters())
    assert all(not torch.equal(before[name], value) for name, value in net.state_dict().items() if "weight" in name)


def test_tuning_follows_its_seed_and_its_epochs(trained, pictures):
    x, y = pictures

    def tuned(**how):
        return state(tune(copy.deepcopy(trained), x, y, **how))

    one = tuned(epochs=1)
    assert same(one, tuned(epochs=1, seed=0)) and not same(one, tuned(epochs=1, seed=1))
    assert not same(one, tuned(epochs=2)) and not same(one, tuned(epochs=1, timesteps=2))


# ----------------------------------------------------------------------------------------------------------------- pruning


@pytest.mark.parametrize("share, rounds", [(0.9, 3), (0.8, 1), (0.5, 4), (0.0, 2)])
def test_share_is_reached_over_all_joined_layers_in_equal_rounds(net, pictures, untuned, share, rounds):
    assert prune_net(net, *pictures, share=share, rounds=rounds) is net
    assert int((weights_of(net) == 0).sum()) == pytest.approx(share * WEIGHTS, abs=2)
    for step, (zeros, _) in enumerate(untuned, 1):
        assert zeros == pytest.approx((1 - (1 - share) ** (step / rounds)) * WEIGHTS, abs=2)
    assert len(untuned) == rounds


def test_the_smallest_go_whatever_their_layer(net, pictures, untuned):
    joined(net)[0].weight *= 3
    before = weights_of(net).clone()
    prune_net(net, *pictures, share=0.7, rounds=3)
    after = weights_of(net)
    assert torch.equal(after[after != 0], before[after != 0])  # the others are as they were
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    # One measure for both layers: the one with large weights keeps more of them.
    large, small = (float((layer.weight == 0).double().mean()) for layer in joined(net))
    assert large < 0.7 - 0.02 and small > 0.7 + 0.1


def test_each_round_is_tuned_as_was_asked_with_a_seed_of_its_own(net, pictures, untuned):
    prune_net(net, *pictures, share=0.5, rounds=3, timesteps=2, epochs=7, seed=5)
    assert [settings for _, settings in untuned] == [{"timesteps": 2, "epochs": 7, "seed": seed} for seed in (5, 6, 7)]


def test_nine_of_ten_in_three_rounds_unless_it_is_said(net, pictures, untuned):
    prune_net(net, *pictures)
    assert int((weights_of(net) == 0).sum()) == pytest.approx(0.9 * WEIGHTS, abs=2) and len(untuned) == 3
    assert [settings for _, settings in untuned] == [{"timesteps": 4, "epochs": 4, "seed": seed} for seed in range(3)]


def test_first_layer_is_never_pruned_and_biases_neither(pruned, trained):
    first = pruned.linears[0]
    assert not prune.is_pruned(first) and (first.weight != 0).all()
    assert not torch.equal(first.weight, trained.linears[0].weight)  # but it is tuned
    assert all(prune.is_pruned(layer) and (layer.bias != 0).all() for layer in joined(pruned))


def test_pruned_weights_stay_at_zero_through_tuning(pruned, pictures):
    zeros = weights_of(pruned) == 0
    assert int(zeros.sum()) == pytest.approx(0.8 * WEIGHTS, abs=2)
    before = weights_of(pruned)
    tune(pruned, *pictures, epochs=2)
    pruned(pictures[0], 4)
    after = weights_of(pruned)
    assert torch.equal(after == 0, zeros) and not torch.equal(after, before)
    assert pruned(pictures[0], 4).argmax(-1).unique().numel() > 1


def test_a_pruned_network_can_be_copied_at_once_and_its_weights_are_the_tuned_ones(net, pictures):
    prune_net(net, *pictures, share=0.5, rounds=1, epochs=1)
    for layer in joined(net):
        assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
    copy.deepcopy(net)


# ----------------------------------------------------------------------------------------------------------------- silence


@pytest.mark.parametrize("least", [0, 1])
def test_rare_neurons_speak_until_they_are_silenced(least):
    current = torch.rand(4, 8, 30)
    neuron = RareLIF(beta=0.5, reset="zero")
    neuron.least = least
    assert torch.equal(neuron(current), LIF(beta=0.5, reset="zero")(current))
    assert (neuron(current).sum(0) == 1).any()


@pytest.mark.parametrize("least", [2, 3])
def test_silenced_neurons_fire_often_or_never(least):
    current = 1.5 * torch.rand(4, 8, 30)
    neuron = RareLIF(beta=0.5, reset="zero")
    neuron.least = least
    counts = neuron(current).sum(0).unique().tolist()
    assert counts[0] == 0 and counts[1] == least
    assert torch.equal(neuron(current), drop_rare(LIF(beta=0.5, reset="zero")(current), least))


def test_no_hidden_neuron_of_a_silenced_network_fires_once(pruned, pictures):
    x = pictures[0]
    before = watch(pruned, x)
    assert all((layer.spikes.sum(0) == 1).any() for layer in before)
    assert silence(pruned) is pruned
    after = watch(pruned, x)
    for layer in after:
        counts = layer.spikes.sum(0)
        assert not (counts == 1).any() and (counts == 2).any() and (counts == 4).any()
        stats = silent_stats(layer.spikes)
        assert stats["silent"] == stats["silent_strong"]
    # The first hidden layer loses its rare ones and nothing else; what follows hears less.
    assert torch.equal(after[0].spikes, drop_rare(before[0].spikes, 2))
    silence(pruned, 3)
    assert all(not ((1 <= c) & (c < 3)).any() for c in (layer.spikes.sum(0) for layer in watch(pruned, x)))
    silence(pruned, 0)
    assert all(torch.equal(a.spikes, b.spikes) for a, b in zip(before, watch(pruned, x), strict=True))


def test_silence_is_kept_by_copies_and_by_tuning_and_is_each_networks_own(pruned, pictures):
    silence(pruned)
    other = copy.deepcopy(pruned)
    silence(other, 0)
    tune(pruned, *pictures, epochs=1)
    assert all(neuron.least == 2 for neuron in pruned.neurons) and all(neuron.least == 0 for neuron in other.neurons)
    assert not any((layer.spikes.sum(0) == 1).any() for layer in watch(pruned, pictures[0]))
    assert RareLIF.least == 0


# ---------------------------------------------------------------------------------------------------------------- watching


def test_what_is_watched_has_its_shapes_and_holds_the_networks_weights(pruned, pictures):
    x = pictures[0][:50]
    layers = watch(pruned, x, 3)
    assert [layer.name for layer in layers] == ["layer 2", "layer 3"]
    assert [layer.size for layer in layers] == [(50, HIDDEN, HIDDEN), (50, HIDDEN, 10)]
    for layer, linear in zip(layers, joined(pruned), strict=True):
        assert layer.spikes.shape == (3, 50, HIDDEN) and layer.spikes.dtype == torch.uint8
        assert layer.weights.dtype == torch.int16 and layer.weights.shape == linear.weight.T.shape
        assert int(layer.weights.abs().max()) == 127 and isinstance(layer.scale, float)
        assert layer.scale == pytest.approx(float(linear.weight.abs().max()) / 127)
        assert (layer.scale * layer.weights.T - linear.weight).abs().max() <= 0.5001 * layer.scale
        assert not layer.weights.T[linear.weight == 0].any() and not layer.spikes[:, :, 0].requires_grad


def test_what_is_watched_makes_the_votes(pruned, pictures):
    x = pictures[0][:40]
    last = watch(pruned, x)[-1]
    joined_currents = ftp_matmul(pack_spikes(last.spikes), last.weights) * last.scale + pruned.linears[-1].bias
    assert joined_currents == pytest.approx(pruned(x, 4).numpy(), abs=0.5 * last.scale * HIDDEN)
    exact = last.spikes.float() @ pruned.linears[-1].weight.T + pruned.linears[-1].bias
    assert torch.allclose(exact, pruned(x, 4), atol=1e-5)


def test_watching_leaves_no_trace(pruned, pictures):
    before = state(pruned)
    first, again = watch(pruned, pictures[0]), watch(pruned, pictures[0])
    assert same(before, state(pruned)) and not any(neuron._forward_hooks for neuron in pruned.neurons)
    assert all(
        torch.equal(a.spikes, b.spikes) and torch.equal(a.weights, b.weights) for a, b in zip(first, again, strict=True)
    )
    with pytest.raises(ValueError, match="timesteps is 0"):
        watch(pruned, pictures[0], 0)
    assert not any(neuron._forward_hooks for neuron in pruned.neurons)


def test_workload_is_what_was_measured(pruned, pictures):
    layers = watch(pruned, pictures[0], 3)
    sizes, workload = workload_of(layers)
    assert sizes == [(120, HIDDEN, HIDDEN), (120, HIDDEN, 10)] and workload.timesteps == 3
    for place, layer in enumerate(layers):
        stats = silent_stats(layer.spikes)
        assert workload.spike_sparsity[place] == stats["spike_sparsity"]
        assert workload.silent[place] == stats["silent"]
        assert workload.weight_sparsity[place] == pytest.approx(float((layer.weights == 0).double().mean()))
    assert stats["spike_sparsity"] > stats["silent"] > 0
    for design in DESIGNS:
        assert simulate(sizes, workload, design).time.shape == (2,)


@pytest.mark.parametrize("fired", [0, 1])
def test_layers_without_or_full_of_spikes_are_workloads(fired):
    layer = Joined("layer 2", torch.full((4, 6, 8), fired, dtype=torch.uint8), torch.ones(8, 3).short(), 1.0)
    _, workload = workload_of([layer])
    assert workload.spike_sparsity == workload.silent == 1 - fired and workload.weight_sparsity == 0


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_shares_that_cannot_be_pruned_are_refused(refused, net, pictures, share):
    with refused(rf"share is {share}, but the share of pruned weights must lie in \[0, 1\)"):
        prune_net(net, *pictures, share=share)
    assert not any(prune.is_pruned(layer) for layer in net.linears)


@pytest.mark.parametrize("rounds", [0, -1, 2.0, True])
def test_rounds_that_are_none_are_refused(refused, net, pictures, rounds):
    with refused(f"rounds is {rounds}, but it must be a whole number of at least 1"):
        prune_net(net, *pictures, rounds=rounds)


@pytest.mark.parametrize("least", [-1, 1.5, True])
def test_a_least_count_that_is_none_is_refused(refused, net, least):
    with refused(f"least is {least}, but it must be a whole number of at least 0"):
        silence(net, least)
    assert all(neuron.least == 0 for neuron in net.neurons)
