"""One instruction over the ROS 2 graph: robot and controller as two processes; this one asks, watches and films."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
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
from qwen2vl_robot.errors import BadInputError, WorkerError
from qwen2vl_robot.graph import interface as rows
from qwen2vl_robot.graph.conversions import rgb_from_image
from qwen2vl_robot.graph.transport import check_transport, open_graph
from qwen2vl_robot.planner.contract import check_instruction

_START_S = 180.0
_TASK_S = 600.0
_HOLD = 2  # pictures of the film that show one of the camera


def run_graph_demo(
    instruction: str, seed: int, scene: str, out: Path, model: str | None, *, transport: str,
    tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Start both nodes on a domain of their own, ask, wait for the end, write report.json, frame.png and film.gif.

    Raises:
        BadInputError: instruction, folder or transport cannot be used.
        WorkerError: a node did not come up or ended.
    """
    text = check_instruction(instruction)
    check_transport(transport)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"--out {out}: {error.strerror}") from error
    os.environ["ROS_DOMAIN_ID"] = str(60 + secrets.randbelow(40))  # away from robots that are in use
    began_s = time.perf_counter()
    values = ["approval:=auto", "use_sim_time:=true", f"seed:={seed}", *([f"model:={model}"] if model else [])]
    settings = [part for value in values for part in ("-p", value)]
    simulated = ["sim", "--scene", scene, "--seed", str(seed), "--camera-hz", str(film.FILM_HZ / _HOLD)]
    with (
        run_node([*simulated, "--graph", transport], out / "sim.ready") as plant,
        run_node(["run", *settings, "--graph", transport], out / "run.ready") as controller,
    ):
        watch = Watch(transport, tell)
        try:
            for name, process, ready in (
                ("plant", plant, out / "sim.ready"),
                ("controller", controller, out / "run.ready"),
            ):
                wait_for(ready.exists, process, name, _START_S)
            tell("both nodes are ready")
            started_s = time.perf_counter()
            watch.watch_camera()
            watch.ask(text, controller)
            status = watch.wait(controller)
        finally:
            watch.close()
    report = {**status["last_task"], "transport": transport, "seed": seed, "scene": scene}
    report["seconds"] |= {"start": round(started_s - began_s, 3), "all": round(time.perf_counter() - began_s, 3)}
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if watch.picture is not None:
        planned = rgb_from_image(watch.picture)
        Image.fromarray(planned).save(out / "frame.png")
        captions = ("plan", "execution (the plant's camera)")
        film.write_film(out / "film.gif", [_small(planned)], watch.pictures, captions, title=text)
    tell(f"{report['outcome']}; {out}/report.json, frame.png and film.gif show how")
    return report


def _small(rgb: film.Picture) -> film.Picture:
    k = film.FILM_INTRINSICS
    return np.asarray(Image.fromarray(rgb).resize((k.width_px, k.height_px), Image.Resampling.BILINEAR))


class Watch:
    """The third node: asks, and keeps what the controller tells.

    Attributes:
        status: what ~/status said last.
        picture: what ~/annotated showed last.
        pictures: what the camera has shown since something was asked, in the size and the pace of a film.
    """

    def __init__(self, transport: str, tell: Callable[[str], None]) -> None:
        self._graph = open_graph(transport, "demo")
        self._tell = tell
        self.status: dict[str, Any] = {}
        self.picture: Any = None
        self.pictures: list[film.Picture] = []
        names = {row.name: row.at(f"{rows.NODE_NAME}/{row.name[2:]}") for row in (rows.STATUS, rows.ANNOTATED)}
        self._graph.subscribe(names[rows.STATUS.name], self._on_status)
        self._graph.subscribe(names[rows.ANNOTATED.name], lambda message: setattr(self, "picture", message))
        self._instruction = self._graph.publisher(rows.INSTRUCTION)

    def ask(self, text: str, controller: subprocess.Popen[bytes]) -> None:
        wait_for(lambda: self._instruction.listeners() > 0 and self.status, controller, "controller", 30.0)
        self._instruction.publish(self._graph.message("std_msgs/msg/String")(data=text))

    def watch_camera(self) -> None:
        """Keep what the camera shows from now on."""
        self._graph.subscribe(
            rows.IMAGE, lambda message: self.pictures.extend([_small(rgb_from_image(message))] * _HOLD)
        )

    def wait(self, controller: subprocess.Popen[bytes]) -> dict[str, Any]:
        wait_for(lambda: self.status.get("tasks"), controller, "controller", _TASK_S)
        return self.status

    def close(self) -> None:
        """Leave the graph."""
        self._graph.close()

    def _on_status(self, message: Any) -> None:
        before, self.status = self.status, json.loads(message.data)
        now = (self.status["state"], self.status["doing"])
        if now != (before.get("state"), before.get("doing")):
            self._tell(" ".join(now).rstrip())


@contextlib.contextmanager
def run_node(command: list[str], ready: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node as a process of its own; interrupted at the end, and killed where that does not help."""
    ready.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "qwen2vl_robot", *command, "--ready", str(ready)], stdout=2)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        ready.unlink(missing_ok=True)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes], name: str, at_most_s: float) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition():
        if process.poll() is not None:
            raise WorkerError(f"the {name}'s process ended with {process.returncode}", reason="crashed")
        if time.monotonic() > end_s:
            raise WorkerError(f"the {name} did not answer within {at_most_s:g} s", reason="timeout")
        time.sleep(0.05)
