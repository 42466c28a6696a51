"""A checkpoint folder is judged before a library opens it; what is too large, elsewhere or a pickle stays shut."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen2vl_robot.bounds import CONFIG_BYTES, TENSORS_HEADER_BYTES, TOKENIZER_BYTES
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.folder import check_folder, tensors_bytes
from qwen2vl_robot.planner.loading import load_model
from qwen2vl_robot.planner.sources import SHIPPED_MODEL, ModelSettings
from tests.hostile import MOST_MB, grown_mb

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED_MODEL, tmp_path / "model"))


def grow(name: str, to_bytes: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        os.truncate(folder / name, to_bytes)

    return spoil


def put(name: str, data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return spoil


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def weights_in(name: object) -> Callable[[Path], None]:
    return put(INDEX, json.dumps({"metadata": {}, "weight_map": {"a": name}}).encode())


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a large config": grow("config.json", CONFIG_BYTES + 1),
    "a large tokenizer": grow("tokenizer.json", TOKENIZER_BYTES + 1),
    "a deep config": put("config.json", b"[" * 100_000),
    "a config that is a pipe": pipe,
    "a config of another kind": put("config.json", b"\xff\xfe"),
    "a huge number": put("config.json", b'{"hidden_size": ' + b"9" * 10_000 + b"}"),
    "a deep file that nobody needs": put("generation_config.json", b'{"a":' * 10_000),
    "weights above the folder": weights_in("../../secret.safetensors"),
    "weights elsewhere": weights_in("/etc/passwd.safetensors"),
    "weights in a pickle": weights_in("pytorch_model.bin"),
    "weights without a name": weights_in(None),
    "an index of nothing": put(INDEX, b"[]"),
    "a header of weights beyond its file": put("model.safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "a long header of weights": put(
        "model.safetensors", struct.pack("<Q", TENSORS_HEADER_BYTES + 1) + b" " * 5_000_000
    ),
    "a deep header of weights": put("model.safetensors", struct.pack("<Q", 90_000) + b"[" * 90_000),
    "weights that are a pickle": put("model.safetensors", pickle.dumps({"a": 1})),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_folder_is_one_line(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    with pytest.raises(BadInputError) as refused:
        check_folder(folder)
    assert str(refused.value).isprintable()


def test_the_shipped_folder_passes_also_with_an_index(folder: Path) -> None:
    weights_in("model.safetensors")(folder)
    check_folder(folder)
    assert tensors_bytes(folder / "model.safetensors") == (folder / "model.safetensors").stat().st_size


class Trap:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_beside_or_instead_of_the_weights_is_never_loaded(folder: Path, tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
        (folder / name).write_bytes(trap)
    load_model(ModelSettings(model=str(folder)))
    (folder / "model.safetensors").write_bytes(trap)
    with pytest.raises(BadInputError):
        load_model(ModelSettings(model=str(folder)))
    assert not (tmp_path / "sprung").exists()


def test_code_of_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "trap.Config"}, "model_type": "no_such_vl"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    with pytest.raises(BadInputError):
        load_model(ModelSettings(model=str(folder)))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["a large tokenizer", "a long header of weights"])
def test_the_worst_refused_folders_take_little_memory(folder: Path, name: str) -> None:
    HOSTILE[name](folder)
    code = """
import sys
from pathlib import Path
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.folder import check_folder
def attack():
    try:
        check_folder(Path(sys.argv[1]))
    except BadInputError:
        return True
"""
    assert grown_mb(code, str(folder)) < MOST_MB
