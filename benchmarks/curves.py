"""A picture of curves over a common axis, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import escape

from guerdon.evaluation.plots import ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 64, 150, 24, 52
COLOURS = ("#2a6f97", "#b5541c", "#4d7c0f", "#6b4e9b")
Curve = Sequence[tuple[float, float]]


def picture(curves: Mapping[str, Curve], across: str, up: str) -> str:
    """An SVG with one line for each curve, named at its end; ``across`` and ``up`` are what the axes say."""
    xs, ys = ([point[axis] for curve in curves.values() for point in curve] for axis in (0, 1))
    x_ticks, y_ticks = ticks(0.0, max(xs)), ticks(min(0.0, *ys), max(ys))
    x_high, y_low, y_high = max(max(xs), x_ticks[-1]), min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1])

    def x_at(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / x_high

    def y_at(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - y_low) / (y_high - y_low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13">'
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for tick in y_ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(tick):.1f}" y2="{y_at(tick):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y_at(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{x_at(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{escape(up)}</text>')
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        line = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = curve[-1]
        parts.append(f'<text x="{x_at(x) + 8:.1f}" y="{y_at(y) + 4:.1f}" fill="{colour}">{escape(name)} {y:.1f}</text>')
    return "\n".join([*parts, "</svg>\n"])
