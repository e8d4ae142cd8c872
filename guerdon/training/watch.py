"""What is measured while a policy is reinforced: of each step's samples, and on validation sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding import DecodingOptions, LengthLimit
from guerdon.generator import Generator
from guerdon.metrics.degeneration import text_figures
from guerdon.models.policy import Policy
from guerdon.objectives.advantage import Advantages
from guerdon.rewards.base import Judged, Judgement, Reward
from guerdon.training.rollouts import Prompts, Rollout
from guerdon.training.supervised import Validate

_VALIDATION_SAMPLES, _STEP_SAMPLES = 8, 2  # outputs of a validation and of a step that are written to samples.jsonl


class Watch:
    """Measures a policy that is being reinforced.

    Args:
        reward: what it is optimised for.
        validation: the sources whose greedy outputs are judged.
        limit: the longest output.
        validate: further figures, e.g. BLEU.
    """

    def __init__(self, reward: Reward, validation: Prompts, limit: LengthLimit, validate: Validate | None) -> None:
        self.reward, self.validation, self.validate_further = reward, validation, validate
        self.decoding = DecodingOptions(method="greedy", limit=limit, batch_size=128)
        self._samples: list[dict[str, Any]] = []

    def take_samples(self) -> list[dict[str, Any]]:
        """The outputs to keep since the last call."""
        taken, self._samples = self._samples, []
        return taken

    def rollout_metrics(
        self, rollout: Rollout, judged: Judged, judgement: Judgement, advantages: Advantages, divergence: Tensor
    ) -> dict[str, float]:
        """Of one step's samples: raw reward parts, what the policy is trained on, divergence, lengths."""
        counted, finished, each = advantages.counted, rollout.samples.finished.tolist(), _of_output(advantages, rollout)
        for row in range(0, len(rollout.texts), -(-len(rollout.texts) // _STEP_SAMPLES)):
            kept = {"source": judged.sources[row], "output": rollout.texts[row], "finished": finished[row]}
            advantage = float(each[row])
            self._samples.append({"kind": "train", **kept, "parts": _row(judgement, row), "advantage": advantage})
        trained = each[counted]
        tokens = rollout.samples.tokens
        return {
            **reward_means(judgement),
            "advantage_mean": float(trained.mean()) if len(trained) else 0.0,
            "advantage_std": float(trained.std(correction=0)) if len(trained) else 0.0,
            "kl": float(divergence.double().mean()),
            "length": float(tokens.lengths.double().mean()),
            "finished": float(rollout.samples.finished.double().mean()),
            "samples": float(advantages.samples),
            "tokens": float(tokens.tokens()),
            **text_figures(judged.sources, judged.outputs),
        }

    def validate(self, generator: Generator, anchor: Policy) -> dict[str, float]:
        """Of greedy outputs on the validation sources: the reward and its parts, the exact KL to the anchor, lengths."""
        examples = self.validation.examples
        outputs = [group[0] for group in generator.generate([e.source for e in examples], self.decoding)]
        texts, finished = [o.text for o in outputs], [o.finished for o in outputs]
        judgement = self.reward.judge(self.validation.judged(range(len(examples)), texts, finished))
        ends = [[generator.policy.end_id] if o.finished else [] for o in outputs]
        targets = [[*o.tokens, *end] for o, end in zip(outputs, ends, strict=True)]
        for row, (e, text) in enumerate(zip(examples[:_VALIDATION_SAMPLES], texts, strict=False)):
            kept = {"source": e.source, "output": text, "finished": finished[row], "reference": next(iter(e.references), "")}
            self._samples.append({"kind": "validation", **kept, "parts": _row(judgement, row)})
        further: Mapping[str, float] = self.validate_further(generator) if self.validate_further else {}
        return {
            **reward_means(judgement),
            "kl": self._divergence(generator, anchor, targets),
            "length": sum(map(len, targets)) / len(targets),
            "finished": sum(finished) / len(finished),
            **text_figures([e.source for e in examples], texts),
            **further,
        }

    @torch.no_grad()
    def _divergence(self, generator: Generator, anchor: Policy, targets: Sequence[Sequence[int]]) -> float:
        """Exact KL of the next-token distributions along the outputs, summed over an output and averaged over outputs."""
        total, size = 0.0, self.decoding.batch_size
        for first in range(0, len(targets), size):
            numbers = range(first, min(first + size, len(targets)))
            written = Padded.from_lists([targets[i] for i in numbers], generator.policy.pad_id, generator.device)
            seen = generator.policy.evaluate(self.validation.padded(numbers, generator), written, anchor)
            total += float(seen.kl.double().sum())
        return total / len(targets)


def _of_output(advantages: Advantages, rollout: Rollout) -> Tensor:
    """The advantage of each output, the mean over its tokens where each token has its own: float64 [n]."""
    values = advantages.values.double()
    return values if values.ndim == 1 else values.sum(1) / rollout.samples.tokens.lengths.cpu().clamp(min=1)


def reward_means(judgement: Judgement) -> dict[str, float]:
    """The mean raw score of each part over the samples that it applies to, and their weighted sum."""
    means = {
        name: float(part.scores[part.applies].double().mean())
        for name, part in judgement.parts.items()
        if bool(part.applies.any())
    }
    total = sum(judgement.parts[name].weight * mean for name, mean in means.items())
    return {"reward": total, **{f"reward/{name}": mean for name, mean in means.items()}}


def _row(judgement: Judgement, row: int) -> dict[str, float]:
    return {name: float(part.scores[row]) for name, part in judgement.parts.items() if bool(part.applies[row])}
