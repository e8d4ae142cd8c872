"""A policy that is small enough to enumerate, and the exact expectations and gradients that tests compare with.

A tiny policy has finitely many outputs, those cut off at the length limit included. Every ordered tuple of them, weighted
with its probability, goes through training's own functions; the sum of their gradients is the estimator's expectation,
without any sampling error. The truth is a formula in probabilities that are products of softmaxes of the bare logits, written
out here and nowhere else.

Axes: x sources (X), y outputs of one source (Y), n samples of each source, k ordered tuples.
"""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.models.transformer import Transformer, TransformerOptions
from guerdon.objectives.policy_gradient import reinforce_loss

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
        totals = [torch.stack(tokens).log().sum() for tokens in self.token_probabilities(policy)]
        return torch.stack(totals).view(2, self.size)

    def token_probabilities(self, policy: torch.nn.Module) -> list[list[Tensor]]:
        """p(y_t | y_<t, x) of every source with every output, in the order of `pairs`."""
        found = []
        for source, output in itertools.product(range(2), self.outputs):
            steps = self.next_probabilities(policy, source, output)
            found.append([step[token] for step, token in zip(steps, output, strict=True)])
        return found

    @staticmethod
    def next_probabilities(policy: torch.nn.Module, source: int, output: list[int]) -> list[dict[int, Tensor]]:
        """At each position of an output: allowed token -> its probability."""
        logits = policy.logits(SOURCES.select(torch.tensor([source])), Padded.from_lists([output]))
        allowed = policy.allowed.nonzero()[:, 0].tolist()
        weights = [{token: row[token].exp() for token in allowed} for row in logits]
        return [{token: weight / sum(row.values()) for token, weight in row.items()} for row in weights]

    def next_of_prefixes(self, policy: torch.nn.Module) -> dict[tuple[int, tuple[int, ...]], dict[int, Tensor]]:
        """(source, prefix) -> the distribution of the next token, for every prefix that is not yet an output."""
        found: dict[tuple[int, tuple[int, ...]], dict[int, Tensor]] = {}
        for source, output in itertools.product(range(2), self.outputs):
            for position, step in enumerate(self.next_probabilities(policy, source, output)):
                found.setdefault((source, tuple(output[:position])), step)
        return found

    def gradient(self, value: Tensor) -> Tensor:
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        parts = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    def expected_gradient(
        self, samples: int, advantages, rewards: Tensor, sources: tuple[int, ...] = (0, 1), loss=reinforce_loss
    ) -> Tensor:
        """The expectation of the ascent direction with ``samples`` outputs of each of ``sources`` in a batch.

        ``advantages(rewards [n], kept [n], groups [n])`` is asked for every tuple on its own, as training does; ``loss`` is
        linear in what it answers, so that one call of it can sum over the tuples.
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
        return self.gradient(-loss(evaluation.log_prob, evaluation.mask, weights, len(groups)))

    def exact_gradient(self, rewards: Tensor, sources: tuple[int, ...] = (0, 1)) -> Tensor:
        probability = self.log_probabilities(self.policy).exp()
        return self.gradient((probability * rewards.view(2, -1))[list(sources)].sum() / len(sources))


def every_output(policy: torch.nn.Module, limit: int) -> list[list[int]]:
    """Everything that ends within the limit, and everything that is cut off there."""
    words = [token for token in policy.allowed.nonzero()[:, 0].tolist() if token != policy.end_id]
    ended = [[*body, policy.end_id] for length in range(limit) for body in itertools.product(words, repeat=length)]
    return ended + [list(body) for body in itertools.product(words, repeat=limit)]


def assert_exact(found: Tensor, wanted: Tensor) -> None:
    assert wanted.norm() > 1e-2
    assert ((found - wanted).norm() / wanted.norm()).item() < 1e-10


@functools.cache
def oracle_of(name: str, limit: int = LIMIT) -> Oracle:
    """One of `POLICIES`; made once, and not to be changed."""
    return Oracle(name, limit)
