"""The semantic-similarity reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import normalize

from guerdon.errors import ConfigurationError, RewardError
from guerdon.metrics.cache import ReferenceCache
from guerdon.rewards.base import Judged, Reward
from guerdon.rewards.encoders import Encoder, SentenceEncoder
from guerdon.rewards.sentence_models import DEFAULT_ENCODER


class SemanticSimilarity(Reward):
    """cos(e_y, e_y*) of the output's and the reference's sentence embedding (the described system, section 4.2.2).

    The scores are in [-1, 1]. A blank text has the zero vector for an embedding, and a cosine with it is taken as 0: an empty
    output scores 0, as one unrelated to its references does.

    References are embedded once, each source's by themselves, and kept: a score depends neither on what else is in the batch
    (beyond float rounding) nor on what was scored before (to the last bit, so that a resumed run repeats itself). Equal outputs
    of a batch are embedded once.

    It scores no prefixes: the encoder was trained on whole sentences, and would have to run once for every token.

    Args:
        encoder: anything that `~guerdon.rewards.encoders.Encoder` describes, or the name or folder of a sentence-transformers
            model.
        several: with several references, the "max" or the "mean" of their cosines; the reward's name says which.
        cache_size: how many references are kept; at 384 dimensions the default holds some 100 MB.

    Raises:
        ConfigurationError: for another ``several``, or an encoder that cannot be loaded.
        MissingExtraError: when the encoder's library is not installed.
    """

    needs_references = True

    def __init__(
        self,
        encoder: Encoder | str | Path = DEFAULT_ENCODER,
        several: Literal["max", "mean"] = "max",
        cache_size: int = 65_536,
    ) -> None:
        if several not in ("max", "mean"):
            raise ConfigurationError(
                f"there is no way {several!r} to combine several references",
                where="similarity.several",
                cure="choose max or mean",
            )
        self.name, self.several = f"similarity_{several}", several
        self.encoder = SentenceEncoder(encoder) if isinstance(encoder, str | Path) else encoder
        self.cache_size = cache_size
        self._references: ReferenceCache[dict[str, Tensor]] = ReferenceCache(cache_size)

    def score(self, judged: Judged) -> list[float]:
        """The cosine with the references, one number per output."""
        outputs, references = self._embed(judged.outputs), self._references_of(judged)
        return [
            self._cosine(outputs.get(output), [known.get(text) for text in texts])
            for output, texts, known in zip(judged.outputs, judged.references, references, strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_references": ReferenceCache(self.cache_size)}

    def _cosine(self, output: Tensor | None, references: Sequence[Tensor | None]) -> float:
        cosines = [0.0 if output is None or vector is None else float(output @ vector) for vector in references]
        combined = max(cosines) if self.several == "max" else math.fsum(cosines) / len(cosines)
        return min(1.0, max(-1.0, combined))

    def _references_of(self, judged: Judged) -> list[dict[str, Tensor]]:
        """For each sample, the unit vectors of its references by text."""
        if not self.encoder.frozen:
            return [self._embed([text for texts in judged.references for text in texts])] * len(judged)
        new = dict.fromkeys(tuple(texts) for texts in judged.references if texts not in self._references)
        made = dict(zip(new, self._embed_each(list(new)), strict=True))

        def prepare(texts: tuple[str, ...]) -> tuple[dict[str, Tensor], int]:
            return made[texts] if texts in made else self._embed_each([texts])[0], len(texts)

        return [self._references.get(texts, prepare) for texts in judged.references]

    def _embed_each(self, groups: Sequence[Sequence[str]]) -> list[dict[str, Tensor]]:
        """As `_embed`, each group by itself."""
        if not hasattr(self.encoder, "encode_each"):
            return [self._embed(texts) for texts in groups]
        unique = [_distinct(texts) for texts in groups]
        vectors = iter(self.encoder.encode_each([texts for texts in unique if texts]))
        return [self._units(texts, next(vectors)) if texts else {} for texts in unique]

    def _embed(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The unit vector of every text that is not blank."""
        unique = _distinct(texts)
        return self._units(unique, self.encoder.encode(unique)) if unique else {}

    def _units(self, unique: Sequence[str], vectors: Tensor) -> dict[str, Tensor]:
        if vectors.dim() != 2 or len(vectors) != len(unique) or not bool(vectors.isfinite().all()):
            raise RewardError(
                f"the encoder returned shape {list(vectors.shape)} or non-finite numbers for {len(unique)} texts",
                where=f"reward {self.name!r}",
                cure="return one vector of finite numbers per text",
            )
        return dict(zip(unique, normalize(vectors.float(), dim=1), strict=True))


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text.strip()))
