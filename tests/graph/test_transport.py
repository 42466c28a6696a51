"""What every transport promises, against another process on the loopback interface."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclonedds.domain import DomainParticipant

from qwen2vl_robot.errors import BadInputError, ExecutionError, ObservationError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.graph.transport import has_rclpy, open_graph
from tests.domains import DOMAIN
from tests.graph import peer, raw
from tests.graph.peer import goal, until

ROOT = Path(__file__).resolve().parents[2]
NO_RCLPY = "rclpy is not importable here: install ROS 2 and source its setup file to run this suite on it"
TRANSPORTS = ["dds", pytest.param("ros", marks=pytest.mark.skipif(not has_rclpy(), reason=NO_RCLPY))]


@pytest.fixture(scope="module", autouse=True)
def own_domain() -> Iterator[None]:
    """Use a domain of our own, so that neither other tests nor real robots are on it."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    yield
    patch.undo()


def start_peer(transport: str, namespace: str = "/") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "tests.graph.peer", transport, namespace]
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def end_peer(other: subprocess.Popen[str]) -> None:
    assert other.stdin is not None
    other.stdin.close()
    other.wait(20)


@pytest.fixture(scope="module", params=TRANSPORTS)
def graph(request: pytest.FixtureRequest) -> Iterator[interface.Graph]:
    other = start_peer(request.param)
    joined = open_graph(request.param, "tester")
    yield joined
    joined.close()
    end_peer(other)


class Kept:
    """A subscription that keeps its messages."""

    def __init__(self, graph: interface.Graph, topic: interface.Topic) -> None:
        self.messages: list[Any] = []
        graph.subscribe(topic, self.messages.append)


def test_a_message_comes_back_changed(graph: interface.Graph) -> None:
    kept, sender = Kept(graph, peer.ECHO_OUT), graph.publisher(peer.ECHO_IN)
    until(lambda: sender.listeners() == 1 and graph.publishers_of(peer.ECHO_OUT) == 1)
    time.sleep(0.5)
    sender.publish(graph.message("std_msgs/msg/String")(data="grüße"))
    until(lambda: kept.messages)
    assert kept.messages[0].data == "GRÜSSE"


def test_an_image_comes_back_bit_by_bit(graph: interface.Graph) -> None:
    kept, sender = Kept(graph, peer.IMAGE_OUT), graph.publisher(peer.IMAGE_IN)
    data = np.random.default_rng(1).integers(0, 256, 640 * 480 * 3, dtype=np.uint8).tobytes()
    until(lambda: sender.listeners() == 1)
    picture = graph.message("sensor_msgs/msg/Image")(height=480, width=640, encoding="rgb8", step=1920, data=data)

    def has_come() -> bool:  # best effort: the first may be lost
        sender.publish(picture)
        time.sleep(0.1)
        return bool(kept.messages)

    until(has_come)
    assert bytes(kept.messages[0].data) == data


def test_a_late_subscriber_gets_the_latest_latched_message(graph: interface.Graph) -> None:
    kept = Kept(graph, peer.NEWS)
    until(lambda: kept.messages)
    time.sleep(0.2)
    assert [m.data for m in kept.messages] == ["newest"]


def test_diffs_are_none_lost_and_a_late_subscriber_gets_the_latest_in_their_order(graph: interface.Graph) -> None:
    topic = interface.Topic("diffs", "std_msgs/msg/String", interface.Qos.DIFFS, "")
    early, sender, string = Kept(graph, topic), graph.publisher(topic), graph.message("std_msgs/msg/String")
    until(lambda: sender.listeners() == 1)
    for number in range(8):  # at once, as a quick task does
        sender.publish(string(data=str(number)))
    until(lambda: len(early.messages) == 8)
    late = Kept(graph, topic)
    until(lambda: len(late.messages) == 8)
    assert [m.data for m in early.messages] == [m.data for m in late.messages] == [str(n) for n in range(8)]


def test_publishers_are_counted_over_all_processes(graph: interface.Graph) -> None:
    until(lambda: graph.publishers_of(peer.NEWS) == 1)
    graph.publisher(peer.NEWS)
    until(lambda: graph.publishers_of(peer.NEWS) == 2)
    assert graph.publishers_of(peer.NEWS.at("nobody_writes_here")) == 0


@pytest.fixture(scope="module")
def follower(graph: interface.Graph) -> interface.ActionClient:
    client = graph.action_client(peer.FOLLOW)
    until(client.is_served)
    return client


def test_a_goal_gives_feedback_and_a_result(graph: interface.Graph, follower: interface.ActionClient) -> None:
    feedback: list[Any] = []
    sent = follower.send(goal(graph, 2), feedback.append)
    until(lambda: sent.outcome() and feedback)  # two topics: the result may overtake the feedback
    outcome = sent.outcome()
    assert outcome is not None
    assert sent.accepted() is True
    assert (outcome[0], outcome[1].error_code, outcome[1].error_string) == (GoalStatus.SUCCEEDED, 0, "done")
    assert [list(f.joint_names) for f in feedback] == [["a", "b"]]


def test_a_rejected_goal_is_not_accepted(graph: interface.Graph, follower: interface.ActionClient) -> None:
    sent = follower.send(goal(graph, 0))
    until(lambda: sent.accepted() is not None)
    assert sent.accepted() is False


def test_a_cancelled_goal_ends_cancelled(graph: interface.Graph, follower: interface.ActionClient) -> None:
    sent = follower.send(goal(graph, 1))
    until(sent.accepted)
    assert sent.outcome() is None
    sent.cancel()
    until(sent.outcome)
    outcome = sent.outcome()
    assert outcome is not None
    assert outcome[0] is GoalStatus.CANCELED


def test_a_goal_cancelled_before_it_was_accepted_ends_too(
    graph: interface.Graph, follower: interface.ActionClient
) -> None:
    sent = follower.send(goal(graph, 1))
    sent.cancel()
    until(sent.outcome)
    outcome = sent.outcome()
    assert outcome is not None
    assert outcome[0] is GoalStatus.CANCELED


@pytest.fixture(scope="module")
def executor(graph: interface.Graph) -> interface.ActionClient:
    if not graph.has_type(peer.EXECUTE.type):
        pytest.skip("qwen2vl_robot_msgs is not built here: colcon builds it from msgs/")
    client = graph.action_client(peer.EXECUTE)
    until(client.is_served)
    return client


def test_a_task_has_its_words_its_progress_and_its_outcome(
    graph: interface.Graph, executor: interface.ActionClient
) -> None:
    feedback: list[Any] = []
    task = graph.message(f"{peer.EXECUTE.type}_Goal")(instruction="grüße", source="agent")
    sent = executor.send(task, feedback.append)
    until(lambda: sent.outcome() and feedback)
    outcome = sent.outcome()
    assert outcome is not None
    assert (outcome[0], outcome[1].outcome, outcome[1].report) == (
        GoalStatus.SUCCEEDED, "achieved", "agent: grüße",
    )  # fmt: skip
    assert (feedback[0].doing, feedback[0].verdict, feedback[0].awaits) == ("admit", "", "ab")


def test_a_goal_that_ends_while_it_is_accepted_has_its_reason(
    graph: interface.Graph, executor: interface.ActionClient
) -> None:
    for _ in range(20):
        sent = executor.send(graph.message(f"{peer.EXECUTE.type}_Goal")(instruction="busy"))
        until(sent.outcome)
        outcome = sent.outcome()
        assert outcome is not None
        assert sent.accepted() is True
        assert (outcome[0], outcome[1].outcome, outcome[1].reason) == (GoalStatus.ABORTED, "refused", "busy")


def test_a_call_carries_the_fields_of_its_request(graph: interface.Graph, executor: interface.ActionClient) -> None:
    for digest, accepted in (("ab", True), ("cd", False)):
        answer = graph.call(peer.APPROVE, 20.0, digest=digest)
        assert (answer.accepted, answer.text) == (accepted, f"got {digest}")


def test_an_action_without_a_server_is_not_served(graph: interface.Graph) -> None:
    assert not graph.action_client(peer.FOLLOW.at("nobody/follow_joint_trajectory")).is_served()


def knows_camera(graph: interface.Graph) -> bool:
    try:
        graph.transform("base", "camera", graph.now_ns())
    except ObservationError:
        return False
    return True


def test_a_service_that_is_called_responds_and_one_that_nobody_serves_is_an_error(graph: interface.Graph) -> None:
    first, second = (graph.call(peer.FLIP, 20.0).success for _ in range(2))
    assert first != second
    with pytest.raises(ExecutionError, match="nobody serves /nothing"):
        graph.call(replace(peer.FLIP, name="nothing"), 0.3)


def test_a_fixed_frame_is_found_and_a_missing_one_is_named(graph: interface.Graph) -> None:
    until(lambda: knows_camera(graph))
    assert graph.transform("base", "camera", graph.now_ns())[:3, 3] == pytest.approx([1.0, 2.0, 3.0])
    with pytest.raises(ObservationError, match="elbow"):
        graph.transform("base", "elbow", graph.now_ns())


def test_frames_that_form_a_cycle_give_no_pose(graph: interface.Graph) -> None:
    until(lambda: knows_camera(graph))
    with pytest.raises(ObservationError, match="cycle|loop"):
        graph.transform("base", "ring_a", graph.now_ns())


def test_a_callback_that_raises_is_reported_and_the_next_message_still_comes(graph: interface.Graph) -> None:
    topic = interface.Topic("fragile", "std_msgs/msg/String", interface.Qos.COMMAND, "")
    seen: list[str] = []

    def fragile(message: Any) -> None:
        seen.append(message.data)
        raise ValueError(f"cannot bear {message.data}")

    graph.subscribe(topic, fragile)
    sender = graph.publisher(topic)
    until(lambda: sender.listeners() >= 1)
    for data in ("one", "two"):
        sender.publish(graph.message("std_msgs/msg/String")(data=data))
    until(lambda: len(seen) == 2)
    until(lambda: any("cannot bear" in problem for problem in graph.problems()))


def test_a_report_that_raises_does_not_deafen_the_subscription(graph: interface.Graph) -> None:
    topic = interface.Topic("twice_fragile", "std_msgs/msg/String", interface.Qos.COMMAND, "")
    seen: list[str] = []

    def fragile(message: Any) -> None:
        seen.append(message.data)
        raise ValueError("the callback")

    def report(problem: str) -> None:
        raise ValueError("the report of it")

    graph.on_broken(report)
    graph.subscribe(topic, fragile)
    sender = graph.publisher(topic)
    until(lambda: sender.listeners() >= 1)
    for count, data in enumerate(("one", "two"), start=1):
        sender.publish(graph.message("std_msgs/msg/String")(data=data))
        until(partial(lambda wanted: len(seen) == wanted, count))
    graph.on_broken(lambda problem: None)


def test_an_action_whose_callbacks_raise_rejects_goals_and_still_answers(graph: interface.Graph) -> None:
    fragile = peer.FOLLOW.at("fragile/follow_joint_trajectory")

    def accept(message: Any, handle: interface.GoalHandle) -> bool:
        raise ValueError("cannot accept")

    graph.serve_action(fragile, accept, lambda handle: None)
    client = graph.action_client(fragile)
    until(client.is_served)
    for _ in range(2):
        sent = client.send(goal(graph, 1))
        until(partial(lambda goal: goal.accepted() is False, sent))
    until(lambda: any("cannot accept" in problem for problem in graph.problems()))


def test_a_qos_mismatch_is_reported(graph: interface.Graph) -> None:
    loose = interface.Topic("loose", "std_msgs/msg/String", interface.Qos.SENSOR, "")
    graph.publisher(loose)
    graph.subscribe(interface.Topic("loose", "std_msgs/msg/String", interface.Qos.COMMAND, ""), lambda message: None)
    until(lambda: any("loose" in problem for problem in graph.problems()))


def test_a_qos_mismatch_is_a_problem_while_it_is_there(graph: interface.Graph) -> None:
    graph.subscribe(interface.Topic("strict", "std_msgs/msg/String", interface.Qos.COMMAND, ""), lambda message: None)
    participant = DomainParticipant(int(os.environ["ROS_DOMAIN_ID"]))
    loose = raw.writer(participant, "/strict", raw.String, reliable=False)
    until(lambda: any("strict" in problem for problem in graph.problems()))
    del loose, participant
    gc.collect()
    until(lambda: not any("strict" in problem for problem in graph.problems()))


def test_what_raised_is_a_problem_until_it_works_again(graph: interface.Graph) -> None:
    moody = interface.Topic("moody", "std_msgs/msg/String", interface.Qos.COMMAND, "")

    def take(message: Any) -> None:
        if message.data == "bad":
            raise ValueError("a bad day")

    graph.subscribe(moody, take)
    publisher, string = graph.publisher(moody), graph.message(moody.type)
    until(publisher.listeners)
    publisher.publish(string(data="bad"))
    until(lambda: any("a bad day" in problem for problem in graph.problems()))
    publisher.publish(string(data="good"))
    until(lambda: not any("a bad day" in problem for problem in graph.problems()))


@pytest.mark.parametrize("reliable", [True, False])
def test_a_picture_reaches_who_asks_for_reliability_and_who_does_not(graph: interface.Graph, reliable: bool) -> None:
    publisher = graph.publisher(interface.ANNOTATED.at(f"annotated_{reliable}"))
    participant = DomainParticipant(int(os.environ["ROS_DOMAIN_ID"]))
    reader = raw.reader(participant, f"/annotated_{reliable}", raw.Image, reliable=reliable)
    until(publisher.listeners)
    image = graph.message("sensor_msgs/msg/Image")
    taken: list[Any] = []

    def is_taken() -> bool:  # a single one may come before the reader knows of the writer, and is lost to best effort
        publisher.publish(image(height=1, width=2, encoding="rgb8", step=6, data=bytes(range(6))))
        taken.extend(reader.take())
        return bool(taken)

    until(is_taken)
    assert bytes(taken[0].data) == bytes(range(6))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_service_answers_each_caller_its_own_call(transport: str) -> None:
    other = start_peer(transport, "/alone")
    answers: dict[str, list[str]] = {}

    def ask(name: str) -> None:
        answers[name] = CALLERS[transport](name)

    callers = [threading.Thread(target=ask, args=(name,)) for name in ("one", "two")]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(40)
    end_peer(other)
    calls = sorted(answers["one"] + answers["two"], key=lambda text: int(text.split()[1]))
    assert calls == [f"call {i}" for i in range(1, 7)]


def _call_over_dds(name: str) -> list[str]:
    from qwen2vl_robot.graph.dds import DdsGraph

    joined = DdsGraph(f"caller_{name}")
    client = joined.client(f"/alone/{peer.FLIP.name}", peer.FLIP.type)
    until(client.is_served)
    time.sleep(2.0)  # the server's side must have matched as well, also on a busy machine
    messages = [client.call(10.0).message for _ in range(3)]
    joined.close()
    return messages


def _call_over_ros(name: str) -> list[str]:
    command = ["ros2", "service", "call", "/alone/flip", "std_srvs/srv/Trigger"]
    outputs = [subprocess.run(command, capture_output=True, text=True, timeout=30).stdout for _ in range(3)]
    return [text.split("message='")[1].split("'")[0] for text in outputs]


CALLERS = {"dds": _call_over_dds, "ros": _call_over_ros}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_leaves_aborts_its_goals_and_its_process_exits(transport: str) -> None:
    other = start_peer(transport, "/leaving")
    joined = open_graph(transport, "left")
    client = joined.action_client(peer.FOLLOW.at(f"/leaving/{peer.FOLLOW.name}"))
    until(client.is_served)
    sent = client.send(goal(joined, 1))
    until(sent.accepted)
    time.sleep(1.0)  # the client asks for the result after the acceptance; one who asks too late hears nothing
    end_peer(other)
    assert other.returncode == 0
    until(sent.outcome)
    outcome = sent.outcome()
    assert outcome is not None
    assert outcome[0] is GoalStatus.ABORTED
    joined.close()


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(BadInputError, match="carrier_pigeon.*auto, dds, ros"):
        open_graph("carrier_pigeon", "tester")


@pytest.mark.skipif(has_rclpy(), reason="rclpy is here")
def test_the_error_without_rclpy_says_what_to_do() -> None:
    with pytest.raises(BadInputError, match="source a ROS 2 setup file"):
        open_graph("ros", "tester")


@pytest.mark.parametrize("qos", [interface.Qos.SENSOR, interface.Qos.COMMAND, interface.Qos.LATCHED])
def test_a_stop_is_heard_from_every_publisher(graph: interface.Graph, qos: interface.Qos) -> None:
    stop = replace(interface.STOP, name=f"stop_of_{qos.name.lower()}")
    kept = Kept(graph, stop), Kept(graph, replace(interface.ANY_STOP, name=stop.name))
    sender = graph.publisher(replace(stop, qos=qos))
    until(lambda: sender.listeners() == 1 + qos.is_reliable)
    time.sleep(0.5)
    sender.publish(graph.message("std_msgs/msg/Bool")(data=True))
    until(lambda: kept[1].messages)
    if qos.is_reliable:
        until(lambda: kept[0].messages)
    else:
        assert not kept[0].messages  # a reliable subscription alone never hears it
