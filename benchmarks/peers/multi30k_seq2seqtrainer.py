"""Multi30k, German to English, with Hugging Face's Seq2SeqTrainer under a budget of wall time.

    python benchmarks/peers/multi30k_seq2seqtrainer.py --tokenizer runs/multi30k/finetune --minutes 30 --output runs/peer

The same model shape, tokenizer (the ``tokenizer.json`` of a guerdon model) and batch positions as guerdon's run. Each learning
rate trains for the whole budget, evaluation included; a callback stops it there. So that the schedule (linear decay to 0,
the Trainer's default) ends with the budget, the number of steps is set beforehand from the speed of a few trial steps. Of the
epochs the one with the lowest validation loss is kept; of the learning rates the one with the best validation BLEU. BLEU
(13a, cased) and chrF on test_2016_flickr with beam 5 and greedy; prints one JSON object.
"""

from __future__ import annotations

import random
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from marian import (
    Pair,
    Special,
    add_common,
    batches_of,
    bleu,
    chrf,
    collate,
    decode,
    model_of,
    prepare,
    read_jsonl,
    report,
    say,
    write_outputs,
)
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    MarianMTModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

SPECIAL = Special(pad=0, start=1, end=2)  # as in guerdon's tokenizer
FIRST_TRIAL_STEPS, TRIAL_STEPS = 5, 25  # the first steps are slower and are not counted
EVALUATION_SHARE = 0.04  # of the budget, for the validation loss after each epoch and the checkpoints


class Batches(Dataset[list[Pair]]):
    """Whole batches as items: the Trainer counts rows, and this comparison is at equal positions."""

    def __init__(self, batches: Sequence[list[Pair]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, at: int) -> list[Pair]:
        return self.batches[at]


class Budget(TrainerCallback):
    """Stops training when the time is spent."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if time.monotonic() - self.started >= self.seconds:
            control.should_training_stop = True
            control.should_evaluate = control.should_save = True


@dataclass(frozen=True)
class Setting:
    """The data as this model reads them."""

    tokenizer: Tokenizer
    pairs: list[Pair]
    validation_pairs: list[Pair]
    validation: list[dict[str, Any]]
    test: list[dict[str, Any]]


def parse() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder that holds tokenizer.json")
    parser.add_argument("--minutes", type=float, required=True, help="wall time of each training, evaluation included")
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3], help="each is trained")
    return parser.parse_args()


def read(options: Namespace) -> Setting:
    """German (the field ``reference``) is the source here, English (``source``) the target."""
    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    folder = options.data / "multi30k"
    train, validation, test = (read_jsonl(folder / f"{split}.jsonl") for split in ("train", "val", "test_2016_flickr"))

    def pairs(records: list[dict[str, Any]]) -> list[Pair]:
        return [Pair(encode(tokenizer, record["reference"]), encode(tokenizer, record["source"])) for record in records]

    return Setting(tokenizer, pairs(train), pairs(validation), validation[: options.max_eval], test[: options.max_eval])


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return [*tokenizer.encode(text, add_special_tokens=False).ids, SPECIAL.end]


def collate_one(items: Sequence[list[Pair]]) -> dict[str, Tensor]:
    (pairs,) = items
    return collate(pairs, SPECIAL)


def trainer_of(
    options: Namespace, setting: Setting, rate: float, epochs: int, steps: int, callbacks: list[TrainerCallback]
) -> Seq2SeqTrainer:
    """A trainer over ``epochs`` freshly cut epochs that stops after ``steps`` steps."""
    torch.manual_seed(options.seed)
    plans = [batches_of(setting.pairs, options.batch_tokens, random.Random(f"{options.seed} {n}")) for n in range(epochs)]
    validation = batches_of(setting.validation_pairs, options.batch_tokens, random.Random(options.seed))
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(options.output / f"rate-{rate:g}"),
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        train_sampling_strategy="sequential",
        max_steps=steps,
        learning_rate=rate,
        warmup_steps=min(options.warmup, steps // 4),
        adam_beta2=0.98,
        label_smoothing_factor=options.label_smoothing,
        bf16=True,
        use_cpu=True,
        eval_strategy="steps",
        eval_steps=len(plans[0]),
        save_strategy="steps",
        save_steps=len(plans[0]),
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        logging_steps=100,
        disable_tqdm=True,
        report_to="none",
        seed=options.seed,
    )
    return Seq2SeqTrainer(
        model=model_of(options, setting.tokenizer.get_vocab_size(), SPECIAL),
        args=arguments,
        data_collator=collate_one,
        train_dataset=Batches([[setting.pairs[at] for at in batch] for plan in plans for batch in plan]),
        eval_dataset=Batches([[setting.validation_pairs[at] for at in batch] for batch in validation]),
        callbacks=callbacks,
    )


class Clock(TrainerCallback):
    """The moment at which each step ended."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.moments.append(time.monotonic())


def steps_within(options: Namespace, setting: Setting) -> int:
    """How many steps the budget allows, from the speed of a few that are thrown away."""
    clock = Clock()
    trainer = trainer_of(options, setting, options.learning_rate[0], 1, TRIAL_STEPS, [clock])
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    trainer.train()
    seconds = (clock.moments[-1] - clock.moments[FIRST_TRIAL_STEPS]) / (len(clock.moments) - 1 - FIRST_TRIAL_STEPS)
    steps = max(1, int(options.minutes * 60 * (1 - EVALUATION_SHARE) / seconds))
    say(f"{seconds:.3f} seconds a step: {steps} steps")
    return min(steps, options.max_steps or steps)


def train(options: Namespace, setting: Setting, rate: float, steps: int) -> tuple[MarianMTModel, dict[str, Any]]:
    """A model trained at one learning rate, and the figures of its training."""
    epoch = len(batches_of(setting.pairs, options.batch_tokens, random.Random(f"{options.seed} 0")))
    trainer = trainer_of(options, setting, rate, -(-steps // epoch) + 1, steps, [Budget(options.minutes * 60)])
    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    model = trainer.model
    outputs = write(model, setting, setting.validation, options, 1)
    figures = {
        "learning_rate": rate,
        "steps": trainer.state.global_step,
        "planned_steps": steps,
        "train_seconds": round(seconds, 1),
        "validation_losses": losses,
        "validation_bleu": bleu(outputs, [[record["source"]] for record in setting.validation], lowercase=False),
    }
    say(f"learning rate {rate:g}: validation BLEU {figures['validation_bleu']:.2f} after {figures['steps']} steps")
    return model, figures


def write(model: MarianMTModel, setting: Setting, records: list[dict[str, Any]], options: Namespace, beams: int) -> list[str]:
    """The model's translations of ``records``."""
    sources = [encode(setting.tokenizer, record["reference"]) for record in records]
    made = decode(model, sources, SPECIAL, options.decode_rows, beams)
    return [setting.tokenizer.decode(ids).strip() for ids in made]


def main() -> None:
    options = parse()
    prepare(options)
    setting = read(options)
    steps = steps_within(options, setting)
    trained = [train(options, setting, rate, steps) for rate in options.learning_rate]
    model, chosen = max(trained, key=lambda pair: float(pair[1]["validation_bleu"]))
    references = [[record["source"]] for record in setting.test]
    # The fields as `guerdon generate` writes them: the German text is the source, the English one the reference.
    records = [{"id": one["id"], "source": one["reference"], "references": [one["source"]]} for one in setting.test]
    test = {}
    for name, beams in (("greedy", 1), ("beam5", 5)):
        outputs = write(model, setting, setting.test, options, beams)
        write_outputs(options.output / f"outputs-{name}.jsonl", records, outputs)
        test[name] = {"bleu": bleu(outputs, references, lowercase=False), "chrf": chrf(outputs, references)}
    figures = {
        "pairs": len(setting.pairs),
        "trainings": [figures for _, figures in trained],
        "chosen": chosen["learning_rate"],
        "test": test,
    }
    report(options, model, figures)


if __name__ == "__main__":
    main()
