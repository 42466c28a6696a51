"""The planner port → a model in its own process, so that a stop never waits for torch."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from types import TracebackType

import numpy as np

from qwen2vl_robot.errors import PlannerError, WorkerError
from qwen2vl_robot.messages import Instruction, Observation, Plan, PlannerRequest, StepRecord
from qwen2vl_robot.planner.contract import PlannerMode, failure_line
from qwen2vl_robot.planner.hub import prepare_hub
from qwen2vl_robot.planner.reply import RawReply
from qwen2vl_robot.planner.sources import SHIPPED_MODEL as SHIPPED_MODEL
from qwen2vl_robot.planner.sources import ModelSettings, read_settings
from qwen2vl_robot.planner.windows import work_place
from qwen2vl_robot.process import Worker
from qwen2vl_robot.reading import whose_sides
from qwen2vl_robot.reasons import PlannerReason
from qwen2vl_robot.relations import load_relations
from qwen2vl_robot.sides import SeenFrom

_log = logging.getLogger(__name__)


class PlannerProcess:
    """The `ports.Planner` of a model, local or behind a server.

    A crash or a hang raises a `PlannerError`; the next plan restarts the process.

    Args:
        model: a model name as in sources.py, or its settings.
        timeout_s: time limit of one plan; by default that of the model's settings.
        seen_from: whose left and right a large model is told to mean; by default that of sim/tasks/relations.yaml.

    Raises:
        BadInputError: the model's settings cannot be used.
    """

    def __init__(
        self,
        model: str | ModelSettings = SHIPPED_MODEL,
        *,
        timeout_s: float | None = None,
        seen_from: SeenFrom | None = None,
    ) -> None:
        settings = read_settings(model) if isinstance(model, str) else model
        self._seen_from = load_relations(seen_from).seen_from
        self._settings = settings
        self._timeout_s = timeout_s or settings.timeout_s
        factory = f"{__name__}:load_local" if settings.server is None else "qwen2vl_robot.planner.server:ServerPlanner"
        self._worker = Worker(factory, settings)

    def start(self) -> None:
        """Load the model now.

        Raises:
            BadInputError: the model cannot be loaded.
            WorkerError: the process did not start.
        """
        self._worker.start()

    @property
    def pid(self) -> int | None:
        """Process id, None while the process does not run."""
        return self._worker.pid

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Plan the next actions (see `ports.Planner`).

        Raises:
            PlannerError: the unit of the model's boxes is not known, or there is no usable plan.
        """
        frame = observation.frame
        unknown = self._settings.why_uncalibrated((frame.rgb.shape[1], frame.rgb.shape[0]))
        if unknown:
            raise PlannerError(unknown, reason=PlannerReason.UNCALIBRATED)
        request = PlannerRequest(
            rgb=frame.rgb,
            instruction=instruction,
            failures=tuple(failure_line(step) for step in history if step.outcome.reasons),
            others=tuple(other.rgb for other in frame.others),
            clip=frame.clip,
            seen_from=whose_sides(instruction.text, self._seen_from),
        )
        how = {} if self._settings.server is not None else {"work_place": work_place(frame)}
        return self._planned(request, **how)

    def plan_picture(
        self, request: PlannerRequest, *, shows_all: bool = False, mode: PlannerMode | None = None
    ) -> Plan:
        """Plan for pictures alone, without depth or calibration.

        Args:
            shows_all: (local models only) also show further pictures and the clip to a checkpoint trained on one
                picture.
            mode: by default that of the planner.
        """
        how: dict[str, object] = {"shows_all": True} if shows_all else {}
        return self._planned(request, **how, **({"mode": mode} if mode else {}))

    def _planned(self, request: PlannerRequest, **how: object) -> Plan:
        plan = self._call("plan", request, **how)
        if not isinstance(plan, Plan):
            raise PlannerError(f"the planner returned a {type(plan).__name__}, not a plan", reason=PlannerReason.WORKER)
        for note in plan.notes:
            _log.info("the reply: %s", note)
        return plan

    def raw_reply(self, request: PlannerRequest, **how: object) -> RawReply:
        """Return the model's answer unparsed; `how` holds keyword arguments of `LocalPlanner.reply`."""
        return self._raw("reply", request, **how)

    def _raw(self, method: str, request: PlannerRequest, **how: object) -> RawReply:
        reply = self._call(method, request, **how)
        if not isinstance(reply, RawReply):
            raise PlannerError(
                f"the planner returned a {type(reply).__name__}, not a reply", reason=PlannerReason.WORKER
            )
        return reply

    def raw_locations(self, request: PlannerRequest, nouns: tuple[str, ...], **how: object) -> RawReply:
        """Return the model's answer to where some nouns are, unparsed; `how` as for `raw_reply`."""
        return self._raw("locate", request, nouns=nouns, **how)

    def limits(self) -> tuple[int, float]:
        """Measure (bytes of the weights of text layers and output head, best memory bandwidth in bytes per second)."""
        weights, bandwidth = self._worker.call("limits", timeout_s=self._timeout_s)
        return int(weights), float(bandwidth)

    def _call(self, method: str, request: PlannerRequest, **how: object) -> object:
        request = replace(request, rgb=np.ascontiguousarray(request.rgb))
        try:
            return self._worker.call(method, request, timeout_s=self._timeout_s, **how)
        except WorkerError as error:
            raise PlannerError(f"the planner's process {error.reason}: {error}", reason=PlannerReason.WORKER) from error

    def close(self) -> None:
        """Stop the process."""
        self._worker.close()

    def __enter__(self) -> PlannerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def load_local(settings: ModelSettings) -> object:
    """Create the `LocalPlanner` in the child process.

    By default torch's threads wait for each other by spinning; the setting is read once, when torch is loaded. If other
    processes need the same cores (the twin, the camera), a plan of half a second then takes minutes. So the threads
    sleep, but spin briefly first, because the next piece of work usually arrives within microseconds.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    prepare_hub(settings)
    from qwen2vl_robot.planner.local import LocalPlanner

    return LocalPlanner(settings)
