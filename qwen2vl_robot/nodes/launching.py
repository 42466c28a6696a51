"""A command's options → a node that runs until SIGINT or SIGTERM, on either transport."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from qwen2vl_robot.graph.interface import NODE_NAME, PLANT_NAME, SUPERVISOR_NAME, VOICE_INSTRUCTION, Graph
from qwen2vl_robot.graph.names import for_node, parse_remaps, resolve_name
from qwen2vl_robot.graph.transport import check_transport, has_rclpy, open_graph
from qwen2vl_robot.log import start_logging
from qwen2vl_robot.nodes.settings import load_settings
from qwen2vl_robot.nodes.urgency import SUPERVISOR, hurry
from qwen2vl_robot.results import UnsavedError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node joins the graph.

    Attributes:
        transport: "auto", "dds" or "ros".
        namespace: prefix of every relative name.
        remaps: rules "from:=to".
        ready: file to create as soon as the node is started.
        log_level: one of `log.LEVELS`.
        ros_arguments: what rclpy gets: the enclave, levels of single loggers, where logs go.
    """

    transport: str = "auto"
    namespace: str = "/"
    remaps: list[str] = field(default_factory=list)
    ready: Path | None = None
    log_level: str = "info"
    ros_arguments: list[str] = field(default_factory=list)


def run_controller_process(
    options: NodeOptions,
    params_files: list[str],
    given: list[str],
    *,
    autostart: bool = True,
) -> None:
    """Run the controller; over rclpy as a lifecycle node.

    Args:
        given: `name:=value` parameters, on top of `params_files`.
        autostart: whether the lifecycle node configures and activates itself; over DDS the node always does.

    Raises:
        BadInputError: a parameter, a name or a file cannot be used.
        RobotError: a worker cannot be started.
    """
    from qwen2vl_robot.nodes.controller_node import ControllerNode  # which the supervisor's process need not load

    check_transport(options.transport)
    remap, name, namespace = parse_remaps(options.remaps, NODE_NAME, options.namespace)
    given = for_node(given, name)
    settings = load_settings(params_files, given, resolve_name(f"~/{name}", name, namespace).rpartition("/")[0])
    _start_ros(options)
    if options.transport == "ros" or (options.transport == "auto" and has_rclpy()):
        from qwen2vl_robot.graph.lifecycle import LifecycleOptions, run_lifecycle

        lifecycle = LifecycleOptions(namespace, remap, autostart, options.log_level, options.ready)
        run_lifecycle(name, ControllerNode, settings, lifecycle)
        return
    graph = open_graph("dds", name, namespace=namespace, remap=remap, use_sim_time=settings.use_sim_time)
    start_logging(options.log_level, graph.log_handler(options.log_level))
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


def run_supervisor_process(
    options: NodeOptions, params_files: list[str], given: list[str], *, begins_stopped: bool = False
) -> None:
    """Run the supervisor of the controller in the same namespace; it takes that node's parameters, and its own.

    Args:
        given: `name:=value` parameters, on top of `params_files`.
        begins_stopped: whether a stop is latched from the start.

    Raises:
        BadInputError: a parameter, a name or a file cannot be used.
    """
    from qwen2vl_robot.nodes.live_robot import load_live_robot
    from qwen2vl_robot.nodes.supervisor import Supervisor

    remap, name, namespace = parse_remaps(options.remaps, SUPERVISOR_NAME, options.namespace)
    names = [resolve_name(node, name, namespace) for node in (NODE_NAME, name)]
    settings = load_settings(params_files, for_node(given, NODE_NAME, name), *names)
    _start_ros(options)
    graph = open_graph(options.transport, name, namespace=namespace, remap=remap, use_sim_time=settings.use_sim_time)
    start_logging(options.log_level, graph.log_handler(options.log_level))
    try:
        profile = load_live_robot(settings.robot, graph)
        supervisor = Supervisor(graph, profile, settings.silence_s, begins_stopped=begins_stopped)
        _until_signal(supervisor.end)
        supervisor.start()
        hurry(SUPERVISOR)
        _touch(options.ready)
        supervisor.wait()
        supervisor.close()
    finally:
        graph.close()


def run_plant_process(
    options: NodeOptions,
    scene: str,
    seed: int,
    *,
    camera: str | None,
    camera_hz: float,
    speed: float,
    worker_python: str,
) -> None:
    """Run the plant.

    Args:
        camera: a model of sim/cameras; None leaves it to the scene.
        camera_hz: pictures per second of plant time.
        speed: largest ratio of plant time to wall time.
        worker_python: the Python that has pybullet; "" is this one.

    Raises:
        BadInputError: the scene or a name cannot be used.
        WorkerError: the simulation's process ended.
    """
    from qwen2vl_robot.plant.node import PlantNode

    graph = join(options, PLANT_NAME)
    start_logging(options.log_level, graph.log_handler(options.log_level))
    ended = threading.Event()
    _until_signal(ended.set)
    python = worker_python or None
    plant = PlantNode(graph, scene, seed, camera=camera, camera_hz=camera_hz, speed=speed, interpreter=python)
    try:
        _touch(options.ready)
        plant.run(ended.is_set)
    finally:
        plant.close()
        graph.close()


def run_recorder_process(
    options: NodeOptions, out: Path | None, cameras: list[str], *, with_pictures: bool
) -> dict[str, int]:
    """Record the controller's topics until SIGINT, SIGTERM or SIGHUP; return the number of messages per topic.

    Args:
        out: the file; None is recording_DATE_TIME.mcap in the current folder.
        cameras: prefixes of the cameras' topics.

    Raises:
        BadInputError: the file or a name cannot be used.
        UnsavedError: the disk is full or gone; what was written until then is in the file.
    """
    from qwen2vl_robot.nodes.recorder import Recorder

    file = out or Path(time.strftime("recording_%Y%m%d_%H%M%S.mcap"))
    graph = join(options, "recorder")
    try:
        ended = threading.Event()
        prefixes = tuple(cameras) or ("",)
        recorder = Recorder(graph, file, cameras=prefixes, with_pictures=with_pictures, on_broken=ended.set)
        _until_signal(ended.set)
        _touch(options.ready)
        ended.wait()
        recorder.close()
        if recorder.problem:
            raise UnsavedError(recorder.problem)
        return recorder.counts()
    finally:
        graph.close()


def run_voice_process(
    options: NodeOptions, source: str, params_files: list[str], given: list[str], show: Callable[[str], None]
) -> None:
    """Publish recognised sentences on voice_instruction until the sound or the process ends.

    Args:
        source: "microphone", "-" or a WAV file.
        given: `name:=value` parameters, on top of `params_files`.
        show: is called with each sentence.

    Raises:
        BadInputError: a package is missing, or the source or a parameter cannot be used.
    """
    from qwen2vl_robot.nodes.hearing import open_recogniser
    from qwen2vl_robot.nodes.settings import VoiceSettings, load_parameters
    from qwen2vl_robot.nodes.sound import open_sound
    from qwen2vl_robot.nodes.speaking import Speaker, talk_back
    from qwen2vl_robot.nodes.voice import Ears, Hearing, is_live, listen, transcribe

    _, name, namespace = parse_remaps(options.remaps, "voice", options.namespace)
    settings = load_parameters(VoiceSettings, params_files, for_node(given, name), resolve_name(name, name, namespace))
    ears, recogniser = Ears(), open_recogniser(settings.recogniser)
    speaker = Speaker() if settings.speaks else None
    with open_sound(source, ears.frame_bytes, settings.rate_hz, settings.channels) as frames:
        graph = join(options, "voice")
        try:
            publisher = graph.publisher(VOICE_INSTRUCTION)

            def say(sentence: str) -> None:
                show(sentence)
                publisher.publish(graph.message(VOICE_INSTRUCTION.type)(data=sentence))

            if speaker is not None:
                talk_back(graph, speaker)
            if is_live(source):
                is_deaf = speaker.is_speaking if speaker is not None else lambda: False
                listen(ears, Hearing(recogniser, say), frames, is_deaf)
            else:
                for sentence in transcribe(ears, recogniser, frames):
                    say(sentence)
        finally:
            graph.close()
            if speaker is not None:
                speaker.close()


def join(options: NodeOptions, node: str) -> Graph:
    """Join the graph as a node, with the name and namespace that remapping gives it."""
    _start_ros(options)
    remap, name, namespace = parse_remaps(options.remaps, node, options.namespace)
    return open_graph(options.transport, name, namespace=namespace, remap=remap)


def _start_ros(options: NodeOptions) -> None:
    """Start rclpy with what is for it alone; over DDS nothing of it applies, and that is said."""
    check_transport(options.transport)
    if not options.ros_arguments:
        return
    if options.transport == "dds" or not has_rclpy():
        _log.warning("over DDS these have no effect: %s", " ".join(options.ros_arguments))
        return
    from qwen2vl_robot.graph.ros_process import start_rclpy

    start_rclpy(options.ros_arguments)


def _until_signal(end: Callable[[], None]) -> None:
    """Call `end` on SIGINT, SIGTERM and SIGHUP, so that the process can halt an arm before it exits."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        # On a thread of its own: the interrupted one may hold a lock that `end` needs.
        threading.Thread(target=end, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, on_signal)


def _touch(ready: Path | None) -> None:
    if ready is not None:
        ready.touch()
