"""Units → tasks of a Ray cluster, in the child process that speaks with it.

Each actor keeps one served object warm, in a process of its own. An actor gets a unit when it has answered for the last
one, so no more are in flight than there are actors. A unit whose node died goes to another.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from qwen2vl_robot.errors import BadInputError, RobotError, WorkerError
from qwen2vl_robot.fleet.fingerprint import differences, fingerprint
from qwen2vl_robot.fleet.here import MOST_TRIES, lost
from qwen2vl_robot.fleet.jobs import Job, Result, Unit
from qwen2vl_robot.process import Worker
from qwen2vl_robot.reasons import WorkerReason

_LOOK_S = 2.0  # between two looks at how many cores the cluster has
_ALONE_S = 120.0  # without an actor that works or a node that could start one
_MOST_BAD_STARTS = 5  # in a row


class Hand:
    """An actor: one served object in a process of its own, which may crash or hang without harm to the actor."""

    def __init__(self, factory: str, args: tuple[object, ...]) -> None:
        self._worker = Worker(factory, *args)

    def versions(self) -> dict[str, str]:
        """What decides the results of this node."""
        return fingerprint()

    def run(self, method: str, args: tuple[object, ...], timeout_s: float) -> tuple[str, Any]:
        """The unit's result ("done"), or why there is none: "crashed" may be tried again, "failed" may not."""
        try:
            return "done", self._worker.call(method, *args, timeout_s=timeout_s)
        except WorkerError as error:
            return ("crashed" if error.reason is WorkerReason.CRASHED else "failed"), str(error)
        except RobotError as error:
            return "failed", str(error)


class Driver:
    """One job on one cluster."""

    def __init__(self, address: str, job: Job) -> None:
        """Connect.

        Raises:
            BadInputError: Ray is not installed, or no cluster of this version answers.
        """
        try:
            import ray
        except ImportError as error:
            raise BadInputError("--ray: needs Ray: pip install 'qwen2vl_robot[cluster]'") from error
        self._ray, self._job, self._address = ray, job, address
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        except Exception as error:  # Ray raises errors of many kinds when it cannot connect
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BadInputError(
                f"--ray {address}: no cluster can be used: {reason}; docs/scale.md says how one is started"
            ) from error
        self._remote = ray.remote(Hand).options(num_cpus=job.cores, max_restarts=0, scheduling_strategy="SPREAD")
        self._todo: deque[Unit] = deque()
        self._tries: Counter[str] = Counter()
        self._left = 0
        self._actors: set[Any] = set()
        self._free: list[Any] = []
        self._calls: dict[Any, tuple[Any, Unit | None]] = {}  # None: the actor's versions
        self._bad_starts = 0
        self._looked_s = self._worked_s = time.monotonic()

    def put(self, units: Sequence[Unit]) -> None:
        """Take over all units of the job."""
        self._todo.extend(units)
        self._left = len(units)
        self._hire()

    def wait(self, most_s: float) -> list[tuple[str, Result]]:
        """Wait for results, and hand out what is left.

        Raises:
            RobotError: a unit failed, a node has another version, or no node can work.
        """
        if time.monotonic() - self._looked_s > _LOOK_S:
            self._hire()
        self._hand_out()
        if not self._calls:
            time.sleep(most_s)
        ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=most_s) if self._calls else ([], [])
        found = [done for reference in ready if (done := self._take(reference)) is not None]
        self._hand_out()
        if ready:
            self._worked_s = time.monotonic()
        elif not any(unit for _, unit in self._calls.values()) and time.monotonic() - self._worked_s > _ALONE_S:
            raise RobotError(
                f"--ray {self._address}: for {_ALONE_S:.0f} s no node had {self._job.cores} cores free for this job; "
                f"{self._left} units are left; give the same command again"
            )
        return found

    def _hire(self) -> None:
        """Start an actor for each core group that the cluster has and that units are left for."""
        self._looked_s = time.monotonic()
        cores = float(self._ray.cluster_resources().get("CPU", 0.0))
        wanted = min(int(cores // self._job.cores), self._left)
        for _ in range(wanted - len(self._actors)):
            actor = self._remote.remote(self._job.factory, self._job.args)
            self._actors.add(actor)
            self._calls[actor.versions.remote()] = (actor, None)

    def _hand_out(self) -> None:
        while self._free and self._todo:
            actor, unit = self._free.pop(), self._todo.popleft()
            call = actor.run.remote(self._job.method, unit.args, self._job.timeout_s)
            self._calls[call] = (actor, unit)

    def _take(self, reference: Any) -> tuple[str, Result] | None:
        """What a call brought: a result, or None where an actor has begun or its unit has to be done again."""
        actor, unit = self._calls.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._lose(actor, unit, error)
            return None
        if unit is None:
            self._welcome(actor, answer)
            return None
        self._free.append(actor)
        kind, value = answer
        if kind == "done":
            self._left -= 1
            return unit.key, value
        if kind == "failed":
            raise RobotError(f"{self._job.name} {unit.key}: {value}")
        self._again(unit, value)
        return None

    def _welcome(self, actor: Any, versions: dict[str, str]) -> None:
        """Let an actor work that would come to the results of this machine.

        Raises:
            BadInputError: its node has other versions.
        """
        differ = differences(versions)
        if differ:
            raise BadInputError(f"--ray {self._address}: a node has other versions: {differ}; install the same there")
        self._bad_starts = 0
        self._free.append(actor)

    def _lose(self, actor: Any, unit: Unit | None, error: Exception) -> None:
        """Take leave of an actor whose process or node is gone.

        Raises:
            RobotError: its unit was lost too often, or no actor can be started.
        """
        self._actors.discard(actor)
        if unit is not None:
            self._again(unit, "its node is gone")
            return
        self._bad_starts += 1
        if self._bad_starts >= _MOST_BAD_STARTS:
            reason = " ".join(str(error).split())[-400:]
            raise RobotError(f"--ray {self._address}: no node can start this job: {reason}")

    def _again(self, unit: Unit, why: str) -> None:
        self._tries[unit.key] += 1
        if self._tries[unit.key] >= MOST_TRIES:
            raise lost(self._job, unit.key, why)
        self._todo.appendleft(unit)

    def close(self) -> None:
        """Leave the cluster; its actors end with that."""
        self._ray.shutdown()
