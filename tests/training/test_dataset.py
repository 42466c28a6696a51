"""Samples show what their labels say, and a seed always gives the same sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import Catalogue, load_robot, load_yaml
from qwen2vl_robot.fleet.here import Here
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import Verb
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.plant.scenes import draw_scene, load_scene
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.training.dataset import MIN_VISIBLE_PX, datagen_job, generate, sample_of_seed, token_grid
from qwen2vl_robot.training.questions import Mix, QuestionMaker
from qwen2vl_robot.training.shards import SeenObject, read_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples")
    (entry,) = generate(datagen_job("scenes/training.yaml", path, count=6, seed=777), Here(1))
    assert entry["samples"] == 6
    return path


def test_boxes_and_cells_lie_on_the_object(folder: Path) -> None:
    for packed in read_shards(folder):
        columns, rows = token_grid(*packed.size_px)
        for seen in (s for s in packed.seen if s.visible_px >= MIN_VISIBLE_PX):
            x0, y0, x1, y1 = seen.box
            assert 0 <= x0 < x1 <= 1000
            assert 0 <= y0 < y1 <= 1000
            for cell in seen.cells:
                column, row = cell % columns, cell // columns
                assert x0 < (column + 1) / columns * 1000 + 1
                assert x1 > column / columns * 1000 - 1
                assert y0 < (row + 1) / rows * 1000 + 1
                assert y1 > row / rows * 1000 - 1


def test_a_seed_makes_the_same_sample_again() -> None:
    ranges, catalogue = load_scene("scenes/training.yaml")
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(load_robot(ranges.robot))
        image, seen = sample_of_seed(world, ranges, catalogue, 5)
        sample_of_seed(world, ranges, catalogue, 6)
        again, seen_again = sample_of_seed(world, ranges, catalogue, 5)
    assert np.array_equal(image, again)
    assert seen == seen_again


def test_training_never_draws_a_held_out_pair() -> None:
    ranges, catalogue = load_scene("scenes/training.yaml")
    labels = {o.label for seed in range(200) for o in draw_scene(ranges, catalogue, seed).objects}
    assert not labels & set(catalogue.held_out)
    assert len(labels) == len(catalogue.colours) * len(catalogue.kinds) - len(catalogue.held_out)


def test_every_question_has_a_reply_that_the_contract_reads(folder: Path) -> None:
    catalogue = load_yaml(resolve("objects/catalogue.yaml"), Catalogue)
    maker = QuestionMaker(load_languages(), catalogue.held_out, Mix(foreign_ratio=0.5, failed_ratio=0.3))
    rng = np.random.default_rng(0)
    for packed in read_shards(folder):
        for absent in (True, False) * 20:
            question = maker.draw(packed.seen, rng, absent=absent)
            if question is not None:
                plan = parse_reply(question.reply)
                assert not absent or plan.actions[0].verb is Verb.ASK


def test_a_superlative_asks_for_every_box_so_that_geometry_decides_whose_left_it_is() -> None:
    seen = [
        SeenObject(f"{colour} block", (x, 100, x + 50, 150), (0,), 900)
        for colour, x in (("red", 500), ("blue", 100), ("green", 800))
    ]
    maker = QuestionMaker(load_languages(), references=("superlative",))
    drawn = [maker.draw(seen, np.random.default_rng(k), absent=False, task="pick", language="en") for k in range(40)]
    plans = [parse_reply(question.reply) for question in drawn if question is not None]
    wanted = [action.object for plan in plans for action in plan.actions if action.object is not None]
    assert all([box.x0 for box in reference.boxes] == [100, 500, 800] for reference in wanted)
    kinds = {reference.where.kind for reference in wanted if reference.where is not None}
    assert {"leftmost", "rightmost", "nearest", "farthest"} <= kinds


def test_the_wide_samples_show_what_the_languages_name() -> None:
    ranges, catalogue = load_scene("scenes/training_wide.yaml")
    english = load_languages()["en"]
    assert len(catalogue.colours) >= 11
    assert len(catalogue.kinds) >= 10
    assert (set(catalogue.colours), set(catalogue.kinds)) == (set(english.colours), set(english.kinds))
    assert {load_robot(name).name for name in ranges.other_robots} == {"kuka_iiwa", "xarm6"}
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(load_robot(ranges.robot))
        shown = [sample_of_seed(world, ranges, catalogue, seed) for seed in range(4)]
        bare = ranges.model_copy(update={"table_textures": ()})
        plain = [sample_of_seed(world, bare, catalogue, seed)[0] for seed in range(4)]
    assert all(seen for _, seen in shown)
    assert not all(np.array_equal(image, other) for (image, _), other in zip(shown, plain, strict=True))
