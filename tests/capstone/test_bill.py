"""The bill: counts of a meter, and their price, added up by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.capstone.bill import NODES, SECONDS_A_YEAR, SHORT, Part, total_pj, years
from helpers.lab.meter import Layer, Meter

quick = settings(max_examples=30, deadline=None, derandomize=True)
COUNTS = st.floats(0, 1e9)
# Energy of a multiply-accumulate, of an addition and of a bit, in pJ (the course's table of technologies).
PRICES = {
    ("45nm", "int8"): (0.23, 0.03, 10 / 64),
    ("45nm", "float32"): (4.6, 0.9, 10 / 64),
    ("7nm", "int8"): (0.077, 0.007, 7.5 / 64),
    ("7nm", "float32"): (1.69, 0.38, 7.5 / 64),
}


def meter():
    """Two scenes: a layer that multiplies, one of spikes, and neurons."""
    layers = [
        Layer("a", "conv", macs=600, additions=77, spikes=False, weight_bits=320, activation_bits=64, calls=1),
        Layer("b", "linear", macs=900, additions=50, spikes=True, weight_bits=80, activation_bits=12, calls=1),
        Layer("c", "neuron", state_bits=100, calls=2),
    ]
    return Meter(2, {layer.name: layer for layer in layers})


def test_a_part_has_the_sums_of_its_meter():
    part = Part.of(meter(), "int8")
    # Products of a, additions of b, for one scene; weights are read for one prediction at a time, whatever the batch.
    assert part == Part("int8", macs=300, acs=25, weight_bits=400, activation_bits=38, state_bits=50)
    assert part.bits == 488 == meter().memory_bits
    assert Part.of(Meter(3), "float32") == Part("float32") and Part("int8").bits == 0


@pytest.mark.parametrize("node, numbers", PRICES)
def test_a_part_of_a_meter_costs_what_the_meter_says(node, numbers):
    part, name = Part.of(meter(), numbers), f"{node} {numbers}"
    assert part.arithmetic_pj(node) == pytest.approx(meter().compute_pj(name))
    assert part.memory_pj(node) == pytest.approx(meter().memory_pj(name))


@quick
@given(st.sampled_from(list(PRICES)), COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_price_is_counts_times_prices(which, macs, acs, weights, activations, state):
    node, numbers = which
    part = Part(numbers, macs, acs, weights, activations, state)
    mac, ac, bit = PRICES[which]
    moved = weights + activations + state
    assert part.arithmetic_pj(node) == pytest.approx(macs * mac + acs * ac)
    assert part.memory_pj(node) == pytest.approx(moved * bit)
    assert part.pj(node) == pytest.approx(macs * mac + acs * ac + moved * bit)


def test_other_numbers_change_arithmetic_and_not_what_is_moved():
    part = Part("int8", macs=10, acs=100, weight_bits=64)
    assert part.pj() == pytest.approx(2.3 + 3 + 10) and part.pj("7nm") == pytest.approx(0.77 + 0.7 + 7.5)
    assert part.pj(numbers="float32") == pytest.approx(46 + 90 + 10)
    assert part.arithmetic_pj("7nm", "float32") == pytest.approx(16.9 + 38) and part.memory_pj() == 10


def test_the_total_is_the_sum_of_its_parts():
    parts = {"a": Part("int8", acs=100), "b": Part("float32", macs=2, state_bits=32)}
    assert total_pj(parts) == pytest.approx(3 + 9.2 + 5)
    assert total_pj(parts, "7nm") == pytest.approx(0.7 + 3.38 + 3.75)
    assert total_pj(parts, "45nm", "float32") == pytest.approx(90 + 9.2 + 5)
    assert total_pj(parts, numbers="int8") == pytest.approx(3 + 0.46 + 5) and total_pj({}) == 0


def test_constants_are_the_pages():
    assert NODES == ("45nm", "7nm") and SECONDS_A_YEAR == 31_557_600
    assert SHORT == {"look": "int8", "detect": "int8", "believe": "float32"}
    assert {f"{node} {numbers}" for node in NODES for numbers in set(SHORT.values())} == {
        " ".join(which) for which in PRICES
    }


def test_years_of_a_coin_cell_by_hand():
    # 2,430 J; a µJ a prediction and one in a second: 2.43e9 s, some 77 years.
    assert years(1e6, 1) == pytest.approx(2.43e9 / 31_557_600) and years(1e6, 1) == pytest.approx(77.0, abs=0.01)
    assert years(1e6, 10) == pytest.approx(years(1e7, 1)) == pytest.approx(years(1e6, 1) / 10)
    assert years(0, 3) == math.inf


@pytest.mark.parametrize("rate", [0, -1, -0.5, math.inf, -math.inf, math.nan])
def test_rates_that_cannot_be_are_refused(refused, rate):
    with refused(f"^there are {rate} predictions a second, but the rate must be above 0 and finite.$"):
        years(5.0, rate)


@pytest.mark.parametrize("node", ["5nm", "", "45 nm", None])
def test_unknown_nodes_are_refused(refused, node):
    for ask in (Part("int8", acs=1).pj, Part("int8").memory_pj, lambda n: total_pj({"a": Part("int8")}, n)):
        with refused(f"^technology is '{node} int8', but it must be one of 45nm float32, .*"):
            ask(node)
    with refused("^technology is '45nm int4', but it must be one of"):
        Part("int8").pj(numbers="int4")
