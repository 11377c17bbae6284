"""Ids of runs from the command line."""

from __future__ import annotations

from datetime import UTC, datetime


def new() -> str:
    """A new id, by which the audits and commits of a run from the command line are known."""
    return f"cli__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
