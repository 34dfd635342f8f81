"""Line charts: round ticks, labels apart, and names that are text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from mnvision.charts import Line, _epoch_ticks, _spread, _ticks, line_chart


def test_lines_without_points_are_left_out():
    assert line_chart("Loss", [Line("train", "c1", {})], least=1) == ""
    chart = line_chart("Loss", [Line("train", "c1", {}), Line("val", "c2", {1: 2.0, 2: 1.5})], least=1)
    assert "val" in chart
    assert "train" not in chart
    assert "c1" not in chart


def test_names_are_text_and_nothing_else():
    name = "<script>alert('1')</script> & \"two\""
    chart = line_chart(name, [Line(name, "c1", {1: 0.25, 2: 0.5})], least=1, best=name)
    for style in ("chart", "axis", "grid", "tick", "hit"):  # HTML needs no quotes around these, XML does
        chart = chart.replace(f"class={style}", f'class="{style}"')
    figure = ElementTree.fromstring(chart)
    assert {element.tag for element in figure.iter()} <= {
        *("figure", "figcaption", "span", "svg", "path", "circle", "text", "tspan", "g", "rect", "title")
    }
    assert figure.findtext("figcaption") == f"{name} "
    assert figure.findtext("figcaption/span") == f"best {name} 0.5000 in epoch 2"
    assert figure.find("svg").get("aria-label") == f"{name} by epoch"
    assert f"{name} " in [text.text for text in figure.iter("text")]
    assert [title.text for title in figure.iter("title")] == [f"epoch 1\n{name} 0.25", f"epoch 2\n{name} 0.5"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 0.42, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (0, 9.1, [0, 2, 4, 6, 8, 10]),
        (0, 0, [0, 0.2]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1.2, 1.3, [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]),
        (0, 1234, [0, 250, 500, 750, 1000, 1250]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
    assert _ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("epochs", "ticks"),
    [
        ([1], [1]),
        ([7], [7]),
        ([1, 2, 3], [1, 2, 3]),
        (range(1, 13), [2, 4, 6, 8, 10, 12]),
        ([1, 300], [50, 100, 150, 200, 250, 300]),
    ],
)
def test_epochs_have_few_whole_ticks(epochs, ticks):
    assert _epoch_ticks(list(epochs)) == ticks


def test_labels_do_not_cover_each_other():
    assert _spread([50, 20], gap=17, low=0, high=100) == [50, 20]
    assert _spread([50, 49], gap=17, low=0, high=100) == [66, 49]
    assert _spread([99, 98], gap=17, low=0, high=100) == [100, 83]
    assert _spread([1, 2, 3], gap=17, low=10, high=100) == [10, 27, 44]


def test_the_longest_name_fits_beside_its_line():
    lines = [Line("AP", "c1", {1: 0.25, 2: 0.5}), Line("balanced accuracy", "c2", {1: 0.25, 2: 0.75})]
    for shown, name in ((lines[:1], "AP 0.500"), (lines, "balanced accuracy 0.750")):
        chart = line_chart("", shown, least=1)
        [x, *_] = [float(x) for x in re.findall(r'<text class="label [^>]* x="([^"]*)"', chart)]
        assert x + 7.7 * len(name) <= 480  # of DejaVu Sans Bold, the widest of the page's fonts, in a size of 12.5
        assert re.search(r'<svg viewBox="0 0 480 ', chart)
