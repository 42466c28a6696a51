"""A checkpoint loads completely or is refused with one clear line, before it fills the memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.engines import can_be_fused
from qwen2vl_robot.planner.fit import KNOWN
from qwen2vl_robot.planner.loading import config_of
from qwen2vl_robot.planner.local import LocalPlanner
from qwen2vl_robot.planner.sources import SHIPPED_MODEL


def copy_shipped(folder: Path) -> Path:
    shutil.copytree(SHIPPED_MODEL, folder)
    return folder


def test_a_model_of_another_family_is_named(tmp_path: Path) -> None:
    folder = copy_shipped(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 10}))
    with pytest.raises(BadInputError, match="it is a llama; a Qwen-VL is needed"):
        LocalPlanner(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_checkpoint_that_lacks_a_file_is_named(tmp_path: Path, name: str) -> None:
    folder = copy_shipped(tmp_path / "m")
    (folder / name).unlink()
    with pytest.raises(BadInputError, match="is missing"):
        LocalPlanner(str(folder))


def test_weights_that_are_missing_or_cut_short_are_refused(tmp_path: Path) -> None:
    folder = copy_shipped(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "q_proj.weight" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInputError, match="1 weights are missing"):
        LocalPlanner(str(folder))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match="cannot be loaded"):
        LocalPlanner(str(folder))


def test_a_name_of_modelscope_needs_its_client() -> None:
    with pytest.raises(BadInputError, match="pip install modelscope"):
        LocalPlanner("modelscope:Qwen/Qwen2-VL-2B-Instruct")


def test_a_model_that_does_not_fit_is_refused_before_it_is_fetched() -> None:
    with pytest.raises(BadInputError, match=r"needs 1\d\d\.\d GB .* has .* GB free; fits: "):
        LocalPlanner("Qwen/Qwen2-VL-72B-Instruct")


def test_random_weights_that_do_not_fit_are_refused_politely() -> None:
    with pytest.raises(BadInputError, match=r"random:72B: cannot be loaded: needs 1\d\d\.\d GB"):
        LocalPlanner("random:72B")
    with pytest.raises(BadInputError, match="sizes are 2B, 7B, 72B"):
        LocalPlanner("random:3B")


@pytest.mark.parametrize("size", ["2B", "7B"])
def test_random_weights_have_the_true_shapes(size: str) -> None:
    config = config_of(f"random:{size}", AutoTokenizer.from_pretrained(SHIPPED_MODEL))
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config)
    count = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    shape = KNOWN[size]
    assert count == pytest.approx(shape.linear_weights + shape.other_weights, rel=0.01)
    assert can_be_fused(model)
