"""How the next token is chosen: drawn from a filtered distribution, or the most probable one.

A token is drawn by inverting the cumulative distribution at one uniform number that belongs to its row's key and its
position (`guerdon.data.draws`). Samples therefore do not depend on the batch they were drawn in, nor on when a finished row
leaves it, beyond the float rounding of the policy's logits.

Axes: r rows (outputs being written), t positions written so far, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from guerdon.data.draws import uniforms
from guerdon.decoding.constraints import block_ngrams, check_ngram_block
from guerdon.decoding.largest import BLOCK, most_probable
from guerdon.errors import ConfigurationError
from guerdon.models.evaluation import outside_nucleus

Written = Callable[[], Tensor]
"""What the rows wrote before this position, int64 [r, t]."""


@dataclass(frozen=True)
class SamplingOptions:
    """The distribution that tokens are drawn from. What is 0 (top_p: 1) filters nothing.

    The steps are taken in transformers' order: n-gram block, temperature, top-k, top-p, min-p; each renormalises what is
    left for the next.

    Attributes:
        temperature: divides the logits.
        top_k: keeps the k most probable tokens, and those that tie with the k-th (Fan et al. 2018).
        top_p: keeps the smallest set of most probable tokens whose probability reaches p (Holtzman et al. 2020); of equally
            probable ones, those of lower id first.
        min_p: keeps tokens of at least this share of the most probable token's probability (Nguyen et al. 2025).
        ngram_block: forbids tokens that would repeat an n-gram of this size (Paulus et al. 2018).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    ngram_block: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise ConfigurationError(
                f"{self.temperature} is not a temperature",
                where="decoding.temperature",
                cure="give a number above 0; for the most probable token at each position use greedy search",
            )
        if self.top_k < 0:
            raise ConfigurationError(
                f"{self.top_k} tokens cannot be kept", where="decoding.top_k", cure="give 0 to keep all, or more"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigurationError(
                f"{self.top_p} keeps no token", where="decoding.top_p", cure="give a number above 0, at most 1"
            )
        if not 0.0 <= self.min_p <= 1.0:
            raise ConfigurationError(f"{self.min_p} is not a share", where="decoding.min_p", cure="give a number from 0 to 1")
        check_ngram_block(self.ngram_block)


class Choice(Protocol):
    """How the next token is chosen."""

    @property
    def temperature(self) -> float:
        """Divides the logits."""
        ...

    @property
    def kind(self) -> Hashable:
        """What tells it from others, but for the keys."""
        ...

    @property
    def ngram_block(self) -> int:
        """The size of n-grams that are not repeated, or 0."""
        ...

    @property
    def keys(self) -> Tensor | None:
        """int64 [outputs], or None where nothing is drawn."""
        ...

    def on(self, keys: Tensor) -> Choice:
        """The same for outputs with these keys."""
        ...

    def choose(self, logits: Tensor, outputs: Tensor, position: int | Tensor, written: Written | None) -> tuple[Tensor, Tensor]:
        """Tokens and their log-probabilities, each [r], from logits [r, v].

        Args:
            outputs: int64 [r], the number of each row's output.
            position: an int, or one for each row, int64 [r].
            written: not asked where ``ngram_block`` is 0.
        """
        ...


@dataclass(frozen=True)
class Draw:
    """Tokens drawn, each by a number that belongs to its output's key (``keys``, int64 [outputs]) and its position."""

    options: SamplingOptions
    keys: Tensor

    @property
    def temperature(self) -> float:
        """See `Choice`."""
        return self.options.temperature

    @property
    def kind(self) -> Hashable:
        """See `Choice`."""
        return self.options

    @property
    def ngram_block(self) -> int:
        """See `Choice`."""
        return self.options.ngram_block

    def on(self, keys: Tensor) -> Draw:
        """See `Choice`."""
        return replace(self, keys=keys)

    def choose(self, logits: Tensor, outputs: Tensor, position: int | Tensor, written: Written | None) -> tuple[Tensor, Tensor]:
        """See `Choice`."""
        if self.ngram_block and written is not None:
            logits = block_ngrams(logits.clone(), written(), self.ngram_block)
        probabilities = torch.softmax(filter_logits(logits, self.options), -1)
        tokens = inverse_cdf(probabilities, uniforms(self.keys[outputs], position))
        return tokens, probabilities.gather(1, tokens[:, None])[:, 0].log()


@dataclass(frozen=True)
class MostProbable:
    """The most probable token; of equally probable ones the lowest id."""

    ngram_block: int
    temperature: float = 1.0
    keys: None = None

    @property
    def kind(self) -> Hashable:
        """See `Choice`."""
        return self

    def on(self, keys: Tensor) -> MostProbable:
        """See `Choice`."""
        return self

    def choose(self, logits: Tensor, outputs: Tensor, position: int | Tensor, written: Written | None) -> tuple[Tensor, Tensor]:
        """See `Choice`."""
        log_prob = torch.log_softmax(logits, -1)
        if self.ngram_block and written is not None:
            logits = log_prob = block_ngrams(log_prob, written(), self.ngram_block)
        best = most_probable(logits)
        return best, log_prob.gather(1, best[:, None])[:, 0]


def filter_logits(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Temperature, then -inf for the tokens that top-k, top-p and min-p leave out: [r, v]; ``logits`` stays as it is."""
    if options.temperature != 1.0:
        logits = logits / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(options.top_k).values[:, -1:], -torch.inf)
    if options.top_p < 1.0:
        logits = logits.masked_fill(outside_nucleus(logits, options.top_p), -torch.inf)
    if options.min_p > 0.0:
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(options.min_p), -torch.inf)
    return logits


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability reaches the uniform number: int64 [r], from [r, v] and [r] in (0, 1].

    First the block of `BLOCK` tokens is found, then the token within it: a running sum over the whole vocabulary costs more
    than the softmax. Sums of blocks are of the probabilities' own precision, running sums float64. The number is scaled by
    the total, within the block by the block's: it cannot exceed it, and the token found raised the sum, so that one of
    probability 0 is never drawn, whatever the rounding.
    """
    size = probabilities.shape[1]
    whole = size - size % BLOCK
    sums = probabilities[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < size:
        sums = torch.cat([sums, probabilities[:, whole:].sum(-1, keepdim=True)], dim=1)
    ends = sums.cumsum(-1, dtype=torch.float64)
    goal = uniform[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, goal).clamp(max=ends.shape[1] - 1)  # beyond only in rows of nan, which `Book` reports
    begin = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    places = block * BLOCK + torch.arange(BLOCK, device=block.device)
    held = torch.where(places < size, probabilities.gather(1, places.clamp(max=size - 1)), 0.0)
    within = held.cumsum(-1, dtype=torch.float64)
    share = (goal - begin) / (ends.gather(1, block) - begin)
    token = torch.searchsorted(within, share.clamp(max=1.0) * within[:, -1:])
    return (block * BLOCK + token)[:, 0].clamp(max=size - 1)
