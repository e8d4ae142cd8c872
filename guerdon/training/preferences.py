"""The options of learning from comparisons, and encoded pairs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from guerdon.data.comparisons import Comparison
from guerdon.data.selection import Pair, pairs_to_train
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.objectives.preference import check_label_smoothing, check_positive
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.supervised import SupervisedOptions
from guerdon.training.trainee import LoopOptions

PreferenceLoss = Literal["dpo", "ipo", "orpo"]
TOO_LONG = "pair too long for the policy"
FIGURES = ("accuracy", "margin", "loss")
_FACTORS = {"dpo": "beta", "ipo": "tau", "orpo": "odds_weight"}
_DEFAULT_FACTOR = 0.1


@dataclass(frozen=True)
class PreferConfig(SupervisedOptions):
    """Options of learning from comparisons.

    ``epochs`` or ``steps``, ``batch`` (its rows are pairs: the source and twice the longer output), ``accumulation``,
    ``precision``, ``optimiser`` and ``loop`` are as in `~guerdon.training.supervised.SupervisedOptions`. The criterion is one
    of accuracy, margin and loss, of the validation comparisons, or what a ``validate`` function measures.

    Attributes:
        loss: dpo, ipo or orpo; see `guerdon.objectives.preference`.
        beta: β of dpo; by default 0.1. The larger, the nearer the policy stays to its anchor.
        tau: τ of ipo; by default 0.1. The larger, the nearer the policy stays to its anchor.
        odds_weight: λ of orpo, the weight of the odds ratio beside the likelihood; by default 0.1.
        label_smoothing: the share of preferences that are taken to be wrong; for dpo only.
        too_long: what to do with a pair that the policy cannot take: stop, or skip and count it.
    """

    loss: PreferenceLoss = "dpo"
    beta: float | None = None
    tau: float | None = None
    odds_weight: float | None = None
    label_smoothing: float = 0.0
    too_long: Literal["stop", "skip"] = "stop"
    optimiser: OptimiserOptions = field(
        default_factory=lambda: OptimiserOptions(learning_rate=5e-5, warmup_steps=10, schedule="linear", weight_decay=0.0)
    )
    loop: LoopOptions = field(
        default_factory=lambda: LoopOptions(validate_every=50, criterion="accuracy", higher_is_better=True)
    )

    def __post_init__(self) -> None:
        if self.loss not in get_args(PreferenceLoss):
            raise ConfigurationError(
                f"there is no {self.loss!r}", where="prefer.loss", cure=f"choose {', '.join(get_args(PreferenceLoss))}"
            )
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)
        check_positive(f"prefer.{_FACTORS[self.loss]}", self.factor)
        for loss, name in _FACTORS.items():
            if loss != self.loss and getattr(self, name) is not None:
                raise ConfigurationError(
                    f"belongs to the loss {loss}, and the loss is {self.loss}",
                    where=f"prefer.{name}",
                    cure=f"take it out, or give {_FACTORS[self.loss]}",
                )
        if self.label_smoothing and self.loss != "dpo":
            raise ConfigurationError(
                f"belongs to the loss dpo, and the loss is {self.loss}", where="prefer.label_smoothing", cure="take it out"
            )
        if self.too_long not in ("stop", "skip"):
            raise ConfigurationError(f"there is no {self.too_long!r}", where="prefer.too_long", cure="choose stop or skip")
        if self.loop.criterion == "nll":
            raise ConfigurationError(
                "nothing measures 'nll'",
                where="prefer.loop.criterion",
                cure="choose accuracy or margin (with higher_is_better: true), or loss",
            )

    @property
    def factor(self) -> float:
        """The β, τ or λ of the loss."""
        given: float | None = getattr(self, _FACTORS[self.loss])
        return _DEFAULT_FACTOR if given is None else given

    @property
    def anchored(self) -> bool:
        """Whether the loss compares the policy with its anchor."""
        return self.loss != "orpo"


@dataclass(frozen=True)
class PairIds:
    """Encoded pairs, end tokens included, with the texts that they come from.

    Attributes:
        pairs: the texts and weights.
        sources, chosen, rejected: the ids of each.
        dropped: how many comparisons or pairs were left out, by reason.
        weights: the pairs' weights, scaled to a mean of 1, so that votes change no learning rate.
    """

    pairs: Sequence[Pair]
    sources: Sequence[Sequence[int]]
    chosen: Sequence[Sequence[int]]
    rejected: Sequence[Sequence[int]]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def weights(self) -> list[float]:
        """See the class."""
        mean = sum(pair.weight for pair in self.pairs) / max(1, len(self))
        return [pair.weight / mean for pair in self.pairs]

    def lengths(self) -> tuple[list[int], list[int]]:
        """The tokens of each source, and of both its outputs in one rectangle."""
        outputs = zip(self.chosen, self.rejected, strict=True)
        return [len(ids) for ids in self.sources], [2 * max(len(one), len(other)) for one, other in outputs]

    def fingerprint(self) -> str:
        """The same for the same ids and weights in the same order."""
        digest = hashlib.sha256(np.array(self.weights, dtype=np.float64).tobytes())
        for ids in itertools.chain(self.sources, self.chosen, self.rejected):
            digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
        return digest.hexdigest()


def encode_comparisons(generator: Generator, comparisons: Sequence[Comparison], too_long: Literal["stop", "skip"]) -> PairIds:
    """The pairs that training works on, encoded; what is left out is counted (`guerdon.data.selection.pairs_to_train`).

    Raises:
        DataError: for a text that is too long for the policy, with ``too_long="stop"``; or an output with a token that the
            policy cannot write, whose probability is 0.
    """
    policy, text, found = generator.policy, generator.tokenizer, pairs_to_train(comparisons)
    pairs = found.pairs
    columns = [[pair.source for pair in pairs], [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
    if too_long == "stop":
        encode = (generator.encode_sources, generator.encode_targets, generator.encode_targets)
    else:
        encode = (text.encode_sources, text.encode_targets, text.encode_targets)
    rows = zip(pairs, *(turn(column) for turn, column in zip(encode, columns, strict=True)), strict=True)
    longest = policy.max_source, policy.max_target
    kept = [row for row in rows if len(row[1]) <= longest[0] and max(len(row[2]), len(row[3])) <= longest[1]]
    _check_allowed(kept, set((~policy.allowed).nonzero().flatten().tolist()))
    left_out = {TOO_LONG: len(pairs) - len(kept)} if len(kept) < len(pairs) else {}
    sources, chosen, rejected = ([row[i] for row in kept] for i in (1, 2, 3))
    return PairIds([row[0] for row in kept], sources, chosen, rejected, {**found.dropped, **left_out})


def _check_allowed(rows: Sequence[tuple[Pair, list[int], list[int], list[int]]], disallowed: set[int]) -> None:
    for pair, _, chosen, rejected in rows:
        for name, text, ids in (("chosen", pair.chosen, chosen), ("rejected", pair.rejected, rejected)):
            if found := disallowed & set(ids):
                raise DataError(
                    f"the {name} output holds token {min(found)}, which the policy never writes",
                    where=f"prefer, {text[:40]!r}",
                    cure="take the comparison out, or correct the text",
                )
