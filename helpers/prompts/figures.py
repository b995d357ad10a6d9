"""The figures of lesson 05.1: pure functions of plain values, shared by lessons and apps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, INK, titled

BRIGHT = [[0, "#17405f"], [1, "#e6edf3"]]
"""Dark is dark and light is light, on any page."""
SHARE = [[0, "#eef4f9"], [1, "#86bbe2"]]
"""Light enough for dark numbers in every cell, on any page."""
DARK = "#1b2a38"
GAP = 1
LOOKS = {
    "fine-tuning": "vermilion",
    "fine-tuning, masked": "ochre",
    "head only": "grey",
    "L2P": "purple",
    "DualPrompt": "purple",
    "CODA-Prompt": "blue",
    "OS-Prompt": "green",
    "OS-Prompt++": "green",
}
"""Colour of each method of `continual.METHODS`."""


def mosaic(pictures: ArrayLike) -> np.ndarray:
    """Pictures [rows, columns, H, W] as one, with gaps of nan between them."""
    pictures = np.asarray(pictures, np.float32)
    rows, columns, high, wide = pictures.shape
    padded = np.full((rows, columns, high + GAP, wide + GAP), np.nan, np.float32)
    padded[..., :high, :wide] = pictures
    return padded.transpose(0, 2, 1, 3).reshape(rows * (high + GAP), -1)


def picture(figure: go.Figure, z: ArrayLike, row: int, col: int, bare: bool = True) -> None:
    """Put a picture, 0 (dark) to 1, into a subplot; square pixels, no ticks unless `bare` is False."""
    z = np.asarray(z, np.float32)
    figure.add_heatmap(z=z, zmin=0, zmax=1, colorscale=BRIGHT, showscale=False, hoverinfo="skip", row=row, col=col)
    look = {"showgrid": False, "zeroline": False, "constrain": "domain", "row": row, "col": col}
    look |= {"showticklabels": False, "ticks": ""} if bare else {}
    across = figure.get_subplot(row, col).xaxis.plotly_name.replace("axis", "")
    # Ranges by hand: an automatic one is made anew with every frame of a slider, and the pixels are square no more.
    figure.update_xaxes(range=[-0.5, z.shape[1] - 0.5], **look)
    figure.update_yaxes(range=[z.shape[0] - 0.5, -0.5], scaleanchor=across, **look)


def arrival(
    pictures: ArrayLike, rows: Sequence[str], title: str, said: str, across: str = "class", down: str = "task"
) -> go.Figure:
    """What arrives, a row a task, a column a class.

    Args:
        pictures: [rows, columns, H, W], 0 to 1.
        rows: name of each row.
        title, said: of the figure.
        across, down: titles of the axes of columns and of rows.
    """
    shown = np.asarray(pictures)
    figure = make_subplots()
    picture(figure, mosaic(shown), 1, 1, bare=False)
    high, wide = shown.shape[2] + GAP, shown.shape[3] + GAP
    middles = [index * high + (high - GAP - 1) / 2 for index in range(len(rows))]
    columns = [index * wide + (wide - GAP - 1) / 2 for index in range(shown.shape[1])]
    figure.update_yaxes(tickvals=middles, ticktext=list(rows), title=down)
    figure.update_xaxes(tickvals=columns, ticktext=[str(i + 1) for i in range(shown.shape[1])], title=across)
    figure.update_layout(height=int(110 + 62 * len(rows)), margin_t=76)
    return titled(figure, title, said)


def matrix(figure: go.Figure, values: ArrayLike, upto: int, col: int = 1) -> None:
    """Put an accuracy matrix [T, T] into a subplot: rows up to `upto`, nothing above the diagonal, in percent."""
    r = 100 * np.asarray(values, dtype=float)
    shown = np.where(np.tri(len(r), dtype=bool) & (np.arange(len(r))[:, None] <= upto), r, np.nan)
    names = [str(index + 1) for index in range(len(r))]
    text = [["" if np.isnan(x) else f"{x:.0f}" for x in row] for row in shown]
    heat = {"colorscale": SHARE, "zmin": 0, "zmax": 100, "showscale": False, "texttemplate": "%{text}"}
    heat["textfont"] = {"color": DARK}
    figure.add_heatmap(z=shown.astype(np.float32), x=names, y=names, text=text, **heat, row=1, col=col)
    look = {"type": "category", "showgrid": False}
    figure.update_xaxes(title="accuracy on task [%]", range=[-0.5, len(r) - 0.5], **look, row=1, col=col)
    figure.update_yaxes(title="after task", range=[len(r) - 0.5, -0.5], **look, row=1, col=col)


def shares(alone: ArrayLike, prefixed: ArrayLike) -> go.Figure:
    """Who looks where in an attention, without and with a prefix.

    Args:
        alone: [N, N], rows sum to 1.
        prefixed: [N, P + N], the prefix's columns first.
    """
    figure = make_subplots(cols=2, horizontal_spacing=0.16, subplot_titles=["alone", "with a prefix"])
    for col, values in ((1, np.asarray(alone)), (2, np.asarray(prefixed))):
        count, told = values.shape[0], values.shape[1] - values.shape[0]
        names = [*(f"told {i + 1}" for i in range(told)), *(f"token {i + 1}" for i in range(count))]
        rows = [f"token {i + 1}" for i in range(count)]
        heat = {"colorscale": SHARE, "zmin": 0, "zmax": 1, "showscale": False, "textfont": {"color": DARK}}
        figure.add_heatmap(z=values, x=names, y=rows, texttemplate="%{z:.2f}", **heat, row=1, col=col)
        figure.update_xaxes(title="looks at", showgrid=False, row=1, col=col)
        figure.update_yaxes(title="who looks", autorange="reversed", showgrid=False, row=1, col=col)
    figure.update_layout(height=340, margin_t=110)
    most = int(np.asarray(prefixed)[:, 0].argmax()) + 1
    return titled(
        figure, "Shares of attention", f"The whisper is heard most by token {most}. Every row still sums to 1."
    )


def fading(values: ArrayLike, task: int, name: str) -> go.Figure:
    """The accuracy matrix as it grows, row by row, and what is left of each task now.

    Args:
        values: R [T, T] in [0, 1].
        task: how many tasks have been learned, from 1.
        name: of the method.
    """
    r = np.asarray(values, dtype=float)
    figure = make_subplots(cols=2, horizontal_spacing=0.16, column_widths=[0.5, 0.5])
    matrix(figure, r, task - 1)
    first, now = 100 * np.diag(r)[:task], 100 * r[task - 1, :task]
    names = [str(index + 1) for index in range(task)]
    when = {"color": "rgba(0,0,0,0)", "line": {"color": INK, "width": 2}}
    figure.add_bar(x=names, y=first, name="when it was new", marker=when, row=1, col=2)
    figure.add_bar(x=names, y=now, name="now", marker={"color": COLOURS["blue"]}, width=0.5, row=1, col=2)
    figure.update_xaxes(title="task", type="category", range=[-0.5, len(r) - 0.5], row=1, col=2)
    figure.update_yaxes(title="accuracy [%]", range=[0, 104], row=1, col=2)
    figure.update_layout(barmode="overlay", height=440, margin_t=110)
    said = f"After task {task}: {now.mean():.0f} % right on average."
    if task > 1:
        said += f" Of task 1, {now[0]:.0f} % are left of {first[0]:.0f} %."
    return titled(figure, f"What is left: {name}", said)


def comparison(
    scores: Mapping[str, Mapping[str, tuple[float, float]]], live: Mapping[str, Mapping[str, float]]
) -> go.Figure:
    """Average accuracy and forgetting of every method.

    Args:
        scores: by method, "accuracy" and "forgetting": mean and standard deviation over seeds, in [0, 1].
        live: by method: what this run measured.
    """
    figure = make_subplots(cols=2, horizontal_spacing=0.06, shared_yaxes=True)
    names = list(scores) or list(live)
    for col, key in ((1, "accuracy"), (2, "forgetting")):
        known = [name for name in names if name in scores]
        figure.add_bar(
            y=known,
            x=[100 * scores[name][key][0] for name in known],
            error_x={"array": [100 * scores[name][key][1] for name in known], "color": INK, "thickness": 1.5},
            orientation="h",
            showlegend=False,
            marker={"color": [COLOURS[LOOKS[name]] for name in known], "opacity": 0.75},
            row=1,
            col=col,
        )
        figure.add_scatter(
            y=list(live),
            x=[100 * each[key] for each in live.values()],
            mode="markers",
            name="this run",
            showlegend=col == 1,
            marker={"symbol": "diamond", "size": 11, "color": "white", "line": {"width": 2, "color": DARK}},
            row=1,
            col=col,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title="method", row=1, col=1)
    figure.update_xaxes(title="average accuracy at the end [%]", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="one-step forgetting [points]", rangemode="tozero", row=1, col=2)
    figure.update_layout(height=170 + 38 * len(names), margin_t=104, margin_l=150)
    best = max(live, key=lambda name: live[name]["accuracy"])
    said = f"In this run {best} is ahead with {100 * live[best]['accuracy']:.0f} %."
    return titled(figure, "Who keeps what?", said + (" Bars: means over recorded seeds." if scores else ""))


def whisper(
    image: ArrayLike, query: ArrayLike, reference: ArrayLike, block: int, usual: ArrayLike | None = None
) -> go.Figure:
    """Which prompts a block is told, by its own query and by the reference query.

    Args:
        image: [H, W], 0 to 1.
        query: α of the block's own query, [M].
        reference: α of the reference query with the same keys, [M].
        block: its number.
        usual: the own query's α, mean over many pictures, drawn as a line; None leaves it out.
    """
    figure = make_subplots(
        cols=2, rows=2, specs=[[{"rowspan": 2}, {}], [None, {}]], column_widths=[0.26, 0.74], vertical_spacing=0.2
    )
    picture(figure, image, 1, 1)
    own, other = np.asarray(query, dtype=float), np.asarray(reference, dtype=float)
    shares = [np.exp(a) / np.exp(a).sum() for a in (own, other)]
    looks = (("its own query", "green", ""), ("reference query", "ochre", "/"))
    for row, pair in ((1, (own, other)), (2, shares)):
        for values, (name, colour, shape) in zip(pair, looks, strict=True):
            figure.add_bar(
                x=np.arange(1, len(own) + 1),
                y=values.astype(np.float32),
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                marker={"color": COLOURS[colour], "pattern": {"shape": shape, "solidity": 0.4}},
                row=row,
                col=2,
            )
    line = {"color": INK, "width": 1.5, "dash": "dot"}
    at = np.arange(1, len(own) + 1)
    there = own if usual is None else np.asarray(usual, dtype=float)
    figure.add_scatter(x=at, y=there, mode="lines", line=line, name="own query, mean of all pictures", row=1, col=2)
    figure.update_yaxes(title="cosine α", range=[-1, 1], row=1, col=2)
    figure.update_yaxes(title="softmax", rangemode="tozero", row=2, col=2)
    figure.update_xaxes(title="component", row=2, col=2)
    figure.update_xaxes(showticklabels=False, row=1, col=2)
    figure.update_layout(barmode="group", height=470, margin_t=120)
    gap = float(((shares[0] - shares[1]) ** 2).sum())
    moved = float(np.abs(own - there).max())
    said = f"Distance of the softmaxes: {gap:.4f}. Farthest from the mean of all pictures: {moved:.3f}."
    return titled(figure, f"What block {block} is told", said)
