"""Commands in a loop over the graph → the memory growth of each process after one minute."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from qwen2vl_robot.errors import BadInputError, ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.graph.own_domain import use_own_domain
from qwen2vl_robot.graph.transport import check_transport
from qwen2vl_robot.nodes.watch import DemoClient, run_node, supervisor_command, wait_for

_COMMANDS = ("put the red block on the blue plate", "put the red block to the left of the blue plate")
_WARM_S = 60.0
_START_S = 180.0
_TASK_S = 300.0
_ANSWER_S = 10.0


def run_soak(seconds: float, transport: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Give commands until the time is over; release a stop that a command leaves behind.

    Returns:
        "transport", "start_s", "totals" with tasks, achieved and growth_mb (the largest of any process), "processes"
        with the growth of each, and "outcomes" with the number of tasks for each outcome.

    Raises:
        BadInputError: no time is left after the first minute, or the transport is unknown.
        WorkerError: a node did not start, or ended early.
    """
    if seconds <= _WARM_S:
        raise BadInputError(
            f"--seconds {seconds:g}: must be above {_WARM_S:g}, because growth counts after the first minute"
        )
    check_transport(transport)
    use_own_domain()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ready = [Path(folder) / name for name in ("sim", "run", "supervisor")]
        parameters = ["-p", "approval:=auto", "-p", "use_sim_time:=true"]
        with (
            run_node(["sim", "--seed", "3", "--graph", transport], ready[0]) as plant,
            run_node(supervisor_command(transport), ready[2]) as supervisor,
            run_node(["run", *parameters, "--graph", transport], ready[1]) as controller,
        ):
            nodes = {"plant": plant, "controller": controller, "supervisor": supervisor}
            for (name, process), file in zip(nodes.items(), ready, strict=True):
                wait_for(file.exists, process, name, _START_S)
            start_s = time.monotonic() - began_s
            operator = _Operator(controller)
            try:
                results = _loop(operator, {name: node.pid for name, node in nodes.items()}, seconds, tell)
            finally:
                operator.close()
    return {"transport": transport, "start_s": round(start_s, 1), **results}


class _Operator:
    """Gives commands and releases stops that they leave behind; over DDS, which both transports understand."""

    def __init__(self, controller: subprocess.Popen[bytes]) -> None:
        self._controller, self._graph = controller, DdsGraph("soak")
        self._watch = DemoClient("dds", lambda line: None)
        self._reset = self._graph.client(f"{interface.NODE_NAME}/{interface.RESET.name[2:]}", interface.RESET.type)

    def do(self, text: str) -> dict[str, Any]:
        """Ask for a task, wait for its end, and return its report; one that was not taken has the outcome "refused"."""
        self._until(lambda: self._watch.status.get("state") in ("idle", "stopped"))
        if self._watch.status["state"] == "stopped":
            self._reset.call(_ANSWER_S)
            self._until(lambda: self._watch.status["state"] == "idle")
        self._watch.ask(text, self._controller)
        try:
            return self._watch.wait(self._controller, _TASK_S)
        except ExecutionError as refusal:
            return {"instruction": text, "outcome": "refused", "reasons": [str(refusal)]}

    def close(self) -> None:
        self._watch.close()
        self._graph.close()

    def _until(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, self._controller, "controller", _TASK_S)


def _loop(operator: _Operator, nodes: dict[str, int], seconds: float, tell: Callable[[str], None]) -> dict[str, Any]:
    began_s = time.monotonic()
    outcomes: dict[str, int] = {}
    seen: list[dict[str, float]] = []
    for number in count():
        elapsed_s = time.monotonic() - began_s
        if elapsed_s >= _WARM_S:
            seen.append({f"{node}{which}": mb for node, pid in nodes.items() for which, mb in _sizes_mb(pid).items()})
        if elapsed_s >= seconds:
            break
        task = operator.do(_COMMANDS[number % len(_COMMANDS)])
        outcomes[task["outcome"]] = outcomes.get(task["outcome"], 0) + 1
        line = f"{task['instruction']}: {task['outcome']} {'; '.join(task['reasons'])}"
        tell(f"{elapsed_s:.0f} s {line} {growth_mb(seen)}")
    grown_mb = growth_mb(seen)
    most_mb = max(grown_mb.values(), default=0.0)
    totals = {"tasks": sum(outcomes.values()), "achieved": outcomes.get("achieved", 0), "growth_mb": most_mb}
    return {"totals": totals, "processes": grown_mb, "outcomes": outcomes}


def growth_mb(seen: list[dict[str, float]]) -> dict[str, float]:
    """Compute by how much each process grew: the median of its last quarter of sizes minus that of the first.

    Medians smooth the sizes, because a process returns freed memory to the system in large pieces.

    >>> growth_mb([{"plant": 10.0}, {"plant": 30.0}, {"plant": 11.0}, {"plant": 12.0}])
    {'plant': 2.0}
    """
    quarter = (len(seen) + 3) // 4
    return {
        name: round(
            statistics.median(sizes[name] for sizes in seen[-quarter:])
            - statistics.median(sizes[name] for sizes in seen[:quarter]),
            2,
        )
        for name in (seen[0] if seen else {})
    }


def _sizes_mb(pid: int) -> dict[str, float]:
    """Measure the memory of a process ("") and of its children in the order of their process ids (" child 1", ...)."""
    children = sorted(int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())
    return {"": _own_mb(pid)} | {f" child {i}": _own_mb(child) for i, child in enumerate(children, 1)}


def _own_mb(pid: int) -> float:
    """Measure a process's anonymous resident memory; mapped files would add pages as the kernel likes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6
