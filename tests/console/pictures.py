"""Take the pictures of docs/console.md: python -m tests.console.pictures

The awaited step is the demo's own, in a cell that `demo --console` starts; the refusal is a request of sim/hazards with
a higher block, which a twin judges here. Nothing is drawn by hand.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from qwen2vl_robot.benchmarks.console import CHROMIUM
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.graph import interface
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, shape_size_m
from qwen2vl_robot.nodes.rehearsal_report import rehearsal_report
from qwen2vl_robot.nodes.reports import verdict_report
from qwen2vl_robot.resources import data_root
from qwen2vl_robot.validation.pool import RehearsalProcess
from qwen2vl_robot.validation.request import load_request
from tests.console.desks import StandIn, served
from tests.domains import DOMAIN

OUT = Path(__file__).resolve().parents[2] / "docs" / "results"
INSTRUCTION = "put the red block on the blue plate"
NEARLY = "accepted_over_block.yaml"
TALL_M = np.arange(0.110, 0.125, 0.001)  # the block, so high that some roll-outs hit it
MOST_BYTES = 300_000
WAIT_S = 240.0
WIDE, PHONE = {"width": 1280, "height": 1150}, {"width": 390, "height": 844}
TWO_COLUMNS = {"width": 860, "height": 1150}  # twin beside verdict


def main() -> None:
    """Write console_*.png into docs/results."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM, timeout=120_000)
        refusal(chromium)
        with cell() as address:
            pages = {
                f"console_{name}.png": opened(chromium, address, size, scheme)
                for name, size, scheme in (("light", WIDE, "light"), ("dark", WIDE, "dark"), ("phone", PHONE, "light"))
            }
            ask(next(iter(pages.values())))
            for name, page in pages.items():
                scrub(page, 0.45)
                save(page, name)
        chromium.close()


@contextlib.contextmanager
def cell() -> Iterator[str]:
    """A simulated cell with its console; the page's address."""
    command = [sys.executable, "-m", "qwen2vl_robot", "demo", "--console", "--seed", "3", "--out", "out/pictures"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_hears_interrupts)
    try:
        assert child.stderr is not None
        for line in child.stderr:
            print(line, end="")
            if found := re.search(r"console: (http\S+)", line):
                yield found[1]
                break
    finally:
        os.kill(child.pid, signal.SIGINT)
        child.wait(60.0)


def _hears_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell ignores them, and its children too


def opened(chromium: Any, address: str, size: dict[str, int], scheme: str) -> Any:
    """A page that shows the camera."""
    page = chromium.new_context(viewport=size, color_scheme=scheme).new_page()
    page.set_default_timeout(WAIT_S * 1e3)
    page.goto(address)
    until(page, "window.frames_shown > 0")
    return page


def ask(page: Any) -> None:
    """Wait until a step awaits its yes; on a busy machine the first try may be refused."""
    end_s = time.monotonic() + WAIT_S
    while not page.locator("#question").is_visible():
        assert time.monotonic() < end_s, page.locator("#task").inner_text()
        if page.locator("#state").inner_text() == "idle":
            page.locator("#instruction").fill(INSTRUCTION)
            page.locator("#say button").click()
        page.wait_for_timeout(2000)


def refusal(chromium: Any) -> None:
    """A motion that its perturbed roll-outs refuse: twin and verdict."""
    profile, scene, start, motion = load_request(data_root() / "sim" / "hazards" / NEARLY)
    size_m = shape_size_m(scene.objects[0].shape)
    with RehearsalProcess(profile, budget_s=120.0) as rehearsal:
        for tall_m in TALL_M:
            higher = Box((size_m[0], size_m[1], float(tall_m)))
            block = replace(scene.objects[0], shape=higher, T_base_object=make_pose((0.5, 0.0, tall_m / 2)))
            scene = replace(scene, objects=(block,))
            verdict = rehearsal.rehearse(motion, scene, start)
            if any(trace.failed for trace in verdict.traces):
                break
    assert any(trace.failed for trace in verdict.traces), verdict.violations
    controller = StandIn(DOMAIN)
    with served(DOMAIN) as console:
        report = verdict_report(verdict, "move", motion.duration_s, asks=False, doubts=())
        controller.say(interface.VERDICT, report.model_dump_json())
        whole = rehearsal_report(report, verdict, scene, motion, profile, Kinematics(profile))
        controller.say(interface.REHEARSAL, whole.model_dump_json())
        page = chromium.new_context(viewport=TWO_COLUMNS, color_scheme="light").new_page()
        page.goto(console.address)
        until(
            page,
            "window.views_drawn > 0 && !moment.disabled && document.getElementById('violations').children.length > 0",
        )
        page.wait_for_timeout(2000)
        boxes = [page.locator(f"section[aria-labelledby={name}-title]").bounding_box() for name in ("twin", "verdict")]
        left, top = (min(b[k] for b in boxes) for k in ("x", "y"))
        right, bottom = max(b["x"] + b["width"] for b in boxes), max(b["y"] + b["height"] for b in boxes)
        clip = {"x": left - 8, "y": top - 8, "width": right - left + 16, "height": bottom - top + 16}
        save(page, "console_refused.png", clip=clip, full_page=True)
        page.context.close()
    controller.close()


def scrub(page: Any, share: float) -> None:
    until(page, "!moment.disabled && window.views_drawn > 0")
    page.evaluate(
        "share => { moment.value = share * moment.max; moment.dispatchEvent(new Event('input')); }",
        share,
    )
    page.wait_for_timeout(1500)


def until(page: Any, condition: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while not page.evaluate(condition):
        assert time.monotonic() < end_s, condition
        page.wait_for_timeout(100)


def save(page: Any, name: str, **how: Any) -> None:
    file = OUT / name
    page.screenshot(path=str(file), **how)
    assert file.stat().st_size < MOST_BYTES, f"{file}: {file.stat().st_size} bytes"
    print(file, file.stat().st_size)


if __name__ == "__main__":
    main()
