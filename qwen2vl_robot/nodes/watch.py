"""Nodes as processes, and a client node that gives the controller an instruction and keeps what it publishes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qwen2vl_robot import film
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import ExecutionError, WorkerError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.pictures import rgb_from_image
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.reasons import WorkerReason

TASK_S = 600.0
FILM_HOLD = 2  # how many pictures of the film show one camera picture


class DemoClient:
    """A node beside plant and controller: sends an instruction, keeps status and pictures.

    Args:
        show: is called with each change of state.

    Attributes:
        status: the latest ~/status, {} before the first.
        picture: the latest ~/annotated.
        pictures: the camera's pictures since `watch_camera`, in a film's size and rate.
    """

    def __init__(self, transport: str, show: Callable[[str], None]) -> None:
        self._graph = open_graph(transport, "demo")
        self._show = show
        self.status: dict[str, Any] = {}
        self._ended = self._refused = 0
        self.picture: interface.Message | None = None
        self.pictures: list[film.Picture] = []
        names = {
            topic.name: topic.at(f"{interface.NODE_NAME}/{topic.name[2:]}")
            for topic in (interface.STATUS, interface.ANNOTATED)
        }
        self._graph.subscribe(names[interface.STATUS.name], self._on_status)
        self._graph.subscribe(names[interface.ANNOTATED.name], lambda message: setattr(self, "picture", message))
        self._instruction = self._graph.publisher(interface.INSTRUCTION)

    def ask(self, text: str, controller: subprocess.Popen[bytes]) -> None:
        """Publish an instruction as soon as the controller listens.

        Raises:
            WorkerError: it ended, or it did not listen within 30 s.
        """
        wait_for(lambda: self._instruction.listeners() > 0 and self.status, controller, "controller", 30.0)
        self._ended, self._refused = self.status["tasks"], self.status["refused_instructions"]
        self._instruction.publish(self._graph.message("std_msgs/msg/String")(data=text))

    def watch_camera(self) -> None:
        """Start to keep the camera's pictures."""
        self._graph.subscribe(
            interface.IMAGE, lambda message: self.pictures.extend([small_picture(rgb_from_image(message))] * FILM_HOLD)
        )

    def wait(self, controller: subprocess.Popen[bytes], at_most_s: float = TASK_S) -> dict[str, Any]:
        """Wait until the task that was asked for has ended and return its report.

        Raises:
            ExecutionError: the controller did not take the instruction.
            WorkerError: the controller ended, or it took too long.
        """
        wait_for(self._is_answered, controller, "controller", at_most_s)
        if self.status["tasks"] == self._ended:
            raise ExecutionError(f"the controller did not take the instruction: {self.status['last_refusal']}")
        task: dict[str, Any] = self.status["last_task"]
        return task

    def _is_answered(self) -> bool:
        return bool(self.status["tasks"] > self._ended or self.status["refused_instructions"] > self._refused)

    def close(self) -> None:
        """Leave the graph."""
        self._graph.close()

    def _on_status(self, message: interface.Message) -> None:
        before, self.status = self.status, parse_json(message.data, "status")
        now = (self.status["state"], self.status["doing"])
        if now != (before.get("state"), before.get("doing")):
            self._show(" ".join(now).rstrip())


def supervisor_command(transport: str) -> list[str]:
    """Arguments of the supervisor beside a simulated cell; without one the controller moves nothing."""
    return ["supervisor", "-p", "use_sim_time:=true", "--graph", transport]


@contextlib.contextmanager
def run_node(
    command: list[str], ready: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node in a process of its own; SIGINT ends it, and SIGKILL if it is not gone after 20 s.

    Args:
        command: arguments of `qwen2vl-robot`.
        ready: the node creates this file once it is started.
        environment: variables to add to this process's own.
    """
    ready.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen2vl_robot", *command, "--ready", str(ready)],
        stdout=2,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        end(process)
        ready.unlink(missing_ok=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours with SIGINT, and with SIGKILL if it is not gone after 20 s."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], name: str, at_most_s: float) -> None:
    """Wait until a condition holds.

    Raises:
        WorkerError: the process ended, or the time is up.
    """
    end_s = time.monotonic() + at_most_s
    while not condition():
        if process.poll() is not None:
            raise WorkerError(f"the {name}'s process ended with {process.returncode}", reason=WorkerReason.CRASHED)
        if time.monotonic() > end_s:
            raise WorkerError(f"the {name} did not answer within {at_most_s:g} s", reason=WorkerReason.TIMEOUT)
        time.sleep(0.05)


def small_picture(rgb: film.Picture) -> film.Picture:
    """Resize a picture (h, w, 3) to a film's size."""
    k = film.FILM_INTRINSICS
    return np.asarray(Image.fromarray(rgb).resize((k.width_px, k.height_px), Image.Resampling.BILINEAR))
