"""Makes reward models: heads, tokenizer, backbone, weights; and trains them on judgements."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.draws import key
from guerdon.data.tokenizer import Tokenizer
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.models.huggingface import HuggingFacePolicy
from guerdon.models.reward_folder import HeadMoments, RewardScorer
from guerdon.models.reward_model import RewardModel, Scaled, read_texts
from guerdon.models.reward_options import RewardModelOptions
from guerdon.models.reward_text import Likelihood, RewardText, Subwords, delexicalise
from guerdon.models.transformer import Transformer
from guerdon.training.around import surroundings
from guerdon.training.convex import ExactOptions
from guerdon.training.judged import Collector, EncodedJudgements, Item, Judged, heads_of
from guerdon.training.judging import Judging
from guerdon.training.loop import Loop, Outcome
from guerdon.training.progress import Progressing
from guerdon.training.reward_exact import solve
from guerdon.training.reward_training import RewardModelConfig, RewardTraining

Records = Sequence[Comparison | Rating]
_MOST_LEVELS = 50


@dataclass(frozen=True)
class Member:
    """A trained model, what it has learnt from, how that ended, and how many records were dropped, by reason."""

    judging: Judging
    training: EncodedJudgements
    outcome: Outcome
    dropped: Mapping[str, int]


class RewardMaker:
    """Makes and trains the members, which share heads, annotators and text side."""

    def __init__(
        self,
        training: Records,
        config: RewardModelConfig,
        start: Generator | None,
        likelihood: Generator | None,
        seed: int,
    ) -> None:
        self.config, self._start, self.seed = config, start, seed
        heads = tuple(config.model.heads) or heads_of(training, config.select)
        options = replace(config.model, heads=heads)
        self.annotators = sorted({r.annotator for r in training if r.annotator}) if config.reliability else []
        if config.reliability and not self.annotators:
            raise DataError("no record names its annotator", where="reward_model.reliability", cure="take it out")
        tokenizer = _tokenizer(training, options, start)
        frozen = None if likelihood is None else Likelihood(likelihood.policy, likelihood.tokenizer)
        self._text = RewardText(options, tokenizer, frozen)

    def train(self, name: str, number: int, training: Records, held: Records, around: Mapping[str, Any]) -> Member:
        """Trains a model from weights that ``number`` names."""
        data = self._judged(training)
        if not len(data):
            raise DataError(
                f"nothing is left to train on ({_reasons(data)})", where="reward_model", cure="give judgements that decide"
            )
        validating = self._judged(held)
        if not len(validating):
            raise DataError(
                f"nothing is left to validate with ({_reasons(validating)})", where="reward_model", cure="hold out more"
            )
        encoded, measured = (EncodedJudgements.of(given, self._text) for given in (data, validating))
        config, levels = self.config, list[int]()
        if config.loss == "ordinal":
            encoded, measured, levels = _with_levels(encoded, measured, self._text.options.heads)
        elif config.loss == "regression":
            encoded, measured = _standardised(encoded, measured)
        judging = self._new(number, encoded, levels)
        trainee = RewardTraining(name, judging, encoded, measured, config, key(self.seed, "reward model", number))
        if config.exact is not None:
            outcome = self._solved(trainee, judging.model, encoded, data, config.exact, around["progress"])
            judging.eval()
            return Member(judging, encoded, outcome, data.dropped)
        given = (around["folder"], name, around["seed"], around["progress"], around["tensorboard"])
        with surroundings(*given) as inside:
            steps = config.total_steps(encoded, self.seed)
            outcome = Loop(trainee, steps, config.loop, config.optimiser, inside).run()
        judging.eval()
        return Member(judging, encoded, outcome, data.dropped)

    def _solved(
        self,
        trainee: RewardTraining,
        model: RewardModel,
        encoded: EncodedJudgements,
        data: Judged,
        options: ExactOptions,
        progress: Progressing,
    ) -> Outcome:
        """The optimum; the held-out judgements measure it."""
        slots = self._text.options.delexicalise
        sources = [delexicalise(data.pairs[item.outputs[0]][0], "", slots)[0] for item in data.items]
        done = itertools.count(1)
        progress.begin(trainee.name, len(options.strengths) * len(model.options.heads))
        solve(model, encoded, sources, options, self.seed, lambda: progress.advance(next(done), {}))
        found = trainee.validate(0)
        progress.end("the optimum was found: " + "  ".join(f"{name} {value:.4g}" for name, value in found.items()))
        return Outcome(0, "the optimum was found", found, 0)

    def _judged(self, records: Records) -> Judged:
        config = self.config
        collector = Collector(self._text.options.heads, config.select, self.annotators)
        kept = self._short(records) if config.too_long == "skip" else records
        comparisons = [record for record in kept if isinstance(record, Comparison)]
        if config.rated:
            return collector.ratings([record for record in kept if isinstance(record, Rating)])
        return collector.comparisons(comparisons, config.loss in ("rao_kupper", "davidson"), config.loss == "plackett_luce")

    def _short(self, records: Records) -> Records:
        """The records whose source the model takes; outputs are read up to the limit."""
        tokenizer, limit = self._text.tokenizer, self._text.options.max_source
        if tokenizer is None:
            return records
        slots = self._text.options.delexicalise
        rows = tokenizer.encode_sources([delexicalise(record.source, "", slots)[0] for record in records])
        return [record for record, row in zip(records, rows, strict=True) if len(row) <= limit]

    def _new(self, number: int, training: EncodedJudgements, levels: Sequence[int]) -> Judging:
        """A model and its judging with weights that depend on seed and number alone; from the start's where there is one."""
        config, options = self.config, self._text.options
        torch.manual_seed(key(self.seed, "weights of the reward model", number))
        model = RewardModel(options, _backbone(options, self._start, self._text.tokenizer))
        if self._start is not None and model.backbone is not None:
            model.to(self._start.device)
        if options.surprisal:
            model.standardise(training.texts.measures.to(model.device))
        if isinstance(model.norm, Scaled):
            model.eval()
            model.norm.fit(read_texts(model, training.texts, model.pooled).to(model.device))
        judging = Judging(model, config.loss, levels, len(self.annotators), config.label_smoothing, config.centring)
        return judging.to(model.device)

    def scorer(self, member: Member, temperatures: Mapping[int, float]) -> RewardScorer:
        """The member as what scores texts, with the moments of the texts that each head has learnt from."""
        scorer = RewardScorer(member.judging.model, self._text)
        scores, texts = scorer.encoded_scores(member.training.texts), member.training.texts
        moments = []
        for head in range(len(scorer.heads)):
            rows = member.training.judged_by(head)
            if not rows:
                raise DataError(
                    f"no judgement trains the head {scorer.heads[head]!r}", where="reward_model.model.heads", cure="take it out"
                )
            words = [texts.words[row] for row in rows]
            moments.append(HeadMoments.measure(scores[rows, head], words, temperatures.get(head, 1.0)))
        return RewardScorer(member.judging.model, self._text, moments)

    def reliability(self, member: Member) -> dict[str, float]:
        """That of each annotator, where it was estimated."""
        if not self.annotators:
            return {}
        return dict(zip(self.annotators, member.judging.reliabilities().tolist(), strict=True))

    @torch.no_grad()
    def differences(self, member: Member, records: Records) -> list[tuple[int, float, float]]:
        """(head, difference of scores, weight) of each comparison in ``records`` by a model that has not seen them."""
        data = EncodedJudgements.of(self._judged(records), self._text)
        scores: Tensor = RewardScorer(member.judging.model, self._text).encoded_scores(data.texts)
        decided = [item for item in data.items if not item.tie]
        return [
            (item.head, float(scores[better, item.head] - scores[worse, item.head]), item.weight)
            for item in decided
            for better, worse in zip(item.outputs, item.outputs[1:], strict=False)
        ]


def check_start(options: RewardModelOptions, start: Generator | None, likelihood: Generator | None) -> None:
    """Refuses, as a `ConfigurationError`, policies that do not fit the options."""
    own = start is not None and isinstance(start.policy, Transformer)
    foreign = start is not None and isinstance(start.policy, HuggingFacePolicy)
    fault = ""
    if options.kind == "linear" and start is not None:
        fault = "a linear model begins with no policy"
    elif options.kind == "huggingface" and not foreign:
        fault = "a Hugging Face backbone begins with a Hugging Face policy"
    elif options.kind in ("encoder_decoder", "encoder") and start is not None and not own:
        fault = f"the kind {options.kind} begins with a policy of guerdon's own"
    elif options.scratch is not None and start is not None:
        fault = "scratch describes random weights, and a policy to begin with is given"
    elif options.scratch is None and options.kind in ("encoder_decoder", "encoder") and start is None:
        fault = "there is no policy to begin with"
    if fault:
        raise ConfigurationError(fault, where="reward_model.model", cure="give start, or scratch, or choose another kind")
    if options.surprisal != (likelihood is not None):
        raise ConfigurationError(
            f"surprisal is {options.surprisal}, and a policy that measures it is {'missing' if options.surprisal else 'given'}",
            where="reward_model.model.surprisal",
            cure="give both, or neither",
        )


def _tokenizer(training: Records, options: RewardModelOptions, start: Generator | None) -> Subwords | None:
    """That of the policy to begin with, or one that is trained on the judged texts as the model reads them."""
    if options.kind == "linear":
        return None
    if start is not None:
        return start.tokenizer
    size = options.scratch.vocabulary_size if options.scratch else 0
    pairs = dict.fromkeys(
        delexicalise(record.source, output, options.delexicalise)
        for record in training
        for output in ((record.output,) if isinstance(record, Rating) else record.outputs)
    )
    return Tokenizer.train([text for pair in pairs for text in pair if text], size)


def _backbone(options: RewardModelOptions, start: Generator | None, tokenizer: Subwords | None) -> Any:
    """The policy's network, copied, with the model's dropout; or one with random weights."""
    if options.kind == "linear":
        return None
    if start is None:
        assert isinstance(tokenizer, Tokenizer), "a backbone from random weights reads its own tokenizer"
        return Transformer(options.transformer(tokenizer.vocabulary_size))
    if options.kind == "huggingface":
        policy = copy.deepcopy(start.policy)
        policy.max_source, policy.max_target = options.max_source, options.max_output
        return policy
    made = Transformer(options.fitted(start.policy.options))
    made.load_state_dict(start.policy.state_dict())
    return made.to(next(start.policy.parameters()).dtype)


def _with_levels(
    training: EncodedJudgements, validation: EncodedJudgements, heads: Sequence[str]
) -> tuple[EncodedJudgements, EncodedJudgements, list[int]]:
    """Ratings as levels from 0, by the distinct ratings that a head is trained on; others count as the nearest of these."""
    found: list[list[float]] = []
    for head, name in enumerate(heads):
        values = sorted({item.value for item in training.items if item.head == head})
        if not 2 <= len(values) <= _MOST_LEVELS:
            raise DataError(
                f"{name} is rated with {len(values)} distinct numbers, where an ordinal loss takes 2 to {_MOST_LEVELS}",
                where="reward_model.loss",
                cure="choose regression, or round the ratings",
            )
        found.append(values)

    def level(item: Item) -> Item:
        values = found[item.head]
        return replace(item, value=float(min(range(len(values)), key=lambda i: abs(values[i] - item.value))))

    first, second = (replace(data, items=[level(item) for item in data.items]) for data in (training, validation))
    return first, second, list(map(len, found))


def _standardised(training: EncodedJudgements, validation: EncodedJudgements) -> tuple[EncodedJudgements, EncodedJudgements]:
    """Ratings of each head less their mean in training, divided by their spread there."""
    moments = {}
    for head in {item.head for item in training.items}:
        values = torch.tensor([item.value for item in training.items if item.head == head], dtype=torch.float64)
        moments[head] = float(values.mean()), float(values.std(correction=0)) or 1.0

    def scaled(item: Item) -> Item:
        mean, spread = moments.get(item.head, (0.0, 1.0))
        return replace(item, value=(item.value - mean) / spread)

    first, second = (replace(data, items=[scaled(item) for item in data.items]) for data in (training, validation))
    return first, second


def _reasons(data: Judged) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in data.dropped.items()) or "there were no records"
