"""What may be concluded from an evaluation of reinforcement, in plain sentences.

A policy that was trained further can score better for reasons that have nothing to do with what the reward said: more
updates, sharper distributions, other lengths. Choshen et al. 2020 (https://arxiv.org/abs/1907.01752) saw a constant reward
give the gain of a real one. Hence the rule: a difference to the fine-tuned policy counts as a gain of the reward only where
its paired 95% interval excludes zero in the good direction, and no control run shows the same. A control shows the same
where its own interval excludes zero in that direction and the reinforced policy is not measurably better than the control.
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
from guerdon.evaluation.wording import between, decimals_between, listed, number, signed

_CONTROL_RUNS = {"shuffled": "with shuffled rewards", "constant": "with a constant reward"}

Outcome = Literal["gain", "no gain", "loss", "no change", "changed"]
Kind = Literal["optimised", "held out", "description"]


@dataclass(frozen=True)
class Finding:
    """What is said of one measure.

    Attributes:
        measure: its name.
        kind: "optimised" where it was in the reward, "held out" where not, "description" where no direction is good.
        outcome: "gain"; "no gain" where a control shows it too; "loss"; "no change" that could be measured; "changed" for
            a measure without a good direction.
        sentence: the whole of it, with figures.
    """

    measure: str
    kind: Kind
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


def verdict(evaluation: Evaluation) -> list[str]:
    """The verdict as sentences, one each for the headline, every finding and every note; none where `judge` has none."""
    judged = judge(evaluation)
    if judged is None:
        return []
    return [judged.headline, *(finding.sentence for finding in judged.findings), *judged.notes]


def _finding(evaluation: Evaluation, measure: MeasureInfo, comparison: ComparisonResult) -> Finding:
    outcome, sentence = _weighed(_Case(evaluation, measure, comparison))
    return Finding(measure.name, _kind(measure), outcome, sentence)


def _kind(measure: MeasureInfo) -> Kind:
    if measure.higher_is_better is None:
        return "description"
    return "optimised" if measure.optimised else "held out"


class _Case:
    """One measure of one evaluation: who moved it, and in what words."""

    def __init__(self, evaluation: Evaluation, measure: MeasureInfo, comparison: ComparisonResult) -> None:
        self.evaluation, self.measure, self.comparison = evaluation, measure, comparison
        self.places = decimals_between(comparison.low, comparison.high)

    def to_finetuned(self, system: str) -> ComparisonResult | None:
        """The difference of a system to the fine-tuned one."""
        return self.evaluation.comparison(system, FINETUNED, self.measure.name)

    def to_control(self, control: str) -> ComparisonResult | None:
        """The difference of the reinforced system to a control."""
        return self.evaluation.comparison(REINFORCED, control, self.measure.name)

    def moved_alike(self, control: str) -> bool:
        """Whether a control's own interval excludes zero on the side where the reinforced system's does."""
        own = self.to_finetuned(control)
        return own is not None and own.sign == self.comparison.sign

    def explained_by(self, control: str) -> bool:
        """Whether a control shows the same: it moved alike, and the reinforced system did not move measurably further."""
        beyond = self.to_control(control)
        return self.moved_alike(control) and (beyond is None or beyond.sign != self.comparison.sign)

    def own(self, controls: Sequence[str]) -> str:
        """ "with shuffled rewards +0.1 [−0.3, +0.5] and ..."."""
        return listed(f"{_CONTROL_RUNS[name]} {self._figures(self.to_finetuned(name))}" for name in controls)

    def beyond(self, controls: Sequence[str]) -> str:
        """ "+1.1 [+0.7, +1.5] from the run with shuffled rewards and ..."."""
        return listed(f"{self._figures(self.to_control(name))} from the run {_CONTROL_RUNS[name]}" for name in controls)

    def change(self) -> str:
        """ "BLEU (held out) rose by 1.2 [+0.7, +1.7], from 66.5 to 67.7"."""
        found, places = self.comparison, self.places
        before, after = (number(self._value(system), places) for system in (FINETUNED, REINFORCED))
        label = self.measure.label
        label = label[:1].upper() + label[1:] if label.islower() else label
        if self.measure.higher_is_better is not None:
            label += f" ({_kind(self.measure)})"
        interval = between(found.low, found.high, places)
        if found.sign == 0:
            return f"{label} went from {before} to {after}, by {signed(found.difference, places)} {interval}"
        verb = "rose" if found.sign > 0 else "fell"
        return f"{label} {verb} by {number(abs(found.difference), places)} {interval}, from {before} to {after}"

    def _figures(self, found: ComparisonResult | None) -> str:
        if found is None:
            return "an unknown amount"
        return f"{signed(found.difference, self.places)} {between(found.low, found.high, self.places)}"

    def _value(self, system: str) -> float:
        found = self.evaluation.system(system)
        assert found is not None, "only systems of the evaluation are compared"
        return found.metrics[self.measure.name].value


def _weighed(case: _Case) -> tuple[Outcome, str]:
    """The outcome, and the whole sentence."""
    better, direction = case.measure.higher_is_better, case.comparison.sign
    if direction == 0:
        return "no change", f"{case.change()}: no change that this test set can show."
    alike = [name for name in CONTROLS if case.moved_alike(name)]
    if better is None:
        return "changed", f"{case.change()}.{_so_did(case, alike)}"
    if (direction > 0) != better:
        return "loss", f"{case.change()}: worse.{_so_did(case, alike)}"
    explained = [name for name in CONTROLS if case.explained_by(name)]
    if explained:
        return "no gain", (
            f"{case.change()}. But a control shows it too: {case.own(explained)}. The reinforced policy differs by "
            f"{case.beyond(explained)}: not a gain that the reward made."
        )
    return "gain", f"{case.change()}. {_against_controls(case, alike)}"


def _so_did(case: _Case, controls: Sequence[str]) -> str:
    return f" So it did in the run {case.own(controls)}." if controls else ""


def _against_controls(case: _Case, alike: Sequence[str]) -> str:
    """Why a change in the good direction is a gain of the reward's."""
    run = [name for name in CONTROLS if case.to_finetuned(name)]
    if not run:
        return "No control was run, so that this may owe nothing to what the reward said."
    if alike:
        return (
            f"A control went the same way ({case.own(alike)}), but the reinforced policy went further, by {case.beyond(alike)}."
        )
    return f"{'Neither control shows' if len(run) > 1 else 'The control does not show'} it ({case.own(run)})."


def _headline(evaluation: Evaluation, findings: Sequence[Finding]) -> str:
    def labels(outcome: Outcome, kind: Kind) -> list[str]:
        names = [f.measure for f in findings if f.outcome == outcome and f.kind == kind]
        return [measure.label for measure in evaluation.measures if measure.name in names]

    rose, also = labels("gain", "optimised"), labels("gain", "held out")
    explained = labels("no gain", "optimised") + labels("no gain", "held out")
    worse = labels("loss", "held out") + labels("loss", "optimised")
    sentences = []
    if rose:
        sentences.append(f"Reinforcement improved what it was optimised for ({listed(rose)})")
        if also:
            sentences[0] += f" and, held out from the reward, {listed(also)}"
    elif also:
        was = "which was" if len(also) == 1 else "which were"
        sentences.append(f"Reinforcement improved {listed(also)}, {was} not in the reward, but not the reward itself")
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
    places = decimals_between(comparison.low, comparison.high)
    better = comparison.sign if measure.higher_is_better else -comparison.sign
    word = {1: "better", 0: "no measurable difference", -1: "worse"}[better]
    figures = f"{signed(comparison.difference, places)} {between(comparison.low, comparison.high, places)}"
    return f"{figures} {measure.label} ({word})"


def _limits(evaluation: Evaluation, findings: Sequence[Finding]) -> list[str]:
    judged = sum(finding.kind != "description" for finding in findings)
    notes = [
        f"Intervals are 95%, from {evaluation.resamples} paired resamples of {evaluation.sources} sources (diversity: "
        "jackknife). They say what other sources would have given, not what other training seeds would.",
    ]
    if judged > 1:
        notes.append(f"With {judged} measures at 95% each, about {judged * 0.05:.1g} would show a difference by chance alone.")
    still = [control for control in CONTROLS if _as_finetuned(evaluation, control)]
    if still:
        notes.append(
            f"Measured in everything as the fine-tuned policy: the control {listed(_CONTROL_RUNS[name] for name in still)}. "
            "Later weights never validated higher than those that it began with, which were kept, as in the run itself."
        )
    missing = [control for control in CONTROLS if evaluation.system(control) is None]
    if missing:
        notes.append(f"Not run: the control {listed(_CONTROL_RUNS[name] for name in missing)}.")
    return notes


def _as_finetuned(evaluation: Evaluation, control: str) -> bool:
    """Whether a control ended as the policy that it began with."""
    found, finetuned = evaluation.system(control), evaluation.system(FINETUNED)
    return found is not None and finetuned is not None and found.metrics == finetuned.metrics
