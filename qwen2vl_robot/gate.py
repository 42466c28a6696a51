"""A rehearsed step, the live state, a fresh look and an approval → the one `ApprovedMotion`, or a typed refusal.

Nothing else in the package makes an `ApprovedMotion`. Whatever is missing, late, not finite or unexpected is refused.
`admit` is pure: it reads its arguments and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    CameraFrame,
    JointSegment,
    Motion,
    Observation,
    Refusal,
    Rehearsed,
    RobotState,
    Zone,
    digest,
    freeze,
)
from qwen2vl_robot.perception.view import region_of
from qwen2vl_robot.reasons import ObservationReason, RefusalReason
from qwen2vl_robot.validation.change import difference

# Two measurements of a resting gripper differ by less; half the thinnest grip margin.
_WIDTH_TOLERANCE_M = 0.004
MAX_STATE_AGE_S = 0.2  # unless the node's parameter says otherwise
_ABOUT_CAMERA: dict[ObservationReason, RefusalReason] = {  # what else ails a camera is called as in any other frame
    ObservationReason.CAMERA_OFF: RefusalReason.CAMERA_OFF,
    ObservationReason.CAMERA_UNCHECKED: RefusalReason.CAMERA_UNCHECKED,
}
_AT_REST_RADPS = 0.1  # a motion begins at rest; joints that hold still measure far less


@dataclass(frozen=True, slots=True)
class GateLimits:
    """How old things may be; seconds, above 0 and at most an hour.

    Attributes:
        lifetime_s: how long an approved motion may be sent.
        max_state_age_s: an older live state is stale.
        max_verdict_age_s: a verdict whose rehearsal began longer ago is stale.
        max_frame_age_s: an older look at the scene is stale.

    Raises:
        ValueError: one of them is no such duration.
    """

    lifetime_s: float = 2.0
    max_state_age_s: float = MAX_STATE_AGE_S
    max_verdict_age_s: float = 30.0
    max_frame_age_s: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 < value <= 3600.0:
                raise ValueError(f"{field.name} is {value} s; allowed above 0 to 3600")


class Gate:
    """Admits a rehearsed step to the arm, or says why not.

    Args:
        zones: what the cell's rules restrict; a scene that was rehearsed without them is refused.
        guard: checks the camera in the fresh look; only a gate that no camera stands behind has none.
    """

    def __init__(
        self,
        profile: RobotProfile,
        zones: tuple[Zone, ...],
        limits: GateLimits | None = None,
        guard: CameraGuard | None = None,
    ) -> None:
        self._guard = guard
        self._profile = profile
        self._robot_digest = profile.digest
        self._zones = zones
        self._limits = limits or GateLimits()

    @property
    def max_state_age_s(self) -> float:
        """Return the age above which a joint state is stale, seconds."""
        return self._limits.max_state_age_s

    def admit(
        self,
        rehearsed: Rehearsed,
        live: RobotState,
        fresh: CameraFrame | None,
        approval: Approval | None,
        halt: Halt,
        now_ns: int,
    ) -> ApprovedMotion | Refusal:
        """Check everything again and open the way to the arm, or not.

        Args:
            live: the arm's state now, `held` set from the same belief; read after everything that waits.
            fresh: a frame from just now.
            approval: an approver's yes to this verdict.
            now_ns: the clock that stamped all of these, read last.
        """
        refusal = (
            self._refuse_halt(halt)
            or self._refuse_numbers(rehearsed.motion, live)
            or self._refuse_verdict(rehearsed)
            or self._refuse_zones(rehearsed)
            or self._refuse_age(live, rehearsed.rehearsed_ns, now_ns)
            or self._refuse_start(rehearsed, live)
            or self._refuse_effort(rehearsed.motion, live)
            or self._refuse_camera(rehearsed.motion, live, fresh)  # before the change that an ill camera looks like
            or self._refuse_change(rehearsed.seen, fresh, now_ns)
            or self._refuse_approval(rehearsed, approval, halt)
        )
        if refusal is not None or approval is None:
            return refusal or Refusal(RefusalReason.NOT_CONFIRMED, "there is no approval")
        verdict = rehearsed.verdict
        return ApprovedMotion(
            motion=rehearsed.motion,
            digest=verdict.motion_digest,
            verdict_digest=approval.verdict_digest,
            scene_digest=verdict.scene_digest,
            start_digest=verdict.start_digest,
            robot_digest=self._robot_digest,
            start_q_rad=freeze(rehearsed.start.q_rad),
            expires_ns=now_ns + round(self._limits.lifetime_s * 1e9),
            token=approval.token,
        )

    def _refuse_halt(self, halt: Halt) -> Refusal | None:
        cause = halt.cause()
        return None if cause is None else Refusal(cause.reason, cause.text)

    def _refuse_numbers(self, motion: Motion, live: RobotState) -> Refusal | None:
        numbers: list[object] = [live.q_rad, live.dq_radps, live.gripper_width_m]
        for s in motion.segments:
            numbers += [s.time_s, s.q_rad] if isinstance(s, JointSegment) else [(s.start_s, s.end_s, s.width_m)]
        if not all(_is_finite(n) for n in numbers):
            text = "the motion or the live state holds a number that is not finite"
            return Refusal(RefusalReason.NOT_FINITE, text)
        return None

    def _refuse_verdict(self, rehearsed: Rehearsed) -> Refusal | None:
        verdict, motion = rehearsed.verdict, rehearsed.motion
        if verdict.is_partial:
            return Refusal(RefusalReason.PARTIAL, "the verdict is of a glance at a chunk; rehearse the whole motion")
        if not verdict.accepted or verdict.violations:
            text = "; ".join(v.describe() for v in verdict.violations) or "not accepted"
            return Refusal(RefusalReason.NOT_ACCEPTED, text, (("violations", len(verdict.violations)),))
        trials, asked = verdict.trials, self._profile.safety
        if trials is None or trials.count < asked.trials or not trials.lower_bound >= asked.success_ratio:
            count, successes = (0, 0) if trials is None else (trials.count, trials.successes)
            found = "none" if trials is None else f"{successes} of {count} succeeded"
            numbers = (("trials", count), ("successes", successes), ("trials_needed", asked.trials))
            text = f"{asked.trials} perturbed roll-outs are asked for; {found}"
            return Refusal(RefusalReason.NOT_TRIED, text, numbers)
        matches = {
            "motion": digest(motion) == verdict.motion_digest,
            "scene": digest(rehearsed.scene) == verdict.scene_digest,
            "start state": digest(rehearsed.start) == verdict.start_digest,
            "robot": self._robot_digest == verdict.robot_digest and motion.robot == self._profile.name,
        }
        wrong = [what for what, does_match in matches.items() if not does_match]
        if wrong:
            text = f"the verdict is about another {' and another '.join(wrong)}"
            return Refusal(RefusalReason.DIGEST_MISMATCH, text)
        return None

    def _refuse_zones(self, rehearsed: Rehearsed) -> Refusal | None:
        missing = [zone.name for zone in self._zones if zone not in rehearsed.scene.zones]
        if missing:
            text = f"the rehearsal did not know the zones {', '.join(missing)}"
            return Refusal(RefusalReason.ZONES_MISSING, text, (("missing", len(missing)),))
        return None

    def _refuse_age(self, live: RobotState, rehearsed_ns: int, now_ns: int) -> Refusal | None:
        limits = self._limits
        return _refuse_old(
            RefusalReason.STALE_VERDICT, "the rehearsal", rehearsed_ns, now_ns, limits.max_verdict_age_s
        ) or _refuse_old(RefusalReason.STALE_STATE, "the live state", live.stamp_ns, now_ns, limits.max_state_age_s)

    def _refuse_start(self, rehearsed: Rehearsed, live: RobotState) -> Refusal | None:
        n, start, moved = len(self._profile.joints), rehearsed.start, RefusalReason.START_MOVED
        if not np.shape(live.q_rad) == np.shape(start.q_rad) == (n,):
            return Refusal(moved, f"{n} joints are needed, live has {np.shape(live.q_rad)}")
        for what, off, allowed, unit in (
            ("arm", float(np.max(np.abs(live.q_rad - start.q_rad))), self._profile.start_tolerance_rad, "rad"),
            ("gripper", abs(live.gripper_width_m - start.gripper_width_m), _WIDTH_TOLERANCE_M, "m"),
        ):
            if not off <= allowed:
                text = f"the {what} is {off:.4f} {unit} from the rehearsed start; allowed {allowed} {unit}"
                return Refusal(moved, text, ((f"off_{unit}", off), (f"allowed_{unit}", allowed)))
        fastest = float(np.max(np.abs(live.dq_radps), initial=0.0))
        if np.shape(live.dq_radps) != (n,) or not fastest <= _AT_REST_RADPS:
            text = f"a joint turns at {fastest:.3f} rad/s; allowed {_AT_REST_RADPS} rad/s"
            return Refusal(moved, text, (("speed_radps", fastest), ("allowed_radps", _AT_REST_RADPS)))
        if not live.held == start.held == rehearsed.scene.held:
            held = f"{live.held!r} now, {start.held!r} at the rehearsed start, {rehearsed.scene.held!r} in the scene"
            return Refusal(moved, f"another object is held: {held}")
        return None

    def _refuse_effort(self, motion: Motion, live: RobotState) -> Refusal | None:
        """A guarded motion needs an arm that tells the torques of its joints."""
        n, effort_nm = len(self._profile.joints), live.effort_nm
        if motion.guarded is None or (effort_nm is not None and np.shape(effort_nm) == (n,) and _is_finite(effort_nm)):
            return None
        text = "the fingers would enter room that no camera has seen, and no joint torques are measured"
        return Refusal(RefusalReason.NO_EFFORT, text)

    def _refuse_change(self, seen: CameraFrame | None, fresh: CameraFrame | None, now_ns: int) -> Refusal | None:
        if seen is None or fresh is None:
            text = "two frames are needed to see that the scene is as it was rehearsed"
            return Refusal(RefusalReason.NO_FRAME, text)
        stale = RefusalReason.STALE_FRAME
        old = _refuse_old(stale, "the last look at the scene", fresh.stamp_ns, now_ns, self._limits.max_frame_age_s)
        if old is not None:
            return old
        if fresh.stamp_ns < seen.stamp_ns:
            return Refusal(stale, "the fresh frame is older than the one that was rehearsed")
        what = difference(seen, fresh, region_of(self._profile))
        return None if what is None else Refusal(RefusalReason.SCENE_CHANGED, f"since the rehearsal {what}")

    def _refuse_camera(self, motion: Motion, live: RobotState, fresh: CameraFrame | None) -> Refusal | None:
        if self._guard is None:
            return None
        if fresh is None:
            return Refusal(RefusalReason.NO_FRAME, "no frame shows where the camera is")
        said = self._guard.look(Observation(fresh, live))
        shows = motion.effect.kind == "show" and said.against is ObservationReason.CAMERA_UNCHECKED  # to check it
        if said.against is not None and not shows:
            return Refusal(_ABOUT_CAMERA.get(said.against, said.against), said.text, said.numbers)
        return Refusal(RefusalReason.NO_FRAME, said.problem) if said.problem else None

    def _refuse_approval(self, rehearsed: Rehearsed, approval: Approval | None, halt: Halt) -> Refusal | None:
        verdict_digest, missing = digest(rehearsed.verdict), RefusalReason.NOT_CONFIRMED
        if approval is None or approval.verdict_digest != verdict_digest or not approval.token:
            return Refusal(missing, f"nobody confirmed verdict {verdict_digest[:12]}")
        if approval.stops != halt.stops:
            return Refusal(missing, f"a stop came after verdict {verdict_digest[:12]} was approved; ask again")
        return None


def _refuse_old(reason: RefusalReason, what: str, stamp_ns: int, now_ns: int, allowed_s: float) -> Refusal | None:
    """Refuse what is older than allowed, or from the future."""
    if 0 <= now_ns - stamp_ns <= round(allowed_s * 1e9):
        return None
    age_s = (now_ns - stamp_ns) / 1e9
    text = f"{what} is {age_s:.3f} s old; allowed 0 to {allowed_s:g} s"
    return Refusal(reason, text, (("age_s", age_s), ("allowed_s", allowed_s)))


def _is_finite(values: object) -> bool:
    """Whether these are numbers, none of them NaN, infinite or too large for a float."""
    try:
        return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all())
    except (TypeError, ValueError, OverflowError):
        return False
