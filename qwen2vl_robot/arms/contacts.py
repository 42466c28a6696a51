"""An arm at random joints, in Bullet → the links that touch by design, and how often the others do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array

_DESIGN_RATIO = 0.98  # of all samples: links that touch in nearly every posture touch by design
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What touched what.

    Attributes:
        by_design: pairs that touch in nearly every sample.
        at_home: further pairs that touch at home, with open or closed fingers.
        ratios: how often each pair touched.
        free_ratio: share of the samples in which nothing else touches.
    """

    by_design: tuple[Pair, ...]
    at_home: tuple[Pair, ...]
    ratios: dict[Pair, float]
    free_ratio: float
    samples: int


def random_postures(profile: RobotProfile, samples: int, seed: int = 0) -> Iterator[tuple[Array, float]]:
    """Draw joints (n,) within their limits, and a width of the gripper, metres, for each sample."""
    rng = np.random.default_rng(seed)
    low, high = (np.array([getattr(j, f"{end}_rad") for j in profile.joints]) for end in ("lower", "upper"))
    for _ in range(samples):
        yield rng.uniform(low, high), float(rng.uniform(0.0, profile.gripper.max_width_m))


def sample_contacts(profile: RobotProfile, moved: tuple[str, ...] = (), samples: int = 300, seed: int = 0) -> Sampled:
    """Put the arm at random joints and widths, without table, and look at what touches.

    Args:
        moved: links that the gripper moves; those that touch each other or the hand at some width do so by design,
            except the fingers, which only meet when they close.
    """
    counts = Counter[Pair]()
    fingers = set(profile.gripper.finger_links)
    with BulletWorld() as world:
        world.add_robot(profile)

        def touching(q_rad: np.ndarray, width_m: float) -> set[Pair]:
            world.robot.reset_arm(q_rad, width_m)
            found = {(c.a, c.b) for c in world.contacts.touching(detect=True)}
            return {pair for pair in found if set(pair) != fingers}

        seen = [touching(*posture) for posture in random_postures(profile, samples, seed)]
        for pairs in seen:
            counts.update(pairs)
        ends_m = (0.0, profile.gripper.max_width_m / 2, profile.gripper.max_width_m)
        at_home = set.union(*(touching(np.array(profile.home_q_rad), width_m) for width_m in ends_m))
    by_design = {p for p, n in counts.items() if n >= _DESIGN_RATIO * samples or set(p) <= set(moved)}
    by_design |= {p for p in at_home if set(p) & set(moved)}
    free = sum(not (pairs - by_design) for pairs in seen)
    ratios = {pair: n / samples for pair, n in counts.items()}
    at_home -= by_design
    return Sampled(tuple(sorted(by_design)), tuple(sorted(at_home)), ratios, free / max(samples, 1), samples)
