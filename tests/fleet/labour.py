"""Objects for the tests of `fleet`, served in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.fleet.jobs import Job, Unit


class Labour:
    """Squares numbers, and dies or fails where it is told to.

    Args:
        folder: where it leaves a file for each time it worked on a number.
        dies: number → how often the process dies on it.
        fails: numbers that it refuses.
        seconds: how long a number takes.
    """

    def __init__(self, folder: str, dies: dict[int, int], fails: tuple[int, ...], seconds: float) -> None:
        self._folder, self._dies, self._fails, self._seconds = Path(folder), dies, fails, seconds

    def square(self, number: int) -> dict[str, Any]:
        tried = len(list(self._folder.glob(f"{number}.*")))
        (self._folder / f"{number}.{tried}").touch()
        time.sleep(self._seconds)
        if tried < self._dies.get(number, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self._fails:
            raise BadInputError(f"{number} is no number to square")
        return {"number": number, "square": number * number, "pid": os.getpid()}


def squares(
    folder: Path,
    count: int,
    *,
    dies: dict[int, int] | None = None,
    fails: tuple[int, ...] = (),
    seconds: float = 0.0,
    about: int = 1,
) -> Job:
    return Job(
        name="squares",
        factory="tests.fleet.labour:Labour",
        args=(str(folder), dies or {}, fails, seconds),
        method="square",
        units=tuple(Unit(str(number), (number,)) for number in range(count)),
        about={"about": about},
    )


def values(results: list[dict[str, Any]]) -> list[int]:
    return sorted(r["square"] for r in results)
