"""A motion across the table, and leave for it as if a twin had found nothing, for benchmarks of what is seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.benchmarks.hazards.oracle import PathOracle
from qwen2vl_robot.benchmarks.hazards.stage import Stage, blend
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    Box,
    Effect,
    JointSegment,
    Motion,
    Refusal,
    Rehearsed,
    RobotState,
    Scene,
    SceneObject,
    Trials,
    Verdict,
    digest,
    freeze,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import PlantLink
from qwen2vl_robot.plant.visited import Visit

STEP_S = 0.02
_HIGH_M = (0.2, 0.38)  # of the tool over the table, above all that stands on it


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """A motion, and the arm on it at each `STEP_S`."""

    segments: tuple[JointSegment, ...]
    times_s: Array
    q_rad: Array
    oracle: PathOracle

    @classmethod
    def draw(cls, stage: Stage, start: RobotState, rng: np.random.Generator) -> Course:
        """Let the hand go from where it is to one side and across to the other."""
        side = rng.choice([-1.0, 1.0])
        q, segments, since_s = start.q_rad, list[JointSegment](), 0.0
        for sign in (side, -side):
            p_m = np.array([rng.uniform(0.4, 0.55), sign * rng.uniform(0.12, 0.25), rng.uniform(*_HIGH_M)])
            q_next = stage.solve(p_m)
            segments.append(blend(q, q_next, stage.pace_s(q, q_next) * rng.uniform(1.0, 2.0), since_s))
            q, since_s = q_next, segments[-1].end_s
        times_s = np.arange(0.0, since_s, STEP_S)
        known_s, known_rad = (np.concatenate([getattr(s, what) for s in segments]) for what in ("time_s", "q_rad"))
        q_rad = np.array([np.interp(times_s, known_s, joint) for joint in known_rad.T]).T
        oracle = PathOracle(stage.kinematics, q_rad, start.gripper_width_m)
        return cls(tuple(segments), times_s, q_rad, oracle)

    def clearance_m(self, visit: Visit, at_s: float) -> float:
        """How far from the whole way a visitor is at a time."""
        body = SceneObject("visitor", Box(visit.size_m), make_pose(visit.at_m(at_s)))
        return self.oracle.clearance_m(body)


def admitted(
    link: PlantLink,
    around: Surroundings,
    segments: tuple[JointSegment, ...],
    load: tuple[Scene, RobotState] | None = None,
) -> tuple[ApprovedMotion, Rehearsed]:
    """Have a gate admit a motion over a fresh look.

    Args:
        load: the scene and the state with what is held, where something is.

    Raises:
        RuntimeError: the gate refuses it.
    """
    profile, n = around.profile, around.profile.safety.trials
    scene, start = load or (Scene((), ()), link.state())
    start = replace(start, dq_radps=freeze(np.zeros(len(profile.joints))))
    motion, frame, now_ns = Motion(profile.name, segments, Effect("none")), link.capture(), link.now_ns()
    digests = (digest(motion), digest(scene), digest(start), profile.digest)
    verdict = Verdict(True, (), *digests, trials=Trials(n, n, 1.0, profile.safety.success_ratio))
    step = Rehearsed(motion, verdict, scene, start, now_ns, frame)
    approval = Approval(digest(verdict), "token", 0)
    approved = Gate(profile, ()).admit(step, start, frame, approval, Halt(), now_ns)
    if isinstance(approved, Refusal):
        raise RuntimeError(f"the gate refuses a motion of the benchmark: {approved.text}")
    return approved, step
