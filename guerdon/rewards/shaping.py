"""Rewards of unfinished outputs, as potentials for reward shaping by prefix.

Φ(prefix) estimates the score of the whole output. Paying Φ(prefix with the token) - Φ(prefix before it) for each token
(Bahdanau et al. 2017, "An actor-critic algorithm for sequence prediction"), where the ended output has the potential 0 and
its own score r(y) is paid at the end, is potential-based shaping, which changes no optimal policy (Ng, Harada and Russell
1999, theorem 1). From token t on, the payments sum to r(y) - Φ(prefix before t): a baseline for token t. Φ reads nothing but
the source, its references and the tokens before t, hence E[Φ ∇ log π(token t | prefix)] = 0, and the policy gradient is
unbiased whatever Φ is; a good estimate lowers its variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from guerdon.errors import ConfigurationError, InputError
from guerdon.rewards.base import Judged, Judgement, Part, Reward
from guerdon.rewards.combine import Combined, NamedPart


def check_shaping(reward: Reward) -> None:
    """Refuses a reward that cannot be a potential.

    Raises:
        ConfigurationError: when no part of it scores prefixes.
    """
    if not reward.scores_prefixes:
        raise ConfigurationError(
            "no part of the reward scores prefixes",
            where=f"reward {reward.name!r}",
            cure="leave out shaping, or add a part that does, such as word_frequency, chrf or required_content",
        )


def judge_prefixes(reward: Reward, judged: Judged, prefixes: Sequence[Sequence[str]]) -> Judgement:
    """The raw parts of the prefixes of some outputs, output after output: all of output 0's, then all of output 1's.

    A part that does not score prefixes applies to none of them, so that it adds nothing to the potentials
    (`guerdon.rewards.normalise.Normaliser.potentials`). Weights are the parts' own. Equal prefixes of one output (tokens inside
    one character) are scored once.

    Args:
        reward: of which some part scores prefixes.
        judged: the n whole outputs.
        prefixes: for each output, the text after 0, 1, ..., length - 1 tokens: what stood there before each token was drawn.
            All of them are judged as not finished.

    Returns:
        Parts of k = Σ lengths rows.

    Raises:
        ConfigurationError: when no part scores prefixes.
        InputError: when there are not n lists of prefixes.
        RewardError: as `Reward.judge`.
    """
    check_shaping(reward)
    if len(prefixes) != len(judged):
        raise InputError(f"{len(prefixes)} lists of prefixes for {len(judged)} outputs", cure="pass one list per output")
    seen: dict[tuple[int, str], int] = {}
    index = torch.tensor(
        [seen.setdefault((row, text), len(seen)) for row, texts in enumerate(prefixes) for text in texts], dtype=torch.int64
    )
    rows, texts = [row for row, _ in seen], [text for _, text in seen]
    unique = Judged(
        [judged.sources[row] for row in rows],
        texts,
        [judged.references[row] for row in rows],
        [judged.meta[row] for row in rows],
        [False] * len(rows),
    )
    nowhere, zeros = torch.zeros(len(index), dtype=torch.bool), torch.zeros(len(index))
    scoring, others = _split(reward)
    parts = {part.name: Part(zeros, nowhere, part.weight) for part in others}
    for name, part in scoring.judge(unique).parts.items():
        parts[name] = Part(part.scores[index], part.applies[index], part.weight)
    return Judgement(parts)


def _split(reward: Reward) -> tuple[Reward, list[NamedPart]]:
    """The parts that score prefixes, under the names that they have in the whole reward; and the others."""
    if not isinstance(reward, Combined):
        return reward, []
    scoring = Combined(part for part in reward.parts if part.reward.scores_prefixes)
    return scoring, [part for part in reward.parts if not part.reward.scores_prefixes]
