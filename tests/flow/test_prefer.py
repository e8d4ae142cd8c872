"""Learning from comparisons with tiny real policies, own and Hugging Face ones, against what is known of it."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flow.test_reinforce import POLICIES, own

from guerdon.data.batches import BatchOptions
from guerdon.data.comparisons import Comparison
from guerdon.data.files import write_jsonl
from guerdon.data.judgements import read_comparisons
from guerdon.data.records import Example
from guerdon.data.selection import split_by_source
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.models import Transformer, TransformerOptions
from guerdon.rewards import FunctionReward
from guerdon.stages.finetune import FinetuneConfig, finetune
from guerdon.stages.prefer import Prefer, prefer
from guerdon.training.drawn import UNDECIDED, UNUSABLE, comparisons_from_reward
from guerdon.training.preferences import PreferConfig, encode_comparisons
from guerdon.training.progress import Silent
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

WORDS = ["red", "blue", "green", "pub", "cafe", "near", "river", "city", "cheap", "good"]
SOURCES = [f"{a} {b}" for a, b in itertools.permutations(WORDS[:7], 2)]
# What is preferred can be seen in the outputs alone, whatever the source: "good" before "cheap".
COMPARISONS = [Comparison.of_pair(s, "good cheap", "cheap good", weight=1 + i % 3) for i, s in enumerate(SOURCES)]
TRAINING, HELD = split_by_source(COMPARISONS, 0.25, seed=1)


class Said(Silent):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def config(**changes: Any) -> PreferConfig:
    base = PreferConfig(
        steps=20,
        batch=BatchOptions(200),
        optimiser=OptimiserOptions(learning_rate=3e-3, warmup_steps=2, schedule="constant", weight_decay=0.0),
        loop=LoopOptions(validate_every=10, checkpoint_every=10, criterion="accuracy", higher_is_better=True, average_best=0),
    )
    return replace(base, **changes)


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def by_hand(now: Generator, start: Generator, comparisons: Sequence[Comparison], settings: PreferConfig) -> dict[str, float]:
    """Accuracy, margin and loss, one pair at a time, in plain floats."""
    sources = [c.source for c in comparisons]
    weights = [c.weight / (sum(c.weight for c in comparisons) / len(comparisons)) for c in comparisons]
    won, lost = ([c.outputs[i] for c in comparisons] for i in (0, 1))
    p, q = now.log_probs(sources, won), now.log_probs(sources, lost)
    a, b = start.log_probs(sources, won), start.log_probs(sources, lost)
    total = dict.fromkeys(("accuracy", "margin", "loss"), 0.0)
    for i, weight in enumerate(weights):
        ratio = (p[i] - a[i]) - (q[i] - b[i])
        if settings.loss == "dpo":
            margin = settings.factor * ratio
            s = settings.label_smoothing
            loss = (1 - s) * math.log(1 + math.exp(-margin)) + s * math.log(1 + math.exp(margin))
        elif settings.loss == "ipo":
            margin, loss = settings.factor * ratio, (ratio - 1 / (2 * settings.factor)) ** 2
        else:
            tokens = [len(row) for row in now.encode_targets([won[i], lost[i]])]
            chosen, rejected = math.exp(p[i] / tokens[0]), math.exp(q[i] / tokens[1])
            odds = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
            margin = math.log(odds)
            loss = -math.log(chosen) - settings.factor * math.log(odds / (1 + odds))
        total["accuracy"] += weight * (0.5 if margin == 0 else margin > 0)
        total["margin"] += weight * margin
        total["loss"] += weight * loss
    return {name: value / len(weights) for name, value in total.items()}


SETTINGS = {
    "dpo": config(),
    "smoothed": config(beta=0.5, label_smoothing=0.1),
    "ipo": config(loss="ipo", tau=0.5),
    "orpo": config(loss="orpo", odds_weight=0.5),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_held_out_pairs_are_told_apart_better_than_at_the_start(name: str, tmp_path: Path) -> None:
    generator, settings = own(), SETTINGS[name]
    start = copy.deepcopy(generator)
    outcome = prefer(generator, TRAINING, settings, HELD, folder=tmp_path, seed=2)
    first = rows(tmp_path, "validation")[0]
    assert first["step"] == 0
    if name != "orpo":
        assert first["margin"] == 0.0  # exactly: a policy that has not moved prefers nothing
        assert first["accuracy"] == pytest.approx(0.5, abs=1e-12)
    assert outcome.validation["accuracy"] > max(0.9, first["accuracy"])
    assert outcome.validation["margin"] > first["margin"]
    expected = by_hand(generator, start, HELD, settings)
    assert {key: outcome.validation[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert {key: first[key] for key in expected} == pytest.approx(by_hand(start, start, HELD, settings), rel=1e-4)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_hugging_face_policies_learn_too(name: str) -> None:
    generator = POLICIES[name]()
    pairs = [Comparison.of_pair(s, "abab", "bbaa") for s in ("c", "ddd", "ecd", "f", "gc")]
    outcome = prefer(generator, pairs[:3], config(steps=8), pairs[3:])
    assert outcome.validation["accuracy"] == 1.0


@pytest.mark.parametrize("name", SETTINGS)
def test_the_gradient_of_a_step_does_not_depend_on_its_cut(name: str) -> None:
    gradients = []
    for accumulation in (1, 4):
        generator = own()
        generator.policy.double()
        settings = replace(SETTINGS[name], accumulation=accumulation, batch=BatchOptions(400))
        pairs = encode_comparisons(generator, TRAINING, "stop")
        trainee = Prefer(generator, pairs, pairs, settings, seed=2)
        with torch.no_grad():
            for parameter in generator.policy.parameters():
                parameter.mul_(1.1)  # away from the anchor, where all margins are 0
        parts = list(trainee.losses(1))
        assert len(parts) == accumulation
        sum(parts).backward()  # type: ignore[union-attr]
        gradients.append(torch.cat([p.grad.flatten() for p in generator.policy.parameters() if p.grad is not None]))
    assert float(gradients[0].norm()) > 1e-3
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-10


def test_a_source_is_encoded_once_for_all_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, seen = own(), []
    encode = generator.policy.encode
    monkeypatch.setattr(generator.policy, "encode", lambda sources: seen.append(len(sources)) or encode(sources))
    ranked = [Comparison("red pub", ("good", "cheap", "near"), (1, 2, 3)), Comparison.of_pair("cafe", "good", "cheap")]
    pairs = encode_comparisons(generator, ranked, "stop")
    assert len(pairs) == 4
    Prefer(generator, pairs, pairs, config(), seed=1)
    assert seen == [2, 2]


def test_what_is_dropped_is_told() -> None:
    given = [
        Comparison.of_pair("red", "good", "cheap"),
        Comparison.of_pair("red", "good", "cheap"),
        Comparison("red", ("good", "cheap"), (1, 1)),
        Comparison.of_pair("red", "good", "good"),
        Comparison.of_pair("red", "good", "x" * 40),
        Comparison.of_pair("red", "cheap", "good"),
    ]
    reasons = ["repeated comparison", "nothing but ties", "two outputs that are the same text", "pair too long for the policy"]
    kept = encode_comparisons(own(), given, "skip")
    assert [(p.chosen, p.rejected) for p in kept.pairs] == [("good", "cheap"), ("cheap", "good")]
    assert kept.dropped == dict.fromkeys(reasons, 1)
    said = Said()
    prefer(own(), given, config(steps=1, too_long="skip"), HELD, progress=said)
    dropped = [line for line in said.lines if "dropped" in line]
    assert sorted(dropped) == sorted(f"prefer: 1 of the training comparisons dropped: {reason}" for reason in reasons)
    with pytest.raises(DataError, match=r"target 1 .*has \d+ tokens, and the policy takes at most 16"):
        encode_comparisons(own(), given[3:], "stop")


def test_an_output_that_the_policy_never_writes_is_refused() -> None:
    generator = own()
    generator.policy.allowed[generator.encode_targets(["good"])[0][0]] = False
    with pytest.raises(DataError, match=r"prefer, 'good cheap': the chosen output holds token \d+, which the policy never"):
        prefer(generator, TRAINING, config(), HELD)


def test_nothing_to_train_on_or_to_choose_by() -> None:
    with pytest.raises(DataError, match="no pair is left to train on"):
        prefer(own(), [Comparison("a", ("b", "c"), (1, 1))], config(), HELD)
    with pytest.raises(ConfigurationError, match="nothing measures 'accuracy'; give validation comparisons"):
        prefer(own(), TRAINING, config())
    loop = LoopOptions(criterion="bleu", higher_is_better=True)
    with pytest.raises(ConfigurationError, match="nothing measures 'bleu'"):
        prefer(own(), TRAINING, config(loop=loop), HELD)
    outcome = prefer(own(), TRAINING, config(steps=1, loop=loop), validate=lambda generator: {"bleu": 7.0})
    assert outcome.validation == {"bleu": 7.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "ppo"}, "prefer.loss: there is no 'ppo'; choose dpo, ipo, orpo"),
        ({"tau": 0.1}, "prefer.tau: belongs to the loss ipo, and the loss is dpo; take it out, or give beta"),
        ({"loss": "orpo", "beta": 0.1}, "prefer.beta: belongs to the loss dpo, and the loss is orpo"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "prefer.label_smoothing: belongs to the loss dpo"),
        ({"label_smoothing": 0.5}, "label_smoothing: 0.5 is out of range"),
        ({"beta": 0.0}, "prefer.beta: 0.0 is out of range"),
        ({"loss": "ipo", "tau": float("nan")}, "prefer.tau: nan is out of range"),
        ({"too_long": "cut"}, "prefer.too_long: there is no 'cut'"),
        ({"epochs": 1}, "needs either epochs or steps"),
        ({"loop": LoopOptions()}, "prefer.loop.criterion: nothing measures 'nll'"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_options_that_contradict_are_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PreferConfig(**{"steps": 1, **options})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# --- comparisons from a reward


def count_letters(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
    return [float(len(output)) for output in outputs]


def always_one(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
    return [1.0] * len(outputs)


EXAMPLES = [Example(source, (" ".join(WORDS[i % 4 : i % 4 + 1 + i % 5]),), str(i)) for i, source in enumerate(SOURCES)]
LIMIT = LengthLimit(absolute=40)


@pytest.fixture(scope="module")
def talker() -> Generator:
    """A policy that has learnt to write words, so that its samples end; their lengths differ."""
    tokenizer = Tokenizer.train([f" {word}" for word in WORDS] * 3, 300)
    torch.manual_seed(3)
    options = TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 32, dropout=0.0, max_source=32, max_target=40)
    made = Generator(Transformer(options).eval(), tokenizer)
    schedule = OptimiserOptions(learning_rate=1e-2, warmup_steps=5, schedule="constant")
    finetune(made, EXAMPLES, FinetuneConfig(steps=80, batch=BatchOptions(800), optimiser=schedule), EXAMPLES[:4])
    return made


def test_the_best_sample_is_paired_with_the_worst(talker: Generator) -> None:
    reward, examples = FunctionReward(count_letters), EXAMPLES[:12]
    drawn = comparisons_from_reward(talker, reward, examples, 6, 1.0, seed=5, limit=LIMIT)
    groups = talker.generate(
        [e.source for e in examples], method="sample", returned=6, temperature=1.0, seed=5, limit=LIMIT, batch_size=5
    )
    expected, dropped = [], {UNUSABLE: 0, UNDECIDED: 0}
    for example, group in zip(examples, groups, strict=True):
        texts = [o.text for o in group if o.finished and "\0" not in o.text and len(talker.tokenizer.encode(o.text)) < 40]
        lengths = sorted(map(len, texts))
        if len(texts) < 2 or lengths[0] == lengths[-1]:
            dropped[UNUSABLE if len(texts) < 2 else UNDECIDED] += 1
        else:
            expected.append((example.source, lengths[-1], lengths[0]))
    assert [(c.source, *map(len, c.outputs)) for c in drawn.comparisons] == expected
    assert len(expected) > 3
    assert drawn.dropped == {reason: count for reason, count in dropped.items() if count}
    assert all(c.meta["rewards"][0] > c.meta["rewards"][1] for c in drawn.comparisons)
    assert comparisons_from_reward(talker, reward, examples, 6, 1.0, seed=5, limit=LIMIT) == drawn
    assert comparisons_from_reward(talker, reward, examples, 6, 1.0, seed=6, limit=LIMIT) != drawn


def test_an_output_that_did_not_end_is_in_no_comparison(talker: Generator) -> None:
    short = LengthLimit(absolute=5)
    groups = talker.generate(SOURCES, method="sample", returned=4, temperature=1.0, limit=short, seed=2)
    finished = {(s, o.text): o.finished for s, group in zip(SOURCES, groups, strict=True) for o in group}
    drawn = comparisons_from_reward(talker, FunctionReward(count_letters), EXAMPLES, 4, 1.0, seed=2, limit=short)
    assert not all(finished.values())
    assert all(finished[(c.source, text)] for c in drawn.comparisons for text in c.outputs)
    assert drawn.dropped[UNUSABLE] == len(EXAMPLES) - len(drawn.comparisons) - drawn.dropped.get(UNDECIDED, 0)


def test_a_reward_without_a_difference_gives_no_comparison(talker: Generator) -> None:
    reward = FunctionReward(always_one)
    with pytest.raises(DataError, match=r"no source gives a comparison: .*samples of one reward"):
        comparisons_from_reward(talker, reward, EXAMPLES, 6, 1.0, limit=LIMIT)
    with pytest.raises(ConfigurationError, match=r"prefer\.from_reward\.samples: 1 leaves nothing to compare"):
        comparisons_from_reward(talker, reward, EXAMPLES, 1)
    with pytest.raises(DataError, match="no sources"):
        comparisons_from_reward(talker, reward, [])


def test_drawn_comparisons_come_back_from_their_file(talker: Generator, tmp_path: Path) -> None:
    drawn = comparisons_from_reward(talker, FunctionReward(count_letters), EXAMPLES, 4, 1.5, limit=LIMIT).comparisons
    assert len(drawn) > 10
    silent = [*drawn, Comparison.of_pair("red", "good", " ", annotator="a", aspect="b", weight=2.5)]
    write_jsonl(tmp_path / "a.jsonl", [c.fields() for c in silent])
    assert read_comparisons(tmp_path / "a.jsonl", empty_outputs=True).comparisons == silent


def test_a_reward_is_learnt_without_reinforcement(talker: Generator) -> None:
    """Shorter outputs are preferred, and the policy, sampled anew, writes shorter ones."""
    generator = copy.deepcopy(talker)

    def length() -> float:
        groups = generator.generate(SOURCES, method="sample", returned=4, temperature=1.0, seed=99, limit=LIMIT)
        return sum(len(output.tokens) for group in groups for output in group) / (4 * len(SOURCES))

    before, short = length(), -1.0 * FunctionReward(count_letters)
    drawn = comparisons_from_reward(generator, short, EXAMPLES, 8, 1.0, seed=1, limit=LIMIT).comparisons
    training, held = split_by_source(drawn, 0.25, seed=1)
    outcome = prefer(generator, training, config(steps=60), held)
    assert outcome.validation["accuracy"] > 0.6
    assert length() < 0.8 * before
