"""Validation figures whose good direction is known, so that an option with the other one is refused."""

from __future__ import annotations

from guerdon.errors import ConfigurationError

_HIGHER_IS_BETTER = {
    **dict.fromkeys(("nll", "loss", "kl"), False),
    **dict.fromkeys(("reward", "accuracy", "margin", "bleu", "chrf"), True),
}


def check_direction(name: str, higher_is_better: bool, where: str) -> None:
    """Refuses a direction by which the worst value of a well-known figure would be the best.

    Raises:
        ConfigurationError: it names ``where``, the option that states the direction.
    """
    if _HIGHER_IS_BETTER.get(name, higher_is_better) != higher_is_better:
        raise ConfigurationError(
            f"{where.rsplit('.', 1)[-1]} is {higher_is_better}, so that the worst {name} would be chosen",
            where=where,
            cure=f"give {not higher_is_better}",
        )
