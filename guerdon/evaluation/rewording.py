"""Small changes that turn what a text says: numbers and names found, statements negated, fillers of a language."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

from guerdon.errors import ConfigurationError

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NAME = regex.compile(r"\b\p{Lu}[\w'’]*(?:[ -]\p{Lu}[\w'’]*)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?…]['\"’”)]*)\s*$")

Span = tuple[int, int]


@dataclass(frozen=True)
class Language:
    """What two probes need to know of a language.

    Attributes:
        fillers: phrases that say nothing.
        verbs: auxiliaries, behind which a negation is put.
        negation: the word put there, and taken out again.
        contractions: negated words, and what they are without the negation.
    """

    fillers: Sequence[str]
    verbs: Sequence[str]
    negation: str
    contractions: Sequence[tuple[str, str]] = ()


LANGUAGES = {
    "en": Language(
        fillers=("of course,", "you know,", "as it were,", "basically", "in actual fact", "needless to say,"),
        verbs=(
            "is", "are", "was", "were", "am", "has", "have", "had", "can", "could", "will", "would", "should", "may", "might",
            "must", "does", "do", "did",
        ),
        negation="not",
        contractions=(("can't", "can"), ("cannot", "can"), ("won't", "will"), ("n't", "")),
    ),
    "de": Language(
        fillers=("natürlich", "sozusagen", "wie gesagt", "eigentlich", "gewissermaßen"),
        verbs=(
            "ist", "sind", "war", "waren", "hat", "haben", "hatte", "hatten", "kann", "können", "wird", "werden", "würde",
            "soll", "sollte", "muss", "müssen", "steht", "stehen", "sitzt", "sitzen", "geht", "gehen", "trägt", "tragen",
        ),
        negation="nicht",
        contractions=(("keine", "eine"), ("keinen", "einen"), ("keinem", "einem"), ("keiner", "einer"), ("kein", "ein")),
    ),
}  # fmt: skip
"""By language code."""


def language_of(name: str) -> Language | None:
    """The language of this code; None for "none".

    Raises:
        ConfigurationError: for a language whose fillers and negations are not known.
    """
    if name == "none":
        return None
    if name not in LANGUAGES:
        near = difflib.get_close_matches(name, [*LANGUAGES, "none"], 1)
        cure = f"did you mean {near[0]!r}?" if near else "choose en or de; none leaves out filler and negation"
        raise ConfigurationError(f"no fillers and negations are known for {name!r}", where="language", cure=cure)
    return LANGUAGES[name]


def numbers_in(text: str) -> list[Span]:
    """Where numbers in digits stand.

    >>> [("from 20.50 to 30"[a:b]) for a, b in numbers_in("from 20.50 to 30")]
    ['20.50', '30']
    """
    return [match.span() for match in _NUMBER.finditer(text)]


def names_in(text: str, source: str) -> list[Span]:
    """Where runs of capitalised words stand; at the head of a sentence only those that the source holds as well.

    >>> text = "The pub Blue Spice is near Burger King."
    >>> [text[a:b] for a, b in names_in(text, "name[Blue Spice]")]
    ['Blue Spice', 'Burger King']
    """
    found = (match.span() for match in _NAME.finditer(text))
    return [(a, b) for a, b in found if not _SENTENCE_START.search(text[:a]) or text[a:b] in source]


def negated(text: str, language: Language) -> str | None:
    """The text without its first negation; where there is none, with its first statement negated; None where neither goes.

    >>> negated("It is a pub.", LANGUAGES["en"]), negated("It isn't a pub.", LANGUAGES["en"])
    ('It is not a pub.', 'It is a pub.')
    """
    found = re.search(rf"\s+{language.negation}\b", text, re.IGNORECASE)
    if found:
        return text[: found.start()] + text[found.end() :]
    for contracted, plain in language.contractions:
        edge = r"\b" if plain else r"(?<=\w)"  # a bare ending hangs on a word
        found = re.search(rf"{edge}{contracted}\b", text.replace("’", "'"), re.IGNORECASE)
        if found:
            return text[: found.start()] + plain + text[found.end() :]
    found = re.search(rf"\b(?:{'|'.join(language.verbs)})\b", text, re.IGNORECASE)
    return text[: found.end()] + f" {language.negation}" + text[found.end() :] if found else None
