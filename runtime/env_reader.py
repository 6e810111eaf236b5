"""Typed values from environment variables; problems are collected and reported together."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_SHORTEST_SECRET: Final = 4  # shorter ones would turn ordinary words of the log into stars


class EnvReader:
    """Read typed values from `env`; collect problems, secrets, and every variable's default."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[str] = []
        self.secrets: set[str] = set()
        self.defaults: dict[str, str] = {}

    def problem(self, name: str, value: str, why: str) -> None:
        """Note that the value of `name` can't be used."""
        self.problems.append(f"{name}={value!r}: {why}")

    def text(
        self,
        name: str,
        default: str,
        *,
        pattern: str = "",
        allowed: str = "",
        shown: str | None = None,
    ) -> str:
        """Return the stripped text, or the default when it is unset or empty."""
        self.defaults[name] = default if shown is None else shown
        value = self.env.get(name, "").strip() or default
        if pattern and not re.fullmatch(pattern, value):
            self.problem(name, value, f"must be {allowed}")
        elif any(ord(c) < 0x20 for c in value):
            self.problem(name, "***", "must be one line without control characters")
        return value

    def secret(self, name: str, default: str, *, shown: str | None = None) -> str:
        """Return a text that must never be shown."""
        self.defaults[name] = default if shown is None else shown
        value = self.env.get(name, "") or default
        if value != default:
            self._hide(value)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return a truth value written as true/false, yes/no, on/off or 1/0."""
        value = self.text(name, "true" if default else "false").lower()
        if value in ("true", "yes", "on", "1"):
            return True
        if value not in ("false", "no", "off", "0"):
            self.problem(name, value, "must be true or false")
        return False

    def integer(
        self, name: str, default: int, low: int, high: int, *, shown: str | None = None
    ) -> int:
        """Return a whole number from `low` to `high`."""
        value = self.text(name, str(default), shown=shown)
        with suppress(ValueError):
            if low <= int(value) <= high:
                return int(value)
        self.problem(name, value, f"must be a whole number from {low} to {high}")
        return default

    def optional_integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """Return a whole number, or `None` when there is neither a value nor a default."""
        if default is None and not self.env.get(name, "").strip():
            self.defaults[name] = ""
            return None
        return self.integer(name, low if default is None else default, low, high)

    def integers(self, name: str, default: int, most: int) -> tuple[int, ...]:
        """Return 1 to `most` different whole numbers, separated by commas, in ascending order."""
        value = self.text(name, str(default))
        words = [word.strip() for word in value.split(",")]
        if all(re.fullmatch(r"[+-]?\d{1,5}", word) for word in words):
            numbers = sorted({int(word) for word in words})
            if len(numbers) == len(words) <= most:
                return tuple(numbers)
        self.problem(name, value, f"must be 1 to {most} different whole numbers like -400,0,400")
        return (default,)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a number from `low` to `high`."""
        value = self.text(name, f"{default:g}")
        with suppress(ValueError):
            if low <= float(value) <= high:
                return float(value)
        self.problem(name, value, f"must be a number from {low:g} to {high:g}")
        return default

    def choice(self, name: str, default: str, options: tuple[str, ...]) -> str:
        """Return one of `options`, ignoring case."""
        value = self.text(name, default)
        by_name = {option.lower(): option for option in options}
        if value.lower() not in by_name:
            self.problem(name, value, f"must be one of {', '.join(options)}")
        return by_name.get(value.lower(), default)

    def url(
        self, name: str, default: str, schemes: tuple[str, ...], *, shown: str | None = None
    ) -> str:
        """Return a URL of one of `schemes`; its password and query count as secrets."""
        value = self.text(name, default, shown=shown)
        if not value:
            return value
        try:
            parts = urlsplit(value)
            valid = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
            self._hide(unquote(parts.password or ""))
            self._hide(parts.password or "")
            if value != default:
                self._hide(parts.query)
        except ValueError:
            valid = False
        if not valid:
            self.problem(
                name,
                re.split(r"[?#]", value)[0] if "@" not in value else "***",
                f"must be a URL like {schemes[0]}://host:port/path",
            )
        return value

    def path(self, name: str, default: str, *, shown: str | None = None) -> Path:
        """Return an absolute path; relative ones start at the working directory."""
        return Path(self.text(name, default, shown=shown)).expanduser().absolute()

    def timezone(self, name: str, default: str, *, shown: str) -> ZoneInfo:
        """Return a time zone by its IANA name."""
        value = self.text(name, default, shown=shown)
        try:
            return ZoneInfo(value)
        except (OSError, ValueError, ZoneInfoNotFoundError):
            self.problem(name, value, "must be a time zone such as Europe/Istanbul or UTC")
            return ZoneInfo("UTC")

    def networks(self, name: str) -> tuple[str, ...]:
        """Return addresses and networks, separated by commas; empty when unset."""
        words = [word.strip() for word in self.text(name, "").split(",") if word.strip()]
        for word in words:
            try:
                ipaddress.ip_network(word, strict=False)
            except ValueError:
                self.problem(name, word, "must be addresses or networks like 192.168.1.0/24")
        return tuple(words)

    def ip_address(self, name: str, default: str) -> str:
        """Return the text of an IPv4 or IPv6 address."""
        value = self.text(name, default)
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            self.problem(name, value, "must be an IP address such as 0.0.0.0 or 192.168.1.33")
            return default

    def unknown_names(self, names: Iterable[str], ours: re.Pattern[str]) -> list[str]:
        """Return a warning for each of `names` that matches `ours` and was never asked for."""
        warnings = []
        for name in names:
            if name in self.defaults or not ours.match(name):
                continue
            close = get_close_matches(name, self.defaults, n=1)
            guess = f"; did you mean {close[0]}?" if close else ""
            warnings.append(f"{name} in .env is not a variable of this program{guess}")
        return warnings

    def _hide(self, value: str) -> None:
        if len(value) >= _SHORTEST_SECRET:
            self.secrets |= {value, quote(value, safe="")}
