"""Layers on crossbars against torch's own with the quantised weights; mapping, calibrating, adapting, noisy training."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.hardware import crossbar_layers
from helpers.hardware.crossbar_layers import (
    CrossbarConv2d,
    CrossbarLinear,
    calibrate_adc,
    crossbars,
    map_network,
    noisy_weights,
    place,
    watching,
)
from helpers.hardware.crossbars import CrossbarArray, ideal, program
from helpers.hardware.devices import ArrayConfig, DeviceConfig
from helpers.models.batchnorm import batchnorms, recompute_batchnorm
from helpers.neurons.networks import SpikingConvNet, SpikingMLP

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)
VOLTS = ArrayConfig(8, 8, input_bits=None)
"""Small arrays whose rows take any number."""
WAITING = ArrayConfig(4, 8, 4, "calibrated")
BITWISE = ArrayConfig(4, 8, 4, "calibrated", input_bits=4)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=source(seed))


def spikes(*shape, seed=0, share=0.5):
    return (torch.rand(*shape, generator=source(seed)) < share).float()


def net(*layers):
    """A small network with batch norm whose statistics no inputs have by accident."""
    made = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), *layers)
    made[1].running_mean.normal_(0, 0.3)
    made[1].running_var.uniform_(0.2, 1.5)
    return made


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    now = model.state_dict()
    return set(now) == set(before) and all(torch.equal(value, before[name]) for name, value in now.items())


def digital(model, bits=4):
    """The network with every layer's weights rounded as `program` rounds them, one scale a layer (or group)."""
    rounded = copy.deepcopy(model).eval()
    for layer in rounded.modules():
        if type(layer) in (nn.Linear, nn.Conv2d):
            groups = layer.weight.detach().flatten(1).chunk(getattr(layer, "groups", 1))
            weight = torch.cat([ideal(program(group, bits=bits)) for group in groups])
            layer.weight.data = weight.view_as(layer.weight)
    return rounded


# --------------------------------------------------------------------------------------------------------- one layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 7, 5), (3, 1, 2, 5), (1, 5)])
def test_linear_layer_is_torchs_with_the_quantised_weights(bias, shape):
    layer, x = nn.Linear(5, 4, bias), numbers(*shape)
    made = CrossbarLinear.from_linear(layer, array=VOLTS, bits=5)
    found = made(x)
    assert found.shape == (*shape[:-1], 4) and not found.requires_grad
    torch.testing.assert_close(found, F.linear(x, ideal(made.crossbar), layer.bias))
    assert made.crossbar.bits == 5 and made.crossbar.array is VOLTS


@pytest.mark.parametrize(
    "settings_",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 1)},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
        {"kernel_size": (2, 3), "dilation": (3, 1), "stride": (2, 1)},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": (4, 2), "padding": "same"},
        {"kernel_size": 2, "padding": "same", "dilation": 3},
        {"kernel_size": 3, "padding": "valid", "stride": 2},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 1, "groups": 4, "stride": 2},
        {"kernel_size": 1},
        {"kernel_size": (7, 6)},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_is_torchs_with_the_quantised_weights(settings_, bias):
    layer, x = nn.Conv2d(4, 8, bias=bias, **settings_), numbers(2, 4, 7, 6)
    made = CrossbarConv2d.from_conv(layer, array=VOLTS)
    weight = torch.cat([ideal(crossbar) for crossbar in made.crossbars]).view_as(layer.weight)
    expected = F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    found = made(x)
    assert found.shape == layer(x).shape and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (
        len(made.crossbars) == layer.groups
        and made.crossbars[0].inputs == 4 // layer.groups * layer.weight[0, 0].numel()
    )


@quick
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2), st.booleans(), SEEDS
)
def test_any_geometry_of_a_convolution_is_torchs(height, width, stride, padding, dilation, single, seed):
    groups = 1 if single else 2
    layer = nn.Conv2d(2, 4, (height, width), stride, padding, dilation, groups).requires_grad_(False)
    x = spikes(2, 2, 6, 7, seed=seed)
    made = CrossbarConv2d.from_conv(layer, array=ArrayConfig(3, 4, 8))  # seven bits and a sign for three rows: lossless
    torch.testing.assert_close(made(x), digital(layer)(x), rtol=1e-5, atol=1e-5)


def test_one_group_is_one_matrix_with_a_scale_and_cells_of_its_own():
    layer = nn.Conv2d(4, 6, 3, groups=2)
    layer.weight.data[3:] *= 7
    made = CrossbarConv2d.from_conv(layer, DeviceConfig(sigma=0.3), seed=5)
    for index, part in enumerate(layer.weight.detach().flatten(1).chunk(2)):
        alone = program(part, DeviceConfig(sigma=0.3), seed=place(5, index))
        assert torch.equal(made.crossbars[index].conductance, alone.conductance)
    assert made.crossbars[1].scale > 3 * made.crossbars[0].scale
    assert place(5, 0) != place(5, 1) != place(6, 1)


def test_effects_reach_a_convolution_position_by_position():
    layer, x = nn.Conv2d(3, 4, 3, padding=1), spikes(2, 3, 5, 5)
    made = CrossbarConv2d.from_conv(layer, DeviceConfig(sigma=0.4), ArrayConfig(8, 8, 3), seed=2)
    alone = program(layer.weight.detach().flatten(1), DeviceConfig(sigma=0.4), ArrayConfig(8, 8, 3), seed=place(2, 0))
    padded, found = F.pad(x, (1, 1, 1, 1)), made(x)
    for row in range(5):
        for column in range(5):
            patch = padded[:, :, row : row + 3, column : column + 3].flatten(1)
            torch.testing.assert_close(found[:, :, row, column], alone.mvm(patch) + layer.bias)


def test_bias_is_kept_and_not_shared():
    layer, x = nn.Linear(5, 4), numbers(3, 5)
    made = CrossbarLinear.from_linear(layer, array=VOLTS)
    before = made(x)
    layer.bias.data += 1
    assert torch.equal(made(x), before) and not list(made.parameters())


@pytest.mark.parametrize("shape", [(5,), (2, 5), (0, 5), (2, 0, 5), (0, 2, 5)])
def test_a_batch_of_none_passes_a_linear_layer(shape):
    layer = nn.Linear(5, 4)
    found = CrossbarLinear.from_linear(layer, array=VOLTS)(torch.zeros(shape))
    assert found.shape == layer(torch.zeros(shape)).shape


@pytest.mark.parametrize("groups", [1, 2])
def test_a_batch_of_none_passes_a_convolution(groups):
    layer, x = nn.Conv2d(2, 4, 3, stride=(2, 1), padding=1, groups=groups), torch.zeros(0, 2, 7, 6)
    assert CrossbarConv2d.from_conv(layer, array=VOLTS)(x).shape == layer(x).shape


@pytest.mark.parametrize("shape", [(2, 7, 6), (7, 6), (1, 2, 2, 7, 6)])
def test_pictures_that_are_no_batch_are_refused(shape, refused):
    made = CrossbarConv2d.from_conv(nn.Conv2d(2, 4, 3))
    message = str(shape).replace("(", r"\(").replace(")", r"\)")
    with refused(rf"the pictures are {message}, but \[B, channels, height, width\] is needed"):
        made(torch.zeros(shape))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_is_not_silent_is_refused(mode):
    with pytest.raises(ValueError, match=f"padding_mode is '{mode}', but a row that sees nothing is silent: use zeros"):
        map_network(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode)))


# -------------------------------------------------------------------------------------------------- a whole network


@pytest.mark.parametrize(
    "model, x",
    [
        (net().eval(), spikes(9, 6)),
        (SpikingConvNet(8, (1, 3, 4), 5), numbers(3, 1, 8, 8)),
        (SpikingMLP((6, 5, 4)), numbers(3, 6)),
    ],
    ids=["net", "conv", "mlp"],
)
def test_mapped_network_without_faults_is_the_network_with_quantised_weights(model, x):
    arguments = (x, 3) if not isinstance(model, nn.Sequential) else (x,)
    before = state(model)
    made = map_network(model, array=VOLTS)
    torch.testing.assert_close(made(*arguments), digital(model)(*arguments), rtol=1e-4, atol=1e-4)
    assert unchanged(model, before) and not made.training
    assert not any(type(module) in (nn.Linear, nn.Conv2d) for module in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_given_network_stays_bit_identical_in_its_modes_and_apart_from_the_chip():
    model = net().train()
    model[2].eval()
    before, modes, x = state(model), [module.training for module in model.modules()], spikes(9, 6)
    made = map_network(model, DeviceConfig(sigma=0.5), VOLTS)
    recompute_batchnorm(made, [x])
    made(x)
    assert unchanged(model, before) and [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert type(model[0]) is nn.Linear and made[1] is not model[1]
    remembered = made(x)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(made(x), remembered)


def test_names_of_the_matrices_and_settings_by_name():
    own = {"0": VOLTS}
    made = map_network(net(), DeviceConfig(cell_bits=2), ArrayConfig(16, adc_bits=3), 6, arrays=own)
    found = crossbars(made)
    assert list(found) == ["0.crossbar", "3.crossbar"] and isinstance(found["0.crossbar"], CrossbarArray)
    assert found["0.crossbar"].array is VOLTS and found["3.crossbar"].array == ArrayConfig(16, adc_bits=3)
    assert all(array.bits == 6 and array.device_config.cell_bits == 2 for array in found.values())
    assert list(own) == ["0"]


def test_each_layer_draws_its_own_part_of_the_chip():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].load_state_dict(model[0].state_dict())

    def cells(seed):
        return [
            array.conductance for array in crossbars(map_network(model, DeviceConfig(sigma=0.3), seed=seed)).values()
        ]

    (first, second), (again, _), (other, _) = cells(1), cells(1), cells(2)
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(first, other)


class Twice(nn.Module):
    """One layer under two names, and within a container that is itself shared."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.block = nn.Sequential(self.one, nn.ReLU())
        self.again = self.block

    def forward(self, x):
        return self.one(self.again(self.block(x)))


def test_a_layer_that_stands_in_two_places_is_one_matrix():
    model = Twice()
    made = map_network(model, DeviceConfig(sigma=0.3), VOLTS)
    assert made.one is made.block[0] is made.again[0] and made.block is made.again
    assert len(crossbars(made)) == 1 and model.one is model.block[0]
    layers = nn.ModuleList([nn.Linear(3, 3)] * 3)
    assert len({id(layer) for layer in map_network(layers)}) == 1


def test_a_network_that_is_one_layer_becomes_one_crossbar():
    layer = nn.Linear(5, 4).train()
    made = map_network(layer, arrays={"": VOLTS})
    assert isinstance(made, CrossbarLinear) and made.crossbar.array is VOLTS and not made.training
    assert isinstance(map_network(nn.Conv2d(1, 2, 3)), CrossbarConv2d) and layer.training


class Special(nn.Linear):
    """Nobody knows what else it does."""


def test_subclasses_stay_digital():
    made = map_network(nn.Sequential(nn.Linear(3, 3), Special(3, 3)))
    assert isinstance(made[0], CrossbarLinear) and type(made[1]) is Special


@pytest.mark.parametrize("model", [nn.Sequential(nn.ReLU()), Special(3, 3), nn.Sequential(nn.Conv1d(1, 2, 3))])
def test_network_with_nothing_to_map_is_refused(model):
    with pytest.raises(
        TypeError, match=f"{type(model).__name__} has no nn.Linear and no nn.Conv2d, so there is nothing"
    ):
        map_network(model)


def test_names_that_are_no_layers_are_refused_with_those_that_are():
    with pytest.raises(ValueError, match="arrays names 1, head, but the layers of this network are 0, 3"):
        map_network(net(), arrays={"1": VOLTS, "0": VOLTS, "head": VOLTS})


@pytest.mark.parametrize("array", [BITWISE, WAITING, ArrayConfig(4, 8, 3)], ids=["bits", "spikes", "full"])
def test_state_of_a_network_moves_to_a_network_of_other_weights(array):
    settings_ = {"device": DeviceConfig(sigma=0.5), "array": array, "arrays": {"0": BITWISE}}
    made, other = (map_network(model[:3].append(nn.Linear(8, 3)), **settings_) for model in (net(), net()))
    for index, chip in enumerate((made, other)):
        chip[2] = nn.Threshold(0.5, 0.0) if array is BITWISE else Spike()
        calibrate_adc(chip, numbers(30, 6, seed=index))
    x = numbers(30, 6)
    assert not torch.equal(made(x), other(x))
    other.load_state_dict(state(made))
    assert torch.equal(made(x), other(x)) and unchanged(other, state(made))


class Spike(nn.Module):
    """One where something is above nought."""

    def forward(self, x):
        return (x > 0).float()


MAKERS = {
    "linear": lambda seed: CrossbarLinear.from_linear(nn.Linear(3, 3), seed=seed),
    "convolution": lambda seed: CrossbarConv2d.from_conv(nn.Conv2d(1, 2, 3), seed=seed),
    "network": lambda seed: map_network(net(), seed=seed),
    "noise": lambda seed: noisy_weights(net(), 0.1, seed).__enter__(),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_seeds_that_cannot_be_are_refused(make, seed, refused):
    with refused(f"seed is {seed!r}, but it must be a whole number of at least 0"):
        make(seed)


def test_weights_that_are_no_numbers_are_refused_here_too():
    model = net()
    model[3].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"the weights are \(3, 8\), but must be a matrix .* of finite numbers"):
        map_network(model)


# ------------------------------------------------------------------------------------------------------- calibration


def currents(chip, x):
    """|d| of every tile, slice and column, in levels, one by one, sorted."""
    g, device, found = chip.conductance.double(), chip.device_config, []
    for start in range(0, chip.inputs, chip.array.rows):
        rows = slice(start, start + chip.array.rows)
        for n in range(chip.outputs):
            for k in range(chip.slices):
                d = x[:, rows].double() @ (g[rows, n, k, 0] - g[rows, n, k, 1]) / device.step
                found += d.abs().tolist()
    return sorted(found)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.9995, 1.0])
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_reach_is_the_quantile_of_the_currents(quantile, sigma):
    made = map_network(nn.Linear(10, 6), DeviceConfig(sigma=sigma), WAITING)
    x = spikes(40, 10)
    assert calibrate_adc(made, x, quantile=quantile) is made
    seen = currents(made.crossbar, x)
    assert len(seen) == 40 * 3 * 6 * 3
    share = seen[min(int(quantile * len(seen)), len(seen) - 1)]
    assert made.crossbar.reach == pytest.approx(share, rel=1e-5)
    assert sum(value <= made.crossbar.reach * (1 + 1e-6) for value in seen) >= quantile * len(seen)
    assert made.crossbar.watched is None


def test_calibration_sees_currents_without_converters_wherever_it_starts():
    made = map_network(net(), array=WAITING, arrays={"0": VOLTS})
    x, later = spikes(30, 6), made[3].crossbar
    made[2] = nn.Hardtanh(0, 1)
    made[3].crossbar.array = ArrayConfig(4, 8, 4, "calibrated", input_bits=None)
    for reach in (None, 0.01, 100.0):  # what it was set to before does not matter
        later.reach = reach
        calibrate_adc(made, x)
        assert later.reach == pytest.approx(currents(later, made[:3](x))[-1], rel=1e-4)
    assert made[0].crossbar.reach == 8.0  # a full range stays as it is


def test_each_matrix_gets_a_reach_of_its_own_from_all_passes():
    model = SpikingConvNet(8, (1, 3, 4), 5)
    bits = ArrayConfig(8, 8, 4, "calibrated", input_bits=4)  # pooled spikes are no spikes
    made = map_network(model, array=bits)
    with pytest.raises(ValueError, match="call calibrate_adc first"):
        made(numbers(2, 1, 8, 8), 2)
    calibrate_adc(made, 3 * numbers(4, 1, 8, 8), 3)
    reaches = [array.reach for array in crossbars(made).values()]
    assert len(reaches) == 3 and all(0 < reach <= 8 for reach in reaches)
    assert made(numbers(2, 1, 8, 8), 2).isfinite().all()


def test_large_layers_are_calibrated_by_a_part_of_their_currents(monkeypatch):
    made = map_network(nn.Linear(10, 7), array=ArrayConfig(4, 8, 4, "calibrated", input_bits=None))
    x = numbers(200, 10)
    whole = calibrate_adc(made, x, quantile=0.9).crossbar.reach
    monkeypatch.setattr(crossbar_layers, "MOST_SEEN", 1000)
    part = calibrate_adc(made, x, quantile=0.9).crossbar.reach
    assert part != whole and part == pytest.approx(whole, rel=0.15)
    before = torch.get_rng_state()
    again = calibrate_adc(made, x, quantile=0.9).crossbar.reach
    assert again == part  # the same part each time, and nobody else's luck
    assert torch.equal(torch.get_rng_state(), before)
    assert calibrate_adc(made, x, quantile=1.0).crossbar.reach <= max(currents(made.crossbar, x)) * (1 + 1e-6)


@pytest.mark.parametrize("every", [2, 4])
def test_the_part_is_drawn_at_random_and_meets_all_columns(every, monkeypatch):
    layer = nn.Linear(8, 256)
    layer.weight.data[::every] = 0  # 256 outputs, three slices: every so many columns carry nothing at all
    made, x = map_network(layer, array=ArrayConfig(4, 8, 4, "calibrated", input_bits=None)), numbers(40, 8)
    seen = currents(made.crossbar, x)
    assert made.crossbar.slices == 3 and len(seen) == 2 * 40 * 3 * 256
    assert sum(value == 0 for value in seen) > len(seen) / every
    whole = calibrate_adc(made, x, quantile=0.9).crossbar.reach
    for share in (2, 4, 8):  # a stride of so many would see silent columns alone
        monkeypatch.setattr(crossbar_layers, "MOST_SEEN", len(seen) // share)
        assert calibrate_adc(made, x, quantile=0.9).crossbar.reach == pytest.approx(whole, rel=0.05)


def test_up_to_the_limit_all_currents_are_seen(monkeypatch):
    made, x = map_network(nn.Linear(10, 6), DeviceConfig(sigma=0.4), WAITING), spikes(40, 10)
    seen = currents(made.crossbar, x)
    monkeypatch.setattr(crossbar_layers, "MOST_SEEN", len(seen))
    assert calibrate_adc(made, x, quantile=1.0).crossbar.reach == pytest.approx(seen[-1], rel=1e-5)


def test_a_quantile_of_silence_gives_way_to_the_largest_current():
    made = map_network(nn.Linear(10, 6), array=WAITING)
    x = torch.zeros(40, 10)
    x[0] = 1
    seen = currents(made.crossbar, x)
    assert seen[len(seen) // 2] == 0 and calibrate_adc(made, x, quantile=0.5).crossbar.reach == pytest.approx(seen[-1])
    calibrate_adc(made, torch.zeros(4, 10))
    assert made.crossbar.reach > 0 and torch.equal(made(torch.zeros(2, 10)), made.bias.expand(2, 6))


@pytest.mark.parametrize("input_bits", [None, 1, 4])
@pytest.mark.parametrize("adc_bits", [None, 2, 4, 24])
def test_silence_calibrates_to_numbers(input_bits, adc_bits):
    made = map_network(nn.Linear(10, 6), array=ArrayConfig(4, 8, adc_bits, "calibrated", input_bits=input_bits))
    calibrate_adc(made, torch.zeros(4, 10))
    assert 0 < made.crossbar.reach < torch.inf and not made.crossbar.input_reach
    assert torch.equal(made(torch.zeros(2, 10)), made.bias.expand(2, 6))
    assert made(spikes(2, 10)).isfinite().all()


def test_calibration_changes_nothing_but_the_reach_and_comes_back_after_an_error():
    made = map_network(net(), DeviceConfig(sigma=0.3), ArrayConfig(4, 8, 4, "calibrated", input_bits=None)).train()
    made[2].eval()
    waiting, modes = state(made), [module.training for module in made.modules()]
    calibrate_adc(made, numbers(20, 6))
    before = state(made)
    changed = {name for name, value in before.items() if not torch.equal(value, waiting[name])}
    assert changed == {"0.crossbar._extra_state", "3.crossbar._extra_state"}
    reaches = [array.reach for array in crossbars(made).values()]
    with pytest.raises(ValueError, match="this crossbar has 6 rows"):
        calibrate_adc(made, numbers(20, 7))
    assert [array.reach for array in crossbars(made).values()] == reaches
    assert all(array.watched is None for array in crossbars(made).values())
    assert unchanged(made, before) and [module.training for module in made.modules()] == modes


@pytest.mark.parametrize("adc_bits", [None, 4, 24])
def test_calibration_sets_how_far_inputs_reach_that_are_sent_bit_by_bit(adc_bits):
    model, array = net(), ArrayConfig(4, 8, adc_bits, "calibrated", input_bits=6)
    made, x = map_network(model, array=array), numbers(30, 6)
    alone = made[0](x[:1]) if adc_bits is None else None
    calibrate_adc(made, x)
    first, second = crossbars(made).values()
    assert first.input_reach == x.abs().max() and second.input_reach == pytest.approx(made[:3](x).max().item())
    whole = made(x)
    torch.testing.assert_close(torch.cat([made(row) for row in x.split(1)]), whole)  # a picture and its batch
    torch.testing.assert_close(made(torch.cat([x, 50 * x]))[:30], whole)
    limit = first.input_reach
    torch.testing.assert_close(made[0](3 * x), made[0]((3 * x).clamp(-limit, limit)))
    if alone is not None:  # before, the largest input of each call was the range
        assert not torch.equal(made[0](x[:1]), alone)
    calibrate_adc(made, 0.5 * x)  # a new range, not the larger one of both
    assert first.input_reach == pytest.approx(0.5 * limit)


def test_the_range_of_inputs_is_that_of_all_timesteps():
    made = map_network(nn.Linear(6, 3), array=BITWISE)

    class OverTime(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = made

        def forward(self, x):
            return sum(self.layer(step) for step in x)

    x = numbers(5, 20, 6)
    x[3] *= 2  # not in the last step
    calibrate_adc(OverTime(), x)
    assert made.crossbar.input_reach == x[3].abs().max()


@pytest.mark.parametrize("adc_range, input_bits", [("full", 1), ("calibrated", 1), ("calibrated", None)])
def test_other_inputs_have_no_range(adc_range, input_bits):
    made = map_network(net()[:2].append(Spike()).append(nn.Linear(8, 3)), array=BITWISE)
    made[3] = map_network(nn.Linear(8, 3), array=ArrayConfig(4, 8, 4, adc_range, input_bits=input_bits))
    calibrate_adc(made, numbers(9, 6))
    assert made[0].crossbar.input_reach > 0 and made[3].crossbar.input_reach is None


class Fork(nn.Module):
    """Two layers, of which the inputs reach one."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.turned = nn.Linear(6, 3), nn.Linear(6, 3), False

    def forward(self, x):
        return (self.other if self.turned else self.one)(x)


@pytest.mark.parametrize("array", [WAITING, BITWISE], ids=["spikes", "bits"])
def test_layers_that_the_inputs_never_reach_stay_as_they_were(array):
    made, x = map_network(Fork(), array=array), spikes(9, 6)
    calibrate_adc(made, x)
    assert made.one.crossbar.reach > 0 and made.other.crossbar.reach is None
    assert made.other.crossbar.input_reach is None and made.other.crossbar.watched is None
    made.turned = True
    with pytest.raises(ValueError, match="call calibrate_adc first"):
        made(x)
    reach = made.one.crossbar.reach
    calibrate_adc(made, x)
    assert made(x).isfinite().all() and made.one.crossbar.reach == reach


def test_layers_that_the_inputs_no_longer_reach_keep_the_range_of_their_inputs():
    made = map_network(Fork(), array=BITWISE)
    calibrate_adc(made, numbers(9, 6))
    before = made.one.crossbar.reach, made.one.crossbar.input_reach
    made.turned = True
    calibrate_adc(made, numbers(9, 6))
    assert (made.one.crossbar.reach, made.one.crossbar.input_reach) == before


@pytest.mark.parametrize("shape", [(20, 7), (0, 6)], ids=["width", "none"])
def test_the_range_of_inputs_comes_back_after_an_error(shape):
    made = map_network(nn.Linear(6, 3), array=BITWISE)
    calibrate_adc(made, numbers(20, 6))
    before = state(made)
    with pytest.raises(ValueError):
        calibrate_adc(made, numbers(*shape))
    assert unchanged(made, before)


def test_ranges_of_all_layers_come_back_after_an_error_halfway():
    made = map_network(net(), array=BITWISE)
    calibrate_adc(made, numbers(20, 6))
    before, made[2] = state(made), nn.Flatten(0)  # what the second layer cannot take
    with pytest.raises(ValueError, match="this crossbar has 8 rows"):
        calibrate_adc(made, 3 * numbers(20, 6))
    assert unchanged(made, before)


@pytest.mark.parametrize("array", [WAITING, BITWISE, ArrayConfig(4, 8, 4, "calibrated", input_bits=None)])
def test_a_calibration_with_nothing_is_refused_and_changes_no_reach(array, refused):
    made = map_network(nn.Linear(6, 3), array=array)
    for reach in (None, 2.0):
        made.crossbar.reach = reach
        with refused("no converter has seen anything, but a range needs inputs: give the model at least one"):
            calibrate_adc(made, torch.zeros(0, 6))
        assert made.crossbar.reach == reach and made.crossbar.watched is None


def heard(made, x, names=None):
    with watching(made, names) as found:
        made(x)
    return {name: sorted(torch.cat(values).tolist()) for name, values in found.items() if values}


@pytest.mark.parametrize("adc_range", ["full", "calibrated"])
@pytest.mark.parametrize("adc_bits", [None, 3])
def test_watching_writes_down_every_current(adc_range, adc_bits):
    made = map_network(nn.Linear(10, 6), DeviceConfig(sigma=0.3), ArrayConfig(4, 8, adc_bits, adc_range))
    x = spikes(20, 10)  # a converter that waits for its range is watched, too
    (found,) = heard(made, x).values()
    assert found == pytest.approx(currents(made.crossbar, x), abs=1e-5)
    assert made.crossbar.watched is None


def test_converters_do_not_round_while_they_are_watched():
    device, x = DeviceConfig(sigma=0.3), spikes(20, 10)
    layer = nn.Linear(10, 6)
    made, ideal_ = (map_network(layer, device, ArrayConfig(4, 8, adc_bits)) for adc_bits in (2, None))
    with watching(made):
        torch.testing.assert_close(made(x), ideal_(x))
    assert (made(x) - ideal_(x)).abs().max() > 0.01


def test_those_that_are_named_are_watched_and_the_others_are_not():
    made, x = map_network(net(), array=ArrayConfig(4, 8, 4, input_bits=None)), numbers(9, 6)
    assert list(heard(made, x)) == list(crossbars(made)) == ["0.crossbar", "3.crossbar"]
    assert list(heard(made, x, {"3.crossbar"})) == ["3.crossbar"] and heard(made, x, ()) == {}
    with watching(made, ["3.crossbar"]):
        assert made[0].crossbar.watched is None and made[3].crossbar.watched == []


def test_watching_ends_with_its_block_also_by_an_error_and_leaves_no_trace():
    made = map_network(net(), array=ArrayConfig(4, 8, 4, input_bits=None))
    before, luck, x = state(made), torch.get_rng_state(), numbers(9, 6)
    expected = made(x)
    with pytest.raises(ValueError, match="this crossbar has 6 rows"):
        with watching(made):
            made(x)
            made(numbers(9, 7))
    assert all(array.watched is None for array in crossbars(made).values())
    assert unchanged(made, before) and torch.equal(made(x), expected)
    assert torch.equal(torch.get_rng_state(), luck)


@pytest.mark.parametrize("adc_range", ["full", "calibrated"])
def test_watching_moves_no_range_of_inputs(adc_range):
    made, x = map_network(nn.Linear(6, 3), array=ArrayConfig(4, 8, 4, adc_range, input_bits=4)), numbers(9, 6)
    if adc_range == "calibrated":
        calibrate_adc(made, x)
    before = made.crossbar.input_reach
    heard(made, 3 * x)
    assert made.crossbar.input_reach == before


@pytest.mark.parametrize("quantile", [0.0, -0.5, 1.1, float("nan")])
def test_quantiles_that_cannot_be_are_refused(quantile):
    made = map_network(nn.Linear(10, 6), array=WAITING)
    with pytest.raises(ValueError, match=f"quantile is {quantile}, but it must lie in"):
        calibrate_adc(made, spikes(4, 10), quantile=quantile)


@pytest.mark.parametrize("model", [map_network(nn.Linear(3, 3), array=ArrayConfig(adc_bits=4)), nn.Linear(3, 3)])
def test_nothing_to_calibrate_is_refused(model):
    with pytest.raises(ValueError, match="crossbars are in this network, none of which waits for a range: make them"):
        calibrate_adc(model, spikes(4, 3))


def test_a_full_range_with_inputs_sent_bit_by_bit_learns_their_range_alone():
    made = map_network(nn.Linear(6, 3), array=ArrayConfig(8, 8, 5, input_bits=4))
    x = numbers(20, 6)
    reach = made.crossbar.reach
    calibrate_adc(made, x)
    assert made.crossbar.reach == reach and made.crossbar.input_reach == pytest.approx(float(x.abs().max()))
    alone, together = made(x[:1]), made(torch.cat([x[:1], 0.1 * x[1:]]))[:1]
    torch.testing.assert_close(alone, together)


def test_a_layer_that_would_pass_its_crossbars_by_is_refused():
    layer = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    with pytest.raises(TypeError, match="would pass the crossbars by"):
        map_network(layer)


# -------------------------------------------------------------------------------------------- batch norm on a chip


def test_adapting_batch_norm_moves_no_cell_and_no_weight():
    made = map_network(net(), DeviceConfig(sigma=0.5, read_noise=0.2), VOLTS)
    before, x = state(made), spikes(64, 6)
    recompute_batchnorm(made, [x])
    moved = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not made.training


def test_adapted_statistics_are_those_of_the_chips_currents_over_all_steps():
    made = map_network(SpikingMLP((6, 8, 3), batchnorm=True), DeviceConfig(sigma=0.5), arrays={"linears.0": VOLTS})
    x = numbers(50, 6).abs()
    recompute_batchnorm(made, [(x, 4)])
    (layer,) = batchnorms(made).values()
    seen = made.linears[0](x)
    torch.testing.assert_close(layer.running_mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    # Four equal steps, of which torch takes the unbiased variance.
    torch.testing.assert_close(layer.running_var, seen.repeat(4, 1).var(0), rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------- noisy training


def plain(model):
    return all(type(layer) in (nn.Linear, nn.Conv2d) and isinstance(layer.weight, nn.Parameter) for layer in model)


def pair():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 3))


def test_every_training_pass_sees_other_weights_and_eval_the_true_ones():
    model, x = nn.Sequential(nn.Linear(5, 4)), numbers(3, 5)
    quiet = model(x)
    with noisy_weights(model, 0.3) as inside:
        assert inside is model
        first, second = model.train()(x), model(x)
        assert not torch.equal(first, second) and not torch.equal(first, quiet)
        assert torch.equal(model.eval()(x), quiet) and torch.equal(model(x), quiet)
        assert not torch.equal(model.train()(x), quiet)
    assert torch.equal(model(x), quiet)


def test_noise_is_lognormal_with_the_mean_kept_and_the_seed_decides():
    def factors(sigma, seed):
        model = nn.Sequential(nn.Linear(100, 200)).train()
        nn.init.ones_(model[0].weight)
        with noisy_weights(model, sigma, seed):
            return model[0].weight.detach().clone()

    found = factors(0.5, 1)
    assert abs(found.mean().item() - 1) <= 3 * found.std().item() / 20_000**0.5
    assert found.log().std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(found, factors(0.5, 1)) and not torch.equal(found, factors(0.5, 2))
    assert (factors(0.0, 1) == 1).all()


def test_a_network_in_eval_mode_stays_quiet_when_the_block_begins():
    model, x = nn.Sequential(nn.Linear(5, 4)).eval(), numbers(3, 5)
    quiet = model(x)
    with noisy_weights(model, 0.3):
        assert torch.equal(model(x), quiet)


def test_gradients_reach_the_plain_parameter_through_the_noise():
    model, x = nn.Sequential(nn.Linear(5, 1, bias=False)), numbers(7, 5)
    parameter = model[0].weight
    with noisy_weights(model.train(), 0.4):
        assert [id(p) for p in model.parameters()] == [id(parameter)]
        out = model(x)
        noisy = torch.linalg.lstsq(x, out.detach()).solution.T  # the weights of this very pass
        out.sum().backward()
    assert model[0].weight is parameter
    torch.testing.assert_close(parameter.grad, noisy / parameter.detach() * x.sum(0), rtol=1e-3, atol=1e-4)


def test_optimiser_inside_the_block_trains_what_is_left_afterwards():
    model, x = nn.Sequential(nn.Linear(5, 4)).train(), numbers(3, 5)
    before = model[0].weight.detach().clone()
    with noisy_weights(model, 0.2):
        rule = torch.optim.SGD(model.parameters(), lr=0.1)
        model(x).square().sum().backward()
        rule.step()
    assert not torch.equal(model[0].weight, before)
    torch.testing.assert_close(model[0].weight.detach(), before - 0.1 * model[0].weight.grad)


def test_weights_are_plain_again_afterwards_and_after_an_error():
    model = pair()
    ids, before = {id(p) for p in model.parameters()}, state(model)
    with noisy_weights(model, 0.3):
        assert not plain(model)
    assert plain(model) and unchanged(model, before)
    with pytest.raises(KeyError, match="halfway"):
        with noisy_weights(model, 0.3):
            raise KeyError("halfway")
    assert plain(model) and unchanged(model, before) and {id(p) for p in model.parameters()} == ids
    assert all(parameter.requires_grad for parameter in model.parameters())
    copy.deepcopy(model)


@pytest.mark.parametrize("fails", [False, True])
def test_parameters_are_in_their_order_again(fails):
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Linear(4, 3), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), Special(3, 2)
    )
    names, ids = [name for name, _ in model.named_parameters()], [id(p) for p in model.parameters()]
    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        with noisy_weights(model, 0.3):
            if fails:
                raise KeyError("halfway")
    assert [name for name, _ in model.named_parameters()] == names
    assert names[:4] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [id(p) for p in model.parameters()] == ids and list(model.state_dict())[:4] == names[:4]


def test_an_optimisers_state_fits_after_the_block():
    model = pair()
    before = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    before.step()
    with noisy_weights(model, 0.3):
        pass
    after = torch.optim.Adam(model.parameters())
    after.load_state_dict(before.state_dict())
    for parameter, values in after.state.items():
        assert values["exp_avg"].shape == parameter.shape


def test_noise_leaves_other_layers_biases_and_the_global_random_state_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Special(4, 4)).train()
    torch.manual_seed(3)
    global_ = torch.get_rng_state()
    with noisy_weights(model, 0.5):
        assert torch.equal(model[2].weight, model[2].weight) and torch.equal(model[1].weight, torch.ones(4))
        assert torch.equal(model[0].bias, model[0].bias) and not torch.equal(model[0].weight, model[0].weight)
    assert torch.equal(torch.get_rng_state(), global_)


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_noise_that_cannot_be_is_refused_before_anything_is_changed(sigma):
    model = pair()
    with pytest.raises(ValueError, match=f"sigma is {sigma} and .* sigma must be 0 or more"):
        with noisy_weights(model, sigma):
            raise AssertionError("the block must not run")
    assert plain(model)
