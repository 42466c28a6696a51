"""Real RGB-D frames with boxes made by hand → what is measured in them, and how far tasks on them go; nothing moves.

A folder has one folder for each frame: `rgb.*`, `depth.png` (16 bit, registered to colour, 0 = missing), `meta.json`.
`boxes.json` beside them maps a frame's name to `objects` (label → box 0..1000 and a note on its size) and `tasks` (what
to pick up, and in which relation to what to put it, or null).

The camera's pose is not given. The table's plane is fitted near the boxes and becomes z = 0; the robot's base stands
0.5 m from the middle of the boxes, on the side where least stands in between. A task goes as far as the twin's verdict.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, RootModel, model_validator

from qwen2vl_robot.benchmarks.trying import try_actions
from qwen2vl_robot.bounds import PHOTO_BYTES, PHOTO_PIXELS
from qwen2vl_robot.config import Strict, load_robot, load_yaml
from qwen2vl_robot.documents import is_file, read_file
from qwen2vl_robot.errors import BadInputError, MotionError, ObservationError, PerceptionError
from qwen2vl_robot.film import draw_boxes
from qwen2vl_robot.geometry import Array, invert, make_pose, transform
from qwen2vl_robot.kinematics import Kinematics, box_vertices
from qwen2vl_robot.messages import (
    Action,
    CameraFrame,
    GroundedAction,
    Hull,
    ImageBox,
    Intrinsics,
    ObjectReference,
    Observation,
    Plan,
    Relation,
    RobotState,
    SceneObject,
    Verb,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.perception import Surroundings, perceive
from qwen2vl_robot.photos import open_picture
from qwen2vl_robot.validation.outlook import Outlook
from qwen2vl_robot.validation.pool import RehearsalProcess

ROBOT = "franka_panda"
_BUDGET_S = 30.0
_REACH_M = 0.5  # from the base to the middle of the boxes
_NEAR_RATIO = 0.5  # of the boxes' extent: so far around them the table is looked for
_TABLE_M = 0.008  # points this close to the plane are the table's
_TRIES = 400
_BEARINGS = 24
_AISLE_M = (0.15, 0.60, 0.15)  # from, to and half the width of what should be free between boxes and base

Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 in 0..1000


class Meta(Strict):
    """meta.json: the camera of a frame, pixels, and where the frame comes from."""

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    fx: float = Field(gt=0.0)
    fy: float = Field(gt=0.0)
    cx: float
    cy: float
    depth_units_per_m: float = Field(gt=0.0)
    source: str = ""
    licence: str = ""
    camera: str = ""


class Truth(Strict):
    """What a person marked in one frame."""

    objects: dict[str, tuple[Corners, str]]
    tasks: list[tuple[str, tuple[Relation, str] | None]]

    @model_validator(mode="after")
    def _tasks_are_marked(self) -> Truth:
        for target, onto in self.tasks:
            for label in (target,) if onto is None else (target, onto[1]):
                if label not in self.objects:
                    raise ValueError(f"a task names {label!r}; marked are {', '.join(self.objects)}")
        return self


class Truths(RootModel[dict[str, Truth]]):
    """boxes.json: a frame's name → what a person marked in it."""


@dataclass(frozen=True, slots=True, eq=False)
class RealFrame:
    """A frame on a table that was found in it.

    Attributes:
        residual_m: standard deviation of the table's points around the plane.
    """

    name: str
    observation: Observation
    truth: Truth
    residual_m: float


def load_frames(folder: Path) -> list[RealFrame]:
    """Load every marked frame of which the folder has the pictures.

    Raises:
        BadInputError: no such frame, or a file is missing or wrong.
    """
    truths = load_yaml(folder / "boxes.json", Truths).root
    found = [_load(folder / name, truth) for name, truth in truths.items() if is_file(folder / name / "depth.png")]
    if not found:
        raise BadInputError(f"{folder}: no folder of {', '.join(truths)} has a depth.png")
    return found


def run_frames(frames: list[RealFrame], overlays: Path | None) -> Iterator[dict[str, Any]]:
    """Measure each frame and try its tasks.

    Args:
        overlays: a folder for pictures with the measured bodies, or None.
    """
    surroundings = Surroundings.of(load_robot(ROBOT))
    maker = MotionMaker(surroundings.profile, surroundings.rules)
    with RehearsalProcess(surroundings.profile, budget_s=_BUDGET_S) as twin:
        for frame in frames:
            yield _run(frame, surroundings, maker, twin, overlays)


def summarise_frames(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count tasks by how they ended."""
    tasks = [task for result in results for task in result["tasks"]]
    reasons = [task["reason"] for task in tasks]
    return {
        "frames": len(results),
        "tasks": len(tasks),
        "admitted": sum(task["admitted"] for task in tasks),
        "reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "measure_s": round(float(np.median([result["measure_s"] for result in results])), 2),
    }


def _load(folder: Path, truth: Truth) -> RealFrame:
    meta = load_yaml(folder / "meta.json", Meta)
    colour = next((path for path in sorted(folder.glob("rgb.*")) if is_file(path)), None)
    if colour is None:
        raise BadInputError(f"{folder}: no rgb.jpg or rgb.png")
    rgb, units = _pixels(colour, "RGB"), _pixels(folder / "depth.png", "I")
    if rgb.shape != (meta.height, meta.width, 3) or units.shape != (meta.height, meta.width):
        raise BadInputError(f"{folder}: {rgb.shape} and {units.shape}, meta.json says {meta.width}x{meta.height} px")
    depth_m = np.where(units > 0, units / meta.depth_units_per_m, np.nan).astype(np.float32)
    k = Intrinsics(meta.width, meta.height, meta.fx, meta.fy, meta.cx, meta.cy)
    T_base_camera, residual_m = _stand(depth_m, k, [box for box, _ in truth.objects.values()], str(folder))
    robot = load_robot(ROBOT)
    state = RobotState(0, freeze(robot.home_q_rad), freeze(np.zeros(len(robot.joints))), robot.gripper.max_width_m)
    frame = CameraFrame(0, rgb.astype(np.uint8), depth_m, k, freeze(T_base_camera))
    return RealFrame(folder.name, Observation(frame, state), truth, residual_m)


def _pixels(path: Path, mode: str) -> Array:
    with open_picture(read_file(path, PHOTO_BYTES), str(path), PHOTO_PIXELS) as image:
        return np.asarray(image if mode == "I" else image.convert(mode))


def _stand(depth_m: npt.NDArray[np.float32], k: Intrinsics, boxes: list[Corners], what: str) -> tuple[Array, float]:
    """Find the table and put the base beside it: `T_base_camera` and the table's residual, metres."""
    v, u = np.mgrid[0 : k.height_px : 3, 0 : k.width_px : 3]
    z = depth_m[::3, ::3].astype(np.float64)
    p = np.stack([(u - k.cx_px) / k.fx_px * z, (v - k.cy_px) / k.fy_px * z, z], axis=-1)
    corners = np.array(boxes) / 1000.0 * ([k.width_px, k.height_px] * 2)
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    room = _NEAR_RATIO * (high - low)
    near = (u > low[0] - room[0]) & (u < high[0] + room[0]) & (v > low[1] - room[1]) & (v < high[1] + room[1])
    points = p[near & np.isfinite(z)]
    normal, offset_m, residual_m = _fit_plane(points, what)
    if normal @ np.array([0.0, 0.0, 1.0]) > 0:  # upwards is towards the camera
        normal, offset_m = -normal, -offset_m
    flat = [_on_plane(np.array([(x0 + x1) / 2, (y0 + y1) / 2]), k, normal, offset_m) for x0, y0, x1, y1 in corners]
    middle = np.mean(flat, axis=0)
    ahead = _freest(points, middle, normal, offset_m)
    R_camera_base = np.column_stack([ahead, np.cross(normal, ahead), normal])
    origin = middle - _REACH_M * ahead
    R = R_camera_base.T
    return make_pose(-R @ origin, R), residual_m


def _fit_plane(points: Array, what: str) -> tuple[Array, float, float]:
    """Fit the plane of most points: unit normal n (3,) and offset d with n · p = d, and the residual's deviation."""
    if len(points) < 500:
        raise BadInputError(f"{what}: {len(points)} points with depth around the boxes; 500 are needed to find a table")
    rng = np.random.default_rng(0)
    best = np.zeros(len(points), bool)
    for _ in range(_TRIES):
        a, b, c = points[rng.choice(len(points), 3, replace=False)]
        n = np.cross(b - a, c - a)
        if np.linalg.norm(n) > 1e-9:
            n /= np.linalg.norm(n)
            chosen = np.abs((points - a) @ n) < _TABLE_M
            best = chosen if chosen.sum() > best.sum() else best
    middle = points[best].mean(axis=0)
    normal = np.linalg.svd(points[best] - middle, full_matrices=False)[2][2]
    residual_m = (points[best] - middle) @ normal
    return normal, float(normal @ middle), float(residual_m.std())


def _on_plane(pixel: Array, k: Intrinsics, normal: Array, offset_m: float) -> Array:
    ray = np.array([(pixel[0] - k.cx_px) / k.fx_px, (pixel[1] - k.cy_px) / k.fy_px, 1.0])
    return np.asarray(ray * (offset_m / (normal @ ray)))


def _freest(points: Array, middle: Array, normal: Array, offset_m: float) -> Array:
    """Find the horizontal unit direction (3,) from the base to the boxes with least in between, else the camera's."""
    raised = points[points @ normal - offset_m > 0.03] - middle
    view = np.array([0.0, 0.0, 1.0]) - normal * normal[2]
    ahead = view / np.linalg.norm(view)
    side = np.cross(normal, ahead)
    turns = sorted(np.linspace(-np.pi, np.pi, _BEARINGS, endpoint=False), key=abs)
    directions = [np.cos(turn) * ahead + np.sin(turn) * side for turn in turns]
    near_m, far_m, half_m = _AISLE_M

    def in_between(direction: Array) -> int:
        back_m, beside_m = -(raised @ direction), raised @ np.cross(normal, direction)
        return int(((back_m > near_m) & (back_m < far_m) & (np.abs(beside_m) < half_m)).sum())

    return np.asarray(min(directions, key=in_between))


def _run(
    frame: RealFrame, surroundings: Surroundings, maker: MotionMaker, twin: RehearsalProcess, overlays: Path | None
) -> dict[str, Any]:
    began = time.perf_counter()
    bodies, problem = _measure(frame, surroundings)
    measure_s = time.perf_counter() - began
    if overlays is not None:
        _draw(frame, bodies, overlays / f"{frame.name}.png")
    return {
        "frame": frame.name,
        "marked": len(frame.truth.objects),
        "table_residual_mm": round(1000 * frame.residual_m, 1),
        "measure_s": round(measure_s, 2),
        "problem": problem,
        "bodies": [_described(body) for body in bodies],
        "tasks": [_try(frame, task, surroundings, maker, twin) for task in frame.truth.tasks],
    }


def _measure(frame: RealFrame, surroundings: Surroundings) -> tuple[tuple[SceneObject, ...], str]:
    """Everything that is measured without a plan."""
    try:
        scene, _ = perceive(Plan((), ""), frame.observation, surroundings)
    except (ObservationError, PerceptionError) as error:
        return (), str(error)
    return tuple(scene.bodies()), ""


def _described(body: SceneObject) -> dict[str, Any]:
    x_m, y_m, z_m = body.T_base_object[:3, 3].round(3).tolist()
    size_mm = [round(1000 * side_m) for side_m in shape_size_m(body.shape)]
    return {"shape": type(body.shape).__name__.lower(), "size_mm": size_mm, "centre_m": [x_m, y_m, z_m]}


def _try(
    frame: RealFrame,
    task: tuple[str, tuple[Relation, str] | None],
    surroundings: Surroundings,
    maker: MotionMaker,
    twin: RehearsalProcess,
) -> dict[str, Any]:
    """One task, as far as the verdict on its last step."""
    began = time.perf_counter()
    target, onto = task
    said = f"pick up {target}" if onto is None else f"put {target} {onto[0].value} {onto[1]}"
    try:
        plan = _plan(frame.truth, target, onto)
        scene, actions = perceive(plan, frame.observation, surroundings)
        reason, text = _rehearse(Outlook.now(frame.observation, scene), actions, maker, twin, surroundings.kinematics)
    except (ObservationError, PerceptionError, MotionError) as error:
        reason, text, scene = str(error.reason), str(error), None
    shape = "" if scene is None else type(scene.find(target).shape).__name__.lower()
    found = {"reason": reason, "text": text, "shape": shape, "seconds": round(time.perf_counter() - began, 1)}
    return {"task": said, "admitted": reason == "admitted", **found}


def _plan(truth: Truth, target: str, onto: tuple[Relation, str] | None) -> Plan:
    """The plan of a planner that marks what the person marked."""

    def reference(label: str) -> ObjectReference:
        return ObjectReference(label, (ImageBox(*truth.objects[label][0]),))

    place = () if onto is None else (Action(Verb.PLACE, reference(onto[1]), onto[0]),)
    return Plan((Action(Verb.PICK, reference(target)), *place), "")


def _rehearse(
    outlook: Outlook, actions: tuple[GroundedAction, ...], maker: MotionMaker, twin: RehearsalProcess, arm: Kinematics
) -> tuple[str, str]:
    """How far the steps go: "admitted", or the reason of the first one that is refused, with its sentence."""
    steps = try_actions(outlook, actions, maker, twin, arm)
    if not all(step.verdict.accepted for step in steps):
        return str(steps[-1].verdict.violations[0].kind), steps[-1].verdict.explanation
    return ("admitted", "") if len(steps) == len(actions) else ("no_prediction", "the twin gave no state after a step")


def _draw(frame: RealFrame, bodies: tuple[SceneObject, ...], path: Path) -> None:
    """Draw the boxes that a person marked, and the box in the picture around each measured body."""
    view = frame.observation.frame
    k, T_camera_base = view.intrinsics, invert(view.T_base_camera)
    boxes = [(label, ImageBox(*box)) for label, (box, _) in frame.truth.objects.items()]
    for body in bodies:
        size_m = np.array(shape_size_m(body.shape))
        corners = np.array(body.shape.vertices_m) if isinstance(body.shape, Hull) else box_vertices(size_m)
        p = transform(T_camera_base @ body.T_base_object, corners)
        at_px = p[:, :2] / p[:, 2:] * [k.fx_px, k.fy_px] + [k.cx_px, k.cy_px]
        share = np.clip(at_px / [k.width_px, k.height_px] * 1000.0, 0.0, 1000.0)
        (x0, y0), (x1, y1) = share.min(axis=0), share.max(axis=0)
        if x1 > x0 and y1 > y0:
            size = "x".join(f"{1000 * side_m:.0f}" for side_m in size_m)
            boxes.append((f"{type(body.shape).__name__.lower()} {size} mm", ImageBox(x0, y0, x1, y1)))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_boxes(view.rgb, boxes)).save(path)
