"""Meshes stand upright about the origin, and what is no mesh is one clear line."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import Catalogue, load_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.meshes import Mesh, triangles
from qwen2vl_robot.resources import resolve

FILES = [k.file for k in load_yaml(resolve("objects/catalogue_wide.yaml"), Catalogue).kinds.values() if k.file]


@pytest.mark.parametrize("file", FILES)
def test_a_mesh_is_as_high_as_it_should_be(file: str) -> None:
    points, normals, indices = triangles(file)
    assert points[:, 2].min() == pytest.approx(-0.5)
    assert points[:, 2].max() == pytest.approx(0.5)
    np.testing.assert_allclose(points.min(axis=0) + points.max(axis=0), 0.0, atol=1e-9)
    assert Mesh(file, 0.08).size_m[2] == pytest.approx(0.08)
    assert len(normals) == len(points) > max(indices)


def test_a_mesh_collides_as_its_hull() -> None:
    with BulletWorld() as world:
        world.add_table()
        world.add_body("duck", Mesh("duck.obj", 0.08), make_pose([0.5, 0.0, 0.05]), mass_kg=0.1)
        world.step(480)
        assert 0.0 < world.pose("duck")[2, 3] < 0.06


@pytest.mark.parametrize("file", ["nothing.obj", "duckCM.png", "duck.mtl"])
def test_what_is_no_mesh_is_named(file: str) -> None:
    with pytest.raises(BadInputError, match=file):
        triangles(file)
