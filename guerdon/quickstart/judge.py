"""Comparisons by a simulated judge, so that the quickstart has something to train a reward model on.

**No person compared anything.** The grammar of the corpus writes two announcements of one event, and breaks some of them in
ways that it knows: a slot left out, one added, a value changed, a sentence said twice, words in disorder, an end cut off. Three
simulated judges prefer the one with fewer faults; like people they err, the more often the nearer the two are
(P = σ(`SHARPNESS` · difference in faults)). What a reward model learns here shows how the machinery works, and nothing of
people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from guerdon.data.draws import generator
from guerdon.quickstart.corpus import OPTIONAL, VALUES, Draw, Entry, Slots, entries, write

JUDGE_NOTE = "So are the comparisons that its reward model learns from: a simulated judge made them."

PAIRS = {"train": 1000, "validation": 150}
JUDGES = 3
SHARPNESS = 1.5
WHOLE = 0.35  # the share of announcements that are not broken on purpose


def comparisons(seed: int, split: str) -> list[Mapping[str, Any]]:
    """The comparisons for the sources of one split (a key of `PAIRS`), as the rows of a file; the same for the same seed."""
    given = entries(seed, split)
    rows = []
    for number in range(PAIRS[split]):
        draw = Draw(generator(seed, f"quickstart comparisons {split}", number))
        rows.append(_compared(draw, given[number % len(given)], f"quickstart-{split}-pair-{number}"))
    return rows


def _compared(draw: Draw, entry: Entry, name: str) -> Mapping[str, Any]:
    texts, faults = zip(*(_announcement(draw, entry.slots) for _ in range(2)), strict=True)
    probability = 1 / (1 + math.exp(SHARPNESS * (faults[0] - faults[1])))
    first = sum(draw.chance(probability) for _ in range(JUDGES))
    chosen, rejected = texts if first > JUDGES - first else texts[::-1]
    votes = max(first, JUDGES - first)
    about = {"id": name, "source": entry.source, "aspect": "faithfulness"}
    return {**about, "chosen": chosen, "rejected": rejected, "votes_for": votes, "votes_against": JUDGES - votes}


def _announcement(draw: Draw, slots: Slots) -> tuple[str, int]:
    """An announcement, and how many faults it has."""
    if draw.chance(WHOLE):
        return write(draw, slots), 0
    broken, said = draw.order([*_CONTENT, *_WORDING])[: 1 + draw.chance(0.3)], slots
    for way in broken:
        said = _CONTENT[way](draw, said) if way in _CONTENT else said
    text = write(draw, said)
    for way in broken:
        text = _WORDING[way](draw, text) if way in _WORDING else text
    return text, len(broken)


def _omitted(draw: Draw, slots: Slots) -> dict[str, str]:
    left_out = draw.among([slot for slot in OPTIONAL if slot in slots])
    return {slot: value for slot, value in slots.items() if slot != left_out}


def _added(draw: Draw, slots: Slots) -> dict[str, str]:
    slot = draw.among([slot for slot in OPTIONAL if slot not in slots])
    return {**slots, slot: draw.among(VALUES[slot])}


def _changed(draw: Draw, slots: Slots) -> dict[str, str]:
    slot = draw.among([slot for slot in OPTIONAL if slot in slots])
    return {**slots, slot: draw.among([value for value in VALUES[slot] if value != slots[slot]])}


def _doubled(draw: Draw, text: str) -> str:
    sentence = draw.among(text.rstrip(".").split(". "))
    return f"{text} {sentence}."


def _disordered(draw: Draw, text: str) -> str:
    """Six words or so that stand side by side, in another order."""
    words = text.split()
    begin = int(draw.numbers.integers(max(len(words) - 6, 1)))
    return " ".join([*words[:begin], *draw.order(words[begin : begin + 6]), *words[begin + 6 :]])


def _cut(draw: Draw, text: str) -> str:
    words = text.split()
    return " ".join(words[: max(2, len(words) - 2 - int(draw.numbers.integers(5)))])


_CONTENT: Mapping[str, Callable[[Draw, Slots], dict[str, str]]] = {"omitted": _omitted, "added": _added, "changed": _changed}
_WORDING: Mapping[str, Callable[[Draw, str], str]] = {"doubled": _doubled, "disordered": _disordered, "cut": _cut}
