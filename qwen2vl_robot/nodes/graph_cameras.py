"""The cameras that a node's settings name, as one `ports.Camera`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.messages import CameraFrame
from qwen2vl_robot.nodes.camera_calibration import load_calibration
from qwen2vl_robot.nodes.graph_camera import CameraSettings, GraphCamera
from qwen2vl_robot.nodes.settings import Settings


class GraphCameras:
    """Several cameras as one `ports.Camera`: the first one's frame carries the others'; if one fails, all fail.

    Args:
        cameras: topic prefix → camera, the first one first.
    """

    def __init__(self, cameras: Mapping[str, GraphCamera]) -> None:
        self._cameras = dict(cameras)

    @property
    def frame_id(self) -> str:
        """Return the tf frame of the first camera's latest frame."""
        return next(iter(self._cameras.values())).frame_id

    def capture(self) -> CameraFrame:
        """Wait for a frame of each camera that was exposed after this call (see `ports.Camera`)."""
        asked_ns = next(iter(self._cameras.values())).now_ns()
        frames = []
        for prefix, camera in self._cameras.items():
            try:
                frames.append(camera.capture(asked_ns))
            except ObservationError as error:
                raise ObservationError(f"{prefix}: {error}" if prefix else str(error), reason=error.reason) from error
        return replace(frames[0], others=tuple(frames[1:]))

    def newest(self, since_ns: int) -> CameraFrame | None:
        """Return the newest frame once each camera has one after a time, None before (see `ports.Camera`)."""
        frames = []
        for prefix, camera in self._cameras.items():
            try:
                frame = camera.newest(since_ns)
            except ObservationError as error:
                raise ObservationError(f"{prefix}: {error}" if prefix else str(error), reason=error.reason) from error
            if frame is None:
                return None
            frames.append(frame)
        return replace(frames[0], others=tuple(frames[1:]))

    def forget(self) -> None:
        """Forget every message of every camera: the clock jumped."""
        for camera in self._cameras.values():
            camera.forget()

    def counts(self) -> dict[str, int]:
        """Count the received messages, by topic name."""
        return {name: count for camera in self._cameras.values() for name, count in camera.counts().items()}


def cameras_of(
    graph: interface.Graph, base_frame: str, settings: Settings, why_halted: Callable[[], str | None]
) -> GraphCameras:
    """Make the cameras that a node's settings name.

    Args:
        base_frame: tf frame of the robot's base.

    Raises:
        BadInputError: a calibration cannot be used.
    """
    cameras = {}
    for prefix, calibration in zip_longest(settings.cameras, settings.calibrations, fillvalue=""):
        camera = CameraSettings(
            base_frame,
            prefix,
            is_compressed=settings.compressed,
            is_depth_compressed=settings.compressed_depth,
            pictures=settings.pictures,
            T_base_camera=load_calibration(calibration) if calibration else None,
            timeout_s=settings.frame_timeout_s,
            max_apart_s=settings.max_apart_s,
            clip_s=settings.clip_s if prefix == settings.cameras[0] else 0.0,
        )
        cameras[prefix] = GraphCamera(graph, camera, why_halted)
    return GraphCameras(cameras)
