"""A model and a LoRA adapter → the model with the adapter added to its weights, for good."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.adapter import WEIGHTS, Adapter

_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_DIGESTED_ROWS = 64


def add_adapter(model: Any, adapter: Adapter) -> None:
    """Add scale * B @ A to each weight that the adapter names, in float32, and round once.

    Raises:
        BadInputError: the adapter is of another model, or holds numbers that are none.
    """
    pairs = _pairs(load_file(adapter.folder / WEIGHTS), adapter)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, (a, b) in pairs.items():
        module = linear.get(name)
        fits = module is not None and (a.shape, b.shape) == (
            (adapter.rank, module.in_features),
            (module.out_features, adapter.rank),
        )
        if not fits:
            has = "no such linear layer" if module is None else f"{tuple(module.weight.shape)} there"
            wants = f"{shown(name, 80)} of {len(b)} x {a.shape[-1]}"
            raise _of_another(adapter, f"it changes {wants}, and that model has {has}")
    if adapter.digest is not None and digest_of(model, sorted(pairs)) != adapter.digest:
        raise _of_another(adapter, "the weights there are not those that it was trained on")
    with torch.no_grad():
        for name, (a, b) in pairs.items():
            weight = linear[name].weight
            change = adapter.scale * (b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32))
            weight.copy_(weight.float() + change)


def digest_of(model: Any, names: list[str]) -> str:
    """A digest of a model's weights: the largest number in the first rows of each layer, the same in any type."""
    rows = [model.get_submodule(name).weight.detach()[:_DIGESTED_ROWS] for name in names]
    largest = [float(some.abs().amax().to(torch.bfloat16)) for some in rows]
    return hashlib.sha256(repr(largest).encode()).hexdigest()


def _pairs(tensors: dict[str, Tensor], adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """The two factors for each layer.

    Raises:
        BadInputError: a tensor is no factor, or lacks its other one; a number is none.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _NAME.fullmatch(key)
        if match is None or tensor.ndim != 2 or not tensor.isfinite().all():
            what = "is no factor of plain LoRA" if match is None or tensor.ndim != 2 else "holds numbers that are none"
            raise BadInputError(f"{shown(adapter.folder / WEIGHTS)}: {shown(key, 100)} {what}")
        found.setdefault(match[1], {})[match[2]] = tensor
    alone = [name for name, pair in found.items() if len(pair) != 2]
    if alone or not found:
        what = f"{shown(alone[0], 100)} has one factor of two" if alone else "it is empty"
        raise BadInputError(f"{shown(adapter.folder / WEIGHTS)}: {what}")
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def _of_another(adapter: Adapter, why: str) -> BadInputError:
    return BadInputError(f"adapter {shown(adapter.folder)} is not of {shown(adapter.base)}: {why}")
