"""Sampling and greedy search: outputs written one token at a time.

A token is drawn by inverting the cumulative distribution at one uniform number that belongs to its row's key and its
position (`guerdon.data.draws`). Samples therefore do not depend on the batch they were drawn in, nor on when a finished row
leaves it, beyond the float rounding of the policy's logits.

Axes: r rows (outputs being written), t positions written so far, v vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from guerdon.data.draws import uniforms
from guerdon.data.padded import Padded
from guerdon.decoding.book import Book
from guerdon.decoding.constraints import (
    block_ngrams,
    check_ngram_block,
    check_request,
    forced_tokens,
    full_precision,
    inference,
)
from guerdon.decoding.largest import BLOCK, most_probable
from guerdon.decoding.outputs import Hypothesis, Samples
from guerdon.decoding.shares import decode_shares, joined, rows_of, shares_of
from guerdon.errors import ConfigurationError, InputError
from guerdon.models.evaluation import outside_nucleus
from guerdon.models.policy import Policy
from guerdon.models.precision import InferencePrecision

_COMPACT = 0.75  # finished rows leave when at most this share still runs: leaving copies the caches of the rest


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


def sample(
    policy: Policy,
    sources: Padded,
    limits: Tensor,
    options: SamplingOptions,
    keys: Tensor,
    copies: int = 1,
    prefixes: Padded | None = None,
    precision: InferencePrecision = "float32",
) -> Samples:
    """Draws ``copies`` outputs for each source; row = source * copies + copy.

    Args:
        policy: it is asked without dropout and without gradients.
        sources: one row per source.
        limits: int64 [batch], the most tokens of each source's outputs, end token included (`LengthLimit.of`).
        options: the distribution drawn from.
        keys: int64 [rows], one per output (`guerdon.data.draws.row_keys`).
        copies: outputs per source.
        prefixes: tokens that each source's outputs must begin with; a row of length 0 forces nothing.
        precision: of the policy's matrix products; log-probabilities are those of the distribution that was drawn from.

    Raises:
        InputError: for limits, keys or prefixes that do not fit the sources.
        GuerdonError: where the policy's logits are not finite.
    """
    if copies < 1 or keys.shape != (len(sources) * copies,):
        raise InputError(
            f"{list(keys.shape)} keys for {len(sources)} sources and {copies} copies",
            where="sample",
            cure="pass one key per output",
        )
    draw = _Draw(options, keys.to(sources.ids.device))
    return _write(policy, _Decode(sources, limits.to(sources.ids.device), draw, copies, prefixes, precision))


def greedy(
    policy: Policy,
    sources: Padded,
    limits: Tensor,
    prefixes: Padded | None = None,
    ngram_block: int = 0,
    precision: InferencePrecision = "float32",
) -> list[Hypothesis]:
    """The most probable token at each position; of equally probable ones the lowest id. Arguments and errors as `sample`.

    A hypothesis' score is its log_prob.
    """
    check_ngram_block(ngram_block)
    choice = _MostProbable(ngram_block)
    samples = _write(policy, _Decode(sources, limits.to(sources.ids.device), choice, 1, prefixes, precision))
    sums = samples.log_prob.double().sum(1).tolist()
    return [
        Hypothesis(tuple(tokens), log_prob, log_prob, finished)
        for tokens, log_prob, finished in zip(samples.without_end(), sums, samples.finished.tolist(), strict=True)
    ]


class _Choice(Protocol):
    """How the next token is chosen."""

    @property
    def temperature(self) -> float: ...

    def choose(self, logits: Tensor, book: Book, position: int) -> tuple[Tensor, Tensor]:
        """Tokens and their log-probabilities, each [r], from logits [r, v] and what the rows wrote before."""
        ...


@dataclass(frozen=True)
class _Draw:
    options: SamplingOptions
    keys: Tensor

    @property
    def temperature(self) -> float:
        return self.options.temperature

    def choose(self, logits: Tensor, book: Book, position: int) -> tuple[Tensor, Tensor]:
        if self.options.ngram_block:
            logits = block_ngrams(logits.clone(), book.written(position), self.options.ngram_block)
        probabilities = torch.softmax(filter_logits(logits, self.options), -1)
        tokens = inverse_cdf(probabilities, uniforms(self.keys[book.held_rows], position))
        return tokens, probabilities.gather(1, tokens[:, None])[:, 0].log()


@dataclass(frozen=True)
class _MostProbable:
    ngram_block: int
    temperature: float = 1.0

    def choose(self, logits: Tensor, book: Book, position: int) -> tuple[Tensor, Tensor]:
        log_prob = torch.log_softmax(logits, -1)
        if self.ngram_block:
            logits = log_prob = block_ngrams(log_prob, book.written(position), self.ngram_block)
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


@dataclass(frozen=True)
class _Decode:
    """What sampling and greedy search have in common: called with a policy and some of the sources, it writes their outputs."""

    sources: Padded
    limits: Tensor
    choice: _Choice
    copies: int
    prefixes: Padded | None
    precision: InferencePrecision

    def __call__(self, policy: Policy, share: Tensor) -> Samples:
        state, tokens = policy.start(self.sources.select(share), self.copies, self.precision)
        book = Book(policy, self.limits, rows_of(share, self.copies), self.copies)
        return _written(policy, state, tokens, book, self.choice, self.prefixes)


def _write(policy: Policy, decode: _Decode) -> Samples:
    sources, limits = decode.sources, decode.limits
    check_request(policy, sources, limits, decode.prefixes)
    if len(sources) == 0:
        return Samples(Padded(sources.ids[:, :0], limits), limits.bool(), torch.zeros(0, 0, device=limits.device))
    shares = shares_of(policy, sources, decode.copies)
    with inference(policy):
        return joined(decode_shares(policy, shares, decode), shares, decode.copies, policy.pad_id)


def _written(policy: Policy, state: Any, tokens: Tensor, book: Book, choice: _Choice, prefixes: Padded | None) -> Samples:
    """The loop over positions."""
    for position in range(book.tokens.shape[1]):
        logits = full_precision(policy.step(state, tokens))
        chosen, log_prob = choice.choose(logits, book, position)
        if prefixes is not None and position < prefixes.ids.shape[1]:
            token, mask = forced_tokens(prefixes, position, book.sources)
            forced_log_prob = torch.log_softmax(logits / choice.temperature, -1).gather(1, token[:, None])[:, 0]
            chosen, log_prob = torch.where(mask, token, chosen), torch.where(mask, forced_log_prob, log_prob)
        running = book.add(position, chosen, log_prob)
        if running == 0:
            break
        tokens = chosen if running == len(chosen) else torch.where(book.running, chosen, policy.end_id)
        if running <= _COMPACT * len(tokens):
            kept = book.running.nonzero()[:, 0]
            state, tokens = state.select(kept), tokens[kept]
            book.hold(book.held[kept])
    return book.close(log_prob.dtype)
