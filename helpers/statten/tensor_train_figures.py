"""The figures of lesson 03.2: pure functions of plain values and arrays, shared by lessons and apps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled
from helpers.lab.technology import technology
from helpers.statten.pipelines import pipeline_schedule, tt_macs, tt_param_count

SIGNED = [[0, COLOURS["vermilion"]], [0.5, "rgba(128,128,128,0.05)"], [1, COLOURS["blue"]]]
LOOKS = {"dense": ("grey", 0), "stt": ("purple", 1), "ptt": ("blue", 2), "htt": ("vermilion", 3)}
NAMES = {"dense": "dense", "stt": "STT", "ptt": "PTT", "htt": "HTT"}
CORES = {"first": ("blue", ""), "second": ("vermilion", "/"), "third": ("ochre", "\\"), "fourth": ("green", "x")}


def _blank(figure: go.Figure, **place) -> None:
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False}
    figure.update_xaxes(**bare, constrain="domain", **place)
    figure.update_yaxes(**bare, autorange="reversed", **place)


def kernels(rows: Mapping[str, Sequence[ArrayLike]], columns: Sequence[str]) -> go.Figure:
    """Small kernels side by side, a number in every tap.

    Args:
        rows: by name, a 3×3 kernel for each column.
        columns: their names.
    """
    figure = make_subplots(
        rows=len(rows),
        cols=len(columns),
        column_titles=list(columns),
        row_titles=list(rows),
        horizontal_spacing=0.05,
        vertical_spacing=0.08,
    )
    for row, shown in enumerate(rows.values(), 1):
        top = max(float(np.abs(np.asarray(kernel)).max()) for kernel in shown)
        for column, kernel in enumerate(shown, 1):
            values = np.asarray(kernel, dtype=float).round(2) + 0.0
            place = {"row": row, "col": column}
            # The root, so that small numbers have a colour too.
            tint = np.sign(values) * np.sqrt(np.abs(values) / top)
            look = {"zmin": -1, "zmax": 1, "colorscale": SIGNED, "showscale": False, "hoverinfo": "skip"}
            figure.add_heatmap(z=tint, xgap=3, ygap=3, **look, **place)
            for (y, x), value in np.ndenumerate(values):
                colour = "white" if abs(tint[y, x]) > 0.6 else INK
                font = {"size": 16, "color": colour}
                figure.add_annotation(x=x, y=y, text=f"<b>{value:g}</b>", showarrow=False, font=font, **place)
            _blank(figure, **place)
    figure.update_layout(height=150 + 190 * len(rows), margin_t=110)
    missed = []
    for name, (kernel, *others) in rows.items():
        kernel = np.asarray(kernel, dtype=float)
        shares = [np.linalg.norm(np.asarray(other) - kernel) / np.linalg.norm(kernel) for other in others]
        pairs = zip(columns[1:], shares, strict=True)
        missed.append(f"{name}: " + ", ".join(f"{column} misses {share:.0%}" for column, share in pairs))
    return titled(figure, "Nine numbers from fewer", f"{'; '.join(missed)}.")


def ranks(
    kernel: ArrayLike,
    rebuilt: ArrayLike,
    rank: int,
    axis: Sequence[int],
    errors: Mapping[str, ArrayLike],
    accuracies: ArrayLike,
    vbmf: int,
) -> go.Figure:
    """A trained kernel beside its reconstruction, and what the rank does to error and accuracy.

    Args:
        kernel, rebuilt: [O, I, 3, 3]; the first 6 × 6 slices are drawn.
        rank: r.
        axis: ranks of the curves.
        errors: relative error of the reconstruction at these ranks, of the trained kernel and, to compare, of others.
        accuracies: share of right answers of the net with this kernel replaced.
        vbmf: the rank that VBMF finds.
    """
    kernel, rebuilt = np.asarray(kernel, dtype=float), np.asarray(rebuilt, dtype=float)
    figure = make_subplots(
        cols=3,
        column_widths=[0.3, 0.3, 0.4],
        horizontal_spacing=0.09,
        column_titles=["trained, 36 slices", f"rank {rank}, the same 36", "error and accuracy"],
    )
    top = float(np.abs(kernel[:6, :6]).max())
    for column, shown in enumerate((kernel, rebuilt), 1):
        slices = np.pad(shown[:6, :6], ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
        mosaic = slices.transpose(0, 2, 1, 3).reshape(24, 24)[:-1, :-1]
        look = {"zmin": -top, "zmax": top, "colorscale": SIGNED, "showscale": False, "hoverinfo": "skip"}
        figure.add_heatmap(z=mosaic, **look, row=1, col=column)
        _blank(figure, row=1, col=column)
        figure.update_yaxes(scaleanchor=f"x{column}" if column > 1 else "x", row=1, col=column)
    at, right = int(np.argmin(np.abs(np.asarray(axis) - rank))), {"row": 1, "col": 3}
    curves = [("accuracy of the net", accuracies, "blue", 0)]
    curves += [(name, values, ("vermilion", "grey")[k % 2], k + 1) for k, (name, values) in enumerate(errors.items())]
    for name, values, colour, index in curves:
        values = 100 * np.asarray(values, dtype=float)
        line = {"color": COLOURS[colour], "dash": DASHES[index], "width": 3 if index < 2 else 2}
        figure.add_scatter(x=list(axis), y=values, mode="lines", name=name, line=line, **right)
        if index < 2:
            star = {"size": 15, "symbol": "star", "color": COLOURS[colour], "line": {"width": 1, "color": INK}}
            point = {"x": [axis[at]], "y": [values[at]], "mode": "markers", "name": "as set"}
            figure.add_scatter(**point, marker=star, showlegend=False, **right)
    figure.add_vline(x=vbmf, line={"color": COLOURS["green"], "dash": "dot", "width": 2}, **right)
    place = {"x": vbmf, "y": 8, "text": f" VBMF: {vbmf}", "xanchor": "left", "showarrow": False}
    figure.add_annotation(**place, font={"color": COLOURS["green"]}, **right)
    figure.update_xaxes(title="rank r", range=[0, max(axis) + 1], **right)
    figure.update_yaxes(title="[%]", range=[0, 104], **right)
    figure.update_layout(height=470, margin_t=130, legend_y=1.12)
    outputs, inputs = kernel.shape[:2]
    weights = tt_param_count(inputs, outputs, rank)
    error = float(np.linalg.norm(rebuilt - kernel) / np.linalg.norm(kernel))
    said = (
        f"Rank {rank}: {weights:,} weights and multiply-adds a position instead of {9 * inputs * outputs:,} "
        f"({9 * inputs * outputs / weights:.1f} times fewer); error {error:.0%}, accuracy {np.asarray(accuracies)[at]:.1%}."
    )
    return titled(figure, "How thin can it be?", said)


def trade(
    weights: Mapping[str, int],
    accuracy: Mapping[str, float],
    recorded: Mapping[str, tuple[float, float]] | None = None,
) -> go.Figure:
    """Accuracy against the weights of the blocks.

    Args:
        weights: by net.
        accuracy: share of right answers in this run, of those that were trained.
        recorded: mean and std over seeds.
    """
    figure = go.Figure()
    for name, count in weights.items():
        colour, index = LOOKS[name]
        symbol, column = MARKERS[index], f"{NAMES[name]}<br>{count:,}"
        if name in accuracy:
            marker = {"size": 14, "symbol": symbol, "color": COLOURS[colour]}
            dot = {"x": [column], "y": [100 * accuracy[name]], "mode": "markers", "name": f"{NAMES[name]}, this run"}
            figure.add_scatter(**dot, marker=marker)
        if recorded and name in recorded:
            mean, std = recorded[name]
            figure.add_scatter(
                x=[column],
                y=[100 * mean],
                error_y={"array": [100 * std], "thickness": 1.5},
                mode="markers",
                name=f"{NAMES[name]}, recorded",
                marker={"size": 20, "symbol": f"{symbol}-open", "color": COLOURS[colour], "line": {"width": 2}},
            )
    columns = [f"{NAMES[name]}<br>{count:,}" for name, count in weights.items()]
    figure.update_xaxes(title="weights of the blocks' convolutions", categoryorder="array", categoryarray=columns)
    figure.update_yaxes(title="accuracy [%]")
    figure.update_layout(height=440, margin_t=150)
    said = "; ".join(f"{NAMES[n]} {weights[n]:,} weights, {a:.1%}" for n, a in accuracy.items())
    return titled(figure, "What thinness costs", f"{said}.")


def gantt(rank: int, timesteps: int, full_steps: int, arrays: int, i: int = 64, o: int = 64) -> go.Figure:
    """When which core runs on which array, in the three pipelines.

    Args:
        rank: r.
        timesteps: T.
        full_steps: of them with all cores, in HTT; no more than T are taken.
        arrays: 1 or 2.
        i, o: channels in and out.
    """
    full = min(full_steps, timesteps)
    figure, ends, work = go.Figure(), {}, {}
    lanes = [f"{NAMES[mode]} {array}" for mode in ("htt", "ptt", "stt") for array in (2, 1)]
    begun = {core: ([], [], []) for core in CORES}
    for mode in ("stt", "ptt", "htt"):
        plan = pipeline_schedule(i, o, rank, timesteps, full if mode == "htt" else None, mode, arrays)
        ends[mode] = int(plan["finish"].max())
        work[mode] = tt_macs(i, o, rank, 1, 1, timesteps, full if mode == "htt" else None, mode)
        for row in plan.itertuples():
            bases, lengths, names = begun[row.core]
            bases.append(row.start)
            lengths.append(row.finish - row.start)
            names.append(f"{NAMES[mode]} {row.array}")
    for core, (bases, lengths, names) in begun.items():
        colour, pattern = CORES[core]
        figure.add_bar(
            base=bases,
            x=lengths,
            y=names,
            orientation="h",
            name=f"{core} core",
            marker={"color": COLOURS[colour], "pattern_shape": pattern, "line": {"color": INK, "width": 0.5}},
        )
    figure.update_layout(barmode="overlay", height=420, margin_t=130, bargap=0.25)
    figure.update_xaxes(title="time [multiply-adds a position, one after the other]", range=[0, ends["stt"] * 1.03])
    figure.update_yaxes(title="pipeline, array", categoryorder="array", categoryarray=lanes, range=[-0.5, 5.5])
    said = "; ".join(f"{NAMES[m]}: {work[m]:,} multiply-adds, done at {ends[m]:,}" for m in ends)
    return titled(figure, f"Rank {rank}, {timesteps} timesteps, {arrays} array{'s' * (arrays > 1)}", f"{said}.")


def merging(rate: float, rank: int, i: int = 64, o: int = 64) -> go.Figure:
    """Energy of one position of a layer, as four cores and as one merged kernel, against the share of spikes.

    Args:
        rate: share of ones in the layer's input.
        rank: r.
        i, o: channels in and out.
    """
    tech = technology("45nm float32")
    axis = np.linspace(0, 1, 51)

    def cores(share):
        return (tech.ac_pj * share * rank * i + tech.mac_pj * (6 * rank**2 + rank * o)) / 1e3

    def merged(share):
        return tech.ac_pj * share * 9 * i * o / 1e3

    figure = go.Figure()
    lines = (
        ("four cores: real numbers between them", cores, "vermilion", 1),
        ("merged: spikes in, additions only", merged, "blue", 0),
    )
    for name, price, colour, index in lines:
        line = {"color": COLOURS[colour], "dash": DASHES[index], "width": 3}
        figure.add_scatter(x=100 * axis, y=price(axis), mode="lines", name=name, line=line)
        star = {"size": 15, "symbol": "star", "color": COLOURS[colour], "line": {"width": 1, "color": INK}}
        figure.add_scatter(
            x=[100 * rate], y=[price(rate)], mode="markers", marker=star, showlegend=False, name="as set"
        )
    figure.update_xaxes(title="share of spikes in the input [%]", range=[-2, 102])
    figure.update_yaxes(title="nJ a position and timestep", range=[0, tech.ac_pj * 9 * i * o / 1e3 * 1.08])
    figure.update_layout(height=420, margin_t=120)
    meet = tech.mac_pj * (6 * rank**2 + rank * o) / (tech.ac_pj * (9 * i * o - rank * i))
    where = f"they meet at {meet:.0%}" if 0 <= meet <= 1 else "they do not meet: merged is cheaper at any rate"
    said = f"{rate:.0%} spikes, rank {rank}: {cores(rate):.2f} nJ as four cores, {merged(rate):.2f} nJ merged; {where}."
    return titled(figure, "To merge or not to merge", said)
