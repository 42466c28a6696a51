"""Parameters: a ROS parameter file and name:=value pairs, and the shipped file that explains them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qwen2vl_robot.bounds import NAME_CHARS
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import ApprovalMode
from qwen2vl_robot.nodes.settings import Settings, VoiceSettings, load_parameters, load_settings
from qwen2vl_robot.sides import SeenFrom

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SHIPPED = {LAUNCH / "params.yaml": Settings, LAUNCH / "voice.yaml": VoiceSettings}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_shipped_file_holds_every_parameter_at_its_default(file: Path) -> None:
    values = yaml.safe_load(file.read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    assert values == SHIPPED[file]().model_dump(mode="json")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_shipped_file_explains_every_parameter(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("    ") and not line.strip().startswith("#"):
            assert lines[number - 1].strip().startswith("#"), line


def test_a_pair_counts_more_than_the_file(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("/**:\n  ros__parameters: {seed: 4}\nqwen2vl_robot:\n  ros__parameters: {approval: never}\n")
    settings = load_settings([str(file)], ["seed:=5", "use_sim_time:=true"], "/qwen2vl_robot")
    assert (settings.seed, settings.approval, settings.use_sim_time) == (5, ApprovalMode.NEVER, True)


def test_a_later_file_counts_more(tmp_path: Path) -> None:
    mine, launched = tmp_path / "mine.yaml", tmp_path / "launched.yaml"
    mine.write_text("/**:\n  ros__parameters: {seen_from: robot, approval: never}\n")
    launched.write_text("/**:\n  ros__parameters: {approval: auto}\n")
    settings = load_settings([str(mine), str(launched)], [], "/qwen2vl_robot")
    assert (settings.whose_sides, settings.approval) == (SeenFrom.ROBOT, ApprovalMode.AUTO)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("speed:=3", "allowed here: .*approval"),
        ("approval:=perhaps", "auto.*confirm.*never"),
        ("seen_from:=camera", "picture.*robot"),
        ("seed", "the form is name:=value"),
        ("max_state_age_s:=.nan", "max_state_age_s"),
        ("max_state_age_s:=100.0", "less than or equal to 2"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(given: str, problem: str) -> None:
    with pytest.raises(BadInputError, match=problem) as caught:
        load_settings([], [given], "/qwen2vl_robot")
    assert "\n" not in str(caught.value)


def test_a_file_without_ros_parameters_is_named(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("/**: {seed: 4}\n")
    with pytest.raises(BadInputError, match="ros__parameters"):
        load_settings([str(file)], [], "/qwen2vl_robot")


@pytest.mark.parametrize(
    "text",
    [
        "machine example.org password hunter2\n",
        "- hunter2\n",
        "/**: hunter2\n",
        "/**:\n  ros__parameters: hunter2\n",
        "/qwen2vl_robot:\n  ros__parameters: {password: hunter2}\n",
        "hunter2: hunter2\n",
        "a/hunter2 hunter2: {b: hunter2}\n",
        "/**:\n  ros__parameters: {seed: [hunter2]}\n",
        "/**:\n  ros__parameters: {1: hunter2, [a]: hunter2}\n",
        "a: &a [*a]\n",
        "[" * 100_000,
    ],
)
def test_a_file_that_holds_no_parameters_is_refused_and_not_printed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(BadInputError) as caught:
        load_settings([str(file)], [], "/qwen2vl_robot")
    assert "hunter2" not in str(caught.value)


def test_a_parameter_is_as_long_as_allowed_and_no_letter_longer() -> None:
    assert load_settings([], ["robot:=" + "a" * NAME_CHARS], "/node").robot == "a" * NAME_CHARS
    with pytest.raises(BadInputError, match=f"robot = 'aaa.*at most {NAME_CHARS} characters"):
        load_settings([], ["robot:=" + "a" * (NAME_CHARS + 1)], "/node")


def test_an_empty_file_of_parameters_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").touch()
    assert load_settings([str(tmp_path / "p.yaml")], [], "/node") == load_settings([], [], "/node")


LEFT, RIGHT = "/left/qwen2vl_robot", "/right/qwen2vl_robot"


@pytest.mark.parametrize(
    ("section", "applies"),
    [
        ("/**", True),
        ("/left/qwen2vl_robot", True),
        ("left/qwen2vl_robot", True),
        ("/left/*", True),
        ("/*/qwen2vl_robot", True),
        ("/**/qwen2vl_robot", True),
        ("/right/qwen2vl_robot", False),
        ("/qwen2vl_robot", False),
        ("qwen2vl_robot", False),
        ("/*", False),
        ("/left/qwen2vl_robot/more", False),
        ("/left/qwen2vl.robot", False),
    ],
)
def test_the_parameters_of_another_node_do_not_apply(tmp_path: Path, section: str, applies: bool) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"{section}:\n  ros__parameters: {{seed: 7}}\n")
    assert load_settings([str(file)], [], LEFT).seed == (7 if applies else 0)


def test_nodes_may_be_nested_in_their_namespaces(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    nested = "{}:\n  qwen2vl_robot:\n    ros__parameters: {{approval: {}, seed: {}}}\n"
    file.write_text(nested.format("left", "auto", 1) + nested.format("right", "never", 2))
    left, right = (load_settings([str(file)], [], node) for node in (LEFT, RIGHT))
    assert (left.approval, left.seed) == (ApprovalMode.AUTO, 1)
    assert (right.approval, right.seed) == (ApprovalMode.NEVER, 2)


def test_what_stands_later_counts_more(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("/left/*:\n  ros__parameters: {seed: 1}\n/**:\n  ros__parameters: {seed: 2}\n")
    assert load_settings([str(file)], [], LEFT).seed == 2


def test_what_is_for_other_nodes_is_ignored_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("/**:\n  ros__parameters: {sed: 7, camera: {gain: 3}, 'hunter 2': 1}\n")
    assert load_settings([str(file)], [], LEFT) == Settings()
    assert "sed under /** is ignored; did you mean seed?" in caplog.text
    assert "hunter" not in caplog.text


@pytest.mark.parametrize(
    ("values", "problem"), [("{sed: 7}", "did you mean seed"), ("{seed: {more: 7}}", "not known; allowed here: .*seed")]
)
@pytest.mark.parametrize("section", [LEFT, "/*/qwen2vl_robot", "/**/qwen2vl_robot"])
def test_a_misspelt_parameter_of_this_very_node_is_an_error(
    tmp_path: Path, section: str, values: str, problem: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"{section}:\n  ros__parameters: {values}\n")
    with pytest.raises(BadInputError, match=problem):
        load_settings([str(file)], [], LEFT)
    assert load_settings([str(file)], [], "/left/camera") == Settings()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("rate_hz:=300", "rate_hz"),
        ("channels:=0", "channels"),
        ("channels:=17", "channels"),
        ("speaks:=perhaps", "speaks"),
        ("robot:=xarm6", "allowed here: channels"),
    ],
)
def test_a_wrong_value_of_the_voice_node_is_one_line(given: str, named: str) -> None:
    with pytest.raises(BadInputError, match=named) as caught:
        load_parameters(VoiceSettings, [], [given], "/voice")
    assert "\n" not in str(caught.value)
