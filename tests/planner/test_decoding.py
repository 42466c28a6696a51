"""Fast decoding yields the same tokens as transformers' own loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Instruction, PlannerRequest
from qwen2vl_robot.planner import engines
from qwen2vl_robot.planner.contract import PromptStyle, build_messages
from qwen2vl_robot.planner.decoding import (
    Decoded,
    Decoder,
    Prompt,
    generate_plainly,
)
from qwen2vl_robot.planner.engines import Engine, FusedEngine, GraphedEngine, LibraryEngine, can_be_fused
from qwen2vl_robot.planner.grammar import reply_grammar
from qwen2vl_robot.planner.local import LocalPlanner
from qwen2vl_robot.planner.process import SHIPPED_MODEL
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.training.dataset import sample_of_seed
from qwen2vl_robot.training.shards import SeenObject

GRAMMAR = reply_grammar(1000)
Picture = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tests share the machine; threads that wait for each other would make them slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def planner() -> LocalPlanner:
    return LocalPlanner(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def frames() -> list[tuple[Picture, list[SeenObject]]]:
    ranges, catalogue = load_scene("scenes/tabletop.yaml")
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(load_robot(ranges.robot))
        return [sample_of_seed(world, ranges, catalogue, seed) for seed in range(77_000, 77_005)]


def asked(picture: Picture, instruction: str, *failures: str) -> PlannerRequest:
    return PlannerRequest(picture, Instruction(instruction), failures)


def prompt_of(planner: LocalPlanner, picture: Picture, instruction: str, *failures: str) -> Prompt:
    return planner._prompts.make((picture,), build_messages(instruction, failures, PromptStyle.COMPACT))[0]


def instructions(seen: list[SeenObject]) -> list[str]:
    there = [s.label for s in seen]
    gone = next(f"{c} {k}" for c in ("red", "blue") for k in ("bowl", "ball", "block") if f"{c} {k}" not in there)
    return [f"put the {there[0]} on the {there[-1]}", f"push the {there[0]} away", f"pick the {gone}", "wait 7 seconds"]


def test_the_tokens_are_those_of_plain_constrained_generation(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    assert planner._model.dtype is torch.float32
    for picture, seen in frames:
        for instruction in instructions(seen):
            prompt = prompt_of(planner, picture, instruction)
            fast = planner._decoder.decode(prompt, GRAMMAR)
            assert fast.ids == generate_plainly(planner._model, planner._decoder.tokenizer, prompt, GRAMMAR)


def test_most_of_a_plans_tokens_are_not_decoded(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    picture, seen = frames[0]
    answer = planner.reply(asked(picture, f"pick the {seen[0].label}"))
    assert answer.forced_tokens > answer.decoded_tokens


def test_whether_an_object_is_there_is_decided_as_without_a_grammar(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    model, tokenizer = planner._model, planner._tokenizer
    picture, seen = frames[1]
    for instruction in instructions(seen)[::2]:
        prompt = prompt_of(planner, picture, instruction)
        ids = torch.tensor([prompt.ids])
        kinds = (ids == model.config.image_token_id).int()
        with torch.inference_mode():
            free = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=kinds,
                do_sample=False,
                max_new_tokens=100,
                **prompt.pictures,
            )
        text = tokenizer.decode(free[0, ids.shape[1] :], skip_special_tokens=True)
        assert planner.reply(asked(picture, instruction)).text == text


def test_the_same_frame_asked_again_is_not_computed_again(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    picture, seen = frames[2]
    task = f"pick the {seen[0].label}"
    first = planner.reply(asked(picture, task))
    again = planner.reply(asked(picture, task, f"failed: pick {seen[0].label}: collision"))
    image_tokens = first.image_size_px[0] * first.image_size_px[1] // 28**2
    assert again.reused_tokens > image_tokens
    fresh = Decoder(planner._model, planner._tokenizer)
    prompt = prompt_of(planner, picture, task, f"failed: pick {seen[0].label}: collision")
    assert again.text == planner._tokenizer.decode(fresh.decode(prompt, GRAMMAR).ids)


def test_another_frame_shares_the_systems_text_only(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    task = "put the red block on the blue plate"
    planner.reply(asked(frames[3][0], task))
    prompt = prompt_of(planner, frames[4][0], task)
    other = planner._decoder.decode(prompt, GRAMMAR)
    assert other.reused_tokens == prompt.ids.index(planner._model.config.image_token_id)
    assert other.ids == Decoder(planner._model, planner._tokenizer).decode(prompt, GRAMMAR).ids


def test_fused_layers_give_the_librarys_logits(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    assert can_be_fused(planner._model)
    prompt = prompt_of(planner, frames[0][0], "pick the red block")
    positions, _ = planner._decoder._positions(prompt)
    logits = []
    for engine in (FusedEngine(planner._model), LibraryEngine(planner._model)):
        with torch.inference_mode():
            engine.append(prompt.ids[:-5], positions[..., :-5], prompt.pictures)
            engine.append(prompt.ids[-5:-1], positions[..., -5:-1], None)
            engine.append([7], positions[..., -1:], None)
            engine.crop(len(prompt.ids) - 1)
            logits.append(engine.append(prompt.ids[-1:], positions[..., -1:], None))
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-4)


def test_numbers_that_are_none_are_refused(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    broken = LocalPlanner(SHIPPED_MODEL)
    with torch.no_grad():
        broken._model.model.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(PlannerError, match="no usable token"):
        broken.plan(asked(frames[0][0], "pick the red block"))


def test_after_a_refused_reply_the_next_one_is_right(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    prompt = prompt_of(planner, frames[0][0], "pick the red block")
    right = planner._decoder.decode(prompt, GRAMMAR)
    wrong = replace(prompt, pictures={**prompt.pictures, "pixel_values": prompt.pictures["pixel_values"][:-4]})
    with pytest.raises((RuntimeError, ValueError)):
        planner._decoder.decode(replace(wrong, picture_key=b"another"), GRAMMAR)
    again: Decoded = planner._decoder.decode(prompt, GRAMMAR)
    assert (again.ids, again.reused_tokens) == (right.ids, 0)
    assert parse_reply(planner._tokenizer.decode(again.ids))


def test_what_was_guessed_right_takes_no_pass_of_its_own(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    picture, seen = frames[0]
    prompt = prompt_of(planner, picture, f"put the {seen[0].label} on the {seen[-1].label}")
    answer = planner._decoder.decode(prompt, GRAMMAR)
    assert answer.passes <= 0.75 * answer.decoded_tokens
    again = planner._decoder.decode(prompt, GRAMMAR)
    assert (again.ids, again.decoded_tokens) == (answer.ids, answer.decoded_tokens)


def test_logits_of_several_tokens_are_those_of_one_after_the_other(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    prompt = prompt_of(planner, frames[0][0], "pick the red block")
    positions, _ = planner._decoder._positions(prompt)
    for engine in (FusedEngine(planner._model), LibraryEngine(planner._model)):
        with torch.inference_mode():
            engine.append(prompt.ids[:-3], positions[..., :-3], prompt.pictures)
            together = engine.append(prompt.ids[-3:], positions[..., -3:], None, 3)
            engine.crop(len(prompt.ids) - 3)
            apart = [engine.append([prompt.ids[k]], positions[..., [k]], None)[0] for k in (-3, -2, -1)]
        np.testing.assert_allclose(together, np.stack(apart), atol=2e-4)


def logits_of(engine: Engine, lengths: list[int], crops: dict[int, int]) -> list[npt.NDArray[np.float32]]:
    """Logits of random text appended in pieces; `crops` forgets that many tokens behind a piece."""
    rng, length, out = np.random.default_rng(0), 0, []
    for index, n in enumerate(lengths):
        at = torch.arange(length, length + n).expand(3, 1, -1)
        out.append(engine.append(rng.integers(100, 900, n).tolist(), at, None, min(n, 3)))
        length += n - crops.get(index, 0)
        engine.crop(length)
    return out


@torch.inference_mode()
@pytest.mark.parametrize("room", [16, 2048])
def test_steps_of_fixed_shape_give_the_same_logits(
    planner: LocalPlanner, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(engines, "_STATIC_TOKENS", room)  # a small cache has to grow on the way
    lengths, crops = [70, 1, 3, 8, 33, 1, 17, 300, 2], {3: 5, 6: 9}
    expected = logits_of(FusedEngine(planner._model), lengths, crops)
    found = logits_of(GraphedEngine(planner._model), lengths, crops)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_the_decoder_gives_the_same_plan_with_steps_of_fixed_shape(
    planner: LocalPlanner, frames: list[tuple[Picture, list[SeenObject]]]
) -> None:
    decoder = Decoder(planner._model, planner._tokenizer)
    decoder._engine = GraphedEngine(planner._model)
    for picture, seen in frames[:2]:
        for instruction in instructions(seen)[:2]:
            prompt = prompt_of(planner, picture, instruction)
            assert decoder.decode(prompt, GRAMMAR).ids == planner._decoder.decode(prompt, GRAMMAR).ids


@torch.inference_mode()
def test_numbers_that_are_none_do_not_outlive_their_prompt(planner: LocalPlanner) -> None:
    engine = GraphedEngine(planner._model)
    engine._cache[:, :, :, 100:] = torch.nan
    engine.crop(0)
    for found, expected in zip(
        logits_of(engine, [70, 3], {}), logits_of(FusedEngine(planner._model), [70, 3], {}), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-4)
