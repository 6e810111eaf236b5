"""The command line: arguments, signals, and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Final

import commands
from camera.heap import set_up_heap
from config import Config, ConfigError, load
from daemon import Daemon
from gpio.backend import load_rpi_gpio
from runtime.logs import set_up_logging
from runtime.version import __version__
from store.errors import LockedError, StorageError

_log = logging.getLogger("main")

EXIT_STORAGE: Final = 74
EXIT_LOCKED: Final = 75
EXIT_CONFIG: Final = 78


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Save the picture of the moment a trigger fires, and upload it."
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_commands(parser)
    _add_details(parser)
    return parser.parse_args(arguments)


def _add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands that run instead of the daemon; at most one can be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--test-capture", action="store_true", help="take a picture from every enabled camera"
    )
    group.add_argument(
        "--record-camera", metavar="NAME", help="write down what a camera says and sends"
    )
    group.add_argument(
        "--test-gpio", action="store_true", help="show the pins and every trigger for a while"
    )
    group.add_argument(
        "--cleanup-now", action="store_true", help="delete images older than the retention"
    )
    group.add_argument("--check-config", action="store_true", help="check the settings only")
    group.add_argument(
        "--requeue-unknown",
        action="store_true",
        help="send images again of which it is not known whether they were uploaded",
    )
    group.add_argument("--verify", action="store_true", help="compare every photo with the catalog")
    group.add_argument(
        "--export", type=_day, metavar="YYYY-MM-DD", help="write a day's photos to a zip file"
    )
    group.add_argument(
        "--rebuild",
        action="store_true",
        help="make the catalog anew from the photos and the list of pending ones",
    )
    group.add_argument(
        "--demo",
        action="store_true",
        help="run on a pretend site: cameras, cars, pins and an upload server of its own",
    )


def _add_details(parser: argparse.ArgumentParser) -> None:
    """Add the options of single commands."""
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="where --export writes (default photos-SITE-DATE.zip here)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep what --demo stores there (default: nowhere)"
    )
    parser.add_argument(
        "--demo-fault",
        action="append",
        default=[],
        metavar="NAME",
        help="begin --demo with this fault: offline, slow-clock-r2, jam-r1, ...; can be repeated",
    )
    parser.add_argument(
        "--duration",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long --test-gpio watches (default 10)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long --record-camera records, 1 to 120 (default 10)",
    )


def _seconds(text: str) -> float:
    try:
        if 1 <= (seconds := float(text)) <= 120:
            return seconds
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} must be 1 to 120 seconds")


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day: write YYYY-MM-DD") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon or a command and return the exit code."""
    try:
        return _run(_parse(arguments))
    except ConfigError as error:
        for problem in error.problems:
            print(f"configuration: {problem}", file=sys.stderr)
        return EXIT_CONFIG
    except StorageError as error:
        _log.critical("%s", error)
        return EXIT_STORAGE
    except LockedError as error:
        _log.critical("%s", error)
        return EXIT_LOCKED
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    if options.demo:
        return _run_demo(options.data, options.demo_fault)
    config = load()
    say = partial(print, flush=True)
    if options.check_config:
        return commands.check_config(config, say)
    command = _command(options)
    _log_as(config, to_file=command is None)
    if command is None:
        return _run_daemon(config)
    logging.getLogger().setLevel(logging.ERROR)
    return command(config, say)


def _log_as(config: Config, *, to_file: bool) -> None:
    path = config.site.log_file if to_file else None
    set_up_logging(config.site.log_level, path, config.secrets)


def _command(options: argparse.Namespace) -> Callable[[Config, commands.Say], int] | None:
    """Return the one-shot command that was asked for; `None` means the daemon."""
    if options.test_gpio:
        return lambda config, say: commands.test_gpio(
            config, partial(load_rpi_gpio, config.storage.state_dir), options.duration, say
        )
    if options.record_camera:
        return lambda config, say: commands.record_camera(
            config, options.record_camera, options.seconds, say
        )
    if options.export:
        return lambda config, say: commands.export(config, options.export, options.to, say)
    plain = (
        (options.test_capture, commands.test_capture),
        (options.cleanup_now, commands.cleanup_now),
        (options.requeue_unknown, commands.requeue_unknown),
        (options.verify, commands.verify),
        (options.rebuild, commands.rebuild),
    )
    return next((command for asked, command in plain if asked), None)


def _run_daemon(config: Config) -> int:
    for warning in config.warnings:
        _log.warning("%s", warning)
    set_up_heap()
    return _run_until_signal(Daemon(config))


def _run_until_signal(daemon: Daemon) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stopped.set())
    return daemon.run()


def _run_demo(data: Path | None, faults: Sequence[str]) -> int:
    """Run the daemon on a pretend site; its files are kept only when `data` is given."""
    from simulator import demo  # production does without it

    with demo.open_site(data, faults) as (site, config):
        _log_as(config, to_file=True)
        set_up_heap()
        daemon = Daemon(
            config, load_gpio=lambda: site.pins, clock_synchronized=site.clock_synchronized
        )
        print(demo.welcome(site, config, data), flush=True)
        return _run_until_signal(daemon)


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    sys.stdout.flush()
    # A thread still inside OpenCV or FFmpeg could abort the process while Python shuts down.
    os._exit(exit_code)
