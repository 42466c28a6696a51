"""A folder of shards → batches for a fine-tuning: the planner's own prompts, replies in the model's own boxes.

A batch holds at most so many image tokens. Which samples it has follows from the seed and its number alone, so that a
run that goes on draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.config import Catalogue, load_yaml
from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import Instruction, PlannerRequest
from qwen2vl_robot.order import read_order
from qwen2vl_robot.planner.boxes import write_box
from qwen2vl_robot.planner.contract import BoxConvention, messages_for
from qwen2vl_robot.planner.loading import ModelContract
from qwen2vl_robot.planner.picture import check_picture, resized_size_px
from qwen2vl_robot.planner.prompts import Prompts
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.training.questions import MAX_QUESTION_CHARS, Mix, Question, QuestionMaker
from qwen2vl_robot.training.shards import MANIFEST, Packed, read_manifest, read_shards

IGNORED = -100  # the label of a token that counts for nothing
MIX = Mix(foreign_ratio=0.5, failed_ratio=0.2, polite_ratio=0.2)
_ABSENT_RATIO = 0.2
_PLAINLY_RATIO = 0.5  # of the questions that get the plain words which a task adds; `plan` and `eval` send none
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Example:
    """What a planner is asked, and the right reply with boxes in 0..1000."""

    request: PlannerRequest
    reply: str


class Data:
    """The samples of a folder.

    Attributes:
        digest: of what its manifest says that it holds.

    Args:
        bound: image tokens of a batch at most.
        images: the model's image processor.

    Raises:
        BadInputError: a shard cannot be used, or a picture costs more image tokens than a batch may have.
    """

    def __init__(self, folder: Path, bound: int, seed: int, images: Any) -> None:
        sums = [entry["sha256"] for entry in read_manifest(folder)["shards"]]
        self.digest = hashlib.sha256("".join(sums).encode()).hexdigest()
        self._samples = list(read_shards(folder, keeps_images=False))
        if not self._samples:
            raise BadInputError(f"{folder / MANIFEST}: no samples in it")
        self._tokens = [image_tokens(packed.size_px, images) for packed in self._samples]
        if max(self._tokens) > bound:
            raise BadInputError(
                f"{folder}: a picture costs {max(self._tokens)} image tokens, more than --image-tokens {bound}; "
                "give more, or settings with max_pixels as --model"
            )
        self._bound, self._seed = bound, seed
        self._begins = [0]  # the number of each epoch's first batch
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        held_out = load_yaml(resolve("objects/catalogue_wide.yaml"), Catalogue).held_out
        self._maker = QuestionMaker(load_languages(), held_out, MIX)

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, number: int) -> list[Example]:
        """Draw a batch by its number."""
        epoch = 0
        while True:
            batches = self._batches(epoch)
            if number < self._begins[epoch] + len(batches):
                chosen = batches[number - self._begins[epoch]]
                return [self._example(index, epoch) for index in chosen]
            epoch += 1
            if len(self._begins) == epoch:
                self._begins.append(self._begins[-1] + len(batches))

    def _batches(self, epoch: int) -> list[list[int]]:
        if self._epoch[0] != epoch:
            self._epoch = (epoch, plan_epoch(self._tokens, self._bound, self._seed, epoch))
        return self._epoch[1]

    def _example(self, index: int, epoch: int) -> Example:
        return example_of(self._samples[index], self._maker, np.random.default_rng([self._seed, epoch, index]))


def image_tokens(size_px: tuple[int, int], images: Any) -> int:
    """Count the image tokens of a picture (width, height) as a model's image processor will make them."""
    factor = int(images.patch_size * images.merge_size)
    size = dict(images.size)
    width, height = resized_size_px(size_px, factor, size["shortest_edge"], size["longest_edge"])
    return width * height // factor**2


def plan_epoch(tokens: Sequence[int], bound: int, seed: int, epoch: int) -> list[list[int]]:
    """Put every sample into one batch, in an order drawn by seed and epoch, with at most `bound` tokens in each.

    >>> plan_epoch([2, 2, 2, 3], 4, seed=0, epoch=0)
    [[2, 0], [1], [3]]
    """
    batches: list[list[int]] = []
    left = 0
    for index in map(int, np.random.default_rng([seed, epoch]).permutation(len(tokens))):
        if not batches or tokens[index] > left:
            batches.append([])
            left = bound
        batches[-1].append(index)
        left -= tokens[index]
    return batches


def example_of(packed: Packed, maker: QuestionMaker, rng: np.random.Generator) -> Example:
    """What to learn from a sample: the plan of a bag, or a question drawn about what an image shows.

    Raises:
        BadInputError: the image, the words or the plan cannot be used.
    """
    rgb, asked = packed.image(), packed.demonstration
    if asked is not None:
        instruction = replace(Instruction(asked.text), plainly=asked.plainly, is_begun=asked.is_begun)
        try:
            parse_reply(write_reply(asked.reply, BoxConvention.THOUSANDTHS, packed.size_px))
        except (ValueError, KeyError, TypeError, PlannerError) as error:
            raise BadInputError(f"the plan for {shown(asked.text, 60)!r} cannot be read: {shown(error)}") from error
        return Example(PlannerRequest(rgb, instruction, asked.failures), asked.reply)
    question = _question(packed, maker, rng)
    text, *failures = question.instruction.split("\n")
    instruction = Instruction(text)
    if rng.uniform() < _PLAINLY_RATIO:
        instruction = read_order(instruction).instruction
    return Example(PlannerRequest(rgb, instruction, tuple(failures)), question.reply)


def _question(packed: Packed, maker: QuestionMaker, rng: np.random.Generator) -> Question:
    for _ in range(_ATTEMPTS):
        question = maker.draw(packed.seen, rng, absent=bool(rng.uniform() < _ABSENT_RATIO))
        if question is not None and len(question.instruction + question.reply) <= MAX_QUESTION_CHARS:
            return question
    question = maker.draw(packed.seen, rng, absent=False, task="home")
    assert question is not None  # "go home" needs no object
    return question


def write_reply(reply: str, convention: BoxConvention, image_size_px: tuple[int, int]) -> str:
    """Write a reply's boxes of 0..1000 in a model's own unit; (width, height) is that of the resized picture.

    >>> write_reply('{"objects":[{"label":"ball","boxes":[[0,500,1000,1000]]}],"actions":[]}',
    ...             BoxConvention.RESIZED_PIXELS, (644, 476))
    '{"objects":[{"label":"ball","boxes":[[0,238,644,476]]}],"actions":[]}'
    """
    said = json.loads(reply)
    for thing in said["objects"]:
        thing["boxes"] = [list(write_box(tuple(box), convention, image_size_px)) for box in thing["boxes"]]
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False)


class Collator:
    """Examples → the tensors of one forward pass, padded on the left so that replies end together."""

    def __init__(self, tokenizer: Any, images: Any, contract: ModelContract, config: Any, device: torch.device) -> None:
        self._tokenizer, self._contract, self._config, self._device = tokenizer, contract, config, device
        self._prompts = Prompts(tokenizer, images, device, torch.float32)

    def collate(self, examples: Sequence[Example]) -> tuple[dict[str, Tensor], Tensor]:
        """Make a model's inputs and the labels (b, kept): those of the last `kept` tokens; all before is the prompt.

        Raises:
            PlannerError: a picture cannot be used.
        """
        rows, replies, pictures = [], [], []
        for example in examples:
            check_picture(example.request.rgb)
            messages = messages_for(example.request, self._contract.prompt_style)
            prompt, size_px = self._prompts.make((example.request.rgb,), messages)
            text = write_reply(example.reply, self._contract.box_convention, size_px)
            reply = [*self._tokenizer(text, add_special_tokens=False)["input_ids"], self._tokenizer.eos_token_id]
            rows.append([*prompt.ids, *reply])
            replies.append(reply)
            pictures.append(prompt.pictures)
        ids, is_token = _left_padded(rows, self._tokenizer.pad_token_id or 0)
        labels, _ = _left_padded(replies, IGNORED)
        inputs = {
            "input_ids": ids,
            "attention_mask": is_token.long(),
            "mm_token_type_ids": (ids == self._config.image_token_id).int(),
            **{name: torch.cat([p[name] for p in pictures]) for name in ("pixel_values", "image_grid_thw")},
        }
        return {name: value.to(self._device) for name, value in inputs.items()}, labels.to(self._device)


def _left_padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths (b, longest), and which of it is no padding."""
    longest = max(map(len, rows))
    padded = torch.tensor([[filler] * (longest - len(row)) + list(row) for row in rows])
    is_own = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    return padded, is_own
