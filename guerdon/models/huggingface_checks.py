"""What is settled about a Hugging Face model before it may be a policy: its special tokens, its limits, its soundness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.errors import CapabilityError, MissingExtraError

# T5's own training length; relative positions know no limit, and its configurations no longer carry one.
_RELATIVE_POSITIONS = 512
# Settings of generation_config by which a token's probability would depend on where it stands.
_CONTEXTUAL = ("begin_suppress_tokens", "sequence_bias")


def check_kind(model: Any) -> None:
    """Refuses what is no text-to-text encoder–decoder of transformers with a head over the vocabulary."""
    try:
        from transformers import PreTrainedModel
    except ImportError as error:
        raise MissingExtraError("transformers", "huggingface", "a Hugging Face model") from error
    name = type(model).__name__
    kind: Any = PreTrainedModel  # most of its methods carry no types
    if not isinstance(model, kind) or not model.config.is_encoder_decoder:
        raise CapabilityError("not an encoder-decoder model of transformers", where=name, cure="give a T5, BART, Marian, ...")
    if model.main_input_name != "input_ids":
        raise CapabilityError(f"reads {model.main_input_name}, not the ids of a text", where=name)
    if model.get_output_embeddings() is None:
        raise CapabilityError("has no head over the vocabulary", where=name, cure="load it as ...ForConditionalGeneration")


@dataclass(frozen=True)
class Conventions:
    """How a model begins and ends outputs, and what it may write.

    Attributes:
        pad_id, start_id, end_id: its special tokens.
        prompt: the decoder tokens before an output: the start token, and a forced first one where there is one.
        allowed: bool [v].
    """

    pad_id: int
    start_id: int
    end_id: int
    prompt: tuple[int, ...]
    allowed: Tensor

    @classmethod
    def of(cls, model: Any) -> Conventions:
        """Reads the model's ``generation_config`` and, behind it, its ``config``.

        Raises:
            CapabilityError: where a special token is not set or is several, or the settings go beyond a fixed set of tokens.
        """
        start, end, pad = (_token(model, name) for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"))
        for name in _CONTEXTUAL:
            if getattr(model.generation_config, name, None):
                _refuse(model, f"generation_config.{name} is set, which a policy cannot obey", "set it to None")
        forced = _setting(model, "forced_bos_token_id")
        allowed = torch.ones(model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        disallowed = [*_suppressed(model, end), *({pad, start} - {end})]
        allowed[disallowed] = False
        return cls(pad, start, end, (start,) if forced is None else (start, int(forced)), allowed)


def _suppressed(model: Any, end: int) -> list[int]:
    """The tokens that the model's settings rule out everywhere."""
    suppressed = list(_setting(model, "suppress_tokens") or [])
    if end in suppressed:
        _refuse(model, f"generation_config.suppress_tokens holds the end token {end}", "take it out: no output could end")
    words = list(_setting(model, "bad_words_ids") or [])
    if any(len(word) > 1 for word in words):
        _refuse(model, "generation_config.bad_words_ids has words of several tokens", "keep those of one token")
    # transformers does not let a bad word rule out the end either.
    return [*suppressed, *(word[0] for word in words if word != [end])]


def _setting(model: Any, name: str) -> Any:
    value = getattr(model.generation_config, name, None)
    return getattr(model.config, name, None) if value is None else value


def _token(model: Any, name: str) -> int:
    value = _setting(model, name)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, int):
        return value
    what = f"{name} is not set" if value is None else f"{name} is {value}, and a policy has one"
    return _refuse(model, what, f"set model.generation_config.{name}")


def _refuse(model: Any, what: str, cure: str) -> Any:
    raise CapabilityError(what, where=f"{type(model).__name__} {model.config.name_or_path}".strip(), cure=cure)


def source_and_target_limits(config: Any) -> tuple[int, int]:
    """How many positions the encoder and the decoder have."""
    return _positions(config, "encoder"), _positions(config, "decoder")


def _positions(config: Any, side: str) -> int:
    for place in (config, getattr(config, side, None)):
        for name in (f"max_{side}_position_embeddings", "max_position_embeddings", "n_positions"):
            value = getattr(place, name, None)
            if isinstance(value, int):
                return value
    return _RELATIVE_POSITIONS


@torch.no_grad()
def check_agreement(policy: Any) -> None:
    """Refuses a model that answers differently alone and in a padded batch, or step by step and at once.

    Such models exist (windows, capacities, positions counted over padding, caches not honoured), and their policy
    gradients would be silently wrong. Two short sources tell.

    Raises:
        CapabilityError: where the differences go beyond rounding in the weights' precision.
    """
    training = policy.training
    policy.eval()
    try:
        sources, targets = _probe(policy)
        together = policy.logits(sources, targets)
        answers = {
            "alone and in a padded batch": torch.cat([_alone(policy, sources, targets, row) for row in range(2)]),
            "step by step and at once": _stepwise(policy, sources, targets),
        }
    finally:
        policy.train(training)
    finite = together[:, policy.allowed].double()
    tolerance = torch.finfo(together.dtype).eps ** 0.5 * (1 + float(finite.abs().max()))
    for name, other in answers.items():
        difference = float((other[:, policy.allowed].double() - finite).abs().max())
        if not difference <= tolerance:
            _refuse(policy.model, f"its logits {name} differ by {difference:.2g}", "a policy must answer the same; use another")


def _probe(policy: Any) -> tuple[Padded, Padded]:
    """Two sources and two targets of different lengths, within the model's limits, of tokens that both sides know."""
    known = policy.allowed[: policy.model.get_input_embeddings().weight.shape[0]].clone()
    known[policy.end_id : policy.end_id + 1] = False
    ids = known.nonzero().flatten()[:7].tolist() or [policy.end_id]
    sides = []
    for limit in (policy.max_source, policy.max_target):
        lengths = (min(2, limit - 1), min(5, limit - 1))
        sides.append(Padded.from_lists([[*(ids * 7)[row : row + n], policy.end_id] for row, n in enumerate(lengths)]))
    device = policy.allowed.device
    return sides[0].to(device), sides[1].to(device)


def _alone(policy: Any, sources: Padded, targets: Padded, row: int) -> Tensor:
    one = torch.tensor([row], device=sources.ids.device)
    return policy.logits(sources.select(one), targets.select(one))


def _stepwise(policy: Any, sources: Padded, targets: Padded) -> Tensor:
    """The logits of the targets' positions by cached steps; rows are copied, then dropped and exchanged on the way."""
    state, tokens = policy.start(sources, copies=2)
    source = torch.arange(2, device=tokens.device).repeat_interleave(2)
    kept, steps = torch.tensor([2, 0], device=tokens.device), []
    for position in range(targets.ids.shape[1]):
        logits = policy.step(state, tokens)
        steps.append(torch.stack([logits[source == number][0] for number in range(2)]))
        if position == 1:
            state, source = state.select(kept), source[kept]
        tokens = targets.ids[source, position]
    return torch.stack(steps, 1)[targets.mask]
