"""Rewards from a recipe's section ``reward``: a list of parts, each with a type, a weight and its own options."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guerdon.errors import ConfigurationError
from guerdon.rewards.base import Reward
from guerdon.rewards.combine import Combined, NamedPart
from guerdon.rewards.encoders import DEFAULT_ENCODER
from guerdon.rewards.frequency import WordFrequency
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.overlap import SentenceBleu, SentenceChrf, SentenceRougeL
from guerdon.rewards.rules import Length, Pattern, Repetition, RequiredContent
from guerdon.rewards.similarity import SemanticSimilarity


@dataclass(frozen=True)
class RewardContext:
    """What rewards are built from beside their options.

    Attributes:
        texts: the training references, whose words are counted.
        folder: what relative paths are relative to.
    """

    texts: Sequence[str]
    folder: Path


def build_reward(parts: Iterable[Mapping[str, Any]], context: RewardContext) -> Combined:
    """The weighted sum that a recipe describes.

    Args:
        parts: each ``{type, weight = 1, name?, options}``; the types are those of `TYPES`.
        context: the training texts, and the folder of relative paths.

    Raises:
        ConfigurationError: for a type or option that does not exist (the nearest is named), or a value that cannot be.
        MissingExtraError: where a part needs a package that is not installed.
    """
    return Combined([_part(number, dict(part), context) for number, part in enumerate(parts, 1)])


def _part(number: int, options: dict[str, Any], context: RewardContext) -> NamedPart:
    kind, weight, name = options.pop("type", None), options.pop("weight", 1.0), options.pop("name", None)
    where = f"reward part {number}"
    if kind not in TYPES:
        near = difflib.get_close_matches(str(kind), TYPES, 1)
        cure = f"did you mean {near[0]!r}?" if near else f"the types are {', '.join(TYPES)}"
        raise ConfigurationError(f"there is no type {kind!r}", where=where, cure=cure)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ConfigurationError(f"its weight is {weight!r}", where=f"{where} ({kind})", cure="give a number")
    make = TYPES[kind]
    _check_options(make, options, f"{where} ({kind})")
    reward = make(context, **options)
    return NamedPart(name or reward.name, float(weight), reward)


def _check_options(make: Callable[..., Reward], options: Mapping[str, Any], where: str) -> None:
    """Refuses options that the part does not have, and says which are missing."""
    known = list(inspect.signature(make).parameters.values())[1:]
    names = [parameter.name for parameter in known]
    for option in options:
        if option not in names:
            near = difflib.get_close_matches(option, names, 1)
            cure = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(names) or 'none'}"
            raise ConfigurationError(f"there is no option {option!r}", where=where, cure=cure)
    for parameter in known:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ConfigurationError(f"the option {parameter.name!r} is missing", where=where, cure="add it")


def _word_frequency(
    context: RewardContext,
    language: str | None = None,
    reduction: str = "mean",
    splitter: str = "unicode",
    lowercase: bool = True,
    smoothing: float = 1.0,
) -> Reward:
    """Of the training references; or of a language, where one is named."""
    if language is not None:
        return WordFrequency.from_language(language, reduction)  # type: ignore[arg-type]
    return WordFrequency.from_texts(context.texts, splitter, lowercase, reduction, smoothing)  # type: ignore[arg-type]


def _similarity(context: RewardContext, encoder: str = DEFAULT_ENCODER, several: str = "max") -> Reward:
    local = context.folder / encoder
    return SemanticSimilarity(local if local.is_dir() else encoder, several)  # type: ignore[arg-type]


def _required_content(context: RewardContext, patterns: str | None = None, field: str | None = None) -> Reward:
    return RequiredContent(None if patterns is None else context.folder / patterns, field)


def _function(context: RewardContext, function: str, name: str | None = None, needs_references: bool = False) -> Reward:
    return FunctionReward(function, name, needs_references, context.folder)


def _without_context(kind: Callable[..., Reward]) -> Callable[..., Reward]:
    """A reward that is made of its options alone; its signature is the constructor's behind the context."""

    def make(context: RewardContext, **options: Any) -> Reward:
        return kind(**options)

    own = inspect.signature(kind).parameters.values()
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    make.__signature__ = inspect.Signature([first, *own])  # type: ignore[attr-defined]
    return make


TYPES: dict[str, Callable[..., Reward]] = {
    "word_frequency": _word_frequency,
    "similarity": _similarity,
    "bleu": _without_context(SentenceBleu),
    "chrf": _without_context(SentenceChrf),
    "rouge_l": _without_context(SentenceRougeL),
    "length": _without_context(Length),
    "repetition": _without_context(Repetition),
    "required_content": _required_content,
    "pattern": _without_context(Pattern),
    "function": _function,
}
"""How each type of part is made, from the context and its options."""
