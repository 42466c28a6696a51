"""Log records of the package → one line each on stderr or in a ROS node's log; the same line once a second at most.

Refusals, aborts and faults are warnings or errors; the life cycle and each step of a task are information; decisions
are for debugging. Instructions and labels are untrusted text: whatever could end a line or move a cursor is escaped.
"""

from __future__ import annotations

import logging
import time

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_PACKAGE = "qwen2vl_robot"
_AGAIN_S = 1.0
_MAX_LINE = 1000
_MOST_KEPT = 1000


class OneLine(logging.Formatter):
    """Time, level, module and the message with everything unprintable escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        module = record.name.removeprefix(f"{_PACKAGE}.")
        return f"{clock}.{int(record.msecs):03d} {record.levelname.lower()} {module}: {one_line(record)}"


def one_line(record: logging.LogRecord) -> str:
    """A record's message as one printable line of bounded length."""
    text = record.getMessage()[:_MAX_LINE]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class OnceASecond(logging.Filter):
    """Lets the same line of the same logger pass once a second."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_s: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass."""
        key, now_s = (record.name, record.getMessage()[:_MAX_LINE]), time.monotonic()
        if now_s - self._passed_s.get(key, -_AGAIN_S) < _AGAIN_S:
            return False
        if len(self._passed_s) >= _MOST_KEPT:
            self._passed_s = {k: s for k, s in self._passed_s.items() if now_s - s < _AGAIN_S}
        self._passed_s[key] = now_s
        return True


def start_logging(level: str, handler: logging.Handler | None = None) -> None:
    """Send the package's records of this level and above to a handler, instead of where they went before.

    Args:
        level: one of `LEVELS`.
        handler: else lines on stderr.
    """
    logger = logging.getLogger(_PACKAGE)
    for old in list(logger.handlers):
        logger.removeHandler(old)
    handler = handler or logging.StreamHandler()
    handler.setFormatter(OneLine())
    handler.addFilter(OnceASecond())
    logger.addHandler(handler)
    logger.setLevel(LEVELS[level])
    logger.propagate = False
