"""The language model that ships with chapter 6 is the one that its card describes, and it guesses text it has not seen."""

import hashlib
import json

import pytest
import torch

from helpers.data.subjects import FOLDER, load_subject
from helpers.data.text import corpus, windows
from helpers.lab.measures import perplexity
from helpers.models.gpt import TRAINING, Gpt, pydoc_gpt

WEIGHTS, CARD = FOLDER / "pydoc_gpt.safetensors", FOLDER / "pydoc_gpt.json"


def test_card_says_what_it_is_and_how_to_make_it_again():
    card, raw = json.loads(CARD.read_text(encoding="utf-8")), WEIGHTS.read_bytes()
    assert card["bytes"] == len(raw) and card["sha256"] == hashlib.sha256(raw).hexdigest()
    assert str(TRAINING) in card["recipe"] and card["command"] == "python course/subjects/pydoc_gpt.py"
    assert "data/text/pydoc_topics.txt" in card["data"] and "PSF" in card["data"]
    assert {"what", "data", "keys", "licence"} <= card.keys()
    assert len(raw) < 1.8e6


def test_file_holds_the_network_in_half_precision():
    tensors, _ = load_subject("pydoc_gpt")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in tensors.values())
    assert {name: value.shape for name, value in tensors.items()} == {
        name: value.shape for name, value in Gpt().state_dict().items()
    }


def test_it_comes_frozen_in_eval_mode_and_each_time_anew():
    model, other = pydoc_gpt(), pydoc_gpt()
    assert not any(module.training for module in model.modules())
    assert not any(weights.requires_grad for weights in model.parameters())
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert sum(weights.numel() for weights in model.parameters()) == 877_696
    model.lm_head.weight.data.zero_()
    assert other.lm_head.weight.any() and pydoc_gpt().lm_head.weight.any()


def test_it_is_the_same_whatever_the_global_generator_says():
    tokens = torch.arange(20)[None]
    first = pydoc_gpt()(tokens)
    torch.manual_seed(1)
    assert torch.equal(pydoc_gpt()(tokens), first)


def test_it_wavers_between_four_bytes_of_text_it_has_not_seen():
    found = perplexity(pydoc_gpt(), windows(corpus("pydoc").held_out, 48, 128))
    assert 4.2 < found < 4.4


def test_it_needs_what_came_before():
    pieces = windows(corpus("pydoc").held_out, 48, 128)
    shuffled = pieces.clone()
    shuffled[:, :-2] = pieces[:, torch.randperm(127)]
    model = pydoc_gpt()
    with torch.no_grad():
        loss = [
            torch.nn.functional.cross_entropy(model(piece[:, :-1])[:, -1], pieces[:, -1]).item()
            for piece in (pieces, shuffled)
        ]
    assert loss[0] + 0.3 < loss[1]


@pytest.mark.parametrize("seed", [0])
def test_noise_is_nothing_that_it_knows(seed):
    noise = torch.randint(96, (8, 129), generator=torch.Generator().manual_seed(seed))
    assert perplexity(pydoc_gpt(), noise) > 96
