"""What a file's name tells, of itself and of its image."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from store.catalog import Catalog
from store.rows import parse_name
from tests.rigs.stores import NOON, save, storage_config


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("r1_1698765432.jpg", ("r1", 1698765432)),
        ("r1_1698765432_2.jpg", ("r1", 1698765432)),
        ("r1_1698765432_b3.jpg", ("r1", 1698765432)),
        ("r1_1698765432_2_b3.jpg", ("r1", 1698765432)),
        ("gate-north_0.jpg", ("gate-north", 0)),
        ("r1_1698765432.jpeg", None),
        ("R1_1698765432.jpg", None),
        ("r1_1698765432.jpg\n", None),
        ("r1_١٢٣.jpg", None),
        (".r1_1698765432.jpg.tmp", None),
        ("r1_.jpg", None),
        ("../r1_1.jpg", None),
        ("a" * 17 + "_1.jpg", None),
        ("", None),
    ],
)
def test_names_tell_camera_and_second(name: str, parsed: tuple[str, int] | None) -> None:
    assert parse_name(name) == parsed


def test_an_image_tells_the_time_of_its_name(tmp_path: Path) -> None:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    image = save(catalog, NOON.replace(microsecond=654321))
    catalog.close()
    assert image.named_at == NOON
    corrected = replace(image, captured_at=datetime(2027, 1, 1, tzinfo=UTC))
    assert corrected.named_at == NOON
    assert replace(image, filename="IMG_0001.jpg").named_at is None
