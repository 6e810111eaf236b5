"""Kill the program with SIGKILL at random moments, 1,000 times, and look for what was lost.

Series of 50 kills on one folder: the services that own files and rows, with cameras of their own
(`driver.py`); then a few series of the whole daemon with simulated cameras.
"""

from __future__ import annotations

import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from bench.gates import Gate, report
from tests.rigs.daemon import DaemonProcess
from tests.rigs.gates import Gates, gates
from tests.torture.driver import IN_PLACE, UPLOAD_WORKERS, Driver, Job, ReceiverProcess
from tests.torture.evidence import (
    Findings,
    Saved,
    Told,
    ledger_faults,
    look_after_kill,
    look_at_rest,
    look_at_uploads,
    rows_left,
)
from tests.torture.rounds import Rounds

KILLS: Final = 1000
_KILLS_OF_SERIES: Final = 50
_DAEMON_KILLS: Final = 30
_DAEMON_KILLS_OF_SERIES: Final = 10
_DRAIN_S: Final = 120.0
_ANSWER_DELAY_S: Final = 0.01
_PIN: Final = 18
_DAEMON_UPLOAD_WORKERS: Final = 2
_DATABASE: Final = "catalog.sqlite3"
_ALL: Final = 1 << 62
FAULTS: Final = ("lost", "torn", "stray", "ledger", "misfiled", "confused", "unprovoked")


class _Series:
    """Kills of runs on one folder, and all that was told meanwhile."""

    def __init__(
        self, folder: Path, receiver: ReceiverProcess, chance: random.Random, careless: str
    ) -> None:
        self.folder = folder
        self.told = Told()
        self.findings = Findings(is_expected=bool(careless))
        self._careless = careless
        self.audits = 0
        self._receiver = receiver
        self._chance = chance
        self._runs = 0

    def kill_one(self, driver: Driver) -> None:
        """Start a run, kill it at a random moment, look at what it left."""
        before = set(self.told.saved)
        driver.start(self._job())
        self._wait_for_moment(driver)
        self._note(driver.kill())
        fresh = [image for name, image in self.told.saved.items() if name not in before]
        look_after_kill(self.folder, fresh, self.findings)

    def finish(self, driver: Driver) -> dict[str, int]:
        """Let everything be uploaded and look at all of it."""
        driver.start(self._job(drain=True))
        for message in driver.messages(_DRAIN_S):
            self._note([message])
            if "drained" in message:
                break
        else:
            raise AssertionError("the backlog was not uploaded")
        self._note(driver.kill())
        uploads = self._receiver.accepted()
        look_at_rest(self.folder, self.told.saved, self.told, uploads, self.findings, drained=True)
        return look_at_uploads(uploads, UPLOAD_WORKERS, self.findings)

    def _job(self, *, drain: bool = False) -> Job:
        self._runs += 1
        return Job(
            folder=str(self.folder),
            url=self._receiver.url_of(self._runs),
            seed=self._chance.getrandbits(32),
            burst=self._chance.random() < 0.3,
            drain=drain,
            make_room_bytes=2_000_000 if self._chance.random() < 0.1 and not drain else 0,
            careless=self._careless,
        )

    def _wait_for_moment(self, driver: Driver) -> None:
        """Wait for the start's moments, for any, or for one just after a picture was saved."""
        kind = self._chance.random()
        within_s = self._chance.uniform(0, 0.06 if kind < 0.25 else 1.0)
        wanted = self._chance.randint(1, 12) if kind > 0.75 else -1
        for message in driver.messages(within_s):
            self._note([message])
            wanted -= "saved" in message
            if wanted == 0:
                time.sleep(self._chance.uniform(0, 0.004))
                return

    def _note(self, messages: Sequence[dict[str, Any]]) -> None:
        for message in messages:
            self.told.note(message)
            if "reconciled" in message:
                self.audits += 1
                for fault in message["ledger_faults"]:
                    self.findings.add("ledger", fault)


def kill_series(seed: int, kills: int, careless: str = "") -> dict[str, int]:
    """Kill runs of the driver on one new folder; return what was counted."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        receiver = stack.enter_context(ReceiverProcess(folder / "server", _ANSWER_DELAY_S))
        driver = stack.enter_context(Driver())
        (folder / "site").mkdir()
        series = _Series(folder / "site", receiver, random.Random(seed), careless)
        for _ in range(kills):
            series.kill_one(driver)
        repeats = series.finish(driver)
    return {
        **{kind: series.findings.counts[kind] for kind in FAULTS},
        **repeats,
        **{"kills": kills, "saved": len(series.told.saved), "starts_checked": series.audits},
    }


class _DaemonSeries:
    """Kills of the real daemon on one folder."""

    def __init__(
        self, daemon: DaemonProcess, receiver: ReceiverProcess, chance: random.Random
    ) -> None:
        self.answered: dict[str, str] = {}
        self._daemon = daemon
        self._receiver = receiver
        self._chance = chance
        self._runs = 0

    def start(self) -> None:
        """Start the daemon; its address for uploads tells which run it is."""
        self._runs += 1
        self._daemon.settings["S3_API_URL"] = self._receiver.url_of(self._runs)
        self._daemon.start()

    def kill_one(self) -> None:
        """Start the daemon, take pictures by hand and by pin, kill it at a random moment."""
        self.start()
        over = threading.Event()
        askers = [threading.Thread(target=self._ask, args=(n, over)) for n in (1, 2)]
        for asker in askers:
            asker.start()
        if self._chance.random() < 0.3:
            over.wait(self._chance.uniform(0, 1.5))
        else:
            number = len(self.answered)
            self._daemon.wait_until("a picture", lambda: len(self.answered) > number)
            over.wait(self._chance.uniform(0, 1.5))
        self._daemon.kill()
        over.set()
        for asker in askers:
            asker.join()

    def _ask(self, camera: int, over: threading.Event) -> None:
        """Ask for one picture after the other and note those that were answered with 201."""
        while not over.wait(0.02):
            try:
                self._daemon.pull(_PIN)
                self._daemon.let_go(_PIN)
                status, reply = self._daemon.request(f"/api/capture/camera_{camera}", {}, "POST")
            except (OSError, ValueError, HTTPException):  # not there yet, or killed
                continue
            if status == HTTPStatus.CREATED:
                self.answered[reply["image"]["filename"]] = reply["image"]["sha256"]

    def finish(self) -> dict[str, int]:
        """Let everything be uploaded, stop the daemon and look at all of it."""
        daemon, findings = self._daemon, Findings()
        self.start()
        daemon.wait_until(
            "nothing pending",
            lambda: (
                daemon.get("/api/status")["upload"]["pending"] == 0
                and not daemon.get("/api/events?state=capturing")["events"]
            ),
            _DRAIN_S,
        )
        assert daemon.stop() == 0
        uploads = self._receiver.accepted()
        rows = rows_left(daemon.images / ".state")
        logged = set(re.findall(r"camera \S+ saved (\S+?\.jpg)", daemon.log()))
        saved = {
            name: Saved(name, sha256, rows[name]["event_id"], rows[name]["source"])
            for name in logged | set(self.answered)
            if (sha256 := self.answered.get(name) or rows.get(name, {}).get("sha256"))
        }
        for name in logged - set(saved):
            findings.add("lost", f"{name} was logged as saved and has no row")
        for fault in ledger_faults(daemon.images / ".state" / _DATABASE, ended_up_to=_ALL):
            findings.add("ledger", fault)
        look_at_rest(daemon.directory, saved, None, uploads, findings, drained=True)
        repeats = look_at_uploads(uploads, _DAEMON_UPLOAD_WORKERS, findings)
        counts = {kind: findings.counts[kind] for kind in FAULTS}
        return {**counts, **repeats, "saved": len(saved)}


def kill_daemon_series(site: Gates, seed: int, kills: int) -> dict[str, int]:
    """Kill the real daemon on one new folder; return what was counted."""
    cameras = {f"CAMERA_{n}_ENABLED": "true" for n in (1, 2)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        receiver = stack.enter_context(ReceiverProcess(folder / "server", _ANSWER_DELAY_S))
        (folder / "site").mkdir()
        settings = {
            **cameras,
            **{f"CAMERA_{n}_RTSP": site.url(n) for n in (1, 2)},
            "GPIO_ENABLED": "true",
            "GPIO_BOUNCE_TIME": "0",
            "UPLOAD_ENABLED": "true",
            "OFFLINE_RETRY_INTERVAL": "0.5",
            "CONNECTIVITY_CHECK_INTERVAL": "0.5",
        }
        daemon = stack.enter_context(DaemonProcess(folder / "site", settings))
        series = _DaemonSeries(daemon, receiver, random.Random(seed))
        for _ in range(kills):
            series.kill_one()
        return {**series.finish(), "kills": kills}


def main() -> int:
    """Run what is left of all rounds and print the figures."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is tidied up
    rounds = Rounds("crash", KILLS // _KILLS_OF_SERIES, _KILLS_OF_SERIES)
    print(f"{KILLS} kills, in series of {_KILLS_OF_SERIES}:")
    for number in rounds.left():
        rounds.note(number, **kill_series(number, _KILLS_OF_SERIES))
    daemons = Rounds(
        "crash-daemon", _DAEMON_KILLS // _DAEMON_KILLS_OF_SERIES, _DAEMON_KILLS_OF_SERIES
    )
    print(f"{_DAEMON_KILLS} kills of the whole daemon:")
    with gates("admin", "secret") as site:
        for number in daemons.left():
            daemons.note(number, **kill_daemon_series(site, number, _DAEMON_KILLS_OF_SERIES))
    control = Rounds("crash-control", 1, _KILLS_OF_SERIES)
    for number in control.left():
        control.note(number, **kill_series(number, _KILLS_OF_SERIES, IN_PLACE))
    for name, found in (("services", rounds), ("daemon", daemons)):
        print(
            f"{name}: {found.sum('kills')} kills, {found.sum('saved')} images acknowledged,"
            f" {found.sum('repeats')} uploaded twice"
        )
    print(f"the ledger was checked at {rounds.sum('starts_checked')} starts and after every kill")
    torn = Gate("control: torn, written in place", control.sum("torn"), 1, "images", at_least=True)
    return report([*_figures(rounds, daemons), torn])


def _figures(*found: Rounds) -> list[Gate]:
    def total(figure: str) -> int:
        return sum(rounds.sum(figure) for rounds in found)

    worst = max(result["worst"] for rounds in found for result in rounds.results)
    return [
        Gate("kills", total("kills"), KILLS + _DAEMON_KILLS, "", at_least=True),
        Gate("acknowledged images lost", total("lost"), 0, "images"),
        Gate("images torn", total("torn"), 0, "images"),
        Gate("temporary files left", total("stray"), 0, "files"),
        Gate("ledger: edges that don't add up", total("ledger"), 0, "faults"),
        Gate("images with another edge's row", total("misfiled"), 0, "images"),
        Gate("repeated uploads, one worker and kill", worst, 1, "uploads"),
        Gate("repeated uploads without a kill", total("unprovoked"), 0, "uploads"),
        Gate("two pictures of one key or name", total("confused"), 0, "images"),
    ]


if __name__ == "__main__":
    sys.exit(main())
