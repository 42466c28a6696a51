"""Plan, scene and motion → what RViz and other programs draw: detections in the picture, markers in space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.executor import JointTrack
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph.conversions import header, pose_message
from qwen2vl_robot.graph.interface import Message, MessageMaker
from qwen2vl_robot.messages import (
    CameraFrame,
    Cylinder,
    ImageBox,
    Intrinsics,
    JointSegment,
    Motion,
    Plan,
    Scene,
    SceneObject,
    Sphere,
    StepRecord,
    shape_size_m,
)

_MAX_TEXT = 500  # of a label


def detections(make: MessageMaker, plan: Plan, frame: CameraFrame, frame_id: str) -> Message:
    """Make a vision_msgs/msg/Detection2DArray of the plan's boxes, pixels."""
    head = header(make, frame.stamp_ns, frame_id)
    entries = [
        _detection(make, a.object.label, box, frame.intrinsics, head)
        for a in plan.actions
        if a.object is not None
        for box in a.object.boxes
    ]
    return make("vision_msgs/msg/Detection2DArray")(header=head, detections=entries)


def _detection(make: MessageMaker, label: str, box: ImageBox, k: Intrinsics, head: Message) -> Message:
    x = (box.x0 + box.x1) / 2000.0 * k.width_px
    y = (box.y0 + box.y1) / 2000.0 * k.height_px
    center = make("vision_msgs/msg/Pose2D")(position=make("vision_msgs/msg/Point2D")(x=x, y=y))
    size_x, size_y = (box.x1 - box.x0) / 1000.0 * k.width_px, (box.y1 - box.y0) / 1000.0 * k.height_px
    bounds = make("vision_msgs/msg/BoundingBox2D")(center=center, size_x=size_x, size_y=size_y)
    hypothesis = make("vision_msgs/msg/ObjectHypothesis")(class_id=label[:_MAX_TEXT], score=1.0)  # it is named
    results = [make("vision_msgs/msg/ObjectHypothesisWithPose")(hypothesis=hypothesis)]
    return make("vision_msgs/msg/Detection2D")(header=head, results=results, bbox=bounds, id=label[:_MAX_TEXT])


Rgba = tuple[float, float, float, float]

_CUBE, _SPHERE, _CYLINDER, _LINE, _POINTS, _DELETE_ALL = 1, 2, 3, 4, 7, 3
_SHAPES = {Cylinder: _CYLINDER, Sphere: _SPHERE}  # all others are drawn as the cuboid around them
_GREEN, _GREY, _BLUE, _RED = (0.2, 0.8, 0.3, 0.6), (0.5, 0.5, 0.5, 0.5), (0.2, 0.4, 1.0, 0.9), (1.0, 0.1, 0.1, 0.9)
_PATH_M, _CONTACT_M = 0.004, 0.02  # width of a drawn path, size of a drawn contact


def markers(
    make: MessageMaker, scene: Scene | None, path_m: Array | None, contacts_m: Array, base_frame: str, stamp_ns: int
) -> Message:
    """Make a visualization_msgs/msg/MarkerArray: objects green, obstacles grey, path blue, contacts red.

    Args:
        path_m: (m, 3) points of the tool in the base frame, or None.
        contacts_m: (k, 3) points in the base frame.
        stamp_ns: of the frame in which the scene was measured.
    """
    pen = _Pen(make, header(make, stamp_ns, base_frame))
    drawn = [pen.draw(action=_DELETE_ALL)]
    groups = () if scene is None else (("objects", scene.objects, _GREEN), ("obstacles", scene.obstacles, _GREY))
    for space, bodies, colour in groups:
        drawn += [pen.body(space, number, body, colour) for number, body in enumerate(bodies)]
    if path_m is not None and len(path_m):
        drawn.append(pen.points("path", _LINE, path_m, _BLUE, _PATH_M))
    if len(contacts_m):
        drawn.append(pen.points("contacts", _POINTS, contacts_m, _RED, _CONTACT_M))
    return make("visualization_msgs/msg/MarkerArray")(markers=drawn)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Makes markers with one header."""

    make: MessageMaker
    header: Message

    def draw(self, **fields: object) -> Message:
        return self.make("visualization_msgs/msg/Marker")(header=self.header, **fields)

    def body(self, space: str, number: int, body: SceneObject, colour: Rgba) -> Message:
        pose, scale = pose_message(self.make, body.T_base_object), self._vector(*shape_size_m(body.shape))
        return self.draw(
            ns=space,
            id=number,
            type=_SHAPES.get(type(body.shape), _CUBE),
            pose=pose,
            scale=scale,
            color=self._colour(colour),
            text=body.name,
        )

    def points(self, space: str, shape: int, points_m: Array, colour: Rgba, thick_m: float) -> Message:
        point = self.make("geometry_msgs/msg/Point")
        return self.draw(
            ns=space,
            id=0,
            type=shape,
            pose=pose_message(self.make, np.eye(4)),
            color=self._colour(colour),
            scale=self._vector(thick_m, thick_m, thick_m),
            points=[point(x=float(p[0]), y=float(p[1]), z=float(p[2])) for p in points_m],
        )

    def _vector(self, x: float, y: float, z: float) -> Message:
        return self.make("geometry_msgs/msg/Vector3")(x=x, y=y, z=z)

    def _colour(self, rgba: Rgba) -> Message:
        r, g, b, a = rgba
        return self.make("std_msgs/msg/ColorRGBA")(r=r, g=g, b=b, a=a)


def contacts_of(step: StepRecord, tool_at: Callable[[Array], Array]) -> Array:
    """Return the tool's positions (k, 3) at the times of the verdict's violations, base frame, metres.

    Args:
        tool_at: joints (n,) rad → `T_base_tool` (4, 4).
    """
    if step.verdict is None or step.motion is None:
        return np.zeros((0, 3))
    times = [v.time_s for v in step.verdict.violations if v.time_s is not None and np.isfinite(v.time_s)]
    joints = [s for s in step.motion.segments if isinstance(s, JointSegment)]
    if not joints:
        return np.zeros((0, 3))
    track = JointTrack(step.motion, joints[0].q_rad[0])
    return np.array([tool_at(track.at(t)[0])[:3, 3] for t in times]).reshape(-1, 3)


def path_of(motion: Motion, tool_at: Callable[[Array], Array]) -> Array:
    """Return tool positions (m, 3) at every fifth joint point of a motion, base frame, metres.

    Args:
        tool_at: joints (n,) rad → `T_base_tool` (4, 4).
    """
    joints = [q for s in motion.segments if isinstance(s, JointSegment) for q in s.q_rad[::5]]
    return np.array([tool_at(q)[:3, 3] for q in joints]).reshape(-1, 3)
