"""What another node sends, however it sends it and whatever it says about the time, against every transport."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.joints import JointStates
from tests.cells import PROFILE
from tests.domains import DOMAIN
from tests.graph import raw
from tests.graph.peer import FOLLOW, Follower, goal, until
from tests.graph.raw import NS, Sender
from tests.graph.test_transport import TRANSPORTS

REMAPPED = {"/tf": "tf", "/tf_static": "tf_static", "/clock": "clock"}
JOINTS = [*(joint.name for joint in PROFILE.joints), *PROFILE.gripper.joints]


@pytest.fixture(scope="module", autouse=True)
def domain() -> Iterator[int]:
    """A domain of our own, so that neither other tests nor real robots are on it."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    yield DOMAIN
    patch.undo()


class Opened:
    """Makes nodes, and closes them."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.graphs: list[interface.Graph] = []

    def __call__(self, name: str, **options: Any) -> interface.Graph:
        self.graphs.append(open_graph(self.transport, name, **options))
        return self.graphs[-1]


@pytest.fixture(params=TRANSPORTS)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    made = Opened(request.param)
    yield made
    for graph in made.graphs:
        graph.close()


def matched(sender: Sender, count: int = 1) -> Sender:
    until(lambda: sender.listeners() >= count)
    time.sleep(0.3)  # the other side may match a little later
    return sender


def tick(sender: Sender, graph: interface.Graph, stamp_ns: int) -> None:
    """Send a time until it is there: a best-effort reader may lose one."""

    def is_there() -> bool:
        sender.send(raw.Clock(raw.stamp(stamp_ns)))
        return graph.now_ns() == stamp_ns

    until(is_there)


# -------------------------------------------------------------------------------------------------- time


def test_a_clock_that_goes_back_is_followed_and_said(opened: Opened, domain: int) -> None:
    graph = opened("timed", use_sim_time=True)
    jumps: list[float] = []
    graph.on_jump(jumps.append)
    sender = matched(Sender(domain, "/clock", raw.Clock))
    for second in (100, 101, 102, 5, 6):
        tick(sender, graph, second * NS)
    assert jumps == [-97.0]


def test_one_time_from_the_future_does_not_stay(opened: Opened, domain: int) -> None:
    graph = opened("timed", use_sim_time=True)
    jumps: list[float] = []
    graph.on_jump(jumps.append)
    sender = matched(Sender(domain, "/clock", raw.Clock))
    for second in (100, 10**9, 101):
        tick(sender, graph, second * NS)
    assert jumps == [10.0**9 - 100, 101 - 10.0**9]


def test_nobody_sleeps_through_a_jump_back(opened: Opened, domain: int) -> None:
    graph = opened("timed", use_sim_time=True)
    sender = matched(Sender(domain, "/clock", raw.Clock))
    tick(sender, graph, 1000 * NS)
    sleeping = threading.Thread(target=graph.sleep, args=(1.0,))
    sleeping.start()
    time.sleep(0.1)
    tick(sender, graph, NS)
    sleeping.join(3.0)
    assert not sleeping.is_alive()


def test_after_a_jump_back_the_transforms_of_the_new_time_count(opened: Opened, domain: int) -> None:
    graph = opened("timed", use_sim_time=True)
    with pytest.raises(ObservationError):
        graph.transform("base", "camera", 0)  # listens from now on
    clock = matched(Sender(domain, "/clock", raw.Clock))
    tf = matched(Sender(domain, "/tf", raw.TFMessage, reliable=False))
    tick(clock, graph, 1000 * NS)
    for z_m, second in ((0.5, 1000), (0.7, 10)):
        tick(clock, graph, second * NS)

        def is_seen(z_m: float = z_m, stamp_ns: int = second * NS) -> bool:
            tf.send(raw.transform("base", "camera", z_m, stamp_ns))
            try:
                return bool(graph.transform("base", "camera", stamp_ns)[2, 3] == z_m)
            except ObservationError:
                return False

        until(is_seen)


def test_a_transform_that_died_is_said(opened: Opened, domain: int) -> None:
    graph = opened("watching")
    with pytest.raises(ObservationError):
        graph.transform("base", "camera", 0)
    tf = matched(Sender(domain, "/tf", raw.TFMessage))
    now_ns = time.time_ns()
    tf.send(raw.transform("base", "camera", 0.5, now_ns - 30 * NS))

    def said() -> str:
        try:
            graph.transform("base", "camera", now_ns)
        except ObservationError as error:
            return str(error)
        return ""

    until(lambda: "camera came 30.000 s before that time; is it still published?" in said())


def joint_state(position: float, stamp_ns: int) -> raw.JointState:
    n = len(JOINTS)
    return raw.JointState(raw.Header(raw.stamp(stamp_ns)), JOINTS, [position] * n, [0.0] * n)


def test_a_joint_state_from_the_future_is_said_and_hides_none(opened: Opened, domain: int) -> None:
    graph = opened("watching")
    health = Health(graph, hardware_id="arm", facts=dict)
    joints = JointStates(graph, PROFILE, health)
    sender = matched(Sender(domain, "/joint_states", raw.JointState, reliable=False))
    sender.send(joint_state(0.0, time.time_ns() + 10**8 * NS))
    until(lambda: "in the future" in getattr(health.problems().get("joint_states"), "text", ""))
    with pytest.raises(ObservationError, match="in the future; check the clocks"):
        joints.latest()
    sender.send(joint_state(0.1, time.time_ns()))
    until(lambda: joints.newest() is not None)
    assert joints.latest().q_rad == pytest.approx(np.full(7, 0.1))


def test_a_clock_that_is_ahead_does_not_hide_how_old_a_state_is(opened: Opened, domain: int) -> None:
    """Each state is stamped 0.5 s ahead; one that looks fresh would be half a second old."""
    graph = opened("watching")
    joints = JointStates(graph, PROFILE, Health(graph, hardware_id="arm", facts=dict))
    sender = matched(Sender(domain, "/joint_states", raw.JointState))
    for _ in range(100):
        sender.send(joint_state(0.0, time.time_ns() + NS // 2))
        time.sleep(0.01)
    with pytest.raises(ObservationError, match=r"0\.[45].. s in the future"):
        joints.latest()


# ----------------------------------------------------------------------------------- publishers of every kind


@pytest.mark.parametrize("latched", [False, True], ids=["volatile", "latched"])
@pytest.mark.parametrize("reliable", [False, True], ids=["best effort", "reliable"])
@pytest.mark.parametrize(
    ("topic", "kind"),
    [
        (interface.ANY_INSTRUCTION, raw.String),
        (interface.ANY_VOICE_INSTRUCTION, raw.String),
        (interface.JOINT_STATES, raw.JointState),
        (interface.ANY_TF, raw.TFMessage),
        (interface.CLOCK, raw.Clock),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_publisher_is_heard(
    opened: Opened, domain: int, topic: interface.Topic, kind: Any, reliable: bool, latched: bool
) -> None:
    graph = opened("listening")
    heard: list[Any] = []
    graph.subscribe(topic, heard.append)
    sender = matched(Sender(domain, graph.resolve(topic.name), kind, reliable=reliable, latched=latched))

    def has_come() -> bool:
        sender.send(kind())
        return bool(heard)

    until(has_come)


@pytest.mark.parametrize("topic", [interface.INSTRUCTION, interface.APPROVE], ids=lambda topic: topic.name)
def test_a_publisher_that_is_not_heard_is_said(opened: Opened, domain: int, topic: interface.Topic) -> None:
    graph = opened("listening", namespace="/quiet")
    graph.subscribe(topic, lambda message: None)
    sender = Sender(domain, graph.resolve(topic.name), raw.String, reliable=False)
    until(lambda: any(topic.name.strip("~/") in problem for problem in graph.problems()))
    assert not sender.listeners()


# ------------------------------------------------------------------------------------- two cells in one graph


def test_two_cells_each_have_their_own_time(opened: Opened, domain: int) -> None:
    left, right = (
        opened("node", namespace=f"/{side}", remap=REMAPPED, use_sim_time=True) for side in ("left", "right")
    )
    clocks = [matched(Sender(domain, f"/{side}/clock", raw.Clock)) for side in ("left", "right")]
    jumps: list[float] = []
    left.on_jump(jumps.append)
    for second in range(5):
        tick(clocks[0], left, (100 + second) * NS)
        tick(clocks[1], right, second * NS + 1)
    assert (left.now_ns(), right.now_ns()) == (104 * NS, 4 * NS + 1)
    assert not jumps


@pytest.mark.parametrize("name", ["tf", "tf_static"])
def test_two_cells_each_have_their_own_frames(opened: Opened, domain: int, name: str) -> None:
    sides = {"left": 0.5, "right": 0.561}
    nodes = {side: opened("node", namespace=f"/{side}", remap=REMAPPED) for side in sides}
    now_ns = time.time_ns()
    for graph in nodes.values():
        assert pose_or_problem(graph, now_ns) is not None  # listens from now on
    for side, z_m in sides.items():
        sender = matched(Sender(domain, f"/{side}/{name}", raw.TFMessage, latched=name == "tf_static"))
        sender.send(raw.transform("base", "camera", z_m, now_ns))
    for side, z_m in sides.items():
        until(partial(lambda side, z_m: pose_or_problem(nodes[side], now_ns) == z_m, side, z_m))


def test_the_frames_of_another_cell_are_noticed_where_they_are_not_kept_apart(opened: Opened, domain: int) -> None:
    graph = opened("node", namespace="/left")
    now_ns = time.time_ns()
    pose_or_problem(graph, now_ns)
    for z_m in (0.5, 0.561):
        sender = matched(Sender(domain, "/tf_static", raw.TFMessage, latched=True))
        sender.send(raw.transform("base", "camera", z_m, now_ns))
        until(partial(lambda z_m: pose_or_problem(graph, now_ns) in (z_m, None) or "61.0 mm" in problem(graph), z_m))
    until(lambda: "61.0 mm" in problem(graph))
    assert any("61.0 mm" in text for text in graph.problems())


def pose_or_problem(graph: interface.Graph, stamp_ns: int) -> float | str:
    try:
        return float(graph.transform("base", "camera", stamp_ns)[2, 3])
    except ObservationError as error:
        return str(error)


def problem(graph: interface.Graph) -> str:
    return str(pose_or_problem(graph, time.time_ns()))


# --------------------------------------------------------------------------------- two clients of one action


def test_a_goal_of_another_client_is_counted_and_our_own_is_not(opened: Opened) -> None:
    Follower(opened("server"))
    graph = opened("ours")
    ours, theirs = graph.action_client(FOLLOW), opened("theirs").action_client(FOLLOW)
    until(lambda: ours.is_served() and theirs.is_served())
    until(lambda: ours.others() == 1)
    own = ours.send(goal(graph, 1))
    until(own.accepted)
    until(lambda: theirs.foreign_goals() == 1)
    assert ours.foreign_goals() == 0
    foreign = theirs.send(goal(graph, 1))
    until(lambda: ours.foreign_goals() == 1)
    foreign.cancel()
    until(lambda: ours.foreign_goals() == 0)
    own.cancel()
    until(own.outcome)


def test_a_goal_that_another_vendors_server_tells_of_is_counted(opened: Opened, domain: int) -> None:
    Follower(opened("server", namespace="/told"))
    client = opened("ours", namespace="/told").action_client(FOLLOW)
    until(client.is_served)
    sender = matched(Sender(domain, f"/told/{FOLLOW.name}/_action/status", raw.GoalStatusArray, latched=True))
    for status, count in ((2, 1), (4, 0), (1, 1), (6, 0)):
        info = raw.GoalInfo(raw.UUID([7] * 16))
        sender.send(raw.GoalStatusArray([raw.GoalStatus(info, status)]))
        until(partial(lambda count: client.foreign_goals() == count, count))


def test_the_goals_of_a_server_that_is_gone_are_forgotten(opened: Opened, domain: int) -> None:
    client = opened("ours", namespace="/gone").action_client(FOLLOW)
    sender = matched(Sender(domain, f"/gone/{FOLLOW.name}/_action/status", raw.GoalStatusArray, latched=True))
    sender.send(raw.GoalStatusArray([raw.GoalStatus(raw.GoalInfo(raw.UUID([7] * 16)), 2)]))
    time.sleep(0.5)
    assert client.foreign_goals() == 0
