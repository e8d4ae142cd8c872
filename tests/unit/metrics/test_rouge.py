import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from guerdon.metrics.rouge import RougeL
from tests.unit.metrics.metric_texts import GROUPS

_SCORER = RougeScorer(["rougeL"], use_stemmer=False)


def _theirs(output, references):
    return 100 * _SCORER.score_multi(references, output)["rougeL"].fmeasure


@given(GROUPS)
def test_equals_rouge_score_on_any_texts(groups):
    outputs, references = map(list, zip(*groups, strict=True))
    assert RougeL().sentence(outputs, references) == [_theirs(*group) for group in groups]


_LETTERS = st.lists(st.sampled_from("abcd"), max_size=40).map(" ".join)


@given(_LETTERS, st.lists(_LETTERS, min_size=1, max_size=6))
def test_common_subsequences_of_repeating_words(output, references):
    # few words, so that carries run through whole blocks of bits
    assert RougeL().sentence([output], [references]) == [_theirs(output, references)]


def test_equals_rouge_score_on_real_texts(e2e):
    outputs, references = e2e
    expected = [_theirs(*pair) for pair in zip(outputs, references, strict=True)]
    assert RougeL().sentence(outputs, references) == expected
    assert RougeL().corpus(outputs, references) == pytest.approx(sum(expected) / len(expected), rel=1e-14)


def test_other_scripts_score_nothing():
    assert RougeL().sentence(["中文"], [["中文"]]) == [0.0]
