"""Substrates: joins counted in a triple loop, crossbars that change nothing where nothing disturbs them, rows by hand."""

import copy
import itertools

import pytest
import torch
from torch import nn

from helpers.capstone import networks, substrates
from helpers.capstone.formats import quantized
from helpers.capstone.networks import DigitNet, WordSum, input_of, untrained, words_of
from helpers.capstone.substrates import crossbar, digital, dual_sparse
from helpers.hardware.spikesim import SpikeSimCost, shapes_of
from helpers.models.batchnorm import recompute_batchnorm


def lively(net, seed=0):
    """In eval mode, with batch norms by which neurons speak."""
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = 1 + torch.rand(len(module.weight), generator=draw)
            module.bias.data = 0.3 * torch.rand(len(module.bias), generator=draw)
    return net.eval().requires_grad_(False)


def pruned_net(channels=(2, 3), share=0.6, seed=0):
    """A small spiking network, most of whose inner weights are zero."""
    net = lively(DigitNet(channels, spiking=True), seed)
    for norm in net.norms:
        norm.bias.data += 0.8
    draw = torch.Generator().manual_seed(seed)
    for layer in (*net.convs[1:], net.head):
        layer.weight.data *= torch.rand(layer.weight.shape, generator=draw) > share
    return net


def inputs_of(net, given_):
    """What each layer hears, [T, B, …], by name."""
    found = {}
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _m, x, name=name: found.__setitem__(name, x[0]))
    net(given_)
    return {name: x.unflatten(0, given_.shape[:2]) for name, x in found.items()}


def naive_join(layer, x):
    """Additions, taken-back silences, packed bits and products of one layer, pair by pair."""
    steps, scenes = x.shape[:2]
    weight = layer.weight.detach()
    matches = corrections = products = heard = 0
    for b in range(scenes):
        if weight.dim() == 4:
            o_, i_, kh, kw = weight.shape
            side = x.shape[-1]
            padded = torch.zeros(steps, i_, side + 2, side + 2)
            padded[:, :, 1:-1, 1:-1] = x[:, b]
            pairs = (
                (padded[:, i, y + a, z + c].tolist(), weight[:, i, a, c].tolist())
                for y, z in itertools.product(range(side), repeat=2)
                for i, a, c in itertools.product(range(i_), range(kh), range(kw))
            )
        else:
            pairs = ((x[:, b, i].tolist(), weight[:, i].tolist()) for i in range(weight.shape[1]))
        for spikes, column in pairs:
            products += len(column) * steps
            heard += sum(spikes)
            if not any(spikes):
                continue
            for w in column:
                if w != 0:
                    matches += 1
                    corrections += sum(s == 0 for s in spikes)
    packed = 0
    for b in range(scenes):
        packed += 32  # where a scene's words begin
        for neuron in x[:, b].flatten(1).T.tolist():
            packed += 1 + (steps if any(neuron) else 0)
    return matches, corrections, packed, products, heard


# ------------------------------------------------------------------------------------------------------------- dual-sparse


@pytest.mark.parametrize("timesteps, scenes, seed", [(2, 2, 0), (4, 1, 1), (1, 2, 2)])
def test_joins_are_counted_pair_by_pair(timesteps, scenes, seed):
    net = pruned_net(seed=seed)
    given_ = (torch.rand(timesteps, scenes, 2, 16, 16) < 0.1).float()
    votes, meter = dual_sparse(net, given_, scenes)
    heard = inputs_of(copy.deepcopy(net), given_)
    assert list(meter.layers) == ["convs.0", "convs.1", "head"] == list(heard) and meter.predictions == scenes
    total = bits = 0
    for name, layer in meter.layers.items():
        part = net.get_submodule(name)
        matches, corrections, packed, products, spikes = naive_join(part, heard[name])
        assert matches > 0 and (corrections > 0 or timesteps == 1)
        assert layer.additions == matches + corrections and layer.macs == products and layer.nonzeros == spikes
        assert layer.activation_bits == 2 * packed and layer.state_bits == 0 and layer.calls == 1
        kept = int((part.weight != 0).sum())
        assert layer.weight_bits == part.weight.numel() + 32 * kept and layer.spikes and layer.name == name
        total, bits = total + matches + corrections, bits + layer.weight_bits + 2 * packed / scenes
    assert meter.acs == pytest.approx(total / scenes) and meter.macs == 0 and meter.memory_bits == pytest.approx(bits)
    assert torch.equal(votes, net(given_))
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_join_by_hand():
    # Two neurons that speak and one that does not; three weights that are not zero.
    net = nn.Linear(3, 2, bias=False).requires_grad_(False)
    net.weight.copy_(torch.tensor([[1.0, 0.0, 5.0], [2.0, 0.0, 0.0]]))
    x = torch.tensor([[[1.0, 0, 0]], [[0, 1.0, 0]], [[1.0, 0, 0]]])  # T = 3, one scene
    layer = substrates._joined("head", net, x)
    # The first neuron meets 1 and 2, and was silent once: 2 + 2. The second meets nothing, the third never speaks.
    assert layer.additions == 4 and layer.macs == 18 and (layer.inputs, layer.nonzeros) == (9, 3)
    # Six bits say where weights are, and three weights of 32 bits; three bits of neurons, two words of three, a pointer.
    assert layer.weight_bits == 6 + 3 * 32 and layer.activation_bits == 2 * (3 + 2 * 3 + 32)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_a_quantized_networks_weights_take_their_bits(crops, bits):
    net, given_ = pruned_net((4, 6, 6)), input_of("pruned", crops, 2)
    small = quantized(net, given_, bits)
    votes, meter = dual_sparse(small, given_, 6)
    for name, layer in meter.layers.items():
        weight = small.get_submodule(name).weight
        kept = int((weight != 0).sum())
        a_weight = (weight.numel() * bits + 32 * len(weight)) / weight.numel()
        assert layer.weight_bits == pytest.approx(weight.numel() + kept * a_weight, abs=0.51)
    assert torch.equal(votes, digital(small, given_, 6)[0])


@pytest.mark.parametrize("name", ["snn", "pruned"])
def test_votes_are_those_of_the_digital_chip(crops, name):
    net = lively(untrained(name))
    for timesteps in (2, 4):
        given_ = input_of(name, crops, timesteps)
        votes, joined = dual_sparse(net, given_, 6)
        same, meter = digital(net, given_, 6)
        assert torch.equal(votes, same) and votes.shape == (6, 10)
        # No weight is zero: a neuron that spoke k times of T costs T - k + 1 additions, there k (and k + (T - k) = T).
        assert joined.acs > 0 and sum(layer.state_bits for layer in joined.layers.values()) == 0
        assert sum(layer.state_bits for layer in meter.layers.values()) > 0


def test_additions_of_whole_weights_are_one_and_the_silences():
    net = nn.Linear(50, 7).requires_grad_(False)
    x = (torch.rand(4, 3, 50) < 0.4).float()
    spoken = x.sum(0)
    layer = substrates._joined("a", net, x)
    assert layer.additions == 7 * float(((5 - spoken) * (spoken > 0)).sum())


def test_numbers_cannot_be_packed(refused, crops):
    net = lively(untrained("snn"))
    with refused("^convs.0 hears numbers, but only spikes can be packed and joined.$"):
        dual_sparse(net, networks.frames_of(crops, 2), 6)
    with refused("^convs.1 hears numbers, but only spikes can be packed and joined.$"):
        dual_sparse(lively(untrained("cnn")), input_of("snn", crops, 1), 6)


# ----------------------------------------------------------------------------------------------------------------- digital


def test_digital_counts_by_hand(crops):
    net, given_ = lively(DigitNet((3, 4), spiking=True)), input_of("snn", crops, 2)
    votes, meter = digital(net, given_, 6)
    heard = inputs_of(copy.deepcopy(net), given_)
    for name, side, out, fan in (("convs.0", 16, 3, 18), ("convs.1", 8, 4, 27), ("head", 1, 10, 64)):
        layer, x = meter.layers[name], heard[name]
        macs = 2 * 6 * side**2 * out * fan
        assert layer.macs == macs and layer.spikes and layer.additions == pytest.approx(macs * float(x.mean()))
        assert layer.weight_bits == 32 * out * fan and layer.activation_bits == 2 * x.numel()
    assert meter.layers["neurons.0"].state_bits == 2 * 32 * 2 * 6 * 3 * 256
    assert torch.equal(votes, net(given_)) and meter.predictions == 6
    small = quantized(net, given_, 4)
    _, less = digital(small, given_, 6)
    assert less.layers["head"].weight_bits == 640 * 4 + 10 * 32
    assert less.layers["convs.1"].weight_bits == 108 * 4 + 4 * 32


def test_numbers_between_layers_take_eight_bits_once_it_is_small(crops):
    net, given_ = lively(untrained("small-cnn")), input_of("small-cnn", crops)
    _, full = digital(net, given_, 6)
    _, less = digital(quantized(net, given_, 8), given_, 6)
    for name, layer in full.layers.items():
        assert not layer.spikes and layer.activation_bits == 2 * 32 * layer.inputs
        assert less.layers[name].activation_bits == 2 * 8 * layer.inputs and less.layers[name].macs == layer.macs


def test_who_fires_first_has_the_vote_and_small_weights_their_bits(crops):
    net, given_ = lively(untrained("ttfs")), input_of("ttfs", crops)
    votes, meter = digital(net, given_, 6)
    assert torch.equal(votes, -net(given_))
    small = quantized(net, given_, 4)
    votes, less = digital(small, given_, 6)
    assert torch.equal(votes, -small(given_)) and list(less.layers) == list(meter.layers)
    parts = [small.encoder[0], *small.layers]
    assert len(parts) == len(less.layers)
    for (name, layer), part in zip(less.layers.items(), parts, strict=True):
        count, rows = part.weight.numel(), len(part.weight)
        assert layer.weight_bits == count * 4 + 32 * rows and meter.layers[name].weight_bits == 32 * count
    assert less.layers["encoder"].activation_bits == meter.layers["encoder"].activation_bits / 4


@pytest.mark.parametrize("bits", [32, 8, 4, 3])
def test_a_table_of_words_is_counted_by_hand(bits):
    crops = torch.zeros(3, 16, 2, 16, 16, dtype=torch.bool)
    crops[0, 2, 1, 3:5, 4:8] = True  # eight events; one of another scene; none, which is one in a corner
    crops[1, 0, 0, 0, 0] = True
    events = words_of(crops)
    net = WordSum(dim=6, hidden=5).requires_grad_(False)
    net = quantized(net, events, bits)
    votes, meter = digital(net, events, 3)
    assert list(meter.layers) == ["table", "first", "head"] and torch.equal(votes, net(events))
    table = meter.layers["table"]
    assert (table.inputs, table.nonzeros, table.calls) == (10, 10, 1) and table.kind == "lookup"
    assert table.additions == 60 and table.activation_bits == 60 * bits and table.weight_bits == 0
    # Additions, not products: a row is read and added; the linear layers multiply.
    assert meter.acs == 20 and meter.macs == 6 * 5 + 5 * 10
    wide = 32 if bits == 32 else 8
    stored = [32 * 30, 32 * 50] if bits == 32 else [30 * bits + 5 * 32, 50 * bits + 10 * 32]
    assert [meter.layers[n].weight_bits for n in ("first", "head")] == stored
    assert [meter.layers[n].activation_bits for n in ("first", "head")] == [2 * 3 * 6 * wide, 2 * 3 * 5 * wide]


def test_attention_and_hybrid_are_metered_too(crops):
    for name in ("attention", "hybrid"):
        net, given_ = lively(untrained(name)), input_of(name, crops)
        votes, meter = digital(net, given_, 6)
        assert votes.shape == (6, 10) and meter.macs > 0 and "table" not in meter.layers


# ---------------------------------------------------------------------------------------------------------------- crossbar


def rounded(net, bits):
    """Every matrix on one symmetric grid of whole steps, as it is written into cells."""
    copied = copy.deepcopy(net)
    for layer in copied.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            step = layer.weight.abs().max() / (2 ** (bits - 1) - 1)
            layer.weight = nn.Parameter((layer.weight / step).round() * step, requires_grad=False)
    return copied


def settled(bits, crops):
    """A network of rounded weights whose batch norms know its data, and the data."""
    net, given_ = rounded(lively(DigitNet((6, 8, 8), spiking=True)), bits), input_of("snn", crops, 2)
    return recompute_batchnorm(net, [given_]), given_


def test_batch_norm_is_told_what_became_of_a_noisy_chip(crops):
    net, given_ = settled(4, crops)
    how = {"bits": 4, "noise": 0.0, "adc_bits": 12, "seed": 0}
    votes = crossbar(net, given_, given_, **how)[0]
    for norm in net.norms:  # whatever it knew before
        norm.running_mean += 0.05
        norm.running_var *= 1.2
    assert not torch.allclose(net(given_), votes, atol=1e-2)
    again = crossbar(net, given_, given_, **how)[0]
    assert float((again - votes).norm()) < 0.3 * float((net(given_) - votes).norm())


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_a_quiet_chip_is_the_rounded_network(crops, bits):
    net, given_ = settled(bits, crops)
    votes, _ = crossbar(net, given_, given_, bits=bits, noise=0.0, adc_bits=12, seed=0)
    torch.testing.assert_close(votes, net(given_), rtol=1e-4, atol=1e-4)
    assert votes.std(0).min() > 0
    other, _ = crossbar(net, given_, given_, bits=bits, noise=0.0, adc_bits=12, seed=5)
    assert torch.equal(votes, other)  # without noise all chips are one


def test_noise_is_of_the_chip_and_few_bits_of_a_converter_lose(crops):
    net, given_ = lively(DigitNet((6, 8, 8), spiking=True)), input_of("snn", crops, 2)

    def votes(noise=0.0, adc_bits=12, seed=0):
        return crossbar(net, given_, given_, bits=4, noise=noise, adc_bits=adc_bits, seed=seed)[0]

    quiet = votes()
    assert torch.equal(votes(0.5), votes(0.5)) and not torch.equal(votes(0.5), votes(0.5, seed=1))
    assert not torch.allclose(votes(0.5), quiet, atol=1e-3)
    off = [float((votes(adc_bits=bits) - quiet).norm()) for bits in (2, 4, 12)]
    assert off[0] > off[2] == 0 and off[1] > 0


def test_scenes_pass_in_parts_and_none_hears_another(crops):
    net, given_ = lively(DigitNet((3, 4), spiking=True)), input_of("snn", crops, 2)
    many = given_.repeat(1, 12, 1, 1, 1)  # 72 scenes: more than go together
    how = {"bits": 4, "noise": 0.2, "adc_bits": 6, "seed": 3}
    few, all_of_them = (crossbar(net, x, given_, **how)[0] for x in (given_, many))
    assert all_of_them.shape == (72, 10)
    torch.testing.assert_close(all_of_them, few.repeat(12, 1), rtol=1e-4, atol=1e-4)


def test_energy_is_spikesims_and_not_of_the_votes(crops):
    net, given_ = lively(untrained("snn")), input_of("snn", crops, 4)
    _, parts = crossbar(net, given_, given_, bits=4, noise=0.3, adc_bits=4, seed=0)
    cost = SpikeSimCost(shapes_of(net, given_[:, :1]), timesteps=4, membrane_layers=None)
    assert parts == cost.energy_parts() and sum(parts.values()) == pytest.approx(sum(cost.energy_pj))
    # By hand: 16 and 32 channels fit one PE; the head's 512 inputs take eight; 16² + 8² + 4² places, four steps.
    common = 397.0 + 19.64 * 8 + 4.64 + 1.274 * 4 + 64 * (2.03084 + 0.094245) + 8 * (16 * 1.15e-6 + 0.2)
    nine, one = common + 8 * 9 * 1.76423, common + 8 * 1.76423
    assert sum(parts.values()) == pytest.approx(4 * ((256 + 64 + 16) * nine + 8 * one), rel=1e-6)
    _, half = crossbar(net, given_[:2], given_[:2], bits=8, noise=0.0, adc_bits=6, seed=0)
    assert sum(half.values()) == pytest.approx(sum(parts.values()) / 2)


def test_the_given_network_is_untouched(crops):
    net, given_ = lively(DigitNet((3, 4), spiking=True)), input_of("snn", crops, 2)
    before = copy.deepcopy(net.state_dict())
    crossbar(net, given_, given_, bits=4, noise=0.5, adc_bits=6, seed=0)
    dual_sparse(net, given_, 6)
    digital(net, given_, 6)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_names_are_the_pages():
    assert substrates.SUBSTRATES == ("digital", "dual-sparse", "crossbar")
    assert all(f"\n    {name} " in substrates.__doc__ for name in substrates.SUBSTRATES)
