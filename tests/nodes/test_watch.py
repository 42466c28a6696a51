"""A client of the controller: it waits for the end of the task that it asked for, or for the refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.nodes.watch import DemoClient, wait_for
from tests.domains import DOMAIN


class Answering:
    """Answers each instruction with a status that counts it as ended or as refused."""

    def __init__(self) -> None:
        self.graph = DdsGraph("controller")
        self.status = {"state": "idle", "doing": "", "tasks": 3, "refused_instructions": 2}
        self.takes = True
        name = f"{interface.NODE_NAME}/{interface.STATUS.name[2:]}"
        self.publisher = self.graph.publisher(interface.STATUS.at(name))
        self.graph.subscribe(interface.INSTRUCTION, self.answer)

    def answer(self, message: interface.Message) -> None:
        if self.takes:
            self.status |= {"tasks": 4, "last_task": {"instruction": message.data, "outcome": "achieved"}}
        else:
            self.status |= {"refused_instructions": 3, "last_refusal": "the supervisor does not hear this node"}
        self.publish()

    def publish(self) -> None:
        self.publisher.publish(self.graph.message("std_msgs/msg/String")(data=json.dumps(self.status)))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        yield living
        living.terminate()


@pytest.mark.parametrize("takes", [True, False])
def test_it_waits_for_the_answer_to_its_own_instruction(
    process: subprocess.Popen[bytes], takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    controller, client = Answering(), DemoClient("dds", lambda line: None)
    controller.takes = takes
    wait_for(lambda: [controller.publish(), client.status][1], process, "controller", 20.0)
    client.ask("pick up the red block", process)
    if takes:
        assert client.wait(process, 20.0) == {"instruction": "pick up the red block", "outcome": "achieved"}
    else:
        with pytest.raises(ExecutionError, match="did not take the instruction: the supervisor does not hear"):
            client.wait(process, 20.0)
    client.close()
    controller.graph.close()
