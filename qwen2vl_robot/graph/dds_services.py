"""Services → the two DDS topics of which ROS 2 makes each: the side that asks, and the side that answers."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph import interface as rows
from qwen2vl_robot.graph.dds_endpoints import Endpoints, Port
from qwen2vl_robot.graph.idl import Message, service_class

AnswerLater = Callable[[rows.Message, rows.Take], None]  # gets the request and what sends the response


def serve_later(endpoints: Endpoints, name: str, type_name: str, handler: AnswerLater) -> None:
    """Answer the service of an absolute name when it suits."""
    identity = f"serviceid={secrets.token_hex(16)};"
    port = _port(endpoints, f"rr{name}Reply", f"{type_name}_Response", identity)
    replies = endpoints.make_writer(port)
    own_fields = [n for n in port.data_type._defaults if n not in ("guid", "seq")]

    def answer(request: Message) -> None:
        def reply(response: rows.Message) -> None:
            fields = {n: getattr(response, n) for n in own_fields}
            replies.write(port.data_type(guid=request.guid, seq=request.seq, **fields))

        handler(request, reply)

    endpoints.make_reader(_port(endpoints, f"rq{name}Request", f"{type_name}_Request", identity), answer)


def _port(endpoints: Endpoints, topic: str, type_name: str, identity: str) -> Port:
    return Port(topic, service_class(type_name, endpoints.distro), type_name, rows.Qos.COMMAND, identity)


class DdsClient:
    """A client of one service; calls may overlap."""

    def __init__(self, endpoints: Endpoints, name: str, type_name: str) -> None:
        self._guid = secrets.randbits(63)
        self._lock = threading.Lock()
        self._waiting: dict[int, rows.Take] = {}
        self._next = 0
        identity = f"clientid={secrets.token_hex(16)};"
        replies = _port(endpoints, f"rr{name}Reply", f"{type_name}_Response", identity)
        self._replies = endpoints.make_reader(replies, self._take)
        self._requests = endpoints.make_writer(_port(endpoints, f"rq{name}Request", f"{type_name}_Request", identity))

    def is_served(self) -> bool:
        """Whether a server is there, in both directions."""
        return bool(self._requests.get_matched_subscriptions() and self._replies.get_matched_publications())

    def ask(self, on_response: rows.Take, **fields: object) -> None:
        """Send a request; the response goes to `on_response`, on another thread."""
        with self._lock:
            self._next += 1
            number = self._next
            self._waiting[number] = on_response
        self._requests.write(self._requests.data_type(guid=self._guid, seq=number, **fields))

    def call(self, timeout_s: float, **fields: object) -> rows.Message:
        """Ask and wait.

        Raises:
            ExecutionError: no answer in time.
        """
        answered = threading.Event()
        found: list[rows.Message] = []

        def take(response: rows.Message) -> None:
            found.append(response)
            answered.set()

        self.ask(take, **fields)
        if not answered.wait(timeout_s):
            raise ExecutionError(f"no answer from the service within {timeout_s:g} s")
        return found[0]

    def _take(self, response: Message) -> None:
        if response.guid == self._guid:
            with self._lock:
                on_response = self._waiting.pop(response.seq, None)
            if on_response is not None:
                on_response(response)
