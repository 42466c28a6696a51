"""A folder with a LoRA adapter → which model it changes and how strongly, checked before a library opens any of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen2vl_robot.bounds import CONFIG_BYTES, NAME_CHARS, TENSORS_HEADER_BYTES, shown
from qwen2vl_robot.documents import is_file, read_json
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.folder import tensors_bytes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ORIGIN = "training.json"  # what a training here says of its adapter; adapters of others have none
# Fields of peft's that change what is computed; only plain LoRA is added here, so all have to be unset.
_MUST_BE_UNSET = (
    *("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "modules_to_save", "trainable_token_indices"),
    *("layer_replication", "rank_pattern", "alpha_pattern", "target_parameters", "alora_invocation_tokens"),
    *("megatron_config", "arrow_config", "use_bdlora"),
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: to each weight W it adds scale * B @ A.

    Attributes:
        base: folder or hub name of the model that it changes.
        digest: of weights of that model, as `merging.digest_of` makes it; None where nobody noted it.
    """

    folder: Path
    base: str
    rank: int
    scale: float
    digest: str | None


def base_of(model: str) -> str:
    """The model that an adapter's folder changes; any other model's name as it is.

    Raises:
        BadInputError: the adapter cannot be used.
    """
    return read_adapter(Path(model)).base if is_adapter(model) else model


def is_adapter(model: str) -> bool:
    """Whether a model's name is a folder with an adapter."""
    return is_file(Path(model) / CONFIG)


def read_adapter(folder: Path) -> Adapter:
    """Read what an adapter says of itself.

    Raises:
        BadInputError: a file is missing or wrong, or the adapter is of another kind than plain LoRA.
    """
    file = folder / CONFIG
    data = read_json(file, CONFIG_BYTES)
    if not isinstance(data, dict):
        raise BadInputError(f"{shown(file)}: a mapping is needed")
    unfit = [name for name in _MUST_BE_UNSET if data.get(name)]
    unfit += [] if data.get("bias", "none") == "none" else ["bias"]
    unfit += [] if data.get("revision") in (None, "main") else ["revision"]
    if data.get("peft_type") != "LORA" or unfit:
        what = ", ".join(unfit) or shown(data.get("peft_type"), 40)
        raise BadInputError(f"{shown(file)}: plain LoRA is needed, this one has {what}; merge it with what made it")
    if tensors_bytes(folder / WEIGHTS) is None:
        allowed = f"with a safetensors header of at most {TENSORS_HEADER_BYTES} bytes is needed"
        raise BadInputError(f"{shown(folder)}: {WEIGHTS} {allowed}")
    rank = data.get("r")
    if type(rank) is not int or not 0 < rank <= 4096:
        raise BadInputError(f"{shown(file)}: r is {shown(rank, 40)}; a whole number of 1 to 4096 is needed")
    return Adapter(folder, _base(data, file), rank, _scale(data, rank, file), _digest(folder))


def _base(data: dict[str, Any], file: Path) -> str:
    base = data.get("base_model_name_or_path")
    if not isinstance(base, str) or not 0 < len(base) <= NAME_CHARS or not base.isprintable():
        raise BadInputError(f"{shown(file)}: base_model_name_or_path has to name the model that it changes")
    if is_adapter(base):
        raise BadInputError(f"{shown(file)}: its model {shown(base)} is an adapter too; merge that one first")
    return base


def _scale(data: dict[str, Any], rank: int, file: Path) -> float:
    alpha = data.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise BadInputError(f"{shown(file)}: lora_alpha is {shown(alpha, 40)}; a number is needed")
    return float(alpha) / (math.sqrt(rank) if data.get("use_rslora") else rank)


def _digest(folder: Path) -> str | None:
    file = folder / ORIGIN
    said = read_json(file, CONFIG_BYTES) if is_file(file) else None
    return str(said["base_digest"]) if isinstance(said, dict) and "base_digest" in said else None
