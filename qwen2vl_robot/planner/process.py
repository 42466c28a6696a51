"""The planner port → a checkpoint in a process of its own, so that what answers a stop never waits for torch."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.errors import PlannerError, WorkerError
from qwen2vl_robot.messages import Instruction, Observation, Plan, StepRecord
from qwen2vl_robot.planner.contract import check_instruction, failure_line
from qwen2vl_robot.process import Worker

SHIPPED_MODEL = str(Path(__file__).resolve().parents[1] / "checkpoints" / "tabletop")
_TIMEOUT_S = 60.0


class PlannerProcess:
    """The `ports.Planner` of a checkpoint; a crash or a hang is a `PlannerError`, and the next plan starts it anew."""

    def __init__(self, model: str = SHIPPED_MODEL, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._worker = Worker("qwen2vl_robot.planner.local:LocalPlanner", model)

    def start(self) -> None:
        """Load the checkpoint now.

        Raises:
            BadInputError: it cannot be loaded.
            WorkerError: the process did not come up.
        """
        self._worker.start()

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        return self._worker.pid

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Answer with a grounded action sequence (see `ports.Planner`)."""
        failures = tuple(failure_line(step) for step in history if step.outcome.reasons)
        return self.plan_picture(observation.frame.rgb, instruction.text, failures)

    def plan_picture(self, rgb: npt.NDArray[np.uint8], instruction: str, failures: tuple[str, ...] = ()) -> Plan:
        """Plan for a bare picture (h, w, 3) uint8."""
        text = check_instruction(instruction)
        try:
            plan = self._worker.call("plan", np.ascontiguousarray(rgb), text, failures, timeout_s=self._timeout_s)
        except WorkerError as error:
            raise PlannerError(f"the planner's process {error.reason}: {error}") from error
        if not isinstance(plan, Plan):
            raise PlannerError(f"the planner answered a {type(plan).__name__}")
        return plan

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def __enter__(self) -> PlannerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()
