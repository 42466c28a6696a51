"""The same goals, cancels and halts to ros2_control's controllers and to the stand-in → where the two differ."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.controllers.client import Client
from qwen2vl_robot.benchmarks.controllers.goals import gripper_cases
from qwen2vl_robot.benchmarks.controllers.worlds import (
    OLD_GRIPPER,
    RealControllers,
    StandIn,
    bench_profile,
    closing,
    find_ros2_control,
    versions,
)
from qwen2vl_robot.config import Controllers
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.own_domain import use_own_domain
from qwen2vl_robot.graph.transport import check_transport, open_graph
from qwen2vl_robot.nodes.halting import Halting

Row = dict[str, Any]

_OFFSET_RAD = np.array([0.8, 0.3, 0.0, 0.4, 0.0, 0.3, -0.5])
_MOTION_S, _HALF_S, _WATCH_S = 2.0, 0.9, 1.0
_SAME_RAD = 0.02  # two arms that ended so close did the same
_COMPARED = ("accepted", "ended", "has_velocities")


def run_controllers(transport: str, tell: Callable[..., None]) -> dict[str, Any]:
    """Run everything against both.

    Returns:
        "versions", "transport", "totals" (cases, and how many differ), and "cases": what each of the two did.

    Raises:
        BadInputError: the transport is unknown, or there is no ros2_control.
        WorkerError: a process did not start, or ended early.
    """
    check_transport(transport)
    found = versions(find_ros2_control())
    use_own_domain()
    rows: dict[str, Row] = {}
    for kind in ("real", "stand_in"):
        with tempfile.TemporaryDirectory() as folder:
            for name, row in measure(kind, transport, Path(folder)):
                rows.setdefault(name, {"case": name})[kind] = row
                tell(f"{kind}: {name}: {row}")
    cases = [{**row, "differ": differ(row.get("real"), row.get("stand_in"))} for row in rows.values()]
    totals = {"cases": len(cases), "differ": sum(case["differ"] for case in cases)}
    return {"transport": transport, "versions": found, "totals": totals, "cases": cases}


def measure(kind: str, transport: str, folder: Path) -> Iterator[tuple[str, Row]]:
    """Run everything against one of the two, "real" or "stand_in"; yields names and what was found."""
    for has_velocity in (True, False):
        graph = open_graph(transport, "bench")
        real = RealControllers(graph, folder, has_velocity=has_velocity) if kind == "real" else None
        with closing(real or StandIn(transport, has_velocity=has_velocity)):
            client = Client(graph, bench_profile())
            if has_velocity:
                yield from _goals(client)
                yield from in_the_middle(client)
                yield from _gripper(client, bench_profile().controllers.gripper, is_parallel=True)
            yield from halts(client, "" if has_velocity else ", velocities NaN")
            if real is not None and has_velocity:
                yield from _old_gripper(client, real)
                yield from _deactivated(client, real)
            elif real is not None:
                yield from _killed(client, real)
        graph.close()
    if kind != "real":
        graph = open_graph(transport, "bench")
        with closing(StandIn(transport, gripper_form="action")):
            yield from _gripper(Client(graph, bench_profile()), OLD_GRIPPER, is_parallel=False)
        graph.close()


def differ(real: Row | None, stand_in: Row | None) -> bool:
    """Return whether two did not do the same, as far as a stand-in can do it."""
    if real is None or stand_in is None:
        return False
    if any(real.get(key) != stand_in.get(key) for key in _COMPARED):
        return True
    ways = [(real[key], stand_in[key]) for key in ("moved_rad", "by_topic_rad") if key in real]
    return any(not np.allclose(a, b, rtol=0.0, atol=_SAME_RAD) for a, b in ways)


def _goals(client: Client) -> Iterator[tuple[str, Row]]:
    """Each goal by action, and by topic where it has no fields of its own."""
    for name in client.goals().cases():
        client.go_home()
        accepted, ended = client.try_goal(client.goals().cases()[name](client.graph.now_ns()))
        time.sleep(0.05)
        row: Row = {"accepted": accepted, "ended": ended, "moved_rad": _moved(client)}
        client.go_home()
        trajectory, fields = client.goals().cases()[name](client.graph.now_ns())
        if not fields:
            client.topic.publish(trajectory)
            time.sleep(1.0)
            row["by_topic_rad"] = _moved(client)
        yield f"goal: {name}", row
    client.go_home()


def _moved(client: Client) -> list[float]:
    return [round(float(x), 3) for x in client.q_rad() - client.home_q_rad]


def in_the_middle(client: Client) -> Iterator[tuple[str, Row]]:
    """What becomes of a goal in the middle of which something else comes."""

    def cancel(sent: interface.SentGoal) -> None:
        sent.cancel()

    def another(sent: interface.SentGoal) -> None:
        client.ending(client.send(client.goals().to(client.home_q_rad, 0.5)), 2.0)

    def by_topic(sent: interface.SentGoal) -> None:
        client.topic.publish(client.goals().to(client.home_q_rad, 0.5))

    def empty(sent: interface.SentGoal) -> None:
        client.topic.publish(client.graph.message("trajectory_msgs/msg/JointTrajectory")())

    for name, act in (
        ("cancelled", cancel),
        ("another goal", another),
        ("a trajectory by topic", by_topic),
        ("an empty trajectory by topic", empty),
    ):
        client.go_home()
        sent = client.send(client.goals().to(client.home_q_rad + _OFFSET_RAD, _MOTION_S))
        time.sleep(_HALF_S)
        act(sent)
        accepted, ended = client.ending(sent, _MOTION_S + 1.0)
        time.sleep(0.3)
        row: Row = {"accepted": accepted, "ended": ended}
        if name != "cancelled":  # that ends where it was noticed
            row["moved_rad"] = _moved(client)
        yield f"in the middle of a goal: {name}", row


def halts(client: Client, what: str) -> Iterator[tuple[str, Row]]:
    """Our halt in the middle of a motion, in the form for actions and in that for topics."""
    for form in ("action", "topic"):
        names = Controllers(**{**client.profile.controllers.model_dump(), "arm_form": form})
        halting = Halting(client.graph, client.profile.model_copy(update={"controllers": names}))
        client.go_home()
        trajectory = client.goals().to(client.home_q_rad + _OFFSET_RAD, _MOTION_S)
        sent = client.send(trajectory) if form == "action" else None
        if sent is None:
            client.topic.publish(trajectory)
        time.sleep(_HALF_S)
        newest, since_ns = client.states.newest(), client.graph.now_ns()
        began_s = time.perf_counter()
        halting.send(client.states.newest, [] if sent is None else [sent])
        took_s = time.perf_counter() - began_s
        time.sleep(_WATCH_S)
        measured = {key: round(value, 4) for key, value in asdict(client.rest_since(since_ns)).items()}
        row: Row = {**measured, "sent_after_s": round(took_s, 4), "has_velocities": client.has_velocities}
        if newest is not None:
            row["our_speed_radps"] = round(float(np.abs(newest.dq_radps).max()), 4)
        if sent is not None:
            row["accepted"], row["ended"] = client.ending(sent, 1.0)
        yield f"halt: {form} form{what}", row
    client.go_home()


def _gripper(client: Client, controller: str, *, is_parallel: bool) -> Iterator[tuple[str, Row]]:
    """Each goal of one of the gripper's actions."""
    kind = interface.PARALLEL_GRIPPER_COMMAND if is_parallel else interface.GRIPPER_COMMAND
    action, finger = (
        kind.at(f"{controller}/{client.profile.controllers.gripper_action}"),
        client.profile.gripper.joints[0],
    )
    hand = client.graph.action_client(action)
    goals = gripper_cases(client.graph.message, finger, is_parallel=is_parallel)
    _wait_until(hand.is_served)
    for name, goal in goals.items():
        _try_gripper(hand, goals["half open"])
        accepted, ended = _try_gripper(hand, goal)
        yield f"{kind.type.split('/')[-1]}: {name}", {"accepted": accepted, "ended": ended}
    _try_gripper(hand, goals["half open"])


def _try_gripper(hand: interface.ActionClient, goal: interface.Message) -> tuple[bool | None, str]:
    sent = hand.send(goal)
    _wait_until(lambda: sent.outcome() is not None or sent.accepted() is False, at_most_s=2.0)
    outcome = sent.outcome()
    if sent.accepted() is not True or outcome is None:
        sent.cancel()
        return sent.accepted(), ""
    status, result = outcome
    flags = "" if result is None else " stalled" if result.stalled else " reached" if result.reached_goal else ""
    return True, f"{status.name.lower()}{flags}"


def _old_gripper(client: Client, real: RealControllers) -> Iterator[tuple[str, Row]]:
    real.use_old_gripper()
    yield from _gripper(client, OLD_GRIPPER, is_parallel=False)


def _deactivated(client: Client, real: RealControllers) -> Iterator[tuple[str, Row]]:
    sent = _long_goal(client)
    real.deactivate()
    accepted, ended = client.ending(sent, 5.0)
    yield "in the middle of a goal: the controller is deactivated", {"accepted": accepted, "ended": ended}


def _killed(client: Client, real: RealControllers) -> Iterator[tuple[str, Row]]:
    """How long the graph still shows the servers of a process that was killed; the joint states end at once."""
    _long_goal(client)
    began_s = time.monotonic()
    real.kill()
    _wait_until(lambda: not client.has_servers(), at_most_s=30.0)
    seen = {} if client.has_servers() else {"gone_after_s": round(time.monotonic() - began_s, 2)}
    yield "in the middle of a goal: controller_manager is killed", seen


def _long_goal(client: Client) -> interface.SentGoal:
    client.go_home()
    sent = client.send(client.goals().to(client.home_q_rad + _OFFSET_RAD, 20.0))
    time.sleep(_HALF_S)
    return sent


def _wait_until(condition: Callable[[], bool], at_most_s: float = 20.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.005)
