"""The figures of lesson 06.1, and the plane of all methods that 06.2 shares: pure functions of plain values."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled

LOOKS = {
    "RTN": ("grey", 0),
    "AWQ": ("purple", 4),
    "GPTQ": ("blue", 1),
    "GPTAQ": ("vermilion", 2),
    "GPTAQ, α = 1": ("vermilion", 3),
    "fold-in": ("ochre", 5),
    "TesseraQ": ("green", 0),
}
"""Colour of each method, and the place of its marker and its dash."""
DIVERGING = [[0, COLOURS["purple"]], [0.5, "#f4f4f4"], [1, COLOURS["green"]]]


def look(method: str) -> dict:
    """Line and marker of a method."""
    colour, place = LOOKS[method]
    return {
        "line": {"color": COLOURS[colour], "dash": DASHES[place], "width": 2.5},
        "marker": {"color": COLOURS[colour], "symbol": MARKERS[place], "size": 10},
    }


def neighbours(x: ArrayLike, wanted: ArrayLike, said: Mapping[str, ArrayLike]) -> go.Figure:
    """What two weights said for each of a few inputs, and what their roundings say.

    Args:
        x: inputs [2, samples].
        wanted: w·x, [samples].
        said: the same of each rounding, [samples], by name.
    """
    x, wanted = np.asarray(x, float), np.asarray(wanted, float)
    samples = np.arange(1, len(wanted) + 1)
    figure = make_subplots(cols=2, horizontal_spacing=0.16, column_widths=[0.4, 0.6])
    figure.add_scatter(
        x=x[0], y=x[1], mode="markers", marker={"color": INK, "size": 10}, name="input", showlegend=False, row=1, col=1
    )
    figure.add_scatter(
        x=samples,
        y=wanted,
        mode="markers",
        name="wanted",
        marker={"color": INK, "symbol": "line-ew-open", "size": 22, "line": {"width": 3}},
        row=1,
        col=2,
    )
    for (name, values), colour, symbol in zip(said.items(), ("vermilion", "blue"), ("x", "circle"), strict=False):
        mark = {"color": COLOURS[colour], "symbol": symbol, "size": 11}
        figure.add_scatter(x=samples, y=np.asarray(values), mode="markers", name=name, marker=mark, row=1, col=2)
    figure.update_xaxes(title="first input", row=1, col=1)
    figure.update_yaxes(title="second input", row=1, col=1)
    figure.update_xaxes(title="sample", dtick=1, row=1, col=2)
    figure.update_yaxes(title="output", row=1, col=2)
    lost = ", ".join(f"{name} {float(((np.asarray(values) - wanted) ** 2).sum()):.2f}" for name, values in said.items())
    return titled(figure, "Two inputs that say nearly the same", f"Squared error over the samples: {lost}.")


def depth(errors: Mapping[str, ArrayLike], bits: int, recorded: Mapping[str, tuple] = {}) -> go.Figure:
    """Relative squared error of the stream behind every block.

    Args:
        errors: of this run, [blocks], by method.
        bits: of the weights.
        recorded: (mean, std) over recorded draws, [blocks] each, by method.
    """
    figure = go.Figure()
    for method, values in errors.items():
        shown, bars = np.asarray(values, float), None
        if method in recorded:
            shown, std = (np.asarray(part, float) for part in recorded[method])
            bars = {"array": std, "thickness": 1.5}
        figure.add_scatter(
            x=np.arange(1, len(shown) + 1), y=shown, mode="lines+markers", name=method, error_y=bars, **look(method)
        )
    figure.update_xaxes(title="block", dtick=1, range=[0.8, len(next(iter(errors.values()))) + 0.2])
    figure.update_yaxes(title="relative squared error", type="log", exponentformat="power", dtick="D2")
    said = f"{bits} bits, a scale a row. Behind the last block: "
    said += ", ".join(f"{method} {float(np.asarray(values)[-1]):.3f}" for method, values in errors.items())
    said += " (this run)." if recorded else "."
    return titled(figure, "How far the quantized stream is from the full one", said)


def column_step(states: ArrayLike, paid: ArrayLike, passed: ArrayLike, row: int, column: int) -> go.Figure:
    """One step of the loop: what has become of the weights, and what this column now tells those after it.

    Args:
        states: W after 0, 1, 2 … columns less the original W, [n + 1, m, n].
        paid: what each column's rounding error adds to all columns, [n, m, n].
        passed: what each column's value adds on behalf of the damage upstream, [n, m, n].
        row: whose message is drawn, from 1.
        column: columns settled, 0 to n.
    """
    states, paid, passed = (np.asarray(part, float) for part in (states, paid, passed))
    n, reach = states.shape[2], float(np.abs(states).max())
    figure = make_subplots(rows=2, vertical_spacing=0.28, row_heights=[0.5, 0.5])
    figure.add_heatmap(
        z=states[column],
        x=np.arange(1, n + 1),
        y=np.arange(1, states.shape[1] + 1),
        zmin=-reach,
        zmax=reach,
        colorscale=DIVERGING,
        colorbar={"title": {"text": "W − W₀"}, "len": 0.5, "y": 0.8, "thickness": 12},
        row=1,
        col=1,
    )
    settled = [{"type": "line", "x0": column + 0.5, "x1": column + 0.5, "y0": 0.5, "y1": states.shape[1] + 0.5}]
    settled[0] |= {"line": {"color": INK, "width": 3}, "xref": "x", "yref": "y"}
    mark = {"type": "rect", "x0": 0.5, "x1": n + 0.5, "y0": row - 0.5, "y1": row + 0.5, "line": {"color": INK}}
    figure.update_layout(shapes=[*settled, mark])
    step = max(column - 1, 0)
    messages = (
        ("what is paid now: the error's share", paid, "blue", ""),
        ("what is passed on: the damage upstream", passed, "vermilion", "/"),
    )
    limit = 1.15 * float(np.abs(np.stack([np.triu(paid[:, row - 1], 1), np.triu(passed[:, row - 1], 1)])).max())
    after = np.arange(1, n + 1) > column
    for name, part, colour, shape in messages:
        heights = np.where(after & (column > 0), part[step, row - 1], 0)
        pattern = {"color": COLOURS[colour], "pattern": {"shape": shape, "solidity": 0.4}}
        figure.add_bar(x=np.arange(1, n + 1), y=heights, name=name, marker=pattern, row=2, col=1)
    figure.update_xaxes(range=[0.5, n + 0.5], dtick=1, showgrid=False)
    figure.update_xaxes(title="column")
    figure.update_yaxes(title="row", range=[states.shape[1] + 0.5, 0.5], dtick=1, showgrid=False, row=1, col=1)
    figure.update_yaxes(title="added to the weight", range=[-limit, limit], row=2, col=1)
    figure.update_layout(height=600, legend={"y": 0.4}, margin_t=84, barmode="group", hovermode="x")
    said = (
        "Nothing is rounded yet."
        if column == 0
        else f"Column {column} is settled. Row {row} was off by {-paid[step, row - 1, step]:+.3f}; "
        f"the others move by {np.abs(paid[step, row - 1, column:]).sum():.3f} in all for that, "
        f"by {np.abs(passed[step, row - 1, column:]).sum():.3f} for the damage upstream."
    )
    return titled(figure, "Round a column, tell the others", said)


def layer_plane(points: Mapping[str, tuple], alpha: float, bits: int, layer: str) -> go.Figure:
    """One layer's two errors over α, in units of GPTQ's.

    Args:
        points: for "calibration" and "held out": alphas [k], ‖ŴX - WX‖² [k] and ‖ŴX - WX̃‖² [k] over those of α = 0, and
            the same two
            figures of RTN.
        alpha: which of the alphas is marked.
        bits: of the weights.
        layer: its name.
    """
    figure, said = go.Figure(), []
    nearest = next(iter(points.values()))[3]
    for (name, (alphas, heard, meant, _)), colour, dash in zip(
        points.items(), ("vermilion", "blue"), ("solid", "dash"), strict=True
    ):
        at = int(np.abs(np.asarray(alphas) - alpha).argmin())
        line = {"color": COLOURS[colour], "dash": dash}
        figure.add_scatter(x=heard, y=meant, mode="lines", line=line, name=f"GPTAQ, {name}")
        figure.add_scatter(
            x=[heard[at]],
            y=[meant[at]],
            mode="markers",
            marker={"color": COLOURS[colour], "size": 15, "symbol": "diamond"},
            showlegend=False,
        )
        said.append(f"{meant[at]:.3f} {name}")
    figure.add_scatter(
        x=[1], y=[1], mode="markers+text", text=["GPTQ (α = 0)"], textposition="top right", showlegend=False
    )
    figure.data[-1].marker = {"color": INK, "size": 13, "symbol": "square"}
    figure.update_xaxes(title="error against what this layer would say of what it hears, ‖ŴX − WX‖², GPTQ = 1")
    figure.update_yaxes(title="error against the full model,<br>‖ŴX − WX̃‖², GPTQ = 1")
    figure.update_xaxes(range=[0.95, 1.6])
    figure.update_yaxes(range=[0.75, 1.1])
    text = f"{bits} bits, α = {alpha:.2f}: error against the full model {', '.join(said)} (RTN {nearest[1]:.1f})."
    return titled(figure, f"What is bought, and with what: {layer}", text)


def draws(values: Mapping[str, Mapping[str, ArrayLike]], axis: str, base: str, title: str, said: str) -> go.Figure:
    """A dot a draw, for each group and method, and the mean.

    Args:
        values: figures [draws] by group and method.
        axis: of the figures.
        base: what the zero line stands for; "" draws none.
        title, said: of the figure.
    """
    figure, groups = go.Figure(), list(values)
    methods = list(dict.fromkeys(method for by in values.values() for method in by))
    for place, method in enumerate(methods):
        shift = 0.8 * ((place + 0.5) / len(methods) - 0.5)
        x, y, means = [], [], []
        for index, group in enumerate(groups):
            found = np.asarray(values[group].get(method, []), float)
            jitter = 0.06 * (np.arange(len(found)) / max(len(found) - 1, 1) - 0.5)
            x += list(index + shift + jitter)
            y += list(found)
            means.append((index + shift, float(found.mean()) if len(found) else None))
        mark = {**look(method)["marker"], "size": 7, "opacity": 0.7}
        figure.add_scatter(x=x, y=y, mode="markers", name=method, marker=mark)
        bar = {"symbol": "line-ew-open", "size": 26, "color": mark["color"], "line": {"width": 3}}
        figure.add_scatter(
            x=[at for at, _ in means], y=[mean for _, mean in means], mode="markers", marker=bar, showlegend=False
        )
    if base:
        figure.add_hline(y=0, line={"color": INK, "dash": "dash"}, annotation={"text": base, "xanchor": "right"})
    figure.update_xaxes(tickvals=list(range(len(groups))), ticktext=groups, range=[-0.5, len(groups) - 0.5])
    figure.update_xaxes(title="weights")
    figure.update_yaxes(title=axis)
    return titled(figure, title, said)


def bits_and_bytes(
    points: Mapping[str, Sequence[tuple]], full: tuple[float, float], title: str, said: str
) -> go.Figure:
    """Perplexity against stored bits, and against bytes on disk.

    Args:
        points: by method, (bits per weight, perplexity, bytes on disk) of each model.
        full: perplexity and bytes of the model in half precision.
        title, said: of the figure.
    """
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for method, entries in points.items():
        entries = sorted(entries)
        y = [entry[1] for entry in entries]
        for col, x in ((1, [entry[0] for entry in entries]), (2, [entry[2] / 1e3 for entry in entries])):
            style = look(method)
            mode = "lines+markers" if len(entries) > 1 else "markers"
            figure.add_scatter(x=x, y=y, mode=mode, name=method, showlegend=col == 1, row=1, col=col, **style)
    figure.add_hline(
        y=full[0],
        line={"color": INK, "dash": "dot"},
        annotation_text="full precision",
        annotation_position="bottom left",
        row=1,
        col=1,
    )
    figure.add_hline(y=full[0], line={"color": INK, "dash": "dot"}, row=1, col=2)
    figure.add_scatter(
        x=[full[1] / 1e3],
        y=[full[0]],
        mode="markers+text",
        text=["16-bit floats"],
        textposition="top left",
        marker={"color": INK, "symbol": "star", "size": 13},
        showlegend=False,
        row=1,
        col=2,
    )
    figure.update_xaxes(title="stored bits a weight, measured", row=1, col=1)
    figure.update_xaxes(title="the model's file [kB]", row=1, col=2)
    figure.update_yaxes(title="perplexity a byte", row=1, col=1)
    figure.update_layout(margin_t=120)
    return titled(figure, title, said)
