"""What the receiver of RTP packets asks of those who join payloads to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BuiltPicture:
    """A picture that is complete, as far as packets tell; `rtp.CodedPicture` has the words."""

    key: bool
    data: bytes
    torn: bool = False
    continues: bool = False
    after_loss: bool = False


class Assembler(Protocol):
    """Join the payloads of one codec to pictures, one after the other."""

    @property
    def has_begun(self) -> bool:
        """Tell whether a part of the picture itself has come, not only what goes before it."""

    @property
    def is_midway(self) -> bool:
        """Tell whether the picture goes on, whatever a marker bit says."""

    def add(self, payload: bytes, *, after_loss: bool) -> None:
        """Take the next payload; `after_loss` when packets before it are missing."""

    def take_built(self) -> Sequence[BuiltPicture]:
        """Return pictures that the beginning of another one has ended."""

    def finish(self, *, torn: bool) -> BuiltPicture | None:
        """Return the picture that has come, and begin the next one; `None` without a picture."""

    def go_on(self) -> None:
        """Expect more of the picture that `finish` has returned: its time stamp comes again."""
