"""Training sets: labels joined with the rows of a release as of each label's instant, by DuckDB, data frames or Spark;
kept, read back and profiled.
"""
