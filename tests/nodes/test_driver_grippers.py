"""What drivers of grippers take and send: each opens and closes as its width says, and reads back as it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.config import Controllers, Gripper, RobotProfile, load_robot, parse
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph.conversions import state_from_joints
from qwen2vl_robot.messages import GripperSegment
from qwen2vl_robot.nodes.controllers import Controllers as ControllersOnGraph
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.plant.controllers import GripperServer
from tests.nodes.local_graph import LocalGraph

ARM = load_robot(str(Path(__file__).parents[1] / "arms" / "knuckle_arm.yaml"))


@dataclass(frozen=True)
class Driver:
    """A gripper as its driver has it.

    Attributes:
        rows: width and position of each joint; empty where each finger's position is its share of the width.
        controllers: what the robot file says of it.
        closed, opened: the position that is sent to close it, and to open it.
        topic: where the goal or the command goes.
        effort: what goes with the goal, None where nothing does.
    """

    joints: tuple[str, ...]
    rows: tuple[tuple[float, float], ...]
    width_m: float
    controllers: dict[str, Any]
    closed: float
    opened: float
    topic: str
    effort: float | None = 20.0


KNUCKLE = ((0.0, 0.8), (0.045, 0.4), (0.085, 0.0))
DRIVERS: dict[str, Driver] = {
    "ros2_robotiq_gripper, Robotiq 2F-85: 0 is open": Driver(
        ("robotiq_85_left_knuckle_joint",), KNUCKLE, 0.085,
        {"gripper": "robotiq_gripper_controller", "gripper_action": "gripper_cmd"},
        0.8, 0.0, "robotiq_gripper_controller/gripper_cmd",
    ),
    "ros2_kortex, Robotiq 2F-85, whose controller knows its force": Driver(
        ("robotiq_85_left_knuckle_joint",), KNUCKLE, 0.085,
        {"gripper": "robotiq_gripper_controller", "gripper_action": "gripper_cmd", "gripper_max_effort": 0.0},
        0.8, 0.0, "robotiq_gripper_controller/gripper_cmd", 0.0,
    ),
    "franka_gripper's gripper_action: one finger that the other mimics": Driver(
        ("fr3_finger_joint1",), ((0.0, 0.0), (0.08, 0.04)), 0.08,
        {"gripper": "franka_gripper", "gripper_action": "gripper_action"}, 0.0, 0.04, "franka_gripper/gripper_action",
    ),
    "two sliding fingers, both reported": Driver(
        ("panda_finger_joint1", "panda_finger_joint2"), (), 0.08, {"gripper": "hand"}, 0.0, 0.04, "hand/gripper_cmd"
    ),
    "xarm_gripper: 0.85 rad is closed": Driver(
        ("drive_joint",), ((0.0, 0.85), (0.089, 0.0)), 0.089,
        {"gripper": "xarm_gripper", "gripper_action": "gripper_action"}, 0.85, 0.0, "xarm_gripper/gripper_action",
    ),
    "a knuckle that turns on to open, from a negative end": Driver(
        ("finger_joint",), ((0.0, -0.45), (0.1, 1.0)), 0.1, {"gripper": "rg2"}, -0.45, 1.0, "rg2/gripper_cmd"
    ),
    "parallel_gripper_action_controller of Jazzy": Driver(
        ("left_knuckle_joint",), KNUCKLE, 0.085, {"gripper": "hand", "gripper_form": "parallel_action"},
        0.8, 0.0, "hand/gripper_cmd",
    ),
    "parallel_gripper_action_controller that sets its own effort": Driver(
        ("left_knuckle_joint",), KNUCKLE, 0.085,
        {"gripper": "hand", "gripper_form": "parallel_action", "gripper_max_effort": 0.0},
        0.8, 0.0, "hand/gripper_cmd", None,
    ),
    "forward_command_controller on a topic": Driver(
        ("left_knuckle_joint",), KNUCKLE, 0.085, {"gripper": "hand", "gripper_form": "topic"},
        0.8, 0.0, "hand/commands", None,
    ),
    "a controller in a namespace of its own, another topic": Driver(
        ("left_knuckle_joint",), KNUCKLE, 0.085,
        {"gripper": "/left/hand", "gripper_form": "topic", "gripper_topic": "joint_command"},
        0.8, 0.0, "/left/hand/joint_command", None,
    ),
}  # fmt: skip

# What is changed in the robot file; why it is refused.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no joint": ({"joints": []}, "at least 1 item"),
    "three joints": ({"joints": ["a", "b", "c"]}, "at most 2 items"),
    "one row": ({"position_by_width_m": [[0.0, 0.8]]}, "two rows or more"),
    "widths that fall": ({"position_by_width_m": [[0.085, 0.0], [0.0, 0.8]]}, "widths that rise"),
    "a position twice": ({"position_by_width_m": [[0.0, 0.8], [0.04, 0.8], [0.085, 0.0]]}, "only rise or only fall"),
    "a table of another opening": (
        {"position_by_width_m": [[0.0, 0.8], [0.14, 0.0]]},
        "ends at 0.14 m, max_width_m is",
    ),
    "a position that is no number": ({"position_by_width_m": [[0.0, math.nan], [0.085, 0.0]]}, "finite number"),
    "a negative width": ({"position_by_width_m": [[-0.01, 0.8], [0.085, 0.0]]}, "greater than or equal to 0"),
    "no force": ({"force_n": 0.0}, "greater than 0"),
}


def arm_with(driver: Driver) -> RobotProfile:
    gripper = ARM.gripper.model_copy(
        update={"joints": driver.joints, "position_by_width_m": driver.rows, "max_width_m": driver.width_m}
    )
    changes: dict[str, Any] = {"gripper": gripper, "controllers": Controllers(**driver.controllers)}
    return ARM.model_copy(update=changes)


def sent(driver: Driver, width_m: float) -> tuple[str, float, float | None]:
    """Where a command to open to a width goes, the position in it, and the effort."""
    graph, profile = LocalGraph(), arm_with(driver)
    GripperServer(graph, profile, driver.width_m, 0.0)  # an action without a server takes no goal
    controllers = ControllersOnGraph(graph, profile, Health(graph, hardware_id="arm", facts=dict))
    controllers.send(GripperSegment(0.0, 1.0, width_m), 0)
    if profile.controllers.gripper_form == "topic":
        ((name, messages),) = [(n, m) for n, m in graph.sent.items() if n.startswith(profile.controllers.gripper)]
        positions = set(messages[-1].data)
        assert len(messages[-1].data) == len(driver.joints)
        return name, positions.pop(), None
    ((name, goals),) = graph.goals.items()
    command = goals[-1].goal.command
    if profile.controllers.gripper_form == "action":
        return name, command.position, command.max_effort
    assert list(command.name) == list(driver.joints)
    return name, command.position[0], command.effort[0] if len(command.effort) else None


@pytest.mark.parametrize("case", DRIVERS)
def test_a_width_is_sent_as_the_driver_counts_it(case: str) -> None:
    driver = DRIVERS[case]
    for width_m, position in ((0.0, driver.closed), (driver.width_m, driver.opened)):
        assert sent(driver, width_m) == (driver.topic, pytest.approx(position), driver.effort)


@pytest.mark.parametrize("case", DRIVERS)
def test_joint_states_read_back_as_the_width(case: str) -> None:
    driver, profile = DRIVERS[case], arm_with(DRIVERS[case])
    arm = {j.name: (q, 0.0, math.nan) for j, q in zip(profile.joints, profile.home_q_rad, strict=True)}
    for width_m, position in ((0.0, driver.closed), (driver.width_m, driver.opened)):
        state = state_from_joints(arm | dict.fromkeys(driver.joints, (position, 0.0, math.nan)), profile, 1)
        assert state.gripper_width_m == pytest.approx(width_m, abs=1e-9)


@pytest.mark.parametrize("case", WRONG)
def test_a_gripper_that_is_no_map_is_refused_by_its_field(case: str) -> None:
    changes, why = WRONG[case]
    with pytest.raises(BadInputError, match=why):
        parse(ARM.gripper.model_dump() | changes, Gripper, "robot.yaml")
