"""HOW rows move: landed files -> bronze -> silver -> gold. Transforms are pure PySpark; staging, publishing and the
engine are told which table.

What a table promises is in `contracts`; whether it keeps it is judged in `expectations`; when it runs is decided in
`dags`.
"""
