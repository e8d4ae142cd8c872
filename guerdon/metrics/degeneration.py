"""Signs of degenerate outputs that can be read off the texts alone, without references: how much is copied, repeated, generic.

They describe, and have no good direction by themselves: a summary copies, a list repeats. What tells is how they move while a
policy is trained (`guerdon.training.monitors`).
"""

from __future__ import annotations

from collections.abc import Sequence

from guerdon.data.words import ngrams, split_unicode
from guerdon.errors import InputError

_COPIED = 5  # characters of a run that counts as copied: longer than what words share by chance, and no splitter is needed


def text_figures(sources: Sequence[str], outputs: Sequence[str]) -> dict[str, float]:
    """What outputs look like beside their sources and each other.

    Args:
        sources: of each output; outputs of the same source are samples of it.
        outputs: the texts.

    Returns:
        ``copied``: the mean share of an output's distinct runs of five characters that stand in its source, in [0, 1].
        ``repeated``: the mean share of an output's pairs of neighbouring words that stood in it before, in [0, 1] (seq-rep-2 of
        Welleck et al. 2020, https://arxiv.org/abs/1908.04319, section 6).
        ``generic``: the share of outputs that were written, word for word, for another source as well, in [0, 1].

    Raises:
        InputError: without outputs, or with another number of sources.
    """
    if not outputs or len(sources) != len(outputs):
        raise InputError(f"{len(sources)} sources for {len(outputs)} outputs", where="text_figures", cure="give one for each")
    runs = {source: _runs(source) for source in sources}
    written_for: dict[str, set[str]] = {}
    for source, output in zip(sources, outputs, strict=True):
        written_for.setdefault(output, set()).add(source)
    copied = [_share_in(_runs(output), runs[source]) for source, output in zip(sources, outputs, strict=True)]
    return {
        "copied": sum(copied) / len(outputs),
        "repeated": sum(map(_repeated, outputs)) / len(outputs),
        "generic": sum(len(written_for[output]) > 1 for output in outputs) / len(outputs),
    }


def _runs(text: str) -> set[str]:
    return {text[at : at + _COPIED] for at in range(len(text) - _COPIED + 1)}


def _share_in(runs: set[str], known: set[str]) -> float:
    return len(runs & known) / len(runs) if runs else 0.0


def _repeated(output: str) -> float:
    pairs = list(ngrams(split_unicode(output), 2))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
