"""Hugging Face encoder–decoder models (T5, BART, Marian, mBART, ...) as policies.

What the model's ``generation_config`` says about *which* tokens may be written (suppressed ones, a forced first one) is
obeyed, in decoding and in training alike, or refused when the policy is built. What it says about *how* to search (beams,
penalties, lengths, n-gram blocks, a forced end at the length limit) is not read: those are options of `guerdon.decoding`.
With the same options, greedy and beam search write what transformers' ``generate(renormalize_logits=True)`` writes, but for
one difference: a forced first token is no part of an output here, and transformers counts it in the length penalty.

Axes: b sources, r rows (outputs being written), s source positions, t target positions, m width, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guerdon.data.padded import Padded
from guerdon.errors import CapabilityError, CheckpointError, MissingExtraError
from guerdon.models.bars import without_bars
from guerdon.models.evaluation import evaluate_logits
from guerdon.models.huggingface_checks import Conventions, check_agreement, check_kind, source_and_target_limits
from guerdon.models.integer import no_integers
from guerdon.models.policy import Evaluation, Policy
from guerdon.models.precision import InferencePrecision, Precision, autocast


@dataclass
class HuggingFaceState:
    """The rows of a running decode; every row stands at the same position.

    Attributes:
        cache: the model's own ``EncoderDecoderCache``; None before the first token is fed.
        memory: the encoder's output, [r, s, m].
        mask: int64 [r, s], 1 at a source's own positions.
        source: int64 [r], the source of each row.
        precision: of this decode's matrix products.
    """

    cache: Any
    memory: Tensor
    mask: Tensor
    source: Tensor
    precision: Precision

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self.source)

    def select(self, rows: Tensor) -> HuggingFaceState:
        """Keeps the rows named (int64 [new rows]; may drop, repeat, permute). Consumes the state: use what it returns."""
        source = self.source[rows]
        if self.cache is not None:
            self.cache.self_attention_cache.batch_select_indices(rows)
        # A beam mostly permutes rows among the copies of a source, which share what was read from it.
        if not torch.equal(source, self.source):
            self.source, self.memory, self.mask = source, self.memory[rows], self.mask[rows]
            if self.cache is not None:
                self.cache.cross_attention_cache.batch_select_indices(rows)
        return self


class HuggingFacePolicy(nn.Module):
    """An encoder–decoder model of transformers with the members of `guerdon.models.policy.Policy`.

    Args:
        model: any ``...ForConditionalGeneration`` that encodes ids and decodes with an ``EncoderDecoderCache``.
        max_source, max_target: longest source and output in tokens (end token included). By default the length of the
            model's position tables; for relative positions, which have no end, ``n_positions`` of the configuration or 512.

    Raises:
        CapabilityError: for a model that is no encoder–decoder, that has settings which a policy cannot obey (the message
            names them), or whose cached decoding, teacher forcing and padding do not agree with each other.
        MissingExtraError: without transformers.
    """

    allowed: Tensor

    def __init__(self, model: Any, max_source: int | None = None, max_target: int | None = None) -> None:
        super().__init__()
        check_kind(model)
        self.model, self.training = model, model.training
        conventions = Conventions.of(model)
        self.pad_id, self.start_id, self.end_id = conventions.pad_id, conventions.start_id, conventions.end_id
        # Decoder tokens that stand before an output; the last of them is fed by `step`, like any other token.
        self.prompt = conventions.prompt
        self.vocabulary_size, self.width = len(conventions.allowed), model.config.hidden_size
        source_limit, positions = source_and_target_limits(model.config)
        self.max_source = source_limit if max_source is None else max_source
        self.max_target = positions - len(self.prompt) + 1 if max_target is None else max_target
        device = next(model.parameters()).device
        self.register_buffer("allowed", conventions.allowed.to(device), persistent=False)
        check_agreement(self)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        dtype: torch.dtype = torch.float32,
        max_source: int | None = None,
        max_target: int | None = None,
    ) -> HuggingFacePolicy:
        """Opens a folder with Hugging Face files, or a model of the hub by name; weights from safetensors only.

        Args:
            name_or_folder: a folder, or a name such as "google/flan-t5-small".
            dtype: of the weights, whatever they were stored in; train in float32 and let autocast compute in bfloat16.
            max_source, max_target: see the class.

        Raises:
            CapabilityError: as the class; also for a configuration that is no encoder–decoder's.
            CheckpointError: where files are missing or damaged, or weights are missing or of other dimensions.
            MissingExtraError: without transformers.
        """
        try:
            from transformers import AutoConfig, AutoModelForSeq2SeqLM
        except ImportError as error:
            raise MissingExtraError("transformers", "huggingface", "a Hugging Face model") from error
        where = str(name_or_folder)
        try:
            config = AutoConfig.from_pretrained(where)
            if not config.is_encoder_decoder:
                raise CapabilityError(f"a {config.model_type} model is no encoder-decoder", where=where)
            # What does not fit is reported here below, by name, rather than by transformers' "see the above report".
            settings = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
            with without_bars():
                model, report = AutoModelForSeq2SeqLM.from_pretrained(where, config=config, dtype=dtype, **settings)
        except CapabilityError:
            raise
        except Exception as error:  # transformers, safetensors and the hub raise kinds of their own for damaged or absent files
            raise CheckpointError(
                f"cannot be loaded ({type(error).__name__}: {str(error)[:200]})",
                where=where,
                cure="give a folder with config.json and model.safetensors, or a name on the hub that can be reached",
            ) from error
        faults = [f"{name} is missing" for name in sorted(report["missing_keys"])]
        faults += [f"{name} is {list(found)}, not {list(wanted)}" for name, found, wanted in sorted(report["mismatched_keys"])]
        if faults:
            raise CheckpointError(
                f"{len(faults)} weights do not fit the configuration: {faults[0]}",
                where=where,
                cure="use the configuration that belongs to the weights",
            )
        return cls(model, max_source, max_target)

    def save(self, folder: str | Path) -> None:
        """Writes ``config.json``, ``generation_config.json`` and ``model.safetensors`` into ``folder``."""
        with without_bars():
            self.model.save_pretrained(folder)

    # --- whole sequences

    def logits(self, sources: Padded, targets: Padded, rows: Tensor | None = None) -> Tensor:
        """See `guerdon.models.policy.Policy.logits`."""
        output = self._teach(sources, targets, rows)
        return self._restricted(self._of_targets(output.logits)[targets.mask])

    def hidden_and_logits(self, sources: Padded, targets: Padded, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `guerdon.models.policy.Policy.hidden_and_logits`: the last of the decoder's hidden states."""
        output = self._teach(sources, targets, rows, output_hidden_states=True)
        hidden = self._of_targets(output.decoder_hidden_states[-1])[targets.mask]
        return hidden, self._restricted(self._of_targets(output.logits)[targets.mask])

    def _teach(self, sources: Padded, targets: Padded, rows: Tensor | None, **wanted: bool) -> Any:
        """The model's output under teacher forcing; its positions begin with those of the prompt."""
        before = torch.tensor(self.prompt, device=targets.ids.device).expand(len(targets), -1)
        inputs = torch.cat([before, targets.ids.masked_fill(~targets.mask, self.pad_id)[:, :-1]], dim=1)
        memory, mask = self._encode(sources)
        return self.model(
            attention_mask=mask if rows is None else mask[rows],
            encoder_outputs=(memory if rows is None else memory[rows],),
            decoder_input_ids=inputs,
            decoder_attention_mask=torch.ones_like(inputs),
            use_cache=False,
            **wanted,
        )

    def _of_targets(self, values: Tensor) -> Tensor:
        """What predicts each target position: [b, prompt + t - 1, ...] to [b, t, ...]."""
        return values[:, len(self.prompt) - 1 :]

    def evaluate(
        self,
        sources: Padded,
        targets: Padded,
        anchor: Policy | None = None,
        temperature: float = 1.0,
        rows: Tensor | None = None,
        top_p: float = 1.0,
    ) -> Evaluation:
        """See `guerdon.models.policy.Policy.evaluate`."""
        with torch.no_grad():
            anchor_logits = None if anchor is None else anchor.logits(sources, targets, rows)
        return evaluate_logits(self.logits(sources, targets, rows), anchor_logits, targets, temperature, top_p)

    def _encode(self, sources: Padded) -> tuple[Tensor, Tensor]:
        """The memory [b, s, m], and its mask, int64 [b, s]."""
        mask = sources.mask.long()
        encoded = self.model.get_encoder()(
            input_ids=sources.ids.masked_fill(mask == 0, self.pad_id), attention_mask=mask, return_dict=True
        )
        return encoded.last_hidden_state, mask

    # --- one position at a time

    def start(
        self, sources: Padded, copies: int = 1, precision: InferencePrecision = "float32"
    ) -> tuple[HuggingFaceState, Tensor]:
        """See `guerdon.models.policy.Policy.start`. A forced first token is fed here, and is no part of the output."""
        if precision == "int8":
            raise no_integers()
        with autocast(sources.ids.device, precision):
            (memory, mask), count = self._encode(sources), len(sources)
        numbers = torch.arange(count, device=memory.device)
        state = HuggingFaceState(None, memory, mask, numbers, precision)
        *before, first = self.prompt
        if before:
            self._feed(state, torch.tensor(before, device=memory.device).expand(count, -1))
        elif copies > 1:
            # The keys and values of each source are computed when a token is first fed: once a source here, instead of once
            # a row later. What the decoder remembers of this token is dropped, as `step` is to feed it.
            self._feed(state, numbers.new_full((count, 1), first))
            state.cache.self_attention_cache.reset()
        if copies > 1:
            state = state.select(numbers.repeat_interleave(copies))
        return state, numbers.new_full((count * copies,), first)

    def step(self, state: HuggingFaceState, tokens: Tensor) -> Tensor:
        """See `guerdon.models.policy.Policy.step`."""
        return self._restricted(self._feed(state, tokens[:, None]))

    def _feed(self, state: HuggingFaceState, tokens: Tensor) -> Tensor:
        """Feeds ``tokens`` [r, new positions] to every row; the logits after the last of them, [r, v]."""
        past = 0 if state.cache is None else state.cache.get_seq_length()
        with autocast(tokens.device, state.precision):
            output = self.model(
                attention_mask=state.mask,
                encoder_outputs=(state.memory,),
                decoder_input_ids=tokens,
                decoder_attention_mask=tokens.new_ones(tokens.shape[0], past + tokens.shape[1]),
                past_key_values=state.cache,
                use_cache=True,
            )
        state.cache = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        return logits

    def _restricted(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(~self.allowed, -torch.inf)
