"""What a run works on, read and checked before anything is trained or written: a fault found after hours costs hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from guerdon.data.batches import plan_batches
from guerdon.data.draws import key
from guerdon.data.padded import Padded
from guerdon.data.records import Example, Records, read_examples, read_texts
from guerdon.data.selection import split_by_source
from guerdon.data.tokenizer import Tokenizer
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator, load
from guerdon.metrics.slots import SlotPatterns
from guerdon.models.transformer import Transformer
from guerdon.pipeline.recipe import Recipe
from guerdon.rewards.base import Judged, Reward
from guerdon.rewards.build import RewardContext, build_reward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.stages.finetune import FinetuneConfig, can_drop_merges, encode_pairs
from guerdon.training.engine_rollouts import engine_of
from guerdon.training.rollouts import Prompts

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")
_TRIED = 8  # records that the reward is tried on
_HELD_OUT = 0  # seed of the choice of validation sources: runs of other seeds are validated on the same ones


def split_files(recipe: Recipe) -> dict[str, Path]:
    """The file of each split; what a run is measured on is its last."""
    data = recipe.data
    validation = data.validation if isinstance(data.validation, str) else data.train
    names = {"train": data.train, "validation": validation, **({"test": data.test} if data.test else {})}
    return {split: recipe.data_file(name) for split, name in names.items()}


def measured_split(recipe: Recipe) -> str:
    """The split that systems are measured on."""
    return list(split_files(recipe))[-1]


def measured_data(recipe: Recipe) -> str:
    """What systems are measured on, in words."""
    return recipe.data.test or validation_data(recipe)


def validation_data(recipe: Recipe) -> str:
    """What training is validated on, in words."""
    data = recipe.data
    return data.validation if isinstance(data.validation, str) else f"{data.train} (sources held out)"


def read_records(recipe: Recipe) -> dict[str, Records]:
    """The records of each split. They need references where fine-tuning reads them.

    Raises:
        DataError: for a bad record (unless bad ones are skipped), or a file that cannot be used.
    """
    data, needed = recipe.data, recipe.finetune is not None
    train, held = _training_records(recipe, needed)
    others = {split: path for split, path in split_files(recipe).items() if split != "train"}
    if held is not None:
        del others["validation"]
    read = {split: read_examples(path, data.fields, data.on_error, needs_references=needed) for split, path in others.items()}
    return {"train": train, **({} if held is None else {"validation": held}), **read}


def _training_records(recipe: Recipe, needs_references: bool = False) -> tuple[Records, Records | None]:
    """The training records, and those that are held out of them, where the recipe gives a share."""
    data, path = recipe.data, recipe.data_file(recipe.data.train)
    found = read_examples(path, data.fields, data.on_error, needs_references=needs_references, limit=data.limit)
    if isinstance(data.validation, str):
        return found, None
    left, held = split_by_source(found.examples, data.validation, _HELD_OUT)
    return replace(found, examples=left), replace(found, examples=held, skipped=[])


def reward_context(recipe: Recipe) -> RewardContext:
    """What a recipe's rewards are built from, where no run is going on."""
    return context_of(recipe, _training_records(recipe)[0].examples)


def context_of(recipe: Recipe, train: Sequence[Example], reward_model: Callable[[], Path] | None = None) -> RewardContext:
    """Frequencies are those of the training references; paths are relative to the recipe's folder."""
    texts = [reference for example in train for reference in example.references]
    return RewardContext(texts=texts, folder=recipe.path.parent.resolve(), reward_model=reward_model)


def read_reward(
    recipe: Recipe, records: Mapping[str, Records], reward_model: Callable[[], Path] | None = None
) -> Reward | None:
    """The recipe's reward; None where it has none. ``reward_model`` trains that which the run itself trains, and names it."""
    if not recipe.reward:
        return None
    return build_reward(recipe.reward, context_of(recipe, records["train"].examples, reward_model))


def read_patterns(recipe: Recipe) -> SlotPatterns | None:
    """The patterns that slot errors are counted by; None where the recipe names none."""
    path = recipe.evaluation.slots
    return None if path is None else SlotPatterns.from_file(recipe.resolve(path))


def pretrain_texts(recipe: Recipe, which: str) -> list[str]:
    """The texts of the files that ``pretrain.texts`` or ``pretrain.validation_texts`` names."""
    section = recipe.pretrain
    if section is None:
        return []
    names = section.texts if which == "texts" else section.validation_texts
    return [text for name in names for text in read_texts(recipe.data_file(name), section.field)]


def normalisation(recipe: Recipe) -> NormaliserOptions:
    """How an audit and best-of-n weigh the reward's parts: as training does."""
    return recipe.reinforce.normalisation if recipe.reinforce is not None else NormaliserOptions()


def new_tokenizer(recipe: Recipe, train: Sequence[Example]) -> Tokenizer:
    """Trained on the training sources and references and the texts of pre-training, or taken from the recipe's folder."""
    if recipe.tokenizer.folder:
        return Tokenizer.load(recipe.resolve(recipe.tokenizer.folder))
    texts = [e.source for e in train] + [r for e in train for r in e.references] + pretrain_texts(recipe, "texts")
    return Tokenizer.train(texts, recipe.tokenizer.vocabulary_size)


def new_generator(recipe: Recipe, tokenizer: Callable[[], Tokenizer]) -> Generator:
    """The policy that training begins with: the loaded one, or one with random weights, which depend on the seed alone."""
    if "load" in recipe.model:
        generator = load(recipe.resolve(recipe.model["load"]))
        return Generator(generator.policy.to(default_device()), generator.tokenizer, recipe.decoding)
    own = tokenizer()
    torch.manual_seed(key(recipe.seed, "weights"))
    policy = Transformer(recipe.transformer(own.vocabulary_size))
    return Generator(policy.to(default_device()), own, recipe.decoding)


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_records(recipe: Recipe, records: Mapping[str, Records], reward: Reward | None, slots: SlotPatterns | None) -> None:
    """Refuses records that a later stage would stop at.

    Raises:
        DataError: fewer than two test records, which give no interval; references that are missing where they are read; a
            test source that is a damaged meaning representation, where slot errors are counted.
        ConfigurationError: more sources in a step of reinforcement than there are.
    """
    tested, path = records[measured_split(recipe)].examples, split_files(recipe)[measured_split(recipe)]
    if len(tested) < 2:
        raise DataError("one record gives no interval", where=str(path), cure="give more records to test on")
    for split, reader in _readers(recipe, records, reward).items():
        for number, example in enumerate(records[split].examples, 1):
            if not example.references:
                raise DataError(
                    f"has no references, which {reader}",
                    where=f"{split_files(recipe)[split]}, record {number} ({example.source[:40]!r})",
                    cure="give every record at least one reference",
                )
    section, count = recipe.reinforce, len(records["train"].examples)
    if section is not None and section.sources_per_step > count:
        raise ConfigurationError(
            f"a step takes {section.sources_per_step} sources, and there are {count}",
            where="reinforce.sources_per_step",
            cure=f"give at most {count}",
        )
    if slots is not None:
        for example in tested:
            slots.requirements(example.source)


def _readers(recipe: Recipe, records: Mapping[str, Records], reward: Reward | None) -> dict[str, str]:
    """For each split of which every record needs references, who reads them."""
    if reward is not None and reward.needs_references:
        return dict.fromkeys(records, f"the reward reads ({', '.join(_needing(reward))})")
    readers = {}
    if recipe.audit is not None:
        readers["validation"] = "the audit sets its probes against"
    if recipe.reinforce is not None and recipe.reinforce.mle_weight:
        readers["train"] = "reinforce.mle_weight reads"
    split = measured_split(recipe)
    if any(example.references for example in records[split].examples):
        readers[split] = "other records have"
    return readers


def _needing(reward: Reward) -> list[str]:
    parts = getattr(reward, "parts", None)
    return [reward.name] if parts is None else [part.name for part in parts if part.reward.needs_references]


def try_reward(reward: Reward, examples: Sequence[Example]) -> dict[str, float]:
    """The mean score of each part over the first references, or the sources themselves where there are none.

    Raises:
        RewardError: where the reward cannot judge them.
    """
    tried = examples[:_TRIED]
    judged = Judged.of(
        [e.source for e in tried],
        [e.references[0] if e.references else e.source for e in tried],
        [e.references for e in tried],
        [e.meta for e in tried],
    )
    parts = reward.judge(judged).parts
    return {name: float(p.scores[p.applies].mean()) for name, p in parts.items() if bool(p.applies.any())}


def check_lengths(recipe: Recipe, records: Mapping[str, Records], generator: Generator) -> dict[str, int]:
    """Refuses texts that the policy, or a batch, cannot take; returns what training works on, in numbers.

    Raises:
        DataError: it names the file and the text.
    """
    files, facts = split_files(recipe), {"parameters": sum(p.numel() for p in generator.policy.parameters())}
    for split, found in records.items():
        if split != "train" or (_samples_training(recipe) and not skips_long(recipe)):
            located(files[split], lambda sources: generator.encode_sources(sources), [e.source for e in found.examples])
    if recipe.finetune is not None:
        facts |= _check_pairs(recipe, records, generator, recipe.finetune)
    return facts


def check_engine(recipe: Recipe, records: Mapping[str, Records], generator: Generator) -> None:
    """Refuses an engine of rollouts that is not installed, or that cannot draw from this policy or for these sources; and a
    precision that outputs cannot be decoded in here.

    Raises:
        DataError, MissingExtraError, CapabilityError: as `guerdon.training.engine_rollouts.engine_of`.
        ConfigurationError: as `guerdon.models.policy.Policy.start`.
    """
    policy = generator.policy
    with torch.no_grad():
        policy.start(Padded.from_lists([[policy.end_id]], policy.pad_id, generator.device), 1, recipe.decoding.precision)
    if recipe.reinforce is not None and recipe.reinforce.rollout_engine.kind != "own":
        known = [] if skips_long(recipe) else records["train"].examples  # which of them are left out is not known yet
        engine_of(recipe.reinforce.rollout_engine, generator, Prompts.of(generator, known))


def _check_pairs(
    recipe: Recipe, records: Mapping[str, Records], generator: Generator, config: FinetuneConfig
) -> dict[str, int]:
    if config.bpe_dropout:
        can_drop_merges(generator)
    encoded = {}
    for split, most in (("train", None), ("validation", 1)):  # the first reference alone measures on validation
        pairs = [(e.source, reference) for e in records[split].examples for reference in e.references[:most]]
        encoded[split] = located(
            split_files(recipe)[split], lambda given: encode_pairs(generator, given, config.too_long), pairs
        )
    training = encoded["train"]
    if not len(training):
        raise DataError(
            "every pair is too long for the policy",
            where=str(split_files(recipe)["train"]),
            cure="give shorter texts, or a policy with a larger max_source and max_target",
        )
    located(
        split_files(recipe)["train"],
        lambda pairs: plan_batches(*pairs.lengths(), config.batch.max_tokens, 0, 0, config.batch.max_rows),
        training,
    )
    return {"training pairs": len(training), "fine-tuning steps": config.total_steps(training, recipe.seed)}


def _samples_training(recipe: Recipe) -> bool:
    """Whether outputs are drawn for the training sources."""
    return recipe.reinforce is not None or (recipe.prefer is not None and recipe.prefer.from_reward is not None)


def skips_long(recipe: Recipe) -> bool:
    """Whether training leaves out what is too long for the policy."""
    return recipe.finetune is not None and recipe.finetune.too_long == "skip"


def located(path: Path, work: Callable[[_Given], _Found], given: _Given) -> _Found:
    """``work`` of ``given``; a `DataError` names the file too."""
    try:
        return work(given)
    except DataError as error:
        raise DataError(error.what, where=f"{path}, {error.where}", cure=error.cure) from error
