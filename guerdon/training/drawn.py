"""Comparisons of a policy's own outputs, made by a reward: what lets a preference loss train on a reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from guerdon.data.comparisons import Comparison
from guerdon.data.records import Example
from guerdon.decoding import DecodingOptions, LengthLimit, SamplingOptions
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator, Output
from guerdon.rewards.base import Judged, Reward
from guerdon.rewards.normalise import NormaliserOptions, comparable_rewards
from guerdon.training.progress import Progressing, Silent

UNUSABLE = "fewer than two samples that ended"
UNDECIDED = "samples of one reward"
_JUDGED_TOGETHER = 1024


@dataclass(frozen=True)
class FromReward:
    """How comparisons are drawn.

    Attributes:
        samples: outputs that are drawn for each source, of which the best and the worst become a comparison.
        temperature: of the distribution they are drawn from.
    """

    samples: int = 8
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ConfigurationError(
                f"{self.samples} leaves nothing to compare", where="prefer.from_reward.samples", cure="give at least 2"
            )
        SamplingOptions(temperature=self.temperature)


@dataclass(frozen=True)
class Drawn:
    """Comparisons, at most one for each source, and how many sources gave none, by reason."""

    comparisons: list[Comparison]
    dropped: Mapping[str, int]


def comparisons_from_reward(
    generator: Generator,
    reward: Reward,
    examples: Sequence[Example],
    samples: int = 8,
    temperature: float = 0.7,
    seed: int = 0,
    limit: LengthLimit | None = None,
    normalisation: NormaliserOptions | None = None,
    progress: Progressing | None = None,
) -> Drawn:
    """Draws outputs for each source, and pairs the best with the worst by the reward.

    A function of (weights, seed, examples) alone. An output that was cut at its length limit is in no comparison: as a text it
    would end where the policy did not end it. A composed reward weighs its parts on one scale over all samples, as best-of-n
    does. The reward of both outputs stands in ``meta`` of each comparison.

    Args:
        generator: its policy is sampled.
        reward: judges the samples.
        examples: sources, with references where the reward reads them.
        samples, temperature: see `FromReward`.
        seed: of the samples.
        limit: longest output; by default that of the generator's own decoding options.
        normalisation: how the reward's parts are brought on one scale.
        progress: is told how far it is.

    Raises:
        ConfigurationError: for options that cannot be.
        DataError: where not one source gives a comparison, or there are none.
        RewardError: when the reward fails.
    """
    FromReward(samples, temperature)
    if not examples:
        raise DataError("there are no sources to draw outputs for", where="prefer", cure="give examples")
    options = DecodingOptions(
        method="sample",
        returned=samples,
        temperature=temperature,
        limit=limit or generator.decoding.limit,
        batch_size=32,
        seed=seed,
    )
    groups = _draw(generator, [e.source for e in examples], options, progress or Silent())
    rewards, kept = _judge(reward, examples, groups, normalisation or NormaliserOptions())
    found, dropped = list[Comparison](), Counter[str]()
    for number, (example, group) in enumerate(zip(examples, groups, strict=True)):
        span = slice(number * samples, (number + 1) * samples)
        scored = zip(rewards[span].tolist(), kept[span].tolist(), _usable(generator, group), group, strict=True)
        judged = [(value, output.text) for value, counts, usable, output in scored if counts and usable]
        made = _best_and_worst(example, judged) if len(judged) > 1 else None
        if made is not None:
            found.append(made)
        else:
            dropped[UNDECIDED if len(judged) > 1 else UNUSABLE] += 1
    if not found:
        raise _nothing(dropped)
    return Drawn(found, dict(dropped))


def _nothing(dropped: Mapping[str, int]) -> DataError:
    reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.items())
    return DataError(
        f"no source gives a comparison: {reasons}",
        where="prefer.from_reward",
        cure="draw more samples, raise the temperature or decoding.limit, or choose another reward",
    )


def _draw(generator: Generator, sources: Sequence[str], options: DecodingOptions, progress: Progressing) -> list[list[Output]]:
    progress.begin(f"draw {options.returned} outputs a source", len(sources))
    found = generator.generate(sources, options, advance=lambda done: progress.advance(done, {}))
    progress.end()
    return found


def _usable(generator: Generator, outputs: Sequence[Output]) -> list[bool]:
    """Whether each can be a record: it ended, holds no NUL, and is short enough once its text is encoded anew."""
    lengths = [len(ids) for ids in generator.tokenizer.encode_targets([output.text for output in outputs])]
    longest = generator.policy.max_target
    return [o.finished and "\0" not in o.text and n <= longest for o, n in zip(outputs, lengths, strict=True)]


def _judge(
    reward: Reward, examples: Sequence[Example], groups: Sequence[Sequence[Output]], options: NormaliserOptions
) -> tuple[Tensor, Tensor]:
    """The reward of every sample, and whether it has one, source by source."""
    flat = [(example, output) for example, group in zip(examples, groups, strict=True) for output in group]
    portions = [flat[first : first + _JUDGED_TOGETHER] for first in range(0, len(flat), _JUDGED_TOGETHER)]
    return comparable_rewards([reward.judge(_judged(portion)) for portion in portions], options)


def _judged(samples: Sequence[tuple[Example, Output]]) -> Judged:
    examples, outputs = [example for example, _ in samples], [output for _, output in samples]
    return Judged.of(
        [e.source for e in examples],
        [o.text for o in outputs],
        [e.references for e in examples],
        [e.meta for e in examples],
        [o.finished for o in outputs],
    )


def _best_and_worst(example: Example, judged: Sequence[tuple[float, str]]) -> Comparison | None:
    """Of equal rewards the earlier sample; None where all rewards are equal."""
    best, worst = max(judged, key=lambda entry: entry[0]), min(judged, key=lambda entry: entry[0])
    if best[0] == worst[0]:
        return None
    meta = {"rewards": [best[0], worst[0]], **({} if example.id is None else {"id": example.id})}
    return Comparison.of_pair(example.source, best[1], worst[1], references=example.references, meta=meta)
