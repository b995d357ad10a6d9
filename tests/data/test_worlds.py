"""Three piles of pictures: that none leaks into another, how large they are, and what is refused."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import worlds as module
from helpers.data.idx import DataError
from helpers.data.images import ImageSet, digits
from helpers.data.worlds import SIZES, TEST, worlds

quick = settings(max_examples=10, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def found():
    return worlds("digits")


@pytest.fixture
def mnist(monkeypatch):
    """A little set with an official test part; every picture is its running number."""
    labels, judged = torch.arange(60) % 10, torch.arange(20) % 10
    numbers = torch.arange(80) / 80
    x = numbers.view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    little = ImageSet("mnist", x[:60], labels, x[60:], judged, tuple("0123456789"))
    asked = []

    def images(name, *, fetch):
        asked.append((name, fetch))
        return little

    monkeypatch.setattr(module, "images", images)
    return little, asked


def parts(found):
    return {"private": found.private, "public": found.public, "test": found.test}


def rows(x):
    return {tuple(row) for row in x.flatten(1).tolist()}


# ---------------------------------------------------------------------------------------------------------- leakage


def test_no_index_is_in_two_piles(found):
    for one, other in itertools.combinations(found.places.values(), 2):
        assert not set(one.tolist()) & set(other.tolist())
    together = torch.cat(list(found.places.values()))
    assert len(together) == 1797 and torch.equal(together.sort().values, torch.arange(1797))


def test_no_picture_is_in_two_piles(found):
    # No two of the 1,797 digits are alike pixel by pixel, so this holds whatever the indices say.
    seen = {part: rows(x) for part, (x, _) in parts(found).items()}
    for one, other in itertools.combinations(seen, 2):
        assert not seen[one] & seen[other], (one, other)
    assert sum(map(len, seen.values())) == 1797


@quick
@given(st.integers(10, 640), st.integers(10, 650))
def test_no_sizes_let_a_picture_leak(private, public):
    found = worlds("digits", private, public)
    piles = [set(place.tolist()) for place in found.places.values()]
    assert [len(pile) for pile in piles] == [private, public, 500]
    assert len(set().union(*piles)) == private + public + 500
    assert torch.equal(found.places["test"], worlds("digits").places["test"])  # the judges are always the same


def test_places_say_where_the_pictures_come_from(found):
    whole = digits()
    x = torch.cat([whole.train_images, whole.test_images])
    y = torch.cat([whole.train_labels, whole.test_labels])
    for part, (pictures, labels) in parts(found).items():
        assert torch.equal(pictures, x[found.places[part]]) and torch.equal(labels, y[found.places[part]])


def test_few_pictures_come_from_the_private_pile_alone(found):
    x, _ = found.few(5)
    assert rows(x) <= rows(found.private[0])
    assert not rows(x) & (rows(found.public[0]) | rows(found.test[0]))


# -------------------------------------------------------------------------------------------------- sizes and kinds


def test_the_piles_have_their_sizes_types_and_range(found):
    assert (len(found.private[1]), len(found.public[1]), len(found.test[1])) == (*SIZES["digits"], TEST)
    assert found.name == "digits" and found.side == 8 and found.classes == tuple("0123456789")
    for x, y in parts(found).values():
        assert x.shape == (len(y), 1, 8, 8) and x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.min() == 0 and x.max() == 1
        assert torch.bincount(y, minlength=10).min() > len(y) / 20  # no class is scarce in any of them


def test_the_split_is_the_same_every_time(found):
    torch.manual_seed(12345)
    again = worlds("digits")
    assert all(torch.equal(again.places[part], place) for part, place in found.places.items())
    assert torch.equal(again.private[0], found.private[0])


def test_a_smaller_private_pile_is_the_beginning_of_a_larger_one(found):
    small = worlds("digits", private=40)
    assert torch.equal(small.places["private"], found.places["private"][:40])


def test_sets_with_an_official_test_part_keep_it(mnist):
    little, asked = mnist
    found = worlds("mnist", 30, 25, fetch=False)
    assert asked == [("mnist", False)] and found.side == 28
    assert torch.equal(found.test[0], little.test_images) and torch.equal(found.test[1], little.test_labels)
    assert found.places["test"].tolist() == list(range(60, 80))  # counts on from the training part
    piles = [set(place.tolist()) for place in found.places.values()]
    assert [len(pile) for pile in piles] == [30, 25, 20] and len(set().union(*piles)) == 75
    numbers = [rows(x[..., :1, :1]) for x, _ in parts(found).values()]
    assert not numbers[0] & numbers[1] and not numbers[0] & numbers[2] and not numbers[1] & numbers[2]


# --------------------------------------------------------------------------------------------------------------- few


@pytest.mark.parametrize("per_class", [1, 5])
def test_few_are_class_after_class(found, per_class):
    x, y = found.few(per_class)
    assert x.shape == (10 * per_class, 1, 8, 8)
    assert y.tolist() == [label for label in range(10) for _ in range(per_class)]
    rows_and_labels = zip(found.private[0].flatten(1).tolist(), found.private[1].tolist(), strict=True)
    lookup = {tuple(row): label for row, label in rows_and_labels}
    assert [lookup[tuple(row)] for row in x.flatten(1).tolist()] == y.tolist()
    assert len(rows(x)) == len(y)  # no picture twice


def test_few_follow_their_seed_and_fewer_are_among_more(found):
    assert torch.equal(found.few(3, 1)[0], found.few(3, 1)[0])
    assert not torch.equal(found.few(3, 1)[0], found.few(3, 2)[0])
    assert rows(found.few(1, 4)[0]) < rows(found.few(4, 4)[0])


def test_few_may_be_as_many_as_the_scarcest_class_has_and_no_more(found):
    most = int(torch.bincount(found.private[1]).min())
    assert len(found.few(most)[1]) == 10 * most
    for per_class in (0, -1, most + 1, 2.0, True):
        with pytest.raises(
            ValueError, match=rf"per_class is {per_class}, but it must be a whole number in \[1, {most}\]"
        ):
            found.few(per_class)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["nope", "Digits", ""])
def test_unknown_set_is_refused(name):
    with pytest.raises(ValueError, match=f"dataset is {name!r}, but it must be one of digits, mnist, fashion_mnist"):
        worlds(name)


@pytest.mark.parametrize("count", [0, -5, 40.5, True])
@pytest.mark.parametrize("pile", ["private", "public"])
def test_sizes_are_whole_numbers(pile, count):
    with pytest.raises(ValueError, match=f"{pile} is {count}, but it must be a whole number of at least 1"):
        worlds("digits", **{pile: count})


@pytest.mark.parametrize(("private", "public"), [(9, 100), (100, 9), (650, 648), (1298, 10)])
def test_sizes_that_cannot_be_are_refused(private, public):
    message = f"{private} private and {public} public pictures of digits were asked for, but there are 1297: ask for"
    with pytest.raises(ValueError, match=message):
        worlds("digits", private, public)


def test_a_pile_may_be_all_that_is_left():
    assert len(worlds("digits", 1287, 10).private[1]) == 1287


def test_usual_sizes_need_the_whole_set(mnist):
    with pytest.raises(ValueError, match="10000 private and 10000 public pictures of mnist .* but there are 60"):
        worlds("mnist")


def test_missing_files_are_said_to_be_missing(tmp_path, monkeypatch):
    from helpers.data import external

    monkeypatch.setattr(external, "ROOT", tmp_path / "clone")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataError, match="fashion_mnist"):
        worlds("fashion_mnist", fetch=False)
