"""`gold.guest_profile`: what is known about a guest from the newest snapshot. A plain transform, without windows."""

from datetime import timedelta

from cinema.columns import GUEST_ID
from cinema.contracts.silver.guests import AGE_BAND, CHILDREN, PARTY_SIZE, TIER

from contracts.columns import AT_MIDNIGHT, EVENT_TIMESTAMP
from contracts.model import Layer, Load, Table

guest_profile = Table(
    layer=Layer.GOLD,
    name="guest_profile",
    doc="What is known about a guest from the newest snapshot",
    grain="one row per guest and snapshot",
    owner="ml-platform",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    inputs=("silver.guests",),
    key=("guest_id", "event_timestamp"),
    columns=(GUEST_ID, EVENT_TIMESTAMP, AGE_BAND, TIER, PARTY_SIZE, CHILDREN),
    rules=(AT_MIDNIGHT,),
)
