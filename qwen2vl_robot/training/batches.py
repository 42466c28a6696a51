"""Samples and questions → packed token batches with the targets of every loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.languages import Language
from qwen2vl_robot.planner.contract import COMPACT_SYSTEM_PROMPT
from qwen2vl_robot.training.dataset import SeenObject, load_shards
from qwen2vl_robot.training.model import CLIP_MEAN, CLIP_STD, Batch, patchify
from qwen2vl_robot.training.questions import Question

_CUT_RATIO = 0.5  # the share of replies that end behind their last box: the rest of a reply is soon learned


@dataclass(slots=True)
class Sample:
    """One image (h, w, 3) uint8 and what it shows."""

    image: npt.NDArray[np.uint8]
    seen: list[SeenObject]


class Samples:
    """The shards of a folder by image size; draws batches of one size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again: shards may be added while a training runs."""
        self._by_size: dict[tuple[int, int], list[tuple[npt.NDArray[np.uint8], list[SeenObject]]]] = {}
        for images, shown in load_shards(self._folder):
            size = (images.shape[2], images.shape[1])
            self._by_size.setdefault(size, []).extend(zip(images, shown, strict=True))
        if not self._by_size:
            raise BadInputError(
                f"{self._folder}: no samples; make some with: qwen2vl-robot datagen --out {self._folder}"
            )

    def __len__(self) -> int:
        return sum(len(v) for v in self._by_size.values())

    def draw(self, rng: np.random.Generator, count: int) -> list[Sample]:
        """Draw `count` samples of one size."""
        sizes = sorted(self._by_size)
        weights = np.array([len(self._by_size[s]) for s in sizes], dtype=float)
        pool = self._by_size[sizes[int(rng.choice(len(sizes), p=weights / weights.sum()))]]
        return [Sample(np.array(pool[i][0]), pool[i][1]) for i in rng.integers(0, len(pool), count)]

    def in_order(self, count: int) -> Iterator[list[Sample]]:
        """Batches of `count` of every size, in a fixed order."""
        for size in sorted(self._by_size):
            pool = self._by_size[size]
            for start in range(0, len(pool), count):
                yield [Sample(np.array(image), seen) for image, seen in pool[start : start + count]]


def augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirror half of the images, and vary light and colour a little."""
    image, seen = sample.image, sample.seen
    if rng.uniform() < 0.5:
        columns = image.shape[1] // 28
        image = image[:, ::-1]
        seen = [
            SeenObject(
                s.label,
                (1000 - s.box[2], s.box[1], 1000 - s.box[0], s.box[3]),
                tuple(c // columns * columns + columns - 1 - c % columns for c in s.cells),
                s.visible_px,
            )
            for s in seen
        ]
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, 3)
    return Sample(np.clip(image * gain.astype(np.float32), 0, 255).astype(np.uint8), seen)


@dataclass(slots=True)
class CellTargets:
    """What stands in each image token.

    Attributes:
        colour, kind: (b, cells) class indices, the last one "nothing".
        box: (b, cells, 4) box of the object in the cell, NaN where none.
    """

    colour: Tensor
    kind: Tensor
    box: Tensor


@dataclass(slots=True)
class _QuestionTokens:
    """One question's tokens and what stands where among them.

    Attributes:
        numbers: of the reply's tokens, the box numbers, -1 elsewhere.
        boxes_at: where the reply's `boxes` keys are.
        labels_at: for each of the reply's labels, where its words are.
    """

    ids: list[int]
    reply_start: int
    numbers: list[int]
    boxes_at: list[int]
    labels_at: list[range]


@dataclass(slots=True)
class Targets:
    """What the losses compare with.

    Attributes:
        reply_at, reply_ids: (k,) flat indices of tokens that predict, and the tokens they must predict.
        reply_of: (k,) which question, counted through the batch.
        number: (k,) the number 0..1000 that a box token stands for, -1 elsewhere.
        point_at: (q,) flat indices of the token before an object's boxes.
        point_image: (q,) which image; point_cells: (q, cells + 1) 1 for the image tokens of any of its boxes, or for
            "absent", the last.
        box_at: (n, 4) flat indices of the tokens that predict the numbers of each box, which is box: (n, 4).
        box_cells: (n, cells) 1 for the image tokens of that one object.
        name_at: (m,) flat indices of the tokens that predict the words of a label.
        name_words: (m, l) 1 for the tokens of the question that name what the label names.
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


class Batcher:
    """Samples and questions → packed token batches with their targets."""

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
        """The token of a word as it stands in an instruction, after a space."""
        (token,) = self._ids(f" {word}")
        return token

    def patches(self, samples: list[Sample]) -> tuple[Tensor, tuple[int, int]]:
        """Patches (b, n, 1176) of samples of one size, and their token grid."""
        images = torch.from_numpy(np.stack([s.image for s in samples])).float() / 255.0
        return patchify(images, CLIP_MEAN, CLIP_STD)

    def build(
        self, samples: list[Sample], questions: list[list[Question]], rng: np.random.Generator | None = None
    ) -> tuple[Batch, Targets]:
        """Pack samples of one size with their questions; with `rng`, half of the replies end behind their last box."""
        patches, (rows, columns) = self.patches(samples)
        cells, start = rows * columns, len(self._head)
        flat = [q for group in questions for q in group]
        prompts = self._encode([f"{q.instruction}<|im_end|>\n<|im_start|>assistant\n" for q in flat])
        replies = self._encode([f"{q.reply}<|im_end|>" for q in flat])
        rows_of_tokens = [
            self._question(q, prompt.ids, reply.ids, is_cut=rng is not None and rng.uniform() < _CUT_RATIO)
            for q, prompt, reply in zip(flat, prompts, replies, strict=True)
        ]
        b, count, length = len(samples), max(len(g) for g in questions), max(len(r.ids) for r in rows_of_tokens)
        ids = torch.full((b, count, length), self._pad_id)
        is_token = torch.zeros(b, count, length, dtype=torch.bool)
        reply_at: list[int] = []
        reply_ids: list[int] = []
        reply_of: list[int] = []
        number: list[int] = []
        points: list[tuple[int, int, tuple[int, ...]]] = []
        boxes: list[tuple[list[int], int, int]] = []
        names: list[tuple[int, list[int]]] = []
        offset, remaining = 0, iter(zip(flat, prompts, rows_of_tokens, strict=True))
        for i, group in enumerate(questions):
            count_before = sum(len(g) for g in questions[:i])
            for j in range(len(group)):
                question, prompt, row = next(remaining)
                n = len(row.ids)
                ids[i, j, :n], is_token[i, j, :n] = torch.tensor(row.ids), True
                reply_at += range(offset + row.reply_start - 1, offset + n - 1)
                reply_ids += row.ids[row.reply_start :]
                reply_of += [count_before + j] * len(row.numbers)
                number += row.numbers
                points += [(offset + at, i, which) for at, which in zip(row.boxes_at, question.objects, strict=True)]
                number_at = [offset + row.reply_start + k for k, value in enumerate(row.numbers) if value >= 0]
                shown = [index for which in question.objects for index in which]
                boxes += [([at - 1 for at in number_at[4 * k : 4 * k + 4]], i, index) for k, index in enumerate(shown)]
                for ways, at_words in zip(question.names, row.labels_at, strict=False):
                    words = _words_of(question.instruction, ways, prompt.offsets)
                    names += [(offset + at - 1, words) for at in at_words if words]
                offset += n
        after = start + max(rows, columns)  # where text positions go on behind the image
        r, c = torch.arange(cells) // columns, torch.arange(cells) % columns
        image_positions = start + torch.stack([torch.zeros_like(r), r, c])
        batch = Batch(
            patches=patches,
            grid=(rows, columns),
            prefix_ids=torch.tensor([*self._head, *[self._image_id] * cells, *self._tail]),
            prefix_positions=torch.cat(
                [torch.arange(start).expand(3, -1), image_positions, torch.full((3, 1), after)], dim=1
            ),
            ids=ids,
            is_token=is_token,
            first_position=after + 1,
            image_start=start,
        )
        point_cells, box_cells = torch.zeros(len(points), cells + 1), torch.zeros(len(boxes), cells)
        for k, (_, i, which) in enumerate(points):
            at = [cell for index in which for cell in samples[i].seen[index].cells]
            point_cells[k, at or [cells]] = 1.0
        for k, (_, i, index) in enumerate(boxes):
            box_cells[k, list(samples[i].seen[index].cells)] = 1.0
        name_words = torch.zeros(len(names), length)
        for k, (_, words) in enumerate(names):
            name_words[k, words] = 1.0
        targets = Targets(
            reply_at=torch.tensor(reply_at),
            reply_ids=torch.tensor(reply_ids),
            reply_of=torch.tensor(reply_of),
            number=torch.tensor(number),
            point_at=torch.tensor([at for at, _, _ in points], dtype=torch.long),
            point_image=torch.tensor([i for _, i, _ in points], dtype=torch.long),
            point_cells=point_cells,
            box_at=torch.tensor([at for at, _, _ in boxes], dtype=torch.long).reshape(-1, 4),
            box=torch.tensor([samples[i].seen[index].box for _, i, index in boxes], dtype=torch.float32).reshape(-1, 4),
            box_cells=box_cells,
            name_at=torch.tensor([at for at, _ in names], dtype=torch.long),
            name_words=name_words,
            cells=self.cell_targets(samples, cells),
        )
        return batch, targets

    def _question(self, question: Question, prompt: list[int], reply: list[int], *, is_cut: bool) -> _QuestionTokens:
        """Tokens of one question; `is_cut` ends the reply behind the last box."""
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
                boxes_at.append(len(prompt) + k)
                labels_at.append(range(len(prompt) + label_key + 2, len(prompt) + k - 1))
            if is_number or (is_listing and token == self.boxes_id):
                end = k + 2  # and whether another box follows, or whether there is one at all
            numbers.append(self._number_of[token] if is_number else -1)
        if is_cut and boxes_at:
            reply, numbers = reply[:end], numbers[:end]
        return _QuestionTokens([*prompt, *reply], len(prompt), numbers, boxes_at, labels_at)

    def cell_targets(self, samples: list[Sample], cells: int) -> CellTargets:
        """What stands in each image token of samples of one size."""
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
    """Indices of the tokens of a name in an instruction; none where it stands there more than once, or not at all."""
    text = instruction.lower()
    for name in ways:
        if text.count(name.lower()) == 1:
            start = text.find(name.lower())
            return [k for k, (low, high) in enumerate(offsets) if low < start + len(name) and high > start]
    return []
