"""What `decoding.py` sets side by side. Each engine lives in its own process and writes whenever it is asked."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import guerdon
from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.decoding import BeamOptions, LengthLimit, SamplingOptions, beam_search, greedy, sample, workers
from guerdon.generator import in_batches
from guerdon.models.as_huggingface import as_huggingface
from guerdon.models.packed import unchanged
from guerdon.models.precision import InferencePrecision
from guerdon.training.engine_rollouts import CTranslate2Engine, weighed
from guerdon.training.engines import ComputeType, EngineOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import Rollout

LIMIT = 96
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

    def __init__(self, model: str, precision: InferencePrecision, rows: Rows, device: str, graphs: bool = True) -> None:
        self.policy, self.precision = guerdon.load(model).policy.to(device), precision
        os.environ["GUERDON_GRAPHS"] = str(int(graphs))
        self.device, workers.AFTER = device, 0.0
        self("samples", rows[:32], 32, 0)
        while workers.running() and not workers.ready():
            time.sleep(0.1)

    def __call__(self, work: str, rows: Rows, batch: int, seed: int) -> int:
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        calls = [[i] for i in order] if work == "latency" else in_batches(order, batch, torch.device(self.device))
        with unchanged(self.policy):  # as in a call of `generate`
            return sum(self._written(work, [rows[i] for i in call], batch, seed + call[0]) for call in calls)

    def _written(self, work: str, rows: Rows, batch: int, seed: int) -> int:
        sources = Padded.from_lists(rows, self.policy.pad_id, self.device)
        limits = torch.full((len(rows),), LIMIT)
        if work == "samples":
            keys = row_keys(
                seed, "bench", 0, [i for i in range(len(rows)) for _ in range(8)], torch.arange(8).repeat(len(rows))
            )
            drawn = sample(self.policy, sources, limits, SamplingOptions(), keys, 8, precision=self.precision, batch_size=batch)
            return drawn.tokens.tokens()
        if work == "beam":
            found = beam_search(
                self.policy, sources, limits, BeamOptions(beam_size=4), precision=self.precision, batch_size=batch
            )
            return sum(len(best[0].tokens) + best[0].finished for best in found)
        written = greedy(self.policy, sources, limits, precision=self.precision, batch_size=batch)
        return sum(len(one.tokens) + one.finished for one in written)

    def outputs(self, rows: Rows) -> list[list[int]]:
        sources = Padded.from_lists(rows, self.policy.pad_id, self.device)
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
    """``generate`` of transformers; ``alike``: the caller sorts sources by length."""

    def __init__(self, model: str, dtype: torch.dtype, device: str, alike: bool) -> None:
        policy, self.device, self.alike = guerdon.load(model).policy, device, alike
        self.model, self.end, self.pad = as_huggingface(policy).to(device, dtype), policy.end_id, policy.pad_id

    def __call__(self, work: str, rows: Rows, batch: int, seed: int) -> int:
        rows = sorted(rows, key=len, reverse=True) if self.alike else rows
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
        sources = Padded.from_lists(rows, self.pad, self.device)
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
