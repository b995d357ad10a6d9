"""What reuse saves on crossbars: the page's figures, the formulas counted out, and what is refused."""

import math
import re
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hardware.attention_cost import (
    DEIT_S,
    LV_VIT_S,
    PARTS,
    REPORTED,
    VitShape,
    arrays,
    factors,
    reuse_cost,
    reuse_needed,
    select_reuse,
)

quick = settings(max_examples=40, deadline=None, derandomize=True)
SHAPES = st.builds(
    lambda depth, heads, width, tokens, mlp_ratio: VitShape(depth, heads * width, tokens, heads, mlp_ratio),
    *(st.integers(low, high) for low, high in ((1, 16), (1, 6), (2, 90), (1, 250), (1, 5))),
)
SIZES = st.sampled_from([16, 64, 100, 128])
RATIOS = st.sampled_from([None, 0.2, 0.5, 1, 1.3, 2, 2])
NAMES = ("energy", "delay", "area")
REUSE = st.integers(0, 15)


def tiles(length, size):
    """How many pieces of `size` cover a length."""
    count = 0
    while count * size < length:
        count += 1
    return count


def one_encoder(shape, reuses, ratio, size):
    """Energy, delay and area by part of one encoder, as the page writes them."""
    n, d, h = shape.tokens, shape.dim, shape.heads

    def xb(inputs, outputs):
        return tiles(inputs, size) * tiles(4 * outputs, size)

    u, perceptron = n * 8 * 8, xb(d, shape.mlp_ratio * d) + xb(shape.mlp_ratio * d, d)
    found = {"perceptron": (perceptron * 8 * n, 2 * u, perceptron)}
    if reuses:
        inside = round(d / ratio) if ratio is not None else 0
        block = xb(d, inside) + xb(inside, d) if inside else 0
        found["transformation"] = (8 * n * block, 2 * u if inside else 0, block)
    else:
        static, dynamic = 4 * xb(d, d), 2 * h * tiles(d / h, size) * tiles(8 * n, size)
        energy = static * 8 * n * 1 + dynamic * (8 * n * 1.2 + n * 8 * 0.5)
        found["attention"] = (energy, 4 * u + n + n**2 * h / 16, static * 1 + dynamic * 2)
    return found


def counted(shape, reuse, ratio, size=64):
    """{quantity: {part: sum over encoders}}, encoder by encoder."""
    totals = {name: dict.fromkeys(PARTS, 0) for name in NAMES}
    for i in range(shape.depth):
        for part, values in one_encoder(shape, i in reuse, ratio, size).items():
            for name, value in zip(NAMES, values, strict=True):
                totals[name][part] += value
    return totals


def allowed(shape, reused):
    return min(reused, shape.depth - 1)


def share(shape, reused, ratio=2.0):
    return reuse_cost(shape, reused, ratio).totals[1] / reuse_cost(shape, 0, ratio).totals[1]


# ------------------------------------------------------------------------------------------------- the page's figures


@pytest.mark.parametrize(
    "shape, reused, edap, density",
    [
        (DEIT_S, 6, 2.09, 1.65),
        (DEIT_S, 7, 2.41, 1.82),
        (LV_VIT_S, 8, 2.09, 1.65),
        (LV_VIT_S, 9, 2.32, 1.77),
    ],
)
def test_gains_of_the_papers_networks(shape, reused, edap, density):
    found = factors(shape, reused)
    assert found["EDAP"] == pytest.approx(edap, abs=0.005) and found["TOPS/mm²"] == pytest.approx(density, abs=0.005)


def test_attentions_shares_of_deit_s():
    cost = reuse_cost(DEIT_S, 0)
    for name, percent in (("delay", 72), ("area", 51), ("energy", 49)):
        parts = getattr(cost, name)
        assert 100 * parts["attention"] / sum(parts.values()) == pytest.approx(percent, abs=0.5)


def test_the_papers_networks():
    assert vars(DEIT_S) == {"depth": 12, "dim": 384, "tokens": 197, "heads": 6, "mlp_ratio": 4}
    assert vars(LV_VIT_S) == {**vars(DEIT_S), "depth": 16}
    assert REPORTED == {"DeiT-S": (2.3, 1.86), "LV-ViT-S": (2.19, 1.79)}


def test_each_factor_of_edap_is_about_1_32():
    assert all(factors(DEIT_S, 7)[name] == pytest.approx(1.34, abs=0.02) for name in NAMES)
    assert 2.3 ** (1 / 3) == pytest.approx(1.32, abs=0.005)


# ---------------------------------------------------------------------------------------------------------- the formulas


@quick
@given(SHAPES, REUSE, RATIOS, SIZES)
def test_costs_are_their_formulas_encoder_by_encoder(shape, reused, ratio, size):
    reused = allowed(shape, reused)
    cost = reuse_cost(shape, reused, ratio, size)
    expected = counted(shape, set(range(1, reused + 1)), ratio, size)
    for name in NAMES:
        assert list(getattr(cost, name)) == list(PARTS) and getattr(cost, name) == pytest.approx(expected[name])
    totals = [sum(expected[name].values()) for name in NAMES]
    assert cost.totals == pytest.approx(totals) and cost.edap == pytest.approx(math.prod(totals))
    assert cost.depth == shape.depth


def test_deit_s_by_hand():
    # Six arrays down and 24 across a matrix; 64-wide heads; 1576 columns of dynamic operands are 25 arrays.
    cost = reuse_cost(DEIT_S, 7)
    static, dynamic, perceptron, block = 4 * 6 * 24, 2 * 6 * 1 * 25, 6 * 96 + 24 * 24, 6 * 12 + 3 * 24
    assert cost.area == {"attention": 5 * (static + 2 * dynamic), "perceptron": 12 * perceptron, "transformation": 1008}
    assert block == 144 and cost.energy["transformation"] == 7 * 8 * 197 * block
    assert cost.energy["attention"] == pytest.approx(5 * 1576 * (static + 1.7 * dynamic))
    assert cost.delay["attention"] == 5 * (4 * 12608 + 197 + 197**2 * 6 / 16)
    assert cost.delay["perceptron"] == 12 * 25216 and cost.delay["transformation"] == 7 * 25216


@quick
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([1, 16, 64, 100]))
def test_arrays_hold_every_cell_and_none_is_empty(inputs, outputs, size):
    rows, columns = {row // size for row in range(inputs)}, {cell // size for cell in range(4 * outputs)}
    assert arrays(inputs, outputs, size) == len(rows) * len(columns)
    assert arrays(inputs, outputs, size) * size**2 >= 4 * inputs * outputs


@quick
@given(SHAPES)
def test_operations_are_those_of_the_matrix_products(shape):
    n, d, h = shape.tokens, shape.dim, shape.heads
    products = [(n, d, d)] * 4 + [(n, d // h, n), (n, n, d // h)] * h
    products += [(n, d, shape.mlp_ratio * d), (n, shape.mlp_ratio * d, d)]
    assert shape.operations == 2 * shape.depth * sum(a * b * c for a, b, c in products)


@quick
@given(SHAPES, REUSE, RATIOS)
def test_useful_work_is_the_plain_networks_for_every_set(shape, reused, ratio):
    cost = reuse_cost(shape, allowed(shape, reused), ratio)
    _, delay, area = cost.totals
    assert cost.operations == shape.operations
    assert cost.density == pytest.approx(shape.operations / (delay * area))


# ---------------------------------------------------------------------------------------------------------- what is gained


@quick
@given(SHAPES, SIZES)
def test_energy_delay_and_area_fall_with_every_encoder_that_reuses(shape, size):
    for ratio in (2, None):
        totals = [reuse_cost(shape, reused, ratio, size).totals for reused in range(shape.depth)]
        for before, after in zip(totals, totals[1:], strict=False):
            assert all(b < a for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("reused", range(1, 12))
def test_a_wide_block_costs_more_energy_and_area_than_it_saves_but_never_delay(reused):
    def gain(ratio):
        return factors(DEIT_S, reused, ratio)

    assert gain(0.265)["energy"] < 1 < gain(0.275)["energy"]
    assert gain(0.245)["area"] < 1 < gain(0.255)["area"]
    assert gain(0.2)["energy"] < 1 and gain(0.2)["area"] < 1
    ratios = [0.05 * 1.2**step for step in range(30)]
    for name in ("energy", "area"):
        values = [gain(ratio)[name] for ratio in ratios]
        assert values == sorted(values) and len(set(values)) > 10
    assert len({gain(ratio)["delay"] for ratio in ratios}) == 1 and gain(0.05)["delay"] > 1
    # The model reports the increase: it grows with every encoder that reuses.
    assert reuse_cost(DEIT_S, reused, 0.2).totals[0] > reuse_cost(DEIT_S, reused - 1, 0.2).totals[0]
    assert reuse_cost(DEIT_S, reused, 0.2).totals[2] > reuse_cost(DEIT_S, reused - 1, 0.2).totals[2]


@quick
@given(SHAPES, st.data())
def test_costs_know_the_number_alone(shape, data):
    reuse = data.draw(st.sets(st.integers(1, shape.depth - 1)) if shape.depth > 1 else st.just(set()))
    expected = counted(shape, reuse, 2.0)
    cost = reuse_cost(shape, len(reuse))
    assert all(getattr(cost, name) == pytest.approx(expected[name]) for name in NAMES)


@quick
@given(SHAPES, REUSE, RATIOS, SIZES)
def test_factors_are_quotients_and_edaps_is_their_product(shape, reused, ratio, size):
    reused = allowed(shape, reused)
    found = factors(shape, reused, ratio, size)
    assert list(found) == [*NAMES, "EDAP", "TOPS/mm²"]
    plain, ours = (counted(shape, set(range(1, r + 1)), ratio, size) for r in (0, reused))
    for name in NAMES:
        assert found[name] == pytest.approx(sum(plain[name].values()) / sum(ours[name].values()))
    assert found["EDAP"] == pytest.approx(found["energy"] * found["delay"] * found["area"])
    assert found["TOPS/mm²"] == pytest.approx(found["delay"] * found["area"])


@quick
@given(SHAPES, RATIOS, SIZES)
def test_nothing_reused_gains_nothing(shape, ratio, size):
    assert set(factors(shape, 0, ratio, size).values()) == {1.0}
    assert reuse_cost(shape, 0, ratio, size) == reuse_cost(shape, 0, None, size)


@quick
@given(SHAPES, REUSE)
def test_a_copy_costs_nothing_and_gains_most(shape, reused):
    reused = allowed(shape, reused)
    copied, block = reuse_cost(shape, reused, None), reuse_cost(shape, reused)
    assert all(getattr(copied, name)["transformation"] == 0 for name in NAMES)
    for name in NAMES:
        assert getattr(copied, name)["attention"] == getattr(block, name)["attention"]
    assert not reused or all(a < b for a, b in zip(copied.totals, block.totals, strict=True))


# ----------------------------------------------------------------------------------------------------- how many, and which


@quick
@given(SHAPES, st.floats(0.2, 1.2), st.sampled_from([2.0, 0.2, None]))
def test_the_smallest_number_that_reaches_the_target(shape, target, ratio):
    enough = [reused for reused in range(shape.depth) if share(shape, reused, ratio) <= target]
    if enough:
        assert reuse_needed(shape, target, ratio) == enough[0]
    else:
        with pytest.raises(ValueError, match="all encoders but the first reusing"):
            reuse_needed(shape, target, ratio)


@pytest.mark.parametrize("shape", [DEIT_S, LV_VIT_S, VitShape(6, 24, 17, 4), VitShape(1, 4, 2, 2)], ids=str)
@pytest.mark.parametrize("ratio", [2.0, None])
def test_a_target_that_is_just_reached_is_reached(shape, ratio):
    for reused in range(shape.depth):
        exactly = share(shape, reused, ratio)
        assert reuse_needed(shape, exactly, ratio) == reused
        if reused:
            assert reuse_needed(shape, math.nextafter(share(shape, reused - 1, ratio), 0), ratio) == reused


def test_targets_of_the_lesson():
    assert reuse_needed(DEIT_S, 0.75) == 7 and reuse_needed(DEIT_S, 0.75, None) == 5
    assert reuse_needed(DEIT_S, 1) == reuse_needed(DEIT_S, 2.5) == 0
    assert reuse_needed(DEIT_S, 0.75, size=16) == 7  # clocks do not know how large an array is


@pytest.mark.parametrize("target", [0.59, 0.0, -1.0, math.nan])
def test_a_target_out_of_reach_is_refused_with_the_least_there_is(refused, target):
    with refused(f"the delay target is {target:g} of the plain network's, but .* it is 0.595: ask for that or more"):
        reuse_needed(DEIT_S, target)


@pytest.mark.parametrize(
    "shape, ratio",
    [
        (DEIT_S, 2.0),
        (LV_VIT_S, 2.0),
        (DEIT_S, None),
    ],
    ids=["DeiT-S", "LV-ViT-S", "DeiT-S by copy"],
)
def test_the_target_that_a_refusal_offers_can_be_had(shape, ratio):
    with pytest.raises(ValueError) as caught:
        reuse_needed(shape, 0.1, ratio)
    offered = float(re.search(r"it is (\d\.\d+): ask for that or more", str(caught.value))[1])
    assert offered == pytest.approx(share(shape, shape.depth - 1, ratio), abs=1.1e-3)
    assert reuse_needed(shape, offered, ratio) == shape.depth - 1


@quick
@given(st.lists(st.floats(0, 10), min_size=11, max_size=11, unique=True), st.floats(0.6, 1.1))
def test_the_least_sensitive_are_selected_as_few_as_needed(losses, target):
    sensitivity = dict(zip(range(1, 12), losses, strict=True))
    asked = []

    def needed(value):
        asked.append(value)
        return reuse_needed(DEIT_S, value)

    chosen = select_reuse(sensitivity, needed, target)
    count = reuse_needed(DEIT_S, target)
    assert asked == [target] and len(chosen) == count and chosen == sorted(set(chosen))
    left = set(sensitivity) - set(chosen)
    assert all(sensitivity[i] < sensitivity[j] for i in chosen for j in left)


def test_selection_by_hand():
    sensitivity = {3: 0.1, 1: 0.9, 4: 0.05, 2: 0.4, 5: 0.3}
    for count, expected in enumerate(([], [4], [3, 4], [3, 4, 5], [2, 3, 4, 5], [1, 2, 3, 4, 5])):
        assert select_reuse(sensitivity, lambda _target, count=count: count, 0.5) == expected
    late = {i: -i for i in range(1, 12)}
    assert select_reuse(late, partial(reuse_needed, DEIT_S), 0.75) == [5, 6, 7, 8, 9, 10, 11]
    assert select_reuse({}, partial(reuse_needed, DEIT_S), 1.0) == []


def test_too_few_encoders_to_select_from_are_refused(refused):
    with refused("the target needs 7 encoders to reuse, but sensitivities are given for 2"):
        select_reuse({1: 0.1, 2: 0.2}, partial(reuse_needed, DEIT_S), 0.75)
    with refused("sensitivities are given for 0"):
        select_reuse({}, partial(reuse_needed, DEIT_S), 0.99)
    with refused("but with all encoders but the first reusing it is 0.595"):
        select_reuse({i: 0.0 for i in range(1, 12)}, partial(reuse_needed, DEIT_S), 0.5)


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["depth", "dim", "tokens", "heads", "mlp_ratio"])
@pytest.mark.parametrize("value", [0, -2, 1.5, 12.0, True, "4", None])
def test_shapes_that_are_none_are_refused(refused, name, value):
    with refused(f"{name} is {value!r}, but it must be a whole number of at least 1"):
        VitShape(**{**vars(DEIT_S), name: value})


@pytest.mark.parametrize("dim, heads", [(384, 5), (3, 6), (25, 4)])
def test_heads_that_do_not_divide_the_width_are_refused(refused, dim, heads):
    with refused(f"dim is {dim} and heads is {heads}, but dim must be a multiple of heads"):
        VitShape(12, dim, 197, heads)


@pytest.mark.parametrize("reused", [-1, 12, 1.0, True, None])
def test_more_than_can_reuse_is_refused(refused, reused):
    for ask in (reuse_cost, factors):
        with refused(rf"reused is {reused!r}, but it must be a whole number in \[0, 11\]"):
            ask(DEIT_S, reused)


@pytest.mark.parametrize("ratio", [0, -0.5, 384.1, math.inf, math.nan])
def test_a_ratio_that_leaves_no_neuron_is_refused(refused, ratio):
    for ask in (reuse_cost, factors):
        for reused in (0, 3):
            with refused(f"ratio is {ratio}, but it must be above 0 and leave at least 1 of 384 neurons inside"):
                ask(DEIT_S, reused, ratio)
    assert reuse_cost(DEIT_S, 1, 384).area["transformation"] == 6 * 1 + 1 * 24


@pytest.mark.parametrize("size", [0, -64, 64.0])
def test_arrays_of_no_size_are_refused(refused, size):
    with refused(f"size is {size!r}, but"):
        reuse_cost(DEIT_S, 1, size=size)
    with refused(f"size is {size!r}, but"):
        reuse_needed(DEIT_S, 0.9, size=size)
