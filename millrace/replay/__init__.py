"""Replay a day through Kafka, and compare what was served meanwhile with what the batch computes: `millrace stream
replay`, `make stream`.

The day is the one after the newest release. A project's `replay.py` makes its events; nothing else here knows what they
are.
"""
