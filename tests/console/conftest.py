"""A console, and a stand-in for the controller that it shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.domains import DOMAIN

if TYPE_CHECKING:
    from tests.console.desks import Served, StandIn


# What needs the extra `console` is imported by the fixtures: without it each file says itself why it is skipped.


@pytest.fixture(scope="module")
def controller() -> Iterator[StandIn]:
    from tests.console.desks import StandIn

    there = StandIn(DOMAIN)
    yield there
    there.close()


@pytest.fixture(scope="module")
def console(controller: StandIn) -> Iterator[Served]:
    from tests.console.desks import served

    with served(DOMAIN) as there:
        controller.show()
        yield there
