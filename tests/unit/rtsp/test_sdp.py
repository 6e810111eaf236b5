"""What a description says of the video."""

from __future__ import annotations

import pytest

from rtsp.sdp import first_video

HEAD = "v=0\r\ns=cam\r\na=control:*\r\nt=0 0\r\n"
H265 = (
    "m=audio 0 RTP/AVP 8\r\na=control:track1\r\na=fmtp:8 sprop-parameter-sets=AAAA\r\n"
    "m=video 0 RTP/AVP 98\r\nb=AS:4000\r\na=rtpmap:98 h265/90000\r\n"
    "a=fmtp:98 sprop-vps=QAEM; sprop-sps=QgEB;sprop-pps=RAHB\r\na=control:trackID=2\r\n"
    "m=video 0 RTP/AVP 26\r\na=control:track3\r\n"
)


def test_everything_of_the_first_video_section() -> None:
    video = first_video(HEAD + H265)
    assert video is not None
    assert (video.codec, video.payload_type, video.clock_hz) == ("H265", 98, 90_000)
    assert (video.control, video.session_control) == ("trackID=2", "*")
    assert [unit.hex() for unit in video.parameter_sets] == ["40010c", "420101", "4401c1"]


def test_h264_sets_without_padding_and_broken_ones() -> None:
    fmtp = "a=fmtp:96 packetization-mode=1;sprop-parameter-sets=Z0IAHw,aM4=,!!,;x"
    video = first_video(f"m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n{fmtp}\n")
    assert video is not None
    assert [unit.hex() for unit in video.parameter_sets] == ["6742001f", "68ce"]


@pytest.mark.parametrize("clock", ["", "/0", "/x"])
def test_a_clock_that_is_not_told_is_90_khz(clock: str) -> None:
    video = first_video(f"m=video 0 RTP/AVP 96\na=rtpmap:96 H264{clock}\n")
    assert video is not None
    assert video.clock_hz == 90_000


@pytest.mark.parametrize(
    ("parameter", "numbered"),
    [("", False), ("sprop-max-don-diff=0;", False), ("sprop-max-don-diff=2; ", True)],
)
def test_whether_payloads_carry_decoding_order_numbers(parameter: str, numbered: bool) -> None:
    video = first_video(H265.replace("sprop-vps", f"{parameter}sprop-vps"))
    assert video is not None
    assert video.has_order_numbers is numbered
    assert len(video.parameter_sets) == 3


@pytest.mark.parametrize("line", ["a=x-dimensions:2592,1944", "a=framesize:26 2592-1944"])
def test_the_size_of_pictures_whose_packets_cannot_tell_it(line: str) -> None:
    video = first_video(f"m=video 0 RTP/AVP 26\r\n{line}\r\n")
    assert video is not None
    assert video.size == (2592, 1944)


def test_a_video_that_can_be_received_comes_before_another() -> None:
    mpeg4 = "m=video 0 RTP/AVP 97\r\na=rtpmap:97 MP4V-ES/90000\r\na=control:track1\r\n"
    h264 = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track2\r\n"
    found = [first_video(HEAD + text) for text in (mpeg4 + h264, mpeg4)]
    assert [(v.codec, v.control) for v in found if v] == [
        *(("H264", "track2"), ("MP4V-ES", "track1"))
    ]


def test_parameter_sets_that_are_no_base64_are_left_out() -> None:
    text = "v=0\nm=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    fmtp = "a=fmtp:96 sprop-parameter-sets=\xe4Z0IA,Z0IAHw==,***\n"
    video = first_video(text + fmtp)
    assert video is not None
    assert video.parameter_sets == (b"\x67\x42\x00\x1f",)
