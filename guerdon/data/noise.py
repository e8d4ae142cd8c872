"""Noise for denoising: text infilling, deletion and sentence permutation of BART (Lewis et al. 2020, section 2.2)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from guerdon.errors import ConfigurationError

# A run of terminators and closing marks: before white space and more text, or, after a full-width terminator, anywhere. The
# look-behind lets a long run of dots be tried once and not once per dot.
_SENTENCE_END = re.compile(r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+(?=\s++\S)|(?<![。！？])[。！？]++[”’」』）》】]*+(?=\s*+\S)""")


@dataclass(frozen=True)
class NoiseOptions:
    """How a text is corrupted.

    Attributes:
        infilling: share of the tokens (of those left by deletion) that masks stand for, from 0 to 1.
        span_mean: λ of the Poisson lengths of the spans that one mask stands for, in tokens, at least 1; spans of length 0
            insert a mask.
        deletion: share of the tokens that vanish without a trace, each on its own, from 0 to below 1.
        permute_sentences: whether the sentences are shuffled.
    """

    infilling: float = 0.3
    span_mean: float = 3.0
    deletion: float = 0.0
    permute_sentences: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.infilling <= 1.0:
            raise ConfigurationError(f"{self.infilling} is no share", where="infilling", cure="choose from 0 to 1")
        if not 0.0 <= self.deletion < 1.0:
            raise ConfigurationError(f"{self.deletion} is no share below 1", where="deletion", cure="choose from 0 to 0.99")
        if not 1.0 <= self.span_mean < math.inf:
            raise ConfigurationError(f"{self.span_mean} is no mean length", where="span_mean", cure="choose at least 1")
        if not (self.infilling or self.deletion or self.permute_sentences):
            raise ConfigurationError("nothing is corrupted", where="noise", cure="set infilling, deletion or permute_sentences")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text: cut after ``. ! ? …`` before white space, and after ``。 ！ ？``; closing marks go along.

    No character is lost: joining the sentences gives the text. White space stands at the head of the sentence behind it,
    where a byte-level tokenizer keeps it with the word.
    """
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if start < end]


def denoise(
    sentences: Sequence[Sequence[int]], mask_id: int, options: NoiseOptions, generator: np.random.Generator
) -> list[int]:
    """The corrupted tokens from which the text is to be restored: sentences permuted, tokens deleted, spans infilled.

    Draw from ``draws.generator(seed, "noise", epoch, example)``, and the corruption depends on nothing else.

    Args:
        sentences: the ids of each sentence.
        mask_id: stands for a span.
        options: how much of what.
        generator: of the draws; nothing else is random.

    Returns:
        Ids of the text and masks, never more than the text has; where nothing is left, one mask, so that a source is never
        empty.
    """
    order = generator.permutation(len(sentences)).tolist() if options.permute_sentences else range(len(sentences))
    tokens = [token for number in order for token in sentences[number]]
    if options.deletion:
        kept = generator.random(len(tokens)) >= options.deletion
        tokens = [token for token, stays in zip(tokens, kept.tolist(), strict=True) if stays]
    return _infill(tokens, mask_id, options, generator) or [mask_id]


def _infill(tokens: list[int], mask_id: int, options: NoiseOptions, generator: np.random.Generator) -> list[int]:
    """Every arrangement of the spans among the tokens that stay is equally likely."""
    wanted = len(tokens) * options.infilling + generator.random()  # rounded down below, so that its mean is the share
    budget = min(math.floor(wanted), len(tokens))
    spans = span_lengths(budget, options.span_mean, generator)
    pieces = np.ones(len(tokens) - budget + len(spans), dtype=np.int64)
    masked = np.sort(generator.choice(len(pieces), len(spans), replace=False))
    pieces[masked] = spans
    starts = np.concatenate([[0], np.cumsum(pieces)])
    is_span = set(masked.tolist())
    return [mask_id if piece in is_span else tokens[starts[piece]] for piece in range(len(pieces))]


def span_lengths(budget: int, mean: float, generator: np.random.Generator) -> list[int]:
    """Poisson lengths, drawn until they cover ``budget`` tokens exactly; the last is cut to fit.

    Spans of length 0 lengthen a text. Should there be more of them than the others save, the surplus is left out (it takes a
    text of a few tokens), so that a batch planned for the text has room for its corruption.
    """
    spans, inserted, saved = list[int](), 0, 0
    while budget:
        length = min(int(generator.poisson(mean)), budget)
        if length:
            spans.append(length)
            saved += length - 1
            budget -= length
        else:
            inserted += 1
    return spans + [0] * min(inserted, saved)
