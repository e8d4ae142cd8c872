"""The largest of many columns: as sorting by (-value, column) finds them, whatever ties and wherever blocks end."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from guerdon.decoding import largest as module
from guerdon.decoding.largest import BLOCK, most_probable, top_by_keys, top_candidates

# what a GPU does knows float32 only
WAYS = pytest.mark.parametrize(("way", "kind"), [(top_candidates, torch.float64), (top_by_keys, torch.float32)])
Way = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


@given(
    st.integers(1, 5).flatmap(
        lambda rows: st.sampled_from([1, 2, 63, 64, 65, 128, 130]).flatmap(
            lambda size: st.lists(st.integers(-2, 2), min_size=rows * size, max_size=rows * size).map(
                lambda values: torch.tensor(values, dtype=torch.float32).view(rows, size)
            )
        )
    )
)
@example(torch.full((2, 70), -math.inf))
def test_the_most_probable_token_is_the_lowest_of_the_largest(scores: torch.Tensor) -> None:
    assert most_probable(scores).tolist() == [row.index(max(row)) for row in scores.tolist()]


def test_the_most_probable_token_of_a_broken_row_is_the_broken_one() -> None:
    scores = torch.zeros(2, 150)
    scores[0, 140], scores[1, 3] = math.nan, math.nan
    assert most_probable(scores).tolist() == [140, 3]


def by_sorting(row: list[float], count: int) -> list[int]:
    return sorted(range(len(row)), key=lambda column: (-row[column], column))[:count]


@WAYS
@pytest.mark.parametrize("size", [90, 30 * BLOCK, 30 * BLOCK + 1, 31 * BLOCK - 1])
@pytest.mark.parametrize("levels", [2, 6, 40, 100000])
def test_top_candidates_break_ties_by_column(levels: int, size: int, way: Way, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(levels)
    totals = torch.randint(0, levels, (100, size), generator=generator).to(kind)
    totals[::7] = -math.inf
    totals[3, 5:] = -math.inf  # fewer than are asked for
    values, columns = way(totals[:, None], torch.zeros(100, 1, dtype=kind), 10)
    for row, (value, column) in enumerate(zip(values.tolist(), columns.tolist(), strict=True)):
        expected = by_sorting(totals[row].tolist(), 10)
        assert value == [totals[row, c].item() for c in expected]
        finite = sum(math.isfinite(one) for one in value)
        assert column[:finite] == expected[:finite]
        assert len(set(column)) == 10
        assert all(0 <= one < size for one in column)


@WAYS
@given(placed=st.lists(st.tuples(st.integers(0, 20 * BLOCK + 6), st.integers(0, 3)), max_size=40), count=st.integers(1, 4))
@example(placed=[(640, 1), (641, 1), (1286, 1)], count=2)  # in one block, and behind the last whole one
@example(placed=[(0, 2), (64, 1), (128, 1), (192, 1)], count=2)  # more blocks hold the last candidate than are looked at
def test_candidates_among_equals(placed: list[tuple[int, int]], count: int, way: Way, kind: torch.dtype) -> None:
    totals = torch.full((1, 20 * BLOCK + 7), -1.0, dtype=kind)
    for column, value in placed:
        totals[0, column] = float(value)
    values, columns = way(totals[:, None], torch.zeros(1, 1, dtype=kind), count)
    assert columns[0].tolist() == by_sorting(totals[0].tolist(), count)
    assert values[0].tolist() == [totals[0, column].item() for column in columns[0].tolist()]


@WAYS
@pytest.mark.parametrize("size", [7, 4 * BLOCK, 12 * BLOCK, 12 * BLOCK + 5])
@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("levels", [10, 1_000_000])
def test_candidates_of_several_rows_are_those_of_the_sums(
    rows: int, size: int, levels: int, way: Way, kind: torch.dtype
) -> None:
    """With few levels sums tie within a row, between rows, and at the edge, with many hardly; a dead row has a base of -inf."""
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(-levels, 1, (60, rows, size), generator=generator).to(kind) * 10 / levels
    scores[::5, :, 1:3] = -math.inf
    bases = torch.randint(-4, 1, (60, rows), generator=generator).to(kind)
    bases[::3, 1:] = -math.inf
    count = min(6, rows * size)
    values, columns = way(scores, bases, count)
    every = (scores + bases[..., None]).flatten(1).tolist()
    for row, value, column in zip(every, values.tolist(), columns.tolist(), strict=True):
        expected = by_sorting(row, count)
        assert value == [row[c] for c in expected]
        finite = sum(math.isfinite(one) for one in value)
        assert column[:finite] == expected[:finite]


def test_few_columns_are_left_to_torch_and_many_are_not() -> None:
    assert module._eligible(torch.zeros(2, 1, 10 * BLOCK), torch.zeros(2, 1), 5) is None
    found = module._eligible(torch.arange(11.0 * BLOCK).flip(0).repeat(2, 1, 1), torch.zeros(2, 1), 5)
    assert found is not None
    assert sorted(found[0].tolist()) == list(range(5 * BLOCK))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9))
@example([0.0, -0.0, 0.0])
@example([-math.inf, math.inf, 1e-45, -1e-45])
def test_keys_rank_as_numbers_do(numbers: list[float]) -> None:
    keys = module._keys(torch.tensor([numbers]))[0].tolist()
    assert sorted(range(len(numbers)), key=lambda place: -keys[place]) == by_sorting(numbers, len(numbers))
