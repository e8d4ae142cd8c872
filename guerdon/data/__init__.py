"""Texts to batches: records, words, subwords, batches, noise, and the draws behind them."""

from guerdon.data.batches import Batch, BatchOptions, TokenBudgetSampler, plan_batches, source_batches
from guerdon.data.files import write_jsonl
from guerdon.data.lines import Row
from guerdon.data.noise import NoiseOptions, denoise, split_sentences
from guerdon.data.padded import Padded
from guerdon.data.records import Example, FieldMap, Records, Skipped, read_examples, read_texts
from guerdon.data.rows import read_rows
from guerdon.data.tokenizer import Tokenizer

__all__ = [
    "Batch",
    "BatchOptions",
    "Example",
    "FieldMap",
    "NoiseOptions",
    "Padded",
    "Records",
    "Row",
    "Skipped",
    "TokenBudgetSampler",
    "Tokenizer",
    "denoise",
    "plan_batches",
    "read_examples",
    "read_rows",
    "read_texts",
    "source_batches",
    "split_sentences",
    "write_jsonl",
]
