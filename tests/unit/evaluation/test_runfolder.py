import json

import pytest

from guerdon.data.files import write_jsonl
from guerdon.errors import DataError
from guerdon.evaluation.runfolder import RunFolder, read_run


def test_a_whole_folder(run_folder, evaluated):
    sources, _, systems, evaluation = evaluated
    run = read_run(run_folder)
    assert run.recipe["name"] == "e2e"
    assert run.recipe_text == (run_folder / "recipe.yaml").read_text(encoding="utf-8")
    assert run.stages == ["pretrain", "finetune", "reinforce", "reinforce-shuffled", "reinforce-constant"]
    assert run.counts == {"training records": 4862, "test records": 630}
    assert list(run.outputs) == sorted(system.name for system in systems)
    assert len(run.outputs["mbr"]) == len(sources)
    assert run.evaluation == evaluation
    assert run.done["finetune"]["steps"] == 600
    assert [row["step"] for row in run.alarms] == [41, 8]
    assert (run.absent, run.unfinished()) == ([], [])


def test_a_stage_is_finished_by_its_timing_or_its_files(tmp_path):
    rows = [{"stage": stage, "step": 1, "kind": "train"} for stage in ("pretrain", "finetune", "reinforce")]
    ended = [{"stage": "pretrain", "event": "finished", "seconds": 1.0}, {"stage": "reinforce", "step": 1, "seconds": 1.0}]
    run = RunFolder(tmp_path, metrics=rows, timings=ended, done={"finetune": {"steps": 1}})
    assert run.unfinished() == ["reinforce"]


def test_points_and_names(tmp_path):
    rows = [
        {"stage": "a", "step": 1, "kind": "train", "loss": 2.0, "note": "text"},
        {"stage": "a", "step": 2, "kind": "train", "loss": None},
        {"stage": "a", "step": 3, "kind": "validation", "loss": 9.0, "bleu": 1},
        {"stage": "b", "step": 4, "kind": "train", "loss": 8.0},
    ]
    run = RunFolder(tmp_path, metrics=rows)
    assert run.points("a", "train", "loss") == [(1, 2.0)]
    assert run.points("a", "train", "absent") == []
    assert run.names("a", "train") == ["loss"]
    assert run.names("a", "validation") == ["loss", "bleu"]


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "a"}\n{"stage": "b"}\n{"sta', encoding="utf-8")
    assert [row["stage"] for row in read_run(tmp_path).metrics] == ["a", "b"]
    path.write_text('{"stage": "a"}', encoding="utf-8")  # whole, but its end is not there yet
    assert read_run(tmp_path).metrics == []


def test_line_separators_of_unicode_end_no_line(tmp_path):
    write_jsonl(tmp_path / "samples.jsonl", [{"source": "a\u2028b\x85c", "output": "d\re"}])
    assert read_run(tmp_path).samples == [{"source": "a\u2028b\x85c", "output": "d\re"}]


def test_what_is_absent_is_named(tmp_path):
    (tmp_path / "environment.json").write_text("{}", encoding="utf-8")
    run = read_run(tmp_path)
    assert run.absent == ["recipe.yaml", "metrics.jsonl", "timings.jsonl", "samples.jsonl", "outputs", "evaluation.json"]
    assert (run.recipe, run.metrics, run.alarms, run.outputs, run.evaluation) == ({}, [], None, {}, None)


def test_an_empty_log_is_there(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    run = read_run(tmp_path)
    assert "metrics.jsonl" not in run.absent
    assert run.stages == []


@pytest.mark.parametrize("content", ['{"a": 1}\n\n{"b": 2}\n', "nonsense\n", '"text"\n'])
def test_a_broken_line_is_named(tmp_path, content):
    (tmp_path / "samples.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"samples\.jsonl, line [12]"):
        read_run(tmp_path)


def test_a_broken_file_of_a_stage_is_named(tmp_path):
    (tmp_path / "finetune").mkdir()
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"stage": "finetune"}) + "\n", encoding="utf-8")
    (tmp_path / "finetune" / "done.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"finetune.done\.json: is not a mapping"):
        read_run(tmp_path)
