"""The figures of lesson 06.3 say in numbers what they show, also where there is little to show."""

import numpy as np
import pytest

from helpers.quantization import stableq_figures as figures


def pool(n=40, side=8):
    return np.random.default_rng(0).random((n, 1, side, side))


def subtitle(figure):
    return figure.layout.title.subtitle.text


def test_a_mosaic_holds_every_pixel_in_its_place():
    pictures = pool(5, 4)
    image = figures.mosaic(pictures, 3)
    assert image.dtype == np.uint8 and image.shape == (10, 15)
    for place, picture in enumerate(pictures):
        top, left = place // 3 * 5, place % 3 * 5
        assert np.array_equal(image[top : top + 4, left : left + 4], np.round(255 * picture[0]).astype(np.uint8))


def test_a_class_that_is_gone_counts_as_none():
    labels = np.arange(40) % 4
    kept = np.flatnonzero(labels < 2)
    figure = figures.filters(pool(), np.arange(40.0), kept, (2.0, 1.0), np.zeros(40, int), labels, np.arange(40))
    assert "Of a class, 0 to 10 are kept" in subtitle(figure) and "Foreign" not in subtitle(figure)


@pytest.mark.parametrize("count", [1, 39, 40])
def test_filters_show_what_is_kept_and_what_is_not(count):
    kind = np.repeat([0, 1], [30, 10])
    figure = figures.filters(
        pool(), np.arange(40.0), np.arange(count), (2.0, 1.0), kind, np.arange(40) % 4, np.arange(40)
    )
    assert f"kept: {count}" in figure.layout.xaxis.title.text
    bars = {trace.name: sum(trace.y) for trace in figure.data if trace.type == "bar"}
    assert bars == {"kept": count, "rejected": 40 - count}
    assert "25% of all" in subtitle(figure)


def test_a_mean_over_seeds_is_named_only_where_there_is_one():
    live = {"W2A2": {"noise": 0.5, "real": 0.9}}
    recorded = {"W2A2": {"noise": [0.4, 0.6], "real": [0.9, 0.8]}}
    assert "mean" in subtitle(figures.by_source(recorded, live, 0.98, "Tuned"))
    assert "mean" not in subtitle(figures.by_source({"W2A2": {"noise": [], "real": []}}, live, 0.98, "Tuned"))
    gains = {"clean": {"energy": 1.0, "batch norm": 0.0, "both": -2.0}}
    assert "mean" in subtitle(figures.gains({"clean": {rule: [1.0, 2.0] for rule in gains["clean"]}}, gains))
    assert "mean" not in subtitle(figures.gains({"clean": {rule: [] for rule in gains["clean"]}}, gains))


def test_the_way_between_two_styles_marks_where_it_stands():
    figure = figures.interpolation(pool(), 0.5, [0.0, 0.5, 1.0], [0.7, 0.8, 0.99], [3.0, 2.0, 1.0])
    assert subtitle(figure) == "At 0.5: 80% are named as asked, distance D 2.00."


def test_widths_have_an_error_only_over_several_seeds():
    one = figures.widths({"real": {"W2A2": [0.9], "W4A4": [0.98]}}, 0.98)
    several = figures.widths({"real": {"W2A2": [0.9, 0.8], "W4A4": [0.98, 0.98]}}, 0.98)
    assert list(one.data[0].error_y.array) == [0, 0] and several.data[0].error_y.array[0] == pytest.approx(7.07, 0.01)
