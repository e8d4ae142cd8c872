"""The reward models that a run trains: that which its policy is optimised against, and a judge that is never optimised."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from guerdon.data.draws import key
from guerdon.errors import ConfigurationError
from guerdon.generator import Generator
from guerdon.models.reward_folder import save_scorers
from guerdon.pipeline.folder import RunFiles
from guerdon.pipeline.judgements import Records, read_judgements
from guerdon.pipeline.recipe import Recipe, Scorer
from guerdon.pipeline.sections import RewardModelSection
from guerdon.stages.reward_model import train_reward_model
from guerdon.training.runlog import RunLog


class Scorers:
    """Trains the reward models of a recipe, each once, in the run's folder.

    Args:
        recipe: what is run.
        files: the run's.
        finetuned: opens the run's fine-tuned policy; called only where a model begins with it.
    """

    def __init__(self, recipe: Recipe, files: RunFiles, finetuned: Callable[[], Generator]) -> None:
        self._recipe, self._files, self._finetuned = recipe, files, finetuned

    @cached_property
    def judgements(self) -> Mapping[Scorer, tuple[Records, Records]]:
        """What each model is trained on, and what it is validated with; raises as `read_judgements`."""
        return read_judgements(self._recipe)

    def trained(self, name: Scorer, log: RunLog, around: Mapping[str, Any]) -> Path:
        """The folder of the model, which is trained where it is not yet.

        Args:
            name: of its section.
            log: of the run, for the time that it took.
            around: folder, seed, progress and tensorboard of the run.

        Raises:
            ConfigurationError: where the recipe has no such section.
            GuerdonError: as `train_reward_model`.
        """
        section, folder = self._section(name), self._files.folder / name
        if section is None:
            raise ConfigurationError("the recipe has no such section", where=name)
        if self._files.finished(name):
            return folder
        options = section.model
        own = options.kind != "linear" and options.scratch is None
        policy = self._finetuned() if own or options.surprisal else None
        self._files.mark_begun(name)
        began = time.perf_counter()
        training, validation = self.judgements[name]
        seed = around["seed"] if name == "reward_model" else key(around["seed"], name)  # two models of one seed would err alike
        start, likelihood = policy if own else None, policy if options.surprisal else None
        trained = train_reward_model(training, section, validation, start, likelihood, **{**around, "seed": seed}, name=name)
        log.timing(name, event="finished", seconds=time.perf_counter() - began)
        self._files.store(name, lambda into: save_scorers(trained.scorers, into), trained.facts())
        return folder

    def _section(self, name: Scorer) -> RewardModelSection | None:
        found: RewardModelSection | None = getattr(self._recipe, name)
        return found
