"""A folder of shards → samples, drawn by image size, through windows, mirrored and relit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.training.dataset import resize, token_grid
from qwen2vl_robot.training.shards import Packed, SeenObject, read_shards
from qwen2vl_robot.training.windows import is_full, through_window

_NOISE_LEVELS = 6.0  # of 255: the most, of one standard deviation


@dataclass(slots=True)
class Sample:
    """One image (h, w, 3) uint8 and the objects in it."""

    image: npt.NDArray[np.uint8]
    seen: list[SeenObject]


class Samples:
    """The shards of some folders, grouped by their grid of image tokens; each batch has one size."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self.refresh()

    def refresh(self) -> None:
        """Read the folders again, because shards may be added during a training.

        Raises:
            BadInputError: a shard cannot be used, or it holds no objects.
        """
        self._by_size: dict[tuple[int, int], list[Packed]] = {}
        for folder in self._folders:
            for packed in read_shards(folder):
                if packed.demonstration is not None:
                    raise BadInputError(f"{folder}: samples of bags; the small checkpoint learns from datagen's")
                self._by_size.setdefault(token_grid(*packed.size_px), []).append(packed)

    def __len__(self) -> int:
        return sum(len(v) for v in self._by_size.values())

    def draw(self, rng: np.random.Generator, count: int) -> list[Sample]:
        """Draw `count` samples of one size."""
        sizes = sorted(self._by_size)
        weights = np.array([len(self._by_size[s]) for s in sizes], dtype=float)
        pool = self._by_size[sizes[int(rng.choice(len(sizes), p=weights / weights.sum()))]]
        return [_drawn(pool[i], rng) for i in rng.integers(0, len(pool), count)]

    def in_order(self, count: int) -> Iterator[list[Sample]]:
        """Yield batches of up to `count` samples of each size, in a fixed order."""
        for size in sorted(self._by_size):
            pool = self._by_size[size]
            for start in range(0, len(pool), count):
                yield [_sample(packed) for packed in pool[start : start + count]]


def _sample(packed: Packed) -> Sample:
    return Sample(resize(packed.image()), packed.seen)


def _drawn(packed: Packed, rng: np.random.Generator) -> Sample:
    return Sample(*through_window(packed, rng)) if is_full(packed) else _sample(packed)


def augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirror half of the images, and vary brightness, white balance and noise slightly, as a camera does."""
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
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.94, 1.06, 3)
    noise = rng.normal(0.0, rng.uniform(0.0, _NOISE_LEVELS), image.shape).astype(np.float32)
    return Sample(np.clip(image * gain.astype(np.float32) + noise, 0, 255).astype(np.uint8), seen)
