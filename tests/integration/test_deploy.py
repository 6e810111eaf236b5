"""The systemd unit, checked by systemd itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import main
from tests.rigs.daemon import ROOT

UNIT = ROOT / "deploy" / "camera-capture.service"


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("install systemd")
        pytest.skip("NOT TESTED: systemd-analyze is missing")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    text = UNIT.read_text()
    assert text.count("/opt/camera-capture") == 3
    text = text.replace("/opt/camera-capture/.venv/bin/python", str(python))
    text = text.replace("WorkingDirectory=/opt/camera-capture", f"WorkingDirectory={tmp_path}")
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if "camera-capture" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_restarts_what_a_restart_can_mend() -> None:
    text = UNIT.read_text().splitlines()
    lines = dict(line.split("=", 1) for line in text if "=" in line and line[0] != "#")
    refused = {int(code) for code in lines["RestartPreventExitStatus"].split()}
    assert refused == {main.EXIT_CONFIG}
    assert lines["Restart"] == "always"
    assert lines["User"] != "root"
    assert set(lines["SupplementaryGroups"].split()) == {"gpio", "video"}
    assert lines["StartLimitIntervalSec"] == "0"
