"""The documents name what there is: tests, modules, settings, commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from zipfile import ZipFile
from zoneinfo import ZoneInfo

import pytest

from config import variables
from main import _parse
from store.archive import export_day
from store.catalog import Catalog
from tests.rigs.stores import save, storage_config

ROOT = Path(__file__).parents[2]
STORAGE = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMED_TESTS = sorted(set(re.findall(r"`(?:(\w+)/)?(test_\w+\.py)::(\w+)`", STORAGE)))


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| **I"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_invariants_are_numbered_and_each_has_a_test() -> None:
    found = list(rows(STORAGE))
    numbers = [f"**I{n}**" for n in range(1, len(found) + 1)]
    assert [row[0].strip() for row in found] == numbers
    assert len(found) >= 15
    for row in found:
        assert "::test_" in row[3], row[0]


@pytest.mark.parametrize(("folder", "file", "name"), NAMED_TESTS)
def test_a_test_that_is_named_exists(folder: str, file: str, name: str) -> None:
    path = ROOT / "tests" / folder / file
    if not path.is_file():
        path = ROOT / "tests" / "unit" / folder / file
    assert path.is_file()
    assert name in functions(path)


def test_every_rig_is_named_and_every_named_rig_exists() -> None:
    rigs = {
        path.stem
        for path in (ROOT / "tests" / "torture").glob("*.py")
        if "return report(" in path.read_text(encoding="utf-8")
    }
    table = STORAGE[STORAGE.index("| rig | what it does |") :].split("\n\n")[0]
    told = set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) - {"rig"}
    assert told == rigs
    for row in rows(STORAGE):
        assert set(re.findall(r"\w+", row[3].partition("torture:")[2].rstrip(" |"))) <= rigs


def test_every_mention_of_a_test_is_looked_up() -> None:
    assert len(NAMED_TESTS) > 60
    assert STORAGE.count("::test_") >= len(NAMED_TESTS)
    assert len(re.findall(r"::test_", STORAGE)) == len(re.findall(r"\.py::test_\w+`", STORAGE))


def test_every_column_of_the_export_is_explained(tmp_path: Path) -> None:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    image = save(catalog)
    target = tmp_path / "day.zip"
    export_day(catalog.rows, image.captured_at.date(), ZoneInfo("UTC"), target, {})
    catalog.close()
    with ZipFile(target) as archive:
        header, *_ = archive.read("index.csv").decode("utf-8-sig").splitlines()
    table = STORAGE[STORAGE.index("| column | |") :]
    assert header.startswith("filename,camera,")
    assert [name for name in header.split(",") if f"`{name}`" not in table] == []


def test_every_setting_is_in_the_readme() -> None:
    named = {re.sub(r"CAMERA_\d_", "CAMERA_n_", name) for name in variables()}
    assert [name for name in sorted(named) if f"| `{name}` |" not in README] == []


def test_every_command_that_the_readme_names_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parse(["--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    used = set(re.findall(r"main\.py (--[a-z-]+)", README))
    assert len(used) > 5
    assert used - known == set()
    assert {"--verify", "--export", "--rebuild", "--requeue-unknown"} <= used


def sources() -> Iterator[ast.Module]:
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*/*.py")):
        yield ast.parse(path.read_text(encoding="utf-8"))


def test_what_the_floor_plan_names_exists() -> None:
    files = set(re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)`", ARCHITECTURE))
    assert len(files) > 20
    assert {file for file in files if not (ROOT / file).is_file()} == set()
    methods = {
        f"{node.name}.{method.name}"
        for tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef)
    }
    named = set(re.findall(r"`(_?[A-Z]\w+\.[a-z_]\w+)`", ARCHITECTURE))
    assert len(named) > 15
    assert named - methods == set()
    assert len(ARCHITECTURE.splitlines()) <= 250
