"""Rollouts one step ahead: while the policy learns from the outputs of one step, those of the next are drawn and judged.

They are drawn with the weights as they were before that update: from the second step on, outputs are exactly one update old,
whatever takes how long (Noukhovitch et al. 2024, "Asynchronous RLHF", https://arxiv.org/abs/2410.18252; actors that lag by any
number of updates: Espeholt et al. 2018, "IMPALA", https://arxiv.org/abs/1802.01561).

What that does to the estimator: with μ the policy that drew, each token is weighed by the ratio of its probabilities,
``ρ_t = p_θ(y_t | y_<t) / μ(y_t | y_<t)``, clipped, from the first update on
(`guerdon.objectives.policy_gradient.clipped_loss`). Without the clip, its expectation is exactly the gradient of ::

    L(θ) = Σ_t E[A(y)]  with  y_<t ~ μ,  y_t ~ p_θ,  y_>t ~ μ

for advantages A that are what an output earned, less any baseline that it does not choose itself. Each token's own choice is
corrected; which prefixes the present policy reaches, and how it would go on, is not. At θ = μ, and for outputs of one token, ∇L
is the gradient of the expected reward; elsewhere it differs from it in proportion to θ − μ, one update. (The product of all
ratios of an output would be unbiased, with a variance that grows exponentially with its length.) The clip biases it further,
towards smaller steps.

What else is one update old: the k1, k2 or k3 penalty in the reward, which reads the probabilities that were drawn with, the KL
that is logged and steers its controller, rewards and what follows them (moments, multipliers), and greedy outputs that serve
as a baseline: a function of the source alone, drawn from the same weights as the outputs that are compared with it. Of the
present are values, entropies, the exact KL, and the anchor.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding import Samples
from guerdon.errors import CheckpointError
from guerdon.generator import Generator
from guerdon.rewards.base import Judged, Judgement, Part
from guerdon.training.rollouts import Prompts, Rollout, rollout_of
from guerdon.training.signals import Further

Lap = Callable[[str], None]
"""Is told the name of a part when it is done."""


@dataclass(frozen=True)
class Drawn:
    """The outputs of one step, and all that rewards say of them.

    Attributes:
        numbers: the examples whose sources they answer.
        rollout: the outputs.
        judged: what the reward was shown of them.
        judgement: what it said.
        further: what it said of greedy outputs and prefixes.
        stale: whether an earlier policy drew them than the one that learns from them.
    """

    numbers: Sequence[int]
    rollout: Rollout
    judged: Judged
    judgement: Judgement
    further: Further
    stale: bool = False


Make = Callable[[Generator, int, Sequence[int], Lap], Drawn]
"""Draws and judges the outputs of a step for the examples named; laps "rollout" and "reward"."""


class Ahead:
    """Draws and judges the outputs of the next step in a thread of its own.

    The thread reads a copy of the weights, which changes between two of its works only. While it works, nobody else may use the
    tokenizer, the reward, worker processes, or torch's global generator.

    Args:
        generator: its policy is trained.
        make: what the thread does; as though it were done here, to the same bits.
    """

    def __init__(self, generator: Generator, make: Make) -> None:
        policy = copy.deepcopy(generator.policy).eval().requires_grad_(False)
        self._live, self._before = generator, Generator(policy, generator.tokenizer, generator.decoding)
        self._make = make
        self._work: _Work | None = None
        self._held: tuple[int, Drawn] | None = None

    def begin(self, step: int, numbers: Sequence[int]) -> None:
        """Begins with the outputs of ``step``; of the weights as they are now."""
        self.wait()
        self._before.policy.load_state_dict(self._live.policy.state_dict())
        self._work = _Work(step, lambda lap: self._make(self._before, step, numbers, lap))

    def wait(self) -> dict[str, float]:
        """Ends when the outputs that were begun with are there; returns what each part took, in seconds of the thread.

        Raises:
            Exception: whatever drawing or judging raised.
        """
        work, self._work = self._work, None
        if work is None:
            return {}
        self._held = (work.step, replace(work.result(), stale=True))
        return work.seconds

    def take(self, step: int) -> Drawn | None:
        """The outputs of ``step``; None where they were not drawn ahead. They are not held any more."""
        self.wait()
        held, self._held = self._held, None
        return held[1] if held is not None and held[0] == step else None

    def close(self) -> None:
        """Lets go of what was begun with. A drawing or a judgement that goes on is waited for: no thread can be stopped."""
        if self._work is not None:
            self._work.stop()
        self._work = self._held = None

    # --- what a checkpoint holds

    def state_dict(self) -> dict[str, Any] | None:
        """The outputs that are held, and their judgements, as values that JSON holds exactly; None without any."""
        self.wait()
        if self._held is None:
            return None
        step, drawn = self._held
        samples = drawn.rollout.samples
        return {
            "step": step,
            "numbers": list(drawn.numbers),
            "ids": samples.tokens.to_lists(),
            "finished": samples.finished.tolist(),
            "precision": str(samples.log_prob.dtype).removeprefix("torch."),
            "log_prob": Padded(samples.log_prob, samples.tokens.lengths).to_lists(),
            "judgement": _values(drawn.judgement),
            "greedy": _values(drawn.further.greedy),
            "prefixes": _values(drawn.further.prefixes),
        }

    def load_state_dict(self, state: dict[str, Any] | None, prompts: Prompts, copies: int) -> None:
        """Holds what `state_dict` gave.

        Raises:
            CheckpointError: where it is damaged.
        """
        self.close()
        try:
            self._held = None if state is None else (int(state["step"]), self._restored(state, prompts, copies))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"the outputs that were drawn ahead are damaged ({error})") from error

    def _restored(self, state: dict[str, Any], prompts: Prompts, copies: int) -> Drawn:
        generator, numbers = self._live, [int(number) for number in state["numbers"]]
        tokens = Padded.from_lists(state["ids"], generator.policy.pad_id)
        log_prob = torch.zeros(tokens.ids.shape, dtype={"float32": torch.float32, "float64": torch.float64}[state["precision"]])
        log_prob[tokens.mask] = torch.tensor([value for row in state["log_prob"] for value in row], dtype=log_prob.dtype)
        finished = torch.tensor(state["finished"], dtype=torch.bool)
        if not len(numbers) * copies == len(tokens) == len(finished):
            raise ValueError(f"{len(tokens)} outputs of {len(numbers)} sources")
        device = generator.device
        samples = Samples(tokens.to(device), finished.to(device), log_prob.to(device))
        rollout = rollout_of(generator, prompts.padded(numbers, generator), numbers, copies, samples)
        judged = prompts.judged(rollout.numbers, rollout.texts, finished.tolist())
        further = Further(_optional(state["greedy"]), _optional(state["prefixes"]))
        return Drawn(numbers, rollout, judged, _judgement(state["judgement"]), further, stale=True)


class _Work:
    """One thing that is done in a thread of its own, from now on."""

    def __init__(self, step: int, work: Callable[[Lap], Drawn]) -> None:
        self.step, self._do = step, work
        self.seconds: dict[str, float] = {}
        self._stopped = False
        self._found: Drawn | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        # a daemon: after a second interrupt, the process need not wait for a reward that does not answer
        arguments = (torch.get_num_threads(),)
        self._thread = threading.Thread(target=self._run, args=arguments, name=f"rollout of step {step}", daemon=True)
        self._thread.start()

    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)  # bits depend on it; a thread begins with the last number set anywhere
        self._began = time.perf_counter()
        try:
            self._found = self._do(self._lap)
        except BaseException as error:  # raised where it is waited for
            self._error = error
        finally:
            self._done.set()

    def _lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._began
        self._began = now
        if self._stopped:
            raise InterruptedError

    def result(self) -> Drawn:
        """What was made; waits for it."""
        try:
            self._wait()
        except BaseException:  # an interrupt
            self.stop()
            raise
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found

    def stop(self) -> None:
        """Does no further part of it, and waits for the one that it is at."""
        self._stopped = True
        self._wait()

    def _wait(self) -> None:
        self._done.wait()  # not ``join``, which takes a thread for ended once it was interrupted (Python 3.11)
        self._thread.join()


def _values(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    return {
        name: {"scores": part.scores.tolist(), "applies": part.applies.tolist(), "weight": part.weight}
        for name, part in judgement.parts.items()
    }


def _judgement(values: dict[str, Any]) -> Judgement:
    return Judgement(
        {
            name: Part(_tensor(part["scores"], torch.float32), _tensor(part["applies"], torch.bool), part["weight"])
            for name, part in values.items()
        }
    )


def _optional(values: dict[str, Any] | None) -> Judgement | None:
    return None if values is None else _judgement(values)


def _tensor(values: list[Any], kind: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=kind)
