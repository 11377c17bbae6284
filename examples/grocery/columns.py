"""Columns that several tables share. Households are customers from silver on."""

from contracts.model import DATE, LONG, Column, Pii

CUSTOMER_ID = Column(
    "customer_id",
    LONG,
    "Customer: the household that shops",
    required=True,
    minimum=1,
    pii=Pii.PSEUDONYM,
    source="household_id",
)
PRODUCT_ID = Column("product_id", LONG, "Product", required=True, minimum=1)
STORE_ID = Column("store_id", LONG, "Store", required=True, minimum=1)
CAMPAIGN_ID = Column("campaign_id", LONG, "Campaign", required=True, minimum=1)
COUPON_UPC = Column("coupon_upc", LONG, "Coupon's product code", required=True, minimum=1)
WEEK = Column(
    "week",
    LONG,
    "Week of the study: 1 is 2017-01-01, then Monday to Sunday in the shops' own time",
    required=True,
    minimum=1,
)


def landed(name: str, doc: str) -> Column:
    """The date of the folder: of a snapshot, the date of the state that it holds."""
    return Column(name, DATE, doc, required=True, source="_landed_date")
