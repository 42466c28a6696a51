"""An expected scene + a new observation → the same objects, measured again near their places."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.errors import PerceptionError
from qwen2vl_robot.geometry import Array, invert, transform
from qwen2vl_robot.kinematics import Kinematics, hull_planes
from qwen2vl_robot.messages import Container, Hull, Observation, Scene, SceneObject, shape_size_m
from qwen2vl_robot.perception.bodies import (
    Body,
    cover,
    hide_held,
    is_empty_space,
    measure_bodies,
)
from qwen2vl_robot.perception.fitting import Fit, Fitter, explained_cost_m
from qwen2vl_robot.perception.grounding import place_in_gripper
from qwen2vl_robot.perception.joining import largest_piece, same_material
from qwen2vl_robot.perception.posing import name_obstacles, scene_object
from qwen2vl_robot.perception.segments import Segment, find_segments, make_segment
from qwen2vl_robot.perception.solids import Solid, solid_of
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.perception.view import LevelledView, Mask, make_view

_NEAR_M = 0.06  # search this far around the place that the twin expects, before searching everywhere
_PART_REACH_M = 0.008
_OUTSIDE_RATIO = 0.02  # of the points of a hull, as of those of a shape
_SHARED_REACH_M = 0.02
_SHARED_RATIO = 0.12
_GRIP_SLACK_M = 0.012
LEAST_HELD_M = 0.008  # fingers that are so far open have not closed on nothing
_ALIKE_COST_M = 0.002  # a wrong shape costs 4 mm more


@dataclass(frozen=True, slots=True, eq=False)
class _Match:
    """An object found again: its body, how badly its known shape fits that body, and the object as it is now."""

    body: Body
    cost_m: float
    now: SceneObject


def remeasure(expected: Scene, observation: Observation, surroundings: Surroundings) -> Scene:
    """Find each named object again by its shape and colour, first near its expected pose, then anywhere.

    Names stay the same, and shapes but for a hull that shows more of itself; poses and obstacles are measured again.
    The measured joints give the pose of a held object; the gripper's width and, where the camera sees it, the depth
    confirm it.

    Raises:
        ObservationError: the frame cannot be used.
        PerceptionError: an object is "not_found", or the gripper does not hold what it should.
    """
    view = make_view(observation, surroundings.kinematics, surroundings.profile)
    held = _check_held(expected, view, observation, surroundings.kinematics)
    standing = [o for o in expected.objects if held is None or o.name != held.name]
    bodies = measure_bodies(view, find_segments(view))
    found = _find_all(view, bodies, standing)
    if len(found) < len(standing):  # two things of one colour that touch may be one segment
        around = [*standing, *expected.obstacles]
        bodies = measure_bodies(view, _split_shared(view, [b.segment for b in bodies], around))
        found = _find_all(view, bodies, standing)
    for item in standing:
        if item.name not in found:
            raise PerceptionError(_explain_missing(item), label=item.name)
    used = {id(f.body) for f in found.values()}
    objects = {name: f.now for name, f in found.items()}
    rest = [b for b in bodies if id(b) not in used and not any(_is_part(b.segment, o) for o in objects.values())]
    if held is not None:
        objects[held.name] = held
    return Scene(
        objects=tuple(objects[o.name] for o in expected.objects),
        obstacles=name_obstacles(rest),
        table_height_m=expected.table_height_m,
        held=expected.held,
        T_tool_held=expected.T_tool_held,
        sides=expected.sides,
    )


def _is_part(segment: Segment, item: SceneObject) -> bool:
    """Check whether a segment is one more piece of a found object, cut off by something in front of it."""
    is_same = item.rgb is None or bool(same_material(np.array(item.rgb), segment.rgb))
    return is_same and float((_distance_m(item, segment.smooth_m) < _PART_REACH_M).mean()) > 0.9


def _check_held(
    expected: Scene, view: LevelledView, observation: Observation, kinematics: Kinematics
) -> SceneObject | None:
    """Compute the held object's pose and hide its pixels; refuse if width or depth show an empty gripper."""
    if expected.held is None or expected.T_tool_held is None:
        return None
    held = place_in_gripper(expected.find(expected.held), expected.T_tool_held, observation, kinematics)
    width_m, size_m = observation.robot.gripper_width_m, shape_size_m(held.shape)
    low_m, high_m = 0.35 * min(size_m), float(np.hypot(size_m[0], size_m[1])) + _GRIP_SLACK_M
    if isinstance(held.shape, Hull):
        low_m = min(low_m, LEAST_HELD_M)  # the fingers may hold a thin part of it
    if not low_m <= width_m <= high_m:
        raise PerceptionError(
            f"the gripper is {width_m * 1000:.0f} mm open, {held.name!r} would keep it at "
            f"{low_m * 1000:.0f} to {high_m * 1000:.0f} mm: it is not held",
            label=held.name,
        )
    if is_empty_space(view, held):
        raise PerceptionError(f"the camera sees no {held.name!r} in the gripper", label=held.name)
    hide_held(view, held)
    return held


def _find_all(view: LevelledView, bodies: list[Body], standing: list[SceneObject]) -> dict[str, _Match]:
    """Match objects to bodies, first those near their expected places, then those further away."""
    everything = cover(view, [b.segment for b in bodies])
    found: dict[str, _Match] = {}
    for reach_m in (_NEAR_M, 2.0):
        for item in standing:
            if item.name in found:
                continue
            used = {id(f.body) for f in found.values()}
            free = [b for b in bodies if id(b) not in used and _may_be(b.segment, item, reach_m)]
            best = _nearest_of_the_best([_match(view, b, everything, item) for b in free], item)
            if best is not None and best.cost_m < explained_cost_m(best.body.segment):
                found[item.name] = best
    return found


def _nearest_of_the_best(fits: list[_Match], item: SceneObject) -> _Match | None:
    """Choose the best fit; of several that fit alike, such as two equal blocks, the one where the object should be."""
    best_m = min((f.cost_m for f in fits), default=0.0)
    alike = [f for f in fits if f.cost_m < best_m + _ALIKE_COST_M]
    here_m = item.T_base_object[:3, 3]
    return min(alike, key=lambda f: float(np.linalg.norm(f.now.T_base_object[:3, 3] - here_m)), default=None)


def _explain_missing(item: SceneObject) -> str:
    x, y, z = item.T_base_object[:3, 3]
    return f"{item.name!r} is not where it should be ({x:.2f}, {y:.2f}, {z:.2f}) m, nor elsewhere on the table"


def _may_be(segment: Segment, item: SceneObject, reach_m: float) -> bool:
    """Check whether colour and place allow a segment to be the object."""
    if item.rgb is not None and not bool(same_material(np.array(item.rgb), segment.rgb)):
        return False
    middle = np.median(segment.smooth_m, axis=0)
    slack_m = float(np.linalg.norm(shape_size_m(item.shape))) / 2
    return float(np.linalg.norm(middle - item.T_base_object[:3, 3])) < reach_m + slack_m


def _match(view: LevelledView, body: Body, everything: Mask, item: SceneObject) -> _Match:
    if isinstance(item.shape, Hull):
        return _match_hull(body, item, item.shape)
    fit = _fit_known(view, body, everything, item)
    return _Match(body, fit.cost_m, _moved(item, fit.solid))


def _match_hull(body: Body, item: SceneObject, hull: Hull) -> _Match:
    """Find a hull again by its points, for nobody knows the faces of what is in it; half of them outside are too many.

    What keeps to it is in it, as it was: it may have been seen better then. What shows more of itself is measured anew.
    """
    normals, offsets_m = hull_planes(np.array(hull.vertices_m))
    own = transform(invert(item.T_base_object), body.segment.smooth_m)
    outside_ratio = float(((own @ normals.T - offsets_m).max(axis=1) > _PART_REACH_M).mean())
    seen = item if outside_ratio < _OUTSIDE_RATIO else scene_object(item.name, body)
    now = replace(item, shape=seen.shape, T_base_object=seen.T_base_object)
    return _Match(body, 2 * outside_ratio * explained_cost_m(body.segment), now)


def _fit_known(view: LevelledView, body: Body, everything: Mask, item: SceneObject) -> Fit:
    """Fit the pose of a known shape to a body, starting from the body's own fit and from the expected pose.

    An object under another one shows too little of itself for a good fit of its own, and then the object on top starts
    too low or too high. The expected pose is a good start unless something went wrong, and a bad start only costs time.
    """
    fitter = Fitter(view, body.segment, everything & ~body.segment.mask)
    known = solid_of(item.shape, item.T_base_object)
    own = next((f.solid for f in body.fits if type(f.solid) is type(known)), known)
    starts = (*known.stood_like(own, body.best.solid.bottom_m), known)
    fits = [fitter.refine(fitter.score(s), free=s.pose) for s in starts]
    return min(fits, key=lambda f: f.cost_m)


def _moved(item: SceneObject, solid: Solid) -> SceneObject:
    T = solid.message()[1]
    T.setflags(write=False)
    return replace(item, T_base_object=T)


def _split_shared(view: LevelledView, segments: list[Segment], standing: list[SceneObject]) -> list[Segment]:
    """Cut a segment that several expected objects of its colour share (a red block on a red plate)."""
    result: list[Segment] = []
    for segment in segments:
        owners = _owners(segment, standing)
        parts = [segment] if len(owners) < 2 else _cut(view, segment, owners)
        result += parts
    return result


def _owners(segment: Segment, standing: list[SceneObject]) -> list[SceneObject]:
    same = [o for o in standing if o.rgb is None or bool(same_material(np.array(o.rgb), segment.rgb))]
    if len(same) < 2:
        return []
    distance = np.stack([_distance_m(o, segment.smooth_m) for o in same])
    nearest = np.argmin(distance, axis=0)
    share = [float(((nearest == i) & (distance[i] < _SHARED_REACH_M)).mean()) for i in range(len(same))]
    return [o for o, s in zip(same, share, strict=True) if s > _SHARED_RATIO]


def _cut(view: LevelledView, segment: Segment, owners: list[SceneObject]) -> list[Segment]:
    points = view.origin_m + view.smooth_m[segment.mask][:, None] * view.rays[segment.mask]
    nearest = np.argmin(np.stack([_distance_m(o, points) for o in owners]), axis=0)
    parts = []
    for index in range(len(owners)):
        mask = np.zeros_like(segment.mask)
        mask[segment.mask] = nearest == index
        part = make_segment(view, largest_piece(mask))  # at edges depth lies nearest to either thing
        if part is not None:
            parts.append(part)
    return parts


def _distance_m(item: SceneObject, points_m: Array) -> Array:
    """Estimate how far points (n, 3) lie from the surface of an object, metres."""
    own = (points_m - item.T_base_object[:3, 3]) @ item.T_base_object[:3, :3]
    half = np.array(shape_size_m(item.shape)) / 2
    beyond = np.abs(own) - half
    outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=1)
    if isinstance(item.shape, Container) and item.shape.is_round:  # a bowl's surface is its floor and sloped wall
        floor = np.abs(own[:, 2] + half[2] - item.shape.wall_m)
        wall = np.abs(np.hypot(own[:, 0], own[:, 1]) - half[0] * (0.9 + 0.1 * own[:, 2] / half[2]))
        return np.asarray(np.maximum(outside, np.minimum(floor, wall)))
    distance: Array = np.abs(outside + np.minimum(beyond.max(axis=1), 0.0))
    return distance
