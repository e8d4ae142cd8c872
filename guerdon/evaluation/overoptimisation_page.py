"""``overoptimisation.html``: one page, in one file, on how far a reward can be optimised before its judges stop following."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from guerdon.evaluation.overoptimisation import PROXY, Course, Difference, Overoptimisation, Stop, root_kl
from guerdon.evaluation.pages import render_page, write_with_page
from guerdon.evaluation.plots import WIDE, Chart, Series, line_chart
from guerdon.evaluation.wording import between, short, signed
from guerdon.metrics.significance import Interval

PAGE = "overoptimisation.html"
_STYLES = (0, 1, 3, 4, 5, 6, 7)


def write_overoptimisation(found: Overoptimisation, folder: Path) -> Path:
    """Writes ``overoptimisation.json`` and ``overoptimisation.html`` into ``folder`` (made where it is missing).

    Returns:
        The page's path. The page holds its style itself and asks for nothing from elsewhere.

    Raises:
        InputError, GuerdonError: when they cannot be written (see `guerdon.data.files.write_atomically`).
    """
    return write_with_page(found, folder, PAGE, render(found))


def render(found: Overoptimisation) -> str:
    """The page as HTML. All texts are escaped."""
    return render_page(
        "overoptimisation.html",
        found=found,
        sentences=[sentence for course in found.courses for sentence in sentences(course)],
        courses=[(course, chart(course, found.spread), *points_table(course)) for course in found.courses],
        stops=[row for course in found.courses for row in stop_rows(course)],
    )


def sentences(course: Course) -> list[str]:
    """Where each judge is best, and whether going on costs it anything."""
    told = []
    for name, stop in course.stops.items():
        where = f"{course.unit} = {stop.at}" if course.unit == "n" else f"step {stop.at}"
        between = f"[{stop.low}, {stop.high}]"
        if stop.overoptimised:
            rest = f"going on to the end costs {difference_text(stop.lost)}: over-optimised."
        elif stop.at == course.points[-1].at:
            rest = "no over-optimisation as far as was measured."
        else:
            rest = f"what is lost by going on, {difference_text(stop.lost)}, is no more than chance explains."
        gained = "no gain" if stop.at == course.points[0].at else f"a gain of {difference_text(stop.gain)}"
        told.append(f"{course.name}: judge {name} is best at {where} {between}, {gained}; {rest}")
    return told


def points_table(course: Course) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a strength of optimisation a row, the proxy and each judge a column."""
    names = list(course.points[0].values)
    rows = [[str(point.at), f"{point.kl:.3f}", *(value_text(point.values[name]) for name in names)] for point in course.points]
    return [course.unit, "KL ≤" if course.unit == "n" else "KL", *names], rows


def stop_rows(course: Course) -> list[tuple[str, str, Stop, str, str]]:
    """Course, judge, its stop, gain and loss as text."""
    return [
        (course.name, name, stop, difference_text(stop.gain), difference_text(stop.lost)) for name, stop in course.stops.items()
    ]


def chart(course: Course, spread: Mapping[str, float]) -> Chart | None:
    """Gains over the first point, each in standard deviations over the samples, along √KL."""
    names: Sequence[str] = sorted(course.points[0].values, key=lambda name: name != PROXY)
    lines = []
    for name, style in zip(names, _STYLES * len(names), strict=False):
        unit = spread.get(name) or 1.0
        gains = sorted((root_kl(p), *(end / unit for end in _ends(p.gains[name]))) for p in course.points)
        band = [(x, low, high) for x, _, low, high in gains] if any(high > low for _, _, low, high in gains) else []
        lines.append(Series(name, [(x, value) for x, value, _, _ in gains], style, markers=True, band=band))
    return line_chart(f"Gain in standard deviations: {course.name}", lines, "√KL (nats)", size=WIDE)


def value_text(found: Interval) -> str:
    """A mean with its interval, where it has one."""
    return short(found.value) if found.low == found.high else f"{short(found.value)} [{short(found.low)}, {short(found.high)}]"


def difference_text(found: Difference) -> str:
    """A difference with its interval."""
    places = 1 if abs(found.value) >= 10 else 3
    return f"{signed(found.value, places)} {between(found.low, found.high, places)}"


def _ends(found: Difference) -> tuple[float, float, float]:
    return found.value, found.low, found.high
