from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from guerdon.data.draws import generator
from guerdon.data.records import Example, read_examples
from guerdon.quickstart import corpus, lexicon

ROOT = Path(__file__).resolve().parents[3]
SEED = 17
PATTERNS: dict[str, dict[str, list[str]]] = yaml.safe_load((ROOT / "guerdon/quickstart/slots.yaml").read_text("utf-8"))

TITLE = PATTERNS.pop("title")
COMPILED = {
    slot: {
        value: re.compile(rf"(?<!\w)(?:{'|'.join(ways)})(?!\w)".replace("{value}", re.escape(value)), re.IGNORECASE)
        for value, ways in values.items()
    }
    for slot, values in PATTERNS.items()
}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[corpus.Entry]]:
    return {split: corpus.entries(SEED, split) for split in corpus.SIZES}


def said(text: str) -> dict[str, set[str]]:
    """The values of each slot that ``text`` says, by the patterns."""
    found = {slot: {value for value, way in values.items() if way.search(text)} for slot, values in COMPILED.items()}
    return {slot: values for slot, values in found.items() if values}


def expected(entry: corpus.Entry) -> dict[str, set[str]]:
    return {slot: {value} for slot, value in entry.slots.items() if slot != "title"}


def shape(text: str, title: str) -> str:
    """The wording without its values."""
    text = text.replace(title, "TITLE")
    for slot, values in COMPILED.items():
        for way in values.values() if slot not in ("kind", "booking") else ():
            text = way.sub(slot.upper(), text)
    return text


def digest(splits: tuple[list[Example], ...]) -> str:
    return hashlib.sha256(repr(splits).encode()).hexdigest()


def test_the_same_seed_writes_the_same_corpus() -> None:
    here = digest(corpus.build(SEED))
    program = (
        f"import hashlib, guerdon.quickstart.corpus as c\nprint(hashlib.sha256(repr(c.build({SEED})).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4242"}
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert there.stdout.strip() == here
    assert digest(corpus.build(SEED + 1)) != here


def test_build_gives_the_entries(splits: dict[str, list[corpus.Entry]]) -> None:
    for examples, (split, entries) in zip(corpus.build(SEED), splits.items(), strict=True):
        assert [example.source for example in examples] == [entry.source for entry in entries]
        assert [list(example.references) for example in examples] == [[one.text for one in entry.written] for entry in entries]
        assert len({example.id for example in examples}) == len(examples) == corpus.SIZES[split]


def test_no_source_and_no_title_is_shared(splits: dict[str, list[corpus.Entry]]) -> None:
    sources = [entry.source for entries in splits.values() for entry in entries]
    assert len(sources) == len(set(sources))
    titles = {split: {entry.slots["title"] for entry in entries} for split, entries in splits.items()}
    assert not titles["train"] & titles["test"]
    assert not titles["train"] & titles["validation"]
    assert not titles["validation"] & titles["test"]


def test_every_word_of_validation_and_test_occurs_in_training(splits: dict[str, list[corpus.Entry]]) -> None:
    words = {
        split: {word.lower() for entry in entries for one in entry.written for word in re.findall(r"[\w'-]+", one.text)}
        for split, entries in splits.items()
    }
    assert words["test"] | words["validation"] <= words["train"]
    assert 300 <= len(words["train"]) <= 900


def test_a_source_states_its_slots_in_order(splits: dict[str, list[corpus.Entry]]) -> None:
    for entry in splits["train"]:
        pairs = re.findall(r"(\w+)\[([^\]]+)\]", entry.source)
        assert dict(pairs) == dict(entry.slots)
        assert [slot for slot, _ in pairs] == [slot for slot in corpus.SLOTS if slot in entry.slots]
        assert {"title", "kind"} <= set(entry.slots)
        assert 4 <= len(entry.slots) <= 6


def test_clean_references_say_exactly_their_slots(splits: dict[str, list[corpus.Entry]]) -> None:
    for entry in splits["validation"] + splits["test"]:
        for one in entry.written:
            assert one.omitted is None
            assert one.added is None
            assert one.text.count(entry.slots["title"]) == 1
            assert said(one.text) == expected(entry), one.text


def test_training_references_are_wrong_where_planted_and_nowhere_else(splits: dict[str, list[corpus.Entry]]) -> None:
    for entry in splits["train"]:
        for one in entry.written:
            found, wanted = said(one.text), expected(entry)
            assert not (one.omitted and one.added)
            if one.omitted:
                assert wanted.pop(one.omitted)
            if one.added:
                assert one.added not in wanted
                assert len(found.pop(one.added)) == 1
            assert found == wanted, one.text


def test_the_share_of_noise(splits: dict[str, list[corpus.Entry]]) -> None:
    written = [one for entry in splits["train"] for one in entry.written]
    omitted, added = (sum(bool(getattr(one, name)) for one in written) / len(written) for name in ("omitted", "added"))
    # Two standard deviations of a binomial share of 0.15 over 5,200 references are 0.01.
    assert omitted + added == pytest.approx(corpus.NOISE, abs=0.02)
    assert min(omitted, added) > 0.05


def test_the_spread_of_wording(splits: dict[str, list[corpus.Entry]]) -> None:
    texts = [(one.text, entry.slots["title"]) for entry in splits["train"] for one in entry.written]
    assert len({text for text, _ in texts}) == len(texts)
    shapes = Counter(shape(text, title) for text, title in texts)
    assert len(shapes) > 1500
    assert shapes.most_common(1)[0][1] / len(texts) < 0.02
    for entry in splits["train"]:
        assert 3 <= len(entry.written) <= 4


def test_lengths(splits: dict[str, list[corpus.Entry]]) -> None:
    lengths = [len(one.text.split()) for entries in splits.values() for entry in entries for one in entry.written]
    assert 15 < sum(lengths) / len(lengths) < 21
    assert min(lengths) >= 6
    assert max(lengths) <= 45


def test_sentences_are_well_formed(splits: dict[str, list[corpus.Entry]]) -> None:
    for entries in splits.values():
        for entry in entries:
            for one in entry.written:
                sentences = one.text.removesuffix(".").split(". ")
                assert one.text.endswith(".")
                assert all(sentence[0].isupper() or sentence[0].isdigit() for sentence in sentences)
                assert not re.search(r"[{}]|\s\s|\s[,.]|,,|\band and\b|\bthe the\b", one.text), one.text


def test_every_value_and_every_way_of_saying_it_is_used(splits: dict[str, list[corpus.Entry]]) -> None:
    used = Counter((slot, value) for entry in splits["train"] for slot, value in entry.slots.items())
    for slot, values in PATTERNS.items():
        assert min(used[slot, value] for value in values) >= 10, slot
    text = "\n".join(one.text.lower() for entry in splits["train"] for one in entry.written)
    forms = [
        form for ways in (lexicon.AMOUNT_CLAUSES, lexicon.AUDIENCE_CLAUSES, lexicon.TOPIC_FORMS, lexicon.HOSTS) for form in ways
    ]
    assert [form for form in forms if form.replace("{}", "").strip() not in text] == []


WAYS = [
    *(("kind", kind, noun) for kind, words in lexicon.KINDS.items() for noun in words.nouns),
    *(("about", topic, form.format(topic)) for topic in lexicon.TOPICS for form in lexicon.TOPIC_FORMS),
    *(("place", place, form.format(place)) for place in lexicon.PLACES for form in lexicon.PLACE_FORMS),
    *(("day", day, form.format(day)) for day in lexicon.DAYS for form in lexicon.DAY_FORMS),
    *(("time", hour, form.format(way)) for hour, ways in lexicon.HOURS.items() for way in ways for form in lexicon.HOUR_FORMS),
    *(("price", "free", form) for form in (*lexicon.FREE_FORMS, *lexicon.FREE_CLAUSES)),
    *(
        ("price", amount, form.format(way))
        for amount, ways in lexicon.AMOUNTS.items()
        for way in ways
        for form in (*lexicon.AMOUNT_FORMS, *lexicon.AMOUNT_CLAUSES)
    ),
    *(
        ("audience", who, form.format(way))
        for who, ways in lexicon.AUDIENCES.items()
        for way in ways
        for form in (*lexicon.AUDIENCE_FORMS, *lexicon.AUDIENCE_CLAUSES)
    ),
    *(("booking", value, clause) for value, clauses in lexicon.BOOKING_CLAUSES.items() for clause in clauses),
]


@pytest.mark.parametrize("slot", PATTERNS)
def test_patterns_see_each_way_and_nothing_else(slot: str) -> None:
    ways = [(value, text) for name, value, text in WAYS if name == slot]
    assert {value for value, _ in ways} == set(PATTERNS[slot]) == set(corpus.VALUES[slot])
    for value, text in ways:
        assert said(f"Thus: {text}.") == {slot: {value}}


def test_the_slot_metric_finds_no_error_but_the_planted_ones(splits: dict[str, list[corpus.Entry]]) -> None:
    slots = pytest.importorskip("guerdon.metrics.slots")
    patterns = slots.SlotPatterns.from_file(ROOT / "guerdon/quickstart/slots.yaml")
    for entry in splits["validation"] + splits["test"] + splits["train"][:400]:
        for one in entry.written:
            found = patterns.check(entry.source, one.text)
            assert found.missing == ((one.omitted,) if one.omitted else ()), one.text
            assert found.added == ((one.added,) if one.added else ()), one.text
            assert found.wrong == ()
            assert found.required == len(entry.slots)


def test_verbs_hosts_and_titles_say_no_slot() -> None:
    verbs = [verb for kind in lexicon.KINDS.values() for verb in kind.verbs]
    for text in (*verbs, *lexicon.HOSTS, *lexicon.TITLE_FIRST, *lexicon.TITLE_SECOND):
        assert said(text) == {}, text


def test_round_trip_to_a_file(tmp_path: Path) -> None:
    examples = corpus.build(SEED)[1]
    path = tmp_path / "validation.jsonl"
    rows = [{"id": one.id, "source": one.source, "references": list(one.references)} for one in examples]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert read_examples(path, needs_references=True).examples == examples


def test_earlier_wordings_are_commoner() -> None:
    draw = corpus.Draw(generator(3, "test"))
    counts = Counter(draw.wording(("a", "b", "c", "d")) for _ in range(12000))
    shares = np.array([counts[letter] for letter in "abcd"]) / 12000
    np.testing.assert_allclose(shares, np.array([12, 6, 4, 3]) / 25, atol=0.02)


def test_the_note_says_that_a_program_wrote_it() -> None:
    assert "written by a program" in corpus.NOTE
    assert "written by a program" in " ".join((corpus.__doc__ or "").split())
