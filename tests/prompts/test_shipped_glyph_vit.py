"""The ViT that ships with chapter 5 is the one that its card describes, and it reads letters by hands it has not seen."""

import hashlib
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.data.glyphs import alphabet, write
from helpers.data.subjects import FOLDER, load_subject, part_of
from helpers.models.vit import PRETRAINING, ViT, glyph_vit

WEIGHTS, CARD = FOLDER / "glyph_vit.safetensors", FOLDER / "glyph_vit.json"


@pytest.fixture(scope="module")
def letters():
    """Ten new hands for each of the 200 letters."""
    return write(alphabet(200), 10, seed=12_345)


@torch.no_grad()
def accuracy(x, y):
    vit, head = glyph_vit(), nn.Linear(48, 200)
    head.load_state_dict({name: value.float() for name, value in part_of(load_subject("glyph_vit")[0], "head").items()})
    return (head(vit(x)).argmax(1) == y).float().mean().item()


def test_card_says_what_it_is_and_how_to_make_it_again():
    card, raw = json.loads(CARD.read_text(encoding="utf-8")), WEIGHTS.read_bytes()
    assert card["bytes"] == len(raw) and card["sha256"] == hashlib.sha256(raw).hexdigest()
    assert str(PRETRAINING) in card["recipe"] and card["command"] == "python course/subjects/glyph_vit.py"
    assert {"what", "data", "keys", "licence"} <= card.keys()


def test_file_holds_the_network_and_its_head_in_half_precision():
    tensors, _ = load_subject("glyph_vit")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in tensors.values())
    assert tensors.keys() == ViT().state_dict().keys() | {"head.weight", "head.bias"}
    assert tensors["head.weight"].shape == (200, 48)


def test_it_comes_frozen_in_eval_mode_and_each_time_anew():
    vit, other = glyph_vit(), glyph_vit()
    assert not vit.training and not any(module.training for module in vit.modules())
    assert not any(weights.requires_grad for weights in vit.parameters())
    assert {weights.dtype for weights in vit.parameters()} == {torch.float32}
    assert sum(weights.numel() for weights in vit.parameters()) == 114_960
    vit.cls.data.zero_()
    assert other.cls.any() and glyph_vit().cls.any()


def test_it_is_the_same_whatever_the_global_generator_says():
    first = glyph_vit()(torch.ones(1, 1, 8, 8))
    torch.manual_seed(1)
    assert torch.equal(glyph_vit()(torch.ones(1, 1, 8, 8)), first)


def test_it_names_letters_by_new_hands(letters):
    assert accuracy(*letters) > 0.75


def test_dark_letters_on_light_are_new_to_it(letters):
    x, y = letters
    assert accuracy(1 - x, y) < 0.2


def test_its_features_tell_letters_apart_that_it_has_never_seen():
    unseen = alphabet(20, seed=1)
    (x, y), (z, _) = (write(unseen, 20, seed=seed) for seed in (2, 3))
    with torch.no_grad():
        known, asked = F.normalize(glyph_vit()(x), dim=1), F.normalize(glyph_vit()(z), dim=1)
    means = known.unflatten(0, (20, 20)).mean(1)
    assert ((asked @ means.T).argmax(1) == y).float().mean() > 0.75
