"""What the hypotheses of a beam search may go on with: its choice at a position, without what it writes down.

Nothing here waits for a GPU's answer, so that it can be told once what to do at every position.

Axes: s sources, k beam size, c candidates, v vocabulary; row = s * k + beam.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guerdon.decoding.largest import top_candidates


@dataclass(frozen=True)
class Candidates:
    """The best continuations of each source, best first; every field is [s, c].

    Attributes:
        log_prob: of the whole hypothesis; -inf where there is no such continuation.
        parent: which of the source's k hypotheses it continues.
        token: by which token.
        ends: True where the token ends it.
    """

    log_prob: Tensor
    parent: Tensor
    token: Tensor
    ends: Tensor

    @classmethod
    def of(cls, scores: Tensor, log_prob: Tensor, end_id: int) -> Candidates:
        """Those of hypotheses with ``log_prob`` [s, k], given log-probabilities [s * k, v] of their next tokens."""
        size, vocabulary = log_prob.shape[1], scores.shape[1]
        count = min(2 * size, size * vocabulary)
        found, columns = top_candidates(scores.view(-1, size, vocabulary), log_prob.to(scores.dtype), count)
        token = columns % vocabulary
        return cls(found, columns // vocabulary, token, token == end_id)

    def closing(self, at_limit: Tensor, size: int) -> Tensor:
        """Which of the best ``size`` are taken as they are, bool [s, k]: those that end, and at a source's limit all."""
        return (self.ends | at_limit[:, None])[:, :size] & torch.isfinite(self.log_prob[:, :size])

    def going_on(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best ``size`` that do not end: log_prob (-inf where there are fewer), parent and token, [s, k] each."""
        log_prob = self.log_prob.masked_fill(self.ends, -torch.inf)
        log_prob, order = (part[:, :size] for part in log_prob.sort(dim=1, descending=True, stable=True))
        # a dead hypothesis stands in as a copy of the best one, so that the policy is fed sound rows only
        order = torch.where(torch.isfinite(log_prob), order, order[:, :1])
        return log_prob, self.parent.gather(1, order), self.token.gather(1, order)


def log_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-softmax [r, v] of logits, -inf in rows that allow nothing; and True for rows with a nan or an inf, bool [r]."""
    scores = torch.log_softmax(logits, -1)
    empty = scores[:, 0].isnan()  # one nan, one inf or nothing but -inf makes the whole row nan
    if logits.device.type == "cpu" and not bool(empty.any()):
        return scores, empty
    return scores.masked_fill(empty[:, None], -torch.inf), empty & (logits.amax(-1) != -torch.inf)
