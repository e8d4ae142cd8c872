"""A trained reward model with its text side and its moments: what scores texts, and what its folder holds.

``config.json`` (options, moments and temperature of each head), ``model.safetensors``, ``tokenizer.json``; the frozen policy
of surprisals in ``policy/``; a Hugging Face backbone and its tokenizer in ``backbone/``; the members of an ensemble in
``member-1/`` and so on.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guerdon.data.files import reported, write_atomically
from guerdon.data.tokenizer import Tokenizer
from guerdon.errors import CheckpointError, ConfigurationError, DataError
from guerdon.models.load import CONFIG, WEIGHTS, load_policy, load_weights, read_config, save_policy, save_tensors
from guerdon.models.options import TransformerOptions
from guerdon.models.reward_model import RewardModel, read_texts
from guerdon.models.reward_options import RewardModelOptions
from guerdon.models.reward_text import EncodedTexts, Likelihood, RewardText
from guerdon.models.transformer import Transformer

KIND, ENSEMBLE = "reward_model", "reward_models"
_VERSION = 1


@dataclass(frozen=True)
class HeadMoments:
    """What is known of a head's scores on the texts that it was trained on.

    Attributes:
        mean: of the scores.
        words: mean length of the outputs, in words.
        slope: score that a word brings, by least squares of the scores on the lengths.
        temperature: what differences of scores are divided by to be calibrated log-odds.
    """

    mean: float = 0.0
    words: float = 0.0
    slope: float = 0.0
    temperature: float = 1.0

    @classmethod
    def measure(cls, scores: Tensor, words: Sequence[int], temperature: float = 1.0) -> HeadMoments:
        """Those of scores [n] and of the lengths of their outputs, in float64."""
        values, lengths = scores.double(), torch.tensor(words, dtype=torch.float64)
        far = lengths - lengths.mean()
        spread = float(far.square().sum())
        slope = float((far * values).sum()) / spread if spread else 0.0
        return cls(float(values.mean()), float(lengths.mean()), slope, temperature)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, dataclasses.astuple(self))) or self.temperature <= 0:
            raise ConfigurationError(f"impossible moments: {self}", where="moments")


class RewardScorer:
    """A reward model that reads texts.

    Args:
        model: in evaluation mode.
        text: its text side.
        moments: one for each head; by default none are known.
    """

    def __init__(self, model: RewardModel, text: RewardText, moments: Sequence[HeadMoments] | None = None) -> None:
        self.model, self.text = model.eval(), text
        self.moments = tuple(moments or [HeadMoments()] * len(model.options.heads))

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the scores."""
        return tuple(self.model.options.heads)

    def scores(self, sources: Sequence[str], outputs: Sequence[str]) -> Tensor:
        """The raw scores, [n, heads], each distinct pair scored once. Raises as `RewardText.encode`."""
        numbers: dict[tuple[str, str], int] = {}
        rows = [numbers.setdefault(pair, len(numbers)) for pair in zip(sources, outputs, strict=True)]
        texts = self.text.encode([source for source, _ in numbers], [output for _, output in numbers])
        return self.encoded_scores(texts)[rows]

    @torch.no_grad()
    def encoded_scores(self, texts: EncodedTexts) -> Tensor:
        """The raw scores of encoded texts, [n, heads], on the CPU. The model is left in evaluation mode."""
        self.model.eval()
        return read_texts(self.model, texts, self.model) if len(texts) else torch.zeros(0, len(self.heads))

    # --- folders

    def save(self, folder: Path) -> None:
        """Writes the folder.

        Raises:
            GuerdonError: when it cannot be written.
        """
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(_own(self.model), folder / WEIGHTS)
        text, backbone = self.text, self.model.backbone
        if backbone is not None and not isinstance(backbone, Transformer):
            backbone.save(folder / "backbone")
            text.tokenizer.save(folder / "backbone")  # type: ignore[union-attr]
        elif isinstance(text.tokenizer, Tokenizer):
            text.tokenizer.save(folder)
        if text.likelihood is not None:
            _save_likelihood(text.likelihood, folder / "policy")
        config = {
            "format": "guerdon",
            "version": _VERSION,
            "kind": KIND,
            "options": self.model.options.describe(),
            "transformer": backbone.describe() if isinstance(backbone, Transformer) else None,
            "moments": [dataclasses.asdict(moments) for moments in self.moments],
        }
        # last, and whole: a folder with a configuration is a model
        write_atomically(folder / CONFIG, [json.dumps(config, indent=2).encode(), b"\n"])

    @classmethod
    def load(cls, folder: Path) -> RewardScorer:
        """What `save` wrote.

        Raises:
            DataError: when the folder holds no reward model.
            CheckpointError: when a file is damaged, or does not fit.
        """
        config, where = read_config(folder), str(folder / CONFIG)
        if config.get("format") != "guerdon" or config.get("kind") != KIND:
            raise DataError("is not the configuration of a reward model", where=where, cure="name a reward model's folder")
        if not isinstance(config.get("version"), int) or config["version"] > _VERSION:
            raise CheckpointError("was written by a newer guerdon, or is damaged", where=where, cure="upgrade guerdon")
        try:
            options = RewardModelOptions.from_plain(config["options"])
            dimensions = TransformerOptions(**config["transformer"]) if config["transformer"] else None
            if (dimensions is None) == (options.kind in ("encoder_decoder", "encoder")):
                raise ValueError(f"its transformer is {dimensions}")
            moments = [HeadMoments(**entry) for entry in config["moments"]]
            if len(moments) != len(options.heads):
                raise ValueError(f"{len(moments)} moments for {len(options.heads)} heads")
        except (KeyError, TypeError, ValueError, ConfigurationError) as error:
            raise CheckpointError(f"does not describe a reward model ({error})", where=where) from error
        backbone, tokenizer = _load_backbone(options, dimensions, folder)
        model = RewardModel(options, backbone)
        if options.kind == "huggingface":
            _load_own(model, folder / WEIGHTS)
        else:
            load_weights(model, folder / WEIGHTS)
        likelihood = _load_likelihood(folder / "policy") if options.surprisal else None
        return cls(model, RewardText(options, tokenizer, likelihood), moments)


def load_scorers(folder: Path) -> list[RewardScorer]:
    """The reward model of a folder, or all members of an ensemble. Raises as `RewardScorer.load`."""
    folder = reward_folder(folder)
    config = read_config(folder)
    if config.get("kind") != ENSEMBLE:
        return [RewardScorer.load(folder)]
    members = config.get("members")
    if not isinstance(members, list) or not members:
        raise CheckpointError("names no members", where=str(folder / CONFIG), cure="restore the file, or train again")
    return [RewardScorer.load(folder / str(member)) for member in members]


def save_scorers(scorers: Sequence[RewardScorer], folder: Path) -> None:
    """Writes one reward model, or several as an ensemble. Raises as `RewardScorer.save`."""
    if len(scorers) == 1:
        scorers[0].save(folder)
        return
    names = [f"member-{number}" for number in range(1, len(scorers) + 1)]
    for name, scorer in zip(names, scorers, strict=True):
        scorer.save(folder / name)
    config = {"format": "guerdon", "version": _VERSION, "kind": ENSEMBLE, "members": names}
    write_atomically(folder / CONFIG, [json.dumps(config, indent=2).encode(), b"\n"])


def reward_folder(folder: Path) -> Path:
    """The folder itself, or its ``reward_model``, where that holds the reward model.

    Raises:
        DataError: when there is none.
    """
    for candidate in (folder, folder / KIND):
        if _kind(candidate) in (KIND, ENSEMBLE):
            return candidate
    raise DataError(
        "holds no reward model" if folder.is_dir() else "no such folder",
        where=str(folder),
        cure="name the folder of a reward model, or of a run that has trained one",
    )


def _kind(folder: Path) -> Any:
    return read_config(folder).get("kind") if (folder / CONFIG).is_file() else None


def _own(model: RewardModel) -> dict[str, Tensor]:
    """What ``model.safetensors`` holds: all weights but those of a Hugging Face backbone, which has files of its own."""
    state: dict[str, Tensor] = model.state_dict()
    foreign = "backbone." if model.options.kind == "huggingface" else "\0"
    return {name: tensor for name, tensor in state.items() if not name.startswith(foreign)}


def _load_own(model: RewardModel, path: Path) -> None:
    backbone, model.backbone = model.backbone, None
    load_weights(model, path)
    model.backbone = backbone


def _load_backbone(options: RewardModelOptions, dimensions: TransformerOptions | None, folder: Path) -> tuple[Any, Any]:
    """Backbone and tokenizer; the weights of guerdon's own backbones are read with the rest."""
    if options.kind == "huggingface":
        return load_huggingface(folder / "backbone", options.max_source, options.max_output)
    if dimensions is None:
        return None, None
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocabulary_size != dimensions.vocabulary_size:
        raise CheckpointError(
            f"has {tokenizer.vocabulary_size} tokens, and the model {dimensions.vocabulary_size}",
            where=str(folder / "tokenizer.json"),
            cure="restore the tokenizer that the model was trained with",
        )
    return Transformer(dimensions), tokenizer


def load_huggingface(folder: Path, max_source: int | None = None, max_output: int | None = None) -> tuple[Any, Any]:
    """An encoder–decoder of transformers and its tokenizer, from their folder; raises as its ``from_pretrained``."""
    from guerdon.models.huggingface import HuggingFacePolicy
    from guerdon.models.huggingface_text import HuggingFaceTokenizer

    policy = HuggingFacePolicy.from_pretrained(folder, max_source=max_source, max_target=max_output)
    return policy.eval(), HuggingFaceTokenizer.from_pretrained(folder, policy)


def _save_likelihood(likelihood: Likelihood, folder: Path) -> None:
    policy, tokenizer = likelihood.policy, likelihood.tokenizer
    if isinstance(policy, Transformer) and isinstance(tokenizer, Tokenizer):
        tokenizer.save(folder)
        save_policy(policy, folder)
    else:
        for part in (policy, tokenizer):
            part.save(folder)  # type: ignore[union-attr]


def _load_likelihood(folder: Path) -> Likelihood:
    if "model_type" in read_config(folder):
        return Likelihood(*load_huggingface(folder))
    return Likelihood(load_policy(folder), Tokenizer.load(folder))
