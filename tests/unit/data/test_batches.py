from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from guerdon.data import Batch, BatchOptions, TokenBudgetSampler, Tokenizer, plan_batches, source_batches
from guerdon.data.batches import batches
from guerdon.errors import ConfigurationError, DataError, InputError

LENGTHS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60)
SEED = st.integers(0, 2**32)


def some_lengths(n: int, seed: int = 0) -> tuple[list[int], list[int]]:
    generator = np.random.default_rng(seed)
    return generator.integers(1, 60, n).tolist(), generator.integers(1, 40, n).tolist()


def some_ids(n: int) -> tuple[list[list[int]], list[list[int]]]:
    """Rows that tell which example and side they are."""
    sources, targets = some_lengths(n)
    return [[1000 + i] * length for i, length in enumerate(sources)], [[5000 + i] * length for i, length in enumerate(targets)]


def plain(item: tuple[int, int, Batch]) -> tuple[Any, ...]:
    step, epoch, batch = item
    return step, epoch, batch.indices, batch.sources.ids.tolist(), batch.targets.ids.tolist()


def taken(stream: Iterator[tuple[int, int, Batch]], n: int) -> list[tuple[Any, ...]]:
    return [plain(item) for item in islice(stream, n)]


@given(LENGTHS, st.integers(60, 400), SEED, st.integers(0, 5), st.none() | st.integers(1, 5))
def test_every_example_once_and_the_budget_kept(
    pairs: list[tuple[int, int]], budget: int, seed: int, epoch: int, rows: int | None
):
    sources, targets = zip(*pairs, strict=True)
    plan = plan_batches(sources, targets, budget, seed, epoch, rows)
    assert sorted(index for batch in plan for index in batch) == list(range(len(pairs)))
    for batch in plan:
        longest = max(1, *(sources[i] for i in batch)), max(1, *(targets[i] for i in batch))
        assert 0 < len(batch) * sum(longest) <= budget
        assert rows is None or len(batch) <= rows


@given(LENGTHS, SEED)
def test_the_plan_is_a_function_of_data_seed_and_epoch(pairs: list[tuple[int, int]], seed: int) -> None:
    sources, targets = zip(*pairs, strict=True)
    plan = plan_batches(sources, targets, 200, seed, 3)
    np.random.seed(1)
    torch.manual_seed(1)
    assert plan_batches(list(sources), np.array(targets), 200, seed, 3) == plan  # type: ignore[arg-type]


def test_seeds_and_epochs_differ() -> None:
    lengths = some_lengths(300)
    plans = [plan_batches(*lengths, 500, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])


def test_company_changes_from_epoch_to_epoch() -> None:
    """Equal lengths leave the order free: who shares a batch with example 0 is then uniform over the others."""
    n, epochs = 41, 4000
    company: Counter[int] = Counter()
    for epoch in range(epochs):
        batch = next(batch for batch in plan_batches([10] * n, [10] * n, 20 * 4, 0, epoch) if 0 in batch)
        company.update(set(batch) - {0})
    assert stats.chisquare([company[i] for i in range(1, n)]).pvalue > 1e-3


def test_batches_of_one_length_do_not_come_in_order_of_length() -> None:
    sources, targets = some_lengths(2000)
    means = [np.mean([sources[i] for i in batch]) for batch in plan_batches(sources, targets, 1000, 0, 0)]
    assert abs(stats.spearmanr(means, range(len(means))).statistic) < 4 / len(means) ** 0.5


@pytest.mark.parametrize(("sources", "targets"), [([10, 90, 30], [10, 11, 60]), ([101], [0])])
def test_an_example_beyond_the_budget_is_named(sources: list[int], targets: list[int]) -> None:
    where = sources.index(max(sources))
    size = sources[where] + max(1, targets[where])
    said = rf"example {where}: it has {size} tokens \(source {sources[where]}, .*; raise max_tokens to {size}"
    with pytest.raises(DataError, match=said):
        plan_batches(sources, targets, 100, 0, 0)
    assert plan_batches(sources, targets, size, 0, 0)
    with pytest.raises(DataError, match=said):
        batches([[5] * n for n in sources], [[5] * n for n in targets], BatchOptions(max_tokens=100), 0)


def test_data_that_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="no examples"):
        plan_batches([], [], 100, 0, 0)
    with pytest.raises(InputError, match="2 sources for 1 targets; pass one target per source"):
        plan_batches([1, 2], [1], 100, 0, 0)
    with pytest.raises(DataError, match="no examples"):
        batches([], [], BatchOptions(), 0)
    with pytest.raises(ConfigurationError, match="start_step: -1 is negative"):
        batches([[5]], [[5]], BatchOptions(), 0, start_step=-1)


@pytest.mark.parametrize(("name", "value"), [("max_tokens", 0), ("max_tokens", -5), ("max_rows", 0)])
def test_options_are_checked(name: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: {value} is below 1"):
        BatchOptions(**{name: value})


def test_steps_count_over_epochs_and_rectangles_hold_the_rows() -> None:
    sources, targets = some_ids(50)
    seen: dict[int, Counter[int]] = {}
    for expected, (step, epoch, batch) in enumerate(batches(sources, targets, BatchOptions(max_tokens=400), seed=3)):
        if epoch == 3:
            break
        assert step == expected
        seen.setdefault(epoch, Counter()).update(batch.indices)
        assert batch.sources.to_lists() == [sources[i] for i in batch.indices]
        assert batch.targets.to_lists() == [targets[i] for i in batch.indices]
        assert batch.sources.ids.numel() + batch.targets.ids.numel() <= 400
        assert all(type(index) is int for index in batch.indices)
    assert list(seen) == [0, 1, 2]
    assert all(counts == Counter(range(50)) for counts in seen.values())


@pytest.mark.parametrize("start", [0, 1, 5, 13, 14, 40, 77])
def test_a_resumed_run_sees_the_tail(start: int) -> None:
    sources, targets = some_ids(50)
    options = BatchOptions(max_tokens=300, max_rows=7)
    whole = taken(batches(sources, targets, options, seed=3), 90)
    assert taken(batches(sources, targets, options, seed=3, start_step=start), 90 - start) == whole[start:]


def test_batches_are_the_plan() -> None:
    sources, targets = some_ids(50)
    lengths = [len(ids) for ids in sources], [len(ids) for ids in targets]
    plan = [plan_batches(*lengths, 300, 9, epoch) for epoch in range(2)]
    expected = [(epoch, batch) for epoch, epoch_plan in enumerate(plan) for batch in epoch_plan]
    stream = batches(sources, targets, BatchOptions(max_tokens=300), seed=9)
    assert [(epoch, list(batch.indices)) for _, epoch, batch in islice(stream, len(expected))] == expected
    sampler = TokenBudgetSampler(*lengths, BatchOptions(max_tokens=300), seed=9)
    assert [(epoch, batch) for _, epoch, batch in islice(sampler, len(expected))] == expected
    assert next(iter(sampler)) == next(iter(sampler))


def test_the_sampler_works_in_any_loader() -> None:
    """As torch's own batch sampler: a loader with workers hands over the same plan."""
    sampler = TokenBudgetSampler(*some_lengths(30), BatchOptions(max_tokens=300), seed=9, start_step=4)
    loader = torch.utils.data.DataLoader(Echo(), sampler=sampler, batch_size=None, num_workers=0, collate_fn=lambda item: item)
    assert list(islice(loader, 12)) == list(islice(sampler, 12))


class Echo(torch.utils.data.Dataset[Any]):
    def __getitem__(self, plan: Any) -> Any:
        return plan


def test_no_global_random_state_is_read_or_changed() -> None:
    sources, targets = some_ids(30)
    torch.manual_seed(7)
    np.random.seed(7)
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = taken(batches(sources, targets, BatchOptions(max_tokens=300), seed=1), 20)
    list(islice(source_batches(30, 4, seed=1), 20))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == legacy  # type: ignore[index]
    torch.manual_seed(8)
    assert taken(batches(sources, targets, BatchOptions(max_tokens=300), seed=1), 20) == first


def test_little_padding_on_real_texts(e2e_pairs: list[tuple[str, str]], e2e_tokenizer: Tokenizer) -> None:
    sources = [len(ids) for ids in e2e_tokenizer.encode_batch([source for source, _ in e2e_pairs])]
    targets = [len(ids) + 1 for ids in e2e_tokenizer.encode_batch([target for _, target in e2e_pairs])]
    for epoch in range(2):
        plan = plan_batches(sources, targets, 4096, 1, epoch)
        sizes = [len(b) * (max(sources[i] for i in b) + max(targets[i] for i in b)) for b in plan]
        assert max(sizes) <= 4096
        assert 1 - (sum(sources) + sum(targets)) / sum(sizes) < 0.06
        assert len(plan) < 1.1 * (sum(sources) + sum(targets)) / 4096


@given(st.integers(1, 40), st.integers(1, 40), SEED)
def test_sources_once_an_epoch_and_never_twice_a_step(count: int, size: int, seed: int) -> None:
    assume(size <= count)
    steps = 4 * count // size + 4
    run = list(islice(source_batches(count, size, seed), steps))
    assert [step for step, _, _ in run] == list(range(steps))
    assert all(len(set(sources)) == len(sources) == size for _, _, sources in run)
    flat = [source for _, _, sources in run for source in sources]
    for epoch in range(len(flat) // count):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert [epoch for _, epoch, _ in run] == [step * size // count for step in range(steps)]


@given(st.integers(1, 30), st.integers(1, 30), SEED, st.integers(0, 50))
def test_sources_resume_anywhere(count: int, size: int, seed: int, start: int) -> None:
    assume(size <= count)
    whole = list(islice(source_batches(count, size, seed), start + 10))
    assert list(islice(source_batches(count, size, seed, start), 10)) == whole[start:]


def test_sources_are_permuted_anew_and_uniformly() -> None:
    first = [next(source_batches(6, 6, seed))[2] for seed in range(3000)]
    places = np.array([[order.index(source) for source in range(6)] for order in first])
    table = np.array([np.bincount(places[:, source], minlength=6) for source in range(6)])
    assert stats.chisquare(table.ravel()).pvalue > 1e-3
    epochs = [tuple(sources) for _, _, sources in islice(source_batches(20, 20, 0), 10)]
    assert len(set(epochs)) == 10


@pytest.mark.parametrize(("count", "size"), [(0, 1), (5, 6), (5, 0), (5, -1)])
def test_impossible_sources_per_step(count: int, size: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"sources_per_step: {size} of {count} sources"):
        source_batches(count, size, 0)
    with pytest.raises(ConfigurationError, match="start_step"):
        source_batches(5, 2, 0, start_step=-3)
