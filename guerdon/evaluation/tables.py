"""The tables of a report: plain rows, ready to be printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from guerdon.evaluation.charts import stage_label
from guerdon.evaluation.differences import Piece, differences
from guerdon.evaluation.plots import whisker
from guerdon.evaluation.results import FINETUNED, REINFORCED, ComparisonResult, Evaluation, MeasureInfo
from guerdon.evaluation.runfolder import Row, RunFolder
from guerdon.evaluation.wording import between, decimals_for, duration, listed, number, probability, short, signed

SAMPLES = 12  # outputs that are shown side by side
_LENGTH = ("epochs", "steps")


class Value(NamedTuple):
    """A system's value: the figure, its interval, and how it compares with the baseline ("better", "worse", "other" or "")."""

    figure: str
    interval: str
    verdict: str


class Difference(NamedTuple):
    """A paired difference: drawn, the figure, its interval, its p-value, and its verdict as in `Value`."""

    drawing: Markup
    figure: str
    interval: str
    p: str
    verdict: str


class MeasureRow(NamedTuple):
    """One measure over all systems of a table; None where a system has no such cell."""

    measure: MeasureInfo
    cells: Sequence[Value | Difference | None]


class Sample(NamedTuple):
    """One source with what two systems wrote for it."""

    source: str
    references: Sequence[str]
    before: Sequence[Piece]
    after: Sequence[Piece]


class SampleSet(NamedTuple):
    """Samples side by side, what the two sides are called, and a sentence on how they were chosen."""

    before: str
    after: str
    note: str
    shown: Sequence[Sample]


def values_table(evaluation: Evaluation) -> list[MeasureRow]:
    """Each system's value with its interval, and whether it differs from the baseline."""
    rows = []
    for measure in evaluation.measures:
        found = [system.metrics[measure.name] for system in evaluation.systems]
        places = decimals_for((one.low, one.high) for one in found)
        cells = []
        for system, one in zip(evaluation.systems, found, strict=True):
            comparison = evaluation.comparison(system.name, evaluation.baseline, measure.name)
            interval = f"{number(one.low, places)} to {number(one.high, places)}"
            cells.append(Value(number(one.value, places), interval, _verdict(measure, comparison)))
        rows.append(MeasureRow(measure, cells))
    return rows


def differences_table(evaluation: Evaluation, pairs: Sequence[tuple[str, str]]) -> list[MeasureRow]:
    """The paired difference of each (system, baseline), all of a measure drawn on one scale."""
    rows = []
    for measure in evaluation.measures:
        found = [evaluation.comparison(system, baseline, measure.name) for system, baseline in pairs]
        known = [comparison for comparison in found if comparison is not None]
        scale = max((max(abs(c.low), abs(c.high)) for c in known), default=0.0)
        places = decimals_for((c.low, c.high) for c in known)
        cells = [None if c is None else _difference(measure, c, scale, places) for c in found]
        rows.append(MeasureRow(measure, cells))
    return rows


def _difference(measure: MeasureInfo, c: ComparisonResult, scale: float, places: int) -> Difference:
    drawing = whisker(c.low, c.difference, c.high, scale)
    interval = between(c.low, c.high, places)
    return Difference(drawing, signed(c.difference, places), interval, probability(c.p), _verdict(measure, c))


def _verdict(measure: MeasureInfo, comparison: ComparisonResult | None) -> str:
    if comparison is None or comparison.sign == 0:
        return ""
    if measure.higher_is_better is None:
        return "other"
    return "better" if (comparison.sign > 0) == measure.higher_is_better else "worse"


def samples_of(run: RunFolder) -> SampleSet | None:
    """Outputs before and after: of the fine-tuned and the reinforced system, or else of an early and a late validation."""
    if FINETUNED in run.outputs and REINFORCED in run.outputs:
        return _of_systems(run.outputs[FINETUNED], run.outputs[REINFORCED])
    return _of_validations([row for row in run.samples if row.get("kind", "validation") == "validation"])


def _of_systems(before: Sequence[Row], after: Sequence[Row]) -> SampleSet:
    """Changed outputs only, spread evenly over the test sources: no one has picked them."""
    pairs = list(zip(before, after, strict=False))
    changed = [(old, new) for old, new in pairs if old.get("output") != new.get("output")]
    shown = [changed[i * len(changed) // SAMPLES] for i in range(SAMPLES)] if len(changed) > SAMPLES else changed
    note = f"{len(changed)} of {len(pairs)} outputs differ. "
    note += f"Shown are {len(shown)} of those, at even distances, not picked by hand." if shown else ""
    return SampleSet("fine-tuned", "reinforced", note, [_sample(old, new) for old, new in shown])


def _of_validations(rows: Sequence[Row]) -> SampleSet | None:
    """The first and the last validation of the last stage that wrote samples."""
    if not rows:
        return None
    stages = [str(row.get("stage")) for row in rows]
    stage = "reinforce" if "reinforce" in stages else stages[-1]
    own = [row for row in rows if row.get("stage") == stage]
    first, last = own[0].get("step"), own[-1].get("step")
    early = {row.get("source"): row for row in own if row.get("step") == first}
    late = [row for row in own if row.get("step") == last and row.get("source") in early]
    note = f"{stage_label(stage)}: the same validation sources at both steps."
    samples = [_sample(early[row.get("source")], row) for row in late[:SAMPLES]]
    return SampleSet(f"step {first}", f"step {last}", note, samples)


def _sample(old: Row, new: Row) -> Sample:
    before, after = differences(str(old.get("output", "")), str(new.get("output", "")))
    references = new.get("references") or ([new["reference"]] if new.get("reference") else [])
    return Sample(str(new.get("source", "")), [str(text) for text in references], before, after)


def timings_table(run: RunFolder) -> list[tuple[str, str, str, str]]:
    """(stage, steps, time, what a step spends it on) of each stage."""
    rows = []
    for stage in dict.fromkeys(str(row["stage"]) for row in run.timings if "stage" in row):
        own = [row for row in run.timings if row.get("stage") == stage]
        steps = [row for row in own if "step" in row]
        whole = sum(float(row["seconds"]) for row in own if row.get("event") == "finished")
        seconds = whole or sum(float(row.get("seconds", 0)) for row in steps)
        decided = [str(row.get("sentence", "")) for row in own if row.get("event") == "decided"]
        spent = "; ".join(filter(None, [_spent(steps), _memory(own), *decided[-1:]]))
        rows.append((stage_label(stage), short(len(steps)) if steps else "", duration(seconds), spent))
    return rows


def _spent(steps: Sequence[Row]) -> str:
    """The share of each part of a step, e.g. "rollout 61%, reward 12%"."""
    total = sum(float(row.get("seconds", 0)) for row in steps)
    parts = dict.fromkeys(name for row in steps for name in row if name not in ("stage", "step", "seconds"))
    sums = {name: sum(float(row.get(name, 0)) for row in steps) for name in parts}
    return ", ".join(f"{name} {100 * found / total:.0f}%" for name, found in sums.items()) if total else ""


def _memory(rows: Sequence[Row]) -> str:
    """The most memory of a stage, and the part that took it."""
    peaks = [(float(peak), part) for row in rows if row.get("event") == "usage" for part, peak in row.get("peaks", {}).items()]
    return f"at most {max(peaks)[0] / 1e9:.1f} GB of memory ({max(peaks)[1]})" if peaks else ""


def alarms_table(run: RunFolder) -> list[tuple[str, str, str, str]]:
    """(stage, step, monitor, sentence) of each alarm, in the order in which they were raised."""
    return [
        (
            stage_label(str(row.get("stage", ""))),
            str(row.get("step", "")),
            str(row.get("monitor", "")).replace("_", " "),
            str(row.get("sentence", "")),
        )
        for row in run.alarms or []
    ]


def quiet_stages(run: RunFolder) -> list[str]:
    """The stages that monitors watched without an alarm; none where the recipe turned them off."""
    if _monitors(run.recipe).get("enabled") is False:
        return []
    loud = {row.get("stage") for row in run.alarms or []}
    return [stage_label(stage) for stage in run.stages if stage.startswith("reinforce") and stage not in loud]


def watching(recipe: Mapping[str, Any]) -> str:
    """What of the monitors the recipe turned off, in a sentence; empty where it turned nothing off."""
    options = _monitors(recipe)
    if options.get("enabled") is False:
        return "The recipe turned the monitors off (reinforce.monitors.enabled)."
    if options and options.get("held_out") is None:
        return "No held-out figure was watched: the recipe names none (reinforce.monitors.held_out)."
    return ""


def _monitors(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    return _section(_section(recipe, "reinforce"), "monitors")


def recipe_facts(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a recipe asks for, in a few lines; a section that is not there says nothing."""
    data, model, reinforce = _section(recipe, "data"), _section(recipe, "model"), _section(recipe, "reinforce")
    files = listed(_data(data[split]) for split in ("train", "validation", "test") if data.get(split))
    limit = f" (the first {data['limit']} training records)" if data.get("limit") else ""
    rewards = [part for part in recipe.get("reward") or [] if isinstance(part, Mapping)]
    parts = [f"{short(float(part.get('weight', 1)))} × {part.get('name') or part.get('type', '?')}" for part in rewards]
    keys = ("steps", "sources_per_step", "samples_per_source", "estimator", "baseline", "temperature", "mle_weight")
    kl = _section(reinforce, "kl")
    held = f"KL coefficient {kl.get('coefficient')} in the {kl.get('place')}" if kl else ""
    facts = [
        ("Data", files + limit),
        ("Model", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in model.items())),
        ("Learning from comparisons", _facts(_section(recipe, "prefer"), ("loss", "beta", "tau", "odds_weight", *_LENGTH))),
        ("Reward model", _facts(_section(recipe, "reward_model"), ("loss", *_LENGTH, "members"))),
        ("Judge", _facts(_section(recipe, "judge"), ("loss", *_LENGTH, "members"))),
        ("Reward", " + ".join(parts)),
        ("Reinforcement", ", ".join(filter(None, [_facts(reinforce, keys), held]))),
        ("Seed", str(recipe.get("seed", ""))),
    ]
    return [(name, value) for name, value in facts if value]


def _facts(section: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Some options of a section in a line, without those that are off."""
    return ", ".join(f"{key.replace('_', ' ')} {section[key]}" for key in keys if section.get(key) not in (None, 0, 0.0))


def _data(given: object) -> str:
    """A file of data, or the share of the training sources that is held out."""
    return f"{100 * given:g}% of its sources for validation" if isinstance(given, float) else str(given)


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = recipe.get(name)
    return found if isinstance(found, Mapping) else {}
