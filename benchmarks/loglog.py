"""A picture of what `scaling.py` measured: a panel for each sweep, both axes logarithmic, the exponents under it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 560, 430  # of a panel, in the picture's own units
LEFT, RIGHT, TOP, BOTTOM = 82, 24, 34, 160  # from the panel's edges to the axes
SHIFTS = {"rollout": 0, "update": -3, "training": 3}  # beside each other, where two works take equally long
COLOURS = {"rollout": "#2a6f97", "update": "#b5541c", "training": "#4d7c0f"}
COLUMNS = 2
LABEL = 46  # between two labels of an axis, at the least


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis: where a number comes to lie."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        return self.first + (self.last - self.first) * math.log(value / self.low) / math.log(self.high / self.low)


def picture(found: Sequence[dict[str, Any]]) -> str:
    """An SVG of all sweeps (`scaling.record`), each with its exponents."""
    rows = -(-len(found) // COLUMNS)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * WIDTH}" height="{rows * HEIGHT}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>'
    )
    panels = [
        f'<g transform="translate({number % COLUMNS * WIDTH} {number // COLUMNS * HEIGHT})">{"".join(_panel(sweep))}</g>'
        for number, sweep in enumerate(found)
    ]
    return "\n".join([head, *panels, "</svg>"])


def marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two bounds."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for power in powers for value in (1 * 10.0**power, 2 * 10.0**power, 5 * 10.0**power) if low <= value <= high]


def number(value: float) -> str:
    """With k and M for thousands and millions, three figures."""
    for least, letter in ((1e6, "M"), (1e3, "k")):
        if value >= least:
            return f"{value / least:.3g}{letter}"
    return f"{value:.3g}"


def _panel(sweep: dict[str, Any]) -> Iterator[str]:
    points, fits = sweep["points"], sweep["fits"]
    xs = [point["x"] for point in points]
    times = [one[end] for point in points for one in point["works"].values() for end in ("least", "most")]
    across = Axis(min(xs) / 1.15, max(xs) * 1.15, LEFT, WIDTH - RIGHT)
    up = Axis(min(times) / 1.3, max(times) * 1.3, HEIGHT - BOTTOM, TOP)
    yield Markup('<text x="{}" y="20" font-weight="bold">{}</text>').format(LEFT, sweep["title"])
    yield from _axes(across, up, sweep["unit"], [point["x"] for point in points if "apart" not in point])
    for work in fits:
        yield from _curve(points, work, fits[work]["exponent"], across, up)
    yield from _words(fits, points)


def _axes(across: Axis, up: Axis, unit: str, xs: Sequence[float]) -> Iterator[str]:
    base = HEIGHT - BOTTOM
    for value in marks(up.low, up.high):
        y = up.at(value)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e2e6ea"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{value:.3g}</text>'
    labelled = -math.inf
    for x in sorted(xs):
        at = across.at(x)
        yield f'<path d="M{at:.1f} {base}v5" stroke="#555"/>'
        if at - labelled >= LABEL:
            labelled = at
            yield f'<text x="{at:.1f}" y="{base + 19}" text-anchor="middle" fill="#555">{number(x)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<path d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}" fill="none" stroke="#555"/>'
    yield Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, base + 39, unit)
    yield f'<text transform="translate(18 {(TOP + base) / 2}) rotate(-90)" text-anchor="middle">seconds a step</text>'


def _curve(points: Sequence[dict[str, Any]], work: str, fit: dict[str, float], across: Axis, up: Axis) -> Iterator[str]:
    """The medians with whiskers from least to most; the fitted power as a line through those that it was fitted to."""
    colour = COLOURS[work]
    fitted = [point["x"] for point in points if "apart" not in point]
    ends = [(x, fit["factor"] * x ** fit["value"]) for x in (min(fitted), max(fitted))]
    path = "L".join(f"{across.at(x):.1f} {up.at(y):.1f}" for x, y in ends)
    yield f'<path d="M{path}" stroke="{colour}" stroke-width="1.5" fill="none" stroke-dasharray="6 4"/>'
    for point in points:
        one = point["works"][work]
        x, low, middle, high = across.at(point["x"]) + SHIFTS[work], *(up.at(one[end]) for end in ("least", "seconds", "most"))
        fill = "#fff" if "apart" in point else colour
        yield f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-width="1.5"/>'
        yield f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'


def _words(fits: dict[str, Any], points: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table under the panel, which is its legend too."""
    y = HEIGHT - BOTTOM + 64
    columns = {LEFT: "exponent (95% interval)", LEFT + 160: "last octave", LEFT + 250: "nearest line", LEFT + 416: "R²"}
    for x, title in columns.items():
        yield f'<text x="{x}" y="{y}" fill="#555" font-size="12">{title}</text>'
    for row, (work, fit) in enumerate(fits.items(), 1):
        whole, straight = fit["exponent"], fit["line"]
        cells = (
            f"{whole['value']:.2f} ({whole['low']:.2f} to {whole['high']:.2f})",
            f"{fit['last_octave']['value']:.2f}",
            f"{straight['fixed']:.2g} s + {straight['each']:.2g} s · x".replace("+ -", "− "),
            f"{straight['r2']:.3f}",
        )
        yield f'<circle cx="14" cy="{y + 20 * row - 4}" r="4" fill="{COLOURS[work]}"/>'
        for x, cell in zip((22, *columns), (work, *cells), strict=True):
            yield f'<text x="{x}" y="{y + 20 * row}" fill="{COLOURS[work] if x == 22 else "#222"}" font-size="12">{cell}</text>'
    for point in points:
        if "apart" in point:
            yield Markup('<text x="22" y="{}" fill="#555" font-size="12">hollow, not fitted: {}</text>').format(
                y + 20 * (len(fits) + 1), point["apart"]
            )
