"""What the peers' baselines are built of: a slip here would make the comparison unfair."""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def marian() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        import marian
    finally:
        sys.path.remove(str(FOLDER))
    return marian


LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=60)


@given(LENGTHS, st.integers(0, 5))
def test_an_epoch_holds_each_pair_once_within_the_budget(marian: ModuleType, lengths: list[tuple[int, int]], seed: int) -> None:
    pairs = [marian.Pair([5] * source, [6] * target) for source, target in lengths]
    batches = marian.batches_of(pairs, 100, random.Random(seed))
    assert sorted(at for batch in batches for at in batch) == list(range(len(pairs)))
    for batch in batches:
        longest = max(len(pairs[at].source) for at in batch) + max(len(pairs[at].target) for at in batch)
        assert len(batch) * longest <= 100
    # Batches are as full as the order allows: two neighbours of one length never stand apart for no reason.
    if len(set(lengths)) == 1:
        assert len(batches) == -(-len(pairs) // (100 // sum(lengths[0])))


def test_targets_are_shifted_by_the_start_token(marian: ModuleType) -> None:
    special = marian.Special(pad=0, start=1, end=2)
    batch = marian.collate([marian.Pair([7, 8, 2], [9, 2]), marian.Pair([7, 2], [5, 6, 2])], special)
    assert batch["input_ids"].tolist() == [[7, 8, 2], [7, 2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["decoder_input_ids"].tolist() == [[1, 9, 0], [1, 5, 6]]
    assert batch["labels"].tolist() == [[9, 2, -100], [5, 6, 2]]


def test_outputs_end_at_the_end_token(marian: ModuleType) -> None:
    special = marian.Special(pad=0, start=1, end=2)
    assert list(marian.without([1, 5, 6, 2, 7, 0], special)) == [5, 6]
    assert list(marian.without([1, 5, 6], special)) == [5, 6]


def test_bleu_takes_every_reference_and_the_case_asked_for(marian: ModuleType) -> None:
    outputs = ["The cat sat on the mat today", "a dog barks loudly at night"]
    references = [["Nothing alike at all", "the cat sat on the mat today"], ["A dog barks loudly at night"]]
    assert marian.bleu(outputs, references, lowercase=True) == pytest.approx(100.0)
    assert marian.bleu(outputs, references, lowercase=False) < 95.0
    assert marian.chrf(outputs, [["the cat sat on the mat today"], references[1]]) > 90.0


def test_decoding_keeps_the_order_of_the_sources(marian: ModuleType) -> None:
    torch.manual_seed(5)  # weights with which each source has an output of its own
    special = marian.Special(pad=0, start=1, end=2)
    options = Namespace(width=16, layers=1, feedforward=32, heads=2, dropout=0.0, max_target=6)
    model = marian.model_of(options, 20, special)
    for parameter in model.parameters():
        if parameter.ndim == 2 and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=1.0)
    assert model.lm_head.weight is model.model.shared.weight
    sources = [[5, 6, 7, 8, 2], [9, 2], [4, 5, 2], [11, 12, 13, 2]]
    together = marian.decode(model, sources, special, 4, 1)
    assert together == [marian.decode(model, [source], special, 1, 1)[0] for source in sources]
    assert len({tuple(row) for row in together}) == len(sources)
