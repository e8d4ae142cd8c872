"""Best-of-n for every n at once, from one set of samples: exact and unbiased, without drawing any subset."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from guerdon.errors import InputError
from guerdon.metrics.base import FloatArray


def best_of_n_weights(samples: int, n: int) -> FloatArray:
    """The chance of each of N samples, in ascending order of the proxy, to be the best of n drawn without replacement, [N].

    C(i − 1, n − 1) / C(N, n) for the i-th: n / N · Π (i − j) / (N − j) over j = 1 … n − 1. The best of n samples out of the N
    has the law of the best of n fresh ones, so that the weighted mean is unbiased for best-of-n (Nakano et al. 2021,
    "WebGPT", appendix I, equation for the expected reward of best-of-n).

    >>> best_of_n_weights(4, 2).round(3).tolist()
    [0.0, 0.167, 0.333, 0.5]

    Raises:
        InputError: for an n that is not in 1 … N.
    """
    if not 1 <= n <= samples:
        raise InputError(f"no best of {n} out of {samples} samples", where="best of n", cure="draw more samples, or lower n")
    ranks = np.arange(1.0, samples + 1)
    weights = np.full(samples, n / samples)
    for j in range(1, n):
        weights *= np.maximum(ranks - j, 0.0) / (samples - j)
    return weights


def expected_best(proxy: FloatArray, judged: FloatArray, ns: Sequence[int]) -> FloatArray:
    """What each column of ``judged`` is expected to be for the sample that the proxy prefers out of n, [ns, columns].

    Args:
        proxy: of the N samples of one source, [N]; of equal ones each is as likely to be taken.
        judged: of the same, [N, columns].
        ns: each at most N.

    Raises:
        InputError: as `best_of_n_weights`.
    """
    order = np.argsort(proxy, kind="stable")
    _, group, counts = np.unique(proxy[order], return_inverse=True, return_counts=True)
    weights = np.stack([best_of_n_weights(len(proxy), n) for n in ns])
    shared = np.stack([np.bincount(group, row) / counts for row in weights])[:, group]
    return np.asarray(shared @ judged[order], dtype=np.float64)


def kl_of_best_of_n(n: int) -> float:
    """log n − (n − 1) / n: an upper bound of KL(best-of-n ‖ policy), in nats (Beirami et al. 2024, theorem 1).

    It is reached where no output is drawn twice and no two outputs have one reward.

    >>> round(kl_of_best_of_n(4), 4)
    0.6363
    """
    return math.log(n) - (n - 1) / n


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … up to ``most``."""
    return [2**power for power in range(most.bit_length()) if 2**power <= most]
