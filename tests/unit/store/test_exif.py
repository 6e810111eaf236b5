"""EXIF in finished JPEGs: read back by another reader, the picture untouched."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from camera.decoder import decode_jpeg
from store.exif import Facts, event_in, event_in_file, with_exif
from store.image_files import jpeg_size

EDGE = datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)


def picture() -> bytes:
    done, jpeg = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 255, (48, 64, 3), "u1"))
    assert done
    return bytes(jpeg.tobytes())


def facts(edge_at: datetime = EDGE, site_id: str = "gate-1") -> Facts:
    return Facts(edge_at, -3.2, site_id, "r1", 7)


def test_everything_is_read_back() -> None:
    with Image.open(io.BytesIO(with_exif(picture(), facts()))) as image:
        exif = image.getexif()
    details = exif.get_ifd(IFD.Exif)
    assert details[Base.DateTimeOriginal] == "2026:01:02 03:04:05"
    assert details[Base.SubsecTimeOriginal] == "123456"
    assert details[Base.OffsetTimeOriginal] == "+00:00"
    assert exif[Base.ImageDescription] == "gate-1 r1 event 7"
    assert str(exif[Base.Software]).startswith("camera-capture ")
    comment = details[Base.UserComment]
    assert comment[:8] == b"ASCII\0\0\0"
    assert json.loads(comment[8:]) == {
        "edge_at": "2026-01-02T03:04:05.123456Z",
        "offset_ms": -3.2,
        "site": "gate-1",
        "camera": "r1",
        "event": 7,
        "software": exif[Base.Software],
    }


def test_the_edge_is_written_in_utc() -> None:
    local = EDGE.astimezone(timezone(timedelta(hours=3)))
    assert with_exif(picture(), facts(local)) == with_exif(picture(), facts())


def test_the_scan_is_untouched() -> None:
    jpeg = picture()
    with_facts = with_exif(jpeg, facts())
    assert with_facts.endswith(jpeg[2:])
    assert jpeg_size(with_facts) == (64, 48)
    pictures = [decode_jpeg(with_facts), decode_jpeg(jpeg)]
    assert pictures[0] is not None
    assert pictures[1] is not None
    assert np.array_equal(pictures[0][0], pictures[1][0])


def test_what_is_no_jpeg_is_refused() -> None:
    with pytest.raises(ValueError, match="not a JPEG"):
        with_exif(b"GIF89a", facts())


def test_a_picture_tells_its_event() -> None:
    assert event_in(with_exif(picture(), facts())) == (7, EDGE)
    assert event_in(with_exif(picture(), facts(site_id='{"}\\'))) == (7, EDGE)


@pytest.mark.parametrize(
    "comment",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 60_000,
        b'{"event": 7}',
        b'{"event": 7, "edge_at": 7}',
        b'{"event": 7, "edge_at": "yesterday"}',
        b'{"event": 7, "edge_at": "0001-01-01T00:00:00+14:00"}',
        b'{"event": null, "edge_at": "2026-01-02T03:04:05Z"}',
        b'{"event": 1e999, "edge_at": "2026-01-02T03:04:05Z"}',
        b'{"event": 99999999999999999999, "edge_at": "2026-01-02T03:04:05Z"}',
        b"\xff\xfe{}",
    ],
)
def test_nonsense_tells_no_event(comment: bytes) -> None:
    body = b"Exif\0\0ASCII\0\0\0" + comment
    head = b"\xff\xd8\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    assert event_in(head) is None


def test_pictures_of_others_tell_no_event() -> None:
    assert event_in(picture()) is None
    assert event_in(b"") is None
    whole = with_exif(picture(), facts())
    assert [n for n in range(4, 200) if event_in(whole[:n]) not in (None, (7, EDGE))] == []


def test_a_file_tells_its_event_unless_it_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "r1_5.jpg"
    assert event_in_file(path) is None
    path.write_bytes(with_exif(picture(), facts()) + b"\0" * 100_000)
    assert event_in_file(path) == (7, EDGE)
    assert event_in_file(tmp_path) is None  # a folder
