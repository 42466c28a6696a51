"""Problems of a running node → /diagnostics at 1 Hz, one entry for each subject: OK once its problem is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import stamp_from_ns

if TYPE_CHECKING:  # the supervisor has a health too, and loads nothing of perception
    from qwen2vl_robot.perception.camera_health import CameraHealth
    from qwen2vl_robot.perception.camera_seen import CameraSeen

_log = logging.getLogger(__name__)
_SHOWN_S = 10.0  # what happened once, such as a refused instruction, is shown this long
_MAX_TEXT = 300
_MAX_SUBJECTS = 50


class Level(IntEnum):
    """Levels of diagnostic_msgs/msg/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


_SEVERITY = {Level.OK: logging.INFO, Level.WARN: logging.WARNING, Level.ERROR: logging.ERROR}


@dataclass(frozen=True, slots=True)
class Problem:
    """The latest problem of one subject, such as "camera" or "instruction".

    Attributes:
        count: how often it was reported.
        seen_s: monotonic time of the latest report.
        lasts: whether it is there until it is said to be over; else it happened once.
    """

    level: Level
    text: str
    count: int
    seen_s: float
    lasts: bool


class Health:
    """Collects problems from any thread and publishes them once a second."""

    def __init__(self, graph: interface.Graph, *, hardware_id: str, facts: Callable[[], dict[str, str]]) -> None:
        """Prepare the reports; `start` begins them.

        Args:
            hardware_id: the robot's name, for those who gather diagnostics by hardware.
            facts: returns further keys and values of every report.
        """
        self._graph, self._hardware_id, self._facts = graph, hardware_id, facts
        self._subjects: set[str] = set()  # all that were ever reported; one without a problem is OK
        self._lock = threading.Lock()
        self._problems: dict[str, Problem] = {}
        self._values: dict[str, dict[str, str]] = {}  # what was last measured of a subject, well or not
        self._publisher = graph.publisher(interface.DIAGNOSTICS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="diagnostics", daemon=True)

    def start(self) -> None:
        """Start to publish."""
        self._thread.start()

    def warn(self, subject: str, text: str) -> None:
        """Note a problem with which the node keeps running."""
        self._note(subject, Level.WARN, text, lasts=False)

    def error(self, subject: str, text: str, *, lasts: bool = False) -> None:
        """Note that something broke; this only reports it, the caller stops what moves.

        Args:
            lasts: until `fine` says that it is over.
        """
        self._note(subject, Level.ERROR, text, lasts)

    def on_camera(self, name: str, seen: CameraSeen) -> None:
        """Note whether the arm confirms a camera's pose; that holds until another frame says otherwise."""
        subject = f"camera check {name}".strip()
        if seen.is_checked and not seen.is_off:
            self.fine(subject)
        else:
            self._note(subject, Level.ERROR if seen.is_off else Level.WARN, seen.describe(), lasts=True)

    def on_camera_health(self, health: CameraHealth) -> None:
        """Note how the camera of the last frame is, with every number; what was not measured is no OK."""
        values = {m.name: "not measured" if m.value is None else f"{m.value:.4g}" for m in health.measures}
        with self._lock:
            self._values["camera health"] = values
        if health.ill is None and not health.unusual and not health.unmeasured:
            self.fine("camera health")
        else:
            level = Level.WARN if health.ill is None else Level.ERROR
            self._note("camera health", level, health.describe(), lasts=True)

    def fine(self, *subjects: str) -> None:
        """Clear the problems of subjects: their causes are gone."""
        for subject in subjects:
            if subject in self._problems or subject not in self._subjects:
                with self._lock:
                    self._problems.pop(subject, None)
                    self._know(subject)

    def problems(self) -> dict[str, Problem]:
        """Return the current problems by subject."""
        now_s = time.monotonic()
        with self._lock:
            self._problems = {s: t for s, t in self._problems.items() if t.lasts or now_s - t.seen_s < _SHOWN_S}
            return dict(self._problems)

    def close(self) -> None:
        """Stop publishing."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _know(self, subject: str) -> None:
        if len(self._subjects) < _MAX_SUBJECTS:
            self._subjects.add(subject)

    def _note(self, subject: str, level: Level, text: str, lasts: bool) -> None:
        with self._lock:
            before = self._problems.get(subject)
            if before is None and len(self._problems) >= _MAX_SUBJECTS:
                return
            count = 1 if before is None else before.count + 1
            self._problems[subject] = Problem(level, text[:_MAX_TEXT], count, time.monotonic(), lasts)
            self._know(subject)
        _log.log(_SEVERITY[level], "%s: %s", subject, text[:_MAX_TEXT])

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            try:
                self._publish()
            except Exception:  # noqa: BLE001 - the top of a thread; who reads /diagnostics sees that nothing comes
                _log.exception("the diagnostics could not be published")

    def _publish(self) -> None:
        if problems := self._graph.problems():
            self.warn("graph", "; ".join(problems))
        else:
            self.fine("graph")
        self._publisher.publish(self._report())

    def _report(self) -> interface.Message:
        make = self._graph.message
        problems = self.problems()
        facts = self._pairs(self._facts())
        worst = max((t.level for t in problems.values()), default=Level.OK)
        text = f"see {', '.join(sorted(problems))}" if problems else "running"
        entries = [self._status("controller", worst, text, facts)]
        for subject in sorted({*self._subjects, *problems}):
            problem, values = problems.get(subject), self._values.get(subject, {})
            if problem is None:
                entries.append(self._status(subject, Level.OK, "no problem", self._pairs(values)))
                continue
            values = {"times": str(problem.count), **values}
            entries.append(self._status(subject, problem.level, problem.text, self._pairs(values)))
        stamp = stamp_from_ns(make, self._graph.now_ns())
        head = make("std_msgs/msg/Header")(stamp=stamp, frame_id="")
        return make("diagnostic_msgs/msg/DiagnosticArray")(header=head, status=entries)

    def _pairs(self, values: dict[str, str]) -> list[interface.Message]:
        return [self._graph.message("diagnostic_msgs/msg/KeyValue")(key=k, value=v) for k, v in values.items()]

    def _status(self, subject: str, level: Level, text: str, values: list[interface.Message]) -> interface.Message:
        kind = self._graph.message("diagnostic_msgs/msg/DiagnosticStatus")
        ok = kind().level  # an int over DDS, one byte in rclpy
        value = bytes([level]) if isinstance(ok, bytes) else int(level)
        name = f"{self._graph.name}: {subject}"
        return kind(level=value, name=name, message=text, hardware_id=self._hardware_id, values=values)
