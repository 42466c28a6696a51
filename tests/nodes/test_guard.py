"""What a heartbeat says, and when none is sent; what a foreign message does to the watch: nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.nodes.guard import Guard
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.heartbeat import PERIOD_S, Pulse
from qwen2vl_robot.nodes.supervisor import Supervisor
from tests.cells import PROFILE
from tests.nodes.local_graph import LocalGraph

LIMIT_S = 2.0  # a busy machine is no silence


class Watched:
    """An arm for a guard: for how long nobody has looked at its motion, and how often it was halted."""

    def __init__(self) -> None:
        self.unwatched: float | None = None
        self.halts = 0

    def unwatched_s(self) -> float | None:
        return self.unwatched

    def stop(self) -> None:
        self.halts += 1


class Pair:
    """A guard and a supervisor on one graph."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.graph, self.arm, self.halt = LocalGraph(), Watched(), Halt()
        action = interface.FOLLOW_JOINT_TRAJECTORY.at(f"{PROFILE.controllers.arm}/follow_joint_trajectory")
        self.graph.serve_action(action, lambda *goal: False, lambda goal: None)
        self.cancelled = f"{PROFILE.controllers.arm}/follow_joint_trajectory"
        self.supervisor = Supervisor(self.graph, PROFILE, limit_s)
        self.health = Health(self.graph, hardware_id="arm", facts=dict)
        guarded: Any = self.arm
        self.guard = Guard(self.graph, PROFILE, limit_s, self.halt, guarded, self.halt.stop, self.health)
        self.guard.start()
        self.supervisor.start()
        until(lambda: self.guard.lack() is None)

    def beats(self, topic: interface.Topic) -> list[dict[str, Any]]:
        return [json.loads(message.data) for message in self.graph.sent[topic.name]]

    def close(self) -> None:
        self.guard.close()
        self.supervisor.close()


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def pair() -> Iterator[Pair]:
    fresh = Pair()
    yield fresh
    fresh.close()


def test_a_motion_that_nobody_watches_is_stopped(pair: Pair) -> None:
    pair.arm.unwatched = 0.1
    time.sleep(5 * PERIOD_S)
    assert pair.halt.stopped_by() is None
    pair.arm.unwatched = 0.6
    until(lambda: pair.halt.stopped_by() is not None)
    assert "nothing has watched the arm for 0.60 s" in str(pair.halt.stopped_by())


def test_a_heartbeat_is_not_sent_by_a_process_whose_look_hangs(pair: Pair) -> None:
    """Whoever can no longer look whether the arm is watched is silent, and its supervisor halts."""
    pair.close()
    hanging = Pair(limit_s=0.25)
    try:
        hanging.arm.unwatched = 0.0
        until(lambda: hanging.beats(interface.CONTROLLER_HEARTBEAT)[-1]["is_moving"])
        hanging.guard._arm = None  # type: ignore[assignment] - each look raises from now on, and ends the thread
        until(lambda: "the watch of the supervisor failed" in str(hanging.halt.stopped_by()))
        assert hanging.guard.lack() == hanging.halt.stopped_by()
        until(lambda: hanging.supervisor.stopped_by() is not None)
        assert "the controller was silent" in str(hanging.supervisor.stopped_by())
        assert hanging.graph.cancelled_all[hanging.cancelled] > 0
    finally:
        hanging.guard._arm = hanging.arm  # type: ignore[assignment]
        hanging.close()


def test_a_watch_that_fails_ends_the_supervisor_and_stops_the_controller(pair: Pair) -> None:
    pair.close()
    blind = Pair(limit_s=0.25)
    try:
        blind.arm.unwatched = 0.0
        until(lambda: blind.beats(interface.CONTROLLER_HEARTBEAT)[-1]["is_moving"])
        blind.supervisor._halting.reaches_arm = None  # type: ignore[assignment,method-assign] - each heartbeat fails
        with pytest.raises(ExecutionError, match="the watch failed"):
            blind.supervisor.wait()
        until(lambda: blind.halt.stopped_by() is not None)
        assert "the supervisor was silent" in str(blind.halt.stopped_by())
    finally:
        del blind.supervisor._halting.reaches_arm
        blind.close()


def test_a_stop_of_the_supervisor_is_the_controllers_until_it_is_reset(pair: Pair) -> None:
    pair.graph.give(interface.STOP, data=True)
    assert pair.halt.stopped_by() == "topic stop"
    assert pair.graph.cancelled_all[pair.cancelled] > 0
    pair.guard.release()
    pair.halt.reset()
    until(lambda: pair.supervisor.stopped_by() is None)
    time.sleep(5 * PERIOD_S)
    assert pair.halt.stopped_by() is None
    pair.graph.give(interface.STOP, data=True)  # an earlier reset releases no later stop
    time.sleep(5 * PERIOD_S)
    assert (pair.halt.stopped_by(), pair.supervisor.stopped_by()) == ("topic stop", "topic stop")


def test_a_reset_releases_nothing_that_the_controller_has_not_heard_of(pair: Pair) -> None:
    pair.graph.give(interface.STOP, data=True)
    beat = pair.beats(interface.CONTROLLER_HEARTBEAT)[-1]
    instance = pair.beats(interface.SUPERVISOR_HEARTBEAT)[-1]["instance"]
    for supervisor, released in (("another", 1), (instance, 0), (instance, 7)):
        forged = {**beat, "supervisor": supervisor, "released": released}
        pair.graph.give(interface.CONTROLLER_HEARTBEAT, data=json.dumps(forged))
        assert pair.supervisor.stopped_by() == "topic stop"


def test_a_controller_that_moves_in_spite_of_a_stop_is_halted_at_each_heartbeat(pair: Pair) -> None:
    pair.graph.give(interface.STOP, data=True)
    before = pair.graph.cancelled_all[pair.cancelled]
    beat = {**pair.beats(interface.CONTROLLER_HEARTBEAT)[-1], "is_moving": True, "stopped_by": None}
    pair.graph.give(interface.CONTROLLER_HEARTBEAT, data=json.dumps(beat))
    assert pair.graph.cancelled_all[pair.cancelled] > before


def test_a_second_controller_in_one_namespace_is_stopped(pair: Pair) -> None:
    beat = {**pair.beats(interface.CONTROLLER_HEARTBEAT)[-1], "instance": "another"}
    pair.graph.give(interface.CONTROLLER_HEARTBEAT, data=json.dumps(beat))
    assert "is there beside another one" in str(pair.supervisor.stopped_by())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"instance": 3}', '{"instance": "' + "x" * 10_000 + '"}', "[" * 5000])
def test_what_is_no_heartbeat_neither_counts_nor_breaks_anything(pair: Pair, text: str) -> None:
    for topic in (interface.CONTROLLER_HEARTBEAT, interface.SUPERVISOR_HEARTBEAT):
        pair.graph.give(topic, data=text)
    time.sleep(3 * PERIOD_S)
    assert pair.guard.lack() is None
    assert (pair.halt.stopped_by(), pair.supervisor.stopped_by()) == (None, None)


def test_a_supervisor_that_does_not_hear_the_controller_is_none(pair: Pair) -> None:
    pair.supervisor.close()
    beat = {**pair.beats(interface.SUPERVISOR_HEARTBEAT)[0], "is_leaving": False, "can_halt": True}
    for changed, lack in ((("hears", "somebody"), "does not hear"), (("robot", "x"), "another robot file")):
        pair.graph.give(interface.SUPERVISOR_HEARTBEAT, data=json.dumps({**beat, changed[0]: changed[1]}))
        assert lack in str(pair.guard.lack())


def test_one_late_look_is_no_silence() -> None:
    """The looking process itself got no core, and what has come meanwhile is not read yet."""
    pulse = Pulse(0.05)
    assert pulse.is_silent
    pulse.hear()
    pulse.look()
    assert not pulse.is_silent
    time.sleep(0.1)
    pulse.look()
    assert not pulse.is_silent
    pulse.look()
    assert pulse.is_silent
    pulse.hear()
    assert not pulse.is_silent


def test_a_silence_that_passes_ends_no_task_at_rest_but_every_motion(pair: Pair) -> None:
    """Two processes on a busy machine: the supervisor did not hear this node for a moment, before a motion began."""
    time.sleep(3 * PERIOD_S)  # so that it was guarded once
    pair.supervisor._send = lambda **leaving: None  # type: ignore[method-assign]
    pair.guard._on_beat(pair.graph.message("std_msgs/msg/String")(data=deaf_beat(pair)))
    assert pair.guard.lack() == "the supervisor does not hear this node"
    assert pair.guard.lasting_lack() is None
    pair.arm.unwatched = 0.0
    assert pair.guard.lasting_lack() == "the supervisor does not hear this node"
    pair.arm.unwatched = None
    assert pair.guard.lasting_lack() is None
    until(lambda: pair.guard.lasting_lack() == "the supervisor does not hear this node")


def test_a_motion_waits_for_a_supervisor_that_is_back_in_a_moment(pair: Pair) -> None:
    pair.guard._on_beat(pair.graph.message("std_msgs/msg/String")(data=deaf_beat(pair)))
    assert pair.guard.lack() is not None
    pair.guard.wait()
    assert pair.guard.lack() is None


def deaf_beat(pair: Pair) -> str:
    """What the supervisor says when it does not hear the guard."""
    beat = pair.guard._supervisor
    assert beat is not None
    return beat.model_copy(update={"hears": ""}).model_dump_json()


def test_without_any_supervisor_waiting_ends_and_the_lack_is_said_at_once(pair: Pair) -> None:
    pair.supervisor.close()
    until(lambda: pair.guard.lack() is not None)
    assert pair.guard.lasting_lack() == "no supervisor is heard; start `qwen2vl-robot supervisor` beside this node"
    began_s = time.monotonic()
    pair.guard.wait()
    assert 0.9 <= time.monotonic() - began_s <= 3.0
