"""A node's settings: one table of what can be set, from a ROS parameter file or from `-p name:=value`.

`graph.ros` declares the same fields as ROS parameters, with these descriptions and bounds; launch/params.yaml explains
each.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, model_validator

from qwen2vl_robot.config import Strict, parse
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import ApprovalMode


class Settings(Strict):
    """What the controller node can be told; all of it is read once, when the node is configured."""

    robot: str = Field(default="franka_panda", description="a robot of sim/robots, or the path of a robot.yaml")
    model: str = Field(default="", description="checkpoint folder or hub name; empty: the shipped one")
    approval: ApprovalMode = Field(
        default=ApprovalMode.CONFIRM, description="auto, confirm (a person agrees to each step) or never"
    )
    approval_timeout_s: float = Field(default=60.0, gt=0.0, le=600.0, description="how long a person may take to agree")
    cameras: tuple[str, ...] = Field(
        default=("",),
        min_length=1,
        max_length=16,
        description="prefix of image, depth and camera_info of each camera, such as front/; the first one plans",
    )
    compressed: bool = Field(default=False, description="take image/compressed instead of image")
    calibrations: tuple[str, ...] = Field(
        default=("",),
        max_length=16,
        description="for each camera a YAML of qwen2vl-robot calibrate; empty: its pose comes from tf",
    )
    frame_timeout_s: float = Field(
        default=10.0, gt=0.0, le=120.0, description="wall time within which a fresh frame must come"
    )
    max_apart_s: float = Field(
        default=0.02, ge=0.0, le=1.0, description="how far the stamps of image and depth may lie apart"
    )
    clip_s: float = Field(
        default=0.0, ge=0.0, le=10.0, description="seconds before a frame that the planner is shown as video; 0: none"
    )
    max_state_age_s: float = Field(default=0.2, gt=0.0, le=2.0, description="older joint states are stale: no motion")
    rehearsal_budget_s: float = Field(
        default=60.0, gt=0.0, le=600.0, description="a rehearsal that takes longer is a refusal"
    )
    needs_description: bool = Field(
        default=False, description="no motion before robot_description agrees with the robot file"
    )
    worker_python: str = Field(default="", description="interpreter with pybullet for the twin; empty: this one")
    use_sim_time: bool = Field(default=False, description="take time from /clock")
    seed: int = Field(default=0, ge=0, description="draws of the path planner")

    @model_validator(mode="after")
    def _check_cameras(self) -> Settings:
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras: {', '.join(self.cameras)}; each prefix once")
        if len(self.calibrations) > len(self.cameras):
            raise ValueError(f"calibrations: {len(self.calibrations)} for {len(self.cameras)} cameras")
        return self


def load_settings(params_files: list[str], given: list[str], node: str) -> Settings:
    """Read ROS parameter files, each on top of the one before, then `name:=value` pairs.

    Raises:
        BadInputError: the file or a value cannot be used; one line says which and what is allowed.
    """
    values: dict[str, object] = {}
    for file in params_files:
        values |= _from_file(Path(file), node)
    for pair in given:
        name, found, value = pair.partition(":=")
        if not found:
            raise BadInputError(f"-p {pair}: the form is name:=value")
        values[name] = yaml.safe_load(value)
    return parse(values, Settings, ", ".join(params_files) or "parameters")


def _from_file(path: Path, node: str) -> dict[str, object]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    values: dict[str, object] = {}
    sections = data.items() if isinstance(data, dict) else ()
    for name, section in sections:
        if name == "/**" or str(name).rpartition("/")[2] == node:
            if not isinstance(section, dict) or not isinstance(section.get("ros__parameters"), dict):
                raise BadInputError(f"{path}: {name} needs ros__parameters: with the names and values below it")
            values |= section["ros__parameters"]
    return values
