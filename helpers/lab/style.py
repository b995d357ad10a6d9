"""How every figure of the course looks: legible on white and on JupyterLab's dark page, and with any colour vision.

The paper is transparent, the text a grey that stands out on both, the colours are Okabe and Ito's, the light ones
darkened until they carry on white. A line also differs by dash or marker: nothing is said by colour alone.

Source of the palette: M. Okabe, K. Ito, "Color Universal Design", 2008.
"""

COLOURS = {
    "blue": "#2a85c7",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#b8649a",
    "ochre": "#a87900",
    "grey": "#808080",
}
INK = "#7a7a7a"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
_GRID = "rgba(128,128,128,0.25)"


def use_template() -> None:
    """Make the course's template the default of plotly, for this process. Calling it again changes nothing."""
    import plotly.graph_objects as go
    import plotly.io as pio

    axis = {
        "showgrid": True,
        "gridcolor": _GRID,
        "zerolinecolor": _GRID,
        "linecolor": INK,
        "ticks": "outside",
        "tickcolor": INK,
        "automargin": True,
        "title": {"standoff": 8},
    }
    pio.templates["course"] = go.layout.Template(
        layout={
            "colorway": list(COLOURS.values()),
            "font": {"color": INK, "size": 14, "family": "system-ui, sans-serif"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "title": {"font": {"size": 16}, "x": 0, "xref": "paper", "xanchor": "left", "y": 0.97, "yanchor": "top"},
            "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
            "margin": {"l": 64, "r": 24, "t": 96, "b": 56},
            "xaxis": axis,
            "yaxis": axis,
            "height": 420,
        }
    )
    pio.templates.default = "course"


def titled(figure, text: str, readout: str = ""):
    """The figure with a title and, under it, one sentence that says in numbers what is drawn; returns the figure."""
    return figure.update_layout(title={"text": text, "subtitle": {"text": readout, "font": {"size": 13, "color": INK}}})
