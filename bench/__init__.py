"""Ratios against peers and limits, measured in one run: `make bench`. Nothing here asserts; what was learned is in
docs/benchmarks.md.
"""
