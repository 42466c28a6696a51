"""URDFs as the makers' xacro files give them: their joints and limits, their meshes, and what is wrong with one."""

from __future__ import annotations

import logging
import math
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml

from qwen2vl_robot.bullet.client import Client
from qwen2vl_robot.bullet.urdf import load
from qwen2vl_robot.config import RobotProfile, load_robot, load_yaml, robot_file
from qwen2vl_robot.description import check_description, read_joints
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.urdf_files import usable_urdf

TURN = math.pi
Row = tuple[str, str, float, float, float, float]  # name, type, lower, upper, velocity, effort


def rows(prefix: str, kind: str, limits: list[tuple[float, float, float, float]]) -> list[Row]:
    return [(f"{prefix}{i + 1}", kind, *limit) for i, limit in enumerate(limits)]


UR5E_NAMES = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
UR5E: list[Row] = [
    (f"{name}_joint", "revolute", *((-TURN, TURN) if name == "elbow" else (-2 * TURN, 2 * TURN)), TURN,
     28.0 if name.startswith("wrist") else 150.0)
    for name in UR5E_NAMES
]  # fmt: skip
GEN3: list[Row] = [
    (f"joint_{i + 1}", "continuous" if i % 2 == 0 else "revolute", -upper, upper, 1.3963 if i < 4 else 1.2218,
     39.0 if i < 4 else 9.0)
    for i, upper in enumerate((TURN, 2.41, TURN, 2.66, TURN, 2.23, TURN))
]  # fmt: skip
FR3 = rows("fr3_joint", "revolute", [
    (-2.7437, 2.7437, 2.62, 87.0), (-1.7837, 1.7837, 2.62, 87.0), (-2.9007, 2.9007, 2.62, 87.0),
    (-3.0421, -0.1518, 2.62, 87.0), (-2.8065, 2.8065, 5.26, 12.0), (0.5445, 4.5169, 4.18, 12.0),
    (-3.0159, 3.0159, 5.26, 12.0),
])  # fmt: skip
XARM = [(-2 * TURN, 2 * TURN, 3.14, 50.0), (-2.059, 2.0944, 3.14, 50.0), (-2 * TURN, 2 * TURN, 3.14, 30.0),
        (-0.19198, 3.927, 3.14, 30.0), (-2 * TURN, 2 * TURN, 3.14, 30.0), (-1.69297, TURN, 3.14, 20.0),
        (-2 * TURN, 2 * TURN, 3.14, 20.0)]  # fmt: skip
IIWA = rows("lbr_iiwa_joint_", "revolute", [
    (-a, a, v, e) for a, v, e in ((2.967, 1.71, 176.0), (2.094, 1.71, 176.0), (2.967, 1.75, 110.0),
                                  (2.094, 2.27, 110.0), (2.967, 2.44, 110.0), (2.094, 3.14, 40.0), (3.054, 3.14, 40.0))
])  # fmt: skip
ROBOTS: dict[str, list[Row]] = {
    "UR5e (Universal_Robots_ROS2_Description)": UR5E,
    "Gen3 (ros2_kortex)": GEN3,
    "FR3 (franka_description)": FR3,
    "xArm7 (xarm_description)": rows("joint", "revolute", XARM),
    "xArm6 (xarm_description)": rows("joint", "revolute", [*XARM[:3], *XARM[4:]]),
    "iiwa 7 (lbr_description)": IIWA,
}
GANTRY: list[Row] = [("rail", "prismatic", 0.0, 2.0, 0.5, 800.0), *FR3]


def urdf(joints: list[Row], prefix: str = "", geometry: str = "<box size='0.05 0.05 0.1'/>", more: str = "") -> str:
    """A chain as xacro writes it, with a ros2_control part whose joints are none, and two fingers."""
    shape = f"<{{0}}><geometry>{geometry}</geometry></{{0}}>"
    inertial = "<inertial><mass value='1'/><inertia ixx='.01' iyy='.01' izz='.01' ixy='0' ixz='0' iyz='0'/></inertial>"
    body = inertial + shape.format("collision") + shape.format("visual")
    parts = [f"<link name='{prefix}link0'>{body}</link>"]
    for i, (name, kind, lower, upper, velocity, effort) in enumerate(joints):
        ends = "" if kind == "continuous" else f"lower='{lower}' upper='{upper}'"
        parts.append(
            f"<joint name='{prefix}{name}' type='{kind}'>"
            f"<parent link='{prefix}link{i}'/><child link='{prefix}link{i + 1}'/>"
            f"<origin xyz='0 0 0.2' rpy='{0.5 * math.pi * (i % 2)} 0 0'/><axis xyz='0 0 1'/>"
            f"<limit {ends} velocity='{velocity}' effort='{effort}'/></joint>"
            f"<link name='{prefix}link{i + 1}'>{body}</link>"
        )
    pad = inertial + "<collision><geometry><box size='0.02 0.02 0.05'/></geometry></collision>"
    for finger, side in (("left", 1), ("right", -1)):
        parts.append(
            f"<link name='{finger}_finger'>{pad}</link><joint name='{finger}_joint' type='prismatic'>"
            f"<parent link='{prefix}link{len(joints)}'/><child link='{finger}_finger'/>"
            f"<origin xyz='0 {0.01 * side} 0'/><axis xyz='0 {side} 0'/>"
            "<limit lower='0' upper='0.04' velocity='0.1' effort='20'/></joint>"
        )
    control = "".join(f"<joint name='{prefix}{name}'><state_interface name='position'/></joint>" for name, *_ in joints)
    return (
        f"<robot name='r'><ros2_control name='c' type='system'>{control}</ros2_control>{''.join(parts)}{more}</robot>"
    )


def profile_of(folder: Path, joints: list[Row], text: str, **changes: object) -> RobotProfile:
    """A robot file that takes every limit from its URDF."""
    (folder / "arm.urdf").write_text(text, encoding="utf-8")
    data = yaml.safe_load(robot_file("xarm6").read_text(encoding="utf-8"))
    data |= {
        **{"name": "r", "urdf": str(folder / "arm.urdf"), "gripper_mount": None, "allowed_contacts": []},
        "joints": [{"name": name, "acceleration_radps2": 3.0, "jerk_radps3": 100.0} for name, *_ in joints],
        "home_q_rad": [(lower + upper) / 2 for _, _, lower, upper, _, _ in joints],
        **{"base_link": "link0", "tool_link": f"link{len(joints)}"},
    }
    data["gripper"] |= {"joints": ["left_joint", "right_joint"], "finger_links": ["left_finger", "right_finger"]}
    (folder / "robot.yaml").write_text(yaml.safe_dump(data | changes), encoding="utf-8")
    return load_yaml(folder / "robot.yaml", RobotProfile)


@pytest.mark.parametrize("case", ROBOTS)
def test_the_makers_urdf_gives_a_robot_its_limits(case: str, tmp_path: Path) -> None:
    joints = ROBOTS[case]
    text = urdf(joints)
    profile = profile_of(tmp_path, joints, text)
    found = [(j.name, j.lower_rad, j.upper_rad, j.velocity_radps, j.effort_nm) for j in profile.joints]
    assert found == [pytest.approx((name, *limits)) for name, _, *limits in joints]
    check_description(text, profile)
    kinematics = Kinematics(profile)
    assert kinematics.dof == len(joints)
    assert np.isfinite(kinematics.tool_pose(np.array(profile.home_q_rad))).all()


def test_the_limits_of_a_gantry_before_an_arm_are_read_and_the_arm_is_refused(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, GANTRY, urdf(GANTRY))
    assert (profile.joints[0].upper_rad, profile.joints[0].effort_nm) == (2.0, 800.0)
    with pytest.raises(BadInputError, match="joint rail is prismatic; joints of the arm may be revolute"):
        Kinematics(profile)
    with pytest.raises(BadInputError, match="joint rail is prismatic"):
        load_robot(str(tmp_path / "robot.yaml"))


def test_joints_that_turn_without_end_move_as_others_do_in_pinocchio_and_bullet(tmp_path: Path) -> None:
    joints = ROBOTS["Gen3 (ros2_kortex)"]
    profile = profile_of(tmp_path, joints, urdf(joints))
    bounded = [(n, "revolute", *limits) for n, _, *limits in joints]
    (tmp_path / "other").mkdir()
    other = profile_of(tmp_path / "other", bounded, urdf(bounded))  # type: ignore[arg-type]
    q_rad = np.array([3.0, 1.0, -3.0, -2.0, 0.3, 1.5, -1.0])
    np.testing.assert_allclose(Kinematics(profile).tool_pose(q_rad), Kinematics(other).tool_pose(q_rad))
    with closing(Client()) as client:
        assert {name for name, *_ in joints} <= set(load(client, profile).joints)


def test_a_prefix_is_named(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, UR5E, urdf(UR5E))
    with pytest.raises(BadInputError, match="no joint shoulder_pan_joint.*all of them have the prefix 'left_' there"):
        check_description(urdf(UR5E, prefix="left_"), profile)


def test_more_than_one_turn_of_a_joint_without_end_is_refused(tmp_path: Path) -> None:
    """A driver may count its turns or not, so that one turn alone has one meaning."""
    profile = profile_of(tmp_path, GEN3, urdf(GEN3))
    wide = profile.joints[0].model_copy(update={"upper_rad": 2 * TURN})
    with pytest.raises(BadInputError, match=r"joint_1: the robot file allows upper_rad 6\.28319, the robot 3\.14159"):
        check_description(urdf(GEN3), profile.model_copy(update={"joints": (wide, *profile.joints[1:])}))


def test_a_wheel_without_limits_is_no_reason_to_refuse_an_arm(tmp_path: Path) -> None:
    wheel = "<link name='w'/><joint name='wheel' type='continuous'><parent link='link0'/><child link='w'/></joint>"
    text = urdf(FR3, more=wheel)
    check_description(text, profile_of(tmp_path, FR3, text))
    assert math.isinf(read_joints(text)["wheel"].velocity)


# ----------------------------------------------------------------------------------------------------- meshes

CORNERS = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])
FACES = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]


def stl() -> bytes:
    facets = b"".join(struct.pack("<12fH", 0, 0, 0, *CORNERS[list(f)].ravel(), 0) for f in FACES)
    return b"made by a test".ljust(80) + struct.pack("<I", len(FACES)) + facets


def obj() -> bytes:
    lines = [f"v {x} {y} {z}" for x, y, z in CORNERS] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in FACES]
    return "\n".join(lines).encode()


def dae() -> bytes:
    numbers, index = " ".join(map(str, CORNERS.ravel())), " ".join(str(i) for face in FACES for i in face)
    return f"""<?xml version="1.0"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><unit name="meter" meter="1"/><up_axis>Z_UP</up_axis></asset>
<library_geometries><geometry id="g"><mesh>
<source id="p"><float_array id="a" count="12">{numbers}</float_array><technique_common>
<accessor source="#a" count="4" stride="3"><param name="X" type="float"/><param name="Y" type="float"/>
<param name="Z" type="float"/></accessor></technique_common></source>
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<triangles count="4"><input semantic="VERTEX" source="#v" offset="0"/><p>{index}</p></triangles>
</mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="s"><node id="n"><instance_geometry url="#g"/></node></visual_scene>
</library_visual_scenes><scene><instance_visual_scene url="#s"/></scene></COLLADA>""".encode()


FILES = {"link.stl": stl, "link.obj": obj, "link.dae": dae}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["{name}", "package://arm_description/meshes/{name}", "file://{folder}/{name}"])
def test_a_mesh_is_found_and_read_by_both(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "install" / "share" / "arm_description" / "meshes"
    installed.mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "install"))
    for place in (tmp_path, installed):
        if place == installed or "package" not in form:
            (place / name).write_bytes(FILES[name]())
    geometry = f"<mesh filename='{form.format(name=name, folder=tmp_path)}'/>"
    profile = profile_of(tmp_path, FR3, urdf(FR3, geometry=geometry))
    assert Kinematics(profile).link_hulls["link3"].max() == pytest.approx(0.1)
    with closing(Client()) as client:
        load(client, profile)


@pytest.mark.parametrize(
    "geometry", ["<box size='.1 .1 .1'/>", "<cylinder radius='.05' length='.1'/>", "<sphere radius='.05'/>"]
)
def test_primitives_are_read_by_both(geometry: str, tmp_path: Path) -> None:
    profile = profile_of(tmp_path, FR3, urdf(FR3, geometry=geometry))
    assert Kinematics(profile).link_hulls["link3"].max() == pytest.approx(0.05, abs=0.001)
    with closing(Client()) as client:
        load(client, profile)


def without_mesh(part: str, file: str) -> str:
    begin = f"<{part}><geometry>"
    return urdf(FR3).replace(f"{begin}<box size='0.05 0.05 0.1'/>", f"{begin}<mesh filename='{file}'/>", 1)


def test_a_missing_mesh_that_is_only_to_be_seen_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = without_mesh("visual", "no.dae")
    with caplog.at_level(logging.WARNING):
        profile = profile_of(tmp_path, FR3, text)
        kinematics = Kinematics(profile)
    assert "mesh no.dae: not found" in caplog.text
    assert "link0" in caplog.text
    assert "link0" not in kinematics.link_triangles()
    assert "link0" in kinematics.link_hulls, "what can be hit is still known"


def test_a_missing_mesh_that_can_be_hit_is_an_error(tmp_path: Path) -> None:
    text = without_mesh("collision", "no.stl")
    with pytest.raises(BadInputError, match=r"mesh no\.stl: not found"):
        Kinematics(profile_of(tmp_path, FR3, text))


def test_a_urdf_that_needs_no_change_is_itself(tmp_path: Path) -> None:
    (tmp_path / "arm.urdf").write_text(urdf(FR3), encoding="utf-8")
    assert usable_urdf(tmp_path / "arm.urdf") == tmp_path / "arm.urdf"
