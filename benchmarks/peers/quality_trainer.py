"""The peer of `time_to_quality.py`: transformers' Seq2SeqTrainer on guerdon's weights, batches and schedule."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from guerdon.data.batches import BatchOptions, batches
from guerdon.data.padded import Padded
from guerdon.models.as_huggingface import as_huggingface

TRIAL, UNCOUNTED, LIMIT, TOGETHER = 25, 5, 96, 64
VALIDATION_SHARE = 0.06  # of the budget


class Steps(IterableDataset[dict[str, Tensor]]):
    """guerdon's batches, one item each."""

    def __init__(self, sources: list[list[int]], targets: list[list[int]], positions: int, seed: int, pad: int) -> None:
        self.given = (sources, targets, BatchOptions(positions), seed)
        self.pad = pad

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _, _, batch in batches(*self.given):
            yield {
                "input_ids": batch.sources.ids.masked_fill(~batch.sources.mask, self.pad),
                "attention_mask": batch.sources.mask.long(),
                "labels": batch.targets.ids.masked_fill(~batch.targets.mask, -100),
            }


class Watch(TrainerCallback):
    """Validates, keeps the best weights, and notes when each step ended."""

    def __init__(self, validate: Any, every: int) -> None:
        self.validate, self.every, self.moments = validate, every, list[float]()
        self.best, self.weights = -1.0, dict[str, Tensor]()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.moments.append(time.perf_counter())
        if self.validate and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            model = given["model"].eval()
            found = self.validate()
            model.train()
            if found > self.best:
                self.best, self.weights = found, {name: value.clone() for name, value in model.state_dict().items()}


def by_trainer(task: Any, given: Namespace) -> Any:
    """Trains for what is left of ``given.minutes``, and ends with the weights that validated best."""
    generator = task.generator
    policy, tokenizer = generator.policy, generator.tokenizer
    pairs = [(e.source, r) for e in task.texts["train"] for r in e.references]
    sources, targets = generator.encode_sources([s for s, _ in pairs]), generator.encode_targets([t for _, t in pairs])
    data = Steps(sources, targets, given.batch, given.seed, policy.pad_id)
    model = as_huggingface(policy)
    begun = {name: value.clone() for name, value in model.state_dict().items()}

    def write(texts: Sequence[str], beams: int) -> list[str]:
        rows = generator.encode_sources(list(texts))
        order, found = sorted(range(len(rows)), key=lambda i: len(rows[i])), [""] * len(rows)
        for first in range(0, len(order), TOGETHER):
            part = order[first : first + TOGETHER]
            padded = Padded.from_lists([rows[i] for i in part], policy.pad_id)
            with torch.inference_mode():
                ids = model.generate(
                    padded.ids, attention_mask=padded.mask.long(), max_new_tokens=LIMIT, num_beams=beams, do_sample=False,
                    length_penalty=1.0,
                )  # fmt: skip
            for i, row in zip(part, ids[:, 1:].tolist(), strict=True):
                ended = row.index(policy.end_id) if policy.end_id in row else len(row)
                found[i] = tokenizer.decode([token for token in row[:ended] if token != policy.pad_id])
        return found

    trial = Watch(None, given.every)
    _trainer(model, data, given, TRIAL, trial).train()
    seconds = (trial.moments[-1] - trial.moments[UNCOUNTED]) / (TRIAL - 1 - UNCOUNTED)
    model.load_state_dict(begun)
    left = (given.minutes - task.minutes()) * 60 * (1 - VALIDATION_SHARE)
    watch = Watch(lambda: task.validate(write), given.every)
    _trainer(model, data, given, max(1, int(left / seconds)), watch).train()
    model.load_state_dict(watch.weights)
    model.eval()
    return write


def _trainer(model: Any, data: Steps, given: Namespace, steps: int, watch: Watch) -> Seq2SeqTrainer:
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(given.output / "trainer"), per_device_train_batch_size=1, max_steps=steps, learning_rate=given.rate,
        lr_scheduler_type="cosine", warmup_steps=min(given.warmup, steps // 4), weight_decay=0.0, adam_beta2=0.98,
        max_grad_norm=1.0, label_smoothing_factor=0.1, bf16=True, use_cpu=True, save_strategy="no", logging_steps=100,
        disable_tqdm=True, report_to="none", seed=given.seed, remove_unused_columns=False,
        accelerator_config={"dispatch_batches": False},
    )  # fmt: skip

    def ready(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        (item,) = items
        return {**item, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(item["labels"])}

    return Seq2SeqTrainer(model.train(), arguments, ready, data, callbacks=[watch])
