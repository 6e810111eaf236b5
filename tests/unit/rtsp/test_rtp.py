"""Pictures put together out of RTP packets, and every loss noticed."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camera.decoder import encode_jpeg
from rtsp.nal_units import START_CODE
from rtsp.rtp import CodedPicture, RtpReceiver
from simulator import clip
from simulator.rtp import packet, payloads
from tests.rigs import packing

CLIP = clip.load(Path(__file__).parents[3] / "demo" / "clips" / "entry.h264")
TICKS = 3600
SPS, PPS, DELIMITER = b"\x67\x42\x00\x1f", b"\x68\xce\x38\x80", b"\x09\xf0"
KEY, KEY_LATER = b"\x65\x88" + b"k" * 5000, b"\x65\x44" + b"l" * 3000
PLAIN, PLAIN_LATER = b"\x41\x9a" + b"p" * 4000, b"\x41\x44" + b"q" * 100


def receiver(codec: str = "h264", **more: object) -> RtpReceiver:
    settings = {"payload_type": 96, "clock_hz": 90_000, **more}
    return RtpReceiver(codec, **settings)  # type: ignore[arg-type]


def packets_of(pictures: list[list[bytes]], start: int = 0, ticks: int = 1000) -> list[bytes]:
    """Send pictures of NAL units as RTP packets."""
    found: list[bytes] = []
    for number, units in enumerate(pictures):
        parts = payloads(units)
        for place, part in enumerate(parts):
            found.append(
                packet(
                    part,
                    last=place == len(parts) - 1,
                    sequence=start + len(found),
                    timestamp=ticks + number * TICKS,
                    ssrc=7,
                )
            )
    return found


def received(packets: list[bytes], into: RtpReceiver | None = None) -> list[CodedPicture]:
    into = into or receiver()
    pictures: list[CodedPicture] = []
    for number, one in enumerate(packets):
        into.feed(one, 100.0 + number / 1000, pictures)
    return pictures


def annex_b(*units: bytes) -> bytes:
    return b"".join(START_CODE + unit for unit in units)


def test_pictures_come_whole_at_once_and_in_time() -> None:
    packets = packets_of([[SPS, PPS, KEY], [PLAIN], [PLAIN]])
    found = received(packets)
    assert [p.data for p in found] == [
        *(annex_b(SPS, PPS, KEY), annex_b(PLAIN), annex_b(PLAIN)),
    ]
    assert [p.key for p in found] == [True, False, False]
    assert [p.torn for p in found] == [False] * 3
    steps = [b.position_s - a.position_s for a, b in pairwise(found)]
    assert steps == pytest.approx([TICKS / 90_000] * 2)
    last = next(n for n, p in enumerate(packets) if p[4:8] == packets[-1][4:8])
    assert found[-1].arrival_s == 100.0 + last / 1000, "its first packet, however long it takes"


def test_what_comes_before_a_picture_is_not_its_arrival() -> None:
    """Some cameras send sets and the like long before the picture they belong to."""
    packets = packets_of([[SPS, PPS, KEY], [PLAIN], [DELIMITER, SPS, PPS, KEY], [PLAIN]])
    key = next(n for n, p in enumerate(packets) if n > 9 and p[12] & 31 == 28 and p[13] & 31 == 5)
    found = received(packets)
    assert found[2].key
    assert found[2].arrival_s == 100.0 + key / 1000


@pytest.mark.parametrize("first", [0, 2**32 - TICKS])
def test_a_timestamp_of_zero_is_one_like_any_other(first: int) -> None:
    pictures = [list(picture.nals) for picture in CLIP.pictures[:3]]
    found = received(packets_of(pictures, ticks=first))
    steps = [b.position_s - a.position_s for a, b in pairwise(found)]
    assert steps == pytest.approx([TICKS / 90_000] * 2)


def test_a_real_clip_survives() -> None:
    pictures = [list(picture.nals) for picture in CLIP.pictures[:60]]
    found = received(packets_of(pictures, start=65_500, ticks=2**32 - 50_000))
    assert [p.data for p in found] == [annex_b(*units) for units in pictures]
    assert not any(p.torn for p in found)
    assert all(b.position_s > a.position_s for a, b in pairwise(found))


@given(st.sets(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 65535))
def test_no_loss_goes_unnoticed(lost: set[int], start: int) -> None:
    """Lose any packets: what is not as sent, or builds on such a picture, is known by `torn`."""
    pictures = [list(picture.nals) for picture in CLIP.pictures[:60]]
    packets = packets_of(pictures, start=start)
    found = received([one for n, one in enumerate(packets) if n not in lost])
    last, was_good, was_told = -1, False, False
    for picture in found:
        number = round(picture.position_s * 90_000 / TICKS)
        good = picture.data == annex_b(*pictures[number])
        if not picture.key:
            good &= was_good and number == last + 1
        told = picture.torn or (was_told and not picture.key)
        assert good or told
        last, was_good, was_told = number, good, told


def test_a_hole_in_a_slice_is_torn() -> None:
    packets = packets_of([[SPS, PPS, KEY], [PLAIN], [PLAIN]])
    middle = next(n for n, one in enumerate(packets) if one[12:14] == b"\x5c\x01")
    found = received(packets[:middle] + packets[middle + 1 :])
    assert [p.torn for p in found] == [False, True]  # what is left of it is no slice


def test_a_lost_end_is_torn_and_the_next_keyframe_is_not() -> None:
    packets = packets_of([[SPS, PPS, KEY], [PLAIN], [SPS, PPS, KEY], [PLAIN]])
    ends = [n for n, one in enumerate(packets) if one[1] & 0x80]
    found = received([one for n, one in enumerate(packets) if n != ends[1]])
    assert [(p.key, p.torn) for p in found] == [(True, False), (True, False), (False, False)]


def test_a_lost_picture_tears_the_next_one() -> None:
    packets = packets_of([[SPS, PPS, KEY], [PLAIN_LATER[:1] + b"\x9a" + b"z"], [PLAIN]])
    lost = next(n for n, one in enumerate(packets) if one.endswith(b"\x9az"))
    found = received(packets[:lost] + packets[lost + 1 :])
    assert [p.torn for p in found] == [False, True]


def test_keyframes_get_the_sets_of_the_description_or_the_last_ones_that_came() -> None:
    described = receiver(parameter_sets=(SPS, PPS))
    assert received(packets_of([[KEY]]), described)[0].data == annex_b(SPS, PPS, KEY)
    new = SPS + b"new"
    more = packets_of([[new, PPS, KEY], [KEY]], start=20, ticks=50_000)
    found = received(more, described)
    assert [p.data for p in found] == [annex_b(new, PPS, KEY)] * 2


def test_a_lost_set_is_replaced_by_the_one_before() -> None:
    vps, sps, pps, irap = (bytes([kind << 1, 1]) + b"\x80" + b"x" * 9 for kind in (32, 33, 34, 19))
    packets = packets_of([[vps, sps, pps, irap]] * 2)
    lost = len(packets) // 2
    found = received(packets[:lost] + packets[lost + 1 :], receiver("h265"))
    assert [p.data for p in found] == [annex_b(vps, sps, pps, irap)] * 2


def test_sets_and_delimiters_between_slices_are_left_out() -> None:
    found = received(packets_of([[DELIMITER, SPS, PPS, KEY, SPS, PPS, KEY_LATER]]))
    assert [p.data for p in found] == [annex_b(SPS, PPS, KEY, KEY_LATER)]


def test_sets_sent_as_a_picture_of_their_own_belong_to_the_next() -> None:
    found = received(packets_of([[SPS, PPS], [KEY]]))
    assert [(p.key, p.data) for p in found] == [(True, annex_b(SPS, PPS, KEY))]


def test_a_picture_without_idr_behind_sets_is_a_keyframe() -> None:
    intra = b"\x61\x88" + b"i" * 50
    found = received(packets_of([[SPS, PPS, intra], [PLAIN], [intra]]))
    assert [p.key for p in found] == [True, False, False]


def test_a_camera_that_never_marks_an_end() -> None:
    packets = [
        bytes([one[0], one[1] & 0x7F]) + one[2:] for one in packets_of([[SPS, PPS, KEY], [PLAIN]])
    ]
    found = received([*packets, *packets_of([[PLAIN]], start=len(packets), ticks=9000)])
    assert [p.data for p in found][:2] == [annex_b(SPS, PPS, KEY), annex_b(PLAIN)]
    assert not any(p.torn for p in found)


def test_an_end_marked_too_early_gives_parts_of_one_position() -> None:
    packets = packets_of([[SPS, PPS, KEY, KEY_LATER]])
    early = next(n for n, one in enumerate(packets) if one[12] & 31 == 28 and one[13] & 0x40)
    marked = packets[early][:1] + bytes([packets[early][1] | 0x80]) + packets[early][2:]
    found = received([*packets[:early], marked, *packets[early + 1 :]])
    assert len({p.position_s for p in found}) == 1
    assert b"".join(p.data for p in found).endswith(annex_b(KEY, KEY_LATER))


@pytest.mark.parametrize("seed", range(5))
def test_udp_packets_out_of_order_are_put_right(seed: int) -> None:
    pictures = [list(picture.nals) for picture in CLIP.pictures[:60]]
    packets = packets_of(pictures, start=65_450)
    chance = random.Random(seed)
    order = sorted(range(len(packets)), key=lambda n: n + chance.uniform(0, 12))
    order[0:0] = [order.pop(order.index(0))]
    twice = [n for n in order for _ in range(1 + (chance.random() < 0.1))]
    found = received([packets[n] for n in twice], receiver(reorder=32))
    assert [p.data for p in found] == [annex_b(*units) for units in pictures]
    assert not any(p.torn for p in found)


def test_udp_gives_up_on_what_does_not_come() -> None:
    pictures = [list(picture.nals) for picture in CLIP.pictures[:60]]
    packets = packets_of(pictures)
    middle = next(n for n, one in enumerate(packets) if one[12] & 31 == 28 and not one[13] & 0xC0)
    found = received(packets[:middle] + packets[middle + 1 :], receiver(reorder=32))
    assert [n for n, p in enumerate(found) if p.torn] == [0]
    assert len(found) >= 57  # some wait for what does not come


def test_extensions_sources_and_padding_are_taken_off() -> None:
    plain = packets_of([[SPS, PPS, KEY[:900]]])
    decorated = []
    for one in plain:
        head = bytes([0x80 | 0x20 | 0x10 | 2]) + one[1:12]
        decorated.append(head + b"src1src2" + b"\xbe\xde\0\1" + b"ext!" + one[12:] + b"\0\0\3")
    assert received(decorated)[0].data == annex_b(SPS, PPS, KEY[:900])


def test_aggregated_units() -> None:
    h264 = b"\x18" + b"".join(len(u).to_bytes(2, "big") + u for u in (SPS, PPS, KEY[:500]))
    one = packet(h264, last=True, sequence=1, timestamp=1, ssrc=7)
    assert received([one])[0].data == annex_b(SPS, PPS, KEY[:500])
    vps, sps, pps, irap = (bytes([kind << 1, 1]) + b"\x80x" for kind in (32, 33, 34, 19))
    h265 = b"\x60\x01" + b"".join(len(u).to_bytes(2, "big") + u for u in (vps, sps, pps, irap))
    one = packet(h265, last=True, sequence=1, timestamp=1, ssrc=7)
    found = received([one], receiver("h265"))
    assert (found[0].key, found[0].data) == (True, annex_b(vps, sps, pps, irap))


def test_h265_fragments() -> None:
    unit = bytes([19 << 1, 1]) + b"\x80" + b"d" * 3000
    chunks = [unit[2:][n : n + 1000] for n in range(0, len(unit) - 2, 1000)]
    packets = []
    for number, chunk in enumerate(chunks):
        flags = (0x80 if number == 0 else 0) | (0x40 if number == len(chunks) - 1 else 0) | 19
        payload = bytes([49 << 1, 1, flags]) + chunk
        last = number == len(chunks) - 1
        packets.append(packet(payload, last=last, sequence=number, timestamp=5, ssrc=7))
    found = received(packets, receiver("h265"))
    assert [p.data for p in found] == [annex_b(unit)]
    follows = packet(b"\x02\x01\xd0", last=True, sequence=len(packets), timestamp=9, ssrc=7)
    torn = received([*packets[:1], *packets[2:], follows], receiver("h265"))
    assert [p.torn for p in torn] == [True]


@given(st.lists(st.binary(max_size=60), max_size=30), st.sampled_from(["h264", "h265", "mjpeg"]))
def test_any_bytes_are_borne(rubbish: list[bytes], codec: str) -> None:
    headed = [
        packet(one, last=n % 3 == 0, sequence=n, timestamp=n // 3, ssrc=7)
        for n, one in enumerate(rubbish)
    ]
    for pictures in (received(headed, receiver(codec)), received(rubbish, receiver(codec))):
        assert all(isinstance(picture.data, bytes) for picture in pictures)


def test_udp_waits_shortly_for_what_does_not_come() -> None:
    """At few small pictures a second, 32 packets are seconds: the camera would seem stalled."""
    packets = packets_of([[SPS, PPS, KEY], *[[PLAIN_LATER[:1] + b"\x9a" + b"z"]] * 30])
    into = receiver(reorder=32)
    found: list[CodedPicture] = []
    late_s = []
    for number, one in enumerate(packets):
        if number != len(packets) - 20:
            into.feed(one, 100.0 + number / 15, found)
            late_s.append(100.0 + number / 15 - found[-1].arrival_s if found else 0.0)
    assert len(found) == 30
    assert max(late_s) < 0.2


def test_another_source_is_a_loss() -> None:
    whole = packets_of([[SPS, PPS, KEY], [PLAIN]])
    others = [one[:8] + b"else" + one[12:] for one in packets_of([[PLAIN]], ticks=90_000)]
    assert [p.torn for p in received([*whole, *others])] == [False, False, True]
    others = [one[:8] + b"else" + one[12:] for one in packets_of([[SPS, PPS, KEY]], ticks=90_000)]
    assert [p.torn for p in received([*whole, *others])] == [False, False, False]


def test_packets_of_padding_alone_tear_nothing() -> None:
    packets = packets_of([[SPS, PPS, KEY], [b"\x0b", PLAIN], [PLAIN]])
    bare = packets[-1][:12]
    padding = bytes([bare[0] | 0x20]) + bare[1:2] + (len(packets)).to_bytes(2, "big") + bare[4:]
    found = received([*packets, padding + b"\0\0\0\4"])
    assert [p.torn for p in found] == [False] * 3


def with_marker(packets: list[bytes], *, on: bool) -> list[bytes]:
    return [bytes([p[0], p[1] & 0x7F | 0x80 * on]) + p[2:] for p in packets]


@pytest.mark.parametrize("on", [True, False])
def test_a_marker_bit_on_every_packet_or_on_none_changes_no_picture(on: bool) -> None:
    pictures = [list(picture.nals) for picture in CLIP.pictures[:12]]
    usual = received(packets_of(pictures))
    found = received(with_marker(packets_of(pictures), on=on))
    ring = {p.position_s: b"" for p in found}
    for p in found:  # several slices come as parts of one position
        ring[p.position_s] += p.data
    assert list(ring.values())[: len(usual) - 1] == [p.data for p in usual[:-1]]
    assert not any(p.torn for p in found)


def test_a_last_fragment_without_its_end_bit_is_the_last_all_the_same() -> None:
    packets = packets_of([[SPS, PPS, KEY], [PLAIN], [PLAIN], [PLAIN]])
    without = [p[:13] + bytes([p[13] & 0xBF]) + p[14:] if p[12] & 31 == 28 else p for p in packets]
    found = received(without)
    assert [p.data for p in found] == [annex_b(SPS, PPS, KEY), annex_b(PLAIN), annex_b(PLAIN)]
    assert [p.torn for p in found] == [False] * 3


@pytest.mark.parametrize("code", [b"\0\0\1", b"\0\0\0\1"])
def test_start_codes_inside_a_unit_part_it(code: bytes) -> None:
    usual = received(packets_of([[SPS, PPS, KEY], [PLAIN]]))
    glued = [[code + code.join((SPS, PPS, KEY))], [code + PLAIN]]
    assert [p.data for p in received(packets_of(glued))] == [p.data for p in usual]
    behind = [[SPS + code + PPS + code + KEY], [DELIMITER + code + PLAIN]]
    found = received(packets_of(behind))
    assert [(p.key, p.data) for p in found] == [(p.key, p.data) for p in usual]


@pytest.mark.parametrize("marked", [True, False])
def test_sets_with_the_stamp_of_the_picture_before_belong_to_the_next(marked: bool) -> None:
    """As of cameras that send them right behind a picture, with or without marker bits."""
    pictures = [[SPS, PPS, KEY], [PLAIN], [SPS], [PPS], [KEY], [PLAIN]]
    stamps = [0, 1, 1, 1, 2, 3]
    packets: list[bytes] = []
    for units, stamp in zip(pictures, stamps, strict=True):
        one = packets_of([units], start=len(packets), ticks=1000 + stamp * TICKS)
        has_slice = units[0] not in (SPS, PPS) or len(units) > 1
        packets += one if has_slice or marked else with_marker(one, on=False)
    found = received(packets)
    assert [(p.key, p.data) for p in found] == [
        (True, annex_b(SPS, PPS, KEY)),
        (False, annex_b(PLAIN)),
        (True, annex_b(SPS, PPS, KEY)),
        (False, annex_b(PLAIN)),
    ]
    assert not any(p.torn for p in found)


@pytest.mark.parametrize("marked", [True, False])
def test_two_pictures_that_share_a_stamp_are_two(marked: bool) -> None:
    pictures = [list(picture.nals) for picture in CLIP.pictures[:12]]
    packets: list[bytes] = []
    for number, units in enumerate(pictures):
        packets += packets_of([units], start=len(packets), ticks=1000 + number // 2 * 2 * TICKS)
    if not marked:
        packets = with_marker(packets, on=False)
    usual = received(packets_of(pictures))
    found = received(packets)
    count = len(found)
    assert count >= len(usual) - 1
    assert [p.data for p in found] == [p.data for p in usual][:count]
    steps = [b.position_s - a.position_s for a, b in pairwise(found[2:])]  # as from the second on
    assert steps == pytest.approx([TICKS / 90_000] * (count - 3))
    assert not any(p.torn or p.continues for p in found)


def test_slices_with_markers_of_their_own_continue_their_picture() -> None:
    packets = [
        one
        for part in ([SPS, PPS, KEY], [KEY_LATER])
        for one in packets_of([part], start=1 if part[0] == KEY_LATER else 0)
    ]
    renumbered = [p[:2] + n.to_bytes(2, "big") + p[4:] for n, p in enumerate(packets)]
    assert [p.continues for p in received(renumbered)] == [False, True]


def h265_unit(size: int, fill: bytes = b"d", *, key: bool = False) -> bytes:
    return bytes([(19 if key else 1) << 1, 1, 0xD0]) + fill * (size - 3)


def h265_packets(units: list[bytes], packed: list[list[bytes]] | None = None) -> list[bytes]:
    """Send one slice a picture, in filled-up packets or as `packed`."""
    found: list[bytes] = []
    for number, unit in enumerate(units):
        parts = packed[number] if packed else packing.payloads([unit], "h265")
        found += packing.packets(parts, start=len(found), ticks=1000 + number * TICKS)
    return found


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(("size", "cut"), [(1500, 0), (2900, 0), (2900, 1), (5000, 2)])
def test_a_packet_cut_on_its_way_tears_a_picture_that_goes_on_behind_it(
    size: int, cut: int, marked: bool
) -> None:
    """FFmpeg's decoder of H.265 does not notice; what is cut off a last fragment nobody can.

    Of H.264 it misses one now and then.
    """
    units = [h265_unit(4000, key=not n) for n in range(12)] + [h265_unit(size)]
    packets = h265_packets(units)
    cut += len(packets) - len(packing.payloads([units[-1]], "h265"))
    packets[cut] = packets[cut][: len(packets[cut]) * 2 // 3]
    packets += packing.packets([h265_unit(500)], start=len(packets), ticks=13 * TICKS + 1000)
    packets += packing.packets([h265_unit(500)], start=len(packets), ticks=14 * TICKS + 1000)
    packets = packets if marked else with_marker(packets, on=False)
    torn = [p.torn for p in received(packets, receiver("h265"))]
    assert torn == [*[False] * 12, True, *[False] * (1 + marked)]


def _sizes_of(way: str, number: int, chance: random.Random) -> list[int]:
    """Return a picture's fragment sizes as of a camera with this way of filling packets."""
    filled = [1397] * 40
    sizes = {
        "at random": [chance.randrange(200, 1400) for _ in range(40)],
        "in equal parts": [1000 + 7 * number] * 40,
        "a header extension in the first": [1381, *filled],
        "larger ones in keyframes": [8000] * 40 if number % 25 == 0 else filled,
        "smaller ones in keyframes": [900] * 40 if number % 25 == 0 else filled,
        "a ring that wraps": [1397, 500, *filled] if number % 10 == 9 else filled,
        "the first of keyframes smaller": [1381, *filled] if number % 25 == 0 else filled,
    }
    return sizes[way]


@pytest.mark.parametrize(
    "way",
    [
        *("at random", "in equal parts", "a header extension in the first"),
        *("larger ones in keyframes", "smaller ones in keyframes", "a ring that wraps"),
        "the first of keyframes smaller",
    ],
)
def test_a_camera_that_fills_its_packets_in_a_way_of_its_own_is_not_judged(way: str) -> None:
    chance = random.Random(1)
    units = [
        h265_unit(40_000 if n % 25 == 0 else chance.randrange(1500, 6000), key=n % 25 == 0)
        for n in range(200)
    ]
    packed = [
        packing.fragments(unit, "h265", _sizes_of(way, n, chance)) for n, unit in enumerate(units)
    ]
    found = received(h265_packets(units, packed), receiver("h265"))
    assert [n for n, p in enumerate(found) if p.torn] == []
    assert len(found) == 200


@pytest.mark.parametrize("size", [500, 4000])
def test_decoding_order_numbers_are_taken_off(size: int) -> None:
    vps, sps, pps = (bytes([kind << 1, 1]) + b"\x80x" for kind in (32, 33, 34))
    unit = h265_unit(size, key=True)
    sets = (
        b"\x60\x01" + b"\0\5" + b"\0".join(len(u).to_bytes(2, "big") + u for u in (vps, sps, pps))
    )
    if size < 1400:
        parts = [sets, unit[:2] + b"\0\6" + unit[2:]]
    else:
        first, *rest = packing.payloads([unit], "h265")
        parts = [sets, first[:3] + b"\0\6" + first[3:], *rest]
    packets = packing.packets(parts, start=0, ticks=1000)
    [found] = received(packets, receiver("h265", has_order_numbers=True))
    assert (found.key, found.torn) == (True, False)
    assert found.data == annex_b(vps, sps, pps, unit)


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
@pytest.mark.parametrize("marked", [True, False])
def test_pictures_whose_stamps_never_move_are_placed_by_their_arrival(
    codec: str, marked: bool
) -> None:
    if codec == "h264":
        pictures = [list(picture.nals) for picture in CLIP.pictures[:12]]
    else:
        pictures = [[encode_jpeg(np.full((48, 64, 3), n * 20, np.uint8), 90)] for n in range(12)]
    usual: list[CodedPicture] = []
    found: list[CodedPicture] = []
    moving, still = receiver(codec), receiver(codec)
    start = 0
    for number, units in enumerate(pictures):
        parts = packing.payloads(units, codec)
        for ticks, into, pictures_of in ((number * TICKS, moving, usual), (0, still, found)):
            for one in packing.packets(parts, start=start, ticks=ticks):
                [sent] = [one] if marked or into is moving else with_marker([one], on=False)
                into.feed(sent, 100.0 + number * 0.04, pictures_of)
        start += len(parts)
    assert [p.data for p in found] == [p.data for p in usual][: len(found)]
    assert len(found) >= 11
    assert [p.by_arrival for p in found] == [False] + [True] * (len(found) - 1)
    steps = [b.position_s - a.position_s for a, b in pairwise(found[1:])]
    assert steps == pytest.approx([0.04] * (len(found) - 2))
    assert not any(p.by_arrival for p in usual)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_packet_cut_on_its_way_tears_h264_too(place: int) -> None:
    units = [b"\x65\x88" + b"k" * 5000, *[b"\x41\x9a" + b"p" * 5000] * 20]
    packets = packets_of([[unit] for unit in units])
    cut = len(packets) - 4 + place
    packets[cut] = packets[cut][:900]
    assert [p.torn for p in received(packets)] == [False] * 20 + [True]


@pytest.mark.parametrize("reorder", [0, 32])
@pytest.mark.parametrize("ahead", [40, 2900])
def test_a_stray_packet_from_the_future_silences_nothing_for_long(ahead: int, reorder: int) -> None:
    pictures = [list(picture.nals) for picture in CLIP.pictures[:60]] * 2
    packets = packets_of(pictures)
    stray = packet(b"\x41\x9aodd", last=True, sequence=ahead + 20, timestamp=9, ssrc=7)
    found = received([*packets[:20], stray, *packets[20:]], receiver(reorder=reorder))
    whole = {p.data for p in found if not p.torn}
    assert len(found) > 100
    assert all(annex_b(*units) in whole for units in pictures[50:119])


def test_padding_between_jpegs_is_no_picture() -> None:
    jpegs = [encode_jpeg(np.full((48, 64, 3), n * 20, np.uint8), 90) for n in range(5)]
    packets: list[bytes] = []
    for number, jpeg in enumerate(jpegs):
        ticks = 1000 + number * TICKS
        parts = packing.payloads([jpeg], "mjpeg")
        packets += packing.packets(parts, start=len(packets), ticks=ticks)
        [padding] = packing.packets([b"\0\0\0\4"], start=len(packets), ticks=ticks)
        packets.append(bytes([padding[0] | 0x20]) + padding[1:])
    found = received(packets, receiver("mjpeg"))
    assert [p.torn for p in found] == [False] * 5


def test_what_follows_a_loss_says_so_also_when_it_is_whole() -> None:
    packets = packets_of([[SPS, PPS, KEY], [PLAIN_LATER[:1] + b"\x9az"], [SPS, PPS, KEY], [PLAIN]])
    lost = next(n for n, one in enumerate(packets) if one.endswith(b"\x9az"))
    found = received(packets[:lost] + packets[lost + 1 :])
    assert [(p.torn, p.after_loss) for p in found] == [
        *((False, False), (False, True), (False, False))
    ]


def test_stamps_that_stop_are_replaced_by_arrivals_from_there_on() -> None:
    pictures = [list(picture.nals) for picture in CLIP.pictures[:30]]
    into = receiver()
    found: list[CodedPicture] = []
    start = 0
    for number, units in enumerate(pictures):
        parts = payloads(units)
        ticks = min(number, 10) * TICKS
        for one in packing.packets(parts, start=start, ticks=ticks):
            into.feed(one, 100.0 + number * 0.04, found)
        start += len(parts)
    assert [p.by_arrival for p in found] == [False] * 11 + [True] * 19
    positions = [p.position_s for p in found]
    assert positions == sorted(positions)
    assert positions[-1] == pytest.approx(29 * 0.04)


@st.composite
def packed_pictures(draw: st.DrawFn) -> tuple[str, list[list[bytes]], list[bytes]]:
    """Draw a codec, pictures of NAL units, and packets that hold them in any way that is allowed.

    At most 8 units are in fragments: of more, an even way of filling packets might be taken for
    the camera's.
    """
    codec = draw(st.sampled_from(["h264", "h265"]))
    chance = random.Random(draw(st.integers(0, 1 << 30)))
    has_markers = draw(st.booleans())
    pictures: list[list[bytes]] = []
    packets: list[bytes] = []
    for number in range(draw(st.integers(2, 5))):
        units = []
        for place in range(chance.choice((1, 1, 2))):
            body = bytes(chance.randrange(128, 256) for _ in range(chance.choice((9, 300))))
            first = 0x80 if place == 0 else 0x40
            if codec == "h264":
                units.append(bytes([0x65 if number == 0 else 0x41, first]) + body)
            else:
                units.append(bytes([(19 if number == 0 else 1) << 1, 1, first]) + body)
        if number == 0:
            sets = (SPS, PPS) if codec == "h264" else (b"\x42\1\1x", b"\x44\1\xc0x")
            units = [*sets, *units]
        parts: list[bytes] = []
        left = list(units)
        while left:
            count = chance.randrange(1, len(left) + 1)
            way = chance.choice(("single", "many", "fragments"))
            if way == "many":
                parts.append(packing.aggregate(left[:count], codec))
            else:
                count = 1
                sizes = [chance.randrange(1, 200) for _ in range(chance.randrange(1, 6))]
                is_long = way == "fragments" and len(left[0]) > 9
                parts += packing.fragments(left[0], codec, sizes) if is_long else [left[0]]
            del left[:count]
        pictures.append(units)
        markers = [False] * (len(parts) - 1) + [has_markers]
        packets += packing.packets(
            parts, start=len(packets), ticks=5000 + number * TICKS, markers=markers
        )
    return codec, pictures, packets


@given(packed_pictures())
def test_the_way_units_are_packed_changes_no_picture(
    packed: tuple[str, list[list[bytes]], list[bytes]],
) -> None:
    codec, pictures, packets = packed
    found = received(packets, receiver(codec))
    expected = [annex_b(*units) for units in pictures]
    assert [p.data for p in found] in (expected, expected[:-1])  # without marks the last goes on
    assert [p.key for p in found] == [n == 0 for n in range(len(found))]
    assert not any(p.torn for p in found)


@given(packed_pictures(), st.data())
def test_a_loss_is_told_however_units_are_packed(
    packed: tuple[str, list[list[bytes]], list[bytes]], data: st.DataObject
) -> None:
    """From the picture that lacks something on, all are known not to be whole."""
    codec, pictures, packets = packed
    lost = data.draw(st.integers(1, len(packets) - 1))
    ticks = int.from_bytes(packets[lost][4:8], "big")
    found = received(packets[:lost] + packets[lost + 1 :], receiver(codec))
    behind = [p for p in found if round(p.position_s * 90_000) + 5000 > ticks]
    expected = {annex_b(*units) for units in pictures}
    changed = [p for p in found if p.data not in expected]
    assert all(any(q.torn for q in found[: found.index(p) + 1]) for p in (*behind, *changed))
