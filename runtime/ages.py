"""How long ago something was, in words."""

from __future__ import annotations

from datetime import datetime


def since_words(moment: datetime, now: datetime) -> str:
    """Return how long ago something was."""
    seconds = (now - moment).total_seconds()
    for limit, unit, word in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, round(seconds / unit))} {word} ago"
    return f"{round(seconds / 86400)} days ago"
