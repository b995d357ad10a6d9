"""The grammar of the parameters cell, and the one sentence that a wrong value gives."""

import math

import numpy as np
import pytest

from helpers.lab.parameters import Parameter, ParameterError, check, declared, lesson_path, parse


def one(line) -> Parameter:
    (parameter,) = parse(line).values()
    return parameter


def refusal(act, *args) -> str:
    with pytest.raises(ParameterError) as caught:
        act(*args)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


# The grammar


def test_a_line_gives_name_type_default_meaning_and_bounds():
    assert one("beta: float = 0.9  # decay per step [0, 1]") == Parameter(
        "beta", "float", 0.9, "decay per step", low=0, high=1
    )


@pytest.mark.parametrize(
    ("bounds", "low_open", "high_open"),
    [("[0, 1]", False, False), ("(0, 1]", True, False), ("[0, 1)", False, True), ("(0, 1)", True, True)],
)
def test_open_bounds_leave_their_end_out(bounds, low_open, high_open):
    parameter = one(f"p: float = 0.5  # share {bounds}")
    assert (parameter.low_open, parameter.high_open) == (low_open, high_open)
    for end, is_open in ((0, low_open), (1, high_open)):
        if is_open:
            assert bounds in refusal(parameter.check, end)
        else:
            assert parameter.check(end) == end


def test_a_number_can_have_choices_too():
    parameter = parse("stride: int = 4  # frames a group {2, 4, 8}\n")["stride"]
    assert parameter.check("8") == 8 and parameter.check(2) == 2 and parameter.allowed == "one of 2, 4, 8"
    with pytest.raises(ParameterError, match="stride is '3', but it must be one of 2, 4, 8"):
        parameter.check("3")


def test_choices_are_texts():
    parameter = one('dataset: str = "digits"  # images to learn {digits, mnist, fashion_mnist}')
    assert parameter.choices == ("digits", "mnist", "fashion_mnist") and parameter.help == "images to learn"
    assert parameter.allowed == "one of digits, mnist, fashion_mnist"


@pytest.mark.parametrize(
    ("line", "default", "low", "high"),
    [
        ("n: int = -3  # shift [-5, -1]", -3, -5, -1),
        ("lr: float = 1e-3  # learning rate (0, 1e-1]", 1e-3, 0, 0.1),
        ("n: int = 3  # steps [1,64]", 3, 1, 64),
        ("n: float = 3.0  # time [1, inf)", 3.0, 1, math.inf),
        ("n: int = 60_000  # images [1, 60000]", 60000, 1, 60000),
    ],
)
def test_numbers_may_be_negative_or_small_or_endless(line, default, low, high):
    parameter = one(line)
    assert (parameter.default, parameter.low, parameter.high) == (default, low, high)


@pytest.mark.parametrize(
    ("line", "default", "allowed"),
    [
        ("n: int = 3  # free", 3, "a whole number"),
        ("x: float = -0.5  # free", -0.5, "a number"),
        ('s: str = "a b"  # free', "a b", "a text"),
        ("b: bool = True  # free", True, "true or false"),
        ("n: int = 3  # with [notes] inside", 3, "a whole number"),
    ],
)
def test_bounds_may_be_left_out(line, default, allowed):
    assert one(line).default == default and one(line).allowed == allowed


def test_comments_and_empty_lines_are_skipped_and_order_is_kept():
    assert list(parse("# first\n\nb: int = 1  # x\n  # second\na: int = 2  # y\n")) == ["b", "a"]


@pytest.mark.parametrize(
    "line",
    [
        "n = 3",
        "n: int = 3",
        "n: int = 3 # one space before the comment",
        "n:int = 3  # no space",
        "n: list = [1]  # other type",
        "a, b = 1, 2  # two",
        "n: int = 3  #",
        "n: int = (",
        "n: int = 2 + x  # a name",
        "n: float = 1/2  # a sum to do",
        's: str = "a  # b"  # a comment sign in the text',
        "w: float = 1.0  # shape [out, in]",
        "w: float = 1.0  # [0, 1O]",
    ],
)
def test_a_line_outside_the_grammar_is_shown(line):
    assert line in refusal(parse, f"good: int = 1  # fine\n{line}")


@pytest.mark.parametrize(
    "line",
    [
        "n: int = 0  # steps [1, 64]",
        "n: int = 4.0  # steps [1, 64]",
        "n: int = True  # steps [0, 1]",
        "beta: float = 1.0  # decay [0, 1)",
        's: str = "c"  # choice {a, b}',
        "s: str = 1  # text",
        "w: float = 1.0  # ends exchanged [1, 0]",
    ],
)
def test_a_default_that_its_own_line_forbids_is_refused(line):
    assert line.split(":")[0] in refusal(parse, line)


# Values

INT = one("timesteps: int = 8  # steps per image [1, 64]")
FLOAT = one("beta: float = 0.9  # decay per step [0, 1]")
BOOL = one("quick: bool = True  # less work")


@pytest.mark.parametrize(
    ("parameter", "value", "typed"),
    [
        (INT, "16", 16),
        (INT, 16, 16),
        (INT, " 1 ", 1),
        (INT, np.int64(64), 64),
        (FLOAT, "1e-3", 0.001),
        (FLOAT, "1", 1.0),
        (FLOAT, 0, 0.0),
        (BOOL, "false", False),
        (BOOL, "TRUE", True),
        (BOOL, False, False),
    ],
)
def test_text_is_read_as_the_declared_type(parameter, value, typed):
    got = parameter.check(value)
    assert got == typed and type(got) is type(typed)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (INT, "0"),
        (INT, 65),
        (INT, "4.0"),
        (INT, 4.0),
        (INT, True),
        (INT, "true"),
        (INT, ""),
        (INT, None),
        (INT, [4]),
        (INT, "9" * 5000),
        (FLOAT, "1.5"),
        (FLOAT, "nan"),
        (FLOAT, math.inf),
        (FLOAT, "1e999"),
        (FLOAT, False),
        (FLOAT, "half"),
        (FLOAT, 1j),
        (BOOL, "yes"),
        (BOOL, 1),
        (one("x: float = 0  # free"), "nan"),
        (one("x: float = 0  # free"), "-inf"),
        (one('s: str = "a"  # free'), 3),
    ],
)
def test_wrong_values_are_one_sentence_that_says_what_is_allowed(parameter, value):
    text = refusal(parameter.check, value)
    assert text.startswith(f"{parameter.name} is ") and parameter.allowed in text and parameter.help in text


# Lessons


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"timesteps": "0"}, "timesteps is '0', but it must be a whole number in [1, 64] (steps per image)."),
        ({"beta": "1.5"}, "beta is '1.5', but it must be a number in [0, 1) (decay per step)."),
        ({"dataset": "nope"}, "dataset is 'nope', but it must be one of digits, mnist (images to learn)."),
        ({"seed": "abc"}, "seed is 'abc', but it must be a whole number in [0, 1000] (of everything random)."),
    ],
)
def test_a_refusal_reads_like_this(clone, given, says):
    assert refusal(check, clone.lesson(), given) == says


def test_unknown_name_suggests_a_near_one_and_lists_all(clone):
    text = refusal(check, clone.lesson(), {"timestep": "4"})
    assert "'timestep' (did you mean timesteps?)" in text and "timesteps, beta, dataset, profile, seed" in text


def test_unknown_name_far_from_all_suggests_none(clone):
    assert "did you mean" not in refusal(check, clone.lesson(), {"xyzzy": "4"})


def test_unknown_name_is_refused_before_any_value_is(clone):
    assert "no parameter 'foo'" in refusal(check, clone.lesson(), {"beta": "9", "foo": "1"})


def test_given_values_come_back_typed_and_the_others_not_at_all(clone):
    assert check(clone.lesson(), {"beta": "0.5", "timesteps": "4"}) == {"beta": 0.5, "timesteps": 4}
    assert check(clone.lesson(), {}) == {}


def test_declared_reads_the_lessons_own_file(clone):
    known = declared(clone.lesson())
    assert list(known) == ["timesteps", "beta", "dataset", "profile", "seed"] and known["beta"].high_open


def test_a_lesson_without_a_parameters_cell_takes_none(clone):
    clone.lesson()
    path = clone.root / "notebooks" / "plain.ipynb"
    path.write_text('{"cells": [{"cell_type": "code", "metadata": {}, "source": "1"}]}')
    assert declared("plain") == {}
    assert "no parameter 'seed'" in refusal(check, "plain", {"seed": 1})


@pytest.mark.parametrize("name", ["01_part/01_lesson", "01_part/01_lesson.ipynb", "notebooks/01_part/01_lesson.ipynb"])
def test_a_lesson_may_be_named_by_its_path(clone, name):
    clone.lesson()
    assert lesson_path(name) == clone.root / "notebooks/01_part/01_lesson.ipynb"


def test_unknown_lesson_lists_the_known_ones_without_jupyters_copies(clone):
    clone.lesson()
    clone.lesson(name="01_part/.ipynb_checkpoints/01_lesson-checkpoint")
    assert refusal(lesson_path, "nope") == "there is no lesson 'nope': it must be one of 01_part/01_lesson."


def test_an_empty_clone_says_so(clone):
    assert "empty clone" in refusal(lesson_path, "01_part/01_lesson")


def test_a_notebook_outside_the_lessons_is_no_lesson(clone):
    clone.lesson()
    (clone.root / "other.ipynb").write_text("{}")
    assert "no lesson" in refusal(lesson_path, "../other")
    assert "no lesson" in refusal(lesson_path, str(clone.root / "other"))
