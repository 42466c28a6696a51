"""The frozen messages between the steps, in the order in which the flow makes them.

SI units, radians, ns; poses `T_ref_target`; boxes 0..1000 of the image's width and height. Arrays are read-only.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Union

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import INSTRUCTION_CHARS
from qwen2vl_robot.camera_verdict import CameraChecked
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array, deproject, intersection_over_union, read_only, transform
from qwen2vl_robot.guarded import Guarded
from qwen2vl_robot.reasons import AnyReason, ViolationKind
from qwen2vl_robot.sides import SeenFrom, Sides
from qwen2vl_robot.spots import Spot

# ---------------------------------------------------------------------------------------------- observe


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera without distortion, pixels."""

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float


CLIP_STEP_S = 0.5  # between two pictures of a clip: Qwen2-VL was trained on two a second


@dataclass(frozen=True, slots=True, eq=False)
class CameraFrame:
    """One synchronised RGB-D frame.

    Attributes:
        rgb: (h, w, 3) uint8.
        depth_m: (h, w) float32 along the optical axis, registered to rgb; NaN where missing.
        T_base_camera: (4, 4) optical frame as calibrated (not as it truly is).
        others: what further cameras saw then; the scene is measured from this frame, and the gate compares them all.
        clip: pictures (h, w, 3) of the seconds before, the oldest first, CLIP_STEP_S apart; mostly none.
    """

    stamp_ns: int
    rgb: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    intrinsics: Intrinsics
    T_base_camera: Array
    others: tuple[CameraFrame, ...] = ()
    clip: tuple[npt.NDArray[np.uint8], ...] = ()

    def points_base_m(self) -> Array:
        """Points (h, w, 3) in the base frame, NaN where depth is missing."""
        k = self.intrinsics
        return transform(self.T_base_camera, deproject(self.depth_m, k.fx_px, k.fy_px, k.cx_px, k.cy_px))


@dataclass(frozen=True, slots=True, eq=False)
class RobotState:
    """Measured arm state; joints in robot-file order.

    Attributes:
        q_rad, dq_radps: (n,).
        gripper_width_m: opening between the finger pads.
        held: name of the scene object believed to be in the gripper, or None.
        effort_nm: (n,) measured torques of the joints, None where the robot tells none.
    """

    stamp_ns: int
    q_rad: Array
    dq_radps: Array
    gripper_width_m: float
    held: str | None = None
    effort_nm: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the controller knows of the world at one moment; a plan's boxes are in the frame's picture."""

    frame: CameraFrame
    robot: RobotState


# ------------------------------------------------------------------------------------------------- plan


class InstructionSource(str, Enum):
    TEXT = "text"
    VOICE = "voice"
    AGENT = "agent"  # software that speaks for a person, and may repeat what it read anywhere
    CHECK = "check"  # nobody's words
    TRAJECTORY = "trajectory"  # no words: a motion that somebody else made


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a person asked for, in the person's words: checked here, where it is made, and nowhere else.

    Attributes:
        text: in composed letters (NFC), without white space around it.
        plainly: what of it is to be done, as it was read, in the plainest words: a sentence for each deed; none where
            it was not read whole.
        is_begun: whether a part of it is done, so that only `plainly` is left.

    Raises:
        BadInputError: empty, longer than 500 characters, or with control characters.
    """

    text: str
    source: InstructionSource = InstructionSource.TEXT
    plainly: tuple[str, ...] = ()
    is_begun: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _plain_text(self.text))


def _plain_text(text: str) -> str:
    # Before anything is done with it: composing letters takes time that grows with the square of their marks.
    if len(text) > 4 * INSTRUCTION_CHARS:
        raise BadInputError(f"the instruction has {len(text)} characters, at most {INSTRUCTION_CHARS} are allowed")
    plain = unicodedata.normalize("NFC", text).strip()
    if not plain:
        raise BadInputError("the instruction is empty; give a sentence such as: put the red block on the blue plate")
    if len(plain) > INSTRUCTION_CHARS:
        raise BadInputError(f"the instruction has {len(plain)} characters, at most {INSTRUCTION_CHARS} are allowed")
    if any((ord(c) < 32 and c not in "\n\t") or ord(c) in (0x7F, 0xFFFD) or 0xD800 <= ord(c) <= 0xDFFF for c in plain):
        raise BadInputError("the instruction holds control characters or binary data; plain text is needed")
    return plain


@dataclass(frozen=True, slots=True, eq=False)
class PlannerRequest:
    """What a planner is asked: a picture, the person's words, and what failed before.

    Attributes:
        rgb: (h, w, 3) uint8; the reply's boxes are in it.
        failures: one line a failed step, as `planner.contract.failure_line` writes it, the oldest first.
        others: pictures of further cameras at the same moment.
        clip: pictures of the seconds before, the oldest first, CLIP_STEP_S apart.
        seen_from: whose left and right the plan has to mean.
    """

    rgb: npt.NDArray[np.uint8]
    instruction: Instruction
    failures: tuple[str, ...] = ()
    others: tuple[npt.NDArray[np.uint8], ...] = ()
    clip: tuple[npt.NDArray[np.uint8], ...] = ()
    seen_from: SeenFrom = SeenFrom.PICTURE


class Verb(str, Enum):
    PICK = "pick"
    PLACE = "place"
    PUSH = "push"
    HOME = "home"
    WAIT = "wait"
    SHOW = "show"  # the arm to the cameras; no planner may say it
    ASK = "ask"
    REFUSE = "refuse"


class Relation(str, Enum):
    ON = "on"
    IN = "in"
    LEFT_OF = "left_of"
    RIGHT_OF = "right_of"
    IN_FRONT_OF = "in_front_of"
    BEHIND = "behind"
    NEXT_TO = "next_to"


class Direction(str, Enum):
    """Ways to push; the scene's `sides` say which way each is: away is behind, closer is in front."""

    LEFT = "left"
    RIGHT = "right"
    AWAY = "away"
    CLOSER = "closer"


@dataclass(frozen=True, slots=True)
class ImageBox:
    """A box in 0..1000 of the original image's width and height, x0 < x1 and y0 < y1."""

    x0: float
    y0: float
    x1: float
    y1: float

    def iou(self, other: ImageBox) -> float:
        """Intersection over union with another box of the same image."""
        sides = [(b.x0, b.y0, b.x1, b.y1) for b in (self, other)]
        return float(intersection_over_union(*sides))


@dataclass(frozen=True, slots=True)
class Where:
    """A constraint that geometry resolves among several boxes.

    Attributes:
        kind: "nearest", "farthest", "leftmost", "rightmost", "largest", "smallest", "all" or a `Relation` value; that
            one has a reference, a label. In a measured plan also "leftmost 2", and "nearest" to a reference.
    """

    kind: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """An object as the planner names it: a label, where it is in the image, which one is meant."""

    label: str
    boxes: tuple[ImageBox, ...]
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a plan.

    Attributes:
        object: what to pick or push; what to place beside, on or in (with `relation`).
        relation, direction, seconds, text: of a place, a push, a wait, and an ask or a refuse.
        spot: of a place on the table itself, or where on its object it is tried first; no planner may say it.
    """

    verb: Verb
    object: ObjectReference | None = None
    relation: Relation | None = None
    direction: Direction | None = None
    seconds: float | None = None
    text: str | None = None
    spot: Spot | None = None

    def describe(self) -> str:
        """Say the action in a few words, for people and prompts."""
        parts = [self.verb.value, self.relation and self.relation.value, self.object and self.object.label]
        parts += [self.direction and self.direction.value, self.spot.text if self.spot else self.text]
        return " ".join(p for p in parts if p)


@dataclass(frozen=True, slots=True)
class Plan:
    """A typed, bounded reply of a planner.

    Attributes:
        objects: everything that the reply names, also what only a `Where` refers to.
        notes: what of the reply was put right or left out, a sentence each; prompt: what the model was asked, if any.
    """

    actions: tuple[Action, ...]
    reply: str
    objects: tuple[ObjectReference, ...] = ()
    notes: tuple[str, ...] = ()
    prompt: str = ""
    is_measured: bool = False  # it follows from everything that is measured, and no model made it


# --------------------------------------------------------------------------------------------- perceive


@dataclass(frozen=True, slots=True)
class Box:
    """A cuboid; size along its own x, y, z in metres."""

    size_m: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Cylinder:
    """An upright cylinder along its own z."""

    diameter_m: float
    height_m: float


@dataclass(frozen=True, slots=True)
class Sphere:
    diameter_m: float


@dataclass(frozen=True, slots=True)
class Container:
    """An open box (outer size) with a floor and walls of one thickness; the hollow opens along +z.

    Attributes:
        is_round: the wall is a ring of diameter size_m[0], which equals size_m[1], instead of four panels.
    """

    size_m: tuple[float, float, float]
    wall_m: float
    is_round: bool = False


@dataclass(frozen=True, slots=True)
class Hull:
    """The convex hull of a thing that no other shape explains, down to what it stands on.

    Attributes:
        vertices_m: corners in the object's frame, whose origin is the middle of the cuboid around them.
        boxes_m: lowest and highest corner of upright boxes that hold the thing; without any, nothing may touch it.
    """

    vertices_m: tuple[tuple[float, float, float], ...]
    boxes_m: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = ()


Shape = Union[Box, Cylinder, Sphere, Container, Hull]


def shape_size_m(shape: Shape) -> tuple[float, float, float]:
    """Outer size along the shape's own x, y, z in metres."""
    if isinstance(shape, Box | Container):
        return shape.size_m
    if isinstance(shape, Cylinder):
        return (shape.diameter_m, shape.diameter_m, shape.height_m)
    if isinstance(shape, Hull):
        x_m, y_m, z_m = (2.0 * max(abs(v[axis]) for v in shape.vertices_m) for axis in range(3))
        return (x_m, y_m, z_m)
    return (shape.diameter_m, shape.diameter_m, shape.diameter_m)


@dataclass(frozen=True, slots=True, eq=False)
class SceneObject:
    """A body of the scene, its pose measured or predicted.

    Attributes:
        name: unique in the scene ("red block", "red block 2", "obstacle 1").
        T_base_object: (4, 4), the origin at the shape's centre, z up for what stands on the table.
        rgb: mean colour (3,) 0..255 by which it is found again, or None when unknown.
        mass_kg, friction: None when unknown; the twin then takes the robot file's assumption.
    """

    name: str
    shape: Shape
    T_base_object: Array
    rgb: tuple[float, float, float] | None = None
    mass_kg: float | None = None
    friction: float | None = None

    @property
    def top_m(self) -> float:
        """Height of the highest point over the base plane, metres, for an upright object."""
        return float(self.T_base_object[2, 3]) + shape_size_m(self.shape)[2] / 2

    @property
    def bottom_m(self) -> float:
        """Height of the lowest point over the base plane, metres, for an upright object."""
        return float(self.T_base_object[2, 3]) - shape_size_m(self.shape)[2] / 2


@dataclass(frozen=True, slots=True)
class Zone:
    """An upright box of the base frame where the arm and what it carries may not be, or only slowly.

    Attributes:
        speed_mps: 0 keeps everything out; above 0 it is the tool's limit inside.
    """

    name: str
    min_m: tuple[float, float, float]
    max_m: tuple[float, float, float]
    speed_mps: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The belief about the table, in the base frame.

    Attributes:
        objects, obstacles: what the plan names, by name; everything else above the table.
        table_height_m, held: height of the table's top; name of the object in the gripper, or None.
        T_tool_held: (4, 4) pose of the held object in the tool frame, with `held` only.
        zones: where the cell's rules restrict the arm.
        unseen_m: (k, 2, 3) lowest and highest corners of boxes into which no camera has looked; None when the scene
            comes from no camera.
        shadow_m: (k, 2, 3) the same close around what the motion handles, where guarded fingers alone may go.
        sides: which way left and behind are, in the picture of the plan; None where nothing is left of anything.
    """

    objects: tuple[SceneObject, ...]
    obstacles: tuple[SceneObject, ...]
    table_height_m: float = 0.0
    held: str | None = None
    T_tool_held: Array | None = None
    zones: tuple[Zone, ...] = ()
    unseen_m: Array | None = None
    shadow_m: Array | None = None
    sides: Sides | None = None

    def find(self, name: str) -> SceneObject:
        """The object or obstacle of that name.

        Raises:
            KeyError: there is none.
        """
        for body in self.bodies():
            if body.name == name:
                return body
        raise KeyError(f"no {name!r} in the scene; it has {[b.name for b in self.bodies()]}")

    def bodies(self) -> Iterator[SceneObject]:
        """Objects first, then obstacles."""
        yield from self.objects
        yield from self.obstacles


# ------------------------------------------------------------------------------------------------- move


@dataclass(frozen=True, slots=True)
class GroundedAction:
    """An `Action` whose object references were resolved to names of the scene.

    Attributes:
        target: scene name of what is picked, pushed or placed (what is held, for a place).
        reference: scene name of what it is placed on, in or beside; `spot` where that is the table itself.
    """

    verb: Verb
    target: str | None = None
    relation: Relation | None = None
    reference: str | None = None
    direction: Direction | None = None
    seconds: float | None = None
    text: str | None = None
    spot: Spot | None = None


@dataclass(frozen=True, slots=True, eq=False)
class JointSegment:
    """A timed piece of joint trajectory.

    Attributes:
        time_s: (m,) from the motion's start, strictly rising.
        q_rad: (m, n); linear between points when replayed, so points are dense (<= 10 ms when we make them).
    """

    time_s: Array
    q_rad: Array

    @property
    def start_s(self) -> float:
        return float(self.time_s[0])

    @property
    def end_s(self) -> float:
        return float(self.time_s[-1])


@dataclass(frozen=True, slots=True)
class GripperSegment:
    """Drive the gripper to a width while the arm holds still.

    Attributes:
        start_s, end_s: from the motion's start.
        width_m: commanded opening; 0 closes on what is between the fingers, expected at the opening `meets_m`.
    """

    start_s: float
    end_s: float
    width_m: float
    meets_m: float = 0.0


Segment = Union[JointSegment, GripperSegment]


@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """What a motion is for, in a form that can be measured.

    Attributes:
        kind: "hold" (in the gripper), "release" or "push" (to `T_base_object`), "show" (the arm), "none" (home, wait);
            the last two have no `name` of an object.
        T_base_object: (4, 4) predicted pose, for "release" and "push".
        relation, reference: the relation asked for, for "release".
        tolerance_m: how far the measured position may lie from the predicted one.
    """

    kind: str
    name: str | None = None
    T_base_object: Array | None = None
    relation: Relation | None = None
    reference: str | None = None
    tolerance_m: float = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """A timed motion from one known start state, with the effect it should have; `guarded`: what ends at a contact."""

    robot: str
    segments: tuple[Segment, ...]
    effect: Effect
    guarded: Guarded | None = None

    @property
    def duration_s(self) -> float:
        return self.segments[-1].end_s if self.segments else 0.0


# ---------------------------------------------------------------------------------------------- rehearse


_SAYS_WHAT = (ViolationKind.WRONG_EFFECT, ViolationKind.UNSETTLED)  # the last of the bodies says what is wrong


@dataclass(frozen=True, slots=True)
class Violation:
    """One typed reason against a motion.

    Attributes:
        time_s: moment in the motion, None when it has none.
        bodies: links, joints or objects concerned; for "wrong_effect" and "unsettled" the object and what is wrong.
        amount, unit: how much ("m" of penetration, "rad/s" over the limit ...).
    """

    kind: ViolationKind
    time_s: float | None
    bodies: tuple[str, ...]
    amount: float
    unit: str

    def describe(self) -> str:
        """One sentence, for people and prompts.

        >>> Violation(ViolationKind.COLLISION, 1.82, ("left finger", "bowl"), 0.004, "m").describe()
        'collision: left finger with bowl at 1.82 s, 4.0 mm'
        >>> Violation(ViolationKind.WRONG_EFFECT, 5.0, ("red block", "is not lifted"), 0.004, "m").describe()
        'wrong_effect: red block is not lifted at 5.00 s, 4.0 mm'
        """
        amount = f"{self.amount * 1000:.1f} mm" if self.unit == "m" else f"{self.amount:.3g} {self.unit}".strip()
        bodies = (" " if self.kind in _SAYS_WHAT else " with ").join(self.bodies)
        when = "" if self.time_s is None else f" at {self.time_s:.2f} s"
        return f"{self.kind}: {bodies}{when}, {amount}" if bodies else f"{self.kind}{when}, {amount}"


@dataclass(frozen=True, slots=True)
class Trials:
    """Perturbed roll-outs of one motion, and what follows from them.

    Attributes:
        count, successes: roll-outs that ran, fewer than asked for only in a refusing verdict, and how many of them
            broke no limit and had the effect.
        lower_bound: one-sided confidence bound of the success ratio.
        threshold: what the bound must reach.
    """

    count: int
    successes: int
    lower_bound: float
    threshold: float


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Where the tool went in one perturbed roll-out, for people to see; nothing is decided by it.

    Attributes:
        failed: whether a limit was broken or the effect missed.
        failed_s: when, seconds of the motion; None where no moment is known, or none failed.
        q_offset_rad: (n,) the joint error that was drawn for it.
        track: (k, 4) seconds of the motion and the tool's place in metres, base frame, while it was simulated: spans in
            which nothing could be touched are missing.
    """

    failed: bool
    failed_s: float | None
    q_offset_rad: Array
    track: Array


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What the twin found, with the world as it would be afterwards.

    Attributes:
        accepted: no violation was found and every check ran; else `scene_after` and `state_after` are None.
        trials: the perturbed roll-outs, None when an earlier stage refused; explanation: why not, for people, no part
            of the digest.
        picture, film: uint8 views, of the moment that refused it (h, w, 3) and of the rehearsal (k, h, w, 3).
        seconds, traces: wall time taken; the perturbed roll-outs as lines; like the pictures not part of the digest.
    """

    accepted: bool
    violations: tuple[Violation, ...]
    motion_digest: str
    scene_digest: str
    start_digest: str
    robot_digest: str
    scene_after: Scene | None = None
    state_after: RobotState | None = None
    trials: Trials | None = None
    explanation: str = ""
    picture: npt.NDArray[np.uint8] | None = None
    film: npt.NDArray[np.uint8] | None = None
    seconds: float = 0.0
    traces: tuple[Trace, ...] = ()
    is_partial: bool = False  # limits and geometry alone were checked; no gate takes it


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsed:
    """A step that the twin accepted: what was rehearsed, from where, when, and in which frame its scene was measured.

    Attributes:
        rehearsed_ns: the arm's clock, read before the rehearsal began.
        seen: None for a scene that no camera measured; the gate then refuses.
    """

    motion: Motion
    verdict: Verdict
    scene: Scene
    start: RobotState
    rehearsed_ns: int
    seen: CameraFrame | None


# ------------------------------------------------------------------------------------------ admit and run


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something did not go on: typed, with its numbers, and as one sentence.

    Attributes:
        numbers: name with its unit → value ("age_s", 0.31), in the order in which they were given.
    """

    reason: AnyReason
    text: str
    numbers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal(Cause):
    """Why the approver or the gate keeps a motion back."""


class ApprovalMode(str, Enum):
    """Who lets a rehearsed motion go: nobody asks, a person confirms the digest, nothing ever goes."""

    AUTO = "auto"
    CONFIRM = "confirm"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Approval:
    """An approver's yes to exactly one verdict, good for one motion.

    Attributes:
        verdict_digest: stands for motion, scene, start state and robot together.
        token: different in every approval; an arm carries out no two motions of one token.
        stops: how many stops had been given by then (`halt.Halt.stops`); any later one ends the approval.
    """

    verdict_digest: str
    token: str
    stops: int


@dataclass(frozen=True, slots=True, eq=False)
class ApprovedMotion:
    """A motion that may reach the arm once, until `expires_ns`. Only gate.py makes one; `token`: see `Approval`."""

    motion: Motion
    digest: str
    verdict_digest: str
    scene_digest: str
    start_digest: str
    robot_digest: str
    start_q_rad: Array
    expires_ns: int
    token: str


class OutcomeKind(str, Enum):
    ACHIEVED = "achieved"
    ANSWERED = "answered"  # a question, with its answer as the cause's text; nothing moved
    NOT_VERIFIED = "not_verified"
    ASKED = "asked"
    REFUSED = "refused"
    NO_MOTION = "no_motion"
    WRONG_EFFECT = "wrong_effect"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step or a whole task ended, as measured.

    Attributes:
        causes: why, the first one first; empty only when achieved.
        error_m: distance between the predicted and the measured effect, when both exist.
    """

    kind: OutcomeKind
    causes: tuple[Cause, ...] = ()
    error_m: float | None = None

    @property
    def reason(self) -> AnyReason | None:
        """The first cause's typed reason, None when achieved."""
        return self.causes[0].reason if self.causes else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The causes' sentences."""
        return tuple(cause.text for cause in self.causes)


@dataclass(frozen=True, slots=True, eq=False)
class StepRecord:
    """One step of the history: what was tried, what the twin said, what came of it, and where it was rehearsed."""

    action: Action
    motion: Motion | None
    verdict: Verdict | None
    outcome: Outcome
    scene: Scene | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TaskReport:
    """A whole task: from the instruction to the measured outcome; `cameras`: whether the arm confirms them."""

    instruction: Instruction
    outcome: Outcome
    plans: tuple[Plan, ...]
    steps: tuple[StepRecord, ...]
    seconds: dict[str, float]
    cameras: tuple[CameraChecked, ...] = ()
    before_motion: dict[str, float] = field(default_factory=dict)  # of `seconds`, until the first was admitted


def digest(message: object) -> str:
    """SHA-256 in hex over a message's content: the same content gives the same digest in every process.

    Floats count by their IEEE bytes. What `_NOT_DIGESTED` names is left out: wall time, and what only explains.

    Raises:
        TypeError: the message holds a type that no message should hold.
    """
    sha = hashlib.sha256()
    _feed(sha, message)
    return sha.hexdigest()


_NOT_DIGESTED = frozenset(
    {"seconds", "before_motion", "film", "stamp_ns", "expires_ns", "explanation", "picture", "traces"}
)


def _feed(sha: hashlib._Hash, value: object) -> None:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | str | bytes):
        sha.update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, float):
        sha.update(b"float:" + (np.float64(value).tobytes() if not math.isnan(value) else b"nan") + b";")
    elif isinstance(value, np.ndarray):
        sha.update(f"array:{value.dtype.str}{value.shape};".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, tuple | list):
        sha.update(f"sequence:{len(value)};".encode())
        for item in value:
            _feed(sha, item)
    elif is_dataclass(value) and not isinstance(value, type):
        sha.update(f"{type(value).__name__}{{".encode())
        for f in fields(value):
            # Action.seconds is content (how long to wait); every other `seconds` is a stop-watch.
            if f.name not in _NOT_DIGESTED or isinstance(value, Action):
                sha.update(f.name.encode() + b"=")
                _feed(sha, getattr(value, f.name))
        sha.update(b"}")
    else:
        raise TypeError(f"a digest cannot hold a {type(value).__name__}")


def freeze(values: npt.ArrayLike, *shape: int | None) -> Array:
    """Read-only float64 copy for a message's array field; `shape` as in `geometry.read_only`."""
    return read_only(values, tuple(shape) if shape else None)
