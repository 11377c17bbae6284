"""Write landed files row by row, and read tables back as rows; and a landing zone of the sample that is small enough to
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from lake import storage

DAY = date(2017, 3, 1)


@dataclass
class LandingZone:
    """A landing zone at `root`. A subclass says what columns the files of its project have."""

    root: Path
    columns: ClassVar[Mapping[str, pa.Schema]] = {}
    """Table -> the columns of its files."""

    def path(self, table: str, day: date | str = DAY, name: str | None = None, suffix: str = ".parquet") -> Path:
        """Where a file lies, whether it exists or not."""
        return self.root / table / str(day) / f"{name or table}{suffix}"

    def land(
        self,
        table: str,
        rows: list[dict[str, Any]] | pa.Table,
        day: date | str = DAY,
        name: str | None = None,
        suffix: str = ".parquet",
    ) -> Path:
        """Write a file of these rows; columns that a row does not give are NULL. Give an Arrow table for columns of
        another shape.
        """
        path = self.path(table, day, name, suffix)
        storage.make_folder(path.parent)
        data = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=self.columns[table])
        with path.open("wb") as file:
            (csv.write_csv if suffix == ".csv" else pq.write_table)(data, file)
        return path


COLUMNS = {
    "transactions": pa.schema(
        [
            *((name, pa.int64()) for name in ("household_id", "store_id", "basket_id", "product_id", "quantity")),
            *((name, pa.float64()) for name in ("sales_value", "retail_disc", "coupon_disc", "coupon_match_disc")),
            ("week", pa.int64()),
            ("transaction_timestamp", pa.timestamp("us")),
        ]
    ),
    "promotions": pa.schema(
        [
            ("product_id", pa.int64()),
            ("store_id", pa.int64()),
            ("display_location", pa.string()),
            ("mailer_location", pa.string()),
            ("week", pa.int64()),
        ]
    ),
    "products": pa.schema(
        [
            ("product_id", pa.int64()),
            ("manufacturer_id", pa.int64()),
            *(
                (name, pa.string())
                for name in ("department", "brand", "product_category", "product_type", "package_size")
            ),
        ]
    ),
    "demographics": pa.schema(
        [
            ("household_id", pa.int64()),
            *(
                (name, pa.string())
                for name in (
                    "age",
                    "income",
                    "home_ownership",
                    "marital_status",
                    "household_size",
                    "household_comp",
                    "kids_count",
                )
            ),
        ]
    ),
    "campaigns": pa.schema([("campaign_id", pa.int64()), ("household_id", pa.int64())]),
    "campaign_descriptions": pa.schema(
        [
            ("campaign_id", pa.int64()),
            ("campaign_type", pa.string()),
            ("start_date", pa.date32()),
            ("end_date", pa.date32()),
        ]
    ),
    "coupons": pa.schema([("coupon_upc", pa.int64()), ("product_id", pa.int64()), ("campaign_id", pa.int64())]),
    "redemptions": pa.schema(
        [
            ("household_id", pa.int64()),
            ("coupon_upc", pa.int64()),
            ("campaign_id", pa.int64()),
            ("redemption_date", pa.date32()),
        ]
    ),
}
"""The landed files' own columns and types."""


def purchase(
    basket: int, product: int = 1, customer: int = 1, at: datetime | str = "2017-03-01 10:00:00", **other: Any
) -> dict[str, Any]:
    """A valid row of transactions: 2 units for 3.00 after 0.50 off."""
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    row = {
        "household_id": customer,
        "store_id": 10,
        "basket_id": basket,
        "product_id": product,
        "quantity": 2,
        "sales_value": 3.0,
        "retail_disc": 0.5,
        "coupon_disc": 0.0,
        "coupon_match_disc": 0.0,
        "week": 10,
        "transaction_timestamp": moment,
    }
    return {**row, **other}


class Shop(LandingZone):
    """A landing zone of the grocery."""

    columns = COLUMNS

    @classmethod
    def open(cls, root: Path) -> Shop:
        """One valid file of each table on 2017-03-01: two products, two customers, two purchases."""
        shop = cls(root)
        shop.land(
            "products",
            [{"product_id": n, "manufacturer_id": 5, "department": "GROCERY", "brand": "National"} for n in (1, 2)],
        )
        shop.land(
            "demographics",
            [
                {"household_id": n, "age": "25-34", "income": "50-74K", "household_size": "2", "kids_count": "0"}
                for n in (1, 2)
            ],
            suffix=".csv",
        )
        shop.land("campaigns", [{"campaign_id": 1, "household_id": 1}], suffix=".csv")
        days = {"start_date": date(2017, 3, 1), "end_date": date(2017, 3, 31)}
        shop.land("campaign_descriptions", [{"campaign_id": 1, "campaign_type": "Type A", **days}], suffix=".csv")
        shop.land("coupons", [{"coupon_upc": 100, "product_id": 1, "campaign_id": 1}], suffix=".csv")
        shop.land(
            "redemptions",
            [{"household_id": 1, "coupon_upc": 100, "campaign_id": 1, "redemption_date": DAY}],
            suffix=".csv",
        )
        shop.land(
            "promotions",
            [{"product_id": 1, "store_id": 10, "display_location": "5", "mailer_location": "0", "week": 10}],
        )
        shop.land("transactions", [purchase(1), purchase(2, product=2, customer=2)])
        return shop


def rows(qualified: str, order: str = "ALL", version: int | None = None, where: str = "true") -> list[dict[str, Any]]:
    """The published rows of a table (or a quarantine table), sorted; read by DuckDB, not by the engine under test."""
    import duckdb
    from deltalake import DeltaTable

    from lake import settings

    table = DeltaTable(str(settings.table_path(qualified)), version=version)
    files = table.file_uris()
    if not files:
        return []
    with duckdb.connect() as con:
        con.execute("SET TimeZone='UTC'")
        return (
            con.sql(f"SELECT * FROM read_parquet(?) WHERE {where} ORDER BY {order}", params=[files])
            .to_arrow_table()
            .to_pylist()
        )


def versions() -> dict[str, int]:
    """The newest version of every table in the lake, quarantine included."""
    from deltalake import DeltaTable

    from lake import settings

    logs = settings.lake().glob("*/*/_delta_log")
    return {f"{log.parent.parent.name}.{log.parent.name}": DeltaTable(str(log.parent)).version() for log in logs}
