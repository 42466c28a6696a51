"""`doctor --model http://...`: real HTTP on loopback; every server gets its sentence within two seconds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qwen2vl_robot.doctor import examine_model
from qwen2vl_robot.planner.listing import examine_server
from qwen2vl_robot.planner.sources import ModelSettings

Answer = Callable[[BaseHTTPRequestHandler], None]
MODELS = json.dumps({"object": "list", "data": [{"id": "Qwen/Qwen2-VL-7B-Instruct"}, {"id": "other\x1b[31m"}]}).encode()


class Server:
    """A loopback server that answers every GET with `answer`."""

    def __init__(self) -> None:
        self.answer: Answer = lambda http: send(http, MODELS)
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                try:
                    outer.answer(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


def send(http: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    http.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        http.send_header(name, value)
    http.end_headers()
    http.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def examine(model: str) -> tuple[bool, str]:
    said: list[str] = []
    is_usable = examine_model(model, said.append, calibrates=False)
    assert all("\n" not in line and "\x1b" not in line for line in said)
    return is_usable, "\n".join(said)


def test_a_server_that_has_the_model_is_usable(server: Server) -> None:
    is_usable, said = examine(f"{server.url}#Qwen/Qwen2-VL-7B-Instruct")
    assert is_usable
    assert "answers after" in said
    assert "its models: Qwen/Qwen2-VL-7B-Instruct, other" in said
    assert server.asked == [("/v1/models", None)]


@pytest.mark.parametrize("name", ["", "#"])
def test_without_a_name_its_models_are_listed_to_choose_from(server: Server, name: str) -> None:
    is_usable, said = examine(server.url + name)
    assert not is_usable
    assert f"no model is named; choose one: --model {server.url}#Qwen/Qwen2-VL-7B-Instruct" in said


def test_a_model_that_the_server_does_not_have_is_named(server: Server) -> None:
    is_usable, said = examine(f"{server.url}#qwen9")
    assert not is_usable
    assert "it has no 'qwen9'; choose one" in said


def test_a_server_that_is_not_there_is_said_to_be_not_there(server: Server) -> None:
    server.http.shutdown()
    server.http.server_close()
    is_usable, said = examine(f"{server.url}#m")
    assert not is_usable
    assert "cannot be reached" in said


def hang(http: BaseHTTPRequestHandler) -> None:
    time.sleep(20)


def drip(http: BaseHTTPRequestHandler) -> None:
    http.send_response(200)
    http.end_headers()
    for _ in range(100):
        http.wfile.write(b" ")
        http.wfile.flush()
        time.sleep(0.2)


@pytest.mark.parametrize("answer", [hang, drip])
def test_nothing_is_waited_for_longer_than_two_seconds(server: Server, answer: Answer) -> None:
    server.answer = answer
    began_s = time.perf_counter()
    is_usable, said = examine(f"{server.url}#m")
    assert time.perf_counter() - began_s < 8.0  # the server takes 20
    assert not is_usable
    assert "no answer within 2 s" in said


HOSTILE = {
    "html": b"<html>",
    "list": b"[1]",
    "no ids": b'{"data": [{"name": "m"}]}',
    "number": b'{"data": 3}',
    "deep": b"[" * 100_000,
    "long": b"x" * 2_000_000,
    "binary": b"\xff\xfe",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_list_of_models_is_said_to_be_none(server: Server, body: bytes) -> None:
    server.answer = lambda http: send(http, body)
    is_usable, said = examine(f"{server.url}#m")
    assert not is_usable
    assert "cannot be read" in said or "longer than" in said


def test_a_server_without_a_list_may_still_plan(server: Server) -> None:
    server.answer = lambda http: send(http, b"", 404)
    is_usable, said = examine(f"{server.url}#m")
    assert is_usable
    assert "only a plan shows" in said


def test_a_key_is_sent_where_it_is_set_and_missed_where_it_is_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ModelSettings(model="Qwen/Qwen2-VL-7B-Instruct", server=server.url, key_variable="PLANNER_KEY")
    monkeypatch.delenv("PLANNER_KEY", raising=False)
    said: list[str] = []
    assert not examine_server(settings, said.append)
    assert "PLANNER_KEY holds no key; set it with: export PLANNER_KEY=" in said[0]
    assert server.asked == []
    monkeypatch.setenv("PLANNER_KEY", "sesame")
    assert examine_server(settings, said.append)
    assert server.asked == [("/v1/models", "Bearer sesame")]
    assert "sesame" not in "".join(said)


@pytest.mark.parametrize("key", ["ses\name", "sesame\x1b", "sésame"])
def test_a_key_that_cannot_be_sent_is_not_printed(server: Server, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("PLANNER_KEY", key)
    said: list[str] = []
    settings = ModelSettings(model="m", server=server.url, key_variable="PLANNER_KEY")
    assert not examine_server(settings, said.append)
    assert said == [f"{server.url}: cannot be reached: the key is not plain ASCII"]
    assert server.asked == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told(server: Server, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda http: send(http, b"", status)
    assert f"asks for a key (status {status})" in examine(f"{server.url}#m")[1]
    monkeypatch.setenv("PLANNER_KEY", "sesame")
    said: list[str] = []
    assert not examine_server(ModelSettings(model="m", server=server.url, key_variable="PLANNER_KEY"), said.append)
    assert "refuses the key in PLANNER_KEY" in said[0]


def test_a_key_does_not_follow_a_redirection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_KEY", "sesame")
    server.answer = lambda http: send(http, b"", 302, Location=f"{server.url}/elsewhere")
    settings = ModelSettings(model="m", server=server.url, key_variable="PLANNER_KEY")
    assert not examine_server(settings, print)
    assert len(server.asked) == 1
