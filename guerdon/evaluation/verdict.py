"""What may be concluded from an evaluation of reinforcement, in plain sentences.

A policy that was trained further can score better for reasons that have nothing to do with what the reward said: more
updates, sharper distributions, other lengths (Choshen et al. 2020, https://arxiv.org/abs/1907.01752, saw a constant reward give the gain of
a real one). Hence the rule: a difference to the fine-tuned policy counts as a gain of the reward only where its paired 95%
interval excludes zero in the good direction, and no control run shows the same. A control shows the same where its own
interval excludes zero in that direction and the reinforced policy is not measurably better than the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from guerdon.evaluation.results import (
    CONTROLS,
    FINETUNED,
    REINFORCED,
    SEARCHES,
    ComparisonResult,
    Evaluation,
    MeasureInfo,
    SystemResult,
)
from guerdon.evaluation.wording import between, decimals, listed, number, signed

Outcome = Literal["gain", "no gain", "loss", "no change", "changed"]


@dataclass(frozen=True)
class Finding:
    """What is said of one measure.

    Attributes:
        measure: its name.
        optimised: whether it was in the reward.
        outcome: "gain"; "no gain" where a control shows it too; "loss"; "no change" that could be measured; "changed" for
            a measure without a good direction.
        sentence: the whole of it, with figures.
    """

    measure: str
    optimised: bool
    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """What may be concluded.

    Attributes:
        headline: in one or two sentences.
        findings: one per measure, in the order of the evaluation.
        notes: on the searches it has to be compared with, and on what this evaluation cannot tell.
    """

    headline: str
    findings: list[Finding]
    notes: list[str]


def judge(evaluation: Evaluation) -> Verdict | None:
    """The verdict on the reinforced policy; None where there is no reinforced and fine-tuned system to compare."""
    reinforced, finetuned = evaluation.system(REINFORCED), evaluation.system(FINETUNED)
    if reinforced is None or finetuned is None:
        return None
    findings = []
    for measure in evaluation.measures:
        comparison = evaluation.comparison(REINFORCED, FINETUNED, measure.name)
        if comparison is not None:
            findings.append(_finding(evaluation, measure, comparison))
    notes = [note for search in SEARCHES if (note := _search(evaluation, search))]
    return Verdict(_headline(evaluation, findings), findings, [*notes, *_limits(evaluation, findings)])


def _finding(evaluation: Evaluation, measure: MeasureInfo, comparison: ComparisonResult) -> Finding:
    direction = comparison.sign
    change = _change(evaluation, measure, comparison)
    if direction == 0:
        return Finding(measure.name, measure.optimised, "no change", f"{change}: no change that this test set can show.")
    if measure.higher_is_better is None:
        return Finding(measure.name, measure.optimised, "changed", f"{change}.{_in_controls(evaluation, measure, direction)}")
    if (direction > 0) != measure.higher_is_better:
        return Finding(
            measure.name, measure.optimised, "loss", f"{change}: worse.{_in_controls(evaluation, measure, direction)}"
        )
    explained = [name for name in CONTROLS if _explains(evaluation, measure.name, name, direction)]
    outcome: Outcome = "no gain" if explained else "gain"
    return Finding(measure.name, measure.optimised, outcome, f"{change}.{_weighed(evaluation, measure, direction, explained)}")


def _change(evaluation: Evaluation, measure: MeasureInfo, comparison: ComparisonResult) -> str:
    """ "BLEU (held out) rose by 1.2 [+0.7, +1.7], from 66.5 to 67.7"."""
    places = decimals((comparison.high - comparison.low) / 2)
    kind = "" if measure.higher_is_better is None else " (optimised)" if measure.optimised else " (held out)"
    before, after = _value(evaluation, FINETUNED, measure.name), _value(evaluation, REINFORCED, measure.name)
    interval = between(comparison.low, comparison.high, places)
    values = f"from {number(before, places)} to {number(after, places)}"
    if comparison.sign == 0:
        return f"{_capital(measure.label)}{kind} went {values}, by {signed(comparison.difference, places)} {interval}"
    verb = "rose" if comparison.sign > 0 else "fell"
    return f"{_capital(measure.label)}{kind} {verb} by {number(abs(comparison.difference), places)} {interval}, {values}"


def _weighed(evaluation: Evaluation, measure: MeasureInfo, direction: int, explained: Sequence[str]) -> str:
    """What the controls say of a change in the good direction."""
    run = [name for name in CONTROLS if evaluation.comparison(name, FINETUNED, measure.name)]
    if not run:
        return " No control was run, so that this may owe nothing to what the reward said."
    if explained:
        shown = listed(f"{_control(name)} {_own(evaluation, measure, name)}" for name in explained)
        beyond = listed(f"{_beyond(evaluation, measure, name)} {_control(name)}" for name in explained)
        return f" A control shows it too ({shown}; the reinforced policy differs by {beyond}): not a gain that the reward made."
    partly = [name for name in run if _sign(evaluation, name, FINETUNED, measure.name) == direction]
    if partly:
        shown = listed(f"{_control(name)} {_own(evaluation, measure, name)}" for name in partly)
        beyond = listed(f"{_beyond(evaluation, measure, name)} against {_control(name)}" for name in partly)
        return f" A control went the same way ({shown}), but the reinforced policy went further, by {beyond}."
    shown = listed(f"{_control(name)} {_own(evaluation, measure, name)}" for name in run)
    return f" {'Neither control shows' if len(run) == 2 else 'The control does not show'} it ({shown})."


def _in_controls(evaluation: Evaluation, measure: MeasureInfo, direction: int) -> str:
    """Which controls moved the same way, for a change that is no gain."""
    same = [name for name in CONTROLS if _sign(evaluation, name, FINETUNED, measure.name) == direction]
    if not same:
        return ""
    return f" So did {listed(f'{_control(name)} ({_own(evaluation, measure, name)})' for name in same)}."


def _explains(evaluation: Evaluation, measure: str, control: str, direction: int) -> bool:
    moved = _sign(evaluation, control, FINETUNED, measure) == direction
    return moved and _sign(evaluation, REINFORCED, control, measure) != direction


def _sign(evaluation: Evaluation, system: str, baseline: str, measure: str) -> int | None:
    comparison = evaluation.comparison(system, baseline, measure)
    return None if comparison is None else comparison.sign


def _own(evaluation: Evaluation, measure: MeasureInfo, system: str) -> str:
    """The difference of a system to the fine-tuned one, with its interval."""
    return _difference(evaluation.comparison(system, FINETUNED, measure.name))


def _beyond(evaluation: Evaluation, measure: MeasureInfo, control: str) -> str:
    """The difference of the reinforced system to a control, with its interval."""
    return _difference(evaluation.comparison(REINFORCED, control, measure.name))


def _difference(comparison: ComparisonResult | None) -> str:
    if comparison is None:
        return "an unknown amount"
    places = decimals((comparison.high - comparison.low) / 2)
    return f"{signed(comparison.difference, places)} {between(comparison.low, comparison.high, places)}"


def _control(name: str) -> str:
    return {"shuffled": "with shuffled rewards", "constant": "with a constant reward"}[name]


def _value(evaluation: Evaluation, system: str, measure: str) -> float:
    found = evaluation.system(system)
    return found.metrics[measure].value if found else 0.0


def _capital(label: str) -> str:
    return label[:1].upper() + label[1:]


def _headline(evaluation: Evaluation, findings: Sequence[Finding]) -> str:
    def labels(outcome: Outcome, optimised: bool) -> list[str]:
        names = [f.measure for f in findings if f.outcome == outcome and f.optimised is optimised]
        return [measure.label for measure in evaluation.measures if measure.name in names]

    rose, also = labels("gain", True), labels("gain", False)
    explained = labels("no gain", True) + labels("no gain", False)
    worse = labels("loss", False) + labels("loss", True)
    sentences = []
    if rose:
        sentences.append(f"Reinforcement improved what it was optimised for ({listed(rose)})")
        if also:
            sentences[0] += f" and, held out from the reward, {listed(also)}"
    elif also:
        sentences.append(f"Reinforcement improved {listed(also)}, which were not in the reward, but not the reward itself")
    else:
        sentences.append("Reinforcement made no gain that can be told from chance and from the controls")
    if explained:
        sentences.append(f"what {listed(explained)} gained, a control gained too")
    if worse:
        sentences.append(f"it made {listed(worse)} worse")
    elif rose and not also and not explained:
        sentences.append("no held-out measure got measurably better or worse")
    return f"{'; '.join(sentences)}."


def _search(evaluation: Evaluation, name: str) -> str:
    """How a search of the fine-tuned policy compares, on the first measure that was optimised."""
    search, reinforced = evaluation.system(name), evaluation.system(REINFORCED)
    measures = [measure for measure in evaluation.measures if measure.higher_is_better is not None]
    if search is None or reinforced is None or not measures:
        return ""
    shown = [m for m in measures if m.optimised][:1] + [m for m in measures if not m.optimised][:1]
    parts = [part for measure in shown if (part := _against_search(evaluation, measure, search))]
    times = search.generated / max(1, reinforced.generated)
    cost = f", which generates {number(times, 0)} times as many outputs," if times >= 1.5 else ""
    return f"Against {search.label}{cost} the reinforced policy stands at {listed(parts)}." if parts else ""


def _against_search(evaluation: Evaluation, measure: MeasureInfo, search: SystemResult) -> str:
    comparison = evaluation.comparison(REINFORCED, search.name, measure.name)
    if comparison is None:
        return ""
    better = comparison.sign if measure.higher_is_better else -comparison.sign
    word = {1: "better", 0: "no measurable difference", -1: "worse"}[better]
    return f"{_difference(comparison)} {measure.label} ({word})"


def _limits(evaluation: Evaluation, findings: Sequence[Finding]) -> list[str]:
    judged = sum(finding.outcome != "changed" for finding in findings)
    notes = [
        f"Intervals are 95%, from {evaluation.resamples} paired resamples of {evaluation.sources} sources (diversity: jackknife). "
        "They say what other sources would have given, not what other training seeds would.",
    ]
    if judged > 1:
        notes.append(f"With {judged} measures at 95% each, about {judged * 0.05:.1g} would show a difference by chance alone.")
    missing = [control for control in CONTROLS if evaluation.system(control) is None]
    if missing:
        notes.append(f"Not run: the control {listed(_control(name) for name in missing)}.")
    return notes
