"""How a time grows with what it depends on: exponents with intervals, and straight lines.

Axes: r passes over all points, p points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Exponent:
    """k of time = c · x^k, with its 95% interval; c such that the curve goes through the points' middle."""

    value: float
    low: float
    high: float
    factor: float


@dataclass(frozen=True)
class Line:
    """time = fixed + each · x.

    Attributes:
        r2: the share of the times' variance that the line explains.
        off: the largest distance of a point from the line, as a share of its time: on points that double from one to the next
            r2 is near 1 for many a curve.
    """

    fixed: float
    each: float
    r2: float
    off: float


def exponent(x: Array, times: Array) -> Exponent:
    """The exponent of each pass by least squares in logarithms, and Student's interval of their mean.

    A pass visits every point, so that what slows a whole pass moves no exponent. The interval holds for three passes already,
    where that of a bootstrap over passes contains the truth three times in four.

    Args:
        x: [p], above 0, at least two different ones.
        times: [r, p], seconds; at least two passes.
    """
    slopes, factor = _slopes(np.log(x), np.log(times))
    half = stats.t.ppf(0.975, len(slopes) - 1) * slopes.std(ddof=1) / len(slopes) ** 0.5
    value = float(slopes.mean())
    return Exponent(value, value - float(half), value + float(half), factor)


def last_octave(x: Array, times: Array) -> Exponent:
    """The exponent between the largest x and the nearest that is at most half of it (else the one before): where constants,
    which flatten the whole range, weigh least."""
    order = np.argsort(x)
    halves = [at for at in order if x[at] <= x[order[-1]] / 2]
    two = [halves[-1] if halves else order[-2], order[-1]]
    return exponent(x[two], times[:, two])


def line(x: Array, seconds: Array) -> Line:
    """The straight line whose distances, as shares of the times, have the least sum of squares: noise is a share of a time.

    Args:
        x: [p], at least two different ones.
        seconds: [p], above 0, e.g. medians over passes.
    """
    each, fixed = np.polyfit(x, seconds, 1, w=1 / seconds)
    rest = seconds - fixed - each * x
    r2 = 1 - (rest**2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    return Line(float(fixed), float(each), float(r2), float(np.abs(rest / seconds).max()))


def _slopes(x: Array, y: Array) -> tuple[Array, float]:
    """The least-squares slope of each row of y [r, p], and e to the intercept of their mean."""
    centred = x - x.mean()
    slopes = y @ centred / (centred @ centred)
    return slopes, float(np.exp(y.mean() - slopes.mean() * x.mean()))
