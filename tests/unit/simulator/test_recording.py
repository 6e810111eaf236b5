"""Recordings read from their files, and their video gone on with after its end."""

from __future__ import annotations

import base64
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from simulator import rtp
from simulator.playback import repeated
from simulator.recording import Item, RecordingError, read

HEAD = {"format": "rtsprec", "version": 1, "transport": "tcp"}
DIALOGUE: list[dict[str, Any]] = [
    {"at": 0.0, "connected": 1, "tls": False},
    {"at": 0.1, "asked": "DESCRIBE rtsp://192.0.2.1:554/live RTSP/1.0\r\nCSeq: 1\r\n\r\n"},
    {"at": 0.2, "said": "RTSP/1.0 401 No\r\nCSeq: 1\r\n\r\n"},
    {"at": 0.3, "asked": "DESCRIBE rtsp://x RTSP/1.0\r\nAuthorization: (removed)\r\n\r\n"},
    {"at": 0.4, "said": "RTSP/1.0 200 OK\r\nCSeq: 2\r\n\r\n"},
    {"at": 0.5, "asked": "SETUP rtsp://x RTSP/1.0\r\n\r\n"},
    {"at": 0.6, "said": "RTSP/1.0 100 Wait\r\n\r\n"},
    {"at": 0.7, "said": "RTSP/1.0 200 OK\r\nTransport: RTP/AVP/TCP;interleaved=4-5\r\n\r\n"},
    {"at": 0.8, "asked": "PLAY rtsp://x RTSP/1.0\r\nRange: npt=0\r\n\r\n"},
    {"at": 0.9, "said": "RTSP/1.0 457 Invalid Range\r\n\r\n"},
    {"at": 1.0, "asked": "PLAY rtsp://x RTSP/1.0\r\n\r\n"},
    {"at": 1.1, "packet": base64.b64encode(b"\x80\x60early").decode(), "channel": 4},
    {"at": 1.2, "said": "RTSP/1.0 200 OK\r\n\r\n"},
    {"at": 1.3, "said": "GET_PARAMETER * RTSP/1.0\r\n\r\n"},
    {"at": 1.3, "asked": "RTSP/1.0 200 OK\r\nCSeq: 7\r\n\r\n"},
    {"at": 1.4, "asked": "OPTIONS rtsp://x RTSP/1.0\r\n\r\n"},
    {"at": 1.5, "said": "RTSP/1.0 200 OK\r\nPublic: PLAY\r\n\r\n"},
    {"at": 1.6, "bytes": base64.b64encode(b"stray").decode()},
    {"at": 1.7, "datagram": "AAAA", "track": 0, "port": 9, "stranger": True},
    {"at": 1.8, "hung_up": "closed"},
    {"at": 1.9, "end": "the camera closed the connection", "hint": ""},
]


def written(folder: Path, entries: list[dict[str, Any]], head: object = HEAD) -> Path:
    path = folder / "x.rtsprec"
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *entries]))
    return path


def test_a_dialogue_is_understood(tmp_path: Path) -> None:
    recording = read(written(tmp_path, DIALOGUE))
    assert (recording.is_cut, recording.end) == (False, "the camera closed the connection")
    assert recording.uri == "rtsp://192.0.2.1:554/live"
    assert recording.wants_login
    (found,) = recording.connections
    statuses = {method: [r.status for r in replies] for method, replies in found.replies.items()}
    assert statuses == {
        "DESCRIBE": [401, 200],
        "SETUP": [200],
        "PLAY": [457, 200],
        "OPTIONS": [200],
    }
    challenge, described = found.replies["DESCRIBE"]
    assert (challenge.is_challenge, described.is_challenge) == (True, False)
    assert described.delay_s == pytest.approx(0.1)
    assert found.hung_up
    assert [(i.packet or i.raw, i.track) for i in found.items] == [
        (b"\x80\x60early", 0),
        (b"", -1),
        (b"GET_PARAMETER * RTSP/1.0\r\n\r\n", -1),
        (b"stray", -1),
        (b"", -1),
        (b"", -1),
    ]
    assert [i.after_s for i in found.items] == pytest.approx([0.1, 0.2, 0.3, 0.6, 0.8, 0.9])
    assert [i.is_reply for i in found.items].index(True) == 1
    assert [i.is_end for i in found.items].index(True) == 4


def test_an_end_that_is_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path, DIALOGUE)
    text = path.read_text()
    for cut in range(len(json.dumps(HEAD)) + 2, len(text), 7):
        path.write_text(text[:cut])
        assert said_of(path) in (
            "is cut",
            f"{path} has nothing to play: the camera was never reached",
        )


def said_of(path: Path) -> str:
    try:
        return "is cut" if read(path).is_cut else "is whole"
    except RecordingError as error:
        return str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a recording"),
        (b"\x00\x01\xff" * 5000, "is not a recording"),
        (b"[]\n", "is not a recording"),
        (b'{"format": "zip"}\n', "is not a recording"),
        (b'{"format": "rtsprec", "version": 2}\n', "another version"),
        (b'{"format": "rtsprec", "version": 1}\n', "nothing to play"),
        (b'{"format": "rtsprec", "version": 1}\n{"at": 0, "conn\n', "damaged in line 2"),
        (b'{"format": "rtsprec", "version": 1}\n{"at": "x"}\n', "damaged in line 2"),
        (b'{"format": "rtsprec", "version": 1}\n{"at": 0, "said": "x"}\n', "an entry is not"),
        (
            b'{"format": "rtsprec", "version": 1}\n{"at": 0, "connected": 1}\n'
            b'{"at": 0, "asked": "PLAY x"}\n{"at": 0, "packet": "*", "channel": 0}\n',
            "an entry is not",
        ),
        (b'{"format": "rtsprec", "version": 1}\n{"at":0,"end":"no route"}\n', "reached: no route"),
    ],
)
def test_what_is_no_recording_is_refused_in_words(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "x.rtsprec"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def rtp_item(after_s: float, sequence: int, stamp: int, *, last: bool) -> Item:
    packet = rtp.packet(b"x", last=last, sequence=sequence, timestamp=stamp, ssrc=1)
    return Item(after_s, packet=packet, track=0)


def seen(item: Item) -> tuple[float, int, int]:
    number, stamp = item.packet[2:4], item.packet[4:8]
    return round(item.after_s, 3), int.from_bytes(number, "big"), int.from_bytes(stamp, "big")


@pytest.mark.parametrize("marked", [True, False])
def test_a_loop_goes_on_in_time_number_and_stamp(marked: bool) -> None:
    begin, stamp = 65_533, (1 << 32) - 5000
    whole = [
        rtp_item(0.1 + 0.04 * (n // 2), begin + n, stamp + n // 2 * 3600, last=marked and n % 2 > 0)
        for n in range(6)
    ]
    cut = rtp_item(0.22, begin + 6, stamp + 3 * 3600, last=False)
    report, reply = Item(0.15, packet=b"\x80\xc8", track=1), Item(0.0, is_reply=True)
    items = [reply, *whole[:3], report, *whole[3:], cut, Item(0.3, is_end=True)]
    found = list(islice(repeated(items), 8 + 12))
    assert [item for item in found if not item.is_rtp] == [reply, report]
    steps = [seen(item) for item in found if item.is_rtp]
    assert steps == [
        (
            round(0.1 + 0.04 * (n // 2), 3),
            (begin + n) & 0xFFFF,
            (stamp + n // 2 * 3600) & 0xFFFF_FFFF,
        )
        for n in range(18)
    ]


def test_what_has_no_video_is_played_once() -> None:
    items = [Item(0.0, is_reply=True), Item(1.0, raw=b"x"), rtp_item(2.0, 1, 1, last=False)]
    assert list(repeated(items)) == items
