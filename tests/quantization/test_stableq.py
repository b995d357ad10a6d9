"""StableQ's filters and dreams: the authors' formulas, exact counts, pixels left alone, and what is refused."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.models.batchnorm import ChannelMoments, batchnorms, moments, recompute_batchnorm
from helpers.models.cnn import Cnn, logits_of
from helpers.models.vit import glyph_vit
from helpers.quantization import stableq
from helpers.quantization.stableq import (
    bn_distance,
    bn_inversion,
    bn_sensitivity,
    energy_score,
    filter_by_bn,
    filter_by_energy,
    filter_by_patches,
    least_sensitive,
    lowest,
    patch_entropy,
    removal_order,
)

quick = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**20)
TEMPERATURES = st.sampled_from([0.25, 0.5, 1.0, 2.0, 5.0])


@pytest.fixture(scope="module")
def formulas():
    """Logits and inputs of two batch norms with what a plain float64 evaluation makes of them."""
    with np.load(Path(__file__).parents[1] / "golden" / "stableq.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def vit():
    return glyph_vit()


def network(seed=0, classes=4):
    """Batch norms that remember other pictures than the tests show."""
    torch.manual_seed(seed)
    model = Cnn((4, 6), (1, 2), classes)
    recompute_batchnorm(model, [0.5 * pictures(40, seed + 1)])
    return model.eval().requires_grad_(False)


def pictures(n=16, seed=0):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def draw(n, classes, seed=0, scale=3.0):
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------------------------- golden


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_golden_energies(formulas, temperature):
    found = energy_score(formulas["logits"], temperature)
    torch.testing.assert_close(found, formulas[f"energy_{temperature}"], rtol=1e-12, atol=1e-12)


def test_golden_distance_and_sensitivities(formulas):
    names = ("bn_input", "running_mean", "running_var")
    found = ChannelMoments.of(*([formulas[f"{name}_{layer}"] for layer in (0, 1)] for name in names))
    assert found.distance() == pytest.approx(formulas["d_bn"].item(), abs=1e-6)
    torch.testing.assert_close(found.sensitivity(), formulas["bn_sensitivity"], rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- energy


@quick
@given(st.integers(1, 12), TEMPERATURES, SEEDS)
def test_energy_is_its_formula_and_lies_between_its_bounds(classes, temperature, seed):
    logits = draw(5, classes, seed)
    found = energy_score(logits, temperature)
    assert found.shape == (5,)
    for row, energy in zip(logits.tolist(), found.tolist(), strict=True):
        plain = -temperature * math.log(sum(math.exp(f / temperature) for f in row))
        assert energy == pytest.approx(plain, abs=1e-9)
        assert energy <= -max(row) + 1e-12
        assert max(row) + energy >= -temperature * math.log(classes) - 1e-12


@quick
@given(st.integers(2, 12), TEMPERATURES, st.floats(-50, 50), SEEDS)
def test_energy_keeps_the_scale_that_softmax_discards(classes, temperature, shift, seed):
    logits = draw(5, classes, seed)
    moved = energy_score(logits + shift, temperature)
    torch.testing.assert_close(moved, energy_score(logits, temperature) - shift, rtol=0, atol=1e-9)
    torch.testing.assert_close((logits + shift).softmax(-1), logits.softmax(-1))
    # Temperature only stretches: the energy of f at τ is τ times that of f/τ at 1.
    torch.testing.assert_close(energy_score(logits, temperature), temperature * energy_score(logits / temperature))


@quick
@given(st.integers(2, 12), SEEDS)
def test_energy_falls_with_its_temperature_from_minus_the_largest_logit(classes, seed):
    logits = draw(5, classes, seed)
    cold = energy_score(logits, 1e-4)
    torch.testing.assert_close(cold, -logits.amax(-1), rtol=0, atol=1e-4 * math.log(classes) + 1e-12)
    assert (energy_score(logits, 1.0) <= cold + 1e-12).all()
    assert (energy_score(logits, 2.0) <= energy_score(logits, 1.0) + 1e-12).all()


def test_energy_bears_large_logits_and_equal_ones():
    found = energy_score(torch.tensor([[1e4, -1e4], [-1e4, -1e4]], dtype=torch.float64))
    assert found.tolist() == pytest.approx([-1e4, 1e4 - math.log(2)])


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_temperature_that_cannot_be_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature}, but it must be above 0"):
        energy_score(torch.zeros(2, 3), temperature)
    with pytest.raises(ValueError, match="temperature"):
        filter_by_energy(network(), pictures(4), torch.arange(4), 2, temperature=temperature)


# -------------------------------------------------------------------------------------------- distance of a network


def test_distance_and_sensitivity_are_those_of_the_moments():
    model, x = network(), pictures()
    found = moments(model, x)
    assert bn_distance(model, x) == found.distance() > 0
    torch.testing.assert_close(bn_sensitivity(model, x), found.sensitivity())
    others = [bn_distance(model, torch.cat([x[:i], x[i + 1 :]])) for i in range(16)]
    # Float32 pictures: a network rounds a batch of 15 a little differently from one of 16.
    assert bn_sensitivity(model, x).tolist() == pytest.approx([found.distance() - d for d in others], abs=1e-5)


def test_own_training_pictures_are_nearer_than_others():
    model = network()
    assert bn_distance(model, 0.5 * pictures(40, 1)) < 0.1 * bn_distance(model, pictures(40, 1))


# ------------------------------------------------------------------------------------------------ filters in general


def filters(model, vit, y):
    """Every filter as (pictures, keep) -> indices."""
    return {
        "bn": lambda x, keep: filter_by_bn(model, x, keep),
        "energy": lambda x, keep: filter_by_energy(model, x, y[: len(x)], keep),
        "energy of all": lambda x, keep: filter_by_energy(model, x, y[: len(x)], keep, per_class=False),
        "patches": lambda x, keep: filter_by_patches(vit, x, keep),
    }


FILTERS = ["bn", "energy", "energy of all", "patches"]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("keep", [1, 2, 7, 15, 16])
def test_filters_keep_exactly_so_many_and_change_nothing(name, keep, vit):
    model, x, y = network(), pictures(), torch.arange(16) % 4
    before, networks = x.clone(), (state(model), state(vit))
    choose = filters(model, vit, y)[name]
    found = choose(x, keep)
    assert found.shape == (keep,) and found.dtype == torch.int64
    assert found.tolist() == sorted(set(found.tolist())) and 0 <= found.min() and found.max() < 16
    assert torch.equal(found, choose(x, keep))
    assert torch.equal(x, before) and torch.equal(x[found], before[found])
    assert unchanged(model, networks[0]) and unchanged(vit, networks[1])


@pytest.mark.parametrize("name", FILTERS)
def test_to_keep_all_is_the_order_of_the_input(name, vit):
    choose = filters(network(), vit, torch.arange(16) % 4)[name]
    assert choose(pictures(), 16).tolist() == list(range(16))
    assert choose(pictures(1), 1).tolist() == [0]


@pytest.mark.parametrize("name", FILTERS)
def test_counts_that_cannot_be_are_refused(name, vit):
    choose = filters(network(), vit, torch.arange(16) % 4)[name]
    with pytest.raises(ValueError, match="keep is 17, but there are only 16 pictures: generate more, or keep fewer"):
        choose(pictures(), 17)
    for keep in (0, -1, 2.0, True, None):
        with pytest.raises(ValueError, match=f"keep is {keep!r}, but it must be a whole number of at least 1"):
            choose(pictures(), keep)
    with pytest.raises(ValueError, match="there are 0 pictures, but"):
        choose(pictures(0), 1)


# ------------------------------------------------------------------------------------------------------ batch norm


def test_batch_norm_filter_brings_the_set_nearer_and_throws_planted_pictures_out():
    model = network()
    x = torch.cat([0.5 * pictures(24, 5), 1 - 0.2 * pictures(6, 6)])
    kept = filter_by_bn(model, x, 24)
    assert kept.tolist() == list(range(24))
    assert bn_distance(model, x[kept]) < 0.2 * bn_distance(model, x)


def test_rounds_look_again_after_each_portion():
    found = moments(network(), torch.cat([0.5 * pictures(12, 5), pictures(9, 6)]))
    kept = list(range(21))
    for size in (17, 13, 9, 5):  # 16 to remove in 4 portions of 4
        s = found.sensitivity(torch.tensor(kept)).tolist()
        order = sorted(range(len(kept)), key=lambda i, s=s: s[i])
        kept = sorted(kept[i] for i in order[:size])
    assert least_sensitive(found, 5, 4).tolist() == kept
    once = found.sensitivity().argsort()[:5].sort().values
    assert torch.equal(least_sensitive(found, 5, 1), once) and once.tolist() != kept


@quick
@given(st.integers(2, 30), st.integers(1, 30), st.integers(1, 40), SEEDS)
def test_any_number_of_rounds_ends_at_the_count(n, keep, rounds, seed):
    keep = min(keep, n)
    z = draw(n, 3, seed).view(n, 3, 1, 1)
    found = ChannelMoments.of([z], [torch.zeros(3)], [torch.ones(3)])
    kept = least_sensitive(found, keep, rounds)
    assert len(kept.unique()) == len(kept) == keep


@pytest.mark.parametrize("rounds", [0, -1, 1.5, True])
def test_rounds_that_cannot_be_are_refused(rounds):
    with pytest.raises(ValueError, match=f"rounds is {rounds!r}, but it must be a whole number of at least 1"):
        filter_by_bn(network(), pictures(), 4, rounds)


def test_a_network_without_batch_norm_is_sent_to_the_patches(vit):
    x = pictures(4)
    asks = (
        lambda: filter_by_bn(vit, x, 2),
        lambda: bn_distance(vit, x),
        lambda: bn_sensitivity(vit, x),
        lambda: bn_inversion(vit, 4),
    )
    for ask in asks:
        with pytest.raises(TypeError, match="ViT has no batch norm .* helpers.quantization.stableq.filter_by_patches"):
            ask()


@pytest.mark.parametrize("ask", [bn_distance, bn_sensitivity])
def test_no_pictures_have_no_statistics(ask):
    with pytest.raises(ValueError, match="there are 0 pictures, but statistics need at least one"):
        ask(network(), pictures(0))


def test_one_picture_cannot_be_left_out():
    with pytest.raises(ValueError, match="there are 1 pictures, but leaving one out needs at least 2"):
        bn_sensitivity(network(), pictures(1))


# ----------------------------------------------------------------------------------------------------- energy filter


def test_energy_filter_keeps_the_lowest():
    model, x = network(), pictures()
    energy = energy_score(logits_of(model, x), 2.0).tolist()
    expected = sorted(sorted(range(16), key=lambda i: energy[i])[:6])
    y = torch.zeros(16, dtype=torch.int64)
    assert filter_by_energy(model, x, y, 6, per_class=False, temperature=2.0).tolist() == expected
    assert filter_by_energy(model, x, y, 6, temperature=2.0).tolist() == expected  # one class is all of them


@quick
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 48), SEEDS)
def test_equal_classes_keep_equal_shares_and_each_its_lowest(classes, each, keep, seed):
    keep = min(keep, classes * each)
    generator = torch.Generator().manual_seed(seed)
    y = (torch.arange(classes * each) % classes)[torch.randperm(classes * each, generator=generator)]
    # Class 0 is easy: by energy alone it would crowd out the others.
    scores = torch.rand(len(y), generator=generator) + y
    kept = lowest(scores, y, keep)
    assert len(kept.unique()) == keep
    counts = torch.bincount(y[kept], minlength=classes)
    assert counts.max() - counts.min() <= 1
    for label in range(classes):
        mine = kept[y[kept] == label]
        others = torch.tensor([i for i in (y == label).nonzero().flatten().tolist() if i not in mine.tolist()])
        assert not len(mine) or not len(others) or scores[mine].max() <= scores[others.long()].min()


def test_unequal_classes_keep_their_share():
    y = torch.tensor([0] * 40 + [1] * 20 + [2] * 10)
    scores = torch.rand(70, generator=torch.Generator().manual_seed(0)) + y
    assert torch.bincount(y[lowest(scores, y, 35)]).tolist() == [20, 10, 5]
    assert torch.bincount(y[lowest(scores, y, 7)]).tolist() == [4, 2, 1]
    assert torch.bincount(y[lowest(scores, None, 35)], minlength=3).tolist() == [35, 0, 0]


def test_equal_scores_keep_the_first():
    assert lowest(torch.zeros(6), None, 3).tolist() == [0, 1, 2]
    assert lowest(torch.zeros(6), torch.tensor([1, 0, 1, 0, 1, 0]), 2).tolist() == [0, 1]


@pytest.mark.parametrize(("labels", "low", "high"), [([0, 1, 2, 4], 0, 4), ([-1, 0, 1, 2], -1, 2)])
def test_prompts_of_classes_that_the_network_does_not_have_are_refused(labels, low, high):
    message = f"the prompts name classes {low} to {high}, but the network has 4 outputs, 0 to 3"
    for per_class in (True, False):
        with pytest.raises(ValueError, match=message):
            filter_by_energy(network(), pictures(4), torch.tensor(labels), 2, per_class=per_class)


@pytest.mark.parametrize("labels", [0, 3, 5])
def test_one_class_a_picture(labels):
    with pytest.raises(ValueError, match=f"there are 4 pictures and {labels} classes: give one of each"):
        filter_by_energy(network(), pictures(4), torch.zeros(labels, dtype=torch.int64), 2)


# ----------------------------------------------------------------------------------------------------------- patches


@quick
@given(st.integers(3, 6), st.integers(2, 5), SEEDS)
def test_entropy_of_the_patches_is_plain_loops(patches, dim, seed):
    tokens = draw(2 * patches, dim, seed).view(2, patches, dim)
    for picture, found in zip(tokens.tolist(), patch_entropy(tokens).tolist(), strict=True):
        cosines = []
        for i in range(patches):
            for j in range(i + 1, patches):
                a, b = picture[i], picture[j]
                dot = sum(p * q for p, q in zip(a, b, strict=True))
                cosines.append(dot / math.hypot(*a) / math.hypot(*b))
        n, mean = len(cosines), sum(cosines) / len(cosines)
        std = math.sqrt(sum((c - mean) ** 2 for c in cosines) / (n - 1))
        width = 1.06 * std * n**-0.2
        total = 0.0
        for c in cosines:
            kernels = [math.exp(-(((c - d) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi)) for d in cosines]
            total += math.log(sum(kernels) / n)
        assert found == pytest.approx(-total / n, abs=1e-6)


def test_length_of_a_token_does_not_count_and_spread_cosines_do():
    tokens = draw(40, 5).view(4, 10, 5)
    lengths = torch.rand(4, 10, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(patch_entropy(lengths * tokens), patch_entropy(tokens))
    alike = torch.ones(4, 10, 5, dtype=torch.float64) + 0.05 * tokens
    assert (patch_entropy(alike) < patch_entropy(tokens)).all()


def test_patches_that_are_all_alike_have_a_finite_entropy():
    found = patch_entropy(torch.ones(2, 5, 3))
    assert found.isfinite().all() and (found < -10).all()


def test_patch_filter_keeps_the_highest_entropy_behind_the_last_block(vit):
    x = pictures(12)
    x[4] = 0.5  # blank: its patches differ in nothing but their place
    tokens = vit.tokens(x)
    for block in vit.blocks:
        tokens = block(tokens)
    entropy = patch_entropy(tokens[:, 1:]).tolist()
    expected = sorted(sorted(range(12), key=lambda i: -entropy[i])[:5])
    assert filter_by_patches(vit, x, 5).tolist() == expected
    assert not any(module._forward_hooks for module in vit.modules())


def test_an_error_in_the_transformer_leaves_no_hook(vit):
    with pytest.raises(ValueError, match="this network reads"):
        filter_by_patches(vit, torch.rand(3, 1, 9, 9), 2)
    assert not any(module._forward_hooks for module in vit.modules())


def test_a_network_without_blocks_is_sent_to_batch_norm():
    with pytest.raises(TypeError, match="Cnn has no transformer blocks: .* use filter_by_bn"):
        filter_by_patches(network(), pictures(), 4)


@pytest.mark.parametrize("shape", [(4, 2, 5), (4, 5), (1, 4, 3, 5)])
def test_fewer_than_three_patches_are_refused(shape):
    with pytest.raises(ValueError, match="but must be .n, patches, d. with at least 3 patches"):
        patch_entropy(torch.rand(shape))


# ------------------------------------------------------------------------------------------------------------ dreams


def test_dreams_come_nearer_to_what_batch_norm_remembers_and_are_named():
    model = network()
    noise, _ = bn_inversion(model, 24, steps=1, lr=1e-9, seed=3)
    x, y = bn_inversion(model, 24, steps=40, seed=3)
    assert bn_distance(model, x) < 0.5 * bn_distance(model, noise)
    found, before = (nn.functional.cross_entropy(model(pixels), y) for pixels in (x, noise))
    assert found < before
    assert not torch.equal(x, noise)


@pytest.mark.parametrize(("n", "side"), [(1, 8), (5, 8), (9, 12)])
def test_dreams_are_pictures_in_range_with_balanced_labels(n, side):
    x, y = bn_inversion(network(), n, side=side, steps=3, lr=0.5)
    assert x.shape == (n, 1, side, side) and x.dtype == torch.float32 and not x.requires_grad
    assert x.min() >= 0 and x.max() <= 1
    assert (x == 0).any() and (x == 1).any()  # with so large a step some pixels are cut
    assert y.dtype == torch.int64 and y.tolist() == [i % 4 for i in range(n)]


def test_same_seed_same_dreams_and_no_other_dice():
    model = network()
    outside = torch.get_rng_state()
    one, again, other = (bn_inversion(model, 4, steps=3, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), outside)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_dreaming_network_is_left_as_it_is(frozen, training):
    model = network().train(training).requires_grad_(not frozen)
    before = state(model)
    x, _ = bn_inversion(model, 4, steps=3)
    assert unchanged(model, before) and model.training == training
    assert all(p.grad is None and p.requires_grad != frozen for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    # Neither its freedom nor its mode has a say in the dreams.
    assert torch.equal(x, bn_inversion(copy.deepcopy(model).eval().requires_grad_(False), 4, steps=3)[0])


def test_a_dead_channel_gives_no_nan():
    model = network()
    model.features[0].weight[1] = 0  # a channel that never varies: the root of 0 has no slope
    assert bn_inversion(model, 4, steps=3)[0].isfinite().all()
    assert len(batchnorms(model)) == 2


@pytest.mark.parametrize("name", ["n", "side", "steps"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_dreams_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, but it must be a whole number of at least 1"):
        bn_inversion(network(), **{"n": 4, "steps": 2, name: value})


def dealt(n=60, seed=3):
    """Moments of n pictures, half of which come from the network's own pile."""
    model = network()
    return model, moments(model, torch.cat([0.5 * pictures(n // 2, seed=1), pictures(n - n // 2, seed)]))


def test_one_at_a_time_is_the_plain_loop():
    _, found = dealt()
    kept = list(range(len(found)))
    while len(kept) > 20:
        kept.pop(int(found.sensitivity(torch.tensor(kept)).argmax()))
    assert least_sensitive(found, 20).tolist() == kept


def test_the_order_of_removal_holds_every_number_to_keep():
    _, found = dealt()
    order = removal_order(found)
    assert sorted(order.tolist()) == list(range(len(found)))
    for keep in (1, 7, 20, 59, 60):
        assert torch.equal(order[:keep].sort().values, least_sensitive(found, keep))


def test_a_set_that_is_close_is_not_driven_away():
    """In a few large portions it is: the pictures of one portion are judged as if the others stayed."""
    model = network()
    found = moments(model, 0.5 * pictures(200, seed=1))
    whole = found.distance()
    assert found.distance(least_sensitive(found, 50)) < whole
    assert found.distance(least_sensitive(found, 50)) < found.distance(least_sensitive(found, 50, rounds=4))


def test_class_by_class_keeps_as_many_of_each():
    model, found = dealt()
    y = torch.arange(60) % 4
    kept = least_sensitive(found, 20, y=y)
    assert torch.bincount(y[kept]).tolist() == [5, 5, 5, 5] and torch.equal(kept, kept.sort().values)
    x = torch.cat([0.5 * pictures(30, seed=1), pictures(30, 3)])
    assert torch.equal(filter_by_bn(model, x, 20, y=y), kept)


def test_a_filter_asks_the_network_in_eval_mode(vit):
    model, x = network(), pictures(16)
    expected = filter_by_energy(model, x, torch.zeros(16, dtype=torch.int64), 5)
    before = state(model)
    assert torch.equal(filter_by_energy(model.train(), x, torch.zeros(16, dtype=torch.int64), 5), expected)
    assert model.training and unchanged(model, before)


def test_a_large_picture_has_its_patches_compared_in_parts(monkeypatch):
    tokens = torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(0))
    whole = patch_entropy(tokens)
    monkeypatch.setattr(stableq, "CHUNK", 7)
    assert torch.allclose(patch_entropy(tokens), whole)
