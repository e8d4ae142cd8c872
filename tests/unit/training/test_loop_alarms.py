"""What the loop does with alarms: it shows every figure once, writes alarms down, and stops where the trainee asks for it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers.quadratic import Quadratic, train

ALARMS = [(0, "validation"), (3, "train"), (6, "train"), (6, "validation"), (8, "train")]
OPTIONS = {"steps": 9, "validate_every": 3, "checkpoint_every": 2, "average_best": 2}


class Listening:
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, what: str, total: int, done: int = 0) -> None: ...

    def advance(self, done: int, values: object) -> None: ...

    def end(self, note: str = "") -> None: ...

    def say(self, line: str) -> None:
        self.said.append(line)


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def written(alarms: list[tuple[int, str]]) -> list[dict]:
    return [
        {"stage": "quadratic", "step": step, "monitor": "hunch", "sentence": f"{kind} of step {step}"} for step, kind in alarms
    ]


def test_the_trainee_is_shown_what_is_logged_once_and_in_order(tmp_path: Path) -> None:
    trainee = Quadratic(begins_trained=True, faults={4: math.nan})
    train(trainee, tmp_path, **OPTIONS)
    logged = [row for row in rows(tmp_path, "metrics") if row["kind"] != "final"]
    assert [(step, kind) for step, kind, _ in trainee.observed] == [(row["step"], row["kind"]) for row in logged]
    assert len({(row["step"], row["kind"]) for row in logged}) == len(logged) == 9 + 4
    for (_, _, figures), row in zip(trainee.observed, logged, strict=True):
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        assert {"stage": "quadratic", "step": row["step"], "kind": row["kind"], **finite} == row
    assert math.isnan(trainee.observed[5][2]["loss"])  # what is null in the log is shown as it is
    assert (tmp_path / "alarms.jsonl").read_bytes() == b""


def test_alarms_are_written_and_said(tmp_path: Path) -> None:
    listening = Listening()
    outcome = train(Quadratic(begins_trained=True, alarms=ALARMS), tmp_path, progress=listening, **OPTIONS)
    assert rows(tmp_path, "alarms") == written(ALARMS)
    assert [line for line in listening.said if "alarm" in line] == [
        f"quadratic: step {step} alarm (hunch): {kind} of step {step}" for step, kind in ALARMS
    ]
    assert outcome.reason == "all steps done"


@pytest.mark.parametrize(
    ("enough", "step", "validated"), [(1, 0, [0]), (2, 3, [0, 3]), (4, 6, [0, 3, 6]), (5, 8, [0, 3, 6, 8])]
)
def test_it_stops_where_the_trainee_asks_for_it_and_validates_where_it_stands(
    enough: int, step: int, validated: list[int], tmp_path: Path
) -> None:
    outcome = train(Quadratic(begins_trained=True, alarms=ALARMS, enough=enough), tmp_path, **OPTIONS)
    assert (outcome.steps, outcome.reason) == (step, "enough alarms")
    metrics = rows(tmp_path, "metrics")
    assert [row["step"] for row in metrics if row["kind"] == "validation"] == validated
    assert rows(tmp_path, "alarms") == written(ALARMS[:enough])


@pytest.mark.parametrize("crash_at", range(1, 9))
@pytest.mark.parametrize("enough", [5, math.inf])
def test_a_run_that_is_cut_raises_the_same_alarms_and_stops_at_the_same_step(
    enough: float, crash_at: int, tmp_path: Path
) -> None:
    options = {"begins_trained": True, "alarms": ALARMS, "enough": enough}
    expected = train(Quadratic(**options), tmp_path / "whole", **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        train(Quadratic(crash_at=crash_at, **options), tmp_path / "cut", **OPTIONS)
    with (tmp_path / "cut" / "alarms.jsonl").open("a") as file:
        file.write('{"stage": "quadra')  # a kill amid a line
    trainee = Quadratic(**options)
    assert train(trainee, tmp_path / "cut", **OPTIONS) == expected
    for name in ("alarms", "metrics"):
        assert rows(tmp_path / "cut", name) == rows(tmp_path / "whole", name)
    assert trainee.observed[0][0] >= crash_at - 2  # what was observed before the checkpoint is not observed again
