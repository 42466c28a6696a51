"""The public surface is what it says, costs nothing to import, and the scripts of docs/library.md run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qwen2vl_robot

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
SCRIPTS = ("own_picture.py", "own_camera_and_arm.py")


def run(*arguments: str) -> str:
    """Run Python in the root as a user would; what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    for name in qwen2vl_robot.__all__:
        found = getattr(qwen2vl_robot, name)
        assert name == "__version__" or found.__doc__, name


def test_every_public_name_stands_on_the_page() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert set(qwen2vl_robot.__all__) - {"__version__"} <= named


def test_what_is_not_public_is_said_with_what_is() -> None:
    with pytest.raises(AttributeError, match="perceive"):
        _ = qwen2vl_robot.no_such_name


def test_the_import_loads_nothing_heavy() -> None:
    heavy = ["numpy", "torch", "pybullet", "pydantic", "cv2", "pinocchio", "transformers"]
    code = f"import sys, qwen2vl_robot; print([name for name in {heavy} if name in sys.modules])"
    assert run("-c", code) == "[]"


def test_the_version_is_that_of_the_package() -> None:
    assert f'version="{qwen2vl_robot.__version__}"' in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_the_page_shows_the_scripts_as_they_are() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert blocks == [(ROOT / "examples" / name).read_text(encoding="utf-8") for name in SCRIPTS]


def test_somebodys_own_picture_is_planned_measured_and_rehearsed() -> None:
    told = run("examples/own_picture.py")
    assert "['pick red block']" in told
    assert "accepted Trials(count=16" in told


def test_an_arm_that_moves_nothing_in_the_picture_has_not_achieved_anything() -> None:
    assert run("examples/own_camera_and_arm.py") == "no_motion; red block is still where it was"


def test_anybodys_motions_are_refused_by_name_and_chunks_get_partial_verdicts() -> None:
    told = run("examples/anybodys_motion.py").splitlines()
    assert "collision: obstacle 1 with" in told[0]
    assert "joint_velocity: panda_joint1" in told[1]
    assert told[2].startswith("another robot: refused; joints elbow")
    assert told[3].startswith("a turn, run: ")
    assert [line.split(":")[0] for line in told[4::2]] == ["LeRobot", "openpi"]
