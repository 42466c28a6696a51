"""One instruction over the ROS 2 graph: three nodes as processes; this one asks, watches and films."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from qwen2vl_robot import film
from qwen2vl_robot.demo import DemoScene
from qwen2vl_robot.errors import WorkerError
from qwen2vl_robot.graph.own_domain import use_own_domain
from qwen2vl_robot.graph.pictures import rgb_from_image
from qwen2vl_robot.graph.transport import check_transport
from qwen2vl_robot.messages import Instruction
from qwen2vl_robot.nodes.watch import FILM_HOLD, DemoClient, run_node, small_picture, supervisor_command, wait_for
from qwen2vl_robot.reasons import WorkerReason
from qwen2vl_robot.results import reserve, save_run

_START_S = 180.0
CONSOLE_HZ = 5.0  # the plant draws each picture by the processor


def run_graph_demo(
    instruction: str,
    where: DemoScene,
    out: Path,
    model: str | None,
    *,
    transport: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Start the nodes on a domain of their own, ask, wait for the end, write report.json, frame.png and film.gif.

    Raises:
        BadInputError: instruction, folder or transport cannot be used.
        UnsavedError: a file cannot be written; the error holds the report.
        WorkerError: a node did not come up or ended.
    """
    text = Instruction(instruction).text
    check_transport(transport)
    use_own_domain()
    began_s = time.perf_counter()
    with (
        reserve(out),
        run_node(_plant_command(where, transport), out / "sim.ready") as plant,
        run_node(supervisor_command(transport), out / "supervisor.ready") as supervisor,
        run_node(_controller_command(where, model, transport), out / "run.ready") as controller,
    ):
        with contextlib.closing(DemoClient(transport, say)) as watch:
            wait_for((out / "sim.ready").exists, plant, "plant", _START_S)
            wait_for((out / "supervisor.ready").exists, supervisor, "supervisor", _START_S)
            wait_for((out / "run.ready").exists, controller, "controller", _START_S)
            say("all nodes are ready")
            started_s = time.perf_counter()
            watch.watch_camera()
            watch.ask(text, controller)
            task = watch.wait(controller)
        report = {**task, "transport": transport, "seed": where.seed, "scene": where.file}
        report["seconds"] |= {"start": round(started_s - began_s, 3), "all": round(time.perf_counter() - began_s, 3)}
        files = save_run(out, report, _drawings(watch, text, report))
    say(f"{report['outcome']}; see {', '.join(files)} in {out}")
    return report


def run_console_demo(
    instruction: str, where: DemoScene, out: Path, model: str | None, *, transport: str, say: Callable[[str], None]
) -> None:
    """Start the nodes with a console beside them, ask, and go on until Ctrl+C; a person approves each step on the page.

    The console's process prints the page's address.

    Raises:
        BadInputError: instruction, folder or transport cannot be used.
        WorkerError: a node did not come up or ended.
    """
    text = Instruction(instruction).text
    check_transport(transport)
    use_own_domain()
    commands = {
        "plant": _plant_command(where, transport, CONSOLE_HZ),
        "supervisor": supervisor_command(transport),
        "controller": _controller_command(where, model, transport, approval="confirm"),
        "console": ["console", "--port", "0", "--graph", transport],
    }
    with contextlib.ExitStack() as everything, contextlib.suppress(KeyboardInterrupt):
        everything.enter_context(reserve(out))
        nodes = {
            name: everything.enter_context(run_node(command, out / f"{name}.ready"))
            for name, command in commands.items()
        }
        for name, node in nodes.items():
            wait_for((out / f"{name}.ready").exists, node, name, _START_S)
            say(f"{name}: ready")
        client = everything.enter_context(contextlib.closing(DemoClient(transport, say)))
        client.ask(text, nodes["controller"])
        while all(node.poll() is None for node in nodes.values()):
            time.sleep(0.2)
        ended = next(name for name, node in nodes.items() if node.poll() is not None)
        raise WorkerError(f"the {ended}'s process ended with {nodes[ended].poll()}", reason=WorkerReason.CRASHED)


def _plant_command(where: DemoScene, transport: str, camera_hz: float = film.FILM_HZ / FILM_HOLD) -> list[str]:
    rate = str(camera_hz)
    camera = ["--camera", where.camera] if where.camera else []
    return ["sim", "--scene", where.file, "--seed", str(where.seed), "--camera-hz", rate, "--graph", transport, *camera]


def _controller_command(where: DemoScene, model: str | None, transport: str, *, approval: str = "auto") -> list[str]:
    values = [f"approval:={approval}", "use_sim_time:=true", f"seed:={where.seed}"]
    values += [f"model:={model}"] if model else []
    values += [f"seen_from:={where.seen_from.value}"] if where.seen_from else []
    return ["run", *(part for value in values for part in ("-p", value)), "--graph", transport]


def _drawings(watch: DemoClient, text: str, report: dict[str, Any]) -> dict[str, Callable[[Path], object] | None]:
    """What writes frame.png where there was a plan, and film.gif where the camera has shown anything."""
    drawings: dict[str, Callable[[Path], object] | None] = dict.fromkeys(("frame.png", "film.gif", "refused.png"))
    if watch.picture is not None:
        planned = rgb_from_image(watch.picture)
        captions = ("plan", "execution (the plant's camera)")
        title = film.drawable(text, ", then ".join(step["action"] for step in report["steps"]))
        drawings["frame.png"] = Image.fromarray(planned).save
        if watch.pictures:
            left = [small_picture(planned)]
            drawings["film.gif"] = partial(
                film.write_film, left=left, right=watch.pictures, captions=captions, title=title
            )
    return drawings
