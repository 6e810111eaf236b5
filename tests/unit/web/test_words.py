"""What the first screen says of the disk."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from tests.rigs.web import STATUS
from web.words import lights


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (None, "41 GB free"),
        (200, "41 GB free, about 200 days"),
        (1, "41 GB free, about 1 day"),
        (0, "41 GB free, less than a day"),
    ],
)
def test_the_disk_light_says_how_long_it_will_do(days: int | None, text: str) -> None:
    status = {**STATUS, "storage": {**STATUS["storage"], "days_left": days}}
    disk = next(light for light in lights(status, ZoneInfo("UTC")) if light.key == "disk")
    assert disk.text == text
    assert sum("traffic" in fact for fact in disk.facts) == (days is not None)
