"""The launch files, by the launch library itself: which command lines they make, and which parameters those come to."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.graph.interface import NODE_NAME
from qwen2vl_robot.graph.names import parse_remaps, resolve_name
from qwen2vl_robot.messages import ApprovalMode
from qwen2vl_robot.nodes.settings import Settings, load_settings

pytest.importorskip("launch_ros.actions", reason="launch and launch_ros come with ROS 2")

from launch import LaunchContext
from launch.utilities import perform_substitutions

ROOT = Path(__file__).resolve().parents[1]
LAUNCHES = ["robot", "sim"]
NEVER = "/**:\n  ros__parameters: {approval: never, seen_from: robot, use_sim_time: true, worker_python: /opt/py}\n"


def commands(launch: str, **given: str) -> dict[str, list[str]]:
    """The arguments of each node that a launch file starts, by the node's name."""
    context = LaunchContext()
    context.launch_configurations.update(given)
    entities = list(
        runpy.run_path(str(ROOT / "launch" / f"{launch}.launch.py"))["generate_launch_description"]().entities
    )
    nodes: list[Any] = []
    while entities:
        entity = entities.pop(0)
        if hasattr(entity, "node_executable"):
            if entity.condition is None or entity.condition.evaluate(context):
                nodes.append(entity)
            continue
        entities += entity.visit(context) or []
    made = {}
    for node in nodes:
        node._perform_substitutions(context)
        arguments = [perform_substitutions(context, list(part)) for part in node.cmd[1:]]
        made[arguments[0]] = [part for part in arguments if part != "--ros-args"]
    return made


def after(option: str, arguments: list[str]) -> list[str]:
    return [b for a, b in zip(arguments, arguments[1:], strict=False) if a == option]


def settings(launch: str, **given: str) -> Settings:
    """The controller's settings, read as its process reads them."""
    arguments = commands(launch, **given)["run"]
    _, name, namespace = parse_remaps(after("-r", arguments), NODE_NAME, "/")
    node = resolve_name(f"~/{name}", name, namespace).rpartition("/")[0]
    return load_settings(after("--params-file", arguments), after("-p", arguments), node)


def test_without_a_file_and_arguments_a_robot_has_the_defaults() -> None:
    assert settings("robot") == Settings()
    assert settings("robot", namespace="left") == Settings()


def test_without_a_file_and_arguments_a_simulation_goes_by_itself() -> None:
    assert settings("sim") == Settings(approval=ApprovalMode.AUTO, use_sim_time=True)


@pytest.mark.parametrize("namespace", ["", "left"])
@pytest.mark.parametrize("launch", LAUNCHES)
def test_what_the_file_says_counts_where_no_argument_was_given(launch: str, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(NEVER)
    read = settings(launch, params_file=str(file), namespace=namespace)
    assert (read.approval, read.seen_from, read.use_sim_time) == (ApprovalMode.NEVER, "robot", True)
    assert read.worker_python == "/opt/py"
    file.write_text("/**:\n  ros__parameters: {use_sim_time: false}\n")
    assert settings(launch, params_file=str(file), namespace=namespace).use_sim_time is False


@pytest.mark.parametrize("launch", LAUNCHES)
def test_an_argument_counts_more_than_the_file(launch: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(NEVER)
    given = {
        "approval": "confirm",
        "seen_from": "picture",
        "use_sim_time": "false",
        "worker_python": "/usr/bin/python3",
    }
    read = settings(launch, params_file=str(file), **given)
    assert (read.approval, read.seen_from, read.use_sim_time) == (ApprovalMode.CONFIRM, "picture", False)
    assert read.worker_python == "/usr/bin/python3"


@pytest.mark.parametrize("launch", LAUNCHES)
def test_the_file_of_another_robot_does_not_count(launch: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/right/qwen2vl_robot:\n  ros__parameters: {approval: never, robot: xarm6}\n")
    read = settings(launch, params_file=str(file), namespace="left")
    assert (read.approval, read.robot) == (settings(launch).approval, "franka_panda")


def test_a_namespace_contains_the_frames_and_the_time_of_a_simulated_cell() -> None:
    for arguments in commands("sim", namespace="left", recorder="true").values():
        remap, name, namespace = parse_remaps(after("-r", arguments), NODE_NAME, "/")
        resolved = [resolve_name(topic, name, namespace, remap) for topic in ("/tf", "/tf_static", "/clock", "image")]
        assert resolved == ["/left/tf", "/left/tf_static", "/left/clock", "/left/image"]


def test_the_clock_of_a_robot_is_the_one_that_is_named() -> None:
    for given, topic in (({}, "/clock"), ({"clock": "clock"}, "/left/clock")):
        remap, name, namespace = parse_remaps(
            after("-r", commands("robot", namespace="left", **given)["run"]), "n", "/"
        )
        assert resolve_name("/clock", name, namespace, remap) == topic
