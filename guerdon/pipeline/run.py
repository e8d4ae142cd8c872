"""Runs a recipe: every stage in order, each skipped when it is finished and resumed when it was cut."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from guerdon.data.files import write_jsonl
from guerdon.data.records import Example, Records
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import DecodingOptions
from guerdon.errors import ConfigurationError
from guerdon.generator import Generator
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.metrics.slots import SlotPatterns
from guerdon.models.reward_folder import save_scorers
from guerdon.pipeline.environment import environment
from guerdon.pipeline.folder import RunFiles
from guerdon.pipeline.judgements import Records as Judgements
from guerdon.pipeline.judgements import read_judgements
from guerdon.pipeline.preferences import Preferences, check_preferences, drawn_preferences, read_preferences
from guerdon.pipeline.prepare import (
    check_lengths,
    check_records,
    new_generator,
    new_tokenizer,
    pretrain_texts,
    read_patterns,
    read_records,
    read_reward,
    skips_long,
    try_reward,
)
from guerdon.pipeline.recipe import Recipe
from guerdon.pipeline.sections import PreferSection
from guerdon.pipeline.start import Start
from guerdon.rewards.base import Reward
from guerdon.stages.finetune import finetune
from guerdon.stages.prefer import prefer
from guerdon.stages.pretrain import pretrain
from guerdon.stages.reinforce import reinforce
from guerdon.stages.reward_model import train_reward_model
from guerdon.training.loop import Outcome
from guerdon.training.progress import Progressing
from guerdon.training.reinforcement import Control
from guerdon.training.runlog import RunLog


class Run:
    """One recipe in one run folder.

    Args:
        recipe: what to do.
        folder: where; made by `begin` where it is missing.
        progress: what a person sees.
        start: a fine-tuned policy to begin with; None trains one as the recipe says.
        like: a run on the same data with the same reward, from which records, reward and patterns are taken.

    Attributes:
        files: what the run keeps in its folder.

    Raises:
        CheckpointError: when a stage in the folder, finished or begun, was made with other options or other data.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, progress: Progressing, start: Start | None = None, like: Run | None = None
    ) -> None:
        self.recipe, self.folder, self.progress, self.start, self.like = recipe, folder, progress, start, like
        self.files = RunFiles(recipe, folder, start.mark if start else "")

    @cached_property
    def facts(self) -> Mapping[str, int]:
        """What the run works on, in numbers, once all of it has been checked; nothing is trained or written.

        Raises:
            InputError: for whatever in recipe or data a stage would stop at.
            RewardError: where the reward cannot judge the first validation references.
        """
        check_records(self.recipe, self.records, self.reward, self.slots)
        if self.reward is not None and not (self.recipe.waits and not self.files.finished("reward_model")):
            try_reward(self.reward, self.examples("validation"))
        first = self._new_generator() if self.start is None else self.start.open(self.recipe.decoding)
        judged = {f"{name} judgements": len(given) for name, given in self.judgements.items() if given}
        facts = {**check_lengths(self.recipe, self.records, first), **judged}
        return facts | check_preferences(self.recipe, self.preferences, self.records, first, self.progress)

    def begin(self) -> None:
        """Checks all that the run works on, and only then takes the folder and writes what stands in it before any stage.

        Raises:
            InputError, RewardError: as `facts`.
            GuerdonError: where the folder cannot be written.
        """
        recipe, facts = self.recipe, self.facts
        self.files.hold()
        self.files.write("recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True))
        self.files.write("environment.json", json.dumps(environment(), indent=2) + "\n")
        self._write_counts(facts)
        if self.start is None and "load" not in recipe.model and not self.files.finished("tokenizer"):
            self.files.store("tokenizer", self.tokenizer.save, {"vocabulary_size": self.tokenizer.vocabulary_size})

    def _write_counts(self, facts: Mapping[str, int]) -> None:
        """``run.json``, and ``skipped.jsonl`` where records were left out."""
        skipped = [
            {"split": split, "line": bad.line, "reason": bad.reason, "text": bad.text[:500]}
            for split, records in self.records.items()
            for bad in records.skipped
        ]
        for name, left_out in (self.preferences.skipped if self.preferences is not None else {}).items():
            skipped += [{"split": name, "line": bad.line, "reason": bad.reason, "text": bad.text[:500]} for bad in left_out]
        if skipped:
            write_jsonl(self.folder / "skipped.jsonl", skipped)
            self.progress.say(f"{len(skipped)} bad records skipped: see {self.folder / 'skipped.jsonl'}")
        counts = {f"{split} records": len(records.examples) for split, records in self.records.items()}
        counts |= {f"{split} references": sum(len(e.references) for e in r.examples) for split, r in self.records.items()}
        counts |= {"records skipped": len(skipped)} if skipped else {}
        self.files.write("run.json", json.dumps({"counts": {**counts, **facts}}, indent=2) + "\n")

    @cached_property
    def log(self) -> RunLog:
        """The run's logs."""
        return RunLog(self.folder)

    # --- what the stages work on

    @cached_property
    def records(self) -> dict[str, Records]:
        """The records of each split."""
        return read_records(self.recipe) if self.like is None else self.like.records

    def examples(self, split: str) -> list[Example]:
        """The usable records of a split."""
        return list(self.records[split].examples)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """That of the run folder, where it stands there already."""
        if self.files.finished("tokenizer"):
            return Tokenizer.load(self.folder / "tokenizer")
        if self.recipe.tokenizer.folder is None:
            self.progress.say("training the tokenizer")
        return new_tokenizer(self.recipe, self.examples("train"))

    @cached_property
    def reward(self) -> Reward | None:
        """The recipe's reward; its first score trains the reward model that it waits for."""
        return read_reward(self.recipe, self.records, self.reward_modelled) if self.like is None else self.like.reward

    @cached_property
    def judgements(self) -> dict[str, Judgements]:
        """What the reward model is trained on, and what it is validated with; nothing where the run trains none."""
        section = self.recipe.reward_model
        if section is None or self.like is not None:
            return {}
        return dict(zip(("training", "validation"), read_judgements(self.recipe, section), strict=True))

    @cached_property
    def preferences(self) -> Preferences | None:
        """The comparisons of files; None where the recipe has none."""
        return read_preferences(self.recipe)

    @cached_property
    def slots(self) -> SlotPatterns | None:
        """The patterns that slot errors are counted by."""
        return read_patterns(self.recipe) if self.like is None else self.like.slots

    def measure(self, generator: Generator) -> Mapping[str, float]:
        """BLEU and chrF of greedy outputs on the validation sources; nothing where these have no references."""
        section = self.recipe.evaluation
        examples = [e for e in self.examples("validation")[: section.validation_limit] if e.references]
        if not examples:
            return {}
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
        texts, held = pretrain_texts(self.recipe, "texts"), pretrain_texts(self.recipe, "validation_texts")
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
        if self.start is not None:
            return self.start.open(self.recipe.decoding)
        section = self.recipe.finetune
        if section is None:
            return self.pretrained()
        train, validation = self.examples("train"), self.examples("validation")
        return self._stage(
            "finetune",
            self.pretrained,
            lambda g: finetune(g, train, section, validation, self.measure, **self._around()),
        )

    def preferred(self) -> Generator:
        """The policy after learning from comparisons; that before, where the recipe has no such stage."""
        section = self.recipe.prefer
        if section is None:
            return self.finetuned()

        def train(generator: Generator) -> Outcome:
            found = self.preferences or self._drawn(generator, section)
            return prefer(generator, found.training, section, found.validation, self.measure, **self._around())

        return self._stage("prefer", self.finetuned, train)

    def _drawn(self, generator: Generator, section: PreferSection) -> Preferences:
        reward = self.reward
        assert reward is not None, "a recipe that draws comparisons without a reward is refused when it is read"
        examples = self.prompts(generator), self.judged_at_validation()
        return drawn_preferences(self.recipe, section, self.files, generator, reward, *examples, self.progress)

    def reward_modelled(self) -> Path:
        """The folder of the reward model, trained on judgements."""
        section, name, folder = self.recipe.reward_model, "reward_model", self.folder / "reward_model"
        if section is None:
            raise ConfigurationError("the recipe has no such section", where=name)
        if not self.files.finished(name):
            options = section.model
            own = options.kind != "linear" and options.scratch is None
            policy = self.finetuned() if own or options.surprisal else None
            self.files.mark_begun(name)
            began = time.perf_counter()
            given = (self.judgements["training"], section, self.judgements["validation"])
            with_policy = (policy if own else None, policy if options.surprisal else None)
            trained = train_reward_model(*given, *with_policy, **self._around())
            self.log.timing(name, event="finished", seconds=time.perf_counter() - began)
            self.files.store(name, lambda into: save_scorers(trained.scorers, into), trained.facts())
        return folder

    def reinforced(self, control: Control = "none") -> Generator:
        """The policy after reinforcement, which begins with the preferred one, or after a control of it."""
        section = self.recipe.reinforce
        if section is None:
            raise ConfigurationError("the recipe has no such section", where="reinforce")
        reward, config = self.reward, replace(section, control=control)
        assert reward is not None, "a recipe with reinforcement and no reward is refused when it is read"
        validation = self.judged_at_validation()
        if self.like is None and self.recipe.reward_model is not None:
            self.reward_modelled()
        return self._stage(
            "reinforce" if control == "none" else f"reinforce-{control}",
            self.preferred,
            lambda g: reinforce(g, reward, self.prompts(g), config, validation, self.measure, **self._around()),
        )

    def judged_at_validation(self) -> list[Example]:
        """The validation examples whose outputs are judged while a policy is reinforced."""
        return self.examples("validation")[: self.recipe.evaluation.validation_limit]

    def prompts(self, generator: Generator) -> list[Example]:
        """The training examples; those with sources that fine-tuning skips as too long are left out here as well."""
        examples = self.examples("train")
        if not skips_long(self.recipe):
            return examples
        rows = generator.tokenizer.encode_sources([example.source for example in examples])
        return [e for e, row in zip(examples, rows, strict=True) if len(row) <= generator.policy.max_source]

    def _around(self) -> dict[str, Any]:
        recipe = self.recipe
        return {"folder": self.folder, "seed": recipe.seed, "progress": self.progress, "tensorboard": recipe.tensorboard}

    def _new_generator(self) -> Generator:
        return new_generator(self.recipe, lambda: self.tokenizer)

    def _stage(self, name: str, before: Callable[[], Generator], train: Callable[[Generator], Outcome]) -> Generator:
        if not self.files.finished(name):
            generator = before()
            self.files.mark_begun(name)
            began = time.perf_counter()
            outcome = train(generator)
            self.log.timing(name, event="finished", seconds=time.perf_counter() - began)
            facts = {"steps": outcome.steps, "reason": outcome.reason, "skipped_steps": outcome.skipped, **outcome.validation}
            self.files.store(name, generator.save, facts)
        return Start(self.folder / name).open(self.recipe.decoding)
