"""A trained policy that a run begins with, where it does not train its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import DecodingOptions
from guerdon.errors import InputError
from guerdon.generator import Generator, load, model_folder
from guerdon.pipeline.prepare import default_device
from guerdon.training.checkpoint import sha256

_ABOUT = ("done.json", "decoding.json")  # how it came about, and how it decodes where nothing else is said


@dataclass(frozen=True)
class Start:
    """The folder of a model, or of a run (the model of its last stage)."""

    folder: Path

    @cached_property
    def mark(self) -> str:
        """A checksum of the model: of all files in its folder, wherever that lies.

        Raises:
            DataError: when there is no model.
        """
        files = sorted(path for path in model_folder(self.folder).iterdir() if path.is_file() and path.name not in _ABOUT)
        return " ".join(f"{path.name}:{sha256(path)[:16]}" for path in files)

    def open(self, decoding: DecodingOptions) -> Generator:
        """The policy with its tokenizer; raises as `guerdon.generator.load`."""
        found = load(self.folder)
        return Generator(found.policy.to(default_device()), found.tokenizer, decoding)

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Refuses a policy that reads and writes other tokens than those of ``tokenizer``, the recipe's.

        Raises:
            InputError: it says what differs.
        """
        own = self.open(DecodingOptions()).tokenizer
        if not isinstance(own, Tokenizer) or own.fingerprint != tokenizer.fingerprint:
            size = f"{own.vocabulary_size} tokens" if isinstance(own, Tokenizer) else "a Hugging Face tokenizer"
            raise InputError(
                f"has another vocabulary ({size}) than the recipe gives its policy ({tokenizer.vocabulary_size} tokens)",
                where=str(self.folder),
                cure="name a policy that was trained by this recipe on these data, or let the recipe load the policy",
            )
