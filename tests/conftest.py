"""Settings of the whole test suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.domains import DOMAIN

# A busy machine is not a failed law: no deadline for one example.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# Whoever opens a graph is alone on it, though other processes run other files of this suite.
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)

# Files that take minutes come first, so that processes that share the suite end at about the same time.
_LONG = (
    *("nodes/test_supervisor", "scenarios/test_tabletop", "test_library", "tests/test_demo.py", "scenarios/"),
    *("test_cli.py", "nodes/test_shell", "test_judge", "test_demo_graph", "nodes/test_agent", "test_lookout"),
    *("test_reading", "test_perception", "contracts/", "arms/", "validation/", "nodes/"),
)


@pytest.fixture(autouse=True)
def domain_as_before() -> Iterator[None]:
    """Demos and benchmarks that run in this process move it to a domain of their own; the next test is back on ours."""
    before = {name: os.environ.get(name) for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take, and leave each as it is."""

    def place(item: pytest.Item) -> int:
        return next((at for at, name in enumerate(_LONG) if name in item.path.as_posix()), len(_LONG))

    items.sort(key=place)
