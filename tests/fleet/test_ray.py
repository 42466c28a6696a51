"""On a Ray cluster: the same results, also where a node dies in the middle; what is wrong is one clear error."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.fleet import ray_driver
from qwen2vl_robot.fleet.cluster import OnRay
from qwen2vl_robot.fleet.fingerprint import fingerprint
from qwen2vl_robot.fleet.here import Here
from qwen2vl_robot.fleet.running import run_job
from tests.fleet.labour import squares, values

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("address", ["", "local", "ray://127.0.0.1:1", "two words:1", "auto ", "host"])
def test_an_address_of_another_form_is_bad_input(address: str) -> None:
    with pytest.raises(BadInputError, match="auto or HOST:PORT is needed"):
        OnRay(address)


def test_without_ray_the_error_says_how_to_install_it() -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(BadInputError, match="pip install 'qwen2vl_robot\\[cluster\\]'"):
            ray_driver.Driver("auto", squares(ROOT, 1))
    else:
        pytest.skip("Ray is installed here")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, to which nodes of one core are added; all on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'qwen2vl_robot[cluster]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")  # a minute by default
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80_000_000},
    )
    try:
        yield made
    finally:
        made.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80_000_000)


def test_one_two_and_three_nodes_come_to_the_same_and_a_dead_one_costs_nothing(cluster: Any, tmp_path: Path) -> None:
    here = values(list(run_job(squares(tmp_path, 12), Here(1))))
    for nodes in (1, 2, 3):
        last = add_node(cluster)
        folder = tmp_path / str(nodes)
        folder.mkdir()
        results = list(run_job(squares(folder, 12, seconds=0.2), OnRay(cluster.address)))
        assert values(results) == here
        assert len({r["pid"] for r in results}) == nodes
        assert len(list(folder.iterdir())) == 12
    folder = tmp_path / "killed"
    folder.mkdir()
    results = []
    for result in run_job(squares(folder, 24, seconds=0.4), OnRay(cluster.address), folder / "kept.jsonl"):
        results.append(result)
        if len(results) == 6:
            cluster.remove_node(last, allow_graceful=False)
    assert values(results) == [n * n for n in range(24)]
    assert 24 <= len(list(folder.glob("[0-9]*.*"))) <= 26  # what the dead node had in hand is done again
    assert (folder / "kept.jsonl").read_text().count("\n") == 25


def test_a_dead_head_is_one_clear_error_and_the_run_goes_on_from_what_it_has(cluster: Any, tmp_path: Path) -> None:
    add_node(cluster)
    kept, found = tmp_path / "kept.jsonl", []

    def run_until_the_head_dies() -> None:
        for result in run_job(squares(tmp_path, 40, seconds=0.3), OnRay(cluster.address), kept):
            found.append(result)
            if len(found) == 3:
                for process in cluster.head_node.all_processes["gcs_server"]:
                    os.kill(process.process.pid, signal.SIGKILL)

    with pytest.raises(RobotError, match="the cluster no longer answers, .* units are left"):
        run_until_the_head_dies()
    assert 3 <= len(found) < 40
    again = list(run_job(squares(tmp_path, 40), Here(2), kept))
    assert values(again) == [n * n for n in range(40)]
    assert all(len(list(tmp_path.glob(f"{n}.*"))) == 1 for n in range(3))


def test_a_unit_that_fails_or_kills_its_process_ends_the_run_with_its_name(cluster: Any, tmp_path: Path) -> None:
    add_node(cluster)
    with pytest.raises(RobotError, match="squares 2: 2 is no number"):
        list(run_job(squares(tmp_path, 4, fails=(2,)), OnRay(cluster.address)))
    with pytest.raises(RobotError, match="squares 1: its process died 3 times"):
        list(run_job(squares(tmp_path / "..", 2, dies={1: 99}), OnRay(cluster.address)))


def test_where_nobody_listens_no_cluster_can_be_used(tmp_path: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(BadInputError, match=r"--ray 127\.0\.0\.1:9: no cluster listens there: .*Connection refused"):
        list(run_job(squares(tmp_path, 2), OnRay("127.0.0.1:9")))
    assert time.monotonic() - began_s < 10.0


def test_a_node_of_another_version_gets_no_unit() -> None:
    driver = object.__new__(ray_driver.Driver)
    driver._address, driver._free, driver._bad_starts = "auto", [], 0
    driver._welcome("same", dict(fingerprint()))
    assert driver._free == ["same"]
    with pytest.raises(BadInputError, match=r"a node has other versions: numpy 1\.0, here .*; install the same there"):
        driver._welcome("other", {**fingerprint(), "numpy": "1.0"})
    assert driver._free == ["same"]
