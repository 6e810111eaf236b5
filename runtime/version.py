"""The version and date of this release."""

from datetime import UTC, datetime
from typing import Final

__version__: Final = "0.1.0"
RELEASED_AT: Final = datetime(2026, 11, 22, tzinfo=UTC)
"""No image can be older than the software that took it: a clock before this is wrong."""
