"""Gold: one module a feature table, each with `features(...)`: pure PySpark from silver DataFrames to the columns of its contract.

`windows` holds what they share: how purchases enter and leave a sliding window, and which midnights a change of the past concerns.
"""
