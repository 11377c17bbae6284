"""`bronze.campaigns`: households addressed by a campaign, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, Column, Layer, Load, Pii, Table

campaigns = Table(
    layer=Layer.BRONZE,
    name="campaigns",
    doc="Households addressed by a campaign, as they landed",
    grain="one row per campaign and household",
    owner="data-platform",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("campaign_id", LONG, "Campaign", required=True),
        Column("household_id", LONG, "Household that shops", required=True, pii=Pii.PSEUDONYM),
        *AUDIT_COLUMNS,
    ),
)
