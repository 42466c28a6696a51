"""Folders of small Qwen-VLs with random weights, and of adapters made by hand, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from qwen2vl_robot.planner.adapter import CONFIG, WEIGHTS
from qwen2vl_robot.planner.reply import format_reply
from qwen2vl_robot.planner.sources import SHIPPED_MODEL
from qwen2vl_robot.training.shards import (
    Demonstration,
    SeenObject,
    shard_name,
    write_demonstrations,
    write_manifest,
    write_shard,
)

WIDTH = 64
LAYER = "model.language_model.layers.0.self_attn.q_proj"


def save_tiny(folder: Path, *, seed: int = 0, width: int = WIDTH, style: str = "compact") -> str:
    """Save a Qwen2-VL of two layers in float32, with the tokenizer of the shipped checkpoint."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_MODEL)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    ids |= {
        f"vision_{side}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{side}|>") for side in ("start", "end")
    }
    ends = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "tie_word_embeddings": True, **ends,
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": width, "num_heads": 2, "mlp_ratio": 2},
        tie_word_embeddings=True, **ids, **ends,
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight.mul_(10.0)  # so that layers alone can decide about a token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=25_000).save_pretrained(folder)
    contract = {"prompt_style": style, "box_convention": "thousandths"}
    (folder / "planner.json").write_text(json.dumps(contract))
    return str(folder)


def save_adapter(folder: Path, base: str, *, name: str = LAYER, width: int = WIDTH, **fields: object) -> Path:
    """Save an adapter of rank 2 with random factors of one layer."""
    generator = torch.Generator().manual_seed(1)
    sides = {"A": (2, width), "B": (width, 2)}
    tensors = {
        f"base_model.model.{name}.lora_{side}.weight": torch.randn(shape, generator=generator)
        for side, shape in sides.items()
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / WEIGHTS)
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "lora_alpha": 4, "bias": "none", **fields}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def save_samples(folder: Path, *, pictures: int = 6, plans: int = 0) -> Path:
    """Save small pictures with two things each, or plans of bags about them."""
    rng = np.random.default_rng(0)
    seen = [
        SeenObject("red block", (100, 200, 300, 400), (0,), 5000),
        SeenObject("blue plate", (500, 500, 900, 900), (3,), 9000),
    ]
    entries = []
    if pictures:
        drawn = [(n, _picture(rng, 56 + 28 * (n % 3)), seen) for n in range(pictures)]
        entries.append(write_shard(folder / shard_name(0), drawn))
    if plans:
        reply = format_reply([("red block", [(100, 200, 300, 400)])], [{"do": "pick", "object": 0}])
        asked = Demonstration("pick up the red block", ("pick up the red block",), False, (), reply)
        made = [(1000 + n, _picture(rng, 84), asked) for n in range(plans)]
        entries.append(write_demonstrations(folder / shard_name(1000), made))
    write_manifest(folder, {}, entries)
    return folder


def _picture(rng: np.random.Generator, width_px: int) -> np.ndarray:
    return rng.integers(0, 256, (56, width_px, 3), dtype=np.uint8)
