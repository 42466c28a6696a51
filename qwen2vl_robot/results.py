"""What a command found → files that are whole or absent, in a folder that one command uses at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qwen2vl_robot.errors import BadInputError, RobotError

LOCK_FILE = ".in_use"
REPORT_FILE = "report.json"


class UnsavedError(RobotError):
    """A result that could not be written, or only in part.

    Attributes:
        report: what was found; it is in memory all the same.
    """

    def __init__(self, message: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = report


@contextlib.contextmanager
def reserve(folder: Path, option: str = "--out") -> Iterator[None]:
    """Make a folder and keep every other command out of it; the lock of a process that died does not count.

    Raises:
        BadInputError: it cannot be made, or another command uses it now.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder, option)
    except OSError as error:
        raise BadInputError(f"{option} {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink()  # while it is still locked, so that it is nobody else's
        os.close(descriptor)


def _lock(folder: Path, option: str) -> int:
    """The descriptor of the folder's lock file, with this process's number in it."""
    file = folder / LOCK_FILE
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise BadInputError(
                f"{option} {folder}: process {owner} is writing there; wait for its end or give another folder"
            ) from error
        except OSError:  # a file system without locks, such as some network shares
            return descriptor
        if _is_same_file(descriptor, file):
            os.truncate(descriptor, 0)
            with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
                os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)  # its owner removed it between our opening and our locking


def _is_same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def check_new(folder: Path, option: str = "") -> None:
    """Refuse a folder that holds anything: what is written there is whole, and of one command.

    Raises:
        BadInputError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{option} {folder}: exists and is not empty; give a new folder".lstrip())


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write one JSON document, as `write_text`."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; where that fails, what it held before is still there.

    Raises:
        UnsavedError: the disk is full, the folder is read-only ...
    """
    target = path.resolve()
    is_device = target.exists() and not target.is_file()  # /dev/stdout and the like are written, never replaced
    part = target if is_device else target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        if not is_device:
            os.replace(part, target)
    except OSError as error:
        if not is_device:
            part.unlink(missing_ok=True)
        raise UnsavedError(f"{path}: cannot be written: {reason_of(error)}") from error


def save_run(
    folder: Path, report: dict[str, Any], pictures: Mapping[str, Callable[[Path], object] | None]
) -> tuple[str, ...]:
    """Write the report and then the pictures of a run.

    Args:
        pictures: file name → what writes it, None where this run has none.

    Returns:
        The names of the files that were written.

    Raises:
        UnsavedError: one line that names what is missing; everything else is written.
    """
    try:
        write_json(folder / REPORT_FILE, report)
    except UnsavedError as error:
        raise UnsavedError(str(error), report) from error
    try:
        return (REPORT_FILE, *draw_all(folder, pictures))
    except UnsavedError as error:
        raise UnsavedError(f"{report['outcome']}, and {REPORT_FILE} says how, but {error}", report) from error


def draw_all(folder: Path, pictures: Mapping[str, Callable[[Path], object] | None]) -> tuple[str, ...]:
    """Write every picture that there is and remove those of an earlier run; one that fails stops no other.

    Raises:
        UnsavedError: as `save_run`.
    """
    drawn, failed = [], []
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures.items():
        file = folder / name
        try:
            file.unlink(missing_ok=True)
            if draw is not None:
                draw(file)
                drawn.append(name)
        except OSError as error:
            failed.append(f"{file}: cannot be written: {reason_of(error)}")
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)  # half a picture is none
    if failed:
        raise UnsavedError("; ".join(failed))
    return tuple(drawn)


def reason_of(error: OSError) -> str:
    """Why the system refused, in its own words."""
    return error.strerror or str(error) or type(error).__name__
