"""What a robot file says of its gripper, and which position of the gripper's joints is which width."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from qwen2vl_robot.fields import NonNegative, Positive, Strict, Vector3

# Part of a ROS name; it begins with a letter, so that it cannot lead out of the controller's namespace.
RosName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_/]*$", max_length=128)]


class Gripper(Strict):
    """A parallel gripper of one or two joints; joints that mimic these in the URDF follow them.

    Attributes:
        joints: the joints that `joint_states` has and the controller drives.
        position_by_width_m: rows of a width and the position of each joint there (rad; m for a prismatic joint), from
            narrow to wide; between the rows it is linear. Without rows each joint's position is its share of the width.
        finger_links: the links that touch a grasped object; left, then right.
        max_width_m: largest opening between the pads.
        speed_mps: rate of change of the width.
        force_n: grasp force of each finger.
        pad_depth_m: how far the fingertips reach beyond the tool frame's origin along the approach (tool z).
        finger_thickness_m: thickness of a finger, along the closing direction.
        closing_axis: tool-frame axis along which the fingers close.
    """

    joints: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    position_by_width_m: Annotated[tuple[tuple[NonNegative, float], ...], Field(max_length=64)] = ()
    finger_links: tuple[str, str]
    max_width_m: Positive
    speed_mps: Positive
    force_n: Positive
    pad_depth_m: NonNegative
    finger_thickness_m: Positive
    closing_axis: Literal["x", "y"]

    @model_validator(mode="after")
    def _rows_rise(self) -> Gripper:
        rows = self.position_by_width_m
        if not rows:
            return self
        widths_m, positions = zip(*rows, strict=True)
        if len(rows) < 2 or any(b <= a for a, b in zip(widths_m, widths_m[1:], strict=False)):
            raise ValueError("position_by_width_m needs two rows or more, and widths that rise")
        steps = [b - a for a, b in zip(positions, positions[1:], strict=False)]
        if not (all(s > 0 for s in steps) or all(s < 0 for s in steps)):
            raise ValueError("position_by_width_m needs positions that only rise or only fall: each is one width")
        if abs(widths_m[-1] - self.max_width_m) > 1e-9:
            raise ValueError(f"position_by_width_m ends at {widths_m[-1]} m, max_width_m is {self.max_width_m}")
        return self

    def position(self, width_m: float) -> float:
        """Return the position of each joint at a width; the table's ends bound it."""
        rows = self.position_by_width_m
        if not rows:
            return width_m / len(self.joints)
        return _interpolate(rows, min(max(width_m, rows[0][0]), rows[-1][0]))

    def width_m(self, positions: Sequence[float]) -> float:
        """Return the width at the joints' positions; beyond the table it goes on as its outermost rows do."""
        rows = self.position_by_width_m
        if not rows:
            return sum(positions)
        rising = sorted((position, width_m) for width_m, position in rows)
        return sum(_interpolate(rising, position) for position in positions) / len(positions)

    @property
    def travel_per_m(self) -> float:
        """How far each joint goes a metre of width, without its sign: rad/m, or m/m for a prismatic joint.

        It is the mean over the whole opening.
        """
        first_m = self.position_by_width_m[0][0] if self.position_by_width_m else 0.0
        return abs(self.position(self.max_width_m) - self.position(first_m)) / (self.max_width_m - first_m)


def _interpolate(rows: Sequence[tuple[float, float]], x: float) -> float:
    """Interpolate between rows (x, y) of rising x; outside them extrapolate from the nearest two."""
    index = min(max(bisect_right(rows, x, key=lambda row: row[0]), 1), len(rows) - 1)
    (x0, y0), (x1, y1) = rows[index - 1], rows[index]
    return y1 if x == x1 else y0 + (x - x0) * (y1 - y0) / (x1 - x0)


class GripperMount(Strict):
    """A gripper with its own URDF on an arm without one; its root link is fixed to `parent_link`."""

    urdf: str
    parent_link: str
    xyz_m: Vector3 = (0.0, 0.0, 0.0)
    rpy_rad: Vector3 = (0.0, 0.0, 0.0)


class ToolMount(Strict):
    """A tool frame that the URDF lacks: the link `tool_link`, fixed to `parent_link`."""

    parent_link: str
    xyz_m: Vector3
    rpy_rad: Vector3 = (0.0, 0.0, 0.0)


class Controllers(Strict):
    """The names of ros2_control's controllers on the graph; only an arm on the graph uses them.

    Attributes:
        arm: prefix of `follow_joint_trajectory` (action) or `joint_trajectory` (topic, which gives no feedback).
        gripper: prefix of the gripper's action or topic.
        gripper_action: the action's name after the prefix (GripperCommand, or ParallelGripperCommand).
        gripper_topic: the topic's name after the prefix.
        gripper_max_effort: goes with each goal instead of the gripper's `force_n`; 0 leaves it to the controller.
    """

    arm: str = "joint_trajectory_controller"
    arm_form: Literal["action", "topic"] = "action"
    gripper: str = "gripper_controller"
    gripper_form: Literal["action", "parallel_action", "topic"] = "action"
    gripper_action: RosName = "gripper_cmd"
    gripper_topic: RosName = "commands"
    gripper_max_effort: NonNegative | None = None
