"""Worker processes: the bits of threads, the weights of now, errors that are told, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import torch
from helpers.tiny_policies import random_rows, tiny_policy

from guerdon.data.draws import row_keys
from guerdon.decoding import BeamOptions, SamplingOptions, beam_search, greedy, sample, workers
from guerdon.errors import ConfigurationError, GuerdonError
from guerdon.models.transformer import Transformer

COUNT, COPIES = 50, 2
SOURCES = random_rows([1 + number % 9 for number in range(COUNT)], seed=2)
LIMITS = torch.tensor([2 + number % 17 for number in range(COUNT)])
KEYS = row_keys(0, "workers", 0, torch.arange(COUNT).repeat_interleave(COPIES), torch.arange(COPIES).repeat(COUNT))


def policy(**options: Any) -> Transformer:
    return tiny_policy(**options).float()


def written(model: Transformer) -> list[Any]:
    drawn = sample(model, SOURCES, LIMITS, SamplingOptions(temperature=1.3), KEYS, COPIES)
    found = [drawn.tokens.ids, drawn.tokens.lengths, drawn.finished, drawn.log_prob]
    return [
        *[tensor.tolist() for tensor in found],
        greedy(model, SOURCES, LIMITS, precision="bfloat16"),
        beam_search(model, SOURCES, LIMITS, BeamOptions(beam_size=2, returned=2)),
    ]


def by_threads(model: Transformer) -> list[Any]:
    workers.limit(0)
    found = written(model)
    workers.limit(1)
    return found


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[workers.Pool]:
    """One worker that is ready, beside this process, from the first decode on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(workers, "AFTER", 0.0)
    monkeypatch.setattr(workers, "_limit", 1)
    yield ready()
    workers.close()
    assert (workers.running(), workers.ready()) == (0, False)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


def ready() -> workers.Pool:
    for _ in range(3000):
        found = workers.pool(policy(), 1, 1)
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError("no worker within a minute")


def process(pool: workers.Pool) -> psutil.Process:
    return psutil.Process(pool.workers[0].process.pid)


def orders(pool: workers.Pool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the orders that the worker gets from now on."""
    seen: list[str] = []
    send = workers.Worker.send
    monkeypatch.setattr(workers.Worker, "send", lambda worker, order: (seen.append(order[0]), send(worker, order))[1])
    return seen


def test_a_worker_writes_the_bits_of_a_thread(pool: workers.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({}, {"positions": "rotary", "norm": "pre", "tied_embeddings": False}, {"activation": "swiglu"}):
        model = policy(**options)
        expected, seen = by_threads(model), orders(pool, monkeypatch)
        assert written(model) == expected
        assert seen == ["policy", "decode", "decode", "decode"]


def test_a_worker_reads_the_weights_of_now(pool: workers.Pool) -> None:
    model = policy()
    before = written(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    model.logits(SOURCES, SOURCES)[:, 4:].logsumexp(-1).sum().backward()
    optimiser.step()
    after = written(model)
    assert after == by_threads(model)
    assert after != before
    with torch.no_grad():
        model.decoder[0].cross.project_query.weight.data.neg_()
    assert written(model) == by_threads(model) != after


def test_what_a_worker_raises_is_raised_here_and_it_goes_on(pool: workers.Pool) -> None:
    model = policy()
    expected = written(model)
    number = process(pool).pid
    with torch.no_grad():
        kept = model.embedding.weight[7].clone()
        model.embedding.weight[7] = torch.nan
    with pytest.raises(GuerdonError, match=r"output \d+: the policy's logits are nan") as raised:
        sample(model, SOURCES, LIMITS, SamplingOptions(), KEYS, COPIES)
    assert raised.value.cure is not None
    with torch.no_grad():
        model.embedding.weight[7] = kept
    assert written(model) == expected
    assert process(pool).pid == number


def test_a_worker_that_dies_is_told_of_and_replaced(pool: workers.Pool) -> None:
    model = policy()
    expected = written(model)
    process(pool).kill()
    with pytest.raises(GuerdonError, match="a worker process ended with -9") as raised:
        written(model)
    assert "GUERDON_WORKERS=0" in str(raised.value)
    assert written(model) == expected  # by threads, while another one starts
    other = ready()
    assert other is not pool
    assert written(model) == expected


def test_an_interrupt_leaves_no_answer_under_way(pool: workers.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy()
    expected, watched = written(model), process(pool)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workers, "attempt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            written(model)
    assert not watched.is_running()
    ready()
    assert written(model) == expected


def test_an_interrupt_of_the_terminal_is_the_owners_business(pool: workers.Pool) -> None:
    """Ctrl-C reaches every process of the terminal; a run that ends its step in order still needs its worker."""
    model = policy()
    expected = written(model)
    process(pool).send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert written(model) == expected


def test_policies_that_are_gone_are_let_go(pool: workers.Pool) -> None:
    """With all that held their memory: a grid of runs makes a policy after the other."""
    models = [policy()]
    written(models[0])
    here, there = psutil.Process().num_fds(), process(pool).num_fds()
    models += [policy(seed=seed) for seed in (1, 2)]
    for model in models:
        written(model)
    assert len(pool.known()) == 3
    assert process(pool).num_fds() > there
    del models[1:], model
    written(models[0])
    assert len(pool.known()) == 1
    assert (psutil.Process().num_fds(), process(pool).num_fds()) == (here, there)


def test_workers_are_for_float32_policies_that_are_asked_for_long_enough(
    pool: workers.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workers.pool(policy(), 1, 1) is pool
    assert (workers.running(), workers.ready()) == (1, True)
    assert workers.pool(policy().double(), 1, 1) is None
    assert workers.pool(policy(), 2, 1) is None  # more than the limit
    monkeypatch.setattr(workers, "AFTER", 1e9)
    assert workers.pool(policy(), 1, 1) is None
    workers.note(2e9)
    assert workers.pool(policy(), 1, 1) is pool
    workers.note(-2e9)


def test_where_workers_cannot_start_threads_go_on(pool: workers.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    workers.close()
    model = policy()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.warns(UserWarning, match=r"no worker processes .* ended with 1.* threads of this process go on"):
        found = [written(model) for _ in range(200) if workers.most()]
    assert found[0] == found[-1] == by_threads(model)


def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_limit", None)
    for given, count in [("0", 0), ("3", 3), ("", torch.get_num_threads())]:
        monkeypatch.setenv("GUERDON_WORKERS", given)
        assert workers.most() == count
    monkeypatch.setenv("GUERDON_WORKERS", "many")
    with pytest.raises(ConfigurationError, match="GUERDON_WORKERS: 'many' is not a number"):
        workers.most()
    with pytest.raises(ConfigurationError, match="GUERDON_WORKERS"):  # one source, which no worker would ever see
        greedy(policy(), SOURCES.select(torch.tensor([0])), LIMITS[:1])


def endless(model: Transformer, share: torch.Tensor) -> None:
    time.sleep(600)


OWNER = """
import signal, sys, time, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests may have it ignored
sys.path[:0] = {paths!r}
torch.set_num_threads(2)
from guerdon.decoding import workers
from test_workers import endless, policy, ready
workers.AFTER = 0.0
pool = ready()
print(pool.workers[0].process.pid, flush=True)
if {busy}:
    pool.decode(policy(), [torch.zeros(1, dtype=torch.int64)] * 2, endless)
time.sleep(600)
"""


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("ends", ["killed", "interrupted"])
def test_no_worker_outlives_its_owner(ends: str, busy: bool) -> None:
    code = OWNER.format(paths=[*sys.path, os.path.dirname(__file__)], busy=busy)
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert owner.stdout is not None
    worker = psutil.Process(int(owner.stdout.readline()))
    time.sleep(1.0)  # for the share to begin
    owner.send_signal(signal.SIGKILL if ends == "killed" else signal.SIGINT)
    owner.wait(30)
    owner.stdout.close()
    worker.wait(30)
