"""A LoRA adapter is a model's name: it is added to the weights that it was made for, or refused with one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.adapter import CONFIG, ORIGIN, WEIGHTS, base_of
from qwen2vl_robot.planner.fit import estimate
from qwen2vl_robot.planner.loading import open_model
from qwen2vl_robot.planner.sources import ModelSettings, read_settings
from tests.tiny_models import LAYER, WIDTH, save_adapter, save_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


def test_an_adapter_is_added_to_its_models_weights_and_to_no_others(base: str, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", base)
    factors = load_file(folder / WEIGHTS)
    a, b = (factors[f"base_model.model.{LAYER}.lora_{side}.weight"] for side in "AB")
    plain, changed = (dict(open_model(ModelSettings(model=m)).model.named_parameters()) for m in (base, str(folder)))
    torch.testing.assert_close(changed[f"{LAYER}.weight"], plain[f"{LAYER}.weight"] + 2.0 * b @ a)
    others = [name for name in plain if name != f"{LAYER}.weight"]
    assert all(torch.equal(plain[name], changed[name]) for name in others)


def test_an_adapter_says_how_its_model_is_asked_and_how_large_it_is(base: str, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", base)
    assert base_of(str(folder)) == base
    needs = [estimate(ModelSettings(model=name), 1.0, "memory").needed_gb for name in (base, str(folder))]
    assert needs[0] == needs[1]
    assert open_model(ModelSettings(model=str(folder))).contract.prompt_style.value == "compact"
    (folder / "planner.json").write_text(json.dumps({"prompt_style": "full", "box_convention": "thousandths"}))
    assert open_model(ModelSettings(model=str(folder))).contract.prompt_style.value == "full"
    assert read_settings(str(folder)).why_uncalibrated((640, 480)) == ""


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"use_dora": True}, "plain LoRA is needed, this one has use_dora"),
        ({"rank_pattern": {"q_proj": 8}}, "plain LoRA is needed, this one has rank_pattern"),
        ({"bias": "all"}, "plain LoRA is needed, this one has bias"),
        ({"peft_type": "IA3"}, "plain LoRA is needed, this one has IA3"),
        ({"r": 0}, "r is 0; a whole number of 1 to 4096 is needed"),
        ({"lora_alpha": "much"}, "lora_alpha is much; a number is needed"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path has to name the model"),
        ({"name": "model.layers.0.self_attn.q_proj"}, "that model has no such linear layer"),
        ({"width": 32}, r"it changes .*q_proj of 32 x 32, and that model has \(64, 64\) there"),
    ],
)
def test_an_adapter_of_another_kind_or_model_is_refused(
    base: str, tmp_path: Path, fields: dict[str, object], why: str
) -> None:
    folder = save_adapter(tmp_path / "adapter", base, **fields)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=why) as refused:
        open_model(ModelSettings(model=str(folder)))
    assert "\n" not in str(refused.value)


def test_an_adapter_of_an_adapter_is_refused(base: str, tmp_path: Path) -> None:
    first = save_adapter(tmp_path / "first", base)
    with pytest.raises(BadInputError, match="is an adapter too; merge that one first"):
        open_model(ModelSettings(model=str(save_adapter(tmp_path / "second", str(first)))))


def test_weights_that_are_missing_alone_cut_or_no_numbers_are_refused(base: str, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", base)
    settings, whole = ModelSettings(model=str(folder)), load_file(folder / WEIGHTS)
    first = next(iter(whole))
    for spoilt, why in (
        ({first: whole[first]}, "has one factor of two"),
        ({**whole, first: torch.full_like(whole[first], torch.nan)}, "holds numbers that are none"),
        ({**whole, "base_model.model.x.lora_magnitude_vector": torch.ones(WIDTH)}, "is no factor of plain LoRA"),
    ):
        save_file(spoilt, folder / WEIGHTS)
        with pytest.raises(BadInputError, match=why):
            open_model(settings)
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"a pickle is never loaded")
    with pytest.raises(BadInputError, match=f"{WEIGHTS} with a safetensors header"):
        open_model(settings)


def test_weights_of_the_same_shapes_that_are_others_are_refused(base: str, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", base)
    (folder / ORIGIN).write_text(json.dumps({"base_digest": "of another model"}))
    with pytest.raises(BadInputError, match="the weights there are not those that it was trained on"):
        open_model(ModelSettings(model=str(folder)))


def test_a_model_that_is_gone_is_named(base: str, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", base)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(BadInputError, match="gone"):
        open_model(ModelSettings(model=str(folder)))
