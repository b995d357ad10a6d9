"""Labelled images: scikit-learn's real 8×8 handwriting, and MNIST and Fashion-MNIST from their original files."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helpers.data.external import FILES, complete, download, file_of, find, missing
from helpers.data.idx import DataError, read_idx

NAMES = ("digits", "mnist", "fashion_mnist")
_CLASSES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
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
    fetch: bool = True,
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
        fetch: download a missing set once, into data/external/.

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
    if not complete(name) and fetch and find(name) is None:
        download(name)
    if not complete(name):
        raise DataError(missing(name))
    folder = find(name)
    arrays = {part: read_idx(file_of(folder, part)) for part in FILES}
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
    if count == len(labels):
        return np.arange(count)
    # scikit-learn splits in two parts that both hold every class.
    if not 10 <= count <= len(labels) - 10:
        raise ValueError(
            f"{count} {what} were asked for, but 10 to {len(labels) - 10}, or all {len(labels)}, can be had."
        )
    from sklearn.model_selection import train_test_split

    picked = train_test_split(np.arange(len(labels)), train_size=count, random_state=seed, stratify=labels)[0]
    return np.sort(picked)


def _tensor(pixels: np.ndarray, largest: int, scale: tuple[float, float]) -> Tensor:
    low, high = scale
    values = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).unsqueeze(1)
    return values.mul_((high - low) / largest).add_(low)
