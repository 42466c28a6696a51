"""A console, its page in a headless Chromium, a controller → frames/s, first paint, click to halt, a reader's cost.

What the page shows comes from this module, run as a program: pictures, joint states, and one rehearsal.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.stop import Halts, summarise_ms
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import BadInputError, WorkerError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import image_from_rgb, joint_state_message
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.messages import (
    Box,
    Effect,
    JointSegment,
    Motion,
    Scene,
    SceneObject,
    Trials,
    Verdict,
    digest,
    freeze,
)
from qwen2vl_robot.nodes.rehearsal_report import rehearsal_report
from qwen2vl_robot.nodes.reports import verdict_report
from qwen2vl_robot.nodes.shell import own_topic
from qwen2vl_robot.nodes.watch import end
from qwen2vl_robot.reasons import WorkerReason

PARTS = ("first_paint", "frames", "click_to_halt", "crowd", "latency")
CHROMIUM = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # no GPU: 3D by the processor
_PICTURE_HZ, _JOINTS_EVERY = 15.0, 3  # joint states come three times as often
_PAINTS, _FRAMES_S, _READERS, _STRANGERS, _CROWD_CLICKS = 10, 10.0, 49, 1000, 50
_TIMES = 100  # stops in one block of the latency
_START_MS = 120_000
_VIEW = {"width": 1400, "height": 1000}
_NOTE_CLICKS = """() => document.addEventListener('click', () => {
  window.clicked_ms = performance.timeOrigin + performance.now();
}, true)"""
_READ = """([token, count]) => new Promise((resolve) => {
  let open = 0;
  window.read = 0;
  window.sockets = Array.from({length: count}, () => {
    const socket = new WebSocket(`ws://${location.host}/api/live`, [`token.${token}`]);
    socket.onopen = () => { open += 1; if (open === count) resolve(open); };
    socket.onerror = () => resolve(-1);
    socket.onmessage = () => { window.read += 1; };
    return socket;
  });
})"""


def run_console(clicks: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of each of `PARTS`, with its name as "part".

    Args:
        clicks: stops by a click on the page.
        rounds: blocks of the latency with a reading console, and as many without, in turn.

    Raises:
        BadInputError: Chromium or playwright is missing.
        WorkerError: the controller or the console did not start.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise BadInputError("playwright is missing; pip install 'qwen2vl_robot[browser]'") from error
    if (path := shutil.which("chromium")) is None:
        raise BadInputError("chromium is missing; apt-get install chromium")
    with contextlib.ExitStack() as everything:
        halts = everything.enter_context(contextlib.closing(Halts("idle")))
        everything.enter_context(_process("feed", [sys.executable, "-m", __name__]))
        halts.has_feed = True
        driver = everything.enter_context(sync_playwright())
        chromium = driver.chromium.launch(executable_path=path, args=CHROMIUM, timeout=_START_MS)
        with _console() as address:
            yield {"part": "first_paint", **_first_paint(chromium, address)}
            page = _open(chromium, address)
            yield {"part": "frames", **_frames(page)}
            yield {"part": "click_to_halt", **_clicks(page, halts, clicks)}
            yield {"part": "crowd", **_crowd(chromium, address, page, halts)}
            page.context.close()
        yield {"part": "latency", **_latency(chromium, halts, rounds)}
        chromium.close()


# ---------------------------------------------------------------------------------------------------- parts


def _first_paint(chromium: Any, address: str) -> dict[str, Any]:
    """From the navigation to the first paint with content, each time in a browser that knows nothing of the page."""
    times_ms = []
    for _ in range(_PAINTS):
        page = _open(chromium, address, is_drawn=False)
        _until(page, "performance.getEntriesByName('first-contentful-paint').length > 0")
        times_ms.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        page.context.close()
    return {"count": _PAINTS, **summarise_ms(times_ms)}


def _frames(page: Any) -> dict[str, Any]:
    """Pictures shown and 3D views drawn each second, while both change."""
    began = page.evaluate("[performance.now(), window.frames_shown, window.views_drawn]")
    page.wait_for_timeout(_FRAMES_S * 1e3)
    ended = page.evaluate("[performance.now(), window.frames_shown, window.views_drawn]")
    took_s = (ended[0] - began[0]) / 1e3
    frames, views = ((ended[i] - began[i]) / took_s for i in (1, 2))
    return {
        "seconds": round(took_s, 2),
        "sent_hz": _PICTURE_HZ,
        "frames_hz": round(frames, 2),
        "views_hz": round(views, 2),
    }


def _clicks(page: Any, halts: Halts, count: int) -> dict[str, Any]:
    """Milliseconds from the click as the page's document hears it to the halt on the wire; one machine, one clock."""
    page.evaluate(_NOTE_CLICKS)
    late_ms: list[float | None] = []
    for _ in range(count):
        halts.prepare()
        page.evaluate("document.getElementById('answer').textContent = ''")
        page.mouse.click(*_middle(page))
        halted_s = halts.halted_at_s()
        late_ms.append(None if halted_s is None else halted_s * 1e3 - page.evaluate("window.clicked_ms"))
        _until(page, "!['', 'stop is sent …'].includes(document.getElementById('answer').textContent)")
    return {"count": count, **summarise_ms(late_ms)}


def _crowd(chromium: Any, address: str, page: Any, halts: Halts) -> dict[str, Any]:
    """The same page among other readers and many connections that show no token."""
    crowd = _readers(chromium, address, _READERS)
    began_s, before = time.perf_counter(), crowd.evaluate("window.read")
    with contextlib.ExitStack() as strangers:
        for _ in range(_STRANGERS):
            line = strangers.enter_context(socket.create_connection(("127.0.0.1", _port(address)), 10.0))
            line.sendall(b"GET / HTTP/1.1\r\nHost: ")
        clicks = _clicks(page, halts, _CROWD_CLICKS)
    messages = crowd.evaluate("window.read") - before
    each_hz = round(messages / _READERS / (time.perf_counter() - began_s), 2)
    frames = _frames(page)
    crowd.context.close()
    who = {"readers": _READERS, "strangers": _STRANGERS, "messages_each_hz": each_hz}
    return {**who, "click_to_halt": clicks, "frames_hz": frames["frames_hz"]}


def _latency(chromium: Any, halts: Halts, rounds: int) -> dict[str, Any]:
    """A stop of ours on the wire to its halt, with a console that somebody reads and without any, in turn."""
    found: dict[str, list[float | None]] = {"with": [], "without": []}
    for _ in range(rounds):
        found["without"] += [halts.time_stop_ms() for _ in range(_TIMES)]
        with _console() as address:
            reader = _readers(chromium, address, 1)
            found["with"] += [halts.time_stop_ms() for _ in range(_TIMES)]
            reader.context.close()
    both = {name: {"count": len(times), **summarise_ms(times)} for name, times in found.items()}
    ratio = both["with"]["median_ms"] / both["without"]["median_ms"]
    return {**both, "median_ratio": round(ratio, 3)}


# ------------------------------------------------------------------------------------------------- the page


def _open(chromium: Any, address: str, *, is_drawn: bool = True) -> Any:
    page = chromium.new_context(viewport=_VIEW).new_page()
    page.set_default_timeout(_START_MS)
    page.goto(address)
    if is_drawn:
        _until(page, "window.frames_shown > 0 && window.views_drawn > 10")
    return page


def _readers(chromium: Any, address: str, count: int) -> Any:
    """A page that reads what a console sends and draws nothing."""
    base, _, token = address.partition("/#token=")
    page = chromium.new_context().new_page()
    page.set_default_timeout(_START_MS)
    page.goto(f"{base}/static/console.css")
    if page.evaluate(_READ, [token, count]) != count:
        raise WorkerError("the console lets no reader in", reason=WorkerReason.CRASHED)
    return page


def _until(page: Any, condition: str) -> None:
    """Wait until an expression of the page holds; its policy forbids playwright's own way, which compiles it there."""
    end_s = time.monotonic() + _START_MS / 1e3
    while not page.evaluate(condition):
        if time.monotonic() > end_s:
            raise WorkerError(f"the page does not come to this: {condition}", reason=WorkerReason.TIMEOUT)
        page.wait_for_timeout(20)


def _middle(page: Any) -> tuple[float, float]:
    box = page.locator("#stop").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


# ---------------------------------------------------------------------------------------------- processes


@contextlib.contextmanager
def _console() -> Iterator[str]:
    """A console in a process of its own; its address."""
    command = [sys.executable, "-m", "qwen2vl_robot", "console", "--port", "0", "--graph", "dds"]
    with _process("console", command) as child:
        assert child.stdout is not None
        yield child.stdout.readline().decode().removeprefix("console: ").strip()


@contextlib.contextmanager
def _process(name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield child
        if child.poll() is not None:
            raise WorkerError(f"the {name}'s process ended with {child.returncode}", reason=WorkerReason.CRASHED)
    finally:
        end(child)


def _port(address: str) -> int:
    return int(address.partition("/#token=")[0].rpartition(":")[2])


# ------------------------------------------------------------------------------------------------ what is shown


def main() -> None:
    """Publish what a page shows of a robot that does nothing, until SIGINT."""
    graph, profile = open_graph("dds", "feed"), load_robot("franka_panda")
    verdict, scene, motion = _step()
    report = verdict_report(verdict, "hold block 0", motion.duration_s, asks=False, doubts=())
    shown = {
        interface.VERDICT: report.model_dump_json(),
        interface.REHEARSAL: rehearsal_report(report, verdict, scene, motion, profile).model_dump_json(),
    }
    latched = {topic: graph.publisher(own_topic(topic)) for topic in shown}
    for topic, text in shown.items():
        latched[topic].publish(graph.message(topic.type)(data=text))
    image, joints = (graph.publisher(t.published()) for t in (interface.IMAGE, interface.JOINT_STATES))
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(40, 220, (15, 20, 3)), np.ones((32, 32, 1))) + rng.normal(0.0, 2.0, (480, 640, 3))
    picture = image_from_rgb(graph.message, rgb.clip(0, 255).astype(np.uint8), 0, "camera")
    names = [*(j.name for j in profile.joints), *profile.gripper.joints]
    began_s, count = time.monotonic(), 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            q = [*(np.array(profile.home_q_rad) + 0.1 * np.sin(count / 20)), 0.04, 0.04]
            joints.publish(joint_state_message(graph.message, names, np.array(q), np.zeros(len(q)), graph.now_ns()))
            if count % _JOINTS_EVERY == 0:
                image.publish(picture)
            count += 1
            time.sleep(max(0.0, began_s + count / (_PICTURE_HZ * _JOINTS_EVERY) - time.monotonic()))
    graph.close()


def _step() -> tuple[Verdict, Scene, Motion]:
    """Eight blocks, 200 boxes that nobody has seen, and a motion of four seconds above them."""
    profile = load_robot("franka_panda")
    time_s = np.linspace(0.0, 4.0, 401)
    q_rad = np.array(profile.home_q_rad) + 0.2 * np.sin(time_s)[:, None] * np.eye(len(profile.joints))[0]
    motion = Motion(profile.name, (JointSegment(freeze(time_s), freeze(q_rad)),), Effect("none"))
    blocks = []
    for number in range(8):
        T_base_block = np.eye(4)
        T_base_block[:3, 3] = 0.4 + 0.1 * (number // 4), 0.1 * (number % 4) - 0.15, 0.02
        blocks.append(SceneObject(f"block {number}", Box((0.04, 0.04, 0.04)), T_base_block))
    low_m = np.random.default_rng(0).uniform((0.2, -0.5, 0.0), (0.8, 0.5, 0.4), (200, 3))
    scene = Scene(tuple(blocks), (), unseen_m=freeze(np.stack([low_m, low_m + 0.05], axis=1)))
    verdict = Verdict(True, (), digest(motion), digest(scene), "", "", trials=Trials(16, 16, 0.83, 0.8))
    return verdict, scene, motion


if __name__ == "__main__":
    main()
