"""Cars: a few body shapes, their meshes, and how they are painted.

A car's own coordinates: x forward with 0 at the front bumper, y to the left, z up, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from demo.canvas import Canvas, Colour, Points, inset, lettering, on_quad, paste
from demo.frame_number import Bgr

GLASS: Final[Colour] = (62, 48, 38)
GLASS_SHINE: Final[Colour] = (206, 190, 170)
DARK: Final[Colour] = (34, 32, 31)
TYRE: Final[Colour] = (36, 34, 34)
RIM: Final[Colour] = (196, 192, 188)
PLATE_M: Final = (0.92, 0.205)
"""Larger than life, to be read on a small screen."""


@dataclass(frozen=True)
class Shape:
    """The measures of a body in metres; the cabin's four x as fractions of the length."""

    length: float
    width: float
    sill: float
    lip: float
    belt: float
    tail: float
    roof: float
    cabin: tuple[float, float, float, float]
    roof_ratio: float
    wheel: float
    panel_van: bool = False


HATCHBACK: Final = Shape(
    3.9, 1.80, 0.22, 0.76, 0.98, 0.99, 1.50, (0.25, 0.45, 0.87, 0.985), 0.74, 0.32
)
SALOON: Final = Shape(4.5, 1.84, 0.21, 0.74, 0.95, 0.98, 1.43, (0.27, 0.46, 0.71, 0.87), 0.72, 0.33)
SUV: Final = Shape(4.4, 1.92, 0.29, 0.92, 1.12, 1.13, 1.72, (0.26, 0.41, 0.91, 0.985), 0.78, 0.38)
VAN: Final = Shape(
    4.8, 1.96, 0.27, 0.90, 1.18, 1.18, 2.02, (0.13, 0.29, 0.975, 0.995), 0.86, 0.34, panel_van=True
)
PICKUP: Final = Shape(4.9, 1.92, 0.32, 0.96, 1.14, 1.12, 1.74, (0.25, 0.38, 0.58, 0.61), 0.78, 0.39)


@dataclass(frozen=True)
class Car:
    """One visitor."""

    plate: str
    shape: Shape
    colour: Colour


@dataclass(frozen=True)
class Pose:
    """Where a car's front is, which way it points (radians, to the left), and what it does."""

    x: float
    y: float
    heading: float
    travelled_m: float
    braking: bool


class Body:
    """The curved surfaces of one shape."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def half_width(self, z: float) -> float:
        """Return the body's half width at a height: widest a bit above the sill."""
        s = self.shape
        middle = s.sill + 0.45 * (s.belt - s.sill)
        return s.width / 2 * (1 - 0.07 * ((z - middle) / (s.belt - s.sill) / 0.55) ** 2)

    def front(self, u: float, v: float) -> Points:
        """Return a point of the nose; u from -1 (right) to 1 (left), v up from 0 to 1."""
        s = self.shape
        z = s.sill + v * (s.lip - s.sill) + v * 0.05 * (1 - u * u)
        x = -0.34 * abs(u) ** 4 - 0.10 * max(v - 0.45, 0) ** 2 * 3 - 0.05 * (1 - v) ** 2
        return np.array([x, u * self.half_width(z), z])

    def rear(self, u: float, v: float) -> Points:
        """Return a point of the tail, u and v as at the front."""
        s = self.shape
        z = s.sill + v * (s.tail - s.sill) + v * 0.03 * (1 - u * u)
        x = 0.22 * abs(u) ** 4 + 0.08 * max(v - 0.45, 0) ** 2 - s.length
        return np.array([x, u * self.half_width(z), z])

    def side(self, t: float, v: float, left: int) -> Points:
        """Return a point of a side, t from the front (0) to the rear (1); left is 1 or -1."""
        first, last = self.front(1, v), self.rear(1, v)
        x = first[0] + (last[0] - first[0]) * t
        z = self.shape.sill + v * (self.top_z(x) - self.shape.sill)
        return np.array([x, left * self.half_width(z), z])

    def top(self, t: float, u: float) -> Points:
        """Return a point of bonnet, belt line and boot lid."""
        first, last = self.front(u, 1), self.rear(u, 1)
        x = first[0] + (last[0] - first[0]) * t
        z = self.top_z(x)
        return np.array([x, u * self.half_width(z), z + 0.05 * (1 - u * u)])

    def top_z(self, x: float) -> float:
        """Return the height of the upper edge of the sides."""
        s = self.shape
        xs = [-s.length, -s.length * s.cabin[3], -s.length * s.cabin[0], -0.4, 0.0]
        zs = [s.tail, s.belt, s.belt, s.lip + 0.05, s.lip]
        return float(np.interp(x, xs, zs))

    def cabin(self) -> tuple[Points, Points]:
        """Return the cabin's lower and upper corners: front left, front right, rear right, ..."""
        s = self.shape
        base, roof = self.half_width(s.belt) * 0.97, s.width / 2 * s.roof_ratio
        x = [-s.length * share for share in s.cabin]
        z = s.belt + 0.01
        low = [(x[0], base, z), (x[0], -base, z), (x[3], -base, z), (x[3], base, z)]
        high = [(x[1], roof, s.roof), (x[1], -roof, s.roof)]
        high += [(x[2], -roof, s.roof), (x[2], roof, s.roof)]
        return np.array(low), np.array(high)


@cache
def mesh(shape: Shape) -> Points:
    """Return the quadrilaterals of the body and the roof, (count, 4, 3), seen from outside."""
    body = Body(shape)
    us, vs, ts = np.linspace(-1, 1, 17), np.linspace(0, 1, 9), np.linspace(0, 1, 25)
    grids = [
        np.array([[body.front(u, v) for u in us] for v in vs]),
        np.array([[body.rear(-u, v) for u in us] for v in vs]),
        np.array([[body.side(1 - t, v, 1) for t in ts[::-1]] for v in vs])[:, ::-1],
        np.array([[body.side(t, v, -1) for t in ts[::-1]] for v in vs]),
        np.array([[body.top(t, u) for u in us] for t in ts[::-1]]),
    ]
    low, high = body.cabin()
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)):
        steps = np.linspace(0, 1, 6)
        face = np.array([high[i], high[j], low[j], low[i]])
        grids.append(np.array([[on_quad(face, u, v) for u in steps] for v in steps]))
    grids.append(_roof(high))
    quads = [
        np.stack([g[:-1, :-1], g[:-1, 1:], g[1:, 1:], g[1:, :-1]], axis=2).reshape(-1, 4, 3)
        for g in grids
    ]
    return _outward(np.concatenate(quads), shape)


def _roof(high: Points) -> Points:
    steps = np.linspace(0, 1, 9)
    roof = np.array([[on_quad(high, u, v) for u in steps] for v in steps])
    crown = np.outer(1 - (2 * steps - 1) ** 2, 1 - (2 * steps - 1) ** 2)
    roof[:, :, 2] += 0.07 * crown
    return roof


def _outward(quads: Points, shape: Shape) -> Points:
    """Turn every quadrilateral so that its normal points out of the car."""
    middle = np.array([-shape.length / 2, 0.0, (shape.sill + shape.belt) / 2])
    inward = np.einsum("ij,ij->i", normals_of(quads), quads.mean(axis=1) - middle) < 0
    quads[inward] = quads[inward, ::-1]
    return quads


def normals_of(quads: Points) -> Points:
    """Return the unit normals of quadrilaterals."""
    normals = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1), 1e-9)[:, None])


@cache
def plate_image(text: str) -> Bgr:
    """Return a number plate: black on white, a blue band at its left."""
    plate = np.full((164, 736, 3), 250, np.uint8)
    plate[:, :64] = (160, 70, 20)
    paste(plate, lettering("TR", 30, (255, 255, 255), (160, 70, 20)), (32, 128), (44, 30))
    paste(plate, lettering(text, 110, (16, 16, 16), (250, 250, 250)), (402, 82), (628, 112))
    for edge in (plate[:6], plate[-6:], plate[:, :6], plate[:, -6:]):
        edge[:] = 30
    return plate


class CarPainter:
    """Paints one car in one pose."""

    def __init__(self, canvas: Canvas, car: Car, pose: Pose) -> None:
        self.canvas = canvas
        self.car = car
        self.pose = pose
        self.body = Body(car.shape)
        cos, sin = np.cos(pose.heading), np.sin(pose.heading)
        self.turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        # The front follows the lane; the car swings around its middle.
        self.origin = np.array([pose.x, pose.y, 0.0])
        self.eye = (canvas.view.eye - self.origin) @ self.turn

    def paint(self) -> None:
        """Paint everything, far and low things first."""
        self._shadow()
        for x in self._axles():
            for left in (1, -1):
                self._tread(x, left)
        self._bodywork()
        self._cabin_windows()
        if self.eye[0] > 0:
            self._nose()
        if self.eye[0] < -self.car.shape.length:
            self._tail()
        for left in (1, -1):
            if self.eye[1] * left > self.car.shape.width / 2:
                self._flank(left)

    def headlamps(self) -> list[tuple[float, float, float]]:
        """Return the places in the world of the headlamps, none when they are out of view."""
        if self.eye[0] < 0:
            return []
        at = self.body.front
        places = self._world(np.array([at(-0.76, 0.76), at(0.76, 0.76)]))
        return [(float(p[0]), float(p[1]), float(p[2])) for p in places]

    def _world(self, points: Points) -> Points:
        return np.asarray(points @ self.turn.T + self.origin)

    def _fill(self, points: Points, colour: Colour) -> None:
        lit = np.array(colour) * (0.6 + 0.4 * self.canvas.light.ambient)
        self.canvas.fill(self._world(points), lit * np.array(self.canvas.light.tint))

    def _shadow(self) -> None:
        s = self.car.shape
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        round_x = np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** 0.35
        round_y = np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** 0.35
        sun = np.array(self.canvas.light.sun)
        shift = -sun[:2] / max(sun[2], 0.3) * 0.35 * self.canvas.light.diffuse
        for grown in (0.34, 0.26, 0.18, 0.1, 0.02, -0.06):
            x = -s.length / 2 + round_x * (s.length / 2 + grown)
            y = round_y * (s.width / 2 + grown)
            points = self._world(np.stack([x, y, np.zeros_like(x)], axis=1))
            points[:, :2] += shift
            self.canvas.blend(points, (18, 16, 16), 0.26)

    def _axles(self) -> tuple[float, float]:
        return -0.19 * self.car.shape.length, -0.81 * self.car.shape.length

    def _wheel(self, x: float, y: float, radius: float, count: int = 28) -> Points:
        angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
        z = self.car.shape.wheel + radius * np.sin(angles)
        return np.stack([x + radius * np.cos(angles), np.full(count, y), z], axis=1)

    def _tread(self, x: float, left: int) -> None:
        s = self.car.shape
        outer, inner = (
            self._wheel(x, left * (s.width / 2 - inset_m), s.wheel) for inset_m in (0.03, 0.26)
        )
        for i in range(len(outer)):
            j = (i + 1) % len(outer)
            self._fill(np.array([outer[i], outer[j], inner[j], inner[i]]), TYRE)

    def _bodywork(self) -> None:
        quads = mesh(self.car.shape)
        normals = normals_of(quads)
        middles = quads.mean(axis=1)
        facing = np.einsum("ij,ij->i", normals, self.eye - middles) > 0
        quads, normals, middles = quads[facing], normals[facing], middles[facing]
        colours = np.tile(np.array(self.car.colour, float), (len(quads), 1))
        colours[middles[:, 2] < self.car.shape.sill + 0.09] = DARK
        shaded = self.canvas.light.shade(colours, normals @ self.turn.T)
        world = self._world(quads.reshape(-1, 3)).reshape(-1, 4, 3)
        for i in np.argsort(-np.linalg.norm(middles - self.eye, axis=1), kind="stable"):
            self.canvas.fill(world[i], shaded[i])

    def _cabin_windows(self) -> None:
        low, high = self.body.cabin()
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)):
            face = np.array([high[i], high[j], low[j], low[i]])
            normal = normals_of(face[None])[0]
            if normal @ (face.mean(axis=0) - np.array([-self.car.shape.length / 2, 0, 1])) < 0:
                normal = -normal
            if normal @ (self.eye - face.mean(axis=0)) <= 0:
                continue
            if i in (1, 3):
                self._side_windows(face if i == 3 else face[[1, 0, 3, 2]])
            else:
                self._screen(face)

    def _screen(self, face: Points) -> None:
        front = bool(face[0][0] > -0.5 * self.car.shape.length)
        if self.car.shape.panel_van and not front:
            for u in (0.06, 0.53):
                self._fill(inset(face, u, 0.12, u + 0.41, 0.62), GLASS)
            return
        self._fill(inset(face, 0.05, 0.08, 0.95, 0.93), GLASS)
        for u, colour in ((0.28, (74, 62, 54)), (0.72, (74, 62, 54))):
            angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
            seat = [on_quad(face, u + 0.1 * np.cos(a), 0.56 + 0.3 * np.sin(a)) for a in angles]
            self._fill(np.array([p for p in seat if p[2] > face[2][2] + 0.08]), colour)
        if front:
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            head = [on_quad(face, 0.28 + 0.052 * np.cos(a), 0.45 + 0.2 * np.sin(a)) for a in angles]
            self._fill(np.array(head), (120, 150, 190))
        shine = [(0.60, 0.08), (0.72, 0.08), (0.56, 0.93), (0.44, 0.93)]
        points = self._world(np.array([on_quad(face, u, v) for u, v in shine]))
        self.canvas.blend(points, GLASS_SHINE, 0.22)

    def _side_windows(self, face: Points) -> None:
        """Paint the windows of a side; the face begins at its upper rear corner."""
        spans = ((0.06, 0.47), (0.52, 0.93))
        if self.car.shape.panel_van:
            spans = ((0.70, 0.95), (0.70, 0.95))
        if self.car.shape is PICKUP:
            spans = ((0.10, 0.90), (0.10, 0.90))
        for begin, end in spans:
            self._fill(inset(face, begin, 0.12, end, 0.92), GLASS)
            shine = inset(face, begin + 0.05, 0.12, begin + 0.12, 0.92)
            self.canvas.blend(self._world(shine), GLASS_SHINE, 0.2)

    def _patch(self, rear: bool, outline: list[tuple[float, float]], colour: Colour) -> None:
        at = self.body.rear if rear else self.body.front
        offset = np.array([-0.012 if rear else 0.012, 0, 0])
        dense = []
        for i, (u, v) in enumerate(outline):
            u1, v1 = outline[(i + 1) % len(outline)]
            dense += [at(u + (u1 - u) * k / 5, v + (v1 - v) * k / 5) + offset for k in range(5)]
        self._fill(np.array(dense), colour)

    def _nose(self) -> None:
        self._patch(False, [(-0.62, 0.03), (0.62, 0.03), (0.72, 0.2), (-0.72, 0.2)], DARK)
        self._patch(False, [(-0.46, 0.66), (0.46, 0.66), (0.5, 0.9), (-0.5, 0.9)], DARK)
        for v in (0.71, 0.81):
            bar = [(-0.44, v), (0.44, v), (0.44, v + 0.025), (-0.44, v + 0.025)]
            self._patch(False, bar, (120, 116, 112))
        badge = [(0.05 * np.cos(a), 0.78 + 0.1 * np.sin(a)) for a in np.linspace(0, 6.0, 14)]
        self._patch(False, badge, (225, 222, 220))
        for left in (1, -1):
            lamp = [(0.56, 0.66), (0.93, 0.70), (0.95, 0.88), (0.58, 0.88)]
            self._patch(False, [(u * left, v) for u, v in lamp], (150, 146, 142))
            lamp = [(0.59, 0.69), (0.90, 0.73), (0.92, 0.86), (0.61, 0.86)]
            self._patch(False, [(u * left, v) for u, v in lamp], (245, 255, 255))
            fog = [(0.76, 0.22), (0.88, 0.24), (0.88, 0.34), (0.76, 0.34)]
            self._patch(False, [(u * left, v) for u, v in fog], (70, 66, 64))
        self._plate(rear=False, z=self.body.front(0, 0.40)[2])

    def _tail(self) -> None:
        self._patch(True, [(-0.97, 0.0), (0.97, 0.0), (0.97, 0.2), (-0.97, 0.2)], DARK)
        red = (58, 48, 255) if self.pose.braking else (34, 26, 140)
        for left in (1, -1):
            lamp = [(0.56, 0.64), (0.97, 0.62), (0.97, 0.9), (0.62, 0.9)]
            self._patch(True, [(u * left, v) for u, v in lamp], (30, 24, 90))
            lamp = [(0.59, 0.67), (0.95, 0.65), (0.95, 0.87), (0.64, 0.87)]
            self._patch(True, [(u * left, v) for u, v in lamp], red)
            core = [(0.70, 0.73), (0.88, 0.72), (0.88, 0.81), (0.72, 0.81)]
            bright = (190, 190, 255) if self.pose.braking else (60, 52, 190)
            self._patch(True, [(u * left, v) for u, v in core], bright)
        self._patch(True, [(-0.3, 0.68), (0.3, 0.68), (0.3, 0.73), (-0.3, 0.73)], RIM)
        self._plate(rear=True, z=self.body.rear(0, 0.42)[2])

    def _plate(self, *, rear: bool, z: float) -> None:
        x, left = (-self.car.shape.length - 0.03, 1) if rear else (0.03, -1)
        half, tall = PLATE_M[0] / 2, PLATE_M[1] / 2
        corners = [(x, left * half, z + tall), (x, -left * half, z + tall)]
        corners += [(x, -left * half, z - tall), (x, left * half, z - tall)]
        self.canvas.texture(self._world(np.array(corners)), plate_image(self.car.plate))

    def _flank(self, left: int) -> None:
        s = self.car.shape
        for x in self._axles():
            y = left * (self.body.half_width(s.wheel) + 0.012)
            arch = self._wheel(x, y, s.wheel + 0.07)
            self._fill(arch[arch[:, 2] > s.sill - 0.02], DARK)
            self._fill(self._wheel(x, y, s.wheel), TYRE)
            self._fill(self._wheel(x, y, s.wheel * 0.66), RIM)
            for i in range(5):
                angle = -self.pose.travelled_m / s.wheel + i * 2 * np.pi / 5
                spoke = [angle - 0.32, angle + 0.32]
                reach = [(0.2, spoke[0]), (0.58, spoke[0]), (0.58, spoke[1]), (0.2, spoke[1])]
                hole = [
                    (x + r * s.wheel * np.cos(a), y, s.wheel * (1 + r * np.sin(a)))
                    for r, a in reach
                ]
                self._fill(np.array(hole), (70, 66, 64))
        for t in (s.cabin[0] + 0.08, (s.cabin[0] + s.cabin[2]) / 2 + 0.06):
            seam = [self.body.side(t, v, left) for v in np.linspace(0.12, 1, 9)]
            back = [p - np.array([0.02, 0, 0]) for p in reversed(seam)]
            self.canvas.blend(self._world(np.array(seam + back)), (20, 18, 18), 0.45)
        self._mirror(left)

    def _mirror(self, left: int) -> None:
        s = self.car.shape
        x, y = -s.length * s.cabin[0] - 0.32, left * (s.width / 2 - 0.04)
        angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        for shift, colour in ((0.0, DARK), (0.03, self.car.colour)):
            mirror = [
                (x + shift, y + left * (0.12 + 0.13 * np.cos(a)), s.belt + 0.12 + 0.09 * np.sin(a))
                for a in angles
            ]
            self._fill(np.array(mirror), colour)
