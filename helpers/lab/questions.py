"""Questions to commit to before moving a slider, and exercises that check themselves."""

import html
import math
from collections.abc import Callable, Sequence

from helpers.lab.display import static

MIME = "application/vnd.spikes.quiz+json"
"""Marks a saved question: the cleaner keeps its text when the live buttons go."""


class Quiz:
    """A question with options; live it answers at once, saved it folds its answer away."""

    def __init__(self, question: str, options: Sequence[str], answer: int, why: str) -> None:
        self.question, self.options, self.answer, self.why = question, list(options), answer, why

    def respond(self, choice: int) -> str:
        """What the reader sees after choosing an option (counted from 0)."""
        sign = "✓ Yes." if choice == self.answer else "✗ No."
        return f"{sign} {self.why}"

    def _still(self) -> str:
        items = "".join(f"<li>{html.escape(option)}</li>" for option in self.options)
        return (
            f"<p><strong>{html.escape(self.question)}</strong></p><ol>{items}</ol>"
            f"<details><summary>Answer</summary><p>{self.answer + 1}. {html.escape(self.why)}</p></details>"
        )

    def _live(self):
        import ipywidgets as widgets

        options = [(option, index) for index, option in enumerate(self.options)]
        buttons = widgets.RadioButtons(options=options, value=None, layout=widgets.Layout(width="auto"))
        feedback = widgets.HTML("<span role='status'></span>")

        def chosen(change) -> None:
            feedback.value = f"<span role='status'>{html.escape(self.respond(change['new']))}</span>"

        buttons.observe(chosen, "value")
        question = widgets.HTML(f"<strong>{html.escape(self.question)}</strong>")
        return widgets.VBox([question, buttons, feedback])

    def _repr_mimebundle_(self, include=None, exclude=None):
        still = {"text/html": self._still(), "text/plain": repr(self), MIME: {"question": self.question}}
        if static():
            return still
        return {**self._live()._repr_mimebundle_(include=include, exclude=exclude), **still}

    def __repr__(self) -> str:
        return f"{self.question} " + " / ".join(self.options)


def quiz(question: str, options: Sequence[str], answer: int, why: str) -> Quiz:
    """A question to commit to.

    Args:
        question: one sentence.
        options: at least two.
        answer: which option is right, counted from 0.
        why: one or two sentences, shown after the choice.

    Raises:
        ValueError: fewer than two options, or an answer that is none of them.
    """
    if len(options) < 2 or not 0 <= answer < len(options):
        raise ValueError(
            f"answer is {answer} of {len(options)} options, but two options and an answer among them are needed."
        )
    return Quiz(question, options, answer, why)


class _Line(str):
    """A text that shows itself without quotes."""

    __repr__ = str.__str__


def check(given: object, expected: float | Callable[[object], bool], *, hint: str, tolerance: float = 1e-6) -> str:
    """Judge an exercise's answer in one line; an untouched answer (None or ...) is "not done yet", never an error.

    Args:
        given: the reader's answer: a number, or a function if `expected` judges it.
        expected: the right number, or a function that says whether the answer is right.
        hint: what to look at again.
        tolerance: relative, for numbers.
    """
    if given is None or given is ...:
        return _Line("… not done yet: replace the dots and run the cell again.")
    try:
        if callable(expected):
            right = bool(expected(given))
        else:
            right = math.isclose(float(given), float(expected), rel_tol=tolerance, abs_tol=tolerance)
    except Exception as error:  # whatever a reader's answer raises is feedback, not a crash of the lesson
        return _Line(f"✗ Your answer raised {type(error).__name__}: {error}. Hint: {hint}")
    return _Line("✓ Right." if right else f"✗ Not yet. Hint: {hint}")
