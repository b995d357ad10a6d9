"""Verdicts recomputed from every seed, and the texts that a lesson shows beside them."""

import math

import nbformat.v4 as nb
import numpy as np
import pytest

from helpers.lab import claims as claims_module
from helpers.lab import ledger
from helpers.lab.claims import MIME, ClaimRow, ClaimTable, Record, Recorded, results
from helpers.lab.ledger import Claim
from helpers.lab.parameters import declared
from helpers.lab.run import Run

VALUES = {"timesteps": 8, "beta": 0.9, "dataset": "digits", "profile": "quick", "seed": 0}


@pytest.fixture
def claim(clone):
    return lambda **changes: Claim(**{**clone.CLAIM, "seeds": (0, 1, 2), **changes})


@pytest.fixture
def run(clone):
    clone.claims({})
    lesson = clone.lesson()
    return Run(lesson, dict(VALUES), declared(lesson))


# Verdicts


@pytest.mark.parametrize(
    ("comparison", "statistic", "values", "verdict"),
    [
        ("<=", "mean", [40, 50, 59], True),
        ("<=", "mean", [40, 50, 61], False),
        ("<=", "mean", [50], True),
        (">=", "mean", [40, 50, 61], True),
        (">=", "mean", [40, 50, 59], False),
        ("<=", "every seed", [40, 50, 51], False),
        ("<=", "every seed", [40, 50, 50], True),
        (">=", "every seed", [49, 90, 90], False),
    ],
)
def test_verdict_by_hand(claim, comparison, statistic, values, verdict):
    # The threshold is 50.
    assert claim(comparison=comparison, statistic=statistic).holds(values) is verdict


def test_no_values_are_no_verdict(claim):
    with pytest.raises(ValueError, match="a-claim has no recorded values.*--record"):
        claim().holds([])


def test_band_is_three_deviations_wide(claim):
    # Mean 10, deviation 2.
    assert claim(slack=1.0).band([8, 10, 12]) == (4, 16)


def test_band_is_at_least_the_slack(claim):
    assert claim(slack=7.0).band([8, 10, 12]) == (3, 17)
    assert claim(slack=0.5).band([10]) == (9.5, 10.5)


# Files


def test_claims_are_read_from_their_file(clone):
    clone.claims({}, {"id": "other", "threshold": 2.0})
    claims = ledger.claims()
    assert list(claims) == ["a-claim", "other"] and claims["other"].threshold == 2
    assert claims["a-claim"].seeds == (0, 1, 2) and claims["a-claim"].lesson == clone.LESSON


def test_recorded_is_none_without_a_file(clone):
    assert ledger.recorded(clone.LESSON) is None


def test_recorded_is_none_for_another_profile(clone):
    clone.results({"a-claim": [1, 2, 3]}, {})
    assert ledger.recorded(clone.LESSON, "full") is None
    assert ledger.recorded(clone.LESSON, "quick")["values"] == {"a-claim": [1, 2, 3]}


CHAPTERS = """
[[chapter]]
title = "Part"
[[chapter.lesson]]
name = "01_part/01_lesson"
title = "A lesson"
promise = "It teaches."
hook = "Why?"
minutes = 20
needs = ["00_start"]
second = { timesteps = 4 }
[[chapter.lesson]]
name = "01_part/02_planned"
title = "On its way"
promise = "It will."
hook = "When?"
minutes = 10
"""


def test_lessons_are_those_with_a_notebook_in_course_order(clone):
    clone.lesson()
    (clone.root / "course").mkdir()
    (clone.root / "course/chapters.toml").write_text(CHAPTERS)
    assert list(ledger.planned()) == ["01_part/01_lesson", "01_part/02_planned"]
    (lesson,) = ledger.lessons().values()
    assert (lesson.chapter, lesson.minutes) == ("Part", 20)
    assert (lesson.needs, dict(lesson.second)) == (("00_start",), {"timesteps": 4})


# What a lesson shows


def test_claim_without_records_is_not_judged(run):
    row = run.claim("a-claim", 42.123)
    assert (row.this_run, row.verdict) == ("42.1 %", "not recorded yet") and row.cells()[3] == "–"


def test_a_claim_that_this_run_does_not_measure_keeps_its_recorded_verdict(clone, run):
    clone.results({"a-claim": [38, 40, 42]}, VALUES)
    row = run.claim("a-claim", None)
    assert (row.this_run, row.verdict) == ("not run here", "holds")
    assert row._repr_mimebundle_()[MIME] == {} and run.claims(a_claim=None)._repr_mimebundle_()[MIME] == {}


def test_claim_with_records_shows_mean_deviation_and_seeds(clone, run):
    clone.results({"a-claim": [38, 40, 42]}, VALUES)
    says, test, this_run, recorded, verdict = run.claim("a-claim", 41).cells()
    assert says == "Spikes <save> energy."
    assert test == "Half of it is saved. Judged: energy ratio, mean, ≤ 50 %."
    # Inside 40 ± 3·2.
    assert (this_run, recorded, verdict) == ("41 %", "40 ± 2 % (3 seeds)", "holds")


def test_verdict_is_the_recorded_seeds_not_this_runs(clone, run):
    clone.results({"a-claim": [60, 61, 62]}, VALUES)
    assert run.claim("a-claim", 1).verdict == "does not hold"


@pytest.mark.parametrize(("measured", "outside"), [(34, False), (46, False), (33.9, True), (46.1, True)])
def test_a_run_outside_the_recorded_band_says_so(clone, run, measured, outside):
    clone.results({"a-claim": [38, 40, 42]}, VALUES)
    assert ("(outside the recorded band 34 to 46)" in run.claim("a-claim", measured).this_run) is outside


@pytest.mark.parametrize(("change", "comparable"), [({"beta": 0.5}, False), ({"seed": 7}, True)], ids=["beta", "seed"])
def test_other_parameters_than_the_recorded_are_said_and_no_band_is(clone, run, change, comparable):
    clone.results({"a-claim": [38, 40, 42]}, VALUES)
    run.values.update(change)
    text = run.claim("a-claim", 99).this_run
    assert ("other parameters than the recorded runs" in text) is not comparable
    assert ("outside" in text) is comparable


def test_a_parameter_that_the_measure_does_not_depend_on_may_differ(clone, run):
    clone.claims({"independent_of": ["beta"]})
    clone.results({"a-claim": [38, 40, 42]}, VALUES)
    run.values.update(beta=0.5)
    assert run.claim("a-claim", 41).this_run == "41 %"


def test_one_recorded_seed_has_no_spread(clone, run):
    clone.results({"a-claim": [40]}, VALUES, seeds=[0])
    assert run.claim("a-claim", 40).cells()[3] == "40 % (1 seeds)"


@pytest.mark.parametrize("name", ["nope", "foreign"])
def test_claim_of_no_or_another_lesson_lists_this_ones(clone, run, name):
    clone.claims({}, {"id": "foreign", "lesson": "other/lesson"})
    with pytest.raises(ValueError, match=f"'{name}' is no claim of 01_part/01_lesson: it must be one of a-claim"):
        run.claim(name, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_figures_that_are_no_numbers_are_refused(run, value):
    with pytest.raises(ValueError, match="only finite numbers"):
        run.claim("a-claim", value)
    with pytest.raises(ValueError, match="only finite numbers"):
        run.record(curve=[1.0, value])


def test_several_claims_are_one_table(clone, run):
    clone.claims({}, {"id": "other"})
    table = run.claims(a_claim=1.0, other=2)
    assert [row.claim.id for row in table.rows] == ["a-claim", "other"]
    assert table._repr_mimebundle_()[MIME] == {"a-claim": 1, "other": 2}


def test_html_shows_texts_as_texts_and_verdicts_with_a_sign(claim):
    good, bad = (ClaimRow(claim(), 1.0, Recorded([value], [0]), True) for value in (1.0, 99.0))
    page = ClaimTable([good, bad, ClaimRow(claim(), 1.0, None, False)])._repr_mimebundle_()["text/html"]
    assert "Spikes &lt;save&gt; energy." in page and page.count("<tr>") == 4
    assert "✓ holds" in page and "✗ does not hold" in page and ">not recorded yet<" in page


# Figures


def test_record_keeps_plain_numbers_of_any_kind(run):
    bundle = run.record(a=np.float32(0.5), b=[1, np.int64(2)], c=np.eye(2), d=3)._repr_mimebundle_()
    assert bundle[MIME] == {"a": 0.5, "b": [1, 2], "c": [[1, 0], [0, 1]], "d": 3}
    assert bundle["text/plain"] == "kept for the record: a, b, c, d"


def test_recorded_gives_mean_and_deviation_over_seeds(clone, run):
    clone.results({"figure": [1, 3], "curve": [[1, 5], [3, 5]]}, VALUES, seeds=[0, 1])
    figure, curve = run.recorded("figure"), run.recorded("curve")
    assert figure.mean == 2 and figure.std == pytest.approx(2**0.5) and str(figure) == "2 ± 1.4 over 2 seeds"
    assert curve.mean.tolist() == [2, 5]
    assert run.recorded("nothing") is None


def test_results_are_read_back_from_a_notebook(claim):
    row = ClaimRow(claim(), 4.5, None, False)
    outputs = [
        nb.new_output("display_data", data=row._repr_mimebundle_()),
        nb.new_output("execute_result", data=Record({"curve": [1, 2]})._repr_mimebundle_()),
        nb.new_output("stream", text="nothing"),
        nb.new_output("display_data", data={"text/plain": "nothing"}),
    ]
    notebook = nb.new_notebook(cells=[nb.new_markdown_cell("x"), nb.new_code_cell("y", outputs=outputs)])
    assert results(notebook) == {"a-claim": 4.5, "curve": [1, 2]}


def test_mime_name_is_ours():
    assert claims_module.MIME.startswith("application/vnd.") and claims_module.MIME.endswith("+json")


@pytest.mark.parametrize(
    ("comparison", "values", "verdict"),
    [
        ("<=", [50] * 9 + [51], True),
        ("<=", [50] * 8 + [51] * 2, False),
        (">=", [50] * 9 + [-1e9], True),  # how far off the tenth is, is no matter
        (">=", [50] * 8 + [49, 49], False),
        ("<=", [40] * 18 + [60] * 2, True),
        ("<=", [40] * 17 + [60] * 3, False),
        ("<=", [40] * 10 + [60], True),
        ("<=", [40] * 9 + [60] * 2, False),
        ("<=", [40] * 8 + [60], False),  # eight of nine are fewer than nine in ten
        ("<=", [40], True),
        ("<=", [60], False),
    ],
)
def test_verdict_over_nine_in_ten_by_hand(claim, comparison, values, verdict):
    # The threshold is 50.
    assert claim(comparison=comparison, statistic="nine in ten").holds(values) is verdict


@pytest.mark.parametrize("tens", range(1, 101))
def test_exactly_nine_in_ten_is_enough_whatever_their_number(claim, tens):
    judge = claim(comparison="<=", statistic="nine in ten")
    assert judge.holds([40] * (9 * tens) + [60] * tens)
    assert not judge.holds([40] * (9 * tens - 1) + [60] * (tens + 1))


def test_nine_in_ten_of_nothing_is_no_verdict(claim):
    with pytest.raises(ValueError, match="a-claim has no recorded values"):
        claim(statistic="nine in ten").holds([])
