"""What one task gathers on its way: plans, steps, times and its end → `TaskReport`."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from qwen2vl_robot.camera_guard import CameraSaid
from qwen2vl_robot.camera_verdict import CameraChecked, CameraVerdict
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.messages import (
    Action,
    Cause,
    Effect,
    GroundedAction,
    Instruction,
    InstructionSource,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Rehearsed,
    Scene,
    StepRecord,
    TaskReport,
    Verb,
    Verdict,
)
from qwen2vl_robot.order import Order, not_understood
from qwen2vl_robot.policy import Response, respond_to
from qwen2vl_robot.ports import Listener
from qwen2vl_robot.reasons import ObservationReason, PerceptionReason, TaskReason

_log = logging.getLogger(__name__)
_SAYS_MORE = (CameraVerdict.UNKNOWN, CameraVerdict.PASSES, CameraVerdict.REFUSES)


class Step:
    """One action of the plan at hand.

    Attributes:
        rehearsed: what the twin accepted for it, once it did.
        is_fresh: whether that was rehearsed from a measured world, not from a predicted one.
        leaves: what is left of the order once this step is achieved.
        ended_ns: the arm's clock, read when its motion had ended.
    """

    def __init__(self, action: Action, grounded: GroundedAction, *, leaves: Order) -> None:
        self.action, self.grounded, self.leaves = action, grounded, leaves
        self.is_fresh = False
        self.rehearsed: Rehearsed | None = None
        self.ended_ns = 0


def shown_after(ended_ns: int, observation: Observation) -> Observation:
    """The observation, if it can show what a motion brought about that ended then.

    Raises:
        ObservationError: its frame was taken before the motion had ended.
    """
    late_s = (ended_ns - observation.frame.stamp_ns) / 1e9
    if late_s > 0:
        text = f"the frame is {late_s:.3f} s older than the end of the motion"
        raise ObservationError(text, reason=ObservationReason.NO_FRAME)
    return observation


def steps_of(
    plan: Plan, grounded: Sequence[GroundedAction], order: Order, *, held: str, without: Collection[int]
) -> list[Step]:
    """The actions of a plan as steps, without some; the first one is rehearsed from the world as it was measured."""
    steps = [
        Step(plan.actions[index], action, leaves=order.after(plan, index + 1, held=held))
        for index, action in enumerate(grounded)
        if index not in without
    ]
    for step in steps[:1]:
        step.is_fresh = True
    return steps


class Task:
    """One instruction on its way to an outcome.

    Attributes:
        order: what is left to do of it, once it was read.
        already: sentences about what held before anything moved.
        achieved: the effects of the steps that were, in their order, each with the scene that was measured after it.
        unread: words that nobody knows and that a person has not agreed to.
        goes_on_with: the order whose plan at hand is only the next part of what follows from it.
        seen: the last observation.
        cameras: what the arm says of each camera: that it is wrong, else that it is right, else that nobody knows.
    """

    def __init__(self, instruction: Instruction, listeners: tuple[Listener, ...]) -> None:
        self.instruction, self._listeners = instruction, listeners
        self.order: Order | None = None
        self.already: list[str] = []
        self.achieved: tuple[tuple[Effect, Scene | None], ...] = ()
        self.unread: tuple[str, ...] = ()
        self.goes_on_with: Order | None = None
        self.seen: Observation | None = None
        self.cameras: tuple[CameraChecked, ...] = ()
        self.plans: list[Plan] = []
        self.steps: list[StepRecord] = []
        self.seconds: dict[str, float] = {}
        self.before_motion: dict[str, float] = {}
        self._failures = 0
        self._began_s = time.perf_counter()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of what is inside to a stage."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began_s

    def moves(self) -> None:
        """Note when the first motion is admitted, and what each stage has taken until then."""
        if not self.before_motion:
            self.before_motion = dict(self.seconds)
            self.seconds["first_motion"] = time.perf_counter() - self._began_s

    @property
    def is_check(self) -> bool:
        """Whether the task is to check the cameras."""
        return self.instruction.source is InstructionSource.CHECK

    @property
    def is_confirmed(self) -> bool:
        """Whether the arm confirms every camera."""
        return bool(self.cameras) and all(c.verdict is CameraVerdict.PASSES for c in self.cameras)

    def heed(self, said: CameraSaid) -> None:
        """Note what a frame says of its cameras.

        Raises:
            ObservationError: it says that nothing may be measured in it; of a camera that is about to be checked that
                it is unchecked is no obstacle.
        """
        known = self.cameras or said.cameras
        pairs = zip(known, said.cameras or known, strict=False)
        self.cameras = tuple(max((was, now), key=_says) for was, now in pairs)
        if said.against is not None and not (self.is_check and said.against is ObservationReason.CAMERA_UNCHECKED):
            raise ObservationError(said.text, reason=said.against)

    def record(self, action: Action, outcome: Outcome, rehearsed: Rehearsed | None = None) -> None:
        """Note how a step ended."""
        motion, verdict = (None, None) if rehearsed is None else (rehearsed.motion, rehearsed.verdict)
        step = StepRecord(action, motion, verdict, outcome, None if rehearsed is None else rehearsed.scene)
        name = action.verb.value if action.text else action.describe()  # the text of a question is its outcome's too
        _log.log(*_severity(outcome), name, describe(outcome))
        self.steps.append(step)
        for listener in self._listeners:
            listener.on_step(step)

    def found(self, already: Mapping[int, str], actions: Sequence[GroundedAction] = ()) -> dict[int, str]:
        """Note what holds before anything moves, by the index of an action; returns it with what the cameras show.

        An arm is shown, and needs no way back, where it confirms every camera as it is.
        """
        found = dict(already)
        if self.is_confirmed and any(action.verb is Verb.SHOW for action in actions):
            found = dict.fromkeys(range(len(actions)), "every camera sees enough of the arm as it is")
        self.already += [text for text in dict.fromkeys(found.values()) if text not in self.already]
        return found

    def achieve(self, step: Step, outcome: Outcome, measured: Scene | None) -> None:
        """Note that a step was achieved, with the scene that shows it."""
        self.record(step.action, outcome, step.rehearsed)
        if step.rehearsed is not None:
            self.achieved = (*self.achieved, (step.rehearsed.motion.effect, measured))
        self.order = step.leaves

    def despite(self, answer: Outcome) -> Outcome:
        """A planner's question or refusal after what failed: that comes first, for it is why there is a question."""
        failed = next((step.outcome for step in reversed(self.steps) if step.outcome.causes), None)
        return answer if failed is None else replace(failed, causes=(*failed.causes, *answer.causes))

    def first_about_words(self, outcome: Outcome) -> Outcome:
        """What a plan of unknown words failed by is first a question about these words, as long as nothing was done."""
        is_the_plans = respond_to(outcome) is Response.PLAN_AGAIN or isinstance(outcome.reason, PerceptionReason)
        if not self.unread or self.achieved or not is_the_plans:
            return outcome
        return Outcome(OutcomeKind.ASKED, (not_understood(self.unread), *outcome.causes))

    def goes_on(self, outcome: Outcome, plans_again: bool, max_replans: int) -> bool:
        """Whether another plan is to be made: for the next part of a long order, or after what failed.

        A plan that follows from what is measured would come out the same.
        """
        rest, self.goes_on_with = self.goes_on_with, None
        if rest is not None and outcome.kind is OutcomeKind.ACHIEVED:
            self.order = rest
            return True
        self._failures += 1
        is_measured = bool(self.plans) and self.plans[-1].is_measured
        return plans_again and not is_measured and self._failures <= max_replans

    def history(self) -> tuple[StepRecord, ...]:
        """What a planner may hear of: steps that worked, and failures that another plan could mend."""
        return tuple(
            step for step in self.steps if not step.outcome.causes or respond_to(step.outcome) is Response.PLAN_AGAIN
        )

    def report(self, outcome: Outcome) -> TaskReport:
        """The whole task with its end; its total time ends now."""
        self.seconds["total"] = time.perf_counter() - self._began_s
        _log.log(*_severity(outcome), f"task {self.instruction.text!r}", describe(outcome))
        plans, steps, seconds = tuple(self.plans), tuple(self.steps), dict(self.seconds)
        return TaskReport(self.instruction, outcome, plans, steps, seconds, self.cameras, dict(self.before_motion))


def _says(camera: CameraChecked) -> tuple[int, int]:
    """How much is known of a camera."""
    return _SAYS_MORE.index(camera.verdict), camera.shown_px


def refused(verdict: Verdict) -> Outcome:
    """The outcome of a step that the twin does not accept, or of which it does not say how it ends."""
    found = [Cause(v.kind, v.describe(), ((v.unit or "amount", v.amount),)) for v in verdict.violations]
    if verdict.explanation and found:
        found.insert(0, replace(found[0], text=verdict.explanation))
    nothing = Cause(TaskReason.NO_PREDICTION, "the twin gave no state after the step")
    return Outcome(OutcomeKind.REFUSED, tuple(found) or (nothing,))


def describe(outcome: Outcome) -> str:
    """How something ended and why, in one line that says nothing twice."""
    kind = outcome.kind.value
    why = "; ".join(c.text if c.reason.value == kind else _typed(c) for c in outcome.causes)
    return f"{outcome.kind.value}: {why}" if why else outcome.kind.value


def _typed(cause: Cause) -> str:
    """A cause's sentence with its type in front, unless the sentence begins with it."""
    begins = cause.text.removeprefix("gate: ").startswith(f"{cause.reason}: ")
    return cause.text if begins else f"{cause.reason}: {cause.text}"


def _severity(outcome: Outcome) -> tuple[int, str]:
    """Log level and format: what worked or asks a person informs, all else warns."""
    is_fine = outcome.kind in (OutcomeKind.ACHIEVED, OutcomeKind.ASKED, OutcomeKind.ANSWERED)
    return logging.INFO if is_fine else logging.WARNING, "%s: %s"
