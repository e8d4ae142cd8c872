"""Every verb on small real files: what it writes, what it prints, how it answers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from flow.conftest import write_rows
from helpers.letters import huggingface
from helpers.tiny_models import tiny_t5

import guerdon
from guerdon.cli.main import answer, app
from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError
from guerdon.evaluation.results import Evaluation
from guerdon.metrics.bleu import Bleu
from guerdon.models.integer import has_integers
from guerdon.pipeline.prepare import check_lengths
from guerdon.pipeline.recipe import read_recipe

VERBS = ["quickstart", "run", "check", "compare", "generate", "score", "audit", "evaluate", "overoptimise", "report", "export"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def one_object(capsys: pytest.CaptureFixture[str]) -> Any:
    """What --json prints: one line on the standard output, and nothing on the other."""
    said = capsys.readouterr()
    assert said.err == ""
    assert len(said.out.splitlines()) == 1
    return json.loads(said.out)


def test_the_verbs_are_those_of_the_design() -> None:
    assert sorted(command.callback.__name__ for command in app.registered_commands if command.callback) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"guerdon {verb}" in said
    assert "Example" in said
    assert "--json" in said


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["--version"]) == 0
    assert capsys.readouterr().out.strip() == guerdon.__version__


def test_generate_keeps_fields_and_writes_the_policys_log_probabilities(
    model: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    command = [
        "generate",
        str(model),
        "-i",
        str(records / "test.jsonl"),
        "-o",
        str(out),
        "--method",
        "beam",
        "--beam-size",
        "4",
    ]
    assert answer([*command, "--returned", "3", "--max-length", "12", "--json"]) == 0
    assert one_object(capsys) == {"records": 10, "output": str(out)}
    policy = guerdon.load(model)
    for written, given in zip(lines(out), lines(records / "test.jsonl"), strict=True):
        assert {name: written[name] for name in given} == given
        assert len(written["outputs"]) == len(written["log_probs"]) == 3
        outputs = policy.generate([given["source"]], method="beam", beam_size=4, returned=3, limit=guerdon_limit(12))[0]
        assert written["outputs"] == [output.text for output in outputs]
        assert written["log_probs"] == pytest.approx([output.log_prob for output in outputs], abs=1e-4)
        assert [output.score for output in outputs] == sorted((output.score for output in outputs), reverse=True)


def guerdon_limit(tokens: int) -> Any:
    from guerdon.decoding import LengthLimit

    return LengthLimit(tokens)


def test_sampling_repeats_with_the_seed(model: Path, records: Path, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate(["1", "1", "2"]):
        out = tmp_path / f"{number}.jsonl"
        command = [
            "generate",
            str(model),
            "-i",
            str(records / "test.jsonl"),
            "-o",
            str(out),
            "--method",
            "sample",
            "--seed",
            seed,
        ]
        assert answer([*command, "--returned", "2", "--max-length", "8"]) == 0
        found.append([row["outputs"] for row in lines(out)])
    assert found[0] == found[1] != found[2]


def test_score_writes_one_list_per_output_list_and_the_parts(
    recipe: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "outputs": [row["references"][0], "A lecture."]} for row in lines(records / "test.jsonl")]
    given, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert answer(["score", str(recipe), "-i", str(given), "-o", str(out), "--json"]) == 0
    means = one_object(capsys)["means"]
    written = lines(out)
    assert all(row["parts"]["chrf"][0] == pytest.approx(1.0) for row in written)
    for row in written:
        sums = [0.5 * a + 0.5 * b for a, b in zip(row["parts"]["word_frequency"], row["parts"]["chrf"], strict=True)]
        assert row["scores"] == pytest.approx(sums, abs=1e-5)
    flat = [score for row in written for score in row["scores"]]
    assert means["score"] == pytest.approx(math.fsum(flat) / len(flat))


def test_score_with_a_function(records: Path, tmp_path: Path) -> None:
    rows = [{"source": "x", "output": "four"}, {"source": "y", "output": "seven77"}]
    (tmp_path / "letters.py").write_text("def count(sources, outputs, references):\n    return [len(o) for o in outputs]\n")
    given, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert answer(["score", "letters:count", "-i", str(given), "-o", str(out)]) == 0
    assert [row["scores"] for row in lines(out)] == [[4.0], [7.0]]
    assert "parts" not in lines(out)[0]


def test_evaluate_compares_two_files(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = lines(records / "test.jsonl")
    good = write_rows(tmp_path / "good.jsonl", [{**row, "outputs": [row["references"][0]]} for row in rows])
    bad = write_rows(tmp_path / "bad.jsonl", [{**row, "output": "A lecture at the mill."} for row in rows])
    assert answer(["evaluate", str(good), "--against", str(bad), "--bootstrap", "200", "--json"]) == 0
    found = one_object(capsys)
    systems = {system["name"]: system["metrics"] for system in found["systems"]}
    assert systems[str(good)]["bleu"]["value"] == pytest.approx(100.0)
    references = [row["references"] for row in rows]
    assert systems[str(bad)]["bleu"]["value"] == pytest.approx(
        Bleu().corpus(["A lecture at the mill."] * len(rows), references)
    )
    (difference,) = [c for c in found["comparisons"] if c["metric"] == "bleu"]
    assert difference["system"] == str(good)
    assert difference["low"] > 50
    assert answer(["evaluate", str(good), "--against", str(bad), "--bootstrap", "200"]) == 0
    assert "BLEU" in capsys.readouterr().out


def test_check_writes_nothing(recipe: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(recipe.parent.rglob("*"))
    assert answer(["check", str(recipe), "--json"]) == 0
    facts = one_object(capsys)
    assert facts["train records"] == 48
    assert facts["fine-tuning steps"] == 4
    assert facts["reward chrf of the first references"] == pytest.approx(1.0)
    assert sorted(recipe.parent.rglob("*")) == before


# --- on a whole run


def test_run_prints_one_object_and_report_writes_the_page_again(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole / "run", tmp_path / "run"))
    (folder / "report.html").unlink()
    assert answer(["run", str(whole / "recipe.yaml"), "--folder", str(folder), "--json"]) == 0
    found = one_object(capsys)
    assert list(found["systems"]) == ["finetuned", "reinforced", "shuffled", "constant", "best_of_n", "mbr"]
    assert found["report"] == str(folder / "report.html")
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert answer(["report", str(folder), "--json"]) == 0
    assert one_object(capsys) == {"report": str(folder / "report.html")}
    assert (folder / "report.html").read_bytes() == page
    assert answer(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"


def test_run_without_a_folder_takes_the_recipes_name(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer(["run", str(recipe), "--set", "reinforce=null", "--set", "name=mine"]) == 0
    said = capsys.readouterr()
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert "report: runs/mine/report.html" in said.out
    assert "finetune: 4 steps to do" in said.err


def test_quickstart_says_what_its_corpus_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "first"
    quick = {
        "finetune": "{steps: 1, batch: {max_tokens: 512}, loop: {validate_every: 1, criterion: bleu, higher_is_better: true}}",
        "reinforce": "null", "reward": "[]", "audit": "null", "reward_model": "null",
        "model.width": "8", "model.heads": "2", "model.feed_forward": "8",
        "evaluation.validation_limit": "4", "evaluation.bootstrap": "100", "decoding": "{method: greedy, limit: {absolute: 4}}",
    }  # fmt: skip
    changes = [part for name, value in quick.items() for part in ("--set", f"{name}={value}")]
    assert answer(["quickstart", "--folder", str(folder), *changes]) == 0
    said = capsys.readouterr()
    assert "written by a program" in said.err
    assert "written by a program" in (folder / "report.html").read_text(encoding="utf-8")
    assert "a simulated judge made them" in said.err
    files = {"train.jsonl", "validation.jsonl", "test.jsonl", "train_comparisons.jsonl", "validation_comparisons.jsonl"}
    assert {path.name for path in (folder / "data").iterdir()} == files


def test_generate_opens_the_last_stage_of_a_run(whole: Path, records: Path, tmp_path: Path) -> None:
    """Its decoding is the recipe's: what the run itself wrote comes out again."""
    out = tmp_path / "out.jsonl"
    assert answer(["generate", str(whole / "run"), "-i", str(records / "test.jsonl"), "-o", str(out)]) == 0
    written = lines(whole / "run" / "outputs" / "reinforced.jsonl")
    assert [row["outputs"] for row in lines(out)] == [[row["output"]] for row in written]


def test_evaluate_gives_the_figures_of_the_run(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs, slots = whole / "run" / "outputs", str(whole / "slots.yaml")
    command = ["evaluate", str(outputs / "reinforced.jsonl"), "--against", str(outputs / "finetuned.jsonl"), "--json"]
    assert answer([*command, "--slots", slots, "--bootstrap", "100"]) == 0
    found = one_object(capsys)
    run = Evaluation.read(whole / "run")
    for system, name in zip(found["systems"], ("finetuned", "reinforced"), strict=True):
        assert system["name"] == str(outputs / f"{name}.jsonl")
        known = run.system(name)
        assert known is not None
        for metric in ("bleu", "chrf", "ter", "rouge_l", "length", "distinct_1", "slot_errors"):
            assert system["metrics"][metric]["value"] == pytest.approx(known.metrics[metric].value)


# --- further options of generate and score


def test_log_probs_are_the_policys_of_the_same_tokens(model: Path, records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["generate", str(model), "-i", str(records / "test.jsonl"), "-o", str(out), "--method", "sample", "--seed", "4"]
    assert answer([*command, "--returned", "2", "--temperature", "1.0"]) == 0
    policy = guerdon.load(model)
    given = lines(records / "test.jsonl")
    drawn = policy.generate([row["source"] for row in given], method="sample", returned=2, temperature=1.0, seed=4)
    sources = Padded.from_lists([ids for ids in policy.encode_sources([r["source"] for r in given]) for _ in range(2)])
    flat = [output for group in drawn for output in group]
    targets = [[*output.tokens, *([policy.policy.end_id] if output.finished else [])] for output in flat]
    with torch.no_grad():
        expected = policy.policy.eval().evaluate(sources, Padded.from_lists(targets)).log_prob.double().sum(1)
    assert [text for row in lines(out) for text in row["outputs"]] == [output.text for output in flat]
    assert [x for row in lines(out) for x in row["log_probs"]] == pytest.approx(expected.tolist(), abs=1e-4)


def test_generate_in_bfloat16_and_in_batches_of_its_own(model: Path, records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["generate", str(model), "-i", str(records / "test.jsonl"), "-o", str(out), "--method", "greedy"]
    assert answer([*command, "--precision", "bfloat16", "--batch-size", "2"]) == 0
    sources = [row["source"] for row in lines(records / "test.jsonl")]
    expected = guerdon.load(model).generate(sources, method="greedy", precision="bfloat16", batch_size=2)
    assert [row["log_probs"][0] for row in lines(out)] == [group[0].log_prob for group in expected]
    assert answer([*command, "--precision", "half"]) == 2


def test_generate_reads_a_table_with_other_names_and_forced_beginnings(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text('what,begin,n\n"title[A], kind[film]",A film,1\nkind[play],,2\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    command = ["generate", str(model), "-i", str(table), "-o", str(out), "--source", "what", "--prefix", "begin"]
    assert answer([*command, "--method", "greedy", "--max-length", "9"]) == 0
    first, second = lines(out)
    assert (first["what"], first["n"], second["n"]) == ("title[A], kind[film]", "1", "2")
    assert first["outputs"][0].startswith("A film")
    assert len(first["outputs"]) == 1


def test_score_overrides_the_recipe(recipe: Path, records: Path, tmp_path: Path) -> None:
    rows = [{**row, "output": row["references"][0]} for row in lines(records / "test.jsonl")]
    given, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    change = "reward=[{type: chrf, weight: 2.0}]"
    assert answer(["score", str(recipe), "-i", str(given), "-o", str(out), "--set", change]) == 0
    assert all(row["scores"] == [pytest.approx(2.0)] for row in lines(out))


def test_check_tells_of_a_precision_that_cannot_be_had(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["check", str(recipe), "--set", "decoding.precision=int8"]
    assert answer(given) == 0
    has_integers.cache_clear()
    monkeypatch.delattr(torch, "_int_mm")
    capsys.readouterr()
    assert answer(given) == 2
    has_integers.cache_clear()
    assert "int8 decodes a float32 model of guerdon on a CPU" in capsys.readouterr().err


def test_check_finds_what_a_run_would_stop_at(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, words in (("reinforce.sources_per_step=1000", "sources_per_step"), ("model.max_source=4", "max_source")):
        assert answer(["check", str(recipe), "--set", change, "--json"]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert words in said.err
    assert answer(["check", str(recipe)]) == 0
    assert "training pairs: " in capsys.readouterr().out


def test_check_tells_of_a_tokenizer_that_drops_no_merges(recipe: Path) -> None:
    """Before the texts are looked at, and so before anything is trained."""
    wanted = read_recipe(recipe, ["finetune.bpe_dropout=0.1"])
    with pytest.raises(ConfigurationError, match=r"finetune\.bpe_dropout.*only a tokenizer of guerdon can pass over merges"):
        check_lengths(wanted, {}, huggingface(tiny_t5))
