"""Contract -> Great Expectations suite; run it on staged rows; split off the rows to quarantine; render Data Docs.

Inputs and outputs are Spark DataFrames: where they are stored is up to the caller.
"""
