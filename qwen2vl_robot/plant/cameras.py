"""A true picture and true depth → what a camera of a given model makes of them: gaps, noise, flying pixels, colours.

A model is a file of sim/cameras; docs/cameras.md says where its figures come from. Lengths in pixels are those of a
picture 640 px wide, and grow with the picture.
"""

from __future__ import annotations

import copy
import math
from typing import Annotated, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from qwen2vl_robot.bounds import IMAGE_PIXELS
from qwen2vl_robot.config import NonNegative, Positive, Ratio, Strict, load_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.photos import open_picture
from qwen2vl_robot.resources import data_root, resolve

Picture = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Finish = Literal["matt", "shiny", "clear"]

_WIDTH_PX = 640  # of the picture whose pixels a model's lengths are in
_SKY_M = 5.0  # stands for the depth of what is too far to be measured
_STEP_RATIO = 0.01  # of depth, from a pixel to the next: an edge; a face that is seen steeply gives 0.6 %
_MIX_PX = 7  # around a flying pixel, where its two surfaces are looked for


class Noise(Strict):
    """One part of the noise of disparity.

    Attributes:
        disparity_px: standard deviation.
        over_px: how far it is correlated: standard deviation of the Gaussian that smooths it.
        lasts: whether every frame has the same.
    """

    disparity_px: NonNegative
    over_px: Positive
    lasts: bool = False


class Stereo(Strict):
    """Depth by triangulation.

    Attributes:
        baseline_m: between the two imagers, or projector and imager.
        noise: its parts add up.
        disparity_step_px: disparity comes in such steps; 0 for none.
        edge_gap_px: narrowest and widest gap beside a depth edge, or beside what one imager does not see: windows are
            matched and not pixels.
        flying_px: so far from an edge a depth between both surfaces is measured.
        flying_ratio: share of the edges that have such pixels.
    """

    baseline_m: Positive
    noise: Annotated[tuple[Noise, ...], Field(max_length=8)] = ()
    disparity_step_px: NonNegative = 0.0
    edge_gap_px: tuple[NonNegative, NonNegative] = (0.0, 0.0)
    flying_px: NonNegative = 0.0
    flying_ratio: Ratio = 0.0


class Losses(Strict):
    """Shares of surfaces that have no depth.

    Attributes:
        dark: of what is black; it falls to nothing where the brightest channel is `dark_rgb` (sRGB).
        shiny, clear: of what has this finish.
    """

    dark: Ratio = 0.0
    dark_rgb: NonNegative = 0.0
    shiny: Ratio = 0.0
    clear: Ratio = 0.0


class Colour(Strict):
    """Errors of colour.

    Attributes:
        gain, balance: brightness, and red and blue against green, stay within 1 +- this.
        drift: largest share by which they change from frame to frame.
        jpeg_quality: of the compression; 0 for none.
    """

    gain: Ratio = 0.0
    balance: Ratio = 0.0
    drift: Ratio = 0.0
    jpeg_quality: Annotated[int, Field(ge=0, le=100)] = 0


class CameraModel(Strict):
    """A file of sim/cameras: how a kind of camera errs.

    Attributes:
        white_noise_m: standard deviation of each depth pixel by itself.
        missing_ratio: share of single pixels without depth.
        depth_step_m: depth comes in such steps; 0 for none.
        shift_px: depth lies at most so far beside its colour.
    """

    stereo: Stereo | None = None
    white_noise_m: NonNegative = 0.0
    missing_ratio: Ratio = 0.0
    depth_step_m: NonNegative = 0.0
    losses: Losses = Losses()
    shift_px: NonNegative = 0.0
    colour: Colour = Colour()


def load_camera(name: str) -> CameraModel:
    """Load sim/cameras/NAME.yaml, or a camera's file by its path.

    Raises:
        BadInputError: no such camera, or a field of it is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return load_yaml(resolve(name), CameraModel)
    known = camera_names()
    if name not in known:
        raise BadInputError(f"camera {name!r}: unknown; there are: {', '.join(known)}")
    return load_yaml(data_root() / "sim" / "cameras" / f"{name}.yaml", CameraModel)


def camera_names() -> list[str]:
    """List the cameras of sim/cameras."""
    return sorted(p.stem for p in (data_root() / "sim" / "cameras").glob("*.yaml"))


class ErringCamera:
    """One camera of a model: what lasts of its errors is drawn once, the rest for each frame."""

    def __init__(self, model: CameraModel, k: Intrinsics, rng: np.random.Generator) -> None:
        self._model, self._k, self._rng = model, k, rng
        self._scale = k.width_px / _WIDTH_PX
        self._shape = (k.height_px, k.width_px)
        stereo = model.stereo
        self._lasting_px = self._noise_px([n for n in stereo.noise if n.lasts] if stereo else [])
        self._worn = self._ragged(4.0) if model.losses != Losses() else None
        self._shift = self._draw_shift()
        self._colour = np.zeros(3) if model.colour == Colour() else rng.uniform(-1.0, 1.0, 3)

    @property
    def intrinsics(self) -> Intrinsics:
        """Return those of its pictures."""
        return self._k

    def smaller(self, px: int, rng: np.random.Generator) -> ErringCamera:
        """Return the same camera with pictures about so wide: what lasts of its errors is the same."""
        k, small, times = self._k, copy.copy(self), max(1, self._k.width_px // px)
        width_px, height_px = k.width_px // times, k.height_px // times
        centre = ((k.cx_px + 0.5) / times - 0.5, (k.cy_px + 0.5) / times - 0.5)
        small._k, small._rng = Intrinsics(width_px, height_px, k.fx_px / times, k.fy_px / times, *centre), rng
        small._scale, small._shape = self._scale / times, (height_px, width_px)
        size = (width_px, height_px)
        small._lasting_px = np.asarray(cv2.resize(self._lasting_px, size) / times, dtype=np.float32)
        small._worn = None if self._worn is None else np.asarray(cv2.resize(self._worn, size), dtype=np.float32)
        small._shift = (round(self._shift[0] / times), round(self._shift[1] / times))
        return small

    def see(self, rgb: Picture, depth_m: Depth, finishes: dict[Finish, Mask]) -> tuple[Picture, Depth]:
        """Make one frame of a true picture (h, w, 3) and depth (h, w), NaN for the sky.

        Args:
            finishes: which pixels (h, w) show something shiny or clear.
        """
        model, true_m = self._model, depth_m
        if model.stereo is not None:
            depth_m = self._triangulated(model.stereo, true_m)
        if model.white_noise_m:
            depth_m = (depth_m + self._rng.normal(0.0, 1.0, depth_m.shape) * model.white_noise_m).astype(np.float32)
        depth_m = np.where(self._lost(rgb, finishes), np.float32(np.nan), depth_m)
        if model.missing_ratio:
            depth_m[self._rng.random(depth_m.shape) < model.missing_ratio] = np.nan
        if model.depth_step_m:
            depth_m = (np.round(depth_m / model.depth_step_m) * model.depth_step_m).astype(np.float32)
        return self._coloured(rgb), _shifted(depth_m, self._shift)

    # ----------------------------------------------------------------------------------------- depth

    def _triangulated(self, stereo: Stereo, true_m: Depth) -> Depth:
        """Measure by disparity: what one imager does not see has none, and near edges windows span two surfaces."""
        solid_m = np.where(np.isfinite(true_m), true_m, np.float32(_SKY_M))
        fb_px_m = self._k.fx_px * stereo.baseline_m
        disparity_px = (fb_px_m / solid_m).astype(np.float32)
        hidden = _hidden(disparity_px)
        behind, off_px = _beside_edges(solid_m)
        low, high = stereo.edge_gap_px
        gap_px = (low + (high - low) * self._ragged(3.0)) * self._scale
        shadow_px = cv2.distanceTransform((~hidden).astype(np.uint8), cv2.DIST_L2, 3)
        lost = hidden | (behind & (np.minimum(off_px, shadow_px) < gap_px))
        flying = (off_px < stereo.flying_px * self._scale) & (self._ragged(2.0) < stereo.flying_ratio)
        disparity_px += self._lasting_px + self._noise_px([n for n in stereo.noise if not n.lasts])
        if stereo.disparity_step_px:
            step = np.float32(stereo.disparity_step_px)
            disparity_px = np.round(disparity_px / step) * step
        measured_m = (fb_px_m / np.maximum(disparity_px, 1e-3)).astype(np.float32)
        measured_m[lost | ~np.isfinite(true_m)] = np.nan
        return _with_flying(measured_m, solid_m, flying, self._ragged(1.0))

    def _noise_px(self, parts: list[Noise]) -> Depth:
        total = np.zeros(self._shape, np.float32)
        for part in parts:
            total += np.float32(part.disparity_px * self._scale) * self._field(part.over_px)
        return total

    def _field(self, over_px: float) -> Depth:
        """Draw a smooth random field (h, w) of mean 0 and deviation 1."""
        over_px *= self._scale
        every = max(1, int(over_px / 2))
        around = math.ceil(3 * over_px / every)  # a blur at a border repeats what it has, and would deviate more there
        h, w = (side // every + 2 + 2 * around for side in self._shape)
        coarse = self._rng.standard_normal((h, w), dtype=np.float32)
        coarse = cv2.GaussianBlur(coarse, (0, 0), over_px / every).astype(np.float32)[around:-around, around:-around]
        field: Depth = cv2.resize(coarse, self._shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
        return np.asarray((field - field.mean()) / max(float(field.std()), 1e-9), dtype=np.float32)

    def _ragged(self, over_px: float) -> Depth:
        """Draw a smooth random field (h, w) that is spread evenly over 0 to 1."""
        field = self._field(over_px)
        return np.asarray(1.0 / (1.0 + np.exp(-1.702 * field)), dtype=np.float32)  # near the normal distribution's

    def _lost(self, rgb: Picture, finishes: dict[Finish, Mask]) -> Mask:
        """Mark surfaces that send too little of the pattern back."""
        losses = self._model.losses
        if self._worn is None:
            return np.zeros(self._shape, bool)
        darkness = np.clip(1.0 - rgb.max(axis=2) / np.float32(max(losses.dark_rgb, 1e-3)), 0.0, 1.0)
        share: Depth = np.float32(losses.dark) * darkness
        for finish, mask in finishes.items():
            share = np.where(mask, np.float32(losses.shiny if finish == "shiny" else losses.clear), share)
        lost: Mask = self._worn < share
        return lost

    def _draw_shift(self) -> tuple[int, int]:
        """Draw by how many whole pixels depth lies to the right of and below its colour."""
        reach_px, angle = self._model.shift_px * self._scale * self._rng.random(), self._rng.uniform(0.0, 2 * np.pi)
        return round(float(reach_px * np.cos(angle))), round(float(reach_px * np.sin(angle)))

    # ---------------------------------------------------------------------------------------- colour

    def _coloured(self, rgb: Picture) -> Picture:
        colour = self._model.colour
        if colour == Colour():
            return rgb
        limits = np.array([colour.gain, colour.balance, colour.balance])
        step = self._rng.uniform(-1.0, 1.0, 3) * colour.drift / np.maximum(limits, 1e-9)
        self._colour = np.clip(self._colour + step, -1.0, 1.0)
        gain, red, blue = 1.0 + self._colour * limits
        levels = np.arange(256)[:, None] * (gain * np.array([red, 1.0, blue]))
        table = np.clip(np.round(levels), 0, 255).astype(np.uint8)
        picture: Picture = cv2.LUT(rgb, table[None]).astype(np.uint8)
        return _compressed(picture, colour.jpeg_quality) if colour.jpeg_quality else picture


def _compressed(rgb: Picture, quality: int) -> Picture:
    packed = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    with open_picture(packed, "the camera's picture", IMAGE_PIXELS) as picture:
        return np.array(picture.convert("RGB"))


def _hidden(disparity_px: Depth) -> Mask:
    """Mark what the second imager does not see, because something nearer to the right stands before it."""
    at_px = np.arange(disparity_px.shape[1], dtype=np.float32) - disparity_px  # column in the second picture
    first_px = np.minimum.accumulate(at_px[:, ::-1], axis=1)[:, ::-1]
    hidden = np.zeros(disparity_px.shape, bool)
    hidden[:, :-1] = at_px[:, :-1] >= first_px[:, 1:]
    return hidden


def _beside_edges(depth_m: Depth) -> tuple[Mask, Depth]:
    """Mark pixels whose nearest depth edge has them on the far side, and measure how far away it is, pixels."""
    near, far = np.zeros(depth_m.shape, bool), np.zeros(depth_m.shape, bool)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        step_m = depth_m[b] - depth_m[a]
        sharp_m = _STEP_RATIO * np.minimum(depth_m[a], depth_m[b])
        far[b] |= step_m > sharp_m
        near[a] |= step_m > sharp_m
        far[a] |= step_m < -sharp_m
        near[b] |= step_m < -sharp_m
    edge = near | far
    if not edge.any():
        return edge, np.full(depth_m.shape, np.inf, np.float32)
    off_px, index = cv2.distanceTransformWithLabels(
        (~edge).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    is_far = np.zeros(int(index.max()) + 1, bool)
    is_far[index[edge]] = far[edge]
    return is_far[index], off_px.astype(np.float32)


def _with_flying(measured_m: Depth, true_m: Depth, flying: Mask, mix: Depth) -> Depth:
    """Put depths between the two surfaces of an edge at the marked pixels."""
    kernel = np.ones((_MIX_PX, _MIX_PX), np.uint8)
    near_m, far_m = cv2.erode(true_m, kernel), cv2.dilate(true_m, kernel)
    between = near_m + mix * (np.minimum(far_m, near_m + np.float32(1.0)) - near_m)
    return np.where(flying, between, measured_m).astype(np.float32)


def _shifted(depth_m: Depth, shift_px: tuple[int, int]) -> Depth:
    """Move depth to the right and down; what comes in has none."""
    if shift_px == (0, 0):
        return depth_m
    matrix = np.array([[1.0, 0.0, shift_px[0]], [0.0, 1.0, shift_px[1]]])
    size, nothing = depth_m.shape[::-1], float("nan")
    moved = cv2.warpAffine(depth_m, matrix, size, flags=cv2.INTER_NEAREST, borderValue=nothing)
    return np.asarray(moved, dtype=np.float32)
