"""A reward that a service gives: a real server on this machine, which answers well, badly, late or not at all."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from guerdon.errors import ConfigurationError, RewardError
from guerdon.rewards.build import build_reward
from guerdon.rewards.remote import HttpReward

Answer = tuple[int, bytes]


class Service:
    """It answers with what ``answer`` makes of a request, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, Any]], Answer] = self.scores
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append(request)
                service.headers.append(dict(self.headers))
                status, body = service.answer(request)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, address: Any) -> None:
                """The other side has hung up."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"

    @staticmethod
    def scores(request: dict[str, Any]) -> Answer:
        return 200, json.dumps({"scores": [float(len(output)) for output in request["outputs"]]}).encode()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr("guerdon.rewards.remote._WAIT", 0.001)
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_what_is_sent_and_what_comes_back(service: Service) -> None:
    reward = HttpReward(service.url, meta=True)
    found = reward(["s", "t"], ["ab", "ü"], [["r"], []], [{"id": 1}, {}], [True, False])
    assert found.tolist() == [2.0, 1.0]
    assert service.asked == [
        {
            "sources": ["s", "t"],
            "outputs": ["ab", "ü"],
            "references": [["r"], []],
            "finished": [True, False],
            "meta": [{"id": 1}, {}],
        }
    ]
    HttpReward(service.url)(["s"], ["ab"])
    assert "meta" not in service.asked[-1]


def test_in_a_recipe_in_batches(service: Service) -> None:
    reward = build_reward({"type": "http", "url": service.url, "batch_size": 2, "workers": 3})
    outputs = ["a", "bb", "ccc", "dddd", "eeeee", "a"]
    assert reward(["s"] * 6, outputs).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 1.0]
    assert sorted(len(request["outputs"]) for request in service.asked) == [1, 2, 2]  # the sixth is the first again


def test_a_service_that_is_busy_is_asked_again(service: Service) -> None:
    def busy(request: dict[str, Any]) -> Answer:
        return (503, b"busy") if len(service.asked) < 3 else service.scores(request)

    service.answer = busy
    assert HttpReward(service.url, retries=2)(["s"], ["abc"]).tolist() == [3.0]
    assert len(service.asked) == 3
    service.asked.clear()
    with pytest.raises(RewardError, match="answered 503: busy; see the log of the service"):
        HttpReward(service.url, retries=1)(["s"], ["abc"])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((404, b"no such page"), "answered 404: no such page"),
        ((200, b"<html>"), "answered no JSON but '<html>'"),
        ((200, b'{"scores": [1.0]}'), "answered with 1 scores for 2 outputs"),
        ((200, b'{"values": [1.0, 2.0]}'), "no list of scores but"),
        ((200, b"[1.0, 2.0]"), "no list of scores but"),
        ((200, b'{"scores": [1.0, NaN]}'), "non-finite|nan"),
        ((200, b'{"scores": [1.0, "two"]}'), "two"),
    ],
)
def test_bad_answers_are_one_line(service: Service, answer: Answer, told: str) -> None:
    service.answer = lambda request: answer
    with pytest.raises(RewardError, match=told) as caught:
        HttpReward(service.url)(["s", "t"], ["ab", "c"])
    assert len(str(caught.value).splitlines()) == 1
    assert len(service.asked) == 1


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RewardError, match=rf"the service at http://127.0.0.1:{port} did not answer"):
        HttpReward(f"http://127.0.0.1:{port}", retries=0)(["s"], ["ab"])


def test_a_service_that_hangs(service: Service) -> None:
    released = threading.Event()

    def hanging(request: dict[str, Any]) -> Answer:
        released.wait(60)
        return service.scores(request)

    service.answer = hanging
    with pytest.raises(RewardError, match=r"did not answer: .*timed out"):
        HttpReward(service.url, timeout=0.2, retries=0)(["s"], ["ab"])
    released.set()


def test_secrets_come_from_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = HttpReward(service.url, headers={"Authorization": "$TOKEN_OF_TEST", "X-Plain": "yes"})
    with pytest.raises(ConfigurationError, match="the environment has no TOKEN_OF_TEST"):
        reward(["s"], ["ab"])
    monkeypatch.setenv("TOKEN_OF_TEST", "Bearer abc")
    reward(["s"], ["ab"])
    assert (service.headers[-1]["Authorization"], service.headers[-1]["X-Plain"]) == ("Bearer abc", "yes")
    assert b"abc" not in pickle.dumps(reward)


def test_it_survives_pickling(service: Service) -> None:
    reward = pickle.loads(pickle.dumps(HttpReward(service.url)))
    assert reward(["s"], ["abcd"]).tolist() == [4.0]


@pytest.mark.parametrize(
    ("options", "told"),
    [({"url": "localhost:80"}, "is no address"), ({"timeout": 0.0}, "timeout is 0"), ({"retries": -1}, "retries is -1")],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        HttpReward(**{"url": "http://127.0.0.1", **options})
