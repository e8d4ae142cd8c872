"""What CTranslate2 draws, against every output that a tiny policy can write.

Of the tokenizer's vocabulary the policy may write the end and two words, so that its outputs can be counted.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from helpers.exact import every_output
from scipy.stats import chi2
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit, Samples
from guerdon.errors import GuerdonError, TrainingError
from guerdon.generator import Generator
from guerdon.models.transformer import Transformer, TransformerOptions
from guerdon.training.engine_rollouts import CTranslate2Engine, weighed
from guerdon.training.engines import EngineOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import Rollout

pytest.importorskip("ctranslate2")

WORDS = ["red", "blue", "pub", "cafe", "near", "river"]
KINDS = ["float32", "int8"]
SHAPES = {
    "sinusoidal-post-gelu": {},
    "rotary-pre-swiglu": {"positions": "rotary", "norm": "pre", "activation": "swiglu", "tied_embeddings": False},
    "learned-pre-relu": {"positions": "learned", "norm": "pre", "activation": "relu"},
}
ROWS = [[10, 40, 11, 2], [90, 2], [30, 31, 32, 33, 30, 2]]  # three sources, of four, two and six tokens
COPIES = 4000


def tiny(allowed: int | None = 2, seed: int = 0, shift: float = 0.0, **options: object) -> Generator:
    """``allowed`` words and the end may be written; None: all tokens. ``shift`` moves the weights further."""
    tokenizer = Tokenizer.train(WORDS * 9, 270)
    torch.manual_seed(seed)
    shape = {"dropout": 0.1, "max_source": 16, "max_target": 16, **options}
    policy = Transformer(TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 32, **shape)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for scale in (0.3, shift):
            for parameter in policy.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
    if allowed is not None:
        policy.allowed[:] = False
        policy.allowed[[policy.end_id, *range(20, 20 + allowed)]] = True
        policy.disallowed_bias.masked_fill_(~policy.allowed, -torch.inf)
    return Generator(policy, tokenizer)


def sources(rows: list[list[int]] = ROWS) -> Padded:
    return Padded.from_lists(rows)


def drawn(made: Generator, kind: str, limits: list[int], copies: int = COPIES, seed: int = 1, step: int = 1):
    return CTranslate2Engine(made, kind).draw(sources(), torch.tensor(limits), copies, seed, step)


def own_log_probs(policy: Transformer, samples: Samples, copies: int) -> Tensor:
    rows = torch.arange(len(ROWS)).repeat_interleave(copies)
    with torch.no_grad():
        return policy.evaluate(sources(), samples.tokens, rows=rows).log_prob.double().sum(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_float32_its_log_probabilities_are_the_policys(shape: str) -> None:
    made = tiny(allowed=None, **SHAPES[shape])
    samples, log_q = drawn(made, "float32", [12, 5, 1], copies=40)
    assert (own_log_probs(made.policy, samples, 40) - log_q).abs().max() < 1e-4
    assert not torch.isin(samples.tokens.ids[samples.tokens.mask], (~made.policy.allowed).nonzero()[:, 0]).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_in_int8_they_are_of_a_near_model(shape: str) -> None:
    made = tiny(allowed=None, **SHAPES[shape])
    samples, log_q = drawn(made, "int8", [12, 5, 1], copies=40)
    off = (own_log_probs(made.policy, samples, 40) - log_q).abs()
    assert 1e-3 < off.max() < 3.0


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_as_frequent_as_it_says(kind: str) -> None:
    """A chi-square test for each source, each with a limit of its own; outputs that share a limit end at it alike."""
    made, limits = tiny(), [3, 2, 3]
    samples, log_q = drawn(made, kind, limits)
    written, finished = samples.tokens.to_lists(), samples.finished.tolist()
    for source, limit in enumerate(limits):
        outputs = {tuple(output) for output in every_output(made.policy, limit)}
        rows = range(source * COPIES, (source + 1) * COPIES)
        told = {tuple(written[row]): float(log_q[row]) for row in rows}
        assert told.keys() <= outputs
        assert all(finished[row] == (written[row][-1] == made.policy.end_id) for row in rows)
        assert all(len(written[row]) == limit for row in rows if not finished[row])
        counted = Counter(tuple(written[row]) for row in rows)
        left = COPIES * (1 - sum(map(math.exp, told.values())))  # of what was never drawn
        assert -0.01 < left < 20
        terms = [(counted[y] - COPIES * math.exp(log)) ** 2 / (COPIES * math.exp(log)) for y, log in told.items()]
        assert len(terms) > 3
        assert chi2.sf(sum(terms) + max(0.0, left), len(terms)) > 1e-4


def test_every_copy_is_drawn_alike() -> None:
    """The library returns the outputs of a source best first; what stands in the first place is no better here."""
    engine, limits = CTranslate2Engine(tiny(), "float32"), torch.tensor([3, 3, 3])
    pairs = torch.cat([engine.draw(sources(), limits, 2, seed, 1)[1].view(3, 2) for seed in range(150)])
    better, worse = int((pairs[:, 0] > pairs[:, 1]).sum()), int((pairs[:, 0] < pairs[:, 1]).sum())
    assert better + worse > 100
    assert abs(better - worse) < 4 * math.sqrt(better + worse)


def of_two_threads(engine: CTranslate2Engine, rows: list[list[int]], seed: int, step: int = 1) -> Samples:
    limits, threads = torch.full((len(rows),), 12), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        samples, _ = engine.draw(sources(rows), limits, 16, seed, step)
        assert torch.get_num_threads() == 2  # what trains goes on with as many as before
    finally:
        torch.set_num_threads(threads)
    return samples


def same(one: Samples, other: Samples) -> bool:
    return one.tokens.to_lists() == other.tokens.to_lists() and torch.equal(one.finished, other.finished)


def test_draws_are_a_function_of_weights_seed_and_step() -> None:
    """In two threads, again and again; what was drawn in between makes no difference."""
    made = tiny(allowed=None)
    engine, rows = CTranslate2Engine(made, "int8"), ROWS * 2
    first = of_two_threads(engine, rows, 5)
    assert all(same(of_two_threads(engine, rows, 5), first) for _ in range(5))
    others = [of_two_threads(engine, rows, 6), of_two_threads(engine, rows, 5, step=2)]
    assert not any(same(first, other) for other in others)
    assert same(of_two_threads(CTranslate2Engine(tiny(allowed=None), "int8"), rows, 5), first)
    with torch.no_grad():
        made.policy.output.weight.add_(0.5) if not made.policy.options.tied_embeddings else made.policy.embedding.weight.mul_(
            1.5
        )
    assert not same(of_two_threads(engine, rows, 5), first)


def test_threads_do_not_draw_the_same() -> None:
    """One source again and again: the shares of two threads differ as those of one do."""
    samples = of_two_threads(CTranslate2Engine(tiny(allowed=None), "float32"), [ROWS[0]] * 4, 1)
    written = samples.tokens.to_lists()
    groups = [sorted(map(tuple, written[16 * source : 16 * source + 16])) for source in range(4)]
    assert len({tuple(group) for group in groups}) == 4


def rollout_of(made: Generator, samples: Samples, copies: int) -> Rollout:
    groups = torch.arange(len(ROWS)).repeat_interleave(copies)
    return Rollout(sources(), groups.tolist(), groups, samples, [""] * len(groups))


def config(kind: str = "int8", cap: float = 1e6, least: float = 0.01) -> ReinforceConfig:
    engine = EngineOptions("ctranslate2", kind, cap=cap, least_effective=least)
    return ReinforceConfig(samples_per_source=COPIES, rollout_engine=engine, limit=LengthLimit(3), micro_batch_tokens=30_000)


@pytest.mark.parametrize("kind", KINDS)
def test_weighed_draws_of_another_model_estimate_the_policys_expectations(kind: str) -> None:
    """The chance of every output, within the error bars; without weights far outside of them."""
    other, policy = tiny(), tiny(shift=0.15).policy
    samples, log_q = drawn(other, kind, [3, 3, 3])
    rollout = weighed(rollout_of(other, samples, COPIES), log_q, policy, config(kind))
    assert (own_log_probs(policy, samples, COPIES) - rollout.samples.log_prob.double().sum(1)).abs().max() < 1e-4
    deviations: dict[bool, list[float]] = {True: [], False: []}
    for source, row in enumerate(ROWS):
        part = slice(source * COPIES, (source + 1) * COPIES)
        written = [tuple(row) for row in samples.tokens.to_lists()[part]]
        outputs = every_output(policy, 3)
        with torch.no_grad():
            log_p = policy.evaluate(sources([row] * len(outputs)), Padded.from_lists(outputs)).log_prob.double().sum(1)
        for output, chance in zip(outputs, log_p.exp().tolist(), strict=True):
            hit = torch.tensor([tuple(output) == one for one in written], dtype=torch.float64)
            for with_weights, values in ((True, hit * rollout.weights[part]), (False, hit)):
                error = float(values.std()) / math.sqrt(COPIES)
                if hit.sum() > 30:
                    deviations[with_weights].append(abs(float(values.mean()) - chance) / error)
    assert len(deviations[True]) > 20
    assert max(deviations[True]) < 4
    assert max(deviations[False]) > 8


def test_what_is_logged_of_a_mismatch() -> None:
    other, policy = tiny(), tiny(shift=0.15).policy
    samples, log_q = drawn(other, "float32", [3, 3, 3], copies=50)
    rollout = weighed(rollout_of(other, samples, 50), log_q, policy, config(cap=1.05))
    ratio = [math.exp(float(p) - float(q)) for p, q in zip(own_log_probs(policy, samples, 50), log_q, strict=True)]
    off = sum(abs(math.log(each)) for each in ratio) / sum(map(len, samples.tokens.to_lists()))
    effective = sum(ratio) ** 2 / (150 * sum(each**2 for each in ratio))
    wanted = {"engine_mismatch": off, "effective_samples": effective, "capped": sum(each > 1.05 for each in ratio) / 150}
    assert rollout.figures == pytest.approx(wanted, rel=1e-3)
    assert 0.02 < wanted["capped"] < 0.98
    assert rollout.weights.tolist() == pytest.approx([min(each, 1.05) for each in ratio], rel=1e-4)


def test_an_engine_that_draws_from_another_policy_is_refused() -> None:
    other, policy = tiny(), tiny(seed=9, shift=0.5).policy
    samples, log_q = drawn(other, "float32", [3, 3, 3], copies=50)
    with pytest.raises(
        TrainingError, match=r"150 outputs of CTranslate2 are worth \d+\.\d% .* least_effective is 90\.0%"
    ) as error:
        weighed(rollout_of(other, samples, 50), log_q, policy, config(least=0.9))
    assert str(error.value).count("\n") == 0
    assert "compute_type: float32" in str(error.value)


def test_weights_that_are_no_numbers_are_told() -> None:
    made = tiny()
    with torch.no_grad():
        made.policy.embedding.weight.fill_(math.nan)
    with pytest.raises(GuerdonError, match="nan, inf"):
        drawn(made, "float32", [3, 3, 3], copies=2)
