"""The figures of lesson 06.2: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled


def all_patterns(losses: ArrayLike, marks: Mapping[str, float], bits: int, correlation: float) -> go.Figure:
    """What every way of rounding a row loses, sorted, with some of them marked.

    Args:
        losses: of all patterns, [2^n].
        marks: losses of named ways.
        bits: of the grid.
        correlation: between the inputs.
    """
    ordered = np.sort(np.asarray(losses, float))
    least = max(float(ordered[0]), 1e-9)
    figure = go.Figure()
    figure.add_scatter(
        x=np.arange(1, len(ordered) + 1),
        y=ordered / least,
        mode="lines",
        line={"color": INK, "width": 2},
        name="all ways",
    )
    said = []
    for (name, loss), colour, symbol, size in zip(
        marks.items(), COLOURS, ("circle", "square-open", "diamond"), (13, 19, 11), strict=False
    ):
        place = int((ordered < loss * (1 - 1e-4)).sum())
        mark = {"color": COLOURS[colour], "size": size, "symbol": symbol, "line": {"width": 3 * (size > 15)}}
        figure.add_scatter(x=[place + 1], y=[loss / least], mode="markers", name=name, marker=mark)
        said.append(f"{name} ×{loss / least:.2f}, {place} better")
    figure.update_xaxes(title=f"the {len(ordered):,} ways to round, the best first", type="log", range=[-0.08, 3.08])
    figure.update_yaxes(title="squared error of the output,<br>the best = 1", type="log", range=[-0.1, 3.2])
    figure.update_layout(height=440)
    return titled(
        figure,
        f"{int(np.log2(len(ordered)))} weights, {bits} bits, inputs correlated {correlation:g}",
        "; ".join(said) + ".",
    )


def rectified(nu: ArrayLike, plain: ArrayLike, shown: ArrayLike) -> go.Figure:
    """The rounding variable against what it says: the plain sigmoid and the rectified one.

    Args:
        nu: [k].
        plain, shown: σ(ν) and h(ν), [k].
    """
    figure = go.Figure()
    line = {"color": COLOURS["grey"], "dash": "dash", "width": 2}
    figure.add_scatter(x=nu, y=plain, mode="lines", name="σ(ν): never arrives", line=line)
    line = {"color": COLOURS["blue"], "width": 3}
    figure.add_scatter(x=nu, y=shown, mode="lines", name="h(ν): down at 0, up at 1", line=line)
    figure.update_xaxes(title="ν")
    figure.update_yaxes(title="share of a step up", range=[-0.05, 1.05])
    figure.update_layout(height=320)
    said = f"h reaches 1 at ν = {float(np.asarray(nu)[np.asarray(shown) >= 1].min()):.1f}; σ is "
    said += f"{float(np.interp(2.4, nu, plain)):.2f} there and never arrives."
    return titled(figure, "Between down and up", said)


def scrub(
    shares: ArrayLike, hard: ArrayLike, soft_loss: ArrayLike, round_loss: ArrayLike, start: float, stage: int, rule: str
) -> go.Figure:
    """One stage of a block's reconstruction: where the rounding variables stand, and what the block loses.

    Args:
        shares: of the variables of one layer that are soft, in each bin of h(ν), [stages + 1, bins].
        hard: shares that are settled, down and up, [stages + 1, 2].
        soft_loss, round_loss: of the block, as it is and if all were rounded now, [stages + 1].
        start: loss of the same block rounded to nearest.
        stage: which is shown.
        rule: its name.
    """
    shares, hard = np.asarray(shares, float), np.asarray(hard, float)
    bins = shares.shape[1]
    centres = (np.arange(bins) + 0.5) / bins
    figure = make_subplots(cols=2, horizontal_spacing=0.14, column_widths=[0.45, 0.55])
    figure.add_bar(
        x=centres,
        y=100 * shares[stage],
        width=0.9 / bins,
        marker={"color": COLOURS["blue"]},
        name="soft",
        row=1,
        col=1,
    )
    settled = {"color": COLOURS["ochre"], "pattern": {"shape": "/", "solidity": 0.4}}
    figure.add_bar(x=centres[[0, -1]], y=100 * hard[stage], width=0.9 / bins, marker=settled, name="hard", row=1, col=1)
    stages = np.arange(len(shares))
    for name, losses, colour, place in (
        ("if all were rounded now", round_loss, "vermilion", 0),
        ("as it is, partly soft", soft_loss, "blue", 1),
    ):
        line = {"color": COLOURS[colour], "dash": DASHES[place]}
        figure.add_scatter(x=stages, y=losses, mode="lines", name=name, line=line, row=1, col=2)
        mark = {"color": COLOURS[colour], "size": 12, "symbol": MARKERS[place]}
        figure.add_scatter(x=[stage], y=[losses[stage]], mode="markers", marker=mark, showlegend=False, row=1, col=2)
    figure.add_scatter(
        x=[-0.5, len(shares) - 0.5],
        y=[start, start],
        mode="lines",
        name="rounded to nearest",
        line={"color": INK, "dash": "dot"},
        row=1,
        col=2,
    )
    figure.update_xaxes(title="share of a step up, h(ν)", range=[0, 1], row=1, col=1)
    figure.update_yaxes(title="of the down-projection's ν [%]", range=[0, 55], row=1, col=1)
    figure.update_layout(barmode="stack", legend={"font": {"size": 12}})
    figure.update_xaxes(title="stage", range=[-0.5, len(shares) - 0.5], row=1, col=2)
    top = np.log10(max(np.max(round_loss), start) * 1.5)
    bottom = np.log10(max(min(np.min(soft_loss[1:]), np.min(round_loss)) / 1.5, 1e-6))
    figure.update_yaxes(
        title="loss of the block", type="log", range=[bottom, top], exponentformat="power", row=1, col=2
    )
    said = f"Stage {stage}: {100 * hard[stage].sum():.0f} % hard. Loss {soft_loss[stage]:.3g}; "
    said += f"rounded now it would be {round_loss[stage]:.3g} (nearest {start:.3g})."
    return titled(figure, rule, said)


def rows(
    values: Mapping[str, ArrayLike], axis: str, lines: Mapping[str, float], title: str, said: str = ""
) -> go.Figure:
    """A dot a seed and the mean, a row for each name.

    Args:
        values: figures [seeds] by name.
        axis: of the figures.
        lines: vertical lines by name.
        title, said: of the figure.
    """
    figure = go.Figure()
    names = list(values)
    for index, name in enumerate(names):
        found = np.asarray(values[name], float)
        height = index + 0.16 * (np.arange(len(found)) - (len(found) - 1) / 2)
        mark = {"color": COLOURS["blue"], "size": 9, "opacity": 0.8}
        figure.add_scatter(x=found, y=height, mode="markers", marker=mark, name="a seed", showlegend=index == 0)
        bar = {"color": COLOURS["vermilion"], "symbol": "line-ns-open", "size": 24, "line": {"width": 3}}
        figure.add_scatter(x=[found.mean()], y=[index], mode="markers", marker=bar, name="mean", showlegend=index == 0)
    for place, (name, at) in enumerate(lines.items()):
        figure.add_vline(
            x=at,
            line={"color": INK, "dash": DASHES[1 + place]},
            annotation_text=name,
            annotation_position="top" if place % 2 else "bottom right",
        )
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6], title="what was changed"
    )
    figure.update_xaxes(title=axis)
    figure.update_layout(height=140 + 52 * len(names), margin_t=120)
    return titled(figure, title, said)


def settings(
    values: Mapping[str, Mapping[str, Sequence[float]]], full: float, looks, title: str, said: str
) -> go.Figure:
    """Perplexity by setting and method: the mean, the spread over seeds.

    Args:
        values: figures [seeds] by setting and method.
        full: of the full model.
        looks: gives line and marker of a method.
        title, said: of the figure.
    """
    figure, names = go.Figure(), list(values)
    methods = list(dict.fromkeys(method for by in values.values() for method in by))
    for place, method in enumerate(methods):
        x, y, spread = [], [], []
        for index, name in enumerate(names):
            if method in values[name]:
                found = np.asarray(values[name][method], float)
                x.append(index + 0.7 * ((place + 0.5) / len(methods) - 0.5))
                y.append(found.mean())
                spread.append(found.std(ddof=1) if len(found) > 1 else 0)
        error = {"array": spread, "thickness": 1.5}
        figure.add_scatter(x=x, y=y, error_y=error, mode="markers", name=method, marker=looks(method)["marker"])
    line = {"color": INK, "dash": "dot"}
    figure.add_scatter(x=[-0.5, len(names) - 0.5], y=[full, full], mode="lines", name="full precision", line=line)
    texts = [name.replace(", ", ",<br>") for name in names]
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=texts, range=[-0.5, len(names) - 0.5])
    figure.update_xaxes(title="weights")
    figure.update_yaxes(title="held-out perplexity a byte", type="log", tickformat=".3g", nticks=8)
    return titled(figure, title, said)
