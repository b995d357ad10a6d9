"""The figures of 00_start_here: a battery, and the map of the course."""

import html

import numpy as np
import plotly.graph_objects as go

from helpers.lab.style import COLOURS, DASHES, titled
from helpers.lab.technology import CELL_JOULES, technology

DAY = 86_400
LINES = {
    "multiply-accumulate, 32-bit float": ("45nm float32", "mac_pj"),
    "addition, 32-bit float": ("45nm float32", "ac_pj"),
    "multiply-accumulate, 8-bit integer": ("45nm int8", "mac_pj"),
}


def battery_days(operations: float, looks: float, picojoules: float, skipped: float = 0.0) -> float:
    """Days that one CR2032 coin cell pays for, arithmetic alone.

    Args:
        operations: in one look.
        looks: a second.
        picojoules: of one operation.
        skipped: share of operations that are not done, in [0, 1).
    """
    return CELL_JOULES / (operations * (1 - skipped) * picojoules * 1e-12 * looks * DAY)


def battery(operations: float, looks: float, skipped: float = 0.0) -> go.Figure:
    """Days of battery against operations a look, a line for each kind of operation."""
    axis = np.logspace(4, 10, 61)
    figure = go.Figure()
    days = {}
    for index, (label, (tech, kind)) in enumerate(LINES.items()):
        picojoules = getattr(technology(tech), kind)
        days[label] = battery_days(operations, looks, picojoules, skipped)
        colour = list(COLOURS.values())[index]
        line = {"color": colour, "dash": DASHES[index], "width": 3}
        figure.add_scatter(
            x=axis,
            y=battery_days(axis, looks, picojoules, skipped),
            mode="lines",
            line=line,
            name=f"{label} ({picojoules:g} pJ)",
        )
        figure.add_scatter(
            x=[operations],
            y=[days[label]],
            mode="markers",
            showlegend=False,
            marker={"color": colour, "size": 13, "symbol": "diamond"},
        )
    figure.update_xaxes(title="operations a look", type="log", range=[3.9, 10.1], dtick=1, exponentformat="power")
    figure.update_yaxes(title="days on one coin cell", type="log", range=[-2, 8], dtick=2, exponentformat="power")
    figure.update_layout(margin_t=150)
    first, second, third = days.values()
    said = (
        f"{operations:,.0f} operations, {looks:g} look{'s' * (looks != 1)} a second: {_days(first)}, "
        f"{_days(second)} if they were additions, {_days(third)} with 8-bit integers."
    )
    return titled(figure, "How long does the cell last?", said)


def _days(days: float) -> str:
    return (
        f"{days / 365.25:,.0f} years" if days > 3652 else f"{days:,.1f} days" if days >= 1 else f"{days * 24:.1f} hours"
    )


def course_map(lessons, written) -> str:
    """The lessons as an HTML table, each with its question; those on their way say so.

    Args:
        lessons: all entries of course/chapters.toml.
        written: names of the lessons that have a notebook.
    """
    left = 'style="text-align:left;vertical-align:top;white-space:normal"'
    rows, chapter = "", ""
    for lesson in lessons:
        head = lesson.chapter if lesson.chapter != chapter else ""
        chapter = lesson.chapter
        title = html.escape(lesson.title)
        if lesson.name in written:
            title = f'<a href="{lesson.name}.ipynb">{title}</a>'
            minutes = f"{lesson.minutes} min"
        else:
            minutes = "on its way"
        texts = (html.escape(head), title, html.escape(lesson.hook), minutes)
        rows += "<tr>" + "".join(f"<td {left}>{text}</td>" for text in texts) + "</tr>"
    heads = "".join(f"<th {left}>{text}</th>" for text in ("chapter", "lesson", "its question", "time"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
