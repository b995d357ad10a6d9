"""What a window of training costs on crossbars: the page's figures, the formulas counted out, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware.training_cost import PARTS, REPORTED, savings, training_cost

quick = settings(max_examples=60, deadline=None, derandomize=True)
DIMS = st.lists(st.integers(1, 200), min_size=3, max_size=7).map(tuple)
STEPS, SIZES = st.integers(1, 40), st.sampled_from([1, 16, 64, 100])


def net(hidden):
    return (24, *[96] * hidden, 6)


def tiles(length, size):
    """How many pieces of `size` cover a length."""
    count = 0
    while count * size < length:
        count += 1
    return count


def counted(dims, steps, rule, size=64, stored=False):
    """Energy and delay by part, and area, as the page writes them, matrix by matrix, frame by frame, bit by bit."""
    layers = len(dims) - 1
    f = sum(tiles(dims[n - 1], size) * tiles(4 * dims[n], size) for n in range(1, layers + 1))
    b = sum(tiles(dims[n], size) * tiles(4 * dims[n - 1], size) for n in range(2, layers + 1))
    b_arrays = sum(tiles(dims[layers], size) * tiles(4 * dims[n], size) for n in range(1, layers))
    bits = 8
    energy, delay = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
    for _ in range(steps):
        energy["forward"] += f
        energy["backward"] += bits * b if rule == "bp" else 0
    if rule == "dfa":
        cells = bits * sum(4 * dims[n] * dims[layers] for n in range(1, layers)) / size**2
        energy["backward"] = bits * b_arrays if stored else cells
    energy["update"] = 0.005 * sum(4 * dims[n - 1] * dims[n] for n in range(1, layers + 1))
    delay["forward"] = (steps + layers - 1) * 8
    delay["backward"] = (steps + layers - 2) * bits * 8 if rule == "bp" else bits * 8
    delay["update"] = 4 * max(min(size, n) for n in dims)
    return energy, delay, f * 1.112 if rule == "bp" else f + b_arrays * stored


# ------------------------------------------------------------------------------------------------- the page's figures


@pytest.mark.parametrize(
    "hidden, steps, energy, latency",
    [
        (3, 4, 62.5, 1.85),
        (5, 4, 62.1, 2.14),
        (3, 8, 73, 2.4),
        (5, 8, 73, 2.7),
        (3, 16, 80, 3.3),
        (5, 16, 80, 3.5),
    ],
)
def test_savings_of_the_page(hidden, steps, energy, latency):
    found = savings(net(hidden), steps)
    assert 100 * found["energy"] == pytest.approx(energy, abs=0.05 if steps == 4 else 0.5)
    assert found["latency"] == pytest.approx(latency, abs=0.005 if steps == 4 else 0.05)
    assert 100 * found["area"] == pytest.approx(10.1, abs=0.05)
    assert list(found) == ["energy", "area", "latency"]


def test_what_the_paper_reports():
    assert REPORTED == {"energy": 0.641, "area": 0.101, "latency": 2.1}


# -------------------------------------------------------------------------------------------------------- the formulas


@quick
@given(DIMS, STEPS, st.sampled_from(["bp", "dfa"]), SIZES, st.booleans())
def test_costs_are_their_formulas(dims, steps, rule, size, stored):
    cost = training_cost(dims, steps, rule, size, stored=stored)
    energy, delay, area = counted(dims, steps, rule, size, stored)
    assert cost.energy == pytest.approx(energy) and cost.delay == pytest.approx(delay)
    assert list(cost.energy) == list(cost.delay) == list(PARTS) == ["forward", "backward", "update"]
    assert cost.area == pytest.approx(area)
    assert cost.totals == pytest.approx((sum(energy.values()), sum(delay.values()), area))


def test_the_lessons_network_by_hand():
    # 24 x 96 is 1 array down and 6 across; 96 x 96 is 2 and 6; 96 x 6 is 2 and 1. Turned round: 6 x 96 is 1 and 6.
    bp, dfa = (training_cost((24, 96, 96, 96, 6), 4, rule) for rule in ("bp", "dfa"))
    f, b, cells = 6 + 12 + 12 + 2, 12 + 12 + 6, 4 * (24 * 96 + 2 * 96 * 96 + 96 * 6)
    assert bp.energy == pytest.approx({"forward": 4 * f, "backward": 4 * 8 * b, "update": 0.005 * cells})
    assert dfa.energy == pytest.approx(bp.energy | {"backward": 8 * 4 * 3 * 96 * 6 / 4096})
    assert bp.delay == {"forward": 56, "backward": 384, "update": 256}
    assert dfa.delay == {"forward": 56, "backward": 64, "update": 256}
    assert bp.area == pytest.approx(35.584) and dfa.area == 32
    assert dfa == training_cost([24, 96, 96, 96, 6], 4, "dfa", 64, stored=False)
    # B in arrays of its own: 6 rows and 4 x 96 columns are 6 of them for each hidden layer.
    stored = training_cost((24, 96, 96, 96, 6), 4, "dfa", stored=True)
    assert stored.energy == pytest.approx(dfa.energy | {"backward": 8 * 18}) and stored.area == 32 + 18
    assert stored.delay == dfa.delay and bp == training_cost((24, 96, 96, 96, 6), 4, "bp", stored=True)


@pytest.mark.parametrize("dims, rows", [((60, 20, 5), 60), ((5, 20, 60), 60), ((5, 60, 20), 60), ((5, 90, 60), 64)])
def test_writing_takes_four_clocks_for_each_row_of_the_tallest_array(dims, rows):
    for rule in ("bp", "dfa"):
        assert training_cost(dims, 3, rule).delay["update"] == 4 * rows


@quick
@given(DIMS, STEPS, SIZES, st.booleans())
def test_savings_are_shares_and_a_quotient(dims, steps, size, stored):
    one, other = (counted(dims, steps, rule, size, stored) for rule in ("bp", "dfa"))
    (energy, delay), (less, sooner) = ([sum(part.values()) for part in cost[:2]] for cost in (one, other))
    found = savings(dims, steps, size, stored=stored)
    assert found["energy"] == pytest.approx(1 - less / energy) and found["latency"] == pytest.approx(delay / sooner)
    assert found["area"] == pytest.approx(1 - other[2] / one[2])
    assert savings(dims, steps, size)["area"] == pytest.approx(1 - 1 / 1.112)


# ------------------------------------------------------------------------------------------------------ what they say


@quick
@given(st.integers(1, 12), STEPS, SIZES)
def test_the_way_back_knows_depth_and_frames_by_one_rule_alone(hidden, steps, size):
    def back(hidden, steps, rule):
        return training_cost(net(hidden), steps, rule, size).delay["backward"]

    assert back(hidden, steps, "dfa") == back(hidden + 1, steps, "dfa") == back(hidden, steps + 1, "dfa") == 64
    assert back(hidden + 1, steps, "bp") - back(hidden, steps, "bp") == 64
    assert back(hidden, steps + 1, "bp") - back(hidden, steps, "bp") == 64
    assert back(1, 1, "bp") == 64  # one hidden layer, one frame: the same for both


@quick
@given(DIMS, STEPS, SIZES)
def test_rules_differ_on_the_way_back_alone(dims, steps, size):
    bp, dfa = (training_cost(dims, steps, rule, size) for rule in ("bp", "dfa"))
    for name in ("forward", "update"):
        assert bp.energy[name] == dfa.energy[name] and bp.delay[name] == dfa.delay[name]


@pytest.mark.parametrize("hidden", [1, 3, 5])
def test_more_frames_favour_direct_feedback(hidden):
    found = [savings(net(hidden), steps) for steps in (1, 2, 4, 8, 16, 32)]
    for name in ("energy", "latency"):
        values = [saved[name] for saved in found]
        assert values == sorted(values) and len(set(values)) == len(values)


def test_energy_of_direct_feedback_falls_with_the_outputs():
    costs = [training_cost((24, 96, 96, outputs), 4, "dfa").energy["backward"] for outputs in (3, 6, 12)]
    assert costs[1] == 2 * costs[0] and costs[2] == 4 * costs[0]


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("dims", [(), (24,), (24, 6)])
def test_no_hidden_layer_is_refused(dims, refused):
    for ask in (lambda: training_cost(dims, 4, "bp"), lambda: savings(dims, 4)):
        with refused(rf"dims is \({', '.join(map(str, dims))},?\) and rule 'bp', but at least one hidden layer"):
            ask()


@pytest.mark.parametrize("rule", ["DFA", "", None])
def test_an_unknown_rule_is_refused(rule, refused):
    with refused(rf"dims is \(24, 96, 6\) and rule {rule!r}, but .* one of bp, dfa are needed"):
        training_cost((24, 96, 6), 4, rule)


@pytest.mark.parametrize("value", [0, -2, 4.0, True, None])
def test_numbers_that_are_not_whole_are_refused(value, refused):
    for ask in (lambda *given: training_cost(*given[:2], "dfa", *given[2:]), savings):
        with refused(f"timesteps is {value!r}, but it must be a whole number of at least 1"):
            ask((24, 96, 6), value)
        with refused(f"size is {value!r}, but it must be a whole number of at least 1"):
            ask((24, 96, 6), 4, value)
        for place in range(3):
            dims = [24, 96, 6]
            dims[place] = value
            with refused(f"a width is {value!r}, but it must be a whole number of at least 1"):
                ask(dims, 4)
