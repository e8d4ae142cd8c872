"""Each probe by a worked example, and what has to hold for any text."""

from __future__ import annotations

import doctest
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.data.records import Example
from guerdon.errors import ConfigurationError
from guerdon.evaluation import rewording
from guerdon.evaluation.probes import PROBES, Corpus, words_of
from guerdon.evaluation.rewording import LANGUAGES, language_of, names_in, negated, numbers_in
from guerdon.metrics.slots import SlotPatterns

PATTERNS = SlotPatterns(
    {"name": {}, "price": {"cheap": ["cheap", "low[- ]priced"], "high": ["expensive", "high[- ]priced"]}, "kind": {}}
)
RECORDS = [
    Example("name[Zizzi], price[cheap], kind[pub]", ("Zizzi is a cheap pub. It has 3 rooms.", "The pub Zizzi is low-priced.")),
    Example("name[Cotto], price[high], kind[bar]", ("Cotto is an expensive bar. It has 40 rooms.", "A bar, expensive: Cotto.")),
    Example("name[Zizzi], price[high], kind[bar]", ("Zizzi, a high-priced bar, has 3 rooms.",)),
]
TEXT = RECORDS[0].references[0]
ENGLISH = LANGUAGES["en"]


def corpus(patterns=None, language=ENGLISH, records=RECORDS):
    return Corpus(records, patterns, language)


def made(name, text=TEXT, example=RECORDS[0], among=None, seed=1, number=0):
    return PROBES[name].build(text, example, among or corpus(), seed, number)


def everything(name, text=TEXT, example=RECORDS[0], among=None):
    """What fifty seeds make of it."""
    return {made(name, text, example, among, seed) for seed in range(50)}


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(rewording)
    assert result.attempted == 4
    assert result.failed == 0


def test_silence_and_the_source():
    assert made("empty") == ""
    assert made("source_copy") == RECORDS[0].source
    assert made("source_copy", "as it was", Example("as it was", ("as it was", "otherwise"))) is None


def test_one_word_is_one_of_the_references():
    assert everything("one_word") == {"Zizzi", "is", "a", "cheap", "pub", "It", "has", "3", "rooms"}
    assert made("one_word", "Zizzi", Example("s", ("Zizzi",))) is None
    assert made("one_word", "?!", Example("s", ("?!",))) is None


def test_the_reference_of_another_source():
    others = {reference for record in RECORDS[1:] for reference in record.references}
    assert everything("other_reference") == others
    again = [RECORDS[0], Example(RECORDS[0].source, ("Quite another text.",))]
    assert made("other_reference", among=corpus(records=again)) is None


def test_two_words_can_only_change_places():
    assert everything("shuffled", "a pub", Example("s", ("a pub",))) == {"pub a"}
    assert everything("shuffled", "the cheap old pub", Example("s", ("the cheap old pub",))) == {"the old cheap pub"}
    assert everything("shuffled", "a b b a", Example("s", ("a b b a",))) > {"a b a b", "b b a a"}
    assert made("shuffled", "pub pub", Example("s", ("pub pub",))) is None
    assert made("shuffled", "pub", Example("s", ("pub",))) is None


def test_a_repeated_sentence_stands_three_times():
    assert everything("repeated_sentence") == {
        "Zizzi is a cheap pub. Zizzi is a cheap pub. Zizzi is a cheap pub. It has 3 rooms.",
        "Zizzi is a cheap pub. It has 3 rooms. It has 3 rooms. It has 3 rooms.",
    }


def test_half_of_it_and_twice_of_it():
    assert made("truncated") == "Zizzi is a cheap"
    assert made("truncated", "a pub is", Example("s", ("a pub is",))) == "a"
    assert made("truncated", "pub", Example("s", ("pub",))) is None
    assert made("doubled") == f"{TEXT} {TEXT}"


def test_scripts_without_spaces_are_cut_into_characters():
    text = "这是一家酒吧。"
    record = Example("s", (text,))
    assert made("truncated", text, record) == "这是一"
    assert made("doubled", text, record) == text + text
    shuffled = made("shuffled", text, record)
    assert sorted(shuffled) == sorted(text)
    assert shuffled != text


def test_fillers_stand_between_the_words():
    for found in everything("filler"):
        for phrase in ENGLISH.fillers:
            found = found.replace(f" {phrase} ", " ").replace(f" {phrase} ", " ")
        assert found == TEXT
    assert made("filler", among=corpus(language=None)) is None
    assert made("filler", "pub", Example("s", ("pub",))) is None


def test_frequent_words_alone():
    records = [Example(str(n), (f"the the the pub pub {word}",)) for n, word in enumerate("abcdefghijkl")]
    assert corpus(records=records).frequent[:2] == ["the", "pub"]
    found = made("frequent_words", records[0].references[0], records[0], corpus(records=records))
    assert len(found.split()) == 6
    assert set(found.split()) <= set(corpus(records=records).frequent)
    assert len(corpus(records=records).frequent) == 10


def test_a_wrong_slot_is_worded_as_another_record_words_it():
    found = everything("wrong_value", among=corpus(PATTERNS))
    assert found == {
        "Cotto is a cheap pub. It has 3 rooms.",
        "Zizzi is a expensive pub. It has 3 rooms.",
        "Zizzi is a high-priced pub. It has 3 rooms.",
        "Zizzi is a cheap bar. It has 3 rooms.",
    }
    for text in found:
        check = PATTERNS.check(RECORDS[0].source, text)
        assert check.wrong or check.missing


def test_a_wording_that_fits_both_values_is_not_wrong():
    patterns = SlotPatterns({"price": {"low": ["cheap", "fair"], "middle": ["moderate", "fair"]}})
    records = [
        Example("price[low]", ("It is cheap.",)),
        Example("price[middle]", ("It is fair.",)),
        Example("price[middle]", ("It is moderate.",)),
    ]
    assert everything("wrong_value", "It is cheap.", records[0], corpus(patterns, records=records)) == {"It is moderate."}
    assert everything("wrong_value", "It is cheap.", records[0], corpus(patterns, records=records[:2])) == {None}


def test_a_value_that_stands_in_another_slots_value_is_left_alone():
    """The patterns find no food in this text: the word belongs to the name, and changing it would make no new error of food."""
    patterns = SlotPatterns(
        {"name": {"Raja Indian Cuisine": ["{value}"], "Zizzi": ["{value}"]}, "food": {"Indian": ["indian"]}}
    )
    text = "Raja Indian Cuisine is a pub."
    records = [
        Example("name[Raja Indian Cuisine], food[Indian]", (text,)),
        Example("name[Zizzi], food[French]", ("Zizzi is a pub with French food.",)),
    ]
    assert everything("wrong_value", text, records[0], corpus(patterns, records=records)) == {"Zizzi is a pub."}


def test_a_slot_that_the_text_does_not_say_is_not_changed():
    silent = "A place with 3 rooms."
    record = Example(RECORDS[0].source, (silent,))
    assert everything("wrong_value", silent, record, corpus(PATTERNS)) == {None}


def test_without_patterns_numbers_go_before_names():
    assert everything("wrong_value") == {"Zizzi is a cheap pub. It has 40 rooms."}
    bare = "There is Zizzi, a pub."
    assert everything("wrong_value", bare, Example("name[Zizzi]", (bare,))) == {"There is Cotto, a pub."}
    assert everything("wrong_value", "no pub", Example("s", ("no pub",))) == {None}


def test_numbers_and_names():
    text = "On weekdays Blue Spice costs £20-25 or 3.50. It is near Café Rouge."
    assert [text[a:b] for a, b in numbers_in(text)] == ["20", "25", "3.50"]
    assert [text[a:b] for a, b in names_in(text, "")] == ["Blue Spice", "Café Rouge"]
    assert names_in("Blue Spice is it.", "name[Blue Spice]") == [(0, 10)]
    assert names_in("Blue Spice is it.", "name[Green Man]") == []


@pytest.mark.parametrize(
    ("text", "expected", "language"),
    [
        ("Zizzi is a pub.", "Zizzi is not a pub.", "en"),
        ("Zizzi is not a pub.", "Zizzi is a pub.", "en"),
        ("It isn't cheap.", "It is cheap.", "en"),
        ("It isn’t cheap.", "It is cheap.", "en"),
        ("You can't sit, and it is loud.", "You can sit, and it is loud.", "en"),
        ("They won't come.", "They will come.", "en"),
        ("Zizzi serves food.", None, "en"),
        ("An isle of pubs.", None, "en"),
        ("Zizzi ist ein Lokal.", "Zizzi ist nicht ein Lokal.", "de"),
        ("Ein Mann trägt keinen Hut.", "Ein Mann trägt einen Hut.", "de"),
        ("Ein Mann steht dort.", "Ein Mann steht nicht dort.", "de"),
    ],
)
def test_negation(text, expected, language):
    assert negated(text, LANGUAGES[language]) == expected


def test_languages():
    assert language_of("none") is None
    with pytest.raises(ConfigurationError, match="did you mean 'en'"):
        language_of("eng")
    with pytest.raises(ConfigurationError, match="choose en or de"):
        language_of("zh")
    assert made("negation", among=corpus(language=None)) is None


def test_a_probe_that_is_another_reference_of_its_record_is_none():
    record = Example("s", ("a cheap pub of old", "a cheap"))
    assert made("truncated", "a cheap pub of", record) is None
    assert made("truncated", "a dear pub of", record) == "a dear"


# --- for any text

WORDS = st.lists(st.text(st.characters(categories=["L", "N"], max_codepoint=0x24F), min_size=1), min_size=1, max_size=12)


@given(WORDS, st.integers(0, 2**40), st.integers(0, 999))
def test_shuffling_keeps_the_words_and_changes_their_order(words, seed, number):
    text = " ".join(words)
    found = made("shuffled", text, Example("source", (text,)), seed=seed, number=number)
    if len(set(words)) < 2:
        assert found is None
    else:
        assert Counter(found.split()) == Counter(words)
        assert found.split() != words


@given(st.text(min_size=1), st.integers(0, 2**40))
def test_a_truncated_text_is_a_proper_prefix(text, seed):
    found = made("truncated", text, Example("source", (text,)), seed=seed)
    count = len(words_of(text)[0])
    assert (found is None) == (count < 2)
    if found is not None:
        assert text.startswith(found)
        assert 0 < len(found) < len(text)


@given(st.text(), st.integers(0, 2**40))
def test_every_probe_is_a_function_of_what_it_is_given(text, seed):
    record = Example("source", (text,)) if text.strip() else RECORDS[0]
    for name in PROBES:
        first, again = (made(name, text, record, corpus(PATTERNS), seed) for _ in range(2))
        assert first == again
        assert first is None or isinstance(first, str)
        assert first != text


def test_draws_depend_on_the_record_and_the_seed():
    long = Example("s", (" ".join("abcdefghijklmnop"),))
    found = {made("shuffled", long.references[0], long, seed=s, number=n) for s in range(5) for n in range(5)}
    assert len(found) == 25


def test_real_records_have_every_probe(data_folder):
    rows = [json.loads(line) for line in (data_folder / "e2e" / "dev.jsonl").read_text("utf-8").splitlines()[:40]]
    records = [Example(row["source"], tuple(row["references"])) for row in rows]
    patterns = SlotPatterns.from_file(__file__.split("tests")[0] + "recipes/e2e_slots.yaml")
    among = corpus(patterns, records=records)
    for name, probe in PROBES.items():
        built = [probe.build(r.references[0], r, among, 1, n) for n, r in enumerate(records)]
        assert np.mean([text is not None for text in built]) > 0.8, name
    for number, record in enumerate(records):
        wrong = PROBES["wrong_value"].build(record.references[0], record, among, 1, number)
        if wrong is not None:
            before, after = (patterns.check(record.source, text) for text in (record.references[0], wrong))
            assert {*after.missing, *after.wrong} - {*before.missing, *before.wrong}, wrong
