"""A policy whose every conditional probability is known: small enough to enumerate, and a whole `Policy`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.models.evaluation import evaluate_logits
from guerdon.models.policy import Evaluation, Policy

PAD, START, END = 0, 1, 2
Ids = tuple[int, ...]
Table = Callable[[Ids, Ids], Sequence[float]]
"""(source, what was written before) -> the logits of the next token, one per id from END on."""


@dataclass
class TableState:
    """The source of each row, and what the row was fed after the start token."""

    sources: list[Ids]
    written: list[Ids | None]

    @property
    def rows(self) -> int:
        return len(self.sources)

    def select(self, rows: Tensor) -> TableState:
        kept = rows.tolist()
        return TableState([self.sources[row] for row in kept], [self.written[row] for row in kept])


class TablePolicy(torch.nn.Module):
    """Reads its logits from a table. Ids: 0 pad, 1 start, 2 end, 3 and more are words; pad and start are disallowed."""

    def __init__(self, table: Table, words: int, dtype: torch.dtype = torch.float64, max_target: int = 64) -> None:
        super().__init__()
        self.table, self.dtype = table, dtype
        self.vocabulary_size = END + 1 + words
        self.pad_id, self.start_id, self.end_id = PAD, START, END
        self.max_source, self.max_target = 64, max_target
        self.allowed = torch.arange(self.vocabulary_size) >= END
        self.rows_stepped: list[int] = []  # rows per step, so that tests can see that finished rows leave

    def next_logits(self, source: Ids, written: Ids) -> list[float]:
        return [-np.inf, -np.inf, *self.table(source, written)]

    def start(self, sources: Padded, copies: int = 1, precision: str = "float32") -> tuple[TableState, Tensor]:
        rows = [tuple(row) for row in sources.to_lists() for _ in range(copies)]
        return TableState(rows, [None] * len(rows)), torch.full((len(rows),), START)

    def step(self, state: TableState, tokens: Tensor) -> Tensor:
        assert tokens.shape == (state.rows,)
        self.rows_stepped.append(state.rows)
        fed = zip(state.written, tokens.tolist(), strict=True)
        state.written = [() if before is None else (*before, token) for before, token in fed]
        rows = zip(state.sources, state.written, strict=True)
        return torch.tensor([self.next_logits(*row) for row in rows], dtype=torch.float64).to(self.dtype)

    def logits(self, sources: Padded, targets: Padded) -> Tensor:
        rows = zip(sources.to_lists(), targets.to_lists(), strict=True)
        views = [self.next_logits(tuple(s), tuple(t[:i])) for s, t in rows for i in range(len(t))]
        return torch.tensor(views, dtype=torch.float64).to(self.dtype)

    def evaluate(self, sources: Padded, targets: Padded, anchor: Policy | None = None, temperature: float = 1.0) -> Evaluation:
        anchor_logits = None if anchor is None else anchor.logits(sources, targets)
        return evaluate_logits(self.logits(sources, targets), anchor_logits, targets, temperature)


def random_table(seed: int, words: int, spread: float = 1.0) -> Table:
    """Normal logits that are a function of the seed, the source and what was written."""

    def table(source: Ids, written: Ids) -> list[float]:
        digest = hashlib.blake2b(repr((seed, source, written)).encode(), digest_size=8).digest()
        return (spread * np.random.default_rng(int.from_bytes(digest, "little")).normal(size=words + 1)).tolist()

    return table


def probability_table(rows: Mapping[Ids, Sequence[float]]) -> Table:
    """Probabilities (end token first) after each prefix, for any source; what is not listed ends for certain."""

    def table(source: Ids, written: Ids) -> list[float]:
        width = len(next(iter(rows.values())))
        with np.errstate(divide="ignore"):
            return np.log(rows.get(written, [1.0] + [0.0] * (width - 1))).tolist()

    return table


def log_probs(policy: TablePolicy, source: Ids, written: Ids) -> np.ndarray:
    """The float64 log-probabilities of the next token, by the definition of softmax; all -inf where nothing can follow."""
    logits = np.asarray(policy.next_logits(source, written))
    if logits.max() == -np.inf:
        return logits  # a dead end
    weights = np.exp(logits - logits.max())
    with np.errstate(divide="ignore"):
        return np.log(weights / weights.sum())


def sequences(words: int, limit: int) -> list[tuple[Ids, bool]]:
    """Every output of at most ``limit`` tokens, end token included: its words, and whether it finished."""
    ids = range(END + 1, END + 1 + words)
    ended = [(tokens, True) for length in range(limit) for tokens in itertools.product(ids, repeat=length)]
    return ended + [(tokens, False) for tokens in itertools.product(ids, repeat=limit)]


def sequence_log_prob(policy: TablePolicy, source: Ids, tokens: Ids, finished: bool) -> float:
    whole = (*tokens, END) if finished else tokens
    return float(sum(log_probs(policy, source, whole[:i])[token] for i, token in enumerate(whole)))
