"""The text side of a Hugging Face model: its own tokenizer, with the members of `guerdon.data.tokenizer.Tokenizer`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guerdon.errors import CheckpointError, DataError, MissingExtraError
from guerdon.models.huggingface import HuggingFacePolicy


class HuggingFaceTokenizer:
    """Turns texts into the ids that a model was trained with, and back.

    Args:
        tokenizer: a tokenizer of transformers; source and target language are set on it where it knows them.
        policy: the model that it belongs to.

    Attributes:
        pad_id, start_id, end_id, vocabulary_size: those of the policy.
        fingerprint: sha256 in hexadecimal; equal for equal tokenizers.

    Raises:
        CheckpointError: for a tokenizer that knows no words, or does not belong to the policy.
    """

    def __init__(self, tokenizer: Any, policy: HuggingFacePolicy) -> None:
        _check(tokenizer, policy)
        self._backend = tokenizer
        self._prefix = list(policy.prompt[1:])
        self.pad_id, self.start_id, self.end_id = policy.pad_id, policy.start_id, policy.end_id
        self.vocabulary_size = policy.vocabulary_size
        self.fingerprint = _fingerprint(tokenizer)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, policy: HuggingFacePolicy) -> HuggingFaceTokenizer:
        """Opens the tokenizer of a folder with Hugging Face files, or of the hub by name.

        Raises:
            CheckpointError: where there is none, or it is damaged.
            MissingExtraError: without transformers, or without what this tokenizer needs besides.
        """
        where = str(name_or_folder)
        try:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(where)
        except ImportError as error:
            raise MissingExtraError(error.name or "transformers", "huggingface", f"the tokenizer of {where}") from error
        except Exception as error:  # transformers and tokenizers raise kinds of their own for damaged or absent files
            raise CheckpointError(
                f"its tokenizer cannot be loaded ({type(error).__name__}: {str(error)[:200]})",
                where=where,
                cure="give a folder with the tokenizer's files, or a name on the hub that can be reached",
            ) from error
        return cls(tokenizer, policy)

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer's files into ``folder``, beside the model's."""
        self._backend.save_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        """The ids of a source as the model reads it, with the special tokens that it expects (an end token, a language)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each source, as `encode` gives them."""
        return list(self._backend(list(texts)).input_ids) if texts else []

    def encode_target(self, text: str) -> list[int]:
        """The ids of a target without start, forced first token and end: what `decode` turns back into the text.

        Raises:
            DataError: where the text itself spells the end token or padding.
        """
        ids = list(self._backend(text_target=text).input_ids)
        if self._prefix and ids[: len(self._prefix)] == self._prefix:
            ids = ids[len(self._prefix) :]
        if self.end_id in ids:
            # What stands behind the end (a language token, in mBART's first form) is the decoder's start, not its output.
            ids = ids[: len(ids) - 1 - ids[::-1].index(self.end_id)]
        for token in (self.end_id, self.pad_id):
            if token in ids:
                name = self._backend.convert_ids_to_tokens(token)
                raise DataError(f"the target {text[:80]!r} spells the special token {name!r}", cure="take it out of the text")
        return ids

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode_batch`."""
        return self.encode_batch(texts)

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each target as the policy writes it, the end token included; raises as `encode_target`."""
        return [[*self.encode_target(text), self.end_id] for text in texts]

    def encode_prefixes(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of the beginning of each target; raises as `encode_target`."""
        return [self.encode_target(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are left out, and so are columns of the model that stand for no token."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row, as `decode` gives it."""
        return [self.decode(ids) for ids in rows]


def _check(tokenizer: Any, policy: HuggingFacePolicy) -> None:
    ids, fault = set(tokenizer.get_vocab().values()), ""
    if len(ids - set(tokenizer.added_tokens_decoder)) < 2:
        # Where a folder has no tokenizer's files, transformers makes one up out of the special tokens alone.
        fault = "it knows no words"
    elif max(ids) >= policy.model.get_input_embeddings().weight.shape[0]:
        fault = f"it has ids up to {max(ids)}, the model up to {policy.model.get_input_embeddings().weight.shape[0] - 1}"
    elif tokenizer.eos_token_id not in (None, policy.end_id):
        fault = f"its end token is {tokenizer.eos_token_id}, the model's {policy.end_id}"
    if fault:
        raise CheckpointError(
            f"the tokenizer is not this model's: {fault}",
            where=str(tokenizer.name_or_path or type(tokenizer).__name__),
            cure="use the tokenizer's files that belong to the model",
        )


def _fingerprint(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.dumps(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    return hashlib.sha256(content.encode()).hexdigest()
