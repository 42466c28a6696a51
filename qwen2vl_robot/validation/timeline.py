"""A motion's segments → joint positions at any time, and the gripper segments."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import GripperSegment, JointSegment, Motion, RobotState
from qwen2vl_robot.retreat import guarded_segment

Span = tuple[float, float]  # from and to, seconds from the motion's start
_HASTE = 5.0  # 40 mm/s: slower than any other descent, and nothing in the twin depends on speed there


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The joints over the time of a motion: linear between points, at rest while the gripper moves.

    Attributes:
        time_s: (m,) increasing from 0.
        q_rad: (m, n) joint positions.
        grips: the gripper segments.
    """

    time_s: Array
    q_rad: Array
    grips: tuple[GripperSegment, ...]

    @property
    def end_s(self) -> float:
        return float(self.time_s[-1])

    def q_at(self, time_s: Array) -> Array:
        """Interpolate joint positions (k, n) at times (k,); the arm rests before the start and after the end."""
        columns = [np.interp(time_s, self.time_s, self.q_rad[:, j]) for j in range(self.q_rad.shape[1])]
        return np.stack(columns, axis=1)

    def even_travel(self, start_s: float, end_s: float, reach_m: Array, step_m: float) -> Array:
        """Choose times (k,) from start to end so that no point of the arm travels more than `step_m` between two.

        Args:
            reach_m: (n,) the farthest that one radian of each joint moves any point, metres.
        """
        inside = self.time_s[(self.time_s > start_s) & (self.time_s < end_s)]
        time_s = np.concatenate([[start_s], inside, [end_s]])
        travel_m = np.abs(np.diff(self.q_at(time_s), axis=0)) @ reach_m
        way_m = np.concatenate([[0.0], np.cumsum(travel_m)])
        count = int(np.ceil(way_m[-1] / step_m)) + 1
        if count < 2:
            return np.array([start_s, end_s])
        sampled_s: Array = np.interp(np.linspace(0.0, way_m[-1], count), way_m, time_s)
        return sampled_s


def timeline(motion: Motion, start: RobotState) -> Timeline:
    """Join the segments; a motion that only moves the gripper keeps the arm where it is."""
    time_s: list[Array] = []
    q_rad: list[Array] = []
    rest = next((s.q_rad[0] for s in motion.segments if isinstance(s, JointSegment)), start.q_rad)
    for segment in motion.segments:
        if isinstance(segment, JointSegment):
            time_s.append(segment.time_s)
            q_rad.append(segment.q_rad)
            rest = segment.q_rad[-1]
        else:
            time_s.append(np.array([segment.start_s, segment.end_s]))
            q_rad.append(np.stack([rest, rest]))
    times, first = np.unique(np.concatenate(time_s), return_index=True)
    grips = tuple(s for s in motion.segments if isinstance(s, GripperSegment))
    return Timeline(times, np.concatenate(q_rad)[first], grips)


@dataclass(frozen=True, slots=True)
class Haste:
    """The time of a run that goes through a motion's guarded segment faster than the arm will.

    So slow a descent pushes what it meets by as much as a faster one and no harder; it only takes longer to simulate.

    Attributes:
        start_s, end_s: of that segment, in the motion's own time; alike where there is none.
    """

    start_s: float
    end_s: float

    @staticmethod
    def through(motion: Motion) -> Haste:
        """The haste of a motion's perturbed runs."""
        segment = guarded_segment(motion)
        return Haste(0.0, 0.0) if segment is None else Haste(segment.start_s, segment.end_s)

    def run_s(self, motion_s: float) -> float:
        """Return when the run is at a moment of the motion."""
        saved_s = min(max(motion_s, self.start_s), self.end_s) - self.start_s
        return motion_s - saved_s * (1.0 - 1.0 / _HASTE)

    def motion_s(self, run_s: float) -> float:
        """Return at which moment of the motion the run is."""
        spent_s = min(max(run_s, self.start_s), self.run_s(self.end_s)) - self.start_s
        return run_s + spent_s * (_HASTE - 1.0)

    def line(self, line: Timeline) -> Timeline:
        """Return the joints over the time of the run."""
        time_s = np.array([self.run_s(at_s) for at_s in line.time_s.tolist()])
        grips = tuple(
            replace(grip, start_s=self.run_s(grip.start_s), end_s=self.run_s(grip.end_s)) for grip in line.grips
        )
        return Timeline(time_s, line.q_rad, grips)
