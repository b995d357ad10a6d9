"""Shipped networks: what is saved is what is loaded, and a file that is missing or was changed is one sentence."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from helpers.data import subjects
from helpers.data.idx import DataError
from helpers.data.subjects import load_subject, part_of, save_subject

TENSORS = {
    "net.weight": torch.linspace(-1, 1, 6).view(2, 3),
    "net.counts": torch.tensor([[1, 2], [3, 2**40]]),
    "empty": torch.zeros(3, 0),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(subjects, "FOLDER", tmp_path / "subjects")
    return tmp_path / "subjects"


def refusal(name="net"):
    """The sentence that a bad subject gives; it must be one, with its remedy."""
    with pytest.raises(DataError) as caught:
        load_subject(name)
    said = str(caught.value)
    assert "\n" not in said and said.endswith("`course subjects`.") and ": take both files" in said
    return said


def test_round_trip(folder):
    path = save_subject("net", TENSORS, what="a net", seeds=[0, 1], licence="CC0 – free")
    assert path == folder / "net.safetensors"
    tensors, card = load_subject("net")
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
    assert card["what"] == "a net" and card["seeds"] == [0, 1] and card["licence"] == "CC0 – free"
    raw = path.read_bytes()
    assert card["bytes"] == len(raw) and card["sha256"] == hashlib.sha256(raw).hexdigest()


def test_card_can_be_read_by_a_human(folder):
    save_subject("net", TENSORS, what="ein Netz für Ziffern")
    text = (folder / "net.json").read_text(encoding="utf-8")
    assert "für" in text and text.endswith("}\n") and len(text.splitlines()) > 3


def test_views_and_weights_with_gradients_are_saved(folder):
    weight = torch.nn.Parameter(torch.rand(3, 4))
    save_subject("net", {"turned": weight.t(), "part": torch.rand(5, 5)[:, 1]})
    assert torch.equal(load_subject("net")[0]["turned"], weight.detach().t())


def test_same_tensors_same_file(folder):
    first = save_subject("net", TENSORS, what="a").read_bytes()
    assert save_subject("net", TENSORS, what="b").read_bytes() == first
    assert load_subject("net")[1]["what"] == "b"


def test_subjects_do_not_touch_each_other(folder):
    save_subject("one", {"x": torch.ones(2)})
    save_subject("two", {"x": torch.zeros(2)})
    assert load_subject("one")[0]["x"].tolist() == [1, 1] and load_subject("two")[0]["x"].tolist() == [0, 0]
    assert sorted(os.listdir(folder)) == ["one.json", "one.safetensors", "two.json", "two.safetensors"]


def test_nothing_saved_is_one_sentence():
    assert "net.safetensors or its card is missing" in refusal()


@pytest.mark.parametrize("lost", ["net.safetensors", "net.json"])
def test_missing_half_is_one_sentence(folder, lost):
    save_subject("net", TENSORS)
    (folder / lost).unlink()
    assert f"missing from {folder}" in refusal()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[:-1] + bytes((raw[-1] ^ 1,)),
        lambda raw: b"",
    ],
    ids=["cut", "longer", "one bit", "empty"],
)
def test_changed_tensors_are_one_sentence(folder, change):
    path = save_subject("net", TENSORS)
    path.write_bytes(change(path.read_bytes()))
    said = refusal()
    assert str(path) in said and "the checksum differs" in said


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"no card", b'{"sha256": "\xff"}', b"[]", b'"a card"', b"3", b"null"],
    ids=["empty", "cut", "text", "not UTF-8", "list", "string", "number", "null"],
)
def test_corrupt_card_is_one_sentence(folder, text):
    save_subject("net", TENSORS)
    (folder / "net.json").write_bytes(text)
    assert str(folder / "net.json") in refusal()


@pytest.mark.parametrize("checksum", [None, "", 7, "0" * 64, ["a"]])
def test_card_of_another_file_is_one_sentence(folder, checksum):
    save_subject("net", TENSORS)
    card = json.loads((folder / "net.json").read_text(encoding="utf-8"))
    (folder / "net.json").write_text(json.dumps(card | {"sha256": checksum}), encoding="utf-8")
    assert "the checksum differs" in refusal()
    del card["sha256"]
    (folder / "net.json").write_text(json.dumps(card), encoding="utf-8")
    assert "the checksum differs" in refusal()


def test_card_cannot_claim_another_checksum():
    save_subject("net", TENSORS, sha256="0" * 64)
    assert load_subject("net")[1]["sha256"] != "0" * 64


# ---------------------------------------------------------------------------------------------------- broken off


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".partial"))


def test_card_that_cannot_be_written_leaves_all_as_it_was(folder):
    save_subject("net", TENSORS, what="old")
    with pytest.raises(TypeError):
        save_subject("net", {"x": torch.ones(3)}, what=object())
    tensors, card = load_subject("net")
    assert card["what"] == "old" and tensors.keys() == TENSORS.keys()


def test_full_disk_leaves_all_as_it_was(folder, monkeypatch):
    save_subject("net", TENSORS, what="old")
    write = Path.write_bytes

    def half(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError):
        save_subject("net", {"x": torch.ones(3)}, what="new")
    with pytest.raises(OSError):
        save_subject("other", {"x": torch.ones(3)}, what="new")
    assert names(folder) == ["net.json", "net.safetensors"]
    assert load_subject("net")[1]["what"] == "old"
    assert "missing" in refusal("other")


def test_end_between_tensors_and_card_is_noticed(folder, monkeypatch):
    save_subject("net", TENSORS, what="old")
    replace = os.replace

    def once(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(KeyboardInterrupt):
        save_subject("net", {"x": torch.ones(3)}, what="new")
    assert "the checksum differs" in refusal()
    monkeypatch.setattr(os, "replace", replace)
    save_subject("net", {"x": torch.ones(3)}, what="new")
    assert load_subject("net")[1]["what"] == "new" and names(folder) == ["net.json", "net.safetensors"]


def test_one_network_of_several_in_a_file():
    tensors = {"add.w": torch.ones(1), "added.w": torch.zeros(1), "add.stage.w": torch.ones(2)}
    assert set(part_of(tensors, "add")) == {"w", "stage.w"}
    with pytest.raises(KeyError, match="no tensor's name begins with 'delay'"):
        part_of(tensors, "delay")
