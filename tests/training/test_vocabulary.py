"""Growing a tokenizer keeps its old tokens and gives each foreign word the meaning of an English one."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from qwen2vl_robot.languages import ENGLISH, fill, load_languages
from qwen2vl_robot.planner.contract import COMPACT_SYSTEM_PROMPT
from qwen2vl_robot.planner.reply import format_reply
from qwen2vl_robot.training.model import build_model
from qwen2vl_robot.training.tokenizer import SPECIAL_TOKENS, build_tokenizer
from qwen2vl_robot.training.vocabulary import grow

LANGUAGES = load_languages()
REPLY = format_reply([("red block", [(1, 2, 3, 4)])], [{"do": "pick", "object": 0}])


def small_tokenizer() -> PreTrainedTokenizerFast:
    english = LANGUAGES[ENGLISH]
    texts = [t for p in english.tasks.values() for t in (*p.seen, *p.held_out)]
    texts += [f" {word}" for word in ("red", "blue", "block", "plate", "the")]
    return build_tokenizer([*texts, COMPACT_SYSTEM_PROMPT, REPLY] * 5)


@pytest.fixture(scope="module")
def grown() -> tuple[PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration, int]:
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    model = build_model(tokenizer)
    old = len(tokenizer)
    assert grow(tokenizer, model, LANGUAGES) == len(tokenizer) - old
    return tokenizer, model, old


Grown = tuple[PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration, int]


def test_english_keeps_its_tokens(grown: Grown) -> None:
    tokenizer, before = grown[0], small_tokenizer()
    english = LANGUAGES[ENGLISH]
    names = ("the red block", "the blue plate")
    for phrasing in english.tasks.values():
        for template in (*phrasing.seen, *phrasing.held_out):
            text = fill(template, *names)
            assert tokenizer(text)["input_ids"] == before(text)["input_ids"]
    assert tokenizer(REPLY)["input_ids"] == before(REPLY)["input_ids"]


def test_a_foreign_word_starts_as_the_english_one(grown: Grown) -> None:
    tokenizer, model, old = grown
    rows = model.get_input_embeddings().weight
    red = rows[tokenizer.convert_tokens_to_ids(tokenizer.tokenize(" red")[0])]
    for text in ("红色", "赤い", "rojo", "roten", "الأحمر", "빨간", "rouge", "màu đỏ"):
        (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert token >= old, text
        assert torch.cosine_similarity(rows[token], red, dim=0) > 0.8, text
    assert model.lm_head.weight is rows


def test_words_are_found_without_spaces_between_them(grown: Grown) -> None:
    assert grown[0].tokenize("把红色方块放在蓝色盘子上") == ["把", "红色", "方块", "放在", "蓝色", "盘子", "上"]
    assert [t.strip() for t in grown[0].tokenize("빨간 블록을")] == ["빨간", "블록을"]


def test_any_text_survives_the_grown_tokenizer(grown: Grown) -> None:
    for text in ('{"label":"white duck"}', "红色的飞机", "سيارة", "xin chào"):
        assert grown[0].decode(grown[0](text)["input_ids"]).replace(" ", "") == text.replace(" ", "")


def test_no_word_is_a_control_token(grown: Grown) -> None:
    tokenizer = grown[0]
    assert tuple(tokenizer.all_special_tokens) == tuple(dict.fromkeys(tokenizer.all_special_tokens))
    assert set(tokenizer.all_special_tokens) <= set(SPECIAL_TOKENS)
