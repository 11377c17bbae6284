"""Benchmarks and comparisons: ratios to peers, measured in one run. Results are in docs/benchmarks.md."""
