"""Worker processes that decode shares of a batch, with the policy's weights in memory that they share with this process.

They are started when decoding has taken `AFTER` seconds in all, so that short work never pays for them, and end with this
process, however it ends. Until they are ready, and where they cannot be had, shares are decoded by threads.

``limit(0)`` before the first decode, or the environment variable ``GUERDON_WORKERS=0``, does without them. Each takes a core
and a few hundred megabytes.
"""

from __future__ import annotations

import atexit
import mmap
import os
import pickle
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Hashable, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from guerdon.errors import ConfigurationError, GuerdonError
from guerdon.models.packed import fingerprint
from guerdon.models.policy import Policy
from guerdon.models.transformer import Transformer

AFTER = 10.0  # seconds of decoding by threads

_Found = TypeVar("_Found")


class Weights:
    """A policy's weights in memory that workers read.

    Attributes:
        number: what workers know the policy by.
        file: descriptor of the memory.
    """

    _made = 0

    def __init__(self, policy: nn.Module) -> None:
        Weights._made += 1
        self.number = Weights._made
        self.file = os.memfd_create("guerdon")
        os.ftruncate(self.file, max(1, sum(one.numel() for one in policy.parameters())) * 4)
        self.memory = views(policy, self.file)
        self.seen: Hashable = None

    def refresh(self, policy: nn.Module) -> None:
        """Brings the memory up to date."""
        now = fingerprint(policy)
        if now != self.seen:
            with torch.no_grad():
                torch._foreach_copy_(self.memory, [one.detach() for one in policy.parameters()])
            self.seen = now

    def __del__(self) -> None:
        os.close(self.file)


def views(policy: nn.Module, file: int) -> list[Tensor]:
    """The memory behind a descriptor as tensors of the shapes of the policy's parameters, one behind the other."""
    flat = torch.frombuffer(mmap.mmap(file, 0), dtype=torch.float32)
    sizes = [one.numel() for one in policy.parameters()]
    parts = flat[: sum(sizes)].split(sizes)
    return [part.view(one.shape) for part, one in zip(parts, policy.parameters(), strict=True)]


class Worker:
    """One process; what it is asked, it answers in order."""

    def __init__(self, threads: int) -> None:
        ours, theirs = socket.socketpair()
        arguments = [sys.executable, "-m", "guerdon.decoding.worker", str(theirs.fileno()), str(threads)]
        paths = os.pathsep.join(path for path in sys.path if path)  # it finds the same guerdon as this process
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
        self.process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        theirs.close()
        self.connection = Connection(ours.detach())
        self.ready = False
        self.policies: set[int] = set()

    def is_ready(self) -> bool:
        """Whether it takes orders yet."""
        if not self.ready and self.connection.poll():
            self.ready = self.receive() == "ready"
        return self.ready

    def show(self, policy: Transformer, weights: Weights) -> None:
        """Makes the policy known."""
        if weights.number not in self.policies:
            self.send(("policy", weights.number, policy.options))
            reduction.send_handle(self.connection, weights.file, self.process.pid)
            self.policies.add(weights.number)

    def send(self, order: Any) -> None:
        """Asks for something; tensors go as bytes, where a connection's own ``send`` would share their memory."""
        self.connection.send_bytes(pickle.dumps(order))

    def receive(self) -> Any:
        """The next answer.

        Raises:
            GuerdonError: where the process has died.
        """
        try:
            return pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise GuerdonError(
                f"a worker process ended with {self.process.wait()}",
                where="decoding",
                cure="give it more memory, or set GUERDON_WORKERS=0 to do without workers; a run goes on where it was",
            ) from error

    def close(self) -> None:
        """Ends the process; what it was doing is lost."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


def attempt(decode: Callable[[Any, Tensor], _Found], policy: Any, share: Tensor) -> tuple[str, Any]:
    """("done", what ``decode`` returns) or ("failed", what it raises)."""
    try:
        with torch.no_grad():
            return "done", decode(policy, share)
    except Exception as error:  # it is raised once everybody has answered
        return "failed", error


class Pool:
    """Several workers; this process decodes beside them."""

    def __init__(self, count: int, threads: int) -> None:
        self.threads = threads
        self.weights: WeakKeyDictionary[nn.Module, Weights] = WeakKeyDictionary()
        self.workers = [Worker(threads) for _ in range(count)]

    def is_ready(self) -> bool:
        """Whether all workers take orders."""
        return all(worker.is_ready() for worker in self.workers)

    def decode(self, policy: Any, shares: Sequence[Tensor], decode: Callable[[Any, Tensor], _Found]) -> list[_Found]:
        """As `guerdon.decoding.shares.decode_shares`: the first share here, each other by a worker.

        Raises:
            GuerdonError: where a worker has died. What is raised in a worker is raised here.
        """
        if policy not in self.weights:
            self.weights[policy] = Weights(policy)
        weights = self.weights[policy]
        weights.refresh(policy)
        asked = self.workers[: len(shares) - 1]
        try:
            for worker, share in zip(asked, shares[1:], strict=True):
                worker.show(policy, weights)
                worker.send(("decode", weights.number, decode, share, sorted(self.known())))
            own = attempt(decode, policy, shares[0])
            answers = [own, *(worker.receive() for worker in asked)]
        except BaseException:  # an interrupt, or a dead worker: answers may be under way that nobody would take
            close()
            raise
        for kind, found in answers:
            if kind == "failed":
                raise found
        return [found for _, found in answers]

    def known(self) -> set[int]:
        """The numbers of the policies that still exist."""
        return {weights.number for weights in self.weights.values()}

    def close(self) -> None:
        """Ends all workers."""
        for worker in self.workers:
            worker.close()


_pool: Pool | None = None
_spent = 0.0
_limit: int | None = None


def limit(count: int) -> None:
    """The most workers that this process starts; 0 for none."""
    global _limit
    _limit = count


def most() -> int:
    """The most workers that this process starts.

    Raises:
        ConfigurationError: where ``GUERDON_WORKERS`` is no number.
    """
    if _limit is not None:
        return _limit
    given = os.environ.get("GUERDON_WORKERS", "").strip()
    if given and not given.isdecimal():
        raise ConfigurationError(f"{given!r} is not a number of processes", where="GUERDON_WORKERS", cure="give 0 or more")
    return int(given) if given else torch.get_num_threads()


def note(seconds: float) -> None:
    """Counts time that was spent on decoding shares."""
    global _spent
    _spent += seconds


def pool(policy: Policy, count: int, threads: int) -> Pool | None:
    """The workers, where they are worth it and ready; they are started here."""
    global _pool
    usable = type(policy) is Transformer and all(one.dtype == torch.float32 for one in policy.parameters())
    if count > most() or _spent < AFTER or not usable or not hasattr(os, "memfd_create"):
        return None
    if _pool is not None and (len(_pool.workers) < count or _pool.threads != threads):
        close()
    try:
        if _pool is None:
            _pool = Pool(count, threads)
        return _pool if _pool.is_ready() else None
    except (GuerdonError, OSError) as error:  # it never got ready: what was decoded so far went without it, and so it goes on
        close()
        limit(0)
        warnings.warn(f"no worker processes for decoding ({error}); threads of this process go on", stacklevel=2)
        return None


def running() -> int:
    """How many workers there are, ready or not."""
    return 0 if _pool is None else len(_pool.workers)


def ready() -> bool:
    """Whether there are workers, and all take orders."""
    return _pool is not None and _pool.is_ready()


@atexit.register
def close() -> None:
    """Ends the workers; they are started again when they are worth it."""
    global _pool
    if _pool is not None:
        _pool.close()
        _pool = None
