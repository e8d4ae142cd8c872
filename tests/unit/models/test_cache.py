"""The cache of a running decode: whatever rows are kept, repeated or turned about, it holds what fresh rows would."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_policies import padded_further, random_rows, tiny_policy
from hypothesis import example, given
from hypothesis import strategies as st

from guerdon.data.padded import Padded
from guerdon.models.cache import Layout, SelfCache
from guerdon.models.filled import spans
from guerdon.models.transformer import Transformer

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
SOURCES = random_rows([3, 7, 1, 5], seed=1)
POLICIES = {kind: tiny_policy(positions=kind, decoder_layers=1) for kind in ("sinusoidal", "rotary", "learned")}


class Fresh:
    """The oracle: every row's source and tokens so far, decoded from the beginning by teacher forcing."""

    def __init__(self, policy: Transformer, copies: int) -> None:
        self.policy = policy
        self.sources = [source for source in range(len(SOURCES)) for _ in range(copies)]
        self.written: list[list[int]] = [[] for _ in self.sources]

    def select(self, rows: list[int]) -> None:
        self.sources, self.written = [self.sources[i] for i in rows], [list(self.written[i]) for i in rows]

    def step(self, tokens: list[int]) -> torch.Tensor:
        for row, token in zip(self.written, tokens, strict=True):
            row.append(token)
        targets = torch.tensor([[*row, 4] for row in self.written])  # the logits asked for are those of the token behind
        lengths = torch.full((len(targets),), targets.shape[1])
        return self.policy(SOURCES.select(torch.tensor(self.sources)), Padded(targets, lengths))[:, -1]


@st.composite
def reordered(draw: st.DrawFn, rows: int, copies: int) -> list[int]:
    """What a beam search keeps: some sources, each with as many rows as before, of which some are copies of others."""
    groups = draw(st.lists(st.integers(0, max(0, rows // copies - 1)), min_size=1, unique=True).map(sorted))
    parents = st.integers(0, copies - 1)
    return [min(group * copies + draw(parents), rows - 1) for group in groups for _ in range(copies)]


@st.composite
def decodes(draw: st.DrawFn) -> tuple[str, int, list[tuple[list[int] | None, int]]]:
    """A kind of positions, copies a source, and for each step which rows are kept before it (or None), and a seed."""
    copies = draw(st.integers(1, 3))
    rows, plan = len(SOURCES) * copies, []
    for _ in range(draw(st.integers(1, 6))):
        kept = draw(st.none() | st.lists(st.integers(0, rows - 1), min_size=1, max_size=8) | reordered(rows, copies))
        rows = rows if kept is None else len(kept)
        plan.append((kept, draw(st.integers(0, 1000))))
    return draw(st.sampled_from(sorted(POLICIES))), copies, plan


@given(decodes())
@example(("rotary", 2, [(None, 0), ([7, 0, 0, 3], 1), ([3, 3, 2, 1, 0], 2), ([0, 1], 3)]))  # uneven, then fewer sources
@example(
    ("rotary", 2, [(None, 0), ([1, 1, 2, 3, 5, 4, 7, 7], 1), (None, 2), ([1, 0, 4, 4], 3), ([0, 3, 1], 4)])
)  # lanes and back
@example(("learned", 1, [([3, 2, 1, 0], 0), ([2, 2, 2], 1), ([0, 0, 0, 0, 0], 2)]))  # turned; one source; wider
@example(("sinusoidal", 3, [([0, 1, 2, 3, 4, 5], 0), ([0, 3, 1, 4, 2, 5], 1), ([0, 2, 1, 3, 4, 5], 2)]))  # interleaved
@torch.no_grad()
def test_rows_that_were_selected_are_as_good_as_fresh_ones(case) -> None:
    kind, copies, plan = case
    policy = POLICIES[kind]
    state, tokens = policy.start(padded_further(SOURCES, 2), copies)
    policy.step(state, tokens)
    fresh = Fresh(policy, copies)
    for kept, seed in plan:
        if kept is not None:
            state = state.select(torch.tensor(kept))
            fresh.select(kept)
        assert state.rows == len(fresh.sources)
        tokens = torch.randint(4, 19, (state.rows,), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(policy.step(state, tokens), fresh.step(tokens.tolist()), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(POLICIES))
def test_the_cache_grows_beyond_its_blocks(kind: str) -> None:
    """Rows are selected before, at and after edges of the 6, 12, 18, 24, 30, 37, 46 … positions that there is room for."""
    policy = POLICIES[kind]
    targets = random_rows([70] * 4, seed=4)
    expected = torch.stack(policy.logits(SOURCES, targets).split(70))
    state, tokens = policy.start(SOURCES)
    order = torch.arange(4)
    for position in range(70):
        if position in (5, 6, 7, 30, 36, 37, 38, 64):
            turn = torch.tensor([1, 2, 3, 0])
            state, order, tokens = state.select(turn), order[turn], tokens[turn]
        torch.testing.assert_close(policy.step(state, tokens), expected[order, position], **CLOSE)
        tokens = targets.ids[order, position]


@torch.no_grad()
def test_sources_without_rows_leave_the_memory() -> None:
    policy = POLICIES["sinusoidal"]
    state, _ = policy.start(SOURCES, copies=2)
    state = state.select(torch.tensor([7, 2, 6]))
    assert [tuple(key.shape[:1]) for key, _ in state.memory] == [(2,)]
    assert state.bias.shape[0] == 2
    assert state.layout.source.tolist() == [1, 0, 1]
    state = state.select(torch.tensor([], dtype=torch.int64))
    assert state.rows == 0
    assert policy.step(state, torch.tensor([], dtype=torch.int64)).shape == (0, 19)


def test_sources_are_encoded_in_spans_to_the_same_memory() -> None:
    """Against each source encoded alone, in float64. What lies behind a source must be numbers: 0 times NaN is NaN."""
    policy, lengths = POLICIES["rotary"], [40, 31, 30, 17, 16, 16, 15, 12, 12, 11, 11, 10, 9, 9, 8, 7, 5, 4, 3, 3, 2, 2, 1, 1]
    sources = random_rows(lengths, seed=2)
    with torch.no_grad():
        state, _ = policy.start(sources, 2)
        assert len(spans(sources.lengths)) == 3
        for source, length in enumerate(lengths):
            alone, _ = policy.start(sources.select(torch.tensor([source])))
            for (key, value), (own_key, own_value) in zip(state.memory, alone.memory, strict=True):
                torch.testing.assert_close(key[source, :, :length], own_key[0], **CLOSE)
                torch.testing.assert_close(value[source, :, :length], own_value[0], **CLOSE)
                assert not key[source, :, length:].isnan().any()


def test_a_regular_layout_needs_no_grid() -> None:
    layout = Layout.regular(3, 2, torch.device("cpu"))
    assert layout.source.tolist() == [0, 0, 1, 1, 2, 2]
    assert layout.slot is None
    still, left = layout.select(torch.tensor([1, 0, 4, 4, 3, 2]))
    assert left is None
    assert still.slot is not None  # rows 4 4 belong to source 2, and stand before those of source 1
    gone, left = layout.select(torch.tensor([0, 0, 5, 4]))
    assert left.tolist() == [0, 2]
    assert (gone.source.tolist(), gone.width, gone.slot) == ([0, 0, 1, 1], 2, None)


def test_an_empty_cache_holds_nothing_and_an_added_position_is_found() -> None:
    cache = SelfCache.empty(2, 3, 4, like=torch.zeros(1, dtype=torch.float64))
    keys = torch.randn(40, 2, 3, 4, dtype=torch.float64)
    for count, key in enumerate(keys, 1):
        found_keys, found_values = cache.append(torch.stack([key, -key], dim=1))
        assert found_keys.shape == (2, 3, count, 4)
    assert cache.pairs.shape[3] == 46
    assert torch.equal(found_keys, torch.stack(list(keys), dim=2))
    assert torch.equal(found_values, -found_keys)


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(POLICIES))
def test_lanes_grow_beyond_their_blocks(kind: str) -> None:
    """A beam search of 70 positions over four sources, of which one ends midway; then rows that no beam search would keep."""
    policy, fresh = POLICIES[kind], Fresh(POLICIES[kind], 3)
    state, start = policy.start(SOURCES, 3)
    policy.step(state, start)
    generator = torch.Generator().manual_seed(5)
    for position in range(70):
        tokens = torch.randint(4, 19, (state.rows,), generator=generator)
        torch.testing.assert_close(policy.step(state, tokens), fresh.step(tokens.tolist()), **CLOSE)
        sources = state.rows // 3
        left = [0, 1, 3] if position == 40 else range(sources)
        parents = torch.randint(0, 3, (len(left), 3), generator=generator)
        rows = (torch.tensor(list(left))[:, None] * 3 + parents).flatten()
        if position == 66:
            rows = torch.tensor([8, 0, 5, 5])
        if position > 66:
            rows = torch.arange(state.rows)
        state = state.select(rows)
        fresh.select(rows.tolist())
        assert (state.lanes is None) == (position >= 66)


@torch.no_grad()
def test_a_reordered_beam_stays_where_it_was_written() -> None:
    policy = POLICIES["sinusoidal"]
    state, tokens = policy.start(SOURCES, 3)
    policy.step(state, tokens)
    state = state.select(torch.tensor([0, 0, 0, 5, 4, 3, 6, 7, 8, 9, 9, 10]))
    places = [cache.pairs.data_ptr() for cache in state.caches]
    policy.step(state, tokens)
    state = state.select(torch.tensor([2, 1, 0, 3, 3, 4, 8, 8, 8, 11, 10, 9]))
    assert places == [cache.pairs.data_ptr() for cache in state.caches]
    assert state.lanes.ancestors[0].tolist() == [[0, 2], [0, 1], [0, 0]]
    assert state.lanes.ancestors[1].tolist() == [[2, 0], [2, 0], [1, 1]]
    policy.step(state, tokens)
    state = state.select(torch.arange(12))  # nothing moves, and nothing is taken apart
    assert places == [cache.pairs.data_ptr() for cache in state.caches]
    assert state.lanes.ancestors[0].tolist() == [[0, 2, 0], [0, 1, 1], [0, 0, 2]]


@torch.no_grad()
def test_rows_that_are_not_reordered_need_no_lanes() -> None:
    policy = POLICIES["sinusoidal"]
    for copies, rows in [(3, range(12)), (3, [0, 1, 2, 9, 10, 11]), (1, [3, 1]), (3, [0, 3, 5]), (3, [3, 4, 5, 0, 1, 1])]:
        state, tokens = policy.start(SOURCES, copies)
        policy.step(state, tokens)
        assert state.select(torch.tensor(list(rows))).lanes is None


def test_steps_with_gradients_keep_a_cache_for_each_row() -> None:
    policy = POLICIES["sinusoidal"]
    state, tokens = policy.start(SOURCES, 2)
    policy.step(state, tokens)
    state = state.select(torch.tensor([0, 0, 3, 2, 4, 5, 6, 6]))
    assert state.lanes is None
    policy.step(state, tokens)[policy.allowed.expand(8, -1)].sum().backward()
