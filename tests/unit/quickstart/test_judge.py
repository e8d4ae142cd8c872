"""The simulated judge: what it breaks is broken, and what it prefers is better by rules that it does not know."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from guerdon.data.draws import generator
from guerdon.data.judgements import ComparisonFields, read_comparisons
from guerdon.metrics.slots import SlotPatterns, slot_errors
from guerdon.pipeline.recipe import read_recipe
from guerdon.quickstart import judge
from guerdon.quickstart.corpus import Draw, entries
from guerdon.quickstart.recipe import RECIPE, quickstart_recipe

PATTERNS = SlotPatterns.from_file(RECIPE.with_name("slots.yaml"))


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Any]]:
    return {split: judge.comparisons(1, split) for split in judge.PAIRS}


def errors(rows: list[Any], side: str) -> float:
    found = slot_errors(PATTERNS, [row["source"] for row in rows], [row[side] for row in rows])
    return sum(check.errors for check in found) / len(rows)


def test_the_same_seed_gives_the_same_comparisons(rows: dict[str, list[Any]]) -> None:
    assert judge.comparisons(1, "validation") == rows["validation"]
    assert judge.comparisons(2, "validation") != rows["validation"]


def test_the_votes_are_a_majority_of_three(rows: dict[str, list[Any]]) -> None:
    votes = Counter((row["votes_for"], row["votes_against"]) for row in rows["train"])
    assert set(votes) == {(3, 0), (2, 1)}
    assert 0.45 < votes[3, 0] / len(rows["train"]) < 0.85


def test_sources_are_those_of_the_corpus_and_not_shared(rows: dict[str, list[Any]]) -> None:
    sources = {split: {row["source"] for row in found} for split, found in rows.items()}
    assert not sources["train"] & sources["validation"]
    for split, found in sources.items():
        assert found <= {entry.source for entry in entries(1, split)}


def test_what_is_preferred_has_fewer_slot_errors_and_repeats_less(rows: dict[str, list[Any]]) -> None:
    sure = [row for row in rows["train"] if not row["votes_against"]]
    assert errors(sure, "rejected") > errors(sure, "chosen") + 0.3
    assert errors(rows["train"], "rejected") > errors(rows["train"], "chosen") + 0.2

    def repeats(side: str) -> int:
        return sum(len(sentences) > len(set(sentences)) for sentences in (row[side].rstrip(".").split(". ") for row in sure))

    assert repeats("rejected") > 3 * repeats("chosen")


@pytest.mark.parametrize("way", ["omitted", "added", "changed"])
def test_a_broken_content_is_one_slot_error_or_two(way: str) -> None:
    given = [entry for entry in entries(3, "test") if len(entry.slots) > 2]
    texts = []
    for number, entry in enumerate(given):
        draw = Draw(generator(3, "test", number))
        texts.append(judge.write(draw, judge._CONTENT[way](draw, entry.slots)))
    found = [check.errors for check in slot_errors(PATTERNS, [entry.source for entry in given], texts)]
    assert set(found) <= ({1, 2} if way == "changed" else {1})  # a changed value is one that lacks and one too many


@pytest.mark.parametrize("way", ["doubled", "disordered", "cut"])
def test_a_broken_wording_keeps_its_words(way: str) -> None:
    for number, entry in enumerate(entries(4, "test")[:60]):
        draw = Draw(generator(4, "test", number))
        text = judge.write(draw, entry.slots)
        broken = judge._WORDING[way](draw, text)
        words, found = text.split(), broken.split()
        if way == "disordered":
            assert sorted(found) == sorted(words)
        elif way == "cut":
            assert 2 <= len(found) < len(words)
            assert words[: len(found)] == found
        else:
            assert found[: len(words)] == words
            assert " ".join(found[len(words) :])[:-1] in text


def test_the_quickstart_writes_them_and_says_who_made_them(tmp_path: Path) -> None:
    recipe = quickstart_recipe(tmp_path)
    assert recipe.data.note.endswith(judge.JUDGE_NOTE)
    assert "simulated judge" in judge.JUDGE_NOTE
    section = read_recipe(RECIPE).reward_model
    assert section is not None
    for name in (*section.judgements, *section.validation_judgements):
        read = read_comparisons(recipe.data_file(name), section.fields)
        assert not read.skipped
        assert sum(c.weight for c in read.comparisons) == judge.JUDGES * judge.PAIRS[name.split("_")[0]]
    assert section.fields == ComparisonFields(weight="votes_for", against="votes_against")
