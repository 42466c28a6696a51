"""The goals of `bench controllers` reach a stand-in over the wire, and a difference is seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen2vl_robot.benchmarks.controllers.client import Client
from qwen2vl_robot.benchmarks.controllers.suite import differ, halts, in_the_middle, run_controllers
from qwen2vl_robot.benchmarks.controllers.worlds import StandIn, bench_profile, closing, versions
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph.own_domain import use_own_domain
from qwen2vl_robot.graph.transport import open_graph


@pytest.fixture(autouse=True)
def own_domain() -> None:
    use_own_domain()


@pytest.fixture
def client() -> Iterator[Client]:
    graph = open_graph("dds", "bench")
    with closing(StandIn("dds")):
        yield Client(graph, bench_profile())
    graph.close()


def test_a_stand_in_takes_refuses_cancels_and_halts(client: Client) -> None:
    cases = client.goals().cases()
    assert client.try_goal(cases["as it should be"](client.graph.now_ns())) == (True, "succeeded 0")
    assert client.try_goal(cases["an unknown joint"](client.graph.now_ns())) == (False, "")
    assert client.try_goal(cases["stamp an hour ahead"](client.graph.now_ns())) == (True, "")
    rows = dict(in_the_middle(client))
    assert rows["in the middle of a goal: cancelled"]["ended"] == "canceled 0"
    assert rows["in the middle of a goal: another goal"]["ended"] == "aborted -1"
    stopped = dict(halts(client, ""))
    assert stopped["halt: action form"]["speed_radps"] > 0.1
    for row in stopped.values():
        assert row["way_rad"] < 0.2  # it would have gone on by 0.4 rad and more


SAME = {"accepted": True, "ended": "succeeded 0", "moved_rad": [0.04, 0.0], "by_topic_rad": [0.04, 0.0]}


@pytest.mark.parametrize(
    ("changes", "is_seen"),
    [
        ({}, False),
        ({"moved_rad": [0.045, 0.0]}, False),
        ({"moved_rad": [0.0, 0.0]}, True),
        ({"by_topic_rad": [0.0, 0.0]}, True),
        ({"moved_rad": [float("nan"), 0.0]}, True),
        ({"accepted": False}, True),
        ({"ended": "aborted -4"}, True),
    ],
)
def test_what_two_did_differs_in_acceptance_end_or_place(changes: dict[str, object], is_seen: bool) -> None:
    assert differ(SAME, {**SAME, **changes}) is is_seen
    assert differ({**SAME, **changes}, SAME) is is_seen


def test_what_only_one_can_do_is_no_difference() -> None:
    assert not differ(SAME, None)


def test_without_ros2_control_nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(BadInputError, match="source a ROS 2 with ros2_control"):
        run_controllers("dds", print)


def test_versions_are_read_from_what_is_installed(tmp_path: Path) -> None:
    share = tmp_path / "share" / "joint_trajectory_controller"
    share.mkdir(parents=True)
    (share / "package.xml").write_text("<package><version>4.42.1</version></package>", encoding="utf-8")
    assert versions(tmp_path / "lib" / "controller_manager") == {"joint_trajectory_controller": "4.42.1"}
