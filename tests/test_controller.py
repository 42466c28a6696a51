"""The flow keeps its promises: its order, what a planner hears of, what is tried again, and when a task exists."""

from __future__ import annotations

import ast
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.approval import PromptingApprover
from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.errors import ObservationError, PlannerError
from qwen2vl_robot.messages import (
    ApprovalMode,
    Cause,
    Instruction,
    Observation,
    OutcomeKind,
    Plan,
    Refusal,
    Scene,
    StepRecord,
    TaskReport,
    Violation,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.reply import format_reply, parse_reply
from qwen2vl_robot.reasons import (
    AbortReason,
    ObservationReason,
    PlannerReason,
    RefusalReason,
    TaskReason,
    ViolationKind,
)
from tests.cells import PROFILE
from tests.scenarios.desk import Cell, Planner, Rehearsal, Setup

PACKAGE = Path(__file__).resolve().parents[1] / "qwen2vl_robot"
FLOW = ["observe", "read", "plan", "rule", "perceive", "move", "rehearse", "admit", "run", "judge"]


def calls_in(function: ast.FunctionDef) -> list[str]:
    """Names of the methods of `self` that a function calls, in the order of its text."""
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    own = [c for c in calls if isinstance(c.func.value, ast.Name) and c.func.value.id == "self"]  # type: ignore[attr-defined]
    return [c.func.attr.lstrip("_") for c in sorted(own, key=lambda c: (c.lineno, c.col_offset))]  # type: ignore[attr-defined]


def test_run_names_every_step_in_its_true_order_on_one_page() -> None:
    tree = ast.parse((PACKAGE / "controller.py").read_text(encoding="utf-8"))
    run = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "run")
    assert [name for name in calls_in(run) if name in FLOW] == FLOW
    assert run.end_lineno is not None
    assert run.end_lineno - run.lineno + 1 <= 40


def test_one_place_puts_a_controller_together() -> None:
    tests = Path(__file__).resolve().parent
    found = []
    for file in (*PACKAGE.rglob("*.py"), *tests.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ("Controller", "Parts"):
                found.append(f"{file.name}: {called.id}")
    assert sorted(found) == ["assembly.py: Controller", "assembly.py: Parts"]


@dataclass
class Hearing(Planner):
    """Says "home" each time, and keeps what it was told."""

    heard: list[tuple[StepRecord, ...]] = field(default_factory=list)

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        self.heard.append(history)
        return super().plan(observation, instruction, history)


def desk() -> Setup:
    cell = Cell()
    return Setup(cell, Hearing(cell), Rehearsal(cell))


def go_home(setup: Setup, text: str = "go home") -> TaskReport:
    return setup.controller().run(Instruction(text))


def first(answer: Any) -> Any:
    """Spoils the first answer only."""
    return lambda value, n: answer(value) if n == 1 else value


# ---------------------------------------------------------------------------------- tried again, without a planner


def once(refusal: Refusal) -> Any:
    left = [refusal]
    return lambda answer, n: left.pop() if left else answer


@pytest.mark.parametrize(
    "reason",
    [RefusalReason.STALE_STATE, RefusalReason.STALE_FRAME, RefusalReason.STALE_VERDICT, RefusalReason.NO_FRAME],
)
def test_what_is_stale_is_tried_again_and_no_planner_hears_of_it(reason: RefusalReason) -> None:
    setup = desk()
    setup.spoil = once(Refusal(reason, "too old"))
    report = go_home(setup)
    assert report.outcome.kind is OutcomeKind.ACHIEVED
    assert [step.outcome.reason for step in report.steps] == [reason, None]
    assert len(report.plans) == 1


def test_a_worker_that_breaks_once_is_asked_again_and_no_planner_hears_of_it() -> None:
    setup = desk()
    broken = Violation(ViolationKind.WORKER_CRASHED, None, ("signal 9",), 0.1, "s")
    setup.rehearsal = Rehearsal(setup.cell, first(lambda v: replace(v, accepted=False, violations=(broken,))))
    report = go_home(setup)
    assert report.outcome.kind is OutcomeKind.ACHIEVED
    assert [step.outcome.reason for step in report.steps] == [ViolationKind.WORKER_CRASHED, None]
    assert len(report.plans) == 1


@pytest.mark.parametrize("reason", [RefusalReason.ZONES_MISSING, RefusalReason.DIGEST_MISMATCH, RefusalReason.NEVER])
def test_what_neither_a_plan_nor_a_second_try_can_mend_ends_the_task(reason: RefusalReason) -> None:
    setup = desk()
    setup.spoil = lambda answer, n: Refusal(reason, "no")
    report = go_home(setup)
    assert (report.outcome.kind, report.outcome.reason) == (OutcomeKind.REFUSED, reason)
    assert (len(report.plans), len(report.steps)) == (1, 1)
    assert setup.cell.motion is None


def test_a_changed_scene_is_planned_anew_and_the_planner_is_told() -> None:
    setup = desk()
    setup.spoil = once(Refusal(RefusalReason.SCENE_CHANGED, "something moved"))
    report = go_home(setup)
    assert report.outcome.kind is OutcomeKind.ACHIEVED
    assert isinstance(setup.planner, Hearing)
    assert [[s.outcome.reason for s in heard] for heard in setup.planner.heard] == [[], [RefusalReason.SCENE_CHANGED]]


def test_an_abort_keeps_its_type_and_numbers_and_ends_the_task() -> None:
    setup = desk()
    setup.cell.spoils["state"] = lambda s, n: replace(s, stamp_ns=s.stamp_ns - 500_000_000)
    setup.cell.lag_s = 0.0
    report = go_home(setup)
    assert report.outcome.kind is OutcomeKind.ABORTED
    cause = report.outcome.causes[0]
    assert isinstance(cause.reason, AbortReason)
    assert dict(cause.numbers)
    assert report.steps[-1].outcome == report.outcome
    assert setup.halt.stopped_by() == f"the last motion was aborted: {cause.reason}"


# ------------------------------------------------------------------------------------------- typed ends


def test_an_end_that_no_step_explains_is_typed_too() -> None:
    def planning(reply: str) -> Setup:
        setup = desk()
        setup.planner.spoil = lambda plan, n: parse_reply(reply)
        return setup

    asks = go_home(planning(format_reply([], [{"do": "ask", "text": "Which one?"}])))
    assert (asks.outcome.kind, asks.outcome.reason) == (OutcomeKind.ASKED, TaskReason.ASKED)
    declines = go_home(planning(format_reply([], [{"do": "refuse", "text": "I only pick."}])))
    assert (declines.outcome.kind, declines.outcome.reason) == (OutcomeKind.REFUSED, TaskReason.DECLINED)
    knife = format_reply([("knife", [(1, 1, 90, 90)])], [{"do": "pick", "object": 0}])
    forbids = go_home(planning(knife), "pick up the knife")
    assert (forbids.outcome.kind, forbids.outcome.reason) == (OutcomeKind.REFUSED, TaskReason.FORBIDDEN)
    assert len(forbids.plans) == 1


def test_an_accepting_verdict_without_a_world_afterwards_is_refused() -> None:
    setup = desk()
    setup.rehearsal = Rehearsal(setup.cell, lambda v, n: replace(v, scene_after=None))
    report = go_home(setup)
    assert (report.outcome.kind, report.outcome.reason) == (OutcomeKind.REFUSED, TaskReason.NO_PREDICTION)
    assert setup.cell.motion is None


def test_a_planner_without_a_reply_is_asked_again_and_then_named() -> None:
    setup = desk()

    def silent(plan: Plan, n: int) -> Plan:
        raise PlannerError("no answer within 60 s", reason=PlannerReason.NO_REPLY)

    setup.planner.spoil = silent
    report = go_home(setup)
    assert report.outcome.causes == (Cause(PlannerReason.NO_REPLY, "planner: no answer within 60 s"),)
    assert setup.planner.asked == 3


def test_a_camera_that_is_gone_before_anything_was_tried_is_an_error() -> None:
    setup = desk()
    setup.cell.frames = 2  # so that the fault is due at the first frame

    def gone(frame: object, n: int) -> Any:
        raise ObservationError("no frame", reason=ObservationReason.NO_FRAME)

    setup.cell.spoils["frame"] = gone
    with pytest.raises(ObservationError):
        go_home(setup)
    assert not setup.halt.has_task


# ----------------------------------------------------------------------------------- approval and slow cameras


def test_the_live_state_is_read_after_the_camera_has_waited() -> None:
    """A camera of 2 Hz: each frame comes half a second after it was asked for."""
    setup = desk()
    setup.cell.spoils["frame"] = lambda frame, n: (setup.cell.sleep(0.5), replace(frame, stamp_ns=setup.cell.ns))[1]
    report = go_home(setup)
    assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome


# ------------------------------------------------------------------------------------------ when a task exists


def test_a_cancel_between_acceptance_and_start_ends_the_task_200_of_200() -> None:
    setup = desk()
    controller = setup.controller()
    for _ in range(200):
        setup.halt.begin_task()  # the instruction is accepted
        assert setup.halt.cancel("cancelled by ~/cancel")
        report = controller.run(Instruction("go home"))
        assert report.outcome.reason is RefusalReason.CANCELLED
    assert setup.cell.motion is None
    assert controller.run(Instruction("go home")).outcome.kind is OutcomeKind.ACHIEVED


def test_a_cancel_from_another_thread_while_a_motion_runs_stops_the_arm() -> None:
    setup = desk()

    def cancel(moving: bool, n: int) -> bool:
        thread = threading.Thread(target=lambda: setup.halt.cancel("changed my mind"))
        thread.start()
        thread.join()
        return moving

    setup.cell.spoils["moving"] = cancel
    report = go_home(setup)
    assert (report.outcome.kind, report.outcome.reason) == (OutcomeKind.ABORTED, AbortReason.CANCELLED)
    assert setup.cell.stopped_ns is not None


def test_approval_never_ends_the_task_with_its_first_step() -> None:
    setup = desk()
    setup.approval = ApprovalMode.NEVER
    report = go_home(setup)
    assert report.outcome.reason is RefusalReason.NEVER
    assert len(report.plans) == 1


# ----------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("do not go home", TaskReason.NEGATED),
        ("what would happen if you went home?", TaskReason.NO_ORDER),
        ("DO NOT GO HOME", TaskReason.NEGATED),
        ("geh nicht nach Hause", TaskReason.NEGATED),
    ],
)
def test_a_sentence_that_orders_nothing_reaches_no_planner_and_moves_nothing(text: str, reason: TaskReason) -> None:
    setup = desk()
    report = go_home(setup, text)
    assert report.outcome.reason is reason
    assert setup.planner.asked == 0
    assert setup.cell.motion is None


def test_a_plan_that_is_not_what_was_said_ends_the_task() -> None:
    setup = desk()
    report = go_home(setup, "wait 3 seconds")
    assert (report.outcome.kind, report.outcome.reason) == (OutcomeKind.REFUSED, TaskReason.CONTRADICTION)
    assert "go home" in report.outcome.reasons[0]
    assert setup.cell.motion is None


# ------------------------------------------------------------------------------------------- what breaks, what is old


def test_a_frame_from_before_the_end_of_the_motion_is_no_evidence() -> None:
    setup = desk()
    setup.cell.spoils["frame"] = lambda frame, n: frame if setup.cell.motion is None else replace(frame, stamp_ns=1)
    outcome = go_home(setup).outcome
    assert outcome.kind is OutcomeKind.NOT_VERIFIED
    assert outcome.causes[0].reason is ObservationReason.NO_FRAME


def test_a_frame_that_was_late_once_is_looked_for_again() -> None:
    setup, seen = desk(), []

    def late(frame: Any, n: int) -> Any:
        if setup.cell.motion is None:
            return frame
        seen.append(n)
        return replace(frame, stamp_ns=1) if len(seen) == 1 else frame

    setup.cell.spoils["frame"] = late
    assert go_home(setup).outcome.kind is OutcomeKind.ACHIEVED


@pytest.mark.parametrize("what", ["state", "moving", "now"])
def test_what_breaks_during_a_motion_latches_a_stop(what: str) -> None:
    setup = desk()

    def breaks(value: Any, n: int) -> Any:
        raise OSError("cable")

    setup.cell.spoils[what] = breaks
    with pytest.raises(OSError, match="cable"):
        go_home(setup)
    assert "cable" in str(setup.halt.stopped_by())
    setup.cell.spoils.clear()
    setup.cell.motion = None
    assert go_home(setup).outcome.kind is OutcomeKind.REFUSED
    assert setup.cell.motion is None


def test_half_of_a_sentence_is_not_achieved_even_if_a_person_lets_it_go() -> None:
    setup = desk()
    cell = setup.cell
    approver = PromptingApprover(setup.halt, lambda question: True)
    ports = Ports(cell, cell, cell, setup.planner, setup.rehearsal, approver)
    controller = assemble(Surroundings.of(PROFILE), ports, halt=setup.halt)
    outcome = controller.run(Instruction("go home and then pick up the red block")).outcome
    assert cell.motion is not None
    assert outcome.kind is OutcomeKind.ASKED
    assert outcome.causes[0].reason is TaskReason.LEFT_OUT
    assert "pick up the red block" in outcome.causes[0].text


def test_doubts_reach_whoever_approves() -> None:
    setup, questions = desk(), list[str]()

    def no(question: str) -> bool:
        questions.append(question)
        return False

    cell = setup.cell
    ports = Ports(cell, cell, cell, setup.planner, setup.rehearsal, PromptingApprover(setup.halt, no))
    outcome = assemble(Surroundings.of(PROFILE), ports, halt=setup.halt).run(Instruction("go home twice")).outcome
    assert cell.motion is None
    assert outcome.kind is OutcomeKind.REFUSED
    assert "twice" in questions[0]
    assert "twice" in outcome.causes[0].text


def test_a_stopped_controller_does_not_even_look() -> None:
    setup = desk()
    setup.halt.stop("smoke")
    assert go_home(setup).outcome.kind is OutcomeKind.REFUSED
    assert setup.cell.frames == 0


def test_a_grasp_that_nobody_saw_is_not_believed() -> None:
    setup = desk()
    controller = setup.controller()
    setup.cell.spoils["frame"] = lambda frame, n: frame if setup.cell.motion is None else replace(frame, stamp_ns=1)
    believed = replace(Scene((), ()), held="red block")
    setup.rehearsal.spoil = lambda verdict, n: replace(verdict, scene_after=believed)
    assert controller.run(Instruction("go home")).outcome.kind is OutcomeKind.NOT_VERIFIED
    assert controller._belief.scene is not None
    assert controller._belief.scene.held is None
