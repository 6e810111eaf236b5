"""A camera's recording, read from its file; `rtsp/recording.py` says what is in one."""

from __future__ import annotations

import base64
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

_VERSION: Final = 1
_LONGEST_HEAD: Final = 4096
_REPLY: Final = re.compile(r"RTSP/1\.0 +([1-9]\d\d)")
_INTERLEAVED: Final = re.compile(r"^transport:.*interleaved\s*=\s*(\d{1,3})", re.I | re.M)


class RecordingError(Exception):
    """The file can't be played back; the text says why."""


@dataclass(frozen=True)
class Reply:
    """A camera's reply to a request; `had_login` tells whether the request answered a challenge."""

    text: str
    status: int
    """0 when it is none of RTSP."""
    delay_s: float
    """From the request to the reply."""
    had_login: bool

    @property
    def is_challenge(self) -> bool:
        """Tell whether it asks for a login that was not given yet."""
        return self.status == 401 and not self.had_login


@dataclass(frozen=True)
class Item:
    """What came while the stream played: a packet, raw bytes, the end, or time alone."""

    after_s: float
    """Since the request to play."""
    packet: bytes = b""
    track: int = -1
    """Of a packet: 0 is RTP, 1 RTCP, others are of other streams."""
    raw: bytes = b""
    is_end: bool = False
    is_reply: bool = False
    """The reply to the request to play comes here."""

    @property
    def is_rtp(self) -> bool:
        """Tell whether it is a packet of the video."""
        return self.track == 0 and len(self.packet) >= 12 and self.packet[0] >> 6 == 2


@dataclass
class Connection:
    """One connection: replies by the method of their request, and what came while it played."""

    replies: dict[str, list[Reply]] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    """Empty if the camera never played."""
    asked: set[str] = field(default_factory=set)
    """The methods of all requests."""
    hung_up: bool = False
    first_channel: int = 0


@dataclass(frozen=True)
class Recording:
    """What one camera said and sent, on one connection after the other."""

    connections: tuple[Connection, ...]
    uri: str
    """Of the first request, with a placeholder for the host."""
    is_udp: bool
    is_cut: bool
    """The end of the file is missing."""
    end: str
    """Why the camera failed; empty if it did not."""

    @property
    def wants_login(self) -> bool:
        """Tell whether the camera asked for a password."""
        replies = [r for c in self.connections for found in c.replies.values() for r in found]
        return any(reply.is_challenge for reply in replies)


def read(path: Path) -> Recording:
    """Read a recording; what a cut-off end leaves of its last line is passed over.

    Raises:
        RecordingError: it is none, is damaged, or holds nothing that can be played back.
    """
    try:
        with path.open(encoding="latin-1", newline="\n") as file:
            head = _head(path, file.readline(_LONGEST_HEAD))
            entries = list(_entries(path, file))
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror}") from error
    end = next((entry for entry in entries if "end" in entry), {})
    parts: list[list[dict[str, Any]]] = []
    try:
        for entry in entries:
            if "connected" in entry:
                parts.append([])
            elif "end" not in entry:
                parts[-1].append(entry)
        if parts and entries:  # it lasted up to here
            parts[-1].append({"at": entries[-1]["at"]})
        connections = tuple(map(_connection, parts))
        asked = [entry["asked"] for part in parts for entry in part if "asked" in entry]
        uri = asked[0].split(" ")[1] if asked else ""
        urlsplit(uri)
        reason = str(end.get("end", ""))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RecordingError(f"{path} is damaged: an entry is not as it should be") from error
    if not connections:
        why = f": {reason}" if reason else ""
        raise RecordingError(f"{path} has nothing to play: the camera was never reached{why}")
    return Recording(connections, uri, head.get("transport") == "udp", not end, reason)


def _head(path: Path, line: str) -> dict[str, Any]:
    try:
        head = json.loads(line)
        if head["format"] != "rtsprec":
            raise ValueError
    except (ValueError, LookupError, TypeError):
        raise RecordingError(f"{path} is not a recording of a camera") from None
    if head.get("version") != _VERSION:
        raise RecordingError(f"{path} was made by another version of this program")
    return dict(head)


def _entries(path: Path, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 2):
        if not line.endswith("\n"):  # cut off
            return
        try:
            entry = json.loads(line)
            float(entry["at"])
        except (ValueError, LookupError, TypeError):
            raise RecordingError(f"{path} is damaged in line {number}") from None
        yield entry


def _connection(entries: list[dict[str, Any]]) -> Connection:
    """Tell replies from what came while the stream played."""
    found = Connection(hung_up=any("hung_up" in entry for entry in entries))
    waiting: deque[tuple[str, float, bool]] = deque()
    play_s: float | None = None
    pending: list[Item] = []
    foreign = ""
    for entry in entries:
        at_s, said = float(entry["at"]), str(entry.get("said", ""))
        status = _REPLY.match(said)
        if "asked" in entry:
            if str(entry["asked"]).startswith("RTSP/"):
                continue  # our answer to a request of the camera's
            method = str(entry["asked"]).split(" ")[0]
            found.asked.add(method)
            waiting.append((method, at_s, "\nauthorization:" in entry["asked"].lower()))
            if method == "PLAY":
                play_s, pending = at_s, []
        elif status and int(status[1]) >= 200:
            if not waiting:
                continue
            method, asked_s, had_login = waiting.popleft()
            reply = Reply(said, int(status[1]), max(0.0, at_s - asked_s), had_login)
            found.replies.setdefault(method, []).append(reply)
            if method == "SETUP" and (channel := _INTERLEAVED.search(said)):
                found.first_channel = int(channel[1])
            if method == "PLAY" and play_s is not None and reply.status < 300:
                pending.append(Item(at_s - play_s, is_reply=True))
                found.items = pending
        elif play_s is not None and (item := _item(entry, at_s - play_s, found.first_channel)):
            pending.append(item)
        elif "bytes" in entry:
            foreign += base64.b64decode(entry["bytes"], validate=True).decode("latin-1")
    if waiting and foreign:  # what answered does not speak RTSP
        method, asked_s, had_login = waiting.popleft()
        found.replies.setdefault(method, []).append(Reply(foreign, 0, 0.0, had_login))
    return found


def _item(entry: dict[str, Any], after_s: float, first_channel: int) -> Item | None:
    if "packet" in entry:
        track = int(entry["channel"]) - first_channel
        return Item(after_s, packet=base64.b64decode(entry["packet"], validate=True), track=track)
    if "datagram" in entry:
        if entry["stranger"]:
            return None
        packet = base64.b64decode(entry["datagram"], validate=True)
        return Item(after_s, packet=packet, track=int(entry["track"]))
    if "bytes" in entry:
        return Item(after_s, raw=base64.b64decode(entry["bytes"], validate=True))
    if "said" in entry:
        return Item(after_s, raw=str(entry["said"]).encode("latin-1"))
    return Item(after_s, is_end="hung_up" in entry)
