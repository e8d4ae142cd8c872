from __future__ import annotations

import builtins
import doctest
import importlib.util
import json
import math
import pickle
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError, DataError, MissingExtraError
from guerdon.rewards import frequency
from guerdon.rewards.frequency import CorpusTable, LanguageTable, WordFrequency

TEXTS = ["The pub is cheap.", "A cheap pub", "the river"]  # the 2, pub 2, cheap 2, is 1, a 1, river 1: N = 9, V = 6


def scores(reward: WordFrequency, *outputs: str) -> list[float]:
    return reward([""] * len(outputs), list(outputs)).tolist()


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(frequency)
    assert result.attempted == 2
    assert result.failed == 0


def test_sum_is_the_formula_by_hand():
    reward = WordFrequency.from_texts(TEXTS, reduction="sum")
    # N + (V + 1) = 16: p(pub) = 3/16, p(river) = 2/16, p(unseen) = 1/16
    expected = [math.log(3 / 16), math.log(3 / 16) + math.log(2 / 16), 2 * math.log(1 / 16)]
    assert scores(reward, "PUB!", "pub, river", "blue zebra") == pytest.approx(expected, rel=1e-6)


def test_mean_divides_by_the_words():
    summed, mean = (WordFrequency.from_texts(TEXTS, reduction=reduction) for reduction in ("sum", "mean"))
    output = "the cheap zebra is the pub"
    assert scores(mean, output)[0] == pytest.approx(scores(summed, output)[0] / 6, rel=1e-6)


@given(outputs=st.lists(st.text("abc xyz.", min_size=1, max_size=30), min_size=1, max_size=8))
def test_property_users_are_told_the_sum_is_largest_for_the_empty_output(outputs):
    reward = WordFrequency.from_texts(["a b c", "a a b"], reduction="sum")
    for output, score in zip(outputs, scores(reward, *outputs), strict=True):
        words = output.replace(".", " ").split()
        assert score < 0.0 if words else score == 0.0
    assert scores(reward, "") == [0.0]


@given(output=st.text("abc xyz.", max_size=30))
def test_the_mean_is_least_for_the_empty_output(output):
    reward = WordFrequency.from_texts(["a b c", "a a b"], reduction="mean")
    empty, other = scores(reward, "", output)
    assert empty == pytest.approx(math.log(1 / 10), rel=1e-6)
    assert other >= empty


@given(
    counts=st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 50), min_size=1),
    smoothing=st.floats(1e-3, 10),
)
def test_probabilities_with_one_unseen_class_sum_to_one(counts, smoothing):
    table = CorpusTable(counts, smoothing=smoothing)
    seen = math.fsum(math.exp(table.log_prob(word)) for word in counts)
    assert seen + math.exp(table.log_prob("unseen word")) == pytest.approx(1.0, rel=1e-12)
    assert table.unseen <= min(map(table.log_prob, counts))


def test_without_much_smoothing_it_is_the_relative_frequency():
    text = "one fish two fish red fish blue fish"
    table = CorpusTable.from_texts([text], "whitespace", False, 1e-12)
    for word, count in Counter(text.split()).items():
        assert math.exp(table.log_prob(word)) == pytest.approx(count / 8, rel=1e-9)


def test_case_and_splitter_are_options():
    kept = WordFrequency.from_texts(["Pub pub"], splitter="whitespace", lowercase=False, reduction="sum")
    # p(Pub) = p(pub) = 2/5 and p(PUB) = 1/5
    assert scores(kept, "Pub", "PUB", "pub.") == pytest.approx([math.log(2 / 5), math.log(1 / 5), math.log(1 / 5)], rel=1e-6)


def test_chinese_corpus():
    reward = WordFrequency.from_texts(["我来到北京。", "我爱北京"], splitter="chinese", reduction="sum")
    # 我 2, 来到 1, 北京 2, 爱 1: N + V + 1 = 11
    assert scores(reward, "我爱北京!") == pytest.approx([2 * math.log(3 / 11) + math.log(2 / 11)], rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, -1.0, math.nan, math.inf])
def test_smoothing_that_leaves_a_log_of_zero_is_refused(smoothing):
    with pytest.raises(ConfigurationError, match=r"word_frequency\.smoothing"):
        WordFrequency.from_texts(TEXTS, smoothing=smoothing)


def test_other_bad_arguments_are_refused():
    with pytest.raises(DataError, match="no words"):
        WordFrequency.from_texts(["", "..."])
    with pytest.raises(DataError, match="count of 'a' is 0"):
        CorpusTable({"a": 0})
    with pytest.raises(ConfigurationError, match="reduction 'max'"):
        WordFrequency.from_texts(TEXTS, reduction="max")
    with pytest.raises(ConfigurationError, match="no word splitter 'words'"):
        WordFrequency.from_texts(TEXTS, splitter="words")


@pytest.mark.parametrize(
    "reward",
    [
        WordFrequency.from_texts(TEXTS, "whitespace", lowercase=False, reduction="sum", smoothing=0.3),
        WordFrequency.from_language("en"),
    ],
    ids=["corpus", "language"],
)
def test_stored_and_pickled_rewards_give_the_same_scores(reward):
    outputs = ["The pub is cheap.", "zebra", "", "In 1999 a river"]
    stored = WordFrequency.from_dict(json.loads(json.dumps(reward.to_dict())))
    assert scores(stored, *outputs) == scores(reward, *outputs) == scores(pickle.loads(pickle.dumps(reward)), *outputs)


@pytest.mark.parametrize("stored", [{}, {"counts": {"a": 1}}, {"reduction": "sum"}, {"reduction": "sum", "counts": {}, "x": 1}])
def test_what_is_no_stored_reward_is_refused(stored):
    with pytest.raises(DataError, match="word_frequency"):
        WordFrequency.from_dict(stored)


def test_language_frequencies_are_wordfreqs():
    import wordfreq

    reward = WordFrequency.from_language("en", reduction="sum")
    expected = sum(math.log(wordfreq.word_frequency(word, "en")) for word in ("the", "cheap", "pub"))
    assert scores(reward, "The cheap pub!") == pytest.approx([expected], rel=1e-6)
    assert scores(reward, "", "qqzzxqj") == pytest.approx([0.0, math.log(1e-9)], rel=1e-6)


def test_chinese_language_frequencies_in_both_scripts():
    import wordfreq

    reward = WordFrequency.from_language("zh", reduction="mean")
    simplified, traditional = scores(reward, "我们喜欢北京。", "我們喜歡北京。")
    expected = [math.log(wordfreq.word_frequency(word, "zh")) for word in ("我们", "喜欢", "北京")]
    assert simplified == traditional == pytest.approx(sum(expected) / 3, rel=1e-6)


def test_common_words_beat_rare_ones():
    reward = WordFrequency.from_language("en")
    assert scores(reward, "the good people")[0] > scores(reward, "the sesquipedalian proletariat")[0] > scores(reward, "")[0]


def test_unknown_language_and_missing_wordfreq(monkeypatch):
    with pytest.raises(ConfigurationError, match="no list for the language 'tlh'"):
        WordFrequency.from_language("tlh")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "wordfreq":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"guerdon\[frequency\]"):
        LanguageTable("en")


def test_a_language_that_wordfreq_cannot_split_here_is_refused_when_built():
    if importlib.util.find_spec("MeCab"):
        pytest.skip("MeCab is installed")
    with pytest.raises(ConfigurationError, match=r"cannot split the language 'ja'.*wordfreq\[cjk\]"):
        LanguageTable("ja")


def test_chinese_frequencies_are_silent():
    code = "from guerdon.rewards.frequency import WordFrequency as W; W.from_language('zh')([''], ['我们喜欢北京'])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
