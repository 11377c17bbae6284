"""A few days of a small cinema, carried into lakes that are then compared: what every engine and every store has to do
alike.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.parity import compared
from contracts import catalog
from contracts.model import Layer
from lake import settings
from millrace import pipeline
from tests.cinema import Cinema, ticket
from tests.landing import rows

FIRST = ("2017-03-01", "2017-03-03")
THEN = ("2017-03-03", "2017-03-05")


def land(cinema: Cinema) -> None:
    """Two days with what a till gets wrong: doubled and broken rows, unknown movies, NULLs, odd letters, half
    cents.
    """
    cinema.land(
        "tickets",
        [
            ticket(10, paid=1.005, saved=5.55e-17),
            ticket(10, paid=1.005, saved=5.55e-17),
            ticket(11, movie=999, at="2017-03-02 23:59:59.999999"),
            ticket(12, seats=0, at="2017-03-02"),
            ticket(13, seats=-1, at="2017-03-02 12:00"),
            ticket(14, at="2017-03-02 12:00") | {"card_id": None},
            ticket(15, paid=1e300, at="2017-03-02 12:00"),
        ],
        day="2017-03-02",
    )
    cinema.land(
        "movies",
        [
            {
                "movie_id": 3,
                "studio_id": 5,
                "genre": "Ä\U0001f33e'",
                "length": "Feature",
                "title": "",
            }
        ],
        day="2017-03-02",
    )


def land_more(cinema: Cinema) -> None:
    """What comes later: another day, a late file for a day that is done, a showcase."""
    cinema.land(
        "tickets",
        [ticket(20, guest=2, at="2017-03-04 08:00"), ticket(10, at="2017-03-04 09:00")],
        day="2017-03-04",
    )
    cinema.land("tickets", [ticket(21, movie=3, at="2017-03-01 08:00")], day="2017-03-03")
    cinema.land(
        "showcases",
        [{"movie_id": 2, "venue_id": 10, "trailer_slot": "0", "poster_slot": "A", "show_week": 10}],
        day="2017-03-04",
    )


def keep_only(monkeypatch: pytest.MonkeyPatch, *qualified: str) -> None:
    """A catalog of these tables and of what they are built from: on Spark every table costs seconds."""
    every, waiting = catalog.tables, [*qualified]
    kept: set[str] = set()
    while waiting:
        kept.add(name := waiting.pop())
        waiting += {*pipeline.needs(catalog.table(name))} - kept
    monkeypatch.setattr(
        catalog, "tables", lambda layer=None: tuple(table for table in every(layer) if table.qualified in kept)
    )


def carry(monkeypatch: pytest.MonkeyPatch, engine: str, lake: Path | str, interval: tuple[str, str]) -> dict[str, Any]:
    """Run on an engine into a lake; the row accounts by table."""
    monkeypatch.setenv("MILLRACE_ENGINE", engine)
    monkeypatch.setenv("MILLRACE_LAKE", str(lake))
    return {report.table: report.account for report in pipeline.run_all(*interval, "test")}


def differing(one: Path, other: Path) -> list[str]:
    """Tables whose rows are not the same in both lakes."""
    return [
        found.table
        for found in (compared(table, {"one": one, "other": other}) for table in catalog.tables())
        if not found.equal
    ]


def quarantined() -> Counter:
    """Rejected rows of every table, without the times at which they were loaded and rejected."""
    found: Counter = Counter()
    for path in sorted((settings.lake() / Layer.QUARANTINE).iterdir()):
        found.update(
            (path.name, str(row["day"]), row["file"], tuple(sorted(row["reasons"])), _without_clock(row["row"]))
            for row in rows(f"quarantine.{path.name}")
        )
    return found


def _without_clock(row: str) -> str:
    return str({name: value for name, value in json.loads(row).items() if name != "_loaded_at"})


WRITER = """
import sys
from lake import delta, publishing
from etl.commits import committer
from lake.delta import CommitMetadata
from tests.unit.etl.visits import VISITS, staged, visit
first, count, run = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for number in range(first, first + count):
    with publishing.locked("silver.visits"):
        base = delta.version_of("silver.visits")
        committer().publish(VISITS, [staged(visit(number), name=run)], CommitMetadata(run), base=base)
"""
"""A process that commits rows `first` to `first + count - 1` one by one, as run `run`: its three arguments."""
