"""What a policy must offer; decoding, training and scoring are written once against it.

A policy is a ``torch.nn.Module`` that has the members of `Policy`. There are two kinds: guerdon's own
`~guerdon.models.transformer.Transformer`, and the adapters of `guerdon.models.huggingface`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.models.precision import InferencePrecision


class State(Protocol):
    """What has been computed for the rows of a running decode. Every row stands at the same position."""

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        ...

    def select(self, rows: Tensor) -> Self:
        """Keeps the rows named (int64 [new rows]; may drop, repeat, permute). Consumes the state: use what it returns."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """A policy's view of given targets. Every tensor is [batch, length]; positions where ``mask`` is False hold 0.

    Attributes:
        log_prob: natural logarithm of the probability of each target token, given what stands before it.
        entropy: entropy of the next-token distribution there, in nats.
        mask: True where the position counts.
        kl: KL(policy || anchor) of the next-token distributions, exact over the vocabulary; None without an anchor.
        anchor_log_prob: the anchor's ``log_prob``; None without an anchor.
        value: the expected reward to go, before the token is written; None without a value head.
    """

    log_prob: Tensor
    entropy: Tensor
    mask: Tensor
    kl: Tensor | None = None
    anchor_log_prob: Tensor | None = None
    value: Tensor | None = None


class Policy(Protocol):
    """A model that writes. Ids in, probabilities out; texts are the business of `~guerdon.generator.Generator`.

    Attributes:
        vocabulary_size: number of columns of the logits.
        start_id: the first decoder token (never part of an output).
        end_id: the token that ends an output (part of its probability, not of its text).
        pad_id: fills rectangles; never allowed in an output.
        width: number of features of the hidden states that `hidden_and_logits` gives.
        max_source, max_target: longest source and output (end token included) that the model accepts, in tokens.
        allowed: bool [vocabulary]; tokens that an output may contain. Disallowed ones have logit -inf in ``step`` and
            probability 0 in ``evaluate`` and ``logits``.

    A policy that has ``parallel = True`` says that several threads may decode with it at once, each with a state of its own.
    """

    vocabulary_size: int
    start_id: int
    end_id: int
    pad_id: int
    width: int
    max_source: int
    max_target: int
    allowed: Tensor

    def start(self, sources: Padded, copies: int = 1, precision: InferencePrecision = "float32") -> tuple[Any, Tensor]:
        """Encodes each source once and opens ``copies`` rows for it: row = source * copies + copy.

        ``precision`` is that of the matrix products of this decode; "float32" takes the weights' own.

        Returns:
            The state, and the first decoder tokens, int64 [rows].

        Raises:
            ConfigurationError: for int8 where it cannot be had.
        """
        ...

    def step(self, state: Any, tokens: Tensor) -> Tensor:
        """Feeds one token a row (int64 [rows]) and returns the next token's logits, float [rows, vocabulary]."""
        ...

    def logits(self, sources: Padded, targets: Padded, rows: Tensor | None = None) -> Tensor:
        """Teacher forcing: the logits of the target positions that count, [tokens, vocabulary]; disallowed tokens -inf.

        The rows are those of ``targets.mask``, row by row, so that nothing is spent on padding.
        ``targets`` are outputs as trained on: without the start token, the end token included where the output ended.
        ``rows`` (int64 [batch]) names the source of each target, so that a source with several targets is encoded once;
        without it there is one source for each target.
        """
        ...

    def hidden_and_logits(self, sources: Padded, targets: Padded, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The decoder's hidden states that predict those positions, [tokens, width], and `logits`: for a value head."""
        ...

    def evaluate(
        self,
        sources: Padded,
        targets: Padded,
        anchor: Policy | None = None,
        temperature: float = 1.0,
        rows: Tensor | None = None,
        top_p: float = 1.0,
    ) -> Evaluation:
        """Scores ``targets`` with the distribution that sampling with this temperature and top_p draws from.

        The anchor's is its whole softmax at the temperature (see `guerdon.models.evaluation.evaluate_logits`).
        """
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """As `torch.nn.Module.parameters`."""
        ...
