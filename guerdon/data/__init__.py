"""Texts to batches: records, words, subwords, batches, noise, and the draws behind them."""

from guerdon.data.batches import Batch, BatchOptions, TokenBudgetSampler, plan_batches, source_batches
from guerdon.data.comparisons import Comparison, Rating, pairs_of
from guerdon.data.fields import Skipped
from guerdon.data.files import write_jsonl
from guerdon.data.judgements import (
    ComparisonFields,
    Comparisons,
    RatingFields,
    Ratings,
    read_comparisons,
    read_ratings,
)
from guerdon.data.lines import Row
from guerdon.data.noise import NoiseOptions, denoise, split_sentences
from guerdon.data.padded import Padded
from guerdon.data.records import Example, FieldMap, Records, read_examples, read_texts
from guerdon.data.rows import read_rows
from guerdon.data.selection import Kept, Pair, pairs_to_train, split_by_source
from guerdon.data.tokenizer import Tokenizer

__all__ = [
    "Batch",
    "BatchOptions",
    "Comparison",
    "ComparisonFields",
    "Comparisons",
    "Example",
    "FieldMap",
    "Kept",
    "NoiseOptions",
    "Padded",
    "Pair",
    "Rating",
    "RatingFields",
    "Ratings",
    "Records",
    "Row",
    "Skipped",
    "TokenBudgetSampler",
    "Tokenizer",
    "denoise",
    "pairs_of",
    "pairs_to_train",
    "plan_batches",
    "read_comparisons",
    "read_examples",
    "read_ratings",
    "read_rows",
    "read_texts",
    "source_batches",
    "split_by_source",
    "split_sentences",
    "write_jsonl",
]
