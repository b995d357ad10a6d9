"""Questions with and without a kernel, and exercises that judge any answer without falling over."""

import pytest

from helpers.lab import questions
from helpers.lab.questions import check, quiz

QUESTION = ("Is 1 < 2?", ["no <never>", "yes"], 1, "Because 1 & 1 make 2.")


def test_response_says_yes_or_no_and_why():
    made = quiz(*QUESTION)
    assert made.respond(1) == "✓ Yes. Because 1 & 1 make 2." and made.respond(0).startswith("✗ No.")


@pytest.mark.parametrize(("options", "answer"), [(["a"], 0), ([], 0), (["a", "b"], 2), (["a", "b"], -1)])
def test_question_without_two_options_or_an_answer_is_refused(options, answer):
    with pytest.raises(ValueError, match=f"answer is {answer} of {len(options)} options"):
        quiz("?", options, answer, "why")


def test_saved_question_folds_its_answer_away(still):
    data = quiz(*QUESTION)._repr_mimebundle_()
    assert set(data) == {"text/html", "text/plain", questions.MIME}
    asked, answered = data["text/html"].split("<details>")
    assert "Is 1 &lt; 2?" in asked and "no &lt;never&gt;" in asked and "Because" not in asked
    assert "Because 1 &amp; 1 make 2." in answered


def test_live_question_has_buttons_and_keeps_the_saved_form(live):
    data = quiz(*QUESTION)._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", questions.MIME} <= set(data)
    assert "<details>" in data["text/html"]


def test_choosing_a_button_answers(live):
    _question, buttons, feedback = quiz(*QUESTION)._live().children
    assert buttons.value is None and "✓" not in feedback.value
    buttons.value = 0
    assert "✗ No." in feedback.value
    buttons.value = 1
    assert "✓ Yes. Because 1 &amp; 1 make 2." in feedback.value and "role='status'" in feedback.value


# Exercises


@pytest.mark.parametrize("given", [None, ...])
@pytest.mark.parametrize("expected", [3.0, lambda answer: answer(2) == 4])
def test_untouched_answer_is_not_done_yet(given, expected):
    assert check(given, expected, hint="h").startswith("… not done yet")


@pytest.mark.parametrize("given", [0.3, 0.1 + 0.2, "0.3", 0.3 + 1e-9])
def test_right_number(given):
    assert check(given, 0.3, hint="h") == "✓ Right."


@pytest.mark.parametrize("given", [0.31, 0, float("nan"), float("inf"), False])
def test_wrong_number_gives_the_hint(given):
    assert check(given, 0.3, hint="look at beta") == "✗ Not yet. Hint: look at beta"


def test_tolerance_is_relative():
    assert check(1010, 1000, hint="h", tolerance=0.02) == "✓ Right."
    assert check(1030, 1000, hint="h", tolerance=0.02) != "✓ Right."


def test_expected_zero_can_be_met():
    assert check(1e-9, 0.0, hint="h") == "✓ Right."


def test_function_is_judged_by_a_function():
    assert check(lambda x: x * x, lambda square: square(3) == 9, hint="h") == "✓ Right."
    assert check(lambda x: x + x, lambda square: square(3) == 9, hint="h") == "✗ Not yet. Hint: h"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("many", 3.0), ([1, 2], 3.0), (lambda: 1, 3.0), (lambda x: 1 / 0, lambda answer: answer(3) == 9)],
)
def test_answer_that_raises_is_feedback_not_a_crash(given, expected):
    text = check(given, expected, hint="look again")
    assert text.startswith("✗ Your answer raised ") and text.endswith("Hint: look again")
