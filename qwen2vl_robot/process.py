"""Method calls → a child process that may crash, hang or be killed without harm to its parent.

The child is `python -m qwen2vl_robot.process FD LIFELINE`: it builds one object and serves its methods over a socket.
This module imports the standard library and the package's errors only, so that a parent never loads what its children
need.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from qwen2vl_robot.errors import RobotError, WorkerError
from qwen2vl_robot.reasons import WorkerReason

_START_TIMEOUT_S = 120.0  # a cold import of torch on a busy machine
_CLOSE_TIMEOUT_S = 2.0
_POLL_S = 0.002  # how long the child waits for a request between two calls of `tick()`


class Worker:
    """One object in a child process of its own, started at the first call and again after the child died.

    The object's `tick()`, if it has one, is called while no request waits; its `close()`, if it has one, at the end.
    The child ends when its parent does, however it ends. Calls from several threads take turns.
    """

    def __init__(self, factory: str, *args: object, interpreter: str | None = None) -> None:
        """Prepare the child without starting it.

        Args:
            factory: "module:callable" that makes the served object from `args`.
            interpreter: the child's Python, else this process's own.

        Raises:
            ValueError: the factory has another form.
        """
        module, _, name = factory.partition(":")
        if not module or not name:
            raise ValueError(f"factory {factory!r} must be 'module:callable'")
        self._factory = factory
        self._args = args
        self._interpreter = interpreter
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._socket: socket.socket | None = None
        self._lifeline = -1

    @property
    def pid(self) -> int | None:
        """Return the child's process id, None without a child."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def start(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Start the child and build its object; a running child is kept.

        Raises:
            WorkerError: the child could not be started.
            RobotError: the factory raised it.
        """
        with self._lock:
            if self.pid is not None:
                return
            self._discard()
            self._spawn()
            self._exchange((self._factory, self._args), "start", timeout_s)

    def call(self, method: str, *args: object, timeout_s: float, **kwargs: object) -> Any:
        """Call a method of the served object; starting the child first, if needed, has its own time limit of 120 s.

        Raises:
            WorkerError: "crashed" (the child died), "timeout" (it took longer and was killed), or "raised" (the method
                raised another exception than a RobotError).
            RobotError: the method raised it.
        """
        with self._lock:
            self.start()
            return self._exchange((method, args, kwargs), method, timeout_s)

    def close(self) -> None:
        """End the child, which has two seconds to close its object. A later call starts a new child."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self._child is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(_CLOSE_TIMEOUT_S)
            self._discard()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe()
        try:
            self._child = subprocess.Popen(
                [self._interpreter or sys.executable, "-m", __name__, str(theirs.fileno()), str(lifeline_read)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # the child's output must not mix with a command's
                pass_fds=(theirs.fileno(), lifeline_read),
                env=_environment(self._interpreter),
            )
        except OSError as error:
            ours.close()
            self._discard()
            raise WorkerError(f"{self._interpreter}: {error.strerror}", reason=WorkerReason.CRASHED) from error
        finally:
            theirs.close()
            os.close(lifeline_read)
        self._socket = ours
        self._connection = Connection(os.dup(ours.fileno()))

    def _exchange(self, request: object, what: str, timeout_s: float) -> Any:
        name = f"{self._factory} {what}"
        try:
            kind, value, details = self._ask(request, timeout_s)
        except (BlockingIOError, TimeoutError) as error:
            self._discard()
            raise WorkerError(
                f"{name}: no answer within {timeout_s:g} s; killed", reason=WorkerReason.TIMEOUT
            ) from error
        except (EOFError, OSError) as error:
            status = self._discard()
            raise WorkerError(f"{name}: the process ended ({status})", reason=WorkerReason.CRASHED) from error
        except BaseException:
            self._discard()  # otherwise the late reply would answer the next call
            raise
        if kind == "ok":
            return value
        cause = ChildTraceback(details)
        if what == "start":
            self._discard()
        if isinstance(value, RobotError):
            raise value from cause
        raise WorkerError(f"{name}: {value}", reason=WorkerReason.RAISED) from cause

    def _ask(self, request: object, timeout_s: float) -> tuple[str, Any, str]:
        connection, link = self._connection, self._socket
        if connection is None or link is None:
            raise EOFError("closed")
        limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1.0 * 1e6) or 1)
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # a child may freeze in the middle of a message
            link.setsockopt(socket.SOL_SOCKET, option, limit)
        connection.send_bytes(pickle.dumps(request))
        if not connection.poll(timeout_s):
            raise TimeoutError
        reply: tuple[str, Any, str] = pickle.loads(connection.recv_bytes())
        return reply

    def _discard(self) -> str:
        """Kill the child if it still runs, and return how it ended."""
        for end in (self._connection, self._socket):
            if end is not None:
                end.close()
        self._connection = self._socket = None
        status = "not started"
        if self._child is not None:
            try:
                self._child.wait(0.05)  # keeps the status of a child that died by itself
            except subprocess.TimeoutExpired:
                self._child.kill()
            code = self._child.wait()
            status = f"signal {-code}" if code < 0 else f"exit status {code}"
            self._child = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        return status


class ChildTraceback(Exception):
    """Carries the child's traceback as the cause of the parent's exception."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _environment(interpreter: str | None) -> dict[str, str]:
    """Return this process's environment, extended so that the child finds this package.

    Another interpreter must not see our site-packages: their binaries are built for this one.
    """
    root = Path(__file__).resolve().parents[1]
    if interpreter is not None and root.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


# ---------------------------------------------------------------------------------------------- in the child


def _serve(connection: Connection) -> None:
    """Build the object of the first message, then answer calls until the parent closes the connection."""
    factory, args = pickle.loads(connection.recv_bytes())
    built: list[Any] = []

    def build() -> None:
        module, _, name = factory.partition(":")
        built.append(getattr(importlib.import_module(module), name)(*args))

    connection.send_bytes(_answer(build))
    if not built:
        return
    served = built[0]
    tick = getattr(served, "tick", None)
    try:
        while True:
            while tick is not None and not connection.poll(_POLL_S):
                tick()
            method, args, kwargs = pickle.loads(connection.recv_bytes())
            connection.send_bytes(_answer(getattr(served, method, None) or _missing(served, method), *args, **kwargs))
    except (EOFError, ConnectionError):
        close = getattr(served, "close", None)
        if close is not None:
            close()


def _missing(served: object, method: str) -> Any:
    def raise_it(*_: object, **__: object) -> None:
        raise AttributeError(f"{type(served).__name__} has no method {method!r}")

    return raise_it


def _answer(function: Any, *args: object, **kwargs: object) -> bytes:
    """Call, and pickle the reply ("ok" | "error", value, traceback); exceptions become replies."""
    try:
        return pickle.dumps(("ok", function(*args, **kwargs), ""))
    except Exception as error:  # noqa: BLE001 - the top of this process: the parent gets every exception
        text = f"{type(error).__name__}: {error}"
        return pickle.dumps(("error", error if _can_travel(error) else text, traceback.format_exc()))


def _can_travel(error: Exception) -> bool:
    """Return whether the parent can raise this error itself."""
    try:
        return isinstance(error, RobotError) and isinstance(pickle.loads(pickle.dumps(error)), RobotError)
    except Exception:  # noqa: BLE001 - pickling runs foreign code, which may raise anything
        return False


def _die_with_parent(lifeline: int) -> None:
    """End this process when the parent's end of the pipe closes, even in the middle of a computation.

    The kernel then sends SIGIO, which terminates by default. PR_SET_PDEATHSIG would watch the thread that started us
    and not the parent process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    try:
        gone = os.read(lifeline, 1) == b""
    except BlockingIOError:
        gone = False
    if gone:
        os._exit(1)


def peak_memory_mb(pid: int) -> float:
    """Return a process's peak resident memory in MB; 0 if Linux does not report it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0.0


def main() -> None:
    """Serve one object to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    if os.sched_getscheduler(0) != os.SCHED_OTHER:  # a parent that moves an arm goes first; what computes does not
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    _die_with_parent(int(sys.argv[2]))
    link = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(Connection(link.detach()))


if __name__ == "__main__":
    main()
