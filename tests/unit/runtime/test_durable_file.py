"""Replacing a file: nothing is torn, nothing is left behind, and who may read it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runtime.durable_file import replace_file


class Calls:
    """Record what makes a replacement durable, and fail one kind of it on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.failing = ""
        real_fsync, real_rename = os.fsync, Path.rename

        def fsync(descriptor: int) -> None:
            self._note("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
            real_fsync(descriptor)

        def rename(path: Path, target: Path) -> Path:
            self._note("rename", target)
            return real_rename(path, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "rename", rename)

    def _note(self, call: str, path: Path) -> None:
        self.made.append(f"{call} {path.name}")
        if self.failing == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("private", [False, True])
def test_a_durable_replacement_is_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    path = tmp_path / "list.json"
    replace_file(path, [b"old"], private=private)
    calls = Calls(monkeypatch)
    replace_file(path, [b"n", b"ew"], private=private)
    assert path.read_bytes() == b"new"
    temp, *rest = calls.made
    assert temp.startswith("fsync .list.json")
    assert rest == ["rename list.json", f"fsync {tmp_path.name}"]
    for call in ("fsync", "rename"):
        calls.failing = call
        with pytest.raises(OSError, match="No space left"):
            replace_file(path, [b"newer"], private=private)
        assert path.read_bytes() == b"new"
        assert list(tmp_path.iterdir()) == [path]


def test_the_whole_content_is_written_before_the_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    replace_file(tmp_path / "list.json", [b"x" * 100_000] * 3)
    assert sizes[0] == 300_000


def test_only_a_private_file_is_hidden_from_others(tmp_path: Path) -> None:
    for name, private, others in (("list.json", False, 0o044), ("secret", True, 0)):
        (tmp_path / name).write_bytes(b"old")
        replace_file(tmp_path / name, [b"new"], private=private)
        mode = (tmp_path / name).stat().st_mode
        assert mode & 0o077 == others & ~_umask()
        assert mode & 0o600 == 0o600


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_private_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"old")
    os.chown(path, 1234, 5678)
    replace_file(path, [b"new"], private=True)
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (1234, 5678)


def test_what_a_crash_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".list.json.tmp").write_bytes(b"half of something longer than the new list")
    replace_file(tmp_path / "list.json", [b"new"])
    assert [path.name for path in tmp_path.iterdir()] == ["list.json"]
    assert (tmp_path / "list.json").read_bytes() == b"new"


def test_two_who_replace_a_private_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / ".env"

    def first() -> list[bytes]:
        replace_file(path, [b"second"], private=True)  # while the first one is being written
        return [b"fir", b"st"]

    replace_file(path, (chunk for chunk in first()), private=True)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
