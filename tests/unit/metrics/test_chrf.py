import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError, InputError
from guerdon.metrics.chrf import Chrf
from tests.unit.metrics.metric_texts import GROUPS, columns


@given(GROUPS, st.sampled_from([0, 2]), st.booleans())
def test_equals_sacrebleu_on_any_texts(groups, word_order, lowercase):
    outputs, references = map(list, zip(*groups, strict=True))
    metric = Chrf(word_order, lowercase)
    theirs = sacrebleu.CHRF(word_order=word_order, lowercase=lowercase)
    assert metric.corpus(outputs, references) == theirs.corpus_score(outputs, columns(references)).score
    assert metric.sentence(outputs, references) == [theirs.sentence_score(*group).score for group in groups]


@pytest.mark.parametrize("word_order", [0, 2])
def test_equals_sacrebleu_on_real_texts(e2e, word_order):
    outputs, references = e2e
    expected = sacrebleu.corpus_chrf(outputs, columns(references), word_order=word_order).score
    assert Chrf(word_order).corpus(outputs, references) == expected
    assert 30 < expected < 80


def test_forty_references(e2e):
    outputs, references = e2e
    many = [text for group in references for text in group][:40]
    expected = [sacrebleu.sentence_chrf(output, many).score for output in outputs]
    assert Chrf().sentence(outputs, [many] * len(outputs)) == expected


def test_rows_and_single_sums_score_alike(e2e):
    outputs, references = e2e
    metric = Chrf()
    statistics = metric.statistics(outputs, references)
    assert statistics.shape == (60, 18)
    rows = metric.aggregate(statistics)
    assert rows.tolist() == [metric.score(row) for row in statistics]
    assert rows.tolist() == metric.sentence(outputs, references)
    assert np.all((rows >= 0) & (rows <= 100))


def test_a_word_is_not_mistaken_for_its_letters():
    # "pub" is both a character 3-gram and a word; chrF++ counts it once as each
    assert Chrf(2).sentence(["pub"], [["pub"]]) == [sacrebleu.sentence_chrf("pub", ["pub"], word_order=2).score]
    assert Chrf(2).sentence(["pub"], [["p ub"]]) == [sacrebleu.sentence_chrf("pub", ["p ub"], word_order=2).score]


def test_refusals():
    with pytest.raises(ConfigurationError, match="take 0"):
        Chrf(1)
    with pytest.raises(InputError, match="has no references"):
        Chrf().sentence(["a"], [[]])
