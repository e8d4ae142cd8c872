import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guerdon.data import Padded

ROWS = st.lists(st.lists(st.integers(0, 2**40), max_size=9), max_size=7)


@given(ROWS, st.integers(0, 5))
def test_lists_come_back(rows: list[list[int]], pad: int) -> None:
    padded = Padded.from_lists(rows, pad=pad)
    assert padded.to_lists() == rows
    assert len(padded) == len(rows)
    assert padded.ids.dtype == padded.lengths.dtype == torch.int64
    assert padded.ids.shape == (len(rows), max([1, *map(len, rows)]))
    assert padded.tokens() == len([token for row in rows for token in row])


@given(ROWS)
def test_mask_is_true_where_a_position_counts(rows: list[list[int]]) -> None:
    padded = Padded.from_lists(rows, pad=-7)
    expected = np.zeros(padded.ids.shape, dtype=bool)
    for row, ids in enumerate(rows):
        expected[row, : len(ids)] = True
    assert np.array_equal(padded.mask.numpy(), expected)
    assert bool((padded.ids[~padded.mask] == -7).all())


@given(ROWS.filter(bool), st.data())
def test_select_cuts_to_the_longest(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    selected = Padded.from_lists(rows).select(torch.tensor(chosen, dtype=torch.int64))
    assert selected.to_lists() == [rows[row] for row in chosen]
    assert selected.ids.shape[1] == max([1, *(len(rows[row]) for row in chosen)])


def test_to_moves_both() -> None:
    moved = Padded.from_lists([[1, 2], [3]]).to("meta")
    assert moved.ids.device.type == moved.lengths.device.type == "meta"


def test_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Padded.from_lists([[1]]).ids = torch.zeros(1, 1)  # type: ignore[misc]
