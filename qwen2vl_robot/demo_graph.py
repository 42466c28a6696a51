"""One instruction over the ROS 2 graph: robot and controller as two processes; this one asks, watches and films."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from qwen2vl_robot import film
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph.conversions import rgb_from_image
from qwen2vl_robot.graph.transport import check_transport
from qwen2vl_robot.messages import Instruction
from qwen2vl_robot.nodes.watch import FILM_HOLD, DemoClient, run_node, small_picture, wait_for

_START_S = 180.0


def run_graph_demo(
    instruction: str,
    seed: int,
    scene: str,
    out: Path,
    model: str | None,
    *,
    transport: str,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Start both nodes on a domain of their own, ask, wait for the end, write report.json, frame.png and film.gif.

    Raises:
        BadInputError: instruction, folder or transport cannot be used.
        WorkerError: a node did not come up or ended.
    """
    text = Instruction(instruction).text
    check_transport(transport)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"--out {out}: {error.strerror}") from error
    os.environ["ROS_DOMAIN_ID"] = str(60 + secrets.randbelow(40))  # away from robots that are in use
    began_s = time.perf_counter()
    values = ["approval:=auto", "use_sim_time:=true", f"seed:={seed}", *([f"model:={model}"] if model else [])]
    settings = [part for value in values for part in ("-p", value)]
    simulated = ["sim", "--scene", scene, "--seed", str(seed), "--camera-hz", str(film.FILM_HZ / FILM_HOLD)]
    with (
        run_node([*simulated, "--graph", transport], out / "sim.ready") as plant,
        run_node(["run", *settings, "--graph", transport], out / "run.ready") as controller,
    ):
        watch = DemoClient(transport, tell)
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
        title = film.drawable(text, ", then ".join(step["action"] for step in report["steps"]))
        film.write_film(out / "film.gif", [small_picture(planned)], watch.pictures, captions, title=title)
    tell(f"{report['outcome']}; {out}/report.json, frame.png and film.gif show how")
    return report
