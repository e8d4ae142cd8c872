import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.evaluation.plots import NARROW, Series, line_chart, running_mean, thinned, ticks, whisker

_FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)
_POINTS = st.lists(st.tuples(st.integers(0, 500), _FINITE), min_size=2, max_size=30)


@given(_POINTS, st.booleans(), st.booleans())
def test_everything_drawn_lies_inside(points, markers, smooth):
    chart = line_chart("title", [Series("a", points, 0, markers, smooth)], "step")
    root = ET.fromstring(str(chart.svg))
    places = [
        tuple(map(float, pair.split()))
        for path in root.iter("path")
        if "line" in path.get("class")
        for pair in path.get("d")[1:].split("L")
    ]
    assert places
    assert all(0 <= x <= NARROW[0] and 0 <= y <= NARROW[1] for x, y in places)


def test_the_highest_value_is_highest_on_the_page():
    chart = line_chart("t", [Series("a", [(0, 1.0), (1, 3.0), (2, 2.0)])], "step")
    xs, ys = zip(
        *(map(float, pair.split()) for pair in re.search(r'line s0" d="M([^"]*)', chart.svg)[1].split("L")), strict=True
    )
    assert ys[1] < ys[2] < ys[0]
    assert xs[0] < xs[1] < xs[2]
    assert (ys[0] - ys[2]) == pytest.approx(ys[2] - ys[1], abs=0.2)


def test_nothing_to_draw():
    assert line_chart("t", [], "step") is None
    assert line_chart("t", [Series("a", [(0, 1.0)])], "step") is None
    assert line_chart("t", [Series("a", [(0, 1.0)], markers=True)], "step") is None
    assert "dot s1" in line_chart("t", [Series("a", [(0, 1), (1, 1)]), Series("b", [(0, 1)], 1, markers=True)], "step").svg
    assert "s1" not in line_chart("t", [Series("a", [(0, 1), (1, 1)]), Series("b", [(0, 1)], 1)], "step").svg


def test_labels_are_escaped():
    chart = line_chart("<b>", [Series("<i>&", [(0, 1), (1, 2)], markers=True)], "<u>")
    assert not re.search(r"<[biu]>", chart.svg)
    assert ET.fromstring(str(chart.svg)).get("aria-label") == "<b>: <i>&"


def test_limits_hold_the_scale():
    chart = line_chart("t", [Series("a", [(0, 1.0), (1, 1.0)])], "step", limits=(0, 1))
    values = [float(text.text) for text in ET.fromstring(str(chart.svg)).iter("text") if text.get("class") == "y"]
    assert max(values) == 1


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low, span):
    span = max(span, abs(low) * 1e-6)  # below that, floats have no round numbers left
    found = ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in found)
    if len(found) > 1:
        step = (found[-1] - found[0]) / (len(found) - 1)
        assert any(math.isclose(step / 10 ** math.floor(math.log10(step) + 1e-6), f, rel_tol=1e-4) for f in (1, 2, 2.5, 5))


def test_thinning_keeps_the_mean():
    points = [(float(i), float(i * i)) for i in range(960)]
    few = thinned(points, 240)
    assert len(few) == 240
    assert sum(y for _, y in few) / 240 == pytest.approx(sum(y for _, y in points) / 960)
    assert thinned(points[:10], 240) == points[:10]


def test_running_mean():
    assert running_mean([(0, 0), (1, 3), (2, 6), (3, 3)], 3) == [(0, 1.5), (1, 3), (2, 4), (3, 4.5)]


def test_whiskers():
    def parts(svg):
        return svg.split('"')[1], float(re.search(r'cx="([\d.]+)"', svg)[1])

    assert parts(whisker(0.5, 1, 1.5, 2)) == ("whisker clear", 102.0)
    assert parts(whisker(-0.5, 0, 0.5, 2)) == ("whisker open", 70.0)
    assert parts(whisker(-9, -8, -7, 2)) == ("whisker clear", 6.0)  # cut at the edge
    assert whisker(0, 0, 0, 0) == ""


def test_a_band_lies_about_its_line_and_inside_the_chart():
    band = [(0, 0.0, 2.0), (1, 1.0, 9.0), (2, 2.0, 4.0)]
    chart = line_chart("t", [Series("a", [(0, 1.0), (1, 3.0), (2, 3.0)], 4, band=band)], "step")
    assert chart.svg.index('class="band s4"') < chart.svg.index('class="line s4"')  # the line on top
    drawn = {name: re.search(rf'{name} s4" d="M([^"Z]*)', chart.svg)[1].split("L") for name in ("band", "line")}
    points = {name: [tuple(map(float, pair.split())) for pair in pairs] for name, pairs in drawn.items()}
    upper, lower = points["band"][:3], points["band"][:2:-1]
    for (x, y), (left, high), (right, low) in zip(points["line"], upper, lower, strict=True):
        assert x == left == right
        assert high <= y <= low  # y grows downwards
    assert all(0 <= x <= NARROW[0] and 0 <= y <= NARROW[1] for x, y in points["band"])
    spans = [low - high for (_, high), (_, low) in zip(upper, lower, strict=True)]
    assert spans[1] / spans[0] == pytest.approx(8 / 2, rel=0.02)
