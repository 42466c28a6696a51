"""A gripper whose joint turns opens when it shall, in belief, on the graph, in the plant; other kinds are refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import Controllers, Gripper, load_robot, load_unconfirmed_robot
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.graph.conversions import state_from_joints
from qwen2vl_robot.joint_kinds import followers
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, GripperSegment
from qwen2vl_robot.nodes.controllers import Controllers as ControllersOnGraph
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.plant.controllers import GripperServer
from tests.nodes.local_graph import LocalGraph

ARMS = Path(__file__).parent / "arms"
KNUCKLES = load_robot(str(ARMS / "knuckle_arm.yaml"))  # 0.0 is open, 0.8 is closed
HOME = np.array(KNUCKLES.home_q_rad)
OPEN_M = KNUCKLES.gripper.max_width_m
PANDA_URDF = load_robot("franka_panda").urdf_path


@pytest.fixture
def hand() -> Any:
    world = BulletWorld()
    world.add_robot(KNUCKLES)
    world.set_gravity(0.0)
    yield world
    world.close()


def arm_file(folder: Path, *, urdf: str | None = None, **changes: Any) -> str:
    """Write the arm's robot file with other values, and its URDF with other text; return its path."""
    data = yaml.safe_load((ARMS / "knuckle_arm.yaml").read_text(encoding="utf-8"))
    data["gripper"] |= changes.pop("gripper", {})
    text = (ARMS / "knuckle_arm.urdf").read_text(encoding="utf-8")
    (folder / "knuckle_arm.urdf").write_text(urdf or text, encoding="utf-8")
    (folder / "robot.yaml").write_text(yaml.safe_dump(data | changes), encoding="utf-8")
    return str(folder / "robot.yaml")


def urdf_with(old: str, new: str) -> str:
    text, count = re.subn(old, new, (ARMS / "knuckle_arm.urdf").read_text(encoding="utf-8"), count=1)
    assert count == 1
    return text


# --------------------------------------------------------------------------------------------------- the map


@given(st.floats(0.0, OPEN_M))
def test_law_a_width_and_its_position_are_one(width_m: float) -> None:
    gripper = KNUCKLES.gripper
    assert gripper.width_m([gripper.position(width_m)]) == pytest.approx(width_m, abs=1e-9)


@given(st.floats(0.0, 0.8), st.floats(0.0, 0.8))
def test_law_a_driver_that_turns_on_narrows_the_opening(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert KNUCKLES.gripper.width_m([low]) >= KNUCKLES.gripper.width_m([high])


def test_commands_stay_within_the_table_and_measurements_go_beyond_it() -> None:
    gripper = KNUCKLES.gripper
    assert (gripper.position(-0.1), gripper.position(0.3)) == (0.8, 0.0)
    assert gripper.width_m([0.9]) < -0.01
    assert gripper.width_m([-0.1]) > OPEN_M + 0.005
    assert np.isnan(gripper.width_m([float("nan")]))


def test_a_gripper_of_two_sliding_fingers_needs_no_table() -> None:
    gripper = load_robot("franka_panda").gripper
    assert (gripper.position(0.08), gripper.width_m([0.03, 0.04])) == (0.04, pytest.approx(0.07))


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([[0.0, 0.8]], "two rows"),
        ([[0.0, 0.8], [0.0, 0.5], [0.085, 0.0]], "widths that rise"),
        ([[0.085, 0.0], [0.0, 0.8]], "widths that rise"),
        ([[0.0, 0.8], [0.04, 0.9], [0.085, 0.0]], "only rise or only fall"),
        ([[0.0, 0.8], [0.04, 0.8], [0.085, 0.0]], "only rise or only fall"),
        ([[0.0, 0.8], [0.05, 0.0]], "max_width_m"),
        ([[-0.01, 0.8], [0.085, 0.0]], "greater than or equal to 0"),
        ([[0.0, float("nan")], [0.085, 0.0]], "finite"),
    ],
)
def test_a_table_that_is_no_map_is_refused(rows: list[list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Gripper.model_validate(KNUCKLES.gripper.model_dump() | {"position_by_width_m": rows})


# --------------------------------------------------------------------------------------------- belief and twin


def test_the_fingers_of_the_urdf_stand_as_far_apart_as_the_width_says() -> None:
    kinematics = Kinematics(KNUCKLES)
    for width_m in np.linspace(0.0, OPEN_M, 12):
        assert kinematics.pad_gap_m(width_m) == pytest.approx(width_m, abs=0.0005)


def test_motion_and_twin_put_every_finger_at_the_same_place(hand: BulletWorld) -> None:
    kinematics = Kinematics(KNUCKLES)
    for width_m in (0.0, 0.03, OPEN_M):
        hand.robot.reset_arm(HOME, width_m)
        poses = kinematics.link_poses(HOME, width_m)
        for link in ("left_knuckle", "right_knuckle", "left_finger", "right_finger", "tool"):
            assert np.allclose(hand.robot.link_pose(link), poses[link], atol=1e-5)
        assert hand.robot.arm_state()[2] == pytest.approx(width_m, abs=1e-6)


def test_the_twins_fingers_close_on_a_block_and_let_it_go(hand: BulletWorld) -> None:
    hand.robot.reset_arm(HOME, OPEN_M)
    T = hand.robot.tool_pose()
    hand.add_body("block", Box((0.04, 0.04, 0.04)), T @ make_pose([0.0, 0.004, 0.0]), mass_kg=0.1)
    widths_m = []
    for width_m in (0.0, OPEN_M):
        hand.robot.command_arm(HOME)
        hand.robot.command_gripper(width_m, KNUCKLES.gripper.force_n)
        hand.step(360)
        widths_m.append(hand.robot.arm_state()[2])
    assert widths_m == [pytest.approx(0.04, abs=0.004), pytest.approx(OPEN_M, abs=0.001)]


def test_a_linkage_of_light_links_presses_as_hard_as_the_file_says_and_holds_its_pads_parallel(tmp_path: Path) -> None:
    """Links of a Robotiq 2F-85 have 14 to 43 g and 1e-6 to 2e-5 kg m^2; Bullet's solver has to settle nevertheless."""
    text = (ARMS / "knuckle_arm.urdf").read_text(encoding="utf-8")
    head, fingers = text.split('<link name="left_knuckle">')
    light = fingers.replace('value="0.05"', 'value="0.014"').replace('"0.0001"', '"1.4e-06"')
    assert light.count("1.4e-06") == 12
    profile = load_robot(arm_file(tmp_path, urdf=head + '<link name="left_knuckle">' + light))
    force_n, pads = profile.gripper.force_n, ("left_finger", "right_finger")
    with BulletWorld() as world:
        world.add_robot(profile)
        world.set_gravity(0.0)
        world.robot.reset_arm(HOME, OPEN_M)
        world.robot.command_arm(HOME)
        T = world.robot.tool_pose()
        world.add_body("block", Box((0.04, 0.04, 0.04)), T @ make_pose([0.0, 0.004, 0.0]), mass_kg=0.1)
        world.robot.command_gripper(0.0, force_n)
        world.step(480)
        world.set_gravity()
        for _ in range(240):
            world.step()
            touching = world.contacts.touching(of=["block"])
            forces_n = {pad: c.force_n for c in touching for pad in pads if {c.a, c.b} == {pad, "block"}}
            assert set(forces_n) == set(pads)
        leans = [float(world.robot.tool_pose()[:3, 2] @ world.robot.link_pose(pad)[:3, 2]) for pad in pads]
    assert [forces_n[pad] for pad in pads] == [pytest.approx(force_n, rel=0.15)] * 2
    assert max(math.acos(min(1.0, lean)) for lean in leans) < math.radians(1.0)


def test_the_twins_fingers_open_at_the_speed_of_the_robot_file(hand: BulletWorld) -> None:
    hand.robot.reset_arm(HOME, 0.01)
    hand.robot.command_arm(HOME)
    hand.robot.command_gripper(OPEN_M, KNUCKLES.gripper.force_n)
    hand.step(60)
    before_m = hand.robot.arm_state()[2]
    hand.step(60)
    assert (hand.robot.arm_state()[2] - before_m) / (60 / 240) == pytest.approx(0.1, rel=0.2)


def test_the_torques_of_the_arm_do_not_depend_on_joints_that_follow(hand: BulletWorld) -> None:
    hand.set_gravity()
    at_rest = np.zeros((1, 6))
    torques = hand.robot.torques_nm(HOME[None], at_rest, at_rest)
    assert torques.shape == (1, 6)
    assert abs(torques[0, 1]) > 10.0  # the shoulder carries the stretched arm
    assert abs(torques[0, 0]) < 1e-6  # nothing pulls about the vertical


def test_a_frame_without_a_mass_weighs_nothing(hand: BulletWorld) -> None:
    """Bullet gives a link without inertia 1 kg; the tool frame of this arm is one."""
    hand.set_gravity()
    at_rest = np.zeros((1, 6))
    model = pinocchio.buildModelFromUrdf(str(KNUCKLES.urdf_path))
    q = pinocchio.neutral(model)
    for joint, q_rad in zip(KNUCKLES.joints, KNUCKLES.home_q_rad, strict=True):
        found = model.joints[model.getJointId(joint.name)]
        q[found.idx_q : found.idx_q + found.nq] = [q_rad] if found.nq == 1 else [np.cos(q_rad), np.sin(q_rad)]
    needed = pinocchio.computeGeneralizedGravity(model, model.createData(), q)
    places = [model.joints[model.getJointId(joint.name)].idx_v for joint in KNUCKLES.joints]
    assert np.allclose(hand.robot.torques_nm(HOME[None], at_rest, at_rest)[0], needed[places], atol=0.05)


# ---------------------------------------------------------------------------------------------------- graph


def sent_for(form: str, width_m: float, **names: Any) -> Any:
    """Return what a command to open to a width sends to the gripper's controller."""
    graph = LocalGraph()
    profile = KNUCKLES.model_copy(update={"controllers": Controllers(gripper="hand", gripper_form=form, **names)})
    server = GripperServer(graph, profile, OPEN_M, 0.0)
    controllers = ControllersOnGraph(graph, profile, Health(graph, hardware_id="arm", facts=dict))
    controllers.send(GripperSegment(0.0, 1.0, width_m), 0)
    if form == "topic":
        return graph, server, next(v for k, v in graph.sent.items() if k.startswith("hand/"))[-1]
    (name,) = graph.goals
    return name, server, graph.goals[name][-1]


@pytest.mark.parametrize(("width_m", "position"), [(0.0, 0.8), (OPEN_M, 0.0)])
def test_closing_turns_the_driver_to_its_closed_end(width_m: float, position: float) -> None:
    """0 is open on this gripper: what commanded the width itself opened it to grip, and closed it to let go."""
    assert sent_for("action", width_m)[2].goal.command.position == pytest.approx(position)
    assert list(sent_for("parallel_action", width_m)[2].goal.command.position) == [pytest.approx(position)]
    assert list(sent_for("topic", width_m)[2].data) == [pytest.approx(position)]


def test_the_stand_in_takes_positions_as_a_real_controller_does() -> None:
    for width_m in (0.0, OPEN_M):
        assert sent_for("action", width_m)[1].target(1e6, OPEN_M) == pytest.approx(width_m)


def test_any_name_of_the_action_and_of_the_topic_will_do() -> None:
    assert sent_for("action", 0.0, gripper_action="gripper_action")[0] == "hand/gripper_action"
    graph, *_ = sent_for("topic", 0.0, gripper_topic="command")
    assert "hand/command" in graph.sent


def test_an_effort_of_zero_is_sent_as_the_controllers_own() -> None:
    assert sent_for("action", 0.0)[2].goal.command.max_effort == KNUCKLES.gripper.force_n
    assert sent_for("action", 0.0, gripper_max_effort=0.0)[2].goal.command.max_effort == 0.0
    assert list(sent_for("parallel_action", 0.0, gripper_max_effort=0.0)[2].goal.command.effort) == []


def test_a_name_that_leads_elsewhere_is_refused() -> None:
    for name in ("", "/other/gripper_cmd", "../x", "a b"):
        with pytest.raises(ValueError, match="gripper_action"):
            Controllers(gripper_action=name)


def test_joint_states_of_one_driver_are_a_width() -> None:
    positions = {j.name: (q, 0.0, math.nan) for j, q in zip(KNUCKLES.joints, KNUCKLES.home_q_rad, strict=True)}
    for driver, width_m in ((0.0, OPEN_M), (0.8, 0.0), (0.5, 0.0342)):
        state = state_from_joints(positions | {"left_knuckle_joint": (driver, 0.0, math.nan)}, KNUCKLES, 1)
        assert state.gripper_width_m == pytest.approx(width_m)


# ------------------------------------------------------------------------------------------- mimic, one or two joints


def panda_with_one_finger_joint(folder: Path, **gripper: Any) -> str:
    """Write Panda's robot file for a driver that reports one finger, which the other one mimics."""
    urdf = PANDA_URDF.read_text(encoding="utf-8")
    mimic = '<mimic joint="panda_finger_joint1"/>'
    urdf = re.sub(r'(<joint name="panda_finger_joint2".*?)</joint>', rf"\1{mimic}</joint>", urdf, flags=re.DOTALL)
    urdf = urdf.replace('filename="package://', f'filename="{PANDA_URDF.parent}/')
    (folder / "panda.urdf").write_text(urdf, encoding="utf-8")
    shipped = Path(__file__).parents[1] / "sim" / "robots" / "franka_panda" / "robot.yaml"
    data = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    data["gripper"] |= {"joints": ["panda_finger_joint1"], **gripper}
    (folder / "robot.yaml").write_text(yaml.safe_dump(data | {"urdf": "panda.urdf"}), encoding="utf-8")
    return str(folder / "robot.yaml")


def test_eighty_millimetres_read_back_as_eighty_from_one_finger_that_the_other_mimics(tmp_path: Path) -> None:
    rows = [[0.0, 0.0], [0.08, 0.04]]
    profile = load_robot(panda_with_one_finger_joint(tmp_path, position_by_width_m=rows))
    positions = {j.name: (q, 0.0, math.nan) for j, q in zip(profile.joints, profile.home_q_rad, strict=True)}
    state = state_from_joints(positions | {"panda_finger_joint1": (0.04, 0.0, math.nan)}, profile, 1)
    assert state.gripper_width_m == pytest.approx(0.08)
    assert Kinematics(profile).pad_gap_m(0.08) == pytest.approx(0.08, abs=0.001)


def test_one_finger_for_the_whole_width_is_refused(tmp_path: Path) -> None:
    profile = load_robot(panda_with_one_finger_joint(tmp_path))
    with pytest.raises(BadInputError, match="width of 80 mm .* stand 160 mm apart"):
        Kinematics(profile)


def test_a_joint_follows_through_others_with_multipliers_and_offsets(tmp_path: Path) -> None:
    chained = '<mimic joint="right_knuckle_joint" multiplier="-0.5" offset="0.1"/>'
    urdf = urdf_with(r'(?s)(name="right_finger_joint".*?)<mimic [^>]*/>', rf"\1{chained}")
    urdf = re.sub(
        r'(?s)(name="right_knuckle_joint".*?)<mimic [^>]*/>',
        r'\1<mimic joint="left_knuckle_joint" multiplier="2" offset="0.3"/>',
        urdf,
        count=1,
    )
    found = {f.name: f for f in followers(load_robot(arm_file(tmp_path, urdf=urdf)))}
    follower = found["right_finger_joint"]
    assert (follower.driver, follower.multiplier, follower.offset) == (0, -1.0, pytest.approx(-0.05))
    assert found["left_finger_joint"].position(0.4) == -0.4


# --------------------------------------------------------------------------------------------------- refused


def test_a_table_that_closes_where_it_should_open_is_refused_by_the_urdf(tmp_path: Path) -> None:
    path = arm_file(tmp_path, gripper={"position_by_width_m": [[0.0, 0.0], [0.085, 0.8]]})
    with pytest.raises(BadInputError, match="at a width of 0 mm .* stand 85 mm apart"):
        Kinematics(load_robot(path))


def test_a_driver_that_turns_needs_its_table(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="left_knuckle_joint turns; give position_by_width_m"):
        load_robot(arm_file(tmp_path, gripper={"position_by_width_m": []}))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            r'(name="right_knuckle_joint" type=)"revolute"((?s:.*?))<mimic [^>]*/>',
            r'\1"revolute"\2',
            "nothing drives",
        ),
        (r'(name="right_finger_joint".*?(?s:.*?)<mimic joint=)"left_knuckle_joint"', r'\1"a6"', "nothing drives"),
        (r'(name="right_finger_joint"(?s:.*?)<mimic joint=)"[^"]*"', r'\1"right_finger_joint"', "nothing drives"),
        (r'(<mimic joint="left_knuckle_joint" multiplier=)"1"', r'\1"0"', "nothing drives"),
        (r'(<mimic joint="left_knuckle_joint" multiplier=)"1"', r'\1"nan"', "finite"),
        (r'(<mimic joint="left_knuckle_joint" multiplier=)"1"', r'\1"much"', "much"),
        (r'(name="a3" type=)"revolute"', r'\1"prismatic"', "a3 is prismatic; joints of the arm may be revolute"),
        (r'(name="a3" type=)"revolute"', r'\1"planar"', "a3 is planar"),
        (r'(name="a3" type=)"revolute"', r'\1"fixed"', "a3 is fixed"),
        (r'(name="left_knuckle_joint" type=)"revolute"', r'\1"fixed"', "left_knuckle_joint is fixed"),
        (r'(name="palm_mount" type=)"fixed"', r'\1"floating"', "palm_mount is floating"),
        (r'(name="a3"(?s:.*?)effort="90"/>)', r'\1<mimic joint="a2"/>', "a3 mimics another"),
        (r'name="a3"', 'name="b3"', "has no joint a3"),
    ],
)
def test_kinds_that_are_not_supported_are_refused_at_load(tmp_path: Path, old: str, new: str, why: str) -> None:
    data = yaml.safe_load((ARMS / "knuckle_arm.yaml").read_text(encoding="utf-8"))
    limits = {"lower_rad": -2.0, "upper_rad": 2.0, "velocity_radps": 2.0, "effort_nm": 40.0}
    joints = [{**limits, **joint} for joint in data["joints"]]  # so that the limits are not what is missed
    path = arm_file(tmp_path, urdf=urdf_with(old, new), joints=joints)
    with pytest.raises(BadInputError, match=why):
        load_robot(path)


@pytest.mark.parametrize("joints", [[], ["left_knuckle_joint", "right_knuckle_joint", "left_finger_joint"], ["a6"]])
def test_a_gripper_has_one_or_two_joints_of_its_own(tmp_path: Path, joints: list[str]) -> None:
    with pytest.raises(BadInputError, match="at least 1 item|at most 2 items|names a6 twice"):
        load_robot(arm_file(tmp_path, gripper={"joints": joints}))


# ------------------------------------------------------------------------------------------------- unconfirmed


def test_what_no_person_has_confirmed_is_not_loaded(tmp_path: Path) -> None:
    path = arm_file(tmp_path, unconfirmed=["limits", "gripper"])
    with pytest.raises(BadInputError, match="not confirmed yet: limits, gripper"):
        load_robot(path)
    assert load_unconfirmed_robot(path).unconfirmed == ("limits", "gripper")


def test_only_what_there_is_can_be_unconfirmed(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="unconfirmed"):
        load_robot(arm_file(tmp_path, unconfirmed=["everything"]))
