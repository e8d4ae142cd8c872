"""Ways to cut a text into words. Every splitter is a plain function, so that what holds one can be pickled.

=============  =====================================================================================
whitespace     runs of anything but white space; punctuation stays on its word
unicode        words by the boundaries of Unicode Standard Annex 29; punctuation and symbols are left
               out. Chinese and Japanese ideographs stand alone, since the rules know no dictionary
characters     each user-perceived character (extended grapheme cluster, same annex) but white space
chinese        jieba's dictionary segmentation; punctuation and symbols are left out
=============  =====================================================================================

None of them changes case: that is an option of whoever uses one.
"""

from __future__ import annotations

import difflib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import regex  # type: ignore[import-untyped]

from guerdon.errors import ConfigurationError, MissingExtraError

Splitter = Callable[[str], list[str]]

# (?w) gives \b the default word boundaries of UAX 29 ("don't" and "30.50" are one word, "city-centre" two).
_UNICODE_WORD = regex.compile(r"(?V1w)\b\w.*?\b")
_GRAPHEME = regex.compile(r"\X")


def split_whitespace(text: str) -> list[str]:
    """The runs of anything but white space.

    >>> split_whitespace("It's a pub, isn't it?")
    ["It's", 'a', 'pub,', "isn't", 'it?']
    """
    return text.split()


def split_unicode(text: str) -> list[str]:
    """The words by Unicode's rules, without punctuation.

    >>> split_unicode("It's £20.50 at the city-centre pub.")
    ["It's", '20.50', 'at', 'the', 'city', 'centre', 'pub']
    """
    # regex sees no boundary between a combining mark that begins the text and white space behind it
    return [word.rstrip() for word in _UNICODE_WORD.findall(text)]


def split_characters(text: str) -> list[str]:
    """The user-perceived characters, white space left out.

    >>> split_characters("a pub")
    ['a', 'p', 'u', 'b']
    """
    return [character for character in _GRAPHEME.findall(text) if not character[0].isspace()]


def split_chinese(text: str) -> list[str]:
    """The words of a Chinese text by jieba's dictionary, without punctuation.

    >>> split_chinese("我来到北京清华大学。")
    ['我', '来到', '北京', '清华大学']

    Raises:
        MissingExtraError: when jieba is not installed.
    """
    return [word for word in _segmenter().cut(text) if any(map(str.isalnum, word))]


def import_jieba() -> Any:
    """The module jieba, silent.

    Raises:
        MissingExtraError: when it is not installed.
    """
    try:
        with warnings.catch_warnings():  # it imports pkg_resources and has invalid escapes in its source
            warnings.simplefilter("ignore")
            import jieba  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("jieba", "chinese", "splitting Chinese text into words") from error
    jieba.setLogLevel(logging.WARNING)
    return jieba


@functools.cache
def _segmenter() -> Any:
    """One of our own, so that words that a program adds to jieba's global one change no score here."""
    segmenter = import_jieba().Tokenizer()
    segmenter.initialize()
    return segmenter


_SPLITTERS: dict[str, Splitter] = {
    "whitespace": split_whitespace,
    "unicode": split_unicode,
    "characters": split_characters,
    "chinese": split_chinese,
}


def splitter(name: str) -> Splitter:
    """The splitter of this name.

    Raises:
        ConfigurationError: for a name that is not in the table above.
        MissingExtraError: for "chinese" when jieba is not installed.
    """
    if name not in _SPLITTERS:
        near = difflib.get_close_matches(name, _SPLITTERS, 1)
        cure = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(_SPLITTERS)}"
        raise ConfigurationError(f"there is no word splitter {name!r}", cure=cure)
    if name == "chinese":
        _segmenter()
    return _SPLITTERS[name]


def ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    """The runs of ``n`` neighbouring words, in order.

    >>> list(ngrams(["a", "b", "c"], 2))
    [('a', 'b'), ('b', 'c')]
    """
    return zip(*(words[start:] for start in range(n)), strict=False)
