"""What runs that differ in nothing but their seed can tell: the spread of a figure, and whether a difference exceeds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit  # type: ignore[import-untyped]

from guerdon.errors import InputError
from guerdon.metrics.significance import LEVEL

Curve = Sequence[tuple[float, float]]


class Spread(NamedTuple):
    """A mean over seeds with its 95% interval; both ends are None where one seed gives none."""

    mean: float
    low: float | None
    high: float | None


class Band(NamedTuple):
    """The curves of several seeds at one x: their mean, and the lowest and highest of them."""

    x: float
    mean: float
    low: float
    high: float


def t_interval(values: Sequence[float]) -> Spread:
    """mean ± t(n − 1) · s / √n, Student's interval for the mean over further seeds (s with n − 1 in its denominator).

    Raises:
        InputError: without a value, or for one that is not finite.
    """
    n, mean = len(values), _mean(values)
    if n == 1:
        return Spread(mean, None, None)
    half = _quantile(n - 1) * math.sqrt(_variance(values) / n)
    return Spread(mean, mean - half, mean + half)


def welch_interval(a: Sequence[float], b: Sequence[float]) -> Spread:
    """The difference of two means, a − b, with its 95% interval where the two spread differently (Welch 1947, Biometrika 34).

    Raises:
        InputError: as `t_interval`.
    """
    difference = _mean(a) - _mean(b)
    if len(a) < 2 or len(b) < 2:
        return Spread(difference, None, None)
    one, other = _variance(a) / len(a), _variance(b) / len(b)
    if one + other == 0:
        return Spread(difference, difference, difference)
    freedom = (one + other) ** 2 / (one**2 / (len(a) - 1) + other**2 / (len(b) - 1))
    half = _quantile(freedom) * math.sqrt(one + other)
    return Spread(difference, difference - half, difference + half)


def band(curves: Sequence[Curve]) -> list[Band]:
    """Mean, lowest and highest of several curves, at the x that all of them have: it ends where the first of them ends."""
    found: list[Mapping[float, float]] = [dict(curve) for curve in curves]
    shared = sorted(set(found[0]).intersection(*found[1:])) if found else []
    rows = [(x, [curve[x] for curve in found]) for x in shared]
    return [Band(x, math.fsum(values) / len(values), min(values), max(values)) for x, values in rows]


def first_reaching(curve: Curve, target: float) -> float | None:
    """The x of the first point at ``target`` or above; None where there is none."""
    return next((x for x, value in curve if value >= target), None)


def _mean(values: Sequence[float]) -> float:
    if not values or not all(map(math.isfinite, values)):
        raise InputError(f"{list(values)} have no mean", where="figures over seeds", cure="give finite numbers, at least one")
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + LEVEL) / 2))
