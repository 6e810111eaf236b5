"""Cut the power while pictures are saved, more than 100 times, and look for what was lost.

The card is an image file on an xfs that can clone files: a clone taken while a file system on the
card is mounted and written to is what a power cut at that moment leaves. What was not flushed is
still in the memory of the mounted file system and not on the card. Each clone is mounted, its
journal replayed, and the program started on it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.gates import Gate, report
from store.catalog import Catalog
from store.errors import StorageError
from store.pending_file import PendingExporter
from store.reconcile import Reconciler
from tests.rigs.stores import storage_config
from tests.torture.driver import NO_FILE_FSYNC, NO_FSYNC, Driver, Job, ReceiverProcess
from tests.torture.evidence import Findings, Saved, Told, ledger_faults, look_at_rest
from tests.torture.rounds import Rounds

EXT4: Final = "ext4"
XFS: Final = "xfs"
_CUTS_OF_SERIES: Final = 10
_SERIES: Final = (*[EXT4] * 12, *[XFS] * 3)
_CONTROLS: Final = (NO_FILE_FSYNC, NO_FSYNC)
_FICLONE: Final = 0x40049409
_HOST_BYTES: Final = 8 << 30
_CARD_BYTES: Final = 512 << 20
_LARGEST_BYTES: Final = 100_000
_MAKE: Final = {EXT4: ("mkfs.ext4", "-q", "-F"), XFS: ("mkfs.xfs", "-q")}
FAULTS: Final = ("lost", "torn", "stray", "ledger", "misfiled", "confused")
_LAST_ID: Final = 1 << 62


def missing() -> str | None:
    """Say why no power cut can be tried here; `None` when it can."""
    if os.geteuid() != 0:
        return "only root can mount a card"
    programs = ("mkfs.xfs", "mkfs.ext4", "mount", "umount", "sync")
    lacking = [program for program in programs if shutil.which(program) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    try:
        with tempfile.TemporaryDirectory() as folder, host(Path(folder)) as place:
            (place / "a").write_bytes(b"a")
            _clone(place / "a", place / "b")
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} fails: {error.stderr.decode(errors='replace').strip()}"
    except OSError as error:
        return f"files can't be cloned: {error.strerror}"
    return None


@contextmanager
def host(folder: Path) -> Iterator[Path]:
    """Mount a new file system that can clone files."""
    image = folder / "host.img"
    _make_file(image, _HOST_BYTES)
    _run("mkfs.xfs", "-q", "-m", "reflink=1", str(image))
    with _mounted(image, folder / "host"):
        yield folder / "host"


@dataclass(frozen=True)
class _Cut:
    """A card as a power cut left it, and what had been acknowledged before."""

    card: Path
    saved: dict[str, Saved]


class _LiveCard:
    """A card that pictures are saved on, and all that was told of them."""

    def __init__(self, place: Path, receiver: ReceiverProcess, chance: random.Random) -> None:
        self.told = Told()
        self._site = place / "live" / "site"
        self._card = place / "card.img"
        self._receiver = receiver
        self._chance = chance

    def cut_one(self, driver: Driver, number: int) -> _Cut:
        """Clone the card at a random moment."""
        self.note(driver.messages(self._chance.uniform(0, 0.5)))
        self.note(driver.messages(0))
        saved = dict(self.told.saved)
        clone = self._card.with_name(f"cut-{number}.img")
        _clone(self._card, clone)
        return _Cut(clone, saved)

    def start(self, driver: Driver, careless: str) -> None:
        """Start to save pictures."""
        driver.start(
            Job(
                folder=str(self._site),
                url=self._receiver.url_of(1),
                seed=self._chance.getrandbits(32),
                burst=self._chance.random() < 0.3,
                make_room_bytes=1_000_000 if self._chance.random() < 0.2 else 0,
                largest_bytes=_LARGEST_BYTES,
                careless=careless,
            )
        )

    def note(self, messages: Iterable[dict[str, Any]]) -> None:
        """Keep what was told."""
        for message in messages:
            self.told.note(message)


def cut_series(
    place: Path, filesystem: str, seed: int, cuts: int, careless: str = ""
) -> dict[str, int]:
    """Cut the power of one new card again and again; return what was counted.

    `place` is on a file system that can clone files.
    """
    chance = random.Random(seed)
    findings = Findings(is_expected=bool(careless))
    with ExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        receiver = stack.enter_context(ReceiverProcess(store))
        card = place / "card.img"
        _make_file(card, _CARD_BYTES)
        stack.callback(card.unlink)
        _run(*_MAKE[filesystem], str(card))
        live = _LiveCard(place, receiver, chance)
        left = _cuts(live, card, chance, cuts, careless)
        uploads = receiver.accepted()
        for cut in left:
            _look(cut, place / "cut", live.told, uploads, findings)
            cut.card.unlink()
    return {
        **{kind: findings.counts[kind] for kind in FAULTS},
        **{"cuts": cuts, "looked_at": sum(len(cut.saved) for cut in left)},
    }


def _cuts(
    live: _LiveCard, card: Path, chance: random.Random, cuts: int, careless: str
) -> list[_Cut]:
    with _mounted(card, card.with_name("live")) as mounted, Driver() as driver:
        (mounted / "site").mkdir()
        _run("sync", "-f", str(mounted))
        left = []
        live.start(driver, careless)
        for number in range(cuts):
            left.append(live.cut_one(driver, number))
            if chance.random() < 0.2:  # the next one may come while the program starts
                live.note(driver.kill())
                live.start(driver, careless)
        live.note(driver.kill())
    return left


def _look(
    cut: _Cut,
    at: Path,
    told: Told,
    uploads: Sequence[dict[str, Any]],
    findings: Findings,
) -> None:
    with _mounted(cut.card, at) as mounted:
        folder = mounted / "site"
        try:
            _repair(folder)
            for fault in ledger_faults(
                folder / "images" / ".state" / "catalog.sqlite3", ended_up_to=_LAST_ID
            ):
                findings.add("ledger", fault)
            look_at_rest(folder, cut.saved, told, uploads, findings, drained=False)
        except (StorageError, sqlite3.Error) as error:
            findings.add("lost", f"the catalog can't be used: {error}")


def _repair(folder: Path) -> None:
    """Do what every start does."""
    storage = storage_config(folder)
    catalog = Catalog.open_owner(storage)
    try:
        exporter = PendingExporter(catalog, storage.pending_file)
        Reconciler(catalog, storage, uploads_enabled=True, on_done=exporter.allow).step()
        exporter.export()
    finally:
        catalog.close()


@contextmanager
def _mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    _run("mount", "-o", "loop", str(image), str(at))
    try:
        yield at
    finally:
        try:
            _run("umount", str(at))
        except subprocess.CalledProcessError:  # something still ends there
            _run("umount", "--lazy", str(at))


def _make_file(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


def _clone(source: Path, target: Path) -> None:
    """Copy a file as it is at one moment, sharing its blocks."""
    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new, _FICLONE, old.fileno())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def main() -> int:
    """Run what is left of all rounds and print the figures."""
    reason = missing()
    if reason is not None:
        print(f"NOT TESTED, no power can be cut here: {reason}")
        return 1
    logging.basicConfig(level=logging.CRITICAL)  # the findings tell what the repairs came to
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is tidied up
    rounds = Rounds("power", len(_SERIES), _CUTS_OF_SERIES)
    controls = Rounds("power-control", len(_CONTROLS), _CUTS_OF_SERIES)
    with tempfile.TemporaryDirectory() as folder, host(Path(folder)) as place:
        print(f"{len(_SERIES) * _CUTS_OF_SERIES} power cuts, in series of {_CUTS_OF_SERIES}:")
        for number in rounds.left():
            rounds.note(number, **cut_series(place, _SERIES[number], number, _CUTS_OF_SERIES))
        print("the same without fsync:")
        for number in controls.left():
            how = _CONTROLS[number]
            controls.note(number, **cut_series(place, EXT4, number, _CUTS_OF_SERIES, how))
    print(f"{rounds.sum('looked_at')} times an acknowledged image was looked for after a cut")
    for how, found in zip(_CONTROLS, controls.results, strict=True):
        print(f"{how}: {found['lost']} lost and {found['torn']} torn of {found['looked_at']}")
    broken = min(found["lost"] + found["torn"] for found in controls.results)
    return report(
        [
            Gate("power cuts", rounds.sum("cuts"), 100, "", at_least=True),
            Gate("acknowledged images lost", rounds.sum("lost"), 0, "images"),
            Gate("images torn", rounds.sum("torn"), 0, "images"),
            Gate("temporary files left", rounds.sum("stray"), 0, "files"),
            Gate("ledger: edges that don't add up", rounds.sum("ledger"), 0, "faults"),
            Gate("images with another edge's row", rounds.sum("misfiled"), 0, "images"),
            Gate("two pictures of one name", rounds.sum("confused"), 0, "images"),
            Gate("control: lost or torn without fsync", broken, 1, "images", at_least=True),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
