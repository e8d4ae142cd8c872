"""Sample groups dealt out to the cores come back row by row as they were."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_policies import random_rows, tiny_policy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.training.rollouts import MicroBatch, dealt


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 4))
def test_rows_come_back_in_their_order(lengths: list[int], copies: int) -> None:
    targets = Padded.from_lists(
        [[10 * row + t for t in range(1 + (row * 7 + n) % 9)] for row, n in enumerate(lengths * copies)]
    )
    of_source = torch.arange(len(targets)) // copies
    part = MicroBatch(torch.arange(len(targets)), random_rows(lengths), targets, of_source)
    seen = list[int]()

    def look(share: MicroBatch) -> list[Tensor]:
        seen.append(len(share.rows))
        assert torch.equal(share.sources.lengths[share.of_source], part.sources.lengths[of_source[share.rows]])
        return [share.targets.ids.masked_fill(~share.targets.mask, 0).double()]

    policy, threads = tiny_policy(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("guerdon.models.together._LEAST", 2)
            (found,) = dealt(policy, policy, part, look)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found, targets.ids.masked_fill(~targets.mask, 0).double())
    assert sum(seen) == len(targets)
    assert len(seen) == max(1, min(3, len(lengths), targets.tokens() // 2))
