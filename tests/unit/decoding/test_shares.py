"""Decoding in threads: the same outputs as in one, in the sources' order, and nothing left changed behind."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from helpers.table_policy import TablePolicy, random_table
from helpers.tiny_policies import random_rows, tiny_policy
from hypothesis import given
from hypothesis import strategies as st

from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.decoding import BeamOptions, SamplingOptions, beam_search, greedy, sample
from guerdon.decoding.shares import decode_shares, joined, places_of, shares_of
from guerdon.errors import GuerdonError, InputError
from guerdon.models.cache import rows_of

LENGTHS = [5, 2, 9, 1, 7, 7, 3, 4, 8, 6, 2]
LIMITS = torch.tensor([3, 12, 7, 20, 9, 1, 15, 4, 11, 8, 18])


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three threads, and shares of any size."""
    before = torch.get_num_threads()
    monkeypatch.setattr("guerdon.decoding.shares._LEAST", 1)
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3, "decoding left another number of threads behind"
    torch.set_num_threads(before)


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guerdon.decoding.shares._LEAST", 10_000)


def prefixes() -> Padded:
    return Padded.from_lists([[5, 6] if number % 3 == 0 else [] for number in range(len(LENGTHS) - 1)] + [[7]])


def test_samples_are_those_of_one_thread(three_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sources = tiny_policy(), random_rows(LENGTHS, seed=3)
    limits = LIMITS.clone().clamp(min=2)
    keys = row_keys(1, "shares", 0, torch.arange(11).repeat_interleave(4), torch.arange(4).repeat(11))
    assert len(shares_of(policy, sources, 4)) == 3
    found = sample(policy, sources, limits, SamplingOptions(temperature=1.5), keys, 4, prefixes())
    alone(monkeypatch)
    assert len(shares_of(policy, sources, 4)) == 1
    expected = sample(policy, sources, limits, SamplingOptions(temperature=1.5), keys, 4, prefixes())
    assert torch.equal(found.tokens.ids, expected.tokens.ids)
    assert torch.equal(found.tokens.lengths, expected.tokens.lengths)
    assert torch.equal(found.finished, expected.finished)
    assert len(set(expected.tokens.lengths.tolist())) > 5
    torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_searches_find_what_one_thread_finds(method: str, three_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sources = tiny_policy(), random_rows(LENGTHS, seed=4)
    limits = LIMITS.clone().clamp(min=2)

    def searched() -> list[list[tuple[tuple[int, ...], bool, float]]]:
        if method == "greedy":
            found = [[one] for one in greedy(policy, sources, limits, prefixes())]
        else:
            found = beam_search(policy, sources, limits, BeamOptions(beam_size=3, returned=3), prefixes())
        return [[(one.tokens, one.finished, round(one.log_prob, 9)) for one in group] for group in found]

    found = searched()
    alone(monkeypatch)
    assert found == searched()
    assert len({tokens for group in found for tokens, _, _ in group}) > 8


@pytest.mark.parametrize("size", [1, 3, 4, 6, 50])
def test_a_batch_may_hold_fewer_sources_than_there_are(size: int, three_threads: None) -> None:
    policy, sources, limits = tiny_policy(), random_rows(LENGTHS, seed=3), LIMITS.clone().clamp(min=2)
    keys = row_keys(1, "batch", 0, torch.arange(11).repeat_interleave(2), torch.arange(2).repeat(11))
    held, start = list[int](), type(policy).start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(policy), "start", lambda self, part, *rest: (held.append(len(part)), start(self, part, *rest))[1])
        few = [
            sample(policy, sources, limits, SamplingOptions(), keys, 2, prefixes(), batch_size=size),
            greedy(policy, sources, limits, prefixes(), batch_size=size),
            beam_search(policy, sources, limits, BeamOptions(beam_size=3), prefixes(), batch_size=size),
        ]
    assert max(held) <= max(1, size // 3)
    assert sum(held) == 3 * len(sources)
    drawn = sample(policy, sources, limits, SamplingOptions(), keys, 2, prefixes())
    assert few[0].tokens.to_lists() == drawn.tokens.to_lists()
    assert torch.equal(few[0].finished, drawn.finished)
    torch.testing.assert_close(few[0].log_prob, drawn.log_prob, rtol=1e-12, atol=1e-12)
    assert [one.tokens for one in few[1]] == [one.tokens for one in greedy(policy, sources, limits, prefixes())]
    wanted = beam_search(policy, sources, limits, BeamOptions(beam_size=3), prefixes())
    assert [one[0].tokens for one in few[2]] == [one[0].tokens for one in wanted]


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_of_no_source_is_refused(size: int) -> None:
    policy, sources, limits = tiny_policy(), random_rows([2, 3]), torch.tensor([4, 4])
    for decode in (greedy, lambda *given, **named: beam_search(*given, BeamOptions(), **named)):
        with pytest.raises(InputError, match=f"{size} sources are no batch"):
            decode(policy, sources, limits, batch_size=size)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 8), st.none() | st.integers(1, 50))
def test_shares_hold_every_source_once(sources: int, copies: int, threads: int, batch_size: int | None) -> None:
    policy, before = tiny_policy(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shares = shares_of(policy, random_rows([1] * sources), copies, batch_size)
    finally:
        torch.set_num_threads(before)
    assert sorted(torch.cat(shares).tolist()) == list(range(sources))
    assert len(shares) <= threads
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    held = min(sources, batch_size or sources)
    assert len(shares) == 1 or held * copies >= 24 * len(shares)
    places = places_of(shares, batch_size)
    assert 1 <= places <= max(sizes)
    assert batch_size is None or sum(min(size, places) for size in sizes) <= batch_size
    assert places == max(sizes) or (batch_size is not None and (places + 1) * len(shares) > batch_size)
    rows = torch.cat([rows_of(share, copies) for share in shares])
    assert sorted(rows.tolist()) == list(range(sources * copies))
    assert all(row // copies in share for share in shares for row in rows_of(share, copies))


def test_only_a_policy_that_allows_it_is_asked_by_several_threads(three_threads: None) -> None:
    sources = random_rows([3] * 9)
    assert len(shares_of(TablePolicy(random_table(9, 3), 3), sources, 1)) == 1
    assert len(shares_of(tiny_policy(), sources, 1)) == 3
    with torch.autocast("cpu", dtype=torch.bfloat16):  # threads would not know of it
        assert len(shares_of(tiny_policy(), sources, 1)) == 1


def test_threads_compute_without_gradients_and_with_their_part_of_the_threads(three_threads: None) -> None:
    torch.set_num_threads(5)
    shares = [torch.tensor([0]), torch.tensor([1])]
    seen = decode_shares(tiny_policy(), shares, lambda *_: (torch.is_grad_enabled(), torch.get_num_threads()))
    assert seen == [(False, 2)] * 2
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == 5
    torch.set_num_threads(3)


def test_modules_get_their_mode_back_only_when_every_thread_is_done(three_threads: None) -> None:
    policy = tiny_policy(dropout=0.5).train()
    sources = random_rows([4] * 6)
    limits = torch.tensor([2, 60, 2, 60, 2, 60])  # a short share ends long before the others
    keys = row_keys(0, "mode", 0, torch.arange(6), torch.zeros(6, dtype=torch.int64))
    found = sample(policy, sources, limits, SamplingOptions(), keys)
    assert policy.training
    assert all(module.training for module in policy.modules())
    policy.eval()
    assert torch.equal(found.tokens.ids, sample(policy, sources, limits, SamplingOptions(), keys).tokens.ids)


@pytest.mark.parametrize("method", ["sample", "greedy", "beam"])
def test_what_fails_in_a_thread_names_the_source_of_the_whole(method: str, three_threads: None) -> None:
    """Only source 7 meets a row that is not finite; it is the third of its share."""

    def table(source: tuple[int, ...], written: tuple[int, ...]) -> list[float]:
        return [math.nan] * 4 if source == (4, 4) else [0.0, 1.0, 2.0, 3.0]

    policy = TablePolicy(table, 3)
    policy.parallel = True
    sources = Padded.from_lists([[4, 4] if number == 7 else [5] for number in range(9)])
    limits = torch.full((9,), 4)
    keys = row_keys(0, "fails", 0, torch.arange(9).repeat_interleave(2), torch.arange(2).repeat(9))
    search = {
        "sample": lambda: sample(policy, sources, limits, SamplingOptions(), keys, 2),
        "greedy": lambda: greedy(policy, sources, limits),
        "beam": lambda: beam_search(policy, sources, limits, BeamOptions(beam_size=2)),
    }[method]
    with pytest.raises(GuerdonError, match={"sample": "output 14", "greedy": "output 7", "beam": "source 7"}[method]):
        search()


def test_shares_of_different_widths_are_joined(three_threads: None) -> None:
    policy = tiny_policy()
    keys = row_keys(0, "wide", 0, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    parts = [
        sample(policy, random_rows([3, 3], seed=seed), torch.full((2,), limit), SamplingOptions(), keys[:2])
        for seed, limit in ((1, 3), (2, 9))
    ]
    whole = joined(parts, [torch.tensor([0, 2]), torch.tensor([1, 3])], 1, policy.pad_id)
    rows = [parts[0].tokens.to_lists()[0], parts[1].tokens.to_lists()[0], parts[0].tokens.to_lists()[1]]
    assert whole.tokens.to_lists()[:3] == rows
    beyond = ~whole.tokens.mask
    assert bool((whole.tokens.ids[beyond] == policy.pad_id).all())
    assert bool((whole.log_prob[beyond] == 0).all())
    assert whole.log_prob.dtype == torch.float64
