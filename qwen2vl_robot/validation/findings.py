"""The findings of a rehearsal's stages → one Verdict; without a simulator, for any process."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import RobotProfile, Safety
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Motion, RobotState, Scene, Trace, Trials, Verdict, Violation, digest
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.explain import explain

STEP_M = 0.005  # the farthest that a point of arm or load may travel between two samples of a sweep
NEAR_M = 0.2  # clearance is measured up to this distance


@dataclass(frozen=True, slots=True, eq=False)
class RehearsalCase:
    """What is rehearsed: a motion of a robot from a start state in a scene."""

    motion: Motion
    scene: Scene
    start: RobotState
    profile: RobotProfile


@dataclass(frozen=True, slots=True, eq=False)
class Approach:
    """How close arm and load come to one body between two movements of the gripper.

    Attributes:
        load: the object that the fingers carry, if any.
        time_s: (k,) times of the samples.
        way_m: (k,) upper bound of the path length of any point of arm and load up to each sample.
        clearance_m: (k,) distance of arm and load from the body, at most `NEAR_M`.
    """

    name: str
    load: str | None
    time_s: Array
    way_m: Array
    clearance_m: Array

    def lowest_m(self) -> Array:
        """Compute lower bounds (k - 1,) of the clearance between neighbouring samples."""
        lowest: Array = (self.clearance_m[1:] + self.clearance_m[:-1] - np.diff(self.way_m)) / 2
        return lowest


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """The findings of a sweep.

    Attributes:
        approaches: how close it came to each body, in the order of time.
        samples: number of checked configurations.
    """

    violations: tuple[Violation, ...]
    approaches: tuple[Approach, ...]
    samples: int


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """The findings of one physics run, with scene and state at its end."""

    violations: tuple[Violation, ...]
    scene: Scene
    state: RobotState
    film: npt.NDArray[np.uint8] | None
    track: Array  # of a trial, as `messages.Trace` has it; else empty


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """The findings of one perturbed run; a success has no violations."""

    index: int
    violations: tuple[Violation, ...]
    q_offset_rad: Array  # as `messages.Trace` has it, and the track too
    track: Array


def stricter(safety: Safety, refused: int) -> Safety:
    """Raise the demands on a motion's trials after the trials of `refused` other motions for the same step failed.

    With enough attempts one passes by luck. So the attempts share the allowed error (Bonferroni), and the number of
    trials rises until the threshold can be reached again.
    """
    if refused == 0 or tolerated(safety) < 0:
        return safety
    confidence = 1.0 - (1.0 - safety.confidence) / (1 + refused)
    count = safety.trials
    while most_failures(count, safety.success_ratio, confidence) < 0:
        count += 1
    return safety.model_copy(update={"trials": count, "confidence": confidence})


def tolerated(safety: Safety) -> int:
    """Compute how many trials may fail with the bound still at the threshold; -1 when there are too few trials."""
    return most_failures(safety.trials, safety.success_ratio, safety.confidence)


def make_verdict(
    case: RehearsalCase,
    violations: tuple[Violation, ...],
    run: Rollout | None = None,
    trials: list[Trial] | None = None,
    *,
    safety: Safety | None = None,
    began: float,
) -> Verdict:
    """Combine the findings of the stages; accepted only when every stage ran and found nothing.

    Args:
        safety: the demands on the trials; by default those of the profile.
        began: `time.perf_counter()` at the start of the rehearsal, seconds.
    """
    safety = safety or case.profile.safety
    judged = _judge_trials(safety, trials) if trials else None
    if judged is not None and not violations:
        violations = judged[1]
    is_complete = run is not None and judged is not None and judged[0].count == safety.trials
    accepted = is_complete and not violations
    return Verdict(
        accepted=accepted,
        violations=violations,
        motion_digest=digest(case.motion),
        scene_digest=digest(case.scene),
        start_digest=digest(case.start),
        robot_digest=case.profile.digest,
        scene_after=run.scene if accepted and run is not None else None,
        state_after=run.state if accepted and run is not None else None,
        trials=None if judged is None else judged[0],
        explanation=explain(violations, case.scene, case.profile),
        film=None if run is None else run.film,
        seconds=time.perf_counter() - began,
        traces=tuple(_trace(trial) for trial in sorted(trials or (), key=lambda t: t.index)),
    )


def _trace(trial: Trial) -> Trace:
    moments_s = [v.time_s for v in trial.violations if v.time_s is not None]
    return Trace(bool(trial.violations), min(moments_s, default=None), trial.q_offset_rad, trial.track)


def _judge_trials(safety: Safety, trials: list[Trial]) -> tuple[Trials, tuple[Violation, ...]]:
    """Pass a motion when the bound reaches the threshold and its trials failed by a missed effect only."""
    successes = sum(not t.violations for t in trials)
    bound = lower_bound(successes, len(trials), safety.confidence)
    violations = tuple(v for t in sorted(trials, key=lambda t: t.index) for v in t.violations)
    broken = tuple(v for v in violations if v.kind != ViolationKind.WRONG_EFFECT)
    if bound < safety.success_ratio or broken:
        share = f"{successes} of {len(trials)} perturbed runs succeed"
        doubt = Violation(
            ViolationKind.UNCERTAIN, None, (share,), safety.success_ratio - bound, "below the bound asked for"
        )
        violations = (doubt, *_worst_of_each(violations))
    else:
        violations = ()
    return Trials(len(trials), successes, bound, safety.success_ratio), violations


def _worst_of_each(violations: tuple[Violation, ...]) -> tuple[Violation, ...]:
    worst: dict[tuple[str, tuple[str, ...]], Violation] = {}
    for v in violations:
        known = worst.get((v.kind, v.bodies))
        worst[v.kind, v.bodies] = v if known is None or v.amount > known.amount else known
    return tuple(worst.values())


def lower_bound(successes: int, count: int, confidence: float) -> float:
    """Compute the one-sided lower confidence bound of a success ratio (Clopper and Pearson 1934).

    >>> round(lower_bound(16, 16, 0.95), 3)
    0.829
    """
    if not 0 <= successes <= count or count < 1:
        raise ValueError(f"{successes} successes of {count} trials; 0 to count are allowed, and count from 1")
    low, high = 0.0, successes / count
    for _ in range(60):  # bisection to the last bit
        middle = (low + high) / 2
        if _at_least(successes, count, middle) < 1.0 - confidence:
            low = middle
        else:
            high = middle
    return low


def _at_least(successes: int, count: int, ratio: float) -> float:
    """Compute the probability of this many successes or more."""
    return sum(math.comb(count, k) * ratio**k * (1.0 - ratio) ** (count - k) for k in range(successes, count + 1))


def most_failures(count: int, threshold: float, confidence: float) -> int:
    """Compute how many of `count` trials may fail with the bound still at the threshold; -1 when none may."""
    return next((f - 1 for f in range(count + 1) if lower_bound(count - f, count, confidence) < threshold), count)
