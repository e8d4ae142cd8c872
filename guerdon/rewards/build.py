"""Rewards from a recipe's reward section.

The section is a list of parts, each with its ``type``, ``weight`` (1 where left out), ``name`` (the reward's own where left
out) and the options of its type::

    reward:
      - {type: word_frequency, weight: 0.5}
      - {type: similarity, weight: 0.5, several: max}

The options of a type are the arguments of the function of that name below (``from`` is ``from_`` there: a word of Python's).
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from guerdon.errors import ConfigurationError, nearest
from guerdon.models.precision import InferencePrecision
from guerdon.models.reward_folder import RewardScorer, load_scorers
from guerdon.rewards.base import Reward
from guerdon.rewards.combine import Combined, NamedPart
from guerdon.rewards.concurrent import Concurrent
from guerdon.rewards.encoders import SentenceEncoder
from guerdon.rewards.frequency import Reduction, WordFrequency
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.learned import Ensemble, LearnedOptions, LearnedReward
from guerdon.rewards.overlap import SentenceBleu, SentenceChrf, SentenceRougeL
from guerdon.rewards.remote import HttpReward
from guerdon.rewards.rules import Length, Pattern, Repetition, RequiredContent
from guerdon.rewards.sentence_models import DEFAULT_ENCODER
from guerdon.rewards.similarity import SemanticSimilarity

OWN = "reward_model"
"""What ``from`` names the reward model that the run itself trains."""


@dataclass(frozen=True)
class RewardContext:
    """What a recipe's rewards are built from.

    Attributes:
        texts: the training targets, for frequencies.
        folder: what relative paths are relative to.
        reward_model: trains the run's own reward model where that is still to do, and names its folder; None where there is
            no such run.
    """

    texts: Sequence[str] = ()
    folder: Path = field(default_factory=Path)
    reward_model: Callable[[], Path] | None = None


def build_reward(spec: Sequence[Mapping[str, Any]] | Mapping[str, Any], context: RewardContext | None = None) -> Combined:
    """The reward of a recipe's section.

    Args:
        spec: the list of parts, or one part alone.
        context: where texts and files come from.

    Raises:
        ConfigurationError: for an unknown type or option (the nearest name is suggested), a value of another kind, and whatever
            the reward's own constructor refuses.
    """
    parts = [spec] if isinstance(spec, Mapping) else list(spec)
    return Combined(_part(part, number, context or RewardContext()) for number, part in enumerate(parts, start=1))


def word_frequency(
    context: RewardContext,
    *,
    language: str | None = None,
    splitter: str | None = None,
    lowercase: bool | None = None,
    smoothing: float | None = None,
    reduction: Reduction = "mean",
) -> WordFrequency:
    """`WordFrequency` of the training targets, or of a language."""
    counting = {"splitter": splitter, "lowercase": lowercase, "smoothing": smoothing}
    given = {name: value for name, value in counting.items() if value is not None}
    if language is None:
        return WordFrequency.from_texts(context.texts, reduction=reduction, **given)  # type: ignore[arg-type]
    if given:
        raise ConfigurationError(
            f"{next(iter(given))} is about counting the training texts, but a language is given",
            where="word_frequency",
            cure="leave out the one or the other",
        )
    return WordFrequency.from_language(language, reduction)


def similarity(
    context: RewardContext,
    *,
    encoder: str = DEFAULT_ENCODER,
    several: Literal["max", "mean"] = "max",
    device: str = "cpu",
    precision: InferencePrecision = "float32",
) -> SemanticSimilarity:
    """`SemanticSimilarity` with a sentence-transformers model, by name or by a folder."""
    folder = context.folder / encoder
    return SemanticSimilarity(
        SentenceEncoder(folder if folder.is_dir() else encoder, device=device, precision=precision), several
    )


def bleu(context: RewardContext, *, lowercase: bool = False, tokenize: str = "13a") -> SentenceBleu:
    """`SentenceBleu`."""
    return SentenceBleu(lowercase, tokenize)


def chrf(context: RewardContext, *, word_order: int = 0, lowercase: bool = False) -> SentenceChrf:
    """`SentenceChrf`."""
    return SentenceChrf(lowercase, word_order)


def rouge_l(context: RewardContext) -> SentenceRougeL:
    """`SentenceRougeL`."""
    return SentenceRougeL()


def length(context: RewardContext, *, minimum: int, maximum: int, falloff: int = 10, splitter: str = "unicode") -> Length:
    """`Length`."""
    return Length(minimum, maximum, falloff, splitter)


def repetition(context: RewardContext, *, n: int = 3, lowercase: bool = True, splitter: str = "unicode") -> Repetition:
    """`Repetition`."""
    return Repetition(n, lowercase, splitter)


def required_content(context: RewardContext, *, patterns: str | None = None, field: str | None = None) -> RequiredContent:
    """`RequiredContent`; ``patterns`` is a YAML file."""
    return RequiredContent(None if patterns is None else context.folder / patterns, field)


def pattern(context: RewardContext, *, must: list[str] | None = None, must_not: list[str] | None = None) -> Pattern:
    """`Pattern`."""
    return Pattern(must or (), must_not or ())


def function(
    context: RewardContext,
    *,
    function: str,
    needs_references: bool = False,
    scores_prefixes: bool = False,
    workers: int | None = None,
    batch_size: int = 16,
    timeout: float | None = None,
    retries: int = 0,
) -> Reward:
    """`FunctionReward`; a module that is not installed is looked for in the recipe's folder. With ``workers``, `Concurrent`."""
    made = FunctionReward(function, None, needs_references, context.folder, scores_prefixes)
    if workers is not None:
        return Concurrent(made, workers, batch_size, timeout, retries)
    if (batch_size, timeout, retries) != (16, None, 0):
        raise ConfigurationError(
            "batch_size, timeout and retries are for several calls at a time", where="function", cure="give workers too"
        )
    return made


def http(
    context: RewardContext,
    *,
    url: str,
    workers: int = 4,
    batch_size: int = 16,
    timeout: float = 30.0,
    retries: int = 3,
    headers: dict[str, str] | None = None,
    needs_references: bool = False,
    meta: bool = False,
) -> Concurrent:
    """`HttpReward`, several requests at a time."""
    made = HttpReward(url, "http", timeout, retries, headers, needs_references, meta)
    return Concurrent(made, workers, batch_size)


def learned(
    context: RewardContext,
    *,
    from_: str | list[str],
    heads: dict[str, float] | None = None,
    ensemble: Ensemble = "mean",
    penalty: float | None = None,
    centre: bool = True,
    debias_length: bool = False,
    clip: float | None = None,
) -> LearnedReward:
    """`LearnedReward`; ``from`` is ``reward_model`` for the one that the run itself trains, or a folder, or several folders.

    That of the run is opened when it is trained, the others at once.
    """
    options = LearnedOptions(heads or {}, ensemble, penalty, centre, debias_length, clip)
    names = [from_] if isinstance(from_, str) else from_
    if names == [OWN] and not (context.folder / OWN).is_dir():
        return LearnedReward(functools.partial(_of_run, context.reward_model), options)
    return LearnedReward([scorer for name in names for scorer in load_scorers(context.folder / name)], options)


def _of_run(folder: Callable[[], Path] | None) -> Sequence[RewardScorer]:
    if folder is None:
        raise ConfigurationError(
            "this reward model is trained by a run of the recipe, and there is none here",
            where="learned.from",
            cure="name the run's folder instead of the recipe, or the folder of a reward model in the recipe",
        )
    return load_scorers(folder())


TYPES: dict[str, Callable[..., Reward]] = {
    "word_frequency": word_frequency,
    "similarity": similarity,
    "bleu": bleu,
    "chrf": chrf,
    "rouge_l": rouge_l,
    "length": length,
    "repetition": repetition,
    "required_content": required_content,
    "pattern": pattern,
    "function": function,
    "http": http,
    "learned": learned,
}
"""How each type of part is made, from the context and its options."""


def _part(part: Mapping[str, Any], number: int, context: RewardContext) -> NamedPart:
    where = f"reward part {number}"
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise ConfigurationError(
            f"{part!r} has no type", where=where, cure=f"write {{type: ...}} with one of {', '.join(TYPES)}"
        )
    options = dict(part)
    kind, weight, name = options.pop("type"), options.pop("weight", 1.0), options.pop("name", None)
    if kind not in TYPES:
        raise ConfigurationError(f"there is no reward type {kind!r}", where=where, cure=nearest(kind, TYPES))
    where = f"{where} ({kind})"
    weight = _checked("weight", weight, float, where)
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ConfigurationError(f"its name is {name!r}", where=where, cure="give a text, or leave it out")
    reward = TYPES[kind](context, **_checked_options(TYPES[kind], options, where))
    return NamedPart(name or reward.name, weight, reward)


def _checked_options(made: Callable[..., Reward], options: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The options, checked against the types that the function's signature gives."""
    hints = typing.get_type_hints(made)
    parameters = inspect.signature(made).parameters.items()
    known = {n.removesuffix("_"): p for n, p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    for option in options:
        if option not in known:
            cure = nearest(str(option), known) if known else "it has no options; leave it out"
            raise ConfigurationError(f"there is no option {option!r}", where=where, cure=cure)
    for option, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise ConfigurationError(f"the option {option!r} is missing", where=where, cure="give it")
    names = {option: known[option].name for option in options}
    return {names[option]: _checked(option, value, hints[names[option]], where) for option, value in options.items()}


def _checked(option: str, value: Any, hint: Any, where: str) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigurationError(f"{option} is {value!r}: {problem}", where=where, cure="change its value") from error
