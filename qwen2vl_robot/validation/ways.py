"""Motions for one step, best first → the first accepted one, or the first with its refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.messages import Motion, Rehearsed
from qwen2vl_robot.reasons import ViolationKind

MOST_WAYS = 4  # motions rehearsed for one step before it is refused
# Refusals that another grasp or path may avoid, unlike a broken worker, a wrong start or a spent budget.
_OF_THE_WAY = frozenset(
    {
        ViolationKind.COLLISION,
        ViolationKind.SELF_COLLISION,
        ViolationKind.ZONE,
        ViolationKind.ZONE_SPEED,
        ViolationKind.UNSEEN,
        ViolationKind.CONTACT,
        ViolationKind.FORCE,
        ViolationKind.GRASP_SLIP,
        ViolationKind.MOVED_OTHER,
        ViolationKind.DROPPED,
        ViolationKind.UNSETTLED,
        ViolationKind.WRONG_EFFECT,
        ViolationKind.UNCERTAIN,
    }
)


def first_accepted(motions: Iterator[Motion], rehearse: Callable[[Motion, int], Rehearsed]) -> Rehearsed:
    """Rehearse motions until one is accepted; stop after `MOST_WAYS`, or when another motion cannot help.

    Args:
        rehearse: takes a motion and the number of earlier motions refused for their perturbed runs; that number makes
            the trials stricter, because with enough attempts one would pass by luck.

    Raises:
        MotionError: no motion can be made.
    """
    best: Rehearsed | None = None
    doubted = 0
    for _ in range(MOST_WAYS):
        try:
            motion = next(motions, None)
        except MotionError:
            if best is None:
                raise
            break  # the refusal of the best motion explains more
        if motion is None:
            break
        step = rehearse(motion, doubted)
        if step.verdict.accepted:
            return step
        best = best or step
        kinds = {violation.kind for violation in step.verdict.violations}
        doubted += ViolationKind.UNCERTAIN in kinds
        if kinds - _OF_THE_WAY:
            break
    if best is None:
        raise MotionError("there is nothing to try")
    return best
