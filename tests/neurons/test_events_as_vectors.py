"""Vectors of events against the official code's, and against what each embedding promises."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.events import EventBatch
from helpers.neurons.event_backbones import pool_pairs
from helpers.neurons.events_as_vectors import (
    EMBEDDINGS,
    AbsoluteTime,
    DeltaTimeConv,
    FactorisedEmbedding,
    NeighborEmbedding,
    ParametricEmbedding,
    TableEmbedding,
    time_differences,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "event2vec.npz")
TOLERANCE = 1e-5

quick = settings(max_examples=60, deadline=None, derandomize=True)


def golden(key):
    return torch.from_numpy(GOLDEN[key])


def close(ours, theirs, tolerance=TOLERANCE):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def events():
    return EventBatch(*(golden(key) for key in ("t", "y", "x", "p", "mask")))


def load(module, weights):
    """Copies golden arrays into a module's parameters; every parameter must be among them."""
    assert {name for name, _ in module.named_parameters()} == set(weights)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(golden(weights[name]).reshape(parameter.shape))
    return module


def parametric():
    embedding = ParametricEmbedding(2, int(GOLDEN["H"]), int(GOLDEN["W"]), 16)
    return load(embedding, {name: f"emb.{name}" for name, _ in embedding.named_parameters()})


def time_conv():
    weights = {f"convs.{index}.weight": f"tpe.conv.{at}.weight" for index, at in enumerate((0, 5, 10))}
    for index, at in enumerate((2, 7, 12)):
        weights |= {f"norms.{index}.{kind}": f"tpe.conv.{at}.{kind}" for kind in ("weight", "bias")}
    return load(DeltaTimeConv(16), weights)


# ---------------------------------------------------------------------------------------------------- golden


def test_golden_parametric_embedding():
    # Masked positions hold the image of the zero vector, here and there.
    close(parametric()(events()), golden("emb_out"))


def test_golden_parametric_table():
    close(parametric().table(), golden("emb_matrix"))


def test_golden_neighbour_embedding():
    embedding = load(
        NeighborEmbedding(2, int(GOLDEN["H"]), int(GOLDEN["W"]), 16, n=2),
        {
            "embed_y.weight": "nb.embed.embed_y.weight",
            "embed_x.weight": "nb.embed.embed_x.weight",
            "c_y": "nb.c_y",
            "c_x": "nb.c_x",
        },
    )
    y, x, p = (golden(f"nb_in_{axis}") for axis in "yxp")
    close(embedding(EventBatch(torch.zeros(y.shape), y, x, p, torch.ones_like(y, dtype=torch.bool))), golden("nb_out"))


def test_golden_time_differences():
    batch = events()
    close(time_differences(batch.t, batch.mask), golden("dt"))


def test_golden_time_vectors_without_a_mask():
    close(time_conv()(golden("dt")), golden("tpe_out"))


def test_golden_time_vectors_with_a_mask_differ_where_padding_is_near():
    """The reference lets padding speak: its Δ is 0, but LayerNorm's bias makes the first layer's answer to it nonzero.

    The second convolution carries that to the last valid event, the third to the one before. So the last two events of
    a padded sample depend on whether padding follows; with a mask they do not, and all others are the same.
    """
    mask = events().mask
    ours, theirs = time_conv()(golden("dt"), mask), golden("tpe_out")
    difference = (ours - theirs).abs().amax(-1)
    assert mask.sum(1).tolist() == [12, 9]
    assert (difference[0] <= TOLERANCE).all() and (difference[1, :7] <= TOLERANCE).all()
    assert (difference[1, 7:9] > 1e-2).all()
    assert not ours[1, 9:].any()


def test_golden_reference_depends_on_padding_and_ours_does_not():
    conv, dt, mask = time_conv(), golden("dt")[1:], events().mask[1:]
    alone = conv(dt[:, :9])
    close(conv(dt, mask)[:, :9], alone)
    assert (conv(dt)[:, :9] - alone).abs().max() > 1e-2


def test_golden_tokens():
    batch = events()
    tokens = parametric()(batch) + batch.mask.unsqueeze(-1) * time_conv()(golden("dt"))
    close(tokens, golden("tokens"))


def test_golden_pooled_pairs():
    pooled, mask = pool_pairs(golden("tokens"), events().mask)
    close(pooled, golden("pool2_out"))
    assert torch.equal(mask, golden("pool2_mask"))


def test_golden_keys_are_all_used():
    # A golden array that no test reads proves nothing; the rest is read in test_event_backbones.py.
    here = {"t", "y", "x", "p", "mask", "H", "W", "dt", "tokens"}
    here |= {key for key in GOLDEN if key.startswith(("emb", "tpe", "nb", "pool2"))}
    assert set(GOLDEN) - here == {f"gla_{name}" for name in ("q", "k", "v", "g", "out")}


# ---------------------------------------------------------------------------------------------------- embeddings

H, W, DIM = 5, 7, 24


def on_the_sensor(seed=0, shape=(3, 20), polarities=2, height=H, width=W, padding=4):
    random = torch.Generator().manual_seed(seed)
    y, x, p = (torch.randint(0, size, shape, generator=random) for size in (height, width, polarities))
    mask = torch.ones(shape, dtype=torch.bool)
    mask[-1, shape[1] - padding :] = False
    t = torch.rand(shape, generator=random, dtype=torch.float64).sort(1).values * 3e5
    return EventBatch(*(part.masked_fill(~mask, -1) for part in (t, y, x, p)), mask)


def shaken(module, seed=0):
    """The module with random weights everywhere: at the start LayerNorm's biases are 0 and would hide what they do."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return module


@pytest.mark.parametrize("polarities, height, width", [(2, H, W), (1, H, W), (2, 1, 3), (3, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_embedding_equals_lookup_in_its_table(kind, polarities, height, width):
    embedding = shaken(EMBEDDINGS[kind](polarities, height, width, DIM))
    batch = on_the_sensor(1, polarities=polarities, height=height, width=width)
    table = embedding.table()
    assert table.shape == (polarities * height * width, DIM) and table.isfinite().all()
    codes = (batch.p * height + batch.y) * width + batch.x
    close(embedding(batch)[batch.mask], table[codes[batch.mask]], 1e-6)


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_coordinates_are_left_as_they_were(kind):
    # The released parametric code scales them in place, so that a second call sees other ones.
    embedding, batch = EMBEDDINGS[kind](2, H, W, DIM), on_the_sensor()
    kept = [part.clone() for part in (batch.y, batch.x, batch.p)]
    assert torch.equal(embedding(batch), embedding(batch))
    assert all(torch.equal(a, b) for a, b in zip((batch.y, batch.x, batch.p), kept, strict=True))


@pytest.mark.parametrize("kind", ["table", "factorised", "neighbour"])
def test_padding_of_a_table_is_0(kind):
    embedding, batch = EMBEDDINGS[kind](2, H, W, DIM), on_the_sensor()
    vectors = embedding(batch)
    assert not vectors[~batch.mask].any()
    vectors.square().sum().backward()
    tables = [module for module in embedding.modules() if isinstance(module, torch.nn.Embedding)]
    assert all(not table.weight.grad[0].any() and table.weight.grad.any() for table in tables)


def test_rows_of_the_tables_are_the_pages():
    assert TableEmbedding(2, H, W, DIM).rows.weight.shape == (2 * H * W + 1, DIM)
    factorised = FactorisedEmbedding(2, H, W, DIM)
    assert factorised.embed_y.weight.shape == (2 * H + 1, DIM * H // (H + W))
    assert factorised.embed_x.weight.shape == (2 * W + 1, DIM - DIM * H // (H + W))


def test_every_place_and_polarity_has_its_own_vector():
    for kind in EMBEDDINGS:
        table = EMBEDDINGS[kind](2, H, W, DIM).table()
        # By differences: the faster product of matrices rounds a small distance to none.
        apart = torch.cdist(table, table, compute_mode="donot_use_mm_for_euclid_dist")
        assert apart.add(torch.eye(2 * H * W) * 9).min() > 1e-3, kind


def naive_neighbours(embedding, p, y, x):
    parts = []
    for at, size, rows, weight in (
        (y, embedding.height, embedding.embed_y, embedding.c_y),
        (x, embedding.width, embedding.embed_x, embedding.c_x),
    ):
        n = len(weight) // 2
        dilation = int(embedding.shifts[-1]) // n if n else 1
        near = [min(max(at + k * dilation, 0), size - 1) for k in range(-n, n + 1)]
        parts.append(sum(c * rows.weight[p * size + place + 1] for c, place in zip(weight, near, strict=True)))
    return torch.cat(parts)


@pytest.mark.parametrize("n, dilation", [(0, 1), (1, 1), (2, 1), (2, 2), (3, 3)])
def test_neighbour_sum_equals_the_formula(n, dilation):
    embedding = NeighborEmbedding(2, H, W, DIM, n, dilation)
    close(embedding.c_y.detach(), torch.exp(-(torch.arange(-n, n + 1.0) ** 2) / 2), 1e-7)
    shaken(embedding)
    table = embedding.table().view(2, H, W, DIM)
    for p in range(2):
        for y in range(H):
            for x in range(W):
                close(table[p, y, x], naive_neighbours(embedding, p, y, x), 1e-5)


def test_without_reach_the_neighbour_sum_is_the_factorised_table():
    neighbour, factorised = NeighborEmbedding(2, H, W, DIM, n=0), FactorisedEmbedding(2, H, W, DIM)
    factorised.load_state_dict(neighbour.state_dict(), strict=False)
    assert torch.equal(neighbour.table(), factorised.table())


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "kind, weights", [("table", 32_832), ("factorised", 2_112), ("neighbour", 2_122), ("parametric", 2_832)]
)
def test_published_weight_counts(kind, weights):
    assert count(EMBEDDINGS[kind](2, 16, 16, 64)) == weights


def test_parametric_weights_do_not_depend_on_the_sensor():
    assert count(ParametricEmbedding(2, 8, 10, 32)) == count(ParametricEmbedding(2, 180, 240, 32)) == 776
    # The page's exercise 1.
    assert TableEmbedding(2, 180, 240, 1).rows.weight.shape[0] == 86_401


def similarity(kind, distance, seeds=6, side=16, dim=32):
    """Mean cosine of pixels that far apart along an axis, same polarity, before any training."""
    means = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        vectors = torch.nn.functional.normalize(EMBEDDINGS[kind](2, side, side, dim).table().detach(), dim=-1)
        vectors = vectors.view(2, side, side, dim)
        pairs = [
            (vectors.narrow(axis, distance, side - distance) * vectors.narrow(axis, 0, side - distance)).sum(-1)
            for axis in (1, 2)
        ]
        means.append(float(torch.cat([each.flatten() for each in pairs]).mean()))
    return sum(means) / seeds


def test_neighbours_are_near_at_the_start_where_the_page_says_so():
    # The page: .99, .91, .73, .58 over 3 seeds and 0 for the table; single seeds scatter by .2 at 12 pixels.
    ours = [similarity("parametric", distance) for distance in (1, 4, 8, 12)]
    assert ours[0] > 0.97 and 0.8 < ours[1] < 0.97 and 0.55 < ours[2] < 0.87 and 0.35 < ours[3] < 0.78
    assert ours == sorted(ours, reverse=True)
    assert all(abs(similarity("table", distance)) < 0.03 for distance in (1, 4, 8, 12))


def test_the_neighbour_sum_is_near_too_and_a_factorised_table_is_not():
    # Along one axis the other half of a factorised vector is the same, so .5 is its floor at any distance.
    assert similarity("neighbour", 1) > 0.8 > 0.6 > similarity("neighbour", 8)
    assert all(0.4 < similarity("factorised", distance) < 0.6 for distance in (1, 4, 8, 12))


@pytest.mark.parametrize("kind", EMBEDDINGS)
@pytest.mark.parametrize("axis, place", [("y", H), ("y", -1), ("x", W), ("x", -1), ("p", 2), ("p", -1)])
def test_events_off_the_sensor_are_refused(kind, axis, place):
    batch = on_the_sensor()
    getattr(batch, axis)[0, 3] = place
    with pytest.raises(ValueError, match=rf"{axis} runs from .* but must lie in \[0, "):
        EMBEDDINGS[kind](2, H, W, DIM)(batch)


@pytest.mark.parametrize("kind", EMBEDDINGS)
@pytest.mark.parametrize("sizes", [(0, H, W, DIM), (2, 0, W, DIM), (2, H, -1, DIM), (2, H, W, 0)])
def test_empty_sensors_are_refused(kind, sizes):
    with pytest.raises(ValueError, match="each must be at least 1"):
        EMBEDDINGS[kind](*sizes)


def test_widths_that_are_not_whole_are_refused():
    with pytest.raises(ValueError, match="dim is 30, but the widths"):
        ParametricEmbedding(2, H, W, 30)


@pytest.mark.parametrize("more", [{"n": -1}, {"dilation": 0}])
def test_reach_without_meaning_is_refused(more):
    with pytest.raises(ValueError, match="at least 0 and 1"):
        NeighborEmbedding(2, H, W, DIM, **more)


# ---------------------------------------------------------------------------------------------------- time


def padded(rows):
    longest = max(map(len, rows))
    t = torch.tensor([[*row, *[-1.0] * (longest - len(row))] for row in rows], dtype=torch.float64)
    return t, torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])


times = st.lists(st.lists(st.integers(0, 10**6), min_size=2, max_size=20).map(sorted), min_size=1, max_size=4)
spread = times.filter(lambda rows: all(row[0] < row[-1] for row in rows))


@quick
@given(spread)
def test_time_differences_follow_the_page_step_by_step(rows):
    ours = time_differences(*padded(rows))
    assert ours.dtype == torch.float32
    for row, t in enumerate(rows):
        share = [(each - t[0]) / (t[-1] - t[0]) for each in t]
        expected = [0.0, *(after - before for before, after in zip(share, share[1:], strict=False))]
        expected += [0.0] * (ours.shape[1] - len(t))
        assert ours[row].tolist() == pytest.approx(expected, abs=1e-6)


@quick
@given(spread, st.integers(0, 10**9), st.sampled_from([1e-6, 0.3, 2.0, 1e4]))
def test_time_differences_know_neither_clock_nor_unit(rows, start, unit):
    t, mask = padded(rows)
    moved = torch.where(mask, (t + start) * unit, -1)
    close(time_differences(moved, mask), time_differences(t, mask), 1e-6)


def test_equal_time_stamps_are_warned_of_and_give_0():
    t, mask = padded([[5, 5, 5], [1, 2, 3], [7]])
    with pytest.warns(UserWarning, match="share one time"):
        ours = time_differences(t, mask)
    assert ours.tolist() == [[0, 0, 0], [0, 0.5, 0.5], [0, 0, 0]]


def test_ordinary_time_stamps_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        time_differences(*padded([[5, 5, 6], [1, 2]]))


def test_times_that_go_backwards_are_refused():
    with pytest.raises(ValueError, match="times go backwards"):
        time_differences(*padded([[1, 2, 3], [1, 3, 2]]))


def test_a_sample_without_events_is_refused():
    t, mask = padded([[1, 2, 3], [1, 3]])
    mask[1] = False
    with pytest.raises(ValueError, match="a sample holds no events"):
        time_differences(t, mask)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_each_event_sees_three_half_kernels_to_both_sides(kernel):
    conv = shaken(DeltaTimeConv(DIM, kernel))
    dt = torch.rand(1, 41, generator=torch.Generator().manual_seed(0))
    other = dt.clone()
    other[0, 20] += 1
    changed = ((conv(dt) - conv(other)).abs().amax(-1)[0] > 0).nonzero().flatten()
    reach = 3 * (kernel // 2)
    assert changed.tolist() == list(range(20 - reach, 21 + reach))


def test_a_steady_stream_has_a_constant_vector_inside():
    vectors = shaken(DeltaTimeConv(DIM))(torch.full((1, 30), 0.1))[0]
    close(vectors[3:-3], vectors[3:4].expand(24, -1), 1e-6)
    assert (vectors[0] - vectors[3]).abs().max() > 1e-3


def test_groups_are_the_pages():
    conv = DeltaTimeConv(DIM)
    assert [tuple(each.weight.shape) for each in conv.convs] == [(6, 1, 3), (12, 1, 3), (24, 1, 3)]
    assert [each.groups for each in conv.convs] == [1, 6, 12] and all(each.bias is None for each in conv.convs)


@pytest.mark.parametrize("dim, kernel", [(30, 3), (24, 2), (24, 0)])
def test_convolutions_that_do_not_fit_are_refused(dim, kernel):
    with pytest.raises(ValueError, match=f"dim is {dim}, kernel {kernel}"):
        DeltaTimeConv(dim, kernel)


def test_absolute_time_is_a_share_of_the_longest():
    t, mask = padded([[0, 50, 100], [25]])
    assert AbsoluteTime(8, 200.0)(t, mask).squeeze(-1).tolist() == [[0, 0.25, 0.5], [0.125, 0, 0]]


def test_time2vec_is_one_line_and_sines():
    layer = shaken(AbsoluteTime(8, 200.0, time2vec=True))
    t, mask = padded([[0, 50, 100], [25]])
    vectors = layer(t, mask)
    wave = t[..., None].float() / 200 * layer.frequency + layer.phase
    close(vectors[mask][:, 0], wave[mask][:, 0], 1e-6)
    close(vectors[mask][:, 1:], wave[mask][:, 1:].sin(), 1e-6)
    assert vectors.shape == (2, 3, 8) and not vectors[~mask].any()


@pytest.mark.parametrize("longest", [0.0, -1.0, math.nan])
def test_an_impossible_longest_time_is_refused(longest):
    with pytest.raises(ValueError, match="longest is"):
        AbsoluteTime(8, longest)
