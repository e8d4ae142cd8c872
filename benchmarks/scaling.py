"""How the time of sampling, of an update by reinforcement and of a training step grows with what it depends on.

    python benchmarks/scaling.py ../shared/data/multi30k/train.jsonl --output scaling.json
    python benchmarks/scaling.py ../shared/data/multi30k/train.jsonl --quick

Five sweeps, each of one quantity while the others stay at those of `Shape`: parameters (the width, and one model that is deep
instead), tokens of an output, samples of a source, sources of a step, tokens of the vocabulary. Three kinds of work:

- rollout: a step's outputs are drawn and made into texts, as `guerdon.reinforce` does and logs it;
- update: the anchor and the policy score them, backward pass, optimiser; likewise;
- training: forward and backward pass and optimiser of as many pairs, as `guerdon.finetune` does it.

Weights are random, and the end token is made impossible, so that every output has exactly the length of its point. Sources and
targets are the records' texts in one stream, cut into rows of equal length; each vocabulary is trained on them (a small corpus
gives fewer tokens than asked for: what it gives is what counts). All points of a sweep take turns, forwards and backwards, as
often as asked; a first pass is not counted. What is written: a JSON file and, beside it, a picture (.svg) with a panel for each
sweep: medians, least and most, the fitted exponent with its 95% interval, that of the last octave, and the straight line
that is nearest.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exponents import exponent, last_octave, line
from loglog import picture
from torch import nn

import guerdon
from guerdon.cli.common import progress
from guerdon.data.batches import BatchOptions
from guerdon.data.files import write_atomically
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit, workers
from guerdon.generator import Generator
from guerdon.models.options import TransformerOptions
from guerdon.models.precision import Precision
from guerdon.models.transformer import Transformer
from guerdon.rewards.function import FunctionReward
from guerdon.stages.reinforce import Reinforce
from guerdon.training.progress import Progressing
from guerdon.training.rollouts import Prompts
from guerdon.training.schedule import OptimiserOptions, build_optimiser
from guerdon.training.supervised import Pairs, Supervised, SupervisedOptions
from guerdon.training.trainee import Trainee
from guerdon.training.watch import Watch

LEAST = 3  # passes that are counted, however long they take
VALUES = {
    "width": (128, 256, 384, 512),
    "length": (8, 16, 32, 64, 128),
    "copies": (1, 2, 4, 8, 16, 32),
    "sources": (4, 8, 16, 32, 64, 128),
    "vocabulary": (1000, 2000, 4000, 8000, 16000, 32000),
}
QUICK = {"width": (32, 64), "length": (2, 4), "copies": (1, 2), "sources": (2, 4), "vocabulary": (300, 400)}
OPTIMISER = OptimiserOptions(learning_rate=1e-6, warmup_steps=0, schedule="constant")


@dataclass(frozen=True)
class Shape:
    """One point: a model, and what a step does with it."""

    width: int = 256
    layers: int = 3  # each way
    vocabulary: int = 8000
    sources: int = 16
    copies: int = 4  # samples of a source
    length: int = 16  # tokens of an output
    source_length: int = 16

    @property
    def rows(self) -> int:
        return self.sources * self.copies


@dataclass(frozen=True)
class Sweep:
    """The points of one quantity. ``apart`` is drawn beside them and not fitted."""

    title: str
    unit: str
    shapes: Sequence[Shape]
    works: Sequence[str] = ("rollout", "update", "training")
    apart: Shape | None = None


def sweeps(base: Shape, values: Mapping[str, Sequence[int]]) -> dict[str, Sweep]:
    """All of them, about ``base``."""
    shapes = {name: [replace(base, **{name: value}) for value in own] for name, own in values.items()}
    deep = replace(base, layers=4 * base.layers)
    return {
        "parameters": Sweep("Size of the model", "parameters", shapes["width"], apart=deep),
        "length": Sweep("Length of outputs", "tokens of an output", shapes["length"]),
        "samples": Sweep("Samples of a source", "samples of a source", shapes["copies"], ("rollout", "update")),
        "batch": Sweep("Batch", "sources of a step", shapes["sources"]),
        "vocabulary": Sweep("Vocabulary", "tokens of the vocabulary", shapes["vocabulary"]),
    }


class Texts:
    """The records' texts as ids, in rows of one length."""

    def __init__(self, records: Path) -> None:
        rows = [json.loads(text) for text in records.read_text("utf-8").splitlines()]
        self.texts = {name: [row[name] for row in rows] for name in ("reference", "source")}
        self._tokenizers: dict[int, Tokenizer] = {}

    def tokenizer(self, vocabulary: int) -> Tokenizer:
        if vocabulary not in self._tokenizers:
            self._tokenizers[vocabulary] = Tokenizer.train(itertools.chain(*self.texts.values()), vocabulary)
        return self._tokenizers[vocabulary]

    def rows(self, name: str, shape: Shape, count: int, length: int) -> list[list[int]]:
        texts = self.texts[name][: count * length]  # each has a token at least
        stream = itertools.cycle(itertools.chain(*self.tokenizer(shape.vocabulary).encode_batch(texts)))
        return [list(itertools.islice(stream, length)) for _ in range(count)]


def trivial(sources: list[str], outputs: list[str], references: list[Any]) -> list[float]:
    return [len(output) / 100 for output in outputs]


class Point:
    """A model of a shape, and its three kinds of work."""

    def __init__(self, shape: Shape, texts: Texts, precision: Precision) -> None:
        torch.manual_seed(1)
        tokenizer = texts.tokenizer(shape.vocabulary)
        options = TransformerOptions(
            tokenizer.vocabulary_size, shape.width, max(1, shape.width // 64), shape.layers, shape.layers, 4 * shape.width
        )
        policy = endless(Transformer(options))
        generator = Generator(policy, tokenizer)
        self.shape, self.optimiser = shape, build_optimiser(policy, OPTIMISER)
        self.parameters, self.vocabulary = sum(one.numel() for one in policy.parameters()), tokenizer.vocabulary_size

        config = guerdon.ReinforceConfig(
            sources_per_step=shape.sources, samples_per_source=shape.copies, limit=LengthLimit(shape.length),
            baseline="running_mean", precision=precision, rollout_precision=precision,
        )  # fmt: skip
        ids = texts.rows("reference", shape, 2 * shape.sources, shape.source_length)
        prompts = Prompts([guerdon.Example(text) for text in tokenizer.decode_batch(ids)], ids)
        reward = FunctionReward(trivial)
        watch = Watch(reward, prompts, config.limit, None)
        self.reinforcing = Reinforce("scaling", generator, reward, prompts, watch, config, 1)

        pairs = Pairs(
            texts.rows("reference", shape, 2 * shape.rows, shape.source_length),
            texts.rows("source", shape, 2 * shape.rows, shape.length),
        )
        batch = BatchOptions(shape.rows * (shape.source_length + shape.length))
        self.training = Supervised(
            "scaling", generator, pairs, Pairs([], []), SupervisedOptions(steps=1, batch=batch, precision=precision), 1
        )

    def x(self, quantity: str) -> int:
        own = {"parameters": self.parameters, "vocabulary": self.vocabulary, "samples": self.shape.copies}
        return {**own, "length": self.shape.length, "batch": self.shape.sources}[quantity]

    def seconds(self, works: Sequence[str], step: int) -> dict[str, float]:
        """What each work takes."""
        self._update(self.reinforcing, step)
        if self.reinforcing.metrics()["finished"]:
            raise RuntimeError(f"outputs of {self.shape} have ended by themselves: their lengths are not those of the point")
        usage = self.reinforcing.usage()
        found = dict(usage.seconds) if usage else {}
        if "training" in works:
            began = time.perf_counter()
            self._update(self.training, step)
            found["training"] = time.perf_counter() - began
        return {work: found[work] for work in works}

    def _update(self, trainee: Trainee, step: int) -> None:
        """As `guerdon.training.loop.Loop` does it."""
        for losses in trainee.updates(step):
            self.optimiser.zero_grad(set_to_none=True)
            for loss in losses:
                loss.backward()
            nn.utils.clip_grad_norm_(trainee.model.parameters(), OPTIMISER.clip_norm or 1.0)
            self.optimiser.step()


@torch.no_grad()
def endless(policy: Transformer) -> Transformer:
    """The same with weights by which the end token gets no probability, in worker processes too: one column is its own."""
    policy.embedding.weight[:, 0] = 0.0
    policy.embedding.weight[policy.end_id, 0] = -50.0
    policy.decoder_norm.weight[0], policy.decoder_norm.bias[0] = 0.0, 1.0
    return policy


def start_workers(point: Point) -> None:
    """The processes that decode, ready before the first pass as in a long run."""
    workers.AFTER = 0.0
    point.seconds(("rollout",), 1)
    while workers.running() and not workers.ready():
        time.sleep(0.1)


def measured(sweep: Sweep, texts: Texts, options: argparse.Namespace, shown: Progressing) -> tuple[list[Point], list[Any]]:
    """The points, and of each pass what each took: in turn, so that a machine that slows down slows all of them."""
    shapes = [*sweep.shapes, *([sweep.apart] if sweep.apart else [])]
    points = [Point(shape, texts, options.precision) for shape in shapes]
    began, passes = time.perf_counter(), []
    shown.begin(sweep.title, (options.repetitions + 1) * len(points))
    for step in range(1, options.repetitions + 2):
        if step > LEAST + 1 and time.perf_counter() - began > options.minutes * 60 / len(VALUES):
            break
        found = {}
        for number, at in enumerate(range(len(points)) if step % 2 else reversed(range(len(points))), 1):
            found[at] = points[at].seconds(sweep.works, step)
            shown.advance((step - 1) * len(points) + number, {"pass": step})
        passes.append([found[at] for at in range(len(points))])
    shown.end(f"({len(passes) - 1} passes)")
    return points, passes[1:]


def record(quantity: str, sweep: Sweep, points: list[Point], passes: list[Any]) -> dict[str, Any]:
    """The medians and the spread of each point, and what is fitted to each work."""
    fitted = range(len(sweep.shapes))
    x = np.array([points[at].x(quantity) for at in fitted], dtype=float)
    rows: list[dict[str, Any]] = []
    for at, point in enumerate(points):
        taken = {work: [one[at][work] for one in passes] for work in sweep.works}
        each = {
            work: {"seconds": statistics.median(own), "least": min(own), "most": max(own), "all": own}
            for work, own in taken.items()
        }
        row = {"x": point.x(quantity), "shape": asdict(point.shape), "parameters": point.parameters, "works": each}
        rows.append(
            row
            if at in fitted
            else {**row, "apart": f"{point.shape.layers} + {point.shape.layers} layers of width {point.shape.width}"}
        )
    fits = {}
    for work in sweep.works:
        times = np.array([[one[at][work] for at in fitted] for one in passes])
        straight = line(x, np.median(times, axis=0))
        fits[work] = {
            "exponent": asdict(exponent(x, times)), "last_octave": asdict(last_octave(x, times)), "line": asdict(straight)
        }  # fmt: skip
    return {"title": sweep.title, "unit": sweep.unit, "passes": len(passes), "points": rows, "fits": fits}


def told(found: dict[str, Any]) -> Iterator[str]:
    """A sweep's exponents, for a terminal."""
    for work, fit in found["fits"].items():
        whole, last, straight = fit["exponent"], fit["last_octave"], fit["line"]
        yield (
            f"  {work}: exponent {whole['value']:.2f} ({whole['low']:.2f} to {whole['high']:.2f}), last octave "
            f"{last['value']:.2f} ({last['low']:.2f} to {last['high']:.2f}); line: {straight['fixed']:.3g} s + "
            f"{straight['each']:.3g} s each, R² {straight['r2']:.4f}, at most {straight['off']:.0%} off"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="their field reference gives sources, and their field source targets")
    parser.add_argument("--repetitions", type=int, default=7, help="passes over the points of a sweep, at the most")
    parser.add_argument("--minutes", type=float, default=8.0, help=f"for all sweeps; each makes {LEAST} passes at the least")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, three passes: to see that it works")
    parser.add_argument("--output", type=Path, default=Path("scaling.json"))
    options = parser.parse_args()
    if options.repetitions < LEAST:
        parser.error(f"{options.repetitions} passes give no interval: at least {LEAST}")
    base, values = (Shape(64, 1, 400, 2, 2, 4, 4), QUICK) if options.quick else (Shape(), VALUES)
    if options.quick:
        options.repetitions = LEAST
    torch.set_num_threads(options.threads)
    texts, found = Texts(options.records), {}
    start_workers(Point(base, texts, options.precision))
    with progress(json_output=False) as shown:
        for quantity, sweep in sweeps(base, values).items():
            found[quantity] = record(quantity, sweep, *measured(sweep, texts, options, shown))
            gc.collect()  # the models of a sweep, before the next one's
            shown.say("\n".join(told(found[quantity])))
    setting = {"base": asdict(base), "precision": options.precision, "threads": options.threads, "torch": torch.__version__}
    write_atomically(options.output, [json.dumps({**setting, "sweeps": found}, indent=1, allow_nan=False).encode(), b"\n"])
    write_atomically(options.output.with_suffix(".svg"), [picture(list(found.values())).encode(), b"\n"])


if __name__ == "__main__":
    main()
