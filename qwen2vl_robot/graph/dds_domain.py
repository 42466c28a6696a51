"""ROS 2's environment variables → a participant on a DDS domain, tuned for images, on loopback by default."""

from __future__ import annotations

import os
import threading

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import Domain, DomainParticipant

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import BadInputError

# A 1080p image is 6 MB, about 100 fragments: few enough, and they must fit the socket's buffer.
_TUNING = "<Internal><SocketReceiveBufferSize max='4MB'/></Internal>"
_LOOPBACK = """<General><Interfaces><NetworkInterface name='lo'/></Interfaces><AllowMulticast>false</AllowMulticast>
<MaxMessageSize>65000B</MaxMessageSize><FragmentSize>63000B</FragmentSize></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
<Peers><Peer address='localhost'/></Peers></Discovery>"""
_domains: dict[int, Domain] = {}  # Cyclone configures a domain once a process
_lock = threading.Lock()


def _domain_id(given: int | None) -> int:
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    domain_id = given if given is not None else int(text) if text.isdecimal() and len(text) <= 3 else -1
    if not 0 <= domain_id <= 101:  # above 101 the ports overlap Linux's ephemeral port range
        raise BadInputError(f"ROS domain {shown(text) if given is None else given}: allowed 0 to 101")
    return domain_id


def join_domain(given: int | None = None) -> DomainParticipant:
    """Make a participant on a domain (else ROS_DOMAIN_ID, else 0) that announces its security enclave for ROS 2.

    Raises:
        BadInputError: the domain is not 0 to 101.
    """
    domain_id = _domain_id(given)
    with _lock:
        if domain_id not in _domains:
            wide = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST").upper() != "LOCALHOST"
            inner = _TUNING if wide or "CYCLONEDDS_URI" in os.environ else _LOOPBACK + _TUNING
            config = f"<CycloneDDS><Domain>{inner}</Domain></CycloneDDS>"
            _domains[domain_id] = Domain(domain_id, ",".join(filter(None, [config, os.environ.get("CYCLONEDDS_URI")])))
    return DomainParticipant(domain_id, Qos(Policy.Userdata(b"enclave=/;")))
