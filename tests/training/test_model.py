"""The forward pass in training equals the library's, and the tokenizer has the tokens that the losses need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from qwen2vl_robot.languages import ENGLISH, detect_language, load_languages
from qwen2vl_robot.messages import Where
from qwen2vl_robot.planner.contract import PromptStyle, build_messages
from qwen2vl_robot.planner.reply import format_reply
from qwen2vl_robot.planner.sources import SHIPPED_MODEL
from qwen2vl_robot.training.batches import Batcher
from qwen2vl_robot.training.dataset import MAX_PIXELS, MIN_PIXELS, token_grid
from qwen2vl_robot.training.model import (
    Batch,
    Features,
    build_model,
    encode_images,
    forward,
    plain_state,
    whiten,
)
from qwen2vl_robot.training.questions import Mix, Question, QuestionMaker, draw_questions
from qwen2vl_robot.training.samples import Sample, augment
from qwen2vl_robot.training.shards import SeenObject
from qwen2vl_robot.training.tokenizer import build_tokenizer
from qwen2vl_robot.training.train import save_checkpoint

SEEN = [
    SeenObject("red block", (250, 333, 333, 444), (39, 51), 900),
    SeenObject("blue bowl", (583, 555, 750, 777), (67, 68, 79, 80), 3000),
]


def some_sample(seed: int) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (252, 336, 3), dtype=np.uint8)
    return Sample(image, SEEN)


@pytest.fixture(scope="module")
def maker() -> QuestionMaker:
    return QuestionMaker(load_languages(), mix=Mix(foreign_ratio=0.3, failed_ratio=0.3))


@pytest.fixture(scope="module")
def tokenizer(maker: QuestionMaker) -> PreTrainedTokenizerFast:
    rng = np.random.default_rng(0)
    groups = [draw_questions([some_sample(0)] * 4, maker, rng) for _ in range(20)]
    texts = [t for group in groups for qs in group for q in qs for t in (q.instruction, " " + q.instruction, q.reply)]
    # The catalogue's words must be known, whatever was drawn.
    english = load_languages()[ENGLISH]
    return build_tokenizer(texts + [f" {w}" for w in [*english.colours, *english.kinds]] * 20)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(0)
    return build_model(tokenizer).eval()


PACKED = [some_sample(1), some_sample(2)]


def packed_forward(
    model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, maker: QuestionMaker
) -> tuple[list[list[Question]], Batch, Features]:
    """Questions about two pictures, packed, and what the training's forward pass makes of them."""
    questions = draw_questions(PACKED, maker, np.random.default_rng(3))
    batch, _ = Batcher(tokenizer, load_languages()[ENGLISH]).build(PACKED, questions)
    with torch.no_grad():
        return questions, batch, forward(model, batch)


def test_each_number_up_to_1000_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert all(len(tokenizer(str(n))["input_ids"]) == 1 for n in range(1001))


def test_a_label_is_tied_to_the_words_that_name_it() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED_MODEL)
    languages = load_languages()
    maker = QuestionMaker(languages, references=("label",))
    batcher, rng = Batcher(tokenizer, languages[ENGLISH]), np.random.default_rng(0)
    for code in languages:
        drawn = [maker.draw(SEEN, rng, absent=False, task="next_to", language=code) for _ in range(4)]
        asked = [q for q in drawn if q is not None]
        batch, targets = batcher.build([some_sample(0), some_sample(1)], [asked[:2], asked[2:]])
        ids = batch.ids[batch.is_token].tolist()
        labels = [label for q in asked for o in json.loads(q.reply)["objects"] for label in [o["label"]] * 2]
        names = [ways for q in asked for ways in q.names for _ in range(2)]
        for k, (at, words) in enumerate(zip(targets.name_at.tolist(), targets.name_words, strict=True)):
            assert tokenizer.decode([ids[at + 1]]).strip() == labels[k].split()[k % 2]
            text = asked[k // 4].instruction
            offsets = tokenizer.backend_tokenizer.encode(text).offsets
            spans = [offsets[i] for i in words.nonzero().flatten().tolist()]
            read = "".join(text[low:high] for low, high in sorted(set(spans)))
            assert _bare(read) in {_bare(name) for name in names[k]}, (code, text, read)


def _bare(text: str) -> str:
    return "".join(text.lower().split())


def test_what_is_read_is_an_attention_to_earlier_words_of_the_question(
    model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, maker: QuestionMaker
) -> None:
    _, batch, features = packed_forward(model, tokenizer, maker)
    places = torch.arange(batch.ids.shape[2]).expand(batch.is_token.shape)[batch.is_token]
    later = torch.arange(batch.ids.shape[2])[None] > places[:, None]
    assert (features.reading[later] == 0).all()
    assert (features.reading[~later] > 0).all()
    assert (features.reading.sum(dim=1) + features.route.sum(dim=1) < 1).all()


def test_a_name_that_stands_there_twice_is_tied_to_nothing() -> None:
    question = Question(
        "put the red one on the red one",
        format_reply([("red", [(1, 2, 3, 4)]), ("red", [(5, 6, 7, 8)])], [{"do": "pick", "object": 0}]),
        ((0,), (1,)),
        (("the red one",), ("the red one",)),
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED_MODEL)
    _, targets = Batcher(tokenizer, load_languages()[ENGLISH]).build([some_sample(0)], [[question]])
    assert len(targets.name_at) == 0


def test_the_place_is_named_first_as_often_as_wanted() -> None:
    languages = load_languages()
    maker = QuestionMaker(languages, mix=Mix(place_first_ratio=1.0), references=("label",))
    asked = [maker.draw(SEEN, np.random.default_rng(k), absent=False, task="left_of", language="zh") for k in range(20)]
    assert all("左边放" in q.instruction for q in asked if q is not None)
    halves = QuestionMaker(languages, mix=Mix(place_first_ratio=0.5), references=("label",))
    for code, task, words, share in (("zh", "left_of", "左边放", 0.5), ("en", "refuse", "hit", 0.2)):
        drawn = [
            halves.draw(SEEN, np.random.default_rng(k), absent=False, task=task, language=code) for k in range(300)
        ]
        assert abs(np.mean([words in q.instruction for q in drawn if q is not None]) - share) < 0.1
    often = QuestionMaker(languages, mix=Mix(foreign_ratio=1.0, often=("zh",)))
    drawn = [often.draw(SEEN, np.random.default_rng(k), absent=False, task="refuse") for k in range(300)]
    chinese = sum(detect_language(q.instruction) == "zh" for q in drawn if q is not None)
    assert 60 <= chinese <= 120  # three of ten


@pytest.mark.parametrize("code", load_languages())
def test_phrasings_kept_out_of_training_are_not_made_by_a_please(code: str) -> None:
    speech = load_languages()[code]
    maker = QuestionMaker({ENGLISH: load_languages()[ENGLISH], code: speech}, mix=Mix(polite_ratio=1.0))
    rng = np.random.default_rng(0)
    for name, phrasing in speech.tasks.items():
        assert not {maker._template(speech, name, rng) for _ in range(300)} & set(phrasing.held_out)


def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ('{"objects":[{"label":"红色方块","boxes":[[1,2,3,4]]}]}', "Ünïcödé\tand  spaces \n", "🤖"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_packed_forward_pass_equals_the_library(
    model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, maker: QuestionMaker
) -> None:
    questions, batch, features = packed_forward(model, tokenizer, maker)
    ours = features.last @ model.lm_head.weight.T.detach()
    image, at = 1, 2
    question = questions[image][at]
    theirs = library_logits(model, tokenizer, PACKED[image].image, question.instruction, question.reply)
    before = int(batch.is_token[:image].sum() + batch.is_token[image, :at].sum())
    length = int(batch.is_token[image, at].sum())
    torch.testing.assert_close(ours[before : before + length], theirs[-length:], atol=1e-5, rtol=1e-4)


def library_logits(
    model: Qwen2VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    image: np.ndarray,  # type: ignore[type-arg]
    instruction: str,
    reply: str,
) -> torch.Tensor:
    """Logits (l, vocabulary) of transformers' own forward pass over prompt and reply."""
    processor = Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    pictures = processor(images=[Image.fromarray(image)], return_tensors="pt")
    messages = build_messages(instruction, (), PromptStyle.COMPACT)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    count = int(pictures["image_grid_thw"].prod()) // 4
    text = text.replace("<|image_pad|>", "<|image_pad|>" * count) + reply + "<|im_end|>"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=pictures["pixel_values"],
            image_grid_thw=pictures["image_grid_thw"],
        )
    logits: torch.Tensor = out.logits[0]
    return logits


def test_a_question_cannot_see_another_one(
    model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, maker: QuestionMaker
) -> None:
    batcher = Batcher(tokenizer, load_languages()[ENGLISH])
    sample = some_sample(4)
    (group,) = draw_questions([sample], maker, np.random.default_rng(5))
    with torch.no_grad():
        together, _ = batcher.build([sample], [group[:3]])
        alone, _ = batcher.build([sample], [group[2:3]])
        last = int(alone.is_token.sum())
        torch.testing.assert_close(
            forward(model, together).last[-last:], forward(model, alone).last, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("size", [(640, 480), (640, 360), (480, 480), (320, 240), (1920, 1080), (224, 224)])
def test_the_token_grid_is_the_image_processors(size: tuple[int, int]) -> None:
    processor = Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    _, rows, columns = processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert token_grid(*size) == (columns // 2, rows // 2)


def test_a_mirrored_sample_mirrors_its_boxes_and_cells() -> None:
    sample = some_sample(6)
    flipped = next(s for s in (augment(sample, np.random.default_rng(k)) for k in range(50)) if s.seen != sample.seen)
    assert flipped.seen[0].box == (667, 333, 750, 444)
    assert flipped.seen[0].cells == (44, 56)


def test_a_saved_checkpoint_is_plain_qwen2vl(
    tmp_path: Path, model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    save_checkpoint(model, tokenizer, tmp_path)
    loaded = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert not any("heads" in name for name, _ in loaded.named_parameters())
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 30e6
    weight = loaded.model.language_model.embed_tokens.weight
    torch.testing.assert_close(weight, model.lm_head.weight, atol=1e-3, rtol=1e-2)


def test_a_box_is_predicted_from_the_tokens_before_its_numbers(tokenizer: PreTrainedTokenizerFast) -> None:
    several = Question(
        "pick up the blocks",
        format_reply([("block", [SEEN[0].box, SEEN[1].box], Where("largest"))], [{"do": "pick", "object": 0}]),
        ((0, 1),),
    )
    gone = Question("pick up the ball", format_reply([("ball", [])], [{"do": "ask", "text": "?"}]), ((),))
    batch, targets = Batcher(tokenizer, load_languages()[ENGLISH]).build([some_sample(0)], [[gone, several]])
    flat = batch.ids[batch.is_token]
    numbers = [tokenizer.decode([token]) for token in flat[targets.box_at + 1].flatten().tolist()]
    assert numbers == [str(n) for seen in SEEN for n in seen.box]
    assert targets.box_cells.argmax(dim=1).tolist() == [SEEN[0].cells[0], SEEN[1].cells[0]]
    assert targets.point_cells[:, -1].tolist() == [1.0, 0.0]
    assert set(targets.reply_of.tolist()) == {0, 1}


def test_whitened_patches_change_the_way_of_learning_and_not_what_is_seen(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(1)
    fresh = build_model(tokenizer)
    patches, grid = Batcher(tokenizer, load_languages()[ENGLISH]).patches([some_sample(s) for s in range(8)])
    with torch.no_grad():
        before = encode_images(fresh, patches, grid)
        whiten(fresh, patches.flatten(0, 1))
        torch.testing.assert_close(encode_images(fresh, patches, grid), before, atol=1e-4, rtol=1e-3)
        assert plain_state(fresh).keys() == build_model(tokenizer).state_dict().keys()
    coefficients = fresh.model.visual.patch_embed.proj.parametrizations.weight.original
    encode_images(fresh, patches, grid).sum().backward()
    assert coefficients.grad is not None and bool(coefficients.grad.isfinite().all())
