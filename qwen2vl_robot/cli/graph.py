"""Commands that join the ROS 2 graph as a node and run until they are stopped: run, supervisor, sim, record, voice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwen2vl_robot.cli.base import ROS_ARGUMENTS, CameraName, app, check_choice
from qwen2vl_robot.cli.output import say
from qwen2vl_robot.log import LEVELS

GraphName = Annotated[str, typer.Option("--graph", help="auto (rclpy where it is installed), dds or ros.")]
Namespace = Annotated[str, typer.Option(help="Put before every relative name, such as /left.")]
Remap = Annotated[list[str] | None, typer.Option("--remap", "-r", help="Rename a topic: from:=to, as often as needed.")]
LogLevel = Annotated[str, typer.Option(help="The least severe messages to print: debug, info, warn, error or fatal.")]
Ready = Annotated[Path | None, typer.Option(hidden=True, help="Made as soon as the node works.")]


@app.command(epilog="Example: qwen2vl-robot run -p robot:=franka_panda -p use_sim_time:=true -p approval:=auto")
def run(
    parameters: Annotated[list[str] | None, typer.Option("-p", help="A parameter: name:=value.")] = None,
    params_file: Annotated[
        list[str] | None, typer.Option(help="A ROS parameter file, like launch/params.yaml.")
    ] = None,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
    autostart: Annotated[
        str, typer.Option(help="With rclpy: configure and activate at once (true or false).")
    ] = "true",
    log_level: LogLevel = "info",
    ready: Ready = None,
) -> None:
    """Run the controller as a ROS 2 node: it takes instructions from a topic and sends approved motions to the arm."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_controller_process

    check_choice("--autostart", autostart.lower(), ("true", "false"))
    level = check_choice("--log-level", log_level, LEVELS)
    options = NodeOptions(graph, namespace, remap or [], ready, level, ROS_ARGUMENTS)
    run_controller_process(options, params_file or [], parameters or [], autostart=autostart.lower() == "true")


@app.command(epilog="Example: qwen2vl-robot supervisor -p robot:=franka_panda -p use_sim_time:=true")
def supervisor(
    parameters: Annotated[
        list[str] | None, typer.Option("-p", help="A parameter of the controller: name:=value.")
    ] = None,
    params_file: Annotated[list[str] | None, typer.Option(help="The controller's parameter file.")] = None,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
    begin_stopped: Annotated[
        str, typer.Option(help="Latch a stop from the start, as for nodes that restart by themselves (true or false).")
    ] = "false",
    ready: Ready = None,
) -> None:
    """Run the supervisor beside the controller: it halts the arm on `stop`, and when the controller is silent."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_supervisor_process

    check_choice("--begin-stopped", begin_stopped.lower(), ("true", "false"))
    options = NodeOptions(graph, namespace, remap or [], ready, ros_arguments=ROS_ARGUMENTS)
    stopped = begin_stopped.lower() == "true"
    run_supervisor_process(options, params_file or [], parameters or [], begins_stopped=stopped)


@app.command(epilog="Example: qwen2vl-robot sim --scene scenes/default.yaml --seed 3")
def sim(
    scene: Annotated[str, typer.Option(help="A scene file; names under sim/ work too.")] = "scenes/default.yaml",
    seed: Annotated[int, typer.Option(min=0, help="Draws poses, light, camera and the plant's faults.")] = 0,
    camera: CameraName = None,
    camera_hz: Annotated[float, typer.Option(min=0.1, max=60.0, help="Pictures in a simulated second.")] = 2.0,
    speed: Annotated[
        float, typer.Option(min=0.01, max=10.0, help="Simulated seconds in a real second, at most.")
    ] = 1.0,
    worker_python: Annotated[str, typer.Option(help="The Python that has pybullet; this one if left out.")] = "",
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
    log_level: LogLevel = "info",
    ready: Ready = None,
) -> None:
    """Run a simulated robot cell as a ROS 2 node: camera, joint states, tf, trajectory and gripper controllers."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_plant_process

    level = check_choice("--log-level", log_level, LEVELS)
    options = NodeOptions(graph, namespace, remap or [], ready, level, ROS_ARGUMENTS)
    run_plant_process(
        options, scene, seed, camera=camera, camera_hz=camera_hz, speed=speed, worker_python=worker_python
    )


@app.command(epilog="Example: qwen2vl-robot record --out out/recording.mcap --pictures")
def record(
    out: Annotated[Path | None, typer.Option(help="The MCAP file; recording_DATE_TIME.mcap if left out.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Prefix of a camera's topics; repeatable.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Record images and depth too.")] = False,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
    ready: Ready = None,
) -> None:
    """Record the controller's topics as MCAP, until Ctrl-C."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_recorder_process

    options = NodeOptions(graph, namespace, remap or [], ready, ros_arguments=ROS_ARGUMENTS)
    counts = run_recorder_process(options, out, camera or [], with_pictures=pictures)
    say(", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing was recorded")


@app.command(epilog="Example: qwen2vl-robot voice --source microphone -p recogniser:=openai/whisper-base")
def voice(
    source: Annotated[
        str, typer.Option(help="microphone (by arecord), a WAV file, or - (raw, 16 bit).")
    ] = "microphone",
    parameters: Annotated[list[str] | None, typer.Option("-p", help="A parameter: name:=value.")] = None,
    params_file: Annotated[list[str] | None, typer.Option(help="A ROS parameter file, like launch/voice.yaml.")] = None,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
) -> None:
    """Listen and publish what is said as instructions. A person must approve each of them before anything moves."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_voice_process

    options = NodeOptions(graph, namespace, remap or [], ros_arguments=ROS_ARGUMENTS)
    run_voice_process(options, source, params_file or [], parameters or [], say)
