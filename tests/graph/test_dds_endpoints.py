"""Who is there on the other side, counted while others come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.graph.dds_endpoints import count_matched


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def test_an_end_that_joins_while_they_are_counted_is_counted() -> None:
    answers: Iterator[list[int]] = iter([[1, 2]])
    is_first = iter([True, False])

    def ask() -> list[int]:
        if next(is_first):
            raise IndexError("invalid index")
        return next(answers)

    assert count_matched(ask) == 2


def test_counting_listeners_stands_others_that_come_and_go() -> None:
    graph, other = DdsGraph("counts"), DdsGraph("comes_and_goes")
    publisher = graph.publisher(interface.STOP)
    ended, raised = threading.Event(), list[Exception]()

    def count() -> None:
        while not ended.is_set():
            try:
                publisher.listeners()
            except Exception as error:  # noqa: BLE001 - it is what the test looks for
                raised.append(error)

    counting = threading.Thread(target=count)
    counting.start()
    try:
        for _ in range(40):
            other.subscribe(interface.STOP, lambda message: None)
    finally:
        ended.set()
        counting.join()
        other.close()
        graph.close()
    assert raised == []


def test_a_graph_that_was_closed_is_no_longer_seen() -> None:
    graph, other = DdsGraph("stays"), DdsGraph("leaves")
    topic = interface.STOP
    kept = other.publisher(topic)
    until(lambda: graph.publishers_of(topic) == 1)
    other.close()
    until(lambda: graph.publishers_of(topic) == 0)
    with pytest.raises(Exception, match="publish|writ|delet|param"):
        kept.publish(graph.message(topic.type)(data=True))
    graph.close()
