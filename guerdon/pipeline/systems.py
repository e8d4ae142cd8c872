"""The systems of one evaluation: the policies of a run, and choices among samples of the fine-tuned one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch

from guerdon.data.records import Example
from guerdon.decoding import BeamOptions, DecodingOptions, best_of_n, minimum_bayes_risk
from guerdon.evaluation.measures import SystemOutputs
from guerdon.generator import Generator, Output
from guerdon.metrics.base import MeanMetric
from guerdon.metrics.chrf import Chrf
from guerdon.metrics.slots import SlotPatterns, slot_errors
from guerdon.rewards.base import Judged, Reward
from guerdon.rewards.normalise import NormaliserOptions, comparable_rewards
from guerdon.training.progress import Progressing

LABELS = {
    "pretrained": "pre-trained",
    "finetuned": "fine-tuned",
    "preferred": "trained on comparisons",
    "reinforced": "reinforced",
    "shuffled": "control: shuffled rewards",
    "constant": "control: constant reward",
    "best_of_n": "best of {n} samples by the reward",
    "mbr": "minimum Bayes risk over {n} samples",
}


SLOT_ERRORS = MeanMetric("slot_errors", label="slot errors per output", higher_is_better=False)


class Written(NamedTuple):
    """A text, and whether it ended by itself."""

    text: str
    finished: bool


@dataclass(frozen=True)
class Writer:
    """Writes and judges outputs for one list of test examples.

    Attributes:
        examples: what is answered.
        reward: what judges the outputs; None where the recipe has none.
        normalisation: how the reward's parts are brought on one scale, where best-of-n weighs them.
        slots: patterns that count slot errors; None where there are none.
        decoding: of the policies.
        progress: is told how far it is.
        judges: rewards of one part that were not optimised, by the name of the measure.
    """

    examples: Sequence[Example]
    reward: Reward | None
    normalisation: NormaliserOptions
    slots: SlotPatterns | None
    decoding: DecodingOptions
    progress: Progressing
    judges: Mapping[str, Reward] = field(default_factory=dict)

    @property
    def numbers(self) -> list[MeanMetric]:
        """The measures that are means of one number for each output."""
        judged = [MeanMetric(name, label=name.replace("_", ": ", 1), higher_is_better=True) for name in self.judges]
        return ([SLOT_ERRORS] if self.slots is not None else []) + judged

    @cached_property
    def sources(self) -> list[str]:
        """The texts to answer."""
        return [example.source for example in self.examples]

    def of_policy(self, name: str, generator: Generator) -> SystemOutputs:
        """A policy's own outputs, by the recipe's decoding."""
        return self.system(name, LABELS[name], self.outputs(name, generator), describe(self.decoding))

    def outputs(self, what: str, generator: Generator) -> list[Written]:
        """A policy's outputs, by the recipe's decoding."""
        return [Written(found[0].text, found[0].finished) for found in self._generate(what, generator, self.decoding)]

    def of_samples(self, names: Sequence[str], generator: Generator, count: int, temperature: float) -> list[SystemOutputs]:
        """Best-of-n and minimum Bayes risk, where ``names`` has them, over the same samples."""
        options = DecodingOptions(
            method="sample",
            returned=count,
            temperature=temperature,
            limit=self.decoding.limit,
            batch_size=32,
            seed=self.decoding.seed,
        )
        samples = self._generate(f"{count} samples", generator, options)
        texts = [[output.text for output in group] for group in samples]
        found = []
        for name in names:
            if name == "best_of_n":
                chosen, how = best_of_n(texts, self._preference(samples)), "the reward"
                how += " (which reads the test references: an oracle)" if self.reward and self.reward.needs_references else ""
            else:
                chosen, how = minimum_bayes_risk(texts, Chrf().sentence), "expected chrF against the other samples"
            outputs = [Written(group[i].text, group[i].finished) for group, i in zip(samples, chosen, strict=True)]
            decoding = f"of {count} samples at temperature {temperature:g}, the best by {how}"
            found.append(self.system(name, LABELS[name].format(n=count), outputs, decoding, count * len(outputs)))
        return found

    def rows(self, system: SystemOutputs) -> list[Mapping[str, object]]:
        """The lines of ``outputs/<system>.jsonl``."""
        return [
            {"id": e.id, "source": e.source, "references": list(e.references), "output": text}
            for e, text in zip(self.examples, system.outputs, strict=True)
        ]

    def _generate(self, what: str, generator: Generator, options: DecodingOptions) -> list[list[Output]]:
        self.progress.begin(f"write: {what}", len(self.sources))
        found = generator.generate(self.sources, options, advance=lambda done: self.progress.advance(done, {}))
        self.progress.end()
        return found

    def system(
        self, name: str, label: str, outputs: Sequence[Written], decoding: str, generated: int | None = None
    ) -> SystemOutputs:
        """Outputs, one for each example, with all that is said of them."""
        texts, finished = [output.text for output in outputs], [output.finished for output in outputs]
        numbers = {}
        if self.slots is not None:
            numbers[SLOT_ERRORS.name] = [float(check.errors) for check in slot_errors(self.slots, self.sources, texts)]
        judged = self._judged(self.examples, texts, finished)
        for measure, judge in self.judges.items():
            (part,) = judge.judge(judged).parts.values()
            numbers[measure] = part.scores.tolist()
        judgement = None if self.reward is None else self.reward.judge(judged)
        return SystemOutputs(name, label, texts, decoding, generated, finished, judgement, numbers)

    def _judged(self, examples: Sequence[Example], texts: Sequence[str], finished: Sequence[bool]) -> Judged:
        return Judged.of(
            [e.source for e in examples], texts, [e.references for e in examples], [e.meta for e in examples], finished
        )

    def _preference(self, samples: Sequence[Sequence[Output]]) -> torch.Tensor:
        """The reward of every sample, parts weighed as in training."""
        assert self.reward is not None, "the recipe validates that best_of_n has a reward"
        flat = [(example, output) for example, group in zip(self.examples, samples, strict=True) for output in group]
        judged = []
        for first in range(0, len(flat), 1024):
            chunk = flat[first : first + 1024]
            judged.append(self._judged([e for e, _ in chunk], [o.text for _, o in chunk], [o.finished for _, o in chunk]))
        return comparable_rewards([self.reward.judge(part) for part in judged], self.normalisation)[0]


def describe(options: DecodingOptions) -> str:
    """Decoding in a few words: the method, a beam's size, and what differs from the defaults."""
    search = options.search()
    if search is None:
        return "greedy"
    defaults = vars(type(search)())
    given = [f"{name.replace('_', ' ')} {value}" for name, value in vars(search).items() if value != defaults[name]]
    size = [f"size {search.beam_size}"] if isinstance(search, BeamOptions) else []
    return ", ".join([options.method, *size, *(text for text in given if not text.startswith(("beam size", "returned")))])
