"""Labelled images: scikit-learn's real 8×8 handwriting, and MNIST and Fashion-MNIST from their original files."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers import ROOT
from helpers.data.idx import DataError, read_idx, write_idx

NAMES = ("digits", "mnist", "fashion_mnist")
_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_OPENML = {"mnist": "mnist_784", "fashion_mnist": "Fashion-MNIST"}
# SHA-256 of the original files, unpacked; a download must match them.
_CHECKSUMS = {
    "mnist": {
        "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train_images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train_labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "test_images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "test_labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
_CLASSES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion_mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                      "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
}


@dataclass(frozen=True)
class ImageSet:
    """Training and held-out images with their labels.

    Images are float32 [N, 1, side, side] in the `scale` asked for ([0, 1] by default); labels are int64 [N].
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def side(self) -> int:
        """Pixels a side."""
        return self.train_images.shape[-1]


def images(
    name: str,
    train: int | None = None,
    test: int | None = None,
    *,
    seed: int = 0,
    scale: tuple[float, float] = (0.0, 1.0),
    download: bool = True,
) -> ImageSet:
    """A set of labelled images, the same type for every set.

    Args:
        name: "digits" (1,797 of 8×8, embedded), "mnist" or "fashion_mnist" (60,000 and 10,000 of 28×28, from
            $COURSE_DATA, data/external/ or data/).
        train: training images; None: 1,297 digits, or all 60,000.
        test: held-out images; None: 500 digits, or all 10,000.
        seed: of the split. Digits are split anew for each seed; the others keep the official split, of which a part is
            drawn. Both are stratified: every class keeps its share.
        scale: the values that black and full ink become.
        download: fetch a missing set once, into data/external/.

    Returns:
        An `ImageSet`; images float32 [N, 1, side, side], labels int64 [N].

    Raises:
        ValueError: an unknown name, or more images asked for than there are.
        DataError: files that are missing or broken.
    """
    if name not in NAMES:
        raise ValueError(f"dataset is {name!r}, but it must be one of {', '.join(NAMES)}.")
    if name == "digits":
        return _digits(1297 if train is None else train, 500 if test is None else test, seed, scale)
    folder = find(name)
    if folder is None and download:
        folder = _download(name)
    if folder is None:
        raise DataError(_missing(name))
    arrays = {part: read_idx(_file(folder, part)) for part in _FILES}
    parts = {}
    for part, wanted in (("train", train), ("test", test)):
        pixels, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
            raise DataError(
                f"{folder} holds {part} images of shape {pixels.shape} and labels of shape {labels.shape}, "
                "which do not belong together: fetch both again."
            )
        picked = _stratified(labels, len(labels) if wanted is None else wanted, seed, f"{part} images of {name}")
        parts[f"{part}_images"] = _tensor(pixels[picked], 255, scale)
        parts[f"{part}_labels"] = torch.from_numpy(labels[picked].astype(np.int64))
    return ImageSet(name, **parts, classes=_CLASSES[name])


def digits(train: int = 1297, test: int = 500, *, seed: int = 0, scale: tuple[float, float] = (0.0, 1.0)) -> ImageSet:
    """`images("digits", …)`: scikit-learn's copy of the UCI handwritten digits, 8×8, values 0 to 16 before scaling.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    return images("digits", train, test, seed=seed, scale=scale)


def find(name: str) -> Path | None:
    """The folder that holds a set's files (any of them), looked for under $COURSE_DATA, data/external/ and data/."""
    given = os.environ.get("COURSE_DATA")
    roots = ([Path(given)] if given else []) + [ROOT / "data" / "external", ROOT / "data"]
    for root in roots:
        for folder in (root / name, root / name.replace("_", "-")):
            if any(_file(folder, part).exists() for part in _FILES):
                return folder
    return None


def _file(folder: Path, part: str) -> Path:
    plain = folder / _FILES[part]
    packed = plain.with_name(plain.name + ".gz")
    return packed if packed.exists() and not plain.exists() else plain


def _digits(train: int, test: int, seed: int, scale: tuple[float, float]) -> ImageSet:
    if train < 10 or test < 10 or train + test > 1797:
        raise ValueError(
            f"{train} training and {test} test digits were asked for, but there are 1797: ask for at least 10 of each "
            "and no more together."
        )
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(
        pixels.reshape(-1, 8, 8), labels, train_size=train, test_size=test, random_state=seed, stratify=labels
    )
    train_pixels, test_pixels = (_tensor(part, 16, scale) for part in split[:2])
    train_labels, test_labels = (torch.from_numpy(part.astype(np.int64)) for part in split[2:])
    return ImageSet("digits", train_pixels, train_labels, test_pixels, test_labels, _CLASSES["digits"])


def _stratified(labels: np.ndarray, count: int, seed: int, what: str) -> np.ndarray:
    if not 10 <= count <= len(labels):
        raise ValueError(f"{count} {what} were asked for, but between 10 and {len(labels)} can be had.")
    if count == len(labels):
        return np.arange(count)
    from sklearn.model_selection import train_test_split

    picked = train_test_split(np.arange(len(labels)), train_size=count, random_state=seed, stratify=labels)[0]
    return np.sort(picked)


def _tensor(pixels: np.ndarray, largest: int, scale: tuple[float, float]) -> Tensor:
    low, high = scale
    values = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).unsqueeze(1)
    return values.mul_((high - low) / largest).add_(low)


def _missing(name: str) -> str:
    return (
        f"{name} is not on this machine: put {', '.join(f'{file}[.gz]' for file in _FILES.values())} into "
        f"data/external/{name}/ or $COURSE_DATA/{name}/, or run `course data {name}` with a network."
    )


def _download(name: str) -> Path:
    """Fetch a set from OpenML and keep it as the original IDX files; nothing is left behind if that fails."""
    from sklearn.datasets import fetch_openml

    target = ROOT / "data" / "external" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        try:
            pixels, labels = fetch_openml(
                _OPENML[name], version=1, return_X_y=True, as_frame=False, parser="liac-arff",
                data_home=scratch / "cache", n_retries=0
            )
        except Exception as error:  # offline, a moved file, a server's refusal: the reader's remedy is the same
            raise DataError(f"{_missing(name)[:-1]} (the download failed: {type(error).__name__}).") from None
        pixels, labels = np.asarray(pixels).astype(np.uint8).reshape(-1, 28, 28), np.asarray(labels).astype(np.uint8)
        arrays = {
            "train_images": pixels[:60000],
            "train_labels": labels[:60000],
            "test_images": pixels[60000:],
            "test_labels": labels[60000:],
        }
        whole = scratch / name
        for part, array in arrays.items():
            write_idx(whole / _FILES[part], array)
            if hashlib.sha256((whole / _FILES[part]).read_bytes()).hexdigest() != _CHECKSUMS[name][part]:
                raise DataError(f"the downloaded {name} is not the original set ({part} differ): nothing was kept, try again later.")
        if target.exists():
            shutil.rmtree(target)
        os.replace(whole, target)
        return target
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
