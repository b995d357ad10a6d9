"""Figures that can be read on a white and on a dark page, and with any colour vision."""

import itertools

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from helpers.lab.style import COLOURS, DASHES, INK, MARKERS, titled, use_template

PAGES = {"white": "#ffffff", "JupyterLab's dark": "#111111"}
# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", IEEE TVCG 15(6), 2009: severity 1, on linear RGB.
VISION = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear(colour):
    """Linear RGB of #rrggbb, in [0, 1]."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """Web Content Accessibility Guidelines 2: (L1 + 0.05) / (L2 + 0.05)."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    """CIE L*a*b* (D65) of linear RGB: distances in it are what an eye sees, about 2 is just noticeable."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    x, y, z = (
        t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in xyz / [0.9505, 1, 1.089]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_contrast_formula_at_its_ends():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#777777") == 1


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("name", COLOURS)
def test_colour_carries_on_both_pages(name, page):
    # 3 : 1 is what WCAG asks of graphics.
    assert contrast(COLOURS[name], page) >= 3


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_text_carries_on_both_pages(page):
    # 4.5 : 1 on one page leaves less than that on the other; 3.9 on both is near the best that one grey can do.
    assert contrast(INK, page) >= 3.9


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_with_any_colour_vision_or_by_dash_and_marker(vision):
    seen = {name: lab(VISION[vision] @ linear(colour)) for name, colour in COLOURS.items()}
    near = [(a, b) for a, b in itertools.combinations(seen, 2) if np.linalg.norm(seen[a] - seen[b]) < 10]
    # Colours next to each other in the order that lines take them must differ by themselves.
    order = list(COLOURS)
    assert not [pair for pair in near if order.index(pair[1]) - order.index(pair[0]) == 1], near
    for a, b in near:
        i, j = order.index(a), order.index(b)
        assert DASHES[i] != DASHES[j] and MARKERS[i] != MARKERS[j]


def test_every_colour_has_a_dash_and_a_marker_of_its_own():
    assert len(set(DASHES)) == len(set(MARKERS)) == len(COLOURS) == len(set(COLOURS.values()))


def test_template_is_the_default_and_setting_it_again_changes_nothing(plotly_template):
    use_template()
    first = pio.templates["course"].to_plotly_json()
    use_template()
    assert pio.templates.default == "course" and pio.templates["course"].to_plotly_json() == first


def test_template_paints_no_paper(plotly_template):
    use_template()
    layout = go.Figure().layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)" and layout.font.color == INK
    assert list(layout.colorway) == list(COLOURS.values())


def test_titled_sets_title_and_sentence_and_returns_the_figure():
    figure = go.Figure()
    assert titled(figure, "Title", "It is 3.") is figure
    assert figure.layout.title.text == "Title" and figure.layout.title.subtitle.text == "It is 3."
