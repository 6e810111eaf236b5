"""The three gates: what stands still, the barrier, and the timetable of the cars.

World as in `canvas`: the stop line is x = 0, cars drive towards larger x, the barrier is behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from demo.canvas import Canvas, Colour, Light, Place, Points, View, lettering
from demo.cars import HATCHBACK, PICKUP, SALOON, SUV, VAN, Car, CarPainter, Pose
from demo.frame_number import Bgr, draw

FPS: Final = 25
_LANE_HALF_M: Final = 1.9
_FAR_M: Final = -60.0
_BARRIER_X: Final = 0.95
_ARM_M: Final = 3.5
_ARM_Z: Final = 1.12

# The life of a visit, in seconds: drive up, stand, the arm rises, drive off, the arm falls.
_DRIVE_UP_S: Final = 3.2
_STAND_S: Final = 2.4
_ARM_RISES_AFTER_S: Final = 1.2
_ARM_MOVES_S: Final = 1.0
_DRIVE_OFF_S: Final = 3.0
_APPROACH_M: Final = 17.0
_GONE_M: Final = 14.0


@dataclass(frozen=True)
class Visit:
    """One car and the second of the clip at which it stands at the line."""

    car: Car
    stops_at_s: float

    @property
    def stops_at_frame(self) -> int:
        """Return the first frame in which the car stands."""
        return round(self.stops_at_s * FPS)

    @property
    def leaves_at_frame(self) -> int:
        """Return the frame in which it starts to move again."""
        return self.stops_at_frame + round(_STAND_S * FPS)

    def pose(self, frame: int) -> Pose | None:
        """Return where the car is in a frame, None while it is out of sight."""
        s = (frame - self.stops_at_frame) / FPS
        if -_DRIVE_UP_S <= s < 0:
            x = -_APPROACH_M * (s / _DRIVE_UP_S) ** 2
        elif 0 <= s <= _STAND_S:
            x = 0.0
        elif _STAND_S < s < _STAND_S + _DRIVE_OFF_S:
            x = _GONE_M * ((s - _STAND_S) / _DRIVE_OFF_S) ** 2
        else:
            return None
        sway = 0.5 * (1 - np.cos(np.pi * np.clip((-x - 5) / 10, 0, 1)))
        return Pose(x, 0.9 * sway, -0.09 * sway * (1 - sway) * 4, x, s <= _STAND_S - 0.4)

    def arm(self, frame: int) -> float:
        """Return how far this visit has the arm raised, from 0 to 1."""
        s = (frame - self.stops_at_frame) / FPS
        rise = np.clip((s - _ARM_RISES_AFTER_S) / _ARM_MOVES_S, 0, 1)
        fall = np.clip((s - _STAND_S - _DRIVE_OFF_S * 0.85) / _ARM_MOVES_S, 0, 1)
        eased = 0.5 - 0.5 * np.cos(np.pi * (rise - fall))
        return float(eased)


@dataclass(frozen=True)
class Gate:
    """One camera's place: view, light, surroundings, and who comes when."""

    name: str
    label: str
    view: View
    light: Light
    scenery: str
    side: int
    """Where the barrier's housing stands: 1 left of the lane, -1 right of it."""
    visits: tuple[Visit, ...]
    seconds: float

    @property
    def frames(self) -> int:
        """Return the length of the clip."""
        return round(self.seconds * FPS)


GATES: Final = (
    Gate(
        name="entry",
        label="Entry",
        view=View((5.6, -2.5, 2.5), (-2.4, 0.35, 0.75), 58),
        light=Light((0.5, -0.5, 0.8), 0.58, 0.50),
        scenery="street",
        side=1,
        visits=(
            Visit(Car("34 KLM 507", HATCHBACK, (44, 40, 190)), 6.0),
            Visit(Car("06 AZ 8142", SUV, (92, 74, 44)), 16.0),
            Visit(Car("35 BRT 266", SALOON, (168, 166, 164)), 26.0),
        ),
        seconds=33,
    ),
    Gate(
        name="exit",
        label="Exit",
        view=View((5.5, 2.4, 2.3), (-2.4, -0.35, 0.8), 60),
        light=Light((0.9, 0.1, 0.7), 0.66, 0.34, (0.93, 1.0, 1.03)),
        scenery="garage",
        side=-1,
        visits=(
            Visit(Car("16 DH 3391", SALOON, (60, 52, 48)), 9.0),
            Visit(Car("41 PVC 074", HATCHBACK, (52, 150, 214)), 19.0),
            Visit(Car("34 EYF 918", SUV, (222, 222, 224)), 30.0),
        ),
        seconds=37,
    ),
    Gate(
        name="aux",
        label="Auxiliary",
        view=View((5.4, -2.4, 2.3), (-2.4, 0.3, 0.85), 60),
        light=Light((0.5, -0.5, 0.9), 0.30, 0.42, (0.78, 0.96, 1.12), night=True),
        scenery="yard",
        side=1,
        visits=(
            Visit(Car("54 TIR 320", VAN, (232, 232, 230)), 12.0),
            Visit(Car("07 NRG 651", PICKUP, (70, 118, 64)), 25.0),
            Visit(Car("59 VAN 483", VAN, (60, 120, 200)), 36.0),
        ),
        seconds=43,
    ),
)


class GatePainter:
    """Paints the frames of one gate; what never moves is painted once."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._rng = np.random.default_rng(len(gate.name))
        canvas = Canvas(gate.view, gate.light)
        {"street": self._street, "garage": self._garage, "yard": self._yard}[gate.scenery](canvas)
        self._markings(canvas)
        self._still = canvas.picture

    def frame(self, number: int) -> Bgr:
        """Return one picture: uint8, (720, 1280, 3)."""
        canvas = Canvas(self.gate.view, self.gate.light, self._still)
        arm = max(visit.arm(number) for visit in self.gate.visits)
        inside = [(v.car, pose) for v in self.gate.visits if (pose := v.pose(number)) is not None]
        self._housing(canvas, arm)
        behind_the_arm = all(pose.x < _BARRIER_X - 0.1 for _, pose in inside)
        if not behind_the_arm:
            self._arm(canvas, arm)
        for car, pose in inside:
            painter = CarPainter(canvas, car, pose)
            painter.paint()
            if self.gate.light.night:
                for lamp in painter.headlamps():
                    canvas.glow(lamp, 0.75, (150, 190, 205), 0.62)
        if behind_the_arm:
            self._arm(canvas, arm)
        picture = canvas.shrunk()
        self._caption(picture)
        draw(picture, number)
        return picture

    def _lit(self, canvas: Canvas, colour: Colour) -> Points:
        up = np.array([[0.0, 0.0, 1.0]])
        return np.asarray(canvas.light.shade(np.array([colour], float), up)[0])

    def _ground(self, canvas: Canvas, x0: float, x1: float, y0: float, y1: float, colour: Colour,
                z: float = 0.0) -> None:  # fmt: skip
        corners = [(x0, y0, z), (x0, y1, z), (x1, y1, z), (x1, y0, z)]
        canvas.fill(np.array(corners), self._lit(canvas, colour))

    def _gradient(self, canvas: Canvas, top: Colour, bottom: Colour) -> None:
        horizon = max(canvas.view.horizon(), 1)
        steps = np.linspace(0, 1, horizon)[:, None]
        rows = np.array(top) + (np.array(bottom) - np.array(top)) * steps
        height = min(horizon, canvas.picture.shape[0])
        canvas.picture[:height] = rows[:height, None].astype(np.uint8)
        canvas.picture[height:] = self._lit(canvas, (120, 118, 116)).astype(np.uint8)

    def _asphalt(self, canvas: Canvas, colour: Colour, half_m: float = 30.0) -> None:
        """Paint a lane, or a whole yard; worn patches give the ground a scale."""
        self._ground(canvas, _FAR_M, 9, -half_m, half_m, colour)
        lit = self._lit(canvas, colour)
        reach = min(half_m - 0.4, 7.0)
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        for _ in range(220):
            x, y = self._rng.uniform(-22, 3.4), self._rng.uniform(-reach, reach)
            radius = self._rng.uniform(0.05, 0.4) * self._rng.uniform(0.6, 1.0, 12)
            patch = [x + 2 * radius * np.cos(angles), y + radius * np.sin(angles), np.zeros(12)]
            tone = lit * self._rng.uniform(0.88, 1.1)
            canvas.blend(np.stack(patch, axis=1), (int(tone[0]), int(tone[1]), int(tone[2])), 0.5)

    def _markings(self, canvas: Canvas) -> None:
        white: Colour = (226, 228, 228)
        self._ground(canvas, -0.02, 0.30, -_LANE_HALF_M, _LANE_HALF_M, white)
        for y in (-_LANE_HALF_M - 0.14, _LANE_HALF_M):
            self._ground(canvas, -26, 4.2, y, y + 0.14, (60, 190, 226))
        self._loop(canvas)

    def _loop(self, canvas: Canvas) -> None:
        """Paint the saw cut of the induction loop before the line."""
        dark = self._lit(canvas, (58, 56, 54))
        x0, x1, y0, y1, w = -2.6, -0.6, -1.0, 1.0, 0.03
        for a, b, c, d in ((x0, x1, y0, y0 + w), (x0, x1, y1 - w, y1),
                           (x0, x0 + w, y0, y1), (x1 - w, x1, y0, y1)):  # fmt: skip
            canvas.fill(np.array([(a, c, 0), (a, d, 0), (b, d, 0), (b, c, 0)]), dark)

    def _street(self, canvas: Canvas) -> None:
        self._gradient(canvas, (214, 168, 118), (238, 226, 208))
        self._ground(canvas, _FAR_M, 9, -60, 60, (96, 138, 110))
        for x, height, y0, y1, colour in (
            (-46, 13, -38, -12, (150, 168, 186)), (-50, 17, -10, 12, (176, 180, 184)),
            (-44, 10, 14, 44, (140, 152, 178)),
        ):  # fmt: skip
            self._house(canvas, x, y0, y1, height, colour)
        self._ground(canvas, _FAR_M, -30, -40, 40, (112, 110, 108))
        for x, y in ((-34, -15), (-31, 11), (-27, -10.5), (-22, 9.5), (-17, -8.2), (-15, 8.4)):
            self._tree(canvas, x, y)
        self._asphalt(canvas, (112, 110, 108), 4.4)
        self._kerb(canvas, (178, 182, 184))
        self._post_sign(canvas, (-1.6, self.gate.side * 3.5), "P", (176, 92, 24))

    def _garage(self, canvas: Canvas) -> None:
        canvas.picture[:] = (64, 62, 60)
        self._asphalt(canvas, (150, 150, 148))
        self._hall(canvas)
        for x in (-24.0, -17.0, -10.0, -3.4):
            for y in (-4.6, 4.6):
                canvas.box((x - 0.28, y - 0.28, 0.0), (x + 0.28, y + 0.28, 3.6), (172, 176, 178))
                canvas.box((x - 0.3, y - 0.3, 0.3), (x + 0.3, y + 0.3, 1.2), (52, 188, 232))
        self._kerb(canvas, (64, 190, 226))
        self._post_sign(canvas, (-1.4, self.gate.side * 3.2), "EXIT", (72, 140, 38))

    def _hall(self, canvas: Canvas) -> None:
        far, high, wide = -34.0, 3.6, 11.0
        canvas.fill(np.array([(far, -wide, high), (far, wide, high), (2, wide, high),
                              (2, -wide, high)]), (112, 112, 110))  # fmt: skip
        for y, tone in ((-wide, 126), (wide, 138)):
            wall = np.array([(far, y, 0), (far, y, high), (2, y, high), (2, y, 0)])
            canvas.fill(wall, (tone, tone, tone - 3))
            stripe = np.array([(far, y, 0.9), (far, y, 1.5), (2, y, 1.5), (2, y, 0.9)])
            canvas.fill(stripe, (72, 140, 60))
        end = np.array([(far, -wide, 0), (far, -wide, high), (far, wide, high), (far, wide, 0)])
        canvas.fill(end, (148, 148, 146))
        canvas.fill(np.array([(far, -3, 0), (far, -3, 2.8), (far, 3, 2.8), (far, 3, 0)]),
                    (236, 226, 206))  # fmt: skip
        for x in np.arange(-31.0, 1.0, 3.4):
            for y in (-2.6, 2.6):
                tube = [(x, y - 0.12), (x, y + 0.12), (x + 1.7, y + 0.12), (x + 1.7, y - 0.12)]
                canvas.fill(np.array([(a, b, high - 0.05) for a, b in tube]), (250, 252, 248))
                pool = [(x - 0.6, y - 1.1), (x - 0.6, y + 1.1), (x + 2.2, y + 1.1)]
                pool.append((x + 2.2, y - 1.1))
                canvas.blend(np.array([(a, b, 0.0) for a, b in pool]), (205, 206, 202), 0.22)

    def _yard(self, canvas: Canvas) -> None:
        self._gradient(canvas, (40, 24, 16), (74, 52, 40))
        canvas.fill(np.array([(-30, -40, 0), (-30, -40, 7), (-30, 6, 7), (-30, 6, 0)]),
                    (58, 52, 50))  # fmt: skip
        self._asphalt(canvas, (118, 116, 116))
        for y in (-22.0, -14.0, -6.0):
            door = [(-29.9, y, 0), (-29.9, y, 4.4), (-29.9, y + 5, 4.4), (-29.9, y + 5, 0)]
            canvas.fill(np.array(door), (84, 92, 100))
            canvas.glow((-29, y + 2.5, 5.4), 3.4, (120, 190, 230), 0.8)
        canvas.box((-22, 5.2, 0), (-12, 7.6, 2.6), (44, 70, 150))
        canvas.box((-11.6, 5.4, 0), (-5.0, 7.8, 2.6), (120, 84, 40))
        self._fence(canvas)
        self._kerb(canvas, (150, 150, 150))
        for x, y in ((-20.0, -5.4), (-8.0, -4.6), (-1.2, 3.4)):
            canvas.box((x - 0.06, y - 0.06, 0), (x + 0.06, y + 0.06, 4.6), (110, 110, 110))
            canvas.box((x - 0.2, y - 0.35, 4.5), (x + 0.2, y + 0.35, 4.64), (200, 230, 240))
            canvas.glow((x, y, 4.5), 1.5, (150, 215, 250), 0.9)
            angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            for radius in (3.8, 2.7, 1.6):
                x_pool, y_pool = x + radius * np.cos(angles), y + radius * np.sin(angles)
                pool = np.stack([x_pool, y_pool, np.zeros_like(angles)], axis=1)
                canvas.blend(pool, (120, 165, 190), 0.15)

    def _fence(self, canvas: Canvas) -> None:
        for x in np.arange(-28.0, 2.0, 2.0):
            y = -4.0
            canvas.box((x - 0.04, y - 0.04, 0), (x + 0.04, y + 0.04, 2.0), (120, 124, 126))
        for z in (0.4, 0.9, 1.4, 1.9):
            wire = [(-28, -4.0, z), (-28, -4.0, z + 0.03), (0, -4.0, z + 0.03), (0, -4.0, z)]
            canvas.fill(np.array(wire), self._lit(canvas, (140, 144, 146)))

    def _house(
        self, canvas: Canvas, x: float, y0: float, y1: float, height: float, colour: Colour
    ) -> None:
        canvas.box((x - 6, y0, 0), (x, y1, height), colour)
        for z in np.arange(1.6, height - 1.6, 3.0):
            for y in np.arange(y0 + 1.2, y1 - 1.6, 3.0):
                pane = [(x + 0.05, y, z), (x + 0.05, y, z + 1.5), (x + 0.05, y + 1.5, z + 1.5)]
                pane.append((x + 0.05, y + 1.5, z))
                canvas.fill(np.array(pane), (134, 112, 92))

    def _tree(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.box((x - 0.14, y - 0.14, 0), (x + 0.14, y + 0.14, 2.0), (54, 74, 96))
        for _ in range(26):
            dy, dz = self._rng.uniform(-1.5, 1.5), self._rng.uniform(-1.3, 1.5)
            angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            radius = self._rng.uniform(0.45, 0.95)
            leaves = np.stack([np.full(16, x), y + dy + radius * np.cos(angles),
                               3.3 + dz + radius * np.sin(angles)], axis=1)  # fmt: skip
            green = self._rng.uniform(0.8, 1.12) * (1 + dz * 0.12) * np.array((58, 126, 84))
            canvas.fill(leaves, np.clip(green, 0, 255))

    def _kerb(self, canvas: Canvas, colour: Colour) -> None:
        side = self.gate.side
        inner, outer = sorted((side * 2.25, side * 3.9))
        canvas.box((-4.6, inner, 0.0), (2.6, outer, 0.14), colour)
        column_y = side * 2.65
        canvas.box((-0.9, column_y - 0.2, 0.14), (-0.55, column_y + 0.2, 1.35), (60, 60, 62))
        canvas.box((-0.88, column_y - 0.18, 0.95), (-0.53, column_y + 0.18, 1.25), (200, 160, 90))

    def _post_sign(
        self, canvas: Canvas, foot: tuple[float, float], text: str, ground: Colour
    ) -> None:
        x, y = foot
        canvas.box((x - 0.05, y - 0.05, 0.1), (x + 0.05, y + 0.05, 2.3), (130, 130, 130))
        board = np.full((150, 260 if len(text) > 1 else 150, 3), ground, np.uint8)
        word = lettering(text, 74, (255, 255, 255), ground)
        top, left = (board.shape[0] - word.shape[0]) // 2, (board.shape[1] - word.shape[1]) // 2
        board[top : top + word.shape[0], left : left + word.shape[1]] = word
        half = 0.36 * board.shape[1] / board.shape[0]
        corners = [(y - half, 2.75), (y + half, 2.75), (y + half, 2.03), (y - half, 2.03)]
        # Seen from in front of the gate, left and right change places.
        canvas.texture(np.array([(x + 0.08, a, b) for a, b in corners]), board)

    def _housing(self, canvas: Canvas, arm: float) -> None:
        side, x = self.gate.side, _BARRIER_X
        y = side * 2.45
        canvas.box((x - 0.2, y - 0.19, 0.14), (x + 0.2, y + 0.19, 1.28), (40, 150, 236))
        canvas.box((x - 0.22, y - 0.21, 1.24), (x + 0.22, y + 0.21, 1.32), (52, 52, 54))
        lamp: Colour = (70, 220, 80) if arm > 0.95 else (60, 60, 240)
        place: Place = (x + 0.05, y, 1.42)
        canvas.box((x - 0.07, y - 0.07, 1.32), (x + 0.07, y + 0.07, 1.5), lamp)
        canvas.glow(place, 0.34, lamp, 0.5)

    def _arm(self, canvas: Canvas, raised: float) -> None:
        """Paint the arm, red and white, turned around its axle at the housing."""
        side, x = self.gate.side, _BARRIER_X + 0.2
        angle = raised * np.radians(86)
        along = np.array([0.0, -side * np.cos(angle), np.sin(angle)])
        across = np.array([0.0, side * np.sin(angle), np.cos(angle)]) * 0.055
        axle = np.array([x, side * 2.4, _ARM_Z])
        edges = np.linspace(0, _ARM_M, 11)
        for i in range(10):
            a, b = axle + along * edges[i], axle + along * edges[i + 1]
            colour: Colour = (48, 42, 214) if i % 2 else (244, 244, 244)
            quad = np.array([a - across, a + across, b + across, b - across])
            canvas.fill(quad, self._lit(canvas, colour))

    def _caption(self, picture: Bgr) -> None:
        """Write the gate's name into the picture, as cameras do."""
        for colour, thickness in (((20, 20, 20), 5), ((255, 255, 255), 2)):
            font = cv2.FONT_HERSHEY_DUPLEX
            cv2.putText(picture, self.gate.label.upper(), (28, 48), font, 0.9, colour, thickness,
                        cv2.LINE_AA)  # fmt: skip
