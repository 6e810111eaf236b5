"""Which picture belongs to a moment, on streams made up picture by picture.

Streams are lists of packets, one a picture; each also knows when its picture was truly
shot, which the ring has to find out. The monotonic clock is 1000 s ahead of the stream's positions.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camera.frame import Choice
from camera.packet_ring import PacketRing
from rtsp.rtp import CodedPicture

BASE_S = 1000.0
PERIOD_S = 0.04
WITHIN_S = 0.25


@dataclass(frozen=True)
class Packet:
    """A packet and what the ring is not told: `shot_s`, the true moment of its picture."""

    position_s: float
    arrival_s: float
    key: bool
    data: bytes
    shot_s: float
    continues: bool = False


def stream(
    count: int,
    *,
    period_s: float = PERIOD_S,
    gop: int = 25,
    jitter_s: float = 0.0,
    seed: int = 1,
    start_s: float = 0.0,
    size: int = 8,
) -> list[Packet]:
    """Make a camera's pictures: positions from `start_s`, in time, late by up to `jitter_s`."""
    chance = random.Random(seed)
    packets = []
    for number in range(count):
        position_s = start_s + number * period_s
        shot_s = BASE_S + position_s
        arrival_s = shot_s + chance.uniform(0, jitter_s)
        data = number.to_bytes(4, "big").ljust(size, b"\xff")
        packets.append(Packet(position_s, arrival_s, number % gop == 0, data, shot_s))
    return packets


def coded(packet: Packet, *, torn: bool = False) -> CodedPicture:
    return CodedPicture(
        packet.position_s, packet.arrival_s, packet.key, packet.data, torn, packet.continues
    )


def feed(ring: PacketRing, packets: Iterable[Packet]) -> None:
    for packet in packets:
        ring.append(coded(packet))


def filled(packets: Iterable[Packet], codec: str = "h264") -> PacketRing:
    ring = PacketRing(codec=codec)
    feed(ring, packets)
    return ring


def numbers(choice: Choice | None) -> list[int]:
    assert choice is not None
    return [int.from_bytes(packet[:4], "big") for packet in choice.pictures]


def nearest(ring: PacketRing, wanted_s: float) -> Choice:
    choice = ring.nearest(wanted_s, WITHIN_S)
    assert choice is not None
    return choice


# The right picture at the right time.


@pytest.mark.parametrize("period_s", [0.04, 0.2, 1.0])
def test_a_server_may_begin_with_all_since_the_last_keyframe(period_s: float) -> None:
    """They come at once, each later than the next one: no new time base, and no wrong moment."""
    count = max(24, round(8 / period_s))
    packets = stream(count, period_s=period_s, gop=count)
    joined_s = packets[count // 2].shot_s + 0.01
    burst = [replace(p, arrival_s=max(p.arrival_s, joined_s)) for p in packets]
    for late in range(count // 2, count):
        ring = filled(burst[: late + 1])
        choice = nearest(ring, packets[late].shot_s)
        assert numbers(choice) == list(range(late + 1))
        assert choice.shot_s == pytest.approx(packets[late].shot_s, abs=0.011)
    assert not choice.timing_unsure


def test_the_nearest_picture_comes_with_what_its_decoding_needs() -> None:
    ring = filled(stream(100))
    choice = nearest(ring, BASE_S + 60 * PERIOD_S + 0.015)
    assert numbers(choice) == list(range(50, 61))
    assert choice.index == 10
    assert choice.shot_s == pytest.approx(BASE_S + 60 * PERIOD_S)
    assert (choice.damaged, choice.timing_unsure) == (False, False)


@pytest.mark.parametrize(("ahead_s", "number"), [(0.019, 60), (0.021, 61), (-0.019, 60)])
def test_between_two_pictures_the_nearer_one_wins(ahead_s: float, number: int) -> None:
    choice = nearest(filled(stream(100)), BASE_S + 60 * PERIOD_S + ahead_s)
    assert numbers(choice)[-1] == number


def test_an_empty_ring_has_no_picture() -> None:
    ring = PacketRing(codec="h264")
    assert ring.nearest(BASE_S, WITHIN_S) is None
    assert not ring.covers(BASE_S)
    assert ring.newest_shot_s is None
    assert ring.period_s is None


def test_packets_before_the_first_keyframe_give_no_picture_but_timing() -> None:
    ring = filled(replace(packet, key=False) for packet in stream(60))
    assert ring.nearest(BASE_S + 1, WITHIN_S) is None
    assert ring.newest_shot_s == pytest.approx(BASE_S + 59 * PERIOD_S)


def test_mjpeg_pictures_stand_alone() -> None:
    packets = stream(100, gop=1)
    choice = nearest(filled(packets, "mjpeg"), BASE_S + 60 * PERIOD_S)
    assert numbers(choice) == [60]
    assert choice.index == 0
    assert choice.shot_s == pytest.approx(BASE_S + 60 * PERIOD_S)


def test_a_moment_is_covered_once_a_picture_at_or_after_it_came() -> None:
    ring = filled(stream(100))
    newest_s = BASE_S + 99 * PERIOD_S
    assert ring.newest_shot_s == pytest.approx(newest_s)
    assert ring.covers(newest_s - 0.001)
    assert not ring.covers(newest_s + 0.001)


@given(
    seed=st.integers(0, 10_000),
    jitter_ms=st.integers(0, 19),
    fps=st.sampled_from([10, 15, 25, 30]),
    gop=st.integers(1, 60),
    codec=st.sampled_from(["h264", "h265", "mjpeg"]),
    ago_ms=st.integers(0, 2500),
)
def test_with_jitter_the_error_stays_within_the_jitter(
    seed: int, jitter_ms: int, fps: int, gop: int, codec: str, ago_ms: int
) -> None:
    jitter_s = jitter_ms / 1000
    packets = stream(140, period_s=1 / fps, jitter_s=jitter_s, seed=seed, gop=gop)
    if codec == "mjpeg":
        packets = [replace(packet, key=True) for packet in packets]
    wanted_s = packets[-1].shot_s - ago_ms / 1000
    choice = nearest(filled(packets, codec), wanted_s)
    chosen = packets[numbers(choice)[-1]]
    assert -1e-6 <= choice.shot_s - chosen.shot_s <= jitter_s + 1e-6
    by_distance = sorted(packets, key=lambda packet: abs(packet.shot_s - wanted_s))
    margin_s = abs(by_distance[1].shot_s - wanted_s) - abs(by_distance[0].shot_s - wanted_s)
    if margin_s > 2 * jitter_s:
        assert chosen is by_distance[0]
    assert abs(chosen.shot_s - wanted_s) <= abs(by_distance[0].shot_s - wanted_s) + 2 * jitter_s


# What networks and cameras do.


def test_early_first_packets_do_not_spoil_the_anchor() -> None:
    packets = stream(60)
    for number, early_s in enumerate((0.039, 0.02, 0.008)):
        first = packets[number]
        packets[number] = replace(first, arrival_s=first.arrival_s - early_s)
    choice = nearest(filled(packets), packets[50].shot_s)
    assert numbers(choice)[-1] == 50
    assert choice.shot_s == pytest.approx(packets[50].shot_s)


def test_a_late_burst_after_a_network_stall_does_not_move_the_shots() -> None:
    packets = stream(150)
    stalled_until_s = packets[120].arrival_s
    late = [replace(p, arrival_s=max(p.arrival_s, stalled_until_s)) for p in packets[90:121]]
    ring = filled([*packets[:90], *late])
    assert ring.newest_shot_s == pytest.approx(packets[120].shot_s)
    choice = nearest(ring, packets[100].shot_s)
    assert numbers(choice)[-1] == 100
    assert choice.shot_s == pytest.approx(packets[100].shot_s)
    assert not choice.timing_unsure


def test_stale_packets_flushed_by_a_frozen_camera_do_not_look_fresh() -> None:
    packets = stream(100)
    flushed = replace(packets[-1], position_s=4.0, arrival_s=packets[-1].arrival_s + 5)
    ring = filled([*packets, flushed])
    assert ring.newest_shot_s == pytest.approx(BASE_S + 4.0)


@pytest.mark.parametrize("jump_s", [3.0, 60.0, -60.0, -3.0])
@pytest.mark.parametrize("key_at", [100, 110])
def test_a_jump_of_the_positions_keeps_what_came_and_makes_the_timing_unsure(
    jump_s: float, key_at: int
) -> None:
    before = stream(100)
    after = [
        replace(p, position_s=p.position_s + jump_s, key=p.key or n + 100 == key_at)
        for n, p in enumerate(stream(200)[100:])
    ]
    ring = filled([*before, *after[:5]])
    for number in (90, 99):
        choice = nearest(ring, before[number].shot_s)
        assert numbers(choice)[-1] == number
        assert not choice.timing_unsure
        assert not choice.damaged
    choice = nearest(ring, after[4].shot_s)
    assert numbers(choice)[-1] == 104
    assert choice.timing_unsure
    assert not choice.damaged
    late = [replace(p, arrival_s=p.arrival_s + 0.2) for p in after[:2]]
    assert nearest(filled([*before, *late]), after[1].shot_s + 0.02).stands_in
    feed(ring, after[5:25])
    assert nearest(ring, after[20].shot_s).timing_unsure
    feed(ring, after[25:])
    choice = nearest(ring, after[50].shot_s)
    assert numbers(choice)[-1] == 150
    assert choice.shot_s == pytest.approx(after[50].shot_s)
    assert not choice.timing_unsure


@pytest.mark.parametrize("jump_at", [1, 2, 3, 4])
def test_a_jump_among_the_very_first_packets_leaves_nothing_of_the_old_time_base(
    jump_at: int,
) -> None:
    packets = [
        replace(p, position_s=p.position_s + (5.0 if n >= jump_at else 0.0), key=n in (0, jump_at))
        for n, p in enumerate(stream(60))
    ]
    choice = nearest(filled(packets), packets[50].shot_s)
    assert numbers(choice) == list(range(jump_at, 51))
    assert not choice.damaged
    assert choice.shot_s == pytest.approx(packets[50].shot_s)


def test_timing_is_unsure_until_a_second_of_clean_packets_came() -> None:
    packets = stream(40)
    unsure = []
    ring = PacketRing(codec="h264")
    for packet in packets:
        feed(ring, [packet])
        unsure.append(nearest(ring, packet.shot_s).timing_unsure)
    first_sure = unsure.index(False)
    assert 25 <= first_sure <= 32
    assert not any(unsure[first_sure:])


def test_a_lost_packet_makes_its_successors_damaged_until_the_next_keyframe() -> None:
    packets = stream(100)
    lost = [*packets[:60], *packets[61:]]
    ring = filled(lost)
    damaged = [nearest(ring, packets[n].shot_s).damaged for n in (55, 59, 76, 99)]
    assert damaged == [False, False, False, False]
    assert ring.nearest(packets[66].shot_s, 0.05) is not None
    far = ring.nearest(packets[66].shot_s, 0.05)
    assert far is not None
    assert far.damaged
    assert numbers(far)[-1] == 66


@pytest.mark.parametrize("counted", [True, False])
def test_what_the_camera_left_out_itself_is_no_damage(counted: bool) -> None:
    packets = stream(100)
    ring = PacketRing(codec="h264", follows=lambda key, earlier, later: counted)
    feed(ring, packets[:60] + packets[62:])
    choice = ring.nearest(packets[64].shot_s, 0.01)
    assert choice is not None
    assert choice.damaged is not counted
    assert numbers(choice)[-1] == 64


def test_an_undamaged_neighbour_is_preferred() -> None:
    packets = stream(100)
    ring = filled([*packets[:60], *packets[61:]])
    before, after = (nearest(ring, packets[n].shot_s) for n in (62, 73))
    assert (numbers(before)[-1], before.damaged) == (59, False)
    assert (numbers(after)[-1], after.damaged) == (75, False)
    assert before.stands_in
    assert after.stands_in
    assert not nearest(ring, packets[58].shot_s).stands_in
    assert not nearest(ring, packets[76].shot_s).stands_in


@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
def test_only_a_lost_picture_is_stood_in_for(codec: str) -> None:
    """Cameras leave pictures out themselves: then the nearest one is the moment's own."""
    packets = [replace(p, key=p.key or codec == "mjpeg") for p in stream(100)]
    for after_loss in (False, True):
        ring = PacketRing(codec=codec, follows=lambda *_: True)
        for n, packet in enumerate(packets):
            if n not in (58, 59, 60):
                ring.append(replace(coded(packet), after_loss=after_loss and n == 61))
        found = nearest(ring, packets[59].shot_s + 0.001)
        assert numbers(found)[-1] == 61
        assert found.stands_in == after_loss
        assert not nearest(ring, packets[61].shot_s).stands_in
        assert nearest(ring, packets[0].shot_s - 0.1).stands_in, "before all that is held"


def test_the_moments_of_pictures_placed_by_arrival_are_unsure() -> None:
    ring = PacketRing(codec="h264")
    for packet in stream(60):
        ring.append(replace(coded(packet), by_arrival=True))
    assert nearest(ring, BASE_S + 2.0).timing_unsure
    assert ring.stamps_stuck
    assert ring.clock_ppm is None
    ring.append(coded(stream(61)[-1]))
    assert not ring.stamps_stuck


def test_a_lost_keyframe_damages_what_would_have_followed() -> None:
    packets = stream(100)
    ring = filled([*packets[:50], *packets[51:]])
    choice = ring.nearest(packets[60].shot_s, 0.05)
    assert choice is not None
    assert choice.damaged


@pytest.mark.parametrize(("codec", "gop"), [("mjpeg", 1), ("h265", 50)])
def test_a_gap_in_time_is_no_damage_when_nothing_is_built_on_or_the_decoder_knows_it(
    codec: str, gop: int
) -> None:
    packets = stream(100, gop=gop)
    ring = filled([*packets[:60], *packets[62:]], codec)
    assert not nearest(ring, packets[70].shot_s).damaged


# Several parts of one picture.


def in_parts(count: int) -> list[Packet]:
    """Make pictures that come in two parts, a millisecond apart."""
    return [
        part
        for p in stream(count)
        for part in (
            p,
            replace(p, arrival_s=p.arrival_s + 0.001, data=b"more" + p.data, continues=True),
        )
    ]


def test_parts_of_a_picture_are_one_picture() -> None:
    packets = in_parts(60)
    choice = nearest(filled(packets), packets[2 * 51].shot_s)
    assert choice.pictures == tuple(packets[n].data + packets[n + 1].data for n in (100, 102))
    assert choice.index == 1
    assert choice.shot_s == pytest.approx(packets[102].shot_s, abs=0.002)


def test_a_torn_part_makes_the_picture_torn() -> None:
    packets = in_parts(60)
    ring = PacketRing(codec="h264")
    for number, p in enumerate(packets):
        ring.append(coded(p, torn=number == 105))
    assert ring.nearest(packets[110].shot_s, 0.01).damaged  # type: ignore[union-attr]
    assert not nearest(ring, packets[102].shot_s).damaged


def test_a_picture_half_received_settles_nothing() -> None:
    packets = in_parts(60)
    ring = filled(packets[:-1])
    assert ring.covers(packets[-3].shot_s - 0.005)
    assert not ring.covers(packets[-1].shot_s - 0.005)


def test_two_key_parts_start_one_gop_only() -> None:
    packets = in_parts(60)
    ring = filled(packets)
    assert ring.gop_s == pytest.approx(1.0)
    assert nearest(ring, packets[100].shot_s).index == 0


# B-frames.


def with_b_frames(groups: int) -> list[Packet]:
    """Make I P B B P B B …: each P is sent before the two pictures that are shown before it."""
    order: list[Packet] = []
    for group, p in enumerate(stream(groups)):
        at = group * 3
        for shown in (at,) if group == 0 else (at, at - 2, at - 1):
            position_s = shown * PERIOD_S
            sent_s = BASE_S + (3 * group + 1) * PERIOD_S + len(order) * 1e-5
            key = shown == at and group % 10 == 0
            data = shown.to_bytes(4, "big") + p.data[4:]
            order.append(Packet(position_s, sent_s, key, data, BASE_S + position_s))
    return order


def test_a_b_frame_comes_with_all_that_was_sent_before_it() -> None:
    packets = with_b_frames(40)
    ring = filled(packets)
    assert ring.b_frames
    anchor_s = (ring.newest_shot_s or 0.0) - 117 * PERIOD_S
    chosen = {
        shown: nearest(ring, anchor_s + shown * PERIOD_S) for shown in (90, 93, 94, 95, 96, 97)
    }
    assert {shown: c.index for shown, c in chosen.items()} == {
        90: 0, 93: 3, 94: 7, 95: 8, 96: 6, 97: 10,
    }  # fmt: skip
    assert numbers(chosen[94]) == [90, 88, 89, 93, 91, 92, 96, 94]
    assert not any(c.damaged for c in chosen.values())


def test_the_first_pictures_of_a_session_with_b_frames_are_kept() -> None:
    """Their first step back does not begin a new time."""
    packets = with_b_frames(12)
    for count in range(4, len(packets)):
        choice = nearest(filled(packets[:count]), packets[2].shot_s)
        assert numbers(choice)[0] == 0, count


def test_a_small_jump_back_is_told_from_b_frames() -> None:
    """It comes once. Until that is certain its pictures are marked, then the time is a new one."""
    before = stream(150)
    after = [
        replace(p, position_s=p.position_s - 0.3, key=p.key or n == 50)
        for n, p in enumerate(stream(400)[150:])
    ]
    ring = filled(before)
    for packet in after:
        feed(ring, [packet])
        choice = ring.nearest(packet.shot_s, WITHIN_S)
        if choice is not None and abs(choice.shot_s - packet.shot_s) < 0.001:
            number = numbers(choice)[-1]
            is_right = number == int.from_bytes(packet.data[:4], "big")
            assert is_right or choice.timing_unsure
    assert not nearest(ring, after[-1].shot_s).timing_unsure
    assert nearest(ring, after[-1].shot_s).shot_s == pytest.approx(after[-1].shot_s)


def test_pictures_shown_before_their_keyframe_are_not_offered() -> None:
    packets = with_b_frames(40)
    ring = filled(packets)
    anchor_s = (ring.newest_shot_s or 0.0) - 117 * PERIOD_S
    assert numbers(nearest(ring, anchor_s + 89 * PERIOD_S))[-1] in (87, 90)


def test_b_frames_settle_one_reference_later() -> None:
    packets = with_b_frames(40)
    ring = filled(packets[:-2])  # P 117 came, B 115 and 116 did not
    newest_s = ring.newest_shot_s or 0.0
    assert ring.covers(newest_s - 3 * PERIOD_S - 0.001)
    assert not ring.covers(newest_s - PERIOD_S)


# What is kept.


def test_whole_gops_are_kept_that_cover_the_wanted_seconds() -> None:
    ring = PacketRing(codec="h264", keep_s=4.0)
    packets = stream(500)
    feed(ring, packets)
    oldest = ring.nearest(0.0, WITHIN_S)
    kept_s = packets[-1].position_s - packets[numbers(oldest)[0]].position_s
    assert 4.0 <= kept_s < 5.1
    assert ring.gop_s == pytest.approx(1.0)
    assert not ring.too_short


def test_bytes_are_bounded_and_old_gops_go_first() -> None:
    ring = PacketRing(codec="h264", keep_s=100.0, max_bytes=10_000)
    packets = stream(500, size=100)
    highest = 0
    for packet in packets:
        feed(ring, [packet])
        highest = max(highest, ring.size_bytes)
    assert highest <= 10_000
    assert numbers(nearest(ring, packets[-1].shot_s))[-1] == 499
    assert numbers(ring.nearest(0.0, WITHIN_S)) == [400]
    assert ring.too_short


def test_a_gop_that_does_not_fit_is_told_until_one_fits() -> None:
    ring = PacketRing(codec="h264", max_bytes=10_000)
    packets = stream(300, gop=150, size=100)
    feed(ring, packets)
    assert ring.too_short
    assert ring.size_bytes <= 10_000
    feed(ring, stream(150, gop=25, size=10, start_s=300 * PERIOD_S))
    assert not ring.too_short


def test_the_period_is_that_of_the_last_pictures_whatever_was_lost() -> None:
    packets = stream(100)
    ring = filled([*packets[:60], *packets[64:]])
    assert ring.period_s == pytest.approx(PERIOD_S)


def torn_at(number: int, count: int = 50) -> PacketRing:
    ring = PacketRing(codec="h264")
    for n, p in enumerate(stream(count)):
        ring.append(coded(p, torn=n == number))
    return ring


def test_a_torn_picture_is_damaged_and_so_is_what_follows() -> None:
    packets = stream(50)
    ring = torn_at(30)
    assert nearest(ring, packets[29].shot_s).damaged is False
    assert nearest(ring, packets[31].shot_s).shot_s == pytest.approx(packets[29].shot_s)
    assert ring.nearest(packets[45].shot_s, WITHIN_S).damaged is True  # type: ignore[union-attr]
    assert nearest(ring, packets[20].shot_s).damaged is False


def test_a_torn_keyframe_spoils_its_whole_gop() -> None:
    packets = stream(50)
    assert nearest(torn_at(25), packets[40].shot_s).damaged


def test_around_returns_the_pictures_of_a_window_each_gop_decoded_once() -> None:
    packets = stream(60)
    ring = filled(packets)
    found = ring.around(packets[25].shot_s, 0.09)
    assert [round((c.shot_s - packets[0].shot_s) / PERIOD_S) for c in found] == [23, 24, 25, 26, 27]
    assert [choice.index for choice in found] == [23, 24, 0, 1, 2]
    assert {id(choice.pictures) for choice in found[:2]} == {id(found[0].pictures)}
    assert numbers(found[0]) == list(range(25))
    assert numbers(found[-1]) == [25, 26, 27]


def test_around_leaves_damaged_pictures_out() -> None:
    packets = stream(50)
    del packets[30]
    ring = filled(packets)
    around = ring.around(packets[30].shot_s, 0.1)
    assert [round((c.shot_s - packets[0].shot_s) / PERIOD_S) for c in around] == [29]
    assert ring.around(packets[40].shot_s, 0.1) == []


@pytest.mark.parametrize("rate", [1.0, 0.7, 1.4, 1 / 90])
def test_periods_and_gops_are_told_in_real_seconds(rate: float) -> None:
    packets = [replace(p, position_s=p.position_s * rate) for p in stream(300, gop=75)]
    ring = filled(packets)
    assert ring.period_s == pytest.approx(PERIOD_S, rel=0.01)
    assert ring.gop_s == pytest.approx(75 * PERIOD_S, rel=0.01)
