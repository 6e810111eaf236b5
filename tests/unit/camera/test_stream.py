"""A camera's stream, its pictures handed over by a pretend session."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

import config
from camera import frame_maker
from camera import stream as camera_stream
from camera.decoder import Decoded, GopDecoder
from camera.frame import StreamError
from camera.stream import CameraStream
from rtsp.errors import RtspError
from rtsp.rtp import CodedPicture
from tests.rigs.gops import h264, h265

PERIOD_S = 0.04


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Session:
    """Has received these pictures, and nothing since."""

    def __init__(self, codec: str, pictures: Sequence[CodedPicture]) -> None:
        self.codec = codec
        self._pictures = list(pictures)

    def read(self, _timeout_s: float) -> list[CodedPicture]:
        pictures, self._pictures = self._pictures, []
        return pictures

    def send(self, picture: CodedPicture) -> None:
        self._pictures.append(picture)

    def close(self) -> None:
        pass


def stream_with(
    session: Session,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    slots: threading.Semaphore | None = None,
    **settings: str,
) -> CameraStream:
    """Return a stream that has opened the session and taken its pictures."""
    monkeypatch.setattr(camera_stream, "RtspSession", lambda *_: session)
    parsed = config.parse({"CAMERA_1_RTSP": "rtsp://camera/x", **settings})
    stream = CameraStream(parsed.cameras[0], parsed.capture, slots or threading.Semaphore(1), clock)
    stream.step()
    stream.step()
    return stream


@pytest.mark.parametrize(
    ("fps", "age_s", "state"),
    [
        (25, 0.2, "streaming"),
        (25, 1.7, "stalled"),
        (25, 4.5, "down"),
        (1, 1.2, "streaming"),
        (1, 2.7, "stalled"),
        (0.5, 2.2, "streaming"),
        (0.5, 4.4, "streaming"),
        (0.5, 5.4, "down"),
    ],
)
def test_a_slow_camera_is_given_the_time_that_it_takes(
    monkeypatch: pytest.MonkeyPatch, fps: float, age_s: float, state: str
) -> None:
    clock = Clock()
    moments_s = [clock.now_s - n / fps for n in reversed(range(12))]
    pictures = [CodedPicture(s, s, n == 0, b"x", False) for n, s in enumerate(moments_s)]
    stream = stream_with(Session("h264", pictures), clock, monkeypatch)
    assert stream.status().state == "streaming"
    clock.now_s += age_s
    stream.step()
    assert stream.status().state == state
    stream.close()


def gop(clock: Clock, count: int) -> list[CodedPicture]:
    """Make a GOP's first pictures at 25 a second, the last of them shot just now."""
    return [
        CodedPicture(
            position_s=number * PERIOD_S,
            arrival_s=clock.now_s - (count - 1 - number) * PERIOD_S,
            key=number == 0,
            data=h265()[number],
            torn=False,
        )
        for number in range(count)
    ]


def test_pictures_without_a_keyframe_are_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    pictures = [replace(picture, key=False) for picture in gop(clock, 30)]
    session = Session("h265", pictures)
    stream = stream_with(session, clock, monkeypatch)
    assert stream.status().error is None
    clock.now_s += 5.1
    session.send(replace(pictures[-1], position_s=6.24, arrival_s=clock.now_s))
    stream.step()
    status = stream.status()
    assert status.state == "connecting"
    assert "no keyframe" in (status.error or "")
    assert "I-frame interval" in (status.hint or "")
    stream.give_up_waiting()
    with pytest.raises(StreamError, match="no keyframe"):
        stream.take(stream.pin(clock.now_s))
    clock.now_s += 0.04
    session.send(replace(gop(clock, 1)[0], position_s=6.28))
    stream.step()
    assert stream.status().state == "streaming"
    assert stream.status().error is None


def test_a_camera_that_fails_in_ever_other_ways_does_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="camera.stream")
    clock = Clock()
    failures = 0

    def fail(*_: object) -> Session:
        nonlocal failures
        failures += 1
        if failures == 500:
            return Session("h265", gop(clock, 30))
        word = "odd" if failures % 2 else chr(0x100 + failures)
        raise RtspError("server_error", f"camera reports an error ({failures} {word})")

    stream = stream_with(Session("h265", gop(clock, 30)), clock, monkeypatch)
    stream.close()
    monkeypatch.setattr(camera_stream, "RtspSession", fail)
    for _ in range(499):
        stream.step()
    downs = [record for record in caplog.messages if "down" in record]
    assert len(downs) == 20
    assert sum("odd" in words for words in downs) == 1
    for _ in range(3):
        stream.step()
    assert stream.status().state == "streaming"
    assert "recovered after 499 failed attempts" in caplog.text
    stream.close()
    stream.step()
    assert len([record for record in caplog.messages if "down" in record]) == 21


def test_a_keyframe_that_is_too_old_to_be_kept_ends_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of an endless GOP: the next session begins with another keyframe."""
    clock = Clock()
    pictures = gop(clock, 30)
    session = Session("h265", pictures)
    stream = stream_with(session, clock, monkeypatch)
    for number in range(1, 5):
        clock.now_s += PERIOD_S
        data = bytes(9_000_000)
        position_s = pictures[-1].position_s + number * PERIOD_S
        session.send(CodedPicture(position_s, clock.now_s, False, data, False))
        stream.step()
    assert stream.status().state == "down"
    assert "no keyframe" in (stream.status().error or "")
    monkeypatch.setattr(camera_stream, "RtspSession", lambda *_: Session("h265", gop(clock, 30)))
    stream.step()
    stream.step()
    assert stream.status().state == "streaming"


def test_a_camera_whose_pictures_are_too_large_is_down_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    session = Session("h265", gop(clock, 5))
    stream = stream_with(session, clock, monkeypatch, CAMERA_MAX_MEGAPIXELS="0.1")  # 320 x 240
    assert stream.status().state == "streaming"
    stream = stream_with(Session("h264", [big(clock)]), clock, monkeypatch)
    assert stream.status().state == "streaming"
    assert stream.status().width == 1280
    session = Session("h264", [])
    stream = stream_with(session, clock, monkeypatch, CAMERA_MAX_MEGAPIXELS="0.9")
    session.send(big(clock))
    assert stream.step() == 60, "each try costs a connection and a header that may take much"
    status = stream.status()
    assert status.state == "down"
    assert "1280 x 720 pixels" in (status.error or "")
    assert "resolution" in (status.hint or "")


@pytest.mark.parametrize(("codec", "word"), [("h264", "I-frames"), ("mjpeg", "2040 pixels")])
def test_what_cannot_be_decoded_is_told_with_what_to_set(
    monkeypatch: pytest.MonkeyPatch, codec: str, word: str
) -> None:
    clock = Clock()
    pictures = [replace(picture, key=True, data=b"noise") for picture in gop(clock, 5)]
    stream = stream_with(Session(codec, pictures), clock, monkeypatch)
    with pytest.raises(StreamError, match="could not be decoded") as failed:
        stream.take(stream.pin(clock.now_s))
    assert word in failed.value.hint


def big(clock: Clock) -> CodedPicture:
    return CodedPicture(0.0, clock.now_s, True, h264(1)[0], False)


def test_only_the_first_whole_keyframe_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bytes] = []
    monkeypatch.setattr(camera_stream, "size_of", lambda _, data, __: looks.append(data))
    clock = Clock()
    [picture] = gop(clock, 1)
    torn = replace(picture, torn=True, data=b"torn")
    stream_with(Session("h265", [torn, picture, picture, picture]), clock, monkeypatch)
    assert looks == [picture.data]


def test_stamps_that_do_not_move_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    pictures = [replace(picture, by_arrival=True) for picture in gop(clock, 40)]
    stream = stream_with(Session("h265", pictures), clock, monkeypatch)
    assert "do not move" in (stream.status().advice or "")
    assert "timing_unsure" in stream.take(stream.pin(pictures[20].arrival_s)).flags


@pytest.mark.parametrize("latency_ms", [0, 80, 400])
def test_a_camera_s_latency_shifts_the_moment_and_not_the_offset(
    monkeypatch: pytest.MonkeyPatch, latency_ms: int
) -> None:
    """What is seen at a moment comes out of the camera that much later."""
    clock = Clock()
    pictures = gop(clock, 40)
    session = Session("h265", pictures)
    stream = stream_with(session, clock, monkeypatch, CAMERA_1_LATENCY_MS=str(latency_ms))
    edge_s = pictures[20].arrival_s
    plain = stream_with(Session("h265", pictures), clock, monkeypatch)
    later = plain.take(plain.pin(edge_s + latency_ms / 1000))
    frame = stream.take(stream.pin(edge_s))
    assert frame.jpeg == later.jpeg
    assert frame.shot_s == pytest.approx(edge_s, abs=PERIOD_S / 2)
    assert "stale" not in frame.flags


@pytest.mark.parametrize(
    ("is_regular", "distance_s", "stale"),
    [
        *((True, 0.0, False), (True, 0.05, False), (True, 0.24, False), (True, 0.3, True)),
        *((False, 0.05, False), (False, 0.24, False), (False, 0.3, True)),
    ],
)
def test_what_is_far_from_the_moment_is_stale(
    monkeypatch: pytest.MonkeyPatch, is_regular: bool, distance_s: float, stale: bool
) -> None:
    """As the setting says, while nothing tells that a nearer one was lost."""
    clock = Clock()
    pictures = gop(clock, 40)
    if not is_regular:
        pictures = [picture for n, picture in enumerate(pictures) if n % 4 in (0, 3) or n < 4]
    stream = stream_with(Session("h265", pictures), clock, monkeypatch)
    stream.give_up_waiting()
    clock.now_s += 3.0
    frame = stream.take(stream.pin(pictures[-1].arrival_s + distance_s))
    assert ("stale" in frame.flags) == stale
    assert frame.shot_s == pytest.approx(pictures[-1].arrival_s)


def test_a_silent_camera_is_not_waited_for_when_the_program_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    stream = stream_with(Session("h265", []), clock, monkeypatch)
    pin = stream.pin(clock.now_s)
    failures: list[StreamError] = []

    def take() -> None:
        try:
            stream.take(pin)
        except StreamError as error:
            failures.append(error)

    taker = threading.Thread(target=take)
    taker.start()
    taker.join(0.3)  # the clock stands still: it would wait for ever
    assert taker.is_alive()
    stream.give_up_waiting()
    taker.join(10)
    assert [failure.reason for failure in failures] == ["no picture from the camera yet"]


def test_a_picture_still_to_come_is_decoded_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    pictures = gop(clock, 41)
    session = Session("h265", pictures[:40])
    clock.now_s = pictures[39].arrival_s
    stream = stream_with(session, clock, monkeypatch)
    decoded = threading.Event()
    frames = []

    class Decoder(GopDecoder):
        fed = 0

        def feed(self, picture: bytes) -> list[Decoded]:
            Decoder.fed += 1
            found = super().feed(picture)
            if Decoder.fed == 40:
                decoded.set()
            return found

    monkeypatch.setattr(frame_maker, "GopDecoder", Decoder)
    taker = threading.Thread(
        target=lambda: frames.append(stream.take(stream.pin(pictures[40].arrival_s)))
    )
    taker.start()
    assert decoded.wait(10), "nothing was decoded before the picture came"
    assert not frames
    clock.now_s = pictures[40].arrival_s
    session.send(pictures[40])
    stream.step()
    taker.join(10)
    assert Decoder.fed == 41, "what was decoded meanwhile is decoded once"
    assert "damaged" not in frames[0].flags
    assert frames[0].shot_s == pytest.approx(pictures[40].arrival_s)


def test_a_camera_that_hesitates_does_not_keep_others_from_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    pictures = gop(clock, 10)
    slots = threading.Semaphore(1)
    stream = stream_with(Session("h265", pictures), clock, monkeypatch, slots)
    wanted_s = clock.now_s + 0.2
    begun = threading.Event()

    class Decoder(GopDecoder):
        def feed(self, picture: bytes) -> list[Decoded]:
            begun.set()
            return super().feed(picture)

    monkeypatch.setattr(frame_maker, "GopDecoder", Decoder)
    pin = stream.pin(wanted_s)
    taker = threading.Thread(target=lambda: stream.take(pin))
    taker.start()
    assert begun.wait(10)
    assert not slots.acquire(blocking=False), "its picture may come at any moment"
    clock.now_s = wanted_s + 0.31
    assert slots.acquire(timeout=10)
    assert taker.is_alive()
    slots.release()
    clock.now_s = wanted_s + 6
    taker.join(10)
    assert not taker.is_alive()


@pytest.mark.parametrize("how", ["the session ends", "it is called late"])
def test_a_camera_that_is_lost_at_the_moment_does_not_keep_others_from_decoding(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    clock = Clock()
    pictures = gop(clock, 10)
    slots = threading.Semaphore(1)
    session = Session("h265", pictures)
    stream = stream_with(session, clock, monkeypatch, slots)
    clock.now_s += 1.4 if how == "it is called late" else 0.0  # still live for 0.1 s
    begun = threading.Event()

    class Decoder(GopDecoder):
        def feed(self, picture: bytes) -> list[Decoded]:
            begun.set()
            return super().feed(picture)

    monkeypatch.setattr(frame_maker, "GopDecoder", Decoder)
    pin = stream.pin(clock.now_s + 0.05)
    taker = threading.Thread(target=lambda: stream.take(pin))
    taker.start()
    assert begun.wait(10)
    assert not slots.acquire(blocking=False), "its picture may come at any moment"
    if how == "the session ends":
        stream.close()
    else:
        clock.now_s += 0.15
    assert slots.acquire(timeout=10), "long before it is given up"
    assert taker.is_alive()
    slots.release()
    clock.now_s += 7
    taker.join(10)
    assert not taker.is_alive()


def test_the_wanted_keyframe_does_not_wait_for_the_gop_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    pictures = gop(clock, 41)
    clock.now_s = pictures[39].arrival_s
    session = Session("h265", pictures[:40])
    stream = stream_with(session, clock, monkeypatch)
    fed: list[bytes] = []

    class Decoder(GopDecoder):
        def feed(self, picture: bytes) -> list[Decoded]:
            fed.append(picture)
            if len(fed) == 3:  # meanwhile the next keyframe comes
                keyframe = replace(pictures[40], key=True, data=pictures[0].data)
                session.send(keyframe)
                stream.step()
            return super().feed(picture)

    monkeypatch.setattr(frame_maker, "GopDecoder", Decoder)
    frame = stream.take(stream.pin(pictures[40].arrival_s))
    assert len(fed) == 4, "three of the old GOP, and the keyframe"
    assert frame.shot_s == pytest.approx(pictures[40].arrival_s)


def test_nothing_is_decoded_long_before_a_moment_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    stream = stream_with(Session("h265", gop(clock, 10)), clock, monkeypatch)
    fed: list[bytes] = []

    class Decoder(GopDecoder):
        def feed(self, picture: bytes) -> list[Decoded]:
            fed.append(picture)
            return super().feed(picture)

    monkeypatch.setattr(frame_maker, "GopDecoder", Decoder)
    pin = stream.pin(clock.now_s + 1.0)
    taker = threading.Thread(target=lambda: stream.take(pin))
    taker.start()
    taker.join(0.3)
    assert taker.is_alive()
    assert fed == []
    clock.now_s += 7
    taker.join(10)
    assert len(fed) == 10


def test_a_look_at_a_camera_does_not_decode_before_its_picture_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would keep captures from decoding."""
    clock = Clock()
    pictures = gop(clock, 41)
    session = Session("h265", pictures[:40])
    clock.now_s = pictures[39].arrival_s
    stream = stream_with(session, clock, monkeypatch)
    fed: list[bytes] = []

    class Decoder(GopDecoder):
        def feed(self, picture: bytes) -> list[Decoded]:
            fed.append(picture)
            return super().feed(picture)

    monkeypatch.setattr(frame_maker, "GopDecoder", Decoder)
    frames = []
    pin = stream.pin(pictures[40].arrival_s)
    looker = threading.Thread(target=lambda: frames.append(stream.take(pin, urgent=False)))
    looker.start()
    looker.join(0.3)
    assert looker.is_alive()
    assert fed == []
    session.send(pictures[40])
    stream.step()
    looker.join(10)
    assert len(frames) == 1


@pytest.mark.parametrize(
    ("rate", "hint"),
    [
        (1.0, None),
        (0.99, None),
        (0.96, "run 4 % too slow"),
        (1.04, "run 4 % too fast"),
    ],
)
def test_a_camera_whose_stamps_run_wrong_gets_a_hint(
    monkeypatch: pytest.MonkeyPatch, rate: float, hint: str | None
) -> None:
    clock = Clock()
    pictures = [
        CodedPicture(n * PERIOD_S * rate, clock.now_s + n * PERIOD_S, n % 25 == 0, b"x", False)
        for n in range(100)
    ]
    stream = stream_with(Session("h264", pictures), clock, monkeypatch)
    clock.now_s = pictures[-1].arrival_s
    status = stream.status()
    assert status.clock_ppm == pytest.approx((rate - 1) * 1_000_000, abs=100)
    assert status.fps == pytest.approx(25, abs=0.1)
    assert (hint or "") in (status.advice or "")
    assert (status.advice is None) == (hint is None)
