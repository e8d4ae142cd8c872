"""Subwords: byte-level byte-pair encoding (Sennrich et al. 2016; over bytes as in GPT-2, Radford et al. 2019).

Nothing is normalised, so that every Unicode string comes back exactly. The names of the four special ids hold a character
that stands for no byte; no text, whatever is written in it, can therefore encode to a special id, and no merge make one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from guerdon.data.files import reported, write_atomically
from guerdon.errors import CheckpointError, ConfigurationError, DataError

FILE_NAME = "tokenizer.json"
_SPECIAL = ("⟨pad⟩", "⟨start⟩", "⟨end⟩", "⟨mask⟩")
_SMALLEST = len(_SPECIAL) + 256


class Tokenizer:
    """Turns texts into ids and back; made by `train` or `load`.

    Attributes:
        pad_id, start_id, end_id, mask_id: 0, 1, 2, 3; never the id of a piece of text.
        vocabulary_size: number of ids, special ones included.
        fingerprint: sha256 of the file's content, in hexadecimal; equal for equal tokenizers.
    """

    pad_id = 0
    start_id = 1
    end_id = 2
    mask_id = 3

    def __init__(self, content: bytes) -> None:
        self._backend = Backend.from_str(content.decode())
        self._content = content
        self.vocabulary_size = self._backend.get_vocab_size()
        self.fingerprint = hashlib.sha256(content).hexdigest()

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
        """Learns merges from ``texts``; the same texts give the same tokenizer.

        A pair must occur twice to be merged, so that a small corpus may give fewer ids than asked for.

        Args:
            texts: read once.
            vocabulary_size: at most this many ids: 4 special ones, 256 bytes, and the merges.

        Raises:
            ConfigurationError: ``vocabulary_size`` has no room for the special ids and the bytes.
            DataError: there are no texts, or one holds half a surrogate pair.
        """
        if vocabulary_size < _SMALLEST:
            raise ConfigurationError(
                f"{vocabulary_size} is too few: {len(_SPECIAL)} special ids and 256 bytes are always there",
                where="vocabulary_size",
                cure=f"ask for at least {_SMALLEST}",
            )
        learner = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            special_tokens=list(_SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        learner.train_from_iterator(_checked(texts), trainer)
        return cls(_without_added_tokens(learner))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Reads what `save` wrote: the file, or the folder that holds it.

        Raises:
            DataError: there is no such file.
            CheckpointError: it is damaged, or not a tokenizer of guerdon.
        """
        path = Path(path)
        file = path / FILE_NAME if path.is_dir() else path
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"no tokenizer: {error.strerror}", where=str(file), cure="name a trained model's folder") from error
        try:
            loaded = cls(content)
        except Exception as error:  # the library raises bare Exception for whatever it cannot parse
            raise CheckpointError(f"damaged: {error}", where=str(file), cure="copy or train it again") from error
        loaded._check(file)
        return loaded

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes ``tokenizer.json`` into ``folder`` (made where it is missing), whole or not at all.

        Raises:
            GuerdonError: it cannot be written.
        """
        folder = Path(folder)
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE_NAME, [self._content])

    def tokens(self) -> list[str]:
        """The name of each id: its bytes, each written as a visible character (as GPT-2 does)."""
        return [str(self._backend.id_to_token(token)) for token in range(self.vocabulary_size)]

    def words(self, text: str) -> list[str]:
        """What merges stay within: the text's bytes, each as a visible character, cut where no merge can cross.

        Raises:
            DataError: as `encode`.
        """
        return [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(_valid(text, "the text"))]

    def merges(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """The id of each piece of a word, and the pairs of pieces that are merged, in the order in which they were learned."""
        model = json.loads(self._content)["model"]
        return model["vocab"], [(left, right) for left, right in model["merges"]]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, never a special one; no start or end is added.

        Raises:
            DataError: the text holds half a surrogate pair, which is no Unicode character.
        """
        ids: list[int] = self._backend.encode(_valid(text, "the text"), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, as `encode` gives them, on all cores."""
        return [
            encoding.ids for encoding in self._backend.encode_batch_fast(list(_checked(texts, True)), add_special_tokens=False)
        ]

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each source as a policy reads it, the end token included; raises as `encode`."""
        return [[*ids, self.end_id] for ids in self.encode_batch(texts)]

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each target as a policy writes it, the end token included; raises as `encode`."""
        return self.encode_sources(texts)

    def encode_prefixes(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of the beginning of each target; raises as `encode`."""
        return self.encode_batch(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ids are left out, and bytes that are no UTF-8 become U+FFFD.

        Raises:
            DataError: an id that this tokenizer does not have.
        """
        text: str = self._backend.decode(self._ordinary(ids), skip_special_tokens=False)
        return text

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row, as `decode` gives it, on all cores."""
        texts: list[str] = self._backend.decode_batch([self._ordinary(ids) for ids in rows], skip_special_tokens=False)
        return texts

    def _ordinary(self, ids: Sequence[int]) -> list[int]:
        for token in ids:
            if not 0 <= token < self.vocabulary_size:
                raise DataError(
                    f"no id {token}: the vocabulary has {self.vocabulary_size}", cure="use the model's own tokenizer"
                )
        return [token for token in ids if token >= len(_SPECIAL)]

    def _check(self, file: Path) -> None:
        """A file that parses may still be of another tool, and would then break the promises made above."""
        backend, fault = self._backend, ""
        if _without_words(backend) != _without_words(_byte_level(models.BPE())):
            fault = "it treats texts in another way"
        elif [backend.id_to_token(token) for token in range(len(_SPECIAL))] != list(_SPECIAL):
            fault = "the special ids are others"
        elif sorted(backend.get_vocab().values()) != list(range(self.vocabulary_size)):
            fault = "the ids have gaps"
        elif any(backend.token_to_id(byte) is None for byte in pre_tokenizers.ByteLevel.alphabet()):
            fault = "some bytes have no id"
        if fault:
            raise CheckpointError(f"not a tokenizer of guerdon: {fault}", where=str(file), cure="train one with guerdon")


def _byte_level(model: Any) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    return backend


def _without_words(backend: Backend) -> dict[str, Any]:
    """Everything that a tokenizer is, save its vocabulary and merges."""
    parts: dict[str, Any] = json.loads(backend.to_str())
    return parts | {"model": parts["model"] | {"vocab": None, "merges": None}}


def _without_added_tokens(learner: Backend) -> bytes:
    """The trainer declares special tokens as words to be found in texts, which they must never be: only their ids stay."""
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return str(_byte_level(models.BPE(vocab=model["vocab"], merges=merges)).to_str(pretty=True)).encode()


def _valid(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"{name} holds \\u{ord(text[error.start]):04x}, half a surrogate pair, at character {error.start + 1}"
        raise DataError(what, cure="write both halves or neither") from error
    return text


def _checked(texts: Iterable[str], may_be_empty: bool = False) -> Iterator[str]:
    number = 0
    for number, text in enumerate(texts, 1):
        yield _valid(text, f"text {number}")
    if not number and not may_be_empty:
        raise DataError("there are no texts to train a tokenizer on", cure="give it at least one")


def _configure_forks() -> None:
    """Forked children encode on one core, silently: the library's threads do not survive a fork.

    The library reads its variable at every call and warns at a fork where it is not set. It is set for the fork alone, so
    that the parent keeps all its cores; where the user has set it, nothing is touched.
    """
    name, ours = "TOKENIZERS_PARALLELISM", False

    def before() -> None:
        nonlocal ours
        ours = name not in os.environ
        if ours:
            os.environ[name] = "false"

    def after() -> None:
        if ours:
            os.environ.pop(name, None)

    os.register_at_fork(before=before, after_in_parent=after)


if hasattr(os, "register_at_fork"):
    _configure_forks()
