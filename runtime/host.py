"""This computer's time zone, and a name that is unique among boxes."""

from __future__ import annotations

import os
import re
import socket
import uuid
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def default_site_id() -> str:
    """Return a unique name: the host's and 6 digits of its machine id."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:57] or "box"
    try:
        machine_id = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        machine_id = ""
    return f"{host}-{machine_id[:6] or f'{uuid.getnode():012x}'[-6:]}"


def system_timezone() -> str:
    """Return the IANA name of the system's time zone; UTC when it has none."""
    link = Path("/etc/localtime")
    try:
        name = os.environ.get("TZ", "").lstrip(":") or str(link.resolve()).partition("zoneinfo/")[2]
        return ZoneInfo(name).key
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return "UTC"
