"""Slots and values: whether an output says what its meaning representation says, no less and no more.

A meaning representation is a list of slots with their values, ``name[The Vaults], eatType[pub]``. How each value is worded
is data, not code: a YAML file of regular expressions, such as ``tests/judges/e2e_slots.yaml``::

    eatType:
      pub: ["pubs?", "public house"]
      restaurant: {patterns: ["restaurant"], implied: true}   # said unasked, it is no error
    name: {}                                                  # its values stand literally

How a text is searched:

- upper and lower case, and accents on Latin letters, are the same to every pattern; curly quotes are straight;
- a pattern matches whole words only (within scripts that put spaces between words);
- patterns are those of the package regex, whose look-behind may have any length: ``(?<!not .{0,20})family friendly``;
- ``{value}`` in a pattern stands for the value itself; a value, or a slot, that the file does not list is looked for
  literally, the unlisted slots first;
- then the slots are searched in the file's order, and what one matched is taken out of the text, so that the near-by "Raja
  Indian Cuisine" is no Indian food. List the slots with names first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex  # type: ignore[import-untyped]
import yaml

from guerdon.errors import ConfigurationError, DataError, InputError
from guerdon.metrics.base import FloatArray, Measure

_ITEM = re.compile(r"\s*([^\[\],]+?)\s*\[([^\[\]]*)\]\s*(,|$)")
_ACCENTS = re.compile("[\u0300-\u036f]")
_PIECE = regex.compile(r"\s+|\X")
_QUOTES = str.maketrans("‘’“”", "''\"\"")
# Word characters of scripts that put spaces between words: in the others a word may begin anywhere.
_LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_TAKEN = " \ufffc "  # stands where a match was taken out, so that no pattern reaches across


def parse_meaning(text: str) -> dict[str, str]:
    """The slots of a meaning representation in the format of E2E, with their values.

    >>> parse_meaning("name[The Vaults], eatType[pub]")
    {'name': 'The Vaults', 'eatType': 'pub'}

    Raises:
        DataError: when the text has another form, or names a slot twice.
    """
    slots: dict[str, str] = {}
    position, more = 0, True
    while more:
        item = _ITEM.match(text, position)
        if item is None:
            raise DataError(
                f"cannot read {text[position : position + 40].strip()!r} as slot[value]",
                where=f"meaning {text[:60]!r}",
                cure="write it as: name[The Vaults], eatType[pub]",
            )
        slot, value, separator = item.groups()
        if slot in slots:
            raise DataError(f"the slot {slot!r} stands twice", where=f"meaning {text[:60]!r}", cure="name each slot once")
        slots[slot] = value.strip()
        position, more = item.end(), bool(separator)
    return slots


@dataclass(frozen=True)
class SlotCheck:
    """What is wrong with one output; every slot stands in one of the lists at most.

    Attributes:
        missing: slots of the source that the output does not speak of.
        wrong: slots of the source to which the output gives another value.
        added: slots that the source does not have, and slots to which the output gives a second value.
        required: how many slots the source has.
    """

    missing: tuple[str, ...]
    wrong: tuple[str, ...]
    added: tuple[str, ...]
    required: int

    @property
    def errors(self) -> int:
        """The number of slots that are missing, wrong or added."""
        return len(self.missing) + len(self.wrong) + len(self.added)


@dataclass(frozen=True)
class _Value:
    pattern: regex.Pattern[str]
    implied: bool = False


class SlotPatterns:
    """How the values of each slot are worded.

    Args:
        slots: slot -> value -> list of regular expressions, or {patterns: list, implied: bool}; see the module.
        where: what errors are reported under.

    Raises:
        ConfigurationError: when the mapping has another form, or a pattern is no regular expression.
    """

    def __init__(self, slots: Mapping[str, Mapping[str, Any]], where: str = "slot patterns") -> None:
        if not isinstance(slots, Mapping) or not slots:
            raise ConfigurationError("there are no slots", where=where, cure="write: slot: {value: [pattern, ...]}")
        self.where = where
        self._slots: dict[str, dict[str, _Value]] = {}
        for slot, values in slots.items():
            here = f"{where}, slot {slot!r}"
            if not isinstance(values, Mapping):
                raise ConfigurationError(f"{values!r} is no mapping", where=here, cure="write {value: [pattern, ...]}")
            if odd := [value for value in values if not isinstance(value, str)]:
                raise ConfigurationError(f"the value {odd[0]!r} is no text", where=here, cure="put it in quotes")
            self._slots[str(slot)] = {value: self._value(str(slot), value, given) for value, given in values.items()}

    @classmethod
    def from_file(cls, path: str | Path) -> SlotPatterns:
        """Reads a YAML file; raises as the constructor does, and when the file cannot be read."""
        try:
            loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            cure = "name a YAML file of slot patterns"
            raise ConfigurationError(f"cannot be read: {error}", where=str(path), cure=cure) from error
        except yaml.YAMLError as error:
            raise ConfigurationError(f"is not YAML: {error}", where=str(path), cure="correct it there") from error
        return cls(loaded, where=str(path))

    def requirements(self, source: str) -> dict[str, str]:
        """The slots of a source and their values; empty for a source that is no meaning representation (has no bracket).

        Raises:
            DataError: when the source is a damaged meaning representation.
        """
        return parse_meaning(source) if "[" in source else {}

    def check(self, source: str, output: str) -> SlotCheck:
        """Compares an output with its source; raises as `requirements` does."""
        meaning = self.requirements(source)
        text = fold(output)
        missing: list[str] = []
        wrong: list[str] = []
        added: list[str] = []
        unlisted: dict[str, dict[str, _Value]] = {slot: {} for slot in meaning if slot not in self._slots}
        for slot, values in {**unlisted, **self._slots}.items():
            wanted = meaning.get(slot)
            said = other = False
            if wanted is not None:
                text, said = _take(values.get(wanted) or self._literal(slot, wanted), text)
            for value, known in values.items():
                if value != wanted and not known.implied and not _stands_elsewhere(value, slot, meaning):
                    text, found = _take(known, text)
                    other = other or found
            if wanted is not None and not said:
                (wrong if other else missing).append(slot)
            elif other:
                added.append(slot)
        return SlotCheck(tuple(missing), tuple(wrong), tuple(added), len(meaning))

    def spans(self, slot: str, value: str, text: str) -> list[tuple[int, int]]:
        """Where a text words this value of the slot: (start, end) in the text itself. Nothing is taken out of it first."""
        folded, places = _aligned(text)
        if folded != fold(text):  # a rare script whose characters change when they meet: no place can be told
            return []
        known = self._slots.get(slot, {}).get(value) or self._literal(slot, value)
        return [(places[m.start()][0], places[m.end() - 1][1]) for m in known.pattern.finditer(folded)]

    def _literal(self, slot: str, value: str) -> _Value:
        """A value that the file does not list; compiled once and kept by the regex module."""
        return self._value(slot, value, ["{value}"])

    def _value(self, slot: str, value: str, given: Any) -> _Value:
        where, implied = f"{self.where}, slot {slot!r}, value {value!r}", False
        if isinstance(given, Mapping):
            if unknown := set(given) - {"patterns", "implied"}:
                cure = "the keys are patterns and implied"
                raise ConfigurationError(f"unknown key {sorted(unknown)[0]!r}", where=where, cure=cure)
            given, implied = given.get("patterns", ["{value}"]), bool(given.get("implied", False))
        if not isinstance(given, list) or not given or not all(isinstance(pattern, str) for pattern in given):
            raise ConfigurationError(f"{given!r} is no list of patterns", where=where, cure='write a list such as ["{value}"]')
        literal = regex.escape(fold(value), literal_spaces=True)
        return _Value(compile_phrase([pattern.replace("{value}", literal) for pattern in given], where), implied)


def fold(text: str) -> str:
    """The form in which texts and patterns are compared: no accents on Latin letters, straight quotes, single spaces.

    >>> fold("Café  “Rouge”")
    'Cafe "Rouge"'
    """
    plain = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))
    return " ".join(plain.translate(_QUOTES).split())


def _aligned(text: str) -> tuple[str, list[tuple[int, int]]]:
    """`fold` of a text, character by character, and where in the text each of its characters comes from."""
    folded, places = "", list[tuple[int, int]]()
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    for piece in _PIECE.finditer(text, begin, end):
        plain = fold(piece.group()) or " "
        folded += plain
        places += [piece.span()] * len(plain)
    return folded, places


def compile_phrase(patterns: Sequence[str], where: str) -> regex.Pattern[str]:
    """One expression that finds any of ``patterns`` as whole words in a text that `fold` made, in any case.

    Raises:
        ConfigurationError: when one is no regular expression, or matches the empty text; ``where`` says where it stands.
    """
    for pattern in patterns:
        try:
            empty = regex.compile(pattern).fullmatch("")
        except regex.error as error:
            cure = "correct it, and escape what is meant literally"
            raise ConfigurationError(f"{pattern!r} is no regular expression: {error}", where=where, cure=cure) from error
        if empty:
            raise ConfigurationError(f"{pattern!r} matches the empty text", where=where, cure="write a pattern for some words")
    plain = (unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", pattern))) for pattern in patterns)
    return regex.compile(rf"(?<!{_LETTER})(?:{'|'.join(plain)})(?!{_LETTER})", regex.IGNORECASE)


def _take(value: _Value, text: str) -> tuple[str, bool]:
    """The text without what the value's pattern matches, and whether there was any."""
    text, count = value.pattern.subn(_TAKEN, text)
    return text, count > 0


def _stands_elsewhere(value: str, slot: str, meaning: Mapping[str, str]) -> bool:
    """Whether another slot of the source has this value, as where a place is near another one of the list."""
    return any(held == value for other, held in meaning.items() if other != slot)


def slot_errors(patterns: SlotPatterns, sources: Sequence[str], outputs: Sequence[str]) -> list[SlotCheck]:
    """The check of every output.

    Raises:
        InputError: when there are not as many sources as outputs; else as `SlotPatterns.requirements`.
    """
    if len(sources) != len(outputs):
        raise InputError(f"{len(sources)} sources for {len(outputs)} outputs", where="slot errors", cure="pass one per output")
    return [patterns.check(source, output) for source, output in zip(sources, outputs, strict=True)]


class SlotErrors(Measure):
    """The slot error rate: (missing + wrong + added) / slots of the sources, in percent; 0 is best.

    Statistics of an output: missing, wrong, added, slots (Wen et al. 2015, https://aclanthology.org/D15-1199, section 5.1, with
    wrong values counted once).
    """

    name, label, higher_is_better = "slot_errors", "slot errors", False

    def __init__(self, patterns: SlotPatterns) -> None:
        self.patterns = patterns

    def statistics(self, sources: Sequence[str], outputs: Sequence[str]) -> FloatArray:
        """The statistics of each output, float64 [n, 4]; raises as `slot_errors` does, and when no source has slots."""
        checks = slot_errors(self.patterns, sources, outputs)
        if not any(check.required for check in checks):
            raise InputError("no source has slots", where="slot errors", cure="measure them on meaning representations only")
        return np.array(
            [[len(check.missing), len(check.wrong), len(check.added), check.required] for check in checks], dtype=np.float64
        )

    def score(self, summed: Sequence[float]) -> float:
        """The rate of summed statistics, in percent."""
        missing, wrong, added, slots = summed
        return 100.0 * (missing + wrong + added) / slots if slots else 0.0

    def corpus(self, sources: Sequence[str], outputs: Sequence[str]) -> float:
        """The rate over all outputs; raises as `statistics` does."""
        return self.score(self.statistics(sources, outputs).sum(0).tolist())
