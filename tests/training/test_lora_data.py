"""What a fine-tuning learns is what the planner asks, in the model's own boxes; batches follow from the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.boxes import MIN_BOX_SIDE, read_box, write_box
from qwen2vl_robot.planner.contract import BoxConvention, messages_for
from qwen2vl_robot.planner.loading import OpenedModel, open_model
from qwen2vl_robot.planner.local import LocalPlanner
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.planner.sources import ModelSettings
from qwen2vl_robot.training.lora_data import IGNORED, Collator, Data, image_tokens, plan_epoch
from qwen2vl_robot.training.samples import Samples
from qwen2vl_robot.training.shards import Demonstration, shard_name, write_demonstrations, write_manifest
from tests.planner.test_local import save_tiny as save_relative
from tests.tiny_models import save_samples, save_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def opened(base: str) -> OpenedModel:
    return open_model(ModelSettings(model=base))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_samples(tmp_path_factory.mktemp("data") / "both", plans=3)


def collator(opened: OpenedModel) -> Collator:
    cpu = torch.device("cpu")
    return Collator(opened.tokenizer, opened.images, opened.contract, opened.model.config, cpu)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 100), st.integers(0, 5))
def test_every_sample_is_in_one_batch_of_an_epoch_and_no_batch_is_over_its_bound(
    tokens: list[int], bound: int, epoch: int
) -> None:
    batches = plan_epoch(tokens, bound, seed=3, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(tokens)))
    assert all(sum(tokens[index] for index in batch) <= bound for batch in batches)
    assert batches == plan_epoch(tokens, bound, seed=3, epoch=epoch)


def test_a_batch_follows_from_its_number_alone_and_an_epoch_sees_bags_and_pictures(
    opened: OpenedModel, folder: Path
) -> None:
    one, other = (Data(folder, 12, 7, opened.images) for _ in range(2))
    assert len(one) == 9
    drawn = [one.batch(number) for number in range(9)]
    again = [other.batch(number) for number in reversed(range(9))][::-1]
    said = [[(e.request.instruction, e.request.failures, e.reply) for e in batch] for batch in drawn]
    assert said == [[(e.request.instruction, e.request.failures, e.reply) for e in batch] for batch in again]
    replies = [reply for batch in said for _, _, reply in batch]
    assert any('"boxes":[[100,200,300,400]]' in reply for reply in replies)
    assert all(parse_reply(reply).actions for reply in replies)
    assert any(instruction.plainly for batch in said for instruction, _, _ in batch)
    assert any(not instruction.plainly for batch in said for instruction, _, _ in batch)


def test_the_prompt_is_the_planners_own_and_only_the_reply_counts(base: str, folder: Path, opened: OpenedModel) -> None:
    planner = LocalPlanner(base)
    for example in Data(folder, 12, 0, opened.images).batch(0):
        inputs, labels = collator(opened).collate([example])
        messages = messages_for(example.request, planner._contract.prompt_style)
        prompt, _ = planner._prompts.make((example.request.rgb,), messages)
        ids = inputs["input_ids"][0].tolist()
        reply = [*opened.tokenizer(example.reply, add_special_tokens=False)["input_ids"], opened.tokenizer.eos_token_id]
        assert ids == [*prompt.ids, *reply]
        assert labels[0].tolist() == reply
        torch.testing.assert_close(inputs["pixel_values"], prompt.pictures["pixel_values"])


def test_padding_changes_no_logit_of_a_reply(opened: OpenedModel, folder: Path) -> None:
    data = Data(folder, 60, 0, opened.images)
    examples = [example for number in range(2) for example in data.batch(number)][:5]
    assert len({example.request.rgb.shape for example in examples}) > 1
    model = opened.model.eval()
    with torch.no_grad():
        inputs, labels = collator(opened).collate(examples)
        together = model(**inputs).logits
        for row, example in enumerate(examples):
            single, own = collator(opened).collate([example])
            kept = own.shape[1] + 1
            torch.testing.assert_close(together[row, -kept:], model(**single).logits[0, -kept:], atol=1e-4, rtol=1e-4)
            assert (labels[row, : -own.shape[1]] == IGNORED).all()


@given(
    st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(10, 100), st.integers(10, 100)),
    st.sampled_from(BoxConvention),
    st.tuples(st.integers(8, 50), st.integers(8, 50)),
)
def test_a_box_that_is_written_is_read_as_it_was(
    box: tuple[int, int, int, int], convention: BoxConvention, cells: tuple[int, int]
) -> None:
    x0, y0, width, height = box
    size_px = (cells[0] * 28, cells[1] * 28)
    wanted = (x0, y0, x0 + width, y0 + height)
    written = write_box(wanted, convention, size_px)
    read, _ = read_box(list(written), "block", convention, size_px)
    half_px = 0.0 if convention is BoxConvention.THOUSANDTHS else 500.0 / min(size_px)
    for value, right in zip((read.x0, read.y0, read.x1, read.y1), wanted, strict=True):
        assert abs(value - right) <= half_px + 1e-6
    assert read.x1 - read.x0 >= MIN_BOX_SIDE


def test_a_relative_of_another_convention_gets_its_boxes_in_pixels(tmp_path: Path, folder: Path) -> None:
    opened = open_model(ModelSettings(model=save_relative(tmp_path / "m", "qwen2_5_vl")))
    example = next(e for e in Data(folder, 60, 0, opened.images).batch(0) if "100,200,300,400" in e.reply)
    inputs, labels = collator(opened).collate([example])
    size_px = tuple(14 * int(side) for side in inputs["image_grid_thw"][0, [2, 1]])
    plan = parse_reply(
        opened.tokenizer.decode(labels[0][:-1]), convention=BoxConvention.RESIZED_PIXELS, image_size_px=size_px
    )
    box = next(thing for thing in plan.objects if thing.label == "red block").boxes[0]
    assert abs(box.x0 - 100) <= 500 / size_px[0] and abs(box.y1 - 400) <= 500 / size_px[1]


@pytest.mark.parametrize("size_px", [(640, 480), (60, 60), (1280, 720), (56, 112)])
def test_image_tokens_are_counted_before_a_picture_is_opened(opened: OpenedModel, size_px: tuple[int, int]) -> None:
    rgb = torch.zeros((size_px[1], size_px[0], 3), dtype=torch.uint8).numpy()
    grid = opened.images(images=[rgb], return_tensors="pt")["image_grid_thw"][0]
    assert image_tokens(size_px, opened.images) == int(grid.prod()) // 4


def test_a_picture_that_is_larger_than_a_batch_is_refused(opened: OpenedModel, folder: Path) -> None:
    with pytest.raises(BadInputError, match="costs 8 image tokens, more than --image-tokens 7"):
        Data(folder, 7, 0, opened.images)


def test_the_small_checkpoints_training_refuses_samples_of_bags(folder: Path) -> None:
    with pytest.raises(BadInputError, match="samples of bags; the small checkpoint learns from datagen's"):
        Samples(folder)


@pytest.mark.parametrize("reply", ["", "[]", "{}", '{"objects":[{"boxes":[[1,2]]}],"actions":[]}', "pick it up"])
def test_a_plan_that_cannot_be_read_is_refused(opened: OpenedModel, tmp_path: Path, reply: str) -> None:
    rgb = np.zeros((56, 56, 3), np.uint8)
    entry = write_demonstrations(tmp_path / shard_name(0), [(0, rgb, Demonstration("pick it", (), False, (), reply))])
    write_manifest(tmp_path, {}, [entry])
    with pytest.raises(BadInputError, match="the plan for 'pick it' cannot be read"):
        Data(tmp_path, 24, 0, opened.images).batch(0)
