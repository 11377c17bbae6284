"""`bronze.demographics`: households that answered the survey, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, Column, Layer, Load, Pii, Table

demographics = Table(
    layer=Layer.BRONZE,
    name="demographics",
    doc="Households that answered the survey, as they landed",
    grain="one row per household and snapshot",
    owner="data-platform",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("household_id", LONG, "Household that shops", required=True, pii=Pii.PSEUDONYM),
        Column("age", STRING, "Age band", pii=Pii.QUASI),
        Column("income", STRING, "Income band", pii=Pii.QUASI),
        Column("home_ownership", STRING, "Owner or renter", pii=Pii.QUASI),
        Column("marital_status", STRING, "Marital status", pii=Pii.QUASI),
        Column("household_size", STRING, "Number of persons, 5+ at most", pii=Pii.QUASI),
        Column("household_comp", STRING, "Composition", pii=Pii.QUASI),
        Column("kids_count", STRING, "Number of children, 3+ at most", pii=Pii.QUASI),
        *AUDIT_COLUMNS,
    ),
)
