"""The pages, complete without JavaScript, and the parts of them that scripts refresh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final
from urllib.parse import urlencode

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from store.rows import IMAGE_STATES, Image, ImageFilter, day_bounds
from web import words
from web.context import Site
from web.documents import image_filter, paging
from web.errors import ApiError

_LAST_PHOTOS: Final = 6
_PHOTOS_A_PAGE: Final = 60
_EAGER_PHOTOS: Final = 12
_LISTED: Final = 50
_CHART_HOURS: Final = 23
_RETRYABLE: Final = ("pending", "rejected", "skipped")


def blueprint(site: Site) -> Blueprint:
    """Return all pages and the routes that their forms post to."""
    pages = Blueprint("pages", __name__)
    _add_dashboard(pages, site)
    _add_photos(pages, site)
    _add_uploads(pages, site)
    _add_system(pages, site)
    return pages


def _add_dashboard(pages: Blueprint, site: Site) -> None:
    @pages.get("/")
    def index() -> str:
        return render_template("index.html", **_state(site), **_statistics(site))

    @pages.get("/parts/state")
    def state_parts() -> str:
        return render_template("parts/state.html", **_state(site))

    @pages.get("/parts/stats")
    def stats_parts() -> str:
        return render_template("parts/stats.html", **_statistics(site))

    @pages.post("/capture/<camera_key>")
    def capture(camera_key: str) -> Response:
        image, latency_ms = site.capture(camera_key)
        took_ms = round(latency_ms)
        return redirect(url_for("pages.photo", filename=image.filename, took_ms=took_ms), 303)


def _state(site: Site) -> dict[str, Any]:
    status = site.status.status()
    return {
        "status": status,
        "lights": words.lights(status, site.timezone),
        "camera_lines": {c["name"]: words.camera_line(c) for c in status["cameras"]},
        "photos": site.catalog.images(ImageFilter(), limit=_LAST_PHOTOS),
    }


def _statistics(site: Site) -> dict[str, Any]:
    since = datetime.now(UTC) - timedelta(hours=_CHART_HOURS)
    return {
        "stats": site.status.stats(),
        "bars": words.bars(site.catalog.hours(since), site.timezone),
        "refresh_s": site.stats_refresh_s,
    }


def _add_photos(pages: Blueprint, site: Site) -> None:
    @pages.get("/photos")
    def photos() -> str:
        which = image_filter(site.by_name, site.timezone)
        _, _, before = paging()
        found = site.catalog.images(which, limit=_PHOTOS_A_PAGE + 1, before_id=before)
        shown = found[:_PHOTOS_A_PAGE]
        filters = {
            name: request.args[name]
            for name in ("camera", "date", "state")
            if request.args.get(name)
        }
        older = None
        if len(found) > _PHOTOS_A_PAGE:
            older = f"{url_for('pages.photos')}?{urlencode({**filters, 'before': shown[-1].id})}"
        return render_template(
            "photos.html",
            days=_by_day(site, which, shown),
            filters=filters,
            total=site.catalog.count(which),
            older=older,
            is_first=before is None,
            states=IMAGE_STATES,
            eager={image.id for image in shown[:_EAGER_PHOTOS]} if before is None else set(),
        )

    @pages.get("/photos/<filename>")
    def photo(filename: str) -> str:
        try:
            image = site.catalog.image(filename)
        except KeyError:
            raise ApiError(404, "not_found", f"there is no photo {filename}") from None
        took_ms = request.args.get("took_ms", "")
        return render_template(
            "photo.html",
            photo=image,
            burst=site.catalog.images_of_event(image.event_id) if image.event_id else [],
            took_ms=took_ms if took_ms.isdecimal() and len(took_ms) < 7 else None,
            retryable=image.state in _RETRYABLE and image.source != "test",
        )


def _by_day(
    site: Site, which: ImageFilter, images: list[Image]
) -> list[tuple[Image, int, list[Image]]]:
    """Return for each day one of its images, how many it has in all, and those on this page."""
    days = []
    for day, group in groupby(images, lambda i: i.captured_at.astimezone(site.timezone).date()):
        of_day = list(group)
        since, until = day_bounds(day, site.timezone)
        count = site.catalog.count(ImageFilter(which.camera, which.state, since, until))
        days.append((of_day[0], count, of_day))
    return days


def _add_uploads(pages: Blueprint, site: Site) -> None:
    @pages.get("/uploads")
    def uploads() -> str:
        status = site.status.status()
        return render_template(
            "uploads.html",
            upload=status["upload"],
            light=next(x for x in words.lights(status, site.timezone) if x.key == "uploads"),
            pending=site.catalog.oldest_pending(_LISTED),
            rejected=site.catalog.images(ImageFilter(state="rejected"), limit=_LISTED),
            totals=site.catalog.totals().by_state,
        )

    @pages.post("/uploads/retry")
    def retry() -> Response:
        retried = site.retry(request.form.get("filename") or None)
        return redirect(url_for("pages.uploads", said="retried", n=retried), 303)

    @pages.post("/uploads/resolve-unknown")
    def resolve_unknown() -> Response:
        changed = site.resolve_unknown(request.form.get("action"))
        return redirect(url_for("pages.uploads", said="resolved", n=changed), 303)


def _add_system(pages: Blueprint, site: Site) -> None:
    @pages.get("/system")
    def system() -> str:
        return render_template(
            "system.html",
            status=site.status.status(),
            stats=site.status.stats(),
            failed=site.catalog.events("failed", limit=20),
            failed_total=site.catalog.totals().events["failed"],
        )

    @pages.get("/cleanup")
    def cleanup() -> str:
        return render_template("cleanup.html", report=site.actions.preview_cleanup())

    @pages.post("/cleanup")
    def run_cleanup() -> Response:
        deleted = site.run_cleanup().deleted
        return redirect(url_for("pages.system", said="cleaned", n=deleted), 303)
