"""The day that `make stream` replays: real purchases of the same weekday of the sample, re-dated.

Day after day follows the newest release. A day takes the purchases of 52 weeks before it, or of twice as many, and so
on, from the landing zone. Baskets get ids of their own; one in a hundred moves to the day before, as if its till had
been offline.
"""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from typing import Any

from grocery import landing
from lake import settings, storage
from millrace.replay.schedule import Event

TABLE = "bronze.transactions"
SHOWN = tuple(f"customer_velocity:{name}" for name in ("purchases_1h", "amount_1h", "purchases_24h", "amount_24h"))
"""The features of the busiest customer, which the replay shows."""
WEEKS = 52
BASKETS = 10**12
"""Added to a basket's id for each 52 weeks: the sample's ids have 11 digits."""
OFFLINE_TILL = 100


class NotLandedError(LookupError):
    """The sample has not landed."""


def events(day: date) -> list[Event]:
    """The purchases of a day after the sample, one per basket and product, in the order of their times."""
    import pyarrow.parquet as pq

    periods = periods_before(day)
    source = day - periods * timedelta(weeks=WEEKS)
    path = settings.landing() / "transactions" / str(source) / "transactions.parquet"
    content = storage.read(path)
    if content is None:
        raise NotLandedError(f"there is no {path}. Land the sample first: make demo")
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    return sorted((event(row, periods) for row in rows), key=lambda made: made.at)


def periods_before(day: date) -> int:
    """How many times 52 weeks lie between a day and the one whose purchases it replays. ValueError for a day of the
    sample.
    """
    if day < landing.INTERVAL.end:
        raise ValueError(f"{day} is a day of the sample. A replay begins with {landing.INTERVAL.end}")
    return (day - landing.INTERVAL.end).days // (7 * WEEKS) + 1


def event(row: dict[str, Any], periods: int) -> Event:
    """A landed purchase, 52 weeks later for each period."""
    at = row["transaction_timestamp"].replace(tzinfo=UTC) + periods * timedelta(weeks=WEEKS)
    if row["basket_id"] % OFFLINE_TILL == 0:
        at -= timedelta(days=1)
    moved = {
        **row,
        "basket_id": row["basket_id"] + periods * BASKETS,
        "week": row["week"] + periods * WEEKS,
        "transaction_timestamp": spelled(at),
    }
    entities = {"customer_id": row["household_id"], "store_id": row["store_id"], "product_id": row["product_id"]}
    return Event(at, str(row["household_id"]), moved, entities)


def spelled(at: datetime) -> str:
    """An instant as messages have it."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
