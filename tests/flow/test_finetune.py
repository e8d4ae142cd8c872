"""Fine-tuning and pre-training of tiny models on real data: they learn, and what cannot be is refused before they begin."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from guerdon.data.batches import BatchOptions
from guerdon.data.noise import NoiseOptions
from guerdon.data.records import Example, read_examples, read_texts
from guerdon.data.tokenizer import Tokenizer
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.models.transformer import Transformer, TransformerOptions
from guerdon.quickstart.corpus import build
from guerdon.stages.finetune import FinetuneConfig, encode_pairs, finetune
from guerdon.stages.pretrain import PretrainConfig, pretrain
from guerdon.training.progress import Silent
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

LOOP = LoopOptions(validate_every=40, checkpoint_every=1000)
SCHEDULE = OptimiserOptions(learning_rate=4e-3, warmup_steps=20)


class Said(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def untrained(texts: list[str], vocabulary: int = 400, **options: object) -> Generator:
    tokenizer = Tokenizer.train(texts, vocabulary)
    torch.manual_seed(0)
    shape = {"width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 64, "dropout": 0.0}
    chosen = TransformerOptions(tokenizer.vocabulary_size, **{**shape, "max_source": 160, "max_target": 160, **options})
    return Generator(Transformer(chosen).eval(), tokenizer)


def texts_of(examples: list[Example]) -> list[str]:
    return [text for e in examples for text in (e.source, *e.references)]


def figures(folder: Path, kind: str, name: str) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if row["kind"] == kind]


def small(count: int = 30) -> list[Example]:
    return build(1)[0][:count]


def test_it_learns_real_data_to_text(data_folder: Path, tmp_path: Path) -> None:
    """A uniform guess costs ln 400 = 6.0 nats a token; after 120 steps on 200 E2E lines it is under 4."""
    examples = read_examples(data_folder / "e2e" / "train.jsonl", limit=200).examples
    examples = [dataclasses.replace(e, references=e.references[:2]) for e in examples]
    held = read_examples(data_folder / "e2e" / "dev.jsonl", limit=30).examples
    generator = untrained(texts_of(examples))
    config = FinetuneConfig(steps=120, batch=BatchOptions(2500), optimiser=SCHEDULE, loop=LOOP, label_smoothing=0.0)
    outcome = finetune(generator, examples, config, held, folder=tmp_path)
    course = figures(tmp_path, "validation", "nll")
    assert len(course) == 3
    assert outcome.validation["nll"] == min(course) == course[-1] < 4.0
    assert course[0] > course[1] > course[2]
    assert figures(tmp_path, "train", "nll")[0] > 5.5


def test_pretraining_learns_to_restore_real_text(data_folder: Path, tmp_path: Path) -> None:
    texts = read_texts(data_folder / "rawtext_en" / "train.jsonl", "text")[:200]
    held = read_texts(data_folder / "rawtext_en" / "valid.jsonl", "text")[:20]
    generator = untrained(texts)
    config = PretrainConfig(
        steps=80,
        batch=BatchOptions(2500),
        optimiser=SCHEDULE,
        loop=LOOP,
        max_length=64,
        noise=NoiseOptions(0.15, deletion=0.05),
    )
    outcome = pretrain(generator, texts, config, held, folder=tmp_path)
    course = figures(tmp_path, "validation", "nll")
    assert outcome.validation["nll"] == course[-1] < course[0] < 5.5
    assert figures(tmp_path, "train", "nll")[0] > 5.7


def test_it_learns_a_small_task_by_heart() -> None:
    """Sixteen pairs, seen again and again: greedy outputs are the references."""
    words = ["red", "blue", "green", "grey"]
    examples = [Example(f"{a} {b}", (f"{b} and {a}",)) for a in words for b in words]
    generator = untrained(texts_of(examples), 290, positions="rotary")
    config = FinetuneConfig(
        steps=150,
        batch=BatchOptions(2000),
        optimiser=SCHEDULE,
        loop=dataclasses.replace(LOOP, validate_every=50),
        label_smoothing=0.0,
    )
    finetune(generator, examples, config, examples)
    found = generator.generate([e.source for e in examples], method="greedy")
    assert [group[0].text for group in found] == [e.references[0] for e in examples]
    assert generator.log_probs([e.source for e in examples], [e.references[0] for e in examples])[0] > -0.5


def test_the_weights_end_as_those_that_validated_best() -> None:
    examples = small()
    generator = untrained(texts_of(examples))
    told: list[float] = []

    def measure(generator: Generator) -> dict[str, float]:
        """Best at the second of the three validations, and at whatever comes behind them."""
        told.append(generator.policy.decoder_norm.weight[0].item())
        return {"score": [1.0, 3.0, 2.0, 3.0][len(told) - 1]}

    loop = LoopOptions(validate_every=2, checkpoint_every=100, criterion="score", higher_is_better=True)
    outcome = finetune(generator, examples, FinetuneConfig(steps=6, loop=loop), validate=measure)
    assert outcome.validation == {"score": 3.0}
    assert generator.policy.decoder_norm.weight[0].item() == told[3] == told[1]
    assert told[1] not in (told[0], told[2])


def test_every_reference_is_a_pair_and_the_first_validates(tmp_path: Path) -> None:
    examples = [Example("a b", ("c", "d")), Example("e", ("f",)), Example("g")]
    generator = untrained(["a b c d e f g"] * 3, 280)
    outcome = finetune(
        generator, examples, FinetuneConfig(steps=3, loop=LoopOptions(validate_every=10)), examples, folder=tmp_path
    )
    assert figures(tmp_path, "train", "rows") == [3, 3, 3]
    scores = generator.log_probs(["a b", "e"], ["c", "f"])
    tokens = sum(map(len, generator.encode_targets(["c", "f"])))
    assert outcome.validation["nll"] == pytest.approx(-sum(scores) / tokens, rel=1e-5)


def test_pairs_that_are_too_long_stop_or_are_skipped_and_counted() -> None:
    examples = [Example("a", ("b",)), Example("a" * 90, ("b",)), Example("a", ("b" * 30,)), Example("c", ("d",))]
    generator = untrained(["x"], 260 + 4, max_source=40, max_target=20)
    loop = LoopOptions(validate_every=10)
    with pytest.raises(DataError, match=r"source 2 .*has \d+ tokens, and the policy takes at most 40"):
        finetune(generator, examples, FinetuneConfig(steps=1, loop=loop), examples[:1])
    with pytest.raises(DataError, match="source 1 "):
        finetune(generator, examples[:1], FinetuneConfig(steps=1, loop=loop), examples[1:2])
    said = Said()
    skipping = FinetuneConfig(steps=1, loop=loop, too_long="skip")
    finetune(generator, examples, skipping, examples, progress=said)
    assert [line for line in said.lines if "skipped" in line] == [
        "finetune: 2 of 4 pairs skipped, which are too long for the policy"
    ] * 2
    kept = encode_pairs(generator, [("a" * 39, "b" * 19), ("a" * 40, "b"), ("a", "b" * 20)], "skip")
    assert [(len(s), len(t)) for s, t in zip(kept.sources, kept.targets, strict=True)] == [(40, 20)]
    with pytest.raises(DataError, match="no pair"):
        finetune(generator, examples[1:3], skipping, examples)


def test_dropped_merges_change_the_pieces_trained_on_and_not_those_validated_on(tmp_path: Path) -> None:
    """With every merge dropped a text is its bytes; one that has no room for them (the second) keeps its pieces."""
    examples = [Example("red red", ("blue and red",)), Example("green", ("a word of many letters: " + "green" * 9,))]
    untrained_one = untrained(texts_of(examples) * 3, 290, max_target=60)
    merged = [len(row) for row in untrained_one.encode_targets(["blue and red", examples[1].references[0]])]
    assert merged[1] <= 60 < len(examples[1].references[0]) + 1
    before = -sum(untrained_one.log_probs(["red red"], ["blue and red"])) / merged[0]
    quick = LoopOptions(validate_every=10)
    config = FinetuneConfig(steps=2, loop=quick, bpe_dropout=1.0, optimiser=OptimiserOptions(learning_rate=1e-12))
    outcome = finetune(untrained_one, examples, config, examples[:1], folder=tmp_path)
    assert figures(tmp_path, "train", "tokens") == [len("blue and red") + 1 + merged[1]] * 2
    assert outcome.validation["nll"] == pytest.approx(before, rel=1e-4)


def test_merges_are_dropped_by_chance_and_training_learns(tmp_path: Path) -> None:
    examples = small(200)
    generator = untrained(texts_of(examples))
    usual = sum(map(len, generator.encode_targets([r for e in examples for r in e.references])))
    config = FinetuneConfig(epochs=6, batch=BatchOptions(2500), optimiser=SCHEDULE, loop=LOOP, bpe_dropout=0.1)
    finetune(generator, examples, config, examples[:20], folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    tokens = [sum(row["tokens"] for row in trained if row["epoch"] == epoch) for epoch in range(6)]
    assert len(set(tokens)) > 1
    assert all(1.02 * usual < count < 1.6 * usual for count in tokens)
    assert trained[-1]["nll"] < 0.7 * trained[0]["nll"]


def test_only_guerdons_tokenizer_can_drop_merges() -> None:
    class Characters:
        end_id = 2

        def encode_sources(self, texts: list[str]) -> list[list[int]]:
            return [[*(3 + ord(letter) % 200 for letter in text), 2] for text in texts]

        encode_targets = encode_sources

        def encode_prefixes(self, texts: list[str]) -> list[list[int]]:
            return [row[:-1] for row in self.encode_sources(texts)]

        def decode_batch(self, rows: list[list[int]]) -> list[str]:
            return ["" for _ in rows]

    generator = Generator(untrained(["a b"] * 3, 280).policy, Characters())
    examples = [Example("a", ("b",))]
    with pytest.raises(ConfigurationError, match=r"bpe_dropout.*only a tokenizer of guerdon"):
        finetune(generator, examples, FinetuneConfig(steps=1, bpe_dropout=0.1), examples)
    with pytest.raises(ConfigurationError, match=r"1\.5 is no probability"):
        FinetuneConfig(steps=1, bpe_dropout=1.5)


BLEU = LoopOptions(criterion="bleu", higher_is_better=True)


@pytest.mark.parametrize(
    ("config", "held", "named"),
    [
        ({}, [], "nothing measures 'nll'"),
        ({}, [Example("a")], "nothing measures 'nll'"),
        ({"loop": BLEU}, [Example("a", ("b",))], "nothing measures 'bleu'"),
    ],
)
def test_a_criterion_that_nothing_measures_is_refused_at_once(
    config: dict, held: list[Example], named: str, tmp_path: Path
) -> None:
    generator = untrained(["a b"], 264)
    with pytest.raises(ConfigurationError, match=named) as caught:
        finetune(generator, [Example("a", ("b",))], FinetuneConfig(steps=1, **config), held, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_refused() -> None:
    generator = untrained(["a b"], 264)
    with pytest.raises(DataError, match="no pair of source and reference"):
        finetune(generator, [Example("a")], FinetuneConfig(steps=1), [Example("a", ("b",))])
    with pytest.raises(ConfigurationError, match="choose stop or skip"):
        FinetuneConfig(steps=1, too_long="ignore")
    with pytest.raises(DataError, match="no text"):
        pretrain(generator, [], PretrainConfig(steps=1), ["a"])
    with pytest.raises(DataError, match="no text"):
        pretrain(generator, ["a"], PretrainConfig(steps=1), [""])
    with pytest.raises(ConfigurationError, match="max_length"):
        PretrainConfig(steps=1, max_length=1)
    with pytest.raises(ConfigurationError, match="nothing measures 'bleu'"):
        PretrainConfig(steps=1, loop=BLEU)
    with pytest.raises(ConfigurationError, match="raise max_source, max_target"):
        pretrain(untrained(["a"], 264, max_target=1), ["a"], PretrainConfig(steps=1), ["a"])

    class Plain:
        """A text side without a mask token, as that of most Hugging Face models."""

        encode_prefixes = generator.tokenizer.encode_prefixes

    with pytest.raises(ConfigurationError, match="no mask token"):
        pretrain(Generator(generator.policy, Plain()), ["a"], PretrainConfig(steps=1), ["a"])


# --- what pre-training sees


def noted(texts: list[str], config: PretrainConfig, steps: int, folder: Path, seed: int = 0) -> tuple[list[dict], Generator]:
    """Every pair of every step: a gradient is spoiled, so that each is skipped and its batch kept."""
    generator = untrained(["one two three four five six. " * 3], 300)
    generator.policy.decoder_norm.bias.register_hook(lambda gradient: gradient * math.nan)
    config = dataclasses.replace(config, steps=steps, loop=LoopOptions(validate_every=1000, max_skipped=steps + 1))
    pretrain(generator, texts, config, ["one two."], folder=folder, seed=seed)
    lines = (folder / "skipped_steps.jsonl").read_text().splitlines()
    assert len(lines) == steps
    return [pair for line in lines for pair in json.loads(line)["batch"]], generator


def test_each_epoch_corrupts_anew_and_the_text_is_always_the_target(tmp_path: Path) -> None:
    texts = [f"{a} one two three. {b} four five six seven." for a in ("red", "blue") for b in ("green", "grey")]
    config = PretrainConfig(steps=1, batch=BatchOptions(10_000), noise=NoiseOptions(infilling=0.3))
    rows, _ = noted(texts, config, 3, tmp_path / "once")
    assert len(rows) == 12
    for pair in range(4):
        versions = [row for row in rows if row["pair"] == pair]
        assert {row["target"] for row in versions} == {texts[pair]}
        assert len({row["source"] for row in versions}) == 3
    again, _ = noted(texts, config, 3, tmp_path / "again")
    assert again == rows
    other, _ = noted(texts, config, 3, tmp_path / "other", seed=1)
    assert [row["source"] for row in other] != [row["source"] for row in rows]


def test_long_texts_are_cut_between_sentences_and_inside_longer_ones_and_lose_nothing(tmp_path: Path) -> None:
    texts = ["one two. three four five. six.", "x" * 50, "", "a. b. c. " * 10]
    config = PretrainConfig(steps=1, batch=BatchOptions(10_000), max_length=12)
    rows, generator = noted(texts, config, 1, tmp_path)
    rows.sort(key=lambda row: row["pair"])
    assert "".join(row["target"] for row in rows) == "".join(texts)
    assert [row["pair"] for row in rows] == list(range(len(rows)))
    for row in rows:
        assert 1 <= len(generator.tokenizer.encode(row["target"])) <= 11


def test_recomputed_activations_train_to_the_same_bits() -> None:
    examples, weights = small(), []
    for recompute in (False, True):
        generator = untrained(texts_of(examples), dropout=0.2)
        loop = dataclasses.replace(LOOP, recompute=recompute)
        config = FinetuneConfig(steps=4, batch=BatchOptions(1500), optimiser=SCHEDULE, loop=loop, precision="bfloat16")
        finetune(generator, examples, config, examples[:2], seed=3)
        assert generator.policy.recompute is recompute
        weights.append(torch.cat([weight.detach().flatten() for weight in generator.policy.parameters()]))
    assert torch.equal(*weights)
