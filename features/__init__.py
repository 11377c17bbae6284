"""Gold contract -> Feast: views and services, the offline and online stores, materialization.

Everything is derived from `contracts` at run time. No transform and no schedule belongs here; only Feast, Delta, DuckDB
and sqlite are known.
"""
