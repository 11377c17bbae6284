"""`silver.transactions`: what customers bought, one row per basket and product."""

from datetime import timedelta

from contracts.model import LONG, MONEY, TIMESTAMP, Column, Layer, Reference, Rule, Severity, Table
from grocery.columns import CUSTOMER_ID, PRODUCT_ID, STORE_ID, WEEK

transactions = Table(
    layer=Layer.SILVER,
    name="transactions",
    doc="What customers bought",
    grain="one row per basket and product",
    owner="data-platform",
    freshness=timedelta(days=1),
    inputs=("bronze.transactions",),
    key=("basket_id", "product_id"),
    time_column="transaction_at",
    columns=(
        Column("basket_id", LONG, "Shopping trip", required=True, minimum=1),
        PRODUCT_ID,
        CUSTOMER_ID,
        STORE_ID,
        Column("transaction_at", TIMESTAMP, "When the basket was paid", required=True, source="transaction_timestamp"),
        WEEK,
        Column("quantity", LONG, "Units bought", required=True, minimum=0),
        Column(
            "sales_value", MONEY, "What the retailer received, after discounts", required=True, minimum=0, unit="USD"
        ),
        Column("retail_disc", MONEY, "Discount from the loyalty card", required=True, minimum=0, unit="USD"),
        Column("coupon_disc", MONEY, "Discount from a manufacturer's coupon", required=True, minimum=0, unit="USD"),
        Column("coupon_match_disc", MONEY, "The retailer's match of the coupon", required=True, minimum=0, unit="USD"),
    ),
    rules=(Rule("quantity_positive", "quantity <> 0", "quantity is 0", Severity.WARNING),),
    references=(Reference(("product_id",), "silver.products", ("product_id",)),),
)
