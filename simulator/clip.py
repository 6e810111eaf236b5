"""Clips as a camera plays them: encoded pictures and the cars to be seen in them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_START_CODE: Final = re.compile(rb"\x00\x00\x00?\x01")
_SLICE_IDR: Final = 5
_SPS: Final = 7
_PPS: Final = 8
_DELIMITER: Final = 9


@dataclass(frozen=True)
class Picture:
    """One access unit: its NAL units without start codes and delimiter."""

    nals: tuple[bytes, ...]
    is_key: bool


@dataclass(frozen=True)
class Visit:
    """A car that stands at the line from one frame until another."""

    plate: str
    stops_at_frame: int
    leaves_at_frame: int


@dataclass(frozen=True)
class Clip:
    """A loop of H.264 pictures."""

    name: str
    label: str
    fps: int
    pictures: tuple[Picture, ...]
    visits: tuple[Visit, ...]
    parameter_sets: tuple[bytes, ...]

    @property
    def profile_level_id(self) -> str:
        """Return the three bytes that name the profile, in hexadecimal."""
        return self.parameter_sets[0][1:4].hex()

    @property
    def sprop_parameter_sets(self) -> str:
        """Return SPS and PPS as an SDP writes them."""
        return ",".join(base64.b64encode(nal).decode() for nal in self.parameter_sets)


def load(path: Path) -> Clip:
    """Read a raw H.264 stream with delimiters, and the JSON beside it.

    Raises:
        OSError: a file can't be read.
        ValueError: it is not such a stream.
    """
    about: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    pictures = tuple(_pictures(path.read_bytes()))
    if not pictures or not pictures[0].is_key or len(pictures) != about["frames"]:
        raise ValueError(f"{path} has {len(pictures)} pictures, not the {about['frames']} it names")
    sets = tuple(nal for nal in pictures[0].nals if nal[0] & 0x1F in (_SPS, _PPS))
    if [nal[0] & 0x1F for nal in sets] != [_SPS, _PPS]:
        raise ValueError(f"{path} does not begin with its parameter sets")
    return Clip(
        name=path.stem,
        label=about["label"],
        fps=about["fps"],
        pictures=pictures,
        visits=tuple(Visit(**car) for car in about["cars"]),
        parameter_sets=sets,
    )


def _pictures(stream: bytes) -> Iterator[Picture]:
    nals: list[bytes] = []
    for nal in _START_CODE.split(stream)[1:]:
        if nal and nal[0] & 0x1F == _DELIMITER:
            if nals:
                yield _picture(nals)
            nals = []
        elif nal:
            nals.append(nal.rstrip(b"\x00"))
    if nals:
        yield _picture(nals)


def _picture(nals: list[bytes]) -> Picture:
    return Picture(tuple(nals), any(nal[0] & 0x1F == _SLICE_IDR for nal in nals))
