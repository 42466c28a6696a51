"""Seeded simulated scenes → shards of small images with their objects, samples for `train`.

A shard is two files: `NAME.npy` holds images (n, h, w, 3) uint8, already resized as the model's processor would do.
`NAME.json` holds each image's objects (label, box 0..1000, filled cells of the image-token grid, visible pixels).
"""

from __future__ import annotations

import json
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import track

from qwen2vl_robot.bullet import TABLE, Bowl, BulletWorld, robot_on_table
from qwen2vl_robot.config import Catalogue, SceneRanges, load_robot
from qwen2vl_robot.geometry import make_pose, rotation_z
from qwen2vl_robot.meshes import Mesh
from qwen2vl_robot.messages import Box, Cylinder, shape_size_m
from qwen2vl_robot.plant.scenes import PlantObject, PlantScene, draw_scene, load_scene

CELL_PX = 28  # one image token: patch 14, merge 2
MAX_PIXELS = 84_800  # 640x480 becomes 336x252, 108 image tokens
MIN_PIXELS = 28 * 28 * 16
MIN_VISIBLE_PX = 150  # of 640x480; an object with fewer is neither asked for nor called absent
MIN_CELL_SHARE = 0.2
_STACKED_RATIO = 0.2
_SHARD = 256


@dataclass(frozen=True, slots=True)
class SeenObject:
    """What an image shows of one object.

    Attributes:
        box: x0, y0, x1, y1 in 0..1000 of the visible part.
        cells: indices into the image-token grid, row by row, of which it fills at least `MIN_CELL_SHARE`.
        visible_px: visible pixels, scaled to a 640x480 image.
    """

    label: str
    box: tuple[int, int, int, int]
    cells: tuple[int, ...]
    visible_px: int


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
    profile = load_robot(scene.robot)
    world.robot.reset_arm(np.array(profile.home_q_rad) + q_offset_rad, profile.gripper.max_width_m)
    world.set_colour(TABLE, scene.table_rgb)
    world.set_texture(TABLE, texture)
    for item in scene.objects:
        world.add_body(item.label, item.shape, item.T_base_object, mass_kg=0.0, rgb=item.rgb, collides=False)
    rgb, _, names = world.render(scene.intrinsics, scene.T_base_camera, scene.light)
    for item in scene.objects:
        world.remove(item.label)
    columns, rows = token_grid(rgb.shape[1], rgb.shape[0])
    return rgb, list(_seen(scene, names, columns, rows))


def resize(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize to the model's own grid, as its image processor would."""
    columns, rows = token_grid(rgb.shape[1], rgb.shape[0])
    size = (columns * CELL_PX, rows * CELL_PX)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def _seen(scene: PlantScene, names: npt.NDArray[np.str_], columns: int, rows: int) -> Iterator[SeenObject]:
    height, width = names.shape
    row_of = np.minimum(np.arange(height) * rows // height, rows - 1)
    column_of = np.minimum(np.arange(width) * columns // width, columns - 1)
    cell_of = row_of[:, None] * columns + column_of[None, :]
    cell_px = np.bincount(cell_of.ravel(), minlength=rows * columns)
    for item in scene.objects:
        mask = names == item.label
        ys, xs = np.nonzero(mask)
        if len(xs) == 0:
            continue
        share = np.bincount(cell_of[mask], minlength=rows * columns) / cell_px
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


def _render_range(job: tuple[str, int, int, Path]) -> int:
    """Render the scenes of seeds start..stop into shards; runs in one process of the pool."""
    scene_file, start, stop, folder = job
    ranges, catalogue = load_scene(scene_file)
    shards: dict[tuple[int, int], list[tuple[npt.NDArray[np.uint8], list[SeenObject]]]] = defaultdict(list)
    robots = (ranges.robot, *ranges.other_robots)
    ranges = ranges.model_copy(update={"robot": robots[start // _SHARD % len(robots)]})
    with robot_on_table(load_robot(ranges.robot)) as world:
        for seed in range(start, stop):
            rgb, seen = sample_of_seed(world, ranges, catalogue, seed)
            image = resize(rgb)
            shards[(image.shape[1], image.shape[0])].append((image, seen))
    for (width, height), samples in shards.items():
        name = folder / f"{start:08d}_{width}x{height}"
        annotations = [[(s.label, s.box, s.cells, s.visible_px) for s in seen] for _, seen in samples]
        name.with_suffix(".json").write_text(json.dumps(annotations, separators=(",", ":")))
        # The images come last and by a rename, so that a reader never sees half a shard.
        partial = name.with_suffix(".partial.npy")
        np.save(partial, np.stack([image for image, _ in samples]))
        partial.rename(name.with_suffix(".npy"))
    return stop - start


def sample_of_seed(
    world: BulletWorld, ranges: SceneRanges, catalogue: Catalogue, seed: int, *, with_held_out: bool = False
) -> tuple[npt.NDArray[np.uint8], list[SeenObject]]:
    """Render the sample of a seed."""
    rng = np.random.default_rng([seed, 1])
    scene = stack_some(draw_scene(ranges, catalogue, seed, with_held_out=with_held_out), rng)
    joints = len(load_robot(ranges.robot).joints)
    offset_rad = rng.uniform(-1, 1, joints) * scene.start_q_offset_rad
    texture = str(rng.choice(["", *ranges.table_textures])) if ranges.table_textures else ""
    return render_sample(world, scene, offset_rad, texture)


def generate(scene_file: str, folder: Path, count: int, seed: int, processes: int) -> int:
    """Render `count` scenes of seeds seed..seed+count into shards; keep shards that exist already.

    Returns:
        The number of newly rendered scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (scene_file, start, min(start + _SHARD, seed + count), folder)
        for start in range(seed, seed + count, _SHARD)
        if not list(folder.glob(f"{start:08d}_*.npy"))
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        done = pool.imap_unordered(_render_range, jobs)
        return sum(track(done, description="rendering", total=len(jobs), console=Console(stderr=True)))


def load_shards(folder: Path) -> Iterator[tuple[npt.NDArray[np.uint8], list[list[SeenObject]]]]:
    """Yield memory-mapped images (n, h, w, 3) and their objects, shard by shard, in a fixed order."""
    for images in sorted(folder.glob("*x*.npy")):
        if images.name.endswith(".partial.npy"):
            continue
        annotations = json.loads(images.with_suffix(".json").read_text())
        yield (
            np.load(images, mmap_mode="r"),
            [[SeenObject(label, tuple(box), tuple(cells), px) for label, box, cells, px in one] for one in annotations],
        )
