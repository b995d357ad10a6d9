"""Real image sets as files on this machine: where they are looked for, how they are fetched and checked."""

import hashlib
import os
import shutil
import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np

from helpers import ROOT
from helpers.data.idx import DataError, write_idx

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
OPENML = {"mnist": "mnist_784", "fashion_mnist": "Fashion-MNIST"}
# SHA-256 of the original files, unpacked; a download must match them.
CHECKSUMS = {
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


def find(name: str) -> Path | None:
    """The folder that holds a set's files, looked for under $COURSE_DATA, data/external/ and data/.

    The first folder with all four files; else the first with any of them, so that what is missing can be named.
    """
    given = os.environ.get("COURSE_DATA")
    roots = ([Path(given)] if given else []) + [ROOT / "data" / "external", ROOT / "data"]
    folders = [folder for root in roots for folder in (root / name, root / name.replace("_", "-"))]
    for enough in (all, any):
        for folder in folders:
            if enough(file_of(folder, part).exists() for part in FILES):
                return folder
    return None


def complete(name: str) -> bool:
    """Whether all four files of a set are on this machine."""
    folder = find(name)
    return folder is not None and all(file_of(folder, part).exists() for part in FILES)


def file_of(folder: Path, part: str) -> Path:
    """The file of one part (train_images, …) in a set's folder, gzipped if only that is there."""
    plain = folder / FILES[part]
    packed = plain.with_name(plain.name + ".gz")
    return packed if packed.exists() and not plain.exists() else plain


def missing(name: str) -> str:
    """What to tell a reader whose set is not here."""
    return (
        f"{name} is not on this machine: put {', '.join(f'{file}[.gz]' for file in FILES.values())} into "
        f"data/external/{name}/ or $COURSE_DATA/{name}/, or run `course data {name}` with a network."
    )


def download(name: str) -> Path:
    """Fetch a set from OpenML, keep it as the original IDX files in data/external/, and return their folder.

    Raises:
        DataError: no network, or what came is not the original set; nothing is left behind.
    """
    from sklearn.datasets import fetch_openml

    target = ROOT / "data" / "external" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        try:
            pixels, labels = fetch_openml(
                OPENML[name],
                version=1,
                return_X_y=True,
                as_frame=False,
                parser="liac-arff",
                data_home=scratch / "cache",
                n_retries=1,
            )
        except (OSError, HTTPException, ValueError) as error:  # offline, cut off, or not what its checksum promised
            raise DataError(f"{missing(name)[:-1]} (the download failed: {type(error).__name__}).") from None
        pixels, labels = np.asarray(pixels).astype(np.uint8).reshape(-1, 28, 28), np.asarray(labels).astype(np.uint8)
        arrays = {
            "train_images": pixels[:60000],
            "train_labels": labels[:60000],
            "test_images": pixels[60000:],
            "test_labels": labels[60000:],
        }
        whole = scratch / name
        for part, array in arrays.items():
            write_idx(whole / FILES[part], array)
            if hashlib.sha256((whole / FILES[part]).read_bytes()).hexdigest() != CHECKSUMS[name][part]:
                raise DataError(
                    f"the downloaded {name} is not the original set ({part} differ): nothing was kept, try again later."
                )
        if target.exists():
            shutil.rmtree(target)
        os.replace(whole, target)
        return target
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
