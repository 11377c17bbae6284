"""Gold contract -> Feast: views and services, the offline and online stores, materialization.

Everything is derived from `contracts` at run time. Transforms and schedules do not belong here.
"""
