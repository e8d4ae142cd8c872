"""Trains text generators against rewards, encoder–decoder models first.

The public names, and nothing else. Those that need torch are imported when they are first used (PEP 562), so that
``import guerdon`` costs next to nothing and a command can answer ``--help`` at once.

To add a name: write it into ``_HOMES``, the block for type checkers and ``__all__``; `tests/unit/test_exports.py` holds the
three together.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from guerdon.errors import (
    CapabilityError,
    CheckpointError,
    ConfigurationError,
    DataError,
    GuerdonError,
    InputError,
    MissingExtraError,
    RewardError,
    TrainingError,
)

if TYPE_CHECKING:
    from guerdon import metrics, rewards
    from guerdon.data.comparisons import Comparison, Rating
    from guerdon.data.judgements import read_comparisons, read_ratings
    from guerdon.data.records import Example, read_examples
    from guerdon.data.tokenizer import Tokenizer
    from guerdon.evaluation.audit import AuditOptions, audit
    from guerdon.evaluation.requirements import Requirement
    from guerdon.evaluation.reward_evaluation import RewardEvaluationOptions, evaluate_reward
    from guerdon.generator import Generator, Output, load
    from guerdon.stages.finetune import FinetuneConfig, finetune
    from guerdon.stages.prefer import prefer
    from guerdon.stages.pretrain import PretrainConfig, pretrain
    from guerdon.stages.reinforce import reinforce
    from guerdon.stages.reward_model import train_reward_model
    from guerdon.training.drawn import comparisons_from_reward
    from guerdon.training.preferences import PreferConfig
    from guerdon.training.reinforcement import ReinforceConfig
    from guerdon.training.reward_training import RewardModelConfig

__version__ = "0.1.0"

__all__ = [
    "AuditOptions",
    "CapabilityError",
    "CheckpointError",
    "Comparison",
    "ConfigurationError",
    "DataError",
    "Example",
    "FinetuneConfig",
    "Generator",
    "GuerdonError",
    "InputError",
    "MissingExtraError",
    "Output",
    "PreferConfig",
    "PretrainConfig",
    "Rating",
    "ReinforceConfig",
    "Requirement",
    "RewardError",
    "RewardEvaluationOptions",
    "RewardModelConfig",
    "Tokenizer",
    "TrainingError",
    "__version__",
    "audit",
    "comparisons_from_reward",
    "evaluate_reward",
    "finetune",
    "load",
    "metrics",
    "prefer",
    "pretrain",
    "read_comparisons",
    "read_examples",
    "read_ratings",
    "reinforce",
    "rewards",
    "train_reward_model",
]

# Where each name that is imported on first use lives; None for a room of guerdon that is public as a whole.
_HOMES = {
    "AuditOptions": "guerdon.evaluation.audit",
    "Comparison": "guerdon.data.comparisons",
    "Example": "guerdon.data.records",
    "FinetuneConfig": "guerdon.stages.finetune",
    "Generator": "guerdon.generator",
    "Output": "guerdon.generator",
    "PreferConfig": "guerdon.training.preferences",
    "PretrainConfig": "guerdon.stages.pretrain",
    "Rating": "guerdon.data.comparisons",
    "ReinforceConfig": "guerdon.training.reinforcement",
    "Requirement": "guerdon.evaluation.requirements",
    "RewardEvaluationOptions": "guerdon.evaluation.reward_evaluation",
    "RewardModelConfig": "guerdon.training.reward_training",
    "Tokenizer": "guerdon.data.tokenizer",
    "audit": "guerdon.evaluation.audit",
    "comparisons_from_reward": "guerdon.training.drawn",
    "evaluate_reward": "guerdon.evaluation.reward_evaluation",
    "finetune": "guerdon.stages.finetune",
    "load": "guerdon.generator",
    "metrics": None,
    "prefer": "guerdon.stages.prefer",
    "pretrain": "guerdon.stages.pretrain",
    "read_comparisons": "guerdon.data.judgements",
    "read_examples": "guerdon.data.records",
    "read_ratings": "guerdon.data.judgements",
    "reinforce": "guerdon.stages.reinforce",
    "rewards": None,
    "train_reward_model": "guerdon.stages.reward_model",
}

if not TYPE_CHECKING:  # a type checker must not take every name for an attribute

    def __getattr__(name: str) -> object:
        """Imports a public name on its first use."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = _HOMES[name]
        value = import_module(f"guerdon.{name}") if home is None else getattr(import_module(home), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """The public names beside what is loaded already."""
        return sorted({*globals(), *__all__})
