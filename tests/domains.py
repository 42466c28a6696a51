"""ROS domains of this process of tests: nobody else on this machine is on them, nor are other processes of tests."""

from __future__ import annotations

from typing import Final

from qwen2vl_robot.graph.own_domain import own_domain

DOMAIN: Final = own_domain()  # of every test here, and of what it starts, unless it says otherwise
ALONE: Final = own_domain()  # for tests that look at a domain's own sockets
