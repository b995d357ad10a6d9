"""Image sets: the same type and range for each, seeded stratified splits, and downloads that leave all or nothing."""

import gzip
import hashlib
import socket
from http.client import IncompleteRead
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets
import torch

from helpers.data import external
from helpers.data.external import FILES
from helpers.data.idx import DataError, read_idx, write_idx
from helpers.data.images import NAMES, digits, images

PARTS = ("train_images", "train_labels", "test_images", "test_labels")


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    """No test sees this machine's data, none writes into the clone, none reaches the network."""
    monkeypatch.setattr(external, "ROOT", tmp_path / "clone")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "mine"))

    def offline(*_args):
        raise OSError("tests have no network")

    monkeypatch.setattr(socket.socket, "connect", offline)


def small_set(labels_each=4, side=28):
    """A tiny set as IDX arrays: every pixel of an image is its running number."""
    parts = {}
    for part, extra in (("train", 2), ("test", 0)):
        labels = np.tile(np.arange(10, dtype=np.uint8), labels_each + extra)
        numbers = np.arange(len(labels), dtype=np.uint8)
        parts[f"{part}_images"] = np.broadcast_to(numbers[:, None, None], (len(labels), side, side)).copy()
        parts[f"{part}_labels"] = labels
    return parts


def put(folder, arrays, packed=False):
    for part, array in arrays.items():
        path = folder / FILES[part]
        write_idx(path, array)
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return folder


def same(a, b):
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in PARTS)


# Digits


def test_digits_have_the_promised_shapes_and_types():
    data = digits()
    assert data.train_images.shape == (1297, 1, 8, 8) and data.test_images.shape == (500, 1, 8, 8)
    assert data.train_images.dtype == torch.float32 and data.train_labels.dtype == torch.int64
    assert len(data.train_labels) == 1297 and len(data.test_labels) == 500
    assert data.side == 8 and data.classes == tuple("0123456789") and data.name == "digits"


def test_digits_fill_the_range_from_0_to_1():
    data = digits()
    assert data.train_images.min() == 0 and data.train_images.max() == 1


def test_scale_names_the_values_of_black_and_full_ink():
    plain, scaled = digits(100, 50), digits(100, 50, scale=(-1.0, 3.0))
    torch.testing.assert_close(scaled.train_images, plain.train_images * 4 - 1)
    assert scaled.test_images.min() == -1 and scaled.test_images.max() == 3


def test_digits_are_stratified():
    everything = torch.cat([digits().train_labels, digits().test_labels]).bincount(minlength=10) / 1797
    data = digits(900, 400)
    for labels in (data.train_labels, data.test_labels):
        # A class may be off by one image, which rounding costs.
        assert ((labels.bincount(minlength=10) - everything * len(labels)).abs() <= 1).all()


def test_training_and_test_digits_share_no_image():
    data = digits()
    joined = torch.cat([data.train_images, data.test_images]).flatten(1)
    # The whole set holds no image twice, so a split that is disjoint cannot either.
    assert len(joined.unique(dim=0)) == len(joined) == 1797


def test_same_seed_same_split():
    assert same(digits(200, 100, seed=3), digits(200, 100, seed=3))


def test_other_seed_other_split():
    assert not torch.equal(digits(200, 100, seed=3).train_images, digits(200, 100, seed=4).train_images)


def test_split_does_not_touch_the_global_generators():
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    digits(200, 100, seed=3)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(("train", "test"), [(9, 500), (1297, 9), (1298, 500), (0, 0), (-5, 100)])
def test_sizes_that_cannot_be_are_refused(train, test):
    with pytest.raises(ValueError, match="there are 1797"):
        digits(train, test)


@pytest.mark.parametrize("name", ["nope", "MNIST", "fashion-mnist", ""])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=", ".join(NAMES)):
        images(name)


# Files on this machine


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "mnist"), ("fashion_mnist", "fashion_mnist"), ("fashion_mnist", "fashion-mnist")]
)
def test_set_is_found_under_course_data(tmp_path, name, folder, packed):
    put(tmp_path / "mine" / folder, small_set(), packed)
    data = images(name)
    assert data.train_images.shape == (60, 1, 28, 28) and data.test_images.shape == (40, 1, 28, 28)
    # The official split in the official order: image n is n/255 everywhere, its label n modulo 10.
    torch.testing.assert_close(data.train_images[:, 0, 5, 7], torch.arange(60) / 255)
    assert torch.equal(data.test_labels, torch.arange(40) % 10)
    assert len(data.classes) == 10


@pytest.mark.parametrize("place", ["data/external", "data"])
def test_set_is_found_in_the_clone(tmp_path, monkeypatch, place):
    monkeypatch.delenv("COURSE_DATA")
    folder = put(tmp_path / "clone" / place / "mnist", small_set())
    assert external.find("mnist") == folder and len(images("mnist", fetch=False).train_labels) == 60


def test_part_of_a_set_is_stratified_and_seeded(tmp_path):
    put(tmp_path / "mine/mnist", small_set())
    first, again, other = (images("mnist", 20, 10, seed=seed) for seed in (0, 0, 1))
    assert first.train_labels.bincount().tolist() == [2] * 10 and first.test_labels.bincount().tolist() == [1] * 10
    assert same(first, again) and not torch.equal(first.train_images, other.train_images)


@pytest.mark.parametrize("sizes", [{"train": 61}, {"train": 9}, {"test": 41}, {"test": -1}])
def test_more_than_the_files_hold_is_refused(tmp_path, sizes):
    put(tmp_path / "mine/mnist", small_set())
    with pytest.raises(ValueError, match="images of mnist were asked for"):
        images("mnist", **sizes)


@pytest.mark.parametrize(
    "change",
    [
        {"train_labels": np.zeros(7, np.uint8)},
        {"test_images": np.zeros((40, 784), np.uint8)},
        {"test_labels": np.zeros((40, 1), np.uint8)},
    ],
    ids=["other count", "flat images", "labels with two axes"],
)
def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path, change):
    folder = put(tmp_path / "mine/mnist", {**small_set(), **change})
    with pytest.raises(DataError, match="do not belong together") as caught:
        images("mnist")
    assert str(folder) in str(caught.value)


def test_missing_part_names_its_file(tmp_path):
    folder = put(tmp_path / "mine/mnist", small_set())
    (folder / FILES["test_labels"]).unlink()
    with pytest.raises(DataError, match=FILES["test_labels"]):
        images("mnist")


def test_missing_set_without_fetching_is_one_sentence(monkeypatch):
    monkeypatch.setattr("helpers.data.images.download", lambda name: pytest.fail("it fetched"))
    with pytest.raises(DataError) as caught:
        images("fashion_mnist", fetch=False)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and "course data fashion_mnist" in text and "COURSE_DATA" in text


# Downloads


@pytest.fixture
def openml(monkeypatch):
    """Let a test say what OpenML answers, and see what was asked."""
    asked = []

    def answer_with(answer):
        def fetch(name, **options):
            asked.append((name, options["version"]))
            options["data_home"].mkdir()
            (options["data_home"] / "half.arff.gz").write_bytes(b"half a download")
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
        return asked

    return answer_with


def left_behind(tmp_path):
    return [str(path) for path in (tmp_path / "clone").rglob("*") if path.is_file()]


def test_download_of_other_content_keeps_nothing(tmp_path, openml):
    asked = openml((np.zeros((100, 784)), np.full(100, "3")))
    with pytest.raises(DataError, match="not the original set"):
        images("mnist")
    assert asked == [("mnist_784", 1)] and left_behind(tmp_path) == []
    assert [path.name for path in (tmp_path / "clone/data/external").iterdir()] == []


@pytest.mark.parametrize(
    "error",
    # ValueError is what scikit-learn raises where a file does not have OpenML's own checksum.
    [URLError("no route"), TimeoutError("slow"), ConnectionResetError(), IncompleteRead(b""), ValueError("md5")],
    ids=lambda e: type(e).__name__,
)
def test_failed_download_is_one_sentence_and_keeps_nothing(tmp_path, openml, error):
    openml(error)
    with pytest.raises(DataError) as caught:
        images("mnist")
    text = str(caught.value)
    assert "\n" not in text and text.endswith(").") and type(error).__name__ in text and "data/external/mnist" in text
    assert left_behind(tmp_path) == []


def test_interrupted_download_keeps_nothing(tmp_path, openml):
    openml(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        images("mnist")
    assert left_behind(tmp_path) == []


def test_download_with_the_right_checksums_is_kept_and_readable(tmp_path, openml, monkeypatch):
    # 60,000 training images as in the original, because the split lies there; all black but for one pixel each.
    pixels, labels = np.zeros((60020, 784), np.uint8), np.arange(60020) % 10
    pixels[:, 5] = labels
    parts = {
        "train_images": pixels[:60000].reshape(-1, 28, 28),
        "train_labels": labels[:60000].astype(np.uint8),
        "test_images": pixels[60000:].reshape(-1, 28, 28),
        "test_labels": labels[60000:].astype(np.uint8),
    }
    sums = {}
    for part, array in parts.items():
        write_idx(tmp_path / "scratch" / part, array)
        sums[part] = hashlib.sha256((tmp_path / "scratch" / part).read_bytes()).hexdigest()
    monkeypatch.setitem(external.CHECKSUMS, "mnist", sums)
    openml((pixels, labels.astype(str)))

    data = images("mnist", train=100)
    kept = tmp_path / "clone/data/external/mnist"
    assert external.find("mnist") == kept and sorted(p.name for p in kept.iterdir()) == sorted(FILES.values())
    assert [p.name for p in kept.parent.iterdir()] == ["mnist"]
    np.testing.assert_array_equal(read_idx(kept / FILES["test_labels"]), np.tile(np.arange(10), 2))
    torch.testing.assert_close(data.test_images[:, 0, 0, 5] * 255, data.test_labels.float())
    # Found from now on, without a network.
    openml(URLError("no route"))
    assert len(images("mnist", 20, 10).train_labels) == 20


def test_every_set_has_a_checksum_for_every_file():
    for name in external.OPENML:
        assert set(external.CHECKSUMS[name]) == set(FILES)
        assert all(len(bytes.fromhex(value)) == 32 for value in external.CHECKSUMS[name].values())
