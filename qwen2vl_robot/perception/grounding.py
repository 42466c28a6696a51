"""A plan and an observation → Scene and grounded actions: each box is a measured object."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qwen2vl_robot.config import RelationRules
from qwen2vl_robot.errors import PerceptionError
from qwen2vl_robot.geometry import Array, intersection_over_union
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import (
    Action,
    GroundedAction,
    ImageBox,
    ObjectReference,
    Observation,
    Plan,
    Relation,
    Scene,
    SceneObject,
    Verb,
)
from qwen2vl_robot.perception.bodies import Body, check_whole, hide_held, measure_bodies
from qwen2vl_robot.perception.gathering import gathered
from qwen2vl_robot.perception.labels import Words, best_fit, contradiction, describe, is_clearly, with_article
from qwen2vl_robot.perception.posing import name_obstacles, scene_object
from qwen2vl_robot.perception.segments import find_segments
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.perception.view import LevelledView, make_view
from qwen2vl_robot.reasons import PerceptionReason
from qwen2vl_robot.relations import has_side, relation_holds
from qwen2vl_robot.sides import Sides, farness, leftness, sides_seen_from

_MIN_IOU = 0.30  # a box with an error of 15 % on every side still reaches 0.5
_RIVAL_RATIO = 0.6  # share of the best IoU that another body needs to replace a best body that contradicts the label
_MIN_DEPTH_RATIO = 0.2
_BY_SIDE = ("nearest", "farthest", "leftmost", "rightmost")
_SUPERLATIVES = (*_BY_SIDE, "largest", "smallest")
_RELATIONS = tuple(r.value for r in Relation)


def perceive(
    plan: Plan,
    observation: Observation,
    surroundings: Surroundings,
    belief: Scene | None = None,
    spoken: frozenset[str] = frozenset(),
) -> tuple[Scene, tuple[GroundedAction, ...]]:
    """Measure the scene, find the object of each action of the plan, and check it against its label.

    Args:
        belief: the last scene, which holds the shape of a held object; needed only while the gripper holds something.
        spoken: labels in the person's own words, colour and noun together; only for these does the measurement
            correct a box around something else.

    Raises:
        ObservationError: the frame cannot be used (no depth, no table where it should be).
        PerceptionError: a reference is "not_found", has "no_depth", is "ambiguous", or is a "label_mismatch"; or the
            held object was never measured.
    """
    view = make_view(observation, surroundings.kinematics, surroundings.profile)
    held = held_object(observation, surroundings.kinematics, belief)
    if held is not None:
        hide_held(view, held)
    bodies = measure_bodies(view, find_segments(view))
    for box in [box for reference in _references(plan) for box in reference.boxes]:
        bodies = gathered(view, bodies, _pixels(view, box))
    # Once for the whole plan: a camera that moves on does not turn what the person meant by left.
    sides = sides_seen_from(surroundings.rules.seen_from, view.T_base_camera)
    finder = _Finder(view, bodies, surroundings.rules, sides, surroundings.words, held, spoken)
    for action in plan.actions:
        if action.object is not None:
            finder.resolve(action.object, plan)
    actions = _ground(plan, finder, held)
    named = tuple(finder.named.values())
    obstacles = name_obstacles([b for i, b in enumerate(bodies) if i not in finder.names])
    scene = Scene(
        objects=named if held is None else (held, *named),
        obstacles=obstacles,
        held=None if held is None else held.name,
        T_tool_held=None if held is None or belief is None else belief.T_tool_held,
        sides=sides,
    )
    return scene, actions


def held_object(observation: Observation, kinematics: Kinematics, belief: Scene | None) -> SceneObject | None:
    """Place the held object by the measured joints; None when the gripper is empty."""
    name = observation.robot.held
    if name is None:
        return None
    known = {} if belief is None else {b.name: b for b in belief.bodies()}
    if name not in known or belief is None or belief.T_tool_held is None:
        raise PerceptionError(f"{name!r} is in the gripper but was never measured; put it down first", label=name)
    return place_in_gripper(known[name], belief.T_tool_held, observation, kinematics)


def place_in_gripper(
    held: SceneObject, T_tool_held: Array, observation: Observation, kinematics: Kinematics
) -> SceneObject:
    """Compute the pose of the held object from the measured joints."""
    T_base_tool = kinematics.tool_pose(observation.robot.q_rad, observation.robot.gripper_width_m)
    T_base_object = T_base_tool @ T_tool_held
    T_base_object.setflags(write=False)
    return SceneObject(held.name, held.shape, T_base_object, held.rgb, held.mass_kg, held.friction)


@dataclass(slots=True)
class _Finder:
    """Resolves references to bodies and remembers the names that it gave.

    Attributes:
        names: maps the index of a body to its scene name.
        named: maps a scene name to its object.
        by_reference: maps a reference to its scene name.
    """

    view: LevelledView
    bodies: list[Body]
    rules: RelationRules
    sides: Sides | None
    words: Words
    held: SceneObject | None
    spoken: frozenset[str]
    names: dict[int, str] = field(default_factory=dict)
    named: dict[str, SceneObject] = field(default_factory=dict)
    by_reference: dict[ObjectReference, str] = field(default_factory=dict)

    def resolve(self, reference: ObjectReference, plan: Plan) -> str:
        """Find the scene name of the object that a reference means."""
        if reference in self.by_reference:
            return self.by_reference[reference]
        if self._means_held(reference):
            assert self.held is not None
            return self.held.name
        candidates = self._candidates(reference, plan)
        is_related = reference.where is not None and reference.where.kind in _RELATIONS
        is_only_one = len(candidates) == 1 and not is_related
        index = candidates[0] if is_only_one else self._choose(reference, candidates, plan)
        if index not in self.names:
            self._name(index, reference.label)
        self.by_reference[reference] = self.names[index]
        return self.names[index]

    def _object(self, name: str) -> SceneObject:
        """Return the object with a name that `resolve` gave."""
        return self.held if self.held is not None and name == self.held.name else self.named[name]

    def _means_held(self, reference: ObjectReference) -> bool:
        if self.held is None:
            return False
        label, name = reference.label.strip().lower(), self.held.name.lower()
        return label == name or (not reference.boxes and (label in name or name in label))

    def _name(self, index: int, label: str) -> None:
        taken = set(self.named) | ({self.held.name} if self.held else set())
        name, count = label, 1
        while name in taken:
            count += 1
            name = f"{label} {count}"
        self.names[index] = name
        body = self.bodies[index]
        check_whole(label, body.segment, self.view)
        self.named[name] = scene_object(name, body, best_fit(label, body.fits, self.words))

    def _candidates(self, reference: ObjectReference, plan: Plan) -> list[int]:
        """Collect the bodies in the reference's boxes that may have the label, and all others that clearly have it.

        So a model that overlooks the second block causes a question. A model that points at the ball beside the only
        red block is corrected if "red block" are the person's own words.

        Raises:
            PerceptionError: there is no box; or no box holds a body that may have the label, and the label is not
                spoken or no other body clearly has it.
        """
        label = reference.label
        if not reference.boxes:
            raise PerceptionError(f"the plan gives no box for {label!r}", label=label)
        candidates: list[int] = []
        errors: list[PerceptionError] = []
        for box in reference.boxes:
            try:
                index = self._in_box(label, box)
            except PerceptionError as error:
                errors.append(error)
                continue
            if index not in candidates:
                candidates.append(index)
        overlooked = [i for i in self._overlooked(reference, plan) if i not in candidates]
        if not candidates and (label not in self.spoken or not overlooked):
            raise errors[0]
        return candidates + overlooked

    def _overlooked(self, reference: ObjectReference, plan: Plan) -> list[int]:
        """Find bodies that clearly have the label and that no other reference of the plan means."""
        label = reference.label
        clear = [
            index
            for index, body in enumerate(self.bodies)
            if body.is_explained and is_clearly(label, body.segment.rgb, body.fits, self.words)
        ]
        others = [r for r in _references(plan) if r != reference]
        taken = {self._nearest(box) for other in others for box in other.boxes}
        return [index for index in clear if index not in taken]

    def _in_box(self, label: str, box: ImageBox) -> int:
        pixels = _pixels(self.view, box)
        overlaps = self._overlaps(box)
        order = np.argsort(-overlaps)
        if not len(order) or overlaps[order[0]] < _MIN_IOU:
            self._explain_empty(label, pixels)
        best = int(order[0])
        for index in order.tolist():
            if overlaps[index] < max(_MIN_IOU, _RIVAL_RATIO * overlaps[best]):
                break
            body = self.bodies[index]
            if contradiction(label, body.segment.rgb, body.fits, self.words) is None:
                return int(index)
        held = describe(self.bodies[best].segment.rgb, self.bodies[best].fits, self.words)
        raise PerceptionError(
            f"the box for {label!r} holds {with_article(held)}", label=label, reason=PerceptionReason.LABEL_MISMATCH
        )

    def _overlaps(self, box: ImageBox) -> Array:
        extents_px = np.array([body.segment.extent_px for body in self.bodies]).reshape(-1, 4)
        return intersection_over_union(_pixels(self.view, box), extents_px)

    def _nearest(self, box: ImageBox) -> int | None:
        """Find the body with the largest overlap with a box, whatever its label."""
        overlaps = self._overlaps(box)
        return int(overlaps.argmax()) if len(overlaps) and overlaps.max() >= _MIN_IOU else None

    def _explain_empty(self, label: str, pixels: Array) -> None:
        x0, y0, x1, y1 = np.clip(np.round(pixels), 0, 10000).astype(int)
        inside = self.view.depth_m[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        ratio = float(np.isfinite(inside).mean()) if inside.size else 0.0
        if ratio < _MIN_DEPTH_RATIO:
            raise PerceptionError(
                f"the box for {label!r} has depth in {ratio:.0%} of its pixels; {_MIN_DEPTH_RATIO:.0%} is needed",
                label=label,
                reason=PerceptionReason.NO_DEPTH,
            )
        raise PerceptionError(f"nothing above the table fits the box for {label!r}", label=label)

    def _choose(self, reference: ObjectReference, candidates: list[int], plan: Plan) -> int:
        """Choose among several bodies by the reference's `where`."""
        where, label = reference.where, reference.label
        if where is not None:
            self._check_side(where.kind, label)
        if where is not None and where.kind in _SUPERLATIVES:
            return min(candidates, key=lambda i: self._rank(where.kind, i))
        if where is not None and where.kind in _RELATIONS and where.reference is not None:
            other = self._other(where.reference, reference, plan)
            matching = [i for i in candidates if self._holds(Relation(where.kind), i, other)]
            if len(matching) == 1:
                return matching[0]
            if not matching:
                raise PerceptionError(
                    f"none of {len(candidates)} things called {label!r} is {where.kind} {where.reference!r}",
                    label=label,
                )
            candidates = matching
        raise PerceptionError(
            f"{len(candidates)} things are called {label!r}", label=label, reason=PerceptionReason.AMBIGUOUS
        )

    def _rank(self, kind: str, index: int) -> float:
        """Compute a number that is smallest for the body that a superlative means."""
        body = self.bodies[index]
        centre = body.best.solid.centre_m
        if kind in ("largest", "smallest"):
            return -body.volume_m3 if kind == "largest" else body.volume_m3
        assert self.sides is not None  # _check_side
        away, left = farness(self.sides, centre), leftness(self.sides, centre)
        return {"nearest": away, "farthest": -away, "leftmost": -left, "rightmost": left}[kind]

    def _check_side(self, kind: str, label: str) -> None:
        """Refuse to choose by left, right, near or far where the picture has no sides."""
        if self.sides is None and (kind in _BY_SIDE or (kind in _RELATIONS and has_side(Relation(kind)))):
            raise PerceptionError(
                f"the camera is turned so far that nothing in its picture is {kind}; {label!r} may be any of them",
                label=label,
                reason=PerceptionReason.AMBIGUOUS,
            )

    def _other(self, label: str, asking: ObjectReference, plan: Plan) -> SceneObject:
        """Find the reference object of a relation by its label; another entry of the plan names it."""
        if label in self.named:
            return self.named[label]
        for reference in _references(plan):
            if reference != asking and reference.label == label and reference.where is None:
                return self._object(self.resolve(reference, plan))
        raise PerceptionError(f"the plan refers to {label!r} but gives no box for it", label=label)

    def _holds(self, relation: Relation, index: int, other: SceneObject) -> bool:
        return relation_holds(relation, scene_object("candidate", self.bodies[index]), other, self.rules, self.sides)


def _references(plan: Plan) -> list[ObjectReference]:
    """List every object in a plan, first those that are acted on."""
    return [*(a.object for a in plan.actions if a.object is not None), *plan.objects]


def _ground(plan: Plan, finder: _Finder, held: SceneObject | None) -> tuple[GroundedAction, ...]:
    """Replace references by scene names; a place moves what was picked last, or what is held."""
    carried = None if held is None else held.name
    grounded = []
    for action in plan.actions:
        name = None if action.object is None else finder.resolve(action.object, plan)
        target, reference = name, None
        if action.verb is Verb.PLACE:
            if carried is None:
                raise PerceptionError("the plan places something before anything was picked up", label=name or "")
            target, reference, carried = carried, name, None
        elif action.verb is Verb.PICK:
            carried = name
        grounded.append(_grounded(action, target, reference))
    return tuple(grounded)


def _grounded(action: Action, target: str | None, reference: str | None) -> GroundedAction:
    said = (action.direction, action.seconds, action.text, action.spot)
    return GroundedAction(action.verb, target, action.relation, reference, *said)


def _pixels(view: LevelledView, box: ImageBox) -> Array:
    w, h = view.intrinsics.width_px, view.intrinsics.height_px
    return np.array([box.x0 * w, box.y0 * h, box.x1 * w, box.y1 * h]) / 1000.0
