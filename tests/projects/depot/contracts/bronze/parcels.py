"""`bronze.parcels`: parcels, pulled from the depot's database whenever they change."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import DOUBLE, LONG, STRING, TIMESTAMP, Column, Database, Layer, Load, Table

parcels = Table(
    layer=Layer.BRONZE,
    name="parcels",
    doc="Parcels, pulled whenever they change",
    grain="one row per parcel and pull",
    owner="depot",
    freshness=timedelta(days=1),
    load=Load.CHANGES,
    database=Database("depot", "public.parcels", cursor="changed_at", overlap=timedelta(minutes=10)),
    key=("id",),
    time_column="sent_at",
    columns=(
        Column("id", LONG, "Parcel", required=True),
        Column("customer", STRING, "Customer"),
        Column("sent_at", TIMESTAMP, "When it was sent", required=True),
        Column("weight", DOUBLE, "Weight", unit="kg"),
        Column("label", STRING, "What is written on it"),
        Column("changed_at", TIMESTAMP, "When the row was changed"),
        *AUDIT_COLUMNS,
    ),
)
