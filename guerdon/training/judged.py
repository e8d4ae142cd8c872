"""Judgements as a reward model trains on them: which outputs, by which head, how much."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.selection import ONLY_TIES, SAME_TEXT, distinct
from guerdon.errors import ConfigurationError, DataError
from guerdon.models.reward_text import EncodedTexts, RewardText

UNJUDGED, CONTESTED, FEW_VOTES = "an aspect that no head learns", "contested", "too little weight"
TIED_RANKING, TIES = "a ranking with ties", "a tie"
SINGLE_HEAD = "reward"


@dataclass(frozen=True)
class Item:
    """One judgement.

    Attributes:
        head: the number of the head that learns it.
        outputs: numbers of the pairs of source and output, best first: two for a comparison, one for a rating.
        weight: how much it counts.
        tie: whether the two outputs were judged equal.
        margin: by how much the better one should win.
        annotator: number of the annotator; -1 where none is known.
        value: of a rating.
    """

    head: int
    outputs: tuple[int, ...]
    weight: float
    tie: bool = False
    margin: float = 0.0
    annotator: int = -1
    value: float = 0.0


@dataclass(frozen=True)
class SelectionOptions:
    """Which judgements are worth training on.

    Attributes:
        aspects: the head that learns each aspect; an aspect that is not named is learnt by the head of its own name.
        unanimous: whether comparisons are dropped of which others prefer the opposite, or see a tie.
        least_weight: comparisons of less weight (fewer votes) are dropped.
        doubtful: the factor of the weight of comparisons that ``unanimous`` or ``least_weight`` would drop; 0 drops them.
        margin: times the field ``margin_field`` is what the better output should win by (bradley_terry).
        margin_field: a field of the records, e.g. of the mean difference of scores; None for a margin that is the same for all.
    """

    aspects: Mapping[str, str] = field(default_factory=dict)
    unanimous: bool = False
    least_weight: float = 0.0
    doubtful: float = 0.0
    margin: float = 0.0
    margin_field: str | None = None

    def __post_init__(self) -> None:
        if not (0.0 <= self.margin < float("inf") and 0.0 <= self.least_weight < float("inf")):
            raise ConfigurationError("margin and least_weight must not be negative", where="margin, least_weight")
        doubted = self.unanimous or self.least_weight > 0
        if not 0.0 <= self.doubtful <= 1.0 or (self.doubtful and not doubted):
            raise ConfigurationError(
                f"is {self.doubtful}, and there is {'something' if doubted else 'nothing'} to doubt",
                where="select.doubtful",
                cure="give 0 to 1, with unanimous or least_weight, which say what is doubtful",
            )
        if self.margin_field is not None and not self.margin:
            raise ConfigurationError("margin_field is multiplied by margin, which is 0", where="margin", cure="give a factor")


@dataclass(frozen=True)
class Judged:
    """Judgements, the pairs of source and output that they are about, and what was dropped, by reason."""

    items: list[Item]
    pairs: list[tuple[str, str]]
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.items)


def heads_of(records: Sequence[Comparison | Rating], options: SelectionOptions) -> tuple[str, ...]:
    """The heads that the records' aspects name, in alphabetical order."""
    aspects = {record.aspect for record in records}
    if None in aspects and len(aspects) > 1:
        what = "some records have an aspect and some have none"
        raise DataError(what, where="reward_model", cure="name it in all, or in none")
    return tuple(sorted({SINGLE_HEAD if a is None else options.aspects.get(a, a) for a in aspects}))


class Collector:
    """Makes `Judged` of records, with one numbering of heads and annotators.

    Args:
        heads: the names of the heads.
        options: which records count.
        annotators: the annotators whose reliability is estimated.
    """

    def __init__(self, heads: Sequence[str], options: SelectionOptions, annotators: Sequence[str] = ()) -> None:
        self._heads = {name: number for number, name in enumerate(heads)}
        self._options = options
        self._annotators = {name: number for number, name in enumerate(annotators)}
        self._pairs: dict[tuple[str, str], int] = {}
        self._dropped: Counter[str] = Counter()

    def comparisons(self, comparisons: Sequence[Comparison], ties: bool, rankings: bool) -> Judged:
        """The pairs of comparisons, with ties where the loss knows them; or whole rankings."""
        kept, repeated = distinct(comparisons)
        self._dropped.update(repeated)
        kept = [c for c in self._select(kept) if self._head(c) is not None]
        items = [item for c in kept for item in (self._ranking(c) if rankings else self._compared(c, ties))]
        return self._judged(items)

    def ratings(self, ratings: Sequence[Rating]) -> Judged:
        """Ratings, each of one output."""
        items = []
        for rating in ratings:
            head = self._head(rating)
            if head is not None:
                annotator = self._annotators.get(rating.annotator or "", -1)
                number = self._number(rating.source, rating.output)
                items.append(Item(head, (number,), 1.0, annotator=annotator, value=rating.score))
        return self._judged(items)

    def _judged(self, items: list[Item]) -> Judged:
        mean = sum(item.weight for item in items) / max(1, len(items))
        scaled = [replace(item, weight=item.weight / mean) for item in items]  # so that votes change no learning rate
        return Judged(scaled, list(self._pairs), {reason: count for reason, count in self._dropped.items() if count})

    def _number(self, source: str, output: str) -> int:
        return self._pairs.setdefault((source, output), len(self._pairs))

    def _head(self, record: Comparison | Rating) -> int | None:
        name = SINGLE_HEAD if record.aspect is None else self._options.aspects.get(record.aspect, record.aspect)
        only = next(iter(self._heads)) if len(self._heads) == 1 and record.aspect is None else name
        if only not in self._heads:
            self._dropped[UNJUDGED] += 1
            return None
        return self._heads[only]

    def _select(self, comparisons: Sequence[Comparison]) -> list[Comparison]:
        options, kept = self._options, []
        orders: dict[object, set[tuple[int, ...]]] = {}
        for comparison in comparisons:
            orders.setdefault(_about(comparison), set()).add(_order(comparison))
        for comparison in comparisons:
            contested = options.unanimous and len(orders[_about(comparison)]) > 1
            if not contested and comparison.weight >= options.least_weight:
                kept.append(comparison)
            elif options.doubtful:
                kept.append(replace(comparison, weight=options.doubtful * comparison.weight))
            else:
                self._dropped[CONTESTED if contested else FEW_VOTES] += 1
        return kept

    def _compared(self, comparison: Comparison, ties: bool) -> list[Item]:
        ranked = sorted(zip(comparison.ranks, comparison.outputs, strict=True), key=lambda entry: entry[0])
        items, tied = [], 0
        for (x, better), (y, worse) in itertools.combinations(ranked, 2):
            if better == worse:
                self._dropped[SAME_TEXT] += 1
            elif x == y and not ties:
                tied += 1
            else:
                items.append(self._item(comparison, (better, worse), tie=x == y))
        self._dropped[TIES if items else ONLY_TIES] += tied
        return items

    def _ranking(self, comparison: Comparison) -> list[Item]:
        ranked = sorted(zip(comparison.ranks, comparison.outputs, strict=True))
        if len(set(comparison.ranks)) < len(ranked):
            self._dropped[TIED_RANKING] += 1
            return []
        if len(set(comparison.outputs)) < len(ranked):
            self._dropped[SAME_TEXT] += 1
            return []
        return [self._item(comparison, tuple(output for _, output in ranked))]

    def _item(self, comparison: Comparison, outputs: tuple[str, ...], tie: bool = False) -> Item:
        head = self._head(comparison)
        assert head is not None, "records of other aspects are left out before"
        numbers = tuple(self._number(comparison.source, output) for output in outputs)
        annotator = self._annotators.get(comparison.annotator or "", -1)
        return Item(head, numbers, comparison.weight, tie, self._margin(comparison), annotator)

    def _margin(self, comparison: Comparison) -> float:
        options = self._options
        if options.margin_field is None:
            return options.margin
        value = comparison.meta.get(options.margin_field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise DataError(
                f"holds {value!r} in {options.margin_field!r}, where a number is needed",
                where=f"comparison of {comparison.source[:40]!r}",
                cure="name another margin_field",
            )
        return options.margin * abs(value)


def _about(comparison: Comparison) -> object:
    return comparison.source, tuple(sorted(comparison.outputs)), comparison.aspect


def _order(comparison: Comparison) -> tuple[int, ...]:
    """The places of the outputs, in the order of their texts."""
    places = {rank: place for place, rank in enumerate(sorted(set(comparison.ranks)))}
    return tuple(places[rank] for _, rank in sorted(zip(comparison.outputs, comparison.ranks, strict=True)))


@dataclass(frozen=True)
class EncodedJudgements:
    """Judgements with their texts encoded."""

    items: list[Item]
    texts: EncodedTexts

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(cls, judged: Judged, text: RewardText) -> EncodedJudgements:
        """Encodes each pair of source and output once. Raises as `RewardText.encode`."""
        return cls(judged.items, text.encode([s for s, _ in judged.pairs], [o for _, o in judged.pairs]))

    def lengths(self) -> tuple[list[int], list[int]]:
        """The tokens of each judgement's source, and of all its outputs in one rectangle; of a linear model the features."""
        texts = self.texts
        sizes = [len(ids) or len(found) for ids, found in zip(texts.outputs, texts.ngrams, strict=True)]
        widths = [len(item.outputs) * max(sizes[i] for i in item.outputs) for item in self.items]
        return [len(texts.sources[item.outputs[0]]) for item in self.items], widths

    def judged_by(self, head: int) -> list[int]:
        """The pairs that a head learns from, each once."""
        return sorted({number for item in self.items if item.head == head for number in item.outputs})

    def fingerprint(self) -> str:
        """The same for the same judgements of the same texts in the same order."""
        digest, texts = hashlib.sha256(repr(self.items).encode()), self.texts
        for ids in itertools.chain(texts.sources, texts.outputs, texts.ngrams):
            digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
        digest.update(texts.measures.numpy().tobytes())
        return digest.hexdigest()
