"""`bronze.members`: holders of a card, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, Column, Layer, Load, Pii, Table

members = Table(
    layer=Layer.BRONZE,
    name="members",
    doc="Holders of a card, as they landed",
    grain="one row per card and snapshot",
    owner="crm",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("card_id", LONG, "Card of the guest", required=True, pii=Pii.PSEUDONYM),
        Column("age_band", STRING, "Age band", pii=Pii.QUASI),
        Column("tier", STRING, "Tier of the card"),
        Column("party_size", STRING, "Number of persons, 5+ at most", pii=Pii.QUASI),
        Column("children", STRING, "Number of children, 3+ at most", pii=Pii.QUASI),
        *AUDIT_COLUMNS,
    ),
)
