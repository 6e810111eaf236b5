"""What a recording must not hold, taken out of what goes over the wire.

Messages may change in length, everything else keeps it: packets are framed by their length. Text
is handled as Latin-1, byte by byte. What is shorter than four letters, or part of the protocol's
own words, is taken out only where URLs, `name=value` and login headers hold it.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from contextlib import suppress
from typing import Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

from rtsp.address import parse_url

HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_REMOVED: Final = "removed"
_SHORTEST: Final = 4
_UNQUOTED: Final = "!$&'()*+,;=:@/"
_EVERYDAY: Final = (
    "rtsp/1.0 200 ok cseq: content-base: content-length: content-type: application/sdp server: "
    "m=video 0 rtp/avp/tcp 96 h264/90000 h265 jpeg a=rtpmap: a=fmtp: packetization-mode=1; "
    "profile-level-id= sprop-parameter-sets= a=control:trackid= stream channel transport: unicast;"
    "interleaved=0-1 client_port= server_port= ssrc= mode=play session: timeout=60 public: options,"
    " describe, setup, play, pause, get_parameter, teardown range: npt=now- rtp-info: url= seq= "
    "rtptime= www-authenticate: digest basic realm= nonce= algorithm=md5 user-agent: in ip4 ip6"
)
"""A password that is part of this would be found all over a harmless dialogue."""
_LOGIN: Final = re.compile(
    r"((?:(?:proxy-)?authorization|(?:proxy-)?authentication-info|(?:set-)?cookie)[ \t]*[:=][ \t]*)"
    r"[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*",
    re.IGNORECASE,
)
_NAMED: Final = re.compile(
    r"((?:user(?:name)?|usr|login|account|pass(?:word|wd|phrase)?|pwd|psw|token|secret|api_?key)=)"
    r"(?:\"[^\"\r\n]*\"|[^\s\"'<>;,&]+?(?=&|_[a-z]+=|[\s\"'<>;,]|$))",
    re.IGNORECASE,
)
_URL: Final = re.compile(r"\b(rtsps?|https?)://([^\s\"<>;,?#]*)([?#][^\s\"<>;,]*)?", re.IGNORECASE)
_PLACE: Final = re.compile(
    r"(\bIN[ \t]+IP[46][ \t]+|\b(?:source|destination)=)([^\s;,/]+)", re.IGNORECASE
)
_LENGTH: Final = re.compile(r"^(content-length:[ \t]*)(\d{1,9})[ \t]*(?=\r?$)", re.I | re.M)
_ANSWERS: Final = re.compile(r'response="([^"]*)"|Basic[ \t]+([^\s,]+)', re.IGNORECASE)
_CAMERA: Final = ("192.0.2.1", "2001:db8::1", "camera.example")  # RFC 5737, RFC 3849, RFC 2606
_OWN: Final = ("192.0.2.2", "2001:db8::2", "recorder.example")


class Redaction:
    """Take out logins and addresses; knows those of a camera's URL, and is told more."""

    def __init__(self, url: str) -> None:
        self._words: list[str] = []
        self._hosts: dict[str, str] = {}
        try:
            target = parse_url(url)
        except ValueError:  # nothing is ever sent to it
            return
        self.add_host(target.host)
        given = urlsplit(url)
        named = [found[0].partition("=")[2] for found in _NAMED.finditer(target.uri)]
        for word in (given.username or "", given.password or "", *named):
            self._add_word(word.encode())
            self._add_word(unquote_to_bytes(word))
        login = f"{target.user}:{target.password}".encode("latin-1")
        self._add_word(base64.b64encode(login))

    def add_host(self, host: str, *, own: bool = False) -> None:
        """Take an address or host name out from now on: the camera's, or this computer's `own`."""
        host = host.partition("%")[0]  # an IPv6 address may name its interface
        self._hosts.setdefault(host.lower(), _placeholder(host, _OWN if own else _CAMERA))

    def request(self, raw: bytes) -> str:
        """Return what is sent, without its login, which is looked for from now on."""
        for digest, basic in _ANSWERS.findall(raw.decode("latin-1")):
            self._add_word((digest or basic).encode("latin-1"))
        return self.message(raw)

    def message(self, raw: bytes) -> str:
        """Return a message with all of it taken out; its announced length changes as it does."""
        end = HEAD_END.search(raw)
        cut = end.end() if end else len(raw)
        body = self.text(raw[cut:].decode("latin-1"))
        grown = len(body) - (len(raw) - cut)
        said = _LENGTH.search(raw[:cut].decode("latin-1"))
        head = self.text(raw[:cut].decode("latin-1"))
        if said is None:
            return head + body
        # A camera that miscounts goes on to: that may be what is wrong with it.
        length = max(0, int(said[2]) + grown)
        return _LENGTH.sub(lambda found: f"{found[1]}{length}", head) + body

    def reason(self, text: str) -> str:
        """Return our own words about a camera without its address, however short that is."""
        for host, placeholder in self._hosts.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", placeholder, text, flags=re.I)
        return self.text(text)

    def text(self, text: str) -> str:
        """Return text without logins and addresses."""
        text = _LOGIN.sub(rf"\1({_REMOVED})", text)
        for word in self._words:
            text = text.replace(word, _REMOVED)
        text = _NAMED.sub(rf"\1{_REMOVED}", text)
        text = _URL.sub(self._bare_url, text)
        text = _PLACE.sub(lambda found: found[1] + self._host(found[2]), text)
        for host, placeholder in self._hosts.items():
            if len(host) >= _SHORTEST and host not in _EVERYDAY:
                bounded = rf"(?<![\w.-]){re.escape(host)}(?![\w-]|\.\w)"
                text = re.sub(bounded, placeholder, text, flags=re.IGNORECASE)
        return text

    def data(self, raw: bytes) -> bytes:
        """Return bytes of the same number, in which x stands for what was taken out."""
        for word in (*self._words, *self._hosts):
            found = word.encode("latin-1", "replace")
            if len(found) >= _SHORTEST and found in raw:
                raw = raw.replace(found, b"x" * len(found))
        return raw

    def _add_word(self, word: bytes) -> None:
        """Look for a word in all its spellings from now on."""
        spelled = {word.decode("latin-1"), *(quote(word, safe) for safe in ("", "/", _UNQUOTED))}
        spelled |= {re.sub("%..", lambda found: found[0].lower(), text) for text in spelled}
        with suppress(UnicodeError):  # as a camera writes it that knows Latin-1 only
            spelled.add(word.decode().encode("latin-1").decode("latin-1"))
        spelled |= {text.rstrip("=") for text in spelled}
        fit = {t for t in spelled if len(t) >= _SHORTEST and t.lower() not in _EVERYDAY}
        self._words = sorted({*self._words, *fit}, key=len, reverse=True)

    def _bare_url(self, found: re.Match[str]) -> str:
        authority, slash, path = found[2].rpartition("@")[2].partition("/")
        host, port = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(.*)", authority, re.DOTALL).groups()  # type: ignore[union-attr]
        query = f"{found[3][0]}{_REMOVED}" if found[3] else ""
        return f"{found[1]}://{self._host(host)}{port}{slash}{path}{query}"

    def _host(self, host: str) -> str:
        """Return what stands for a host; nobody's address, and a group's, stay."""
        bare = host.strip("[]").partition("%")[0]
        shown = self._hosts.get(bare.lower()) or _placeholder(bare, _CAMERA)
        return f"[{shown}]" if host.startswith("[") else shown


def _placeholder(host: str, kinds: tuple[str, str, str]) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return kinds[2] if host else ""
    if address.is_unspecified or address.is_multicast or str(address) in (*_CAMERA, *_OWN):
        return host
    return kinds[0 if address.version == 4 else 1]
