"""START HERE: an instruction becomes a measured outcome, one step after the other; `Controller.run` is the flow.

    answer, or observe → read → plan → rule → perceive → move → rehearse → admit → run → judge

Refusals are values that end in the report; what they lead to is `policy.respond_to`. Breakage is an exception.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from qwen2vl_robot.admission import ask, carry_out
from qwen2vl_robot.agreement import in_persons_words
from qwen2vl_robot.answering import Memory, answer
from qwen2vl_robot.belief import Belief
from qwen2vl_robot.errors import MotionError, ObservationError, PerceptionError, PlannerError
from qwen2vl_robot.foreign_task import ForeignMotions
from qwen2vl_robot.holding import conclude, done_already
from qwen2vl_robot.languages import detect_language, load_languages
from qwen2vl_robot.lookout import Lookout
from qwen2vl_robot.messages import (
    Action,
    ApprovedMotion,
    Cause,
    Instruction,
    Motion,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Refusal,
    Rehearsed,
    TaskReport,
)
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.order import Order, with_examples
from qwen2vl_robot.parts import Parts
from qwen2vl_robot.perception import Surroundings, clear_labels, perceive, remeasure
from qwen2vl_robot.policy import ABOUT_CAMERA, SETTLE_S, Response, respond, respond_to, stop_after
from qwen2vl_robot.programme import plan_measured
from qwen2vl_robot.reasons import TaskReason
from qwen2vl_robot.recalling import recall
from qwen2vl_robot.rules import spoken_labels
from qwen2vl_robot.ruling import Ruling
from qwen2vl_robot.task import Step, Task, refused, shown_after, steps_of
from qwen2vl_robot.validation.outlook import Outlook
from qwen2vl_robot.validation.ways import first_accepted

MAX_REPLANS = 2
MAX_ROUNDS = 12  # of one task, each a plan: of a long programme, or anew after a failure
MAX_TRIES = 2  # of one stage, where looking again may mend what failed

_log = logging.getLogger(__name__)


class _EndOfTry(Exception):
    """Leaves the flow with the outcome of this try; it never leaves `run`."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.kind.value)
        self.outcome = outcome


class Controller:
    """Carries out instructions, one at a time."""

    def __init__(self, parts: Parts, *, seed: int = 0) -> None:
        self._parts = parts
        self._surroundings = parts.surroundings
        self._maker = MotionMaker(self._surroundings.profile, self._surroundings.rules, seed=seed)
        self._belief, self._memory = Belief(), Memory()
        self.foreign = ForeignMotions(parts, self._belief)  # motions that others made; not while `run` runs

    def run(self, instruction: Instruction) -> TaskReport:
        """Do what was asked, or say why not.

        Raises:
            ObservationError: the camera or the arm gave nothing usable before anything was tried.
        """
        task = Task(instruction, self._parts.listeners)
        self._memory.began(instruction)
        _log.info("task %r", instruction.text)
        with self._parts.halt.task():
            for _ in range(MAX_ROUNDS):
                try:
                    _answer(task, self._parts, self._belief, self._memory, lambda: self._look(task))
                    observation = self._observe(task)
                    asked = self._read(task)
                    plan = self._plan(task, asked, observation)
                    ruling = self._rule(task, asked, plan)
                    steps, outlook = self._perceive(task, asked, plan, ruling, observation)
                    for step in steps:  # the whole plan in the twin, before its first motion
                        world = _world(self._parts, task, step, outlook)
                        motions = self._move(task, step, world)
                        outlook = self._rehearse(task, step, world, motions)
                    for step in steps:
                        self._look_again(task, step)
                        approved, lookout = self._admit(task, step, ruling)
                        self._run(task, step, approved, lookout)
                        self._judge(task, step)
                    outcome = conclude(task, ruling.left_out, self._surroundings.rules)
                except _EndOfTry as end:
                    outcome = task.first_about_words(end.outcome)
                if not task.goes_on(outcome, respond_to(outcome) is Response.PLAN_AGAIN, MAX_REPLANS):
                    break
        outcome = self._parts.guard.explained(outcome, task.plans[-1] if task.plans else None)
        return self._memory.ended(task.report(_explained(task, outcome, self._surroundings)))

    # ------------------------------------------------------------------------------------ the flow, in order

    def _observe(self, task: Task) -> Observation:
        halted = self._parts.halt.cause()
        if halted is not None:
            raise _EndOfTry(Outcome(OutcomeKind.REFUSED, (halted,)))
        try:
            return self._look(task)
        except ObservationError as error:
            if not task.plans and error.reason not in ABOUT_CAMERA:
                raise
            raise _EndOfTry(Outcome(OutcomeKind.REFUSED, (_cause(error),))) from error

    def _read(self, task: Task) -> Order:
        """Read the sentence once, without any model; one that asks for nothing that the robot does ends the task."""
        if task.order is None:
            task.order = _understood(task, self._parts, self._belief, self._memory)
        return task.order

    def _plan(self, task: Task, asked: Order, observation: Observation) -> Plan:
        """Plan from what is measured where that is enough, else ask the planner; one that only asks ends the try."""
        with task.timed("plan"):
            planned = self._measured(task, asked, observation)
            try:
                plan = planned or self._parts.planner.plan(observation, asked.instruction, task.history())
                plan = in_persons_words(plan, asked.todo, self._belief.held or "")
            except PlannerError as error:
                raise _EndOfTry(Outcome(OutcomeKind.REFUSED, (_cause(error, f"planner: {error}"),))) from error
        task.plans.append(plan)
        _log.debug("plan: %s", ", then ".join(action.describe() for action in plan.actions))
        for listener in self._parts.listeners:
            listener.on_plan(plan, observation)
        if (answer := self._parts.cell.answer(asked, plan)) is not None:
            raise self._end(task, plan.actions[0], task.despite(answer))
        return plan

    def _measured(self, task: Task, asked: Order, observation: Observation) -> Plan | None:
        """The plan that follows from what is measured, for a sentence of that kind."""
        around = self._surroundings.heard(task.instruction.text)
        found = plan_measured(asked, observation, around, self._belief.scene, self._memory.moved)
        if isinstance(found, Outcome):
            is_rest = found.kind is OutcomeKind.ACHIEVED and bool(task.achieved)  # of what earlier plans have done
            raise _EndOfTry(Outcome(OutcomeKind.ACHIEVED) if is_rest else found)
        if found is not None:
            task.goes_on_with = None if found.is_whole else asked
        return None if found is None else found.plan

    def _rule(self, task: Task, asked: Order, plan: Plan) -> Ruling:
        """Hold the plan to the cell's rules and to the person's words."""
        ruling = self._parts.cell.judge(asked, plan, held=self._belief.held)
        task.unread = asked.goal.unread if ruling.to_confirm else ()
        if (ending := ruling.ending) is not None:
            raise self._end(task, plan.actions[0], ending)
        return ruling

    def _perceive(
        self, task: Task, asked: Order, plan: Plan, ruling: Ruling, observation: Observation
    ) -> tuple[list[Step], Outlook]:
        """Measure the scene; what cannot be told apart is a question, and what holds already is left as it is."""
        held = self._belief.held or ""
        try:
            with task.timed("perceive"):
                spoken = spoken_labels(asked.goal, plan)
                around = self._surroundings.heard(task.instruction.text)
                scene, actions = perceive(plan, observation, around, self._belief.scene, spoken)
        except PerceptionError as error:
            speech = load_languages()[detect_language(task.instruction.text)]
            doubts = "".join(f" {doubt}." for doubt in ruling.to_confirm)
            cause = _cause(error, f"{error.reason}: {error}. {speech.which_one}{doubts}")
            raise self._end(task, plan.actions[0], Outcome(OutcomeKind.ASKED, (cause,))) from error
        except ObservationError as error:
            if not task.steps:
                raise
            raise _EndOfTry(Outcome(OutcomeKind.REFUSED, (_cause(error),))) from error
        self._belief.scene = scene
        already = done_already(actions, scene, self._surroundings.rules, only_held=bool(ruling.to_confirm))
        already = task.found(already, actions)
        return steps_of(plan, actions, asked, held=held, without=already), Outlook.now(observation, scene)

    def _move(self, task: Task, step: Step, world: Outlook) -> Iterator[Motion]:
        """Motions for a step, best first, each made when it is asked for."""
        motions = self._maker.ways(step.grounded, world.scene, world.start, world.frame)
        while True:
            with task.timed("move"):
                motion = next(motions, None)
            if motion is None:
                return
            yield motion

    def _rehearse(self, task: Task, step: Step, world: Outlook, motions: Iterator[Motion]) -> Outlook:
        """Find a way that the twin accepts; returns the world that it leaves behind."""
        rehearsed = self._first_accepted(task, step, world, motions)
        for _ in range(MAX_TRIES - 1):
            if rehearsed.verdict.accepted or respond_to(refused(rehearsed.verdict)) is not Response.TRY_AGAIN:
                break
            task.record(step.action, refused(rehearsed.verdict), rehearsed)
            rehearsed = self._first_accepted(task, step, world, self._move(task, step, world))
        after = world.after(rehearsed.verdict)
        if not rehearsed.verdict.accepted or after is None:
            raise self._end(task, step, refused(rehearsed.verdict), rehearsed)
        step.rehearsed = rehearsed
        return after

    def _look_again(self, task: Task, step: Step) -> None:
        """Measure the world near where the twin expects it, and make and rehearse anew what was not made from that."""
        if step.is_fresh or step.rehearsed is None:
            return
        try:
            observation = self._look(task)
            with task.timed("perceive"):
                scene = remeasure(step.rehearsed.scene, observation, self._surroundings)
        except ObservationError as error:
            raise self._end(task, step, Outcome(OutcomeKind.REFUSED, (_cause(error),))) from error
        except PerceptionError as error:
            raise self._end(task, step, Outcome(OutcomeKind.WRONG_EFFECT, (_cause(error),))) from error
        self._belief.scene, step.is_fresh = scene, True
        world = _world(self._parts, task, step, Outlook.now(observation, scene))
        self._rehearse(task, step, world, self._move(task, step, world))

    def _admit(self, task: Task, step: Step, ruling: Ruling) -> tuple[ApprovedMotion, Lookout]:
        """Ask the approver and the gate; what waiting made stale is looked at, made and rehearsed anew."""
        for chances_left in reversed(range(MAX_TRIES)):
            with task.timed("admit"):  # the lookout first: an approval does not last
                lookout = Lookout(self._parts.camera, self._surroundings, _rehearsed(step))
                answer = ask(self._parts, self._belief, _rehearsed(step), ruling.to_confirm)
            if not isinstance(answer, Refusal):
                _log.debug("admitted %s", step.action.describe())
                self._parts.cell.learn(ruling)
                task.moves()
                return answer, lookout
            cause = Cause(answer.reason, f"gate: {answer.reason}: {answer.text}", answer.numbers)
            refused = Outcome(OutcomeKind.REFUSED, (cause,))
            if not chances_left or respond(answer.reason) is not Response.TRY_AGAIN:
                break
            task.record(step.action, refused, step.rehearsed)
            step.is_fresh = False
            self._look_again(task, step)
        raise self._end(task, step, refused, step.rehearsed)

    def _run(self, task: Task, step: Step, approved: ApprovedMotion, lookout: Lookout) -> None:
        """Have the arm do it; an aborted motion latches a stop, so that a person looks before anything goes on."""
        parts = self._parts
        with task.timed("run"):
            report = carry_out(parts, approved, lookout)
        _log.info("%s", lookout.describe())
        step.ended_ns = parts.clock.now_ns()
        if not report.is_finished:
            stop_after(report.reason, parts.halt, parts.clock, lambda: self._look(task))
            raise self._end(task, step, Outcome(OutcomeKind.ABORTED, report.causes), step.rehearsed)
        parts.clock.sleep(SETTLE_S)

    def _judge(self, task: Task, step: Step) -> None:
        """Compare fresh measurements with what the motion was for; what cannot be measured is not verified."""
        rehearsed, clock = _rehearsed(step), self._parts.clock

        def look() -> Observation:
            return shown_after(step.ended_ns, self._look(task))

        try:
            outcome, measured = self._belief.judge(
                rehearsed, look, self._surroundings, clock, lambda: task.timed("measure")
            )
        except ObservationError as error:
            cause = _cause(error, f"the effect could not be measured: {error}")
            raise self._end(task, step, Outcome(OutcomeKind.NOT_VERIFIED, (cause,)), rehearsed) from error
        if outcome.kind is not OutcomeKind.ACHIEVED:
            raise self._end(task, step, outcome, rehearsed)
        task.achieve(step, outcome, measured)

    # ------------------------------------------------------------------------------------- parts of the steps

    def _look(self, task: Task) -> Observation:
        """A fresh frame in which the arm contradicts no camera, and its state (ObservationError: none)."""
        with task.timed("observe"):
            task.seen = observation = Observation(self._parts.camera.capture(), self._belief.state_of(self._parts.arm))
        for listener in self._parts.listeners:
            listener.on_frame(observation)
        with task.timed("check camera"):
            task.heed(self._parts.guard.look(observation))
        return observation

    def _first_accepted(self, task: Task, step: Step, world: Outlook, motions: Iterator[Motion]) -> Rehearsed:
        parts = self._parts

        def rehearse(motion: Motion, refused: int) -> Rehearsed:
            began_ns = parts.clock.now_ns()
            with task.timed("rehearse"):
                verdict = parts.rehearsal.rehearse(motion, world.scene, world.start, refused=refused)
            _log.debug("verdict on %s: %s", step.action.describe(), verdict.explanation or "accepted")
            return Rehearsed(motion, verdict, world.scene, world.start, began_ns, world.frame)

        try:
            return first_accepted(motions, rehearse)
        except MotionError as error:
            cause = _cause(error, f"{error.reason}: {error}")
            raise self._end(task, step, Outcome(OutcomeKind.REFUSED, (cause,))) from error

    def _end(self, task: Task, step: Step | Action, outcome: Outcome, rehearsed: Rehearsed | None = None) -> _EndOfTry:
        """Record how a step ended, and what to raise for it."""
        task.record(step.action if isinstance(step, Step) else step, outcome, rehearsed)
        return _EndOfTry(outcome)


def _answer(task: Task, parts: Parts, belief: Belief, memory: Memory, look: Callable[[], Observation]) -> None:
    """Answer a question, for which nothing is planned; that ends the task."""
    told = None if task.plans or task.is_check else answer(task.instruction, parts, belief, memory, look)
    if told is not None:
        raise _EndOfTry(told)


def _understood(task: Task, parts: Parts, belief: Belief, memory: Memory) -> Order:
    """What a sentence orders, with what it means of the task before it in its place."""
    meant = recall(task.instruction, memory.before(is_failure=False), belief.held or "")
    order = meant if isinstance(meant, Outcome) else parts.cell.understand(meant)
    if isinstance(order, Outcome):
        raise _EndOfTry(order)
    memory.meant(order.instruction.text)
    return order


def _world(parts: Parts, task: Task, step: Step, outlook: Outlook) -> Outlook:
    """The world with what the cell restricts and what nobody has seen; fingers may go close around a step's things."""
    with task.timed("move"):
        return parts.enclosed(outlook, (step.grounded.target, step.grounded.reference))


def _rehearsed(step: Step) -> Rehearsed:
    if step.rehearsed is None:
        raise RuntimeError(f"{step.action.describe()} was never rehearsed")
    return step.rehearsed


def _explained(task: Task, outcome: Outcome, surroundings: Surroundings) -> Outcome:
    """Add sentences that would work in this scene to an answer that says that nothing was understood."""
    if task.seen is None or outcome.reason is not TaskReason.NOT_UNDERSTOOD:
        return outcome
    return with_examples(outcome, clear_labels(task.seen, surroundings), task.instruction.text)


def _cause(error: PlannerError | PerceptionError | MotionError | ObservationError, text: str | None = None) -> Cause:
    return Cause(error.reason, str(error) if text is None else text)
