"""Gold: feature rows from silver DataFrames, by a declaration of aggregations or by the project's `features(...)`."""
