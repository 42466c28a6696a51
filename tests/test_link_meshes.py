"""A mesh is taken only where two readers agree on where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.link_meshes import read_triangles

CORNERS = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.3]])
ONE = np.ones(3)


def obj(folder: Path, text: str) -> Path:
    file = folder / "link.obj"
    file.write_text("".join(f"v {x} {y} {z}\n" for x, y, z in CORNERS) + text, encoding="utf-8")
    return file


def test_pieces_of_several_materials_keep_their_own_corners(tmp_path: Path) -> None:
    file = obj(tmp_path, "o one\nusemtl a\nf 1 2 3\nusemtl b\nf 1 2 4\n")
    found = read_triangles(file, ONE, CORNERS)
    assert sorted(t.tolist() for t in found) == sorted(t.tolist() for t in CORNERS[[[0, 1, 2], [0, 1, 3]]])


def test_a_files_numbers_are_scaled_to_metres(tmp_path: Path) -> None:
    found = read_triangles(obj(tmp_path, "f 1 2 3\nf 1 2 4\n"), 0.001 * ONE, 0.001 * CORNERS)
    assert found.max() == pytest.approx(0.0003)


@pytest.mark.parametrize(
    ("text", "corners_m", "message"),
    [
        ("f 1 2 3\nf 1 2 4\n", 1000 * CORNERS, "two readers of meshes disagree by 299700 mm"),
        ("f 1 2 3\nf 1 2 4\n", CORNERS[:, [0, 2, 1]], "two readers of meshes disagree by 100 mm"),
        ("f 1 2 3\nf 1 2 4\n", np.full((4, 3), np.nan), "holds numbers that are not finite"),
        ("", CORNERS, "link.obj: "),
    ],
    ids=["unit", "upward axis", "not a number", "no triangles"],
)
def test_what_two_readers_do_not_agree_on_is_refused(
    tmp_path: Path, text: str, corners_m: np.ndarray, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        read_triangles(obj(tmp_path, text), ONE, corners_m)


def test_a_file_that_is_no_mesh_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "link.dae"
    file.write_text("<COLLADA>", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"link\.dae: cannot be read as a mesh"):
        read_triangles(file, ONE, CORNERS)
