"""Shards are what WebDataset reads, the same bytes whoever makes them, and whole or refused."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.fleet.here import Here
from qwen2vl_robot.plant.scenes import draw_scene, load_scene
from qwen2vl_robot.training import dataset
from qwen2vl_robot.training.dataset import datagen_job, generate, resize, sample_of_seed
from qwen2vl_robot.training.samples import Samples
from qwen2vl_robot.training.shards import MANIFEST, SeenObject, read_manifest, read_shards, write_shard

SCENE = "scenes/training.yaml"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SHARD", 3)


def render(folder: Path, count: int, seed: int = 60, processes: int = 1) -> list[dict[str, object]]:
    folder.mkdir(exist_ok=True)
    return list(generate(datagen_job(SCENE, folder, count, seed), Here(processes)))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_order_and_processes_change_no_byte_and_a_longer_run_goes_on(tmp_path: Path) -> None:
    render(tmp_path / "one", 9)
    render(tmp_path / "other", 3, seed=66, processes=2)
    render(tmp_path / "other", 9, processes=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")
    manifests = [read_manifest(tmp_path / name) for name in ("one", "other")]
    assert manifests[0] == manifests[1]
    assert (manifests[0]["samples"], len(manifests[0]["shards"])) == (9, 3)
    written = (tmp_path / "one" / "shard-00000060.tar").stat().st_mtime_ns
    render(tmp_path / "one", 9)
    assert (tmp_path / "one" / "shard-00000060.tar").stat().st_mtime_ns == written


def test_a_shard_holds_what_its_seeds_render(tmp_path: Path) -> None:
    render(tmp_path, 4)
    ranges, catalogue = load_scene(SCENE)
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(load_robot(ranges.robot))
        for seed, packed in zip(range(60, 64), read_shards(tmp_path), strict=True):
            rgb, seen = sample_of_seed(world, ranges, catalogue, seed)
            assert np.array_equal(packed.image(), resize(rgb))
            assert packed.seen == seen
    assert len(Samples(tmp_path)) == 4


def test_full_images_stay_as_the_camera_sees_them_and_are_resized_for_the_small_checkpoint(tmp_path: Path) -> None:
    list(generate(datagen_job(SCENE, tmp_path, 3, 60, is_full=True), Here(1)))
    ranges, catalogue = load_scene(SCENE)
    sizes = [draw_scene(ranges, catalogue, seed).intrinsics for seed in range(60, 63)]
    assert [packed.size_px for packed in read_shards(tmp_path)] == [(k.width_px, k.height_px) for k in sizes]
    batches = list(Samples(tmp_path).in_order(8))
    assert all(size % 28 == 0 for batch in batches for sample in batch for size in sample.image.shape[:2])
    with pytest.raises(BadInputError, match="of another run \\(full True, now False\\)"):
        render(tmp_path, 3)


def test_a_shard_that_is_cut_off_is_refused_and_rendered_again(tmp_path: Path) -> None:
    render(tmp_path, 6)
    whole = files_of(tmp_path)
    shard = tmp_path / "shard-00000063.tar"
    for broken in (whole[shard.name][:-2000], b"", whole[shard.name][:600] + b"?" + whole[shard.name][601:]):
        shard.write_bytes(broken)
        if len(broken) != len(whole[shard.name]):
            with pytest.raises(BadInputError, match="shard-00000063.tar: .* bytes, but the manifest says"):
                Samples(tmp_path)
        entries = render(tmp_path, 6)
        assert len(entries) == 2
        assert files_of(tmp_path) == whole
    shard.unlink()
    with pytest.raises(BadInputError, match="missing, but the manifest says"):
        Samples(tmp_path)
    render(tmp_path, 6)
    assert (files_of(tmp_path), read_manifest(tmp_path)["samples"]) == (whole, 6)


def test_seeds_that_a_shard_holds_already_are_not_rendered_into_another(tmp_path: Path) -> None:
    render(tmp_path, 3)
    with pytest.raises(BadInputError, match=r"shard-00000060.tar: holds seeds 60\.\.62 already"):
        render(tmp_path, 3, seed=61)
    render(tmp_path, 3, seed=63)
    assert read_manifest(tmp_path)["samples"] == 6


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 1}', '{"format": 1, "shards": [{"file": "../x.tar"}]}', "{"])
def test_a_manifest_of_something_else_is_bad_input(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BadInputError, match="manifest"):
        Samples(tmp_path)


def test_a_folder_without_samples_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="datagen --out"):
        Samples(tmp_path)


FULL = """
import resource, sys
from pathlib import Path
from qwen2vl_robot.fleet.here import Here
from qwen2vl_robot.results import UnsavedError
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.training import dataset
dataset.SHARD = 3
job = dataset.datagen_job("scenes/training.yaml", Path(sys.argv[1]), 6, 60)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    print(len(list(dataset.generate(job, Here(1)))))
except RobotError as error:
    print(error)
"""


def test_a_full_disk_is_one_clear_error_and_leaves_no_half_of_a_shard(tmp_path: Path) -> None:
    def run(most_bytes: int) -> str:
        command = [sys.executable, "-c", FULL, str(tmp_path), str(most_bytes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]

    assert "shard-00000060.tar: cannot be written: File too large" in run(30_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "shards.jsonl"]
    assert run(resource.RLIM_INFINITY) == "2"
    assert len(list(read_shards(tmp_path))) == 6


def test_webdataset_reads_every_sample_once(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="WebDataset is not installed: pip install webdataset")
    render(tmp_path, 6)
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in read] == [f"{seed:08d}" for seed in range(60, 66)]
    for sample, packed in zip(read, read_shards(tmp_path), strict=True):
        assert np.array_equal(sample["png"], packed.image())
        assert [o["label"] for o in sample["json"]["objects"]] == [s.label for s in packed.seen]


def test_a_shard_does_not_depend_on_when_it_was_made(tmp_path: Path) -> None:
    def samples() -> Iterator[tuple[int, np.ndarray, list[SeenObject]]]:
        yield 7, np.full((28, 56, 3), 9, np.uint8), [SeenObject("red block", (1, 2, 3, 4), (0, 1), 200)]

    entry = write_shard(tmp_path / "a.tar", samples())
    assert entry == {**write_shard(tmp_path / "b.tar", samples()), "file": "a.tar"}
    assert json.dumps(entry)


@pytest.mark.parametrize("arm", ["franka_panda", "kuka_iiwa", "xarm6"])
def test_what_is_not_drawn_is_not_in_the_picture(arm: str) -> None:
    ranges, catalogue = load_scene("scenes/training_wide.yaml")
    profile, hidden = load_robot(arm), 0
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(profile)
        for seed in range(8):
            scene = draw_scene(ranges, catalogue, seed)
            q_rad = np.array(profile.home_q_rad) + np.random.default_rng(seed).uniform(-0.3, 0.3, len(profile.joints))
            world.robot.reset_arm(q_rad, profile.gripper.max_width_m)
            for item in scene.objects:
                world.add_body(item.label, item.shape, item.T_base_object, mass_kg=0.0, rgb=item.rgb, collides=False)
            whole, _, names = world.render(scene.intrinsics, scene.T_base_camera, scene.light)
            rgb, shown = world.render_bodies(scene.intrinsics, scene.T_base_camera, scene.light)
            again, *_ = world.render(scene.intrinsics, scene.T_base_camera, scene.light)
            for item in scene.objects:
                assert np.array_equal(shown[item.label], np.flatnonzero(names == item.label))
                world.remove(item.label)
            assert np.array_equal(rgb, whole)
            assert np.array_equal(again, whole)
            hidden += int((names == "robot").any())
    assert hidden > 0  # the arm is in some of the pictures
