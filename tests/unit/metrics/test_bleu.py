import pickle

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError, InputError
from guerdon.metrics.bleu import TOKENIZERS, Bleu
from tests.unit.metrics.metric_texts import GROUPS, columns


@given(GROUPS, st.booleans(), st.sampled_from(TOKENIZERS))
def test_equals_sacrebleu_on_any_texts(groups, lowercase, tokenize):
    outputs, references = map(list, zip(*groups, strict=True))
    metric = Bleu(lowercase=lowercase, tokenize=tokenize)
    expected = sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize).corpus_score(outputs, columns(references)).score
    assert metric.corpus(outputs, references) == expected
    sentence = sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize, effective_order=True)
    assert metric.sentence(outputs, references) == [sentence.sentence_score(*group).score for group in groups]


def test_equals_sacrebleu_on_real_texts(e2e):
    outputs, references = e2e
    expected = sacrebleu.corpus_bleu(outputs, columns(references), lowercase=True).score
    assert Bleu(lowercase=True).corpus(outputs, references) == expected
    assert 20 < expected < 60


def test_known_values():
    assert Bleu().corpus(["the pub is near the river"], [["the pub is near the river"]]) == pytest.approx(100)
    assert Bleu().sentence(["", "x"], [["a b"], ["a b"]]) == [0.0, 0.0]
    # 4 of 4 words, 2 of 3 pairs, 1 of 2 triples, 0 of 1 quadruple (smoothed to 1/2); no brevity penalty
    assert Bleu().sentence(["a b c d"], [["a b c x d"[:9]]])[0] == pytest.approx(
        100 * (4 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25 * 2.718281828459045 ** (1 - 5 / 4)
    )


def test_the_order_of_references_and_samples_changes_nothing(e2e):
    outputs, references = e2e
    turned = [list(reversed(group)) for group in references]
    assert Bleu().sentence(outputs, turned) == Bleu().sentence(outputs, references)
    assert Bleu().corpus(outputs[::-1], references[::-1]) == Bleu().corpus(outputs, references)


def test_survives_pickling(e2e):
    outputs, references = e2e
    metric = Bleu()
    expected = metric.sentence(outputs, references)
    assert pickle.loads(pickle.dumps(metric)).sentence(outputs, references) == expected


def test_refuses_an_unknown_tokenizer():
    with pytest.raises(ConfigurationError, match=r"no BLEU tokenizer '13b'; choose one of 13a"):
        Bleu(tokenize="13b")


@pytest.mark.parametrize(
    ("outputs", "references", "message"),
    [
        ([], [], "there is no output"),
        (["a"], [["a"], ["b"]], "1 outputs but 2 lists"),
        (["a", "b"], [["a"], []], "sample 1 .* has no references"),
        (["a"], ["abc"], "are one text"),
    ],
)
def test_refuses_bad_lists(outputs, references, message):
    with pytest.raises(InputError, match=message):
        Bleu().corpus(outputs, references)
    with pytest.raises(InputError, match=message):
        Bleu().sentence(outputs, references)
