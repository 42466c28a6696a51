"""Grounded actions on a measured scene → the robot's motions for them, each with its verdict; nothing moves."""

from __future__ import annotations

from dataclasses import replace

from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import GroundedAction, Motion, Rehearsed
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.perception.links import link_boxes
from qwen2vl_robot.rules import load_rules
from qwen2vl_robot.validation.outlook import Outlook
from qwen2vl_robot.validation.pool import RehearsalProcess
from qwen2vl_robot.validation.unseen import Known
from qwen2vl_robot.validation.ways import first_accepted


def try_actions(
    outlook: Outlook, actions: tuple[GroundedAction, ...], maker: MotionMaker, twin: RehearsalProcess, arm: Kinematics
) -> list[Rehearsed]:
    """Make and rehearse one motion for each action, up to the first one that is refused.

    Raises:
        MotionError: no motion can be made.
    """
    steps: list[Rehearsed] = []
    for action in actions:
        known = Known(load_rules().free_m, link_boxes(outlook.start, arm))
        world = outlook.with_unseen((action.target, action.reference), arm.profile, known)

        def rehearse(motion: Motion, refused: int, world: Outlook = world) -> Rehearsed:
            verdict = twin.rehearse(motion, world.scene, world.start, refused=refused)
            return Rehearsed(motion, verdict, world.scene, world.start, 0, world.frame)

        steps.append(first_accepted(maker.ways(action, world.scene, world.start), rehearse))
        after = outlook.after(steps[-1].verdict)
        if not steps[-1].verdict.accepted or after is None:
            break
        outlook = replace(after, scene=replace(after.scene, unseen_m=None))
    return steps
