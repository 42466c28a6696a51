"""A robot and its scenes that ask for four perturbed runs a motion, for tests that are about something else.

All four must succeed, and everything else is as shipped; each suite has a test with the robot as it is, too.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import yaml

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.resources import data_root

FEW_TRIALS = {"trials": 4, "success_ratio": 0.45}  # of 4 successes, 0.47 is the lower bound at 95%


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="quick-")


@functools.cache
def quick_robot(name: str = "franka_panda") -> Path:
    """Write the robot's file."""
    as_shipped = load_robot(name)
    described = as_shipped.model_dump(mode="json")
    described["safety"] |= FEW_TRIALS
    return _written(f"{name}.yaml", described)


@functools.cache
def quick_scene(name: str = "tabletop") -> str:
    """Write the file of the same scene with that robot."""
    drawn = yaml.safe_load((data_root() / "sim" / "scenes" / f"{name}.yaml").read_text(encoding="utf-8"))
    return str(_written(f"scene-{name}.yaml", {**drawn, "robot": str(quick_robot(drawn["robot"]))}))


def _written(name: str, content: object) -> Path:
    file = Path(_folder().name) / name
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file
