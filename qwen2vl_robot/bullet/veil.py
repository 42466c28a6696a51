"""A camera → the robot's links outside its picture, hidden while it is taken: drawing them costs and shows nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from qwen2vl_robot.bullet.client import Client, pybullet
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Intrinsics

_MARGIN_M = 0.10  # a link's picture may be larger than the shape that collides, of which the box is known


class Veil:
    """Hides the links of one loaded robot; a link without a shape that collides is always shown."""

    def __init__(self, client: Client, body: int) -> None:
        self._client, self._body = client, body
        self._colours: dict[int, list[list[float]]] = {}
        for shape in pybullet.getVisualShapeData(body, physicsClientId=client.id):
            self._colours.setdefault(int(shape[1]), []).append(list(shape[7]))

    @contextlib.contextmanager
    def drawn(self, k: Intrinsics, T_base_camera: Array) -> Iterator[None]:
        """Hide what a camera cannot see, and show it again afterwards."""
        planes = _planes(k, T_base_camera)
        hidden = [link for link in self._colours if self._is_outside(link, planes)]
        try:
            for link in hidden:
                self._paint(link, is_shown=False)
            yield
        finally:
            for link in hidden:
                self._paint(link, is_shown=True)

    def _is_outside(self, link: int, planes: Array) -> bool:
        """Whether a link's box, with the margin, lies wholly beyond one side of the picture, or behind the camera."""
        low, high = np.array(pybullet.getAABB(self._body, link, physicsClientId=self._client.id))
        if np.linalg.norm(high - low) < 1e-6:
            return False
        corners = np.array(np.meshgrid(*zip(low - _MARGIN_M, high + _MARGIN_M, strict=True))).reshape(3, -1)
        return bool(((planes[:, :3] @ corners + planes[:, 3:]) < 0.0).all(axis=1).any())

    def _paint(self, link: int, *, is_shown: bool) -> None:
        for index, colour in enumerate(self._colours[link]):
            rgba = colour if is_shown else [*colour[:3], 0.0]  # the renderer skips what is fully transparent
            pybullet.changeVisualShape(
                self._body, link, shapeIndex=index, rgbaColor=rgba, physicsClientId=self._client.id
            )


def _planes(k: Intrinsics, T_base_camera: Array) -> Array:
    """The planes (5, 4) that bound what a pinhole camera sees, in the base frame; inside is not negative."""
    left, right = (-0.5 - k.cx_px) / k.fx_px, (k.width_px - 0.5 - k.cx_px) / k.fx_px
    top, bottom = (-0.5 - k.cy_px) / k.fy_px, (k.height_px - 0.5 - k.cy_px) / k.fy_px
    normals = np.array([[1, 0, -left], [-1, 0, right], [0, 1, -top], [0, -1, bottom], [0, 0, 1]], dtype=float)
    planes: Array = np.hstack([normals, np.zeros((5, 1))]) @ np.linalg.inv(T_base_camera)
    return planes
