"""What `main.py --demo` adds to a pretend site: a folder, settings, free ports, and words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from config import Config, ConfigError, parse
from simulator.site import Site, free_port
from store.errors import StorageError

_HOST: Final = "127.0.0.1"
_PAGE_PORT: Final = 9100


@contextmanager
def open_site(data: Path | None, faults: Sequence[str]) -> Iterator[tuple[Site, Config]]:
    """Start a pretend site with these faults, end it afterwards.

    Everything is written to `data`, or to a folder that is thrown away. The real environment may
    set what the site itself does not, such as `BIND_PORT` or `CAPTURE_OFFSET_MS`.

    Raises:
        ConfigError: there is no such fault, a setting is wrong, or no port is free.
        StorageError: `data` can't be written.
    """
    with ExitStack() as stack:
        if data is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="camera-demo-")))
        else:
            folder = data.absolute()
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"cannot write to {folder}: {error.strerror}") from error
        try:
            site = Site(folder, page_port=_PAGE_PORT)
        except OSError as error:
            raise ConfigError([f"--demo: {error}"]) from error
        problems = [
            f"--demo-fault {name}: must be one of {', '.join(site.faults.by_name)}"
            for name in faults
            if name not in site.faults.by_name
        ]
        if problems:
            raise ConfigError(problems)
        stack.callback(site.stop)
        site.start()
        config = _with_free_port(_settings(site, folder), site.page_port)
        for name in faults:
            site.faults.switch(name, True)
        yield site, config


def welcome(site: Site, config: Config, data: Path | None) -> str:
    """Return what to open and what to try."""
    wanted = int(os.environ.get("BIND_PORT") or 9000)
    other = "" if config.web.bind_port == wanted else f"   (port {wanted} is in use)"
    other_page = "" if site.page_port == _PAGE_PORT else f"   (port {_PAGE_PORT} is in use)"
    kept = data.absolute() if data else "thrown away at the end; --data DIR keeps it"
    return f"""
  Camera Capture demo: three gates, cars every few seconds.

    Dashboard      http://{_HOST}:{config.web.bind_port}{other}
    Pretend site   {site.page_url}{other_page}
    Data           {kept}

  Try on the pretend site's page, and watch the dashboard:
    - stop the internet: pictures wait, then go up by themselves
    - freeze camera r2: it is named within seconds, the other gates go on
    - jam the loop: the pin that stays LOW is reported after 10 s
  Or begin with a fault: --demo-fault offline --demo-fault slow-clock-r2 --demo-fault jam-r1
  Three pictures of each car: CAPTURE_BURST_MS=-400,0,400 make demo
  The sharpest around the stop: CAPTURE_BEST_WITHIN_MS=120 make demo

  Ctrl-C ends it.
"""


def _settings(site: Site, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        **site.settings(),
        "IMAGE_STORAGE_PATH": str(folder / "images"),
        "STATE_DIR": str(folder / "images" / ".state"),
        "PENDING_UPLOADS_FILE": str(folder / "pending_uploads.json"),
        "LOG_FILE": str(folder / "camera_system.log"),
        "BIND_IP": _HOST,
        "WEB_AUTH_ENABLED": os.environ.get("WEB_AUTH_ENABLED", "false"),
    }


def _with_free_port(settings: dict[str, str], taken: int) -> Config:
    config = parse(settings)
    try:
        port = free_port(config.web.bind_port)
        if port == taken:
            port = free_port(port + 1)
    except OSError as error:
        raise ConfigError([f"BIND_PORT={config.web.bind_port}: {error}"]) from error
    return replace(config, web=replace(config.web, bind_port=port))
