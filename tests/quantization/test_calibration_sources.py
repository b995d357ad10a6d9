"""Calibration sets of every origin: their sizes and ranges, what a rule keeps, and a pool spoiled on purpose."""

import copy

import pytest
import torch
from torch import nn

from helpers.data.glyphs import alphabet, write
from helpers.data.styles import restyle
from helpers.data.worlds import worlds
from helpers.models.cnn import Cnn, logits_of, train_cnn
from helpers.quantization.calibration_sources import (
    ENERGY_SHARE,
    RULES,
    Pools,
    chosen,
    contaminate,
    draw_pools,
    sources,
)
from helpers.quantization.stableq import bn_distance, energy_score, filter_by_bn, filter_by_energy
from helpers.quantization.tiny_flow import TinyFlow

EVERY = [
    "noise",
    "inverted",
    "imagined",
    "imagined, energy",
    "imagined, batch norm",
    "imagined, both",
    "styled",
    "styled, both",
    "the few",
    "real",
]


@pytest.fixture(scope="module")
def world():
    return worlds("digits")


@pytest.fixture(scope="module")
def trained(world):
    torch.manual_seed(0)
    return train_cnn(Cnn((8, 16), (1, 2)), *world.private, steps=100)


@pytest.fixture
def model(trained):
    """A copy, so that no test can spoil the network of the others."""
    return copy.deepcopy(trained)


@pytest.fixture(scope="module")
def pools(world):
    """What a generator might have drawn: pictures of the public world in two hands."""
    x, y = world.public
    return Pools(y[:120], restyle(x[:120], "blurred"), restyle(x[:120], "thin"))


@pytest.fixture(scope="module")
def pool(world):
    return world.public[0][:150]


# -------------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("keep", [1, 40, 104, 105, 106, 149, 150])
def test_a_rule_keeps_as_many_as_were_asked_for(model, pool, rule, keep):
    kept = chosen(model, pool, keep, rule)
    assert kept.shape == (keep,) and kept.dtype == torch.int64
    assert torch.equal(kept, kept.unique()) and kept[0] >= 0 and kept[-1] < 150  # ascending, none twice
    assert torch.equal(kept, chosen(model, pool, keep, rule))
    if keep == 150:
        assert torch.equal(kept, torch.arange(150))


def test_no_rule_takes_the_first(model, pool):
    assert torch.equal(chosen(model, pool, 40, "none"), torch.arange(40))


def test_energy_keeps_the_lowest_of_the_whole_pool(model, pool, world):
    kept = chosen(model, pool, 40, "energy")
    energies = energy_score(logits_of(model, pool))
    left_out = torch.ones(150, dtype=torch.bool).index_fill(0, kept, False)
    assert energies[kept].max() <= energies[left_out].min()
    assert torch.equal(kept, filter_by_energy(model, pool, world.public[1][:150], 40, per_class=False))


def test_batch_norm_is_the_filter_of_that_name(model, pool):
    assert torch.equal(chosen(model, pool, 40, "batch norm"), filter_by_bn(model, pool, 40))


@pytest.mark.parametrize(("keep", "left"), [(40, 105), (104, 105), (120, 120)])
def test_both_is_batch_norm_on_what_energy_leaves(model, pool, keep, left):
    assert ENERGY_SHARE == 0.7  # 105 of 150, or all that are to be kept
    first = energy_score(logits_of(model, pool)).argsort(stable=True)[:left].sort().values
    assert torch.equal(chosen(model, pool, keep), first[filter_by_bn(model, pool[first], keep)])
    assert torch.equal(chosen(model, pool, keep), chosen(model, pool, keep, "both"))


def test_choosing_changes_neither_pictures_nor_network(model, pool):
    before, pictures = copy.deepcopy(model.state_dict()), pool.clone()
    for rule in RULES:
        chosen(model, pool, 30, rule)
    assert torch.equal(pool, pictures)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rule", ["batch norm", "both"])
def test_a_spoiled_pool_is_brought_nearer_to_what_batch_norm_remembers(model, pool, seed, rule):
    spoiled, _ = contaminate(pool, 0.3, seed=seed)
    distances = {rule: bn_distance(model, spoiled[chosen(model, spoiled, 40, rule)]) for rule in ("none", rule)}
    assert distances[rule] < 0.7 * distances["none"]


@pytest.mark.parametrize(
    ("keep", "rule", "says"),
    [
        (151, "none", "keep is 151, but there are only 150 pictures"),
        (151, "both", "keep is 151, but there are only 150 pictures"),
        (0, "energy", "keep is 0"),
        (2.5, "batch norm", "keep is 2.5"),
        (10, "best", "rule is 'best', but it must be one of none, energy, batch norm, both"),
    ],
)
def test_what_cannot_be_kept_is_refused(model, pool, keep, rule, says):
    with pytest.raises(ValueError, match=says):
        chosen(model, pool, keep, rule)


def test_a_network_without_batch_norm_has_energies_alone(pool):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    assert len(chosen(net, pool, 10, "energy")) == len(chosen(net, pool, 10, "none")) == 10
    for rule in ("batch norm", "both"):
        with pytest.raises(TypeError, match="filter_by_patches"):
            chosen(net, pool, 10, rule)


# ---------------------------------------------------------------------------------------------------------- the pools


def test_pools_are_drawn_of_every_class_in_turn_and_from_the_same_noise():
    torch.manual_seed(0)
    flow = TinyFlow(styles=2, width=16, depth=1, token=4)
    style = torch.randn(4)
    found = draw_pools(flow, style, 23, 10, guidance=2.0, seed=5)
    assert found.labels.tolist() == [i % 10 for i in range(23)]
    assert torch.equal(found.imagined, flow.sample(found.labels, guidance=2.0, seed=5))
    assert torch.equal(found.styled, flow.sample(found.labels, style=style, guidance=2.0, seed=5))
    assert not torch.equal(found.imagined, found.styled)
    # In the same style they are the same pictures: the noise does not differ.
    plain = draw_pools(flow, flow.unspecified, 23, 10, seed=5)
    assert torch.equal(plain.imagined, plain.styled)
    with pytest.raises(ValueError, match="n is 0"):
        draw_pools(flow, style, 0, 10)


# ----------------------------------------------------------------------------------------------------------- all sets


def test_all_sets_have_their_size_and_range(model, world, pools):
    few, _ = world.few(2)
    found = sources(model, pools, few, world.private[0], keep=50, steps=3)
    assert list(found) == EVERY
    for name, x in found.items():
        assert x.shape == ((20 if name == "the few" else 50), 1, 8, 8) and x.dtype == torch.float32
        assert x.min() >= 0 and x.max() <= 1 and not x.requires_grad
    assert 0.45 < found["noise"].mean() < 0.55  # uniform
    assert torch.equal(found["imagined"], pools.imagined[:50]) and torch.equal(found["styled"], pools.styled[:50])
    for name, rule in ((name, name.split(", ")[1]) for name in EVERY if ", " in name):
        drawn = getattr(pools, name.split(", ")[0])
        assert torch.equal(found[name], drawn[chosen(model, drawn, 50, rule)])
    assert found["the few"] is few


def test_the_real_ones_are_private_pictures_each_once(model, world, pools):
    x, _ = world.private
    real = sources(model, pools, x[:3], x, keep=60, steps=1, every=False)["real"]
    places = [(picture == x).flatten(1).all(1).nonzero().flatten().tolist() for picture in real]
    assert all(places) and len({tuple(place) for place in places}) == 60


def test_without_every_the_filtered_sets_are_missing_and_the_rest_is_the_same(model, world, pools):
    settings = {"few": world.private[0][:5], "private": world.private[0], "keep": 30, "steps": 2}
    some, every = (sources(model, pools, **settings, every=every) for every in (False, True))
    assert list(some) == [name for name in EVERY if ", " not in name]
    assert all(torch.equal(x, every[name]) for name, x in some.items())


def test_same_seed_same_sets_and_the_network_stays_as_it_was(model, world, pools):
    before = copy.deepcopy(model.state_dict())
    settings = {"few": world.private[0][:5], "private": world.private[0], "keep": 30, "steps": 2, "every": False}
    one = sources(model, pools, **settings, seed=1)
    torch.randn(3)
    two, other = (sources(model, pools, **settings, seed=seed) for seed in (1, 2))
    assert all(torch.equal(x, two[name]) for name, x in one.items())
    assert not any(torch.equal(one[name], other[name]) for name in ("noise", "inverted", "real"))
    assert all(torch.equal(one[name], other[name]) for name in ("imagined", "styled", "the few"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_everything_can_be_kept(model, world, pools):
    found = sources(model, pools, world.private[0][:5], world.private[0], keep=120, steps=1)
    assert torch.equal(found["imagined, both"], pools.imagined) and len(found["real"]) == 120


@pytest.mark.parametrize("keep", [0, 121, 1.5])
def test_more_than_there_is_is_refused(model, world, pools, keep):
    with pytest.raises(ValueError, match=f"keep is {keep}"):
        sources(model, pools, world.private[0][:5], world.private[0], keep=keep, steps=1)


def test_every_pool_is_counted_and_the_private_pictures_too(model, world, pools):
    x, few = world.private[0], world.private[0][:5]
    with pytest.raises(ValueError, match="there are 40 real ones"):
        sources(model, pools, few, x[:40], keep=41, steps=1)
    for short in (
        Pools(pools.labels, pools.imagined[:40], pools.styled),
        Pools(pools.labels, pools.imagined, pools.styled[:40]),
    ):
        with pytest.raises(ValueError, match="keep is 41, but the pool has 40 pictures"):
            sources(model, short, few, x, keep=41, steps=1, every=False)


# ---------------------------------------------------------------------------------------------------- a pool spoiled


@pytest.mark.parametrize(
    ("n", "share", "kinds"),
    [
        (100, 0.3, [70, 10, 10, 10]),
        (100, 0.25, [75, 9, 8, 8]),
        (100, 0.26, [74, 9, 9, 8]),
        (90, 1.0, [0, 30, 30, 30]),
        (100, 0.0, [100, 0, 0, 0]),
        (100, 0.01, [99, 1, 0, 0]),
        (2, 1, [0, 1, 1, 0]),
    ],
)
def test_every_kind_has_its_third(pool, n, share, kinds):
    spoiled, kind = contaminate(pool[:n], share)
    assert torch.bincount(kind, minlength=4).tolist() == kinds and kind.dtype == torch.int64
    assert spoiled.shape == pool[:n].shape and spoiled.dtype == pool.dtype


def test_untouched_pictures_are_the_same_and_the_pool_is_not_changed(pool):
    before = pool.clone()
    spoiled, kind = contaminate(pool, 0.4, seed=3)
    assert torch.equal(pool, before) and spoiled.data_ptr() != pool.data_ptr()
    changed = (spoiled != pool).flatten(1).any(1)
    assert torch.equal(changed, kind != 0)
    assert torch.equal(spoiled[kind == 0], pool[kind == 0])
    assert spoiled.min() >= 0 and spoiled.max() <= 1


def test_kinds_are_what_they_are_called(pool):
    spoiled, kind = contaminate(pool, 0.6, seed=4)
    noise, letters, negatives = (spoiled[kind == number] for number in (1, 2, 3))
    assert abs(noise.mean() - 0.5) < 0.02 and abs(noise.std() - 12**-0.5) < 0.02
    assert torch.equal(negatives, 1 - pool[kind == 3])
    written, _ = write(alphabet(20, 4), 2, seed=4)
    places = [(letter == written.clamp(0, 1)).flatten(1).all(1).nonzero().flatten().tolist() for letter in letters]
    assert all(len(place) == 1 for place in places)
    assert len({place[0] for place in places}) == 30 and len({place[0] // 2 for place in places}) > 10


def test_same_seed_same_spoil(pool):
    one = contaminate(pool, 0.3, seed=1)
    state = torch.get_rng_state()
    two, other = (contaminate(pool, 0.3, seed=seed) for seed in (1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_pictures_of_another_size(world):
    spoiled, kind = contaminate(torch.rand(12, 1, 14, 14, dtype=torch.float64), 0.5)
    assert spoiled.shape == (12, 1, 14, 14) and spoiled.dtype == torch.float64
    assert torch.bincount(kind).tolist() == [6, 2, 2, 2]


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_share_outside_of_0_and_1_is_refused(pool, share):
    with pytest.raises(ValueError, match="share is .* must lie in"):
        contaminate(pool, share)


def test_a_network_for_colours_is_dreamt_for_in_colours():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    private = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 2
    found = sources(network, Pools(labels, private, private), private[:4], private, keep=6, steps=2)
    assert {tuple(x.shape) for name, x in found.items() if name != "the few"} == {(6, 3, 8, 8)}


def test_a_sampler_keeps_its_own_guidance_unless_told():
    class Sampler:
        def sample(self, labels, *, style=None, guidance=3.5, seed=0):
            return torch.full((len(labels), 1, 2, 2), guidance)

    assert draw_pools(Sampler(), torch.zeros(1), 4, 2).imagined.unique().tolist() == [3.5]
    assert draw_pools(Sampler(), torch.zeros(1), 4, 2, guidance=2.0).styled.unique().tolist() == [2.0]
