"""The state and the adapter of a fine-tuning ↔ files that are whole or absent; an adapter → a merged checkpoint."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.adapter import CONFIG, ORIGIN, WEIGHTS, is_adapter, read_adapter
from qwen2vl_robot.planner.hub import prepare_hub
from qwen2vl_robot.planner.loading import ModelContract, OpenedModel, open_model
from qwen2vl_robot.planner.sources import ModelSettings
from qwen2vl_robot.results import UnsavedError, check_new, reason_of, write_bytes, write_json

STATE = "lora_state.pt"
_ADAPTER = ".default"  # peft's name of the adapter, which its files leave out


@dataclass(slots=True)
class Run:
    """What the steps of a training work with; `model` and `optimiser` are as accelerate has prepared them.

    Attributes:
        about: what a state of this training says of itself.
    """

    accelerator: Any
    model: Any
    optimiser: Any
    opened: OpenedModel
    about: dict[str, Any]
    step: int = 0
    spent_s: float = 0.0


def check_out(out: Path) -> None:
    """Refuse a folder that holds something else than an adapter.

    Raises:
        BadInputError: it does.
    """
    if (out / "config.json").exists():
        raise BadInputError(f"--out {out}: holds a checkpoint; give a new folder, or that of an adapter to go on with")
    if (out / CONFIG).exists() and not (out / STATE).exists():
        raise BadInputError(f"--out {out}: holds an adapter without its {STATE}; give a new folder")


def take_up(out: Path, run: Run) -> None:
    """Take up the state of an earlier run, where there is one.

    Raises:
        BadInputError: it is of another training, or broken.
    """
    file = out / STATE
    if not file.exists():
        return
    about = run.about
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        before = {name: saved["about"].get(name) for name in about}
    except (OSError, RuntimeError, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise BadInputError(f"{file}: broken; remove it to begin anew ({shown(error, 80)})") from error
    other = [
        f"{name} {shown(was, 20)}, now {shown(about[name], 20)}" for name, was in before.items() if was != about[name]
    ]
    if other:
        raise BadInputError(f"--out {out}: holds another training ({'; '.join(other)}); give a new folder")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
    set_model_state_dict(run.model, saved["weights"], options=options)
    set_optimizer_state_dict(run.model, run.optimiser.optimizer, saved["optimiser"], options=options)
    run.step, run.spent_s = int(saved["step"]), float(saved["seconds"])


def save_training(out: Path, base: str, run: Run) -> None:
    """Write state and adapter; every process calls this, the first one writes.

    Args:
        base: where the model is found from any folder.

    Raises:
        UnsavedError: the disk is full; the files of the last time are still there.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    trained = get_model_state_dict(run.model, options=options)
    weights = {name: value for name, value in trained.items() if "lora_" in name}  # tied embeddings come along
    optimiser = get_optimizer_state_dict(run.model, run.optimiser.optimizer, options=options)
    if not run.accelerator.is_main_process:
        return
    packed = io.BytesIO()
    done = {"step": run.step, "seconds": run.spent_s}
    saved = {"about": run.about, "weights": weights, "optimiser": optimiser, **done}
    torch.save(saved, packed)
    write_bytes(out / STATE, packed.getvalue())
    config = run.accelerator.unwrap_model(run.model).peft_config["default"].to_dict()
    _write_adapter(out, {**run.about, **done}, weights, {**config, "base_model_name_or_path": base})
    _write_around(out, run.opened)


def _write_adapter(out: Path, about: dict[str, Any], weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    named = {name.replace(_ADAPTER, ""): value.detach().float().contiguous() for name, value in weights.items()}
    write_bytes(out / WEIGHTS, to_safetensors(named, metadata={"format": "pt"}))
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    write_json(out / ORIGIN, about)
    write_json(out / CONFIG, json.loads(json.dumps({**plain, "inference_mode": True}, default=str)))


def _write_around(out: Path, opened: OpenedModel) -> None:
    """Write how the model has to be asked: prompt, boxes, and the bounds of its pictures."""
    write_json(out / "planner.json", _plain(opened.contract))
    write_json(out / "preprocessor_config.json", json.loads(opened.images.to_json_string()))


def _plain(contract: ModelContract) -> dict[str, Any]:
    return contract.model_dump(mode="json")


def merge(adapter: Path, out: Path) -> str:
    """Write an adapter's model with the adapter added, in the type of its weights; returns that model's name.

    Raises:
        BadInputError: no adapter, one of another model, or the folder is not empty.
        UnsavedError: the disk is full; nothing is left of it.
    """
    if not is_adapter(str(adapter)):
        raise BadInputError(f"{shown(adapter)}: no adapter; {CONFIG} is missing")
    check_new(out, "--out")
    settings = ModelSettings(model=str(adapter), dtype="auto")
    prepare_hub(settings)
    opened = open_model(settings)
    part = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        opened.model.save_pretrained(part)
        opened.tokenizer.save_pretrained(part)
        _write_around(part, opened)
        part.replace(out)
    except (OSError, SafetensorError, UnsavedError) as error:
        shutil.rmtree(part, ignore_errors=True)
        why = reason_of(error) if isinstance(error, OSError) else shown(error)
        raise UnsavedError(f"--out {out}: cannot be written: {why}") from error
    return read_adapter(adapter).base
