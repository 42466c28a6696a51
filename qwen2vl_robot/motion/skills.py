"""A grounded action, the scene and the arm's state → a timed `Motion` with the effect it should have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np

from qwen2vl_robot.config import RelationRules, RobotProfile
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, invert, make_pose, read_only
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import (
    Container,
    Direction,
    Effect,
    GroundedAction,
    Motion,
    Relation,
    RobotState,
    Scene,
    SceneObject,
    Sphere,
    Verb,
    shape_size_m,
)
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.collision import CollisionModel, Pair
from qwen2vl_robot.motion.grasps import (
    TIP_CLEARANCE_M,
    Grasp,
    by_turn,
    closing_yaw_rad,
    downward,
    grasps,
    measure_hand,
)
from qwen2vl_robot.motion.path import BlockedError, Space, check_line, plan, straight, tool_line
from qwen2vl_robot.motion.pushes import PUSH_DIRECTIONS, PUSH_STANDOFF_M, push_starts, pushed
from qwen2vl_robot.motion.timeline import Timeline, Way
from qwen2vl_robot.reasons import MotionReason
from qwen2vl_robot.relations import extent_m, free_gap_m, outline_radius_m, placements

_LINE_MARGIN_M = 0.002  # less than the fingertips' clearance to the table
_CLEARANCES_M = (0.012, 0.006, 0.0)  # from neighbours, wide first: measured places are wrong by some millimetres
_RISE_M = np.array([0.0, 0.0, 0.09])  # straight up and down over a grasp or a release
_LINE_SPEED_RATIO = 0.5
_PUSH_SPEED_RATIO = 0.15  # slow, or what is pushed would roll or slide on
_RELEASE_M = 0.004  # the object's bottom over its support when the fingers open
_RIM_CLEARANCE_M = 0.005  # fingertips over the rim of a container
_OPEN_ROOM_M = (0.030, 0.016)
_STANDS_ON_M = 0.01  # a bottom this close to a top stands on it
_RELEASE_YAWS = 8
_MOST_TRIES = 48  # grasps or releases looked at with each clearance
_MOST_SEARCHES = 3  # of those with a blocked way and no clearance, how many are worth a search around
_LONGEST_WAIT_S = 60.0
_PLACE_TOLERANCE_M = 0.03
_FALL_TOLERANCE_M = 0.05  # into a container things fall
_PUSH_TOLERANCE_M = 0.04

Try = Callable[[Way], Motion]


class MotionMaker:
    """Makes motions for one robot; deterministic, not thread-safe."""

    def __init__(self, profile: RobotProfile, rules: RelationRules, *, seed: int = 0) -> None:
        self._profile = profile
        self._rules = rules
        self._seed = seed
        self._kinematics = Kinematics(profile)
        self._hand = measure_hand(self._kinematics, profile)
        self._home_rad = np.array(profile.home_q_rad)

    def ways(self, action: GroundedAction, scene: Scene, state: RobotState) -> Iterator[Motion]:
        """Make motions for one action, best first; each starts at `state.q_rad` and ends at home (a wait stays).

        The same inputs and seed give the same motions in every process. At least one comes, or an error.

        Raises:
            MotionError: out of reach, cannot be grasped, no free way, no room, or not something that can be done now.
        """
        makers: dict[Verb, Callable[[GroundedAction, Scene, RobotState], Iterator[Motion]]] = {
            Verb.PICK: self._pick,
            Verb.PLACE: self._place,
            Verb.PUSH: self._push,
            Verb.HOME: self._go_home,
            Verb.WAIT: self._wait,
        }
        if action.verb not in makers:
            raise _unsupported(f"{action.verb.value} is no motion; motions: {', '.join(v.value for v in makers)}")
        self._check_state(state)
        yield from makers[action.verb](action, scene, state)

    # ------------------------------------------------------------------------------------------- skills

    def _pick(self, action: GroundedAction, scene: Scene, state: RobotState) -> Iterator[Motion]:
        if scene.held is not None:
            raise _unsupported(f"the gripper already holds {scene.held}; place it first")
        target = _find(scene, action.target, "pick")
        if load := next((b.name for b in scene.bodies() if _stands_on(b, target)), None):
            raise MotionError(f"{load} stands on {target.name}; move it first", reason=MotionReason.NO_GRASP)
        found = grasps(target, self._hand, self._current_yaw_rad(state))
        near = frozenset({target.name})

        def tries(clearance_m: float) -> Iterator[Try]:
            before = self._model(scene.bodies(), scene, clearance_m=clearance_m, near=near)
            for grasp in found:
                yield partial(self._try_grasp, before, clearance_m, target, grasp, scene, state)

        return self._each(tries)

    def _try_grasp(
        self,
        before: CollisionModel,
        clearance_m: float,
        target: SceneObject,
        grasp: Grasp,
        scene: Scene,
        state: RobotState,
        way: Way,
    ) -> Motion:
        line = self._descent(Space(before, grasp.opening_m, _LINE_MARGIN_M), grasp.T_base_tool)
        T_tool_target = invert(grasp.T_base_tool) @ target.T_base_object
        rest = [body for body in scene.bodies() if body is not target]
        after = self._model(rest, scene, (target, T_tool_target), clearance_m=clearance_m)
        support = _pairs_of(target.name, after.all_close(line[-1], grasp.width_m, _LINE_MARGIN_M))
        check_line(Space(after, grasp.width_m, _LINE_MARGIN_M, support), line[::-1])
        timeline = Timeline(self._profile, state)
        timeline.open_to(grasp.opening_m)
        timeline.travel(before, line[0], way)
        timeline.follow(line, _LINE_SPEED_RATIO)
        timeline.close_on(grasp.width_m)
        timeline.follow(line[::-1], _LINE_SPEED_RATIO)
        timeline.travel(after, self._home_rad, way)
        return timeline.motion(Effect("hold", target.name))

    def _place(self, action: GroundedAction, scene: Scene, state: RobotState) -> Iterator[Motion]:
        if scene.held is None or scene.T_tool_held is None:
            raise _unsupported("the gripper holds nothing that could be placed; pick something first")
        held = _find(scene, scene.held, "place")
        if action.target not in (None, held.name):
            raise _unsupported(f"the gripper holds {held.name}, not {action.target}; place what it holds")
        reference = _find(scene, action.reference, "place beside, on or in")
        relation = _check_relation(action.relation, held, reference)
        others = [body for body in scene.bodies() if body is not held]
        points = placements(
            relation,
            held.shape,
            reference,
            [body for body in others if body is not reference],
            self._rules,
            scene.table_height_m,
        )
        points = [p for p in points if self._is_in_workspace(p)]
        if not points:
            across = f"{2000 * outline_radius_m(held.shape):.0f} mm across"
            raise MotionError(
                f"no free place {relation.value} {reference.name} for {held.name}, {across}: "
                f"{self._rules.gap_m * 1000:.0f} mm must stay free around it",
                reason=MotionReason.NO_SPACE,
            )
        T_tool_held = scene.T_tool_held
        near = frozenset({held.name, reference.name} if relation in (Relation.ON, Relation.IN) else {held.name})
        poses = self._releases(points, held, scene.T_tool_held, reference, relation, self._current_yaw_rad(state))

        def tries(clearance_m: float) -> Iterator[Try]:
            before = self._model(others, scene, (held, T_tool_held), clearance_m=clearance_m, near=near)
            after = partial(self._model, scene=scene, clearance_m=clearance_m, near=near)
            for room_m in _OPEN_ROOM_M:
                for T_base_tool, p in poses:
                    yield partial(self._try_release, before, after, T_base_tool, p, room_m, action, scene, state)

        return self._each(tries)

    def _try_release(
        self,
        before: CollisionModel,
        model_after: Callable[[list[SceneObject]], CollisionModel],
        T_base_tool: Array,
        p_base_m: Array,
        room_m: float,
        action: GroundedAction,
        scene: Scene,
        state: RobotState,
        way: Way,
    ) -> Motion:
        assert scene.held is not None
        assert scene.T_tool_held is not None
        held = scene.find(scene.held)
        line = self._descent(Space(before, state.gripper_width_m, _LINE_MARGIN_M), T_base_tool)
        upright = make_pose(p_base_m, _yaw_only(T_base_tool[:3, :3] @ scene.T_tool_held[:3, :3]))
        placed = replace(held, T_base_object=read_only(upright))
        after = model_after([body for body in scene.bodies() if body is not held] + [placed])
        opening_m = min(state.gripper_width_m + room_m, self._profile.gripper.max_width_m)
        released = frozenset(frozenset((link, held.name)) for link in self._profile.gripper.finger_links)
        check_line(Space(after, opening_m, _LINE_MARGIN_M, released), line[::-1])
        timeline = Timeline(self._profile, state)
        timeline.travel(before, line[0], way)
        timeline.follow(line, _LINE_SPEED_RATIO)
        timeline.open_to(opening_m)
        timeline.follow(line[::-1], _LINE_SPEED_RATIO)
        timeline.travel(after, self._home_rad, way)
        tolerance_m = _FALL_TOLERANCE_M if action.relation is Relation.IN else _PLACE_TOLERANCE_M
        return timeline.motion(
            Effect("release", held.name, placed.T_base_object, action.relation, action.reference, tolerance_m)
        )

    def _push(self, action: GroundedAction, scene: Scene, state: RobotState) -> Iterator[Motion]:
        if scene.held is not None:
            raise _unsupported(f"the gripper holds {scene.held}; place it before pushing")
        target = _find(scene, action.target, "push")
        if action.direction is None:
            raise _unsupported(f"push needs a direction: {', '.join(d.value for d in Direction)}")
        along = PUSH_DIRECTIONS[action.direction]
        moved = pushed(target, along, scene)
        self._check_workspace(moved.T_base_object[:3, 3])
        before = self._model(scene.bodies(), scene)
        poses = push_starts(target, along, self._hand, self._profile.object_friction, self._current_yaw_rad(state))
        pushes = (partial(self._try_push, before, pose, moved, scene, state) for pose in poses)
        return self._each(lambda _: pushes, clearances_m=(0.0,))

    def _try_push(
        self,
        before: CollisionModel,
        T_base_tool: Array,
        moved: SceneObject,
        scene: Scene,
        state: RobotState,
        way: Way,
    ) -> Motion:
        line = self._descent(Space(before, 0.0, _LINE_MARGIN_M), T_base_tool)
        rest = [body for body in scene.bodies() if body.name != moved.name]
        sweep = moved.T_base_object[:3, 3] - scene.find(moved.name).T_base_object[:3, 3]
        sweep = sweep * (1.0 + PUSH_STANDOFF_M / np.linalg.norm(sweep))
        stroke = tool_line(Space(self._model(rest, scene), 0.0, _LINE_MARGIN_M), line[-1], sweep)
        after = self._model([*rest, moved], scene)
        touched = frozenset(frozenset((link, moved.name)) for link in self._profile.gripper.finger_links)
        rise = tool_line(Space(after, 0.0, _LINE_MARGIN_M, touched), stroke[-1], _RISE_M)
        timeline = Timeline(self._profile, state)
        timeline.open_to(0.0)
        timeline.travel(before, line[0], way)
        timeline.follow(line, _LINE_SPEED_RATIO)
        timeline.follow(stroke, _PUSH_SPEED_RATIO)
        timeline.follow(rise, _LINE_SPEED_RATIO)
        timeline.travel(after, self._home_rad, way)
        return timeline.motion(Effect("push", moved.name, moved.T_base_object, tolerance_m=_PUSH_TOLERANCE_M))

    def _go_home(self, action: GroundedAction, scene: Scene, state: RobotState) -> Iterator[Motion]:
        held = None
        if scene.held is not None and scene.T_tool_held is not None:
            held = (_find(scene, scene.held, "carry"), scene.T_tool_held)
        bodies = [body for body in scene.bodies() if body.name != scene.held]
        model = self._model(bodies, scene, held)

        def go(way: Way) -> Motion:
            timeline = Timeline(self._profile, state)
            timeline.travel(model, self._home_rad, way)
            return timeline.motion(Effect("none"))

        return self._each(lambda _: [go], clearances_m=(0.0,))

    def _wait(self, action: GroundedAction, scene: Scene, state: RobotState) -> Iterator[Motion]:
        seconds = action.seconds
        if seconds is None or not 0.0 < seconds <= _LONGEST_WAIT_S:
            raise _unsupported(f"wait of {seconds} s; allowed: above 0 to {_LONGEST_WAIT_S:.0f} s")
        timeline = Timeline(self._profile, state)
        timeline.hold(seconds)
        yield timeline.motion(Effect("none"))

    # ------------------------------------------------------------------------------------------- pieces

    def _each(
        self, tries: Callable[[float], Iterable[Try]], *, clearances_m: tuple[float, ...] = _CLEARANCES_M
    ) -> Iterator[Motion]:
        """The tries that work straight, the widest clearance first; then those that work around obstacles.

        Args:
            tries: gives the tries that keep a clearance from neighbours; the same ones for each clearance.
            clearances_m: to keep, one after the other.

        Raises:
            MotionError: none works; the most frequent reason, with one of its texts.
        """
        failures: list[MotionError] = []
        worth_a_search: list[tuple[int, Try]] = []
        done: set[int] = set()
        for clearance_m in clearances_m:
            blocked: list[tuple[int, Try]] = []
            for index, attempt in enumerate(islice(tries(clearance_m), _MOST_TRIES)):
                if index in done:
                    continue
                try:
                    motion = attempt(straight)
                except BlockedError as error:
                    blocked.append((index, attempt))
                    failures.append(error)
                except MotionError as error:
                    failures.append(error)
                else:
                    done.add(index)
                    yield motion
            worth_a_search += blocked[: 1 if clearance_m else _MOST_SEARCHES]
        for index, attempt in worth_a_search:
            if index in done:
                continue
            try:
                motion = attempt(partial(plan, seed=self._seed))
            except MotionError as error:
                failures.insert(0, error)
            else:
                done.add(index)
                yield motion
        if not done:
            raise _sum_up(failures)

    def _descent(self, space: Space, T_base_tool: Array) -> Array:
        """Joints (m, n) straight down to a tool pose, from above it, every step free.

        Raises:
            MotionError: outside the workspace or out of reach, or something is in the way.
        """
        self._check_workspace(T_base_tool[:3, 3])
        q = ik.solve(self._kinematics, T_base_tool, [self._home_rad], posture_rad=self._home_rad)
        return tool_line(space, q, _RISE_M)[::-1]

    def _releases(
        self,
        points: list[Array],
        held: SceneObject,
        T_tool_held: Array,
        reference: SceneObject,
        relation: Relation,
        current_yaw_rad: float,
    ) -> list[tuple[Array, Array]]:
        """(`T_base_tool`, resting place) of every yaw at every place, place by place."""
        found: list[tuple[Array, Array]] = []
        yaws = by_turn([2 * np.pi * k / _RELEASE_YAWS + current_yaw_rad for k in range(_RELEASE_YAWS)], current_yaw_rad)
        for p in points:
            support_m = p[2] - shape_size_m(held.shape)[2] / 2
            tips_m = reference.top_m + _RIM_CLEARANCE_M if relation is Relation.IN else support_m + TIP_CLEARANCE_M
            for yaw in yaws[: _RELEASE_YAWS // 2 + 1]:
                R = downward(p, yaw, self._hand.closing_axis)[:3, :3] @ T_tool_held[:3, :3]
                bottom_m = float(extent_m(held.shape, R, np.array([[0.0, 0.0, -1.0]]))[0])
                T_base_held = make_pose([p[0], p[1], support_m + _RELEASE_M + bottom_m], R)
                T_base_tool = T_base_held @ invert(T_tool_held)
                T_base_tool[2, 3] = max(T_base_tool[2, 3], tips_m + self._hand.pad_depth_m)
                found.append((T_base_tool, p))
        return found

    def _model(
        self,
        bodies: Iterable[SceneObject],
        scene: Scene,
        held: tuple[SceneObject, Array] | None = None,
        *,
        clearance_m: float = 0.0,
        near: frozenset[str] = frozenset(),
    ) -> CollisionModel:
        attached = None if held is None else (held[0].name, held[0].shape, held[1])
        return CollisionModel(
            self._kinematics, bodies, scene.table_height_m, attached, clearance_m=clearance_m, near=near
        )

    def _check_workspace(self, p_base_m: Array) -> None:
        if not self._is_in_workspace(p_base_m):
            x, y, z = p_base_m
            low, high = self._profile.workspace.min_m, self._profile.workspace.max_m
            raise MotionError(
                f"({x:.3f}, {y:.3f}, {z:.3f}) m lies outside the workspace {low} to {high} m",
                reason=MotionReason.OUT_OF_REACH,
            )

    def _is_in_workspace(self, p_base_m: Array) -> bool:
        low, high = np.array(self._profile.workspace.min_m), np.array(self._profile.workspace.max_m)
        return bool(np.all((p_base_m >= low) & (p_base_m <= high)))

    def _current_yaw_rad(self, state: RobotState) -> float:
        return closing_yaw_rad(self._kinematics.tool_pose(state.q_rad), self._hand.closing_axis)

    def _check_state(self, state: RobotState) -> None:
        """Refuse a start that is not finite or outside the joint limits.

        Raises:
            MotionError: it names the joint, its position and what is allowed.
        """
        if state.q_rad.shape != (self._kinematics.dof,) or not np.isfinite(state.gripper_width_m):
            found = f"{state.q_rad.shape} and {state.gripper_width_m} m"
            raise _unsupported(f"start needs {self._kinematics.dof} joints and a gripper width, found {found}")
        for joint, q in zip(self._profile.joints, state.q_rad, strict=True):
            if not joint.lower_rad <= q <= joint.upper_rad:  # NaN too
                allowed = f"{joint.lower_rad} to {joint.upper_rad} rad"
                raise _unsupported(f"{joint.name} starts at {q:.4f} rad, allowed {allowed}")


def _find(scene: Scene, name: str | None, verb: str) -> SceneObject:
    known = ", ".join(body.name for body in scene.bodies()) or "nothing"
    if name is None:
        raise _unsupported(f"nothing is named to {verb}; the scene has {known}")
    try:
        return scene.find(name)
    except KeyError:
        raise _unsupported(f"no {name!r} to {verb}; the scene has {known}") from None


def _check_relation(relation: Relation | None, held: SceneObject, reference: SceneObject) -> Relation:
    if relation is None:
        raise _unsupported(f"place needs a relation: {', '.join(r.value for r in Relation)}")
    if reference.name == held.name:
        raise _unsupported(f"{held.name} cannot be placed {relation.value} itself")
    is_hollow = isinstance(reference.shape, Container)
    if relation is Relation.IN and not is_hollow:
        raise _unsupported(f"{reference.name} has no hollow to place something in; use on or next_to")
    if relation is Relation.ON and (is_hollow or isinstance(reference.shape, Sphere)):
        instead = Relation.IN if is_hollow else Relation.NEXT_TO
        raise _unsupported(f"{reference.name} has no flat top to place something on; use {instead.value}")
    return relation


def _stands_on(body: SceneObject, support: SceneObject) -> bool:
    if body is support or abs(body.bottom_m - support.top_m) > _STANDS_ON_M:
        return False
    return free_gap_m(body, support) < -_STANDS_ON_M


def _pairs_of(name: str, pairs: frozenset[Pair]) -> frozenset[Pair]:
    return frozenset(pair for pair in pairs if name in pair)


def _yaw_only(R: Array) -> Array:
    """The upright rotation nearest to one that is almost upright."""
    yaw = np.arctan2(R[1, 0] - R[0, 1], R[0, 0] + R[1, 1])
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _sum_up(failures: list[MotionError]) -> MotionError:
    """One error for many tries: the most frequent reason, the first text that gave it."""
    if not failures:
        return MotionError("there was nothing to try", reason=MotionReason.NO_PATH)
    reason, _ = Counter(failure.reason for failure in failures).most_common(1)[0]
    first = next(failure for failure in failures if failure.reason == reason)
    return MotionError(f"{first} ({len(failures)} ways tried)", reason=reason)


def _unsupported(text: str) -> MotionError:
    return MotionError(text, reason=MotionReason.UNSUPPORTED)
