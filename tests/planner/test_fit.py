"""Whether a model fits is known before it is loaded, from the shapes that the Qwen team publishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.fit import KNOWN, estimate, memory, suggest
from qwen2vl_robot.planner.process import SHIPPED_MODEL
from qwen2vl_robot.planner.sources import ModelSettings, read_settings


@pytest.mark.parametrize(("size", "billions"), [("2B", 2.21), ("7B", 8.29), ("72B", 73.4)])
def test_the_known_shapes_have_the_published_number_of_weights(size: str, billions: float) -> None:
    shape = KNOWN[size]
    assert (shape.linear_weights + shape.other_weights) / 1e9 == pytest.approx(billions, rel=0.01)


def test_the_shipped_checkpoint_is_as_large_as_its_file() -> None:
    fit = estimate(read_settings(SHIPPED_MODEL), 8.0, "memory")
    stored_gb = (Path(SHIPPED_MODEL) / "model.safetensors").stat().st_size / 1e9  # in bfloat16, loaded in float32
    assert fit.weights_gb == pytest.approx(2 * stored_gb, rel=0.05)
    assert fit.fits


def test_quantised_weights_need_less_and_float32_more() -> None:
    names = ["-GPTQ-Int4", "-AWQ", "-GPTQ-Int8", ""]
    sizes = [estimate(read_settings(f"Qwen/Qwen2-VL-7B-Instruct{n}"), 0, "GPU").weights_gb for n in names]
    full = ModelSettings(model="Qwen/Qwen2-VL-7B-Instruct", dtype="float32")
    sizes.append(estimate(full, 0, "GPU").weights_gb)
    assert sizes == sorted(sizes)
    assert sizes[0] < 7.0
    assert sizes[-1] == pytest.approx(2 * sizes[-2])


def test_larger_pictures_need_more() -> None:
    small, large = (ModelSettings(model="Qwen/Qwen2-VL-2B-Instruct", max_pixels=p) for p in (200_704, 12_845_056))
    assert estimate(small, 8, "GPU").needed_gb < estimate(large, 8, "GPU").needed_gb


def test_a_model_that_does_not_fit_comes_with_one_that_does() -> None:
    assert not estimate(read_settings("Qwen/Qwen2-VL-7B-Instruct"), 12.0, "GPU").fits
    choice = suggest(12.0, "GPU")
    assert choice == "Qwen/Qwen2-VL-7B-Instruct-GPTQ-Int8" or "AWQ" in choice
    assert estimate(read_settings(choice), 12.0, "GPU").fits
    assert "shipped" in suggest(2.0, "GPU")
    assert suggest(1000.0, "memory") == "Qwen/Qwen2-VL-72B-Instruct"


def test_a_model_of_unknown_size_is_refused() -> None:
    with pytest.raises(BadInputError, match="size is unknown"):
        estimate(read_settings("someone/clever-model"), 12.0, "GPU")


@pytest.mark.parametrize("config", ["{}", "no json", '{"model_type":"llama"}', '{"model_type":"qwen2_vl"}', "[]"])
def test_a_foreign_config_is_one_line(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadInputError) as refused:
        estimate(read_settings(str(tmp_path)), 12.0, "GPU")
    assert "\n" not in str(refused.value)


def test_a_config_of_the_hub_with_its_text_at_the_top_is_read(tmp_path: Path) -> None:
    vision = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "patch_size": 14, "hidden_size": 1536}
    text = {"num_hidden_layers": 28, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12}
    more = {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "model_type": "qwen2_vl"}
    config = {**text, **more, "vision_config": vision, "quantization_config": {"bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    name = estimate(read_settings("Qwen/Qwen2-VL-2B-Instruct-AWQ"), 12.0, "GPU")
    assert estimate(read_settings(str(tmp_path)), 12.0, "GPU").weights_gb == pytest.approx(name.weights_gb)


def test_this_machine_has_some_memory() -> None:
    assert memory()[0] > 0.1
