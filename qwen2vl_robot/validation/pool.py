"""Rehearsals → a worker process whose crash, hang or exception is a refusal.

The worker's module is named, not imported: whoever imports this never reaches pybullet.
"""

from __future__ import annotations

import time
from types import TracebackType

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import RobotError, WorkerError
from qwen2vl_robot.messages import Motion, RobotState, Scene, Verdict, Violation, digest
from qwen2vl_robot.process import Worker


class RehearsalProcess:
    """The `ports.Rehearsal` that everybody uses: a twin in a process of its own, started again after each death."""

    def __init__(self, profile: RobotProfile, *, budget_s: float, interpreter: str | None = None) -> None:
        """Describe the worker; it starts with `start` or with the first rehearsal.

        Args:
            budget_s: seconds that one rehearsal may take; more is a refusal.
            interpreter: the Python that has pybullet, else this one.
        """
        if not budget_s > 0.0:
            raise ValueError(f"a budget of {budget_s} s; it must be above 0")
        self._profile = profile
        self._budget_s = budget_s
        self._worker = Worker("qwen2vl_robot.validation.rehearsal:Twin", profile, interpreter=interpreter)

    @property
    def pid(self) -> int | None:
        """The worker's process id, None while it does not run."""
        return self._worker.pid

    def start(self) -> None:
        """Load the worker now, so that the first rehearsal need not wait for it.

        Raises:
            WorkerError: it does not come up.
        """
        self._worker.start()

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, film: bool = False) -> Verdict:
        """Try the motion in a fresh twin; whatever breaks is a refusing verdict, never an exception."""
        began = time.perf_counter()
        try:
            verdict = self._worker.call("rehearse", motion, scene, start, film, timeout_s=self._budget_s)
        except RobotError as error:
            reason = error.reason if isinstance(error, WorkerError) else "raised"
            return self._refuse(f"worker_{reason}", str(error), motion, scene, start, time.perf_counter() - began)
        if not isinstance(verdict, Verdict):
            told = f"answered a {type(verdict).__name__}"
            return self._refuse("worker_raised", told, motion, scene, start, time.perf_counter() - began)
        return verdict

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def __enter__(self) -> RehearsalProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _refuse(self, kind: str, told: str, motion: Motion, scene: Scene, start: RobotState, seconds: float) -> Verdict:
        return Verdict(
            accepted=False,
            violations=(Violation(kind, None, (told,), seconds, "s"),),
            motion_digest=_digest(motion),
            scene_digest=_digest(scene),
            start_digest=_digest(start),
            robot_digest=self._profile.digest,
            seconds=seconds,
        )


def _digest(message: object) -> str:
    """The digest, or "" of what is no message at all: it matches nothing."""
    try:
        return digest(message)
    except TypeError:
        return ""
