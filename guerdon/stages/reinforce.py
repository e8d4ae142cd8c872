"""Reinforcement by policy gradient (FORMULAS 3.5.3, 4.3.1, 5): ascend E[r(y, y*)] over y ~ p_θ(y | x).

`Reinforce.updates` is the whole algorithm: draw, judge, turn rewards into advantages, and weigh log-probabilities.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from guerdon.data.batches import source_batches
from guerdon.data.padded import Padded
from guerdon.data.records import Example
from guerdon.errors import DataError
from guerdon.generator import Generator
from guerdon.models.precision import Precision, autocast
from guerdon.objectives.divergence import kl_estimate, sequence_kl
from guerdon.rewards.base import Judgement, Reward
from guerdon.rewards.shaping import check_shaping, judge_prefixes
from guerdon.training.ahead import Ahead, Drawn, Lap
from guerdon.training.around import surroundings
from guerdon.training.checkpoint import add_weights
from guerdon.training.deciding import Decision, measured
from guerdon.training.engine_rollouts import engine_of, engine_rollout
from guerdon.training.holding import EntropyController, move_anchor
from guerdon.training.loop import Loop, Outcome
from guerdon.training.monitors import Alarm, Monitors
from guerdon.training.progress import Progressing
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import Prompts, Rollout, check_references, draw, greedy_texts
from guerdon.training.signals import Further, Seen, Signals, Targets
from guerdon.training.supervised import Validate, smoothed_nll
from guerdon.training.tally import Tally
from guerdon.training.updating import Updating
from guerdon.training.usage import Usage
from guerdon.training.watch import Watch


class Reinforce:
    """The policy gradient as a `guerdon.training.loop.Trainee`."""

    begins_trained = True

    def __init__(
        self,
        name: str,
        generator: Generator,
        reward: Reward,
        prompts: Prompts,
        watch: Watch,
        config: ReinforceConfig,
        seed: int,
    ) -> None:
        self.name, self.generator, self.reward, self.prompts, self.watch = name, generator, reward, prompts, watch
        self.config, self.seed = config, seed
        self.anchor = copy.deepcopy(generator.policy).eval().requires_grad_(False)
        self.updating = Updating(config, generator.policy, self.anchor)
        actor = self.updating.actor
        self.model: nn.Module = generator.policy if actor.value is None and actor.anchor is None else actor
        self.signals, self.entropy = Signals(config, reward, seed), EntropyController(config.entropy)
        self.monitors = Monitors(config.monitors)
        self.ahead = Ahead(generator, self._make) if config.overlap else None
        self._steps: Iterator[tuple[int, int, list[int]]] | None = None
        self._next = 0
        self._rollout: Rollout | None = None
        self._engine = engine_of(config.rollout_engine, generator, prompts)
        self._decision: Decision | None = None
        self._metrics: dict[str, float] = {}
        self._usage: Usage | None = None

    def fingerprint(self) -> str:
        """See `Trainee`: the options, the examples, and the anchor, which on resuming must be the one it began with."""
        digest = hashlib.sha256()
        add_weights(digest, self.anchor.parameters())
        for example in [*self.prompts.examples, *self.watch.validation.examples]:
            digest.update(repr((example.source, example.references)).encode())
        return f"{getattr(self.generator.policy, 'options', '')} {self.config} {self.reward.name} {digest.hexdigest()}"

    def decide(self) -> Decision | None:
        """See `Trainee`: the precision of rollouts, where it is to be chosen."""
        return self._decided() if self.config.rollout_precision == "auto" else None

    def updates(self, step: int) -> Iterator[Iterator[Tensor]]:
        """One step: outputs are drawn and judged once; then one update of the policy from them, or several."""
        config, usage = self.config, Usage(self.generator.device)
        self.model.eval()  # no dropout: the gradient weighs the distribution that was drawn from
        move_anchor(config.kl, self.anchor, self.generator.policy, step)
        drawn = self.ahead.take(step) if self.ahead is not None else None
        drawn = drawn or self._make(self.generator, step, self._sources(step), usage.lap)
        rollout = self._rollout = drawn.rollout
        references = self.prompts.references(drawn.numbers, self.generator, self.seed, step) if config.mle_weight else None
        if self.ahead is not None and step < config.steps:
            self.ahead.begin(step + 1, self._sources(step + 1))
        seen = self.updating.scan(rollout)
        mask, asked = rollout.samples.tokens.mask, slice(seen.asked)
        each = kl_estimate("k1", rollout.samples.log_prob[asked], seen.anchor_log_prob[asked])
        divergence = sequence_kl(each, mask[asked])
        targets = self.signals.targets(step, rollout, drawn.judgement, seen, drawn.further)
        if rollout.weights is not None:
            targets, divergence = targets.weighed(rollout.weights), divergence * rollout.weights[asked].to(divergence)
        self._metrics = self.watch.rollout_metrics(rollout, drawn.judged, drawn.judgement, targets.advantages, divergence)
        self._metrics |= {**self.signals.metrics(drawn.judgement, targets, rollout.groups.cpu(), step), **rollout.figures}
        self._metrics["anchor_nll"] = -float(seen.anchor_log_prob.double().sum() / mask[asked].sum())
        tally = Tally(rollout.samples, config.updates_per_rollout, drawn.stale)
        for number in range(config.updates_per_rollout):
            yield self._losses(number == 0, drawn, references, targets, seen, tally)
        self._metrics |= {**tally.metrics(), "kl_coefficient": self.signals.kl.value, "entropy_coefficient": self.entropy.value}
        self.signals.kl.update(float(divergence.double().mean()), len(rollout.texts))
        self.entropy.update(self._metrics["entropy"])
        usage.lap("update")
        if self.ahead is not None:
            usage.meanwhile = self.ahead.wait()
            usage.lap("waiting")
        self._usage = usage

    def _losses(
        self, first: bool, drawn: Drawn, references: Padded | None, targets: Targets, seen: Seen, tally: Tally
    ) -> Iterator[Tensor]:
        """The losses of one update. Targets were computed before the outputs are cut into micro-batches."""
        for part in drawn.rollout.micro_batches(self.config.micro_batch_tokens):
            yield self.updating.loss(part, targets, seen, tally, first, self.signals.kl.value, self.entropy.value)
        if references is not None:
            yield self._mle_loss(drawn.numbers, references)

    # --- the parts of a step

    def _sources(self, step: int) -> list[int]:
        if self._steps is None or step != self._next:
            self._steps = source_batches(len(self.prompts), self.config.sources_per_step, self.seed, start_step=step - 1)
        self._next = step + 1
        return next(self._steps)[2]

    def _make(self, generator: Generator, step: int, numbers: Sequence[int], lap: Lap) -> Drawn:
        """Draws outputs and judges them: all of a step that uses the tokenizer and the reward, but for references."""
        rollout = self._draw(generator, numbers, step)
        lap("rollout")
        judged = self.prompts.judged(rollout.numbers, rollout.texts, rollout.samples.finished.tolist())
        judgement = self.reward.judge(judged)
        greedy = self._judge_greedy(generator, numbers) if self.signals.reads_greedy else None
        prefixes = (
            judge_prefixes(self.reward, judged, rollout.prefixes(generator.tokenizer)) if self.signals.reads_prefixes else None
        )
        lap("reward")
        return Drawn(numbers, rollout, judged, judgement, Further(greedy, prefixes))

    def _draw(self, generator: Generator, numbers: Sequence[int], step: int) -> Rollout:
        precision = self.config.rollout_precision
        if precision == "auto":
            precision = (self._decision or self._decided()).chosen
        return self._drawn(generator, numbers, step, precision)

    def _drawn(self, generator: Generator, numbers: Sequence[int], step: int, precision: Precision) -> Rollout:
        config, copies = self.config, self.config.samples_per_source
        if self._engine is not None:
            return engine_rollout(self._engine, self.prompts, numbers, config, self.seed, step)
        return draw(generator, self.prompts, numbers, copies, config.sampling, config.limit, self.seed, step, precision)

    def _decided(self) -> Decision:
        """Draws the outputs of step 1, which changes nothing but the time: draws belong to their keys."""
        numbers = next(source_batches(len(self.prompts), self.config.sources_per_step, self.seed))[2]

        def tokens(precision: Precision) -> int:
            return self._drawn(self.generator, numbers, 1, precision).samples.tokens.tokens()

        self._decision = Decision.of(measured(tokens))
        return self._decision

    def _judge_greedy(self, generator: Generator, numbers: Sequence[int]) -> Judgement:
        texts, finished = greedy_texts(generator, self.prompts, numbers, self.config.limit)
        return self.reward.judge(self.prompts.judged(numbers, texts, finished))

    def _mle_loss(self, numbers: Sequence[int], references: Padded) -> Tensor:
        """The negative log-likelihood per token of the references."""
        with autocast(self.generator.device, self.config.precision):
            sums = smoothed_nll(self.generator.policy, self.prompts.padded(numbers, self.generator), references, 0.0)
        return self.config.mle_weight * sums.loss / references.tokens()

    # --- what the loop asks

    def metrics(self) -> Mapping[str, float]:
        """See `Trainee`."""
        return self._metrics

    def usage(self) -> Usage | None:
        """See `Trainee`."""
        return self._usage

    def validate(self, step: int) -> Mapping[str, float]:
        """See `Trainee`."""
        return self.watch.validate(self.generator, self.anchor)

    def observe(self, step: int, kind: Literal["train", "validation"], figures: Mapping[str, float]) -> Sequence[Alarm]:
        """See `Trainee`."""
        return self.monitors.observe(step, kind, figures)

    def stop_reason(self) -> str | None:
        """See `Trainee`."""
        return self.monitors.stop_reason

    def samples(self) -> Sequence[Mapping[str, Any]]:
        """See `Trainee`."""
        return self.watch.take_samples()

    def batch(self) -> Sequence[Mapping[str, Any]]:
        """See `Trainee`: the sources and outputs of the step."""
        if self._rollout is None:
            return []
        rows = zip(self._rollout.numbers, self._rollout.texts, strict=True)
        return [{"example": i, "source": self.prompts.examples[i].source, "output": text} for i, text in rows]

    def state(self) -> dict[str, Any]:
        """See `Trainee`: moments, multipliers, coefficients, what monitors follow, what was measured or drawn ahead."""
        kept: dict[str, Any] = {"entropy": self.entropy.state_dict(), "monitors": self.monitors.state_dict()}
        if self.ahead is not None:
            kept["ahead"] = self.ahead.state_dict()
        if self._decision is not None:
            kept["decision"] = self._decision.plain()
        return {**self.signals.state_dict(), **kept}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Trainee`."""
        self._decision = Decision.from_plain(state["decision"]) if "decision" in state else None
        self.signals.load_state_dict(state)
        self.entropy.load_state_dict(state["entropy"])
        self.monitors.load_state_dict(state["monitors"])
        if self.ahead is not None:
            self.ahead.load_state_dict(state["ahead"], self.prompts, self.config.samples_per_source)

    def close(self) -> None:
        """Ends what goes on beside a step."""
        if self.ahead is not None:
            self.ahead.close()


def reinforce(
    generator: Generator,
    reward: Reward,
    examples: Sequence[Example],
    config: ReinforceConfig,
    validation: Sequence[Example],
    validate: Validate | None = None,
    folder: Path | None = None,
    seed: int = 0,
    progress: Progressing | None = None,
    tensorboard: bool = False,
) -> Outcome:
    """Optimises the generator's policy, in place, for ``reward`` on the sources of ``examples``.

    Args:
        generator: its policy ends with the weights that validated best by ``config.loop.criterion``.
        reward: what is optimised.
        examples: sources, with references where the reward or ``mle_weight`` reads them.
        config: the options.
        validation: examples whose greedy outputs are judged by the same reward.
        validate: further validation figures.
        folder, seed, progress, tensorboard: as `guerdon.stages.finetune.finetune`; a control's stage is named
            "reinforce-shuffled" or "reinforce-constant".

    Raises:
        DataError: without examples or validation examples, or where references are needed and missing.
        RewardError: when the reward fails.
        TrainingError, CheckpointError: as `guerdon.training.loop.Loop.run`.
    """
    trainee = trainee_of(generator, reward, examples, config, validation, validate, seed)
    with surroundings(folder, trainee.name, seed, progress, tensorboard) as around, closing(trainee):
        return Loop(trainee, config.steps, config.loop, config.optimiser, around).run()


def trainee_of(
    generator: Generator,
    reward: Reward,
    examples: Sequence[Example],
    config: ReinforceConfig,
    validation: Sequence[Example],
    validate: Validate | None = None,
    seed: int = 0,
) -> Reinforce:
    """What `reinforce` trains, checked: its updates may be asked for without the loop. Arguments and errors as there."""
    if not examples or not validation:
        raise DataError(
            "needs training and validation sources", where="reinforce", cure="give examples and validation examples"
        )
    if config.mle_weight or reward.needs_references:
        check_references([*examples, *validation], "mle_weight" if config.mle_weight else f"reward {reward.name!r}")
    if config.shaping == "prefix":
        check_shaping(reward)
    name = "reinforce" if config.control == "none" else f"reinforce-{config.control}"
    watch = Watch(reward, Prompts.of(generator, validation), config.limit, validate)
    return Reinforce(name, generator, reward, Prompts.of(generator, examples), watch, config, seed)
