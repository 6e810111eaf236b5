"""Who may import whom: the table of the design, read from the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
WEB = {f"web.{path.stem}": path for path in sorted((ROOT / "web").glob("*.py"))}
SERVICES = {"capture_service", "uploader", "gpio_service", "cleanup_service", "web_app"}
WEB_MAY_IMPORT = {"capture_service", "cleanup_service"}
WEB_MAY_NOT_KNOW = {
    "database",
    "rtsp_stream",
    "moments",
    "frame_maker",
    "frame_decoder",
    "worker",
    "upload_targets",
}
OWNERS = {
    "av": {"frame_decoder"},
    "cv2": {"frame_decoder", "picture_gate"},
    "sqlite3": {"adoption", "database", "records"},
    "RPi": set[str](),
    "requests": {"upload_targets"},
    "urllib3": {"upload_targets", "s3_target", "deadline"},
    "minio": {"s3_target"},
    "tqdm": {"archive"},
    "flask": {"web_app"},
    "waitress": {"web_server"},
    "PIL": {"exif"},
    "dotenv": {"config", "security", "setup_password"},
}
LEAVES = (
    "env_reader",
    "worker",
    "stats",
    "clock",
    "packet_ring",
    "nal_units",
    "rtp_jpeg",
    "sdp",
    "rtsp_auth",
    "image_files",
)
MAY_NOT_KNOW = {
    "config": set(SOURCES) - {"env_reader"},
    "catalog": {"rtsp_stream", "gpio_service", "upload_targets", "upload_line", "uploader"},
    "rtsp_stream": {"catalog", "image_files", "records", "gpio_service", "uploader"},
    "moments": {"rtsp_stream", "rtsp_session", "catalog", "image_files", "config"},
    "gpio_service": {"rtsp_stream", "catalog", "image_files", "records"},
    "capture_service": {"upload_targets", "upload_line", "database"},
    "uploader": {"rtsp_stream", "gpio_service", "database"},
    "cleanup_service": {"upload_targets", "upload_line", "uploader"},
    "web_app": {"database", "rtsp_stream"},
}


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and _loads_module(node.func):
            names |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return names


def _loads_module(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


PACKAGES = {
    module: {name.partition(".")[0] for name in imported(path)} for module, path in SOURCES.items()
}
PROJECT = {module: packages & set(SOURCES) for module, packages in PACKAGES.items()}


def test_there_is_something_to_look_at() -> None:
    assert set() == SERVICES - set(SOURCES)
    assert "config" in PROJECT["gpio_service"]


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_services_do_not_import_each_other(service: str) -> None:
    allowed = WEB_MAY_IMPORT if service == "web_app" else set()
    assert PROJECT[service] & SERVICES - allowed == set()


def test_the_web_takes_only_types_of_services() -> None:
    taken = {
        alias.name
        for path in (SOURCES["web_app"], *WEB.values())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module in SERVICES
        for alias in node.names
    }
    assert taken <= {"CaptureOutcome", "AlreadyRunningError", "CleanupReport"}


@pytest.mark.parametrize("module", sorted(WEB))
def test_routes_know_no_sql_no_streams_and_no_threads_of_others(module: str) -> None:
    packages = {name.partition(".")[0] for name in imported(WEB[module])}
    assert packages & SERVICES <= WEB_MAY_IMPORT
    assert packages & (WEB_MAY_NOT_KNOW | {"sqlite3", "cv2", "requests", "main"}) == set()


def test_only_the_web_imports_flask_and_the_web() -> None:
    assert {module for module, names in PACKAGES.items() if "web" in names} <= {"web_app", "main"}


def test_security_knows_no_routes() -> None:
    assert PACKAGES["security"] & {"flask", "web", "web_app"} == set()


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_a_package_is_imported_only_by_its_owner(package: str) -> None:
    users = {module for module, packages in PACKAGES.items() if package in packages}
    allowed = {"gpio_service"} if package == "RPi" else OWNERS[package]
    assert users <= allowed
    assert users


def test_rpi_gpio_is_loaded_only_when_it_is_used() -> None:
    tree = ast.parse(SOURCES["gpio_service"].read_text(encoding="utf-8"))
    statements = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any("RPi" in ast.dump(statement) for statement in statements)


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_nothing_of_the_project(leaf: str) -> None:
    assert PROJECT[leaf] == set()


@pytest.mark.parametrize("module", sorted(MAY_NOT_KNOW))
def test_what_a_module_must_not_know(module: str) -> None:
    assert PROJECT[module] & MAY_NOT_KNOW[module] == set()


def test_nobody_imports_main() -> None:
    assert [module for module, names in PROJECT.items() if "main" in names] == []


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_production_does_not_import_tests_or_the_simulator(module: str) -> None:
    allowed = {"simulator"} if module == "main" else set()
    found = PACKAGES[module] & {"tests", "bench", "demo", "simulator", "pytest"}
    assert found <= allowed


def test_main_loads_the_simulator_for_the_demo_only() -> None:
    tree = ast.parse(SOURCES["main"].read_text(encoding="utf-8"))
    statements = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any("simulator" in ast.dump(statement) for statement in statements)


def test_there_are_no_import_circles() -> None:
    left = dict(PROJECT)
    while free := [module for module, names in left.items() if not names & set(left)]:
        for module in free:
            del left[module]
    assert left == {}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_have_no_effects(module: str) -> None:
    """Let modules define things only; `main` may start the program when it is run."""
    allowed = (
        *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign),
        *(ast.If, ast.Try),
    )
    body = ast.parse(SOURCES[module].read_text(encoding="utf-8")).body
    others = [
        node
        for node in body
        if not isinstance(node, allowed)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    assert [ast.unparse(node) for node in others] == []
