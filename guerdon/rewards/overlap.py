"""Overlap with the references, per output, as rewards in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

from guerdon.metrics.base import Metric
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.metrics.rouge import RougeL
from guerdon.rewards.base import Judged, Reward


class Overlap(Reward):
    """A metric's sentence score, divided by 100.

    It scores prefixes: what a prefix shares with the references the whole shares too, and the score grows with it.

    Args:
        metric: which.
        name: under which the scores are logged; by default the metric's.
    """

    needs_references = True
    scores_prefixes = True

    def __init__(self, metric: Metric, name: str | None = None) -> None:
        self.metric, self.name = metric, name or metric.name

    def score(self, judged: Judged) -> Sequence[float]:
        """One score per output; the empty output has 0."""
        return [score / 100.0 for score in self.metric.sentence(judged.outputs, judged.references)]


class SentenceBleu(Overlap):
    """Sentence BLEU with exponential smoothing and effective order (sacrebleu's sentence_bleu).

    >>> SentenceBleu()(["s"], ["a cheap pub"], [["a cheap pub"]]).tolist()
    [1.0]
    """

    def __init__(self, lowercase: bool = False, tokenize: str = "13a") -> None:
        super().__init__(Bleu(lowercase, tokenize))


class SentenceChrf(Overlap):
    """Sentence chrF (Popović 2015), or chrF++ with ``word_order=2`` (Popović 2017).

    >>> SentenceChrf()(["s"], ["a cheap pub"], [["a cheap pub"]]).tolist()
    [1.0]
    """

    def __init__(self, lowercase: bool = False, word_order: int = 0) -> None:
        super().__init__(Chrf(word_order=word_order, lowercase=lowercase))


class SentenceRougeL(Overlap):
    """ROUGE-L F1 (Lin 2004), the best over the references; case is ignored.

    >>> SentenceRougeL()(["s"], ["a cheap pub"], [["a cheap pub"]]).tolist()
    [1.0]
    """

    def __init__(self) -> None:
        super().__init__(RougeL())
