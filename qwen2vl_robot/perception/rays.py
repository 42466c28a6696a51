"""Camera rays and an upright surface → the optical depth at which each ray first meets it."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.geometry import Array

MISS_M = 9.0  # optical depth that stands for "the ray misses"


def meet_sphere(o: Array, rays: Array, r_m: float) -> Array:
    """Compute the depth (n,) of a sphere around the origin; `o`: (3,) where the rays (n, 3) start."""
    a = (rays * rays).sum(axis=1)
    b = rays @ o
    inner = b * b - a * (o @ o - r_m * r_m)
    return np.where(inner > 0, (-b - np.sqrt(np.maximum(inner, 0.0))) / a, MISS_M)


def meet_box(o: Array, rays: Array, half_m: Array, low: float, high: float) -> Array:
    """Compute the depth (n,) of a box around the z axis, from height `low` to `high`; `half_m`: (2,) half its sides."""
    x_m, y_m = float(half_m[0]), float(half_m[1])
    step = np.where(np.abs(rays) < 1e-9, 1e-9, rays).T  # three pairs of planes at once, as this runs often
    t0 = (np.array([[-x_m], [-y_m], [low]]) - o[:, None]) / step
    t1 = (np.array([[x_m], [y_m], [high]]) - o[:, None]) / step
    enter, leave = np.minimum(t0, t1).max(axis=0), np.maximum(t0, t1).min(axis=0)
    return np.where(enter < leave, enter, MISS_M)


def meet_cylinder(o: Array, rays: Array, r_m: float, low: float, high: float) -> Array:
    """Compute the depth (n,) of a cylinder around the z axis, from height `low` to `high`."""
    t0, t1 = _round_slab(o, rays, r_m)
    z0, z1 = _slab(o[2], rays[:, 2], low, high)
    enter, leave = np.maximum(t0, z0), np.minimum(t1, z1)
    return np.where(enter < leave, enter, MISS_M)


def meet_tray(o: Array, rays: Array, half_m: Array, low: float, high: float, wall_m: float) -> Array:
    """Compute the depth (n,) of an open box around the z axis with walls and floor `wall_m` thick."""
    enter = meet_box(o, rays, half_m, low, high)
    rim = o + ((high - o[2]) / rays[:, 2])[:, None] * rays
    inner = half_m - wall_m
    through = (np.abs(rim[:, :2]) < inner).all(axis=1)
    _, x1 = _slab(o[0], rays[:, 0], -inner[0], inner[0])
    _, y1 = _slab(o[1], rays[:, 1], -inner[1], inner[1])
    floor = (low + wall_m - o[2]) / rays[:, 2]
    return _hollow(enter, through, np.minimum(np.minimum(x1, y1), floor))


def meet_bowl(o: Array, rays: Array, radii_m: tuple[float, float], low: float, high: float, wall_m: float) -> Array:
    """Compute the depth (n,) of an open cone around the z axis; `radii_m`: of its rim and of its foot."""
    rim_m, foot_m = radii_m
    down = np.where(np.abs(rays[:, 2]) < 1e-9, -1e-9, rays[:, 2])
    top = (high - o[2]) / down
    across = o[:2] + top[:, None] * rays[:, :2]
    radius = np.hypot(across[:, 0], across[:, 1])
    outside, _ = _cone(o, rays, radii_m, low, high)
    enter = np.where(radius < rim_m, top, outside)
    _, wall = _cone(o, rays, (rim_m - wall_m, foot_m - wall_m), low, high)
    floor = (low + wall_m - o[2]) / down
    return _hollow(enter, radius < rim_m - wall_m, np.minimum(wall, floor))


def _slab(o: float, ray: Array, low: float, high: float) -> tuple[Array, Array]:
    step = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
    t0, t1 = (low - o) / step, (high - o) / step
    return np.minimum(t0, t1), np.maximum(t0, t1)


def _round_slab(o: Array, rays: Array, r_m: float) -> tuple[Array, Array]:
    a = (rays[:, :2] ** 2).sum(axis=1)
    b = rays[:, :2] @ o[:2]
    inner = b * b - a * (o[:2] @ o[:2] - r_m * r_m)
    root = np.sqrt(np.maximum(inner, 0.0))
    hit = inner > 0
    return np.where(hit, (-b - root) / a, MISS_M), np.where(hit, (-b + root) / a, -MISS_M)


def _hollow(enter_m: Array, through: Array, inside_m: Array) -> Array:
    """Combine the depths of a hollow solid: rays that enter `through` the opening end at the inside surface."""
    return np.where(through, inside_m, enter_m)


def _cone(o: Array, rays: Array, radii_m: tuple[float, float], low: float, high: float) -> tuple[Array, Array]:
    """Compute the first and last crossing of the conical wall between two heights; MISS_M where there is none."""
    top_m, foot_m = radii_m
    slope = (top_m - foot_m) / (high - low)
    r0 = foot_m + slope * (o[2] - low)  # radius of the cone at the camera's height
    a = (rays[:, :2] ** 2).sum(axis=1) - (slope * rays[:, 2]) ** 2
    b = rays[:, :2] @ o[:2] - slope * rays[:, 2] * r0
    c = o[:2] @ o[:2] - r0 * r0
    inner = b * b - a * c
    root = np.sqrt(np.maximum(inner, 0.0))
    a = np.where(np.abs(a) < 1e-9, 1e-9, a)
    first, last = (-b - root) / a, (-b + root) / a
    first, last = np.minimum(first, last), np.maximum(first, last)

    def on_wall(t: Array) -> Array:
        z = o[2] + t * rays[:, 2]
        return np.where((inner > 0) & (z >= low - 1e-6) & (z <= high + 1e-6) & (t > 0), t, MISS_M)

    return on_wall(first), on_wall(last)
