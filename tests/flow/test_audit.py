"""The verb audit on small real files: what it writes and prints, how it answers, and a fine-tuned policy's embedding."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flow.conftest import tiny_recipe, write_rows

import guerdon
from guerdon.cli.main import answer
from guerdon.data.batches import BatchOptions
from guerdon.data.tokenizer import Tokenizer
from guerdon.evaluation.audit import AuditOptions
from guerdon.evaluation.audit_wording import findings
from guerdon.generator import Generator
from guerdon.models.transformer import Transformer, TransformerOptions
from guerdon.rewards import PolicyEmbedding, SemanticSimilarity
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

FUNCTIONS = """
import random

def words(sources, outputs, references):
    return [float(len(o.split())) for o in outputs]

def dice(sources, outputs, references):
    return [random.random() for o in outputs]

def broken(sources, outputs, references):
    return [1.0 / len(o) if o else float("inf") for o in outputs]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of rewards."""
    (tmp_path / "judges.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(reward: str, records: Path, *more: str) -> list[str]:
    return ["audit", reward, "--data", str(records / "test.jsonl"), "--bootstrap", "100", *more]


def one_object(capsys: pytest.CaptureFixture[str]) -> Any:
    said = capsys.readouterr()
    assert said.err == ""
    (line,) = said.out.splitlines()
    return json.loads(line)


def test_json_and_both_files_say_the_same(recipe: Path, records: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(command(str(recipe), records, "--json", "-o", "made/audit")) == 0
    printed = one_object(capsys)
    assert json.loads((here / "made" / "audit" / "audit.json").read_text(encoding="utf-8")) == printed
    assert (here / "made" / "audit" / "audit.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert printed["reward"] == "0.5 word_frequency + 0.5 chrf"
    assert [part["name"] for part in printed["parts"]] == ["word_frequency", "chrf"]
    assert printed["normalisation"] == "running, each"
    assert printed["total"]["probes"]["empty"]["preferred"]["value"] == 0.0
    assert answer(command(str(recipe), records, "--json")) == 0
    again = one_object(capsys)
    for found in (printed, again):
        found.pop("outputs_per_second")
    assert again == printed


def test_the_table_and_the_sentences(recipe: Path, records: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change = "reward=[{type: word_frequency, reduction: sum}]"
    assert answer(command(str(recipe), records, "--set", change, "--limit", "6")) == 0
    said = capsys.readouterr().out
    assert "word_frequency: how often it prefers a probe to the reference" in said
    assert "Prefers silence to the reference for 100% of sources." in said
    assert f"records: 6 sources of {records / 'test.jsonl'}" in said
    assert "outputs a second: " in said


@pytest.mark.parametrize(
    ("requirements", "code"),
    [
        ([], 0),
        (["empty<=0.05"], 0),
        (["empty<=0.05", "doubled<=0.5"], 1),
        (["doubled<=1", "batch_dependent<=0", "nondeterministic<=0"], 0),
    ],
)
def test_the_exit_status_is_a_gate(
    requirements: list[str], code: int, records: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [part for text in requirements for part in ("--require", text)]
    assert answer(command("judges:words", records, *asked, "-o", "out")) == code
    said = capsys.readouterr().out
    assert said.count("FAILED: ") == code
    assert said.count("met: ") == len(requirements) - code
    assert (here / "out" / "audit.html").is_file()
    assert answer(command("judges:words", records, *asked, "--json")) == code
    assert [outcome["met"] for outcome in one_object(capsys)["outcomes"]].count(False) == code


def test_a_reward_that_draws_fails_the_gate(records: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(command("judges:dice", records, "--require", "nondeterministic<=0")) == 1
    assert "Is not deterministic" in capsys.readouterr().out


def test_pairs_and_fields_of_other_names(records: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (records / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    renamed = write_rows(here / "other.jsonl", [{"mr": row["source"], "gold": row["references"]} for row in rows])
    pairs = write_rows(here / "pairs.jsonl", [{"mr": row["source"], "chosen": "a b c", "rejected": "a"} for row in rows])
    asked = ["--data", str(renamed), "--source", "mr", "--references", "gold", "--pairs", str(pairs), "--pairs-source", "mr"]
    assert answer(["audit", "judges:words", *asked, "--bootstrap", "100", "--require", "disagreement<=0", "--json"]) == 0
    found = one_object(capsys)
    assert found["total"]["agreement"] == {"pairs": len(rows), "agrees": {"value": 1, "low": 1, "high": 1}, "tied": 0}


def test_a_recipe_brings_its_fields_its_slots_and_its_normalisation(
    records: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (records / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    data = {}
    for split in ("train", "validation"):
        write_rows(here / f"{split}.jsonl", [{"mr": row["source"], "references": row["references"]} for row in rows])
        data[split] = f"{split}.jsonl"
    (here / "slots.yaml").write_text("title: {}\nkind: {}\n", encoding="utf-8")
    values = tiny_recipe(here)
    values["data"] = {**data, "folder": str(here), "fields": {"source": "mr"}}
    values["evaluation"]["slots"] = "slots.yaml"
    values["reinforce"]["normalisation"] = {"kind": "batch", "order": "sum"}
    (here / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert answer(["audit", "recipe.yaml", "--data", "validation.jsonl", "--bootstrap", "100", "--json"]) == 0
    found = one_object(capsys)
    assert found["normalisation"] == "batch, sum"
    shown = found["shown"]["wrong_value"]
    title = shown["source"].split("title[")[1].split("]")[0]
    kind = shown["source"].split("kind[")[1].split("]")[0]
    assert title not in shown["probe"] or kind not in shown["probe"]


BAD = {
    "no such reward": (["judges"], "is no reward"),
    "no such function": (["judges:nothing"], "there is no 'nothing'"),
    "no such recipe": (["absent.yaml"], "no such recipe"),
    "a requirement that is none": (["judges:words", "--require", "empty"], "write for example empty<=0.05"),
    "a probe that is none": (["judges:words", "--require", "emty<=0.1"], "did you mean 'empty'"),
    "a bound of two": (["judges:words", "--require", "empty<=2"], "the bound is 2.0"),
    "nobody to disagree with": (["judges:words", "--require", "disagreement<=0.4"], "give pairs"),
    "a language": (["judges:words", "--language", "english"], "no fillers and negations"),
    "a limit of none": (["judges:words", "--limit", "0"], "0 is below 1"),
    "one record": (["judges:words", "--limit", "1"], "give records of two sources or more"),
    "few resamples": (["judges:words", "--bootstrap", "10"], "10 resamples give no 95% interval"),
    "no such field": (["judges:words", "--source", "sauce"], "did you mean 'source'"),
    "no such slots": (["judges:words", "--slots", "absent.yaml"], "name a YAML file of slot patterns"),
    "no such pairs": (["judges:words", "--pairs", "absent.jsonl"], "no such file"),
    "pairs that are none": (["judges:words", "--pairs", "judges.jsonl"], "holds no text in 'chosen'"),
    "a file for a folder": (["judges:words", "-o", "judges.py"], "cannot be written"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_one_line(name: str, records: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (reward, *more), words = BAD[name]
    write_rows(here / "judges.jsonl", [{"source": "x"}])
    assert answer([*command(reward, records, "--json"), *more]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert words in line
    assert "; " in line


def test_records_without_references_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = write_rows(here / "bare.jsonl", [{"source": "x", "references": ["a"]}, {"source": "y", "references": []}])
    assert answer(["audit", "judges:words", "--data", str(bare), "--json"]) == 2
    assert "line 2" in capsys.readouterr().err


def test_a_reward_that_is_not_finite_fails_and_says_for_what(
    records: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(command("judges:broken", records, "--json")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "reward 'broken': returned inf" in line
    assert "the empty one included" in line


def test_the_embedding_of_a_fine_tuned_policy_ignores_order(data_folder: Path, tmp_path: Path) -> None:
    """The cosine of mean token embeddings, taken from a policy that was really taught; the audit says so by itself."""
    examples = guerdon.read_examples(data_folder / "e2e" / "dev.jsonl", limit=100).examples
    tokenizer = Tokenizer.train([text for e in examples for text in (e.source, *e.references)], 600)
    torch.manual_seed(0)
    shape = TransformerOptions(tokenizer.vocabulary_size, 32, 2, 1, 1, 64, dropout=0.0, max_source=160, max_target=160)
    generator = Generator(Transformer(shape).eval(), tokenizer)
    config = guerdon.FinetuneConfig(
        steps=40,
        batch=BatchOptions(max_tokens=2048),
        optimiser=OptimiserOptions(learning_rate=4e-3, warmup_steps=20),
        loop=LoopOptions(validate_every=40, checkpoint_every=1000),
    )
    before = generator.policy.embedding.weight.detach().clone()
    guerdon.finetune(generator, examples, config, examples[:5], folder=tmp_path)
    assert not torch.equal(before, generator.policy.embedding.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the policy's embeddings move
        reward = SemanticSimilarity(PolicyEmbedding(generator.policy.embedding, tokenizer.encode))
    found = guerdon.audit(reward, examples, options=AuditOptions(resamples=100))
    assert found.total.probes["shuffled"].tied > 0.95
    assert found.total.probes["other_reference"].gap.value < -0.5
    assert any("Cannot tell shuffled words from the reference" in finding.sentence for finding in findings(found))
