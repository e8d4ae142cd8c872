"""Sampling against exact distributions; its filters against float64 loops; its independence of the batch."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.table_policy import END, PAD, Ids, TablePolicy, log_probs, probability_table, random_table, sequences
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.decoding import Samples, SamplingOptions, greedy, sample
from guerdon.decoding.choosing import filter_logits, inverse_cdf
from guerdon.errors import ConfigurationError, GuerdonError, InputError

A, B, C = 3, 4, 5
PLAIN = SamplingOptions()


def keys_of(sources: int, copies: int = 1, seed: int = 0) -> torch.Tensor:
    examples = torch.arange(sources).repeat_interleave(copies)
    return row_keys(seed, "sample", 0, examples, torch.arange(copies).repeat(sources))


def draw(policy, sources, limits, options=PLAIN, copies=1, prefixes=None, seed=0) -> Samples:
    forced = None if prefixes is None else Padded.from_lists(prefixes)
    keys = keys_of(len(sources), copies, seed)
    return sample(policy, Padded.from_lists(sources), torch.tensor(limits), options, keys, copies, forced)


def filtered(probabilities: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """The definition of the filters, token by token, in transformers' order."""
    p = probabilities ** (1.0 / options.temperature)
    p = p / p.sum()
    if options.top_k:
        kth = sorted(p, reverse=True)[min(options.top_k, len(p)) - 1]
        p = np.array([x if x >= kth else 0.0 for x in p])
        p = p / p.sum()
    if options.top_p < 1.0:
        reached, kept = 0.0, set()
        for token in sorted(range(len(p)), key=lambda t: (-p[t], t)):
            if reached >= options.top_p:
                break
            kept.add(token)
            reached += p[token]
        p = np.array([x if t in kept else 0.0 for t, x in enumerate(p)])
        p = p / p.sum()
    if options.min_p:
        floor = options.min_p * max(p)
        p = np.array([x if x >= floor else 0.0 for x in p])
    return p / p.sum()


# --- the distribution

HAND_MADE = {
    (): [0.1, 0.6, 0.3],
    (A,): [0.5, 0.2, 0.3],
    (B,): [0.25, 0.25, 0.5],
    (A, A): [0.0, 1.0, 0.0],
    (B, B): [0.9, 0.1, 0.0],
}


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        SamplingOptions(temperature=0.7),
        SamplingOptions(temperature=2.0),
        SamplingOptions(top_k=2),
        SamplingOptions(top_p=0.65),
        SamplingOptions(min_p=0.45),
        SamplingOptions(temperature=1.5, top_k=2, top_p=0.9, min_p=0.1),
    ],
)
def test_sampled_outputs_have_their_exact_frequencies(options: SamplingOptions) -> None:
    policy, limit, n = TablePolicy(probability_table(HAND_MADE), 2), 3, 8000
    drawn = draw(policy, [[7]], [limit], options, copies=n)
    counts = Counter(zip(map(tuple, drawn.without_end()), drawn.finished.tolist(), strict=True))
    expected = {}
    for tokens, finished in sequences(2, limit):
        whole = (*tokens, END) if finished else tokens
        steps = [filtered(np.exp(log_probs(policy, (7,), whole[:i])), options)[token] for i, token in enumerate(whole)]
        expected[tokens, finished] = n * math.prod(steps)
    assert all(expected[one] > 0.0 for one in counts)
    possible = [one for one in expected if expected[one] > 0.0]
    result = stats.chisquare([counts[one] for one in possible], [expected[one] for one in possible])
    assert result.pvalue > 1e-3


def test_the_frequencies_test_can_fail() -> None:
    counts = np.bincount(
        inverse_cdf(torch.full((8000, 4), 0.25), torch.rand(8000, generator=torch.Generator()).double() ** 1.1)
    )
    assert stats.chisquare(counts).pvalue < 1e-3


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(st.integers(-6, 6), min_size=1, max_size=12),
    scale=st.sampled_from([0.31, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.1, 0.377, 0.9137, 1.0]),
    min_p=st.sampled_from([0.0, 0.0713, 0.513, 1.0]),
)
@example(logits=[1, 1, 1, 0], scale=1.0, temperature=1.0, top_k=2, top_p=1.0, min_p=0.0)  # three tie for two places
@example(logits=[1, 1, 1, 0], scale=1.0, temperature=1.0, top_k=0, top_p=0.377, min_p=0.0)  # two of the three are enough
def test_the_filters_are_their_definition(logits, scale, temperature, top_k, top_p, min_p) -> None:
    options = SamplingOptions(temperature, top_k, top_p, min_p)
    scores = scale * torch.tensor([logits], dtype=torch.float64)
    before = scores.clone()
    found = torch.softmax(filter_logits(scores, options), -1)[0].numpy()
    np.testing.assert_allclose(found, filtered(np.exp(scale * np.array(logits, dtype=float)), options), rtol=1e-12)
    assert torch.equal(scores, before)


def test_top_p_keeps_the_token_that_crosses() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = {p: torch.isfinite(filter_logits(logits, SamplingOptions(top_p=p)))[0].tolist() for p in (0.01, 0.6, 0.9, 0.96)}
    assert kept[0.01] == [True, False, False, False]
    assert kept[0.6] == [True, True, False, False]
    assert kept[0.9] == [True, True, True, False]
    assert kept[0.96] == [True, True, True, True]


def test_top_p_that_is_reached_exactly_keeps_no_further_token() -> None:
    """Equal logits give halves and quarters, which floats hold exactly; of equals those of lower id stay."""
    halves, quarters = torch.zeros(1, 2), torch.zeros(1, 4)
    assert torch.isfinite(filter_logits(halves, SamplingOptions(top_p=0.5)))[0].tolist() == [True, False]
    assert torch.isfinite(filter_logits(quarters, SamplingOptions(top_p=0.5)))[0].tolist() == [True, True, False, False]


# --- inverting the cumulative distribution


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-8, 0.1, 0.25, 1.0]), min_size=1, max_size=9).filter(lambda w: any(w)),
    uniform=st.floats(2.0**-54, 1.0),
)
def test_a_draw_inverts_the_cumulative_distribution(weights: list[float], uniform: float) -> None:
    p = torch.tensor([weights]) / sum(weights)
    token = int(inverse_cdf(p, torch.tensor([uniform], dtype=torch.float64)))
    assert p[0, token] > 0.0
    sums = np.cumsum(p[0].numpy().astype(np.float64))
    assert uniform * sums[-1] <= sums[token] * (1 + 1e-15)
    assert token == 0 or uniform * sums[-1] >= sums[token - 1] * (1 - 1e-15)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 128, 200, 1000])
def test_it_is_inverted_over_many_tokens(size: int) -> None:
    """Tokens are found by blocks: wherever in a block, and in a last one that is short, against one running sum in float64."""
    generator = torch.Generator().manual_seed(size)
    p = torch.softmax(3 * torch.randn(2000, size, generator=generator), -1)
    uniform = 1 - torch.rand(2000, generator=generator, dtype=torch.float64)
    sums = np.cumsum(p.numpy().astype(np.float64), axis=1)
    goals = uniform.numpy() * sums[:, -1]
    wanted = [int(np.searchsorted(row, goal)) for row, goal in zip(sums, goals, strict=True)]
    near = np.abs(sums - goals[:, None]).min(1) < 1e-6  # of float32's rounding: either neighbour is right
    found = inverse_cdf(p, uniform).numpy()
    assert near.mean() < 0.05
    assert (found == wanted)[~near].all()
    assert (np.abs(found - wanted) <= 1)[near].all()


@pytest.mark.parametrize("uniform", [2.0**-54, 2.0**-53, 0.5, 1.0 - 2.0**-53, 1.0])
def test_no_rounding_draws_a_token_of_probability_zero(uniform: float) -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(64, 5000, generator=generator)
    p[:, :100] = p[:, -100:] = 0.0
    p = torch.where(torch.rand(p.shape, generator=generator) < 0.5, 0.0, p)
    p = p / p.sum(1, keepdim=True)  # in float32, where the total is not exactly 1
    tokens = inverse_cdf(p, torch.full((64,), uniform, dtype=torch.float64))
    assert bool((p.gather(1, tokens[:, None]) > 0).all())


# --- what comes back


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.6, 1.0, 1.8]),
    limits=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_log_probs_are_what_evaluate_says(seed: int, temperature: float, limits: list[int]) -> None:
    policy = TablePolicy(random_table(seed, 4), 4)
    sources = [[3 + i] * (1 + i % 3) for i in range(len(limits))]
    drawn = draw(policy, sources, limits, SamplingOptions(temperature), copies=3, seed=seed)
    repeated = Padded.from_lists([source for source in sources for _ in range(3)])
    evaluated = policy.evaluate(repeated, drawn.tokens, temperature=temperature)
    torch.testing.assert_close(drawn.log_prob, evaluated.log_prob, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), limits=st.lists(st.integers(1, 6), min_size=1, max_size=4), copies=st.integers(1, 3))
def test_samples_are_sound(seed: int, limits: list[int], copies: int) -> None:
    policy = TablePolicy(random_table(seed, 3), 3)
    drawn = draw(policy, [[3 + i] for i in range(len(limits))], limits, copies=copies, seed=seed)
    assert drawn.tokens.ids.shape == drawn.log_prob.shape == (len(limits) * copies, int(drawn.tokens.lengths.max()))
    for row, (tokens, finished) in enumerate(zip(drawn.tokens.to_lists(), drawn.finished.tolist(), strict=True)):
        assert (tokens[-1] == END) is finished
        assert END not in tokens[:-1]
        assert len(tokens) <= limits[row // copies]
        assert finished or len(tokens) == limits[row // copies]
        assert drawn.without_end()[row] == (tokens[:-1] if finished else tokens)
    assert set(drawn.tokens.ids[~drawn.tokens.mask].tolist()) <= {PAD}
    assert bool((drawn.log_prob[~drawn.tokens.mask] == 0.0).all())


def test_float32_policies_give_float32_log_probs() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert draw(TablePolicy(random_table(0, 3), 3, dtype=dtype), [[3]], [4]).log_prob.dtype == torch.float32


# --- independence of the batch


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(5)), kept=st.integers(1, 5))
def test_a_sample_depends_on_its_key_alone(seed: int, order: list[int], kept: int) -> None:
    policy = TablePolicy(random_table(seed, 4), 4)
    sources, limits, keys = [[3], [4, 4], [5], [3], [6, 3]], torch.tensor([3, 9, 6, 9, 2]), keys_of(5, seed=seed)
    whole = sample(policy, Padded.from_lists(sources), limits, PLAIN, keys)
    chosen = torch.tensor(order[:kept])
    part = sample(policy, Padded.from_lists(sources).select(chosen), limits[chosen], PLAIN, keys[chosen])
    assert part.tokens.to_lists() == [whole.tokens.to_lists()[i] for i in chosen.tolist()]
    width = part.log_prob.shape[1]
    assert torch.equal(part.log_prob, whole.log_prob[chosen, :width])


def test_copies_differ_and_keys_repeat() -> None:
    policy = TablePolicy(random_table(1, 6), 6)
    first, again, other = (draw(policy, [[3]], [8], copies=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.tokens.ids, again.tokens.ids)
    assert len({tuple(row) for row in first.tokens.to_lists()}) > 10
    assert first.tokens.to_lists() != other.tokens.to_lists()


def test_finished_rows_leave_when_it_is_worthwhile() -> None:
    # source n goes on for n tokens: 8 rows, of which one ends at each position
    policy = TablePolicy(lambda source, written: [0.0, -math.inf] if len(written) >= source[0] else [-math.inf, 0.0], 1)
    draw(policy, [[n] for n in range(8)], [20] * 8)
    assert policy.rows_stepped == [8, 8, 6, 6, 4, 3, 2, 1]


# --- prefixes, blocks and errors


def test_a_forced_prefix_is_kept_and_its_log_prob_is_the_policys() -> None:
    policy = TablePolicy(random_table(2, 4), 4)
    options = SamplingOptions(temperature=0.8, top_k=1)
    drawn = draw(policy, [[3], [4], [5]], [6, 6, 2], options, copies=2, prefixes=[[C, A], [], [B, B]])
    rows = drawn.tokens.to_lists()
    assert [row[:2] for row in rows[:2] + rows[4:]] == [[C, A], [C, A], [B, B], [B, B]]
    sources = Padded.from_lists([[3], [3], [4], [4], [5], [5]])
    evaluated = policy.evaluate(sources, drawn.tokens, temperature=0.8).log_prob
    torch.testing.assert_close(drawn.log_prob[:2, :2], evaluated[:2, :2])
    assert drawn.log_prob[:2, 2:].tolist() == torch.zeros(2, drawn.log_prob.shape[1] - 2).tolist()  # top-1 is certain
    torch.testing.assert_close(drawn.log_prob[4:, :2], evaluated[4:, :2])


def test_a_prefix_may_repeat_what_the_block_forbids() -> None:
    policy = TablePolicy(random_table(4, 3), 3)
    sources, prefixes, limits = Padded.from_lists([[3]]), Padded.from_lists([[A, A, A]]), torch.tensor([4])
    drawn = sample(policy, sources, limits, SamplingOptions(ngram_block=1), keys_of(1), prefixes=prefixes)
    (best,) = greedy(policy, sources, limits, prefixes, ngram_block=1)
    expected = [log_probs(policy, (3,), (A,) * i)[A] for i in range(3)]
    assert drawn.log_prob[0, :3].tolist() == pytest.approx(expected, rel=1e-12)
    assert best.tokens[:3] == (A, A, A)
    assert A not in (best.tokens[3:] + tuple(drawn.tokens.to_lists()[0][3:]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 3))
def test_blocked_ngrams_never_repeat(seed: int, size: int) -> None:
    policy = TablePolicy(random_table(seed, 3), 3)
    drawn = draw(policy, [[3], [4]], [12, 12], SamplingOptions(ngram_block=size), copies=4, seed=seed).without_end()
    for tokens in [
        *drawn,
        *(list(one.tokens) for one in greedy(policy, Padded.from_lists([[3]]), torch.tensor([12]), None, size)),
    ]:
        grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
        assert len(grams) == len(set(grams))


def test_a_block_renormalises_what_is_drawn_from() -> None:
    policy = TablePolicy(probability_table({(): [0.0, 1.0, 0.0], (A,): [0.1, 0.8, 0.1]}), 2)
    drawn = draw(policy, [[3]], [2], SamplingOptions(ngram_block=1), copies=50)
    assert {row[1] for row in drawn.tokens.to_lists()} == {END, B}
    torch.testing.assert_close(drawn.log_prob[:, 1].exp(), torch.full((50,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.nan, math.inf, "all"])
@pytest.mark.parametrize("way", ["sample", "greedy"])
def test_logits_of_no_distribution_are_an_error(bad: float | str, way: str) -> None:
    def table(source: Ids, written: Ids) -> list[float]:
        if source != (4,) or len(written) != 2:
            return [-math.inf, 0.0, 1.0]
        return [-math.inf] * 3 if bad == "all" else [0.0, bad, 1.0]

    policy, sources, limits = TablePolicy(table, 2), Padded.from_lists([[3], [4]]), torch.tensor([5, 5])
    with pytest.raises(GuerdonError, match="output 1"):
        greedy(policy, sources, limits) if way == "greedy" else sample(policy, sources, limits, PLAIN, keys_of(2))


def test_a_source_that_has_ended_raises_no_error() -> None:
    # row 0 ends at once and is fed on until it leaves; what the policy then says of it is nobody's business
    policy = TablePolicy(
        lambda source, written: [math.nan] * 2 if written[:1] == (END,) else [5.0 if source == (3,) else -9.0, 0.0], 1
    )
    sources = [[3], [4], [4], [4], [4], [4]]
    assert draw(policy, sources, [4] * 6).tokens.to_lists()[1:] == [[A] * 4] * 5


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1)])
def test_another_number_of_keys_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="keys"):
        sample(
            TablePolicy(random_table(0, 3), 3), Padded.from_lists([[3]]), torch.tensor([2]), PLAIN, torch.zeros(shape).long(), 3
        )


def test_other_limits_and_prefixes_are_refused() -> None:
    policy = TablePolicy(random_table(0, 3), 3)
    for limits, prefixes, message in [
        ([0], None, "limits"),
        ([99], None, "limits"),
        ([2], [[A], [A]], "2 prefixes"),
        ([1], [[A, A]], "2 tokens"),
    ]:
        with pytest.raises(InputError, match=message):
            draw(policy, [[3]], limits, prefixes=prefixes)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": math.nan},
        {"ngram_block": -2},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict) -> None:
    with pytest.raises(ConfigurationError, match=r"decoding\."):
        SamplingOptions(**options)


def test_no_sources_give_no_samples() -> None:
    drawn = draw(TablePolicy(random_table(0, 3), 3), [], torch.zeros(0, dtype=torch.int64).tolist())
    assert (len(drawn.tokens), len(drawn.finished), len(drawn.log_prob), drawn.without_end()) == (0, 0, 0, [])


# --- greedy


def test_greedy_takes_the_most_probable_token_and_the_lowest_of_equals() -> None:
    table = {(): [0.2, 0.4, 0.4], (A,): [0.3, 0.1, 0.6], (A, B): [0.5, 0.5, 0.0]}
    policy = TablePolicy(probability_table(table), 2)
    (best,) = greedy(policy, Padded.from_lists([[3]]), torch.tensor([9]))
    assert (best.tokens, best.finished) == ((A, B), True)
    assert best.log_prob == best.score == pytest.approx(math.log(0.4 * 0.6 * 0.5), rel=1e-12)


def test_greedy_is_cut_at_the_limit_and_keeps_a_prefix() -> None:
    policy = TablePolicy(random_table(3, 4, spread=0.1), 4)
    sources, limits = Padded.from_lists([[3], [4]]), torch.tensor([2, 5])
    first, second = greedy(policy, sources, limits, Padded.from_lists([[B, B], [C]]))
    assert (first.tokens, first.finished) == ((B, B), False)
    assert first.log_prob == pytest.approx(log_probs(policy, (3,), ())[B] + log_probs(policy, (3,), (B,))[B], rel=1e-12)
    assert second.tokens[0] == C
    for i in range(1, len(second.tokens)):
        assert second.tokens[i] == log_probs(policy, (4,), second.tokens[:i]).argmax()
