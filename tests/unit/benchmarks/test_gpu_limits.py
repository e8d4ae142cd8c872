"""What `benchmarks/gpu_limits.py` divides by, counted by hand."""

from __future__ import annotations

from types import ModuleType

import pytest
from helpers.scripts import imported

from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer

WIDTH, INNER, VOCABULARY, BEFORE, AFTER = 8, 20, 50, 3, 2


@pytest.fixture(scope="module")
def limits() -> ModuleType:
    return imported("gpu_limits")


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_for_the_positions_that_they_multiply(limits: ModuleType, tied: bool) -> None:
    options = TransformerOptions(VOCABULARY, WIDTH, 2, BEFORE, AFTER, INNER, tied_embeddings=tied, positions="learned")
    square, ahead = WIDTH**2, 2 * WIDTH * INNER
    of_sources = BEFORE * (4 * square + ahead) + AFTER * 2 * square  # and the keys and values that the decoder reads
    of_targets = AFTER * (4 * square + 2 * square + ahead) + VOCABULARY * WIDTH
    assert limits.weights_of(Transformer(options)) == (of_sources, of_targets)


def test_a_position_reads_weights_once_and_the_cache_of_each_row(limits: ModuleType) -> None:
    policy = Transformer(TransformerOptions(VOCABULARY, WIDTH, 2, BEFORE, AFTER, INNER))
    none, ten = (limits.bytes_of_a_position(policy, written) for written in (0, 10))
    assert none == 2 * limits.weights_of(policy)[1] + 2 * 2 * AFTER * WIDTH * limits.SOURCE * limits.ROWS
    assert ten - none == 10 * limits.ROWS * 2 * AFTER * WIDTH * 2  # keys and values of two bytes a number
