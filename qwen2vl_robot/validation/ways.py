"""Motions for one step, best first → the first that the twin accepts, or the first and why it was refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.messages import Motion, Rehearsed
from qwen2vl_robot.reasons import ViolationKind

MOST_WAYS = 4  # to do one step that are rehearsed before it is refused
# Refusals that another grasp or way may not earn; a broken worker, a wrong start or a spent budget is no such thing.
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
        ViolationKind.WRONG_EFFECT,
        ViolationKind.UNCERTAIN,
    }
)


def first_accepted(motions: Iterator[Motion], rehearse: Callable[[Motion, int], Rehearsed]) -> Rehearsed:
    """Rehearse motions until one is accepted, at most four, and none after a refusal that is not the way's fault.

    Args:
        rehearse: given a motion and how many before it were refused for their perturbed runs (each of them makes the
            next one's trials harder, or trying often enough would let anything pass).

    Raises:
        MotionError: not a single motion can be made.
    """
    best: Rehearsed | None = None
    doubted = 0
    for _ in range(MOST_WAYS):
        try:
            motion = next(motions, None)
        except MotionError:
            if best is None:
                raise
            break  # what the twin said of the best way says more
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
        raise MotionError("there was nothing to try")
    return best
