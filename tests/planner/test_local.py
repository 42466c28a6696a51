"""Local models: one loader serves the whole family, and anything but a Qwen-VL is refused with one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.messages import Instruction, PlannerRequest
from qwen2vl_robot.planner.contract import COMPACT_SYSTEM_PROMPT, BoxConvention, PromptStyle, build_messages
from qwen2vl_robot.planner.decoding import generate_plainly
from qwen2vl_robot.planner.engines import FusedEngine, LibraryEngine
from qwen2vl_robot.planner.grammar import reply_grammar
from qwen2vl_robot.planner.local import LocalPlanner
from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.planner.sources import ModelSettings, read_settings
from qwen2vl_robot.reasons import PlannerReason

PICTURE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}  # fmt: skip
VISION = {"depth": 2, "num_heads": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}


def asked(text: str = "pick up the red block", **more: Any) -> PlannerRequest:
    return PlannerRequest(PICTURE, Instruction(text), **more)


def save_tiny(folder: Path, family: str) -> str:
    """Save a checkpoint of random weights with the shipped checkpoint's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_MODEL)
    text = {**TEXT, "vocab_size": len(tokenizer)}
    ids = {"image_token_id": 12, "video_token_id": 13, "vision_start_token_id": 9, "vision_end_token_id": 10}
    if family == "qwen2_5_vl":
        vision = {**VISION, "fullatt_block_indexes": [1], "window_size": 56}
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    else:
        vision = {**VISION, "deepstack_visual_indexes": [0], "patch_size": 16}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch = 14 if family == "qwen2_5_vl" else 16
    Qwen2VLImageProcessorPil(patch_size=patch, min_pixels=3136, max_pixels=50_000).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("family", "convention", "engine"),
    [
        ("qwen2_5_vl", BoxConvention.RESIZED_PIXELS, FusedEngine),
        ("qwen3_vl", BoxConvention.THOUSANDTHS, LibraryEngine),
    ],
)
def test_its_relatives_load_through_the_same_code(
    tmp_path: Path, family: str, convention: BoxConvention, engine: type[Any]
) -> None:
    planner = LocalPlanner(save_tiny(tmp_path / family, family))
    assert planner._contract.box_convention is convention
    assert isinstance(planner._decoder._engine, engine)
    prompt, _ = planner._prompts.make((PICTURE,), [{"role": "user", "content": [{"type": "image"}]}])
    positions, _ = planner._decoder._positions(prompt)
    logits = []
    with torch.inference_mode():
        for each in (planner._decoder._engine, LibraryEngine(planner._model)):
            each.append(prompt.ids[:-2], positions[..., :-2], prompt.pictures)
            logits.append(each.append(prompt.ids[-2:], positions[..., -2:], None)[0])
        ids = torch.tensor([prompt.ids])
        kinds = (ids == 12).int()
        whole = planner._model(input_ids=ids, mm_token_type_ids=kinds, **prompt.pictures).logits[0, -1].numpy()
    for each in logits:
        np.testing.assert_allclose(each, whole, atol=1e-4)


def test_several_pictures_are_seen_together_and_boxes_are_in_the_first(tmp_path: Path) -> None:
    planner = LocalPlanner(save_tiny(tmp_path / "m", "qwen2_5_vl"))
    other = PICTURE[:84, :112]
    answers = [planner.reply(asked("pick it", others=others)) for others in ((), (other,), (other[::-1],), (other,))]
    assert answers[1].text == answers[3].text
    assert answers[0].image_size_px == answers[1].image_size_px
    messages = build_messages("pick it", (), PromptStyle.FULL, 2)
    prompt, _ = planner._prompts.make((PICTURE, other), messages)
    assert prompt.ids.count(12) == sum(
        int(rows * columns) // 4 for _, rows, columns in prompt.pictures["image_grid_thw"]
    )
    grammar = reply_grammar(1000)
    plain = generate_plainly(planner._model, planner._decoder.tokenizer, prompt, grammar)
    assert planner._decoder.decode(prompt, grammar).ids == plain


def test_a_clip_is_refused_by_a_family_that_takes_it_otherwise(tmp_path: Path) -> None:
    planner = LocalPlanner(save_tiny(tmp_path / "m", "qwen3_vl"))
    with pytest.raises(PlannerError, match="only qwen2_vl, qwen2_5_vl can read a clip, not qwen3_vl") as refused:
        planner.reply(asked("pick it", clip=(PICTURE,)))
    assert refused.value.reason is PlannerReason.BAD_REQUEST


def test_a_clip_is_seen_before_the_picture_and_planned_with_as_plainly(tmp_path: Path) -> None:
    planner = LocalPlanner(save_tiny(tmp_path / "m", "qwen2_5_vl"))
    clip = tuple(np.roll(PICTURE, shift, axis=1) for shift in (30, 20, 10))
    messages = build_messages("pick it", (), PromptStyle.FULL, has_clip=True)
    prompt, _ = planner._prompts.make((PICTURE,), messages, clip)
    (moments, rows, columns) = prompt.pictures["video_grid_thw"][0].tolist()
    assert moments == 2  # of two pictures each; the last picture is repeated
    assert prompt.ids.count(planner._model.config.video_token_id) == moments * rows * columns // 4
    assert prompt.ids.index(planner._model.config.video_token_id) < prompt.ids.index(12)
    grammar = reply_grammar(1000)
    plain = generate_plainly(planner._model, planner._decoder.tokenizer, prompt, grammar)
    assert planner._decoder.decode(prompt, grammar).ids == plain


def test_a_film_of_one_picture_is_that_picture(tmp_path: Path) -> None:
    planner = LocalPlanner(save_tiny(tmp_path / "m", "qwen2_5_vl"))
    small = PICTURE[:112, :140]
    film, still = planner._prompts.video_of((small,) * 4), planner._prompts.images_of((small,))
    torch.testing.assert_close(film["pixel_values_videos"], still["pixel_values"].repeat(2, 1))


def test_the_shipped_checkpoint_looks_at_one_picture() -> None:
    planner = LocalPlanner(SHIPPED_MODEL)
    alone = planner.reply(asked())
    assert alone.prompt == f"system: {COMPACT_SYSTEM_PROMPT}\nuser: <image>\npick up the red block"
    assert planner.plan(asked()).prompt == alone.prompt
    assert planner.reply(asked(others=(PICTURE[::-1],))).text == alone.text
    assert planner.reply(asked(clip=(PICTURE[::-1],))).text == alone.text


def test_settings_bound_the_picture(tmp_path: Path) -> None:
    file = tmp_path / "planner.yaml"
    file.write_text(f"model: {SHIPPED_MODEL}\nmax_pixels: 40000\ndtype: float32\nattention: eager\n")
    planner = LocalPlanner(str(file))
    answer = planner.reply(PlannerRequest(np.full((480, 640, 3), 120, np.uint8), Instruction("pick up the red block")))
    assert answer.image_size_px == (224, 168)
    assert parse_reply(answer.text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a\nkey: abc", "key"),
        ("model: a\ndtype: int3", "dtype"),
        ("model: a\nmax_pixels: .inf", "max_pixels"),
        ("model: a\ntimeout_s: .nan", "timeout_s"),
        ("model: a\nserver: ftp://x/v1", "is needed"),
        ("model: a\nserver: http://example.com/v1\nkey_variable: K", "https only"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "planner.yaml"
    file.write_text(text)
    with pytest.raises(BadInputError, match=message) as refused:
        read_settings(str(file))
    assert "\n" not in str(refused.value)


def test_a_name_says_where_a_model_is() -> None:
    server = read_settings("http://127.0.0.1:8000/v1#Qwen/Qwen2-VL-7B-Instruct")
    assert (server.server, server.model) == ("http://127.0.0.1:8000/v1", "Qwen/Qwen2-VL-7B-Instruct")
    assert read_settings("dashscope:qwen2-vl-72b-instruct").key_variable == "DASHSCOPE_API_KEY"
    assert read_settings("Qwen/Qwen2-VL-2B-Instruct-AWQ") == ModelSettings(model="Qwen/Qwen2-VL-2B-Instruct-AWQ")


def test_a_plan_that_takes_too_long_ends_with_its_process() -> None:
    with PlannerProcess(timeout_s=0.001) as planner:
        planner.start()
        with pytest.raises(PlannerError, match="no answer within") as refused:
            planner.plan_picture(asked())
        assert refused.value.reason is PlannerReason.WORKER
        assert planner.pid is None
