"""Rewards: what judges an output. They compose by arithmetic: ``0.5 * SentenceBleu() + 0.5 * SentenceRougeL()``."""

from guerdon.rewards.base import Judged, Judgement, Part, Reward
from guerdon.rewards.build import RewardContext, build_reward
from guerdon.rewards.combine import Combined, NamedPart
from guerdon.rewards.concurrent import Concurrent
from guerdon.rewards.encoders import Encoder, FunctionEncoder, PolicyEmbedding, SentenceEncoder
from guerdon.rewards.frequency import WordFrequency
from guerdon.rewards.function import FunctionReward, load_function
from guerdon.rewards.learned import LearnedOptions, LearnedReward
from guerdon.rewards.normalise import Normaliser, NormaliserOptions
from guerdon.rewards.overlap import SentenceBleu, SentenceChrf, SentenceRougeL
from guerdon.rewards.remote import HttpReward
from guerdon.rewards.rules import Length, Pattern, Repetition, RequiredContent
from guerdon.rewards.shaping import check_shaping, judge_prefixes
from guerdon.rewards.similarity import SemanticSimilarity
from guerdon.rewards.weighting import ConstraintOptions, ScheduleOptions, Weighting

__all__ = [
    "Combined",
    "Concurrent",
    "ConstraintOptions",
    "Encoder",
    "FunctionEncoder",
    "FunctionReward",
    "HttpReward",
    "Judged",
    "Judgement",
    "LearnedOptions",
    "LearnedReward",
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
    "ScheduleOptions",
    "SemanticSimilarity",
    "SentenceBleu",
    "SentenceChrf",
    "SentenceEncoder",
    "SentenceRougeL",
    "Weighting",
    "WordFrequency",
    "build_reward",
    "check_shaping",
    "judge_prefixes",
    "load_function",
]
