"""The figures of lesson 05.2: pure functions of plain values, shared by lessons and apps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled
from helpers.prompts.figures import matrix, mosaic, picture

LOOKS = {
    "frozen": ("grey", 0),
    "CODA pool": ("ochre", 1),
    "OS pool": ("ochre", 2),
    "dynamic prompts": ("purple", 3),
    "LoRA": ("blue", 4),
    "joint": ("green", 5),
    "joint, distilled": ("green", 1),
    "joint, fast generator": ("green", 2),
    "full fine-tuning": ("vermilion", 3),
    "full, one classifier": ("vermilion", 0),
}
"""Colour, and number of dash and marker, of each learner of `open_world.LEARNERS`."""


def plane(embeddings: ArrayLike) -> np.ndarray:
    """One plane for all stages: the two directions in which unit embeddings differ most, [S, N, d] -> [S, N, 2]."""
    z = np.asarray(embeddings, dtype=float)
    z = z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
    middle = z.reshape(-1, z.shape[-1]).mean(0)
    _, _, directions = np.linalg.svd((z - middle).reshape(-1, z.shape[-1]), full_matrices=False)
    return ((z - middle) @ directions[:2].T).astype(np.float32)


def search(
    places: ArrayLike,
    labels: ArrayLike,
    pictures: ArrayLike,
    query: int,
    found: Sequence[int],
    recall: float,
    name: str,
    stage: int,
) -> go.Figure:
    """A query among pictures of unseen classes, and its nearest neighbours.

    Args:
        places: of all test pictures in a plane, [N, 2].
        labels: their classes, [N].
        pictures: [N, H, W], 0 to 1.
        query: which one asks.
        found: its neighbours, the nearest first.
        recall: recall@1 of this learner at this stage, in [0, 1].
        name, stage: of the learner; 0 is before the first stage.
    """
    places, labels, pictures = np.asarray(places), np.asarray(labels), np.asarray(pictures)
    figure = make_subplots(rows=2, row_heights=[0.74, 0.26], vertical_spacing=0.14)
    own = labels == labels[query]
    nearest = np.zeros(len(labels), bool)
    nearest[list(found)] = True
    alone = np.arange(len(labels)) == query
    groups = (
        ("other classes", ~own & ~nearest, {"color": "rgba(128,128,128,0.5)", "size": 5}),
        ("its class", own & ~alone, {"color": COLOURS["blue"], "size": 9}),
        (
            "five neighbours",
            nearest,
            {"color": COLOURS["vermilion"], "symbol": "circle-open", "size": 15, "line": {"width": 2}},
        ),
        ("the query", alone, {"color": INK, "symbol": "star", "size": 17}),
    )
    for label, chosen, marker in groups:
        x, y = places[chosen].astype(np.float32).T
        figure.add_scatter(x=x, y=y, mode="markers", name=label, marker=marker, hoverinfo="skip", row=1, col=1)
    hits = labels[list(found)] == labels[query]
    strip = mosaic(pictures[[query, *found]][None])
    picture(figure, strip, 2, 1, bare=False)
    step = pictures.shape[2] + 1
    middles = [index * step + (step - 2) / 2 for index in range(len(found) + 1)]
    told = ["query", *(f"{'✓' if hit else '✗'} {rank + 1}" for rank, hit in enumerate(hits))]
    figure.update_xaxes(tickvals=middles, ticktext=told, title="its nearest neighbours (✓ same class)", row=2, col=1)
    figure.update_yaxes(showticklabels=False, ticks="", row=2, col=1)
    figure.update_xaxes(title="first direction", showticklabels=False, ticks="", row=1, col=1)
    figure.update_yaxes(title="second direction", showticklabels=False, ticks="", row=1, col=1)
    figure.update_layout(height=640, margin_t=110)
    when = "before the first stage" if stage == 0 else f"after stage {stage}"
    said = f"{name}, {when}: {int(hits.sum())} of {len(found)} neighbours right; "
    said += f"recall@1 of all queries {100 * recall:.1f} %."
    return titled(figure, "Who finds its own?", said)


def journeys(
    recorded: Mapping[str, tuple[ArrayLike, ArrayLike]], live: Mapping[str, Sequence[float]], chosen: Sequence[str] = ()
) -> go.Figure:
    """Recall@1 among unseen classes after every stage, one line a learner.

    Args:
        recorded: by learner, mean and standard deviation over seeds, S + 1 entries each, in [0, 1].
        live: by learner, this run's; drawn where nothing is recorded, and as open diamonds at the last stage.
        chosen: learners to draw, in this order; all of them where it is empty.
    """
    figure = go.Figure()
    names = list(chosen) or [*recorded, *(name for name in live if name not in recorded)]
    ends, spreads = {}, []
    for name in names:
        mean, std = recorded.get(name, (live.get(name, ()), None))
        mean = 100 * np.asarray(mean, dtype=float)
        if not len(mean):
            continue
        colour, index = LOOKS[name]
        ends[name] = mean[-1]
        if std is not None:
            spreads.append(100 * float(np.asarray(std)[-1]))
        figure.add_scatter(
            x=np.arange(len(mean)),
            y=mean,
            mode="lines+markers",
            name=name,
            line={"color": COLOURS[colour], "dash": DASHES[index], "width": 2.5},
            marker={"symbol": MARKERS[index], "size": 8},
        )
    last = {name: 100 * values[-1] for name, values in live.items() if name in names}
    if recorded and last:
        stages = len(next(iter(live.values()))) - 1
        shades = [COLOURS[LOOKS[name][0]] for name in last]
        look = {"symbol": "diamond-open", "size": 13, "color": shades, "line": {"width": 3}}
        aside = stages + 0.12 + 0.05 * np.arange(len(last))  # so that none hides another
        figure.add_scatter(x=aside, y=list(last.values()), mode="markers", name="this run, at the end", marker=look)
    figure.update_xaxes(title="stages learned", dtick=1)
    figure.update_yaxes(title="recall@1, unseen classes [%]")
    figure.update_layout(height=470, margin_t=130)
    best = max(ends, key=ends.get)
    said = f"At the end: {best} {ends[best]:.1f} %."
    if spreads:
        said += f" Means over seeds; standard deviations {min(spreads):.0f} to {max(spreads):.0f} points at the end."
    return titled(figure, "Can it find what it never learned?", said)


def gains(worlds: Mapping[str, Mapping[str, Sequence[float]]]) -> go.Figure:
    """What every learner adds to the frozen network, compared seed by seed.

    Args:
        worlds: by world, by learner: recall@1 at the end, a figure a seed, in [0, 1]; "frozen" among the learners.
    """
    figure, said = go.Figure(), []
    for index, (world, ends) in enumerate(worlds.items()):
        frozen = np.asarray(ends["frozen"])
        over = {name: 100 * (np.asarray(ends[name]) - frozen) for name in ends if name != "frozen"}
        figure.add_bar(
            y=list(over),
            x=[points.mean() for points in over.values()],
            error_x={
                "array": [points.std(ddof=1) if len(points) > 1 else 0.0 for points in over.values()],
                "color": INK,
                "thickness": 1.5,
            },
            name=f"{world} (frozen {100 * frozen.mean():.0f} %)",
            orientation="h",
            marker={
                "color": COLOURS[("blue", "ochre", "green")[index % 3]],
                "pattern": {"shape": ("", "/", "x")[index % 3], "solidity": 0.4},
            },
        )
        best = max(over, key=lambda name: over[name].mean())
        said.append(f"{over[best].mean():+.1f} ({best})")
    figure.add_vline(x=0, line={"color": INK, "width": 1.5})
    figure.update_xaxes(title="recall@1 at the end, over the frozen network [points]")
    figure.update_yaxes(autorange="reversed", title="learner")
    figure.update_layout(barmode="group", height=560, margin_t=130, margin_l=170, legend_traceorder="normal")
    return titled(figure, "What does learning on add?", f"Means ± deviations over seeds. The most: {', '.join(said)}.")


def two_worlds(closed: ArrayLike, recall: Sequence[float], stage: int, name: str) -> go.Figure:
    """One run read twice: accuracy on the classes that came, and recall@1 on those that never did.

    Args:
        closed: accuracy [S, S] on held-out pictures of each stage, in [0, 1]; nan above the diagonal.
        recall: recall@1 among unseen classes, S + 1 entries.
        stage: how many stages have been learned, from 1.
        name: of the learner.
    """
    r, found = np.asarray(closed, dtype=float), 100 * np.asarray(recall, dtype=float)
    figure = make_subplots(cols=2, horizontal_spacing=0.16)
    matrix(figure, r, stage - 1)
    figure.update_yaxes(title="after stage", row=1, col=1)
    figure.update_xaxes(title="accuracy on stage [%]", row=1, col=1)
    colour, _ = LOOKS[name]
    line = {"color": COLOURS[colour], "width": 3}
    figure.add_scatter(x=np.arange(stage + 1), y=found[: stage + 1], mode="lines+markers", line=line, row=1, col=2)
    figure.add_hline(y=found[0], line={"color": INK, "dash": "dot", "width": 1.5}, row=1, col=2)
    figure.update_xaxes(title="stage", range=[-0.3, len(found) - 0.7], dtick=1, row=1, col=2)
    figure.update_yaxes(title="recall@1, unseen classes [%]", range=[0, 104], row=1, col=2)
    figure.update_layout(height=430, margin_t=96, showlegend=False)
    said = f"After stage {stage}: closed world {100 * r[stage - 1, :stage].mean():.0f} % right on average"
    said += f", stage 1: {100 * r[stage - 1, 0]:.0f} %. Open world {found[stage]:.0f} %, frozen {found[0]:.0f} %."
    return titled(figure, f"One run, two questions: {name}", said)


def told(image: ArrayLike, prompt: ArrayLike, recall: Sequence[float], tokens: int) -> go.Figure:
    """What the generator says to the first prompted block for one picture, and recall@1 by how many stage tokens it reads.

    Args:
        image: [H, W], 0 to 1.
        prompt: [vectors, d]: keys first, then values.
        recall: recall@1 when 0, 1, 2 … of the newest stage tokens are read, in [0, 1].
        tokens: how many it reads now.
    """
    figure = make_subplots(cols=3, column_widths=[0.17, 0.5, 0.33], horizontal_spacing=0.09)
    picture(figure, image, 1, 1)
    z = np.asarray(prompt, np.float32)
    scale = [[0, COLOURS["vermilion"]], [0.5, "rgba(128,128,128,0.08)"], [1, COLOURS["blue"]]]
    half = len(z) // 2
    names = [f"{kind} {index + 1}" for kind in ("key", "value") for index in range(half)]
    heat = {"colorscale": scale, "zmin": -2, "zmax": 2, "showscale": False}
    figure.add_heatmap(z=z, y=names, **heat, row=1, col=2)
    figure.update_yaxes(autorange="reversed", title="told", row=1, col=2)
    figure.update_xaxes(title="feature", row=1, col=2)
    shades = [COLOURS["green"] if index == tokens else COLOURS["grey"] for index in range(len(recall))]
    values = 100 * np.asarray(recall)
    figure.add_bar(x=np.arange(len(values)), y=values, marker_color=shades, showlegend=False, row=1, col=3)
    low = max(0.0, 10 * np.floor(values.min() / 10) - 10)
    figure.update_yaxes(title="recall@1 [%]", range=[low, 100], row=1, col=3)
    figure.update_xaxes(title="stage tokens read", dtick=1, row=1, col=3)
    figure.update_layout(height=380, margin_t=90)
    said = f"{tokens} stage tokens: recall@1 {values[tokens]:.1f} %. Blue is above zero, orange below; "
    said += f"the largest number here is {np.abs(z).max():.3f}. The bars begin at {low:.0f} %."
    return titled(figure, "What is whispered", said)


def gaps(study: Mapping[str, tuple[Sequence[float], Sequence[float]]], limit: float) -> go.Figure:
    """The difference of two learners in several settings, a point a seed.

    Args:
        study: by setting: recall@1 of the one and of the other, a figure a seed, in [0, 1].
        limit: points; what a candidate's mean had to reach.
    """
    figure = go.Figure()
    for index, (name, (one, other)) in enumerate(study.items()):
        points = 100 * (np.asarray(one) - np.asarray(other))
        colour, symbol = list(COLOURS.values())[index % 6], MARKERS[index % 6]
        look = {"color": colour, "symbol": symbol, "size": 11}
        figure.add_scatter(x=points, y=[name] * len(points), mode="markers", marker=look, showlegend=False)
        line = {"symbol": "line-ns", "size": 26, "color": colour, "line": {"width": 4, "color": colour}}
        figure.add_scatter(x=[points.mean()], y=[name], mode="markers", marker=line, showlegend=False)
    figure.add_vline(x=0, line={"color": INK, "width": 1.5})
    figure.add_vline(x=limit, line={"color": INK, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title="recall@1: joint minus LoRA [points]")
    figure.update_yaxes(title="setting", autorange="reversed")
    figure.update_layout(height=340, margin_t=84, margin_l=130)
    best = max(study, key=lambda name: np.mean(study[name][0]) - np.mean(study[name][1]))
    mean = 100 * (np.mean(study[best][0]) - np.mean(study[best][1]))
    said = f"Bars: means of three seeds. Best: {best}, {mean:+.1f}. "
    said += f"A candidate needed {limit:g} (dotted), and every seed above 0."
    return titled(figure, "Where does it separate?", said)
