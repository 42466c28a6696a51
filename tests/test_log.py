"""What happens is one line each: by level, escaped, and the same line once a second at most."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pytest

from qwen2vl_robot.graph.ros_log import RosHandler
from qwen2vl_robot.log import LEVELS, OnceASecond, start_logging
from qwen2vl_robot.messages import Action, Cause, Instruction, Outcome, OutcomeKind, Verb
from qwen2vl_robot.reasons import RefusalReason, TaskReason
from qwen2vl_robot.task import Task


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    start_logging("info", logging.StreamHandler(text))
    yield text
    start_logging("warn")


def test_a_step_that_worked_informs_and_a_refusal_warns(log: io.StringIO) -> None:
    task = Task(Instruction("go home"), ())
    task.record(Action(Verb.HOME), Outcome(OutcomeKind.ACHIEVED))
    cause = Cause(RefusalReason.STALE_STATE, "the live state is 2.1 s old")
    task.record(Action(Verb.HOME), Outcome(OutcomeKind.REFUSED, (cause,)))
    first, second = log.getvalue().splitlines()
    assert " info task: home: achieved" in first
    assert " warning task: home: refused: stale_state: the live state is 2.1 s old" in second


def test_a_question_is_said_once(log: io.StringIO) -> None:
    cause = Cause(TaskReason.ASKED, "I see no red plate.")
    Task(Instruction("go home"), ()).record(Action(Verb.ASK, text=cause.text), Outcome(OutcomeKind.ASKED, (cause,)))
    assert log.getvalue().endswith(" info task: ask: asked: I see no red plate.\n")


def test_the_same_line_comes_once_a_second(log: io.StringIO) -> None:
    logger = logging.getLogger("qwen2vl_robot.example")
    for _ in range(1000):
        logger.warning("joint_states: %s", "too old")
    logger.warning("joint_states: %s", "too new")
    assert len(log.getvalue().splitlines()) == 2


def test_a_line_that_passed_a_second_ago_passes_again() -> None:
    limit = OnceASecond()
    record = logging.LogRecord("a", logging.INFO, "", 0, "x", (), None)
    assert limit.filter(record)
    assert not limit.filter(record)
    limit._passed_s = {key: seen_s - 1.1 for key, seen_s in limit._passed_s.items()}
    assert limit.filter(record)


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2Jgone", "a\u2028b", "\x07", "x" * 5000])
def test_untrusted_text_stays_on_its_line(log: io.StringIO, text: str) -> None:
    logging.getLogger("qwen2vl_robot.example").warning("instruction: %s", text)
    assert len(log.getvalue().splitlines()) == 1
    assert log.getvalue().rstrip("\n").isprintable()
    assert len(log.getvalue()) < 1200


def test_below_the_level_nothing_is_printed(log: io.StringIO) -> None:
    logging.getLogger("qwen2vl_robot.example").debug("a decision")
    assert log.getvalue() == ""


class Recorder:
    """Stands where rclpy's logger does: keeps what came, by severity."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, severity: str) -> Callable[[str], bool]:
        return lambda text: self.lines.append((severity, text)) is None


def test_a_ros_node_logs_under_its_own_severities() -> None:
    recorder = Recorder()
    start_logging("debug", RosHandler(recorder))
    logger = logging.getLogger("qwen2vl_robot.gate")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(level, "level %d\n", level)
    start_logging("warn")
    assert [severity for severity, _ in recorder.lines] == ["debug", "info", "warning", "error", "fatal"]
    assert recorder.lines[0][1] == "gate: level 10\\n"


def test_the_levels_are_those_of_ros() -> None:
    assert list(LEVELS) == ["debug", "info", "warn", "error", "fatal"]
