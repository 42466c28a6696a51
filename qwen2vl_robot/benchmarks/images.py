"""Camera frames from another process → how many arrive, how late, and our own code's cost.

The sender is this module, run as a program. "own" is the time of callbacks and conversions on their thread; receiving
and deserialising belong to the transport.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from functools import partial
from typing import Any

import numpy as np

from qwen2vl_robot.errors import WorkerError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import image_from_depth, image_from_rgb, stamp_to_ns
from qwen2vl_robot.graph.own_domain import use_own_domain
from qwen2vl_robot.graph.pictures import depth_from_image, rgb_from_image
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.reasons import WorkerReason

SIZES = {"1920x1080": (1920, 1080, False), "640x480 with depth": (640, 480, True)}
_START_S = 60.0
_AFTER_S = 1.0


def run_images(seconds: float, hz: float) -> dict[str, Any]:
    """Measure each of `SIZES`.

    Returns:
        "totals" with the worst figures of all sizes, and "sizes" with the figures of each.

    Raises:
        WorkerError: the sender failed or did not end in time.
    """
    use_own_domain()
    graph = open_graph("dds", "receiver")
    sizes = {name: _measure(graph, *size, seconds, hz) for name, size in SIZES.items()}
    graph.close()
    totals = {
        "received_ratio": min(s["received_ratio"] for s in sizes.values()),
        "median_ms": max(s["median_ms"] for s in sizes.values()),
        "own_core_ratio": max(s["own_core_ratio"] for s in sizes.values()),
    }
    return {"totals": totals, "seconds": seconds, "hz": hz, "sizes": sizes}


class _Receiver:
    """Converts each message at once, as a camera node would, and collects the figures."""

    def __init__(self) -> None:
        self.late_ms: dict[str, list[float]] = {"image": [], "depth": []}
        self.own_s = 0.0
        self._lock = threading.Lock()

    def take(self, what: str, message: Any) -> None:
        began_s = time.thread_time()
        late_ms = (time.time_ns() - stamp_to_ns(message.header.stamp)) / 1e6
        (rgb_from_image if what == "image" else depth_from_image)(message)
        with self._lock:
            self.late_ms[what].append(late_ms)
            self.own_s += time.thread_time() - began_s


def _measure(
    graph: interface.Graph, width: int, height: int, with_depth: bool, seconds: float, hz: float
) -> dict[str, float]:
    receiver = _Receiver()
    space = f"size_{width}"
    for what, row in (("image", interface.IMAGE), ("depth", interface.DEPTH))[: 1 + with_depth]:
        graph.subscribe(row.at(f"{space}/{row.name}"), partial(receiver.take, what))
    command = [sys.executable, "-m", __name__, str(width), str(height), str(int(with_depth)), str(seconds), str(hz)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=2 * _START_S + 2 * seconds)
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"the sender did not end within {error.timeout:g} s", reason=WorkerReason.TIMEOUT) from error
    if done.returncode != 0:
        raise WorkerError(f"the sender ended with {done.returncode}", reason=WorkerReason.CRASHED)
    time.sleep(_AFTER_S)
    sent, took_s = (float(word) for word in done.stdout.split())
    late = np.array(receiver.late_ms["image"] + receiver.late_ms["depth"])
    fewest = min(len(receiver.late_ms[w]) for w in ("image", "depth")[: 1 + with_depth])
    return {
        "sent": sent,
        "sent_hz": round(sent / took_s, 2),
        "received_ratio": round(fewest / sent, 5),
        "median_ms": round(float(np.median(late)), 2) if len(late) else float("inf"),
        "p99_ms": round(float(np.percentile(late, 99)), 2) if len(late) else float("inf"),
        "own_core_ratio": round(receiver.own_s / took_s, 4),
    }


def main() -> None:
    """Send frames: WIDTH HEIGHT WITH_DEPTH SECONDS HZ; print the number of frames and the seconds that they took."""
    width, height, with_depth = (int(a) for a in sys.argv[1:4])
    seconds, hz = (float(a) for a in sys.argv[4:6])
    graph = open_graph("dds", "sender")
    wanted = (interface.IMAGE, interface.DEPTH)[: 1 + with_depth]
    publishers = [graph.publisher(row.at(f"size_{width}/{row.name}")) for row in wanted]
    end_s = time.monotonic() + _START_S
    while not all(p.listeners() for p in publishers):
        if time.monotonic() > end_s:
            sys.exit("no subscriber appeared")
        time.sleep(0.01)
    time.sleep(0.5)
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pictures = [image_from_rgb(graph.message, rgb, 0, "camera")]
    if with_depth:
        depth_m = np.linspace(0.5, 2.0, width * height, dtype=np.float32).reshape(height, width)
        pictures.append(image_from_depth(graph.message, depth_m, 0, "camera"))
    count = round(seconds * hz)
    began_s = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began_s + number / hz - time.monotonic()))
        for publisher, picture in zip(publishers, pictures, strict=True):
            now_ns = time.time_ns()
            picture.header.stamp.sec, picture.header.stamp.nanosec = divmod(now_ns, 10**9)
            publisher.publish(picture)
    print(count, time.monotonic() - began_s)
    time.sleep(0.5)
    graph.close()


if __name__ == "__main__":
    main()
