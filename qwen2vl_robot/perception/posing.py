"""A measured body → an object of the scene: the solid that explains it, else boxes or a hull around all its points."""

from __future__ import annotations

import math

import numpy as np

from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.kinematics import box_vertices, hull_vertices
from qwen2vl_robot.messages import Hull, SceneObject, Shape
from qwen2vl_robot.perception.bodies import Body, explains
from qwen2vl_robot.perception.columns import columns
from qwen2vl_robot.perception.fitting import Fit
from qwen2vl_robot.perception.segments import Segment
from qwen2vl_robot.perception.solids import Solid

_GROWTH_M = 0.004
_LOOSE_GROWTH_M = 0.010
_GROWN = (-_LOOSE_GROWTH_M / 2, _LOOSE_GROWTH_M / 2)
_HULL_GRID_M = 0.004  # a hull of the points as they are would have hundreds of corners


def scene_object(name: str, body: Body, fit: Fit | None = None) -> SceneObject:
    """Turn a body into a named object; one that its fit does not explain becomes boxes, and the hull around them."""
    fit = fit or body.best
    if not explains(fit, body.segment):
        return _in_boxes(name, body)
    return SceneObject(name, *_posed(fit.solid), rgb=_colour(body.segment))


def obstacle(name: str, body: Body) -> SceneObject:
    """Turn an unnamed body into an obstacle, slightly grown if it stands on the table; unexplained, it is a hull."""
    if not body.is_explained:
        return _hull(name, body)
    solid = body.best.solid
    grown = solid if solid.bottom_m > 0.0 else solid.grown(_GROWTH_M)
    return SceneObject(name, *_posed(grown), rgb=_colour(body.segment))


def name_obstacles(bodies: list[Body]) -> tuple[SceneObject, ...]:
    """Name the obstacles "obstacle 1", "obstacle 2" ... by their distance from the base."""
    ordered = sorted(bodies, key=lambda b: math.hypot(b.best.solid.x_m, b.best.solid.y_m))
    return tuple(obstacle(f"obstacle {i}", body) for i, body in enumerate(ordered, start=1))


def _hull(name: str, body: Body) -> SceneObject:
    """Make the hull of all points of a body, grown, and of their footprint on what it stands on."""
    bottom_m = min(body.best.solid.bottom_m, body.segment.low_m)
    points_m = np.unique(np.round(body.segment.smooth_m / _HULL_GRID_M), axis=0) * _HULL_GRID_M
    upper_m = np.vstack([points_m + np.array([x, y, _LOOSE_GROWTH_M / 2]) for x in _GROWN for y in _GROWN])
    lower_m = np.column_stack([upper_m[:, :2], np.full(len(upper_m), bottom_m)])
    upper_m[:, 2] = np.maximum(upper_m[:, 2], bottom_m + _LOOSE_GROWTH_M)
    corners_m = hull_vertices(np.vstack([upper_m, lower_m]))
    middle_m = _middle(corners_m)
    return SceneObject(
        name, Hull(_points(corners_m - middle_m)), _frozen(make_pose(middle_m)), rgb=_colour(body.segment)
    )


def _in_boxes(name: str, body: Body) -> SceneObject:
    """Make the boxes that hold a body's points, down to what it stands on, and the hull around the boxes."""
    bottom_m = min(body.best.solid.bottom_m, body.segment.low_m)
    found = columns(body.segment.points_m, body.segment.smooth_m, bottom_m)
    boxes_m, R = found.boxes_m, found.R
    vertices_m = hull_vertices(np.vstack([(low + high) / 2 + box_vertices(high - low) for low, high in boxes_m]))
    middle_m = _middle(vertices_m)
    hull = Hull(_points(vertices_m - middle_m), tuple((_point(a), _point(b)) for a, b in boxes_m - middle_m))
    return SceneObject(name, hull, _frozen(make_pose(R @ middle_m, R)), rgb=_colour(body.segment))


def _middle(points_m: Array) -> Array:
    middle_m: Array = (points_m.min(axis=0) + points_m.max(axis=0)) / 2
    return middle_m


def _point(p: Array) -> tuple[float, float, float]:
    return (float(p[0]), float(p[1]), float(p[2]))


def _points(points_m: Array) -> tuple[tuple[float, float, float], ...]:
    return tuple(_point(p) for p in points_m)


def _posed(solid: Solid) -> tuple[Shape, Array]:
    shape, T = solid.message()
    return shape, _frozen(T)


def _frozen(T: Array) -> Array:
    T.setflags(write=False)
    return T


def _colour(segment: Segment) -> tuple[float, float, float]:
    return (float(segment.rgb[0]), float(segment.rgb[1]), float(segment.rgb[2]))
