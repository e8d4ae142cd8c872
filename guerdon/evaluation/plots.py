"""Charts as inline SVG: they take the colours of the page, light or dark, and need no other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from guerdon.evaluation.wording import short

Point = tuple[float, float]

NARROW, WIDE = (420, 250), (680, 330)
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 10, 46
_MOST_POINTS = 240
_BAR = 120  # width of a bar, in its own units


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: in the legend.
        points: (x, y) in order.
        style: number of its colour and dash pattern.
        markers: True draws each point, for what was measured now and then.
        smooth: True draws a running mean over the faint line itself, for what is noisy.
        band: (x, low, high) in order, a shade under the line.
    """

    label: str
    points: Sequence[Point]
    style: int = 0
    markers: bool = False
    smooth: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """A chart with its legend."""

    title: str
    svg: Markup
    legend: tuple[tuple[str, int, bool], ...]
    note: str = ""


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    note: str = "",
    size: tuple[int, int] = NARROW,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Chart | None:
    """Lines over a common scale; None where no series has two points.

    Args:
        title: above the chart.
        series: the lines; one of a single point is drawn only where it has markers.
        x_label: under the axis.
        note: a few words beside the title.
        size: width and height, to which letters are in proportion.
        limits: what y cannot pass, e.g. 0 and 1 for a share; the scale does not either.
    """
    drawn = [line for line in series if len(line.points) > (0 if line.markers else 1)]
    if all(len(line.points) < 2 for line in drawn):
        return None
    shaded = [(x, y) for line in drawn for x, *ends in line.band for y in ends]
    frame = _Frame.around([*(point for line in drawn for point in line.points), *shaded], size, limits)
    bands = [_band(frame, line) for line in drawn if line.band]
    parts = [frame.axes(x_label), *bands, *(_line(frame, line) for line in drawn)]
    label = escape(f"{title}: {', '.join(line.label for line in drawn)}")
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(*size, label, Markup("").join(parts))
    return Chart(title, svg, tuple((line.label, line.style, line.markers) for line in drawn), note)


def whisker(low: float, value: float, high: float, scale: float) -> Markup:
    """A difference with its interval about a zero line; ``scale`` is the number that reaches the edge."""
    if not scale > 0:
        return Markup("")
    x = [70 + 64 * max(-1.0, min(1.0, number / scale)) for number in (low, value, high)]
    side = "clear" if low > 0 or high < 0 else "open"
    return Markup(
        '<svg class="whisker {}" viewBox="0 0 140 14" aria-hidden="true"><path class="zero" d="M70 0V14"/>'
        '<path class="span" d="M{:.1f} 7H{:.1f}"/><circle cx="{:.1f}" cy="7" r="3.5"/></svg>'
    ).format(side, x[0], x[2], x[1])


def share_bar(share: float, low: float, high: float, tied: float = 0.0, mark: float = 0.5) -> Markup:
    """A share as a bar, ties fainter behind it, a mark over it (dashed), and the interval drawn over it."""
    filled, behind, left, right, dashed = (_BAR * number for number in (share, tied, low, high, mark))
    return Markup(
        '<svg class="bar" viewBox="0 0 {} 14" aria-hidden="true"><rect class="track" width="{}" height="14"/>'
        '<rect class="share" width="{:.1f}" height="14"/><rect class="ties" x="{:.1f}" width="{:.1f}" height="14"/>'
        '<path class="half" d="M{:.0f} 0V14"/><path class="span" d="M{:.1f} 7H{:.1f}"/></svg>'
    ).format(_BAR, _BAR, filled, filled, behind, dashed, left, right)


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most so many points: means of equal runs."""
    run = math.ceil(len(points) / most)
    return [_mean(points[first : first + run]) for first in range(0, len(points), run)] if run > 1 else list(points)


def running_mean(points: Sequence[Point], width: int) -> list[Point]:
    """The mean of y over the ``width`` points about each one, fewer at the ends."""
    half = width // 2
    windows = (points[max(0, i - half) : i + half + 1] for i in range(len(points)))
    return [(x, _mean(window)[1]) for (x, _), window in zip(points, windows, strict=True)]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two bounds: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (power * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


@dataclass(frozen=True)
class _Frame:
    """The bounds of a chart, and where a point comes to lie in it."""

    left: float
    right: float
    bottom: float
    top: float
    width: int
    height: int

    @classmethod
    def around(cls, points: Sequence[Point], size: tuple[int, int], limits: tuple[float, float]) -> _Frame:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        pad = (max(ys) - min(ys)) * 0.06 or abs(ys[0]) * 0.1 or 1.0
        right = max(xs) if max(xs) > min(xs) else min(xs) + 1
        return cls(min(xs), right, max(limits[0], min(ys) - pad), min(limits[1], max(ys) + pad), *size)

    def place(self, point: Point) -> str:
        x = _LEFT + (point[0] - self.left) / (self.right - self.left) * (self.width - _LEFT - _RIGHT)
        y = _TOP + (self.top - point[1]) / (self.top - self.bottom) * (self.height - _TOP - _BOTTOM)
        return f"{x:.1f} {y:.1f}"

    def axes(self, x_label: str) -> Markup:
        grid, labels = [], []
        for value in ticks(self.bottom, self.top):
            x, y = self.place((self.left, value)).split()
            grid.append(f"M{x} {y}H{self.width - _RIGHT}")
            labels.append(Markup('<text x="{}" y="{}" class="y">{}</text>').format(_LEFT - 7, float(y) + 4, short(value)))
        for value in ticks(self.left, self.right):
            x = self.place((value, self.bottom)).split()[0]
            labels.append(Markup('<text x="{}" y="{}">{}</text>').format(x, self.height - _BOTTOM + 18, short(value)))
        middle = (_LEFT + self.width - _RIGHT) / 2
        labels.append(Markup('<text x="{}" y="{}" class="axis">{}</text>').format(middle, self.height - 6, x_label))
        base = f"M{_LEFT} {self.height - _BOTTOM}H{self.width - _RIGHT}"
        lines = Markup('<path class="grid" d="{}"/><path class="base" d="{}"/>').format("".join(grid), base)
        return lines + Markup("").join(labels)


def _line(frame: _Frame, line: Series) -> Markup:
    points = thinned(line.points)
    parts = []
    if line.smooth and len(points) > 12:
        parts.append(_path(frame, points, f"s{line.style} faint"))
        points = running_mean(points, max(3, len(points) // 16))
    parts.append(_path(frame, points, f"s{line.style}"))
    if line.markers:
        parts += [_marker(frame, point, line) for point in points]
    return Markup("").join(parts)


def _band(frame: _Frame, line: Series) -> Markup:
    """Along the upper ends, and back along the lower ones."""
    edge = [(x, high) for x, _, high in line.band] + [(x, low) for x, low, _ in reversed(line.band)]
    return Markup('<path class="band s{}" d="M{}Z"/>').format(line.style, "L".join(map(frame.place, edge)))


def _path(frame: _Frame, points: Sequence[Point], style: str) -> Markup:
    return Markup('<path class="line {}" d="M{}"/>').format(style, "L".join(map(frame.place, points)))


def _marker(frame: _Frame, point: Point, line: Series) -> Markup:
    x, y = frame.place(point).split()
    told = f"{line.label}: {short(point[1])} at {short(point[0])}"
    return Markup('<circle class="dot s{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(line.style, x, y, told)
