"""`silver.customers`: what customers said about themselves, each snapshot kept so that a profile can be read as of any
day.
"""

from datetime import timedelta

from contracts.model import STRING, Column, Layer, Load, Pii, Severity, Table
from grocery.columns import CUSTOMER_ID, landed


def _band(name: str, doc: str, *allowed: str) -> Column:
    return Column(name, STRING, doc, allowed=allowed, pii=Pii.QUASI, severity=Severity.WARNING)


AGE = _band("age", "Age band in years", "19-24", "25-34", "35-44", "45-54", "55-64", "65+")
INCOME = _band(
    "income",
    "Income band in USD a year",
    *(
        "Under 15K",
        "15-24K",
        "25-34K",
        "35-49K",
        "50-74K",
        "75-99K",
        "100-124K",
        "125-149K",
        "150-174K",
        "175-199K",
        "200-249K",
        "250K+",
    ),
)
HOUSEHOLD_SIZE = _band("household_size", "Number of persons", "1", "2", "3", "4", "5+")
KIDS_COUNT = _band("kids_count", "Number of children", "0", "1", "2", "3+")

customers = Table(
    layer=Layer.SILVER,
    name="customers",
    doc="What customers said about themselves",
    grain="one row per customer and snapshot",
    owner="crm",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    inputs=("bronze.demographics",),
    key=("customer_id", "snapshot_date"),
    columns=(
        CUSTOMER_ID,
        landed("snapshot_date", "Date of the survey's snapshot"),
        AGE,
        INCOME,
        _band("home_ownership", "Owner or renter", "Homeowner", "Renter", "Probable Homeowner", "Probable Renter"),
        _band("marital_status", "Marital status", "Married", "Unmarried"),
        HOUSEHOLD_SIZE,
        _band("household_comp", "Composition", "1 Adult Kids", "1 Adult No Kids", "2 Adults Kids", "2 Adults No Kids"),
        KIDS_COUNT,
    ),
)
