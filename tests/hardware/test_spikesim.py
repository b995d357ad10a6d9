"""SpikeSim's costs against its own code, its column and its quantiser by their formulas, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.hardware.spikesim import BIT_UM2, VGG9, WORD_BITS, LayerShape, SpikeSimCost, shapes_of

quick = settings(max_examples=25, deadline=None, derandomize=True)
CHIPS = [0, 1, 2]
LAYERS = st.builds(LayerShape, *[st.integers(1, 300)] * 2, *[st.integers(1, 12)] * 2, st.sampled_from([1, 3, 5]))
NETWORKS = st.lists(LAYERS, min_size=1, max_size=7)


def chip(golden, number):
    """One of the three configurations that the official code priced."""
    shapes = zip(
        *(golden[f"ela{number}_{key}"].tolist() for key in ("in_ch", "out_ch", "in_dim", "out_dim")), strict=True
    )
    xbar, pes_per_tile, timesteps, sram = golden[f"ela{number}_cfg"].tolist()
    layers = [LayerShape(*shape, kernel=3) for shape in shapes]
    return SpikeSimCost(layers, xbar, pes_per_tile, timesteps, ("rram", "sram")[sram])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)


# ------------------------------------------------------------------------------------------------- the official code


@pytest.mark.parametrize("number", CHIPS)
def test_golden_elements_tiles_energy_and_latency(golden, number):
    cost = chip(golden, number)
    assert [sum(cost.pes), cost.tiles] == golden[f"ela{number}_pes_tiles"].tolist()
    close(cost.energy_pj, golden[f"ela{number}_energy_pj"])
    close(cost.latency_ns, golden[f"ela{number}_latency_ns"])


@pytest.mark.parametrize("number", CHIPS)
def test_golden_areas(golden, number):
    cost = chip(golden, number)
    area = cost.area_parts()
    elements = area["arrays"] + area["ADCs"] + area["multiplexers"]
    digital = elements + area["tile buffers"] + area["spike buffers"]
    groups = [area["membranes"], elements + area["subtractors"], digital, cost.area_um2]
    close(groups, golden[f"ela{number}_area_um2"])


def test_golden_column_is_ohms_law(golden):
    volts, ohms = 0.1 * golden["v_in"], golden["reff_table"][golden["w4"]]
    currents = (volts / ohms).sum(1)
    np.testing.assert_allclose(golden["i_expected"], currents, rtol=1e-12)
    np.testing.assert_allclose(golden["i_col"], currents, rtol=2e-8)


def test_golden_resistances_are_four_cells_side_by_side(golden):
    closed = golden["base_r"] / np.array([1, 2, 4, 8])
    for weight, ohms in enumerate(golden["reff_table"]):
        on = [bool(weight >> bit & 1) for bit in range(4)]
        siemens = sum(1 / (closed[bit] if on[bit] else 100e6) for bit in range(4))
        assert 1 / siemens == pytest.approx(ohms, rel=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_golden_quantiser_is_its_formula(golden, bits):
    top = 2**bits - 1
    expected = [2 * (round((x + 1) / 2 * top) / top - 0.5) for x in golden["quant_in"].tolist()]
    np.testing.assert_allclose(golden[f"quant_{bits}"], expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------- what the paper reports


def test_published_shares_of_energy():
    parts = SpikeSimCost(VGG9).cycle_pj()
    assert sum(parts.values()) == pytest.approx(828.5, abs=0.05)
    published = {"tile buffer": 47.9, "H-tree": 19.0, "ADCs": 15.7, "arrays": 15.3, "neurons": 0.6}
    shares = {name: 100 * parts[name] / sum(parts.values()) for name in published}
    assert shares == pytest.approx(published, abs=0.05)


def test_published_chip():
    cost = SpikeSimCost(VGG9)
    assert (sum(cost.pes), cost.tiles) == (48, 6)
    assert cost.area_um2 / 1e6 == pytest.approx(8.43, abs=0.005)
    assert cost.area_parts()["membranes"] / 1e6 == pytest.approx(2.26, abs=0.005)
    assert sum(cost.energy_pj) / 1e6 == pytest.approx(15.9, abs=0.05)
    assert cost.latency_ns / 1e6 == pytest.approx(62.8, abs=0.05)


def test_sram_takes_little_more_area_and_by_a_quirk_59_times_the_energy():
    rram, sram = SpikeSimCost(VGG9), SpikeSimCost(VGG9, device="sram")
    assert [round(cost.area_um2 / 1e6, 2) for cost in (rram, sram)] == [8.43, 8.70]
    assert sum(sram.energy_pj) / sum(rram.energy_pj) == pytest.approx(59, abs=0.5)
    assert sram.cycle_pj()["arrays"] / (8 * 9) == sram.area_parts()["arrays"] / (48 * 9)  # the same number for both
    assert sram.latency_ns == rram.latency_ns and sram.tiles == rram.tiles
    for one, other in ((rram.area_parts(), sram.area_parts()), (rram.cycle_pj(), sram.cycle_pj())):
        assert {name for name in one if one[name] != other[name]} == {"arrays"}


def test_only_the_first_five_membranes_take_area_unless_all_are_asked_for():
    def membranes(count):
        cost = SpikeSimCost(VGG9, membrane_layers=count)
        area = cost.area_parts()
        assert cost.area_um2 - area["membranes"] == pytest.approx(without)
        return area["membranes"] / (BIT_UM2 * WORD_BITS)

    full = SpikeSimCost(VGG9)
    without = full.area_um2 - full.area_parts()["membranes"]
    neurons = [layer.outputs * layer.out_side**2 for layer in VGG9]
    assert membranes(5) == pytest.approx(sum(neurons[:5])) and membranes(None) == pytest.approx(sum(neurons))
    assert membranes(0) == 0 and membranes(1) == pytest.approx(neurons[0]) and membranes(99) == membranes(None)
    assert full.area_parts()["membranes"] == SpikeSimCost(VGG9, membrane_layers=5).area_parts()["membranes"]


# ------------------------------------------------------------------------------------------------------- its formulas


def by_hand(layers, xbar, per_tile, timesteps, device):
    """Energy of each layer, area and latency as the page writes them, for networks whose kernels are all alike."""
    array_pj, array_um2 = {"rram": (1.76423, 26.2144), "sram": (671.089, 671.089)}[device]
    turns, energies, pes, spikes, membranes, clocks = xbar / 8, [], 0, 0, 0, 0
    for index, layer in enumerate(layers):
        k2 = layer.kernel**2
        one = 19.64 * 8 + 4.64 + 1.274 * 4 + 397
        one += turns * (k2 * array_pj + turns * (2.03084 + 0.094245)) + turns * (16 * 1.15e-6 + 0.2)
        mine = math.ceil(layer.inputs / xbar) * math.ceil(layer.outputs / xbar)
        energies.append(mine * layer.out_side**2 * one * timesteps)
        pes += mine
        spikes += layer.inputs * layer.in_side**2
        neurons = layer.outputs * layer.out_side**2
        membranes += neurons if index < 5 else 0
        clocks += neurons if index == len(layers) - 1 else 3 * neurons // 4
    tiles = math.ceil(pes / per_tile)
    element = k2 * array_um2 + turns * (693.633 + 45.9)
    tile = turns * 13411.41498 + 484.643999 + 0.7391 * 64 * 128 + per_tile * element + 433660
    area = tiles * tile + 0.7391 * 22 * (spikes + membranes)
    return energies, area, 104 * timesteps * clocks


@quick
@given(
    NETWORKS, st.sampled_from([8, 16, 64, 128]), st.integers(1, 9), st.integers(1, 6), st.sampled_from(["rram", "sram"])
)
def test_costs_are_the_pages_formulas_and_parts_add_up(layers, xbar, per_tile, timesteps, device):
    layers = [LayerShape(**{**vars(layer), "kernel": layers[0].kernel}) for layer in layers]
    cost = SpikeSimCost(layers, xbar, per_tile, timesteps, device)
    energies, area, latency = by_hand(layers, xbar, per_tile, timesteps, device)
    close(cost.energy_pj, energies)
    close(cost.area_um2, area)
    close(cost.latency_ns, latency)
    close(sum(cost.energy_parts().values()), sum(cost.energy_pj))
    close(sum(cost.area_parts().values()), cost.area_um2)
    close(sum(cost.cycle_pj(layers[0].kernel).values()) * np.array(cost.cycles), cost.energy_pj)
    assert list(cost.energy_parts()) == list(cost.cycle_pj())
    assert all(0 < share <= 1 for share in cost.used)


@quick
@given(NETWORKS, st.integers(1, 5), st.integers(2, 4))
def test_energy_and_latency_are_linear_in_time_and_area_does_not_know_it(layers, timesteps, factor):
    one, other = (SpikeSimCost(layers, timesteps=t) for t in (timesteps, factor * timesteps))
    close(other.energy_pj, factor * np.array(one.energy_pj))
    close(list(other.energy_parts().values()), factor * np.array(list(one.energy_parts().values())))
    close(other.latency_ns, factor * one.latency_ns)
    assert other.area_parts() == one.area_parts()


def test_a_small_kernel_costs_less_energy_and_shares_the_chips_area():
    layers = [LayerShape(64, 64, 8, 8, 3), LayerShape(64, 64, 8, 8, 1)]
    cost = SpikeSimCost(layers)
    difference = cost.energy_pj[0] - cost.energy_pj[1]
    assert difference == pytest.approx(64 * 5 * 8 * (9 - 1) * 1.76423)
    # Every PE is built for the largest kernel, that of one layer too.
    assert cost.area_parts()["arrays"] == pytest.approx(8 * 9 * 26.2144)
    assert cost.area_parts()["arrays"] == 9 * SpikeSimCost(layers[1:]).area_parts()["arrays"]


def test_layers_share_tiles_and_the_last_tile_may_be_partly_empty():
    small = LayerShape(64, 64)
    assert [SpikeSimCost([small] * n).tiles for n in (1, 7, 8, 9, 16)] == [1, 1, 1, 2, 2]
    cost = SpikeSimCost([LayerShape(64, 65), LayerShape(65, 130), LayerShape(1, 1)])
    assert cost.pes == [2, 6, 1] and cost.tiles == 2
    assert cost.used == pytest.approx([65 / 128, 65 * 130 / (6 * 4096), 1 / 4096])


def test_table_holds_a_row_a_layer_and_their_sums():
    cost = SpikeSimCost(VGG9)
    table = cost.table()
    assert len(table) == 8 and table.index[0] == "3 → 64, kernel 3, 32×32" and table.index[-1] == "total"
    rows, total = table.iloc[:-1], table.iloc[-1]
    assert rows["PEs"].tolist() == cost.pes and rows["arrays"].tolist() == [9 * pes for pes in cost.pes]
    assert rows["PE-cycles"].tolist() == cost.cycles
    close(rows["energy [nJ]"], np.array(cost.energy_pj) / 1e3)
    close(rows["cells used"], cost.used)
    for name in ("PEs", "arrays", "PE-cycles", "energy [nJ]"):
        assert total[name] == pytest.approx(rows[name].sum())
    cells = sum(layer.inputs * layer.outputs * 9 for layer in VGG9)
    assert total["cells used"] == pytest.approx(cells / (48 * 9 * 64**2))


# ------------------------------------------------------------------------------------------------ shapes of a network


class TwoPaths(nn.Module):
    """Layers that run in another order than they are named, one of them twice, one never."""

    def __init__(self):
        super().__init__()
        self.last, self.unused, self.first = nn.Linear(3, 3), nn.Linear(9, 9), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.last(self.first(x)))


def test_shapes_of_a_small_conv_net_and_of_an_mlp():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 5, stride=2, padding=2, bias=False),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    expected = [LayerShape(1, 4, 8, 8, 3), LayerShape(4, 6, 4, 2, 5), LayerShape(24, 10)]
    assert shapes_of(net, torch.zeros(2, 1, 8, 8)) == expected
    assert LayerShape(24, 10) == LayerShape(24, 10, 1, 1, 1)
    mlp = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2))
    assert shapes_of(mlp, torch.zeros(3, 7)) == [LayerShape(7, 5), LayerShape(5, 2)]
    assert not any(layer._forward_hooks for layer in net)


def test_shapes_come_in_the_order_in_which_layers_run_each_once():
    assert shapes_of(TwoPaths(), torch.zeros(1, 5)) == [LayerShape(5, 3), LayerShape(3, 3)]


def test_shapes_of_a_spiking_network_over_time():
    from helpers.neurons.networks import SpikingConvNet, SpikingMLP

    conv = [LayerShape(1, 16, 8, 8, 3), LayerShape(16, 32, 4, 4, 3), LayerShape(128, 10)]
    assert shapes_of(SpikingConvNet(8), torch.zeros(2, 1, 8, 8), 3) == conv
    assert shapes_of(SpikingMLP((6, 4, 2)), torch.zeros(2, 6), 3) == [LayerShape(6, 4), LayerShape(4, 2)]


def test_shapes_are_noted_without_a_trace():
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    net[2].eval()
    before, modes = {k: v.clone() for k, v in net.state_dict().items()}, [module.training for module in net.modules()]
    luck = torch.get_rng_state()
    assert shapes_of(net, torch.randn(1, 5, generator=torch.Generator().manual_seed(0))) == [
        LayerShape(5, 4),
        LayerShape(4, 2),
    ]  # one picture is enough: in train mode batch norm would want more
    with pytest.raises(RuntimeError):
        shapes_of(net, torch.zeros(2, 6))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), luck) and all(p.grad is None for p in net.parameters())


def test_hooks_are_gone_after_an_error_too():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        shapes_of(net, torch.zeros(1, 3))
    assert not any(layer._forward_hooks for layer in net)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "net, picture",
    [
        (nn.Conv2d(1, 2, (3, 1)), (1, 1, 8, 8)),
        (nn.Conv2d(1, 2, 3), (1, 1, 8, 6)),
        (nn.Conv2d(1, 2, 3, stride=(1, 2)), (1, 1, 8, 8)),
    ],
    ids=["kernel", "picture", "stride"],
)
def test_what_is_not_square_is_refused(net, picture):
    with pytest.raises(ValueError, match=r"kernel, input and output \(\d.*, but the cost model knows squares alone"):
        shapes_of(net, torch.zeros(picture))


def test_network_without_a_layer_that_runs_is_refused():
    with pytest.raises(
        ValueError, match="Sequential ran no linear layer and no convolution, so there is nothing to pl"
    ):
        shapes_of(nn.Sequential(nn.ReLU()), torch.zeros(1, 3))


@pytest.mark.parametrize("name", ["inputs", "outputs", "in_side", "out_side", "kernel"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_shapes_that_cannot_be_are_refused(name, value):
    good = {"inputs": 3, "outputs": 4, "in_side": 5, "out_side": 6, "kernel": 3}
    with pytest.raises(ValueError, match=f"{name} is {value!r}, but it must be a whole number of at least 1"):
        LayerShape(**{**good, name: value})


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"layers": []},
            "there are 0 layers, xbar is 64 and the device 'rram', but at least one layer, a multiple of 8",
        ),
        ({"xbar": 63}, "xbar is 63 and the device 'rram', but .* a multiple of 8"),
        ({"xbar": 4}, "xbar is 4, but it must be a whole number of at least 8"),
        ({"xbar": 64.0}, "xbar is 64.0, but it must be a whole number of at least 8"),
        ({"device": "pcm"}, "the device 'pcm', but .* one of rram, sram"),
        ({"pes_per_tile": 0}, "pes_per_tile is 0, but it must be a whole number of at least 1"),
        ({"timesteps": 0}, "timesteps is 0, but it must be a whole number of at least 1"),
        ({"timesteps": 2.5}, "timesteps is 2.5, but it must be a whole number of at least 1"),
        ({"membrane_layers": -1}, "membrane_layers is -1, but it must be a whole number of at least 0"),
        ({"membrane_layers": 2.5}, "membrane_layers is 2.5, but it must be a whole number of at least 0"),
        ({"membrane_layers": True}, "membrane_layers is True, but it must be a whole number of at least 0"),
    ],
)
def test_chips_that_cannot_be_are_refused(settings, message, refused):
    with refused(message):
        SpikeSimCost(**{"layers": VGG9, **settings})
