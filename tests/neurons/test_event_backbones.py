"""Gated linear attention against its recurrence and the reference's, and classifiers against what they must not notice."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.events import EventBatch
from helpers.neurons.event_backbones import (
    BiGLA,
    EncoderLayer,
    EventClassifier,
    EventEncoder,
    VoxelNet,
    gated_linear_attention,
    pool_pairs,
)
from helpers.neurons.events_as_vectors import EMBEDDINGS, AbsoluteTime, DeltaTimeConv, ParametricEmbedding

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "event2vec.npz")
TOLERANCE = 1e-5
SIDE, DIM = 8, 32

quick = settings(max_examples=40, deadline=None, derandomize=True)
backbones = pytest.mark.parametrize("backbone", ["softmax", "gla"])
embeddings = pytest.mark.parametrize("kind", EMBEDDINGS)


def close(ours, theirs, tolerance=TOLERANCE):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def shaken(module, seed=0):
    """The module with random weights everywhere: at the start LayerNorm's biases are 0 and would hide what they do."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    return module.eval()


def events_of(seed=0, samples=3, length=24, side=SIDE, lengths=None):
    """Random events, each sample as long as asked."""
    rng = np.random.default_rng(seed)
    lengths = np.array(lengths if lengths is not None else [length] * samples)
    mask = np.arange(lengths.max()) < lengths[:, None]
    parts = [np.sort(rng.integers(0, 300_000, mask.shape), 1).astype(float)]
    parts += [rng.integers(0, size, mask.shape) for size in (side, side, 2)]
    return EventBatch(*(torch.from_numpy(np.where(mask, part, -1)) for part in parts), torch.from_numpy(mask))


def parts_of(batch):
    return batch.t, batch.y, batch.x, batch.p, batch.mask


def with_padding(batch, more):
    """The same batch with more padding."""
    rows = len(batch)
    padding = [torch.full((rows, more), -1, dtype=part.dtype) for part in parts_of(batch)[:4]]
    padding.append(torch.zeros(rows, more, dtype=torch.bool))
    return EventBatch(*(torch.cat(pair, 1) for pair in zip(parts_of(batch), padding, strict=True)))


def classifier(kind="parametric", backbone="softmax", time="dt", layers=2, seed=0, **more):
    torch.manual_seed(seed)
    time_layer = {
        "dt": lambda: DeltaTimeConv(DIM),
        "absolute": lambda: AbsoluteTime(DIM, 3e5),
        "time2vec": lambda: AbsoluteTime(DIM, 3e5, time2vec=True),
        None: lambda: None,
    }[time]()
    encoder = EventEncoder(DIM, layers, 4, 48, backbone, **more)
    return shaken(EventClassifier(EMBEDDINGS[kind](2, SIDE, SIDE, DIM), time_layer, encoder, 5), seed)


# ---------------------------------------------------------------------------------------------------- the recurrence


def recurrence(q, k, v, log_decay):
    """The page's equation, one event after the other."""
    state, outs = torch.zeros(len(q), q.shape[2], q.shape[3], v.shape[3], dtype=q.dtype), []
    for step in range(q.shape[1]):
        state = log_decay[:, step].exp().unsqueeze(-1) * state + k[:, step].unsqueeze(-1) * v[:, step].unsqueeze(-2)
        outs.append((q[:, step].unsqueeze(-1) * state).sum(-2) / math.sqrt(q.shape[-1]))
    return torch.stack(outs, 1)


def queries(seed=0, length=37, strength=1.0, dtype=torch.float32, batch=2, heads=3, key=8, value=5):
    random = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(batch, length, heads, key, generator=random, dtype=dtype) for _ in range(2))
    v = torch.randn(batch, length, heads, value, generator=random, dtype=dtype)
    gate = torch.randn(batch, length, heads, key, generator=random, dtype=dtype)
    return q, k, v, strength * torch.nn.functional.logsigmoid(4 * gate)


@pytest.mark.parametrize("chunk", [1, 5, 12, 32])
def test_golden_gated_linear_attention(chunk):
    q, k, v, g, out = (torch.from_numpy(GOLDEN[f"gla_{name}"]) for name in ("q", "k", "v", "g", "out"))
    close(gated_linear_attention(q, k, v, g, chunk), out)
    close(recurrence(q, k, v, g), out)


@quick
@given(
    st.integers(0, 1000), st.integers(1, 70), st.sampled_from([1, 2, 7, 32, 100]), st.sampled_from([0.01, 1 / 16, 1.0])
)
def test_chunks_equal_the_recurrence(seed, length, chunk, strength):
    inputs = queries(seed, length, strength)
    expected = recurrence(*inputs)
    close(gated_linear_attention(*inputs, chunk), expected, 1e-5 * max(1.0, float(expected.abs().max())))


def test_chunks_equal_the_recurrence_to_the_last_digit_in_double_precision():
    inputs = queries(length=70, dtype=torch.float64)
    close(gated_linear_attention(*inputs), recurrence(*inputs), 1e-12)


def test_long_strong_forgetting_stays_finite_and_right():
    # Sums of decays reach -6000 here: exp(sum) and exp(-sum) apart would be 0 times infinity.
    inputs = queries(length=200, strength=8.0)
    ours = gated_linear_attention(*inputs)
    assert ours.isfinite().all()
    close(ours, recurrence(*inputs), 2e-4)


def test_without_forgetting_it_is_plain_linear_attention():
    q, k, v, _ = queries()
    out = gated_linear_attention(q, k, v, torch.zeros_like(q))
    scores = torch.einsum("blhk,bihk->bhli", q, k).tril() / math.sqrt(8)
    close(out, torch.einsum("bhli,bihv->blhv", scores, v))


@pytest.mark.parametrize("decay", [-1e4, -math.inf])
@pytest.mark.parametrize("chunk", [1, 32])
def test_with_total_forgetting_each_event_sees_itself(decay, chunk):
    q, k, v, _ = queries()
    out = gated_linear_attention(q, k, v, torch.full_like(q, decay), chunk)
    close(out, (q * k).sum(-1, keepdim=True) / math.sqrt(8) * v)


@quick
@given(st.integers(0, 36), st.sampled_from([1, 8, 32]))
def test_an_event_changes_nothing_before_it(place, chunk):
    inputs = queries()
    expected = gated_linear_attention(*inputs, chunk)
    for which in range(4):
        other = [each.clone() for each in inputs]
        other[which][:, place] = -1.5
        out = gated_linear_attention(*other, chunk)
        close(out[:, :place], expected[:, :place], 1e-6)
        if which != 3 or place:  # the first event has nothing to forget
            assert (out[:, place] - expected[:, place]).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 4])
def test_gradients_equal_those_of_the_recurrence(chunk):
    upstream = torch.randn(2, 11, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    gradients = []
    for run in (lambda *inputs: gated_linear_attention(*inputs, chunk), recurrence):
        inputs = [each.requires_grad_() for each in queries(length=11, dtype=torch.float64)]
        run(*inputs).backward(upstream)
        gradients.append([each.grad for each in inputs])
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs, 1e-12)


def test_gradients_are_finite_whatever_is_forgotten():
    q, k, v, g = (each.requires_grad_() for each in queries(length=40, strength=100.0))
    gated_linear_attention(q, k, v, g).sum().backward()
    assert all(each.grad.isfinite().all() for each in (q, k, v, g))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda q, k, v, g: (q[:, :5], k, v, g, 32), "have shapes"),
        (lambda q, k, v, g: (q, k[..., :4], v, g, 32), "have shapes"),
        (lambda q, k, v, g: (q, k, v[:1], g, 32), "have shapes"),
        (lambda q, k, v, g: (q, k, v, g[..., :1], 32), "have shapes"),
        (lambda q, k, v, g: (q, k, v, g, 0), "chunk is 0"),
        (lambda q, k, v, g: (q, k, v, -g, 32), "log_decay is positive"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(*change(*queries()))


# ---------------------------------------------------------------------------------------------------- both directions


def sequence(seed=0, lengths=(20, 13, 1)):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(*mask.shape, DIM, generator=torch.Generator().manual_seed(seed)), mask


def test_reversed_sequence_reversed_output_with_the_halves_swapped():
    # Only with the gate turned round too: in the released code it stays as it was, and this fails.
    attention = shaken(BiGLA(DIM, 4))
    x, mask = sequence()
    forward, backward = attention.directions(x, mask).chunk(2, -1)
    other_forward, other_backward = attention.directions(x.flip(1), mask.flip(1)).chunk(2, -1)
    close(other_forward.flip(1), backward)
    close(other_backward.flip(1), forward)
    assert (forward - backward).abs().max() > 0.1


def test_batch_independence():
    # A sample alone, without its padding, gives what it gives beside longer ones; the released code fails this.
    attention = shaken(BiGLA(DIM, 4))
    x, mask = sequence()
    together = attention(x, mask)
    for row, length in enumerate((20, 13, 1)):
        alone = attention(x[row : row + 1, :length], mask[row : row + 1, :length])
        close(together[row, :length], alone[0])


def test_what_stands_in_the_padding_does_not_matter():
    attention = shaken(BiGLA(DIM, 4))
    x, mask = sequence()
    close(attention(torch.where(mask[..., None], x, 7.0), mask)[mask], attention(x, mask)[mask], 1e-6)


def test_first_half_is_causal_and_second_half_the_other_way_round():
    attention = shaken(BiGLA(DIM, 4))
    x, mask = sequence(lengths=(20,))
    other = x.clone()
    other[:, 9] += 1
    change = (attention.directions(x, mask) - attention.directions(other, mask)).abs()
    forward, backward = (half.amax(-1)[0] for half in change.chunk(2, -1))
    assert (forward[:9] < 1e-6).all() and (forward[9:] > 1e-4).all()
    assert (backward[10:] < 1e-6).all() and (backward[:10] > 1e-4).all()


def test_directions_follow_the_page():
    # RMSNorm of each head, times SiLU of a gate; g = log σ(low rank) / 16.
    attention = shaken(BiGLA(DIM, 4, expand=0.5))
    x, mask = sequence(lengths=(9, 9))
    q, k, v, gate = (
        layer(x).view(2, 9, 4, 4) for layer in (attention.query, attention.key, attention.value, attention.gate)
    )
    low_rank = x @ attention.decay[0].weight.T @ attention.decay[1].weight.T + attention.decay[1].bias
    out = recurrence(q, k, v, low_rank.sigmoid().log().view(2, 9, 4, 4) / 16)
    out = out / (out.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.norm.weight
    out = (out * gate * gate.sigmoid()).flatten(-2)
    close(attention.directions(x, mask)[..., :16], out)
    assert attention.decay[0].weight.shape == (16, DIM)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="30 key channels do not divide into 4 heads"):
        BiGLA(30, 4)


@pytest.mark.parametrize("backbone", ["gru", "linear", ""])
def test_unknown_backbones_are_refused(backbone):
    with pytest.raises(ValueError, match="must be softmax or gla"):
        EncoderLayer(DIM, 4, 48, backbone)


# ---------------------------------------------------------------------------------------------------- pooling


def test_pairs_of_valid_tokens_give_their_mean_and_half_valid_ones_the_valid_token():
    x = torch.randn(1, 6, DIM, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False, False, False]])
    pooled, after = pool_pairs(x, mask)
    assert after.tolist() == [[True, True, False]]
    # The 1e-5 in the reference's denominator shows.
    close(pooled[:, 0], x[:, :2].mean(1) * (1 - 5e-6), 1e-6)
    close(pooled[:, 1], x[:, 2], 5e-5)
    assert not pooled[:, 2].any()


@pytest.mark.parametrize("length", [1, 7])
def test_an_odd_token_is_refused(length):
    with pytest.raises(ValueError, match=f"{length} tokens do not make pairs"):
        pool_pairs(torch.zeros(1, length, 4), torch.ones(1, length, dtype=torch.bool))


@pytest.mark.parametrize("length, fits", [(8, True), (16, True), (4, False), (12, False), (9, False)])
@backbones
def test_lengths_that_do_not_halve_often_enough_are_refused(length, fits, backbone):
    encoder = EventEncoder(DIM, 3, 4, 48, backbone, pool=True)
    x, mask = sequence(lengths=(length, length // 2))
    if fits:
        assert encoder(x, mask).shape == (2, DIM)
    else:
        with pytest.raises(ValueError, match=f"{length} tokens cannot be halved 3 times: pad to a multiple of 8"):
            encoder(x, mask)


# ---------------------------------------------------------------------------------------------------- the classifier


@backbones
@embeddings
@pytest.mark.parametrize("time", ["dt", "absolute", "time2vec", None])
def test_padding_leaves_logits_unchanged(kind, backbone, time):
    net, batch = classifier(kind, backbone, time), events_of(lengths=(24, 17, 1, 9))
    with torch.no_grad():
        if time == "dt":
            # One event has no time difference; that is warned of once for both.
            with pytest.warns(UserWarning, match="share one time"):
                logits, padded = net(batch), net(with_padding(batch, 11))
        else:
            logits, padded = net(batch), net(with_padding(batch, 11))
        close(padded, logits)
        # …and a sample alone, without any, gives what it gives in the batch.
        close(net(EventBatch(*(part[1:2, :17] for part in parts_of(batch)))), logits[1:2])
    assert logits.std(0).min() > 1e-4


@backbones
def test_padding_leaves_logits_unchanged_with_pooling_too(backbone):
    net, batch = classifier(backbone=backbone, pool=True), events_of(lengths=(24, 18, 2))
    with torch.no_grad():
        close(net(with_padding(batch, 8)), net(batch))


@backbones
def test_gradients_do_not_come_from_padding(backbone):
    net, batch, gradients = classifier("neighbour", backbone), events_of(lengths=(24, 17)), []
    for each in (batch, with_padding(batch, 6)):
        net.zero_grad()
        net(each).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    for ours, padded in zip(*gradients, strict=True):
        close(padded, ours, 1e-4 * max(1.0, float(ours.abs().max())))


def moved(batch, start=0.0, unit=1.0):
    return EventBatch(torch.where(batch.mask, (batch.t + start) * unit, -1), *parts_of(batch)[1:])


@backbones
@embeddings
def test_the_second_version_knows_neither_clock_nor_unit(kind, backbone):
    net, batch = classifier(kind, backbone), events_of(lengths=(24, 17))
    with torch.no_grad():
        logits = net(batch)
        for start, unit in ((0, 0.5), (0, 1e-6), (1e9, 1.0), (-1e5, 3.7)):
            close(net(moved(batch, start, unit)), logits)


@pytest.mark.parametrize("time", ["absolute", "time2vec"])
def test_the_first_version_notices_double_speed(time):
    net, batch = classifier(time=time), events_of()
    with torch.no_grad():
        assert (net(moved(batch, unit=0.5)) - net(batch)).abs().max() > 1e-3


def shuffled(batch, seed=0):
    """Whole events in another order, valid ones first as before."""
    order = torch.argsort(torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(seed)) + ~batch.mask, 1)
    return EventBatch(*(part.gather(1, order) for part in parts_of(batch)))


@embeddings
def test_without_time_softmax_attention_cannot_tell_order(kind):
    net, batch = classifier(kind, time=None), events_of(lengths=(24, 17))
    with torch.no_grad():
        close(net(shuffled(batch)), net(batch))


def test_with_time_or_with_a_state_it_can():
    batch = events_of(lengths=(24, 17))
    # The same places in another order under the same times.
    other = EventBatch(batch.t, *parts_of(shuffled(batch))[1:])
    with torch.no_grad():
        for net in (classifier(), classifier(time="absolute"), classifier(backbone="gla", time=None)):
            assert (net(other) - net(batch)).abs().max() > 1e-3


@backbones
def test_any_number_of_events_is_read_by_one_net(backbone):
    net = classifier(backbone=backbone)
    for length in (2, 16, 100):
        assert net(events_of(length=length)).shape == (3, 5)


@backbones
def test_one_time_for_all_events_is_warned_of_and_gives_numbers(backbone):
    net, batch = classifier(backbone=backbone), events_of()
    with pytest.warns(UserWarning, match="share one time"):
        logits = net(EventBatch(torch.full_like(batch.t, 7.0), *parts_of(batch)[1:]))
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda b: EventBatch(b.t.flip(1), *parts_of(b)[1:]), "times go backwards"),
        (lambda b: EventBatch(b.t, b.y + SIDE, b.x, b.p, b.mask), "y runs from"),
        (lambda b: EventBatch(b.t, b.y, b.x - 1, b.p, b.mask), "x runs from"),
        (lambda b: EventBatch(b.t, b.y, b.x, b.p + 1, b.mask), "p runs from"),
        (lambda b: EventBatch(b.t, b.y, b.x, b.p, b.mask & False), "holds no events"),
    ],
)
def test_bad_events_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        classifier()(spoil(events_of()))


# ---------------------------------------------------------------------------------------------------- sizes


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "kind, weights", [("table", 66_804), ("factorised", 36_084), ("neighbour", 36_094), ("parametric", 36_804)]
)
def test_published_weight_counts(kind, weights):
    net = EventClassifier(EMBEDDINGS[kind](2, 16, 16, 64), DeltaTimeConv(64), EventEncoder(64, 1, 4, 128), 4)
    assert count(net) == weights


def megabytes(weights):
    return round(4 * weights / 2**20, 3)


def test_size_of_the_net_for_asl_dvs_is_the_logs():
    encoder = EventEncoder(64, 2, 2, 128, "gla")
    net = EventClassifier(ParametricEmbedding(2, 180, 240, 64), DeltaTimeConv(64), encoder, 24)
    assert count(net) == 91_800 and megabytes(count(net)) == 0.350


def test_size_of_the_net_for_dvs_gesture_is_the_logs_but_for_six_norms():
    # The released net ends each of its seven stages with a LayerNorm of its own, ours only the last.
    encoder = EventEncoder(128, 7, 4, 256, "gla", pool=True, expand=0.5)
    net = EventClassifier(ParametricEmbedding(2, 128, 128, 128), DeltaTimeConv(128), encoder, 11)
    assert megabytes(count(net) + 6 * 2 * 128) == 3.218


def test_the_voxel_nets_weights_are_the_pages():
    assert count(VoxelNet(3, 16, 4)) == 2_684
    assert VoxelNet(3, 16, 4)(torch.zeros(5, 6, 16, 16)).shape == (5, 4)


@pytest.mark.parametrize("bins, side", [(3, 18), (3, 15), (0, 16)])
def test_voxel_nets_that_do_not_pool_are_refused(bins, side):
    with pytest.raises(ValueError, match=f"side is {side}, bins {bins}"):
        VoxelNet(bins, side, 4)


@backbones
def test_a_short_training_learns_which_half_of_the_sensor_is_lit(backbone):
    # Not a claim of the page: the parts are joined so that gradients reach all of them.
    net = classifier("factorised", backbone, layers=1)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    for step in range(40):
        batch = events_of(step, 16, 12)
        labels = torch.arange(16) % 2
        x = batch.x // 2 + 4 * labels[:, None]
        loss = torch.nn.functional.cross_entropy(net(EventBatch(batch.t, batch.y, x, batch.p, batch.mask)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
