"""`bronze.transactions`: purchases at the till, as they landed, and as the topic `transactions` brings them."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS, STREAM_COLUMNS
from contracts.model import DOUBLE, LONG, MONEY, TIMESTAMP, Column, Layer, Pii, Rule, Table, Topic


def _amount(name: str, doc: str) -> Column:
    """Money that silver's type can hold. Its quarantine would show a larger number as NULL."""
    return Column(name, DOUBLE, doc, required=True, minimum=-MONEY.largest, maximum=MONEY.largest, unit="USD")


transactions = Table(
    layer=Layer.BRONZE,
    name="transactions",
    doc="Purchases at the till, as they landed",
    grain="one row per basket and product, once per file or message",
    owner="data-platform",
    freshness=timedelta(days=1),
    topic=Topic("transactions"),
    time_column="transaction_timestamp",
    columns=(
        Column("household_id", LONG, "Household that shops", required=True, pii=Pii.PSEUDONYM),
        Column("store_id", LONG, "Store", required=True),
        Column("basket_id", LONG, "Shopping trip", required=True),
        Column("product_id", LONG, "Product", required=True),
        Column("quantity", LONG, "Units bought", required=True),
        _amount("sales_value", "What the retailer received"),
        _amount("retail_disc", "Discount from the loyalty card"),
        _amount("coupon_disc", "Discount from a manufacturer's coupon"),
        _amount("coupon_match_disc", "Retailer's match of the coupon"),
        Column("week", LONG, "Week of the study, from 1", required=True),
        Column("transaction_timestamp", TIMESTAMP, "When the basket was paid, UTC", required=True),
        *AUDIT_COLUMNS,
        *STREAM_COLUMNS,
    ),
    rules=(
        Rule(
            "not_after_landing",
            "CAST(transaction_timestamp AS DATE) <= _landed_date",
            "the transaction lies after the day its file landed",
        ),
    ),
)
