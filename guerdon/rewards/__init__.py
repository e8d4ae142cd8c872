"""Rewards: what judges an output. They compose by arithmetic: ``0.5 * SentenceBleu() + 0.5 * SentenceRougeL()``."""

from guerdon.rewards.base import Judged, Judgement, Part, Reward
from guerdon.rewards.build import RewardContext, build_reward
from guerdon.rewards.combine import Combined, NamedPart
from guerdon.rewards.encoders import Encoder, FunctionEncoder, PolicyEmbedding, SentenceEncoder
from guerdon.rewards.frequency import WordFrequency
from guerdon.rewards.function import FunctionReward, load_function
from guerdon.rewards.normalise import Normaliser, NormaliserOptions
from guerdon.rewards.overlap import SentenceBleu, SentenceChrf, SentenceRougeL
from guerdon.rewards.rules import Length, Pattern, Repetition, RequiredContent
from guerdon.rewards.similarity import SemanticSimilarity

__all__ = [
    "Combined",
    "Encoder",
    "FunctionEncoder",
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
    "load_function",
]
