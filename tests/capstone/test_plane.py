"""Reading the plane: the front, single choices, pairs, price lists, budgets; and what the configurator says."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.capstone import configurator, figures, saving_figures
from helpers.capstone import plane as module
from helpers.capstone.bill import Part
from helpers.capstone.choices import Choices
from helpers.capstone.configurator import RATES, RUN, land
from helpers.capstone.networks import NETWORKS
from helpers.capstone.other_tasks import other_tasks
from helpers.capstone.pipeline import Result, known, plane
from helpers.capstone.plane import TABLES, agreement, budget, front, joint, order, priced, single_choices
from helpers.lab import ledger
from helpers.lab.technology import technology


def device(macs: float, right: int, **counts) -> Result:
    parts = {"network": Part("int8", macs=macs, **counts)}
    return Result(Choices(scenes=100), right, 100, parts, {}, (0, 0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 8)), min_size=1, max_size=14))
def test_nobody_on_the_front_is_dominated_and_all_others_are(points):
    results = [device(macs, right) for macs, right in points]
    line = front(results)

    def beats(a: Result, b: Result) -> bool:
        cheaper, better = a.pj() <= b.pj(), a.right >= b.right
        return cheaper and better and (a.pj() < b.pj() or a.right > b.right)

    assert not any(beats(a, b) for a in results for b in line)
    on = {(r.pj(), r.right) for r in line}
    assert all((r.pj(), r.right) in on or any(beats(a, r) for a in line) for r in results)
    assert all(a.pj() < b.pj() and a.right < b.right for a, b in itertools.pairwise(line))


def test_crossbars_are_on_no_front():
    chip = Result(Choices(bits=4, substrate="crossbar"), 500, 500, {}, {"ADCs": 1.0}, (0, 0))
    plain = device(5, 50)
    assert front([chip, plain]) == [plain] and priced([chip, plain]) == [plain]


def test_one_choice_is_measured_against_the_device():
    base = Choices("full", 1, "frames", "cnn", 4, 32)
    changes = {
        "8 bits": {"bits": 8},
        "nothing": {"sensing": "full"},
        "not here": {"substrate": "crossbar"},
        "words": {"network": "words", "representation": "words"},
    }
    found = single_choices(base, changes)
    assert list(found) == ["8 bits", "words"]
    before, after = known(base), known(base.but(bits=8))
    assert found["8 bits"] == (after.pj() / before.pj(), 100 * (after.accuracy - before.accuracy))


def test_pairs_fall_short_in_one_place_and_do_better_in_two():
    base = Choices("full", 1, "frames", "cnn", 4, 32)
    spikes, eight, monitor = {"network": "snn", "timesteps": 4}, {"bits": 8}, {"sensing": "monitor"}
    same, apart = joint(base, spikes, eight), joint(base, monitor, eight)
    assert same.product == same.first * same.second
    assert same.both > same.product and apart.both < apart.product
    energies = [sum(part.pj() for part in parts.values()) for parts in same.parts]
    assert np.allclose([e / energies[0] for e in energies[1:]], [same.first, same.second, same.both])
    net = joint(base, spikes, eight, "network")
    before, after = (known(base.but(**more)).parts["network"].pj() for more in ({}, {**spikes, **eight}))
    assert net.both == after / before and net.both > net.product
    assert same.accuracy[0] == known(base).accuracy and same.accuracy[3] == known(base.but(**spikes, **eight)).accuracy


@settings(max_examples=50, deadline=None)
@given(*[st.floats(0.01, 100)] * 2, *[st.floats(0.01, 1)] * 2)
def test_two_places_never_do_worse_than_the_product(a_part, b_part, a, b):
    whole = a_part + b_part
    product = (a * a_part + b_part) * (a_part + b * b_part) / whole
    assert a * a_part + b * b_part <= product + 1e-9
    assert math.isclose(product - (a * a_part + b * b_part), (1 - a) * (1 - b) * a_part * b_part / whole, abs_tol=1e-9)


def test_the_same_counts_under_three_lists():
    heavy = device(1000, 50)  # all arithmetic
    mover = device(0, 50, state_bits=2000)
    ranks = order([heavy, mover])
    assert list(ranks) == list(TABLES)
    assert ranks == {
        "45 nm, all in float32": [2, 1],  # 4,600 against 312 pJ
        "45 nm, integers where they do": [1, 2],  # 230 against 312
        "7 nm, integers where they do": [1, 2],  # 77 against 234
    }
    assert agreement([1, 2, 3], [1, 2, 3]) == 1 and agreement([1, 2, 3], [3, 2, 1]) == -1


def test_prices_never_mix_nodes():
    part = Part("int8", macs=3, acs=5, state_bits=64)
    for node in ("45nm", "7nm"):
        low, wide = technology(f"{node} int8"), technology(f"{node} float32")
        assert low.bit_pj == wide.bit_pj and low.source == wide.source
        assert math.isclose(part.pj(node), 3 * low.mac_pj + 5 * low.ac_pj + 64 * low.bit_pj)
        assert math.isclose(part.pj(node, "float32"), 3 * wide.mac_pj + 5 * wide.ac_pj + 64 * wide.bit_pj)
    assert technology("45nm int8").source != technology("7nm int8").source


def test_a_budget_is_judged_by_running(monkeypatch):
    asked = []

    def fake(again=False, **choices):
        asked.append(again)
        return device(1_000_000, 90)

    monkeypatch.setattr(module, "pipeline", fake)
    made = Choices(scenes=100)
    kept, said = budget(made, 230, 0.9)
    assert kept and said.startswith("✓ 230.0 nJ of 230") and "90.0%" in said and asked == [True]
    assert not budget(made, 229.9, 0.9)[0] and not budget(made, 230, 0.91)[0]
    with pytest.raises(ValueError, match="another technology"):
        budget(Choices(bits=4, substrate="crossbar"), 100, 0.5)


def test_the_configurator_lands_says_and_waits(monkeypatch):
    monkeypatch.setattr(configurator, "pipeline", lambda **_: pytest.fail("it ran unasked"))
    there = land(sensing="monitor", network="snn", bits=8)
    result = known(Choices())
    assert there.layout.title.text == str(Choices())
    said = there.layout.title.subtitle.text
    assert f"{result.accuracy:.1%}" in said and f"{result.pj() / 1e3:,.1f} nJ" in said and "years" in said
    stars = [trace for trace in there.data if trace.name == "your device"]
    assert stars[0].x == (result.pj() / 1e3,) and stars[0].y == (100 * result.accuracy,) and stars[1].x == (None,)

    waits = land(sensing="monitor", network="snn", bits=8, every=3)
    assert waits.layout.title.text == str(Choices(every=3)) and "about" in waits.layout.title.subtitle.text
    cannot = land(sensing="monitor", network="words")
    assert cannot.layout.title.text == "This device cannot be built"
    assert cannot.layout.title.subtitle.text.startswith("Words cannot read frames")


def test_the_configurator_runs_when_it_is_let(monkeypatch):
    ran = []

    def fake(**choices):
        ran.append(choices)
        return device(2e6, 70)

    monkeypatch.setattr(configurator, "pipeline", fake)
    figure = land(sensing="monitor", network="snn", bits=8, every=3, new=(RUN,))
    assert len(ran) == 1 and ran[0]["every"] == 3 and "70.0% of 100" in figure.layout.title.subtitle.text


def test_a_crossbar_lands_in_its_own_panel():
    figure = land(network="snn", bits=4, substrate="crossbar")
    stars = [trace for trace in figure.data if trace.name == "your device"]
    assert stars[0].x == (None,) and stars[1].x[0] > 0
    assert "never added" in figure.layout.title.subtitle.text


def test_years_follow_how_often_it_looks():
    said = {rate: land(network="small-cnn", rate=rate).layout.title.subtitle.text for rate in RATES}
    assert len(set(said.values())) == 3


def test_every_draw_has_the_same_traces():
    kinds = set()
    for choices in ({}, {"every": 5}, {"network": "words"}, {"bits": 4, "substrate": "crossbar"}):
        kinds.add(tuple((trace.type, trace.name) for trace in land(**choices).data))
    assert len(kinds) == 1


def test_the_plane_draws_every_device_once():
    results = plane()
    figure = figures.plane(results)
    clouds = [t for t in figure.data if t.mode == "markers" and t.name != "your device"]
    assert sum(len(trace.x) for trace in clouds) == len(results)
    line = next(trace for trace in figure.data if trace.name == "front")
    assert len(line.x) == len(front(results))
    families = list(itertools.chain(*figures.FAMILIES.values()))
    assert sorted(families) == sorted(NETWORKS)


def test_a_known_device_is_shown_at_once():
    land(network="cnn")
    begun = time.process_time()
    land(network="hybrid")
    assert time.process_time() - begun < 2  # a guard against running it; the 100 ms are the benchmark's


@pytest.mark.slow
def test_methods_on_their_own_tasks():
    methods = other_tasks()
    assert {m.measure for m in methods} >= {"perplexity", "Recall@1", "tracking error"}
    numbers = {f"{int(name[:2])}.{int(name.split('/')[1][:2])}" for name in ledger.lessons() if "/" in name}
    for method in methods:
        assert f"{int(method.lesson[:2])}.{int(method.lesson[3:])}" in numbers
        assert 0 < method.energy < 10 and len(method.quality) >= 5 and np.isfinite(method.quality).all()
    by_name = {m.name: m for m in methods}
    assert 0.45 < by_name["OS-Prompt"].energy < 0.55  # one pass for two
    assert by_name["GPTAQ, 3 bits"].energy > 3 / 32  # arithmetic stays
    figure = saving_figures.others(methods, "title", "said")
    assert len(figure.data[0].x) == len(methods) and figure.layout.xaxis.title.text and figure.layout.xaxis2.title.text


def test_figures_of_savings_say_what_they_are_given():
    both = joint(Choices("full", 1, "frames", "cnn", 4, 32), {"sensing": "monitor"}, {"bits": 8})
    figure = saving_figures.joints({"two places": ("a monitor", "8 bits", both)}, "title", "said")
    assert tuple(figure.data[0].y) == (both.first, both.second, both.product, both.both)
    rows = {"8 bits": (0.2, -1.0), "words": (1.5, 3.0)}
    figure = saving_figures.moves(rows, "title", "said")
    marked = [trace for trace in figure.data if trace.mode == "markers"]
    assert tuple(marked[0].x) == (0.2, 1.5) and tuple(marked[1].x) == (-1.0, 3.0)
    parts = known(Choices()).parts
    figure = saving_figures.bill(parts, "title", "said")
    drawn = sum(sum(trace.x) for trace in figure.data)
    assert math.isclose(1e3 * drawn, sum(part.pj() for part in parts.values()), rel_tol=1e-9)
    ranks = saving_figures.ranks({"a": [1, 2], "b": [2, 1], "c": [1, 2]}, ["one", "two"], "title", "said")
    assert [tuple(trace.y) for trace in ranks.data] == [(1, 2, 1), (2, 1, 2)]
