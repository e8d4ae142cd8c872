"""Beam search against exhaustive enumeration, against its plain twin, and against greedy search."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.beam_twin import Twin
from helpers.table_policy import Ids, TablePolicy, random_table, sequence_log_prob, sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.data.padded import Padded
from guerdon.decoding import BeamOptions, Hypothesis, beam_search, greedy

seeds = st.integers(0, 2**32 - 1)
penalties = st.sampled_from([-0.5, 0.0, 0.6, 1.0, 2.0])
normalisations = st.sampled_from(["power", "gnmt"])


def search(policy: TablePolicy, sources: list[Ids], limits: list[int], options: BeamOptions, prefixes: list[Ids] | None = None):
    forced = None if prefixes is None else Padded.from_lists(prefixes, pad=policy.pad_id)
    return beam_search(policy, Padded.from_lists(sources), torch.tensor(limits), options, forced)


def same(found: list[Hypothesis], expected: list[tuple[Ids, float, float, bool]]) -> None:
    assert [(one.tokens, one.finished) for one in found] == [(tokens, finished) for tokens, _, _, finished in expected]
    for one, (_, log_prob, score, _) in zip(found, expected, strict=True):
        assert one.log_prob == pytest.approx(log_prob, rel=1e-12, abs=1e-12)
        assert one.score == pytest.approx(score, rel=1e-12, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, words=st.integers(1, 4), limit=st.integers(1, 4), penalty=penalties, normalisation=normalisations)
def test_a_wide_beam_is_exhaustive_enumeration(seed: int, words: int, limit: int, penalty: float, normalisation: str) -> None:
    policy = TablePolicy(random_table(seed, words, spread=2.0), words)
    every = sequences(words, limit)
    options = BeamOptions(len(every), penalty, normalisation, returned=len(every))
    expected = []
    for tokens, finished in every:
        log_prob, length = sequence_log_prob(policy, (7,), tokens, finished), len(tokens) + finished
        norm = length**penalty if normalisation == "power" else (5 + length) ** penalty / 6**penalty
        expected.append((tokens, log_prob, log_prob / norm, finished))
    assert math.fsum(math.exp(one[1]) for one in expected) == pytest.approx(1.0, abs=1e-12)
    (found,) = search(policy, [(7,)], [limit], options)
    same(found, sorted(expected, key=lambda one: -one[2]))


@settings(max_examples=150, deadline=None)
@given(
    seed=seeds,
    words=st.integers(1, 6),
    spread=st.sampled_from([0.3, 1.0, 3.0]),
    limits=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    beam_size=st.integers(1, 6),
    penalty=penalties,
    normalisation=normalisations,
    patience=st.sampled_from([0.4, 1.0, 1.5, 3.0]),
    ngram_block=st.integers(0, 3),
    data=st.data(),
)
def test_the_fast_search_equals_its_plain_twin(
    seed, words, spread, limits, beam_size, penalty, normalisation, patience, ngram_block, data
) -> None:
    policy = TablePolicy(random_table(seed, words, spread), words)
    ids = st.integers(3, words + 2)
    prefixes = [tuple(data.draw(st.lists(ids, max_size=min(limit, 3)), label="prefix")) for limit in limits]
    returned = data.draw(st.integers(1, min(beam_size, math.ceil(patience * beam_size))), label="returned")
    options = BeamOptions(beam_size, penalty, normalisation, patience, returned, ngram_block)
    sources = [(3 + number,) * (number + 1) for number in range(len(limits))]
    found = search(policy, sources, limits, options, prefixes)
    twin = Twin(beam_size, penalty, normalisation == "gnmt", patience, ngram_block)
    for one, source, limit, prefix in zip(found, sources, limits, prefixes, strict=True):
        same(one, twin.search(policy, source, limit, prefix)[:returned])


@settings(max_examples=40, deadline=None)
@given(seed=seeds, words=st.integers(1, 5), limit=st.integers(1, 8), penalty=penalties, ngram_block=st.integers(0, 2))
def test_a_beam_of_one_is_greedy(seed: int, words: int, limit: int, penalty: float, ngram_block: int) -> None:
    policy = TablePolicy(random_table(seed, words), words)
    sources, limits = Padded.from_lists([[3], [4, 5]]), torch.tensor([limit, 5])
    beams = beam_search(policy, sources, limits, BeamOptions(1, penalty, ngram_block=ngram_block))
    chosen = greedy(policy, sources, limits, ngram_block=ngram_block)
    assert [(one.tokens, one.finished) for (one,) in beams] == [(one.tokens, one.finished) for one in chosen]
    assert [one.log_prob for (one,) in beams] == pytest.approx([one.log_prob for one in chosen], rel=1e-12)


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("limit", [1, 3, 5])
def test_ties_rank_by_hypothesis_then_by_token(beam_size: int, limit: int) -> None:
    # every continuation is as probable as every other, so that only the rule for ties decides
    policy = TablePolicy(lambda source, written: [0.0] * 8, words=7)
    (found,) = search(policy, [(3,)], [limit], BeamOptions(beam_size, 1.0, returned=beam_size))
    same(found, Twin(beam_size).search(policy, (3,), limit)[:beam_size])


@settings(max_examples=40, deadline=None)
@given(seed=seeds, order=st.permutations(range(4)), kept=st.integers(1, 4))
def test_neither_order_nor_company_changes_a_source(seed: int, order: list[int], kept: int) -> None:
    policy = TablePolicy(random_table(seed, words=4), 4)
    sources, limits, prefixes = [(3,), (4, 3, 5), (6, 6), (3, 3, 3, 3)], [5, 2, 7, 4], [(), (3,), (4, 5), ()]
    options = BeamOptions(3, returned=2)
    alone = [search(policy, [s], [n], options, [p])[0] for s, n, p in zip(sources, limits, prefixes, strict=True)]
    chosen = order[:kept]
    together = search(policy, [sources[i] for i in chosen], [limits[i] for i in chosen], options, [prefixes[i] for i in chosen])
    assert together == [alone[i] for i in chosen]
