"""A real ext4 file system of some megabytes, that can be full, read-only, or broken."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_METADATA_BYTES: Final = 400_000
"""At most what the file system keeps of the room that a large file takes."""
_PROGRAMS: Final = ("mkfs.ext4", "mount", "umount", "losetup", "e2fsck")


def missing() -> str | None:
    """Return why there can be no such disk here, or `None`."""
    if os.geteuid() != 0:
        return "mounting needs root"
    for program in _PROGRAMS:
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"{program} is missing"
    tried = subprocess.run(["losetup", "--find"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "there are no loop devices"


class SmallDisk:
    """Mount the disk at `folder`/disk while the context lasts."""

    def __init__(self, folder: Path, size_mb: int = 48) -> None:
        self._image = folder / "disk.ext4"
        self.path = folder / "disk"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size_mb * 1_000_000)
        # No blocks kept for root: full is full, also for tests that run as root.
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unmount()

    def mount(self) -> None:
        """Mount it; an error makes the kernel turn it read-only, as on a Raspberry Pi."""
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))

    def unmount(self) -> None:
        """Unmount it."""
        _run("umount", str(self.path))

    def remount(self, mode: str) -> None:
        """Make it `ro` or `rw`. The kernel refuses `ro` while files are open for writing."""
        _run("mount", "-o", f"remount,{mode}", str(self.path))

    def repair(self) -> None:
        """Check and repair it, as at a start of the computer."""
        self.unmount()
        subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, check=False)
        self.mount()

    def abort(self) -> None:
        """Let the kernel meet an error: files that are open stay so, and nothing can be written."""
        device = self.path.stat().st_dev
        uevent = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/uevent")
        name = uevent.read_text().partition("DEVNAME=")[2].split()[0]
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("a test")

    def fill(self, left_bytes: int) -> None:
        """Use up the free space but for so much, or to the last block."""
        free_bytes = shutil.disk_usage(self.path).free
        with (self.path / "filler").open("wb", buffering=0) as file:
            used_bytes = free_bytes - max(left_bytes, _METADATA_BYTES)
            os.posix_fallocate(file.fileno(), 0, used_bytes)
            file.seek(used_bytes)
            with suppress(OSError):
                for _ in range(0 if left_bytes else 2 * _METADATA_BYTES // 4096):
                    file.write(bytes(4096))
            os.fsync(file.fileno())

    def make_room(self) -> None:
        """Undo `fill`."""
        (self.path / "filler").unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
