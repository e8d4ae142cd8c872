"""Rewards: what judges an output, and how several judgements become one number that a policy is trained on."""

from guerdon.rewards.base import Judged, Judgement, Part, Reward
from guerdon.rewards.build import RewardContext, build_reward
from guerdon.rewards.combine import Combined, NamedPart
from guerdon.rewards.encoders import PolicyEmbedding, SentenceEncoder
from guerdon.rewards.frequency import WordFrequency
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.normalise import Normaliser, NormaliserOptions
from guerdon.rewards.overlap import SentenceBleu, SentenceChrf, SentenceRougeL
from guerdon.rewards.rules import Length, Pattern, Repetition, RequiredContent
from guerdon.rewards.similarity import SemanticSimilarity

__all__ = [
    "Combined",
    "FunctionReward",
    "Judged",
    "Judgement",
    "Length",
    "NamedPart",
    "Normaliser",
    "NormaliserOptions",
    "Part",
    "Pattern",
    "PolicyEmbedding",
    "Repetition",
    "RequiredContent",
    "Reward",
    "RewardContext",
    "SemanticSimilarity",
    "SentenceBleu",
    "SentenceChrf",
    "SentenceEncoder",
    "SentenceRougeL",
    "WordFrequency",
    "build_reward",
]
