"""The worker process: it may crash, hang or raise, and the next call works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen2vl_robot.errors import MotionError, WorkerError
from qwen2vl_robot.process import Worker


class Served:
    """What the child serves in these tests."""

    def __init__(self, name: str = "served") -> None:
        if name == "broken":
            raise ValueError("cannot be built")
        if name == "refusing":
            raise MotionError("out of reach", reason="out_of_reach")
        self.name = name
        self.ticks = 0
        self.closed_file: str | None = None

    def echo(self, value: object, *, twice: bool = False) -> object:
        return [value, value] if twice else value

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def spin(self) -> None:
        while True:
            pass

    def fail(self) -> None:
        raise MotionError("no path after 3 tries", reason="no_path")

    def fail_foreign(self) -> None:
        raise KeyError("seven")

    def exit(self, status: int) -> None:
        os._exit(status)

    def unpicklable(self) -> object:
        return threading.Lock()

    def executable(self) -> str:
        return sys.executable

    def modules(self) -> list[str]:
        return sorted(sys.modules)

    def touch_on_close(self, path: str) -> None:
        self.closed_file = path

    def close(self) -> None:
        if self.closed_file is not None:
            Path(self.closed_file).touch()


class Ticking(Served):
    def tick(self) -> None:
        self.ticks += 1

    def count(self) -> int:
        return self.ticks


SERVED = f"{__name__}:Served"
TICKING = f"{__name__}:Ticking"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    paths = [str(Path(__file__).parents[i]) for i in range(2)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
    with Worker(SERVED) as served:
        yield served


def started(worker: Worker) -> int:
    """Start the worker and return the child's process id."""
    worker.start()
    assert worker.pid is not None
    return worker.pid


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int, limit_s: float = 5.0) -> bool:
    end = time.monotonic() + limit_s
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_alive(pid)


def test_worker_answers_with_what_the_method_returns(worker: Worker) -> None:
    assert worker.call("echo", {"a": 1.5}, twice=True, timeout_s=10) == [{"a": 1.5}, {"a": 1.5}]


def test_worker_killed_in_the_middle_of_a_call_is_an_error_and_the_next_call_works(worker: Worker) -> None:
    pid = started(worker)
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(WorkerError, match="signal 9") as caught:
        worker.call("sleep", 30.0, timeout_s=20)
    assert caught.value.reason == "crashed"
    assert worker.call("echo", 7, timeout_s=10) == 7
    assert worker.pid != pid


def test_worker_killed_between_calls_is_replaced(worker: Worker) -> None:
    pid = started(worker)
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone(pid)
    assert worker.call("echo", 7, timeout_s=10) == 7


def test_worker_that_exits_by_itself_is_an_error_that_names_the_status(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="exit status 3") as caught:
        worker.call("exit", 3, timeout_s=10)
    assert caught.value.reason == "crashed"


def test_worker_that_hangs_is_killed_in_time(worker: Worker) -> None:
    pid, start = started(worker), time.monotonic()
    with pytest.raises(WorkerError, match=r"0\.3 s") as caught:
        worker.call("spin", timeout_s=0.3)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - start < 10.0
    assert not is_alive(pid)
    assert worker.call("echo", 7, timeout_s=10) == 7


def test_frozen_worker_that_does_not_read_is_killed_in_time(worker: Worker) -> None:
    os.kill(started(worker), signal.SIGSTOP)
    with pytest.raises(WorkerError) as caught:
        worker.call("echo", b"x" * 10_000_000, timeout_s=0.3)
    assert caught.value.reason == "timeout"


def test_robot_error_is_raised_as_itself(worker: Worker) -> None:
    with pytest.raises(MotionError, match="no path after 3 tries") as caught:
        worker.call("fail", timeout_s=10)
    assert caught.value.reason == "no_path"
    assert "in fail" in str(caught.value.__cause__)


def test_foreign_exception_is_a_worker_error_and_the_child_lives_on(worker: Worker) -> None:
    pid = started(worker)
    with pytest.raises(WorkerError, match="KeyError: 'seven'") as caught:
        worker.call("fail_foreign", timeout_s=10)
    assert caught.value.reason == "raised"
    assert worker.call("echo", 7, timeout_s=10) == 7
    assert worker.pid == pid


@pytest.mark.parametrize("method", ["unpicklable", "no_such_method"])
def test_unusable_answer_is_a_worker_error(worker: Worker, method: str) -> None:
    with pytest.raises(WorkerError) as caught:
        worker.call(method, timeout_s=10)
    assert caught.value.reason == "raised"


def test_factory_that_raises_is_reported_and_leaves_no_child(worker: Worker) -> None:
    with Worker(SERVED, "broken") as broken:
        with pytest.raises(WorkerError, match="cannot be built"):
            broken.start()
        assert broken.pid is None
    with Worker(SERVED, "refusing") as refusing, pytest.raises(MotionError, match="out of reach"):
        refusing.start()


def test_unknown_module_is_a_worker_error() -> None:
    with Worker("no_such_module:thing") as missing, pytest.raises(WorkerError, match="no_such_module"):
        missing.start()


def test_interpreter_is_a_setting(worker: Worker, tmp_path: Path) -> None:
    marked = tmp_path / "python-of-the-worker"
    marked.write_text(f'#!/bin/sh\nMARK=seen exec {sys.executable} "$@"\n')
    marked.chmod(0o755)
    with Worker("os:getenv", "MARK", interpreter=str(marked)) as other:
        assert other.call("__str__", timeout_s=10) == "seen"


def test_missing_interpreter_is_a_worker_error() -> None:
    with Worker(SERVED, interpreter="/no/such/python") as missing, pytest.raises(WorkerError, match="No such file"):
        missing.start()


def test_close_lets_the_object_close_itself(worker: Worker, tmp_path: Path) -> None:
    pid = started(worker)
    worker.call("touch_on_close", str(tmp_path / "closed"), timeout_s=10)
    worker.close()
    assert (tmp_path / "closed").exists()
    assert not is_alive(pid)
    assert worker.pid is None


def test_tick_is_called_while_no_request_waits(worker: Worker) -> None:
    with Worker(TICKING) as ticking:
        before = ticking.call("count", timeout_s=10)
        time.sleep(0.2)
        assert ticking.call("count", timeout_s=10) >= before + 20


def test_child_ignores_the_interrupt_that_is_meant_for_its_parent(worker: Worker) -> None:
    os.kill(started(worker), signal.SIGINT)
    assert worker.call("echo", 7, timeout_s=10) == 7


@pytest.mark.parametrize("method", ["sleep", "spin"])
def test_child_dies_when_its_parent_is_killed(worker: Worker, method: str) -> None:
    script = textwrap.dedent(
        f"""
        from qwen2vl_robot.process import Worker
        worker = Worker({SERVED!r})
        worker.start()
        print(worker.pid, flush=True)
        worker.call({method!r}, *({method!r} == "sleep") * [60.0], timeout_s=60)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.1)
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    assert wait_until_gone(pid)
    parent.stdout.close()


def test_parent_and_child_load_nothing_heavy(worker: Worker) -> None:
    heavy = {"numpy", "pybullet", "torch", "pinocchio"}
    script = "import qwen2vl_robot.process, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(loaded.split())


def test_calls_from_threads_do_not_mix_their_answers(worker: Worker) -> None:
    answers: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda i=i: answers.update({i: worker.call("echo", i, timeout_s=10)}))
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: i for i in range(20)}
