"""Silver: cleaned, deduplicated and keyed. Money is DECIMAL from here on, households are customers, and every instant is UTC."""

from contracts.model import LONG, Column, Pii

CUSTOMER_ID = Column("customer_id", LONG, "Customer: the household that shops", required=True, minimum=1, pii=Pii.PSEUDONYM)
PRODUCT_ID = Column("product_id", LONG, "Product", required=True, minimum=1)
STORE_ID = Column("store_id", LONG, "Store", required=True, minimum=1)
CAMPAIGN_ID = Column("campaign_id", LONG, "Campaign", required=True, minimum=1)
COUPON_UPC = Column("coupon_upc", LONG, "Coupon's product code", required=True, minimum=1)
WEEK = Column("week", LONG, "Week of the study: 1 is 2017-01-01, then Monday to Sunday in the shops' own time", required=True, minimum=1)
