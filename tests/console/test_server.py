"""The console's server over the wire: who gets in, and what a command does to a controller."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra `console` is not installed")

from qwen2vl_robot.console import door
from tests.console.desks import Served, StandIn


@pytest.fixture(autouse=True)
def _idle(controller: StandIn) -> None:
    controller.show(state="idle", doing="", stopped_by=None, awaits=None, instruction=None, approval=None)
    for heard in controller.heard.values():
        heard.clear()


def ask(console: Served, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Send a request as our page does, unless `headers` say otherwise; returns status and answer."""
    line = http.client.HTTPConnection("127.0.0.1", console.port, timeout=30.0)
    sent = {"Authorization": f"Bearer {console.token}", "Origin": console.base, **headers}
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        line.request("GET" if body is None else "POST", path, data, sent)
        answer = line.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] else text.decode()
    finally:
        line.close()


def until(condition: Callable[[], bool], at_most_s: float = 20.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end_s, "it did not become true"
        time.sleep(0.02)


@pytest.mark.parametrize("token", ["", "wrong", "é" * 10, "x" * 5000])
def test_a_wrong_token_moves_nothing_and_is_said(console: Served, controller: StandIn, token: str) -> None:
    given = {"Authorization": f"Bearer {token}".encode().decode("latin-1")}
    for path in ("/api/stop", "/api/robots/0/say"):
        status, answer = ask(console, path, {"text": "go home"}, **given)
        assert status == 401
        assert "token is wrong" in answer["error"]
    assert controller.heard["stop"] == controller.heard["instruction"] == []


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example:80"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_another_sites_page_is_kept_out_even_with_the_token(console: Served, headers: dict[str, str]) -> None:
    assert ask(console, "/api/stop", {}, **headers)[0] == 403


def test_only_loopback_listens_and_the_page_allows_no_foreign_script(console: Served) -> None:
    assert console.base.startswith("http://127.0.0.1:")
    line = http.client.HTTPConnection("127.0.0.1", console.port, timeout=30.0)
    line.request("GET", "/")
    policy = line.getresponse().headers["Content-Security-Policy"]
    line.close()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", ["../server.py", "..%2fserver.py", "%2e%2e/door.py", "nothing.js", ""])
def test_no_file_but_the_pages_own_is_served(console: Served, name: str) -> None:
    assert ask(console, f"/static/{name}")[0] == 404


GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"text": 5}',
    b'{"text": ""}',
    b"[" * 3000,
    b'{"text": "a", "text": "b"}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", GARBAGE)
def test_garbage_is_an_error_and_moves_nothing(console: Served, controller: StandIn, body: bytes) -> None:
    status, answer = ask(console, "/api/robots/0/say", body)
    assert status == 400
    assert answer["error"]
    assert controller.heard["instruction"] == []


def test_a_large_request_is_refused(console: Served) -> None:
    assert ask(console, "/api/robots/0/say", {"text": "x" * 100_000})[0] == 413


@pytest.mark.parametrize("path", ["/api/robots/7/say", "/api/robots/0/dance", "/api/robots/-1/say"])
def test_an_unknown_robot_or_command_is_said(console: Served, path: str) -> None:
    assert ask(console, path, {"text": "go home"})[0] == 404


def test_an_instruction_reaches_the_controller(console: Served, controller: StandIn) -> None:
    assert ask(console, "/api/robots/0/say", {"text": "go home"})[0] == 200
    assert controller.heard["instruction"] == ["go home"]


def test_a_stop_reaches_the_controller_while_a_command_waits(console: Served, controller: StandIn) -> None:
    with ThreadPoolExecutor(1) as other:
        waits = other.submit(ask, console, "/api/robots/0/approve", {"digest": "00"})
        status, answer = ask(console, "/api/stop", {})
        assert (status, answer["answers"]["/"]) == (200, "stopped: the stop topic")
        assert waits.result()[0] in (400, 409)
    assert controller.heard["stop"]


def test_of_two_who_approve_one_is_heard_and_the_other_told(console: Served, controller: StandIn) -> None:
    awaited = controller.ask()
    with ThreadPoolExecutor(2) as people:
        both = [people.submit(ask, console, "/api/robots/0/approve", {"digest": awaited}) for _ in range(2)]
        answers = sorted(one.result() for one in both)
    assert [status for status, _ in answers] == [200, 409]
    assert controller.heard["~/approve"] == [awaited]


def test_an_old_digest_approves_and_rejects_nothing(console: Served, controller: StandIn) -> None:
    old = controller.ask("cup")
    controller.ask("red block")
    until(lambda: "no longer" in str(ask(console, "/api/robots/0/approve", {"digest": old})))
    assert ask(console, "/api/robots/0/reject", {"digest": old, "reason": "no"})[0] == 400
    assert controller.heard["~/approve"] == controller.heard["~/reject"] == []


def test_a_no_reaches_the_controller_with_its_reason(console: Served, controller: StandIn) -> None:
    awaited = controller.ask()
    status, answer = ask(console, "/api/robots/0/reject", {"digest": awaited, "reason": "the cup is full"})
    assert status == 200, answer
    assert "the cup is full" in answer["answer"]
    assert [json.loads(no) for no in controller.heard["~/reject"]] == [{"digest": awaited, "reason": "the cup is full"}]
    assert controller.heard["~/approve"] == []


def test_a_reset_releases_only_the_stop_that_was_read(console: Served, controller: StandIn) -> None:
    assert ask(console, "/api/robots/0/reset", {"stopped_by": "x"})[0] == 400
    controller.show(state="stopped", stopped_by="a hand on the table")
    until(lambda: "another stop came" in str(ask(console, "/api/robots/0/reset", {"stopped_by": "the stop topic"})))
    assert controller.heard["reset"] == []
    assert ask(console, "/api/robots/0/reset", {"stopped_by": "a hand on the table"})[0] == 200
    assert controller.heard["reset"] == [True]


def test_a_thousand_silent_connections_do_not_keep_a_stop_out(console: Served, controller: StandIn) -> None:
    strangers: list[socket.socket] = []
    try:
        for number in range(1000):
            strangers.append(socket.create_connection(("127.0.0.1", console.port), timeout=10.0))
            if number % 3:
                strangers[-1].sendall(b"GET / HTTP/1.1\r\nHost: " if number % 3 == 1 else b"\x16\x03\x01\xff" * 20)
        assert ask(console, "/api/stop", {})[0] == 200
    finally:
        for stranger in strangers:
            stranger.close()
    assert controller.heard["stop"]
    assert len(console.console.door._strangers) <= door.MOST_STRANGERS


def test_a_taken_port_is_said(console: Served) -> None:
    import asyncio

    from qwen2vl_robot.console.server import Console
    from qwen2vl_robot.errors import BadInputError

    with pytest.raises(BadInputError, match=f"port {console.port} on 127.0.0.1 cannot be used"):
        asyncio.run(Console([]).start(console.port))
    assert threading.active_count() < 200
