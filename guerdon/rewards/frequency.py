"""The word-frequency reward: how common the words of an output are.

The written formula, the sum of log p over the words of the output, is largest for the **empty** output: every word costs.
Alone it teaches silence. ``reduction="mean"`` has no preference for length, and is the default for that reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

from guerdon.data.words import import_jieba
from guerdon.data.words import splitter as word_splitter
from guerdon.errors import ConfigurationError, DataError, MissingExtraError
from guerdon.rewards.base import Judged, Reward

Reduction = Literal["sum", "mean"]


class WordTable(Protocol):
    """Where the log probabilities come from."""

    @property
    def unseen(self) -> float:
        """log p of a word that the table does not hold; no word is less probable."""
        ...

    def words(self, text: str) -> list[str]:
        """The words of a text, in the form in which the table holds them."""
        ...

    def log_prob(self, word: str) -> float:
        """Natural logarithm of the word's probability; finite for every word."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON."""
        ...


class CorpusTable:
    """Relative frequencies in a corpus, with additive (Lidstone) smoothing.

    With N words of V types in the corpus and the smoothing s, p(w) = (count(w) + s) / (N + s (V + 1)): the types and one
    class for every unseen word sum to 1.

    Args:
        counts: how often each word occurs.
        splitter: a name of `guerdon.data.words`.
        lowercase: whether words are lower-cased before they are looked up.
        smoothing: s; 1 is Laplace's.

    Raises:
        ConfigurationError: when the smoothing is not a positive number, or the splitter unknown.
        DataError: when there is no word, or a count is not a positive whole number.
    """

    def __init__(
        self, counts: Mapping[str, int], splitter: str = "unicode", lowercase: bool = True, smoothing: float = 1.0
    ) -> None:
        if not (smoothing > 0 and math.isfinite(smoothing)):
            raise ConfigurationError(
                f"smoothing is {smoothing}, so that an unseen word would have log p = -inf",
                where="word_frequency.smoothing",
                cure="choose a number above 0, such as 1",
            )
        if not counts:
            raise DataError("the corpus has no words", where="word_frequency", cure="give the training texts, or a language")
        self.counts, self.splitter, self.lowercase, self.smoothing = dict(counts), splitter, lowercase, smoothing
        for word, count in self.counts.items():
            if not isinstance(count, int) or count < 1:
                raise DataError(f"the count of {word!r} is {count!r}", where="word_frequency", cure="give counts above 0")
        self._split = word_splitter(splitter)
        mass = sum(self.counts.values()) + smoothing * (len(self.counts) + 1)
        self._log_probs = {word: math.log((count + smoothing) / mass) for word, count in self.counts.items()}
        self.unseen = math.log(smoothing / mass)

    @classmethod
    def from_texts(cls, texts: Iterable[str], splitter: str, lowercase: bool, smoothing: float) -> CorpusTable:
        """Counts the words of ``texts``; raises as the constructor does."""
        split = word_splitter(splitter)
        counts = Counter(word for text in texts for word in split(text.lower() if lowercase else text))
        return cls(counts, splitter, lowercase, smoothing)

    def words(self, text: str) -> list[str]:
        """The words of ``text``, lower-cased where asked."""
        return self._split(text.lower() if self.lowercase else text)

    def log_prob(self, word: str) -> float:
        """Natural logarithm of the smoothed relative frequency."""
        return self._log_probs.get(word, self.unseen)

    def to_dict(self) -> dict[str, Any]:
        """The counts and the options."""
        return {
            "counts": self.counts,
            "splitter": self.splitter,
            "lowercase": self.lowercase,
            "smoothing": self.smoothing,
        }


class LanguageTable:
    """Frequencies in a language, from the package wordfreq, which also splits and normalises the words as its lists need.

    A word that wordfreq does not know gets one in a billion: the zero of its Zipf scale, below every word of its lists.

    Args:
        language: a language code, such as "en" or "zh".

    Raises:
        MissingExtraError: when wordfreq, or jieba for Chinese, is not installed.
        ConfigurationError: when wordfreq has no list for the language, or lacks a further package to split it.
    """

    floor = 1e-9

    def __init__(self, language: str) -> None:
        self.language, self.unseen = language, math.log(self.floor)
        if language not in _wordfreq().available_languages():
            raise ConfigurationError(
                f"wordfreq has no list for the language {language!r}",
                where="word_frequency.language",
                cure=f"choose one of {', '.join(sorted(_wordfreq().available_languages()))}, or count the training texts",
            )
        if language.startswith("zh"):
            import_jieba()
        try:
            self.words("字")  # what is missing is told of now, not in the middle of a training
        except ImportError as error:
            raise ConfigurationError(
                f"wordfreq cannot split the language {language!r}: {error}",
                where="word_frequency.language",
                cure="run: pip install 'wordfreq[cjk]'",
            ) from error

    def words(self, text: str) -> list[str]:
        """The words of ``text`` as wordfreq splits and folds them."""
        return list(_wordfreq().tokenize(text, self.language))

    def log_prob(self, word: str) -> float:
        """Natural logarithm of wordfreq's estimate, floored."""
        return math.log(_wordfreq().word_frequency(word, self.language, minimum=self.floor))

    def to_dict(self) -> dict[str, Any]:
        """The language."""
        return {"language": self.language}


class WordFrequency(Reward):
    r"""r(y) = Σᵢ log p(yᵢ) over the words of the output (the described system, section 4.2.1), or its mean.

    An output without words has the sum 0, which is the **maximum**: no other output reaches it. Its mean is set to log p of
    an unseen word, the **minimum**, so that silence never pays.

    It scores prefixes: of the sum, what is left of it at a token is the exact reward of the words to come. A prefix that ends
    inside a word scores its beginning as a word.

    Build it with `from_texts` or `from_language`.

    >>> reward = WordFrequency.from_texts(["a pub", "a bar"], reduction="mean")
    >>> [round(s, 3) for s in reward(["x"] * 3, ["A!", "a pub", "zebra"]).tolist()]   # p: a 3/8, pub 2/8, unseen 1/8
    [-0.981, -1.184, -2.079]

    Args:
        table: where the probabilities come from.
        reduction: "sum" is the formula; "mean" divides by the number of words.

    Raises:
        ConfigurationError: for another reduction.
    """

    name = "word_frequency"
    scores_prefixes = True

    def __init__(self, table: WordTable, reduction: Reduction = "mean") -> None:
        if reduction not in ("sum", "mean"):
            raise ConfigurationError(
                f"there is no reduction {reduction!r}", where="word_frequency.reduction", cure="choose sum or mean"
            )
        self.table, self.reduction = table, reduction

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        splitter: str = "unicode",
        lowercase: bool = True,
        reduction: Reduction = "mean",
        smoothing: float = 1.0,
    ) -> WordFrequency:
        """Counts the words of ``texts`` (the training targets); see `CorpusTable`, also for what it raises."""
        return cls(CorpusTable.from_texts(texts, splitter, lowercase, smoothing), reduction)

    @classmethod
    def from_language(cls, language: str, reduction: Reduction = "mean") -> WordFrequency:
        """Takes the frequencies of a language ("en", "zh", ...) where there is no corpus; see `LanguageTable`."""
        return cls(LanguageTable(language), reduction)

    def score(self, judged: Judged) -> list[float]:
        """The sum or mean of log p, in nats, of each output."""
        return [self._score(output) for output in judged.outputs]

    def to_dict(self) -> dict[str, Any]:
        """The reward as JSON, to be stored in a run."""
        return {"reduction": self.reduction, **self.table.to_dict()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> WordFrequency:
        """What `to_dict` gave, as a reward again.

        Raises:
            DataError: when a field is missing or unknown.
        """
        fields = dict(stored)
        try:
            reduction = fields.pop("reduction")
            table: WordTable = LanguageTable(**fields) if "language" in fields else CorpusTable(**fields)
        except (KeyError, TypeError) as error:
            raise DataError(f"this is no stored word frequency: {error}", where="word_frequency") from error
        return cls(table, reduction)

    def _score(self, output: str) -> float:
        log_probs = [self.table.log_prob(word) for word in self.table.words(output)]
        if self.reduction == "sum":
            return math.fsum(log_probs)
        return math.fsum(log_probs) / len(log_probs) if log_probs else self.table.unseen


def _wordfreq() -> Any:
    try:
        import wordfreq
    except ImportError as error:
        raise MissingExtraError("wordfreq", "frequency", "word frequencies of a language") from error
    return wordfreq
