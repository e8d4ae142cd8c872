"""Reward models of every kind: what their scores depend on, and what they do not."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.reward_models import OUTPUTS, SOURCES, TOKENIZER, VARIANTS, saved, scorer, transformer
from helpers.tiny_models import in_float64
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.errors import CheckpointError, ConfigurationError, DataError
from guerdon.generator import load
from guerdon.models.reward_folder import HeadMoments, RewardScorer, load_scorers, save_scorers
from guerdon.models.reward_model import RewardBatch
from guerdon.models.reward_options import NgramOptions, RewardModelOptions, ScratchOptions
from guerdon.models.reward_text import Likelihood, by_length, delexicalise, ngram_buckets


def in_double(made: RewardScorer) -> RewardScorer:
    if made.model.options.kind == "huggingface":
        in_float64(made.model.backbone.model)
    made.model.double()
    if made.text.likelihood is not None:
        made.text.likelihood.policy.double()  # type: ignore[attr-defined]
    return made


def one_by_one(made: RewardScorer) -> Tensor:
    return torch.cat([made.scores([source], [output]) for source, output in zip(SOURCES, OUTPUTS, strict=True)])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("double", "bound"), [(False, 1e-5), (True, 1e-12)])  # surprisals are scaled by eight
def test_neither_padding_nor_batch_nor_order_changes_a_score(name: str, double: bool, bound: float) -> None:
    made = scorer(**VARIANTS[name])
    made = in_double(made) if double else made
    alone, together = one_by_one(made), made.scores(SOURCES, OUTPUTS)
    assert alone.dtype == (torch.float64 if double else torch.float32)
    assert float(together.std()) > 0.01
    assert float((alone - together).abs().max()) <= bound * max(1.0, float(alone.abs().max()))
    order = random.Random(1).sample(range(len(SOURCES)), len(SOURCES))
    turned = made.scores([SOURCES[i] for i in order], [OUTPUTS[i] for i in order])
    assert float((turned - together[order]).abs().max()) <= bound * max(1.0, float(alone.abs().max()))
    assert torch.equal(together[0], together[4])  # the same pair


@pytest.mark.parametrize("name", VARIANTS)
def test_what_stands_in_the_padding_is_never_read(name: str) -> None:
    made = in_double(scorer(**VARIANTS[name]))
    texts = made.text.encode(SOURCES[:3], OUTPUTS[:3])
    batch = RewardBatch.of(texts, range(3), made.model.pad_id)

    def filled(padded: Padded, value: int) -> Padded:
        wider = torch.nn.functional.pad(padded.ids, (0, 3), value=value)
        mask = torch.arange(wider.shape[1]) < padded.lengths[:, None]
        return Padded(wider.masked_fill(~mask, value), padded.lengths)

    other = RewardBatch(filled(batch.sources, 5), batch.rows, filled(batch.outputs, 6), filled(batch.ngrams, 7), batch.measures)
    with torch.no_grad():
        assert float((made.model(batch) - made.model(other)).abs().max()) < 1e-12


@pytest.mark.parametrize("name", [name for name in VARIANTS if "linear" not in name])
def test_source_and_output_both_count(name: str) -> None:
    made = scorer(**VARIANTS[name])
    base = made.scores(["the Cat sat"], ["a mat"])
    for source, output in (("sat Cat the", "a mat"), ("the Cat sat", "mat a"), ("the Cat sat", "a mat .")):
        assert float((made.scores([source], [output]) - base).abs().max()) > 1e-4


@pytest.mark.parametrize("kind", ["encoder_decoder", "encoder", "huggingface"])
def test_last_pooling_reads_the_state_of_the_last_real_token(kind: str) -> None:
    """Against the backbone called by hand on one pair, without padding."""
    made = in_double(scorer(kind, dropout=0.0))
    model, source, output = made.model, "the Cat sat", "a mat ."
    texts = made.text.encode([source], [output])
    ids, written = texts.sources[0], texts.outputs[0]
    given = Padded.from_lists([ids])
    with torch.no_grad():
        if kind == "encoder":
            joint = Padded.from_lists([[*ids, TOKENIZER.start_id, *written[:-1]]])
            state = model.backbone.encode(joint)[0][0, -1]
        elif kind == "huggingface":
            inputs = torch.tensor([[model.backbone.start_id, *written[:-1]]])
            seen = model.backbone.model(input_ids=given.ids, decoder_input_ids=inputs, output_hidden_states=True)
            state = seen.decoder_hidden_states[-1][0, -1]
        else:
            state = model.backbone.decode(*model.backbone.encode(given), Padded.from_lists([written]))[0, -1]
        assert model.head is not None
        expected = model.head(model.norm(state))
        assert float((made.scores([source], [output])[0] - expected).abs().max()) < 1e-12


def test_mean_and_max_are_over_the_outputs_own_positions() -> None:
    made = in_double(scorer(pooling=("last", "mean", "max")))
    texts = made.text.encode(SOURCES, OUTPUTS)
    batch = RewardBatch.of(texts, range(len(SOURCES)))
    with torch.no_grad():
        pooled = made.model.pooled(batch)
        for row, (ids, written) in enumerate(zip(texts.sources, texts.outputs, strict=True)):
            states = made.model.backbone.decode(
                *made.model.backbone.encode(Padded.from_lists([ids])), Padded.from_lists([written])
            )
            expected = torch.cat([states[0, -1], states[0].mean(0), states[0].max(0).values])
            assert float((pooled[row] - expected).abs().max()) < 1e-12


def test_an_encoder_pools_the_output_and_not_the_source() -> None:
    made = in_double(scorer("encoder", pooling=("mean", "max")))
    texts = made.text.encode(SOURCES, OUTPUTS)
    with torch.no_grad():
        pooled = made.model.pooled(RewardBatch.of(texts, range(len(SOURCES))))
        for row, (ids, written) in enumerate(zip(texts.sources, texts.outputs, strict=True)):
            joint = Padded.from_lists([[*ids, TOKENIZER.start_id, *written[:-1]]])
            own = made.model.backbone.encode(joint)[0][0, len(ids) :]
            assert len(own) == len(written)
            assert float((pooled[row] - torch.cat([own.mean(0), own.max(0).values])).abs().max()) < 1e-12


def test_the_wide_part_is_a_sum_of_weights() -> None:
    made = scorer("linear", ngrams=NgramOptions(longest=2, buckets=997, gain=3.0))
    weights = made.model.wide.weight.double()  # type: ignore[union-attr]
    options = made.model.options.ngrams
    assert options is not None
    for source, output in zip(SOURCES, OUTPUTS, strict=True):
        expected = 3.0 * sum(weights[i] for i in ngram_buckets(source, output, options))
        assert made.scores([source], [output])[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


# --- features


def test_ngrams_of_a_text() -> None:
    many = 2**31 - 1
    plain = NgramOptions(longest=2, buckets=many, relation=False)
    assert len(ngram_buckets("s", "A pub, a pub.", plain)) == len({"a", "pub", ",", "."}) + len(
        {"< a", "a pub", "pub ,", ", a", "pub .", ". >"}
    )
    assert ngram_buckets("s", "a pub", plain) == ngram_buckets("other", "A PUB", plain)
    assert ngram_buckets("s", "a pub", plain) != ngram_buckets("s", "pub a", plain)
    cased = NgramOptions(longest=1, buckets=many, relation=False, lowercase=False)
    assert ngram_buckets("s", "A", cased) != ngram_buckets("s", "a", cased)
    related = NgramOptions(longest=1, buckets=many)
    assert len(ngram_buckets("pub river", "a pub", related)) == 2 + 1 + 1  # two words; lacks river; adds a
    assert len(ngram_buckets("pub", "", related)) == 2  # the weight of silence; lacks pub
    assert all(0 <= bucket < 5 for bucket in ngram_buckets("pub", "a pub by the river", NgramOptions(buckets=5)))


def test_names_become_slots_where_the_source_has_them() -> None:
    source = "name[The Vaults], near[The Vaults Arms], eatType[pub]"
    found = delexicalise(source, "The vaults is near THE VAULTS ARMS, a pub; TheVaults.", ["name", "near"])
    assert found == ("name[name_slot], near[near_slot], eatType[pub]", "name_slot is near near_slot, a pub; TheVaults.")
    for text in ("no meaning", "name[a", "eatType[pub]"):
        assert delexicalise(text, "a name", ["name", "near"]) == (text, "a name")
    made = scorer("linear", delexicalise=("name",), ngrams=NgramOptions(buckets=997))
    scores = made.scores(["name[Aromi]", "name[Blue Spice]"], ["Aromi is good", "blue spice is good"])
    assert torch.equal(scores[0], scores[1])


def test_surprisals_are_those_of_the_policy() -> None:
    policy = transformer(4).eval()
    found = Likelihood(policy, TOKENIZER).surprisals(SOURCES, OUTPUTS)
    for row, (source, output) in enumerate(zip(SOURCES, OUTPUTS, strict=True)):
        ids = Padded.from_lists(TOKENIZER.encode_sources([source]))
        written = Padded.from_lists(TOKENIZER.encode_targets([output]))
        with torch.no_grad():
            logits = policy.double().logits(ids, written)
            policy.float()
        tokens, entropies = [], []
        for position, token in enumerate(written.to_lists()[0]):
            log_probs = torch.log_softmax(logits[position], -1).tolist()
            tokens.append(-log_probs[token])
            entropies.append(-sum(math.exp(one) * one for one in log_probs if one > -math.inf))
        excess = [token - entropy for token, entropy in zip(tokens, entropies, strict=True)]
        mean = sum(tokens) / len(tokens)
        spread = math.sqrt(sum((token - mean) ** 2 for token in tokens) / len(tokens))
        expected = [mean, max(tokens), spread, sum(tokens), tokens[-1], len(tokens), sum(entropies) / len(tokens), sum(excess)]
        expected += [sum(token > level for token in tokens) for level in (0.05, 0.2, 0.5, 1, 2, 3, 4, 6, 8)]
        expected += [sum(token > level for token in excess) for level in (0.5, 1, 2, 4)]
        assert found[row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_measure_that_is_the_same_for_all_training_outputs_is_not_blown_up() -> None:
    made = scorer("linear", surprisal=True)
    measures = made.text.encode(SOURCES, OUTPUTS).measures
    measures[:, 3] = 7.0
    made.model.standardise(measures)
    assert made.model.measure_scale[3] == 1.0
    assert made.model.measure_mean[3] == 7.0
    assert float(made.model.measure_scale[1]) == pytest.approx(float(measures[:, 1].std(correction=0)))


def test_the_gain_of_surprisals_is_a_factor_of_what_the_heads_see() -> None:
    once, twice = (scorer("linear", ngrams=NgramOptions(2, 97), surprisal=True, surprisal_gain=gain) for gain in (1.0, 2.0))
    batch = RewardBatch.of(once.text.encode(SOURCES, OUTPUTS), range(len(SOURCES)))
    assert torch.equal(2 * once.model.features(batch), twice.model.features(batch))
    with pytest.raises(ConfigurationError, match="surprisal_gain"):
        RewardModelOptions(surprisal=True, surprisal_gain=0.0)
    with pytest.raises(ConfigurationError, match="surprisal_gain"):
        RewardModelOptions(surprisal_gain=2.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), max_size=40), st.integers(1, 200))
def test_batches_hold_every_row_once_and_stay_within_the_budget(lengths: list[tuple[int, int]], budget: int) -> None:
    outputs, sources = [a for a, _ in lengths], [b for _, b in lengths]
    found = list(by_length(outputs, sources, budget))
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    for batch in found:
        size = len(batch) * (max(outputs[i] for i in batch) + max(sources[i] for i in batch))
        assert len(batch) == 1 or size <= budget


def test_an_output_is_read_up_to_the_limit_and_a_source_is_refused_beyond_it() -> None:
    made = scorer(max_output=8)
    assert torch.equal(made.scores(["s"], ["near " * 30]), made.scores(["s"], ["near " * 60]))
    with pytest.raises(DataError, match=r"source 'near near.*has \d+ tokens, and the reward model takes at most 90"):
        made.scores(["near " * 300], ["a"])


# --- folders


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_gives_back_the_same_scores(name: str, tmp_path: Path) -> None:
    moments = [HeadMoments(0.1, 5.0, -0.2, 1.5), HeadMoments(1.0, 4.0, 0.3, 0.5)]
    made = scorer(**VARIANTS[name], moments=moments)
    again = RewardScorer.load(saved(made, tmp_path / "model"))
    assert again.heads == ("a", "b")
    assert again.moments == tuple(moments)
    assert again.model.options == made.model.options
    assert torch.equal(again.scores(SOURCES, OUTPUTS), made.scores(SOURCES, OUTPUTS))
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert ("tokenizer.json" in names) == (name not in ("linear", "linear with surprisal", "huggingface"))


def test_an_ensemble_in_one_folder(tmp_path: Path) -> None:
    made = [scorer(seed=seed) for seed in (1, 2)]
    save_scorers(made, tmp_path)
    again = load_scorers(tmp_path)
    for one, other in zip(made, again, strict=True):
        assert torch.equal(one.scores(SOURCES, OUTPUTS), other.scores(SOURCES, OUTPUTS))
    assert not torch.equal(again[0].scores(SOURCES, OUTPUTS), again[1].scores(SOURCES, OUTPUTS))
    (tmp_path / "config.json").write_text(json.dumps({"kind": "reward_models", "members": []}))
    with pytest.raises(CheckpointError, match="names no members"):
        load_scorers(tmp_path)


def test_a_reward_model_is_no_policy_and_a_policy_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: is a reward model's, which writes nothing; score outputs with it"):
        load(saved(scorer(), tmp_path / "reward"))
    from guerdon.generator import Generator

    Generator(transformer(1), TOKENIZER).save(tmp_path / "policy")
    with pytest.raises(DataError, match="holds no reward model"):
        load_scorers(tmp_path / "policy")
    with pytest.raises(DataError, match="is not the configuration of a reward model"):
        RewardScorer.load(tmp_path / "policy")
    with pytest.raises(DataError, match="no such folder"):
        load_scorers(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 99}, "newer guerdon"),
        ({"moments": []}, "0 moments for 2 heads"),
        ({"options": {"kind": "quadratic"}}, "does not describe a reward model"),
        ({"options": {"nothing": 1}}, "does not describe a reward model"),
        ({"transformer": None}, "does not describe a reward model"),
        ({"moments": [{"temperature": 0.0}, {}]}, "impossible moments"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = saved(scorer(), tmp_path / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said):
        load_scorers(tmp_path / "model")


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    folder = saved(scorer(), tmp_path / "model")
    type(TOKENIZER).train(["other words"], 261).save(folder)
    with pytest.raises(CheckpointError, match=r"has \d+ tokens, and the model \d+"):
        load_scorers(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "recurrent"}, "kind: there is no 'recurrent'; choose encoder_decoder"),
        ({"kind": "linear"}, "ngrams: a linear model has nothing but n-grams"),
        ({"pooling": ()}, "pooling: "),
        ({"pooling": ("first",)}, "pooling: there is no 'first'; choose of last, mean, max"),
        ({"heads": ("a", "a")}, "heads: "),
        ({"heads": "ab"}, "heads: 'ab' is no list of names"),
        ({"dropout": 1.0}, "dropout: 1.0 is not a share"),
        ({"backbone_dropout": -0.1}, "backbone_dropout: -0.1 is not a share"),
        ({"kind": "huggingface", "scratch": ScratchOptions()}, "scratch: is given, and the kind is huggingface"),
        ({"max_source": 0}, "a limit below 1"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RewardModelOptions(**options)
    assert said in str(caught.value)


@pytest.mark.parametrize("options", [{"longest": 0}, {"buckets": 1}, {"dropout": 1.0}, {"gain": 0.0}])
def test_ngrams_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="ngrams"):
        NgramOptions(**options)


def test_a_backbone_of_shorter_texts_is_refused() -> None:
    options = RewardModelOptions(max_source=90, max_output=95)
    with pytest.raises(
        ConfigurationError, match=r"max_output: is 95 tokens \(encoder_decoder\), and the policy takes at most 90"
    ):
        options.fitted(transformer(1).options)
    joint = RewardModelOptions(kind="encoder", max_source=150, max_output=80)
    assert joint.fitted(transformer(1).options).max_source == 230
    with pytest.raises(ConfigurationError, match="max_source: is 230 tokens"):
        joint.fitted(transformer(1, positions="learned").options)


def test_moments_are_least_squares() -> None:
    import numpy as np

    scores, words = [1.0, 2.5, 2.0, 7.0], [1, 2, 3, 9]
    slope, _ = np.polyfit(words, scores, 1)
    found = HeadMoments.measure(torch.tensor(scores), words)
    assert (found.mean, found.words, found.slope) == pytest.approx((3.125, 3.75, slope))
    assert HeadMoments.measure(torch.tensor([1.0, 2.0]), [4, 4]).slope == 0.0
