"""Seed → a depth frame of things on a table → what the robot would do about it → whether its hand would hit a thing.

The frame is cast as rays on shapes; no renderer takes part. The whole chain answers: perception, motion, rehearsal. A
hazard is a table on which the obvious way hits something that the chain could overlook; it counts as accepted where an
admitted motion hits a true shape, by the oracle of `hand_clearance_m`, before the fingers close.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.benchmarks.hazards.gates import Answer
from qwen2vl_robot.benchmarks.hazards.oracle import hand_clearance_m
from qwen2vl_robot.benchmarks.hazards.stage import RejectedError, Stage
from qwen2vl_robot.benchmarks.trying import try_actions
from qwen2vl_robot.errors import MotionError, ObservationError, PerceptionError
from qwen2vl_robot.geometry import Array, invert, look_at, make_pose, rotation_z, transform
from qwen2vl_robot.messages import (
    Action,
    Box,
    CameraFrame,
    ImageBox,
    Intrinsics,
    ObjectReference,
    Observation,
    Plan,
    SceneObject,
    Verb,
    freeze,
)
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.perception import Surroundings, perceive
from qwen2vl_robot.validation.outlook import Outlook
from qwen2vl_robot.validation.pool import RehearsalProcess

_CAMERA = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
_FAR_M, _NOISE_M, _GREY_NOISE = 2.5, 0.001, 4.0
_TABLE_GREY = (150, 140, 130)
_TARGET, _OTHER = (200, 40, 40), (40, 80, 200)
_LABEL = "red block"
_HIT_M = -0.001  # a finger that touches a side which it is about to hold is no hit
_LEAST_PX = 240  # of the target, so that a person could draw a box around it

Boxes = tuple[SceneObject, ...]
Pixels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Upright boxes on a table, and a camera that looks at them.

    Attributes:
        target: what is to be picked up, one or more boxes of one colour.
        others: the rest.
        is_hazard: whether the obvious way hits something.
    """

    target: Boxes
    others: Boxes
    T_base_camera: Array
    is_hazard: bool

    def cast(self, rng: np.random.Generator) -> tuple[CameraFrame, Pixels]:
        """Cast the frame; also what each pixel (h, w) shows: -1 the table, else the number of the box."""
        k, bodies = _CAMERA, (*self.target, *self.others)
        v, u = np.mgrid[0 : k.height_px, 0 : k.width_px]
        rays = np.stack([(u - k.cx_px) / k.fx_px, (v - k.cy_px) / k.fy_px, np.ones(u.shape)], axis=-1)
        towards, eye_m = rays @ self.T_base_camera[:3, :3].T, self.T_base_camera[:3, 3]
        down = towards[..., 2] < 0.0
        z_m = np.where(down, -eye_m[2] / np.where(down, towards[..., 2], -1.0), np.inf)
        shown = np.full(z_m.shape, -1)
        for number, body in enumerate(bodies):
            hit_m = _depth_of(body, eye_m, towards)
            shown[hit_m < z_m] = number
            z_m = np.minimum(z_m, hit_m)
        depth_m = np.where(z_m < _FAR_M, z_m + rng.normal(0.0, _NOISE_M, z_m.shape), np.nan).astype(np.float32)
        colours = np.array([_TABLE_GREY, *[_TARGET] * len(self.target), *[_OTHER] * len(self.others)])
        rgb = colours[shown + 1] + rng.normal(0.0, _GREY_NOISE, (*shown.shape, 3))
        rgb8 = np.clip(rgb, 0, 255).astype(np.uint8)
        return CameraFrame(0, rgb8, depth_m, k, freeze(self.T_base_camera)), shown


def shape_contradicted(
    stage: Stage, twin: RehearsalProcess, rng: np.random.Generator, is_hazard: bool, is_near: bool
) -> Answer:
    """Let a post or steps stand on a block: one as high as most points would let the palm into them; or nothing."""
    side_m, low_m = float(rng.uniform(0.04, 0.055)), float(rng.uniform(0.028, 0.036))
    more_m = float(rng.uniform(0.022, 0.03) if is_near else rng.uniform(0.03, 0.05))
    x_m, y_m, yaw_rad = _place(rng)
    target: Boxes = (_box("block", (side_m, side_m, low_m), x_m, y_m, yaw_rad),)
    if is_hazard:
        steps = int(rng.choice([1, 4]))
        thin_m = float(rng.uniform(0.014, 0.02))
        aside_m = rotation_z(yaw_rad)[:2, :2] @ (rng.uniform(-0.3, 0.3, 2) * (side_m - thin_m))
        for step in range(steps):
            across_m = side_m + (thin_m - side_m) * (step + 1) / steps
            at = np.array([x_m, y_m]) + aside_m * (step + 1) / steps
            size_m = (across_m, across_m, more_m / steps)
            under_m = low_m + step * more_m / steps
            target = (*target, _box(f"step {step}", size_m, float(at[0]), float(at[1]), yaw_rad, under_m))
    return _ask(stage, twin, Table(target, (), _view(rng), is_hazard), rng, more_m if is_hazard else 0.0)


def shadow_behind(
    stage: Stage, twin: RehearsalProcess, rng: np.random.Generator, is_hazard: bool, is_near: bool
) -> Answer:
    """Stand a thing of 15 to 30 mm right behind the target, where no pixel shows it; or nothing."""
    high_m = float(rng.uniform(0.06, 0.1))
    side_m = float(rng.uniform(0.035, 0.05))
    x_m, y_m, _ = _place(rng)
    camera = _view(rng)
    away = np.array([x_m, y_m]) - camera[:2, 3]
    yaw_rad = float(np.arctan2(away[1], away[0])) + float(rng.uniform(-0.3, 0.3))
    target = (_box("block", (side_m, side_m, high_m), x_m, y_m, yaw_rad),)
    thing_m = float(rng.uniform(0.015, 0.02) if is_near else rng.uniform(0.02, 0.03))
    table = Table(target, (), camera, is_hazard)
    if is_hazard:
        apart_m = (side_m + thing_m) / 2 + float(rng.uniform(0.002, 0.008))
        behind_m = np.array([x_m, y_m]) + apart_m * rotation_z(yaw_rad)[:2, 0]
        table = replace(
            table,
            others=(_box("hidden", (thing_m, thing_m, thing_m), float(behind_m[0]), float(behind_m[1]), yaw_rad),),
        )
        if (table.cast(rng)[1] == 1).any():
            raise RejectedError
    return _ask(stage, twin, table, rng, thing_m if is_hazard else 0.0)


def crowded(stage: Stage, twin: RehearsalProcess, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Answer:
    """Pick a cube that stands in a row, or one that is hemmed in on four sides so closely that no finger fits."""
    side_m = float(rng.uniform(0.035, 0.05))
    x_m, y_m, yaw_rad = _place(rng)
    if is_hazard:
        gap_m = float(rng.uniform(0.004, 0.006) if is_near else rng.uniform(0.001, 0.004))
    else:
        gap_m = float(rng.uniform(0.003, 0.01) if is_near else rng.uniform(0.01, 0.03))
    ways = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)] if is_hazard else [(0.0, 1.0), (0.0, -1.0)]
    apart_m, turn = side_m + gap_m, rotation_z(yaw_rad)[:2, :2]
    size_m = (side_m, side_m, side_m)
    beside_m = [np.array([x_m, y_m]) + turn @ np.array(way) * apart_m for way in ways]
    others = tuple(_box(f"neighbour {i}", size_m, float(at[0]), float(at[1]), yaw_rad) for i, at in enumerate(beside_m))
    target = (_box("cube", size_m, x_m, y_m, yaw_rad),)
    return _ask(stage, twin, Table(target, others, _view(rng), is_hazard), rng, gap_m)


LOOKERS = {looker.__name__: looker for looker in (shape_contradicted, shadow_behind, crowded)}
_ATTEMPTS = 200


def look(kind: str, stage: Stage, twin: RehearsalProcess, seed: int, is_hazard: bool, is_near: bool) -> Answer:
    """Ask about the table of a seed; skips draws from which none can be made.

    Returns:
        Whether the request was accepted (a hazard: and the hand would hit something), the amount drawn with its unit,
        and the reason of a refusal.

    Raises:
        RuntimeError: no draw gave a table.
    """
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt, is_hazard, is_near])
        try:
            return LOOKERS[kind](stage, twin, rng, is_hazard, is_near)
        except RejectedError:
            continue
    raise RuntimeError(f"{kind} {seed}: no table in {_ATTEMPTS} draws")


def _ask(stage: Stage, twin: RehearsalProcess, table: Table, rng: np.random.Generator, amount_m: float) -> Answer:
    """Let the chain pick the target up, as far as its verdict, and measure where its hand would go."""
    frame, shown = table.cast(rng)
    v, u = np.nonzero((shown >= 0) & (shown < len(table.target)))
    if len(v) < _LEAST_PX or min(v.min(), u.min()) == 0 or v.max() == 479 or u.max() == 639:
        raise RejectedError
    box = ImageBox(*(1000.0 * np.array([u.min() / 640, v.min() / 480, (u.max() + 1) / 640, (v.max() + 1) / 480])))
    plan = Plan((Action(Verb.PICK, ObjectReference(_LABEL, (box,))),), "")
    observation = Observation(frame, stage.state(np.array(stage.profile.home_q_rad)))
    surroundings = Surroundings.of(stage.profile)
    try:
        scene, actions = perceive(plan, observation, surroundings)
        maker = MotionMaker(stage.profile, surroundings.rules)
        step = try_actions(Outlook.now(observation, scene), actions, maker, twin, stage.kinematics)[-1]
    except (ObservationError, PerceptionError, MotionError) as error:
        return False, amount_m, "m", f"{error.reason}: {error}"
    if not step.verdict.accepted:
        return False, amount_m, "m", step.verdict.explanation
    free_m = min(hand_clearance_m(stage.kinematics, step, body) for body in (*table.target, *table.others))
    is_hit = free_m < _HIT_M
    text = f"a thing would be hit, {-1000 * free_m:.1f} mm deep" if is_hit else f"{1000 * free_m:.1f} mm clear"
    return is_hit == table.is_hazard, amount_m, "m", text


def _place(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw where a target stands, and its yaw."""
    return float(rng.uniform(0.42, 0.6)), float(rng.uniform(-0.2, 0.2)), float(rng.uniform(-np.pi / 4, np.pi / 4))


def _view(rng: np.random.Generator) -> Array:
    """Draw a camera that looks at the work place from the far side, as the scenes' cameras do."""
    turn, up = np.radians(rng.uniform(-65.0, 65.0)), np.radians(rng.uniform(35.0, 65.0))
    towards = np.array([np.cos(turn) * np.cos(up), np.sin(turn) * np.cos(up), np.sin(up)])
    aim = np.array([0.52, 0.0, 0.02])
    return look_at(tuple(aim + rng.uniform(0.7, 0.9) * towards), tuple(aim))


def _box(
    name: str, size_m: tuple[float, float, float], x_m: float, y_m: float, yaw_rad: float, under_m: float = 0.0
) -> SceneObject:
    """Stand a box on the table, or on something `under_m` high."""
    T = make_pose([x_m, y_m, under_m + size_m[2] / 2], rotation_z(yaw_rad))
    return SceneObject(name, Box(size_m), freeze(T))


def _depth_of(body: SceneObject, eye_m: Array, towards: Array) -> Array:
    """Depth (h, w) along the optical axis at which rays (h, w, 3) enter a box, inf where they miss it."""
    assert isinstance(body.shape, Box)
    T = invert(body.T_base_object)
    origin, rays = transform(T, eye_m[None])[0], towards @ T[:3, :3].T
    half_m = np.array(body.shape.size_m) / 2
    with np.errstate(divide="ignore"):
        ends = np.stack([(sign * half_m - origin) / rays for sign in (-1.0, 1.0)])
    enters, leaves = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    return np.where((enters <= leaves) & (enters > 0.0), enters, np.inf)
