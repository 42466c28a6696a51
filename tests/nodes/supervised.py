"""A controller node in a process of its own, without planner and twin: NAMESPACE ROBOT TRANSPORT.

Reads "move SECONDS", "reset" and "look" from its standard input and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from qwen2vl_robot import executor
from qwen2vl_robot.graph.interface import NODE_NAME
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.messages import ApprovalMode
from qwen2vl_robot.nodes.controller_node import ControllerNode
from qwen2vl_robot.nodes.settings import Settings
from tests.cells import admit, reach


def main() -> None:
    namespace, robot, transport = sys.argv[1:4]
    graph = open_graph(transport, NODE_NAME, namespace=namespace)
    node = ControllerNode(graph, Settings(robot=robot, approval=ApprovalMode.AUTO))
    node.activate()
    tell({"is": "ready"})
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "move":
            motion = reach(node.arm.state().q_rad, [0.8, *[0.0] * 6], float(rest[0]))
            approved = replace(admit(motion, node.arm, graph), robot_digest=node._profile.digest)
            report = executor.run(approved, node.arm, graph, node._profile, node.halt)
            tell({"causes": [f"{cause.reason.value}: {cause.text}" for cause in report.causes]})
        elif word == "reset":
            tell({"answer": node.reset()})
        else:
            tell({"stopped_by": node.stopped_by(), "lack": node.guard.lack()})
    node.close()
    graph.close()


def tell(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
