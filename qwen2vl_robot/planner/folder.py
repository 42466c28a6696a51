"""A checkpoint folder → is it whole and within the bounds, before a library opens any of it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from qwen2vl_robot.bounds import CONFIG_BYTES, TENSORS_HEADER_BYTES, TOKENIZER_BYTES, shown
from qwen2vl_robot.documents import parse_json, read_file, read_json
from qwen2vl_robot.errors import BadInputError

_NEEDED = ("config.json", "*.safetensors", "tokenizer.json", "preprocessor_config.json")
_TOKENIZER = "tokenizer.json"
_INDEX = "*.safetensors.index.json"


def check_folder(folder: Path) -> None:
    """Name what a checkpoint folder lacks or what in it is too large, instead of a library's traceback.

    Raises:
        BadInputError: not a folder; a needed file is missing; a file is too large, no JSON, or names files elsewhere.
    """
    if not folder.is_dir():
        raise BadInputError(f"model {shown(folder)} is a file; give a folder with a checkpoint")
    for pattern in _NEEDED:
        if not list(folder.glob(pattern)):
            present = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            raise BadInputError(f"model {shown(folder)}: {pattern} is missing; the folder holds {shown(present)}")
    read_file(folder / _TOKENIZER, TOKENIZER_BYTES)
    for file in sorted(folder.glob("*.json")):
        if file.name != _TOKENIZER:
            read_json(file, CONFIG_BYTES)
    for file in folder.glob(_INDEX):
        _check_index(file)
    for file in sorted(folder.glob("*.safetensors")):
        if tensors_bytes(file) is None:
            allowed = f"a safetensors header of at most {TENSORS_HEADER_BYTES} bytes is needed"
            raise BadInputError(f"{shown(file)}: cannot be loaded: {allowed}")


def _check_index(file: Path) -> None:
    """Refuse an index whose weights are in files elsewhere: their names are joined to the folder's."""
    index = read_json(file, CONFIG_BYTES)
    files = index.get("weight_map") if isinstance(index, dict) else None
    names = files.values() if isinstance(files, dict) else [""]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise BadInputError(f"{shown(file)}: names weights outside of the folder, or of another format")


def tensors_bytes(path: Path) -> int | None:
    """The size that a safetensors header states for its file; None without such a header within the bounds."""
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > min(TENSORS_HEADER_BYTES, path.stat().st_size):
                return None
            tensors: Any = parse_json(file.read(header_bytes), "the header")
        ends = [int(entry["data_offsets"][1]) for key, entry in tensors.items() if key != "__metadata__"]
    except (BadInputError, OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return 8 + int(header_bytes) + max(ends, default=0)
