"""Multi30k as it is published: lower-cased, its punctuation normalised, and tokenised by the rules of Moses (sacremoses).

The order is that of the data set's own script (multi30k/dataset, scripts/task1-tokenize.sh).
"""

from __future__ import annotations

import json
from pathlib import Path

from sacremoses import MosesPunctNormalizer, MosesTokenizer

import guerdon

SPLITS = ("train", "val", "test_2016_flickr")


def captions(folder: Path) -> dict[str, list[guerdon.Example]]:
    """English to German, by split; texts are tokens with single spaces between them."""
    english, german = Moses("en"), Moses("de")
    rows = {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()] for split in SPLITS
    }
    return {
        split: [guerdon.Example(english(row["source"]), (german(row["reference"]),)) for row in own]
        for split, own in rows.items()
    }


class Moses:
    """The published preprocessing of one language."""

    def __init__(self, language: str) -> None:
        self.normalise, self.tokenise = MosesPunctNormalizer(lang=language).normalize, MosesTokenizer(lang=language).tokenize

    def __call__(self, text: str) -> str:
        tokens: str = self.tokenise(self.normalise(text.lower()), return_str=True)
        return tokens
