"""Pictures that differ from each other and tell by themselves whether they are whole."""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any, Final

from tests.rigs.stores import JPEG

_START: Final = b"\xff\xd8"
_COMMENT: Final = b"\xff\xfe"
_EXIF: Final = b"\xff\xe1"
_DIGEST_BYTES: Final = 32
_SEGMENT_BYTES: Final = 60_000
_FACTS: Final = re.compile(rb"ASCII\0\0\0(\{[^}]*\})")
THUMBNAIL: Final = JPEG


def make(chance: random.Random, size_bytes: int) -> bytes:
    """Return a JPEG unlike any other, of about this size."""
    noise = chance.randbytes(size_bytes)
    parts = [noise[at : at + _SEGMENT_BYTES] for at in range(0, size_bytes, _SEGMENT_BYTES)]
    body = b"".join(_segment(part) for part in parts)
    return _START + body + _segment(hashlib.sha256(body).digest()) + JPEG[len(_START) :]


def is_whole(jpeg: bytes) -> bool:
    """Tell whether a picture made here, with or without EXIF, has all its bytes."""
    body = jpeg[len(_START) :]
    if body.startswith(_EXIF):
        body = body[2 + int.from_bytes(body[2:4], "big") :]
    end = JPEG[len(_START) :]
    if not jpeg.startswith(_START) or not body.endswith(end):
        return False
    body = body[: -len(end)]
    head, seal = body[: -_DIGEST_BYTES - 4], body[-_DIGEST_BYTES - 4 :]
    return seal == _segment(hashlib.sha256(head).digest())


def facts_in(jpeg: bytes) -> dict[str, Any]:
    """Return what the program wrote into a picture: its edge, camera, event, ...

    Raises:
        ValueError: there is nothing of it.
    """
    found = _FACTS.search(jpeg)
    if found is None:
        raise ValueError("no facts in the picture")
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def _segment(content: bytes) -> bytes:
    return _COMMENT + (len(content) + 2).to_bytes(2, "big") + content
