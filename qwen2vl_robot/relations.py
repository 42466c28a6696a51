"""Shapes and poses of two objects → whether a relation holds, and where to put an object so that it will.

Pure geometry by the rules of sim/tasks/relations.yaml; which way left and behind are is decided before, as `Sides`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwen2vl_robot.config import RelationRules, load_yaml
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import (
    Container,
    Cylinder,
    Direction,
    Hull,
    Relation,
    SceneObject,
    Shape,
    Sphere,
    shape_size_m,
)
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.sides import SeenFrom, Sides
from qwen2vl_robot.spots import Spot

# Relations and pushes with a side → the signs of left and behind in it.
_SIGNS: dict[Relation | Direction, tuple[float, float]] = {
    Relation.LEFT_OF: (1.0, 0.0),
    Relation.RIGHT_OF: (-1.0, 0.0),
    Relation.BEHIND: (0.0, 1.0),
    Relation.IN_FRONT_OF: (0.0, -1.0),
    Direction.LEFT: (1.0, 0.0),
    Direction.RIGHT: (-1.0, 0.0),
    Direction.AWAY: (0.0, 1.0),
    Direction.CLOSER: (0.0, -1.0),
}
_BEARINGS = 2 * np.pi * np.arange(360) / 360
_NORMALS = np.column_stack([np.cos(_BEARINGS), np.sin(_BEARINGS)])
# Where beside the reference to look for room: shares of the allowed gap and of the allowed angle. Measured places are
# wrong by some millimetres and degrees, so the limits themselves are never aimed at.
_GAP_STEPS = 9
_BEST_GAP_RATIO = 1.4  # to the rules' gap: room for the fingers that open beside the reference
_ANGLE_SHARES = (0.0, 0.2, -0.2, 0.4, -0.4, 0.6, -0.6, 0.8, -0.8)
_CROWDED_SHARE = 0.5  # of the gap to others that is still taken, after every place with the whole gap
_NEXT_TO_BEARINGS = 24
_OFFSET_SHARES = (0.25, 0.45)  # on or in something wide whose middle is taken
_SPOT_SHARES = (0.3, 0.6, 1.0)  # of a spot's radius
_ON_TOP_GAP_M = 0.012  # to whatever else stands on or in the same thing


def load_relations(seen_from: SeenFrom | None = None) -> RelationRules:
    """Load sim/tasks/relations.yaml; `seen_from` replaces what the file says of whose left and right count.

    Raises:
        BadInputError: the file is missing or wrong.
    """
    rules = load_yaml(resolve("tasks/relations.yaml"), RelationRules)
    return rules if seen_from is None else rules.model_copy(update={"seen_from": seen_from})


def has_side(relation: Relation) -> bool:
    """Return whether a relation depends on which way left and behind are."""
    return relation in _SIGNS


def toward(side: Relation | Direction, sides: Sides) -> Array:
    """Compute the horizontal unit vector (2,), base frame, of a relation or push that has a side."""
    left, behind = _SIGNS[side]
    return left * np.array(sides.left_xy) + behind * np.array(sides.behind_xy)


def relation_holds(
    relation: Relation, moved: SceneObject, reference: SceneObject, rules: RelationRules, sides: Sides | None
) -> bool:
    """Decide whether `moved` stands in `relation` to `reference`.

    Anything not finite holds no relation; without `sides` nothing is left of, right of, behind or in front of anything.
    """
    if not (np.isfinite(moved.T_base_object).all() and np.isfinite(reference.T_base_object).all()):
        return False
    if relation is Relation.ON:
        rise_m = _lowest_m(moved) - reference.top_m
        return abs(rise_m) <= rules.support_tolerance_m and _is_centre_inside(moved, reference, wall_m=0.0)
    if relation is Relation.IN:
        return _is_inside(moved, reference, rules)
    gap_m = free_gap_m(moved, reference)
    if not 0.0 < gap_m <= rules.max_gap_m:
        return False
    if relation is Relation.NEXT_TO:
        return True
    return sides is not None and _angle_off_deg(toward(relation, sides), moved, reference) <= rules.max_angle_deg


def free_gap_m(a: SceneObject, b: SceneObject) -> float:
    """Free horizontal distance between two outlines, metres; negative by their overlap.

    For convex outlines it is the largest separation along any direction; bearings are tried every degree.
    """
    separation = _outline_m(b, -_NORMALS) + _outline_m(a, _NORMALS)
    return float(np.max(-separation))


def outline_radius_m(shape: Shape) -> float:
    """Radius of the upright cylinder around a shape, metres."""
    x, y, _ = shape_size_m(shape)
    return x / 2 if is_round(shape) else float(np.hypot(x, y)) / 2


def is_round(shape: Shape) -> bool:
    """Whether a shape looks the same from all sides when it stands."""
    return shape.is_round if isinstance(shape, Container) else isinstance(shape, Cylinder | Sphere)


def extent_m(shape: Shape, R_base_object: Array, normals: Array) -> Array:
    """How far a turned shape reaches from its centre (k,) along unit normals (k, 3) of the base frame, metres."""
    local = normals @ R_base_object
    if isinstance(shape, Sphere):
        return np.full(len(normals), shape.diameter_m / 2)
    if isinstance(shape, Hull):
        furthest: Array = (local @ np.array(shape.vertices_m).T).max(axis=1)
        return furthest
    size_m = np.array(shape_size_m(shape))
    if is_round(shape):
        local = np.column_stack([np.hypot(local[:, 0], local[:, 1]), np.zeros(len(local)), local[:, 2]])
    reach: Array = np.abs(local) @ size_m / 2
    return reach


def reach_m(body: SceneObject, along: Array) -> float:
    """How far a body's outline reaches from its centre along a horizontal unit direction (2,), metres."""
    return float(_outline_m(body, along[None])[0]) - float(along @ body.T_base_object[:2, 3])


def placements(
    relation: Relation,
    shape: Shape,
    reference: SceneObject,
    others: Sequence[SceneObject],
    rules: RelationRules,
    sides: Sides | None,
    table_height_m: float = 0.0,
) -> list[Array]:
    """Centres (3,) in the base frame where an upright object of this shape would stand in the relation, best first.

    The heights are those at rest: beside means on the table. Places that leave the rules' gap to `others` come first,
    those that leave half of it last, closer ones are left out; whether the arm reaches them is not asked here. Without
    `sides` there is no place left of, right of, behind or in front of anything.
    """
    if relation in (Relation.ON, Relation.IN):
        found = _places_upon(relation, shape, reference)
        gap_m, bottom_m = _ON_TOP_GAP_M, float(found[0][2]) - shape_size_m(shape)[2] / 2
        around = [body for body in others if body.top_m > bottom_m]
    else:
        bearings = _bearings(relation, rules, sides)
        found = _places_beside(bearings, shape, reference, others, rules, table_height_m)
        gap_m, around = rules.gap_m, [*others]
    free_m = [_room_m(p, shape, around) for p in found]
    roomy = [p for p, m in zip(found, free_m, strict=True) if m >= gap_m]
    return roomy + [p for p, m in zip(found, free_m, strict=True) if _CROWDED_SHARE * gap_m <= m < gap_m]


def spot_placements(
    spot: Spot, shape: Shape, others: Sequence[SceneObject], rules: RelationRules, table_height_m: float = 0.0
) -> list[Array]:
    """Centres (3,) in the base frame where an upright object would stand at a spot of the table, the nearest first.

    Places that leave less than half of the rules' gap to `others` are left out.
    """
    z_m = table_height_m + shape_size_m(shape)[2] / 2
    rings = [share * spot.radius_m for share in _SPOT_SHARES]
    around = [(r * np.cos(b), r * np.sin(b)) for r in rings for b in np.arange(8) * np.pi / 4]
    found = [np.array([spot.xy_m[0] + dx, spot.xy_m[1] + dy, z_m]) for dx, dy in [(0.0, 0.0), *around]]
    least_m = _CROWDED_SHARE * rules.gap_m
    return [p for p in found if _room_m(p, shape, others) >= least_m]


def placement_at(
    spot: Spot, relation: Relation, shape: Shape, reference: SceneObject, others: Sequence[SceneObject]
) -> list[Array]:
    """The centre (3,) of an upright object at a spot on or in something, if that is free; else nothing."""
    point = np.array([*spot.xy_m, _places_upon(relation, shape, reference)[0][2]])
    bottom_m = float(point[2]) - shape_size_m(shape)[2] / 2
    around = [body for body in others if body.top_m > bottom_m]
    return [point] if _room_m(point, shape, around) >= _ON_TOP_GAP_M else []


def _places_upon(relation: Relation, shape: Shape, reference: SceneObject) -> list[Array]:
    """The middle first, then a ring of places around it as far as the room allows."""
    height_m = shape_size_m(shape)[2]
    bottom_m, wall_m = reference.top_m, 0.0
    if isinstance(reference.shape, Container):
        wall_m = reference.shape.wall_m
        bottom_m = reference.bottom_m + wall_m if relation is Relation.IN else reference.top_m
    centre = np.array([*reference.T_base_object[:2, 3], bottom_m + height_m / 2])
    inner_m = min(shape_size_m(reference.shape)[:2]) / 2 - wall_m
    room_m = inner_m - outline_radius_m(shape)
    rings = [share * inner_m for share in _OFFSET_SHARES if share * inner_m <= room_m]
    ring = [centre + np.array([r * np.cos(b), r * np.sin(b), 0.0]) for r in rings for b in np.arange(8) * np.pi / 4]
    return [centre, *ring]


def _places_beside(
    bearings: list[tuple[float, float]],
    shape: Shape,
    reference: SceneObject,
    others: Sequence[SceneObject],
    rules: RelationRules,
    table_height_m: float,
) -> list[Array]:
    radius_m, height_m = outline_radius_m(shape), shape_size_m(shape)[2]
    gaps_m = np.linspace(0.7 * rules.gap_m, 0.8 * rules.max_gap_m, _GAP_STEPS)
    middle = np.mean([body.T_base_object[:2, 3] for body in (reference, *others)], axis=0)
    ranked: list[tuple[float, int, Array]] = []
    for bearing, turn in bearings:
        normal = np.array([np.cos(bearing), np.sin(bearing)])
        edge_m = reach_m(reference, normal)
        for gap_m in gaps_m:
            xy = reference.T_base_object[:2, 3] + normal * (edge_m + gap_m + radius_m)
            # Near, straight and towards the other things, where the camera looks.
            off_m = abs(gap_m - _BEST_GAP_RATIO * rules.gap_m)
            cost = off_m + 0.05 * abs(turn) + 0.3 * float(np.linalg.norm(xy - middle))
            ranked.append((cost, len(ranked), np.array([*xy, table_height_m + height_m / 2])))
    ranked.sort(key=lambda item: item[:2])
    return [p for _, _, p in ranked]


def _bearings(relation: Relation, rules: RelationRules, sides: Sides | None) -> list[tuple[float, float]]:
    """(bearing, share of the allowed turn away from the asked direction) to look along, radians."""
    if relation is Relation.NEXT_TO:
        return [(2 * np.pi * i / _NEXT_TO_BEARINGS, 0.0) for i in range(_NEXT_TO_BEARINGS)]
    if sides is None:
        return []
    x, y = toward(relation, sides)
    widest = np.deg2rad(rules.max_angle_deg)
    return [(float(np.arctan2(y, x) + share * widest), share) for share in _ANGLE_SHARES]


def _angle_off_deg(asked: Array, moved: SceneObject, reference: SceneObject) -> float:
    offset = moved.T_base_object[:2, 3] - reference.T_base_object[:2, 3]
    cosine = float(offset @ asked) / max(float(np.linalg.norm(offset)), 1e-9)
    return float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _is_inside(moved: SceneObject, reference: SceneObject, rules: RelationRules) -> bool:
    if not isinstance(reference.shape, Container):
        return False
    is_between = reference.bottom_m - rules.support_tolerance_m <= _lowest_m(moved) < reference.top_m
    return is_between and _is_centre_inside(moved, reference, wall_m=reference.shape.wall_m)


def _is_centre_inside(moved: SceneObject, reference: SceneObject, *, wall_m: float) -> bool:
    x, y, _ = reference.T_base_object[:3, :3].T @ (moved.T_base_object[:3, 3] - reference.T_base_object[:3, 3])
    size_x, size_y, _ = shape_size_m(reference.shape)
    if is_round(reference.shape):
        return bool(np.hypot(x, y) <= size_x / 2 - wall_m)
    return bool(abs(x) <= size_x / 2 - wall_m and abs(y) <= size_y / 2 - wall_m)


def _outline_m(body: SceneObject, normals: Array) -> Array:
    """Furthest reach (k,) of a body along horizontal unit normals (k, 2), metres from the base."""
    flat = np.column_stack([normals, np.zeros(len(normals))])
    reach: Array = flat @ body.T_base_object[:3, 3] + extent_m(body.shape, body.T_base_object[:3, :3], flat)
    return reach


def _lowest_m(body: SceneObject) -> float:
    """Height of the lowest point of a body that may have fallen over."""
    below_m = extent_m(body.shape, body.T_base_object[:3, :3], np.array([[0.0, 0.0, -1.0]]))
    return float(body.T_base_object[2, 3] - below_m[0])


def _room_m(p_base_m: Array, shape: Shape, around: Sequence[SceneObject]) -> float:
    """Free distance between the circle around a shape that stands at a point and the nearest outline."""
    return min((_gap_to_point_m(body, p_base_m, shape) for body in around), default=np.inf)


def _gap_to_point_m(body: SceneObject, p_base_m: Array, shape: Shape) -> float:
    """Free distance between a body's outline and the circle around a shape that stands at a point."""
    separation = _NORMALS @ p_base_m[:2] - _outline_m(body, _NORMALS)
    return float(np.max(separation)) - outline_radius_m(shape)
