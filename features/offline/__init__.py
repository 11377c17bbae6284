"""The offline store: as-of joins of labels with a release by DuckDB, data frames or Spark; saved datasets; table
profiles.
"""
