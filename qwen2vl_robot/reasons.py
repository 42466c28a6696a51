"""Why something did not go on: one family of typed reasons a step, each with the sentence that explains it.

A reason is a `str`, so that it can be written to JSON and compared with the word in a file; it is never read back from
a sentence.
"""

from __future__ import annotations

from enum import Enum
from typing import Union


class Reason(str, Enum):
    """Root of the families.

    Attributes:
        value: the word that reports, files and prompts use.
        meaning: one sentence for people.
    """

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Reason:
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.meaning = meaning
        return reason

    def __str__(self) -> str:
        return str(self.value)

    def __eq__(self, other: object) -> bool:
        """Equal to its word; of another family's reasons to none, though they may use the same word."""
        return self is other if isinstance(other, Reason) else str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class ViolationKind(Reason):
    """What the twin found against a motion (`validation/`)."""

    NON_FINITE = "non_finite", "a number of the motion, the scene or the state is not finite"
    FORMAT = "format", "the motion, the scene or the robot file is not well formed"
    START_STATE = "start_state", "the motion does not begin where the arm is"
    JOINT_POSITION = "joint_position", "a joint would leave its range"
    JOINT_VELOCITY = "joint_velocity", "a joint would turn too fast"
    JOINT_ACCELERATION = "joint_acceleration", "a joint would speed up too hard"
    JOINT_JERK = "joint_jerk", "a joint's acceleration would change too fast"
    JOINT_TORQUE = "joint_torque", "a joint would need more torque than it has"
    WORKSPACE = "workspace", "the tool would leave its workspace"
    TOOL_SPEED = "tool_speed", "the tool would move too fast"
    ZONE = "zone", "the arm or what it carries would enter a closed zone"
    ZONE_SPEED = "zone_speed", "the tool would be too fast in a zone that limits its speed"
    UNSEEN = "unseen", "the arm or what it carries would enter space that no camera has seen"
    COLLISION = "collision", "the arm or what it carries would hit something"
    SELF_COLLISION = "self_collision", "the arm would hit itself"
    CONTACT = "contact", "something would be touched that may not be touched"
    FORCE = "force", "a contact would be harder than allowed"
    GRASP_SLIP = "grasp_slip", "the object would slip in the gripper"
    MOVED_OTHER = "moved_other", "something else would be moved or toppled"
    DROPPED = "dropped", "what is held would be let go too high and fall"
    UNSETTLED = "unsettled", "something would not stay upright and at rest where it was left"
    WRONG_EFFECT = "wrong_effect", "the motion would not have the effect that it is for"
    UNCERTAIN = "uncertain", "too few of the perturbed roll-outs succeed"
    WORKER_CRASHED = "worker_crashed", "the twin's process ended in the middle of the rehearsal"
    WORKER_TIMEOUT = "worker_timeout", "the rehearsal took longer than it may"
    WORKER_RAISED = "worker_raised", "the twin failed with an error"


class RefusalReason(Reason):
    """Why the approver or the gate keeps a rehearsed motion back (`gate.py`)."""

    STOPPED = "stopped", "a stop is latched; a person has to reset it"
    CANCELLED = "cancelled", "the task was cancelled"
    NO_SUPERVISOR = "no_supervisor", "no supervisor is there that could halt the arm if this node dies"
    NEVER = "never", "approval is set to never"
    NOT_CONFIRMED = "not_confirmed", "no person approved this verdict"
    NOT_FINITE = "not_finite", "a number of the motion or the live state is not finite"
    NOT_ACCEPTED = "not_accepted", "the verdict does not accept the motion"
    NOT_TRIED = "not_tried", "too few perturbed roll-outs stand behind the verdict"
    PARTIAL = "partial", "the verdict is of a glance, which no motion may rest on"
    DIGEST_MISMATCH = "digest_mismatch", "verdict and motion, scene, start state or robot do not belong together"
    ZONES_MISSING = "zones_missing", "the rehearsal did not know the cell's zones"
    STALE_VERDICT = "stale_verdict", "the rehearsal is too old"
    STALE_STATE = "stale_state", "the live joint state is too old or missing"
    STALE_FRAME = "stale_frame", "the last look at the scene is too old"
    NO_FRAME = "no_frame", "no frame shows whether the scene is as it was rehearsed"
    SCENE_CHANGED = "scene_changed", "the scene has changed since the rehearsal"
    CAMERA_OFF = "camera_off", "the arm in the last look says that the camera is not where its calibration says"
    CAMERA_UNCHECKED = "camera_unchecked", "too little of the arm shows to check the camera, which is required"
    NO_EFFORT = "no_effort", "no joint torques are measured, and the motion needs them to feel a contact"
    START_MOVED = "start_moved", "the arm, the gripper or what it holds is not as it was at the rehearsed start"


class AbortReason(Reason):
    """Why the executor ended a motion (`executor.py`)."""

    DIGEST_MISMATCH = "digest_mismatch", "the motion or the robot file is not the approved one"
    EXPIRED = "expired", "the approval had expired before the motion was sent"
    REJECTED = "rejected", "the arm did not take the motion"
    STOPPED = "stopped", "a stop was given"
    CANCELLED = "cancelled", "the task was cancelled"
    NO_SUPERVISOR = "no_supervisor", "the supervisor that could halt the arm was lost"
    LINK_LOST = "link_lost", "the arm or the clock can no longer be reached"
    STALE_STATE = "stale_state", "no fresh joint state came"
    NOT_FINITE = "not_finite", "a joint state is not usable"
    TRACKING = "tracking", "a joint left the motion"
    CONTACT = "contact", "a joint stays beside the motion as if the arm pushed on something"
    MET_UNSEEN = "met_unseen", "a finger met something where no camera has looked; the arm went back up"
    NO_EFFORT = "no_effort", "joint torques were not measured where a contact had to be felt"
    GRIP_LOST = "grip_lost", "the fingers moved though nothing commanded them"
    GRIPPER_LATE = "gripper_late", "the gripper did not come to rest with a result in time"
    GRIP_OFF = "grip_off", "the fingers came to rest wider or narrower than the motion expects"
    INTRUSION = "intrusion", "something came into the arm's way while it moved"
    UNWATCHED = "unwatched", "no frame showed whether something came into the arm's way"
    CLOCK = "clock", "the clock stood still, went back or jumped"
    OVERRUN = "overrun", "the arm still moved after the motion's end"
    ENDED_EARLY = "ended_early", "the arm stopped before the motion's end"
    BROKEN = "broken", "an unexpected error ended the task"


class MotionReason(Reason):
    """Why no motion can be made (`motion/`)."""

    OUT_OF_REACH = "out_of_reach", "the arm cannot reach there"
    NO_GRASP = "no_grasp", "the gripper cannot grasp the object"
    NO_PATH = "no_path", "there is no free path"
    NO_SPACE = "no_space", "there is no free place"
    UNSUPPORTED = "unsupported", "this action cannot be done with this object"
    NO_EFFORT = "no_effort", "the fingers would enter unseen room, and no joint torques are measured to feel a contact"
    NOT_IN_VIEW = "not_in_view", "in no pose would a camera see enough of the arm to be checked by it"
    UNEXPLAINED = "unexplained", "no shape explains what was measured of the object, so how to touch it is not known"


class TrajectoryReason(Reason):
    """Why a trajectory that somebody else made is no motion of this robot (`foreign.py`)."""

    JOINTS = "trajectory_joints", "its joints are not exactly the robot's"
    FRAME = "trajectory_frame", "it is given in another frame than the robot's base"
    POINTS = "trajectory_points", "it has too few or too many points, or not one number for each joint"
    NOT_FINITE = "trajectory_not_finite", "a number of it is not finite"
    TIMES = "trajectory_times", "its times do not rise"
    TOO_LONG = "trajectory_too_long", "it lasts longer than is allowed"
    START = "trajectory_start", "it does not begin where the arm is measured to be"
    NOT_AT_REST = "trajectory_not_at_rest", "it does not begin and end at rest"


class RequestReason(Reason):
    """Why the node did not begin what a program asked for (`nodes/`)."""

    BUSY = "busy", "another task is under way"
    INACTIVE = "inactive", "the node takes no tasks now"
    DESCRIPTION = "description", "the robot's description is missing, or another robot's"
    BAD_REQUEST = "bad_task", "a field of the request is not what is needed"
    LESS_APPROVAL = "less_approval", "less approval is asked for than the node is set to"
    UNRECORDED = "unrecorded", "the node records its decisions, and those about the motions of others are not recorded"
    LATE = "late", "the answer did not come in time"


class PerceptionReason(Reason):
    """Why a named object cannot be measured (`perception/`)."""

    NO_DEPTH = "no_depth", "the camera gives no depth there"
    NOT_FOUND = "not_found", "nothing measured fits the name or its box"
    LABEL_MISMATCH = "label_mismatch", "what is in the box contradicts its label"
    AMBIGUOUS = "ambiguous", "several things fit the name"


class PlannerReason(Reason):
    """Why a planner gave no usable plan (`planner/`)."""

    NO_REPLY = "no_reply", "the model or its server gave no reply in time"
    BAD_REPLY = "bad_reply", "the reply is not a plan that the contract allows"
    REPLY_CUT = "reply_cut_off", "the reply ends before it is complete"
    REPLY_REPEATS = "reply_repeats", "the reply says the same box over and over"
    NO_ACTIONS = "no_actions", "the reply has boxes but no actions; the mode `detect` asks for boxes alone"
    OTHER_LABEL = "other_label", "the reply's boxes are of other things than those asked for, or have no name"
    BOX_FORM = "box_form", "a box of the reply is not four numbers of a box with a width and a height"
    BOX_CORNERS = "box_corners", "the corners of a box can be read in more than one way"
    BOX_UNITS = "box_units", "a box is in another unit than the model's; `doctor --calibrate` measures which"
    BOX_OUTSIDE = "box_outside", "a box reaches farther out of the picture than can be cut off"
    UNCALIBRATED = (
        "uncalibrated",
        "the unit of the model's boxes is not known; `doctor --model NAME --calibrate` measures it",
    )
    POINTS = "points", "the reply has points where boxes are needed"
    BAD_REQUEST = "bad_request", "the planner cannot be asked with this picture, clip or instruction"
    WORKER = "planner_worker", "the planner's process crashed, hung or failed"


class ObservationReason(Reason):
    """Why there is no usable observation (camera, arm, tf)."""

    NO_FRAME = "no_fresh_frame", "no fresh frame came from the camera"
    NO_STATE = "no_joint_state", "no usable joint state came from the arm"
    NO_TRANSFORM = "no_transform", "no transform leads from the base to the camera"
    BAD_FRAME = "bad_frame", "a frame, its depth or its calibration cannot be used"
    CAMERA_OFF = "camera_off", "the arm in the frame says that the camera is not where its calibration says"
    CAMERA_UNCHECKED = "camera_unchecked", "too little of the arm shows to check the camera, which is required"
    CAMERAS_DISAGREE = "cameras_disagree", "two cameras contradict each other"
    CAMERA_UNITS = "camera_units", "depth is not in the unit that its encoding says"
    CAMERA_INFO = "camera_info", "the size or focal length of camera_info contradicts what is seen: another camera's"
    CAMERA_TILTED = "camera_tilted", "the table is not where the calibration says, or not level"
    CAMERA_BLIND = "camera_blind", "too much of the work space, or of what is asked for, has no depth"
    CAMERA_MISREGISTERED = "camera_misregistered", "depth lies beside its colour"
    CAMERA_NOISY = "camera_noisy", "depth scatters, or floats between surfaces, more than that of a sound camera"
    CAMERA_COLOURS = "camera_colours", "white balance or exposure is wrong, or changed"
    CAMERA_STUCK = "camera_stuck", "the camera repeats one frame under new stamps"
    HALTED = "halted", "a stop or a cancel ended the waiting"


class TaskReason(Reason):
    """Why a task or a step ended, where no step before says it more exactly."""

    ANSWERED = "answered", "the sentence is a question, and this is the answer; nothing moved"
    ASKED = "asked", "the planner asks a person"
    DECLINED = "declined", "the planner declines the instruction"
    NEGATED = "negated", "the person says what is not to be done"
    NO_ORDER = "no_order", "the sentence is a question, a report or a supposition and asks for no motion"
    NOT_UNDERSTOOD = "not_understood", "nothing that the robot can do was read in the sentence"
    CONTRADICTION = "contradiction", "the plan is not what the person said, or the sentence contradicts itself"
    LEFT_OUT = "left_out", "what was planned is done, and the sentence asks for more"
    IMPOSSIBLE = "impossible", "what the sentence asks for cannot be: nothing stays on a ball"
    ONE_GRIPPER = "one_gripper", "the sentence asks to hold more than one thing at a time"
    ALREADY = "already", "what was asked for is measured to hold before anything moves"
    FORBIDDEN = "forbidden", "the cell's rules forbid the plan"
    NO_PREDICTION = "no_prediction", "the twin gave no state after the step"
    NO_MOTION = "no_motion", "the object is where it was"
    UNDONE = "undone", "what a step of the task had achieved holds no longer at its end"
    WRONG_EFFECT = "wrong_effect", "what was measured is not the predicted effect"


class EvidenceReason(Reason):
    """Why the evidence after a motion says no, or says nothing (`judge.py`)."""

    ARM_OFF = "arm_off", "the arm is not where the motion ends"
    MOVING = "moving", "something has not come to rest"
    HIDDEN = "hidden", "what has to be seen is hidden"
    UNMEASURED = "unmeasured", "what has to be measured could not be"


class WorkerReason(Reason):
    """How a worker process failed (`process.py`)."""

    CRASHED = "crashed", "the process ended"
    TIMEOUT = "timeout", "the process did not answer in time and was killed"
    RAISED = "raised", "the process answered with an error"


AnyReason = Union[
    ViolationKind,
    RefusalReason,
    AbortReason,
    MotionReason,
    TrajectoryReason,
    RequestReason,
    PerceptionReason,
    PlannerReason,
    ObservationReason,
    TaskReason,
    EvidenceReason,
]  # what a step or a task can end with
FAMILIES: tuple[type[Reason], ...] = (
    ViolationKind,
    RefusalReason,
    AbortReason,
    MotionReason,
    TrajectoryReason,
    RequestReason,
    PerceptionReason,
    PlannerReason,
    ObservationReason,
    TaskReason,
    EvidenceReason,
    WorkerReason,
)
