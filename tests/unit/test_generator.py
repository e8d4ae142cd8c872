"""The generator: texts in, texts out, in any order and company; folders that come back; what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import tiny_policy

from guerdon.data.padded import Padded
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import BeamOptions, DecodingOptions, LengthLimit, beam_search, changed
from guerdon.errors import CheckpointError, ConfigurationError, DataError, GuerdonError, InputError
from guerdon.generator import Generator, in_batches, load, model_folder

TOKENIZER = Tokenizer.train(["red blue green red blue green"] * 3, 270)
SOURCES = ["red", "blue and a much longer one", "", "green red", "日本", "blue", "red"]
LIMIT = LengthLimit(12)
METHODS = {
    "greedy": DecodingOptions(method="greedy", limit=LIMIT),
    "sample": DecodingOptions(method="sample", limit=LIMIT, returned=3, temperature=0.8, top_k=20),
    "beam": DecodingOptions(method="beam", limit=LIMIT, returned=2, beam_size=3, length_penalty=0.7),
}


@pytest.fixture(scope="module")
def generator() -> Generator:
    policy = tiny_policy(vocabulary=TOKENIZER.vocabulary_size, scale=0.35, max_source=40, max_target=20)
    with torch.no_grad():
        policy.embedding.weight[2] *= 2  # so that some outputs end before the limit
    return Generator(policy, TOKENIZER, DecodingOptions(limit=LIMIT))


# --- decoding


@pytest.mark.parametrize("method", METHODS)
def test_order_and_company_change_no_output(generator: Generator, method: str) -> None:
    options = METHODS[method]
    found = generator.generate(SOURCES, options)
    assert [len(group) for group in found] == [options.returned] * len(SOURCES)
    batched = generator.generate(SOURCES, options, batch_size=2)
    for one, other in zip(found, batched, strict=True):
        assert [o.tokens for o in one] == [o.tokens for o in other]
        assert [o.log_prob for o in one] == pytest.approx([o.log_prob for o in other], rel=1e-12)
    if method == "sample":  # a sample is known by the number of its source, so that equal sources differ
        assert found[0] != found[6]
        assert generator.generate(SOURCES[:2], options)[1][0].tokens == found[1][0].tokens
    else:
        assert [o.tokens for o in found[0]] == [o.tokens for o in found[6]]
        turned = generator.generate(SOURCES[::-1], options)[::-1]
        assert [[o.tokens for o in group] for group in turned] == [[o.tokens for o in group] for group in found]


@pytest.mark.parametrize("method", METHODS)
def test_an_output_is_its_tokens_and_their_probability(generator: Generator, method: str) -> None:
    options, plain = METHODS[method], DecodingOptions(method="sample", limit=LIMIT, returned=3)
    for source, group in zip(SOURCES, generator.generate(SOURCES, plain if method == "sample" else options), strict=True):
        for output in group:
            assert output.text == TOKENIZER.decode(output.tokens)
            assert output.finished == (2 not in output.tokens and len(output.tokens) < 12)
            written = [*output.tokens, 2] if output.finished else list(output.tokens)
            batch = Padded.from_lists(generator.encode_sources([source]))
            seen = generator.policy.evaluate(batch, Padded.from_lists([written]))
            assert output.log_prob == pytest.approx(seen.log_prob.sum().item(), rel=1e-10)
            if method != "beam":
                assert output.score == output.log_prob


def test_beams_are_those_of_the_search_best_first(generator: Generator) -> None:
    found = generator.generate(SOURCES, METHODS["beam"])
    sources = Padded.from_lists(generator.encode_sources(SOURCES))
    options = BeamOptions(beam_size=3, length_penalty=0.7, returned=2)
    expected = beam_search(generator.policy, sources, LIMIT.of(sources, generator.policy), options)
    for group, hypotheses in zip(found, expected, strict=True):
        assert [o.tokens for o in group] == [h.tokens for h in hypotheses]
        assert [o.score for o in group] == pytest.approx([h.score for h in hypotheses], rel=1e-12)
        assert group[0].score >= group[1].score


def test_samples_are_of_their_seed(generator: Generator) -> None:
    first = generator.generate(SOURCES, METHODS["sample"])
    assert generator.generate(SOURCES, METHODS["sample"]) == first
    assert generator.generate(SOURCES, METHODS["sample"], seed=1) != first


@pytest.mark.parametrize("method", METHODS)
def test_outputs_begin_with_their_prefix(generator: Generator, method: str) -> None:
    prefixes = ["red", "", "green", "blue r", "日", "", "b"]
    found = generator.generate(SOURCES, METHODS[method], prefixes=prefixes, batch_size=3)
    for prefix, group in zip(prefixes, found, strict=True):
        assert all(output.text.startswith(prefix) for output in group)
    free = generator.generate(SOURCES, METHODS[method])
    for row in (1, 5):  # an empty prefix forces nothing
        assert [o.tokens for o in found[row]] == [o.tokens for o in free[row]]


def test_no_sources(generator: Generator) -> None:
    assert generator.generate([]) == []
    assert generator.log_probs([], []) == []


def test_progress_is_told(generator: Generator) -> None:
    told: list[int] = []
    generator.generate(SOURCES, METHODS["greedy"], advance=told.append, batch_size=3)
    assert told == [3, 6, 7]


def test_a_gpu_is_asked_for_several_batches_at_once() -> None:
    """Their sources take each other's places there; the CPU gets batch by batch."""
    order = list(range(20, 0, -1))
    assert in_batches(order, 2, torch.device("cuda")) == [order[:16], order[16:]]
    assert in_batches(order, 8, torch.device("cpu")) == [order[:8], order[8:16], order[16:]]
    assert in_batches([], 2, torch.device("cpu")) == []


def test_the_mode_of_the_policy_is_kept(generator: Generator) -> None:
    noisy = tiny_policy(vocabulary=TOKENIZER.vocabulary_size, dropout=0.5, max_source=40)
    one = Generator(noisy, TOKENIZER, METHODS["greedy"])
    quiet = one.generate(SOURCES)
    scores = one.log_probs(SOURCES, ["red"] * 7)
    noisy.train()
    assert one.generate(SOURCES) == quiet
    assert one.log_probs(SOURCES, ["red"] * 7) == scores
    assert noisy.training
    assert not any(score != score for score in scores)


def test_log_probs_in_batches_and_end_included(generator: Generator) -> None:
    targets = ["red", "blue", "", "green", "x", "red red", "日本"]
    found = Generator(generator.policy, TOKENIZER, DecodingOptions(batch_size=2)).log_probs(SOURCES, targets)
    for source, target, log_prob in zip(SOURCES, targets, found, strict=True):
        batch = Padded.from_lists([[*TOKENIZER.encode(source), 2]])
        seen = generator.policy.evaluate(batch, Padded.from_lists([[*TOKENIZER.encode(target), 2]]))
        assert log_prob == pytest.approx(seen.log_prob.sum().item(), rel=1e-12)


# --- options


def test_single_options_may_be_changed(generator: Generator) -> None:
    base = METHODS["beam"]
    assert changed(base, {"beam_size": 5, "returned": 4}) == DecodingOptions(
        method="beam", limit=LIMIT, returned=4, beam_size=5, length_penalty=0.7
    )
    assert changed(base, {}) == base
    other = changed(base, {"method": "sample", "top_p": 0.9})  # keeps what all methods share, drops the beam's own
    assert other == DecodingOptions(method="sample", limit=LIMIT, top_p=0.9)
    assert changed(base, {"method": "greedy"}) == METHODS["greedy"]
    coarse = dataclasses.replace(base, precision="bfloat16", batch_size=3)
    assert changed(coarse, {"method": "greedy"}) == DecodingOptions("greedy", limit=LIMIT, precision="bfloat16", batch_size=3)
    assert generator.generate(SOURCES, base, method="greedy") == generator.generate(SOURCES, METHODS["greedy"])


@pytest.mark.parametrize("method", METHODS)
def test_the_precision_reaches_the_policy(method: str) -> None:
    policy = tiny_policy(vocabulary=TOKENIZER.vocabulary_size, max_source=40, max_target=20).float()
    generator = Generator(policy, TOKENIZER, METHODS[method])
    asked, start = [], policy.start
    policy.start = lambda *given: (asked.append(given[2]), start(*given))[1]  # type: ignore[method-assign]
    exact, coarse = generator.generate(SOURCES), generator.generate(SOURCES, precision="bfloat16")
    assert set(asked[: len(asked) // 2]) == {"float32"}
    assert set(asked[len(asked) // 2 :]) == {"bfloat16"}
    assert [one.log_prob for group in exact for one in group] != [one.log_prob for group in coarse for one in group]


WRONG = [
    ({"method": "greedy", "beam_size": 3}, "beam_size belongs to the method 'beam'"),
    ({"method": "beam", "temperature": 0.5}, "temperature belongs to the method 'sample'"),
    ({"method": "sample", "length_penalty": 1.0}, "length_penalty belongs to the method 'beam'"),
    ({"method": "greedy", "returned": 2}, "exactly 1 for greedy"),
    ({"method": "best"}, "there is no method 'best'"),
    ({"method": "beam", "beam_size": 2, "returned": 3}, "returned"),
    ({"returned": 0}, "decoding.returned"),
    ({"batch_size": 0}, "decoding.batch_size: 0 sources"),
    ({"beam": 3}, "decoding.beam: there is no such option"),
    ({"method": "sample", "temperature": 0.0}, "temperature"),
    ({"method": "sample", "top_p": 0.0}, "top_p"),
    ({"ngram_block": -1}, "ngram_block"),
    ({"precision": "half"}, "there is no 'half'; choose float32, bfloat16 or int8"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG)
def test_options_that_cannot_be_are_refused(generator: Generator, changes: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        generator.generate(SOURCES, **changes)
    assert "\n" not in str(caught.value)


def test_a_source_that_is_too_long_is_named(generator: Generator) -> None:
    with pytest.raises(DataError, match=r"source 2 \('xyxy.*has 61 tokens, and the policy takes at most 40.*max_source"):
        generator.generate(["red", "xy" * 30])
    with pytest.raises(DataError, match=r"target 1 .*has 31 tokens, .* at most 20.*max_target"):
        generator.log_probs(["red"], ["xyz" * 10])
    with pytest.raises(DataError, match="target 5 "):  # the number in the list, not in its batch
        Generator(generator.policy, TOKENIZER, DecodingOptions(batch_size=2)).log_probs(["red"] * 5, ["a"] * 4 + ["xyz" * 10])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda g: g.generate("red"), "sources: is one text"),
        (lambda g: g.generate(["red"], prefixes="red"), "prefixes: is one text"),
        (lambda g: g.generate(["red", "blue"], prefixes=["a"]), "1 prefixes for 2 sources"),
        (lambda g: g.generate(["red"], prefixes=["a", "b"]), "2 prefixes for 1 sources"),
        (lambda g: g.generate(["red"], prefixes=["xyz" * 5]), "prefix of 15 tokens"),
        (lambda g: g.log_probs(["red"], ["a", "b"]), "2 targets for 1 sources"),
        (lambda g: g.log_probs(["red", "blue"], ["a"]), "1 targets for 2 sources"),
        (lambda g: g.log_probs("red", "abc"), "sources: is one text"),
    ],
)
def test_texts_that_do_not_fit_together_are_refused(generator: Generator, call, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        call(generator)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_reported(generator: Generator) -> None:
    broken = tiny_policy(vocabulary=TOKENIZER.vocabulary_size)
    with torch.no_grad():
        broken.decoder_norm.weight[0] = math.nan
    for method in METHODS.values():
        with pytest.raises(GuerdonError, match=r"the policy.s logits are nan"):
            Generator(broken, TOKENIZER, method).generate(["red"])


# --- folders


@pytest.mark.parametrize("method", METHODS)
def test_it_comes_back_with_its_decoding(generator: Generator, method: str, tmp_path: Path) -> None:
    options = DecodingOptions(**{**METHODS[method].__dict__, "limit": LengthLimit(9, 1.5, 2), "ngram_block": 3})
    saved = Generator(generator.policy.float(), TOKENIZER, options)
    try:
        saved.save(tmp_path / "model")
        loaded = load(tmp_path / "model")
        assert loaded.decoding == options
        assert loaded.tokenizer.fingerprint == TOKENIZER.fingerprint
        assert loaded.generate(SOURCES) == saved.generate(SOURCES)
        assert not loaded.policy.training
    finally:
        generator.policy.double()


def test_a_run_opens_its_last_stage(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a model .* nor a run"):
        load(tmp_path)
    for stage in ("pretrain", "finetune", "reinforce"):
        Generator(generator.policy, TOKENIZER).save(tmp_path / stage)
        assert model_folder(tmp_path) == tmp_path / stage
    (tmp_path / "reinforce" / "config.json").unlink()  # a stage that was cut before its model was whole
    assert model_folder(tmp_path) == tmp_path / "finetune"
    assert load(str(tmp_path)).policy.options == generator.policy.options
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_another_models_tokenizer_is_refused(generator: Generator, tmp_path: Path) -> None:
    Generator(generator.policy, TOKENIZER).save(tmp_path)
    Tokenizer.train(["a b c d"], 400).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: has \d+ tokens, and the model \d+"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"limit": 3}', '{"limit": {"absolute": 0}}', '{"limit": {}, "method": "best"}', '{"limit": {}, "x": 1}'],
)
def test_damaged_decoding_options_are_one_clear_line(generator: Generator, text: str, tmp_path: Path) -> None:
    Generator(generator.policy, TOKENIZER).save(tmp_path)
    assert set(json.loads((tmp_path / "decoding.json").read_text())) >= {"method", "limit"}
    (tmp_path / "decoding.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"decoding\.json: is damaged") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "decoding.json").unlink()
    assert load(tmp_path).decoding == DecodingOptions()
