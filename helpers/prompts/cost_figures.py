"""The figures of lesson 05.1 on the extra loss, on drift and on prices: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, MARKERS, titled
from helpers.prompts.figures import LOOKS, matrix


def regularised(weights: Sequence[float], curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> go.Figure:
    """What the QR loss changes: the distance that it measures, and the accuracy.

    Args:
        weights: λ, ascending, the first one may be 0.
        curves: by name, mean and standard deviation at every λ; the first in its own unit, the others in [0, 1].
    """
    figure = make_subplots(cols=2, horizontal_spacing=0.14)
    ticks = ["0" if w == 0 else f"{w:g}" for w in weights]
    for index, (name, (mean, std)) in enumerate(curves.items()):
        colour = list(COLOURS.values())[index]
        scale, col = (1, 1) if index == 0 else (100, 2)
        figure.add_scatter(
            x=ticks,
            y=scale * np.asarray(mean),
            error_y={"array": scale * np.asarray(std), "thickness": 1.5},
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": DASHES[index], "width": 2.5},
            marker={"symbol": MARKERS[index], "size": 9},
            row=1,
            col=col,
        )
    figure.update_xaxes(title="weight λ of the loss", type="category")
    figure.update_yaxes(title="distance of the queries", type="log", exponentformat="power", dtick=1, row=1, col=1)
    figure.update_yaxes(title="[%], [points]", rangemode="tozero", row=1, col=2)
    figure.update_layout(height=430, margin_t=110)
    return titled(figure, "The extra loss", "Left: what it asks for. Right: what we would like.")


def drifts(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> go.Figure:
    """How far [CLS] of the first task's pictures has turned at the entry of each block, and at the end.

    Args:
        curves: by method, mean and standard deviation of 1 - cosine at each block's entry, the feature last.
    """
    figure = go.Figure()
    for index, (name, (mean, std)) in enumerate(curves.items()):
        mean = np.asarray(mean)
        figure.add_scatter(
            x=np.arange(len(mean)) + 0.07 * index,  # aside, so that error bars do not hide each other
            y=mean,
            error_y={"array": np.asarray(std), "thickness": 1.5},
            mode="lines+markers",
            name=name,
            line={"color": COLOURS[LOOKS[name]], "dash": DASHES[index], "width": 2.5},
            marker={"symbol": MARKERS[index], "size": 9},
        )
    names = [*(f"entry {block}" for block in range(len(mean) - 1)), "end"]
    ticks = {"tickvals": np.arange(len(names)), "ticktext": names}
    figure.update_xaxes(title="[CLS] at the entry of each block, and at the end", **ticks)
    figure.update_yaxes(title="drift, 1 − cosine", rangemode="tozero")
    figure.update_layout(height=400, margin_t=100)
    said = "; ".join(f"{name}: {np.asarray(mean)[-1]:.2f} at the end" for name, (mean, _) in curves.items())
    return titled(figure, "How far does [CLS] turn while learning on?", said)


def prices(
    macs: Mapping[str, float], passes: Mapping[str, float], r: ArrayLike, weight: float, lost: float
) -> go.Figure:
    """What a prediction and a training step of a large ViT cost, beside a recorded accuracy matrix.

    Args:
        macs: multiply-adds of a prediction, in 1e9, by name.
        passes: of a training step, in 1e9, by name; backward counted as one forward.
        r: R [T, T] of the small network at this λ, in [0, 1].
        weight: λ.
        lost: one-step forgetting of that matrix, in [0, 1].
    """
    figure = make_subplots(cols=2, horizontal_spacing=0.2, column_widths=[0.42, 0.58])
    matrix(figure, r, len(np.asarray(r)) - 1)
    for name, each, colour, shape in (("prediction", macs, "blue", ""), ("training step", passes, "ochre", "/")):
        look = {"color": COLOURS[colour], "pattern": {"shape": shape, "solidity": 0.4}}
        figure.add_bar(y=list(each), x=list(each.values()), orientation="h", name=name, marker=look, row=1, col=2)
    figure.update_xaxes(title="multiply-adds a picture [10⁹]", range=[0, 62], row=1, col=2)
    figure.update_yaxes(autorange="reversed", title="method", row=1, col=2)
    figure.update_layout(height=430, margin_t=110)
    names = list(macs)
    twice, once = (macs[name] for name in names[:2])
    said = f"ViT-B/16: {once:.2f} against {twice:.2f} a prediction, ratio {once / twice:.3f}."
    said += f" λ = {weight:g}: average {100 * np.asarray(r)[-1].mean():.0f} %, forgetting {100 * lost:.1f} points."
    return titled(figure, "One look or two", said)
