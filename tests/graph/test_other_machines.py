"""Packets to the machine's other address change nothing; the same packets to the loopback address do.

The packets are real: discovery that a second participant sent, and data with the identity of a writer that is known.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
from tests.domains import ALONE
from tests.graph.peer import until

ROOT = Path(__file__).resolve().parents[2]
_PORTS = 7400 + 250 * ALONE  # and up, by the RTPS specification
_LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915
_LISTENER = 7400 + 250 * ALONE + 240  # where the stranger sends its discovery
_HONEST = f"""
import sys
from qwen2vl_robot.graph.dds import DdsGraph
from tests.graph.peer import until
from tests.graph.raw import Sender, String
graph = DdsGraph("configures")
sender = Sender({ALONE}, "/instruction", String)
until(sender.listeners)
print(sender.writer.get_guid().bytes.hex(), flush=True)
sys.stdin.read()
"""
_STRANGER = f"""
import sys
from cyclonedds.domain import Domain
domain = Domain({ALONE}, '''<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"/></Interfaces>
<AllowMulticast>false</AllowMulticast></General><Discovery><ParticipantIndex>90</ParticipantIndex>
<SPDPInterval>0.2s</SPDPInterval><Peers AddLocalhost="false"><Peer address="{_LOOPBACK}:{_LISTENER}"/></Peers>
</Discovery></Domain></CycloneDDS>''')
from tests.graph.raw import Sender, String
sender = Sender({ALONE}, "/instruction", String)
print("ready", flush=True)
sys.stdin.read()
"""


def other_address() -> str | None:
    """An IPv4 address of this machine that is none of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            address = socket.inet_ntoa(answer[20:24])
            if not address.startswith("127."):
                return address
    return None


OTHER = other_address()
pytestmark = pytest.mark.skipif(OTHER is None, reason="this machine has no address but loopback")


class Node:
    """A node of ours, and how to send to the sockets that it receives on."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.graph = DdsGraph("listening", domain_id=ALONE)
        self.graph.subscribe(interface.ANY_INSTRUCTION, lambda message: self.heard.append(message.data))
        self.out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def endpoints(self) -> int:
        return self.graph.publishers_of(interface.INSTRUCTION)

    def send(self, address: str, packet: bytes) -> None:
        """To the ports of the first participants of the domain, for discovery and for data."""
        for index in range(10):
            for offset in (10, 11):
                self.out.sendto(packet, (address, _PORTS + offset + 2 * index))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.out.close()
    made.graph.close()


@pytest.fixture(params=[_HONEST, _STRANGER], ids=["honest", "stranger"])
def started(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "ROS_DOMAIN_ID": str(ALONE),
    }
    command = [sys.executable, "-c", request.param]
    other = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield other
    assert other.stdin is not None
    other.stdin.close()
    other.wait(20)


def line_of(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def data_packet(writer: bytes, number: int, text: str) -> bytes:
    """An RTPS message with one DATA submessage: a std_msgs/msg/String of a writer (its 16 bytes), little-endian."""
    payload = b"\0\1\0\0" + struct.pack("<I", len(text) + 1) + text.encode() + b"\0"
    payload += b"\0" * (-len(payload) % 4)
    body = struct.pack("<HH", 0, 16) + b"\0\0\0\0" + writer[12:] + struct.pack("<iI", 0, number) + payload
    return b"RTPS\2\1\1\x10" + writer[:12] + struct.pack("<BBH", 0x15, 0b101, len(body)) + body


@pytest.mark.parametrize("started", [_HONEST], indirect=True, ids=["honest"])
def test_data_in_the_name_of_a_known_writer_are_taken_from_loopback_only(
    node: Node, started: subprocess.Popen[str]
) -> None:
    writer = bytes.fromhex(line_of(started))
    until(lambda: node.endpoints() == 1)
    assert OTHER is not None
    for number in range(20):
        node.send(OTHER, data_packet(writer, 100 + number, "from elsewhere"))
        time.sleep(0.05)
    assert node.heard == []
    until(lambda: node.send(_LOOPBACK, data_packet(writer, 1000, "from here")) or node.heard)
    assert set(node.heard) == {"from here"}


@pytest.mark.parametrize("started", [_STRANGER], indirect=True, ids=["stranger"])
def test_discovery_is_taken_from_loopback_only(node: Node, started: subprocess.Popen[str]) -> None:
    until(lambda: node.endpoints() == 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((_LOOPBACK, _LISTENER))
        listener.settimeout(10.0)
        assert line_of(started) == "ready"
        assert OTHER is not None
        for _ in range(10):
            node.send(OTHER, listener.recv(65536))
        time.sleep(0.5)
        assert node.endpoints() == 0
        until(lambda: node.send(_LOOPBACK, listener.recv(65536)) or node.endpoints() == 1)
    assert node.graph.problems() == ()
