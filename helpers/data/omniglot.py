"""Omniglot's two small sets: 242 characters of 8 real alphabets, each drawn by 20 people, from the original zips.

Source: B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 2015; files of github.com/brendenlake/omniglot, MIT licence.
"""

import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers import ROOT
from helpers.data.checks import whole
from helpers.data.idx import DataError

FILES = ("images_background_small1.zip", "images_background_small2.zip")
DRAWERS, SIDE = 20, 105
PEN = 9
"""Pixels: a stroke of about three is widened by this much, or nothing of it is left on eight pixels."""


@dataclass(frozen=True)
class Omniglot:
    """Characters by number, drawers by number.

    Pictures float32 [characters, 20, 1, side, side], light on dark, in [0, 1]; names as "Greek/character01".
    """

    pictures: Tensor
    names: tuple[str, ...]


def omniglot(side: int = 8, folder: Path | str | None = None) -> Omniglot:
    """Every character of both sets, those that stand in both once; strokes widened, then averaged down to `side` pixels.

    Args:
        side: pixels a side.
        folder: with both zips; None looks in $COURSE_DATA/omniglot, then in data/external/omniglot.

    Raises:
        DataError: a zip is missing or damaged, or a character has not 20 drawings of 105 × 105.
    """
    whole("side", side, 2, SIDE)
    folder = Path(folder) if folder else _folder()
    missing = [name for name in FILES if not (folder and (folder / name).is_file())]
    if missing:
        raise DataError(
            f"Omniglot is not on this machine, {' and '.join(missing)} missing: put {' and '.join(FILES)} "
            "(github.com/brendenlake/omniglot, folder python) into data/external/omniglot/ or $COURSE_DATA/omniglot/."
        )
    drawings: dict[str, dict[str, np.ndarray]] = {}
    for name in FILES:
        _read(folder / name, drawings)
    if not drawings:
        raise DataError(f"the zips in {folder} hold no drawing: fetch both again.")
    for name, drawn in drawings.items():
        if len(drawn) != DRAWERS:
            raise DataError(
                f"{name} has {len(drawn)} drawings, but Omniglot has {DRAWERS} of each: fetch the zips again."
            )
    names = sorted(drawings)
    ink = np.stack([[drawings[name][file] for file in sorted(drawings[name])] for name in names])
    wide = F.max_pool2d(torch.from_numpy(ink).flatten(0, 1)[:, None].float(), PEN, 1, PEN // 2)
    small = F.adaptive_avg_pool2d(wide, side)
    return Omniglot(small.unflatten(0, (len(names), DRAWERS)), tuple(names))


def _folder() -> Path | None:
    given = os.environ.get("COURSE_DATA")
    folders = [root / "omniglot" for root in ([Path(given)] if given else []) + [ROOT / "data" / "external"]]
    for enough in (all, any):  # a folder with both before one with either, so that what is missing can be named
        for folder in folders:
            if enough((folder / name).is_file() for name in FILES):
                return folder
    return None


def _read(path: Path, drawings: dict) -> None:
    from PIL import Image

    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and "__MACOSX" not in name:
                    *_, alphabet, character, file = name.split("/")
                    paper = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"))
                    drawings.setdefault(f"{alphabet}/{character}", {})[file] = (paper < 128).astype(np.uint8)
                    if paper.shape != (SIDE, SIDE):
                        raise DataError(f"{name} in {path} is {paper.shape}, but Omniglot's are {SIDE} × {SIDE}.")
    except (OSError, ValueError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no whole Omniglot zip ({error}): fetch it again.") from None
