"""Two days of the sample's shop, as the code that left the archive landed them, and what comes later."""

from grocery.tests.shop import Shop, purchase


def land(shop: Shop) -> None:
    """Two days with what a till gets wrong: doubled and broken rows, unknown products, NULLs, odd letters, half
    cents.
    """
    shop.land(
        "transactions",
        [
            purchase(10, sales_value=1.005, coupon_disc=5.55e-17),
            purchase(10, sales_value=1.005, coupon_disc=5.55e-17),
            purchase(11, product=999, at="2017-03-02 23:59:59.999999"),
            purchase(12, quantity=0, at="2017-03-02"),
            purchase(13, quantity=-1, at="2017-03-02 12:00"),
            purchase(14, at="2017-03-02 12:00") | {"household_id": None},
            purchase(15, sales_value=1e300, at="2017-03-02 12:00"),
        ],
        day="2017-03-02",
    )
    shop.land(
        "products",
        [
            {
                "product_id": 3,
                "manufacturer_id": 5,
                "department": "Ä\U0001f33e'",
                "brand": "National",
                "package_size": "",
            }
        ],
        day="2017-03-02",
    )


def land_more(shop: Shop) -> None:
    """What comes later: another day, a late file for a day that is done, a promotion."""
    shop.land(
        "transactions",
        [purchase(20, customer=2, at="2017-03-04 08:00"), purchase(10, at="2017-03-04 09:00")],
        day="2017-03-04",
    )
    shop.land("transactions", [purchase(21, product=3, at="2017-03-01 08:00")], day="2017-03-03")
    shop.land(
        "promotions",
        [{"product_id": 2, "store_id": 10, "display_location": "0", "mailer_location": "A", "week": 10}],
        day="2017-03-04",
    )
