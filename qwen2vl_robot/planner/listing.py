"""An OpenAI-compatible server → whether it answers within two seconds, and which models it lists."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from qwen2vl_robot.bounds import LISTING_BYTES, LISTING_S, shown
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.exchange import Failure, NoAnswerError, Request, ask
from qwen2vl_robot.planner.sources import ModelSettings

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
    listed = ", ".join(models[:_MOST_SHOWN]) or "none"
    more = f" and {len(models) - _MOST_SHOWN} more" if len(models) > _MOST_SHOWN else ""
    say(f"its models: {listed}{more}")
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
    """Status and body of an answer, or in a few words why there is none in time."""
    try:
        answer = ask(Request(url, key), LISTING_S, LISTING_BYTES)
    except NoAnswerError as error:
        if error.failure is Failure.LATE:
            return f"no answer within {LISTING_S:g} s"
        return f"its answer is {error}" if error.failure is Failure.LONG else f"cannot be reached: {error}"
    return answer.status, answer.body


def _models(body: bytes) -> list[str] | None:
    """The names in {"data": [{"id": name}, ...]}, None where that is not what a body says."""
    try:
        entries = parse_json(body, "the list")["data"]
        return [shown(entry["id"]) for entry in entries]
    except (BadInputError, KeyError, TypeError, AttributeError):
        return None
