"""Seeded malformed input of every kind, for volume: none may pass, none may break anything.

`make fuzz` runs 100,000 of them; `make test` a short stretch of the same stream.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qwen2vl_robot.config import parse
from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Box, JointSegment, Motion, Rehearsed, RobotState, Scene, SceneObject, Verdict, freeze
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.validation.limits import check
from qwen2vl_robot.validation.request import Request, understand
from tests import fuzz_inputs
from tests.cells import PROFILE, SCENE, accept, approval_of, look, reach

NOW_NS = 50_000_000_000
HOME = np.array(PROFILE.home_q_rad)
MOTION = reach(HOME, [0.1] * 7, 0.2)
REST = RobotState(NOW_NS, freeze(HOME), freeze(np.zeros(7)), 0.08)
_GARBAGE: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    b"\x00",
    -1,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    object(),
)
_TEXT = '{"objects":[{"label":"red block","boxes":[[1,2,300,400]]}],"actions":[{"do":"pick","object":0}]}'
_REQUEST: dict[str, Any] = {
    "robot": "franka_panda",
    "joint_names": [joint.name for joint in PROFILE.joints],
    "start_q_rad": HOME.tolist(),
    "picks": "b",
    "zones": [{"name": "z", "min_m": [0.0, 0.5, 0.0], "max_m": [0.5, 1.0, 1.0], "speed_mps": 0.0}],
    "objects": [{"name": "b", "shape": "box", "size_m": [0.05, 0.05, 0.05], "position_m": [0.5, 0.0, 0.025]}],
    "motion": [{"joints": [{"time_s": 2.0, "positions_rad": HOME.tolist()}]}],
}


def bad_reply(rng: np.random.Generator) -> bool:
    """Cut, double or replace characters of a reply so that it is no longer JSON; whether it was let through."""
    text = _TEXT
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(text)))
        inserted = text[:at] + chr(int(rng.integers(1, 0x2FF))) + text[at + int(rng.integers(2)) :]
        text = inserted if rng.random() < 0.8 else text[:at] or "{"
    try:
        plan = parse_reply(text)
    except PlannerError:
        return False
    # What still parses is a plan of the vocabulary about boxes in the picture, and not yet rehearsed.
    return not all(0 <= b.x0 < b.x1 <= 1000 for a in plan.actions if a.object for b in a.object.boxes)


def bad_request(rng: np.random.Generator) -> bool:
    """Put garbage somewhere into a request; what is still one must be judged without breaking anything."""
    try:
        request = parse(_spoil(_REQUEST, rng), Request, "fuzz")
        profile, scene, start, motion = understand(request, Path("fuzz"))
    except BadInputError:
        return False
    check(motion, scene, start, profile)
    return False  # garbage that is allowed where it landed: another number, no approval


def _spoil(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = str(rng.choice(list(value)))
        return {**value, key: _spoil(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = int(rng.integers(len(value)))
        return [*value[:at], _spoil(value[at], rng), *value[at + 1 :]]
    return _GARBAGE[int(rng.integers(len(_GARBAGE)))]


def bad_motion(rng: np.random.Generator) -> bool:
    """A motion, scene or start with one thing wrong must have a violation in its numbers."""
    motion, scene, start = _wrong(rng)
    with np.errstate(all="ignore"):
        return not check(motion, scene, start, PROFILE)


def bad_admission(rng: np.random.Generator) -> bool:
    """The same with a verdict that accepts: the gate must refuse."""
    motion, scene, start = _wrong(rng)
    verdict: Verdict = accept(MOTION, REST)
    with np.errstate(all="ignore"):
        step = Rehearsed(motion, verdict, scene, start, NOW_NS, look(NOW_NS))
        answer = Gate(PROFILE, ()).admit(step, start, look(NOW_NS), approval_of(step), Halt(), NOW_NS)
    return type(answer).__name__ != "Refusal"


def _wrong(rng: np.random.Generator) -> tuple[Motion, Scene, RobotState]:
    segment = MOTION.segments[0]
    assert isinstance(segment, JointSegment)
    bad = float(rng.choice([np.nan, np.inf, -np.inf, 1e9, -1e9]))
    which = int(rng.integers(7))
    if which == 0:
        return _with(segment, q_rad=_hit(segment.q_rad, rng, bad)), SCENE, REST
    if which == 1:
        return _with(segment, time_s=_hit(segment.time_s, rng, bad)), SCENE, REST
    if which == 2:
        order = rng.permutation(len(segment.time_s))
        order[:2] = order[:2][::-1] if order[0] < order[1] else order[:2]
        return _with(segment, time_s=segment.time_s[order]), SCENE, REST
    if which == 3:
        columns = int(rng.choice([0, 1, 6, 8]))
        return _with(segment, q_rad=np.zeros((len(segment.time_s), columns))), SCENE, REST
    if which == 4:
        return MOTION, SCENE, replace(REST, q_rad=_hit(REST.q_rad, rng, bad))
    if which == 5:
        size = tuple(_hit(np.full(3, 0.05), rng, float(rng.choice([0.0, -0.1, np.nan, np.inf]))).tolist())
        body = SceneObject("b", Box(size), freeze(np.eye(4)))
        return MOTION, Scene((body,), ()), REST
    body = SceneObject("b", Box((0.1, 0.1, 0.1)), _hit(np.eye(4), rng, bad))
    return MOTION, Scene((body,), ()), REST


def _with(segment: JointSegment, **changes: Any) -> Motion:
    return replace(MOTION, segments=(replace(segment, **changes),))


def _hit(values: Any, rng: np.random.Generator, bad: float) -> Any:
    changed = np.array(values, dtype=float)
    changed.flat[int(rng.integers(changed.size))] = bad
    return changed


TARGETS: tuple[Callable[[np.random.Generator], bool], ...] = (
    *(bad_reply, bad_request, bad_motion, bad_admission),
    *(fuzz_inputs.bad_input(name) for name in fuzz_inputs.TARGETS),
)


def run(count: int, seed: int = 0) -> Counter[str]:
    """Run that many; count approvals and crashes by target."""
    found: Counter[str] = Counter()
    for index in range(count):
        target = TARGETS[index % len(TARGETS)]
        try:
            if target(np.random.default_rng([seed, index])):
                found[f"{target.__name__} let through"] += 1
        except Exception as error:  # noqa: BLE001 - a crash is what this looks for
            found[f"{target.__name__} crashed: {type(error).__name__}: {str(error)[:80]} (index {index})"] += 1
    return found


if __name__ == "__main__":
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    bad = run(total)
    print(f"{total} malformed inputs, {sum(bad.values())} crashes or approvals")
    for what, times in bad.most_common(20):
        print(f"  {times} x {what}")
    sys.exit(1 if bad else 0)
