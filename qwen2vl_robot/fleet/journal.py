"""Results → a file of JSON lines, one a unit, from which a run that was cut off goes on.

The first line says what the results depend on. A line that a full disk or a kill cut off is dropped, and its unit is
done again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.fleet.fingerprint import fingerprint
from qwen2vl_robot.fleet.jobs import Job, Result
from qwen2vl_robot.results import UnsavedError, reason_of

_ANEW = "remove it, or name another file, to start anew"


class Journal:
    """An open file of results that one run uses at a time.

    Attributes:
        known: key → result of the units in it.
    """

    def __init__(self, path: Path, descriptor: int, job: Job) -> None:
        self._path, self._descriptor = path, descriptor
        self.known: dict[str, Result] = {}
        head = {"job": job.name, "about": dict(job.about), "version": fingerprint()["package"]}
        lines = self._whole_lines()
        if lines:
            self._check(lines[0], json.loads(json.dumps(head)))
            wanted = {unit.key for unit in job.units}
            for number, line in enumerate(lines[1:], 2):
                key, result = self._entry(number, line)
                if key in wanted:
                    self.known[key] = result  # a unit counts once; the last line is of a unit that was done again
        else:
            self._write(head)

    def keep(self, is_good: Callable[[Result], bool]) -> None:
        """Forget the results that no longer hold; a later line of the same unit takes their place."""
        self.known = {key: result for key, result in self.known.items() if is_good(result)}

    def add(self, key: str, result: Result) -> None:
        """Append one result; it is in the file, whole, when this returns.

        Raises:
            UnsavedError: it cannot be written; the file is as it was before.
        """
        if key not in self.known:
            self._write({"key": key, "result": result})
            self.known[key] = result

    def _whole_lines(self) -> list[str]:
        """All lines; what stands after the last line's end is cut off."""
        data = self._path.read_bytes()
        end = data.rfind(b"\n") + 1
        os.ftruncate(self._descriptor, end)
        try:
            return data[:end].decode().splitlines()
        except UnicodeDecodeError as error:
            raise self._foreign(1) from error

    def _check(self, line: str, head: dict[str, Any]) -> None:
        found = self._object(1, line)
        if "job" not in found:
            raise self._foreign(1)
        was, now = _flat(found), _flat(head)
        differ = [f"{n} {was.get(n)}, now {now.get(n)}" for n in sorted(was.keys() | now) if was.get(n) != now.get(n)]
        if differ:
            raise BadInputError(f"{self._path}: its results are of another run ({'; '.join(differ)}); {_ANEW}")

    def _entry(self, number: int, line: str) -> tuple[str, Result]:
        entry = self._object(number, line)
        key, result = entry.get("key"), entry.get("result")
        if not isinstance(key, str) or not isinstance(result, dict):
            raise self._foreign(number)
        return key, result

    def _object(self, number: int, line: str) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise self._foreign(number) from error
        if not isinstance(found, dict):
            raise self._foreign(number)
        return found

    def _foreign(self, line: int) -> BadInputError:
        return BadInputError(f"{self._path}: line {line} is not a result of this command; {_ANEW}")

    def _write(self, entry: dict[str, Any]) -> None:
        data = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            kept = f"it holds {len(self.known)} results; the same command goes on from them"
            raise UnsavedError(f"{self._path}: cannot be written: {reason_of(error)}; {kept}") from error


def _flat(head: dict[str, Any]) -> dict[str, Any]:
    about = head.get("about")
    return {**{k: v for k, v in head.items() if k != "about"}, **(about if isinstance(about, dict) else {})}


@contextmanager
def open_journal(path: Path, job: Job) -> Iterator[Journal]:
    """Open the file of a job's results, or make it, and keep every other run out of it.

    Raises:
        BadInputError: it holds something else, or another run uses it.
        UnsavedError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise BadInputError(f"{path}: {reason_of(error)}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInputError(f"{path}: another run is writing there; wait for its end or name another") from error
        except OSError:  # a file system without locks, such as some network shares
            pass
        yield Journal(path, descriptor, job)
    finally:
        os.close(descriptor)
