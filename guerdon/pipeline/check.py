"""Whether a recipe can run: data, model and reward are tried, and nothing is trained or written."""

from __future__ import annotations

from guerdon.data.records import Example, read_examples
from guerdon.data.tokenizer import Tokenizer
from guerdon.generator import Generator, load
from guerdon.models.transformer import Transformer
from guerdon.pipeline.recipe import Recipe
from guerdon.pipeline.run import context_of
from guerdon.rewards.base import Judged
from guerdon.rewards.build import build_reward
from guerdon.stages.finetune import encode_pairs
from guerdon.training.rollouts import Prompts

_TRIED = 8


def check_recipe(recipe: Recipe) -> dict[str, object]:
    """What a run would work on: records, tokens, parameters, steps, and the reward of a few references.

    Raises:
        InputError: for whatever in recipe or data a run would stop at.
        RewardError: where the reward cannot judge the first validation references.
    """
    data, facts = recipe.data, dict[str, object]()
    splits = {"train": data.train, "validation": data.validation, **({"test": data.test} if data.test else {})}
    examples: dict[str, list[Example]] = {}
    for split, name in splits.items():
        needed = recipe.finetune is not None
        limit = data.limit if split == "train" else None
        found = read_examples(recipe.data_file(name), data.fields, data.on_error, needs_references=needed, limit=limit)
        examples[split] = found.examples
        facts[f"{split} records"] = len(found.examples)
        facts[f"{split} skipped"] = len(found.skipped)
    generator = _generator(recipe, examples["train"])
    facts["vocabulary"] = generator.policy.vocabulary_size
    facts["parameters"] = sum(parameter.numel() for parameter in generator.policy.parameters())
    if recipe.finetune is not None:
        pairs = [(e.source, reference) for e in examples["train"] for reference in e.references]
        encoded = encode_pairs(generator, pairs, recipe.finetune.too_long)
        facts["training pairs"] = len(encoded)
        facts["fine-tuning steps"] = recipe.finetune.total_steps(encoded, recipe.seed)
    if recipe.reinforce is not None:
        Prompts.of(generator, examples["train"])
        facts["reinforcement steps"] = recipe.reinforce.steps
    if recipe.reward:
        facts.update(_reward_facts(recipe, examples))
    return facts


def _generator(recipe: Recipe, train: list[Example]) -> Generator:
    if "load" in recipe.model:
        return load(recipe.resolve(recipe.model["load"]))
    if recipe.tokenizer.folder:
        tokenizer = Tokenizer.load(recipe.resolve(recipe.tokenizer.folder))
    else:
        texts = [e.source for e in train] + [reference for e in train for reference in e.references]
        tokenizer = Tokenizer.train(texts, recipe.tokenizer.vocabulary_size)
    return Generator(Transformer(recipe.transformer(tokenizer.vocabulary_size)), tokenizer, recipe.decoding)


def _reward_facts(recipe: Recipe, examples: dict[str, list[Example]]) -> dict[str, object]:
    reward = build_reward(recipe.reward, context_of(recipe, examples["train"]))
    tried = [e for e in examples["validation"] if e.references][:_TRIED]
    judged = Judged.of(
        [e.source for e in tried], [e.references[0] for e in tried], [e.references for e in tried], [e.meta for e in tried]
    )
    parts = reward.judge(judged).parts
    return {f"reward {name} of {len(tried)} references": round(float(part.scores.mean()), 4) for name, part in parts.items()}
