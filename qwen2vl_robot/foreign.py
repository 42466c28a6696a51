"""A joint trajectory that somebody else made → a `Motion` from the measured start, or a typed refusal with its number.

It is untrusted: everything is checked here that the twin takes for granted or cannot know. Ranges, rates, places and
contacts are the twin's to judge, by the same rules as for our own motions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.description import turning_joints
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Effect, JointSegment, Motion, Refusal, RobotState, freeze
from qwen2vl_robot.reasons import TrajectoryReason

MAX_POINTS, MAX_SECONDS = 10_000, 60.0  # a minute within what a rehearsal can be asked for
CHUNK_S = 0.5  # of a streaming policy
MAX_LOOK_AGE_S = 5.0  # of what a chunk is judged in; to measure a scene takes a second and more on a busy machine
_STEP_S = 0.01  # as dense as our own motions
_MIN_STEP_S = 1e-3  # closer points leave too few digits for a jerk
_AT_REST_RADPS = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class ForeignTrajectory:
    """What trajectory_msgs/JointTrajectory holds, as it came: nothing of it is checked yet.

    Attributes:
        joint_names: in any order.
        time_s: (m,) from the trajectory's start.
        positions_rad, velocities_radps, accelerations_radps2: (m, n) in the order of the names; None where none came.
        frame: of the header; joints need none, so it is empty or the robot's base.
    """

    joint_names: tuple[str, ...]
    time_s: npt.ArrayLike
    positions_rad: npt.ArrayLike
    velocities_radps: npt.ArrayLike | None = None
    accelerations_radps2: npt.ArrayLike | None = None
    frame: str = ""


def given_rows(rows: Sequence[Sequence[float]]) -> list[list[float]] | None:
    """Return the rows, None where no point has any; some with and some without are refused by their shape."""
    return [list(row) for row in rows] if any(len(row) for row in rows) else None


def from_chunk(
    actions_rad: npt.ArrayLike,
    rate_hz: float,
    joint_names: tuple[str, ...],
    start_q_rad: Array,
    turning: Collection[str] = (),
) -> ForeignTrajectory:
    """Turn a policy's chunk (m, n) of absolute joint positions into a trajectory that begins and ends at rest.

    The positions count from one step after the start on. Speeds are central differences, as a smooth motion through the
    points has them. Columns beyond the joints, such as a gripper's, have to be taken off before.

    Args:
        rate_hz: of the policy's control.
        start_q_rad: (n,) measured, in the order of the names.
        turning: names of joints that turn without end (`description.turning_joints`): each goes the shorter way to the
            next position, however many whole turns that is away.
    """
    given = np.asarray(actions_rad, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != np.size(start_q_rad) or not rate_hz > 0.0:
        return ForeignTrajectory(joint_names, (), given)
    q_rad = np.concatenate([np.asarray(start_q_rad, dtype=np.float64)[None], given])
    endless = [name in turning for name in joint_names]
    if any(endless) and len(endless) == q_rad.shape[1] and np.isfinite(q_rad).all():
        q_rad[:, endless] = np.unwrap(q_rad[:, endless], axis=0)
    time_s = np.arange(len(q_rad)) / rate_hz
    speed, pull = np.zeros_like(q_rad), np.zeros_like(q_rad)
    speed[1:-1] = (q_rad[2:] - q_rad[:-2]) * rate_hz / 2
    pull[1:-1] = (q_rad[2:] - 2 * q_rad[1:-1] + q_rad[:-2]) * rate_hz**2
    return ForeignTrajectory(joint_names, time_s, q_rad, speed, pull)


def motion_of(
    given: ForeignTrajectory, start: RobotState, profile: RobotProfile, *, at_most_s: float = MAX_SECONDS
) -> Motion | Refusal:
    """Put a trajectory into the robot's order and sample it every 10 ms, from exactly where the arm is.

    Between points it is what a controller makes of them: linear, cubic with velocities, quintic with accelerations too.
    Of a joint that turns without end, whole turns do not count: the trajectory begins where the joint stands, and a
    step that the joint cannot make as it is given is made the shorter way.

    Args:
        start: measured; the first point may be off by the robot file's tolerance.
        at_most_s: longest duration, seconds.
    """
    names, expected = list(given.joint_names), [joint.name for joint in profile.joints]
    if sorted(names) != sorted(expected):
        text = f"joints {shown(', '.join(names)) or 'none'}; each of {', '.join(expected)} is needed once"
        return _refuse(TrajectoryReason.JOINTS, text, joints=len(names), needed=len(expected))
    if given.frame not in ("", profile.base_link):
        text = f"frame {shown(given.frame)!r}; joints need none, allowed is {profile.base_link!r}"
        return Refusal(TrajectoryReason.FRAME, text)
    read = _columns(given, [names.index(name) for name in expected])
    if isinstance(read, Refusal):
        return read
    time_s, q_rad, speed, pull = read
    refused = _refuse_times(time_s, at_most_s)
    if refused is not None:
        return refused
    q_rad = _turned_back(q_rad, time_s, start, profile)
    refused = _refuse_start(q_rad, start, profile) or _refuse_motion(speed, profile)
    if refused is not None:
        return refused
    q_rad[0] = start.q_rad  # within the tolerance; a step that is too large for it shows as an acceleration
    at_s, sampled = _sample(time_s - time_s[0], q_rad, speed, pull)
    return Motion(profile.name, (JointSegment(freeze(at_s), freeze(sampled)),), Effect("none"))


def _columns(given: ForeignTrajectory, order: list[int]) -> tuple[Array, Array, Array | None, Array | None] | Refusal:
    """Read the numbers in the robot's order: they have to fit each other and to be finite."""
    try:
        time_s = np.asarray(given.time_s, dtype=np.float64)
        columns = [
            None if values is None else np.asarray(values, dtype=np.float64)
            for values in (given.positions_rad, given.velocities_radps, given.accelerations_radps2)
        ]
    except (TypeError, ValueError, OverflowError):
        return Refusal(TrajectoryReason.POINTS, "the points are not rows of one number a joint")
    m, n = time_s.size, len(order)
    if time_s.ndim != 1 or not 2 <= m <= MAX_POINTS or any(c is not None and c.shape != (m, n) for c in columns):
        shapes = [None if c is None else c.shape for c in columns]
        text = f"{m} times and points of shape {shapes}; allowed are 2 to {MAX_POINTS}, each with {n} numbers"
        return _refuse(TrajectoryReason.POINTS, text, points=m, allowed=MAX_POINTS)
    for what, values in zip(("time", "position", "velocity", "acceleration"), (time_s, *columns), strict=True):
        bad = 0 if values is None else int((~np.isfinite(values)).sum())
        if bad:
            return _refuse(TrajectoryReason.NOT_FINITE, f"{bad} numbers of {what} are not finite", count=bad)
    q_rad, speed, pull = (None if c is None else c[:, order] for c in columns)
    assert q_rad is not None
    return time_s, q_rad, speed, pull


def _refuse_times(time_s: Array, at_most_s: float) -> Refusal | None:
    steps_s = np.diff(time_s)
    worst = int(np.argmin(steps_s))
    if time_s[0] < 0.0 or steps_s[worst] < _MIN_STEP_S:
        text = f"times must rise by {_MIN_STEP_S} s; point {worst + 1} comes {steps_s[worst]:g} s after the one before"
        if time_s[0] < 0.0:
            text = f"times must not be negative; point 0 is at {time_s[0]:g} s"
        elif steps_s[worst] == 0.0:
            text = f"points {worst} and {worst + 1} have the same time, {time_s[worst]:g} s; each needs its own"
        return _refuse(TrajectoryReason.TIMES, text, point=worst + 1, step_s=float(steps_s[worst]))
    lasts_s = float(time_s[-1] - time_s[0])
    if not lasts_s <= at_most_s:
        text = f"it lasts {lasts_s:g} s; allowed {at_most_s:g} s"
        return _refuse(TrajectoryReason.TOO_LONG, text, lasts_s=lasts_s, allowed_s=at_most_s)
    return None


def _turned_back(q_rad: Array, time_s: Array, start: RobotState, profile: RobotProfile) -> Array:
    """Take whole turns out of the positions (m, n) of joints that turn without end; the others stay as they are.

    A step of more than half a turn stays, too, where the joint can make it: it may be meant, and it is judged as it is.
    """
    q_rad = q_rad.copy()
    steps = np.diff(q_rad, axis=0, prepend=start.q_rad[None])
    if np.abs(steps).max() <= np.pi:
        return q_rad
    turning = turning_joints(profile)
    for column, joint in enumerate(profile.joints):
        if joint.name not in turning:
            continue
        at_rad = float(start.q_rad[column])
        for row, step_rad in enumerate(steps[:, column]):
            most_rad = joint.velocity_radps * (time_s[row] - time_s[row - 1]) if row else 0.0
            is_meant = abs(step_rad) <= most_rad and joint.lower_rad <= at_rad + step_rad <= joint.upper_rad
            at_rad += step_rad if is_meant else math.remainder(step_rad, math.tau)
            q_rad[row, column] = at_rad
    return q_rad


def _refuse_start(q_rad: Array, start: RobotState, profile: RobotProfile) -> Refusal | None:
    away_rad = q_rad[0] - start.q_rad
    worst = int(np.abs(away_rad).argmax())
    off_rad, allowed_rad = float(abs(away_rad[worst])), profile.start_tolerance_rad
    if off_rad <= allowed_rad:
        return None
    joint = profile.joints[worst]
    text = f"{joint.name} begins {off_rad:.4f} rad from where it is; allowed {allowed_rad} rad"
    turns = round(off_rad / math.tau)
    if turns and abs(off_rad - turns * math.tau) <= allowed_rad:
        whole = "one whole turn" if turns == 1 else f"{turns} whole turns"
        text += f". That is {whole}, which is another place of a joint that does not turn without end"
    return _refuse(TrajectoryReason.START, text, off_rad=off_rad, allowed_rad=allowed_rad)


def _refuse_motion(speed: Array | None, profile: RobotProfile) -> Refusal | None:
    """The first and the last point are at rest; slower than 1e-3 rad/s is what planners leave of it."""
    if speed is None:
        return None
    for row, when in ((0, "begins"), (-1, "ends")):
        worst = int(np.abs(speed[row]).argmax())
        fastest = float(abs(speed[row, worst]))
        if fastest > _AT_REST_RADPS:
            text = (
                f"{profile.joints[worst].name} {when} at {fastest:.3f} rad/s; it has to be at rest, "
                f"{_AT_REST_RADPS} rad/s at most"
            )
            return _refuse(TrajectoryReason.NOT_AT_REST, text, speed_radps=fastest, allowed_radps=_AT_REST_RADPS)
    return None


def _sample(time_s: Array, q_rad: Array, speed: Array | None, pull: Array | None) -> tuple[Array, Array]:
    """Sample every 10 ms or finer, the points themselves included: times (k,) and positions (k, n)."""
    times, rows = [time_s[:1]], [q_rad[:1]]
    for i, width_s in enumerate(np.diff(time_s)):
        share = np.linspace(0.0, 1.0, max(1, int(np.ceil(width_s / _STEP_S - 1e-9))) + 1)[1:, None]
        ends = q_rad[i], q_rad[i + 1]
        if speed is None:
            rows.append(ends[0] + share * (ends[1] - ends[0]))
        else:
            rates = speed[i] * width_s, speed[i + 1] * width_s
            bends = None if pull is None else (pull[i] * width_s**2, pull[i + 1] * width_s**2)
            rows.append(_hermite(share, ends, rates, bends))
        times.append(time_s[i] + share[:, 0] * width_s)
    return np.concatenate(times), np.concatenate(rows)


def _hermite(
    s: Array, ends: tuple[Array, Array], rates: tuple[Array, Array], bends: tuple[Array, Array] | None
) -> Array:
    """The cubic, or with second derivatives the quintic, through two ends, at shares (k, 1) of the way."""
    (a, b), (u, v) = ends, rates
    if bends is None:
        cubic: Array = a + s * (u + s * (3 * (b - a) - 2 * u - v + s * (2 * (a - b) + u + v)))
        return cubic
    p, q = bends
    c3 = 10 * (b - a) - 6 * u - 4 * v - 1.5 * p + 0.5 * q
    c4 = -15 * (b - a) + 8 * u + 7 * v + 1.5 * p - q
    c5 = 6 * (b - a) - 3 * (u + v) - 0.5 * p + 0.5 * q
    quintic: Array = a + s * (u + s * (p / 2 + s * (c3 + s * (c4 + s * c5))))
    return quintic


def _refuse(reason: TrajectoryReason, text: str, **numbers: float) -> Refusal:
    return Refusal(reason, text, tuple(numbers.items()))
