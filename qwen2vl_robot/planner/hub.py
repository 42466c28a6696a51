"""A name of the Hugging Face hub → whether it can be loaded or fetched; known within a second, before torch loads."""

from __future__ import annotations

import os
import re
import socket
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from qwen2vl_robot.bounds import HUB_S, shown
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.adapter import base_of
from qwen2vl_robot.planner.sources import ModelSettings

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_OFFLINE = "HF_HUB_OFFLINE"


def prepare_hub(settings: ModelSettings) -> None:
    """Keep a model that was fetched before from waiting for a network, and refuse one that cannot be fetched.

    It sets `HF_HUB_OFFLINE` for this process and its children. The hub's client reads that once, when it is imported.

    Raises:
        BadInputError: it is not on this machine, and the hub cannot be reached; it is an adapter that cannot be used.
    """
    name = base_of(settings.model)
    if settings.server is not None or not _NAME.fullmatch(name):
        return
    try:
        if Path(name).exists():
            return
    except OSError as error:  # a name that no folder can have
        raise BadInputError(f"model {shown(name)}: {error.strerror}") from error
    problem = _why_unreachable()
    if problem is None:
        return
    if not _is_fetched(name):
        raise BadInputError(
            f"model {name}: it is not on this machine, and {problem}; fetch it where there is a network "
            f"(hf download {name}), or give a folder"
        )
    os.environ[_OFFLINE] = "1"


def _why_unreachable() -> str | None:
    """Why nothing can be fetched from the hub now; None where its address, or that of the proxy, takes connections."""
    for name in (_OFFLINE, "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{name} is set"
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        parts = urlsplit(endpoint)
        bypasses = urllib.request.proxy_bypass(parts.hostname or "")
        proxy = None if bypasses else urllib.request.getproxies().get(parts.scheme)
        asked = urlsplit(proxy if proxy and "//" in proxy else f"//{proxy}") if proxy else parts
        port = asked.port or (80 if asked.scheme == "http" else 443)
    except ValueError:
        return "the address in HF_ENDPOINT or of the proxy is invalid"
    if _takes_connections(asked.hostname or "", port, HUB_S):
        return None
    return f"{endpoint} cannot be reached" + (f" (proxy {asked.hostname}:{port})" if proxy else "")


def _takes_connections(host: str, port: int, within_s: float) -> bool:
    """Whether a connection is made in time; a thread, because nothing else bounds the look-up of a name."""
    made = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), within_s).close()
            made.set()
        except (OSError, UnicodeError):  # UnicodeError: a name that no host can have
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(within_s)
    return made.is_set()


def _is_fetched(name: str) -> bool:
    """Whether the hub's client has kept the model on this machine, found without importing it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
    folder = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(folder.glob("*/config.json"))
