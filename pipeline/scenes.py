"""Procedural toy rooms: RGB, exact depth, a simulated depth sensor, a class and per-pixel labels. Numpy only.

A scene is a pure function of (seed, index, config). A room is a box seen by a pinhole camera without roll: floor,
ceiling and three walls with wavy paint, a lamp at the camera, some crates and pillars, and one *target* whose shape is
the class. Outline alone cannot tell all six shapes apart: ball and bowl are the same disc, cylinder and trough the
same rectangle, one bulging towards the camera and one hollow.

Camouflage: the target wears the paint of whatever is behind it. What betrays it in RGB is its own shading and that the
lamp lights it more than what is behind, both scaled by `1 - camouflage`. In depth it is as plain as any other object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES: tuple[str, ...] = ("ball", "bowl", "cylinder", "trough", "cone", "ring")
SEG_NAMES: tuple[str, ...] = ("room", *CLASS_NAMES, "crate", "pillar")  # seg value = position; 255 = void (never drawn)
_CRATE, _PILLAR = SEG_NAMES.index("crate"), SEG_NAMES.index("pillar")

MAX_DEPTH_M = 10.0
_FOCAL = 0.9  # focal length over image width: a horizontal view of 58 degrees, as the Kinect's

Image = NDArray[np.float32]  # (height, width)


@dataclass(frozen=True)
class SceneConfig:
    size_px: int = 64
    camouflage: float = 0.5  # 0: target shaded as strongly as furniture; 1: invisible in RGB
    max_furniture: int = 3  # crates and pillars per room, 0..max
    noise: float = 3.0  # standard deviation of the camera noise, in grey levels of 255

    def __post_init__(self) -> None:
        if not 16 <= self.size_px <= 4096:
            raise ValueError(f"size_px must be 16 to 4096, got {self.size_px}.")
        if not 0 <= self.camouflage <= 1:
            raise ValueError(f"camouflage must be between 0 (plain) and 1 (invisible), got {self.camouflage}.")
        if self.max_furniture < 0 or self.noise < 0:
            raise ValueError(f"max_furniture and noise must not be negative, got {self.max_furniture}, {self.noise}.")


@dataclass(frozen=True)
class Scene:
    rgb: NDArray[np.uint8]  # (height, width, 3)
    exact_m: Image  # distance along the optical axis, metres, up to MAX_DEPTH_M
    sensor_m: Image  # the same seen by `sense`; NaN = not measured
    label: int  # index into CLASS_NAMES
    seg: NDArray[np.uint8]  # (height, width), index into SEG_NAMES
    boxes: tuple[
        tuple[int, int, int, int, int], ...
    ]  # (seg value, top, left, bottom, right), target first, end exclusive


def render(seed: int, index: int, config: SceneConfig = SceneConfig()) -> Scene:
    """The scene numbered `index` in the world `seed`; both at least 0."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    canvas = _Room(rng, config)
    label = int(rng.integers(len(CLASS_NAMES)))
    target = canvas.place_target()
    for _ in range(int(rng.integers(config.max_furniture + 1))):
        canvas.draw_furniture(target)
    canvas.draw_target(label, target)
    return Scene(
        rgb=canvas.photograph(),
        exact_m=canvas.depth_m,
        sensor_m=sense(canvas.depth_m, rng),
        label=label,
        seg=canvas.seg,
        boxes=tuple(reversed(canvas.boxes)),
    )


def sense(exact_m: Image, rng: np.random.Generator) -> Image:
    """What a Kinect v1 would measure: metres, NaN where it would not.

    Axial noise sigma = 0.0012 + 0.0019 (z - 0.4)^2 metres (Nguyen, Izadi, Lovell 2012, "Modeling Kinect sensor noise",
    eq. 2); disparity quantised to 1/8 px at f = 580 px with a 75 mm baseline; pixels that the projector cannot light
    (the shadow beside a near surface), half of those at depth edges, and 0.5 % anywhere are lost.
    """
    height, width = exact_m.shape
    z = exact_m + (0.0012 + 0.0019 * (exact_m - 0.4) ** 2) * rng.standard_normal((height, width), dtype=np.float32)
    focal_baseline = 580 * 0.075
    sensor_m = focal_baseline * 8 / np.maximum(np.rint(focal_baseline * 8 / np.maximum(z, 0.4)), 1)
    disparity_px = focal_baseline * (width / 640) / exact_m  # at this image's resolution
    column_lit = np.arange(width, dtype=np.float32) + disparity_px
    shadow = np.zeros((height, width), dtype=bool)
    shadow[:, 1:] = column_lit[:, 1:] < np.maximum.accumulate(column_lit, axis=1)[:, :-1] + 0.5
    edge = np.zeros((height, width), dtype=bool)
    edge[:, 1:] |= np.abs(np.diff(exact_m, axis=1)) > 0.1 * exact_m[:, 1:]
    edge[1:] |= np.abs(np.diff(exact_m, axis=0)) > 0.1 * exact_m[1:]
    luck = rng.random((height, width), dtype=np.float32)
    return np.where(shadow | (luck < np.where(edge, 0.5, 0.005)), np.float32(np.nan), sensor_m).astype(np.float32)


def fill(sensor_m: Image) -> Image:
    """Replace each NaN by the nearest measurement in its row (left on a tie); empty rows copy the nearest row."""
    filled = _fill_rows(sensor_m)
    if np.isnan(filled).any():
        filled = _fill_rows(filled.T).T
        if np.isnan(filled).any():
            raise ValueError("sensor_m must hold at least one measured pixel, got only NaN.")
    return np.ascontiguousarray(filled)


def _fill_rows(depth_m: Image) -> Image:
    valid = ~np.isnan(depth_m)
    width = depth_m.shape[1]
    column = np.arange(width)
    left = np.maximum.accumulate(np.where(valid, column, -width), axis=1)
    right = np.minimum.accumulate(np.where(valid, column, 2 * width)[:, ::-1], axis=1)[:, ::-1]
    nearest = np.where(column - left <= right - column, left, right)
    return np.take_along_axis(depth_m, np.clip(nearest, 0, width - 1), axis=1)


@dataclass(frozen=True)
class _Target:
    column: float
    radius_px: float
    depth_m: float


class _Room:
    """An empty room and what has been drawn into it so far."""

    def __init__(self, rng: np.random.Generator, config: SceneConfig) -> None:
        self.rng, self.config = rng, config
        size = config.size_px
        self.focal_px = _FOCAL * size
        self.horizon_px = size * rng.uniform(0.3, 0.48)
        self.camera_m = rng.uniform(1.3, 1.7)
        ceiling_m = rng.uniform(0.8, 1.4)
        ray_x = ((np.arange(size) + 0.5 - size / 2) / self.focal_px).astype(np.float32)
        ray_y = ((np.arange(size) + 0.5 - self.horizon_px) / self.focal_px).astype(np.float32)
        # Wall k is the line n_k . (x, z) = distance_k on the floor plan, so its depth depends on the column only.
        yaw = rng.uniform(-0.5, 0.5) + np.array([0, -np.pi / 2, np.pi / 2])
        distance = np.array([rng.uniform(4, 7), rng.uniform(1.5, 3.5), rng.uniform(1.5, 3.5)])
        towards = np.sin(yaw)[:, None] * ray_x + np.cos(yaw)[:, None]
        reach = np.where(towards > 0.02, distance[:, None] / np.maximum(towards, 0.02), np.inf)
        wall = reach.argmin(axis=0)
        self.wall_m = np.minimum(reach.min(axis=0), MAX_DEPTH_M).astype(np.float32)
        above_m = np.where(ray_y > 0, self.camera_m, ceiling_m)
        row_m = (above_m / np.maximum(np.abs(ray_y), 1e-3)).astype(np.float32)[:, None]
        on_wall = self.wall_m <= row_m
        self.depth_m: Image = np.minimum(self.wall_m, row_m)
        self.lit_m = self.depth_m.copy()  # how far away a surface looks by its brightness
        self.seg = np.zeros((size, size), dtype=np.uint8)
        self.boxes: list[tuple[int, int, int, int, int]] = []
        # Paint coordinates in metres: along the wall and up, or the floor plan.
        along = self.wall_m * (ray_x * np.cos(yaw)[wall] - np.sin(yaw)[wall]) + 7.0 * wall
        across = np.where(on_wall, along.astype(np.float32), ray_x * self.depth_m)
        up = np.where(on_wall, ray_y[:, None] * self.depth_m, self.depth_m)
        surface = np.where(on_wall, 0, np.where(ray_y[:, None] > 0, 1, 2))
        self.albedo = self._paint(across, up, rng.uniform(0.35, 0.9, (3, 3)).astype(np.float32)[surface])
        self.light = (
            rng.normal(0, 0.5),
            -rng.uniform(0.5, 1.0),
            rng.uniform(0.3, 0.8),
        )  # right, down, towards the camera

    def _paint(self, across: Image, up: Image, base: np.ndarray) -> np.ndarray:
        """Three random waves over `base` colours: stripes, checks and blotches, 0.3 to 2.5 m long."""
        rng = self.rng
        pattern = np.zeros_like(across, dtype=np.float32)
        for _ in range(3):
            angle, wave = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(2.5), np.log(20.0)))
            phase = np.float32(wave * np.cos(angle)) * across + np.float32(wave * np.sin(angle)) * up
            pattern += np.float32(rng.uniform(0.3, 1)) * np.sin(phase + np.float32(rng.uniform(0, 6.3)))
        if rng.random() < 0.5:  # hard-edged tiles
            pattern = np.clip(pattern * 4, -1, 1)
        tint = rng.uniform(0.02, 0.16) * rng.uniform(0.5, 1.0, 3)
        return base + pattern[..., None] * tint.astype(np.float32)

    def place_target(self) -> _Target:
        """Somewhere on the floor in front of the walls, 32 to 47 px of 64 wide."""
        size, rng = self.config.size_px, self.rng
        radius_px = size * rng.uniform(0.25, 0.37)
        column = rng.uniform(radius_px, size - radius_px)
        nearest_m = self.focal_px * self.camera_m / (size - 1 - self.horizon_px)  # its foot on the bottom row
        farthest_m = max(nearest_m, 0.75 * float(self.wall_m[int(column)]))
        return _Target(column, radius_px, rng.uniform(nearest_m, farthest_m))

    def draw_target(self, label: int, target: _Target) -> None:
        foot_px = self.horizon_px + self.focal_px * self.camera_m / target.depth_m
        radius = target.radius_px
        window, u, v = self._window(target.column, foot_px - radius, radius, radius)
        inside, relief, normal = _SHAPES[CLASS_NAMES[label]](u, v)
        depth_m = target.depth_m * (1 - 0.8 * radius / self.focal_px * relief)
        visible = self._occlude(window, inside, depth_m, 1 + label)
        contrast = (1 - self.config.camouflage) * np.exp(self.rng.uniform(-0.8, 0.8))  # 0.45 to 2.2 times
        nearer_m = np.where(visible, self.lit_m[window] - depth_m, 0)
        self.lit_m[window] -= np.float32(min(contrast, 1)) * nearer_m
        shade = 1 + contrast * self._shading(normal)
        self.albedo[window] *= np.where(visible, shade, 1)[..., None]

    def draw_furniture(self, target: _Target) -> None:
        """A crate or a pillar in plain paint; left out where it would stand in the target's way."""
        rng, size = self.rng, self.config.size_px
        pillar = rng.random() < 0.4
        column = rng.uniform(0, size)
        wall_m = float(self.wall_m[int(column)])
        depth_m = rng.uniform(min(2.2, 0.7 * wall_m), 0.95 * wall_m)
        half_width_m, height_m = (rng.uniform(0.12, 0.3), 4.0) if pillar else rng.uniform(0.25, 0.7, 2)
        half_width_px, height_px = half_width_m / depth_m * self.focal_px, height_m / depth_m * self.focal_px
        paint, edge, contrast = rng.uniform(0.25, 0.95, 3), rng.uniform(-0.6, 0.6), rng.uniform(0.3, 0.7)
        behind_m = target.depth_m * (1 + target.radius_px / self.focal_px) + 0.3
        if depth_m < behind_m and abs(column - target.column) < half_width_px + target.radius_px:
            return
        foot_px = self.horizon_px + self.focal_px * self.camera_m / depth_m
        window, u, v = self._window(column, foot_px - height_px / 2, half_width_px, height_px / 2)
        inside, relief, normal = _cylinder(u, v, 1.0) if pillar else _corner(u, v, edge)
        visible = self._occlude(window, inside, depth_m - half_width_m * relief, _PILLAR if pillar else _CRATE)
        self.lit_m[window] = self.depth_m[window]
        colour = (1 + contrast * self._shading(normal))[..., None] * paint.astype(np.float32)
        self.albedo[window] = np.where(visible[..., None], colour, self.albedo[window])

    def _window(self, column: float, row: float, half_width: float, half_height: float):
        """The image slices that an object covers, and its own coordinates there: u right, v down, both -1..1."""
        size = self.config.size_px
        left, right = np.clip([column - half_width, column + half_width + 1], 0, size).astype(int)
        top, bottom = np.clip([row - half_height, row + half_height + 1], 0, size).astype(int)
        u = ((np.arange(left, right) + 0.5 - column) / half_width).astype(np.float32)[None, :]
        v = ((np.arange(top, bottom) + 0.5 - row) / half_height).astype(np.float32)[:, None]
        return (slice(top, bottom), slice(left, right)), u, v

    def _occlude(self, window, inside: np.ndarray, depth_m: np.ndarray, seg: int) -> np.ndarray:
        """Put a surface into the depth and label maps; returns where it is in front."""
        visible = inside & (depth_m < self.depth_m[window])
        self.depth_m[window] = np.where(visible, depth_m, self.depth_m[window])
        self.seg[window] = np.where(visible, np.uint8(seg), self.seg[window])
        rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
        if len(rows):
            top, left = window[0].start, window[1].start
            first, last = (top + int(rows[0]), left + int(columns[0])), (top + int(rows[-1]), left + int(columns[-1]))
            self.boxes.append((seg, *first, last[0] + 1, last[1] + 1))
        return visible

    def _shading(self, normal) -> np.ndarray:
        """Lambert shading about its mean over directions: roughly -1..1."""
        right, down, front = self.light
        return np.float32(right) * normal[0] + np.float32(down) * normal[1] + np.float32(front) * (normal[2] - 0.6)

    def photograph(self) -> np.ndarray:
        """Light falling off with distance, exposure, camera noise, 8 bits."""
        rng = self.rng
        lamp_m, exposure = rng.uniform(2.5, 5), rng.uniform(0.9, 1.2)
        light = np.float32(255 * exposure) * (0.2 + 0.8 / (1 + (self.lit_m / np.float32(lamp_m)) ** 2))
        grain = np.float32(self.config.noise) * rng.standard_normal(light.shape, dtype=np.float32)
        return np.clip(self.albedo * light[..., None] + grain[..., None], 0, 255).astype(np.uint8)


# Each shape: u, v in -1..1 -> (inside the outline, relief towards the camera in radii, normal right/down/front).


def _ball(u, v):
    squared = u * u + v * v
    relief = np.sqrt(np.maximum(1 - squared, 0))
    return squared < 1, relief, (u, v, relief)


def _bowl(u, v):
    inside, relief, (right, down, front) = _ball(u, v)
    return inside, -relief, (-right, -down, front)


def _cylinder(u, v, half_width: float = 0.75):
    across = u / np.float32(half_width)
    relief = np.sqrt(np.maximum(1 - across * across, 0)) + 0 * v
    return (np.abs(across) < 1) & (np.abs(v) < 1), relief, (across, 0.0, relief)


def _trough(u, v):
    inside, relief, (right, down, front) = _cylinder(u, v)
    return inside, -relief, (-right, down, front)


def _cone(u, v):
    half_width = np.maximum(0.5 * (1 + v), 1e-3)
    across = u / half_width
    round_off = np.sqrt(np.maximum(1 - across * across, 0))
    return (np.abs(across) < 1) & (np.abs(v) < 1), half_width * round_off, (0.9 * across, -0.44, 0.9 * round_off)


def _ring(u, v):
    distance = np.sqrt(u * u + v * v) + np.float32(1e-6)
    across = (distance - 0.68) / 0.32
    relief = np.sqrt(np.maximum(1 - across * across, 0))
    return np.abs(across) < 1, 0.32 * relief, (across * u / distance, across * v / distance, relief)


def _corner(u, v, edge: float):
    """A crate seen edge-on: two flat faces meeting at u = edge, 40 and 50 degrees to the image plane."""
    left = u < edge
    relief = np.where(left, 0.84 * (u - edge), 1.19 * (edge - u)) + 0.6 + 0 * v
    return (np.abs(u) < 1) & (np.abs(v) < 1), relief, (np.where(left, -0.64, 0.77), 0.0, np.where(left, 0.77, 0.64))


_SHAPES = {"ball": _ball, "bowl": _bowl, "cylinder": _cylinder, "trough": _trough, "cone": _cone, "ring": _ring}
