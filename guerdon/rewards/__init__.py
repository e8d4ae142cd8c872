"""Rewards: what judges an output. They compose by arithmetic: ``0.5 * WordFrequency.from_texts(texts) + 0.5 * RougeL()``."""

from guerdon.rewards.base import Judged, Judgement, Part, Reward
from guerdon.rewards.build import RewardContext, build_reward
from guerdon.rewards.combine import Combined, NamedPart
from guerdon.rewards.encoders import Encoder, FunctionEncoder, PolicyEmbedding, SentenceEncoder
from guerdon.rewards.frequency import WordFrequency
from guerdon.rewards.function import FunctionReward, load_function
from guerdon.rewards.normalise import Normaliser, NormaliserOptions
from guerdon.rewards.overlap import Chrf, RougeL, SentenceBleu
from guerdon.rewards.rules import Length, Pattern, Repetition, RequiredContent
from guerdon.rewards.similarity import SemanticSimilarity

__all__ = [
    "Chrf",
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
    "RougeL",
    "SemanticSimilarity",
    "SentenceBleu",
    "SentenceEncoder",
    "WordFrequency",
    "build_reward",
    "load_function",
]
