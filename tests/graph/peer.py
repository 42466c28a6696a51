"""The other process of the contract tests: answers on topics, services and actions until its standard input closes.

Also what the tests on this side share: `goal` and `until`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import transform_message
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.graph.transport import open_graph

ECHO_IN = interface.Topic("echo_in", "std_msgs/msg/String", interface.Qos.COMMAND, "comes back on echo_out")
ECHO_OUT = interface.Topic("echo_out", "std_msgs/msg/String", interface.Qos.COMMAND, "what came on echo_in")
IMAGE_OUT = interface.Topic("image_out", "sensor_msgs/msg/Image", interface.Qos.SENSOR, "what came on image_in")
IMAGE_IN = interface.Topic("image_in", "sensor_msgs/msg/Image", interface.Qos.SENSOR, "comes back on image_out")
NEWS = interface.Topic("news", "std_msgs/msg/String", interface.Qos.LATCHED, "published before anybody subscribes")
FLIP = interface.Service("flip", "std_srvs/srv/Trigger", "true at every second call")
FOLLOW = interface.FOLLOW_JOINT_TRAJECTORY
EXECUTE = interface.EXECUTE.at("execute")
APPROVE = replace(interface.APPROVE_NOW, name="approve_now")


def until(condition: Callable[[], Any], at_most_s: float = 20.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def goal(graph: interface.Graph, points: int) -> Any:
    point = graph.message("trajectory_msgs/msg/JointTrajectoryPoint")
    trajectory = graph.message("trajectory_msgs/msg/JointTrajectory")(
        joint_names=["a", "b"], points=[point(positions=[0.1 * i, 0.2]) for i in range(points)]
    )
    return graph.message(f"{FOLLOW.type}_Goal")(trajectory=trajectory)


class Follower:
    """Serves trajectories: rejects no points, runs one point until it is cancelled, ends more after 0.3 s."""

    def __init__(self, graph: interface.Graph) -> None:
        self.result = graph.message(f"{FOLLOW.type}_Result")
        self.feedback = graph.message(f"{FOLLOW.type}_Feedback")
        graph.serve_action(FOLLOW, self.accept, self.cancel)

    def accept(self, goal: Any, handle: interface.GoalHandle) -> bool:
        points = len(goal.trajectory.points)
        if points > 1:
            threading.Thread(target=self.finish, args=(goal, handle)).start()
        return points > 0

    def finish(self, goal: Any, handle: interface.GoalHandle) -> None:
        time.sleep(0.2)
        handle.feedback(self.feedback(joint_names=goal.trajectory.joint_names))
        time.sleep(0.1)
        handle.end(GoalStatus.SUCCEEDED, self.result(error_code=0, error_string="done"))

    def cancel(self, handle: interface.GoalHandle) -> None:
        handle.end(GoalStatus.CANCELED, self.result(error_code=-5, error_string="cancelled"))


class Asked:
    """Serves our own types, where they are there: goals that end at once or are done, and a yes that counts or not."""

    def __init__(self, graph: interface.Graph) -> None:
        self.result = graph.message(f"{EXECUTE.type}_Result")
        self.feedback = graph.message(f"{EXECUTE.type}_Feedback")
        self.response = graph.message(f"{APPROVE.type}_Response")
        graph.serve_action(EXECUTE, self.accept, lambda handle: None)
        graph.serve(
            APPROVE, lambda request: self.response(accepted=request.digest == "ab", text=f"got {request.digest}")
        )

    def accept(self, goal: Any, handle: interface.GoalHandle) -> bool:
        if goal.instruction == "busy":
            handle.end(GoalStatus.ABORTED, self.result(outcome="refused", reason="busy", text="another task"))
        else:
            threading.Thread(target=self.finish, args=(goal, handle)).start()
        return True

    def finish(self, goal: Any, handle: interface.GoalHandle) -> None:
        time.sleep(0.2)
        handle.feedback(self.feedback(doing="admit", awaits="ab"))
        time.sleep(0.1)
        handle.end(GoalStatus.SUCCEEDED, self.result(outcome="achieved", report=f"{goal.source}: {goal.instruction}"))


def main() -> None:
    graph = open_graph(sys.argv[1], "peer", namespace=sys.argv[2])
    string, trigger = graph.message("std_msgs/msg/String"), graph.message("std_srvs/srv/Trigger_Response")
    echo, image, news = (graph.publisher(t) for t in (ECHO_OUT, IMAGE_OUT, NEWS))
    news.publish(string(data="old"))
    news.publish(string(data="newest"))
    graph.subscribe(ECHO_IN, lambda m: echo.publish(string(data=m.data.upper())))
    graph.subscribe(IMAGE_IN, image.publish)
    calls: list[int] = []

    def flip(request: Any) -> Any:
        calls.append(1)
        return trigger(success=len(calls) % 2 == 0, message=f"call {len(calls)}")

    graph.serve(FLIP, flip)
    Follower(graph)
    if graph.has_type(EXECUTE.type):
        Asked(graph)
    tf = graph.publisher(interface.TF_STATIC)
    pose = make_pose([1.0, 2.0, 3.0])
    fixed = [("base", "camera"), ("ring_a", "ring_b"), ("ring_b", "ring_a")]
    transforms = [transform_message(graph.message, parent, child, pose, 0) for parent, child in fixed]
    tf.publish(graph.message("tf2_msgs/msg/TFMessage")(transforms=transforms))
    print("ready", flush=True)
    sys.stdin.read()
    graph.close()


if __name__ == "__main__":
    main()
