"""Beam search.

At each position the 2k best continuations of a source's k hypotheses are candidates. Those among the best k that end are
finished; the best k that do not end go on. A source is done when ⌈patience · k⌉ of its hypotheses have finished (Kasai et
al. 2022, "A call for clarity in beam search"), or at its limit, where the best k candidates are taken as they stand and
compete by score with the finished ones. With patience 1 this is transformers' ``early_stopping=True``.

Equal totals rank by the hypothesis' own rank, then by token id; equal scores by which came first.

Axes: s sources still searched, k beam size, c candidates, t positions written so far, v vocabulary; row = s * k + beam.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding.candidates import Candidates, log_probabilities
from guerdon.decoding.constraints import (
    block_ngrams,
    check_ngram_block,
    check_request,
    forced_tokens,
    full_precision,
    inference,
    not_finite,
)
from guerdon.decoding.outputs import Hypothesis
from guerdon.decoding.replay import replays
from guerdon.decoding.replay_beams import Closed, replay_beams
from guerdon.decoding.shares import decode_shares, places_of, shares_of
from guerdon.errors import ConfigurationError
from guerdon.models.policy import Policy
from guerdon.models.precision import InferencePrecision


@dataclass(frozen=True)
class BeamOptions:
    """How a beam search ranks and stops.

    Attributes:
        beam_size: hypotheses held per source, k.
        length_penalty: the exponent of the length normalisation; 0 ranks by log_prob alone, larger favours longer outputs.
        length_normalisation: ``power`` divides log_prob by length^penalty, ``gnmt`` by ((5 + length) / 6)^penalty (Wu et
            al. 2016, eq. 14, without its coverage penalty). The length includes the end token.
        patience: a source is done when ⌈patience · k⌉ hypotheses have finished.
        returned: the most hypotheses returned per source.
        ngram_block: forbids tokens that would repeat an n-gram of this size (Paulus et al. 2018); log_prob stays the
            policy's own. 0 blocks nothing.
    """

    beam_size: int = 5
    length_penalty: float = 1.0
    length_normalisation: Literal["power", "gnmt"] = "power"
    patience: float = 1.0
    returned: int = 1
    ngram_block: int = 0

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise ConfigurationError(
                f"a beam of {self.beam_size} holds nothing", where="decoding.beam_size", cure="give at least 1"
            )
        if not math.isfinite(self.length_penalty):
            raise ConfigurationError(
                f"{self.length_penalty} is not an exponent", where="decoding.length_penalty", cure="give a finite number"
            )
        if self.length_normalisation not in ("power", "gnmt"):
            raise ConfigurationError(
                f"unknown {self.length_normalisation!r}", where="decoding.length_normalisation", cure="choose power or gnmt"
            )
        if not 0.0 < self.patience < math.inf:
            raise ConfigurationError(
                f"{self.patience} is not a factor", where="decoding.patience", cure="give a number above 0"
            )
        most = min(self.beam_size, self.enough)
        if not 1 <= self.returned <= most:
            raise ConfigurationError(
                f"{self.returned} outputs cannot be returned from a search that surely finds {most}",
                where="decoding.returned",
                cure="give 1 to beam_size, or raise beam_size (or patience, where it is below 1)",
            )
        check_ngram_block(self.ngram_block)

    @property
    def enough(self) -> int:
        """How many finished hypotheses end the search of a source."""
        return math.ceil(self.patience * self.beam_size)

    def score(self, log_prob: float, length: int) -> float:
        """What finished hypotheses are ranked by; ``length`` includes the end token."""
        base = float(length) if self.length_normalisation == "power" else (5.0 + length) / 6.0
        return log_prob / base**self.length_penalty


def beam_search(
    policy: Policy,
    sources: Padded,
    limits: Tensor,
    options: BeamOptions,
    prefixes: Padded | None = None,
    precision: InferencePrecision = "float32",
    batch_size: int | None = None,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each source, best first.

    A source has fewer than ``options.returned`` where fewer outputs are possible (a tiny vocabulary, a short limit).

    Args:
        policy: it is asked without dropout and without gradients.
        sources: one row per source.
        limits: int64 [batch], the most tokens of each source's outputs, end token included (`LengthLimit.of`).
        options: how to rank and when to stop.
        prefixes: tokens that each source's outputs must begin with; a row of length 0 forces nothing. Their
            log-probabilities count, and an n-gram block does not concern them.
        precision: of the policy's matrix products.
        batch_size: the most sources at a time; None for all. On a GPU, others take the places of those that have ended.

    Raises:
        InputError: for limits or prefixes that do not fit the sources, or a batch of no source.
        GuerdonError: where the policy's logits are not finite, or allow a source no output at all.
    """
    limits = limits.to(sources.ids.device)
    check_request(policy, sources, limits, prefixes)
    if len(sources) == 0:
        return []
    shares = shares_of(policy, sources, options.beam_size, batch_size)
    search = _Search(sources, limits, options, prefixes, precision, places_of(shares, batch_size))
    with inference(policy):
        found = decode_shares(policy, shares, search)
    by_source = dict(zip(torch.cat(shares).tolist(), itertools.chain.from_iterable(found), strict=True))
    return [by_source[source] for source in range(len(sources))]


@dataclass(frozen=True)
class _Search:
    """What is asked for: called with a policy and some of the sources, it searches their hypotheses, ``places`` at a time."""

    sources: Padded
    limits: Tensor
    options: BeamOptions
    prefixes: Padded | None
    precision: InferencePrecision
    places: int

    def __call__(self, policy: Policy, share: Tensor) -> list[list[Hypothesis]]:
        options = self.options
        if self.prefixes is None and replays(policy, self.sources, options.ngram_block):
            own, limits, size = self.sources.select(share), self.limits[share], options.beam_size
            closed = replay_beams(policy, own, share, limits, size, options.enough, self.precision, self.places)
            if closed is not None:
                return _of_closed(closed, share.tolist(), options)
        return [found for part in share.split(self.places) for found in self._part(policy, part)]

    def _part(self, policy: Policy, part: Tensor) -> list[list[Hypothesis]]:
        running = _Running(policy, self.limits, self.options, self.prefixes, part)
        state, tokens = policy.start(self.sources.select(part), self.options.beam_size, self.precision)
        while True:
            candidates = running.candidates(full_precision(policy.step(state, tokens)))
            running.collect(candidates)
            rows, tokens = running.advance(candidates)
            if len(rows) == 0:
                return _best(running.finished, self.options)
            state = state.select(rows)


class _Running:
    """The hypotheses of the sources that are still searched, and the finished ones of all."""

    def __init__(self, policy: Policy, limits: Tensor, options: BeamOptions, prefixes: Padded | None, sources: Tensor) -> None:
        self.policy, self.options, self.prefixes = policy, options, prefixes
        self.limits, self.position = limits, 0
        self.finished: dict[int, list[Hypothesis]] = {source: [] for source in sources.tolist()}
        self.searched = sources  # int64 [s], the numbers of the sources
        self.tokens = sources.new_zeros(len(sources), options.beam_size, 0)  # [s, k, t]
        # one empty hypothesis a source: the others would be copies of it. A dead one has log_prob -inf.
        self.log_prob = torch.full((len(sources), options.beam_size), -torch.inf, device=limits.device)  # [s, k]
        self.log_prob[:, 0] = 0.0

    def candidates(self, logits: Tensor) -> Candidates:
        """The best continuations under logits [s * k, v]."""
        scores, broken = log_probabilities(logits)
        broken &= torch.isfinite(self.log_prob.flatten())
        if bool(broken.any()):
            source = int(self.searched[int(broken.nonzero()[0, 0]) // self.options.beam_size])
            raise not_finite(f"source {source}, position {self.position}")
        return Candidates.of(self._constrained(scores), self.log_prob, self.policy.end_id)

    def _constrained(self, scores: Tensor) -> Tensor:
        """-inf for what repeats an n-gram, and for all but the forced token where there is one."""
        written = self.tokens.flatten(0, 1)
        if self.prefixes is None or self.position >= self.prefixes.ids.shape[1]:
            return block_ngrams(scores, written, self.options.ngram_block)
        sources = self.searched.repeat_interleave(self.options.beam_size)
        token, mask = forced_tokens(self.prefixes, self.position, sources)
        forced = torch.full_like(scores, -torch.inf).scatter(1, token[:, None], scores.gather(1, token[:, None]))
        return torch.where(mask[:, None], forced, block_ngrams(scores, written, self.options.ngram_block))

    def collect(self, candidates: Candidates) -> None:
        """Takes in the candidates that close."""
        length = self.position + 1
        closing = candidates.closing(self.limits[self.searched] == length, self.options.beam_size)
        where = closing.nonzero(as_tuple=True)
        written = self.tokens[where[0], candidates.parent[where]].tolist()
        fields = (self.searched[where[0]], candidates.token[where], candidates.log_prob[where], candidates.ends[where])
        for tokens, source, token, log_prob, ends in zip(written, *(field.tolist() for field in fields), strict=True):
            score = self.options.score(log_prob, length)
            self.finished[source].append(Hypothesis((*tokens, *[token] * (not ends)), log_prob, score, ends))

    def advance(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Goes on with the best k candidates that do not end, of the sources that are not done.

        Returns:
            The rows of the state to keep and the tokens to feed them, int64 [new s * k] each; empty when all are done.
        """
        size = self.options.beam_size
        log_prob, parent, token = candidates.going_on(size)
        self.position += 1
        full = torch.tensor([len(self.finished[source]) >= self.options.enough for source in self.searched.tolist()])
        at_limit = self.limits[self.searched] == self.position
        kept = (~full.to(at_limit.device) & ~at_limit & torch.isfinite(log_prob[:, 0])).nonzero()[:, 0]
        parent, token, self.log_prob, self.searched = parent[kept], token[kept], log_prob[kept], self.searched[kept]
        written = self.tokens[kept[:, None], parent]
        self.tokens = torch.cat([written, token[..., None]], -1)
        return (kept[:, None] * size + parent).flatten(), token.flatten()


def _of_closed(closed: list[Closed], sources: list[int], options: BeamOptions) -> list[list[Hypothesis]]:
    """The hypotheses to return, of all that have closed in the search of these sources."""
    finished: dict[int, list[Hypothesis]] = {source: [] for source in sources}
    for source, tokens, log_prob, ends in closed:
        score = options.score(log_prob, len(tokens) + ends)
        finished[source].append(Hypothesis(tokens, log_prob, score, ends))
    return _best(finished, options)


def _best(finished: dict[int, list[Hypothesis]], options: BeamOptions) -> list[list[Hypothesis]]:
    """The hypotheses to return, best first."""
    for source, found in finished.items():
        if not found:
            raise not_finite(f"source {source}")
    return [sorted(found, key=lambda one: -one.score)[: options.returned] for found in finished.values()]
