"""One explorer: a pure function `draw(**values) -> Figure` becomes sliders beside a figure.

The same object is live in JupyterLab (Panel), can be served (`explorer.layout.servable()`), and leaves a Plotly figure
with a slider of its own in committed notebooks and reports, where there is no kernel and no network.
"""

import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from helpers.lab.display import static

PAUSE = 250
"""Milliseconds between two values of a control that plays."""
SMOOTH = 0.05
"""Seconds that a figure may take and still be drawn while a slider moves."""


@dataclass(frozen=True)
class Slider:
    """A number to move. `powers` steps through powers of two; `play` lets it move by itself, over its grid's values."""

    default: float
    low: float
    high: float
    step: float = 1
    label: str = ""
    powers: bool = False
    play: bool = False

    def grid(self) -> list:
        """The values of the figure's own slider, at most 13, ends and default among them."""
        if self.powers:
            values, value = [], self.low
            while value <= self.high:
                values.append(value)
                value *= 2
            return sorted({*values, self.default, self.high})
        steps = math.ceil((self.high - self.low) / self.step - 1e-9)
        stride = max(1, -(-steps // 11))
        end = int(self.high) if self.whole else float(self.high)
        return sorted({self._on_grid(index) for index in range(0, steps, stride)} | {end, self.default})

    def _on_grid(self, index: int):
        value = self.low + index * self.step
        return int(round(value)) if self.whole else round(value, 10)

    @property
    def whole(self) -> bool:
        """Whether it moves over whole numbers."""
        return all(float(x).is_integer() for x in (self.default, self.low, self.step))


@dataclass(frozen=True)
class Choice:
    """One of several texts."""

    default: str
    options: tuple[str, ...]
    label: str = ""

    def grid(self) -> list:
        """All options."""
        return list(self.options)


@dataclass(frozen=True)
class Switches:
    """Some of several texts, each switched on or off; its value is a tuple, in the order of the options."""

    default: tuple[str, ...]
    options: tuple[str, ...]
    label: str = ""

    def grid(self) -> list:
        """None of them, the default, all of them."""
        return [(), *([self.default] if self.default not in ((), self.options) else []), self.options]


class Explorer:
    """Sliders beside a figure; made by `explore`."""

    def __init__(
        self, draw: Callable[..., go.Figure], controls: dict[str, Slider | Choice | Switches], over: str
    ) -> None:
        self.controls, self.over = controls, over
        # Drawn once for each setting: going back and forth costs nothing. A figure is never changed after it was drawn.
        self.draw = functools.lru_cache(maxsize=256)(draw)

    @property
    def defaults(self) -> dict:
        """The values that the explorer starts with."""
        return {name: control.default for name, control in self.controls.items()}

    @functools.cached_property
    def figure(self) -> go.Figure:
        """The figure at the defaults with frames over one axis and its own slider."""
        control = self.controls[self.over]
        base = go.Figure(self.draw(**self.defaults))
        frames, steps = [], []
        for value in control.grid():
            drawn = self.draw(**{**self.defaults, self.over: value})
            name = str(value)
            # Not the height and the margins: with the slider the whole figure is taller than what was drawn.
            same = ("template", "height", "margin")
            layout = {key: part for key, part in drawn.layout.to_plotly_json().items() if key not in same}
            for key in [key for key in layout if key.startswith(("xaxis", "yaxis"))]:
                # Nor where an axis lies: set anew, it would undo what keeps a picture's pixels square.
                layout[key] = {name: part for name, part in layout[key].items() if name != "domain"}
            frames.append(go.Frame(name=name, data=drawn.data, layout=layout))
            move = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
            steps.append(
                {
                    "method": "animate",
                    "label": _said(value),
                    "args": [[name], move],
                }
            )
        base.frames = frames
        active = control.grid().index(control.default)
        base.layout.sliders = [
            {
                "active": active,
                "steps": steps,
                "currentvalue": {"prefix": f"{control.label or self.over}: "},
                "pad": {"t": 56},
            }
        ]
        if isinstance(control, Slider) and control.play:
            base.layout.updatemenus = [_buttons()]
        base.layout.height = (base.layout.height or 420) + 100
        base.layout.margin.b = (base.layout.margin.b or 56) + 100
        return base

    @functools.cached_property
    def widgets(self) -> dict:
        """The Panel widget of each control, by name."""
        import panel as pn

        made = {}
        for name, control in self.controls.items():
            label = control.label or name
            if isinstance(control, Choice):
                made[name] = pn.widgets.Select(
                    label=label, options=list(control.options), value=control.default, width=280
                )
            elif isinstance(control, Switches):
                made[name] = pn.widgets.CheckBoxGroup(
                    label=label, options=list(control.options), value=list(control.default), inline=True
                )
            elif control.play:
                made[name] = pn.widgets.DiscretePlayer(
                    label=label,
                    options=control.grid(),
                    value=control.default,
                    interval=PAUSE,
                    width=320,
                    show_loop_controls=False,
                    loop_policy="once",
                    visible_buttons=["previous", "pause", "play", "next"],
                )
            elif control.powers:
                made[name] = pn.widgets.DiscreteSlider(
                    label=label, options=control.grid(), value=control.default, width=280
                )
            else:
                kind = pn.widgets.IntSlider if control.whole else pn.widgets.FloatSlider
                limits = {"start": control.low, "end": control.high, "step": control.step}
                made[name] = kind(label=label, value=control.default, width=280, **limits)
        return made

    @functools.cached_property
    def layout(self):
        """The live layout: sliders, the figure, and its sentence as text that a screen reader announces."""
        import panel as pn

        def show(**values):
            figure = go.Figure(self.draw(**values))
            sentence = figure.layout.title.subtitle.text or ""
            figure.layout.title.subtitle.text = ""
            return figure, f"<p role='status' style='margin:0'>{sentence}</p>"

        begun = time.perf_counter()
        first, sentence = show(**self.defaults)
        # A slow figure follows the slider when it is let go, a quick one while it moves.
        moment = "value" if time.perf_counter() - begun < SMOOTH else "value_throttled"
        pane = pn.pane.Plotly(
            first, config={"displayModeBar": False}, sizing_mode="stretch_width", height=first.layout.height or 420
        )
        text = pn.pane.HTML(sentence, sizing_mode="stretch_width", styles={"font-size": "14px"})

        def update(*_events) -> None:
            values = {name: widget.value for name, widget in self.widgets.items()}
            for name, control in self.controls.items():
                if isinstance(control, Switches):  # in their own order, whichever was switched first
                    values[name] = tuple(option for option in control.options if option in values[name])
            pane.object, text.object = show(**values)

        for name, widget in self.widgets.items():
            # What plays moves by itself and is never let go.
            plays = getattr(self.controls[name], "play", False)
            widget.param.watch(update, moment if moment in widget.param and not plays else "value")
        # Switches carry no label of their own.
        named = [
            pn.Column(f"{self.controls[name].label or name}:", widget)
            if isinstance(self.controls[name], Switches)
            else widget
            for name, widget in self.widgets.items()
        ]
        sliders = pn.FlexBox(*named, gap="24px")
        return pn.Column(sliders, text, pane, sizing_mode="stretch_width", max_width=980)

    def _repr_mimebundle_(self, include=None, exclude=None):
        # One display: JupyterLab draws Panel's layout where it is in the bundle, else the Plotly figure.
        still = {"application/vnd.plotly.v1+json": json.loads(self.figure.to_json()), "text/plain": repr(self)}
        if static():
            return still, {}
        bundle = self.layout._repr_mimebundle_(include, exclude)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, **still}, metadata

    def __repr__(self) -> str:
        return f"Explorer over {', '.join(control.label or name for name, control in self.controls.items())}"


def _said(value: float | str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return value if isinstance(value, str) else f"{value:.4g}"


def _buttons() -> dict:
    """Play and pause under a saved figure, over the right end of its slider."""
    run = {"frame": {"duration": PAUSE, "redraw": True}, "transition": {"duration": 0}, "fromcurrent": True}
    stop = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    buttons = [
        {"label": "play", "method": "animate", "args": [None, run]},
        {"label": "pause", "method": "animate", "args": [[None], stop]},
    ]
    place = {"x": 1, "xanchor": "right", "y": 0, "yanchor": "top", "pad": {"t": 44}}
    return {"type": "buttons", "direction": "right", "showactive": False, "buttons": buttons, **place}


def explore(
    draw: Callable[..., go.Figure], *, over: str | None = None, **controls: Slider | Choice | Switches
) -> Explorer:
    """Sliders beside the figure that `draw` makes of their values.

    Args:
        draw: a pure function of the controls' values, `draw(**values) -> plotly Figure`, under 100 ms a call; its
            title's subtitle is the sentence that reads the figure out. Every call draws the same traces, in the same order.
        over: the control whose slider the saved figure keeps; the first one by default.
        controls: a `Slider`, `Choice` or `Switches` for every argument, such as `run.slider("beta", step=0.05)`.

    Raises:
        ValueError: no controls, `over` is none of them, or a default lies outside its bounds.
    """
    over = over or next(iter(controls), None)
    if over not in controls:
        raise ValueError(
            f"over is {over!r}, but it must be one of the controls: {', '.join(controls) or 'none were given'}."
        )
    for name, control in controls.items():
        if isinstance(control, Choice) and control.default not in control.options:
            raise ValueError(f"{name} starts at {control.default!r}, which is none of {', '.join(control.options)}.")
        if isinstance(control, Switches) and not set(control.default) <= set(control.options):
            raise ValueError(
                f"{name} starts with {control.default!r}, not all of which are {', '.join(control.options)}."
            )
        if isinstance(control, Switches):  # in their own order, however they were given
            controls[name] = replace(control, default=tuple(x for x in control.options if x in control.default))
        if isinstance(control, Slider) and control.powers and control.low <= 0:
            raise ValueError(f"{name} starts its powers of two at {control.low}, but they need a low end above 0.")
        if isinstance(control, Slider) and not control.low <= control.default <= control.high:
            raise ValueError(
                f"{name} starts at {control.default}, outside its slider's [{control.low}, {control.high}]."
            )
    if not static():
        import panel as pn

        # With every explorer, not once a kernel: a page that was reloaded has lost Panel's scripts, and nobody tells us.
        pn.extension("plotly", inline=True)
    return Explorer(draw, controls, over)
