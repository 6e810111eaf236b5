"""RTSP's Basic and Digest authentication. Source: RFC 2617, RFC 7616.

Text is handled as Latin-1, so that the bytes of names and passwords reach the digest unchanged.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import Final

Challenges = list[tuple[str, dict[str, str]]]
"""(scheme in lower case, parameters), in the order they came."""

_WORD: Final = r"[\w!#$%&'*+.^`|~-]+"
# Either `name=value` (quoted or not) or a bare word, which is the scheme of the next challenge.
_CHALLENGE_ITEM: Final = re.compile(
    rf'({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^\s,"]*))|({_WORD})', re.ASCII
)


def parse_challenges(headers: list[str]) -> Challenges:
    """Split `WWW-Authenticate` headers into challenges."""
    challenges: Challenges = []
    for header in headers:
        fresh = True
        for item in _CHALLENGE_ITEM.finditer(header):
            name, quoted, plain, scheme = item.groups()
            if scheme:
                challenges.append((scheme.lower(), {}))
                fresh = False
            elif not fresh:
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                challenges[-1][1].setdefault(name.lower(), value)
    return challenges


def digest_answer(
    params: dict[str, str],
    user: str,
    password: str,
    method: str,
    uri: str,
    cnonce: str,
    use: int = 1,
) -> str | None:
    """Compute the `Authorization` value for a Digest challenge (RFC 2617, RFC 7616).

    `use` counts the answers to this challenge: to a strict server a repeated count is a replay.
    Returns `None` unless the challenge asks for MD5 or SHA-256, with qop auth or no qop.
    """
    algorithm = params.get("algorithm", "MD5").upper()
    base = algorithm.removesuffix("-SESS")
    offered = [word.strip().lower() for word in params.get("qop", "").split(",") if word.strip()]
    is_known = base in ("MD5", "SHA-256") and (not offered or "auth" in offered)
    if not is_known or "nonce" not in params:
        return None

    def digest(*parts: str) -> str:
        name = base.replace("-", "").lower()
        text = ":".join(parts).encode("latin-1")
        return hashlib.new(name, text, usedforsecurity=False).hexdigest()

    realm, nonce = params.get("realm", ""), params["nonce"]
    secret = digest(user, realm, password)
    if algorithm != base:
        secret = digest(secret, nonce, cnonce)
    count = (f"{use:08x}", cnonce, "auth") if offered else ()
    fields = {"username": user, "realm": realm, "nonce": nonce, "uri": uri}
    fields["response"] = digest(secret, nonce, *count, digest(method, uri))
    if "opaque" in params:
        fields["opaque"] = params["opaque"]
    if offered or algorithm != base:
        fields["cnonce"] = cnonce
    shown = [f'{name}="{_escaped(value)}"' for name, value in fields.items()]
    if "algorithm" in params:
        shown.append(f"algorithm={params['algorithm']}")
    if offered:
        shown.append(f"qop=auth, nc={use:08x}")
    return "Digest " + ", ".join(shown)


def authorization(
    challenges: Challenges, user: str, password: str, method: str, uri: str, use: int = 1
) -> str | None:
    """Return `Authorization` for the first Digest challenge that is supported, else Basic."""
    for scheme, params in challenges:
        if scheme == "digest":
            cnonce = secrets.token_hex(8)
            if answer := digest_answer(params, user, password, method, uri, cnonce, use):
                return answer
    if any(scheme == "basic" for scheme, _ in challenges):
        return "Basic " + base64.b64encode(f"{user}:{password}".encode("latin-1")).decode()
    return None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
