"""Contract -> Great Expectations suite; run it on what was staged; split off the rows to quarantine; render Data Docs.

Only Spark DataFrames come in and go out: where they lie and what becomes of them is not known here.
"""
