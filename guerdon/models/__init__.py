"""Policies: the own Transformer, and adapters of other libraries' models."""

from guerdon.models.load import load_policy, save_policy
from guerdon.models.options import TransformerOptions
from guerdon.models.policy import Evaluation, Policy
from guerdon.models.transformer import Transformer

__all__ = ["Evaluation", "Policy", "Transformer", "TransformerOptions", "load_policy", "save_policy"]
