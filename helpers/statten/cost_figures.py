"""The figures of lesson 03.1 about prices: the order of the products, and how long to look."""

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled
from helpers.lab.technology import technology
from helpers.statten.figures import INKED
from helpers.statten.spatial_temporal_attention import attention_macs


def prices(timesteps: int, tokens: int, dim: int, heads: int, chunk: int, rate: float) -> go.Figure:
    """Both orders of the two products: multiply-adds, energy as spikes, and where the orders cross.

    Args:
        timesteps, tokens, dim, heads: T, N, D, h.
        chunk: timesteps a chunk; the largest divisor of T that is not above it is taken.
        rate: share of ones among queries, keys and values.
    """
    chunk = max(c for c in range(1, timesteps + 1) if timesteps % c == 0 and c <= chunk)
    heads = max(h for h in range(1, heads + 1) if dim % h == 0)
    width = dim // heads
    names = {"kv": "Q (KᵀV)", "qk": "(QKᵀ) V"}
    looks = {"kv": ("blue", 0), "qk": ("vermilion", 1)}
    macs = {order: attention_macs(timesteps, tokens, dim, heads, chunk, order) for order in names}
    price = {order: count * rate * technology("45nm float32").ac_pj / 1e6 for order, count in macs.items()}
    figure = make_subplots(cols=2, column_widths=[0.36, 0.64], horizontal_spacing=0.15)
    lengths = [2**power for power in range(0, 15)]
    for order, name in names.items():
        colour, index = looks[order]
        bar = {"marker_color": COLOURS[colour], "marker_pattern_shape": ("", "/")[index]}
        text = f"{macs[order] / 1e6:.3g} M<br>{price[order]:.3g} µJ"
        figure.add_bar(x=[name], y=[macs[order] / 1e6], text=[text], name=name, legendgroup=order, **bar, row=1, col=1)
        each = [2 * dim * (width if order == "kv" else length) for length in lengths]
        line = {"color": COLOURS[colour], "dash": DASHES[index], "width": 3}
        figure.add_scatter(
            x=lengths, y=each, mode="lines", line=line, name=name, legendgroup=order, showlegend=False, row=1, col=2
        )
        here = {"size": 13, "symbol": "diamond", "color": COLOURS[colour]}
        figure.add_scatter(
            x=[chunk * tokens],
            y=[macs[order] / (timesteps * tokens)],
            mode="markers",
            marker=here,
            showlegend=False,
            name="as set",
            row=1,
            col=2,
        )
    # A trace, because a line of the layout would take its annotation's place on a log axis for a power of ten.
    ends = [2 * dim, 2 * dim * lengths[-1]]
    line = {"color": COLOURS["green"], "dash": "dot"}
    figure.add_scatter(x=[width] * 2, y=ends, mode="lines", name="c·N = d", line=line, row=1, col=2)
    top = 1.35 * max(macs.values()) / 1e6
    figure.update_yaxes(title="multiply-adds a sample [millions]", range=[0, top], row=1, col=1)
    figure.update_traces(textposition="outside", selector={"type": "bar"})
    figure.update_xaxes(title="order of the products", row=1, col=1)
    figure.update_xaxes(title="tokens that see each other, c·N", type="log", dtick=1, row=1, col=2)
    figure.update_xaxes(exponentformat="power", row=1, col=2)
    figure.update_yaxes(title="multiply-adds a token", type="log", dtick=1, exponentformat="power", row=1, col=2)
    figure.update_layout(height=460, margin_t=120)
    cheaper = "kv" if macs["kv"] <= macs["qk"] else "qk"
    times = macs["qk"] / macs["kv"] if cheaper == "kv" else macs["kv"] / macs["qk"]
    verdict = f"{names[cheaper]} is {times:.3g} times cheaper" if times > 1 else "both cost the same"
    said = (
        f"T={timesteps}, chunk {chunk}: {chunk * tokens} tokens see each other, {width} channels a head; {verdict}. "
        f"{100 * rate:.0f} % spikes: {price['kv']:.3g} and {price['qk']:.3g} µJ."
    )
    return titled(figure, "Two orders, one result", said)


def votes(
    image: ArrayLike,
    logits: ArrayLike,
    label: int,
    accuracy: ArrayLike,
    microjoules: ArrayLike,
    timesteps: int,
    pictures: int,
) -> go.Figure:
    """A picture, what a net thinks of it after some timesteps, and what more of them buy.

    Args:
        image: [side, side].
        logits: votes [T, classes].
        label: the true class.
        accuracy, microjoules: of the net on held-out pictures, for 1, 2, … timesteps.
        timesteps: T.
        pictures: how many held-out ones the curves are of.
    """
    mean = np.asarray(logits, dtype=float).mean(0)
    answer = int(mean.argmax())
    accuracy, microjoules = 100 * np.asarray(accuracy, dtype=float), np.asarray(microjoules, dtype=float)
    titles = ("the picture", "mean vote", "accuracy and price")
    figure = make_subplots(
        cols=3,
        column_widths=[0.22, 0.32, 0.46],
        horizontal_spacing=0.1,
        column_titles=titles,
        specs=[[{}, {}, {"secondary_y": True}]],
    )
    figure.add_heatmap(z=np.asarray(image), colorscale=INKED, showscale=False, hoverinfo="skip", row=1, col=1)
    blank = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False}
    figure.update_xaxes(**blank, constrain="domain", row=1, col=1)
    figure.update_yaxes(**blank, autorange="reversed", scaleanchor="x", row=1, col=1)
    colours = [COLOURS["green"] if c == label else COLOURS["grey"] for c in range(len(mean))]
    figure.add_bar(x=list(range(len(mean))), y=mean, marker_color=colours, showlegend=False, name="votes", row=1, col=2)
    figure.update_xaxes(title="class", dtick=1, row=1, col=2)
    figure.update_yaxes(title="vote", row=1, col=2)
    axis = np.arange(1, len(accuracy) + 1)
    for name, values, colour, index, second in (
        ("accuracy", accuracy, "blue", 0, False),
        ("energy", microjoules, "vermilion", 1, True),
    ):
        line = {"color": COLOURS[colour], "dash": DASHES[index], "width": 3}
        place = {"row": 1, "col": 3, "secondary_y": second}
        dots = {"mode": "lines+markers", "marker_symbol": MARKERS[index]}
        figure.add_scatter(x=axis, y=values, name=name, line=line, **dots, **place)
        star = {"size": 15, "symbol": "star", "color": COLOURS[colour], "line": {"width": 1, "color": INK}}
        figure.add_scatter(
            x=[timesteps],
            y=[values[timesteps - 1]],
            mode="markers",
            marker=star,
            showlegend=False,
            name="as set",
            **place,
        )
    figure.update_xaxes(title="timesteps", dtick=1, row=1, col=3)
    figure.update_yaxes(title="accuracy [%]", row=1, col=3, secondary_y=False)
    right = {"rangemode": "tozero", "tickmode": "auto", "showgrid": False}
    figure.update_yaxes(title="µJ a picture", **right, row=1, col=3, secondary_y=True)
    figure.update_layout(height=430, margin_t=130, legend_y=1.12)
    said = (
        f"{timesteps} timestep{'s' * (timesteps > 1)}: it says {answer}, it is {label}. Over {pictures} held-out pictures "
        f"{accuracy[timesteps - 1]:.1f} % right for {microjoules[timesteps - 1]:.2f} µJ each (arithmetic)."
    )
    return titled(figure, "How long to look?", said)
