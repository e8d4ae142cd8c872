"""What a run folder holds, read for its report: any part may be absent, and a run may still be going on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from guerdon.errors import DataError
from guerdon.evaluation.audit_results import AUDIT, Audit
from guerdon.evaluation.results import EVALUATION, Evaluation

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Attributes:
        path: of the folder.
        recipe: resolved, as plain values; empty where absent.
        recipe_text: as it stands in the file.
        environment: versions and device.
        counts: of the data, in words.
        metrics, timings, samples, skipped, skipped_steps: lines of the logs.
        alarms: lines of ``alarms.jsonl``; None where no log of alarms was kept.
        outputs: lines of ``outputs/<system>.jsonl`` by system.
        done: what each finished stage left in its ``done.json``.
        evaluation: where there is one.
        audit: that of the reward, where there is one.
        absent: names of the files that are not there.
    """

    path: Path
    recipe: Row = field(default_factory=dict)
    recipe_text: str = ""
    environment: Row = field(default_factory=dict)
    counts: Row = field(default_factory=dict)
    metrics: Sequence[Row] = ()
    timings: Sequence[Row] = ()
    samples: Sequence[Row] = ()
    skipped: Sequence[Row] = ()
    skipped_steps: Sequence[Row] = ()
    alarms: Sequence[Row] | None = None
    outputs: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    done: Mapping[str, Row] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    audit: Audit | None = None
    absent: Sequence[str] = ()

    @property
    def stages(self) -> list[str]:
        """The stages that have begun, in order."""
        return list(dict.fromkeys(str(row["stage"]) for row in self.metrics if "stage" in row))

    def unfinished(self) -> list[str]:
        """The stages that have begun and not ended."""
        ended = {row.get("stage") for row in self.timings if row.get("event") == "finished"} | self.done.keys()
        return [stage for stage in self.stages if stage not in ended]

    def points(self, stage: str, kind: str, name: str) -> list[tuple[float, float]]:
        """(step, value) of one figure; steps where it was not finite are left out."""
        rows = [row for row in self.metrics if row.get("stage") == stage and row.get("kind") == kind]
        return [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]

    def names(self, stage: str, kind: str) -> list[str]:
        """The figures that a stage logged."""
        rows = [row for row in self.metrics if row.get("stage") == stage and row.get("kind") == kind]
        found = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, int | float))
        return [name for name in found if name != "step"]


def read_run(path: Path) -> RunFolder:
    """Reads a run folder.

    Raises:
        DataError: when there is no such folder, it holds none of a run's files, or one of them is damaged.
    """
    if not path.is_dir():
        raise DataError("there is no such run folder", where=str(path), cure="name the folder of a run")
    recipe_text = _text(path / "recipe.yaml")
    lines = {name: _lines(path / f"{name}.jsonl") for name in ("metrics", "timings", "samples", "skipped", "skipped_steps")}
    outputs = {file.stem: _lines(file) or [] for file in sorted((path / "outputs").glob("*.jsonl"))}
    evaluation = Evaluation.read(path) if (path / EVALUATION).is_file() else None
    expected = {
        "recipe.yaml": recipe_text,
        "environment.json": _text(path / "environment.json"),
        "metrics.jsonl": lines["metrics"],
        "timings.jsonl": lines["timings"],
        "samples.jsonl": lines["samples"],
        "outputs": outputs or None,
        EVALUATION: evaluation,
    }
    if all(value is None for value in expected.values()):
        raise DataError("holds no run", where=str(path), cure="name a folder that `guerdon run` has written")
    return RunFolder(
        path=path,
        recipe=_mapping(path / "recipe.yaml"),
        recipe_text=recipe_text or "",
        environment=_mapping(path / "environment.json"),
        counts=_mapping(path / "run.json").get("counts", {}),
        **{name: found or [] for name, found in lines.items()},
        alarms=_lines(path / "alarms.jsonl"),
        outputs=outputs,
        done={file.parent.name: _mapping(file) for file in sorted(path.glob("*/done.json"))},
        evaluation=evaluation,
        audit=Audit.read(path / "audit") if (path / "audit" / AUDIT).is_file() else None,
        absent=[name for name, value in expected.items() if value is None],
    )


def _text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 ({error.reason})", where=str(path), cure="restore or remove it") from error


def _mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file (JSON is YAML) that holds one mapping."""
    try:
        found = yaml.safe_load(_text(path) or "{}")
    except yaml.YAMLError as error:
        raise DataError(f"cannot be read ({error})", where=str(path), cure="restore or remove it") from error
    if not isinstance(found, dict):
        raise DataError("is not a mapping", where=str(path), cure="restore or remove it")
    return found


def _lines(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a log. A last line without an end is being written at this moment, and left out."""
    text = _text(path)
    if text is None:
        return None
    *whole, _ = text.split("\n")
    rows = []
    for number, line in enumerate(whole, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError("is not JSON", where=f"{path}, line {number}", cure="restore or remove the line") from error
        if not isinstance(row, dict):
            raise DataError("is not a JSON object", where=f"{path}, line {number}", cure="restore or remove the line")
        rows.append(row)
    return rows
