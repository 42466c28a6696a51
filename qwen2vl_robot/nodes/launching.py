"""What a command was given → a node that runs until SIGINT or SIGTERM, on either transport."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from qwen2vl_robot.graph.interface import NODE_NAME, PLANT_NAME, VOICE_INSTRUCTION, Graph, parse_remaps
from qwen2vl_robot.graph.transport import check_transport, has_rclpy, open_graph
from qwen2vl_robot.log import start_logging
from qwen2vl_robot.nodes.controller_node import ControllerNode
from qwen2vl_robot.nodes.settings import load_settings
from qwen2vl_robot.plant.node import PlantNode


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Where a node joins the graph.

    Attributes:
        transport: "auto", "dds" or "ros".
        namespace: stands before every relative name.
        remaps: "from:=to", as often as needed.
        ready: a file that is made as soon as the node works.
        log_level: one of `log.LEVELS`.
    """

    transport: str = "auto"
    namespace: str = "/"
    remaps: list[str] = field(default_factory=list)
    ready: Path | None = None
    log_level: str = "info"


def run_controller_process(
    options: NodeOptions,
    params_files: list[str],
    given: list[str],
    *,
    autostart: bool = True,
) -> None:
    """Run the controller; over rclpy as a lifecycle node that configures and activates itself.

    Raises:
        BadInputError: a parameter, a name or a file cannot be used.
        RobotError: a worker does not come up.
    """
    check_transport(options.transport)
    remap, name, namespace = parse_remaps(options.remaps, NODE_NAME, options.namespace)
    settings = load_settings(params_files, given, name)
    if options.transport == "ros" or (options.transport == "auto" and has_rclpy()):
        from qwen2vl_robot.graph.lifecycle import LifecycleOptions, run_lifecycle

        started = LifecycleOptions(namespace, remap, autostart, options.log_level, options.ready)
        run_lifecycle(name, lambda graph, found: ControllerNode(graph, found), settings, started)
        return
    graph = open_graph("dds", name, namespace=namespace, remap=remap, use_sim_time=settings.use_sim_time)
    start_logging(options.log_level, graph.log_handler())
    node = ControllerNode(graph, settings)
    _until_signal(node.end_spin)
    try:
        node.configure()
        node.activate()
        _touch(options.ready)
        node.spin()
    finally:
        node.close()
        graph.close()


def run_plant_process(
    options: NodeOptions, scene: str, seed: int, *, camera_hz: float, speed: float, worker_python: str
) -> None:
    """Run the plant.

    Raises:
        BadInputError: the scene or a name cannot be used.
        WorkerError: the simulation's process ended.
    """
    graph = _join(options, PLANT_NAME)
    start_logging(options.log_level, graph.log_handler())
    ended = threading.Event()
    _until_signal(ended.set)
    plant = PlantNode(graph, scene, seed, camera_hz=camera_hz, speed=speed, interpreter=worker_python or None)
    try:
        _touch(options.ready)
        plant.run(ended.is_set)
    finally:
        plant.close()
        graph.close()


def run_recorder_process(
    options: NodeOptions, out: Path | None, cameras: list[str], *, with_pictures: bool
) -> dict[str, int]:
    """Record the controller's topics until SIGINT or SIGTERM; how many messages of each.

    Raises:
        BadInputError: the folder or a name cannot be used.
    """
    from qwen2vl_robot.nodes.recorder import Recorder

    folder = out or Path(time.strftime("recording_%Y%m%d_%H%M%S"))
    graph = _join(options, "recorder")
    try:
        recorder = Recorder(graph, folder, cameras=tuple(cameras) or ("",), with_pictures=with_pictures)
        ended = threading.Event()
        _until_signal(ended.set)
        _touch(options.ready)
        ended.wait()
        recorder.close()
        return recorder.counts()
    finally:
        graph.close()


def run_voice_process(options: NodeOptions, source: str, tell: Callable[[str], None]) -> None:
    """Publish what is said as spoken instructions, until the sound or the process ends.

    Raises:
        BadInputError: pocketsphinx is missing, or the source cannot be used.
    """
    from qwen2vl_robot.nodes.voice import SpeechRecogniser, open_sound, transcribe

    ear = SpeechRecogniser()
    with open_sound(source, ear.frame_bytes) as frames:
        graph = _join(options, "voice")
        try:
            spoken = graph.publisher(VOICE_INSTRUCTION)
            for sentence in transcribe(ear, frames):
                tell(sentence)
                spoken.publish(graph.message(VOICE_INSTRUCTION.type)(data=sentence))
        finally:
            graph.close()


def _join(options: NodeOptions, node: str) -> Graph:
    """Join the graph as a node, under the name that remapping gives it."""
    remap, name, namespace = parse_remaps(options.remaps, node, options.namespace)
    return open_graph(options.transport, name, namespace=namespace, remap=remap)


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
