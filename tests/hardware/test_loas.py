"""Words of spikes and the join: the authors' vectors, exact sums by every way of counting, and what is refused."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import max_pool2d

from helpers.hardware.dataflows import NETWORKS, REPORTED, REPORTED_STRONG, AcceleratorConfig, simulate
from helpers.hardware.loas import (
    drop_rare,
    exact_cycles,
    ftp_matmul,
    inner_join_trace,
    pack_spikes,
    silent_stats,
    stored_bits,
    unpack,
)
from helpers.hardware.spike_counts import sample_workload, spike_count_pmf
from helpers.neurons.lif import multistep_lif

quick = settings(max_examples=40, deadline=None, derandomize=True)
STEPS, SEEDS = st.integers(1, 8), st.integers(0, 10**6)
DENSITIES = st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0])


def drawn(t, m, k, density, seed=0, silent=0.3):
    """Spikes [T, M, K], uint8; some neurons never fire, whatever the density of the others."""
    random = np.random.default_rng(seed)
    fired = (random.random((t, m, k)) < density) & (random.random((m, k)) >= (silent if density < 1 else 0))
    return torch.from_numpy(fired.astype(np.uint8))


def weighed(k, n, density, seed=0, largest=127):
    """Weights [K, N], int16, some of them zero."""
    random = np.random.default_rng(seed + 1)
    return torch.from_numpy(
        (random.integers(-largest, largest + 1, (k, n)) * (random.random((k, n)) < density)).astype(np.int16)
    )


SPIKES = st.builds(drawn, STEPS, st.integers(1, 6), st.integers(1, 40), DENSITIES, SEEDS)


@pytest.fixture(scope="module")
def authors():
    """Arrays by name, made by the authors' code."""
    with np.load(Path(__file__).parents[1] / "golden" / "loas.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


# ---------------------------------------------------------------------------------------------------- the authors' vectors


def test_shares_of_the_authors_profiler(authors):
    found = silent_stats(authors["spikes"])
    assert list(found) == ["spike_sparsity", "silent", "silent_strong"]
    for name, share in found.items():
        assert round(100 * share, 4) == pytest.approx(float(authors[f"{name}_pct"]), abs=1e-9)
    zeros = (authors["weights"] == 0).double().mean()
    assert round(100 * float(zeros), 4) == pytest.approx(float(authors["weight_sparsity_pct"]), abs=1e-9)


@pytest.mark.parametrize("least, name", [(0, "normal"), (1, "normal"), (2, "strong")])
def test_counts_of_the_authors_packer(authors, least, name):
    kept = drop_rare(authors["spikes"], least)
    assert torch.equal(kept.sum(0).to(torch.uint8), authors[f"packed_count_{name}"])
    assert torch.equal(pack_spikes(kept).bitmask, authors[f"packed_count_{name}"] > 0)


def test_product_is_the_dense_one_of_the_authors(authors):
    found = ftp_matmul(pack_spikes(authors["spikes"]), authors["weights"])
    assert found.dtype == torch.int64 and torch.equal(found, authors["O"].long())


@pytest.mark.parametrize("mask, least", [(0, 0), (0, 1), (1, 2), (2, 3)])
def test_the_authors_neuron_with_rare_ones_dropped(authors, mask, least):
    steps, tau = int(authors["T"]), float(authors["lif_tau"])
    current = authors["lif_in"].unflatten(0, (steps, -1))  # time major
    assert tau == pytest.approx(4 / 3)
    spikes, _ = multistep_lif(current, 0.25, input_scale=0.75, reset="zero", fire_at_threshold=True)
    expected = authors[f"lif_spikes_mask{mask}"].unflatten(0, (steps, -1))
    assert torch.equal(drop_rare(spikes, least), expected.to(spikes.dtype))


# ------------------------------------------------------------------------------------------------------------------- words


@quick
@given(SPIKES)
def test_words_come_back_as_the_spikes_that_they_were(spikes):
    packed = pack_spikes(spikes)
    assert unpack(packed).dtype == packed.words.dtype == torch.uint8 and packed.bitmask.dtype == torch.bool
    assert torch.equal(unpack(packed), spikes) and packed.timesteps == len(spikes)
    assert int((packed.words == 0).sum()) == 0  # a silent one has none


@quick
@given(SPIKES)
def test_a_row_finds_its_words_by_its_pointers(spikes):
    packed = pack_spikes(spikes)
    pointers = packed.pointers.tolist()
    assert len(pointers) == spikes.shape[1] + 1 and pointers[0] == 0 and pointers[-1] == len(packed.words)
    for row in range(spikes.shape[1]):
        words = [sum(2**t for t, s in enumerate(column) if s) for column in spikes[:, row].T.tolist()]
        assert packed.words[pointers[row] : pointers[row + 1]].tolist() == [word for word in words if word]
        assert packed.bitmask[row].tolist() == [word > 0 for word in words]


def test_words_by_hand():
    spikes = torch.tensor([[[0, 1, 0, 1]], [[0, 1, 0, 0]], [[0, 1, 1, 0]]])
    packed = pack_spikes(spikes)
    assert packed.words.tolist() == [7, 4, 1] and packed.bitmask.tolist() == [[False, True, True, True]]
    assert packed.bits == 4 + 3 * 3 + 32


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32, torch.float64, torch.bool])
def test_every_type_of_spikes_is_packed_alike(kind):
    spikes = drawn(8, 3, 20, 0.4)
    ours, other = pack_spikes(spikes), pack_spikes(spikes.to(kind))
    assert torch.equal(ours.words, other.words) and torch.equal(ours.bitmask, other.bitmask)


@quick
@given(SPIKES)
def test_what_is_stored_is_counted_bit_by_bit(spikes):
    t, m, k = spikes.shape
    fired = spikes.tolist()
    silent = sum(not any(fired[s][row][i] for s in range(t)) for row in range(m) for i in range(k))
    address = 1
    while 2**address < k:
        address += 1
    words = sum(1 + t for _ in range(m * k - silent)) + silent + 32 * m
    assert pack_spikes(spikes).bits == words
    assert stored_bits(spikes) == {
        "packed words": words,
        "positions, each step": address * int(spikes.sum()) + 32 * t * m,
        "bitmask, each step": t * m * k,
    }


@quick
@given(SPIKES)
def test_words_are_no_rarer_than_spikes_and_at_most_t_times_as_many(spikes):
    packed, stats = pack_spikes(spikes), silent_stats(spikes)
    dense, words = float(spikes.double().mean()), float(packed.bitmask.double().mean())
    assert dense - 1e-12 <= words <= min(1, len(spikes) * dense) + 1e-12
    assert stats["spike_sparsity"] == pytest.approx(1 - dense) and stats["silent"] == pytest.approx(1 - words)


# --------------------------------------------------------------------------------------------------------- rare neurons


@quick
@given(SPIKES, st.integers(0, 9))
def test_dropped_neurons_are_silent_and_the_others_untouched(spikes, least):
    kept = drop_rare(spikes, least)
    assert kept.dtype == spikes.dtype and kept.shape == spikes.shape
    for row in range(spikes.shape[1]):
        for neuron in range(spikes.shape[2]):
            before, after = spikes[:, row, neuron], kept[:, row, neuron]
            assert torch.equal(after, before if int(before.sum()) >= least else torch.zeros_like(before))


@quick
@given(SPIKES)
def test_masked_spikes_hold_no_neuron_that_fires_once(spikes):
    stats, kept = silent_stats(spikes), silent_stats(drop_rare(spikes, 2))
    counts = spikes.long().sum(0)
    assert stats["silent_strong"] == pytest.approx(float((counts < 2).double().mean()))
    assert stats["silent"] <= stats["silent_strong"]
    assert kept["silent"] == kept["silent_strong"] == stats["silent_strong"]
    assert not (drop_rare(spikes, 2).long().sum(0) == 1).any()


def test_pooling_before_dropping_is_not_dropping_before_pooling():
    # Two neighbours fire once each, at different steps: their maximum fires twice.
    spikes = torch.zeros(4, 1, 1, 2, 2)
    spikes[0, 0, 0, 0, 0] = spikes[2, 0, 0, 1, 1] = 1

    def pooled(x):
        return max_pool2d(x.flatten(0, 1), 2).unflatten(0, (4, 1))

    assert drop_rare(pooled(spikes), 2).sum() == 2 and pooled(drop_rare(spikes, 2)).sum() == 0


# ------------------------------------------------------------------------------------------------------------- the product


@quick
@given(SPIKES, st.integers(1, 6), st.sampled_from([0.0, 0.1, 1.0]), SEEDS)
def test_product_of_words_is_the_dense_product_exactly(spikes, outputs, density, seed):
    weights = weighed(spikes.shape[2], outputs, density, seed)
    found, pseudo, taken = ftp_matmul(pack_spikes(spikes), weights, return_parts=True)
    a, b = spikes.numpy().astype(np.int64), weights.numpy().astype(np.int64)
    assert np.array_equal(found.numpy(), np.einsum("tmk,kn->tmn", a, b))
    any_fired = a.any(0)
    assert np.array_equal(pseudo.numpy(), any_fired.astype(np.int64) @ b)
    assert np.array_equal(taken.numpy(), np.einsum("tmk,kn->tmn", (any_fired & (a == 0)).astype(np.int64), b))
    assert torch.equal(found, pseudo - taken) and found.dtype == pseudo.dtype == taken.dtype == torch.int64
    assert torch.equal(found, ftp_matmul(pack_spikes(spikes), weights))


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_full_empty_and_partly_empty_rows(steps):
    weights = weighed(70, 5, 0.5)
    full, empty = torch.ones(steps, 3, 70), torch.zeros(steps, 3, 70)
    found, pseudo, taken = ftp_matmul(pack_spikes(full), weights, return_parts=True)
    assert torch.equal(found, weights.long().sum(0).expand(steps, 3, 5)) and not taken.any()
    assert torch.equal(pseudo, weights.long().sum(0).expand(3, 5))
    assert all(not part.any() for part in ftp_matmul(pack_spikes(empty), weights, return_parts=True))
    full[:, 1] = 0
    found = ftp_matmul(pack_spikes(full), weights)
    assert not found[:, 1].any() and torch.equal(found[:, 2], weights.long().sum(0).expand(steps, 5))


def test_large_weights_stay_exact():
    # 2^30 + 1 is no float32, and neither is a sum of a thousand of them.
    weights = torch.full((1000, 1), 2**30 + 1, dtype=torch.int64)
    spikes = torch.ones(2, 1, 1000, dtype=torch.uint8)
    spikes[1, 0, 0] = 0
    assert ftp_matmul(pack_spikes(spikes), weights).flatten().tolist() == [1000 * (2**30 + 1), 999 * (2**30 + 1)]


# ----------------------------------------------------------------------------------------------------------------- the join


@quick
@given(STEPS, st.integers(1, 128), DENSITIES, st.sampled_from([0.1, 0.5, 1.0]), st.sampled_from([1, 3, 16, 200]), SEEDS)
def test_a_joined_row_says_when_each_match_is_read_and_known(steps, width, density, weights, adders, seed):
    spikes, column = drawn(steps, 1, width, density, seed)[:, 0], weighed(width, 1, weights, seed)[:, 0]
    words = (spikes.long() * 2 ** torch.arange(steps)[:, None]).sum(0)
    trace = inner_join_trace(words, column, steps, adders)
    assert list(trace.columns) == ["position", "weight", "word", "read", "arrives", "corrects"]
    matches = [k for k in range(width) if words[k] and column[k]]
    assert list(trace["position"]) == matches and list(trace["read"]) == list(range(1, len(matches) + 1))
    assert len(matches) <= min(int((words > 0).sum()), int((column != 0).sum()))
    for row in trace.itertuples():
        assert row.weight == int(column[row.position]) and row.word == int(words[row.position])
        # The slow sum has passed `adders` more positions at the end of each cycle; nobody is asked before being read.
        cycle = 1
        while cycle * adders <= row.position or cycle < row.read:
            cycle += 1
        assert row.arrives == cycle
        assert row.corrects == tuple(t for t in range(steps) if spikes[t, row.position] == 0)
        assert len(row.corrects) < steps
    pseudo = sum(trace["weight"])
    for t in range(steps):
        taken = sum(row.weight for row in trace.itertuples() if t in row.corrects)
        assert pseudo - taken == int(spikes[t].long() @ column.long())


def test_sixteen_adders_need_eight_cycles_for_a_chunk():
    last = torch.zeros(128, dtype=torch.int64)
    last[[0, 15, 16, 127]] = 1
    trace = inner_join_trace(last, torch.ones(128, dtype=torch.int16), 1)
    assert list(trace["arrives"]) == [1, 2, 3, 8] and list(trace["read"]) == [1, 2, 3, 4]


def test_a_join_without_a_match_is_empty():
    assert len(inner_join_trace(torch.tensor([0, 3]), torch.tensor([1, 0]), 2)) == 0
    assert len(inner_join_trace(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2)) == 0


# ---------------------------------------------------------------------------------------------------------- cycles, counted


def naive(rows, columns, units, chunk, barrier):
    """Cycles of [rows][K] joined with [columns][K], one chunk after the other."""
    needed = []
    for row in rows:
        needed.append([])
        for column in columns:
            cycles = 0
            for start in range(0, len(row), chunk):
                matches = 0
                for k in range(start, min(start + chunk, len(row))):
                    matches += row[k] and column[k]
                cycles += max(1, matches)
            needed[-1].append(cycles)
    if not barrier:
        return sum(map(sum, needed)) / units
    groups = [needed[start : start + units] for start in range(0, len(rows), units)]
    return sum(max(row[n] for row in group) for group in groups for n in range(len(columns)))


@quick
@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 5),
    DENSITIES,
    st.sampled_from([1, 3, 4]),
    st.sampled_from([1, 7, 16, 128]),
    st.booleans(),
    SEEDS,
)
def test_cycles_are_counted_match_by_match(m, k, n, density, units, chunk, barrier, seed):
    rows, columns = drawn(1, m, k, density, seed)[0].bool(), weighed(k, n, 0.4, seed) != 0
    expected = naive(rows.tolist(), columns.T.tolist(), units, chunk, barrier)
    assert exact_cycles(rows, columns, units, chunk, barrier) == pytest.approx(expected, rel=1e-12)


@quick
@given(STEPS, st.integers(1, 3), st.integers(1, 40), DENSITIES, st.sampled_from([1, 3]), st.booleans(), SEEDS)
def test_serial_steps_are_counted_one_after_the_other(steps, groups, k, density, units, barrier, seed):
    spikes, columns = drawn(steps, groups * units, k, density, seed).bool(), weighed(k, 4, 0.4, seed) != 0
    expected = sum(naive(step.tolist(), columns.T.tolist(), units, 16, barrier) for step in spikes)
    found = exact_cycles(spikes, columns, units, 16, barrier)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found == pytest.approx(sum(exact_cycles(step, columns, units, 16, barrier) for step in spikes))
    # Words need no more cycles than the steps do, and no fewer than their busiest step; one step is its own word.
    packed = exact_cycles(pack_spikes(spikes).bitmask, columns, units, 16, barrier)
    busiest = max(exact_cycles(step, columns, units, 16, barrier) for step in spikes)
    assert busiest - 1e-9 <= packed <= found + 1e-9 and (steps > 1 or packed == found)


def test_cycles_by_hand_with_the_papers_sizes():
    # 300 positions are three chunks of 128; all match, then none does. Sixteen rows at a time.
    full, column = torch.ones(20, 300).bool(), torch.ones(300, 2).bool()
    assert exact_cycles(full, column) == 20 * 2 * 300 / 16 and exact_cycles(full, column, barrier=True) == 2 * 2 * 300
    assert exact_cycles(~full, column) == 20 * 2 * 3 / 16 and exact_cycles(~full, column, barrier=True) == 2 * 2 * 3


@quick
@given(st.integers(1, 128), DENSITIES, DENSITIES, SEEDS)
def test_matches_are_no_more_than_either_side_has(k, density, other, seed):
    row, column = drawn(1, 1, k, density, seed)[0].bool(), drawn(1, 1, k, other, seed + 1)[0].bool().T
    cycles = exact_cycles(row, column, units=1)
    assert cycles == max(1, int((row[0] & column[:, 0]).sum())) <= max(1, min(int(row.sum()), int(column.sum())))


@pytest.mark.parametrize("network", NETWORKS)
def test_formulas_are_within_a_few_percent_of_the_count(network):
    shares, hardware = REPORTED[network], AcceleratorConfig()
    size = (64, *NETWORKS[network][1][1:])
    pmf = spike_count_pmf(shares.spike_sparsity, shares.silent, REPORTED_STRONG[network])
    spikes, weights = sample_workload(size, pmf, shares.weight_sparsity, seed=0)
    packed, kept = pack_spikes(spikes).bitmask, weights != 0
    counted = exact_cycles(packed, kept), exact_cycles(spikes.bool(), kept)
    formula = [simulate([size], shares, each).cycles["compute"][0] for each in ("loas", "sparten")]
    formula[0] -= hardware.chunk / hardware.adders * math.ceil(64 / hardware.units)
    for ours, exact in zip(formula, counted, strict=True):
        assert ours == pytest.approx(exact, rel=0.05)
    # Units that wait for each other need a fifth to a third more; what LoAS gains hardly changes.
    waiting = exact_cycles(packed, kept, barrier=True), exact_cycles(spikes.bool(), kept, barrier=True)
    assert all(1.1 < slow / exact < 1.5 for slow, exact in zip(waiting, counted, strict=True))
    assert waiting[1] / waiting[0] == pytest.approx(counted[1] / counted[0], rel=0.1)


# ---------------------------------------------------------------------------------------------------------------- refusals

NO_SPIKES = [
    (torch.zeros(4, 8), r"spikes have shape \(4, 8\), but \[T, M, K\] with 1 to 8 timesteps is needed"),
    (torch.zeros(4, 2, 3, 8), r"shape \(4, 2, 3, 8\), but \[T, M, K\]"),
    (torch.zeros(9, 2, 8), r"shape \(9, 2, 8\), but \[T, M, K\] with 1 to 8 timesteps"),
    (torch.zeros(0, 2, 8), r"shape \(0, 2, 8\), but"),
    (torch.full((4, 2, 8), 0.5), "spikes hold something else than 0 and 1"),
    (torch.full((4, 2, 8), 2), "something else than 0 and 1"),
    (torch.full((4, 2, 8), -1), "something else than 0 and 1"),
    (torch.full((4, 2, 8), math.nan), "something else than 0 and 1"),
]


@pytest.mark.parametrize("spikes, said", NO_SPIKES)
def test_what_is_no_spike_is_not_packed(refused, spikes, said):
    for ask in (pack_spikes, stored_bits, silent_stats):
        with refused(said):
            ask(spikes)


@pytest.mark.parametrize("least", [-1, 1.5, 2.0, True, None, "2"])
def test_a_least_count_that_is_none_is_refused(refused, least):
    with refused(f"least is {least!r}, but it must be a whole number of at least 0"):
        drop_rare(torch.zeros(4, 2, 3), least)


@pytest.mark.parametrize(
    "weights",
    [torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.complex64), torch.zeros(4, 3).long(), torch.zeros(5).long()],
    ids=["fractions", "complex", "other inputs", "a vector"],
)
def test_weights_that_are_no_whole_numbers_are_refused(refused, weights):
    with refused(r"weights have shape \([\d, ]+\) and type torch.\w+, but whole numbers \[5, N\] are needed"):
        ftp_matmul(pack_spikes(torch.ones(2, 1, 5)), weights)


def test_joins_that_cannot_be_are_refused(refused):
    three, two = torch.tensor([1, 2, 3]), torch.tensor([1, 2])
    with refused(r"words have shape \(3,\), the column \(2,\), but both must be \[K\]"):
        inner_join_trace(three, two, 4)
    with refused(r"words have shape \(1, 3\), the column \(1, 3\)"):
        inner_join_trace(three[None], three[None], 4)
    with refused(r"a word of 1 steps lies in \[0, 1\], but these run to 3"):
        inner_join_trace(three, three, 1)
    with refused(r"a word of 2 steps lies in \[0, 3\], but these run to 4"):
        inner_join_trace(torch.tensor([4, 0]), two, 2)
    with refused(r"a word of 2 steps lies in \[0, 3\]"):
        inner_join_trace(torch.tensor([3, -1]), two, 2)
    for steps in (0, 9, 2.0):
        with refused(rf"timesteps is {steps!r}, but it must be a whole number in \[1, 8\]"):
            inner_join_trace(three, three, steps)
    for adders in (0, -16, 1.5):
        with refused(f"adders is {adders!r}, but it must be a whole number of at least 1"):
            inner_join_trace(three, three, 2, adders)
    assert len(inner_join_trace(three, three, 2)) == 3 and len(inner_join_trace(three, three, 8)) == 3


@pytest.mark.parametrize("rows", [torch.ones(2, 5).bool(), torch.ones(4, 2, 5).bool()], ids=["words", "steps"])
def test_masks_that_do_not_meet_are_refused(refused, rows):
    with refused(rf"masks of {re.escape(str(tuple(rows.shape)))} and \(4, 3\) do not meet: K must be the same"):
        exact_cycles(rows, torch.ones(4, 3).bool())
