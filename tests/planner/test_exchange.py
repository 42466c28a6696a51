"""Whatever a server does, an exchange ends within its seconds and its bytes: real sockets on loopback."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from qwen2vl_robot.planner.exchange import Failure, NoAnswerError, Request, ask
from tests.hostile import grown_mb

Serve = Callable[[socket.socket], None]
WITHIN_S = 1.0
OK, REFUSED = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 400 Bad Request\r\n"
OPEN = b"Connection: close\r\n\r\n"


class Server:
    """A loopback server that gives each connection to `serve`, without reading the request."""

    def __init__(self) -> None:
        self.serve: Serve = lambda connection: None
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.serve(connection)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    yield made
    made.close()


def drip(head: bytes, piece: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(0.1)

    return serve


def flood(head: bytes, piece: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return serve


def say(answer: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return serve


LATE: dict[str, Serve] = {
    "nothing": lambda connection: time.sleep(5.0),
    "a status that drips": drip(b"", b"H"),
    "headers that drip": drip(OK, b"X: y\r\n"),
    "one header that drips": drip(OK + b"X: ", b"y"),
    "a body that drips": drip(OK + OPEN, b" "),
    "provisional answers without end": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "provisional answers that drip": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk's extension that drips": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
}


@pytest.mark.parametrize("serve", LATE.values(), ids=LATE.keys())
def test_the_whole_exchange_has_one_deadline(server: Server, serve: Serve) -> None:
    server.serve = serve
    began_s = time.monotonic()
    with pytest.raises(NoAnswerError) as refused:
        ask(Request(server.url), WITHIN_S, 1000)
    assert refused.value.failure is Failure.LATE
    assert time.monotonic() - began_s < WITHIN_S + 1.0


def test_a_thread_of_a_server_that_drips_ends_too(server: Server) -> None:
    server.serve = LATE["headers that drip"]
    before = {thread.ident for thread in threading.enumerate()}
    with pytest.raises(NoAnswerError):
        ask(Request(server.url), 0.3, 1000)
    left = [t for t in threading.enumerate() if t.name == "exchange" and t.ident not in before]
    for thread in left:
        thread.join(2.0)
    assert not any(thread.is_alive() for thread in left)


BROKEN: dict[str, Serve] = {
    "headers without end": flood(OK, b"X: y\r\n"),
    "one header without end": flood(OK + b"X: ", b"y" * 1000),
    "a status without end": flood(b"HTTP/1.1 200 ", b"y" * 1000),
    "what is not HTTP": say(b"\xff\xfe\x00" * 100),
    "an answer that was packed": say(OK + b"Content-Encoding: gzip\r\n" + OPEN + gzip.compress(bytes(50_000_000))),
    "half an answer": say(OK + b"Content-Length: 100\r\n\r\nhalf"),
}


@pytest.mark.parametrize("serve", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_plain_answer_is_one_line(server: Server, serve: Serve) -> None:
    server.serve = serve
    with pytest.raises(NoAnswerError) as refused:
        ask(Request(server.url), 5.0, 1000)
    assert refused.value.failure is Failure.BROKEN
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) <= 200


@pytest.mark.parametrize("proxy", ["http://[", "socks5://127.0.0.1:1", "nonsense", "http://127.0.0.1:99999"])
def test_a_proxy_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(NoAnswerError) as refused:
        ask(Request("http://example.invalid/v1"), 5.0, 1000)
    assert refused.value.failure is Failure.BROKEN
    assert str(refused.value).isprintable()


def test_an_answer_is_as_long_as_allowed_and_no_byte_longer(server: Server) -> None:
    server.serve = say(OK + OPEN + b"x" * 1000)
    assert ask(Request(server.url), 5.0, 1000).body == b"x" * 1000
    with pytest.raises(NoAnswerError) as refused:
        ask(Request(server.url), 5.0, 999)
    assert refused.value.failure is Failure.LONG


def test_an_answer_in_slow_pieces_is_taken_when_it_ends_in_time(server: Server) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        for piece in (OK[:5], OK[5:] + b"X: y\r\n", OPEN[:3], OPEN[3:], b"ab", b"c"):
            connection.sendall(piece)
            time.sleep(0.05)

    server.serve = serve
    assert ask(Request(server.url), 5.0, 1000).body == b"abc"


@pytest.mark.parametrize("status", [REFUSED, b"HTTP/1.1 500 Oops\r\n", b"HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\n"])
def test_a_refusal_with_a_body_without_end_is_its_status(server: Server, status: bytes) -> None:
    server.serve = flood(status + OPEN, b"no" * 30_000)
    answer = ask(Request(server.url, json={"a": 1}), 5.0, 1000)
    assert not answer.is_success
    assert answer.body.startswith(b"no")
    assert len(answer.body) <= 65536
    assert server.connections == 1


def test_a_server_that_quotes_the_key_does_not_get_it_printed(server: Server) -> None:
    server.serve = say(REFUSED + OPEN + b"no such key: sk-sesame-1234")
    assert ask(Request(server.url, key="sk-sesame-1234"), 5.0, 1000).body == b"no such key: ..."
    with pytest.raises(NoAnswerError) as refused:
        ask(Request(server.url, key="sk-sesame\n1234"), 5.0, 1000)
    assert "sesame" not in str(refused.value)


def test_a_refusal_that_drips_is_its_status(server: Server) -> None:
    server.serve = drip(REFUSED + OPEN, b"n")
    assert ask(Request(server.url), WITHIN_S, 1000).status == 400


def test_a_request_that_nobody_reads_ends_too(server: Server) -> None:
    server.serve = lambda connection: time.sleep(5.0)
    with pytest.raises(NoAnswerError) as refused:
        ask(Request(server.url, json={"picture": "x" * 30_000_000}), WITHIN_S, 1000)
    assert refused.value.failure is Failure.LATE


def test_an_endless_answer_costs_no_memory(server: Server) -> None:
    server.serve = flood(OK + OPEN, b" " * 65536)
    refused = f"""
from qwen2vl_robot.planner.exchange import NoAnswerError, Request, ask
def attack():
    try:
        ask(Request({server.url!r}), 5.0, 200_000)
    except NoAnswerError:
        return True
"""
    assert grown_mb(refused) < 100
