"""A landing zone of the sample that is small enough to read."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.landing import DAY, LandingZone

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
