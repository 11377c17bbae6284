"""The point-in-time join by looking at every row for every label: what each implementation is compared with.

Rows and labels are dicts. Instants are aware datetimes under `event_timestamp` and `created`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

Row = dict[str, Any]
NEVER = datetime.min.replace(tzinfo=UTC)


def joined(
    rows: Sequence[Row], labels: Sequence[Row], keys: dict[str, str], features: Sequence[str], ttl: timedelta
) -> list[list[tuple[Any, ...]]]:
    """For each label the answers that are right: one, or several where the newest rows tie in everything that decides.

    `keys` maps what rows call a key to what labels call it. A ttl of zero is none.
    """
    return [_answers(rows, label, keys, features, ttl) for label in labels]


def _answers(
    rows: Sequence[Row], label: Row, keys: dict[str, str], features: Sequence[str], ttl: timedelta
) -> list[tuple[Any, ...]]:
    past = [row for row in rows if _same(row, label, keys) and _known(row["event_timestamp"], label["event_timestamp"])]
    if not past:
        return [(None,) * len(features)]
    newest = max(map(_rank, past))
    if ttl and label["event_timestamp"] - newest[0] > ttl:
        return [(None,) * len(features)]
    return [tuple(row[name] for name in features) for row in past if _rank(row) == newest]


def _same(row: Row, label: Row, keys: dict[str, str]) -> bool:
    return all(row[ours] is not None and row[ours] == label[theirs] for ours, theirs in keys.items())


def _known(told: datetime | None, asked: datetime | None) -> bool:
    return told is not None and asked is not None and told <= asked


def _rank(row: Row) -> tuple[datetime, bool, datetime]:
    """The later event counts, then the later creation; what was created at no known time is oldest."""
    created = row.get("created")
    return row["event_timestamp"], created is not None, created or NEVER
