"""`silver.parcels`: parcels as they are."""

from datetime import timedelta

from contracts.model import DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Table

parcels = Table(
    layer=Layer.SILVER,
    name="parcels",
    doc="Parcels as they are",
    grain="one row per parcel",
    owner="depot",
    freshness=timedelta(days=1),
    inputs=("bronze.parcels",),
    key=("parcel_id",),
    time_column="sent_at",
    columns=(
        Column("parcel_id", LONG, "Parcel", required=True, source="id"),
        Column("customer", STRING, "Customer"),
        Column("sent_at", TIMESTAMP, "When it was sent", required=True),
        Column("weight", DOUBLE, "Weight", unit="kg"),
        Column("label", STRING, "What is written on it"),
    ),
)
