"""Approved motion → execution report, and measured scene → outcome.

`run` sends, watches and aborts; `judge` compares the predicted effect with what was measured and assumes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.config import RelationRules, RobotProfile
from qwen2vl_robot.errors import ExecutionError, RobotError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import (
    ApprovedMotion,
    Effect,
    GripperSegment,
    JointSegment,
    Motion,
    Outcome,
    OutcomeKind,
    RobotState,
    Scene,
    SceneObject,
    digest,
    shape_size_m,
)
from qwen2vl_robot.ports import Arm, Clock
from qwen2vl_robot.relations import relation_holds

_POLL_S = 0.02
_MAX_STATE_AGE_S = 0.2
_STALE_LOOKS = 3  # in a row: on a busy machine the clock's thread may have run before the one that takes joint states
_OVERRUN_S = 2.0
_MAX_LAG_S = 0.15  # an arm may follow its commands this much later; beyond it counts as tracking error
_MAX_SILENT_POLLS = 25  # states in a row that carry one and the same stamp
_MAX_GAP_S = 0.5  # of the clock between two looks at the arm, where less wall time passed
_MAX_BLIND_S = 2.0  # the same where it did pass, because this process got no core; beyond it nobody watched
STOP_DEADLINE_S = 0.1  # from noticing to the stop being given
_OFF_TRACK_RAD = 0.05  # an arm in free space stays far closer; one that pushes against something does not
_OFF_TRACK_POLLS = 3
_GRIP_SLACK_M = 0.006  # by which the fingers may give while nobody moves them
_GRIP_SETTLE_S = 0.3  # after a command to the gripper

_SAME_PLACE_M = 0.02  # an object this close to where it was has not moved (measured to about 5 mm)
_STILL_THERE_M = 0.03  # the same, for a body whose outline was measured from one side under another name
_MOVED_OTHER_M = 0.06  # what had no part in the motion may seem this far off when it is half hidden
_GRASP_WIDTH_ERROR_M = 0.01
_CLOSED_WIDTH_M = 0.005  # nothing that can be grasped is thinner
_LIFTED_M = 0.03


# ------------------------------------------------------------------------------------------------- run


@dataclass(frozen=True, slots=True)
class ExecutionReport:
    """How the arm went through an approved motion.

    Attributes:
        kind: "finished" or "aborted".
        reason: typed when aborted: "digest_mismatch", "expired", "rejected", "stopped", "link_lost", "stale_state",
            "not_finite", "tracking", "contact", "grip_lost", "clock", "overrun", "ended_early"; else None.
        reasons: sentences; empty only when finished.
        max_tracking_error_rad: largest distance of a joint from the commanded motion, lag allowed for.
        seconds: time on the arm's clock.
        stopped_after_s: from noticing to the stop being given, on the arm's clock; None when nothing was stopped.
    """

    kind: str
    reason: str | None
    reasons: tuple[str, ...]
    max_tracking_error_rad: float
    seconds: float
    stopped_after_s: float | None = None

    @property
    def is_finished(self) -> bool:
        return self.kind == "finished"


class JointTrack:
    """Where a motion wants the joints at each of its times: linear between points, at rest elsewhere."""

    def __init__(self, motion: Motion, start_q_rad: Array) -> None:
        pieces = [s for s in motion.segments if isinstance(s, JointSegment)]
        self._time_s = np.concatenate([[0.0], *(s.time_s for s in pieces)])
        self._q_rad = np.concatenate([np.asarray(start_q_rad)[None, :], *(s.q_rad for s in pieces)])

    def at(self, time_s: float) -> tuple[Array, Array]:
        """Positions (n,) rad and velocities (n,) rad/s at a time since the motion's start."""
        after = int(np.searchsorted(self._time_s, time_s, side="right"))
        if after == 0 or after == len(self._time_s):
            q_rad = self._q_rad[0 if after == 0 else -1]
            return q_rad, np.zeros_like(q_rad)
        span_s = self._time_s[after] - self._time_s[after - 1]
        step_rad = self._q_rad[after] - self._q_rad[after - 1]
        share = (time_s - self._time_s[after - 1]) / span_s
        return self._q_rad[after - 1] + share * step_rad, step_rad / span_s

    def error_rad(self, q_rad: Array, time_s: float, max_lag_s: float) -> float:
        """Largest joint distance to the track, for the lag up to `max_lag_s` that fits best."""
        lags_s = np.linspace(0.0, max_lag_s, 16)
        return min(float(np.max(np.abs(q_rad - self.at(time_s - lag_s)[0]))) for lag_s in lags_s)


class _AbortError(Exception):
    """Ends a run; `reason` as in `ExecutionReport`."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def run(
    approved: ApprovedMotion,
    arm: Arm,
    clock: Clock,
    profile: RobotProfile,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
) -> ExecutionReport:
    """Send an approved motion and watch it to its end; whatever looks wrong stops the arm, and nothing resumes it."""
    watch = _Watch(approved, arm, clock, profile, stop_requested)
    try:
        watch.send()
        while watch.is_under_way():
            clock.sleep(_POLL_S)
    except _AbortError as abort:
        return watch.abort(abort.reason, str(abort))
    except RobotError as error:
        return watch.abort("link_lost", str(error))
    except BaseException:
        _halt(arm)
        raise
    return watch.report(None, ())


def _halt(arm: Arm) -> tuple[str, ...]:
    """Stop the arm; an arm that cannot be told is one more sentence, not an exception that hides the first."""
    try:
        arm.stop()
    except RobotError as error:
        return (f"the stop did not reach the arm: {error}",)
    return ()


class _Watch:
    """One run: what was sent when, and what was seen since."""

    def __init__(
        self, approved: ApprovedMotion, arm: Arm, clock: Clock, profile: RobotProfile, stop: Callable[[], bool]
    ) -> None:
        self._approved = approved
        self._arm = arm
        self._clock = clock
        self._profile = profile
        self._stop_requested = stop
        self._started_ns: int | None = None
        self._now_ns = 0
        self._looked_s = time.monotonic()
        self._stamp_ns = -1
        self._stale_looks = self._silent_polls = self._off_track_polls = 0
        self._worst_rad = 0.0
        self._width_m: float | None = None

    def send(self) -> None:
        """Check the approval against the motion it travels with, and start."""
        approved = self._approved
        if self._stop_requested():
            raise _AbortError("stopped", "a stop was requested before the start")
        if digest(approved.motion) != approved.digest:
            raise _AbortError("digest_mismatch", "the motion is not the one that was approved; its digest differs")
        if approved.robot_digest != self._profile.digest:
            raise _AbortError("digest_mismatch", f"the motion was approved for another robot than {self._profile.name}")
        self._now_ns = self._clock.now_ns()
        if not self._now_ns <= approved.expires_ns:
            late_s = (self._now_ns - approved.expires_ns) / 1e9
            raise _AbortError("expired", f"the approval expired {late_s:.2f} s ago")
        self._track = JointTrack(approved.motion, approved.start_q_rad)
        try:
            self._arm.execute(approved)
        except ExecutionError as error:
            raise _AbortError("rejected", f"the arm rejected the motion: {error}") from error
        self._started_ns = self._now_ns = self._clock.now_ns()
        self._looked_s = time.monotonic()

    def is_under_way(self) -> bool:
        """Look once; False when the motion has ended as it should.

        Raises:
            _AbortError: something is not as it should be.
        """
        if self._stop_requested():
            raise _AbortError("stopped", "a stop was requested")
        is_moving = self._arm.is_moving()  # asked first, so that the state is not older than the answer
        state = self._arm.state()
        self._check_clock()
        self._check_age(state)
        self._check_tracking(state)
        self._check_grip(state)
        elapsed_s, duration_s = self._elapsed_s(), self._approved.motion.duration_s
        if is_moving and elapsed_s > duration_s + _OVERRUN_S:
            raise _AbortError("overrun", f"still moving {elapsed_s - duration_s:.1f} s after the motion's end")
        if not is_moving and elapsed_s < duration_s - _POLL_S:
            raise _AbortError("ended_early", f"the arm stopped at {elapsed_s:.2f} s of {duration_s:.2f} s")
        return is_moving

    def abort(self, reason: str, told: str) -> ExecutionReport:
        """Stop the arm and report why; a stop that took longer than it may is one more sentence."""
        sentences = (told, *_halt(self._arm))
        try:
            stopped_s = (self._clock.now_ns() - self._now_ns) / 1e9
        except RobotError as error:
            return self.report(reason, (*sentences, f"the clock cannot be read: {error}"))
        if reason != "clock" and not stopped_s <= STOP_DEADLINE_S:
            sentences = (*sentences, f"the stop took {stopped_s:.3f} s; allowed {STOP_DEADLINE_S} s")
        return self.report(reason, sentences, stopped_s)

    def report(self, reason: str | None, sentences: tuple[str, ...], stopped_s: float | None = None) -> ExecutionReport:
        kind = "finished" if reason is None else "aborted"
        return ExecutionReport(kind, reason, sentences, self._worst_rad, self._elapsed_s(), stopped_s)

    def _elapsed_s(self) -> float:
        return 0.0 if self._started_ns is None else (self._now_ns - self._started_ns) / 1e9

    def _check_clock(self) -> None:
        """Time goes on, and not by leaps; a look that is late as time itself went on leaves it to the states."""
        now_ns, wall_s = self._clock.now_ns(), time.monotonic()
        gap_s, waited_s = (now_ns - self._now_ns) / 1e9, wall_s - self._looked_s
        self._now_ns, self._looked_s = max(now_ns, self._now_ns), wall_s
        allowed_s = min(max(_MAX_GAP_S, waited_s + _POLL_S), _MAX_BLIND_S)
        if not 0.0 <= gap_s <= allowed_s:
            told = f"the clock went on by {gap_s:.3f} s between two looks"
            raise _AbortError("clock", f"{told}; allowed 0 to {allowed_s:.3g} s")

    def _check_grip(self, state: RobotState) -> None:
        """Between commands to the gripper its width stays; fingers that close on have lost what they held."""
        since_s = (state.stamp_ns - (self._started_ns or 0)) / 1e9
        grips = [s for s in self._approved.motion.segments if isinstance(s, GripperSegment)]
        if any(g.start_s <= since_s <= g.end_s + _GRIP_SETTLE_S for g in grips):
            self._width_m = None
            return
        if self._width_m is None:
            self._width_m = state.gripper_width_m
        moved_m = abs(state.gripper_width_m - self._width_m)
        if moved_m > _GRIP_SLACK_M:
            told = f"the fingers moved by {moved_m * 1000:.0f} mm though nobody told them to"
            raise _AbortError("grip_lost", f"{told}; allowed {_GRIP_SLACK_M * 1000:.0f} mm")

    def _check_age(self, state: RobotState) -> None:
        age_s = (self._now_ns - state.stamp_ns) / 1e9
        self._stale_looks = self._stale_looks + 1 if age_s > _MAX_STATE_AGE_S else 0
        if age_s < 0.0 or self._stale_looks >= _STALE_LOOKS:
            raise _AbortError("stale_state", f"the joint state is {age_s:.3f} s old; allowed 0 to {_MAX_STATE_AGE_S} s")
        self._silent_polls = self._silent_polls + 1 if state.stamp_ns <= self._stamp_ns else 0
        self._stamp_ns = max(self._stamp_ns, state.stamp_ns)
        if self._silent_polls > _MAX_SILENT_POLLS:
            raise _AbortError("stale_state", f"no new joint state in {self._silent_polls} polls")

    def _check_tracking(self, state: RobotState) -> None:
        numbers = [*np.ravel(state.q_rad), *np.ravel(state.dq_radps), state.gripper_width_m]
        if len(state.q_rad) != len(self._profile.joints) or not np.isfinite(numbers).all():
            raise _AbortError("not_finite", f"the joint state {np.asarray(state.q_rad).tolist()} is not usable")
        since_s = (state.stamp_ns - (self._started_ns or 0)) / 1e9
        error_rad = self._track.error_rad(state.q_rad, since_s, _MAX_LAG_S)
        self._worst_rad = max(self._worst_rad, error_rad)
        if not error_rad <= self._profile.tracking_tolerance_rad:
            told = f"a joint is {error_rad:.3f} rad from the motion at {since_s:.2f} s"
            raise _AbortError("tracking", f"{told}; allowed {self._profile.tracking_tolerance_rad} rad")
        self._off_track_polls = self._off_track_polls + 1 if error_rad > _OFF_TRACK_RAD else 0
        if self._off_track_polls >= _OFF_TRACK_POLLS:
            told = f"a joint stays {error_rad:.3f} rad from the motion at {since_s:.2f} s"
            raise _AbortError("contact", f"{told}, as if it pushed on something")


# ----------------------------------------------------------------------------------------------- judge


def judge(
    effect: Effect,
    expected: Scene | None,
    before: Scene,
    measured: Scene | None,
    state: RobotState,
    rules: RelationRules,
) -> Outcome:
    """Say what a finished motion brought about, from measurements alone.

    Args:
        expected: the twin's scene after the motion, which says where everything else should be; None to leave that out.
        before: the scene that the motion was made for.
        measured: the scene measured afterwards, or None when it could not be measured.
        state: the arm's state afterwards.

    Returns:
        "achieved" only if the measurement shows the effect; "no_motion" if the object is where it was; otherwise
        "wrong_effect".
    """
    if effect.kind == "none":
        return Outcome(OutcomeKind.ACHIEVED)
    if measured is None:
        return _wrong("the scene could not be measured afterwards")
    outcome = _judge_object(effect, before, measured, state, rules)
    moved = _moved_others(effect, expected, measured)
    if outcome.kind is OutcomeKind.ACHIEVED and moved:
        return _wrong(f"{', '.join(moved)} moved too", outcome.error_m)
    return outcome


def _moved_others(effect: Effect, expected: Scene | None, measured: Scene) -> list[str]:
    """Names of the objects without a part in the effect that are measured far from where the twin left them."""
    bodies = () if expected is None else expected.objects
    bystanders = [o for o in bodies if o.name not in (effect.name, effect.reference)]
    found = [(o, _find(measured, o.name)) for o in bystanders]
    return [o.name for o, now in found if now is not None and not _distance_m(o, now) < _MOVED_OTHER_M]


def _judge_object(effect: Effect, before: Scene, measured: Scene, state: RobotState, rules: RelationRules) -> Outcome:
    if effect.kind == "hold" and effect.name is not None:
        return _judge_hold(effect.name, before, measured, state)
    if effect.kind in ("release", "push") and effect.name is not None and effect.T_base_object is not None:
        return _judge_place(effect, effect.name, effect.T_base_object, before, measured, rules)
    return _wrong(f"an effect {effect.kind!r} of {effect.name!r} cannot be measured")


def _judge_hold(name: str, before: Scene, measured: Scene, state: RobotState) -> Outcome:
    """A hold shows as a gap of the object's size between the pads, and as nothing left where the object stood."""
    start, now = _find(before, name), _find(measured, name)
    if start is None:
        return _wrong(f"{name} was not in the scene before")
    if _stands_in_place_of(start, before, measured):
        return Outcome(OutcomeKind.NO_MOTION, (f"{name} is still where it was",))
    size_m = shape_size_m(start.shape)
    low_m = max(_CLOSED_WIDTH_M, min(size_m) - _GRASP_WIDTH_ERROR_M)
    high_m = max(size_m) + _GRASP_WIDTH_ERROR_M
    if not low_m <= state.gripper_width_m <= high_m:
        return _wrong(
            f"the gripper is {state.gripper_width_m * 1000:.0f} mm open; "
            f"around {name} it would be {low_m * 1000:.0f} to {high_m * 1000:.0f} mm"
        )
    if now is not None and _height_m(now) < _height_m(start) + _LIFTED_M:
        return _wrong(f"{name} was moved by {_distance_m(now, start) * 1000:.0f} mm, but not lifted")
    return Outcome(OutcomeKind.ACHIEVED)


def _stands_in_place_of(start: SceneObject, before: Scene, measured: Scene) -> bool:
    """Whether some body, under any name, is where the object was and was not there beside it before."""
    others = [b for b in before.bodies() if b.name != start.name]
    for body in measured.bodies():
        off_m = float(np.linalg.norm(body.T_base_object[:2, 3] - start.T_base_object[:2, 3]))
        is_known = any(_distance_m(body, other) < _SAME_PLACE_M for other in others)
        if off_m < _STILL_THERE_M and body.bottom_m < _height_m(start) < body.top_m and not is_known:
            return True
    return False


def _judge_place(
    effect: Effect, name: str, T_base_object: Array, before: Scene, measured: Scene, rules: RelationRules
) -> Outcome:
    """A release or a push shows as the object near its predicted place, in the relation asked for."""
    start, now = _find(before, name), _find(measured, name)
    if now is None:
        return _wrong(f"{name} was not found afterwards")
    if measured.held == name:
        return Outcome(OutcomeKind.NO_MOTION, (f"{name} is still in the gripper",))
    error_m = float(np.linalg.norm(now.T_base_object[:3, 3] - T_base_object[:3, 3]))
    if start is not None and _distance_m(now, start) < _SAME_PLACE_M:
        return Outcome(OutcomeKind.NO_MOTION, (f"{name} is still where it was",), error_m)
    if not error_m <= effect.tolerance_m:
        allowed = f"allowed {effect.tolerance_m * 1000:.0f} mm"
        return _wrong(f"{name} is {error_m * 1000:.0f} mm from where it should be; {allowed}", error_m)
    if effect.relation is not None:
        reference = None if effect.reference is None else _find(measured, effect.reference)
        if reference is None:
            return _wrong(f"{effect.reference} was not found afterwards", error_m)
        if not relation_holds(effect.relation, now, reference, rules):
            return _wrong(f"{name} is not {effect.relation.value} {effect.reference}", error_m)
    return Outcome(OutcomeKind.ACHIEVED, (), error_m)


def _wrong(reason: str, error_m: float | None = None) -> Outcome:
    return Outcome(OutcomeKind.WRONG_EFFECT, (reason,), error_m)


def _find(scene: Scene, name: str) -> SceneObject | None:
    """The named body, if it was measured and its pose is a pose."""
    body = next((b for b in scene.bodies() if b.name == name), None)
    return body if body is not None and np.isfinite(body.T_base_object).all() else None


def _distance_m(a: SceneObject, b: SceneObject) -> float:
    return float(np.linalg.norm(a.T_base_object[:3, 3] - b.T_base_object[:3, 3]))


def _height_m(body: SceneObject) -> float:
    return float(body.T_base_object[2, 3])
