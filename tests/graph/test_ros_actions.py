"""Actions over rclpy where its threads run in the worst order: no answer, no cancel and no end of a goal is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.graph.transport import has_rclpy
from tests.domains import DOMAIN
from tests.graph import peer
from tests.graph.peer import goal, until

if not has_rclpy():
    reason = "rclpy is not importable here: install ROS 2 and source its setup file to test actions over it"
    pytest.skip(reason, allow_module_level=True)

from rclpy.action.server import ActionServer, ServerGoalHandle

from qwen2vl_robot.graph.ros import RosGraph

LONG_S = 0.1  # in which the other side's message comes and is handled


class SlowToReturn:
    """rclpy's inner client, whose requests are answered before the call that sends them returns."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._handle, name)
        return self._slowed(value) if name.startswith("send_") else value

    def __enter__(self) -> Any:
        return self._handle.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._handle.__exit__(*error)

    @staticmethod
    def _slowed(send: Any) -> Any:
        def slowed(request: Any) -> Any:
            number = send(request)
            time.sleep(LONG_S)
            return number

        return slowed


class SlowToExecute(ServerGoalHandle):
    """A goal that is cancelled between rclpy's look at its state and its change of that state."""

    def _update_state(self, event: Any) -> None:
        if event.name == "EXECUTE":
            time.sleep(LONG_S)
        super()._update_state(event)


def slow_to_hear(handle: ServerGoalHandle) -> None:
    time.sleep(LONG_S)


def slow_to_execute(handle: ServerGoalHandle) -> None:
    handle.__class__ = SlowToExecute


def before_acceptance(graph: RosGraph, prepare: Callable[[ServerGoalHandle], None]) -> None:
    """Have `prepare` called with each goal whose acceptance was sent, before our server learns of it."""
    server = next(w for w in graph._node.waitables if isinstance(w, ActionServer))
    on_accepted = server._handle_accepted_callback

    def prepared(handle: ServerGoalHandle) -> None:
        prepare(handle)
        on_accepted(handle)

    server.register_handle_accepted_callback(prepared)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RosGraph, RosGraph]]:
    """Give the client's graph and the server's."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    client, server = RosGraph("client"), RosGraph("server")
    yield client, server
    client.close()
    server.close()


def client_of(graphs: tuple[RosGraph, RosGraph]) -> Any:
    peer.Follower(graphs[1])
    client = graphs[0].action_client(peer.FOLLOW)
    until(client.is_served)
    return client


def test_an_answer_that_comes_before_the_request_was_noted_is_not_lost(graphs: tuple[RosGraph, RosGraph]) -> None:
    client = client_of(graphs)
    client._client._client_handle = SlowToReturn(client._client._client_handle)
    sent = client.send(goal(graphs[0], 1))
    until(sent.accepted, 5.0)
    sent.cancel()
    until(sent.outcome, 5.0)
    assert sent.outcome()[0] is GoalStatus.CANCELED


@pytest.mark.parametrize("prepare", [slow_to_hear, slow_to_execute])
def test_a_cancel_right_after_the_acceptance_is_not_lost(
    graphs: tuple[RosGraph, RosGraph], prepare: Callable[[ServerGoalHandle], None]
) -> None:
    client = client_of(graphs)
    before_acceptance(graphs[1], prepare)
    for _ in range(3):
        sent = client.send(goal(graphs[0], 1))
        until(sent.accepted, 5.0)
        sent.cancel()
        until(sent.outcome, 5.0)
        assert sent.outcome()[0] is GoalStatus.CANCELED


def test_a_goal_that_ends_without_a_result_gives_the_empty_one(graphs: tuple[RosGraph, RosGraph]) -> None:
    def accept(message: Any, handle: interface.GoalHandle) -> bool:
        handle.end(GoalStatus.ABORTED, None)
        return True

    graphs[1].serve_action(peer.FOLLOW, accept, lambda handle: None)
    client = graphs[0].action_client(peer.FOLLOW)
    until(client.is_served)
    sent = client.send(goal(graphs[0], 1))
    until(sent.outcome, 5.0)
    outcome = sent.outcome()
    assert outcome is not None
    assert (outcome[0], outcome[1].error_code) == (GoalStatus.ABORTED, 0)


def test_what_rclpy_raises_is_reported_and_ends_nothing(graphs: tuple[RosGraph, RosGraph]) -> None:
    def fail() -> None:
        raise ValueError("inside rclpy")

    broken: list[str] = []
    graphs[1].on_broken(broken.append)
    client = client_of(graphs)
    graphs[1]._executor.create_task(fail)
    until(lambda: broken)
    assert broken == ["rclpy: ValueError: inside rclpy"]
    sent = client.send(goal(graphs[0], 0))
    until(lambda: sent.accepted() is False)
