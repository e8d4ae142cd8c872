"""How fast guerdon, Hugging Face's ``generate`` and CTranslate2 write, with the same weights, for the same sources.

    python benchmarks/decoding.py runs/multi30k/finetune ../shared/data/multi30k/val.jsonl --field reference
    python benchmarks/decoding.py runs/e2e/finetune ../shared/data/e2e/dev.jsonl --works greedy samples --repetitions 9

The model is exported to both peers by `guerdon.models`. Each engine lives in a process of its own. Greedy outputs of all in
float32 are compared first: speeds of models that write other texts would compare nothing. Then each work is done in turn by
each engine, as often as asked, and the median and the spread of its tokens a second are printed, with ratios of medians to the
better Hugging Face and to CTranslate2 float32. Models of recipes/multi30k.yaml and of benchmarks/base_model.yaml read German,
which Multi30k's files call ``reference``.

"guerdon through CTranslate2" is the engine of `reinforce.rollout_engine`, for samples only. Each call hands over the weights
anew, in memory, as before each step of a run, and measures in a pass of the policy, in bfloat16 as an update would be, what the
outputs weigh; its rate without that pass is reported too ("no pass").

Tokens are those of outputs, end tokens included; encoding of sources counts as time, texts and their ids do not. Greedy and
beam search stop where the model does; samples too, so that the engines' samples differ in length a little, and their tokens a
second compare. Where several batch sizes are named, each engine uses its best, found in a first pass.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from apart import Apart, in_turn
from figures import summary, table

import guerdon
from guerdon.data.draws import row_keys
from guerdon.data.files import write_atomically
from guerdon.data.padded import Padded
from guerdon.data.records import FieldMap
from guerdon.decoding import BeamOptions, LengthLimit, SamplingOptions, beam_search, greedy, sample, workers
from guerdon.models.as_huggingface import as_huggingface
from guerdon.models.precision import Precision
from guerdon.pipeline.export import export
from guerdon.training.engine_rollouts import CTranslate2Engine, weighed
from guerdon.training.engines import ComputeType, EngineOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import Rollout

LIMIT = 96
WORKS = {  # name: (sources, batch sizes to choose from)
    "greedy": (256, (64, 128, 256)),
    "samples": (32, (32,)),
    "beam": (64, (32,)),
    "latency": (16, (1,)),
}
Rows = Sequence[Sequence[int]]


class Writer(ABC):
    """What writes."""

    @abstractmethod
    def __call__(self, work: str, rows: Rows, batch: int, seed: int) -> int:
        """How many tokens were written."""

    def rate(self, work: str, rows: Rows, batch: int, seed: int) -> float:
        """Tokens a second."""
        began = time.perf_counter()
        tokens = self(work, rows, batch, seed)
        return tokens / (time.perf_counter() - began)


class Engine(Writer):
    """What writes greedily, too, so that it can be compared."""

    @abstractmethod
    def outputs(self, rows: Rows) -> list[list[int]]:
        """The greedy outputs, without end tokens."""


class Native(Engine):
    """guerdon itself. It begins with its worker processes ready, as in a long run."""

    def __init__(self, model: str, precision: Precision, rows: Rows) -> None:
        self.policy, self.precision = guerdon.load(model).policy, precision
        workers.AFTER = 0.0
        self("samples", rows[:32], 32, 0)
        while workers.running() and not workers.ready():
            time.sleep(0.1)

    def __call__(self, work: str, rows: Rows, batch: int, seed: int) -> int:
        return sum(self._batch(work, rows[at : at + batch], seed + at) for at in range(0, len(rows), batch))

    def _batch(self, work: str, rows: Rows, seed: int) -> int:
        sources = Padded.from_lists(rows, self.policy.pad_id)
        limits = torch.full((len(rows),), LIMIT)
        if work == "samples":
            keys = row_keys(
                seed, "bench", 0, [i for i in range(len(rows)) for _ in range(8)], torch.arange(8).repeat(len(rows))
            )
            drawn = sample(self.policy, sources, limits, SamplingOptions(), keys, 8, precision=self.precision)
            return drawn.tokens.tokens()
        if work == "beam":
            found = beam_search(self.policy, sources, limits, BeamOptions(beam_size=4), precision=self.precision)
            return sum(len(best[0].tokens) + best[0].finished for best in found)
        written = greedy(self.policy, sources, limits, precision=self.precision)
        return sum(len(one.tokens) + one.finished for one in written)

    def outputs(self, rows: Rows) -> list[list[int]]:
        sources = Padded.from_lists(rows, self.policy.pad_id)
        limits = torch.full((len(rows),), LIMIT)
        return [list(one.tokens) for one in greedy(self.policy, sources, limits, precision=self.precision)]


class Refreshed(Writer):
    """CTranslate2 as the engine of rollouts, whose weights change at every step; it draws samples and nothing else."""

    def __init__(self, model: str, kind: ComputeType, measures: bool) -> None:
        self.generator, self.measures = guerdon.load(model), measures
        self.engine = CTranslate2Engine(self.generator, kind)
        options = EngineOptions("ctranslate2", kind)
        self.config = ReinforceConfig(
            samples_per_source=8, limit=LengthLimit(absolute=LIMIT), rollout_engine=options, precision="bfloat16"
        )

    def __call__(self, work: str, rows: Rows, batch: int, seed: int) -> int:
        policy = self.generator.policy
        sources = Padded.from_lists(rows, policy.pad_id)
        samples, log_q = self.engine.draw(sources, self.config.limit.of(sources, policy), 8, seed, 1)
        if self.measures:
            groups = torch.arange(len(rows)).repeat_interleave(8)
            rollout = Rollout(sources, groups.tolist(), groups, samples, [""] * len(groups))
            weighed(rollout, log_q, policy, self.config)
        return samples.tokens.tokens()


class HuggingFace(Engine):
    """``generate`` of transformers."""

    def __init__(self, model: str, dtype: torch.dtype) -> None:
        policy = guerdon.load(model).policy
        self.model, self.end, self.pad = as_huggingface(policy).to(dtype), policy.end_id, policy.pad_id

    def __call__(self, work: str, rows: Rows, batch: int, seed: int) -> int:
        return sum(self._batch(work, rows[at : at + batch], seed + at) for at in range(0, len(rows), batch))

    def _batch(self, work: str, rows: Rows, seed: int) -> int:
        torch.manual_seed(seed)
        settings: dict[str, Any] = {"num_beams": 1, "do_sample": False}
        if work == "samples":
            settings |= {"do_sample": True, "top_k": 0, "num_return_sequences": 8}
        elif work == "beam":
            settings |= {"num_beams": 4, "early_stopping": True, "length_penalty": 1.0}
        return sum(len(row) + 1 for row in self._generate(rows, settings))

    def _generate(self, rows: Rows, settings: dict[str, Any]) -> list[list[int]]:
        sources = Padded.from_lists(rows, self.pad)
        with torch.no_grad():
            found = self.model.generate(
                input_ids=sources.ids, attention_mask=sources.mask.long(), max_new_tokens=LIMIT, **settings
            )
        written = found[:, 1:].tolist()
        return [row[: row.index(self.end)] if self.end in row else row for row in written]

    def outputs(self, rows: Rows) -> list[list[int]]:
        return self._generate(rows, {"num_beams": 1, "do_sample": False})


class CTranslate2(Engine):
    """CTranslate2 with two workers of one thread each, or one worker where there is one source at a time."""

    def __init__(self, folder: Path, kind: str, names: Sequence[str], threads: int) -> None:
        import ctranslate2

        self.names, self.ids = names, {name: number for number, name in enumerate(names)}
        settings = {"compute_type": kind, "intra_threads": 1}
        self.many = ctranslate2.Translator(str(folder), inter_threads=threads, **settings)
        self.seed = ctranslate2.set_random_seed

    def __call__(self, work: str, rows: Rows, batch: int, seed: int) -> int:
        self.seed(seed)
        settings: dict[str, Any] = {"beam_size": 1}
        if work == "samples":
            settings |= {"sampling_topk": 0, "num_hypotheses": 8}
            batch = max(1, batch // 2)  # each worker one half
        elif work == "beam":
            settings |= {"beam_size": 4}
            batch = max(1, batch // 2)
        if work == "latency":
            return sum(self._count(self._translate(rows[at : at + 1], 1, settings)) for at in range(len(rows)))
        return self._count(self._translate(rows, batch, settings))

    def _translate(self, rows: Rows, batch: int, settings: dict[str, Any]) -> Any:
        named = [[self.names[token] for token in row] for row in rows]
        return self.many.translate_batch(named, max_batch_size=batch, max_decoding_length=LIMIT, **settings)

    @staticmethod
    def _count(found: Any) -> int:
        return sum(len(tokens) + 1 for one in found for tokens in one.hypotheses)

    def outputs(self, rows: Rows) -> list[list[int]]:
        found = self._translate(rows, 32, {"beam_size": 1})
        return [[self.ids[name] for name in one.hypotheses[0]] for one in found]


def refreshed(model: str, threads: int) -> dict[str, Apart]:
    """The engine of rollouts, each kind in its own process."""
    kinds = [(kind, measures) for kind in get_args(ComputeType) for measures in (True, False)]
    return {
        f"guerdon through CTranslate2 {kind}{'' if measures else ', no pass'}": Apart(
            Refreshed, model, kind, measures, threads=threads
        )
        for kind, measures in kinds
    }


def engines(model: str, rows: Rows, place: Path, threads: int) -> dict[str, Apart]:
    """Each in its own process."""
    export(model, "ctranslate2", place / "ct2")
    names = guerdon.load(model).tokenizer.tokens()
    return {
        "guerdon float32": Apart(Native, model, "float32", rows, threads=threads),
        "guerdon bfloat16": Apart(Native, model, "bfloat16", rows, threads=threads),
        "Hugging Face float32": Apart(HuggingFace, model, torch.float32, threads=threads),
        "Hugging Face bfloat16": Apart(HuggingFace, model, torch.bfloat16, threads=threads),
        "CTranslate2 float32": Apart(CTranslate2, place / "ct2", "float32", names, threads, threads=threads),
        "CTranslate2 int8": Apart(CTranslate2, place / "ct2", "int8", names, threads, threads=threads),
    }


def compared(found: dict[str, Apart], rows: Rows) -> tuple[dict[str, float], dict[str, float]]:
    """The share of greedy outputs that are guerdon's in float32, token for token; and how long those of guerdon are.

    Outputs that run to the limit are those of a model that has not learned to end: speeds would be of no use that anyone has.
    """
    outputs = {name: engine.call("outputs", rows) for name, engine in found.items()}
    wanted = outputs["guerdon float32"]
    equal = {name: sum(a == b for a, b in zip(own, wanted, strict=True)) / len(rows) for name, own in outputs.items()}
    lengths = [len(one) for one in wanted]
    return equal, {"mean": sum(lengths) / len(rows), "cut off": sum(length == LIMIT for length in lengths) / len(rows)}


def measured(found: dict[str, Apart], work: str, every: Rows, repetitions: int) -> dict[str, dict[str, Any]]:
    """Each engine's rates at its best batch size, in turn."""
    count, sizes = WORKS[work]
    rows = every[:count]
    best = {}
    for name, engine in found.items():
        tried = {size: engine.call("rate", work, rows, size, 1) for size in sizes for _ in range(2)}  # the second pass counts
        best[name] = max(tried, key=lambda size: tried[size])
    rates = in_turn(found, repetitions, lambda name, n: found[name].call("rate", work, rows, best[name], 2 + n))
    return {name: {"batch": best[name], **summary(values, "tokens/s")} for name, values in rates.items()}


def with_ratios(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same, with ratios to Hugging Face's better and to CTranslate2 float32."""
    best = max(values["tokens/s"] for name, values in found.items() if name.startswith("Hugging Face"))
    other = found["CTranslate2 float32"]["tokens/s"]
    ratios = {"× Hugging Face's best": best, "× CTranslate2 float32": other}
    return {
        name: {**one, **{against: round(one["tokens/s"] / rate, 2) for against, rate in ratios.items()}}
        for name, one in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of a model that transformers has a kind for")
    parser.add_argument("records")
    parser.add_argument("--field", default="source", help="the records' field that holds the sources")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of guerdon and Hugging Face; workers of CTranslate2"
    )
    parser.add_argument("--output", type=Path, default=Path("decoding.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        examples = guerdon.read_examples(options.records, FieldMap(source=options.field)).examples
        texts = [example.source for example in examples][:256]
        rows = guerdon.load(options.model).encode_sources(texts)
        found = engines(options.model, rows, Path(place), options.threads)
        more = refreshed(options.model, options.threads) if "samples" in options.works else {}
        shares, lengths = compared(found, rows)
        print(
            "greedy outputs equal to guerdon's in float32:", ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        )
        print(f"they have {lengths['mean']:.1f} tokens; {lengths['cut off']:.1%} are cut off at {LIMIT}")
        results = {}
        for work in options.works:
            of_work = {**found, **more} if work == "samples" else found
            results[work] = measured(of_work, work, rows, options.repetitions)
            print(f"\n{work}\n{table(with_ratios(results[work]))}", flush=True)
        for engine in [*found.values(), *more.values()]:
            engine.close()
    record = {
        "model": options.model, "threads": options.threads, "equal": shares, "lengths": lengths, "works": results,
        "torch": torch.__version__,
    }  # fmt: skip
    write_atomically(options.output, [json.dumps(record, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
