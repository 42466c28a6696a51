"""Seeded simulated scenes → shards of images with their objects, samples for `train`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from qwen2vl_robot.bullet import TABLE, Bowl, BulletWorld
from qwen2vl_robot.config import Catalogue, RobotProfile, SceneRanges, load_robot
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.fleet.jobs import Job, Place, Unit
from qwen2vl_robot.fleet.running import run_job
from qwen2vl_robot.geometry import make_pose, rotation_z
from qwen2vl_robot.meshes import Mesh
from qwen2vl_robot.messages import Box, Cylinder, shape_size_m
from qwen2vl_robot.plant.room import add_fixtures
from qwen2vl_robot.plant.scenes import PlantObject, PlantScene, draw_scene, load_scene
from qwen2vl_robot.training.shards import (
    MANIFEST,
    SeenObject,
    is_whole,
    read_manifest,
    shard_name,
    write_manifest,
    write_shard,
)

CELL_PX = 28  # one image token: patch 14, merge 2
MAX_PIXELS = 84_800  # 640x480 becomes 336x252, 108 image tokens
MIN_PIXELS = 28 * 28 * 16
MIN_VISIBLE_PX = 150  # of 640x480; an object with fewer is neither asked for nor called absent
MIN_CELL_SHARE = 0.2
_STACKED_RATIO = 0.2
SHARD = 256  # samples
JOURNAL = "shards.jsonl"


def token_grid(width_px: int, height_px: int) -> tuple[int, int]:
    """Compute the columns and rows of image tokens of an image (the `smart_resize` of Qwen2-VL's processor)."""
    columns, rows = round(width_px / CELL_PX), round(height_px / CELL_PX)
    area = width_px * height_px
    if columns * rows * CELL_PX**2 > MAX_PIXELS:
        beta = (area / MAX_PIXELS) ** 0.5
        columns, rows = int(width_px / beta / CELL_PX), int(height_px / beta / CELL_PX)
    return max(1, columns), max(1, rows)


def render_sample(
    world: BulletWorld, scene: PlantScene, q_offset_rad: npt.NDArray[np.float64], texture: str = ""
) -> tuple[npt.NDArray[np.uint8], list[SeenObject]]:
    """Render a scene as the camera sees it, and list what it shows; the world must hold robot and table."""
    profile = _profile(scene.robot)
    world.robot.reset_arm(np.array(profile.home_q_rad) + q_offset_rad, profile.gripper.max_width_m)
    world.set_colour(TABLE, scene.table_rgb)
    world.set_texture(TABLE, texture)
    for item in scene.objects:
        world.add_body(item.label, item.shape, item.T_base_object, mass_kg=0.0, rgb=item.rgb, collides=False)
    fixtures = add_fixtures(world, scene.fixtures)
    rgb, shown = world.render_bodies(scene.intrinsics, scene.T_base_camera, scene.light)
    for name in (*(item.label for item in scene.objects), *fixtures):
        world.remove(name)
    columns, rows = token_grid(rgb.shape[1], rgb.shape[0])
    return rgb, list(_seen(scene, shown, columns, rows))


@functools.lru_cache(maxsize=64)
def _profile(name: str) -> RobotProfile:
    """The robot file, read once: reading takes a tenth of the time of a sample."""
    return load_robot(name)


def resize(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize to the model's own grid, as its image processor would."""
    columns, rows = token_grid(rgb.shape[1], rgb.shape[0])
    size = (columns * CELL_PX, rows * CELL_PX)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def _seen(scene: PlantScene, shown: dict[str, npt.NDArray[np.intp]], columns: int, rows: int) -> Iterator[SeenObject]:
    height, width = scene.intrinsics.height_px, scene.intrinsics.width_px
    cell_of, cell_px = _cells(width, height, columns, rows)
    for item in scene.objects:
        pixels = shown[item.label]
        if len(pixels) == 0:
            continue
        ys, xs = np.divmod(pixels, width)
        share = np.bincount(cell_of[pixels], minlength=rows * columns) / cell_px
        cells = np.flatnonzero(share >= MIN_CELL_SHARE)
        if len(cells) == 0:
            cells = np.array([int(share.argmax())])
        box = (xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height)
        yield SeenObject(
            item.label,
            tuple(round(1000 * float(v)) for v in box),  # type: ignore[arg-type]
            tuple(int(c) for c in cells),
            int(len(xs) * 640 * 480 / (width * height)),
        )


@functools.lru_cache(maxsize=16)
def _cells(width: int, height: int, columns: int, rows: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The image token of each pixel (h * w), and how many pixels each token has."""
    row_of = np.minimum(np.arange(height) * rows // height, rows - 1)
    column_of = np.minimum(np.arange(width) * columns // width, columns - 1)
    cell_of = (row_of[:, None] * columns + column_of[None, :]).ravel()
    return cell_of, np.bincount(cell_of, minlength=rows * columns)


def stack_some(scene: PlantScene, rng: np.random.Generator) -> PlantScene:
    """Sometimes put one object on or in another, as after a completed step."""
    movable = [o for o in scene.objects if o.can_be_picked]
    if not movable or rng.uniform() > _STACKED_RATIO:
        return scene
    moved = movable[int(rng.integers(len(movable)))]
    supports = [o for o in scene.objects if o is not moved and isinstance(o.shape, Bowl | Box | Cylinder)]
    if not supports:
        return scene
    support = supports[int(rng.integers(len(supports)))]
    placed = _on_top(moved, support, rng)
    objects = tuple(placed if o is moved else o for o in scene.objects)
    return PlantScene(**{**{f: getattr(scene, f) for f in PlantScene.__slots__}, "objects": objects})


def _on_top(moved: PlantObject, support: PlantObject, rng: np.random.Generator) -> PlantObject:
    height_m = moved.shape.height_m if isinstance(moved.shape, Bowl | Mesh) else shape_size_m(moved.shape)[2]
    x, y, z = support.T_base_object[:3, 3]
    if isinstance(support.shape, Mesh):
        raise TypeError(f"a {support.kind} cannot support an object")
    if isinstance(support.shape, Bowl):
        bottom_m = z - support.shape.height_m / 2 + support.shape.wall_m
    else:
        bottom_m = z + shape_size_m(support.shape)[2] / 2
    dx, dy = rng.uniform(-0.012, 0.012, 2)
    T = make_pose([x + dx, y + dy, bottom_m + height_m / 2], rotation_z(float(rng.uniform(-np.pi, np.pi))))
    return PlantObject(**{**{f: getattr(moved, f) for f in PlantObject.__slots__}, "T_base_object": T})


class Rendering:
    """Renders one shard after the other; served in a process.

    Args:
        scene_file: the ranges to draw from.
        folder: where the shards go.
        is_full: whether images stay as the camera sees them, instead of as the small checkpoint does.
    """

    def __init__(self, scene_file: str, folder: str, is_full: bool) -> None:
        self._ranges, self._catalogue = load_scene(scene_file)
        self._folder, self._is_full = Path(folder), is_full

    def shard(self, start: int, stop: int) -> dict[str, Any]:
        """Render the scenes of seeds start..stop; the entry of the shard in the manifest."""
        return write_shard(self._folder / shard_name(start), self._samples(start, stop))

    def _samples(self, start: int, stop: int) -> Iterator[tuple[int, npt.NDArray[np.uint8], list[SeenObject]]]:
        """Render in worlds that last for one shard: Bullet never frees a drawn mesh."""
        robots = (self._ranges.robot, *self._ranges.other_robots)
        with contextlib.ExitStack() as stack:
            worlds: dict[str, BulletWorld] = {}
            for seed in range(start, stop):
                arm = robots[seed // SHARD % len(robots)]
                if arm not in worlds:
                    worlds[arm] = stack.enter_context(_drawing_world(arm))
                ranges = self._ranges.model_copy(update={"robot": arm})
                rgb, seen = sample_of_seed(worlds[arm], ranges, self._catalogue, seed)
                yield seed, rgb if self._is_full else resize(rgb), seen


@contextlib.contextmanager
def _drawing_world(arm: str) -> Iterator[BulletWorld]:
    """A world that draws the table after the arm, so that no pixel behind the arm is shaded for nothing."""
    with BulletWorld() as world:
        world.add_robot(load_robot(arm))
        world.add_table()
        yield world


def sample_of_seed(
    world: BulletWorld, ranges: SceneRanges, catalogue: Catalogue, seed: int, *, with_held_out: bool = False
) -> tuple[npt.NDArray[np.uint8], list[SeenObject]]:
    """Render the sample of a seed."""
    rng = np.random.default_rng([seed, 1])
    scene = stack_some(draw_scene(ranges, catalogue, seed, with_held_out=with_held_out), rng)
    joints = len(_profile(ranges.robot).joints)
    offset_rad = rng.uniform(-1, 1, joints) * scene.start_q_offset_rad
    texture = str(rng.choice(["", *ranges.table_textures])) if ranges.table_textures else ""
    return render_sample(world, scene, offset_rad, texture)


def datagen_job(scene_file: str, folder: Path, count: int, seed: int, *, is_full: bool = False) -> Job:
    """The shards of seeds seed..seed+count as units."""
    ranges = [(start, min(start + SHARD, seed + count)) for start in range(seed, seed + count, SHARD)]
    return Job(
        name="datagen",
        factory=f"{__name__}:Rendering",
        args=(scene_file, str(folder.resolve()), is_full),
        method="shard",
        units=tuple(Unit(f"{start}..{stop}", (start, stop)) for start, stop in ranges),
        about={"scene": scene_file, "full": is_full},
    )


def generate(job: Job, where: Place) -> Iterator[dict[str, Any]]:
    """Render the shards of a job that are not whole in its folder yet; yields each one's entry of the manifest.

    Raises:
        BadInputError: the folder holds other samples, or a node wrote a shard somewhere else.
        UnsavedError: the disk is full; the same job goes on from what there is.
    """
    folder = Path(str(job.args[1]))
    known = {entry["file"]: entry for entry in read_manifest(folder)["shards"]} if (folder / MANIFEST).is_file() else {}
    _check_overlap(job, known, folder)
    try:
        for entry in run_job(job, where, folder / JOURNAL, lambda entry: is_whole(folder, entry)):
            if not is_whole(folder, entry):
                file = folder / entry["file"]
                raise BadInputError(f"{file}: was written on another machine; --out must be one that all nodes share")
            known[entry["file"]] = entry
            yield entry
    finally:
        write_manifest(folder, dict(job.about), known.values())


def _check_overlap(job: Job, known: dict[str, dict[str, Any]], folder: Path) -> None:
    """Refuse seeds that another shard of the folder holds already: they would count twice.

    Raises:
        BadInputError: there is such a shard.
    """
    for unit in job.units:
        start, stop = (int(str(value)) for value in unit.args)
        for entry in known.values():
            first, last = entry["seed"], entry["seed"] + entry["samples"]
            if first != start and first < stop and start < last:
                raise BadInputError(
                    f"{folder / entry['file']}: holds seeds {first}..{last - 1} already; give a --seed that is a "
                    f"multiple of {SHARD} away from {first}, or another folder"
                )
