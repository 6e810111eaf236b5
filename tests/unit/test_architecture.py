"""The floor plan of docs/architecture.md, read from the source itself.

A room is a folder, or a module at the top level. What is pinned here: which rooms there are, which
arrows run between them, and that nobody reaches past a folder's face into its inside.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("camera", "gpio", "rtsp", "runtime", "status", "store", "upload", "web")
MOST_ROOMS, MOST_ARROWS = 26, 95
MOST_LINES, LONGEST_FUNCTION = 450, 45

ARROWS = {
    "camera": {"config", "rtsp", "runtime"},
    "capture_service": {"camera", "config", "runtime", "store"},
    "cleanup_service": {"config", "runtime", "store"},
    "clock_service": {"runtime", "store"},
    "commands": {
        *("camera", "capture_service", "cleanup_service", "config", "gpio", "gpio_service"),
        *("runtime", "store", "upload"),
    },
    "config": {"runtime"},
    "daemon": {
        *("camera", "capture_service", "cleanup_service", "clock_service", "config"),
        *(
            "gpio",
            "gpio_service",
            "runtime",
            "status",
            "store",
            "upload",
            "uploader",
            "web",
            "web_app",
        ),
    },
    "gpio": {"config"},
    "gpio_service": {"config", "gpio", "runtime"},
    "main": {
        *("camera", "commands", "config", "daemon", "gpio", "runtime", "simulator", "store"),
    },
    "setup_password": {"web"},
    "simulator": {"config", "runtime", "store", "web"},
    "status": {"camera", "config", "gpio", "runtime", "store", "upload"},
    "store": {"config", "runtime"},
    "upload": {"config", "runtime", "store"},
    "uploader": {"config", "runtime", "store", "upload"},
    "web": {"capture_service", "cleanup_service", "config", "runtime", "store"},
    "web_app": {"runtime", "web"},
}
PACKAGE_OWNERS = {
    "PIL": {"store.exif"},
    "RPi": {"gpio.backend"},
    "av": {"camera.decoder"},
    "cv2": {"camera.decoder", "camera.picture_checks"},
    "dotenv": {"runtime.env_file", "web.passwords"},
    "minio": {"upload.s3_target"},
    "requests": {"upload.http_target"},
    "sqlite3": {"store.database", "store.orphan_rows", "store.rows"},
    "tqdm": {"store.archive"},
    "urllib3": {
        "upload.http_target",
        "upload.outcomes",
        "upload.request_deadline",
        "upload.s3_target",
    },
    "waitress": {"web.server"},
}
ONLY_WHEN_USED = {"RPi", "minio", "simulator"}


def _paths() -> dict[str, Path]:
    """Return the product's modules by their dotted names; the simulator is part of it."""
    folders = (*FOLDERS, "simulator")
    paths = [*ROOT.glob("*.py"), *(p for folder in folders for p in (ROOT / folder).glob("*.py"))]
    names = {p: ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sorted(paths)}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


PATHS = _paths()


def room(module: str) -> str:
    return module.partition(".")[0]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text(encoding="utf-8"))


@cache
def imported(module: str) -> frozenset[tuple[str, str]]:
    """Return (module, name) of all that a module imports, wherever in it; the name may be empty."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {_target(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and _loads_module(node.func):
            found |= {(str(a.value), "") for a in node.args if isinstance(a, ast.Constant)}
    return frozenset(found)


def _target(module: str, name: str) -> tuple[str, str]:
    inner = f"{module}.{name}"
    return (inner, "") if inner in PATHS else (module, name)


def _loads_module(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def modules_used(module: str) -> set[str]:
    return {used for used, _ in imported(module) if used in PATHS and used != module}


def rooms_used() -> dict[str, set[str]]:
    used: dict[str, set[str]] = {room(module): set() for module in PATHS}
    for module in PATHS:
        used[room(module)] |= {room(other) for other in modules_used(module)} - {room(module)}
    return used


def face(folder: str) -> set[str]:
    """Return what a folder's docstring names: modules, or single names of them."""
    words = ast.get_docstring(tree(folder)) or ""
    return set(re.findall(r"`([\w.]+)`", words.partition("Others use:")[2]))


def used_from_outside(folder: str) -> set[tuple[str, str]]:
    """Return (module, name) of what other rooms import of a folder, inside it."""
    return {
        (used.partition(".")[2], name)
        for module in PATHS
        if room(module) != folder
        for used, name in imported(module)
        if room(used) == folder and used in PATHS
    }


def circle_in(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return what is left when everything that uses nothing left is taken away, again and again."""
    left = dict(arrows)
    while free := [one for one, used in left.items() if not used & set(left)]:
        for one in free:
            del left[one]
    return left


def test_arrows_between_rooms_are_the_planned_ones() -> None:
    assert {one: used for one, used in rooms_used().items() if used} == ARROWS


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "runtime"])
def test_others_use_no_more_of_a_folder_than_its_face(folder: str) -> None:
    shown = face(folder)
    used = used_from_outside(folder)
    behind = {
        f"{module}.{name}" for module, name in used if not {module, f"{module}.{name}"} & shown
    }
    assert behind == set()
    unused = shown - {module for module, _ in used} - {f"{m}.{name}" for m, name in used}
    assert unused == set(), "the face shows what nobody outside uses"


def test_the_runtime_knows_no_other_room() -> None:
    assert rooms_used()["runtime"] == set()


def test_the_plan_is_small() -> None:
    rooms = rooms_used()
    assert len(rooms) <= MOST_ROOMS
    assert sum(map(len, rooms.values())) <= MOST_ARROWS


def test_there_is_no_circle() -> None:
    assert circle_in(rooms_used()) == {}
    assert circle_in({module: modules_used(module) for module in PATHS}) == {}


def test_no_module_and_no_function_is_long() -> None:
    lines = {m: len(path.read_text(encoding="utf-8").splitlines()) for m, path in PATHS.items()}
    assert {module: n for module, n in lines.items() if n > MOST_LINES} == {}
    functions = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in PATHS
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: n for name, n in functions.items() if n > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("package", sorted(PACKAGE_OWNERS))
def test_a_package_is_imported_only_by_its_owners(package: str) -> None:
    users = {m for m in PATHS if package in {name.partition(".")[0] for name, _ in imported(m)}}
    assert users == PACKAGE_OWNERS[package]


def test_some_packages_are_loaded_only_when_they_are_used() -> None:
    for module in PATHS:
        if room(module) == "simulator":
            continue
        for node in tree(module).body:
            loaded = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                loaded = [node.module or ""]
            assert {name.partition(".")[0] for name in loaded} & ONLY_WHEN_USED == set(), module


def test_production_does_not_import_tests() -> None:
    for module in PATHS:
        packages = {name.partition(".")[0] for name, _ in imported(module)}
        assert packages & {"tests", "bench", "pytest"} == set(), module


def test_the_web_takes_only_types_of_services() -> None:
    services = {"capture_service", "cleanup_service"}
    taken = {
        name
        for module in PATHS
        if room(module) == "web"
        for used, name in imported(module)
        if used in services
    }
    assert taken <= {"CaptureOutcome", "AlreadyRunningError", "CleanupReport"}


@pytest.mark.parametrize("module", sorted(PATHS))
def test_imports_have_no_effects(module: str) -> None:
    """Let modules define things only; `main` may start the program when it is run."""
    allowed = (
        *(
            ast.Import,
            ast.ImportFrom,
            ast.FunctionDef,
            ast.AsyncFunctionDef,
            ast.ClassDef,
            ast.Assign,
            ast.AnnAssign,
        ),
        *(ast.If, ast.Try),
    )
    others = [
        node
        for node in tree(module).body
        if not isinstance(node, allowed)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    assert [ast.unparse(node) for node in others] == []
