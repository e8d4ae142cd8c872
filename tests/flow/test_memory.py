"""Memory does not grow with the number of steps: a thousand of reinforcement, with its rollouts, and of fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch

from guerdon.data.batches import BatchOptions
from guerdon.data.records import Example
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit
from guerdon.generator import Generator
from guerdon.models import Transformer, TransformerOptions
from guerdon.rewards import FunctionReward
from guerdon.stages.finetune import FinetuneConfig, finetune
from guerdon.stages.reinforce import reinforce
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.trainee import LoopOptions

WORDS = ["red", "blue", "green", "pub", "cafe", "near", "river", "city", "cheap", "good"]
EXAMPLES = [Example(f"{a} {b}", (f"{b} {a}",), f"{a}-{b}") for a in WORDS for b in WORDS]
STEPS = 1000
ALLOWED = 3e6  # bytes: 3 kB a step


def generator() -> Generator:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([f"{e.source} {e.references[0]}" for e in EXAMPLES] * 2, 300)
    options = TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 16, 0.1, max_source=24, max_target=12)
    return Generator(Transformer(options).eval(), tokenizer)


def held() -> int:
    return int(psutil.Process().memory_info().rss)


def check(seen: Sequence[int]) -> None:
    """The least of the last tenth against the least of an early one: what is only busy for a moment does not count."""
    tenth = len(seen) // 10
    assert tenth >= 10
    assert min(seen[-tenth:]) - min(seen[2 * tenth : 3 * tenth]) < ALLOWED, [value // 1000 for value in seen[::tenth]]


@pytest.mark.parametrize("overlap", [False, True])
def test_reinforcement(overlap: bool, tmp_path: Path) -> None:
    seen = []

    def watching(sources: Sequence[str], outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        seen.append(held())
        return [float(len(output)) for output in outputs]

    loop = LoopOptions(validate_every=STEPS, checkpoint_every=STEPS, criterion="reward", higher_is_better=True)
    config = ReinforceConfig(
        steps=STEPS,
        sources_per_step=2,
        samples_per_source=2,
        limit=LengthLimit(absolute=6),
        estimator="rloo",
        loop=loop,
        overlap=overlap,
    )
    reinforce(generator(), FunctionReward(watching), EXAMPLES[:80], config, EXAMPLES[80:82], folder=tmp_path)
    check(seen)


def test_fine_tuning_and_decoding(tmp_path: Path) -> None:
    seen = []
    made = generator()

    def watching(generator: Generator) -> dict[str, float]:
        seen.append(held())
        for method in ("greedy", "sample", "beam"):
            generator.generate(["red pub", "near river"], method=method, limit=LengthLimit(absolute=6))
        return {"seen": float(len(seen))}

    loop = LoopOptions(validate_every=10, checkpoint_every=STEPS, average_best=0)
    config = FinetuneConfig(steps=STEPS, batch=BatchOptions(max_tokens=64), loop=loop)
    finetune(made, EXAMPLES[:80], config, EXAMPLES[80:], watching, folder=tmp_path)
    check(seen)
