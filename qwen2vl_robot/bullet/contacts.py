"""Poses of arm and bodies → contacts, distances, and what a scan of many arm poses touches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen2vl_robot.bullet.client import TABLE, Client, pybullet
from qwen2vl_robot.bullet.robot import BulletRobot
from qwen2vl_robot.geometry import Array, quat_from_rotation

_LOOK_CONFIGURATIONS = 3  # at least this many between two measurements of a clearance


@dataclass(frozen=True, slots=True)
class Contact:
    """Two named bodies (URDF links, objects, "table") that touch.

    Attributes:
        depth_m: depth of the overlap, positive.
        force_n: normal force; 0 without a physics step.
    """

    a: str
    b: str
    depth_m: float
    force_n: float


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """The result of moving the arm through many configurations.

    Attributes:
        tool_m: (m, 3) positions of the tool.
        touched: indices of configurations with a contact of arm or load, except between fingers and load.
        gaps: for each watched body (k, 2): index of a measured configuration, and distance from arm or load, metres.
    """

    tool_m: Array
    touched: list[int]
    gaps: dict[str, Array]


class Contacts:
    """Contacts and distances between the bodies of one connection and its robot, if there is one."""

    def __init__(self, client: Client, robot: BulletRobot | None) -> None:
        self._client = client
        self._robot = robot

    def touching(self, *, detect: bool = False, of: Sequence[str] | None = None) -> list[Contact]:
        """List every pair that touches now; `detect` runs collision detection first (after a reset, without a step).

        Each pair is reported once, with its deepest point and the sum of its forces. `of` limits the search to contacts
        of the robot or one of these bodies, which is much faster.
        """
        names = self._client.names
        if detect:
            pybullet.performCollisionDetection(physicsClientId=self._client.id)
        pairs: dict[tuple[str, str], tuple[float, float]] = {}
        for point in self._points(of):
            if point[8] > 0.0:
                continue
            pair = (names[(point[1], point[3])], names[(point[2], point[4])])
            pair = (pair[0], pair[1]) if pair[0] <= pair[1] else (pair[1], pair[0])
            depth_m, force_n = pairs.get(pair, (0.0, 0.0))
            pairs[pair] = (max(depth_m, -point[8]), force_n + point[9])
        return [Contact(a, b, depth_m, force_n) for (a, b), (depth_m, force_n) in sorted(pairs.items())]

    def pressed(self) -> Iterator[tuple[str, float]]:
        """Yield what the robot touches now, and with what force, newtons."""
        links = set(self._arm().link_names())
        for contact in self.touching(of=[]):
            if (contact.a in links) != (contact.b in links):
                yield (contact.b if contact.a in links else contact.a), contact.force_n

    def _points(self, of: Sequence[str] | None) -> list[tuple[Any, ...]]:
        """Get Bullet's contact points: bodies at 1 and 2, their links at 3 and 4, distance at 8, force at 9."""
        client = self._client.id
        if of is None:
            return list(pybullet.getContactPoints(physicsClientId=client))
        points: list[tuple[Any, ...]] = []
        seen: set[int] = set()
        for body in [self._arm().body, *(self._client.body(name) for name in of)]:
            for point in pybullet.getContactPoints(bodyA=body, physicsClientId=client):
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
        """Put the arm and its load at each of many joints (m, n) and look for contacts; no physics.

        Args:
            watched: bodies whose distance is measured at both ends and in between, more often when they are close.
            pace: largest distance to measure, distance below which to measure most often, and the longest path of any
                point between two configurations, metres.
        """
        arm = self._arm()
        if q_rad.ndim != 2 or q_rad.shape[1] != len(arm.joints) or not np.isfinite(q_rad).all():
            raise ValueError(f"finite joint positions (m, {len(arm.joints)}) needed, given {q_rad.shape}")
        if not np.isfinite(width_m):
            raise ValueError(f"gripper width {width_m} m must be finite")
        p, client, robot, which = pybullet, self._client.id, arm.body, arm.joints + arm.fingers
        fingers = [[position] for position in arm.finger_positions(width_m)]
        load = -1 if held is None else self._client.body(held)
        grip = {arm.links[link] for link in arm.profile.gripper.finger_links}
        if T_tool_held is not None:
            at, turned = T_tool_held[:3, 3].tolist(), quat_from_rotation(T_tool_held[:3, :3]).tolist()
        tool_m, touched = [], []
        looks, last = _Looks(watched, pace), len(q_rad) - 1
        for index, values in enumerate(q_rad[:, :, None].tolist()):
            p.resetJointStatesMultiDof(robot, which, values + fingers, physicsClientId=client)  # at rest
            tool = p.getLinkState(robot, arm.tool, computeForwardKinematics=True, physicsClientId=client)
            tool_m.append(tool[4])
            if load >= 0:
                p.resetBasePositionAndOrientation(
                    load, *p.multiplyTransforms(tool[4], tool[5], at, turned), physicsClientId=client
                )
            p.performCollisionDetection(physicsClientId=client)
            points = p.getContactPoints(bodyA=robot, physicsClientId=client)
            # The queried body is body 1 of each point; `_points` explains the indices.
            is_hit = any(x[8] <= 0.0 and not (x[2] == load and x[3] in grip) for x in points)
            if not is_hit and load >= 0:
                points = p.getContactPoints(bodyA=load, physicsClientId=client)
                is_hit = any(x[8] <= 0.0 and robot not in (x[1], x[2]) for x in points)
            if is_hit:
                touched.append(index)
            if index >= looks.soonest or index == last:
                for name in watched if index == last else looks.due(index):
                    looks.record(name, index, self.clearance_m(name, held, pace[0]))
        return Scan(np.array(tool_m), touched, {name: np.array(gaps) for name, gaps in looks.gaps.items()})

    def clearance_m(self, name: str, held: str | None, limit_m: float) -> float:
        """Measure how close arm or load are to a body, at most `limit_m`; ignore links that may touch the table."""
        robot, body, client = self._arm(), self._client.body(name), self._client.id
        parts = [robot.body, *([] if held is None else [self._client.body(held)])]
        gap_m = limit_m
        for part in parts:
            for point in pybullet.getClosestPoints(part, body, limit_m, physicsClientId=client):
                if point[8] < gap_m and not (name == TABLE and part == robot.body and point[3] in robot.standing):
                    gap_m = float(point[8])
        return gap_m

    def distance_m(self, a: str, b: str, limit_m: float = 0.05) -> float:
        """Measure the distance between two bodies or links; negative in overlap, `limit_m` if they are farther apart.

        The distance is computed from the current poses, whereas `touching` may hold points of an earlier pose.
        """
        if not np.isfinite(limit_m):
            raise ValueError(f"limit {limit_m} m must be finite")
        (body_a, link_a), (body_b, link_b) = self._body_and_link(a), self._body_and_link(b)
        points = pybullet.getClosestPoints(
            body_a, body_b, limit_m, linkIndexA=link_a, linkIndexB=link_b, physicsClientId=self._client.id
        )
        return min((float(point[8]) for point in points), default=limit_m)

    def _body_and_link(self, name: str) -> tuple[int, int]:
        if name in self._client.bodies:
            return self._client.bodies[name], -1
        if self._robot is not None and name in self._robot.links:
            return self._robot.body, self._robot.links[name]
        raise KeyError(f"no body or link {name!r}; there are {sorted(set(self._client.names.values()))}")

    def _arm(self) -> BulletRobot:
        if self._robot is None:
            raise RuntimeError("add a robot first")
        return self._robot


class _Looks:
    """Schedules the measurements of watched bodies during a scan: the closer a body, the sooner the next one.

    Attributes:
        gaps: (configuration, distance) of each measurement of each body.
        soonest: the first configuration at which a measurement is due.
    """

    def __init__(self, watched: Sequence[str], pace: tuple[float, float, float]) -> None:
        _, self._near_m, self._step_m = pace
        self.gaps: dict[str, list[tuple[int, float]]] = {name: [] for name in watched}
        self._next = dict.fromkeys(watched, 0)
        self.soonest = 0

    def due(self, index: int) -> list[str]:
        return [name for name, at in self._next.items() if index >= at]

    def record(self, name: str, index: int, gap_m: float) -> None:
        self.gaps[name].append((index, gap_m))
        self._next[name] = index + max(_LOOK_CONFIGURATIONS, int((gap_m - self._near_m) / self._step_m))
        self.soonest = min(self._next.values())
