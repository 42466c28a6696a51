"""Who asks for a ROS domain of its own is alone on it, whatever else runs on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qwen2vl_robot.errors import WorkerError
from qwen2vl_robot.graph import own_domain as module
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.graph.own_domain import DOMAINS, own_domain, use_own_domain
from tests.domains import ALONE, DOMAIN

_ASK = "from qwen2vl_robot.graph.own_domain import use_own_domain; print(use_own_domain(), flush=True); input()"


def test_many_processes_at_once_are_each_alone() -> None:
    """Two of 8 that draw one of 40 numbers meet in half of all cases."""
    asked = [
        subprocess.Popen([sys.executable, "-c", _ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    try:
        answers = [int(each.stdout.readline()) for each in asked if each.stdout]
        assert len({*answers, DOMAIN, ALONE}) == 10
        assert set(answers) <= set(DOMAINS)
    finally:
        for each in asked:
            each.communicate("\n", timeout=20)


def test_a_domain_that_somebody_is_on_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who joined it did not ask for it: a robot's own nodes, say."""
    theirs = own_domain()
    module._leases.pop().close()  # so that only their node is there
    monkeypatch.setattr(module, "DOMAINS", [theirs])
    graph = DdsGraph("theirs", domain_id=theirs)
    with pytest.raises(WorkerError, match="all in use"):
        own_domain()
    graph.close()


def test_a_domain_is_free_again_when_its_holder_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        held = int(holder.stdout.readline())
        monkeypatch.setattr(module, "DOMAINS", [held])
        with pytest.raises(WorkerError, match="all in use"):
            own_domain()
        holder.kill()
        holder.wait(20)
        assert own_domain() == held
    module._leases.pop().close()


def test_it_is_on_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    domain_id = use_own_domain()
    assert os.environ["ROS_DOMAIN_ID"] == str(domain_id)
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    module._leases.pop().close()


def test_these_tests_are_on_a_domain_of_their_own() -> None:
    assert os.environ["ROS_DOMAIN_ID"] == str(DOMAIN)
