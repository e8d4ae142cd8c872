"""A reward that a service gives, over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from guerdon.errors import ConfigurationError, MissingExtraError, RewardError
from guerdon.rewards.base import Judged, Reward

_AGAIN = (429, 500, 502, 503, 504)  # the service is there, and asks for patience
_WAIT = 0.5  # seconds, doubled at each repetition but the first


class HttpReward(Reward):
    """What a service answers to ``POST url`` with the texts as JSON.

    Sent is ``{"sources": [...], "outputs": [...], "references": [[...], ...], "finished": [...]}`` with one entry for each
    output, and ``"meta"`` where it is asked for; awaited is ``{"scores": [...]}``, one number for each output, in order. One
    request holds all outputs that `score` is given: `guerdon.rewards.concurrent.Concurrent` cuts them into batches and sends
    several at a time.

    Args:
        url: where the service listens, with http or https.
        name: under which its scores are logged.
        timeout: seconds to wait for a connection, and for an answer.
        retries: how often a request is sent again when there is no answer, or one of 429, 500, 502, 503 and 504: at once, then
            after one second, two, four, ..., or when the answer's Retry-After says. It must be harmless to repeat.
        headers: further ones. A value "$NAME" is read from the environment when a request is sent: a recipe holds no secret.
        needs_references: True to refuse samples without references before they are sent.
        meta: whether the further fields of each record are sent.

    Raises:
        ConfigurationError: for an address of another kind, or numbers that cannot be.
        MissingExtraError: without urllib3.
    """

    def __init__(
        self,
        url: str,
        name: str = "http",
        timeout: float = 30.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        needs_references: bool = False,
        meta: bool = False,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"{url!r} is no address", where=f"reward {name!r}", cure="begin it with http:// or https://"
            )
        if not 0 < timeout < float("inf") or retries < 0:
            raise ConfigurationError(
                f"timeout is {timeout}, and retries is {retries}", where=f"reward {name!r}", cure="give seconds, and 0 or more"
            )
        self.url, self.name, self.timeout, self.retries = url, name, timeout, retries
        self.headers, self.needs_references, self.meta = dict(headers or {}), needs_references, meta
        self._pool: Any = self._connect()

    def score(self, judged: Judged) -> list[float]:
        """What the service says.

        Raises:
            RewardError: when it does not answer, or with something else.
        """
        sent: dict[str, Any] = {
            "sources": list(judged.sources),
            "outputs": list(judged.outputs),
            "references": [list(references) for references in judged.references],
            "finished": list(judged.finished),
        }
        if self.meta:
            sent["meta"] = [dict(meta) for meta in judged.meta]
        answer = self._post(json.dumps(sent, default=str).encode())
        scores = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(scores, list) or len(scores) != len(judged):
            said = f"{len(scores)} scores" if isinstance(scores, list) else f"no list of scores but {str(answer)[:100]}"
            raise self._failed(f"answered with {said} for {len(judged)} outputs", 'answer {"scores": [...]}, one for each')
        return scores

    def _post(self, body: bytes) -> Any:
        import urllib3

        headers = {"Content-Type": "application/json", **{name: self._value(text) for name, text in self.headers.items()}}
        if self._pool is None:  # after unpickling
            self._pool = self._connect()
        try:
            found = self._pool.request("POST", self.url, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise self._failed(f"did not answer: {reason}", "see that it runs; raise timeout or retries") from error
        text = found.data.decode("utf-8", "replace")
        if found.status != 200:
            raise self._failed(f"answered {found.status}: {text[:200]}", "see the log of the service")
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._failed(f"answered no JSON but {text[:100]!r}", 'answer {"scores": [...]}') from error

    def _connect(self) -> Any:
        try:
            import urllib3
        except ImportError as error:
            raise MissingExtraError("urllib3", "http", "a reward that a service gives") from error
        patience = urllib3.Retry(
            self.retries, status_forcelist=_AGAIN, allowed_methods=None, backoff_factor=_WAIT, raise_on_status=False
        )
        return urllib3.PoolManager(maxsize=32, timeout=urllib3.Timeout(self.timeout), retries=patience)

    def _value(self, text: str) -> str:
        if not text.startswith("$"):
            return text
        found = os.environ.get(text[1:])
        if found is None:
            raise ConfigurationError(
                f"the environment has no {text[1:]}", where=f"reward {self.name!r}", cure="set it before the run"
            )
        return found

    def _failed(self, what: str, cure: str) -> RewardError:
        return RewardError(f"the service at {self.url} {what}", where=f"reward {self.name!r}", cure=cure)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}
