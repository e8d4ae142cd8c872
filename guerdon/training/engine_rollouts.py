"""Rollouts that CTranslate2 draws with the policy's weights, and what they weigh for the policy itself.

Axes: n outputs of one step, row = source * copies + copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guerdon.data.draws import generator as random_generator
from guerdon.data.draws import key
from guerdon.data.padded import Padded
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import Samples
from guerdon.decoding.constraints import inference, not_finite
from guerdon.decoding.shares import shares_of
from guerdon.errors import CapabilityError, DataError, MissingExtraError, TrainingError
from guerdon.generator import Generator
from guerdon.models.as_ctranslate2 import model_files
from guerdon.models.evaluation import target_log_prob
from guerdon.models.policy import Policy
from guerdon.models.precision import autocast
from guerdon.models.transformer import Transformer
from guerdon.objectives.importance import importance
from guerdon.training.engines import ComputeType, EngineOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import MicroBatch, Prompts, Rollout, dealt


class CTranslate2Engine:
    """Draws outputs of a policy as it is at the moment.

    Args:
        generator: the policy, and the tokenizer that names its ids.
        compute_type: of the matrix products.

    Raises:
        MissingExtraError: without ctranslate2.
        CapabilityError: for what it cannot draw from.
    """

    def __init__(self, generator: Generator, compute_type: ComputeType) -> None:
        try:
            import ctranslate2  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError("ctranslate2", "ctranslate2", "reinforce.rollout_engine") from error
        self._library, self.compute_type, self.generator = ctranslate2, compute_type, generator
        self.policy, tokenizer = generator.policy, generator.tokenizer
        if type(self.policy) is not Transformer or not isinstance(tokenizer, Tokenizer):
            raise _cannot(f"is for guerdon's own Transformer, and this policy is a {type(self.policy).__name__}")
        for weight in self.policy.parameters():
            if weight.dtype != torch.float32 or weight.device.type != "cpu":
                raise _cannot(f"is for float32 weights on the CPU, and these are {weight.dtype} on {weight.device}")
        self.names = tokenizer.tokens()
        self.ids = {name: number for number, name in enumerate(self.names)}

    def draw(self, sources: Padded, limits: Tensor, copies: int, seed: int, step: int) -> tuple[Samples, Tensor]:
        """Outputs, drawn at temperature 1 and with nothing left out, and their log-probabilities by what drew them.

        They are a function of weights, sources, limits, seed, step, and of the number of threads that torch computes with,
        each of which draws a share of the sources with a random generator of its own.

        Args:
            sources: one row a source.
            limits: int64 [sources], the most tokens of each source's outputs, end token included.
            copies: outputs a source.
            seed, step: name the draw.

        Returns:
            The outputs, whose log-probabilities by token are not known and stand at 0; and float64 [n].

        Raises:
            GuerdonError: where a log-probability is not finite.
        """
        shares = shares_of(self.policy, sources, copies)
        translators, rows = self.refreshed(seed, step, len(shares)), sources.to_lists()
        asked: dict[int, Any] = {}
        for share, translator in zip(shares, translators, strict=True):
            for limit in limits[share].unique().tolist():  # a call has one limit
                chosen = share[limits[share] == limit].tolist()
                named = [[self.names[token] for token in rows[source]] for source in chosen]
                asked |= dict(zip(chosen, self._asked(translator, named, copies, limit), strict=True))
        tokens: list[list[int]] = []
        scores: list[float] = []
        for source in range(len(sources)):
            found = asked[source].result()
            written, each = found.hypotheses, found.scores  # best first; each time they are asked for they are copied
            for place in random_generator(seed, "rollout order", step, source).permutation(copies).tolist():
                tokens.append([self.ids[name] for name in written[place]])
                scores.append(each[place])
        return self._samples(tokens), self._finite(scores)

    def refreshed(self, seed: int, step: int, count: int) -> list[Any]:
        """So many translators with the weights of now, of one thread each, ready for the draw that seed and step name.

        A thread makes its random generator, with the seed that is set then, when it draws for the first time: each draws one
        token that nobody reads, for a source of two ends (one end alone is none to it, and nothing is drawn). A translator of
        several threads would leave open which of them draws what.
        """
        files, threads = model_files(self.policy, self.names, self.compute_type == "int8"), torch.get_num_threads()
        made = []
        try:
            for number in range(count):
                self._library.set_random_seed(key(seed, "rollout engine", step, number) & 0x7FFFFFFF)
                settings = {"inter_threads": 1, "intra_threads": 1, "max_queued_batches": -1}
                made.append(self._library.Translator("policy", files=files, compute_type=self.compute_type, **settings))
                self._asked(made[-1], [[self.names[self.policy.end_id]] * 2], 1, 1)[0].result()
        finally:
            torch.set_num_threads(threads)  # a translator sets its own number for this thread, too
        return made

    def _asked(self, translator: Any, sources: list[list[str]], copies: int, limit: int) -> list[Any]:
        """The outputs to come of each source. Without a length penalty a score is the sum of the tokens' log-probabilities."""
        settings = {"beam_size": 1, "sampling_topk": 0, "num_hypotheses": copies, "length_penalty": 0.0}
        bounds = {"max_decoding_length": limit, "min_decoding_length": 0, "max_input_length": 0}
        kept = {"return_scores": True, "return_end_token": True, "asynchronous": True}
        return list(translator.translate_batch(sources, **settings, **bounds, **kept))

    def _samples(self, tokens: list[list[int]]) -> Samples:
        padded = Padded.from_lists(tokens, self.policy.pad_id)
        finished = torch.tensor([row[-1] == self.policy.end_id for row in tokens])
        return Samples(padded, finished, torch.zeros(padded.ids.shape))

    @staticmethod
    def _finite(scores: list[float]) -> Tensor:
        found = torch.tensor(scores, dtype=torch.float64)
        broken = (~torch.isfinite(found)).nonzero()[:, 0].tolist()
        if broken:
            raise not_finite(f"output {broken[0]}")
        return found


def engine_of(options: EngineOptions, generator: Generator, prompts: Prompts) -> CTranslate2Engine | None:
    """The engine that the options name; None for guerdon's own.

    Raises:
        DataError: for an empty source, to which CTranslate2 answers nothing without asking the model.
        MissingExtraError, CapabilityError: as `CTranslate2Engine`.
    """
    if options.kind == "own":
        return None
    for number, ids in enumerate(prompts.ids):
        if list(ids) == [generator.policy.end_id]:
            raise DataError(
                f"example {number} has an empty source, for which CTranslate2 draws nothing",
                where="reinforce.rollout_engine",
                cure="leave such records out, or choose kind: own",
            )
    return CTranslate2Engine(generator, options.compute_type or "float32")


def engine_rollout(
    engine: CTranslate2Engine, prompts: Prompts, numbers: Sequence[int], config: ReinforceConfig, seed: int, step: int
) -> Rollout:
    """The outputs of one step as `guerdon.training.rollouts.draw` has them, with weights. Errors as `draw` and `weighed`."""
    generator, copies = engine.generator, config.samples_per_source
    sources = prompts.padded(numbers, generator)
    samples, log_q = engine.draw(sources, config.limit.of(sources, generator.policy), copies, seed, step)
    groups = torch.arange(len(numbers)).repeat_interleave(copies)
    rows = [number for number in numbers for _ in range(copies)]
    rollout = Rollout(sources, rows, groups, samples, generator.tokenizer.decode_batch(samples.without_end()))
    return weighed(rollout, log_q, generator.policy, config)


def weighed(rollout: Rollout, log_q: Tensor, policy: Policy, config: ReinforceConfig) -> Rollout:
    """The rollout with the log-probabilities of the policy that is trained, and with the weights that follow from them.

    Args:
        rollout: as it was drawn.
        log_q: float64 [n], the log-probability of each output by what drew it.
        policy: what is trained.
        config: how outputs count, and the precision and micro-batches of the gradient's pass: its log-probabilities are meant.

    Raises:
        TrainingError: where the engine's model is another one than the policy: nothing is trained on such outputs.
    """
    options, tokens, log_prob = config.rollout_engine, rollout.samples.tokens, torch.zeros_like(rollout.samples.log_prob)

    def look(part: MicroBatch) -> list[Tensor]:
        with autocast(log_prob.device, config.precision):
            return [target_log_prob(policy.logits(part.sources, part.targets, part.of_source), part.targets)]

    with inference(policy):
        for part in rollout.micro_batches(config.micro_batch_tokens):
            (found,) = dealt(policy, policy, part, look)
            log_prob[part.rows, : found.shape[1]] = found
    log_p = log_prob.double().sum(1)
    counted = importance(log_p, log_q, options.largest_weight)
    if not counted.effective >= options.least_share:  # nan is not either
        raise TrainingError(
            f"{len(log_p)} outputs of CTranslate2 are worth {counted.effective:.1%} of as many of the policy's own, and "
            f"least_effective is {options.least_share:.1%}: it does not draw from what is trained",
            where="reinforce.rollout_engine",
            cure="choose compute_type: float32, or kind: own",
        )
    figures = {
        "engine_mismatch": float((log_p - log_q).abs().sum()) / tokens.tokens(),
        "effective_samples": counted.effective,
        "capped": counted.capped,
    }
    samples = dataclasses.replace(rollout.samples, log_prob=log_prob)
    return dataclasses.replace(rollout, samples=samples, weights=counted.weights, figures=figures)


def _cannot(why: str) -> CapabilityError:
    return CapabilityError(f"the kind ctranslate2 {why}", where="reinforce.rollout_engine", cure="choose kind: own")
