"""An attack in a process of its own → that it ends, is refused, and how much memory it took."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_MB = 300.0  # above what a process holds that has everything imported
_ENDS_S = 120.0  # a hang, on any machine
# Not ru_maxrss: a new process inherits that of the one that started it, which may be larger than all that follows.
_MEASURE = """
import re
def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
before_mb = peak_mb()
was_refused = attack()
print(was_refused, peak_mb() - before_mb)
"""


def grown_mb(code: str, *arguments: str) -> float:
    """Run code that defines `attack`, which returns whether it was refused; how far the memory's peak rose by it.

    Raises:
        AssertionError: it was not refused, or broke.
        subprocess.TimeoutExpired: it hangs.
    """
    command = [sys.executable, "-c", code + _MEASURE, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_ENDS_S, check=False)
    assert done.returncode == 0, done.stderr
    was_refused, grown = done.stdout.split()[-2:]
    assert was_refused == "True"
    return float(grown)


@contextlib.contextmanager
def ends() -> Iterator[None]:
    """Break off what does not end; a pattern of `re` looks for signals as well."""

    def give_up(number: int, frame: object) -> None:
        raise AssertionError(f"it did not end within {_ENDS_S / 4:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(int(_ENDS_S / 4))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
