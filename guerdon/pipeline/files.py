"""Files in, files out: what the verbs generate, score and evaluate do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from guerdon.data.files import JSON_LINES, write_jsonl
from guerdon.data.lines import Row, place
from guerdon.data.records import FieldMap, read_examples
from guerdon.data.rows import read_rows
from guerdon.decoding import changed
from guerdon.errors import ConfigurationError, DataError
from guerdon.evaluation.evaluate import evaluate_outputs
from guerdon.evaluation.measures import SystemOutputs, default_metrics
from guerdon.evaluation.results import Evaluation
from guerdon.generator import load
from guerdon.metrics.base import MeanMetric
from guerdon.metrics.significance import Interval
from guerdon.metrics.slots import SlotPatterns, slot_errors
from guerdon.pipeline.prepare import reward_context
from guerdon.pipeline.recipe import read_recipe
from guerdon.pipeline.sections import EvaluationSection
from guerdon.rewards.base import Judged, Judgement, Reward
from guerdon.rewards.build import RewardContext, build_reward
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.learned import LearnedReward
from guerdon.training.progress import Progressing

_SCORED_TOGETHER = 512


def generate_file(
    model: str,
    input_file: Path,
    output_file: Path,
    source: str,
    prefix: str | None,
    changes: Mapping[str, Any],
    max_length: int | None,
    progress: Progressing,
) -> int:
    """Writes the input's fields plus ``outputs`` (texts, best first) and ``log_probs`` for every record; returns how many.

    Raises:
        DataError: for a record that cannot be used, or a source that is too long.
        ConfigurationError: for options that cannot be.
    """
    check_output(output_file)
    generator = load(model)
    options = changed(generator.decoding, dict(changes))
    if max_length is not None:
        options = replace(options, limit=replace(options.limit, absolute=max_length))
    examples = read_examples(input_file, FieldMap(source=source)).examples
    rows = [row.fields for row in read_rows(input_file)]
    prefixes = None if prefix is None else [_text(row, prefix, input_file) for row in read_rows(input_file)]
    progress.begin("generate", len(examples))
    found = generator.generate([e.source for e in examples], options, prefixes, lambda done: progress.advance(done, {}))
    progress.end()
    return write_jsonl(
        output_file,
        (
            {**row, "outputs": [o.text for o in outputs], "log_probs": [o.log_prob for o in outputs]}
            for row, outputs in zip(rows, found, strict=True)
        ),
    )


@dataclass(frozen=True)
class Scored:
    """Records with outputs, as a file holds them: its rows, and the texts of each row's outputs."""

    rows: Sequence[Mapping[str, Any]]
    outputs: Sequence[Sequence[str]]
    sources: Sequence[str]
    references: Sequence[Sequence[str]]

    @classmethod
    def read(cls, path: Path, references: str = "references") -> Scored:
        """Reads ``source``, ``output`` or ``outputs``, and references where they are.

        Raises:
            DataError: for a record without source or output.
        """
        examples = read_examples(path, FieldMap(references=references)).examples
        rows = list(read_rows(path))
        outputs = [_outputs(row, path) for row in rows]
        return cls([row.fields for row in rows], outputs, [e.source for e in examples], [e.references for e in examples])


@dataclass(frozen=True)
class Compared:
    """One or two files of outputs, measured."""

    evaluation: Evaluation

    def plain(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self.evaluation)

    def systems_table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: a measure a row, a system a column."""
        systems = self.evaluation.systems
        rows = [[measure.label, *(_interval(s.metrics[measure.name]) for s in systems)] for measure in self.evaluation.measures]
        return ["measure", *(system.label for system in systems)], rows

    def comparisons_table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: a measure a row, its paired difference."""
        labels = {measure.name: measure.label for measure in self.evaluation.measures}
        rows = [
            [labels[c.metric], f"{c.difference:+.3f}", f"[{c.low:+.3f}, {c.high:+.3f}]", f"{c.p:.3f}"]
            for c in self.evaluation.comparisons
        ]
        return ["measure", "difference", "95% interval", "p"], rows


def evaluate_files(
    outputs: Path, against: Path | None, references: str, lowercase: bool, slots: Path | None, resamples: int
) -> Compared:
    """Measures the first output of every record, and its paired difference to another file's for the same sources.

    Raises:
        DataError: for records that cannot be used, or files of other sources.
        ConfigurationError: for too few resamples, or a file that is compared with itself.
    """
    EvaluationSection(bootstrap=resamples)  # checks it
    files = [outputs, *([against] if against is not None else [])]
    if against is not None and against.resolve() == outputs.resolve():
        raise ConfigurationError("is compared with itself", where=str(outputs), cure="name another file of outputs")
    read = [Scored.read(path, references) for path in files]
    if len({tuple(scored.sources) for scored in read}) > 1:
        raise DataError(
            "holds other sources", where=str(against), cure="compare outputs for the same sources in the same order"
        )
    patterns = None if slots is None else SlotPatterns.from_file(slots)
    systems = []
    for path, scored in reversed(list(zip(files, read, strict=True))):  # the first system is the baseline
        texts = [found[0] for found in scored.outputs]
        checks = [] if patterns is None else slot_errors(patterns, scored.sources, texts)
        numbers = {"slot_errors": [float(check.errors) for check in checks]} if patterns is not None else {}
        systems.append(SystemOutputs(str(path), str(path), texts, numbers=numbers))
    errors = MeanMetric("slot_errors", label="slot errors per output", higher_is_better=False)
    return Compared(
        evaluate_outputs(
            systems,
            read[0].references if any(read[0].references) else None,
            metrics=default_metrics(lowercase),
            numbers=[] if patterns is None else [errors],
            data=str(outputs),
            resamples=resamples,
        )
    )


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def score_file(
    reward: str, input_file: Path, output_file: Path, overrides: Sequence[str], progress: Progressing
) -> dict[str, float]:
    """Writes the input's fields plus ``scores`` and, for a composed reward, ``parts``; returns the means.

    Raises:
        DataError, RewardError, ConfigurationError: for records, rewards and names that cannot be used.
    """
    check_output(output_file)
    judge = open_reward(reward, overrides)
    scored = Scored.read(input_file)
    flat = [(row, text) for row, texts in enumerate(scored.outputs) for text in texts]
    progress.begin("score", len(flat))
    parts: dict[str, list[float | None]] = {}
    totals: list[float] = []
    for first in range(0, len(flat), _SCORED_TOGETHER):
        chunk = flat[first : first + _SCORED_TOGETHER]
        judged = Judged.of(
            [scored.sources[row] for row, _ in chunk],
            [text for _, text in chunk],
            [scored.references[row] for row, _ in chunk],
            [scored.rows[row] for row, _ in chunk],
        )
        judgement = judge.judge(judged)
        for name, part in judgement.parts.items():
            values = zip(part.scores.tolist(), part.applies.tolist(), strict=True)
            parts.setdefault(name, []).extend(value if applies else None for value, applies in values)
        totals += _totals(judgement)
        progress.advance(len(totals), {})
    progress.end()
    write_jsonl(output_file, _scored_rows(scored, totals, parts))
    known = {name: [value for value in values if value is not None] for name, values in parts.items()}
    means = {name: sum(values) / len(values) for name, values in known.items() if values}
    return {"score": sum(totals) / len(totals), **(means if len(parts) > 1 else {})}


def check_output(path: Path) -> None:
    """Refuses, before any work, a file that could not be written after it.

    Raises:
        ConfigurationError: its name does not end as JSON lines do, its folder does not exist, or it is a folder.
    """
    where = str(path)
    if path.suffix.lower() not in JSON_LINES:
        raise ConfigurationError("only JSON lines are written here", where=where, cure="let the file's name end in .jsonl")
    if path.is_dir():
        raise ConfigurationError("is a folder, not a file", where=where, cure="name the file to write")
    if not path.parent.is_dir():
        raise ConfigurationError(f"there is no folder {path.parent}", where=where, cure="make it, or name another")
    if not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"nothing may be written into {path.parent}", where=where, cure="name another folder")


def open_reward(name: str, overrides: Sequence[str] = ()) -> Reward:
    """The reward that a recipe's file, the folder of a reward model or of a run with one, or ``module:function`` names.

    It may also be written as in a recipe: ``{type: chrf}``.

    Raises:
        ConfigurationError: for a recipe without a reward, or a name that is none of these.
        DataError: for a folder without a reward model.
    """
    if name.lstrip().startswith(("{", "[")):
        return _written(name)
    if Path(name).is_dir():
        return LearnedReward.load(name)
    if Path(name).suffix in (".yaml", ".yml"):
        recipe = read_recipe(name, overrides)
        if not recipe.reward:
            raise ConfigurationError("the recipe has no reward", where=name, cure="add the section reward")
        return build_reward(recipe.reward, reward_context(recipe))
    if ":" in name:
        return FunctionReward(name)
    raise ConfigurationError(
        "is no reward", where=name, cure="name a recipe (.yaml), a reward model's folder, a module:function, or {type: ...}"
    )


def _written(text: str) -> Reward:
    """A reward section, or one part of it, as YAML on one line; paths are relative to the current folder."""
    try:
        section = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError("is no YAML", where=text, cure="write e.g. {type: chrf, lowercase: true}") from error
    return build_reward(section, RewardContext())


def _totals(judgement: Judgement) -> list[float]:
    """Weighted sums over the parts that apply to each sample; that they need not compare is why training centres them."""
    weighted = [part.weight * part.scores for part in judgement.parts.values()]
    total: list[float] = sum(weighted[1:], weighted[0]).tolist()
    return total


def _scored_rows(scored: Scored, totals: Sequence[float], parts: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    written, first = [], 0
    for row, texts in zip(scored.rows, scored.outputs, strict=True):
        span = slice(first, first + len(texts))
        first += len(texts)
        detail = {"parts": {name: list(values[span]) for name, values in parts.items()}} if len(parts) > 1 else {}
        written.append({**row, "scores": list(totals[span]), **detail})
    return written


def _outputs(row: Row, path: Path) -> list[str]:
    found = row.fields.get("outputs", row.fields.get("output"))
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(
            "holds neither a text 'output' nor a list of texts 'outputs'",
            where=place(path, row.line),
            cure="give one of the two fields, e.g. with guerdon generate",
        )
    return texts


def _text(row: Row, name: str, path: Path) -> str:
    value = row.fields.get(name)
    if not isinstance(value, str):
        raise DataError(f"holds no text in {name!r}", where=place(path, row.line), cure="name a field of texts")
    return value
