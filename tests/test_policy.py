"""A planner hears only of what another plan could mend; all else is tried again, asked about, or the end."""

from __future__ import annotations

import pytest

from qwen2vl_robot.messages import Action, Cause, Instruction, Outcome, OutcomeKind, Verb
from qwen2vl_robot.policy import Response, respond, respond_to
from qwen2vl_robot.reasons import (
    FAMILIES,
    AbortReason,
    EvidenceReason,
    MotionReason,
    ObservationReason,
    PerceptionReason,
    Reason,
    RefusalReason,
    TaskReason,
    ViolationKind,
)
from qwen2vl_robot.task import Task

MENDED_BY_A_PLAN = {
    *(set(MotionReason) - {MotionReason.UNEXPLAINED, MotionReason.NOT_IN_VIEW}),
    PerceptionReason.NOT_FOUND,
    RefusalReason.SCENE_CHANGED,
    RefusalReason.START_MOVED,
    TaskReason.NO_MOTION,
    TaskReason.WRONG_EFFECT,
    EvidenceReason.MOVING,
    ViolationKind.COLLISION,
    ViolationKind.SELF_COLLISION,
    ViolationKind.UNCERTAIN,
    ViolationKind.GRASP_SLIP,
    ViolationKind.UNSEEN,
}
NEVER_TOLD = {
    *AbortReason,
    *(set(EvidenceReason) - {EvidenceReason.MOVING}),
    *ObservationReason,
    *(set(RefusalReason) - {RefusalReason.SCENE_CHANGED, RefusalReason.START_MOVED}),
    ViolationKind.WORKER_CRASHED,
    ViolationKind.WORKER_TIMEOUT,
    ViolationKind.WORKER_RAISED,
}
QUESTIONS = {PerceptionReason.NO_DEPTH, PerceptionReason.LABEL_MISMATCH, PerceptionReason.AMBIGUOUS}


def failed(*reasons: Reason) -> Outcome:
    return Outcome(OutcomeKind.REFUSED, tuple(Cause(reason, "why") for reason in reasons))  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", sorted(MENDED_BY_A_PLAN, key=repr), ids=repr)
def test_what_a_plan_can_mend_reaches_the_planner(reason: Reason) -> None:
    assert respond(reason) is Response.PLAN_AGAIN
    task = Task(Instruction("go home"), ())
    task.record(Action(Verb.HOME), failed(reason))
    assert len(task.history()) == 1


@pytest.mark.parametrize("reason", sorted(NEVER_TOLD, key=repr), ids=repr)
def test_what_no_plan_can_mend_never_reaches_the_planner(reason: Reason) -> None:
    assert respond(reason) is not Response.PLAN_AGAIN
    task = Task(Instruction("go home"), ())
    task.record(Action(Verb.HOME), failed(reason))
    assert task.history() == ()


@pytest.mark.parametrize("reason", sorted(QUESTIONS, key=repr), ids=repr)
def test_what_only_a_person_can_say_ends_the_task(reason: Reason) -> None:
    assert respond(reason) is Response.END


@pytest.mark.parametrize("reason", list(AbortReason), ids=repr)
def test_an_aborted_motion_is_never_tried_again(reason: AbortReason) -> None:
    assert respond(reason) is Response.END


def test_the_same_word_in_two_families_is_two_reasons() -> None:
    assert respond(RefusalReason.STALE_STATE) is Response.TRY_AGAIN
    assert respond(AbortReason.STALE_STATE) is Response.END
    assert respond(ViolationKind.CONTACT) is Response.PLAN_AGAIN
    assert respond(AbortReason.CONTACT) is Response.END


def test_of_several_causes_the_worst_decides() -> None:
    assert respond_to(failed(MotionReason.NO_PATH, AbortReason.LINK_LOST)) is Response.END
    assert respond_to(failed(MotionReason.NO_PATH, RefusalReason.NO_FRAME)) is Response.TRY_AGAIN


def test_every_reason_has_a_response() -> None:
    assert all(isinstance(respond(reason), Response) for family in FAMILIES for reason in family)
