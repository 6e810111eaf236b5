"""Many rows, in short; `make torture-size` measures it at full size.

What is counted here is work, not time: the instructions that SQLite's machine takes for a question.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.catalog import Catalog
from tests.rigs.stores import storage_config
from tests.torture.size import fill, make_due, questions, start

IMAGES = 20_000
PENDING = 10_000
STEPS_LIMIT = 20_000
"""A page of 61 rows takes 5,000; to look at each row of the table would take 100,000."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    config = storage_config(tmp_path_factory.mktemp("size"))
    fill(config, IMAGES, PENDING)
    catalog = Catalog.open_owner(config)
    yield catalog
    catalog.close()


def steps(catalog: Catalog, ask: Callable[[], object]) -> int:
    """Return how many hundreds of instructions a question takes, times a hundred."""
    catalog._db.query("SELECT 1")
    connection: sqlite3.Connection = catalog._db._local.connection
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 100
        return 0

    connection.set_progress_handler(count, 100)
    try:
        ask()
    finally:
        connection.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize("due", [False, True])
def test_no_question_looks_at_every_row(catalog: Catalog, due: bool) -> None:
    if due:
        make_due(catalog)
    too_many = {
        f"{kind}: {name}": taken
        for kind, asked in questions(catalog, IMAGES).items()
        for name, ask in asked
        if (taken := steps(catalog, ask)) > STEPS_LIMIT
    }
    assert too_many == {}


def test_a_question_that_looks_at_every_row_is_noticed(catalog: Catalog) -> None:
    def ask() -> object:
        return catalog._db.query("SELECT count(*) FROM images WHERE attempts = 2")

    assert steps(catalog, ask) > STEPS_LIMIT


def test_the_daemon_starts_on_it(tmp_path: Path) -> None:
    assert len(start(tmp_path, 2_000, 500)) == 3
