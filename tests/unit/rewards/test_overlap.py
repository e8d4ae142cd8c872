from __future__ import annotations

import doctest
import pickle

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from guerdon.errors import InputError
from guerdon.rewards import overlap
from guerdon.rewards.overlap import SentenceBleu, SentenceChrf, SentenceRougeL

OUTPUTS = ["The Vaults is a cheap pub.", "A river side pub near Café Rouge", "", "pub", "the the the the the"]
REFERENCES = [
    ["The Vaults is a cheap pub by the river.", "A cheap pub is The Vaults."],
    ["Near Café Rouge there is a riverside pub."],
    ["The Vaults"],
    ["pub", "The pub"],
    ["the river is near the pub"],
]


def scores(reward):
    return reward([""] * len(OUTPUTS), OUTPUTS, REFERENCES).tolist()


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(overlap)
    assert result.attempted == 3
    assert result.failed == 0


@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_is_sacrebleus(lowercase):
    pairs = zip(OUTPUTS, REFERENCES, strict=True)
    expected = [sacrebleu.sentence_bleu(output, texts, lowercase=lowercase).score / 100 for output, texts in pairs]
    assert scores(SentenceBleu(lowercase=lowercase)) == pytest.approx(expected, rel=1e-6)
    assert expected[0] > 0


@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf_is_sacrebleus(word_order):
    pairs = zip(OUTPUTS, REFERENCES, strict=True)
    expected = [sacrebleu.sentence_chrf(output, texts, word_order=word_order).score / 100 for output, texts in pairs]
    assert scores(SentenceChrf(word_order=word_order)) == pytest.approx(expected, rel=1e-6)


def test_rouge_is_rouge_scores():
    scorer = RougeScorer(["rougeL"])
    pairs = zip(OUTPUTS, REFERENCES, strict=True)
    expected = [max(scorer.score(text, output)["rougeL"].fmeasure for text in texts) for output, texts in pairs]
    assert scores(SentenceRougeL()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("reward", "name"),
    [
        (SentenceBleu(), "bleu"),
        (SentenceChrf(), "chrf"),
        (SentenceChrf(word_order=2), "chrf++"),
        (SentenceRougeL(), "rouge_l"),
    ],
)
def test_what_all_of_them_hold_to(reward, name):
    assert reward.name == name
    assert all(0.0 <= score <= 1.0 for score in scores(reward))
    assert scores(reward)[2] == 0.0
    assert reward([""], ["The Vaults is near."], [["x", "The Vaults is near."]]).item() == pytest.approx(1.0)
    assert scores(pickle.loads(pickle.dumps(reward))) == scores(reward)
    with pytest.raises(InputError, match="no references"):
        reward(["s"], ["o"], [[]])
