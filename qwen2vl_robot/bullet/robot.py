"""A world's robot: joints and fingers to place, drive and measure, their torques and reach."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.bullet import urdf
from qwen2vl_robot.bullet.client import TABLE, Client, pybullet
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, make_pose, rotation_from_quat
from qwen2vl_robot.joint_kinds import followers

_FINGER_ERP = 0.2
_POSITION_GAIN, _VELOCITY_GAIN = 0.3, 1.0  # of Bullet's motors: share of the error that one step removes
_FINGER_COUPLING_N = 500.0  # far above any grasp force, so that the coupling is stiff
# A linkage of turning joints. Bullet's solver goes from joint to joint, and between links of 20 g and 1e-6 kg m^2 it
# has not settled after 80 rounds: pads that should press with 20 N gave 5 N, and leaned by 5 degrees. A geared drive
# turns with more inertia than its links have; 1e-3 kg m^2 and twice the rounds leave 20 N and half a degree.
_LINKAGE_KGM2, _LINKAGE_ROUNDS, _LINKAGE_ERP = 1e-3, 160, 1.0


class BulletRobot:
    """One loaded robot, valid until the world's next reset; checks every number before Bullet gets it.

    Attributes:
        body: Bullet's id.
        joints, fingers: indices of the profile's joints, and of the gripper's with those that follow them.
        links: index of each link by its URDF name; the base is -1.
        tool: index of the profile's tool link.
        standing: links that may touch the table.
    """

    def __init__(self, client: Client, profile: RobotProfile) -> None:
        """Load the robot with open fingers, at home.

        Raises:
            ValueError: the URDF or one of its meshes does not load, or it lacks joints or links of the profile.
            BadInputError: a mesh file is missing.
        """
        loaded = urdf.load(client, profile)
        self._client = client
        self.profile = profile
        self.body = loaded.body
        self.links = loaded.links
        self.joints = [loaded.joints[j.name] for j in profile.joints]
        self._followers = followers(profile)
        self._drivers = [loaded.joints[j] for j in profile.gripper.joints]
        self.fingers = self._drivers + [loaded.joints[f.name] for f in self._followers]
        self.tool = loaded.links[profile.tool_link]
        standing = {link for pair in profile.allowed_contacts if TABLE in pair for link in pair} - {TABLE}
        self.standing = {loaded.links[link] for link in standing}
        self._moving = self.joints + self.fingers
        self._efforts = [j.effort_nm for j in profile.joints]
        self._gains = [_POSITION_GAIN] * len(self.joints), [_VELOCITY_GAIN] * len(self.joints)
        self._slides = {i for i in self.fingers if _joint_kind(self._client, self.body, i) == pybullet.JOINT_PRISMATIC}
        self._couple_fingers()
        self.reset_arm(np.array(profile.home_q_rad), profile.gripper.max_width_m)
        self._chain = self._measure_links()
        client.names.update({(self.body, index): link for link, index in self.links.items()})

    def _couple_fingers(self) -> None:
        """Make the fingers move as mirror images, and what follows them follow, as the gripper's mechanism does.

        Two independent motors with equal forces would let the object between the fingers drift.
        """
        erp = _FINGER_ERP
        if len(self._slides) < len(self.fingers):
            erp = _LINKAGE_ERP
            _settle_linkage(self._client, self.body, self.fingers)
        pairs = [(self._drivers[0], other, 1.0, 0.0) for other in self._drivers[1:]]
        for other, f in zip(self.fingers[len(self._drivers) :], self._followers, strict=True):
            pairs.append((self._drivers[f.driver], other, f.multiplier, f.offset))
            pybullet.setJointMotorControl2(  # Bullet gives each joint a motor that brakes it
                self.body, other, pybullet.VELOCITY_CONTROL, force=0.0, physicsClientId=self._client.id
            )
        for pair in pairs:
            _gear(self._client, self.body, *pair, erp)

    def finger_positions(self, width_m: float) -> list[float]:
        """Compute the position of each joint of `fingers` at a width."""
        driver = self.profile.gripper.position(width_m)
        return [driver] * len(self._drivers) + [f.position(driver) for f in self._followers]

    # ----------------------------------------------------------------------------------------- commands

    def reset_arm(self, q_rad: Array, width_m: float | None) -> None:
        """Set joints (n,) and gripper width, at rest; without a width the fingers stay where they are."""
        self._check_joints(q_rad, width_m or 0.0)
        fingers = self._joint_values()[2] if width_m is None else self.finger_positions(width_m)
        values = [[float(q)] for q in q_rad] + [[q] for q in fingers]
        pybullet.resetJointStatesMultiDof(
            self.body,
            self._moving,
            values,
            targetVelocities=[[0.0]] * len(values),
            physicsClientId=self._client.id,
        )

    def command_arm(self, q_rad: Array, dq_radps: Array | None = None) -> None:
        """Set the position (and velocity) targets (n,) of the joint motors."""
        self._check_joints(q_rad, 0.0)
        velocities = np.zeros(len(q_rad)) if dq_radps is None else np.asarray(dq_radps)
        if not np.isfinite(velocities).all():
            raise ValueError("velocity targets must be finite")
        self._drive([float(q) for q in q_rad], [float(v) for v in velocities])

    def follow(self, q_rad: Array, dq_radps: Array) -> None:
        """Drive the motors through positions (k, n) and velocities (k, n), one physics step each."""
        if q_rad.shape != dq_radps.shape or q_rad.shape[1:] != (len(self.joints),):
            raise ValueError(f"targets (k, {len(self.joints)}) needed, given {q_rad.shape} and {dq_radps.shape}")
        if not (np.isfinite(q_rad).all() and np.isfinite(dq_radps).all()):
            raise ValueError("joint targets must be finite")
        client = self._client
        for q, dq in zip(q_rad.tolist(), dq_radps.tolist(), strict=True):
            self._drive(q, dq)
            pybullet.stepSimulation(physicsClientId=client.id)
        client.steps += len(q_rad)

    def _drive(self, q: list[float], dq: list[float]) -> None:
        """Set the motors' targets, which the caller has checked."""
        gains = self._gains
        pybullet.setJointMotorControlArray(
            self.body,
            self.joints,
            pybullet.POSITION_CONTROL,
            targetPositions=q,
            targetVelocities=dq,
            forces=self._efforts,
            positionGains=gains[0],
            velocityGains=gains[1],
            physicsClientId=self._client.id,
        )

    def command_gripper(self, width_m: float, force_n: float, *, speed_ratio: float = 1.0) -> None:
        """Drive the fingers towards a width with at most `force_n` each, at this share of the declared speed."""
        if not (np.isfinite(width_m) and np.isfinite(force_n)) or force_n < 0:
            raise ValueError(f"gripper width {width_m} m and force {force_n} N must be finite, force not negative")
        gripper, drivers = self.profile.gripper, self._drivers
        position = gripper.position(min(max(width_m, 0.0), gripper.max_width_m))
        for finger in drivers:
            pybullet.setJointMotorControl2(
                self.body,
                finger,
                pybullet.POSITION_CONTROL,
                targetPosition=position,
                force=force_n / (gripper.travel_per_m * len(drivers)),  # the same work at the pads
                maxVelocity=speed_ratio * gripper.speed_mps * gripper.travel_per_m,
                physicsClientId=self._client.id,
            )

    def _check_joints(self, q_rad: Array, width_m: float) -> None:
        q = np.asarray(q_rad)
        if q.shape != (len(self.joints),) or not np.isfinite(q).all() or not np.isfinite(width_m):
            raise ValueError(f"{len(self.joints)} finite joint positions needed, given {q!r}, width {width_m}")

    # ------------------------------------------------------------------------------------------ measures

    def arm_state(self) -> tuple[Array, Array, float]:
        """Read joint positions (n,) rad, velocities (n,) rad/s and the gripper width in metres."""
        q, dq, fingers = self._joint_values()
        return q, dq, float(self.profile.gripper.width_m(fingers[: len(self._drivers)]))

    def _joint_values(self) -> tuple[Array, Array, list[float]]:
        """Read positions (n,) and velocities (n,) of the arm, and the position of each joint of `fingers`."""
        states = pybullet.getJointStates(self.body, self._moving, physicsClientId=self._client.id)
        n = len(self.joints)
        return np.array([s[0] for s in states[:n]]), np.array([s[1] for s in states[:n]]), [s[0] for s in states[n:]]

    def efforts_nm(self) -> Array:
        """Read the torque (n,) with which each joint's motor drove it in the last step."""
        states = pybullet.getJointStates(self.body, self.joints, physicsClientId=self._client.id)
        return np.array([s[3] for s in states])

    def finger_speed_mps(self) -> float:
        """Read the speed of the faster finger."""
        states = pybullet.getJointStates(self.body, self._drivers, physicsClientId=self._client.id)
        return max(abs(float(s[1])) for s in states) / (2 * self.profile.gripper.travel_per_m)

    def tool_pose(self) -> Array:
        """Compute `T_base_tool` (4, 4) of the profile's tool link."""
        return self._link_pose(self.tool)

    def link_pose(self, link: str) -> Array:
        """Compute `T_base_link` (4, 4) of a URDF link's own frame."""
        if link not in self.links:
            raise KeyError(f"no link {link!r}")
        return self._link_pose(self.links[link])

    def _link_pose(self, index: int) -> Array:
        if index == -1:
            p, q = pybullet.getBasePositionAndOrientation(self.body, physicsClientId=self._client.id)
        else:
            state = pybullet.getLinkState(
                self.body, index, computeForwardKinematics=True, physicsClientId=self._client.id
            )
            p, q = state[4], state[5]  # the link frame; 0 and 1 are the centre of mass
        return make_pose(p, rotation_from_quat(q))

    def link_names(self) -> list[str]:
        """List the names of the robot's links in its URDF."""
        return list(self.links)

    def rounding_m(self) -> dict[str, float]:
        """Read by how much Bullet enlarges each link's convex hulls of meshes: its collision margin."""
        margins_m, client = {}, self._client.id
        for link, index in self.links.items():
            kinds = {shape[2] for shape in pybullet.getCollisionShapeData(self.body, index, physicsClientId=client)}
            margin_m = float(pybullet.getDynamicsInfo(self.body, index, physicsClientId=client)[11])
            margins_m[link] = margin_m if pybullet.GEOM_MESH in kinds else 0.0
        return margins_m

    # ---------------------------------------------------------------------------------- torques and reach

    def torques_nm(self, q_rad: Array, dq_radps: Array, ddq_radps2: Array, load_kg: float = 0.0) -> Array:
        """Compute joint torques (m, n) for states (m, n) of motion, with a load at the tool frame's origin."""
        joints, robot, client = len(self.joints), self.body, self._client.id
        order = np.argsort(self._moving)  # Bullet takes and gives all joints by their index
        places = np.argsort(order)[:joints]
        states = np.stack([np.asarray(v, dtype=np.float64) for v in (q_rad, dq_radps, ddq_radps2)])
        if states.ndim != 3 or states.shape[2] != joints or not (np.isfinite(states).all() and np.isfinite(load_kg)):
            raise ValueError(f"finite states (m, {joints}) and load needed, given {states.shape}, {load_kg} kg")
        states = np.concatenate([states, np.zeros((3, states.shape[1], len(self.fingers)))], axis=2)[:, :, order]
        needed, linear = [], []
        for q, dq, ddq in zip(*states.tolist(), strict=True):
            needed.append(pybullet.calculateInverseDynamics(robot, q, dq, ddq, physicsClientId=client))
            if load_kg:
                J = pybullet.calculateJacobian(robot, self.tool, [0.0] * 3, q, dq, ddq, physicsClientId=client)
                linear.append(J[0])
        torques = np.array(needed)
        if load_kg:
            J_tool = np.array(linear)
            pull_mps2 = np.einsum("mij,mj->mi", J_tool, states[2]) + np.array([0.0, 0.0, 9.81])
            torques += load_kg * np.einsum("mij,mi->mj", J_tool, pull_mps2)
        return torques[:, places]

    def reach_m(self, beyond_tool_m: float = 0.0) -> Array:
        """Bound how far each joint (n,) can move any point, metres per radian.

        The bound is the longest path along the chain from the joint to a point of any link that it moves, or to a point
        `beyond_tool_m` from the tool frame; it holds in every configuration.
        """
        reach_m = np.zeros(len(self.joints))
        for index, (_, _, way_m) in self._chain.items():
            if index == self.tool:
                way_m = max(way_m, beyond_tool_m)
            while index >= 0:
                if index in self.joints:
                    which = self.joints.index(index)
                    reach_m[which] = max(reach_m[which], way_m)
                elif index in self._slides:
                    way_m += self.profile.gripper.max_width_m
                index, offset_m, _ = self._chain[index]
                way_m += offset_m
        return reach_m

    def _measure_links(self) -> dict[int, tuple[int, float, float]]:
        """Measure each link: its parent, the distance of its frame from the parent's, and the reach of its shape."""
        measured = {-1: (-1, 0.0, self._extent_m(-1))}
        for index in range(pybullet.getNumJoints(self.body, physicsClientId=self._client.id)):
            parent = int(pybullet.getJointInfo(self.body, index, physicsClientId=self._client.id)[16])
            offset_m = self._link_pose(index)[:3, 3] - self._link_pose(parent)[:3, 3]
            measured[index] = (parent, float(np.linalg.norm(offset_m)), self._extent_m(index))
        return measured

    def _extent_m(self, index: int) -> float:
        """Measure the distance from a link's frame to the farthest corner of its bounding box, metres."""
        if not pybullet.getCollisionShapeData(self.body, index, physicsClientId=self._client.id):
            return 0.0
        bounds = np.array(pybullet.getAABB(self.body, index, physicsClientId=self._client.id))
        return float(np.linalg.norm(np.abs(bounds - self._link_pose(index)[:3, 3]).max(axis=0)))


def _settle_linkage(client: Client, body: int, fingers: list[int]) -> None:
    """Let Bullet's solver come to its result where turning joints follow each other under load."""
    pybullet.setPhysicsEngineParameter(numSolverIterations=_LINKAGE_ROUNDS, physicsClientId=client.id)
    for index in fingers:
        own = pybullet.getDynamicsInfo(body, index, physicsClientId=client.id)[2]
        inertia = [max(value, _LINKAGE_KGM2) for value in own]
        pybullet.changeDynamics(body, index, localInertiaDiagonal=inertia, physicsClientId=client.id)


def _joint_kind(client: Client, body: int, index: int) -> int:
    return int(pybullet.getJointInfo(body, index, physicsClientId=client.id)[2])


def _gear(client: Client, body: int, driver: int, other: int, multiplier: float, offset: float, erp: float) -> None:
    """Hold a joint at multiplier · driver + offset; `erp` is the share of an error that a step removes."""
    gear: int = pybullet.createConstraint(
        body,
        driver,
        body,
        other,
        pybullet.JOINT_GEAR,
        jointAxis=[1, 0, 0],
        parentFramePosition=[0, 0, 0],
        childFramePosition=[0, 0, 0],
        physicsClientId=client.id,
    )
    pybullet.changeConstraint(  # Bullet holds other = (driver - target) / -ratio
        gear,
        gearRatio=-1.0 / multiplier,
        relativePositionTarget=-offset / multiplier,
        erp=erp,
        maxForce=_FINGER_COUPLING_N,
        physicsClientId=client.id,
    )
