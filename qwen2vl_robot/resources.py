"""Names of shipped files → their paths: finds sim/ and launch/ wherever the package is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.documents import exists
from qwen2vl_robot.errors import BadInputError

PACKAGE = "qwen2vl_robot"
_SHARE = Path("share") / PACKAGE


def user_cache() -> Path:
    """The folder of what this package may make again at any time; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PACKAGE


def data_root() -> Path:
    """Find the folder that holds sim/ and launch/: source tree, this installation, or AMENT_PREFIX_PATH.

    The source tree comes first, so that an editable install and a colcon --symlink-install use the files being edited.
    Then come the folders above this file (a venv's prefix, `pip install --target`, an ament install space), so that two
    installed versions never mix.

    Raises:
        BadInputError: none of these folders has it.
    """
    above = Path(__file__).resolve().parents[1:6]
    ament = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    prefixes = [*above, *ament, Path(sysconfig.get_path("data")), Path(sys.prefix)]
    candidates = [above[0], *(prefix / _SHARE for prefix in prefixes)]
    for candidate in candidates:
        if (candidate / "sim" / "robots").is_dir():
            return candidate
    raise BadInputError(f"the package's data (sim/) is in none of {[str(c) for c in candidates]}; reinstall it")


def resolve(reference: str, folder: Path | None = None) -> Path:
    """Resolve a file reference of a YAML file.

    `pybullet_data:PATH` is a file of the pybullet_data package (found without importing it). A relative path is looked
    up in `folder`, which holds the file that names it (default: the current folder), then under sim/.

    Raises:
        BadInputError: there is no such file, or pybullet_data is not installed.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "pybullet_data":
        spec = importlib.util.find_spec("pybullet_data")
        if spec is None or spec.origin is None:
            raise BadInputError(f"{reference}: pybullet_data is not installed; run: pip install pybullet")
        path = Path(spec.origin).parent / rest
    else:
        path = Path(reference)
        if not path.is_absolute():
            beside = (folder or Path.cwd()) / path
            path = beside if exists(beside) else data_root() / "sim" / path
    if not exists(path):
        raise BadInputError(f"{shown(reference)}: no such file ({shown(path)})")
    return path
