"""The dimensions and the kind of a Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from guerdon.errors import ConfigurationError

PAD_ID, START_ID, END_ID, MASK_ID = 0, 1, 2, 3
IMPOSSIBLE = -1e4
"""The logit, in exported models, of a token that is never written: probability 0 in any float, and all formats hold it."""

Positions = Literal["sinusoidal", "rotary", "learned"]
Norm = Literal["pre", "post"]
Activation = Literal["relu", "gelu", "swiglu"]


@dataclass(frozen=True)
class TransformerOptions:
    """The dimensions and the kind of a `Transformer`.

    Attributes:
        vocabulary_size: tokens, the special ones included.
        width: of the model (d_model).
        heads: of each attention.
        encoder_layers, decoder_layers: how many of each.
        feed_forward: inner width of the feed-forward network (each of the two gates' for ``swiglu``).
        dropout: after the embedding and each sub-layer.
        positions: sinusoidal (Vaswani 2017), rotary (Su 2021; self-attention only) or learned.
        norm: layer norm before (pre) or after (post) each sub-layer's residual sum.
        activation: of the feed-forward network; swiglu is that of Shazeer 2020.
        tied_embeddings: one matrix for source, target and output tokens.
        max_source, max_target: longest source and target in tokens, end token included.
    """

    vocabulary_size: int
    width: int = 256
    heads: int = 4
    encoder_layers: int = 3
    decoder_layers: int = 3
    feed_forward: int = 1024
    dropout: float = 0.1
    positions: Positions = "sinusoidal"
    norm: Norm = "pre"
    activation: Activation = "relu"
    tied_embeddings: bool = True
    max_source: int = 512
    max_target: int = 256

    def __post_init__(self) -> None:
        for name, kinds in (("positions", Positions), ("norm", Norm), ("activation", Activation)):
            if getattr(self, name) not in get_args(kinds):
                raise ConfigurationError(
                    f"there is no {getattr(self, name)!r}", where=f"model.{name}", cure=f"choose {', '.join(get_args(kinds))}"
                )
        for name in ("width", "heads", "encoder_layers", "decoder_layers", "feed_forward", "max_source", "max_target"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{getattr(self, name)} is not a size", where=f"model.{name}", cure="give at least 1")
        if self.vocabulary_size <= MASK_ID + 1:
            raise ConfigurationError(
                f"a vocabulary of {self.vocabulary_size} has no room for words", where="model.vocabulary_size", cure="give more"
            )
        if self.width % self.heads:
            raise ConfigurationError(
                f"a width of {self.width} cannot be cut into {self.heads} heads", where="model.heads", cure="choose a divisor"
            )
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ConfigurationError(
                f"rotary positions turn pairs of columns, and a head has {self.width // self.heads}",
                where="model.heads",
                cure="choose heads of an even width",
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigurationError(f"{self.dropout} is not a share", where="model.dropout", cure="give 0 or more, below 1")
