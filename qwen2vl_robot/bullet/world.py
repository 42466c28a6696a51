"""BulletWorld: named bodies in one space with one clock; its robot, contacts and pictures.

Twin and plant each own an instance in their own process.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bullet.camera import Light, Rendering, render, render_bodies
from qwen2vl_robot.bullet.client import TABLE, TIME_STEP_S, Client, pybullet
from qwen2vl_robot.bullet.contacts import Contacts
from qwen2vl_robot.bullet.robot import BulletRobot
from qwen2vl_robot.bullet.shapes import Bowl, make_shape
from qwen2vl_robot.bullet.veil import Veil
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, make_pose, quat_from_rotation, rotation_from_quat
from qwen2vl_robot.meshes import Mesh
from qwen2vl_robot.messages import Box, Intrinsics, Shape


@dataclass(frozen=True, slots=True)
class Friction:
    """Friction coefficients of a body; without rolling friction a touched ball rolls on forever."""

    sliding: float = 0.8
    rolling: float = 0.0


class BulletWorld:
    """One DIRECT connection with a table, at most one robot and any number of named bodies.

    Attributes:
        contacts: contacts and distances; a new object after `reset` and after `add_robot`.
    """

    def __init__(self) -> None:
        self._client = Client()
        self._textures: dict[str, int] = {"": -1}
        self._robot: BulletRobot | None = None
        self._veil: Veil | None = None
        self.contacts = Contacts(self._client, None)

    def reset(self) -> None:
        """Remove everything and start at time zero."""
        self._client.reset()
        self._robot = self._veil = None
        self.contacts = Contacts(self._client, None)

    def close(self) -> None:
        """Disconnect; the world cannot be used afterwards."""
        self._client.close()

    def __enter__(self) -> BulletWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------- time

    @property
    def time_s(self) -> float:
        return self._client.steps * TIME_STEP_S

    def step(self, count: int = 1) -> None:
        """Advance the physics by `count` time steps."""
        self._client.step(count)

    def set_gravity(self, mps2: float = 9.81) -> None:
        """Set the downward gravity from the next step on; 0 turns it off."""
        self._client.set_gravity(mps2)

    # ------------------------------------------------------------------------------------------- robot

    def add_robot(self, profile: RobotProfile) -> None:
        """Load the robot with its base at the origin, after the table; allowed contacts never collide.

        Raises:
            ValueError: the URDF or one of its meshes does not load, or it lacks joints or links of the profile.
            BadInputError: a mesh file is missing.
        """
        self._robot, self._veil = BulletRobot(self._client, profile), None
        self.contacts = Contacts(self._client, self._robot)

    @property
    def robot(self) -> BulletRobot:
        """The world's robot.

        Raises:
            RuntimeError: the world has no robot.
        """
        if self._robot is None:
            raise RuntimeError("add a robot first")
        return self._robot

    def carry_arm(self, q_rad: Array, held: str | None) -> None:
        """Move the arm to joints (n,), at rest, and the held object with it; the fingers stay as they are."""
        robot = self.robot
        T_tool_held = None if held is None else np.linalg.inv(robot.tool_pose()) @ self.pose(held)
        robot.reset_arm(q_rad, None)
        if held is not None and T_tool_held is not None:
            self.set_pose(held, robot.tool_pose() @ T_tool_held)

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
        friction: Friction = Friction(),
        rgb: tuple[float, float, float] | None = (180, 180, 180),
        collides: bool = True,
    ) -> None:
        """Add a named body; mass 0 fixes it in space.

        A body without `rgb` is invisible in pictures; this saves memory, because Bullet never frees a drawn mesh.

        Raises:
            ValueError: the name is taken, or a number is not finite or negative.
        """
        client = self._client
        if name in client.names.values():
            raise ValueError(f"the name {name!r} is taken")
        amounts = (mass_kg, friction.sliding, friction.rolling)
        if not np.isfinite([*np.ravel(T_base_object), *amounts, *(rgb or ())]).all() or min(amounts) < 0.0:
            raise ValueError(f"{name}: pose, mass and friction must be finite, mass and friction not negative")
        colour = None if rgb is None else [c / 255.0 for c in rgb] + [1.0]
        collision, visual = make_shape(client.id, shape, colour, collides)
        body: int = pybullet.createMultiBody(
            baseMass=mass_kg,
            baseCollisionShapeIndex=collision,
            baseVisualShapeIndex=visual,
            basePosition=T_base_object[:3, 3].tolist(),
            baseOrientation=quat_from_rotation(T_base_object[:3, :3]).tolist(),
            physicsClientId=client.id,
        )
        if body < 0:
            raise RuntimeError(f"{name}: Bullet created no body")
        pybullet.changeDynamics(
            body,
            -1,
            lateralFriction=friction.sliding,
            rollingFriction=friction.rolling,
            spinningFriction=0.002,
            linearDamping=0.04,
            angularDamping=0.04,
            physicsClientId=client.id,
        )
        client.bodies[name] = body
        client.names[(body, -1)] = name

    def remove(self, name: str) -> None:
        """Remove a named body."""
        body = self._client.body(name)
        pybullet.removeBody(body, physicsClientId=self._client.id)
        del self._client.bodies[name]
        del self._client.names[(body, -1)]

    def names(self) -> list[str]:
        """List the names of all bodies except the robot."""
        return list(self._client.bodies)

    def pose(self, name: str) -> Array:
        """Read `T_base_object` (4, 4) of a named body."""
        client = self._client
        p, q = pybullet.getBasePositionAndOrientation(client.body(name), physicsClientId=client.id)
        return make_pose(p, rotation_from_quat(q))

    def set_pose(self, name: str, T_base_object: Array) -> None:
        """Place a named body, at rest."""
        if not np.isfinite(T_base_object).all():
            raise ValueError(f"{name}: the pose is not finite")
        body, client = self._client.body(name), self._client.id
        position, quat = T_base_object[:3, 3].tolist(), quat_from_rotation(T_base_object[:3, :3]).tolist()
        pybullet.resetBasePositionAndOrientation(body, position, quat, physicsClientId=client)
        pybullet.resetBaseVelocity(body, [0, 0, 0], [0, 0, 0], physicsClientId=client)

    def set_velocity(self, name: str, velocity_mps: Array) -> None:
        """Give a named body a linear velocity (3,)."""
        if not np.isfinite(velocity_mps).all():
            raise ValueError(f"{name}: the velocity is not finite")
        pybullet.resetBaseVelocity(self._client.body(name), velocity_mps.tolist(), physicsClientId=self._client.id)

    def speed_mps(self, name: str) -> float:
        """Read the linear speed of a named body."""
        linear, _ = pybullet.getBaseVelocity(self._client.body(name), physicsClientId=self._client.id)
        return math.hypot(*linear)

    def is_fixed(self, name: str) -> bool:
        """Whether a named body is fixed in space."""
        return float(pybullet.getDynamicsInfo(self._client.body(name), -1, physicsClientId=self._client.id)[0]) == 0.0

    def put_to_sleep(self, name: str) -> None:
        """Stop simulating a body at rest until a moving body touches it."""
        for state in (pybullet.ACTIVATION_STATE_ENABLE_SLEEPING, pybullet.ACTIVATION_STATE_SLEEP):
            pybullet.changeDynamics(self._client.body(name), -1, activationState=state, physicsClientId=self._client.id)

    # ---------------------------------------------------------------------------------------- pictures

    def set_colour(self, name: str, rgb: tuple[float, float, float]) -> None:
        """Set the colour of a named body, sRGB 0..255."""
        colour = [c / 255.0 for c in rgb] + [1.0]
        pybullet.changeVisualShape(self._client.body(name), -1, rgbaColor=colour, physicsClientId=self._client.id)

    def set_texture(self, name: str, file: str) -> None:
        """Put a picture from pybullet_data on a named body, or remove it ("")."""
        body, client = self._client.body(name), self._client.id
        if file not in self._textures:
            path = str(resources.files("pybullet_data") / file)
            self._textures[file] = pybullet.loadTexture(path, physicsClientId=client)
        pybullet.changeVisualShape(body, -1, textureUniqueId=self._textures[file], physicsClientId=client)

    def render(self, intrinsics: Intrinsics, T_base_camera: Array, light: Light | None = None) -> Rendering:
        """Render a picture from an optical camera frame; see `camera.render` for the result and errors."""
        return render(self._client, intrinsics, T_base_camera, light or Light())

    def render_bodies(
        self, intrinsics: Intrinsics, T_base_camera: Array, light: Light | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.intp]]]:
        """Render the same picture faster, without depth, and without drawing what is outside of it.

        Returns:
            rgb (h, w, 3) uint8; the flat indices of the pixels that show each named body but the table.
        """
        if self._robot is not None and self._veil is None:
            self._veil = Veil(self._client, self._robot.body)
        with self._veil.drawn(intrinsics, T_base_camera) if self._veil else contextlib.nullcontext():
            rgb, ids = render_bodies(self._client, intrinsics, T_base_camera, light or Light())
        flat = ids.ravel()
        bodies = {name: body for name, body in self._client.bodies.items() if name != TABLE}
        return rgb, {name: np.flatnonzero(flat == body) for name, body in bodies.items()}


@contextlib.contextmanager
def robot_on_table(profile: RobotProfile) -> Iterator[BulletWorld]:
    """Create a world with a table and a robot."""
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(profile)
        yield world
