"""Cameras whose packets are lost, cut, doubled, swapped or rubbish, and every picture judged.

Packets of a clip with numbered frames go through the real receiver, ring and decoder, in H.264,
H.265 and MJPEG, as of TCP and of UDP; only network and time are pretended. A picture is wrong when
it is not, pixel by pixel, the frame that was shot at its moment, and no flag says so. Then whatever
bytes may come: flipped bits, made-up packets, dialogues changed at random.

What is cut off the last fragment of an H.265 unit nobody can notice, and how a camera fills its
packets is known only after eight units of a kind that are seldom cut: that is left out.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Final
from unittest import mock

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.bitstream import BitStreamFilterContext

import config
from bench.gates import Gate, report, rss_mb
from camera import stream as stream_module
from camera.decoder import GopDecoder, decode_jpeg
from camera.frame import Frame, Pin, StreamError
from camera.heap import IdleMemory, set_up_heap
from camera.stream import CameraStream
from rtsp.nal_units import START_CODE
from rtsp.rtp import CodedPicture, RtpReceiver
from tests.rigs import packing
from tests.rigs.clips import FPS, clip, read_frame_number
from tests.torture.dialogues import fuzz_dialogue
from tests.torture.rounds import Rounds

CLIPS: Final = {
    "h264": "h264-360p25-gop25",
    "h265": "h265-360p25-gop25",
    "mjpeg": "mjpeg-360p25",
}
FAULTS: Final = ("lost", "cut", "doubled", "swapped")
ROUND_S: Final = 20.0
ROUNDS: Final = 48
WARM_UP_ROUNDS: Final = 6
_RUN_PICTURES: Final = 150
_REACH_PICTURES: Final = 60  # what moments may reach back for, and the clock has to learn
_PERIOD_S: Final = 1 / FPS
_JITTER_S: Final = 0.008
_NEAR_S: Final = _PERIOD_S + _JITTER_S  # of a lost frame the one before is as near as the next
_SAME: Final = 2.0  # mean difference in grey levels of a frame encoded as JPEG
_PAUSE_S: Final = 5.0  # longer than a picture is waited for
_RECOVERY_PICTURES: Final = 100  # four keyframes, and time for the clock
_JUDGED_RATE: Final = 0.003
_KEY_KINDS: Final = range(16, 24)
_EXCUSES: Final = frozenset({"stale", "timing_unsure", "damaged", "smeared"})


@dataclass
class Tally:
    """What captures came to."""

    captures: int = 0
    unflagged: int = 0
    wrong: int = 0
    failed: int = 0
    rubbish: int = 0
    dialogues: int = 0
    crashes: int = 0
    slow: int = 0

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@functools.cache
def units_of(codec: str) -> tuple[tuple[bytes, ...], ...]:
    """Return the clip's pictures, each as its NAL units, or as one JPEG."""
    with av.open(str(clip(CLIPS[codec]))) as file:
        video = file.streams.video[0]
        if codec == "mjpeg":
            return tuple((bytes(packet),) for packet in file.demux(video) if packet.size)
        to_annex_b = BitStreamFilterContext(f"{video.name}_mp4toannexb", video)
        coded = [bytes(one) for packet in file.demux(video) for one in to_annex_b.filter(packet)]
    plain = (picture.replace(START_CODE, START_CODE[1:]) for picture in coded)
    return tuple(tuple(u for u in picture.split(START_CODE[1:]) if u) for picture in plain)


@functools.cache
def shown_by(codec: str) -> tuple[npt.NDArray[np.uint8], ...]:
    """Return what the clip's frames show, reduced and grey."""
    pictures = units_of(codec)
    if codec == "mjpeg":
        return tuple(_reduced(found[0]) for u in pictures if (found := decode_jpeg(u[0])))
    coded = [b"".join(START_CODE + unit for unit in units) for units in pictures]
    return tuple(_reduced(decoded.bgr()) for decoded in GopDecoder(codec).decode(coded))


def _reduced(bgr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.resize(grey, (160, 90), interpolation=cv2.INTER_AREA), np.uint8)


class Session:
    """Hand over what the rig puts in, as `RtspSession` does."""

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self.waiting: list[CodedPicture] = []

    def read(self, _timeout_s: float) -> list[CodedPicture]:
        """Return the pictures that are waiting."""
        pictures, self.waiting = self.waiting, []
        return pictures

    def close(self) -> None:
        """Do nothing."""


class Camera:
    """One camera, its stream and the daemon's end of it, in pretended time."""

    def __init__(self, codec: str, seed: int, *, rate: float, udp: bool) -> None:
        self._codec = codec
        self._chance = random.Random(seed)
        self._rate = rate
        self._session = Session(codec)
        self._receiver = RtpReceiver(
            codec, payload_type=96, clock_hz=90_000, reorder=32 if udp else 0
        )
        self._sequence = self._chance.randrange(1 << 16)
        self._ticks = self._chance.randrange(1 << 32)
        self._frame = self._chance.randrange(len(units_of(codec)))
        self._shot = 0
        self.began_s = self.now_s = 1000.0
        parsed = config.parse({"CAMERA_1_RTSP": "rtsp://camera/x"})
        self.stream = CameraStream(
            parsed.cameras[0], parsed.capture, threading.Semaphore(1), lambda: self.now_s
        )
        self.stream.give_up_waiting()

    def send(self) -> None:
        """Shoot the next frame, and let its packets arrive as they may."""
        units = units_of(self._codec)[(self._frame + self._shot) % len(units_of(self._codec))]
        sent = packing.packets(
            packing.payloads(units, self._codec),
            start=self._sequence,
            ticks=self._ticks + self._shot * 90_000 // FPS,
        )
        self._sequence += len(sent)
        shot_s = self.began_s + self._shot * _PERIOD_S
        self.now_s = max(self.now_s, shot_s + self._chance.uniform(0, _JITTER_S))
        for packet in spoiled(sent, self._codec, self._chance, self._rate):
            self._receiver.feed(packet, self.now_s, self._session.waiting)
        self._shot += 1
        with mock.patch.object(stream_module, "RtspSession", return_value=self._session):
            self.stream.step()

    def mend(self) -> None:
        """Let no packet be spoiled any more."""
        self._rate = 0.0

    def capture(self, pin: Pin) -> Frame:
        """Let time pass until the pinned picture has come, and take it. Raises `StreamError`."""
        for _ in range(FPS):
            if pin.choices:
                break
            self.send()
        if not pin.choices:  # as if the camera paused too
            self.now_s += _PAUSE_S
            self.began_s += _PAUSE_S
            self._ticks += round(_PAUSE_S * 90_000)
        return self.stream.take(pin)

    def is_right(self, frame: Frame, moment_s: float) -> bool:
        """Tell whether a picture is the frame shot at a moment, whole."""
        bgr = np.asarray(cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), 1), np.uint8)
        number = read_frame_number(bgr)
        if number is None:
            return False
        count = len(units_of(self._codec))
        shot_s = self.began_s + (number - self._frame) % count * _PERIOD_S
        loop_s = count * _PERIOD_S
        distance_s = abs((moment_s - shot_s + loop_s / 2) % loop_s - loop_s / 2)
        difference = cv2.absdiff(_reduced(bgr), shown_by(self._codec)[number])
        return distance_s <= _NEAR_S and float(difference.mean()) <= _SAME


def spoiled(
    packets: Sequence[bytes], codec: str, chance: random.Random, rate: float
) -> list[bytes]:
    """Return a picture's packets as they arrive, a share of them lost, cut, doubled or swapped."""
    found: list[bytes] = []
    held: bytes | None = None
    for packet in packets:
        fault = chance.choice(FAULTS) if chance.random() < rate else ""
        if fault == "cut" and may_be_cut(packet, codec, rate):
            found.append(packet[: 12 + (len(packet) - 12) * chance.randrange(5, 95) // 100])
        elif fault == "swapped" and held is None:
            held = packet
            continue
        elif fault != "lost":
            found += [packet] * (2 if fault == "doubled" else 1)
        if held is not None:
            found.append(held)
            held = None
    return found if held is None else [*found, held]


def may_be_cut(packet: bytes, codec: str, rate: float) -> bool:
    """Tell whether anything can tell that a packet was cut."""
    if codec != "h265":
        return True
    is_fragment = packet[12] >> 1 & 0x3F == 49
    is_last, is_key = packet[14] & 0x40, packet[14] & 0x3F in _KEY_KINDS
    return is_fragment and not (is_last or is_key) and rate <= _JUDGED_RATE


def play(codec: str, seed: int, *, rate: float, udp: bool) -> Tally:
    """Play some seconds of a camera, take pictures of random moments, past and to come."""
    camera = Camera(codec, seed, rate=rate, udp=udp)
    chance = random.Random(f"{seed} moments")
    tally = Tally()
    for _ in range(_REACH_PICTURES):
        camera.send()
    for _ in range(_RUN_PICTURES // 10):
        for _ in range(10):
            camera.send()
        moment_s = camera.now_s + chance.uniform(-1.5, 0.3)
        pin = camera.stream.pin(moment_s)
        try:
            frame = camera.capture(pin)
        except StreamError:
            tally.failed += 1
            continue
        excused = bool(_EXCUSES & set(frame.flags))
        tally.captures += 1
        tally.unflagged += not excused
        tally.wrong += not (excused or camera.is_right(frame, moment_s))
    camera.stream.close()
    return tally


def throw_rubbish(codec: str, seed: int) -> Tally:
    """Send flipped bits and made-up packets, then let the camera be as it should be.

    Pictures beside rubbish can't be judged; it must not crash, hang or hoard, and all must be right
    once it is over.
    """
    chance = random.Random(seed)
    camera = Camera(codec, seed, rate=0.02, udp=bool(seed & 1))
    waiting, receiver = camera._session.waiting, camera._receiver
    for _ in range(60):
        camera.send()
        for packet in _rubbish(codec, chance):
            receiver.feed(packet, camera.now_s, waiting)
    with suppress(StreamError):
        camera.capture(camera.stream.pin(camera.now_s))
    camera.mend()
    for _ in range(_RECOVERY_PICTURES):
        camera.send()
    moment_s = camera.now_s
    frame = camera.capture(camera.stream.pin(moment_s))
    camera.stream.close()
    return Tally(rubbish=1, wrong=not camera.is_right(frame, moment_s))


def _rubbish(codec: str, chance: random.Random) -> list[bytes]:
    units = chance.choice(units_of(codec))
    found = []
    for payload in packing.payloads(units, codec)[:3]:
        changed = bytearray(payload)
        for _ in range(chance.randrange(1, 9)):
            changed[chance.randrange(min(len(changed), 64))] = chance.randrange(256)
        found.append(bytes(changed))
    found.append(chance.randbytes(chance.randrange(0, 200)))
    packets = packing.packets(
        found, start=chance.randrange(1 << 16), ticks=chance.randrange(1 << 32)
    )
    return [p if chance.random() < 0.9 else chance.randbytes(len(p)) for p in packets]


def one_round(number: int, duration_s: float) -> Tally:
    """Play cameras of all codecs until the time is over."""
    tally = Tally()
    until_s = time.monotonic() + duration_s
    turn = number * 1_000_000
    while time.monotonic() < until_s:
        codec = list(CLIPS)[turn % len(CLIPS)]
        rate = (0.0, 0.003, 0.01, 0.05)[turn // 3 % 4]
        began_s = time.monotonic()
        try:
            found = play(codec, turn, rate=rate, udp=bool(turn // 12 % 2))
            if rate == 0.0:
                found.wrong += found.captures - found.unflagged + found.failed
            tally.add(found)
            tally.add(throw_rubbish(codec, turn))
            fuzz_dialogue(turn)
            tally.add(Tally(dialogues=1))
        except Exception as error:  # noqa: BLE001 - any is what the rig looks for
            print(f"  {codec} {turn}: {type(error).__name__}: {error}", flush=True)
            tally.crashes += 1
        tally.slow += time.monotonic() - began_s > 60
        turn += 1
    return tally


def main() -> int:
    """Run all rounds, print the figures beside their limits, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    set_up_heap()
    rounds = Rounds("camera", options.rounds, ROUND_S)
    warm_mb = 0.0
    for done_here, number in enumerate(rounds.left(), start=1):
        tally = one_round(number, ROUND_S)
        IdleMemory().look(0.0)
        if done_here == WARM_UP_ROUNDS:
            warm_mb = rss_mb(os.getpid())
        more_mb = rss_mb(os.getpid()) - warm_mb if done_here > WARM_UP_ROUNDS else 0.0
        rounds.note(number, more_mb=more_mb, **vars(tally))
    captures, unflagged = rounds.sum("captures"), rounds.sum("unflagged")
    print(
        f"  {captures} pictures, {unflagged} without a flag, {rounds.sum('failed')} moments without"
    )
    print(f"  {rounds.sum('rubbish')} floods of rubbish, {rounds.sum('dialogues')} dialogues")
    return report(
        [
            Gate("wrong pictures without a flag", rounds.sum("wrong"), 0, ""),
            Gate("crashes", rounds.sum("crashes"), 0, ""),
            Gate("turns of more than a minute", rounds.sum("slow"), 0, ""),
            Gate("pictures without a flag", unflagged / captures * 100, 50, "%", at_least=True),
            Gate("memory more", max(r["more_mb"] for r in rounds.results), 20, "MB"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
