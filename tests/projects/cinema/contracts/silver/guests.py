"""`silver.guests`: what guests said about themselves, each snapshot kept so that a profile can be read as of any
day.
"""

from datetime import timedelta

from cinema.columns import GUEST_ID, landed

from contracts.model import STRING, Column, Layer, Load, Pii, Severity, Table


def _band(name: str, doc: str, *allowed: str) -> Column:
    return Column(name, STRING, doc, allowed=allowed, pii=Pii.QUASI, severity=Severity.WARNING)


AGE_BAND = _band("age_band", "Age band in years", "19-24", "25-34", "35-44", "45-54", "55-64", "65+")
TIER = _band("tier", "Tier of the card", "Blue", "Silver", "Gold")
PARTY_SIZE = _band("party_size", "Number of persons", "1", "2", "3", "4", "5+")
CHILDREN = _band("children", "Number of children", "0", "1", "2", "3+")

guests = Table(
    layer=Layer.SILVER,
    name="guests",
    doc="What guests said about themselves",
    grain="one row per guest and snapshot",
    owner="crm",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    inputs=("bronze.members",),
    key=("guest_id", "snapshot_date"),
    columns=(
        GUEST_ID,
        landed("snapshot_date", "Date of the snapshot"),
        AGE_BAND,
        TIER,
        PARTY_SIZE,
        CHILDREN,
    ),
)
