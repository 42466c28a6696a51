"""Pictures and chat messages → the tokenised prompt of a model in this process, for planning and for training alike."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from qwen2vl_robot.planner.decoding import Prompt
from qwen2vl_robot.planner.picture import MAX_CLIP_PIXELS, MIN_CLIP_PIXELS

Picture = npt.NDArray[np.uint8]  # (h, w, 3)
Pictures = tuple[Picture, ...]
_SHRUNK = 1.5  # times as many pixels: less, and a window would show nothing new
_IMAGE, _VIDEO = "<|image_pad|>", "<|video_pad|>"


class Prompts:
    """Makes prompts with one model's tokenizer and image processor; the last pictures stay encoded.

    Args:
        device, dtype: of the pictures' tensors.
    """

    def __init__(self, tokenizer: Any, images: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._tokenizer, self._images = tokenizer, images
        self._device, self._dtype = device, dtype
        self._pictures: tuple[bytes, dict[str, Any]] = (b"", {})

    def make(
        self, seen: Pictures, messages: list[dict[str, object]], clip: Pictures = ()
    ) -> tuple[Prompt, tuple[int, int]]:
        """Make the tokenised prompt; also return the (width, height) in pixels to which the first picture was resized.

        Args:
            seen: pictures of the same moment; clip: those of the seconds before.
        """
        hashed = hashlib.blake2b(digest_size=16, person=str(len(clip)).encode())
        for rgb in (*seen, *clip):
            hashed.update(repr(rgb.shape).encode())
            hashed.update(np.ascontiguousarray(rgb).data)
        key = hashed.digest()
        if key != self._pictures[0]:
            self._pictures = (key, {**self.images_of(seen), **(self.video_of(clip) if clip else {})})
        pictures = self._pictures[1]
        patch, merge = self._images.patch_size, self._images.merge_size
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        grids = pictures["image_grid_thw"].tolist()
        for pad, shapes in ((_IMAGE, grids), (_VIDEO, pictures.get("video_grid_thw", torch.empty(0)).tolist())):
            first, *rest = text.split(pad)
            text = first + "".join(
                pad * (int(times * rows * columns) // merge**2) + part
                for (times, rows, columns), part in zip(shapes, rest, strict=True)
            )
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(ids, pictures, key), (grids[0][2] * patch, grids[0][1] * patch)

    def shrinks(self, rgb: Picture) -> bool:
        """Whether the model sees a picture with clearly fewer pixels than it has."""
        height, width = rgb.shape[:2]
        seen = self._images.get_number_of_image_patches(height, width) * self._images.patch_size**2
        return bool(height * width > _SHRUNK * seen)

    def images_of(self, seen: Pictures) -> dict[str, Any]:
        """Turn pictures into image patches."""
        encoded = self._images(images=[Image.fromarray(rgb) for rgb in seen], return_tensors="pt")
        return {
            "pixel_values": encoded["pixel_values"].to(self._device, self._dtype),
            "image_grid_thw": encoded["image_grid_thw"].to(self._device),
        }

    def video_of(self, clip: Pictures) -> dict[str, Any]:
        """Turn a clip into video patches: every two pictures make one time step; an odd last one is repeated."""
        even = (*clip, *clip[-1:])[: len(clip) + len(clip) % 2]
        film = [Image.fromarray(rgb).resize(clip[0].shape[1::-1]) for rgb in even]
        size = {"shortest_edge": MIN_CLIP_PIXELS, "longest_edge": MAX_CLIP_PIXELS}
        encoded = self._images(images=film, size=size, return_tensors="pt")
        rows, columns = encoded["image_grid_thw"][0, 1:].tolist()
        # A still image repeats itself in both time slots of a patch; here the second slot gets the next picture.
        still = encoded["pixel_values"].unflatten(0, (len(film) // 2, 2, rows * columns)).unflatten(-1, (3, 2, -1))
        moving = torch.stack([still[:, 0, :, :, 0], still[:, 1, :, :, 1]], dim=3).flatten(2).flatten(0, 1)
        return {
            "pixel_values_videos": moving.to(self._device, self._dtype),
            "video_grid_thw": torch.tensor([[len(film) // 2, rows, columns]], device=self._device),
        }
