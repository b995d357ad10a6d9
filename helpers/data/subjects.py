"""Small trained networks that ship with the course: safetensors beside a card that says how they were made.

    data/subjects/<name>.safetensors     the tensors
    data/subjects/<name>.json            the card: what it is, the command that makes it again, its checksum

`course subjects` makes all of them again (the scripts are in course/subjects/).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from helpers import ROOT
from helpers.data.idx import DataError

FOLDER = ROOT / "data" / "subjects"


def load_subject(name: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the card of a shipped network.

    Args:
        name: such as "ttfs_digits".

    Raises:
        DataError: tensors or card are missing, or the tensors are not those that the card describes.
    """
    from safetensors.torch import load

    weights, card = FOLDER / f"{name}.safetensors", FOLDER / f"{name}.json"
    again = "take both files from the course's repository, or make them again with `course subjects`"
    if not weights.is_file() or not card.is_file():
        raise DataError(f"{weights.name} or its card is missing from {FOLDER}: {again}.")
    raw = weights.read_bytes()
    try:
        described = json.loads(card.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{card} is no JSON ({error}): {again}.") from None
    if not isinstance(described, dict):
        raise DataError(f"{card} is no card, which is a JSON object: {again}.")
    if hashlib.sha256(raw).hexdigest() != described.get("sha256"):
        raise DataError(f"{weights} is not the file that its card describes (the checksum differs): {again}.")
    return load(raw), described


def save_subject(name: str, tensors: Mapping[str, Tensor], **card) -> Path:
    """Write tensors and card, each under a temporary name that is renamed when it is whole; returns the tensors' file.

    Args:
        name: letters, digits and underscores.
        tensors: by name.
        card: what to tell a reader: `what`, `command`, `data`, `licence` … The checksum is added.
    """
    from safetensors.torch import save

    FOLDER.mkdir(parents=True, exist_ok=True)
    raw = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    described = {**card, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    for path, content in (
        (FOLDER / f"{name}.safetensors", raw),
        (FOLDER / f"{name}.json", text.encode("utf-8")),
    ):
        scratch = path.with_name(f".{path.name}.partial")
        scratch.write_bytes(content)
        os.replace(scratch, path)
    return FOLDER / f"{name}.safetensors"


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with "prefix.", by the rest of their names: one network's of several in a file.

    Raises:
        KeyError: no name begins so.
    """
    found = {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
    if not found:
        raise KeyError(f"no tensor's name begins with {prefix!r}.")
    return found
