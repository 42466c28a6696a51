"""This installation → what decides its results: a digest of its files, and the versions of what computes."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

from qwen2vl_robot.resources import data_root

_COMPUTES = ("numpy", "pybullet", "torch", "transformers", "pin", "coal", "ompl", "ruckig", "opencv-python-headless")


@functools.cache
def fingerprint() -> dict[str, str]:
    """The name of each part → its digest or version; two machines with equal ones get equal results.

    The digest is over the package's Python files and `sim`, not over a model's weights.
    """
    found = {"package": _digest(), "python": platform.python_version(), "processor": platform.machine()}
    for name in _COMPUTES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def differences(other: dict[str, str]) -> str:
    """What another installation has otherwise, in words; empty where nothing differs.

    >>> differences({**fingerprint(), "numpy": "0.1"}).startswith("numpy 0.1, here ")
    True
    """
    own = fingerprint()
    names = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
    return "; ".join(f"{name} {other.get(name)}, here {own.get(name)}" for name in names)


def _digest() -> str:
    package = Path(__file__).resolve().parents[1]
    sim = data_root() / "sim"
    files = [(f"py/{f.relative_to(package).as_posix()}", f) for f in package.rglob("*.py")]
    files += [(f"sim/{f.relative_to(sim).as_posix()}", f) for f in sim.rglob("*") if f.is_file()]
    total = hashlib.sha256()
    for name, file in sorted(files):
        total.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]
