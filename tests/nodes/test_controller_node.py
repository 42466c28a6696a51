"""The controller node's inputs: what it takes, what it refuses and reports, and that only a reset releases a stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen2vl_robot.errors import BadInputError, ObservationError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.messages import ApprovalMode, Instruction, InstructionSource
from qwen2vl_robot.nodes.controller_node import ControllerNode
from qwen2vl_robot.nodes.reports import StatusReport
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.nodes.status import Status
from qwen2vl_robot.nodes.supervisor import Supervisor
from qwen2vl_robot.reading.reader import load_reader
from qwen2vl_robot.reading.stopping import load_stop_words
from qwen2vl_robot.reasons import ObservationReason
from tests.cells import PROFILE
from tests.nodes.local_graph import LocalGraph

_PATIENCE_S = 2.0  # a busy machine is no silence
URDF = PROFILE.urdf_path.read_text(encoding="utf-8")


class Cell:
    """A controller node without its workers, its supervisor, and what it published."""

    def __init__(self, **settings: Any) -> None:
        self.graph = LocalGraph()
        arm = f"{PROFILE.controllers.arm}/follow_joint_trajectory"
        self.graph.serve_action(interface.FOLLOW_JOINT_TRAJECTORY.at(arm), lambda *goal: False, lambda goal: None)
        self.supervisor = Supervisor(self.graph, PROFILE, _PATIENCE_S)
        given = {"approval": ApprovalMode.AUTO, "silence_s": _PATIENCE_S, **settings}
        self.node = ControllerNode(self.graph, Settings(**given))
        self.node.activate()
        self.supervisor.start()
        end_s = time.monotonic() + 10.0
        while self.node.guard.lack() is not None:
            assert time.monotonic() < end_s, self.node.guard.lack()
            time.sleep(0.005)

    def close(self) -> None:
        self.node.close()
        self.supervisor.close()

    def say(self, text: str, topic: interface.Topic = interface.INSTRUCTION) -> None:
        self.graph.give(topic, data=text)

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.graph.sent["~/status"][-1].data)
        return report

    def job(self) -> Any:
        """What `spin` would carry out next."""
        return self.node.jobs._queue.get_nowait()

    def waiting(self) -> Any:
        """The instruction that `spin` would carry out next, None where there is none."""
        return None if self.node.jobs._queue.empty() else self.job().instruction


@pytest.fixture
def cell() -> Iterator[Cell]:
    fresh = Cell()
    yield fresh
    fresh.close()


def test_an_instruction_becomes_the_task(cell: Cell) -> None:
    cell.say(" pick up the red block ")
    assert cell.status()["state"] == "working"
    assert cell.waiting().text == "pick up the red block"


def test_all_words_are_loaded_before_the_first_one_is_heard() -> None:
    load_reader.cache_clear()
    load_stop_words.cache_clear()
    graph, loaded = LocalGraph(), list[int]()
    subscribe = graph.subscribe

    def note(topic: interface.Topic, callback: Any) -> None:
        loaded.append(load_reader.cache_info().currsize + load_stop_words.cache_info().currsize)
        subscribe(topic, callback)

    graph.subscribe = note  # type: ignore[method-assign]
    ControllerNode(graph, Settings()).close()
    assert set(loaded) == {2}  # else a first "stop" would wait for seconds, and the arm would go on


def test_a_spoken_one_is_marked_as_such(cell: Cell) -> None:
    cell.say("pick up the red block", interface.VOICE_INSTRUCTION)
    assert cell.waiting().source is InstructionSource.VOICE


def test_a_check_of_the_camera_is_a_task_that_words_cannot_ask_for(cell: Cell) -> None:
    answer = cell.graph.call(interface.CHECK_CAMERA)
    assert (answer.success, answer.message) == (True, "taken")
    assert cell.status()["instruction"] == "check the camera"
    assert cell.waiting().source is InstructionSource.CHECK
    answer = cell.graph.call(interface.CHECK_CAMERA)
    assert not answer.success
    assert "another task is under way" in answer.message
    cell.node.halt.end_task()
    cell.say("check the camera")
    assert cell.waiting().source is InstructionSource.TEXT


def test_a_stopped_robot_checks_no_camera(cell: Cell) -> None:
    cell.graph.give(interface.STOP, data=True)
    answer = cell.graph.call(interface.CHECK_CAMERA)
    assert (answer.success, answer.message) == (False, "not taken: stopped; release it with ~/reset")
    assert cell.waiting() is None


@pytest.mark.parametrize("text", ["reset", "approve", "yes, go on", "release the stop"])
def test_voice_never_releases_a_stop(cell: Cell, text: str) -> None:
    cell.graph.give(interface.STOP, data=True)
    cell.say(text, interface.VOICE_INSTRUCTION)
    assert cell.status()["state"] == "stopped"
    assert cell.waiting() is None


def test_a_stop_latches_until_the_reset_service(cell: Cell) -> None:
    cell.graph.give(interface.STOP, data=True)
    cell.graph.give(interface.STOP, data=False)
    assert cell.status()["state"] == "stopped"
    assert cell.status()["stopped_by"] == "topic stop"
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert "~/reset" in cell.status()["last_refusal"]
    answer = cell.graph.call(interface.RESET)
    assert (answer.success, answer.message) == (True, "released")
    assert cell.status()["state"] == "idle"
    cell.say("pick up the red block")
    assert cell.waiting() is not None


STOP_SENTENCES = [
    "stop", "STOP!", "halt", "stop, the other one", "please stop", "Stopp!", "arrête", "para", "alto", "停", "止まれ",
    "멈춰", "dừng lại", "قف", "stop\nput it down", "freeze", "wait! stop!", "could you stop?",
    "请马上停止一切动作。", "直ちに動作を停止せよ", "ngừng hết mọi thứ lại",
    "nein stop nicht weiter", "non non stop bouge plus",
    "Bitte halten Sie sofort an!", "on bouge plus !!",
]  # fmt: skip


@pytest.mark.parametrize("topic", [interface.INSTRUCTION, interface.VOICE_INSTRUCTION], ids=["text", "voice"])
@pytest.mark.parametrize("text", STOP_SENTENCES)
def test_a_sentence_that_begins_with_a_stop_word_latches_a_stop(cell: Cell, text: str, topic: interface.Topic) -> None:
    cell.say(text, topic)
    assert cell.status()["state"] == "stopped"
    assert cell.waiting() is None
    cell.say("pick up the red block")
    assert cell.waiting() is None


@pytest.mark.parametrize(
    "text",
    [
        "don't stop",
        "halt den Ball",
        "pick up the red block",
        "do not pick up the red block",
        "don't put it down",
        "when it is done stop",
        "is the arm going to stop?",
        "put the red block on the blue plate and then stop",
    ],
)
def test_a_stop_word_inside_a_sentence_is_no_stop(cell: Cell, text: str) -> None:
    cell.say(text)
    assert cell.status()["stopped_by"] is None


def test_false_on_the_stop_topic_does_nothing(cell: Cell) -> None:
    cell.graph.give(interface.STOP, data=False)
    assert cell.status()["state"] == "idle"


def test_the_stop_service_latches_too(cell: Cell) -> None:
    assert cell.graph.call(interface.STOP_NOW).success
    assert cell.node.stopped_by()


def test_without_a_supervisor_no_instruction_is_taken(cell: Cell) -> None:
    cell.supervisor.close()
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert "no supervisor is heard" in cell.status()["last_refusal"]
    assert cell.status()["stopped_by"] is None


def test_a_burst_is_one_task_and_many_refusals(cell: Cell) -> None:
    published = len(cell.graph.sent["~/status"])
    for number in range(1000):
        cell.say(f"pick up the red block {number}")
    assert cell.waiting().text == "pick up the red block 0"
    assert cell.waiting() is None
    assert cell.node.status.report().refused_instructions == 999
    assert len(cell.graph.sent["~/status"]) < published + 5
    assert cell.node.health.problems()["instruction"].count == 999


def test_ten_megabytes_are_refused_in_a_moment(cell: Cell) -> None:
    began_s = time.perf_counter()
    cell.say("x" * 10_000_000)
    assert time.perf_counter() - began_s < 10.0
    assert cell.waiting() is None
    assert "10000000 characters" in cell.status()["last_refusal"]
    assert len(cell.graph.sent["~/status"][-1].data) < 5000


@pytest.mark.parametrize("text", ["", "   ", "a\x00b"])
def test_what_is_no_sentence_is_refused(cell: Cell, text: str) -> None:
    cell.say(text)
    assert cell.waiting() is None
    assert "instruction" in cell.node.health.problems()


def test_nothing_is_taken_before_the_node_is_active() -> None:
    cell = Cell()
    cell.node.deactivate()
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert "not active" in cell.status()["last_refusal"]
    cell.close()


def test_an_approval_is_answered_in_the_status(cell: Cell) -> None:
    cell.graph.give(interface.APPROVE, data="ab" * 32)
    assert cell.status()["approval"] == {
        "digest": "ab" * 32,
        "accepted": False,
        "rejected": False,
        "reason": "nothing awaits an approval",
    }


def test_cancel_without_a_task_says_so(cell: Cell) -> None:
    assert cell.graph.call(interface.CANCEL).message == "there is no task"


def test_a_description_that_agrees_is_fine(cell: Cell) -> None:
    cell.graph.give(interface.ROBOT_DESCRIPTION, data=URDF)
    cell.say("pick up the red block")
    assert cell.waiting() is not None


@pytest.mark.parametrize(
    ("urdf", "problem"),
    [
        (URDF.replace("panda_joint3", "elbow"), "no joint panda_joint3"),
        ("<robot", "not a URDF"),
        ("<sdf/>", "its root is not <robot>"),
        ('<!DOCTYPE r [<!ENTITY a "b">]><robot/>', "entity"),
    ],
)
def test_a_description_that_disagrees_forbids_motion(cell: Cell, urdf: str, problem: str) -> None:
    cell.graph.give(interface.ROBOT_DESCRIPTION, data=urdf)
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert problem in cell.status()["last_refusal"]
    assert "robot_description" in cell.node.health.problems()


def test_the_cells_own_rules_are_those_that_the_controller_gets(tmp_path: Path, monkeypatch: Any) -> None:
    rules = tmp_path / "cell.yaml"
    rules.write_text("never_touch: [block]\n", encoding="utf-8")
    own = Cell(rules=str(rules))
    for worker in (own.node.planner, own.node.rehearsal):
        monkeypatch.setattr(worker, "start", lambda: None)
    own.node.configure()
    assert own.node._controller is not None
    assert own.node._controller._parts.cell.forbid(Instruction("pick up the red block"))
    own.close()


def test_a_cell_without_its_rules_is_not_configured() -> None:
    lost = Cell(rules="nowhere.yaml")
    with pytest.raises(BadInputError, match="nowhere.yaml"):
        lost.node.configure()
    lost.close()


def test_a_required_description_must_have_come() -> None:
    cell = Cell(needs_description=True)
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert "no robot_description has come yet" in cell.status()["last_refusal"]
    cell.close()


def test_whatever_breaks_in_a_task_halts_the_arm_and_is_reported(cell: Cell) -> None:
    cell.say("pick up the red block")
    cell.node._carry_out(cell.job())  # nothing was configured: the controller does not exist
    assert cell.status()["last_task"]["outcome"] == "aborted"
    assert cell.status()["state"] == "idle"
    assert "task" in cell.node.health.problems()


def test_a_callback_that_breaks_stops_the_arm(cell: Cell) -> None:
    cell.graph.broken("image: ValueError: never expected")
    assert cell.status()["state"] == "stopped"
    assert "never expected" in cell.status()["stopped_by"]


def test_ending_gives_up_the_task_and_lets_spin_return(cell: Cell) -> None:
    cell.say("pick up the red block")
    cell.node.end_spin()
    assert cell.node.halt.cause() is not None
    cell.node.spin()


def test_an_instruction_that_comes_after_the_end_is_not_taken(cell: Cell) -> None:
    cell.node.end_spin()
    cell.say("pick up the red block")
    assert "not active" in cell.status()["last_refusal"]
    assert not cell.node.halt.has_task
    cell.node.spin()


def test_a_stop_during_shutdown_keeps_its_reason(cell: Cell) -> None:
    """The lifecycle node latches it again when it is configured anew; a shutdown by itself is no stop."""
    cell.node.close()
    assert cell.node.stopped_by() is None
    cell.graph.give(interface.STOP, data=True)
    assert cell.node.stopped_by() == "topic stop"


class Waiting:
    """A controller that waits for its first frame until something halts it."""

    foreign = SimpleNamespace(believed=None)

    def __init__(self, cell: Cell, halted_by: str) -> None:
        self._cell, self._halted_by = cell, halted_by

    def run(self, instruction: Any) -> None:
        with self._cell.node.halt.task():
            if self._halted_by == "supervisor":
                self._cell.supervisor.close()
            else:
                getattr(self._cell.node, self._halted_by)(*(["smoke"] if self._halted_by == "stop" else []))
            raise ObservationError(str(self._cell.node._why_halted()), reason=ObservationReason.HALTED)


@pytest.mark.parametrize(
    ("halted_by", "reason"), [("cancel", "cancelled"), ("stop", "stopped"), ("supervisor", "no_supervisor")]
)
def test_a_task_halted_before_its_first_frame_is_refused_and_not_broken(
    cell: Cell, halted_by: str, reason: str
) -> None:
    cell.say("pick up the red block")
    cell.node._controller = Waiting(cell, halted_by)  # type: ignore[assignment]
    cell.node._carry_out(cell.job())
    task = cell.status()["last_task"]
    assert (task["outcome"], task["causes"][0]["reason"]) == ("refused", reason)
    assert "task" not in cell.node.health.problems()


def test_a_task_whose_acceptance_cannot_be_published_does_not_exist(cell: Cell) -> None:
    def fail(report: StatusReport) -> None:
        raise RuntimeError("the writer is gone")

    working, cell.node.status = cell.node.status, Status(cell.node.halt, cell.node.approver, fail)
    cell.node.status._is_active = True
    with pytest.raises(RuntimeError, match="writer"):
        cell.say("pick up the red block")
    cell.node.status = working
    assert cell.waiting() is None
    assert cell.graph.call(interface.CANCEL).message == "there is no task"


def test_a_reset_without_a_stop_says_that_it_cancels_the_task(cell: Cell) -> None:
    assert cell.graph.call(interface.RESET).message == "there was no stop"
    cell.say("pick up the red block")
    assert cell.graph.call(interface.RESET).message == "there was no stop; the task is cancelled"
    assert cell.node.halt.cause() is not None


def test_a_status_never_contradicts_itself(cell: Cell) -> None:
    """A stop that comes while the report is put together belongs to the next report."""

    class LateStop:
        def awaited(self) -> None:
            cell.node.halt.stop("smoke")

    status = Status(cell.node.halt, LateStop(), lambda report: None)  # type: ignore[arg-type]
    status.configured()
    cell.node.halt.reset()
    report = status.report()
    assert (report.state == "stopped") == (report.stopped_by is not None)


def test_diagnostics_come_every_second_with_each_problem_by_name(cell: Cell) -> None:
    cell.say("")
    end_s = time.monotonic() + 10
    while not cell.graph.sent.get("/diagnostics"):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    report = cell.graph.sent["/diagnostics"][0]
    names = {s.name.rpartition(": ")[2]: s for s in report.status}
    assert names["instruction"].level == 1
    assert "empty" in names["instruction"].message
    assert {v.key for v in names["controller"].values} >= {"state", "robot", "image messages"}


def diagnostics(cell: Cell) -> dict[str, Any]:
    """The latest report, by subject."""
    report = cell.node.health._report()
    return {status.name.rpartition(": ")[2]: status for status in report.status}


def test_what_is_well_is_ok_and_every_entry_names_the_robot(cell: Cell) -> None:
    cell.node.health.fine("camera")
    found = diagnostics(cell)
    assert {status.level for status in found.values()} == {0}
    assert (found["controller"].message, found["camera"].message) == ("running", "no problem")
    assert {status.hardware_id for status in found.values()} == {"franka_panda"}


def test_a_problem_that_lasts_is_shown_until_it_is_over_and_then_its_subject_is_ok(cell: Cell) -> None:
    cell.graph.give(interface.ROBOT_DESCRIPTION, data="<sdf/>")
    health = cell.node.health
    health._problems = {s: replace(p, seen_s=p.seen_s - 3600.0) for s, p in health._problems.items()}
    found = diagnostics(cell)
    assert (found["robot_description"].level, found["controller"].level) == (2, 2)
    assert found["controller"].message == "see robot_description"
    cell.graph.give(interface.ROBOT_DESCRIPTION, data=URDF)
    found = diagnostics(cell)
    assert (found["robot_description"].level, found["controller"].level) == (0, 0)


def test_what_happened_once_is_forgotten_and_its_subject_is_ok(cell: Cell) -> None:
    cell.say("")
    assert diagnostics(cell)["instruction"].level == 1
    health = cell.node.health
    health._problems = {s: replace(p, seen_s=p.seen_s - 11.0) for s, p in health._problems.items()}
    assert diagnostics(cell)["instruction"].level == 0


def test_a_reset_clears_what_a_person_has_looked_at(cell: Cell) -> None:
    cell.graph.broken("image: ValueError: never expected")
    assert diagnostics(cell)["callback"].level == 2
    cell.graph.call(interface.RESET)
    assert diagnostics(cell)["callback"].level == 0


# ------------------------------------------------------------------------------------------ time that jumps


@pytest.mark.parametrize(("seconds", "said"), [(-60.0, "went back by 60.000 s"), (60.0, "went on at once by 60.000 s")])
def test_a_clock_that_jumps_ends_the_task_and_is_said(cell: Cell, seconds: float, said: str) -> None:
    cell.say("pick up the red block")
    cell.graph.jump(seconds)
    cause = cell.node.halt.cause()
    assert cause is not None
    assert said in cause.text
    assert said in cell.node.health.problems()["clock"].text
    assert cell.node.halt.stopped_by() is None
    cell.node._carry_out(cell.job())
    cell.say("pick up the red block")
    assert cell.waiting() is not None


def test_a_jump_without_a_task_ends_nothing(cell: Cell) -> None:
    cell.graph.jump(-1.0)
    assert cell.node.halt.cause() is None
    cell.say("pick up the red block")
    assert cell.waiting() is not None


def test_two_clocks_on_one_topic_are_named_and_do_not_flood_the_log(cell: Cell) -> None:
    cell.graph.foreign_publishers["/clock"] = 2
    for _ in range(100):
        cell.graph.jump(-1.0)
        cell.graph.jump(1.0)
    problem = cell.node.health.problems()["clock"]
    assert "2 nodes publish /clock" in problem.text
    assert problem.count < 5


# ------------------------------------------------------------------------- publishers that are not reliable


def unreliable(cell: Cell, text: str, topic: interface.Topic) -> None:
    """Say something as one whom only the subscription for everybody hears."""
    cell.graph._callbacks[topic.name][1](cell.graph.message(topic.type)(data=text))


@pytest.mark.parametrize("topic", [interface.INSTRUCTION, interface.VOICE_INSTRUCTION], ids=lambda topic: topic.name)
def test_a_stop_word_of_an_unreliable_publisher_stops_and_an_instruction_of_one_is_not_taken_twice(
    cell: Cell, topic: interface.Topic
) -> None:
    unreliable(cell, "pick up the red block", topic)
    assert cell.waiting() is None
    assert cell.status()["refused_instructions"] == 0
    unreliable(cell, "stop right there", topic)
    assert "stop right there" in str(cell.node.halt.stopped_by())
