"""The tables of a comparison's page: plain rows, ready to be printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from guerdon.evaluation.comparison import ComparedCell, Comparison
from guerdon.evaluation.results import FINETUNED, SEARCHES, MeasureInfo
from guerdon.evaluation.seeds import Spread, t_interval
from guerdon.evaluation.wording import decimals_for, duration, number, short

_NONE = "\N{EN DASH}"


class Figure(NamedTuple):
    """A mean over seeds with half its interval, a mark ("▲", "▽", ...), and its colour ("better", "worse", "other" or "")."""

    figure: str
    interval: str = ""
    mark: str = ""
    kind: str = ""


class SystemRow(NamedTuple):
    """One system of the table: which kind it is, its label, a figure for each measure, KL, seconds a step, samples drawn."""

    kind: str
    label: str
    figures: Sequence[Figure]


class ReachingRow(NamedTuple):
    """When one cell first validated at the target: in how many runs, and the mean and range over these."""

    label: str
    reached: str
    steps: str
    drawn: str
    time: str


class NoiseRow(NamedTuple):
    """One cell's gradient on the start policy."""

    label: str
    drawn: str
    covariance: str
    signal: str
    ratio: str
    at_equal_samples: str
    cosine: str


def system_rows(comparison: Comparison) -> list[SystemRow]:
    """The start policy, the cells, the controls, and best-of-n."""
    cells = [SystemRow("cell", cell.label, [*_measured(comparison, cell.name), *_logged(cell)]) for cell in comparison.cells]
    controls = [
        SystemRow("control", cell.label, [*_measured(comparison, cell.name), *_logged(cell)]) for cell in comparison.controls
    ]
    start = SystemRow("start", "start policy", [*_measured(comparison, FINETUNED), *[Figure("")] * 3])
    searches = []
    for system in comparison.evaluation.systems:
        if system.name in SEARCHES:
            drawn = number(system.generated / len(comparison.seeds), 0)
            figures = [*_measured(comparison, system.name), Figure(""), Figure(""), Figure(drawn)]
            searches.append(SystemRow("search", system.label, figures))
    return [start, *cells, *controls, *searches]


def _measured(comparison: Comparison, system: str) -> list[Figure]:
    return [_figure(comparison, system, measure) for measure in comparison.evaluation.measures]


def _figure(comparison: Comparison, system: str, measure: MeasureInfo) -> Figure:
    found = [one.metrics[measure.name] for one in comparison.evaluation.systems]
    places = decimals_for((one.low, one.high) for one in found)
    spread = comparison.spread(system, measure.name)
    if system == FINETUNED:
        return Figure(number(spread.mean, places))
    return Figure(number(spread.mean, places), _interval(spread, places), *_mark(comparison, system, measure))


def _mark(comparison: Comparison, system: str, measure: MeasureInfo) -> tuple[str, str]:
    """How a system differs from the start policy, by the paired difference; hollow where a control differs so too."""
    difference = comparison.evaluation.comparison(system, FINETUNED, measure.name)
    if difference is None or difference.sign == 0:
        return "", ""
    up = difference.sign > 0
    if comparison.outcome(system, measure.name) == "no gain":
        return "△" if up else "▽", ""
    if measure.higher_is_better is None:
        return "▲" if up else "▼", "other"
    return "▲" if up else "▼", "better" if up == measure.higher_is_better else "worse"


def _logged(cell: ComparedCell) -> list[Figure]:
    """KL, seconds a step, samples drawn."""
    samples = cell.samples()
    span = "" if min(samples) == max(samples) else f"{number(min(samples), 0)} to {number(max(samples), 0)}"
    return [_of(cell.final("kl")), _of(cell.seconds_per_step()), Figure(number(sum(samples) / len(samples), 0), span)]


def _of(values: Sequence[float]) -> Figure:
    """Figures of a log over seeds; nothing where one run has none."""
    if not values:
        return Figure(_NONE)
    spread = t_interval(values)
    if spread.low is None or spread.high is None or spread.low == spread.high:
        return Figure(short(spread.mean))
    places = decimals_for([(spread.low, spread.high)])
    return Figure(number(spread.mean, places), _interval(spread, places))


def _interval(spread: Spread, places: int) -> str:
    """Student's interval is as far to one side as to the other."""
    return "" if spread.high is None else f"± {number(spread.high - spread.mean, places)}"


def reaching_rows(comparison: Comparison, target: float) -> list[ReachingRow]:
    """When each cell first validated at ``target``."""
    rows = []
    for cell in comparison.cells:
        found = [one for one in cell.reaching(target) if one is not None]
        count = f"{len(found)} of {len(cell.runs)}"
        if not found:
            rows.append(ReachingRow(cell.label, count, _NONE, _NONE, _NONE))
            continue
        steps, seconds = [float(step) for step, _ in found], [seconds for _, seconds in found]
        drawn = [step * cell.samples_per_step for step in steps]
        time = duration(sum(seconds) / len(seconds)) + (
            f" ({duration(min(seconds))} to {duration(max(seconds))})" if len(seconds) > 1 else ""
        )
        rows.append(ReachingRow(cell.label, count, _ranged(steps), _ranged(drawn), time))
    return rows


def _ranged(values: Sequence[float]) -> str:
    mean = number(sum(values) / len(values), 0)
    return mean if min(values) == max(values) else f"{mean} ({number(min(values), 0)} to {number(max(values), 0)})"


def noise_rows(comparison: Comparison) -> list[NoiseRow]:
    """The gradient of each cell that was measured."""
    measured = [(cell, cell.noise) for cell in comparison.cells if cell.noise is not None]
    rows = []
    for cell, noise in measured:
        own, equal = noise.ratio(noise.samples), noise.ratio(measured[0][1].samples)
        rows.append(
            NoiseRow(
                cell.label,
                number(noise.samples, 0),
                short(noise.covariance),
                short(noise.signal),
                "no signal" if own is None else short(own),
                "no signal" if equal is None else short(equal),
                number(noise.cosine, 2),
            )
        )
    return rows
