"""What a reward model reads: the ids of a source and of an output, and features that are counted rather than learnt."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.errors import DataError
from guerdon.metrics.slots import parse_meaning
from guerdon.models.evaluation import evaluate_logits
from guerdon.models.policy import Policy
from guerdon.models.reward_options import NgramOptions, RewardModelOptions

LEVELS = (0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # nats
EXCESSES = (0.5, 1.0, 2.0, 4.0)
SURPRISALS = (
    "mean", "largest", "spread", "sum", "of the end", "tokens", "mean entropy", "sum of the excess",
    *(f"tokens above {level:g}" for level in LEVELS),
    *(f"tokens with an excess above {level:g}" for level in EXCESSES),
)  # fmt: skip
"""What is measured of -log p of an output's tokens, in nats. The excess of a token is its -log p less the entropy of what
could have stood there: where much is possible, nothing surprises."""
_WORDS = re.compile(r"\w+|[^\w\s]")
_BATCH_TOKENS = 8192  # of the frozen policy; forward only


class Subwords(Protocol):
    """How texts become ids, as `guerdon.generator.Text` has it."""

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each source, end token included."""
        ...

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each target, end token included."""
        ...

    def save(self, folder: Path) -> None:
        """Writes it into a model's folder."""
        ...


@dataclass(frozen=True)
class Likelihood:
    """A frozen policy and its own tokenizer, which measure how surprising an output is."""

    policy: Policy
    tokenizer: Subwords

    @torch.no_grad()
    def surprisals(self, sources: Sequence[str], outputs: Sequence[str]) -> Tensor:
        """`SURPRISALS` of -log p(token), end token included, in nats: float64 [n, 21]. What is too long is cut."""
        rows = [ids[: self.policy.max_source] for ids in self.tokenizer.encode_sources(sources)]
        written = [ids[: self.policy.max_target] for ids in self.tokenizer.encode_targets(outputs)]
        found = torch.zeros(len(written), len(SURPRISALS), dtype=torch.float64)
        device = next(self.policy.parameters()).device
        for part in by_length([len(ids) for ids in written], [len(ids) for ids in rows], _BATCH_TOKENS):
            numbers: dict[tuple[int, ...], int] = {}
            of_source = [numbers.setdefault(tuple(rows[i]), len(numbers)) for i in part]
            batch = Padded.from_lists(list(numbers), self.policy.pad_id, device)
            targets = Padded.from_lists([written[i] for i in part], self.policy.pad_id, device)
            logits = self.policy.logits(batch, targets, torch.tensor(of_source, device=device))
            seen = evaluate_logits(logits, None, targets)
            found[part] = _pooled(-seen.log_prob.double(), seen.entropy.double(), seen.mask).cpu()
        return found


def _pooled(surprisal: Tensor, entropy: Tensor, mask: Tensor) -> Tensor:
    """Two of [n, length] to [n, 21]; a token that the policy never writes counts as much as one of probability e^-30."""
    bounded = torch.where(mask, surprisal, 0.0).clamp(max=30.0)
    excess = torch.where(mask, bounded - entropy, 0.0)
    count = mask.sum(1)
    mean = bounded.sum(1) / count
    spread = (torch.where(mask, bounded - mean[:, None], 0.0).square().sum(1) / count).sqrt()
    end = bounded.gather(1, count[:, None] - 1)[:, 0]
    whole = [mean, bounded.max(1).values, spread, bounded.sum(1), end, count.double(), entropy.sum(1) / count, excess.sum(1)]
    above = [(values > level).sum(1).double() for values, levels in ((bounded, LEVELS), (excess, EXCESSES)) for level in levels]
    return torch.stack(whole + above, dim=1)


def by_length(outputs: Sequence[int], sources: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """All rows in batches of alike lengths: rows * (longest output + longest source) ≤ ``max_tokens``, or one row."""
    batch, longest = list[int](), (0, 0)
    for i in sorted(range(len(outputs)), key=lambda i: (outputs[i], sources[i], i)):
        wider = max(longest[0], outputs[i]), max(longest[1], sources[i])
        if batch and (len(batch) + 1) * sum(wider) > max_tokens:
            yield batch
            batch, wider = [], (outputs[i], sources[i])
        batch.append(i)
        longest = wider
    if batch:
        yield batch


@dataclass(frozen=True)
class EncodedTexts:
    """n pairs of a source and an output, as a reward model reads them.

    Attributes:
        sources, outputs: ids, end token included.
        ngrams: the buckets of each output's features; empty without n-grams.
        measures: float64 [n, features] that were measured once, such as surprisals; 0 columns without.
        words: the length of each output in words (runs of anything but white space).
    """

    sources: list[list[int]]
    outputs: list[list[int]]
    ngrams: list[list[int]]
    measures: Tensor
    words: list[int]

    def __len__(self) -> int:
        return len(self.outputs)


class RewardText:
    """Turns texts into what a reward model reads.

    Args:
        options: of the model.
        tokenizer: of the model; None for a linear one.
        likelihood: the frozen policy, where the options have surprisal.
    """

    def __init__(
        self, options: RewardModelOptions, tokenizer: Subwords | None = None, likelihood: Likelihood | None = None
    ) -> None:
        assert (tokenizer is None) == (options.kind == "linear"), "every kind but the linear one reads tokens"
        assert (likelihood is not None) == options.surprisal, "surprisal is what a likelihood measures"
        self.options, self.tokenizer, self.likelihood = options, tokenizer, likelihood

    def encode(self, sources: Sequence[str], outputs: Sequence[str]) -> EncodedTexts:
        """What the model reads of each pair. An output is read up to the model's limit; its n-grams are those of all of it.

        Raises:
            DataError: for a source of more tokens than the model takes.
        """
        options = self.options
        pairs = [delexicalise(*pair, options.delexicalise) for pair in zip(sources, outputs, strict=True)]
        rows, written = self._ids([source for source, _ in pairs], [output for _, output in pairs])
        ngrams = [ngram_buckets(*pair, options.ngrams) if options.ngrams else [] for pair in pairs]
        measures = torch.zeros(len(pairs), 0, dtype=torch.float64)
        if self.likelihood is not None:
            measures = self.likelihood.surprisals(sources, outputs)
        return EncodedTexts(rows, written, ngrams, measures, [len(output.split()) for output in outputs])

    def _ids(self, sources: Sequence[str], outputs: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        if self.tokenizer is None:
            return [[]] * len(sources), [[]] * len(outputs)
        known = list(dict.fromkeys(sources))
        ids = dict(zip(known, self.tokenizer.encode_sources(known), strict=True))
        for text, row in ids.items():
            if len(row) > self.options.max_source:
                raise DataError(
                    f"has {len(row)} tokens, and the reward model takes at most {self.options.max_source}",
                    where=f"source {text[:40]!r}",
                    cure="shorten it, leave it out, or train a reward model with a larger max_source",
                )
        written = self.tokenizer.encode_targets(outputs)
        return [ids[text] for text in sources], [row[: self.options.max_output] for row in written]


def delexicalise(source: str, output: str, slots: Sequence[str]) -> tuple[str, str]:
    """Both texts with the values of some slots replaced by the slots' names, where the source is a meaning representation.

    >>> delexicalise("name[The Vaults], eatType[pub]", "The vaults is a pub.", ["name"])
    ('name[name_slot], eatType[pub]', 'name_slot is a pub.')
    """
    if not slots:
        return source, output
    try:
        meaning = parse_meaning(source)
    except DataError:
        return source, output  # a source of another kind has no slots
    for slot in sorted(slots, key=lambda slot: -len(meaning.get(slot, ""))):
        if value := meaning.get(slot):
            name = f"{slot}_slot"
            source = source.replace(f"{slot}[{value}]", f"{slot}[{name}]")
            output = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", name, output, flags=re.IGNORECASE)
    return source, output


def ngram_buckets(source: str, output: str, options: NgramOptions) -> list[int]:
    """The buckets of an output's features, each feature once however often it occurs.

    They are sorted, so that texts of the same features have the same score to the last bit.
    """
    if options.lowercase:
        source, output = source.lower(), output.lower()
    words = _WORDS.findall(output)
    features = ["length"] if not words else []  # an empty output has a weight, too
    for size in range(1, options.longest + 1):
        marked = ["<", *words, ">"] if size > 1 else words
        features += [f"{size} {' '.join(marked[i : i + size])}" for i in range(len(marked) - size + 1)]
    if options.relation:
        given = _WORDS.findall(source)
        written, known = set(words), set(given)
        features += [f"lacks {word}" for word in given if word not in written]
        features += [f"adds {word}" for word in words if word not in known]
    return sorted(zlib.crc32(feature.encode()) % options.buckets for feature in set(features))
