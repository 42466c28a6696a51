"""Approved motion → execution report: send it, watch the arm, stop it at any doubt."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ExecutionError, RobotError
from qwen2vl_robot.feeling import Feeling
from qwen2vl_robot.gate import MAX_STATE_AGE_S
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.gripping import GO_AHEAD_S, LATE_S, Gripping
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.lookout import Lookout
from qwen2vl_robot.messages import ApprovedMotion, Cause, JointSegment, Motion, RobotState, digest
from qwen2vl_robot.ports import Arm, Clock
from qwen2vl_robot.reasons import AbortReason, AnyReason, Reason, RefusalReason
from qwen2vl_robot.retreat import guarded_segment, way_back

_POLL_S = 0.02
_STALE_LOOKS = 3  # in a row: on a busy machine the clock's thread may have run before the one that takes joint states
_OVERRUN_S = 2.0
_MAX_LAG_S = 0.15  # an arm may follow its commands this much later; beyond it counts as tracking error
_MAX_SILENT_POLLS = 25  # states in a row that carry one and the same stamp, or as many as the allowed age has
_MAX_GAP_S = 0.5  # of the clock between two looks at the arm, where less wall time passed
_MAX_BLIND_S = 2.0  # the same where it did pass, because this process got no core; beyond it nobody watched
STOP_DEADLINE_S = 0.1  # from noticing to the stop being given
_OFF_TRACK_RAD = 0.05  # an arm in free space stays far closer; one that pushes against something does not
_OFF_TRACK_POLLS = 3
_HALTED: dict[Reason, AbortReason] = {
    RefusalReason.STOPPED: AbortReason.STOPPED,
    RefusalReason.CANCELLED: AbortReason.CANCELLED,
    RefusalReason.NO_SUPERVISOR: AbortReason.NO_SUPERVISOR,
}


@dataclass(frozen=True, slots=True)
class ExecutionReport:
    """How the arm went through an approved motion.

    Attributes:
        causes: why it was aborted, the first one first, then what went wrong with the stop; empty when it finished.
        max_tracking_error_rad: largest distance of a joint from the commanded motion, lag allowed for.
        seconds: time on the arm's clock.
        stopped_after_s: from noticing to the stop being given, on the arm's clock; None when nothing was stopped.
    """

    causes: tuple[Cause, ...]
    max_tracking_error_rad: float
    seconds: float
    stopped_after_s: float | None = None

    @property
    def is_finished(self) -> bool:
        return not self.causes

    @property
    def reason(self) -> AnyReason | None:
        """Why it was aborted, None when it finished."""
        return self.causes[0].reason if self.causes else None


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

    def nearest_s(self, q_rad: Array, start_s: float, end_s: float) -> float:
        """The time between two of the motion at which it is closest to joints (n,)."""
        times_s = np.linspace(start_s, end_s, 1 + round((end_s - start_s) / _POLL_S))
        off_rad = [float(np.max(np.abs(self.at(time_s)[0] - q_rad))) for time_s in times_s]
        return float(times_s[int(np.argmin(off_rad))])

    def error_rad(self, q_rad: Array, time_s: float, max_lag_s: float) -> float:
        """Largest joint distance to the track, for the lag up to `max_lag_s` that fits best."""
        lags_s = np.linspace(0.0, max_lag_s, 16)
        return min(float(np.max(np.abs(q_rad - self.at(time_s - lag_s)[0]))) for lag_s in lags_s)


class _AbortError(Exception):
    """Ends a run."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.text)
        self.cause = cause


def _abort(reason: AbortReason, text: str, **numbers: float) -> _AbortError:
    return _AbortError(Cause(reason, text, tuple(numbers.items())))


def run(
    approved: ApprovedMotion,
    arm: Arm,
    clock: Clock,
    profile: RobotProfile,
    halt: Halt,
    *,
    max_state_age_s: float = MAX_STATE_AGE_S,
    lookout: Lookout | None = None,
) -> ExecutionReport:
    """Send an approved motion and watch it to its end; whatever looks wrong stops the arm, and nothing resumes it.

    Args:
        max_state_age_s: an older joint state is stale; the gate's own limit.
        lookout: sees what comes into the arm's way; only an arm that no camera looks at has none.
    """
    watch = _Watch(approved, arm, clock, profile, halt, max_state_age_s, lookout)
    try:
        watch.send()
        while watch.is_under_way():
            clock.sleep(_POLL_S)
    except _AbortError as abort:
        return watch.abort(abort.cause)
    except RobotError as error:
        return watch.abort(Cause(AbortReason.LINK_LOST, str(error)))
    except BaseException:
        _stop(arm)
        raise
    return watch.report(())


def _stop(arm: Arm) -> tuple[Cause, ...]:
    """Stop the arm; an arm that cannot be reached is one more cause, not an exception that hides the first."""
    try:
        arm.stop()
    except RobotError as error:
        return (Cause(AbortReason.LINK_LOST, f"the stop did not reach the arm: {error}"),)
    return ()


class _Watch:
    """One run: what was sent when, and what was seen since."""

    def __init__(
        self,
        approved: ApprovedMotion,
        arm: Arm,
        clock: Clock,
        profile: RobotProfile,
        halt: Halt,
        max_state_age_s: float,
        lookout: Lookout | None,
    ) -> None:
        self._approved = approved
        self._max_state_age_s, self._lookout = max_state_age_s, lookout
        self._arm = arm
        self._clock = clock
        self._profile = profile
        self._halt, self._stops = halt, halt.stops
        self._started_ns: int | None = None
        self._origin_ns = 0  # when the motion's time 0 would be, had the gripper kept no part of it waiting
        self._gripping, self._feeling = Gripping(approved.motion), Feeling(approved.motion)
        self._duration_s = approved.motion.duration_s
        self._met: Cause | None = None  # why the arm is on its way back
        self._back_s = 0.0
        self._now_ns = 0
        self._looked_s = time.monotonic()
        self._stamp_ns = -1
        self._stale_looks = self._silent_polls = self._off_track_polls = 0
        self._worst_rad = 0.0

    def send(self) -> None:
        """Check the approval against the motion it travels with, and start."""
        approved = self._approved
        self._halt.await_guard()  # here it costs nothing; a moment later the same silence would abort the motion
        self._now_ns = self._clock.now_ns()
        self._check_halt()
        if digest(approved.motion) != approved.digest:
            text = "the motion is not the one that was approved; its digest differs"
            raise _abort(AbortReason.DIGEST_MISMATCH, text)
        if approved.robot_digest != self._profile.digest:
            text = f"the motion was approved for another robot than {self._profile.name}"
            raise _abort(AbortReason.DIGEST_MISMATCH, text)
        self._now_ns = self._clock.now_ns()
        if not self._now_ns <= approved.expires_ns:
            late_s = (self._now_ns - approved.expires_ns) / 1e9
            raise _abort(AbortReason.EXPIRED, f"the approval expired {late_s:.2f} s ago", late_s=late_s)
        if self._lookout is not None and self._lookout.problem:
            raise _abort(AbortReason.UNWATCHED, f"nobody could watch the motion: {self._lookout.problem}")
        self._track = JointTrack(approved.motion, approved.start_q_rad)
        try:
            self._arm.execute(approved)
        except ExecutionError as error:
            raise _abort(AbortReason.REJECTED, f"the arm rejected the motion: {error}") from error
        self._started_ns = self._origin_ns = self._now_ns = self._clock.now_ns()
        self._looked_s = time.monotonic()

    def is_under_way(self) -> bool:
        """Look once; False when the motion has ended as it should.

        Raises:
            _AbortError: something is not as it should be.
        """
        if self._halt.cause() is not None:
            self._check_clock()  # a jump of the clock has the task cancelled too; then it is the reason
        self._check_halt()
        is_moving = self._arm.is_moving()  # asked first, so that the state is not older than the answer
        state = self._arm.state()
        self._check_clock()
        self._check_age(state)
        self._check_tracking(state)
        self._look_around(state)
        if self._met is None:
            self._gripping.measure(state)
            self._raise(self._gripping.slip(self._since_s(state.stamp_ns)))
            if is_moving:
                self._check_gripper()
                self._feel(state)
        since_s, duration_s = self._since_s(self._now_ns), self._duration_s
        if is_moving and since_s > duration_s + _OVERRUN_S:
            late_s = since_s - duration_s
            text = f"still moving {late_s:.1f} s after the motion's end"
            raise _abort(AbortReason.OVERRUN, text, late_s=late_s, allowed_s=_OVERRUN_S)
        left_out = self._gripping.next if self._met is None else None
        if not is_moving and (since_s < duration_s - _POLL_S or left_out is not None):
            text = f"the arm stopped at {since_s:.2f} s of {duration_s:.2f} s"
            raise _abort(AbortReason.ENDED_EARLY, text, elapsed_s=since_s, duration_s=duration_s)
        if not is_moving and self._met is not None:
            raise _AbortError(self._met)  # it has come back up
        return is_moving

    def abort(self, cause: Cause) -> ExecutionReport:
        """Stop the arm and report why; a stop that took longer than it may is one more cause."""
        met = () if self._met is None or self._met is cause else (self._met,)
        causes = (*met, cause, *_stop(self._arm))
        try:
            stopped_s = (self._clock.now_ns() - self._now_ns) / 1e9
        except RobotError as error:
            return self.report((*causes, Cause(AbortReason.LINK_LOST, f"the clock cannot be read: {error}")))
        if cause.reason is not AbortReason.CLOCK and not stopped_s <= STOP_DEADLINE_S:
            text = f"the stop took {stopped_s:.3f} s; allowed {STOP_DEADLINE_S} s"
            causes = (*causes, Cause(AbortReason.LINK_LOST, text, (("took_s", stopped_s),)))
        return self.report(causes, stopped_s)

    def report(self, causes: tuple[Cause, ...], stopped_s: float | None = None) -> ExecutionReport:
        return ExecutionReport(causes, self._worst_rad, self._elapsed_s(), stopped_s)

    def _elapsed_s(self) -> float:
        return 0.0 if self._started_ns is None else (self._now_ns - self._started_ns) / 1e9

    def _since_s(self, time_ns: int) -> float:
        """The motion's own time at a time of the clock; it stands while a command to the gripper is not done."""
        since_s, grip = (time_ns - self._origin_ns) / 1e9, self._gripping.next
        return since_s if grip is None or self._met is not None else min(since_s, grip.end_s)

    def _feel(self, state: RobotState) -> None:
        """Feel for a contact; at the first one the arm goes back up the way that it came, and this watch with it."""
        since_s = self._since_s(state.stamp_ns)
        met = self._feeling.feel(state, since_s)
        if met is None:
            return
        if met.reason is not AbortReason.MET_UNSEEN:
            raise _AbortError(met)
        segment = guarded_segment(self._approved.motion)
        assert segment is not None
        self._met, self._back_s = met, segment.start_s
        from_s = self._track.nearest_s(state.q_rad, segment.start_s, since_s)
        motion = self._approved.motion
        back = way_back(motion, from_s)
        self._track = JointTrack(Motion(motion.robot, (back,), motion.effect), back.q_rad[0])
        self._origin_ns, self._duration_s = self._arm.retreat(from_s), back.end_s

    def _look_around(self, state: RobotState) -> None:
        """See what comes into the arm's way; on its way back up that is the whole guarded segment."""
        if self._lookout is not None:
            since_s = self._since_s(state.stamp_ns) if self._met is None else self._back_s
            self._raise(self._lookout.look(state, since_s, self._now_ns))

    def _check_gripper(self) -> None:
        """Let the motion go on after a command to the gripper, once its result came and its width is checked."""
        grip = self._gripping.next
        if grip is None or self._since_s(self._now_ns) < grip.end_s - GO_AHEAD_S:
            return
        lacks = self._gripping.lacks(self._arm.has_gripped())
        if lacks is None:
            self._origin_ns = self._arm.go_on() - round(grip.end_s * 1e9)
            self._gripping.done()
        elif (late_s := (self._now_ns - self._origin_ns) / 1e9 - grip.end_s) > LATE_S:
            late = (("late_s", late_s), ("allowed_s", LATE_S))
            raise _AbortError(Cause(lacks.reason, f"{lacks.text}, {late_s:.1f} s late", (*lacks.numbers, *late)))

    def _raise(self, cause: Cause | None) -> None:
        if cause is not None:
            raise _AbortError(cause)

    def _check_halt(self) -> None:
        """Nothing was halted, and no stop came and went between two looks."""
        cause = self._halt.cause()
        if cause is not None:
            raise _abort(_HALTED[cause.reason], cause.text)
        if self._halt.stops != self._stops:
            raise _abort(AbortReason.STOPPED, "a stop was given and released while the arm moved")

    def _check_clock(self) -> None:
        """Time goes on, and not by leaps; a look that is late as time itself went on leaves it to the states."""
        now_ns, wall_s = self._clock.now_ns(), time.monotonic()
        gap_s, waited_s = (now_ns - self._now_ns) / 1e9, wall_s - self._looked_s
        self._now_ns, self._looked_s = max(now_ns, self._now_ns), wall_s
        allowed_s = min(max(_MAX_GAP_S, waited_s + _POLL_S), _MAX_BLIND_S)
        if not 0.0 <= gap_s <= allowed_s:
            text = f"the clock went on by {gap_s:.3f} s between two looks; allowed 0 to {allowed_s:.3g} s"
            raise _abort(AbortReason.CLOCK, text, gap_s=gap_s, allowed_s=allowed_s)

    def _check_age(self, state: RobotState) -> None:
        age_s, allowed_s = (self._now_ns - state.stamp_ns) / 1e9, self._max_state_age_s
        self._stale_looks = self._stale_looks + 1 if not age_s <= allowed_s else 0
        if age_s < 0.0 or self._stale_looks >= _STALE_LOOKS:
            text = f"the joint state is {age_s:.3f} s old; allowed 0 to {allowed_s:g} s"
            raise _abort(AbortReason.STALE_STATE, text, age_s=age_s, allowed_s=allowed_s)
        self._silent_polls = self._silent_polls + 1 if state.stamp_ns <= self._stamp_ns else 0
        self._stamp_ns = max(self._stamp_ns, state.stamp_ns)
        if self._silent_polls > max(_MAX_SILENT_POLLS, allowed_s / _POLL_S + _STALE_LOOKS):
            text = f"no new joint state in {self._silent_polls} polls"
            raise _abort(AbortReason.STALE_STATE, text, polls=self._silent_polls)

    def _check_tracking(self, state: RobotState) -> None:
        numbers = [*np.ravel(state.q_rad), *np.ravel(state.dq_radps), state.gripper_width_m]
        if len(state.q_rad) != len(self._profile.joints) or not np.isfinite(numbers).all():
            text = f"the joint state {np.asarray(state.q_rad).tolist()} is not usable"
            raise _abort(AbortReason.NOT_FINITE, text)
        since_s = self._since_s(state.stamp_ns)
        error_rad = self._track.error_rad(state.q_rad, since_s, _MAX_LAG_S)
        self._worst_rad = max(self._worst_rad, error_rad)
        if not error_rad <= self._profile.tracking_tolerance_rad:
            allowed_rad = self._profile.tracking_tolerance_rad
            text = f"a joint is {error_rad:.3f} rad from the motion at {since_s:.2f} s; allowed {allowed_rad} rad"
            raise _abort(AbortReason.TRACKING, text, error_rad=error_rad, allowed_rad=allowed_rad)
        self._off_track_polls = self._off_track_polls + 1 if error_rad > _OFF_TRACK_RAD else 0
        if self._off_track_polls >= _OFF_TRACK_POLLS:
            text = f"a joint stays {error_rad:.3f} rad from the motion at {since_s:.2f} s, as if it pushed on something"
            raise _abort(AbortReason.CONTACT, text, error_rad=error_rad, allowed_rad=_OFF_TRACK_RAD)
