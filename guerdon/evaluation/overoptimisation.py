"""Over-optimisation: what becomes of judges that nothing optimises as a reward, the proxy, is optimised ever harder.

Two ways to optimise are measured over the KL that they pay (Gao, Schulman and Hilton 2023, "Scaling laws for reward model
overoptimization"): best-of-n, and the validations of a reinforcement run. Where a judge has its maximum is the best place to
stop. Intervals are 95% bootstrap intervals over sources.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from guerdon.data.draws import generator
from guerdon.data.files import write_atomically
from guerdon.errors import ConfigurationError, InputError
from guerdon.evaluation.best_of_n import expected_best, kl_of_best_of_n, powers_of_two
from guerdon.metrics.base import FloatArray
from guerdon.metrics.significance import Interval, check_resamples

OVEROPTIMISATION = "overoptimisation.json"
PROXY = "proxy"


@dataclass(frozen=True)
class OveroptimisationOptions:
    """How over-optimisation is measured.

    Attributes:
        most: the largest n; there are at most so many samples of each source.
        resamples, seed: of the intervals.

    Raises:
        ConfigurationError: for an n below 2, or fewer than 100 resamples.
    """

    most: int = 256
    resamples: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        if self.most < 2:
            raise ConfigurationError(f"best of {self.most} is no choice", where="most", cure="give at least 2")
        check_resamples(self.resamples, "resamples")


@dataclass(frozen=True)
class SampledSource:
    """The samples of one source, judged.

    Attributes:
        proxy: what is optimised, [N].
        judges: by name, each [N].
    """

    proxy: FloatArray
    judges: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Difference:
    """A difference of means on the same sources, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One strength of optimisation.

    Attributes:
        at: n, or the step.
        kl: to the policy that is optimised, in nats; of best-of-n an upper bound.
        values: mean of the proxy and of each judge.
        gains: of the same over the first point, paired over sources.
    """

    at: int
    kl: float
    values: Mapping[str, Interval]
    gains: Mapping[str, Difference]


@dataclass(frozen=True)
class Stop:
    """Where a judge is best. It is picked after looking, which flatters the gain a little.

    Attributes:
        at: n, or the step.
        kl: there.
        low, high: between these n or steps the maximum lies in 95% of resamples.
        gain: over the first point.
        lost: at the last point, against the best one.
    """

    at: int
    kl: float
    low: int
    high: int
    gain: Difference
    lost: Difference

    @property
    def overoptimised(self) -> bool:
        """Whether going on to the end costs more than chance explains."""
        return self.lost.low > 0


@dataclass(frozen=True)
class Course:
    """One way of optimising, from none to as much as was measured.

    Attributes:
        name: "best of n", or the run's.
        unit: "n" or "step".
        sources: judged.
        points: in order.
        stops: by judge.
    """

    name: str
    unit: str
    sources: int
    points: Sequence[Point]
    stops: Mapping[str, Stop]


@dataclass(frozen=True)
class Overoptimisation:
    """All that was found.

    Attributes:
        proxy: the reward that is optimised, by name.
        judges: labels by name.
        data: the samples, in words.
        samples: of each source, at least.
        left_out: sources to which a judge or the proxy does not apply.
        spread: standard deviation of the proxy and each judge over the samples: the unit of the drawn curves.
        courses: best-of-n, and a run where one was given.
        options: how it was done.
    """

    proxy: str
    judges: Sequence[str]
    data: str
    samples: int
    left_out: int
    spread: Mapping[str, float]
    courses: Sequence[Course]
    options: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For machines; each stop with its verdict."""
        values = asdict(self)
        for course, own in zip(values["courses"], self.courses, strict=True):
            for name, stop in course["stops"].items():
                stop["overoptimised"] = own.stops[name].overoptimised
        return values

    def write(self, folder: Path) -> Path:
        """Writes ``overoptimisation.json`` and returns its path; raises as `guerdon.data.files.write_atomically`."""
        path = folder / OVEROPTIMISATION
        write_atomically(path, [json.dumps(self.plain(), ensure_ascii=False, allow_nan=False, indent=1).encode(), b"\n"])
        return path


def best_of_n_course(sources: Sequence[SampledSource], options: OveroptimisationOptions) -> Course:
    """Best-of-n by the proxy for n = 1, 2, 4, …, up to the fewest samples of a source.

    Raises:
        InputError: for fewer than two sources, or a source with fewer than two samples.
    """
    most = min([options.most, *(len(source.proxy) for source in sources)])
    if len(sources) < 2 or most < 2:
        raise InputError(
            f"{len(sources)} sources with {most} samples or more give no curve",
            where="over-optimisation",
            cure="give at least two sources with two samples each; guerdon generate --method sample --returned 256",
        )
    ns = powers_of_two(most)
    names = [PROXY, *sources[0].judges]
    values = np.stack([expected_best(s.proxy, np.stack([s.proxy, *s.judges.values()], axis=1), ns) for s in sources])
    return course("best of n", "n", ns, [kl_of_best_of_n(n) for n in ns], names, values, options)


def course(
    name: str,
    unit: str,
    at: Sequence[int],
    kls: Sequence[float],
    names: Sequence[str],
    values: FloatArray,
    options: OveroptimisationOptions,
    fixed: Mapping[str, Sequence[float]] | None = None,
) -> Course:
    """A course from the value of every source at every point.

    Args:
        name, unit: see `Course`.
        at: n or step of each point.
        kls: of each point.
        names: of the columns; all but ``PROXY`` are judges.
        values: [sources, points, columns].
        options: of the intervals.
        fixed: columns known as means alone, [points] each: they have no interval.
    """
    n = len(values)
    draws = generator(options.seed, "bootstrap", n).integers(n, size=(options.resamples, n))
    times = np.stack([np.bincount(row, minlength=n) for row in draws]) / n
    means, resampled = values.mean(0), np.einsum("rs,spc->rpc", times, values)
    known = {column: (means[:, c], resampled[:, :, c]) for c, column in enumerate(names)}
    for column, given in (fixed or {}).items():
        known[column] = np.array(given), np.array(given)[None]
    points = [_point(place, where, kl, known) for place, (where, kl) in enumerate(zip(at, kls, strict=True))]
    stops = {column: _stop(at, kls, means[:, c], resampled[:, :, c]) for c, column in enumerate(names) if column != PROXY}
    return Course(name, unit, n, points, stops)


def root_kl(point: Point) -> float:
    """√KL, along which Gao et al. draw: distances grow with it."""
    return math.sqrt(max(point.kl, 0.0))


def _point(place: int, at: int, kl: float, known: Mapping[str, tuple[FloatArray, FloatArray]]) -> Point:
    """From the means [points] and resampled means [resamples, points] of each column."""
    values = {name: _interval(means[place], resampled[:, place]) for name, (means, resampled) in known.items()}
    gains = {
        name: _difference(means[place] - means[0], resampled[:, place] - resampled[:, 0])
        for name, (means, resampled) in known.items()
    }
    return Point(at, kl, values, gains)


def _interval(value: float, resampled: FloatArray) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _stop(at: Sequence[int], kls: Sequence[float], means: FloatArray, resampled: FloatArray) -> Stop:
    """The maximum of the means [points], and where those of resamples [resamples, points] lie; the earliest of equal ones."""
    best = int(means.argmax())
    low, high = np.percentile(resampled.argmax(1), [2.5, 97.5], method="closest_observation").astype(int)
    return Stop(
        at[best],
        kls[best],
        at[low],
        at[high],
        _difference(means[best] - means[0], resampled[:, best] - resampled[:, 0]),
        _difference(means[best] - means[-1], resampled[:, best] - resampled[:, -1]),
    )


def _difference(value: float, resampled: FloatArray) -> Difference:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Difference(float(value), float(low), float(high))
