"""Receive image uploads over real HTTP, with faults on demand.

In-process: ``with Receiver() as receiver: ... receiver.wait_for(3, timeout_s=10)``.

As its own process, which outlives a kill -9 of the daemon and has its own GIL::

    python -m tests.rigs.receiver --port 0 --store DIR

prints ``listening URL`` once ready and appends one JSON line per accepted upload to
``DIR/received.jsonl`` before it answers. SIGUSR1 stops listening (prints ``stopped``), SIGUSR2
listens again (prints ``listening URL``), SIGTERM and SIGINT end it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http
import json
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

UPLOAD_PATH = "/api/Common/Upload"
_ORIGIN = re.compile(r"^http://[^/]+")
MAX_LINE_BYTES = 65_536
MAX_HEADERS = 200
MAX_BODY_BYTES = 128 * 1024 * 1024
JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Say how a request is treated.

    hang: read the request, then never answer until either side closes.
    reset: RST the connection after reading the request (True or "after"), or once its headers are
        in but before its body is read ("before").
    drop_reply: accept the upload, then close without a word.
    delay_s: wait before accepting and answering; the request is already in ``requests`` meanwhile.
    trickle_s: send the bytes of the status line and headers one by one with this gap.
    stored: whether the upload counts as accepted; None means a 2xx that is not HTML.
    headers: added to the reply, or replacing the ones written by default. A Content-Length that
        differs from the body's is sent as it is and the connection then closed: a cut reply.
    """

    status: int = 200
    body: bytes = b'{"Location": "http://127.0.0.1/images/stored.jpg"}'
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang: bool = False
    reset: bool | Literal["before", "after"] = False
    drop_reply: bool = False
    trickle_s: float | None = None
    stored: bool | None = None

    def __post_init__(self) -> None:
        """Refuse contradictory faults."""
        if sum((self.hang, bool(self.reset), self.drop_reply)) > 1:
            raise ValueError("give only one of hang, reset, drop_reply")
        if self.reset not in (False, True, "before", "after"):
            raise ValueError(f"reset must be a bool, 'before' or 'after', not {self.reset!r}")

    @property
    def fault(self) -> str:
        """Name the fault that takes the place of a reply, or ''."""
        if self.hang:
            return "hang"
        if self.reset:
            return "reset"
        return "drop_reply" if self.drop_reply else ""

    @property
    def accepts(self) -> bool:
        """Tell whether an upload treated so is stored."""
        if self.hang or self.reset:
            return False
        if self.stored is not None:
            return self.stored
        html = self.content_type.lower().startswith("text/html")
        return self.drop_reply or (200 <= self.status < 300 and not html)


def text(status: int, words: str) -> Answer:
    """Answer with plain text."""
    return Answer(status=status, body=words.encode(), content_type="text/plain; charset=utf-8")


def captive_portal() -> Answer:
    """Answer 200 with a login page, as a captive portal does."""
    page = b"<!doctype html><title>Welcome</title><form>Accept the terms to go online</form>"
    return Answer(body=page, content_type="text/html; charset=utf-8")


def redirect(location: str = "/moved", status: int = 302) -> Answer:
    """Answer with a redirect; a client that follows it shows up in ``requests``."""
    return Answer(status=status, body=b"", headers={"Location": location})


def retry_later(retry_after: str | int, status: int = 503) -> Answer:
    """Answer busy with a Retry-After, in seconds or as an HTTP date."""
    return replace(text(status, "busy"), headers={"Retry-After": str(retry_after)})


@dataclass(frozen=True, kw_only=True)
class Received:
    """Describe one request and the answer chosen for it.

    arrived_s: time.monotonic when its first line was in (system-wide on Linux).
    connection: number of the TCP connection, from 1; equal numbers mean it was kept alive.
    fields: the form fields that are not files.
    status: None when no reply was meant to be sent.
    fault: '', 'hang', 'reset', 'drop_reply', or 'cut' when the request ended before its end.
    problem: why the receiver itself refused the request, or ''.
    repeat: an upload whose Idempotency-Key had been stored already.
    """

    index: int
    connection: int
    arrived_s: float
    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, str] = field(default_factory=dict)
    file_field: str | None = None
    filename: str | None = None
    content_type: str | None = None
    sha256: str | None = None
    size_bytes: int = 0
    status: int | None = None
    fault: str = ""
    problem: str = ""
    repeat: bool = False

    def __str__(self) -> str:
        """Return one line for a failure summary."""
        outcome = self.fault or str(self.status)
        notes = f" ({self.problem})" if self.problem else ""
        notes += " repeat" if self.repeat else ""
        return f"{self.method} {self.path} {self.filename} {self.size_bytes} B: {outcome}{notes}"


class MalformedRequest(ValueError):
    """Report a request that breaks HTTP or multipart/form-data."""


@dataclass(frozen=True)
class Part:
    """Hold one part of a multipart/form-data body, byte-exact."""

    name: str
    filename: str | None
    content_type: str | None
    content: bytes


_DISPOSITION = re.compile(r'form-data((?:; *[a-z]+="[^"]*")*)', re.IGNORECASE)
_PARAMETER = re.compile(r'; *([a-z]+)="([^"]*)"', re.IGNORECASE)


def parse_multipart(content_type: str, body: bytes) -> list[Part]:
    """Split a multipart/form-data body strictly: no preamble, no epilogue, no lenience.

    Raises: MalformedRequest.
    """
    declared = Message()
    declared["Content-Type"] = content_type
    boundary = declared.get_boundary()
    if declared.get_content_type() != "multipart/form-data" or not boundary:
        raise MalformedRequest(f"not multipart/form-data with a boundary: {content_type!r}")
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    opening, *chunks = (b"\r\n" + body).split(delimiter)
    if opening or not chunks:
        raise MalformedRequest("the body does not start with the boundary")
    if chunks.pop() not in (b"--", b"--\r\n"):
        raise MalformedRequest("the body does not end with the closing boundary")
    if not chunks:
        raise MalformedRequest("a form without parts")
    return [_parse_part(chunk) for chunk in chunks]


def _parse_part(chunk: bytes) -> Part:
    head, blank, content = chunk.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not chunk.startswith(b"\r\n") or not blank:
        raise MalformedRequest("a part without a header block")
    try:
        headers = _parse_headers(head.decode("utf-8").split("\r\n"))
    except UnicodeDecodeError as error:
        raise MalformedRequest("part headers are not UTF-8") from error
    disposition = _DISPOSITION.fullmatch(headers.get("content-disposition", ""))
    if disposition is None:
        raise MalformedRequest(f"bad Content-Disposition: {headers.get('content-disposition')!r}")
    parameters = {name.lower(): value for name, value in _PARAMETER.findall(disposition[1])}
    if "name" not in parameters:
        raise MalformedRequest("a part without a name")
    filename = parameters.get("filename")
    return Part(
        name=_unescape(parameters["name"]),
        filename=None if filename is None else _unescape(filename),
        content_type=headers.get("content-type"),
        content=content,
    )


def _unescape(value: str) -> str:
    # The only three escapes of form-data names (WHATWG); any other % stands for itself.
    return value.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _parse_headers(lines: Iterable[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise MalformedRequest(f"bad header line: {line[:80]!r}")
        key, value = name.lower(), value.strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def _read_line(stream: BinaryIO) -> bytes:
    line = stream.readline(MAX_LINE_BYTES + 1)
    if len(line) > MAX_LINE_BYTES:
        raise MalformedRequest("a line too long")
    if not line.endswith(b"\r\n"):
        # A bare LF is as malformed as anything; no newline at all is a client that left.
        raise MalformedRequest("a bare LF") if line.endswith(b"\n") else EOFError
    return line[:-2]


def _read_exactly(stream: BinaryIO, size_bytes: int) -> bytes:
    if size_bytes > MAX_BODY_BYTES:
        raise MalformedRequest("a body too large")
    content = stream.read(size_bytes)
    if len(content) < size_bytes:
        raise EOFError
    return content


def _read_head(stream: BinaryIO) -> dict[str, str]:
    lines: list[str] = []
    while line := _read_line(stream):
        lines.append(line.decode("latin-1"))
        if len(lines) > MAX_HEADERS:
            raise MalformedRequest("too many headers")
    return _parse_headers(lines)


def _read_number(digits: str, base: int) -> int:
    allowed = "0123456789abcdef"[:base]
    if not digits or set(digits.lower()) - set(allowed):
        raise MalformedRequest(f"bad length: {digits[:40]!r}")
    return int(digits, base)


def _read_body(stream: BinaryIO, headers: Mapping[str, str]) -> bytes:
    encoding = headers.get("transfer-encoding")
    if encoding is None:
        return _read_exactly(stream, _read_number(headers.get("content-length", "0"), 10))
    if encoding.lower() != "chunked" or "content-length" in headers:
        raise MalformedRequest("a Transfer-Encoding other than chunked alone")
    body = bytearray()
    while size_bytes := _read_number(_read_line(stream).decode("latin-1"), 16):
        body += _read_exactly(stream, size_bytes)
        if len(body) > MAX_BODY_BYTES:
            raise MalformedRequest("a body too large")
        if _read_line(stream):
            raise MalformedRequest("a chunk without its end")
    _read_head(stream)
    return bytes(body)


class _Connection:
    """Serve one client; ``cut`` releases it from whatever it is blocked in, from any thread."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.is_cut = threading.Event()
        self.thread: threading.Thread | None = None

    def cut(self) -> None:
        """Make blocked reads end and writes fail."""
        self.is_cut.set()
        with contextlib.suppress(OSError):  # closed already, by its own thread or by the client
            self.sock.shutdown(socket.SHUT_RDWR)

    def is_served(self) -> bool:
        """Tell whether its thread is running."""
        return self.thread is not None and self.thread.is_alive()

    def reset_on_close(self) -> None:
        """Have close() send RST in place of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def wait_for_client_to_leave(self) -> None:
        """Block until the client closes, or ``cut``."""
        while self.sock.recv(4096):
            pass

    def reply(self, answer: Answer, *, with_body: bool, close: bool) -> None:
        """Write the reply, its head byte by byte when it trickles."""
        body = answer.body if answer.status not in (204, 304) else b""
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(body))}
        if close:
            headers["Connection"] = "close"
        named = {name.lower() for name in answer.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in named}
        try:
            reason = http.HTTPStatus(answer.status).phrase
        except ValueError:
            reason = "Unknown"
        lines = [f"HTTP/1.1 {answer.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in (headers | dict(answer.headers)).items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if answer.trickle_s is not None:
            for position in range(len(head)):
                self.sock.sendall(head[position : position + 1])
                if self.is_cut.wait(answer.trickle_s):
                    return
            head = b""
        self.sock.sendall(head + (body if with_body else b""))


Match = str | Callable[[Received], bool]


class Receiver:
    """Accept uploads on 127.0.0.1 and answer them as scripted; every method is thread-safe.

    port: 0 takes a free one.
    field: the only field name in which a file is accepted.
    keep_bodies: keep the bytes of accepted files in ``bodies``.
    honour_keys: store uploads with the same Idempotency-Key once.
    store: directory whose received.jsonl gets one line per accepted upload.

    An upload is accepted before its reply is written, as a real server stores before it answers:
    a client that gave up waiting may well have delivered.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        field: str = "singleFile",
        keep_bodies: bool = False,
        honour_keys: bool = False,
        store: Path | None = None,
    ) -> None:
        """Prepare; nothing is bound before ``start`` or ``with``."""
        self.port = port
        self._field = field
        self._keep_bodies = keep_bodies
        self._honour_keys = honour_keys
        self._store = store
        self._changed = threading.Condition()
        self._default = Answer()
        self._script: deque[Answer] = deque()
        self._rules: list[tuple[Match, Answer]] = []
        self._requests: list[Received] = []
        self._accepted: list[Received] = []
        self._bodies: dict[str, bytes] = {}
        self._sha256_by_key: dict[str, str | None] = {}
        self._connections: list[_Connection] = []
        self._n_connections = 0
        # Serialises start, stop_listening, listen_again and close; never held by other threads.
        self._switch = threading.RLock()
        self._socket: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    # -- life

    def __enter__(self) -> Self:
        """Start listening."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def start(self) -> None:
        """Bind and listen."""
        with self._switch:
            if self._socket is not None:
                raise RuntimeError("the receiver is started already")
            if self._store is not None:
                self._store.mkdir(parents=True, exist_ok=True)
            self._socket = self._bind()
            self.port = self._socket.getsockname()[1]
            self.listen_again()

    def close(self) -> None:
        """Stop listening, release every handler and wait for its thread.

        Raises: RuntimeError when a thread does not end in time.
        """
        with self._switch:
            self.stop_listening()
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def stop_listening(self) -> None:
        """Refuse connections from now on and cut the open ones, as a server that went down."""
        with self._switch:
            if self._acceptor is None or self._socket is None:
                return
            listening, acceptor = self._socket, self._acceptor
            listening.shutdown(socket.SHUT_RDWR)  # wakes accept()
            _join([acceptor])
            # A bound socket that does not listen refuses connections and keeps the port: else
            # another socket could take it, or a retrying client connect to its own source port.
            self._socket, self._acceptor = self._bind(), None
            listening.close()
            with self._changed:
                connections, self._connections = self._connections, []
            for connection in connections:
                connection.cut()
            _join([connection.thread for connection in connections])

    def listen_again(self) -> None:
        """Accept connections again on the same port."""
        with self._switch:
            if self._socket is None:
                raise RuntimeError("the receiver is not started")
            if self._acceptor is not None:
                return
            self._socket.listen(128)
            self._acceptor = threading.Thread(
                target=self._accept_connections,
                args=(self._socket,),
                name="receiver-accept",
                daemon=True,
            )
            self._acceptor.start()

    # -- script

    def answer(self, answer: Answer) -> None:
        """Treat every request so from now on, unless scripted or matched by ``answer_for``."""
        with self._changed:
            self._default = answer

    def script(self, answers: Iterable[Answer]) -> None:
        """Treat the next uploads so, one by one, after those still scripted."""
        with self._changed:
            self._script.extend(answers)

    def answer_for(self, match: Match, answer: Answer | None) -> None:
        """Treat uploads with this filename, or matching this predicate, so; None forgets the rule.

        Goes before script and default and uses up no scripted answer; the latest rule wins. A
        scripted or default reset "before" still goes first: the filename is not known yet.
        """
        if answer is not None and answer.reset == "before":
            raise ValueError('reset="before" comes before the filename is known')
        with self._changed:
            self._rules = [rule for rule in self._rules if rule[0] != match]
            if answer is not None:
                self._rules.insert(0, (match, answer))

    # -- what came in

    @property
    def url(self) -> str:
        """Return the address to upload to."""
        return f"http://127.0.0.1:{self.port}{UPLOAD_PATH}?modulename=anpr"

    @property
    def requests(self) -> list[Received]:
        """Return every request so far, in the order in which they were read."""
        with self._changed:
            return list(self._requests)

    @property
    def accepted(self) -> list[Received]:
        """Return the uploads stored so far; with honour_keys, repeats are not among them."""
        with self._changed:
            return list(self._accepted)

    @property
    def repeats(self) -> list[Received]:
        """Return the uploads that were recognised by their Idempotency-Key."""
        return [request for request in self.requests if request.repeat]

    @property
    def bodies(self) -> dict[str, bytes]:
        """Return the file bytes by filename, of the latest accepted one of each name."""
        if not self._keep_bodies:
            raise RuntimeError("bodies needs Receiver(keep_bodies=True)")
        with self._changed:
            return dict(self._bodies)

    @property
    def n_connections(self) -> int:
        """Return how many TCP connections were accepted, including those that sent nothing."""
        with self._changed:
            return self._n_connections

    def wait_for(self, n_accepted: int, timeout_s: float) -> list[Received]:
        """Return the accepted uploads once there are that many.

        Raises: AssertionError with a summary on timeout.
        """
        return self._wait(self._accepted, n_accepted, timeout_s, "accepted uploads")

    def wait_for_requests(self, n_requests: int, timeout_s: float) -> list[Received]:
        """Return all requests once that many were read, whatever their answer.

        A request that hangs or is delayed counts from when it was read.
        Raises: AssertionError with a summary on timeout.
        """
        return self._wait(self._requests, n_requests, timeout_s, "requests")

    def wait_for_connections(self, n_connections: int, timeout_s: float) -> None:
        """Wait until that many connections were accepted.

        Raises: AssertionError with a summary on timeout.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._n_connections >= n_connections, timeout_s):
                raise AssertionError(self._summary(n_connections, timeout_s, "connections"))

    def _wait(self, of: list[Received], n: int, timeout_s: float, what: str) -> list[Received]:
        with self._changed:
            if not self._changed.wait_for(lambda: len(of) >= n, timeout_s):
                raise AssertionError(self._summary(n, timeout_s, what))
            return list(of)

    def _summary(self, n: int, timeout_s: float, what: str) -> str:
        head = (
            f"wanted {n} {what} within {timeout_s:g} s, have {len(self._accepted)} accepted, "
            f"{len(self._requests)} requests, {self._n_connections} connections"
        )
        latest = [f"  {request.index}: {request}" for request in self._requests[-20:]]
        return "\n".join([f"{head}; {len(self._script)} answers still scripted", *latest])

    # -- threads

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def _accept_connections(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except ConnectionAbortedError:
                continue
            except OSError:
                return  # shut down by stop_listening
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._n_connections += 1
                connection = _Connection(sock, self._n_connections)
                connection.thread = threading.Thread(
                    target=self._serve,
                    args=(connection,),
                    name=f"receiver-{connection.number}",
                    daemon=True,
                )
                # Forgotten here once ended, not by their own threads: the listed ones get joined.
                self._connections = [each for each in self._connections if each.is_served()]
                self._connections.append(connection)
                self._changed.notify_all()
                connection.thread.start()

    def _serve(self, connection: _Connection) -> None:
        with (
            contextlib.suppress(ConnectionError, TimeoutError),  # the client left, or cut()
            connection.sock,
            connection.sock.makefile("rb") as stream,
        ):
            while self._serve_request(connection, stream):
                pass

    def _serve_request(self, connection: _Connection, stream: BinaryIO) -> bool:
        """Serve one request; tell whether the connection is good for another."""
        request = Received(
            index=-1, connection=connection.number, arrived_s=0.0, method="?", path="?", headers={}
        )
        body = b""
        try:
            line = _read_line(stream).decode("latin-1")
            request = replace(request, arrived_s=time.monotonic())
            words = line.split(" ")
            if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
                raise MalformedRequest(f"bad request line: {line[:80]!r}")
            path = _ORIGIN.sub("", words[1])  # said when it is to be a proxy
            request = replace(request, method=words[0], path=path)
            request = replace(request, headers=_read_head(stream))
            if _is_upload(request) and self._take_reset_before():
                self._record(replace(request, fault="reset"))
                connection.reset_on_close()
                return False
            if request.headers.get("expect", "").lower() == "100-continue":
                connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = _read_body(stream, request.headers)
        except (EOFError, ConnectionError, TimeoutError):
            if request.path != "?":
                self._record(replace(request, fault="cut"))
            return False
        except MalformedRequest as error:
            refusal = text(400, str(error))
            arrived_s = request.arrived_s or time.monotonic()
            self._record(
                replace(request, arrived_s=arrived_s, status=refusal.status, problem=str(error))
            )
            connection.reply(refusal, with_body=True, close=True)
            return False
        close = words[2] == "HTTP/1.0" or request.headers.get("connection", "").lower() == "close"
        return self._treat(connection, request, body, close=close)

    def _treat(
        self, connection: _Connection, request: Received, body: bytes, *, close: bool
    ) -> bool:
        content = b""
        if _is_upload(request):
            request, content, refusal = self._inspect(request, body)
            answer = self._choose(request)
            if refusal is not None and answer.accepts:
                answer = refusal
        elif request.path.partition("?")[0] == UPLOAD_PATH:
            answer = replace(text(405, "Method Not Allowed"), headers={"Allow": "POST"})
        else:
            answer = text(404, "Not Found")
        fault = answer.fault
        request = replace(request, status=None if fault else answer.status, fault=fault)
        request = self._record(request)
        if answer.delay_s and connection.is_cut.wait(answer.delay_s):
            return False
        if answer.hang:
            connection.wait_for_client_to_leave()
            return False
        if answer.reset:
            connection.reset_on_close()
            return False
        if answer.accepts:
            answer = self._accept(request, content, answer)
        if answer.drop_reply:
            return False
        cut_short = any(name.lower() == "content-length" for name in answer.headers)
        close = close or cut_short
        connection.reply(answer, with_body=request.method != "HEAD", close=close)
        return not close and not connection.is_cut.is_set()

    def _take_reset_before(self) -> bool:
        with self._changed:
            if self._script and self._script[0].reset == "before":
                self._script.popleft()
                return True
            return not self._script and self._default.reset == "before"

    def _inspect(self, request: Received, body: bytes) -> tuple[Received, bytes, Answer | None]:
        """Return the request described, its file's bytes, and the refusal it deserves if any."""
        try:
            parts = parse_multipart(request.headers.get("content-type", ""), body)
            fields = {
                part.name: part.content.decode("utf-8") for part in parts if part.filename is None
            }
        except UnicodeDecodeError:
            problem = "a form field is not UTF-8"
            return replace(request, problem=problem), b"", text(400, problem)
        except MalformedRequest as error:
            return replace(request, problem=str(error)), b"", text(400, str(error))
        files = [part for part in parts if part.filename is not None]
        request = replace(request, fields=fields)
        if not files:
            return replace(request, problem="no file part"), b"", text(400, "no file part")
        file = files[0]
        request = replace(
            request,
            file_field=file.name,
            filename=file.filename,
            content_type=file.content_type,
            sha256=hashlib.sha256(file.content).hexdigest(),
            size_bytes=len(file.content),
        )
        if [part.name for part in files] != [self._field]:
            problem = "Unexpected field"
            return replace(request, problem=problem), b"", text(500, problem)
        return request, file.content, None

    def _choose(self, request: Received) -> Answer:
        with self._changed:
            rules = list(self._rules)
        for match, answer in rules:
            if match(request) if callable(match) else match == request.filename:
                return answer
        with self._changed:
            # A reset "before" scripted while this body was being read comes "after" it.
            return self._script.popleft() if self._script else self._default

    def _record(self, request: Received) -> Received:
        with self._changed:
            request = replace(request, index=len(self._requests))
            self._requests.append(request)
            self._changed.notify_all()
        return request

    def _accept(self, request: Received, content: bytes, answer: Answer) -> Answer:
        """Store the upload once; return the answer to give."""
        key = request.headers.get("idempotency-key") if self._honour_keys else None
        with self._changed:
            if key is not None and key in self._sha256_by_key:
                if self._sha256_by_key[key] == request.sha256:
                    request = replace(request, repeat=True)
                else:
                    answer = text(422, "Idempotency-Key reused for another file")
                    request = replace(
                        request, status=answer.status, fault="", problem=answer.body.decode()
                    )
                self._requests[request.index] = request
            else:
                if key is not None:
                    self._sha256_by_key[key] = request.sha256
                if self._store is not None:
                    with (self._store / "received.jsonl").open("ab") as lines:
                        lines.write(json.dumps(asdict(request)).encode() + b"\n")
                if self._keep_bodies and request.filename is not None:
                    self._bodies[request.filename] = content
                self._accepted.append(request)
            self._changed.notify_all()
        return answer


def _is_upload(request: Received) -> bool:
    return request.method == "POST" and request.path.partition("?")[0] == UPLOAD_PATH


def _join(threads: Iterable[threading.Thread | None]) -> None:
    deadline_s = time.monotonic() + JOIN_TIMEOUT_S
    alive = []
    for thread in threads:
        if thread is None:
            continue
        thread.join(max(0.0, deadline_s - time.monotonic()))
        if thread.is_alive():
            alive.append(thread.name)
    if alive:
        raise RuntimeError(f"receiver threads still running: {', '.join(alive)}")


def main(arguments: list[str] | None = None) -> int:
    """Run a receiver until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Receive image uploads for tests and benches.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--store", type=Path, required=True, help="directory of received.jsonl")
    parser.add_argument("--field", default="singleFile", help="the file field's expected name")
    parser.add_argument("--honour-keys", action="store_true", help="store an Idempotency-Key once")
    parser.add_argument("--status", type=int, default=200, help="status of every answer")
    parser.add_argument("--delay-s", type=float, default=0.0, help="delay of every answer")
    options = parser.parse_args(arguments)
    # Blocked before any thread starts, so that only sigwait below sees them.
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    receiver = Receiver(
        port=options.port,
        field=options.field,
        honour_keys=options.honour_keys,
        store=options.store,
    )
    receiver.answer(Answer(status=options.status, delay_s=options.delay_s))
    with receiver:
        _say(f"listening {receiver.url}")
        while (signum := signal.sigwait(signals)) in (signal.SIGUSR1, signal.SIGUSR2):
            if signum == signal.SIGUSR1:
                receiver.stop_listening()
                _say("stopped")
            else:
                receiver.listen_again()
                _say(f"listening {receiver.url}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
