"""Runs a recipe: every stage in order, each skipped when it is finished and resumed when it was cut."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml

from guerdon.data.records import Example, Records
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import DecodingOptions
from guerdon.errors import ConfigurationError
from guerdon.generator import Generator
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.metrics.slots import SlotPatterns
from guerdon.pipeline.audit import audit_stage
from guerdon.pipeline.environment import environment
from guerdon.pipeline.folder import SKIPPED, RunFiles
from guerdon.pipeline.judgements import judgement_counts
from guerdon.pipeline.preferences import Preferences, check_preferences, drawn_preferences, read_preferences
from guerdon.pipeline.prepare import (
    check_engine,
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
from guerdon.pipeline.recipe import Recipe, Scorer
from guerdon.pipeline.scorers import Scorers
from guerdon.pipeline.sections import PreferSection
from guerdon.pipeline.start import Start
from guerdon.rewards.base import Reward
from guerdon.stages.finetune import finetune
from guerdon.stages.prefer import prefer
from guerdon.stages.pretrain import pretrain
from guerdon.stages.reinforce import reinforce
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
        judged = judgement_counts(self.scorers.judgements) if self.like is None else {}
        facts = {**check_lengths(self.recipe, self.records, first), **judged}
        check_engine(self.recipe, self.records, first)
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
        compared = {} if self.preferences is None else self.preferences.skipped
        left_out = {**{split: records.skipped for split, records in self.records.items()}, **compared}
        self.files.write_counts({split: records.examples for split, records in self.records.items()}, left_out, facts)
        if skipped := sum(map(len, left_out.values())):
            self.progress.say(f"{skipped} bad records skipped: see {self.folder / SKIPPED}")
        if self.start is None and "load" not in recipe.model and not self.files.finished("tokenizer"):
            self.files.store("tokenizer", self.tokenizer.save, {"vocabulary_size": self.tokenizer.vocabulary_size})

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
        if self.like is not None:
            return self.like.reward
        return read_reward(self.recipe, self.records, partial(self.scorer, "reward_model"))

    @cached_property
    def scorers(self) -> Scorers:
        """The reward models that the run trains."""
        return Scorers(self.recipe, self.files, self.finetuned)

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
        self.ready()
        examples = self.prompts(generator), self.judged_at_validation()
        return drawn_preferences(self.recipe, section, self.files, generator, reward, *examples, self.progress)

    def scorer(self, name: Scorer) -> Path:
        """The folder of a reward model, trained on judgements."""
        return self.scorers.trained(name, self.log, self._around())

    def ready(self) -> None:
        """Makes the reward ready to train a policy on: trains its reward model and audits it, where the recipe says so.

        A run that has its reward from another one (``like``) leaves this to that one.

        Raises:
            RewardError: where a requirement of the audit is not met.
        """
        if self.like is not None:
            return
        if self.recipe.reward_model is not None:
            self.scorer("reward_model")
        section, reward = self.recipe.audit, self.reward
        if section is not None and reward is not None:
            examples = self.examples("validation")[: section.sources]
            audit_stage(self.recipe, section, reward, examples, self.slots, self.files, self.log, self.progress)

    def reinforced(self, control: Control = "none") -> Generator:
        """The policy after reinforcement, which begins with the preferred one, or after a control of it."""
        section = self.recipe.reinforce
        if section is None:
            raise ConfigurationError("the recipe has no such section", where="reinforce")
        reward, config = self.reward, replace(section, control=control)
        assert reward is not None, "a recipe with reinforcement and no reward is refused when it is read"
        validation = self.judged_at_validation()
        self.ready()
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
