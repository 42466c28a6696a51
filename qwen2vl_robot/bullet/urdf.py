"""A robot profile → its URDF in Bullet with joint and link indices, or an error about gaps."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from qwen2vl_robot.bullet.client import TABLE, Client, pybullet, silence
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.urdf_files import check_meshes, links_with


@dataclass(frozen=True, slots=True)
class Loaded:
    """A robot's indices in Bullet.

    Attributes:
        joints: index of each joint by its URDF name.
        links: index of each link by its URDF name; the base is -1.
    """

    body: int
    joints: dict[str, int]
    links: dict[str, int]


def load(client: Client, profile: RobotProfile) -> Loaded:
    """Load the URDF with its base at the origin; contacts that the profile allows never collide.

    Raises:
        ValueError: the URDF or one of its meshes does not load, or it lacks joints or links of the profile.
        BadInputError: a mesh file is missing.
    """
    robot = _number(client, _load_body(client, profile))
    _check_names(robot, profile)
    _check_shapes(client, robot, profile)
    _allow_contacts(client, robot, profile)
    _unload_frames(client, robot, profile)
    for link in profile.gripper.finger_links:
        pybullet.changeDynamics(
            robot.body, robot.links[link], lateralFriction=1.0, spinningFriction=0.01, physicsClientId=client.id
        )
    return robot


def _load_body(client: Client, profile: RobotProfile) -> int:
    check_meshes(profile.urdf_path)  # also that the file is within the bounds, before Bullet reads it
    try:
        with silence():
            body: int = pybullet.loadURDF(
                str(profile.urdf_path),
                useFixedBase=True,
                flags=pybullet.URDF_USE_SELF_COLLISION | pybullet.URDF_USE_SELF_COLLISION_EXCLUDE_PARENT,
                physicsClientId=client.id,
            )
    except pybullet.error as error:
        raise ValueError(f"{profile.urdf_path}: Bullet cannot load it ({error})") from error
    return body


def _number(client: Client, body: int) -> Loaded:
    joints: dict[str, int] = {}
    links: dict[str, int] = {pybullet.getBodyInfo(body, physicsClientId=client.id)[0].decode(): -1}
    for index in range(pybullet.getNumJoints(body, physicsClientId=client.id)):
        info = pybullet.getJointInfo(body, index, physicsClientId=client.id)
        joints[info[1].decode()] = index
        links[info[12].decode()] = index
    return Loaded(body, joints, links)


def _check_names(robot: Loaded, profile: RobotProfile) -> None:
    wanted = [j.name for j in profile.joints] + list(profile.gripper.joints)
    missing = [j for j in wanted if j not in robot.joints]
    named = {link for pair in profile.contacts_ignored for link in pair} - {TABLE}
    named |= {profile.base_link, profile.tool_link, *profile.gripper.finger_links}
    missing += sorted(named - set(robot.links))
    if missing:
        known = ", ".join([*robot.joints, *robot.links])
        raise ValueError(f"{profile.urdf} has no {', '.join(missing)}; it has {known}")


def _check_shapes(client: Client, robot: Loaded, profile: RobotProfile) -> None:
    """Check that every collision shape has loaded: Bullet silently leaves out a mesh that it cannot read."""
    for shaped in _links_with_shapes(profile):
        if not pybullet.getCollisionShapeData(robot.body, robot.links[shaped], physicsClientId=client.id):
            raise ValueError(f"{profile.urdf_path}: the collision mesh of {shaped} does not load")


def _unload_frames(client: Client, robot: Loaded, profile: RobotProfile) -> None:
    """Take the mass from links that have none in the URDF, such as tool frames: Bullet gives each of them 1 kg."""
    for frame in set(robot.links) - set(_links_with_inertia(profile)):
        if robot.links[frame] >= 0:
            pybullet.changeDynamics(
                robot.body, robot.links[frame], mass=0.0, localInertiaDiagonal=[0.0] * 3, physicsClientId=client.id
            )


@functools.cache
def _links_with_inertia(profile: RobotProfile) -> tuple[str, ...]:
    """List the URDF's links with a mass of their own."""
    return links_with(profile.urdf_path, "inertial")


@functools.cache
def _links_with_shapes(profile: RobotProfile) -> tuple[str, ...]:
    """List the URDF's links with collision geometry."""
    return links_with(profile.urdf_path, "collision")


def _allow_contacts(client: Client, robot: Loaded, profile: RobotProfile) -> None:
    for a, b in profile.contacts_ignored:
        if a in robot.links and b in robot.links:
            others = (robot.body, robot.links[a], robot.links[b])
        elif TABLE in (a, b) and TABLE in client.bodies:
            others = (client.bodies[TABLE], robot.links[a if b == TABLE else b], -1)
        else:
            continue
        other, link, other_link = others
        pybullet.setCollisionFilterPair(robot.body, other, link, other_link, 0, physicsClientId=client.id)
