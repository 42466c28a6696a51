"""Package metadata for pip and for colcon (ament_python)."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "qwen2vl_robot"
SHARE = f"share/{NAME}"


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """List every file below `folder` as data_files entries that keep its path under share/."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    folders = sorted({p.parent for p in files})
    return [(f"{SHARE}/{f.as_posix()}", [p.as_posix() for p in files if p.parent == f]) for f in folders]


setup(
    name=NAME,
    version="0.1.0",
    description="Say it, see it, check it, then move: Qwen2-VL proposes, a PyBullet twin rehearses, a gate admits.",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="qwen2vl_robot maintainers",
    maintainer_email="maintainers@example.com",
    python_requires=">=3.10",
    packages=find_packages(exclude=["tests", "tests.*"]),
    package_data={NAME: ["py.typed", "checkpoints/**/*", "console/static/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml", *glob("LICENSE")]),
        *tree("launch"),
        *tree("sim"),
    ],
    # Ranges, so that Python 3.10 and 3.12 resolve too; constraints/ pins the tested versions. rclpy is not listed: it
    # comes with ROS 2 and is optional.
    install_requires=[
        "numpy>=1.26,<3",
        "pybullet>=3.2.6",
        "torch>=2.4",
        "transformers>=5.18,<6",
        "tokenizers>=0.21",
        "safetensors>=0.4.3",
        "llguidance>=1.3,<2",
        "httpx2>=2.12,<3",
        "pillow>=10",
        "pydantic>=2.7,<3",
        "PyYAML>=6",
        "pin>=3.1",
        "coal>=3.0",
        "trimesh>=4.5,<6",
        "pycollada>=0.8,<1",
        "ruckig>=0.12",
        "ompl>=1.7",
        "opencv-python-headless>=4.10,<5",
        "cyclonedds>=0.10.5,<12",
        "rosbags>=0.10,<0.12",
        "mcap>=1.6,<2",
        "lz4>=4",
        "zstandard>=0.22",
        "typer>=0.12",
        "click>=8.1",
        "rich>=13",
        "packaging>=22",
    ],
    extras_require={
        "lerobot": ["pyarrow>=17"],
        "console": ["aiohttp>=3.10,<4"],
        "browser": ["playwright>=1.45,<2"],
        "voice": ["pocketsphinx>=5,<6", "soxr>=0.5,<2"],
        "mcp": ["mcp>=2.3,<3"],
        "cluster": ["ray>=2.40,<3"],
        "finetune": ["peft>=0.17,<1", "accelerate>=1.10,<2"],
        "test": [
            "mcp>=2.3,<3",
            "aiohttp>=3.10,<4",
            "playwright>=1.45,<2",
            "pocketsphinx>=5,<6",
            "pyarrow>=17",
            "soxr>=0.5,<2",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "scipy>=1.11",
            "ruff>=0.6",
            "mypy>=1.11",
            "types-PyYAML",
            "setuptools>=70.1",
        ],
    },
    entry_points={"console_scripts": ["qwen2vl-robot = qwen2vl_robot.cli:main"]},
    zip_safe=False,
)
