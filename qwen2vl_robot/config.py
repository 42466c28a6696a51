"""YAML files → frozen, bounded pydantic models; unknown fields, NaN and out-of-range values are refused.

One clear line names the file, the field and what is allowed, and of a wrong value a short piece: the file may be one of
secrets that was named by mistake.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from qwen2vl_robot.bounds import BODIES, JOINTS, SRDF_PAIRS, URDF_CHARS, shown
from qwen2vl_robot.complaints import complaint
from qwen2vl_robot.description import LIVE, fill_limits, find_urdf, is_received
from qwen2vl_robot.documents import is_file, read_file, read_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.fields import NonNegative as NonNegative
from qwen2vl_robot.fields import Positive as Positive
from qwen2vl_robot.fields import Range as Range
from qwen2vl_robot.fields import Ratio as Ratio
from qwen2vl_robot.fields import Rgb as Rgb
from qwen2vl_robot.fields import Strict as Strict
from qwen2vl_robot.fields import Vector3 as Vector3
from qwen2vl_robot.gripper import Controllers as Controllers
from qwen2vl_robot.gripper import Gripper as Gripper
from qwen2vl_robot.gripper import GripperMount as GripperMount
from qwen2vl_robot.gripper import ToolMount as ToolMount
from qwen2vl_robot.joint_kinds import followers
from qwen2vl_robot.messages import digest
from qwen2vl_robot.mounting import add_link, compose
from qwen2vl_robot.resources import data_root
from qwen2vl_robot.sides import SeenFrom
from qwen2vl_robot.urdf_files import mesh_digests, usable_urdf

# ------------------------------------------------------------------------------------------------ robots


class JointLimits(Strict):
    """Limits of one arm joint; the robot file's `limits_source` names their origin."""

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


class Workspace(Strict):
    """The box that the tool must stay in, base frame, metres."""

    min_m: Vector3
    max_m: Vector3


class Uncertainty(Strict):
    """How far the truth may differ from a scene; perturbed roll-outs draw from it.

    Attributes:
        position_m, yaw_rad: standard deviation of each fitted pose, horizontally and about the vertical.
        size_m: each outer size varies within +- this.
        mass_ratio, friction_ratio: each value varies within +- this share.
        extrinsics_m, extrinsics_deg: magnitude of the camera pose's error; it shifts all objects alike.
        camera_distance_m: from the camera to the table; over it the angular error becomes an error of position.
        joint_rad: each joint has a constant error within +- this.
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
    """The limits of every motion in rehearsal, beyond those of the joints.

    Attributes:
        tool_speed_mps: largest speed of the tool.
        contact_n: largest contact force of arm or load with anything but the grasped object.
        things_below_m: things stand below this height over the table, so that nobody can vouch for space there.
        trials: perturbed roll-outs of each motion.
        success_ratio: the lower confidence bound of their success must reach this.
        confidence: of that one-sided bound.
    """

    tool_speed_mps: Positive = 1.7
    contact_n: Positive = 50.0
    things_below_m: NonNegative = 0.16
    trials: Annotated[int, Field(ge=1, le=1000)] = 16
    success_ratio: Ratio = 0.8
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    uncertainty: Uncertainty = Uncertainty()


Confirmable = Literal["limits", "tool_link", "gripper", "home", "allowed_contacts", "workspace"]


class RobotProfile(Strict):
    """A robot.yaml: everything that the code knows about an arm.

    Attributes:
        tool_link: URDF link whose frame is the tool frame: z approach direction, origin between the pads.
        limits_source: origin of the joints' limits.
        allowed_contacts: pairs of bodies (URDF links or "table") that may touch by design.
        srdf_contacts: further pairs of links, which the robot's SRDF disables; no finger may be one of them.
        tracking_tolerance_rad: largest distance of a joint from the motion while it runs.
        start_tolerance_rad: largest distance of a joint from the motion's start.
        object_mass_kg, object_friction: the twin's assumptions about objects.
        safety: the limits of every motion.
        unconfirmed: what `robot init` guessed and no person has compared with the robot yet; nothing moves before.
    """

    name: str
    urdf: str
    base_link: str
    tool_link: str
    joints: Annotated[tuple[JointLimits, ...], Field(max_length=JOINTS)]
    limits_source: str
    gripper: Gripper
    home_q_rad: tuple[float, ...]
    allowed_contacts: tuple[tuple[str, str], ...] = ()
    srdf_contacts: Annotated[tuple[tuple[str, str], ...], Field(max_length=SRDF_PAIRS)] = ()
    workspace: Workspace
    tracking_tolerance_rad: Positive = 0.15
    start_tolerance_rad: Positive = 0.02
    object_mass_kg: Positive = 0.1
    object_friction: Positive = 0.8
    safety: Safety = Safety()
    controllers: Controllers = Controllers()
    gripper_mount: GripperMount | None = None
    tool_mount: ToolMount | None = None
    unconfirmed: tuple[Confirmable, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fill_limits(cls, data: object) -> object:
        """Take the limits that a joint leaves out (position, velocity, effort) from the URDF."""
        return fill_limits(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _home_fits(self) -> RobotProfile:
        if len(self.home_q_rad) != len(self.joints):
            raise ValueError(f"home_q_rad has {len(self.home_q_rad)} values, the robot has {len(self.joints)} joints")
        for joint, q in zip(self.joints, self.home_q_rad, strict=True):
            if not joint.lower_rad <= q <= joint.upper_rad:
                raise ValueError(f"home of {joint.name} is {q} rad, allowed {joint.lower_rad} to {joint.upper_rad}")
        return self

    @model_validator(mode="after")
    def _fingers_are_checked(self) -> RobotProfile:
        kept = {*self.gripper.finger_links, "table"} & {link for pair in self.srdf_contacts for link in pair}
        if kept:
            raise ValueError(f"srdf_contacts: {shown(kept.pop())} is always checked; take its pairs out")
        return self

    @property
    def contacts_ignored(self) -> tuple[tuple[str, str], ...]:
        """Return every pair of bodies whose contact is none."""
        return self.allowed_contacts + self.srdf_contacts

    @property
    def urdf_path(self) -> Path:
        """Return the URDF's path; with a `gripper_mount` or `tool_mount`, the composed one's.

        Raises:
            BadInputError: a URDF or a mesh is missing.
        """
        path, mount, tool = find_urdf(self.urdf, self.name), self.gripper_mount, self.tool_mount
        if mount is not None:
            gripper = find_urdf(mount.urdf, self.name)
            path = compose(path, gripper, mount.parent_link, mount.xyz_m, mount.rpy_rad)
        if tool is not None:
            path = add_link(path, self.tool_link, tool.parent_link, tool.xyz_m, tool.rpy_rad)
        return usable_urdf(path)

    @property
    def digest(self) -> str:
        """Compute the SHA-256 of the profile, its URDF and its collision meshes."""
        return digest((self.model_dump_json(), read_file(self.urdf_path, URDF_CHARS), mesh_digests(self.urdf_path)))


def load_robot(name: str) -> RobotProfile:
    """Load sim/robots/NAME/robot.yaml, or a robot.yaml by its path.

    Raises:
        BadInputError: no such robot, a field of it is wrong, its URDF is of a kind that is not supported, or no person
            has confirmed all of it.
    """
    profile = load_unconfirmed_robot(name)
    if profile.unconfirmed:
        raise BadInputError(
            f"{shown(name)}: not confirmed yet: {', '.join(profile.unconfirmed)}; compare each with the robot, then "
            "take its name out of `unconfirmed`"
        )
    return profile


def load_unconfirmed_robot(name: str) -> RobotProfile:
    """Load a robot that nobody may move before a person has confirmed it (raises as `load_robot`)."""
    file = robot_file(name)
    profile = parse(_with_files_beside(_read_mapping(file), file.parent), RobotProfile, str(file))
    if profile.urdf != LIVE or is_received():
        followers(profile)
    return profile


def _with_files_beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the paths of URDFs that lie beside a robot file absolute."""
    mount, urdf = data.get("gripper_mount"), data.get("urdf")
    if isinstance(urdf, str) and is_file(folder / urdf):
        data = {**data, "urdf": str((folder / urdf).resolve())}
    return {**data, "gripper_mount": _with_files_beside(mount, folder)} if isinstance(mount, dict) else data


def robot_file(name: str) -> Path:
    """Find a robot's file by its name or path.

    Raises:
        BadInputError: no such robot.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else data_root() / "sim" / "robots" / name / "robot.yaml"
    if not is_file(path):
        known = sorted(p.parent.name for p in (data_root() / "sim" / "robots").glob("*/robot.yaml"))
        raise BadInputError(f"robot {shown(name)!r}: no file {shown(path)}; known robots: {', '.join(known)}")
    return path


# ------------------------------------------------------------------------------------------------- tasks


class RelationRules(Strict):
    """sim/tasks/relations.yaml: what "left of", "on" and "in" mean, by geometry alone.

    Attributes:
        seen_from: whose left and right count, those of the planning camera's picture or the robot's own.
        gap_m: free space to leave between two objects placed beside each other.
        max_gap_m: with more free space than this, objects are not "beside" each other.
        max_angle_deg: largest angle between the direction from the reference and the requested one.
        support_tolerance_m: largest height between an object's bottom and the top of its support.
        rest_speed_mps: an object slower than this is at rest.
    """

    seen_from: SeenFrom = SeenFrom.PICTURE
    gap_m: Positive
    max_gap_m: Positive
    max_angle_deg: Positive
    support_tolerance_m: Positive
    rest_speed_mps: Positive


class Phrasing(Strict):
    """Sentence templates of one task; training does not see the held-out ones."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------- scenes of the plant


class Faults(Strict):
    """The plant's deviations from its own description; the defaults are the smallest that demo and eval use.

    Attributes:
        extrinsics_error_m, extrinsics_error_deg: magnitude of the published camera pose's random error.
        friction_spread_ratio, mass_spread_ratio: each body's value varies within +- this share.
        actuation_lag_s: delay between a command and its effect on the arm.
        gripper_speed_ratio: speed of the fingers as a share of what the robot file says.
    """

    extrinsics_error_m: NonNegative = 0.003
    extrinsics_error_deg: NonNegative = 0.3
    friction_spread_ratio: Ratio = 0.3
    mass_spread_ratio: Ratio = 0.3
    actuation_lag_s: NonNegative = 0.04
    gripper_speed_ratio: Positive = 1.0


class CameraRanges(Strict):
    """Ranges of the pose around `target_m` ± `target_spread_m`; azimuth 0 faces the robot. `model`: how it errs."""

    model: str = "ideal"
    sizes_px: tuple[tuple[Annotated[int, Field(ge=28, le=4096)], Annotated[int, Field(ge=28, le=4096)]], ...]
    vertical_fov_deg: Range
    azimuth_deg: Range
    elevation_deg: Range
    distance_m: Range
    target_m: Vector3
    target_spread_m: NonNegative = 0.02


class LightRanges(Strict):
    """Ranges of the light's elevation and of its ambient and diffuse share."""

    elevation_deg: Range
    ambient: Range
    diffuse: Range


class KindRanges(Strict):
    """A kind of object (sim/objects): its shape and the ranges of its sizes.

    Attributes:
        shape: "box", "cylinder", "sphere", "bowl" (a round container) or "mesh".
        side_m: a box's sides, each drawn from it; the first one is then multiplied by `stretch`.
        diameter_m, height_m: of the other shapes; a mesh has a height only.
        file: a mesh's OBJ file in pybullet_data.
        finish: a real camera loses depth on what is shiny or clear.
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
    finish: Literal["matt", "shiny", "clear"] = "matt"


class Catalogue(Strict):
    """sim/objects/catalogue.yaml: the colours and kinds of the simulated objects.

    Attributes:
        colours: word → sRGB.
        kinds: noun → ranges.
        held_out: "colour kind" pairs that training never sees.
    """

    colours: dict[str, Rgb]
    kinds: dict[str, KindRanges]
    held_out: tuple[str, ...] = ()


class ObjectSpec(Strict):
    """An object that a scene always has; the seed draws a position or yaw that is left out."""

    colour: str
    kind: str
    position_m: tuple[float, float] | None = None
    yaw_deg: float | None = None


class SceneRanges(Strict):
    """A scene file of sim/scenes: ranges from which a seed draws one concrete plant.

    Attributes:
        other_robots, table_textures: arms and pictures of pybullet_data for arm and table in some training pictures.
        around: what else is in the room; nobody asks for it, and no score counts it.
        table_waves_m: from the deepest valley of the table's top to its highest place, as depth shows it.
    """

    robot: str = "franka_panda"
    other_robots: tuple[str, ...] = ()
    table_textures: tuple[str, ...] = ()
    catalogue: str = "objects/catalogue.yaml"
    always: Annotated[tuple[ObjectSpec, ...], Field(max_length=BODIES)] = ()
    count: tuple[Annotated[int, Field(ge=0, le=20)], Annotated[int, Field(ge=0, le=20)]]
    area_min_m: tuple[float, float]
    area_max_m: tuple[float, float]
    gap_m: NonNegative
    table_colours: tuple[Rgb, ...]
    camera: CameraRanges
    light: LightRanges
    home_spread_rad: NonNegative = 0.0
    faults: Faults = Faults()
    around: tuple[Literal["wall", "chair", "clutter", "hand", "backdrop"], ...] = ()
    table_waves_m: Annotated[float, Field(ge=0.0, le=0.03)] = 0.0


# --------------------------------------------------------------------------------------------- the files

Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into its model.

    Raises:
        BadInputError: the file is missing, unreadable or not YAML, or a field is wrong; one line says which and what is
            allowed.
    """
    return parse(_read_mapping(path), model, str(path))


def _read_mapping(path: Path) -> dict[str, Any]:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise BadInputError(f"{shown(path)}: a mapping is needed, found {type(data).__name__}")
    return data


def parse(data: object, model: type[Model], origin: str) -> Model:
    """Validate loaded data; `origin` names them in errors.

    Raises:
        BadInputError: one line with the first wrong field, its value and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise BadInputError(f"{shown(origin)}: {complaint(error, data, model)}") from error
