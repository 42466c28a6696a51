"""Log records → a ROS node's logger, and through it /rosout."""

from __future__ import annotations

import logging
from typing import Protocol

from qwen2vl_robot.log import LEVELS, one_line


class RosLogger(Protocol):
    """The part of what `rclpy.node.Node.get_logger` returns that we use."""

    def debug(self, message: str) -> bool: ...

    def info(self, message: str) -> bool: ...

    def warning(self, message: str) -> bool: ...

    def error(self, message: str) -> bool: ...

    def fatal(self, message: str) -> bool: ...

    def set_level(self, level: int) -> None: ...


def make_handler(logger: RosLogger, level: str) -> RosHandler:
    """Make a handler whose logger lets records of this level and above pass.

    Args:
        level: one of `log.LEVELS`, which have the same numbers in ROS.
    """
    logger.set_level(LEVELS[level])
    return RosHandler(logger)


class RosHandler(logging.Handler):
    """Passes records to a ROS logger; the module's name precedes the message."""

    def __init__(self, logger: RosLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record.

        rclpy ties a severity to the calling line and rejects another one from there, so each severity has its own line.
        """
        text = f"{record.name.removeprefix('qwen2vl_robot.')}: {one_line(record)}"
        if record.levelno >= logging.CRITICAL:
            self._logger.fatal(text)
        elif record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)
