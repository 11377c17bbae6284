"""Kill what carries messages into online features, at random, and compare what is served with a loop in Python.

`rounds` makes messages and says what they count for, `processes` starts, kills and stops what runs, `run` draws faults
and compares. See docs/chaos.md.
"""
