"""Samples → shards that WebDataset reads, plain tar files with a manifest; and back, checked.

A sample is two members that share a key, its seed: `00100000.png` and `00100000.json` (objects with label, box 0..1000,
cells of the image-token grid, visible pixels). The bytes of a shard depend on its seeds, the scene file and the size
alone, so that whoever makes it, and when, changes nothing. A sample of a bag has what was asked and the plan that
worked instead of objects.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from qwen2vl_robot.bounds import INSTRUCTION_CHARS, REPLY_BYTES, SHARD_BYTES, SHARD_SAMPLES
from qwen2vl_robot.config import Strict, parse
from qwen2vl_robot.documents import read_json
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.contract import MAX_ACTIONS
from qwen2vl_robot.results import reason_of, write_bytes, write_json

MANIFEST = "manifest.json"
FORMAT = 1
_MANIFEST_BYTES = 200_000_000  # a million shards
_AGAIN = "give the command that made it again"
_Line = Annotated[str, Field(max_length=INSTRUCTION_CHARS)]


@dataclass(frozen=True, slots=True)
class SeenObject:
    """What an image shows of one object.

    Attributes:
        box: x0, y0, x1, y1 in 0..1000 of the visible part.
        cells: indices into the image-token grid, row by row, of which it fills at least `dataset.MIN_CELL_SHARE`.
        visible_px: visible pixels, scaled to a 640x480 image.
    """

    label: str
    box: tuple[int, int, int, int]
    cells: tuple[int, ...]
    visible_px: int


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What a planner was asked about an image, and the reply that led to a task that was measured as achieved.

    Attributes:
        text, plainly, is_begun: the person's words, as `messages.Instruction` has them.
        failures: one line a failed step before it.
        reply: as `planner.reply.format_reply` writes it, boxes in 0..1000.
    """

    text: str
    plainly: tuple[str, ...]
    is_begun: bool
    failures: tuple[str, ...]
    reply: str


@dataclass(frozen=True, slots=True)
class Stored:
    """Where the image of a sample is: a file, the first byte in it, and how many."""

    path: Path
    at: int
    size: int

    def read(self) -> bytes:
        """Read the image as PNG.

        Raises:
            BadInputError: the shard is gone or cut off.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.at)
                data = file.read(self.size)
        except OSError as error:
            raise BadInputError(f"{self.path}: {reason_of(error)}") from error
        if len(data) != self.size:
            raise BadInputError(f"{self.path}: cut off while it is in use")
        return data


@dataclass(frozen=True, slots=True)
class Packed:
    """A sample of a shard: its image as PNG, size (width, height) in pixels, and what it shows, or the plan for it."""

    png: bytes | Stored
    size_px: tuple[int, int]
    seen: list[SeenObject]
    demonstration: Demonstration | None = None

    def image(self) -> npt.NDArray[np.uint8]:
        """Decode the image (h, w, 3).

        Raises:
            BadInputError: it is no PNG of this size, or its shard is gone.
        """
        png = self.png.read() if isinstance(self.png, Stored) else self.png
        try:
            with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
                if picture.size == self.size_px:
                    return np.array(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise BadInputError(f"a sample's image cannot be read: {error}; {_AGAIN}") from error
        raise BadInputError(f"a sample's image is not of {self.size_px[0]} x {self.size_px[1]} pixels; {_AGAIN}")


class _DemonstrationForm(Strict):
    """A demonstration in a shard, which may come from anybody."""

    text: Annotated[str, Field(min_length=1, max_length=INSTRUCTION_CHARS)]
    plainly: Annotated[tuple[_Line, ...], Field(max_length=MAX_ACTIONS)]
    is_begun: bool
    failures: Annotated[tuple[_Line, ...], Field(max_length=64)]
    reply: Annotated[str, Field(max_length=REPLY_BYTES)]


def shard_name(seed: int) -> str:
    """The file of the shard that begins with a seed."""
    return f"shard-{seed:08d}.tar"


def write_shard(path: Path, samples: Iterable[tuple[int, npt.NDArray[np.uint8], list[SeenObject]]]) -> dict[str, Any]:
    """Write samples (seed, image, objects) as one shard, whole or not at all.

    Returns:
        Its entry of the manifest: file, first seed, samples, bytes and sha256.

    Raises:
        UnsavedError: it cannot be written; nothing of it is left.
    """
    return _write(path, ((seed, image, _objects(seen)) for seed, image, seen in samples))


def write_demonstrations(
    path: Path, samples: Iterable[tuple[int, npt.NDArray[np.uint8], Demonstration]]
) -> dict[str, Any]:
    """Write samples (number, image, demonstration) as one shard, as `write_shard`."""
    return _write(path, ((number, image, {"demonstration": asdict(asked)}) for number, image, asked in samples))


def _write(path: Path, samples: Iterable[tuple[int, npt.NDArray[np.uint8], dict[str, Any]]]) -> dict[str, Any]:
    packed, seeds = io.BytesIO(), []
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for seed, image, shown in samples:
            seeds.append(seed)
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "PNG", compress_level=1)
            about = {"size_px": [image.shape[1], image.shape[0]], **shown}
            _add(tar, f"{seed:08d}.png", encoded.getvalue())
            _add(tar, f"{seed:08d}.json", json.dumps(about, separators=(",", ":")).encode())
    data = packed.getvalue()
    write_bytes(path, data)
    return {
        "file": path.name,
        "seed": seeds[0],
        "samples": len(seeds),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _objects(seen: list[SeenObject]) -> dict[str, Any]:
    return {"objects": [{"label": s.label, "box": s.box, "cells": s.cells, "visible_px": s.visible_px} for s in seen]}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether a shard is there with the bytes that its entry of the manifest says."""
    path = folder / str(entry["file"])
    try:
        return bool(path.stat().st_size == entry["bytes"] and _sha256(path) == entry["sha256"])
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        total = hashlib.sha256()
        while chunk := file.read(1 << 20):
            total.update(chunk)
        return total.hexdigest()


def write_manifest(folder: Path, about: dict[str, Any], shards: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Write what the folder holds: shards in the order of their seeds, however they came.

    Raises:
        UnsavedError: it cannot be written.
    """
    entries = sorted(shards, key=lambda entry: int(entry["seed"]))
    total = sum(int(entry["samples"]) for entry in entries)
    manifest = {"format": FORMAT, **about, "samples": total, "shards": entries}
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a folder holds.

    Raises:
        BadInputError: there is no manifest, or it is not one of ours.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BadInputError(f"{folder}: no samples; create some with: qwen2vl-robot datagen --out {folder}")
    found = read_json(path, _MANIFEST_BYTES)
    if not isinstance(found, dict) or found.get("format") != FORMAT or not _are_entries(found.get("shards")):
        raise BadInputError(f"{path}: not a manifest of samples of format {FORMAT}")
    return found


def _are_entries(shards: object) -> bool:
    kinds = {"file": str, "seed": int, "samples": int, "bytes": int, "sha256": str}
    return isinstance(shards, list) and all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
        and entry["file"] == Path(entry["file"]).name
        for entry in shards
    )


def read_shards(folder: Path, *, keeps_images: bool = True) -> Iterator[Packed]:
    """Yield every sample once, in the order of the seeds.

    Args:
        keeps_images: False leaves images in their files until they are decoded: for more of them than memory holds.

    Raises:
        BadInputError: a shard is missing, cut off or otherwise not what the manifest says.
    """
    for entry in read_manifest(folder)["shards"]:
        path = folder / entry["file"]
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            has = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
            raise BadInputError(f"{path}: {has}, but the manifest says {entry['bytes']} bytes; {_AGAIN}")
        samples = list(_read_shard(path, keeps_images))
        if len(samples) != entry["samples"]:
            raise BadInputError(f"{path}: {len(samples)} samples, but the manifest says {entry['samples']}; {_AGAIN}")
        yield from samples


def _read_shard(path: Path, keeps_images: bool) -> Iterator[Packed]:
    if path.stat().st_size > SHARD_BYTES:
        raise BadInputError(f"{path}: more than {SHARD_BYTES} bytes")
    try:
        with tarfile.open(path, mode="r:") as tar:
            members = tar.getmembers()
            if len(members) > 2 * SHARD_SAMPLES:
                raise BadInputError(f"{path}: more than {SHARD_SAMPLES} samples")
            files = {member.name: member for member in members if member.isfile()}
            for name in sorted(files):
                key, _, ending = name.partition(".")
                if ending == "png":
                    about, at = json.loads(_bytes(tar, files[f"{key}.json"])), files[name]
                    png = _bytes(tar, at) if keeps_images else Stored(path, at.offset_data, at.size)
                    yield _unpack(png, about)
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path}: not a shard of samples: {error}; {_AGAIN}") from error


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _unpack(png: bytes | Stored, about: dict[str, Any]) -> Packed:
    width, height = (int(v) for v in about["size_px"])
    if "demonstration" in about:
        asked = parse(about["demonstration"], _DemonstrationForm, "demonstration").model_dump()
        return Packed(png, (width, height), [], Demonstration(**asked))
    seen = [
        SeenObject(
            str(o["label"]),
            (int(o["box"][0]), int(o["box"][1]), int(o["box"][2]), int(o["box"][3])),
            tuple(int(c) for c in o["cells"]),
            int(o["visible_px"]),
        )
        for o in about["objects"]
    ]
    return Packed(png, (width, height), seen)
