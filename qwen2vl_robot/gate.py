"""Motion, verdict, live state and approval → the one `ApprovedMotion`, or a typed refusal.

Nothing else in the package makes an `ApprovedMotion`. Whatever is missing, late, not finite or unexpected is refused.
"""

from __future__ import annotations

import threading
from enum import Enum

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    CameraFrame,
    JointSegment,
    Motion,
    Refusal,
    RobotState,
    Scene,
    Verdict,
    Zone,
    digest,
    freeze,
)
from qwen2vl_robot.ports import Clock
from qwen2vl_robot.validation.change import difference

# Two measurements of a resting gripper differ by less; half the thinnest grip margin.
_WIDTH_TOLERANCE_M = 0.004
_AT_REST_RADPS = 0.1  # a motion begins at rest; joints that hold still measure far less


class Authority(str, Enum):
    """Who asks for something that only some may."""

    PERSON = "person"
    VOICE = "voice"
    PLANNER = "planner"


class Gate:
    """Admits a rehearsed motion, or says why not. A stop latches until somebody resets it.

    Args:
        clock: the plant's or the robot's time, in which states are stamped and approvals expire.
        lifetime_s: how long an approval is good for.
        max_state_age_s: an older live state is stale.
        max_verdict_age_s: a verdict whose rehearsal began longer ago is stale.
        max_frame_age_s: an older look at the scene is stale.
        zones: what the cell's rules restrict; a scene that was rehearsed without them is refused.
    """

    def __init__(
        self,
        clock: Clock,
        profile: RobotProfile,
        approval: Approval = Approval.AUTO,
        *,
        lifetime_s: float = 2.0,
        max_state_age_s: float = 0.2,
        max_verdict_age_s: float = 30.0,
        max_frame_age_s: float = 1.0,
        zones: tuple[Zone, ...] = (),
    ) -> None:
        for name, value in (
            ("lifetime_s", lifetime_s),
            ("max_state_age_s", max_state_age_s),
            ("max_verdict_age_s", max_verdict_age_s),
            ("max_frame_age_s", max_frame_age_s),
        ):
            if not 0.0 < value <= 3600.0:
                raise ValueError(f"{name} is {value} s; allowed above 0 to 3600")
        self._clock = clock
        self._profile = profile
        self._robot_digest = profile.digest
        self._approval = approval
        self._lifetime_ns = round(lifetime_s * 1e9)
        self._max_state_age_ns = round(max_state_age_s * 1e9)
        self._max_verdict_age_ns = round(max_verdict_age_s * 1e9)
        self._max_frame_age_ns = round(max_frame_age_s * 1e9)
        self._zones = zones
        self._lock = threading.Lock()
        self._stop_reason: str | None = None
        self._confirmed: set[str] = set()

    # ------------------------------------------------------------------------------------- stop, confirm

    def stop(self, reason: str) -> None:
        """Let nothing through from now on, until `reset`; what was confirmed is forgotten."""
        with self._lock:
            self._stop_reason = self._stop_reason or reason or "stop"
            self._confirmed.clear()

    def reset(self, by: Authority = Authority.PERSON) -> None:
        """End a stop. Confirmations must be given again.

        Raises:
            PermissionError: no person's hand gave it; a voice can be a stranger's, or a loudspeaker's.
        """
        if by is not Authority.PERSON:
            raise PermissionError(f"a {by.value} cannot end a stop; a person has to")
        with self._lock:
            self._stop_reason = None
            self._confirmed.clear()

    def stopped_by(self) -> str | None:
        """Why it stopped, None when it did not."""
        return self._stop_reason

    def is_stopped(self) -> bool:
        """Whether a stop is latched (`executor.run` asks this while the arm moves)."""
        return self._stop_reason is not None

    def confirm(self, verdict_digest: str) -> None:
        """Note that a person agreed to exactly this verdict, once.

        A verdict's digest stands for its motion, scene, start state and robot together.
        """
        with self._lock:
            if self._stop_reason is None:
                self._confirmed.add(verdict_digest)

    # --------------------------------------------------------------------------------------------- admit

    def admit(
        self,
        motion: Motion,
        verdict: Verdict,
        scene: Scene,
        start: RobotState,
        live: RobotState,
        *,
        rehearsed_ns: int,
        seen: CameraFrame | None,
        fresh: CameraFrame | None,
        to_confirm: tuple[str, ...] = (),
    ) -> ApprovedMotion | Refusal:
        """Check everything again and open the way to the arm, or not.

        Args:
            start: the state that was rehearsed from.
            live: the arm's state now, `held` set from the same belief.
            rehearsed_ns: this gate's clock, read before the rehearsal began.
            seen, fresh: the frame from which the scene was measured, and one from just now.
            to_confirm: why a person has to confirm this motion, whatever the approval mode says.

        Returns:
            The approval, or a refusal with the reason "stopped", "never", "not_finite", "not_accepted", "not_tried",
            "digest_mismatch", "zones_missing", "stale_verdict", "stale_state", "stale_frame", "start_moved",
            "no_frame", "scene_changed" or "not_confirmed".
        """
        verdict_digest = digest(verdict)
        now_ns = self._clock.now_ns()
        refusal = (
            self._refuse_policy()
            or self._refuse_numbers(motion, live)
            or self._refuse_verdict(motion, verdict, scene, start)
            or self._refuse_zones(scene)
            or self._refuse_age(live, rehearsed_ns, now_ns)
            or self._refuse_start(scene, start, live)
            or self._refuse_change(seen, fresh, now_ns)
            or self._refuse_unconfirmed(verdict_digest, to_confirm)
        )
        if refusal is not None:
            return refusal
        return ApprovedMotion(
            motion=motion,
            digest=verdict.motion_digest,
            verdict_digest=verdict_digest,
            scene_digest=verdict.scene_digest,
            start_digest=verdict.start_digest,
            robot_digest=self._robot_digest,
            start_q_rad=freeze(start.q_rad),
            expires_ns=now_ns + self._lifetime_ns,
        )

    def _refuse_policy(self) -> Refusal | None:
        reason = self._stop_reason
        if reason is not None:
            return Refusal("stopped", f"stopped: {reason}; reset the gate first")
        if self._approval is Approval.NEVER:
            return Refusal("never", "approval is set to never; no motion goes")
        return None

    def _refuse_numbers(self, motion: Motion, live: RobotState) -> Refusal | None:
        numbers: list[object] = [live.q_rad, live.dq_radps, live.gripper_width_m]
        for s in motion.segments:
            numbers += [s.time_s, s.q_rad] if isinstance(s, JointSegment) else [(s.start_s, s.end_s, s.width_m)]
        if not all(_is_finite(n) for n in numbers):
            return Refusal("not_finite", "the motion or the live state holds a number that is not finite")
        return None

    def _refuse_verdict(self, motion: Motion, verdict: Verdict, scene: Scene, start: RobotState) -> Refusal | None:
        if not verdict.accepted or verdict.violations:
            return Refusal("not_accepted", "; ".join(v.describe() for v in verdict.violations) or "not accepted")
        trials, asked = verdict.trials, self._profile.safety
        if trials is None or trials.count < asked.trials or not trials.lower_bound >= asked.success_ratio:
            told = "none" if trials is None else f"{trials.successes} of {trials.count} succeeded"
            return Refusal("not_tried", f"{asked.trials} perturbed roll-outs are asked for; {told}")
        found = {
            "motion": digest(motion) == verdict.motion_digest,
            "scene": digest(scene) == verdict.scene_digest,
            "start state": digest(start) == verdict.start_digest,
            "robot": self._robot_digest == verdict.robot_digest and motion.robot == self._profile.name,
        }
        wrong = [what for what, matches in found.items() if not matches]
        if wrong:
            return Refusal("digest_mismatch", f"the verdict is about another {' and another '.join(wrong)}")
        return None

    def _refuse_zones(self, scene: Scene) -> Refusal | None:
        missing = [zone.name for zone in self._zones if zone not in scene.zones]
        if missing:
            return Refusal("zones_missing", f"the rehearsal did not know the zones {', '.join(missing)}")
        return None

    def _refuse_change(self, seen: CameraFrame | None, fresh: CameraFrame | None, now_ns: int) -> Refusal | None:
        if seen is None or fresh is None:
            return Refusal("no_frame", "two frames are needed to see that the scene is as it was rehearsed")
        age_s = (now_ns - fresh.stamp_ns) / 1e9
        if not 0.0 <= age_s <= self._max_frame_age_ns / 1e9:
            allowed = f"allowed 0 to {self._max_frame_age_ns / 1e9:g} s"
            return Refusal("stale_frame", f"the last look at the scene is {age_s:.3f} s old; {allowed}")
        if fresh.stamp_ns < seen.stamp_ns:
            return Refusal("stale_frame", "the fresh frame is older than the one that was rehearsed")
        what = difference(seen, fresh)
        return None if what is None else Refusal("scene_changed", f"since the rehearsal {what}")

    def _refuse_age(self, live: RobotState, rehearsed_ns: int, now_ns: int) -> Refusal | None:
        for reason, what, stamp_ns, max_age_ns in (
            ("stale_verdict", "the rehearsal", rehearsed_ns, self._max_verdict_age_ns),
            ("stale_state", "the live state", live.stamp_ns, self._max_state_age_ns),
        ):
            if not 0 <= now_ns - stamp_ns <= max_age_ns:
                age_s = (now_ns - stamp_ns) / 1e9
                return Refusal(reason, f"{what} is {age_s:.3f} s old; allowed 0 to {max_age_ns / 1e9:g} s")
        return None

    def _refuse_start(self, scene: Scene, start: RobotState, live: RobotState) -> Refusal | None:
        n = len(self._profile.joints)
        if not np.shape(live.q_rad) == np.shape(start.q_rad) == (n,):
            return Refusal("start_moved", f"{n} joints are needed, live has {np.shape(live.q_rad)}")
        for what, off, allowed, unit in (
            ("arm", np.max(np.abs(live.q_rad - start.q_rad)), self._profile.start_tolerance_rad, "rad"),
            ("gripper", abs(live.gripper_width_m - start.gripper_width_m), _WIDTH_TOLERANCE_M, "m"),
        ):
            if not off <= allowed:
                text = f"the {what} is {off:.4f} {unit} from the rehearsed start; allowed {allowed} {unit}"
                return Refusal("start_moved", text)
        fastest = float(np.max(np.abs(live.dq_radps), initial=0.0))
        if np.shape(live.dq_radps) != (n,) or not fastest <= _AT_REST_RADPS:
            return Refusal("start_moved", f"a joint turns at {fastest:.3f} rad/s; allowed {_AT_REST_RADPS} rad/s")
        if not live.held == start.held == scene.held:
            held = f"{live.held!r} now, {start.held!r} at the rehearsed start, {scene.held!r} in the scene"
            return Refusal("start_moved", f"another object is held: {held}")
        return None

    def _refuse_unconfirmed(self, verdict_digest: str, to_confirm: tuple[str, ...]) -> Refusal | None:
        """Last, because it spends the confirmation."""
        with self._lock:
            if self._stop_reason is not None:
                return Refusal("stopped", f"stopped: {self._stop_reason}; reset the gate first")
            if self._approval is Approval.AUTO and not to_confirm:
                return None
            if verdict_digest not in self._confirmed:
                why = "".join(f"; {reason}" for reason in to_confirm)
                return Refusal("not_confirmed", f"nobody confirmed verdict {verdict_digest[:12]}{why}")
            self._confirmed.remove(verdict_digest)
            return None


def _is_finite(values: object) -> bool:
    """Whether these are numbers, none of them NaN, infinite or too large for a float."""
    try:
        return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all())
    except (TypeError, ValueError, OverflowError):
        return False
