"""`gold.guest_activity`: how much and how often a guest has booked lately."""

from cinema.columns import GUEST_ID
from cinema.contracts.silver.tickets import tickets

from contracts.aggregations import Distinct, Latest, Ratio, Sum, days, feature_table

guest_activity = feature_table(
    name="guest_activity",
    doc="How much and how often a guest has booked lately",
    owner="ml-platform",
    grain="one row per guest and midnight at which a window changes",
    key=(GUEST_ID,),
    events=tickets,
    aggregations=(
        Sum("paid", "paid", windows=days(7, 30, 90)),
        Sum("seats", "seats", windows=days(7, 30, 90), unit="seats"),
        Distinct("bookings", "booking_id", windows=days(7, 30, 90), doc="Distinct bookings", unit="bookings"),
        Ratio(
            "saved_share",
            part=Sum(of="saved"),
            whole=Sum(of="paid + saved"),
            windows=days(30),
            meaning="Discounts / (paid + discounts) over {window}, 0 when nothing was paid",
            minimum=0,
            maximum=1,
        ),
        Latest("last_booked_at", doc="Newest ticket"),
    ),
)
