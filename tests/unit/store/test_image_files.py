"""The folder of image files: order of writing, names, and what a failure leaves behind."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from store import image_files
from store.errors import StorageError
from store.image_files import ImageFolder, jpeg_size
from tests.rigs.stores import JPEG


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    folder = ImageFolder(tmp_path / "images")
    folder.create()
    return folder


def claim(name: str) -> bool:
    return True


def content(folder: ImageFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


class Recorder:
    """Record the calls that make a file durable, and fail one of them on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail: tuple[str, int] | None = None
        self._names: dict[int, str] = {}
        real_open, real_fsync, real_rename = os.open, os.fsync, Path.rename

        def fake_open(path: Any, flags: int, *more: Any) -> int:
            descriptor = real_open(path, flags, *more)
            self._names[descriptor] = Path(path).name
            if flags & os.O_CREAT:
                self._note("create", Path(path).name)
            return descriptor

        def fake_fsync(descriptor: int) -> None:
            self._note("fsync", self._names[descriptor])
            real_fsync(descriptor)

        def fake_rename(path: Path, target: Path) -> Path:
            self._note("rename", target.name)
            return real_rename(path, target)

        monkeypatch.setattr(os, "open", fake_open)
        monkeypatch.setattr(os, "fsync", fake_fsync)
        monkeypatch.setattr(Path, "rename", fake_rename)

    def _note(self, call: str, name: str) -> None:
        self.calls.append(f"{call} {name}")
        if self.fail and self.fail[0] == call:
            raise OSError(self.fail[1], os.strerror(self.fail[1]))


def test_a_file_is_durable_before_it_has_its_name(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    assert folder.write("r1_100", JPEG, claim) == "r1_100.jpg"
    assert recorder.calls == [
        "create .r1_100.jpg.tmp",
        "fsync .r1_100.jpg.tmp",
        "rename r1_100.jpg",
        "fsync images",
    ]
    assert (folder.path / "r1_100.jpg").read_bytes() == JPEG


def test_the_whole_picture_is_written_before_the_fsync(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder.write("r1_100", b"x" * 300_000, claim)
    assert sizes[0] == 300_000


def test_deletes_are_made_durable(folder: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("r1_100", JPEG, claim)
    recorder = Recorder(monkeypatch)
    folder.delete(["r1_100.jpg", "r1_gone.jpg"])
    assert content(folder) == []
    assert recorder.calls == ["fsync images"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize(
    ("code", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)]
)
def test_a_failed_write_leaves_nothing(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch, call: str, code: int, full: bool
) -> None:
    recorder = Recorder(monkeypatch)
    recorder.fail = (call, code)
    with pytest.raises(StorageError, match=r"cannot save r1_100\.jpg") as caught:
        folder.write("r1_100", JPEG, claim)
    assert caught.value.full is full
    assert content(folder) == []
    recorder.fail = None
    assert folder.write("r1_100", JPEG, claim) == "r1_100.jpg"


def test_a_full_disk_while_writing_leaves_nothing(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_fdopen = os.fdopen

    def fdopen(descriptor: int, mode: str) -> Any:
        os.close(descriptor)
        return real_fdopen(os.open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr(os, "fdopen", fdopen)
    with pytest.raises(StorageError, match="the disk is full"):
        folder.write("r1_100", b"x" * 100_000, claim)
    assert content(folder) == []


def test_a_folder_without_permission_says_what_to_do(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    recorder.fail = ("create", errno.EACCES)
    with pytest.raises(StorageError, match="give the folder to the user"):
        folder.write("r1_100", JPEG, claim)


def test_a_folder_that_is_a_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write to"):
        ImageFolder(tmp_path / "images").create()


def test_nothing_is_overwritten(folder: ImageFolder) -> None:
    names = [folder.write("r1_100", JPEG + bytes([n]), claim) for n in range(4)]
    assert names == ["r1_100.jpg", "r1_100_2.jpg", "r1_100_3.jpg", "r1_100_4.jpg"]
    assert [(folder.path / name).read_bytes()[-1] for name in names] == [0, 1, 2, 3]


def test_names_of_rows_without_a_file_stay_taken(folder: ImageFolder) -> None:
    assert folder.write("r1_100", JPEG, lambda name: name != "r1_100.jpg") == "r1_100_2.jpg"


def test_a_file_that_comes_between_look_and_claim_is_kept(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim_slowly(name: str) -> bool:
        if name == "r1_100.jpg":
            (folder.path / name).write_bytes(b"the other one")
        return True

    assert folder.write("r1_100", JPEG, claim_slowly) == "r1_100_2.jpg"
    assert (folder.path / "r1_100.jpg").read_bytes() == b"the other one"
    assert content(folder) == ["r1_100.jpg", "r1_100_2.jpg"]


def test_captures_of_one_second_by_many_threads_are_all_kept(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # only the names matter here
    written: dict[str, bytes] = {}
    failures: list[BaseException] = []
    ready = threading.Barrier(4)

    def capture(thread: int) -> None:
        try:
            ready.wait()
            for number in range(250):
                # Near where the free names are: trying all from 1 on would only take time.
                stem = f"r1_{1000 + number // 20}"
                picture = f"{thread} {number}".encode()
                name = folder.write(stem, picture, claim)
                assert name not in written
                written[name] = picture
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=capture, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(written) == 1000
    assert {name: (folder.path / name).read_bytes() for name in content(folder)} == written


def test_sweep_removes_only_what_was_left_behind(folder: ImageFolder) -> None:
    for name in (".r1_100.jpg.tmp", ".r2_200.jpg.tmp", "r1_50.jpg", "notes.tmp"):
        (folder.path / name).write_bytes(b"x")
    (folder.path / ".state").mkdir()
    swept = folder.sweep({"r2_200.jpg"}.__contains__)
    assert swept == 1
    assert content(folder) == [".r2_200.jpg.tmp", ".state", "notes.tmp", "r1_50.jpg"]


def test_a_scan_sees_only_image_files(folder: ImageFolder) -> None:
    assert not folder.has_images()
    (folder.path / "r1_7.jpg").write_bytes(b"12345")
    (folder.path / "r1_8.jpg").mkdir()
    (folder.path / "r1_9.jpg").symlink_to("/etc/hostname")
    (folder.path / "other.jpg").write_bytes(b"1")
    [found] = folder.scan()
    assert (found.name, found.camera, found.epoch, found.size_bytes) == ("r1_7.jpg", "r1", 7, 5)
    assert folder.has_images()


@pytest.mark.parametrize(
    ("jpeg", "size"),
    [
        (JPEG, (1920, 1080)),
        (JPEG[:20], None),
        (b"", None),
        (b"\xff\xd8", None),
        (b"not a picture at all", None),
        (b"\xff\xd8" + b"\xff\x00\x00\x00" * 50, None),
        (b"\xff\xd8\xff\xc4\x00\x04ab\xff\xc2\x00\x11\x08\x00\x02\x00\x03\x03", (3, 2)),
    ],
)
def test_the_size_of_a_jpeg(jpeg: bytes, size: tuple[int, int] | None) -> None:
    assert jpeg_size(jpeg) == size


def test_errors_without_a_hint_keep_the_systems_words() -> None:
    error = StorageError.of(OSError(errno.ELOOP, "Too many links"), "cannot look")
    assert str(error) == "cannot look: Too many links"


def test_a_write_leaves_room_for_the_catalog(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "disk_usage", lambda: (4_000_003, 10_000_000))
    with pytest.raises(StorageError, match="the disk is full") as caught:
        folder.write("r1_1", b"four", lambda _: True)
    assert caught.value.full
    assert list(folder.path.iterdir()) == []
    assert folder.write("r1_1", b"two", lambda _: True) == "r1_1.jpg"


def test_a_name_that_is_not_durable_is_taken_back(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "sync_folder", sync)
        with pytest.raises(StorageError, match="I/O error"):
            folder.write("r1_1", JPEG, claim)
    assert content(folder) == []
    assert (
        folder.write_error
        == "cannot save r1_1.jpg: the disk reports an I/O error: replace the card"
    )
    folder.write("r1_1", JPEG, claim)
    assert folder.write_error is None


def test_a_full_disk_counts_as_writable_when_pictures_fit_again(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = 4_000_003
    monkeypatch.setattr(folder, "disk_usage", lambda: (free_bytes, 10_000_000))
    with pytest.raises(StorageError):
        folder.write("r1_1", JPEG, claim)
    free_bytes = 4_500_000  # some captures would still be refused
    with pytest.raises(StorageError):
        folder.probe()
    assert folder.write_error is not None
    free_bytes = 8_000_000
    folder.probe()
    assert folder.write_error is None
    assert content(folder) == []


def test_a_name_that_cannot_even_be_looked_up_is_a_storage_error(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exists(path: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "exists", exists)
    with pytest.raises(StorageError):
        folder.write("r1_1", JPEG, claim)
