"""Kinematics: the same poses as Bullet, hulls of the links, and clear refusals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import RobotProfile, load_robot
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import rotation_from_rotvec
from qwen2vl_robot.kinematics import Kinematics, hull_vertices


@pytest.fixture(scope="module")
def profile() -> RobotProfile:
    return load_robot("franka_panda")


@pytest.fixture(scope="module")
def kinematics(profile: RobotProfile) -> Kinematics:
    return Kinematics(profile)


@pytest.fixture(scope="module")
def world(profile: RobotProfile) -> Iterator[BulletWorld]:
    with BulletWorld() as bullet:
        bullet.add_robot(profile)
        yield bullet


def test_every_moving_link_is_where_bullet_puts_it(kinematics: Kinematics, world: BulletWorld) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        q_rad = rng.uniform(kinematics.lower_rad, kinematics.upper_rad)
        width_m = float(rng.uniform(0.0, 0.08))
        world.robot.reset_arm(q_rad, width_m)
        poses = kinematics.link_poses(q_rad, width_m)
        for link in set(poses) - {kinematics.profile.base_link}:
            np.testing.assert_allclose(poses[link], world.robot.link_pose(link), atol=1e-5)
        np.testing.assert_allclose(kinematics.tool_pose(q_rad, width_m), world.robot.tool_pose(), atol=1e-5)


def test_the_jacobian_is_the_derivative_of_the_tool_pose(kinematics: Kinematics) -> None:
    rng = np.random.default_rng(4)
    step = 1e-6
    for _ in range(5):
        q_rad = rng.uniform(kinematics.lower_rad, kinematics.upper_rad)
        pose, jacobian = kinematics.tool_pose_and_jacobian(q_rad)
        np.testing.assert_allclose(pose, kinematics.tool_pose(q_rad), atol=1e-12)
        dq = rng.normal(size=kinematics.dof)
        moved = kinematics.tool_pose(q_rad + step * dq)
        twist = jacobian @ dq
        np.testing.assert_allclose((moved[:3, 3] - pose[:3, 3]) / step, twist[:3], atol=1e-5)
        turned = rotation_from_rotvec(step * twist[3:]) @ pose[:3, :3]
        np.testing.assert_allclose(turned, moved[:3, :3], atol=1e-9)


def test_finger_hulls_open_with_the_width(kinematics: Kinematics, profile: RobotProfile) -> None:
    left, right = profile.gripper.finger_links
    closed = kinematics.link_poses(np.array(profile.home_q_rad), 0.0)
    opened = kinematics.link_poses(np.array(profile.home_q_rad), 0.06)
    for link in (left, right):
        assert np.linalg.norm(opened[link][:3, 3] - closed[link][:3, 3]) == pytest.approx(0.03)
        assert kinematics.link_hulls[link].shape[1] == 3


def test_a_hull_drops_the_points_inside() -> None:
    corners = np.array([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
    hull = hull_vertices(np.vstack([corners, [[0.5, 0.5, 0.5], [0.2, 0.7, 0.4]]]))
    assert sorted(map(tuple, hull)) == sorted(map(tuple, corners))


def test_an_unknown_tool_link_is_refused_with_the_known_ones(profile: RobotProfile) -> None:
    with pytest.raises(BadInputError, match=r"no link 'tool0'; it has .*panda_grasptarget"):
        Kinematics(profile.model_copy(update={"tool_link": "tool0"}))


def test_an_unknown_joint_is_refused(profile: RobotProfile) -> None:
    joint = profile.joints[0].model_copy(update={"name": "elbow"})
    with pytest.raises(BadInputError, match="no joint 'elbow'; it has panda_joint1"):
        Kinematics(profile.model_copy(update={"joints": (joint, *profile.joints[1:])}))


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.zeros(6)])
def test_joints_that_are_no_joints_are_refused(kinematics: Kinematics, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="7 finite joint positions"):
        kinematics.tool_pose(bad)


def surface_m2(triangles_m: np.ndarray) -> float:
    a, b, c = np.asarray(triangles_m).transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


@pytest.mark.parametrize("link", ["panda_link4", "panda_link5", "panda_hand"])
def test_a_link_looks_as_its_file_says(kinematics: Kinematics, profile: RobotProfile, link: str) -> None:
    """One object of the forearm's file has two materials; its triangles once joined corners of different pieces."""
    file = profile.urdf_path.parent / "meshes" / "visual" / f"{link.removeprefix('panda_')}.obj"
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    corners_m = np.array([[float(v) for v in line[1:4]] for line in lines if line[:1] == ["v"]])
    faces = [[int(corner.split("/")[0]) - 1 for corner in line[1:4]] for line in lines if line[:1] == ["f"]]
    expected_m2 = surface_m2(corners_m[faces])
    assert surface_m2(kinematics.link_triangles()[link]) == pytest.approx(expected_m2, rel=1e-3)
