"""A ROS domain that nobody else on this machine is on: for demos, benchmarks and tests."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import socket
from typing import Final

from qwen2vl_robot.errors import WorkerError

DOMAINS: Final = range(20, 100)  # robots mostly use the first ones; above 101 there are no ports for all
_log = logging.getLogger(__name__)
_leases: list[socket.socket] = []  # held until this process ends


def own_domain() -> int:
    """Return a domain that nobody on this machine is on, and hold it until this process and its forks end.

    Raises:
        WorkerError: all are taken, or this machine gives none.
    """
    for domain_id in secrets.SystemRandom().sample(DOMAINS, len(DOMAINS)):
        if _is_leased(domain_id):
            return domain_id
    raise WorkerError(f"the ROS domains {DOMAINS[0]} to {DOMAINS[-1]} are all in use on this machine")


def use_own_domain() -> int:
    """Put this process and those that it starts on a domain of their own, on this machine only (raises as above)."""
    domain_id = own_domain()
    _log.info("ROS domain %d, on this machine only", domain_id)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(domain_id)
    return domain_id


def _is_leased(domain_id: int) -> bool:
    """Try to hold a domain: DDS uses UDP, so TCP's port of the same number is free to say that it is taken."""
    base = 7400 + 250 * domain_id  # by the RTPS specification
    with contextlib.ExitStack() as stack:
        lease = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        try:
            lease.bind(("127.0.0.1", base))
            for port in (base, base + 10):  # discovery by multicast, and that of the first participant
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise WorkerError(f"no ROS domain can be had on this machine: {error.strerror}") from error
            return False
        stack.pop_all()
    _leases.append(lease)
    return True
