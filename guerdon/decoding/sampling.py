"""Sampling and greedy search: outputs written one token at a time.

Axes: r rows (outputs being written), t positions written so far, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding.book import Book
from guerdon.decoding.choosing import Choice, Draw, MostProbable, SamplingOptions
from guerdon.decoding.constraints import check_ngram_block, check_request, forced_tokens, full_precision, inference
from guerdon.decoding.outputs import Hypothesis, Samples
from guerdon.decoding.replay import replays
from guerdon.decoding.replay_samples import replay_samples
from guerdon.decoding.shares import decode_shares, joined, places_of, shares_of
from guerdon.errors import InputError
from guerdon.models.cache import rows_of
from guerdon.models.policy import Policy
from guerdon.models.precision import InferencePrecision

_COMPACT = 0.75  # finished rows leave when at most this share still runs: leaving copies the caches of the rest


def sample(
    policy: Policy,
    sources: Padded,
    limits: Tensor,
    options: SamplingOptions,
    keys: Tensor,
    copies: int = 1,
    prefixes: Padded | None = None,
    precision: InferencePrecision = "float32",
    batch_size: int | None = None,
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
        batch_size: the most sources at a time; None for all. On a GPU, others take the places of those that have ended.

    Raises:
        InputError: for limits, keys or prefixes that do not fit the sources, or a batch of no source.
        GuerdonError: where the policy's logits are not finite.
    """
    if copies < 1 or keys.shape != (len(sources) * copies,):
        raise InputError(
            f"{list(keys.shape)} keys for {len(sources)} sources and {copies} copies",
            where="sample",
            cure="pass one key per output",
        )
    draw = Draw(options, keys.to(sources.ids.device))
    return _write(policy, _Decode(sources, limits.to(sources.ids.device), draw, copies, prefixes, precision), batch_size)


def greedy(
    policy: Policy,
    sources: Padded,
    limits: Tensor,
    prefixes: Padded | None = None,
    ngram_block: int = 0,
    precision: InferencePrecision = "float32",
    batch_size: int | None = None,
) -> list[Hypothesis]:
    """The most probable token at each position; of equally probable ones the lowest id. Arguments and errors as `sample`.

    A hypothesis' score is its log_prob.
    """
    check_ngram_block(ngram_block)
    choice = MostProbable(ngram_block)
    samples = _write(policy, _Decode(sources, limits.to(sources.ids.device), choice, 1, prefixes, precision), batch_size)
    sums = samples.log_prob.double().sum(1).tolist()
    return [
        Hypothesis(tuple(tokens), log_prob, log_prob, finished)
        for tokens, log_prob, finished in zip(samples.without_end(), sums, samples.finished.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class _Decode:
    """What sampling and greedy search have in common: called with a policy and some of the sources, it writes their outputs."""

    sources: Padded
    limits: Tensor
    choice: Choice
    copies: int
    prefixes: Padded | None
    precision: InferencePrecision
    places: int = 1

    def __call__(self, policy: Policy, share: Tensor) -> Samples:
        if self.prefixes is None and replays(policy, self.sources, self.choice.ngram_block):
            sources, limits, rows = self.sources.select(share), self.limits[share], rows_of(share, self.copies)
            found = replay_samples(policy, sources, self.copies, limits, self.choice, rows, self.precision, self.places)
            if found is not None:
                return found
        parts = torch.arange(len(share), device=share.device).split(self.places)
        return joined([self._part(policy, share[part]) for part in parts], parts, self.copies, policy.pad_id)

    def _part(self, policy: Policy, part: Tensor) -> Samples:
        sources, rows = self.sources.select(part), rows_of(part, self.copies)
        state, tokens = policy.start(sources, self.copies, self.precision)
        book = Book(policy, self.limits, rows, self.copies)
        return _written(policy, state, tokens, book, self.choice, self.prefixes)


def _write(policy: Policy, decode: _Decode, batch_size: int | None) -> Samples:
    sources, limits = decode.sources, decode.limits
    check_request(policy, sources, limits, decode.prefixes)
    if len(sources) == 0:
        return Samples(Padded(sources.ids[:, :0], limits), limits.bool(), torch.zeros(0, 0, device=limits.device))
    shares = shares_of(policy, sources, decode.copies, batch_size)
    decode = replace(decode, places=places_of(shares, batch_size))
    with inference(policy):
        return joined(decode_shares(policy, shares, decode), shares, decode.copies, policy.pad_id)


def _written(policy: Policy, state: Any, tokens: Tensor, book: Book, choice: Choice, prefixes: Padded | None) -> Samples:
    """The loop over positions."""
    for position in range(book.tokens.shape[1]):
        logits = full_precision(policy.step(state, tokens))
        chosen, log_prob = choice.choose(logits, book.held_rows, position, partial(book.written, position))
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
