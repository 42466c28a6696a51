"""What takes long to compute → a file of the user's cache that begins with the hash of its content, and back.

A file that is cut, foreign or changed says nothing. Without a place to write everything works as well, more slowly.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from pathlib import Path

from qwen2vl_robot.bounds import CONFIG_BYTES
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.results import UnsavedError, write_bytes


@functools.cache
def code_digest(*modules: str) -> str:
    """The hash of modules of this package ("reading/tokens.py") and of this one: other code computes something else."""
    root = Path(__file__).resolve().parent
    return hashlib.sha256(b"".join(read_file(root / name, CONFIG_BYTES) for name in (*modules, "kept.py"))).hexdigest()


def read_kept(file: Path, most_bytes: int) -> bytes | None:
    """The content of a file; None where it is missing, too large or not what was written."""
    try:
        head, _, body = read_file(file, most_bytes).partition(b"\n")
    except BadInputError:
        return None
    return body if hashlib.sha256(body).hexdigest().encode() == head else None


def keep(file: Path, body: bytes, most_files: int) -> None:
    """Write a file KIND-NAME.SUFFIX; of those of its kind only so many stay, and the oldest go."""
    kind = file.name.partition("-")[0]
    with contextlib.suppress(OSError, UnsavedError):
        write_bytes(file, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        of_kind = file.parent.glob(f"{kind}-*{file.suffix}")
        for old in sorted(of_kind, key=lambda old: old.stat().st_mtime)[:-most_files]:
            old.unlink(missing_ok=True)
