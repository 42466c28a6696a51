"""Fuzz one target of `tests.fuzz_inputs` for some seconds, guided by coverage: python -m tests.guided TARGET SECONDS.

`make atheris` runs each of them. A crash, a hang of 20 s, 2 GB of memory, or an input that is let through ends it with
an error; libFuzzer then writes the input beside it.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

TIMEOUT_S, MOST_MB = 20, 2048


def main(target: str, seconds: int) -> None:
    """Fuzz until the time is over; libFuzzer ends the process."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit(f"make atheris: the package atheris is missing; run: {sys.executable} -m pip install atheris")
    with atheris.instrument_imports(include=["qwen2vl_robot", "PIL", "yaml", "json"]):
        inputs = importlib.import_module("tests.fuzz_inputs")

    def once(data: bytes) -> None:
        if inputs.TARGETS[target](data):
            raise AssertionError(f"{target}: let through")

    folder = Path(tempfile.mkdtemp(prefix=f"fuzz_{target}_"))
    for number, seed in enumerate(inputs.seeds(target)):
        (folder / str(number)).write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MOST_MB}", "-max_len=20000"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(folder)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
