"""Frames from files → the table in them, and tasks that end as they should: admitted, or refused for the true cause."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen2vl_robot.benchmarks.frames import load_frames, run_frames, summarise_frames
from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import look_at
from qwen2vl_robot.messages import Box, Cylinder
from tests.test_perception import BLUE, CAMERA, HOME, PROFILE, RED, Picture, look, stand

EYE = look_at([1.15, 0.25, 0.62], [0.52, 0.0, 0.02])
AWAY = HOME + 2.0 * np.eye(7)[0]  # no arm in view, as on the real frames


@pytest.fixture
def table() -> Iterator[BulletWorld]:
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(PROFILE)
        world.robot.command_arm(AWAY)
        stand(world, "red block", Box((0.05, 0.045, 0.05)), 0.5, 0.05, RED)
        stand(world, "blue plate", Cylinder(0.15, 0.014), 0.52, -0.14, BLUE)
        yield world


def write(folder: Path, picture: Picture) -> Path:
    """A folder with one frame, as a person would make it."""
    frame, k = picture.observation.frame, CAMERA
    at = folder / "one"
    at.mkdir()
    Image.fromarray(frame.rgb).save(at / "rgb.png")
    Image.fromarray(np.nan_to_num(frame.depth_m * 1000.0).astype(np.uint16)).save(at / "depth.png")
    camera = {"width": k.width_px, "height": k.height_px, "fx": k.fx_px, "fy": k.fy_px, "cx": k.cx_px, "cy": k.cy_px}
    (at / "meta.json").write_text(json.dumps({**camera, "depth_units_per_m": 1000}))
    boxes = {label: picture.reference(label).boxes[0] for label in ("red block", "blue plate")}
    objects = {label: [[b.x0, b.y0, b.x1, b.y1], "simulated"] for label, b in boxes.items()}
    tasks = [["red block", None], ["red block", ["on", "blue plate"]]]
    (folder / "boxes.json").write_text(json.dumps({"one": {"objects": objects, "tasks": tasks}}))
    return folder


def test_tasks_on_a_frame_go_as_far_as_the_verdict(tmp_path: Path, table: BulletWorld) -> None:
    picture = look(table, 3, T_base_camera=EYE)
    frames = load_frames(write(tmp_path, picture))
    assert 0.001 < frames[0].residual_m < 0.004  # the depth noise is 2 mm
    results = list(run_frames(frames, tmp_path / "overlays"))
    assert [task["reason"] for task in results[0]["tasks"]] == ["admitted", "admitted"], results[0]["tasks"]
    things = [body for body in results[0]["bodies"] if body["shape"] != "hull"]  # the robot that took the picture
    assert sorted(body["shape"] for body in things) == ["box", "cylinder"]
    assert summarise_frames(results)["admitted"] == 2
    assert Image.open(tmp_path / "overlays" / "one.png").size == (640, 480)
    middle = np.mean([body["centre_m"][:2] for body in things], axis=0)
    assert middle == pytest.approx([0.5, 0.0], abs=0.03), "half a metre before the base"


def test_half_of_the_depth_is_named_as_the_cause(tmp_path: Path, table: BulletWorld) -> None:
    picture = look(table, 3, T_base_camera=EYE)
    mine = picture.names == "red block"
    cols = np.indices(mine.shape)[1]
    picture.observation.frame.depth_m[mine & (cols < np.median(cols[mine]))] = np.nan
    (result,) = run_frames(load_frames(write(tmp_path, picture)), None)
    assert [task["reason"] for task in result["tasks"]] == ["no_depth", "no_depth"]


def _no_frames(folder: Path) -> None:
    (folder / "one" / "depth.png").unlink()


def _other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((10, 10), np.uint16)).save(folder / "one" / "depth.png")


def _no_depth(folder: Path) -> None:
    Image.fromarray(np.zeros((480, 640), np.uint16)).save(folder / "one" / "depth.png")


def _unmarked(folder: Path) -> None:
    truth = json.loads((folder / "boxes.json").read_text())
    truth["one"]["tasks"] = [["green ball", None]]
    (folder / "boxes.json").write_text(json.dumps(truth))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_no_frames, "has a depth.png"),
        (_other_size, "meta.json says 640x480 px"),
        (_no_depth, "500 are needed to find a table"),
        (_unmarked, "a task names 'green ball'"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, table: BulletWorld, spoil: Callable[[Path], None], says: str) -> None:
    folder = write(tmp_path, look(table, 3, T_base_camera=EYE))
    spoil(folder)
    with pytest.raises(BadInputError, match=says):
        load_frames(folder)
