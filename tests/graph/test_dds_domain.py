"""DDS stays on the loopback interface unless somebody clearly asks for more; the kernel's table of sockets says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.domains import ALONE

_MULTICAST_PORT = 7400 + 250 * ALONE  # of discovery, by the RTPS specification
_TRACING = """<CycloneDDS><Domain><Tracing><Verbosity>warning</Verbosity><OutputFile>stderr</OutputFile></Tracing>
</Domain></CycloneDDS>"""
_MULTICAST = "<CycloneDDS><Domain><General><AllowMulticast>true</AllowMulticast></General></Domain></CycloneDDS>"
_COMMENTED = "<CycloneDDS><!-- <NetworkInterface name='eth0'/> --></CycloneDDS>"
_NAMED = """<CycloneDDS><Domain><General><Interfaces><NetworkInterface autodetermine='true'/></Interfaces></General>
</Domain></CycloneDDS>"""
_JOIN = f"""
import os
from qwen2vl_robot.graph.dds import DdsGraph

graph = DdsGraph("listed", domain_id={ALONE})
links = [f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")]
own = {{os.readlink(link) for link in links if os.path.islink(link)}}
for line in open("/proc/net/udp").read().splitlines()[1:]:
    fields = line.split()
    if f"socket:[{{fields[9]}}]" in own:
        print(fields[1])
graph.close()
"""
pytestmark = pytest.mark.skipif(not Path("/proc/net/udp").exists(), reason="the table of sockets is Linux's")


def sockets(**environment: str) -> list[tuple[str, int]]:
    """(address, port) of every UDP socket of a process that joined a domain."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ROS_", "CYCLONEDDS_"))}
    command = [sys.executable, "-c", _JOIN]
    listed = subprocess.run(
        command, env={**kept, **environment}, capture_output=True, text=True, check=True, timeout=60
    )
    pairs = [line.split(":") for line in listed.stdout.split()]
    return [(".".join(str(b) for b in bytes.fromhex(address)[::-1]), int(port, 16)) for address, port in pairs]


def is_on_loopback_only(found: list[tuple[str, int]]) -> bool:
    """Whether everything is sent from loopback; Cyclone binds what receives to any address, whatever it is told."""
    senders = {address for address, _ in found} - {"0.0.0.0"}
    return senders == {"127.0.0.1"} and _MULTICAST_PORT not in {port for _, port in found}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"},
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": ""},
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT"},
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET "},
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBENT"},
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "1"},
        {"CYCLONEDDS_URI": _TRACING},
        {"CYCLONEDDS_URI": _MULTICAST},
        {"CYCLONEDDS_URI": _COMMENTED},
    ],
    ids=str,
)
def test_nothing_leaves_the_machine_by_accident(environment: dict[str, str]) -> None:
    assert is_on_loopback_only(sockets(**environment))


def test_a_configuration_in_a_file_is_looked_into(tmp_path: Path) -> None:
    file = tmp_path / "cyclone.xml"
    file.write_text(_TRACING, encoding="utf-8")
    assert is_on_loopback_only(sockets(CYCLONEDDS_URI=f"file://{file}"))


@pytest.mark.parametrize(
    "environment", [{"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, {"CYCLONEDDS_URI": _NAMED}], ids=["SUBNET", "named"]
)
def test_who_asks_for_the_network_gets_it(environment: dict[str, str]) -> None:
    assert not is_on_loopback_only(sockets(**environment))


_BESIDE = f"""
import os, socket
from qwen2vl_robot.graph.dds import DdsGraph

SO_GET_FILTER = 26  # asm-generic/socket.h
theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
theirs.bind(("0.0.0.0", 7400 + 250 * {ALONE} + 200))
graph = DdsGraph("beside", domain_id={ALONE})
print("theirs", len(theirs.getsockopt(socket.SOL_SOCKET, SO_GET_FILTER, 64)))
for fd in os.listdir("/proc/self/fd"):
    link = f"/proc/self/fd/{{fd}}"
    if os.path.islink(link) and os.readlink(link).startswith("socket:") and int(fd) != theirs.fileno():
        ours = socket.socket(fileno=os.dup(int(fd)))
        if ours.family == socket.AF_INET and ours.type == socket.SOCK_DGRAM and ours.getsockname()[0] == "0.0.0.0":
            print("ours", len(ours.getsockopt(socket.SOL_SOCKET, SO_GET_FILTER, 64)))
graph.close()
"""


def test_sockets_that_were_there_before_keep_what_other_machines_send() -> None:
    """Those of rclpy are on the same ports, and a Cyclone that is kept from its own packets never ends."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ROS_", "CYCLONEDDS_"))}
    listed = subprocess.run(
        [sys.executable, "-c", _BESIDE], env=kept, capture_output=True, text=True, check=True, timeout=60
    )
    filters = [line.split() for line in listed.stdout.splitlines()]
    assert ["theirs", "0"] in filters
    ours = [count for whose, count in filters if whose == "ours" and count != "0"]
    assert ours, listed.stdout
