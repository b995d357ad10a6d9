"""Fewer bits: where weights and activations may lie, what is stored, what is left alone, and what GPTAQ is asked for."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.capstone import formats, networks
from helpers.capstone.formats import is_small, patches, quantized, word_bits
from helpers.quantization.gptaq import CalibrationStats, gptaq
from helpers.ttfs.neuron import TTFSConv2d, TTFSLinear

quick = settings(max_examples=25, deadline=None, derandomize=True)
QUANTIZED = [name for name in networks.NETWORKS if name != "attention"]


def net_of(name, seed=0):
    """Untrained, frozen, with batch norms that do something and neurons that speak."""
    net = networks.untrained(name, seed)
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = 1 + torch.rand(len(module.weight), generator=draw)
            module.bias.data = torch.rand(len(module.bias), generator=draw)
            module.running_mean = 0.1 * torch.randn(len(module.bias), generator=draw)
    return net.eval().requires_grad_(False)


def weighted(net):
    kinds = (nn.Conv2d, nn.Linear, nn.Embedding, TTFSConv2d, TTFSLinear)
    return {name: module for name, module in net.named_modules() if isinstance(module, kinds)}


def heard_by(net, given_):
    """What each layer multiplies by, hooks and all."""
    names, found = {layer: name for name, layer in weighted(net).items()}, {}

    def note(layer, inputs, _out):
        found[names[layer]] = inputs[0].detach()

    hooks = [layer.register_forward_hook(note) for layer in names]
    net(given_)
    for hook in hooks:
        hook.remove()
    return found


def on_a_grid(row, bits):
    """Whether some step of at most 2^bits levels hits every value."""
    values = row.unique().double()
    if len(values) <= 2:
        return True
    levels = torch.arange(1, 2**bits)[:, None] * (values - values[0]) / (values[-1] - values[0])
    return bool(((levels - levels.round()).abs().amax(1) < 2e-3).any())


# ----------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("bits, method", [(8, "RTN"), (4, "RTN"), (3, "GPTQ"), (4, "GPTAQ")])
def test_weights_lie_on_a_grid_a_row_and_the_given_network_is_untouched(crops, name, bits, method):
    net, given_ = net_of(name), networks.input_of(name, crops)
    before, votes = copy.deepcopy(net.state_dict()), net(given_)
    small = quantized(net, given_, bits, method)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not is_small(net) and is_small(small) and torch.equal(net(given_), votes)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not any(module._forward_hooks for module in small.modules())
    mine = weighted(net)
    assert set(weighted(small)) == set(mine)
    for key, layer in weighted(small).items():
        weight, full = layer.weight.detach(), mine[key].weight
        assert weight.shape == full.shape and weight.dtype == full.dtype and not layer.weight.requires_grad
        one_grid = isinstance(layer, nn.Embedding)
        rows = weight.reshape(1, -1) if one_grid else weight.flatten(1)
        for row, origin in zip(rows, full.reshape(1, -1) if one_grid else full.flatten(1), strict=True):
            assert len(row.unique()) <= 2**bits and on_a_grid(row, bits)
            reach = origin.max().clamp(min=0) - origin.min().clamp(max=0)
            if method == "RTN":  # half a step, but for what the search for a clip gives away
                assert (row - origin).abs().median() <= 0.51 * float(reach) / (2**bits - 1)
        scales = 1 if one_grid else len(weight)
        assert layer.weights == weight.numel() and layer.stored_bits == weight.numel() * bits + 32 * scales
    others = {key for key in before if key.removesuffix(".weight") not in mine}
    assert all(torch.equal(small.state_dict()[key], before[key]) for key in others)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_32_bits_are_the_network_as_it_is(crops, name):
    net = net_of(name)
    for method in formats.METHODS:
        assert quantized(net, None, 32, method) is net


def test_fewer_bits_are_further_away(crops):
    net, given_ = net_of("cnn"), networks.input_of("cnn", crops)
    votes = net(given_)
    off = [float((quantized(net, given_, bits)(given_) - votes).norm()) for bits in (8, 4, 3)]
    assert 0 < off[0] < off[1] < off[2] and off[0] < 0.1 * off[2]


def test_every_layer_runs_once_so_that_what_it_hears_is_what_it_was_calibrated_with(crops):
    for name in QUANTIZED:
        net, count = net_of(name), {}
        for key, layer in weighted(net).items():
            layer.register_forward_hook(lambda *_, key=key, count=count: count.__setitem__(key, count.get(key, 0) + 1))
        net(networks.input_of(name, crops))
        assert count == dict.fromkeys(weighted(net), 1), name


# ------------------------------------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_is_no_spike_passes_on_a_grid_of_eight_bits(crops, name):
    net, given_ = net_of(name), networks.input_of(name, crops)
    small = quantized(net, given_, 4)
    layers = weighted(small)
    rounded = 0
    for key, x in heard_by(small, given_).items():
        if isinstance(layers[key], TTFSConv2d | TTFSLinear | nn.Embedding):
            assert not layers[key]._forward_pre_hooks
            continue
        spikes = bool(((x == 0) | (x == 1)).all()) and not layers[key]._forward_pre_hooks
        if spikes:
            continue
        rounded += 1
        assert len(layers[key]._forward_pre_hooks) == 1
        values = x.unique()
        assert len(values) <= 256
        (hook,) = layers[key]._forward_pre_hooks.values()
        scale, low, high = hook.args
        assert (low, high) == ((-128, 127) if x.min() < 0 else (0, 255))
        steps = (x.double() / scale).round()
        assert (steps * scale - x).abs().max() < 1e-5 * float(
            x.abs().max()
        ) and low <= steps.min() <= steps.max() <= high
    expected = {"cnn": 4, "small-cnn": 3, "snn": 0, "pruned": 0, "ttfs": 1, "words": 2}
    assert rounded == expected.get(name, rounded)
    if (
        name == "tensor-train"
    ):  # inside a train there are numbers: three of each four cores, and the first of all is spikes
        assert rounded == 6
    if name == "hybrid":
        assert rounded >= 5


@pytest.mark.parametrize("low", [0.0, -3.0])
def test_the_grid_reaches_as_far_as_all_but_a_thousandth_of_what_was_seen(low):
    layer = nn.Sequential(nn.Linear(10, 4))
    x = low + (3 - low) * torch.rand(1000, 10)
    x[0, 0] = 50.0  # one outlier does not stretch the grid
    small = quantized(layer, x, 8)
    (heard,) = heard_by(small, x).values()
    magnitudes = sorted(x.abs().flatten().tolist())
    at = 0.999 * (len(magnitudes) - 1)
    reach = magnitudes[int(at)] + (at % 1) * (magnitudes[int(at) + 1] - magnitudes[int(at)])
    assert float(heard.max()) == pytest.approx(reach, rel=1e-5)
    step = reach / (127 if low < 0 else 255)
    inside = x.abs() <= reach
    assert (heard - x)[inside].abs().max() <= 0.5001 * step
    assert heard.min() >= (-128 * step - 1e-5 if low < 0 else 0)


def test_spikes_are_left_alone_and_numbers_are_not():
    layer = nn.Sequential(nn.Linear(6, 3))
    spikes = (torch.rand(50, 6) < 0.4).float()
    assert not quantized(layer, spikes, 4)[0]._forward_pre_hooks
    assert not quantized(layer, torch.zeros(5, 6), 4)[0]._forward_pre_hooks
    assert len(quantized(layer, spikes * 2, 4)[0]._forward_pre_hooks) == 1
    assert len(quantized(layer, -spikes, 4)[0]._forward_pre_hooks) == 1
    quiet = quantized(layer, 1e-9 * spikes + 1e-12, 4)
    assert torch.isfinite(quiet(spikes)).all()


# ---------------------------------------------------------------------------------------------------------- patches, GPTAQ


@quick
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([(1, 1), (3, 3), (3, 1), (1, 3), (5, 5)]),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 9999),
)
def test_patches_times_weight_are_the_convolution(inputs, outputs, kernel, stride, padded, seed):
    torch.manual_seed(seed)
    padding = tuple(k // 2 for k in kernel) if padded else 0
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    x = torch.randn(2, inputs, 7, 6)
    found = patches(layer, x)
    out = layer(x)
    assert found.shape == (2, out[0, 0].numel(), layer.weight[0].numel())
    product = (found @ layer.weight.flatten(1).T).transpose(1, 2).view_as(out)
    torch.testing.assert_close(product, out, rtol=0, atol=1e-5)


def test_a_patch_is_cut_by_hand():
    layer, x = nn.Conv2d(2, 1, 3, padding=1), torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4) + 1
    found = patches(layer, x)
    for y, at in itertools.product(range(4), range(4)):
        expected = []
        for c, i, j in itertools.product(range(2), (-1, 0, 1), (-1, 0, 1)):
            inside = 0 <= y + i < 4 and 0 <= at + j < 4
            expected.append(float(x[0, c, y + i, at + j]) if inside else 0.0)
        assert found[0, 4 * y + at].tolist() == expected


def test_patches_of_a_linear_layer_are_its_inputs():
    layer, x = nn.Linear(5, 3, bias=False), torch.randn(4, 2, 5)
    found = patches(layer, x)
    assert found.shape == (8, 1, 5)
    torch.testing.assert_close((found @ layer.weight.T).view(4, 2, 3), layer(x))


@pytest.mark.parametrize("bits", [4, 3])
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("seed", range(3))
def test_a_layer_errs_less_by_gptaq_than_by_rounding(bits, kind, seed):
    torch.manual_seed(seed)
    if kind == "linear":
        net, x = nn.Sequential(nn.Linear(40, 16)), torch.randn(300, 12) @ torch.randn(12, 40)
    else:
        net, x = (
            nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False)),
            torch.rand(20, 1, 8, 8) * torch.rand(20, 4, 8, 8),
        )
    x = (x > x.mean()).float()  # spikes, so that only weights are rounded; and they speak together
    off = {m: float((quantized(net, x, bits, m)(x) - net(x)).detach().norm()) for m in formats.METHODS}
    assert 0 < off["GPTQ"] < off["RTN"] and 0 < off["GPTAQ"] < off["RTN"]
    assert off["GPTAQ"] == pytest.approx(off["GPTQ"], rel=1e-4)  # a first layer hears the same in both networks


@pytest.mark.parametrize("method", ["GPTQ", "GPTAQ"])
def test_a_later_layer_is_calibrated_with_what_it_hears_behind_the_rounded_ones(method):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6)).requires_grad_(False)
    x = torch.randn(200, 12)
    small = quantized(net, x, 3, method)
    now, full = small[1](small[0](x)), net[1](net[0](x))
    scale = float(torch.quantile(now, 0.999)) / 255
    now = (now / scale).round().clamp(0, 255) * scale
    stats = CalibrationStats()
    stats.update(now[:, None], full[:, None] if method == "GPTAQ" else None)
    expected = gptaq(net[2].weight, stats, 3, mse_search=True, act_order=True).dequantize()
    torch.testing.assert_close(small[2].weight, expected, rtol=0, atol=1e-5)
    assert torch.equal(small[2].bias, net[2].bias)


# ----------------------------------------------------------------------------------------------------------- small questions


@pytest.mark.parametrize("bits", [32, 8, 4, 3])
def test_a_tables_numbers_have_their_bits(crops, bits):
    net, given_ = net_of("words"), networks.input_of("words", crops)
    small = quantized(net, given_, bits)
    assert word_bits(small) == bits and word_bits(net) == 32 and is_small(small) == (bits < 32)
    rows = small.space.rows
    if bits < 32:
        assert rows.stored_bits == 513 * 64 * bits + 32 and len(rows.weight.unique()) <= 2**bits
        assert not rows.weight[0].any()  # the padding stays nothing


def test_constants_are_the_pages():
    assert formats.BITS == (32, 8, 4, 3) and formats.METHODS == ("RTN", "GPTQ", "GPTAQ")
    assert (formats.ACTIVATION_BITS, formats.SCALE_BITS) == (8, 32)


@pytest.mark.parametrize(
    "bits, method", [(16, "RTN"), (2, "GPTQ"), (0, "RTN"), (None, "RTN"), (4, "rtn"), (32, "AWQ"), (8, None)]
)
def test_formats_that_are_not_offered_are_refused(refused, bits, method):
    net = net_of("cnn")
    with refused(
        f"^bits is {bits} and method {method!r}, but they must be one of 32, 8, 4, 3 and one of RTN, GPTQ, GPTAQ.$"
    ):
        quantized(net, None, bits, method)
