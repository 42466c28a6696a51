"""A model's shape and this machine's memory → whether it fits, and what would, before a load.

Counts weights, key-value cache and the picture's activations; downloads nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen2vl_robot.bounds import CONFIG_BYTES, VALUE_CHARS, shown
from qwen2vl_robot.documents import is_file, read_json
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.adapter import base_of
from qwen2vl_robot.planner.sources import PIXELS_A_TOKEN, ModelSettings

PROMPT_TOKENS = 2048  # system text, instruction, history and reply, without the picture
IMAGE_TOKENS = 1280  # when the settings do not limit the picture
_RUNTIME_GB = 0.6  # Python, torch and transformers
_RUNTIME_CUDA_GB = 1.0  # and a CUDA context
# Bits per weight of the quantised linear layers, with the scales and zero points of groups of 128.
_BITS = {"AWQ": 4.25, "GPTQ-Int4": 4.25, "GPTQ-Int8": 8.25, "": 16.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes in a Qwen-VL's config.json that decide its memory."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    words: int
    is_tied: bool
    vision_depth: int
    vision_width: int
    vision_mlp_width: int
    patch_values: int

    @property
    def linear_weights(self) -> int:
        """Number of weights of the text layers, which AWQ and GPTQ quantise."""
        kv_width = self.width // self.heads * self.kv_heads
        return self.layers * self.width * (2 * self.width + 2 * kv_width + 3 * self.mlp_width)

    @property
    def other_weights(self) -> int:
        """Number of weights of embeddings and vision, which stay in 16 bits."""
        v, merged = self.vision_width, 4 * self.vision_width
        vision = self.vision_depth * (4 * v * v + 2 * v * self.vision_mlp_width)
        embedding = self.words * self.width * (1 if self.is_tied else 2)
        return embedding + vision + merged * (merged + self.width) + self.patch_values * v


# From the config.json of each of the Qwen team's repositories.
_VISION = {"vision_depth": 32, "vision_width": 1280, "vision_mlp_width": 5120, "patch_values": 1176}
RANDOM = "random:"  # "random:2B": random weights of that shape, to measure speed
KNOWN = {
    "2B": Shape(28, 1536, 8960, 12, 2, 151_936, True, **_VISION),
    "7B": Shape(28, 3584, 18_944, 28, 4, 152_064, False, **_VISION),
    "72B": Shape(80, 8192, 29_568, 64, 8, 152_064, False, **_VISION),
}


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """The memory that a model needs and the memory that is free, in gigabytes (10^9 bytes)."""

    name: str
    device: str
    weights_gb: float
    cache_gb: float
    vision_gb: float
    runtime_gb: float
    available_gb: float

    @property
    def needed_gb(self) -> float:
        return self.weights_gb + self.cache_gb + self.vision_gb + self.runtime_gb

    @property
    def fits(self) -> bool:
        return self.needed_gb <= self.available_gb

    def describe(self) -> str:
        """Write one line with every number."""
        parts = f"weights {self.weights_gb:.1f}, KV cache {self.cache_gb:.2f}, picture {self.vision_gb:.2f}"
        parts += f", runtime {self.runtime_gb:.1f}"
        return f"needs {self.needed_gb:.1f} GB ({parts}); {self.device} has {self.available_gb:.1f} GB free"


def estimate(settings: ModelSettings, available_gb: float, device: str) -> MemoryFit:
    """Estimate the memory that the model of these settings takes.

    Raises:
        BadInputError: neither a config.json nor the name gives its size.
    """
    shape, bits = _shape_of(settings.model)
    tokens = (settings.max_pixels or IMAGE_TOKENS * PIXELS_A_TOKEN) / PIXELS_A_TOKEN
    if settings.dtype == "float32":
        bits = 32.0
    other_bits = max(bits, 16.0)
    kv_width = shape.width // shape.heads * shape.kv_heads
    return MemoryFit(
        name=settings.model,
        device=device,
        weights_gb=(shape.linear_weights * bits + shape.other_weights * other_bits) / 8e9,
        cache_gb=2 * shape.layers * kv_width * (PROMPT_TOKENS + tokens) * other_bits / 8e9,
        vision_gb=4 * tokens * (6 * shape.vision_width + 2 * shape.vision_mlp_width) * other_bits / 8e9,
        runtime_gb=_RUNTIME_GB + (_RUNTIME_CUDA_GB if device != "memory" else 0.0),
        available_gb=available_gb,
    )


def suggest(available_gb: float, device: str) -> str:
    """Name the largest of the Qwen team's models that fits, or else the shipped checkpoint."""
    for size in reversed(KNOWN):
        for suffix in ("", "GPTQ-Int8", "AWQ"):
            name = "-".join(filter(None, [f"Qwen/Qwen2-VL-{size}-Instruct", suffix]))
            needs_gpu = bool(suffix)  # AWQ and GPTQ kernels run on GPUs only
            if estimate(ModelSettings(model=name), available_gb, device).fits and (device != "memory" or not needs_gpu):
                return name
    return "the shipped checkpoint (leave --model out), or a server (http://HOST:PORT/v1#MODEL)"


def memory() -> tuple[float, str]:
    """Measure (free gigabytes, name) of where a model would be loaded: the first GPU, else the machine's memory."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        query = [tool, "--query-gpu=memory.free,name", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
            free_mib, _, name = answer.splitlines()[0].partition(",")
            return int(free_mib) * 2**20 / 1e9, name.strip()
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            pass  # no usable GPU
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return (int(match[1]) * 1024 / 1e9 if match else 0.0), "memory"


def shape_of(model: str) -> Shape:
    """Find a model's shape.

    Raises:
        BadInputError: neither a config.json nor the name gives it.
    """
    return _shape_of(model)[0]


def _shape_of(model: str) -> tuple[Shape, float]:
    """Find the shape and the bits per weight in a folder's config.json, or from the model's name."""
    model = base_of(model)
    config = Path(model) / "config.json"
    if is_file(config):
        return _read_shape(config)
    if model.startswith(RANDOM) and model.removeprefix(RANDOM) in KNOWN:
        return KNOWN[model.removeprefix(RANDOM)], 16.0
    name = model.rsplit("/", 1)[-1].lower()
    size = re.search(r"vl-(\d+)b", name)
    if "qwen2-vl" not in name or size is None or f"{size[1]}B" not in KNOWN:
        known = ", ".join(f"Qwen/Qwen2-VL-{s}-Instruct" for s in KNOWN)
        raise BadInputError(
            f"model {shown(model)}: its size is unknown; give a folder with a config.json, or one of {known}"
        )
    suffix = next((s for s in _BITS if s and name.endswith(s.lower())), "")
    return KNOWN[f"{size[1]}B"], _BITS[suffix]


def _read_shape(file: Path) -> tuple[Shape, float]:
    """Read the shape and the bits per weight from a config.json, whose text part is nested or at the top level.

    Raises:
        BadInputError: it is not the config.json of a Qwen-VL.
    """
    try:
        config: dict[str, Any] = read_json(file, CONFIG_BYTES)
        if not str(config["model_type"]).endswith("_vl"):
            given = shown(config["model_type"], VALUE_CHARS)
            raise BadInputError(f"{file}: model_type is {given!r}; a Qwen-VL is needed")
        text, vision = config.get("text_config", config), config["vision_config"]
        width = int(vision.get("embed_dim") or vision["hidden_size"])
        shape = Shape(
            layers=int(text["num_hidden_layers"]),
            width=int(text["hidden_size"]),
            mlp_width=int(text["intermediate_size"]),
            heads=int(text["num_attention_heads"]),
            kv_heads=int(text["num_key_value_heads"]),
            words=int(text["vocab_size"]),
            is_tied=bool(config.get("tie_word_embeddings", False)),
            vision_depth=int(vision.get("depth", 32)),
            vision_width=width,
            vision_mlp_width=int(vision.get("intermediate_size") or width * vision.get("mlp_ratio", 4)),
            patch_values=3 * int(vision.get("temporal_patch_size", 2)) * int(vision.get("patch_size", 14)) ** 2,
        )
        bits = config.get("quantization_config", {}).get("bits", 16)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__} {shown(error, VALUE_CHARS)}"
        raise BadInputError(f"{file}: not the config.json of a Qwen-VL: {problem}") from error
    if shape.width <= 512:  # loaded in float32 on a CPU, see loading.py
        return shape, 32.0
    return shape, {4: 4.25, 8: 8.25}.get(int(bits), 16.0)
