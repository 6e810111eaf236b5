"""What the API shows of images and events, and how it reads filters and pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from flask import request, url_for

from config import CameraConfig
from store.rows import IMAGE_STATES, Event, Image, ImageFilter, day_bounds, iso
from web.errors import ApiError

EVENT_STATES: Final = ("capturing", "saved", "failed")
_MAX_PER_PAGE: Final = 200


def image_document(image: Image) -> dict[str, Any]:
    """Return an image as the API shows it."""
    url = url_for("api.image", filename=image.filename)
    return {
        "filename": image.filename,
        "camera": image.camera,
        "captured_at": iso(image.captured_at),
        "timestamp": int(image.captured_at.timestamp()),
        "size": image.size_bytes,
        "width": image.width,
        "height": image.height,
        "source": image.source,
        "offset_ms": image.offset_ms,
        "state": image.state,
        "url": url,
        "thumbnail_url": f"{url}?size=thumb",
        "sha256": image.sha256,
        "flags": image.flags,
        "attempts": image.attempts,
        "last_error": image.last_error,
        "next_attempt_at": iso(image.next_attempt_at),
        "uploaded_at": iso(image.uploaded_at),
        "event_id": image.event_id,
    }


def event_document(event: Event) -> dict[str, Any]:
    """Return an event as the API shows it."""
    return {
        "id": event.id,
        "camera": event.camera,
        "source": event.source,
        "edge_at": iso(event.edge_at),
        "flags": event.flags,
        "state": event.state,
        "reason": event.reason,
        "images": event.filenames,
    }


def image_filter(by_name: Mapping[str, CameraConfig], timezone: ZoneInfo) -> ImageFilter:
    """Return the filter that the query asks for."""
    camera = request.args.get("camera") or None
    if camera is not None:
        if camera not in by_name:
            raise ApiError(400, "bad_request", f"there is no camera {camera!r}")
        camera = by_name[camera].name
    since = until = None
    day_text = request.args.get("date")
    if day_text:
        try:
            day = datetime.strptime(day_text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day only
            since, until = day_bounds(day, timezone)
        except (ValueError, OverflowError):
            raise ApiError(400, "bad_request", "date must be like 2026-01-31") from None
    return ImageFilter(camera, choice("state", IMAGE_STATES), since, until)


def choice(name: str, options: tuple[str, ...]) -> str | None:
    """Return the query's value of `name`, `None` without one.

    Raises:
        ApiError: it is not one of the options.
    """
    value = request.args.get(name)
    if not value:
        return None
    if value not in options:
        raise ApiError(400, "bad_request", f"{name} must be one of {', '.join(options)}")
    return value


def paging() -> tuple[int, int, int | None]:
    """Return the page, its length, and the cursor, which replaces the page."""
    page = _number("page", 1, 1, 10_000_000)
    per_page = _number("per_page", 50, 1, _MAX_PER_PAGE)
    before = _number("before", 0, 0, 1 << 62)
    return page, per_page, before or None


def _number(name: str, default: int, low: int, high: int) -> int:
    text = request.args.get(name)
    if not text:
        return default
    is_number = text.isascii() and text.isdecimal() and len(text) <= 20
    if not is_number or not low <= int(text) <= high:
        raise ApiError(400, "bad_request", f"{name} must be a whole number from {low} to {high}")
    return int(text)


def paging_document(total: int, page: int, per_page: int, ids: list[int]) -> dict[str, Any]:
    """Return where a listing is; `ids` has one more than a page when another page follows."""
    return {
        "total": total,
        "page": page,
        "per_page": per_page,
        "pages": -(-total // per_page),
        "next": str(ids[per_page - 1]) if len(ids) > per_page else None,
    }
