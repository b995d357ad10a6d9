"""The bill of a net whose late spikes are never sent, against counts by hand and neuron by neuron."""

import math

import pytest
import torch
from torch import nn

from helpers.lab import energy
from helpers.ttfs.costs import bill, twin
from helpers.ttfs.neuron import TTFSLinear
from helpers.ttfs.skip_delays import SKIPS, TTFSNet

STAGES = ["stage 1 conv 1", "stage 1 conv 2", "stage 2 conv 1", "stage 2 conv 2", "read-out"]


def images(count=3, side=8):
    return 2 * torch.rand(count, 1, side, side) - 1


def heard_by_layers(net, x):
    """What each TTFS layer was given, and when each image was decided."""
    heard = []
    hooks = [layer.register_forward_hook(lambda _m, given, _o: heard.append(given[0])) for layer in net.layers]
    with torch.no_grad():
        first = net(x).amin(1)
    for hook in hooks:
        hook.remove()
    return heard, first


def sent_to(layer, z, until):
    """How often a sent spike reaches a neuron: every output neuron looks at every pixel of its patch. z [C, H, W]."""

    def sent(at):
        return float(z[at]) < layer.z_max and float(z[at]) <= until

    if isinstance(layer, TTFSLinear):
        return len(layer.weight) * sum(sent(at) for at in range(len(z)))
    channels, height, width = z.shape
    count = 0
    for y in range(-layer.padding, height + layer.padding - layer.kernel + 1, layer.stride):
        for x in range(-layer.padding, width + layer.padding - layer.kernel + 1, layer.stride):
            for dy in range(layer.kernel):
                for dx in range(layer.kernel):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        count += sum(sent((c, y + dy, x + dx)) for c in range(channels))
    return len(layer.weight) * count


@pytest.mark.parametrize("until_decision", [True, False])
@pytest.mark.parametrize("side", [8, 10])
@pytest.mark.parametrize("skip", SKIPS)
def test_bill_is_the_count_of_every_spike_at_every_neuron(skip, side, until_decision):
    net, x = TTFSNet(skip, channels=2, side=side).eval(), images(side=side)
    meter = bill(net, x, until_decision)
    heard, first = heard_by_layers(net, x)
    assert list(meter.layers)[-5:] == STAGES
    for name, layer, z in zip(STAGES, net.layers, heard, strict=True):
        limits = first.tolist() if until_decision else [math.inf] * len(x)
        additions = sum(sent_to(layer, each, limit) for each, limit in zip(z, limits, strict=True))
        spikes = sum(int(((each < layer.z_max) & (each <= limit)).sum()) for each, limit in zip(z, limits, strict=True))
        line = meter.layers[name]
        assert (line.additions, line.nonzeros, line.inputs) == (additions, spikes, z.numel()), name
        assert line.weight_bits == 32 * layer.weight.numel() and line.state_bits == 64 * additions
        assert line.activation_bits == 2 * spikes and line.spikes and line.kind == "ttfs"
    assert meter.acs == pytest.approx(sum(meter.layers[name].additions for name in STAGES) / len(x))


@pytest.mark.parametrize("skip", SKIPS)
def test_whole_window_costs_at_least_what_comes_before_the_decision(skip):
    net, x = TTFSNet(skip), images(10)
    short, whole = bill(net, x), bill(net, x, until_decision=False)
    assert all(short.layers[name].additions <= whole.layers[name].additions for name in STAGES)
    assert 0 < short.acs < whole.acs and short.macs == whole.macs
    for name in STAGES:
        assert whole.layers[name].additions <= whole.layers[name].macs


@pytest.mark.parametrize(
    "skip, side, macs",
    [
        # 64 places of 6 (or 12) channels of 9 pixels
        ("none", 8, 64 * 6 * 9),
        ("add", 8, 64 * 6 * 9),
        ("delay", 8, 64 * 12 * 9),
        # 28² places of 12 channels of 25 pixels
        ("concat", 28, 784 * 12 * 25),
    ],
)
def test_only_the_encoder_multiplies(skip, side, macs):
    meter = bill(TTFSNet(skip, side=side), images(4, side))
    assert meter.macs == macs and meter.predictions == 4


def known_by_heart():
    """Everything starts at z = 1, each layer doubles it: 2, 4, 8, 16, and the first output fires at 32."""
    net = TTFSNet("none", channels=1, num_classes=3, side=4).eval()
    nn.init.zeros_(net.encoder[0].weight)
    for layer in net.layers[:-1]:
        nn.init.zeros_(layer.weight)
        layer.weight.data[0, 4] = 2.0  # the centre of its first input: z doubles; a second output is silent
    nn.init.zeros_(net.readout.weight)
    net.readout.weight.data[0, 0] = 2.0
    return net


def test_bill_by_hand():
    meter = bill(known_by_heart(), images(2, 4))
    # 3×3 patches at 2×2 places of 4×4, stride 2: rows and columns are covered 1, 2, 1, 1 times less the edge: 2, then 3.
    # All of 4×4 at t = 0: patches of 2·2, 2·3, 3·2 and 3·3 pixels, one output: 25. Then 2×2 seen by all four: 16.
    # Then 2×2 at one place, two outputs: 8. Then 1×1 of channel 0 (channel 1 is silent), two outputs: 2. Then three.
    assert [meter.layers[name].additions for name in STAGES] == [2 * each for each in (25, 16, 8, 2, 3)]
    assert meter.acs == 54
    # The encoder's 3×3 at 16 places, padding counted like its inside
    assert meter.macs == 144


@pytest.mark.parametrize("weight, sent", [(3.0, 2), (3.5, 1)])
def test_spike_at_the_very_decision_is_sent_and_a_later_one_is_not(weight, sent):
    net = known_by_heart()
    net.stages[1][1].weight.data[1, 4] = 1.5  # z = 1.5 · 8 / (1.5 - 1) = 24
    net.readout.weight.data[0, 0] = weight  # the decision at 3 · 16 / (3 - 1) = 24, or at 22.4
    assert bill(net, images(1, 4)).layers["read-out"].nonzeros == sent


def test_late_spike_of_one_image_is_not_sent_though_another_waits_for_it():
    net, x = TTFSNet("none").eval(), images(2)
    together, apart = bill(net, x), [bill(net, each[None]) for each in x]
    assert together.acs == pytest.approx(sum(each.acs for each in apart) / 2)


@pytest.mark.parametrize("training", [True, False])
def test_bill_leaves_the_net_as_it_was(training):
    net = TTFSNet("delay").train(training)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    bill(net, images())
    assert all(module.training == training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(layer._forward_hooks for layer in net.layers)
    with pytest.raises((ValueError, RuntimeError)):
        bill(net, images(side=9))
    assert net.training == training and not any(layer._forward_hooks for layer in net.layers)


def test_bill_says_what_it_leaves_out_and_makes_a_table():
    meter = bill(TTFSNet("delay"), images())
    assert {"BatchNorm2d", "decay of synapses", "merging of skips"} <= set(meter.not_counted)
    table = meter.table().data
    assert list(table.index)[-6:] == [*STAGES, "total"]
    assert table.loc["read-out", "counted as"] == "AC" and table["counted as"].iloc[0] == "MAC"
    assert meter.memory_bits > 0 and meter.compute_pj() > 0


# ---------------------------------------------------------------------------------------------------- the twin


def test_twin_has_as_many_weights():
    assert sum(weights.numel() for weights in twin(TTFSNet("none"), 10).parameters()) == 3138


@pytest.mark.parametrize("side", [4, 8, 9, 28, 32])
@pytest.mark.parametrize("channels", [1, 6])
def test_twin_has_the_layers_of_its_net(side, channels):
    net = TTFSNet("none", channels=channels, num_classes=7, side=side)
    pair = twin(net, 7)
    assert pair(images(2, side)).shape == (2, 7)
    ours = [weights.numel() for weights in net.parameters()]
    assert [weights.numel() for weights in pair.parameters()] == ours


def test_twin_multiplies_where_the_net_adds():
    net, x = TTFSNet("none"), images(4)
    pair = twin(net, 10).eval()
    with energy.probe(pair, predictions=len(x)) as meter:
        pair(x)
    # Encoder 64·6·9; stages 16·6·54, 16·6·54, 4·12·54, 4·12·108; read-out 48·10, padding counted like its inside
    assert meter.macs == 3456 + 5184 + 5184 + 2592 + 5184 + 480 and meter.acs == 0
    assert bill(net, x).acs < meter.macs


@pytest.mark.parametrize("skip", ["add", "concat", "delay"])
def test_twin_of_a_net_with_a_skip_is_refused(skip):
    with pytest.raises(ValueError, match=f"skip is '{skip}', but only a net without a skip has a plain twin"):
        twin(TTFSNet(skip), 10)
