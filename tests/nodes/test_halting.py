"""The point at which a halt by topic lets the arm rest: by where it is, not by where it was."""

from __future__ import annotations

import threading
import time

import numpy as np

from qwen2vl_robot.config import Controllers
from qwen2vl_robot.geometry import read_only
from qwen2vl_robot.messages import RobotState
from qwen2vl_robot.nodes.halting import Halting
from tests.cells import PROFILE
from tests.nodes.local_graph import LocalGraph

TOPICS = PROFILE.model_copy(update={"controllers": Controllers(arm_form="topic", gripper_form="topic")})
COMMANDS = f"{PROFILE.controllers.arm}/joint_trajectory"


def state(graph: LocalGraph, q_rad: float, age_s: float) -> RobotState:
    q, still = read_only(np.full(7, q_rad)), read_only(np.zeros(7))
    return RobotState(graph.now_ns() - round(age_s * 1e9), q, still, 0.08)


def test_a_process_that_stood_still_waits_for_a_fresh_state_before_it_holds() -> None:
    graph = LocalGraph()
    halting, states = Halting(graph, TOPICS), [state(graph, 0.1, 3.0)]
    threading.Timer(0.01, lambda: states.append(state(graph, 0.3, 0.0))).start()
    halting.send(lambda: states[-1])
    (sent,) = graph.sent[COMMANDS]
    assert sent.points[0].positions[0] == 0.3


def test_without_a_fresh_state_the_old_one_has_to_do() -> None:
    graph = LocalGraph()
    began_s = time.monotonic()
    Halting(graph, TOPICS).send(lambda: state(graph, 0.1, 3.0))
    assert graph.sent[COMMANDS][0].points[0].positions[0] == 0.1
    assert time.monotonic() - began_s < 5.0


def test_without_any_state_nothing_is_sent() -> None:
    graph = LocalGraph()
    Halting(graph, TOPICS).send(lambda: None)
    assert COMMANDS not in graph.sent
