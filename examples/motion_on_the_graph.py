"""A trajectory in MoveIt's shape, checked and run by a controller on the graph, over rclpy or over DDS.

Start the simulated cell, supervisor and controller first (docs/without-ros2.md), then run it:
python examples/motion_on_the_graph.py
Your own program needs no code of ours: with rclpy these are one client of a service and one of an action.
"""

import sys
import threading
import time

import numpy as np

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.transport import open_graph

CHECK, EXECUTE = interface.CHECK_TRAJECTORY, interface.EXECUTE_TRAJECTORY
CONTROLLER = {"~/check_trajectory": f"/{interface.NODE_NAME}/check_trajectory",
              "~/execute_trajectory": f"/{interface.NODE_NAME}/execute_trajectory"}  # fmt: skip
ARM = [f"panda_joint{k}" for k in range(1, 8)]


def arm_now(graph: interface.Graph, at_most_s: float = 60.0) -> np.ndarray:
    """Where the arm is, rad."""
    found: dict[str, float] = {}
    graph.subscribe(interface.JOINT_STATES, lambda m: found.update(zip(m.name, m.position, strict=True)))
    end_s = time.monotonic() + at_most_s
    while not found.keys() >= set(ARM):
        if time.monotonic() > end_s:
            raise SystemExit("no joint states; is the robot on?")
        time.sleep(0.05)
    return np.array([found[name] for name in ARM])


def moveit_shape(graph: interface.Graph, start_rad: np.ndarray, way_rad: list[float], seconds: float) -> object:
    """A trajectory_msgs/JointTrajectory as MoveIt plans one: points every 0.1 s with velocities and accelerations."""
    make, points = graph.message, []
    for t in np.linspace(0.0, seconds, round(seconds * 10) + 1):
        s, way = t / seconds, np.array(way_rad)
        points.append(make("trajectory_msgs/msg/JointTrajectoryPoint")(
            positions=(start_rad + s**3 * (10 - 15 * s + 6 * s**2) * way).tolist(),
            velocities=((30 * s**2 - 60 * s**3 + 30 * s**4) * way / seconds).tolist(),
            accelerations=((60 * s - 180 * s**2 + 120 * s**3) * way / seconds**2).tolist(),
            time_from_start=make("builtin_interfaces/msg/Duration")(sec=int(t), nanosec=round(t % 1 * 1e9)),
        ))  # fmt: skip
    return make("trajectory_msgs/msg/JointTrajectory")(joint_names=ARM, points=points)


def run(graph: interface.Graph, trajectory: object, at_most_s: float = 300.0) -> object:
    """Have a trajectory executed, and print what the controller says on the way; returns the result."""
    client, ready = graph.action_client(EXECUTE), threading.Event()
    while not client.is_served():
        time.sleep(0.05)
    goal = graph.message(f"{EXECUTE.type}_Goal")(joint_trajectory=trajectory)
    sent = client.send(goal, lambda f: print("  now:", f.doing, f"; awaits {f.awaits[:12]}" if f.awaits else ""))
    end_s = time.monotonic() + at_most_s
    while sent.outcome() is None and time.monotonic() < end_s:
        ready.wait(0.05)
    outcome = sent.outcome()
    if outcome is None or outcome[1] is None:
        raise SystemExit("the controller gave no result")
    return outcome[1]


if __name__ == "__main__":
    node = open_graph("auto", "motion_client", remap=CONTROLLER)
    here = arm_now(node)
    for what, way, seconds in (("down through the table", [0.0, 1.9, 0.0, 0.6, 0.0, 0.0, 0.0], 6.0),
                               ("a turn", [0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2.0)):  # fmt: skip
        motion = moveit_shape(node, here, way, seconds)
        answer = node.call(CHECK, 300.0, joint_trajectory=motion)
        print(f"{what}: {'accepted' if answer.accepted else f'refused: {answer.reason}: {answer.text}'}", flush=True)
    result = run(node, motion)
    print(f"{what}, run: {result.outcome} {result.reason} {result.text}".rstrip())
    node.close()
    sys.exit(0 if result.outcome == "achieved" else 1)
