"""An SRDF → the pairs of links that it disables, of which a robot file takes those that touch by their hulls alone.

Hulls touch where links do not, and somebody has looked at these. What never touches here stays checked: that costs
nothing. So does what the gripper moves, because fingers go where nobody sampled, and what touches by its true shapes,
whatever the SRDF says: it may be of another robot, or disable what only planning wants to be rid of.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen2vl_robot.arms.contacts import Pair, Sampled, random_postures
from qwen2vl_robot.bounds import SRDF_PAIRS, URDF_CHARS, shown
from qwen2vl_robot.documents import read_text
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.kinematics import Kinematics, true_contacts
from qwen2vl_robot.urdf_files import parse_urdf


@dataclass(frozen=True, slots=True)
class Disabled:
    """What became of the pairs of an SRDF.

    Attributes:
        taken: pair → the SRDF's own reason; only their hulls touch.
        kept: pair → why it touches here now and then, and is checked all the same.
        unknown: links that the URDF has not.
        count: of all pairs.
    """

    taken: dict[Pair, str]
    kept: dict[Pair, str]
    unknown: tuple[str, ...]
    count: int


def read_disabled(path: Path) -> dict[Pair, str]:
    """Read the pairs of links that an SRDF disables, each with its reason.

    Raises:
        BadInputError: no SRDF, not within the bounds, or a pair without two links.
    """
    try:
        root = parse_urdf(read_text(path, URDF_CHARS))
    except BadInputError as error:
        raise BadInputError(f"{path}: as an SRDF: {error}") from error
    found: dict[Pair, str] = {}
    for item in root.iter("disable_collisions"):
        a, b = item.get("link1", ""), item.get("link2", "")
        if not a or not b or a == b:
            raise BadInputError(f"{path}: disable_collisions needs two links, has {shown(a)!r} and {shown(b)!r}")
        found[min(a, b), max(a, b)] = shown(item.get("reason", ""), 40)
        if len(found) > SRDF_PAIRS:
            raise BadInputError(f"{path}: more than {SRDF_PAIRS} pairs are disabled")
    if not found:
        raise BadInputError(f"{path}: an SRDF that disables no collisions; is it the one of this arm?")
    return found


def sort_out(disabled: dict[Pair, str], kinematics: Kinematics, moved: Collection[str], sampled: Sampled) -> Disabled:
    """Choose the pairs that a robot file takes.

    Args:
        moved: links that the gripper moves.
        sampled: what touched by its hulls in random postures, and at home.
    """
    links = {frame.name for frame in kinematics.model.frames}
    unknown = sorted({link for pair in disabled for link in pair} - set(links))
    touch = [pair for pair in disabled if sampled.ratios.get(pair) or pair in sampled.at_home]
    open_ = [pair for pair in touch if pair not in sampled.by_design]
    kept = {pair: "the gripper moves one of them" for pair in open_ if set(pair) & set(moved)}
    for pair, ratio in _truly_touch(kinematics, [p for p in open_ if p not in kept], sampled.samples).items():
        if ratio:
            kept[pair] = f"their true shapes touch in {ratio:.1%} of the postures"
    taken = {pair: disabled[pair] for pair in sorted(open_) if pair not in kept}
    return Disabled(taken, dict(sorted(kept.items())), tuple(unknown), len(disabled))


def _truly_touch(kinematics: Kinematics, pairs: list[Pair], samples: int) -> dict[Pair, float]:
    """In how many random postures, and at home, the links' own meshes and solids meet: a share for each pair."""
    profile = kinematics.profile
    home = (np.array(profile.home_q_rad), profile.gripper.max_width_m)
    postures = [home, *random_postures(profile, samples)]  # those in which hulls touched
    counts = true_contacts(kinematics, pairs, postures)
    return {pair: counts[pair] / len(postures) for pair in pairs}
