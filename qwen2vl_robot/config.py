"""YAML files → frozen, bounded pydantic models; unknown fields, NaN and out-of-range values are refused.

One clear line names the file, the field, the value and what is allowed.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qwen2vl_robot.description import compose, fill_limits, find_urdf, mesh_digests
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import digest
from qwen2vl_robot.resources import data_root

Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Vector3 = tuple[float, float, float]
Rgb = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]
Range = tuple[float, float]


class Strict(BaseModel):
    """Base of every configuration model: frozen, no unknown fields, no NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ------------------------------------------------------------------------------------------------ robots


class JointLimits(Strict):
    """Limits of one joint. `source` says where the numbers come from."""

    name: str
    lower_rad: float
    upper_rad: float
    velocity_radps: Positive
    acceleration_radps2: Positive
    jerk_radps3: Positive
    effort_nm: Positive

    @model_validator(mode="after")
    def _lower_below_upper(self) -> JointLimits:
        if self.lower_rad >= self.upper_rad:
            raise ValueError(f"lower_rad {self.lower_rad} must be below upper_rad {self.upper_rad}")
        return self


class Gripper(Strict):
    """A parallel gripper.

    Attributes:
        joints: finger joints, each moving half of the width.
        finger_links: links whose contact with an object is a grasp; first left, then right.
        max_width_m: largest opening between the pads.
        speed_mps: opening speed of the width.
        force_n: grasp force of each finger.
        pad_depth_m: how far the fingertips reach beyond the tool frame's origin along the approach (tool z).
        finger_thickness_m: thickness of a finger, along the closing direction.
        closing_axis: tool-frame axis along which the fingers close.
    """

    joints: tuple[str, ...]
    finger_links: tuple[str, str]
    max_width_m: Positive
    speed_mps: Positive
    force_n: Positive
    pad_depth_m: NonNegative
    finger_thickness_m: Positive
    closing_axis: Literal["x", "y"]


class Workspace(Strict):
    """Where the tool may go, base frame, metres."""

    min_m: Vector3
    max_m: Vector3


class Uncertainty(Strict):
    """How far the truth may lie from what a scene says; perturbed roll-outs draw from it.

    Attributes:
        position_m, yaw_rad: standard deviation of each fitted pose, horizontally and about the vertical.
        size_m: each outer size is drawn within +- this.
        mass_ratio, friction_ratio: each value is drawn within +- this share.
        extrinsics_m, extrinsics_deg: length of the camera's error; it shifts everything alike.
        camera_distance_m: from the camera to the table, over which its error of angle becomes one of place.
        joint_rad: each joint is off by a constant drawn within +- this.
    """

    position_m: NonNegative = 0.0015
    yaw_rad: NonNegative = 0.015
    size_m: NonNegative = 0.002
    mass_ratio: Ratio = 0.3
    friction_ratio: Ratio = 0.3
    extrinsics_m: NonNegative = 0.003
    extrinsics_deg: NonNegative = 0.3
    camera_distance_m: NonNegative = 0.9
    joint_rad: NonNegative = 0.001


class Safety(Strict):
    """What a rehearsal holds a motion to, beyond the joints' own limits.

    Attributes:
        tool_speed_mps: of the tool, everywhere.
        contact_n: hardest contact of arm or load with anything but what is grasped.
        unseen_below_m: space that no camera has seen counts as occupied below this height over the table.
        trials: perturbed roll-outs of each motion.
        success_ratio: the lower confidence bound of their success must reach this.
        confidence: of that one-sided bound.
    """

    tool_speed_mps: Positive = 1.7
    contact_n: Positive = 50.0
    unseen_below_m: NonNegative = 0.08
    trials: Annotated[int, Field(ge=1, le=1000)] = 16
    success_ratio: Ratio = 0.8
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    uncertainty: Uncertainty = Uncertainty()


class GripperMount(Strict):
    """A gripper of its own URDF on an arm that comes without one; its root link sits on `parent_link`."""

    urdf: str
    parent_link: str
    xyz_m: Vector3 = (0.0, 0.0, 0.0)
    rpy_rad: Vector3 = (0.0, 0.0, 0.0)


class Controllers(Strict):
    """ros2_control's names on the graph; an arm on the graph uses them, the simulation without a graph does not.

    Attributes:
        arm: prefix of `follow_joint_trajectory` (action) or `joint_trajectory` (topic, which gives no feedback).
        gripper: prefix of `gripper_cmd` (GripperCommand, or ParallelGripperCommand) or of the topic `commands`.
    """

    arm: str = "joint_trajectory_controller"
    arm_form: Literal["action", "topic"] = "action"
    gripper: str = "gripper_controller"
    gripper_form: Literal["action", "parallel_action", "topic"] = "action"


class RobotProfile(Strict):
    """A robot.yaml: everything the code may know about an arm.

    Attributes:
        tool_link: URDF link whose frame is the tool frame: z approach direction, origin between the pads.
        allowed_contacts: pairs of bodies (URDF links or "table") whose touching is part of the design.
        camera_noise: what perception may assume about the camera when it sets tolerances.
        object_mass_kg, object_friction: the twin's assumption where a scene gives none.
        safety: what every motion is held to.
    """

    name: str
    urdf: str
    base_link: str
    tool_link: str
    joints: tuple[JointLimits, ...]
    limits_source: str
    gripper: Gripper
    home_q_rad: tuple[float, ...]
    allowed_contacts: tuple[tuple[str, str], ...] = ()
    workspace: Workspace
    tracking_tolerance_rad: Positive = 0.15
    start_tolerance_rad: Positive = 0.02
    object_mass_kg: Positive = 0.1
    object_friction: Positive = 0.8
    safety: Safety = Safety()
    controllers: Controllers = Controllers()
    gripper_mount: GripperMount | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_limits(cls, data: object) -> object:
        """Take what a joint leaves out (position, velocity, effort) from the URDF."""
        return fill_limits(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _home_fits(self) -> RobotProfile:
        if len(self.home_q_rad) != len(self.joints):
            raise ValueError(f"home_q_rad has {len(self.home_q_rad)} values, the robot has {len(self.joints)} joints")
        for joint, q in zip(self.joints, self.home_q_rad, strict=True):
            if not joint.lower_rad <= q <= joint.upper_rad:
                raise ValueError(f"home of {joint.name} is {q} rad, allowed {joint.lower_rad} to {joint.upper_rad}")
        return self

    @property
    def urdf_path(self) -> Path:
        path = find_urdf(self.urdf, self.name)
        mount = self.gripper_mount
        if mount is None:
            return path
        gripper = find_urdf(mount.urdf, self.name)
        return compose(path, gripper, mount.parent_link, mount.xyz_m, mount.rpy_rad)

    @property
    def digest(self) -> str:
        """SHA-256 over the profile, the bytes of its URDF and those of its collision meshes."""
        return digest((self.model_dump_json(), self.urdf_path.read_bytes(), mesh_digests(self.urdf_path)))


def load_robot(name: str) -> RobotProfile:
    """Load sim/robots/NAME/robot.yaml, or a robot.yaml by its path.

    Raises:
        BadInputError: no such robot, or a field of it is wrong.
    """
    return load_yaml(robot_file(name), RobotProfile)


def robot_file(name: str) -> Path:
    """Where a robot's file is.

    Raises:
        BadInputError: no such robot.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else data_root() / "sim" / "robots" / name / "robot.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in (data_root() / "sim" / "robots").glob("*/robot.yaml"))
        raise BadInputError(f"robot {name!r}: no file {path}; known robots: {', '.join(known)}")
    return path


# ------------------------------------------------------------------------------------------------- tasks


class RelationRules(Strict):
    """sim/tasks/relations.yaml: what "left of", "on" and "in" mean, by geometry alone.

    Attributes:
        seen_from: whose left and right are meant.
        gap_m: free space to leave between two objects placed beside each other.
        max_gap_m: a larger free space than this is no longer "beside".
        max_angle_deg: how far the direction from the reference may turn from the asked one.
        support_tolerance_m: how far a bottom may lie from the top that it should stand on.
        rest_speed_mps: an object slower than this rests.
    """

    seen_from: Literal["robot", "camera"] = "robot"
    gap_m: Positive
    max_gap_m: Positive
    max_angle_deg: Positive
    support_tolerance_m: Positive
    rest_speed_mps: Positive


class Phrasing(Strict):
    """Templates for one thing to ask."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------- scenes of the plant


class Faults(Strict):
    """How far the plant is from its own description; the defaults are the kindest that demo and eval use.

    Attributes:
        depth_noise_m: standard deviation of each depth pixel.
        depth_hole_ratio: share of pixels without depth.
        extrinsics_error_m, extrinsics_error_deg: length of the random error of the published camera pose.
        friction_spread_ratio, mass_spread_ratio: each body's value is drawn within +- this share.
        actuation_lag_s: delay between a command and the arm's answer to it.
    """

    depth_noise_m: NonNegative = 0.002
    depth_hole_ratio: Ratio = 0.01
    extrinsics_error_m: NonNegative = 0.003
    extrinsics_error_deg: NonNegative = 0.3
    friction_spread_ratio: Ratio = 0.3
    mass_spread_ratio: Ratio = 0.3
    actuation_lag_s: NonNegative = 0.04


class CameraRanges(Strict):
    """From where the camera looks at the table; azimuth 0 faces the robot, seen about `target_m`."""

    sizes_px: tuple[tuple[Annotated[int, Field(ge=28, le=4096)], Annotated[int, Field(ge=28, le=4096)]], ...]
    vertical_fov_deg: Range
    azimuth_deg: Range
    elevation_deg: Range
    distance_m: Range
    target_m: Vector3


class LightRanges(Strict):
    elevation_deg: Range
    ambient: Range
    diffuse: Range


class KindRanges(Strict):
    """A kind of object (sim/objects): its shape and the ranges of its sizes.

    Attributes:
        shape: "box", "cylinder", "sphere", "bowl" (a round container) or "mesh", as the plant builds it.
        side_m: of a box, drawn for each side; its length is the longer one's `stretch` times that.
        diameter_m, height_m: of the others; a mesh has its height alone, and its OBJ file in pybullet_data.
    """

    shape: Literal["box", "cylinder", "sphere", "bowl", "mesh"]
    side_m: Range | None = None
    stretch: Positive = 1.0
    file: str | None = None
    diameter_m: Range | None = None
    height_m: Range | None = None
    wall_m: Positive | None = None
    mass_kg: Positive = 0.1
    friction: Positive = 0.8
    rolling_friction: NonNegative = 0.0
    can_be_picked: bool = True


class Catalogue(Strict):
    """sim/objects/catalogue.yaml: the words that the simulated tabletop is made of.

    Attributes:
        colours: word → sRGB.
        kinds: noun → ranges.
        held_out: "colour kind" pairs that training never sees.
    """

    colours: dict[str, Rgb]
    kinds: dict[str, KindRanges]
    held_out: tuple[str, ...] = ()


class ObjectSpec(Strict):
    """An object that a scene always holds; what is left out is drawn from the seed."""

    colour: str
    kind: str
    position_m: tuple[float, float] | None = None
    yaw_deg: float | None = None


class SceneRanges(Strict):
    """A scene file of sim/scenes: ranges from which a seed draws one concrete plant.

    Attributes:
        other_robots: arms that stand there instead in some of the training's pictures.
        table_textures: pictures of pybullet_data that may lie over the table in some of the training's pictures.
    """

    robot: str = "franka_panda"
    other_robots: tuple[str, ...] = ()
    table_textures: tuple[str, ...] = ()
    catalogue: str = "objects/catalogue.yaml"
    always: tuple[ObjectSpec, ...] = ()
    count: tuple[Annotated[int, Field(ge=0, le=20)], Annotated[int, Field(ge=0, le=20)]]
    area_min_m: tuple[float, float]
    area_max_m: tuple[float, float]
    gap_m: NonNegative
    table_colours: tuple[Rgb, ...]
    camera: CameraRanges
    light: LightRanges
    home_spread_rad: NonNegative = 0.0
    faults: Faults = Faults()


# --------------------------------------------------------------------------------------------- the files

Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read one YAML file into its model.

    Raises:
        BadInputError: missing, unreadable, not YAML, or a field is wrong; one line says which and what is allowed.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(data, dict):
        raise BadInputError(f"{path}: a mapping is needed, found {type(data).__name__}")
    return parse(data, model, str(path))


def parse(data: object, model: type[Model], origin: str) -> Model:
    """Validate already loaded data.

    Raises:
        BadInputError: one line with the first wrong field, its value and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelt key first: that the right one is missing only follows from it.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in first["loc"]) or "file"
        value = repr(first.get("input"))
        shown = value if len(value) <= 80 else value[:77] + "..."
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        allowed = ""
        if first["type"] == "extra_forbidden":
            known = _allowed_fields(model, first["loc"])
            close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
            allowed = "".join(f"; did you mean {name}?" for name in close) + f"; allowed here: {', '.join(known)}"
        raise BadInputError(f"{origin}: {where} = {shown}: {first['msg']}{allowed}{more}") from error


def _allowed_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names that the model at the parent of `location` knows (the root's when it cannot be told)."""
    current: type[BaseModel] = model
    for part in location[:-1]:
        field = current.model_fields.get(str(part))
        current = (_inner_model(field.annotation) if field else None) or current
    return sorted(current.model_fields)


def _inner_model(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation holds, be it in a tuple, a dict or an optional."""
    parts = get_args(annotation)
    if not parts and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for part in parts if (inner := _inner_model(part))), None)
