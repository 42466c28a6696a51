"""Rehearsals → worker processes with warm worlds; a crash, hang or exception is a refusal.

The workers' module is named but not imported, so importing this module never loads pybullet.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from qwen2vl_robot.config import RobotProfile, Safety
from qwen2vl_robot.errors import RobotError, WorkerError
from qwen2vl_robot.messages import Motion, RobotState, Scene, Verdict, Violation, digest
from qwen2vl_robot.process import Worker
from qwen2vl_robot.reasons import ViolationKind, WorkerReason
from qwen2vl_robot.validation.findings import RehearsalCase, Rollout, Swept, Trial, make_verdict, stricter, tolerated

WORKERS = 2
_CHUNK = 2  # trials per piece of work
_PICTURE_S = 5.0
GLANCE_S = 1.0  # later than this a streaming policy has moved on, and the worker hangs


_BROKEN = {
    WorkerReason.CRASHED: ViolationKind.WORKER_CRASHED,
    WorkerReason.TIMEOUT: ViolationKind.WORKER_TIMEOUT,
    WorkerReason.RAISED: ViolationKind.WORKER_RAISED,
}


class RehearsalProcess:
    """The usual `ports.Rehearsal`: twins in their own processes, which restart after a crash."""

    def __init__(
        self,
        profile: RobotProfile,
        *,
        budget_s: float,
        film: bool = False,
        interpreter: str | None = None,
        workers: int = WORKERS,
    ) -> None:
        """Configure the workers; they start with `start` or with the first rehearsal.

        Args:
            budget_s: time limit of one rehearsal, seconds; a longer one is refused.
            film: whether accepting verdicts hold pictures of the rehearsal.
            interpreter: a Python with pybullet; by default the current one.
            workers: number of processes that share the perturbed runs, 1 to 64.
        """
        if not budget_s > 0.0:
            raise ValueError(f"a budget of {budget_s} s; it must be above 0")
        if not 1 <= workers <= 64:
            raise ValueError(f"{workers} workers; allowed 1 to 64")
        self._profile = profile
        self._budget_s, self._film = budget_s, film
        self._workers = [
            Worker("qwen2vl_robot.validation.rehearsal:Twin", profile, interpreter=interpreter) for _ in range(workers)
        ]

    @property
    def pid(self) -> int | None:
        """Process id of the first worker, None while it does not run."""
        return self._workers[0].pid

    @property
    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def start(self) -> None:
        """Start the workers now, so that the first rehearsal does not wait for them.

        Raises:
            WorkerError: a worker does not start.
        """
        with ThreadPoolExecutor(len(self._workers)) as threads:
            list(threads.map(lambda worker: worker.start(), self._workers))

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, refused: int = 0) -> Verdict:
        """Rehearse the motion in fresh twins; a worker that breaks gives a refusing verdict, not an exception."""
        began = time.perf_counter()
        try:
            verdict = self._rehearse(motion, scene, start, stricter(self._profile.safety, refused), began)
        except RobotError as error:
            reason = error.reason if isinstance(error, WorkerError) else WorkerReason.RAISED
            return self._refuse(_BROKEN[reason], str(error), motion, scene, start, began)
        return verdict if verdict.accepted else self._show(verdict, motion, scene, start)

    def glance(self, motion: Motion, scene: Scene, start: RobotState) -> Verdict:
        """Check limits and geometry alone, within `GLANCE_S`: a verdict marked partial, which no gate takes."""
        began = time.perf_counter()
        try:
            self.start()
            swept = _call(self._workers[0], time.perf_counter() + GLANCE_S, "glance", motion, scene, start)
            if not isinstance(swept, Swept):
                raise WorkerError(f"returned a {type(swept).__name__}, not the findings of a sweep")
        except RobotError as error:
            reason = error.reason if isinstance(error, WorkerError) else WorkerReason.RAISED
            return replace(self._refuse(_BROKEN[reason], str(error), motion, scene, start, began), is_partial=True)
        verdict = make_verdict(RehearsalCase(motion, scene, start, self._profile), swept.violations, began=began)
        return replace(verdict, is_partial=True)

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> RehearsalProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _rehearse(self, motion: Motion, scene: Scene, start: RobotState, safety: Safety, began: float) -> Verdict:
        self.start()
        until = time.perf_counter() + self._budget_s  # loading a worker has a limit of its own
        swept = _call(self._workers[0], until, "examine", motion, scene, start)
        if not isinstance(swept, Swept):
            raise WorkerError(f"returned a {type(swept).__name__}, not the findings of a sweep")
        case = RehearsalCase(motion, scene, start, self._profile)
        if swept.violations:
            return make_verdict(case, swept.violations, began=began)
        # Longest first: the whole run, then the first trial, which simulates most of it.
        count = safety.trials
        chunks = [(0,), *(tuple(range(i, min(i + _CHUNK, count))) for i in range(1, count, _CHUNK))]
        trials = [("try_out", (motion, scene, start, swept, chunk)) for chunk in chunks]
        work = _Work([("run", (motion, scene, start, self._film)), *trials], tolerated(safety))
        with ThreadPoolExecutor(len(self._workers)) as threads:
            for done in [threads.submit(work.do, worker, until) for worker in self._workers]:
                done.result()
        run = work.run
        violations = run.violations if run is not None else ()
        return make_verdict(case, violations, run, work.trials, safety=safety, began=began)

    def _show(self, verdict: Verdict, motion: Motion, scene: Scene, start: RobotState) -> Verdict:
        """Add the explanation and the picture of the moment; if the twin fails, return the verdict unchanged."""
        until = time.perf_counter() + _PICTURE_S
        try:
            text, picture = _call(self._workers[0], until, "show", motion, scene, start, verdict.violations)
        except RobotError:
            return verdict
        return replace(verdict, explanation=text, picture=picture)

    def _refuse(
        self, kind: ViolationKind, problem: str, motion: Motion, scene: Scene, start: RobotState, began: float
    ) -> Verdict:
        seconds = time.perf_counter() - began
        return Verdict(
            accepted=False,
            violations=(Violation(kind, None, (problem,), seconds, "s"),),
            motion_digest=_digest(motion),
            scene_digest=_digest(scene),
            start_digest=_digest(start),
            robot_digest=self._profile.digest,
            explanation=f"the rehearsal broke off: {problem}",
            seconds=seconds,
        )


@dataclass(slots=True)
class _Work:
    """The pieces of one rehearsal, which workers take in turn until all are done or the result is certain."""

    pieces: list[tuple[str, tuple[object, ...]]]
    tolerated: int
    run: Rollout | None = None
    trials: list[Trial] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def do(self, worker: Worker, until: float) -> None:
        """Run pieces until none is left; an exception of the worker ends the rehearsal.

        Raises:
            RobotError: the worker failed or ran out of time.
        """
        while True:
            with self.lock:
                if not self.pieces or self._is_decided():
                    return
                method, args = self.pieces.pop(0)
            try:
                result = _call(worker, until, method, *args)
            except BaseException:
                with self.lock:
                    self.pieces.clear()
                raise
            with self.lock:
                if isinstance(result, Rollout):
                    self.run = result
                else:
                    self.trials += result

    def _is_decided(self) -> bool:
        """Check whether a refusal is certain; acceptance needs every piece."""
        failed = sum(bool(trial.violations) for trial in self.trials)
        return failed > self.tolerated or (self.run is not None and bool(self.run.violations))


def _call(worker: Worker, until: float, method: str, *args: object) -> Any:
    left_s = until - time.perf_counter()
    if left_s <= 0.0:
        raise WorkerError("the time budget ran out before all checks had run", reason=WorkerReason.TIMEOUT)
    return worker.call(method, *args, timeout_s=left_s)


def _digest(message: object) -> str:
    """Compute the digest; "" for anything but a message, which matches nothing."""
    try:
        return digest(message)
    except TypeError:
        return ""


def rehearse(
    motion: Motion, scene: Scene, start: RobotState, profile: RobotProfile, *, budget_s: float = 60.0
) -> Verdict:
    """Rehearse one motion in twins started for it; keep a `RehearsalProcess` to rehearse many.

    Args:
        scene: as the motion finds it, in the base frame.
        start: where the arm is then.
        budget_s: seconds that it may take; more is a refusal.
    """
    with RehearsalProcess(profile, budget_s=budget_s) as rehearsal:
        return rehearsal.rehearse(motion, scene, start)
