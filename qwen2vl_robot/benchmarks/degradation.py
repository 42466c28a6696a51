"""Default scenes seen by an ever worse camera → where the chain stops, and whether it names the camera as the cause.

The controller is the real one with its guard and gate, on first frames: nothing moves. The twin is left out (it
accepts), and the arm refuses what is admitted, which is how a chain ends that nothing stopped.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.benchmarks.shares import wilson_interval
from qwen2vl_robot.benchmarks.truth_planner import pick_plan
from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import ExecutionError, ObservationError
from qwen2vl_robot.geometry import make_pose, read_only, rotation_from_rotvec
from qwen2vl_robot.messages import (
    ApprovedMotion,
    CameraFrame,
    ImageBox,
    Instruction,
    Motion,
    Observation,
    Plan,
    RobotState,
    Scene,
    StepRecord,
    Trials,
    Verdict,
    digest,
    freeze,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.cameras import CameraModel, ErringCamera, Noise, Stereo, load_camera
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.policy import ABOUT_CAMERA
from qwen2vl_robot.reasons import AbortReason, ObservationReason, PerceptionReason, Reason

_SCENE, _ROBOT, _TARGET = "scenes/default.yaml", "franka_panda", "red block"
_EXACT = "white_noise_m: 0.0\n"
_LOOK_NS = 100_000_000
_BASELINE_M = 0.05
_LIVE_FRAMES = 2  # that a guard has seen before a camera sticks

Look = Callable[[], CameraFrame]


@dataclass(frozen=True, slots=True, eq=False)
class First:
    """A scene as its camera would see it without any error."""

    seed: int
    frame: CameraFrame
    robot: RobotState
    box: ImageBox


@dataclass(frozen=True, slots=True)
class Effect:
    """One way in which a camera gets worse.

    Attributes:
        levels: from mild to bad.
        causes: the right answers.
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    causes: frozenset[Reason]
    make: Callable[[First, float, np.random.Generator], Look]


def run_degradation(scenes: int, seed: int) -> Iterator[dict[str, Any]]:
    """Try each level of each effect in each scene; a row a scene."""
    around = Surroundings.of(load_robot(_ROBOT))
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.yaml"
        exact.write_text(_EXACT, encoding="utf-8")
        for number in range(seed, seed + scenes):
            first = _first(number, str(exact))
            if first is not None:
                yield _run(first, around)


def summarise_degradation(results: list[dict[str, Any]]) -> dict[str, Any]:
    """For each effect: from which level the chain stops, what it gives as the cause, and how often that is right."""
    used = [r for r in results if r["passes"]]
    effects = {}
    for effect in EFFECTS:
        trials = [t for r in used for t in r["trials"] if t["effect"] == effect.name]
        stopped = [t for t in trials if t["cause"] is not None]
        effects[effect.name] = {
            "unit": effect.unit,
            "levels": list(effect.levels),
            "stopped": {f"{v:g}": sum(t["level"] == v for t in stopped) for v in effect.levels},
            "stops_from": min((t["level"] for t in stopped), key=effect.levels.index, default=None),
            "causes": dict(Counter(t["cause"] for t in stopped)),
            "right": sum(t["right"] for t in stopped),
        }
    count, right = (
        sum(sum(e["stopped"].values()) for e in effects.values()),
        sum(e["right"] for e in effects.values()),
    )
    alarms = [a for r in results for a in r["alarms"]]
    return {
        "scenes": len(results),
        "left_out": len(results) - len(used),
        "stopped": count,
        "right": right,
        "right_ratio": round(right / count, 4) if count else None,
        "right_interval_95": wilson_interval(right, count) if count else None,
        "false_alarms": len(alarms),
        "effects": effects,
    }


def _first(seed: int, exact: str) -> First | None:
    """The first look at a scene; None where its target is hidden."""
    with PlantProcess(_SCENE, seed, camera=exact) as plant:
        frame, robot, boxes = plant.link.capture(), plant.link.state(), plant.truth.boxes()
    robot = replace(robot, dq_radps=freeze(np.zeros(len(robot.q_rad))))
    return First(seed, frame, robot, boxes[_TARGET].box) if _TARGET in boxes else None


def _run(first: First, around: Surroundings) -> dict[str, Any]:
    alarms = [
        f"{model}: {said.text}"
        for model in ("ideal", "d435", "structured_light")
        if (said := _look_twice(first, model, around)) is not None
    ]
    healthy = _cause(first, _by_model(first, np.random.default_rng([first.seed, 0])), around)
    trials = []
    for number, effect in enumerate(EFFECTS if healthy is None else ()):
        for level in effect.levels:
            cause = _cause(first, effect.make(first, level, np.random.default_rng([first.seed, number])), around)
            right = cause in effect.causes
            word = None if cause is None else str(cause)
            trials.append({"effect": effect.name, "level": level, "cause": word, "right": right})
    ended = None if healthy is None else str(healthy)
    return {"seed": first.seed, "passes": healthy is None, "ended": ended, "alarms": alarms, "trials": trials}


def _look_twice(first: First, model: str, around: Surroundings) -> Any:
    """What a guard says against a right camera of a model, None for nothing; the arm's check has a bench of its own."""
    guard, look = CameraGuard(around), _by_model(first, np.random.default_rng([first.seed, 0]), name=model)
    said = [guard.look(Observation(look(), first.robot)) for _ in range(2)]
    ill = ABOUT_CAMERA - {ObservationReason.CAMERA_OFF, ObservationReason.CAMERA_UNCHECKED}
    return next((answer for answer in said if answer.against in ill), None)


def _cause(first: First, look: Look, around: Surroundings) -> Reason | None:
    """Why the controller does not move the arm by such a camera; None where it would."""
    cell, guard = _Cell(first, look), CameraGuard(around)
    if look.__name__ == "_sticking":
        for _ in range(_LIVE_FRAMES):
            guard.look(Observation(cell.capture(), first.robot))
    controller = assemble(around, Ports(cell, cell, cell, cell, cell, guard=guard), seed=first.seed)
    try:
        outcome = controller.run(Instruction(f"pick up the {_TARGET}")).outcome
    except ObservationError as error:
        return error.reason
    return None if outcome.reason is AbortReason.REJECTED else outcome.reason


class _Cell:
    """Camera, arm, clock, planner and twin around a first frame; each look comes a little later."""

    def __init__(self, first: First, look: Look) -> None:
        self._first, self._look = first, look
        self._ns = first.frame.stamp_ns

    def capture(self) -> CameraFrame:
        self._ns += _LOOK_NS
        return replace(self._look(), stamp_ns=self._ns)

    def newest(self, since_ns: int) -> CameraFrame | None:
        return None  # nothing moves here, so nothing is watched

    def state(self) -> RobotState:
        return replace(self._first.robot, stamp_ns=self._ns)

    def now_ns(self) -> int:
        return self._ns

    def sleep(self, seconds: float) -> None:
        self._ns += round(seconds * 1e9)

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        return pick_plan(_TARGET, self._first.box)

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, refused: int = 0) -> Verdict:
        profile = load_robot(_ROBOT)
        digests, n = (digest(motion), digest(scene), digest(start), profile.digest), profile.safety.trials
        trials = Trials(n, n, 1.0, profile.safety.success_ratio)
        return Verdict(True, (), *digests, scene_after=scene, state_after=start, trials=trials)

    def execute(self, approved: ApprovedMotion) -> None:
        raise ExecutionError("admitted; no arm moves here")

    def is_moving(self) -> bool:
        return False

    def go_on(self, from_s: float = 0.0) -> int:
        raise ExecutionError("no arm moves here")

    has_gripped, retreat = is_moving, go_on

    def stop(self) -> None:
        """There is nothing to stop."""


# ------------------------------------------------------------------------------------------------ effects


def _by_model(first: First, rng: np.random.Generator, *, name: str = "ideal", **changed: object) -> Look:
    """See by a model of sim/cameras, with some of it changed."""
    model = CameraModel.model_validate({**load_camera(name).model_dump(), **changed})
    camera = ErringCamera(model, first.frame.intrinsics, rng)

    def see() -> CameraFrame:
        rgb, depth_m = camera.see(np.array(first.frame.rgb), np.array(first.frame.depth_m), {})
        return replace(first.frame, rgb=rgb, depth_m=depth_m)

    return see


def _stereo(first: First, rng: np.random.Generator, **changed: Any) -> Look:
    return _by_model(first, rng, stereo=Stereo(baseline_m=_BASELINE_M, **changed).model_dump())


def _then(change: Callable[[CameraFrame, float, First, np.random.Generator], CameraFrame]) -> Any:
    """An effect on the frames of the ideal camera; what it draws is the same in each frame."""

    def make(first: First, level: float, rng: np.random.Generator) -> Look:
        look, seed = _by_model(first, rng), int(rng.integers(1 << 31))
        return lambda: change(look(), level, first, np.random.default_rng(seed))

    return make


def _with_depth(frame: CameraFrame, depth_m: npt.NDArray[Any]) -> CameraFrame:
    return replace(frame, depth_m=depth_m.astype(np.float32))


def _holes(frame: CameraFrame, share: float, _: First, rng: np.random.Generator) -> CameraFrame:
    field = cv2.resize(rng.standard_normal((12, 16)), frame.depth_m.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return _with_depth(frame, np.where(field < np.quantile(field, share), np.nan, frame.depth_m))


def _clear(frame: CameraFrame, share: float, first: First, rng: np.random.Generator) -> CameraFrame:
    height, width = frame.depth_m.shape
    b, lost = first.box, rng.random(frame.depth_m.shape) < share
    v, u = np.mgrid[0:height, 0:width] / np.array([[[height]], [[width]]]) * 1000.0
    inside = (u >= b.x0) & (u < b.x1) & (v >= b.y0) & (v < b.y1)
    return _with_depth(frame, np.where(inside & lost, np.nan, frame.depth_m))


def _shifted(frame: CameraFrame, px: float, _: First, rng: np.random.Generator) -> CameraFrame:
    angle, scale = rng.uniform(0.0, 2.0 * np.pi), frame.intrinsics.width_px / 640
    matrix = np.array([[1.0, 0.0, px * scale * np.cos(angle)], [0.0, 1.0, px * scale * np.sin(angle)]])
    size = frame.depth_m.shape[::-1]
    return _with_depth(
        frame, cv2.warpAffine(frame.depth_m, matrix, size, flags=cv2.INTER_NEAREST, borderValue=float("nan"))
    )


def _tilted(frame: CameraFrame, deg: float, _: First, __: np.random.Generator) -> CameraFrame:
    turn = make_pose([0.0, 0.0, 0.0], rotation_from_rotvec(np.deg2rad([deg, 0.0, 0.0])))
    return replace(frame, T_base_camera=read_only(frame.T_base_camera @ turn))


def _red(frame: CameraFrame, gain: float, _: First, __: np.random.Generator) -> CameraFrame:
    return replace(frame, rgb=np.clip(frame.rgb * np.array([gain, 1.0, 1.0]), 0, 255).astype(np.uint8))


def _in_unit(frame: CameraFrame, factor: float, _: First, __: np.random.Generator) -> CameraFrame:
    return _with_depth(frame, frame.depth_m * factor)


def _focal(frame: CameraFrame, ratio: float, _: First, __: np.random.Generator) -> CameraFrame:
    k = frame.intrinsics
    return replace(frame, intrinsics=replace(k, fx_px=k.fx_px * ratio, fy_px=k.fy_px * ratio))


def _size(frame: CameraFrame, ratio: float, _: First, __: np.random.Generator) -> CameraFrame:
    k = frame.intrinsics
    return replace(
        frame, intrinsics=replace(k, width_px=round(k.width_px * ratio), height_px=round(k.height_px * ratio))
    )


def _stuck(first: First, level: float, rng: np.random.Generator) -> Look:
    look = _by_model(first, rng)
    seen: list[CameraFrame] = []

    def _sticking() -> CameraFrame:
        seen.append(look() if len(seen) < _LIVE_FRAMES else seen[-1])
        return seen[-1]

    return _sticking


_R = ObservationReason
_NO_DEPTH: frozenset[Reason] = frozenset({_R.CAMERA_BLIND, PerceptionReason.NO_DEPTH})
EFFECTS = (
    Effect(
        "shadow beside things",
        "px",
        (4, 8, 16),
        _NO_DEPTH,
        lambda first, v, rng: _stereo(first, rng, edge_gap_px=(v, v)),
    ),
    Effect("holes", "ratio", (0.15, 0.35, 0.6), _NO_DEPTH, _then(_holes)),
    Effect("clear target", "ratio", (0.4, 0.7, 0.95), _NO_DEPTH, _then(_clear)),
    Effect(
        "flying pixels",
        "px",
        (1, 2, 4),
        frozenset({_R.CAMERA_NOISY}),
        lambda first, v, rng: _stereo(first, rng, flying_px=v, flying_ratio=0.9),
    ),
    Effect(
        "noise of disparity",
        "px",
        (0.2, 0.5, 1.0),
        frozenset({_R.CAMERA_NOISY}),
        lambda first, v, rng: _stereo(first, rng, noise=(Noise(disparity_px=v, over_px=4),)),
    ),
    Effect("depth beside colour", "px", (2, 4, 8), frozenset({_R.CAMERA_MISREGISTERED}), _then(_shifted)),
    Effect("tilt", "deg", (1, 2, 4), frozenset({_R.CAMERA_TILTED}), _then(_tilted)),
    Effect("red gain", "ratio", (0.85, 0.7, 0.5), frozenset({_R.CAMERA_COLOURS}), _then(_red)),
    Effect("unit of depth", "ratio", (1000.0, 0.001), frozenset({_R.CAMERA_UNITS}), _then(_in_unit)),
    Effect("focal length", "ratio", (1.03, 1.1, 0.9), frozenset({_R.CAMERA_INFO}), _then(_focal)),
    Effect("size in camera_info", "ratio", (0.5,), frozenset({_R.CAMERA_INFO}), _then(_size)),
    Effect("stuck", "frames", (1,), frozenset({_R.CAMERA_STUCK}), _stuck),
)
