"""A guarded descent, as `motion/` makes it, from one place of the arm to 5 cm below it."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Effect, Motion, RobotState, freeze
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.grasps import downward
from qwen2vl_robot.motion.path import Space, tool_line
from qwen2vl_robot.motion.timeline import MotionBuilder
from tests.cells import PROFILE

KINEMATICS = Kinematics(PROFILE)
HOME = np.array(PROFILE.home_q_rad)
_FREE_M = 0.012


def descent(top_m: float = 0.14, way_m: float = 0.05) -> Motion:
    """A motion that is nothing but a guarded descent over the middle of the table."""
    low = ik.solve(KINEMATICS, downward(np.array([0.5, 0.0, top_m - way_m]), 0.0, "y"), [HOME], posture_rad=HOME)
    space = Space(CollisionModel(KINEMATICS, (), 0.0), 0.08, 0.002)
    line = tool_line(space, low, np.array([0.0, 0.0, way_m]))[::-1]
    builder = MotionBuilder(PROFILE, RobotState(0, freeze(line[0]), freeze(np.zeros(7)), 0.08))
    builder.descend_guarded(line, KINEMATICS, top_m - _FREE_M)
    return builder.motion(Effect("none"))
