"""What an evaluation found, as it stands in ``evaluation.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guerdon.data.files import write_atomically
from guerdon.errors import DataError
from guerdon.metrics.significance import Interval

EVALUATION = "evaluation.json"

FINETUNED, REINFORCED = "finetuned", "reinforced"
CONTROLS = ("shuffled", "constant")
"""Systems trained like the reinforced one, but with a reward that says nothing: rewards permuted, advantage +1."""
SEARCHES = ("best_of_n", "mbr")
"""Systems that choose among many outputs of the fine-tuned policy instead of training it."""


@dataclass(frozen=True)
class MeasureInfo:
    """A measure that systems were compared on.

    Attributes:
        name: under which its values stand in `SystemResult.metrics`.
        label: as people write it.
        higher_is_better: the good direction; None for a description that has none.
        optimised: whether it is, or is part of, the reward that the policy was trained on.
    """

    name: str
    label: str
    higher_is_better: bool | None
    optimised: bool = False


@dataclass(frozen=True)
class SystemResult:
    """One system on the test sources.

    Attributes:
        name: short, as in ``outputs/<name>.jsonl``.
        label: as people call it.
        outputs: the file of its outputs, relative to the run folder.
        decoding: how outputs were found, in words.
        generated: outputs that were generated in all: the cost of one per source, or of n to choose from.
        metrics: each measure's value with its 95% interval.
        runs: each measure's value in every run, where the outputs are those of several.
    """

    name: str
    label: str
    outputs: str
    decoding: str
    generated: int
    metrics: Mapping[str, Interval] = field(default_factory=dict)
    runs: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonResult:
    """The paired difference of two systems on one measure, ``system`` − ``baseline``, with its 95% interval."""

    system: str
    baseline: str
    metric: str
    difference: float
    low: float
    high: float
    p: float

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval lies on one side of zero, else 0."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Evaluation:
    """Systems measured on the same sources.

    Attributes:
        data: what was measured on, e.g. the file of test records.
        sources: how many sources.
        resamples: of each bootstrap interval.
        seed: of the resampling.
        baseline: the system that the others are compared with.
        measures: in the order of tables.
        systems: in the order of tables.
        comparisons: paired differences.
    """

    data: str
    sources: int
    resamples: int
    seed: int
    baseline: str
    measures: list[MeasureInfo]
    systems: list[SystemResult]
    comparisons: list[ComparisonResult]

    def system(self, name: str) -> SystemResult | None:
        """The system of that name, where there is one."""
        return next((system for system in self.systems if system.name == name), None)

    def comparison(self, system: str, baseline: str, metric: str) -> ComparisonResult | None:
        """The difference of two systems on a measure, where they were compared."""
        wanted = (system, baseline, metric)
        return next((c for c in self.comparisons if (c.system, c.baseline, c.metric) == wanted), None)

    def write(self, run_folder: Path) -> Path:
        """Writes ``evaluation.json`` whole or not at all, and returns its path.

        Raises:
            InputError, GuerdonError: when the folder cannot be written (see `guerdon.data.files.write_atomically`).
        """
        path = run_folder / EVALUATION
        text = json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, indent=1)
        write_atomically(path, [text.encode(), b"\n"])
        return path

    @classmethod
    def read(cls, run_folder: Path) -> Evaluation:
        """Reads what `write` wrote.

        Raises:
            DataError: when the file is missing, or is not an evaluation.
        """
        path = run_folder / EVALUATION
        if not path.is_file():
            raise DataError("there is no evaluation", where=str(path), cure="run the evaluation first")
        try:
            return _evaluation(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"is not an evaluation ({error})", where=str(path), cure="evaluate again") from error


def _evaluation(values: dict[str, Any]) -> Evaluation:
    systems = [
        SystemResult(**{**system, "metrics": {name: Interval(**found) for name, found in system["metrics"].items()}})
        for system in values.pop("systems")
    ]
    measures = [MeasureInfo(**measure) for measure in values.pop("measures")]
    comparisons = [ComparisonResult(**comparison) for comparison in values.pop("comparisons")]
    return Evaluation(**values, measures=measures, systems=systems, comparisons=comparisons)
