"""A small painter of three-dimensional shapes: a pinhole camera and flat polygons.

World: x along the lane in driving direction, y to the left, z up, metres; the stop line is x = 0.
Pictures are painted at twice their size and shrunk at the end, which smooths every edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from demo.frame_number import HEIGHT, WIDTH, Bgr

Points = npt.NDArray[np.float64]
"""Points in the world: float64, (count, 3), metres."""
Colour = tuple[int, int, int]
"""Blue, green, red."""
Place = tuple[float, float, float]

OVERSAMPLING: Final = 2
_NEAREST_M: Final = 0.4
_SHIFT: Final = 4
_FARTHEST_PIXEL: Final = 500_000


@dataclass(frozen=True)
class Light:
    """How a scene is lit: by a sun from somewhere and by the sky."""

    sun: Place
    ambient: float
    diffuse: float
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    night: bool = False

    def shade(self, colours: Points, normals: Points) -> Points:
        """Return the colours of surfaces with these unit normals."""
        sun = np.array(self.sun) / np.linalg.norm(self.sun)
        lit = self.ambient + self.diffuse * np.clip(normals @ sun, 0, None)
        sky = 0.10 * self.ambient * np.clip(normals[:, 2], 0, None)
        shaded = colours * lit[:, None] + 255 * sky[:, None]
        return np.asarray(np.clip(shaded * np.array(self.tint), 0, 255))


class View:
    """A pinhole camera at `eye` that looks at `target`."""

    def __init__(self, eye: Place, target: Place, width_deg: float) -> None:
        self.eye = np.array(eye)
        forward = np.array(target) - self.eye
        self.forward = forward / np.linalg.norm(forward)
        right = np.cross(self.forward, (0.0, 0.0, 1.0))
        self.right = right / np.linalg.norm(right)
        self.down = np.cross(self.forward, self.right)
        self.focal = WIDTH * OVERSAMPLING / 2 / np.tan(np.radians(width_deg / 2))

    def project(self, points: Points) -> tuple[Points, Points]:
        """Return the pixels, (count, 2), and the depths in metres of some points."""
        rays = points - self.eye
        depths = rays @ self.forward
        safe = np.maximum(depths, _NEAREST_M)
        x = WIDTH * OVERSAMPLING / 2 + self.focal * (rays @ self.right) / safe
        y = HEIGHT * OVERSAMPLING / 2 + self.focal * (rays @ self.down) / safe
        return np.stack([x, y], axis=1), depths

    def horizon(self) -> int:
        """Return the row of the horizon, in painted pixels."""
        far = self.eye + np.array([self.forward[0], self.forward[1], 0.0]) * 1e6
        return int(self.project(far[None])[0][0, 1])


class Canvas:
    """A picture being painted: far things first."""

    def __init__(self, view: View, light: Light, picture: Bgr | None = None) -> None:
        self.view = view
        self.light = light
        size = (HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING, 3)
        self.picture: Bgr = np.zeros(size, np.uint8) if picture is None else picture.copy()

    def fill(self, points: Points, colour: Sequence[float] | Points) -> None:
        """Paint a polygon in just this colour."""
        pixels = self._pixels(points)
        if pixels is not None:
            cv2.fillPoly(self.picture, [pixels], tuple(map(float, colour)), shift=_SHIFT)

    def face(self, points: Points, colour: Colour, outward: Place) -> None:
        """Paint a lit polygon, unless it is seen from behind."""
        if np.dot(points.mean(axis=0) - self.view.eye, outward) < 0:
            shaded = self.light.shade(np.array([colour], float), np.array([outward], float))
            self.fill(points, shaded[0])

    def blend(self, points: Points, colour: Colour, alpha: float) -> None:
        """Lay a translucent polygon over the picture."""
        pixels = self._pixels(points)
        if pixels is None:
            return
        low = np.clip((pixels.min(axis=0) >> _SHIFT) - 1, 0, None)
        high = (pixels.max(axis=0) >> _SHIFT) + 2
        region = self.picture[low[1] : high[1], low[0] : high[0]]
        if region.size == 0:
            return
        painted = region.copy()
        cv2.fillPoly(painted, [pixels - (low << _SHIFT)], colour, shift=_SHIFT)
        region[:] = cv2.addWeighted(painted, alpha, region, 1 - alpha, 0)

    def texture(self, corners: Points, image: Bgr) -> None:
        """Lay a flat image onto four corners, its upper left one first, clockwise."""
        pixels, depths = self.view.project(corners)
        if depths.min() < _NEAREST_M or np.abs(pixels).max() > _FARTHEST_PIXEL:
            return
        low = np.clip(np.floor(pixels.min(axis=0)).astype(int), 0, None)
        high = np.ceil(pixels.max(axis=0)).astype(int) + 1
        region = self.picture[low[1] : max(high[1], 0), low[0] : max(high[0], 0)]
        if region.size == 0:
            return
        height, width = image.shape[:2]
        source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, (pixels - low).astype(np.float32))
        size = (region.shape[1], region.shape[0])
        shaded = cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_AREA)
        mask = cv2.warpPerspective(np.full((height, width), 255, np.uint8), matrix, size)
        region[mask > 127] = shaded[mask > 127]

    def box(self, low: Place, high: Place, colour: Colour) -> None:
        """Paint a lit box that stands along the axes."""
        for axis in (0, 1, 2):
            for side in (0, 1):
                outward = [0.0, 0.0, 0.0]
                outward[axis] = 1.0 if side else -1.0
                self.face(side_of_box(low, high, axis, side), colour, (*outward,))  # type: ignore[arg-type]

    def glow(self, place: Place, radius_m: float, colour: Colour, strength: float) -> None:
        """Add a soft light around a point."""
        pixels, depths = self.view.project(np.array([place]))
        radius = int(self.view.focal * radius_m / max(float(depths[0]), _NEAREST_M))
        if depths[0] < _NEAREST_M or radius < 2 or np.abs(pixels).max() > _FARTHEST_PIXEL:
            return
        x, y = pixels[0].astype(int)
        top, left = max(y - radius, 0), max(x - radius, 0)
        region = self.picture[top : max(y + radius, 0), left : max(x + radius, 0)]
        if region.size == 0:
            return
        rows, columns = np.ogrid[top : top + region.shape[0], left : left + region.shape[1]]
        distance = np.sqrt((rows - y) ** 2 + (columns - x) ** 2) / radius
        halo = strength * np.clip(1 - distance, 0, 1) ** 2.2
        lit = region + halo[:, :, None] * np.array(colour)
        region[:] = np.clip(lit, 0, 255).astype(np.uint8)

    def shrunk(self) -> Bgr:
        """Return the finished picture in its true size."""
        small = cv2.resize(self.picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    def _pixels(self, points: Points) -> npt.NDArray[np.int32] | None:
        """Project a polygon without what lies behind the lens; None when nothing is left."""
        depths = (points - self.view.eye) @ self.view.forward - _NEAREST_M
        if depths.min() < 0:
            points = _cut(points, depths)
            if len(points) < 3:
                return None
        pixels, _ = self.view.project(points)
        if np.abs(pixels).max() > _FARTHEST_PIXEL:
            return None
        return np.asarray(np.round(pixels * (1 << _SHIFT)), np.int32)


def _cut(points: Points, depths: Points) -> Points:
    """Return the part of a polygon whose depths are not negative."""
    kept = []
    for i in range(len(points)):
        j = (i + 1) % len(points)
        if depths[i] >= 0:
            kept.append(points[i])
        if (depths[i] >= 0) != (depths[j] >= 0):
            kept.append(points[i] + (points[j] - points[i]) * depths[i] / (depths[i] - depths[j]))
    return np.array(kept)


def side_of_box(low: Place, high: Place, axis: int, side: int) -> Points:
    """Return the four corners of one side of a box."""
    first, second = (i for i in range(3) if i != axis)
    corners = np.empty((4, 3))
    corners[:, axis] = (low, high)[side][axis]
    corners[:, first] = [low[first], high[first], high[first], low[first]]
    corners[:, second] = [low[second], low[second], high[second], high[second]]
    return corners


def on_quad(corners: Points, u: float, v: float) -> Points:
    """Return the point at u along the first edge and v from it to the opposite one."""
    top = corners[0] + (corners[1] - corners[0]) * u
    bottom = corners[3] + (corners[2] - corners[3]) * u
    return np.asarray(top + (bottom - top) * v)


def inset(corners: Points, u0: float, v0: float, u1: float, v1: float) -> Points:
    """Return a quadrilateral within another one."""
    return np.array(
        [
            on_quad(corners, u0, v0),
            on_quad(corners, u1, v0),
            on_quad(corners, u1, v1),
            on_quad(corners, u0, v1),
        ]
    )


def lettering(text: str, height: int, colour: Colour, ground: Colour) -> Bgr:
    """Return a text as a picture that just holds it, its capitals `height` pixels tall."""
    font, thickness = cv2.FONT_HERSHEY_DUPLEX, max(2, height // 8)
    scale = cv2.getFontScaleFromHeight(font, height, thickness)
    (width, tall), low = cv2.getTextSize(text, font, scale, thickness)
    picture = np.full((tall + 2 * low, width + 2 * thickness, 3), ground, np.uint8)
    origin = (thickness, tall + low // 2)
    cv2.putText(picture, text, origin, font, scale, colour, thickness, cv2.LINE_AA)
    rows, columns = np.nonzero(np.any(picture != np.array(ground, np.uint8), axis=2))
    return picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def paste(picture: Bgr, patch: Bgr, centre: tuple[int, int], size: tuple[int, int]) -> None:
    """Fit a patch into a box of `size` around `centre` (x, y), its shape kept."""
    scale = min(size[0] / patch.shape[1], size[1] / patch.shape[0])
    width, height = round(patch.shape[1] * scale), round(patch.shape[0] * scale)
    left, top = centre[0] - width // 2, centre[1] - height // 2
    fitted = cv2.resize(patch, (width, height), interpolation=cv2.INTER_AREA)
    picture[top : top + height, left : left + width] = fitted
