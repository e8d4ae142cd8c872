"""Comparisons and ratings: what a good file gives, one clear line for every bad record, and what is kept of them."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.data import (
    Comparison,
    ComparisonFields,
    Example,
    Pair,
    Rating,
    RatingFields,
    pairs_of,
    pairs_to_train,
    read_comparisons,
    read_ratings,
    split_by_source,
)
from guerdon.errors import ConfigurationError, DataError

Write = Callable[[str, str | bytes], Path]
PAIR = {"source": "s", "chosen": "a", "rejected": "b"}


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- reading


def test_pairs_and_rankings(write: Write) -> None:
    ranked = {"source": "s", "outputs": ["a", "b", "c"], "ranks": [2, 1, 2], "weight": 3, "aspect": "quality"}
    more = {**PAIR, "annotator": 7, "references": "r", "unit": "u1"}
    path = write("a.jsonl", jsonl(PAIR, ranked, more))
    assert read_comparisons(path).comparisons == [
        Comparison("s", ("a", "b"), (1, 2)),
        Comparison("s", ("a", "b", "c"), (2, 1, 2), "quality", 3.0),
        Comparison("s", ("a", "b"), (1, 2), None, 1.0, "7", ("r",), {"unit": "u1"}),
    ]


def test_the_same_pairs_from_every_kind(write: Write, tmp_path: Path) -> None:
    rows = [{"source": f"s{i}", "chosen": f"a{i}", "rejected": f"b{i}", "votes": str(i + 1), "x": "y"} for i in range(20)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    write("a.jsonl", jsonl(*rows))
    for kind, separator in (("csv", ","), ("tsv", "\t")):
        write(f"a.{kind}", "\n".join(separator.join(line) for line in [list(rows[0]), *(list(r.values()) for r in rows)]))
    fields = ComparisonFields(weight="votes")
    read = [read_comparisons(tmp_path / f"a.{kind}", fields).comparisons for kind in ("jsonl", "csv", "tsv", "parquet")]
    assert read[0] == [Comparison(f"s{i}", (f"a{i}", f"b{i}"), (1, 2), weight=i + 1, meta={"x": "y"}) for i in range(20)]
    assert read[1:] == read[:1] * 3


def test_votes_against_give_a_comparison_turned_round(write: Write) -> None:
    votes = [(2, 1), (3, 0), (0, 2), (1, None)]
    path = write("a.jsonl", jsonl(*({**PAIR, "for": n, "against": m} for n, m in votes)))
    found = read_comparisons(path, ComparisonFields(weight="for", against="against")).comparisons
    assert [pair for comparison in found for pair in pairs_of(comparison)] == [
        ("a", "b", 2), ("b", "a", 1), ("a", "b", 3), ("b", "a", 2), ("a", "b", 1),
    ]  # fmt: skip


def test_ratings(write: Write) -> None:
    path = write("a.csv", "mr,text,score,aspect,annotator,system\ns,o,3.5,quality,w1,tgen\ns,p,-1,,,\n")
    assert read_ratings(path, RatingFields(source="mr", output="text")).ratings == [
        Rating("s", "o", 3.5, "quality", "w1", {"system": "tgen"}),
        Rating("s", "p", -1.0, None, None, {"system": ""}),
    ]


def test_an_empty_output_is_an_output_where_a_model_wrote_it(write: Write) -> None:
    path = write("a.jsonl", jsonl({**PAIR, "chosen": "", "rejected": " "}))
    assert read_comparisons(path, empty_outputs=True).comparisons == [Comparison("s", ("", " "), (1, 2))]
    with pytest.raises(DataError, match="line 1, field 'chosen': the output is empty"):
        read_comparisons(path)
    path = write("b.jsonl", jsonl({"source": "s", "output": "", "score": 0}))
    assert read_ratings(path, empty_outputs=True).ratings == [Rating("s", "", 0.0)]


def test_a_record_comes_back_from_its_own_fields(write: Write) -> None:
    whole = Comparison("s", ("a", "b", "a"), (3, 1, 1), "x", 2.5, "w", ("r", "r"), {"id": 7})
    path = write("a.jsonl", jsonl(whole.fields(), Comparison.of_pair("t", "a", "b").fields()))
    assert read_comparisons(path).comparisons == [whole, Comparison("t", ("a", "b"), (1, 2))]


BAD = [
    ({**PAIR, "outputs": ["a"]}, "both 'chosen' and 'outputs', which are two forms of one comparison"),
    ({"source": "s", "chosen": "a"}, "no field 'rejected'; it has 'source', 'chosen'"),
    ({"source": "s"}, "no field 'chosen'"),
    ({"prompt": "s", "chosen": "a", "rejected": "b"}, "no field 'source'; it has 'prompt'"),
    ({**PAIR, "source": " "}, "field 'source': the source is blank"),
    ({**PAIR, "rejected": None}, "field 'rejected': null where a text is needed"),
    ({**PAIR, "rejected": ["b"]}, "field 'rejected': a list where a text is needed"),
    ({"source": "s", "outputs": ["a", "b"]}, "no field 'ranks'"),
    ({"source": "s", "outputs": "a", "ranks": [1]}, "field 'outputs': a text where a list is needed"),
    ({"source": "s", "outputs": ["a", 3], "ranks": [1, 2]}, "field 'outputs', entry 2: a number (3) where a text"),
    ({"source": "s", "outputs": ["a", "b"], "ranks": [1]}, "1 ranks for 2 outputs"),
    ({"source": "s", "outputs": ["a"], "ranks": [1]}, "a comparison of 1 outputs"),
    ({"source": "s", "outputs": ["a", "b"], "ranks": [1, 1.5]}, "field 'ranks', entry 2: 1.5 where a whole number"),
    ({"source": "s", "outputs": ["a", "b"], "ranks": [1, "x"]}, "field 'ranks', entry 2: 'x' where a number"),
    ({**PAIR, "weight": 0}, "the weight is 0.0; give a finite number above 0"),
    ({**PAIR, "weight": -1}, "the weight is -1.0"),
    ({**PAIR, "weight": "many"}, "field 'weight': 'many' where a number is needed; give the weight as a number"),
    ({**PAIR, "weight": "inf"}, "field 'weight': 'inf' where a finite number"),
    ({**PAIR, "weight": True}, "field 'weight': a truth value where a finite number"),
    ({**PAIR, "annotator": ["w1"]}, "field 'annotator': a list where an id is needed"),
    ({**PAIR, "references": [1]}, "field 'references', entry 1: a number (1) where a text"),
]


@pytest.mark.parametrize(("row", "said"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_comparison_stops_or_is_skipped(write: Write, row: dict[str, Any], said: str) -> None:
    path = write("a.jsonl", jsonl(PAIR, row, PAIR))
    with pytest.raises(DataError) as caught:
        read_comparisons(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2")
    assert said in message
    assert "\n" not in message
    found = read_comparisons(path, on_error="skip")
    assert [comparison.outputs for comparison in found.comparisons] == [("a", "b")] * 2
    assert [(skipped.line, skipped.reason, json.loads(skipped.text)) for skipped in found.skipped] == [(2, message, row)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"source": "s", "output": "o"}, "no field 'score'"),
        ({"source": "s", "score": 1}, "no field 'output'"),
        ({"source": "s", "output": "o", "score": None}, "field 'score': null where a finite number is needed"),
        ({"source": "s", "output": "o", "score": "1e999"}, "field 'score': '1e999' where a finite number is needed"),
    ],
)
def test_a_bad_rating_stops_or_is_skipped(write: Write, row: dict[str, Any], said: str) -> None:
    good = {"source": "s", "output": "o", "score": 1}
    path = write("a.jsonl", jsonl(good, row))
    with pytest.raises(DataError, match=r"a\.jsonl, line 2") as caught:
        read_ratings(path)
    assert said in str(caught.value)
    assert [skipped.line for skipped in read_ratings(path, on_error="skip").skipped] == [2]


def test_files_limits_and_names(write: Write, tmp_path: Path) -> None:
    path = write("a.jsonl", jsonl(PAIR, PAIR) + "broken\n")
    assert len(read_comparisons(path, limit=2).comparisons) == 2
    turned = read_comparisons(path, ComparisonFields(weight="n", against="m"), limit=1)
    assert len(turned.comparisons) == 1
    with pytest.raises(DataError, match="no such file"):
        read_comparisons(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="none of the 1 records can be used"):
        read_ratings(write("b.jsonl", jsonl(PAIR)), on_error="skip")
    with pytest.raises(ConfigurationError, match="a field has an empty name"):
        ComparisonFields(source="")
    with pytest.raises(ConfigurationError, match="the field 'chosen' is named twice"):
        ComparisonFields(rejected="chosen")
    with pytest.raises(ConfigurationError, match="on_error"):
        read_comparisons(path, on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_records_made_by_hand_are_checked(score: float) -> None:
    for make in (lambda: Rating("s", "o", score), lambda: Comparison("s", ("a", "b"), (1, 2), weight=score)):
        with pytest.raises(DataError):
            make()
    with pytest.raises(DataError, match="the source is empty"):
        Rating(" ", "o", 1.0)
    with pytest.raises(DataError, match="the source is empty"):
        Comparison.of_pair("", "a", "b")


# --- pairs


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6), st.floats(0.1, 9))
def test_pairs_are_all_orders_without_ties(ranks: list[int], weight: float) -> None:
    outputs = tuple(f"o{i}" for i in range(len(ranks)))
    found = pairs_of(Comparison("s", outputs, tuple(ranks), weight=weight))
    expected = [
        (outputs[i], outputs[j], weight) for i, j in itertools.permutations(range(len(ranks)), 2) if ranks[i] < ranks[j]
    ]
    assert Counter(found) == Counter(expected)


def test_what_teaches_nothing_is_dropped_and_counted() -> None:
    given_records = [
        Comparison("s", ("a", "b", "c"), (1, 2, 3)),
        Comparison("s", ("c", "b", "a"), (30, 20, 10)),  # the same, written in another order and with other ranks
        Comparison("s", ("a", "b", "c"), (1, 2, 3), annotator="w2"),  # a vote
        Comparison("s", ("a", "b", "c"), (1, 2, 3), meta={"unit": 2}),  # judged again
        Comparison("s", ("a", "b"), (1, 1)),
        Comparison("s", ("a", "a", "b"), (1, 2, 3)),
        Comparison.of_pair("t", "b", "a", weight=2),
        Comparison.of_pair("t", "a", "b", weight=2),  # the opposite is no repeat
    ]
    kept = pairs_to_train(given_records)
    assert kept.dropped == {
        "repeated comparison": 1, "nothing but ties": 1, "two outputs that are the same text": 1,
    }  # fmt: skip
    assert len(kept.pairs) == 3 * 3 + 2 + 2
    assert kept.pairs[-2:] == [Pair("t", "b", "a", 2), Pair("t", "a", "b", 2)]


# --- splits


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=2).filter(lambda s: len(set(s)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
    st.randoms(),
)
def test_a_split_never_shares_a_source(sources: list[str], share: float, seed: int, random: Any) -> None:
    records = [Rating(source, str(i), 1.0) for i, source in enumerate(sources)]
    left, held = split_by_source(records, share, seed)
    there, out = {r.source for r in left}, {r.source for r in held}
    assert there | out == set(sources)
    assert not there & out
    assert [r for r in records if r.source in there] == left
    assert [r for r in records if r.source in out] == held
    assert len(out) == min(max(1, round(share * len(set(sources)))), len(set(sources)) - 1)
    shuffled = records.copy()
    random.shuffle(shuffled)
    assert {r.source for r in split_by_source(shuffled, share, seed)[1]} == out


def test_splits_of_other_records_and_by_other_keys() -> None:
    examples = [Example(f"turn {i % 4}\nturn {i}") for i in range(40)]
    left, held = split_by_source(examples, 0.25, 1, key=lambda e: e.source.split("\n")[0])
    assert {e.source.split("\n")[0] for e in left}.isdisjoint(e.source.split("\n")[0] for e in held)
    assert len(held) == 10
    assert split_by_source(examples, 0.5, 1) != split_by_source(examples, 0.5, 2)
    for share in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ConfigurationError, match="is no share"):
            split_by_source(examples, share, 1)
    with pytest.raises(DataError, match="1 sources cannot be split"):
        split_by_source(examples[:1] * 3, 0.5, 1)


# --- real data


def test_dialogues_of_hh_rlhf(data_folder: Path) -> None:
    """Every pair is a comparison of two different replies, prompts and line ends untouched."""
    path = data_folder / "hh_harmless_test" / "pairs.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = read_comparisons(path, ComparisonFields(source="prompt")).comparisons
    assert [(c.source, *c.outputs, c.meta["id"]) for c in found] == [
        (row["prompt"], row["chosen"], row["rejected"], row["id"]) for row in rows
    ]
    kept = pairs_to_train(found)
    assert (len(kept.pairs), kept.dropped) == (2308, {})
    first = [comparison.source.split("\n\nAssistant:")[0] for comparison in found]
    left, held = split_by_source(found, 0.1, 1, key=lambda c: c.source.split("\n\nAssistant:")[0])
    assert len(left) + len(held) == 2308
    beginnings = {c.source.split("\n\nAssistant:")[0] for c in held}
    assert sum(text in beginnings for text in first) == len(held)


@pytest.mark.parametrize(("aspect", "pairs", "ratings"), [("naturalness", 8123, 17295), ("quality", 7069, 12115)])
def test_human_judgements_of_e2e(data_folder: Path, aspect: str, pairs: int, ratings: int) -> None:
    path = data_folder / "e2e_human" / f"pairs_{aspect}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    fields = ComparisonFields(source="prompt", weight="votes_for", against="votes_against")
    found = read_comparisons(path, fields).comparisons
    assert len(rows) == pairs
    assert len(found) == pairs + sum(row["votes_against"] > 0 for row in rows)
    assert sum(c.weight for c in found) == sum(row["votes_for"] + row["votes_against"] for row in rows)
    assert {c.aspect for c in found} == {aspect}
    assert pairs_to_train(found).dropped == {}
    judged = data_folder / "e2e_human" / f"ratings_{aspect}.jsonl"
    read = read_ratings(judged, RatingFields(source="prompt", output="response")).ratings
    scores = [json.loads(line)["score"] for line in judged.read_text(encoding="utf-8").splitlines()]
    assert len(read) == ratings
    assert [rating.score for rating in read] == scores
