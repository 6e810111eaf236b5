"""Every variable: its default, what it refuses, and that no secret shows."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from urllib.parse import quote

import pytest

import config
from config import ConfigError, load, parse, redact_url, variables
from runtime import env_file

ROOT = Path(__file__).parents[2]
CANARY = "c4n4ry-p@ss:w/rd"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder, with none of our variables in the real environment."""
    ours = re.compile(r"(GPIO_)?CAMERA_\d+_")
    for name in list(os.environ):
        if name in variables() or ours.match(name):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_of(env: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(env)
    return caught.value.problems


def load_text(text: str, mode: int = 0o600) -> config.Config:
    path = Path(".env")
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return load()


# Defaults.


def test_the_defaults_are_those_of_the_user() -> None:
    found = parse({})
    assert [(c.key, c.name, c.label, c.enabled, c.pin) for c in found.cameras] == [
        ("camera_1", "r1", "Entry", True, 18),
        ("camera_2", "r2", "Exit", True, 19),
        ("camera_3", "r3", "Auxiliary", True, 20),
    ]
    assert [c.url for c in found.cameras] == [
        f"rtsp://admin:admin@192.168.1.{n}:554/avstream/channel=1/stream=0.sdp"
        for n in (201, 202, 203)
    ]
    gpio, upload = found.gpio, found.upload
    assert (gpio.enabled, gpio.trigger_enabled, gpio.hold_off_ms) == (False, True, 300)
    assert gpio.pins == {18: "camera_1", 19: "camera_2", 20: "camera_3"}
    assert (upload.enabled, upload.background, upload.queue_size) == (True, True, 100)
    assert upload.url == "https://api.easyparkai.com/api/Common/Upload?modulename=anpr"
    assert upload.offline_retry_interval_s == 60
    assert upload.connectivity_check_interval_s == 60
    assert (found.cleanup.retention_days, found.cleanup.interval_hours) == (120, 24)
    assert found.storage.image_dir == Path.cwd() / "images"
    assert (found.web.bind_ip, found.web.bind_port) == ("0.0.0.0", 9000)  # noqa: S104
    assert found.web.auth_enabled


def test_the_other_defaults() -> None:
    found = parse({})
    assert (found.gpio.rearm_ms, found.gpio.glitch_ms) == (50, 0)
    assert (found.gpio.trigger_on_start, found.gpio.stuck_low_s) == (False, 120)
    assert [(c.latency_ms, c.offset_ms) for c in found.cameras] == [(0, 0)] * 3
    assert found.capture == config.CaptureConfig(5, 250, 92, 40_000_000, "tcp")
    assert (found.upload.field_name, found.upload.metadata) == ("singleFile", False)
    assert (found.upload.timeout_s, found.upload.retry_workers) == (30, 1)
    assert found.storage.state_dir == Path.cwd() / "images/.state"
    assert found.storage.pending_file == Path.cwd() / "pending_uploads.json"
    assert found.storage.min_free_disk_bytes == 500_000_000
    assert (found.site.log_level, found.site.stats_refresh_s) == ("INFO", 10)
    assert found.site.log_file == Path.cwd() / "camera_system.log"
    assert re.fullmatch(r"[A-Za-z0-9._-]+-[0-9a-f]{6}", found.site.site_id)
    assert (found.web.api_token, found.web.admin_password_hash) == ("", "")
    assert found.web.trusted_proxies == ()


def test_every_variable_of_the_user_is_known() -> None:
    wanted = """CAMERA_1_ENABLED CAMERA_2_ENABLED CAMERA_3_ENABLED CAMERA_1_IP CAMERA_1_RTSP
        CAMERA_USERNAME CAMERA_PASSWORD GPIO_ENABLED GPIO_TRIGGER_ENABLED GPIO_CAMERA_1_PIN
        GPIO_CAMERA_2_PIN GPIO_CAMERA_3_PIN GPIO_BOUNCE_TIME UPLOAD_ENABLED BACKGROUND_UPLOAD
        S3_API_URL UPLOAD_QUEUE_SIZE IMAGE_RETENTION_DAYS CLEANUP_INTERVAL_HOURS
        IMAGE_STORAGE_PATH BIND_IP BIND_PORT OFFLINE_RETRY_INTERVAL CONNECTIVITY_CHECK_INTERVAL
        WEB_AUTH_ENABLED ADMIN_PASSWORD_HASH"""
    assert set(wanted.split()) - set(variables()) == set()


def test_every_default_as_shown_is_accepted() -> None:
    in_words = {"SITE_ID", "SITE_TIMEZONE", "STATE_DIR"}
    shown = {
        name: text
        for name, text in variables().items()
        if name not in in_words and not name.startswith("CAMERA_") and text not in variables()
    }
    assert parse(shown) == parse({})


def test_env_example_lists_exactly_the_variables() -> None:
    path = ROOT / "env.example"
    assert path.is_file()
    named = re.findall(r"^#?([A-Z][A-Z0-9_]*)=", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(named)) == sorted(variables())
    assert sorted(named) == sorted(set(named))


def test_env_example_as_it_is_works() -> None:
    found = load_text((ROOT / "env.example").read_text(encoding="utf-8"))
    assert [camera.key for camera in found.cameras] == ["camera_1", "camera_2", "camera_3"]
    assert found.warnings == ()


# Values.


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("YES", True), ("On", True), ("1", True), (" false ", False), ("no", False),
     ("OFF", False), ("0", False), ("", False)],
)  # fmt: skip
def test_truth_values(text: str, value: bool) -> None:
    assert parse({"GPIO_ENABLED": text}).gpio.enabled is value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GPIO_ENABLED", "maybe"),
        ("BIND_PORT", "0"),
        ("BIND_PORT", "http"),
        ("BIND_PORT", "70000"),
        ("BIND_IP", "localhost"),
        ("CAPTURE_TIMEOUT_S", "nan"),
        ("CAPTURE_TIMEOUT_S", "soon"),
        ("JPEG_QUALITY", "92.5"),
        ("RTSP_TRANSPORT", "carrier-pigeon"),
        ("LOG_LEVEL", "LOUD"),
        ("SITE_TIMEZONE", "Mars/Olympus"),
        ("SITE_TIMEZONE", "../etc"),
        ("SITE_ID", "gate 7"),
        ("CAMERA_1_NAME", "Entry_Camera"),
        ("CAMERA_2_NAME", "r1"),
        ("CAMERA_1_RTSP", "http://192.168.1.9/"),
        ("GPIO_CAMERA_1_PIN", "28"),
        ("GPIO_CAMERA_1_PIN", "-1"),
        ("GPIO_CAMERA_2_PIN", "18"),
        ("IMAGE_RETENTION_DAYS", "0"),
        ("S3_API_URL", "ftp://example.org/"),
        ("S3_API_URL", "https:///no-host"),
        ("S3_API_URL", "https://host:port/"),
        ("S3_API_URL", "http://[::1"),
        ("UPLOAD_FIELD_NAME", "a\tb"),
        ("UPLOAD_RETRY_WORKERS", "0"),
    ],
)
def test_a_bad_value_is_named_with_its_variable_and_what_is_allowed(name: str, value: str) -> None:
    [problem] = problems_of({name: value})
    assert re.match(rf"{name}='.*': (must be|is the (name|pin) of)", problem)


def test_all_problems_are_listed_at_once() -> None:
    env = {
        "BIND_PORT": "x",
        "GPIO_ENABLED": "maybe",
        "CAMERA_4_LABEL": "Back",
        "JPEG_QUALITY": "7",
        "S3_API_URL": "nowhere",
    }
    names = [problem.partition("=")[0] for problem in problems_of(env)]
    assert sorted(names) == sorted(
        ["BIND_PORT", "GPIO_ENABLED", "CAMERA_4_IP", "JPEG_QUALITY", "S3_API_URL"]
    )


def test_times_and_sizes_get_their_units() -> None:
    found = parse({"MIN_FREE_DISK_MB": "1", "OFFLINE_RETRY_INTERVAL": "0.5", "BIND_IP": "::1"})
    assert found.storage.min_free_disk_bytes == 1_000_000
    assert found.upload.offline_retry_interval_s == 0.5
    assert found.web.bind_ip == "::1"


def test_paths_start_at_the_working_directory_and_the_state_follows_the_images() -> None:
    found = parse({"IMAGE_STORAGE_PATH": "photos", "LOG_FILE": "/var/log/gate.log"})
    assert found.storage.image_dir == Path.cwd() / "photos"
    assert found.storage.state_dir == Path.cwd() / "photos/.state"
    assert found.site.log_file == Path("/var/log/gate.log")


def test_proxies_are_a_list() -> None:
    found = parse({"TRUSTED_PROXIES": "10.0.0.1, 10.0.0.2,"})
    assert found.web.trusted_proxies == ("10.0.0.1", "10.0.0.2")


# Cameras.


def test_there_are_as_many_cameras_as_are_named() -> None:
    env = {"CAMERA_4_IP": "10.0.0.4", "CAMERA_12_RTSP": "rtsp://10.0.0.12/live",
           "GPIO_CAMERA_12_PIN": "5"}  # fmt: skip
    cameras = parse(env).cameras
    assert [(c.key, c.name, c.label) for c in cameras[3:]] == [
        ("camera_4", "r4", "Camera 4"),
        ("camera_12", "r12", "Camera 12"),
    ]
    assert [(c.url.rpartition("@")[2], c.pin) for c in cameras[3:]] == [
        ("10.0.0.4:554/avstream/channel=1/stream=0.sdp", None),
        ("rtsp://10.0.0.12/live", 5),
    ]
    assert parse(env).gpio.pins[5] == "camera_12"


def test_a_camera_may_have_its_own_login_latency_and_offset() -> None:
    found = parse(
        {
            "CAMERA_USERNAME": "all",
            "CAMERA_PASSWORD": "common",
            "CAPTURE_OFFSET_MS": "-100",
            "CAMERA_2_USERNAME": "two",
            "CAMERA_2_PASSWORD": "second",
            "CAMERA_2_CAPTURE_OFFSET_MS": "250",
            "CAMERA_2_LATENCY_MS": "180",
        }
    )
    assert [c.url.split("@")[0] for c in found.cameras] == [
        "rtsp://all:common",
        "rtsp://two:second",
        "rtsp://all:common",
    ]
    assert [c.offset_ms for c in found.cameras] == [-100, 250, -100]
    assert [c.latency_ms for c in found.cameras] == [0, 180, 0]


def test_credentials_are_percent_encoded() -> None:
    found = parse({"CAMERA_USERNAME": "me@home", "CAMERA_PASSWORD": "p@ss:w/rd#1?%&"})
    assert found.cameras[0].url.startswith(
        "rtsp://me%40home:p%40ss%3Aw%2Frd%231%3F%25%26@192.168.1.201:554/"
    )


def test_the_path_and_the_port_may_be_chosen() -> None:
    found = parse({"CAMERA_RTSP_PATH": "live", "CAMERA_1_IP": "10.0.0.1:8554"})
    assert found.cameras[0].url.endswith("@10.0.0.1:8554/live")


def test_the_pin_of_a_disabled_camera_is_free() -> None:
    found = parse({"CAMERA_1_ENABLED": "false", "GPIO_CAMERA_2_PIN": "18"})
    assert found.gpio.pins == {18: "camera_2", 20: "camera_3"}
    assert not found.cameras[0].enabled


def test_a_disabled_camera_needs_no_address() -> None:
    assert parse({"CAMERA_4_ENABLED": "false"}).cameras[3].url == ""


# Secrets.

SECRETS = {
    "CAMERA_PASSWORD": CANARY,
    "CAMERA_2_PASSWORD": CANARY + "2",
    "CAMERA_3_RTSP": "rtsp://u:c4n4ry%20three!@10.0.0.3/live",
    "UPLOAD_AUTH_TOKEN": CANARY + "4",
    "S3_API_URL": "https://u:c4n4ry-five@example.org/up?token=c4n4ry-six",
    "ADMIN_PASSWORD_HASH": "scrypt:c4n4ry",
    "API_TOKEN": CANARY + "7",
}


def test_no_secret_is_in_a_repr() -> None:
    found = parse(SECRETS)
    assert "c4n4ry" not in repr(found)
    assert "c4n4ry" not in str(found)


def test_no_secret_is_in_a_problem() -> None:
    bad = SECRETS | {
        "S3_API_URL": "ftp://u:c4n4ry@example.org/?token=c4n4ry",
        "CAMERA_1_RTSP": "http://u:c4n4ry@host/",
        "CAMERA_2_RTSP": "rtsp://u:c4n4ry@ho\tst/",
        "BIND_PORT": "0",
    }
    problems = problems_of(bad)
    assert len(problems) >= 4
    assert "c4n4ry" not in " ".join(problems)


@pytest.mark.parametrize("url", ["ftp://host/?key=c4n4ry", "http://[::1/?key=c4n4ry"])
def test_no_query_is_in_a_problem(url: str) -> None:
    [problem] = problems_of({"S3_API_URL": url})
    assert "c4n4ry" not in problem


def test_the_log_can_redact_every_way_a_secret_is_written() -> None:
    secrets = parse(SECRETS).secrets
    assert secrets >= {
        CANARY,
        "c4n4ry-p%40ss%3Aw%2Frd",
        CANARY + "2",
        "c4n4ry three!",
        "c4n4ry%20three%21",
        "c4n4ry%20three!",  # as it stands in the URL, which OpenCV's errors quote
        CANARY + "4",
        "c4n4ry-five",
        "token=c4n4ry-six",
        "scrypt:c4n4ry",
        CANARY + "7",
    }


def test_defaults_and_short_words_are_no_secrets() -> None:
    assert parse({"CAMERA_PASSWORD": "abc"}).secrets == frozenset()
    assert parse({}).secrets == frozenset()


def test_redact_url_leaves_no_credentials_and_no_query() -> None:
    assert redact_url("https://u:p@h:8/path?token=x#f") == "https://h:8/path"


# The file.


def test_the_real_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIND_PORT", "7777")
    found = load_text("BIND_PORT=8888\nJPEG_QUALITY=80\n")
    assert (found.web.bind_port, found.capture.jpeg_quality) == (7777, 80)


def test_without_a_file_the_defaults_hold() -> None:
    assert load() == parse({})


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("CAMERA_PASSWORD=plain", "plain"),
        ("CAMERA_PASSWORD='with # and $HOME'", "with # and $HOME"),
        ('CAMERA_PASSWORD="with # and ${HOME}"', "with # and ${HOME}"),
        ("CAMERA_PASSWORD=in#side$1", "in#side$1"),
        ("CAMERA_PASSWORD=word   # a comment", "word"),
        ("# CAMERA_PASSWORD=not this\nCAMERA_PASSWORD=this", "this"),
        ("export CAMERA_PASSWORD=exported", "exported"),
        ("CAMERA_PASSWORD=", "admin"),
        ("CAMERA_PASSWORD", "admin"),
        ("CAMERA_PASSWORD=windows\r", "windows"),
        ("CAMERA_PASSWORD=çürük", "çürük"),
    ],
)
def test_lines_of_the_file(line: str, password: str) -> None:
    found = load_text(f"{line}\n")
    encoded = quote(password, safe="")
    assert found.cameras[0].url.startswith(f"rtsp://admin:{encoded}@")


def test_a_byte_order_mark_does_not_hide_the_first_line() -> None:
    assert load_text("\ufeffBIND_PORT=8888\n").web.bind_port == 8888


def test_empty_values_are_the_defaults() -> None:
    names = [name for name in variables() if "ENABLED" not in name]
    assert load_text("".join(f"{name}=\n" for name in names)) == parse({})


def test_a_file_that_is_no_text_is_a_problem_in_words() -> None:
    Path(".env").write_bytes(b"BIND_PORT=8888\nSITE_ID=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"\.env can't be read: it is not UTF-8 text"):
        load()


def test_a_file_that_can_t_be_read_is_a_problem_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    Path(".env").touch()
    monkeypatch.setattr(env_file, "dotenv_values", refuse)
    with pytest.raises(ConfigError, match=r"\.env can't be read: Permission denied"):
        load()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_a_file_that_others_can_read_is_tightened(mode: int) -> None:
    found = load_text("BIND_PORT=8888\n", mode)
    assert stat.S_IMODE(Path(".env").stat().st_mode) == 0o600
    assert len(found.warnings) == 1
    assert "could be read by other users" in found.warnings[0]
    assert not found.env_file_exposed


def test_a_file_of_our_own_gets_no_warning() -> None:
    found = load_text("BIND_PORT=8888\n", 0o600)
    assert (found.warnings, found.env_file_exposed) == ((), False)


def test_a_file_that_can_t_be_tightened_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    Path(".env").touch()
    Path(".env").chmod(0o644)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", refuse)
        found = load()
    assert found.env_file_exposed
    assert found.warnings == (".env can be read by other users: chmod 600 .env",)


def test_a_mistyped_name_is_told_with_a_guess_and_without_its_value() -> None:
    found = load_text("CAMERA_PASWORD=c4n4ry\nGPIO_MAGIC_WAND=1\nPATHS=x\n")
    assert len(found.warnings) == 2
    assert "did you mean CAMERA_PASSWORD?" in found.warnings[0]
    assert "GPIO_MAGIC_WAND" in found.warnings[1]
    assert "c4n4ry" not in " ".join(found.warnings)


@pytest.mark.parametrize(
    ("text", "moments"),
    [("0", (0,)), ("-400,0,400", (-400, 0, 400)), ("400, 0 ,+50", (0, 50, 400)), ("", (0,))],
)
def test_bursts(text: str, moments: tuple[int, ...]) -> None:
    assert parse({"CAPTURE_BURST_MS": text}).capture.burst_ms == moments


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"CAPTURE_BURST_MS": "soon"}, "different whole numbers"),
        ({"CAPTURE_BURST_MS": "1,1"}, "different whole numbers"),
        ({"CAPTURE_BURST_MS": "0,1,2,3,4,5,6,7,8,9"}, "1 to 9"),
        ({"CAPTURE_BURST_MS": "-2001,0"}, "-2000 to 5000 ms"),
        ({"CAPTURE_BURST_MS": "0,400", "CAMERA_2_CAPTURE_OFFSET_MS": "4800"}, "camera_2 asks"),
    ],
)
def test_bursts_beyond_the_limits_are_refused(env: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match="CAPTURE_BURST_MS=") as caught:
        parse(env)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", ["-1", "1001", "soon"])
def test_a_window_for_the_best_frame_has_limits(value: str) -> None:
    with pytest.raises(config.ConfigError, match=r"CAPTURE_BEST_WITHIN_MS.*0 to 1000"):
        config.parse({"CAPTURE_BEST_WITHIN_MS": value})


# An S3-compatible store.

STORE = {
    "S3_API_URL": "s3://gates/anpr",
    "S3_ENDPOINT_URL": "https://s3.example.org:8333",
    "AWS_ACCESS_KEY_ID": "gate-key",
    "AWS_SECRET_ACCESS_KEY": "c4n4ry-secret",
}


def test_a_store_is_read() -> None:
    upload = parse(STORE).upload
    assert upload.is_s3
    assert upload.s3.endpoint_url == "https://s3.example.org:8333"
    assert (upload.s3.access_key_id, upload.s3.region) == ("gate-key", "us-east-1")
    assert "c4n4ry" not in repr(upload)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("S3_API_URL", "s3://Gates!/anpr"),
        ("S3_API_URL", "s3://key:c4n4ry-secret@gates/anpr"),
        ("S3_ENDPOINT_URL", "https://s3.example.org/path"),
        ("S3_ENDPOINT_URL", "https://key:c4n4ry-secret@s3.example.org"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_REGION", "Mars/Olympus"),
    ],
)
def test_what_a_store_needs(name: str, value: str) -> None:
    [problem] = problems_of({**STORE, name: value})
    assert problem.startswith(name)
    assert "c4n4ry" not in problem


def test_a_store_that_is_not_used_needs_nothing() -> None:
    assert parse({"S3_API_URL": "s3://gates", "UPLOAD_ENABLED": "false"}).upload.is_s3
