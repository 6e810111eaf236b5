"""The import of the pins' library."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from gpio import backend
from gpio.backend import GpioError, load_rpi_gpio


def test_a_missing_package_is_told_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "RPi.GPIO", None)
    with pytest.raises(GpioError) as caught:
        load_rpi_gpio(tmp_path)
    assert caught.value.reason == "the RPi.GPIO package is not installed"
    assert "python3-rpi-lgpio" in caught.value.hint


def test_the_import_works_elsewhere_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home, state = tmp_path / "home", tmp_path / "state"
    home.mkdir()
    state.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("LG_WD", "")
    monkeypatch.delenv("LG_WD")
    library = ModuleType("RPi.GPIO")

    def pretend_import(name: str) -> ModuleType:
        assert name == "RPi.GPIO"
        os.chdir(os.environ["LG_WD"])
        return library

    monkeypatch.setattr(backend, "importlib", SimpleNamespace(import_module=pretend_import))
    assert load_rpi_gpio(state) is library
    assert Path.cwd() == home
