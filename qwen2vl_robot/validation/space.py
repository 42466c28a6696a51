"""Closed zones and unseen space → bodies that a sweep avoids."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.messages import Box, Scene, Zone
from qwen2vl_robot.validation.unseen import unseen_name

_SHADOW = "unseen room beside it "


def zone_name(zone: Zone) -> str:
    """Name a zone's body in a sweep."""
    return f"zone {zone.name}"


def shadow_name(index: int) -> str:
    """Name a box of `Scene.shadow_m` as a body of a sweep."""
    return f"{_SHADOW}{index + 1}"


def is_shadow(name: str) -> bool:
    """Whether a body of a sweep is one of `Scene.shadow_m`."""
    return name.startswith(_SHADOW)


def add_forbidden(world: BulletWorld, scene: Scene, *, with_shadow: bool) -> None:
    """Fill closed zones and unseen space with bodies; also the shadow close around what is grasped, where asked."""
    for zone in scene.zones:
        if zone.speed_mps == 0.0:
            _add(world, zone_name(zone), np.array([zone.min_m, zone.max_m]))
    for index, corners_m in enumerate(() if scene.unseen_m is None else scene.unseen_m):
        _add(world, unseen_name(index), corners_m)
    for index, corners_m in enumerate(() if scene.shadow_m is None or not with_shadow else scene.shadow_m):
        _add(world, shadow_name(index), corners_m)


def _add(world: BulletWorld, name: str, corners_m: Array) -> None:
    low, high = corners_m
    x, y, z = (float(v) for v in high - low)
    world.add_body(name, Box((x, y, z)), make_pose((low + high) / 2), mass_kg=0.0, rgb=None)
