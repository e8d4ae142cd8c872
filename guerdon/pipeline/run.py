"""Runs a recipe: every stage in order, each skipped when it is finished and resumed when it was cut."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

from guerdon.data.draws import key
from guerdon.data.files import write_jsonl
from guerdon.data.records import Example, Records, read_examples, read_texts
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import DecodingOptions
from guerdon.errors import CheckpointError, ConfigurationError, DataError
from guerdon.generator import Generator, load
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.models.transformer import Transformer
from guerdon.pipeline.environment import environment
from guerdon.pipeline.recipe import Recipe
from guerdon.rewards.base import Reward
from guerdon.rewards.build import RewardContext, build_reward
from guerdon.stages.finetune import finetune
from guerdon.stages.pretrain import pretrain
from guerdon.stages.reinforce import reinforce
from guerdon.training.checkpoint import sha256, sync
from guerdon.training.loop import Outcome
from guerdon.training.progress import Progressing
from guerdon.training.reinforcement import Control
from guerdon.training.runlog import RunLog, writing

DONE, BEGUN = "done.json", "begun.json"
_TOKENIZER = ("data", "tokenizer")
_DEPENDS = {
    "tokenizer": _TOKENIZER,
    "pretrain": (*_TOKENIZER, "model", "pretrain"),
    "finetune": (*_TOKENIZER, "model", "pretrain", "finetune", "evaluation"),
    "reinforce": (*_TOKENIZER, "model", "pretrain", "finetune", "evaluation", "reward", "reinforce"),
}


class Run:
    """One recipe in one run folder.

    Args:
        recipe: what to do.
        folder: where; made where it is missing.
        progress: what a person sees.

    Raises:
        CheckpointError: when a finished stage in the folder was made with other options or other data.
    """

    def __init__(self, recipe: Recipe, folder: Path, progress: Progressing) -> None:
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self.log = RunLog(folder)
        for stage in _DEPENDS:
            self._check_same(stage)
        plain = yaml.safe_dump(recipe.plain(), sort_keys=False, allow_unicode=True)
        self.write("recipe.yaml", plain)
        self.write("environment.json", json.dumps(environment(), indent=2) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Writes a small file of the run folder, whole or not at all."""
        path = self.folder / name
        with writing(path):
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(text, encoding="utf-8")
            sync(partial)
            partial.rename(path)
        return path

    # --- what the stages work on

    @cached_property
    def records(self) -> dict[str, Records]:
        """The records of each split. Training and validation records need references where a stage reads them."""
        data = self.recipe.data
        needed = self.recipe.finetune is not None
        names = {"train": data.train, "validation": data.validation, **({"test": data.test} if data.test else {})}
        found = {}
        for split, name in names.items():
            limit = data.limit if split == "train" else None
            path = self.recipe.data_file(name)
            found[split] = read_examples(path, data.fields, data.on_error, needs_references=needed, limit=limit)
            if not found[split].examples:
                raise DataError("has no usable record", where=str(path), cure="see the skipped records' faults")
        skipped = [
            {"split": split, "line": bad.line, "reason": bad.reason, "text": bad.text[:500]}
            for split, records in found.items()
            for bad in records.skipped
        ]
        if skipped:
            write_jsonl(self.folder / "skipped.jsonl", skipped)
            self.progress.say(f"{len(skipped)} bad records skipped: see {self.folder / 'skipped.jsonl'}")
        counts = {f"{split} records": len(records.examples) for split, records in found.items()}
        counts |= {f"{split} references": sum(len(e.references) for e in r.examples) for split, r in found.items()}
        counts |= {"records skipped": len(skipped)} if skipped else {}
        self.write("run.json", json.dumps({"counts": counts}, indent=2) + "\n")
        return found

    def examples(self, split: str) -> list[Example]:
        """The usable records of a split."""
        return list(self.records[split].examples)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Trained on the training sources and references, or taken from the recipe's folder."""
        folder, section = self.folder / "tokenizer", self.recipe.tokenizer
        if self.finished("tokenizer"):
            return Tokenizer.load(folder)
        if section.folder:
            tokenizer = Tokenizer.load(self.recipe.resolve(section.folder))
        else:
            self.progress.say("training the tokenizer")
            train = self.examples("train")
            texts = [e.source for e in train] + [r for e in train for r in e.references] + self._pretrain_texts("texts")
            tokenizer = Tokenizer.train(texts, section.vocabulary_size)
        self.store("tokenizer", tokenizer.save, {"vocabulary_size": tokenizer.vocabulary_size})
        return tokenizer

    @cached_property
    def reward(self) -> Reward:
        """The recipe's reward; frequencies are those of the training references."""
        return build_reward(self.recipe.reward, context_of(self.recipe, self.examples("train")))

    def measure(self, generator: Generator) -> Mapping[str, float]:
        """BLEU and chrF of greedy outputs on the validation sources."""
        section = self.recipe.evaluation
        examples = [e for e in self.examples("validation")[: section.validation_limit] if e.references]
        options = DecodingOptions(method="greedy", limit=self.recipe.decoding.limit, batch_size=128)
        outputs = [found[0].text for found in generator.generate([e.source for e in examples], options)]
        references = [list(e.references) for e in examples]
        metrics = (Bleu(lowercase=section.lowercase), Chrf(lowercase=section.lowercase))
        return {metric.name: metric.corpus(outputs, references) for metric in metrics}

    # --- stages

    def pretrained(self) -> Generator:
        """The policy before fine-tuning: pre-trained where the recipe has the stage, else as it is made or loaded."""
        section = self.recipe.pretrain
        if section is None:
            return self._new_generator()
        texts, held = self._pretrain_texts("texts"), self._pretrain_texts("validation_texts")
        if section.references:
            texts = texts + [r for e in self.examples("train") for r in e.references]
            held = held + [r for e in self.examples("validation") for r in e.references]
        return self._stage(
            "pretrain",
            self._new_generator,
            lambda g: pretrain(g, texts, section, held, **self._around()),
        )

    def finetuned(self) -> Generator:
        """The policy after teacher forcing."""
        section = self.recipe.finetune
        if section is None:
            return self.pretrained()
        train, validation = self.examples("train"), self.examples("validation")
        return self._stage(
            "finetune",
            self.pretrained,
            lambda g: finetune(g, train, section, validation, self.measure, **self._around()),
        )

    def reinforced(self, control: Control = "none") -> Generator:
        """The policy after reinforcement, or after a control of it."""
        section = self.recipe.reinforce
        if section is None:
            raise ConfigurationError("the recipe has no such section", where="reinforce")
        config = replace(section, control=control)
        train, validation = self.examples("train"), self.examples("validation")[: self.recipe.evaluation.validation_limit]
        return self._stage(
            "reinforce" if control == "none" else f"reinforce-{control}",
            self.finetuned,
            lambda g: reinforce(g, self.reward, train, config, validation, self.measure, **self._around()),
        )

    def _around(self) -> dict[str, Any]:
        recipe = self.recipe
        return {"folder": self.folder, "seed": recipe.seed, "progress": self.progress, "tensorboard": recipe.tensorboard}

    def _new_generator(self) -> Generator:
        if "load" in self.recipe.model:
            generator = load(self.recipe.resolve(self.recipe.model["load"]))
            return Generator(generator.policy, generator.tokenizer, self.recipe.decoding)
        torch.manual_seed(key(self.recipe.seed, "weights"))
        policy = Transformer(self.recipe.transformer(self.tokenizer.vocabulary_size))
        return Generator(policy.to(default_device()), self.tokenizer, self.recipe.decoding)

    def _pretrain_texts(self, which: str) -> list[str]:
        section = self.recipe.pretrain
        if section is None:
            return []
        names = section.texts if which == "texts" else section.validation_texts
        return [text for name in names for text in read_texts(self.recipe.data_file(name), section.field)]

    def _stage(self, name: str, before: Callable[[], Generator], train: Callable[[Generator], Outcome]) -> Generator:
        if not self.finished(name):
            generator = before()
            self._check_begun(name)
            began = time.perf_counter()
            outcome = train(generator)
            self.log.timing(name, event="finished", seconds=time.perf_counter() - began)
            facts = {"steps": outcome.steps, "reason": outcome.reason, "skipped_steps": outcome.skipped, **outcome.validation}
            self.store(name, generator.save, facts)
        found = load(self.folder / name)
        return Generator(found.policy.to(default_device()), found.tokenizer, self.recipe.decoding)

    # --- finished stages

    def finished(self, stage: str) -> bool:
        """Whether the stage has left its final files."""
        return (self.folder / stage / DONE).is_file()

    def store(self, stage: str, save: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        """Writes the stage's folder, whole or not at all, with the fingerprint of what it depends on."""
        final, partial = self.folder / stage, self.folder / f".{stage}.partial"
        with writing(final):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save(partial)
            done = {"fingerprint": self._fingerprint(stage), **facts}
            (partial / DONE).write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
            for path in partial.iterdir():
                sync(path)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync(self.folder)

    def _fingerprint(self, stage: str) -> str:
        sections = _DEPENDS[stage.split("-")[0]]
        return f"{self.recipe.fingerprint(*sections)} {self._data_fingerprint}"

    @cached_property
    def _data_fingerprint(self) -> str:
        names = [self.recipe.data.train, self.recipe.data.validation]
        return " ".join(sha256(path)[:16] for path in map(self.recipe.data_file, names) if path.is_file())

    def _check_same(self, stage: str) -> None:
        for path in [self.folder / stage / DONE, *self.folder.glob(f"{stage}-*/{DONE}")]:
            if path.is_file():
                self._check_fingerprint(stage, path)

    def _check_begun(self, stage: str) -> None:
        """Checkpoints are only resumed by the recipe that began them."""
        name = f"checkpoints/{stage}/{BEGUN}"
        if (self.folder / name).is_file():
            self._check_fingerprint(stage, self.folder / name)
        else:
            with writing(self.folder):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self.write(name, json.dumps({"fingerprint": self._fingerprint(stage)}) + "\n")

    def _check_fingerprint(self, stage: str, path: Path) -> None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"is damaged ({error})", where=str(path), cure=f"remove {path.parent}") from error
        if stored != self._fingerprint(stage):
            raise CheckpointError(
                "was made with other options or other data than the recipe now has",
                where=str(path.parent),
                cure="choose another run folder (--folder), or remove that one",
            )


def reward_context(recipe: Recipe) -> RewardContext:
    """What a recipe's rewards are built from, where no run is going on."""
    data = recipe.data
    train = read_examples(recipe.data_file(data.train), data.fields, data.on_error, limit=data.limit)
    return context_of(recipe, train.examples)


def context_of(recipe: Recipe, train: Sequence[Example]) -> RewardContext:
    """Frequencies are those of the training references; paths are relative to the recipe's folder."""
    texts = [reference for example in train for reference in example.references]
    return RewardContext(texts=texts, folder=recipe.path.parent.resolve())


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
