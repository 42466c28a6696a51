"""Software that dies while the arm moves → how long until the halt is on the wire, and how far the arm goes.

A simulated cell over DDS: plant, supervisor and controller as processes of their own. On the first feedback of a goal
one of them is killed or stopped; an observer in this process measures the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.observer import Observer
from qwen2vl_robot.errors import BadInputError, WorkerError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.own_domain import use_own_domain
from qwen2vl_robot.nodes.urgency import CONTROLLER, hurry
from qwen2vl_robot.nodes.watch import run_node, supervisor_command, wait_for
from qwen2vl_robot.reasons import WorkerReason

KINDS = (
    "controller killed",
    "controller stopped",
    "supervisor killed",
    "planner killed",
    "twin worker killed",
    "stop published",
    "stop published, controller stopped",
)
EPISODE = "episode"
_GOES_ON = ("planner killed", "twin worker killed")  # the motion is rehearsed and approved: it ends as it was
_TASKS = ("push the red block to the left", "push the red block to the right")
_WATCH = ("silent", "stood still", "has watched", "goodbye", "supervisor", "beside another")  # words of its reasons
_START_S, _TASK_S, _REST_S = 180.0, 120.0, 5.0
_AWAY_S = 3.0  # how long a stopped controller stays so
_TRIES = 4
_LIBRARY = {"planner killed": "libtorch", "twin worker killed": "pybullet"}


def keys(count: int, episodes: int) -> list[str]:
    """The results of a run, in their order."""
    return [*(f"{kind}/{i}" for kind in KINDS for i in range(count)), *(f"{EPISODE}/{i}" for i in range(episodes))]


def run_kills(count: int, episodes: int, busy: int, seed: int, partial: Path) -> Iterator[dict[str, Any]]:
    """Do every trial and yield its result; results in `partial` are reused.

    Args:
        count: trials of each kind.
        episodes: tasks in which nothing is killed, and nothing may halt.
        busy: processes that compute meanwhile, beside those of the cell.

    Raises:
        BadInputError: `partial` is not a file of this command.
        WorkerError: the cell cannot be started, or no task moves the arm.
    """
    known = _read(partial)
    wanted = keys(count, episodes)
    yield from (known[key] for key in wanted if key in known)
    todo = [key for key in wanted if key not in known]
    if not todo:
        return
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("a", encoding="utf-8") as file, _busy(busy), _Cell(seed) as cell:
        for key in todo:
            kind = key.partition("/")[0]
            result = cell.episode() if kind == EPISODE else cell.trial(kind)
            line = {"key": key, "kind": kind, "load": round(os.getloadavg()[0], 1), **result}
            file.write(json.dumps(line) + "\n")
            file.flush()
            yield line


def summarise_kills(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compute the largest and median figures of each kind, and how many episodes were halted."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        own = [r for r in results if r["kind"] == kind]
        if own:
            figures = {
                name: [r[name] for r in own if r[name] is not None]
                for name in ("halt_ms", "confirmed_ms", "rest_ms", "angle_rad")
            }
            found[kind] = {
                "trials": len(own),
                "halted": len(figures["confirmed_ms"]),
                **{f"{name}_median": round(float(np.median(v)), 3) for name, v in figures.items() if v},
                **{f"{name}_max": round(max(v), 3) for name, v in figures.items() if v},
                "ended": _count([r["ended"] for r in own]),
                "began_stopped": sum(r.get("began_stopped", False) for r in own),
                "moved_on_rad_max": max((r.get("moved_on_rad", 0.0) for r in own), default=0.0),
            }
    own = [r for r in results if r["kind"] == EPISODE]
    if own:
        halts = [r["halted_by"] for r in own if r["halted_by"]]
        found[EPISODE] = {
            "episodes": len(own),
            "false_halts": sum(any(word in why for word in _WATCH) for why in halts),
            "other_halts": _count([why for why in halts if not any(word in why for word in _WATCH)]),
            "ended": _count([r["ended"] for r in own]),
            "gap_ms_max": {name: max(r["gap_ms"][name] for r in own) for name in own[0]["gap_ms"]},
        }
    loads = [r["load"] for r in results]
    found["load"] = {"min": min(loads), "mean": round(float(np.mean(loads)), 1), "max": max(loads)} if loads else {}
    return found


class _Cell:
    """Plant, supervisor and controller as processes; each can be started again."""

    def __init__(self, seed: int) -> None:
        self._seed, self._stack, self._tasks = seed, contextlib.ExitStack(), 0
        self._nodes: dict[str, tuple[contextlib.ExitStack, subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> _Cell:
        use_own_domain()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            for name in ("plant", "supervisor", "controller"):
                self._start(name)
            self.observer = Observer()
            self._stack.callback(self.observer.close)
            hurry(CONTROLLER, but=threading.main_thread().native_id)  # it starts processes, which would inherit it
            self._until(self.observer.can_ask)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for stack, _process in reversed(list(self._nodes.values())):
            stack.close()
        self._stack.close()

    # ----------------------------------------------------------------------------------------------- trials

    def trial(self, kind: str) -> dict[str, Any]:
        """Kill or stop at the first feedback of a motion, measure, and bring everything back to work."""
        since_s = self._begin(lambda: self._act(kind))
        result = self._measure(kind, since_s)
        self._repair(kind, result)
        return result

    def _begin(self, act: Callable[[], None]) -> float:
        """Ask for tasks until one moves the arm, and act at its first feedback; the time of that.

        Raises:
            WorkerError: no task moves the arm, in the scene as it was at first neither.
        """
        acted: list[float] = []

        def at_feedback() -> None:
            acted.append(time.monotonic())
            act()

        for tried in range(3 * _TRIES):
            if tried and tried % _TRIES == 0:  # the block has left the reach of arm or camera
                self._renew()
            self._make_ready()
            self._ask_next(at_feedback)
            self._until(lambda: acted or self._is_over(), _TASK_S)
            if acted:
                return acted[0]
        raise WorkerError(f"no motion began: {self.observer.status.get('last_task')}", reason=WorkerReason.RAISED)

    def _act(self, kind: str) -> None:
        controller = self._nodes["controller"][1].pid
        if kind == "stop published":
            self.observer.stop()
        elif kind == "supervisor killed":
            os.kill(self._nodes["supervisor"][1].pid, signal.SIGKILL)
        elif kind in _LIBRARY:
            os.kill(_child(controller, _LIBRARY[kind]), signal.SIGKILL)
        else:
            os.kill(controller, signal.SIGKILL if kind == "controller killed" else signal.SIGSTOP)
            if kind == "stop published, controller stopped":
                self.observer.stop()

    def _measure(self, kind: str, since_s: float) -> dict[str, Any]:
        if kind in _GOES_ON:
            self._until(self._is_over, _TASK_S)
        else:
            end_s = time.monotonic() + _REST_S
            while time.monotonic() < end_s and not (self.observer.confirmed_s() and self.observer.rest_after(since_s)):
                time.sleep(0.02)
        halted_s, confirmed_s = self.observer.halted_s(), self.observer.confirmed_s()
        rest = self.observer.rest_after(since_s)
        task = self.observer.status.get("last_task") if kind in _GOES_ON else None
        return {
            # Where the motion goes on, a request that found no goal of it halted nothing.
            "halt_ms": None if kind in _GOES_ON and confirmed_s is None else _since_ms(since_s, halted_s),
            "confirmed_ms": _since_ms(since_s, confirmed_s),
            "rest_ms": None if rest is None else _since_ms(since_s, rest[0]),
            "angle_rad": None if rest is None else round(rest[1], 4),
            "ended": "halted" if confirmed_s is not None else task["outcome"] if task else "not halted",
        }

    def _repair(self, kind: str, result: dict[str, Any]) -> None:
        """Start or continue what was killed or stopped; a person's reset is the last thing."""
        if kind == "supervisor killed":
            self._start("supervisor")
        elif kind == "controller killed":
            self.observer.status = {}
            self._start("controller")
            self._until(lambda: self.observer.status.get("state") in ("stopped", "idle"))
            time.sleep(0.5)  # if it did not begin stopped, it would be idle by now
            result["began_stopped"] = self.observer.status.get("state") == "stopped"
        elif "controller stopped" in kind:
            time.sleep(_AWAY_S)
            began_s = time.monotonic()
            os.kill(self._nodes["controller"][1].pid, signal.SIGCONT)
            self._until(lambda: self.observer.status.get("state") == "stopped")
            time.sleep(1.0)
            result["moved_on_rad"] = round(self.observer.travel_rad(began_s), 4)

    def episode(self) -> dict[str, Any]:
        """Carry out a task that moves the arm, and in which nothing is killed."""
        self._begin(lambda: None)
        self._until(self._is_over, _TASK_S)
        time.sleep(0.2)
        status, topics = self.observer.status, (interface.CONTROLLER_HEARTBEAT, interface.SUPERVISOR_HEARTBEAT)
        return {
            "ended": status["last_task"]["outcome"],
            "halted_by": status["stopped_by"] or ("a goal was cancelled" if self.observer.confirmed_s() else ""),
            "gap_ms": {topic.name: round(self.observer.largest_gap_s(topic) * 1e3, 1) for topic in topics},
        }

    # ------------------------------------------------------------------------------------------------ nodes

    def _start(self, name: str) -> None:
        """Start a node; one of that name that runs or has died is ended first."""
        if name in self._nodes:
            self._nodes.pop(name)[0].close()
        parameters = ["approval:=auto", "use_sim_time:=true", f"seed:={self._seed}"]
        command = {
            "plant": ["sim", "--seed", str(self._seed), "--camera-hz", "1", "--graph", "dds"],
            "supervisor": supervisor_command("dds"),
            "controller": ["run", *(part for p in parameters for part in ("-p", p)), "--graph", "dds"],
        }[name]
        ready, stack = self._folder / f"{name}.ready", contextlib.ExitStack()
        process = stack.enter_context(run_node(command, ready))
        self._nodes[name] = (stack, process)
        wait_for(ready.exists, process, name, _START_S)

    def _renew(self) -> None:
        """Start every node again, in the scene as it was at first."""
        for name in ("controller", "supervisor", "plant"):
            self._nodes.pop(name)[0].close()
        self.observer.status = {}
        for name in ("plant", "supervisor", "controller"):
            self._start(name)

    def _make_ready(self) -> None:
        """Release a stop, and wait until the controller takes instructions."""
        self.observer.at_first_feedback(None)
        self._until(lambda: self.observer.status.get("state") in ("idle", "stopped"))
        while not self.observer.can_ask():
            if self.observer.status.get("state") == "stopped" and self.observer.can_reset():
                with contextlib.suppress(Exception):  # asked again below
                    self.observer.reset()
            time.sleep(0.3)
        time.sleep(0.3)  # for both sides of the watch to hear each other

    def _ask_next(self, act: Callable[[], None]) -> None:
        self._before = self.observer.status["tasks"]
        self._refused = self.observer.status["refused_instructions"]
        self.observer.at_first_feedback(act)
        self.observer.ask(_TASKS[self._tasks % len(_TASKS)])
        self._tasks += 1

    def _is_over(self) -> bool:
        status = self.observer.status
        return bool(status["tasks"] > self._before or status["refused_instructions"] > self._refused)

    def _until(self, condition: Callable[[], object], at_most_s: float = _START_S) -> None:
        wait_for(condition, self._nodes["plant"][1], "controller", at_most_s)


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Processes that compute until the block ends."""
    code = "while True: sum(range(100000))"
    burning = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def _child(parent: int, library: str) -> int:
    """The first child of a process that has loaded a library."""
    threads = Path(f"/proc/{parent}/task")
    children = [c for t in threads.iterdir() for c in (t / "children").read_text(encoding="ascii").split()]
    loaded = [int(c) for c in sorted(children, key=int) if library in Path(f"/proc/{c}/maps").read_text("utf-8")]
    if not loaded:
        raise WorkerError(f"no child of the controller has loaded {library}", reason=WorkerReason.CRASHED)
    return loaded[0]


def _since_ms(since_s: float, at_s: float | None) -> float | None:
    return None if at_s is None else round((at_s - since_s) * 1e3, 1)


def _count(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def _read(partial: Path) -> dict[str, dict[str, Any]]:
    if not partial.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines()]
        return {line["key"]: line for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{partial}: not a results file of this command; remove it") from error
