"""Every seed draws a scene with what its file always has, apart from each other and on the table."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import shape_size_m
from qwen2vl_robot.plant.scenes import PlantScene, draw_scene, load_scene
from qwen2vl_robot.resources import data_root

SCENES = sorted(path.stem for path in (data_root() / "sim" / "scenes").glob("*.yaml"))
SEEDS = 200


@functools.cache
def drawn(name: str) -> list[PlantScene]:
    ranges, catalogue = load_scene(f"scenes/{name}.yaml")
    return [draw_scene(ranges, catalogue, seed) for seed in range(SEEDS)]


@pytest.mark.parametrize("name", SCENES)
def test_every_seed_has_room_for_what_the_scene_always_has(name: str) -> None:
    due = {f"{o.colour} {o.kind}" for o in load_scene(f"scenes/{name}.yaml")[0].always}
    assert all(due <= {o.label for o in scene.objects} for scene in drawn(name))


@pytest.mark.parametrize(
    "name", sorted(set(SCENES) - {"training_wide", "training_far"})
)  # whose meshes have no size of their own
def test_what_was_placed_anew_stands_apart_and_on_the_table(name: str) -> None:
    ranges, _ = load_scene(f"scenes/{name}.yaml")
    for objects in (scene.objects for scene in drawn(name)):
        at_m = np.array([o.T_base_object[:2, 3] for o in objects]).reshape(-1, 2)
        assert (at_m > ranges.area_min_m).all() and (at_m < ranges.area_max_m).all()
        for i, a in enumerate(objects):
            for j, b in enumerate(objects[:i]):
                least_m = sum(_narrowest_m(o.shape) for o in (a, b)) / 2 + ranges.gap_m
                assert np.hypot(*(at_m[i] - at_m[j])) > least_m


def test_a_scene_is_the_same_each_time_it_is_drawn() -> None:
    ranges, catalogue = load_scene("scenes/xarm6.yaml")
    for seed in (0, 2, 3):  # of those placed anew
        again = draw_scene(ranges, catalogue, seed)
        for a, b in zip(drawn("xarm6")[seed].objects, again.objects, strict=True):
            assert a.label == b.label and (a.T_base_object == b.T_base_object).all()


def test_where_nothing_helps_the_table_is_named_as_too_small() -> None:
    ranges, catalogue = load_scene("scenes/xarm6.yaml")
    many = tuple(ObjectSpec(colour=c, kind="plate") for c in catalogue.colours)
    ranges = ranges.model_copy(update={"always": many})
    with pytest.raises(BadInputError, match="no room for the .* plate; widen area_min_m"):
        draw_scene(ranges, catalogue, 0)


def _narrowest_m(shape: object) -> float:
    size = getattr(shape, "diameter_m", None)
    return float(size) if size is not None else float(min(shape_size_m(shape)[:2]))  # type: ignore[arg-type]
