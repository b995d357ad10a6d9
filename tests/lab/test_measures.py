"""Means and deviations over seeds; neighbours, how far they turn, how alike they are."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.lab.measures import (
    cosine_drift,
    linear_cka,
    mean_std,
    nearest,
    overlap_coefficient,
    percent,
    perplexity,
    recall_at_k,
    relative_squared_error,
)

NUMBERS = st.floats(-1e6, 1e6)
quick = settings(max_examples=25, deadline=None, derandomize=True)


@given(st.lists(NUMBERS, min_size=2, max_size=20))
def test_mean_and_sample_deviation_agree_with_the_standard_library(values):
    mean, std = mean_std(values)
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert std == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_a_single_value_has_no_spread():
    assert mean_std([3.0]) == (3.0, 0.0)


def test_seeds_come_first():
    mean, std = mean_std([[1, 2, 3], [3, 2, 5]])
    np.testing.assert_allclose(mean, [2, 2, 4])
    np.testing.assert_allclose(std, [2**0.5, 0, 2**0.5])


def test_another_axis_can_be_named():
    mean, std = mean_std([[1, 3], [2, 2], [3, 5]], axis=1)
    np.testing.assert_allclose(mean, [2, 2, 4])
    assert std.shape == (3,)


def test_a_single_seed_of_lists_has_no_spread():
    mean, std = mean_std([[1.0, 2.0]])
    assert mean.tolist() == [1, 2] and std.tolist() == [0, 0]


@pytest.mark.parametrize("values", [[], np.empty((0, 3)), 3.0], ids=["empty", "no seeds", "a number"])
def test_no_values_are_refused(values):
    with pytest.raises(ValueError, match="no values"):
        mean_std(values)


def test_percent_reads_like_this():
    # Mean 0.95; deviation sqrt((0.01² + 0.01²) / 1) = 0.0141.
    assert percent([0.94, 0.96]) == "95.0 ± 1.4 %" and percent([1.0]) == "100.0 ± 0.0 %"
    with pytest.raises(ValueError, match="no values"):
        percent([])


def test_overlap_by_hand():
    edges = [0, 1, 2, 3]
    assert overlap_coefficient([0.5, 1.5], [1.5, 2.5], edges) == 0.5
    assert overlap_coefficient([0.5, float("nan")], [0.2, 0.9], edges) == 1.0
    assert overlap_coefficient([0.5], [2.5], edges) == 0.0
    assert overlap_coefficient([], [2.5], edges) == 0.0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=20), st.lists(st.floats(0, 5), min_size=1, max_size=20))
def test_overlap_is_a_share_and_does_not_know_which_came_first(first, second):
    edges = np.linspace(0, 5, 8)
    share = overlap_coefficient(first, second, edges)
    assert 0 <= share <= 1 + 1e-12 and share == pytest.approx(overlap_coefficient(second, first, edges))
    assert overlap_coefficient(first, first, edges) == pytest.approx(1)


# Neighbours


def turned(a, b):
    """The cosine, coordinate by coordinate."""
    return sum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_golden_recall():
    golden = np.load(Path(__file__).parents[1] / "golden" / "dparl.npz")
    for k in (1, 5):
        assert recall_at_k(golden["emb"], golden["emb_labels"], k) == golden[f"recall_at_{k}"]


@quick
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**20))
def test_recall_and_nearest_are_plain_loops(n, dim, seed):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(n, dim)), rng.integers(0, 3, n)
    for k in range(1, n):
        found, hits = nearest(z, k), 0
        assert found.shape == (n, k)
        for i in range(n):
            others = [j for j in range(n) if j != i]
            best = sorted((turned(z[i], z[j]) for j in others), reverse=True)[:k]
            np.testing.assert_allclose([turned(z[i], z[j]) for j in found[i]], best, atol=1e-12)
            assert i not in found[i] and len(set(found[i])) == k
            hits += any(y[j] == y[i] for j in found[i])
        assert recall_at_k(z, y, k) == pytest.approx(hits / n)


def test_neighbours_by_hand_the_nearest_first():
    degrees = np.radians([0, 10, 30, 100])
    z = np.stack([np.cos(degrees), np.sin(degrees)], 1)
    assert nearest(z, 3).tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
    assert recall_at_k(z, [0, 0, 1, 1], 1) == 0.75 and recall_at_k(z, [0, 1, 0, 1], 1) == 0.0
    assert recall_at_k(z, [0, 1, 0, 1], 2) == 0.75 and recall_at_k(z, [0, 1, 0, 1], 3) == 1.0


def test_of_equals_the_first_comes_first_and_nobody_finds_itself():
    assert nearest(np.ones((4, 2)), 2).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]


@quick
@given(st.integers(0, 2**20))
def test_lengths_of_embeddings_do_not_matter_and_recall_grows_with_k(seed):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(15, 3)), rng.integers(0, 4, 15)
    longer = z * rng.uniform(0.1, 10, (15, 1))
    shares = [recall_at_k(z, y, k) for k in range(1, 15)]
    assert shares == [recall_at_k(longer, y, k) for k in range(1, 15)]
    assert shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1


def test_an_embedding_of_zeros_is_orthogonal_to_all():
    assert nearest([[0.0, 0], [1, 0], [-1, 0.1], [1, 0.1]], 1).tolist() == [[1], [3], [0], [1]]


def test_a_class_of_one_is_never_found():
    assert recall_at_k(np.eye(3), [0, 1, 2], 2) == 0 and recall_at_k([[1, 0], [1, 0], [0, 1]], [0, 0, 1]) == 2 / 3


@pytest.mark.parametrize(
    ("z", "y", "k", "says"),
    [
        (np.ones((4, 2)), [0, 1, 2], 1, r"embeddings \(4, 2\), classes \(3,\) and k = 1"),
        (np.ones((4, 2)), [0, 1, 2, 3], 0, "k = 0"),
        (np.ones((4, 2)), [0, 1, 2, 3], 4, "k = 4"),
        (np.ones((4, 2)), [0, 1, 2, 3], -1, "k = -1"),
        (np.ones((1, 2)), [0], 1, r"embeddings \(1, 2\)"),
        (np.ones((4, 2)), np.zeros((4, 1)), 1, r"classes \(4, 1\)"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(z, y, k, says):
    with pytest.raises(ValueError, match=says):
        recall_at_k(z, y, k)


# Drift


@quick
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**20))
def test_drift_is_one_minus_the_mean_cosine(n, dim, seed):
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=(2, 3, n, dim))
    found = cosine_drift(before, after)
    assert found.shape == (3,)
    for i in range(3):
        expected = 1 - sum(turned(a, b) for a, b in zip(before[i], after[i], strict=True)) / n
        assert found[i] == pytest.approx(expected, abs=1e-12)
    scaled = after * rng.uniform(0.1, 10, (3, n, 1))
    np.testing.assert_allclose(cosine_drift(before, scaled), found, atol=1e-12)
    np.testing.assert_allclose(cosine_drift(after, before), found, atol=1e-12)


def test_drift_is_0_when_nothing_turned_1_when_orthogonal_2_when_opposite():
    x = np.array([[1.0, 2.0], [-3.0, 0.5]])
    assert cosine_drift(x, 7 * x) == pytest.approx(0, abs=1e-12) and cosine_drift(x, x).shape == ()
    assert cosine_drift(x, x[:, ::-1] * [1, -1]) == pytest.approx(1)
    assert cosine_drift(x, -x) == pytest.approx(2)


# Likeness


def naive_cka(a, b):
    """⟨K, L⟩ / (‖K‖·‖L‖), sample by sample."""

    def kernel(z):
        rows = [np.ravel(row).tolist() for row in z]
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        rows = [[value - m for value, m in zip(row, mean, strict=True)] for row in rows]
        return [[sum(p * q for p, q in zip(one, other, strict=True)) for other in rows] for one in rows]

    def inner(k, m):
        return sum(p * q for one, other in zip(k, m, strict=True) for p, q in zip(one, other, strict=True))

    first, second = kernel(a), kernel(b)
    return inner(first, second) / math.sqrt(inner(first, first) * inner(second, second))


@quick
@given(st.integers(2, 10), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**20))
def test_cka_is_its_formula(n, width, other, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, width)) + 2, 3 * rng.normal(size=(n, other, 2))
    found = linear_cka(a, b)
    assert found == pytest.approx(naive_cka(a, b)) and -1e-9 <= found <= 1 + 1e-9
    assert found == pytest.approx(linear_cka(b, a)) and isinstance(found, float)
    order = rng.permutation(n)
    assert linear_cka(a[order], b[order]) == pytest.approx(found)


@quick
@given(st.integers(2, 12), st.integers(1, 6), st.floats(0.01, 100), st.integers(0, 2**20))
def test_cka_knows_neither_turns_nor_scales_nor_shifts(n, width, scale, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, width)), rng.normal(size=(n, 4))
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    moved = scale * a @ turn + rng.normal(size=width)
    assert linear_cka(a, a) == pytest.approx(1, abs=1e-5) and linear_cka(a, moved) == pytest.approx(1, abs=1e-5)
    assert linear_cka(moved, b) == pytest.approx(linear_cka(a, b), abs=1e-5)
    assert linear_cka(-a, b) == pytest.approx(linear_cka(a, b), abs=1e-5)
    wider = np.concatenate([a, np.zeros((n, 2))], 1)
    assert linear_cka(wider, b) == pytest.approx(linear_cka(a, b), abs=1e-5)


def test_cka_by_hand():
    assert linear_cka([1, -1, 0, 0], [0, 0, 1, -1]) == 0  # the samples that one tells apart the other does not
    # K = vvᵀ, L = wwᵀ: (v·w)² over both lengths squared.
    assert linear_cka([1, -1, 0], [1, 0, -1]) == pytest.approx(1 / 4)
    assert linear_cka([[0.0], [1.0]], [[5.0, 5.0], [-3.0, 9.0]]) == pytest.approx(1)  # two samples are always alike
    # A stretched direction counts more: it is no correlation of coordinates.
    plain = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert linear_cka(plain, plain * [3, 1]) == pytest.approx(10 / math.sqrt(2 * 82))


def test_cka_reads_tokens_as_one_long_vector_and_takes_tensors():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 5, 3, generator=draw), torch.randn(7, 2, 2, 2, generator=draw)
    assert linear_cka(a, b) == pytest.approx(linear_cka(a.flatten(1).tolist(), b.flatten(1).double().numpy()))
    kept = a.clone(), b.clone()
    linear_cka(a, b)
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])


@pytest.mark.parametrize("counts", [(3, 4), (1, 1), (2, 1)])
def test_cka_of_other_or_too_few_samples_is_refused(counts):
    with pytest.raises(ValueError, match=rf"there are {counts[0]} and {counts[1]} samples, but both need the same"):
        linear_cka(*(np.arange(2.0 * n).reshape(n, 2) for n in counts))


@pytest.mark.parametrize("value", [0.0, -2.5, 0.1])
def test_cka_of_what_is_the_same_for_every_sample_is_refused(value):
    rng, constant = np.random.default_rng(0), np.full((3, 4), value)
    for pair in ((constant, rng.normal(size=(3, 2))), (rng.normal(size=(3, 2)), constant), (constant, constant)):
        with pytest.raises(ValueError, match="the same for every sample"):
            linear_cka(*pair)


# Relative squared error


@quick
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**20))
def test_relative_squared_error_is_its_formula(m, n, seed):
    rng = np.random.default_rng(seed)
    found, wanted = rng.normal(size=(m, n)), rng.normal(size=(m, n))
    top = sum((found[i, j] - wanted[i, j]) ** 2 for i in range(m) for j in range(n))
    bottom = sum(wanted[i, j] ** 2 for i in range(m) for j in range(n))
    assert relative_squared_error(found, wanted) == pytest.approx(top / bottom)
    assert relative_squared_error(3 * found, 3 * wanted) == pytest.approx(top / bottom)
    assert relative_squared_error(wanted, wanted) == 0 and relative_squared_error(0 * wanted, wanted) == 1


def test_relative_squared_error_takes_tensors_and_sums_in_double():
    wanted = torch.ones(3, 1000)
    found = wanted.clone()
    found[0, 0] += 1e-3
    assert relative_squared_error(found, wanted) == pytest.approx(1e-6 / 3000, rel=1e-3)
    assert isinstance(relative_squared_error([1], [2]), float)


@pytest.mark.parametrize("found, wanted", [([1.0, 2], [1.0, 2, 3]), ([[1.0]], [1.0]), ([1.0, 1], [0.0, 0]), ([], [])])
def test_relative_squared_error_of_nothing_or_of_two_shapes_is_refused(found, wanted):
    with pytest.raises(ValueError, match="both must be the same, and what is wanted not all zeros") as caught:
        relative_squared_error(found, wanted)
    assert str(np.shape(found)) in str(caught.value) and str(np.shape(wanted)) in str(caught.value)


# Perplexity


@quick
@given(st.integers(2, 100), st.integers(1, 5), st.integers(1, 6), st.integers(1, 7))
def test_a_uniform_model_wavers_between_all_tokens(vocabulary, count, length, batch):
    pieces = torch.arange(count * (length + 1)).view(count, -1) % vocabulary
    found = perplexity(lambda tokens: torch.full((*tokens.shape, vocabulary), 3.0), pieces, batch)
    assert found == pytest.approx(vocabulary)


def test_perplexity_is_one_for_a_model_that_knows_and_by_hand_for_one_that_guesses():
    pieces = torch.tensor([[0, 1, 2], [2, 1, 0]])

    def knows(tokens):
        following = torch.where(tokens == tokens[:, :1], 1, 2 - tokens[:, :1])
        return 100 * torch.nn.functional.one_hot(following, 3).float()

    def guesses(tokens):
        return torch.tensor([0.5, 0.25, 0.25]).log().expand(*tokens.shape, 3)

    assert perplexity(knows, pieces) == pytest.approx(1)
    # Wanted are 1, 2, 1, 0: (4 · 4 · 4 · 2)^(1/4).
    assert perplexity(guesses, pieces) == pytest.approx(128**0.25)


def test_perplexity_sees_all_but_the_last_token_some_pieces_at_a_time():
    pieces, seen = torch.arange(20).view(5, 4) % 7, []

    def model(tokens):
        assert not torch.is_grad_enabled()
        seen.append(tokens)
        return torch.nn.functional.one_hot(tokens, 7).float()

    found = perplexity(model, pieces, batch=2)
    assert [len(one) for one in seen] == [2, 2, 1] and torch.equal(torch.cat(seen), pieces[:, :-1])
    assert found == pytest.approx(perplexity(model, pieces))


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (3, 0), (5,), (2, 3, 4)])
def test_perplexity_of_nothing_is_refused(shape):
    with pytest.raises(ValueError, match=r"but perplexity needs \[B, N \+ 1\], B and N at least 1") as caught:
        perplexity(lambda tokens: tokens, torch.zeros(shape, dtype=torch.long))
    assert f"the pieces are {shape}" in str(caught.value)
