"""`bronze.campaign_descriptions`: campaigns, their type and their days, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, TIMESTAMP, Column, Layer, Load, Table

campaign_descriptions = Table(
    layer=Layer.BRONZE,
    name="campaign_descriptions",
    doc="Campaigns, their type and their days, as they landed",
    grain="one row per campaign",
    owner="data-platform",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("campaign_id", LONG, "Campaign", required=True),
        Column("campaign_type", STRING, "Type A, B or C"),
        Column("start_date", TIMESTAMP, "First day"),
        Column("end_date", TIMESTAMP, "Last day"),
        *AUDIT_COLUMNS,
    ),
)
