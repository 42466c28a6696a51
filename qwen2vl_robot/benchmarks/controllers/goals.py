"""Goals that a controller of an arm or a gripper may refuse: malformed, late, with wrong tolerances, or sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import doubles, duration_from_s, header

WAY_RAD = 0.04  # of the first joint in a sound goal
NAN, INF = math.nan, math.inf

Goal = tuple[interface.Message, dict[str, Any]]  # a JointTrajectory, and further fields of the action's goal


class ArmGoals:
    """Makes the goals for an arm that stands at `q_rad`; each is made when it is sent, for some carry a stamp."""

    def __init__(self, make: interface.MessageMaker, profile: RobotProfile, q_rad: Array) -> None:
        self._make, self._q_rad = make, q_rad
        self.names = [j.name for j in profile.joints]
        self._zeros = [0.0] * len(self.names)

    def point(self, time_s: float, way_rad: float, **fields: Any) -> interface.Message:
        """Make a point with the first joint `way_rad` from where it is; `fields` win."""
        positions = doubles(self._q_rad + np.array([way_rad, *self._zeros[1:]]))
        kind = self._make("trajectory_msgs/msg/JointTrajectoryPoint")
        return kind(**{"positions": positions, "time_from_start": duration_from_s(self._make, time_s), **fields})

    def trajectory(
        self, points: Sequence[interface.Message], names: list[str] | None = None, *, stamp_ns: int = 0, frame: str = ""
    ) -> interface.Message:
        """Make a trajectory of points."""
        kind = self._make("trajectory_msgs/msg/JointTrajectory")
        names = self.names if names is None else names
        return kind(header=header(self._make, stamp_ns, frame), joint_names=list(names), points=list(points))

    def sound(self, names: list[str] | None = None, **fields: Any) -> interface.Message:
        """Make a trajectory that nothing speaks against, unless names, stamp or frame do."""
        return self.trajectory([self.point(0.2, WAY_RAD / 2), self.point(0.4, WAY_RAD)], names, **fields)

    def to(self, q_rad: Array, seconds: float, order: list[int] | None = None) -> interface.Message:
        """Make a trajectory of one point, its joints in any order."""
        order = list(range(len(self.names))) if order is None else order
        point = self.point(seconds, 0.0, positions=[float(q_rad[k]) for k in order])
        return self.trajectory([point], [self.names[k] for k in order])

    def cases(self) -> dict[str, Callable[[int], Goal]]:
        """By name: time now in ns → goal."""
        plain = {**self._names_and_sizes(), **self._numbers(), **self._times()}
        cases: dict[str, Callable[[int], Goal]] = {name: _fixed(t, {}) for name, t in plain.items()}
        cases |= self._stamps()
        return cases | {name: _fixed(self.sound(), fields) for name, fields in self._tolerances().items()}

    def _names_and_sizes(self) -> dict[str, interface.Message]:
        p, tr, names, n = self.point, self.trajectory, self.names, len(self.names)
        at = doubles(self._q_rad + np.array([WAY_RAD, *self._zeros[1:]]))
        backwards = [p(0.4, 0.0, positions=at[::-1])]
        return {
            "as it should be": self.sound(),
            "joints in another order": tr(backwards, names[::-1]),
            "nothing at all": self._make("trajectory_msgs/msg/JointTrajectory")(),
            "no points": tr([]),
            "no joint names": self.sound([]),
            "one joint missing": tr([p(0.4, 0.0, positions=at[:-1])], names[:-1]),
            "one joint too many": tr([p(0.4, 0.0, positions=[*at, 0.0])], [*names, "elbow"]),
            "an unknown joint": self.sound([*names[:-1], "elbow"]),
            "a joint named twice, one missing": self.sound([*names[:-1], names[0]]),
            "a joint named twice, none missing": tr([p(0.4, 0.0, positions=[*at, at[0]])], [*names, names[0]]),
            "too few positions": tr([p(0.4, 0.0, positions=at[:-1])]),
            "too many positions": tr([p(0.4, 0.0, positions=[*at, 0.0])]),
            "too few velocities": tr([p(0.4, WAY_RAD, velocities=self._zeros[:-1])]),
            "too few accelerations": tr([p(0.4, WAY_RAD, velocities=self._zeros, accelerations=[0.0] * (n - 1))]),
            "velocities only": tr([p(0.4, 0.0, positions=[], velocities=self._zeros)]),
            "efforts": tr([p(0.4, WAY_RAD, effort=self._zeros)]),
            "efforts in the first point only": tr([p(0.2, 0.0, effort=[1.0]), p(0.4, WAY_RAD)]),
            "a frame in the header": self.sound(frame="world"),
        }

    def _numbers(self) -> dict[str, interface.Message]:
        p, tr, zeros, half = self.point, self.trajectory, self._zeros, WAY_RAD / 2
        at = doubles(self._q_rad + np.array([WAY_RAD, *zeros[1:]]))
        end = p(0.4, WAY_RAD, velocities=zeros)
        found = {
            "final velocity 0.1": tr([p(0.4, WAY_RAD, velocities=[0.1, *zeros[1:]])]),
            "final velocity 2e-7": tr([p(0.4, WAY_RAD, velocities=[2e-7, *zeros[1:]])]),
            "final velocity 1e-8": tr([p(0.4, WAY_RAD, velocities=[1e-8, *zeros[1:]])]),
            "velocities in the middle": tr([p(0.2, half, velocities=[0.15, *zeros[1:]]), end]),
            "velocities in one point of two": tr([p(0.2, half, velocities=zeros), p(0.4, WAY_RAD)]),
            "position beyond the limits": tr([p(0.4, 0.0, positions=[3.5, *at[1:]])]),
        }
        for what, x in (("NaN", NAN), ("infinite", INF)):
            off, speed = [x, *at[1:]], [x, *zeros[1:]]
            found |= {
                f"final velocity {what}": tr([p(0.4, WAY_RAD, velocities=speed)]),
                f"velocity in the middle {what}": tr([p(0.2, half, velocities=speed), end]),
                f"acceleration {what}": tr([p(0.4, WAY_RAD, velocities=zeros, accelerations=speed)]),
                f"position in the middle {what}": tr([p(0.2, 0.0, positions=off), p(0.4, WAY_RAD)]),
                f"last position {what}": tr([p(0.2, half), p(0.4, 0.0, positions=off)]),
            }
        return found

    def _times(self) -> dict[str, interface.Message]:
        p, tr = self.point, self.trajectory
        return {
            "times that fall": tr([p(0.4, WAY_RAD / 2), p(0.2, WAY_RAD)]),
            "equal times": tr([p(0.4, WAY_RAD / 2), p(0.4, WAY_RAD)]),
            "one point at time 0": tr([p(0.0, WAY_RAD)]),
            "first point at 0 where the arm is": tr([p(0.0, 0.0), p(0.4, WAY_RAD)]),
            "first point at 0 elsewhere": tr([p(0.0, WAY_RAD / 4), p(0.4, WAY_RAD)]),
            "first time negative": tr([p(-0.2, 0.0), p(0.4, WAY_RAD)]),
            "all times negative": tr([p(-0.2, WAY_RAD)]),
        }

    def _stamps(self) -> dict[str, Callable[[int], Goal]]:
        def at(seconds: float) -> Callable[[int], Goal]:
            return lambda now_ns: (self.sound(stamp_ns=now_ns + round(seconds * 1e9)), {})

        return {
            "stamp in the past, all of it": at(-5.0),
            "stamp in the past, the second half ahead": at(-0.2),
            "stamp 0.4 s ahead": at(0.4),
            "stamp an hour ahead": at(3600.0),
        }

    def _tolerances(self) -> dict[str, dict[str, Any]]:
        kind, first = self._make("control_msgs/msg/JointTolerance"), self.names[0]
        of = {
            "of an unknown joint": ("elbow", 0.1),
            "-1": (first, -1.0),
            "-2": (first, -2.0),
            "NaN": (first, NAN),
            "of one joint": (first, 0.2),
        }
        found: dict[str, dict[str, Any]] = {}
        for which in ("path", "goal"):
            for what, (name, position) in of.items():
                found[f"{which} tolerance {what}"] = {f"{which}_tolerance": [kind(name=name, position=position)]}
        late = {"goal_time_tolerance": duration_from_s(self._make, -2.0)}
        return {**found, "goal time tolerance negative": late}


def gripper_cases(make: interface.MessageMaker, joint: str, *, is_parallel: bool) -> dict[str, interface.Message]:
    """Goals of either gripper action by name, positions of one finger joint."""
    numbers = {
        "half open": 0.02,
        "far too wide": 0.5,
        "negative": -0.1,
        "NaN": NAN,
        "infinite": INF,
    }
    if not is_parallel:
        command, goal = make("control_msgs/msg/GripperCommand"), make(f"{interface.GRIPPER_COMMAND.type}_Goal")
        return {name: goal(command=command(position=x, max_effort=20.0)) for name, x in numbers.items()}
    state, goal = make("sensor_msgs/msg/JointState"), make(f"{interface.PARALLEL_GRIPPER_COMMAND.type}_Goal")
    given = {name: ([joint], [x], [20.0]) for name, x in numbers.items()}
    given |= {
        "no position": ([joint], [], []),
        "two positions": ([joint, joint], [0.02, 0.02], []),
        "another joint": (["elbow"], [0.02], []),
        "no name": ([], [0.02], []),
    }
    return {name: goal(command=state(name=n, position=p, effort=e)) for name, (n, p, e) in given.items()}


def _fixed(trajectory: interface.Message, fields: dict[str, Any]) -> Callable[[int], Goal]:
    return lambda now_ns: (trajectory, fields)
