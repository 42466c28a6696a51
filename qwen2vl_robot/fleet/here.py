"""Units → results, in processes of this machine."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen2vl_robot.errors import RobotError, WorkerError
from qwen2vl_robot.fleet.jobs import Job, Result, Unit
from qwen2vl_robot.process import Worker
from qwen2vl_robot.reasons import WorkerReason

MOST_TRIES = 3  # of a unit whose process died: a machine may kill one for want of memory, a broken unit kills each
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Here:
    """So many processes of this machine, each with a served object that stays warm."""

    processes: int

    def run(self, job: Job, units: Sequence[Unit]) -> Iterator[tuple[str, Result]]:
        """See `Place.run`."""
        crew = _Crew(job, units)
        try:
            crew.start(min(self.processes, len(units)))
            yield from crew.results()
        finally:
            crew.dismiss()


class _Crew:
    """Threads that each ask a process of their own; the first error ends all."""

    def __init__(self, job: Job, units: Sequence[Unit]) -> None:
        self._job, self._left = job, len(units)
        self._todo: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        for unit in units:
            self._todo.put(unit)
        self._done: queue.SimpleQueue[tuple[str, Result] | BaseException] = queue.SimpleQueue()
        self._tries: Counter[str] = Counter()
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self._is_over = threading.Event()

    def start(self, processes: int) -> None:
        for _ in range(processes):
            worker = Worker(self._job.factory, *self._job.args)
            self._workers.append(worker)
            self._threads.append(threading.Thread(target=self._work, args=(worker,), daemon=True))
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[tuple[str, Result]]:
        while self._left:
            found = self._done.get()
            if isinstance(found, BaseException):
                raise found
            self._left -= 1
            yield found

    def dismiss(self) -> None:
        """End the processes, also in the middle of a unit."""
        self._is_over.set()
        for worker in self._workers:
            pid = worker.pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join(_GRACE_S)

    def _work(self, worker: Worker) -> None:
        """Work on units until none is left; the process that dies is replaced, and its unit is tried again."""
        try:
            while not self._is_over.is_set():
                try:
                    unit = self._todo.get(timeout=0.2)
                except queue.Empty:
                    continue  # a unit may come back from a process that died
                self._attempt(worker, unit)
        except BaseException as error:  # noqa: BLE001 - the top of a thread: the main thread raises it again
            self._done.put(error)
        finally:
            worker.close()

    def _attempt(self, worker: Worker, unit: Unit) -> None:
        try:
            result = worker.call(self._job.method, *unit.args, timeout_s=self._job.timeout_s)
        except WorkerError as error:
            self._tries[unit.key] += 1
            if error.reason is not WorkerReason.CRASHED or self._is_over.is_set():
                raise
            if self._tries[unit.key] >= MOST_TRIES:
                raise lost(self._job, unit.key, str(error)) from error
            self._todo.put(unit)
            return
        self._done.put((unit.key, result))


def lost(job: Job, key: str, why: str) -> RobotError:
    """The error about a unit that no process survives."""
    return RobotError(f"{job.name} {key}: its process died {MOST_TRIES} times: {why}")
