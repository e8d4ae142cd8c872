"""Small reward models of every kind, with weights spread out enough that their scores differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers.tiny_models import tiny_t5
from unit.models.test_huggingface_text import backend

from guerdon.data.tokenizer import Tokenizer
from guerdon.models.huggingface import HuggingFacePolicy
from guerdon.models.huggingface_text import HuggingFaceTokenizer
from guerdon.models.options import TransformerOptions
from guerdon.models.reward_folder import HeadMoments, RewardScorer
from guerdon.models.reward_model import RewardModel
from guerdon.models.reward_options import NgramOptions, RewardModelOptions
from guerdon.models.reward_text import Likelihood, RewardText
from guerdon.models.transformer import Transformer

TEXTS = ["name[The Vaults], eatType[pub], near[Café Adriatic]", "the vaults is a pub near café adriatic", "cheap and cheerful"]
SOURCES = [TEXTS[0], "name[Blue Spice]", TEXTS[0], "no meaning", TEXTS[0], "name[Blue Spice]"]
WRITTEN = "The Vaults is a pub . the Cat sat"
OUTPUTS = [WRITTEN, "blue spice", "", "near near near " * 6, WRITTEN, "It is cheap, and it is a pub."]
TOKENIZER = Tokenizer.train(TEXTS * 2, 300)
LIMITS = {"max_source": 90, "max_output": 80}


def transformer(seed: int, **changes: Any) -> Transformer:
    torch.manual_seed(seed)
    given: dict[str, Any] = {
        "width": 16,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "feed_forward": 32,
        "dropout": 0.1,
    }
    given |= {"max_source": 200, "max_target": 90, **changes}
    return Transformer(TransformerOptions(TOKENIZER.vocabulary_size, **given))


def huggingface_tokenizer(policy: HuggingFacePolicy) -> HuggingFaceTokenizer:
    """Of whole words, T5's way."""
    made = backend(["<pad>", "</s>", "<extra>", "<unk>"], "$A </s>", pad_token="<pad>", eos_token="</s>")
    return HuggingFaceTokenizer(made, policy)


def spread(model: RewardModel, seed: int) -> RewardModel:
    """Heads far from where training begins."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (model.head, model.wide, model.inner):
            if part is not None:
                part.weight.normal_(std=0.3, generator=draw)
    return model


def scorer(
    kind: str = "encoder_decoder", seed: int = 0, moments: list[HeadMoments] | None = None, **options: Any
) -> RewardScorer:
    """One with the heads a and b."""
    if kind == "linear":
        options = {"ngrams": NgramOptions(buckets=97), **options}
    made = RewardModelOptions(**{"kind": kind, "heads": ("a", "b"), **LIMITS, **options})
    tokenizer: Any = None if kind == "linear" else TOKENIZER
    backbone: Any = None if kind == "linear" else transformer(seed)
    if kind == "huggingface":
        backbone = HuggingFacePolicy(tiny_t5(seed=seed), max_source=90, max_target=80)
        tokenizer = huggingface_tokenizer(backbone)
    likelihood = Likelihood(transformer(9).eval(), TOKENIZER) if made.surprisal else None
    model = spread(RewardModel(made, backbone), seed)
    if likelihood is not None:
        model.standardise(likelihood.surprisals(SOURCES, OUTPUTS))
    return RewardScorer(model, RewardText(made, tokenizer, likelihood), moments)


VARIANTS: dict[str, dict[str, Any]] = {
    "encoder_decoder": {},
    "all poolings": {"pooling": ("last", "mean", "max"), "hidden": 8},
    "encoder": {"kind": "encoder", "pooling": ("last", "mean")},
    "linear": {"kind": "linear"},
    "hybrid": {"ngrams": NgramOptions(longest=2, buckets=101, gain=2.0), "delexicalise": ("name", "near")},
    "surprisal": {"surprisal": True, "pooling": ("mean",)},
    "linear with surprisal": {"kind": "linear", "surprisal": True},
    "huggingface": {"kind": "huggingface", "pooling": ("last", "max")},
}


def saved(made: RewardScorer, folder: Path) -> Path:
    made.save(folder)
    return folder
