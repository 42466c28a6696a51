"""START HERE: an instruction becomes a measured outcome, one step after the other.

    observe → plan → perceive → move → rehearse → admit → run → observe again → judge

The whole plan is rehearsed before its first motion. Before each later step the scene is measured again and that step is
rehearsed again. The planner is asked again, a bounded number of times and told why, only when a step did not work.
Refusals are values and end in the report; breakage is an exception.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from qwen2vl_robot import executor
from qwen2vl_robot.config import RelationRules, RobotProfile
from qwen2vl_robot.errors import MotionError, ObservationError, PerceptionError, PlannerError
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.languages import detect_language, load_languages, names_whole
from qwen2vl_robot.messages import (
    Action,
    CameraFrame,
    GroundedAction,
    Instruction,
    Motion,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Refusal,
    RobotState,
    Scene,
    StepRecord,
    TaskReport,
    Verb,
    Verdict,
)
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.perception import Surroundings, perceive, remeasure
from qwen2vl_robot.perception.labels import Words
from qwen2vl_robot.ports import Arm, Camera, Clock, Listener, Planner, Rehearsal
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.rules import RuleBook, load_rules
from qwen2vl_robot.validation.unseen import unseen_space

MAX_REPLANS = 2
MOST_WAYS = 4  # to do one step that are rehearsed before it is refused
# Refusals that another grasp or way may not earn; a broken worker, a wrong start or a spent budget is no such thing.
_OF_THE_WAY = frozenset({
    "collision", "self_collision", "zone", "zone_speed", "unseen", "contact", "force", "grasp_slip", "moved_other",
    "wrong_effect", "uncertain",
})  # fmt: skip
_SETTLE_S = 0.3  # the arm and what it let go come to rest before they are measured


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the controller works with; each can be replaced by another implementation of its port."""

    camera: Camera
    arm: Arm
    clock: Clock
    planner: Planner
    rehearsal: Rehearsal
    gate: Gate
    profile: RobotProfile
    rules: RelationRules
    words: Words
    listeners: tuple[Listener, ...] = ()
    with_film: bool = False
    cell: RuleBook = field(default_factory=load_rules)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A frame and what was measured from it."""

    frame: CameraFrame
    scene: Scene


@dataclass(slots=True)
class Rehearsed:
    """A step that is ready for the gate: what was rehearsed, from where, when, and what the camera saw of it."""

    motion: Motion
    verdict: Verdict
    scene: Scene
    start: RobotState
    rehearsed_ns: int
    frame: CameraFrame


@dataclass(slots=True)
class _Task:
    """What one task gathers on its way."""

    steps: list[StepRecord] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    began_s: float = field(default_factory=time.perf_counter)
    to_confirm: tuple[str, ...] = ()


class Controller:
    """Carries out instructions, one at a time."""

    def __init__(self, parts: Parts, *, seed: int = 0) -> None:
        self._parts = parts
        self._surroundings = Surroundings(parts.profile, Kinematics(parts.profile), parts.rules, parts.words)
        self._maker = MotionMaker(parts.profile, parts.rules, seed=seed)
        self._belief: Scene | None = None
        self._task = _Task()

    def run(self, instruction: Instruction) -> TaskReport:
        """Do what was asked, or say why not.

        Raises:
            ObservationError: the camera or the arm gave nothing usable before anything had moved.
        """
        self._task = task = _Task()
        outcome = Outcome(OutcomeKind.REFUSED, ("nothing was tried",))
        for _ in range(1 + MAX_REPLANS):
            observation = self._observe()
            try:
                plan = self._plan(observation, instruction)
            except PlannerError as error:
                outcome = Outcome(OutcomeKind.REFUSED, (f"planner: {error}",))
                continue
            outcome = (
                self._answer(plan) or self._forbid(plan, instruction) or self._carry_out(plan, observation, instruction)
            )
            if outcome.kind in (OutcomeKind.ACHIEVED, OutcomeKind.ABORTED) or _speaks(plan) or _is_ambiguous(outcome):
                break
        task.seconds["total"] = time.perf_counter() - task.began_s
        return TaskReport(instruction, outcome, tuple(task.plans), tuple(task.steps), dict(task.seconds))

    # ------------------------------------------------------------------------------------ the flow, in order

    def _observe(self) -> Observation:
        with self._timed("observe"):
            frame = self._parts.camera.capture()
            observation = Observation(frame, self._live_state())
        for listener in self._parts.listeners:
            listener.on_frame(observation)
        return observation

    def _plan(self, observation: Observation, instruction: Instruction) -> Plan:
        with self._timed("plan"):
            plan = self._parts.planner.plan(observation, instruction, tuple(self._task.steps))
        self._task.plans.append(plan)
        for listener in self._parts.listeners:
            listener.on_plan(plan, observation)
        return plan

    def _answer(self, plan: Plan) -> Outcome | None:
        """The outcome of a plan that only talks."""
        if not _speaks(plan):
            return None
        first = plan.actions[0]
        kind = OutcomeKind.ASKED if first.verb is Verb.ASK else OutcomeKind.REFUSED
        outcome = Outcome(kind, (first.text or first.verb.value,))
        self._record(StepRecord(first, None, None, outcome))
        return outcome

    def _forbid(self, plan: Plan, instruction: Instruction) -> Outcome | None:
        """The outcome of a plan that the cell's rules forbid; what the person did not ask for waits for a person."""
        ruling = self._parts.cell.judge(instruction, plan)
        self._task.to_confirm = ruling.to_confirm
        if not ruling.forbidden:
            return None
        return self._fail(plan.actions[0], Outcome(OutcomeKind.REFUSED, ruling.forbidden))

    def _carry_out(self, plan: Plan, observation: Observation, instruction: Instruction) -> Outcome:
        """Perceive, rehearse the whole plan, then go step by step; the first step that fails ends it."""
        try:
            with self._timed("perceive"):
                said = frozenset(o.label for o in plan.objects if names_whole(instruction.text, o.label))
                scene, actions = perceive(plan, observation, self._surroundings, self._belief, said)
        except PerceptionError as error:
            # A person can settle what is meant; nothing has moved.
            speech = load_languages()[detect_language(instruction.text)]
            question = f"{error.reason}: {error}. {speech.which_one}"
            return self._fail(plan.actions[0], Outcome(OutcomeKind.ASKED, (question,)))
        self._belief = scene
        todo = [(a, g) for a, g in zip(plan.actions, actions, strict=True) if not _is_done(g, scene)]
        ready = self._rehearse_all(todo, scene, observation)
        if isinstance(ready, Outcome):
            return ready
        outcome = Outcome(OutcomeKind.ACHIEVED)
        for index, (action, grounded) in enumerate(todo):
            step = ready[0] if index == 0 else self._look_again(action, grounded, ready[index].scene)
            outcome = step if isinstance(step, Outcome) else self._do(action, step)
            if outcome.kind is not OutcomeKind.ACHIEVED:
                break
        return outcome

    def _rehearse_all(
        self, todo: Sequence[tuple[Action, GroundedAction]], scene: Scene, observation: Observation
    ) -> list[Rehearsed] | Outcome:
        """Rehearse every step in the world that the step before leaves behind."""
        ready: list[Rehearsed] = []
        start, seen = observation.robot, _Seen(observation.frame, scene)
        for action, grounded in todo:
            step = self._rehearse(action, grounded, scene, start, seen)
            if isinstance(step, Outcome):
                return step
            ready.append(step)
            after, state = step.verdict.scene_after, step.verdict.state_after
            if after is None or state is None:
                return self._fail(action, Outcome(OutcomeKind.REFUSED, ("the twin gave no state after the step",)))
            scene, start = after, state
        return ready

    def _rehearse(
        self, action: Action, grounded: GroundedAction, scene: Scene, start: RobotState, seen: _Seen
    ) -> Rehearsed | Outcome:
        targets = (grounded.target, grounded.reference)
        with self._timed("move"):
            unseen_m = unseen_space(seen.frame, seen.scene, scene, self._parts.profile, targets)
        scene = replace(self._parts.cell.restrict(scene), unseen_m=unseen_m)
        motions = self._maker.ways(grounded, scene, start)
        refused: tuple[Motion, Verdict] | None = None
        doubted = 0
        for _ in range(MOST_WAYS):
            try:
                with self._timed("move"):
                    motion = next(motions, None)
            except MotionError as error:
                if refused is not None:
                    break  # what the twin said of the best way tells more
                return self._fail(action, Outcome(OutcomeKind.REFUSED, (f"{error.reason}: {error}",)))
            if motion is None:
                break
            rehearsed_ns = self._parts.clock.now_ns()
            with self._timed("rehearse"):
                verdict = self._parts.rehearsal.rehearse(
                    motion, scene, start, film=self._parts.with_film, refused=doubted
                )
            if verdict.accepted:
                return Rehearsed(motion, verdict, scene, start, rehearsed_ns, seen.frame)
            refused = refused or (motion, verdict)
            doubted += any(violation.kind == ViolationKind.UNCERTAIN for violation in verdict.violations)
            if any(violation.kind not in _OF_THE_WAY for violation in verdict.violations):
                break
        assert refused is not None
        return self._fail(action, Outcome(OutcomeKind.REFUSED, _why_refused(refused[1])), *refused)

    def _look_again(self, action: Action, grounded: GroundedAction, expected: Scene) -> Rehearsed | Outcome:
        """Measure the scene near where the twin expects it, and make and rehearse the step anew."""
        try:
            observation = self._observe()
            with self._timed("perceive"):
                scene = remeasure(expected, observation, self._surroundings)
        except (ObservationError, PerceptionError) as error:
            return self._fail(action, Outcome(OutcomeKind.WRONG_EFFECT, (str(error),)))
        self._belief = scene
        return self._rehearse(action, grounded, scene, observation.robot, _Seen(observation.frame, scene))

    def _do(self, action: Action, step: Rehearsed) -> Outcome:
        """Look once more, admit, run, look, judge."""
        parts = self._parts
        with self._timed("admit"):
            try:
                fresh = parts.camera.capture()
            except ObservationError as error:
                blind = Outcome(OutcomeKind.REFUSED, (f"gate: no_frame: {error}",))
                return self._fail(action, blind, step.motion, step.verdict)
            admitted = parts.gate.admit(
                step.motion, step.verdict, step.scene, step.start, self._live_state(), rehearsed_ns=step.rehearsed_ns,
                seen=step.frame, fresh=fresh, to_confirm=self._task.to_confirm,
            )  # fmt: skip
        if isinstance(admitted, Refusal):
            outcome = Outcome(OutcomeKind.REFUSED, (f"gate: {admitted.reason}: {admitted.text}",))
            return self._fail(action, outcome, step.motion, step.verdict)
        self._task.seconds.setdefault("first_motion", time.perf_counter() - self._task.began_s)
        with self._timed("run"):
            report = executor.run(admitted, parts.arm, parts.clock, parts.profile, stop_requested=parts.gate.is_stopped)
        if not report.is_finished:
            parts.gate.stop(f"the last motion was aborted: {report.reason}")  # a person looks before anything goes on
            return self._fail(action, Outcome(OutcomeKind.ABORTED, report.reasons), step.motion, step.verdict)
        parts.clock.sleep(_SETTLE_S)
        outcome = self._measure_effect(step)
        self._record(StepRecord(action, step.motion, step.verdict, outcome, dict(self._task.seconds)))
        return outcome

    def _measure_effect(self, step: Rehearsed) -> Outcome:
        """Compare a fresh frame with what the motion was for; what cannot be measured is no success."""
        expected = step.verdict.scene_after
        assert expected is not None
        self._belief = replace(expected)
        try:
            observation = self._observe()
        except ObservationError as error:
            return Outcome(OutcomeKind.WRONG_EFFECT, (f"the effect could not be measured: {error}",))
        measured, problem = None, ""
        with self._timed("measure"):
            for belief in (expected, step.scene):
                robot = replace(observation.robot, held=belief.held)
                try:
                    measured = remeasure(belief, replace(observation, robot=robot), self._surroundings)
                    break
                except (ObservationError, PerceptionError) as error:
                    problem = problem or str(error)
        outcome = executor.judge(
            step.motion.effect, expected, step.scene, measured, observation.robot, self._parts.rules
        )
        self._belief = measured or replace(expected, held=None, T_tool_held=None)
        if measured is None and outcome.reasons:
            outcome = replace(outcome, reasons=(*outcome.reasons, problem))
        return outcome

    # ------------------------------------------------------------------------------------------- bookkeeping

    def _live_state(self) -> RobotState:
        """The arm's state, with what we believe it holds: hardware knows a width, not a name."""
        held = None if self._belief is None else self._belief.held
        return replace(self._parts.arm.state(), held=held)

    def _fail(
        self, action: Action, outcome: Outcome, motion: Motion | None = None, verdict: Verdict | None = None
    ) -> Outcome:
        self._record(StepRecord(action, motion, verdict, outcome, dict(self._task.seconds)))
        return outcome

    def _record(self, step: StepRecord) -> None:
        self._task.steps.append(step)
        for listener in self._parts.listeners:
            listener.on_step(step)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began_s = time.perf_counter()
        try:
            yield
        finally:
            spent_s = time.perf_counter() - began_s
            self._task.seconds[stage] = self._task.seconds.get(stage, 0.0) + spent_s


def _speaks(plan: Plan) -> bool:
    """Whether a plan only asks or refuses."""
    return bool(plan.actions) and plan.actions[0].verb in (Verb.ASK, Verb.REFUSE)


def _is_ambiguous(outcome: Outcome) -> bool:
    """Whether only the person can say which thing is meant; a model that is asked again would only guess."""
    return outcome.kind is OutcomeKind.ASKED and outcome.reason_type == "ambiguous"


def _why_refused(verdict: Verdict) -> tuple[str, ...]:
    reasons = tuple(v.describe() for v in verdict.violations) or ("the twin accepted nothing",)
    return (verdict.explanation, *reasons) if verdict.explanation else reasons


def _is_done(action: GroundedAction, scene: Scene) -> bool:
    """Whether a pick is done already: after a failed place the object is still in the gripper."""
    return action.verb is Verb.PICK and scene.held is not None and action.target == scene.held
