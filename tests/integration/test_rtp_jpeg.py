"""JPEGs that ffmpeg sends by RTP, put together again."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from camera.decoder import Bgr
from rtsp.rtp import CodedPicture, RtpReceiver
from tests.rigs.clips import FFMPEG

CLIP = Path(__file__).parents[2] / "demo" / "clips" / "entry.h264"


def received(packets: list[bytes], size: tuple[int, int] = (0, 0)) -> list[CodedPicture]:
    receiver = RtpReceiver("mjpeg", payload_type=26, clock_hz=90_000, size=size)
    pictures: list[CodedPicture] = []
    for one in packets:
        receiver.feed(one, 0.0, pictures)
    return pictures


def jpeg_packets(path: Path) -> list[bytes]:
    """Let ffmpeg send a JPEG by RTP and return the packets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        url = f"rtp://127.0.0.1:{sock.getsockname()[1]}"
        command = [FFMPEG, "-v", "quiet", "-i", str(path), "-c", "copy", "-f", "rtp", url]
        subprocess.run(command, check=True)
        found = [sock.recv(65536)]
        while not found[-1][1] & 0x80:
            found.append(sock.recv(65536))
    return found


def wide_jpeg(path: Path, quality: int) -> Bgr:
    """Write a JPEG as RTP can carry it and return what it shows."""
    capture = cv2.VideoCapture(str(CLIP))
    bgr = np.asarray(capture.read()[1], np.uint8)
    capture.release()
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    cv2.imwrite(str(path), bgr, flags)
    return np.asarray(cv2.imread(str(path)), np.uint8)


def picture_of(jpeg: bytes) -> Bgr:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def test_a_jpeg_is_put_together_again(tmp_path: Path) -> None:
    shown = wide_jpeg(tmp_path / "a.jpg", 85)
    packets = jpeg_packets(tmp_path / "a.jpg")
    assert len(packets) > 20
    found = received(packets)
    assert [(p.key, p.torn) for p in found] == [(True, False)]
    assert np.array_equal(picture_of(found[0].data), shown)


@pytest.mark.parametrize("lost", [0, 7])
def test_a_jpeg_that_lacks_a_part_is_torn(tmp_path: Path, lost: int) -> None:
    wide_jpeg(tmp_path / "a.jpg", 85)
    packets = jpeg_packets(tmp_path / "a.jpg")
    del packets[lost]
    assert [p.torn for p in received(packets)] == [True]


@pytest.mark.parametrize("quality", [10, 50, 75, 99])
def test_the_standard_tables_of_a_quality(tmp_path: Path, quality: int) -> None:
    """Say the quality instead of sending the tables; libjpeg makes them by the same rule."""
    shown = wide_jpeg(tmp_path / "a.jpg", quality)
    packets = jpeg_packets(tmp_path / "a.jpg")
    head = packets[0][:12]
    tables_bytes = 4 + int.from_bytes(packets[0][22:24], "big")
    packets[0] = head + packets[0][12:20] + packets[0][20 + tables_bytes :]
    said = [one[:17] + bytes([quality]) + one[18:] for one in packets]
    found = received(said)
    assert np.array_equal(picture_of(found[0].data), shown)


def test_tables_that_are_sent_only_once(tmp_path: Path) -> None:
    shown = wide_jpeg(tmp_path / "a.jpg", 85)
    first = [one[:17] + bytes([200]) + one[18:] for one in jpeg_packets(tmp_path / "a.jpg")]
    tables_bytes = int.from_bytes(first[0][22:24], "big")
    bare = [first[0][:22] + b"\0\0" + first[0][24 + tables_bytes :], *first[1:]]
    second = [
        one[:2] + (int.from_bytes(one[2:4], "big") + len(first)).to_bytes(2, "big") + b"late"
        + one[8:]
        for one in bare
    ]  # fmt: skip
    found = received([*first, *second])
    assert len(found) == 2
    assert np.array_equal(picture_of(found[1].data), shown)


def test_a_picture_too_large_for_its_packets_to_tell(tmp_path: Path) -> None:
    """Width and height are bytes, in units of 8 pixels: 0 where they don't fit (RFC 2435)."""
    shown = wide_jpeg(tmp_path / "a.jpg", 85)
    packets = [one[:18] + b"\0\0" + one[20:] for one in jpeg_packets(tmp_path / "a.jpg")]
    height, width = shown.shape[:2]
    found = received(packets, (width, height))
    assert np.array_equal(picture_of(found[0].data), shown)


def test_a_scan_that_is_a_whole_file_is_taken_as_it_is(tmp_path: Path) -> None:
    wide_jpeg(tmp_path / "a.jpg", 85)
    whole = (tmp_path / "a.jpg").read_bytes()
    size = 1000
    packets = []
    for number, start in enumerate(range(0, len(whole), size)):
        last = start + size >= len(whole)
        head = bytes([0x80, 26 | 0x80 * last]) + number.to_bytes(2, "big") + bytes(8)
        described = b"\0" + start.to_bytes(3, "big") + bytes([1, 50, 80, 45])
        packets.append(head + described + whole[start : start + size])
    assert [p.data for p in received(packets)] == [whole]
