"""BLEU against minutes: English captions to German on Multi30k, from raw text to a trained model; guerdon or Seq2SeqTrainer.

    python benchmarks/time_to_quality.py guerdon --data ../shared/data/multi30k --output runs/quality
    python benchmarks/time_to_quality.py trainer --data ../shared/data/multi30k --output runs/quality
    python benchmarks/time_to_quality.py picture --output runs/quality

Texts are prepared as published (`captions.py`), the tokenizer is learned from the training captions, and the model has the
size of the published "tiny" Transformer (Wu et al. 2021, https://aclanthology.org/2021.acl-long.480: width 128, 4 + 4 layers,
41.02 BLEU without pictures). Both engines train on the same batches with the same schedule; guerdon then goes on for the BLEU
of each output, which the Trainer cannot. The clock starts before the captions are read; validations count. The curve is the
BLEU of greedy outputs on the validation captions, which also chooses the weights; then the test captions of 2016 are written
once, by beam search, and measured on their tokens as they are, which is what is published. The schedule of the Trainer ends
with ``--minutes``: its steps are set from the speed of a few.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from captions import captions
from curves import picture

import guerdon
from guerdon.data.batches import BatchOptions
from guerdon.data.files import write_atomically
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import DecodingOptions, LengthLimit
from guerdon.generator import Generator
from guerdon.metrics.bleu import Bleu
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer
from guerdon.training.progress import Bars
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

TEST = "test_2016_flickr"
LIMIT = 96
Write = Callable[[Sequence[str], int], list[str]]
"""Outputs for some sources, by a beam of so many (1: greedy)."""


@dataclass
class Task:
    """The data, a model to train on it, the clock, and what has been measured."""

    texts: Mapping[str, Sequence[guerdon.Example]]
    generator: Generator
    began: float
    curve: list[tuple[float, float]]

    @classmethod
    def of(cls, given: argparse.Namespace) -> Task:
        began = time.perf_counter()
        texts = captions(given.data)
        tokenizer = Tokenizer.train([text for e in texts["train"] for text in (e.source, *e.references)], given.vocabulary)
        torch.manual_seed(given.seed)
        options = TransformerOptions(
            tokenizer.vocabulary_size, given.width, 4, given.layers, given.layers, given.feed_forward,
            dropout=given.dropout, positions=given.positions or ("rotary" if given.engine == "guerdon" else "sinusoidal"),
            norm=given.norm, activation="relu", max_source=128, max_target=128,
        )  # fmt: skip
        return cls(texts, Generator(Transformer(options), tokenizer), began, [])

    def minutes(self) -> float:
        """Since the beginning."""
        return (time.perf_counter() - self.began) / 60

    def bleu(self, split: str, outputs: Sequence[str]) -> float:
        return Bleu(tokenize="none").corpus(outputs, [e.references for e in self.texts[split]])

    def validate(self, write: Write) -> float:
        """Adds a point to the curve."""
        found = self.bleu("val", write([e.source for e in self.texts["val"]], 1))
        self.curve.append((self.minutes(), found))
        return found


def by_guerdon(task: Task, given: argparse.Namespace) -> Write:
    """Trains with `guerdon.finetune`, then for ``--reinforce`` steps by `guerdon.reinforce`, for the BLEU of each output."""

    def write(sources: Sequence[str], beams: int) -> list[str]:
        common: dict[str, Any] = {"limit": LengthLimit(absolute=LIMIT), "precision": "bfloat16", "batch_size": 128}
        beam = {"beam_size": beams, "length_penalty": 1.0} if beams > 1 else {}
        options = DecodingOptions(method="beam" if beams > 1 else "greedy", **common, **beam)
        return [outputs[0].text for outputs in task.generator.generate(list(sources), options)]

    config = guerdon.FinetuneConfig(
        epochs=given.epochs, batch=BatchOptions(given.batch), precision="bfloat16", bpe_dropout=given.bpe_dropout,
        optimiser=OptimiserOptions(given.rate, given.warmup, "cosine", weight_decay=0.0, clip_norm=1.0),
        loop=LoopOptions(given.every, 1000, "bleu", higher_is_better=True, average_best=given.average),
    )  # fmt: skip
    folder, texts = given.output / "guerdon", task.texts
    with Bars() as bars:
        rest: Any = (lambda _: {"bleu": task.validate(write)}, folder, given.seed, bars)
        guerdon.finetune(task.generator, texts["train"], config, texts["val"], *rest)
        if given.reinforce:
            reward = guerdon.rewards.SentenceBleu(tokenize="none")
            guerdon.reinforce(task.generator, reward, texts["train"], reinforcement(given), texts["val"], *rest)
    task.generator.save(folder / "model")
    return write


def reinforcement(given: argparse.Namespace) -> guerdon.ReinforceConfig:
    """512 outputs a step, each compared with the others of its source, held near the fine-tuned model."""
    return guerdon.ReinforceConfig(
        steps=given.reinforce, sources_per_step=64, samples_per_source=8, estimator="rloo", limit=LengthLimit(absolute=64),
        precision="bfloat16", rollout_precision="bfloat16",
        optimiser=OptimiserOptions(given.reinforce_rate, 10, "cosine", weight_decay=0.0),
        loop=LoopOptions(50, 1000, "bleu", higher_is_better=True, average_best=3),
    )  # fmt: skip


def main() -> None:
    given = parse()
    torch.set_num_threads(given.threads)
    if given.engine == "picture":
        found = {name: json.loads((given.output / f"{name}.json").read_text()) for name in ("guerdon", "trainer")}
        curves = {name: record["curve"] for name, record in found.items()}
        write_atomically(given.output / "quality.svg", [picture(curves, "minutes", "BLEU on validation captions").encode()])
        return
    task = Task.of(given)
    if given.engine == "guerdon":
        write = by_guerdon(task, given)
    else:
        from peers.quality_trainer import by_trainer  # transformers takes seconds to import

        write = by_trainer(task, given)
    minutes = task.minutes()
    record: dict[str, Any] = {"minutes": minutes, "curve": task.curve, "bleu": {}, "options": _plain(given)}
    for split in ("val", TEST):
        outputs = write([e.source for e in task.texts[split]], 5)
        record["bleu"][split] = task.bleu(split, outputs)
        write_atomically(given.output / f"{given.engine}-{split}.txt", ["".join(f"{text}\n" for text in outputs).encode()])
    write_atomically(given.output / f"{given.engine}.json", [json.dumps(record, indent=1).encode(), b"\n"])
    print(f"{given.engine}: {minutes:.1f} minutes, BLEU with a beam of 5: {record['bleu']}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["guerdon", "trainer", "picture"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/multi30k"), help="folder of Multi30k's JSONL files")
    parser.add_argument("--output", type=Path, default=Path("runs/quality"))
    parser.add_argument("--minutes", type=float, default=60, help="that the Trainer may take")
    parser.add_argument("--epochs", type=float, default=48, help="of guerdon")
    parser.add_argument("--reinforce", type=int, default=300, help="steps of reinforcement after them")
    parser.add_argument("--reinforce-rate", type=float, default=2e-4)
    parser.add_argument("--batch", type=int, default=8192, help="source and target positions of a step")
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--every", type=int, default=250, help="steps between validations")
    parser.add_argument("--average", type=int, default=5, help="weights of how many best validations guerdon averages")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--feed-forward", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--bpe-dropout", type=float, default=0.0)
    parser.add_argument("--norm", choices=["pre", "post"], default="pre")
    parser.add_argument("--positions", help="by default rotary, which transformers has not: the Trainer has sinusoidal ones")
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _plain(given: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}


if __name__ == "__main__":
    main()
