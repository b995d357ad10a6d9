"""Four designs: the page's table worked out a layer at a time, its figures, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware.dataflows import (
    BOUNDS,
    DESIGNS,
    NAMES,
    NETWORKS,
    PAPER_BEST,
    PAPER_SPEEDUP,
    REPORTED,
    REPORTED_ACCURACY,
    REPORTED_STRONG,
    AcceleratorConfig,
    Workload,
    conv,
    simulate,
    speedups,
)

quick = settings(max_examples=40, deadline=None, derandomize=True)
SIZES = st.tuples(
    st.integers(1, 60) | st.sampled_from([64, 1024]),
    st.integers(1, 400) | st.sampled_from([576, 4608]),
    st.integers(1, 80) | st.sampled_from([256, 512, 1000]),
)
CONFIGS = st.just(AcceleratorConfig()) | st.builds(
    AcceleratorConfig,
    units=st.sampled_from([4, 16, 24]),
    chunk=st.sampled_from([64, 128]),
    adders=st.sampled_from([8, 16]),
    cache=st.sampled_from([2**12, 2**18, 2**24]),
    sram_rate=st.sampled_from([1.0, 128.0]),
    dram_rate=st.sampled_from([1.0, 160.0]),
    clock_hz=st.sampled_from([1e8, 8e8]),
    watt=st.sampled_from([0.1, 0.1889]),
    dram_pj_bit=st.sampled_from([1.0, 3.9]),
    radix=st.sampled_from([16, 64]),
)
SHARE = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1).map(lambda value: round(value, 4))


@st.composite
def workloads(draw, steps=None):
    """Shares that spikes can have, over T steps: those that fire do so 1 to T times."""
    t = steps or draw(st.integers(1, 16))
    silent, place = draw(SHARE), draw(SHARE)
    least, most = 1 - silent, t * (1 - silent)
    return Workload(1 - (least + place * (most - least)) / t, silent, draw(SHARE), t)


def up(x):
    return math.ceil(x)


def bits(count):
    """Bits that tell `count` things apart."""
    return (count - 1).bit_length()


def by_the_page(layer, s, z, w, t, design, c):
    """Compute cycles, bytes on the chip and bytes off it of one layer, row by row of the page's table."""
    m, k, n = layer
    d_a, d_p, d_b = 1 - s, 1 - z, 1 - w
    p, n_ch, groups = c.units, up(k / c.chunk), up(m / c.units)
    nonzero = k * n * d_b
    mask_b = k * n / 8 + nonzero + 4 * n
    csr_b = nonzero * (1 + bits(n) / 8) + 4 * k
    additions = t * m * k * n * d_a * d_b
    outputs = m * n * t / 8
    in_a_chunk = min(c.chunk, k)

    def chunk_cycles(mean):
        return mean + math.exp(-mean)

    def fetched(row):
        return 1 if mask_b + p * row <= c.cache else groups

    if design == "loas":
        cycles = (m * n / p) * n_ch * chunk_cycles(in_a_chunk * d_p * d_b) + c.chunk / c.adders * groups
        packed = m * k / 8 + m * k * d_p * t / 8 + 4 * m
        sram = mask_b * groups + m * k / 8 + (m * k * n * d_p * d_b) * t / 8
        return cycles, sram, mask_b * fetched(packed / m) + packed + outputs
    if design == "sparten":
        cycles = t * (m * n / p) * n_ch * chunk_cycles(in_a_chunk * d_a * d_b)
        masks = t * m * k / 8 + 4 * m * t
        return cycles, t * mask_b * groups + t * m * k * n / 8, mask_b * fetched(masks / m) + masks + outputs
    if design == "gospa":
        a = t * m * k * d_a * bits(m) / 8 + 4 * k * t
        spill = 2 * max(0, 2 * m * n * t - c.cache) * n_ch
        return 2 * additions / p, 4 * additions + a + t * csr_b, a + csr_b + outputs + spill
    a = t * m * k * d_a * bits(k) / 8 + 4 * m * t
    extra = t * m * up(k * d_a / c.radix) * n * (1 - (1 - d_b) ** c.radix) if k * d_a > c.radix else 0
    sram = t * m * k * d_a * (csr_b / k) + 8 * extra + a
    return (additions + extra) / p, sram, a + csr_b + outputs


def checked(found, place, layer, shares, t, c):
    """One layer of a simulation is what the page says."""
    compute, sram, dram = by_the_page(layer, *shares, t, found.design, c)
    waits = [compute, sram / c.sram_rate, dram / c.dram_rate]
    time = max(waits)
    assert [found.cycles[bound][place] for bound in BOUNDS] == pytest.approx(waits, rel=1e-9, abs=1e-9)
    assert found.sram[place] == pytest.approx(sram, rel=1e-9) and found.dram[place] == pytest.approx(dram, rel=1e-9)
    assert found.time[place] == pytest.approx(time, rel=1e-9)
    assert found.joules[place] == pytest.approx(c.watt * time / c.clock_hz + 8 * dram * c.dram_pj_bit * 1e-12, rel=1e-9)
    assert waits[BOUNDS.index(found.bound[place])] == pytest.approx(time, rel=1e-9)


# --------------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("design", DESIGNS)
@quick
@given(SIZES, workloads(), CONFIGS)
def test_a_layer_takes_what_the_pages_table_says(design, layer, workload, config):
    # ⌈K·d_A/radix⌉ may fall on either side of a whole number, by a rounding.
    edge = layer[1] * (1 - workload.spike_sparsity) / config.radix
    if abs(edge - round(edge)) < 1e-9:
        return
    found = simulate([layer], workload, design, config)
    assert found.design == design and list(found.cycles) == list(BOUNDS)
    shares = workload.spike_sparsity, workload.silent, workload.weight_sparsity
    checked(found, 0, layer, shares, workload.timesteps, config)


@pytest.mark.parametrize("design", DESIGNS)
@quick
@given(st.lists(st.tuples(SIZES, workloads(4)), min_size=2, max_size=3))
def test_arrays_of_sparsities_are_single_layers_one_by_one(design, network):
    layers = [layer for layer, _ in network]
    fields = ("spike_sparsity", "silent", "weight_sparsity")
    together = Workload(*(np.array([getattr(each, name) for _, each in network]) for name in fields), 4)
    found = simulate(layers, together, design)
    for place, (layer, alone) in enumerate(network):
        one = simulate([layer], alone, design)
        assert [found.time[place], found.sram[place], found.dram[place], found.joules[place]] == pytest.approx(
            [one.time[0], one.sram[0], one.dram[0], one.joules[0]], rel=1e-12
        )
        assert found.bound[place] == one.bound[0]
        assert [found.cycles[b][place] for b in BOUNDS] == pytest.approx([one.cycles[b][0] for b in BOUNDS], rel=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
def test_one_workload_is_for_every_layer(design):
    shares = REPORTED["ResNet19"]
    found = simulate(NETWORKS["ResNet19"], shares, design)
    for place, layer in enumerate(NETWORKS["ResNet19"]):
        s, z, w = shares.spike_sparsity, shares.silent, shares.weight_sparsity
        checked(found, place, layer, (s, z, w), 4, AcceleratorConfig())


def test_loas_and_sparten_by_hand():
    # 16 rows of 256 places, 8 columns, half of the weights; all neurons fire in all of two steps: 64 matches a chunk.
    workload = Workload(0.0, 0.0, 0.5, 2)
    loas, sparten = (simulate([(16, 256, 8)], workload, each) for each in ("loas", "sparten"))
    assert loas.cycles["compute"] == pytest.approx([8 * 2 * 64 + 8])
    assert sparten.cycles["compute"] == pytest.approx([2 * 8 * 2 * 64])
    b = 256 + 1024 + 32
    assert loas.sram == pytest.approx([b + 512 + 16 * 256 * 8 / 2 * 2 / 8])
    assert loas.dram == pytest.approx([b + 512 + 1024 + 64 + 32])
    assert sparten.sram == pytest.approx([2 * b + 2 * 16 * 256 * 8 / 8])
    assert sparten.dram == pytest.approx([b + 1024 + 128 + 32])


def test_weights_that_do_not_stay_are_fetched_for_every_group_of_rows():
    workload = Workload(0.5, 0.5, 0.0, 1)
    layer = (64, 1024, 256)
    b = 1024 * 256 / 8 + 1024 * 256 + 4 * 256
    row = 1024 / 8 + 512 / 8 + 4
    for cache, times in ((b + 16 * row, 1), (b + 16 * row - 1, 4)):
        found = simulate([layer], workload, "loas", AcceleratorConfig(cache=cache))
        assert found.dram == pytest.approx([times * b + 64 * row + 64 * 256 / 8])


def test_hardware_of_the_paper():
    assert vars(AcceleratorConfig()) == {
        "units": 16,
        "chunk": 128,
        "adders": 16,
        "cache": 262144,
        "sram_rate": 128,
        "dram_rate": 160,
        "clock_hz": 8e8,
        "watt": 0.1889,
        "dram_pj_bit": 3.9,
        "radix": 64,
    }


# -------------------------------------------------------------------------------------------------------------- properties


def waits(layer, s, z, w, t, design):
    found = simulate([layer], Workload(s, z, w, t), design)
    return [found.cycles[bound][0] for bound in BOUNDS]


def between(low, high, place):
    return low + place * (high - low)


@pytest.mark.parametrize("design", DESIGNS)
@quick
@given(SIZES, st.integers(1, 16), SHARE, SHARE, SHARE, st.tuples(SHARE, SHARE).map(sorted))
def test_no_sparsity_costs_cycles(design, layer, t, z, place, w, pair):
    s = between(z, 1 - (1 - z) / t, place)
    less, more = pair
    least = max(0, 1 - t * (1 - s))
    changes = [
        [(between(z, 1 - (1 - z) / t, x), z, w) for x in (less, more)],
        [(s, between(least, s, x), w) for x in (less, more)],
        [(s, z, x) for x in (less, more)],
    ]
    for before, after in changes:
        for slow, fast in zip(waits(layer, *before, t, design), waits(layer, *after, t, design), strict=True):
            assert fast <= slow * (1 + 1e-9) + 1e-9


@quick
@given(SIZES, workloads(1), CONFIGS)
def test_with_one_step_loas_computes_as_long_as_sparten_up_to_its_drain(layer, workload, config):
    loas, sparten = (simulate([layer], workload, each, config).cycles["compute"][0] for each in ("loas", "sparten"))
    drain = config.chunk / config.adders * math.ceil(layer[0] / config.units)
    assert loas - drain == pytest.approx(sparten, rel=1e-9, abs=1e-6)


@quick
@given(workloads(4), st.sampled_from(sorted(NETWORKS)))
def test_speedups_are_sums_of_times_over_loas(workload, network):
    found = speedups(NETWORKS[network], workload)
    total = {each: sum(simulate(NETWORKS[network], workload, each).time) for each in DESIGNS}
    assert list(found) == ["sparten", "gospa", "gamma"]
    assert all(found[each] == pytest.approx(total[each] / total["loas"]) for each in found)


def test_speedups_are_those_of_the_hardware_that_is_given():
    slow = AcceleratorConfig(units=4, dram_rate=10.0)
    layers, shares = NETWORKS["VGG16"], REPORTED["VGG16"]
    expected = simulate(layers, shares, "gospa", slow).time.sum() / simulate(layers, shares, "loas", slow).time.sum()
    assert speedups(layers, shares, slow)["gospa"] == pytest.approx(expected) != speedups(layers, shares)["gospa"]


def test_densities_are_what_is_left():
    assert Workload(0.8, 0.7, 0.9).densities == pytest.approx((0.2, 0.3, 0.1))
    assert Workload(0.8, 0.7, 0.9).timesteps == 4
    d_a, d_p, d_b = Workload([0.8, 0.6], [0.7, 0.5], 0.9).densities
    assert d_a == pytest.approx([0.2, 0.4]) and d_p == pytest.approx([0.3, 0.5]) and d_b == pytest.approx(0.1)


# ------------------------------------------------------------------------------------------------------- the page's figures

SPEEDUPS = {"AlexNet": (7.13, 2.78, 2.33), "VGG16": (7.45, 2.74, 2.30), "ResNet19": (4.76, 5.46, 3.99)}


def totals(network, design, **shares):
    workload = Workload(**{**vars(REPORTED[network]), **shares})
    found = simulate(NETWORKS[network], workload, design)
    return found.time.sum(), found.sram.sum(), found.joules.sum()


def test_networks_of_the_paper():
    assert {name: len(layers) for name, layers in NETWORKS.items()} == {"AlexNet": 4, "VGG16": 12, "ResNet19": 19}
    assert NETWORKS["AlexNet"] == [(64, 576, 192), (16, 1728, 384), (16, 3456, 256), (16, 2304, 256)]
    assert NETWORKS["VGG16"] == [
        *[(1024, 576, 64), (256, 576, 128), (256, 1152, 128), (64, 1152, 256), *[(64, 2304, 256)] * 2],
        *[(16, 2304, 512), *[(16, 4608, 512)] * 2, *[(4, 4608, 512)] * 3],
    ]
    assert NETWORKS["ResNet19"] == [
        *[(256, 576, 128), (256, 1152, 128), (256, 64, 128), *[(256, 1152, 128)] * 4],
        *[(64, 1152, 256), (64, 2304, 256), (64, 128, 256), *[(64, 2304, 256)] * 4],
        *[(16, 2304, 512), (16, 4608, 512), (16, 256, 512), *[(16, 4608, 512)] * 2],
    ]
    assert conv(7, 5, 11) == (49, 45, 11) and conv(7, 5, 11, 1) == (49, 5, 11)


def test_table_ii_of_the_paper():
    found = {name: tuple(vars(shares).values()) for name, shares in REPORTED.items()}
    assert found == {
        "AlexNet": (0.81195, 0.712559, 0.982635, 4),
        "VGG16": (0.82325, 0.740898, 0.982279, 4),
        "ResNet19": (0.686667, 0.595935, 0.96914, 4),
    }
    assert REPORTED_STRONG == {"AlexNet": 0.766834, "VGG16": 0.79581, "ResNet19": 0.660811}
    assert REPORTED_ACCURACY == {"VGG16": (91.3, 90.6, 91.2), "ResNet19": (90.5, 89.3, 90.6)}
    assert PAPER_SPEEDUP == {"sparten": 6.79, "gospa": 5.99, "gamma": 3.25}
    assert PAPER_BEST == {"speedup": 8.51, "energy": 3.68}
    assert list(NAMES) == list(DESIGNS) and NAMES["loas"] == "LoAS"


@pytest.mark.parametrize("network, expected", SPEEDUPS.items())
def test_speedups_on_the_papers_networks(network, expected):
    found = speedups(NETWORKS[network], REPORTED[network])
    assert list(found.values()) == pytest.approx(expected, abs=0.006)
    assert min(found.values()) > 1  # LoAS is the fastest everywhere


def test_mean_speedups_and_what_does_not_hold():
    found = {name: speedups(NETWORKS[name], REPORTED[name]) for name in NETWORKS}
    mean = [np.mean([values[each] for values in found.values()]) for each in DESIGNS[1:]]
    assert mean == pytest.approx([6.45, 3.66, 2.87], abs=0.006) and mean == sorted(mean, reverse=True)
    assert found["ResNet19"]["gospa"] > found["ResNet19"]["sparten"]  # not so in the paper


@pytest.mark.parametrize("network, expected", [("AlexNet", 3.06), ("VGG16", 3.29), ("ResNet19", 3.14)])
def test_energy_beside_sparten(network, expected):
    ratio = totals(network, "sparten")[2] / totals(network, "loas")[2]
    assert ratio == pytest.approx(expected, abs=0.006) and ratio < PAPER_BEST["energy"]


@pytest.mark.parametrize("network, expected", [("AlexNet", 4.7), ("VGG16", 4.6), ("ResNet19", 12)])
def test_rare_neurons_dropped_make_loas_faster(network, expected):
    gain = totals(network, "loas")[0] / totals(network, "loas", silent=REPORTED_STRONG[network])[0] - 1
    assert 100 * gain == pytest.approx(expected, abs=0.5 if expected == 12 else 0.05)


def test_fewer_pruned_weights_cost_most_of_the_speed():
    lost = 1 - totals("VGG16", "loas", weight_sparsity=0.982)[0] / totals("VGG16", "loas", weight_sparsity=0.25)[0]
    assert 100 * lost == pytest.approx(95, abs=0.5)


def test_traffic_on_the_chip_is_a_small_part_of_spartens():
    ratios = [totals(network, "sparten")[1] / totals(network, "loas")[1] for network in NETWORKS]
    assert min(ratios) == pytest.approx(32, abs=0.5) and max(ratios) == pytest.approx(45, abs=0.5)


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["spike_sparsity", "silent", "weight_sparsity"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_sparsities_that_are_none_are_refused(refused, name, value):
    with refused(rf"{name} is {value}, but a sparsity lies in \[0, 1\]"):
        Workload(**{**vars(REPORTED["VGG16"]), name: value})


def test_one_bad_layer_of_many_is_refused():
    with pytest.raises(ValueError, match=r"weight_sparsity is .*1\.2.* a sparsity lies in \[0, 1\]"):
        Workload(0.8, 0.7, np.array([0.9, 1.2]))
    with pytest.raises(ValueError, match=r"silent is .*0\.9.* but it must lie between .* and the spike_sparsity"):
        Workload(np.array([0.8, 0.8]), np.array([0.7, 0.9]), 0.9)


@pytest.mark.parametrize("s, z, t", [(0.8, 0.81, 4), (0.8, 0.19, 4), (0.0, 0.1, 4), (1.0, 0.9, 4), (0.5, 0.4, 1)])
def test_silent_shares_that_no_spikes_have_are_refused(refused, s, z, t):
    said = f"silent is {z} with a spike_sparsity of {s} over {t} timesteps, but it must lie between"
    with refused(f"{said} .* and the spike_sparsity: a neuron that fires does so 1 to {t} times"):
        Workload(s, z, 0.9, t)


@pytest.mark.parametrize("s, z, t", [(0.8, 0.8, 4), (0.8, 0.2, 4), (0.0, 0.0, 4), (1.0, 1.0, 4), (0.3, 0.3, 1)])
def test_silent_shares_at_the_ends_are_allowed(s, z, t):
    assert simulate([(4, 8, 4)], Workload(s, z, 0.9, t), "loas").time > 0


@pytest.mark.parametrize("steps", [0, -4, 1.5, True, None])
def test_timesteps_that_are_none_are_refused(refused, steps):
    with refused(f"timesteps is {steps}, but it must be a whole number of at least 1"):
        Workload(0.8, 0.7, 0.9, steps)


def test_unknown_designs_and_no_layers_are_refused(refused):
    shares = REPORTED["VGG16"]
    with refused("design is 'eyeriss' for 1 layers, but one of loas, sparten, gospa, gamma and a layer are needed"):
        simulate([(4, 4, 4)], shares, "eyeriss")
    with refused("design is 'loas' for 0 layers, but one of"):
        simulate([], shares, "loas")


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [0, -3, 2.0, True])
def test_sizes_that_are_none_are_refused(refused, place, value):
    layer = [4, 4, 4]
    layer[place] = value
    with refused(f"a layer's M, K or N is {value!r}, but it must be a whole number of at least 1"):
        simulate([(4, 4, 4), tuple(layer)], REPORTED["VGG16"], "gamma")
