"""Columns that several tables share."""

from contracts.model import STRING, Column, Pii

CUSTOMER = Column("customer", STRING, "Customer", required=True, pii=Pii.PSEUDONYM)
