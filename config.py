"""All settings: the default and the check of each environment variable, and its typed value.

`load()` reads `.env` in the working directory and the real environment, which wins, and hands
each service one frozen dataclass. All problems are collected and raised together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from runtime import env_file
from runtime.env_reader import EnvReader
from runtime.host import default_site_id, system_timezone

_DEFAULT_CAMERAS: Final = {
    1: ("192.168.1.201", "Entry", 18),
    2: ("192.168.1.202", "Exit", 19),
    3: ("192.168.1.203", "Auxiliary", 20),
}
_DEFAULT_UPLOAD_URL: Final = "https://api.easyparkai.com/api/Common/Upload?modulename=anpr"
_CAMERA_VARIABLE: Final = re.compile(r"^(?:GPIO_)?CAMERA_(\d{1,3})_[A-Z_]+$")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OURS: Final = re.compile(
    r"^(CAMERA|GPIO|UPLOAD|CAPTURE|IMAGE|CLEANUP|BIND|SITE|WEB|OFFLINE|CONNECTIVITY)_"
)
_MAX_BCM_PIN: Final = 27
_OFFSET_LIMITS_MS: Final = (-2000, 5000)
_LONGEST_BURST: Final = 9
_WIDEST_CHOICE_MS: Final = 1000


class ConfigError(Exception):
    """The settings can't be used. `problems` holds one line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class SiteConfig:
    """Which site this is, its time zone, its log, and how often pages refresh statistics."""

    site_id: str
    timezone: ZoneInfo
    log_level: str
    log_file: Path
    stats_refresh_s: int


@dataclass(frozen=True)
class CameraConfig:
    """One camera and the pin that triggers it. `url` holds the password in clear text."""

    key: str
    name: str
    label: str
    enabled: bool
    url: str = field(repr=False)
    latency_ms: int
    offset_ms: int
    pin: int | None


@dataclass(frozen=True)
class CaptureConfig:
    """How frames are chosen and encoded.

    `burst_ms` are the moments of a burst around the wanted one, ascending. If `best_within_ms` is
    not 0, the sharpest frame within that distance of its moment is chosen, not the nearest.
    """

    timeout_s: float
    max_offset_ms: int
    jpeg_quality: int
    max_pixels: int
    """Larger pictures are not decoded."""
    rtsp_transport: str
    burst_ms: tuple[int, ...] = (0,)
    best_within_ms: int = 0


@dataclass(frozen=True)
class GpioConfig:
    """Pins and the times of their debounce. `pins` maps BCM numbers to camera keys."""

    enabled: bool
    trigger_enabled: bool
    hold_off_ms: int
    rearm_ms: int
    glitch_ms: int
    trigger_on_start: bool
    stuck_low_s: float
    pins: Mapping[int, str]


@dataclass(frozen=True)
class S3Config:
    """How to reach an S3-compatible store; used when `S3_API_URL` is s3://bucket/prefix."""

    endpoint_url: str = "https://s3.amazonaws.com"
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = "us-east-1"


@dataclass(frozen=True)
class UploadConfig:
    """Where images are uploaded, and the times and limits. `url` may have a secret in its query."""

    enabled: bool
    background: bool
    url: str = field(repr=False)
    field_name: str
    auth_token: str = field(repr=False)
    metadata: bool
    timeout_s: float
    queue_size: int
    retry_workers: int
    offline_retry_interval_s: float
    connectivity_check_interval_s: float
    s3: S3Config = S3Config()

    @property
    def is_s3(self) -> bool:
        """Tell whether images go straight to an S3-compatible store."""
        return self.url.startswith("s3://")


@dataclass(frozen=True)
class StorageConfig:
    """Where images, their catalog and the readable list of pending uploads lie."""

    image_dir: Path
    state_dir: Path
    pending_file: Path
    min_free_disk_bytes: int


@dataclass(frozen=True)
class CleanupConfig:
    """How long images are kept, and how often old ones are deleted."""

    retention_days: int
    interval_hours: float


@dataclass(frozen=True)
class WebConfig:
    """The embedded web server and who may use it."""

    bind_ip: str
    bind_port: int
    auth_enabled: bool
    admin_password_hash: str = field(repr=False)
    api_token: str = field(repr=False)
    session_idle_minutes: int
    trusted_proxies: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """All settings of one process."""

    site: SiteConfig
    cameras: tuple[CameraConfig, ...]
    capture: CaptureConfig
    gpio: GpioConfig
    upload: UploadConfig
    storage: StorageConfig
    cleanup: CleanupConfig
    web: WebConfig
    warnings: tuple[str, ...]
    env_file_exposed: bool
    secrets: frozenset[str] = field(repr=False)
    """Every secret text, raw and percent-encoded, for the log's redaction."""


def load(path: Path = Path(".env")) -> Config:
    """Read the file at `path`, when there is one, and the environment, which wins.

    Raises:
        ConfigError: with one line for every problem found.
    """
    try:
        file_values = env_file.read(path)
    except env_file.EnvFileError as error:
        raise ConfigError([str(error)]) from error
    read = EnvReader({**file_values, **os.environ})
    config = _settings(read)
    exposed, warnings = env_file.tighten(path)
    return replace(
        config,
        warnings=(*warnings, *read.unknown_names(file_values, _OURS)),
        env_file_exposed=exposed,
    )


def parse(env: Mapping[str, str]) -> Config:
    """Check `env` alone and build the settings.

    Raises:
        ConfigError: with one line for every problem found.
    """
    return _settings(EnvReader(env))


def variables() -> dict[str, str]:
    """Return the name and default of every variable, for three cameras."""
    read = EnvReader({})
    _settings(read)
    return dict(read.defaults)


def redact_url(url: str) -> str:
    """Return `url` without its credentials and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _settings(read: EnvReader) -> Config:
    """Read and check all settings, so that all problems are found at once.

    Raises:
        ConfigError: with one line for every problem found.
    """
    cameras = _cameras(read)
    burst_ms = _burst(read, cameras)
    upload = _upload(read)
    _check_s3(read, upload)
    config = Config(
        site=_site(read),
        cameras=cameras,
        capture=CaptureConfig(
            timeout_s=read.number("CAPTURE_TIMEOUT_S", 5, 0.5, 60),
            max_offset_ms=read.integer("CAPTURE_MAX_OFFSET_MS", 250, 20, 5000),
            jpeg_quality=read.integer("JPEG_QUALITY", 92, 50, 100),
            max_pixels=int(read.number("CAMERA_MAX_MEGAPIXELS", 40, 0.1, 1000) * 1_000_000),
            rtsp_transport=read.choice("RTSP_TRANSPORT", "tcp", ("tcp", "udp")),
            burst_ms=burst_ms,
            best_within_ms=read.integer("CAPTURE_BEST_WITHIN_MS", 0, 0, _WIDEST_CHOICE_MS),
        ),
        gpio=_gpio(read, cameras),
        upload=upload,
        storage=_storage(read),
        cleanup=CleanupConfig(
            retention_days=read.integer("IMAGE_RETENTION_DAYS", 120, 1, 36500),
            interval_hours=read.number("CLEANUP_INTERVAL_HOURS", 24, 0.01, 8760),
        ),
        web=_web(read),
        warnings=(),
        env_file_exposed=False,
        secrets=frozenset(read.secrets),
    )
    if read.problems:
        raise ConfigError(read.problems)
    return config


def _cameras(read: EnvReader) -> tuple[CameraConfig, ...]:
    named = (_CAMERA_VARIABLE.match(name) for name in read.env)
    numbers = sorted(set(_DEFAULT_CAMERAS) | {int(m[1]) for m in named if m and int(m[1]) > 0})
    username = read.text("CAMERA_USERNAME", "admin")
    password = read.secret("CAMERA_PASSWORD", "admin")
    path = read.text("CAMERA_RTSP_PATH", "/avstream/channel=1/stream=0.sdp")
    offset_ms = read.integer("CAPTURE_OFFSET_MS", 0, *_OFFSET_LIMITS_MS)
    cameras = [_camera(read, n, username, password, path, offset_ms) for n in numbers]
    names: dict[str, str] = {}
    for camera in cameras:
        if camera.name in names:
            read.problem(
                f"{camera.key.upper()}_NAME",
                camera.name,
                f"is the name of {names[camera.name]} too",
            )
        names[camera.name] = camera.key
    return tuple(cameras)


def _camera(
    read: EnvReader, n: int, username: str, password: str, path: str, offset_ms: int
) -> CameraConfig:
    ip, label, default_pin = _DEFAULT_CAMERAS.get(n, ("", f"Camera {n}", None))
    prefix = f"CAMERA_{n}"
    enabled = read.flag(f"{prefix}_ENABLED", True)
    user = read.text(f"{prefix}_USERNAME", username, shown="CAMERA_USERNAME")
    word = read.secret(f"{prefix}_PASSWORD", password, shown="CAMERA_PASSWORD")
    host = read.text(
        f"{prefix}_IP",
        ip,
        pattern=r"([A-Za-z0-9._-]+(:\d{1,5})?)?",
        allowed=f"a host name or IPv4 address; for others set {prefix}_RTSP",
    )
    url = read.url(f"{prefix}_RTSP", "", ("rtsp", "rtsps"), shown="from the address below")
    if not url and host:
        login = f"{quote(user, safe='')}:{quote(word, safe='')}@" if user else ""
        url = f"rtsp://{login}{host if ':' in host else f'{host}:554'}/{path.lstrip('/')}"
    if not url and enabled:
        read.problem(f"{prefix}_IP", "", f"is needed (or {prefix}_RTSP) for an enabled camera")
    return CameraConfig(
        key=f"camera_{n}",
        name=read.text(
            f"{prefix}_NAME",
            f"r{n}",
            pattern=r"[a-z0-9-]{1,16}",
            allowed="1 to 16 of a-z, 0-9 and -",
        ),
        label=read.text(f"{prefix}_LABEL", label),
        enabled=enabled,
        url=url,
        latency_ms=read.integer(f"{prefix}_LATENCY_MS", 0, 0, 5000),
        offset_ms=read.integer(
            f"{prefix}_CAPTURE_OFFSET_MS",
            offset_ms,
            *_OFFSET_LIMITS_MS,
            shown="CAPTURE_OFFSET_MS",
        ),
        pin=read.optional_integer(f"GPIO_CAMERA_{n}_PIN", default_pin, 0, _MAX_BCM_PIN),
    )


def _burst(read: EnvReader, cameras: tuple[CameraConfig, ...]) -> tuple[int, ...]:
    """Return the moments of a burst; with each camera's offset they must be within the limits."""
    name = "CAPTURE_BURST_MS"
    moments = read.integers(name, 0, _LONGEST_BURST)
    low, high = _OFFSET_LIMITS_MS
    for camera in cameras:
        first, last = camera.offset_ms + moments[0], camera.offset_ms + moments[-1]
        if camera.enabled and not low <= first <= last <= high:
            asked = f"{first} to {last} ms" if first != last else f"{first} ms"
            why = f"with the offset of {camera.key} asks for {asked}; allowed: {low} to {high} ms"
            read.problem(name, read.env.get(name, "").strip(), why)
            break
    return moments


def _gpio(read: EnvReader, cameras: tuple[CameraConfig, ...]) -> GpioConfig:
    pins: dict[int, str] = {}
    for camera in cameras:
        if not camera.enabled or camera.pin is None:
            continue
        if camera.pin in pins:
            name = f"GPIO_{camera.key.upper()}_PIN"
            read.problem(name, str(camera.pin), f"is the pin of {pins[camera.pin]} too")
        pins[camera.pin] = camera.key
    return GpioConfig(
        enabled=read.flag("GPIO_ENABLED", False),
        trigger_enabled=read.flag("GPIO_TRIGGER_ENABLED", True),
        hold_off_ms=read.integer("GPIO_BOUNCE_TIME", 300, 0, 60000),
        rearm_ms=read.integer("GPIO_REARM_MS", 50, 0, 10000),
        glitch_ms=read.integer("GPIO_GLITCH_MS", 0, 0, 1000),
        trigger_on_start=read.flag("GPIO_TRIGGER_ON_START", False),
        stuck_low_s=read.number("STUCK_LOW_S", 120, 1, 86400),
        pins=pins,
    )


def _upload(read: EnvReader) -> UploadConfig:
    return UploadConfig(
        enabled=read.flag("UPLOAD_ENABLED", True),
        background=read.flag("BACKGROUND_UPLOAD", True),
        url=read.url("S3_API_URL", _DEFAULT_UPLOAD_URL, ("http", "https", "s3")),
        field_name=read.text("UPLOAD_FIELD_NAME", "singleFile"),
        auth_token=read.secret("UPLOAD_AUTH_TOKEN", ""),
        metadata=read.flag("UPLOAD_METADATA", False),
        timeout_s=read.number("UPLOAD_TIMEOUT_S", 30, 0.5, 600),
        queue_size=read.integer("UPLOAD_QUEUE_SIZE", 100, 1, 100_000),
        retry_workers=read.integer("UPLOAD_RETRY_WORKERS", 1, 1, 16),
        offline_retry_interval_s=read.number("OFFLINE_RETRY_INTERVAL", 60, 0.1, 86400),
        connectivity_check_interval_s=read.number("CONNECTIVITY_CHECK_INTERVAL", 60, 0.1, 86400),
        s3=S3Config(
            endpoint_url=read.url("S3_ENDPOINT_URL", S3Config.endpoint_url, ("https", "http")),
            access_key_id=read.secret("AWS_ACCESS_KEY_ID", ""),
            secret_access_key=read.secret("AWS_SECRET_ACCESS_KEY", ""),
            session_token=read.secret("AWS_SESSION_TOKEN", ""),
            region=read.text(
                "AWS_REGION",
                S3Config.region,
                pattern=r"[A-Za-z0-9-]{1,40}",
                allowed="a region such as eu-central-1",
            ),
        ),
    )


def _check_s3(read: EnvReader, upload: UploadConfig) -> None:
    """Note settings of an S3-compatible store that are missing or malformed."""
    if not upload.enabled or not upload.is_s3:
        return
    for name, value in (
        ("AWS_ACCESS_KEY_ID", upload.s3.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", upload.s3.secret_access_key),
    ):
        if not value:
            read.problem(name, "", "is needed with S3_API_URL=s3://…")
    bucket, endpoint = urlsplit(upload.url).netloc, urlsplit(upload.s3.endpoint_url)
    if not _BUCKET.fullmatch(bucket):
        read.problem("S3_API_URL", redact_url(upload.url), "must be s3://bucket/prefix")
    if endpoint.path.strip("/") or endpoint.query or "@" in endpoint.netloc:
        endpoint_url = redact_url(upload.s3.endpoint_url)
        read.problem("S3_ENDPOINT_URL", endpoint_url, "must be https://host or https://host:port")


def _storage(read: EnvReader) -> StorageConfig:
    image_dir = read.path("IMAGE_STORAGE_PATH", "images")
    return StorageConfig(
        image_dir=image_dir,
        state_dir=read.path("STATE_DIR", str(image_dir / ".state"), shown="in the image folder"),
        pending_file=read.path("PENDING_UPLOADS_FILE", "pending_uploads.json"),
        min_free_disk_bytes=read.integer("MIN_FREE_DISK_MB", 500, 0, 10_000_000) * 1_000_000,
    )


def _site(read: EnvReader) -> SiteConfig:
    return SiteConfig(
        site_id=read.text(
            "SITE_ID",
            default_site_id(),
            pattern=r"[A-Za-z0-9._-]{1,64}",
            allowed="1 to 64 of letters, digits, '.', '_' and '-'",
            shown="host name and 6 digits of the machine id",
        ),
        timezone=read.timezone("SITE_TIMEZONE", system_timezone(), shown="the system's"),
        log_level=read.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        log_file=read.path("LOG_FILE", "camera_system.log"),
        stats_refresh_s=read.integer("STATS_REFRESH_S", 10, 1, 3600),
    )


def _web(read: EnvReader) -> WebConfig:
    return WebConfig(
        bind_ip=read.ip_address("BIND_IP", "0.0.0.0"),  # noqa: S104 - the documented default
        bind_port=read.integer("BIND_PORT", 9000, 1, 65535),
        auth_enabled=read.flag("WEB_AUTH_ENABLED", True),
        admin_password_hash=read.secret("ADMIN_PASSWORD_HASH", ""),
        api_token=read.secret("API_TOKEN", ""),
        session_idle_minutes=read.integer("SESSION_IDLE_MINUTES", 720, 1, 100_000),
        trusted_proxies=read.networks("TRUSTED_PROXIES"),
    )
