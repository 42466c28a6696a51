"""Why a step or a plan failed → what the controller does next.

A planner hears only of what another plan could mend. A stale state, a broken worker or a stop says nothing about the
plan; a model that is told of it changes what was right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import IntEnum

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Observation, Outcome
from qwen2vl_robot.ports import Clock
from qwen2vl_robot.reasons import (
    AbortReason,
    EvidenceReason,
    MotionReason,
    ObservationReason,
    PerceptionReason,
    PlannerReason,
    Reason,
    RefusalReason,
    TaskReason,
    ViolationKind,
)

SETTLE_S = 0.3  # the arm and what it let go come to rest before they are measured


class Response(IntEnum):
    """What follows a failure; of several causes the one with the highest number decides."""

    PLAN_AGAIN = 0
    TRY_AGAIN = 1  # look, move and rehearse the same step anew
    END = 2


_BROKEN_WORKER = frozenset(
    {
        ViolationKind.WORKER_CRASHED,
        ViolationKind.WORKER_TIMEOUT,
        ViolationKind.WORKER_RAISED,
    }
)
_OUR_FAULT = frozenset({ViolationKind.NON_FINITE, ViolationKind.FORMAT, ViolationKind.START_STATE})
ABOUT_CAMERA = frozenset(
    {
        ObservationReason.CAMERA_OFF,
        ObservationReason.CAMERA_UNCHECKED,
        ObservationReason.CAMERA_UNITS,
        ObservationReason.CAMERA_INFO,
        ObservationReason.CAMERA_TILTED,
        ObservationReason.CAMERA_BLIND,
        ObservationReason.CAMERA_MISREGISTERED,
        ObservationReason.CAMERA_NOISY,
        ObservationReason.CAMERA_COLOURS,
        ObservationReason.CAMERA_STUCK,
    }
)  # only a person mends these
_ENDING = {ObservationReason.HALTED, *ABOUT_CAMERA}
_PLAN_AGAIN: frozenset[Reason] = frozenset(
    {
        *(set(MotionReason) - {MotionReason.UNEXPLAINED, MotionReason.NOT_IN_VIEW}),
        *(set(ViolationKind) - _BROKEN_WORKER - _OUR_FAULT),
        *(set(PlannerReason) - {PlannerReason.UNCALIBRATED}),
        PerceptionReason.NOT_FOUND,
        RefusalReason.SCENE_CHANGED,
        RefusalReason.START_MOVED,
        TaskReason.NO_MOTION,
        TaskReason.WRONG_EFFECT,
        EvidenceReason.MOVING,
    }
)
_TRY_AGAIN: frozenset[Reason] = frozenset(
    {
        *_BROKEN_WORKER,
        *(set(ObservationReason) - _ENDING),
        RefusalReason.STALE_VERDICT,
        RefusalReason.STALE_STATE,
        RefusalReason.STALE_FRAME,
        RefusalReason.NO_FRAME,
        RefusalReason.NO_SUPERVISOR,
    }
)


def respond(reason: Reason) -> Response:
    """What follows one reason; what is not listed ends the task.

    >>> respond(MotionReason.NO_PATH).name, respond(RefusalReason.NEVER).name
    ('PLAN_AGAIN', 'END')
    """
    if reason in _PLAN_AGAIN:
        return Response.PLAN_AGAIN
    return Response.TRY_AGAIN if reason in _TRY_AGAIN else Response.END


def respond_to(outcome: Outcome) -> Response:
    """What follows a step or a plan that ended like this."""
    return max((respond(cause.reason) for cause in outcome.causes), default=Response.END)


def twice(look: Callable[[], Observation]) -> Observation:
    """Look, and look again where a second look may mend what was wrong with the first.

    Raises:
        ObservationError: the second look failed too, or could not have helped.
    """
    try:
        return look()
    except ObservationError as error:
        if respond(error.reason) is not Response.TRY_AGAIN:
            raise
        return look()


def stop_after(aborted: Reason | None, halt: Halt, clock: Clock, look: Callable[[], Observation]) -> None:
    """Latch a stop after a motion that was aborted, so that a person looks before anything goes on; the arm stands.

    Where something came into its way, one look before the stop, which ends all looking, tells the guard of the camera
    whether that was the arm itself, seen by a camera that is off.
    """
    try:
        if aborted is AbortReason.INTRUSION:
            clock.sleep(SETTLE_S)
            with contextlib.suppress(ObservationError):
                look()
    finally:
        halt.stop(f"the last motion was aborted: {aborted}")
