"""A policy with its tokenizer and decoding options behind one call: what `guerdon.load` returns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from guerdon.data.draws import row_keys
from guerdon.data.files import write_atomically
from guerdon.data.padded import Padded
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import BeamOptions, DecodingOptions, Hypothesis, LengthLimit, beam_search, changed, greedy, sample
from guerdon.decoding.constraints import inference
from guerdon.errors import CheckpointError, ConfigurationError, DataError, InputError
from guerdon.models.load import CONFIG, load_policy, read_config, save_policy
from guerdon.models.packed import unchanged
from guerdon.models.transformer import Transformer

DECODING = "decoding.json"
_TOGETHER = 8  # batches


class Text(Protocol):
    """How texts become ids and ids texts; guerdon's `~guerdon.data.tokenizer.Tokenizer`, or a Hugging Face model's own."""

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each source as the policy reads it, with the special tokens that it expects."""
        ...

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each target as the policy writes it, the end token included."""
        ...

    def encode_prefixes(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of the beginning of each target."""
        ...

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of ids."""
        ...

    def save(self, folder: Path) -> None:
        """Writes it into a model's folder."""
        ...


@dataclass(frozen=True)
class Output:
    """One text that a policy wrote.

    Attributes:
        text: the text.
        log_prob: natural logarithm of its probability, summed over its tokens.
        score: what it was ranked by: a beam's length-normalised log_prob, otherwise its log_prob.
        tokens: its ids, without the end token.
        finished: False where it was cut at the length limit.
    """

    text: str
    log_prob: float
    score: float
    tokens: tuple[int, ...]
    finished: bool


class Generator:
    """Texts in, texts out.

    Args:
        policy: what writes (see `guerdon.models.policy.Policy`).
        tokenizer: of the policy.
        decoding: used where `generate` is not told otherwise.
    """

    def __init__(self, policy: Any, tokenizer: Text, decoding: DecodingOptions | None = None) -> None:
        self.policy, self.tokenizer = policy, tokenizer
        self.decoding = decoding or DecodingOptions()

    @property
    def device(self) -> torch.device:
        """Where the policy's weights are."""
        return next(iter(self.policy.parameters())).device

    # --- texts and ids

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each source, the end token included.

        Raises:
            DataError: for a source of more tokens than the policy takes.
        """
        _check_list(texts, "sources")
        return _checked(self.tokenizer.encode_sources(texts), texts, self.policy.max_source, "source")

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each target, the end token included.

        Raises:
            DataError: for a target of more tokens than the policy can write.
        """
        _check_list(texts, "targets")
        return _checked(self.tokenizer.encode_targets(texts), texts, self.policy.max_target, "target")

    # --- decoding

    def generate(
        self,
        sources: Sequence[str],
        decoding: DecodingOptions | None = None,
        prefixes: Sequence[str] | None = None,
        advance: Callable[[int], None] | None = None,
        **changes: Any,
    ) -> list[list[Output]]:
        """Writes outputs for each source, best first.

        Args:
            sources: the texts to answer.
            decoding: how; by default the generator's own options.
            prefixes: a text that each source's outputs must begin with.
            advance: is told how many sources have been answered, now and then.
            **changes: single options of `DecodingOptions` to change; another ``method`` starts from its own defaults.

        Raises:
            ConfigurationError: for options that cannot be.
            DataError: for a source that is too long.
            InputError: for another number of prefixes than sources, or a prefix that is too long.
        """
        options = changed(decoding or self.decoding, changes)
        rows = self.encode_sources(sources)
        forced = None if prefixes is None else self._encode_prefixes(prefixes, len(rows))
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        found: dict[int, list[Output]] = {}
        with unchanged(self.policy):
            for part in in_batches(order, options.batch_size, self.device):
                batch = self._padded([rows[i] for i in part])
                starts = None if forced is None else self._padded([forced[i] for i in part])
                hypotheses = self._search(batch, part, options, starts)
                texts = iter(self.tokenizer.decode_batch([h.tokens for group in hypotheses for h in group]))
                for i, group in zip(part, hypotheses, strict=True):
                    found[i] = [Output(next(texts), h.log_prob, h.score, h.tokens, h.finished) for h in group]
                if advance is not None:
                    advance(len(found))
        return [found[i] for i in range(len(rows))]

    def _padded(self, rows: Sequence[Sequence[int]]) -> Padded:
        return Padded.from_lists(rows, self.policy.pad_id, self.device)

    def _encode_prefixes(self, prefixes: Sequence[str], count: int) -> list[list[int]]:
        _check_list(prefixes, "prefixes")
        if len(prefixes) != count:
            raise InputError(f"{len(prefixes)} prefixes for {count} sources", where="generate", cure="pass one for each source")
        return self.tokenizer.encode_prefixes(prefixes)

    def _search(
        self, batch: Padded, numbers: Sequence[int], options: DecodingOptions, prefixes: Padded | None
    ) -> list[list[Hypothesis]]:
        limits, search = options.limit.of(batch, self.policy), options.search()
        precision, size = options.precision, options.batch_size
        if isinstance(search, BeamOptions):
            return beam_search(self.policy, batch, limits, search, prefixes, precision, size)
        if search is None:
            return [[h] for h in greedy(self.policy, batch, limits, prefixes, options.ngram_block, precision, size)]
        copies = options.returned
        examples = torch.tensor(numbers).repeat_interleave(copies)
        keys = row_keys(options.seed, "generate", 0, examples, torch.arange(copies).repeat(len(numbers)))
        drawn = sample(self.policy, batch, limits, search, keys, copies, prefixes, precision, size)
        sums = drawn.log_prob.double().sum(1).tolist()
        flat = [
            Hypothesis(tuple(ids), log_prob, log_prob, finished)
            for ids, log_prob, finished in zip(drawn.without_end(), sums, drawn.finished.tolist(), strict=True)
        ]
        return [flat[i : i + copies] for i in range(0, len(flat), copies)]

    def log_probs(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """The natural logarithm of the policy's probability of each target given its source, end included.

        Raises:
            InputError: for another number of targets than sources.
            DataError: for a source or target that is too long.
        """
        if len(sources) != len(targets):
            raise InputError(f"{len(targets)} targets for {len(sources)} sources", where="log_probs", cure="pass one for each")
        rows, written = self.encode_sources(sources), self.encode_targets(targets)
        found: list[float] = []
        with inference(self.policy):
            for first in range(0, len(rows), self.decoding.batch_size):
                span = slice(first, first + self.decoding.batch_size)
                batch, scored = (Padded.from_lists(part[span], self.policy.pad_id, self.device) for part in (rows, written))
                found += self.policy.evaluate(batch, scored).log_prob.double().sum(1).tolist()
        return found

    # --- folders

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer's files, ``decoding.json``, and the policy's files, whose ``config.json`` makes it a model.

        Raises:
            GuerdonError: when they cannot be written.
        """
        folder = Path(folder)
        self.tokenizer.save(folder)
        write_atomically(folder / DECODING, [json.dumps(dataclasses.asdict(self.decoding), indent=2).encode(), b"\n"])
        if isinstance(self.policy, Transformer):
            save_policy(self.policy, folder)
        else:
            self.policy.save(folder)


def in_batches(order: Sequence[int], size: int, device: torch.device) -> list[Sequence[int]]:
    """What is asked for at once: a batch on the CPU; on a GPU several, whose sources take each other's places."""
    span = size * (_TOGETHER if device.type == "cuda" else 1)
    return [order[first : first + span] for first in range(0, len(order), span)]


def _check_list(texts: Sequence[str], noun: str) -> None:
    if isinstance(texts, str):
        raise InputError("is one text, and a list of texts is needed", where=noun, cure="put it in brackets: [text]")


def _checked(rows: list[list[int]], texts: Sequence[str], limit: int, noun: str) -> list[list[int]]:
    for number, row in enumerate(rows):
        if len(row) > limit:
            raise DataError(
                f"has {len(row)} tokens, and the policy takes at most {limit}",
                where=f"{noun} {number + 1} ({texts[number][:40]!r}...)",
                cure=f"shorten it, leave it out, or train a policy with a larger max_{noun}",
            )
    return rows


def load(where: str | Path) -> Generator:
    """Opens a model's folder, a run's folder (the model of its last stage), or a Hugging Face encoder–decoder by name.

    A folder with the files of a Hugging Face model is one too.

    Raises:
        DataError: when there is no model.
        CheckpointError: when it is damaged.
        CapabilityError: when it is a Hugging Face model that cannot be a policy.
    """
    name = str(where)
    on_a_hub = name.count("/") == 1 and not name.startswith((".", "/")) and not Path(where).parent.is_dir()
    if not Path(where).exists() and on_a_hub:  # "runs/e2" beside runs/e2e is a misspelt folder
        return _load_huggingface(name, None)
    folder = model_folder(Path(where))
    if "model_type" in read_config(folder):
        return _load_huggingface(str(folder), folder)
    policy = load_policy(folder)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocabulary_size != policy.vocabulary_size:
        raise CheckpointError(
            f"has {tokenizer.vocabulary_size} tokens, and the model {policy.vocabulary_size}",
            where=str(folder / "tokenizer.json"),
            cure="restore the tokenizer that the model was trained with",
        )
    return Generator(policy, tokenizer, _decoding(folder))


def _load_huggingface(name: str, folder: Path | None) -> Generator:
    from guerdon.models.huggingface import HuggingFacePolicy
    from guerdon.models.huggingface_text import HuggingFaceTokenizer

    policy = HuggingFacePolicy.from_pretrained(name)
    return Generator(policy.eval(), HuggingFaceTokenizer.from_pretrained(name, policy), _decoding(folder))


def _decoding(folder: Path | None) -> DecodingOptions:
    """The options stored with a model; the defaults where there are none."""
    path = None if folder is None else folder / DECODING
    if path is None or not path.is_file():
        return DecodingOptions()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return DecodingOptions(limit=LengthLimit(**stored.pop("limit")), **stored)
    except (ValueError, TypeError, KeyError, AttributeError, ConfigurationError) as error:
        raise CheckpointError(f"is damaged ({error})", where=str(path), cure="remove it to use the defaults") from error


def model_folder(folder: Path) -> Path:
    """The folder itself where it holds a model, or that of the last stage of the run which it holds."""
    for candidate in (folder, folder / "reinforce", folder / "prefer", folder / "finetune", folder / "pretrain"):
        if (candidate / CONFIG).is_file():
            return candidate
    raise DataError(
        "holds neither a model (config.json) nor a run that has finished a stage" if folder.is_dir() else "no such folder",
        where=str(folder),
        cure="name the folder of a model or of a run",
    )
