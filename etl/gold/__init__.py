"""Gold: feature rows from silver DataFrames, by declared aggregations or by the project's `features(...)`."""
