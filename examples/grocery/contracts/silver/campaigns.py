"""`silver.campaigns`: which customer was addressed by which campaign, and when it ran."""

from datetime import timedelta

from contracts.model import DATE, STRING, Column, Layer, Load, Rule, Severity, Table
from grocery.columns import CAMPAIGN_ID, CUSTOMER_ID

campaigns = Table(
    layer=Layer.SILVER,
    name="campaigns",
    doc="Customers addressed by a campaign, and when it ran",
    grain="one row per campaign and customer",
    owner="marketing",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    inputs=("bronze.campaigns", "bronze.campaign_descriptions"),
    key=("campaign_id", "customer_id"),
    columns=(
        CAMPAIGN_ID,
        CUSTOMER_ID,
        Column(
            "campaign_type",
            STRING,
            "Type of campaign",
            allowed=("Type A", "Type B", "Type C"),
            severity=Severity.WARNING,
        ),
        Column("start_date", DATE, "First day"),
        Column("end_date", DATE, "Last day"),
    ),
    rules=(
        Rule("ends_after_start", "start_date <= end_date", "the campaign ends before it starts"),
        Rule("described", "campaign_type IS NOT NULL", "the campaign has no description", Severity.WARNING),
    ),
)
