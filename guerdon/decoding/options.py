"""One set of options for all ways of decoding."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from guerdon.decoding.beam import BeamOptions
from guerdon.decoding.choosing import SamplingOptions
from guerdon.decoding.limits import LengthLimit
from guerdon.errors import ConfigurationError
from guerdon.models.precision import InferencePrecision, check_inference_precision

_BEAM = {option.name for option in dataclasses.fields(BeamOptions)} - {"returned", "ngram_block"}
_SAMPLING = {option.name for option in dataclasses.fields(SamplingOptions)} - {"ngram_block"}


@dataclass(frozen=True)
class DecodingOptions:
    """How outputs are written. Options of another method than the chosen one are refused.

    Attributes:
        method: greedy, sample, or beam.
        returned: outputs per source: beams (best first) or samples.
        ngram_block: no output repeats an n-gram of this size; 0 allows it.
        limit: the longest output.
        seed: of the samples.
        batch_size: sources decoded together; changes speed and memory only.
        precision: of the model's matrix products. In bfloat16 and int8 (models of guerdon on the CPU) outputs are those of a
            coarser model.
        beam_size, length_penalty, length_normalisation, patience: see `guerdon.decoding.BeamOptions`; for beam only.
        temperature, top_k, top_p, min_p: see `guerdon.decoding.SamplingOptions`; for sample only.
    """

    method: Literal["greedy", "sample", "beam"] = "beam"
    returned: int = 1
    ngram_block: int = 0
    limit: LengthLimit = field(default_factory=LengthLimit)
    seed: int = 0
    batch_size: int = 64
    precision: InferencePrecision = "float32"
    beam_size: int | None = None
    length_penalty: float | None = None
    length_normalisation: Literal["power", "gnmt"] | None = None
    patience: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if self.method not in ("greedy", "sample", "beam"):
            raise ConfigurationError(
                f"there is no method {self.method!r}", where="decoding.method", cure="greedy, sample or beam"
            )
        for names, method in ((_BEAM, "beam"), (_SAMPLING, "sample")):
            given = sorted(name for name in names if getattr(self, name) is not None)
            if given and self.method != method:
                raise ConfigurationError(
                    f"{given[0]} belongs to the method {method!r}, and the method is {self.method!r}",
                    where=f"decoding.{given[0]}",
                    cure="leave it out, or change decoding.method",
                )
        if self.returned < 1 or (self.method == "greedy" and self.returned != 1):
            raise ConfigurationError(
                f"{self.returned} outputs of a source cannot be returned by {self.method}",
                where="decoding.returned",
                cure="give at least 1, and exactly 1 for greedy",
            )
        if self.batch_size < 1:
            raise ConfigurationError(
                f"{self.batch_size} sources are no batch", where="decoding.batch_size", cure="give at least 1"
            )
        check_inference_precision(self.precision)
        self.search()

    def search(self) -> BeamOptions | SamplingOptions | None:
        """The options of the search itself, checked; None for greedy."""
        if self.method == "beam":
            return BeamOptions(returned=self.returned, ngram_block=self.ngram_block, **self._given(_BEAM))
        if self.method == "sample":
            return SamplingOptions(ngram_block=self.ngram_block, **self._given(_SAMPLING))
        return None

    def _given(self, names: set[str]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def changed(options: DecodingOptions, changes: dict[str, Any]) -> DecodingOptions:
    """The options with ``changes``; another method keeps only what all methods share.

    Raises:
        ConfigurationError: for an unknown option, or options that cannot be.
    """
    names = {option.name for option in dataclasses.fields(DecodingOptions)}
    for name in changes.keys() - names:
        raise ConfigurationError(
            "there is no such option", where=f"decoding.{name}", cure=f"options: {', '.join(sorted(names))}"
        )
    if changes.get("method", options.method) != options.method:
        kept = {
            "limit": options.limit,
            "batch_size": options.batch_size,
            "precision": options.precision,
            "seed": options.seed,
            "ngram_block": options.ngram_block,
        }
        return DecodingOptions(**{**kept, **changes})
    return dataclasses.replace(options, **changes)
