"""The memory of a fine-tuning is computed from shapes, and is what a small one really takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration
from typer.testing import CliRunner

from qwen2vl_robot.cli import app
from qwen2vl_robot.planner.fit import KNOWN, shape_of
from qwen2vl_robot.planner.loading import config_of, open_model
from qwen2vl_robot.planner.sources import SHIPPED_MODEL, read_settings
from qwen2vl_robot.training.lora import TARGETS, LoraSettings, train_lora
from qwen2vl_robot.training.lora_files import STATE
from qwen2vl_robot.training.memory import RANK, layer_bytes, lora_numbers, training_memory
from tests.tiny_models import save_samples, save_tiny


def test_the_table_names_the_sizes_and_how_many_gpus_they_need() -> None:
    said = CliRunner().invoke(app, ["train", "--method", "lora", "--memory", "--json", "-"])
    assert said.exit_code == 0, said.output
    assert list(KNOWN) == ["2B", "7B", "72B"]
    needs = {name: training_memory(shape) for name, shape in KNOWN.items()}
    assert [round(n.weights) for n in needs.values()] == [4, 17, 147]
    assert [n.fewest_gpus() for n in needs.values()] == [1, 1, 3]
    assert needs["72B"].each_of(3) < 80.0 < needs["72B"].each_of(2)


def test_more_image_tokens_and_a_higher_rank_take_more() -> None:
    shape = KNOWN["7B"]
    few, many = (training_memory(shape, image_tokens=n).activations for n in (512, 4096))
    assert 6.0 < many / few < 8.5
    assert training_memory(shape, rank=64).factors == pytest.approx(4 * training_memory(shape, rank=16).factors)


@pytest.mark.parametrize("rank", [4, 16])
def test_factors_and_moments_of_a_small_model_are_those_that_were_computed(tmp_path: Path, rank: int) -> None:
    pytest.importorskip("peft", reason="the extra [finetune] is not installed")
    pytest.importorskip("accelerate", reason="the extra [finetune] is not installed")
    base, folder = save_tiny(tmp_path / "base"), save_samples(tmp_path / "data", pictures=0, plans=1)
    shape = shape_of(base)
    list(train_lora(LoraSettings(read_settings(base), folder, tmp_path / "run", 1, 0, rank=rank, image_tokens=24)))
    saved = torch.load(tmp_path / "run" / STATE, weights_only=True)
    factors = sum(value.nbytes for value in saved["weights"].values())
    moments = sum(
        value.nbytes for state in saved["optimiser"]["state"].values() for key, value in state.items() if key != "step"
    )
    predicted = training_memory(shape, rank=rank)
    assert predicted.lora_numbers == lora_numbers(shape, rank) == factors // 4
    assert factors + factors + moments == round(predicted.factors * 1e9)  # the gradients are as large as the factors
    weights = sum(p.numel() for p in open_model(read_settings(base)).model.parameters())
    assert predicted.weights * 1e9 == pytest.approx(2 * weights, rel=0.02)
    assert TARGETS.startswith(".*language_model")


def test_between_layers_only_their_inputs_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra [finetune] is not installed")
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        open_model(read_settings(save_tiny(tmp_path / "base"))).model, LoraConfig(r=4, target_modules=TARGETS)
    )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    tokens = 512
    ids = torch.randint(20, 2000, (1, tokens))
    layers = model.base_model.model.model.language_model
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        layers(inputs_embeds=layers.embed_tokens(ids))
    shape = shape_of(str(tmp_path / "base"))
    predicted = shape.layers * tokens * shape.width * 4  # float32 here
    rotary = 2 * tokens * shape.width // shape.heads * 4
    last_norm = 2 * tokens * shape.width * 4
    assert sum(kept.values()) <= 1.1 * (predicted + rotary + last_norm)
    assert sum(kept.values()) >= 0.5 * predicted


@pytest.mark.parametrize("size", ["2B", "7B"])
def test_one_layer_of_the_true_width_keeps_what_was_computed(size: str) -> None:
    pytest.importorskip("peft", reason="the extra [finetune] is not installed")
    from peft import LoraConfig, get_peft_model

    config = config_of(f"random:{size}", AutoTokenizer.from_pretrained(SHIPPED_MODEL))
    config.text_config.num_hidden_layers, config.text_config.vocab_size, config.vision_config.depth = 1, 4000, 1
    model = get_peft_model(
        Qwen2VLForConditionalGeneration(config).bfloat16(), LoraConfig(r=RANK, target_modules=TARGETS)
    )
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens, layers = 64, model.base_model.model.model.language_model
    seen = torch.randn(1, tokens, KNOWN[size].width, dtype=torch.bfloat16, requires_grad=True)
    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        layers(inputs_embeds=seen, use_cache=False)
    measured = sum(tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in own)
    assert measured == pytest.approx(tokens * layer_bytes(KNOWN[size]), rel=0.03)
