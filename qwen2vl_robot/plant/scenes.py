"""Ranges of a scene file + seed → one concrete plant scene, for training data, plant and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qwen2vl_robot.bullet import Bowl, BulletWorld, Friction, Light
from qwen2vl_robot.config import Catalogue, Faults, KindRanges, ObjectSpec, SceneRanges, load_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array, look_at, make_pose, rotation_z
from qwen2vl_robot.meshes import Mesh
from qwen2vl_robot.messages import Box, Cylinder, Intrinsics, Shape, Sphere
from qwen2vl_robot.plant.cameras import Finish
from qwen2vl_robot.plant.room import Fixture, Waves, add_fixtures, furnish
from qwen2vl_robot.resources import resolve

_PLACEMENT_TRIES = 200
_ARRANGEMENTS = 20
_COLOUR_SPREAD = 14  # sRGB levels by which two objects of one colour may differ from its catalogue value


@dataclass(frozen=True, slots=True, eq=False)
class PlantObject:
    """A body of the plant; its label is "colour kind", unique in the scene."""

    label: str
    colour: str
    kind: str
    shape: Shape | Bowl | Mesh
    T_base_object: Array
    rgb: tuple[float, float, float]
    mass_kg: float
    friction: float
    rolling_friction: float
    can_be_picked: bool
    finish: Finish = "matt"


@dataclass(frozen=True, slots=True, eq=False)
class PlantScene:
    """The true state of one simulated table, before the plant's faults are drawn."""

    seed: int
    robot: str
    objects: tuple[PlantObject, ...]
    table_rgb: tuple[float, float, float]
    intrinsics: Intrinsics
    T_base_camera: Array
    camera: str
    light: Light
    start_q_offset_rad: float
    faults: Faults
    fixtures: tuple[Fixture, ...] = ()
    waves: Waves | None = None


def load_scene(path: str | Path) -> tuple[SceneRanges, Catalogue]:
    """Load a scene file and the catalogue that it names.

    Raises:
        BadInputError: a file is missing or wrong, or the scene names a colour or kind that the catalogue lacks.
    """
    file = resolve(str(path))
    ranges = load_yaml(file, SceneRanges)
    catalogue = load_yaml(resolve(ranges.catalogue, file.parent), Catalogue)
    for spec in ranges.always:
        for word, known in ((spec.colour, catalogue.colours), (spec.kind, catalogue.kinds)):
            if word not in known:
                raise BadInputError(f"{file}: always names {word!r}; the catalogue has {', '.join(known)}")
    return ranges, catalogue


def draw_scene(
    ranges: SceneRanges,
    catalogue: Catalogue,
    seed: int,
    *,
    always: tuple[ObjectSpec, ...] | None = None,
    count: int | None = None,
    with_held_out: bool = False,
) -> PlantScene:
    """Draw one scene; the same seed and arguments give the same scene.

    Args:
        always: objects that must be there, instead of the file's own.
        count: number of objects, instead of one drawn from the file's range.
        with_held_out: whether colour-kind pairs that training never sees may be drawn.

    Raises:
        BadInputError: an object of the file's `always` finds no room, or the catalogue lacks a size of a kind.
    """
    rng = np.random.default_rng(seed)
    # Do not change the order of the draws: training and all reported figures depend on it.
    wanted = _draw_specs(
        ranges, catalogue, rng, list(ranges.always if always is None else always), count, with_held_out
    )
    objects = _place(wanted, ranges, catalogue, rng, seed)
    intrinsics, T_base_camera = _draw_camera(ranges, rng)
    light = _draw_light(ranges, rng)
    table = ranges.table_colours[int(rng.integers(len(ranges.table_colours)))]
    spread = rng.integers(-12, 13)
    room_rng = np.random.default_rng([seed, 2])  # of its own: the draws of scenes without a room stay as they are
    return PlantScene(
        seed=seed,
        robot=ranges.robot,
        objects=tuple(objects),
        table_rgb=tuple(float(np.clip(c + spread, 0, 255)) for c in table),  # type: ignore[arg-type]
        intrinsics=intrinsics,
        T_base_camera=T_base_camera,
        camera=ranges.camera.model,
        light=light,
        start_q_offset_rad=ranges.home_spread_rad,
        faults=ranges.faults,
        fixtures=furnish(ranges.around, room_rng),
        waves=Waves.draw(ranges.table_waves_m, room_rng) if ranges.table_waves_m else None,
    )


def populate(world: BulletWorld, scene: PlantScene, *, collides: bool = True) -> None:
    """Add the scene's objects to a world under their labels, and what else is in the room (not table or robot)."""
    add_fixtures(world, scene.fixtures)
    for item in scene.objects:
        world.add_body(
            item.label,
            item.shape,
            item.T_base_object,
            mass_kg=item.mass_kg if collides else 0.0,
            friction=Friction(item.friction, item.rolling_friction),
            rgb=item.rgb,
            collides=collides,
        )


def with_spread(scene: PlantScene, rng: np.random.Generator) -> PlantScene:
    """Draw each body's mass and friction around its nominal values."""

    def varied(value: float, ratio: float) -> float:
        return value * (1.0 + rng.uniform(-ratio, ratio))

    mass, friction = scene.faults.mass_spread_ratio, scene.faults.friction_spread_ratio
    objects = tuple(
        replace(item, mass_kg=varied(item.mass_kg, mass), friction=varied(item.friction, friction))
        for item in scene.objects
    )
    return replace(scene, objects=objects)


def _draw_specs(
    ranges: SceneRanges,
    catalogue: Catalogue,
    rng: np.random.Generator,
    wanted: list[ObjectSpec],
    count: int | None,
    with_held_out: bool,
) -> list[ObjectSpec]:
    """Return the wanted objects and further colour-kind pairs up to the count."""
    total = max(count if count is not None else int(rng.integers(ranges.count[0], ranges.count[1] + 1)), len(wanted))
    pairs = [
        ObjectSpec(colour=c, kind=k)
        for c in catalogue.colours
        for k in catalogue.kinds
        if with_held_out or f"{c} {k}" not in catalogue.held_out
    ]
    taken = {(o.colour, o.kind) for o in wanted}
    # Plates and bowls take the room of three; at most two of them are added, so that all objects stay reachable.
    flat = 0
    for index in rng.permutation(len(pairs)):
        spec = pairs[index]
        if len(wanted) >= total:
            break
        is_flat = not catalogue.kinds[spec.kind].can_be_picked
        if (spec.colour, spec.kind) in taken or (is_flat and flat >= 2):
            continue
        flat += is_flat
        taken.add((spec.colour, spec.kind))
        wanted = [*wanted, spec]
    return wanted


def _draw_light(ranges: SceneRanges, rng: np.random.Generator) -> Light:
    elevation = np.deg2rad(rng.uniform(*ranges.light.elevation_deg))
    azimuth = rng.uniform(-np.pi, np.pi)
    direction = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    return Light(
        tuple(float(d) for d in direction),  # type: ignore[arg-type]
        float(rng.uniform(*ranges.light.ambient)),
        float(rng.uniform(*ranges.light.diffuse)),
    )


def _draw_camera(ranges: SceneRanges, rng: np.random.Generator) -> tuple[Intrinsics, Array]:
    c = ranges.camera
    width, height = c.sizes_px[int(rng.integers(len(c.sizes_px)))]
    fov = np.deg2rad(rng.uniform(*c.vertical_fov_deg))
    f_px = height / 2 / np.tan(fov / 2)
    azimuth, elevation = np.deg2rad(rng.uniform(*c.azimuth_deg)), np.deg2rad(rng.uniform(*c.elevation_deg))
    target = np.array(c.target_m) + rng.uniform(-c.target_spread_m, c.target_spread_m, 3) * [1, 1, 0]
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    eye = target + rng.uniform(*c.distance_m) * direction
    intrinsics = Intrinsics(width, height, float(f_px), float(f_px), (width - 1) / 2, (height - 1) / 2)
    return intrinsics, look_at(eye, target, roll_rad=float(rng.uniform(-0.05, 0.05)))


def _draw_shape(kind: KindRanges, rng: np.random.Generator) -> tuple[Shape | Bowl | Mesh, float, float]:
    """Draw a shape; return it with its radius on the table and its height, metres."""

    def draw(bounds: tuple[float, float] | None) -> float:
        if bounds is None:
            raise BadInputError(f"a {kind.shape} of the catalogue lacks side_m, diameter_m or height_m")
        return float(rng.uniform(*bounds))

    if kind.shape == "box":
        x, y, z = draw(kind.side_m), draw(kind.side_m), draw(kind.side_m)
        x *= kind.stretch
        return Box((x, y, z)), float(np.hypot(x, y)) / 2, z
    if kind.shape == "mesh":
        mesh = Mesh(kind.file or "", draw(kind.height_m))
        return mesh, float(np.hypot(*mesh.size_m[:2])) / 2, mesh.height_m
    diameter_m = draw(kind.diameter_m)
    if kind.shape == "sphere":
        return Sphere(diameter_m), diameter_m / 2, diameter_m
    height_m = draw(kind.height_m)
    if kind.shape == "cylinder":
        return Cylinder(diameter_m, height_m), diameter_m / 2, height_m
    return Bowl(diameter_m, height_m, kind.wall_m or 0.006), diameter_m / 2, height_m


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """A body before it has a place: its radius on the table and its height, metres."""

    spec: ObjectSpec
    shape: Shape | Bowl | Mesh
    radius_m: float
    height_m: float
    is_due: bool  # named by the file's `always`


def _place(
    specs: list[ObjectSpec], ranges: SceneRanges, catalogue: Catalogue, rng: np.random.Generator, seed: int
) -> list[PlantObject]:
    """Place the objects on the table, `gap_m` apart, the widest first; those that find no room are left out.

    An object with a position of its own goes there whatever is beside it. Where one of the file's `always` finds no
    room, all are placed anew, those first.

    Raises:
        BadInputError: an object of the file's `always` finds no room.
    """
    due = {(s.colour, s.kind) for s in ranges.always}
    drawn = [
        _Drawn(spec, *_draw_shape(catalogue.kinds[spec.kind], rng), (spec.colour, spec.kind) in due) for spec in specs
    ]
    drawn.sort(key=lambda item: (-item.radius_m, item.spec.colour, item.spec.kind))
    objects, without = _arrange(drawn, ranges, catalogue, rng)
    drawn.sort(key=lambda item: not item.is_due)
    for attempt in range(_ARRANGEMENTS):
        if without is None:
            return objects
        # Of its own: the scenes of other seeds stay as they are.
        objects, without = _arrange(drawn, ranges, catalogue, np.random.default_rng([seed, 3, attempt]))
    if without is not None:
        raise BadInputError(f"no room for the {without.colour} {without.kind}; widen area_min_m..area_max_m")
    return objects


def _arrange(
    drawn: list[_Drawn], ranges: SceneRanges, catalogue: Catalogue, rng: np.random.Generator
) -> tuple[list[PlantObject], ObjectSpec | None]:
    """Place bodies in their order; the second value is one that must be there and found no room."""
    placed: list[tuple[float, float, float]] = []
    objects: list[PlantObject] = []
    low, high = np.array(ranges.area_min_m), np.array(ranges.area_max_m)
    for item in drawn:
        spec, radius_m = item.spec, item.radius_m
        for _ in range(_PLACEMENT_TRIES):
            inset = min(radius_m, float(min(high - low)) / 2 - 1e-6)
            x, y = spec.position_m or rng.uniform(low + inset, high - inset)
            is_free = all(np.hypot(x - px, y - py) > radius_m + pr + ranges.gap_m for px, py, pr in placed)
            if is_free or spec.position_m is not None:
                break
        else:
            if item.is_due:
                return objects, spec
            continue
        placed.append((float(x), float(y), radius_m))
        objects.append(_stand(item, (float(x), float(y)), catalogue, rng))
    return objects, None


def _stand(item: _Drawn, at_m: tuple[float, float], catalogue: Catalogue, rng: np.random.Generator) -> PlantObject:
    """Draw the yaw and the shade of a body that has found its place."""
    spec, kind = item.spec, catalogue.kinds[item.spec.kind]
    yaw = np.deg2rad(spec.yaw_deg) if spec.yaw_deg is not None else rng.uniform(-np.pi, np.pi)
    base = np.array(catalogue.colours[spec.colour], dtype=float)
    rgb = np.clip(base + rng.uniform(-_COLOUR_SPREAD, _COLOUR_SPREAD, 3), 0, 255)
    return PlantObject(
        label=f"{spec.colour} {spec.kind}",
        colour=spec.colour,
        kind=spec.kind,
        shape=item.shape,
        T_base_object=make_pose([*at_m, item.height_m / 2], rotation_z(float(yaw))),
        rgb=(float(rgb[0]), float(rgb[1]), float(rgb[2])),
        mass_kg=kind.mass_kg,
        friction=kind.friction,
        rolling_friction=kind.rolling_friction,
        can_be_picked=kind.can_be_picked,
        finish=kind.finish,
    )
