"""Services → the request and the reply topic that make up a ROS 2 service over DDS: client and server."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds_endpoints import Endpoints, Port, count_matched
from qwen2vl_robot.graph.idl import DdsMessage, service_class

DeferredHandler = Callable[
    [interface.Message, interface.MessageCallback], None
]  # gets the request and what sends the response


def serve_later(endpoints: Endpoints, name: str, type_name: str, handler: DeferredHandler) -> None:
    """Serve the service of an absolute name; its response may come later, from any thread."""
    identity = f"serviceid={secrets.token_hex(16)};"
    port = _port(endpoints, f"rr{name}Reply", f"{type_name}_Response", identity)
    replies = endpoints.make_writer(port)
    own_fields = [n for n in port.data_type._defaults if n not in ("guid", "seq")]

    def answer(request: DdsMessage) -> None:
        def reply(response: interface.Message) -> None:
            fields = {n: getattr(response, n) for n in own_fields}
            replies.write(port.data_type(guid=request.guid, seq=request.seq, **fields))

        handler(request, reply)

    endpoints.make_reader(_port(endpoints, f"rq{name}Request", f"{type_name}_Request", identity), answer)


def _port(endpoints: Endpoints, topic: str, type_name: str, identity: str) -> Port:
    return Port(topic, service_class(type_name, endpoints.distro), type_name, interface.Qos.COMMAND, identity)


class DdsClient:
    """A client of one service; requests may overlap."""

    def __init__(self, endpoints: Endpoints, name: str, type_name: str) -> None:
        self._guid = secrets.randbits(63)
        self._lock = threading.Lock()
        self._waiting: dict[int, interface.MessageCallback] = {}
        self._next = 0
        identity = f"clientid={secrets.token_hex(16)};"
        replies = _port(endpoints, f"rr{name}Reply", f"{type_name}_Response", identity)
        self._replies = endpoints.make_reader(replies, self._take)
        self._requests = endpoints.make_writer(_port(endpoints, f"rq{name}Request", f"{type_name}_Request", identity))

    def is_served(self) -> bool:
        """Return whether a server is matched in both directions."""
        matches = (self._requests.get_matched_subscriptions, self._replies.get_matched_publications)
        return all(count_matched(ask) for ask in matches)

    def request(self, on_response: interface.MessageCallback, **fields: object) -> None:
        """Send a request; `on_response` gets the response on another thread."""
        with self._lock:
            self._next += 1
            number = self._next
            self._waiting[number] = on_response
        self._requests.write(self._requests.data_type(guid=self._guid, seq=number, **fields))

    def call(self, timeout_s: float, **fields: object) -> interface.Message:
        """Send a request and wait for its response.

        Raises:
            ExecutionError: no response within `timeout_s`.
        """
        has_response = threading.Event()
        responses: list[interface.Message] = []

        def take(response: interface.Message) -> None:
            responses.append(response)
            has_response.set()

        self.request(take, **fields)
        if not has_response.wait(timeout_s):
            raise ExecutionError(f"the service did not respond within {timeout_s:g} s")
        return responses[0]

    def _take(self, response: DdsMessage) -> None:
        if response.guid == self._guid:
            with self._lock:
                on_response = self._waiting.pop(response.seq, None)
            if on_response is not None:
                on_response(response)
