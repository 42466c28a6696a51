"""One HTTP request → the server's answer within so many bytes and seconds, whatever the server does.

A client's own time-out counts for each piece of an answer, so a server that sends a byte now and then is never late,
and the look-up of a name has none at all. Here the whole exchange has one deadline; then its connection is cut.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import httpx2

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import RobotError

_CONNECT_S = 5.0
_SECRET_CHARS = 8  # a shorter key protects nothing, and may be a word of the text
_CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")


class Failure(str, Enum):
    """Why there is no answer."""

    LATE = "late"
    LONG = "long"
    BROKEN = "broken"  # no connection, or what came is not HTTP


class NoAnswerError(RobotError):
    """No answer that can be used."""

    def __init__(self, message: str, *, failure: Failure = Failure.BROKEN) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: with `json` a POST of it, else a GET."""

    url: str
    key: str = ""
    json: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer; of one that is no success (2xx) the body is its first piece only.

    Attributes:
        retry_after: the header of that name, "" without.
    """

    status: int
    body: bytes
    retry_after: str = ""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass(slots=True)
class _Exchange:
    """One exchange under way in a thread of its own, and the socket by which it can be cut."""

    request: Request
    within_s: float
    most_bytes: int
    result: Answer | NoAnswerError | None = None
    connection: socket.socket | None = None
    has_ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            self.result = self._answer()
        except NoAnswerError as error:
            self.result = error
        except httpx2.TimeoutException:
            self.result = NoAnswerError("no answer in time", failure=Failure.LATE)
        except Exception as error:  # noqa: BLE001 - the top of a thread: no connection, no HTTP, a proxy that is none ...
            self.result = NoAnswerError(shown(self._without_key(str(error))) or type(error).__name__)
        finally:
            self.has_ended.set()

    def _answer(self) -> Answer:
        asked, key = self.request, self.request.key
        if not key.isascii() or not key.isprintable():  # the library would quote it
            raise NoAnswerError("the key is not plain ASCII")
        # A compressed answer could grow a thousandfold as it is unpacked.
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        limits = httpx2.Timeout(self.within_s, connect=min(_CONNECT_S, self.within_s))
        method = "GET" if asked.json is None else "POST"
        with (
            # No redirects: the key goes where it was meant to go.
            httpx2.Client(follow_redirects=False, timeout=limits, verify=_tls()) as client,
            client.stream(
                method, asked.url, json=asked.json, headers=headers, extensions={"trace": self._trace}
            ) as response,
        ):
            body = self._body(response)
            return Answer(response.status_code, body, shown(response.headers.get("retry-after", "")))

    def _body(self, response: httpx2.Response) -> bytes:
        if not response.is_success:
            piece = next(response.iter_raw(), b"")
            return self._without_key(piece.decode("utf-8", "replace")).encode()
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise NoAnswerError("its answer is compressed, which was not asked for")
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > self.most_bytes:
                raise NoAnswerError(f"longer than {self.most_bytes} bytes", failure=Failure.LONG)
        return bytes(body)

    def _without_key(self, text: str) -> str:
        """Some servers quote a key that they refuse."""
        key = self.request.key
        return text.replace(key, "...") if len(key) >= _SECRET_CHARS else text

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event in _CONNECTED:
            self.connection = info["return_value"].get_extra_info("socket")

    def cut(self) -> None:
        """End the connection under the thread, which then ends by an error."""
        if self.connection is not None:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(self.connection, socket.SHUT_RDWR)  # also under TLS, without its farewell


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The certificates that servers are checked by; loading them takes as long as many a request."""
    return httpx2.create_ssl_context()


def ask(request: Request, within_s: float, most_bytes: int) -> Answer:
    """Send one request and wait for the whole answer; redirects are answers too.

    Raises:
        NoAnswerError: none in time, a longer one, or no connection.
    """
    began_s = time.monotonic()
    exchange = _Exchange(request, within_s, most_bytes)
    threading.Thread(target=exchange.run, name="exchange", daemon=True).start()
    if not exchange.has_ended.wait(within_s) or exchange.result is None:
        exchange.cut()
        raise NoAnswerError(f"no answer after {time.monotonic() - began_s:.1f} s", failure=Failure.LATE)
    if isinstance(exchange.result, NoAnswerError):
        raise exchange.result
    return exchange.result
