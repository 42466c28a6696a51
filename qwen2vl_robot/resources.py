"""Names of shipped files → their paths: finds sim/ and launch/ wherever the package was installed."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

from qwen2vl_robot.errors import BadInputError

PACKAGE = "qwen2vl_robot"
_SHARE = Path("share") / PACKAGE


def data_root() -> Path:
    """The folder that holds sim/ and launch/: source tree, this installation, or ament index.

    The source tree comes first, so that an editable install and a colcon --symlink-install show the files
    being edited. Then come the folders above this very file (a venv's prefix, `pip install --target`, an ament
    install space), so that two installed versions never mix.

    Raises:
        BadInputError: none of these places has it.
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

    `pybullet_data:PATH` lies in the pybullet_data package (found without importing it), a relative path beside
    the file that names it (`folder`), otherwise under sim/.

    Raises:
        BadInputError: there is no such file.
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
            path = beside if beside.exists() else data_root() / "sim" / path
    if not path.exists():
        raise BadInputError(f"{reference}: no such file ({path})")
    return path
