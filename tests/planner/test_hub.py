"""Without a network a model of the hub is refused within two seconds, or comes from this machine at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.hub import prepare_hub
from qwen2vl_robot.planner.sources import SHIPPED_MODEL, ModelSettings

NAME = "nobody/small"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub whose address takes no connection, and an empty cache."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", *(f"{s}_proxy" for s in ("http", "https"))):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    yield
    os.environ.pop("HF_HUB_OFFLINE", None)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "grey.png"
    Image.new("RGB", (320, 240), (128, 128, 128)).save(path)
    return path


def keep_shipped_as(name: str, home: Path) -> None:
    """What the hub's client leaves on this machine when it has fetched a model."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(SHIPPED_MODEL, folder / "snapshots" / "1234")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1234")


def run_plan(picture: Path, *more: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "qwen2vl_robot", "plan", str(picture), "pick up the red block", *more]
    # Python and its imports take seconds on a busy machine; a hub that is waited for takes many minutes.
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stderr


def test_a_model_that_would_have_to_be_fetched_is_refused_at_once(picture: Path) -> None:
    code, err = run_plan(picture, "--model", NAME)
    assert code == 2
    assert err.count("\n") == 1
    assert "http://127.0.0.1:9 cannot be reached" in err
    assert "hf download nobody/small" in err


@pytest.mark.parametrize("host", ["127.0.0.1:9", "no-such-host.invalid", "192.0.2.1"])
def test_no_address_is_waited_for_longer_than_a_second(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://{host}")
    began_s = time.perf_counter()
    with contextlib.suppress(BadInputError):  # on some networks somebody answers for every address
        prepare_hub(ModelSettings(model=NAME))
    assert time.perf_counter() - began_s < 8.0  # else it is half a minute and more


def test_a_model_that_was_fetched_before_loads_without_asking(tmp_path: Path, picture: Path) -> None:
    keep_shipped_as(NAME, tmp_path / "home")
    settings = tmp_path / "planner.yaml"
    settings.write_text(f"model: {NAME}\nprompt_style: compact\n")
    code, err = run_plan(picture, "--model", str(settings))
    assert code == 1  # a grey picture shows no red block
    assert err.startswith("nothing would be moved by these boxes") and err.count("\n") == 1  # nobody knows its family


def test_a_hub_that_takes_connections_is_left_to_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        prepare_hub(ModelSettings(model=NAME))
    assert "HF_HUB_OFFLINE" not in os.environ


def test_the_proxy_is_asked_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        prepare_hub(ModelSettings(model=NAME))
    with pytest.raises(BadInputError, match=r"cannot be reached \(proxy 127\.0\.0\.1"):
        prepare_hub(ModelSettings(model=NAME))


def test_who_forbids_to_ask_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInputError, match="HF_HUB_OFFLINE is set"):
        prepare_hub(ModelSettings(model=NAME))


@pytest.mark.parametrize("model", [SHIPPED_MODEL, "random:2B", "modelscope:Qwen/Qwen2-VL-2B-Instruct"])
def test_what_is_no_name_of_the_hub_is_not_looked_for(model: str) -> None:
    prepare_hub(ModelSettings(model=model))
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize(
    "address", ["http://[", "http://a:99999", "http://" + "a" * 300, "http://a\u0301..b", "://", "x"]
)
def test_an_address_of_the_hub_that_cannot_be_one_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(BadInputError, match="it is not on this machine") as refused:
        prepare_hub(ModelSettings(model=NAME))
    assert "\n" not in str(refused.value)
