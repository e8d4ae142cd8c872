"""The traps that beam searches are known to fall into, one test each, on tables with known winners."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.beam_twin import Twin
from helpers.table_policy import END, TablePolicy, log_probs, probability_table, random_table

from guerdon.data.padded import Padded
from guerdon.decoding import BeamOptions, beam_search
from guerdon.errors import ConfigurationError, GuerdonError, InputError

A, B, C = 3, 4, 5
ONE = Padded.from_lists([[9]])


def search(policy, limit=4, prefix=None, **options):
    forced = None if prefix is None else Padded.from_lists([prefix])
    return beam_search(policy, ONE, torch.tensor([limit]), BeamOptions(**options), forced)[0]


def policy_of(rows, **options):
    return TablePolicy(probability_table(rows), words=len(next(iter(rows.values()))) - 1, **options)


# The end is the best first token, but "a b" is the better output once length counts:
#   ()    .40          log -0.916, per token -0.916
#   a b   .35 .9 1     log -1.154, per token -0.385
#   b     .25 1        log -1.386, per token -0.693
EARLY_END = {(): [0.40, 0.35, 0.25], (A,): [0.10, 0.0, 0.90], (B,): [1.0, 0.0, 0.0]}


def test_an_end_token_on_top_does_not_end_the_search() -> None:
    best = search(policy_of(EARLY_END), beam_size=2, length_penalty=1.0, patience=2.0)
    assert best[0].tokens == (A, B)
    assert best[0].log_prob == pytest.approx(math.log(0.35 * 0.9))
    assert best[0].score == pytest.approx(math.log(0.35 * 0.9) / 3)


@pytest.mark.parametrize(
    ("normalisation", "penalty", "winner"),
    [("power", 0.0, ()), ("power", 1.0, (A, B)), ("power", 2.0, (A, B)), ("gnmt", 0.0, ()), ("gnmt", 1.0, (A, B))],
)
def test_the_length_penalty_decides(normalisation: str, penalty: float, winner: tuple[int, ...]) -> None:
    options = {"length_normalisation": normalisation, "length_penalty": penalty, "patience": 2.0}
    assert search(policy_of(EARLY_END), beam_size=2, **options)[0].tokens == winner


@pytest.mark.parametrize(("patience", "winner"), [(0.5, ()), (1.0, (B,)), (1.5, (A, B)), (2.0, (A, B))])
def test_patience_counts_the_finished(patience: float, winner: tuple[int, ...]) -> None:
    # position 1 finishes (), position 2 "b", position 3 "a b"
    table = {(): [0.40, 0.35, 0.25], (A,): [0.0, 0.0, 1.0], (B,): [1.0, 0.0, 0.0]}
    assert search(policy_of(table), beam_size=2, patience=patience)[0].tokens == winner


def test_an_end_token_beyond_the_beam_does_not_finish() -> None:
    # the candidates of position 1 are a .5, b .3, end .2: only the first two may finish with a beam of 2
    table = {(): [0.2, 0.5, 0.3], (A,): [0.3, 0.6, 0.1], (B,): [0.3, 0.6, 0.1]}
    found = search(policy_of(table), limit=1, beam_size=2, returned=2)
    assert [(one.tokens, one.finished) for one in found] == [((A,), False), ((B,), False)]


def test_an_end_token_at_the_first_step_is_the_empty_output() -> None:
    (found,) = search(policy_of({(): [1.0, 0.0]}), beam_size=3)
    assert (found.tokens, found.log_prob, found.score, found.finished) == ((), 0.0, 0.0, True)


def test_a_limit_of_one_leaves_one_token() -> None:
    found = search(policy_of(EARLY_END), limit=1, beam_size=3, returned=3)
    assert [(one.tokens, one.finished) for one in found] == [((), True), ((A,), False), ((B,), False)]
    assert [one.score for one in found] == pytest.approx([math.log(p) for p in (0.40, 0.35, 0.25)])


def test_at_the_limit_unfinished_hypotheses_compete_by_score() -> None:
    table = {(): [0.1, 0.9, 0.0], (A,): [0.2, 0.8, 0.0], (A, A): [0.1, 0.9, 0.0]}
    found = search(policy_of(table), limit=3, beam_size=3, returned=3, length_penalty=0.0)
    assert [(one.tokens, one.finished) for one in found] == [((A, A, A), False), ((A,), True), ((), True)]


@pytest.mark.parametrize("returned", [1, 2, 4])
def test_asking_for_more_does_not_change_the_best(returned: int) -> None:
    for seed in range(20):
        policy = TablePolicy(random_table(seed, 5), 5)
        whole = search(policy, limit=6, beam_size=4, returned=4)
        assert search(policy, limit=6, beam_size=4, returned=returned) == whole[:returned]


def test_a_beam_larger_than_the_vocabulary_returns_what_there_is() -> None:
    found = search(policy_of({(): [0.5, 0.3, 0.2]}), limit=1, beam_size=50, returned=50)
    assert [one.tokens for one in found] == [(), (A,), (B,)]
    assert len({one.tokens for one in search(TablePolicy(random_table(1, 2), 2), limit=3, beam_size=50, returned=50)}) == 15


def test_the_hypotheses_of_a_source_are_distinct() -> None:
    # the k rows of a source start as one; were they all alive, each output would be found k times
    found = search(TablePolicy(random_table(2, 4), 4), limit=5, beam_size=5, returned=5)
    assert len({one.tokens for one in found}) == 5


@pytest.mark.parametrize("seed", range(12))
def test_a_hypothesis_without_continuation_is_dropped(seed: int) -> None:
    alive = random_table(seed, 3)
    policy = TablePolicy(lambda source, written: [-math.inf] * 4 if written[-1:] == (A,) else alive(source, written), 3)
    found = search(policy, limit=4, beam_size=3, returned=3, patience=3.0)
    expected = Twin(3, patience=3.0).search(policy, (9,), 4)[:3]
    assert [one.tokens for one in found] == [one[0] for one in expected]
    assert [one.score for one in found] == pytest.approx([one[2] for one in expected], rel=1e-12)
    assert all(A not in one.tokens[:-1] for one in found)


def test_dead_rows_are_fed_sound_tokens() -> None:
    # two words and a beam of six: most rows are dead at first, and a real policy must not be asked about an ended output
    alive = random_table(3, 2)

    def table(source, written):
        assert all(token > END for token in written)
        return alive(source, written)

    assert len(search(TablePolicy(table, 2), limit=4, beam_size=6, returned=6)) == 6


def test_a_source_without_any_output_is_an_error() -> None:
    with pytest.raises(GuerdonError, match="source 0"):
        search(TablePolicy(lambda source, written: [-math.inf] * 3, 2), beam_size=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_that_names_the_source(bad: float) -> None:
    def table(source, written):
        return [0.0, bad if source == (8,) and len(written) == 1 else 1.0, 0.5]

    sources = Padded.from_lists([[9], [8]])
    with pytest.raises(GuerdonError, match="source 1, position 1"):
        beam_search(TablePolicy(table, 2), sources, torch.tensor([4, 4]), BeamOptions(2))


def test_a_forced_prefix_is_kept_and_counted() -> None:
    policy = TablePolicy(random_table(3, 4), 4)
    expected = log_probs(policy, (9,), ())[C] + log_probs(policy, (9,), (C,))[A]
    found = search(policy, limit=2, prefix=[C, A], beam_size=3, returned=3)
    assert [(one.tokens, one.finished) for one in found] == [((C, A), False)]
    assert found[0].log_prob == pytest.approx(expected, rel=1e-12)
    longer = search(policy, limit=5, prefix=[C, A], beam_size=3, returned=3)
    assert len(longer) == 3
    assert all(one.tokens[:2] == (C, A) for one in longer)


def test_an_empty_prefix_forces_nothing() -> None:
    policy = TablePolicy(random_table(4, 4), 4)
    assert search(policy, prefix=[], beam_size=3) == search(policy, beam_size=3)


def test_a_prefix_may_repeat_what_the_block_forbids() -> None:
    policy = TablePolicy(random_table(5, 3), 3)
    for one in search(policy, limit=6, prefix=[A, B, A, B], beam_size=3, returned=3, ngram_block=2):
        assert one.tokens[:4] == (A, B, A, B)
        assert one.tokens[4:5] != (A,)  # b a stands in the prefix


@pytest.mark.parametrize(
    ("prefix", "message"), [([END], "token 2"), ([0], "token 0"), ([99], "token 99"), ([A] * 5, "5 tokens")]
)
def test_a_prefix_that_no_output_can_have_is_refused(prefix: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        search(TablePolicy(random_table(6, 3), 3), limit=4, prefix=prefix, beam_size=2)


def test_blocked_ngrams_keep_the_policys_own_log_prob() -> None:
    table = {(): [0.1, 0.9, 0.0], (A,): [0.1, 0.8, 0.1], (A, B): [1.0, 0.0, 0.0]}
    (best,) = search(policy_of(table), limit=3, beam_size=1, ngram_block=1)
    assert best.log_prob == pytest.approx(math.log(0.9 * 0.1))  # a a is blocked; .1 is not renormalised to .5


def test_sources_of_different_limits_share_a_batch() -> None:
    policy = TablePolicy(lambda source, written: [-3.0, 1.0, 0.5], 2)
    sources = Padded.from_lists([[7], [8, 8], [9]])
    found = beam_search(policy, sources, torch.tensor([1, 6, 3]), BeamOptions(2, 0.0))
    assert [len(one.tokens) for (one,) in found] == [1, 6, 3]


def test_finished_sources_leave_the_batch() -> None:
    policy = TablePolicy(lambda source, written: [9.0 if source == (7,) else -9.0, 1.0, 0.5], 2)
    beam_search(policy, Padded.from_lists([[7], [8]]), torch.tensor([6, 6]), BeamOptions(1))
    assert policy.rows_stepped == [2, 1, 1, 1, 1, 1]


def test_no_sources_give_no_outputs() -> None:
    policy = TablePolicy(random_table(7, 3), 3)
    assert beam_search(policy, Padded.from_lists([]), torch.zeros(0, dtype=torch.int64), BeamOptions()) == []


def test_half_precision_logits_are_summed_in_float32() -> None:
    policy = TablePolicy(random_table(8, 3), 3, dtype=torch.bfloat16)
    (best,) = search(policy, beam_size=2)
    tokens = [*best.tokens, END] if best.finished else list(best.tokens)
    evaluated = policy.evaluate(ONE, Padded.from_lists([tokens])).log_prob
    assert evaluated.dtype == torch.float32
    assert best.log_prob == pytest.approx(evaluated.sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 0},
        {"beam_size": 3, "returned": 4},
        {"returned": 0},
        {"beam_size": 4, "patience": 0.5, "returned": 3},
        {"patience": 0.0},
        {"patience": math.nan},
        {"length_penalty": math.inf},
        {"length_normalisation": "mean"},
        {"ngram_block": -1},
    ],
)
def test_contradictory_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigurationError, match=r"decoding\."):
        BeamOptions(**options)


@pytest.mark.parametrize("limits", [[0], [65], [3, 3]])
def test_limits_that_do_not_fit_are_refused(limits: list[int]) -> None:
    with pytest.raises(InputError, match="limits"):
        beam_search(TablePolicy(random_table(9, 3), 3), ONE, torch.tensor(limits), BeamOptions())
