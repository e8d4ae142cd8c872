"""`guerdon export`: what was written is opened by the other library, and writes the same texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import guerdon
from guerdon.cli.main import answer
from guerdon.data.records import read_examples
from guerdon.decoding import DecodingOptions, LengthLimit
from guerdon.errors import GuerdonError
from guerdon.pipeline.export import export

ctranslate2 = pytest.importorskip("ctranslate2")
transformers = pytest.importorskip("transformers")


@pytest.fixture
def sharp(model: Path, tmp_path: Path) -> Path:
    """The tiny model, sure of itself: of two texts that are nearly as probable, rounding would choose."""
    generator = guerdon.load(model)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in generator.policy.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5, generator=draws)
    generator.decoding = DecodingOptions(beam_size=3, length_penalty=0.5, limit=LengthLimit(absolute=20))
    generator.save(tmp_path / "sharp")
    return tmp_path / "sharp"


def sources(records: Path) -> list[str]:
    return [example.source for example in read_examples(records / "test.jsonl").examples]


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_transformers_writes_the_same_texts(sharp: Path, records: Path, tmp_path: Path, method: str) -> None:
    generator, texts = guerdon.load(sharp), sources(records)
    if method == "greedy":
        generator.decoding = DecodingOptions(method="greedy", limit=LengthLimit(absolute=20))
        generator.save(sharp)
    found = export(str(sharp), "huggingface", tmp_path / "there")
    assert found.largest_difference < 1e-3
    assert not found.left_out
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "there")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "there")
    outputs = theirs.generate(**tokenizer(texts, return_tensors="pt", padding=True))
    wanted = [one[0].text for one in generator.generate(texts)]
    assert tokenizer.batch_decode(outputs, skip_special_tokens=True) == wanted
    assert len(set(wanted)) > 3
    back = guerdon.load(tmp_path / "there")  # and guerdon opens it as it opens any model of theirs
    targets = [text[:8] for text in texts]
    assert back.log_probs(texts, targets) == pytest.approx(generator.log_probs(texts, targets), abs=1e-3)


def test_ctranslate2_writes_the_same_texts_as_the_command_says(
    sharp: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines that the command prints are run as they stand."""
    generator, texts = guerdon.load(sharp), sources(records)
    generator.decoding = DecodingOptions(method="greedy", limit=LengthLimit(absolute=20))
    generator.save(sharp)
    assert answer(["export", str(sharp), "--to", "ctranslate2", "-o", str(tmp_path / "there"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    names: dict[str, Any] = {"sources": texts}
    exec("\n".join(said["usage"]), names)
    assert names["texts"] == [one[0].text for one in generator.generate(texts)]


def test_quantised(sharp: Path, tmp_path: Path) -> None:
    found = export(str(sharp), "ctranslate2", tmp_path / "there", "int8")
    assert 1e-3 < found.largest_difference < 30  # of weights that were made large on purpose
    assert (tmp_path / "there" / "model.bin").stat().st_size < sum(
        weight.nbytes for weight in guerdon.load(sharp).policy.parameters()
    )


def test_what_generate_cannot_say_is_told(sharp: Path, tmp_path: Path) -> None:
    generator = guerdon.load(sharp)
    limit = LengthLimit(absolute=20, ratio=1.5)
    generator.decoding = replace(generator.decoding, patience=2.0, length_normalisation="gnmt", limit=limit)
    generator.save(sharp)
    left_out = export(str(sharp), "huggingface", tmp_path / "there").left_out
    assert [line.split()[2] for line in left_out] == ["limit.ratio", "patience", "length_normalisation"]


def test_samples(sharp: Path, tmp_path: Path) -> None:
    generator = guerdon.load(sharp)
    generator.decoding = DecodingOptions(method="sample", temperature=0.7, top_p=0.9, returned=2)
    generator.save(sharp)
    export(str(sharp), "huggingface", tmp_path / "there")
    settings = json.loads((tmp_path / "there" / "generation_config.json").read_text())
    expected = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "num_return_sequences": 2}
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "onnx", "-o", "new"], "choose huggingface, ctranslate2"),
        (["--to", "ctranslate2", "-o", "new", "--quantisation", "int4"], "choose int8, float16, bfloat16"),
        (["--to", "huggingface", "-o", "new", "--quantisation", "int8"], "is for ctranslate2 only"),
        (["--to", "huggingface", "-o", "full"], "exists already"),
    ],
)
def test_bad_usage(
    sharp: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    assert answer(["export", str(sharp), *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert told in said[0]
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "full" / "kept.txt").read_text() == "kept"


def test_another_model_is_not_kept(sharp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of the other library that computes something else."""
    real = (
        transformers.MarianMTModel
        if guerdon.load(sharp).policy.options.norm == "post"
        else transformers.PegasusForConditionalGeneration
    )
    monkeypatch.setattr(
        real,
        "save_pretrained",
        lambda self, folder: (self.model.encoder.layers[0].fc1.weight.data.mul_(2), super(real, self).save_pretrained(folder)),
    )
    with pytest.raises(GuerdonError, match="another log-probability"):
        export(str(sharp), "huggingface", tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["sharp"]
