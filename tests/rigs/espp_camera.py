"""Serve an H.264 clip as an endless RTSP camera with espp, a library for microcontrollers.

A program of its own, as a camera is: `espp_camera.py PORT CLIP`. What of a picture is not sent when
the next one comes, espp throws away.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from fractions import Fraction

import av
import espp
from av.bitstream import BitStreamFilterContext

TRACK = 0
SPS, PPS = 7, 8


def units_of(path: str) -> tuple[list[bytes], float]:
    """Return a clip's access units as byte streams, and its seconds a picture."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        to_byte_stream = BitStreamFilterContext("h264_mp4toannexb", stream)
        units = [
            bytes(unit)
            for packet in container.demux(stream)
            if packet.size
            for unit in to_byte_stream.filter(packet)
        ]
        return units, float(1 / (stream.average_rate or Fraction(25)))


def parameter_set(unit: bytes, kind: int) -> bytes:
    """Return a keyframe's parameter set of that kind."""
    return next(nal for nal in re.split(b"\0\0\0?\1", unit) if nal and nal[0] & 0x1F == kind)


def h264_track(keyframe: bytes) -> espp.RtspServer.TrackConfig:
    """Describe a track that begins with this keyframe."""
    sps, pps = parameter_set(keyframe, SPS), parameter_set(keyframe, PPS)
    config = espp.H264Packetizer.Config(
        profile_level_id=sps[1:4].hex(), sps=list(sps), pps=list(pps)
    )
    track = espp.RtspServer.TrackConfig()
    track.track_id = TRACK
    track.packetizer = espp.H264Packetizer(config)
    return track


def main() -> None:
    """Listen and shoot until terminated."""
    port, path = int(sys.argv[1]), sys.argv[2]
    units, period_s = units_of(path)
    server = espp.RtspServer(
        espp.RtspServer.Config(server_address="127.0.0.1", port=port, path="cam")
    )
    server.add_track(h264_track(units[0]))
    if not server.start():
        raise SystemExit(f"cannot listen on port {port}")
    pace = threading.Event()
    start_s = time.monotonic()
    for place in itertools.count():
        pace.wait(max(0.0, start_s + place * period_s - time.monotonic()))
        server.send_frame(TRACK, units[place % len(units)])


if __name__ == "__main__":
    main()
