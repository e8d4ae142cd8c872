"""Beam search once more, written to be read: one source, lists, no tensors. The truth that the fast one is held to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from helpers.table_policy import END, Ids, TablePolicy, log_probs


@dataclass
class Twin:
    beam_size: int = 5
    length_penalty: float = 1.0
    gnmt: bool = False
    patience: float = 1.0
    ngram_block: int = 0

    def score(self, log_prob: float, length: int) -> float:
        if self.gnmt:
            return log_prob * 6.0**self.length_penalty / (5.0 + length) ** self.length_penalty
        return log_prob / length**self.length_penalty

    def repeats(self, tokens: Ids) -> bool:
        """Whether the last n tokens stand in this order earlier in ``tokens``."""
        n = self.ngram_block
        if n == 0 or len(tokens) < n:
            return False
        grams = [tokens[i : i + n] for i in range(len(tokens) - n + 1)]
        return grams[-1] in grams[:-1]

    def search(self, policy: TablePolicy, source: Ids, limit: int, prefix: Ids = ()) -> list[tuple[Ids, float, float, bool]]:
        """(tokens, log_prob, score, finished) of everything found, best first."""
        live: list[tuple[Ids, float]] = [((), 0.0)]
        found: list[tuple[Ids, float, float, bool]] = []
        for length in range(1, limit + 1):
            candidates = []
            for rank, (tokens, total) in enumerate(live):
                for token, log_prob in enumerate(log_probs(policy, source, tokens)):
                    forced = length <= len(prefix)
                    if forced and token != prefix[length - 1]:
                        continue
                    if not forced and self.repeats((*tokens, token)):
                        continue
                    if total + log_prob > -math.inf:
                        candidates.append((-(total + log_prob), rank, token))
            candidates = sorted(candidates)[: 2 * self.beam_size]
            going = []
            for place, (loss, rank, token) in enumerate(candidates):
                tokens = live[rank][0]
                if token == END:
                    if place < self.beam_size:
                        found.append((tokens, -loss, self.score(-loss, length), True))
                    continue
                going.append(((*tokens, token), -loss))
                if length == limit and place < self.beam_size:
                    found.append(((*tokens, token), -loss, self.score(-loss, length), False))
            live = going[: self.beam_size]
            if len(found) >= math.ceil(self.patience * self.beam_size) or not live:
                break
        return sorted(found, key=lambda one: -one[2])
