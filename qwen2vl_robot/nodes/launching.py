"""What a command was given → a node that runs until SIGINT or SIGTERM, on either transport."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from qwen2vl_robot.graph.interface import NODE_NAME, PLANT_NAME, VOICE_INSTRUCTION, parse_remaps
from qwen2vl_robot.graph.transport import check_transport, has_rclpy, open_graph
from qwen2vl_robot.nodes.controller_node import ControllerNode
from qwen2vl_robot.nodes.settings import load_settings
from qwen2vl_robot.plant.node import PlantNode


def run_controller_process(
    transport: str, params_files: list[str], given: list[str], namespace: str, remaps: list[str], ready: Path | None,
    *, autostart: bool = True, log_level: str = "info",
) -> None:  # fmt: skip
    """Run the controller; over rclpy as a lifecycle node that configures and activates itself.

    Raises:
        BadInputError: a parameter, a name or a file cannot be used.
        RobotError: a worker does not come up.
    """
    check_transport(transport)
    remap, name, namespace = parse_remaps(remaps, NODE_NAME, namespace)
    settings = load_settings(params_files, given, name)
    if transport == "ros" or (transport == "auto" and has_rclpy()):
        from qwen2vl_robot.graph.lifecycle import run_lifecycle

        run_lifecycle(
            name, lambda graph, found: ControllerNode(graph, found), settings, namespace=namespace, remap=remap,
            autostart=autostart, log_level=log_level, ready=ready,
        )  # fmt: skip
        return
    graph = open_graph("dds", name, namespace=namespace, remap=remap, use_sim_time=settings.use_sim_time)
    node = ControllerNode(graph, settings)
    _until_signal(node.end_spin)
    try:
        node.configure()
        node.activate()
        _touch(ready)
        node.spin()
    finally:
        node.close()
        graph.close()


def run_plant_process(
    transport: str, scene: str, seed: int, camera_hz: float, speed: float, worker_python: str, namespace: str,
    remaps: list[str], ready: Path | None,
) -> None:  # fmt: skip
    """Run the plant.

    Raises:
        BadInputError: the scene or a name cannot be used.
        WorkerError: the simulation's process ended.
    """
    remap, name, namespace = parse_remaps(remaps, PLANT_NAME, namespace)
    graph = open_graph(transport, name, namespace=namespace, remap=remap)
    ended = threading.Event()
    _until_signal(ended.set)
    plant = PlantNode(graph, scene, seed, camera_hz=camera_hz, speed=speed, interpreter=worker_python or None)
    try:
        _touch(ready)
        plant.run(ended.is_set)
    finally:
        plant.close()
        graph.close()


def run_recorder_process(
    transport: str, out: Path | None, cameras: list[str], with_pictures: bool, namespace: str, remaps: list[str],
    ready: Path | None,
) -> dict[str, int]:  # fmt: skip
    """Record the controller's topics until SIGINT or SIGTERM; how many messages of each.

    Raises:
        BadInputError: the folder or a name cannot be used.
    """
    from qwen2vl_robot.nodes.recorder import Recorder

    remap, name, namespace = parse_remaps(remaps, "recorder", namespace)
    folder = out or Path(time.strftime("recording_%Y%m%d_%H%M%S"))
    graph = open_graph(transport, name, namespace=namespace, remap=remap)
    try:
        recorder = Recorder(graph, folder, cameras=tuple(cameras) or ("",), with_pictures=with_pictures)
        ended = threading.Event()
        _until_signal(ended.set)
        _touch(ready)
        ended.wait()
        recorder.close()
        return recorder.counts()
    finally:
        graph.close()


def run_voice_process(
    transport: str, source: str, namespace: str, remaps: list[str], tell: Callable[[str], None]
) -> None:
    """Publish what is said as spoken instructions, until the sound or the process ends.

    Raises:
        BadInputError: pocketsphinx is missing, or the source cannot be used.
    """
    from qwen2vl_robot.nodes.voice import Ear, open_sound, transcribe

    ear = Ear()
    remap, name, namespace = parse_remaps(remaps, "voice", namespace)
    with open_sound(source, ear.frame_bytes) as frames:
        graph = open_graph(transport, name, namespace=namespace, remap=remap)
        try:
            spoken = graph.publisher(VOICE_INSTRUCTION)
            for sentence in transcribe(ear, frames):
                tell(sentence)
                spoken.publish(graph.message(VOICE_INSTRUCTION.type)(data=sentence))
        finally:
            graph.close()


def _until_signal(end: Callable[[], None]) -> None:
    """Have SIGINT and SIGTERM call `end`, so that an arm is halted on the way out."""

    def told(number: int, frame: FrameType | None) -> None:
        # On a thread of its own: the interrupted one may hold a lock that ending needs.
        threading.Thread(target=end, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told)


def _touch(ready: Path | None) -> None:
    if ready is not None:
        ready.touch()
