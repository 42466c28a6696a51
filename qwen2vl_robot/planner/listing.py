"""An OpenAI-compatible server → whether it answers within two seconds, and which models it lists."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable

import httpx2

from qwen2vl_robot.planner.sources import ModelSettings

WITHIN_S = 2.0
_MAX_BYTES = 1_000_000
_MOST_SHOWN = 10


def examine_server(settings: ModelSettings, say: Callable[[str], object], *, named: bool = True) -> bool:
    """Say whether a server answers, which models it lists, and what to put right.

    Args:
        settings: with a server.
        named: whether a model of the server was named; without one its models are listed to choose from.

    Returns:
        Whether a plan can be asked for.
    """
    server, key_name = str(settings.server), settings.key_variable
    key = os.environ.get(key_name, "").strip() if key_name else ""
    if key_name and not key:
        say(f"{server}: the environment variable {key_name} holds no key; set it with: export {key_name}=YOUR_KEY")
        return False
    began_s = time.monotonic()
    answer = _get(f"{server.rstrip('/')}/models", key)
    if isinstance(answer, str):
        say(f"{server}: {answer}")
        return False
    status, body = answer
    if status in (401, 403):
        say(f"{server}: {_refused(status, key_name)}")
        return False
    say(f"{server}: answers after {time.monotonic() - began_s:.2f} s")
    if status != 200:
        say(f"it lists no models (status {status}), so only a plan shows whether it has the model")
        return named and status in (404, 405, 501)
    models = _models(body)
    if models is None:
        say("its list of models cannot be read; a server that speaks OpenAI's API is needed, its address ends in /v1")
        return False
    return _judge(settings, models, say, named=named)


def _judge(settings: ModelSettings, models: list[str], say: Callable[[str], object], *, named: bool) -> bool:
    shown = ", ".join(models[:_MOST_SHOWN]) or "none"
    more = f" and {len(models) - _MOST_SHOWN} more" if len(models) > _MOST_SHOWN else ""
    say(f"its models: {shown}{more}")
    if named and settings.model in models:
        return True
    if models:
        problem = f"it has no {settings.model!r}" if named else "no model is named"
        say(f"{problem}; choose one: --model {settings.server}#{models[0]}")
    return False


def _refused(status: int, key_name: str | None) -> str:
    if key_name:
        return f"refuses the key in {key_name} (status {status})"
    return f"asks for a key (status {status}); name its environment variable as key_variable in a planner.yaml"


def _get(url: str, key: str) -> tuple[int, bytes] | str:
    """Status and body of an answer, or in a few words why there is none in time.

    The client's limits count for each piece of an answer, and the look-up of a name has none: so a thread.
    """
    found: list[tuple[int, bytes] | str] = []

    def ask() -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = b""
        try:
            with httpx2.stream("GET", url, headers=headers, timeout=WITHIN_S) as response:
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > _MAX_BYTES:
                        found.append(f"its answer is longer than {_MAX_BYTES} bytes")
                        return
                found.append((response.status_code, body))
        except httpx2.TimeoutException:
            pass  # said below
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            found.append(f"cannot be reached: {_line(str(error)) or type(error).__name__}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WITHIN_S)
    return found[0] if found else f"no answer within {WITHIN_S:g} s"


def _models(body: bytes) -> list[str] | None:
    """The names in {"data": [{"id": name}, ...]}, None where that is not what a body says."""
    try:
        entries = json.loads(body)["data"]
        return [_line(entry["id"]) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _line(text: str) -> str:
    """Foreign text as one short line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:160]
