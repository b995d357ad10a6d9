"""Bytes of a text: there and back, what is dropped, which part is held out, and files that are not what they should be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import text as text_module
from helpers.data.idx import DataError
from helpers.data.text import VOCABULARY, Corpus, clean, corpus, decode, encode, windows

quick = settings(max_examples=50, deadline=None, derandomize=True)
PRINTABLE = st.text(st.sampled_from([chr(code) for code in range(32, 127)] + ["\n"]))


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """A machine without any text; returns the folder where the course would look."""
    monkeypatch.delenv("COURSE_DATA", raising=False)
    monkeypatch.setattr(text_module, "ROOT", tmp_path)
    return tmp_path / "data" / "external" / "text"


def put(folder, **files):
    for name, content in files.items():
        path = folder / {"shakespeare": "tinyshakespeare.txt"}.get(name, f"wikitext-2/{name}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


# ------------------------------------------------------------------------------------------------- one token a character


@quick
@given(PRINTABLE)
def test_there_and_back(text):
    tokens = encode(text)
    assert tokens.dtype == torch.int64 and tokens.shape == (len(text),)
    assert not len(text) or 0 <= tokens.min() <= tokens.max() < VOCABULARY
    assert decode(tokens) == text


def test_every_token_is_a_character():
    everything = decode(torch.arange(96))
    assert everything == "".join(map(chr, range(32, 127))) + "\n"
    assert encode(everything).tolist() == list(range(96)) and encode("A\n").tolist() == [33, 95]


def test_tokens_of_any_shape_are_read_in_their_order():
    assert decode(encode("spikes").view(2, 3)) == "spikes" and decode(torch.empty(0, 4).long()) == ""


@pytest.mark.parametrize("strange", ["\t", "\r", "\x7f", "ä", "–", "\u2028", "😀", "\0"])
def test_character_without_a_token_is_refused_and_named(strange):
    with pytest.raises(
        ValueError, match="at 3, but only printable ASCII and newlines .* helpers.data.text.clean"
    ) as caught:
        encode(f"abc{strange}d{strange}")
    assert repr(strange) in str(caught.value)


@pytest.mark.parametrize("tokens", [[0, 96], [-1, 3], [-5], [200]])
def test_token_without_a_character_is_refused(tokens):
    with pytest.raises(ValueError, match=rf"tokens reach from {min(tokens)} to {max(tokens)}, but .* \[0, 95\]"):
        decode(torch.tensor(tokens))


# -------------------------------------------------------------------------------------------------------------- clean


@pytest.mark.parametrize(
    "dirty, expected",
    [
        ("a  b   c", "a b c"),
        ("a\n\n\nb\n", "a\nb\n"),
        ("Über – naïve\tx\r\n", "ber navex\n"),
        ("title\n=====\nbody", "title\nbody"),
        ("a ---- b ~~~~~ c ^^^^ d **** e ++++ f ____ g", "a b c d e f g"),
        ("a == b --- c ___d", "a == b --- c ___d"),
        ("......", "......"),
        ("", ""),
    ],
)
def test_clean_by_hand(dirty, expected):
    assert clean(dirty) == expected


@quick
@given(st.text())
def test_what_is_clean_has_tokens_and_no_gaps(text):
    found = clean(text)
    assert decode(encode(found)) == found
    assert "  " not in found and "\n\n" not in found and len(found) <= len(text)


@quick
@given(st.text(st.sampled_from("ab \n-é"), max_size=30))
def test_letters_are_never_lost(text):
    assert [c for c in clean(text) if c in "ab"] == [c for c in text if c in "ab"]


# ------------------------------------------------------------------------------------------------------------- corpus


def test_the_frozen_text_is_that_of_the_page():
    found = corpus()
    assert isinstance(found, Corpus)
    whole = decode(torch.cat([found.train, found.held_out]))
    assert len(whole) == 420_834 and whole == (text_module._FOLDER / "pydoc_topics.txt").read_text("ascii")
    assert len(found.train) == int(420_834 * 0.9)
    assert "assert" in decode(found.train)[:2000]
    assert "PSF" in (text_module._FOLDER / "PSF-LICENSE.txt").read_text("utf-8").upper()


def test_the_frozen_text_needs_no_other_file(no_data, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(no_data))
    assert torch.equal(corpus("pydoc").held_out, corpus().held_out)


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: b"B" + raw[1:], lambda raw: raw + b"\n", None])
def test_a_frozen_text_that_thawed_is_refused(tmp_path, monkeypatch, change):
    raw = (text_module._FOLDER / "pydoc_topics.txt").read_bytes()
    monkeypatch.setattr(text_module, "_FOLDER", tmp_path)
    if change:
        (tmp_path / "pydoc_topics.txt").write_bytes(change(raw))
    with pytest.raises(
        DataError, match="pydoc_topics.txt is missing or not the text that the course froze.*repository"
    ):
        corpus()


def test_the_last_tenth_of_one_file_is_held_out(tmp_path):
    put(tmp_path, shakespeare="0123456789" * 5)
    found = corpus("shakespeare", tmp_path)
    assert decode(found.train) == "0123456789" * 4 + "01234" and decode(found.held_out) == "56789"


def test_two_files_are_two_parts_and_both_are_cleaned(tmp_path):
    put(tmp_path, valid=" \n = Title =\n\n\n naïve  text\r\n", test="some – other  text")
    found = corpus("wikitext2", str(tmp_path))
    assert decode(found.train) == " \n = Title =\n nave text\n" and decode(found.held_out) == "some other text"


def test_files_are_found_where_the_message_says(no_data, monkeypatch, tmp_path):
    with pytest.raises(
        DataError, match="shakespeare is not on this machine: put tinyshakespeare.txt into data/external"
    ):
        corpus("shakespeare")
    put(no_data, shakespeare="abcdefghij")
    assert decode(corpus("shakespeare").train) == "abcdefghi"
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "mine"))
    assert decode(corpus("shakespeare").train) == "abcdefghi"  # the folder of the clone still counts
    put(tmp_path / "mine" / "text", shakespeare="ABCDEFGHIJ")
    assert decode(corpus("shakespeare").train) == "ABCDEFGHI"
    put(tmp_path / "other", shakespeare="0123456789")
    assert decode(corpus("shakespeare", tmp_path / "other").train) == "012345678"


def test_one_file_of_two_is_not_enough(no_data):
    put(no_data, valid="text")
    with pytest.raises(
        DataError, match="wikitext2 is not on this machine: put wikitext-2/valid.txt and wikitext-2/test.txt"
    ):
        corpus("wikitext2")


def test_a_folder_that_is_given_is_the_only_one_and_is_named(no_data, tmp_path):
    put(no_data, shakespeare="abcdefghij")
    with pytest.raises(DataError, match="tinyshakespeare.txt") as caught:
        corpus("shakespeare", tmp_path / "given")
    assert str(tmp_path / "given") in str(caught.value)


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    put(tmp_path, shakespeare=content)
    with pytest.raises(DataError, match="tinyshakespeare.txt is empty: fetch it again"):
        corpus("shakespeare", tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfeh\0i\0", b"\x80abc", b"\x1f\x8b\x08\x00\xc3"])
def test_a_file_that_is_no_text_is_refused(tmp_path, content):
    put(tmp_path, valid=content, test="text")
    with pytest.raises(DataError, match=r"valid.txt is no readable UTF-8 text \(.*\): fetch it again") as caught:
        corpus("wikitext2", tmp_path)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["wikitext", "", "Pydoc", None])
def test_another_text_is_refused(name):
    with pytest.raises(ValueError, match=rf"the text is {name!r}, but it must be one of pydoc, shakespeare, wikitext2"):
        corpus(name)


# ------------------------------------------------------------------------------------------------------------ windows


@quick
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 30), st.one_of(st.none(), st.integers(0, 2**31)))
def test_windows_are_pieces_of_the_text(count, length, more, seed):
    tokens = torch.arange(length + 1 + more)
    found = windows(tokens, count, length, seed)
    assert found.shape == (count, length + 1) and found.dtype == torch.int64
    assert (found.diff(dim=1) == 1).all() and found.min() >= 0 and found.max() < len(tokens)
    assert torch.equal(found, windows(tokens, count, length, seed))


def test_windows_without_a_seed_are_spread_evenly_from_end_to_end():
    assert windows(torch.arange(101), 5, 20)[:, 0].tolist() == [0, 20, 40, 60, 80]
    assert windows(torch.arange(101), 5, 20)[:, -1].tolist() == [20, 40, 60, 80, 100]
    assert windows(torch.arange(101), 1, 20)[:, 0].tolist() == [0]


def test_windows_with_a_seed_begin_anywhere():
    starts = windows(torch.arange(14), 2000, 3, seed=0)[:, 0]
    assert starts.unique().tolist() == list(range(11))
    assert starts.float().mean().item() == pytest.approx(5, abs=4 * math.sqrt(10 / 2000))
    assert not torch.equal(starts, windows(torch.arange(14), 2000, 3, seed=1)[:, 0])


def test_drawing_windows_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    windows(torch.arange(50), 5, 10, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [0, 5])
def test_a_text_shorter_than_a_window_is_refused(size):
    with pytest.raises(ValueError, match=f"the text has {size} tokens, but one window needs 6"):
        windows(torch.arange(size), 1, 5)
    assert windows(torch.arange(6), 1, 5).tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "settings_, message", [((0, 5), "count is 0, but"), ((2, 0), "length is 0, but"), ((1.5, 5), "count is 1.5")]
)
def test_windows_that_cannot_be_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        windows(torch.arange(50), *settings_)
