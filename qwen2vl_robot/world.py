"""BulletWorld: bodies, a robot, physics and pictures. The only module that imports pybullet.

Twin and plant each own an instance in a process of its own. Bullet answers wrong ids and NaN poses with silence
("no contact"), so every id and number is checked here first.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.description import check_meshes
from qwen2vl_robot.geometry import Array, make_pose, quat_from_rotation, rotation_from_quat
from qwen2vl_robot.meshes import Mesh, triangles
from qwen2vl_robot.messages import Box, Container, Cylinder, Intrinsics, Shape, Sphere


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Close the ear to what Bullet's C code writes: its greeting, and warnings of which an error comes anyway."""
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(nowhere, fd)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C still holds back goes nowhere too
        for fd, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nowhere)


with _silence():
    import pybullet

TABLE = "table"
TIME_STEP_S = 1.0 / 240.0
_NEAR_M, _FAR_M = 0.05, 5.0
_FINGER_ERP = 0.2
_POSITION_GAIN, _VELOCITY_GAIN = 0.3, 1.0  # of Bullet's motors: shares of the error that one step takes away
_LOOK_CONFIGURATIONS = 3  # between two looks at clearance, at least
_FINGER_COUPLING_N = 500.0  # far above any grasp force: the mechanism does not give
_LIBC = ctypes.CDLL(None)
_BOWL_PANELS = 14  # with the two of the floor the 16 that Bullet takes in a compound; it drops the rest silently
_BOWL_BASE_RATIO = 0.8  # foot to rim diameter of the round container


@dataclass(frozen=True, slots=True)
class Bowl:
    """A round container as the plant builds it; perception and twin know only `messages.Container`."""

    diameter_m: float
    height_m: float
    wall_m: float


@dataclass(frozen=True, slots=True)
class Contact:
    """Two named bodies (URDF links, objects, "table") that touch.

    Attributes:
        depth_m: how deep they overlap, positive.
        force_n: normal force; 0 when no physics step made it.
    """

    a: str
    b: str
    depth_m: float
    force_n: float


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What a walk of the arm through many configurations saw.

    Attributes:
        tool_m: (m, 3) the tool's positions.
        touched: where anything touched arm or load, other than the fingers their load.
        gaps: for each watched body (k, 2): at which configurations one looked, and how far arm or load were from it.
    """

    tool_m: Array
    touched: list[int]
    gaps: dict[str, Array]


@dataclass(frozen=True, slots=True)
class Light:
    """Where the light comes from (base frame direction) and how strong it is, ratios."""

    direction: tuple[float, float, float] = (0.3, 0.3, 1.0)
    ambient: float = 0.55
    diffuse: float = 0.45


class BulletWorld:
    """One DIRECT physics client with a table, at most one robot and any number of named bodies."""

    def __init__(self) -> None:
        self._client: int = pybullet.connect(pybullet.DIRECT)
        if self._client < 0:
            raise RuntimeError("pybullet gave no DIRECT client")
        self._names: dict[tuple[int, int], str] = {}
        self._ids: dict[str, int] = {}
        self._textures: dict[str, int] = {"": -1}
        self._robot: int | None = None
        self.reset()

    def reset(self) -> None:
        """Remove everything and start at time zero."""
        pybullet.resetSimulation(physicsClientId=self._client)
        if hasattr(_LIBC, "malloc_trim"):
            _LIBC.malloc_trim(
                0
            )  # else what Bullet freed stays with this process, in holes that the next robot does not fit
        pybullet.setGravity(0.0, 0.0, -9.81, physicsClientId=self._client)
        pybullet.setTimeStep(TIME_STEP_S, physicsClientId=self._client)
        pybullet.setPhysicsEngineParameter(
            numSolverIterations=80, deterministicOverlappingPairs=1, physicsClientId=self._client
        )
        self._names.clear()
        self._ids.clear()
        self._robot = None
        self._steps = 0

    def close(self) -> None:
        """Disconnect; the world cannot be used afterwards."""
        if self._client >= 0:
            pybullet.disconnect(physicsClientId=self._client)
            self._client = -1

    def __enter__(self) -> BulletWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def time_s(self) -> float:
        return self._steps * TIME_STEP_S

    # ------------------------------------------------------------------------------------------ bodies

    def add_table(self, height_m: float = 0.0, rgb: tuple[float, float, float] = (165, 160, 150)) -> None:
        """Add a fixed slab of 2 m x 2 m whose top is at `height_m`."""
        self.add_body(TABLE, Box((2.0, 2.0, 0.1)), make_pose([0.3, 0.0, height_m - 0.05]), mass_kg=0.0, rgb=rgb)

    def add_body(
        self,
        name: str,
        shape: Shape | Bowl | Mesh,
        T_base_object: Array,
        *,
        mass_kg: float,
        friction: float = 0.8,
        rolling_friction: float = 0.0,
        rgb: tuple[float, float, float] | None = (180, 180, 180),
        collides: bool = True,
    ) -> None:
        """Add a named body; mass 0 fixes it in space. Without `rgb` no picture shows it: Bullet never gives back the
        memory of a mesh that it drew.

        Raises:
            ValueError: the name is taken, or a number is not finite or negative.
        """
        if name in self._ids or name in self._names.values():
            raise ValueError(f"the name {name!r} is taken")
        numbers = np.concatenate([np.ravel(T_base_object), [mass_kg, friction, rolling_friction], rgb or ()])
        if not np.isfinite(numbers).all() or mass_kg < 0 or friction < 0 or rolling_friction < 0:
            raise ValueError(f"{name}: pose, mass and friction must be finite, mass and friction not negative")
        colour = None if rgb is None else [c / 255.0 for c in rgb] + [1.0]
        collision, visual = self._make_shape(shape, colour, collides)
        body: int = pybullet.createMultiBody(
            baseMass=mass_kg,
            baseCollisionShapeIndex=collision,
            baseVisualShapeIndex=visual,
            basePosition=T_base_object[:3, 3].tolist(),
            baseOrientation=quat_from_rotation(T_base_object[:3, :3]).tolist(),
            physicsClientId=self._client,
        )
        if body < 0:
            raise RuntimeError(f"{name}: Bullet made no body")
        pybullet.changeDynamics(
            body, -1, lateralFriction=friction, rollingFriction=rolling_friction, spinningFriction=0.002,
            linearDamping=0.04, angularDamping=0.04, physicsClientId=self._client,
        )  # fmt: skip
        self._ids[name] = body
        self._names[(body, -1)] = name

    def remove(self, name: str) -> None:
        """Remove a named body."""
        body = self._id(name)
        pybullet.removeBody(body, physicsClientId=self._client)
        del self._ids[name]
        del self._names[(body, -1)]

    def pose(self, name: str) -> Array:
        """`T_base_object` (4, 4) of a named body."""
        p, q = pybullet.getBasePositionAndOrientation(self._id(name), physicsClientId=self._client)
        return make_pose(p, rotation_from_quat(q))

    def set_pose(self, name: str, T_base_object: Array) -> None:
        """Put a named body somewhere, at rest."""
        if not np.isfinite(T_base_object).all():
            raise ValueError(f"{name}: the pose is not finite")
        pybullet.resetBasePositionAndOrientation(
            self._id(name),
            T_base_object[:3, 3].tolist(),
            quat_from_rotation(T_base_object[:3, :3]).tolist(),
            physicsClientId=self._client,
        )
        pybullet.resetBaseVelocity(self._id(name), [0, 0, 0], [0, 0, 0], physicsClientId=self._client)

    def speed_mps(self, name: str) -> float:
        """Linear speed of a named body."""
        linear, _ = pybullet.getBaseVelocity(self._id(name), physicsClientId=self._client)
        return float(np.linalg.norm(linear))

    def put_to_sleep(self, name: str) -> None:
        """Stop computing a body that rests, until something that moves touches it."""
        for state in (pybullet.ACTIVATION_STATE_ENABLE_SLEEPING, pybullet.ACTIVATION_STATE_SLEEP):
            pybullet.changeDynamics(self._id(name), -1, activationState=state, physicsClientId=self._client)

    def names(self) -> list[str]:
        """Names of all bodies but the robot."""
        return list(self._ids)

    def _id(self, name: str) -> int:
        if name not in self._ids:
            raise KeyError(f"no body {name!r}; there are {sorted(self._ids)}")
        return self._ids[name]

    def _make_shape(self, shape: Shape | Bowl | Mesh, colour: list[float] | None, collides: bool) -> tuple[int, int]:
        if isinstance(shape, Container | Bowl):
            return self._make_hollow(shape, colour, collides)
        if isinstance(shape, Mesh):
            return self._make_mesh(shape, colour, collides)
        kind: int
        arguments: dict[str, object]
        if isinstance(shape, Box):
            kind, arguments = pybullet.GEOM_BOX, {"halfExtents": [s / 2 for s in shape.size_m]}
            _check_sizes(*shape.size_m)
        elif isinstance(shape, Cylinder):
            kind = pybullet.GEOM_CYLINDER
            arguments = {"radius": shape.diameter_m / 2, "height": shape.height_m}
            _check_sizes(shape.diameter_m, shape.height_m)
        elif isinstance(shape, Sphere):
            kind, arguments = pybullet.GEOM_SPHERE, {"radius": shape.diameter_m / 2}
            _check_sizes(shape.diameter_m)
        else:
            raise TypeError(f"unknown shape {type(shape).__name__}")
        collision = -1
        if collides:
            collision = pybullet.createCollisionShape(kind, **arguments, physicsClientId=self._client)
        if colour is None:
            return collision, -1
        if isinstance(shape, Cylinder):  # Bullet's own picture of a cylinder shades a flat one as a cone
            r, z = shape.diameter_m / 2, shape.height_m / 2
            return collision, self._revolved([(0.0, -z), (r, -z), (r, z), (0.0, z)], colour)
        visual = pybullet.createVisualShape(
            kind, **arguments, rgbaColor=colour, specularColor=[0.1, 0.1, 0.1], physicsClientId=self._client
        )
        return collision, visual

    def _make_hollow(self, shape: Container | Bowl, colour: list[float] | None, collides: bool) -> tuple[int, int]:
        """Compound of a floor and walls; the origin is the centre of the outer size."""
        panels = _panels_of(shape)
        half = [(size / 2).tolist() for size, _ in panels]
        positions = [T[:3, 3].tolist() for _, T in panels]
        orientations = [quat_from_rotation(T[:3, :3]).tolist() for _, T in panels]
        kinds = [pybullet.GEOM_BOX] * len(panels)
        collision = -1
        if collides:
            collision = pybullet.createCollisionShapeArray(
                shapeTypes=kinds,
                halfExtents=half,
                collisionFramePositions=positions,
                collisionFrameOrientations=orientations,
                physicsClientId=self._client,
            )
        if colour is None:
            visual = -1
        elif isinstance(shape, Bowl):
            visual = self._revolved(_bowl_profile(shape), colour)
        else:
            visual = pybullet.createVisualShapeArray(
                shapeTypes=kinds,
                halfExtents=half,
                visualFramePositions=positions,
                visualFrameOrientations=orientations,
                rgbaColors=[colour] * len(panels),
                physicsClientId=self._client,
            )
        return collision, visual

    def _make_mesh(self, shape: Mesh, colour: list[float] | None, collides: bool) -> tuple[int, int]:
        """A mesh as it looks; it collides as its convex hull."""
        _check_sizes(shape.height_m)
        points, normals, indices = triangles(shape.file)
        vertices = (points * shape.height_m).tolist()
        collision = -1
        if collides:
            collision = pybullet.createCollisionShape(
                pybullet.GEOM_MESH, vertices=vertices, physicsClientId=self._client
            )
        return collision, -1 if colour is None else self._visual(vertices, normals.tolist(), indices, colour)

    def _revolved(self, profile_m: list[tuple[float, float]], colour: list[float]) -> int:
        """Visual shape of a profile (radius, height) turned about z."""
        return self._visual(*_revolve(profile_m), colour)

    def _visual(
        self, vertices: list[list[float]], normals: list[list[float]], indices: list[int], colour: list[float]
    ) -> int:
        visual: int = pybullet.createVisualShape(
            pybullet.GEOM_MESH,
            vertices=vertices,
            normals=normals,
            indices=indices,
            rgbaColor=colour,
            specularColor=[0.1, 0.1, 0.1],
            physicsClientId=self._client,
        )
        return visual

    def set_colour(self, name: str, rgb: tuple[float, float, float]) -> None:
        """Paint a named body, sRGB 0..255."""
        pybullet.changeVisualShape(
            self._id(name), -1, rgbaColor=[c / 255.0 for c in rgb] + [1.0], physicsClientId=self._client
        )

    def set_texture(self, name: str, file: str) -> None:
        """Lay a picture of pybullet_data over a named body, or none ("")."""
        if file not in self._textures:
            path = str(resources.files("pybullet_data") / file)
            self._textures[file] = pybullet.loadTexture(path, physicsClientId=self._client)
        texture = self._textures[file]
        pybullet.changeVisualShape(self._id(name), -1, textureUniqueId=texture, physicsClientId=self._client)

    # ------------------------------------------------------------------------------------------- robot

    def add_robot(self, profile: RobotProfile) -> None:
        """Load the robot with its base at the origin, after the table; allowed contacts never collide.

        Raises:
            ValueError: the URDF or a mesh of it does not load, or it lacks joints or links of the profile.
            BadInputError: a mesh of it is not there.
        """
        self._profile = profile
        try:
            with _silence():
                body: int = pybullet.loadURDF(
                    str(profile.urdf_path),
                    useFixedBase=True,
                    flags=pybullet.URDF_USE_SELF_COLLISION | pybullet.URDF_USE_SELF_COLLISION_EXCLUDE_PARENT,
                    physicsClientId=self._client,
                )
        except pybullet.error as error:
            check_meshes(profile.urdf_path)
            raise ValueError(f"{profile.urdf_path}: Bullet cannot load it ({error})") from error
        joints: dict[str, int] = {}
        links: dict[str, int] = {pybullet.getBodyInfo(body, physicsClientId=self._client)[0].decode(): -1}
        for index in range(pybullet.getNumJoints(body, physicsClientId=self._client)):
            info = pybullet.getJointInfo(body, index, physicsClientId=self._client)
            joints[info[1].decode()] = index
            links[info[12].decode()] = index
        wanted = [j.name for j in profile.joints] + list(profile.gripper.joints)
        missing = [j for j in wanted if j not in joints]
        named = {link for pair in profile.allowed_contacts for link in pair} - {TABLE}
        named |= {profile.base_link, profile.tool_link, *profile.gripper.finger_links}
        missing += sorted(named - set(links))
        if missing:
            raise ValueError(f"{profile.urdf} has no {', '.join(missing)}; it has {', '.join([*joints, *links])}")
        for shaped in _links_with_shapes(profile):  # Bullet leaves out a shape whose mesh it cannot read, silently
            if not pybullet.getCollisionShapeData(body, links[shaped], physicsClientId=self._client):
                raise ValueError(f"{profile.urdf_path}: the collision mesh of {shaped} does not load")
        self._names.update({(body, index): link for link, index in links.items()})
        self._robot = body
        self._joints = [joints[j.name] for j in profile.joints]
        self._fingers = [joints[j] for j in profile.gripper.joints]
        self._links = links
        self._tool = links[profile.tool_link]
        self._efforts = [j.effort_nm for j in profile.joints]
        self._gains = [_POSITION_GAIN] * len(self._joints), [_VELOCITY_GAIN] * len(self._joints)
        for a, b in profile.allowed_contacts:
            if a in links and b in links:
                pybullet.setCollisionFilterPair(body, body, links[a], links[b], 0, physicsClientId=self._client)
            elif TABLE in (a, b) and TABLE in self._ids:
                link = links[a if b == TABLE else b]
                pybullet.setCollisionFilterPair(body, self._ids[TABLE], link, -1, 0, physicsClientId=self._client)
        for index in (links[link] for link in profile.gripper.finger_links):
            pybullet.changeDynamics(
                body, index, lateralFriction=1.0, spinningFriction=0.01, physicsClientId=self._client
            )
        self._couple_fingers()
        self.reset_arm(np.array(profile.home_q_rad), profile.gripper.max_width_m)
        self._chain = self._measure_links()
        standing = {link for pair in profile.allowed_contacts if TABLE in pair for link in pair}
        self._standing = {index for link, index in links.items() if link in standing}

    def _couple_fingers(self) -> None:
        """Make the fingers move as mirror images, as the gripper's mechanism does.

        Two motors that press against each other with equal force would let the object between them drift.
        """
        for other in self._fingers[1:]:
            gear: int = pybullet.createConstraint(
                self._robot, self._fingers[0], self._robot, other, pybullet.JOINT_GEAR,
                jointAxis=[1, 0, 0], parentFramePosition=[0, 0, 0], childFramePosition=[0, 0, 0],
                physicsClientId=self._client,
            )  # fmt: skip
            pybullet.changeConstraint(
                gear, gearRatio=-1, erp=_FINGER_ERP, maxForce=_FINGER_COUPLING_N, physicsClientId=self._client
            )

    def reset_arm(self, q_rad: Array, width_m: float) -> None:
        """Put the joints (n,) and the gripper somewhere, at rest, and hold them there."""
        self._check_joints(q_rad, width_m)
        share_m = width_m / len(self._fingers)
        values = [[float(q)] for q in q_rad] + [[share_m]] * len(self._fingers)
        pybullet.resetJointStatesMultiDof(
            self._robot, self._joints + self._fingers, values,
            targetVelocities=[[0.0]] * len(values), physicsClientId=self._client,
        )  # fmt: skip

    def carry_arm(self, q_rad: Array, held: str | None) -> None:
        """Put the arm (n,) elsewhere, at rest, the fingers as they are and what they hold along with the tool."""
        T_tool_held = None if held is None else np.linalg.inv(self.tool_pose()) @ self.pose(held)
        self._check_joints(q_rad, 0.0)
        _, _, widths = self._joint_values()
        values = [[float(q)] for q in q_rad] + [[w] for w in widths]
        pybullet.resetJointStatesMultiDof(
            self._robot, self._joints + self._fingers, values,
            targetVelocities=[[0.0]] * len(values), physicsClientId=self._client,
        )  # fmt: skip
        if held is not None and T_tool_held is not None:
            self.set_pose(held, self.tool_pose() @ T_tool_held)

    def command_arm(self, q_rad: Array, dq_radps: Array | None = None) -> None:
        """Set the position (and velocity) targets (n,) of the joint motors."""
        self._check_joints(q_rad, 0.0)
        velocities = np.zeros(len(q_rad)) if dq_radps is None else np.asarray(dq_radps)
        if not np.isfinite(velocities).all():
            raise ValueError("velocity targets must be finite")
        self._drive([float(q) for q in q_rad], [float(v) for v in velocities])

    def follow(self, q_rad: Array, dq_radps: Array) -> None:
        """Drive the motors through positions (k, n) and velocities (k, n), one physics step for each."""
        if q_rad.shape != dq_radps.shape or q_rad.shape[1:] != (len(self._joints),):
            raise ValueError(f"targets (k, {len(self._joints)}) needed, given {q_rad.shape} and {dq_radps.shape}")
        if not (np.isfinite(q_rad).all() and np.isfinite(dq_radps).all()):
            raise ValueError("joint targets must be finite")
        for q, dq in zip(q_rad.tolist(), dq_radps.tolist(), strict=True):
            self._drive(q, dq)
            pybullet.stepSimulation(physicsClientId=self._client)
        self._steps += len(q_rad)

    def _drive(self, q: list[float], dq: list[float]) -> None:
        """Set the motors' targets; the caller has checked them."""
        gains = self._gains
        pybullet.setJointMotorControlArray(
            self._robot, self._joints, pybullet.POSITION_CONTROL, targetPositions=q, targetVelocities=dq,
            forces=self._efforts, positionGains=gains[0], velocityGains=gains[1], physicsClientId=self._client,
        )  # fmt: skip

    def command_gripper(self, width_m: float, force_n: float) -> None:
        """Drive both fingers towards a width with at most `force_n` each."""
        if not (np.isfinite(width_m) and np.isfinite(force_n)) or force_n < 0:
            raise ValueError(f"gripper width {width_m} m and force {force_n} N must be finite, force not negative")
        share_m = min(max(width_m, 0.0), self._profile.gripper.max_width_m) / len(self._fingers)
        for finger in self._fingers:
            pybullet.setJointMotorControl2(
                self._robot, finger, pybullet.POSITION_CONTROL, targetPosition=share_m, force=force_n,
                maxVelocity=self._profile.gripper.speed_mps / 2, physicsClientId=self._client,
            )  # fmt: skip

    def arm_state(self) -> tuple[Array, Array, float]:
        """Joint positions (n,) rad, velocities (n,) rad/s and gripper width in metres."""
        q, dq, widths = self._joint_values()
        return q, dq, float(sum(widths))

    def finger_speed_mps(self) -> float:
        """How fast the faster finger moves."""
        states = pybullet.getJointStates(self._robot, self._fingers, physicsClientId=self._client)
        return max(abs(float(s[1])) for s in states)

    def _joint_values(self) -> tuple[Array, Array, list[float]]:
        """Positions (n,) and velocities (n,) of the arm, and where each finger is."""
        states = pybullet.getJointStates(self._robot, self._joints + self._fingers, physicsClientId=self._client)
        n = len(self._joints)
        return np.array([s[0] for s in states[:n]]), np.array([s[1] for s in states[:n]]), [s[0] for s in states[n:]]

    def torques_nm(self, q_rad: Array, dq_radps: Array, ddq_radps2: Array, load_kg: float = 0.0) -> Array:
        """Joint torques (m, n) that these states (m, n) of motion need, with a load at the tool frame's origin."""
        joints, robot, client = len(self._joints), self._robot_id(), self._client
        states = np.stack([np.asarray(v, dtype=np.float64) for v in (q_rad, dq_radps, ddq_radps2)])
        if states.ndim != 3 or states.shape[2] != joints or not (np.isfinite(states).all() and np.isfinite(load_kg)):
            raise ValueError(f"finite states (m, {joints}) and load needed, given {states.shape}, {load_kg} kg")
        states = np.concatenate([states, np.zeros((3, states.shape[1], len(self._fingers)))], axis=2)
        needed, linear = [], []
        for q, dq, ddq in zip(*states.tolist(), strict=True):
            needed.append(pybullet.calculateInverseDynamics(robot, q, dq, ddq, physicsClientId=client))
            if load_kg:
                J = pybullet.calculateJacobian(robot, self._tool, [0.0] * 3, q, dq, ddq, physicsClientId=client)
                linear.append(J[0])
        torques = np.array(needed)
        if load_kg:
            J_tool = np.array(linear)
            pull_mps2 = np.einsum("mij,mj->mi", J_tool, states[2]) + np.array([0.0, 0.0, 9.81])
            torques += load_kg * np.einsum("mij,mi->mj", J_tool, pull_mps2)
        return torques[:, :joints]

    def tool_pose(self) -> Array:
        """`T_base_tool` (4, 4) of the profile's tool link."""
        return self.link_pose(self._profile.tool_link)

    def link_pose(self, link: str) -> Array:
        """`T_base_link` (4, 4) of a URDF link's own frame."""
        if self._robot is None or link not in self._links:
            raise KeyError(f"no link {link!r}")
        index = self._links[link]
        if index == -1:
            p, q = pybullet.getBasePositionAndOrientation(self._robot, physicsClientId=self._client)
        else:
            state = pybullet.getLinkState(
                self._robot, index, computeForwardKinematics=True, physicsClientId=self._client
            )
            p, q = state[4], state[5]  # the link frame; 0 and 1 are the centre of mass
        return make_pose(p, rotation_from_quat(q))

    def link_names(self) -> list[str]:
        """Names of the robot's links, as its URDF has them."""
        return list(self._links)

    def rounding_m(self) -> dict[str, float]:
        """By how much Bullet grows each link's convex hulls of meshes all around: its collision margin."""
        robot, client, found = self._robot_id(), self._client, {}
        for link, index in self._links.items():
            kinds = {shape[2] for shape in pybullet.getCollisionShapeData(robot, index, physicsClientId=client)}
            margin_m = float(pybullet.getDynamicsInfo(robot, index, physicsClientId=client)[11])
            found[link] = margin_m if pybullet.GEOM_MESH in kinds else 0.0
        return found

    def reach_m(self, beyond_tool_m: float = 0.0) -> Array:
        """How far each joint (n,) can carry a point at most, metres per radian of its motion.

        The longest way along the chain from the joint to a point of any link that it moves, or to a point that lies
        `beyond_tool_m` from the tool frame: an upper bound in every configuration.
        """
        self._robot_id()
        reach_m = np.zeros(len(self._joints))
        for index, (_, _, way_m) in self._chain.items():
            if index == self._tool:
                way_m = max(way_m, beyond_tool_m)
            while index >= 0:
                if index in self._joints:
                    which = self._joints.index(index)
                    reach_m[which] = max(reach_m[which], way_m)
                elif index in self._fingers:
                    way_m += self._profile.gripper.max_width_m
                index, offset_m, _ = self._chain[index]
                way_m += offset_m
        return reach_m

    def _measure_links(self) -> dict[int, tuple[int, float, float]]:
        """Of each link: its parent, the distance of its frame from the parent's, and how far its shape reaches."""
        robot = self._robot_id()
        found = {-1: (-1, 0.0, self._extent_m(-1))}
        for index in range(pybullet.getNumJoints(robot, physicsClientId=self._client)):
            parent = int(pybullet.getJointInfo(robot, index, physicsClientId=self._client)[16])
            poses = [self.link_pose(self._names[(robot, i)]) for i in (index, parent)]
            found[index] = (parent, float(np.linalg.norm(poses[0][:3, 3] - poses[1][:3, 3])), self._extent_m(index))
        return found

    def _extent_m(self, index: int) -> float:
        """Distance from a link's frame to the farthest corner of its bounding box, metres."""
        if not pybullet.getCollisionShapeData(self._robot_id(), index, physicsClientId=self._client):
            return 0.0
        bounds = np.array(pybullet.getAABB(self._robot_id(), index, physicsClientId=self._client))
        origin = self.link_pose(self._names[(self._robot_id(), index)])[:3, 3]
        return float(np.linalg.norm(np.abs(bounds - origin).max(axis=0)))

    def _robot_id(self) -> int:
        if self._robot is None:
            raise RuntimeError("add a robot first")
        return self._robot

    def _check_joints(self, q_rad: Array, width_m: float) -> None:
        if self._robot is None:
            raise RuntimeError("add a robot first")
        q = np.asarray(q_rad)
        if q.shape != (len(self._joints),) or not np.isfinite(q).all() or not np.isfinite(width_m):
            raise ValueError(f"{len(self._joints)} finite joint positions needed, given {q!r}, width {width_m}")

    # ----------------------------------------------------------------------------------------- physics

    def step(self, count: int = 1) -> None:
        """Advance the physics by `count` time steps."""
        for _ in range(count):
            pybullet.stepSimulation(physicsClientId=self._client)
        self._steps += count

    def set_gravity(self, mps2: float = 9.81) -> None:
        """Pull everything down from the next step on; 0 lets it float."""
        if not np.isfinite(mps2):
            raise ValueError(f"gravity {mps2} must be finite")
        pybullet.setGravity(0.0, 0.0, -mps2, physicsClientId=self._client)

    def touching(self, *, detect: bool = False, of: Sequence[str] | None = None) -> list[Contact]:
        """Every pair that touches now; `detect` runs collision detection first (after a reset, without a step).

        A contact of a link pair is reported once, with its deepest point and summed force. `of` looks only at what
        touches the robot or one of these bodies, which is much quicker.
        """
        if detect:
            pybullet.performCollisionDetection(physicsClientId=self._client)
        found: dict[tuple[str, str], tuple[float, float]] = {}
        for point in self._contact_points(of):
            if point[8] > 0.0:
                continue
            pair = (self._names[(point[1], point[3])], self._names[(point[2], point[4])])
            pair = (pair[0], pair[1]) if pair[0] <= pair[1] else (pair[1], pair[0])
            depth_m, force_n = found.get(pair, (0.0, 0.0))
            found[pair] = (max(depth_m, -point[8]), force_n + point[9])
        return [Contact(a, b, depth_m, force_n) for (a, b), (depth_m, force_n) in sorted(found.items())]

    def _contact_points(self, of: Sequence[str] | None) -> list[tuple[Any, ...]]:
        if of is None:
            return list(pybullet.getContactPoints(physicsClientId=self._client))
        points: list[tuple[Any, ...]] = []
        seen: set[int] = set()
        for body in [self._robot_id(), *(self._id(name) for name in of)]:
            for point in pybullet.getContactPoints(bodyA=body, physicsClientId=self._client):
                other = point[2] if point[1] == body else point[1]
                if other not in seen:
                    points.append(point)
            seen.add(body)
        return points

    def scan(
        self,
        q_rad: Array,
        width_m: float,
        held: str | None = None,
        T_tool_held: Array | None = None,
        watched: Sequence[str] = (),
        pace: tuple[float, float, float] = (0.1, 0.0, 0.005),
    ) -> Scan:
        """Put the arm at each of many joints (m, n), with what it holds, and look for contact; no physics.

        Args:
            watched: bodies whose distance is measured at first and last and, in between, the more often the closer.
            pace: up to which distance to measure, how close nothing needs another look, and how far any point travels
                between two configurations, metres.
        """
        self._check_joints(np.zeros(len(self._joints)), width_m)
        if q_rad.ndim != 2 or q_rad.shape[1] != len(self._joints) or not np.isfinite(q_rad).all():
            raise ValueError(f"finite joint positions (m, {len(self._joints)}) needed, given {q_rad.shape}")
        p, client, robot, which = pybullet, self._client, self._robot_id(), self._joints + self._fingers
        fingers = [[width_m / len(self._fingers)]] * len(self._fingers)
        load = -1 if held is None else self._id(held)
        grip = {self._links[link] for link in self._profile.gripper.finger_links}
        if T_tool_held is not None:
            at, turned = T_tool_held[:3, 3].tolist(), quat_from_rotation(T_tool_held[:3, :3]).tolist()
        tool_m, touched = [], []
        looks: dict[str, list[tuple[int, float]]] = {name: [] for name in watched}
        due, soonest, last = dict.fromkeys(watched, 0), 0, len(q_rad) - 1
        for index, values in enumerate(q_rad[:, :, None].tolist()):
            p.resetJointStatesMultiDof(robot, which, values + fingers, physicsClientId=client)  # at rest
            tool = p.getLinkState(robot, self._tool, computeForwardKinematics=True, physicsClientId=client)
            tool_m.append(tool[4])
            if load >= 0:
                p.resetBasePositionAndOrientation(
                    load, *p.multiplyTransforms(tool[4], tool[5], at, turned), physicsClientId=client
                )
            p.performCollisionDetection(physicsClientId=client)
            points = p.getContactPoints(bodyA=robot, physicsClientId=client)
            # Of a point: bodies at 1 and 2, their links at 3 and 4, the distance at 8; the robot is body 1.
            is_hit = any(x[8] <= 0.0 and not (x[2] == load and x[3] in grip) for x in points)
            if not is_hit and load >= 0:
                points = p.getContactPoints(bodyA=load, physicsClientId=client)
                is_hit = any(x[8] <= 0.0 and robot not in (x[1], x[2]) for x in points)
            if is_hit:
                touched.append(index)
            if index >= soonest or index == last:
                for name in watched:
                    if index >= due[name] or index == last:
                        gap_m = self.clearance_m(name, held, pace[0])
                        looks[name].append((index, gap_m))
                        due[name] = index + max(_LOOK_CONFIGURATIONS, int((gap_m - pace[1]) / pace[2]))
                soonest = min(due.values(), default=last)
        return Scan(np.array(tool_m), touched, {name: np.array(found) for name, found in looks.items()})

    def clearance_m(self, name: str, held: str | None, limit_m: float) -> float:
        """Smallest distance of arm or load to a body now, at most `limit_m`; links that may touch the table, aside."""
        body = self._id(name)
        parts = [self._robot_id(), *([] if held is None else [self._id(held)])]
        gap_m = limit_m
        for part in parts:
            for point in pybullet.getClosestPoints(part, body, limit_m, physicsClientId=self._client):
                if point[8] < gap_m and not (name == TABLE and part == self._robot and point[3] in self._standing):
                    gap_m = float(point[8])
        return gap_m

    def distance_m(self, a: str, b: str, limit_m: float = 0.05) -> float:
        """Distance between two bodies or links now, negative where they overlap, `limit_m` where they are farther.

        It is computed anew from the poses, where `touching` may remember points of an earlier pose.
        """
        if not np.isfinite(limit_m):
            raise ValueError(f"limit {limit_m} m must be finite")
        (body_a, link_a), (body_b, link_b) = self._body_and_link(a), self._body_and_link(b)
        points = pybullet.getClosestPoints(
            body_a, body_b, limit_m, linkIndexA=link_a, linkIndexB=link_b, physicsClientId=self._client
        )
        return min((float(point[8]) for point in points), default=limit_m)

    def _body_and_link(self, name: str) -> tuple[int, int]:
        if name in self._ids:
            return self._ids[name], -1
        if self._robot is not None and name in self._links:
            return self._robot, self._links[name]
        raise KeyError(f"no body or link {name!r}; there are {sorted([*self._ids, *self._names.values()])}")

    # ---------------------------------------------------------------------------------------- pictures

    def render(
        self, intrinsics: Intrinsics, T_base_camera: Array, light: Light | None = None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.str_]]:
        """Picture of the world from an optical camera frame, by the software renderer.

        Returns:
            rgb (h, w, 3) uint8; depth (h, w) float32 in metres, NaN where nothing is; names (h, w) of the
            bodies seen ("" where nothing is, "robot" for every link of it). The names are the plant's truth.
        """
        k, lamp = intrinsics, light or Light()
        if not (0 < k.width_px <= 8192 and 0 < k.height_px <= 8192 and np.isfinite(T_base_camera).all()):
            raise ValueError(f"an image of {k.width_px}x{k.height_px} px from a finite pose is needed")
        _, _, rgba, buffer, mask = pybullet.getCameraImage(
            k.width_px,
            k.height_px,
            _view_matrix(T_base_camera),
            _projection_matrix(k),
            lightDirection=list(lamp.direction),
            lightAmbientCoeff=lamp.ambient,
            lightDiffuseCoeff=lamp.diffuse,
            lightSpecularCoeff=0.05,
            shadow=0,
            renderer=pybullet.ER_TINY_RENDERER,
            physicsClientId=self._client,
        )
        shape = (k.height_px, k.width_px)
        rgb = np.asarray(rgba, dtype=np.uint8).reshape(*shape, 4)[:, :, :3].copy()
        z = np.asarray(buffer, dtype=np.float64).reshape(shape)
        depth = _FAR_M * _NEAR_M / (_FAR_M - (_FAR_M - _NEAR_M) * z)
        ids = np.asarray(mask).reshape(shape)
        table = {body: name for name, body in self._ids.items()} | {-1: ""}
        if self._robot is not None:
            table[self._robot] = "robot"
        unique, inverse = np.unique(ids, return_inverse=True)
        names = np.array([table[int(i)] for i in unique])[inverse].reshape(shape)
        depth[ids < 0] = np.nan
        return rgb, depth.astype(np.float32), names


@contextlib.contextmanager
def robot_on_table(profile: RobotProfile) -> Iterator[BulletWorld]:
    """A world that holds a table and a robot."""
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(profile)
        yield world


@functools.cache
def _links_with_shapes(profile: RobotProfile) -> tuple[str, ...]:
    """Names of the URDF's links that have collision geometry."""
    tree = ElementTree.parse(profile.urdf_path)
    return tuple(str(link.get("name")) for link in tree.iter("link") if link.find("collision") is not None)


def _check_sizes(*sizes_m: float) -> None:
    if not all(np.isfinite(s) and s > 0 for s in sizes_m):
        raise ValueError(f"sizes {sizes_m} m must be finite and above 0")


def _panels_of(shape: Container | Bowl) -> list[tuple[Array, Array]]:
    """(size (3,), pose in the object frame) of floor and walls."""
    if isinstance(shape, Bowl):
        return _ring_panels(shape.diameter_m / 2, shape.diameter_m / 2 * _BOWL_BASE_RATIO, shape.height_m, shape.wall_m)
    if shape.is_round:
        return _ring_panels(shape.size_m[0] / 2, shape.size_m[0] / 2, shape.size_m[2], shape.wall_m)
    return _tray_panels(shape)


def _tray_panels(shape: Container) -> list[tuple[Array, Array]]:
    x, y, z = shape.size_m
    w = shape.wall_m
    _check_sizes(x - 2 * w, y - 2 * w, z - w, w)
    return [
        (np.array([x, y, w]), make_pose([0, 0, (w - z) / 2])),
        (np.array([w, y, z - w]), make_pose([(x - w) / 2, 0, w / 2])),
        (np.array([w, y, z - w]), make_pose([(w - x) / 2, 0, w / 2])),
        (np.array([x - 2 * w, w, z - w]), make_pose([0, (y - w) / 2, w / 2])),
        (np.array([x - 2 * w, w, z - w]), make_pose([0, (w - y) / 2, w / 2])),
    ]


def _ring_panels(rim_m: float, foot_m: float, height_m: float, wall_m: float) -> list[tuple[Array, Array]]:
    """An octagon-like floor and a ring of wall panels that lean from the foot's radius out to the rim's."""
    _check_sizes(foot_m - wall_m, height_m - wall_m, wall_m)
    tilt = np.arctan2(rim_m - foot_m, height_m)
    middle_m = (rim_m + foot_m) / 2 - wall_m / 2
    panels = []
    for index in range(_BOWL_PANELS):
        angle = 2 * np.pi * index / _BOWL_PANELS
        R = _rotation_zy(angle, tilt)
        p = [middle_m * np.cos(angle), middle_m * np.sin(angle), 0.0]
        width_m = 2 * rim_m * np.tan(np.pi / _BOWL_PANELS)
        panels.append((np.array([wall_m, width_m, height_m / np.cos(tilt)]), make_pose(p, R)))
    side_m = foot_m * np.sqrt(2.0)
    for angle in (0.0, np.pi / 4):  # two crossed squares make the floor
        size = np.array([side_m, side_m, wall_m])
        panels.append((size, make_pose([0, 0, (wall_m - height_m) / 2], _rotation_zy(angle, 0.0))))
    return panels


def _rotation_zy(yaw_rad: float, pitch_rad: float) -> Array:
    cz, sz, cy, sy = np.cos(yaw_rad), np.sin(yaw_rad), np.cos(pitch_rad), np.sin(pitch_rad)
    R: Array = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1.0]]) @ np.array([[cy, 0, sy], [0, 1.0, 0], [-sy, 0, cy]])
    return R


def _bowl_profile(shape: Bowl) -> list[tuple[float, float]]:
    rim, h, w = shape.diameter_m / 2, shape.height_m, shape.wall_m
    foot = rim * _BOWL_BASE_RATIO
    return [(0.0, -h / 2), (foot, -h / 2), (rim, h / 2), (rim - w, h / 2), (foot - w, w - h / 2), (0.0, w - h / 2)]


def _revolve(profile: list[tuple[float, float]]) -> tuple[list[list[float]], list[list[float]], list[int]]:
    """Surface of revolution of a profile (radius, height): vertices, normals and triangle indices."""
    count = 32
    vertices: list[list[float]] = []
    normals: list[list[float]] = []
    indices: list[int] = []
    for (r0, z0), (r1, z1) in zip(profile[:-1], profile[1:], strict=True):
        length = float(np.hypot(r1 - r0, z1 - z0))
        out_r, out_z = (z1 - z0) / length, -(r1 - r0) / length
        start = len(vertices)
        for i in range(count + 1):
            c, s = float(np.cos(2 * np.pi * i / count)), float(np.sin(2 * np.pi * i / count))
            vertices += [[r0 * c, r0 * s, z0], [r1 * c, r1 * s, z1]]
            normals += [[out_r * c, out_r * s, out_z]] * 2
        for i in range(count):
            a, b, c_, d = (start + 2 * i + k for k in range(4))
            indices += [a, c_, b, b, c_, d]
    return vertices, normals, indices


def _view_matrix(T_base_camera: Array) -> Sequence[float]:
    """OpenGL view matrix (column-major) of an optical camera frame."""
    T_base_gl = T_base_camera @ np.diag([1.0, -1.0, -1.0, 1.0])
    view: list[float] = np.linalg.inv(T_base_gl).T.ravel().tolist()
    return view


def _projection_matrix(k: Intrinsics) -> Sequence[float]:
    """OpenGL projection matrix (column-major) of pinhole intrinsics; pixel centres at whole numbers."""
    w, h = k.width_px, k.height_px
    matrix = np.zeros((4, 4))
    matrix[0, 0] = 2.0 * k.fx_px / w
    matrix[1, 1] = 2.0 * k.fy_px / h
    matrix[0, 2] = 1.0 - 2.0 * (k.cx_px + 0.5) / w
    matrix[1, 2] = 2.0 * (k.cy_px + 0.5) / h - 1.0
    matrix[2, 2] = -(_FAR_M + _NEAR_M) / (_FAR_M - _NEAR_M)
    matrix[2, 3] = -2.0 * _FAR_M * _NEAR_M / (_FAR_M - _NEAR_M)
    matrix[3, 2] = -1.0
    projection: list[float] = matrix.T.ravel().tolist()
    return projection
