"""TER, the translation edit rate (Snover et al. 2006, https://aclanthology.org/2006.amta-papers.25), equal to sacrebleu.

The search for shifts is sacrebleu's own. What is ours is its inner loop: a distance that is only compared needs no trace of
edits, and a reference that cannot be the nearest needs no search.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from sacrebleu.metrics.lib_ter import _BEAM_WIDTH, _MAX_SHIFT_CANDIDATES, BeamEditDistance, _shift
from sacrebleu.tokenizers.tokenizer_ter import TercomTokenizer

from guerdon.metrics.base import Metric


class Ter(Metric):
    """Edits (insertions, deletions, substitutions, shifts) per hundred reference words; lower is better, and may pass 100.

    Statistics: the fewest edits to any reference, and the mean length of the references in words.

    Args:
        case_sensitive: False lower-cases both sides, as TER does by default.
    """

    name, label, higher_is_better = "ter", "TER", False

    def __init__(self, case_sensitive: bool = False) -> None:
        self._tokenizer = TercomTokenizer(case_sensitive=case_sensitive)

    def sentence_statistics(self, output: str, references: Sequence[str]) -> list[float]:
        """[2]: edits to the nearest reference, and the mean length of the references in words."""
        words = self._words(output)
        split = [self._words(text) for text in references]
        distinct = {tuple(reference): reference for reference in split}.values()
        edits = math.inf
        for bound, reference in sorted((_fewest_edits(words, reference), reference) for reference in distinct):
            if bound >= edits:
                break
            edits = min(edits, _edits(words, reference))
        return [edits, sum(map(len, split)) / len(split)]

    def score(self, summed: Sequence[float]) -> float:
        """Summed edits per hundred words of summed reference length; against empty references 100 for any edit."""
        edits, length = summed
        if length > 0:
            return 100 * (edits / length)
        return 100.0 if edits else 0.0

    def _words(self, text: str) -> list[str]:
        return self._tokenizer(text.rstrip()).split()


def _fewest_edits(words: list[str], reference: list[str]) -> int:
    """A lower bound of the edits: what they would be if shifts were free."""
    return max(len(words), len(reference)) - (Counter(words) & Counter(reference)).total()


def _edits(words: list[str], reference: list[str]) -> int:
    """The shifts that lower the edit distance most, greedily, and the distance that is left."""
    if not reference:
        return len(words)
    distance = _Distance(reference)
    shifts = checked = 0
    while True:
        distance.traced = words
        gain, shifted, checked = _shift(words, reference, distance, checked)
        if checked >= _MAX_SHIFT_CANDIDATES or gain <= 0:
            return shifts + distance(words)[0]
        shifts, words = shifts + 1, shifted


class _Distance(BeamEditDistance):
    """sacrebleu's edit distance, with its trace for the text at hand and without for the shifts that are tried.

    Attributes:
        traced: the list of words (that very list) whose trace is asked for.
    """

    def __init__(self, reference: list[str]) -> None:
        super().__init__(reference)
        self.traced: list[str] = []
        self._length = len(reference)
        self._positions: dict[str, int] = {}
        for position, word in enumerate(reference):
            self._positions[word] = self._positions.get(word, 0) | (1 << position)

    def __call__(self, words_hyp: list[str]) -> tuple[int, str]:
        """The distance and, for the traced text, its edits."""
        if words_hyp is not self.traced:
            distance = self._levenshtein(words_hyp)
            # sacrebleu searches a band around the diagonal. The best path strays from the diagonal by (distance + difference in
            # length) / 2 at most; where that stays in the band, the band's distance is the true one.
            if distance + abs(self._length - len(words_hyp)) <= 2 * (_BEAM_WIDTH - 2):
                return distance, ""
        return super().__call__(words_hyp)

    def _levenshtein(self, words: list[str]) -> int:
        """Myers' bit-parallel distance (1999, Journal of the ACM 46:395; here in the form of Hyyrö 2003).

        Bit i of `up` (`down`) says that the matrix rises (falls) by one from row i to row i + 1 of the current column.
        """
        ones, last = (1 << self._length) - 1, 1 << (self._length - 1)
        up, down, distance = ones, 0, self._length
        for word in words:
            equal = self._positions.get(word, 0)
            vertical = equal | down
            diagonal = (((equal & up) + up) ^ up) | equal
            right_up = down | (ones & ~(diagonal | up))
            right_down = up & diagonal
            distance += bool(right_up & last) - bool(right_down & last)
            right_up, right_down = ((right_up << 1) | 1) & ones, (right_down << 1) & ones
            up, down = right_down | (ones & ~(vertical | right_up)), right_up & vertical
        return distance
