"""The four cores against the official layers, against the kernels they amount to, and what must hold for any of them."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.statten.tensor_train import (
    MODES,
    TTConv2d,
    cross_cores,
    full_timesteps,
    merge_ttconv,
    tt_reconstruct,
    tt_svd,
)

FILE = np.load(Path(__file__).parents[1] / "golden" / "tt_snn.npz")
LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)
PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-12)]

quick = settings(max_examples=30, deadline=None, derandomize=True)


def golden(key):
    return torch.from_numpy(FILE[key]).float()


def spikes(*shape, rate=0.3):
    return (torch.rand(shape, dtype=torch.float64) < rate).double()


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def layer_of(cores, mode, full_steps=None):
    made = TTConv2d(cores[0].shape[1], cores[3].shape[0], len(cores[0]), mode, full_steps=full_steps)
    for core, weight in zip(made.cores, cores, strict=True):
        core.weight.data = weight
    return made.requires_grad_(False)


def convolution(weight):
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    made.weight.data = weight
    return made


def without_corners(weight):
    cross = weight.clone()
    cross[:, :, ::2, ::2] = 0
    return cross


def planted(o, i, rank):
    """A kernel that is a train of this rank, and no lower one."""
    return tt_reconstruct(
        (normal(rank, i, 1, 1), normal(rank, rank, 3, 1), normal(rank, rank, 1, 3), normal(o, rank, 1, 1))
    )


def unfoldings(weight):
    """The three matrices whose ranks are the bonds of the train (I, 3, 3, O)."""
    train = weight.permute(1, 2, 3, 0)
    return [train.flatten(0, axis).flatten(1) for axis in range(3)]


def one_after_the_other(layer, x):
    """The equations of the module docstring, a timestep at a time."""
    first, second, third, fourth = layer.cores
    full = full_timesteps(layer.mode, layer.full_steps, len(x))
    steps = []
    for t, now in enumerate(x):
        z = first(now)
        if t < full:
            z = third(second(z)) if layer.mode == "stt" else (second(z) + third(z)) / 2
        y = fourth(z)
        steps.append(F.max_pool2d(y, 2) if layer.downsample else y)
    return torch.stack(steps)


@st.composite
def layers(draw, modes=MODES, pool=st.booleans()):
    """A layer in float64, its rank below or above its channels, and spikes for it."""
    torch.manual_seed(draw(st.integers(0, 999)))
    i, o, rank, t = (draw(st.integers(1, 5)) for _ in range(4))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    full = draw(st.none() | st.integers(0, t))
    made = TTConv2d(i, o, rank, draw(st.sampled_from(modes)), draw(pool), full).double().requires_grad_(False)
    return made, spikes(t, 2, i, 2 * height, 2 * width)


@st.composite
def kernels(draw, square=False):
    torch.manual_seed(draw(st.integers(0, 999)))
    o = draw(st.integers(1, 6))
    return normal(o, o if square else draw(st.integers(1, 6)), 3, 3)


# ---------------------------------------------------------------------------------------------------- golden vectors


def official(shape, mode):
    made = TTConv2d(12, 12 if shape == "same" else 20, 5, mode, shape == "down", 2 if mode == "htt" else None)
    made.load_state_dict({k: golden(f"tt/{shape}/w/{k}") for k in made.state_dict()})
    return made


@pytest.mark.parametrize("shape", ["same", "down"])
@pytest.mark.parametrize("mode", MODES)
def test_golden_layer_and_its_merged_kernel(shape, mode):
    made = official(shape, mode)
    with torch.no_grad():
        for net in (made, merge_ttconv(made)):
            assert torch.allclose(net(golden("tt/x")), golden(f"{mode}/{shape}/y"), atol=1e-5)


@pytest.mark.parametrize("rank", FILE["svd/req"].tolist())
def test_golden_svd(rank):
    weight = golden("svd/W")
    cores = tt_svd(weight, rank)
    found = tt_reconstruct(cores)
    assert [c.shape[0] for c in cores[:3]] == FILE[f"svd/rank{rank}/ranks"].tolist()
    assert abs(float((found - weight).norm() / weight.norm()) - float(FILE[f"svd/rank{rank}/rel_err"])) < 1e-5
    if rank < 12:
        assert torch.allclose(found, golden(f"svd/rank{rank}/recon"), atol=5e-4)


# ---------------------------------------------------------------------------------------------------- the pipelines


@quick
@given(layers())
def test_layer_is_its_cores_one_after_the_other(case):
    layer, x = case
    assert torch.allclose(layer(x), one_after_the_other(layer, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_merged_is_factored(mode, pool, dtype, tolerance):
    layer = TTConv2d(12, 20, 5, mode, pool).to(dtype)
    x = spikes(4, 2, 12, 6, 8).to(dtype)
    assert layer(x).abs().max() > 0.1
    assert (merge_ttconv(layer)(x) - layer(x)).abs().max() <= tolerance


@quick
@given(layers())
def test_merged_is_factored_for_any_shape_and_split(case):
    layer, x = case
    assert torch.allclose(merge_ttconv(layer)(x), layer(x), rtol=0, atol=1e-12)


def test_merged_kernel_is_the_sum_over_the_bonds():
    layer = TTConv2d(2, 3, 2, "stt").double().requires_grad_(False)
    first, second, third, fourth = (core.weight for core in layer.cores)
    kernel, late = layer.merged_kernels()
    expected = torch.zeros(3, 2, 3, 3, dtype=torch.float64)
    for o, i, a, b, p, q, r in itertools.product(*map(range, (3, 2, 3, 3, 2, 2, 2))):
        expected[o, i, a, b] += first[p, i, 0, 0] * second[q, p, a, 0] * third[r, q, 0, b] * fourth[o, r, 0, 0]
    assert torch.allclose(kernel, expected) and late is None


@quick
@given(layers(modes=("ptt", "htt")))
def test_corners_of_the_parallel_kernel_are_exactly_zero(case):
    kernel, _ = case[0].merged_kernels()
    assert not kernel[:, :, ::2, ::2].any()
    assert kernel[:, :, 1].any() and kernel[:, :, :, 1].any()


@quick
@given(layers())
def test_merged_kernels_have_no_more_than_the_rank(case):
    layer, _ = case
    for kernel in layer.merged_kernels():
        if kernel is not None:
            assert torch.linalg.matrix_rank(kernel.flatten(1)) <= layer.rank


def test_only_the_third_pipeline_has_a_late_kernel():
    late = {mode: TTConv2d(4, 6, 3, mode).merged_kernels()[1] for mode in MODES}
    assert late["stt"] is None and late["ptt"] is None and late["htt"].shape == (6, 4, 1, 1)


def test_merged_layer_keeps_its_weights_when_the_cores_train_on():
    layer, x = TTConv2d(3, 4, 2), spikes(2, 1, 3, 4, 4).float()
    merged = merge_ttconv(layer)
    before = merged(x)
    nn.init.zeros_(layer.first_layer.weight)
    assert torch.equal(merged(x), before) and not layer(x).any()
    assert [name for name, _ in merged.named_parameters()] == ["full.weight"]


@quick
@given(layers(modes=("htt",)))
def test_all_steps_full_is_the_parallel_pipeline(case):
    layer, x = case
    layer.full_steps = len(x)
    found = layer(x)
    layer.mode = "ptt"
    assert torch.equal(found, layer(x))


@quick
@given(layers(modes=("htt",), pool=st.just(False)))
def test_no_step_full_is_a_pointwise_convolution(case):
    layer, x = case
    layer.full_steps = 0
    pointwise = layer.fourth_layer.weight[:, :, 0, 0] @ layer.first_layer.weight[:, :, 0, 0]
    assert torch.allclose(layer(x), torch.einsum("oi,tbihw->tbohw", pointwise, x), rtol=0, atol=1e-12)


@quick
@given(layers(modes=("htt",)))
def test_early_steps_are_those_of_the_parallel_pipeline_and_late_ones_pointwise(case):
    layer, x = case
    full, found = full_timesteps(layer.mode, layer.full_steps, len(x)), layer(x)
    layer.full_steps = 0
    assert torch.allclose(found[full:], layer(x)[full:], rtol=0, atol=1e-12)
    layer.mode = "ptt"
    assert torch.allclose(found[:full], layer(x)[:full], rtol=0, atol=1e-12)


def test_any_split_of_any_number_of_timesteps_runs():
    for steps in range(1, 7):
        for full in (None, *range(steps + 1)):
            y = TTConv2d(2, 3, 2, "htt", full_steps=full)(spikes(steps, 2, 2, 3, 4).float())
            assert y.shape == (steps, 2, 3, 3, 4) and y.flatten(1).any(1).all()


@pytest.mark.parametrize("steps, full", [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 4)])
def test_half_of_the_steps_are_full_unless_told_otherwise(steps, full):
    assert full_timesteps("htt", None, steps) == full
    assert full_timesteps("stt", None, steps) == full_timesteps("ptt", None, steps) == steps


@quick
@given(layers(pool=st.just(False)), st.floats(-3, 3), st.floats(-3, 3))
def test_a_layer_without_pool_is_linear(case, alpha, beta):
    layer, x = case
    y = normal(*x.shape)
    assert torch.allclose(layer(alpha * x + beta * y), alpha * layer(x) + beta * layer(y), rtol=0, atol=1e-10)


def test_a_layer_with_pool_is_not_linear():
    layer, x = TTConv2d(3, 3, 2, downsample=True), spikes(1, 2, 3, 4, 4).float()
    assert not torch.allclose(layer(-x), -layer(x), atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_every_core(mode):
    layer = TTConv2d(3, 4, 2, mode, full_steps=1 if mode == "htt" else None)
    layer(spikes(2, 2, 3, 4, 4).float()).square().sum().backward()
    assert all(core.weight.grad.abs().max() > 0 for core in layer.cores)


def test_without_full_steps_the_middle_cores_learn_nothing():
    layer = TTConv2d(3, 4, 2, "htt", full_steps=0)
    layer(spikes(2, 2, 3, 4, 4).float()).square().sum().backward()
    assert [core.weight.grad is None for core in layer.cores] == [False, True, True, False]


def test_cores_start_uniform_within_the_bounds_of_kaiming():
    for core in TTConv2d(40, 50, 30).cores:
        bound = math.sqrt(6 / core.weight[0].numel())
        assert 0.95 * bound < core.weight.abs().max() <= bound and core.bias is None


def test_same_seed_same_cores():
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(torch.cat([core.weight.flatten() for core in TTConv2d(3, 4, 2).cores]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


# ---------------------------------------------------------------------------------------------------- decomposition


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("o, i", [(20, 12), (12, 20), (8, 8), (1, 5), (5, 1)])
def test_full_ranks_reconstruct(o, i, dtype, tolerance):
    weight = normal(o, i, 3, 3).to(dtype)
    found = tt_reconstruct(tt_svd(weight, 3 * max(o, i)))
    assert found.dtype == dtype and (found - weight).norm() <= tolerance * weight.norm()


@quick
@given(kernels(), st.tuples(*[st.integers(1, 12)] * 3))
def test_ranks_are_capped_by_what_unfoldings_can_have(weight, ranks):
    o, i = weight.shape[:2]
    first, second, third, fourth = tt_svd(weight, ranks)
    r1 = min(ranks[0], i, 9 * o)
    r2 = min(ranks[1], 3 * r1, 3 * o)
    r3 = min(ranks[2], 3 * r2, o)
    assert first.shape == (r1, i, 1, 1) and second.shape == (r2, r1, 3, 1)
    assert third.shape == (r3, r2, 1, 3) and fourth.shape == (o, r3, 1, 1)


@quick
@given(kernels())
def test_error_falls_with_the_rank(weight):
    errors = [float((tt_reconstruct(tt_svd(weight, rank)) - weight).norm()) for rank in range(1, 19)]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors)) and errors[-1] < 1e-12


@quick
@given(kernels(), st.tuples(*[st.integers(1, 12)] * 3))
def test_error_is_at_most_what_the_three_unfoldings_dropped(weight, ranks):
    dropped = sum(
        float(torch.linalg.svdvals(matrix)[rank:].square().sum())
        for matrix, rank in zip(unfoldings(weight), ranks, strict=True)
    )
    error = float((tt_reconstruct(tt_svd(weight, ranks)) - weight).norm())
    assert error <= math.sqrt(dropped) + 1e-12


def test_one_rank_stands_for_three():
    weight = normal(5, 4, 3, 3)
    for one, three in zip(tt_svd(weight, 2), tt_svd(weight, (2, 2, 2)), strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_kernel_that_is_a_train_is_found_at_its_rank(rank):
    weight = planted(7, 6, rank)
    assert [int(torch.linalg.matrix_rank(matrix)) for matrix in unfoldings(weight)] == [rank] * 3
    assert (tt_reconstruct(tt_svd(weight, rank)) - weight).norm() < 1e-12 * weight.norm()


def between(left, core, right):
    return torch.einsum("ab,bcde,cf->afde", left, core, right.inverse())


@quick
@given(layers())
def test_a_matrix_and_its_inverse_fit_between_any_two_cores(case):
    layer, _ = case
    before = layer.merged_kernels()[0]
    end = torch.eye(layer.rank, dtype=torch.float64)
    one, two, three = (3 * end + torch.rand_like(end) for _ in range(3))
    first, second, third, fourth = layer.cores
    first.weight.data = torch.einsum("ab,bcde->acde", one, first.weight)
    # The branches of the parallel pipelines read the same and are added.
    second.weight.data = between(two if layer.mode == "stt" else three, second.weight, one)
    third.weight.data = between(three, third.weight, two if layer.mode == "stt" else one)
    fourth.weight.data = torch.einsum("acde,cf->afde", fourth.weight, three.inverse())
    assert torch.allclose(layer.merged_kernels()[0], before, rtol=0, atol=1e-10)


@quick
@given(kernels(square=True))
def test_cross_is_exact_at_full_rank(weight):
    kernel, _ = layer_of(cross_cores(weight, len(weight)), "ptt").merged_kernels()
    assert torch.allclose(kernel, without_corners(weight), rtol=0, atol=1e-12)


@quick
@given(kernels(), st.integers(1, 6))
def test_cross_loses_no_more_than_its_two_frames_drop(weight, rank):
    rank = min(rank, *weight.shape[:2])
    cross = without_corners(weight)
    kernel, _ = layer_of(cross_cores(weight, rank), "ptt").merged_kernels()
    dropped = sum(
        float(torch.linalg.svdvals(frame)[rank:].square().sum())
        for frame in (cross.flatten(1), cross.transpose(0, 1).flatten(1))
    )
    assert float((kernel - cross).norm()) <= math.sqrt(dropped) + 1e-12


@quick
@given(kernels())
def test_error_of_the_cross_falls_with_the_rank(weight):
    cross, ranks = without_corners(weight), range(1, 1 + min(weight.shape[:2]))
    errors = [float((layer_of(cross_cores(weight, r), "ptt").merged_kernels()[0] - cross).norm()) for r in ranks]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("o, i", [(1, 1), (4, 4), (3, 6)])
def test_cross_of_a_laplace_kernel_needs_rank_one(o, i):
    weight = torch.einsum("o,i,ab->oiab", normal(o), normal(i), LAPLACE)
    kernel, _ = layer_of(cross_cores(weight, 1), "ptt").merged_kernels()
    assert torch.allclose(kernel, weight, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- from a dense kernel


@pytest.mark.parametrize("pool", [False, True])
def test_sequential_layer_is_the_convolution_it_came_from_at_the_borders_too(pool):
    conv, x = convolution(planted(7, 6, 6)), spikes(3, 2, 6, 4, 6)
    layer = TTConv2d.from_dense(conv, 6, "stt", pool)
    expected = conv(x.flatten(0, 1)).unflatten(0, (3, 2))
    expected = F.max_pool2d(expected.flatten(0, 1), 2).unflatten(0, (3, 2)) if pool else expected
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["ptt", "htt"])
def test_parallel_layer_is_the_convolution_without_its_corners(mode):
    weight, x = normal(5, 5, 3, 3), spikes(3, 2, 5, 4, 6)
    layer = TTConv2d.from_dense(convolution(weight), 5, mode, full_steps=3 if mode == "htt" else None)
    expected = F.conv2d(x.flatten(0, 1), without_corners(weight), padding=1).unflatten(0, (3, 2))
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_layer_from_a_dense_one_has_the_cores_of_its_decomposition(mode):
    conv = convolution(normal(6, 4, 3, 3))
    kept = conv.weight.detach().clone()
    layer = TTConv2d.from_dense(conv, 3, mode, True, 1)
    expected = tt_svd(kept, 3) if mode == "stt" else cross_cores(kept, 3)
    assert all(torch.equal(core.weight, weight) for core, weight in zip(layer.cores, expected, strict=True))
    assert (layer.mode, layer.rank, layer.downsample, layer.full_steps) == (mode, 3, True, 1)
    assert layer.first_layer.weight.dtype == torch.float64 and all(p.requires_grad for p in layer.parameters())
    assert torch.equal(conv.weight, kept)


@pytest.mark.parametrize(
    "change",
    [
        {"padding": 0},
        {"padding": "same"},
        {"stride": 2},
        {"dilation": 2},
        {"groups": 2},
        {"bias": True},
        {"kernel_size": 5, "padding": 2},
    ],
    ids=str,
)
def test_dense_layer_must_be_a_plain_one(change):
    plain = {"kernel_size": 3, "padding": 1, "bias": False}
    with pytest.raises(ValueError, match=r"conv is Conv2d\(4, 4.*but a 3×3 convolution with padding 1, stride 1"):
        TTConv2d.from_dense(nn.Conv2d(4, 4, **plain | change), 2)


@pytest.mark.parametrize("mode", MODES)
def test_rank_of_a_dense_layer_is_at_most_its_channels(mode):
    with pytest.raises(ValueError, match=r"rank is 5, but \D*\(6, 4, 3, 3\) has at most 4"):
        TTConv2d.from_dense(convolution(normal(6, 4, 3, 3)), 5, mode)


# ---------------------------------------------------------------------------------------------------- bad input

RANKS = [0, -3, 2.0, True, "2", None]


@pytest.mark.parametrize("rank", RANKS)
def test_rank_must_be_a_whole_number_of_at_least_one(rank):
    said = rf"rank is {rank!r}, but it must be a whole number of at least 1"
    with pytest.raises(ValueError, match=said):
        TTConv2d(4, 4, rank)
    with pytest.raises(ValueError, match=said):
        TTConv2d.from_dense(convolution(normal(4, 4, 3, 3)), rank)
    with pytest.raises(ValueError, match=said):
        cross_cores(normal(4, 4, 3, 3), rank)
    with pytest.raises(ValueError, match=said):
        tt_svd(normal(4, 4, 3, 3), (2, rank, 2))


@pytest.mark.parametrize("rank", [0, -3, True])
def test_one_rank_of_a_train_must_be_at_least_one(rank):
    with pytest.raises(ValueError, match=f"rank is {rank}, but it must be a whole number of at least 1"):
        tt_svd(normal(4, 4, 3, 3), rank)


@pytest.mark.parametrize("ranks", [(), (2,), (2, 2), (2, 2, 2, 2)])
def test_a_train_has_three_ranks(ranks):
    with pytest.raises(ValueError, match=r"rank is \(.*\), but one number or three are needed"):
        tt_svd(normal(4, 4, 3, 3), ranks)


@pytest.mark.parametrize("shape", [(4, 4, 5, 5), (4, 4, 3, 1), (4, 4, 1, 1), (4, 36), (4, 4, 3, 3, 3)])
@pytest.mark.parametrize("decompose", [tt_svd, cross_cores])
def test_kernel_must_be_three_by_three(decompose, shape):
    said = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"weight has shape \({said}\), but a 3×3 kernel"):
        decompose(normal(*shape), 2)


def test_cross_has_no_more_rank_than_channels():
    with pytest.raises(ValueError, match=r"rank is 5, but a cross of \(6, 4, 3, 3\) has at most 4"):
        cross_cores(normal(6, 4, 3, 3), 5)


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode is 'parallel', but it must be one of stt, ptt, htt"):
        TTConv2d(4, 4, 2, "parallel")


@pytest.mark.parametrize(
    "i, o, full, said",
    [(0, 4, None, "in_channels is 0"), (4, -1, None, "out_channels is -1"), (4, 4, -1, "full_steps is -1")],
)
def test_channels_and_full_steps_must_not_be_negative(i, o, full, said):
    with pytest.raises(ValueError, match=said):
        TTConv2d(i, o, 2, "htt", full_steps=full)


def both(*args, **more):
    layer = TTConv2d(*args, **more)
    return [layer, merge_ttconv(layer)]


def test_no_more_full_steps_than_timesteps():
    for net in both(3, 3, 2, "htt", full_steps=5):
        assert net(torch.zeros(5, 1, 3, 4, 4)).shape == (5, 1, 3, 4, 4)
        with pytest.raises(ValueError, match=r"full_steps is 5, but it must be a whole number in \[0, 4\]"):
            net(torch.zeros(4, 1, 3, 4, 4))


@pytest.mark.parametrize("height, width", [(5, 4), (4, 5), (1, 1)])
def test_odd_sides_cannot_be_halved(height, width):
    for net in both(3, 3, 2, downsample=True):
        with pytest.raises(ValueError, match=f"x is {height}×{width} pixels, but downsample needs even sides"):
            net(torch.zeros(2, 1, 3, height, width))
    for net in both(3, 3, 2):
        assert net(torch.zeros(2, 1, 3, height, width)).shape == (2, 1, 3, height, width)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 3, 4, 4), (2, 1, 1, 3, 4, 4), (0, 1, 3, 4, 4)])
def test_spikes_have_five_axes(shape):
    said = ", ".join(map(str, shape))
    for net in both(3, 3, 2):
        with pytest.raises(ValueError, match=rf"x has shape \({said}\), but spikes \[T, B, I, H, W\] are needed"):
            net(torch.zeros(shape))


@pytest.mark.parametrize("rank", [2.5, "3", None, 0])
def test_a_rank_is_a_whole_number_in_the_decomposition_too(rank):
    with pytest.raises(ValueError, match="rank is"):
        tt_svd(torch.randn(4, 4, 3, 3), rank)


def test_a_number_from_numpy_is_a_number():
    assert tt_svd(torch.randn(6, 6, 3, 3), np.int64(3))[0].shape[0] == 3


def test_later_timesteps_of_a_dense_kernel_see_its_centre():
    conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
    cross, late = TTConv2d.from_dense(conv, 6, "htt").merged_kernels()
    assert torch.allclose(late[:, :, 0, 0], conv.weight[:, :, 1, 1], atol=1e-4)
    assert torch.allclose(cross[:, :, 1, :], conv.weight[:, :, 1, :], atol=1e-4)


def test_a_cross_without_a_centre_is_found_all_the_same():
    weight = torch.tensor([[0.0, 1, 0], [-1, 0, -1], [0, 1, 0]])[None, None]
    layer = TTConv2d(1, 1, 1, "ptt")
    for core, found in zip(layer.cores, cross_cores(weight, 1), strict=True):
        core.weight.data = found
    assert torch.allclose(layer.merged_kernels()[0], weight, atol=1e-6)


def test_only_zeros_may_lie_around_the_picture():
    with pytest.raises(ValueError, match="conv is"):
        TTConv2d.from_dense(nn.Conv2d(4, 4, 3, padding=1, bias=False, padding_mode="circular"), 2)


def test_a_merged_layer_is_free_of_the_one_it_came_from():
    layer = TTConv2d(3, 4, 2, "htt", full_steps=1)
    merged, x = merge_ttconv(layer), torch.rand(4, 2, 3, 6, 6)
    before = merged(x)
    layer.full_steps = 3
    assert torch.equal(merged(x), before)
