"""ROS 2's environment variables → a participant on a DDS domain, tuned for images, on loopback by default."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import Domain, DomainParticipant

from qwen2vl_robot.bounds import YAML_BYTES, shown
from qwen2vl_robot.documents import read_text
from qwen2vl_robot.errors import BadInputError

# A 1080p image is 6 MB, about 100 fragments: few enough, and they must fit the socket's buffer.
_TUNING = "<Internal><SocketReceiveBufferSize max='4MB'/></Internal>"
_LOOPBACK = """<General><Interfaces><NetworkInterface name='lo'/></Interfaces><AllowMulticast>false</AllowMulticast>
<MaxMessageSize>65000B</MaxMessageSize><FragmentSize>63000B</FragmentSize></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
<Peers><Peer address='localhost'/></Peers></Discovery>"""
_BETWEEN_PARTS = re.compile(r",(?=\s*(?:<|file:|/|\.))")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
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
            _domains[domain_id] = Domain(domain_id, _configuration(os.environ))
    return DomainParticipant(domain_id, Qos(Policy.Userdata(b"enclave=/;")))


def _configuration(environment: Mapping[str, str]) -> str:
    """Cyclone's configuration: loopback only, unless somebody clearly asks for more.

    That is ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET, spelt so, or a CYCLONEDDS_URI that names interfaces; and
    ROS_LOCALHOST_ONLY=1 overrules the first.

    Raises:
        BadInputError: a file of CYCLONEDDS_URI cannot be read.
    """
    uri = environment.get("CYCLONEDDS_URI", "").strip()
    is_wide = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "SUBNET"
    is_wide = (is_wide and environment.get("ROS_LOCALHOST_ONLY", "0") != "1") or _names_interfaces(uri)
    ours = "" if is_wide else _LOOPBACK  # behind theirs, because the last one counts
    fragments = [f"<CycloneDDS><Domain>{inner}</Domain></CycloneDDS>" for inner in (_TUNING, ours) if inner]
    return ",".join([fragments[0], *([uri] if uri else []), *fragments[1:]])


def _names_interfaces(uri: str) -> bool:
    """Whether a configuration says which interfaces to use; its parts are XML, or files that hold it."""
    parts = (part.strip() for part in _BETWEEN_PARTS.split(uri))
    return any("<NetworkInterface" in _COMMENT.sub("", _text_of(part)) for part in parts if part)


def _text_of(part: str) -> str:
    return part if part.startswith("<") else read_text(Path(part.removeprefix("file://")), YAML_BYTES)
