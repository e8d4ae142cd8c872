"""The texts that an audit judges: references, the probes set against them, and the pairs that people decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guerdon.data.draws import generator
from guerdon.data.records import Example
from guerdon.errors import DataError, InputError
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.evaluation.probes import PROBES, Corpus
from guerdon.rewards.base import Judged


@dataclass(frozen=True)
class Row:
    """One text to judge.

    Attributes:
        subject: the number of its source.
        probe: which; None for the reference.
        text: what is judged.
    """

    subject: int
    probe: str | None
    text: str


@dataclass(frozen=True)
class Subjects:
    """Distinct sources, each with one of its references.

    Attributes:
        examples: one of each source, in order.
        texts: the reference drawn for each.
        seen: the references that a reward sees there: the others, or that one where no other is.
        alone: how many have no other.
        repeated: examples left out, because their source had been seen.
    """

    examples: list[Example]
    texts: list[str]
    seen: list[tuple[str, ...]]
    alone: int
    repeated: int

    @classmethod
    def of(cls, examples: Sequence[Example], seed: int) -> Subjects:
        """Draws the references.

        Raises:
            DataError: for an example without references.
            InputError: for fewer than two sources.
        """
        for number, example in enumerate(examples, 1):
            if not example.references:
                where = f"record {number} ({example.source[:40]!r})"
                raise DataError("has no references", where=where, cure="give every record at least one reference")
        first: dict[str, Example] = {}
        for example in examples:
            first.setdefault(example.source, example)
        kept = list(first.values())
        if len(kept) < 2:
            raise InputError(f"{len(kept)} sources give no interval", where="audit", cure="give records of two sources or more")
        texts, seen = [], []
        for number, example in enumerate(kept):
            place = int(generator(seed, "audit: reference", number).integers(len(example.references)))
            texts.append(example.references[place])
            others = tuple(reference for reference in example.references if reference != texts[-1])
            seen.append(others or (texts[-1],))
        alone = sum(text in references for text, references in zip(texts, seen, strict=True))
        return cls(kept, texts, seen, alone, len(examples) - len(kept))

    def rows(self, corpus: Corpus, seed: int) -> list[Row]:
        """The references in order, then each kind of probe."""
        rows = [Row(number, None, text) for number, text in enumerate(self.texts)]
        for probe in PROBES.values():
            for number, (text, example) in enumerate(zip(self.texts, self.examples, strict=True)):
                made = probe.build(text, example, corpus, seed, number)
                rows += [] if made is None else [Row(number, probe.name, made)]
        return rows

    def judged(self, rows: Sequence[Row]) -> Judged:
        """The rows as a reward judges them."""
        examples = [self.examples[row.subject] for row in rows]
        return Judged.of(
            [example.source for example in examples],
            [row.text for row in rows],
            [self.seen[row.subject] for row in rows],
            [example.meta for example in examples],
        )


def pairs_judged(pairs: Sequence[HumanPair], meta: Sequence[Mapping[str, Any]]) -> Judged:
    """The chosen outputs, then the rejected ones; neither is among the references beside it, unless there is no other."""
    seen = []
    for pair in pairs:
        others = tuple(reference for reference in pair.references if reference not in (pair.chosen, pair.rejected))
        seen.append(others or pair.references)
    sources, outputs = [pair.source for pair in pairs], [*(p.chosen for p in pairs), *(p.rejected for p in pairs)]
    return Judged.of(sources * 2, outputs, seen * 2, [*meta, *meta])
