"""HOW rows move: landed files -> bronze -> silver -> gold. Transforms are pure PySpark; planning, staging and the
engine work for any table.

`contracts` declares what a table promises, `expectations` checks it, and `dags` decides when it runs.
"""
