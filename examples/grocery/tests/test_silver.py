"""Silver of the shop on a few rows: campaigns with their descriptions, redemptions of a day."""

from datetime import UTC, date, datetime

import pytest

from contracts import catalog
from contracts.model import Layer, Table
from etl import stage
from tests.silver import FRESH, bronze, clean, out


def test_a_campaign_takes_its_days_from_its_newest_description() -> None:
    addressed = bronze("campaigns", {"campaign_id": 1, "household_id": 7})
    described = bronze(
        "campaign_descriptions",
        {
            "campaign_id": 1,
            "campaign_type": "Type B",
            "start_date": datetime(2017, 3, 2, 23, tzinfo=UTC),
            "end_date": None,
            **FRESH,
        },
        {
            "campaign_id": 1,
            "campaign_type": "Type A",
            "start_date": datetime(2017, 3, 1, tzinfo=UTC),
            "end_date": datetime(2017, 3, 9, tzinfo=UTC),
        },
    )
    assert out(clean("campaigns", addressed, described)) == [
        {
            "campaign_id": 1,
            "customer_id": 7,
            "campaign_type": "Type B",
            "start_date": date(2017, 3, 2),
            "end_date": None,
        }
    ]


def test_a_campaign_without_a_description_keeps_its_customers() -> None:
    addressed = bronze(
        "campaigns",
        {"campaign_id": 2, "household_id": 7},
        {"campaign_id": 2, "household_id": 8},
        {"campaign_id": None, "household_id": 9},
    )
    described = bronze(
        "campaign_descriptions",
        {"campaign_id": 1, "campaign_type": "Type A"},
        {"campaign_id": None, "campaign_type": "Type C"},
    )
    found = out(clean("campaigns", addressed, described), "customer_id")
    assert [(row["campaign_id"], row["customer_id"], row["campaign_type"]) for row in found] == [
        (2, 7, None),
        (2, 8, None),
        (None, 9, None),
    ]


def test_a_redemption_is_of_a_day() -> None:
    late = {
        "household_id": 7,
        "coupon_upc": 100,
        "campaign_id": 1,
        "redemption_date": datetime(2017, 3, 1, 23, 59, 59, 999999, tzinfo=UTC),
    }
    assert out(
        clean("redemptions", bronze("redemptions", late, late | {"redemption_date": None})), "redemption_date"
    ) == [
        {"customer_id": 7, "coupon_upc": 100, "campaign_id": 1, "redemption_date": None},
        {"customer_id": 7, "coupon_upc": 100, "campaign_id": 1, "redemption_date": date(2017, 3, 1)},
    ]


@pytest.mark.parametrize("table", catalog.tables(Layer.SILVER), ids=lambda table: table.name)
def test_a_clean_frame_has_the_columns_and_types_of_its_contract(table: Table) -> None:
    frame = stage.clean(table, *(bronze(name.partition(".")[2], {}) for name in table.inputs))
    assert dict(frame.dtypes) == {column.name: column.type.spark for column in table.columns} | {
        "_landed_date": "date",
        "_loaded_at": "timestamp",
        "_file": "string",
    }
