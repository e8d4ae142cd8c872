"""What a reward model is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from guerdon.errors import ConfigurationError
from guerdon.models.options import TransformerOptions

Kind = Literal["encoder_decoder", "encoder", "huggingface", "linear"]
Pooling = Literal["last", "mean", "max"]
Trunk = Literal["trained", "frozen"]


@dataclass(frozen=True)
class NgramOptions:
    """Features that need no order: the n-grams of an output's words, hashed, each with a weight of its own.

    They are the wide part of Cheng et al. 2016 (Wide & deep learning), trained jointly with the rest; words are runs of word
    characters, and single other marks.

    Attributes:
        longest: n, from 1 (words) on.
        buckets: weights of each head; two n-grams of one bucket share theirs (Weinberger et al. 2009).
        relation: whether words of the source that the output lacks, and words of the output that the source lacks, are
            features.
        lowercase: whether case is ignored.
        dropout: the share of the features that is dropped while training.
        gain: factor of this part's sum, which with Adam acts as a factor of its learning rate.
    """

    longest: int = 3
    buckets: int = 65536
    relation: bool = True
    lowercase: bool = True
    dropout: float = 0.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.longest < 1 or self.buckets < 2:
            raise ConfigurationError(
                f"longest is {self.longest} and buckets is {self.buckets}", where="ngrams", cure="give at least 1 and 2"
            )
        check_share("ngrams.dropout", self.dropout)
        if not 0.0 < self.gain < float("inf"):
            raise ConfigurationError(f"{self.gain} is no factor", where="ngrams.gain", cure="give a number above 0")


@dataclass(frozen=True)
class ScratchOptions:
    """The size of a backbone that is trained from random weights.

    Attributes:
        width: of the backbone, as in `~guerdon.models.options.TransformerOptions`.
        heads: of each of its attentions.
        feed_forward: width of its feed-forward layers.
        layers: of the encoder, and as many of the decoder.
        vocabulary_size: of its tokenizer, which is trained on the judged texts.
    """

    width: int = 128
    heads: int = 4
    layers: int = 2
    feed_forward: int = 512
    vocabulary_size: int = 2000


@dataclass(frozen=True)
class RewardModelOptions:
    """What a `~guerdon.models.reward_model.RewardModel` is made of.

    Attributes:
        kind: "encoder_decoder" reads the source in the encoder and the output in the decoder; "encoder" reads both in one
            row; "huggingface" is an encoder–decoder of transformers; "linear" is the n-grams alone.
        heads: the names of the scores; empty for those that the training data name.
        pooling: which of the output's hidden states the heads see: that at which the last token was read, the mean, the largest
            of each column; several are put side by side.
        trunk: "trained" with the rest, or "frozen" as the policy left it: its pooled states are then scaled to mean 0 and
            deviation 1 over the training outputs instead of each by itself.
        hidden: width of a layer between the pooled states and the heads; 0 for none.
        dropout: of the pooled states while training.
        backbone_dropout: within the backbone, for guerdon's own.
        scratch: the size of a backbone that is trained from random weights; None for one that begins with a policy's.
        ngrams: features that need no order; None for none.
        surprisal: whether the heads see a frozen policy's -log p of each token, pooled
            (`~guerdon.models.reward_text.SURPRISALS`: its mean, its largest value, how many tokens lie above which level, ...).
        surprisal_gain: factor of these measures, which are scaled to mean 0 and deviation 1 over the training outputs: where
            weights are kept small, what has a larger factor may count for more.
        delexicalise: slots whose values are replaced by the slot's name, in source and output, where the source is a meaning
            representation such as ``name[The Vaults], eatType[pub]``.
        max_source, max_output: longest texts in tokens, end token included; no more than the policy takes which it begins with.
    """

    kind: Kind = "encoder_decoder"
    heads: Sequence[str] = ()
    pooling: Sequence[Pooling] = ("last",)
    trunk: Trunk = "trained"
    hidden: int = 0
    dropout: float = 0.1
    backbone_dropout: float = 0.1
    scratch: ScratchOptions | None = None
    ngrams: NgramOptions | None = None
    surprisal: bool = False
    surprisal_gain: float = 1.0
    delexicalise: Sequence[str] = ()
    max_source: int = 128
    max_output: int = 128

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigurationError(f"there is no {self.kind!r}", where="kind", cure=f"choose {', '.join(get_args(Kind))}")
        for name in ("heads", "pooling", "delexicalise"):
            check_names(name, getattr(self, name), may_be_empty=name != "pooling" or self.kind == "linear")
        if unknown := set(self.pooling) - set(get_args(Pooling)):
            raise ConfigurationError(
                f"there is no {min(unknown)!r}", where="pooling", cure=f"choose of {', '.join(get_args(Pooling))}"
            )
        made = self.kind == "linear" or self.scratch is not None
        if self.trunk not in get_args(Trunk) or (self.trunk == "frozen" and made):
            cure = "choose trained, or frozen with a policy to begin with"
            raise ConfigurationError(f"{self.trunk!r} cannot be (kind {self.kind})", where="trunk", cure=cure)
        check_share("dropout", self.dropout)
        check_share("backbone_dropout", self.backbone_dropout)
        if not 0.0 < self.surprisal_gain < float("inf") or (self.surprisal_gain != 1.0 and not self.surprisal):
            raise ConfigurationError(
                f"is {self.surprisal_gain}, with surprisal: {self.surprisal}",
                where="surprisal_gain",
                cure="give a number above 0, with surprisal: true",
            )
        if self.hidden < 0 or self.max_source < 1 or self.max_output < 1:
            raise ConfigurationError("hidden must not be negative, nor a limit below 1", where="hidden, max_source, max_output")
        if self.kind == "linear" and self.ngrams is None:
            raise ConfigurationError("a linear model has nothing but n-grams", where="ngrams", cure="give them")
        if self.scratch is not None and self.kind in ("huggingface", "linear"):
            raise ConfigurationError(f"is given, and the kind is {self.kind}", where="scratch", cure="take it out")

    def transformer(self, vocabulary_size: int) -> TransformerOptions:
        """The backbone that is trained from random weights."""
        size = self.scratch or ScratchOptions()
        return self.fitted(
            TransformerOptions(
                vocabulary_size, size.width, size.heads, size.layers, size.layers, size.feed_forward, positions="rotary",
                max_source=self.max_source, max_target=self.max_output,
            )
        )  # fmt: skip

    def fitted(self, backbone: TransformerOptions) -> TransformerOptions:
        """The options of a backbone as they are for this model: with its dropout, and without what it does not use.

        Raises:
            ConfigurationError: where the backbone takes shorter texts than the model is to take.
        """
        longest = self.max_source, self.max_output
        if self.kind == "encoder":
            longest = self.max_source + self.max_output, 1
            if backbone.positions != "learned":
                backbone = dataclasses.replace(backbone, max_source=max(longest[0], backbone.max_source))
        for name, limit, most in zip(("source", "output"), longest, (backbone.max_source, backbone.max_target), strict=True):
            if limit > most:
                raise ConfigurationError(
                    f"is {limit} tokens ({self.kind}), and the policy takes at most {most}",
                    where=f"max_{name}",
                    cure="choose shorter limits",
                )
        return dataclasses.replace(backbone, dropout=self.backbone_dropout)

    def describe(self) -> dict[str, Any]:
        """Plain values, for ``config.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RewardModelOptions:
        """What `describe` described.

        Raises:
            TypeError, ConfigurationError: for values that describe no reward model.
        """
        made = dict(plain)
        for name, kind in (("ngrams", NgramOptions), ("scratch", ScratchOptions)):
            made[name] = None if made.get(name) is None else kind(**made[name])
        for name in ("heads", "pooling", "delexicalise"):
            made[name] = tuple(made.get(name, ()))
        return cls(**made)


def check_share(name: str, share: float) -> None:
    """Refuses, as a `ConfigurationError`, what is no share below 1."""
    if not 0.0 <= share < 1.0:
        raise ConfigurationError(f"{share} is not a share", where=name, cure="give 0 or more, below 1")


def check_names(name: str, names: Sequence[str], may_be_empty: bool = True) -> None:
    """Refuses, as a `ConfigurationError`, a list of names that is a text, holds an empty one, or holds one twice."""
    if isinstance(names, str) or not all(isinstance(entry, str) and entry.strip() for entry in names):
        raise ConfigurationError(f"{names!r} is no list of names", where=name, cure="write [one, another]")
    if len(set(names)) < len(names) or not (names or may_be_empty):
        raise ConfigurationError(f"{list(names)} is empty or names one twice", where=name, cure="name each once")
