"""What is visibly wrong with a picture, and how sharp it is.

Everything is judged on the picture reduced to a width of 640 pixels, so that thresholds fit every
camera and a look costs a few milliseconds. A flag never keeps a picture from being saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from camera.decoder import Bgr, reduced

Grey = npt.NDArray[np.uint8]
"""A reduced picture without colour: uint8, (height, 640)."""

_WIDTH: Final = 640
_BLOCK: Final = 16
_BLACK_LEVEL: Final = 32  # a night picture has a lamp, a reflection or a sky above it
_LIT_SHARE: Final = 0.002
_VOID_LEVELS: Final = range(127, 133)  # in each channel: FFmpeg's grey where data is missing
_VOID_SHARE: Final = 0.08
_STREAK_DIFFERENCE: Final = 0.2
_STREAK_DEVIATION: Final = 8.0
_STREAK_CHANGES: Final = 0.15
_STREAK_SHARE: Final = 0.08
_BLURRED: Final = 0.012  # of a 1080p picture after a Gaussian blur of about 5 pixels
_SAME_MEAN: Final = 0.4
_SAME_PEAK: Final = 20
_FROZEN_S: Final = 1.0


@dataclass(frozen=True)
class Verdict:
    """What one picture looks like.

    `small` is the picture reduced. `sharpness` is the variance of the Laplacian in squared grey
    levels (Pech-Pacheco et al. 2000, a standard focus measure): it compares pictures of one scene.
    `flags` are of black, smeared, blurred.
    """

    small: Bgr
    grey: Grey
    sharpness: float
    flags: tuple[str, ...]


def judge(bgr: Bgr) -> Verdict:
    """Judge one picture."""
    small = reduced(bgr, _WIDTH)
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)
    sharpness = _variance(cv2.Laplacian(grey, cv2.CV_16S))
    flags: tuple[str, ...] = ()
    if np.count_nonzero(grey >= _BLACK_LEVEL) < _LIT_SHARE * grey.size:
        flags = ("black",)
    elif _void_share(small) >= _VOID_SHARE or _streak_share(grey) >= _STREAK_SHARE:
        flags = ("smeared",)
    # Less contrast makes a sharp picture's Laplacian small too: fog and dusk are not blur.
    elif sharpness < _BLURRED * _variance(grey):
        flags = ("blurred",)
    return Verdict(small, grey, sharpness, flags)


def _variance(levels: npt.NDArray[np.generic]) -> float:
    deviation = cv2.meanStdDev(levels)[1]
    return float(deviation[0][0]) ** 2


def _void_share(small: Bgr) -> float:
    """Return the share of blocks that hold nothing but the grey of missing picture data.

    It is one level throughout: fog, a grey wall or a cloudy sky have noise or a gradient.
    """
    low, high = _VOID_LEVELS[0], _VOID_LEVELS[-1]
    greyish = np.count_nonzero(cv2.inRange(small, (low,) * 3, (high,) * 3))
    if greyish < _VOID_SHARE * small.shape[0] * small.shape[1]:  # nearly always
        return 0.0
    blocks = (max(1, small.shape[1] // _BLOCK), max(1, small.shape[0] // _BLOCK))
    counts = []
    for level in _VOID_LEVELS:
        void = cv2.inRange(small, (level,) * 3, (level,) * 3)
        shares = cv2.resize(void, blocks, interpolation=cv2.INTER_AREA)
        counts.append(int(np.count_nonzero(shares == 255)))
    return float(max(counts) / (blocks[0] * blocks[1]))


def _streak_share(grey: Grey) -> float:
    """Return which share of the height is equal rows at the bottom; 0 for a test pattern's bars.

    A decoder that lacks a picture's lower part may repeat the last row it has. A row of a scene
    changes from pixel to pixel, one of a test pattern only here and there.
    """
    last = grey[-1:].astype(np.int16)
    changes = np.count_nonzero(np.diff(last)) / last.size
    if changes < _STREAK_CHANGES or last.std() < _STREAK_DEVIATION:
        return 0.0
    if np.abs(grey[-2:-1] - last).mean() > _STREAK_DIFFERENCE:  # nearly always
        return 0.0
    differences = np.abs(grey - last).mean(axis=1)
    other = np.flatnonzero(differences > _STREAK_DIFFERENCE)
    start = int(other[-1]) + 1 if other.size else len(grey)
    return (len(grey) - start) / len(grey)


class FreezeWatch:
    """Notice that one camera shows the same picture again and again."""

    def __init__(self) -> None:
        self._seen: tuple[Grey, float] | None = None

    def is_frozen(self, grey: Grey, shot_s: float) -> bool:
        """Tell whether the same picture was first shown at least a second ago."""
        if self._seen is None or not _are_same(self._seen[0], grey):
            self._seen = (grey, shot_s)
            return False
        return shot_s - self._seen[1] >= _FROZEN_S


def _are_same(one: Grey, other: Grey) -> bool:
    """Tell whether two pictures differ no more than two encodings of one picture do."""
    if one.shape != other.shape:
        return False
    difference: Grey = np.asarray(cv2.absdiff(one, other), np.uint8)
    return bool(difference.mean() <= _SAME_MEAN) and int(difference.max()) <= _SAME_PEAK
