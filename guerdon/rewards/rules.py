"""Rewards that are rules: length, repetition, required content, patterns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guerdon.data.words import ngrams
from guerdon.data.words import splitter as word_splitter
from guerdon.errors import ConfigurationError, DataError
from guerdon.metrics.slots import SlotPatterns, compile_phrase, fold, slot_errors
from guerdon.rewards.base import Judged, Reward


class Length(Reward):
    """1 for an output of ``minimum`` to ``maximum`` words, falling linearly to 0 at ``falloff`` words outside.

    >>> Length(3, 5, falloff=4)(["x"] * 4, ["one", "a pub by the river", "a b c d e f", ""]).tolist()
    [0.5, 1.0, 0.75, 0.25]

    It scores no prefixes: the length of a prefix says how much has been written, not how much is still to come, and is the same
    for every output at the same place.

    Args:
        minimum, maximum: the target range, in words.
        falloff: how many words outside the range the score reaches 0.
        splitter: a name of `guerdon.data.words`.

    Raises:
        ConfigurationError: when the range is empty or negative, or the fall-off not positive.
    """

    name = "length"

    def __init__(self, minimum: int, maximum: int, falloff: int = 10, splitter: str = "unicode") -> None:
        if not 0 <= minimum <= maximum:
            raise ConfigurationError(
                f"no length is in {minimum} to {maximum}", where="length", cure="give 0 <= minimum <= maximum"
            )
        if falloff < 1:
            raise ConfigurationError(f"the fall-off is {falloff}", where="length.falloff", cure="give at least 1 word")
        self.minimum, self.maximum, self.falloff = minimum, maximum, falloff
        self._split = word_splitter(splitter)

    def score(self, judged: Judged) -> list[float]:
        """In [0, 1]."""
        return [self._score(len(self._split(output))) for output in judged.outputs]

    def _score(self, words: int) -> float:
        outside = max(self.minimum - words, words - self.maximum, 0)
        return max(0.0, 1.0 - outside / self.falloff)


class Repetition(Reward):
    """Minus the share of an output's n-grams that stood in it before: 0 without repetition, towards -1 with nothing else.

    >>> Repetition(n=1)(["x"] * 3, ["a pub", "a pub a pub", "a a a a"]).tolist()
    [0.0, -0.5, -0.75]

    It scores prefixes: what has been repeated stays repeated.

    Args:
        n: words of an n-gram; outputs of fewer words score 0.
        lowercase: compare lower-cased words.
        splitter: a name of `guerdon.data.words`.

    Raises:
        ConfigurationError: when n is below 1.
    """

    name = "repetition"
    scores_prefixes = True

    def __init__(self, n: int = 3, lowercase: bool = True, splitter: str = "unicode") -> None:
        if n < 1:
            raise ConfigurationError(f"n is {n}", where="repetition.n", cure="give at least 1")
        self.n, self.lowercase = n, lowercase
        self._split = word_splitter(splitter)

    def score(self, judged: Judged) -> list[float]:
        """In (-1, 0]."""
        return [self._score(output) for output in judged.outputs]

    def _score(self, output: str) -> float:
        found = list(ngrams(self._split(output.lower() if self.lowercase else output), self.n))
        return (len(set(found)) - len(found)) / len(found) if found else 0.0


class RequiredContent(Reward):
    """Whether an output says what its source requires.

    With ``patterns``, the source is a meaning representation (`guerdon.metrics.slots`), and the score is 1 less the share of
    slots that are missing, wrong or added: 1 for an output that says all and nothing else, below 0 when it adds more slots
    than it gets right. Without, the record's field ``field`` lists the texts that must stand in the output (whole words, case
    and accents ignored), and the score is the share that does.

    It applies to the sources that require something. An empty output misses everything: 0. It scores prefixes: what has been
    said stays said, and what is missing so far counts as missing.

    >>> meta = [{"required": ["cafe rouge", "cheap"]}, {"required": ["pub"]}]
    >>> RequiredContent(field="required")(["x", "x"], ["A pub in Café Rouge", ""], meta=meta).tolist()
    [0.5, 0.0]
    >>> reward = RequiredContent({"name": {}, "kind": {"pub": ["pubs?", "tavern"]}})
    >>> reward(["name[Zizzi], kind[pub]"] * 2, ["Zizzi is a tavern", "Zizzi"]).tolist()
    [1.0, 0.5]

    Args:
        patterns: the slots' patterns, or the YAML file that holds them.
        field: the field of the record that lists the required texts.

    Raises:
        ConfigurationError: when both or none are given, or the patterns cannot be used.
    """

    name = "required_content"
    scores_prefixes = True

    def __init__(
        self, patterns: SlotPatterns | Mapping[str, Mapping[str, Any]] | str | Path | None = None, field: str | None = None
    ) -> None:
        if (patterns is None) == (field is None):
            raise ConfigurationError(
                "it takes either patterns or a field", where="required_content", cure="give exactly one of the two"
            )
        if isinstance(patterns, str | Path):
            patterns = SlotPatterns.from_file(patterns)
        self.patterns = SlotPatterns(patterns) if isinstance(patterns, Mapping) else patterns
        self.field = field

    def applies(self, judged: Judged) -> list[bool]:
        """True for the sources that require something."""
        if self.patterns is not None:
            return [bool(self.patterns.requirements(source)) for source in judged.sources]
        return [bool(self._required(meta)) for meta in judged.meta]

    def score(self, judged: Judged) -> list[float]:
        """At most 1; 0 where it does not apply.

        Raises:
            DataError: when a source is a damaged meaning representation, or the field is no list of texts.
        """
        if self.patterns is not None:
            checks = slot_errors(self.patterns, judged.sources, judged.outputs)
            return [1.0 - check.errors / check.required if check.required else 0.0 for check in checks]
        return [self._share(self._required(meta), output) for meta, output in zip(judged.meta, judged.outputs, strict=True)]

    def _required(self, meta: Mapping[str, Any]) -> Sequence[str]:
        required = meta.get(str(self.field))
        if required is None:
            return ()
        if not isinstance(required, list | tuple) or not all(isinstance(text, str) and text.strip() for text in required):
            raise DataError(
                f"the field {self.field!r} holds {required!r}", where="required_content", cure="write a list of texts"
            )
        return required

    def _share(self, required: Sequence[str], output: str) -> float:
        text = fold(output)
        found = sum(
            compile_phrase([re.escape(fold(phrase))], "required_content").search(text) is not None for phrase in required
        )
        return found / len(required) if required else 0.0


class Pattern(Reward):
    r"""The share of rules that an output obeys: regular expressions that must, and must not, be found in it.

    >>> reward = Pattern(must=[r"\.$"], must_not=[r"\bI\b", "(?i)sorry"])
    >>> [round(score, 2) for score in reward(["x"] * 2, ["A pub.", "I am sorry."]).tolist()]
    [1.0, 0.33]

    It scores no prefixes: a rule may be about the end (the full stop above), which no prefix obeys. Rules that are not can be
    written as a function with ``scores_prefixes`` (`guerdon.rewards.function.FunctionReward`).

    Args:
        must: each has to be found somewhere in the output.
        must_not: none may be found.

    Raises:
        ConfigurationError: when there is no rule, or one is no regular expression.
    """

    name = "pattern"

    def __init__(self, must: Sequence[str] = (), must_not: Sequence[str] = ()) -> None:
        for option, given in (("must", must), ("must_not", must_not)):
            if isinstance(given, str):
                raise ConfigurationError("is one text", where=f"pattern.{option}", cure="give a list of regular expressions")
        if not must and not must_not:
            raise ConfigurationError("there is no rule", where="pattern", cure="give must or must_not")
        self._rules = [(_compile(rule, "must"), True) for rule in must]
        self._rules += [(_compile(rule, "must_not"), False) for rule in must_not]

    def score(self, judged: Judged) -> list[float]:
        """In [0, 1]."""
        return [
            math.fsum((rule.search(output) is not None) is wanted for rule, wanted in self._rules) / len(self._rules)
            for output in judged.outputs
        ]


def _compile(rule: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(rule)
    except re.error as error:
        raise ConfigurationError(f"{rule!r} is no regular expression: {error}", where=f"pattern.{option}") from error
