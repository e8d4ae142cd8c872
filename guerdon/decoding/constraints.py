"""What greedy search, sampling and beam search share: checks, forced prefixes, repeated n-grams.

Axes: r rows (outputs being written), t positions written so far, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError, GuerdonError, InputError
from guerdon.models.policy import Policy


@contextmanager
def inference(policy: Policy) -> Iterator[None]:
    """No gradients and no dropout inside; every module's mode is restored afterwards."""
    training = [module for module in policy.modules() if module.training] if isinstance(policy, nn.Module) else []
    for module in training:
        module.training = False
    try:
        # not inference_mode: sampled ids are saved for the backward pass of the loss that scores them
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def check_ngram_block(size: int) -> None:
    """Refuses a negative size of blocked n-grams."""
    if size < 0:
        raise ConfigurationError(
            f"{size} is not a size of n-grams", where="decoding.ngram_block", cure="give 0 for no block, or n"
        )


def check_request(policy: Policy, sources: Padded, limits: Tensor, prefixes: Padded | None) -> None:
    """Refuses limits and prefixes that do not fit the sources or the policy.

    Raises:
        InputError: for another number of limits or prefixes than sources, a limit outside 1 … max_target, a prefix longer
            than its limit, or one with a token that an output may not contain.
    """
    if limits.shape != (len(sources),):
        raise InputError(
            f"{list(limits.shape)} limits for {len(sources)} sources", where="decoding", cure="pass one limit per source"
        )
    if bool(((limits < 1) | (limits > policy.max_target)).any()):
        raise InputError(
            f"limits from {int(limits.min())} to {int(limits.max())} tokens, where the policy writes 1 to {policy.max_target}",
            where="decoding",
            cure="take them from LengthLimit.of",
        )
    if prefixes is not None:
        _check_prefixes(policy, sources, limits, prefixes)


def _check_prefixes(policy: Policy, sources: Padded, limits: Tensor, prefixes: Padded) -> None:
    if len(prefixes) != len(sources):
        raise InputError(
            f"{len(prefixes)} prefixes for {len(sources)} sources", where="decoding", cure="pass one prefix per source"
        )
    allowed = policy.allowed.to(prefixes.ids.device).clone()
    allowed[policy.end_id] = False
    for row, (prefix, limit) in enumerate(zip(prefixes.to_lists(), limits.tolist(), strict=True)):
        if len(prefix) > limit:
            raise InputError(
                f"a prefix of {len(prefix)} tokens for an output of at most {limit}",
                where=f"source {row}",
                cure="raise the limit",
            )
        for token in prefix:
            if not 0 <= token < policy.vocabulary_size or not bool(allowed[token]):
                raise InputError(
                    f"token {token} cannot be forced", where=f"source {row}", cure="force tokens that an output may contain"
                )


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision logits as float32; others as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def not_finite(row: str) -> GuerdonError:
    """The error for logits of which no distribution can be made."""
    return GuerdonError(
        "the policy's logits are nan, inf or all -inf, or give a forced token probability 0, so that no token can be chosen",
        where=row,
        cure="load an earlier checkpoint, or lower the learning rate of the training that led here",
    )


def forced_tokens(prefixes: Padded, position: int, sources: Tensor) -> tuple[Tensor, Tensor]:
    """What the prefixes force at this position on rows of these sources (int64 [r]).

    Returns:
        A token each (0 where none is forced, int64 [r]), and a mask, True where one is forced (bool [r]).
    """
    mask = position < prefixes.lengths[sources]
    return torch.where(mask, prefixes.ids[sources, position], 0), mask


def block_ngrams(scores: Tensor, written: Tensor, size: int) -> Tensor:
    """Sets to -inf each token that would repeat an n-gram of its own row (in place; Paulus et al. 2018, §2.5).

    Args:
        scores: [r, v].
        written: int64 [r, t], what each row wrote so far.
        size: n; 0 blocks nothing.
    """
    if size == 0 or written.shape[1] < size:
        return scores
    windows = written.unfold(1, size, 1)  # [r, t - n + 1, n]
    tail = written[:, written.shape[1] - size + 1 :]
    repeated = (windows[..., :-1] == tail[:, None]).all(-1)
    row, window = repeated.nonzero(as_tuple=True)
    scores[row, windows[row, window, -1]] = -torch.inf
    return scores
