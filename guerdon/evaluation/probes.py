"""Probes: what a policy might write instead of a good text, built from real records.

Each probe is a pure function of a reference, its record, all records and a seeded draw. It gives the text to set against the
reference, or None where it does not apply to this record. A reward that prefers a probe to the reference, or cannot tell the
two apart, teaches that probe.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import regex  # type: ignore[import-untyped]

from guerdon.data.draws import generator
from guerdon.data.noise import split_sentences
from guerdon.data.records import Example
from guerdon.data.words import split_unicode
from guerdon.evaluation.rewording import Language, names_in, negated, numbers_in
from guerdon.metrics.slots import SlotPatterns

_FREQUENT = 10  # words that "frequent words alone" are drawn from
_WORDS_TO_A_FILLER = 5
_REPEATS = 3
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_LETTER, _WORD, _GRAPHEME = regex.compile(r"\p{L}"), re.compile(r"\S+"), regex.compile(r"\X")

Draws = np.random.Generator
Slots = Mapping[str, Mapping[str, Sequence[str]]]


class Corpus:
    """All records of an audit, and what probes take from them.

    Args:
        examples: the records; each has references.
        patterns: how slot values are worded, where sources are meaning representations.
        language: fillers and negation; None leaves those probes out.
    """

    def __init__(
        self, examples: Sequence[Example], patterns: SlotPatterns | None = None, language: Language | None = None
    ) -> None:
        self.examples, self.patterns, self.language = list(examples), patterns, language

    @cached_property
    def frequent(self) -> list[str]:
        """The commonest words of all references, lower-cased, the commonest first."""
        counts = Counter(word for e in self.examples for r in e.references for word in split_unicode(r.lower()))
        return [word for word, _ in counts.most_common(_FREQUENT)]

    @cached_property
    def numbers(self) -> list[str]:
        """Every number that a first reference holds, once, in the order of the records."""
        return list(dict.fromkeys(e.references[0][a:b] for e in self.examples for a, b in numbers_in(e.references[0])))

    @cached_property
    def names(self) -> list[str]:
        """Every capitalised name that a first reference holds, once, in the order of the records."""
        found = (e.references[0][a:b] for e in self.examples for a, b in names_in(e.references[0], e.source))
        return list(dict.fromkeys(found))

    @cached_property
    def wordings(self) -> Slots:
        """Slot -> value -> how first references word it, each wording once."""
        found: dict[str, dict[str, dict[str, None]]] = {}
        for example in self.examples if self.patterns else ():
            text = example.references[0]
            for slot, value in self.meaning(example).items():
                for start, end in self.patterns.spans(slot, value, text) if self.patterns else ():
                    found.setdefault(slot, {}).setdefault(value, {}).setdefault(text[start:end])
        return {slot: {value: list(texts) for value, texts in values.items()} for slot, values in found.items()}

    def meaning(self, example: Example) -> dict[str, str]:
        """The slots of a source and their values; none without patterns."""
        return self.patterns.requirements(example.source) if self.patterns else {}


Make = Callable[[str, Example, Corpus, Draws], str | None]


@dataclass(frozen=True)
class Probe:
    """One kind of probe.

    Attributes:
        name: in options, files and logs.
        label: in a sentence, as what a reward may prefer to the reference.
        about: how it is made.
        make: the text from (reference, record, all records, draws); None where there is none.
    """

    name: str
    label: str
    about: str
    make: Make

    def build(self, text: str, example: Example, corpus: Corpus, seed: int, number: int) -> str | None:
        """The probe of one record; None where it does not apply, or would be one of the record's references itself.

        Args:
            text: the reference that it is set against.
            example: the record.
            corpus: all records.
            seed: of the audit.
            number: the record's, which the draw depends on.
        """
        made = self.make(text, example, corpus, generator(seed, f"audit: {self.name}", number))
        return None if made is None or made in (text, *example.references) else made


def words_of(text: str) -> tuple[list[tuple[int, int]], str]:
    """Where each word of a text stands, and what joins two: white space, or nothing in scripts that write without it.

    There, each character counts as a word. Punctuation stays on its word.
    """
    if 2 * len(_UNSPACED.findall(text)) > len(_LETTER.findall(text)):
        return [m.span() for m in _GRAPHEME.finditer(text) if not m.group().isspace()], ""
    return [m.span() for m in _WORD.finditer(text)], " "


def _words(text: str) -> tuple[list[str], str]:
    spans, joiner = words_of(text)
    return [text[start:end] for start, end in spans], joiner


def empty(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """Nothing."""
    return ""


def one_word(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """One word of the reference, drawn, without its punctuation."""
    words = split_unicode(text)
    return str(draws.choice(words)) if words else None


def source_copy(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """The source itself."""
    return example.source


def other_reference(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """A reference, drawn, of another source, drawn: good writing about something else."""
    others = [number for number, other in enumerate(corpus.examples) if other.source != example.source]
    if not others:
        return None
    references = corpus.examples[int(draws.choice(others))].references
    return references[int(draws.integers(len(references)))]


def shuffled(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """The reference's words in another order; the first and the last stay in place, where those between can change theirs.

    Subword tokenizers give a word at the beginning, without a space before it, another token than in the middle: moving it
    would change more than the order.
    """
    words, joiner = _words(text)
    first, last = (1, len(words) - 1) if len(set(words[1:-1])) > 1 else (0, len(words))
    inner = words[first:last]
    order = [inner[place] for place in draws.permutation(len(inner))]
    if order == inner:  # turned by one, an order changes unless all its words are alike
        order = inner[1:] + inner[:1]
    return joiner.join([*words[:first], *order, *words[last:]]) if order != inner else None


def repeated_sentence(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """The reference with one of its sentences, drawn, said three times."""
    sentences, joiner = split_sentences(text), words_of(text)[1]
    if not sentences:
        return None
    chosen = int(draws.integers(len(sentences)))
    again = joiner + sentences[chosen].strip()
    return "".join([*sentences[: chosen + 1], *[again] * (_REPEATS - 1), *sentences[chosen + 1 :]])


def truncated(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """The first half of the reference's words."""
    spans, _ = words_of(text)
    return text[: spans[len(spans) // 2 - 1][1]] if len(spans) > 1 else None


def doubled(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """The reference twice over."""
    return text + words_of(text)[1] + text


def filler(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """The reference with a phrase that says nothing after every fifth word or so, at drawn places."""
    words, joiner = _words(text)
    if corpus.language is None or len(words) < 2:
        return None
    count = max(1, len(words) // _WORDS_TO_A_FILLER)
    for place in sorted(draws.choice(np.arange(1, len(words)), size=min(count, len(words) - 1), replace=False), reverse=True):
        words.insert(int(place), str(draws.choice(corpus.language.fillers)))
    return joiner.join(words)


def frequent_words(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """As many words as the reference has, drawn from the ten commonest of all references."""
    words, joiner = _words(text)
    return joiner.join(map(str, draws.choice(corpus.frequent, size=len(words)))) if corpus.frequent else None


def wrong_value(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """The reference with one value changed to another record's.

    With slot patterns: what words a slot's value gives way to another reference's wording of another value, such that the
    patterns find that slot missing or wrong. Without, or where the source has no slots: a number, else a capitalised name.
    """
    if corpus.meaning(example):
        return _wrong_slot(text, example, corpus, draws)
    for spans, known in ((numbers_in(text), corpus.numbers), (names_in(text, example.source), corpus.names)):
        others = [other for other in known if other not in text and other not in example.source]
        if spans and others:
            start, end = spans[int(draws.integers(len(spans)))]
            return text[:start] + str(draws.choice(others)) + text[end:]
    return None


def _wrong_slot(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    meaning, patterns = corpus.meaning(example), corpus.patterns
    if patterns is None:
        return None
    before = patterns.check(example.source, text)
    changes = [
        (slot, span, wording)
        for slot, value in meaning.items()
        if slot not in (*before.missing, *before.wrong, *before.added)
        for span in patterns.spans(slot, value, text)
        for other, wordings in corpus.wordings.get(slot, {}).items()
        if other != value
        for wording in wordings
    ]
    for place in draws.permutation(len(changes)):
        slot, (start, end), wording = changes[place]
        made = text[:start] + wording + text[end:]
        after = patterns.check(example.source, made)
        if slot in (*after.missing, *after.wrong):
            return made
    return None


def negation(text: str, example: Example, corpus: Corpus, draws: Draws) -> str | None:
    """The reference with its first statement negated, or its first negation taken out."""
    return None if corpus.language is None else negated(text, corpus.language)


PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe("empty", "silence", "no text at all", empty),
        Probe("one_word", "a single word", "one word of the reference", one_word),
        Probe("source_copy", "a copy of the source", "the source itself", source_copy),
        Probe("other_reference", "a reference of another source", "good writing about something else", other_reference),
        Probe("shuffled", "shuffled words", "words in another order, the first and last in place", shuffled),
        Probe("repeated_sentence", "a repeated sentence", "one sentence of the reference three times", repeated_sentence),
        Probe("truncated", "a text cut in half", "the first half of the reference's words", truncated),
        Probe("doubled", "the text twice over", "the reference, and the reference again", doubled),
        Probe("filler", "inserted filler", "phrases that say nothing, between the words", filler),
        Probe("frequent_words", "frequent words alone", "as many of the ten commonest words", frequent_words),
        Probe("wrong_value", "a wrong value", "a slot, number or name of another record", wrong_value),
        Probe("negation", "a negated statement", "the reference says the contrary", negation),
    )
}
"""The probes by name, in the order of tables."""
