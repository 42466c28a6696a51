"""The launch files, by the launch library itself: which command lines they make, and which parameters those come to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen2vl_robot.graph.interface import NODE_NAME, SUPERVISOR_NAME
from qwen2vl_robot.graph.names import parse_remaps, resolve_name
from qwen2vl_robot.messages import ApprovalMode
from qwen2vl_robot.nodes.settings import Settings, load_settings

pytest.importorskip("launch_ros.actions", reason="launch and launch_ros come with ROS 2")

ROOT = Path(__file__).resolve().parents[1]
Launched = Callable[..., dict[str, list[str]]]
LAUNCHES = ["robot", "sim"]
NEVER = "/**:\n  ros__parameters: {approval: never, seen_from: robot, use_sim_time: true, worker_python: /opt/py}\n"
# Stands in for the installed command: says how it was called, and what its parameter files hold.
COMMAND = f"""#!{sys.executable}
import json, os, pathlib, sys
files = {{a: pathlib.Path(a).read_text() for a in sys.argv if pathlib.Path(a).is_file() and a != sys.argv[0]}}
pathlib.Path(os.environ["SAID"], sys.argv[1]).write_text(json.dumps([sys.argv[1:], files]))
"""
LAUNCH = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
given = [tuple(pair.split(":=", 1)) for pair in sys.argv[2:]]
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=given))
sys.exit(service.run())
"""


@pytest.fixture
def launched(tmp_path: Path) -> Launched:
    """Returns the function that launches a file and returns the arguments of each node, by its command."""
    package = tmp_path / "lib" / NODE_NAME / "qwen2vl-robot"
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages" / NODE_NAME
    for file in (package, index):
        file.parent.mkdir(parents=True)
    index.touch()
    package.write_text(COMMAND)
    package.chmod(0o755)
    said = tmp_path / "said"

    def launch(name: str, **given: str) -> dict[str, list[str]]:
        shutil.rmtree(said, ignore_errors=True)
        said.mkdir()
        prefix = f"{tmp_path}:{os.environ.get('AMENT_PREFIX_PATH', '')}"
        environment = {**os.environ, "AMENT_PREFIX_PATH": prefix, "SAID": str(said), "ROS_LOG_DIR": str(tmp_path)}
        pairs = [f"{argument}:={value}" for argument, value in given.items()]
        command = [sys.executable, "-c", LAUNCH, str(ROOT / "launch" / f"{name}.launch.py"), *pairs]
        restarts = given.get("use_respawn") == "true"
        limit_s = 20 if restarts else 60
        try:
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s)
            assert ended.returncode == 0, ended.stderr
        except subprocess.TimeoutExpired:  # nodes that restart by themselves do so for ever
            assert restarts
        made = {}
        for file in said.iterdir():
            arguments, files = json.loads(file.read_text())
            for path, text in files.items():  # launch may have removed its own by now
                Path(path).write_text(text)
            made[file.name] = arguments
        return made

    return launch


def after(option: str, arguments: list[str]) -> list[str]:
    return [b for a, b in zip(arguments, arguments[1:], strict=False) if a == option]


def watched_by(arguments: list[str]) -> Settings:
    """The supervisor's settings, read as its process reads them."""
    _, name, namespace = parse_remaps(after("-r", arguments), SUPERVISOR_NAME, "/")
    nodes = [resolve_name(node, name, namespace) for node in (NODE_NAME, name)]
    return load_settings(after("--params-file", arguments), after("-p", arguments), *nodes)


def settings_of(arguments: list[str]) -> Settings:
    """The controller's settings, read as its process reads them."""
    _, name, namespace = parse_remaps(after("-r", arguments), NODE_NAME, "/")
    node = resolve_name(f"~/{name}", name, namespace).rpartition("/")[0]
    return load_settings(after("--params-file", arguments), after("-p", arguments), node)


def test_without_a_file_and_arguments_a_robot_has_the_defaults(launched: Launched) -> None:
    assert settings_of(launched("robot")["run"]) == Settings()
    assert settings_of(launched("robot", namespace="left")["run"]) == Settings()


def test_without_a_file_and_arguments_a_simulation_goes_by_itself(launched: Launched) -> None:
    assert settings_of(launched("sim")["run"]) == Settings(approval=ApprovalMode.AUTO, use_sim_time=True)


@pytest.mark.parametrize("namespace", ["", "left"])
@pytest.mark.parametrize("launch", LAUNCHES)
def test_what_the_file_says_counts_where_no_argument_was_given(
    launched: Launched, launch: str, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(NEVER)
    read = settings_of(launched(launch, params_file=str(file), namespace=namespace)["run"])
    assert (read.approval, read.seen_from, read.use_sim_time) == (ApprovalMode.NEVER, "robot", True)
    assert read.worker_python == "/opt/py"
    file.write_text("/**:\n  ros__parameters: {use_sim_time: false}\n")
    assert settings_of(launched(launch, params_file=str(file), namespace=namespace)["run"]).use_sim_time is False


@pytest.mark.parametrize("launch", LAUNCHES)
def test_an_argument_counts_more_than_the_file(launched: Launched, launch: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(NEVER)
    given = {
        "approval": "confirm",
        "seen_from": "picture",
        "use_sim_time": "false",
        "worker_python": "/usr/bin/python3",
    }
    read = settings_of(launched(launch, params_file=str(file), **given)["run"])
    assert (read.approval, read.seen_from, read.use_sim_time) == (ApprovalMode.CONFIRM, "picture", False)
    assert read.worker_python == "/usr/bin/python3"


@pytest.mark.parametrize("launch", LAUNCHES)
def test_the_file_of_another_robot_does_not_count(launched: Launched, launch: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/right/qwen2vl_robot:\n  ros__parameters: {approval: never, robot: xarm6}\n")
    read = settings_of(launched(launch, params_file=str(file), namespace="left")["run"])
    assert (read.approval, read.robot) == (settings_of(launched(launch)["run"]).approval, "franka_panda")


@pytest.mark.parametrize("section", ["/**", "/left/qwen2vl_robot", "left: {qwen2vl_robot"])
@pytest.mark.parametrize("launch", LAUNCHES)
def test_the_supervisor_has_the_controllers_parameters(
    launched: Launched, launch: str, section: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    text = f"{section}: {{ros__parameters: {{robot: xarm6, silence_s: 0.4, use_sim_time: false}}}}"
    file.write_text(text + "}" * ("{" in section))
    made = launched(launch, params_file=str(file), namespace="left")
    assert watched_by(made["supervisor"]) == settings_of(made["run"])
    assert watched_by(made["supervisor"]).robot == "xarm6"
    made = launched(launch, namespace="left")
    assert watched_by(made["supervisor"]) == settings_of(made["run"])


@pytest.mark.parametrize("launch", LAUNCHES)
def test_nodes_that_restart_by_themselves_begin_stopped(launched: Launched, launch: str) -> None:
    assert after("--begin-stopped", launched(launch)["supervisor"]) == ["false"]
    assert after("--begin-stopped", launched(launch, use_respawn="true")["supervisor"]) == ["true"]


def test_a_namespace_contains_the_frames_and_the_time_of_a_simulated_cell(launched: Launched) -> None:
    for arguments in launched("sim", namespace="left", recorder="true").values():
        remap, name, namespace = parse_remaps(after("-r", arguments), NODE_NAME, "/")
        resolved = [resolve_name(topic, name, namespace, remap) for topic in ("/tf", "/tf_static", "/clock", "image")]
        assert resolved == ["/left/tf", "/left/tf_static", "/left/clock", "/left/image"]


def test_the_clock_of_a_robot_is_the_one_that_is_named(launched: Launched) -> None:
    for given, topic in (({}, "/clock"), ({"clock": "clock"}, "/left/clock")):
        remap, name, namespace = parse_remaps(
            after("-r", launched("robot", namespace="left", **given)["run"]), "n", "/"
        )
        assert resolve_name("/clock", name, namespace, remap) == topic


def test_a_second_camera_can_have_other_names(launched: Launched) -> None:
    given = "side/image:=/side_camera/color/image_raw side/depth:=/side_camera/depth"
    remap, name, namespace = parse_remaps(after("-r", launched("robot", remap=given)["run"]), "n", "/")
    resolved = [resolve_name(topic, name, namespace, remap) for topic in ("side/image", "side/depth", "image")]
    assert resolved == ["/side_camera/color/image_raw", "/side_camera/depth", "/image"]


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_console_comes_where_it_is_asked_for_and_serves_the_launched_robot(launched: Launched, launch: str) -> None:
    assert "console" not in launched(launch)
    assert after("--namespace", launched(launch, console="true")["console"]) == ["/"]
    assert after("--namespace", launched(launch, console="true", namespace="left")["console"]) == ["/left"]
