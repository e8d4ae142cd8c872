import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.lib_ter import BeamEditDistance, translation_edit_rate

from guerdon.metrics.ter import Ter, _Distance, _edits, _fewest_edits
from tests.unit.metrics.metric_texts import GROUPS, columns


def _distance(a, b):
    """Levenshtein's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@given(GROUPS, st.booleans())
def test_equals_sacrebleu_on_any_texts(groups, case_sensitive):
    outputs, references = map(list, zip(*groups, strict=True))
    theirs = sacrebleu.TER(case_sensitive=case_sensitive)
    metric = Ter(case_sensitive=case_sensitive)
    expected = theirs.corpus_score(outputs, columns(references)).score
    assert metric.corpus(outputs, references) == pytest.approx(expected, rel=1e-14)
    assert metric.sentence(outputs, references) == [theirs.sentence_score(*group).score for group in groups]


_WORDS = st.lists(st.sampled_from("abcdefg"), max_size=12)


@given(_WORDS, _WORDS.filter(bool))
def test_edits_equal_sacrebleus(words, reference):
    expected = translation_edit_rate(words, reference)[0]
    assert _edits(words, reference) == expected
    assert _fewest_edits(words, reference) <= expected


@settings(max_examples=12)
@given(st.lists(st.sampled_from("abc"), min_size=20, max_size=90), st.lists(st.sampled_from("abc"), min_size=30, max_size=90))
def test_edits_equal_sacrebleus_where_its_search_is_cut(words, reference):
    assert _edits(words, reference) == translation_edit_rate(words, reference)[0]


@given(_WORDS, _WORDS.filter(bool))
def test_bit_parallel_distance(words, reference):
    assert _Distance(reference)._levenshtein(words) == _distance(words, reference)


@pytest.mark.parametrize("offset", [5, 20, 23, 24, 30])
def test_distance_keeps_to_the_band_that_sacrebleu_searches(offset):
    reference = list(map(str, range(80)))
    words = ["x"] * offset + reference[:-offset]  # the best path runs ``offset`` beside the diagonal
    banded = BeamEditDistance(reference)(words)[0]
    assert _Distance(reference)(words)[0] == banded
    assert (banded > _distance(words, reference)) == (offset > 25)


def test_equals_sacrebleu_on_real_texts(e2e):
    outputs, references = (part[:15] for part in e2e)
    expected = sacrebleu.corpus_ter(outputs, columns(references)).score
    assert Ter().corpus(outputs, references) == pytest.approx(expected, rel=1e-14)
    assert 20 < expected < 120


def test_empty_sides():
    assert Ter().sentence(["", "a b", ""], [["a b"], [""], [""]]) == [100.0, 100.0, 0.0]


def test_lower_is_better():
    assert Ter().higher_is_better is False
    assert Ter().corpus(["a b c"], [["a b c"]]) == 0
    assert Ter().corpus(["c a b"], [["a b c"]]) == pytest.approx(100 / 3)  # one shift
