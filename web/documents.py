"""The documents of images and events, and the query parameters for filters and pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

from flask import request, url_for

from config import CameraConfig
from store.rows import IMAGE_STATES, Event, Image, ImageFilter, day_bounds, iso
from web.errors import ApiError

EVENT_STATES: Final = ("capturing", "saved", "failed")
_MAX_PER_PAGE: Final = 200
_Listed = TypeVar("_Listed", Event, Image)


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
    value = request.args.get(name) or None
    if value is not None and value not in options:
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


def listing(
    key: str,
    find: Callable[..., Sequence[_Listed]],
    document: Callable[[_Listed], dict[str, Any]],
    total: int,
) -> dict[str, Any]:
    """Return the page that the query asks for, its entries as `key`.

    `find` takes limit, before_id and skip; `total` counts the entries of all pages.
    """
    page, per_page, before = paging()
    skip = 0 if before else (page - 1) * per_page
    found = find(limit=per_page + 1, before_id=before, skip=skip)  # one more: is there a next page?
    return {
        key: [document(entry) for entry in found[:per_page]],
        "total": total,
        "page": page,
        "per_page": per_page,
        "pages": -(-total // per_page),
        "next": str(found[per_page - 1].id) if len(found) > per_page else None,
    }
