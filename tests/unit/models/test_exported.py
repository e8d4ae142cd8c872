"""A policy as a model of transformers and of CTranslate2: both libraries' own arithmetic gives the policy's probabilities."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_policies import tiny_policy

from guerdon.data.padded import Padded
from guerdon.errors import CapabilityError, MissingExtraError
from guerdon.models.as_ctranslate2 import as_ctranslate2, model_files
from guerdon.models.as_huggingface import as_huggingface
from guerdon.models.transformer import Transformer

ctranslate2 = pytest.importorskip("ctranslate2")
pytest.importorskip("transformers")

NAMES = [f"t{number}" for number in range(19)]
SOURCES = Padded.from_lists([[5, 6, 7, 8, 9, 2], [12, 2], [4, 4, 10, 2]])
TARGETS = Padded.from_lists([[7, 2], [8, 9, 10, 11, 12, 4, 2], [6, 5, 2]])
KINDS = list(itertools.product(("pre", "post"), ("sinusoidal", "rotary", "learned"), ("relu", "gelu", "swiglu"), (True, False)))
SHARED = {("post", "sinusoidal"), ("pre", "sinusoidal"), ("pre", "learned")}


def policy_of(kind: tuple[Any, ...], **options: Any) -> Transformer:
    norm, positions, activation, tied = kind
    named = {"norm": norm, "positions": positions, "activation": activation, "tied_embeddings": tied}
    return tiny_policy(decoder_layers=3, **named, **options).float()


def log_probs(policy: Transformer) -> list[float]:
    with torch.no_grad():
        return list(policy.evaluate(SOURCES, TARGETS).log_prob.double().sum(1).tolist())


def translator(policy: Transformer, folder: Path) -> Any:
    spec = as_ctranslate2(policy, NAMES)
    spec.validate()
    spec.save(str(folder))
    return ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)


def named(rows: Padded) -> list[list[str]]:
    return [[NAMES[token] for token in row] for row in rows.to_lists()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_ctranslate2_scores_as_the_policy(kind: tuple[Any, ...], tmp_path: Path) -> None:
    policy = policy_of(kind)
    scored = translator(policy, tmp_path).score_batch(named(SOURCES), [row[:-1] for row in named(TARGETS)])
    assert [sum(one.log_probs) for one in scored] == pytest.approx(log_probs(policy), abs=1e-4)


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k[:2] in SHARED and k[2] != "swiglu"], ids=lambda k: "-".join(map(str, k))
)
def test_transformers_scores_as_the_policy(kind: tuple[Any, ...]) -> None:
    policy = policy_of(kind)
    inputs = torch.cat([torch.full((3, 1), 1), TARGETS.ids[:, :-1]], dim=1)
    with torch.no_grad():
        theirs = as_huggingface(policy)
        logits = theirs(
            input_ids=SOURCES.ids, attention_mask=SOURCES.mask.long(), decoder_input_ids=inputs, use_cache=False
        ).logits
    each = torch.log_softmax(logits.double(), -1).gather(-1, TARGETS.ids[:, :, None])[:, :, 0]
    assert torch.where(TARGETS.mask, each, 0.0).sum(1).tolist() == pytest.approx(log_probs(policy), abs=1e-4)


@pytest.mark.parametrize(
    "kind", [("post", "learned", "relu", True), ("pre", "rotary", "gelu", True), ("pre", "sinusoidal", "swiglu", False)]
)
def test_what_transformers_lacks_is_refused(kind: tuple[Any, ...]) -> None:
    with pytest.raises(CapabilityError, match=rf"norm: {kind[0]}, positions: {kind[1]} and activation: {kind[2]}"):
        as_huggingface(policy_of(kind))


def test_what_the_policy_never_writes_has_no_probability(tmp_path: Path) -> None:
    policy = policy_of(("post", "sinusoidal", "gelu", True))
    theirs = as_huggingface(policy)
    drawn = theirs.generate(
        input_ids=SOURCES.ids, attention_mask=SOURCES.mask.long(), do_sample=True, top_k=0, num_return_sequences=200,
        max_new_tokens=6, temperature=5.0,
    )  # fmt: skip
    written = drawn[:, 1:]
    before = torch.cumsum(written == policy.end_id, 1) - (written == policy.end_id).long()
    assert not torch.isin(written[before == 0], torch.tensor([0, 1, 3])).any()
    found = translator(policy, tmp_path).translate_batch(
        named(SOURCES) * 200, beam_size=1, sampling_topk=0, sampling_temperature=5.0, max_decoding_length=6
    )
    assert not {NAMES[0], NAMES[1], NAMES[3]} & {token for one in found for token in one.hypotheses[0]}


def test_the_policys_own_weights_stay_as_they_are(tmp_path: Path) -> None:
    """CTranslate2 quantises in place."""
    policy = policy_of(("pre", "sinusoidal", "relu", True))
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    spec = as_ctranslate2(policy, NAMES)
    spec.validate()
    spec.optimize(quantization="int8")
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())
    theirs = as_huggingface(policy)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())


def test_learned_positions_of_two_lengths() -> None:
    policy = policy_of(("pre", "learned", "relu", True), max_source=8, max_target=30)
    theirs = as_huggingface(policy)
    assert theirs.config.max_position_embeddings == 30
    assert torch.equal(theirs.model.encoder.embed_positions.weight[:8], policy.source_positions.weight)
    assert torch.equal(theirs.model.decoder.embed_positions.weight, policy.target_positions.weight)


@pytest.mark.parametrize("library", ["transformers", "ctranslate2"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(f"{library}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    policy = policy_of(("pre", "sinusoidal", "relu", True))
    with pytest.raises(MissingExtraError, match=library):
        as_huggingface(policy) if library == "transformers" else as_ctranslate2(policy, NAMES)


@pytest.mark.parametrize("quantisation", [None, "int8"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_files_in_memory_are_those_that_ctranslate2_saves(
    kind: tuple[Any, ...], quantisation: str | None, tmp_path: Path
) -> None:
    policy = policy_of(kind)
    with torch.no_grad():
        policy.encoder[0].feed_forward.project_in.weight[3] = 0.0  # a row without a scale
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    found = model_files(policy, NAMES, quantisation == "int8")
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())
    spec = as_ctranslate2(policy, NAMES)
    spec.validate()
    spec.optimize(quantization=quantisation)
    spec.save(str(tmp_path))
    assert found["model.bin"] == (tmp_path / "model.bin").read_bytes()
    for name in ("config.json", "shared_vocabulary.json"):
        assert json.loads(found[name]) == json.loads((tmp_path / name).read_text())
    assert set(found) == {path.name for path in tmp_path.iterdir()}


def test_files_in_memory_are_of_the_weights_of_the_moment() -> None:
    policy = policy_of(("pre", "sinusoidal", "gelu", True))
    scores = []
    for _ in range(2):
        memory = ctranslate2.Translator("policy", files=model_files(policy, NAMES), compute_type="float32", intra_threads=1)
        scored = memory.score_batch(named(SOURCES), [row[:-1] for row in named(TARGETS)])
        assert [sum(one.log_probs) for one in scored] == pytest.approx(log_probs(policy), abs=1e-4)
        scores.append(log_probs(policy))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(0.7)
    assert all(abs(a - b) > 1e-2 for a, b in zip(*scores, strict=True))
