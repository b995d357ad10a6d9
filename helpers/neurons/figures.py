"""The figures of chapter 1: pure functions of plain values and arrays, shared by lessons and apps."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from helpers.lab.style import COLOURS, DASHES, MARKERS, titled
from helpers.neurons.lif import multistep_lif
from helpers.neurons.spiking_neurons import rheobase
from helpers.neurons.surrogates import Surrogate, derivative

STEPS = 40


def trace(current: Tensor, membrane: Tensor, spikes: Tensor, threshold: float = 1.0) -> go.Figure:
    """One neuron over time: its input as bars, its membrane before reset, its threshold, its spikes.

    Args:
        current, membrane, spikes: shape [T].
        threshold: firing threshold.
    """
    steps = np.arange(1, len(current) + 1)
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.3, 0.7], vertical_spacing=0.06
    )  # input above, membrane below
    figure.add_bar(x=steps, y=current.numpy(), name="input current", marker_color=COLOURS["grey"], row=1, col=1)
    _membrane(figure, steps, membrane.numpy(), spikes.numpy(), threshold, row=2, col=1)
    figure.update_yaxes(title="current", row=1)
    figure.update_yaxes(title="membrane", rangemode="tozero", row=2)
    figure.update_xaxes(dtick=1)
    figure.update_xaxes(title="timestep", row=2)
    fired = [int(t) for t in steps[spikes.numpy() > 0]]
    said = f"It fires at step{'s' * (len(fired) != 1)} {', '.join(map(str, fired))}." if fired else "It never fires."
    return titled(figure, "One neuron", f"{len(steps)} steps of input. {said}")


def _membrane(figure, steps, membrane, spikes, threshold, **place) -> None:
    figure.add_scatter(
        x=steps, y=membrane, mode="lines+markers", name="membrane", line_color=COLOURS["blue"], marker_size=5, **place
    )
    figure.add_scatter(
        x=[steps[0], steps[-1]],
        y=[threshold, threshold],
        mode="lines",
        name="threshold",
        line={"color": COLOURS["green"], "dash": "dash"},
        **place,
    )
    # Every step keeps a point, so that each setting draws the same traces; a silent step's is not shown.
    height = np.where(spikes > 0, membrane, np.nan)
    figure.add_scatter(
        x=steps,
        y=height,
        mode="markers",
        name="spike",
        marker={"color": COLOURS["vermilion"], "symbol": "star", "size": 13},
        **place,
    )


def neuron(current: float, beta: float, threshold: float) -> go.Figure:
    """A neuron under a constant current, and beside it how its firing rate depends on that current."""
    inputs = torch.cat([torch.tensor([current]), torch.linspace(0, 2, 81)])
    spikes, membrane = multistep_lif(inputs.expand(200, -1), beta, threshold)
    figure = make_subplots(cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.12)
    steps = np.arange(1, STEPS + 1)
    _membrane(figure, steps, membrane[:STEPS, 0].numpy(), spikes[:STEPS, 0].numpy(), threshold, row=1, col=1)
    rates = spikes.mean(0).numpy()
    figure.add_scatter(
        x=inputs[1:].numpy(), y=rates[1:], mode="lines", name="firing rate", line_color=COLOURS["purple"], row=1, col=2
    )
    figure.add_scatter(
        x=[current],
        y=[rates[0]],
        mode="markers",
        name="this current",
        marker={"color": COLOURS["ochre"], "size": 13, "symbol": "diamond"},
        row=1,
        col=2,
    )
    figure.update_xaxes(title="timestep", range=[0, STEPS + 1], row=1, col=1)
    figure.update_yaxes(title="membrane", range=[-0.15, threshold + current + 0.4], row=1, col=1)
    figure.update_xaxes(title="input current", range=[-0.05, 2.05], row=1, col=2)
    figure.update_yaxes(title="spikes per step", range=[-0.04, 1.08], row=1, col=2)
    least = rheobase(beta, threshold)
    said = (
        f"A current of {current:.2f} makes it fire in {rates[0]:.0%} of steps; "
        f"it needs more than {least:.2f} to fire at all."
    )
    return titled(figure, "A constant current", said)


def surrogates(choices: Mapping[str, Surrogate], reach: float = 2.0) -> go.Figure:
    """The derivative that each surrogate puts in the place of the step's, around the threshold."""
    distance = torch.linspace(-reach, reach, 201)
    figure = go.Figure()
    for index, (name, surrogate) in enumerate(choices.items()):
        line = {"color": list(COLOURS.values())[index], "dash": DASHES[index]}
        figure.add_scatter(x=distance.numpy(), y=derivative(surrogate, distance).numpy(), name=name, line=line)
    figure.update_xaxes(title="membrane − threshold")
    figure.update_yaxes(title="slope used backward")
    return titled(
        figure, "Four stand-ins for a step's derivative", "All are highest at the threshold and have an area of 1."
    )


def codes(image: Tensor, sequences: Mapping[str, Tensor]) -> go.Figure:
    """A picture and the spikes that different codes make of it.

    Args:
        image: intensities in [0, 1], shape [side, side].
        sequences: for each code, spikes [T, side*side].
    """
    names = list(sequences)
    figure = make_subplots(cols=1 + len(names), column_titles=["the picture", *names], horizontal_spacing=0.09)
    figure.add_heatmap(z=image.numpy(), colorscale="Greys", showscale=False, row=1, col=1)
    figure.update_xaxes(
        showticklabels=False, ticks="", showgrid=False, zeroline=False, constrain="domain", row=1, col=1
    )
    figure.update_yaxes(
        showticklabels=False, ticks="", showgrid=False, autorange="reversed", scaleanchor="x", row=1, col=1
    )
    for index, name in enumerate(names):
        step, pixel = np.nonzero(sequences[name].numpy())
        figure.add_scatter(
            x=step + 1,
            y=pixel,
            mode="markers",
            showlegend=False,
            name=name,
            marker={"size": 5, "symbol": MARKERS[index + 1], "color": list(COLOURS.values())[index]},
            row=1,
            col=index + 2,
        )
        figure.update_xaxes(title="timestep", range=[0, len(sequences[name]) + 1], row=1, col=index + 2)
        figure.update_yaxes(
            title="pixel, row by row" if index == 0 else "", range=[image.numel(), -1], row=1, col=index + 2
        )
    said = ", ".join(f"{name} {int(sequence.count_nonzero())} spikes" for name, sequence in sequences.items())
    return titled(figure, "One digit, said in spikes", f"{said[0].upper()}{said[1:]}.")


def losses(histories: Mapping[str, Sequence[float]]) -> go.Figure:
    """Training loss by epoch of several networks."""
    figure = go.Figure()
    for index, (name, values) in enumerate(histories.items()):
        figure.add_scatter(
            x=np.arange(1, len(values) + 1),
            y=list(values),
            name=name,
            mode="lines+markers",
            line={"color": list(COLOURS.values())[index], "dash": DASHES[index], "width": 5 - 2 * min(index, 2)},
            marker={"symbol": MARKERS[index], "size": 9},
        )
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="cross-entropy", type="log", tickvals=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5])
    ends = ", ".join(f"{name} {values[-1]:.3f}" for name, values in histories.items())
    return titled(figure, "Training", f"Loss of the last epoch: {ends}.")


def sweep(
    timesteps: Sequence[int],
    accuracy: Mapping[str, Sequence[float]],
    energy: Mapping[str, Sequence[float]],
    twin_accuracy: float,
    spread: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float]]] | None = None,
) -> go.Figure:
    """Accuracy and energy against the number of timesteps, one curve a code, the ANN twin as a line.

    Args:
        timesteps: T of each point.
        accuracy: share of right answers in [0, 1], by code.
        energy: relative to the ANN twin's, by code.
        twin_accuracy: the ANN's share of right answers.
        spread: by code, recorded mean and std of accuracy, then of energy; drawn as error bars behind this run.
    """
    figure = make_subplots(cols=2, horizontal_spacing=0.13)
    for index, name in enumerate(accuracy):
        colour, marker = list(COLOURS.values())[index], MARKERS[index]
        for column, values in ((1, np.asarray(accuracy[name]) * 100), (2, np.asarray(energy[name]))):
            figure.add_scatter(
                x=timesteps,
                y=values,
                name=f"{name}, this run",
                legendgroup=name,
                mode="lines+markers",
                line={"color": colour, "dash": DASHES[index]},
                marker={"symbol": marker, "size": 9},
                showlegend=column == 1,
                row=1,
                col=column,
            )
        if spread and name in spread:
            mean, std, cost, cost_std = (np.asarray(part) for part in spread[name])
            for column, values, bars in ((1, mean * 100, std * 100), (2, cost, cost_std)):
                figure.add_scatter(
                    x=timesteps,
                    y=values,
                    name=f"{name}, recorded",
                    mode="markers",
                    marker={"symbol": f"{marker}-open", "size": 12, "color": colour},
                    row=1,
                    col=column,
                    error_y={"array": bars, "thickness": 2, "width": 6},
                    showlegend=column == 1,
                )
    for column, value in ((1, twin_accuracy * 100), (2, 1.0)):
        figure.add_scatter(
            x=[timesteps[0], timesteps[-1]],
            y=[value, value],
            name="ANN",
            mode="lines",
            line={"color": COLOURS["grey"], "dash": "dot", "width": 3},
            showlegend=column == 1,
            row=1,
            col=column,
        )
    figure.update_xaxes(title="timesteps", type="log", tickvals=list(timesteps), ticktext=list(map(str, timesteps)))
    figure.update_yaxes(title="accuracy [%]", row=1, col=1)
    figure.update_yaxes(
        title="energy, ANN = 1",
        type="log",
        row=1,
        col=2,
        tickvals=[0.05, 0.1, 0.2, 0.5, 1, 2, 5],
        ticktext=["0.05", "0.1", "0.2", "0.5", "1", "2", "5"],
    )
    figure.update_layout(margin_t=130, height=460)
    ends = "; ".join(
        f"{name}: {values[0]:.1%} at T = {timesteps[0]}, {values[-1]:.1%} at T = {timesteps[-1]}"
        for name, values in accuracy.items()
    )
    return titled(figure, "What does a timestep buy?", f"{ends}. The ANN: {twin_accuracy:.1%}.")


def plane(
    spikes: Tensor, accuracy: float, energy_nj: float, rate: float, twin_accuracy: float, twin_energy_nj: float
) -> go.Figure:
    """The spikes of a hidden layer for one image, and where the network stands: energy against wrong answers.

    Args:
        spikes: of one layer for one image, shape [T, N].
        accuracy, energy_nj: of the spiking network as set.
        rate: share of hidden neurons that fire in a step.
        twin_accuracy, twin_energy_nj: of the ANN twin, on the same images.
    """
    titles = ["first hidden layer, one image", "all images"]
    figure = make_subplots(cols=2, column_widths=[0.45, 0.55], horizontal_spacing=0.14, column_titles=titles)
    step, index = np.nonzero(spikes.numpy())
    dots = {"size": 3, "color": COLOURS["blue"]}
    figure.add_scatter(x=step + 1, y=index, mode="markers", marker=dots, showlegend=False, row=1, col=1)
    figure.update_xaxes(title="timestep", range=[0, len(spikes) + 1], row=1, col=1)
    figure.update_yaxes(title="neuron, a dot a spike", range=[-2, spikes.shape[1] + 1], row=1, col=1)
    places = (
        ("ANN", twin_accuracy, twin_energy_nj, {"size": 14, "symbol": "square", "color": COLOURS["grey"]}),
        ("SNN as set", accuracy, energy_nj, {"size": 16, "symbol": "star", "color": COLOURS["vermilion"]}),
    )
    for name, right, energy, marker in places:
        # A logarithmic axis has no zero: a network without a mistake is drawn at the axis' end.
        wrong = [max(100 * (1 - right), 0.5)]
        figure.add_scatter(x=[energy], y=wrong, mode="markers", name=name, marker=marker, row=1, col=2)
    low, high = np.log10(twin_energy_nj / 5), np.log10(twin_energy_nj * 8)
    figure.update_xaxes(title="energy a prediction [nJ]", type="log", range=[low, high], row=1, col=2)
    figure.update_xaxes(tickvals=[d * 10**p for p in range(6) for d in (1, 2, 5)], row=1, col=2)
    figure.update_yaxes(title="wrong answers [%]", type="log", range=[2.02, -0.4], row=1, col=2)
    figure.update_yaxes(tickvals=[0.5, 1, 2, 5, 10, 20, 50, 100], row=1, col=2)
    figure.update_layout(legend_y=1.12, margin_t=120)
    said = (
        f"{accuracy:.1%} right for {energy_nj:.0f} nJ ({energy_nj / twin_energy_nj:.2f} of the ANN's, which has "
        f"{twin_accuracy:.1%}); {rate:.1%} of hidden neurons fire in a step."
    )
    return titled(figure, "Where does it land?", said)
