"""ROS 2's environment variables → a participant on a DDS domain, tuned for images, on loopback by default."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
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
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python does not name it
_DATAGRAM_TO_127 = (  # classic BPF, as linux/filter.h has it: code, jump if true, jump if false, operand
    (0x30, 0, 0, 0xFFF00000 + 16),  # load the first byte of the IPv4 header's destination
    (0x15, 0, 1, 127),  # is it that of 127.0.0.0/8?
    (0x06, 0, 0, 0xFFFFFFFF),  # yes: take all of the datagram
    (0x06, 0, 0, 0),  # no: drop it
)
_log = logging.getLogger(__name__)
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
            theirs = frozenset(_sockets())  # rclpy has sockets on the same ports, and needs them as they are
            _domains[domain_id] = Domain(domain_id, _configuration(os.environ))
            if not _is_wide(os.environ):
                _shut_out_other_machines(domain_id, theirs)
    return DomainParticipant(domain_id, Qos(Policy.Userdata(b"enclave=/;")))


def _configuration(environment: Mapping[str, str]) -> str:
    """Cyclone's configuration: loopback only, unless somebody clearly asks for more (raises as `_is_wide`)."""
    uri = environment.get("CYCLONEDDS_URI", "").strip()
    ours = "" if _is_wide(environment) else _LOOPBACK  # behind theirs, because the last one counts
    fragments = [f"<CycloneDDS><Domain>{inner}</Domain></CycloneDDS>" for inner in (_TUNING, ours) if inner]
    return ",".join([fragments[0], *([uri] if uri else []), *fragments[1:]])


def _is_wide(environment: Mapping[str, str]) -> bool:
    """Whether other machines may be on the graph.

    That takes ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET, spelt so, or a CYCLONEDDS_URI that names interfaces; and
    ROS_LOCALHOST_ONLY=1 overrules the first.

    Raises:
        BadInputError: a file of CYCLONEDDS_URI cannot be read.
    """
    is_subnet = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "SUBNET"
    is_here_only = environment.get("ROS_LOCALHOST_ONLY", "0") == "1"
    return (is_subnet and not is_here_only) or _names_interfaces(environment.get("CYCLONEDDS_URI", "").strip())


def _names_interfaces(uri: str) -> bool:
    """Whether a configuration says which interfaces to use; its parts are XML, or files that hold it."""
    parts = (part.strip() for part in _BETWEEN_PARTS.split(uri))
    return any("<NetworkInterface" in _COMMENT.sub("", _text_of(part)) for part in parts if part)


def _text_of(part: str) -> str:
    return part if part.startswith("<") else read_text(Path(part.removeprefix("file://")), YAML_BYTES)


def _shut_out_other_machines(domain_id: int, theirs: frozenset[str]) -> None:
    """Have the kernel drop what is sent to any address but loopback: Cyclone binds the sockets that receive to all.

    A packet with the identity of a known writer would be taken, whichever interface it came by. Needs Linux.

    Args:
        theirs: sockets that this domain did not make. Another Cyclone wakes its threads by packets to an address of
            the machine, and would wait for ever as it ends.
    """
    code = b"".join(struct.pack("HBBI", *step) for step in _DATAGRAM_TO_127)
    kept = ctypes.create_string_buffer(code, len(code))  # the kernel reads it during the call
    program = struct.pack("HP", len(_DATAGRAM_TO_127), ctypes.addressof(kept))
    found = 0
    for receiving in _receiving(domain_id, theirs):
        with receiving, contextlib.suppress(OSError):
            receiving.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            found += 1
    if not found:
        _log.warning("DDS takes packets from other machines that know a node's identity; keep them out by a firewall")


def _receiving(domain_id: int, theirs: frozenset[str]) -> Iterator[socket.socket]:
    """This process's UDP sockets on the ports of a domain that are bound to every address, as duplicates to close."""
    base = 7400 + 250 * domain_id
    for identity, descriptor in _sockets().items():
        if identity in theirs:
            continue
        with contextlib.suppress(OSError):
            found = socket.socket(fileno=os.dup(descriptor))
            is_udp = (found.family, found.type) == (socket.AF_INET, socket.SOCK_DGRAM)
            if is_udp and found.getsockname()[0] == "0.0.0.0" and base <= found.getsockname()[1] < base + 250:
                yield found
            else:
                found.close()


def _sockets() -> dict[str, int]:
    """This process's sockets by their identity in the kernel."""
    found = {}
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):
            identity = os.readlink(f"/proc/self/fd/{name}")
            if identity.startswith("socket:"):
                found[identity] = int(name)
    return found
