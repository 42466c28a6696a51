"""What the stages of a rehearsal find → one Verdict; needs no simulator, so that every process can join findings."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import RobotProfile, Safety
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Motion, RobotState, Scene, Trials, Verdict, Violation, digest
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.explain import explain

STEP_M = 0.005  # how far any point of arm or load travels between two samples of a sweep, at most
NEAR_M = 0.2  # how far clearance is measured


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What is rehearsed and judged: a motion, from a start, in a scene, by a robot."""

    motion: Motion
    scene: Scene
    start: RobotState
    profile: RobotProfile


@dataclass(frozen=True, slots=True, eq=False)
class Approach:
    """How close arm and load come to one body on one stretch between two movements of the gripper.

    Attributes:
        load: what the fingers carry on it.
        time_s, way_m, clearance_m: (k,) when one looked, how far any point may have travelled by then, and how far
            arm and load were from the body, at most `NEAR_M`.
    """

    name: str
    load: str | None
    time_s: Array
    way_m: Array
    clearance_m: Array

    def lowest_m(self) -> Array:
        """What clearance (k - 1,) cannot fall below between one look and the next."""
        lowest: Array = (self.clearance_m[1:] + self.clearance_m[:-1] - np.diff(self.way_m)) / 2
        return lowest


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """What a sweep found.

    Attributes:
        approaches: how close it came to each body, in the order of time.
        samples: configurations that were looked at.
    """

    violations: tuple[Violation, ...]
    approaches: tuple[Approach, ...]
    samples: int


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """What came of one run; scene and state are those at its end."""

    violations: tuple[Violation, ...]
    scene: Scene
    state: RobotState
    film: npt.NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What came of one perturbed roll-out; without violations it was a success."""

    index: int
    violations: tuple[Violation, ...]


def stricter(safety: Safety, refused: int) -> Safety:
    """What to ask of a motion's trials after those of `refused` other motions for the same step have failed.

    Who tries often enough is lucky once, so the error that is allowed is shared among the tries (Bonferroni), and there
    are as many trials more as the threshold then needs.
    """
    if refused == 0 or tolerated(safety) < 0:
        return safety
    confidence = 1.0 - (1.0 - safety.confidence) / (1 + refused)
    count = safety.trials
    while most_failures(count, safety.success_ratio, confidence) < 0:
        count += 1
    return safety.model_copy(update={"trials": count, "confidence": confidence})


def tolerated(safety: Safety) -> int:
    """How many trials may fail with the bound still at the threshold; -1 when N is too small for it."""
    return most_failures(safety.trials, safety.success_ratio, safety.confidence)


def make_verdict(
    case: Case,
    violations: tuple[Violation, ...],
    run: Rollout | None = None,
    trials: list[Trial] | None = None,
    *,
    safety: Safety | None = None,
    began: float,
) -> Verdict:
    """Join what the stages found; accepted only when every one of them ran and found nothing.

    Args:
        safety: what the trials were held to, else the profile's own.
    """
    safety = safety or case.profile.safety
    told = _judge_trials(safety, trials) if trials else None
    if told is not None and not violations:
        violations = told[1]
    is_complete = run is not None and told is not None and told[0].count == safety.trials
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
        trials=None if told is None else told[0],
        explanation=explain(violations, case.scene, case.profile),
        film=None if run is None else run.film,
        seconds=time.perf_counter() - began,
    )


def _judge_trials(safety: Safety, trials: list[Trial]) -> tuple[Trials, tuple[Violation, ...]]:
    """A motion passes when the bound clears the threshold and no trial broke a limit of safety."""
    successes = sum(not t.violations for t in trials)
    bound = lower_bound(successes, len(trials), safety.confidence)
    found = tuple(v for t in sorted(trials, key=lambda t: t.index) for v in t.violations)
    broken = tuple(v for v in found if v.kind != ViolationKind.WRONG_EFFECT)
    if bound < safety.success_ratio or broken:
        share = f"{successes} of {len(trials)} perturbed runs succeed"
        doubt = Violation(
            ViolationKind.UNCERTAIN, None, (share,), safety.success_ratio - bound, "below the bound asked for"
        )
        found = (doubt, *_worst_of_each(found))
    else:
        found = ()
    return Trials(len(trials), successes, bound, safety.success_ratio), found


def _worst_of_each(found: tuple[Violation, ...]) -> tuple[Violation, ...]:
    worst: dict[tuple[str, tuple[str, ...]], Violation] = {}
    for v in found:
        known = worst.get((v.kind, v.bodies))
        worst[v.kind, v.bodies] = v if known is None or v.amount > known.amount else known
    return tuple(worst.values())


def lower_bound(successes: int, count: int, confidence: float) -> float:
    """One-sided lower confidence bound of a success ratio (Clopper and Pearson 1934).

    >>> round(lower_bound(16, 16, 0.95), 3)
    0.829
    """
    if not 0 <= successes <= count or count < 1:
        raise ValueError(f"{successes} of {count} is no share")
    low, high = 0.0, successes / count
    for _ in range(60):  # bisection to the last bit
        middle = (low + high) / 2
        if _at_least(successes, count, middle) < 1.0 - confidence:
            low = middle
        else:
            high = middle
    return low


def _at_least(successes: int, count: int, ratio: float) -> float:
    """Probability of this many successes or more."""
    return sum(math.comb(count, k) * ratio**k * (1.0 - ratio) ** (count - k) for k in range(successes, count + 1))


def most_failures(count: int, threshold: float, confidence: float) -> int:
    """How many of `count` trials may fail with the bound still at the threshold; -1 when not even none."""
    return next((f - 1 for f in range(count + 1) if lower_bound(count - f, count, confidence) < threshold), count)
