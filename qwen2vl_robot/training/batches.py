"""Samples and questions → packed token batches with the targets of every loss."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from qwen2vl_robot.languages import Language
from qwen2vl_robot.planner.contract import COMPACT_SYSTEM_PROMPT
from qwen2vl_robot.training.model import CLIP_MEAN, CLIP_STD, Batch, patchify
from qwen2vl_robot.training.questions import Question
from qwen2vl_robot.training.samples import Sample

_CUT_RATIO = 0.5  # share of the replies that are cut after their last box: the rest is learned quickly


@dataclass(slots=True)
class CellTargets:
    """The object in each image token.

    Attributes:
        colour, kind: (b, cells) class indices, the last one "nothing".
        box: (b, cells, 4) box of the object in the cell, NaN where none.
    """

    colour: Tensor
    kind: Tensor
    box: Tensor


@dataclass(slots=True)
class _QuestionTokens:
    """One question's tokens and the places of interest among them.

    Attributes:
        spans: character range of each of the prompt's tokens.
        numbers: for each of the reply's tokens the box number, -1 elsewhere.
        boxes_at: indices of the reply's `boxes` keys.
        labels_at: for each of the reply's labels, the indices of its words.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    reply_start: int
    numbers: list[int]
    boxes_at: list[int]
    labels_at: list[range]


@dataclass(slots=True)
class Targets:
    """The targets of the losses.

    Attributes:
        reply_at, reply_ids: (k,) flat indices of predicting tokens, and the tokens that they must predict.
        reply_of: (k,) index of the question within the batch.
        number: (k,) the number 0..1000 that a box token stands for, -1 elsewhere.
        point_at: (q,) flat indices of the token before an object's boxes.
        point_image: (q,) index of the image.
        point_cells: (q, cells + 1) 1 for the image tokens of any of its boxes, or for "absent", the last entry.
        box_at: (n, 4) flat indices of the tokens that predict the numbers of each box.
        box: (n, 4) those numbers.
        box_cells: (n, cells) 1 for the image tokens of that one object.
        name_at: (m,) flat indices of the tokens that predict the words of a label.
        name_words: (m, l) 1 for the tokens of the question that name the same object.
    """

    reply_at: Tensor
    reply_ids: Tensor
    reply_of: Tensor
    number: Tensor
    point_at: Tensor
    point_image: Tensor
    point_cells: Tensor
    box_at: Tensor
    box: Tensor
    box_cells: Tensor
    name_at: Tensor
    name_words: Tensor
    cells: CellTargets


@dataclass(slots=True)
class _Places:
    """Places of interest among the tokens of a batch, as flat indices through all its questions.

    Attributes:
        reply_at, reply_ids, reply_of, number: as in `Targets`.
        points: for each object of a reply, the index of the token before its boxes, its image, its boxes' indices.
        boxes: for each box, the indices of the tokens that predict its numbers, its image and its index.
        names: for each word of a label, the index of the token that predicts it, and the words that name it.
        tokens, questions: their number so far.
    """

    reply_at: list[int] = field(default_factory=list)
    reply_ids: list[int] = field(default_factory=list)
    reply_of: list[int] = field(default_factory=list)
    number: list[int] = field(default_factory=list)
    points: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    boxes: list[tuple[list[int], int, int]] = field(default_factory=list)
    names: list[tuple[int, list[int]]] = field(default_factory=list)
    tokens: int = 0
    questions: int = 0

    def add(self, image: int, question: Question, row: _QuestionTokens) -> None:
        """Append the tokens of one question about an image."""
        start, n = self.tokens, len(row.ids)
        self.reply_at += range(start + row.reply_start - 1, start + n - 1)
        self.reply_ids += row.ids[row.reply_start :]
        self.reply_of += [self.questions] * len(row.numbers)
        self.number += row.numbers
        self.points += [(start + at, image, which) for at, which in zip(row.boxes_at, question.objects, strict=True)]
        number_at = [start + row.reply_start + k for k, value in enumerate(row.numbers) if value >= 0]
        shown = [index for which in question.objects for index in which]
        for k, index in enumerate(shown):
            self.boxes.append(([at - 1 for at in number_at[4 * k : 4 * k + 4]], image, index))
        for ways, at_words in zip(question.names, row.labels_at, strict=False):
            words = _words_of(question.instruction, ways, row.spans)
            self.names += [(start + at - 1, words) for at in at_words if words]
        self.tokens += n
        self.questions += 1

    def targets(self, samples: list[Sample], cells: CellTargets, length: int) -> Targets:
        """Build the targets of a batch of these samples, whose longest question has `length` tokens."""
        count = cells.colour.shape[1]
        point_cells, box_cells = torch.zeros(len(self.points), count + 1), torch.zeros(len(self.boxes), count)
        for k, (_, image, which) in enumerate(self.points):
            at = [cell for index in which for cell in samples[image].seen[index].cells]
            point_cells[k, at or [count]] = 1.0
        for k, (_, image, index) in enumerate(self.boxes):
            box_cells[k, list(samples[image].seen[index].cells)] = 1.0
        name_words = torch.zeros(len(self.names), length)
        for k, (_, words) in enumerate(self.names):
            name_words[k, words] = 1.0
        box = [samples[image].seen[index].box for _, image, index in self.boxes]
        return Targets(
            reply_at=torch.tensor(self.reply_at),
            reply_ids=torch.tensor(self.reply_ids),
            reply_of=torch.tensor(self.reply_of),
            number=torch.tensor(self.number),
            point_at=torch.tensor([at for at, _, _ in self.points], dtype=torch.long),
            point_image=torch.tensor([image for _, image, _ in self.points], dtype=torch.long),
            point_cells=point_cells,
            box_at=torch.tensor([at for at, _, _ in self.boxes], dtype=torch.long).reshape(-1, 4),
            box=torch.tensor(box, dtype=torch.float32).reshape(-1, 4),
            box_cells=box_cells,
            name_at=torch.tensor([at for at, _ in self.names], dtype=torch.long),
            name_words=name_words,
            cells=cells,
        )


class Batcher:
    """Packs samples and questions into token batches with their targets."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, english: Language) -> None:
        self._encode = tokenizer.backend_tokenizer.encode_batch
        self.colours, self.kinds = list(english.colours), list(english.kinds)
        self.number_ids = [tokenizer.convert_tokens_to_ids(str(n)) for n in range(1001)]
        self._number_of = {token: n for n, token in enumerate(self.number_ids)}
        (self.boxes_id,), (self._actions_id,) = self._ids("boxes"), self._ids("actions")
        (self._label_id,) = self._ids("label")
        self.opens_box = {i for i in range(len(tokenizer)) if tokenizer.decode([i]).endswith("[[")}
        self._image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._pad_id = tokenizer.pad_token_id
        self._head = self._ids(
            f"<|im_start|>system\n{COMPACT_SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        )
        self._tail = self._ids("<|vision_end|>")
        self.word_ids = [[self._word_id(w) for w in words] for words in (self.colours, self.kinds)]

    def _ids(self, text: str) -> list[int]:
        return list(self._encode([text], add_special_tokens=False)[0].ids)

    def _word_id(self, word: str) -> int:
        """Look up the token of a word as it appears in an instruction, after a space."""
        (token,) = self._ids(f" {word}")
        return token

    def patches(self, samples: list[Sample]) -> tuple[Tensor, tuple[int, int]]:
        """Cut samples of one size into patches (b, n, 1176); also return their token grid."""
        images = torch.from_numpy(np.stack([s.image for s in samples])).float() / 255.0
        return patchify(images, CLIP_MEAN, CLIP_STD)

    def build(
        self, samples: list[Sample], questions: list[list[Question]], rng: np.random.Generator | None = None
    ) -> tuple[Batch, Targets]:
        """Pack samples of one size with their questions; with `rng`, cut half of the replies after their last box."""
        patches, grid = self.patches(samples)
        groups = self._encoded(questions, rng)
        places = _Places()
        for image, (group, rows) in enumerate(zip(questions, groups, strict=True)):
            for question, row in zip(group, rows, strict=True):
                places.add(image, question, row)
        batch = self._batch(patches, grid, groups)
        return batch, places.targets(samples, self.cell_targets(samples, grid[0] * grid[1]), batch.ids.shape[2])

    def _encoded(self, questions: list[list[Question]], rng: np.random.Generator | None) -> list[list[_QuestionTokens]]:
        """Tokenise every question, image by image."""
        flat = [q for group in questions for q in group]
        prompts = self._encode([f"{q.instruction}<|im_end|>\n<|im_start|>assistant\n" for q in flat])
        replies = self._encode([f"{q.reply}<|im_end|>" for q in flat])
        rows = iter(
            [
                self._question(prompt, reply.ids, is_cut=rng is not None and rng.uniform() < _CUT_RATIO)
                for prompt, reply in zip(prompts, replies, strict=True)
            ]
        )
        return [list(itertools.islice(rows, len(group))) for group in questions]

    def _batch(self, patches: Tensor, grid: tuple[int, int], groups: list[list[_QuestionTokens]]) -> Batch:
        """Combine image patches and question tokens, padded to the longest, with M-RoPE positions."""
        length = max(len(row.ids) for rows in groups for row in rows)
        ids = torch.full((len(groups), max(len(rows) for rows in groups), length), self._pad_id)
        is_token = torch.zeros(ids.shape, dtype=torch.bool)
        for i, rows in enumerate(groups):
            for j, row in enumerate(rows):
                ids[i, j, : len(row.ids)], is_token[i, j, : len(row.ids)] = torch.tensor(row.ids), True
        cells, start = grid[0] * grid[1], len(self._head)
        after = start + max(grid)  # where text positions continue after the image
        r, c = torch.arange(cells) // grid[1], torch.arange(cells) % grid[1]
        image_positions = start + torch.stack([torch.zeros_like(r), r, c])
        return Batch(
            patches=patches,
            grid=grid,
            prefix_ids=torch.tensor([*self._head, *[self._image_id] * cells, *self._tail]),
            prefix_positions=torch.cat(
                [torch.arange(start).expand(3, -1), image_positions, torch.full((3, 1), after)], dim=1
            ),
            ids=ids,
            is_token=is_token,
            first_position=after + 1,
            image_start=start,
        )

    def _question(self, prompt: Any, reply: list[int], *, is_cut: bool) -> _QuestionTokens:
        """Collect the tokens of one question, whose prompt is encoded; `is_cut` ends the reply after the last box."""
        start = len(prompt.ids)
        boxes_at: list[int] = []
        numbers: list[int] = []
        labels_at: list[range] = []
        end = label_key = 0
        is_listing = True
        for k, token in enumerate(reply):
            is_listing = is_listing and token != self._actions_id
            if is_listing and token == self._label_id:
                label_key = k
            is_number = is_listing and token in self._number_of
            if is_listing and token == self.boxes_id:
                boxes_at.append(start + k)
                labels_at.append(range(start + label_key + 2, start + k - 1))
            if is_number or (is_listing and token == self.boxes_id):
                end = k + 2  # includes the token that decides whether another box follows, or any at all
            numbers.append(self._number_of[token] if is_number else -1)
        if is_cut and boxes_at:
            reply, numbers = reply[:end], numbers[:end]
        return _QuestionTokens([*prompt.ids, *reply], prompt.offsets, start, numbers, boxes_at, labels_at)

    def cell_targets(self, samples: list[Sample], cells: int) -> CellTargets:
        """Find the object in each image token of samples of one size."""
        b = len(samples)
        colour = torch.full((b, cells), len(self.colours))
        kind = torch.full((b, cells), len(self.kinds))
        box = torch.full((b, cells, 4), math.nan)
        for i, sample in enumerate(samples):
            for seen in sorted(sample.seen, key=lambda s: -len(s.cells)):  # small objects win shared cells
                colour_word, kind_word = seen.label.split()
                at = list(seen.cells)
                colour[i, at] = self.colours.index(colour_word)
                kind[i, at] = self.kinds.index(kind_word)
                box[i, at] = torch.tensor(seen.box, dtype=torch.float32)
        return CellTargets(colour, kind, box)


def _words_of(instruction: str, ways: tuple[str, ...], offsets: list[tuple[int, int]]) -> list[int]:
    """Find the tokens of a name in an instruction; none where it occurs more than once or not at all."""
    text = instruction.lower()
    for name in ways:
        if text.count(name.lower()) == 1:
            start = text.find(name.lower())
            return [k for k, (low, high) in enumerate(offsets) if low < start + len(name) and high > start]
    return []
