"""A data-to-text corpus that is written by a program, so that the quickstart needs no download.

**No person wrote a word of these references.** A seeded grammar (templates, synonyms, order of clauses, one sentence or
several) announces invented events of an invented town. The corpus serves to see the whole way from records to report in
minutes; a figure measured on it says nothing about real text, and guerdon never reports one without `NOTE`.

A source is a meaning representation such as ::

    title[The Amber Tide], kind[lecture], about[sea birds], place[Old Mill], day[Friday], price[free]

As in real corpora of this kind, the training references are noisy: about one in seven leaves out a slot of its source, or
says one that the source does not hold. Those of validation and test are clean. No title, and so no source, is shared between
splits, while each word of a title occurs in training: the words of a test title are never seen together before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guerdon.data.draws import generator
from guerdon.data.records import Example
from guerdon.quickstart import lexicon

NOTE = (
    "The quickstart's corpus is written by a program (a seeded grammar), not by people: "
    "its figures show that the machinery works and say nothing about real text."
)

SIZES = {"train": 1500, "validation": 150, "test": 200}
TITLES = {"validation": 60, "test": 80}  # of 1,024; training has the others
NOISE = 0.15

VALUES: dict[str, Sequence[str]] = {
    "kind": tuple(lexicon.KINDS),
    "about": lexicon.TOPICS,
    "place": lexicon.PLACES,
    "day": lexicon.DAYS,
    "time": tuple(lexicon.HOURS),
    "price": tuple(lexicon.AMOUNTS),
    "audience": tuple(lexicon.AUDIENCES),
    "booking": tuple(lexicon.BOOKING_CLAUSES),
}
SLOTS = ("title", *VALUES)
OPTIONAL = SLOTS[2:]

Slots = Mapping[str, str]


@dataclass(frozen=True)
class Written:
    """One reference, and what is deliberately wrong with it.

    Attributes:
        text: the reference.
        omitted: the slot of the source that it leaves out, if any.
        added: the slot, not in the source, that it says all the same, if any.
    """

    text: str
    omitted: str | None = None
    added: str | None = None


@dataclass(frozen=True)
class Entry:
    """One source with its references, as the grammar made them."""

    slots: Slots
    written: tuple[Written, ...]

    @property
    def source(self) -> str:
        """The meaning representation: ``slot[value], slot[value]``, in the order of `SLOTS`."""
        return ", ".join(f"{slot}[{self.slots[slot]}]" for slot in SLOTS if slot in self.slots)


def build(seed: int) -> tuple[list[Example], list[Example], list[Example]]:
    """Writes the corpus: training, validation and test examples, the same for the same seed."""
    train, validation, test = (
        [
            Example(source=entry.source, references=tuple(one.text for one in entry.written), id=f"quickstart-{split}-{number}")
            for number, entry in enumerate(entries(seed, split))
        ]
        for split in SIZES
    )
    return train, validation, test


def entries(seed: int, split: str) -> list[Entry]:
    """The entries of one split (a key of `SIZES`), with what is wrong with each reference."""
    titles = _titles(seed)[split]
    found: dict[str, Entry] = {}
    number = 0
    while len(found) < SIZES[split]:
        draw = Draw(generator(seed, f"quickstart {split}", number))
        slots = _event(draw, titles)
        entry = Entry(slots, _references(draw, slots, NOISE if split == "train" else 0.0))
        found.setdefault(entry.source, entry)
        number += 1
    return list(found.values())


class Draw:
    """Choices from one generator."""

    def __init__(self, numbers: np.random.Generator) -> None:
        self.numbers = numbers

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return bool(self.numbers.random() < probability)

    def among(self, items: Sequence[str]) -> str:
        """One of them, all equally likely."""
        return items[int(self.numbers.integers(len(items)))]

    def wording(self, items: Sequence[str]) -> str:
        """One of them, in proportion to 1 / rank: people have favourites."""
        weights = 1.0 / np.arange(1, len(items) + 1)
        return items[int(np.searchsorted(np.cumsum(weights / weights.sum())[:-1], self.numbers.random(), side="right"))]

    def order(self, items: Sequence[str]) -> list[str]:
        """All of them, shuffled."""
        return [items[int(at)] for at in self.numbers.permutation(len(items))]

    def split(self, items: Sequence[str], probability: float) -> tuple[list[str], list[str]]:
        """Two parts: those kept (each with this probability), and the others."""
        kept = [item for item in items if self.chance(probability)]
        return kept, [item for item in items if item not in kept]


def _titles(seed: int) -> dict[str, list[str]]:
    """Every title, shared out among the splits."""
    every = [f"The {first} {second}" for first in lexicon.TITLE_FIRST for second in lexicon.TITLE_SECOND]
    shuffled = Draw(generator(seed, "quickstart titles")).order(every)
    edges = np.cumsum([TITLES["validation"], TITLES["test"]])
    return {"validation": shuffled[: edges[0]], "test": shuffled[edges[0] : edges[1]], "train": shuffled[edges[1] :]}


def _event(draw: Draw, titles: Sequence[str]) -> Slots:
    """The slots of one event: title, kind and two to four others."""
    chosen = draw.order(OPTIONAL)[: 2 + int(draw.numbers.integers(3))]
    values = {slot: draw.among(VALUES[slot]) for slot in VALUES if slot == "kind" or slot in chosen}
    return {"title": draw.among(titles), **values}


def _references(draw: Draw, slots: Slots, noise: float) -> tuple[Written, ...]:
    """Three or four references, no two alike."""
    wanted = 3 + int(draw.chance(0.5))
    texts: dict[str, Written] = {}
    while len(texts) < wanted:
        one = _reference(draw, slots, noise)
        texts.setdefault(one.text, one)
    return tuple(texts.values())


def _reference(draw: Draw, slots: Slots, noise: float) -> Written:
    if not draw.chance(noise):
        return Written(write(draw, slots))
    said, unsaid = [slot for slot in OPTIONAL if slot in slots], [slot for slot in OPTIONAL if slot not in slots]
    if draw.chance(0.5):
        omitted = draw.among(said)
        return Written(write(draw, {slot: value for slot, value in slots.items() if slot != omitted}), omitted=omitted)
    added = draw.among(unsaid)
    return Written(write(draw, {**slots, added: draw.among(VALUES[added])}), added=added)


def write(draw: Draw, slots: Slots) -> str:
    """One announcement that says every slot once."""
    said_aside, clauses = _asides(draw, slots)
    hosted = "place" in slots and draw.chance(0.2)
    now, later = draw.split(_circumstances(draw, {**slots, "place": ""} if hosted else slots), 0.8)
    opening = _hosted if hosted else _opening
    sentences = [opening(draw, slots, now, said_aside)]
    if later:
        sentences.append(f"it {draw.wording(lexicon.KINDS[slots['kind']].verbs)} {' '.join(later)}")
    return _join(draw, sentences, clauses)


def _circumstances(draw: Draw, slots: Slots) -> list[str]:
    """Where and when, as phrases in some order; day and hour stay together."""
    where, when = [], []
    if slots.get("place"):
        where.append(draw.wording(lexicon.PLACE_FORMS).format(slots["place"]))
    if "day" in slots:
        when.append(draw.wording(lexicon.DAY_FORMS).format(slots["day"]))
    if "time" in slots:
        hour = draw.wording(lexicon.HOURS[slots["time"]])
        when.append(draw.wording(lexicon.HOUR_FORMS).format(hour))
    return [*where, *when] if draw.chance(0.5) else [*when, *where]


def _asides(draw: Draw, slots: Slots) -> tuple[list[str], list[str]]:
    """Price, audience and booking, each either as a phrase for the first sentence or as a clause of its own."""
    phrases, clauses = [], []
    if "audience" in slots:
        who = draw.wording(lexicon.AUDIENCES[slots["audience"]])
        if draw.chance(0.6):
            phrases.append(draw.wording(lexicon.AUDIENCE_FORMS).format(who))
        else:
            clauses.append(draw.wording(lexicon.AUDIENCE_CLAUSES).format(who))
    if "price" in slots:
        amounts = lexicon.AMOUNTS[slots["price"]]
        amount = draw.wording(amounts) if amounts else ""
        if draw.chance(0.3):
            phrases.append(draw.wording(lexicon.AMOUNT_FORMS if amounts else lexicon.FREE_FORMS).format(amount))
        else:
            clauses.append(draw.wording(lexicon.AMOUNT_CLAUSES if amounts else lexicon.FREE_CLAUSES).format(amount))
    if "booking" in slots:
        clauses.append(draw.wording(lexicon.BOOKING_CLAUSES[slots["booking"]]))
    return phrases, draw.order(clauses)


def _what(draw: Draw, slots: Slots, asides: Sequence[str]) -> str:
    """The kind of event as a noun phrase, with its topic and asides."""
    topic = [draw.wording(lexicon.TOPIC_FORMS).format(slots["about"])] if "about" in slots else []
    return " ".join([draw.wording(lexicon.KINDS[slots["kind"]].nouns), *topic, *asides])


def _hosted(draw: Draw, slots: Slots, circumstances: Sequence[str], asides: Sequence[str]) -> str:
    """The first sentence, with the place as its subject."""
    host = f"the {slots['place']} {draw.wording(lexicon.HOSTS)} {slots['title']}, {_what(draw, slots, asides)}"
    return " ".join([host, *circumstances])


def _opening(draw: Draw, slots: Slots, circumstances: Sequence[str], asides: Sequence[str]) -> str:
    """The first sentence: which event, what it is, and whatever was not left for later."""
    rest = list(circumstances)
    front = f"{rest.pop(0)}, " if rest and draw.chance(0.25) else ""
    frames = ["{title} is {what}{rest}", "there is {what} called {title}{rest}", "{title} is the title of {what}{rest}"]
    if rest:
        frames.insert(1, "{title}, {what}, {verb}{rest}")
    if not front:
        frames += ["come to {title}, {what}{rest}", "join us for {title}, {what}{rest}", "do not miss {title}, {what}{rest}"]
    if rest and not asides:
        frames.append("{what} called {title} {verb}{rest}")
    return front + draw.wording(frames).format(
        title=slots["title"],
        what=_what(draw, slots, asides),
        verb=draw.wording(lexicon.KINDS[slots["kind"]].verbs),
        rest="".join(f" {one}" for one in rest),
    )


def _join(draw: Draw, sentences: Sequence[str], clauses: Sequence[str]) -> str:
    """Clauses become sentences, or hang on the sentence before them."""
    joined = list(sentences)
    for clause in clauses:
        request = clause.startswith(lexicon.REQUESTS) or joined[-1].startswith(lexicon.REQUESTS)
        if not request and " and " not in joined[-1] and draw.chance(0.45):
            joined[-1] = f"{joined[-1]} and {clause}"
        else:
            joined.append(clause)
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in joined)
