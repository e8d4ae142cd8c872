"""What `training.py` sets side by side. Each engine lives in its own process and trains some steps whenever it is asked."""

from __future__ import annotations

import json
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import guerdon
from guerdon.data.batches import BatchOptions, batches
from guerdon.data.padded import Padded
from guerdon.data.tokenizer import Tokenizer
from guerdon.generator import Generator
from guerdon.models.as_huggingface import as_huggingface
from guerdon.models.attention import sinusoids
from guerdon.models.options import TransformerOptions
from guerdon.models.precision import Precision
from guerdon.models.transformer import Transformer
from guerdon.training.progress import Silent
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

UNCOUNTED = 5  # first steps of each call: threads wake, kernels are built
SMOOTHING, CLIP, RATE = 0.1, 1.0, 5e-4


@dataclass(frozen=True)
class Setting:
    """What all engines train, and on what."""

    tokenizer: Path
    records: Path
    width: int
    heads: int
    layers: int
    feed_forward: int
    max_tokens: int
    rows: int
    steps: int
    threads: int
    device: str

    def read(self) -> list[guerdon.Example]:
        rows = map(json.loads, self.records.read_text("utf-8").splitlines())
        return [guerdon.Example(row["reference"], (row["source"],)) for row in rows]

    def generator(self) -> Generator:
        torch.manual_seed(1)
        tokenizer = Tokenizer.load(self.tokenizer)
        options = TransformerOptions(
            tokenizer.vocabulary_size, self.width, self.heads, self.layers, self.layers, self.feed_forward,
            dropout=0.1, norm="post", max_source=256, max_target=256,
        )  # fmt: skip
        return Generator(Transformer(options).to(self.device), tokenizer)

    def pairs(self, generator: Generator) -> tuple[list[list[int]], list[list[int]]]:
        examples = self.read()
        sources = generator.encode_sources([example.source for example in examples])
        return sources, generator.encode_targets([example.references[0] for example in examples])


class Native:
    """`guerdon.finetune`, with everything that a run does: its log, its first checkpoint, its schedule."""

    def __init__(self, setting: Setting, precision: Precision) -> None:
        self.setting, self.examples, self.generator = setting, setting.read(), setting.generator()
        self.config = guerdon.FinetuneConfig(
            steps=setting.steps,
            batch=BatchOptions(setting.max_tokens),
            label_smoothing=SMOOTHING,
            precision=precision,
            optimiser=OptimiserOptions(learning_rate=RATE, warmup_steps=0, schedule="constant", clip_norm=CLIP),
            loop=LoopOptions(validate_every=10_000, checkpoint_every=10_000),
        )

    def rate(self, repetition: int) -> tuple[float, float]:
        """Target tokens a second, and the share of positions that hold tokens."""
        with tempfile.TemporaryDirectory() as place:
            guerdon.finetune(
                self.generator, self.examples, self.config, self.examples[:1], None, Path(place), repetition, Silent()
            )
            tokens = self._logged(Path(place) / "metrics.jsonl", "tokens")
            seconds = self._logged(Path(place) / "timings.jsonl", "seconds")
        return sum(tokens[UNCOUNTED:]) / sum(seconds[UNCOUNTED:]), self._fill(repetition)

    def _logged(self, path: Path, name: str) -> list[float]:
        rows = map(json.loads, path.read_text("utf-8").splitlines())
        return [row[name] for row in rows if name in row and "step" in row]

    def _fill(self, seed: int) -> float:
        sources, targets = self.setting.pairs(self.generator)
        steps = batches(sources, targets, BatchOptions(self.setting.max_tokens), seed)
        return _filled([next(steps)[2] for _ in range(self.setting.steps)])


class Trainer:
    """Hugging Face's Seq2SeqTrainer and its own batches."""

    def __init__(self, setting: Setting, half: bool, order: str) -> None:
        self.setting, self.half, self.order = setting, half, order
        generator = setting.generator()
        self.model, self.pad = as_huggingface(generator.policy).train(), generator.policy.pad_id
        sources, targets = setting.pairs(generator)
        self.rows = [{"input_ids": s, "labels": t} for s, t in zip(sources, targets, strict=True)]
        self.filled = self.positions = self.targets = 0

    def rate(self, repetition: int) -> tuple[float, float]:
        """As `Native.rate`."""
        from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

        moments: list[tuple[float, int]] = []
        engine = self

        class Clock(TrainerCallback):
            def on_step_end(self, *given: Any, **named: Any) -> None:
                moments.append((time.perf_counter(), engine.targets))

        self.filled = self.positions = self.targets = 0
        with tempfile.TemporaryDirectory() as place:
            arguments = Seq2SeqTrainingArguments(
                output_dir=place, per_device_train_batch_size=self.setting.rows, train_sampling_strategy=self.order,
                max_steps=self.setting.steps, learning_rate=RATE, lr_scheduler_type="constant", max_grad_norm=CLIP,
                label_smoothing_factor=SMOOTHING, bf16=self.half, use_cpu=self.setting.device == "cpu",
                save_strategy="no", logging_steps=100,
                disable_tqdm=True, report_to="none", seed=repetition, remove_unused_columns=False,
            )  # fmt: skip
            trainer = Seq2SeqTrainer(self.model, arguments, self._collate, self.rows, callbacks=[Clock()])
            trainer.train()
        (began, before), (ended, after) = moments[UNCOUNTED - 1], moments[-1]
        return (after - before) / (ended - began), self.filled / self.positions

    def _collate(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Counts what it makes: with no loader of its own process, a batch is made right before its step."""
        sources = Padded.from_lists([row["input_ids"] for row in rows], self.pad)
        targets = Padded.from_lists([row["labels"] for row in rows], self.pad)
        self.targets += targets.tokens()
        self.filled += targets.tokens() + sources.tokens()
        self.positions += targets.ids.numel() + sources.ids.numel()
        labels = targets.ids.masked_fill(~targets.mask, -100)
        given = self.model.prepare_decoder_input_ids_from_labels(labels)
        return {
            "input_ids": sources.ids, "attention_mask": sources.mask.long(), "labels": labels, "decoder_input_ids": given,
        }  # fmt: skip


class Plain(ABC):
    """A loop of one's own: batches of tokens, cross-entropy of all positions, AdamW. What computes logits is a subclass's."""

    def __init__(self, setting: Setting, half: bool) -> None:
        self.setting, self.half, self.generator = setting, half, setting.generator()
        self.pairs = setting.pairs(self.generator)
        self.model = self.made().to(setting.device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=RATE, betas=(0.9, 0.98), fused=True)

    @abstractmethod
    def made(self) -> nn.Module:
        """The model, with random weights."""

    @abstractmethod
    def logits(self, sources: Padded, given: Tensor, mask: Tensor) -> Tensor:
        """The logits of every target position."""

    def rate(self, repetition: int) -> tuple[float, float]:
        """As `Native.rate`."""
        steps = batches(*self.pairs, BatchOptions(self.setting.max_tokens), repetition)
        drawn = [next(steps)[2] for _ in range(self.setting.steps)]
        for batch in drawn[:UNCOUNTED]:
            self._step(batch)
        began = time.perf_counter()
        for batch in drawn[UNCOUNTED:]:
            self._step(batch)
        if self.setting.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return sum(batch.targets.tokens() for batch in drawn[UNCOUNTED:]) / seconds, _filled(drawn)

    def _step(self, batch: Any) -> None:
        sources, targets = batch.sources.to(self.setting.device), batch.targets.to(self.setting.device)
        ids, mask = targets.ids, targets.mask
        given = torch.cat([ids.new_full((len(ids), 1), self.generator.policy.start_id), ids[:, :-1]], dim=1)
        with torch.autocast(self.setting.device, torch.bfloat16, enabled=self.half):
            logits = self.logits(sources, given, mask)
        loss = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), ids.masked_fill(~mask, -100).flatten(), label_smoothing=SMOOTHING
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()


class Torch(nn.Module):
    """`torch.nn.Transformer` with one matrix of embeddings and sinusoidal positions."""

    def __init__(self, setting: Setting, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, setting.width)
        nn.init.normal_(self.embedding.weight, std=setting.width**-0.5)
        self.transformer = nn.Transformer(
            setting.width, setting.heads, setting.layers, setting.layers, setting.feed_forward, 0.1, batch_first=True
        )
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("positions", sinusoids(256, setting.width))

    def forward(self, sources: Tensor, source_mask: Tensor, given: Tensor, mask: Tensor) -> Tensor:
        causal = torch.ones(given.shape[1], given.shape[1], dtype=torch.bool, device=given.device).triu(1)
        found = self.transformer(
            self._embedded(sources), self._embedded(given), tgt_mask=causal, src_key_padding_mask=~source_mask,
            tgt_key_padding_mask=~mask, memory_key_padding_mask=~source_mask, tgt_is_causal=True,
        )  # fmt: skip
        return nn.functional.linear(found, self.embedding.weight)

    def _embedded(self, ids: Tensor) -> Tensor:
        scaled = self.embedding(ids) * self.embedding.embedding_dim**0.5
        return self.dropout(scaled + self.positions[: ids.shape[1]])


class PlainTransformer(Plain):
    """A loop around `torch.nn.Transformer`."""

    def made(self) -> nn.Module:
        return Torch(self.setting, self.generator.tokenizer.vocabulary_size)

    def logits(self, sources: Padded, given: Tensor, mask: Tensor) -> Tensor:
        return self.model(sources.ids, sources.mask, given, mask)


class PlainMarian(Plain):
    """A loop around the Marian model of transformers, in bfloat16."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, half=True)

    def made(self) -> nn.Module:
        model = as_huggingface(self.generator.policy).train()
        model.set_attn_implementation("eager")  # on short texts the fused one takes longer here
        return model

    def logits(self, sources: Padded, given: Tensor, mask: Tensor) -> Tensor:
        found = self.model(input_ids=sources.ids, attention_mask=sources.mask.long(), decoder_input_ids=given, use_cache=False)
        return found.logits


def _filled(drawn: list[Any]) -> float:
    both = [side for batch in drawn for side in (batch.sources, batch.targets)]
    return sum(side.tokens() for side in both) / sum(side.ids.numel() for side in both)
