"""Whether a recipe can run: data, model and reward are tried, and nothing is trained or written."""

from __future__ import annotations

from guerdon.pipeline.judgements import judgement_counts, read_judgements
from guerdon.pipeline.preferences import check_preferences, read_preferences
from guerdon.pipeline.prepare import (
    check_engine,
    check_lengths,
    check_records,
    new_generator,
    new_tokenizer,
    read_patterns,
    read_records,
    read_reward,
    try_reward,
)
from guerdon.pipeline.recipe import Recipe
from guerdon.training.progress import Silent


def check_recipe(recipe: Recipe) -> dict[str, object]:
    """What a run would work on: records, tokens, parameters, steps, and the reward of a few references.

    Raises:
        InputError: for whatever in recipe or data a run would stop at.
        RewardError: where the reward cannot judge the first validation references.
    """
    records, facts = read_records(recipe), dict[str, object]()
    for split, found in records.items():
        facts[f"{split} records"] = len(found.examples)
        facts[f"{split} skipped"] = len(found.skipped)
    reward = read_reward(recipe, records)
    check_records(recipe, records, reward, read_patterns(recipe))
    generator = new_generator(recipe, lambda: new_tokenizer(recipe, records["train"].examples))
    facts["vocabulary"] = generator.policy.vocabulary_size
    facts |= check_lengths(recipe, records, generator)
    check_engine(recipe, records, generator)
    facts |= check_preferences(recipe, read_preferences(recipe), records, generator, Silent())
    if recipe.reinforce is not None:
        facts["reinforcement steps"] = recipe.reinforce.steps
    facts |= judgement_counts(read_judgements(recipe))
    if reward is not None and not recipe.waits:
        means = try_reward(reward, records["validation"].examples)
        facts |= {f"reward {name} of the first references": round(mean, 4) for name, mean in means.items()}
    return facts
