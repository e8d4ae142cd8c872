from __future__ import annotations

import doctest
import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError, DataError
from guerdon.metrics.slots import SlotPatterns
from guerdon.rewards import rules
from guerdon.rewards.base import Judged
from guerdon.rewards.rules import Length, Pattern, Repetition, RequiredContent

SLOTS = {"name": {"Zizzi": ["zizzi"], "Cotto": ["cotto"]}, "kind": {"pub": ["pubs?"], "cafe": ["cafe", "coffee shop"]}}


def scores(reward, outputs, sources=None, meta=None):
    return reward(sources or [""] * len(outputs), outputs, meta=meta).tolist()


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(rules)
    assert result.attempted >= 8
    assert result.failed == 0


@pytest.mark.parametrize(
    ("words", "expected"), [(0, 0.5), (3, 0.8), (4, 0.9), (5, 1.0), (8, 1.0), (9, 0.9), (13, 0.5), (18, 0.0), (40, 0.0)]
)
def test_length_falls_off_linearly(words, expected):
    assert scores(Length(5, 8, falloff=10), ["word " * words]) == [pytest.approx(expected)]


def test_length_counts_words_by_the_splitter():
    assert scores(Length(6, 6, falloff=6, splitter="characters"), ["a pub", "北京大学在这"]) == pytest.approx([4 / 6, 1.0])


@given(st.text("ab .", max_size=60), st.integers(1, 4))
def test_repetition_against_counting(text, n):
    words = [word for word in text.replace(".", " ").lower().split() if word]
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    repeated = sum(count - 1 for count in counts.values())
    expected = -repeated / counts.total() if counts else 0.0
    assert scores(Repetition(n, splitter="unicode"), [text.replace(".", " ")]) == [pytest.approx(expected)]


def test_repetition_and_case():
    assert scores(Repetition(1), ["The the"]) == [-0.5]
    assert scores(Repetition(1, lowercase=False), ["The the"]) == [0.0]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Zizzi is a pub", 1.0),
        ("Zizzi", 0.5),  # kind missing
        ("Zizzi is a coffee shop", 0.5),  # kind wrong
        ("Zizzi is a pub and a cafe", 0.5),  # kind said twice
        ("Cotto is a cafe", 0.0),
        ("", 0.0),
        ("ZIZZI'S PUBS", 1.0),
    ],
)
def test_required_slots(output, expected):
    assert scores(RequiredContent(SLOTS), [output], ["name[Zizzi], kind[pub]"]) == [expected]


def test_added_slots_can_outweigh_what_is_right():
    assert scores(RequiredContent(SLOTS), ["Zizzi, a pub"], ["kind[cafe]"]) == [-1.0]


def test_slots_apply_to_sources_that_have_some_whatever_the_output():
    reward = RequiredContent(SlotPatterns(SLOTS))
    sources = ["name[Zizzi]", "just a question", "kind[pub]"]
    for outputs in (["", "", ""], ["Zizzi", "Zizzi", "Zizzi"]):
        part = reward.judge(Judged.of(sources, outputs)).parts["required_content"]
        assert part.applies.tolist() == [True, False, True]
        assert part.scores[1] == 0.0


def test_a_damaged_meaning_representation_is_an_error():
    with pytest.raises(DataError, match=r"cannot read 'kind\[pub' as slot\[value\]"):
        scores(RequiredContent(SLOTS), ["x"], ["name[Zizzi], kind[pub"])


def test_required_texts_of_a_field():
    reward = RequiredContent(field="facts")
    meta = [{"facts": ["Berlin", "3.5 million"]}, {"facts": ("pub",)}, {"facts": []}, {}]
    outputs = ["berlin has 3.5 million people", "a public house", "", ""]
    part = reward.judge(Judged.of([""] * 4, outputs, meta=meta)).parts["required_content"]
    assert part.applies.tolist() == [True, True, False, False]
    assert part.scores.tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("phrase", "output", "found"),
    [
        ("pub", "The pub.It is", True),
        ("pub", "public", False),
        ("Café Rouge", "near cafe   rouge,", True),
        ("£20", "under £20.", True),
        ("£20", "under £200", False),
        ("北京", "我来到北京大学", True),
        ("a.c", "abc", False),
    ],
)
def test_what_counts_as_standing_in_the_output(phrase, output, found):
    assert scores(RequiredContent(field="f"), [output], meta=[{"f": [phrase]}]) == [float(found)]


@pytest.mark.parametrize("value", ["pub", [1], [""], {"pub": 1}])
def test_a_field_of_another_form_is_refused(value):
    with pytest.raises(DataError, match="field 'f' holds"):
        scores(RequiredContent(field="f"), ["x"], meta=[{"f": value}])


def test_patterns():
    reward = Pattern(must=["^[A-Z]", r"\.$"], must_not=["  "])
    assert scores(reward, ["A pub.", "a pub.", "a  pub", ""]) == pytest.approx([1.0, 2 / 3, 0.0, 1 / 3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Length(5, 4), "no length is in 5 to 4"),
        (lambda: Length(-1, 4), "no length is in -1 to 4"),
        (lambda: Length(1, 4, falloff=0), "fall-off is 0"),
        (lambda: Length(1, 4, splitter="word"), "no word splitter 'word'"),
        (lambda: Repetition(0), "n is 0"),
        (lambda: RequiredContent(), "either patterns or a field"),
        (lambda: RequiredContent(SLOTS, "facts"), "either patterns or a field"),
        (lambda: RequiredContent("no/such.yaml"), "no/such.yaml: cannot be read"),
        (lambda: Pattern(), "there is no rule"),
        (lambda: Pattern(must=["("]), r"pattern.must: '\(' is no regular expression"),
        (lambda: Pattern(must_not="abc"), "pattern.must_not: is one text"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    "reward", [Length(1, 2), Repetition(2), RequiredContent(SLOTS), RequiredContent(field="f"), Pattern(must=["a"])]
)
def test_rules_are_picklable(reward):
    given = (["name[Zizzi]"], ["a pub a pub a pub"], None, [{"f": ["pub"]}])
    assert pickle.loads(pickle.dumps(reward))(*given).tolist() == reward(*given).tolist()
