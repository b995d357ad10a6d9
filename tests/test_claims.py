"""The claim ledger: every verdict is recomputed from the recorded value of every seed."""

import json
import statistics

import pytest

from helpers import ROOT
from helpers.lab import ledger, parameters

CLAIMS = list(ledger.claims().values())


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_the_recorded_seeds_give_the_expected_verdict(claim):
    results = ledger.recorded(claim.lesson, claim.profile)
    assert results, f"no recorded results: course report {claim.lesson} --record"
    assert tuple(results["seeds"]) == claim.seeds
    values = results["values"][claim.id]
    assert len(values) == len(claim.seeds)
    assert ("holds" if claim.holds(values) else "does not hold") == claim.expected


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_is_well_formed(claim):
    assert claim.lesson in ledger.planned()
    assert claim.statistic in ("mean", "every seed", "nine in ten") and claim.comparison in ledger.COMPARISONS
    assert claim.expected in ("holds", "does not hold") and claim.slack > 0
    assert set(claim.independent_of) <= set(parameters.declared(claim.lesson))


def test_claims_of_one_profile_share_their_seeds():
    seeds = {}
    for claim in CLAIMS:
        assert seeds.setdefault((claim.lesson, claim.profile), claim.seeds) == claim.seeds, claim.id


def test_every_written_lesson_with_a_paper_has_a_claim():
    claimed = {claim.lesson for claim in CLAIMS}
    assert [name for name, lesson in ledger.lessons().items() if lesson.paper and name not in claimed] == []


def test_recorded_results_say_how_they_were_made():
    for lesson in ledger.lessons():
        for profile in ("quick", "full"):
            if results := ledger.recorded(lesson, profile):
                assert {"command", "date", "machine", "versions", "parameters"} <= set(results)
                assert all(len(values) == len(results["seeds"]) for values in results["values"].values())


def test_no_setting_of_the_study_was_a_candidate_as_lesson_05_2_says():
    """The rule of course/studies.md: 1.5 points in the mean, and every seed above 0."""
    study = json.loads((ROOT / "course" / "results" / "studies" / "joint_over_lora.json").read_text(encoding="utf-8"))
    assert sorted(study) == ["more pictures", "more prompts", "omniglot", "wider"]
    for name, entry in study.items():
        gaps = [100 * (a - b) for a, b in zip(entry["joint"], entry["LoRA"], strict=True)]
        assert entry["seeds"] == [30, 31, 32] and len(gaps) == 3
        assert not (statistics.fmean(gaps) >= 1.5 and min(gaps) > 0), name
