"""The logs: strict JSON, cut back to a checkpoint's bytes, and one clear line where they cannot be written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from guerdon.errors import CheckpointError, TrainingError
from guerdon.training.runlog import ALARMS, METRICS, SAMPLES, SKIPPED_STEPS, TIMINGS, RunLog, writing


def lines(path: Path) -> list[dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path / "run")


def test_each_line_says_stage_step_and_kind(log: RunLog) -> None:
    log.metrics("finetune", 3, "train", {"loss": 0.5, "tokens": 12})
    log.metrics("finetune", 3, "validation", {"nll": 1.25})
    log.samples("reinforce", 4, [{"output": "é\u2028 \n"}, {"output": ""}])
    log.timing("finetune", step=3, seconds=0.25)
    first = {"stage": "finetune", "step": 3, "kind": "train", "loss": 0.5, "tokens": 12}
    assert lines(log.folder / METRICS) == [first, {"stage": "finetune", "step": 3, "kind": "validation", "nll": 1.25}]
    assert [row["output"] for row in map(json.loads, (log.folder / SAMPLES).read_text("utf-8").split("\n")[:-1])] == [
        "é\u2028 \n",
        "",
    ]
    assert lines(log.folder / TIMINGS) == [{"stage": "finetune", "step": 3, "seconds": 0.25}]


@pytest.mark.parametrize("kept", ["", '{"stage": "a", "seconds": 1.0}\n{"stage": "b"}\n'])
def test_a_line_of_the_timings_that_a_kill_has_cut_short_is_dropped(kept: str, tmp_path: Path) -> None:
    (tmp_path / TIMINGS).write_text(kept + '{"stage": "a", "sec', encoding="utf-8")
    log = RunLog(tmp_path)
    assert (tmp_path / TIMINGS).read_text("utf-8") == kept
    log.timing("c", seconds=2.0)
    RunLog(tmp_path)
    assert (tmp_path / TIMINGS).read_text("utf-8") == kept + '{"stage": "c", "seconds": 2.0}\n'


def test_what_is_not_finite_is_null(log: RunLog) -> None:
    log.metrics("s", 1, "train", {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0})
    assert lines(log.folder / METRICS)[0] == {
        "stage": "s",
        "step": 1,
        "kind": "train",
        "a": None,
        "b": None,
        "c": None,
        "d": 0.0,
    }


def test_alarms_have_a_log_that_is_empty_where_none_was_raised(log: RunLog) -> None:
    log.alarms("reinforce", 1, [])
    assert (log.folder / ALARMS).read_bytes() == b""
    log.alarms("reinforce", 7, [{"monitor": "unfinished", "sentence": "31% é"}])
    assert lines(log.folder / ALARMS) == [{"stage": "reinforce", "step": 7, "monitor": "unfinished", "sentence": "31% é"}]


def test_no_samples_write_no_line(log: RunLog) -> None:
    log.samples("s", 1, [])
    assert (log.folder / SAMPLES).read_text() == ""


def test_cut_back_restores_the_bytes_of_the_checkpoint(log: RunLog) -> None:
    assert log.offsets() == {METRICS: 0, SAMPLES: 0, SKIPPED_STEPS: 0, ALARMS: 0}
    log.metrics("s", 1, "train", {"lösung": 1.0})
    log.samples("s", 1, [{"text": "日本"}])
    log.alarms("s", 1, [{"monitor": "length_drift", "sentence": "outputs are now 5.1 tokens long"}])
    before = {name: (log.folder / name).read_bytes() for name in (METRICS, SAMPLES, ALARMS)}
    offsets = json.loads(json.dumps(log.offsets()))
    log.metrics("s", 2, "train", {"x": 2.0})
    log.samples("s", 2, [{"text": "later"}])
    log.skipped_step("s", 2, "loss nan", [{"pair": 1}])
    log.alarms("s", 2, [{"monitor": "unfinished", "sentence": "later"}])
    log.timing("s", step=2)
    with (log.folder / METRICS).open("a") as file:
        file.write('{"stage": "s", "st')  # a kill amid a line
    log.cut_back(offsets)
    assert {name: (log.folder / name).read_bytes() for name in before} == before
    assert (log.folder / SKIPPED_STEPS).read_bytes() == b""
    assert len(lines(log.folder / TIMINGS)) == 1  # durations are no part of what was computed


@pytest.mark.parametrize("lost", ["shortened", "gone"])
def test_a_log_that_lost_lines_is_not_filled_with_zeros(log: RunLog, lost: str) -> None:
    log.metrics("s", 1, "train", {"a": 1.0})
    offsets, path = log.offsets(), log.folder / METRICS
    path.write_bytes(path.read_bytes()[:-5]) if lost == "shortened" else path.unlink()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl.*shorter"):
        log.cut_back(offsets)


def test_a_full_disk_is_one_clear_line(log: RunLog) -> None:
    (log.folder / METRICS).symlink_to("/dev/full")
    with pytest.raises(TrainingError, match="cannot write: No space left on device; free space") as caught:
        log.metrics("s", 1, "train", {"a": 1.0})
    assert str(log.folder / METRICS) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write"):
        RunLog(tmp_path / "file" / "run")


def test_only_what_the_system_refuses_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        _ = 1 / 0


def test_tensorboard_has_the_same_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, tensorboard=True)
    for step in (1, 2):
        log.metrics("finetune", step, "train", {"loss": 1.0 / step})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("finetune/train/loss")] == [(1, 1.0), (2, 0.5)]
