"""Measures systems on the same sources, each with its interval, and compares them in pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from guerdon.errors import InputError
from guerdon.evaluation.measures import (
    Measured,
    References,
    Resampled,
    SystemOutputs,
    default_metrics,
    finished_measure,
    number_measures,
    reward_measures,
    text_measures,
)
from guerdon.evaluation.results import (
    FINETUNED,
    REINFORCED,
    ComparisonResult,
    Evaluation,
    MeasureInfo,
    SystemResult,
)
from guerdon.metrics.base import MeanMetric, Metric
from guerdon.metrics.diversity import Diversity


def evaluate_outputs(
    systems: Sequence[SystemOutputs],
    references: References | None,
    metrics: Sequence[Metric | Diversity] | None = None,
    numbers: Sequence[MeanMetric] = (),
    optimised: Collection[str] = (),
    data: str = "",
    resamples: int = 1000,
    seed: int = 0,
    runs: int = 1,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Evaluation:
    """Measures every system and compares them.

    The baseline is the system named "finetuned", or else the first. All others are compared with it; the system named
    "reinforced" is compared with all others as well.

    Args:
        systems: what each wrote, for the same sources in the same order.
        references: the gold texts of each source; None where there are none, which leaves out the metrics that read them.
        metrics: of texts; `default_metrics` where left out.
        numbers: further numbers that every system brings along in `SystemOutputs.numbers`.
        optimised: names of metrics that the reward contains; the reward and its parts are marked without being named.
        data: what was measured on, in words.
        resamples: of each bootstrap interval.
        seed: of the resampling.
        runs: how many runs every system's outputs are of: those of its first run for all sources come first, then those of
            its second, ... (``references`` likewise). Sources are resampled, each with the outputs of all runs.
        pairs: (system, baseline) of each comparison, by name, where not those said above.

    Raises:
        InputError: when there are fewer than two sources (no interval), systems differ in length, name or in what their
            rewards apply to, a source lacks references that others have, or a measure cannot be taken over several runs.
    """
    _check(systems, references, runs)
    first = systems[0]
    measured: list[Measured] = []
    if first.judgement is not None:
        measured += reward_measures(first.judgement, resamples, seed)
    measured += number_measures(numbers, resamples, seed)
    measured += text_measures(default_metrics() if metrics is None else metrics, references, resamples, seed)
    if first.finished is not None:
        measured.append(finished_measure(resamples, seed))
    if runs > 1:
        measured = [_over(measure, runs) for measure in measured]
    baseline = next((system for system in systems if system.name == FINETUNED), first)
    named = {system.name: system for system in systems}
    compared = _pairs(systems, baseline) if pairs is None else [(named[a], named[b]) for a, b in pairs]
    return Evaluation(
        data=data,
        sources=len(first.outputs) // runs,
        resamples=resamples,
        seed=seed,
        baseline=baseline.name,
        measures=[_info(measure, optimised) for measure in measured],
        systems=[_result(system, measured) for system in systems],
        comparisons=[c for a, b in compared for c in _comparisons(a, b, measured)],
    )


def _check(systems: Sequence[SystemOutputs], references: References | None, runs: int) -> None:
    if not systems:
        raise InputError("there is no system to evaluate")
    first = systems[0]
    if len(first.outputs) < 2 * runs:
        raise InputError(f"{len(first.outputs)} sources give no interval", where="evaluation", cure="evaluate on more sources")
    if len(first.outputs) % runs:
        raise InputError(f"{len(first.outputs)} outputs are not those of {runs} runs", where=f"system {first.name!r}")
    if references is not None and len(references) != len(first.outputs):
        raise InputError(f"{len(first.outputs)} outputs but {len(references)} lists of references", where="evaluation")
    for system in systems:
        where = f"system {system.name!r}"
        if [other.name for other in systems].count(system.name) > 1:
            raise InputError("there are two systems of this name", where=where, cure="give each a name of its own")
        if len(system.outputs) != len(first.outputs):
            raise InputError(f"{len(system.outputs)} outputs, where {first.name!r} has {len(first.outputs)}", where=where)
        if (system.judgement is None) != (first.judgement is None) or (system.finished is None) != (first.finished is None):
            raise InputError(f"brings other figures along than {first.name!r}", where=where, cure="judge all systems alike")
        _check_parts(system, first)


def _check_parts(system: SystemOutputs, first: SystemOutputs) -> None:
    """The same parts on the same sources: else a difference would compare different things."""
    if system.judgement is None or first.judgement is None:
        return
    parts, expected = system.judgement.parts, first.judgement.parts
    same = parts.keys() == expected.keys() and all(torch.equal(parts[n].applies, expected[n].applies) for n in parts)
    if not same:
        raise InputError(
            f"its reward parts do not apply to the same sources as those of {first.name!r}",
            where=f"system {system.name!r}",
            cure="let sources and references alone decide whether a reward applies",
        )


def _info(measure: Measured, optimised: Collection[str]) -> MeasureInfo:
    about = measure.about
    in_reward = about.name in optimised or about.name == "reward" or about.name.startswith("reward/")
    return MeasureInfo(about.name, about.label, about.higher_is_better, in_reward)


def _over(measure: Measured, runs: int) -> Resampled:
    """The measure over several runs; one of all outputs together would count what runs share twice."""
    if not isinstance(measure, Resampled):
        raise InputError("cannot be taken over several runs", where=f"measure {measure.about.name!r}", cure="leave it out")
    return measure.over(runs)


def _result(system: SystemOutputs, measured: Sequence[Measured]) -> SystemResult:
    return SystemResult(
        name=system.name,
        label=system.label,
        outputs=f"outputs/{system.name}.jsonl",
        decoding=system.decoding,
        generated=len(system.outputs) if system.generated is None else system.generated,
        metrics={measure.about.name: measure.interval(system) for measure in measured},
        runs={m.about.name: m.of_runs(system) for m in measured if isinstance(m, Resampled) and m.runs > 1},
    )


def _pairs(systems: Sequence[SystemOutputs], baseline: SystemOutputs) -> list[tuple[SystemOutputs, SystemOutputs]]:
    pairs = [(system, baseline) for system in systems if system is not baseline]
    for system in systems:
        if system.name == REINFORCED:
            pairs += [(system, other) for other in systems if other is not baseline and other is not system]
    return pairs


def _comparisons(a: SystemOutputs, b: SystemOutputs, measured: Sequence[Measured]) -> list[ComparisonResult]:
    found = [(measure.about.name, measure.compare(a, b)) for measure in measured]
    return [ComparisonResult(a.name, b.name, name, c.difference, c.low, c.high, c.p) for name, c in found]
