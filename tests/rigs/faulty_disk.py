"""A disk whose n-th write, fsync, rename, ... fails: for SQLite's own calls too.

The library `faulty_disk.c` stands in front of the C library's; what is to fail is told through
memory that both share. It is for a process of its own, started with `environment()`.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KINDS: Final = ("write", "sync", "rename", "unlink", "truncate", "create", "commit")
_SOURCE: Final = Path(__file__).with_suffix(".c")
_CACHE: Final = Path(__file__).parents[2] / "bench" / ".cache"
_HEAD: Final = struct.Struct("qq")
_ROW: Final = struct.Struct("qqqqq")
_SIZE: Final = _HEAD.size + len(KINDS) * _ROW.size


def library() -> Path:
    """Compile the library when that was not done yet, and return its path."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    target = _CACHE / "faulty_disk.so"
    if not target.exists() or target.stat().st_mtime < _SOURCE.stat().st_mtime:
        made = target.with_suffix(f".{os.getpid()}")
        options = ("-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-ldl")
        subprocess.run(["gcc", *options, "-o", made, _SOURCE], check=True)
        made.replace(target)
    return target


@dataclass(frozen=True)
class Fault:
    """What fails: the call number `first` of a kind and then every `every`-th; 0: only that one.

    With `is_short` a failing write first writes its half.
    """

    kind: str
    first: int
    every: int
    error: str
    is_short: bool = False


class FaultyDisk:
    """What is to fail below `folder`; both sides open it with the same `table` file."""

    def __init__(self, table: Path, folder: Path) -> None:
        self._table, self._folder = table, folder
        self._head = (0, 0)
        if not table.exists():
            table.write_bytes(bytes(_SIZE))
        with table.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE)

    def environment(self) -> dict[str, str]:
        """Return what a process needs in its environment to have this disk."""
        return {
            "LD_PRELOAD": str(library()),
            "FAULTY_DISK_TABLE": str(self._table),
            "FAULTY_DISK_FOLDER": str(self._folder.resolve()),
        }

    def heal(self) -> None:
        """Let nothing fail and count anew."""
        self._head = (0, 0)
        self._memory[:] = bytes(_SIZE)

    def fail(self, fault: Fault) -> None:
        """Let calls of a kind fail, counted from now."""
        self._put(fault.kind, 0, fault.first, fault.every, 0, 0)
        self._head = (getattr(errno, fault.error), int(fault.is_short))
        self.fail_again()

    def fail_again(self) -> None:
        """Let fail what failed before `work_again`, counted on."""
        _HEAD.pack_into(self._memory, 0, *self._head)

    def work_again(self) -> None:
        """Let nothing fail any more, the counters standing."""
        _HEAD.pack_into(self._memory, 0, 0, 0)

    def delay(self, kind: str, seconds: float) -> None:
        """Let each call of a kind take longer."""
        self._put(kind, 0, 0, 0, 0, round(seconds * 1e6))

    def calls(self, kind: str) -> int:
        """Return how many calls of a kind there were."""
        return int(self._row(kind)[0])

    def failed(self, kind: str) -> int:
        """Return how many of them failed."""
        return int(self._row(kind)[3])

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()

    def _put(self, kind: str, *row: int) -> None:
        _ROW.pack_into(self._memory, _HEAD.size + KINDS.index(kind) * _ROW.size, *row)

    def _row(self, kind: str) -> tuple[int, ...]:
        return _ROW.unpack_from(self._memory, _HEAD.size + KINDS.index(kind) * _ROW.size)
