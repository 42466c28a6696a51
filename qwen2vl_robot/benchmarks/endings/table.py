"""A seed → a table in the plant, as it was measured before a motion: with the target standing, or in the gripper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.errors import ObservationError, PerceptionError
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.messages import (
    Action,
    Box,
    CameraFrame,
    Cylinder,
    ObjectReference,
    Observation,
    Plan,
    Scene,
    SceneObject,
    Shape,
    Verb,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.perception import Surroundings, perceive, remeasure
from qwen2vl_robot.perception.links import ENOUGH_PX, see_links
from qwen2vl_robot.perception.view import make_view
from qwen2vl_robot.plant.client import TrueObject
from qwen2vl_robot.plant.staged import Arrangement, Extra, StagedPlant, TrueEnding
from qwen2vl_robot.relations import outline_radius_m

SCENE = "scenes/tabletop.yaml"
COPY, STRANGER = "copy", "stranger"  # a body that looks like the target, and a grey block; away until arranged
AWAY = make_pose([0.0, 0.0, -5.0])
_STRANGER_RGB = (128.0, 128.0, 128.0)
_AREA_M = ((0.40, -0.24), (0.66, 0.24))  # inside the part of the table where the scene file draws things
_GAP_M = 0.025
_SPOTS, _POSES = 300, 100
_MIN_VISIBLE_PX = 300  # as in the suites of whole tasks
_GRIP_BELOW_TOP_M = 0.03  # a tall thing is gripped this far below its top
_R_HELD = np.diag([1.0, -1.0, -1.0])  # upright under a tool that points down


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """What was known and what was true when a motion began.

    Attributes:
        arrangement: what was put where.
        scene: as it was measured.
    """

    arrangement: Arrangement
    observation: Observation
    scene: Scene
    truth: TrueEnding

    @property
    def frame(self) -> CameraFrame:
        return self.observation.frame


@dataclass(eq=False)
class Table:
    """One plant with a target, a plate, a bowl and bystanders.

    Attributes:
        target, reference: labels in the plant, and names in the scene.
        known: poses that were measured once, by what was arranged.
    """

    plant: StagedPlant
    surroundings: Surroundings
    rng: np.random.Generator
    target: str
    reference: str
    known: dict[str, Before] = field(default_factory=dict)

    @classmethod
    def of(cls, plant: StagedPlant, surroundings: Surroundings, seed: int, target: str, reference: str) -> Table:
        """Add what can be moved in, and measure the table.

        Raises:
            ObservationError, PerceptionError: the target or its reference is not seen.
        """
        table = cls(plant, surroundings, np.random.default_rng([seed, 11]), target, reference)
        width_m = shape_size_m(plant.truth().bodies[target].shape)[1] - float(table.rng.uniform(0.0, 0.003))
        plant.copy(COPY, target)
        plant.add(STRANGER, Extra(_grey_block(width_m), _STRANGER_RGB, 0.1, 0.8))
        table.standing()
        return table

    @property
    def home_rad(self) -> Array:
        return np.array(self.surroundings.profile.home_q_rad)

    @property
    def open_m(self) -> float:
        return self.surroundings.profile.gripper.max_width_m

    @property
    def bodies(self) -> dict[str, TrueObject]:
        """What stands on the table at first, without copy and stranger."""
        return {k: o for k, o in self.known["standing"].truth.bodies.items() if k not in (COPY, STRANGER)}

    @property
    def T_tool_held(self) -> Array:
        """Where the target is held, in the tool frame."""
        return held_pose(self.known["standing"].truth.bodies[self.target].shape)

    def standing(self) -> Before:
        """The target stands, the gripper is open at home."""
        if "standing" not in self.known:
            self.known["standing"] = self._measure(Arrangement(self.home_rad, self.open_m), None)
        return self.known["standing"]

    def standing_with_copy(self) -> Before | None:
        """The same with something that looks like the target beside it; None without room."""
        if "copy" not in self.known:
            spot = self.free_spot(self.bodies[self.target].shape)
            if spot is None:
                return None
            arrangement = Arrangement(self.home_rad, self.open_m, {COPY: spot})
            self.known["copy"] = self._measure(arrangement, self.standing().scene)
        return self.known["copy"]

    def holding(self, poses: Mapping[str, Array] | None = None) -> Before:
        """The target is in the gripper at home."""
        key = f"holding {sorted(poses or {})}"
        if key not in self.known:
            shape = self.bodies[self.target].shape
            arrangement = Arrangement(
                self.home_rad, shape_size_m(shape)[1], poses or {}, held=self.target, T_tool_held=self.T_tool_held
            )
            believed = replace(self.standing().scene, held=self.target, T_tool_held=freeze(self.T_tool_held))
            self.known[key] = self._measure(arrangement, believed)
        return self.known[key]

    def with_arm_at(self, q_rad: Array) -> Before:
        """The target stands, the gripper is open, and the arm is elsewhere than at home."""
        return self._measure(Arrangement(q_rad, self.open_m), self.standing().scene)

    def _measure(self, arrangement: Arrangement, believed: Scene | None) -> Before:
        plant = self.plant
        plant.arrange(arrangement)
        held = None if believed is None else believed.held
        observation = Observation(plant.capture(), replace(plant.state(), held=held))
        if believed is None:
            scene, _ = perceive(self._plan(), observation, self.surroundings)
        else:
            scene = remeasure(believed, observation, self.surroundings)
        return Before(arrangement, observation, scene, plant.truth())

    def _plan(self) -> Plan:
        boxes = self.plant.boxes()
        for label in (self.target, self.reference):
            if label not in boxes or boxes[label].visible_px < _MIN_VISIBLE_PX:
                raise PerceptionError(f"too little of {label!r} is visible", label=label)
        references = [ObjectReference(label, (boxes[label].box,)) for label in (self.target, self.reference)]
        return Plan(tuple(Action(Verb.PICK, object=r) for r in references), "")

    # ------------------------------------------------------------------------------------------- places

    def free_spot(
        self,
        shape: Shape,
        around_m: Array | None = None,
        reach_m: tuple[float, float] = (0.0, 1.0),
        *,
        without: tuple[str, ...] = (),
        also: Mapping[str, Array] | None = None,
    ) -> Array | None:
        """Draw `T_base_object` (4, 4) of a free place on the table, None without room.

        Args:
            around_m: (2,) with `reach_m`, how near and far from there.
            without: labels whose places are free.
            also: poses of further bodies, each taken as large as this one.
        """
        radius_m, height_m = outline_radius_m(shape), shape_size_m(shape)[2]
        taken = [
            (o.T_base_object[:2, 3], outline_radius_m(o.shape)) for k, o in self.bodies.items() if k not in without
        ]
        taken += [(T[:2, 3], radius_m) for T in (also or {}).values()]
        for _ in range(_SPOTS):
            xy = self.rng.uniform(*_AREA_M)
            if around_m is not None:
                bearing = self.rng.uniform(0.0, 2 * np.pi)
                xy = around_m + self.rng.uniform(*reach_m) * np.array([np.cos(bearing), np.sin(bearing)])
            is_inside = bool((xy > _AREA_M[0]).all() and (xy < _AREA_M[1]).all())
            if is_inside and all(np.linalg.norm(xy - p) > radius_m + r + _GAP_M for p, r in taken):
                return make_pose([*xy, height_m / 2 + 0.001])
        return None

    def bystander(self) -> str | None:
        """Draw the label of something visible that no motion is about."""
        boxes = self.plant.boxes()
        seen = [k for k in self.bodies if k in boxes and boxes[k].visible_px >= _MIN_VISIBLE_PX]
        others = [k for k in seen if k not in (self.target, self.reference)]
        return str(self.rng.choice(others)) if others else None

    def arm_out_of_view(self) -> Array | None:
        """Draw joints (n,) rad far from home, where the camera sees too little of the arm; None without."""
        surroundings, seen = self.surroundings, self.standing().observation
        view = make_view(seen, surroundings.kinematics, surroundings.profile)
        for turn_rad in self.rng.permutation([-2.4, -2.0, 2.0, 2.4]):
            q_rad = self.home_rad.copy()
            q_rad[0] += turn_rad
            state = replace(seen.robot, q_rad=q_rad)
            if see_links(view, state, surroundings.kinematics).expected_px < ENOUGH_PX / 2:
                return q_rad
        return None

    def arm_in_view(self) -> Array | None:
        """Draw joints (n,) rad with the hand over the table, where the camera sees enough of the arm; None without."""
        surroundings, seen = self.surroundings, self.standing().observation
        view = make_view(seen, surroundings.kinematics, surroundings.profile)
        for _ in range(_POSES):
            q_rad = self.home_rad.copy()
            q_rad[0], q_rad[1], q_rad[3] = self.rng.uniform([-0.5, -0.5, -2.4], [0.5, 0.1, -1.9])
            q_rad[5] = q_rad[1] - q_rad[3]  # the hand points down
            x_m, _, z_m = surroundings.kinematics.tool_pose(q_rad)[:3, 3]
            state = replace(seen.robot, q_rad=q_rad)
            if 0.22 < z_m < 0.40 and 0.35 < x_m < 0.65:
                px = see_links(view, state, surroundings.kinematics, unlike=seen.robot).expected_px
                if px > 1.5 * ENOUGH_PX:  # some of it may show no depth
                    return q_rad
        return None


def draw_table(seed: int, surroundings: Surroundings, camera: str | None = None) -> tuple[StagedPlant, Table] | None:
    """Start the plant of a seed and measure it; None where the target is not seen."""
    rng = np.random.default_rng([seed, 3])
    kind = ("block", "cylinder", "ball")[seed % 3]
    reference = ("plate", "bowl")[seed // 3 % 2]
    colours = rng.permutation(["red", "orange", "yellow", "green", "cyan", "blue", "purple"])
    always = (ObjectSpec(colour=str(colours[0]), kind=kind), ObjectSpec(colour=str(colours[1]), kind=reference))
    plant = StagedPlant(SCENE, seed, always, int(rng.integers(4, 8)), camera=camera)
    names = [f"{spec.colour} {spec.kind}" for spec in always]
    try:
        return plant, Table.of(plant, surroundings, seed, *names)
    except (ObservationError, PerceptionError, KeyError):
        plant.__exit__()
        return None


def held_pose(shape: Shape) -> Array:
    """Compute `T_tool_held` (4, 4) of a body that is held upright by a tool that points down."""
    height_m = shape_size_m(shape)[2]
    below_m = max(0.0, height_m / 2 - _GRIP_BELOW_TOP_M) if isinstance(shape, Cylinder) else 0.0
    return make_pose([0.0, 0.0, below_m], _R_HELD)


def grip_width_m(measured: SceneObject, true: TrueObject) -> float:
    """How far the fingers are open around the measured body: the side that is meant by the true one's y."""
    sides_m = shape_size_m(measured.shape)[:2]
    return float(min(sides_m, key=lambda side_m: abs(side_m - shape_size_m(true.shape)[1])))


def _grey_block(width_m: float) -> Shape:
    return Box((0.045, width_m, 0.045))
