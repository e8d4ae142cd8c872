"""The process behind `guerdon.decoding.workers`: decodes what it is told to over a socket, until that closes.

python -m guerdon.decoding.worker DESCRIPTOR THREADS
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import torch

from guerdon.decoding.workers import attempt, views
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer


def serve(connection: Connection) -> None:
    """Answers orders until the other side is gone."""
    policies: dict[int, Transformer] = {}
    try:
        answer(connection, "ready")
        while True:
            order = pickle.loads(connection.recv_bytes())
            if order[0] == "policy":
                policies[order[1]] = policy_of(order[2], reduction.recv_handle(connection))
            else:
                answer(connection, decoded(policies, *order[1:]))
    except (EOFError, ConnectionError):
        return


def policy_of(options: TransformerOptions, file: int) -> Transformer:
    """A policy whose weights lie in memory that another process writes."""
    policy = Transformer(options).eval()
    for parameter, view in zip(policy.parameters(), views(policy, file), strict=True):
        parameter.data = view
    os.close(file)  # the views hold the memory, and let it go with the policy
    return policy.requires_grad_(False)


def watch(owner: int) -> None:
    """Ends this process soon after its owner, in the middle of a share too."""
    while os.getppid() == owner:
        time.sleep(1.0)
    os._exit(1)


def decoded(policies: dict[int, Transformer], number: int, decode: Any, share: torch.Tensor, known: list[int]) -> Any:
    """What is answered to an order to decode; policies that are not ``known`` any more are let go."""
    for gone in policies.keys() - set(known):
        del policies[gone]
    return attempt(decode, policies[number], share)


def answer(connection: Connection, found: Any) -> None:
    """Sends an answer; tensors as bytes, where a connection's own ``send`` would share their memory."""
    connection.send_bytes(pickle.dumps(found))


if __name__ == "__main__":
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that gives the orders decides
    torch.set_num_threads(int(sys.argv[2]))
    serve(Connection(int(sys.argv[1])))
