"""This process before others, where the system allows it: on a busy machine a late heartbeat halts the arm.

Real-time priority, because niceness counts only within one session where Linux groups processes by session (autogroup).
It takes CAP_SYS_NICE or an rtprio limit; without them the process runs as it did.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

CONTROLLER, SUPERVISOR = 1, 2  # the lowest: a driver or controller of the arm that has one goes first


def hurry(priority: int, but: int | None = None) -> None:
    """Give every thread of this process, those of the middleware too, real-time priority.

    All of them: one that holds the interpreter's lock and gets no core holds up the others. Threads and processes that
    they start inherit it.

    Args:
        but: the native id of a thread that is left as it is.
    """
    _schedule(os.SCHED_RR, priority, but)


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """Hurry, and collect no garbage: a full collection stops every thread for up to 0.2 s on a busy machine.

    For a motion only, in which this process computes little; what it computes before must not take a core from others.
    """
    is_ours = os.sched_getscheduler(0) == os.SCHED_OTHER  # otherwise somebody has chosen it
    gc.disable()
    if is_ours:
        hurry(CONTROLLER)
    try:
        yield
    finally:
        if is_ours:
            _schedule(os.SCHED_OTHER, 0)
        gc.enable()


def _schedule(policy: int, priority: int, but: int | None = None) -> None:
    for name in os.listdir("/proc/self/task"):
        if int(name) != but:
            with contextlib.suppress(OSError):  # not allowed, or the thread has ended
                os.sched_setscheduler(int(name), policy, os.sched_param(priority))
