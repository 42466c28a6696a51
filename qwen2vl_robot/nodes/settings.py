"""ROS parameter files and `-p name:=value` → the settings of the controller node and of the voice node.

`graph.lifecycle` declares the same fields as ROS parameters, with these descriptions and bounds; launch/params.yaml
explains each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from qwen2vl_robot.bounds import NAME_CHARS, PICTURES, SOUND_CHANNELS, SOUND_LEAST_HZ, SOUND_MOST_HZ, shown
from qwen2vl_robot.config import Strict, parse
from qwen2vl_robot.documents import parse_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import ApprovalMode
from qwen2vl_robot.nodes.joints import MAX_GRIPPER_AGE_S
from qwen2vl_robot.nodes.parameters import read_parameters
from qwen2vl_robot.sides import SeenFrom

_Kind = TypeVar("_Kind", bound=Strict)
_Text = Annotated[str, Field(max_length=NAME_CHARS)]


class Settings(Strict):
    """The controller node's parameters; they are read once, when the node is configured."""

    robot: _Text = Field(default="franka_panda", description="a robot of sim/robots, or the path of a robot.yaml")
    rules: _Text = Field(
        default="rules/default.yaml", description="the cell's rules: a file of sim, or the path of one"
    )
    model: _Text = Field(default="", description="checkpoint folder or hub name; empty: the shipped checkpoint")
    seen_from: Literal["", "picture", "robot"] = Field(
        default="", description="whose left and right count, picture or robot; empty: as tasks/relations.yaml says"
    )
    approval: ApprovalMode = Field(
        default=ApprovalMode.CONFIRM, description="auto, confirm (a person approves each step) or never"
    )
    approval_timeout_s: float = Field(
        default=60.0, gt=0.0, le=600.0, description="how long a person may take to approve"
    )
    cameras: tuple[_Text, ...] = Field(
        default=("",),
        min_length=1,
        max_length=PICTURES,
        description="each camera's prefix of image, depth and camera_info, such as front/; the first one is planned on",
    )
    compressed: bool = Field(default=False, description="subscribe to image/compressed instead of image")
    compressed_depth: bool = Field(default=False, description="subscribe to depth/compressedDepth instead of depth")
    pictures: Literal["by_name", "raw", "rectified"] = Field(
        default="by_name", description="which pictures image and depth carry; by_name: as the topics' names say"
    )
    calibrations: tuple[_Text, ...] = Field(
        default=("",),
        max_length=PICTURES,
        description="for each camera a file of qwen2vl-robot calibrate; empty: tf gives its pose",
    )
    camera_check: Literal["report", "required"] = Field(
        default="report", description="a camera that the arm does not confirm: report moves all the same, required not"
    )
    frame_timeout_s: float = Field(
        default=10.0, gt=0.0, le=120.0, description="a fresh frame must come within this wall time"
    )
    max_apart_s: float = Field(
        default=0.02, ge=0.0, le=1.0, description="largest difference between the stamps of image and depth"
    )
    clip_s: float = Field(
        default=0.0, ge=0.0, le=10.0, description="seconds of video before a frame that the planner gets; 0: none"
    )
    max_state_age_s: float = Field(default=0.2, gt=0.0, le=2.0, description="older joint states are stale: no motion")
    max_gripper_age_s: float = Field(
        default=MAX_GRIPPER_AGE_S, gt=0.0, le=2.0, description="finger joints may be that much older than the arm's"
    )
    silence_s: float = Field(
        default=0.25,
        ge=0.1,
        le=2.0,
        description="controller and supervisor: a longer silence of the other one halts the arm",
    )
    rehearsal_budget_s: float = Field(
        default=60.0, gt=0.0, le=600.0, description="a rehearsal that takes longer refuses the motion"
    )
    needs_description: bool = Field(
        default=False, description="take no instruction before a robot_description has come that fits the robot file"
    )
    worker_python: _Text = Field(
        default="", description="the Python that has pybullet, for the twin; empty: the node's own"
    )
    record: _Text = Field(
        default="", description="a folder for a bag of every decision, which `replay` runs again; empty: none"
    )
    on_disk_error: Literal["stop", "go_on"] = Field(
        default="stop", description="a bag that cannot be written: stop (and latch it), or go_on without"
    )
    use_sim_time: bool = Field(default=False, description="take time from /clock")
    seed: int = Field(default=0, ge=0, description="seed of the path planner")

    @property
    def whose_sides(self) -> SeenFrom | None:
        """Return `seen_from`, None where it is left to tasks/relations.yaml."""
        return SeenFrom(self.seen_from) if self.seen_from else None

    @model_validator(mode="after")
    def _check_cameras(self) -> Settings:
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras: {', '.join(self.cameras)}; each prefix once")
        if len(self.calibrations) > len(self.cameras):
            raise ValueError(f"calibrations: {len(self.calibrations)} for {len(self.cameras)} cameras")
        return self


class VoiceSettings(Strict):
    """The voice node's parameters."""

    recogniser: _Text = Field(
        default="auto", description="pocketsphinx, a Whisper checkpoint's folder or hub name, or auto"
    )
    rate_hz: int = Field(
        default=16_000, ge=SOUND_LEAST_HZ, le=SOUND_MOST_HZ, description="of the microphone or of standard input"
    )
    channels: int = Field(default=1, ge=1, le=SOUND_CHANNELS, description="of the microphone or of standard input")
    speaks: bool = Field(default=False, description="say questions and refusals aloud, with espeak-ng")


def load_settings(params_files: list[str], given: list[str], *nodes: str) -> Settings:
    """Read the controller's settings, as `load_parameters` does."""
    return load_parameters(Settings, params_files, given, *nodes)


def load_parameters(kind: type[_Kind], params_files: list[str], given: list[str], *nodes: str) -> _Kind:
    """Read ROS parameter files, then `name:=value` pairs; later values replace earlier ones.

    Args:
        kind: the node's parameters.
        nodes: full names of the nodes whose sections count; those of a later one count more.

    Raises:
        BadInputError: a file or a value cannot be used; one line says which and what is allowed.
    """
    values: dict[str, object] = {}
    for file in params_files:
        for node in nodes:
            values |= read_parameters(Path(file), node, kind.model_fields)
    for pair in given:
        name, separator, value = pair.partition(":=")
        if not separator:
            raise BadInputError(f"-p {shown(pair)}: the form is name:=value")
        values[name] = parse_yaml(value, f"-p {shown(name)}")
    return parse(values, kind, ", ".join(params_files) or "parameters")
