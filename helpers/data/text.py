"""Text as bytes: one token a character, from a frozen copy of Python's own documentation or from real files on disk.

    data/text/pydoc_topics.txt      CPython 3.11's `pydoc_data.topics`, cleaned (PSF licence beside it)

The vocabulary is printable ASCII and the newline, 96 tokens: no tokenizer to learn, to ship or to download.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from helpers import ROOT
from helpers.data.checks import whole
from helpers.data.idx import DataError

VOCABULARY = 96
"""Tokens: the codes 32 to 126 less 32, and the newline in the slot of DEL, 95."""
NAMES = ("pydoc", "shakespeare", "wikitext2")
HELD_OUT = 0.1
_NEWLINE = VOCABULARY - 1
_FOLDER = ROOT / "data" / "text"
# Where the parts lie under $COURSE_DATA/text or data/external/text: one file, whose last tenth is held out, or two.
_FILES = {"shakespeare": ("tinyshakespeare.txt",), "wikitext2": ("wikitext-2/valid.txt", "wikitext-2/test.txt")}
_PYDOC = "3d76dfba467bcb91c9410e11bd5053d144681382b5137f99139cef250a19829f"


@dataclass(frozen=True)
class Corpus:
    """Tokens int64 [N] to learn and to calibrate from, and tokens int64 [M] that neither ever sees."""

    train: Tensor
    held_out: Tensor


def clean(text: str) -> str:
    """Printable ASCII and newlines alone, long rules dropped, repeated blanks and newlines made one."""
    text = re.sub(r"[^\n -~]", "", text)
    text = re.sub(r"([-=~^*+_])\1{3,}", "", text)
    return re.sub(r"\n{2,}", "\n", re.sub(r" {2,}", " ", text))


def encode(text: str) -> Tensor:
    """Characters -> tokens int64 [N].

    Raises:
        ValueError: a character that has no token; `clean` drops those.
    """
    strange = re.search(r"[^\n -~]", text)
    if strange:
        raise ValueError(
            f"the text holds {strange.group()!r} at {strange.start()}, but only printable ASCII and newlines have a "
            "token: pass it through helpers.data.text.clean first."
        )
    codes = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8).long() if text else torch.empty(0).long()
    return torch.where(codes == ord("\n"), _NEWLINE, codes - 32)


def decode(tokens: Tensor) -> str:
    """Tokens of any shape -> the text, in their order.

    Raises:
        ValueError: a token outside [0, 95].
    """
    flat = tokens.flatten()
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < VOCABULARY:
        raise ValueError(f"tokens reach from {int(flat.min())} to {int(flat.max())}, but they must lie in [0, 95].")
    return "".join("\n" if token == _NEWLINE else chr(token + 32) for token in flat.tolist())


def corpus(name: str = "pydoc", folder: Path | str | None = None) -> Corpus:
    """A text in two parts.

    Args:
        name: "pydoc" ships with the course; "shakespeare" (Tiny Shakespeare) and "wikitext2" (its valid part to learn from,
            its test part held out) are read from disk and cleaned. Of the first two, the last tenth is held out.
        folder: with the files of the last two; None looks in $COURSE_DATA/text, then in data/external/text.

    Raises:
        ValueError: another name.
        DataError: a file is missing, is no text, or is not the one that the course froze.
    """
    if name not in NAMES:
        raise ValueError(f"the text is {name!r}, but it must be one of {', '.join(NAMES)}.")
    if name == "pydoc":
        parts = [_frozen()]
    else:
        parts = [clean(_read(path)) for path in _paths(name, folder)]
    if len(parts) == 2:
        return Corpus(*(encode(part) for part in parts))
    tokens = encode(parts[0])
    cut = int(len(tokens) * (1 - HELD_OUT))
    return Corpus(tokens[:cut], tokens[cut:])


def windows(tokens: Tensor, count: int, length: int, seed: int | None = None) -> Tensor:
    """Pieces of a text, each with one token more than the model sees, which is the last it has to guess.

    Args:
        tokens: int64 [N].
        count: how many.
        length: tokens that the model sees.
        seed: begins anywhere, drawn with replacement; None spaces the pieces evenly over the whole text.

    Returns:
        int64 [count, length + 1].

    Raises:
        ValueError: the text is shorter than one piece, or a count or length below 1.
    """
    whole("count", count)
    whole("length", length)
    last = len(tokens) - length - 1
    if last < 0:
        raise ValueError(f"the text has {len(tokens)} tokens, but one window needs {length + 1}.")
    if seed is None:
        starts = torch.linspace(0, last, count).long()
    else:
        starts = torch.randint(last + 1, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([tokens[start : start + length + 1] for start in starts.tolist()])


def _frozen() -> str:
    path = _FOLDER / "pydoc_topics.txt"
    raw = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(raw).hexdigest() != _PYDOC:
        raise DataError(f"{path} is missing or not the text that the course froze: take it from the repository.")
    return raw.decode("ascii")


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable UTF-8 text ({error}): fetch it again.") from None
    if not text.strip():
        raise DataError(f"{path} is empty: fetch it again.")
    return text


def _paths(name: str, folder: Path | str | None) -> list[Path]:
    given = os.environ.get("COURSE_DATA")
    roots = [Path(folder)] if folder else [Path(given) / "text"] if given else []
    roots = roots if folder else [*roots, ROOT / "data" / "external" / "text"]
    for root in roots:
        paths = [root / file for file in _FILES[name]]
        if all(path.is_file() for path in paths):
            return paths
    wanted = " and ".join(_FILES[name])
    if folder:
        raise DataError(f"{name} is not in {folder}: put {wanted} there.")
    raise DataError(f"{name} is not on this machine: put {wanted} into data/external/text/ or $COURSE_DATA/text/.")
