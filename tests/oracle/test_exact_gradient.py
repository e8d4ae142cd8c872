"""The policy gradient, as training computes it, against the exact gradient of the expected reward.

A tiny policy has finitely many outputs, those cut off at the length limit included. Every ordered tuple of them, weighted
with its probability, goes through training's own functions (`estimate`, `reinforce_loss`, `policy.evaluate`); the sum of
their gradients is the estimator's expectation, without any sampling error. The truth is J = sum_x sum_y p(y|x) r(x, y) / X,
differentiated where p is a product of softmaxes of the bare logits, written out here and nowhere else.

Axes: x sources (X), y outputs of one source (Y), n samples of each source, k ordered tuples.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.models.transformer import Transformer, TransformerOptions
from guerdon.objectives.advantage import RunningMean, constant, estimate
from guerdon.objectives.divergence import kl_estimate, sequence_kl
from guerdon.objectives.policy_gradient import kl_loss, reinforce_loss

SOURCES = Padded.from_lists([[5, 4, 3], [3]])
LIMIT = 3


def own(seed: int, **settings: object) -> torch.nn.Module:
    """Allowed: the end and two words (6 less pad, start and mask)."""
    torch.manual_seed(seed)
    options = TransformerOptions(
        vocabulary_size=6, width=8, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=16, dropout=0.0, **settings
    )
    return spread(Transformer(options), seed)


def t5(seed: int) -> torch.nn.Module:
    """Allowed: the end and two words; the settings rule out two more."""
    return adapter("tiny_t5", seed, suppress=[4, 5])


def bart(seed: int) -> torch.nn.Module:
    """Allowed: the end, the begin token and a word; the settings rule out two more, and force the first token."""
    return adapter("tiny_bart", seed, suppress=[4, 5])


def adapter(make: str, seed: int, suppress: list[int]) -> torch.nn.Module:
    pytest.importorskip("transformers")
    from helpers import tiny_models

    from guerdon.models.huggingface import HuggingFacePolicy

    model = getattr(tiny_models, make)(vocabulary=6, seed=seed)
    model.generation_config.suppress_tokens = suppress
    return HuggingFacePolicy(spread(tiny_models.in_float64(model), seed))


def spread(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Moves every parameter, norms and biases too, so that each has a gradient that could be wrong."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.3)
    return model


POLICIES = {
    "own": own,
    "own-rotary-post-swiglu": lambda seed: own(
        seed, positions="rotary", norm="post", activation="swiglu", tied_embeddings=False
    ),
    "t5": t5,
    "bart": bart,
}


class Oracle:
    """A policy, every output it can write, a reward for each, and the exact expectations."""

    def __init__(self, name: str, limit: int = LIMIT) -> None:
        self.policy, self.anchor = POLICIES[name](0), POLICIES[name](1).requires_grad_(False)
        self.outputs = every_output(self.policy, limit)
        self.size = len(self.outputs)
        self.rewards = torch.randn(2, self.size, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 + 0.7

    @property
    def pairs(self) -> tuple[Padded, Padded]:
        """Every source with every output, [X * Y] rows."""
        rows = torch.arange(2).repeat_interleave(self.size)
        return SOURCES.select(rows), Padded.from_lists(self.outputs * 2)

    def log_probabilities(self, policy: torch.nn.Module) -> Tensor:
        """log p(y | x), [X, Y]: one row at a time, softmax by hand, without evaluate."""
        totals = []
        for source, output in itertools.product(SOURCES.to_lists(), self.outputs):
            logits = policy.logits(Padded.from_lists([source]), Padded.from_lists([output]))
            total = torch.zeros((), dtype=torch.float64)
            for position, token in enumerate(output):
                weights = torch.stack([logits[position, other].exp() for other in policy.allowed.nonzero()[:, 0]])
                total = total + logits[position, token] - weights.sum().log()
            totals.append(total)
        return torch.stack(totals).view(2, self.size)

    def gradient(self, value: Tensor) -> Tensor:
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        parts = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    def expected_gradient(self, samples: int, advantages, rewards: Tensor, sources: tuple[int, ...] = (0, 1)) -> Tensor:
        """The expectation of the ascent direction with ``samples`` outputs of each of ``sources`` in a batch.

        ``advantages(rewards [n], kept [n], groups [n])`` is asked for every tuple on its own, as training does; the loss is
        linear in what it answers, so that one call of `reinforce_loss` can sum over the tuples.
        """
        pairs_of_sources, targets = self.pairs
        evaluation = self.policy.evaluate(pairs_of_sources, targets)
        probability = evaluation.log_prob.detach().sum(1).exp()
        groups = torch.arange(len(sources)).repeat_interleave(samples)
        kept = torch.ones(len(groups), dtype=torch.bool)
        first = torch.tensor(sources)[groups] * self.size
        weights = torch.zeros(len(probability), dtype=torch.float64)
        for choice in itertools.product(range(self.size), repeat=len(groups)):
            rows = first + torch.tensor(choice)
            values = advantages(rewards[rows], kept, groups).values
            weights.index_add_(0, rows, probability[rows].prod() * values)
        return self.gradient(-reinforce_loss(evaluation.log_prob, evaluation.mask, weights, len(groups)))

    def exact_gradient(self, rewards: Tensor, sources: tuple[int, ...] = (0, 1)) -> Tensor:
        probability = self.log_probabilities(self.policy).exp()
        return self.gradient((probability * rewards.view(2, -1))[list(sources)].sum() / len(sources))


def every_output(policy: torch.nn.Module, limit: int) -> list[list[int]]:
    """Everything that ends within the limit, and everything that is cut off there."""
    words = [token for token in policy.allowed.nonzero()[:, 0].tolist() if token != policy.end_id]
    ended = [[*body, policy.end_id] for length in range(limit) for body in itertools.product(words, repeat=length)]
    return ended + [list(body) for body in itertools.product(words, repeat=limit)]


_ORACLES: dict[str, Oracle] = {}


@pytest.fixture(params=POLICIES)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return _ORACLES.setdefault(request.param, Oracle(request.param))


def assert_exact(found: Tensor, wanted: Tensor) -> None:
    assert wanted.norm() > 1e-2
    assert ((found - wanted).norm() / wanted.norm()).item() < 1e-10


def of(baseline: str, **settings: object):
    return lambda rewards, kept, groups: estimate(baseline, rewards, kept, groups, **settings)


def earlier_mean() -> RunningMean:
    running = RunningMean()
    running.update(torch.tensor([0.4, 1.9, -0.3]), torch.ones(3, dtype=torch.bool))
    return running


def greedy_rewards(oracle: Oracle) -> Tensor:
    """The reward of the output that greedy search writes, found by steps."""
    found = []
    for source in range(2):
        state, tokens = oracle.policy.start(SOURCES.select(torch.tensor([source])))
        output: list[int] = []
        while len(output) < LIMIT and oracle.policy.end_id not in output:
            tokens = oracle.policy.step(state, tokens).argmax(-1)
            output.append(int(tokens))
        found.append(oracle.rewards[source, oracle.outputs.index(output)])
    return torch.stack(found)


def test_the_outputs_are_all_there_are(oracle):
    total = oracle.log_probabilities(oracle.policy).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=1e-13, atol=0)
    assert any(oracle.policy.end_id not in output for output in oracle.outputs)


def test_steps_give_the_same_probabilities(oracle):
    sources, targets = oracle.pairs
    with torch.no_grad():
        state, tokens = oracle.policy.start(sources)
        total = torch.zeros(len(targets), dtype=torch.float64)
        for position in range(LIMIT):
            scores = oracle.policy.step(state, tokens).softmax(-1).log()
            tokens = torch.where(targets.mask[:, position], targets.ids[:, position], oracle.policy.end_id)
            total += torch.where(targets.mask[:, position], scores.gather(1, tokens[:, None])[:, 0], 0.0)
        wanted = oracle.log_probabilities(oracle.policy).flatten()
    torch.testing.assert_close(total, wanted, rtol=1e-12, atol=1e-12)


def test_without_a_baseline(oracle):
    rewards = oracle.rewards.flatten()
    assert_exact(oracle.expected_gradient(1, of("none"), rewards), oracle.exact_gradient(rewards))


def test_running_mean_of_earlier_batches(oracle):
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(1, of("running_mean", running_mean=earlier_mean()), rewards)
    assert_exact(found, oracle.exact_gradient(rewards))


def test_self_critical(oracle):
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(1, of("self_critical", greedy_rewards=greedy_rewards(oracle)), rewards)
    assert_exact(found, oracle.exact_gradient(rewards))


@pytest.mark.parametrize(("source", "samples"), [(0, 2), (1, 3)])
def test_leave_one_out(oracle, source, samples):
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(samples, of("leave_one_out"), rewards, sources=(source,))
    assert_exact(found, oracle.exact_gradient(rewards, sources=(source,)))


@pytest.mark.parametrize("name", ["own", "t5"])
def test_leave_one_out_of_two_sources_in_one_batch(name):
    oracle = Oracle(name, limit=2)
    rewards = oracle.rewards.flatten()
    assert_exact(oracle.expected_gradient(2, of("leave_one_out"), rewards), oracle.exact_gradient(rewards))


@pytest.mark.parametrize("samples", [2, 3])
def test_batch_mean_of_one_source_shrinks_by_a_known_factor(oracle, samples):
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(samples, of("batch_mean"), rewards, sources=(1,))
    assert_exact(found, oracle.exact_gradient(rewards, sources=(1,)) * (samples - 1) / samples)


def test_kl_in_the_reward_ascends_the_penalised_objective(oracle):
    """The expectation of REINFORCE on r - beta * k1 is the gradient of E[r] - beta * KL(policy || anchor), exactly."""
    beta = 0.3
    evaluation = oracle.policy.evaluate(*oracle.pairs, oracle.anchor)
    penalty = sequence_kl(kl_estimate("k1", evaluation.log_prob, evaluation.anchor_log_prob), evaluation.mask)
    rewards = oracle.rewards.flatten() - beta * penalty
    log_p, log_q = oracle.log_probabilities(oracle.policy), oracle.log_probabilities(oracle.anchor).detach()
    objective = (log_p.exp() * (oracle.rewards - beta * (log_p - log_q))).sum() / 2
    wanted = oracle.gradient(objective)
    assert_exact(oracle.expected_gradient(1, of("none"), rewards), wanted)
    found = oracle.expected_gradient(2, of("leave_one_out"), rewards, sources=(0,))
    log_p = oracle.log_probabilities(oracle.policy)
    one_source = (log_p.exp() * (oracle.rewards - beta * (log_p - log_q)))[0].sum()
    assert_exact(found, oracle.gradient(one_source))


def test_kl_in_the_loss_is_the_exact_divergence_along_the_sampled_prefixes(oracle):
    """Its expected value is the KL of whole outputs (the chain rule of the divergence)."""
    evaluation = oracle.policy.evaluate(*oracle.pairs, oracle.anchor)
    log_p, log_q = oracle.log_probabilities(oracle.policy), oracle.log_probabilities(oracle.anchor)
    wanted = (log_p.exp() * (log_p - log_q)).sum() / 2
    assert wanted > 1e-2
    weighted = evaluation.kl * log_p.exp().view(-1, 1)
    assert kl_loss(weighted, evaluation.mask, 2).item() == pytest.approx(wanted.item(), rel=1e-11)


def test_the_constant_control_goes_nowhere_in_expectation(oracle):
    """Advantage +1 with fresh samples moves the policy by chance alone: sum_y p grad log p = 0."""
    rewards = oracle.rewards.flatten()
    found = oracle.expected_gradient(1, lambda rewards, kept, groups: constant(rewards, kept), rewards)
    assert found.norm() < 1e-12


@pytest.mark.parametrize("cut", [[6], [1, 5], [2, 2, 2], [1, 1, 1, 1, 1, 1]])
def test_any_cut_into_micro_batches_gives_the_same_gradient(oracle, cut):
    sources, targets = oracle.pairs
    rows = torch.tensor([0, 3, 5, oracle.size, oracle.size + 1, oracle.size + 6])  # three outputs of each source
    kept = torch.tensor([True, True, False, True, True, True])
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    advantages = estimate("leave_one_out", oracle.rewards.flatten()[rows], kept, groups)

    def gradient(parts: list[int]) -> Tensor:
        total = torch.zeros(())
        for part in torch.arange(len(rows)).split(parts):
            evaluation = oracle.policy.evaluate(sources.select(rows[part]), targets.select(rows[part]), oracle.anchor)
            loss = reinforce_loss(evaluation.log_prob, evaluation.mask, advantages.values[part], advantages.samples)
            loss = loss + 0.1 * kl_loss(evaluation.kl, evaluation.mask & advantages.counted[part, None], advantages.samples)
            total = total + oracle.gradient(loss)
        return total

    # The truth is a loop over single samples, whose loss is written out here.
    wanted = torch.zeros(())
    for sample, row in enumerate(rows.tolist()):
        if kept[sample]:
            one = torch.tensor([row])
            evaluation = oracle.policy.evaluate(sources.select(one), targets.select(one), oracle.anchor)
            value = -advantages.values[sample] * evaluation.log_prob.sum() + 0.1 * evaluation.kl.sum()
            wanted = wanted + oracle.gradient(value / 5)
    assert_exact(gradient(cut), wanted)
